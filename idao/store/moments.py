"""Moments that a home remembers: when a backup was made, and when one was shown to restore."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from idao.store.home_db import open_home_db, summed

BACKUP_MADE, BACKUP_VERIFIED = "backup-made", "backup-verified"


def remember(db: sqlite3.Connection, what: str, at_ms: int) -> None:
    db.execute(summed("moment", "insert or replace"), (what, at_ms))


def remembered(path: Path) -> dict[str, int]:
    """Milliseconds UTC of each moment that the home.db at `path` knows."""
    with closing(open_home_db(path, readonly=True)) as db:
        return dict(db.execute("select what, at_ms from moment"))
