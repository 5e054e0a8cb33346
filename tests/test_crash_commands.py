"""Real commands, killed at random moments: the home opens, follows from genesis, loses nothing.

`test_kill_points` meets each change of the disk; this one whatever lies between them, and workers' ends.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Lived, at_home

from idao.dao import Dao
from idao.model import parse_id
from idao.store.audit import audit

KILLED = (-9, 137)
MOMENTS = int(os.environ.get("IDAO_KILLS", "24"))
"""Random kills of real commands; more by hand."""

pytestmark = pytest.mark.slow


def sound(home: Path) -> Dao:
    """Opens the home after a crash, and audits its ledger."""
    for path in (home / "ledgers").glob("*.db"):
        report = audit(path)
        assert report.ok, report.findings
    return Dao.open(home)


def test_killed_at_random_moments(lived: Lived) -> None:
    """Wherever it is: in Python, in SQLite, in the thread that writes packs."""
    chance, killed = random.Random(11), 0
    took: list[float] = []
    (lived.data / "more.bin").write_bytes(chance.randbytes(3_000_000))
    spare = lived.path.with_name("spare")
    shutil.copytree(lived.path, spare)
    for i in range(MOMENTS):
        shutil.rmtree(lived.path)
        shutil.copytree(spare, lived.path)
        at_home(lived.path)
        words = [["account", "issue", "7"], ["contribute", str(lived.data), "--name", "clinic 2026"]][i % 2]
        begin = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, "-m", "idao", "--home", str(lived.path), *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        if i < 2:  # how long each takes on this machine: moments are drawn from that
            child.wait()
            took.append(time.monotonic() - begin)
        time.sleep(chance.random() * took[i % 2])
        child.kill()
        said, killed = child.communicate()[0], killed + (child.returncode in KILLED)
        dao = sound(lived.path)
        if said and i % 2:
            assert dao.assets.show(lived.asset)["version"] == 3
        elif said:
            assert dao.store.receipt_of(parse_id("tx", said.split()[-1])) is not None
        dao.settle()
        assert dao.pending() == 0
        dao.tokens.issue(1)
        assert sound(lived.path).assets.check() == []
    assert killed > MOMENTS // 4
