"""Machines for the tests of faults: namespaces of network and disks, a switch with weather, clocks that lie.

A machine is a sleeping process that holds its namespaces: nothing of it outlives that process. Needs root.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from node_world import Box

TESTS = Path(__file__).resolve().parent


def lacking() -> str:
    """Why machines cannot be made here; empty if they can."""
    if os.getuid():
        return "needs root"
    for tool in ("unshare", "nsenter", "ip", "mount"):
        if shutil.which(tool) is None:
            return f"there is no '{tool}' command"
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun"
    tried = subprocess.run(["unshare", "-m", "-n", "true"], capture_output=True, text=True, timeout=20)
    return tried.stderr.strip()


class Machine:
    """One computer: `within` goes before each command that runs on it."""

    def __init__(self) -> None:
        words = ["unshare", "--mount", "--net", "--propagation", "private", "sleep", "infinity"]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        self.within = ["nsenter", f"--target={self.process.pid}", "--mount", "--net", "--"]

    def ready(self) -> bool:
        """Whether `unshare` has become the sleeper: before that the namespaces are the test's own."""
        mine, its = (os.readlink(f"/proc/{p}/ns/net") for p in ("self", self.process.pid))
        return mine != its and Path(f"/proc/{self.process.pid}/comm").read_text().strip() == "sleep"

    def does(self, *words: object) -> None:
        done = subprocess.run([*self.within, *map(str, words)], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, (words, done.stderr)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)


class Lan:
    """`machines` on one switch. `v4`, `v6`: which addresses they have beside link-local IPv6."""

    def __init__(self, count: int, *, v4: bool, v6: bool, seed: int = 1) -> None:
        self.v4, self.v6, self.seed = v4, v6, seed
        self.machines = [Machine() for _ in range(count)]
        self._switch: subprocess.Popen[str] | None = None

    def open(self, until: Callable[[Callable[[], Any]], Any]) -> None:
        until(lambda: all(m.ready() for m in self.machines))
        pids = [str(m.process.pid) for m in self.machines]
        self._switch = subprocess.Popen(
            [sys.executable, str(TESTS / "switch.py"), str(self.seed), *pids],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._switch.stdout and self._switch.stdout.readline() == "open\n"
        for n, machine in enumerate(self.machines):
            setup = ["sysctl -qw net.ipv6.conf.lan0.accept_dad=0", "ip link set lo up", "ip link set lan0 up"]
            setup += [f"ip addr add 10.77.1.{n + 1}/24 dev lan0"] if self.v4 else []
            setup += [f"ip addr add fd77:1::{n + 1}/64 dev lan0 nodad"] if self.v6 else []
            machine.does("sh", "-c", " && ".join(setup))

    def weather(self, **words: Any) -> None:
        """The weather from now on (`switch.py` says which words there are); none: calm."""
        assert self._switch is not None and self._switch.stdin and self._switch.stdout
        self._switch.stdin.write(json.dumps(words) + "\n")
        self._switch.stdin.flush()
        assert self._switch.stdout.readline(), "the switch has died"

    def part(self, *sides: Sequence[int]) -> None:
        """Each side hears itself alone."""
        every = [(a, b) for side in sides for a in side for b in range(len(self.machines)) if b not in side]
        self.weather(cut=sorted({link for a, b in every for link in ((a, b), (b, a))}))

    def close(self) -> None:
        if self._switch is not None:
            self._switch.kill()
            self._switch.wait(10)
        for machine in self.machines:
            machine.end()


@contextmanager
def lan(count: int, *, v4: bool = True, v6: bool = False) -> Iterator[Lan]:
    """Skips the test where machines cannot be made."""
    from node_world import until

    if why := lacking():
        pytest.skip(f"no machines of namespaces: {why}")
    made = Lan(count, v4=v4, v6=v6)
    try:
        made.open(until)
        yield made
    finally:
        made.close()


class Laptop(Box):
    """A home on a machine of its own, with a clock that may be wrong by what `skew` says."""

    def __init__(self, folder: Path, name: str, machine: Machine) -> None:
        self.clock = folder / f"{name}.clock"
        self.clock.write_bytes(bytes(8))
        self.machine = machine
        super().__init__(folder / f"{name}-disk", name, host="", within=machine.within)

    def command(self, *words: object) -> list[str]:
        run = [*self.within, sys.executable, str(TESTS / "wrong_clock.py"), str(self.clock)]
        return [*run, "--home", str(self.home), *map(str, words)]

    def skew(self, ms: int) -> None:
        """From now on this machine's clock shows that much more, also in processes that run already."""
        with self.clock.open("r+b") as file:
            file.write(struct.pack("<q", ms))
