"""Bringing a home that an older idao wrote up to date, after a copy of what changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from idao.home import Home, file_lock
from idao.store import migrate


def plan(path: Path) -> list[dict[str, Any]]:
    """What would be done in the home at `path`, in order; writes nothing. `NoHome`, or a newer format."""
    return [_shown(step) for step in migrate.steps(Home.open(path).path)]


def run(path: Path, wait_s: float) -> list[dict[str, Any]]:
    """Does it, one file after the other; each step says where the copy of the old file is. `Busy`."""
    home = Home.open(path)
    with home.exclusive(wait_s), file_lock(path / "contents.lock", wait_s):
        steps = migrate.steps(path)
        return [{**_shown(step), "copy": str(migrate.run(path, step))} for step in steps]


def _shown(step: migrate.Step) -> dict[str, Any]:
    return {"file": step.file, "from": step.found, "to": step.target, "what": step.what}
