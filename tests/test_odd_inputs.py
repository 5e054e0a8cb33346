"""What commands are given, and find in a home, that is not what they take: pipes, devices, closed inputs."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cli_world import must, run

from idao.dao import Dao
from idao.store import forget, packs


def test_a_closed_input_is_not_an_empty_one(fresh: Callable[[], Dao]) -> None:
    command = [sys.executable, "-m", "idao", "--home", str(fresh().home.path), "contribute", "-", "-q"]
    closed = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *command], capture_output=True, check=False)
    assert (closed.returncode, closed.stdout) == (2, b"") and b"standard input is closed" in closed.stderr
    empty = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert (empty.returncode, empty.stdout[:6]) == (0, b"asset:"), empty.stderr


@pytest.mark.parametrize(
    "name", ["config.toml", "home.db", "home.db-wal", "lock", "keys/data.key", "ledgers/x.peers"]
)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(fresh: Callable[[], Dao], name: str) -> None:
    path = fresh().home.path
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    # Without the look at them the first command would wait for ever: somebody writes, so that it ends.
    writer = threading.Thread(target=lambda: (path / name).open("wb").close(), daemon=True)
    writer.start()
    for words in (["doctor"], ["status"], ["asset", "check"]):
        ran = run(*words, home=path)
        assert ran.code in (1, 2, 6) and "not a file" in ran.out + ran.err, (words, ran)
    assert writer.is_alive(), "it was opened"
    reader = os.open(path / name, os.O_RDWR)  # open until the writer has seen it
    writer.join(60)
    os.close(reader)


def test_a_pipe_in_the_place_of_a_pack_is_a_pack_that_is_gone(lived: Any, tmp_path: Path) -> None:
    pack = next((lived.path / "packs").iterdir())
    pack.unlink()
    os.mkfifo(pack)
    writer = threading.Thread(target=lambda: pack.open("wb").close(), daemon=True)
    writer.start()
    assert run("asset", "check", home=lived.path).code == 6
    assert run("backup", "create", "-o", tmp_path / "b", home=lived.path).code == 6
    reader = os.open(pack, os.O_RDWR)  # open until the writer has seen it
    writer.join(60)
    os.close(reader)


def test_a_home_that_lost_its_ledgers_takes_nothing_in(fresh: Callable[[], Dao], tmp_path: Path) -> None:
    path = fresh().home.path
    shutil.rmtree(path / "ledgers")
    (path / "ledgers").mkdir()
    (tmp_path / "f").write_text("1")
    assert run("contribute", tmp_path / "f", home=path).code == 4


def test_settings_nested_without_end_are_refused(fresh: Callable[[], Dao]) -> None:
    path = fresh().home.path
    for deep in ("a = " + "[" * 4000, "a." * 30_000 + "b = 1", "a." * 500 + "b = 1"):
        (path / "config.toml").write_text(deep)
        ran = run("status", home=path)
        assert (ran.code, ran.out) == (2, "") and "config.toml cannot be read" in ran.err


def test_a_vote_of_no_known_kind_is_refused(fresh: Callable[[], Dao], tmp_path: Path) -> None:
    path = fresh().home.path
    for kind in ("[]", "{}", "null", "1", '"x"'):
        rest = ", ".join(f'"{name}": 0' for name in ("height", "view", "digest", "key", "signature"))
        (tmp_path / "vote").write_text(f'{{"kind": {kind}, {rest}}}')
        ran = run("quorum", "accuse", tmp_path / "vote", tmp_path / "vote", home=path)
        assert (ran.code, ran.out) == (2, "") and "kind is one of" in ran.err


def test_a_machine_that_starts_no_thread(
    fresh: Callable[[], Dao], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    path = fresh().home.path
    (tmp_path / "f").write_text("1,2\n")
    with monkeypatch.context() as patch:
        patch.setattr(packs.threading.Thread, "start", refuse)
        ran = run("contribute", tmp_path / "f", home=path)
        assert (ran.code, ran.out) == (1, "") and "no more threads" in ran.err
    must("contribute", tmp_path / "f", home=path)


def test_the_space_of_what_was_forgotten_is_freed_by_the_same_again(
    lived: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails once the keys are destroyed: the packs were left there."""

    reclaim, calls = forget.reclaim, iter((False, True))

    def fails(contents: Any) -> None:
        if next(calls):  # the last version's
            raise sqlite3.OperationalError("disk I/O error")
        reclaim(contents)

    packed = {p.name: p.stat().st_blocks for p in (lived.path / "packs").iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(forget, "reclaim", fails)
        assert run("asset", "forget", lived.asset, "--yes", home=lived.path).code == 1
    must("asset", "forget", lived.asset, "--yes", home=lived.path)
    left = {p.name: p.stat().st_blocks for p in (lived.path / "packs").iterdir()}
    assert sum(left.values()) < sum(packed.values())
    with closing(sqlite3.connect(lived.path / "home.db")) as db:
        assert db.execute("select count(*) from freed").fetchone()[0] == 0
