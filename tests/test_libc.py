"""Functions of the C library, called by way of cffi: as `ctypes` calls them, and their absence is told."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from idao.store import libc, place

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="statx and prctl are Linux's")

CHILD = """
import os, signal
from idao.store.forks import die_with
parent = os.getpid()
if os.fork() == 0:
    die_with(parent)
    print(os.getpid(), flush=True)
signal.pause()
"""


def test_a_function_that_is_not_there() -> None:
    assert libc.function("no_such_function", "int(*)(int)") is None


@LINUX
def test_the_birth_of_a_file_is_what_statx_says(tmp_path: Path) -> None:
    path = tmp_path / "é\udcff"
    path.touch()
    answer = ctypes.create_string_buffer(256)
    assert ctypes.CDLL(None).statx(-100, os.fsencode(path), 0, 0x800, answer) == 0
    has_birth = struct.unpack_from("=I", answer.raw)[0] & 0x800
    assert place._born(path) == (b"%d %d" % struct.unpack_from("=qI", answer.raw, 80) if has_birth else b"")
    assert place._born(tmp_path / "none") == b""


@LINUX
def test_a_forked_process_ends_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        try:
            # The child holds the other end until it is gone.
            assert parent.communicate(timeout=60)[0] == b""
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
