"""Damage in packs, index and home.db is found and named; disks that will not lose nothing."""

from __future__ import annotations

import os
import sqlite3
import struct
from pathlib import Path

import pytest
import zstandard
from contents_world import KEY, contents, some_files, take

from idao import manifest as m
from idao.errors import Busy, IdaoError, VerificationFailed
from idao.store import chunks, packs, seal, version, walk
from idao.store.contents import Contents
from idao.store.home_db import SCHEMA, open_home_db, summed
from idao.store.outbox import Outbox

__all__ = ["contents", "some_files"]

# --- damage ------------------------------------------------------------------------------------------------


def test_every_flipped_byte_of_a_pack_is_found_and_named(contents: Contents, src: Path) -> None:
    (src / "a").write_bytes(os.urandom(600))
    ref = take(contents, src).ref
    (pack,) = contents.folder.iterdir()
    good = pack.read_bytes()
    for at in range(0, len(good), 37):
        pack.write_bytes(good[:at] + bytes([good[at] ^ 0x40]) + good[at + 1 :])
        found = contents.check()
        assert found and any(pack.name in f.where for f in found), f"byte {at}"
    pack.write_bytes(b"\xff" * 600 + good[600:])
    assert {"a"} <= {f.where.rpartition(" ")[2] for f in contents.check() if " file " in f.where}
    with pytest.raises(VerificationFailed):
        contents.read(ref, b"a")
    pack.write_bytes(good)
    assert contents.check() == []


def test_a_key_that_changed_in_the_index_is_not_blamed_on_its_pack(contents: Contents, src: Path) -> None:
    take(contents, src)
    (pack,) = contents.folder.iterdir()
    contents.db.execute("update chunk set key = zeroblob(72) where id = (select min(id) from chunk)")
    (about,) = [f.what for f in contents.check() if f.where.startswith(f"packs/{pack.name}")]
    assert about.startswith("home.db: ")
    pack.write_bytes(bytes(pack.stat().st_size))
    blamed = [f.what.startswith("home.db: ") for f in contents.check() if f.where.startswith("packs/")]
    assert blamed.count(True) == 1 and False in blamed


@pytest.mark.parametrize("which", ["sealed is null", "sealed is not null"])
def test_where_a_chunk_does_not_open_home_db_is_named_too(contents: Contents, src: Path, which: str) -> None:
    """Its row has no sum; so a flipped bit may be in either."""
    take(contents, src)
    one = f"select min(id) from chunk where {which}"
    contents.db.execute(f"update chunk set offset = offset + 1 where id = ({one})")
    (about,) = [f.what for f in contents.check() if f.where.startswith("packs/")]
    assert about.endswith("or its row in home.db is wrong")


def test_a_manifest_that_names_other_sealed_bytes_is_found(contents: Contents, src: Path) -> None:
    """As when a chunk is sealed anew, and an older version still names the former bytes."""
    take(contents, src / "sub")
    contents.db.execute("delete from chunk where size = 5000")
    take(contents, src / "sub" / "b")
    assert [f.where.partition(" file ")[2] for f in contents.check()] == ["b"]


def test_missing_cut_and_foreign_packs_are_named(contents: Contents, src: Path, tmp_path: Path) -> None:
    ref = take(contents, src).ref
    (pack,) = contents.folder.iterdir()
    (contents.folder / "stray.pack").write_bytes(b"?")
    assert [(f.where, f.what) for f in contents.check()] == [("packs/stray.pack", "is not in the index")]
    (contents.folder / "stray.pack").unlink()
    good = pack.read_bytes()
    pack.write_bytes(good[:-100])
    assert any(f.what.startswith("has ") for f in contents.check())
    pack.unlink()
    assert any(f.what == "is missing" for f in contents.check())
    with pytest.raises(VerificationFailed):
        contents.restore(ref, tmp_path / "out")
    assert not (tmp_path / "out/a").exists(), "no half file is left"


@pytest.mark.parametrize(
    "change",
    [
        "update chunk set offset = offset + 1",
        "update chunk set key = zeroblob(48)",
        "update chunk set key = zeroblob(72)",
        "update chunk set sealed = zeroblob(32)",
        "update secret set key = zeroblob(72)",
        "update pack set secret = secret + 1",
        "update pack set secret = null",
        "delete from secret",
        "insert into secret values(9, zeroblob(72))",
        "update chunk set id = randomblob(32)",
        "update chunk set size = size + 1",
        "update chunk set size = -1",
        "update chunk set stored = -1",
        "update chunk set offset = -1",
        "update chunk set form = 7 - form",
        "update chunk set pack = pack + 1",
        "delete from chunk",
        "delete from pack",
        "update version set manifest = zeroblob(9)",
        "update asset_key set key = zeroblob(72)",
        "update version set ref = zeroblob(32)",
        "delete from asset_key",
    ],
)
def test_every_change_of_the_index_is_found(contents: Contents, src: Path, change: str) -> None:
    take(contents, src)
    contents.db.execute(change)
    assert contents.check() != []


def test_a_lost_stat_cache_only_costs_time(contents: Contents, src: Path) -> None:
    first = take(contents, src)
    contents.db.execute("delete from scan")
    again = take(contents, src)
    assert again.unchanged and again.ref == first.ref and again.read_files == 3


def test_databases_that_are_not_ours(tmp_path: Path) -> None:
    def code(path: Path) -> str:
        with pytest.raises(IdaoError) as refusal:
            open_home_db(path)
        return refusal.value.code

    (tmp_path / "noise.db").write_bytes(os.urandom(5000))
    assert code(tmp_path / "noise.db") == "damaged"
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("create table t(x)")
    other.commit()
    assert code(tmp_path / "other.db") == "foreign"
    ours = open_home_db(tmp_path / "newer.db")
    ours.execute("pragma user_version=99")
    ours.close()
    assert code(tmp_path / "newer.db") == "newer"
    assert code(tmp_path) == "disk"
    assert code(tmp_path / "no" / "folder.db") == "disk"


def test_the_schema_is_documented_and_safe(tmp_path: Path) -> None:
    db = open_home_db(tmp_path / "home.db")
    assert db.execute("pragma journal_mode").fetchone()[0] == "wal"
    assert db.execute("pragma synchronous").fetchone()[0] == 2
    for (name,) in db.execute("select name from sqlite_master where type='table'").fetchall():
        assert f"create table {name}(" in SCHEMA
    open_home_db(tmp_path / "home.db").execute(summed("petname"), ("bob", "idao", b"0"))
    assert db.execute("select name from petname").fetchall() == [("bob",)]


def test_a_damaged_home_db_is_named_not_traced(contents: Contents, src: Path) -> None:
    take(contents, src)
    contents.close()
    path = contents.home / "home.db"
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    try:
        with Contents(contents.home, KEY) as after:
            assert after.check() != []
            with pytest.raises(IdaoError):
                take(after, src)
    except IdaoError as e:
        assert e.code == "damaged"


# --- a disk that will not ----------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_full_disk_refuses_and_loses_nothing(
    contents: Contents, src: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    kept = take(contents, src)
    (src / "big").write_bytes(os.urandom(12_000_000))
    monkeypatch.setattr(packs, "PACK_BYTES", 4_000_000)
    real, calls = packs._write, []

    def full(fd: int, data: memoryview) -> None:
        calls.append(len(data))
        if len(calls) > after:
            raise OSError(28, "No space left on device")
        real(fd, data)

    monkeypatch.setattr(packs, "_write", full)
    with pytest.raises(IdaoError, match="no space left") as refusal:
        take(contents, src)
    assert refusal.value.code == "disk-full"
    monkeypatch.setattr(packs, "_write", real)
    with Contents(contents.home, KEY) as later:
        assert later.versions() == [kept.ref]
        assert later.read(kept.ref, b"a") == (src / "a").read_bytes()
        assert take(later, src).files == 4 and later.check() == []


def test_a_full_database_is_reported_as_what_it_is(contents: Contents, src: Path) -> None:
    """SQLite has rolled back by itself then: that there is nothing to roll back must not be what is said."""
    take(contents, src)
    (src / "more").write_bytes(os.urandom(100))
    pages = contents.db.execute("pragma page_count").fetchone()[0]
    contents.db.execute(f"pragma max_page_count = {pages}")
    with (
        pytest.raises(IdaoError, match="the disk is full"),
        contents._sqlite(),
        contents.transaction(),
    ):
        contents.db.execute("insert into document values(?, 1, 'card', ?, zeroblob(100000), ?)", [KEY] * 3)
    assert not contents.db.in_transaction


def test_the_error_that_came_first_is_raised(contents: Contents) -> None:
    with pytest.raises(ValueError, match="first"), contents.transaction():
        contents.db.execute("rollback")
        raise ValueError("first")


def test_what_an_outbox_could_not_take_leaves_it_usable(contents: Contents) -> None:
    outbox = Outbox(contents.db, KEY)
    with pytest.raises(IdaoError):
        outbox.put([b"no transaction"], 1)
    with contents.transaction():
        assert not outbox.waiting()


def test_waiting_for_the_writer(contents: Contents, src: Path, tmp_path: Path) -> None:
    with contents._writing(), Contents(contents.home, KEY, wait_s=0.2) as other, pytest.raises(Busy):
        take(other, src)


def test_chunks_never_exceed_the_buffers() -> None:
    assert seal.CHUNK_BYTES_MAX + seal.TAG_MAX + packs.BLOCK <= packs.BUFFER_BYTES
    assert packs.BUFFER_BYTES % packs.BLOCK == 0
    assert chunks.READ_BYTES >= 2 * seal.CHUNK_BYTES_MAX
    assert m.PAGE_BYTES + 2 * m.PATH_MAX + 1000 < seal.CHUNK_BYTES_MAX


def test_stamps_come_back_place_by_place_or_one_after_the_other() -> None:
    paths = [b"a", b"b/c", b"d" * 300]
    stamps = [os.urandom(walk.PRINT_BYTES) for _ in paths]
    page = version.pack_scan(paths, stamps)
    as_before = struct.pack(">I", 3) + zstandard.compress(b"".join(stamps) + b"\0".join(paths))
    for written in (page, as_before):
        assert list(version.unpack_scan(written)) == list(zip(paths, stamps, strict=True))
    alone = version.pack_scan(paths[:1], stamps[:1])
    assert list(version.unpack_scan(alone)) == [(paths[0], stamps[0])]


def test_rows_count_once_their_packs_are_durable(contents: Contents, tmp_path: Path) -> None:
    row = packs.INDEX_ROW.pack(os.urandom(32), bytes(32), 0, 40, 50, 1)

    def full() -> None:
        raise IdaoError("no space left", code="disk-full")

    def seen() -> int:
        with Contents(contents.home, KEY, readonly=True) as other:
            return int(other.db.execute("select count(*) from chunk").fetchone()[0])

    with pytest.raises(IdaoError, match="no space left"):
        contents.index([packs.Pack("a", 0, [row])], full)
    assert not seen() and not contents.db.in_transaction
    while_flushed: list[int] = []
    contents.index([packs.Pack("a", 0, [row])], lambda: while_flushed.append(seen()))
    assert (while_flushed, seen()) == ([0], 1)


def test_the_index_fills_its_pages(contents: Contents) -> None:
    large = seal.SEALED_KEPT + 1
    stored = [4000 if i % 50 else large for i in range(10_000)]
    rows = [(os.urandom(32), os.urandom(32), i * 5000, n, 20_000, 1) for i, n in enumerate(stored)]
    (before,) = contents.db.execute("pragma page_count").fetchone()
    packed = [packs.INDEX_ROW.pack(*row) for row in rows]
    contents.index([packs.Pack("a", 0, packed[:6000]), packs.Pack("b", 0, packed[6000:])])
    contents.index([packs.Pack("again", 0, packed[:20])])
    found = contents.db.execute(
        "select chunk.id, name, offset, sealed from chunk join pack on pack = pack.id"
    )
    expected = sorted(
        (r[0], "a" if r[2] < 30_000_000 else "b", r[2], r[1] if r[3] == large else None) for r in rows
    )
    assert sorted(found) == expected, "all are there, once"
    (after,) = contents.db.execute("pragma page_count").fetchone()
    assert after - before < 1.07 * 10_000 * 56 / 4096, "put in in order alone they take 1.12"
