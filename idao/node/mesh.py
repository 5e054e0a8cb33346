"""All links of one quorum: who may link, one link a pair, hellos, keep-alives, node records.

The mesh knows peers by iDAO id and talks to the rest of the node through a `Hub`. Frame kinds 0–15 are its
own, 16–255 the hub's. A link is up when each end has shown a pinned certificate in the TLS handshake and
then, in its hello, named the same quorum and the validator whose node record holds that pin.

One link a pair: the lower id dials at once, the higher after a while (its peer may be the only one that can
be reached). If two links meet, the one dialed by the lower id stays; of two dialed by one end, the newer. A
second session under another boot nonce is another process on the same key: refused, unless the first one
turns out to be dead, and told to the operator by `on_duplicate`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol

from idao import noderecord
from idao.crypto import canonical
from idao.errors import Malformed
from idao.home import entropy, now_ms
from idao.node import link as links
from idao.node import wire
from idao.node.dial import Dialer
from idao.node.link import Link
from idao.node.peer import NOT_NAMED, Allowed, LinkState, Peer
from idao.node.tls import TlsIdentity
from idao.noderecord import SignedNodeRecord

__all__ = ["Allowed", "Hub", "LinkState", "Mesh"]

TICK_S = 0.5
"""How often links are looked at."""
BUSY_S, IDLE_S = 1.0, 5.0
"""Between keep-alives: while either hub talks, and when both have been silent for `IDLE_S`."""
LIVES = 3
"""A link is dead when it was silent for so many intervals."""
PROBE_S = 1.5
"""How soon the first session of a peer must answer when a second one shows up."""
RECORDS_EVERY_S, ANSWER_EVERY_S = 1.0, 0.1
"""How often one link's questions for records, and for a sign of life, are answered. One peer's newer records
are taken in no faster either: each goes on to everybody."""


class Hub(Protocol):
    """What the mesh calls, always on the event loop; nothing here may block."""

    def status(self) -> bytes:
        """Rides in hellos and keep-alives; at most 4,096 bytes."""
        ...

    def on_status(self, peer: bytes, status: bytes) -> None: ...

    def on_up(self, peer: bytes) -> None: ...

    def on_down(self, peer: bytes) -> None: ...

    def on_frame(self, peer: bytes, kind: int, payload: bytes) -> None:
        """`Malformed` closes the link and counts against the peer."""
        ...


class Mesh:
    """The links of `quorum`. Everything runs on one event loop; `start` it there."""

    def __init__(
        self,
        quorum: bytes,
        hub: Hub,
        identity: TlsIdentity,
        own: SignedNodeRecord,
        *,
        software: str = "",
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        noderecord.check(own)
        if own.record.quorum != quorum or own.record.tls != identity.pin:
            raise ValueError("the own record is of another quorum or certificate")
        self.quorum, self.hub, self.identity, self.own = quorum, hub, identity, own
        self.idao = own.record.idao
        self.boot = entropy(16)
        self.software, self.clock_ms = software, clock_ms
        self.peers: dict[bytes, Peer] = {}
        self.by_pin: dict[bytes, tuple[bytes, ...]] = {}
        """Pin → iDAOs that may link under it, those whose seat names it first. Mostly one: but anybody can
        claim another's certificate in a record or a seat, and must not take its links by that."""
        self.on_record: Callable[[SignedNodeRecord], None] = lambda record: None
        self.on_duplicate: Callable[[bytes, str], None] = lambda idao, address: None
        """Another process runs with the keys of this iDAO (ours, or a peer's), at that address."""
        self.on_trust: Callable[[], None] = lambda: None
        """The listener's: certificates changed."""
        self.hub_spoke = self.busy_since = -1e9
        self.loop: asyncio.AbstractEventLoop | None = None
        self._tick_handle: asyncio.TimerHandle | None = None
        self._up: list[tuple[bytes, Link]] = []
        self.dialer = Dialer(self)

    # --- life

    def start(self) -> None:
        """Begins to dial. Incoming links come from a `Listener`."""
        self.loop = asyncio.get_running_loop()
        self._tick()
        self.dialer.start()

    async def stop(self, reason: str = "stopped") -> None:
        """Says goodbye to all and lets what is queued go out, for at most a second."""
        if self._tick_handle is not None:
            self._tick_handle.cancel()
        await self.dialer.stop()
        open_links = [link for _, link in self._up]
        for link in open_links:
            link.write(wire.bye(reason))
            link.close(reason)
        for _ in range(20):
            if not any(link.transport is not None for link in open_links):
                return
            await asyncio.sleep(links.SHUTDOWN_S / 20)
        for link in open_links:
            link.cut(reason)

    # --- who

    def allow(self, peers: Sequence[Allowed]) -> None:
        """Replaces the set of peers that may link; all others are cut. Own id is left out."""
        kept: dict[bytes, Peer] = {}
        for allowed in peers[: wire.PEERS_MAX]:
            if allowed.idao == self.idao:
                continue
            peer = self.peers.get(allowed.idao)
            if peer is None:
                peer = Peer(allowed)
            elif peer.allowed.key != allowed.key:
                peer = self._under_new_key(peer, allowed)
            else:
                peer.allowed, peer.record = allowed, _newer(allowed, peer.record)
            kept[allowed.idao] = peer
        for peer in [peer for idao, peer in self.peers.items() if idao not in kept]:
            self._end(peer, "no longer a member")
        self.peers = kept
        self._trust()
        if any(peer.record is None for peer in kept.values()):
            self._to_all(links.frame(wire.ASK_RECORDS, b""))

    def _under_new_key(self, peer: Peer, allowed: Allowed) -> Peer:
        """Its validator key changed. The link stays if the caller still knows the same certificate of it."""
        known, told = peer.record, allowed.known()
        if known is None or told is None or known.record.tls != told.record.tls:
            self._end(peer, "its validator key changed")
            return Peer(allowed)
        peer.allowed, peer.record = allowed, told
        if peer.link is not None:
            peer.link.write(links.frame(wire.ASK_RECORDS, b""))
        return peer

    def update(self, own: SignedNodeRecord) -> None:
        """A newer record of this node (its addresses changed): sent to all."""
        noderecord.check(own)
        self.own = own
        self._to_all(wire.records([own]))

    def records(self) -> list[SignedNodeRecord]:
        """All that are known, one's own first."""
        return [self.own, *(p.record for p in self.peers.values() if p.record is not None)]

    def certificates(self) -> list[bytes]:
        """What TLS contexts trust. One's own among them, so that a copy of this home is noticed."""
        return [signed.certificate for signed in self.records()]

    def strangers(self) -> bool:
        """Whether the ledger names a certificate of somebody whose record, which holds it, is not known."""
        return any(p.record is None and p.allowed.tls != NOT_NAMED for p in self.peers.values())

    def _trust(self) -> None:
        named = [(p.allowed.tls, idao) for idao, p in self.peers.items() if p.allowed.tls != NOT_NAMED]
        told = [(p.record.record.tls, idao) for idao, p in self.peers.items()
                if p.record is not None and p.allowed.tls == NOT_NAMED]  # fmt: skip
        pins: dict[bytes, tuple[bytes, ...]] = {}
        for pin, idao in (*named, *told):
            pins[pin] = (*pins.get(pin, ()), idao)
        pins[self.identity.pin] = (self.idao,)
        if pins == self.by_pin:
            return
        self.by_pin = pins
        for peer in self.peers.values():
            if peer.link is not None and peer.allowed.idao not in pins.get(peer.link.pin, ()):
                self._end(peer, "its certificate changed")
        self.dialer.wake()
        self.on_trust()

    def hint(self, addresses: Sequence[str]) -> None:
        """Where some member of this quorum may be (mDNS). Tried once in a while; TLS decides who it is."""
        self.dialer.hint(addresses)

    # --- talking

    def send(self, peer: bytes, kind: int, payload: bytes) -> bool:
        """False when there is no link to `peer` or its queue is full: nothing was sent."""
        found = self.peers.get(peer)
        if found is None or found.link is None:
            return False
        self._spoke()
        return found.link.write(links.frame(kind, payload))

    def broadcast(self, *frames: tuple[int, bytes]) -> None:
        """(kind, payload) each, in one write, to all links that are up and not full."""
        self._spoke()
        self._to_all(b"".join([links.frame(kind, payload) for kind, payload in frames]), len(frames))

    def queue(self, peer: bytes) -> int:
        """Bytes waiting for `peer`: who sends much should wait for this to fall."""
        found = self.peers.get(peer)
        return found.link.queue if found is not None and found.link is not None else 0

    def up(self) -> list[bytes]:
        """The peers that are linked."""
        return [idao for idao, _ in self._up]

    def links(self) -> list[LinkState]:
        """Every allowed peer, linked or not."""
        return [peer.state() for peer in self.peers.values()]

    def blame(self, peer: bytes, reason: str) -> None:
        """The hub found `peer` at fault after the frame was taken: cut it and keep it out for a while."""
        found = self.peers.get(peer)
        if found is not None and found.link is not None:
            found.link.cut(reason, blame=True)

    def _to_all(self, data: bytes, frames: int = 1) -> None:
        for _, link in self._up:
            link.write(data, frames)

    def _spoke(self) -> None:
        now = monotonic()
        if now - self.hub_spoke > IDLE_S:
            self.busy_since = now
        self.hub_spoke = now

    # --- links come and go

    def greet(self, link: Link) -> None:
        """Sends this node's hello on `link`."""
        status = self.hub.status()
        hello = wire.Hello(wire.VERSION, self.quorum, self.idao, self.boot, self.own, status, self.software)
        link.send(wire.HELLO, canonical.pack(hello))

    def welcome(self, link: Link, hello: wire.Hello) -> bool:
        """A valid hello on a link whose pin is known makes it the link of its peer. False: it was refused.

        `Malformed` when the hello does not belong to the certificate. The acceptor answers with its own.
        """
        if hello.v != wire.VERSION:
            self.dismiss(link, f"this node speaks version {wire.VERSION}, not {hello.v}")
            return False
        if hello.quorum != self.quorum or hello.idao not in self.by_pin.get(link.pin, ()):
            raise Malformed("a hello that does not belong to its certificate")
        record = hello.record.record
        if record.idao != hello.idao or record.tls != link.pin or record.quorum != self.quorum:
            raise Malformed("a hello with another one's record")
        if hello.idao == self.idao:
            if hello.boot != self.boot:
                self.on_duplicate(self.idao, link.address)
            self.dismiss(link, "this is me")
            return False
        peer = self.peers[hello.idao]
        now = monotonic()
        if now < peer.kept_out_until:
            self.dismiss(link, "kept out after an offence")
            return False
        if peer.link is not None and not self._replaces(link, hello, peer, now):
            return False
        self.learn(hello.record)
        if not link.dialed:
            self.greet(link)
        self._begin(peer, link, hello)
        return True

    def dismiss(self, link: Link, reason: str) -> None:
        """Closes a link with a word to the other end."""
        link.write(wire.bye(reason))
        link.close(reason)

    def _replaces(self, link: Link, hello: wire.Hello, peer: Peer, now: float) -> bool:
        old = peer.link
        assert old is not None
        if hello.boot != peer.boot:
            # Either the peer restarted so fast that its old link still seems alive, or it runs twice. Ask.
            if peer.probed is None:
                peer.probed = now
                self._keep_alive(peer, old, now, prompt=True)
                link.loop.call_later(PROBE_S, self._judge, peer, old, link.address)
            self.dismiss(link, "another process of this member is linked")
            return False
        lower_dials = self.idao < hello.idao
        if link.dialed != old.dialed and link.dialed != lower_dials:
            self.dismiss(link, "linked already")
            return False
        self._end(peer, "a newer link")
        return True

    def _judge(self, peer: Peer, old: Link, address: str) -> None:
        """After the probe: a first session that answered proves that there are two."""
        asked, peer.probed = peer.probed, None
        if peer.link is not old or asked is None:
            return
        if old.heard > asked:
            self.on_duplicate(peer.allowed.idao, address)
        else:
            old.cut("silent while a new session asked to come in")

    def _begin(self, peer: Peer, link: Link, hello: wire.Hello) -> None:
        idao = peer.allowed.idao
        now = monotonic()
        peer.begin(link, now)
        peer.boot, peer.software = hello.boot, hello.software
        peer.since_ms, peer.reason = self.clock_ms(), ""
        link.frame_max = links.FRAME_MAX
        link.receive = lambda link, kind, payload: self._receive(peer, link, kind, payload)
        link.lost = lambda link, reason, blame: self._lost(peer, link, reason, blame)
        self._up.append((idao, link))
        link.write(wire.records(self.records()))
        self._keep_alive(peer, link, now)
        self.hub.on_up(idao)
        if peer.link is link:
            self.hub.on_status(idao, hello.status)

    def _end(self, peer: Peer, reason: str) -> None:
        """Takes the link from its peer, with a word."""
        if peer.link is not None:
            link = peer.link
            link.write(wire.bye(reason))
            self._lost(peer, link, reason, False)
            link.close(reason)

    def _lost(self, peer: Peer, link: Link, reason: str, blame: bool) -> None:
        if peer.link is not link:
            return
        now = monotonic()
        lasted = now - peer.began
        peer.begin(None, now)
        peer.since_ms, peer.reason = self.clock_ms(), reason
        self._up = [(idao, other) for idao, other in self._up if other is not link]
        link.receive = _ignore
        if blame:
            peer.offence(reason, now)
        self.hub.on_down(peer.allowed.idao)
        self.dialer.lost(peer, lasted)

    # --- frames of the mesh

    def _receive(self, peer: Peer, link: Link, kind: int, payload: bytes) -> None:
        if kind >= wire.HUB_KINDS:
            self._spoke()
            self.hub.on_frame(peer.allowed.idao, kind, payload)
        elif kind == wire.KEEP_ALIVE:
            self._on_keep_alive(peer, link, canonical.unpack(wire.KeepAlive, payload, limit=wire.SMALL_MAX))
        elif kind == wire.RECORDS:
            for signed in canonical.unpack(wire.Records, payload, limit=wire.RECORDS_BYTES_MAX).records:
                self.learn(signed)
        elif kind == wire.ASK_RECORDS and not payload:
            if link.heard - peer.answered > RECORDS_EVERY_S:
                peer.answered = link.heard
                link.write(wire.records(self.records()))
        elif kind == wire.BYE:
            reason = canonical.unpack(wire.Bye, payload, limit=wire.SMALL_MAX).reason
            link.close("it said: " + wire.printable(reason))
        else:
            raise Malformed(f"a frame of kind {kind}")

    def _on_keep_alive(self, peer: Peer, link: Link, alive: wire.KeepAlive) -> None:
        now = monotonic()
        if alive.echo_us:
            peer.rtt_us = max(0, int(now * 1e6) - alive.echo_us - alive.held_us)
            peer.skew_ms = alive.time_ms + peer.rtt_us // 2000 - self.clock_ms()
        peer.echo = (alive.sent_us, now)
        peer.hasty = alive.interval_ms < IDLE_S * 1000
        if alive.prompt and now - peer.sent_alive > ANSWER_EVERY_S:
            self._keep_alive(peer, link, now)
        self.hub.on_status(peer.allowed.idao, alive.status)

    def learn(self, signed: SignedNodeRecord) -> None:
        """Takes a record in if it is newer than the one known of that peer; tells the others.

        Records of iDAOs that may not link are ignored, and those of another certificate than the ledger
        names: it may not have come that far here.
        """
        record = signed.record
        peer = self.peers.get(record.idao)
        if peer is None or record.quorum != self.quorum or record.key != peer.allowed.key:
            return
        if not peer.allowed.fits(record):
            return
        known = peer.record.record if peer.record is not None else None
        now = monotonic()
        if known is not None and known.key == record.key:
            if known.seq >= record.seq:
                return
            if now - peer.learned < RECORDS_EVERY_S:
                peer.hurried = True
                return
        noderecord.check(signed)
        peer.record, peer.learned, peer.hurried = signed, now, False
        self._to_all(wire.records([signed]))
        self._trust()
        self.dialer.wake()
        self.on_record(signed)

    # --- time

    def _tick(self) -> None:
        assert self.loop is not None
        self._tick_handle = self.loop.call_later(TICK_S, self._tick)
        now = monotonic()
        if any(p.hurried and now - p.learned > RECORDS_EVERY_S for p in self.peers.values()):
            self._to_all(links.frame(wire.ASK_RECORDS, b""))
        for peer in list(self.peers.values()):
            link = peer.link
            if link is None:
                continue
            if now - link.heard > LIVES * self._interval(peer, now - LIVES * BUSY_S):
                link.cut(f"silent for {now - link.heard:.0f} s")
            elif why := link.overdue(now):
                link.cut(why, blame=True)
            # What was promised is kept, also by who has nothing to say any more: the other end counts on it.
            elif now - peer.sent_alive > min(peer.promised, self._interval(peer, now)) - TICK_S / 2:
                self._keep_alive(peer, link, now)

    def _interval(self, peer: Peer, since: float) -> float:
        """Between keep-alives to and from `peer`, which may be counted on if busy already at `since`."""
        busy = self.busy_since <= since and self._busy()
        return BUSY_S if busy or peer.hasty else IDLE_S

    def _busy(self) -> bool:
        return monotonic() - self.hub_spoke < IDLE_S

    def _keep_alive(self, peer: Peer, link: Link, now: float, *, prompt: bool = False) -> None:
        interval = BUSY_S if self._busy() else IDLE_S
        sent, came = peer.echo or (0, now)
        alive = wire.KeepAlive(
            interval_ms=int(interval * 1000),
            time_ms=self.clock_ms(),
            sent_us=int(now * 1e6),
            echo_us=sent,
            held_us=int((now - came) * 1e6),
            prompt=prompt,
            status=self.hub.status(),
        )
        link.send(wire.KEEP_ALIVE, canonical.pack(alive))
        peer.sent_alive, peer.promised = now, interval


def _newer(allowed: Allowed, known: SignedNodeRecord | None) -> SignedNodeRecord | None:
    """The one by the present key, then the later: whoever holds an old key chooses its numbers."""
    both = [r for r in (allowed.record, known) if r is not None and allowed.fits(r.record)]
    return max(both, key=lambda r: (r.record.key == allowed.key, r.record.seq), default=None)


def _ignore(link: Link, kind: int, payload: bytes) -> None:
    """What comes on a link that was taken from its peer."""
