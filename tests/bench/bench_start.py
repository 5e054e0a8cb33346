"""How long commands take to start, beside a bare typer program: ratios of medians in one run, not seconds.

    python tests/bench/bench_start.py [--rounds 15] [--file dist/idao.pyz] [--home HOME]

The commands run in turn within a round, on a home without a passphrase made for this run. Two figures each:
time, and processor time, which is steadier where others use the machine or its disk too.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HELLO = """
import typer
app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
@app.command()
def main(name: str = "world") -> None:
    print("hello", name)
app()
"""


def processor() -> float:
    """Seconds of all processes waited for so far."""
    of = resource.getrusage(resource.RUSAGE_CHILDREN)
    return of.ru_utime + of.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--file", help="the one file, made by zipapp/build, instead of the sources")
    parser.add_argument("--home", help="a home without passphrase to ask, instead of a fresh one")
    options = parser.parse_args()
    rounds = options.rounds
    with tempfile.TemporaryDirectory() as folder:
        hello = Path(folder, "hello.py")
        hello.write_text(HELLO)
        program = [options.file] if options.file else ["-m", "idao"]
        start = [sys.executable, *program]
        idao = [*start, "--home", options.home or f"{folder}/home"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        if not options.home:
            subprocess.run([*idao, "init", "--no-passphrase"], check=True, **quiet)
        commands = {
            "typer hello": [sys.executable, str(hello)],
            "python -c pass": [sys.executable, "-c", "pass"],
            "idao --version": [*start, "--version"],
            "idao status": [*idao, "status"],
            "idao account issue": [*idao, "account", "issue", "1"],
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for turn in range(rounds + 1):
            for name, command in commands.items():
                begun, used = time.perf_counter(), processor()
                subprocess.run(command, check=True, **quiet)
                if turn:  # the first is a warm-up
                    times[name].append((time.perf_counter() - begun, processor() - used))
    medians = {name: [statistics.median(kind) for kind in zip(*t, strict=True)] for name, t in times.items()}
    floor = medians["typer hello"]
    for name, (taken, used) in medians.items():
        print(f"{name:<20} {taken / floor[0]:5.2f} x typer hello, processor {used / floor[1]:5.2f} x")


if __name__ == "__main__":
    main()
