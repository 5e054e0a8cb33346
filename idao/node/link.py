"""One TLS connection between two nodes: frames in, frames out, and bounds on both.

A frame is `u32 length | u8 version | u8 kind | payload`, big-endian; the length counts what follows it. A
link does not know what frames mean: it hands each to `receive` and reports its own end to `lost`, once.

What a hostile end can do: send too much (it is read more slowly), too slowly (a frame must be whole within
`FRAME_S`), nonsense (the link closes), or nothing; read nothing (its queue fills to `QUEUE_MAX`, further
frames for it are refused, and after `STALL_S` the link closes). None of that waits for anybody else.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable
from time import monotonic
from typing import cast

from idao import noderecord
from idao.errors import IdaoError, Malformed

VERSION = 1
FRAME_MAX = 4 * 1024 * 1024
"""Twice the largest block body (`quorum.events.BODY_MAX`): catching up sends several small ones at once."""
STRANGER_FRAME_MAX = 16 * 1024
"""Before the other end is known: a hello has some 1,500 bytes."""
HEAD = struct.Struct(">IBB")

BUFFER, BUFFER_KEPT, BUFFER_GROWS = 64 * 1024, 256 * 1024, 4
"""Room to read into; it grows with what really arrives of a larger frame, never with what a length claims.
Room for a few hundred transactions is kept for the next frame: making it costs as much as filling it."""
HANDSHAKE_S = 5.0
"""A handshake takes 15 ms on a LAN; a small board under load still manages in 5 s."""
HELLO_S = 5.0
"""From the end of the handshake to a valid hello."""
FRAME_S = 20.0
"""From the first byte of a frame to its last: 4 MiB at 2 Mbit/s."""
QUEUE_MAX = 8 * 1024 * 1024
"""Bytes waiting for one peer: two of the largest frames."""
QUEUE_HIGH = 256 * 1024
"""From here on a queue counts as stalled until it has drained to a quarter: what a LAN swallows in 20 ms."""
STALL_S = 15.0
"""A peer that lets its queue stand above `QUEUE_HIGH` for that long does not read."""
SHUTDOWN_S = 1.0
"""Patience with the polite end of a TLS connection."""

FRAMES_PER_S, FRAMES_BURST = 10_000, 20_000
"""Six frames a block at 300 blocks a second are 1,800; at 10 µs a frame the bound is a tenth of a core."""
BYTES_PER_S, BYTES_BURST = 64 * 1024 * 1024, 16 * 1024 * 1024
"""Half of a gigabit LAN: what one peer may make this node read."""
TURN_FRAMES = 256
"""Frames handled before the loop looks at other links again: 2 ms at 10 µs each."""
PAUSE_S = 0.05
"""How long reading stops when a peer is over its rate."""
LOST = "connection lost"
"""The reason of an end that neither side has told."""


class Link(asyncio.BufferedProtocol):
    """`receive(link, kind, payload)` may raise `IdaoError`: that closes the link as the peer's fault."""

    def __init__(
        self,
        receive: Callable[[Link, int, bytes], None],
        lost: Callable[[Link, str, bool], None],
        *,
        dialed: bool,
        opened: Callable[[Link], None] | None = None,
    ) -> None:
        """`lost` gets the reason, and whether the peer is to blame."""
        self.receive, self.lost, self.opened = receive, lost, opened
        self.dialed = dialed
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.pin = b""
        """Hash of the certificate that the other end proved to hold; empty if it showed none."""
        self.alpn: str | None = None
        self.address = ""
        self.frame_max = STRANGER_FRAME_MAX
        self.heard = monotonic()
        """When the last bytes came in: a large frame on a slow line is a sign of life."""
        self.frames_in = self.frames_out = self.bytes_in = self.bytes_out = 0
        self.stalled: float | None = None
        self.reason, self.blame = LOST, False
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._partial: float | None = None
        self._frame_tokens, self._byte_tokens = float(FRAMES_BURST), float(BYTES_BURST)
        self._filled = self.heard
        self._held: asyncio.TimerHandle | asyncio.Handle | None = None

    # --- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(QUEUE_HIGH)
        host, port = transport.get_extra_info("peername")[:2]
        self.address = noderecord.join_address(host.removeprefix("::ffff:"), port)
        tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
        der = tls.getpeercert(True)
        self.pin = noderecord.pin(der) if der else b""
        self.alpn = tls.selected_alpn_protocol()
        if self.opened is not None:
            self.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self.transport is None:
            return
        self.transport = None
        if self._held is not None:
            self._held.cancel()
        if isinstance(error, ssl.SSLError) and self.reason == LOST:
            self.reason = f"TLS: {error.reason}"
        self.lost(self, self.reason, self.blame)

    @property
    def open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def close(self, reason: str) -> None:
        """After what is queued has gone out, or `SHUTDOWN_S`."""
        if self.open:
            self.reason = reason
            cast(asyncio.Transport, self.transport).close()

    def cut(self, reason: str, *, blame: bool = False) -> None:
        """At once; what is queued is dropped."""
        if self.transport is not None:
            if not self.transport.is_closing():
                self.reason, self.blame = reason, blame
            self.transport.abort()

    # --- sending

    def send(self, kind: int, payload: bytes) -> bool:
        return self.write(frame(kind, payload))

    def write(self, data: bytes, frames: int = 1) -> bool:
        """Queues whole frames. False when the link is closed or its queue full: nothing of it is sent."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        if self.stalled is not None and transport.get_write_buffer_size() + len(data) > QUEUE_MAX:
            return False
        transport.write(data)
        self.frames_out += frames
        self.bytes_out += len(data)
        return True

    @property
    def queue(self) -> int:
        """Bytes that wait for the other end to read."""
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def pause_writing(self) -> None:
        self.stalled = monotonic()

    def resume_writing(self) -> None:
        self.stalled = None

    # --- receiving

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._end == len(self._buffer):
            self._make_room()
        return self._view[self._end :]

    def _make_room(self) -> None:
        """Moves what is unread to the front of a buffer with room behind it."""
        unread = self._view[self._start : self._end]
        size = max(BUFFER, BUFFER_GROWS * len(unread))
        fresh = bytearray(size)
        fresh[: len(unread)] = unread
        self._end -= self._start
        self._start = 0
        self._buffer, self._view = fresh, memoryview(fresh)

    def buffer_updated(self, count: int) -> None:
        self._end += count
        self.bytes_in += count
        self._byte_tokens -= count
        self.heard = monotonic()
        self._read()

    def _read(self) -> None:
        """Hands out the whole frames in the buffer, as far as rate and fairness allow."""
        now = self._refill()
        handled = 0
        self._held = None
        while self._end - self._start >= HEAD.size and self.transport is not None:
            if handled == TURN_FRAMES or self._frame_tokens < 1 or self._byte_tokens < 0:
                self._hold(handled)
                return
            length, version, kind = HEAD.unpack_from(self._buffer, self._start)
            if not 2 <= length <= self.frame_max or version != VERSION:
                known = f"version {version}" if version != VERSION else f"{length} bytes"
                self.cut(f"frame of {known}", blame=True)
                return
            stop = self._start + 4 + length
            if stop > self._end:
                break
            payload = bytes(self._view[self._start + HEAD.size : stop])
            self._start = stop
            self._partial = None
            self._frame_tokens -= 1
            handled += 1
            self.frames_in += 1
            self._hand(kind, payload)
        if self._start == self._end:
            self._start = self._end = 0
            self._partial = None
            if len(self._buffer) > BUFFER_KEPT:
                self._buffer = bytearray(BUFFER)
                self._view = memoryview(self._buffer)
        elif self._partial is None:
            self._partial = now

    def _hand(self, kind: int, payload: bytes) -> None:
        try:
            self.receive(self, kind, payload)
        except IdaoError as e:
            self.cut(e.message, blame=isinstance(e, Malformed))
        except Exception as e:
            # A bug of ours, inside asyncio's reading: it must neither vanish nor look like the peer's fault.
            self.cut("a bug here")
            self.loop.call_exception_handler(
                {"message": "a frame met a bug", "exception": e, "protocol": self}
            )

    def _refill(self) -> float:
        """The time; refills what the peer may send by what has passed since the last call."""
        now = monotonic()
        passed = now - self._filled
        self._filled = now
        self._frame_tokens = min(FRAMES_BURST, self._frame_tokens + passed * FRAMES_PER_S)
        self._byte_tokens = min(BYTES_BURST, self._byte_tokens + passed * BYTES_PER_S)
        return now

    def _hold(self, handled: int) -> None:
        assert self.transport is not None
        self.transport.pause_reading()
        if handled == TURN_FRAMES:
            self._held = self.loop.call_soon(self._go_on)
        else:
            self._held = self.loop.call_later(PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        self._read()
        if self._held is None and self.open:
            cast(asyncio.Transport, self.transport).resume_reading()

    def overdue(self, now: float) -> str:
        """Why this link deserves to be cut, or nothing: a frame that drips, a queue that does not drain."""
        if self._partial is not None and now - self._partial > FRAME_S:
            return f"a frame took more than {FRAME_S:.0f} s"
        if self.stalled is not None and now - self.stalled > STALL_S:
            return f"read nothing for {STALL_S:.0f} s"
        return ""


def frame(kind: int, payload: bytes) -> bytes:
    """The bytes of a frame; ValueError when it is too large to be read by anybody."""
    length = len(payload) + 2
    if length > FRAME_MAX:
        raise ValueError(f"a frame of {length} bytes; at most {FRAME_MAX}")
    return HEAD.pack(length, VERSION, kind) + payload
