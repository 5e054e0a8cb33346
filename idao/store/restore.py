"""Writing a version back to disk, into a folder that may hold anything and paths that may claim anything.

Every name is opened relative to its folder's descriptor, folders without following links, files only when
they do not exist. So no manifest, and nobody who swaps a folder for a link meanwhile, can reach outside.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol

from idao.errors import IdaoError, NotFound, Refused
from idao.manifest import FILE, FOLDER, HOLE, LINK, show_path
from idao.store.packs import disk_error
from idao.store.version import StoredFile, Version

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Meter(Protocol):
    def bytes_read(self, n: int) -> None: ...
    def file(self, size: int) -> None: ...
    def end(self) -> None: ...


def restore(version: Version, target: Path, paths: set[bytes] | None, meter: _Meter) -> int:
    """Writes all entries, or those whose path or folder is in `paths`; returns how many.

    `NotFound` when a wanted path is not there; `Refused` with code `exists` for what is in the way.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        root = os.open(target, _DIR & ~os.O_NOFOLLOW)
    except OSError as e:
        raise disk_error(e, f"cannot write to {target}") from e
    count, missing = 0, set(paths or ())
    try:
        for file in version.all():
            if paths is not None:
                hit = {p for p in missing | paths if _covers(p, file.entry.path)}
                if not hit:
                    continue
                missing -= hit
            _restore_one(root, file, meter)
            count += 1
    finally:
        os.close(root)
    if missing:
        raise NotFound(f"no such file in this version: {show_path(min(missing))}")
    meter.end()
    return count


def _covers(wanted: bytes, path: bytes) -> bool:
    return path == wanted or path.startswith(wanted.rstrip(b"/") + b"/")


def _restore_one(root: int, file: StoredFile, meter: _Meter) -> None:
    entry = file.entry
    folder, _, name = entry.path.rstrip(b"/").rpartition(b"/")
    try:
        at = _open_folder(root, folder)
        try:
            if entry.kind == FOLDER:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, entry.mode | 0o700, dir_fd=at)
            elif entry.kind == LINK:
                os.symlink(entry.target, name, dir_fd=at)
            else:
                _write_file(at, name, file, meter)
        finally:
            os.close(at)
    except FileExistsError as e:
        raise Refused(
            f"{show_path(entry.path)} exists already; nothing is overwritten",
            hint="restore into a new folder: idao asset get ASSET -o DIR",
            code="exists",
        ) from e
    except OSError as e:
        raise disk_error(e, f"cannot write {show_path(entry.path)}") from e
    meter.file(0)


def _open_folder(root: int, folder: bytes) -> int:
    """A descriptor of the folder below `root`, made where it is missing."""
    at = os.dup(root)
    for name in folder.split(b"/") if folder else ():
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=at)
            below = os.open(name, _DIR, dir_fd=at)
        finally:
            os.close(at)
        at = below
    return at


def _write_file(at: int, name: bytes, file: StoredFile, meter: _Meter) -> None:
    entry = file.entry
    assert entry.kind == FILE
    fd = os.open(name, _NEW, 0o600, dir_fd=at)
    try:
        offset = 0
        for i, part in enumerate(file.parts):
            if part.form != HOLE:
                data = memoryview(file.part(i))
                while data:
                    data = data[os.pwrite(fd, data, offset + part.size - len(data)) :]
            offset += part.size
            meter.bytes_read(part.size)
        os.ftruncate(fd, entry.size)
        os.fchmod(fd, entry.mode)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
    except (OSError, IdaoError):
        # Half a file would pass for a whole one.
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=at)
        raise
    finally:
        os.close(fd)
