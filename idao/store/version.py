"""A version as it is stored: writing its manifest page by page, and reading it back the same way.

Nothing here holds more than a page of rows, so a million files cost no more memory than a thousand.
"""

from __future__ import annotations

import bisect
import os
import struct
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from idao.crypto import canonical
from idao.crypto.merkle import Leaves
from idao.errors import Malformed, NotFound, VerificationFailed
from idao.manifest import (
    CHUNK_ROW,
    CHUNKS,
    FILE,
    FILES,
    HOLE,
    PAGE_BYTES,
    ChunkRef,
    Fields,
    FileDisclosure,
    FileEntry,
    Manifest,
    chunk_rows,
    disclose,
    file_fields,
    manifest_hash,
    pack_page,
    pages,
    show_path,
)
from idao.store.walk import PRINT_BYTES

if TYPE_CHECKING:
    from idao.store.chunks import Taken

CHUNK_PAGE = PAGE_BYTES // CHUNK_ROW * CHUNK_ROW
SCAN_ENTRIES = 4096
"""Entries on one page of the stat cache: some 100 kB packed."""
BY_PLACE = 1 << 31
"""In the count of a page of the stat cache: its stamps lie place by place, not one after the other."""
PAGES_KEPT = 8
"""Chunk pages kept of a version that is read here and there: 4 MiB, the rows of some 36,000 chunks."""


class ManifestWriter:
    """Collects the entries of a version in order; pages go out through `keep` as they fill.

    A page is at most PAGE_BYTES and one row of 128 KiB: well within one chunk.
    """

    def __init__(self, keep: Callable[[bytes], bytes]) -> None:
        """`keep(page) -> chunk row`."""
        self._keep = keep
        self._files, self._chunks = bytearray(), bytearray()
        self._files_on_page = 0
        self._file_pages, self._chunk_pages = bytearray(), bytearray()
        self._leaves, self._sealed = Leaves(FILES), Leaves(CHUNKS)
        self._rows = 0
        self._paths: list[bytes] = []
        self._stamps: list[bytes] = []
        self.scan_pages: list[bytes] = []
        """Packed pages of the stat cache, not yet sealed."""
        self.size = 0

    def add(self, paths: list[bytes], taken: Taken) -> None:
        """The next entries, by their paths, as they were taken."""
        self._leaves.extend(taken.leaves)
        self.size += taken.size
        for row in taken.rows:
            self._files += row
            self._files_on_page += 1
            if len(self._files) >= PAGE_BYTES:
                self._end_files()
        self._add_chunks(b"".join(taken.chunks))
        self._paths += paths
        self._stamps += taken.stamps
        while len(self._paths) >= SCAN_ENTRIES:
            self._end_scan()

    def _add_chunks(self, rows: bytes) -> None:
        starts = range(0, len(rows), CHUNK_ROW)
        self._sealed.extend([rows[at + 64 : at + 96] for at in starts if rows[at + CHUNK_ROW - 1] != HOLE])
        for at in range(0, len(rows), PAGE_BYTES):
            self._chunks += rows[at : at + PAGE_BYTES]
            while len(self._chunks) >= CHUNK_PAGE:
                self._end_chunks(CHUNK_PAGE)

    def finish(self) -> Manifest:
        self._end_files()
        self._end_chunks(len(self._chunks))
        self._end_scan()
        return Manifest(
            v=1,
            nonce=os.urandom(32),
            root=self._leaves.root(),
            files=self._leaves.count,
            size=self.size,
            chunk_root=self._sealed.root(),
            chunks=self._rows,
            file_pages=bytes(self._file_pages),
            chunk_pages=bytes(self._chunk_pages),
        )

    def _end_files(self) -> None:
        if self._files:
            self._file_pages += pack_page(self._keep(bytes(self._files)), self._files_on_page)
            self._files, self._files_on_page = bytearray(), 0

    def _end_chunks(self, size: int) -> None:
        if size:
            page = bytes(self._chunks[:size])
            self._chunk_pages += pack_page(self._keep(page), size // CHUNK_ROW)
            self._rows += size // CHUNK_ROW
            del self._chunks[:size]

    def _end_scan(self) -> None:
        if self._paths:
            self.scan_pages.append(pack_scan(self._paths[:SCAN_ENTRIES], self._stamps[:SCAN_ENTRIES]))
            del self._paths[:SCAN_ENTRIES], self._stamps[:SCAN_ENTRIES]


def pack_scan(paths: list[bytes], stamps: list[bytes]) -> bytes:
    """One page of the stat cache: count and BY_PLACE; the first bytes of all stamps, the second, ...; paths.

    Compressed, because it is kept for every version: half of what it takes stamp by stamp.
    """
    import zstandard

    joined = b"".join(stamps)
    places = b"".join(joined[at::PRINT_BYTES] for at in range(PRINT_BYTES))
    return struct.pack(">I", len(paths) | BY_PLACE) + zstandard.compress(places + b"\0".join(paths), 1)


def unpack_scan(page: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(path, stamp) in order. Our own page, sealed: trusted once it opened."""
    import zstandard

    count = struct.unpack_from(">I", page)[0]
    body = zstandard.decompress(page[4:])
    by_place, count = count & BY_PLACE, count & ~BY_PLACE
    split = count * PRINT_BYTES
    joined = bytearray(body[:split])
    if by_place:  # else as version 0.1.0 wrote it
        for at in range(PRINT_BYTES):
            joined[at::PRINT_BYTES] = body[at * count : (at + 1) * count]
    together = bytes(joined)
    stamps = (together[i : i + PRINT_BYTES] for i in range(0, split, PRINT_BYTES))
    return zip(body[split:].split(b"\0"), stamps, strict=True)


Load = Callable[[ChunkRef], bytes]
"""Content of a chunk, verified."""


class Version:
    """One stored version: its entries, their chunks, and the bytes behind them. All reads verify."""

    def __init__(self, ref: bytes, packed: bytes, load: Load) -> None:
        """`packed`: canonical bytes of the manifest; `Malformed` if it is not the one that `ref` names."""
        if manifest_hash(packed) != ref:
            raise Malformed("the manifest is not the one that was committed to")
        self.ref = ref
        self.head = canonical.unpack(Manifest, packed)
        self._load = load
        self._chunk_pages = pages(self.head.chunk_pages)
        self._chunk_starts = list(accumulate((n for _, n in self._chunk_pages), initial=0))
        self._page: tuple[int, bytes] = (-1, b"")
        self._kept: dict[int, bytes] = {}

    def entries(self) -> Iterator[FileEntry]:
        """All entries in path order. `Malformed` when the pages do not hold what the head says."""
        return (FileEntry(*f) for f in self.fields())

    def fields(self) -> Iterator[Fields]:
        """The same, as plain tuples."""
        last, count = b"", 0
        for page, rows in pages(self.head.file_pages):
            on_page = 0
            for fields in file_fields(self._load(page)):
                if fields[0] <= last:
                    raise Malformed("manifest: entries are out of order")
                last = fields[0]
                on_page += 1
                yield fields
            if on_page != rows:
                raise Malformed("manifest: a file page has another number of rows than the head says")
            count += on_page
        if count != self.head.files:
            raise Malformed("manifest: entries are missing")

    def chunks(self, first: int, count: int) -> list[ChunkRef]:
        """Chunks first..first+count of the version."""
        return chunk_rows(self.chunk_bytes(first, count))

    def chunk_bytes(self, first: int, count: int) -> bytes:
        """The same as rows. `Malformed` when the pages do not hold them."""
        number, page = self._page
        if number >= 0 and self._chunk_starts[number] <= first:  # most often all on the page read last
            at = (first - self._chunk_starts[number]) * CHUNK_ROW
            if at + count * CHUNK_ROW <= len(page) and first + count <= self.head.chunks:
                return page[at : at + count * CHUNK_ROW]
        out = []
        if first + count > self.head.chunks or first + count > self._chunk_starts[-1]:
            raise Malformed("manifest: chunk rows are missing")
        while count:
            number = bisect.bisect_right(self._chunk_starts, first) - 1
            if self._page[0] != number:
                self._page = (number, self._chunk_page(number))
            at = first - self._chunk_starts[number]
            part = self._page[1][at * CHUNK_ROW : (at + count) * CHUNK_ROW]
            rows = len(part) // CHUNK_ROW
            if not rows or len(part) % CHUNK_ROW:
                raise Malformed("manifest: a chunk page is short")
            out.append(part)
            first, count = first + rows, count - rows
        return b"".join(out)

    def _chunk_page(self, number: int) -> bytes:
        page = self._kept.pop(number, None) or self._load(self._chunk_pages[number][0])
        self._kept[number] = page  # now the newest
        if len(self._kept) > PAGES_KEPT:
            del self._kept[next(iter(self._kept))]
        return page

    def page_chunks(self) -> Iterator[ChunkRef]:
        """The chunks that hold the pages of the manifest itself."""
        for rows in (self.head.file_pages, self.head.chunk_pages):
            yield from (chunk for chunk, _ in pages(rows))

    def files(self) -> Iterator[tuple[FileEntry, list[ChunkRef]]]:
        """Every entry with its chunks, in path order."""
        for entry, rows in self.rows():
            yield entry, chunk_rows(rows)

    def rows(self) -> Iterator[tuple[FileEntry, bytes]]:
        """Every entry with the rows of its chunks, in path order."""
        for fields, rows in self.field_rows():
            yield FileEntry(*fields), rows

    def field_rows(self) -> Iterator[tuple[Fields, bytes]]:
        """The same, as plain tuples."""
        first = 0
        for fields in self.fields():
            yield fields, self.chunk_bytes(first, fields[7])
            first += fields[7]

    def find(self, path: bytes) -> tuple[FileEntry, list[ChunkRef]]:
        """One entry by its path; `NotFound`."""
        first = 0
        for entry in self.entries():
            if entry.path == path:
                return entry, self.chunks(first, entry.parts)
            first += entry.parts
        raise NotFound(f"no such file in this version: {show_path(path)}")

    def open(self, path: bytes) -> StoredFile:
        """A file by its path, for reading. `NotFound`; a link or folder reads as empty."""
        entry, parts = self.find(path)
        return StoredFile(entry, parts, self._load)

    def at(self, path: bytes, size: int, first: int, count: int) -> StoredFile:
        """A file whose chunk rows are known to be `first` and the `count` - 1 after it."""
        entry = FileEntry(path, FILE, 0, size, 0, b"", b"", count, b"")
        return StoredFile(entry, list(self.chunks(first, count)), self._load)

    def all(self) -> Iterator[StoredFile]:
        """Every entry in path order, ready for reading: what an assessor walks over."""
        for entry, parts in self.files():
            yield StoredFile(entry, parts, self._load)

    def disclose(self, path: bytes) -> FileDisclosure:
        """What shows that `path` is in this version, and nothing of the other files."""
        return disclose(self.files(), path)


class StoredFile:
    """The bytes of one file of a version."""

    def __init__(self, entry: FileEntry, parts: list[ChunkRef], load: Load) -> None:
        if entry.size != sum(p.size for p in parts) and not entry.target:
            raise VerificationFailed(f"{show_path(entry.path)}: its chunks do not add up to its size")
        self.entry, self.parts, self._load = entry, parts, load
        self._starts = list(accumulate((p.size for p in parts), initial=0))
        self._last: tuple[int, bytes] = (-1, b"")

    def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """Up to `length` bytes from `offset`, fewer at the end of the file."""
        end = self._starts[-1] if length is None else min(offset + length, self._starts[-1])
        out = []
        while offset < end:
            i = bisect.bisect_right(self._starts, offset) - 1
            at = offset - self._starts[i]
            n = min(self.parts[i].size - at, end - offset)
            out.append(bytes(n) if self.parts[i].form == HOLE else self.part(i)[at : at + n])
            offset += n
        return b"".join(out)

    def blocks(self) -> Iterator[bytes]:
        """The whole file in pieces of at most 2 MiB; holes as zeros."""
        for i, part in enumerate(self.parts):
            if part.form != HOLE:
                yield self.part(i)
                continue
            for at in range(0, part.size, PAGE_BYTES):
                yield bytes(min(PAGE_BYTES, part.size - at))

    def part(self, i: int) -> bytes:
        """The content of one part; the last one read is kept."""
        if self._last[0] != i:
            self._last = (i, self._load(self.parts[i]))
        return self._last[1]
