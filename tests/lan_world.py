"""A LAN of network namespaces: one bridge, machines with an interface `lan0` each. Needs root and `ip`.

Nothing in it reaches the machine's own networks: the bridge lives in a namespace of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def available() -> str:
    """Why namespaces cannot be made here; empty if they can."""
    if not shutil.which("ip"):
        return "there is no 'ip' command"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    name = f"idao{os.getpid()}try"
    try:
        ip("netns", "add", name)
        ip("netns", "del", name)
    except (OSError, subprocess.TimeoutExpired) as e:
        return str(e)
    return ""


class Lan:
    """`machines` are namespaces; `ipv4[i]` and `ipv6[i]` their addresses."""

    def __init__(self, count: int, *, v4: bool = True, v6: bool = True) -> None:
        self.tag = f"idao{os.getpid()}"
        self.bridge = f"{self.tag}br"
        self.machines = [f"{self.tag}m{i}" for i in range(count)]
        self.ipv4 = [f"10.77.0.{i + 1}" for i in range(count)] if v4 else []
        self.ipv6 = [f"fd77::{i + 1}" for i in range(count)] if v6 else []

    def make(self) -> None:
        ip("netns", "add", self.bridge)
        ip("-n", self.bridge, "link", "add", "lan", "type", "bridge", "mcast_snooping", "0")
        ip("-n", self.bridge, "link", "set", "lan", "up")
        for i, machine in enumerate(self.machines):
            ip("netns", "add", machine)
            # Both ends are born where they belong: nothing shows up in the machine's own namespace.
            far = ("peer", "name", f"port{i}", "netns", self.bridge)
            ip("-n", machine, "link", "add", "lan0", "type", "veth", *far)
            subprocess.run(
                ["ip", "netns", "exec", machine, "sysctl", "-qw", "net.ipv6.conf.lan0.accept_dad=0"],
                capture_output=True,
            )
            ip("-n", self.bridge, "link", "set", f"port{i}", "master", "lan", "up")
            if self.ipv4:
                ip("-n", machine, "addr", "add", f"{self.ipv4[i]}/24", "dev", "lan0")
            if self.ipv6:
                ip("-n", machine, "addr", "add", f"{self.ipv6[i]}/64", "dev", "lan0", "nodad")
            else:
                ip("-n", machine, "link", "set", "lan0", "addrgenmode", "none")
            ip("-n", machine, "link", "set", "lo", "up")
            ip("-n", machine, "link", "set", "lan0", "up")

    def remove(self) -> None:
        for name in [*self.machines, self.bridge]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20)

    def python(self, machine: int, code: str, *args: object) -> subprocess.Popen[str]:
        """`code` in a Python of its own on a machine, talking over pipes."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self.machines[machine], sys.executable, "-c", code, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"},
        )


@contextmanager
def lan(count: int, *, v4: bool = True, v6: bool = True) -> Iterator[Lan]:
    """Skips the test where namespaces cannot be made."""
    if why := available():
        pytest.skip(f"no network namespaces: {why}")
    made = Lan(count, v4=v4, v6=v6)
    try:
        made.make()
        yield made
    finally:
        made.remove()
