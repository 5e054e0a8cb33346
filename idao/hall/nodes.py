"""The node of a home: running it here, asking it, stopping it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idao.errors import Busy, NotFound, Unreachable
from idao.home import LOCK_POLL_S
from idao.node import calling

if TYPE_CHECKING:
    from idao.dao import Dao

STATUS_S = 5.0
"""A status is answered from memory; a node that needs longer hangs."""


class Nodes:
    def __init__(self, dao: Dao) -> None:
        self._dao = dao

    def run(self, *, log: Path | None = None, level: str = "info", plain: bool = False) -> dict[str, Any]:
        """Drives the group ledgers of this home until the node is told to stop. Needs the keys."""
        import asyncio

        from idao.hall.chores import chores
        from idao.node.logbook import Logbook
        from idao.node.network import LanNetwork
        from idao.node.runner import Runner

        keys = self._dao.keys()
        book = Logbook(log, plain=plain, level=level)
        network = LanNetwork(self._dao.home, keys, book)
        runner = Runner(self._dao.home, network, book, chores=chores(self._dao, network.take_faults))
        began = time.monotonic()
        why = asyncio.run(runner.run())
        return {"stopped": why, "uptime_s": int(time.monotonic() - began)}

    def status(self) -> dict[str, Any]:
        """What the running node says of itself, or only that none runs. Needs no key."""
        found = calling.ask(self._dao.home.path, "status", timeout_s=STATUS_S)
        deadline = time.monotonic() + STATUS_S
        while found is None and self.lock_held() and time.monotonic() < deadline:
            time.sleep(LOCK_POLL_S)  # it is starting, or ending
            found = calling.ask(self._dao.home.path, "status", timeout_s=STATUS_S)
        if found is None:
            if self.lock_held():
                raise Unreachable(
                    "a node holds its lock but does not answer",
                    hint="it may be starting; see its log, or end it by the pid in node.lock",
                    code="node",
                )
            nothing = {"pid": None, "version": None, "started": None, "uptime_s": 0}
            return {"running": False, **nothing, "quorums": [], "refused": []}
        return found

    def lock_held(self) -> bool:
        """Whether a node of this home lives, answering or not."""
        if not (self._dao.home.path / "node.lock").exists():
            return False
        try:
            with self._dao.home.node_alone():
                return False
        except Busy:
            return True

    def stop(self) -> dict[str, Any]:
        """Asks the node to end, and waits until it has."""
        found = calling.ask(self._dao.home.path, "stop")
        if found is None:
            raise NotFound("no node of this home runs", code="no-node")
        deadline = time.monotonic() + self._dao.wait_s
        while self.lock_held():
            if time.monotonic() >= deadline:
                raise Busy(
                    f"the node (pid {found['pid']}) has not ended yet", hint="wait, or end it by its pid"
                )
            time.sleep(LOCK_POLL_S)
        return {"stopped": True, "pid": found["pid"]}

    def reload(self) -> dict[str, Any]:
        return calling.need(self._dao.home.path, "reload")

    def quorum(self, quorum: str) -> dict[str, Any] | None:
        """What the node knows of one quorum (full id); None where no node drives it."""
        try:
            found = calling.ask(self._dao.home.path, "status", timeout_s=STATUS_S)
        except Unreachable:
            return None
        return next((q for q in (found or {}).get("quorums", []) if q["quorum"] == quorum), None)

    def refused(self, quorum: str) -> str | None:
        """Why the running node does not drive a quorum of this home; None where it does, or none runs."""
        try:
            found = calling.ask(self._dao.home.path, "status", timeout_s=STATUS_S)
        except Unreachable:
            return None
        return next((r["why"] for r in (found or {}).get("refused", []) if r["quorum"] == quorum), None)

    def metrics(self) -> str:
        """OpenMetrics text of the running node."""
        return str(calling.need(self._dao.home.path, "metrics")["text"])
