"""Nodes for the tests of the network: real TLS on loopback, hubs that write down what they are told."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from idao import noderecord
from idao.crypto import canonical
from idao.crypto.keys import Signer
from idao.errors import Malformed
from idao.frozen import replace
from idao.node import tls, wire
from idao.node.link import frame
from idao.node.listener import Listener
from idao.node.mesh import Allowed, Mesh
from idao.noderecord import SignedNodeRecord

QUORUM = b"Q" * 32
HOST = "127.0.0.1"
TESTS = Path(__file__).resolve().parent


def idao(n: int) -> bytes:
    return bytes([n]) * 32


class Hub:
    """Writes down what it hears; `answer` may be set to react to frames."""

    def __init__(self) -> None:
        self.ups: list[bytes] = []
        self.downs: list[bytes] = []
        self.frames: list[tuple[bytes, int, bytes]] = []
        self.statuses: dict[bytes, bytes] = {}
        self.own_status = b"here"
        self.nonsense: bytes | None = None
        """A status that is malformed."""
        self.answer: Callable[[bytes, int, bytes], None] | None = None

    def status(self) -> bytes:
        return self.own_status

    def on_status(self, peer: bytes, status: bytes) -> None:
        if status == self.nonsense:
            raise Malformed("nonsense")
        self.statuses[peer] = status

    def on_up(self, peer: bytes) -> None:
        self.ups.append(peer)

    def on_down(self, peer: bytes) -> None:
        self.downs.append(peer)

    def on_frame(self, peer: bytes, kind: int, payload: bytes) -> None:
        if self.answer is not None:
            self.answer(peer, kind, payload)
        else:
            self.frames.append((peer, kind, payload))


class Node:
    """One home's listener with one mesh."""

    def __init__(
        self, folder: Path, n: int, *, quorum: bytes = QUORUM, host: str = HOST, hub: Hub | None = None
    ) -> None:
        self.idao, self.quorum, self.host = idao(n), quorum, host
        self.signer = Signer(bytes([n]) * 32)
        self.identity = tls.identity(folder / f"home{n}")
        self.hub = hub or Hub()
        self.listener = Listener(self.identity, 0, (host,))
        self.seq = 0
        self.mesh: Mesh

    async def open(self) -> Node:
        await self.listener.open()
        self.mesh = Mesh(self.quorum, self.hub, self.identity, self.record(), software="test")
        self.listener.add(self.mesh)
        return self

    @property
    def address(self) -> str:
        return noderecord.join_address(self.host, self.listener.port)

    def record(self, *addresses: str) -> SignedNodeRecord:
        self.seq += 1
        der = self.identity.certificate
        places = addresses or (self.address,)
        return noderecord.make(self.signer, self.quorum, self.idao, der, places, self.seq)

    def allowed(self) -> Allowed:
        return Allowed(self.idao, self.signer.public, self.mesh.own)

    def meet(self, *others: Node) -> None:
        self.mesh.allow([other.allowed() for other in others])

    async def close(self) -> None:
        await self.listener.close()
        await self.mesh.stop()


async def nodes(folder: Path, count: int, *, host: str = HOST, quorum: bytes = QUORUM) -> list[Node]:
    """Started nodes that allow each other."""
    made = [await Node(folder, n, host=host, quorum=quorum).open() for n in range(1, count + 1)]
    for node in made:
        node.meet(*made)
        node.mesh.start()
    return made


async def close(*made: Node) -> None:
    await asyncio.gather(*(node.close() for node in made))


async def until(test: Callable[[], object], seconds: float = 5.0) -> None:
    """Waits for `test` to hold; fails when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < deadline, "did not come about in time"
        await asyncio.sleep(0.005)


def linked(*made: Node) -> bool:
    """Whether every node has a link to each of the others."""
    return all(len(node.mesh.up()) == len(made) - 1 for node in made)


def run(test: Coroutine[Any, Any, None], seconds: float = 40) -> None:
    async def bounded() -> None:
        bugs: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: bugs.append(context))
        async with asyncio.timeout(seconds):
            await test
        assert bugs == []

    asyncio.run(bounded())


class Trio:
    """Two honest nodes that are linked, and the keys of a third member."""

    def __init__(self, a: Node, b: Node, c: Node) -> None:
        self.a, self.b, self.c = a, b, c

    def still_well(self) -> bool:
        return self.b.idao in self.a.mesh.up() and self.b.idao not in self.a.hub.downs

    def forgive(self) -> None:
        """Penalties have tests of their own; here each case begins afresh."""
        self.a.listener.doors.open.clear()
        for peer in self.a.mesh.peers.values():
            peer.kept_out_until, peer.offences = 0.0, 0

    def hello(self, **changes: Any) -> bytes:
        hello = wire.Hello(1, QUORUM, self.c.idao, b"n" * 16, self.c.mesh.own, b"", "rogue")
        return canonical.pack(replace(hello, **changes))

    async def dial(
        self, context: ssl.SSLContext | None = None, *, greet: bool = True, size: int = 0
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A TLS connection to `a`, as `c` unless another context is given."""
        context = context or tls.client_context(self.c.identity, [self.a.identity.certificate])
        reader, writer = await asyncio.open_connection(
            HOST, self.a.listener.port, ssl=context, server_hostname=""
        )
        if greet:
            writer.write(frame(wire.HELLO, self.hello()))
            await until(lambda: self.c.idao in self.a.mesh.up())
        return reader, writer

    async def ping(self, count: int) -> list[float]:
        """Seconds of round trips between the honest two."""
        loop = asyncio.get_running_loop()
        back: list[asyncio.Future[None]] = []
        self.b.hub.answer = lambda peer, kind, data: self.b.mesh.send(peer, kind, data) and None
        self.a.hub.answer = lambda peer, kind, data: peer == self.b.idao and back.pop().set_result(None)
        taken = []
        for _ in range(count):
            begun = time.perf_counter()
            back.append(loop.create_future())
            assert self.a.mesh.send(self.b.idao, 20, bytes(300))
            await back[0]
            taken.append(time.perf_counter() - begun)
            await asyncio.sleep(0.002)
        return taken


@asynccontextmanager
async def trio(folder: Path) -> AsyncIterator[Trio]:
    a, b, c = [await Node(folder, n).open() for n in (1, 2, 3)]
    await c.listener.close()
    a.meet(b, c)
    b.meet(a)
    a.mesh.start()
    b.mesh.start()
    await until(lambda: a.mesh.up() == [b.idao])
    made = Trio(a, b, c)
    try:
        yield made
        assert made.still_well()
    finally:
        await close(a, b)


async def gone(reader: asyncio.StreamReader, seconds: float = 5) -> bytes:
    """What still comes until the other end has closed."""
    out = b""
    async with asyncio.timeout(seconds):
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(65536):
                out += data
    return out
