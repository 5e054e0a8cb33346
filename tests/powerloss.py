"""A disk that forgets what was not flushed, replayed from the system calls of a real process.

`record` runs a command under strace and keeps every call that changes a file or folder below `root`, with its
data. `Disk` replays them up to some call and then loses power: of each file it keeps what the last flush had
put down, and of what came later nothing, all, or some (each write anew, perhaps torn at 512 bytes). A name
in a folder (made, renamed, removed) lasts once the folder was flushed; later ones are kept up to some point,
in their order, as journals of file systems do.

Not covered: memory maps (SQLite's -shm, which it makes anew), disks that say flushed and lie, and files
outside `root`.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "openat,write,pwrite64,fsync,fdatasync,ftruncate,fallocate,"
    "rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,sync_file_range,copy_file_range,sendfile"
)
SECTOR = 512
LINE = re.compile(r"^(?:\[pid +)?\d*\]? *(\w+)\((.*)\) += (-?\d+)")
FD = re.compile(r"^(\d+|AT_FDCWD)<((?:[^<>\\]|\\x..)*)>")
TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True)
class Call:
    name: str
    path: str = ""
    data: bytes = b""
    at: int = -1
    """Offset; -1 for a write at the file's position."""
    other: str = ""
    size: int = 0
    fd: str = ""
    said: bool = False
    """A write to standard output."""


def _text(raw: str) -> bytes:
    return bytes.fromhex(raw.replace("\\x", ""))


def _below(folder: str, name: str) -> str:
    return name if name.startswith("/") else f"{folder}/{name}"


def _joined(lines: list[str]) -> list[str]:
    """Calls that strace shows in two lines, because another thread came between, in one."""
    open_, out = {}, []
    for line in lines:
        pid = line.split(None, 1)[0]
        if line.endswith("<unfinished ...>"):
            open_[pid] = line.removesuffix("<unfinished ...>").rstrip()
        elif " resumed>" in line:
            out.append(open_.pop(pid) + line.partition(" resumed>")[2])
        else:
            out.append(line)
    return out


def record(words: list[str], root: Path, trace: Path) -> list[Call]:
    """The calls of `idao WORDS` below `root`. The command must succeed."""
    done = subprocess.run(
        ["strace", "-f", "-qq", "-y", "-xx", "-s", "100000000", "-e", f"trace={CALLS}", "-e", "signal=none",
         "-o", str(trace), sys.executable, "-m", "idao", *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    calls = []
    for line in _joined(trace.read_text().splitlines()):
        found = LINE.match(line.split(None, 1)[1] if line.split(None, 1)[0].isdigit() else line)
        if found and int(found[3]) >= 0 and (call := _call(found[1], found[2], line)):
            inside = call.path.startswith(str(root)) or call.other.startswith(str(root))
            if inside or call.said:
                calls.append(call)
    return calls


def _call(name: str, args: str, line: str) -> Call | None:
    fd, texts = FD.match(args), [_text(t) for t in TEXT.findall(args)]
    place = _text(fd[2]).decode("utf-8", "replace") if fd and "\\x" in fd[2] else fd[2] if fd else ""
    place = place.removesuffix("(deleted)")
    if name in ("copy_file_range", "sendfile"):
        raise AssertionError(f"a call that this disk does not know: {line[:200]}")
    if name in ("write", "pwrite64"):
        assert fd
        numbers = [int(n) for n in re.findall(r", (\d+)", args.rpartition('"')[2])]
        if name == "write" and fd[1] == "1":
            return Call("write", said=True)
        return Call(
            "write", place, texts[0] if texts else b"", numbers[1] if name == "pwrite64" else -1, fd=fd[1]
        )
    if name in ("fsync", "fdatasync"):
        return Call("flush", place)
    if name == "ftruncate":
        return Call("truncate", place, size=int(args.rpartition(", ")[2]))
    if name == "fallocate":
        mode, at, size = re.findall(r", ([^,]+)", args)[-3:]
        return Call("punch", place, at=int(at), size=int(size)) if "PUNCH" in mode else None
    paths = [_below(place, t.decode("utf-8", "surrogateescape")) for t in texts]
    if name == "openat":
        opened = re.search(r"= (\d+)<", line)
        flags = args.rpartition('"')[2]
        if "O_CREAT" in flags or "O_TRUNC" in flags:
            return Call("create", paths[0], size=int("O_TRUNC" in flags), fd=opened[1] if opened else "")
        return Call("opened", paths[0], fd=opened[1] if opened else "")
    if name.startswith("rename"):
        return Call("rename", paths[0], other=paths[1])
    if name.startswith("link"):
        return Call("link", paths[0], other=paths[1])
    if name.startswith("unlink") or name == "rmdir":
        return Call("unlink", paths[0])
    return Call("mkdir", paths[0])


@dataclass
class File:
    durable: bytes = b""
    now: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(offset, data) since the last flush; data None: cut to that length."""


Names = dict[str, File | None]
"""Path -> file; None for a folder."""


class Disk:
    """What is on the disk, and what the process believes is."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.names: Names = {}
        self.durable: Names = {}
        self.waiting: list[tuple[str, Callable[[Names], None]]] = []
        """Changes of names not flushed yet: (folder, change)."""
        self._at: dict[str, int] = {}
        for path in sorted(root.rglob("*")) if root.exists() else ():
            data = None if path.is_dir() else path.read_bytes()
            self.names[str(path)] = None if data is None else File(data, bytearray(data))
        if root.exists():
            self.names[self.root] = None
        self.durable = dict(self.names)

    def _name(self, folder: str, change: Callable[[Names], None]) -> None:
        change(self.names)
        self.waiting.append((folder, change))

    def do(self, call: Call) -> None:
        folder = call.path.rpartition("/")[0]
        if call.fd and call.name in ("create", "opened"):
            self._at[call.fd] = 0
        if call.name == "create" and call.path not in self.names:
            made = File()
            self._name(folder, lambda names: names.__setitem__(call.path, made))
        elif call.name == "mkdir":
            self._name(folder, lambda names: names.__setitem__(call.path, None))
        elif call.name == "unlink":
            self._name(folder, lambda names: names.pop(call.path, None))
        elif call.name == "rename":
            self._name(call.other.rpartition("/")[0], lambda names: _rename(names, call.path, call.other))
        elif call.name == "link" and (same := self.names.get(call.path)) is not None:
            self._name(call.other.rpartition("/")[0], lambda names: names.__setitem__(call.other, same))
        file = self.names.get(call.path)
        if file is None:
            if call.name == "flush" and call.path in self.names:
                self._flush_folder(call.path)
            return
        if call.name == "create" and call.size:
            self._write(file, 0, None)
        elif call.name == "write":
            at = self._at.get(call.fd, 0) if call.at < 0 else call.at
            self._write(file, at, call.data)
            if call.at < 0:
                self._at[call.fd] = at + len(call.data)
        elif call.name == "truncate":
            self._write(file, call.size, None)
        elif call.name == "punch":
            self._write(file, call.at, bytes(min(call.size, max(0, len(file.now) - call.at))))
        elif call.name == "flush":
            file.durable, file.pending = bytes(file.now), []

    def _flush_folder(self, folder: str) -> None:
        for where, change in self.waiting:
            if where == folder:
                change(self.durable)
        self.waiting = [w for w in self.waiting if w[0] != folder]

    @staticmethod
    def _write(file: File, at: int, data: bytes | None) -> None:
        file.pending.append((at, data))
        _apply(file.now, at, data)

    def lose_power(self, target: Path, chance: random.Random | None, keep: bool = False) -> None:
        """Writes what is left below `target`. Without `chance`: all that was not flushed is lost, or kept."""
        names = dict(self.durable)
        kept = len(self.waiting) if keep else chance.randrange(len(self.waiting) + 1) if chance else 0
        for _, change in self.waiting[:kept]:
            change(names)
        for path, file in sorted(names.items()):
            where = target / path.removeprefix(self.root).lstrip("/")
            if file is None:
                where.mkdir(parents=True, exist_ok=True)
                continue
            where.parent.mkdir(parents=True, exist_ok=True)  # a file without its folder could not be found
            left = bytearray(file.durable)
            for at, data in file.pending:
                if keep or (chance and chance.random() < 0.5):
                    if data and chance and chance.random() < 0.3:
                        data = data[: chance.randrange(len(data) // SECTOR + 1) * SECTOR]
                    _apply(left, at, data)
            where.write_bytes(left)


def _apply(content: bytearray, at: int, data: bytes | None) -> None:
    if data is None:
        del content[at:]
        content.extend(bytes(at - len(content)))
    elif data:
        content.extend(bytes(max(0, at - len(content))))
        content[at : at + len(data)] = data


def _rename(names: Names, old: str, new: str) -> None:
    moved = {p: f for p, f in names.items() if p == old or p.startswith(old + "/")}
    for path in moved:
        del names[path]
    for path in [p for p in names if p == new or p.startswith(new + "/")] if moved else ():
        del names[path]
    names.update({new + p[len(old) :]: f for p, f in moved.items()})
