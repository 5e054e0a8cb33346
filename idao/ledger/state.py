"""Records and state: typed rows under composite keys, and a write overlay over a dict or over SQLite.

A record is a frozen dataclass. Its docstring lists its columns as `name: meaning` lines; the store makes
a plain SQLite table of it (comments included), and the state tree commits to its canonical bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from operator import attrgetter
from typing import Any, Protocol, TypeVar, cast

from idao.crypto import canonical, shapes
from idao.errors import VerificationFailed
from idao.frozen import frozen
from idao.model import Id

R = TypeVar("R")
Key = tuple[Any, ...]
"""Values of a record's key columns: int, bytes or str, in order."""


@frozen
class Table:
    """What the store and the state tree need to know of a record class."""

    name: str
    cls: type
    key: tuple[str, ...]
    columns: tuple[str, ...]
    key_of: Callable[[Any], Key]
    """The key columns of a record."""


_tables: dict[type, Table] = {}


def record(name: str, *, key: tuple[str, ...]) -> Callable[[type[R]], type[R]]:
    """Class decorator: the frozen dataclass below is a record of table `name`."""

    def declare(cls: type[R]) -> type[R]:
        columns = shapes.names_of(cls)
        if columns[: len(key)] != key:
            raise TypeError(f"{cls.__name__}: key columns come first")
        key_of = attrgetter(*key) if len(key) > 1 else _alone(key[0])
        _tables[cls] = Table(name, cls, key, columns, key_of)
        return cls

    return declare


def _alone(column: str) -> Callable[[Any], Key]:
    get = attrgetter(column)
    return lambda rec: (get(rec),)


def table_of(cls: type) -> Table:
    return _tables[cls]


def meanings_of(cls: type) -> tuple[str, dict[str, str]]:
    """(what a row is, column -> what it holds), as the docstring says. `TypeError` where it omits one."""
    text = (cls.__doc__ or "").strip()
    meanings = dict(re.findall(r"^\s*(\w+): (.+)$", text, re.MULTILINE))
    if missing := [c for c in _tables[cls].columns if c not in meanings]:
        raise TypeError(f"{cls.__name__}: docstring does not explain {missing}")
    return text.partition("\n")[0], meanings


def column_types(cls: type) -> dict[str, Any]:
    """Column -> annotation, for the store."""
    return shapes.hints_of(cls)


def key_of(rec: Any) -> Key:
    return _tables[type(rec)].key_of(rec)


encode_key = canonical.encode_key
"""The key columns as a canonical list: what names a record within its table."""

_ID = shapes.head(shapes.BYTES, 32) + b"%b"


@cache
def key_encoder(cls: type) -> Callable[[Key], bytes]:
    """`encode_key` for records of this class that have been packed, and so hold what their columns allow."""
    columns, hints = _tables[cls].key, column_types(cls)
    if any(hints[column] != Id for column in columns):
        return encode_key
    return (shapes.head(shapes.LIST, len(columns)) + _ID * len(columns)).__mod__


class Base(Protocol):
    """What a state rests on: a dict, a SQLite file, or another state."""

    def get(self, cls: type[R], key: Key) -> R | None: ...

    def scan(self, cls: type[R], prefix: Key) -> Iterator[R]: ...


class DictBase:
    """Records in memory; what audit and tests rest on."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: dict[type, dict[Key, Any]] = {}

    def get(self, cls: type[R], key: Key) -> R | None:
        return cast("R | None", self._rows.get(cls, {}).get(key))

    def scan(self, cls: type[R], prefix: Key) -> Iterator[R]:
        rows = self._rows.get(cls, {})
        for key in sorted(k for k in rows if k[: len(prefix)] == prefix):
            yield rows[key]

    def write(self, changes: dict[type, dict[Key, Any]]) -> None:
        for cls, rows in changes.items():
            mine = self._rows.setdefault(cls, {})
            for key, rec in rows.items():
                if rec is None:
                    mine.pop(key, None)
                else:
                    mine[key] = rec

    def tables(self) -> dict[type, dict[Key, Any]]:
        return self._rows


class State:
    """A write overlay. Nothing reaches the base until its owner writes `changes` there."""

    __slots__ = ("_base", "changes")

    def __init__(self, base: Base) -> None:
        self._base = base
        self.changes: dict[type, dict[Key, Any]] = {}
        """Class -> key -> the record, or None where it is deleted."""

    def get(self, cls: type[R], *key: Any) -> R | None:
        layer: Base | State = self
        while type(layer) is State:
            rows = layer.changes.get(cls)
            if rows is not None and key in rows:
                found: R | None = rows[key]
                return found
            layer = layer._base
        return layer.get(cls, key)

    def wrote(self, cls: type, *key: Any) -> bool:
        """Whether this overlay, or one below it, wrote the record: the base is not asked."""
        layer: Base | State = self
        while type(layer) is State:
            if key in layer.changes.get(cls, ()):
                return True
            layer = layer._base
        return False

    def need(self, cls: type[R], *key: Any) -> R:
        """The record, which the caller knows to exist: without it the ledger is damaged, or this is a bug."""
        rec = self.get(cls, *key)
        if rec is None:
            raise VerificationFailed(
                f"the ledger lacks a record of '{table_of(cls).name}'",
                hint="see 'idao audit'",
                code="damaged",
            )
        return rec

    def scan(self, cls: type[R], *prefix: Any) -> Iterator[R]:
        """Records whose key starts with `prefix`, in key order."""
        mine = {k: r for k, r in self.changes.get(cls, {}).items() if k[: len(prefix)] == prefix}
        below = (
            self._base.scan(cls, *prefix) if isinstance(self._base, State) else self._base.scan(cls, prefix)
        )
        waiting = sorted(mine)
        for rec in below:
            key = key_of(rec)
            while waiting and waiting[0] < key:
                if (new := mine[waiting.pop(0)]) is not None:
                    yield new
            if waiting and waiting[0] == key:
                if (new := mine[waiting.pop(0)]) is not None:
                    yield new
            else:
                yield rec
        for key in waiting:
            if (new := mine[key]) is not None:
                yield new

    def put(self, rec: Any) -> None:
        cls = type(rec)
        rows = self.changes.get(cls)
        if rows is None:
            rows = self.changes[cls] = {}
        rows[_tables[cls].key_of(rec)] = rec

    def delete(self, cls: type, *key: Any) -> None:
        self.changes.setdefault(cls, {})[key] = None

    def child(self) -> State:
        """An overlay of its own, so that a refused tx can be dropped whole."""
        return State(cast(Any, self))

    def merge(self, child: State) -> None:
        """Takes in what a child wrote, which its owner drops."""
        for cls, rows in child.changes.items():
            mine = self.changes.get(cls)
            if mine is None:
                self.changes[cls] = rows
            else:
                mine.update(rows)
