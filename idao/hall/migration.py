"""Bringing a home that an older idao wrote up to date, after a copy of what changes."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from idao.errors import VerificationFailed
from idao.home import Home, file_lock
from idao.store import migrate


def plan(path: Path) -> list[dict[str, Any]]:
    """What would be done in the home at `path`, in order; writes nothing. `NoHome`, or a newer format."""
    return [_shown(step) for step in migrate.steps(Home.open(path).path)]


def run(path: Path, wait_s: float, progress: migrate.Progress | None = None) -> list[dict[str, Any]]:
    """Does it, one file after the other; each step says where the copy of the old file is. `Busy`.

    `progress` hears of each ledger how many blocks are done, and of how many.

    A file that is damaged stays as it is and does not keep the others: the first such refusal comes last.
    """
    home = Home.open(path)
    if not migrate.steps(path):
        return []
    done, refused = [], None
    with home.exclusive(wait_s), file_lock(path / "contents.lock", wait_s), home.node_alone():
        for step in migrate.steps(path):
            ledger = path / step.file
            held = home.driving(ledger, wait_s) if ledger.parent.name == "ledgers" else nullcontext()
            try:
                with held:
                    done.append({**_shown(step), "copy": str(migrate.run(path, step, progress))})
            except VerificationFailed as e:
                refused = refused or e
    if refused is not None:
        raise refused
    return done


def _shown(step: migrate.Step) -> dict[str, Any]:
    return {"file": step.file, "from": step.found, "to": step.target, "what": step.what}
