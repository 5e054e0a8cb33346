"""A flipped bit in any file of a home is found by `asset check` or `audit`, and the file is named."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from cli_world import must, run, settled
from conftest import Lived
from test_migrate import age

from idao import noderecord
from idao.crypto.keys import Signer
from idao.node import peerbook, tls
from idao.store import home_db

RANDOM = 5


@pytest.fixture
def rich(lived: Lived) -> Lived:
    """With members, petnames, collateral, something waiting and something freed."""
    home = lived.path
    must("member", "add", "cleo", home=home)
    must("name", "add", "bob", "idao:" + "b" * 51 + "a", home=home)
    must("backup", "create", "-o", home.with_name("b.idao-backup"), home=home)
    vendor = Path(__file__).parent / "vectors/tee/intel-collateral/tdx-00806F050000-2025-10.json"
    must("tee", "collateral", "import", vendor, home=home)
    with closing(home_db.open_home_db(home / "home.db")) as db:
        db.execute(home_db.summed("outbox"), (b"t" * 32, b"q" * 32, b"e", b"s", 1, "expired", 1))
        db.execute("pragma wal_checkpoint(truncate)")
    for path in [home / "home.db", *(home / "ledgers").glob("*.db")]:
        with closing(sqlite3.connect(path)) as db:
            db.execute("pragma wal_checkpoint(truncate)")
    return lived


@pytest.fixture
def whole(rich: Lived) -> Lived:
    """And with every other file that a home may have."""
    home, ledger = rich.path, next((rich.path / "ledgers").glob("*.db"))
    age(home)
    must("migrate", home=home)
    must("tee", "attest", "--simulated", home=home)
    seat = Signer(bytes(32))
    record = noderecord.make(seat, bytes(32), bytes(32), b"tls", ("10.0.0.1:4711",), 5)
    peerbook.write(ledger, [record], [bytes(32)])
    tls.identity(home)
    with closing(sqlite3.connect(ledger)) as db:
        db.execute("pragma wal_checkpoint(truncate)")
    return rich


def test_every_bit_of_a_book_of_peers_counts(tmp_path: Path) -> None:
    ledger, idao = tmp_path / "x.db", bytes(range(32))
    record = noderecord.make(Signer(bytes(32)), bytes(32), idao, b"tls", ("10.0.0.1:4711",), 5)
    peerbook.write(ledger, [record], [idao, bytes(32)])
    data = peerbook.path_of(ledger).read_bytes()
    assert peerbook.is_sound(data) and peerbook.whole(ledger) == {idao}
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not peerbook.is_sound(bytes(flipped)), bit


def content(path: Path) -> object:
    """What a file says: of a database its rows and schema, of any other its bytes."""
    if path.suffix != ".db":
        return path.read_bytes()
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as db:
            schema = db.execute("select type, name, sql from sqlite_master order by name").fetchall()
            tables = [name for kind, name, _ in schema if kind == "table"]
            rows = [db.execute(f'select * from "{name}"').fetchall() for name in tables]
            pragmas = [db.execute(f"pragma {p}").fetchone() for p in ("user_version", "integrity_check")]
            return schema, rows, pragmas
    except (sqlite3.Error, UnicodeDecodeError):
        return None


def files(home: Path) -> Iterator[Path]:
    for path in sorted(home.rglob("*")):
        if path.is_file() and path.stat().st_size and not path.name.endswith(("-shm", "-wal")):
            yield path


def found(home: Path, path: Path) -> str:
    """All that the two commands say, if one of them says that something is wrong."""
    words = ["audit"] if path.parent.name == "ledgers" and path.suffix == ".db" else ["asset", "check"]
    ran = run(*words, home=home)
    assert "Traceback" not in ran.err and ran.code in (0, 1, 2, 4, 6, 9), (path, ran)
    return "" if ran.code == 0 else ran.out + ran.err


def named(path: Path, home: Path) -> list[str]:
    """Words one of which says which file it is."""
    if path.suffix == ".pack":
        return [path.stem]
    if path.suffix == ".key":
        return [path.stem.removesuffix(".key"), path.name]
    if path.parent.name == "ledgers" and path.suffix == ".db":
        return ["file", "block", "schema", "genesis", "meta", "journal", path.stem, "account", "member", ""]
    if path.parent.name == "before-migration":
        return [path.name.removesuffix(".sha256")]
    return {"home.db": ["home.db", "version", "index", "packs/"]}.get(path.name, [path.name])


def flip(home: Path, path: Path, bits: list[int]) -> int:
    """How many of these flips changed what the file says. Each such is found, and the file named."""
    raw, sound, changed = path.read_bytes(), content(path), 0
    for bit in bits:
        bad = bytearray(raw)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        if content(path) != sound:
            changed += 1
            said = found(home, path)
            assert said, f"{path.relative_to(home)}: bit {bit % 8} of byte {bit // 8} was not found"
            assert any(word in said for word in named(path, home)), f"{path.relative_to(home)}: {said}"
        for extra in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                Path(f"{path}{extra}").unlink()
    path.write_bytes(raw)
    return changed


def test_some_bits_of_every_file(whole: Lived) -> None:
    rich, chance = whole, random.Random(RANDOM)
    seen = set()
    for path in files(rich.path):
        bits = path.stat().st_size * 8
        changed = flip(rich.path, path, [chance.randrange(bits) for _ in range(6 if bits < 40_000 else 12)])
        assert changed or path.suffix == ".db", path
        seen.add(path.name if path.parent == rich.path else path.parent.name)
    assert seen >= {"config.toml", "home.db", "keys", "members", "ledgers", "packs", "tee"}
    assert seen >= {"tls", "before-migration"}
    assert run("asset", "check", home=rich.path).code == 0


@pytest.mark.slow
def test_many_bits_of_every_file(whole: Lived) -> None:
    rich, chance = whole, random.Random(RANDOM + 1)
    for path in files(rich.path):
        bits, small = path.stat().st_size * 8, path.stat().st_size < 1000
        flip(rich.path, path, [chance.randrange(bits) for _ in range(50 if small else 30)])


def left_by_a_kill(path: Path) -> bytes:
    """The log of a database whose process was killed after some commits; taken to the end by nobody."""
    log = path.with_name(f"{path.name}-wal")
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("pragma wal_autocheckpoint = 0")
    for n in range(6):
        db.execute("update meta set value = zeroblob(?) where key = 'none'", (n,))
        db.execute("create table if not exists spare (n)")
        db.execute("insert into spare values (?)", (n,))
    kept = log.read_bytes()
    db.close()
    return kept


@pytest.mark.parametrize("what", ["home.db", "ledger"])
def test_bits_of_a_log_left_by_a_kill(lived: Lived, what: str) -> None:
    """Whatever it says that is lost, but for the last transaction, where a power cut looks the same."""
    path = lived.path / what if what == "home.db" else next((lived.path / "ledgers").glob("*.db"))
    sound, log = path.read_bytes(), path.with_name(f"{path.name}-wal")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("pragma journal_mode = wal")
        db.execute("create table meta (key, value)") if what == "home.db" else None
        db.execute("pragma wal_checkpoint(truncate)")
    sound, chance = path.read_bytes(), random.Random(RANDOM)
    raw = left_by_a_kill(path)
    frame = 24 + int.from_bytes(raw[8:12], "big")
    before_last = len(raw) - 3 * frame
    for n in range(14):
        bad, bit = bytearray(raw), chance.randrange(before_last * 8) if n else 100
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(sound)
        log.write_bytes(bad)
        ran = run(*(["audit"] if what == "ledger" else ["asset", "check"]), home=lived.path)
        assert ran.code == 6 and "its log is damaged" in ran.out, (bit, ran)
        for extra in ("-wal", "-shm"):
            Path(f"{path}{extra}").unlink(missing_ok=True)
    path.write_bytes(sound)


def test_a_ledger_that_lost_blocks_signs_nothing_in_their_place(lived: Lived, quarantine: None) -> None:
    """Its last transaction was in a damaged log: home.db knows how far it had come."""
    path = next((lived.path / "ledgers").glob("*.db"))
    must("key", "phrase", "--out", lived.path.with_name("words"), home=lived.path)
    must("account", "issue", "1", home=lived.path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("pragma wal_checkpoint(truncate)")
    shorter = path.read_bytes()
    must("account", "issue", "2", home=lived.path)
    settled()  # connections of the commands before
    for extra in ("-wal", "-shm"):
        Path(f"{path}{extra}").unlink(missing_ok=True)
    path.write_bytes(shorter)
    assert run("audit", home=lived.path).out.startswith("end: its newest blocks are lost")
    ran = run("account", "issue", "3", "--json", home=lived.path)
    assert (ran.code, ran.error["code"]) == (6, "rolled-back")
    ran = run("account", "issue", "3", "--json", home=lived.path)
    assert (ran.code, ran.error["code"]) == (5, "quarantine")
    must("quorum", "recover", "--phrase-file", lived.path.with_name("words"), home=lived.path)
    must("account", "issue", "3", home=lived.path)
    must("audit", home=lived.path)


@pytest.mark.slow
def test_many_bits_of_the_home_database(rich: Lived) -> None:
    """Bits of the rows: most of the file is free space."""
    chance, path = random.Random(RANDOM + 2), rich.path / "home.db"
    raw = path.read_bytes()
    used = [i for i in range(len(raw)) if raw[i]]
    changed = flip(rich.path, path, [chance.choice(used) * 8 + chance.randrange(8) for _ in range(200)])
    assert changed > 100


@pytest.mark.parametrize("table", sorted(home_db.SUMMED))
def test_every_column_under_a_sum(rich: Lived, table: str) -> None:
    """A row changed behind idao's back is named with its table."""
    path = rich.path / "home.db"
    columns = home_db.SUMMED[table]
    with closing(home_db.open_home_db(path)) as db:
        if not db.execute(f"select 1 from {table}").fetchone():
            kinds = {"prefix": "made-up", "pack": 1, "offset": 0, "size": 1, "begun_ms": 1}
            db.execute(home_db.summed(table), [kinds[c] for c in columns])
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        rows = db.execute(f"select * from {table}").fetchall()
        for column in columns:
            kind = db.execute(f"select typeof({column}) from {table}").fetchone()[0]
            other = {"text": "'other'", "integer": "77"}.get(kind, "x'00'")
            assert db.execute(f"update or ignore {table} set {column} = {other}").rowcount
            ran = run("asset", "check", home=rich.path)
            assert ran.code == 6 and f"table {table} " in ran.out, (column, ran)
            db.execute(f"delete from {table}")
            db.executemany(f"insert into {table} values ({', '.join('?' * len(rows[0]))})", rows)


def test_a_damaged_petname_stands_for_nobody(rich: Lived) -> None:
    with closing(sqlite3.connect(rich.path / "home.db", isolation_level=None)) as db:
        db.execute("update petname set id = zeroblob(32) where name = 'bob'")
    ran = run("account", "transfer", "bob", "1", "--unit", "me", "--json", home=rich.path)
    assert (ran.code, ran.error["code"]) == (6, "damaged")


def test_settings_edited_by_hand(lived: Lived) -> None:
    """Found, because damage looks the same; without the last line idao asks no more."""
    path = lived.path / "config.toml"
    edited = path.read_text().replace("[idao]", "wait = 7\n\n[idao]", 1)
    path.write_text(edited)
    ran = run("asset", "check", home=lived.path)
    assert ran.code == 6 and "config.toml: is not as idao wrote it" in ran.out
    path.write_text("".join(edited.splitlines(keepends=True)[:-1]))
    assert run("asset", "check", home=lived.path).code == 0
    must("config", "set", "wait", "20", home=lived.path)
    assert path.read_text().splitlines()[-1].startswith("# sum ")


def test_a_lost_key_of_a_member_is_not_replaced(lived: Lived) -> None:
    """The history beside it is that of an iDAO that the ledger knows."""
    must("member", "add", "cleo", home=lived.path)
    folder = lived.path / "keys" / "members"
    key, history = (folder / "cleo.key").read_bytes(), (folder / "cleo.history").read_bytes()
    (folder / "cleo.key").unlink()
    ran = run("member", "add", "cleo", "--json", home=lived.path)
    assert (ran.code, ran.error["code"]) == (6, "damaged")
    assert (folder / "cleo.history").read_bytes() == history
    (folder / "cleo.key").write_bytes(key)
    must("asset", "check", home=lived.path)
