"""A peer of a mesh: who may link, what is kept of it between links, what people are shown."""

from __future__ import annotations

from idao.frozen import frozen
from idao.node.link import Link
from idao.noderecord import NodeRecord, SignedNodeRecord

PENALTY_S, PENALTY_MAX_S = 1.0, 60.0
"""After a peer broke the protocol it is kept out for this long, doubling each time."""
FORGIVE_S = 600.0
"""After this long without another offence all is forgotten."""
NOT_NAMED = bytes(32)
"""A seat that names no certificate (its founder's, in the genesis): its node record alone tells."""


@frozen
class Allowed:
    """One peer that may link."""

    idao: bytes
    key: bytes
    """Validator key."""
    record: SignedNodeRecord | None
    """The newest one known to the caller; the mesh learns newer ones from peers."""
    addresses: tuple[str, ...] = ()
    """Given by the operator, tried first; names allowed."""
    tls: bytes = NOT_NAMED
    """The certificate that its seat names on the ledger."""

    def fits(self, record: NodeRecord) -> bool:
        """Whether a record may say where this peer is. Its certificate is the seat's, whoever signed.

        Whoever has got hold of a validator key could otherwise take the place of its links.
        """
        if self.tls != NOT_NAMED:
            return record.tls == self.tls
        return record.key == self.key

    def known(self) -> SignedNodeRecord | None:
        return self.record if self.record is not None and self.fits(self.record.record) else None


@frozen
class LinkState:
    """One link, for people and metrics. Times in ms UTC, `rtt_us` in microseconds, sizes in bytes."""

    peer: bytes
    up: bool
    since_ms: int
    """Of the link, or of the last one's end; 0 when there was none."""
    address: str
    dialed: bool
    rtt_us: int | None
    skew_ms: int | None
    """The peer's clock minus ours."""
    bytes_in: int
    bytes_out: int
    frames_in: int
    frames_out: int
    queue: int
    score: int
    """100 is spotless; each recent offence takes 20."""
    reason: str
    """Why the last link ended, or why none comes about."""
    software: str


class Peer:
    """What the mesh keeps of one allowed peer, link or none."""

    def __init__(self, allowed: Allowed) -> None:
        self.allowed = allowed
        self.record = allowed.known()
        self.learned = -1e9
        """When that record came."""
        self.hurried = False
        """A newer one came too soon after it, and is asked for in its time."""
        self.link: Link | None = None
        self.boot = b""
        self.since_ms = 0
        self.software = ""
        self.reason = "not tried yet"
        self.rtt_us: int | None = None
        self.skew_ms: int | None = None
        self.offences = 0
        self.last_offence = 0.0
        self.kept_out_until = 0.0
        self.begin(None, 0.0)

    def begin(self, link: Link | None, now: float) -> None:
        """Forgets what belonged to the last link."""
        self.link, self.began = link, now
        self.rtt_us = self.skew_ms = None
        self.hasty = True
        """The peer announced that it is busy: it writes, and expects to be written to, often."""
        self.echo: tuple[int, float] | None = None
        """(`sent_us` of the last keep-alive, when it came)."""
        self.sent_alive = self.answered = -1e9
        self.promised = 0.0
        """When the next keep-alive is due at the latest, as the last one announced (seconds after it)."""
        self.probed: float | None = None

    def offence(self, reason: str, now: float) -> None:
        """It broke the protocol: it stays out for a while, longer each time."""
        if now - self.last_offence > FORGIVE_S:
            self.offences = 0
        self.kept_out_until = now + min(PENALTY_MAX_S, PENALTY_S * 2.0**self.offences)
        self.offences = min(self.offences + 1, 10)
        self.last_offence, self.reason = now, reason

    def state(self) -> LinkState:
        link = self.link
        return LinkState(
            peer=self.allowed.idao,
            up=link is not None,
            since_ms=self.since_ms,
            address=link.address if link else "",
            dialed=link.dialed if link else False,
            rtt_us=self.rtt_us,
            skew_ms=self.skew_ms,
            bytes_in=link.bytes_in if link else 0,
            bytes_out=link.bytes_out if link else 0,
            frames_in=link.frames_in if link else 0,
            frames_out=link.frames_out if link else 0,
            queue=link.queue if link else 0,
            score=max(0, 100 - 20 * self.offences),
            reason=self.reason,
            software=self.software,
        )
