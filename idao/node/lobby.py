"""Where a running node lets newcomers in: invites, and offers that wait for the word of a person.

The node keeps the door; who is let in is decided in the hall, by a command that has seen the six words. The
transactions of an accepted newcomer go through the outbox, so they outlive this process.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from idao import invite
from idao.crypto import canonical
from idao.errors import NotFound, UsageError
from idao.home import show_time
from idao.model import parse_id, show_id
from idao.node.control import Handler
from idao.node.listener import Listener
from idao.node.logbook import Logbook
from idao.node.pairing import Desk, Pending
from idao.node.seat import Seatholder
from idao.node.wire import printable

MINUTES_MAX = 24 * 60
"""An invite that is open for longer than a day is a hole."""


class Lobby:
    """The desk of pairing, asked over the control socket."""

    def __init__(
        self, listener: Listener, seats: Mapping[bytes, Seatholder], log: Logbook, name: str = ""
    ) -> None:
        self._listener, self._seats, self._log = listener, seats, log
        self.desk = Desk(listener, self._on_offer, name)
        self.changed: Callable[[], None] = lambda: None
        """Invites opened or ended: what is announced changes."""
        self.desk.on_failure = lambda address, why: log.note(
            "pairing.failed", "warning", address=address, why=why
        )

    def _on_offer(self, pending: Pending) -> None:
        self._log.note("pairing.offer", quorum=pending.quorum, peer=pending.offer.idao)

    def handlers(self) -> dict[str, Handler]:
        return {"invite": self._on_invite, "offers": self._on_offers, "decide": self._on_decide}

    async def _on_invite(self, request: dict[str, Any]) -> dict[str, Any]:
        seat = self._seat(request)
        minutes = request.get("minutes", 10)
        if type(minutes) is not int or not 0 < minutes <= MINUTES_MAX:
            raise UsageError(f"an invite holds for 1 to {MINUTES_MAX} minutes")
        own = _best(seat.mesh.own.record.addresses)
        text = self.desk.invite(
            seat.quorum, canonical.pack(seat.store.bundle), seat.mesh.records, own, valid_ms=minutes * 60_000
        )
        made = invite.decode(text)
        self.changed()
        self._log.note("pairing.invite", quorum=seat.quorum, minutes=minutes)
        return {"invite": text, "expires": show_time(made.expires_s * 1000), "addresses": list(own)}

    async def _on_offers(self, request: dict[str, Any]) -> dict[str, Any]:
        quorum = parse_id("quorum", str(request.get("quorum", "")))
        return {"offers": [_shown(p) for p in self.desk.pending() if p.quorum == quorum]}

    async def _on_decide(self, request: dict[str, Any]) -> dict[str, Any]:
        pending = self.desk.find(str(request.get("words", "")))
        accepted = request.get("accept") is True
        self.desk.decide(pending, accepted, str(request.get("reason", "")))
        offer = pending.offer
        if accepted and (seat := self._seats.get(pending.quorum)) is not None:
            seat.learn([offer.record])
        self.changed()
        self._log.note("pairing.decided", quorum=pending.quorum, peer=offer.idao, accepted=accepted)
        return {"idao": show_id("idao", offer.idao), "accepted": accepted}

    def _seat(self, request: dict[str, Any]) -> Seatholder:
        quorum = parse_id("quorum", str(request.get("quorum", "")))
        if quorum not in self._seats:
            raise NotFound("the node does not drive this quorum", code="not-driven")
        return self._seats[quorum]


def _best(texts: tuple[str, ...]) -> tuple[str, ...]:
    """IPv4 first: shorter in the line, and what most LANs have."""
    return tuple(sorted(texts, key=lambda t: t.startswith("[")))[: invite.ADDRESSES_MAX]


def _shown(p: Pending) -> dict[str, Any]:
    return {
        "words": p.words,
        "idao": show_id("idao", p.offer.idao),
        "key": p.offer.key.hex(),
        "name": printable(p.offer.name),
        "since": show_time(p.since_ms),
        "contested": p.contested,
        "present": p.present,
        "txs": [base64.b64encode(raw).decode() for raw in p.offer.txs],
    }
