"""Checking all that a home holds: every byte of every pack, every manifest, every commitment.

Each thing that is wrong becomes a finding with its place; nothing stops the check.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from idao.crypto.merkle import Leaves
from idao.errors import IdaoError
from idao.frozen import frozen
from idao.manifest import (
    CHUNKS,
    FILE,
    FILES,
    FOLDER_ROOT,
    HOLE,
    LINK,
    ChunkRef,
    FileEntry,
    content_root,
    hole_hash,
    link_root,
    show_path,
)
from idao.store import wal
from idao.store.home_db import CHUNK, SUMMED, damaged, open_home_db
from idao.store.packs import SUFFIX
from idao.store.seal import WRAP_SECRET, unwrap

if TYPE_CHECKING:
    from idao.store.contents import Contents
    from idao.store.intake import Meter, Progress

_SCHEMA = "select name, type, tbl_name, sql from sqlite_master"


@frozen
class Finding:
    """Something that `check` found wrong."""

    where: str
    """A pack, a version, a file of a version, or the index."""
    what: str


def check(contents: Contents, progress: Progress | None) -> list[Finding]:
    """What is wrong with this home's contents; an empty list when nothing is."""
    from idao.store.intake import Meter

    try:
        out = [Finding("home.db", what) for what in _database(contents)]
        count, size = contents.db.execute("select count(*), coalesce(sum(stored), 0) from chunk").fetchone()
        meter = Meter(progress, count, size)
        # Of the chunks that are sound: their part hashes, from which the content roots are recomputed, and
        # the hashes of their sealed bytes, as manifests name them.
        contents.db.execute(
            "create temp table part(id blob primary key, hash blob, sealed blob) without rowid"
        )
        try:
            out += [Finding(where, what) for where, what in _packs(contents)]
            out += [Finding(where, what) for where, what in _chunks(contents, meter)]
            for ref in contents.versions():
                out += [Finding(where, what) for where, what in _version(contents, ref)]
        finally:
            contents.db.execute("drop table part")
    except (sqlite3.Error, UnicodeDecodeError) as e:  # the latter: damage inside SQLite's own messages
        out = [Finding("home.db", damaged(contents.home / "home.db", e).message)]
    else:
        meter.end()
    return out


def _database(contents: Contents) -> Iterator[str]:
    """What is wrong with home.db itself: pages, schema, rows that are not as they were written."""
    db = contents.db
    if what := wal.wrong(contents.home / "home.db"):
        yield what
    for (line,) in db.execute("pragma integrity_check(10)"):
        if line != "ok":
            yield str(line)
    for table, _, parent, _ in db.execute("pragma foreign_key_check"):
        yield f"a row of table {table} has none in {parent}"
    with closing(open_home_db(":memory:")) as fresh:
        expected, found = (set(one.execute(_SCHEMA)) for one in (fresh, db))
    for name in sorted({str(name) for name, *_ in expected ^ found}):
        yield f"the schema of {name} differs from what this version makes"
    for table, columns in SUMMED.items():
        where = f"sum is not row_sum('{table}', {', '.join(columns)})"
        for (key,) in db.execute(f"select {columns[0]} from {table} where {where}"):
            shown = key.hex()[:12] if isinstance(key, bytes) else key
            yield f"a row of table {table} ({shown}) is not as it was written"
    for number, wrapped in db.execute("select id, key from secret"):
        try:
            unwrap(contents.keys.wrapping, wrapped, WRAP_SECRET)
        except IdaoError:
            yield f"the secret of an intake ({number}) does not open"


def _packs(contents: Contents) -> Iterator[tuple[str, str]]:
    known = dict(contents.db.execute("select name, size from pack"))
    begun = {row[0] for row in contents.db.execute("select prefix from intake")}
    for path in sorted(contents.folder.iterdir()) if contents.folder.is_dir() else ():
        name = path.name.removesuffix(SUFFIX)
        size = known.pop(name, None)
        if size is None and name.rsplit("-", 2)[0] not in begun:
            yield f"packs/{path.name}", "is not in the index"
        elif size is not None and path.stat().st_size != size:
            yield f"packs/{path.name}", f"has {path.stat().st_size} bytes instead of {size}"
    # Of a pack whose chunks are all forgotten the file goes first: a crash leaves the row to the next intake.
    used = {
        row[0] for row in contents.db.execute("select name from pack where id in (select pack from chunk)")
    }
    for name in known.keys() & used:
        yield f"packs/{name}{SUFFIX}", "is missing"


def _chunks(contents: Contents, meter: Meter) -> Iterator[tuple[str, str]]:
    sound, insert = [], "insert or ignore into part values(?, ?, ?)"
    for row in contents.db.execute(f"{CHUNK} where name is not null order by pack, offset"):
        chunk_id, pack, offset, stored, size, form, sealed, wrapped, secret = row
        where, blamed = f"packs/{pack}{SUFFIX} chunk {chunk_id.hex()[:12]}", "home.db: {}"
        try:
            key = contents.key_of(chunk_id, sealed, wrapped, secret)
            # Such a row has no sum: place, size or hash may be wrong in it.
            blamed = "{}, or its row in home.db is wrong"
            ref = ChunkRef(chunk_id, key, sealed or b"", size, stored, form)
            _, h, its_hash = contents.open_chunk(pack, offset, ref)
            sound.append((chunk_id, h, its_hash))
            if len(sound) == 10_000:
                contents.db.executemany(insert, sound)
                sound.clear()
        except IdaoError as e:
            yield where, blamed.format(e.message)
        meter.file(stored)
    contents.db.executemany(insert, sound)


def _version(contents: Contents, ref: bytes) -> Iterator[tuple[str, str]]:
    where = f"version {ref.hex()[:12]}"
    try:
        version = contents.open_manifest(ref)
    except IdaoError as e:
        yield where, f"home.db: {e.message}"  # manifests and their keys are rows of it
        return
    try:
        leaves, sealed, size = Leaves(FILES), Leaves(CHUNKS), 0
        for entry, parts in version.files():
            leaves.extend([entry.leaf_of(parts)])
            sealed.extend([part.sealed for part in parts if part.form != HOLE])
            size += entry.size
            if what := _entry(contents, entry, parts):
                yield f"{where} file {show_path(entry.path)}", what
        head = version.head
        if (leaves.root(), sealed.root(), size) != (head.root, head.chunk_root, head.size):
            yield where, "the entries do not lead to the roots of the manifest"
    except IdaoError as e:
        yield where, e.message


def _entry(contents: Contents, entry: FileEntry, parts: list[ChunkRef]) -> str:
    """What is wrong with one entry, or an empty string."""
    if entry.kind == LINK:
        good = entry.content_root == link_root(entry.secret, entry.target)
        return "" if good else "the link is not what was committed to"
    if entry.kind != FILE:
        return "" if entry.content_root == FOLDER_ROOT else "the folder is not what was committed to"
    hashes = []
    for part in parts:
        if part.form == HOLE:
            hashes.append(hole_hash(part.size))
            continue
        row = contents.db.execute("select hash, sealed from part where id=?", (part.id,)).fetchone()
        if row is None or row[1] != part.sealed:
            return "a chunk is missing or damaged"
        hashes.append(row[0])
    good = content_root(entry.secret, hashes) == entry.content_root and entry.size == sum(
        p.size for p in parts
    )
    return "" if good else "the content is not what was committed to"
