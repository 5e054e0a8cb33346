"""The node: one process that drives all group ledgers of a home, until it is told to stop.

It holds the home's node lock and each ledger's own lock, so no command and no second node orders the same
blocks. Commands reach it over the control socket; it reads the outbox when woken and on a slow timer, so that
a wake that was lost costs seconds and no transaction. Everything here runs on one event loop; chores that
sign (and so live in the hall above) run in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from idao import __version__
from idao.errors import Busy, IdaoError, NotFound, Refused
from idao.home import Home, now_ms, show_time
from idao.ledger import genesis
from idao.model import parse_id, show_id
from idao.node import room
from idao.node.control import Control, Handler
from idao.node.dispatch import Dispatch
from idao.node.logbook import Logbook
from idao.store.ledger import LedgerStore

TEND_S = 1.0
"""How often the outbox is read without a wake: what a person barely notices."""
CHORES_S, CHORES_IDLE_S = 1.0, 60.0
"""How often chores are looked at (taking a seat, evidence that runs out): after a block, and without one."""
STOP_S = 5.0
"""How long a graceful stop may take before the process ends all the same: nothing is lost by it."""


class Driven(Protocol):
    """A group ledger that this process drives (`node.member.Member`, with its mesh)."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def submit(self, raw: bytes) -> object: ...
    def status(self) -> dict[str, Any]: ...


class Network(Protocol):
    """What all ledgers of a home share: listener, discovery, pairing."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def drive(
        self, ledger: Path, changed: Callable[[], None], failed: Callable[[BaseException], None]
    ) -> Driven:
        """A member of the ledger's quorum. `changed`: after each block; `failed`: it can do nothing more."""
        ...

    def reload(self, home: Home) -> None: ...
    def status(self) -> dict[str, Any]: ...
    def handlers(self) -> dict[str, Handler]: ...


class Charge:
    """One ledger in the node's charge."""

    def __init__(self, home: Home, path: Path, locks: ExitStack, driven: Driven) -> None:
        self.path, self.driven, self._locks = path, driven, locks
        self._dispatch = Dispatch(home.database, path, driven.submit)
        self.quorum = parse_id("quorum", f"quorum:{path.stem}")
        self.waiting = 0

    def carry(self, *, again: bool = False) -> None:
        self.waiting = self._dispatch.carry(again=again)

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.driven.stop(), STOP_S)
        self._dispatch.close()
        self._locks.close()


class Runner:
    """Runs until `stop`, a signal, or a failure that must end the process."""

    def __init__(
        self, home: Home, network: Network, log: Logbook, *, chores: Sequence[Callable[[], None]] = ()
    ) -> None:
        self.home, self._network, self._log, self._chores = home, network, log, chores
        self._charges: dict[bytes, Charge] = {}
        self._started_ms = now_ms()
        self._end: asyncio.Future[str] | None = None
        self._wake = asyncio.Event()
        self._chore: asyncio.Task[None] | None = None
        self._stirred = False
        self._refused: dict[str, str] = {}
        """Ledgers that cannot be driven, and why."""
        self._full: dict[bytes, str] = {}
        """Those that are to be let go for want of room, and why."""
        self._starved: set[bytes] = set()
        """Those that were, and wait for room."""
        self._unread = ""
        self._taking = asyncio.Lock()

    async def run(self) -> str:
        """Returns why it ended. `Busy` while another node runs; any failure inside is raised at the end."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_bug)
        self._end = loop.create_future()
        with self.home.node_alone():
            control = Control(self.home.path, {**self._handlers(), **self._network.handlers()})
            try:
                await self._network.start()
                await self._take_charge()
                await control.start()
                self._listen_to_signals(loop)
                self._log.note(
                    "node.started", pid=os.getpid(), version=__version__, ledgers=len(self._charges)
                )
                _tell_service_manager("READY=1")
                return await self._tend_until_end()
            finally:
                _tell_service_manager("STOPPING=1")
                await control.close()
                await self._let_go()
                self._log.note("node.stopped")

    # --- ledgers

    async def _take_charge(self) -> None:
        """Starts driving every group ledger of the home that is not driven yet."""
        async with self._taking:  # two at once would have the second wait in vain for the first one's lock
            await self._take_all()

    async def _take_all(self) -> None:
        for path in sorted(self.home.ledgers_folder.glob("*.db")):
            quorum = parse_id("quorum", f"quorum:{path.stem}")
            if quorum in self._charges or (
                quorum in self._starved and room.lacking(path.parent, room.GO_BYTES)
            ):
                continue
            try:
                await self._take(path, quorum)
            except (IdaoError, sqlite3.OperationalError) as e:  # the other ledgers go on
                why, hint = (e.message, e.hint) if isinstance(e, IdaoError) else (str(e), None)
                if self._refused.get(path.stem) != why:
                    self._log.note("ledger.refused", "error", quorum=quorum, why=why, hint=hint)
                self._refused[path.stem] = why

    async def _take(self, path: Path, quorum: bytes) -> None:
        store = LedgerStore.open(path, readonly=True)
        group = store.bundle.genesis.kind == genesis.GROUP and store.continued_by is None
        store.close()
        if not group:
            return
        if why := room.lacking(path.parent):
            self._starved.add(quorum)
            raise Refused(why, hint="free some space: it goes on by itself", code="no-room")
        with ExitStack() as held:
            await _enter_lock(held, self.home, path)
            driven = await self._network.drive(path, self._changed, lambda e: self._failed(quorum, path, e))
            charge = Charge(self.home, path, held.pop_all(), driven)
        self._charges[quorum] = charge
        self._starved.discard(quorum)
        self._refused.pop(path.stem, None)
        await driven.start()
        self._carry(charge)
        self._log.note("ledger.driven", quorum=quorum, height=driven.status().get("height"))

    def _failed(self, quorum: bytes, path: Path, error: BaseException) -> None:
        """A turn broke off: memory is ahead of the disk. A full disk ends the drive, all else the process."""
        if why := room.ran_out(error, path.parent):
            self._full[quorum] = why
            self._wake.set()
        else:
            self.fail(f"{show_id('quorum', quorum)}: {type(error).__name__}: {error}")

    async def _mind_room(self) -> None:
        """Lets go of ledgers whose disk is nearly full; takes up those that have room again."""
        for quorum, charge in self._charges.items():
            if why := room.lacking(charge.path.parent):
                self._full.setdefault(quorum, why)
        full, self._full = self._full, {}
        for quorum, why in full.items():
            charge = self._charges.pop(quorum)
            self._starved.add(quorum)
            self._refused[charge.path.stem] = why
            self._log.note("ledger.starved", "error", quorum=quorum, why=why)
            await charge.close()
        if self._starved:
            await self._take_charge()

    async def _let_go(self) -> None:
        if self._chore is not None:
            await asyncio.wait([self._chore], timeout=STOP_S)
        for charge in self._charges.values():
            await charge.close()
        self._charges.clear()
        await self._network.stop()

    def _changed(self) -> None:
        """A block is final somewhere, or signing began or ended: what follows is looked at soon."""
        self._stirred = True
        self._wake.set()

    # --- the loop

    async def _tend_until_end(self) -> str:
        assert self._end is not None
        loop = asyncio.get_running_loop()
        done_at, looked_at = -CHORES_IDLE_S, 0.0
        while not self._end.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), TEND_S)
            slow = not self._wake.is_set()
            self._wake.clear()
            if self._full or loop.time() - looked_at >= room.LOOK_S:
                looked_at = loop.time()
                await self._mind_room()
            for charge in list(self._charges.values()):
                if slow or charge.waiting:
                    self._carry(charge, again=slow)
            rest = loop.time() - done_at
            due = rest >= CHORES_IDLE_S or (self._stirred and rest >= CHORES_S)
            if due and (self._chore is None or self._chore.done()):
                self._stirred, done_at = False, loop.time()
                self._chore = loop.create_task(self._do_chores())
        return self._end.result()

    def _carry(self, charge: Charge, *, again: bool = False) -> None:
        """What cannot be read or settled now (a full disk, a long backup) is offered at the next turn."""
        try:
            charge.carry(again=again)
            why = ""
        except (IdaoError, sqlite3.OperationalError) as e:
            why = str(e)
        if why and why != self._unread:
            self._log.note("outbox.unread", "warning", quorum=charge.quorum, why=why)
        self._unread = why

    async def _do_chores(self) -> None:
        for chore in self._chores:
            try:
                await asyncio.to_thread(chore)
            except IdaoError as e:
                self._log.note("chore.refused", "warning", why=e.message, hint=e.hint)
            except Exception as e:
                self._log.note("chore.failed", "error", why=f"{type(e).__name__}: {e}")

    def _listen_to_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _on_hangup(self) -> None:
        self._reloading = asyncio.get_running_loop().create_task(self._reload_if_possible())

    async def _reload_if_possible(self) -> None:
        with contextlib.suppress(IdaoError):  # told in the log; nobody waits for an answer
            await self._reload()

    def stop(self, why: str = "stop") -> None:
        if self._end is not None and not self._end.done():
            self._end.set_result(why)
            self._wake.set()

    def _on_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An error that nobody waits for: without this it would go where no log is, or nowhere."""
        error = context.get("exception")
        where = traceback.extract_tb(error.__traceback__)[-1:] if error is not None else []
        what = f": {type(error).__name__}: {error}" if error is not None else ""
        at = (
            f", in {where[0].name}, line {where[0].lineno} of {Path(where[0].filename).name}" if where else ""
        )
        self._log.note("node.bug", "error", why=f"{context['message']}{what}{at}")

    def fail(self, why: str) -> None:
        """A ledger could not be written, or a machine broke its contract: the process must end."""
        self._log.note("node.failed", "error", why=why)
        if self._end is not None and not self._end.done():
            self._end.set_exception(IdaoError(why, hint="see 'idao doctor'", code="node-failed"))
            self._wake.set()

    async def _reload(self) -> None:
        """Settings, peers and ledgers anew; what is driven already goes on undisturbed."""
        try:
            self.home.config = Home.open(self.home.path).config
            self._log.reopen()
            self._network.reload(self.home)
        except IdaoError as e:
            self._log.note("reload.refused", "error", why=e.message)
            raise
        await self._take_charge()
        self._log.note("node.reloaded", ledgers=len(self._charges))

    # --- what commands ask

    def _handlers(self) -> dict[str, Handler]:
        return {
            "wake": self._on_wake,
            "status": self._on_status,
            "stop": self._on_stop,
            "reload": self._on_reload,
        }

    def charge(self, request: dict[str, Any]) -> Charge:
        quorum = parse_id("quorum", str(request.get("quorum", "")))
        if quorum not in self._charges:
            why = self._refused.get(show_id("quorum", quorum).removeprefix("quorum:"))
            raise NotFound(
                f"the node does not drive this quorum{': ' + why if why else ''}", code="not-driven"
            )
        return self._charges[quorum]

    async def _on_wake(self, request: dict[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(NotFound):
            return self._wake_charge(request)
        await self._take_charge()  # a ledger that is newer than this process
        return self._wake_charge(request)

    def _wake_charge(self, request: dict[str, Any]) -> dict[str, Any]:
        charge = self.charge(request)
        self._carry(charge)
        return {"waiting": charge.waiting}

    async def _on_status(self, request: dict[str, Any]) -> dict[str, Any]:
        return {
            "running": True,
            "pid": os.getpid(),
            "version": __version__,
            "started": show_time(self._started_ms),
            "uptime_s": (now_ms() - self._started_ms) // 1000,
            **self._network.status(),
            "quorums": [
                {"quorum": show_id("quorum", q), "waiting": c.waiting, **c.driven.status()}
                for q, c in self._charges.items()
            ],
            "refused": [{"quorum": f"quorum:{s}", "why": why} for s, why in sorted(self._refused.items())],
        }

    async def _on_stop(self, request: dict[str, Any]) -> dict[str, Any]:
        asyncio.get_running_loop().call_soon(self.stop, "stop")
        return {"stopping": True, "pid": os.getpid()}

    async def _on_reload(self, request: dict[str, Any]) -> dict[str, Any]:
        await self._reload()
        return {"reloaded": True, "quorums": len(self._charges)}


async def _enter_lock(held: ExitStack, home: Home, path: Path) -> None:
    """The ledger's lock; a command that drives it now is done in a moment, so the loop waits for that."""
    for _ in range(20):
        try:
            held.enter_context(home.driving(path, 0))
            return
        except Busy:
            await asyncio.sleep(0.1)
    held.enter_context(home.driving(path, 0))


def _tell_service_manager(state: str) -> None:
    """sd_notify(3): a line to the socket that systemd names, if it does."""
    where = os.environ.get("NOTIFY_SOCKET")
    if not where or sys.platform != "linux":
        return
    import socket

    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.connect("\0" + where[1:] if where.startswith("@") else where)
        s.sendall(state.encode())
