"""Typer loads without the modules that few commands use of it, and has them as soon as it uses one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from idao.spared import SPARED

KNOWN = pytest.mark.skipif(sys.version_info >= (3, 14), reason="what a later Python's own modules load")


def fresh(code: str) -> str:
    """What `code` prints in a Python of its own, in which `import_typer` waits to be called."""
    first = "import sys\nfrom idao import spared\n"
    done = subprocess.run([sys.executable, "-c", first + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@KNOWN
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


# --- what commands load -----------------------------------------------------------------------------------

NEVER = {*SPARED, "ctypes", "dataclasses", "fractions", "hashlib", "json", "nacl.bindings"}
"""By no command that only signs; each takes one to four of its sixty milliseconds."""
STARTED = """
import sys
before = set(sys.modules)
from idao import __main__
def hook(event, args):
    if event == "open" and "read-me" in str(args[0]):
        print("loaded:", *set(sys.modules) - before, flush=True)
sys.addaudithook(hook)
__main__.main()
"""
SIGNED = """
import sys
before = set(sys.modules)
from idao import __main__
__main__.main()
print("loaded:", *set(sys.modules) - before)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("spared") / "home")
    command = [sys.executable, "-m", "idao", "--home", path, "init", "--no-passphrase"]
    subprocess.run(command, check=True, capture_output=True)
    return path


def loaded(code: str, *words: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0 and "loaded:" in done.stdout, done.stderr
    return set(done.stdout.partition("loaded:")[2].partition("\n")[0].split())


@KNOWN
def test_a_signing_command_loads_what_it_needs(home: str) -> None:
    modules = loaded(SIGNED, "--home", home, "account", "issue", "1")
    assert "idao.node.engine" in modules
    assert modules & (NEVER | {"idao.node.messages"}) == set()


@KNOWN
def test_a_contribution_reads_before_it_loads_what_comes_after(home: str, tmp_path: Path) -> None:
    (tmp_path / "read-me").write_text("a")
    modules = loaded(STARTED, "--home", home, "contribute", str(tmp_path), "-q")
    assert "idao.store.chunks" in modules
    # `dataclasses` and `platform`: of packs, and of zstandard
    after = {
        "idao.card",
        "idao.ledger.block",
        "idao.ledger.dats",
        "idao.ledger.reviews",
        "idao.node.engine",
        "mimetypes",
        "socket",
    }
    assert modules & (after | NEVER - {"dataclasses", "platform"}) == set()
