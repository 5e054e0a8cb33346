"""Members of a quorum with real engines, ledgers and signatures, over links in memory."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from member_world import Net, Person, bundle_of, trust

from idao import anchor
from idao.crypto import canonical, note, statetree
from idao.errors import Malformed
from idao.frozen import replace
from idao.ledger.idao import RemoveTrust
from idao.ledger.tx import Receipt
from idao.model import show_id
from idao.node import explaining
from idao.node import member as members
from idao.node import messages as msg
from idao.node.engine import Decided
from idao.node.sync import PATIENCE_TICKS
from idao.store.audit import audit
from idao.store.ledger import LedgerStore
from idao.store.prune import prune


def play(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 120))  # type: ignore[arg-type]


def crowd(n: int) -> list[Person]:
    return [Person(f"person {i}") for i in range(n)]


def test_four_agree_and_anchor(tmp_path: Path) -> None:
    async def story() -> None:
        people = crowd(4)
        net = Net(tmp_path, people)
        for p in people:
            net.boot(p)
        for i, p in enumerate(people * 3):
            tx = net.member(p).submit(p.tx(net.quorum, trust(i)))
            await net.agreed(tx.id)
        assert len({statetree.root(m.engine.store.branches) for m in net.members.values()}) == 1
        for m in net.members.values():
            store = m.engine.store
            head = store.checkpoint()
            assert head is not None
            judged = anchor.check_anchor(note.parse_note(head[1]), m.engine.validators)
            assert judged.power >= 3
        height = net.heights()[0]
        await asyncio.sleep(1.5)
        assert net.heights() == [height] * 4, "an idle quorum makes no blocks"
        net.stop()
        assert not net.bad and not net.faults and not net.troubles
        for p in people:
            report = audit(net.path(p))
            assert not report.findings and report.blocks == height

    play(story)


def test_a_dead_leader_costs_little(tmp_path: Path) -> None:
    """Whoever is dead: the next commit comes within a bound, and later turns of the dead cost nothing."""

    async def story() -> None:
        people = crowd(4)
        net = Net(tmp_path, people)
        for p in people:
            net.boot(p)
        await net.agreed(net.member(people[0]).submit(people[0].tx(net.quorum, trust(0))).id)
        net.kill(people[3])
        took = []
        for i in range(8):
            begin = time.monotonic()
            tx = net.member(people[i % 3]).submit(people[i % 3].tx(net.quorum, trust(i + 1)))
            await net.agreed(tx.id)
            took.append(time.monotonic() - begin)
        assert max(took) < 1.0, f"nobody waits out a timer for one whose link is down: {took}"
        net.stop()

    play(story)


def test_one_that_was_away_catches_up(tmp_path: Path) -> None:
    async def story() -> None:
        people = crowd(4)
        net = Net(tmp_path, people)
        for p in people:
            net.boot(p)
        await net.agreed(net.member(people[0]).submit(people[0].tx(net.quorum, trust(0))).id)
        net.kill(people[3])
        for i in range(80):
            tx = net.member(people[0]).submit(people[0].tx(net.quorum, trust(i + 1)))
            await net.until(lambda tx=tx: net.member(people[0]).engine.store.receipt_of(tx.id) is not None)
        net.boot(people[3])
        for p in people[:3]:  # keep-alives carry this
            net.member(people[3]).on_status(p.idao, net.member(p).status())
        await net.until(lambda: len(set(net.heights())) == 1)
        tx = net.member(people[3]).submit(people[3].tx(net.quorum, trust(999)))
        await net.agreed(tx.id)
        net.stop()
        assert not net.bad and not net.faults and not net.troubles
        assert not audit(net.path(people[3])).findings

    play(story)


def test_a_newcomer_asks_whoever_has_not_pruned_and_says_when_nobody_has(tmp_path: Path) -> None:
    async def story() -> None:
        people = crowd(4)
        net = Net(tmp_path, people)
        for p in people[:3]:
            net.boot(p)
        for i in range(6):
            tx = net.member(people[0]).submit(people[0].tx(net.quorum, trust(i)))
            await net.agreed(tx.id)
        for p in people[:3]:  # the third keeps everything, and is away for now
            net.kill(p)
            if p is not people[2]:
                store = LedgerStore.open(net.path(p))
                assert prune(store, keep=2).height == store.height - 2
                store.close()
        for p in (people[0], people[1], people[3]):
            net.boot(p)
        late = net.member(people[3])

        def hint() -> None:  # keep-alives carry this
            for idao, member in net.members.items():
                if idao != people[3].idao:
                    late.on_status(idao, member.status())

        hint()
        await net.until(lambda: late.sync.gone == 1)
        assert late.why()["gone"] == 1 and not late.sync.active and late.engine.tip.height == 0
        frames = net.frames
        hint()
        await asyncio.sleep(0.05)
        assert net.frames - frames < 10, "nobody is asked in vain again and again"
        for _ in range(PATIENCE_TICKS):
            late.sync.tick()
        late.sync.tick()
        assert [t for t in net.troubles if t[0] == "gone"] == [
            ("gone", "block 1 is needed here, and every member that is linked has pruned it")
        ]
        net.boot(people[2])
        hint()
        await net.until(lambda: len(set(net.heights())) == 1)
        assert late.sync.gone == 0 and not net.bad
        net.stop()

    play(story)


def test_kill_and_restart_in_a_loop(tmp_path: Path) -> None:
    async def story() -> None:
        people = crowd(4)
        net = Net(tmp_path, people)
        for p in people:
            net.boot(p)
        sent = []
        for i in range(24):
            p = people[i % 4]
            sent.append(net.member(p).submit(p.tx(net.quorum, trust(i))).id)
            await asyncio.sleep(0.001 * (i % 7))
            net.kill(p)
            net.boot(p)
        await net.until(lambda: all(not m.engine.pool for m in net.members.values()))
        tx = net.member(people[0]).submit(people[0].tx(net.quorum, trust(999)))
        await net.agreed(tx.id)
        net.stop()
        assert not net.bad and not net.faults and not net.troubles
        for p in people:
            assert not audit(net.path(p)).findings

    play(story)


def test_a_node_whose_execution_differs_stops_and_says_where(tmp_path: Path) -> None:
    async def story() -> None:
        people = crowd(4)
        net = Net(tmp_path, people)
        for p in people:
            net.boot(p)
        first = people[0]
        await net.agreed(net.member(first).submit(first.tx(net.quorum, trust(0))).id)
        net.kill(people[3])
        damaged = sqlite3.connect(net.path(people[3]))
        damaged.execute("delete from trust_link where quorum = ?", (bytes(32),))
        damaged.commit()
        odd = net.boot(people[3])
        plain, lied = net.deliver, False

        def deliver(source: bytes, target: bytes, kind: int, payload: bytes) -> None:
            """The first who is asked for its receipts tells others than were certified."""
            nonlocal lied
            if kind == msg.KIND_OF[msg.Receipts] and not lied:
                lied, told = True, msg.decode(kind, payload)
                leaf = replace(canonical.unpack(Receipt, told.leaves[0]), code="a-lie", ok=False)
                payload = msg.encode(msg.Receipts(told.height, (canonical.pack(leaf),)))[1]
            plain(source, target, kind, payload)

        net.deliver = deliver  # type: ignore[method-assign]
        body = RemoveTrust(bytes(32))
        tx = net.member(first).submit(first.tx(net.quorum, body, kind="trust.remove"))
        others = [net.member(p) for p in people[:3]]
        await net.until(lambda: all(m.engine.store.receipt_of(tx.id) for m in others))
        await net.until(lambda: show_id("tx", tx.id) in (odd.engine.halted or ""))
        assert "'not-trusted' here, 'ok' there" in str(odd.engine.halted) and lied
        later = net.member(first).submit(first.tx(net.quorum, trust(5)))
        await net.until(lambda: all(m.engine.store.receipt_of(later.id) for m in others))
        height = odd.engine.tip.height
        net.kill(people[3])
        odd = net.boot(people[3])
        assert odd.engine.tip.height == height and odd.engine.halted, "a halt outlives the process"
        await asyncio.sleep(0.2)
        assert not odd.engine.machine.signing
        net.stop()

    play(story)


def test_who_answers_nothing_is_not_the_last_to_be_asked_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All were asked, and no answer came; then two never answer, and one that was away comes back."""
    monkeypatch.setattr(members, "TICK_S", 0.05)
    monkeypatch.setattr(explaining, "PATIENCE_TICKS", 2)

    async def story() -> None:
        people = crowd(4)
        net = Net(tmp_path, people)
        for p in people:
            net.boot(p)
        first, helpful, last = people[0], people[2], people[3]
        await net.agreed(net.member(first).submit(first.tx(net.quorum, trust(0))).id)
        net.kill(last)
        damaged = sqlite3.connect(net.path(last))
        damaged.execute("delete from trust_link where quorum = ?", (bytes(32),))
        damaged.commit()
        odd = net.boot(last)
        plain, asked = net.deliver, []

        def deliver(source: bytes, target: bytes, kind: int, payload: bytes) -> None:
            if kind == msg.KIND_OF[msg.GetReceipts]:
                asked.append(target)
                if target != helpful.idao or asked.count(target) < 3:
                    return
            plain(source, target, kind, payload)

        net.deliver = deliver  # type: ignore[method-assign]
        tx = net.member(first).submit(first.tx(net.quorum, RemoveTrust(bytes(32)), kind="trust.remove"))
        await net.until(lambda: show_id("tx", tx.id) in (odd.engine.halted or ""))
        everyone = {p.idao for p in people[:3]}
        assert set(asked[:3]) == set(asked[3:6]) == everyone, "all at once, then each in its turn"
        count = len(asked)
        await asyncio.sleep(0.3)
        assert len(asked) == count, "nobody is asked for what is known"
        net.stop()

    play(story)


@pytest.mark.usefixtures("quarantine")
def test_a_copied_home_is_quarantined_until_the_others_have_told_their_tips(tmp_path: Path) -> None:
    async def story() -> None:
        people = crowd(4)
        net = Net(tmp_path, people)
        for p in people:
            net.boot(p)
        for i in range(3):
            await net.agreed(net.member(people[0]).submit(people[0].tx(net.quorum, trust(i))).id)
        last = people[3]
        net.kill(last)
        path = net.path(last)
        yesterday = path.read_bytes()
        net.boot(last)
        for i in range(3, 8):
            await net.agreed(net.member(people[0]).submit(people[0].tx(net.quorum, trust(i))).id)
        net.kill(last)
        for old in path.parent.iterdir():
            old.unlink()
        path.write_bytes(yesterday)
        height = net.heights()[0]
        back = net.boot(last)
        assert back.engine.quarantined and not back.engine.machine.signing
        await net.until(lambda: not back.engine.quarantined)
        said = f"the others have told where they stand: signs above height {height + 2}"
        assert ("released", said) in net.troubles
        for i in range(8, 12):
            await net.agreed(net.member(people[0]).submit(people[0].tx(net.quorum, trust(i))).id)
        await net.until(lambda: back.engine.machine.signing)
        signed = back.engine.store.db.execute(
            "select min(height) from cosign where key = ? and height > 3", (last.validator.public,)
        ).fetchone()[0]
        assert signed > height + 2
        net.stop()
        assert not net.faults, "it never said two things"

    play(story)


def test_an_observer_follows_and_has_no_say(tmp_path: Path) -> None:
    async def story() -> None:
        people = crowd(5)
        net = Net(tmp_path, people, bundle_of(people[:4]))
        for p in people:
            net.boot(p)
        for i in range(5):
            await net.agreed(net.member(people[i % 4]).submit(people[i % 4].tx(net.quorum, trust(i))).id)
        observer = net.member(people[4]).engine.store
        assert observer.db.execute("select count(*) from sign").fetchone()[0] == 0
        net.stop()
        assert not audit(net.path(people[4])).findings

    play(story)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_other_sizes(tmp_path: Path, n: int) -> None:
    async def story() -> None:
        people = crowd(n)
        net = Net(tmp_path, people)
        for p in people:
            net.boot(p)
        for i in range(2 * n):
            await net.agreed(net.member(people[i % n]).submit(people[i % n].tx(net.quorum, trust(i))).id)
        net.stop()
        assert not net.bad and not net.faults and not net.troubles

    play(story)


def test_wrong_blocks_cost_their_sender_and_nothing_else(tmp_path: Path) -> None:
    """Sync from a liar: forged finalization, another body, a gap; then an honest peer serves the rest."""

    async def story() -> None:
        people = crowd(4)
        net = Net(tmp_path, people)
        for p in people[:3]:
            net.boot(p)
        for i in range(6):
            await net.agreed(net.member(people[0]).submit(people[0].tx(net.quorum, trust(i))).id)
        good = net.member(people[0]).engine.decided(1, 6, 2**20)
        late = net.boot(people[3])
        net.cut |= {(people[3].idao, p.idao) for p in people}
        liar = people[1].idao

        def tell(first: int, *blocks: Decided) -> None:
            told = msg.Commits(first, tuple(msg.DecidedBlock(d.block, d.certificate, d.note) for d in blocks))
            late.on_frame(liar, *msg.encode(told))

        forged = replace(good[0].certificate, signatures=good[1].certificate.signatures)
        with pytest.raises(Malformed, match="does not hold"):
            tell(1, replace(good[0], certificate=forged))
        with pytest.raises(Malformed):
            tell(1, replace(good[0], block=good[1].block))
        with pytest.raises(Malformed):
            tell(1, good[0], good[2])
        assert late.engine.tip.height == 1, "what came before the wrong one stands"
        tell(4, good[3])
        assert late.engine.tip.height == 1
        net.cut.clear()
        late.on_status(people[0].idao, net.member(people[0]).status())
        await net.until(lambda: late.engine.tip.height == 6)
        net.stop()
        assert not audit(net.path(people[3])).findings

    play(story)
