"""The codecs written out against the long way: the same bytes, the same values, the same refusals."""

from __future__ import annotations

from typing import Annotated, Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idao.crypto import canonical, compiled
from idao.errors import Malformed
from idao.frozen import frozen
from idao.model import INT_MAX, Range, Size


@frozen
class Inner:
    word: Annotated[str, Size(1, 8)]
    signed: Annotated[int, Range(-5, 300)]


@frozen
class Outer:
    id: Annotated[bytes, Size(4)]
    n: int
    small: Annotated[int, Range(1, 30)]
    flag: bool
    data: Annotated[bytes, Size(0, 300)]
    text: str
    maybe: Annotated[bytes, Size(2)] | None
    inner: Inner
    many: Annotated[tuple[Inner, ...], Size(0, 30)]
    pair: tuple[int, bool]
    own: Annotated[tuple[Outer, ...], Size(0, 2)]
    percent: Annotated[bytes, Size(1)]


numbers = st.integers(0, INT_MAX) | st.sampled_from([0, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32])
inners = st.builds(Inner, st.text(min_size=1, max_size=2), st.integers(-5, 300))


def outers(own: st.SearchStrategy[tuple[Outer, ...]]) -> st.SearchStrategy[Outer]:
    return st.builds(
        Outer,
        st.binary(min_size=4, max_size=4),
        numbers,
        st.integers(1, 30),
        st.booleans(),
        st.binary(max_size=300),
        st.text(max_size=30),
        st.none() | st.binary(min_size=2, max_size=2),
        inners,
        st.lists(inners, max_size=30).map(tuple),
        st.tuples(numbers, st.booleans()),
        own,
        st.sampled_from([b"%", b"\0", b"b"]),
    )


whole = outers(st.just(())) | outers(st.tuples(outers(st.just(()))))


canonical.write_out(Outer)
WRITE = canonical.pack
LONG_WRITE, LONG_READ = canonical._plainly(Outer, *canonical._codecs[Outer][:2])
"""By way of plain values."""


def READ(data: bytes) -> Outer:
    return canonical.unpack(Outer, data)


def test_the_short_way_is_taken() -> None:
    pair = compiled.codec_of(Outer)
    assert pair is not None
    value = Outer(b"abcd", 5, 5, True, b"x", "y", None, Inner("w", 7), (), (1, False), (), b"%")
    data = pair[0](value)
    assert pair[1](data, 0) == (value, len(data))


@given(whole)
def test_the_same_bytes_and_values(value: Outer) -> None:
    data = WRITE(value)
    assert data == LONG_WRITE(value) == cbor2.dumps(cbor2.loads(data), canonical=True)
    assert READ(data) == value


def outcome(work: Any, *given: Any) -> Any:
    try:
        return work(*given)
    except Malformed as e:
        return e.message


@settings(max_examples=400)
@given(whole, st.data())
def test_the_same_verdict_on_damaged_bytes(value: Outer, data: st.DataObject) -> None:
    good = WRITE(value)
    at = data.draw(st.integers(0, len(good) - 1))
    for bad in (
        good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :],
        good[:at] + data.draw(st.binary(max_size=3)) + good[at:],
        good[:at] + good[at + data.draw(st.integers(1, 9)) :],
        good[:at],
        good + b"\0",
    ):
        assert outcome(READ, bad) == outcome(LONG_READ, bad)


@pytest.mark.parametrize("n", [0, 1, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63 - 1])
def test_only_the_shortest_head_of_a_number_is_read(n: int) -> None:
    shortest = cbor2.dumps(n)
    assert compiled.head(0, n) == shortest
    assert compiled.read_head(shortest, 0, 0) == (n, len(shortest))
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if size >= len(shortest) and n < 1 << (8 * size):
            with pytest.raises(compiled.Otherwise):
                compiled.read_head(bytes([info]) + n.to_bytes(size, "big"), 0, 0)


@pytest.mark.parametrize(
    "field, value",
    [
        ("id", b"abc"), ("n", -1), ("n", INT_MAX + 1), ("n", True), ("small", 31), ("flag", 1), ("data", "x"),
        ("text", "\ud800"), ("text", "x" * 4097), ("maybe", b"x"), ("inner", "x"), ("many", []),
        ("pair", (1, 2)), ("pair", (1, True, True)), ("own", None), ("percent", bytearray(b"%")),
    ],
)  # fmt: skip
def test_the_same_refusal_of_values(field: str, value: object) -> None:
    from idao.frozen import replace

    good = Outer(b"abcd", 5, 5, True, b"x", "y", None, Inner("w", 7), (), (1, False), (), b"%")
    bad = replace(good, **{field: value})
    said = outcome(LONG_WRITE, bad)
    assert isinstance(said, str)
    assert outcome(WRITE, bad) == said
