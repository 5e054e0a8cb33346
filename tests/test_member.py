"""Members of a quorum with real engines, ledgers and signatures, over links in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from member_world import Net, Person, trust

from idao import anchor
from idao.crypto import note, statetree
from idao.store.audit import audit


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
        for i in range(150):
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
