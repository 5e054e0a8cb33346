"""Formats on disk: an older home is brought up to date after a copy, a newer or foreign file is refused."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from blake3 import blake3
from cli_world import must, run
from conftest import Lived, at_home

from idao import manifest
from idao.crypto import canonical, sodium
from idao.crypto.hashing import Kind
from idao.dao import Dao
from idao.store import backup, home_db, ledger, migrate
from idao.store.petnames import find


def age(home: Path, to: int = 1) -> None:
    """Makes the home one of format 1 or 2, row by row, as the idao of then would have left it."""
    path, aside = home / "home.db", home / "old.db"
    with closing(sqlite3.connect(aside, isolation_level=None)) as db:
        db.execute("pragma journal_mode=wal")
        db.executescript((Path(__file__).parent / "vectors" / f"home-db-{to}.sql").read_text())
        db.execute("attach ? as new", (str(path),))
        for (table,) in db.execute("select name from main.sqlite_master where type = 'table'").fetchall():
            there = {name for _, name, *_ in db.execute(f"pragma new.table_info({table})")}
            had = [name for _, name, *_ in db.execute(f"pragma main.table_info({table})")]
            if there and table != "chunk":
                db.execute(f"insert into main.{table} select {', '.join(had)} from new.{table}")
        _with_wrapped_keys(home, db)
        db.execute(f"pragma main.application_id={home_db.APPLICATION_ID}")
        db.execute(f"pragma main.user_version={to}")
    for extra in ("-wal", "-shm"):
        Path(f"{path}{extra}").unlink(missing_ok=True)
    aside.rename(path)
    if to > 1:
        return
    key = home / "keys" / "backup.pub"
    kept = canonical.decode(key.read_bytes())
    key.write_bytes(canonical.encode({"v": 1, "public": kept["public"], "kek": kept["kek"]}))


def _with_wrapped_keys(home: Path, old: sqlite3.Connection) -> None:
    with Dao.open(home).assets.opened() as (contents, _):
        for row in contents.db.execute("select id, pack, offset from chunk"):
            ((i, key, sealed, size, stored, form),) = manifest.chunk_rows(contents.chunk_row(row[0]) or b"")
            wrapped = sodium.seal(key, i, sealed[:24], contents.keys.wrapping)
            old.execute(
                "insert into chunk values(?,?,?,?,?,?,?,?)", (*row, stored, size, form, sealed, wrapped)
            )


@pytest.fixture
def old(lived: Lived) -> Lived:
    must("name", "add", "bob", "idao:" + "b" * 51 + "a", home=lived.path)
    age(lived.path)
    return lived


def rows(path: Path) -> dict[str, list[object]]:
    with closing(sqlite3.connect(path)) as db:
        tables = [t for (t,) in db.execute("select name from sqlite_master where type = 'table' order by 1")]
        out = {}
        for table in tables:
            had = (name for _, name, *_ in db.execute(f"pragma table_info({table})"))
            columns = ", ".join(name for name in had if name not in ("sum", "secret"))
            out[table] = db.execute(f"select {columns} from {table} order by 1, 2").fetchall()
    return out


def files(home: Path) -> dict[str, bytes]:
    """All but what SQLite keeps beside a database for its readers."""
    found = (p for p in sorted(home.rglob("*")) if p.is_file() and not p.name.endswith(("-shm", "-wal")))
    return {str(p): p.read_bytes() for p in found}


@pytest.mark.parametrize("words", ["status", "contribute {data}", "asset check", "name list"])
def test_an_older_home_is_refused_with_the_way_out(old: Lived, words: str) -> None:
    ran = run(*words.format(data=old.data).split(), "--json", home=old.path)
    assert (ran.code, ran.out, ran.error["code"]) == (1, "", "older")
    assert "idao migrate" in ran.error["hint"]


def test_dry_run_says_and_changes_nothing(old: Lived) -> None:
    before = files(old.path)
    said = must("migrate", "--dry-run", "--json", home=old.path).json
    assert [(s["file"], s["from"], s["to"]) for s in said["steps"]] == [
        ("keys/backup.pub", 1, 2), ("home.db", 1, 3),
    ]  # fmt: skip
    assert files(old.path) == before


def test_migrate(old: Lived, tmp_path: Path) -> None:
    was, key = rows(old.path / "home.db"), (old.path / "keys/backup.pub").read_bytes()
    steps = must("migrate", "--json", home=old.path).json["steps"]
    is_now = rows(old.path / "home.db")
    assert {**is_now, "draft": []} == {**was, "secret": []}
    assert [Path(s["copy"]).name for s in steps] == ["backup.pub.format1", "home.db.format1"]
    assert Path(steps[0]["copy"]).read_bytes() == key and rows(Path(steps[1]["copy"])) == was
    assert run("asset", "check", home=old.path).code == 0
    with closing(home_db.open_home_db(old.path / "home.db")) as db:
        assert db.execute("pragma journal_mode").fetchone()[0] == "wal"
        assert find(db, "bob") is not None
    assert must("migrate", "--json", home=old.path).json == {"steps": []}
    restored = run("asset", "get", old.asset, "-o", tmp_path / "out", home=old.path)
    assert restored.code == 0 and (tmp_path / "out" / "visits.csv").exists()
    must("backup", "create", "-o", tmp_path / "b.idao-backup", home=old.path)


def test_sums_of_format_2_are_taken_over_and_old_chunks_met_again(lived: Lived, tmp_path: Path) -> None:
    age(lived.path, 2)
    was = rows(lived.path / "home.db")
    with closing(sqlite3.connect(lived.path / "home.db")) as db:
        db.execute("update moment set at_ms = at_ms + 1")
        db.execute("insert into moment values('a flipped row', 5, zeroblob(32))")
        db.commit()
    steps = must("migrate", "--json", home=lived.path).json["steps"]
    assert [(s["file"], s["from"], s["to"]) for s in steps] == [("home.db", 2, 3)]
    found = run("asset", "check", home=lived.path)
    assert found.code == 6 and "table moment" in found.out, "what was damaged is not blessed"
    with closing(home_db.open_home_db(lived.path / "home.db")) as db:
        db.execute("delete from moment")
    assert {**rows(lived.path / "home.db"), "moment": was["moment"]} == {**was, "secret": []}
    assert run("asset", "check", home=lived.path).code == 0
    shutil.copytree(lived.data, tmp_path / "copy")
    must("contribute", tmp_path / "copy", home=lived.path)
    assert run("asset", "check", home=lived.path).code == 0


def test_a_file_is_whole_before_it_is_moved(
    old: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's log of pages stays behind; at closing nothing is folded in where the disk is full, and no
    error is raised. Another connection does here what the full disk does."""
    held, make, opened = [], home_db._create, home_db.open_home_db

    def hold(path: object) -> None:
        held.append(sqlite3.connect(str(path)))
        held[-1].execute("select count(*) from sqlite_master").fetchone()

    def made(db: sqlite3.Connection) -> None:
        make(db)
        if name := db.execute("pragma database_list").fetchone()[2]:
            hold(name)

    def aside(path: Path, **more: bool) -> sqlite3.Connection:
        db = opened(path, **more)
        if migrate.ASIDE in str(path):
            hold(path)
        return db

    monkeypatch.setattr(home_db, "_create", made)
    monkeypatch.setattr(home_db, "open_home_db", aside)
    was = rows(old.path / "home.db")
    must("migrate", home=old.path)
    opened(tmp_path / "new.db").close()
    for one in held:
        one.close()
    assert {**rows(old.path / "home.db"), "draft": []} == {**was, "secret": []}
    assert "version" in rows(tmp_path / "new.db")


def test_a_node_at_work_is_not_migrated_under(old: Lived) -> None:
    with closing(sqlite3.connect(old.path / "home.db")) as other:
        other.execute("select count(*) from petname").fetchone()
        other.execute("begin immediate")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(home_db, "BUSY_SECONDS", 0.1)
            ran = run("migrate", "--json", home=old.path)
    assert (ran.code, ran.error["code"]) == (8, "busy")
    assert migrate.steps(old.path)[-1].file == "home.db"


@pytest.mark.slow
def test_a_crash_leaves_the_old_or_the_new(old: Lived) -> None:
    """Ended at each step that changes the disk; the next run finishes, and nothing is lost."""
    was, spare = rows(old.path / "home.db"), old.path.with_name("spare")
    shutil.copytree(old.path, spare)
    program = """
import os, sys
from idao import cli
count = 0
def ends(name):
    real = getattr(os, name)
    def call(*a, **kw):
        global count
        count += 1
        if count == int(sys.argv[1]):
            os._exit(77)
        return real(*a, **kw)
    setattr(os, name, call)
for name in ("replace", "fsync", "chmod", "unlink", "mkdir"):
    ends(name)
sys.exit(cli.main(["migrate", "-q", "--home", sys.argv[2]]))
"""
    for n in range(1, 60):
        shutil.rmtree(old.path)
        shutil.copytree(spare, old.path)
        command = [sys.executable, "-c", program, str(n), str(old.path)]
        code = subprocess.run(command, capture_output=True, timeout=60, check=False).returncode
        assert code in (0, 77)
        must("migrate", home=old.path)
        assert {**rows(old.path / "home.db"), "draft": []} == {**was, "secret": []}, f"ended at {n}"
        if code == 0:
            break
    assert 8 < n < 59


def test_an_older_backup_restores(lived: Lived, tmp_path: Path) -> None:
    must("key", "phrase", "--out", tmp_path / "words", home=lived.path)
    age(lived.path)  # a backup of it can be made before it is migrated
    must("backup", "create", "-o", tmp_path / "old.idao-backup", home=lived.path)
    words = tmp_path / "words"
    must("backup", "verify", tmp_path / "old.idao-backup", "--phrase-file", words, home=lived.path)
    again = tmp_path / "again"
    must("backup", "restore", tmp_path / "old.idao-backup", "--phrase-file", words, home=again)
    at_home(again)
    assert Dao.open(again).assets.check() == [] and migrate.steps(again) == []


# --- newer and foreign --------------------------------------------------------------------------------


def put_version(path: Path, pragma: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"pragma {pragma}")


def newer_key(path: Path) -> None:
    path.write_bytes(canonical.encode({**canonical.decode(path.read_bytes()), "v": 99}))


@pytest.mark.parametrize(
    "what", ["home.db", "ledger", "config.toml", "keys/lock", "keys/data.key", "keys/backup.pub"]
)
def test_newer(lived: Lived, what: str, tmp_path: Path) -> None:
    path = next((lived.path / "ledgers").glob("*.db")) if what == "ledger" else lived.path / what
    if path.suffix == ".db":
        put_version(path, "user_version=99")
    elif what == "config.toml":
        path.write_text(path.read_text().replace("format = 1", "format = 99"))
    else:
        newer_key(path)
    words = ["backup", "create", "-o", tmp_path / "b"] if what.endswith(".pub") else ["asset", "check"]
    words = ["audit"] if what == "ledger" else words
    ran = run(*words, "--json", home=lived.path)
    assert "newer idao" in ran.out + ran.err and ran.code == (6 if "newer idao" in ran.out else 1)
    for words in (["migrate", "--dry-run"], ["migrate"]):
        before = files(lived.path)
        ran = run(*words, "--json", home=lived.path)
        if what not in ("keys/lock", "keys/data.key"):  # migrate opens no key
            assert (ran.code, ran.error["code"]) == (1, "newer")
        assert files(lived.path) == before


def test_a_newer_backup_and_newer_collateral(lived: Lived, tmp_path: Path) -> None:
    out = tmp_path / "b.idao-backup"
    must("backup", "create", "-o", out, home=lived.path)
    body = out.read_bytes().replace(b"idao-backup 1", b"idao-backup 9", 1)[:-32]
    for data, code, said in (
        (body + blake3(body, derive_key_context=Kind.BACKUP.value).digest(), 1, "newer"),
        (body + out.read_bytes()[-32:], 6, "not-a-backup"),  # nobody wrote that: a flipped bit
    ):
        out.write_bytes(data)
        ran = run("backup", "verify", out, "--json", home=lived.path)
        assert (ran.code, ran.error["code"]) == (code, said)
    vendor = Path(__file__).parent / "vectors/tee/intel-collateral/tdx-00806F050000-2025-10.json"
    must("tee", "collateral", "import", vendor, home=lived.path)
    (kept,) = (lived.path / "tee").glob("*.bundle")
    newer_key(kept)
    ran = run("asset", "check", home=lived.path)
    assert (
        ran.code == 6 and f"tee/{kept.name}: the bundle of collateral was written by a newer idao" in ran.out
    )


@pytest.mark.parametrize("what", ["home.db", "ledger"])
def test_foreign(lived: Lived, what: str) -> None:
    path = next((lived.path / "ledgers").glob("*.db")) if what == "ledger" else lived.path / what
    put_version(path, "application_id=7")
    for words in (["status"], ["migrate", "--dry-run"]):
        ran = run(*words, "--json", home=lived.path)
        assert (ran.code, ran.error["code"]) == (1, "foreign"), json.dumps(ran.error)


def test_a_foreign_pack_is_named(lived: Lived) -> None:
    (lived.path / "packs" / "holiday.jpg").write_bytes(b"not a pack")
    ran = run("asset", "check", home=lived.path)
    assert ran.code == 6 and "packs/holiday.jpg: is not in the index" in ran.out


MADE = {"home.db": (1, 2), "keys/backup.pub": (1,), "ledger": (1, 2)}
"""Formats that the fixtures here, and those of test_migrate_ledger, make."""


def test_every_format_of_the_past_has_a_step() -> None:
    """A new USER_VERSION without a way to it fails here."""
    for (file, found), _ in migrate._STEPS.items():
        assert found in MADE[file], f"no fixture makes {file} of format {found}"
    assert {("home.db", n) for n in range(1, home_db.USER_VERSION)} <= set(migrate._STEPS)
    assert {("ledger", n) for n in range(1, ledger.VERSION)} <= set(migrate._STEPS)
    assert {("keys/backup.pub", n) for n in range(1, backup.KEY_VERSION)} <= set(migrate._STEPS)
