"""Petnames: what the owner of a home calls ids. Local; nobody else sees them."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from idao.errors import UsageError, VerificationFailed
from idao.store.home_db import row_sum, summed

_SELECT = "select name, kind, id, sum from petname"


class Petname(NamedTuple):
    """One name; `kind` is that of its id, `id` 32 bytes."""

    name: str
    kind: str
    id: bytes


def listed(db: sqlite3.Connection) -> list[Petname]:
    """All, by name. One that is not as it was given is left out: it may stand for somebody else now."""
    where = "where sum = row_sum('petname', name, kind, id) order by name"
    return [Petname(*row[:3]) for row in db.execute(f"{_SELECT} {where}")]


def find(db: sqlite3.Connection, name: str) -> Petname | None:
    """`VerificationFailed` (code `damaged`) when it is not as it was given."""
    try:
        row = db.execute(f"{_SELECT} where name = ?", (name,)).fetchone()
    except UnicodeEncodeError:  # bytes of the command line that are no text
        return None
    if row is not None and row[3] != row_sum("petname", *row[:3]):
        raise VerificationFailed(
            f"the petname '{name}' is damaged: it may stand for another id now",
            hint="restore a backup",
            code="damaged",
        )
    return None if row is None else Petname(*row[:3])


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
    db.execute(summed("petname", "insert or ignore"), new)
    check(db, new)


def remove(db: sqlite3.Connection, name: str) -> None:
    db.execute("delete from petname where name = ?", (name,))
