"""Which bytes are looked at when there are more than the budget: chosen by content ids, never by chance.

The same files in another order, under other names or in another home give the same sample.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from operator import eq, le

from idao.assess.earlier import Tally
from idao.assess.report import CONTENT_BYTES, CONTENTS_MAX, AssessFile, lots
from idao.crypto.hashing import Kind, digest
from idao.errors import UsageError
from idao.filled import each, filled
from idao.frozen import frozen

FILES_MAX = 500
"""Files opened: at some 20 microseconds each, 10 ms of a review."""
MARKED_MAX = 64
"""Files with suspicious names that are looked at before all others."""
WINDOW = 16 * 1024
"""Least bytes read in one place: some hundred rows, and as cheap as one byte."""
WINDOWS_MAX = 8
"""Places looked at in one large file."""

Mark = Callable[[Sequence[bytes]], Sequence[int]]
"""Which of some paths are marked: their places."""


@frozen
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


@filled
class Overview:
    """What is known of all files without reading any."""

    size: int = 0
    empty: int = 0
    wrong: int = 0
    """Files that have the content of another, and another size."""
    filled: int = 0
    """Contents that are not empty."""
    contents: bytearray = each(factory=bytearray)
    """The start of each of their ids, once, ascending; of more than a fingerprint holds, the smallest."""
    starts: int = 0
    """How many starts differ."""
    distinct_bytes: int = 0
    first: list[AssessFile] = each(factory=list)
    """Of the contents with the smallest ids, as many as a sample may want; none is empty."""
    marked: list[AssessFile] = each(factory=list)
    """Of those that `mark` says, the same."""

    def add(self, files: Sequence[AssessFile], some: _Some, names: _Names, earlier: Tally) -> None:
        """The next contents: no other files have these, or smaller ones that were not yet added.

        Of files with one content the one with the smallest path stands for all.
        """
        places, sizes, contents = some
        one = dict(zip(reversed(contents), reversed(range(len(contents))), strict=True))
        if len(one) < len(contents):
            if not names.ordered:
                for i, content in enumerate(contents):
                    if files[places[i]].path < files[places[one[content]]].path:
                        one[content] = i
            self.wrong += sum(s != sizes[one[c]] for s, c in zip(sizes, contents, strict=True))
        empty = sizes.count(0)
        filled = sorted(one if not empty else (c for c, i in one.items() if sizes[i]))
        starts = [c[:CONTENT_BYTES] for c in filled]
        earlier.add(starts)
        if any(map(eq, starts, islice(starts, 1, None))):  # so much of a hash is never alike by chance
            starts = list(dict.fromkeys(starts))
        self.contents += b"".join(starts[: CONTENTS_MAX - len(self.contents) // CONTENT_BYTES])
        self.starts += len(starts)
        self.filled += len(filled)
        self.empty += empty
        self.size += sum(sizes)
        self.distinct_bytes += sum(sizes if len(one) == len(sizes) else (sizes[i] for i in one.values()))
        wanted = filled[: FILES_MAX + MARKED_MAX - len(self.first)]
        self.first += [files[places[one[c]]] for c in wanted]
        marked = [i for i, at in enumerate(places) if at in names.marked] if names.marked else []
        chosen = sorted(contents[i] for i in marked if one[contents[i]] == i)
        self.marked += [files[places[one[c]]] for c in chosen[: MARKED_MAX - len(self.marked)]]


_Some = tuple[Sequence[int], Sequence[int], Sequence[bytes]]
"""Places of some files among all, their sizes and their content ids."""


class _Names:
    """What is to be known of the paths of all files."""

    def __init__(self, mark: Mark) -> None:
        self.marked: set[int] = set()
        self.ordered = True
        """Whether they ascend: then the smallest of some is the first, and none need be looked at again."""
        self._mark, self._last, self._count = mark, b"", 0

    def add(self, paths: Sequence[bytes]) -> None:
        self.marked.update(self._count + i for i in self._mark(paths))
        self.ordered &= self._last <= paths[0] and all(map(le, paths, islice(paths, 1, None)))
        self._last = paths[-1]
        self._count += len(paths)


def look_over(files: Sequence[AssessFile], mark: Mark, earlier: Tally) -> Overview:
    """Goes through all files in the order of their contents; where they come in lots, a 256th at once.
    Counts in `earlier` which of these are known.

    `UsageError` for content ids that are not 32 bytes, and negative sizes.
    """
    found, names = Overview(), _Names(mark)
    parts = [array("I") for _ in range(256)]
    count = 0
    for paths, sizes, contents in lots(files):
        if set(map(len, contents)) != {32} or min(sizes) < 0:
            raise UsageError("a file to assess needs a content id of 32 bytes and a size")
        names.add(paths)
        if len(paths) == len(files):
            found.add(files, (range(len(paths)), sizes, contents), names, earlier)
            return found
        for i, content in enumerate(contents, count):
            parts[content[0]].append(i)
        count += len(paths)
    for part in parts:
        some = [files[i] for i in part]
        found.add(files, (part, [f.size for f in some], [f.content for f in some]), names, earlier)
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
