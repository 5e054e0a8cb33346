"""The one door of a home: a TCP port that takes in connections and hands each to the mesh of its quorum.

Until a connection has said a valid hello it is nobody: few of them at once from one address, few per second
(`node.doors`), few in all (the oldest makes room), each for a few seconds. What that costs a flooder's victim
is the time to accept and drop; peers that are linked feel nothing of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import struct
from collections.abc import Callable
from functools import partial
from time import monotonic

from idao.errors import Malformed, Unreachable
from idao.node import tls, wire
from idao.node.doors import Door, Doors
from idao.node.fresh import Fresh
from idao.node.link import HANDSHAKE_S, SHUTDOWN_S, Link
from idao.node.mesh import Mesh
from idao.node.tls import TlsIdentity

PORT = 24326
"""Not registered with IANA, below the ephemeral ports; 4326 spells idao on a telephone."""
BACKLOG = 256
STRANGERS_MAX = 64
"""At once from everywhere: each holds some 300 KiB of TLS state."""
TURN_ACCEPTS = 64
"""Connections taken from the kernel before other links get their turn."""
REST_S = 0.5
"""When the process has no file descriptors left."""


class Listener:
    """`pairing`, when set, gets links that came to pair: `pairing(link) -> None`; see `node.pairing`."""

    def __init__(
        self, identity: TlsIdentity, port: int = PORT, hosts: tuple[str, ...] = ("0.0.0.0", "::")
    ) -> None:
        """Port 0 takes a free one."""
        self.identity, self.port, self.hosts = identity, port, hosts
        self.meshes: dict[bytes, Mesh] = {}
        self.accepted = self.refused = 0
        self._pairing: Callable[[Link], None] | None = None
        self._sockets: list[socket.socket] = []
        self.doors = Doors()
        self._strangers: dict[asyncio.Task[None], None] = {}
        self._context: ssl.SSLContext | None = None

    # --- life

    async def open(self) -> None:
        """Binds and begins to accept. `Unreachable` when the port is taken or not allowed."""
        for host in self.hosts:
            try:
                self._sockets.append(self._bind(host))
            except OSError as e:
                # A machine without IPv6 (or without IPv4) has one family less: fine as long as one remains.
                if e.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and len(self.hosts) > 1:
                    continue
                await self.close()
                raise Unreachable(
                    f"cannot listen on {host}, port {self.port}: {e.strerror}",
                    hint="give another one: 'idao config set node.port PORT'",
                ) from e
        if not self._sockets:
            raise Unreachable("this machine has no address to listen on")
        loop = asyncio.get_running_loop()
        for s in self._sockets:
            loop.add_reader(s, self._accept, s)

    def _bind(self, host: str) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # The protocol named: asyncio turns Nagle's algorithm off only then, and 40 ms a frame is no LAN.
        s = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            s.bind((host, self.port))
            s.listen(BACKLOG)
            s.setblocking(False)
        except OSError:
            s.close()
            raise
        self.port = s.getsockname()[1]
        return s

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        for s in self._sockets:
            loop.remove_reader(s)
            s.close()
        self._sockets.clear()
        strangers = list(self._strangers)
        for task in strangers:
            task.cancel()
        await asyncio.gather(*strangers, return_exceptions=True)

    # --- who

    def add(self, mesh: Mesh) -> None:
        """Links of its quorum go to `mesh` from now on."""
        self.meshes[mesh.quorum] = mesh
        mesh.on_trust = self._forget_context
        self._forget_context()

    def remove(self, quorum: bytes) -> None:
        self.meshes.pop(quorum, None)
        self._forget_context()

    @property
    def pairing(self) -> Callable[[Link], None] | None:
        return self._pairing

    @pairing.setter
    def pairing(self, handler: Callable[[Link], None] | None) -> None:
        if (handler is None) != (self._pairing is None):
            self._forget_context()
        self._pairing = handler

    def _forget_context(self) -> None:
        self._context = None

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            trusted = {der: None for mesh in self.meshes.values() for der in mesh.certificates()}
            self._context = tls.server_context(self.identity, trusted, pairing=self._pairing is not None)
        return self._context

    # --- connections

    def _accept(self, s: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(TURN_ACCEPTS):
            try:
                connection, peer = s.accept()
            except OSError as e:
                if e.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    loop.remove_reader(s)
                    loop.call_later(REST_S, self._again, s)
                return  # none waits, or one that has gone: Linux tells here what befell a connection before
            door = self.doors.admit(peer[0], monotonic())
            if door is None:
                self.refused += 1
                _drop(connection)
                continue
            self.accepted += 1
            self._take_in(connection, door)

    def _again(self, s: socket.socket) -> None:
        if s in self._sockets:
            asyncio.get_running_loop().add_reader(s, self._accept, s)

    def _take_in(self, connection: socket.socket, door: Door) -> None:
        if len(self._strangers) >= STRANGERS_MAX:
            oldest = next(iter(self._strangers))
            oldest.cancel()
            self._strangers.pop(oldest)
        connection.setblocking(False)
        door.inside += 1
        task = asyncio.get_running_loop().create_task(self._meet(connection, door))

        def left() -> None:
            door.inside -= 1
            self._strangers.pop(task, None)

        self._strangers[task] = None
        task.add_done_callback(lambda done: left())

    async def _meet(self, connection: socket.socket, door: Door) -> None:
        """One connection from its first byte to its hello."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[str] = loop.create_future()
        welcome = partial(self._welcome, door)
        fresh = Fresh(welcome, lambda why: None if over.done() else over.set_result(why))
        link: Link | None = None
        try:
            _, link = await loop.connect_accepted_socket(
                lambda: fresh.link(dialed=False, opened=lambda link: self._opened(link, fresh)),
                connection,
                ssl=self._tls(),
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=SHUTDOWN_S,
            )
            await over
        except (OSError, ssl.SSLError, TimeoutError):
            with contextlib.suppress(OSError):
                connection.close()
        finally:
            if link is not None and not over.done():
                link.cut("made room for others")

    def _opened(self, link: Link, fresh: Fresh) -> None:
        if link.alpn == tls.PAIRING and self._pairing is not None:
            # From here the pairing desk answers for the link, with limits of its own.
            fresh.finish("pairing")
            self._pairing(link)
        elif link.alpn != tls.PEERS or not any(link.pin in mesh.by_pin for mesh in self.meshes.values()):
            link.cut("no member's certificate")

    def _welcome(self, door: Door, link: Link, hello: wire.Hello) -> bool:
        mesh = self.meshes.get(hello.quorum)
        if mesh is None:
            raise Malformed("a hello for a quorum that is not here")
        welcome = mesh.welcome(link, hello)
        if welcome:
            self.doors.trust(link.pin, door)
        return welcome


def _drop(connection: socket.socket) -> None:
    """With a reset, which leaves nothing behind in the kernel."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
