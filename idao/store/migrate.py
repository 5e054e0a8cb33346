"""Formats on disk: what an older idao wrote, brought up to date.

Every file of a home says its format: `user_version` of home.db and of each ledger, `format` of config.toml,
`v` of key files. A newer one is refused, and an older one until `idao migrate` has run. Packs have none: a
chunk's form stands in its row of home.db.

A step copies the file into `before-migration/`, writes the new one aside, flushes it and renames it over the
old one. So a crash leaves the old file or the new one, and the copy is there before either changes. What it
leaves aside the next run clears, and does that step again from its beginning.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from idao.errors import Busy, VerificationFailed
from idao.frozen import frozen
from idao.home import write_file
from idao.store import backup, home_db, ledger
from idao.store.opening import check_owner, connect, connect_reading, fold_log, refusal
from idao.store.packs import disk_error, sync_folder

Progress = Callable[[int, int], None]
"""(done, of how many), counted in blocks."""
COPIES = "before-migration"
"""The folder of a home that keeps what was there before."""
SUM = ".sha256"
"""Beside each copy: nothing else would show damage in it."""
ASIDE = ".migrating"
"""The folder beside a file in which its successor is made: under its own name, so that it can be audited."""


@frozen
class Step:
    """One file that is of an older format."""

    file: str
    """Path within the home."""
    found: int
    target: int
    what: str
    """What changes, in words."""


def steps(home: Path) -> list[Step]:
    """What `migrate` would do here, in order; nothing is written. Refuses foreign and newer files."""
    found = []
    for file, read, current, what in _KINDS:
        path = home / file
        if path.exists() and (version := read(path)) < current:
            found.append(Step(file, version, current, what))
    for path in sorted((home / "ledgers").glob("*.db")):
        if (version := _format_of(path, ledger.VERSION)) < ledger.VERSION:
            found.append(Step(f"ledgers/{path.name}", version, ledger.VERSION, _LEDGER_CHANGES))
    return found


def run(home: Path, step: Step, progress: Progress | None = None) -> Path:
    """Does one step; returns where the copy of the old file is. The caller holds the home's locks.

    `progress` hears how many blocks are done, and of how many.
    """
    path, copy = home / step.file, home / COPIES / f"{Path(step.file).name}.format{step.found}"
    aside = path.parent / ASIDE / path.name
    kind = step.file if path.parent.name != "ledgers" else "ledger"
    try:
        copy.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.rmtree(aside.parent, ignore_errors=True)  # of a run that was killed
        aside.parent.mkdir(mode=0o700)
        _STEPS[kind, step.found](path, copy, aside, partial(_replace, path, copy, aside), progress)
    except (sqlite3.Error, UnicodeDecodeError) as e:
        raise refusal(e, path) from e
    except OSError as e:
        raise disk_error(e, f"migrating {path}") from e
    finally:
        shutil.rmtree(aside.parent, ignore_errors=True)
    return copy


def _replace(path: Path, copy: Path, aside: Path) -> None:
    _flush(copy)
    write_file(copy.with_name(copy.name + SUM), _sum_of(copy))
    _flush(aside)
    os.replace(aside, path)
    sync_folder(path.parent)


def _sum_of(copy: Path) -> bytes:
    """As `sha256sum` writes and checks it."""
    with copy.open("rb") as file:
        return f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {copy.name}\n".encode()


def check_copy(sum_file: Path) -> None:
    """`VerificationFailed` unless a copy is as it was made. One that was removed since is no matter."""
    copy = sum_file.with_suffix("")
    if copy.exists() and sum_file.read_bytes() != _sum_of(copy):
        raise VerificationFailed(f"{copy.name} and the sum of it do not agree")


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_folder(path.parent)


# --- which format a file has ---------------------------------------------------------------------------


def _format_of(path: Path, current: int) -> int:
    with closing(connect_reading(path, home_db.BUSY_SECONDS)) as db:
        check_owner(db, path, current, least=1)
        return int(db.execute("pragma user_version").fetchone()[0])


def _format_of_home_db(path: Path) -> int:
    return _format_of(path, home_db.USER_VERSION)


def _format_of_backup_key(path: Path) -> int:
    """Its `v`; a damaged file counts as current: nothing here can mend it."""
    return backup.check_key_version(path.read_bytes()) or backup.KEY_VERSION


_LEDGER_CHANGES = "its blocks are kept; records, receipts, log and state are derived from them again"
_KINDS: tuple[tuple[str, Callable[[Path], int], int, str], ...] = (
    (
        "keys/backup.pub",
        _format_of_backup_key,
        backup.KEY_VERSION,
        "gets a hash of itself, so that damage is found before a backup is needed",
    ),
    (
        "home.db",
        _format_of_home_db,
        home_db.USER_VERSION,
        "room for smaller rows of what is stored from now on; each row that has none gets a hash",
    ),
)


# --- steps --------------------------------------------------------------------------------------------


@contextmanager
def _held(path: Path, copy: Path) -> Iterator[None]:
    """Copies a database; until the new file is there, nobody writes into this one."""
    with closing(connect(path, "rw", home_db.BUSY_SECONDS)) as old:
        # Its log is folded in and removed, or it would be taken for the new file's.
        if old.execute("pragma journal_mode = delete").fetchone()[0] != "delete":
            raise Busy(f"{path} is in use by another process", hint="stop the node, then run it again")
        old.execute("begin exclusive")
        shutil.copyfile(path, copy)
        os.chmod(copy, 0o600)
        yield


def _rows_again(path: Path, copy: Path, aside: Path, replace: Callable[[], None], _: Progress | None) -> None:
    """home.db 1 or 2 to 3: every table with its rows.

    New in 2: sums of rows, and no drafts, which nothing wrote. New in 3: secrets of intakes, from which keys
    of chunks follow; what was stored before keeps its wrapped keys.
    """
    with _held(path, copy):
        home_db.open_home_db(aside).close()
        with closing(home_db.open_home_db(aside)) as db:
            db.execute("attach ? as old", (str(copy),))
            db.execute("begin immediate")
            for (table,) in db.execute("select name from main.sqlite_master where type = 'table'").fetchall():
                had = [name for _, name, *_ in db.execute(f"pragma old.table_info({table})")]
                columns, values = ", ".join(had), ", ".join(had)
                if table in home_db.SUMMED and "sum" not in had:
                    columns, values = f"{columns}, sum", f"{values}, row_sum('{table}', {values})"
                if had:
                    db.execute(f"insert into main.{table}({columns}) select {values} from old.{table}")
            db.execute("commit")
            db.execute("detach old")
            fold_log(db)
        replace()


def _ledger_again(
    path: Path, copy: Path, aside: Path, replace: Callable[[], None], progress: Progress | None
) -> None:
    """A ledger, 1 or 2 to 3.

    New in 2: a table of cosignatures, seats, bonds and faults; another form of the genesis. New in 3: bodies
    of blocks in one piece, receipts found by transaction in parts, no low subtrees of the log.
    """
    from idao.store import rederive  # all rules of the ledger, and the audit

    with _held(path, copy):
        rederive.again(copy, aside, path, progress)
        replace()


def _sum_for_backup_key(
    path: Path, copy: Path, aside: Path, replace: Callable[[], None], _: Progress | None
) -> None:
    """keys/backup.pub 1 to 2."""
    old = path.read_bytes()
    for target, data in ((copy, old), (aside, backup.with_sum(old))):
        target.touch(0o600)
        target.write_bytes(data)
    replace()


_Make = Callable[[Path, Path, Path, Callable[[], None], Progress | None], None]
_STEPS: dict[tuple[str, int], _Make] = {
    ("home.db", 1): _rows_again,
    ("home.db", 2): _rows_again,
    ("ledger", 1): _ledger_again,
    ("ledger", 2): _ledger_again,
    ("keys/backup.pub", 1): _sum_for_backup_key,
}
