"""What canonical bytes are made of: the heads of CBOR, the fields of a record, and the bounds of both.

`canonical` and `compiled` both build on this: the one way round and the short one must agree.
"""

from __future__ import annotations

import sys
from functools import cache
from struct import Struct
from typing import Any, cast

from idao.errors import Malformed

BYTES_MAX = 16 * 1024 * 1024
"""Largest value decoded at once: four times the largest frame; bigger things are chunked."""

TEXT_MAX = 4096
"""Bytes of a text without a bound of its own."""
ITEMS_MAX = 65536
"""Items of a list without a bound of its own."""

UNSIGNED, BYTES, TEXT, LIST, MAP = 0x00, 0x40, 0x60, 0x80, 0xA0
"""Major types of CBOR, RFC 8949 §3.1, in place."""
WIDE = ((24, 1, Struct(">BB")), (25, 2, Struct(">BH")), (26, 4, Struct(">BI")), (27, 8, Struct(">BQ")))
"""(additional information, bytes of the argument, how both are written)."""
SHORT = [bytes((n,)) for n in range(256)]
_TWO = WIDE[1][2]


def head(major: int, n: int) -> bytes:
    """The shortest head, RFC 8949 §4.2.1, of an argument of at most 64 bits."""
    if n < 24:
        return SHORT[major | n]
    if n < 0x100:
        return SHORT[major | 24] + SHORT[n]
    if n < 0x10000:
        return _TWO.pack(major | 25, n)
    for info, size, form in WIDE[2:]:
        if n < 1 << (8 * size):
            return form.pack(major | info, n)
    raise Malformed("integer outside 64 bits")


_PLAIN_TYPES = {kind.__name__: kind for kind in (int, bool, bytes, str)}


@cache
def hints_of(cls: Any) -> dict[str, Any]:
    """Field -> its type: what `typing.get_type_hints` finds for a class of a module, without its detours."""
    space = vars(sys.modules[cls.__module__])
    return {name: _hint(cls.__annotations__[name], space) for name in names_of(cls)}


def is_record(hint: Any) -> bool:
    """Whether a type is a dataclass: what `dataclasses.is_dataclass` says, without its module."""
    return isinstance(hint, type) and "__dataclass_fields__" in vars(hint)


def names_of(cls: Any) -> tuple[str, ...]:
    """The fields of a dataclass in order; `dataclasses.fields` would make an object of each."""
    return cast("tuple[str, ...]", cls.__match_args__)


def _hint(text: Any, space: dict[str, Any]) -> Any:
    """What an annotation means in a module. Most are one name, for which a compiler is a long way round."""
    if type(text) is not str:
        return text
    found = space.get(text) or _PLAIN_TYPES.get(text)
    return eval(text, space) if found is None else found
