"""Ledgers that idao 0.1.0 wrote are derived again: a home of then, one ledger of which continues another."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from pathlib import Path

import pytest
from cli_world import must, run

from idao.dao import Dao
from idao.hall import migration
from idao.home import file_lock
from idao.ledger.tx import parse_tx
from idao.store import migrate, place
from idao.store.ledger import VERSION, LedgerStore, meta_sum
from idao.store.prune import prune

MADE = Path(__file__).parent / "vectors" / "home-1.tar.xz"
"""Made by idao 0.1.0: a contribution, DATs, a vote, a rotation, evidence; then a backup, restored."""
KEPT = (
    "block",
    "sign",
    "checkpoint",
    "receipt",
    "asset_version",
    "account",
    "state_branch",
)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """That home, at home where it lies now."""
    with tarfile.open(MADE) as tar:
        tar.extractall(tmp_path, filter="data")
    home = tmp_path / "home-1"
    home.chmod(0o700)
    for path in ledgers(home):
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            here = place.place_of(path)
            db.execute("update meta set value = ?, sum = ? where key = 'place' and length(value)",
                       (here, meta_sum("place", here)))  # fmt: skip
    return home


def ledgers(home: Path) -> list[Path]:
    return sorted((home / "ledgers").glob("*.db"))


def rows(path: Path) -> list[object]:
    with closing(sqlite3.connect(path)) as db:
        kept = [db.execute(f"select * from {table} order by 1, 2").fetchall() for table in KEPT]
        return [
            *kept,
            transactions(path, db),
            db.execute("select * from log_node where level > 2").fetchall(),
        ]


def transactions(path: Path, db: sqlite3.Connection) -> list[bytes]:
    """Signed, in order: a row each up to format 2, then in the bodies of their blocks."""
    if db.execute("pragma user_version").fetchone()[0] < 3:
        return [raw for (raw,) in db.execute("select raw from tx order by height, place")]
    with closing(LedgerStore.open(path, readonly=True)) as store:
        heights = range(store.pruned + 1, store.height + 1)
        return [raw for height in heights for raw in store.block(height)[0].txs]


def state(home: Path) -> list[tuple[int, list[object]]]:
    out = []
    for path in ledgers(home):
        with closing(sqlite3.connect(path)) as db:
            out.append((db.execute("pragma user_version").fetchone()[0], rows(path)))
    return out


@pytest.mark.parametrize("words", ["status", "audit", "mint visits"])
def test_refused_by_name_until_migrated(old: Path, words: str) -> None:
    migrate.run(old, next(s for s in migrate.steps(old) if s.file == "home.db"))
    ran = run(*words.split(), "--json", home=old)
    assert (ran.code, ran.out, ran.error["code"]) == (1, "", "older")
    assert "idao migrate" in ran.error["hint"] and any(p.name in ran.error["message"] for p in ledgers(old))


def test_derived_again(old: Path, quarantine: None) -> None:
    was = state(old)
    must("migrate", "--dry-run", home=old)
    assert state(old) == was
    steps = must("migrate", "--json", home=old).json["steps"]
    assert [s["file"] for s in steps][2:] == [f"ledgers/{p.name}" for p in ledgers(old)]
    assert state(old) == [(VERSION, kept) for _, kept in was]
    for step, path in zip(steps[2:], ledgers(old), strict=True):
        assert rows(Path(step["copy"])) == rows(path)
    assert not list(old.rglob(migrate.ASIDE))
    for words in ("audit", "asset check"):
        assert run(*words.split(), home=old).code == 0, words
    now = Dao.open(old)
    assert now.store.standing == "live" and now.tokens.issue(1)
    ended = [s for s in map(LedgerStore.open, ledgers(old)) if s.continued_by]
    assert len(ended) == 1 and ended[0].quarantined
    must("audit", home=old)


def test_what_was_quarantined_stays_so(old: Path, quarantine: None) -> None:
    moved = shutil.copytree(old, old.with_name("moved"))
    must("migrate", home=moved)
    ran = run("account", "issue", "1", "--json", home=moved)
    assert (ran.code, ran.error["code"]) == (5, "quarantine")
    must("quorum", "recover", "--phrase-file", moved / "words.txt", home=moved)


def test_a_damaged_ledger_stays_and_does_not_keep_the_others(old: Path) -> None:
    first, second = ledgers(old)
    with closing(sqlite3.connect(first, isolation_level=None)) as db:
        db.execute("update tx set raw = substr(raw, 1, 100) where height = 3")
    before = rows(first)
    ran = run("migrate", "--json", home=old)
    assert (ran.code, ran.error["code"]) == (6, "damaged") and "block 3" in ran.error["message"]
    assert rows(first) == before and first.name in ran.error["message"]
    assert [s.file for s in migrate.steps(old)] == [f"ledgers/{first.name}"]
    assert LedgerStore.open(second).height


def test_a_signature_that_does_not_hold_is_not_taken_over(old: Path) -> None:
    first, _ = ledgers(old)
    with closing(sqlite3.connect(first, isolation_level=None)) as db:
        db.execute("update checkpoint set note = replace(note, '— ', '- ') where height = 2")
    ran = run("migrate", "--json", home=old)
    assert ran.code == 6 and "block 2, checkpoint" in ran.error["message"]


@pytest.mark.slow
def test_an_old_backup_restores(old: Path) -> None:
    out, words = old.with_name("b.idao-backup"), old / "words.txt"
    must("backup", "create", "-o", out, home=old)
    must("backup", "verify", out, "--phrase-file", words, home=old)
    must("backup", "restore", out, "--phrase-file", words, home=old.with_name("again"))
    must("audit", home=old.with_name("again"))


def test_a_ledger_at_work_is_not_migrated_under(old: Path) -> None:
    path = ledgers(old)[0]
    with file_lock(path.with_suffix(".lock"), 0):
        ran = run("migrate", "--wait", "0", "--json", home=old)
    assert (ran.code, ran.error["code"]) == (8, "busy")
    must("migrate", home=old)


@pytest.mark.slow
def test_killed_at_any_moment(old: Path) -> None:
    """The next run finishes; what was agreed on is never lost. `IDAO_KILLS` for more."""
    chance, was = random.Random(int(os.environ.get("IDAO_SEED", "3"))), [kept for _, kept in state(old)]
    spare = shutil.copytree(old, old.with_name("spare"))
    command = [sys.executable, "-m", "idao", "--home", str(old), "migrate", "-q"]
    begin = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    took = time.monotonic() - begin
    for _ in range(int(os.environ.get("IDAO_KILLS", "4"))):
        shutil.rmtree(old)
        shutil.copytree(spare, old)
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.random() * took)
        child.kill()
        child.wait()
        assert [kept for _, kept in state(old)] == was, "one of both, whole, at any moment"
        must("migrate", home=old)
        assert state(old) == [(VERSION, kept) for kept in was]
        must("audit", home=old)


def test_how_far_it_is_is_told(old: Path) -> None:
    told: list[tuple[int, int]] = []
    migration.run(old, 0, lambda done, total: told.append((done, total)))
    ends = [i for i, (done, total) in enumerate(told) if done == total]
    assert len(ends) == len(ledgers(old)), "each ledger comes to its end"
    first = told[: ends[0] + 1]
    assert first == sorted(set(first)) and first[-1][0] == 2 * tip_of(ledgers(old)[0])


def tip_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("select max(height) from block").fetchone()[0])


def as_format_2(path: Path) -> None:
    """Rows as idao left them between 0.1.0 and format 3: a row a transaction, each subtree of the log."""
    with closing(LedgerStore.open(path)) as store:
        size = store.tip().frontier.size
        low = [(n, i, store.subtree(n, i)) for n in (1, 2) for i in range(size >> n)]
        txs = [
            (height, place, parse_tx(raw).id, raw)
            for height in range(store.pruned + 1, store.height + 1)
            for place, raw in enumerate(store.block(height)[0].txs)
        ]
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(
            "drop index receipt_tx; drop table body; drop table held; create table proposed"
            " (height integer not null, hash blob not null, block blob not null, primary key (height, hash))"
        )
        db.executemany("insert into tx values (?, ?, ?, ?)", txs)
        db.executemany("insert into log_node values (?, ?, ?)", low)
        db.execute("insert into proposed values (?, zeroblob(32), x'01')", (txs[-1][0] + 1,))
        db.execute("pragma user_version = 2")


@pytest.mark.parametrize("keep", [None, 3], ids=["whole", "pruned"])
def test_a_ledger_of_format_2(old: Path, keep: int | None) -> None:
    must("migrate", home=old)
    path = ledgers(old)[0]
    if keep is not None:
        with closing(LedgerStore.open(path)) as store:
            assert prune(store, keep).transactions
    was = state(old)
    as_format_2(path)
    assert run("status", home=old).code == 1
    must("migrate", home=old)
    assert state(old) == was
    must("audit", home=old)
    with closing(LedgerStore.open(path)) as store:
        assert list(store.proposed(store.height + 1)) == [(bytes(32), b"\1")], "the journal's"
