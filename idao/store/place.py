"""Where a ledger file is: what tells a file that was copied or restored from the one that was made here.

A quorum of one that went on in two copies would sign two histories of one chain. So a ledger file remembers
its place when it is made, and nobody signs in it anywhere else (FORMATS: recovery). What this cannot see: a
cloned machine, a file system set back as a whole, bytes written into the old file itself.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

from idao.crypto import canonical
from idao.crypto.hashing import Kind, digest
from idao.store import libc

MACHINE_ID_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")
MACHINE_ID_BYTES_MAX = 256
_STATX = "int(*)(int, const char *, int, unsigned int, void *)"
_AT_FDCWD, _STATX_BTIME = -100, 0x800
_BTIME_AT = struct.Struct("=qI")
"""Seconds and nanoseconds; `stx_btime` stands at byte 80 of struct statx (linux/stat.h)."""


def place_of(path: Path) -> bytes:
    """32 bytes for this machine, file system and inode. Stays the same when the file is renamed; is another
    while the file has a second name."""
    found = os.stat(path)
    # The number of a device may be another after a restart; that of its file system stays.
    device = os.statvfs(path).f_fsid or found.st_dev
    place = [_machine(), f"{device} {found.st_ino}", _born(path)]
    if found.st_nlink > 1:  # a hard link, of another home: SQLite keeps a log of pages for each name
        place.append(b"%d names" % found.st_nlink)
    return digest(Kind.MACHINE, canonical.encode(place))


def _machine() -> bytes:
    """Empty in most containers: there file system and inode alone must do."""
    for name in MACHINE_ID_FILES:
        try:
            with open(name, "rb") as f:
                if found := f.read(MACHINE_ID_BYTES_MAX).strip():
                    return found
        except OSError:
            continue
    return b""


def _born(path: Path) -> bytes:
    """When the inode came to be, in nanoseconds: it may have been another file's before. Empty where unknown.

    By its name: opening the file and closing it again would drop the locks that SQLite holds on it.
    """
    statx = libc.function("statx", _STATX)
    answer = libc.ffi.new("char[]", 256)
    if statx is None or statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, answer):
        return b""
    found = libc.ffi.buffer(answer)[:]
    if not int.from_bytes(found[:4], sys.byteorder) & _STATX_BTIME:
        return b""
    return b"%d %d" % _BTIME_AT.unpack_from(found, 80)
