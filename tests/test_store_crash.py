"""`kill -9` at every point where the store writes: it opens, and nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from idao.store.contents import Contents

KEY = bytes(range(32))

ACT = '''
import os, signal, sqlite3, sys
from pathlib import Path
home, src, workers, crash_at = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "workers", int(sys.argv[4])
count = 0

def point():
    """One more write; the chosen one is the last thing this process does."""
    global count
    count += 1
    if count == crash_at:
        os.kill(os.getpid(), signal.SIGKILL)

def counted(name):
    real = getattr(os, name)
    def call(*args, **kw):
        point()
        return real(*args, **kw)
    setattr(os, name, call)

for name in ("write", "pwrite", "fdatasync", "fsync", "ftruncate", "unlink"):
    counted(name)

class Db(sqlite3.Connection):
    def execute(self, sql, *args):
        if not sql.lstrip().startswith(("select", "pragma")):
            point()
        return super().execute(sql, *args)
    def executemany(self, *args):
        point()
        return super().executemany(*args)

real_connect = sqlite3.connect
sqlite3.connect = lambda *a, **kw: real_connect(*a, factory=Db, **kw)

from idao.store import chunks, forks, packs, workers as pool
from idao.store.contents import Contents
packs.PACK_BYTES = 200_000
chunks.RACY_NS = 0
pool.FORK_FILES = 2
pool.BATCH_FILES = 2
forks.may_fork = lambda: workers
paths = [os.fsencode(src)]
with Contents(home, bytes(range(32))) as c:
    first = c.last_from(paths)
    second = c.take_in(paths, first).ref
    print("took", second.hex(), flush=True)
    c.forget(first)
    print("forgot", flush=True)
    print("points", count, flush=True)
'''


def act(home: Path, src: Path, how: str, crash_at: int) -> tuple[int, list[list[str]]]:
    done = subprocess.run(
        [sys.executable, "-c", ACT, home, src, how, str(crash_at)], capture_output=True, text=True, timeout=60
    )
    # A killed worker is reported by its parent; all else is a bug.
    assert done.returncode in (0, -signal.SIGKILL) or "ended from outside" in done.stderr, done.stderr
    return done.returncode, [line.split() for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[bytes, bytes], bytes]:
    """(a home with one version, a source that has changed since, the version's files, its ref)."""
    base = tmp_path_factory.mktemp("crash")
    src, home = base / "src", base / "home"
    src.mkdir()
    for i in range(8):
        (src / f"f{i}").write_bytes(os.urandom(30_000))
    (src / "big").write_bytes(os.urandom(900_000))
    with Contents(home, KEY) as c:
        first = c.take_in([os.fsencode(src)])
    old = {os.fsencode(p.name): p.read_bytes() for p in src.iterdir()}
    for i in range(0, 8, 2):
        (src / f"f{i}").write_bytes(os.urandom(40_000))
    (src / "more").write_bytes(os.urandom(1_200_000))
    return home, src, old, first.ref


def files(c: Contents, ref: bytes) -> dict[bytes, bytes]:
    return {f.entry.path: f.read() for f in c.open_manifest(ref).all()}


def judge(home: Path, src: Path, old: dict[bytes, bytes], first: bytes, said: list[list[str]]) -> None:
    """What must hold after a crash, given what was acknowledged before it."""
    new = {os.fsencode(p.name): p.read_bytes() for p in src.iterdir()}
    words = [line[0] for line in said]
    with Contents(home, KEY) as c:
        assert c.check() == []
        versions = c.versions()
        if first in versions:
            assert files(c, first) == old
        else:
            assert "took" in words, "a version went before it was to be forgotten"
        if "took" in words:
            assert files(c, bytes.fromhex(said[0][1])) == new
        if "forgot" in words:
            assert first not in versions
        again = c.take_in([os.fsencode(src)], c.last_from([os.fsencode(src)]))
        assert files(c, again.ref) == new and c.check() == []
        known = {f"{name}.pack" for (name,) in c.db.execute("select name from pack")}
        assert {p.name for p in c.folder.iterdir()} == known, "the next intake clears what the crash left"


def crash_everywhere(
    world: tuple[Path, Path, dict[bytes, bytes], bytes], tmp_path: Path, how: str, n: int
) -> None:
    home, src, old, first = world
    shutil.copytree(home, tmp_path / "whole")
    code, said = act(tmp_path / "whole", src, how, 0)
    assert code == 0 and [line[0] for line in said] == ["took", "forgot", "points"]
    points = int(said[-1][1])
    judge(tmp_path / "whole", src, old, first, said)
    chosen = sorted({1 + i * (points - 1) // max(1, n - 1) for i in range(n)})
    reached = 0
    for at in chosen:
        trial = tmp_path / "trial"
        shutil.copytree(home, trial)
        code, said = act(trial, src, how, at)
        reached += code != 0  # packs that are ready at once are indexed at once: some runs have fewer points
        judge(trial, src, old, first, said)
        shutil.rmtree(trial)
    assert reached > len(chosen) // 2 or how == "workers", f"{reached} of {len(chosen)} points were reached"


def test_killed_at_some_points(world: tuple[Path, Path, dict[bytes, bytes], bytes], tmp_path: Path) -> None:
    crash_everywhere(world, tmp_path, "alone", 5)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["alone", "workers"])
def test_killed_at_every_point(
    world: tuple[Path, Path, dict[bytes, bytes], bytes], tmp_path: Path, how: str
) -> None:
    crash_everywhere(world, tmp_path, how, 10_000)


@pytest.mark.slow
def test_killed_at_random_moments(
    world: tuple[Path, Path, dict[bytes, bytes], bytes], tmp_path: Path
) -> None:
    """Also inside SQLite and in the workers, 150 times."""
    home, src, old, first = world
    chance = random.Random(7)
    for i in range(150):
        trial = tmp_path / "trial"
        shutil.copytree(home, trial)
        child = subprocess.Popen(
            [sys.executable, "-c", ACT, trial, src, ("alone", "workers")[i % 2], "0"],
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(0.1 + chance.random() * 0.25)
        child.kill()
        out = child.communicate()[0]
        judge(trial, src, old, first, [line.split() for line in out.splitlines()])
        shutil.rmtree(trial)
