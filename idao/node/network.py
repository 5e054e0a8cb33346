"""What the ledgers of one node share: its members, and how they are told apart and shown.

A `Seatholder` is one quorum as this process takes part in it: the ledger file, the member that drives it, and
what is known of its peers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from idao.home import Home, Keys, now_ms
from idao.ledger.tx import Receipt
from idao.model import Fault, show_id
from idao.node.control import Handler
from idao.node.engine import Engine
from idao.node.logbook import Logbook
from idao.node.member import Member
from idao.store.ledger import LedgerStore


class Seatholder:
    """Drives one ledger (`runner.Driven`)."""

    def __init__(
        self,
        path: Path,
        keys: Keys,
        log: Logbook,
        *,
        changed: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self.store = LedgerStore.open(path)
        self.quorum = self.store.chain.quorum
        self._log, self._changed, self._failed = log, changed, failed
        self.member = Member(Engine(self.store, keys.validator, now_ms), asyncio.get_running_loop())
        self.member.on_commit = self._on_commit
        self.member.on_fault = self._on_fault
        self.member.on_trouble = lambda what, why: self._log.note(
            f"quorum.{what}", "warning", quorum=self.quorum, why=why
        )
        self.member.on_broken = self._on_broken
        self.faults: list[Fault] = []
        """Seen, and not yet reported to the ledger."""
        self.commits = self.txs = 0
        self.committed_ms = 0

    async def start(self) -> None:
        self.member.start()

    async def stop(self) -> None:
        self.member.stop()
        self.store.close()

    def submit(self, raw: bytes) -> object:
        return self.member.submit(raw)

    def _on_commit(self, height: int, receipts: list[tuple[int, Receipt]]) -> None:
        self.commits += 1
        self.txs += len(receipts)
        self.committed_ms = now_ms()
        self._log.note("block.final", "debug", quorum=self.quorum, height=height, receipts=len(receipts))
        self._changed()

    def _on_fault(self, fault: Fault) -> None:
        self._log.note("fault.seen", "error", quorum=self.quorum, why=f"{fault}")
        self.faults.append(fault)
        self._changed()

    def _on_broken(self, error: BaseException) -> None:
        """Memory is ahead of the disk: only a new process may go on."""
        self._failed(f"{show_id('quorum', self.quorum)}: {type(error).__name__}: {error}")

    def status(self) -> dict[str, Any]:
        engine = self.member.engine
        seats = self.member.seats()
        here = {*self.member.up, *(v.idao for v in seats if v.key == engine.machine.key)}
        anchored = self.store.checkpoint()
        return {
            "height": engine.tip.height,
            "anchored": anchored[0] if anchored else 0,
            "size": len(seats),
            "online": sum(1 for v in seats if v.idao in here),
            "up": [show_id("idao", p) for p in sorted(here)],
            "pool": len(engine.pool),
        }


class LocalNetwork:
    """The network of a node (`runner.Network`)."""

    def __init__(self, home: Home, keys: Keys, log: Logbook) -> None:
        self._home, self._keys, self._log = home, keys, log
        self.seats: dict[bytes, Seatholder] = {}

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def drive(
        self, ledger: Path, changed: Callable[[], None], failed: Callable[[str], None]
    ) -> Seatholder:
        seat = Seatholder(ledger, self._keys, self._log, changed=changed, failed=failed)
        self.seats[seat.quorum] = seat
        return seat

    def reload(self, home: Home) -> None:
        self._home = home

    def status(self) -> dict[str, Any]:
        return {}

    def handlers(self) -> dict[str, Handler]:
        return {}
