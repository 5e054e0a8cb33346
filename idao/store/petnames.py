"""Petnames: what the owner of a home calls ids. Local; nobody else sees them."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from idao.errors import UsageError


class Petname(NamedTuple):
    """One name; `kind` is that of its id, `id` 32 bytes."""

    name: str
    kind: str
    id: bytes


def listed(db: sqlite3.Connection) -> list[Petname]:
    """All, by name."""
    return [Petname(*row) for row in db.execute("select name, kind, id from petname order by name")]


def find(db: sqlite3.Connection, name: str) -> Petname | None:
    row = db.execute("select name, kind, id from petname where name = ?", (name,)).fetchone()
    return None if row is None else Petname(*row)


def check(db: sqlite3.Connection, new: Petname) -> None:
    """`UsageError` when the name stands for another id: it never changes silently."""
    now = find(db, new.name)
    if now is not None and now != new:
        raise UsageError(
            f"'{new.name}' is the name of another {now.kind}",
            hint=f"take another name, or first: idao name remove {new.name}",
        )


def put(db: sqlite3.Connection, new: Petname) -> None:
    """Gives the name. `UsageError` as `check`."""
    db.execute("insert or ignore into petname values (?, ?, ?)", new)
    check(db, new)


def remove(db: sqlite3.Connection, name: str) -> None:
    db.execute("delete from petname where name = ?", (name,))
