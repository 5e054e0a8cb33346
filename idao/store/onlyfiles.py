"""Whether a home holds files where idao opens them.

A named pipe in the place of one would hold every command for ever, and a device would be read without end.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from idao.errors import IdaoError

FOLDERS = ("", "keys", "keys/members", "keys/tls", "ledgers", "tee", "before-migration")
"""Where few files lie, but in the first none of others. Packs are opened so that nothing waits (`packs`)."""
OWN = ("config.toml", "keys", "ledgers", "packs", "tee")
WAITS = {stat.S_IFIFO: "a named pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def need_files(home: Path) -> None:
    """`IdaoError` with code `no-file`, by name, for what would be waited for."""
    for folder in FOLDERS:
        try:
            with os.scandir(home / folder) as entries:
                for entry in entries:
                    if not entry.is_file() and (folder or _own(entry.name)):
                        _need(entry.path)
        except OSError:  # no such folder, or whoever opens what is in it says so
            continue


def _own(name: str) -> bool:
    return name in OWN or name.startswith("home.db") or name.endswith("lock")


def _need(path: str) -> None:
    if what := WAITS.get(stat.S_IFMT(os.stat(path).st_mode)):
        hint = "remove it, and restore the file from a backup"
        raise IdaoError(f"'{path}' is {what}, not a file", hint=hint, code="no-file")
