"""Which bytes are looked at when there are more than the budget: chosen by content ids, never by chance.

The same files in another order, under other names or in another home give the same sample.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from idao.assess.report import CONTENT_BYTES, AssessFile
from idao.crypto.hashing import Kind, digest
from idao.errors import UsageError

FILES_MAX = 500
"""Files opened: at some 20 microseconds each, 10 ms of a review."""
MARKED_MAX = 64
"""Files with suspicious names that are looked at before all others."""
WINDOW = 16 * 1024
"""Least bytes read in one place: some hundred rows, and as cheap as one byte."""
WINDOWS_MAX = 8
"""Places looked at in one large file."""


@dataclass(frozen=True, slots=True)
class Part:
    """What was read of a file: `pieces` in file order, the first from its beginning. `short`: bytes were
    missing."""

    file: AssessFile
    pieces: tuple[bytes, ...]
    whole: bool
    short: bool

    @property
    def length(self) -> int:
        return sum(map(len, self.pieces))


@dataclass(slots=True)
class Overview:
    """What is known of all files without reading any."""

    size: int = 0
    empty: int = 0
    wrong: int = 0
    """Files that have the content of another, and another size."""
    contents: bytearray = field(default_factory=bytearray)
    """The start of each content id that is not empty, ascending."""
    distinct_bytes: int = 0
    first: list[AssessFile] = field(default_factory=list)
    """Of the contents with the smallest ids, as many as a sample may want; none is empty."""
    marked: list[AssessFile] = field(default_factory=list)
    """Of those that `mark` says, the same."""

    def add(self, file: AssessFile, mark: Callable[[bytes], bool]) -> None:
        """The next content, by its file with the smallest path."""
        if len(self.marked) < MARKED_MAX and mark(file.path):
            self.marked.append(file)
        if file.size:
            self.contents += file.content[:CONTENT_BYTES]
            self.distinct_bytes += file.size
            if len(self.first) < FILES_MAX + MARKED_MAX:
                self.first.append(file)


def look_over(files: Sequence[AssessFile], mark: Callable[[bytes], bool]) -> Overview:
    """Goes through all files in the order of their contents, holding a 256th of them at once.

    `UsageError` for content ids that are not 32 bytes, and negative sizes.
    """
    found = Overview()
    parts = [array("I") for _ in range(256)]
    for i, file in enumerate(files):
        if len(file.content) != 32 or file.size < 0:
            raise UsageError("a file to assess needs a content id of 32 bytes and a size")
        parts[file.content[0]].append(i)
        found.size += file.size
        found.empty += not file.size
    for part in parts:
        once: dict[bytes, AssessFile] = {}
        for i in part:
            file = files[i]
            other = once.get(file.content)
            if other is None or file.path < other.path:
                once[file.content] = file
        if len(once) < len(part):
            found.wrong += sum(files[i].size != once[files[i].content].size for i in part)
        for content in sorted(once):
            found.add(once[content], mark)
    return found


def read_sample(files: Iterable[AssessFile], budget: int) -> list[Part]:
    """Reads at most about `budget` bytes of `files`, each with another content.

    Small files are read whole; what they leave is shared among the large ones.
    """
    chosen: list[AssessFile] = []
    least = 0
    for file in files:
        if file.size <= 0:
            continue
        if len(chosen) == FILES_MAX or (chosen and least + min(file.size, WINDOW) > budget):
            break
        chosen.append(file)
        least += min(file.size, WINDOW)
    quota: dict[bytes, int] = {}
    left = budget
    for n, file in enumerate(sorted(chosen, key=lambda f: (f.size, f.content))):
        take = min(file.size, max(left // (len(chosen) - n), WINDOW))
        quota[file.content] = take
        left -= take
    return [_read(file, quota[file.content]) for file in chosen]


def _read(file: AssessFile, take: int) -> Part:
    if take >= file.size:
        data = file.read(0, file.size)
        return Part(file, (data[: file.size],), True, len(data) < file.size)
    count = max(1, min(WINDOWS_MAX, take // WINDOW))
    length = take // count
    stride = file.size // count
    pieces = []
    short = False
    for i in range(count):
        slack = stride - length
        seed = digest(Kind.ASSESSOR_SAMPLE, file.content + i.to_bytes(2, "big"))
        # The first piece holds the header; each other lies at a place of its own stretch of the file.
        offset = i * stride + (int.from_bytes(seed[:8], "big") % (slack + 1) if i else 0)
        data = file.read(offset, length)
        short = short or len(data) < length
        pieces.append(data[:length])
    return Part(file, tuple(pieces), False, short)
