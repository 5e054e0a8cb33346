"""A quorum of several in memory, or in a file: real keys, real blocks, certificates and checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from idao import anchor, identity
from idao.crypto import canonical, merkle, note, phrase
from idao.crypto.certificates import make_certificate, verify_certificate
from idao.crypto.keys import Signer
from idao.ledger import accounts, block, charter, epochs, genesis, governance
from idao.ledger import idao as idaos
from idao.ledger.execution import Executed, Tip
from idao.ledger.membership import Activate, Admit, Join, Seat
from idao.ledger.state import DictBase, State
from idao.ledger.tx import Envelope, Receipt, Tx, parse_tx, sign_tx
from idao.model import FINALIZE, Block, Certificate, Inception, SignedVote, ValidatorSet, Vote
from idao.store.ledger import LedgerStore

STAKE = 1_000_000
BOND = 1_000
BORN = 1_700_000_000_000


def hashed(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


@dataclass(frozen=True)
class Person:
    name: str
    inception: Inception
    signer: Signer
    recovery: Signer

    @property
    def idao(self) -> bytes:
        return identity.idao_id(self.inception)

    def validator(self, n: int = 0) -> Signer:
        """The validator key of this person, or a later one."""
        return Signer(hashed(f"{self.name} validates {n}"))


@cache
def person(name: str) -> Person:
    seed = hashed(f"seed of {name}") + hashed(f"more of {name}")
    return Person(
        name, identity.incept(seed), Signer(phrase.first_key(seed)), Signer(phrase.authority_key(seed))
    )


def rules(**changed: int | str) -> bytes:
    return charter.encode(
        charter.defaults() | {k.replace("__", ".").replace("_", "-"): v for k, v in changed.items()}
    )


def group_of(founder: str = "ann", **changed: int | str) -> genesis.Bundle:
    p = person(founder)
    return genesis.group(
        name="clinic-lan",
        nonce=hashed("nonce"),
        time_ms=BORN,
        founder=genesis.Seated(p.inception, (), p.validator().public, STAKE),
        signer=p.signer,
        rules=rules(**changed),
        recovery_threshold=1,
        recovery_keys=(p.recovery.public,),
    )


class GroupWorld:
    """`send` signs and queues; `step` decides a block over what waits, as its set would."""

    def __init__(self, bundle: genesis.Bundle | None = None, store: LedgerStore | None = None) -> None:
        self.bundle = bundle or (store.bundle if store else group_of())
        genesis.check_bundle(self.bundle)
        self.quorum = genesis.quorum_id(self.bundle.genesis)
        self.chain = genesis.chain_of(self.bundle.genesis)
        self.store = store
        self.keys: dict[bytes, Signer] = {}
        """Public validator key -> who can sign with it."""
        for f in self.bundle.founders:
            self._learn(next(p for p in PEOPLE if p.inception == f.inception).validator())
        self.base, self.branches = DictBase(), {}
        self.headers: dict[int, bytes] = {0: self.quorum}
        self.seqs: dict[bytes, int] = {}
        self.waiting: list[Tx] = []
        self.notes: dict[int, note.Note] = {}
        self.blocks: list[tuple[Block, Certificate, list[Receipt]]] = []
        self.time_ms = BORN
        if store is None:
            first = genesis.height_zero(genesis.first_state(self.bundle))
            self._keep(first)
            self.tip = Tip(
                0, self.quorum, BORN, merkle.Frontier(merkle.LOG), self.base, self.branches, None,
                self.headers.get,
            )  # fmt: skip
        else:
            self.tip = store.tip()

    def _learn(self, signer: Signer) -> Signer:
        self.keys[signer.public] = signer
        return signer

    def _keep(self, executed: Executed) -> None:
        self.base.write(executed.state.changes)
        for prefix, children in executed.branches.writes.items():
            if children is None:
                self.branches.pop(prefix, None)
            else:
                self.branches[prefix] = children

    @property
    def state(self) -> State:
        return State(self.tip.base)

    def validators(self, height: int | None = None) -> ValidatorSet:
        """The set of the next block, or of a height."""
        return epochs.epoch_at(self.state, self.tip.height + 1 if height is None else height)[1]

    def powers(self, height: int | None = None) -> dict[str, int]:
        return {named(v.idao): v.power for v in self.validators(height).validators}

    def seat(self, name: str) -> Seat:
        return self.state.need(Seat, person(name).idao)

    # --- transactions and blocks

    def sign(self, who: str, kind: str, body: Any) -> Tx:
        p = person(who)
        seq = self.seqs[p.idao] = self.seqs.get(p.idao, 0) + 1
        envelope = Envelope(
            1, self.quorum, p.idao, p.signer.public, 0, seq, 2**62, kind, 1, canonical.pack(body)
        )
        return parse_tx(sign_tx(p.signer, envelope))

    def send(self, who: str, kind: str, body: Any) -> Tx:
        self.waiting.append(tx := self.sign(who, kind, body))
        return tx

    def step(self, ms: int = 1_000, signers: Sequence[str] | None = None) -> list[Receipt]:
        """One block: built by its leader, checked by everybody, finalized and cosigned by `signers` (all)."""
        self.time_ms = max(self.time_ms + ms, self.tip.time_ms + 1)
        height, txs, self.waiting = self.tip.height + 1, self.waiting, []
        epoch, validators = epochs.epoch_at(self.state, height)
        leader = validators.validators[validators.leader(height, 0)]
        built, executed = block.build(
            self.tip, self.chain, validators, proposer=leader.idao, view=0, time_ms=self.time_ms, txs=txs
        )
        again = block.check(self.tip, self.chain, validators, canonical.unpack(Block, canonical.pack(built)))
        assert again.state_root == executed.state_root
        certificate = self.certify(validators, height, block.header_hash(built.header), signers)
        assert verify_certificate(certificate, validators)
        self._commit(built, certificate, executed, epoch, validators, signers)
        self.blocks.append((built, certificate, executed.receipts))
        return executed.receipts

    def _who(self, validators: ValidatorSet, signers: Sequence[str] | None) -> list[tuple[int, Signer]]:
        return [
            (i, self.keys[v.key])
            for i, v in enumerate(validators.validators)
            if signers is None or named(v.idao) in signers
        ]

    def certify(
        self, validators: ValidatorSet, height: int, digest: bytes, signers: Sequence[str] | None = None
    ) -> Certificate:
        vote = Vote(FINALIZE, self.quorum, height, 0, digest)
        votes = [SignedVote(vote, i, s.sign_vote(vote)) for i, s in self._who(validators, signers)]
        return make_certificate(vote, votes, validators)

    def _commit(
        self, built: Block, certificate: Certificate, executed: Executed,
        epoch: epochs.Epoch, validators: ValidatorSet, signers: Sequence[str] | None,
    ) -> None:  # fmt: skip
        header = built.header
        block_hash = block.header_hash(header)
        frontier = executed.frontier.copy()
        frontier.append(merkle.LOG.leaf(block_hash))
        text = anchor.checkpoint_of(header, frontier, epoch.epoch).text()
        signed = note.Note(
            text,
            tuple(
                note.cosignature(s, self.quorum, text, header.time_ms // 1000)
                for _, s in self._who(validators, signers)
            ),
        )
        anchor.check_anchor(signed, validators)
        self.notes[header.height] = signed
        if self.store is not None:
            with self.store.transaction():
                self.store.append(built, certificate, executed)
                self.store.put_checkpoint(header.height, frontier.size, str(signed))
            self.tip = self.store.tip()
            return
        self._keep(executed)
        self.headers[header.height] = block_hash
        self.tip = Tip(
            header.height, block_hash, header.time_ms, frontier, self.base, self.branches, certificate,
            self.headers.get,
        )  # fmt: skip

    def do(self, who: str, kind: str, body: Any) -> str:
        """A transaction in a block of its own: '' or the refusal's code."""
        tx = self.send(who, kind, body)
        return next(r.code for r in self.step() if r.tx == tx.id)

    def decide(self, by: str, *actions: tuple[str, Any], yes: Sequence[str] = ()) -> str:
        """A proposal of the quorum's own, voted on by its maker and `yes`: '' or why it came to nothing."""
        body = governance.draft(self.state, self.quorum, "a title", actions)
        tx = self.send(by, "gov.propose", body)
        code = next(r.code for r in self.step() if r.tx == tx.id)
        if code:
            return code
        content = governance.content_hash(body)
        proposal = governance.proposal_id(tx.id, content)
        for voter in (by, *yes):
            self.send(voter, "gov.vote", governance.CastBallot(proposal, content, governance.YES))
        self.step()
        while self.state.need(governance.Proposal, proposal).state == governance.PASSED:
            self.step()
        now = self.state.need(governance.Proposal, proposal)
        return now.code or ("" if now.state == governance.EXECUTED else now.state)

    # --- joining

    def register(self, *names: str) -> None:
        for name in names:
            self.send(name, "idao.register", idaos.Register(person(name).inception, ()))
        self.step()

    def join_body(self, name: str, n: int = 0) -> Join:
        key = self._learn(person(name).validator(n))
        return Join(
            key.public, key.sign_possession(self.quorum, person(name).idao), hashed(f"tls {name} {n}")
        )

    def admit_body(self, name: str, n: int = 0, power: int = 1, bond: int = BOND) -> tuple[str, Admit]:
        p = person(name)
        return "validator.admit", Admit(p.idao, p.validator(n).public, power, bond)

    def activate_body(self) -> Activate:
        return Activate(self.tip.height, self.tip.header)

    def admit(
        self, *names: str, by: str = "ann", n: int = 0, power: int = 1, yes: Sequence[str] = ()
    ) -> None:
        """Registers, asks and is admitted; not yet active."""
        new = [x for x in names if self.state.get(idaos.Identity, person(x).idao) is None]
        if new:
            self.register(*new)
        for name in names:
            self.send(name, "quorum.join", self.join_body(name, n))
        assert all(r.ok for r in self.step())
        assert self.decide(by, *(self.admit_body(x, n, power) for x in names), yes=yes) == ""

    def activate(self, *names: str) -> None:
        for name in names:
            assert self.do(name, "quorum.activate", self.activate_body()) == ""

    def grow(self, *names: str) -> GroupWorld:
        """To a quorum of these beside the founder, past the blocks until the set decides."""
        self.admit(*names)
        self.activate(*names)
        self.step()
        self.step()
        return self

    def balance(self, kind: str, holder: bytes) -> int:
        return accounts.balance(self.state, (kind, holder), accounts.STAKE)


NAMES = ("ann", "bob", "cyd", "dan", "eve", "fay", "gus", "hal")
PEOPLE = tuple(map(person, NAMES))
_NAMED = {p.idao: p.name for p in PEOPLE}


def named(idao: bytes) -> str:
    return _NAMED[idao]


def four() -> GroupWorld:
    return GroupWorld().grow("bob", "cyd", "dan")
