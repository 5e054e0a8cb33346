"""Backups when disks are full or read-only, and when processes are killed at any step."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from backup_world import _world, command_of, left, verify, world
from cli_world import World, must, run
from shipping import CLONE

from idao.dao import Dao
from idao.hall import backup, packing, recovery
from idao.node.engine import Engine
from idao.store import backup as files
from idao.store.ledger import LedgerStore

__all__ = ["_world", "world"]

# --- disks that will not ------------------------------------------------------------------------------


def shell(script: str, world: World, *args: str) -> subprocess.CompletedProcess[str]:
    """`script` with `idao` as a command, in a process of its own."""
    return subprocess.run(**command_of(script, world, *args), capture_output=True)


def one_line(done: subprocess.CompletedProcess[str], code: int = 1) -> None:
    assert (done.returncode, done.stdout) == (code, ""), done
    assert done.stderr.startswith("idao: error: ") and "Traceback" not in done.stderr


def test_a_full_disk_leaves_the_last_backup(world: World) -> None:
    before = (world.folder / "b").read_bytes()
    for blocks in (1, 40, 200):
        one_line(shell(f"ulimit -f {blocks}; idao backup create -o $W/b --yes", world))
        assert left(world.folder, world.home) == []
    assert (world.folder / "b").read_bytes() == before
    must("backup", "create", "-o", world.folder / "b", "--yes", home=world.home)


def test_a_full_disk_leaves_no_half_home(world: World) -> None:
    new = world.folder / "again"
    for blocks in (1, 40, 200):
        one_line(
            shell(
                f"ulimit -f {blocks}; idao backup restore $W/b --home $W/again --phrase-file $W/words", world
            )
        )
        assert not (new / "config.toml").exists()
    must("backup", "restore", world.folder / "b", "--phrase-file", world.folder / "words", home=new)


def mounts() -> bool:
    return os.getuid() == 0 and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not mounts(), reason="needs a mount namespace")
def test_a_small_disk_and_a_read_only_one(world: World) -> None:
    (world.folder / "disk").mkdir()
    small = "mount -t tmpfs -o size=100k tmpfs $W/disk || exit 99\n"
    one_line(
        shell(
            f"{small} idao backup create -o $W/disk/b; c=$?; ls -A $W/disk; exit $c", world, "unshare", "-m"
        )
    )
    one_line(
        shell(
            f"{small} idao backup restore $W/b --home $W/disk/h --phrase-file $W/words",
            world,
            "unshare",
            "-m",
        )
    )
    locked = "mount --bind $W/disk $W/disk && mount -o remount,ro,bind $W/disk || exit 99\n"
    one_line(shell(f"{locked} idao backup create -o $W/disk/b", world, "unshare", "-m"))
    one_line(
        shell(
            f"{locked} idao backup restore $W/b --home $W/disk/h --phrase-file $W/words",
            world,
            "unshare",
            "-m",
        )
    )
    frozen = "mount --bind $W/home $W/home && mount -o remount,ro,bind $W/home || exit 99\n"
    done = shell(f"{frozen} idao backup create -o $W/from-frozen -q", world, "unshare", "-m")
    assert done.returncode == 0 and "will not remember" in done.stderr, done
    verify(world, world.folder / "from-frozen")


# --- kill -9 ------------------------------------------------------------------------------------------


def die_at(step: int, where: list[tuple[Any, str]], work: Callable[[], object]) -> bool:
    """Runs `work` in a process that kills itself before call number `step` of any function of `where`."""
    if (pid := os.fork()) == 0:
        left_over = [step]

        def tick(real: Any) -> Any:
            def call(*args: Any, **options: Any) -> Any:
                left_over[0] -= 1
                if left_over[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **options)

            return call

        for owner, name in where:
            setattr(owner, name, tick(getattr(owner, name)))
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def test_a_kill_at_any_step_of_create(world: World) -> None:
    out = world.folder / "b"
    old = out.read_bytes()
    where: list[tuple[Any, str]] = [
        (os, "replace"), (os, "fsync"), (files, "snapshot"), (files, "check_bytes"),
        (packing._Packing, "_add"), (files.Writer, "_block"), (packing, "sync_folder"), (packing, "note"),
    ]  # fmt: skip
    step = 0
    while die_at(step, where, lambda: packing.create(Dao.open(world.home), out, with_passphrase=False)):
        step += 1
        data = out.read_bytes()
        assert data == old or verify(world, out)["ok"], "the old one, or a whole new one"
        assert Dao.open(world.home).ledgers.status()
    assert step >= 12
    assert left(world.folder, world.home) == [], "what was left is cleared by the next"
    verify(world, out)


def test_a_kill_at_any_step_of_restore(world: World) -> None:
    new, words = world.folder / "again", (world.folder / "words").read_text().strip()
    where: list[tuple[Any, str]] = [
        (os, "rename"), (os, "fsync"), (os, "replace"), (LedgerStore, "create"), (LedgerStore, "end"),
        (Engine, "_commit"), (recovery.Succession, "_end"), (backup, "_move_in"),
    ]  # fmt: skip
    step = complete = 0
    while die_at(step, where, lambda: backup.restore(world.folder / "b", new, backup.Opener(words))):
        step += 1
        if (new / "config.toml").exists():
            complete += 1
            Dao.open(new).tokens.issue(1)
            assert all(r.ok for r in Dao.open(new).ledgers.audit().values())
            shutil.rmtree(new)
        else:
            assert run("status", home=new).code == 10
        # A home is whole or is not there; the next restore clears what was left.
    assert step >= 20 and complete <= 3
    assert Dao.open(new).assets.check() == [] and not (new / backup.STAGE).exists()


@pytest.mark.slow
def test_real_processes_killed_at_any_time(world: World) -> None:
    big = world.folder / "big"
    big.write_bytes(os.urandom(8 << 20))
    must("contribute", big, home=world.home)
    out = world.folder / "b"
    for n in range(12):
        environ = {**os.environ, "IDAO_HOME": str(world.home), "PYTHONPATH": str(CLONE)}
        process = subprocess.Popen(
            [sys.executable, "-m", "idao", "backup", "create", "-o", str(out), "--yes", "-q"],
            env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(0.15 + 0.03 * n)
        process.kill()
        process.wait()
        backup.inspect(out)
    must("backup", "create", "-o", out, "--yes", home=world.home)
    verify(world, out)
