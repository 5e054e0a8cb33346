"""The files of a version as assessors see them: one small tuple each, for there may be a million."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from heapq import nlargest, nsmallest
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, cast

from idao.manifest import CHUNK_ROW, FILE, content_id, row_size

if TYPE_CHECKING:
    from idao.assess import AssessFile
    from idao.store.chunks import Taken
    from idao.store.version import Version

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


Place = tuple[bytes, int, int, int]
"""(path, size, first chunk, number of chunks) of a file of a version."""


class Listing:
    """All files of an intake, gathered while it goes on; links and empty folders have nothing to assess.

    Until there is a `version` only beginnings can be read that were kept (`store.heads`), or through `ask`.
    """

    def __init__(self) -> None:
        self.files: list[Unread] = []
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
        if self.version is None:
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
    for (path, kind, _mode, size, _mtime, _secret, _root, parts, _target), rows in version.field_rows():
        if kind == FILE:
            out.files.append(Unread(path, size, content_id(rows), out, first, parts))
        first += parts
    return out
