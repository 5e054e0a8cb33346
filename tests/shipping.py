"""What the tests of the one file share: the builder as a module, Pythons at hand, a run in a bare world."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

CLONE = Path(__file__).resolve().parent.parent


def load(script: str) -> ModuleType:
    """A script of this clone as a module; it leaves no bytecode beside itself."""
    loader = SourceFileLoader(script.replace("/", "_"), str(CLONE / script))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def run(
    file: Path, *args: str, home: Path, python: str = sys.executable, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Runs the file with nothing in the environment but a home and the system's programs."""
    bare = {"HOME": str(home), "PATH": os.defpath, "LANG": "C.UTF-8", **environ}
    return subprocess.run([python, str(file), *args], env=bare, capture_output=True, text=True, cwd=home)
