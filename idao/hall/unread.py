"""The files of a version as assessors see them: one small tuple each; of many, in one piece."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from heapq import nlargest, nsmallest
from itertools import accumulate, compress
from operator import attrgetter
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from idao.manifest import FILE, content_id

if TYPE_CHECKING:
    from idao.assess import AssessFile
    from idao.assess.report import Lot
    from idao.store.version import Version

MANY = 2**16
"""Entries from which on they are kept in one piece. So many rows are 17 MB, and looked at sooner."""
LOT = 2**14
"""Of so many as are kept in one piece, files that are looked at together."""
CONTENT_ID = 32
"""Bytes of a content id."""
NUMBERS = Struct(">B2xQ8xI").unpack_from
"""(kind, size, number of chunks) of an entry, from its row of a file page (`manifest.pack_file`)."""
SNIFFED, SAMPLED = 32, 128
"""Files whose beginning the disk is asked for in advance: what most assessors' budgets reach to."""


Numbers = tuple[int, int, int]
"""(kind, size, number of chunks) of an entry."""


class Unread(NamedTuple):
    """A file that an assessor may want to read, or not: what an `AssessFile` gives."""

    path: bytes
    size: int
    content: bytes
    listing: Listing
    number: int

    def read(self, offset: int, length: int) -> bytes:
        """The plain bytes, verified; fewer only past the end."""
        return self.listing.read(self, offset, length)


class Few(Sequence[Unread]):
    """Files of one listing, in columns: made into files, and told from links, when somebody looks."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._paths: list[bytes] = []
        self._numbers: list[Numbers] = []
        self._contents: list[bytes] = []

    def heard(self, paths: Sequence[bytes], numbers: Iterable[Numbers], contents: Sequence[bytes]) -> None:
        """The next entries."""
        self._paths += paths
        self._numbers += numbers
        self._contents += contents

    def entries(self) -> tuple[list[bytes], list[Numbers], list[bytes]]:
        """As they were heard."""
        return self._paths, self._numbers, self._contents

    @cached_property
    def _files(self) -> Lot:
        if not self._paths:
            return [], [], []
        kinds, sizes, _ = zip(*self._numbers, strict=True)
        if kinds.count(FILE) == len(kinds):
            return self._paths, sizes, self._contents
        which = [kind == FILE for kind in kinds]
        paths, contents = compress(self._paths, which), compress(self._contents, which)
        return list(paths), list(compress(sizes, which)), list(contents)

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """(first chunk, number of chunks) of each."""
        parts = [parts for _, _, parts in self._numbers]
        places = zip(accumulate(parts, initial=0), parts, strict=False)
        return [place for place, numbers in zip(places, self._numbers, strict=True) if numbers[0] == FILE]

    def lots(self) -> Iterator[Lot]:
        """All at once, as assessors like it (`assess.report.lots`)."""
        if self._files[0]:
            yield self._files

    def __len__(self) -> int:
        return len(self._files[0])

    def __getitem__(self, i: Any) -> Any:
        paths, sizes, contents = self._files
        return Unread(paths[i], sizes[i], contents[i], self._listing, i)

    def place(self, i: int) -> tuple[int, int]:
        """(first chunk, number of chunks) of a file."""
        return self._places[i]


class Texts:
    """Byte strings in one piece."""

    def __init__(self) -> None:
        self._joined, self._ends = bytearray(), array("Q", [0])

    def append(self, text: bytes) -> None:
        self._joined += text
        self._ends.append(len(self._joined))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> bytes:
        return bytes(self._joined[self._ends[i] : self._ends[i + 1]])


class Many(Sequence[Unread]):
    """Files of one listing, each made when it is asked for: kept, a million take a third of a gigabyte.

    They come in the order of their paths, so most have their folder from the one before.
    """

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._folders, self._names, self._contents = Texts(), Texts(), bytearray()
        self._folder, self._parts = array("I"), array("I")
        self._sizes, self._first = array("Q"), array("Q")
        self._last: bytes | None = None
        self._chunks = 0

    def heard(self, paths: Iterable[bytes], numbers: Iterable[Numbers], contents: Iterable[bytes]) -> None:
        """The next entries."""
        for path, (kind, size, parts), content in zip(paths, numbers, contents, strict=True):
            if kind == FILE:
                cut = path.rfind(b"/") + 1
                if path[:cut] != self._last:
                    self._last = path[:cut]
                    self._folders.append(self._last)
                self._folder.append(len(self._folders) - 1)
                self._names.append(path[cut:])
                self._contents += content
                self._sizes.append(size)
                self._first.append(self._chunks)
                self._parts.append(parts)
            self._chunks += parts

    def lots(self) -> Iterator[Lot]:
        """Some at once, in columns (`assess.report.lots`)."""
        for start in range(0, len(self), LOT):
            some = range(start, min(start + LOT, len(self)))
            paths, contents = [self._path(i) for i in some], [self._content(i) for i in some]
            yield paths, self._sizes[start : some.stop], contents

    def _path(self, i: int) -> bytes:
        return self._folders[self._folder[i]] + self._names[i]

    def _content(self, i: int) -> bytes:
        return bytes(self._contents[i * CONTENT_ID : (i + 1) * CONTENT_ID])

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, i: Any) -> Any:
        if not 0 <= i < len(self._sizes):
            raise IndexError(i)
        return Unread(self._path(i), self._sizes[i], self._content(i), self._listing, i)

    def place(self, i: int) -> tuple[int, int]:
        """(first chunk, number of chunks) of a file."""
        return self._first[i], self._parts[i]


Place = tuple[bytes, int, int, int]
"""(path, size, first chunk, number of chunks) of a file of a version."""


class Listing:
    """All files of an intake, gathered while it goes on; links and empty folders have nothing to assess.

    Until there is a `version` only beginnings can be read that were kept (`store.heads`), or through `ask`.
    """

    def __init__(self) -> None:
        self.files: Few | Many = Few(self)
        self.entries = 0
        """Files, links and folders."""
        self.version: Version | None = None
        self.ask: Callable[[tuple[Place, int, int]], bytes] | None = None
        self.heads: Mapping[bytes, bytes] = {}

    def heard(self, paths: Sequence[bytes], rows: Iterable[bytes], contents: Sequence[bytes]) -> None:
        """The next entries of the intake: their paths, rows of a file page, and content ids."""
        self.add(paths, map(NUMBERS, rows), contents)

    def add(self, paths: Sequence[bytes], numbers: Iterable[Any], contents: Sequence[bytes]) -> None:
        """The next entries."""
        files = self.files
        files.heard(paths, numbers, contents)
        self.entries += len(paths)
        if self.entries > MANY and isinstance(files, Few):
            self.files = Many(self)
            self.files.heard(*files.entries())

    def assessed(self) -> list[AssessFile]:
        return cast("list[AssessFile]", self.files)

    def read(self, file: Unread, offset: int, length: int) -> bytes:
        """From what was kept, else from the chunks."""
        head = self.heads.get(file.content, b"")
        if offset + length <= len(head) or len(head) == file.size:
            return head[offset : offset + length]
        question = (file.path, file.size, *self.files.place(file.number)), offset, length
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
            first, parts = self.files.place(file.number)
            if parts and file.content not in self.heads:
                yield self.version.chunk_bytes(first, 1)[:32]


def listing_of(version: Version) -> Listing:
    """The same of a version that is there."""
    out = Listing()
    out.version = version
    for (path, kind, _mode, size, _mtime, _secret, _root, parts, _target), rows in version.field_rows():
        out.add((path,), ((kind, size, parts),), (content_id(rows) if kind == FILE else b"",))
    return out
