"""Typer loads without the modules that few commands use of it, and has them as soon as it uses one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from idao.spared import SPARED


def fresh(code: str) -> str:
    """What `code` prints in a Python of its own, in which `import_typer` waits to be called."""
    first = "import sys\nfrom idao import spared\n"
    done = subprocess.run([sys.executable, "-c", first + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_typer_is_loaded_without_them() -> None:
    code = """
before = set(sys.modules)
spared.import_typer()
print(*set(sys.modules) - before)
"""
    loaded = set(fresh(code).split())
    assert "typer.main" in loaded
    assert loaded & set(SPARED) == set()


def test_what_stood_for_them_gives_what_they_are() -> None:
    fresh("""
spared.import_typer()
import typer, typer.main, typer.core, typer._completion_shared as shared
assert typer.main.subprocess.PIPE == -1 and shared.subprocess.DEVNULL == -3
import shutil, traceback, uuid
assert typer.main.shutil.which is shutil.which
assert typer.get_terminal_size().columns == shutil.get_terminal_size().columns
assert typer.core._("Options") == "Options"
assert typer.core.get_close_matches("mnit", ["mint", "vote"]) == ["mint"]
assert isinstance(typer.main.UUID(int=1), uuid.UUID)
assert typer.main.StackSummary.from_list([]) == traceback.StackSummary()
""")


@pytest.mark.parametrize("more", ["platform", "ast", "enum"])
def test_one_that_is_needed_at_once_is_loaded(more: str) -> None:
    """`uuid` calls `platform`, `inspect` makes a class of one of `ast`; nothing starts without `enum`."""
    fresh(f"""
spared.SPARED = tuple({{*spared.SPARED, {more!r}}} - {{"uuid"}})
sys.modules.pop({more!r}, None)
spared.import_typer()
import typer
app = typer.Typer()
@app.command()
def main() -> None: print("ran")
app([], standalone_mode=False)
assert not [n for n, m in sys.modules.items() if isinstance(m, spared._StandIn)]
assert type(sys.modules[{more!r}]) is type(sys)
""")


def test_it_is_loaded_once() -> None:
    fresh("""
import typer
spared.import_typer()
assert sys.modules["typer"] is typer
assert isinstance(typer.main.subprocess, type(sys)) and not isinstance(typer.main.subprocess, spared._StandIn)
""")
