"""A frame's round trip through two meshes beside a bare asyncio echo over the same TLS: ratios in one run.

    python tests/bench/bench_mesh.py [--rounds 5] [--frames 3000] [--size 300]

Both ends live in one process, so a round trip is all the work of both. The bare echo is an asyncio protocol
that does nothing else; the meshes find frames, count, and hand them to a hub.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import net_world as world

from idao.node import tls

Trip = Callable[[], Awaitable[None]]


class Echo(asyncio.Protocol):
    """Sends back what it gets; or, with `size`, tells when so many bytes are back."""

    def __init__(self, size: int = 0) -> None:
        self.size, self.have = size, 0
        self.back: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.size:
            self.transport.write(data)  # type: ignore[attr-defined]
            return
        self.have += len(data)
        if self.have >= self.size and self.back is not None:
            self.have = 0
            self.back.set_result(None)


async def protocol_trip(server: ssl.SSLContext, client: ssl.SSLContext, payload: bytes) -> Trip:
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(Echo, "127.0.0.1", 0, ssl=server)
    port = listening.sockets[0].getsockname()[1]
    end = Echo(len(payload))
    transport, _ = await loop.create_connection(
        lambda: end, "127.0.0.1", port, ssl=client, server_hostname=""
    )

    async def trip() -> None:
        end.back = loop.create_future()
        transport.write(payload)
        await end.back

    return trip


async def mesh_trip(folder: Path, payload: bytes) -> tuple[Trip, world.Node, world.Node]:
    a, b = await world.nodes(folder, 2)
    await world.until(lambda: world.linked(a, b))
    loop = asyncio.get_running_loop()
    back: list[asyncio.Future[None]] = []
    b.hub.answer = lambda peer, kind, payload: b.mesh.broadcast((kind, payload))
    a.hub.answer = lambda peer, kind, payload: back.pop().set_result(None)

    async def trip() -> None:
        done = loop.create_future()
        back.append(done)
        a.mesh.send(b.idao, 16, payload)
        await done

    return trip, a, b


async def measure(options: argparse.Namespace, folder: Path) -> None:
    one, two = tls.identity(folder / "one"), tls.identity(folder / "two")
    server = tls.server_context(one, [two.certificate], pairing=False)
    client = tls.client_context(two, [one.certificate])
    payload = bytes(options.size)
    mesh, *ends = await mesh_trip(folder, payload)
    trips = {
        "bare protocol": await protocol_trip(server, client, payload),
        "mesh": mesh,
    }
    medians: dict[str, list[float]] = {name: [] for name in trips}
    for turn in range(options.rounds + 1):
        for name, trip in trips.items():
            taken = []
            for _ in range(options.frames):
                begun = time.perf_counter()
                await trip()
                taken.append(time.perf_counter() - begun)
            if turn:  # the first is a warm-up
                medians[name].append(statistics.median(taken))
    floor = statistics.median(medians["bare protocol"])
    for name, rounds in medians.items():
        median = statistics.median(rounds)
        print(f"{name:<14} {median * 1e6:6.0f} us   {median / floor:5.2f} x bare protocol")
    await world.close(*ends)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=3000)
    parser.add_argument("--size", type=int, default=300)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(parser.parse_args(), Path(folder)))


if __name__ == "__main__":
    main()
