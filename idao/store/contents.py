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
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from pathlib import Path
from typing import NamedTuple

from idao.crypto import canonical
from idao.errors import Busy, IdaoError, NotFound, Refused, VerificationFailed
from idao.manifest import (
    CHUNK_ROW,
    ChunkRef,
    FileEntry,
    Manifest,
    manifest_hash,
    pack_chunk,
    part_hash,
    show_path,
)
from idao.store.forget import forget, reclaim
from idao.store.home_db import damaged, open_home_db
from idao.store.intake import VANISHED, WRAP_CHUNK, ChunkWriter, FileReader, Taken
from idao.store.packs import SUFFIX, Pack, PackReader, disk_error
from idao.store.seal import (
    ChunkSealer,
    StoreKeys,
    manifest_open,
    manifest_seal,
    sealed_hash,
    source_of,
    unwrap,
    wrap,
)
from idao.store.version import ManifestWriter, Version, unpack_scan
from idao.store.walk import NO_PRINT, Found, Walk

Progress = Callable[[int, int, int, int], None]
"""progress(bytes done, bytes in all, files done, files in all)."""

WRAP_ASSET = b"asset key"
WRAP_SCAN = b"scan"
LOCK_POLL_S = 0.05
PROGRESS_S = 0.1
NAMED_MAX = 10
"""Files named in one message; the whole list is in the refusal's `files`."""


class Unreadable(Refused):
    """Some files could not be read. `files`: (path, reason) of all of them."""

    code = "unreadable"

    def __init__(self, files: list[tuple[bytes, str]]) -> None:
        shown = ", ".join(f"{show_path(p)} ({why})" for p, why in files[:NAMED_MAX])
        more = f" and {len(files) - NAMED_MAX} more" if len(files) > NAMED_MAX else ""
        super().__init__(
            f"nothing contributed: {len(files)} cannot be read: {shown}{more}",
            hint="make them readable, or leave them out with --skip-unreadable",
        )
        self.files = files


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that `check` found wrong."""

    where: str
    """A pack, a version, a file of a version, or the index."""
    what: str


@dataclass(frozen=True, slots=True)
class Intake:
    """What taking in came to."""

    ref: bytes
    """Name of the version in this home and its commitment on a ledger: hash of the manifest."""
    root: bytes
    """Asset root."""
    manifest: bytes
    """Sealed head of the manifest."""
    files: int
    """Entries: files, links, empty folders."""
    size: int
    """Bytes of content."""
    new_bytes: int
    """Bytes of content that the home did not have before."""
    read_files: int
    """Entries that were opened; the others had not changed."""
    unchanged: bool
    """Nothing differs from the previous version, which this is."""
    skipped: tuple[tuple[bytes, str], ...]
    """(path, reason) of what was left out: pipes, sockets, devices, vanished files; unreadable if asked."""


class Step(NamedTuple):
    """One found entry beside what the previous version has under its path."""

    found: Found
    entry: FileEntry | None
    rows: bytes
    same: bool
    """Not to be opened: the file system says that nothing changed."""


class Contents:
    """The contents of one home. For one thread; one process may write at a time, any number may read."""

    def __init__(self, home: Path, data_key: bytes, *, wait_s: float = 0, direct: bool = True) -> None:
        """Opens or creates them. `wait_s`: how long to wait for another writer before `Busy`.

        `direct=False` writes through the page cache.
        """
        self.home = home
        self.keys = StoreKeys(data_key)
        self.folder = home / "packs"
        self._wait_s, self._direct = wait_s, direct
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as e:
            raise disk_error(e, f"cannot use {self.folder}") from e
        self.db = open_home_db(home / "home.db")
        self._reader = PackReader(self.folder)
        self._sealer = ChunkSealer()

    def close(self) -> None:
        self._reader.close()
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
    ) -> Intake:
        """Stores files, folders or `-` (standard input) as one version; durable when it returns.

        Files that have not changed since `previous` are not opened and keep their leaves. Refusals:
        `Unreadable`, `Busy`, `NotFound`, `UsageError` (store.walk), `IdaoError` (`disk-full`, `disk`).
        """
        with self._writing(), self._sqlite():
            meter = Meter(progress, *self.measure(paths)[:2]) if progress else Meter(None, 0, 0)
            walk = self._walk(paths)
            found, same = iter(walk), 0
            before = None if previous is None else Before(self, previous)
            if before is not None:
                same, found = _equal_start(found, before.stamps())
                first = next(found, None)
                if first is None and same == before.version.head.files and not walk.unreadable:
                    return self._unchanged(before.version, walk, meter)
                found = found if first is None else chain([first], found)
            return self._take(_merge(found, before, same), walk, paths, before, meter, skip_unreadable)

    def _unchanged(self, version: Version, walk: Walk, meter: Meter) -> Intake:
        meter.end()
        head = version.head
        sealed = self._row(version.ref)[0]
        skipped = tuple(walk.skipped)
        return Intake(version.ref, head.root, sealed, head.files, head.size, 0, 0, True, skipped)

    def _take(
        self,
        steps: Iterator[Step],
        walk: Walk,
        paths: Sequence[bytes],
        before: Before | None,
        meter: Meter,
        skip_unreadable: bool,
    ) -> Intake:
        prefix = self._begin()
        writer = ChunkWriter(
            self.keys, self.folder, prefix + "-0", os.urandom(32), self._lookup(), direct=self._direct
        )
        reader = FileReader(writer, self.keys, meter.bytes_read)
        manifest = ManifestWriter(writer.keep_bytes)
        read = new = 0
        modes_differ = False
        try:
            for step, taken in _take_here(steps, reader):
                self._index(writer.packs.finished())
                if taken is None:
                    assert step.entry is not None
                    manifest.add(step.entry, step.rows, step.found.stamp)
                    meter.file(step.found.size)
                    continue
                read, new = read + 1, new + taken.new_bytes
                meter.file(0)
                if not taken.problem:
                    modes_differ |= step.entry is not None and step.entry.mode != taken.mode
                    manifest.add(_entry(step.found.path, taken), taken.rows, taken.stamp)
                elif taken.problem == VANISHED:
                    walk.skipped.append((step.found.path, VANISHED))
                else:
                    walk.unreadable.append((step.found.path, taken.problem))
            if walk.unreadable and not skip_unreadable:
                raise Unreadable(walk.unreadable)
            head = manifest.finish()
        finally:
            # Also after a refusal or Ctrl-C: what is sealed is kept, so the next run does not write it again.
            with contextlib.suppress(IdaoError) if sys.exc_info()[0] else contextlib.nullcontext():
                self._index(writer.packs.close())
        skipped = tuple(walk.skipped + walk.unreadable)
        # A file that was only touched makes no new version; one whose permissions changed does.
        if before is not None and head.root == before.version.head.root and not modes_differ:
            self._end(prefix, before.version.ref, manifest.scan_pages)
            done = self._unchanged(before.version, walk, meter)
            return replace(done, read_files=read, skipped=skipped)
        ref, sealed = self._end_with_version(prefix, head, manifest.scan_pages, self._source(paths))
        meter.end()
        return Intake(ref, head.root, sealed, head.files, head.size, new, read, False, skipped)

    def _lookup(self) -> Callable[[bytes], bytes | None]:
        """Finds the row of a chunk of this home by its id."""
        if self.db.execute("select 1 from chunk limit 1").fetchone() is None:
            return lambda _: None
        return index_lookup(self.db, self.keys)

    def _begin(self) -> str:
        """Clears what crashed intakes left, and names the packs of a new one."""
        if self.db.execute("select 1 from freed limit 1").fetchone():
            reclaim(self)
        crashed = [row[0] for row in self.db.execute("select prefix from intake")]
        if crashed:
            known = {row[0] for row in self.db.execute("select name from pack")}
            for path in self.folder.iterdir():
                name = path.name.removesuffix(SUFFIX)
                if name not in known and name.rsplit("-", 2)[0] in crashed:
                    path.unlink(missing_ok=True)
        prefix = os.urandom(8).hex()
        with self.transaction():
            self.db.execute("delete from intake")
            self.db.execute("insert into intake values(?, ?)", (prefix, _now_ms()))
        return prefix

    def _index(self, packs: Iterable[Pack]) -> None:
        """Makes durable packs known."""
        for pack in packs:
            with self.transaction():
                self.db.execute("insert into pack values(?, ?)", (pack.name, pack.size))
                self.db.executemany(
                    "insert or ignore into chunk values(?, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        (r.id, pack.name, r.offset, r.stored, r.size, r.form, r.sealed, r.key)
                        for r in sorted(pack.rows)
                    ],
                )

    def _end(self, prefix: str, ref: bytes, scan: list[bytes]) -> None:
        with self.transaction():
            self._put_scan(prefix, ref, scan)

    def _end_with_version(
        self, prefix: str, head: Manifest, scan: list[bytes], source: bytes
    ) -> tuple[bytes, bytes]:
        packed, asset_key = canonical.pack(head), os.urandom(32)
        ref, sealed = manifest_hash(packed), manifest_seal(asset_key, packed)
        with self.transaction():
            self.db.execute("insert into version values(?, ?, ?, ?)", (ref, sealed, source, _now_ms()))
            wrapped = wrap(self.keys.wrapping, asset_key, WRAP_ASSET + ref)
            self.db.execute("insert into asset_key values(?, ?)", (ref, wrapped))
            self._put_scan(prefix, ref, scan)
        return ref, sealed

    def _put_scan(self, prefix: str, ref: bytes, scan: list[bytes]) -> None:
        self.db.execute("delete from scan where ref=?", (ref,))
        self.db.executemany(
            "insert into scan values(?, ?, ?)",
            [(ref, i, wrap(self.keys.scan, page, WRAP_SCAN + ref)) for i, page in enumerate(scan)],
        )
        self.db.execute("delete from intake where prefix=?", (prefix,))

    # --- reading -----------------------------------------------------------------------------------------

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
            row = self.db.execute("select pack, offset from chunk where id=?", (ref.id,)).fetchone()
        if row is None:
            raise VerificationFailed("a chunk is not in the index", code="chunk-missing")
        return self.open_chunk(row[0], row[1], ref)[0]

    def open_chunk(self, pack: str, offset: int, ref: ChunkRef) -> tuple[bytes, bytes]:
        """(content, part hash) of the chunk that should lie there. Or `VerificationFailed`."""
        try:
            sealed = self._reader.read(pack, offset, ref.stored)
        except OSError as e:
            raise VerificationFailed(f"pack {pack} cannot be read: {e.strerror}", code="pack-missing") from e
        if len(sealed) != ref.stored:
            raise VerificationFailed(f"pack {pack} is cut short", code="pack-damaged")
        if sealed_hash(sealed) != ref.sealed:
            raise VerificationFailed(f"pack {pack} is damaged at byte {offset}", code="chunk-damaged")
        content = self._sealer.open(ref.form, ref.key, ref.id, ref.size, sealed)
        h = part_hash(content)
        if self.keys.id_of(h) != ref.id:
            raise VerificationFailed("a chunk holds another content than its id says", code="chunk-damaged")
        return content, h

    def versions(self) -> list[bytes]:
        """All versions of this home, oldest first."""
        with self._sqlite():
            return [bytes(r[0]) for r in self.db.execute("select ref from version order by taken_ms, ref")]

    def check(self, progress: Progress | None = None) -> list[Finding]:
        """Re-verifies every pack, chunk, manifest and commitment; what is wrong, or an empty list."""
        from idao.store.check import check

        return check(self, progress)

    def forget(self, ref: bytes) -> int:
        """Destroys a version's keys and frees the chunks that no other version uses. Returns bytes freed.

        `NotFound` when there is no such version. After a crash the next `forget` or intake finishes the work.
        """
        with self._writing(), self._sqlite():
            self._row(ref)
            return forget(self, ref)

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

    def _walk(self, paths: Sequence[bytes]) -> Walk:
        st = os.stat(self.home)
        return Walk(paths, (st.st_dev, st.st_ino))

    def _source(self, paths: Sequence[bytes]) -> bytes:
        return source_of(self.keys, sorted(os.path.abspath(p) for p in paths))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self.db.execute("begin immediate")
        try:
            yield
            self.db.execute("commit")
        except BaseException:
            self.db.execute("rollback")
            raise

    @contextlib.contextmanager
    def _sqlite(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as e:
            raise damaged(self.home / "home.db", e) from e

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time, across processes. `Busy` names the other."""
        try:
            fd = os.open(self.home / "contents.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise disk_error(e, f"cannot use {self.home}") from e
        try:
            deadline = time.monotonic() + self._wait_s
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "?"
                        raise Busy(
                            f"process {pid} is writing to {self.home}", hint="--wait SECONDS"
                        ) from None
                    time.sleep(LOCK_POLL_S)
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
            yield
        finally:
            os.close(fd)


class Before:
    """The previous version, as an intake wants it."""

    def __init__(self, contents: Contents, ref: bytes) -> None:
        self.version = contents.open_manifest(ref)
        self._contents = contents

    def stamps(self) -> Iterator[tuple[bytes, bytes]]:
        return self._contents.stamps(self.version.ref)

    def entries(self) -> Iterator[tuple[bytes, FileEntry, bytes]]:
        """(stamp, entry, chunk rows) in path order."""
        stamps = chain(self.stamps(), repeat((b"", NO_PRINT)))  # a lost stat cache only means reading again
        for (path, stamp), (entry, parts) in zip(stamps, self.version.files(), strict=False):
            rows = b"".join(pack_chunk(*p) for p in parts)
            yield (stamp if path == entry.path else NO_PRINT), entry, rows


class Meter:
    """Counts what is done and tells, not more than ten times a second."""

    def __init__(self, progress: Progress | None, files: int, size: int) -> None:
        self._progress, self._files, self._size = progress, files, size
        self._done = self._done_files = 0
        self._next = 0.0

    def bytes_read(self, n: int) -> None:
        self._done += n
        self._tell()

    def file(self, size: int) -> None:
        self._done_files += 1
        self.bytes_read(size)

    def end(self) -> None:
        if self._progress:
            self._progress(self._size, self._size, self._files, self._files)

    def _tell(self) -> None:
        if self._progress and (now := time.monotonic()) >= self._next:
            self._next = now + PROGRESS_S
            self._progress(
                min(self._done, self._size), self._size, min(self._done_files, self._files), self._files
            )


def index_lookup(db: sqlite3.Connection, keys: StoreKeys) -> Callable[[bytes], bytes | None]:
    """Chunk rows by id, from the index."""

    def find(chunk_id: bytes) -> bytes | None:
        row = db.execute(
            "select sealed, size, stored, form, key from chunk where id=?", (chunk_id,)
        ).fetchone()
        if row is None:
            return None
        sealed, size, stored, form, wrapped = row
        return pack_chunk(
            chunk_id, unwrap(keys.wrapping, wrapped, WRAP_CHUNK + chunk_id), sealed, size, stored, form
        )

    return find


def _equal_start(
    found: Iterator[Found], stamps: Iterator[tuple[bytes, bytes]]
) -> tuple[int, Iterator[Found]]:
    """How many entries from the start are as they were, and the found ones from there on."""
    same = 0
    for f in found:
        old = next(stamps, None)
        if old is None or old[0] != f.path or old[1] != f.stamp or f.stamp == NO_PRINT:
            return same, chain([f], found)
        same += 1
    return same, iter(())


def _merge(found: Iterator[Found], before: Before | None, same: int) -> Iterator[Step]:
    """Every found entry beside its former self; the first `same` are known to be unchanged."""
    if before is None:
        for f in found:
            yield Step(f, None, b"", False)
        return
    old = before.entries()
    for stamp, entry, rows in islice(old, same):
        yield Step(Found(entry.path, b"", entry.kind, entry.size, stamp), entry, rows, True)
    was = next(old, None)
    for f in found:
        while was is not None and was[1].path < f.path:
            was = next(old, None)
        if was is not None and was[1].path == f.path:
            stamp, entry, rows = was
            yield Step(f, entry, rows, stamp == f.stamp and stamp != NO_PRINT)
        else:
            yield Step(f, None, b"", False)


def _take_here(steps: Iterator[Step], reader: FileReader) -> Iterator[tuple[Step, Taken | None]]:
    """Takes the entries one after the other in this process; None for those that are the same."""
    for step in steps:
        yield step, None if step.same else reader.take(step.found.full, step.found.kind, former(step))


def former(step: Step) -> tuple[bytes, bytes] | None:
    """(secret, content root) that the entry keeps if its content turns out to be the same."""
    entry = step.entry
    return None if entry is None or entry.kind != step.found.kind else (entry.secret, entry.content_root)


def _entry(path: bytes, t: Taken) -> FileEntry:
    return FileEntry(
        path, t.kind, t.mode, t.size, t.mtime_ns, t.secret, t.content_root, len(t.rows) // CHUNK_ROW, t.target
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
