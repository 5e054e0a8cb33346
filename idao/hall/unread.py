"""The files of a version as assessors see them: one small tuple each; of many, in one piece."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import nlargest, nsmallest
from itertools import accumulate, compress, islice
from operator import attrgetter
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from idao.manifest import FILE, content_id

if TYPE_CHECKING:
    from idao.assess import AssessFile
    from idao.assess.report import Lot
    from idao.store.version import Version

MANY = 2**16
"""Files from which on they are kept in one piece. So many in columns are 14 MB, and looked at sooner."""
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


class Files(Sequence[Unread]):
    """Files of one listing, in columns: an object is made of one when it is asked for."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._sizes, self._first, self._parts = array("Q"), array("Q"), array("I")
        self._chunks = 0

    def heard(self, paths: Sequence[bytes], numbers: Iterable[Numbers], contents: Sequence[bytes]) -> None:
        """The next entries; only files are kept."""
        kinds, sizes, parts = zip(*numbers, strict=True) if paths else ((), (), ())
        first: Sequence[int] = list(accumulate(parts, initial=self._chunks))
        self._chunks, first = first[-1], first[:-1]
        if kinds.count(FILE) < len(kinds):
            which = [kind == FILE for kind in kinds]
            sizes, first, parts = (tuple(compress(column, which)) for column in (sizes, first, parts))
            paths, contents = (tuple(compress(column, which)) for column in (paths, contents))
        self._sizes.extend(sizes)
        self._first.extend(first)
        self._parts.extend(parts)
        self._keep(paths, contents)

    @abstractmethod
    def _keep(self, paths: Iterable[bytes], contents: Iterable[bytes]) -> None: ...

    @abstractmethod
    def lots(self) -> Iterator[Lot]:
        """In columns, as assessors like it (`assess.report.lots`)."""

    @abstractmethod
    def _names(self, i: int) -> tuple[bytes, bytes]:
        """(path, content id) of a file."""

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, i: Any) -> Any:
        size = self._sizes[i]
        path, content = self._names(i)
        return Unread(path, size, content, self._listing, i)

    def place(self, i: int) -> tuple[int, int]:
        """(first chunk, number of chunks) of a file."""
        return self._first[i], self._parts[i]


class Few(Files):
    """Not very many: looked at all at once."""

    def __init__(self, listing: Listing) -> None:
        super().__init__(listing)
        self._paths: list[bytes] = []
        self._contents: list[bytes] = []

    def _keep(self, paths: Iterable[bytes], contents: Iterable[bytes]) -> None:
        self._paths += paths
        self._contents += contents

    def _names(self, i: int) -> tuple[bytes, bytes]:
        return self._paths[i], self._contents[i]

    def lots(self) -> Iterator[Lot]:
        if self._paths:
            yield self._paths, self._sizes.tolist(), self._contents

    def as_many(self) -> Many:
        """The same in less room. These are no longer of use."""
        out = Many(self._listing)
        out._sizes, out._first, out._parts, out._chunks = self._sizes, self._first, self._parts, self._chunks
        out._keep(self._paths, self._contents)
        return out


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


class Many(Files):
    """In one piece: objects of a million take a third of a gigabyte.

    They come in the order of their paths, so most have their folder from the one before.
    """

    def __init__(self, listing: Listing) -> None:
        super().__init__(listing)
        self._folders, self._texts, self._contents = Texts(), Texts(), bytearray()
        self._folder = array("I")
        self._last: bytes | None = None

    def _keep(self, paths: Iterable[bytes], contents: Iterable[bytes]) -> None:
        for path in paths:
            cut = path.rfind(b"/") + 1
            if path[:cut] != self._last:
                self._last = path[:cut]
                self._folders.append(self._last)
            self._folder.append(len(self._folders) - 1)
            self._texts.append(path[cut:])
        self._contents += b"".join(contents)

    def _names(self, i: int) -> tuple[bytes, bytes]:
        content = bytes(self._contents[i * CONTENT_ID : (i + 1) * CONTENT_ID])
        return self._folders[self._folder[i]] + self._texts[i], content

    def lots(self) -> Iterator[Lot]:
        for start in range(0, len(self), LOT):
            sizes = self._sizes[start : start + LOT]
            paths, contents = zip(*map(self._names, range(start, start + len(sizes))), strict=True)
            yield paths, sizes, contents


Place = tuple[bytes, int, int, int]
"""(path, size, first chunk, number of chunks) of a file of a version."""


class Listing:
    """All files of an intake, gathered while it goes on; links and empty folders have nothing to assess.

    Until there is a `version` only beginnings can be read that were kept (`store.heads`), or through `ask`.
    """

    def __init__(self) -> None:
        self.files: Few | Many = Few(self)
        self.version: Version | None = None
        self.ask: Callable[[tuple[Place, int, int]], bytes] | None = None
        self.heads: Mapping[bytes, bytes] = {}

    def heard(self, paths: Sequence[bytes], rows: Iterable[bytes], contents: Sequence[bytes]) -> None:
        """The next entries of the intake: their paths, rows of a file page, and content ids."""
        self.add(paths, map(NUMBERS, rows), contents)

    def add(self, paths: Sequence[bytes], numbers: Iterable[Any], contents: Sequence[bytes]) -> None:
        """The next entries."""
        self.files.heard(paths, numbers, contents)
        if isinstance(self.files, Few) and len(self.files) > MANY:
            self.files = self.files.as_many()

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
    entries = version.field_rows()
    while some := list(islice(entries, LOT)):
        out.add(
            [fields[0] for fields, _ in some],
            [(kind, size, parts) for (_, kind, _, size, _, _, _, parts, _), _ in some],
            [content_id(rows) for _, rows in some],
        )
    return out
