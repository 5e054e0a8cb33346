"""The files of a version as assessors see them: one small tuple each; of many, in one piece."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import nlargest, nsmallest
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from idao.manifest import CHUNK_ROW, FILE, content_id, row_size

if TYPE_CHECKING:
    from idao.assess import AssessFile
    from idao.store.chunks import Taken
    from idao.store.version import Version

MANY = 2**17
"""Files from which on they are kept in one piece. So many tuples are 37 MB, and looked at sooner."""
CONTENT_ID = 32
"""Bytes of a content id."""
SNIFFED, SAMPLED = 32, 128
"""Files whose beginning the disk is asked for in advance: what most assessors' budgets reach to."""


class Unread(NamedTuple):
    """A file that an assessor may want to read, or not: what an `AssessFile` gives."""

    path: bytes
    size: int
    content: bytes
    listing: Listing
    first: int
    parts: int

    def read(self, offset: int, length: int) -> bytes:
        """The plain bytes, verified; fewer only past the end."""
        return self.listing.read(self, offset, length)


class Texts:
    """Byte strings in one piece."""

    def __init__(self) -> None:
        self._joined, self._ends = bytearray(), array("Q", [0])

    def append(self, text: bytes) -> None:
        self._joined += text
        self._ends.append(len(self._joined))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[bytes]:
        joined, ends = self._joined, self._ends
        return (bytes(joined[start:end]) for start, end in pairwise(ends))

    def __getitem__(self, i: int) -> bytes:
        return bytes(self._joined[self._ends[i] : self._ends[i + 1]])


class Many(Sequence[Unread]):
    """Files of one listing, each made when it is asked for: kept, a million take a third of a gigabyte.

    They come in the order of their paths, so most have their folder from the one before.
    """

    def __init__(self, listing: Listing, files: Iterable[Unread]) -> None:
        self._listing = listing
        self._folders, self._names, self._contents = Texts(), Texts(), bytearray()
        self._folder, self._parts = array("I"), array("I")
        self._sizes, self._first = array("Q"), array("Q")
        self._last: bytes | None = None
        for file in files:
            self.append(file)

    def append(self, file: Unread) -> None:
        path, size, content, _, first, parts = file
        cut = path.rfind(b"/") + 1
        if path[:cut] != self._last:
            self._last = path[:cut]
            self._folders.append(self._last)
        self._folder.append(len(self._folders) - 1)
        self._names.append(path[cut:])
        self._contents += content
        self._sizes.append(size)
        self._first.append(first)
        self._parts.append(parts)

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[Unread]:
        columns = zip(self._folder, self._names, self._sizes, self._first, self._parts, strict=True)
        number, folder, at = -1, b"", 0
        for its, name, size, first, parts in columns:
            if its != number:
                number, folder = its, self._folders[its]
            content = bytes(self._contents[at : at + CONTENT_ID])
            yield Unread(folder + name, size, content, self._listing, first, parts)
            at += CONTENT_ID

    def __getitem__(self, i: Any) -> Any:
        if not 0 <= i < len(self._sizes):
            raise IndexError(i)
        path = self._folders[self._folder[i]] + self._names[i]
        content = bytes(self._contents[i * CONTENT_ID : (i + 1) * CONTENT_ID])
        return Unread(path, self._sizes[i], content, self._listing, self._first[i], self._parts[i])


Place = tuple[bytes, int, int, int]
"""(path, size, first chunk, number of chunks) of a file of a version."""


class Listing:
    """All files of an intake, gathered while it goes on; links and empty folders have nothing to assess.

    Until there is a `version` only beginnings can be read that were kept (`store.heads`), or through `ask`.
    """

    def __init__(self) -> None:
        self.files: list[Unread] | Many = []
        self.version: Version | None = None
        self.ask: Callable[[tuple[Place, int, int]], bytes] | None = None
        self.heads: Mapping[bytes, bytes] = {}
        self._chunks = 0

    def heard(self, paths: list[bytes], taken: Taken) -> None:
        """The next entries of the intake."""
        first, files = self._chunks, self.files
        rows = zip(paths, taken.rows, taken.contents, taken.chunks, strict=True)
        for path, row, content, chunks in rows:
            parts = len(chunks) // CHUNK_ROW
            if row[0] == FILE:
                files.append(Unread(path, row_size(row), content, self, first, parts))
            first += parts
        self._chunks = first
        if len(files) > MANY and isinstance(files, list):
            self.files = Many(self, files)

    def assessed(self) -> list[AssessFile]:
        return cast("list[AssessFile]", self.files)

    def read(self, file: Unread, offset: int, length: int) -> bytes:
        """From what was kept, else from the chunks."""
        head = self.heads.get(file.content, b"")
        if offset + length <= len(head) or len(head) == file.size:
            return head[offset : offset + length]
        question = (file.path, file.size, file.first, file.parts), offset, length
        return self.answer(question) if self.ask is None else self.ask(question)

    def answer(self, question: tuple[Place, int, int]) -> bytes:
        """Bytes of a file out of its chunks: (its place, offset, length)."""
        place, offset, length = question
        if self.version is None:
            raise RuntimeError("the contents are not yet in the index")
        return self.version.at(*place).read(offset, length)

    def looked_at_first(self) -> Iterator[bytes]:
        """The ids of the chunks that assessors most likely read: the largest files tell the category, and
        samples are drawn in the order of content ids. A guess for the disk's sake; nothing depends on it."""
        if self.version is None or isinstance(self.files, Many):
            return
        sniffed = nlargest(SNIFFED, self.files, key=attrgetter("size"))
        for file in (*sniffed, *nsmallest(SAMPLED, self.files, key=attrgetter("content"))):
            if file.parts and file.content not in self.heads:
                yield self.version.chunk_bytes(file.first, 1)[:32]


def listing_of(version: Version) -> Listing:
    """The same of a version that is there."""
    out = Listing()
    out.version = version
    first = 0
    files = out.files
    for (path, kind, _mode, size, _mtime, _secret, _root, parts, _target), rows in version.field_rows():
        if kind == FILE:
            files.append(Unread(path, size, content_id(rows), out, first, parts))
            if len(files) > MANY and isinstance(files, list):
                files = out.files = Many(out, files)
        first += parts
    return out
