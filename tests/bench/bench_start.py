"""How long commands take to start, beside a bare typer program: ratios of medians in one run, not seconds.

    python tests/bench/bench_start.py [--rounds 15]

The commands run in turn within a round, on a home without a passphrase made for this run.
"""

from __future__ import annotations

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        hello = Path(folder, "hello.py")
        hello.write_text(HELLO)
        idao = [sys.executable, "-m", "idao", "--home", f"{folder}/home"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*idao, "init", "--no-passphrase"], check=True, **quiet)
        commands = {
            "typer hello": [sys.executable, str(hello)],
            "python -c pass": [sys.executable, "-c", "pass"],
            "idao --version": [*idao[:3], "--version"],
            "idao status": [*idao, "status"],
            "idao account issue": [*idao, "account", "issue", "1"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(rounds + 1):
            for name, command in commands.items():
                begun = time.perf_counter()
                subprocess.run(command, check=True, **quiet)
                if turn:  # the first is a warm-up
                    times[name].append(time.perf_counter() - begun)
    floor = statistics.median(times["typer hello"])
    for name, taken in times.items():
        print(f"{name:<20} {statistics.median(taken) / floor:5.2f} x typer hello")


if __name__ == "__main__":
    main()
