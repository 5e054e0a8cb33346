"""One node's part in a quorum, without the others: what it writes down, and how often."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from member_world import Person, bundle_of, trust
from test_frame_fuzz import HUB

from idao import noderecord
from idao.ledger import genesis
from idao.ledger.tx import Tx
from idao.model import show_id
from idao.node import messages as msg
from idao.node import peerbook, pool, seat, sync, tls
from idao.node.logbook import Logbook
from idao.node.seat import Seatholder
from idao.store.ledger import LedgerStore

HUB_BLOCKS = next(m for m in HUB if isinstance(m, msg.Commits)).blocks


def run(test: Coroutine[Any, Any, None], seconds: float = 30) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await test

    asyncio.run(bounded())


def seated(folder: Path, people: list[Person]) -> Seatholder:
    """The first of these people's, with its ledger and log in `folder`."""
    bundle = bundle_of(people)
    name = show_id("quorum", genesis.quorum_id(bundle.genesis)).removeprefix("quorum:")
    path = folder / "ledgers" / f"{name}.db"
    path.parent.mkdir(parents=True)
    LedgerStore.create(path, bundle).close()
    me, log = people[0], Logbook(folder / "log", level="debug")
    return Seatholder(path, me.idao, [me.validator], tls.identity(folder), ("127.0.0.1:9",), log)


def test_a_peer_that_changes_its_mind_costs_no_flush_a_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write: Callable[..., None] = peerbook.write

    def counted(*given: Any) -> None:
        written.append(1)
        write(*given)

    monkeypatch.setattr(peerbook, "write", counted)
    monkeypatch.setattr(seat, "BOOK_S", 60.0)

    async def test() -> None:
        people = [Person(n) for n in ("ana", "bob", "cyd", "dan")]
        mine, bob = seated(tmp_path, people), people[1]
        record = noderecord.make(bob.validator, bytes(32), bob.idao, b"tls", ("127.0.0.1:9",), 1)
        mine.records[bob.idao] = record
        for n in range(501):
            mine.member.on_frame(bob.idao, *msg.encode(msg.Kept(1 + n % 2, 5)))
        assert not written
        await mine.stop()
        assert written == [1] and peerbook.whole(mine.path) == {bob.idao}

    run(test())


def test_the_log_names_who_proposed(tmp_path: Path) -> None:
    """consensus.md asks it of the operator's log: each block, and whose clock is ahead."""

    async def test() -> None:
        people = [Person("ana")]
        mine = seated(tmp_path, people)
        await mine.start()
        mine.submit(people[0].tx(mine.quorum, trust(1)))
        while mine.member.engine.tip.height < 1:
            await asyncio.sleep(0.01)
        for _ in range(3):
            mine.member.engine.on_early(people[0].idao, 12_345)
        await mine.stop()
        lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        [block] = [line for line in lines if line["event"] == "block.final"]
        assert block["proposer"] == show_id("idao", people[0].idao) and block["view"] == 0
        [early] = [line for line in lines if line["event"] == "clock"]
        assert block["proposer"] in early["why"] and "12 s ahead" in early["why"]

    run(test())


class Asked:
    """As much of a member as catching up needs."""

    def __init__(self) -> None:
        self.engine = SimpleNamespace(tip=SimpleNamespace(height=0))
        self.asked: list[bytes] = []

    def ask(self, peer: bytes, first: int) -> bool:
        self.asked.append(peer)
        return True

    def adopt(self, peer: bytes, commits: msg.Commits) -> None:
        self.engine.tip.height += len(commits.blocks)


def test_who_claims_much_and_serves_nothing_is_asked_once() -> None:
    """A member that claims the highest height in each breath must not be asked first, again and again."""
    member = Asked()
    syncing = sync.Sync(member)  # type: ignore[arg-type]
    liar, honest = b"l" * 32, b"h" * 32
    syncing.hint(liar, 2**40)
    syncing.hint(honest, 100)
    for _ in range(sync.PATIENCE_TICKS):
        syncing.tick()
    assert member.asked == [liar, honest]
    for _ in range(5):
        syncing.hint(liar, 2**41)
        syncing.on_commits(honest, msg.Commits(member.engine.tip.height + 1, HUB_BLOCKS))
    assert member.asked.count(liar) == 1 and member.engine.tip.height == 10
    syncing.lost(honest)
    assert member.asked[-1] == liar, "where nobody else is ahead it gets another chance"


def test_what_finds_no_room_costs_no_signature_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that pours in more of its own than the pool takes must not have all of them checked."""
    monkeypatch.setattr(pool, "ACTOR_MAX", 2)

    async def test() -> None:
        people = [Person(n) for n in ("ana", "bob", "cyd", "dan")]
        mine = seated(tmp_path, people)
        raws = tuple(people[1].tx(mine.quorum, trust(n)) for n in range(9))
        checked: list[int] = []
        authentic = Tx.authentic

        def counted(tx: Tx) -> bool:
            checked.append(1)
            return authentic(tx)

        monkeypatch.setattr(Tx, "authentic", counted)
        mine.member.on_frame(people[1].idao, *msg.encode(msg.Txs(raws)))
        assert len(checked) == len(mine.member.engine.pool) == 2
        await mine.stop()

    run(test())
