"""Records as plain SQLite tables: DDL with documented columns, rows both ways.

Integers, text and bytes are themselves, booleans 0 or 1; lists and nested values are canonical CBOR.
Any SQL tool can read such a table; only this package writes one.
"""

from __future__ import annotations

import sqlite3
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, Union, get_args, get_origin

from idao.crypto import canonical, shapes, statetree
from idao.errors import Malformed, VerificationFailed
from idao.ledger.state import Key, column_types, meanings_of, table_of

R = TypeVar("R")
V = TypeVar("V")

RECORDS_KEPT, BRANCHES_KEPT = 16_384, 32_768
"""Kept in memory by a process that drives a ledger, up to twice as many: 20 MB and 40 MB."""


class Sql(NamedTuple):
    """Statements and column kinds of one record class."""

    select: str
    by_key: str
    put: str
    delete: str
    nested: tuple[bool, ...]
    booleans: tuple[bool, ...]
    flat: Callable[[Any], Any] | None
    """All columns of a record, where none is nested."""


def _bare(hint: Any) -> tuple[Any, bool]:
    """(type without Annotated and None, whether None is allowed)."""
    if get_origin(hint) is Annotated:
        return _bare(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        inner = [a for a in get_args(hint) if a is not type(None)]
        return _bare(inner[0])[0], True
    return hint, False


_statements: dict[type, Sql] = {}


def sql_of(cls: type) -> Sql:
    """Made once for each record class."""
    if cls not in _statements:
        _statements[cls] = _sql(cls)
    return _statements[cls]


def ddl_of(cls: type) -> str:
    """The statement that makes its table, with the columns explained."""
    table, hints = table_of(cls), column_types(cls)
    doc, meanings = meanings_of(cls)
    lines = []
    for column in table.columns:
        bare, optional = _bare(hints[column])
        kind = {int: "integer", bool: "integer", str: "text"}.get(bare, "blob")
        null = "" if optional else " not null"
        lines.append(f'  "{column}" {kind}{null}, -- {meanings[column]}')
    key = ", ".join(f'"{k}"' for k in table.key)
    body = "\n".join(lines)
    head = f'create table "{table.name}" ( -- {doc}'
    return f"{head}\n{body}\n  primary key ({key})\n) strict, without rowid"


def _sql(cls: type) -> Sql:
    table, hints = table_of(cls), column_types(cls)
    kinds = [_bare(hints[column])[0] for column in table.columns]
    nested = [get_origin(kind) is tuple or shapes.is_record(kind) for kind in kinds]
    names = ", ".join(f'"{c}"' for c in table.columns)
    where = " and ".join(f'"{k}" = ?' for k in table.key)
    return Sql(
        f'select {names} from "{table.name}"',
        f'select {names} from "{table.name}" where {where}',
        f'insert or replace into "{table.name}" ({names}) values ({", ".join("?" * len(table.columns))})',
        f'delete from "{table.name}" where {where}',
        tuple(nested),
        tuple(kind is bool for kind in kinds),
        None if any(nested) else _flat(table.columns, [hints[column] for column in table.columns]),
    )


def _flat(columns: tuple[str, ...], hints: list[Any]) -> Callable[[Any], Any]:
    """Makes a row of a record; as in `LedgerStore.append`, bytes that are always there go as bytearrays."""
    blobs = [_bare(hint) == (bytes, False) for hint in hints]
    made = [f"bytearray(r.{c})" if blob else f"r.{c}" for c, blob in zip(columns, blobs, strict=True)]
    row: Callable[[Any], Any] = eval(f"lambda r: ({', '.join(made)},)", {})
    return row


def to_row(rec: Any) -> Any:
    """The columns of a record that the state tree has taken in, hence a valid one."""
    sql = sql_of(type(rec))
    if sql.flat is not None:
        return sql.flat(rec)
    plain = canonical.to_plain(rec)
    return [
        canonical.encode(plain[c]) if nested and plain[c] is not None else plain[c]
        for c, nested in zip(table_of(type(rec)).columns, sql.nested, strict=True)
    ]


def from_row(cls: type[R], row: tuple[Any, ...]) -> R:
    """The record of a row. `VerificationFailed` (code `damaged`) when a column holds what its type does not
    allow: not `Malformed`, which would pass for the fault of whoever sent a transaction."""
    sql = sql_of(cls)
    plain: dict[str, Any] = {}
    for column, value, nested, boolean in zip(
        table_of(cls).columns, row, sql.nested, sql.booleans, strict=True
    ):
        if value is not None and nested:
            value = _nested(value)
        elif boolean and value in (0, 1):
            value = bool(value)
        plain[column] = value
    try:
        return canonical.from_plain(cls, plain)
    except Malformed as e:
        raise VerificationFailed(f"a row of the ledger is damaged: {e.message}", code="damaged") from e


def _nested(value: Any) -> Any:
    try:
        return canonical.decode(value)
    except (Malformed, TypeError) as e:
        raise VerificationFailed(f"a row of the ledger is damaged: {e}", code="damaged") from e


class Recent(Generic[V]):
    """The values used last, of which `limit` to twice as many are kept; none with a limit of 0.

    What is used moves to the younger of two generations; when that is full, the older one is dropped.
    """

    __slots__ = ("_limit", "_old", "_young")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._young: dict[Any, V] = {}
        self._old: dict[Any, V] = {}

    def get(self, key: Any) -> V | None:
        found = self._young.get(key)
        if found is None and (found := self._old.get(key)) is not None:
            self.put(key, found)
        return found

    def put(self, key: Any, value: V) -> None:
        if len(self._young) >= self._limit:
            self._old, self._young = self._young, {}
        if self._limit:
            self._young[key] = value

    def drop(self, key: Any) -> None:
        self._young.pop(key, None)
        self._old.pop(key, None)

    def clear(self) -> None:
        self._young, self._old = {}, {}


ABSENT: Any = object()
"""Remembered of a key that has no record: the epoch after the current one is looked for at each block."""


class SqlBase:
    """Records read from a ledger file: a `Base` for `State`.

    `keep` says how many to keep in memory: for the one process that writes the file, which clears them when
    somebody else did (`LedgerStore.tip`).
    """

    __slots__ = ("_db", "recent")

    def __init__(self, db: sqlite3.Connection, keep: int = 0) -> None:
        self._db = db
        self.recent: Recent[Any] = Recent(keep)

    def get(self, cls: type[R], key: Key) -> R | None:
        known: R | None = self.recent.get((cls, key))
        if known is not None:
            return None if known is ABSENT else known
        row = self._db.execute(sql_of(cls).by_key, key).fetchone()
        if row is None:
            self.recent.put((cls, key), ABSENT)
            return None
        rec = from_row(cls, row)
        self.recent.put((cls, key), rec)
        return rec

    def scan(self, cls: type[R], prefix: Key) -> Iterator[R]:
        table = table_of(cls)
        where = " and ".join(f'"{k}" = ?' for k in table.key[: len(prefix)])
        order = ", ".join(f'"{k}"' for k in table.key)
        text = f"{sql_of(cls).select}{' where ' + where if where else ''} order by {order}"
        for row in self._db.execute(text, prefix):
            yield from_row(cls, row)

    def write(self, changes: Mapping[type, Mapping[Key, Any]]) -> None:
        """Inside the caller's transaction."""
        for cls, rows in changes.items():
            sql = sql_of(cls)
            # In order of the key, so that SQLite fills one page after another.
            self._db.executemany(sql.put, sorted([to_row(r) for r in rows.values() if r is not None]))
            self._db.executemany(sql.delete, [k for k, r in rows.items() if r is None])
            for key, rec in rows.items():
                if rec is None:
                    self.recent.drop((cls, key))
                else:
                    self.recent.put((cls, key), rec)


class SqlBranches(Mapping[str, bytes]):
    """Branches of the state tree as stored, read one by one; `keep` as in `SqlBase`."""

    __slots__ = ("_db", "recent")

    def __init__(self, db: sqlite3.Connection, keep: int = 0) -> None:
        self._db = db
        self.recent: Recent[bytes] = Recent(keep)

    def __getitem__(self, prefix: str) -> bytes:
        if (known := self.recent.get(prefix)) is not None:
            return known
        found = self._db.execute("select children from state_branch where prefix = ?", (prefix,)).fetchone()
        if found is None:
            raise KeyError(prefix)
        row = statetree.check_row(found[0])
        self.recent.put(prefix, row)
        return row

    def write(self, writes: Mapping[str, bytes | None]) -> None:
        """Inside the caller's transaction."""
        gone = [prefix for prefix, row in writes.items() if row is None]
        put = sorted([(prefix, row) for prefix, row in writes.items() if row is not None])
        rows = [(prefix, bytearray(row)) for prefix, row in put]
        self._db.executemany("insert or replace into state_branch values (?, ?)", rows)
        self._db.executemany("delete from state_branch where prefix = ?", [(prefix,) for prefix in gone])
        for prefix, row in put:
            self.recent.put(prefix, row)
        for prefix in gone:
            self.recent.drop(prefix)

    def __iter__(self) -> Iterator[str]:
        for (prefix,) in self._db.execute("select prefix from state_branch order by prefix"):
            yield prefix

    def __len__(self) -> int:
        return int(self._db.execute("select count(*) from state_branch").fetchone()[0])
