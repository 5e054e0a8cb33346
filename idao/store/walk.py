"""Walking what a person named: every entry below the PATHs, in the order of a manifest, nothing followed.

Order is that of the stored paths as bytes. Within a folder, names are sorted as if a folder's ended in `/`,
which gives that order without holding the whole tree in memory.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

from idao.errors import NotFound, UsageError
from idao.manifest import FILE, FOLDER, LINK, MODE_MASK, PATH_MAX, show_path

STDIN = b"-"
STDIN_NAME = b"stdin"

_PRINT = struct.Struct(">BHQqqQ")
PRINT_BYTES = _PRINT.size
NO_PRINT = bytes(PRINT_BYTES)
"""In place of a fingerprint that must not be trusted: equal to none."""
UNSEEN = -1
"""In place of the size of a file that was only named."""

KEPT_IN_HOME = (b"keys", b"ledgers", b"packs", b"home.db", b"config.toml")

SPECIAL = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Found(NamedTuple):
    """One entry on disk."""

    path: bytes
    """As it is stored."""
    full: bytes
    """As the system opens it."""
    kind: int
    size: int
    """Bytes, or UNSEEN."""
    stamp: bytes
    """Fingerprint: kind, mode, size, mtime, ctime, inode. Equal means unchanged."""


_new = tuple.__new__
"""Makes a named tuple in half the time of its class."""
_Seen = tuple[int, int, bytes]
"""Kind, size and stamp of a `Found`."""
_NAMED: _Seen = (FILE, UNSEEN, NO_PRINT)


def stamp_of(st: os.stat_result) -> bytes:
    kind = FILE if stat.S_ISREG(st.st_mode) else LINK if stat.S_ISLNK(st.st_mode) else FOLDER
    mode = st.st_mode & MODE_MASK
    return _PRINT.pack(kind, mode, st.st_size, st.st_mtime_ns, st.st_ctime_ns, st.st_ino)


def folder_stamp(mode: int) -> bytes:
    """Of an empty folder only the permissions matter."""
    return _PRINT.pack(FOLDER, mode & MODE_MASK, 0, 0, 0, 0)


class Walk:
    """Iterate it once; then `skipped` and `unreadable` say what it could not or would not take."""

    def __init__(
        self, paths: Sequence[bytes], home: tuple[int, int] | None = None, *, see: bool = True
    ) -> None:
        """`home`: (device, inode) of the folder of idao itself, which is never taken in.

        Without `see` files below folders are only named, for who opens each anyway: to ask for size and
        times is most of the work. `NotFound` or `UsageError` when a PATH is missing, special, or named like
        another.
        """
        self.skipped: list[tuple[bytes, str]] = []
        self.unreadable: list[tuple[bytes, str]] = []
        self._home, self._see = home, see
        self._roots = _roots(paths)

    def __iter__(self) -> Iterator[Found]:
        for name, full, st in self._roots:
            if st is None:
                yield Found(STDIN_NAME, STDIN, FILE, 0, NO_PRINT)
            elif stat.S_ISDIR(st.st_mode):
                yield from self._folder(name + b"/" if name else b"", full, st)
            else:
                yield Found(name, full, FILE, st.st_size, stamp_of(st))

    def _folder(self, prefix: bytes, full: bytes, st: os.stat_result) -> Iterator[Found]:
        # A stack, not recursion: folders nest deeper than Python likes to.
        stack = [(prefix, full, st, self._list(prefix, full, st), [0])]
        while stack:
            prefix, full, st, names, taken = stack[-1]
            for key, seen in names:
                if isinstance(seen, os.stat_result):
                    path, below = prefix + key, full + b"/" + key[:-1]
                    stack.append((path, below, seen, self._list(path, below, seen), [0]))
                    break
                taken[0] += 1
                yield _new(Found, (prefix + key, full + b"/" + key, *seen))
            else:
                stack.pop()
                if not taken[0] and prefix and not self._refused(prefix):
                    yield Found(prefix, full, FOLDER, 0, folder_stamp(st.st_mode))
                    taken[0] = 1
                if stack:
                    stack[-1][4][0] += taken[0]

    def _refused(self, prefix: bytes) -> bool:
        return any(last and last[-1][0] == prefix for last in (self.skipped, self.unreadable))

    def _list(
        self, prefix: bytes, full: bytes, st: os.stat_result
    ) -> Iterator[tuple[bytes, _Seen | os.stat_result]]:
        """(name, what was seen of it) of what a folder holds and can be stored, in order.

        A folder's name ends in `/`. Of it alone all is kept: of many files in one folder it would be most of
        the memory.
        """
        if (st.st_dev, st.st_ino) == self._home:
            self.skipped.append((prefix, "the home of idao itself"))
            return iter(())
        if is_home(full):
            self.skipped.append((prefix, "the home of another iDAO: back it up instead"))
            return iter(())
        found: list[tuple[bytes, _Seen | os.stat_result]] = []
        room = PATH_MAX - len(prefix)
        try:
            with os.scandir(full) as entries:
                for e in entries:
                    name = e.name
                    if not self._see and len(name) < room and e.is_file(follow_symlinks=False):
                        found.append((name, _NAMED))
                        continue
                    try:
                        child = e.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        self.skipped.append((prefix + name, "vanished"))
                        continue
                    special = SPECIAL.get(stat.S_IFMT(child.st_mode))
                    if special:
                        self.skipped.append((prefix + name, special))
                    elif len(name) >= room:
                        self.unreadable.append((prefix + name, "path too long"))
                    elif stat.S_ISDIR(child.st_mode):
                        found.append((name + b"/", child))
                    else:
                        kind = FILE if stat.S_ISREG(child.st_mode) else LINK
                        found.append((name, (kind, child.st_size, stamp_of(child))))
        except FileNotFoundError:
            self.skipped.append((prefix, "vanished"))
        except OSError as e:
            self.unreadable.append((prefix or b".", e.strerror or "unreadable"))
        found.sort(key=itemgetter(0))
        return iter(found)


def is_home(folder: bytes) -> bool:
    """Whether a folder is the home of an iDAO, also one that lost a file: its keys are in it."""
    if not os.path.isfile(folder + b"/keys/lock"):
        return False
    return any(os.path.exists(folder + b"/" + name) for name in (b"config.toml", b"home.db"))


def _of_a_home(path: bytes) -> bool:
    """Whether a path is, or is in, what idao keeps in a home. Beside that a home may hold anything."""
    at = os.path.realpath(path)
    while at != (above := os.path.dirname(at)):
        if os.path.basename(at) in KEPT_IN_HOME and is_home(above):
            return True
        at = above
    return False


def _roots(paths: Sequence[bytes]) -> list[tuple[bytes, bytes, os.stat_result | None]]:
    """(stored name, path, stat) of each PATH, in order. A folder named alone gives no name to its entries."""
    roots: list[tuple[bytes, bytes, os.stat_result | None]] = []
    for path in paths:
        if path == STDIN:
            roots.append((STDIN_NAME, STDIN, None))
            continue
        try:
            # A link that a person names is followed; those found below are not.
            st = os.stat(path)
        except OSError as e:
            raise NotFound(f"cannot take in {show_path(path)}: {e.strerror}") from e
        except ValueError as e:
            raise UsageError(f"not a path: {show_path(path)}") from e
        if special := SPECIAL.get(stat.S_IFMT(st.st_mode)):
            raise UsageError(
                f"{show_path(path)} is {special}: only files, folders and - (standard input) can be taken in"
            )
        if (stat.S_ISDIR(st.st_mode) and is_home(path)) or _of_a_home(path):
            raise UsageError(
                f"{show_path(path)} is the home of an iDAO, or of one: its keys are no data",
                hint="to keep a copy of it: idao backup create",
            )
        alone = len(paths) == 1 and stat.S_ISDIR(st.st_mode)
        name = b"" if alone else os.path.basename(os.path.abspath(path)) or b"root"
        roots.append((name, path, st))
    if not roots:
        raise UsageError("nothing to take in: no PATH given")
    names = [name for name, _, _ in roots]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise UsageError(
            f"two PATHs have the same name: {show_path(twice)}",
            hint="contribute the folder that holds them, or rename one",
        )
    folder = [st is not None and stat.S_ISDIR(st.st_mode) for _, _, st in roots]
    order = sorted(zip(roots, folder, strict=True), key=lambda r: r[0][0] + (b"/" if r[1] else b""))
    return [r for r, _ in order]
