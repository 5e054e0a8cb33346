"""A member who speaks nonsense: frames cut, swollen, mutated or out of place, and names not its own."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import net_world as world
import pytest
from net_world import Trio, gone, run, trio

from idao import noderecord
from idao.crypto import canonical
from idao.frozen import replace
from idao.node import doors, tls, wire
from idao.node import link as links
from idao.node.link import HEAD, frame


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
