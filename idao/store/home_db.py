"""`home.db`: what one home knows besides its ledgers. Opening, schema, version.

SQLite in WAL mode with synchronous FULL: a commit that returned survives a power cut. Times are
milliseconds UTC. What is secret in it is wrapped under the home's data key (`store.seal`).

A row that nothing else would check carries `sum`, the hash of its other columns (`row_sum`, a function of
every connection made here): SQLite itself does not notice a flipped bit in a value. Rows of `pack`, `chunk`,
`secret` and `asset_key` need none: reading the packs shows whether they are true.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from idao.crypto import canonical
from idao.crypto.hashing import Kind, digest
from idao.errors import IdaoError
from idao.home import sync_folder
from idao.store.opening import (
    APPLICATION_ID,
    check_owner,
    connect_reading,
    fold_log,
    hold_room,
    need_room,
    no_room,
    refusal,
)

USER_VERSION = 3
"""Format 1 had no sums; 1 and 2 had a wrapped key for each chunk. `store.migrate` leads from each to this."""
BUSY_SECONDS = 30
"""How long a statement waits for another process's short transaction."""

SCHEMA = """
-- Secrets of intakes: the keys of the chunks that an intake stored are keyed hashes of their ids under its
-- secret, until one of them is to be forgotten: then each other gets its key, wrapped, and the secret goes.
create table secret(
  id integer primary key,
  key blob not null                 -- wrapped, 72 bytes
) strict;

-- Packs: files under packs/, each a run of sealed chunks, written once and flushed before its row exists.
create table pack(
  id integer primary key,
  name text not null unique,        -- file name without the suffix
  size integer not null,            -- bytes
  secret integer references secret(id)  -- of the intake that wrote it; null: its chunks have wrapped keys
) strict;

-- The chunk index: where each sealed chunk lies.
create table chunk(
  id blob primary key,              -- keyed hash of the content, 32 bytes
  pack integer not null references pack(id),
  offset integer not null,          -- bytes from the start of the pack
  stored integer not null,          -- bytes sealed
  size integer not null,            -- bytes of content
  form integer not null,            -- how it is sealed: manifest.AEGIS ...
  sealed blob,                      -- hash of the sealed bytes, 32 bytes; null: small, hashed again
  key blob                          -- its key, wrapped; null: it follows from the secret
) without rowid, strict;

-- Space of forgotten chunks that is still to be given back to the file system.
create table freed(
  pack integer not null references pack(id),
  offset integer not null,
  size integer not null,            -- bytes
  sum blob not null,                -- row_sum of the above
  primary key(pack, offset)
) without rowid, strict;

-- Versions taken in. An asset of a ledger names one by its manifest commitment.
create table version(
  ref blob primary key,             -- manifest commitment, 32 bytes
  manifest blob not null,           -- the head, sealed under the asset key
  source blob,                      -- keyed hash of the paths it was taken from
  taken_ms integer not null,
  sum blob not null                 -- row_sum of the above
) without rowid, strict;
create index version_source on version(source, taken_ms);

-- Key ring: the random key of each version, wrapped. Deleting the row forgets the version.
create table asset_key(
  ref blob primary key,             -- manifest commitment, 32 bytes
  key blob not null                 -- wrapped, 72 bytes
) without rowid, strict;

-- Stat cache: what the file system said of each entry when the version was taken, sealed, in pages that
-- follow the order of the manifest.
create table scan(
  ref blob not null,
  page integer not null,
  entries blob not null,
  sum blob not null,                -- row_sum of the above
  primary key(ref, page)
) strict;

-- Intakes begun and not ended: their packs without a row are leftovers of a crash.
create table intake(
  prefix text primary key,          -- packs of this intake are named prefix-worker-number
  begun_ms integer not null,
  sum blob not null                 -- row_sum of the above
) without rowid, strict;

-- Signed transactions on their way into a ledger.
create table outbox(
  tx_id blob primary key,           -- 32 bytes
  quorum blob not null,             -- 32 bytes
  envelope blob not null,           -- canonical bytes
  signatures blob not null,         -- canonical list of signatures
  valid_until integer not null,     -- block time in ms after which it may not be ordered
  state text not null,              -- queued, sent, final, refused, expired
  added_ms integer not null,
  sum blob not null                 -- row_sum of the above
) without rowid, strict;
create index outbox_state on outbox(state, added_ms);

-- What stays at home of an asset version: card, terms, score card, fingerprint, with the salts of the
-- commitments on the ledger. Sealed under the home's data key.
create table document(
  asset blob not null,              -- 32 bytes
  version integer not null,         -- 0 for what belongs to the asset as a whole
  kind text not null,               -- nonce, manifest, card, policy, report, fingerprint
  salt blob not null,               -- of its commitment, 32 bytes; the manifest's own hash
  body blob not null,               -- wrapped
  sum blob not null,                -- row_sum of the above
  primary key(asset, version, kind)
) without rowid, strict;
create index document_salt on document(salt);

-- Local names for ids: the only names that resolve for recipients, members and trust.
create table petname(
  name text primary key,
  kind text not null,               -- idao, quorum, asset, ...
  id blob not null,                 -- 32 bytes
  sum blob not null                 -- row_sum of the above
) without rowid, strict;

-- When something last happened here: backup-made, backup-verified.
create table moment(
  what text primary key,
  at_ms integer not null,
  sum blob not null                 -- row_sum of the above
) without rowid, strict;
"""
CHUNK = (
    "select chunk.id, name, offset, stored, chunk.size, form, sealed, chunk.key, secret.key"
    " from chunk left join pack on pack = pack.id left join secret on pack.secret = secret.id"
)
"""Rows of the index, each with the name of its pack and what gives its key."""
SUMMED = {
    "freed": ("pack", "offset", "size"),
    "version": ("ref", "manifest", "source", "taken_ms"),
    "scan": ("ref", "page", "entries"),
    "intake": ("prefix", "begun_ms"),
    "outbox": ("tx_id", "quorum", "envelope", "signatures", "valid_until", "state", "added_ms"),
    "document": ("asset", "version", "kind", "salt", "body"),
    "petname": ("name", "kind", "id"),
    "moment": ("what", "at_ms"),
}
"""Tables whose rows carry a sum, with the columns under it."""


def row_sum(*values: bytes | str | int | None) -> bytes:
    """The `sum` of a row: hash of its table's name and its other columns, in their order."""
    return digest(Kind.HOME_ROW, canonical.encode(values))


def summed(table: str, verb: str = "insert") -> str:
    """The statement that writes a row of `table`: one parameter for each column under the sum."""
    places = ", ".join(f"?{n}" for n in range(1, len(SUMMED[table]) + 1))
    return f"{verb} into {table} values ({places}, row_sum('{table}', {places}))"


def resum(table: str) -> str:
    """What sets the sums of a table anew, to be followed by its `where`."""
    return f"update {table} set sum = row_sum('{table}', {', '.join(SUMMED[table])})"


def _with_sums(db: sqlite3.Connection) -> sqlite3.Connection:
    db.create_function("row_sum", -1, row_sum, deterministic=True)
    return db


def open_home_db(path: Path | str, *, readonly: bool = False) -> sqlite3.Connection:
    """Opens or creates a home.db (`:memory:` in tests). Autocommit: writers say `begin immediate`.

    With `readonly` nothing is written, and where there is no file an empty one is read.
    `IdaoError` with code `foreign`, `newer` or `damaged` when it is none of ours, of a later idao, or broken.
    """
    if readonly and path != ":memory:":
        if not os.path.exists(path):
            return open_home_db(":memory:")
        try:
            db = _with_sums(connect_reading(Path(path), BUSY_SECONDS))
        except (sqlite3.Error, UnicodeDecodeError) as e:
            raise refusal(e, Path(path)) from e
        try:
            check_owner(db, Path(path), USER_VERSION)
        except BaseException:
            db.close()
            raise
        return db
    opened: sqlite3.Connection | None = None
    try:
        if path != ":memory:":
            need_room(Path(path))
            if not os.path.exists(path):
                _make(Path(path))
        opened = db = _with_sums(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None))
        if path == ":memory:":
            _create(db)
        check_owner(db, Path(path), USER_VERSION)
        if path != ":memory:":
            hold_room(Path(path))
        db.execute("pragma synchronous=full")
        db.execute("pragma secure_delete=on")  # a destroyed key must not linger in a free page
    except BaseException as e:
        if opened is not None:
            opened.close()
        if isinstance(e, sqlite3.DatabaseError | UnicodeDecodeError):
            raise refusal(e, Path(path)) from e
        raise
    return db


def _make(path: Path) -> None:
    """A new file. It appears whole: it is made aside and linked, unless another process was faster."""
    aside = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        os.close(os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(aside, isolation_level=None)) as db:
            db.execute("pragma journal_mode=wal")  # kept in the file
            _create(db)
            fold_log(db)
        try:
            os.link(aside, path)
        except OSError:  # it is there by now, or the file system knows no links
            if not path.exists():
                os.replace(aside, path)
        sync_folder(path.parent)
    except OSError as e:
        raise no_room(e, path) or IdaoError(f"cannot make {path}: {e.strerror}", code="disk") from e
    finally:
        for extra in ("", "-wal", "-shm"):
            Path(f"{aside}{extra}").unlink(missing_ok=True)


def _create(db: sqlite3.Connection) -> None:
    db.execute("begin immediate")
    for statement in SCHEMA.split(";\n"):
        if statement.strip():
            db.execute(statement)
    db.execute(f"pragma application_id={APPLICATION_ID}")
    db.execute(f"pragma user_version={USER_VERSION}")
    db.execute("commit")


def damaged(path: Path | str, error: Exception) -> IdaoError:
    """The refusal for what SQLite raised about this file."""
    return refusal(error, Path(path))
