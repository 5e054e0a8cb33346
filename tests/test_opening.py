"""Opening SQLite files: whatever a folder or file may be called."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from idao.store.opening import connect

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
