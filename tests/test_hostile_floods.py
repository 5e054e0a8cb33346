"""A member who takes too much, or nothing, and a crowd at the door."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import statistics
import subprocess
import sys
import time
from pathlib import Path

import net_world as world
import pytest
from net_world import run, trio

from idao.crypto import canonical
from idao.node import doors, wire
from idao.node import link as links
from idao.node import listener as listeners
from idao.node.link import frame

PYTHON = [sys.executable, "-c"]


def test_a_dripped_frame_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "FRAME_S", 0.5)

    async def test() -> None:
        async with trio(tmp_path) as t:
            _reader, writer = await t.dial()
            whole = frame(20, bytes(1000))
            begun = time.monotonic()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                for byte in whole:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.02)
                    if t.c.idao not in t.a.mesh.up():
                        break
            assert 0.4 < time.monotonic() - begun < 4 and t.a.hub.frames == []
            assert "took more than" in t.a.mesh.peers[t.c.idao].reason

    run(test())


def test_a_peer_that_never_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "STALL_S", 1.5)

    async def test() -> None:
        async with trio(tmp_path) as t:
            _reader, writer = await t.dial()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            alive = frame(wire.KEEP_ALIVE, canonical.pack(wire.KeepAlive(1000, 5, 6, 7, 8, False, b"")))
            refused = sent = 0
            while t.c.idao in t.a.mesh.up():
                writer.write(alive)
                if not t.a.mesh.send(t.c.idao, 20, bytes(1_000_000)):
                    refused += 1
                assert t.a.mesh.queue(t.c.idao) <= links.QUEUE_MAX + 1_100_000
                if sent < 20:
                    t.a.mesh.send(t.b.idao, 20, sent.to_bytes(4, "big"))
                    sent += 1
                await asyncio.sleep(0.02)
            assert refused > 5, "its queue was full"
            assert [d for _, _, d in t.b.hub.frames] == [n.to_bytes(4, "big") for n in range(20)]
            assert "read nothing" in t.a.mesh.peers[t.c.idao].reason

    run(test())


FLOOD = """
import asyncio, ssl, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from idao.node import tls
from idao.node.link import frame

async def main(port, folder, hello, what):
    identity = tls.identity(Path(folder))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(identity.path)
    context.set_alpn_protocols([tls.PEERS])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="")
    writer.write(bytes.fromhex(hello))
    print("in", flush=True)
    junk = frame(20, b"") * 20_000 if what == "small" else frame(20, bytes(4_000_000))
    while True:
        writer.write(junk)
        await writer.drain()

try:
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.stdin.readline().strip(), sys.argv[3]))
except (ConnectionError, ssl.SSLError, BrokenPipeError):
    pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["small", "large"])
def test_a_flooding_member_slows_nobody(tmp_path: Path, what: str) -> None:
    """The honest two's round trip beside a member that sends as many, or as large, frames as it can."""

    async def test() -> None:
        async with trio(tmp_path) as t:
            quiet = await t.ping(150)
            taken = 0

            def count(peer: bytes, kind: int, payload: bytes) -> None:
                nonlocal taken
                taken += 1

            child = subprocess.Popen(
                [*PYTHON, FLOOD, str(t.a.listener.port), str(tmp_path / "home3"), what, str(world.TESTS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            try:
                print(frame(wire.HELLO, t.hello()).hex(), file=child.stdin, flush=True)
                await asyncio.to_thread(child.stdout.readline)  # type: ignore[union-attr]
                await world.until(lambda: t.c.idao in t.a.mesh.up())
                await asyncio.sleep(1)
                link = t.a.mesh.peers[t.c.idao].link
                assert link is not None
                begun, frames, read = time.monotonic(), link.frames_in, link.bytes_in
                loud = await t.ping(300)
                span = time.monotonic() - begun
                assert link.frames_in - frames < links.FRAMES_PER_S * span * 1.2 + 2000
                assert link.bytes_in - read < links.BYTES_PER_S * span * 1.2 + 8_000_000
            finally:
                child.kill()
                child.wait()
            # A scheduler's slice is 4 ms and the flooder has a core of its own; a starved loop is far above.
            assert statistics.median(loud) < 10 * statistics.median(quiet) + 0.010

    run(test(), 60)


CROWD = """
import socket, sys, time
port, count = int(sys.argv[1]), int(sys.argv[2])
held, refused = [], 0
print("in", flush=True)
for n in range(count):
    s = socket.socket()
    s.settimeout(2)
    try:
        s.connect(("127.0.0.1", port))
        s.send(b"\\x16\\x03\\x01")
    except OSError:
        refused += 1
        s.close()
        continue
    held.append(s)
    if len(held) > 400:
        held.pop(0).close()
print("done", flush=True)
time.sleep(30)
"""


@pytest.mark.slow
def test_ten_thousand_connections_from_one_host(tmp_path: Path) -> None:
    async def test() -> None:
        async with trio(tmp_path) as t:
            quiet = await t.ping(150)
            child = subprocess.Popen(
                [*PYTHON, CROWD, str(t.a.listener.port), "10000"], stdout=subprocess.PIPE, text=True
            )
            done = asyncio.create_task(asyncio.to_thread(child.stdout.read, 8))  # type: ignore[union-attr]
            try:
                loud: list[float] = []
                most = 0
                while not done.done():
                    loud += await t.ping(20)
                    most = max(most, len(t.a.listener._strangers))
                assert most <= doors.STRANGERS_PER_ADDRESS
                assert t.a.listener.accepted + t.a.listener.refused >= 9_000
                assert t.a.listener.accepted < 1_000
                assert statistics.median(loud) < 10 * statistics.median(quiet) + 0.010
                # Its own address is worn out, and nobody else's: a member from another one gets in.
                while True:
                    t.a.listener.doors.open.pop("127.0.0.1", None)
                    try:
                        _reader, writer = await t.dial()
                    except OSError:  # what the crowd left in the queue wears it out again
                        await asyncio.sleep(0.1)
                    else:
                        break
                writer.close()
            finally:
                child.kill()
                child.wait()

    run(test(), 80)


def test_the_door_has_room_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers from many addresses fill the door: the oldest makes room."""
    monkeypatch.setattr(listeners, "STRANGERS_MAX", 5)
    monkeypatch.setattr(doors, "STRANGERS_PER_ADDRESS", 100)

    async def test() -> None:
        async with trio(tmp_path) as t:
            held = [await asyncio.open_connection(world.HOST, t.a.listener.port) for _ in range(12)]
            await asyncio.sleep(0.2)
            assert len(t.a.listener._strangers) <= 5
            _reader, writer = await t.dial()
            writer.close()
            for _, one in held:
                one.close()

    run(test())
