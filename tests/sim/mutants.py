"""The test of the tests: every guard of the rules is removed in turn, and something must notice.

python -m tests.sim.mutants                # all, by cases and by simulation apart
python -m tests.sim.mutants slot_unique    # one
"""

from __future__ import annotations

import importlib
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from .cases import CASES
from .scenario import KINDS
from .world import World

MODULES = (
    "crypto.certificates",
    *(f"quorum.{m}" for m in ["votes", "height", "validators", "ahead", "rules", "machine"]),
)
"""What may be broken, in the order of imports."""


@dataclass(frozen=True)
class Mutant:
    name: str
    rule: str
    module: str
    old: str
    new: str


KINDS_OF_RUNS = ("any", "scheme", "fork", "healthy")
SEEDS = 60
"""Seeds of each kind that a simulation may need to notice."""


MUTANTS = [
    Mutant(name, **fields)
    for name, fields in tomllib.loads(Path(__file__).with_suffix(".toml").read_text()).items()
]


def broken(mutant: Mutant) -> Any:
    """The machine class with one guard gone. The real modules stay untouched."""
    names = [f"idao.{m}" for m in MODULES]
    real = {n: importlib.import_module(n) for n in names}
    try:
        for name in names:
            source = Path(str(real[name].__file__)).read_text()
            if name.endswith("." + mutant.module):
                if source.count(mutant.old) != 1:
                    raise LookupError(f"{mutant.name}: found {source.count(mutant.old)} times, not once")
                source = source.replace(mutant.old, mutant.new)
            module = ModuleType(name)
            module.__file__ = real[name].__file__
            sys.modules[name] = module
            exec(compile(source, f"{name} without {mutant.name}", "exec"), module.__dict__)
        return sys.modules[names[-1]].Machine
    finally:
        sys.modules.update(real)


def caught_by_case(machine: Any) -> str | None:
    for name, case in CASES.items():
        try:
            case(machine)
        except Exception:
            return name
    return None


def caught_by_simulation(
    machine: Any, kinds: tuple[str, ...] = KINDS_OF_RUNS, seeds: int = SEEDS, limit_s: float = 60.0
) -> str | None:
    """The first seed that notices: kinds take turns."""
    end = time.monotonic() + limit_s
    for seed in range(seeds):
        for kind in kinds:
            try:
                World(KINDS[kind](seed), machine).run()
            except Exception as e:
                return f"{kind} {seed}: {e}"[:90]
            if time.monotonic() > end:
                return None
    return None


def main() -> int:
    chosen = [m for m in MUTANTS if len(sys.argv) < 2 or m.name in sys.argv[1:]]
    alive = []
    for mutant in chosen:
        machine = broken(mutant)
        case, sim = caught_by_case(machine), caught_by_simulation(machine)
        print(f"{mutant.rule:5} {mutant.name:38} {case or '-':52} {sim or '-'}", flush=True)
        if case is None and sim is None:
            alive.append(mutant.name)
    print(f"{len(chosen) - len(alive)} of {len(chosen)} caught; alive: {alive}")
    return bool(alive)


if __name__ == "__main__":
    sys.exit(main())
