"""Homes with real nodes: processes of `idao`, TLS over loop-back, nothing faked."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PATIENCE_S = 90.0
"""For things that take a second: the machine may be busy with other tests."""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def until(what: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """What `what` gives once it is true."""
    deadline = time.monotonic() + seconds
    while True:
        if found := what():
            return found
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.1)


class Box:
    """One person's home and node. `within` goes before each command (`ip netns exec …`)."""

    def __init__(self, folder: Path, name: str, host: str = "127.0.0.1", within: Sequence[str] = ()) -> None:
        self.home, self.name, self.within = folder / name, name, list(within)
        self.node: subprocess.Popen[str] | None = None
        self.log = folder / f"{name}.log"
        self.must("init", "--name", name, "--no-passphrase")
        if host:
            self.must("config", "set", "node.hosts", host)
            self.must("config", "set", "node.port", str(free_port()))
            self.must("config", "set", "node.discovery", "off")

    def command(self, *words: object) -> list[str]:
        return [*self.within, sys.executable, "-m", "idao", "--home", str(self.home), *map(str, words)]

    def run(self, *words: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, input=stdin, timeout=PATIENCE_S * 2
        )

    def must(self, *words: object, stdin: str = "") -> str:
        """The last line of what a command prints."""
        ran = self.run(*words, stdin=stdin)
        assert ran.returncode == 0, (self.name, words, ran)
        return (ran.stdout.strip().splitlines() or [""])[-1]

    def json(self, *words: object) -> Any:
        ran = self.run(*words, "--json")
        assert ran.returncode in (0, 3), (self.name, words, ran)
        return json.loads(ran.stdout)

    # --- the node

    def up(self) -> None:
        with self.log.open("a") as log:
            self.node = subprocess.Popen(
                self.command("node", "run"), stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True
            )
        until(lambda: self.node.poll() is not None or self.running())  # type: ignore[union-attr]
        assert self.node.poll() is None, self.log.read_text()

    def running(self) -> bool:
        ran = self.run("node", "status", "--json")
        return ran.returncode == 0 and json.loads(ran.stdout)["running"]

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.node is not None and self.node.poll() is None:
            os.kill(self.node.pid, number)
            self.node.wait(30)
        self.node = None

    def status(self) -> Any:
        return self.json("quorum", "status")


def pair(founder: Box, joiner: Box, *more: str) -> None:
    """Invite, join, accept, as three people at three screens would."""
    line = founder.must("quorum", "invite", "-q")
    joining = subprocess.Popen(
        joiner.command("quorum", "join", "-", *more),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert joining.stdin and joining.stderr
    joining.stdin.write(line + "\n")
    joining.stdin.close()
    said = ""
    for heard in joining.stderr:
        said += heard
        if "six words:" in heard:
            break
    assert "six words:" in said, said
    words = heard.partition("six words:")[2].strip()
    founder.must("quorum", "accept", "--words", words, "--wait", "60")
    rest = joining.stderr.read()
    assert joining.wait(PATIENCE_S) == 0, said + rest


def quorum(folder: Path, names: Sequence[str], make: Callable[[str], Box] | None = None) -> list[Box]:
    """As many homes with running nodes, one quorum, everybody active; the first is its founder."""
    boxes = [(make or (lambda name: Box(folder, name)))(name) for name in names]
    boxes[0].must("quorum", "create", "--name", "clinic-lan")
    boxes[0].up()
    for box in boxes[1:]:
        pair(boxes[0], box)
        box.up()
    until(lambda: boxes[0].status()["size"] == len(names))
    if len(names) >= 4:
        until(lambda: not boxes[0].status()["founder_mode"])
    return boxes
