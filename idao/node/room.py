"""Room on the disk of a ledger. Without it a validator signs nothing: what it signs must be durable first.

A ledger is let go before its disk is full, so that commands which free space still work, and taken up
again when there is room: it then catches up like any that was away.
"""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

from idao.errors import IdaoError

STOP_BYTES = 32 << 20
"""Below this a ledger is let go. What is written between two looks still fits: a second of full blocks, the
logs of both databases, and a pack."""
GO_BYTES = 48 << 20
"""From here on it is taken up again: well above `STOP_BYTES`, so that it does not come and go."""
LOOK_S = 1.0
"""How often the disk is looked at."""


def lacking(folder: Path, least: int = STOP_BYTES) -> str | None:
    """Why nothing may be signed on this disk; None where there is room."""
    free = shutil.disk_usage(folder).free
    if free >= least:
        return None
    return f"no room on its disk: {free >> 20} MiB free, {least >> 20} MiB needed"


def ran_out(error: BaseException, folder: Path) -> str | None:
    """Why, if that is what a write failed of: the disk filled up between two looks."""
    told = isinstance(error, IdaoError) and error.code in ("disk", "disk-full")  # as the store says it
    outside = told or isinstance(error, OSError | sqlite3.OperationalError)
    return lacking(folder, GO_BYTES) if outside else None
