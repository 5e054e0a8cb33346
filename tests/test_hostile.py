"""Hostile peers: members who misbehave, strangers at the door. Each costs itself alone.

The honest pair is always the same: `a` and `b` are linked and stay so; the rogue is the third member, `c`,
whose keys the attacker holds, or nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import net_world as world
import pytest
from net_world import gone, run, trio

from idao.crypto import canonical
from idao.node import link as links
from idao.node import listener as listeners
from idao.node import tls, wire
from idao.node.link import frame
from idao.node.mesh import Mesh

# --- strangers -----------------------------------------------------------------------------------------


def signed_by(folder: Path, issuer: tls.TlsIdentity) -> tls.TlsIdentity:
    """A certificate that the holder of a pinned certificate signed for another key."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    authority = load_pem_private_key(issuer.path.read_bytes(), None)
    parent = x509.load_der_x509_certificate(issuer.certificate)
    key = Ed25519PrivateKey.generate()
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "another")]))
        .issuer_name(parent.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2099, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(parent.public_key()), False)
        .sign(authority, None)  # type: ignore[arg-type]
    )
    der = made.public_bytes(Encoding.DER)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain = ssl.DER_cert_to_PEM_cert(der) + ssl.DER_cert_to_PEM_cert(issuer.certificate)
    folder.mkdir(exist_ok=True)
    (folder / "other.pem").write_bytes(pem + chain.encode())
    return tls.TlsIdentity(folder / "other.pem", der)


def authority(folder: Path) -> tls.TlsIdentity:
    """A pinned certificate that says it may sign others: what a rogue member would make."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(8)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2099, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(x509.KeyUsage(True, False, False, False, False, True, True, False, False), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
        .sign(key, None)
    )
    der = made.public_bytes(Encoding.DER)
    folder.mkdir(exist_ok=True)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "authority.pem").write_bytes(pem + ssl.DER_cert_to_PEM_cert(der).encode())
    return tls.TlsIdentity(folder / "authority.pem", der)


def test_only_the_pinned_certificate_gets_in(tmp_path: Path) -> None:
    async def test() -> None:
        async with trio(tmp_path) as t:
            trusted = [t.a.identity.certificate]
            t.c.identity = authority(tmp_path / "rogue")
            t.a.mesh.learn(t.c.record())
            t.c.mesh.own = t.c.record()
            signed = signed_by(tmp_path / "rogue", t.c.identity)
            without = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            without.check_hostname, without.verify_mode = False, ssl.CERT_NONE
            without.set_alpn_protocols([tls.PEERS])
            old = tls.client_context(t.c.identity, trusted)
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
            silent = tls.client_context(t.c.identity, trusted)
            silent.set_alpn_protocols(["h2"])
            cases = {
                "no certificate": without,
                "a stranger's": tls.client_context(tls.identity(tmp_path / "stranger"), trusted),
                "signed by a pinned one": tls.client_context(signed, trusted),
                "TLS 1.2": old,
                "another protocol": silent,
            }
            for name, context in cases.items():
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    reader, writer = await t.dial(context, greet=False)
                    writer.write(frame(wire.HELLO, t.hello()))
                    assert not await gone(reader), name
                assert t.a.mesh.up() == [t.b.idao], name
                t.forgive()
            reader, writer = await t.dial()  # the pinned one itself
            writer.close()

    run(test())


def test_a_false_server_gets_no_word(tmp_path: Path) -> None:
    """At a member's address answers another: with a strange certificate, or one signed by the pinned one."""

    async def test() -> None:
        async with trio(tmp_path) as t:
            heard: list[bytes] = []

            async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    heard.append(await reader.read(1000))

            t.c.identity = authority(tmp_path / "rogue")
            false = [signed_by(tmp_path / "rogue", t.c.identity), tls.identity(tmp_path / "stranger")]
            for n, shown in enumerate(false):
                context = tls.server_context(shown, [t.a.identity.certificate], pairing=False)
                server = await asyncio.start_server(listen, world.HOST, 0, ssl=context)
                t.a.mesh.learn(t.c.record(f"127.0.0.1:{server.sockets[0].getsockname()[1]}"))
                peer = t.a.mesh.peers[t.c.idao]
                await world.until(lambda peer=peer: "certificate there is no member's" in peer.reason)  # type: ignore[misc]
                server.close()
                peer.reason, peer.learned = f"case {n}", -1e9
            assert [h for h in heard if h] == []

    run(test())


SOON_S = 15
"""Long after the limits of the next test on a busy machine, long before a dripping hello would be whole."""


def test_silence_and_dripping_before_the_hello(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (links, listeners):
        monkeypatch.setattr(module, "HANDSHAKE_S", 0.4)
    monkeypatch.setattr("idao.node.fresh.HELLO_S", 0.4)

    async def test() -> None:
        async with trio(tmp_path) as t:
            reader, _ = await asyncio.open_connection(world.HOST, t.a.listener.port)
            begun = time.monotonic()
            await gone(reader)
            assert 0.05 < time.monotonic() - begun < SOON_S, "who says nothing at all"
            reader, writer = await asyncio.open_connection(world.HOST, t.a.listener.port)
            begun = time.monotonic()
            with contextlib.suppress(ConnectionError):
                for byte in b"\x16\x03\x01\x02\x00\x01" + bytes(500):
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.05)
                    if reader.at_eof():
                        break
            assert time.monotonic() - begun < SOON_S, "who drips its handshake"
            reader, writer = await t.dial(greet=False)
            begun = time.monotonic()
            await gone(reader)
            assert 0.05 < time.monotonic() - begun < SOON_S, "who never says hello"
            reader, writer = await t.dial(greet=False)
            hello = frame(wire.HELLO, t.hello())
            begun = time.monotonic()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                for byte in hello:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.05)
                    if reader.at_eof():
                        break
            assert time.monotonic() - begun < SOON_S, "who drips its hello"
            assert t.c.idao not in t.a.hub.ups

    run(test(), 4 * SOON_S)


def test_a_recorded_conversation_cannot_be_replayed(tmp_path: Path) -> None:
    async def test() -> None:
        async with trio(tmp_path) as t:
            said = bytearray()

            async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                there, back = await asyncio.open_connection(world.HOST, t.a.listener.port)

                async def pump(
                    source: asyncio.StreamReader, to: asyncio.StreamWriter, log: bytearray
                ) -> None:
                    while data := await source.read(65536):
                        log += data
                        to.write(data)
                    to.close()

                await asyncio.gather(pump(reader, back, said), pump(there, writer, bytearray()))

            between = await asyncio.start_server(relay, world.HOST, 0)
            context = tls.client_context(t.c.identity, [t.a.identity.certificate])
            port = between.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection(world.HOST, port, ssl=context, server_hostname="")
            writer.write(frame(wire.HELLO, t.hello()) + frame(20, b"said once"))
            await world.until(lambda: t.a.hub.frames)
            writer.close()
            await world.until(lambda: t.a.mesh.up() == [t.b.idao])
            reader, writer = await asyncio.open_connection(world.HOST, t.a.listener.port)
            writer.write(said)
            await gone(reader, 8)
            assert len(t.a.hub.frames) == 1 and t.a.hub.ups.count(t.c.idao) == 1
            between.close()

    run(test())


# --- two quorums, sleeping machines ------------------------------------------------------------------------


def test_a_connection_that_broke_before_it_was_taken_is_nothing(tmp_path: Path) -> None:
    """Linux tells by accept(2) what befell a connection in the queue: an unreachable host, say."""

    class Broken:
        def accept(self) -> None:
            raise OSError(errno.EHOSTUNREACH, "No route to host")

    async def test() -> None:
        a = await world.Node(tmp_path, 1).open()
        a.listener._accept(Broken())  # type: ignore[arg-type]
        await world.close(a)

    run(test())


def test_one_home_in_two_quorums_keeps_them_apart(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await world.nodes(tmp_path, 2)
        other = b"O" * 32
        hub = world.Hub()
        a2 = world.Node(tmp_path, 1, quorum=other)
        a2.listener = a.listener
        second = Mesh(other, hub, a.identity, a2.record())
        a.listener.add(second)
        b2 = await world.Node(tmp_path, 2, quorum=other).open()
        b2.mesh.update(b2.record("127.0.0.1:9"))
        second.allow([b2.allowed()])
        a2.mesh = second
        b2.meet(a2)
        second.start()
        b2.mesh.start()
        await world.until(lambda: world.linked(a, b) and second.up() == [b2.idao])
        second.broadcast((20, b"of the second"))
        await world.until(lambda: b2.hub.frames)
        assert b.hub.frames == [] and a.hub.frames == []
        a.listener.remove(other)
        await second.stop()
        await world.until(lambda: b2.hub.downs)
        assert world.linked(a, b)
        await world.close(a, b, b2)

    run(test())


def test_a_member_of_one_quorum_is_nobody_in_another(tmp_path: Path) -> None:
    """Both are at the same door; it brings a record for the second, signed by its own key."""

    async def test() -> None:
        async with trio(tmp_path) as t:
            other, hub = b"O" * 32, world.Hub()
            own = world.Node(tmp_path, 1, quorum=other)
            own.listener = t.a.listener
            second = Mesh(other, hub, t.a.identity, own.record())
            t.a.listener.add(second)
            theirs = world.Node(tmp_path, 3, quorum=other)
            theirs.listener = t.c.listener
            reader, writer = await t.dial(greet=False)
            writer.write(frame(wire.HELLO, t.hello(quorum=other, record=theirs.record())))
            assert not await gone(reader)
            assert hub.ups == [] and t.c.idao not in t.a.hub.ups

    run(test())


def test_a_quorum_of_the_same_name_is_another_quorum(tmp_path: Path) -> None:
    """Its nodes are found by the same hints; nobody links across."""

    async def test() -> None:
        ours = await world.nodes(tmp_path / "ours", 2)
        theirs = await world.nodes(tmp_path / "theirs", 2, quorum=b"T" * 32)
        everywhere = [node.address for node in (*ours, *theirs)]
        for node in (*ours, *theirs):
            node.mesh.hint(everywhere)
        await world.until(lambda: world.linked(*ours) and world.linked(*theirs))
        await asyncio.sleep(1)
        for pair in (ours, theirs):
            for node in pair:
                assert len(node.hub.ups) == 1
        await world.close(*ours, *theirs)

    run(test())


@pytest.mark.slow
def test_a_machine_that_slept_is_back_soon(tmp_path: Path) -> None:
    """Its process stands still for 6 s with all sockets open; then both sides meet again by themselves."""
    import signal

    import test_mesh_sessions

    async def test() -> None:
        a = await world.Node(tmp_path, 1).open()
        child = subprocess.Popen(
            [sys.executable, "-c", test_mesh_sessions.CHILD, str(tmp_path), "2", str(world.TESTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            from idao.node.mesh import Allowed
            from idao.noderecord import SignedNodeRecord

            line = await asyncio.to_thread(child.stdout.readline)  # type: ignore[union-attr]
            theirs = canonical.unpack(SignedNodeRecord, bytes.fromhex(line))
            a.mesh.allow([Allowed(world.idao(2), theirs.record.key, theirs)])
            print(canonical.pack(a.mesh.own).hex(), line.strip(), file=child.stdin, flush=True)
            a.mesh.start()
            await world.until(lambda: a.mesh.up())
            child.send_signal(signal.SIGSTOP)
            a.mesh.broadcast((20, b"are you there?"))
            begun = time.monotonic()
            await world.until(lambda: a.hub.downs, 6)
            assert time.monotonic() - begun < 5
            await asyncio.sleep(2)
            child.send_signal(signal.SIGCONT)
            await world.until(lambda: len(a.hub.ups) == 2, 12)
        finally:
            child.kill()
            child.wait()
        await world.close(a)

    run(test(), 60)
