"""Runs `idao` with a clock that is wrong by what a file says at the moment: 8 bytes, little-endian, ms.

python wrong_clock.py FILE ARGUMENTS…       IDAO_RUN=FILE.py: that script instead of the command
"""

from __future__ import annotations

import mmap
import os
import runpy
import struct
import sys
import time

REAL_TIME_NS = time.time_ns


def main() -> None:
    path = sys.argv.pop(1)
    with open(path, "rb") as file:
        shared = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)

    def time_ns() -> int:
        return int(REAL_TIME_NS() + struct.unpack("<q", shared[:8])[0] * 1_000_000)

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9
    if script := os.environ.get("IDAO_RUN"):
        runpy.run_path(script, run_name="__main__")
    else:
        runpy.run_module("idao", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
