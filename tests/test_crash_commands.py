"""Real commands, killed at each of their writes to disk: the home opens, follows from genesis, loses nothing.

`strace` ends the process with SIGKILL at the n-th call of one system call, for every n until the command
gets through. Between two kills the home is put back, so each crash is met from the same start.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Lived, at_home

from idao.dao import Dao
from idao.hall.contribute import Wish
from idao.ledger import accounts
from idao.model import parse_id
from idao.store.audit import audit

CALLS = ("pwrite64", "write", "fdatasync", "fsync", "rename", "unlink", "ftruncate")
"""What SQLite and idao change the disk with."""
KILLED = (-9, 137)
MOMENTS = int(os.environ.get("IDAO_KILLS", "24"))
"""Random kills of real commands; more by hand."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]


FLUSHES = ("fdatasync", "fsync", "rename")
"""Where one durable step ends and the next begins: enough for commands made of steps tried elsewhere."""


def crashes(home: Path, words: list[str], calls: tuple[str, ...] = CALLS) -> Iterator[tuple[str, int]]:
    """Runs the command on `home` again and again, killed one write later each time. Yields each crash."""
    spare = home.with_name("spare")
    shutil.copytree(home, spare) if home.exists() else None
    for call in calls:
        for n in range(1, 1000):
            shutil.rmtree(home, ignore_errors=True)
            if spare.exists():
                shutil.copytree(spare, home)
                at_home(home)
            done = subprocess.run(
                ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}",
                 "-e", f"inject={call}:signal=KILL:when={n}", sys.executable, "-m", "idao",
                 "--home", str(home), *words],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode not in KILLED:
                assert done.returncode == 0, done.stderr
                break
            yield call, n


def sound(home: Path) -> Dao:
    """Opens the home after a crash, and audits its ledger."""
    for path in (home / "ledgers").glob("*.db"):
        report = audit(path)
        assert report.ok, report.findings
    return Dao.open(home)


@pytest.fixture(autouse=True)
def _can_trace(tmp_path: Path) -> None:
    probe = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("this machine lets nobody trace")


def test_init(tmp_path: Path) -> None:
    home, count = tmp_path / "home", 0
    for _ in crashes(home, ["init", "--name", "ana", "--no-passphrase"], FLUSHES):
        count += 1
        if (home / "config.toml").exists():
            assert sound(home).store.height == 0
            continue
        done = subprocess.run(
            [sys.executable, "-m", "idao", "--home", str(home), "init", "--no-passphrase", "-q"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert count > 20


def test_a_transaction_is_there_whole_or_not_at_all(lived: Lived) -> None:
    """What was queued before the crash goes through with the next command, once."""
    held = balance(lived.dao())
    count = 0
    for _ in crashes(lived.path, ["account", "issue", "7"]):
        count += 1
        dao = sound(lived.path)
        before = balance(dao)
        assert before in (held, held + 7)
        waited = dao.pending()
        dao.tokens.issue(1000)
        after = balance(Dao.open(lived.path))
        assert after == held + 1000 + (7 if waited or before != held else 0)
        assert Dao.open(lived.path).pending() == 0
    assert count > 20


def balance(dao: Dao) -> int:
    return accounts.balance(dao.state(), (accounts.IDAO, dao.me), dao.me)


def test_a_contribution_is_taken_up_again(lived: Lived) -> None:
    (lived.data / "more.csv").write_text("a,b\n" + "1,2\n" * 500)
    count = 0
    words = ["contribute", str(lived.data), "--name", "clinic 2026"]
    for _ in crashes(lived.path, words, FLUSHES):
        count += 1
        dao = sound(lived.path)
        answer = dao.assets.contribute([str(lived.data)], Wish(name="clinic 2026"))
        assert (answer["asset"], answer["version"]) == (lived.asset, 3)
        assert sound(lived.path).assets.check() == []
    assert count > 5


@pytest.mark.parametrize("words", [["propose", "more", "--set", "vote.period=1d"], ["member", "add", "bob"]])
def test_votes_and_members(lived: Lived, words: list[str]) -> None:
    count = 0
    for _ in crashes(lived.path, words, FLUSHES):
        count += 1
        sound(lived.path).settle()
        assert sound(lived.path).pending() == 0
    assert count > 5


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
