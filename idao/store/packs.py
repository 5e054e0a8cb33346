"""Packs: files of sealed chunks, written once, flushed once, read at any place.

A pack is filled in page-aligned buffers that one writer thread puts on disk past the page cache (O_DIRECT)
while the next chunks are sealed; where the file system will not have that, through the cache. A pack is
durable, its folder included, before the index names it: rows follow, they never lead.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from idao.errors import IdaoError
from idao.store.seal import CHUNK_BYTES_MAX

if TYPE_CHECKING:
    import mmap

PACK_BYTES = 64 * 1024 * 1024
"""A pack is closed at this size: one flush for each, and the unit that is whole or absent after a crash."""
PACK_CHUNKS = 16_384
"""... or at this many chunks: their rows take 2 MiB of memory until they are indexed."""
BLOCK = 4096
"""What O_DIRECT wants lengths and addresses to be multiples of, on every disk sold; also a memory page."""
WRITE_BYTES = 2 * 1024 * 1024
"""Written at once, if no chunk is larger: a large page of memory. Fresh memory costs more than what fills it,
so a second is touched only for the largest chunks, and a free buffer is used again before one is made."""
BUFFER_BYTES = CHUNK_BYTES_MAX + 2 * 1024 * 1024
"""Holds the largest sealed chunk behind a left-over block."""
BUFFERS = 3
"""One being filled, one being written, one waiting: more never helped."""
OPEN_PACKS = 16
"""File descriptors kept for reading."""
SUFFIX = ".pack"


INDEX_ROW = struct.Struct(">32s32sIIIB")
"""Where a sealed chunk lies, the row of table `chunk` but for the pack's name: id, hash of the sealed bytes,
offset, bytes stored, bytes of content, form. Packed it takes half of what a tuple does, and sorts by id."""
INDEX_NUMBERS = struct.Struct(">64xIIIB")
"""Of the same: offset, bytes stored, bytes of content, form."""
_index_row = INDEX_ROW.pack


class Pack:
    """One pack and what is in it."""

    __slots__ = ("name", "rows", "size")

    def __init__(self, name: str, size: int = 0, rows: list[bytes] | None = None) -> None:
        """`rows`: each an INDEX_ROW, or several in one."""
        self.name, self.size = name, size
        self.rows: list[bytes] = [] if rows is None else rows


def disk_error(error: OSError, what: str) -> IdaoError:
    """The refusal for a disk that will not: full, read-only, broken."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space and run the same command again: what is stored stays stored"
        return IdaoError(f"no space left: {what}", hint=hint, code="disk-full")
    return IdaoError(f"{what}: {error.strerror}", code="disk")


class PackWriter:
    """Fills packs `prefix-0`, `prefix-1`, … in one folder. Used by one thread; owns another."""

    def __init__(self, folder: Path, prefix: str, ffi: Any, *, direct: bool = True) -> None:
        self._folder, self._prefix, self._ffi, self._direct = folder, prefix, ffi, direct
        self._count = 0
        self._pack: Pack | None = None
        self._fill = 0  # bytes in the current buffer
        self._start = 0  # offset in the pack of the current buffer
        self._buffer: Any = None  # an mmap, as long as there is a pack
        self._base: Any = None
        self._view = memoryview(b"")
        self._made = 0  # buffers
        self._free: SimpleQueue[mmap.mmap] = SimpleQueue()
        self._work: SimpleQueue[tuple[Any, ...] | None] = SimpleQueue()
        self._done: SimpleQueue[Pack] = SimpleQueue()
        self._ended: list[Pack] = []
        """Packs on their way to the disk, or there, that nobody has been told of."""
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def reserve(self, size: int) -> Any:
        """Address of `size` free bytes; what lies there counts once `commit` says so."""
        if self._pack is None:
            self._begin()
        if self._fill + size > WRITE_BYTES and self._fill >= BLOCK:
            self._flush(self._fill - self._fill % BLOCK)
        if self._error is not None:
            raise disk_error(self._error, f"writing to {self._folder}")
        return self._base + self._fill

    def view(self, size: int) -> memoryview:
        """The `size` bytes at the reserved address."""
        return self._view[self._fill : self._fill + size]

    def commit(self, chunk_id: bytes, stored: int, size: int, form: int, sealed: bytes) -> None:
        """Keeps the `stored` bytes at the reserved address as one sealed chunk."""
        assert self._pack is not None
        offset = self._start + self._fill
        self._pack.rows.append(_index_row(chunk_id, sealed, offset, stored, size, form))
        self._fill += stored
        if offset + stored >= PACK_BYTES or len(self._pack.rows) >= PACK_CHUNKS:
            self._finish()

    def finished(self) -> Iterator[Pack]:
        """Packs that have become durable since the last call."""
        while not self._done.empty():
            pack = self._done.get()
            self._ended.remove(pack)
            yield pack

    def end(self) -> list[Pack]:
        """Ends the last pack; returns all that `finished` has not given. Durable once `close` returns."""
        if self._pack is not None:
            self._finish()
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> list[Pack]:
        """Waits until what was ended is durable; returns what `end` and `finished` have not.

        The writer may be used again afterwards.
        """
        ended = self.end()
        if self._thread is not None:
            self._work.put(None)
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise disk_error(self._error, f"writing to {self._folder}")
        self._done = SimpleQueue()
        return ended

    def _begin(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._write_all, name="idao-packs", daemon=True)
            thread.start()  # may be refused, and then there is none to wait for
            self._thread = thread
        self._pack = Pack(f"{self._prefix}-{self._count}")
        self._count += 1
        self._start = self._fill = 0
        self._take_buffer()
        self._work.put(("open", self._pack.name))

    def _take_buffer(self) -> None:
        if self._free.empty() and self._made < BUFFERS:
            self._made += 1
            self._free.put(memory(BUFFER_BYTES))
        self._buffer = self._free.get()
        self._base = self._ffi.from_buffer("unsigned char[]", self._buffer)
        self._view = memoryview(self._buffer)

    def _flush(self, size: int) -> None:
        """Hands `size` bytes to the writer; what is left over moves to the next buffer."""
        full = self._buffer
        rest = full[size : self._fill]
        self._take_buffer()
        self._buffer[: len(rest)] = rest
        self._work.put(("write", full, size))
        self._start += size
        self._fill = len(rest)

    def _finish(self) -> None:
        assert self._pack is not None
        self._pack.size = self._start + self._fill
        # Padding to whole blocks is cut off again by the writer, at the pack's true size.
        self._work.put(("write", self._buffer, self._fill + -self._fill % BLOCK))
        self._work.put(("finish", self._pack))
        self._ended.append(self._pack)
        self._pack = None

    # --- the writer thread -------------------------------------------------------------------------------

    def _write_all(self) -> None:
        fd = -1
        while (job := self._work.get()) is not None:
            try:
                if self._error is not None:
                    pass  # drain: the filling side must never wait for a buffer in vain
                elif job[0] == "open":
                    fd = open_for_writing(self._folder / (job[1] + SUFFIX), direct=self._direct)
                elif job[0] == "write":
                    _write(fd, memoryview(job[1])[: job[2]])
                else:
                    os.ftruncate(fd, job[1].size)
                    os.fdatasync(fd)
                    os.close(fd)
                    fd = -1
                    sync_folder(self._folder)
                    self._done.put(job[1])
            except OSError as e:
                self._error = e
            if job[0] == "write":
                self._free.put(job[1])
        if fd >= 0:
            os.close(fd)


def memory(size: int) -> mmap.mmap:
    """Zeros that take memory once they are touched, in large pages where the system has such: a few faults in
    place of a thousand."""
    import mmap

    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return pages


def open_for_writing(path: Path, *, direct: bool = True) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    if direct and hasattr(os, "O_DIRECT"):
        try:
            return os.open(path, flags | os.O_DIRECT, 0o600)
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            with contextlib.suppress(FileNotFoundError):  # some file systems create it and then refuse
                os.unlink(path)
    return os.open(path, flags, 0o600)


def _write(fd: int, data: memoryview) -> None:
    while data:
        try:
            n = os.write(fd, data)
        except OSError as e:
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            if e.errno != errno.EINVAL or not flags & getattr(os, "O_DIRECT", 0):
                raise
            fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)  # opened, but will not write that way
            continue
        data = data[n:]


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""Nobody waits for a named pipe that lies where a pack should be."""


class PackReader:
    """Reads sealed chunks; keeps a few packs open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, int] = OrderedDict()

    def read(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes; fewer when the pack is cut short. OSError when it is missing or unreadable."""
        return os.pread(self._opened(name), size, offset)

    def expect(self, name: str, offset: int, size: int) -> None:
        """Has the disk fetch what will be read soon; nothing where the system cannot do that."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._opened(name), offset, size, os.POSIX_FADV_WILLNEED)

    def _opened(self, name: str) -> int:
        fd = self._open.get(name)
        if fd is None:
            if len(self._open) >= OPEN_PACKS:
                os.close(self._open.popitem(last=False)[1])
            fd = self._open[name] = os.open(self._folder / (name + SUFFIX), _READ)
        else:
            self._open.move_to_end(name)
        return fd

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


_PUNCH = 0x02 | 0x01
"""FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE (linux/falloc.h)."""


def punch(path: Path, offset: int, size: int) -> bool:
    """Gives a range of a pack back to the file system. False where that is not possible: it stays taken."""
    import ctypes

    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if fallocate is None:
        return False
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return bool(fallocate(fd, _PUNCH, offset, size) == 0)
    finally:
        os.close(fd)
