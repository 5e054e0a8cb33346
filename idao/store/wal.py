"""What a database's log of pages (`-wal`) can tell of damage, where SQLite itself says nothing.

SQLite takes such a log up to the first frame whose checksum is wrong, as after a power cut, and drops the
rest: committed transactions among it. A power cut spoils only frames of the last transaction, since each
commit is flushed before the next begins. So a wrong frame with two commits behind it is damage, and so is a
wrong head. Within the last transaction nobody can tell: what home.db knows of the ledger is compared instead
(`store.moments`). The format: https://www.sqlite.org/fileformat2.html#walformat
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

HEAD, FRAME_HEAD = 32, 24
MAGIC = 0x377F0682
"""Checksums over little-endian words; one more is big-endian."""
PAGE_BYTES_MIN, PAGE_BYTES_MAX = 512, 65536
TRIES = 3
"""A writer may begin the log anew while it is read."""
COMMITS_BEHIND = 2
"""The first may belong to the transaction of the wrong frame itself."""


def wrong(database: Path) -> str:
    """What is wrong with the log beside `database`, in words; empty where nothing is, or can be known."""
    path = database.with_name(database.name + "-wal")
    for _ in range(TRIES):
        try:
            with path.open("rb") as file:
                head = file.read(HEAD)
                found = _look(head, file) if head else ""
                file.seek(0)
                if file.read(HEAD) == head:
                    return found
        except FileNotFoundError:
            return ""
        except OSError as e:
            return f"its log cannot be read: {e.strerror}"
    return ""


def _look(head: bytes, file: BinaryIO) -> str:
    if len(head) < HEAD:
        return ""
    magic, _, page = struct.unpack_from(">3I", head)
    order = "<" if magic == MAGIC else ">"
    sound = magic in (MAGIC, MAGIC + 1) and _sum(head[:24], (0, 0), order) == struct.unpack(">2I", head[24:])
    if not sound or not PAGE_BYTES_MIN <= page <= PAGE_BYTES_MAX:
        return "the head of its log is damaged: what the log holds is lost"
    salt, before, bad, behind = head[16:24], struct.unpack(">2I", head[24:]), 0, 0
    for number, (frame, content) in enumerate(_frames(file, page), 1):
        _, size, *_ = struct.unpack(">6I", frame)
        good = frame[8:16] == salt and _sum(frame[:8] + content, before, order) == struct.unpack(
            ">2I", frame[16:]
        )
        before = struct.unpack(">2I", frame[16:])
        if not good:
            bad = bad or number
        elif bad and size:
            behind += 1
        if behind == COMMITS_BEHIND:
            return f"frame {bad} of its log is damaged: later transactions are lost"
    return ""


def _frames(file: BinaryIO, page: int) -> Iterator[tuple[bytes, bytes]]:
    while len(frame := file.read(FRAME_HEAD)) == FRAME_HEAD:
        if len(content := file.read(page)) < page:
            return
        yield frame, content


def _sum(data: bytes, start: tuple[int, ...], order: str) -> tuple[int, int]:
    a, b = start
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for i in range(0, len(words), 2):
        a = (a + words[i] + b) & 0xFFFFFFFF
        b = (b + words[i + 1] + a) & 0xFFFFFFFF
    return a, b
