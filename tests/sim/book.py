"""The real ledger inside the simulator: blocks are built, judged and executed by `idao.ledger`.

People register, ask for seats, are voted in, take their places and leave, while storms, crashes and a liar go
on; proven faults are reported, and the set that decides changes at h + 2.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from idao import identity
from idao.crypto import canonical, merkle, phrase
from idao.crypto.keys import Signer
from idao.errors import Malformed
from idao.ledger import block as rules
from idao.ledger import charter, epochs, faults, genesis, governance, membership
from idao.ledger import idao as people
from idao.ledger.execution import Executed, Tip
from idao.ledger.state import DictBase, State
from idao.ledger.tx import Envelope, Tx, parse_tx, sign_tx
from idao.model import Block, Certificate, Fault, Genesis, Validator, ValidatorSet, Vote
from idao.quorum import events as ev

from .tokens import Keys

if TYPE_CHECKING:
    from .node import Node

NUMBERED = 2**61
"""`valid_until` of the simulator's tx number n is NUMBERED + n: so a block says which ones it holds."""
STAKE, BOND = 1_000_000, 1_000
ROTATES = 0.1
"""How often a seat thinks of a new key. A second time it is refused: the day is too short."""
SMALLEST = 4
"""Nobody leaves a smaller set: one liar must be tolerated at any time."""


class Person:
    def __init__(self, n: int) -> None:
        seed = blake3(b"person %d" % n).digest(length=64)
        self.inception = identity.incept(seed)
        self.idao = identity.idao_id(self.inception)
        self.signer = Signer(phrase.first_key(seed))
        self.validator = Signer(blake3(b"validator %d" % n).digest())
        self.spare = Signer(blake3(b"spare %d" % n).digest())
        """What a rotation puts in its place."""
        self.certificate = blake3(b"certificate %d" % n).digest()


@lru_cache(16)
def persons(n: int) -> tuple[Person, ...]:
    """In the order of their ids: number i of a run."""
    return tuple(sorted((Person(i) for i in range(n)), key=lambda p: p.idao))


class PeopleKeys(Keys):
    """Real keys, of people with identities."""

    def __init__(self, n: int) -> None:
        super().__init__((1,) * n, real=True)
        self.people = persons(n)
        self._owners = {s.public: i for i, p in enumerate(self.people) for s in (p.validator, p.spare)}
        self.set_at: Callable[[int], ValidatorSet] = lambda height: self.validators
        """Of the run's ledger: it says which key signs at a height."""
        self.validators = ValidatorSet(tuple(Validator(p.idao, p.validator.public, 1) for p in persons(n)))

    def key_at(self, index: int, height: int) -> bytes:
        """The key of a person's seat at a height; its first one where it has none there."""
        person = self.people[index]
        seated = (v.key for v in self.set_at(height).validators if v.idao == person.idao)
        return next(seated, person.validator.public)

    def owner(self, key: bytes) -> int | None:
        return self._owners.get(key)

    def sign(self, index: int, vote: Vote) -> bytes:
        person = self.people[index]
        spare = self.key_at(index, vote.height) == person.spare.public
        return (person.spare if spare else person.validator).sign_vote(vote)


@lru_cache(64)
def bundle_of(n: int, founders: tuple[int, ...]) -> genesis.Bundle:
    """A group of `n` people, of whom these found it."""
    chosen = [persons(n)[i] for i in sorted(founders)]
    text = charter.encode(charter.defaults())
    made = Genesis(
        v=1, kind=genesis.GROUP, nonce=bytes(32), formats=genesis.FORMATS, time_ms=0, name="sim",
        validators=ValidatorSet(tuple(Validator(p.idao, p.validator.public, 1) for p in chosen)),
        stake=tuple((p.idao, STAKE) for p in chosen), charter=people.charter_hash(text),
        recovery_threshold=1, recovery_keys=(chosen[0].signer.public,), parent=None,
    )  # fmt: skip
    signed = tuple(genesis.Founder(p.inception, (), p.signer.sign_genesis(made)) for p in chosen)
    bundle = genesis.Bundle(made, text, signed, None)
    genesis.check_bundle(bundle)
    return bundle


@lru_cache(4096)
def tx_of(raw: bytes) -> Tx:
    return parse_tx(raw)


def number_of(raw: bytes) -> int:
    return tx_of(raw).envelope.valid_until - NUMBERED


@lru_cache(1024)
def read(data: bytes) -> Block | None:
    """The real block, or None for bytes that are none."""
    try:
        return canonical.unpack(Block, data)
    except Malformed:
        return None


class Book:
    """One copy of the ledger, in memory."""

    def __init__(self, bundle: genesis.Bundle) -> None:
        self.chain = genesis.chain_of(bundle.genesis)
        self.base, self.branches = DictBase(), {}  # type: ignore[var-annotated]
        self.headers = {0: self.chain.quorum}
        self._keep(genesis.height_zero(genesis.first_state(bundle)))
        frontier = merkle.Frontier(merkle.LOG)
        self.tip = Tip(0, self.chain.quorum, 0, frontier, self.base, self.branches, None, self.headers.get)
        self._judged: dict[bytes, Executed] = {}

    def _keep(self, executed: Executed) -> None:
        self.base.write(executed.state.changes)
        for prefix, children in executed.branches.writes.items():
            if children is None:
                self.branches.pop(prefix, None)
            else:
                self.branches[prefix] = children

    @property
    def state(self) -> State:
        return State(self.base)

    def set_at(self, height: int) -> ValidatorSet:
        return epochs.epoch_at(self.state, height)[1]

    def build(self, view: int, time_ms: int, raws: list[bytes]) -> bytes:
        validators = self.set_at(self.tip.height + 1)
        proposer = validators.validators[validators.leader(self.tip.height + 1, view)].idao
        built, executed = rules.build(
            self.tip, self.chain, validators, proposer=proposer, view=view,
            time_ms=max(time_ms, self.tip.time_ms + 1), txs=[tx_of(r) for r in raws], skipped=set(),
        )  # fmt: skip
        self._judged[rules.header_hash(built.header)] = executed
        return canonical.pack(built)

    def check(self, built: Block) -> Executed:
        """`InvalidBlock` unless it is a child of the tip with the roots it says."""
        digest = rules.header_hash(built.header)
        found = self._judged.get(digest)
        if found is None:
            validators = self.set_at(self.tip.height + 1)
            txs = [tx_of(raw) for raw in built.txs]
            found = rules.check(self.tip, self.chain, validators, built, txs=txs)
            self._judged[digest] = found
        return found

    def append(self, data: bytes, certificate: Certificate) -> None:
        built = read(data)
        assert built is not None
        executed, digest = self.check(built), rules.header_hash(built.header)
        self._keep(executed)
        frontier = executed.frontier.copy()
        frontier.append(rules.block_leaf(built.header))
        height = built.header.height
        self.headers[height] = digest
        self.tip = Tip(
            height, digest, built.header.time_ms, frontier, self.base, self.branches, certificate,
            self.headers.get,
        )  # fmt: skip
        self._judged.clear()


class Desk:
    """A node's way to its book: brought to the height of its disk before each use."""

    def __init__(self, node: Node, bundle: genesis.Bundle) -> None:
        self.node, self.bundle = node, bundle
        self._book = Book(bundle)

    @property
    def book(self) -> Book:
        chain = self.node.disk.chain
        if self._book.tip.height > len(chain):
            self._book = Book(self.bundle)
        while self._book.tip.height < len(chain):
            _, data, certificate = chain[self._book.tip.height]
            self._book.append(data, certificate)
        return self._book

    def build(self, e: ev.Build) -> ev.Built:
        world = self.node.world
        raws = [world.raws[t] for t in sorted(self.node.pool)]
        data = self.book.build(e.view, self.node.clock, raws)
        built = read(data)
        assert built is not None
        if self.node.sin == "invalid blocks":
            wrong = canonical.pack(
                Block(
                    type(built.header)(**{**_fields(built.header), "state_root": bytes(32)}),
                    built.parent_certificate, built.txs,
                )
            )  # fmt: skip
            built, data = read(wrong), wrong
            assert built is not None
        return ev.Built(e.height, e.view, rules.header_hash(built.header), data)

    def other(self, view: int) -> tuple[bytes, bytes]:
        """Another valid block on the tip: (hash, bytes)."""
        data = self.book.build(view, self.node.clock + 7, [])
        built = read(data)
        assert built is not None
        return rules.header_hash(built.header), data

    def judge(self, e: ev.Validate, lead_ms: int) -> str:
        built = read(e.block)
        if built is None or rules.header_hash(built.header) != e.hash:
            return ev.INVALID if built is None and blake3(e.block).digest() == e.hash else ev.MISMATCH
        if rules.tx_root(built.txs) != built.header.tx_root:
            return ev.MISMATCH
        book = self.book
        if built.header.height != e.height or e.height != book.tip.height + 1:
            return ev.INVALID
        try:
            book.check(built)
        except Malformed:
            return ev.INVALID
        early = built.header.time_ms > max(self.node.clock + lead_ms, book.tip.time_ms + 1)
        return ev.UNTIMELY if e.fresh and (built.header.view != e.view or early) else ev.VALID


def _fields(header: Any) -> dict[str, Any]:
    return {name: getattr(header, name) for name in type(header).__dataclass_fields__}


class Town:
    """What people do next, given how the ledger stands: one transaction after the other, all by chance."""

    def __init__(self, n: int, book: Book, rng: random.Random) -> None:
        self.people, self.book, self.rng = persons(n), book, rng
        self.found: list[Fault] = []
        """Faults that correct validators have seen."""
        self.sent = 0

    def next_raw(self, number: int) -> bytes:
        moves = self._moves()
        who, kind, body = self.rng.choice(moves)
        now = self.book.state.get(people.Identity, who.idao)
        envelope = Envelope(
            v=1, quorum=self.book.chain.quorum, idao=who.idao, key=who.signer.public, key_seq=0,
            seq=now.seq + 1 if now else 1, valid_until=NUMBERED + number, kind=kind, kind_version=1,
            body=canonical.pack(body),
        )  # fmt: skip
        return sign_tx(who.signer, envelope)

    def _moves(self) -> list[tuple[Person, str, Any]]:
        state, quorum = self.book.state, self.book.chain.quorum
        seats = {s.idao: s for s in membership.seats(state)}
        active = [p for p in self.people if p.idao in seats and seats[p.idao].state == membership.ACTIVE]
        members = [p for p in active if people.role_of(state, quorum, p.idao) == "owner"]
        opened = [p for p in state.scan(governance.Proposal) if p.state == governance.OPEN]
        moves: list[tuple[Person, str, Any]] = []
        for p in self.people:
            seat = seats.get(p.idao)
            if state.get(people.Identity, p.idao) is None:
                moves.append((p, "idao.register", people.Register(p.inception, ())))
            elif seat is None and state.get(membership.SeatKey, p.validator.public) is None:
                proof = p.validator.sign_possession(quorum, p.idao)
                moves.append((p, "quorum.join", membership.Join(p.validator.public, proof, p.certificate)))
            elif seat is not None and seat.state == membership.PENDING:
                at = membership.Activate(self.book.tip.height, self.book.tip.header)
                moves += [(p, "quorum.activate", at)] * 3
            elif seat is not None and seat.state == membership.ASKING and not opened:
                admit = membership.Admit(p.idao, seat.key, 1, BOND)
                draft = governance.draft(state, quorum, "admit", [("validator.admit", admit)])
                moves += [(by, "gov.propose", draft) for by in members[:2]]
            elif seat is not None and seat.state == membership.ACTIVE and self.rng.random() < ROTATES:
                proof = p.spare.sign_possession(quorum, p.idao)
                moves.append((p, "quorum.rotate", membership.Rotate(p.spare.public, proof, p.certificate)))
        for proposal in opened:
            for p in members:
                if state.get(governance.Ballot, proposal.proposal, p.idao) is None:
                    ballot = governance.CastBallot(proposal.proposal, proposal.content, governance.YES)
                    moves += [(p, "gov.vote", ballot)] * 2
        large = len(self.book.set_at(self.book.tip.height + 2).validators) > SMALLEST
        if large and self.rng.random() < 0.4:
            moves += [(p, "quorum.leave", membership.Leave()) for p in active[-2:]]
        for fault in self.found:
            if not faults.is_recorded(state, fault) and active:
                moves.append((self.rng.choice(active), "fault.report", faults.Report(fault)))
        trust = people.AddTrust(quorum, (), (), 1 + self.sent % 9)
        return moves or [(active[0], "trust.add", trust)]
