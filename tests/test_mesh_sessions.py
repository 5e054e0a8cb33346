"""Two sessions of one member, silence, restarts, ports, and four real processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import net_world as world
import pytest
from net_world import run

from idao.errors import Unreachable
from idao.node import mesh as meshes
from idao.node import tls
from idao.node.listener import Listener

# --- two of one ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_copied_home_is_refused_and_told(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await world.nodes(tmp_path, 2)
        await world.until(lambda: world.linked(a, b))
        alarms: list[bytes] = []
        for node in (a, b):
            node.mesh.on_duplicate = lambda idao, address: alarms.append(idao)
        copy = await world.Node(tmp_path, 2).open()
        own_alarms: list[bytes] = []
        copy.mesh.on_duplicate = lambda idao, address: own_alarms.append(idao)
        copy.meet(a)
        copy.mesh.start()
        await world.until(lambda: b.idao in alarms, 6)
        assert a.mesh.up() == [b.idao] and copy.mesh.up() == []
        assert "another process of this member" in copy.mesh.links()[0].reason
        copy.mesh.hint([b.address])
        await world.until(lambda: len(alarms) > 1 and b.idao in alarms[1:], 6)
        assert a.hub.downs == []
        await world.close(a, b, copy)

    run(test())


@pytest.mark.slow
def test_a_restart_after_a_power_cut_gets_in(tmp_path: Path) -> None:
    """The first session never says goodbye: its end freezes with the socket open."""

    async def test() -> None:
        a = (await world.nodes(tmp_path, 1))[0]
        b = await frozen_peer(tmp_path, a)
        again = await world.Node(tmp_path, 2).open()
        again.meet(a)
        again.mesh.start()
        await world.until(lambda: again.mesh.up() == [a.idao], 8)
        assert a.hub.ups == [b.idao, b.idao] and a.hub.downs == [b.idao]
        await world.close(a, again)
        b.mesh._tick_handle.cancel()  # type: ignore[union-attr]
        await world.close(b)

    async def frozen_peer(tmp_path: Path, a: world.Node) -> world.Node:
        b = await world.Node(tmp_path, 2).open()
        a.meet(b)
        b.meet(a)
        a.mesh.start()
        b.mesh.start()
        await world.until(lambda: a.mesh.up() == [b.idao])
        link = b.mesh.peers[a.idao].link
        assert link is not None
        await b.listener.close()
        await b.mesh.dialer.stop()
        link.receive = lambda link, kind, payload: None
        b.mesh._keep_alive = lambda *args, **more: None  # type: ignore[method-assign]
        return b

    run(test())


@pytest.mark.slow
def test_who_falls_silent_says_so_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two talk; the third was told to expect much of them, and must hear that this is over."""
    monkeypatch.setattr(meshes, "BUSY_S", 0.2)
    monkeypatch.setattr(meshes, "IDLE_S", 1.0)
    monkeypatch.setattr(meshes, "TICK_S", 0.05)

    async def test() -> None:
        a, b, c = await world.nodes(tmp_path, 3)
        await world.until(lambda: world.linked(a, b, c))
        await asyncio.sleep(1.5)
        for _ in range(3):
            a.mesh.send(b.idao, 16, b"x")
            await asyncio.sleep(0.1)
        await asyncio.sleep(2.5)
        assert a.hub.downs == b.hub.downs == c.hub.downs == []
        await world.close(a, b, c)

    run(test())


def test_a_member_without_records_knows_the_others_by_the_ledgers_pins(tmp_path: Path) -> None:
    """A lost peer book, or a home restored from a backup: it dials where the operator says somebody is."""

    async def test() -> None:
        a, b = [await world.Node(tmp_path, n).open() for n in (1, 2)]
        a.meet(b)
        a.mesh.dialer.start = lambda: None  # type: ignore[method-assign]
        where, pin = a.mesh.own.record.addresses, a.mesh.identity.pin
        b.mesh.allow([meshes.Allowed(a.idao, a.mesh.own.record.key, None, where, b"another pin".ljust(32))])
        a.mesh.start()
        b.mesh.start()
        await world.until(lambda: "no member's" in b.mesh.links()[0].reason)
        b.mesh.allow([meshes.Allowed(a.idao, a.mesh.own.record.key, None, where, pin)])
        await world.until(lambda: world.linked(a, b))
        assert b.mesh.peers[a.idao].record == a.mesh.own, "and its record came over the link"
        await world.close(b)
        a.mesh._tick_handle.cancel()  # type: ignore[union-attr]
        await a.listener.close()

    run(test())


@pytest.mark.slow
def test_a_silent_peer_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meshes, "BUSY_S", 0.2)
    monkeypatch.setattr(meshes, "IDLE_S", 0.4)
    monkeypatch.setattr(meshes, "TICK_S", 0.05)

    async def test() -> None:
        a, b, c = await world.nodes(tmp_path, 3)
        await world.until(lambda: world.linked(a, b, c))
        await asyncio.sleep(2)
        assert world.linked(a, b, c) and a.hub.downs == []
        b.mesh._keep_alive = lambda *args, **more: None  # type: ignore[method-assign]
        await world.until(lambda: a.hub.downs[:1] == [b.idao])
        assert c.idao not in a.hub.downs
        await world.close(a, b, c)

    run(test())


def test_a_bug_of_the_hub_is_not_the_peers_fault(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await world.nodes(tmp_path, 2)
        await world.until(lambda: world.linked(a, b))
        bugs: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: bugs.append(context))
        b.hub.answer = lambda peer, kind, payload: 1 // 0  # type: ignore[return-value]
        a.mesh.send(b.idao, 16, b"x")
        await world.until(lambda: bugs)
        assert isinstance(bugs[0]["exception"], ZeroDivisionError)
        assert b.mesh.links()[0].score == 100
        await world.close(a, b)

    run(test())


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        a = await world.Node(tmp_path, 1).open()
        with pytest.raises(Unreachable) as e:
            await Listener(a.identity, a.listener.port, ("127.0.0.1",)).open()
        assert e.value.exit_code == 11 and e.value.hint
        await a.close()

    run(test())


def test_both_families_share_a_port(tmp_path: Path) -> None:
    async def test() -> None:
        listener = Listener(tls.identity(tmp_path), 0)
        await listener.open()
        for host in ("127.0.0.1", "::1"):
            _, writer = await asyncio.open_connection(host, listener.port)
            writer.close()
        await listener.close()

    run(test())


# --- processes -----------------------------------------------------------------------------------------


CHILD = """
import asyncio, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import net_world as world
from idao.crypto import canonical
from idao.node.mesh import Allowed
from idao.noderecord import SignedNodeRecord

async def main(folder, n):
    node = await world.Node(folder, n).open()
    print(canonical.pack(node.mesh.own).hex(), flush=True)
    lines = sys.stdin.readline().split()
    records = [canonical.unpack(SignedNodeRecord, bytes.fromhex(line)) for line in lines]
    node.mesh.allow([Allowed(r.record.idao, r.record.key, r) for r in records])
    node.mesh.start()
    await world.until(lambda: len(node.mesh.up()) == len(records) - 1, 20)
    node.mesh.broadcast((16, bytes([n])))
    await world.until(lambda: len(node.hub.frames) == len(records) - 1, 20)
    print(json.dumps(sorted(payload[0] for _, _, payload in node.hub.frames)), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await node.close()

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


@pytest.mark.slow
def test_four_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    children = [
        subprocess.Popen(
            [*command, str(n), str(Path(__file__).parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(1, 5)
    ]
    try:
        records = [child.stdout.readline().strip() for child in children]  # type: ignore[union-attr]
        for child in children:
            print(*records, file=child.stdin, flush=True)
        for n, child in enumerate(children, 1):
            heard = json.loads(child.stdout.readline())  # type: ignore[union-attr]
            assert heard == [i for i in range(1, 5) if i != n]
        for child in children:
            child.communicate("\n", timeout=10)
            assert child.returncode == 0
    finally:
        for child in children:
            child.kill()
            child.wait()
