"""Which bytes are looked at when there are more than the budget: chosen by content ids, never by chance.

The same files in another order, under other names or in another home give the same sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from idao.assess.report import AssessFile
from idao.crypto.hashing import Kind, digest

FILES_MAX = 500
"""Files opened: at some 20 microseconds each, 10 ms of a review."""
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


def distinct(files: Sequence[AssessFile]) -> list[AssessFile]:
    """One file of each content, by content id; of equal contents the one with the smallest path."""
    found: dict[bytes, AssessFile] = {}
    for file in files:
        other = found.get(file.content)
        if other is None or file.path < other.path:
            found[file.content] = file
    return [found[content] for content in sorted(found)]


def read_sample(files: Iterable[AssessFile], budget: int) -> list[Part]:
    """Reads at most about `budget` bytes of distinct `files` (as `distinct` gives them, or part of that).

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
