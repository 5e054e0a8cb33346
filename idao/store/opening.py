"""Opening the SQLite files of a home: whose they are, what is wrong, and reading without writing."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from idao.errors import Busy, IdaoError, Newer, VerificationFailed

APPLICATION_ID = 0x6964616F
"""'idao' in ASCII, so that `file` and we ourselves know the file."""

BLOCK_BYTES = 4096
"""SQLite has the index of its log of pages (-shm) filled by one byte for each so many bytes, then maps it."""
INDEX_ROOM = 128 * 1024
"""Free space without which that index may not fit: 32 KiB for home.db and for each ledger that is open."""


def need_room(path: Path) -> None:
    """Refuses to open a database for writing where its index might have no room: `IdaoError` `disk-full`.

    Where blocks are smaller than SQLite thinks, most of the index is a hole at first. If the disk is full
    when a hole is touched, the kernel ends the process (SIGBUS).
    """
    if _has_small_blocks(path) and _free(path) < INDEX_ROOM:
        raise _full(path)


def hold_room(path: Path) -> None:
    """Has the holes of the index of this open database filled, so that the disk may become full meanwhile.

    By SQLite's own descriptor: to close another of the same file would drop the locks of this process.
    """
    if not _has_small_blocks(path):
        return
    try:
        index, numbers = os.stat(f"{path}-shm"), [int(n) for n in os.listdir("/proc/self/fd")]
    except OSError:  # no such file, or no such folder on this system: as before
        return
    for number in numbers:
        with suppress(OSError):  # the one by which the folder was listed is closed
            if os.path.samestat(os.fstat(number), index):
                break
    else:
        return
    try:
        os.posix_fallocate(number, 0, index.st_size)
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):  # else a disk that is only read, or that cannot do this
            raise _full(path) from e


def no_room(error: Exception, path: Path) -> IdaoError | None:
    """The refusal (`disk-full`) where `error`, of the system or of SQLite, comes of a full disk; else None.

    SQLite has such words only for writing pages: what else it cannot do for want of room is an I/O error, or
    a file that cannot be opened. What the system says without a file's name may be of standard output.
    `path`: what was being written.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    spent = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    sure = code == sqlite3.SQLITE_FULL or (spent and getattr(error, "filename", None))
    may_be = spent or code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
    return _full(path) if sure or (may_be and _free(path) < INDEX_ROOM) else None


def _full(path: Path) -> IdaoError:
    hint = "free some space there and run the same command again: what is stored stays stored"
    left = f"{_free(path) >> 10} KiB free"
    return IdaoError(f"{path}: the disk is full ({left})", hint=hint, code="disk-full")


def _has_small_blocks(path: Path) -> bool:
    try:
        return os.statvfs(path.parent).f_bsize < BLOCK_BYTES
    except OSError:
        return False


def _free(path: Path) -> int:
    """Bytes of room where `path` is, or will be."""
    path = path.absolute()
    room = os.statvfs(next(p for p in (path, *path.parents) if p.is_dir()))
    return room.f_bavail * room.f_frsize


def connect(path: Path, mode: str, busy_s: float) -> sqlite3.Connection:
    """`mode` is SQLite's: ro, rw or rwc. Autocommit: writers say `begin immediate`."""
    if not mode.startswith("ro"):
        need_room(path)
    name = str(path.absolute())
    for sign in "%?#":  # what ends the name in a URI; `Path.as_uri` would load urllib for it
        name = name.replace(sign, f"%{ord(sign):x}")
    return sqlite3.connect(f"file://{name}?mode={mode}", uri=True, isolation_level=None, timeout=busy_s)


def connect_reading(path: Path, busy_s: float) -> sqlite3.Connection:
    """A connection that cannot write, also where nobody can: a read-only mount, another user's folder.

    A database in WAL mode wants to make a file beside itself even for a reader. Where it cannot, the file is
    opened as one that does not change. Not while a log of pages lies beside it: without that log the file
    would be read as of long ago.
    """
    db = connect(path, "ro", busy_s)
    try:
        db.execute("select 1 from sqlite_master limit 1")
    except sqlite3.OperationalError as e:
        wal = path.with_name(path.name + "-wal")
        unwritable = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR)
        if e.sqlite_errorcode & 0xFF in unwritable and not (wal.exists() and wal.stat().st_size):
            db.close()
            db = connect(path, "ro&immutable=1", busy_s)
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        pass  # Damaged, or not a database at all: `check_owner` says so with the file's name.
    return db


def empty_log(db: sqlite3.Connection) -> None:
    """Before a writer closes: leaves no log of pages that the next command would read again, frame by frame.

    SQLite empties it when the last connection closes, but that may be one that only reads and cannot. Where
    somebody is reading, the next writer does it.
    """
    with suppress(sqlite3.Error):
        db.execute("pragma busy_timeout = 0")
        db.execute("pragma wal_checkpoint(truncate)")


def fold_log(db: sqlite3.Connection) -> None:
    """Before the file is moved without its log of pages: all of that is in the file, or `sqlite3.Error`.

    SQLite does so when it closes too, but says nothing where the disk is full.
    """
    if db.execute("pragma wal_checkpoint(truncate)").fetchone()[0]:
        raise sqlite3.OperationalError("database is locked")


@contextmanager
def atomic(db: sqlite3.Connection) -> Iterator[None]:
    """One durable step or none. What first went wrong is raised, not that ending the transaction failed too.

    After some errors, a full disk among them, SQLite has rolled back already and refuses to do it again.
    """
    db.execute("begin immediate")
    try:
        yield
        db.execute("commit")
    except BaseException:
        with suppress(sqlite3.Error):
            if db.in_transaction:
                db.execute("rollback")
        raise


def check_owner(
    db: sqlite3.Connection, path: Path, version: int, *, called: str = "", least: int | None = None
) -> None:
    """Refuses, by name, a file of another program (`foreign`), of a newer or older idao, or a broken one.

    `called`: how a person knows it, if not by its path. `least`: the oldest format that will do, if it is not
    `version`.
    """
    what = called or str(path)
    try:
        owner = db.execute("pragma application_id").fetchone()[0]
        found = db.execute("pragma user_version").fetchone()[0]
    except (sqlite3.Error, UnicodeDecodeError) as e:
        raise refusal(e, path, called) from e
    if owner != APPLICATION_ID:
        raise IdaoError(f"{what} is not a file of idao", code="foreign")
    if found > version:
        raise Newer(what, found, version)
    if found < (version if least is None else least):
        raise IdaoError(
            f"{what} was written by an older idao (format {found}, this one reads {version})",
            hint="see what would change, then do it: idao migrate --dry-run, idao migrate",
            code="older",
        )


def refusal(error: Exception, path: Path, called: str = "") -> IdaoError:
    """What SQLite raised, as a refusal: busy, damaged, a full disk, or in its own words (a read-only one).

    `called`: how a person knows the file, if not by its path.
    """
    what = called or str(path)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Busy(f"{what} is in use by another process", hint="wait for it, or give '--wait SECONDS'")
    # SQLITE_ERROR: a table or column that idao makes is not there, as when a bit of its name has flipped.
    damage = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
    if code in damage or isinstance(error, UnicodeDecodeError):
        return VerificationFailed(
            f"{what} is damaged: {error}", hint="restore it from a backup", code="damaged"
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) and not os.access(path.parent, os.W_OK):
        hint = "make it writable, or give another home: --home DIR"
        return IdaoError(f"{what}: the folder '{path.parent}' can only be read", hint=hint, code="disk")
    return no_room(error, path) or IdaoError(f"{what}: {error}", hint="see 'idao doctor'", code="disk")
