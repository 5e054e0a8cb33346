"""Opening SQLite files: whatever a folder or file may be called."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from idao.store.opening import INDEX_ROOM, atomic, connect, no_room, refusal

NAMES = (
    "a?mode=ro",
    "a#b",
    "a%20b",
    "%",
    "%3f",
    "a b",
    "&=;",
    "é",
    "a\nb",
    "\udcff\udcfe",
    "a\\b",
    ":memory:",
)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_path_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for mode, do in (
        ("rwc", "create table t(a)"),
        ("ro", "select a from t"),
        ("rw", "insert into t values (1)"),
    ):
        with closing(connect(folder / name, mode, 1)) as db:
            db.execute(do)
    assert os.listdir(tmp_path) == [name] == os.listdir(folder)


def of_sqlite(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("in its own words")
    error.sqlite_errorcode = code
    return error


def of_the_system(code: int, filename: str | None = None) -> OSError:
    return OSError(code, os.strerror(code), filename)


SHM_SIZE = sqlite3.SQLITE_IOERR | 19 << 8
"""What SQLite says where the index of its log of pages has no room."""


@pytest.mark.parametrize(
    ("error", "free", "full"),
    [
        (of_sqlite(sqlite3.SQLITE_FULL), 1 << 30, True),
        (of_sqlite(SHM_SIZE), INDEX_ROOM - 1, True),
        (of_sqlite(SHM_SIZE), INDEX_ROOM, False),
        (of_sqlite(sqlite3.SQLITE_CANTOPEN), 0, True),
        (of_sqlite(sqlite3.SQLITE_CANTOPEN), 1 << 30, False),
        (of_sqlite(sqlite3.SQLITE_READONLY), 0, False),
        (of_the_system(errno.ENOSPC, "f"), 1 << 30, True),
        (of_the_system(errno.EDQUOT, "f"), 1 << 30, True),
        (of_the_system(errno.ENOSPC), 1 << 30, False),
        (of_the_system(errno.ENOSPC), 0, True),
        (of_the_system(errno.EROFS, "f"), 0, False),
    ],
)
def test_a_full_disk_is_called_full(
    error: Exception, free: int, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is called, where it is, how much is left, and what to do."""
    asked = []
    monkeypatch.setattr("idao.store.opening._free", lambda path: asked.append(path) or free)
    said = no_room(error, tmp_path / "f")
    assert (said is not None) == full
    if said:
        assert said.code == "disk-full" and "same command again" in str(said.hint)
        assert said.message == f"{tmp_path / 'f'}: the disk is full ({free >> 10} KiB free)"
        assert set(asked) == {tmp_path / "f"}
        if isinstance(error, sqlite3.Error):
            assert refusal(error, tmp_path / "f", "ledger 'f'").message == said.message


def test_sqlites_own_word_for_it(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "db", "rwc", 1)) as db:
        db.execute("create table t(a)")
        db.execute("pragma max_page_count = 3")
        with pytest.raises(sqlite3.Error) as e, atomic(db):
            db.executemany("insert into t values (?)", [(bytes(1000),)] * 100)
    said = no_room(e.value, tmp_path / "db")
    assert said is not None and said.message.startswith(f"{tmp_path / 'db'}: the disk is full (")


def test_free_room_is_that_of_the_disk_a_file_would_be_on(tmp_path: Path) -> None:
    said = no_room(of_sqlite(sqlite3.SQLITE_FULL), tmp_path / "not" / "there" / "yet")
    room = os.statvfs(tmp_path)
    assert said is not None
    told = int(said.message.rpartition("(")[2].split()[0])
    assert abs(told - (room.f_bavail * room.f_frsize >> 10)) < 1 << 20  # others write to that disk too
