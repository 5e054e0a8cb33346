"""The files of a version as assessors see them: one small tuple each, for there may be a million."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import nlargest, nsmallest
from operator import attrgetter
from typing import NamedTuple, cast

from blake3 import blake3

from idao.assess import AssessFile
from idao.manifest import CHUNK_ROW, FILE
from idao.store.version import Version

SNIFFED, SAMPLED = 32, 128
"""Files whose beginning the disk is asked for in advance: what most assessors' budgets reach to."""
_SIZE = slice(96, 104)
"""Where a chunk row holds its size, after id, key and hash (`manifest.ChunkRef`)."""


class Unread(NamedTuple):
    """A file that an assessor may want to read, or not: what an `AssessFile` gives."""

    path: bytes
    size: int
    content: bytes
    version: Version
    first: int
    parts: int

    def read(self, offset: int, length: int) -> bytes:
        """The plain bytes, verified; fewer only past the end."""
        data: bytes = self.version.at(self.path, self.size, self.first, self.parts).read(offset, length)
        return data


def files_of(version: Version) -> list[AssessFile]:
    """Every file of a version; links and empty folders have nothing to assess."""
    files: list[Unread] = []
    first = 0
    for (path, kind, _mode, size, _mtime, _secret, _root, parts, _target), rows in version.field_rows():
        if kind == FILE:
            files.append(Unread(path, size, _content_id(rows), version, first, parts))
        first += parts
    return cast("list[AssessFile]", files)


def looked_at_first(files: Sequence[AssessFile]) -> Iterator[bytes]:
    """The ids of the chunks that assessors most likely read: the largest files tell the category, and samples
    are drawn in the order of content ids. A guess for the disk's sake; nothing depends on it."""
    mine = cast("Sequence[Unread]", files)
    sniffed = nlargest(SNIFFED, mine, key=attrgetter("size"))
    for file in (*sniffed, *nsmallest(SAMPLED, mine, key=attrgetter("content"))):
        if file.parts:
            yield file.version.chunk_bytes(file.first, 1)[:32]


def _content_id(rows: bytes) -> bytes:
    """Depends on the contents alone, and is the same for all who read this manifest: over the id and the size
    (8 bytes) of each chunk."""
    if len(rows) == CHUNK_ROW:
        return blake3(rows[:32] + rows[_SIZE]).digest()
    starts = range(0, len(rows), CHUNK_ROW)
    parts = (rows[at : at + 32] + rows[at + 96 : at + 104] for at in starts)
    return blake3(b"".join(parts)).digest()
