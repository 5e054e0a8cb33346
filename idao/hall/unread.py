"""The files of a version as assessors see them: one small object each, for there may be a million."""

from __future__ import annotations

from blake3 import blake3

from idao.assess import AssessFile
from idao.manifest import CHUNK_ROW, FILE
from idao.store.version import Version

_SIZE = slice(96, 104)
"""Where a chunk row holds its size, after id, key and hash (`manifest.ChunkRef`)."""


class Unread(AssessFile):
    """A file that an assessor may want to read, or not."""

    __slots__ = ("_count", "_first", "_version")
    _version: Version
    _first: int
    _count: int

    def __init__(
        self, version: Version, path: bytes, size: int, content: bytes, first: int, count: int
    ) -> None:
        put = object.__setattr__  # the class is frozen for all others
        put(self, "path", path)
        put(self, "size", size)
        put(self, "content", content)
        put(self, "_version", version)
        put(self, "_first", first)
        put(self, "_count", count)

    def read(self, offset: int, length: int) -> bytes:
        """The plain bytes, verified; fewer only past the end."""
        file = self._version.at(self.path, self.size, self._first, self._count)
        data: bytes = file.read(offset, length)
        return data


def files_of(version: Version) -> list[AssessFile]:
    """Every file of a version; links and empty folders have nothing to assess."""
    files: list[AssessFile] = []
    first = 0
    for entry, rows in version.rows():
        if entry.kind == FILE:
            files.append(Unread(version, entry.path, entry.size, _content_id(rows), first, entry.parts))
        first += entry.parts
    return files


def _content_id(rows: bytes) -> bytes:
    """Depends on the contents alone, and is the same for all who read this manifest: over the id and the size
    (8 bytes) of each chunk."""
    if len(rows) == CHUNK_ROW:
        return blake3(rows[:32] + rows[_SIZE]).digest()
    starts = range(0, len(rows), CHUNK_ROW)
    parts = (rows[at : at + 32] + rows[at + 96 : at + 104] for at in starts)
    return blake3(b"".join(parts)).digest()
