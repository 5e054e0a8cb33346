"""The second part of `idao demo`: four people, four real nodes on loop-back, one killed, one that lies."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from idao.errors import IdaoError
from idao.hall.service import own_command

NAMES = ("ana", "bob", "cleo", "dora")
PATIENCE_S = 60.0
"""For what takes a second: a machine may be busy."""
LOOK_S = 0.2


class Teller(Protocol):
    """How the story is told: `demo._Story`."""

    folder: Path
    environment: dict[str, str]

    def say(self, text: str) -> None: ...
    def run(
        self, line: str, *more: str, ids: bool = True, home: Path | None = None, code: int = 0
    ) -> str: ...


class Four:
    """A quorum of four processes in the demonstration's folder."""

    def __init__(self, teller: Teller) -> None:
        self.told = teller
        self.homes = {name: teller.folder / name for name in NAMES}
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    def tell(self) -> None:
        try:
            self._found()
            for name in NAMES[1:]:
                self._let_in(name)
            self._until("all four decide", lambda: self._shows("ana", "4 validators, 4 online"))
            self._run("ana", "quorum status", ids=False)
            self._one_is_killed()
            self._one_lies()
        finally:
            for node in self.nodes.values():
                node.kill()
                node.wait()

    def _found(self) -> None:
        self.told.say("four people, each with a home and a node of their own:")
        for name, home in self.homes.items():
            self._quietly(name, "init", "--name", name, "--no-passphrase")
            for key, value in (("hosts", "127.0.0.1"), ("port", str(_free_port())), ("discovery", "off")):
                self._quietly(name, "config", "set", f"node.{key}", value)
            home.chmod(0o700)
        self._run("ana", "quorum create --name clinic-lan")
        self._start("ana")

    def _let_in(self, name: str) -> None:
        """Invite, join, six words, accept: what two people do at two screens."""
        line = self._quietly("ana", "quorum", "invite", "-q")
        joining = subprocess.Popen(
            self._command(name, "quorum", "join", "-"),
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=self.told.environment,
        )  # fmt: skip
        assert joining.stdin is not None and joining.stderr is not None
        joining.stdin.write(line)
        joining.stdin.close()
        words = next((s.partition("six words:")[2].strip() for s in joining.stderr if "six words:" in s), "")
        self.told.say(f"{name} joins by ana's invite; both screens show: {words}")
        self._run("ana", "quorum accept --words", words)
        if joining.wait(PATIENCE_S):
            raise IdaoError(f"the story broke when {name} joined", hint=joining.stderr.read())
        self._start(name)

    def _one_is_killed(self) -> None:
        self.told.say("cleo's machine loses power; the other three go on:")
        self.nodes["cleo"].kill()
        self.nodes["cleo"].wait()
        rides = self.told.folder / "rides.csv"
        rides.write_text("ride,km\n1,12\n2,7\n3,31\n", encoding="utf-8")
        asset = self._run("bob", "contribute --quorum clinic-lan --license CC-BY-4.0", str(rides))
        self._start("cleo")
        self._until("cleo has it too", lambda: asset in self._quietly("cleo", "asset", "list", "-q"))
        self.told.say("cleo is back and has caught up")

    def _one_lies(self) -> None:
        from idao.hall.lying import lie

        self.told.say("dora's node is replaced by one that signs two different blocks:")
        self.nodes["dora"].terminate()
        self.nodes["dora"].wait()
        lie(self.homes["dora"], "clinic-lan")
        self._until("the lie is on the ledger", lambda: self._quietly("ana", "quorum", "forensics", "-q"))
        self._run("ana", "quorum forensics", ids=False)
        self._run("ana", "quorum status", ids=False)
        self._run("bob", "audit --quorum clinic-lan", ids=False)

    # --- commands and nodes

    def _command(self, name: str, *words: str) -> list[str]:
        return [*own_command(), "--home", str(self.homes[name]), *words]

    def _run(self, name: str, line: str, *more: str, ids: bool = True) -> str:
        return self.told.run(line, *more, ids=ids, home=self.homes[name])

    def _quietly(self, name: str, *words: str) -> str:
        done = subprocess.run(
            self._command(name, *words),
            capture_output=True, text=True, stdin=subprocess.DEVNULL, env=self.told.environment,
        )  # fmt: skip
        if done.returncode:
            raise IdaoError(f"the story broke at '{' '.join(words[:2])}'", hint=done.stderr.strip())
        return done.stdout.strip()

    def _start(self, name: str) -> None:
        log = (self.told.folder / f"{name}.log").open("ab")
        with contextlib.closing(log):
            self.nodes[name] = subprocess.Popen(
                self._command(name, "node", "run"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.told.environment,
            )  # fmt: skip
        self._until(f"{name}'s node runs", lambda: self._quietly(name, "node", "status", "-q"))

    def _shows(self, name: str, text: str) -> bool:
        return text in self._quietly(name, "quorum", "status")

    @staticmethod
    def _until(what: str, true: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            if time.monotonic() > deadline:
                raise IdaoError(f"the story broke: it did not come about that {what}")
            time.sleep(LOOK_S)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
