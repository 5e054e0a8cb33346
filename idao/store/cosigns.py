"""Cosignatures of the newest heads of a ledger: one's own, which bind, and those of others, which count.

A row of one's own is insert only, like the sign journal: two cosignatures on different texts of one tree
size are a fault.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from idao.frozen import frozen

KEPT = 64
"""Heights whose single cosignatures are kept: what a peer that was away for a moment may still ask for."""


@frozen
class Cosigned:
    """What one validator says of the head of a height: as log and as witness (FORMATS: log, anchor)."""

    height: int
    key: bytes
    log: bytes
    time_s: int
    witness: bytes


def put(db: sqlite3.Connection, c: Cosigned) -> None:
    """`sqlite3.IntegrityError` when this validator has cosigned this height already."""
    db.execute("insert into cosign values (?, ?, ?, ?, ?)", (c.height, c.key, c.log, c.time_s, c.witness))


def held(db: sqlite3.Connection, height: int) -> Iterator[Cosigned]:
    for row in db.execute("select * from cosign where height = ? order by key", (height,)):
        yield Cosigned(*row)


def prune(db: sqlite3.Connection, height: int) -> None:
    db.execute("delete from cosign where height <= ?", (height - KEPT,))
