"""Every frame that a peer can send: cut, flipped, padded, spliced, of the wrong kind, in any pieces.

A decoder gives a value whose bytes are those very bytes, or says `Malformed`: no third way. A member that is
fed such frames goes on with the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import tracemalloc
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
from group_world import person
from hypothesis import given, settings
from hypothesis import strategies as st
from member_world import Net, Person, trust
from sim.bench import BODY, Bench, X

from idao import noderecord
from idao.crypto import canonical
from idao.crypto.keys import Signer
from idao.errors import Malformed
from idao.model import FINALIZE, ITEMS_MAX, NOTARIZE, NULLIFY, Block, Certificate
from idao.node import link, pairing, wire
from idao.node import messages as msg
from idao.quorum import events as ev
from idao.quorum.machine import Machine

BENCH = Bench(Machine)
CERT, VOTE = BENCH.cert(FINALIZE, 0, X), BENCH.sv(NOTARIZE, 1, 0, X)
SIG = bytes(64)
HUB: list[Any] = [
    BENCH.frame(0, X, (BENCH.cert(NULLIFY, 0),)),
    ev.Propose(VOTE, None, ()),
    VOTE,
    CERT,
    ev.Status(3, 1, X, b"\1", b"\2", True),
    ev.GetBlock(3, X),
    ev.Body(3, X, BODY[X]),
    msg.Txs((b"one", b"another")),
    msg.Cosign(3, SIG, 1_700_000_000, SIG),
    msg.GetCosigns(3),
    msg.GetCommits(1, 64),
    msg.Commits(1, (msg.DecidedBlock(BODY[X], CERT, ""), msg.DecidedBlock(BODY[X], CERT, "a note"))),
    msg.Kept(1, 3),
    msg.GetTip(0),
    msg.TipIs(None),
    msg.TipIs(CERT),
    msg.GetReceipts(2),
    msg.Receipts(2, (b"leaf",)),
    msg.GetBundle(X),
    msg.Bundle(X, b"collateral"),
]
"""A value of every kind of the hub's."""
RECORD = noderecord.make(Signer(bytes(32)), X, X, b"certificate", ("10.0.0.1:4711",), 5)
MESH: list[tuple[int, Any]] = [
    (wire.HELLO, wire.Hello(1, X, X, bytes(16), RECORD, b"status", "idao 1")),
    (wire.KEEP_ALIVE, wire.KeepAlive(1000, 1, 2, 3, 4, False, b"")),
    (wire.RECORDS, wire.Records((RECORD, RECORD))),
    (wire.BYE, wire.Bye("goodbye")),
]
JOINER = person("bob")
PAIRING: list[Any] = [
    pairing.Hail(1, X, X),
    pairing.Reply(X, b"bundle", X),
    pairing.Offer(X, JOINER.idao, X, RECORD, JOINER.inception, (), (b"register", b"join"), "bob"),
    pairing.Sealed(b"message", X),
    pairing.Verdict(True, "", (RECORD,), "ana"),
    pairing.Refusal("used"),
]
FRAMES: list[tuple[str, type, bytes]] = [
    *((type(v).__name__, type(v), canonical.pack(v)) for v in PAIRING),
    *((type(v).__name__, type(v), canonical.pack(v)) for v in HUB),
    *((type(v).__name__, type(v), canonical.pack(v)) for _, v in MESH),
]


def test_no_kind_is_left_out() -> None:
    assert {type(v) for v in HUB} == set(msg.KINDS.values())
    for value in HUB:
        assert msg.decode(*msg.encode(value)) == value
    told = {v for name, v in vars(wire).items() if isinstance(v, type) and v.__module__ == wire.__name__}
    assert told == {type(v) for _, v in MESH}
    frozen = {v for v in vars(pairing).values() if is_dataclass(v) and v.__module__ == pairing.__name__}
    assert frozen == {type(v) for v in PAIRING}


def reads(cls: type, data: bytes) -> None:
    """`data` is exactly one value's bytes, or malformed."""
    try:
        value = canonical.unpack(cls, data, limit=msg.PAYLOAD_MAX)
    except Malformed:
        return
    assert canonical.pack(value) == data


@pytest.mark.parametrize("name, cls, good", FRAMES, ids=[f"{i}-{f[0]}" for i, f in enumerate(FRAMES)])
def test_every_cut_and_every_flip(name: str, cls: type, good: bytes) -> None:
    for n in range(len(good)):
        with pytest.raises(Malformed):
            canonical.unpack(cls, good[:n], limit=msg.PAYLOAD_MAX)
    with pytest.raises(Malformed):
        canonical.unpack(cls, good + b"\0", limit=msg.PAYLOAD_MAX)
    rng = random.Random(name)
    for at in range(len(good)):
        changed = bytearray(good)
        changed[at] ^= 1 << rng.randrange(8)
        reads(cls, bytes(changed))


@pytest.mark.slow
@pytest.mark.parametrize("name, cls, good", FRAMES, ids=[f"{i}-{f[0]}" for i, f in enumerate(FRAMES)])
def test_many_spliced(name: str, cls: type, good: bytes) -> None:
    """`IDAO_FUZZ_ROUNDS` is the number for each frame, `IDAO_FUZZ_SEED` makes them others."""
    rng = random.Random(name + os.environ.get("IDAO_FUZZ_SEED", ""))
    for _ in range(int(os.environ.get("IDAO_FUZZ_ROUNDS", "1000"))):
        other, data = rng.choice(FRAMES)[2], bytearray(good)
        for _ in range(rng.randint(1, 3)):
            at, start = rng.randrange(len(data) + 1), rng.randrange(len(other))
            piece = rng.choice((rng.randbytes(rng.randint(0, 4)), other[start : start + rng.randint(1, 40)]))
            data[at : at + rng.choice((0, 1, len(piece)))] = piece
        reads(cls, bytes(data))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_splices_and_noise(data: st.DataObject) -> None:
    _, cls, good = data.draw(st.sampled_from(FRAMES))
    _, _, other = data.draw(st.sampled_from(FRAMES))
    a, b = data.draw(st.integers(0, len(good))), data.draw(st.integers(0, len(other)))
    reads(cls, good[:a] + data.draw(st.binary(max_size=12)) + other[b:])
    reads(cls, other)
    reads(cls, data.draw(st.binary(max_size=64)))


@given(st.integers(0, 300), st.binary(max_size=200))
def test_kinds_nobody_knows(kind: int, payload: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert msg.encode(msg.decode(kind, payload)) == (kind, payload)
    if kind not in msg.KINDS:
        with pytest.raises(Malformed):
            msg.decode(kind, payload)


@pytest.mark.parametrize("head", [b"\x9b", b"\x5b", b"\x7b", b"\xbb"])
def test_huge_lengths_claim_nothing(head: bytes) -> None:
    """A few bytes that claim 2^62 items or bytes are refused before anything of that size is made."""
    for cls in msg.KINDS.values():
        with pytest.raises(Malformed):
            canonical.unpack(cls, head + (2**62).to_bytes(8, "big"), limit=msg.PAYLOAD_MAX)


# --- the stream --------------------------------------------------------------------------------------


class Pipe:
    """As much of a transport as a link needs."""

    def __init__(self) -> None:
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


def feed(pieces: list[bytes], frame_max: int = link.FRAME_MAX) -> tuple[list[tuple[int, bytes]], link.Link]:
    """What a link hands out when these pieces come in."""

    async def story() -> tuple[list[tuple[int, bytes]], link.Link]:
        got: list[tuple[int, bytes]] = []
        end = link.Link(lambda _, k, p: got.append((k, p)), lambda *_: None, dialed=False)
        end.transport = Pipe()  # type: ignore[assignment]
        end.frame_max = frame_max
        for piece in pieces:
            rest = memoryview(piece)
            while rest and not end.transport.closed:  # type: ignore[union-attr]
                room = end.get_buffer(-1)
                count = min(len(room), len(rest))
                room[:count] = rest[:count]
                rest = rest[count:]
                end.buffer_updated(count)
            await asyncio.sleep(0)
        while end._held is not None:
            await asyncio.sleep(0)
        return got, end

    return asyncio.run(story())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=12),
    st.lists(st.integers(1, 400), max_size=20),
)
def test_pieces_do_not_matter(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(link.frame(k, p) for k, p in frames)
    pieces, at = [], 0
    for size in cuts:
        pieces.append(stream[at : at + size])
        at += size
    got, end = feed([*pieces, stream[at:]])
    assert got == frames and not end.transport.closed  # type: ignore[union-attr]


def test_a_large_frame_in_small_pieces() -> None:
    payload = random.Random(1).randbytes(300_000)
    stream = link.frame(200, payload)
    got, _ = feed([stream[i : i + 1000] for i in range(0, len(stream), 1000)])
    assert got == [(200, payload)]


@pytest.mark.parametrize(
    "head",
    [
        link.HEAD.pack(1, link.VERSION, 16),
        link.HEAD.pack(0, link.VERSION, 16),
        link.HEAD.pack(link.FRAME_MAX + 1, link.VERSION, 16),
        link.HEAD.pack(2**32 - 1, link.VERSION, 16),
        link.HEAD.pack(2, link.VERSION + 1, 16),
        link.HEAD.pack(2, 0, 16),
    ],
)
def test_a_wrong_head_ends_the_link_as_the_peers_fault(head: bytes) -> None:
    got, end = feed([link.frame(16, b"good"), head + b"rest" * 100, link.frame(16, b"late")])
    assert got == [(16, b"good")], "what came before stands, what comes after is not read"
    assert end.transport.closed and end.blame  # type: ignore[union-attr]


def test_a_stranger_may_say_little() -> None:
    _, end = feed([link.frame(0, bytes(link.STRANGER_FRAME_MAX))], link.STRANGER_FRAME_MAX)
    assert end.transport.closed and end.blame  # type: ignore[union-attr]


SWELLING = {
    "empty lists": lambda n: b"\x81\x9a" + n.to_bytes(4, "big") + b"\x80" * n,
    "empty maps": lambda n: b"\xa1\x64raws\x9a" + n.to_bytes(4, "big") + b"\xa0" * n,
    "numbers": lambda n: b"\x82\x01\x9a" + (n // 3).to_bytes(4, "big") + b"\x19\x10\x00" * (n // 3),
    "short strings": lambda n: b"\x81\x9a" + (n // 2).to_bytes(4, "big") + b"\x41a" * (n // 2),
    "short strings under its own name": lambda n: (
        b"\xa1\x64raws\x9a" + (n // 2).to_bytes(4, "big") + b"\x41a" * (n // 2)
    ),
    "pairs in pairs": lambda n: b"\x81\x9a" + (n // 3).to_bytes(4, "big") + b"\x82\x80\x80" * (n // 3),
}


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "plain"])
@pytest.mark.parametrize("what", SWELLING)
def test_what_would_swell_is_refused_before_it_does(
    what: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a frame, and as the block in one: 4 MB would become 300 MB and take a second."""
    bomb = SWELLING[what](4_000_000)
    block = SWELLING[what](1_900_000)
    for cls in (msg.Txs, Block):
        canonical.write_out(cls)
        if not compiled:
            monkeypatch.delitem(canonical._short, cls)
            monkeypatch.setattr(canonical, "LARGE_BYTES", 2**40)
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            msg.decode(msg.KIND_OF[msg.Txs], bomb)
        with pytest.raises(Malformed):
            canonical.unpack(Block, block, items=ITEMS_MAX)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_the_fullest_messages_are_not_refused() -> None:
    """30 validators, 64 blocks, 64 certificates, 2,000 transactions, 2,200 receipts."""
    vote = VOTE.vote
    certificate = Certificate(vote, bytes(4), (SIG,) * 30)
    full = [
        msg.Commits(1, tuple(msg.DecidedBlock(b"block" * 2000, certificate, "note") for _ in range(64))),
        ev.Propose(VOTE, bytes(2_000_000), (certificate,) * 64),
        msg.Txs((bytes(2000),) * msg.TXS_MAX),
        msg.Receipts(1, (bytes(1500),) * msg.LEAVES_MAX),
    ]
    for value in full:
        assert msg.decode(*msg.encode(value)) == value


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_on_a_stream(noise: bytes) -> None:
    feed([noise])


# --- a member under fire -----------------------------------------------------------------------------


def test_a_member_fed_with_broken_frames_goes_on(tmp_path: Path) -> None:
    """One peer sends mutated frames of every kind, real ones of its own among them; the others agree on."""

    async def story() -> None:
        people = [Person(f"person {i}") for i in range(4)]
        net = Net(tmp_path, people)
        for p in people:
            net.boot(p)
        rng, liar = random.Random(7), people[3].idao
        real: list[tuple[int, bytes]] = []
        plain = net.deliver

        def deliver(source: bytes, target: bytes, kind: int, payload: bytes) -> None:
            if source == liar and len(real) < 300:
                real.append((kind, payload))
            plain(source, target, kind, payload)

        net.deliver = deliver  # type: ignore[method-assign]
        malformed = 0
        for i in range(8):
            tx = net.member(people[0]).submit(people[0].tx(net.quorum, trust(i)))
            for _ in range(60):
                kind, payload = rng.choice([*(msg.encode(v) for v in HUB), *real])
                data = bytearray(payload)
                for _ in range(rng.choice((0, 1, 1, 3))):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                try:
                    net.member(people[rng.randrange(3)]).on_frame(
                        liar, rng.choice((kind, kind, rng.choice(list(msg.KINDS)))), bytes(data)
                    )
                except Malformed:
                    malformed += 1
            await net.agreed(tx.id)
        assert malformed > 50
        assert not any(m.broken or m.engine.halted for m in net.members.values())
        assert not net.troubles
        net.stop()

    asyncio.run(asyncio.wait_for(story(), 60))
