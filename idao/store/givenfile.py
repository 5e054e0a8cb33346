"""Opening a file that the user named, without waiting for what never comes.

A named pipe that nobody writes to would hold a command for ever, and opening a device may do something.
Pipes are read all the same: a shell's `<(…)` and `/dev/stdin` are some.
"""

from __future__ import annotations

import errno
import io
import os
import select
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from idao.errors import UsageError

WRITER_WAIT_MS = 2000
"""For the other side of a named pipe that a script starts in the same breath."""
BLOCK = 64 * 1024
"""What a pipe of Linux holds."""


@contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """The file, to read from its start; a pipe is not seekable.

    `UsageError` for a device, or a pipe without a writer; `OSError` as `open` raises it.
    """
    _check_kind(path, os.stat(path).st_mode)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        mode = os.fstat(fd).st_mode
        _check_kind(path, mode)
        piped = stat.S_ISFIFO(mode)
        start = _first_of_pipe(path, fd) if piped else b""
        os.set_blocking(fd, True)
    except BaseException:
        os.close(fd)
        raise
    with io.BufferedReader(_From(start, fd)) if piped else os.fdopen(fd, "rb") as file:
        yield file


def need_file(path: str | Path) -> None:
    """`UsageError` unless it is a regular file, which can be read twice. `OSError` as `stat` raises it."""
    mode = os.stat(path).st_mode
    _check_kind(path, mode)
    if stat.S_ISFIFO(mode):
        raise UsageError(f"'{path}' is a pipe, not a file")


def _check_kind(path: str | Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or _is_input(path):
        return
    raise UsageError(f"'{path}' is a {'socket' if stat.S_ISSOCK(mode) else 'device'}, not a file")


def _is_input(path: str | Path) -> bool:
    """Whether it is standard input by another name: what `-` may read, `/dev/stdin` may."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(0))
    except OSError:
        return False


def _first_of_pipe(path: str | Path, fd: int) -> bytes:
    """What can be read at once, after a writer was given time to come; nothing if it takes its time."""
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    waiting.poll(WRITER_WAIT_MS)
    try:
        start = os.read(fd, BLOCK)
    except BlockingIOError:
        return b""
    if not start:
        raise UsageError(f"nothing comes out of the pipe '{path}': nobody writes to it")
    return start


class _From(io.RawIOBase):
    """A descriptor after the bytes that were read from it already; closes it."""

    def __init__(self, start: bytes, fd: int) -> None:
        super().__init__()
        self._start, self._fd = start, fd

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._start[: len(buffer)] or os.read(self._fd, len(buffer))
        self._start = self._start[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()
