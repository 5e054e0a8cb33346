"""Where a ledger file is: what tells a file that was copied or restored from the one that was made here.

A quorum of one that went on in two copies would sign two histories of one chain. So a ledger file remembers
its place when it is made, and nobody signs in it anywhere else (FORMATS: recovery). What this cannot see: a
cloned machine, a file system set back as a whole, bytes written into the old file itself.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from idao.crypto import canonical
from idao.crypto.hashing import Kind, digest

MACHINE_ID_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")
MACHINE_ID_BYTES_MAX = 256
_GET_GENERATION = 0x80087601
"""FS_IOC_GETVERSION (linux/fs.h): a random number that an inode gets each time it is used for a new file."""


def place_of(path: Path) -> bytes:
    """32 bytes for this machine, file system and inode. Stays the same when the file is renamed."""
    found = os.stat(path)
    # The number of a device may be another after a restart; that of its file system stays.
    device = os.statvfs(path).f_fsid or found.st_dev
    return digest(Kind.MACHINE, canonical.encode([_machine(), f"{device} {found.st_ino}", _generation(path)]))


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


def _generation(path: Path) -> bytes:
    """Empty where the file system keeps none (tmpfs, NFS)."""
    answer = bytearray(8)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _GET_GENERATION, answer)
        finally:
            os.close(fd)
    except OSError:
        return b""
    return bytes(answer[:4])
