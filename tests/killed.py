"""Ends a real command with SIGKILL at its n-th change of the disk, whichever thread or child makes it.

A small ptrace. The command runs in a fork of the test's own process, where idao is imported already, so
that hundreds of deaths take a minute. Every system call that changes a file or folder counts, one's own
output does not; the call at which it dies is not made any more. Linux on two architectures; `available`
says whether here.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from idao import cli

_TRACEME, _SYSCALL, _SETOPTIONS, _SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x100000  # mark system calls; follow fork, vfork, clone; die with us
_WALL = 0x40000000
_ENTRY = 1
_X86 = {
    1: "write", 18: "pwrite", 20: "writev", 296: "pwritev", 74: "fsync", 75: "fdatasync", 76: "truncate",
    77: "ftruncate", 82: "rename", 264: "rename", 316: "rename", 83: "mkdir", 258: "mkdir", 84: "rmdir",
    87: "unlink", 263: "unlink", 90: "chmod", 91: "chmod", 268: "chmod", 285: "fallocate", 257: "open",
    88: "link", 266: "link", 40: "copy", 326: "copy",
}  # fmt: skip
_ARM = {
    64: "write", 68: "pwrite", 66: "writev", 70: "pwritev", 82: "fsync", 83: "fdatasync", 45: "truncate",
    46: "ftruncate", 38: "rename", 276: "rename", 34: "mkdir", 35: "unlink", 52: "chmod", 53: "chmod",
    47: "fallocate", 56: "open", 36: "link", 71: "copy", 285: "copy",
}  # fmt: skip
CALLS = {"x86_64": _X86, "aarch64": _ARM}.get(platform.machine(), {})
_FILE_FIRST = ("write", "pwrite", "writev", "pwritev")
_CREATES = os.O_CREAT | os.O_TRUNC


class _Info(ctypes.Structure):
    """struct ptrace_syscall_info (linux/ptrace.h), as far as an entry goes."""

    _fields_ = (
        ("op", ctypes.c_uint8), ("pad", ctypes.c_uint8 * 3), ("arch", ctypes.c_uint32),
        ("ip", ctypes.c_uint64), ("sp", ctypes.c_uint64), ("nr", ctypes.c_uint64),
        ("args", ctypes.c_uint64 * 6), ("more", ctypes.c_uint64 * 4),
    )  # fmt: skip


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int = 0, address: int = 0, data: Any = 0) -> int:
    return int(_libc.ptrace(request, pid, address, data))


@dataclass(frozen=True)
class Ended:
    """How a command ended: after how many changes of the disk, and what it had said by then."""

    points: int
    killed: bool
    code: int
    out: str
    err: str
    at: str = ""
    """The call that was not made any more."""


def run(words: list[str], home: Path, kill_at: int = 0) -> Ended:
    """One command; with `kill_at` it dies in place of that change of the disk, counted from 1."""
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            _child(words, home, out.fileno(), err.fileno())
        trace = _Trace(pid, kill_at)
        code = trace.follow()
        said = [_content(f.fileno()) for f in (out, err)]
    return Ended(trace.points, trace.at != "", code, said[0], said[1], trace.at)


def _content(fd: int) -> str:
    return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace")


def _child(words: list[str], home: Path, out: int, err: int) -> None:
    """Never returns."""
    code = 99
    try:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("IDAO")}
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (out, 1), (err, 2)):
            os.dup2(source, target)
        streams = {n: open(fd, "w", closefd=False) for n, fd in (("stdout", 1), ("stderr", 2))}  # noqa: SIM115
        with mock.patch.dict(os.environ, kept, clear=True), mock.patch.multiple(sys, **streams):
            sys.dont_write_bytecode = True
            _ptrace(_TRACEME)
            os.kill(os.getpid(), signal.SIGSTOP)
            code = cli.main(["--home", str(home), *words])
            for stream in streams.values():
                stream.flush()
    finally:
        os._exit(code)


class _Trace:
    """One process with its threads and children."""

    def __init__(self, pid: int, kill_at: int) -> None:
        self.pid, self.kill_at, self.points, self.at = pid, kill_at, 0, ""
        self._tasks = {pid}
        self._info = _Info()

    def follow(self) -> int:
        """Until all of them have ended. The exit code of the first; a signal as its negative."""
        os.waitpid(self.pid, _WALL)
        _ptrace(_SETOPTIONS, self.pid, 0, _OPTIONS)
        _ptrace(_SYSCALL, self.pid)
        code = 0
        while self._tasks:
            task, status = os.waitpid(-1, _WALL)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                self._tasks.discard(task)
                if task == self.pid:
                    code = os.waitstatus_to_exitcode(status)
                continue
            self._tasks.add(task)
            self._stopped(task, os.WSTOPSIG(status), status >> 16)
        return code

    def _stopped(self, task: int, why: int, event: int) -> None:
        deliver = 0
        if why == signal.SIGTRAP | 0x80:
            if self._is_change(task):
                self.points += 1
                if self.points == self.kill_at:
                    for one in self._tasks:
                        with suppress(ProcessLookupError):
                            os.kill(one, signal.SIGKILL)
                    return
        elif not event and why not in (signal.SIGSTOP, signal.SIGTRAP):
            deliver = why
        _ptrace(_SYSCALL, task, 0, deliver)

    def _is_change(self, task: int) -> bool:
        info = self._info
        size = _ptrace(_SYSCALL_INFO, task, ctypes.sizeof(info), ctypes.addressof(info))
        name = CALLS.get(info.nr) if size > 0 and info.op == _ENTRY else None
        if name is None or (name in _FILE_FIRST and info.args[0] <= 2):
            return False
        if name == "open" and not info.args[2] & _CREATES:
            return False
        if self.points + 1 == self.kill_at:
            self.at = name
        return True


def available() -> bool:
    """Whether this machine lets a process trace its child."""
    if not CALLS:
        return False
    with tempfile.TemporaryDirectory() as folder:
        return run(["config", "path"], Path(folder)).code == 0
