"""A quorum grows from its founder to four, changes a key and loses a member: real members and ledgers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from group_world import BOND, Person, group_of, hashed, person
from member_world import Net
from test_member import play

from idao.crypto import canonical
from idao.crypto.faults import make_fault
from idao.home import now_ms
from idao.ledger import governance, membership
from idao.ledger.faults import Report, recorded
from idao.ledger.idao import AddTrust, Register
from idao.ledger.membership import Activate, Admit, Join, Leave, Rotate
from idao.ledger.state import State
from idao.ledger.tx import Envelope, sign_tx
from idao.model import NOTARIZE, SignedVote, Vote
from idao.node import messages as msg
from idao.node import tls
from idao.node.engine import Engine
from idao.node.logbook import Logbook
from idao.node.member import Member
from idao.node.seat import Seatholder
from idao.store.audit import audit
from idao.store.ledger import LedgerStore


@dataclass
class Seated:
    """What `Net` asks of a person, with keys that may be replaced."""

    who: Person
    keys: int = 1

    @property
    def idao(self) -> bytes:
        return self.who.idao


class Group(Net):
    def __init__(self, folder: Path, *names: str) -> None:
        super().__init__(folder, [Seated(person(n)) for n in names], group_of(names[0]))  # type: ignore[arg-type]
        self.seqs: dict[bytes, int] = {}

    def boot(self, seated: Any, clock: Any = now_ms) -> Member:
        path = self.path(seated)
        path.parent.mkdir(parents=True, exist_ok=True)
        store = LedgerStore.open(path) if path.exists() else LedgerStore.create(path, self.bundle)
        newest, *older = [seated.who.validator(n) for n in reversed(range(seated.keys))]
        return self.join(seated, Member(Engine(store, newest, clock, *older), self.loop))

    def state(self, name: str = "") -> State:
        member = self.members[person(name).idao] if name else next(iter(self.members.values()))
        return member.engine.store.state()

    def send(self, name: str, kind: str, body: Any) -> bytes:
        who = person(name)
        seq = self.seqs[who.idao] = self.seqs.get(who.idao, 0) + 1
        envelope = Envelope(
            1, self.quorum, who.idao, who.signer.public, 0, seq, now_ms() + 3_600_000, kind, 1,
            canonical.pack(body),
        )  # fmt: skip
        return self.members[who.idao].submit(sign_tx(who.signer, envelope)).id

    async def do(self, name: str, kind: str, body: Any) -> str:
        """In a block, everywhere, and anchored: '' or the refusal's code."""
        tx = self.send(name, kind, body)
        await self.agreed(tx)
        found = next(iter(self.members.values())).engine.store.receipt_of(tx)
        assert found is not None
        return found[1].code

    async def admit(self, name: str, voters: tuple[str, ...]) -> None:
        who = person(name)
        assert await self.do(name, "idao.register", Register(who.inception, ())) == ""
        key = who.validator()
        asks = Join(key.public, key.sign_possession(self.quorum, who.idao), hashed(f"tls {name}"))
        assert await self.do(name, "quorum.join", asks) == ""
        by = voters[0]
        admit = ("validator.admit", Admit(who.idao, key.public, 1, BOND))
        body = governance.draft(self.state(), self.quorum, f"take in {name}", [admit])
        tx = self.send(by, "gov.propose", body)
        await self.agreed(tx)
        content = governance.content_hash(body)
        proposal = governance.proposal_id(tx, content)
        for voter in voters:
            await self.do(voter, "gov.vote", governance.CastBallot(proposal, content, governance.YES))
        await self.until(lambda: self.seat(name).state == membership.PENDING)
        tip = self.members[who.idao].engine.tip
        assert await self.do(name, "quorum.activate", Activate(tip.height, tip.header)) == ""

    def seat(self, name: str) -> membership.Seat:
        return self.state().need(membership.Seat, person(name).idao)

    def powers(self) -> int:
        return next(iter(self.members.values())).engine.validators.total_power

    async def beat(self, name: str, count: int) -> None:
        for i in range(count):
            assert (
                await self.do(name, "trust.add", AddTrust(hashed(f"{name} {i} {time.time()}"), (), (), 1))
                == ""
            )


async def grown(tmp_path: Path) -> Group:
    """Ann and the three that she admitted, past founder mode."""
    net = Group(tmp_path, "ann", "bob", "cyd", "dan")
    for p in net.people:
        net.boot(p)
    for name in ("bob", "cyd", "dan"):
        await net.admit(name, ("ann",))
    await net.beat("ann", 3)
    return net


def test_who_leaves_stays_linked_as_long_as_it_decides(tmp_path: Path) -> None:
    """The block after a leave is decided by the old set, which may lack the leaver's vote: of five one may be
    away, but not one away and another cut off."""

    async def story() -> None:
        net = Group(tmp_path, "ann", "bob", "cyd", "dan")
        for p in net.people:
            net.boot(p)
        for name in ("bob", "cyd", "dan"):
            await net.admit(name, ("ann",))
        await net.beat("bob", 3)
        assert await net.do("cyd", "quorum.leave", Leave()) == ""
        ann, cyd = (next(p for p in net.people if p.idao == person(n).idao) for n in ("ann", "cyd"))
        net.kill(ann)
        who, log = person("ann"), Logbook(tmp_path / "log")
        mine = Seatholder(net.path(ann), who.idao, [who.validator()], tls.identity(tmp_path), (), log)
        mine.allow()
        assert mine.store.height == net.heights()[0] and cyd.idao in mine.mesh.peers
        await net.beat("bob", 1)
        [last] = net.members[person("bob").idao].engine.decided(mine.store.height + 1, 1, 2**20)
        block = msg.DecidedBlock(last.block, last.certificate, last.note)
        mine.member.on_frame(person("bob").idao, *msg.encode(msg.Commits(mine.store.height + 1, (block,))))
        assert mine.store.height == net.heights()[0] and cyd.idao not in mine.mesh.peers
        mine.store.close()
        net.stop()

    play(story)


@pytest.mark.usefixtures("quarantine")
def test_a_restored_home_is_silent_longer_where_the_set_has_changed(tmp_path: Path) -> None:
    """The proof of the two silent blocks is for one set: each change since the backup adds one."""

    async def story() -> None:
        net = await grown(tmp_path)
        bob, dan = (next(p for p in net.people if p.idao == person(n).idao) for n in ("bob", "dan"))
        net.kill(dan)
        path = net.path(dan)
        yesterday = path.read_bytes()
        net.boot(dan)
        bob.keys = 2  # type: ignore[attr-defined]
        net.kill(bob)
        net.boot(bob)
        new = person("bob").validator(1)
        turned = Rotate(new.public, new.sign_possession(net.quorum, bob.idao), hashed("tls bob"))
        assert await net.do("bob", "quorum.rotate", turned) == ""
        await net.beat("cyd", 3)
        net.kill(dan)
        for old in path.parent.iterdir():
            old.unlink()
        path.write_bytes(yesterday)
        height = net.heights()[0]
        back = net.boot(dan)
        assert back.engine.quarantined
        for p in net.people:  # keep-alives carry this
            if p is not dan:
                back.on_status(p.idao, net.members[p.idao].status())
        await net.until(lambda: not back.engine.quarantined)
        assert back.engine.store.unsigned_until == height + 3
        net.stop()

    play(story)


def test_from_a_founder_to_four_and_on(tmp_path: Path) -> None:
    async def story() -> None:
        net = Group(tmp_path, "ann", "bob", "cyd", "dan")
        for p in net.people:
            net.boot(p)
        for name in ("bob", "cyd"):
            await net.admit(name, ("ann",))
            assert net.powers() == 1, "the founder alone decides"
        await net.admit("dan", ("ann",))
        assert not membership.founder_mode(net.state())
        await net.beat("ann", 2)
        assert net.powers() == 4
        await net.beat("dan", 4)
        newest = {m.engine.tip.certificate.vote.height for m in net.members.values()}  # type: ignore[union-attr]
        assert len(newest) == 1

        bob = next(p for p in net.people if p.idao == person("bob").idao)
        bob.keys = 2  # type: ignore[attr-defined]
        net.kill(bob)
        net.boot(bob)
        new = person("bob").validator(1)
        turned = Rotate(new.public, new.sign_possession(net.quorum, bob.idao), hashed("tls bob"))
        assert await net.do("bob", "quorum.rotate", turned) == ""
        await net.beat("cyd", 3)
        assert net.members[bob.idao].engine.validators.index_of_key(new.public) is not None
        dan = next(p for p in net.people if p.idao == person("dan").idao)
        net.kill(dan)
        await net.beat("ann", 4)  # needs the new key: three of four are there
        net.boot(dan)
        await net.until(lambda: len(set(net.heights())) == 1)

        assert await net.do("cyd", "quorum.leave", Leave()) == ""
        await net.beat("ann", 3)
        assert net.powers() == 3 and not membership.founder_mode(net.state())
        assert not net.bad and not net.faults and not net.troubles
        net.stop()
        for p in net.people:
            assert not audit(net.path(p)).findings

    play(story)


@pytest.mark.parametrize("late", ["eve"])
def test_a_newcomer_syncs_through_every_epoch(tmp_path: Path, late: str) -> None:
    async def story() -> None:
        net = Group(tmp_path, "ann", "bob", "cyd", "dan", late)
        *first, newcomer = net.people
        for p in first:
            net.boot(p)
        for name in ("bob", "cyd", "dan"):
            await net.admit(name, ("ann",))
        await net.beat("ann", 5)
        net.boot(newcomer)
        for p in first:
            net.members[newcomer.idao].on_status(p.idao, net.members[p.idao].status())
        await net.until(lambda: len(set(net.heights())) == 1)
        await net.admit(late, ("ann", "bob", "cyd"))
        await net.beat(late, 3)
        assert net.powers() == 5
        net.stop()
        assert not audit(net.path(newcomer)).findings

    play(story)


def test_a_proven_fault_costs_the_bond(tmp_path: Path) -> None:
    async def story() -> None:
        net = await grown(tmp_path)
        liar = person("dan").validator()
        height = net.heights()[0]
        ann = net.members[person("ann").idao]
        index = ann.engine.validators.index_of_key(liar.public)
        assert index is not None
        two = []
        for text in ("x", "y"):
            vote = Vote(NOTARIZE, net.quorum, height, 0, hashed(text))
            two.append(SignedVote(vote, index, liar.sign_vote(vote)))
        fault = make_fault(two[0], two[1], liar.public)
        assert await net.do("bob", "fault.report", Report(fault)) == ""
        (found,) = recorded(net.state(), person("dan").idao)
        assert found.slashed > 0
        assert net.seat("dan").state == membership.ACTIVE, "of four nobody is put out: three bear no fault"
        assert await net.do("cyd", "fault.report", Report(fault)) == "already-recorded"
        net.stop()

    play(story)
