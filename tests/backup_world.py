"""A home that was backed up, and what its backups are asked."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_world import World, make, must, run
from conftest import at_home
from shipping import CLONE


@pytest.fixture(scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make(tmp_path_factory.mktemp("backups"))
    must("init", "--name", "ana", "--no-passphrase", home=world.home)
    world.ids["asset"] = must(
        "contribute", world.folder / "visits", "--name", "visits", "-q", home=world.home
    ).out.strip()
    must("key", "phrase", "--out", world.folder / "words", home=world.home)
    must("backup", "create", "-o", world.folder / "b", home=world.home)
    return world


@pytest.fixture
def world(_world: World, tmp_path: Path) -> World:
    """A copy of its own; its home knows that it is one."""
    shutil.copytree(_world.folder, tmp_path / "w")

    at_home(tmp_path / "w" / "home")
    return World(tmp_path / "w", dict(_world.ids))


def verify(world: World, file: Path, code: int = 0) -> Any:
    words = world.folder / "words"
    ran = run("backup", "verify", file, "--phrase-file", words, "--json", home=world.home)
    assert ran.code == code, ran
    return ran.json


def left(*folders: Path) -> list[str]:
    """What a backup must never leave behind."""
    found = [p for folder in folders for p in folder.iterdir()]
    return [p.name for p in found if p.name.startswith(".backup") or p.name.endswith(".part")]


def command_of(script: str, world: World, *args: str) -> dict[str, Any]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("IDAO")}
    environ |= {"IDAO_HOME": str(world.home), "PYTHONPATH": str(CLONE), "W": str(world.folder)}
    # A Python that may write no whole file would leave half of its own bytecode for all who come later.
    environ["PYTHONDONTWRITEBYTECODE"] = "1"
    prelude = f'idao() {{ "{sys.executable}" -m idao "$@"; }}\n'
    return {"args": [*args, "sh", "-c", prelude + script], "env": environ, "text": True}
