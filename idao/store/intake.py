"""One intake: the walk, beside the version before, through the workers, into a manifest.

What did not change is copied from the manifest before without being opened; what did is read. Packs are
indexed as they become durable, so that an interrupted intake is found again by the next; the version itself
appears in one last transaction.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, NamedTuple, Protocol

from idao.errors import IdaoError, Refused
from idao.frozen import frozen, replace
from idao.manifest import FileEntry, content_id, pack_file, row_mode, show_path
from idao.store.chunks import VANISHED, ChunkWriter, FileReader, Taken, Task, together
from idao.store.version import ManifestWriter, Version
from idao.store.walk import NO_PRINT, Found, Walk

if TYPE_CHECKING:
    from idao.store.contents import Contents
    from idao.store.packs import Pack
    from idao.store.workers import Pool  # loaded when something is to be read

Progress = Callable[[int, int, int, int], None]
"""progress(bytes done, bytes in all, files done, files in all)."""

PROGRESS_S = 0.1
NAMED_MAX = 10
"""Files named in one message; the whole list is in the refusal's `files`."""


class Unreadable(Refused):
    """Some files could not be read. `files`: (path, reason) of all of them."""

    code = "unreadable"

    def __init__(self, files: list[tuple[bytes, str]]) -> None:
        shown = ", ".join(f"{show_path(p)} ({why})" for p, why in files[:NAMED_MAX])
        more = f" and {len(files) - NAMED_MAX} more" if len(files) > NAMED_MAX else ""
        super().__init__(
            f"nothing contributed: {len(files)} cannot be read: {shown}{more}",
            hint="make them readable, or leave them out with --skip-unreadable",
        )
        self.files = files


@frozen
class Intake:
    """What taking in came to."""

    ref: bytes
    """Name of the version in this home and its commitment on a ledger: hash of the manifest."""
    root: bytes
    """Asset root."""
    manifest: bytes
    """Sealed head of the manifest."""
    files: int
    """Entries: files, links, empty folders."""
    size: int
    """Bytes of content."""
    new_bytes: int
    """Bytes of content that the home did not have before."""
    read_files: int
    """Entries that were opened; the others had not changed."""
    unchanged: bool
    """Nothing differs from the previous version, which this is."""
    skipped: tuple[tuple[bytes, str], ...]
    """(path, reason) of what was left out: pipes, sockets, devices, vanished files; unreadable if asked."""


_new = tuple.__new__
"""Makes a named tuple in half the time of its class."""


class Step(NamedTuple):
    """One found entry beside what the previous version has under its path."""

    found: Found
    entry: FileEntry | None
    rows: bytes
    same: bool
    """Not to be opened: the file system says that nothing changed."""

    def task(self) -> Task:
        """What a reader is told of it."""
        found, entry = self.found, self.entry
        same_kind = entry is not None and entry.kind == found.kind
        former = (entry.secret, entry.content_root) if entry is not None and same_kind else None
        return found.path, found.full, found.kind, found.size, former


def kept(steps: list[Step]) -> Taken:
    """Entries that had not changed, as they were in the version before."""
    found = []
    for step in steps:
        entry = step.entry
        assert entry is not None
        row, leaf, known_by = pack_file(entry), entry.leaf(step.rows), content_id(step.rows)
        found.append((entry.size, row, leaf, step.rows, known_by, step.found.stamp))
    return together({}, found)


class Meter:
    """Counts what is done and tells, not more than ten times a second."""

    def __init__(self, progress: Progress | None, files: int, size: int) -> None:
        self._progress, self._files, self._size = progress, files, size
        self._done = self._done_files = 0
        self._next = 0.0

    def bytes_read(self, n: int) -> None:
        self._done += n
        self._tell()

    def file(self, size: int, files: int = 1) -> None:
        """`size`: bytes that `bytes_read` has not heard of."""
        self._done_files += files
        self.bytes_read(size)

    def end(self) -> None:
        if self._progress:
            self._progress(self._size, self._size, self._files, self._files)

    def _tell(self) -> None:
        if self._progress and (now := time.monotonic()) >= self._next:
            self._next = now + PROGRESS_S
            done, files = min(self._done, self._size), min(self._done_files, self._files)
            self._progress(done, self._size, files, self._files)


class Listener(Protocol):
    """Who wants to know of the entries of an intake before its version exists."""

    def heard(self, paths: list[bytes], taken: Taken) -> None:
        """The next entries, in order."""

    def ended(self, heads: dict[bytes, bytes]) -> None:
        """All entries were heard; the last packs are on their way to the disk, and then into the index.

        `heads` are beginnings of files (`store.heads`). No thread of ours runs while this is called.
        """


class Before:
    """The previous version, as an intake wants it."""

    def __init__(self, contents: Contents, ref: bytes) -> None:
        self.version = contents.open_manifest(ref)
        self._contents = contents

    def stamps(self) -> Iterator[tuple[bytes, bytes]]:
        """(path, stamp) in path order."""
        return self._contents.stamps(self.version.ref)

    def entries(self) -> Iterator[tuple[bytes, FileEntry, bytes]]:
        """(stamp, entry, chunk rows) in path order."""
        stamps = chain(self.stamps(), repeat((b"", NO_PRINT)))  # a lost stat cache only means reading again
        for (path, stamp), (entry, rows) in zip(stamps, self.version.rows(), strict=False):
            yield (stamp if path == entry.path else NO_PRINT), entry, rows


def take_in(
    contents: Contents,
    paths: Sequence[bytes],
    walk: Walk,
    previous: bytes | None,
    meter: Meter,
    skip: bool,
    meanwhile: Iterator[None],
    listener: Listener | None,
) -> Intake:
    """`Contents.take_in`, under the writer's lock."""
    found, same = iter(walk), 0
    before = None if previous is None else Before(contents, previous)
    if before is not None:
        same, found = _equal_start(found, before.stamps())
        first = next(found, None)
        if first is None and same == before.version.head.files and not walk.unreadable:
            meter.end()
            return _unchanged(contents, before.version, walk)
        found = found if first is None else chain([first], found)
    run = _Run(contents, walk, meter, meanwhile, listener)
    try:
        run.take(_merge(found, before, same))
        if walk.unreadable and not skip:
            raise Unreadable(walk.unreadable)
        head = run.manifest.finish()
        run.end()
    except BaseException as e:
        # What is sealed is kept, so that the next run need not write it again.
        with contextlib.suppress(IdaoError):
            run.close(politely=isinstance(e, IdaoError))
        raise
    run.close()
    meter.end()
    skipped = tuple(walk.skipped + walk.unreadable)
    # A file that was only touched makes no new version; one whose permissions changed does.
    if before is not None and head.root == before.version.head.root and not run.modes_differ:
        contents.end_intake(run.prefix, before.version.ref, run.manifest.scan_pages)
        return replace(_unchanged(contents, before.version, walk), read_files=run.read, skipped=skipped)
    ref, sealed = contents.add_version(run.prefix, head, run.manifest.scan_pages, paths)
    return Intake(ref, head.root, sealed, head.files, head.size, run.new_bytes, run.read, False, skipped)


def _unchanged(contents: Contents, version: Version, walk: Walk) -> Intake:
    head, sealed = version.head, contents.sealed_manifest(version.ref)
    return Intake(version.ref, head.root, sealed, head.files, head.size, 0, 0, True, tuple(walk.skipped))


class _Run:
    """The part of an intake that writes."""

    def __init__(
        self,
        contents: Contents,
        walk: Walk,
        meter: Meter,
        meanwhile: Iterator[None],
        listener: Listener | None,
    ) -> None:
        self._contents, self._walk, self._meter, self._meanwhile = contents, walk, meter, meanwhile
        self._listener = listener
        self.prefix, self._run_secret = contents.begin_intake()
        search = contents.db.execute("select 1 from chunk limit 1").fetchone() is not None
        self._writer = ChunkWriter(
            contents.keys,
            contents.folder,
            f"{self.prefix}-0",
            self._run_secret,
            contents.chunk_row,
            None,
            search=search,
            direct=contents.direct,
        )
        self._packs = self._writer.packs
        self._durable: list[Pack] = []
        """Packs that are to be indexed."""
        self._heads: dict[bytes, bytes] = {}
        self._pool: Pool | None = None
        self.manifest = ManifestWriter(self._writer.keep_bytes)
        self.read = self.new_bytes = 0
        self.modes_differ = False

    def take(self, steps: Iterator[Step]) -> None:
        """Puts every step into the manifest, reading what is to be read."""
        for batch, taken in self._results(steps):
            if taken is None:
                taken = kept(batch)
                self._meter.file(taken.size, len(batch))
                self._add(batch, taken)
                continue
            self.read, self.new_bytes = self.read + len(batch), self.new_bytes + taken.new_bytes
            self._meter.file(0, len(batch))
            for place, why in taken.problems.items():
                left = self._walk.skipped if why == VANISHED else self._walk.unreadable
                left.append((batch[place].found.path, why))
            if taken.problems:
                batch = [step for place, step in enumerate(batch) if place not in taken.problems]
            for step, row in zip(batch, taken.rows, strict=True):
                self.modes_differ |= step.entry is not None and step.entry.mode != row_mode(row)
            self._add(batch, taken)

    def _add(self, steps: list[Step], taken: Taken) -> None:
        paths = [step.found.path for step in steps]
        self.manifest.add(paths, taken)
        if self._listener is not None:
            self._listener.heard(paths, taken)

    def end(self) -> None:
        """All is read: has the workers end their packs, and does so itself; tells the listener meanwhile."""
        if self._pool is not None:
            self._pool.end()
        ended = self._packs.end()
        if self._pool is not None:
            self._heads = self._pool.heads()
        self._packs.close()
        self._durable = ended
        if self._listener is not None:
            self._listener.ended(self._heads)

    def close(self, *, politely: bool = True) -> None:
        """Ends all packs and indexes them. After Ctrl-C not politely: a message may be half read."""
        try:
            if self._pool is not None and politely:
                self._contents.index(self._durable + self._pool.ended(), self._pool.close)
                self._durable = []
        finally:
            if self._pool is not None:
                self._pool.stop()
            self._contents.index(self._durable + self._packs.close())

    def _results(self, steps: Iterator[Step]) -> Iterator[tuple[list[Step], Taken | None]]:
        """The steps in batches, each with what became of it; None where it is the same."""
        from idao.store import forks, workers

        sizes = workers.Sizes()
        if forks.may_fork():
            ahead, much = workers.enough(steps, sizes)
            steps = chain(ahead, steps)
            if much and (pool := self._fork()):
                self._pool = pool
                for batch, taken in pool.results(workers.batches(steps, sizes), self._meanwhile):
                    if taken is not None:
                        sizes.add(len(batch), taken.size)
                    yield batch, taken
                    self._contents.index(self._packs.finished())
                return
        reader = FileReader(self._writer, self._contents.keys, self._meter.bytes_read)
        for batch in workers.batches(steps, sizes):
            yield batch, None if batch[0].same else reader.take_all(map(Step.task, batch))
            self._contents.index(self._packs.finished())
        self._heads = reader.heads.all()

    def _fork(self) -> Pool | None:
        """Two workers, or none where the system will not have more processes."""
        from idao.store.workers import Pool, Setup, known_prefixes

        contents = self._contents
        with contextlib.closing(contents.db.execute("select id from chunk order by id")) as ids:
            known = known_prefixes(row[0] for row in ids)
        setup = Setup(contents.keys, contents.folder, self.prefix, self._run_secret, contents.direct, known)
        try:
            return Pool(setup, contents.chunk_row, contents.index, self._meter.bytes_read)
        except OSError:
            return None


def _equal_start(
    found: Iterator[Found], stamps: Iterator[tuple[bytes, bytes]]
) -> tuple[int, Iterator[Found]]:
    """How many entries from the start are as they were, and the found ones from there on."""
    same = 0
    for f in found:
        old = next(stamps, None)
        if old is None or old[0] != f.path or old[1] != f.stamp or f.stamp == NO_PRINT:
            return same, chain([f], found)
        same += 1
    return same, iter(())


def _merge(found: Iterator[Found], before: Before | None, same: int) -> Iterator[Step]:
    """Every found entry beside its former self; the first `same` are known to be unchanged."""
    if before is None:
        for f in found:
            yield _new(Step, (f, None, b"", False))
        return
    old = before.entries()
    for stamp, entry, rows in islice(old, same):
        yield Step(Found(entry.path, b"", entry.kind, entry.size, stamp), entry, rows, True)
    was = next(old, None)
    for f in found:
        while was is not None and was[1].path < f.path:
            was = next(old, None)
        if was is not None and was[1].path == f.path:
            stamp, entry, rows = was
            yield Step(f, entry, rows, stamp == f.stamp and stamp != NO_PRINT)
        else:
            yield Step(f, None, b"", False)
