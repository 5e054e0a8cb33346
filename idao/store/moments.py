"""Moments that a home remembers: a backup made, one shown to restore, the newest block of each ledger.

A block is remembered once it holds what this home sent, in the same transaction in which that leaves the
outbox. A ledger that ends before it has lost blocks: nothing may be signed in their place.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from idao.errors import VerificationFailed
from idao.model import show_id
from idao.store.home_db import open_home_db, summed
from idao.store.ledger import LIVE, LedgerStore

BACKUP_MADE, BACKUP_VERIFIED = "backup-made", "backup-verified"


LOST = "its newest blocks are lost: home.db knows of a later one"


def newest_block(quorum: bytes) -> str:
    """The name of the moment of a ledger's newest block known here: ms UTC, as the block says."""
    return f"block {show_id('quorum', quorum)}"


def remember(db: sqlite3.Connection, what: str, at_ms: int) -> None:
    db.execute(summed("moment", "insert or replace"), (what, at_ms))


def remembered(path: Path) -> dict[str, int]:
    """Milliseconds UTC of each moment that the home.db at `path` knows."""
    with closing(open_home_db(path, readonly=True)) as db:
        return dict(db.execute("select what, at_ms from moment"))


def rolled_back(database: Path, store: LedgerStore) -> bool:
    """Whether a ledger that may go on here ends before a block that the home.db at `database` knows of."""
    if store.standing != LIVE:
        return False  # a file out of a backup is older than the home.db beside it
    known = remembered(database).get(newest_block(store.chain.quorum), 0)
    return known > store.tip().time_ms


def quarantine_rolled_back(database: Path, store: LedgerStore) -> bool:
    """The same; and nothing is signed in it any more: a block in the place of a lost one would be a fork."""
    if not rolled_back(database, store):
        return False
    with closing(LedgerStore.open(store.path)) as writing:
        writing.quarantine()
    return True


def require_whole(database: Path, store: LedgerStore) -> None:
    """`VerificationFailed` (`rolled-back`) for a ledger that was longer once."""
    if quarantine_rolled_back(database, store):
        raise VerificationFailed(
            f"ledger '{store.path.name}': {LOST}",
            hint="restore a backup, or go on as a new quorum that names this one: idao quorum recover",
            code="rolled-back",
        )
