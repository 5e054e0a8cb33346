"""What the ledgers of one node share: one TLS identity, one listener, discovery and pairing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from idao.errors import IdaoError
from idao.home import Home, Keys
from idao.identity import idao_id
from idao.model import parse_id
from idao.node import addresses, metrics, tls
from idao.node.control import Handler
from idao.node.listener import Listener
from idao.node.lobby import Lobby
from idao.node.logbook import Logbook
from idao.node.seat import Seatholder
from idao.noderecord import split_address


class LanNetwork:
    """The network of a node (`runner.Network`)."""

    def __init__(self, home: Home, keys: Keys, log: Logbook) -> None:
        self._home, self._keys, self._log = home, keys, log
        self._me = idao_id(home.history().inception)
        self._identity = tls.identity(home.path)
        self.listener = Listener(self._identity, addresses.port_of(home), addresses.hosts_of(home))
        self.seats: dict[bytes, Seatholder] = {}
        self.lobby = Lobby(self.listener, self.seats, log)

    async def start(self) -> None:
        await self.listener.open()
        self._log.note("listening", port=self.listener.port, hosts=", ".join(self.listener.hosts))

    async def stop(self) -> None:
        self.lobby.desk.close()
        await self.listener.close()

    async def drive(
        self, ledger: Path, changed: Callable[[], None], failed: Callable[[str], None]
    ) -> Seatholder:
        own = addresses.own(self._home, self.listener.port)
        seat = Seatholder(ledger, self._me, self._keys, self._identity, own, self._log)
        seat.changed, seat.failed = changed, failed
        seat.manual = manual_addresses(self._home)
        self.seats[seat.quorum] = seat
        self.listener.add(seat.mesh)
        return seat

    def reload(self, home: Home) -> None:
        self._home = home
        for seat in self.seats.values():
            seat.manual = manual_addresses(home)
            seat.allow()

    def status(self) -> dict[str, Any]:
        return {"port": self.listener.port, "hosts": list(self.listener.hosts)}

    def handlers(self) -> dict[str, Handler]:
        return {**self.lobby.handlers(), "metrics": self._on_metrics}

    async def _on_metrics(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"text": metrics.text([seat.figures() for seat in self.seats.values()])}


def manual_addresses(home: Home) -> dict[bytes, tuple[str, ...]]:
    """iDAO -> addresses that the operator gave (`idao peer add`); what is none is left out."""
    found = {}
    for stem, text in home.config.get("peers", {}).items():
        try:
            given = tuple(part.strip() for part in str(text).split(",") if part.strip())
            for address in given:
                split_address(address)
            found[parse_id("idao", f"idao:{stem}")] = given
        except IdaoError:
            continue
    return found
