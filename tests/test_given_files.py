"""Files that the user names: a command never waits for ever for one, and reads a pipe that somebody fills."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import run
from conftest import Lived

from idao.dao import Dao
from idao.store import givenfile

PATIENCE_S = 20
READERS = [
    "verify {x}",
    "verify {proof} {x}",
    "verify {proof} --trust {x}",
    "verify {proof} --tee-policy {x}",
    "verify {proof} --with {x}",
    "tee verify {x}",
    "tee verify {proof} --with {x}",
    "tee verify {proof} --bind {x}",
    "tee policy show {x}",
    "tee collateral import {x}",
    "tee collateral show {x}",
    "contribute {data} --policy {x} --home {open}",
    "contribute {data} --card {x} --home {open}",
    "propose t --text {x}",
    "quorum join {x}",
    "quorum accuse {x}",
    "quorum recover --consent {x} -o {proof}.consent",
    "key recover --phrase-file {x} --home {proof}.new",
    "backup verify {x}",
    "backup verify {proof} --phrase-file {x}",
    "backup restore {x} --home {proof}.new",
    "contribute {data} --passphrase-file {x}",
]


@pytest.fixture(autouse=True)
def _bell(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Who waits is woken, and fails."""

    def ring(*_: object) -> None:
        raise TimeoutError("the command still waits")

    monkeypatch.setattr(givenfile, "WRITER_WAIT_MS", 10)
    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(PATIENCE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, _lived: Lived) -> dict[str, str]:
    """A proof to check, and two homes: one that is open, one that wants a passphrase."""
    folder = tmp_path_factory.mktemp("given")
    proof = folder / "proof"
    proof.write_bytes(Dao.open(_lived.path).proofs.make(_lived.asset, no_files=True)[1])
    os.mkfifo(folder / "pipe")
    locked, opened = folder / "locked", folder / "open"
    (folder / "words").write_text("open\n")
    for home, lock in ((locked, ["--passphrase-file", folder / "words"]), (opened, ["--no-passphrase"])):
        assert run("init", "--name", "ana", *lock, home=home).code == 0
    places = {"proof": proof, "data": _lived.data, "pipe": folder / "pipe", "home": locked, "open": opened}
    return {name: str(place) for name, place in places.items()}


@pytest.mark.parametrize("line", READERS)
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_what_is_no_file_is_refused_at_once(line: str, what: str, world: dict[str, str]) -> None:
    place = world["pipe"] if what == "pipe" else "/dev/zero"
    ran = run(*line.format(x=place, **world).split(), home=Path(world["home"]))
    assert (ran.code, ran.out) == (2, ""), ran
    assert what in ran.err and place in ran.err, ran.err


def test_a_pipe_that_somebody_fills_is_read(world: dict[str, str], tmp_path: Path) -> None:
    """The shell's `<(…)`, standard input by its name, and a named pipe, whoever comes first."""
    idao, proof = f"{sys.executable} -m idao", world["proof"]
    lines = [
        f"{idao} verify <(cat {proof})",
        f"{idao} verify <(sleep 0.2; cat {proof})",
        f"{idao} verify /dev/stdin < {proof}",
        f"cat {proof} | {idao} verify /dev/stdin",
        f"cat {proof} | {idao} verify -",
        f"mkfifo {tmp_path}/p; cat {proof} > {tmp_path}/p & {idao} verify {tmp_path}/p",
    ]
    for line in lines:
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "consistent" in done.stdout, (line, done)


def test_a_writer_may_come_a_little_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(givenfile, "WRITER_WAIT_MS", 10_000)
    pipe, sent = tmp_path / "pipe", os.urandom(1 << 18)
    os.mkfifo(pipe)
    later = threading.Timer(0.05, pipe.write_bytes, [sent])
    later.start()
    with givenfile.opened(pipe) as file:
        assert file.read() == sent
    later.join()


def test_a_standard_input_that_is_a_device_may_be_named() -> None:
    """`/dev/stdin` is what `-` is; nothing else about a device is known."""
    done = subprocess.run(
        [sys.executable, "-m", "idao", "verify", "/dev/stdin"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 6, done


def test_a_socket_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "s"))
        ran = run("verify", tmp_path / "s")
    assert ran.code == 2 and "is a socket" in ran.err
