"""Full and read-only disks, and clocks that jump, met by real commands in a home that lives there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import Lived, at_home

from idao.dao import Dao
from idao.home import now_ms, show_time
from idao.store import moments
from idao.store.audit import audit
from idao.store.home_db import open_home_db

YEAR_MS = 365 * 24 * 3600 * 1000


def mounts() -> bool:
    return (
        shutil.which("unshare") is not None
        and os.getuid() == 0
        and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    )


# --- disks --------------------------------------------------------------------------------------------

SETUP = """
set -u
idao() { "$PYTHON" -m idao --home "$W/disk/home" "$@"; }
said() { # NAME COMMAND...: its exit code, and how many lines it had for stderr
  name=$1; shift; "$@" > $W/out 2> $W/err; code=$?
  grep -i -e 'I/O error' -e 'unable to open' $W/err >&2
  echo "$name $code $(grep -c '^idao: error' $W/err) $(grep -c Traceback $W/err)"; }
mount -t tmpfs -o size=64m tmpfs $W/disk || exit 99
idao init --name ana --no-passphrase -q > $W/out 2>&1 || exit 98
idao contribute $W/small --name small -q > $W/out 2>&1 || exit 97
"""
FULL = """
used=$(du -sk $W/disk | cut -f1)
for room in $ROOMS; do
  mount -o remount,size=$((used + room))k $W/disk || exit 96
  said "contribute" idao contribute $W/big --name big
  said "issue" idao account issue 5
  said "status" idao status
  mount -o remount,size=64m $W/disk || exit 95
  said "audit" idao audit
  said "check" idao asset check
  used=$(du -sk $W/disk | cut -f1)
done
said "again" idao contribute $W/big --name big
idao account list --json > $W/balances
"""
SMALL_BLOCKS = """
set -u
idao() { "$PYTHON" -m idao --home "$W/disk/home" "$@"; }
said() { name=$1; shift; "$@" > $W/out 2> $W/err; code=$?
  grep -i -e 'I/O error' -e 'unable to open' $W/err >&2
  echo "$name $code $(grep -c '^idao: error' $W/err) $(grep -c Traceback $W/err)"; }
truncate -s 40M $W/image && mkfs.ext4 -q -b 1024 -m 0 $W/image && mount -o loop $W/image $W/disk || exit 77
idao init --name ana --no-passphrase -q > $W/out 2>&1 || exit 98
idao contribute $W/small --name small -q > $W/out 2>&1 || exit 97
for room in $ROOMS; do
  free=$(df -k --output=avail $W/disk | tail -1)
  dd if=/dev/zero of=$W/disk/filler bs=1k count=$((free - room)) 2> $W/err
  sync -f $W/disk
  said "contribute" idao contribute $W/big --name big
  said "issue" idao account issue 5
  said "status" idao status
  rm $W/disk/filler
  said "audit" idao audit
  said "check" idao asset check
done
umount $W/disk
"""
LOCKED = """
mount -o remount,ro $W/disk || exit 96
said "contribute" idao contribute $W/big --name big
said "issue" idao account issue 5
said "rotate" idao key rotate
said "config" idao config set wait 5
said "forget" idao asset forget small --yes
said "status" idao status
said "audit" idao audit
said "check" idao asset check
said "doctor" idao doctor
mount -o remount,rw $W/disk
said "issue-again" idao account issue 5
"""


def on_a_disk(folder: Path, script: str, setup: str = SETUP, **more: str) -> list[tuple[str, int, int, int]]:
    """(what, exit code, lines that say an error, tracebacks) of each command of the script."""
    (folder / "disk").mkdir()
    (folder / "small").write_text("a,b\n1,2\n")
    (folder / "big").write_bytes(os.urandom(3_000_000))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("IDAO")}
    environment.update(W=str(folder), PYTHON=sys.executable, TMPDIR=str(folder), **more)
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", setup + script], env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("needs an ext4 of its own")
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stderr == "", "what is wrong has other words"
    rows = [line.split() for line in done.stdout.splitlines()]
    return [(name, int(code), int(lines), int(traces)) for name, code, lines, traces in rows]


def full(folder: Path, rooms: str) -> None:
    rows, issued = on_a_disk(folder, FULL, ROOMS=rooms), 0
    for name, code, lines, traces in rows:
        assert traces == 0 and lines == (1 if code else 0), (name, code)
        assert code in ((0, 1) if name in ("contribute", "issue", "status") else (0,)), rows
        issued += 5 if (name, code) == ("issue", 0) else 0
    assert any(row[:2] == ("contribute", 1) for row in rows), "the disk was never full"
    text = (folder / "balances").read_text()
    credits = [int(a["value"]) for a in json.loads(text)["accounts"] if a["unit"] != "stake"]
    # What was refused for want of space may wait in the outbox and go through later; nothing said is lost.
    assert sum(credits) >= issued


@pytest.mark.slow
@pytest.mark.skipif(not mounts(), reason="needs a mount namespace")
def test_disks_of_many_sizes(tmp_path: Path) -> None:
    full(tmp_path, "0 8 16 40 200 1000 3100")


@pytest.mark.slow
@pytest.mark.skipif(not mounts(), reason="needs a mount namespace")
def test_a_full_disk_of_small_blocks(tmp_path: Path) -> None:
    """SQLite's index is mapped, and has holes there: touching one that has no room would end the process."""
    rows = on_a_disk(tmp_path, SMALL_BLOCKS, setup="", ROOMS="0 12 20 60 150 1000")
    for name, code, lines, traces in rows:
        assert traces == 0 and lines == (1 if code else 0), (name, code)
        assert code in ((0, 1) if name in ("contribute", "issue", "status") else (0,)), rows
    assert ("issue", 1, 1, 0) in rows, "the disk was never full"


@pytest.mark.slow
@pytest.mark.skipif(not mounts(), reason="needs a mount namespace")
def test_a_read_only_disk(tmp_path: Path) -> None:
    codes = {}
    for name, code, lines, traces in on_a_disk(tmp_path, LOCKED):
        codes[name] = code
        assert traces == 0 and lines == (1 if code not in (0, 6) else 0), (name, code)
    writing = {"contribute", "issue", "rotate", "config", "forget"}
    assert {name for name, code in codes.items() if code} == writing, codes
    assert {codes[name] for name in writing} == {1}


# --- clocks -------------------------------------------------------------------------------------------

CLOCK = """
import sys, time
real, late = time.time_ns, int(sys.argv[1]) * 1_000_000
time.time_ns = lambda: real() + late
from idao import cli
sys.exit(cli.main(sys.argv[2:]))
"""
"""idao under a clock that is wrong by so many milliseconds: every time it asks for comes from `time_ns`.
Times of files are still the kernel's."""


def at(late_ms: int, home: Path, *words: str) -> tuple[int, Any]:
    command = [sys.executable, "-c", CLOCK, str(late_ms), "--home", str(home), "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout or done.stderr.splitlines()[-1])


def test_a_clock_that_jumps(lived: Lived) -> None:
    """To and fro by years: commands go on, the blocks' times only rise, the doctor says what is wrong."""
    home = at_home(lived.path)
    for late in (-YEAR_MS, 10 * YEAR_MS, 0):
        code, said = at(late, home, "account", "issue", "1")
        assert code == 0, (late, said)
    (lived.data / "more").write_text("x")
    assert at(0, home, "contribute", str(lived.data), "--name", "clinic 2026")[0] == 0
    assert at(-YEAR_MS, home, "asset", "check")[0] == 0
    store = Dao.open(home).store
    times = [store.header(h).time_ms for h in range(1, store.height + 1)]
    assert times == sorted(set(times)) and audit(store.path).ok
    code, said = at(0, home, "doctor")  # ten years behind the newest block
    clock = next(c for c in said["checks"] if c["name"] == "clock")
    assert code == 6 and clock["status"] == "fail" and "the newest block" in clock["detail"]
    assert (
        next(c for c in at(-30 * YEAR_MS, home, "doctor")[1]["checks"] if c["name"] == "clock")["status"]
        == "fail"
    )


def test_a_backup_from_the_future_is_no_reason_to_stop_reminding(lived: Lived, tmp_path: Path) -> None:
    home = at_home(lived.path)
    assert at(10 * YEAR_MS, home, "backup", "create", "-o", str(tmp_path / "b"))[0] == 0
    with closing(open_home_db(home / "home.db")) as db:
        moments.remember(db, moments.BACKUP_VERIFIED, now_ms())
    backup = next(c for c in at(0, home, "doctor")[1]["checks"] if c["name"] == "backup")
    assert backup["status"] == "warn" and "to come" in backup["detail"]


@pytest.mark.parametrize("late_ms", [8000 * YEAR_MS, -100 * YEAR_MS])
def test_a_clock_beyond_all_times(lived: Lived, late_ms: int) -> None:
    for words in (("account", "issue", "5"), ("contribute", str(lived.data))):
        code, said = at(late_ms, lived.path, *words)
        assert (code, said["error"]["code"]) == (1, "clock")
    code, said = at(late_ms, lived.path, "doctor")
    assert code == 6 and "clock" in [c["name"] for c in said["checks"] if c["status"] == "fail"]
    assert at(late_ms, lived.path, "asset", "list")[0] == 0


@pytest.mark.parametrize("ms", [-1, 1 << 62, 253_402_300_800_000])
def test_times_that_rfc_3339_cannot_say(ms: int) -> None:
    assert show_time(ms) in ("1970-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z")
