"""Codecs written out: for a class that is used often, functions that go straight between fields and bytes.

The canonical bytes of a frozen dataclass are fixed text (map head, field names, heads of strings of fixed
size) with values between. So `write` is one format string, and `read` compares the fixed text and takes the
values from their places: what it accepts is canonical by construction, nothing is encoded again to compare.

Neither function refuses in words. Where a value or a byte is not as it should be they raise `Otherwise`, and
`canonical` goes the long way, which accepts or says what is wrong.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Union, get_args, get_origin

from idao.crypto import canonical
from idao.crypto.canonical import BYTES, LIST, MAP, TEXT, UNSIGNED, WIDE, head
from idao.model import INT_MAX, Range, Size

Write = Callable[[Any], bytes]
Read = Callable[[bytes, int], tuple[Any, int]]
"""(bytes, position) -> (value, position after it)."""

WORDS_KEPT, WORD_BYTES = 256, 64
"""Texts of at most so many bytes of one field are kept encoded: ledgers have some hundred words."""
NULL, TRUE, FALSE = b"\xf6", b"\xf5", b"\xf4"


class Otherwise(Exception):
    """Not a value, or not bytes, that the short way knows."""


NOT_KNOWN = (Otherwise, IndexError, UnicodeError, RecursionError)
"""What the short way ends in: also at bytes cut short, text that is none, or nesting without end."""


def read_head(data: bytes, at: int, major: int) -> tuple[int, int]:
    """(argument, position after it) of a head of this major type, if it is the shortest for its argument."""
    info = data[at] - major
    if 0 <= info < 24:
        return info, at + 1
    if 24 <= info < 28:
        _, size, _ = WIDE[info - 24]
        n = int.from_bytes(data[at + 1 : at + 1 + size], "big")
        if n >= (24 if size == 1 else 1 << (4 * size)) and len(data) > at + size:
            return n, at + 1 + size
    raise Otherwise


Pair = tuple[Write, Read]
_pairs: dict[type, Pair | None] = {}


def codec_of(cls: Any) -> Pair | None:
    """(write, read) of a class, compiled once. None if a field has no fixed form (`Any`)."""
    if cls not in _pairs:
        # While it is compiled, a class that holds its own kind finds these.
        _pairs[cls] = (lambda o: _pairs[cls][0](o)), (lambda d, p: _pairs[cls][1](d, p))  # type: ignore[index]
        _pairs[cls] = _compile(cls)
    return _pairs[cls]


def _compile(cls: Any) -> Pair | None:
    hints = canonical.hints_of(cls)
    names = sorted(canonical.names_of(cls), key=lambda n: (len(n), n))
    maker = _Maker()
    fixed: bytes | None = head(MAP, len(names))
    for i, name in enumerate(names):
        assert fixed is not None
        fixed = maker.field(i, name, hints[name], fixed + head(TEXT, len(name)) + name.encode())
        if fixed is None:
            return None
    return maker.finish(cls, names)


class _Maker:
    """Gathers the lines of both functions, field by field."""

    def __init__(self) -> None:
        self.space: dict[str, Any] = {"Otherwise": Otherwise, "head": head, "read_head": read_head}
        self.space |= {"UNSIGNED": UNSIGNED, "SHORT": canonical.SHORT}
        self.form = b""
        self.values: list[str] = []
        self.out: list[str] = []
        self.back: list[str] = []

    def _text(self, fixed: bytes, i: int, size: int = 0) -> None:
        """Fixed bytes, and after them a string of `size` bytes as value `i`."""
        self.form += fixed.replace(b"%", b"%%")
        self.space[f"t{i}"] = fixed
        self.back.append(f"e = p + {len(fixed)}")
        self.back.append(f"if d[p:e] != t{i}: raise Otherwise")
        if size:
            self.back += [f"p = e + {size}", f"v{i} = d[e:p]"]
        else:
            self.back.append("p = e")

    def _put(self, value: str) -> None:
        self.form += b"%b"
        self.values.append(value)

    def field(self, i: int, name: str, hint: Any, fixed: bytes) -> bytes | None:
        """One field after `fixed`. Returns the fixed bytes that follow it; None for a type without form."""
        bare, low, high = bounds(hint)
        self.out.append(f"v{i} = o.{name}")
        if bare is bytes and low == high and low:
            self.out.append(f"if type(v{i}) is not bytes or len(v{i}) != {low}: raise Otherwise")
            self._text(fixed + head(BYTES, low), i, low)
            self._put(f"v{i}")
            return b""
        self._text(fixed, i)
        if bare is int:
            test = f"if not {max(low, 0)} <= v{i} <= {high}: raise Otherwise"
            self.out += [f"if type(v{i}) is not int: raise Otherwise", test]
            self._put(f"SHORT[v{i}] if v{i} < 24 else head(0, v{i})")
            self.back += [f"v{i} = d[p]", "p += 1", f"if v{i} > 23: v{i}, p = read_head(d, p - 1, UNSIGNED)"]
            self.back.append(test)
            return b""
        pair = codec(hint)
        if pair is None:
            return None
        self.space[f"w{i}"], self.space[f"r{i}"] = pair
        self._put(f"w{i}(v{i})")
        self.back.append(f"v{i}, p = r{i}(d, p)")
        return b""

    def finish(self, cls: Any, names: list[str]) -> Pair:
        self.space |= {"cls": cls, "form": self.form}
        order = {name: i for i, name in enumerate(names)}
        made = ", ".join(f"v{order[name]}" for name in canonical.names_of(cls))
        lines = [
            "def write(o):",
            "    if type(o) is not cls: raise Otherwise",
            *(f"    {line}" for line in self.out),
            f"    return form % ({', '.join(self.values)},)",
            "def read(d, p):",
            *(f"    {line}" for line in self.back),
            f"    return cls({made}), p",
        ]
        exec("\n".join(lines), self.space)
        return self.space["write"], self.space["read"]


def bounds(hint: Any) -> tuple[Any, int, int]:
    """(type, low, high) of an annotated type: its value if a number, its length or count otherwise."""
    marks: list[Any] = []
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
    limit = INT_MAX if hint is int else canonical.BYTES_MAX if hint is bytes else canonical.TEXT_MAX
    if get_origin(hint) is tuple:
        limit = canonical.ITEMS_MAX
    for mark in marks:
        if isinstance(mark, Size | Range):
            return hint, mark.low, mark.high
    return hint, 0, limit


def codec(hint: Any) -> Pair | None:
    """(write, read) of one value of a type; None where there is no short way."""
    bare, low, high = bounds(hint)
    if bare is int:
        return _integer(max(low, 0), high)
    if bare is bool:
        return _boolean, _read_boolean
    if bare is bytes:
        return _string(low, high)
    if bare is str:
        return _words(low, high)
    origin = get_origin(bare)
    if origin in (Union, types.UnionType):
        inner = codec(next(a for a in get_args(bare) if a is not type(None)))
        return None if inner is None else _optional(*inner)
    if origin is tuple:
        args = get_args(bare)
        if args[1:] == (Ellipsis,):
            inner = codec(args[0])
            return None if inner is None else _many(*inner, low, high)
        pairs = [codec(a) for a in args]
        return None if None in pairs else _several([p for p in pairs if p is not None])
    return codec_of(bare) if canonical.is_record(bare) else None


def _integer(low: int, high: int) -> Pair:
    def write(v: Any) -> bytes:
        if type(v) is not int or not low <= v <= high:
            raise Otherwise
        return head(UNSIGNED, v)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        v, at = read_head(data, at, UNSIGNED)
        if not low <= v <= high:
            raise Otherwise
        return v, at

    return write, read


def _boolean(v: Any) -> bytes:
    if type(v) is not bool:
        raise Otherwise
    return TRUE if v else FALSE


def _read_boolean(data: bytes, at: int) -> tuple[Any, int]:
    if data[at] not in (0xF4, 0xF5):
        raise Otherwise
    return data[at] == 0xF5, at + 1


def _string(low: int, high: int) -> Pair:
    def write(v: Any) -> bytes:
        if type(v) is not bytes or not low <= len(v) <= high:
            raise Otherwise
        return head(BYTES, len(v)) + v

    def read(data: bytes, at: int) -> tuple[Any, int]:
        n, at = read_head(data, at, BYTES)
        if not low <= n <= high:
            raise Otherwise
        return data[at : at + n], at + n

    return write, read


def _words(low: int, high: int) -> Pair:
    def encode(v: str) -> bytes:
        data = v.encode()
        if not low <= len(data) <= high:
            raise Otherwise
        return head(TEXT, len(data)) + data

    # Words (kinds, codes, names of tables) come again and again.
    ready = lru_cache(WORDS_KEPT)(encode) if high <= WORD_BYTES else encode

    def write(v: Any) -> bytes:
        if type(v) is not str:
            raise Otherwise
        return ready(v)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        n, at = read_head(data, at, TEXT)
        if not low <= n <= high:
            raise Otherwise
        return data[at : at + n].decode(), at + n

    return write, read


def _optional(write_inner: Write, read_inner: Read) -> Pair:
    def write(v: Any) -> bytes:
        return NULL if v is None else write_inner(v)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        return (None, at + 1) if data[at] == 0xF6 else read_inner(data, at)

    return write, read


def _many(write_inner: Write, read_inner: Read, low: int, high: int) -> Pair:
    def write(v: Any) -> bytes:
        if type(v) is not tuple or not low <= len(v) <= high:
            raise Otherwise
        return head(LIST, len(v)) + b"".join([write_inner(item) for item in v])

    def read(data: bytes, at: int) -> tuple[Any, int]:
        n, at = read_head(data, at, LIST)
        if not low <= n <= high:
            raise Otherwise
        out = []
        for _ in range(n):
            item, at = read_inner(data, at)
            out.append(item)
        return tuple(out), at

    return write, read


def _several(pairs: list[Pair]) -> Pair:
    first = head(LIST, len(pairs))

    def write(v: Any) -> bytes:
        if type(v) is not tuple or len(v) != len(pairs):
            raise Otherwise
        return first + b"".join([pair[0](item) for pair, item in zip(pairs, v, strict=True)])

    def read(data: bytes, at: int) -> tuple[Any, int]:
        n, at = read_head(data, at, LIST)
        if n != len(pairs):
            raise Otherwise
        out = []
        for pair in pairs:
            item, at = pair[1](data, at)
            out.append(item)
        return tuple(out), at

    return write, read
