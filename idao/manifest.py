"""What an asset version holds: its manifest, the commitments over it, and the disclosure of one file.

Three trees, all of the RFC 6962 shape (`crypto.merkle`):

- content root of a file: over its parts; part i is hidden by its own salt, derived from the file's secret;
- asset root: over one leaf per file, in path order; this is what a ledger holds;
- chunk root: over the hashes of the sealed chunks, so that a replica can check without reading.

The manifest is a head (`Manifest`, sealed under the asset key) and pages of rows, which are sealed chunks
like any other. Rows have a fixed binary layout instead of CBOR maps: a million of them are written and read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple, Protocol

from blake3 import blake3

from idao.crypto import merkle
from idao.crypto.hashing import Kind, digest, hasher
from idao.errors import Malformed, NotFound, VerificationFailed
from idao.frozen import frozen
from idao.model import Hash, Range, Salt, Size

FILE, LINK, FOLDER = 1, 2, 3
"""Kinds of entry. A folder is an entry only when it is empty; a link is stored as its target."""
KIND_NAMES = {FILE: "file", LINK: "link", FOLDER: "empty folder"}

HOLE, AEGIS, AEGIS_ZSTD, XCHACHA, XCHACHA_ZSTD = 0, 1, 2, 3, 4
"""Forms of a chunk: how its bytes are sealed. A hole (zeros that a sparse file never stored) has none."""
COMPRESSED = (AEGIS_ZSTD, XCHACHA_ZSTD)

MODE_MASK = 0o777
"""Permission bits are kept; set-user-id and its kin are not, as a restored file should carry no power."""
PATH_MAX = 65535
"""Bytes of a stored path or link target: what two bytes of length can say; Linux allows 4096."""
PARTS_MAX = 2**24
"""Parts of one disclosed file: about 10 TiB."""
PAGE_BYTES = 512 * 1024
"""A page of rows is closed at this size: one chunk, cheap to read for one row, small beside the buffers."""

PARTS = merkle.tree(Kind.PART_LEAF, Kind.PART_BRANCH)
FILES = merkle.tree(Kind.FILE_LEAF, Kind.FILE_BRANCH)
CHUNKS = merkle.tree(Kind.CHUNK_LEAF, Kind.CHUNK_BRANCH)


# --- rows -----------------------------------------------------------------------------------------------


class ChunkRef(NamedTuple):
    """One part of a file. A tuple, because its row is read and written millions of times."""

    id: bytes
    """32 bytes, keyed by the home: equal contents have equal ids here and nowhere else."""
    key: bytes
    """32 random bytes that seal this chunk alone."""
    sealed: bytes
    """Hash of the sealed bytes, a leaf of the chunk root."""
    size: int
    """Bytes of content."""
    stored: int
    """Bytes sealed."""
    form: int


_CHUNK = struct.Struct(">32s32s32sQIB")
CHUNK_ROW = _CHUNK.size
_ZERO = bytes(32)

pack_chunk = _CHUNK.pack
"""(id, key, sealed, size, stored, form) -> one row."""


def hole_row(size: int) -> bytes:
    return _CHUNK.pack(_ZERO, _ZERO, _ZERO, size, 0, HOLE)


def chunk_rows(data: bytes) -> list[ChunkRef]:
    """The rows of a chunk page. `Malformed` when they do not fill it."""
    if len(data) % CHUNK_ROW:
        raise Malformed("chunk page: a row is cut short")
    out = [ChunkRef._make(row) for row in _CHUNK.iter_unpack(data)]
    if any(r.form > XCHACHA_ZSTD for r in out):
        raise Malformed("chunk page: unknown form of a chunk")
    return out


@frozen
class FileEntry:
    """One file, link or empty folder of a version."""

    path: bytes
    """Relative, `/` between names, any bytes but NUL: file systems do not promise UTF-8. An empty folder's
    ends with `/`. Entries are ordered by these bytes."""
    kind: int
    mode: int
    size: int
    mtime_ns: int
    secret: bytes
    """32 bytes, 16 of them random, behind the salts of leaf and parts; kept while the file is unchanged."""
    content_root: bytes
    parts: int
    """How many rows of the chunk pages belong to it, following those of the entry before."""
    target: bytes

    def leaf(self, rows: bytes) -> bytes:
        """Its leaf of the asset root; `rows` are its chunk rows."""
        if len(rows) == CHUNK_ROW and rows[-1] != HOLE:  # most files are one chunk, and there are many
            cuts = _layout(_ONE_PART % self.kind + rows[_SIZE_AT : _SIZE_AT + 8])
            return file_leaf(leaf_salt(self.secret), self.path, self.size, cuts, self.content_root)
        return self.leaf_of(chunk_rows(rows))

    def leaf_of(self, parts: Sequence[ChunkRef]) -> bytes:
        cuts = layout(self.kind, [p.size for p in parts], [i for i, p in enumerate(parts) if p.form == HOLE])
        return file_leaf(leaf_salt(self.secret), self.path, self.size, cuts, self.content_root)


_ROW = {
    "kind": "B", "mode": "H", "size": "Q", "mtime_ns": "q", "parts": "I", "secret": "32s", "root": "32s",
    "path": "H", "target": "H",
}  # fmt: skip
"""A row of a file page: field -> its form; of path and target, which follow, the length."""
_FILE = struct.Struct(">" + "".join(_ROW.values()))


def _only(*names: str) -> Callable[[bytes], tuple[Any, ...]]:
    """Reads these fields of a row, for those who need few of them, of a million files."""
    forms = (form if name in names else f"{struct.calcsize('>' + form)}x" for name, form in _ROW.items())
    return struct.Struct(">" + "".join(forms)).unpack_from


_mode = _only("mode")
row_numbers = _only("kind", "size", "parts")
"""(kind, size, number of chunks) in a row of a file page."""


def pack_file(e: FileEntry) -> bytes:
    head = _FILE.pack(
        e.kind, e.mode, e.size, e.mtime_ns, e.parts, e.secret, e.content_root, len(e.path), len(e.target)
    )
    return head + e.path + e.target


def pack_whole(
    path: bytes, mode: int, size: int, mtime_ns: int, secret: bytes, content_hash: bytes
) -> tuple[bytes, bytes]:
    """(row, leaf) of a file of one part, given its `part_hash`: what `pack_file` and `FileEntry.leaf` give
    without an entry between. Most files are such, and there are many."""
    length = size.to_bytes(8, "big")
    root = _leaf_hash(blake3(_FIRST, key=secret).digest() + content_hash)
    salt = blake3(b"leaf", key=secret).digest()
    leaf = _file_hash(salt + _layout(_ONE_FILE + length) + root + length + path)
    return _FILE.pack(FILE, mode, size, mtime_ns, 1, secret, root, len(path), 0) + path, leaf


def row_mode(row: bytes) -> int:
    """The mode in a row of a file page."""
    mode: int
    (mode,) = _mode(row)
    return mode


def content_id(rows: bytes) -> bytes:
    """What assessors know a file by, given its chunk rows: a hash of the id and the size (8 bytes) of each,
    so that it is the same for all who read this manifest."""
    if len(rows) == CHUNK_ROW:
        return blake3(rows[:32] + rows[_SIZES]).digest()
    starts = range(0, len(rows), CHUNK_ROW)
    each = (rows[at : at + 32] + rows[at + _SIZE_AT : at + _SIZE_AT + 8] for at in starts)
    return blake3(b"".join(each)).digest()


Fields = tuple[bytes, int, int, int, int, bytes, bytes, int, bytes]
"""The values of a `FileEntry`, for those who need few of them, of a million files."""


def file_rows(data: bytes) -> Iterator[FileEntry]:
    """The rows of a file page. `Malformed` as for `file_fields`."""
    return (FileEntry(*fields) for fields in file_fields(data))


def file_fields(data: bytes) -> Iterator[Fields]:
    """The rows of a file page. `Malformed` for a cut row, an unknown kind or an unsafe path."""
    at, end = 0, len(data)
    while at < end:
        body = at + _FILE.size
        if body > end:
            raise Malformed("file page: a row is cut short")
        kind, mode, size, mtime, parts, secret, content, n_path, n_target = _FILE.unpack_from(data, at)
        at = body + n_path + n_target
        path = data[body : body + n_path]
        if at > end or kind not in KIND_NAMES or mode & ~MODE_MASK:
            raise Malformed("file page: a row is damaged")
        check_entry_path(kind, path)
        yield path, kind, mode, size, mtime, secret, content, parts, data[body + n_path : at]


def check_path(path: bytes) -> None:
    """`Malformed` unless the path stays inside the folder it is restored to."""
    names = path.split(b"/")
    if not path or b"\0" in path or b"" in names or b"." in names or b".." in names:
        raise Malformed(f"unsafe path in a manifest: {show_path(path)}")


def check_entry_path(kind: int, path: bytes) -> None:
    """The same for an entry: the path of an empty folder ends with a slash."""
    check_path(path[:-1] if kind == FOLDER and path.endswith(b"/") else path)


def show_path(path: bytes) -> str:
    """A path for people: quoted, with what is not printable escaped, so that no name can fake a line."""
    text = path.decode("utf-8", "surrogateescape")
    if text.isprintable():
        return text
    return repr(text)


# --- the manifest ---------------------------------------------------------------------------------------

_PAGE = struct.Struct(f">{CHUNK_ROW}sQ")


@frozen
class Manifest:
    """The head of a version. Its hash (`manifest_hash`) is the version's name and the ledger's commitment.

    It hides, because `nonce` is random. `file_pages` and `chunk_pages` are rows of `_PAGE`: the chunk that
    holds a page, and its number of rows.
    """

    v: Annotated[int, Range(1, 1)]
    nonce: Salt
    root: Hash
    """The asset root: over the leaves of all entries in path order."""
    files: int
    """Entries: files, links and empty folders."""
    size: int
    """Bytes of content, holes counted."""
    chunk_root: Hash
    chunks: int
    """Rows of the chunk pages, holes counted."""
    file_pages: bytes
    chunk_pages: bytes


def pack_page(row: bytes, count: int) -> bytes:
    return _PAGE.pack(row, count)


def pages(rows: bytes) -> list[tuple[ChunkRef, int]]:
    """(chunk, number of rows) of each page."""
    if len(rows) % _PAGE.size:
        raise Malformed("manifest: a page row is cut short")
    return [(chunk_rows(row)[0], count) for row, count in _PAGE.iter_unpack(rows)]


def manifest_hash(packed: bytes) -> bytes:
    """The commitment to a manifest, from its canonical bytes."""
    return digest(Kind.MANIFEST, packed)


_PART, _HOLE = Kind.PART_CONTENT.value, Kind.HOLE.value
_leaf_hash, _file_hash, _layout = map(hasher, (Kind.PART_LEAF, Kind.FILE_LEAF, Kind.LAYOUT))


# --- commitments ----------------------------------------------------------------------------------------


part_hash = hasher(Kind.PART_CONTENT)
"""Hash of a part's content, before its salt. Never leaves the home: it could be guessed at."""


def hole_hash(size: int) -> bytes:
    """In place of `part_hash` for a hole: the zeros are not read. `size` in bytes."""
    return blake3(size.to_bytes(8, "big"), derive_key_context=_HOLE).digest()


def leaf_salt(secret: bytes) -> bytes:
    return blake3(b"leaf", key=secret).digest()


def part_salt(secret: bytes, index: int) -> bytes:
    """Salt of one part. One salt tells nothing about the others or the secret."""
    return blake3(index.to_bytes(8, "big"), key=secret).digest()


def part_leaf(salt: bytes, content_hash: bytes) -> bytes:
    return _leaf_hash(salt + content_hash)


def content_root(secret: bytes, hashes: Sequence[bytes]) -> bytes:
    """Root over a file's salted parts, given their `part_hash` or `hole_hash` in order."""
    if len(hashes) == 1:
        return part_leaf(part_salt(secret, 0), hashes[0])
    return merkle.root(PARTS, [part_leaf(part_salt(secret, i), h) for i, h in enumerate(hashes)])


def link_root(secret: bytes, target: bytes) -> bytes:
    """A link's content root: a kind of hash of its own, so no file can stand for a link."""
    return digest(Kind.LINK, part_salt(secret, 0) + target)


FOLDER_ROOT = digest(Kind.FOLDER, b"")


def layout(kind: int, sizes: Sequence[int], holes: Sequence[int]) -> bytes:
    """Hash of what an entry is and how it is cut: 'sizes' of its parts, indexes of those that are holes."""
    cuts = b"".join(size.to_bytes(8, "big") for size in sizes)
    gaps = b"".join(index.to_bytes(8, "big") for index in holes)
    return _layout(bytes([kind]) + len(sizes).to_bytes(8, "big") + cuts + gaps)


_ONE_PART = b"%c" + (1).to_bytes(8, "big")
_ONE_FILE = _ONE_PART % FILE
_FIRST = bytes(8)
"""The index of the first part, as `part_salt` takes it."""
_SIZE_AT = 96
"""Where a chunk row holds its size."""
_SIZES = slice(_SIZE_AT, _SIZE_AT + 8)


def file_leaf(salt: bytes, path: bytes, size: int, cuts: bytes, root: bytes) -> bytes:
    """Leaf of the asset root: H(salt ‖ layout ‖ content root ‖ size (8 bytes) ‖ path); all but the last
    have one length. The layout binds what a verifier is told before it sees the file."""
    return _file_hash(salt + cuts + root + size.to_bytes(8, "big") + path)


# --- disclosure -----------------------------------------------------------------------------------------


@frozen
class FileDisclosure:
    """Shows that one file is in an asset, to whoever has the file and the asset root; of others, nothing."""

    v: Annotated[int, Range(1, 1)]
    kind: Annotated[int, Range(FILE, FOLDER)]
    path: Annotated[bytes, Size(1, PATH_MAX)]
    size: int
    secret: Salt
    sizes: Annotated[tuple[int, ...], Size(0, PARTS_MAX)]
    """Bytes of each part in order: where to cut the file. Empty for a link or a folder."""
    holes: Annotated[tuple[int, ...], Size(0, PARTS_MAX)]
    """Indexes of the parts that are holes, ascending."""
    index: int
    """Position among the `files` leaves of the asset."""
    files: Annotated[int, Range(1, 2**40)]
    proof: Annotated[tuple[Hash, ...], Size(0, 64)]


def disclose(entries: Iterable[tuple[FileEntry, Sequence[ChunkRef]]], path: bytes) -> FileDisclosure:
    """The disclosure of `path`, given all entries in order with their chunks. `NotFound`."""
    leaves, index, found = [], -1, None
    parts: tuple[ChunkRef, ...] = ()
    for i, (entry, chunks) in enumerate(entries):
        leaves.append(entry.leaf_of(chunks))
        if entry.path == path:
            index, found, parts = i, entry, tuple(chunks)
    if found is None:
        raise NotFound(f"no such file in this version: {show_path(path)}")
    return FileDisclosure(
        v=1,
        kind=found.kind,
        path=path,
        size=found.size,
        secret=found.secret,
        sizes=tuple(p.size for p in parts),
        holes=tuple(i for i, p in enumerate(parts) if p.form == HOLE),
        index=index,
        files=len(leaves),
        proof=tuple(merkle.path(FILES, leaves, index)),
    )


class Disclosed(Protocol):
    """What is needed of a file to recompute its content root from its bytes."""

    @property
    def kind(self) -> int: ...
    @property
    def path(self) -> bytes: ...
    @property
    def size(self) -> int: ...
    @property
    def secret(self) -> bytes: ...
    @property
    def sizes(self) -> tuple[int, ...]: ...
    @property
    def holes(self) -> tuple[int, ...]: ...


def content_of(d: Disclosed, blocks: Iterable[bytes]) -> bytes:
    """The content root that `blocks` give: the file's bytes in any portions, or a link's target."""
    if d.kind == FILE:
        return content_root(d.secret, list(_hash_parts(d, blocks)))
    data = b"".join(blocks)
    if len(data) != d.size or d.sizes:
        raise VerificationFailed(f"{show_path(d.path)}: not the {KIND_NAMES[d.kind]} that was disclosed")
    return link_root(d.secret, data) if d.kind == LINK else FOLDER_ROOT


def check_disclosure(root: bytes, d: FileDisclosure, blocks: Iterable[bytes]) -> None:
    """Checks a file against an asset root. `blocks` are the file's bytes in any portions (a link's target).

    Raises `VerificationFailed` that says what differs.
    """
    cuts = layout(d.kind, d.sizes, d.holes)
    leaf = file_leaf(leaf_salt(d.secret), d.path, d.size, cuts, content_of(d, blocks))
    if merkle.root_from_path(FILES, leaf, d.index, d.files, d.proof) != root:
        raise VerificationFailed(f"{show_path(d.path)}: its content is not what the asset commits to")


def _hash_parts(d: Disclosed, blocks: Iterable[bytes]) -> Iterator[bytes]:
    if sum(d.sizes) != d.size or 0 in d.sizes:
        raise VerificationFailed(f"{show_path(d.path)}: the parts do not add up to the file")
    holes, source, rest = set(d.holes), iter(blocks), memoryview(b"")
    wrong_length = VerificationFailed(f"{show_path(d.path)}: the file does not have {d.size} bytes")
    for i, size in enumerate(d.sizes):
        hole = i in holes
        h, left = blake3(derive_key_context=_PART), size
        while left:
            while not rest:
                rest = memoryview(next(source, b"") or _end(wrong_length))
            piece, rest = rest[:left], rest[left:]
            left -= len(piece)
            if not hole:
                h.update(piece)
            elif bytes(piece).count(0) != len(piece):
                raise VerificationFailed(f"{show_path(d.path)}: data where the asset has a hole")
        yield hole_hash(size) if hole else h.digest()
    if rest or any(source):
        raise wrong_length


def _end(error: VerificationFailed) -> bytes:
    raise error
