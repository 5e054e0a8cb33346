"""Two workers for one intake: forked processes that read, cut, compress and seal, each into its own packs.

Processes, because a small file costs more in Python than in the disk; forked, because they start in a
millisecond. The parent alone writes the index and the manifest. Results come back in the order of the walk.
"""

from __future__ import annotations

import bisect
import contextlib
import gc
import mmap
import os
import select
import signal
import struct
import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from idao.errors import IdaoError
from idao.store.chunks import ChunkWriter, FileReader, Taken
from idao.store.forks import Socket, die_with, receive, send, socketpair
from idao.store.packs import Pack
from idao.store.seal import StoreKeys
from idao.store.walk import UNSEEN

if TYPE_CHECKING:
    from idao.store.intake import Step

WORKERS = 2
"""Two keep the slowest disk worth having busy; a third brings a third set of buffers."""
FORK_FILES = 400
FORK_BYTES = 16 * 1024 * 1024
"""Less work than either is done sooner than two processes are started and ended."""
BATCH_FILES = 64
BATCH_BYTES = 2 * 1024 * 1024
BATCH_PATHS = 16 * 1024
"""A batch is a few milliseconds of work."""
QUEUED = 5
"""Batches a worker has at most: one in work, the others waiting while the parent indexes a pack, which takes
ten milliseconds. The paths of all fit a socket's buffer (208 KiB): sending never waits, else both could."""
AHEAD_MAX = 64
"""Batches that may wait for an earlier one, a big file say, before the walk pauses."""
LOOK_MAX = 4096
"""Unchanged entries in a row after which nobody looks further for work enough for workers."""
TICK_BYTES = 4 * 1024 * 1024
CLAIM_SLOTS = 2**18
CLAIM_PROBES = 8
"""4 MiB of shared memory for the ids of a run; when it is full, a content met by both is stored twice."""

_CLAIM = struct.Struct("<QQ").unpack_from


class Setup(NamedTuple):
    """What a worker needs of the home; `known` are the first 8 bytes of the index's ids, ascending."""

    keys: StoreKeys
    folder: Path
    prefix: str
    run_secret: bytes
    direct: bool
    known: array[int]


class Claims:
    """Which contents of this run already have a writer: a hash set of ids in shared memory.

    Without locks: when both workers ask in the same instant both may win, and a chunk is stored twice.
    """

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, CLAIM_SLOTS * 16)).cast("Q")

    def claim(self, chunk_id: bytes) -> bool:
        """True when the caller is to store it."""
        a, b = _CLAIM(chunk_id)
        words, at = self._words, a % CLAIM_SLOTS * 2
        for _ in range(CLAIM_PROBES):
            x, y = words[at], words[at + 1]
            if not x and not y:
                words[at + 1], words[at] = b, a
                return True
            if x == a and y == b:
                return False
            at = (at + 2) % (2 * CLAIM_SLOTS)
        return True


class Sizes:
    """What is known of sizes: of a file that nobody has seen yet, the mean of those that were read."""

    def __init__(self) -> None:
        self._files = self._bytes = 0

    def add(self, files: int, size: int) -> None:
        self._files, self._bytes = self._files + files, self._bytes + size

    def mean(self) -> int:
        return self._bytes // self._files if self._files else 0


def enough(steps: Iterator[Step], sizes: Sizes) -> tuple[list[Step], bool]:
    """Looks ahead: (steps consumed, whether there is enough work for workers)."""
    ahead, files, size, biggest = [], 0, 0, 0
    for step in steps:
        ahead.append(step)
        if step.same:
            if len(ahead) >= LOOK_MAX:
                break
            continue
        its = step.found.size
        if its == UNSEEN:
            with contextlib.suppress(OSError):  # whoever opens it says what is wrong
                its = os.lstat(step.found.full).st_size
                sizes.add(1, its)
        files, size, biggest = files + 1, size + its, max(biggest, its)
        if files >= FORK_FILES or size - biggest >= FORK_BYTES:
            return ahead, True
    return ahead, False


class _Batch:
    __slots__ = ("results", "steps")

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps
        self.results: Taken | None = None


class _Worker:
    """The parent's side of one worker."""

    def __init__(self, number: int, setup: Setup, claims: Claims, others: list[_Worker]) -> None:
        self.socket, child = socketpair()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            for other in others:
                other.socket.close()
            self.socket.close()
            _child(child, number, setup, claims, parent)
        child.close()
        self.batches: deque[_Batch] = deque()
        self.open = self.reading = self.writing = True
        self.ending = False
        """Whether it was told to end."""

    def fileno(self) -> int:
        return self.socket.fileno()


class Pool:
    """Runs the workers of one intake. Always `stop` it."""

    def __init__(
        self,
        setup: Setup,
        lookup: Callable[[bytes], bytes | None],
        index: Callable[[list[Pack]], None],
        tick: Callable[[int], None],
    ) -> None:
        """`lookup` finds a chunk's row; `index` takes durable packs; `tick` hears of bytes read."""
        self._lookup, self._index, self._tick = lookup, index, tick
        self._workers: list[_Worker] = []
        self._ended: list[Pack] = []
        self._heads: dict[bytes, bytes] = {}
        claims = Claims()
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            for number in range(1, WORKERS + 1):
                self._workers.append(_Worker(number, setup, claims, self._workers))
        except OSError:
            self.stop()
            raise

    def results(
        self, batches: Iterator[list[Step]], meanwhile: Iterator[None]
    ) -> Iterator[tuple[list[Step], Taken | None]]:
        """Each batch with what became of it, in order; None for one that is the same.

        `meanwhile`: work of the caller, a piece of it each time that the workers have enough to do.
        """
        order: deque[_Batch] = deque()
        unsent: deque[_Batch] = deque()
        more = True
        while more or order:
            room = more and len(unsent) < WORKERS * QUEUED and len(order) < AHEAD_MAX
            steps = next(batches, None) if room else None
            if steps is not None:
                order.append(batch := _Batch(steps))
                if not steps[0].same:
                    unsent.append(batch)
                    self._send(unsent)
            elif room:
                more = False
            else:
                if not more and not unsent:
                    self.end()  # who is ready first need not wait for the other
                next(meanwhile, None)
                self._listen()
                self._send(unsent)
            while order and (order[0].results is not None or order[0].steps[0].same):
                done = order.popleft()
                yield done.steps, done.results

    def _send(self, unsent: deque[_Batch]) -> None:
        """Gives batches to workers that have room for them, first to who has the least."""
        while unsent:
            worker = min(self._workers, key=lambda w: len(w.batches))
            if len(worker.batches) >= QUEUED:
                return
            worker.batches.append(batch := unsent.popleft())
            _tell(worker, ("take", [s.task() for s in batch.steps]))

    def end(self) -> None:
        """Tells the workers to end their packs."""
        for worker in self._workers:
            if not worker.ending:
                worker.ending = True
                _tell(worker, ("close", None))

    def heads(self) -> dict[bytes, bytes]:
        """Beginnings of the files that were read (`store.heads`), once that has come to an `end`."""
        while any(w.reading for w in self._workers):
            self._listen()
        return self._heads

    def ended(self) -> list[Pack]:
        """Their last packs, which are on their way to the disk."""
        self.end()
        while any(w.writing for w in self._workers):
            self._listen()
        return self._ended

    def close(self) -> None:
        """Waits until these are there. The workers leave by themselves."""
        while any(w.open for w in self._workers):
            self._listen()

    def stop(self) -> None:
        """Ends the workers, whatever they do."""
        for worker in self._workers:
            worker.socket.close()
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
        for worker in self._workers:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(worker.pid, 0)
        self._workers = []

    def _listen(self) -> None:
        """Waits for word from any worker and acts on it."""
        ready, _, _ = select.select([w for w in self._workers if w.open], [], [])
        for worker in ready:
            message: tuple[str, Any] = receive(worker.socket) or ("gone", None)
            word, body = message
            if word == "done":
                worker.batches.popleft().results = Taken(*body[0])
                self._index(_packs(body[1]))
            elif word == "read":
                self._tick(body)
            elif word == "row":
                _tell(worker, ("row", self._lookup(body)))
            elif word == "heads":
                worker.reading = False
                self._heads |= body
            elif word == "ended":
                worker.writing = False
                self._ended += _packs(body)
            elif word == "durable":
                worker.open = False
            elif word == "refused":
                text, hint, code = body
                raise IdaoError(text, hint=hint, code=code)
            elif word == "bug":
                raise RuntimeError(f"in a worker:\n{body}")
            else:
                raise _gone()


def _tell(worker: _Worker, message: tuple[str, Any]) -> None:
    try:
        send(worker.socket, message)
    except OSError as e:
        raise _gone() from e


def _gone() -> IdaoError:
    return IdaoError(
        "a worker process was ended from outside, perhaps for want of memory",
        hint="run the same command again: what is stored stays stored",
    )


def _packs(plain: list[Any]) -> list[Pack]:
    return [Pack(name, size, [rows]) for name, size, rows in plain]


def batches(steps: Iterator[Step], sizes: Sizes) -> Iterator[list[Step]]:
    """Groups neighbouring steps that are to be read, or that are the same."""
    batch: list[Step] = []
    size = paths = 0
    mean = sizes.mean()
    for step in steps:
        full = len(batch) >= BATCH_FILES or size >= BATCH_BYTES or paths >= BATCH_PATHS
        if batch and (full or step.same != batch[0].same):
            yield batch
            batch, size, paths, mean = [], 0, 0, sizes.mean()
        batch.append(step)
        if not step.same:
            _, full_path, _, its, _ = step.found
            size, paths = size + (mean if its == UNSEEN else its), paths + 2 * len(full_path) + 128
    if batch:
        yield batch


# --- the worker's side ------------------------------------------------------------------------------------


def _child(sock: Socket, number: int, setup: Setup, claims: Claims, parent: int) -> None:
    """Works until told to close; never returns."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with(parent)
        gc.disable()  # a worker makes no cycles, and lives for one intake
        _work(sock, number, setup, claims)
        status = 0
    except IdaoError as e:
        send(sock, ("refused", (e.message, e.hint, e.code)))
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone
    except BaseException:
        import traceback

        with contextlib.suppress(OSError):
            send(sock, ("bug", traceback.format_exc()))
    finally:
        os._exit(status)


def _work(sock: Socket, number: int, setup: Setup, claims: Claims) -> None:
    waiting: deque[Any] = deque()
    known, read = setup.known, [0]

    def lookup(chunk_id: bytes) -> bytes | None:
        prefix = int.from_bytes(chunk_id[:8], "big")
        i = bisect.bisect_left(known, prefix)
        if i == len(known) or known[i] != prefix:
            return None
        # The index is the parent's to read: SQLite must not be carried over a fork.
        send(sock, ("row", chunk_id))
        while (answer := _must(receive(sock)))[0] != "row":
            waiting.append(answer)
        row: bytes | None = answer[1]
        return row

    def tick(n: int) -> None:
        read[0] += n
        if read[0] >= TICK_BYTES:
            send(sock, ("read", read[0]))
            read[0] = 0

    keys, prefix = setup.keys, f"{setup.prefix}-{number}"
    writer = ChunkWriter(
        keys,
        setup.folder,
        prefix,
        setup.run_secret,
        lookup,
        claims.claim,
        search=bool(known),
        direct=setup.direct,
    )
    reader = FileReader(writer, keys, tick)
    while True:
        word, tasks = waiting.popleft() if waiting else _must(receive(sock))
        if word == "close":
            break
        send(sock, ("done", (tuple(reader.take_all(tasks)), _plain(writer.packs.finished()))))
    ended = writer.packs.end()  # the disk has them while the parent is told
    send(sock, ("heads", reader.heads.all()))
    send(sock, ("ended", _plain(ended)))
    writer.packs.close()
    send(sock, ("durable", None))


def _plain(packs: Iterable[Pack]) -> list[Any]:
    # Sorted here, beside the other worker, they cost the parent next to nothing to sort together.
    return [(p.name, p.size, b"".join(sorted(p.rows))) for p in packs]


def _must(message: tuple[str, Any] | None) -> tuple[str, Any]:
    if message is None:
        raise BrokenPipeError
    return message


def known_prefixes(ids: Iterator[bytes]) -> array[int]:
    """The first 8 bytes of each id as numbers; the ids come in order."""
    out = array("Q")
    while block := b"".join(i[:8] for i in islice(ids, 65536)):
        part = array("Q", block)
        if sys.byteorder == "little":
            part.byteswap()
        out.extend(part)
    return out
