"""The node's process, its control socket and its hands on the outbox; the quorum itself is a stand-in."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from node_world import until

from idao.dao import Dao
from idao.errors import Busy, IdaoError, Pending, Refused, Unreachable
from idao.hall import founding
from idao.hall.waiting import await_receipts
from idao.home import Home, now_ms
from idao.ledger import genesis
from idao.ledger.idao import AddTrust
from idao.model import show_id
from idao.node import calling, room, runner
from idao.node.control import Handler
from idao.node.dispatch import Dispatch
from idao.node.engine import Engine
from idao.node.logbook import Logbook
from idao.node.runner import Runner
from idao.store.ledger import LedgerStore
from idao.store.outbox import Outbox

TRUST = ("trust.add", AddTrust(b"\7" * 32, (), (), 1))


class FakeNetwork:
    """Members that keep what they are given, and put it into the ledger when told."""

    def __init__(self, home: Home) -> None:
        self.home, self.given, self.driving, self.stopped = home, [], True, False
        self.reloads = 0
        self.failed: Callable[[BaseException], None] = lambda error: None

    async def start(self) -> None: ...

    async def stop(self) -> None:
        self.stopped = True

    async def drive(
        self, ledger: Path, changed: Callable[[], None], failed: Callable[[BaseException], None]
    ) -> FakeMember:
        self.failed = failed
        return FakeMember(self, ledger, changed)

    def reload(self, home: Home) -> None:
        self.reloads += 1

    def status(self) -> dict[str, Any]:
        return {"port": 1}

    def handlers(self) -> dict[str, Handler]:
        return {}


class FakeMember:
    def __init__(self, network: FakeNetwork, ledger: Path, changed: Callable[[], None]) -> None:
        self.network, self.changed = network, changed
        self.store = LedgerStore.open(ledger)
        keys = Dao(network.home).keys()
        self.engine = Engine(self.store, keys.validator, now_ms)

    async def start(self) -> None: ...

    async def stop(self) -> None:
        self.store.close()

    def submit(self, raw: bytes) -> None:
        self.network.given.append(raw)
        if self.network.driving:
            self.engine.submit(raw)
            self.engine.run()
            asyncio.get_running_loop().call_soon(self.changed)

    def status(self) -> dict[str, Any]:
        return {"height": self.store.height}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home whose personal ledger passes for a group's."""
    founding.create(tmp_path / "home", name="ana", domain=None, passphrase=None)
    monkeypatch.setattr(genesis, "GROUP", genesis.PERSON)
    return Home.open(tmp_path / "home")


@contextmanager
def running(home: Home, chores: Any = ()) -> Iterator[FakeNetwork]:
    """A node in a thread of its own, without its signals."""
    network, ready, end = FakeNetwork(home), threading.Event(), []

    async def main() -> None:
        runner = Runner(home, network, Logbook(home.path / "log"), chores=chores)
        runner._listen_to_signals = lambda loop: ready.set()  # type: ignore[method-assign]
        network.runner = runner  # type: ignore[attr-defined]
        end.append(await runner.run())

    def body() -> None:
        try:
            asyncio.run(main())
        except IdaoError as e:
            end.append(e.code)
        ready.set()

    thread = threading.Thread(target=body)
    thread.start()
    assert ready.wait(10)
    try:
        yield network
    finally:
        calling.ask(home.path, "stop")
        thread.join(10)
        assert not thread.is_alive()
        network.ended = end  # type: ignore[attr-defined]


def events(home: Home) -> list[str]:
    return [json.loads(line)["event"] for line in (home.path / "log").read_text().splitlines()]


# --- commands through the node ------------------------------------------------------------------------


def test_a_command_goes_through_the_running_node(home: Home) -> None:
    dao = Dao(home, wait_s=5)
    with running(home) as network:
        assert dao.nodes.status()["running"]
        (done,) = dao.submit([TRUST])
        assert done.receipt.ok and len(network.given) == 1
        assert dao.pending() == 0
    assert not dao.nodes.status()["running"]
    assert dao.submit([("trust.remove", _removal())])[0].receipt.ok  # alone again, as before


def _removal() -> Any:
    from idao.ledger.idao import RemoveTrust

    return RemoveTrust(b"\7" * 32)


def test_nothing_is_lost_when_the_quorum_does_not_answer(home: Home) -> None:
    with running(home) as network:
        network.driving = False
        with pytest.raises(Pending) as refusal:
            Dao(home, wait_s=0.1).submit([TRUST])
        assert refusal.value.exit_code == 3 and len(refusal.value.txs) == 1
        assert Dao(home).pending() == 1
    with running(home):
        deadline = time.monotonic() + 5
        while Dao(home).pending() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert Dao(home).pending() == 0 and Dao(home).store.height == 1


def test_a_node_that_dies_while_it_is_asked_is_waited_for(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any, **__: Any) -> None:
        raise Unreachable("the node does not answer", code="node")

    dao = Dao(home, wait_s=0.1)
    monkeypatch.setattr(calling, "ask", dies)
    with pytest.raises(Pending, match="the node does not answer"):
        await_receipts(dao, [_signed(dao)])


def test_pending_without_a_node_names_the_node(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dao, "me", b"\1" * 32)  # somebody else holds the power
    dao = Dao(home, wait_s=60)
    began = time.monotonic()
    with pytest.raises(Pending, match="when the node runs"):
        raws = []
        with dao.home_db() as db:
            raws = [t.raw for t in Outbox(db, dao.quorum).waiting()]
        await_receipts(dao, raws or [_signed(Dao(home))])
    assert time.monotonic() - began < 5


def _signed(dao: Dao) -> bytes:
    with dao.home_db() as db:
        from idao.hall.signing import Actor

        monk = Actor(dao.me, dao.keys().identity)
        return dao._sign(dao.store, Outbox(db, dao.quorum), monk, [TRUST])[0]


def test_many_commands_at_once_never_share_a_number(home: Home) -> None:
    """Signing reads the outbox before the ledger, so a row that leaves in between is not missed."""
    out: list[Any] = []

    def one(n: int) -> None:
        try:
            out.append(Dao(home, wait_s=20).submit([("trust.add", AddTrust(bytes([n]) * 32, (), (), 1))]))
        except IdaoError as e:
            out.append(e)

    with running(home):
        threads = [threading.Thread(target=one, args=(n,)) for n in range(1, 13)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(30)
    assert [o for o in out if isinstance(o, IdaoError)] == [] and len(out) == 12


def test_what_can_never_be_ordered_is_told(home: Home) -> None:
    dao = Dao(home, wait_s=5)
    raw = _signed(dao)
    dao.submit([TRUST])  # uses the same number
    with dao.home_db() as db:
        Outbox(db, dao.quorum).put([raw], now_ms())
    from idao.hall.waiting import await_receipts

    with running(home), pytest.raises(Refused, match="is used"):
        await_receipts(dao, [raw])
    assert dao.pending() == 0


# --- locks --------------------------------------------------------------------------------------------


def test_a_ledger_has_one_driver(home: Home) -> None:
    path = Dao(home).ledger_path()
    with running(home), pytest.raises(Busy, match="drives this ledger"), home.driving(path, 0):
        pass


def test_a_second_node_is_refused(home: Home) -> None:
    with running(home), pytest.raises(Busy, match="runs already") as refusal:
        asyncio.run(Runner(home, FakeNetwork(home), Logbook(home.path / "log2")).run())
    assert refusal.value.exit_code == 8


def test_a_ledger_that_cannot_be_driven_does_not_stop_the_others(home: Home) -> None:
    (home.ledgers_folder / f"{'b' * 51}a.db").write_bytes(b"no database")
    with running(home):
        found = calling.need(home.path, "status")
        assert len(found["quorums"]) == 1 and len(found["refused"]) == 1
    assert events(home).count("ledger.refused") == 1


# --- ends ---------------------------------------------------------------------------------------------


def test_a_broken_ledger_ends_the_process(home: Home) -> None:
    with running(home) as network:
        network.runner._end.get_loop().call_soon_threadsafe(network.failed, OSError("it broke"))  # type: ignore[attr-defined]
        time.sleep(0.3)
    assert network.ended == ["node-failed"] and network.stopped  # type: ignore[attr-defined]
    assert "node.failed" in events(home)


def test_a_ledger_without_room_rests_until_there_is_some(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let go before the disk is full, or when a write has met its end; never the process."""
    free = {"now": room.GO_BYTES}
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: SimpleNamespace(free=free["now"]))
    monkeypatch.setattr(room, "LOOK_S", 0.01)
    monkeypatch.setattr(runner, "TEND_S", 0.05)

    def driven() -> bool:
        return bool(calling.need(home.path, "status")["quorums"])

    with running(home) as network:
        until(driven)
        free["now"] = room.STOP_BYTES - 1
        until(lambda: not driven())
        (refused,) = calling.need(home.path, "status")["refused"]
        assert "no room" in refused["why"]
        free["now"] = room.GO_BYTES - 1
        time.sleep(0.2)
        assert not driven(), "it would come and go"
        free["now"] = room.GO_BYTES
        until(driven)
        free["now"] = room.STOP_BYTES  # room by the last look, none when it wrote
        full = IdaoError("the disk is full", code="disk-full")
        network.runner._end.get_loop().call_soon_threadsafe(network.failed, full)  # type: ignore[attr-defined]
        until(lambda: not driven())
        free["now"] = room.GO_BYTES
        until(driven)
    assert network.ended == ["stop"]  # type: ignore[attr-defined]
    assert events(home).count("ledger.starved") == 2 and "node.failed" not in events(home)


def test_chores_run_and_a_failing_one_is_only_told(home: Home) -> None:
    ran = threading.Event()

    def broken() -> None:
        raise RuntimeError("a bug")

    with running(home, [broken, ran.set]):
        calling.need(home.path, "wake", quorum=show_id("quorum", Dao(home).quorum))
        assert ran.wait(10)
    assert "chore.failed" in events(home)


def test_two_that_wake_it_for_a_new_ledger_do_not_get_in_each_others_way(home: Home) -> None:
    """The second would wait in vain for the first one's lock, and say for ever that the ledger is busy."""
    [ledger] = home.ledgers_folder.glob("*.db")
    aside = home.path / "aside.db"
    ledger.rename(aside)
    with running(home) as network:
        aside.rename(ledger)
        slow = network.drive

        async def drive(*given: Any) -> FakeMember:
            await asyncio.sleep(0.2)
            return await slow(*given)

        network.drive = drive  # type: ignore[method-assign]
        quorum = f"quorum:{ledger.stem}"
        wakes = [
            threading.Thread(target=lambda: calling.need(home.path, "wake", quorum=quorum)) for _ in "ab"
        ]
        for wake in wakes:
            wake.start()
        for wake in wakes:
            wake.join()
        found = calling.need(home.path, "status")
        assert found["refused"] == [] and [q["quorum"] for q in found["quorums"]] == [quorum]
    assert "ledger.refused" not in events(home)


def test_an_error_that_nobody_waits_for_is_in_the_log(home: Home) -> None:
    with running(home) as network:
        runner = network.runner  # type: ignore[attr-defined]
        loop = runner._end.get_loop()
        loop.call_soon_threadsafe(lambda: 1 / 0)
        until(lambda: "node.bug" in events(home))
    line = (home.path / "log").read_text()
    assert "ZeroDivisionError" in line and "Traceback" not in line


def test_reload_reads_settings_and_new_ledgers(home: Home) -> None:
    with running(home) as network:
        assert calling.need(home.path, "reload")["quorums"] == 1 and network.reloads == 1
        (home.path / "config.toml").write_text("broken = [")
        with pytest.raises(IdaoError, match="cannot be read"):
            calling.need(home.path, "reload")
        assert calling.need(home.path, "status")["running"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_in_order(home: Home, number: int) -> None:
    import subprocess
    import sys

    node = subprocess.Popen([sys.executable, "-m", "idao", "--home", str(home.path), "node", "run", "--json"],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    for line in node.stderr:  # type: ignore[union-attr]
        if json.loads(line)["event"] == "node.started":
            break
    os.kill(node.pid, signal.SIGHUP)
    assert json.loads(node.stderr.readline())["event"] == "node.reloaded"  # type: ignore[union-attr]
    config = home.path / "config.toml"
    kept = config.read_text()
    config.write_text("broken = [")
    os.kill(node.pid, signal.SIGHUP)
    assert json.loads(node.stderr.readline())["event"] == "reload.refused"  # type: ignore[union-attr]
    config.write_text(kept)
    os.kill(node.pid, number)
    out, rest = node.communicate(timeout=20)
    assert [json.loads(line)["event"] for line in rest.splitlines()] == ["node.stopped"]
    assert node.returncode == 0 and json.loads(out)["stopped"] == signal.Signals(number).name
    assert not calling.socket_path(home.path).exists()


# --- log ------------------------------------------------------------------------------------------------


def test_dispatch_keeps_what_may_still_be_ordered(home: Home) -> None:
    dao = Dao(home)
    with dao.home_db() as db:
        Outbox(db, dao.quorum).put([_signed(dao)], now_ms())

    def unwilling(raw: bytes) -> None:
        raise Refused("not now", code="inadmissible")

    dispatch = Dispatch(home.database, dao.ledger_path(), unwilling)
    assert dispatch.carry() == 1 and dao.pending() == 1
    dispatch.close()
