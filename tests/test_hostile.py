"""Hostile peers: members who misbehave, strangers at the door. Each costs itself alone.

The honest pair is always the same: `a` and `b` are linked and stay so; the rogue is the third member, `c`,
whose keys the attacker holds, or nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import net_world as world
import pytest

from idao import noderecord
from idao.crypto import canonical
from idao.frozen import replace
from idao.node import doors, tls, wire
from idao.node import link as links
from idao.node import listener as listeners
from idao.node.link import HEAD, frame
from idao.node.mesh import Mesh

PYTHON = [sys.executable, "-c"]


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

    def __init__(self, a: world.Node, b: world.Node, c: world.Node) -> None:
        self.a, self.b, self.c = a, b, c

    def still_well(self) -> bool:
        return self.b.idao in self.a.mesh.up() and self.b.idao not in self.a.hub.downs

    def forgive(self) -> None:
        """Penalties have tests of their own; here each case begins afresh."""
        self.a.listener.doors.open.clear()
        for peer in self.a.mesh.peers.values():
            peer.kept_out_until, peer.offences = 0.0, 0

    def hello(self, **changes: Any) -> bytes:
        hello = wire.Hello(1, world.QUORUM, self.c.idao, b"n" * 16, self.c.mesh.own, b"", "rogue")
        return canonical.pack(replace(hello, **changes))

    async def dial(
        self, context: ssl.SSLContext | None = None, *, greet: bool = True, size: int = 0
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A TLS connection to `a`, as `c` unless another context is given."""
        context = context or tls.client_context(self.c.identity, [self.a.identity.certificate])
        reader, writer = await asyncio.open_connection(
            world.HOST, self.a.listener.port, ssl=context, server_hostname=""
        )
        if greet:
            writer.write(frame(wire.HELLO, self.hello()))
            await world.until(lambda: self.c.idao in self.a.mesh.up())
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
    a, b, c = [await world.Node(folder, n).open() for n in (1, 2, 3)]
    await c.listener.close()
    a.meet(b, c)
    b.meet(a)
    a.mesh.start()
    b.mesh.start()
    await world.until(lambda: a.mesh.up() == [b.idao])
    made = Trio(a, b, c)
    try:
        yield made
        assert made.still_well()
    finally:
        await world.close(a, b)


async def gone(reader: asyncio.StreamReader, seconds: float = 5) -> bytes:
    """What still comes until the other end has closed."""
    out = b""
    async with asyncio.timeout(seconds):
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(65536):
                out += data
    return out


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


# --- a member who speaks nonsense ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"quorum": b"x" * 32},
        {"idao": b"\x02" * 32},
        {"idao": b"\x09" * 32},
        {"v": 2},
        {"record": "other"},
        {"record": "forged"},
        {"status": "long"},
    ],
    ids=lambda changes: "-".join(f"{k}" for k in changes),
)
def test_a_hello_that_does_not_fit(tmp_path: Path, changes: dict[str, Any]) -> None:
    async def test() -> None:
        async with trio(tmp_path) as t:
            if changes.get("record") == "other":
                changes["record"] = t.b.mesh.own
            if changes.get("record") == "forged":  # a newer record, not signed
                own = t.c.mesh.own
                changes["record"] = replace(own, record=replace(own.record, seq=99))
            hello = t.hello() if changes.get("status") == "long" else t.hello(**changes)
            if changes.get("status") == "long":
                hello = canonical.encode(canonical.decode(hello) | {"status": bytes(5000)})
            reader, writer = await t.dial(greet=False)
            writer.write(frame(wire.HELLO, hello))
            said = await gone(reader)
            assert t.c.idao not in t.a.hub.ups
            assert (b"version" in said) == ("v" in changes), "only the version is answered"

    run(test())


def test_a_hello_that_the_hub_cannot_read_leaves_nothing_at_the_door(tmp_path: Path) -> None:
    """Else each would hold a place for strangers for ever, and soon nobody of that address got in."""

    async def test() -> None:
        async with trio(tmp_path) as t:
            t.a.hub.nonsense = b"nonsense"
            for _ in range(doors.STRANGERS_PER_ADDRESS + 2):
                t.forgive()
                reader, writer = await t.dial(greet=False)
                writer.write(frame(wire.HELLO, t.hello(status=b"nonsense")))
                await gone(reader)
            await world.until(lambda: not t.a.listener._strangers)
            assert t.still_well() and t.c.idao not in t.a.mesh.up()

    run(test())


def examples(t: Trio) -> dict[int, bytes]:
    """A valid payload of each kind of frame."""
    alive = wire.KeepAlive(1000, 5, 6, 7, 8, False, b"status")
    return {
        wire.HELLO: t.hello(),
        wire.KEEP_ALIVE: canonical.pack(alive),
        wire.RECORDS: canonical.pack(wire.Records((t.c.mesh.own, t.b.mesh.own))),
        wire.ASK_RECORDS: b"",
        wire.BYE: canonical.pack(wire.Bye("good night")),
        wire.PAIR: b"anything",
        9: b"a kind that nobody knows",
    }


BOMBS = {
    "a list of 2^60": b"\x9b\x10" + bytes(7),
    "bytes of 2^60": b"\x5b\x10" + bytes(7),
    "a map of 2^60": b"\xbb\x10" + bytes(7),
    "nested 100,000 deep": b"\x81" * 100_000 + b"\x80",
    "nested maps": b"\xa1\x00" * 50_000 + b"\xa0",
    "a million empty lists": b"\x9a\x00\x0f\x42\x40" + b"\x80" * 1_000_000,
    "one long text": b"\x7a\x00\x10\x00\x00" + b"a" * 0x100000,
    "tags": b"\xc0" * 50_000 + b"\x00",
    "indefinite": b"\x9f" * 50_000,
}


def test_every_kind_of_frame_mutated_and_cut(tmp_path: Path) -> None:
    async def test() -> None:
        chance = random.Random(4)
        async with trio(tmp_path) as t:
            for kind, good in examples(t).items():
                cases = [good[: len(good) // 2], good + b"\x00", good + good, b"\xff" * 40]
                for _ in range(3):
                    bad = bytearray(good or b"\x00")
                    bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
                    cases.append(bytes(bad))
                for case in cases:
                    await one_case(t, kind, case)

    run(test(), 60)


async def one_case(t: Trio, kind: int, payload: bytes) -> None:
    """Sends one frame as a linked member; all must be as before afterwards."""
    t.forgive()
    before = t.a.mesh.peers[t.b.idao].record
    _reader, writer = await t.dial()
    writer.write(frame(kind, payload))
    writer.write(frame(wire.KEEP_ALIVE, canonical.pack(wire.KeepAlive(1000, 5, 6, 7, 8, True, b""))))
    await asyncio.sleep(0.01)
    writer.close()
    await world.until(lambda: t.a.mesh.up() == [t.b.idao])
    assert t.a.mesh.peers[t.b.idao].record == before and t.still_well()


@pytest.mark.slow
def test_frames_that_would_swell_do_not(tmp_path: Path) -> None:
    async def test() -> None:
        async with trio(tmp_path) as t:
            for name, bomb in BOMBS.items():
                for kind in (wire.KEEP_ALIVE, wire.RECORDS):
                    begun = time.perf_counter()
                    await one_case(t, kind, bomb)
                    assert time.perf_counter() - begun < 3, name
                assert t.a.mesh.peers[t.c.idao].offences == 1, name

    run(test(), 60)


@pytest.mark.parametrize(
    "head", [(5 * 2**20, 1), (2**32 - 1, 1), (0, 1), (1, 1), (10, 0), (10, 2), (10, 255)], ids=str
)
def test_heads_that_cannot_be(tmp_path: Path, head: tuple[int, int]) -> None:
    async def test() -> None:
        async with trio(tmp_path) as t:
            reader, writer = await t.dial()
            link = t.a.mesh.peers[t.c.idao].link
            assert link is not None
            length, version = head
            # A whole frame where it is only the version that is wrong, else the beginning of a large one.
            writer.write(HEAD.pack(length, version, 20) + bytes(length - 2 if version != 1 else 100_000))
            await gone(reader)
            assert t.a.mesh.up() == [t.b.idao] and len(link._buffer) <= links.BUFFER
            assert t.a.hub.frames == []
            assert t.a.mesh.peers[t.c.idao].offences == 1

    run(test())


def test_before_the_hello_frames_are_small(tmp_path: Path) -> None:
    async def test() -> None:
        async with trio(tmp_path) as t:
            reader, writer = await t.dial(greet=False)
            writer.write(frame(wire.HELLO, bytes(links.STRANGER_FRAME_MAX)))
            await gone(reader)
            t.forgive()
            reader, writer = await t.dial(greet=False)
            writer.write(frame(20, b"no hello before"))
            await gone(reader)
            assert t.a.hub.frames == []

    run(test())


@pytest.mark.parametrize("named", [True, False])
def test_a_stolen_validator_key_takes_nobodys_place(tmp_path: Path, named: bool) -> None:
    """With the key of `c`, `b` signs that it is reached under a certificate of the thief, and tells `a`.

    Where the seat on the ledger names the certificate of `c`, nothing happens. Where it names none, the newer
    record counts: so every seat but the founder's names one.
    """

    async def test() -> None:
        a, b, c = await world.nodes(tmp_path, 3)
        await world.until(lambda: world.linked(a, b, c))
        allowed = [replace(x.allowed(), tls=x.identity.pin if named else x.allowed().tls) for x in (b, c)]
        a.mesh.allow(allowed)
        assert c.idao in a.mesh.up()
        thief = tls.identity(tmp_path / "thief")
        forged = noderecord.make(c.signer, world.QUORUM, c.idao, thief.certificate, ("127.0.0.1:9",), 99)
        link = b.mesh.peers[a.idao].link
        assert link is not None
        link.write(wire.records([forged]))
        assert b.mesh.send(a.idao, 20, b"after it")
        await world.until(lambda: (b.idao, 20, b"after it") in a.hub.frames)
        assert (thief.pin in a.mesh.by_pin) is not named
        assert (c.idao in a.mesh.up()) is named and b.idao in a.mesh.up()
        await world.close(a, b, c)

    run(test())


def test_a_seat_that_names_another_certificate_ends_the_link(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await world.nodes(tmp_path, 2)
        await world.until(lambda: world.linked(a, b))
        a.mesh.allow([replace(b.allowed(), tls=b"\5" * 32)])
        assert a.mesh.up() == [] and b.identity.pin not in a.mesh.by_pin
        a.mesh.allow([replace(b.allowed(), tls=b.identity.pin)])
        await world.until(lambda: world.linked(a, b))
        await world.close(a, b)

    run(test())


def test_who_claims_another_ones_certificate_takes_no_links(tmp_path: Path) -> None:
    """The seat of `b`, the founder, names no certificate: its record may claim that of `c`, which stands on
    the ledger. Both keep their links, and make new ones."""

    async def test() -> None:
        a, b, c = await world.nodes(tmp_path, 3)
        await world.until(lambda: world.linked(a, b, c))
        a.mesh.allow([b.allowed(), replace(c.allowed(), tls=c.identity.pin)])
        der = c.identity.certificate
        claim = noderecord.make(b.signer, world.QUORUM, b.idao, der, ("127.0.0.1:9",), 99)
        link = b.mesh.peers[a.idao].link
        assert link is not None
        link.write(wire.records([claim]))
        await world.until(lambda: a.mesh.peers[b.idao].record == claim)
        assert c.idao in a.mesh.up(), "the claim cut the link of whom it names"
        for end in (a, c):  # whoever dials
            other = c if end is a else a
            went = a.mesh.peers[c.idao].link
            assert went is not None
            went.cut("a break")
            await world.until(lambda: c.idao not in a.mesh.up())
            other.mesh.dialer.rounds[end.idao].due = time.monotonic() + 60
            await world.until(lambda: c.idao in a.mesh.up(), 8)
        await world.close(a, b, c)

    run(test())


def test_who_breaks_the_rules_stays_out_longer_each_time(tmp_path: Path) -> None:
    async def test() -> None:
        async with trio(tmp_path) as t:
            out = []
            for _ in range(3):
                reader, writer = await t.dial()
                writer.write(frame(wire.KEEP_ALIVE, b"nonsense"))
                await gone(reader)
                peer = t.a.mesh.peers[t.c.idao]
                out.append(peer.kept_out_until - time.monotonic())
                reader, writer = await t.dial(greet=False)
                writer.write(frame(wire.HELLO, t.hello()))
                assert b"kept out" in await gone(reader)
                peer.kept_out_until = 0.0
            assert out[0] < out[1] < out[2] <= 4.0
            [state] = [s for s in t.a.mesh.links() if s.peer == t.c.idao]
            assert state.score == 40

    run(test())


def test_a_hub_that_finds_nonsense_cuts_its_sender_alone(tmp_path: Path) -> None:
    async def test() -> None:
        from idao.errors import Malformed

        async with trio(tmp_path) as t:

            def refuse(peer: bytes, kind: int, payload: bytes) -> None:
                raise Malformed("no such vote")

            t.a.hub.answer = refuse
            reader, writer = await t.dial()
            writer.write(frame(20, b"vote"))
            await gone(reader)
            assert t.a.mesh.up() == [t.b.idao]
            reason = {s.peer: s.reason for s in t.a.mesh.links()}[t.c.idao]
            assert reason == "no such vote"

    run(test())


# --- a member who takes too much, or nothing ---------------------------------------------------------------


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

    import test_mesh

    async def test() -> None:
        a = await world.Node(tmp_path, 1).open()
        child = subprocess.Popen(
            [sys.executable, "-c", test_mesh.CHILD, str(tmp_path), "2", str(world.TESTS)],
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
