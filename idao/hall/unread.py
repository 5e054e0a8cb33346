"""The files of a version as assessors see them: in columns; of very many, packed."""

from __future__ import annotations

import marshal
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import nlargest, nsmallest
from itertools import accumulate, compress, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

from idao.manifest import FILE, content_id, row_numbers

if TYPE_CHECKING:
    from idao.assess import AssessFile
    from idao.assess.report import Lot
    from idao.store.version import Version

MANY = 2**16
"""Files from which on they are packed. So many in columns are 14 MB, and looked at sooner."""
LOT = 2**12
"""Of very many, files that are packed together, and looked at together."""
CONTENT_ID = 32
"""Bytes of a content id."""
SNIFFED, SAMPLED = 32, 128
"""Files whose beginning the disk is asked for in advance: what most assessors' budgets reach to."""


Numbers = tuple[int, int, int]
"""(kind, size, number of chunks) of an entry."""


class Unread:
    """A file that an assessor may want to read, or not: an `AssessFile` that looks up what it is asked."""

    __slots__ = ("_files", "number")

    def __init__(self, files: Files, number: int) -> None:
        self._files, self.number = files, number

    @property
    def path(self) -> bytes:
        return self._files.path(self.number)

    @property
    def size(self) -> int:
        return self._files.sizes[self.number]

    @property
    def content(self) -> bytes:
        return self._files.content(self.number)

    def read(self, offset: int, length: int) -> bytes:
        """The plain bytes, verified; fewer only past the end."""
        return self._files.listing.read(self, offset, length)


class Files(Sequence[Unread]):
    """Files of one listing, in columns: an object is made of one when it is asked for."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.sizes, self._first, self._parts = array("Q"), array("Q"), array("I")
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
        self.sizes.extend(sizes)
        self._first.extend(first)
        self._parts.extend(parts)
        self._keep(paths, contents)

    @abstractmethod
    def _keep(self, paths: Iterable[bytes], contents: Iterable[bytes]) -> None: ...

    @abstractmethod
    def lots(self) -> Iterator[Lot]:
        """In columns, as assessors like it (`assess.report.lots`)."""

    @abstractmethod
    def path(self, i: int) -> bytes: ...

    @abstractmethod
    def content(self, i: int) -> bytes: ...

    @abstractmethod
    def place(self, i: int) -> tuple[int, int]:
        """(first chunk, number of chunks) of a file."""

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, i: Any) -> Any:
        if not 0 <= i < len(self.sizes):
            raise IndexError(i)
        return Unread(self, i)


class Few(Files):
    """Not very many: looked at all at once."""

    def __init__(self, listing: Listing) -> None:
        super().__init__(listing)
        self._paths: list[bytes] = []
        self._contents: list[bytes] = []

    def _keep(self, paths: Iterable[bytes], contents: Iterable[bytes]) -> None:
        self._paths += paths
        self._contents += contents

    def path(self, i: int) -> bytes:
        return self._paths[i]

    def content(self, i: int) -> bytes:
        return self._contents[i]

    def place(self, i: int) -> tuple[int, int]:
        return self._first[i], self._parts[i]

    def lots(self) -> Iterator[Lot]:
        if self._paths:
            yield self._paths, self.sizes.tolist(), self._contents

    def as_many(self) -> Many:
        """The same in less room. These are no longer of use."""
        out = Many(self.listing)
        out.sizes, out._first, out._parts, out._chunks = self.sizes, self._first, self._parts, self._chunks
        out._keep(self._paths, self._contents)
        return out


class Many(Files):
    """In little room: the paths and places of `LOT` files at a time are packed. Most paths begin like the one
    before, so those of a million are a tenth then."""

    def __init__(self, listing: Listing) -> None:
        super().__init__(listing)
        self._contents = bytearray()
        self._packed: list[bytes] = []
        self._paths: list[bytes] = []
        """Of those that are not packed yet, as `_first` and `_parts` are."""
        self._opened: tuple[int, _Columns] = -1, (self._paths, self._first, self._parts)

    def _keep(self, paths: Iterable[bytes], contents: Iterable[bytes]) -> None:
        import zstandard

        self._paths += paths
        self._contents += b"".join(contents)
        while len(self._paths) >= LOT:
            some = self._paths[:LOT], self._first[:LOT].tobytes(), self._parts[:LOT].tobytes()
            # Copied: what `compress` gives has room for as much as went in.
            self._packed.append(bytes(memoryview(zstandard.compress(marshal.dumps(some), 1))))
            del self._paths[:LOT], self._first[:LOT], self._parts[:LOT]

    def _open(self, number: int) -> _Columns:
        """The files from `LOT` times the number on."""
        import zstandard

        if number == len(self._packed):
            return self._paths, self._first, self._parts
        if number != self._opened[0]:
            paths, first, parts = marshal.loads(zstandard.decompress(self._packed[number]))
            self._opened = number, (paths, array("Q", first), array("I", parts))
        return self._opened[1]

    def path(self, i: int) -> bytes:
        return self._open(i // LOT)[0][i % LOT]

    def content(self, i: int) -> bytes:
        return bytes(self._contents[i * CONTENT_ID : (i + 1) * CONTENT_ID])

    def place(self, i: int) -> tuple[int, int]:
        _, first, parts = self._open(i // LOT)
        return first[i % LOT], parts[i % LOT]

    def lots(self) -> Iterator[Lot]:
        for start in range(0, len(self), LOT):
            sizes = self.sizes[start : start + LOT]
            contents = list(map(self.content, range(start, start + len(sizes))))
            yield self._open(start // LOT)[0], sizes, contents


_Columns = tuple[list[bytes], "array[int]", "array[int]"]
"""Paths, first chunks and numbers of chunks."""
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
        self.add(paths, map(row_numbers, rows), contents)

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
