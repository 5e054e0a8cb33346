"""Contribute against restic and borg, in one run on the same data: ratios, not seconds.

    python tests/bench/bench_contribute.py [--sets many,small,big] [--rounds 3] [--store] [--check]

Data sets, made once in the folder, the same each time: `many` 1,000 files of about 1 MiB, half like CSV,
half random; `small` 20,000 files of 1-10 KiB, half and half; `big` one random file of 2 GiB. Each round
runs every tool in turn: into an empty store, then again with nothing changed.

A ratio is the median over the rounds of two tools in the same round: of their time, and of their processor
time, which is steadier on a busy machine. The peers' key derivation is not taken out. `--store` runs the
store alone, without ledger and review. `copy` is `cp -r` and `sync -f`: the floor. `--check` ends with status
1 when a target is missed.

On a busy machine run it in a session of its own with more weight:
    setsid -w sh -c 'echo -17 > /proc/$$/autogroup; exec "$@"' - python tests/bench/bench_contribute.py
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TARGETS = {  # (set, run): (times restic, times borg)
    ("many", "first"): (0.25, 0.40),
    ("many", "again"): (0.25, 0.35),
    ("small", "first"): (0.35, 0.35),
    ("small", "again"): (0.25, 0.35),
    ("big", "first"): (0.50, None),
    ("big", "again"): (0.25, 0.35),
}
STORED_MAX = 1.05
ENVIRON = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
"""With it idao would be compiled anew at each start, as no installed copy is. So too in `bench_start.py`."""
MEMORY_MAX_MIB = 128

PROMISES = """
idao    sealed with AEGIS-256 (XChaCha20-Poly1305 without AES instructions), a key for each chunk; zstd 1
        where it pays; each pack flushed (fdatasync), then its index (SQLite WAL, synchronous = full); a
        signed receipt in a ledger, the files reviewed
restic  sealed with AES-256-CTR and Poly1305; zstd where it pays; each pack file flushed; a snapshot
borg    sealed with AES-256-CTR and HMAC-SHA256; lz4 as by default; segments and index flushed at the commit
copy    cp -r and sync -f: nothing of all that
"""

STORE = """
import gc, sys
gc.set_threshold(100_000)  # as idao itself
from pathlib import Path
from idao.store.contents import Contents
paths = [sys.argv[2].encode()]
with Contents(Path(sys.argv[1]), bytes(32)) as c:
    c.take_in(paths, c.last_from(paths))
"""


def make(folder: Path, which: str) -> Path:
    """The data set; random with a fixed seed."""
    out = folder / "data" / which
    if out.exists():
        return out
    r = random.Random(which)
    line = "{},{},{:.4f},{},2026-{:02}-{:02}\n".format
    colours = ("red", "green", "blue", "amber")

    def csv(size: int) -> bytes:
        rows, n = [], 0
        while n < size:
            rows.append(
                line(
                    r.randrange(10**6),
                    r.randrange(1000),
                    r.random() * 100,
                    r.choice(colours),
                    r.randrange(1, 13),
                    r.randrange(1, 29),
                )
            )
            n += len(rows[-1])
        return "".join(rows).encode()[:size]

    making = folder / "data" / f"{which}.part"
    shutil.rmtree(making, ignore_errors=True)
    if which == "big":
        making.mkdir(parents=True)
        with (making / "file").open("wb") as f:
            for _ in range(2048):
                f.write(r.randbytes(1 << 20))
    else:
        count, low, high = (1000, 900_000, 1_200_000) if which == "many" else (20_000, 1024, 10_240)
        for i in range(count):
            path = making / f"d{i // 500:03}" / f"f{i:05}"
            path.parent.mkdir(parents=True, exist_ok=True)
            size = r.randrange(low, high)
            path.write_bytes(csv(size) if i % 2 else r.randbytes(size))
    making.rename(out)
    time.sleep(3)  # files younger than two seconds are read again on purpose
    return out


def run(command: list[str], env: dict[str, str]) -> tuple[float, float, float]:
    """(wall seconds, processor seconds, peak MiB of the largest process)."""
    begun = time.perf_counter()
    pid = os.posix_spawnp(
        command[0], command, {**ENVIRON, **env}, file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", 1, 0)]
    )
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"{command[0]} failed")
    return time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def stored(folder: Path) -> float:
    """MiB on disk."""
    return sum(p.stat().st_blocks * 512 for p in folder.rglob("*") if p.is_file()) / 2**20


Tool = tuple[Callable[[Path], list[list[str]]], Callable[[Path, Path, int], list[str]], dict[str, str]]


def tools(cli: bool) -> dict[str, Tool]:
    """name -> (commands that make an empty store, command that takes a folder in, environment)."""
    idao = [sys.executable, "-m", "idao", "--home"]
    out: dict[str, Tool] = {}
    if cli:
        out["idao"] = (
            lambda at: [[*idao, str(at), "init", "--no-passphrase", "-q"]],
            lambda at, src, n: [*idao, str(at), "contribute", str(src), "-q"],
            {},
        )
    else:
        out["idao"] = (lambda at: [], lambda at, src, n: [sys.executable, "-c", STORE, str(at), str(src)], {})
    if shutil.which("restic"):
        out["restic"] = (
            lambda at: [["restic", "-q", "init", "-r", str(at)]],
            lambda at, src, n: ["restic", "-q", "backup", "-r", str(at), str(src)],
            {"RESTIC_PASSWORD": "x"},
        )
    if shutil.which("borg"):
        out["borg"] = (
            lambda at: [["borg", "init", "-e", "repokey", str(at)]],
            lambda at, src, n: ["borg", "create", "--compression", "lz4", f"{at}::a{n}", str(src)],
            {"BORG_PASSPHRASE": "x"},
        )
    out["copy"] = (
        lambda at: [],
        lambda at, src, n: ["sh", "-c", f"cp -r '{src}' '{at}.{n}' && sync -f '{at}.{n}'"],
        {},
    )
    return out


Seen = dict[tuple[str, str], list[float]]
"""(tool, what) -> a value for each round; what: first, again, first cpu, again cpu (seconds), memory, stored
(MiB)."""


def measure(folder: Path, which: str, rounds: int, cli: bool) -> Seen:
    src = make(folder, which)
    seen: Seen = {}
    for _ in range(rounds):
        for name, (begin, take, env) in tools(cli).items():
            at = folder / "store"
            for old in folder.glob("store*"):
                shutil.rmtree(old)
            for command in begin(at):
                subprocess.run(command, env={**ENVIRON, **env}, check=True, capture_output=True)
            for path in src.rglob("*"):  # warm, for each alike
                if path.is_file():
                    with path.open("rb", buffering=0) as f:
                        while f.read(1 << 20):
                            pass
            for n, what in enumerate(("first", "again")):
                wall, processor, memory = run(take(at, src, n), env)
                seen.setdefault((name, what), []).append(wall)
                seen.setdefault((name, f"{what} cpu"), []).append(processor)
                seen.setdefault((name, "memory"), []).append(memory)
            if at.exists():
                seen.setdefault((name, "stored"), []).append(stored(at))
    for old in folder.glob("store*"):
        shutil.rmtree(old)
    return seen


def beside(seen: Seen, tool: str, peer: str, what: str) -> float:
    """Median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(seen[tool, what], seen[peer, what], strict=True))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", default="many,small,big")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "idao-bench")
    args = parser.parse_args()
    missed = []
    print(PROMISES)
    for which in args.sets.split(","):
        seen = measure(args.folder, which, args.rounds, not args.store)
        got = {key: statistics.median(values) for key, values in seen.items()}
        got["idao", "memory"] = max(seen["idao", "memory"])
        for name in dict.fromkeys(tool for tool, _ in got):
            cells = [f"{what} {got[name, what]:8.2f}" for what in ("first", "again")]
            cells += [f"{what} {got.get((name, what), 0):6.0f} MiB" for what in ("memory", "stored")]
            print(f"{which:6} {name:7} " + "  ".join(cells), flush=True)
        for peer, position in (("restic", 0), ("borg", 1)):
            for what in ("first", "again") if (peer, "first") in got else ():
                ratio, target = beside(seen, "idao", peer, what), TARGETS[which, what][position]
                verdict = "" if target is None else f"  (target {target:.2f})"
                processor = beside(seen, "idao", peer, f"{what} cpu")
                print(
                    f"{which:6} {what} / {peer}: {ratio:.2f}{verdict}  processor {processor:.2f}", flush=True
                )
                if target is not None and ratio > target:
                    missed.append(f"{which} {what} / {peer} {ratio:.2f}")
        if ("restic", "stored") in got:
            ratio = got["idao", "stored"] / got["restic", "stored"]
            print(f"{which:6} stored / restic: {ratio:.2f}  (target {STORED_MAX:.2f})")
            if ratio > STORED_MAX:
                missed.append(f"{which} stored {ratio:.2f}")
        if got["idao", "memory"] > MEMORY_MAX_MIB:
            missed.append(f"{which} memory {got['idao', 'memory']:.0f} MiB")
    print("missed: " + ("; ".join(missed) or "nothing"))
    return 1 if missed and args.check else 0


if __name__ == "__main__":
    sys.exit(main())
