"""Contents on disk: taking in, reading, checking and forgetting, for one home.

A crash at any point leaves a store that opens: packs are durable before index rows name them, rows commit
in transactions, and a version exists once its row does. What a crash leaves half done costs space until the
next intake clears it, never data.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from idao.crypto import canonical
from idao.errors import Busy, NotFound, VerificationFailed
from idao.manifest import ChunkRef, Manifest, manifest_hash, pack_chunk, part_hash
from idao.store.forget import forget, freed_by, reclaim
from idao.store.home_db import CHUNK, damaged, open_home_db, summed
from idao.store.intake import Intake, Listener, Meter, Progress, Unreadable, take_in
from idao.store.opening import atomic, empty_log
from idao.store.packs import INDEX_NUMBERS, INDEX_ROW, SUFFIX, Pack, PackReader, disk_error, sync_folder
from idao.store.seal import (
    CHUNK_BYTES_MAX,
    SEALED_KEPT,
    TAG_MAX,
    WRAP_SECRET,
    ChunkSealer,
    StoreKeys,
    chunk_key,
    manifest_open,
    manifest_seal,
    sealed_hash,
    source_of,
    unwrap,
    unwrap_key,
    wrap,
)
from idao.store.version import Version, unpack_scan
from idao.store.walk import Walk

if TYPE_CHECKING:
    from idao.store.check import Finding

WRAP_ASSET = b"asset key"
WRAP_SCAN = b"scan"
LOCK_POLL_S = 0.05
INDEXED_LAST = 11
"""SQLite leaves a page of rows that come in order nine tenths full. One row of this many is put in after the
others, and fills them: the index takes a tenth less space, and no more time."""
INDEX_CACHE_KIB = 4096
"""Twice SQLite's own: the rows of two full packs are put in without writing a page before the commit."""
INSERTED = 64
"""Rows of the index that one statement puts in: it takes two thirds of the time of one for each."""

__all__ = ["Contents", "Intake", "Progress", "Unreadable"]


class Contents:
    """The contents of one home. For one thread; one process may write at a time, any number may read."""

    def __init__(
        self,
        home: Path,
        data_key: bytes,
        *,
        wait_s: float = 0,
        direct: bool = True,
        readonly: bool = False,
    ) -> None:
        """Opens or creates them. `wait_s`: how long to wait for another writer before `Busy`.

        `direct=False` writes through the page cache. With `readonly` nothing is made or changed.
        """
        self.home = home
        self.keys = StoreKeys(data_key)
        self.folder = home / "packs"
        self.direct = direct
        self._wait_s, self._readonly = wait_s, readonly
        if not readonly:
            try:
                if not self.folder.exists():
                    self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                    sync_folder(home)
            except OSError as e:
                raise disk_error(e, f"cannot use {self.folder}") from e
        self.db = open_home_db(home / "home.db", readonly=readonly)
        self._reader = PackReader(self.folder)
        self.sealer = ChunkSealer()
        self._intake: tuple[bytes, int | None] | None = None
        """The secret of the intake that runs here, and its number once packs need it."""
        self._secrets: dict[bytes, bytes] = {}
        """Wrapped, unwrapped."""

    def close(self) -> None:
        self._reader.close()
        if not self._readonly:
            empty_log(self.db)
        self.db.close()

    def __enter__(self) -> Contents:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- taking in ---------------------------------------------------------------------------------------

    def measure(self, paths: Sequence[bytes]) -> tuple[int, int, Walk]:
        """(files, bytes) that `take_in` would find, and the finished walk: what it leaves out and why."""
        files = size = 0
        walk = self._walk(paths)
        for found in walk:
            files, size = files + 1, size + found.size
        return files, size, walk

    def last_from(self, paths: Sequence[bytes]) -> bytes | None:
        """The version last taken from these very paths: what `take_in` wants as `previous`."""
        with self._sqlite():
            row = self.db.execute(
                "select ref from version where source=? order by taken_ms desc, ref limit 1",
                (self._source(paths),),
            ).fetchone()
        return None if row is None else bytes(row[0])

    def take_in(
        self,
        paths: Sequence[bytes],
        previous: bytes | None = None,
        progress: Progress | None = None,
        *,
        skip_unreadable: bool = False,
        meanwhile: Iterator[None] | None = None,
        listener: Listener | None = None,
    ) -> Intake:
        """Stores files, folders or `-` (standard input) as one version; durable when it returns.

        Files that have not changed since `previous` are not opened and keep their leaves. `meanwhile` is work
        that may be done in pieces while worker processes read, or not at all. `listener` is told of the
        entries, unless nothing at all has changed. Refusals: `Unreadable`, `Busy`, `NotFound`, `UsageError`
        (store.walk), `IdaoError` (`disk-full`, `disk`).
        """
        with self._writing(), self._sqlite():
            total = self.measure(paths)[:2] if progress else (0, 0)
            meter = Meter(progress, *total)
            return take_in(
                self,
                paths,
                self._walk(paths, see=previous is not None),
                previous,
                meter,
                skip_unreadable,
                meanwhile or iter(()),
                listener,
            )

    # What an intake writes besides packs:

    def begin_intake(self) -> tuple[str, bytes]:
        """Clears what crashed intakes left; what the packs of a new one are called, and its secret."""
        self.db.execute(f"pragma cache_size = -{INDEX_CACHE_KIB}")
        if self.db.execute("select 1 from freed limit 1").fetchone():
            reclaim(self)
        crashed = [row[0] for row in self.db.execute("select prefix from intake")]
        if crashed:
            known = {row[0] for row in self.db.execute("select name from pack")}
            for path in self.folder.iterdir():
                name = path.name.removesuffix(SUFFIX)
                if name not in known and name.rsplit("-", 2)[0] in crashed:
                    path.unlink(missing_ok=True)
        prefix, secret = os.urandom(8).hex(), os.urandom(32)
        with self.transaction():
            self.db.execute("delete from intake")
            self.db.execute(summed("intake"), (prefix, _now_ms()))
        self._intake = secret, None
        return prefix, secret

    def index(self, packs: Iterable[Pack], durable: Callable[[], object] | None = None) -> None:
        """Makes packs known, in one transaction and in the order of ids: no page is written twice.

        `durable()` returns once they are, if they are not yet; their rows count from then on.
        """
        if not (packs := list(packs)):
            return
        rows: list[tuple[bytes | int | None, ...]] = []
        with self.transaction():
            secret = self._secret_number()
            for pack in packs:
                insert = "insert into pack(name, size, secret) values(?, ?, ?)"
                number = self.db.execute(insert, (pack.name, pack.size, secret)).lastrowid
                joined, each = b"".join(pack.rows), INDEX_ROW.size
                starts = range(0, len(joined), each)
                plain = zip(starts, INDEX_NUMBERS.iter_unpack(joined), strict=True)
                rows += [
                    (joined[i : i + each], number, at, n, size, form) for i, (at, n, size, form) in plain
                ]
            rows.sort()
            last = rows[INDEXED_LAST - 1 :: INDEXED_LAST]
            del rows[INDEXED_LAST - 1 :: INDEXED_LAST]
            for part in rows, last:
                whole = len(part) // INSERTED * INSERTED
                groups = (part[i : i + INSERTED] for i in range(0, whole, INSERTED))
                together = (tuple(chain.from_iterable(group)) for group in groups)
                self.db.executemany(_put_chunks(INSERTED), together)
                self.db.executemany(_put_chunks(1), part[whole:])
            if durable is not None:
                durable()
        if self._intake is not None:  # now that it is committed
            self._intake = self._intake[0], secret

    def _secret_number(self) -> int | None:
        """The secret of this intake, written down with the first packs that need it; None: no intake runs."""
        if self._intake is None or self._intake[1] is not None:
            return self._intake and self._intake[1]
        wrapped = wrap(self.keys.wrapping, self._intake[0], WRAP_SECRET)
        return self.db.execute("insert into secret(key) values(?)", (wrapped,)).lastrowid

    def end_intake(self, prefix: str, ref: bytes, scan: list[bytes]) -> None:
        """Ends an intake that found nothing new: only the stat cache of the version is renewed."""
        with self.transaction():
            self._put_scan(prefix, ref, scan)

    def add_version(
        self, prefix: str, head: Manifest, scan: list[bytes], paths: Sequence[bytes]
    ) -> tuple[bytes, bytes]:
        """Ends an intake with a version: (ref, sealed manifest). After the commit it exists."""
        packed, asset_key = canonical.pack(head), os.urandom(32)
        ref, sealed = manifest_hash(packed), manifest_seal(asset_key, packed)
        wrapped = wrap(self.keys.wrapping, asset_key, WRAP_ASSET + ref)
        with self.transaction():
            row = (ref, sealed, self._source(paths), _now_ms())
            self.db.execute(summed("version"), row)
            self.db.execute("insert into asset_key values(?, ?)", (ref, wrapped))
            self._put_scan(prefix, ref, scan)
        return ref, sealed

    def _put_scan(self, prefix: str, ref: bytes, scan: list[bytes]) -> None:
        self.db.execute("delete from scan where ref=?", (ref,))
        self.db.executemany(
            summed("scan"),
            [(ref, i, wrap(self.keys.scan, page, WRAP_SCAN + ref)) for i, page in enumerate(scan)],
        )
        self.db.execute("delete from intake where prefix=?", (prefix,))

    def chunk_row(self, chunk_id: bytes) -> bytes | None:
        """A chunk of this home as a row of a manifest; None when it is not here. `VerificationFailed`: a
        small one is read, as the index has no hash of it."""
        row = self.db.execute(f"{CHUNK} where chunk.id=?", (chunk_id,)).fetchone()
        if row is None:
            return None
        _, pack, offset, stored, size, form, sealed, wrapped, secret = row
        key = self.key_of(chunk_id, sealed, wrapped, secret)
        try:
            if sealed is None:
                found = self._sealed(pack, offset, ChunkRef(chunk_id, key, b"", size, stored, form))
                self.sealer.unseal(form, key, chunk_id, size, found)
                sealed = sealed_hash(found)
            return pack_chunk(chunk_id, key, sealed, size, stored, form)
        except struct.error as e:
            raise VerificationFailed("the index holds an impossible chunk", code="index-damaged") from e
        except VerificationFailed as e:
            what = f"what is stored of a content is damaged: {e.message} (pack {pack}, byte {offset})"
            raise VerificationFailed(what, hint="what else is: idao asset check", code=e.code) from e

    def key_of(
        self, chunk_id: bytes, sealed: bytes | None, wrapped: bytes | None, secret: bytes | None
    ) -> bytes:
        """The key of a chunk, given what CHUNK selects. `VerificationFailed`."""
        if wrapped is not None:
            return unwrap_key(self.keys.wrapping, chunk_id, sealed, wrapped)
        if type(secret) is not bytes or type(chunk_id) is not bytes:
            raise VerificationFailed("a chunk has no key", code="key-damaged")
        if secret not in self._secrets:
            self._secrets[secret] = unwrap(self.keys.wrapping, secret, WRAP_SECRET)
        return chunk_key(self._secrets[secret], chunk_id)

    # --- reading -----------------------------------------------------------------------------------------

    def sealed_manifest(self, ref: bytes) -> bytes:
        """The head of a version's manifest, sealed: what a reader of the asset gets. `NotFound`."""
        return self._row(ref)[0]

    def asset_key(self, ref: bytes) -> bytes:
        """The key that opens a version's manifest: what a grant seals to a reader. `NotFound`."""
        return unwrap(self.keys.wrapping, self._row(ref)[1], WRAP_ASSET + ref)

    def open_manifest(self, ref: bytes) -> Version:
        """A version for reading. `NotFound` when the home does not have it or has forgotten it."""
        sealed = self._row(ref)[0]
        return Version(ref, manifest_open(self.asset_key(ref), sealed), self.load)

    def read(self, ref: bytes, path: bytes, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of one file of a version, verified."""
        return self.open_manifest(ref).open(path).read(offset, length)

    def restore(
        self,
        ref: bytes,
        target: Path,
        paths: Sequence[bytes] | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Writes a version, or those of its `paths`, below `target`; returns the number of entries.

        Nothing that exists is overwritten, no link is followed, nothing lands outside `target`.
        """
        from idao.store.restore import restore

        version = self.open_manifest(ref)
        meter = Meter(progress, version.head.files, version.head.size)
        return restore(version, target, None if paths is None else set(paths), meter)

    def load(self, ref: ChunkRef) -> bytes:
        """The content of a chunk. `VerificationFailed` when it is missing or any byte of it is wrong."""
        with self._sqlite():
            row = self.db.execute(
                "select name, offset from chunk join pack on pack = pack.id where chunk.id=?", (ref.id,)
            ).fetchone()
        if row is None:
            raise VerificationFailed("a chunk is not in the index", code="chunk-missing")
        return self.open_chunk(row[0], row[1], ref)[0]

    def expect(self, chunk_ids: Iterable[bytes]) -> None:
        """Has the disk fetch chunks that will be loaded soon: packs were written past the page cache."""
        place = "select name, offset, stored from chunk join pack on pack = pack.id where chunk.id=?"
        with self._sqlite(), contextlib.suppress(OSError):  # whoever loads it says what is wrong
            for chunk_id in chunk_ids:
                if row := self.db.execute(place, (chunk_id,)).fetchone():
                    self._reader.expect(*row)

    def open_chunk(self, pack: str, offset: int, ref: ChunkRef) -> tuple[bytes, bytes, bytes]:
        """(content, part hash, hash of the sealed bytes) of the chunk that should lie there. Or
        `VerificationFailed`. Where `ref` has no hash of them, that they open shows that they are sound."""
        sealed = self._sealed(pack, offset, ref)
        its_hash = sealed_hash(sealed)
        if ref.sealed and its_hash != ref.sealed:
            raise VerificationFailed(f"pack {pack} is damaged at byte {offset}", code="chunk-damaged")
        content = self.sealer.open(ref.form, ref.key, ref.id, ref.size, sealed)
        h = part_hash(content)
        if self.keys.id_of(h) != ref.id:
            raise VerificationFailed("a chunk holds another content than its id says", code="chunk-damaged")
        return content, h, its_hash

    def _sealed(self, pack: str, offset: int, ref: ChunkRef) -> bytes:
        """What lies there, as long as it should be. Or `VerificationFailed`."""
        numbers = offset, ref.stored, ref.size, ref.form  # a damaged page can hold anything here
        odd = type(pack) is not str or any(type(n) is not int for n in numbers)
        if odd or offset < 0 or not 0 <= ref.stored <= CHUNK_BYTES_MAX + TAG_MAX:
            raise VerificationFailed("a chunk has an impossible place", code="chunk-damaged")
        try:
            sealed = self._reader.read(pack, offset, ref.stored)
        except (OSError, ValueError, OverflowError) as e:  # the latter two: no name, no place
            why = getattr(e, "strerror", None) or e
            raise VerificationFailed(f"pack {pack} cannot be read: {why}", code="pack-missing") from e
        if len(sealed) != ref.stored:
            raise VerificationFailed(f"pack {pack} is cut short", code="pack-damaged")
        return sealed

    def versions(self) -> list[bytes]:
        """All versions of this home, oldest first."""
        with self._sqlite():
            return [bytes(r[0]) for r in self.db.execute("select ref from version order by taken_ms, ref")]

    def check(self, progress: Progress | None = None) -> list[Finding]:
        """Re-verifies every pack, chunk, manifest and commitment; what is wrong, or an empty list."""
        from idao.store.check import check

        return check(self, progress)

    def forget(self, *refs: bytes) -> int:
        """Destroys versions' keys and frees the chunks that no other version uses. Returns bytes freed.

        `NotFound` when one is not here. After a crash the next `forget` or intake finishes the work.
        """
        with self._writing(), self._sqlite():
            for ref in refs:
                self._row(ref)
            return forget(self, refs)

    def freed_by(self, *refs: bytes) -> int:
        """Bytes that `forget` of the same would free; destroys nothing."""
        with self._sqlite():
            return freed_by(self, refs)

    def stamps(self, ref: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(path, stamp) of each entry when the version was taken, in order."""
        pages = self.db.execute("select entries from scan where ref=? order by page", (ref,)).fetchall()
        for (page,) in pages:
            yield from unpack_scan(unwrap(self.keys.scan, page, WRAP_SCAN + ref))

    # --- plumbing ----------------------------------------------------------------------------------------

    def _row(self, ref: bytes) -> tuple[bytes, bytes]:
        """(sealed manifest, wrapped asset key)."""
        with self._sqlite():
            row = self.db.execute(
                "select manifest, key from version join asset_key using(ref) where ref=?", (ref,)
            ).fetchone()
        if row is None:
            raise NotFound("this home does not hold that version", hint="idao asset list")
        return row[0], row[1]

    def _walk(self, paths: Sequence[bytes], *, see: bool = True) -> Walk:
        st = os.stat(self.home)
        return Walk(paths, (st.st_dev, st.st_ino), see=see)

    def _source(self, paths: Sequence[bytes]) -> bytes:
        return source_of(self.keys, sorted(os.path.abspath(p) for p in paths))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        with atomic(self.db):
            yield

    @contextlib.contextmanager
    def _sqlite(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as e:
            raise damaged(self.home / "home.db", e) from e

    @contextlib.contextmanager
    def registering(self) -> Iterator[None]:
        """While what was taken in goes into a ledger: until then it looks like something left over."""
        with self._locked(self.folder, os.O_RDONLY, fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def nobody_registering(self) -> Iterator[None]:
        """While what is on no ledger is left over. `Busy` while anybody is `registering`."""
        with self._locked(self.folder, os.O_RDONLY, fcntl.LOCK_EX):
            yield

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time, across processes. `Busy` names the other."""
        with self._locked(self.home / "contents.lock", os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX) as fd:
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
            try:
                yield
            finally:
                os.ftruncate(fd, 0)

    @contextlib.contextmanager
    def _locked(self, path: Path, flags: int, how: int) -> Iterator[int]:
        try:
            fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise disk_error(e, f"cannot use {self.home}") from e
        try:
            deadline = time.monotonic() + self._wait_s
            while not _taken(fd, how):
                if time.monotonic() >= deadline:
                    pid = b"" if path.is_dir() else os.pread(fd, 20, 0).strip()
                    who = f"process {pid.decode('ascii', 'replace')}" if pid else "another process"
                    raise Busy(f"{who} is writing to {self.home}", hint="--wait SECONDS")
                time.sleep(LOCK_POLL_S)
            yield fd
        finally:
            os.close(fd)


def _put_chunks(count: int) -> str:
    """The statement for `count` rows of the index. What has a fixed length comes as one value: to hand
    over each costs more than to cut them out of it."""
    sealed = f"case when ?{{3}} > {SEALED_KEPT} then substr(?{{0}}, 33, 32) end"
    row = f"substr(?{{0}}, 1, 32), ?{{1}}, ?{{2}}, ?{{3}}, ?{{4}}, ?{{5}}, {sealed}, null"
    rows = (row.format(*range(i, i + 6)) for i in range(1, 6 * count, 6))
    return f"insert or ignore into chunk values ({'), ('.join(rows)})"


def _taken(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
