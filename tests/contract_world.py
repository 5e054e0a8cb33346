"""A home in which everything has happened, copies of it, and what every refusal is like."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli_world import Ran, World, make, tell
from conftest import at_home
from test_schemas import validator

ANSWERS = (0, 3, 6)
"""Exit codes whose result stands on stdout."""


def refused(ran: Ran, code: int, word: str = "") -> None:
    """One clear line, its exit code, and nothing on stdout but an answer."""
    lines = ran.err.splitlines()
    assert ran.code == code, ran
    assert "Traceback" not in ran.err
    if lines and lines[-1].startswith("{"):
        validator("error").validate(json.loads(lines[-1]))
    else:
        errors = [line for line in lines if line.startswith("idao: error: ")]
        assert len(errors) == 1 and lines.index(errors[0]) >= len(lines) - 2, ran.err
        assert all(line.startswith("idao: ") for line in lines)
    assert word in ran.err, ran.err
    assert code in ANSWERS or ran.out == ""


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A home in which everything has happened up to the settings of the keys."""
    world = make(tmp_path_factory.mktemp("plain"))
    for command, _, _ in tell(world):
        if command == "key show":
            break
    return world


def copy(world: World, folder: Path) -> World:
    """A copy whose ledger takes itself for the one that was made there: others sign nothing."""
    shutil.copytree(world.folder, folder)
    at_home(folder / "home")
    return World(folder, dict(world.ids))


@pytest.fixture
def world(plain: World, tmp_path: Path) -> World:
    """A copy of it, to be spoilt."""
    return copy(plain, tmp_path / "copy")
