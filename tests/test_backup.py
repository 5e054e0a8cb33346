"""Backups: what goes in comes out, nothing else opens them, damage is found, no chain forks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from idao.dao import Dao
from idao.errors import IdaoError, Locked, NotFound, Refused, UsageError, VerificationFailed
from idao.hall import backup, founding, packing, recovery
from idao.hall.backup import Opener
from idao.hall.contribute import Wish
from idao.model import show_id
from idao.store import backup as files
from idao.store.ledger import LedgerStore

pytestmark = pytest.mark.usefixtures("quarantine")
PASSPHRASE = "correct horse battery staple"


def words_of(dao: Dao) -> str:
    return dao.keyring.phrase()


def make(dao: Dao, out: Path, **more: Any) -> packing.Made:
    return packing.create(dao, out, **{"with_passphrase": False, **more})


@pytest.fixture
def made(lived: Any, tmp_path: Path) -> tuple[Dao, Path, str]:
    dao = lived.dao()
    out = tmp_path / "b.idao-backup"
    make(dao, out)
    return dao, out, words_of(dao)


def test_a_restored_home_has_everything(made: Any, lived: Any, tmp_path: Path) -> None:
    dao, out, words = made
    done = backup.restore(out, tmp_path / "new", words)
    assert done.idao == dao.me and not done.findings and not done.waiting
    new = Dao.open(tmp_path / "new")
    (one,) = done.quorums
    assert one.name == "clinic-r1" and one.parent == dao.quorum and one.parent_height == dao.store.height
    assert new.quorum == one.quorum != dao.quorum
    asked = dao.assets.show(lived.asset)
    shown = new.assets.show(lived.asset)
    for same in ("asset", "name", "version", "owner", "kind", "category", "license", "verified", "score",
                 "scores", "policy", "root"):  # fmt: skip
        assert shown[same] == asked[same], same
    assert [v["root"] for v in shown["versions"]] == [v["root"] for v in asked["versions"]]
    assert new.assets.check() == [] and all(r.ok for r in new.ledgers.audit().values())
    new.assets.get(lived.asset, tmp_path / "out")
    for path in lived.data.rglob("*"):
        if path.is_file():
            assert (tmp_path / "out" / path.relative_to(lived.data)).read_bytes() == path.read_bytes()
