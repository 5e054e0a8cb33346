"""One byte string for each value: every other spelling that the CBOR library accepts is refused."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idao.crypto import canonical
from idao.errors import Malformed
from idao.frozen import frozen
from idao.model import INT_MAX, Size

VECTORS = json.loads((Path(__file__).parent / "vectors" / "canonical.json").read_text())

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), INT_MAX)
    | st.binary(max_size=40)
    | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=30), inner, max_size=5),
    max_leaves=20,
)


@dataclass(frozen=True, slots=True)
class Thing:
    name: Annotated[str, Size(1, 8)]
    key: Annotated[bytes, Size(4)]
    parts: tuple[tuple[int, bool], ...]
    note: str | None


@given(plain)
def test_round_trip(value: object) -> None:
    data = canonical.encode(value)
    assert canonical.decode(data) == value
    assert canonical.encode(canonical.decode(data)) == data


@given(plain)
def test_keys_stand_in_rfc_8949_order(value: object) -> None:
    """Our encoder against the bytewise rule of RFC 8949 §4.2.1, written out independently."""

    def head(major: int, n: int) -> bytes:
        for size, info in ((1, 24), (2, 25), (4, 26), (8, 27)):
            if n < 24:
                return bytes([major << 5 | n])
            if n < 1 << (8 * size):
                return bytes([major << 5 | info]) + n.to_bytes(size, "big")
        raise AssertionError

    def enc(v: object) -> bytes:
        if v is None or isinstance(v, bool):
            return {None: b"\xf6", True: b"\xf5", False: b"\xf4"}[v]
        if isinstance(v, int):
            return head(0, v) if v >= 0 else head(1, -1 - v)
        if isinstance(v, bytes):
            return head(2, len(v)) + v
        if isinstance(v, str):
            return head(3, len(v.encode())) + v.encode()
        if isinstance(v, list):
            return head(4, len(v)) + b"".join(map(enc, v))
        assert isinstance(v, dict)
        pairs = sorted((enc(k), enc(x)) for k, x in v.items())
        return head(5, len(v)) + b"".join(k + x for k, x in pairs)

    assert canonical.encode(value) == enc(value)


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda c: c["why"])
def test_refused(case: dict[str, str]) -> None:
    data = bytes.fromhex(case["hex"])
    with pytest.raises(Malformed):
        canonical.decode(data)
    with pytest.raises(Malformed):
        canonical.unpack(Thing, data)


@pytest.mark.parametrize("case", VECTORS["accepted"], ids=lambda c: c["hex"][:16])
def test_accepted(case: dict[str, object]) -> None:
    data = bytes.fromhex(str(case["hex"]))
    assert canonical.encode(canonical.decode(data)) == data


@pytest.mark.parametrize(
    "value", [1.0, {1: 2}, {"a": 2**63}, -(2**63) - 1, {1, 2}, cbor2.CBORTag(1, 2), "\ud800"]
)
def test_unsignable(value: object) -> None:
    with pytest.raises(Malformed):
        canonical.encode(value)


def test_nested_too_deep() -> None:
    value: object = 1
    for _ in range(canonical.DEPTH_MAX):
        value = [value]
    canonical.encode(value)
    with pytest.raises(Malformed):
        canonical.encode([value])
    with pytest.raises(Malformed):
        canonical.decode(b"\x81" * 100_000 + b"\x01")


GOOD = Thing("ana", b"abcd", ((1, True),), None)


def test_typed_round_trip() -> None:
    data = canonical.pack(GOOD)
    assert canonical.unpack(Thing, data) == GOOD
    assert data == canonical.encode(canonical.to_plain(GOOD))


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""}, {"name": "nine char"}, {"name": 1}, {"key": b"abc"}, {"key": "abcd"}, {"parts": [[1]]},
        {"parts": [[-1, True]]}, {"parts": [[1, 1]]}, {"note": 5}, {"extra": 1}, {"parts": None},
    ],
)  # fmt: skip
def test_typed_refused(change: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        canonical.unpack(Thing, canonical.encode({**canonical.to_plain(GOOD), **change}))


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_malformed(data: bytes) -> None:
    for read in (canonical.decode, lambda d: canonical.unpack(Thing, d)):
        try:
            read(data)
        except Malformed:
            continue


@given(st.data())
def test_every_truncation_and_flip_of_a_thing_is_malformed_or_another_thing(data: st.DataObject) -> None:
    raw = bytearray(canonical.pack(GOOD))
    for n in range(len(raw)):
        with pytest.raises(Malformed):
            canonical.unpack(Thing, bytes(raw[:n]))
    at, bit = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(0, 7))
    raw[at] ^= 1 << bit
    with contextlib.suppress(Malformed):
        assert canonical.unpack(Thing, bytes(raw)) != GOOD


@frozen
class Heavy:
    body: Annotated[bytes, Size(0, 2**26)]


@pytest.mark.parametrize("large", [canonical.LARGE_BYTES, 2**40], ids=["written-out", "plain"])
def test_a_limit_of_its_own_counts_alone(monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    """A proof of a million files is larger than what is read where nobody says how much may come."""
    monkeypatch.setattr(canonical, "LARGE_BYTES", large)
    canonical._codecs.pop(Heavy, None)
    heavy = Heavy(bytes(canonical.BYTES_MAX))
    data = canonical.pack(heavy)
    assert canonical.unpack(Heavy, data, limit=2**26) == heavy
    with pytest.raises(Malformed):
        canonical.unpack(Heavy, data)
    with pytest.raises(Malformed):
        canonical.unpack(Heavy, data + b"\0", limit=2**26)
