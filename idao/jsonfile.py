"""JSON that a person wrote, read strictly; JSON that will be hashed, written in one spelling.

`read` refuses with the line number whatever two programs might understand differently (RFC 7493, I-JSON):
duplicate keys, NaN and infinities, integers beyond 2^53, lone surrogates, trailing text. Numbers with a
fraction or exponent stay the text that was typed (`Number`): no float is ever made of them.
"""

from __future__ import annotations

import bisect
import json
import json.decoder
import json.scanner
from collections.abc import Callable
from typing import Any, NoReturn

from idao.errors import UsageError

DEPTH_MAX = 32
"""Nesting: far more than a policy or card needs, far less than Python's stack."""
INTEGER_MAX = 2**53 - 1
"""RFC 7493 §2.2: beyond it JSON readers in other languages lose digits."""


class Number(str):
    """The literal of a number that is not an integer, as typed."""

    __slots__ = ()


class Object(dict[str, Any]):
    """A JSON object that knows the line it starts on, and the line of each value."""

    __slots__ = ("line", "lines")

    def __init__(self, pairs: list[tuple[str, Any]], line: int, lines: dict[str, int]) -> None:
        super().__init__(pairs)
        self.line, self.lines = line, lines


def read(raw: bytes, what: str, limit: int) -> Any:
    """The value of a JSON file of at most `limit` bytes; objects are `Object`s.

    `what` names the file's role in refusals ('policy'). `UsageError` says what is wrong on which line.
    """
    if len(raw) > limit:
        raise UsageError(f"{what}: {len(raw)} bytes where at most {limit} are read")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = raw.count(b"\n", 0, e.start) + 1
        raise UsageError(f"{what}, line {line}: not UTF-8 text") from e
    try:
        return _Decoder(text, what).decode(text)
    except json.JSONDecodeError as e:
        raise UsageError(f"{what}, line {e.lineno}: not JSON: {e.msg[:1].lower()}{e.msg[1:]}") from e


_Scan = Callable[[str, int], tuple[Any, int]]


class _Decoder(json.JSONDecoder):
    """The standard decoder with its pure scanner, which tells where each value begins."""

    def __init__(self, text: str, what: str) -> None:
        super().__init__(parse_float=self._number, parse_int=self._integer, parse_constant=self._constant)
        self._what, self._at, self._depth = what, 0, 0
        self._breaks = [i for i, c in enumerate(text) if c == "\n"]
        self.parse_object = self._object
        self.parse_array = self._array
        self.parse_string = self._string
        self.scan_once = json.scanner.py_make_scanner(self)  # type: ignore[attr-defined]

    def _line(self, at: int) -> int:
        return bisect.bisect_left(self._breaks, at) + 1

    def _refuse(self, why: str) -> NoReturn:
        raise UsageError(f"{self._what}, line {self._line(self._at)}: {why}")

    def _number(self, literal: str) -> Number:
        self._ascii(literal)
        return Number(literal)

    def _ascii(self, literal: str) -> None:
        """The pure scanner of older Pythons takes the digits of every script; JSON has ten (RFC 8259 §6)."""
        if not literal.isascii():
            self._refuse(f"{literal[:20]} is not written in the digits 0 to 9")

    def _integer(self, literal: str) -> int:
        self._ascii(literal)
        if len(literal) > 17 or abs(int(literal)) > INTEGER_MAX:
            self._refuse(f"the integer {literal[:20]} does not fit 53 bits; write it as text")
        return int(literal)

    def _constant(self, literal: str) -> NoReturn:
        self._refuse(f"{literal} is not JSON")

    def _string(self, text: str, end: int, strict: bool = True) -> tuple[str, int]:
        value, after = json.decoder.scanstring(text, end, strict)  # type: ignore[attr-defined]
        return self._text(value), after

    def _text(self, value: str) -> str:
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            self._refuse("half of a surrogate pair is not text")
        return value

    def _below(self, scan: _Scan, places: list[int]) -> _Scan:
        def scan_below(text: str, at: int) -> tuple[Any, int]:
            self._at = at
            places.append(at)
            return scan(text, at)

        self._depth += 1
        if self._depth > DEPTH_MAX:
            self._refuse(f"nested deeper than {DEPTH_MAX}")
        return scan_below

    def _object(
        self, start: tuple[str, int], strict: bool, scan: _Scan, hook: Any, pairs_hook: Any, memo: Any = None
    ) -> tuple[Object, int]:
        places: list[int] = []
        pairs, end = json.decoder.JSONObject(  # type: ignore[attr-defined]
            start, strict, self._below(scan, places), None, list, memo
        )
        self._depth -= 1
        lines: dict[str, int] = {}
        for (key, _), self._at in zip(pairs, places, strict=True):
            if self._text(key) in lines:
                self._refuse(f"the key '{key[:40]}' stands here twice")
            lines[key] = self._line(self._at)
        return Object(pairs, self._line(start[1] - 1), lines), end

    def _array(self, start: tuple[str, int], scan: _Scan) -> tuple[list[Any], int]:
        values, end = json.decoder.JSONArray(start, self._below(scan, []))  # type: ignore[attr-defined]
        self._depth -= 1
        return values, end


def write(value: Any) -> bytes:
    """The one spelling of a JSON value (RFC 8785: no spaces, keys by UTF-16 code units).

    A `Number` keeps its literal, where RFC 8785 would go through a float. `TypeError` for a Python float.
    """
    return _write(value).encode()


def _write(value: Any) -> str:
    if isinstance(value, Number):
        return str(value)
    if value is None or isinstance(value, (bool, int)):
        return json.dumps(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        keys = sorted(value, key=lambda k: k.encode("utf-16-be"))
        return "{" + ",".join(f"{_write(k)}:{_write(value[k])}" for k in keys) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_write, value)) + "]"
    raise TypeError(f"a {type(value).__name__} has no place in JSON that is hashed")
