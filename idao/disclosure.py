"""The files that a proof discloses: held where they are few, gone through one by one where they are many.

A million disclosed files are some 130 MB of a proof, and five times that as values. So they are written as
they are read from the manifest, and checked as they are read from the proof: of the many only the place of
every 256th stays, with a hash of what stands there, by which a single one is found again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Annotated, Any, BinaryIO, NamedTuple, NoReturn, Protocol

from blake3 import blake3

from idao import manifest
from idao.crypto import canonical, merkle
from idao.crypto.shapes import LIST, MAP, TEXT, UNSIGNED, head
from idao.errors import IdaoError, Malformed, VerificationFailed
from idao.frozen import frozen
from idao.model import Hash, Range, Salt, Size

FILES_MAX = 2**22
BLOCK_BYTES = 1024 * 1024
"""Read of a proof at once; a value cut off at its end is read again with what follows."""
VALUE_BYTES_MAX = 2 * 1024 * 1024
"""What comes before the files of a proof has bounds that add up to less."""
FILE_BYTES_MAX = 16 * manifest.PARTS_MAX
"""One disclosed file: nine bytes for the size of each part, up to five where it is a hole."""
INDEXED = 256
"""Files from one noted place to the next: some 35 kB, read again for one of them."""
KEPT = 16
"""Stretches of so many files kept: files are looked for in about the order in which they stand."""
PUT_BYTES = 64 * 1024


@frozen
class Listed:
    """A disclosed file: enough to recompute its leaf, and its content root from its bytes."""

    kind: Annotated[int, Range(manifest.FILE, manifest.FOLDER)]
    path: Annotated[bytes, Size(1, manifest.PATH_MAX)]
    size: int
    secret: Salt
    content: Hash
    sizes: Annotated[tuple[int, ...], Size(0, manifest.PARTS_MAX)]
    holes: Annotated[tuple[int, ...], Size(0, manifest.PARTS_MAX)]

    def leaf(self) -> bytes:
        cuts = manifest.layout(self.kind, self.sizes, self.holes)
        return manifest.file_leaf(manifest.leaf_salt(self.secret), self.path, self.size, cuts, self.content)


@frozen
class Placed:
    """A disclosed file with its place among all leaves, for showing one without the others."""

    file: Listed
    index: int
    proof: Annotated[tuple[Hash, ...], Size(0, 64)]


@frozen
class Disclosure:
    """Files of one asset version: all of them in order, or some with their paths."""

    count: int
    """Leaves of the version."""
    all: Annotated[tuple[Listed, ...], Size(0, FILES_MAX)]
    some: Annotated[tuple[Placed, ...], Size(0, FILES_MAX)]


class Files(Protocol):
    """Disclosed files, held or not."""

    @property
    def count(self) -> int:
        """Leaves of the version."""

    @property
    def shown(self) -> int:
        """How many of them are disclosed."""

    def check(self, root: bytes) -> None:
        """`VerificationFailed` or `Malformed` unless they are those of the asset with this root."""

    def get(self, path: bytes) -> Listed | None:
        """The one of that path."""


def check_file(listed: Listed, blocks: Iterable[bytes]) -> None:
    """`VerificationFailed` unless these bytes are the disclosed file."""
    if manifest.content_of(listed, blocks) != listed.content:
        _fail(f"{manifest.show_path(listed.path)}: its content differs from what was disclosed")


def _fail(why: str) -> NoReturn:
    raise VerificationFailed(why)


_NOT_BOTH = "all files are disclosed, or some; not both"
_OUT_OF_ORDER = "disclosed files are out of order"
_OTHERS = "the disclosed files are not those of the asset"


class Held:
    """Files of a proof that is small enough."""

    def __init__(self, disclosure: Disclosure) -> None:
        self._disclosure = disclosure
        self._files = disclosure.all or tuple(p.file for p in disclosure.some)
        self.count, self.shown = disclosure.count, len(self._files)
        self._by_path: dict[bytes, Listed] = {}

    def check(self, root: bytes) -> None:
        files = self._disclosure
        if files.all and (files.some or len(files.all) != files.count):
            _fail(_NOT_BOTH)
        for file in self._files:
            manifest.check_entry_path(file.kind, file.path)
        if any(a.path >= b.path for a, b in pairwise(self._files)):
            _fail(_OUT_OF_ORDER)
        if files.all and merkle.root(manifest.FILES, [f.leaf() for f in files.all]) != root:
            _fail(_OTHERS)
        for p in files.some:
            if merkle.root_from_path(manifest.FILES, p.file.leaf(), p.index, files.count, p.proof) != root:
                _fail(f"{manifest.show_path(p.file.path)} is not in the asset")

    def get(self, path: bytes) -> Listed | None:
        self._by_path = self._by_path or {f.path: f for f in self._files}
        return self._by_path.get(path)


# --- writing ----------------------------------------------------------------------------------------------


def _named(name: str) -> bytes:
    return head(TEXT, len(name)) + name.encode()


_BEGIN = head(MAP, 3) + _named("all")


def write(count: int, files: Iterable[Listed], put: Callable[[bytes], object]) -> None:
    """The canonical bytes of a `Disclosure` of all `count` files of a version, as they come."""
    parts = [_BEGIN, head(LIST, count)]
    size = 0
    for file in files:
        parts.append(packed := canonical.pack(file))
        size += len(packed)
        if size >= PUT_BYTES:
            put(b"".join(parts))
            parts, size = [], 0
    end = _named("some") + head(LIST, 0) + _named("count") + head(UNSIGNED, count)
    put(b"".join([*parts, end]))


# --- reading ----------------------------------------------------------------------------------------------

Read = Callable[[bytes, int], tuple[Any, int]]
"""(bytes, position) -> (value, position after it), as `crypto.compiled` makes them."""


class Window:
    """What a file holds, value after value; a few blocks of it at a time."""

    def __init__(self, file: BinaryIO, at: int) -> None:
        """`at`: where the file stands, in bytes from its start."""
        from idao.crypto import compiled

        self._file, self._not_known = file, compiled.NOT_KNOWN
        self._data, self._at, self._begin = b"", 0, 0
        self._read = at

    @property
    def place(self) -> int:
        """Bytes from the start of the file to the next value."""
        return self._read - len(self._data) + self._at

    @property
    def raw(self) -> bytes:
        """The bytes of the value taken last."""
        return self._data[self._begin : self._at]

    def take(self, read: Read, most: int = VALUE_BYTES_MAX) -> Any:
        """The next value. `Malformed` if it has more than `most` bytes, or is not in its one spelling."""
        while True:
            try:
                value, end = read(self._data, self._at)
            except self._not_known:
                pass  # cut off here, or wrong: what follows tells
            else:
                if end <= len(self._data):
                    self._begin, self._at = self._at, end
                    return value
            left = len(self._data) - self._at
            more = self._file.read(max(BLOCK_BYTES, left)) if left <= most else b""
            if not more:
                raise Malformed("not the canonical encoding of a proof")
            self._read += len(more)
            self._data, self._at = self._data[self._at :] + more, 0

    def expect(self, fixed: bytes) -> None:
        """These bytes come next."""

        def read(data: bytes, at: int) -> tuple[None, int]:
            if data[at : at + len(fixed)] != fixed:
                raise IndexError
            return None, at + len(fixed)

        self.take(read, len(fixed))

    def argument(self, major: int) -> int:
        """The argument of a head of this major type."""
        from idao.crypto.compiled import read_head

        n: int = self.take(lambda data, at: read_head(data, at, major))
        return n

    def starts_with(self, byte: bytes) -> bool:
        """Whether that is the next byte; it is left where it is."""
        try:
            self.expect(byte)
        except Malformed:
            return False
        self._at -= 1
        return True

    def rest(self) -> bytes:
        return self._data[self._at :] + self._file.read()


class _Stretch(NamedTuple):
    place: int
    size: int
    files: int
    sum: bytes


class Streamed:
    """Files of a proof too large to hold; the file it is read from must stay open."""

    def __init__(self, file: BinaryIO, window: Window) -> None:
        """Reads a `Disclosure` from where `window` stands. `Malformed` unless it is in its one spelling."""
        self._file = file
        self._leaves = merkle.Leaves(manifest.FILES)
        self._wrong: IdaoError | None = None
        self._firsts: list[bytes] = []
        self._stretches: list[_Stretch] = []
        self._kept: dict[int, dict[bytes, Listed]] = {}
        self._read, placed = _reader(Listed), _reader(Placed)
        window.expect(_BEGIN)
        self._go_through(window, _counted(window))
        window.expect(_named("some"))
        some = tuple(window.take(placed, FILE_BYTES_MAX) for _ in range(_counted(window)))
        window.expect(_named("count"))
        self.count = window.argument(UNSIGNED)
        self._held = Held(Disclosure(self.count, (), some))
        self.shown = self._leaves.count or self._held.shown

    def _go_through(self, window: Window, count: int) -> None:
        last, read = b"", self._read
        for first in range(0, count, INDEXED):
            place, leaves, summed = window.place, [], blake3()
            for number in range(first, min(first + INDEXED, count)):
                file: Listed = window.take(read, FILE_BYTES_MAX)
                if number == first:
                    self._firsts.append(file.path)
                if self._wrong is None:
                    self._wrong = _misplaced(last, file)
                last = file.path
                leaves.append(file.leaf())
                summed.update(window.raw)
            self._leaves.extend(leaves)
            self._stretches.append(_Stretch(place, window.place - place, len(leaves), summed.digest()))

    def check(self, root: bytes) -> None:
        if not self._leaves.count:
            self._held.check(root)
            return
        if self._held.shown or self._leaves.count != self.count:
            _fail(_NOT_BOTH)
        if self._wrong is not None:
            raise self._wrong
        if self._leaves.root() != root:
            _fail(_OTHERS)

    def get(self, path: bytes) -> Listed | None:
        """As it was checked: `VerificationFailed` when the file holds something else by now."""
        if not self._leaves.count:
            return self._held.get(path)
        number = bisect_right(self._firsts, path) - 1
        return self._stretch(number).get(path) if number >= 0 else None

    def _stretch(self, number: int) -> dict[bytes, Listed]:
        found = self._kept.pop(number, None)
        if found is None:
            place, size, count, expected = self._stretches[number]
            self._file.seek(place)
            data = self._file.read(size)
            if blake3(data).digest() != expected:
                _fail("the proof was changed while it was checked")
            found, at = {}, 0
            for _ in range(count):
                file, at = self._read(data, at)
                found[file.path] = file
        self._kept[number] = found  # now the newest
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return found


def _reader(cls: type) -> Read:
    from idao.crypto import compiled

    codec = compiled.codec_of(cls)
    assert codec is not None, "each field has a fixed form"
    return codec[1]


def _counted(window: Window) -> int:
    count = window.argument(LIST)
    if count > FILES_MAX:
        raise Malformed(f"a proof discloses at most {FILES_MAX} files")
    return count


def _misplaced(last: bytes, file: Listed) -> IdaoError | None:
    try:
        manifest.check_entry_path(file.kind, file.path)
    except Malformed as e:
        return e
    return VerificationFailed(_OUT_OF_ORDER) if file.path <= last else None
