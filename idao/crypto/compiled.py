"""Codecs written out: for a class that is used often, functions that go straight between fields and bytes.

The canonical bytes of a frozen dataclass are fixed text (map head, field names, heads of strings of fixed
size) with values between. So `write` is one format string, and `read` compares the fixed text and takes the
values from their places: what it accepts is canonical by construction, nothing is encoded again to compare.
Lists, pairs and optional values are written out in place; only other dataclasses are called.

Neither function refuses in words. Where a value or a byte is not as it should be they raise `Otherwise`, and
`canonical` goes the long way, which accepts or says what is wrong.
"""

from __future__ import annotations

import struct
import types
from collections.abc import Callable
from functools import lru_cache
from struct import Struct
from typing import Annotated, Any, Union, get_args, get_origin

from idao import frozen
from idao.crypto import shapes
from idao.crypto.shapes import BYTES, LIST, MAP, TEXT, UNSIGNED, WIDE, head
from idao.model import INT_MAX, Range, Size

Write = Callable[[Any], bytes]
Read = Callable[[bytes, int], tuple[Any, int]]
"""(bytes, position) -> (value, position after it)."""

WORDS_KEPT, WORD_BYTES = 256, 64
"""Texts of at most so many bytes of one field are kept encoded: ledgers have some hundred words."""
NULL, TRUE, FALSE = b"\xf6", b"\xf5", b"\xf4"


class Otherwise(Exception):
    """Not a value, or not bytes, that the short way knows."""


NOT_KNOWN = (Otherwise, IndexError, struct.error, UnicodeError, RecursionError)
"""What the short way ends in: also at bytes cut short, text that is none, or nesting without end."""

_ARGUMENTS = {
    info: (Struct(form.format.replace("B", "x", 1)).unpack_from, 24 if size == 1 else 1 << (4 * size), size)
    for info, size, form in WIDE
}
"""Additional information -> (reader of head and argument, the least that needs so many bytes, how many)."""


def read_head(data: bytes, at: int, major: int) -> tuple[int, int]:
    """(argument, position after it) of a head of this major type, if it is the shortest for its argument."""
    info = data[at] - major
    if 0 <= info < 24:
        return info, at + 1
    if info not in _ARGUMENTS:
        raise Otherwise
    read, least, size = _ARGUMENTS[info]
    (n,) = read(data, at)
    if n < least:
        raise Otherwise
    return n, at + 1 + size


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
    hints = shapes.hints_of(cls)
    names = sorted(shapes.names_of(cls), key=lambda n: (len(n), n))
    maker = _Maker()
    part = _Part(head(MAP, len(names)))
    part.out += ["if type(o) is not cls: raise Otherwise"]
    for i, name in enumerate(names):
        part.fixed += head(TEXT, len(name)) + name.encode()
        part.out.append(f"v{i} = o.{name}")
        if not maker.value(part, f"v{i}", hints[name]):
            return None
    maker.space |= {"cls": cls, "make": frozen.maker(cls)}
    order = {name: i for i, name in enumerate(names)}
    return maker.finish(part, f"make({', '.join(f'v{order[n]}' for n in shapes.names_of(cls))})")


class _Part:
    """Lines of both functions for some bytes that follow each other."""

    def __init__(self, fixed: bytes = b"") -> None:
        self.fixed = fixed
        """Bytes that are always the same, and not yet in `form`: of heads, names, and what follows."""
        self.run: list[bytes | tuple[str, int]] = []
        """What is to be read next and has a known size: such bytes, or a value as its name and size."""
        self.form = b""
        self.values: list[str] = []
        self.out: list[str] = []
        self.back: list[str] = []


class _Maker:
    """Gathers the lines of a class, value by value."""

    def __init__(self) -> None:
        self.space: dict[str, Any] = {"Otherwise": Otherwise, "head": head, "read_head": read_head}
        self.space |= {"NULL": NULL, "TRUE": TRUE, "FALSE": FALSE, "join": b"".join}
        self.space |= {"two": WIDE[1][2].pack, "eight": WIDE[3][2].pack, "wide": Struct(">Q").unpack_from}
        for name, major in (("N", UNSIGNED), ("B", BYTES), ("L", LIST)):
            self.space[name] = [head(major, n) for n in range(256)]
        self.count = 0

    def name(self, prefix: str, thing: Any = None) -> str:
        """A name of its own; of `thing`, if there is one."""
        self.count += 1
        made = f"{prefix}_{self.count}"
        if thing is not None:
            self.space[made] = thing
        return made

    def fix(self, part: _Part) -> None:
        """What is always the same comes next."""
        if part.fixed:
            part.form += part.fixed.replace(b"%", b"%%")
            part.run.append(part.fixed)
            part.fixed = b""

    def cut(self, part: _Part, *first: str) -> None:
        """Reads what has a known size in one go, with the first byte of what comes then if it has a name."""
        self.fix(part)
        run, part.run = part.run, []
        names, tests, form, size = [], [], ">", 0
        for item in run:
            name, count = (self.name("t"), len(item)) if isinstance(item, bytes) else item
            if isinstance(item, bytes):
                tests.append(f"{name} != {self.name('t', item)}")
            names.append(name)
            form, size = f"{form}{count}s", size + count
        names += first
        if names:
            read = self.name("s", Struct(form + "B" * len(first)).unpack_from)
            part.back += [f"{', '.join(names)}, = {read}(d, p)", f"p += {size + len(first)}"]
        if tests:
            part.back.append(f"if {' or '.join(tests)}: raise Otherwise")

    @staticmethod
    def put(part: _Part, *values: str) -> None:
        part.form += b"%b" * len(values)
        part.values += values

    def value(self, part: _Part, v: str, hint: Any) -> bool:
        """The value in variable `v`. False for a type without form."""
        bare, low, high = bounds(hint)
        if bare is bytes and low == high and low:
            part.fixed += head(BYTES, low)
            self.fix(part)
            part.run.append((v, low))
            part.out.append(f"if type({v}) is not bytes or len({v}) != {low}: raise Otherwise")
            self.put(part, v)
            return True
        origin = get_origin(bare)
        if origin is tuple and get_args(bare)[1:] != (Ellipsis,):
            return self.several(part, v, get_args(bare))
        self.fix(part)
        if bare in (int, bool, bytes, str):
            ways = {int: self.number, bool: self.boolean, bytes: self.string, str: self.text}
            ways[bare](part, v, low, high)
            return True
        self.cut(part)
        if origin in (Union, types.UnionType):
            return self.optional(part, v, next(a for a in get_args(bare) if a is not type(None)))
        if origin is tuple:
            return self.many(part, v, get_args(bare)[0], low, high)
        pair = codec_of(bare) if shapes.is_record(bare) else None
        if pair is None:
            return False
        self.put(part, f"{self.name('w', pair[0])}({v})")
        part.back.append(f"{v}, p = {self.name('r', pair[1])}(d, p)")
        return True

    def number(self, part: _Part, v: str, low: int, high: int) -> None:
        test = f"if not {max(low, 0)} <= {v} <= {high}: raise Otherwise"
        part.out += [f"if type({v}) is not int: raise Otherwise", test]
        short = f"N[{v}] if {v} < 256 else two(25, {v}) if {v} < 65536"
        self.put(part, f"{short} else head({UNSIGNED}, {v}) if {v} < {1 << 32} else eight(27, {v})")
        self.cut(part, v)
        part.back.append(f"if {v} > 23:")
        # Most are of one byte, or times.
        part.back += [f"    if {v} == 27:", f"        {v}, = wide(d, p)", "        p += 8"]
        part.back.append(f"        if {v} < {1 << 32}: raise Otherwise")
        part.back.append(f"    else: {v}, p = read_head(d, p - 1, {UNSIGNED})")
        part.back.append(f"    {test}" if low <= 0 and high > 23 else test)

    def boolean(self, part: _Part, v: str, low: int, high: int) -> None:
        part.out.append(f"if type({v}) is not bool: raise Otherwise")
        self.put(part, f"TRUE if {v} else FALSE")
        self.cut(part, v)
        part.back += [f"if {v} not in (0xF4, 0xF5): raise Otherwise", f"{v} = {v} == 0xF5"]

    def length(self, part: _Part, major: int, low: int, high: int) -> None:
        """Reads the head of a string or list: `n`."""
        self.cut(part, "n")
        part.back += [f"if {major} <= n < {major + 24}: n -= {major}", f"elif n == {major + 24}:"]
        part.back += ["    n = d[p]", "    p += 1", "    if n < 24: raise Otherwise"]
        if high > 255:
            part.back += [f"elif n == {major + 25}:", "    n = d[p] << 8 | d[p + 1]", "    p += 2"]
            part.back.append("    if n < 256: raise Otherwise")
        part.back.append(f"else: n, p = read_head(d, p - 1, {major})")
        bounded = f"{low} <= n <= {high}" if low else f"n <= {high}"
        part.back.append(f"if not {bounded}: raise Otherwise")

    def string(self, part: _Part, v: str, low: int, high: int) -> None:
        n = self.name("n")
        part.out += [f"if type({v}) is not bytes: raise Otherwise", f"{n} = len({v})"]
        part.out.append(f"if not {low} <= {n} <= {high}: raise Otherwise")
        wide = f"two({BYTES | 25}, {n}) if {n} < 65536 else head({BYTES}, {n})" if high > 255 else "None"
        self.put(part, f"B[{n}] if {n} < 256 else {wide}", v)
        self.length(part, BYTES, low, high)
        part.back += ["e = p + n", f"{v} = d[p:e]", "p = e"]

    def text(self, part: _Part, v: str, low: int, high: int) -> None:
        part.out.append(f"if type({v}) is not str: raise Otherwise")
        self.put(part, f"{self.name('w', _words(low, high))}({v})")
        self.length(part, TEXT, low, high)
        part.back += ["e = p + n", f"{v} = d[p:e].decode()", "p = e"]

    def optional(self, part: _Part, v: str, hint: Any) -> bool:
        inner, made = _Part(), self.name("o")
        if not self.value(inner, v, hint):
            return False
        self.cut(inner)
        part.out += [f"if {v} is None: {made} = NULL", "else:"]
        part.out += [f"    {line}" for line in (*inner.out, f"{made} = {self.whole(inner)}")]
        self.put(part, made)
        part.back += ["if d[p] == 0xF6:", f"    {v} = None", "    p += 1", "else:"]
        part.back += [f"    {line}" for line in inner.back]
        return True

    def several(self, part: _Part, v: str, hints: tuple[Any, ...]) -> bool:
        """A tuple of fixed length."""
        names = [self.name("s") for _ in hints]
        each = "".join(f"{name}, " for name in names)
        part.fixed += head(LIST, len(hints))
        part.out.append(f"if type({v}) is not tuple or len({v}) != {len(hints)}: raise Otherwise")
        part.out.append(f"{each}= {v}")
        for name, hint in zip(names, hints, strict=True):
            if not self.value(part, name, hint):
                return False
        self.cut(part)
        part.back.append(f"{v} = ({each})")
        return True

    def many(self, part: _Part, v: str, hint: Any, low: int, high: int) -> bool:
        inner, x, items, n = _Part(), self.name("x"), self.name("l"), self.name("n")
        if not self.value(inner, x, hint):
            return False
        self.cut(inner)
        part.out += [f"if type({v}) is not tuple: raise Otherwise", f"{n} = len({v})"]
        part.out += [f"if not {low} <= {n} <= {high}: raise Otherwise", f"{items} = []", f"for {x} in {v}:"]
        pieces = ", ".join(inner.values) if inner.form == b"%b" * len(inner.values) else self.whole(inner)
        part.out += [f"    {line}" for line in (*inner.out, f"{items} += ({pieces},)")]
        self.put(part, f"L[{n}] if {n} < 256 else head({LIST}, {n})", f"join({items})")
        self.length(part, LIST, low, high)
        part.back += [f"{items} = []", "for _ in range(n):"]
        part.back += [f"    {line}" for line in (*inner.back, f"{items}.append({x})")]
        part.back.append(f"{v} = tuple({items})")
        return True

    def whole(self, part: _Part) -> str:
        """The expression of a part's bytes."""
        if part.form == b"%b":
            return part.values[0]
        return f"{self.name('f', part.form)} % ({''.join(f'{v}, ' for v in part.values)})"

    def finish(self, part: _Part, made: str) -> Pair:
        """The functions of a class; `made` makes its value."""
        self.cut(part)
        lines = [
            "def write(o):",
            *(f"    {line}" for line in part.out),
            f"    return {self.whole(part)}",
            "def read(d, p):",
            *(f"    {line}" for line in part.back),
            f"    return {made}, p",
        ]
        exec("\n".join(lines), self.space)
        return self.space["write"], self.space["read"]


def bounds(hint: Any) -> tuple[Any, int, int]:
    """(type, low, high) of an annotated type: its value if a number, its length or count otherwise."""
    marks: list[Any] = []
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
    limit = INT_MAX if hint is int else shapes.BYTES_MAX if hint is bytes else shapes.TEXT_MAX
    if get_origin(hint) is tuple:
        limit = shapes.ITEMS_MAX
    for mark in marks:
        if isinstance(mark, Size | Range):
            return hint, mark.low, mark.high
    return hint, 0, limit


def _words(low: int, high: int) -> Write:
    """A text as it is written."""

    def encode(v: str) -> bytes:
        data = v.encode()
        if not low <= len(data) <= high:
            raise Otherwise
        return head(TEXT, len(data)) + data

    # Words (kinds, codes, names of tables) come again and again.
    return lru_cache(WORDS_KEPT)(encode) if high <= WORD_BYTES else encode
