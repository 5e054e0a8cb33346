"""What the ledgers of one node share: one TLS identity, one listener, discovery and pairing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from idao import validatorkeys
from idao.crypto.keys import Signer
from idao.errors import IdaoError
from idao.home import Home, Keys
from idao.identity import idao_id
from idao.model import Fault, parse_id
from idao.node import addresses, metrics, tls
from idao.node.control import Handler
from idao.node.discovery import Discovery, Found
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
        self.lobby = Lobby(self.listener, self.seats, log, str(home.get("idao", "name", "")))
        self.lobby.changed = self._announce
        self.discovery: Discovery | None = None
        self._starting: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.listener.open()
        if addresses.discovers(self._home):
            self.discovery = Discovery(
                self.listener.port, chosen=addresses.chosen_of(self._home), on_found=self._on_found
            )
            self.discovery.on_interfaces = self._on_interfaces
            self._starting = asyncio.get_running_loop().create_task(self.discovery.start())
        self._log.note("listening", port=self.listener.port, hosts=", ".join(self.listener.hosts))

    async def stop(self) -> None:
        self.lobby.desk.close()
        for task in (self._starting, self._telling):
            if task is not None:
                task.cancel()
        if self.discovery is not None:
            await self.discovery.stop()
        await self.listener.close()

    async def drive(
        self, ledger: Path, changed: Callable[[], None], failed: Callable[[BaseException], None]
    ) -> Seatholder:
        own = addresses.own(self._home, self.listener.port)
        signers = self._signers(parse_id("quorum", f"quorum:{ledger.stem}"))
        seat = Seatholder(ledger, self._me, signers, self._identity, own, self._log)
        seat.changed, seat.failed, seat.gone = changed, failed, lambda: self._forget(seat.quorum)
        seat.manual = manual_addresses(self._home)
        self.seats[seat.quorum] = seat
        self.listener.add(seat.mesh)
        self._announce()
        return seat

    def _forget(self, quorum: bytes) -> None:
        """Its ledger is driven here no longer: nobody is let in for it, nothing of it is announced."""
        self.seats.pop(quorum, None)
        self.listener.remove(quorum)
        self._announce()

    # --- discovery: hints only

    def _announce(self) -> None:
        """Tells the LAN, under tags that only members can read, which quorums are here."""
        if self.discovery is not None:
            telling = self._tell(self.discovery, self._telling)
            self._telling = asyncio.get_running_loop().create_task(telling)

    async def _tell(self, discovery: Discovery, earlier: asyncio.Task[None] | None) -> None:
        for before in (self._starting, earlier):
            if before is not None:
                await asyncio.wait([before])
        await discovery.announce(list(self.seats), pairing=bool(self.lobby.desk.open_invites()))
        self._hint()

    def _on_found(self, found: Found) -> None:
        self._hint()

    def _hint(self) -> None:
        for seat in self.seats.values():
            if self.discovery is not None and (places := self.discovery.members(seat.quorum)):
                seat.mesh.hint(places)

    def _on_interfaces(self) -> None:
        """The machine has other addresses: a new node record for every quorum."""
        own = addresses.own(self._home, self.listener.port)
        for seat in self.seats.values():
            seat.moved(own)
        self._log.note("addresses.changed", addresses=", ".join(own))

    def take_faults(self) -> list[tuple[bytes, Fault]]:
        """(quorum, fault) seen since this was last asked; may be called from another thread."""
        out = []
        for quorum, seat in list(self.seats.items()):
            seen, seat.faults = seat.faults, []
            out += [(quorum, fault) for fault in seen]
        return out

    def _signers(self, quorum: bytes) -> tuple[Signer, ...]:
        return validatorkeys.held(self._home, quorum, self._keys)

    def reload(self, home: Home) -> None:
        self._home = home
        for seat in self.seats.values():
            seat.manual = manual_addresses(home)
            seat.hold(self._signers(seat.quorum))
            seat.allow()

    def status(self) -> dict[str, Any]:
        seen = self.discovery.status() if self.discovery is not None else []
        return {
            "port": self.listener.port,
            "hosts": list(self.listener.hosts),
            "discovery": [
                {"interface": s.name, "addresses": list(s.addresses), "working": s.working, "echo": s.echo,
                 "seen": s.seen, "trouble": s.trouble or None}
                for s in seen
            ],
        }  # fmt: skip

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
