"""CBOR and COSE_Sign1 as the vendors send them (RFC 8949, RFC 9052 §4), read strictly.

General decoders take trailing bytes and duplicate keys (the last wins), so one document can say two things
to two readers. This one says why it refuses: no trailing bytes, no duplicate keys, no floats, shortest heads,
bounded depth. Indefinite maps and arrays only where asked for: Nitro's newer documents hold one, signed.
"""

from __future__ import annotations

from typing import Any

from idao.errors import Malformed
from idao.frozen import frozen
from idao.tee import certs

DEPTH_MAX = 8
"""The deepest vendor document has five levels."""
ITEMS_MAX = 256
"""Items of one array or map: the largest real one has 32."""


@frozen
class Tag:
    number: int
    value: Any


class _Reader:
    def __init__(self, data: bytes, open_ended: bool) -> None:
        self.data, self.pos, self.open_ended = data, 0, open_ended

    def take(self, n: int) -> bytes:
        if n > len(self.data) - self.pos:
            raise Malformed("CBOR ends early")
        self.pos += n
        return self.data[self.pos - n : self.pos]

    def head(self) -> tuple[int, int]:
        first = self.take(1)[0]
        major, info = first >> 5, first & 31
        if info < 24:
            return major, info
        if info == 31 and major in (4, 5) and self.open_ended:
            return major, -1
        if info > 27:
            raise Malformed("CBOR of indefinite length")
        size = 1 << (info - 24)
        value = int.from_bytes(self.take(size), "big")
        if major != 7 and value < (24 if size == 1 else 1 << (4 * size)):
            raise Malformed("CBOR number longer than needed")
        return major, value if major != 7 else -1

    def item(self, depth: int = 0) -> Any:
        if depth > DEPTH_MAX:
            raise Malformed("CBOR nested too deep")
        major, value = self.head()
        if major == 0:
            return value
        if major == 1:
            return -1 - value
        if major == 2:
            return self.take(value)
        if major == 3:
            try:
                return self.take(value).decode()
            except UnicodeDecodeError as e:
                raise Malformed("CBOR text is not UTF-8") from e
        if major == 6:
            return Tag(value, self.item(depth + 1))
        if major == 7:
            if value in (20, 21, 22):
                return {20: False, 21: True, 22: None}[value]
            raise Malformed("CBOR float or unknown simple value")
        return self.array(value, depth) if major == 4 else self.map(value, depth)

    def more(self, count: int, done: int) -> bool:
        """Does another item follow, after `done` of `count` (-1: until a break)?"""
        if done > ITEMS_MAX:
            raise Malformed("CBOR array or map too long")
        if count >= 0:
            return done < count
        if self.data[self.pos : self.pos + 1] != b"\xff":
            return True
        self.pos += 1
        return False

    def array(self, count: int, depth: int) -> list[Any]:
        out: list[Any] = []
        while self.more(count, len(out)):
            out.append(self.item(depth + 1))
        return out

    def map(self, count: int, depth: int) -> dict[int | str, Any]:
        out: dict[int | str, Any] = {}
        while self.more(count, len(out)):
            key = self.item(depth + 1)
            if type(key) not in (int, str):
                raise Malformed("CBOR map key is neither number nor text")
            if key in out:
                raise Malformed(f"CBOR map has the key {key!r} twice")
            out[key] = self.item(depth + 1)
        return out


def read(data: bytes, *, open_ended: bool = False) -> Any:
    """The one item that `data` is; `Malformed` with the cause for anything else."""
    reader = _Reader(data, open_ended)
    value = reader.item()
    if reader.pos != len(data):
        raise Malformed("bytes after the end of the CBOR item")
    return value


def head(major: int, value: int) -> bytes:
    """The shortest head of an item."""
    if value < 24:
        return bytes([major << 5 | value])
    size = next(n for n in (1, 2, 4, 8) if value < 1 << (8 * n))
    return bytes([major << 5 | (23 + size.bit_length())]) + value.to_bytes(size, "big")


@frozen
class Sign1:
    protected: bytes
    headers: dict[int | str, Any]
    payload: bytes
    signature: bytes

    def verifies(self, key: Any, hash_name: str) -> bool:
        """ECDSA over Sig_structure ["Signature1", protected, h'', payload] (RFC 9052 §4.4)."""
        text = b"Signature1"
        signed = b"\x84" + head(3, len(text)) + text
        signed += head(2, len(self.protected)) + self.protected + b"\x40"
        signed += head(2, len(self.payload)) + self.payload
        return certs.ecdsa_raw(key, self.signature, signed, hash_name)


def sign1(value: Any, *, unprotected: bool = False) -> Sign1:
    """A COSE_Sign1 from its array, tagged 18 or not; `unprotected` allows headers that nobody signs."""
    if isinstance(value, Tag) and value.number == 18:
        value = value.value
    if not isinstance(value, list) or len(value) != 4:
        raise Malformed("not a COSE_Sign1")
    protected, loose, payload, signature = value
    if not (isinstance(protected, bytes) and isinstance(loose, dict)):
        raise Malformed("not a COSE_Sign1")
    if not (isinstance(payload, bytes) and isinstance(signature, bytes)) or (loose and not unprotected):
        raise Malformed("not a COSE_Sign1")
    headers = read(protected) if protected else {}
    if not isinstance(headers, dict):
        raise Malformed("not a COSE_Sign1")
    return Sign1(protected, headers, payload, signature)
