"""Every command on a home with every fault: a clear line, an exit code of the contract, nothing lost.

Each fault is put into a copy of one home, each command is given, and when it refused, the fault is taken out
again: then all must be as it was. `IDAO_SWEEP` is how many pairs are drawn (by `IDAO_SEED`), or `all`.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from cli_world import STORY, Ran, World, make, run, settled, tell
from conftest import at_home

from idao.errors import EXIT_CODES
from idao.store.audit import audit

SWEEP = os.environ.get("IDAO_SWEEP", "80")
SEED = os.environ.get("IDAO_SEED", "")
ANSWERS = (0, 3, 6)
LEFT_OUT = {"demo", "node run", "node service install", "node service uninstall", "tee collateral update"}
COMMANDS = [
    *((name, rest) for name, rest, _ in STORY if name not in LEFT_OUT),
    ("node run", "--dry-run"),
    ("quorum repair", "--yes"),
    ("quorum doctor", ""),
    ("quorum join", "nothing"),
    ("peer list", ""),
]

Fault = Callable[[Path], None]


def file(pattern: str) -> Callable[[Path], Path]:
    return lambda home: next(iter(sorted(home.glob(pattern))))


def alone(path: Path) -> Path:
    """A database's file without what lies beside it, held open by no command before."""
    settled()
    for beside in path.parent.glob(path.name + "-*"):
        beside.unlink()
    return path


def gone(path: Path) -> None:
    alone(path).unlink()


def emptied(path: Path) -> None:
    alone(path).write_bytes(b"")


def cut(path: Path) -> None:
    alone(path).write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def noise(path: Path) -> None:
    alone(path).write_bytes(random.Random(1).randbytes(5000))


def flipped(path: Path) -> None:
    data = bytearray(alone(path).read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def a_folder(path: Path) -> None:
    alone(path).unlink()
    path.mkdir()


def a_page_of_nothing(path: Path) -> None:
    data = bytearray(alone(path).read_bytes())
    data[4096:8192] = bytes(4096)
    path.write_bytes(data)


def pragma(text: str) -> Fault:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute(f"pragma {text}")

    return change


def written(text: str) -> Fault:
    return lambda path: path.write_text(text) and None


def a_dead_socket(path: Path) -> None:
    path.parent.joinpath("node.sock").unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path.parent / "node.sock"))


FILES = {
    "config.toml": "config.toml", "home.db": "home.db", "ledger": "ledgers/*.db", "pack": "packs/*.pack",
    "lock": "keys/lock", "identity": "keys/identity.key", "next": "keys/next.key", "data": "keys/data.key",
    "validator": "keys/validator.key", "history": "keys/history", "backup key": "keys/backup.pub",
    "member": "keys/members/*.key", "member's history": "keys/members/*.history",
}  # fmt: skip
DAMAGES: tuple[Fault, ...] = (gone, emptied, cut, noise, flipped, a_folder)
FAULTS: dict[str, tuple[str, Fault]] = {
    **{f"{name} {d.__name__}": (pattern, d) for name, pattern in FILES.items() for d in DAMAGES},
    **{
        f"{name} {what}": (FILES[name], change)
        for name in ("home.db", "ledger")
        for what, change in (
            ("newer", pragma("user_version = 99")),
            ("older", pragma("user_version = 1")),
            ("foreign", pragma("application_id = 7")),
            ("with a page of nothing", a_page_of_nothing),
        )
    },
    "config.toml newer": ("config.toml", written("format = 99\n")),
    "config.toml of other types": (
        "config.toml",
        written('format = 1\nwait = "x"\nidao = 3\n[quorum]\ndefault = 7\n'),
    ),
    "config.toml of strange sections": (
        "config.toml",
        written("format = 1\n[idao]\nname = [1]\n[ledgers]\na = {}\n"),
    ),
    "config.toml without a quorum": ("config.toml", written("format = 1\n")),
    "a dead socket": ("config.toml", a_dead_socket),
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make(tmp_path_factory.mktemp("bad") / "in")
    for command, _, _ in tell(world):
        if command == "backup create":
            break
    fold_logs(world.home)
    return world


def fold_logs(home: Path) -> None:
    for path in [home / "home.db", *(home / "ledgers").glob("*.db")]:
        with closing(sqlite3.connect(path)) as db:
            db.execute("pragma wal_checkpoint(truncate)")


def fresh(stage: World, folder: Path) -> World:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(stage.folder, folder, symlinks=True)
    at_home(folder / "home")
    return World(folder, dict(stage.ids))


def in_contract(ran: Ran) -> None:
    assert ran.code in EXIT_CODES and ran.code != 70, ran
    assert "Traceback" not in ran.out + ran.err, ran
    if ran.code in ANSWERS:
        return
    assert ran.out == "", ran
    errors = [json.loads(line)["error"] for line in ran.err.splitlines() if line.startswith('{"error"')]
    assert len(errors) == 1, ran
    assert errors[0]["message"] and errors[0]["code"], ran


@contextmanager
def held(path: Path) -> Iterator[None]:
    with path.open("a") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def whole(world: World) -> None:
    """What must hold once the fault is gone."""
    for path in (world.home / "ledgers").glob("*.db"):
        assert audit(path).ok, audit(path).findings
    ran = run("asset", "check", home=world.home)
    assert ran.code == 0, ran


def give(world: World, name: str, rest: str) -> Ran:
    words = [*name.split(), *world.fill(rest)]
    extra = [] if "--wait" in words else ["--wait", "0"]
    return run(*words, *extra, "--json", home=world.home)


def pairs() -> list[tuple[str, tuple[str, str]]]:
    every = [(fault, command) for fault in FAULTS for command in COMMANDS]
    if SWEEP == "all":
        return every
    return random.Random("sweep" + SEED).sample(every, int(SWEEP))


@pytest.mark.slow
def test_every_command_on_every_fault(stage: World, tmp_path: Path) -> None:
    for fault, (name, rest) in pairs():
        world = fresh(stage, tmp_path / "in")
        pattern, change = FAULTS[fault]
        path = file(pattern)(world.home)
        sound = path.read_bytes()
        change(path)
        spoilt = path.read_bytes() if path.is_file() else None
        try:
            ran = give(world, name, rest)
            in_contract(ran)
            if ran.code in (0, 3):
                continue
            now = path.read_bytes() if path.is_file() else None
            assert now == spoilt or fault.endswith("newer") or path.suffix == ".db", (
                "it wrote into what it refused"
            )
            shutil.rmtree(path) if path.is_dir() else None
            alone(path).write_bytes(sound)
            whole(world)
        except AssertionError as e:
            raise AssertionError(f"idao {name} {rest} with {fault}") from e


@pytest.mark.slow
@pytest.mark.parametrize("where", ["nowhere", "a file", "an empty folder"])
def test_every_command_without_a_home(stage: World, tmp_path: Path, where: str) -> None:
    home = tmp_path / "home"
    home.write_text(
        "not a home"
    ) if where == "a file" else home.mkdir() if where == "an empty folder" else None
    for name, rest in COMMANDS:
        if name in ("init", "key recover", "backup restore"):
            continue
        words = [*name.split(), *World(stage.folder, stage.ids).fill(rest)]
        if "--home" not in words and not rest.startswith("-o"):
            in_contract(run(*words, "--wait", "0", "--dry-run", "--json", home=home))


@pytest.mark.slow
def test_every_command_while_another_process_works(stage: World, tmp_path: Path) -> None:
    some = COMMANDS if SWEEP == "all" else random.Random("busy" + SEED).sample(COMMANDS, 30)
    for name, rest in some:
        world = fresh(stage, tmp_path / "in")
        with held(world.home / "lock"), held(world.home / "contents.lock"), held(world.home / "node.lock"):
            ran = give(world, name, rest)
        in_contract(ran)
        if ran.code not in ANSWERS:
            whole(world)
