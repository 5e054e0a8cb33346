"""Taking in: a file becomes chunks, a chunk is sealed once per home, a pack is flushed once.

`ChunkWriter` seals contents that the home does not have yet; `FileReader` cuts files and notices when one
changes under it. Both belong to one process; `store.workers` runs two.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blake3 import blake3

from idao.errors import IdaoError
from idao.manifest import (
    FILE,
    FOLDER,
    FOLDER_ROOT,
    LINK,
    MODE_MASK,
    FileEntry,
    content_id,
    content_root,
    hole_hash,
    hole_row,
    link_root,
    pack_chunk,
    pack_file,
    pack_whole,
    part_hash,
)
from idao.store.heads import HEAD_BYTES, Heads
from idao.store.packs import PackWriter, memory
from idao.store.seal import (
    CHUNK_BYTES_MAX,
    TAG_MAX,
    ZSTD_SMALL,
    ChunkSealer,
    StoreKeys,
    compressors,
    forms,
    sealed_hash,
)
from idao.store.walk import NO_PRINT, STDIN, UNSEEN, folder_stamp, stamp_of

CHUNK_BYTES_MIN = 256 * 1024
"""Files up to this size are one chunk, read at once. Larger chunks are never cut below it."""
CHUNK_BYTES_AVERAGE = 512 * 1024
"""Parameter of FastCDC; chunks come out about 768 KiB long: dedup, seek and memory in balance."""
READ_BYTES = 2 * CHUNK_BYTES_MAX
"""The read buffer: the tail that waits for more and as much again."""
HOLE_BYTES_MIN = 64 * 1024
"""Shorter holes are stored as zeros, which cost less than the row that would tell of them."""
PAYS = 32
"""Compression must save one part in this many, or the chunk is stored as it is and reads faster."""
FRESH_MAX = 50_000
"""Rows of this run kept in memory (15 MB); a repetition beyond them is found in the index or sealed again."""
RETRIES = 3
"""Reads of a file that changes under the reader, before it is named and given up."""
RACY_NS = 2_000_000_000
"""A file that changed this recently may change again without its times showing it: FAT counts in 2 s."""
SMALL_BYTES = 1024 * 1024
"""Of small files that are read before they are stored together: they stay in the processor's cache."""
SECRET_RANDOM = 16
"""Random bytes of a file's secret, at its end: who would guess at a salted content has 2^128 to try, as who
would forge a signature here. The zeros before them cost nothing once a page of a manifest is compressed: it
takes a fifth less."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How a file is opened. O_NONBLOCK: it may have become a pipe since it was listed."""


Former = tuple[bytes, bytes]
"""(secret, content root) of an entry in the version before, kept if its content turns out to be the same."""
Task = tuple[bytes, bytes, int, int, Former | None]
"""(path, full path, kind, size) as the walk found them, and the former."""
One = tuple[int, bytes, bytes, bytes, bytes, bytes]
"""What became of one entry: (size, row of a file page, leaf, rows of its chunks, content id, stamp)."""


_Small = tuple[int, bytes, bytes, int, int, int, bytes]
"""A file that was read at once: (place in the batch, path, content, size, mtime, mode, stamp)."""


class Taken(NamedTuple):
    """What became of the entries of a batch. The lists hold, in order, those that were taken."""

    problems: dict[int, str]
    """Place in the batch -> why that entry is not in the lists."""
    size: int
    """Bytes of content."""
    rows: Sequence[bytes]
    """Each as a row of a file page."""
    leaves: Sequence[bytes]
    """Their leaves of the asset root."""
    chunks: Sequence[bytes]
    """The rows of the chunks of each."""
    contents: Sequence[bytes]
    """What assessors know them by (`manifest.content_id`)."""
    stamps: Sequence[bytes]
    new_bytes: int = 0


def together(problems: dict[int, str], found: list[One], new_bytes: int = 0) -> Taken:
    """Entries as a batch, thing by thing: that is how they travel and are written."""
    if not found:
        return Taken(problems, 0, (), (), (), (), (), new_bytes)
    sizes, rows, leaves, chunks, contents, stamps = zip(*found, strict=True)
    return Taken(problems, sum(sizes), rows, leaves, chunks, contents, stamps, new_bytes)


VANISHED = "vanished"


class _Unfit(Exception):
    """The entry cannot be taken; the text says why."""


class ChunkWriter:
    """Keeps contents: finds the chunk that is already there, or seals a new one into a pack.

    `lookup` finds the row of a chunk of the home by id. `run_secret` gives the keys of this run's chunks:
    32 random bytes, the same in all workers of the run; so two workers that meet the same content write the
    same row, and one of them need not write the chunk (`claim` says which).
    `search=False`: the home was empty, so only this run's chunks can be met, and memory holds those.
    """

    def __init__(
        self,
        keys: StoreKeys,
        folder: Path,
        prefix: str,
        run_secret: bytes,
        lookup: Callable[[bytes], bytes | None],
        claim: Callable[[bytes], bool] | None,
        *,
        search: bool = True,
        direct: bool = True,
    ) -> None:
        self._lookup, self._claim, self._search = lookup, claim, search
        # Used again and again: to take in the key, or to copy what has, costs as much as to hash.
        self._id_hasher, self._key_hasher = blake3(key=keys.chunk_id), blake3(key=run_secret)
        self._sealer = ChunkSealer()
        self.ffi = self._sealer.ffi
        self.packs = PackWriter(folder, prefix, self.ffi, direct=direct)
        self._plain, self._compressed = forms()
        self._compressors = compressors()
        self._fresh: dict[bytes, bytes] = {}
        self._scratch = bytearray()
        self.new_bytes = 0
        """Bytes of content that the home did not have."""

    def keep(self, content: bytes | memoryview, source: Any) -> tuple[bytes, bytes]:
        """(part hash, chunk row) of a content of 1..CHUNK_BYTES_MAX bytes; `source`: its address or it."""
        return self.keep_all([content], [source])[0]

    def keep_all(
        self, contents: Sequence[bytes | memoryview], sources: Sequence[Any], *, pages: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """The same of several: what is looked up once for all is a fiftieth of the work of a small one.
        `pages`: of a manifest."""
        ids, fresh, search, seal = self._id_hasher, self._fresh, self._search, self._sealing(pages)
        out = []
        for content, source in zip(contents, sources, strict=True):
            h = part_hash(content)
            ids.reset()
            chunk_id = ids.update(h).digest()  # as StoreKeys.id_of
            row = fresh.get(chunk_id)
            if row is None and (search or len(fresh) == FRESH_MAX):
                row = self._lookup(chunk_id)
            if row is None:
                row = seal(chunk_id, content, source)
                if len(fresh) < FRESH_MAX:
                    fresh[chunk_id] = row
            out.append((h, row))
        return out

    def keep_bytes(self, content: bytes) -> bytes:
        """The chunk row of a content of our own making (a page of a manifest)."""
        return self.keep_all([content], [content], pages=True)[0][1]

    def _sealing(self, pages: bool) -> Callable[[bytes, bytes | memoryview, Any], bytes]:
        """What seals one content and gives its row, with everything that it needs at hand."""
        keys, plain, compressed, claim = self._key_hasher, self._plain, self._compressed, self._claim
        small, large, page = self._compressors
        large = page if pages else large
        encrypt = self._sealer.seal
        reserve, view, commit = self.packs.reserve, self.packs.view, self.packs.commit

        def seal(chunk_id: bytes, content: bytes | memoryview, source: Any) -> bytes:
            size = n = len(content)
            keys.reset()
            form, key = plain, keys.update(chunk_id).digest()  # as seal.chunk_key
            packed = small(content) if size <= ZSTD_SMALL else large(content)
            if len(packed) <= n - n // PAYS - 1:
                form, n, source = compressed, len(packed), packed
            if claim is not None and not claim(chunk_id):
                return self._row_only(chunk_id, size, n, form, key, source)
            stored = encrypt(form, key, chunk_id, source, n, reserve(n + TAG_MAX))
            sealed = sealed_hash(view(stored))
            commit(chunk_id, stored, size, form, sealed)
            self.new_bytes += size
            return pack_chunk(chunk_id, key, sealed, size, stored, form)

        return seal

    def _row_only(self, chunk_id: bytes, size: int, n: int, form: int, key: bytes, source: Any) -> bytes:
        """The row of a chunk that another worker of this run is writing."""
        if len(self._scratch) < n + TAG_MAX:
            self._scratch = bytearray(CHUNK_BYTES_MAX + TAG_MAX)
        out = self.ffi.from_buffer("unsigned char[]", self._scratch)
        stored = self._sealer.seal(form, key, chunk_id, source, n, out)
        sealed = sealed_hash(memoryview(self._scratch)[:stored])
        return pack_chunk(chunk_id, key, sealed, size, stored, form)


class FileReader:
    """Reads entries into chunks, with one reused buffer."""

    def __init__(self, writer: ChunkWriter, keys: StoreKeys, tick: Callable[[int], None]) -> None:
        """`tick(bytes)` hears of what was read, for progress."""
        self._writer, self._tick = writer, tick
        self._seed = keys.chunker_seed
        self._begun = 0
        self._cdc: Any = None
        self.heads = Heads()
        self._head = b""
        """The beginning of the file that is being read."""
        self._buffer = memory(READ_BYTES)
        self._view = memoryview(self._buffer)
        self._base = writer.ffi.from_buffer("unsigned char[]", self._buffer)

    def take_all(self, tasks: Iterable[Task]) -> Taken:
        had, self._begun = self._writer.new_bytes, time.time_ns()
        problems: dict[int, str] = {}
        found: dict[int, One] = {}
        small: list[_Small] = []
        held = 0
        for place, (path, full, kind, size, former) in enumerate(tasks):
            try:
                if kind == FILE and former is None and (size == UNSEEN or 0 < size <= CHUNK_BYTES_MIN):
                    one = self._read_small(place, path, full)
                    if one is not None:
                        small.append(one)
                        self._tick(one[3])
                        held += one[3]
                        if held >= SMALL_BYTES:
                            self._take_small(small, found)
                            held = 0
                        continue
                found[place] = self.take(path, full, kind, former)
            except (FileNotFoundError, NotADirectoryError):
                problems[place] = VANISHED
            except OSError as e:
                problems[place] = e.strerror or "unreadable"
            except _Unfit as e:
                problems[place] = str(e)
        self._take_small(small, found)
        return together(problems, [found[place] for place in sorted(found)], self._writer.new_bytes - had)

    def take(self, path: bytes, full: bytes, kind: int, former: Former | None) -> One:
        """The entry at `full`, to be stored as `path`. Or `_Unfit`, or OSError."""
        if kind == LINK:
            return _take_link(path, full, former)
        if kind == FOLDER:
            st = os.lstat(full)
            secret = former[0] if former else new_secrets(1)[0]
            entry = FileEntry(path, FOLDER, st.st_mode & MODE_MASK, 0, 0, secret, FOLDER_ROOT, 0, b"")
            return _one(entry, folder_stamp(st.st_mode))
        return self._take_file(path, full, former)

    def _read_small(self, place: int, path: bytes, full: bytes) -> _Small | None:
        """A file of one chunk, read at once; None unless it is one, and does not change meanwhile."""
        try:
            fd = os.open(full, _READ)
            try:
                before = os.fstat(fd)
                size, mtime = before.st_size, before.st_mtime_ns
                if not 0 < size <= CHUNK_BYTES_MIN or before.st_blocks * 512 < size:
                    return None
                content = os.read(fd, size + 1)  # a short count then means the end
                st = os.fstat(fd)
            finally:
                os.close(fd)
        except OSError:
            return None
        if len(content) != size or st.st_mtime_ns != mtime or st.st_ctime_ns != before.st_ctime_ns:
            return None
        fresh = max(mtime, st.st_ctime_ns) > self._begun - RACY_NS
        return place, path, content, size, mtime, st.st_mode & MODE_MASK, NO_PRINT if fresh else stamp_of(st)

    def _take_small(self, small: list[_Small], found: dict[int, One]) -> None:
        """Stores files that were read, and puts them among what was `found`."""
        contents = [one[2] for one in small]
        rows = self._writer.keep_all(contents, contents)
        heads, secrets = self.heads, new_secrets(len(small))
        for i, (one, (h, row)) in enumerate(zip(small, rows, strict=True)):
            place, path, content, size, mtime, mode, stamp = one
            known_by = content_id(row)
            if known_by < heads.limit or size > heads.least:
                heads.offer(known_by, size, content[:HEAD_BYTES])
            found[place] = size, *pack_whole(path, mode, size, mtime, secrets[i], h), row, known_by, stamp
        small.clear()

    def _take_file(self, path: bytes, full: bytes, former: Former | None) -> One:
        if full == STDIN:
            hashes, rows, size = self._read(0, self._cut(0, None))
            return self._offered(_file(path, 0o600, size, time.time_ns(), hashes, rows, NO_PRINT, former))
        fd = os.open(full, _READ)
        try:
            for _ in range(RETRIES):
                begun = time.time_ns()
                st = os.fstat(fd)
                if not stat.S_ISREG(st.st_mode):
                    raise _Unfit("is no longer a file")
                hashes, rows, size = self._read_file(fd, st)
                after = os.fstat(fd)
                times = st.st_mtime_ns, st.st_ctime_ns
                if size == st.st_size == after.st_size and times == (after.st_mtime_ns, after.st_ctime_ns):
                    stamp = NO_PRINT if max(times) > begun - RACY_NS else stamp_of(st)
                    mode = st.st_mode & MODE_MASK
                    return self._offered(_file(path, mode, size, times[0], hashes, rows, stamp, former))
        finally:
            os.close(fd)
        raise _Unfit("changes while it is read")

    def _offered(self, one: One) -> One:
        if self._head:
            self.heads.offer(one[4], one[0], self._head)
        return one

    def _read_file(self, fd: int, st: os.stat_result) -> tuple[list[bytes], list[bytes], int]:
        size = st.st_size
        if st.st_blocks * 512 < size:
            return self._read_sparse(fd, size)
        if size > CHUNK_BYTES_MIN:
            return self._read(fd, self._cut(fd, None))
        # One byte more than there should be: a short count then means the end.
        n = os.preadv(fd, [self._view[: size + 1]], 0)
        self._head = bytes(self._view[: min(n, HEAD_BYTES)])
        if n == 0:
            return [], [], 0
        h, row = self._writer.keep(self._view[:n], self._base)
        self._tick(n)
        return [h], [row], n

    def _read(self, fd: int, cuts: Iterator[tuple[int, int]]) -> tuple[list[bytes], list[bytes], int]:
        hashes: list[bytes] = []
        rows, size = [], 0
        for at, n in cuts:
            if not hashes:
                self._head = bytes(self._view[at : at + min(n, HEAD_BYTES)])
            h, row = self._writer.keep(self._view[at : at + n], self._base + at)
            hashes.append(h)
            rows.append(row)
            size += n
            self._tick(n)
        return hashes, rows, size

    def _read_sparse(self, fd: int, size: int) -> tuple[list[bytes], list[bytes], int]:
        hashes: list[bytes] = []
        rows: list[bytes] = []
        total = 0
        for start, length, hole in extents(fd, size):
            if hole:
                hashes.append(hole_hash(length))
                rows.append(hole_row(length))
                total += length
                continue
            os.lseek(fd, start, os.SEEK_SET)
            h, r, n = self._read(fd, self._cut(fd, length))
            hashes += h
            rows += r
            total += n
        self._head = b""  # what was read first may lie behind a hole
        return hashes, rows, total

    def _cut(self, fd: int, length: int | None) -> Iterator[tuple[int, int]]:
        """(offset in the buffer, size) of each chunk of what `fd` gives, up to `length` bytes or its end.

        Keyed content-defined cuts: bytes that moved within a file are still found, and the lengths do not
        follow a public table.
        """
        if self._cdc is None:
            from pyfastcdc import FastCDC

            self._cdc = FastCDC(
                CHUNK_BYTES_AVERAGE,
                min_size=CHUNK_BYTES_MIN,
                max_size=CHUNK_BYTES_MAX,
                seed=self._seed,
            )
        fill, left, end = 0, length, False
        while not end:
            while fill < READ_BYTES and not end:
                room = READ_BYTES - fill if left is None else min(READ_BYTES - fill, left)
                n = os.readv(fd, [self._view[fill : fill + room]]) if room else 0
                end = n == 0
                fill += n
                left = None if left is None else left - n
            at = 0
            for chunk in self._cdc.cut_buf(self._view[:fill]):
                # The last cut is the buffer's end, not the content's, unless the file ends there.
                if not end and chunk.offset + chunk.length == fill:
                    break
                yield chunk.offset, chunk.length
                at = chunk.offset + chunk.length
            self._view[: fill - at] = self._view[at:fill]
            fill -= at


def new_secrets(count: int) -> list[bytes]:
    """As many secrets of files (`FileEntry.secret`)."""
    chance, each = os.urandom(SECRET_RANDOM * count), SECRET_RANDOM
    zeros = bytes(32 - each)
    return [zeros + chance[i : i + each] for i in range(0, len(chance), each)]


def _file(
    path: bytes,
    mode: int,
    size: int,
    mtime_ns: int,
    hashes: list[bytes],
    rows: list[bytes],
    stamp: bytes,
    former: Former | None,
) -> One:
    if former is not None and content_root(former[0], hashes) == former[1]:
        secret, root = former
    else:
        (secret,) = new_secrets(1)
        root = content_root(secret, hashes)
    entry = FileEntry(path, FILE, mode, size, mtime_ns, secret, root, len(rows), b"")
    return _one(entry, stamp, b"".join(rows))


def _one(entry: FileEntry, stamp: bytes, rows: bytes = b"") -> One:
    return entry.size, pack_file(entry), entry.leaf(rows), rows, content_id(rows), stamp


def _take_link(path: bytes, full: bytes, former: Former | None) -> One:
    begun = time.time_ns()
    st = os.lstat(full)
    target = os.readlink(full)
    if former is not None and link_root(former[0], target) == former[1]:
        secret, root = former
    else:
        (secret,) = new_secrets(1)
        root = link_root(secret, target)
    stamp = NO_PRINT if st.st_ctime_ns > begun - RACY_NS else stamp_of(st)
    return _one(FileEntry(path, LINK, 0o777, len(target), st.st_mtime_ns, secret, root, 0, target), stamp)


def extents(fd: int, size: int) -> Iterator[tuple[int, int, bool]]:
    """(start, length, is a hole) of a file's stretches, in bytes; short holes belong to the data."""
    at = start = 0  # start: of the data not yet given
    while at < size:
        try:
            data = min(os.lseek(fd, at, os.SEEK_DATA), size)
        except OSError as e:
            if e.errno != errno.ENXIO:
                raise IdaoError(f"cannot find the holes of a file: {e.strerror}", code="disk") from e
            data = size
        if data - at >= HOLE_BYTES_MIN:
            if at > start:
                yield start, at - start, False
            yield at, data - at, True
            start = data
        if data >= size:
            break
        at = min(os.lseek(fd, data, os.SEEK_HOLE), size)
    if start < size:
        yield start, size - start, False
