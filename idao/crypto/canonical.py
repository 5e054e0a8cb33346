"""The one place where a value becomes bytes that are hashed or signed, and where such bytes are read.

Encoding: CBOR, RFC 8949 §4.2.1 core deterministic: shortest integers, definite lengths, map keys in
bytewise order of their encoding. Beyond that idao allows only integers within ±2^63, byte and text
strings, booleans, null, arrays, and maps with text keys: no floats, no tags. With text keys alone the
length-first order of RFC 7049 (which `cbor2` sorts by) and the bytewise order of RFC 8949 are the same.

`cbor2` by itself accepts trailing bytes, duplicate keys, long integers, other key orders, indefinite
lengths, floats and tags. `decode` and `unpack` re-encode what they read and compare, so exactly one
byte string stands for each value.

Frozen dataclasses are the wire format: `pack` writes one as a map from field name to value, `unpack`
reads it back, checking each field against its annotation.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar, Union, cast, get_args, get_origin

import cbor2

from idao.crypto.shapes import (
    BYTES,
    BYTES_MAX,
    ITEMS_MAX,
    LIST,
    TEXT,
    TEXT_MAX,
    UNSIGNED,
    head,
    hints_of,
    is_record,
    names_of,
)
from idao.errors import Malformed
from idao.model import INT_MAX, Range, Size

T = TypeVar("T")

DEPTH_MAX = 16
"""Nesting allowed in any value: deeper input is an attack on the decoder (ASA-2024-012)."""
LARGE_BYTES = 1024 * 1024
"""From here on the compiler's ten milliseconds are less than what it saves."""
SMALL_BYTES = 64 * 1024
"""Up to here whatever data hold is built in a hundredth of a second: counting items would cost more."""

Plain = Any
"""What CBOR can hold here: int, bytes, str, bool, None, list or tuple, dict with text keys."""


def _check(value: Plain, depth: int = 0) -> None:
    kind = type(value)
    if kind is int:
        if not -INT_MAX - 1 <= value <= INT_MAX:
            raise Malformed("integer outside 64 bits")
    elif kind is bytes or kind is str or kind is bool or value is None:
        return
    elif depth >= DEPTH_MAX:
        raise Malformed(f"nested deeper than {DEPTH_MAX}")
    elif kind is list or kind is tuple:
        for item in value:
            _check(item, depth + 1)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise Malformed("map key is not text")
            _check(item, depth + 1)
    else:
        raise Malformed(f"a {kind.__name__} has no place in a signed value")


def encode(value: Plain) -> bytes:
    """The canonical bytes of a plain value. Raises `Malformed` for floats, tags, big integers."""
    _check(value)
    try:
        # With maps put in order first: cbor2's own `canonical=True` takes ten times as long.
        return cbor2.dumps(_sorted(value))
    except (cbor2.CBOREncodeError, UnicodeEncodeError) as e:
        raise Malformed(f"not encodable: {e}") from e


_ID = b"\x58\x20"
"""Head of a string of 32 bytes."""


def encode_key(values: Sequence[Plain]) -> bytes:
    """`encode` of a list, faster for what keys are made of: ids, words and counts."""
    parts = [head(LIST, len(values))]
    for v in values:
        if type(v) is bytes:
            parts.append((_ID if len(v) == 32 else head(BYTES, len(v))) + v)
        elif type(v) is str and v.isascii():
            parts += head(TEXT, len(v)), v.encode()
        elif type(v) is int and 0 <= v <= INT_MAX:
            parts.append(head(UNSIGNED, v))
        else:
            return encode(list(values))
    return b"".join(parts)


def _loads(data: bytes, limit: int) -> Plain:
    if len(data) > limit:
        raise Malformed(f"{len(data)} bytes where at most {limit} are allowed")
    try:
        return cbor2.loads(data)  # ignores trailing bytes: the callers' comparison does not
    # cbor2 lets TypeError, OverflowError, MemoryError and more escape on hostile input.
    except (Exception, RecursionError) as e:
        raise Malformed(f"not CBOR: {type(e).__name__}") from e


def decode(data: bytes, *, limit: int = BYTES_MAX) -> Plain:
    """The plain value of canonical bytes; `Malformed` for any other byte string."""
    value = _loads(data, limit)
    if encode(value) != data:
        raise Malformed("not the canonical encoding")
    return value


# --- typed values -------------------------------------------------------------------------------------

_Convert = Callable[[Any], Any]


class _Codec(NamedTuple):
    """How values of one class become plain ones and bytes, and come back."""

    to_plain: Callable[[Any], dict[str, Plain]]
    from_plain: Callable[[Plain], Any]
    write: Callable[[Any], bytes]
    read: Callable[[bytes], Any]


class _Codecs(dict[type, _Codec]):
    """Frozen dataclass -> its codec, compiled when first asked for."""

    def __missing__(self, cls: type) -> _Codec:
        self[cls] = codec = _compile(cls)
        return codec


_codecs = _Codecs()
_short: dict[type, tuple[Callable[[Any], bytes], Callable[[bytes, int], tuple[Any, int]]]] = {}
"""Class -> its codec by `compiled`, where there is one: what that does not know goes the long way."""
_not_known: tuple[type[Exception], ...] = ()
"""What such a codec ends in then."""


HOT = 64
"""Uses after which a class's codec is compiled to a function of its own: a command that touches a class a
few times should not pay for that, a ledger that is re-derived has every record through it many times."""


def _compile(cls: Any) -> _Codec:
    hints = hints_of(cls)
    # Canonical order of text keys: shorter first, then bytewise.
    names = sorted(names_of(cls), key=lambda n: (len(n), n))
    out = [(n, *_converters(hints[n], f"{cls.__name__}.{n}")) for n in names]
    count, uses = len(out), 0

    def used() -> None:
        nonlocal uses
        uses += 1
        if uses == HOT and names:  # of no fields there is nothing to write out
            _codecs[cls] = _generate(cls, hints, names)

    def to_plain(obj: Any) -> dict[str, Plain]:
        used()
        return {name: enc(getattr(obj, name)) for name, enc, _ in out}

    def from_plain(value: Plain) -> Any:
        used()
        if type(value) is not dict or len(value) != count:
            raise Malformed(f"{cls.__name__}: wrong fields")
        try:
            return cls(**{name: dec(value[name]) for name, _, dec in out})
        except KeyError as e:
            raise Malformed(f"{cls.__name__}: no field {e}") from e

    return _Codec(to_plain, from_plain, *_plainly(cls, to_plain, from_plain))


def _plainly(cls: Any, to_plain: _Convert, from_plain: _Convert) -> tuple[_Convert, _Convert]:
    """(write, read) by way of plain values, encoded again to compare."""

    def write(obj: Any) -> bytes:
        return cbor2.dumps(to_plain(obj))

    def read(data: bytes) -> Any:
        obj = from_plain(_loads(data, len(data)))  # `unpack` has looked how much it is
        if write(obj) != data:
            raise Malformed(f"{cls.__name__}: not the canonical encoding")
        return obj

    return write, read


def _straight(cls: Any) -> None:
    """Lets `compiled` write and read a class straight between fields and bytes, where it can."""
    from idao.crypto import compiled  # by no command that does little

    global _not_known
    _not_known = compiled.NOT_KNOWN
    if (pair := compiled.codec_of(cls)) is not None:
        _short[cls] = pair


def _generate(cls: Any, hints: dict[str, Any], names: list[str]) -> _Codec:
    """The same two functions with the checks of plain fields written out: three times as fast."""
    space: dict[str, Any] = {"cls": cls, "length": _utf8_length, "Malformed": Malformed}
    checks: dict[str, tuple[str, str]] = {}
    for i, name in enumerate(names):
        space[f"enc{i}"], space[f"dec{i}"] = _converters(hints[name], f"{cls.__name__}.{name}")
        test = _test(hints[name])
        # A value that fails the written-out test goes to the converter, which refuses it in words.
        checks[name] = tuple(  # type: ignore[assignment]
            f"if not ({test}): {way}{i}(v{i})" if test else f"v{i} = {way}{i}(v{i})" for way in ("enc", "dec")
        )
    lines = ["def to_plain(o):"]
    for i, name in enumerate(names):
        lines += [f"    v{i} = o.{name}", "    " + checks[name][0].replace("VALUE", f"v{i}")]
    lines.append("    return {" + ", ".join(f"{n!r}: v{i}" for i, n in enumerate(names)) + "}")
    lines += [
        "def from_plain(p):",
        f"    if type(p) is not dict or len(p) != {len(names)}:",
        f"        raise Malformed({cls.__name__ + ': wrong fields'!r})",
        "    try:",
        *(f"        v{i} = p[{n!r}]" for i, n in enumerate(names)),
        "    except KeyError as e:",
        f"        raise Malformed({cls.__name__ + ': no field '!r} + str(e)) from e",
        *("    " + checks[n][1].replace("VALUE", f"v{i}") for i, n in enumerate(names)),
        "    return cls(" + ", ".join(f"{n}=v{i}" for i, n in enumerate(names)) + ")",
    ]
    exec("\n".join(lines), space)
    _straight(cls)
    both = space["to_plain"], space["from_plain"]
    return _Codec(*both, *_plainly(cls, *both))


def _test(hint: Any) -> str:
    """An expression over VALUE that holds for a valid value of a plain type; empty for other types."""
    bounds: list[Any] = []
    if get_origin(hint) is Annotated:
        hint, *bounds = get_args(hint)
    size = next((b for b in bounds if isinstance(b, Size)), None)
    span = next((b for b in bounds if isinstance(b, Range)), None)
    if hint is int:
        low, high = (span.low, span.high) if span else (0, INT_MAX)
        return f"type(VALUE) is int and {low} <= VALUE <= {high}"
    if hint is bool:
        return "type(VALUE) is bool"
    if hint is bytes:
        low, high = (size.low, size.high) if size else (0, BYTES_MAX)
        return f"type(VALUE) is bytes and {low} <= len(VALUE) <= {high}"
    if hint is str:
        low, high = (size.low, size.high) if size else (0, TEXT_MAX)
        return f"type(VALUE) is str and {low} <= length(VALUE) <= {high}"
    return ""


def _converters(hint: Any, where: str) -> tuple[_Convert, _Convert]:
    bounds: list[Any] = []
    if get_origin(hint) is Annotated:
        hint, *bounds = get_args(hint)
    size = next((b for b in bounds if isinstance(b, Size)), None)
    span = next((b for b in bounds if isinstance(b, Range)), None)
    origin = get_origin(hint)

    if hint is int:
        low, high = (span.low, span.high) if span else (0, INT_MAX)
        return _same(lambda v: type(v) is int and low <= v <= high, where, f"integer {low}..{high}")
    if hint is bool:
        return _same(lambda v: type(v) is bool, where, "boolean")
    if hint is bytes:
        low, high = (size.low, size.high) if size else (0, BYTES_MAX)
        return _same(lambda v: type(v) is bytes and low <= len(v) <= high, where, f"bytes of {low}..{high}")
    if hint is str:
        low, high = (size.low, size.high) if size else (0, TEXT_MAX)
        return _same(
            lambda v: type(v) is str and low <= _utf8_length(v) <= high, where, f"text of {low}..{high}"
        )
    if hint is Any:
        return _plain, _plain
    if origin in (Union, types.UnionType):
        inner = [a for a in get_args(hint) if a is not type(None)]
        if len(inner) != 1:
            raise TypeError(f"{where}: only 'X | None' unions can be encoded")
        enc, dec = _converters(inner[0], where)
        return (lambda v: None if v is None else enc(v)), (lambda v: None if v is None else dec(v))
    if origin is tuple:
        args = get_args(hint)
        return _tuple_converters(args, size, where)
    if is_record(hint):
        cls = cast(type, hint)

        # Looked up when first used, so that a class may hold its own kind.
        def enc_obj(v: Any) -> Any:
            if type(v) is not cls:
                raise Malformed(f"{where}: expected {cls.__name__}")
            return _codecs[cls].to_plain(v)

        return enc_obj, lambda v: _codecs[cls].from_plain(v)
    raise TypeError(f"{where}: {hint!r} cannot be encoded")


def _tuple_converters(args: tuple[Any, ...], size: Size | None, where: str) -> tuple[_Convert, _Convert]:
    if len(args) == 2 and args[1] is Ellipsis:
        low, high = (size.low, size.high) if size else (0, ITEMS_MAX)
        enc, dec = _converters(args[0], where)

        def checked(v: Any, kinds: tuple[type, ...]) -> Any:
            if type(v) not in kinds or not low <= len(v) <= high:
                raise Malformed(f"{where}: expected a list of {low}..{high}")
            return v

        return (
            lambda v: [enc(item) for item in checked(v, (tuple,))],
            lambda v: tuple([dec(item) for item in checked(v, (list,))]),
        )
    pairs = [_converters(a, f"{where}[{i}]") for i, a in enumerate(args)]
    count = len(pairs)

    def fixed(v: Any, kind: Any) -> Any:
        if type(v) is not kind or len(v) != count:
            raise Malformed(f"{where}: expected {len(pairs)} items")
        return v

    return (
        lambda v: [p[0](item) for p, item in zip(pairs, fixed(v, tuple), strict=True)],
        lambda v: tuple([p[1](item) for p, item in zip(pairs, fixed(v, list), strict=True)]),
    )


def _same(ok: Callable[[Any], bool], where: str, what: str) -> tuple[_Convert, _Convert]:
    def convert(v: Any) -> Any:
        if not ok(v):
            raise Malformed(f"{where}: expected {what}")
        return v

    return convert, convert


def _plain(v: Any) -> Any:
    _check(v)
    return _sorted(v)


def _sorted(v: Any) -> Any:
    """The value with every map in canonical order, so that a plain dump of it is canonical."""
    if type(v) is dict:
        return {k: _sorted(v[k]) for k in sorted(v, key=lambda n: (len(n.encode()), n.encode()))}
    if type(v) is tuple or type(v) is list:
        return [_sorted(item) for item in v]
    return v


def _utf8_length(v: str) -> int:
    if v.isascii():
        return len(v)
    try:
        return len(v.encode())
    except UnicodeEncodeError:
        return -1


def pack(obj: Any) -> bytes:
    """The canonical bytes of a frozen dataclass. `Malformed` if a field breaks its annotation."""
    short = _short.get(type(obj))
    if short is not None:
        try:
            return short[0](obj)
        except _not_known:
            pass
    return _codecs[type(obj)].write(obj)


def unpack(cls: type[T], data: bytes, *, limit: int = BYTES_MAX, items: int | None = None) -> T:
    """The dataclass of canonical bytes; `Malformed` for any byte string that `pack` would not write.

    `items`: at most so many, looked at before plain values are built of large data. What `compiled` reads is
    bounded by the class itself.
    """
    size = len(data)
    if size > limit:
        raise Malformed(f"{size} bytes where at most {limit} are allowed")
    if size > LARGE_BYTES:
        write_out(cls)
    short = _short.get(cls)
    if short is not None and type(data) is bytes:
        try:
            value: T
            value, end = short[1](data, 0)
            if end == size:
                return value
        except _not_known:
            pass
    if items is not None and size > SMALL_BYTES:
        _count(data, items)
    value = _codecs[cls].read(data)
    return value


def write_out(cls: type) -> None:
    """Compiles the codec of a class now, if it is not yet: for a value of many parts, which as plain maps
    take four times the memory."""
    if cls in _short:
        return
    hints = hints_of(cls)
    _codecs[cls] = _generate(cls, hints, sorted(names_of(cls), key=lambda n: (len(n), n)))


def _count(data: bytes, most: int) -> None:
    """`Malformed` for more than `most` items, maps and lists counted as one, however they are nested.

    Four million empty lists are 4 MB that become 300 MB and take a second. What else is wrong with the data
    is left to be found by who reads them.
    """
    at, end = 0, len(data)
    while at < end:
        most -= 1
        if most < 0:
            raise Malformed("more items than such a value has")
        major, info = data[at] & 0xE0, data[at] & 0x1F
        at += 1
        argument = info
        if 24 <= info < 28:
            width = 1 << (info - 24)
            argument = int.from_bytes(data[at : at + width], "big")
            at += width
        if major in (BYTES, TEXT):
            at += argument


def version_of(data: bytes, *, limit: int = BYTES_MAX) -> int:
    """The `v` of canonical bytes that hold a map with one, else 0: whether bytes are of a newer idao."""
    try:
        value = decode(data, limit=limit)
    except Malformed:
        return 0
    found = value.get("v") if type(value) is dict else None
    return found if type(found) is int else 0


def to_plain(obj: Any) -> dict[str, Plain]:
    """A dataclass as the plain map that `pack` writes."""
    return _codecs[type(obj)].to_plain(obj)


def from_plain(cls: type[T], value: Plain) -> T:
    """The dataclass of a plain map, each field checked."""
    made: T = _codecs[cls].from_plain(value)
    return made
