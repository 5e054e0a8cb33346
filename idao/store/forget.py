"""Forgetting a version: keys first, in one transaction; then the space, which may take its time.

What no remaining version refers to goes: its keys are overwritten, wrapped ones and the secrets that others
follow from, so its sealed bytes mean nothing, and their place is noted in table `freed` until the file system
has it back. What stays of an intake whose secret goes gets keys of its own, wrapped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from idao.errors import VerificationFailed
from idao.store.home_db import CHUNK
from idao.store.packs import SUFFIX, punch, sync_folder
from idao.store.seal import WRAP_KEY, wrap

if TYPE_CHECKING:
    from idao.store.contents import Contents


MARKED_AT_ONCE = 4096
"""Rows of a manifest held in memory while the live chunks are noted."""


class Needed(VerificationFailed):
    """What another version needs cannot be told, so nothing is destroyed."""

    def __init__(self, ref: bytes, error: VerificationFailed) -> None:
        self.ref = ref
        what = f"nothing is destroyed: another version is damaged ({error.message})"
        super().__init__(what, code=error.code)


DEAD = "chunk where id not in (select id from live)"


def forget(contents: Contents, refs: Sequence[bytes]) -> int:
    """Called under the writer's lock. Returns the bytes of sealed chunks freed."""
    db = contents.db
    _mark_all_but(contents, refs)
    with contents.transaction():
        freed = _dead_bytes(contents)
        db.execute(
            "insert or ignore into freed"
            f" select pack, offset, stored, row_sum('freed', pack, offset, stored) from {DEAD}"
        )
        _give_up_secrets(contents)
        db.execute(f"delete from {DEAD}")
        for table in ("asset_key", "version", "scan"):
            db.executemany(f"delete from {table} where ref=?", [(ref,) for ref in refs])
    # The write-ahead log still holds the keys: fold it into the database and cut it.
    db.execute("pragma wal_checkpoint(truncate)")
    db.execute("drop table live")
    reclaim(contents)
    return freed


def _give_up_secrets(contents: Contents) -> None:
    """Destroys the secrets from which the keys of dead chunks follow, for good or with those of others."""
    db = contents.db
    its = f"select secret from pack where id in (select pack from {DEAD} and key is null)"
    given_up = db.execute(f"select id, key from secret where id in ({its})").fetchall()
    for number, secret in given_up:
        stay = (
            f"{CHUNK} where pack in (select id from pack where secret = ?) and chunk.key is null"
            " and chunk.id in (select id from live) and chunk.id > ? order by chunk.id limit ?"
        )
        last = b""
        while rows := db.execute(stay, (number, last, MARKED_AT_ONCE)).fetchall():
            last = rows[-1][0]
            keys = [(row[0], contents.key_of(row[0], None, None, secret)) for row in rows]
            wrapped = [(wrap(contents.keys.wrapping, key, WRAP_KEY + i), i) for i, key in keys]
            db.executemany("update chunk set key=? where id=?", wrapped)
        db.execute("update pack set secret = null where secret=?", (number,))
        db.execute("delete from secret where id=?", (number,))


def freed_by(contents: Contents, refs: Sequence[bytes]) -> int:
    """Bytes of sealed chunks that `forget` would free."""
    _mark_all_but(contents, refs)
    freed = _dead_bytes(contents)
    contents.db.execute("drop table live")
    return freed


def _dead_bytes(contents: Contents) -> int:
    return int(contents.db.execute(f"select coalesce(sum(stored), 0) from {DEAD}").fetchone()[0])


def _mark_all_but(contents: Contents, refs: Sequence[bytes]) -> None:
    """Notes in the table `live` every chunk that a version other than `refs` needs."""
    contents.db.execute("create temp table if not exists live(id blob primary key) without rowid")
    contents.db.execute("delete from live")
    for other in contents.versions():
        if other not in refs:
            try:
                _mark(contents, other)
            except VerificationFailed as e:
                raise Needed(other, e) from e


def _mark(contents: Contents, ref: bytes) -> None:
    """Notes every chunk that a version needs, the pages of its manifest included."""
    version = contents.open_manifest(ref)
    insert = "insert or ignore into live values(?)"
    contents.db.executemany(insert, [(page.id,) for page in version.page_chunks()])
    for at in range(0, version.head.chunks, MARKED_AT_ONCE):
        some = version.chunks(at, min(MARKED_AT_ONCE, version.head.chunks - at))
        contents.db.executemany(insert, [(p.id,) for p in some])


def reclaim(contents: Contents) -> None:
    """Gives the space of forgotten chunks back. Safe to repeat: pack space is never used twice."""
    db = contents.db
    for pack, name in db.execute(
        "select id, name from pack where id not in (select pack from chunk)"
    ).fetchall():
        (contents.folder / (name + SUFFIX)).unlink(missing_ok=True)
        with contents.transaction():
            db.execute("delete from freed where pack=?", (pack,))
            db.execute("delete from pack where id=?", (pack,))
    # A row that is not as it was written must free nothing: what it names may be in use.
    sound = "freed.sum = row_sum('freed', freed.pack, offset, freed.size)"
    query = f"select name, offset, freed.size from freed join pack on freed.pack = pack.id where {sound}"
    for name, offset, size in db.execute(query).fetchall():
        path = contents.folder / (name + SUFFIX)
        if os.path.exists(path):
            punch(path, offset, size)
    sync_folder(contents.folder)
    with contents.transaction():
        db.execute(f"delete from freed where {sound}")
