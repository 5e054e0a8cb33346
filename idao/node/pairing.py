"""Pairing: how somebody who was handed an invite and the node that made it come to know each other's keys.

    joiner  -> Hail      commitment to who it is and a nonce; proof of the secret
    inviter -> Reply     its nonce, the genesis bundle; proof
    joiner  -> Offer     the nonce, who it is, its node record, key history and transactions; proof
                         both show six words; the people compare them
    inviter -> Verdict   yes, and the node records of the members; or no, and why; proof

All of it runs inside TLS to the certificate whose hash the invite names; each proof covers the transcript so
far, with that certificate and, from the offer on, the joiner's (its record holds it). ADR 0035 says what this
withstands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Annotated

from idao import identity, invite, noderecord
from idao.crypto import canonical
from idao.errors import Malformed, NotFound, Refused
from idao.frozen import frozen
from idao.home import entropy, now_ms
from idao.invite import Invite
from idao.ledger import tx as txs
from idao.ledger.idao import KEY_EVENTS_MAX, Register
from idao.ledger.membership import Join
from idao.model import TX_BYTES_MAX, Hash, Id, Inception, PublicKey, Salt, SignedKeyEvent, Size
from idao.node.link import Link
from idao.node.listener import Listener
from idao.node.wire import PAIR, RECORDS_MAX
from idao.noderecord import SignedNodeRecord

INVITES_MAX = 8
"""Open at a time: more is a mistake, and each wrong proof is tried against all of them."""
SILENT_MAX = 4
"""Connections that have proven nothing yet; the oldest makes room."""
STEP_S = 15.0
"""For each step that needs no person: signing two transactions takes milliseconds."""
WAIT_S = 5.0
"""While people compare words, the inviter's node says this often that it is still there."""
OFFER_BYTES_MAX = 768 * 1024
"""1,024 key events of 300 bytes, two transactions, a record."""
BUNDLE_BYTES_MAX = 1024 * 1024
"""64 founders with long key histories."""
HISTORY_MAX = KEY_EVENTS_MAX
NAME_BYTES_MAX = 400
"""Of a joiner's own name: 100 characters, as a home allows."""

_Proof = Annotated[bytes, Size(32)]


@frozen
class Hail:
    v: int
    commitment: Hash
    proof: _Proof


@frozen
class Reply:
    nonce: Salt
    bundle: Annotated[bytes, Size(1, BUNDLE_BYTES_MAX)]
    """Canonical bytes of `ledger.genesis.Bundle`."""
    proof: _Proof


@frozen
class Offer:
    """Who asks to join. `txs`: `idao.register` where the iDAO is new to the quorum, then `quorum.join`.

    `name` is what it calls itself: shown as a claim, and a suggestion of what to call it.
    """

    nonce: Salt
    idao: Id
    key: PublicKey
    """Validator key."""
    record: SignedNodeRecord
    inception: Inception
    events: Annotated[tuple[SignedKeyEvent, ...], Size(0, HISTORY_MAX)]
    txs: Annotated[tuple[Annotated[bytes, Size(1, TX_BYTES_MAX + 4096)], ...], Size(1, 2)]
    name: Annotated[str, Size(0, NAME_BYTES_MAX)]


@frozen
class Sealed:
    """A message and its proof."""

    message: Annotated[bytes, Size(1, 4 * 1024 * 1024 - 1024)]
    proof: _Proof


@frozen
class Verdict:
    accepted: bool
    reason: Annotated[str, Size(0, 200)]
    records: Annotated[tuple[SignedNodeRecord, ...], Size(0, RECORDS_MAX)]
    name: Annotated[str, Size(0, NAME_BYTES_MAX)]
    """What the inviter calls itself: a suggestion."""


@frozen
class Refusal:
    """Instead of a reply: this invite is not taken. Not proven, as there may be no secret in common."""

    reason: Annotated[str, Size(0, 200)]


def check_offer(offer: Offer, quorum: bytes) -> None:
    """`Malformed` unless everything in it is of one iDAO, one validator key, one certificate, this quorum."""
    record = offer.record.record
    noderecord.check(offer.record)
    if (record.quorum, record.idao, record.key) != (quorum, offer.idao, offer.key):
        raise Malformed("the offered node record is another one's")
    now = identity.key_at(offer.inception, offer.events)
    if now.idao != offer.idao:
        raise Malformed("the offered key history is another one's")
    kinds = []
    for raw in offer.txs:
        tx = txs.parse_tx(raw)
        envelope = tx.envelope
        if (envelope.quorum, envelope.idao, envelope.key) != (quorum, offer.idao, now.key):
            raise Malformed("an offered transaction is another one's")
        if not tx.authentic():
            raise Malformed("the signature of an offered transaction does not hold")
        kinds.append(envelope.kind)
        if envelope.kind == "quorum.join":
            body = canonical.unpack(Join, envelope.body)
            if (body.key, body.tls) != (offer.key, record.tls):
                raise Malformed("the offered seat is for other keys than those shown")
        elif envelope.kind == "idao.register":
            given = canonical.unpack(Register, envelope.body)
            if (given.inception, given.events) != (offer.inception, offer.events):
                raise Malformed("the offered registration has another key history")
    if kinds not in (["quorum.join"], ["idao.register", "quorum.join"]):
        raise Malformed("the offered transactions are not those of a joiner")


class Pending:
    """An offer that waits for the inviter's word."""

    def __init__(self, session: _Session, offer: Offer, words: str) -> None:
        self._session = session
        self.offer, self.words = offer, words
        self.since_ms = now_ms()

    @property
    def quorum(self) -> bytes:
        return self._session.ticket.quorum

    @property
    def contested(self) -> bool:
        """Somebody else came with the same invite: it is in two hands, so look twice at the words."""
        return self._session.ticket.contested

    @property
    def present(self) -> bool:
        """Whether the joiner is still connected."""
        return self._session.link.open


class _Ticket:
    """An open invite on the inviter's side."""

    def __init__(
        self, made: Invite, quorum: bytes, bundle: bytes, records: Callable[[], list[SignedNodeRecord]]
    ) -> None:
        self.invite, self.quorum, self.bundle, self.records = made, quorum, bundle, records
        self.session: _Session | None = None
        self.contested = False


class _Session:
    """One connection that came to pair."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.ticket: _Ticket
        self.nonce = b""
        self.commitment = b""
        self.transcript: list[bytes] = []
        self.pending: Pending | None = None
        self.deadline = monotonic() + STEP_S


class Desk:
    """The inviter's side: open invites, and offers that wait. Runs on the listener's event loop.

    `on_offer` is told of each offer that holds together; what is accepted must come through `decide`.
    Invites live in memory alone: a restart of the node voids them. `name` is what its owner calls itself.
    """

    def __init__(self, listener: Listener, on_offer: Callable[[Pending], None], name: str = "") -> None:
        self.listener, self.on_offer, self.name = listener, on_offer, name
        self.on_failure: Callable[[str, str], None] = lambda address, why: None
        """For the log: who tried what."""
        self._tickets: list[_Ticket] = []
        self._silent: list[_Session] = []
        self._ticking = False

    # --- for the operator

    def invite(
        self,
        quorum: bytes,
        bundle: bytes,
        records: Callable[[], list[SignedNodeRecord]],
        addresses: tuple[str, ...],
        *,
        valid_ms: int = invite.VALID_MS,
    ) -> str:
        """A new invite into `quorum`. `records` is asked when a joiner is accepted.

        `Refused` when too many are open.
        """
        self._expire()
        if len(self._tickets) >= INVITES_MAX:
            raise Refused(
                f"{INVITES_MAX} invites are open already", code="invites", hint="wait until one ends"
            )
        made = Invite(
            invite.Secret(entropy(invite.SECRET_BYTES)),
            self.listener.identity.pin[: invite.PIN_BYTES],
            quorum[: invite.QUORUM_BYTES],
            (now_ms() + valid_ms) // 1000,
            addresses[: invite.ADDRESSES_MAX],
        )
        self._tickets.append(_Ticket(made, quorum, bundle, records))
        self.listener.pairing = self._arrive
        self._tick_later()
        return invite.encode(made)

    def open_invites(self) -> list[Invite]:
        self._expire()
        return [ticket.invite for ticket in self._tickets]

    def pending(self) -> list[Pending]:
        sessions = [ticket.session for ticket in self._tickets]
        return [s.pending for s in sessions if s is not None and s.pending is not None]

    def find(self, words: str) -> Pending:
        """The offer with these words; `NotFound` when none that waits has them."""
        for pending in self.pending():
            if invite.same_words(words, pending.words):
                return pending
        raise NotFound(
            "nobody who waits to join shows these words",
            hint="compare them with the joiner's screen; if they differ, refuse: somebody is in between",
        )

    def decide(self, pending: Pending, accepted: bool, reason: str = "") -> None:
        """Tells the joiner and uses the invite up. `NotFound` when the joiner has gone meanwhile."""
        session = pending._session
        ticket = session.ticket
        if ticket.session is not session or ticket not in self._tickets:
            raise NotFound("the joiner has gone", hint="an invite that has not expired may be tried again")
        records = tuple(ticket.records()[:RECORDS_MAX]) if accepted else ()
        message = canonical.pack(Verdict(accepted, reason[:100], records, self.name if accepted else ""))
        session.transcript.append(message)
        shown = invite.proof(ticket.invite.secret, 4, session.transcript)
        session.link.send(PAIR, canonical.pack(Sealed(message, shown)))
        _finish(session.link, "paired" if accepted else "refused")
        self._end(ticket)

    def close(self) -> None:
        """Voids all invites."""
        for ticket in list(self._tickets):
            self._end(ticket)
        for session in list(self._silent):
            session.link.cut("no invite is open")

    # --- connections

    def _arrive(self, link: Link) -> None:
        session = _Session(link)
        if len(self._silent) >= SILENT_MAX:
            self._silent.pop(0).link.cut("made room for others")
        self._silent.append(session)
        link.receive = lambda link, kind, payload: self._receive(session, kind, payload)
        link.lost = lambda link, reason, blame: self._lost(session, reason)
        self._tick_later()

    def _receive(self, session: _Session, kind: int, payload: bytes) -> None:
        if kind != PAIR:
            raise Malformed(f"a frame of kind {kind} in a pairing")
        if session in self._silent:
            self._on_hail(session, canonical.unpack(Hail, payload))
        elif session.pending is None:
            self._on_offer(session, canonical.unpack(Sealed, payload))
        else:
            raise Malformed("a frame while people compare words")

    def _on_hail(self, session: _Session, hail: Hail) -> None:
        self._expire()
        begun = [self.listener.identity.pin, hail.commitment]
        held = [t for t in self._tickets if invite.proven(t.invite.secret, 1, begun, hail.proof)]
        if hail.v != 1 or not held:
            self._refuse(session, "this node has no such invite open: it expired, was used, or is mistyped")
            return
        ticket = held[0]
        if ticket.session is not None:
            ticket.contested = True
            self._refuse(session, "somebody is joining with this invite at this moment")
            return
        self._silent.remove(session)
        session.ticket, ticket.session = ticket, session
        session.commitment = hail.commitment
        session.nonce = entropy(32)
        session.transcript = [*begun, session.nonce, ticket.bundle]
        session.deadline = monotonic() + STEP_S
        session.link.frame_max = OFFER_BYTES_MAX
        shown = invite.proof(ticket.invite.secret, 2, session.transcript)
        session.link.send(PAIR, canonical.pack(Reply(session.nonce, ticket.bundle, shown)))

    def _on_offer(self, session: _Session, sealed: Sealed) -> None:
        ticket = session.ticket
        session.transcript.append(sealed.message)
        if not invite.proven(ticket.invite.secret, 3, session.transcript, sealed.proof):
            raise Malformed("an offer whose proof does not hold")
        offer = canonical.unpack(Offer, sealed.message)
        who = (offer.idao, offer.key, offer.record.record.tls)
        if invite.commitment(offer.nonce, *who) != session.commitment:
            raise Malformed("an offer by another one than was announced")
        check_offer(offer, ticket.quorum)
        nonces = (offer.nonce, session.nonce)
        spoken = invite.words(ticket.quorum, self.listener.identity.pin, nonces, who)
        session.pending = Pending(session, offer, spoken)
        session.deadline = float("inf")
        self.on_offer(session.pending)

    def _refuse(self, session: _Session, why: str) -> None:
        self.on_failure(session.link.address, why)
        session.link.send(PAIR, canonical.pack(Refusal(why)))
        _finish(session.link, why)

    def _lost(self, session: _Session, reason: str) -> None:
        if session in self._silent:
            self._silent.remove(session)
        elif session.nonce and session.ticket.session is session:  # who had to make room holds no ticket
            # The invite stays good: a joiner whose connection broke comes back with it.
            session.ticket.session = None
            self.on_failure(session.link.address, reason)
        self._close_door()

    # --- time

    def _tick_later(self) -> None:
        if not self._ticking:
            self._ticking = True
            self._loop_call()

    def _loop_call(self) -> None:
        asyncio.get_running_loop().call_later(WAIT_S, self._tick)

    def _tick(self) -> None:
        now = monotonic()
        for silent in [s for s in self._silent if now > s.deadline]:
            silent.link.cut("too slow")
        self._expire()
        for ticket in self._tickets:
            session = ticket.session
            if session is not None and now > session.deadline:
                session.link.cut("too slow")
            elif session is not None and session.pending is not None:
                session.link.send(PAIR, b"")
        if self._tickets or self._silent:
            self._loop_call()
        else:
            self._ticking = False

    def _expire(self) -> None:
        now = now_ms()
        # Who has shown the words in time is not turned away while people compare them.
        for ticket in [t for t in self._tickets if invite.expired(t.invite, now)]:
            if ticket.session is None or ticket.session.pending is None:
                self._end(ticket)
            elif now > ticket.invite.expires_s * 1000 + invite.VALID_MS:
                self.decide(ticket.session.pending, False, "nobody confirmed in time")

    def _end(self, ticket: _Ticket) -> None:
        """An invite that will not be taken any more."""
        if ticket in self._tickets:
            self._tickets.remove(ticket)
        session, ticket.session = ticket.session, None
        if session is not None:
            _finish(session.link, "the invite has ended")
        self._close_door()

    def _close_door(self) -> None:
        if not self._tickets:
            self.listener.pairing = None


def _finish(link: Link, why: str) -> None:
    link.receive = _ignore
    link.close(why)


def _ignore(link: Link, kind: int, payload: bytes) -> None:
    """Nothing that still comes on a link that is closing counts."""
