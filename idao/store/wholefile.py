"""Writing files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

ASIDE_CHARS = 50
"""Of a file's name in that of the one written first beside it: 200 bytes at most, and a name has 255."""


def write_file(path: Path, data: bytes, mode: int = 0o600, *, new: bool = False) -> None:
    """As `writing`, of what is all there. An `OSError` names the file."""
    try:
        with writing(path, mode, new=new) as f:
            f.write(data)
    except OSError as e:
        e.filename = str(path)
        raise


@contextlib.contextmanager
def writing(path: Path, mode: int = 0o600, *, new: bool = False) -> Iterator[BinaryIO]:
    """A file, there once the block has ended; to a pipe or a device as it stands. `OSError`, also where a
    folder is; with `new`, `FileExistsError` where anything is, whoever was faster."""
    if not path.name or path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():  # /dev/stdout: a file put in its place would break the machine
        with path.open("wb") as f:
            yield f
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A name that nobody can guess, made anew: in a folder of many users somebody may have laid a link there.
    aside = path.with_name(f".{path.name[:ASIDE_CHARS]}.{os.urandom(4).hex()}")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(fd, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        if new:
            os.link(aside, path)
            os.unlink(aside)
        else:
            os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
