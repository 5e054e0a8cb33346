"""How long commands take to start, beside a bare typer program: ratios within one run, not seconds.

    python tests/bench/bench_start.py [--rounds 15] [--file dist/idao.pyz] [--ledger HOME]

The commands run in turn within a round, on a home without a passphrase made for this run; a ratio is the
median over the rounds of a command's time to the typer program's in the same round. Two figures each: time,
and processor time, which is steadier where others use the machine or its disk too. `--ledger` names a home
with a large ledger, for one more line of `status`. `first run` has no cache to find; `verify` checks the
proof of a DAT beside a Python that only imports the same modules; `Tab` is bash completing a word.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
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
LOADS = """
import sys
sys.argv = ["idao", "verify", {proof!r}]
from idao.__main__ import main
main()
names = [n for n, m in sys.modules.items() if n == getattr(getattr(m, "__spec__", None), "name", None)]
names.remove("idao.__main__")
again = f"for name in {{names}}:\\n    sys.modules.get(name) or __import__(name)"
open({out!r}, "w").write("import sys\\n" + again)
"""
TAB = "source {script}; COMP_WORDS=(idao asset sh); COMP_CWORD=2; _idao; test ${{#COMPREPLY[@]}} -gt 0"


def processor() -> float:
    """Seconds of all processes waited for so far."""
    of = resource.getrusage(resource.RUSAGE_CHILDREN)
    return of.ru_utime + of.ru_stime


class World:
    """A folder with a home, an asset, a proof; and how to start idao."""

    def __init__(self, folder: Path, file: str | None) -> None:
        self.folder = folder
        self.start = [sys.executable, *([file] if file else ["-m", "idao"])]
        self.environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        (folder / "data").mkdir()
        (folder / "data" / "a.csv").write_text("a,b\n" + "1,2\n" * 100)
        self.ask("init", "--no-passphrase")
        self.asset = self.ask("contribute", str(folder / "data"), "--license", "CC0-1.0", "-q")
        dat = self.ask("mint", self.asset, "-q")
        self.ask("proof", dat, "-o", str(folder / "dat.idao-proof"))
        (folder / "tab.sh").write_text(self.ask("completion", "bash"))
        (folder / "hello.py").write_text(HELLO)
        self._loads(file)

    def ask(self, *words: str) -> str:
        command = [*self.start, "--home", str(self.folder / "home"), *words]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=self.environ)
        return done.stdout.strip()

    def _loads(self, file: str | None) -> None:
        """A program that imports what `verify` imports, and does nothing."""
        proof, out = str(self.folder / "dat.idao-proof"), str(self.folder / "loads.py")
        code = LOADS.format(proof=proof, out=out)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([sys.executable, "-c", code], check=True, env=self.environ, **quiet)

    def commands(self, ledger: str | None) -> dict[str, list[str]]:
        idao = [*self.start, "--home", str(self.folder / "home")]
        out = {
            "typer hello": [sys.executable, str(self.folder / "hello.py")],
            "python -c pass": [sys.executable, "-c", "pass"],
            "--version": [*self.start, "--version"],
            "status": [*idao, "status"],
            "account issue": [*idao, "account", "issue", "1"],
            "mint": [*idao, "mint", self.asset],
            "verify": [*idao, "verify", str(self.folder / "dat.idao-proof")],
            "imports of verify": [sys.executable, str(self.folder / "loads.py")],
            "Tab": ["bash", "-c", TAB.format(script=self.folder / "tab.sh")],
        }
        if ledger:
            out["status --ledger"] = [*self.start, "--home", ledger, "status"]
        if self.start[1] != "-m":
            out["first run"] = [*idao, "status"]
        return out

    def run(self, name: str, command: list[str]) -> tuple[float, float]:
        """(seconds, processor seconds)."""
        if name == "first run":
            shutil.rmtree(self.folder / "cache", ignore_errors=True)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        begun, used = time.perf_counter(), processor()
        subprocess.run(command, check=True, env=self.environ, **quiet)
        return time.perf_counter() - begun, processor() - used


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--file", help="the one file, made by zipapp/build, instead of the sources")
    parser.add_argument("--ledger", help="a home with a large ledger and no passphrase to ask")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), options.file)
        commands = world.commands(options.ledger)
        rounds = []
        for _ in range(options.rounds + 1):  # the first is a warm-up
            rounds.append({name: world.run(name, command) for name, command in commands.items()})
        for name in commands:
            ratios = [
                statistics.median(r[name][kind] / r["typer hello"][kind] for r in rounds[1:])
                for kind in (0, 1)
            ]
            print(f"{name:<18} {ratios[0]:5.2f} x typer hello, processor {ratios[1]:5.2f} x")
        beside = [
            statistics.median(r["verify"][k] / r["imports of verify"][k] for r in rounds[1:]) for k in (0, 1)
        ]
        print(f"verify             {beside[0]:5.2f} x its imports, processor {beside[1]:5.2f} x")


if __name__ == "__main__":
    main()
