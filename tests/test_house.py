"""The rules of the house (docs/adr/0001), kept by tests: floors, sizes, names, laziness."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

CLONE = Path(__file__).resolve().parent.parent
LINES_OF_A_FUNCTION = 70
"""A screen."""
LINES_OF_A_FILE = 500
"""More wants a talk: is it two things?"""

SOURCES = sorted((CLONE / "idao").rglob("*.py"))
TESTS = sorted((CLONE / "tests").rglob("*.py"))
SCRIPTS = [CLONE / name for name in ("zipapp/build", "zipapp/try", "man/make", "tests/run")]
CONTRACTS = tomllib.loads((CLONE / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
FORBIDDEN_NAME = re.compile(r"(^|_)(utils?|helpers?|commons?|managers?|base)(_|$)")
FORBIDDEN_CLASS = re.compile(r"(Util|Helper|Manager|Common)s?$")
HEAVY = {"rich", "cryptography", "zeroconf", "asyncio", "pydantic", "sqlite_utils", "logging", "platformdirs"}
"""Modules that no command may import before it needs them (tens of milliseconds each)."""


def name_of(path: Path) -> str:
    return str(path.relative_to(CLONE))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def still_files() -> list[Path]:
    """Files of the floors that know no clock, chance, disk or network."""
    contract = next(c for c in CONTRACTS if c["name"].startswith("still floors"))
    roots = [name.replace(".", "/") for name in contract["source_modules"]]
    return [p for p in SOURCES if any(name_of(p).startswith((f"{r}/", f"{r}.py")) for r in roots)]


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=CLONE, capture_output=True)
    if done.returncode:
        pytest.skip("not a git clone")
    return [CLONE / n for n in done.stdout.decode().split("\0") if n and (CLONE / n).is_file()]


# --- floors ---------------------------------------------------------------------------------------


def test_imports_go_down_only() -> None:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CLONE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_room_stands_on_a_floor() -> None:
    floors = next(c for c in CONTRACTS if c["name"] == "floors")["layers"]
    named = {name.strip(" ()").split(".")[1] for layer in floors for name in re.split("[:|]", layer)}
    rooms = {p.relative_to(CLONE / "idao").parts[0].removesuffix(".py") for p in SOURCES}
    assert rooms - {"__init__"} - named == set()


WHOLES = {
    "idao.dao": ("idao.hall.",),
    "idao.hall.assets": ("idao.hall.contribute",),
    "idao.store.contents": ("idao.store.check", "idao.store.forget", "idao.store.intake"),
    "idao.store.intake": ("idao.store.workers",),
    "idao.store.ledger": ("idao.store.bodies",),
    "idao.store.audit": ("idao.store.audit_pruned",),
}
"""Whole -> its parts, each of which is handed the whole and may name its type: nothing runs by that."""


def imported(node: ast.AST, typed: bool = False) -> Iterator[tuple[str, bool]]:
    """(name, whether for a type checker alone) of all that a module imports, within functions too."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, typed) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from ((f"{node.module}.{alias.name}", typed) for alias in node.names)
    typed = typed or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    for child in ast.iter_child_nodes(node):
        yield from imported(child, typed)


def test_no_modules_import_each_other() -> None:
    """No circle, however long, and however late an import runs: of two, one is there without the other."""
    paths = {name_of(p).removesuffix(".py").removesuffix("/__init__").replace("/", "."): p for p in SOURCES}
    needs: dict[str, set[str]] = {}
    named = set()
    for module, path in paths.items():
        needs[module] = set()
        for name, typed in imported(tree(path)):
            other = name if name in paths else name.rpartition(".")[0]
            if typed and module.startswith(WHOLES.get(other, ())):
                named |= {part for part in WHOLES[other] if module.startswith(part)}
            elif other in paths and other != module:
                needs[module].add(other)
    list(TopologicalSorter(needs).static_order())  # `CycleError` tells one
    assert named == {part for parts in WHOLES.values() for part in parts}, "a part names its whole no more"


@pytest.mark.parametrize("path", still_files(), ids=name_of)
def test_still_floors_know_no_floats(path: Path) -> None:
    cutoffs = {k.value for k in ast.walk(tree(path)) if isinstance(k, ast.keyword) and k.arg == "cutoff"}
    found = [  # the cutoff of a "did you mean" is the one float allowed: no value depends on it
        f"line {n.lineno}"
        for n in ast.walk(tree(path))
        if (isinstance(n, ast.Constant) and isinstance(n.value, float) and n not in cutoffs)
        or (isinstance(n, ast.BinOp) and isinstance(n.op, ast.Div))
        or (isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in ("float", "hash", "id"))
    ]
    assert found == []


CHANGES = re.compile(
    r"\s*(insert|replace|delete)\s.*\b(into|from)\b|\s*update\s.*\bset\b|\s*(create|drop)\s+table",
    re.S | re.I,
)


@pytest.mark.parametrize("path", [p for p in SOURCES if "store" not in p.parts], ids=name_of)
def test_only_the_store_writes_sql(path: Path) -> None:
    texts = [n for n in ast.walk(tree(path)) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    docs = {id(n.body[0].value) for n in ast.walk(tree(path)) if has_docstring(n)}
    assert [n.lineno for n in texts if CHANGES.match(n.value) and id(n) not in docs] == []


def test_nothing_signs_bare_bytes() -> None:
    from idao.crypto.keys import Signer

    assert not hasattr(Signer, "sign")


# --- sizes and names ------------------------------------------------------------------------------


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def has_docstring(node: ast.AST) -> bool:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return isinstance(node, kinds) and ast.get_docstring(node) is not None


@pytest.mark.parametrize("path", [*SOURCES, *filter(Path.exists, SCRIPTS)], ids=name_of)
def test_fits_a_screen(path: Path) -> None:
    long = [f.name for f in functions(path) if (f.end_lineno or 0) - f.lineno + 1 > LINES_OF_A_FUNCTION]
    assert long == []
    assert len(path.read_text().splitlines()) <= LINES_OF_A_FILE


def test_tests_can_be_read_at_one_go() -> None:
    long = {name_of(p): n for p in TESTS if (n := len(p.read_text().splitlines())) > LINES_OF_A_FILE}
    assert long == {}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_names_say_something(path: Path) -> None:
    assert not FORBIDDEN_NAME.search(path.stem) and not FORBIDDEN_NAME.search(path.parent.name)
    classes = [n.name for n in ast.walk(tree(path)) if isinstance(n, ast.ClassDef)]
    assert [n for n in classes if FORBIDDEN_CLASS.search(n)] == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_module_says_what_it_is(path: Path) -> None:
    assert has_docstring(tree(path)) or not path.read_text().strip()


def test_no_machine_in_the_sources() -> None:
    """Nothing tracked knows the machine it was written on, nor where packages come from."""
    own = [re.escape(str(p)) for p in (CLONE, Path.home()) if len(p.parts) > 2]
    marks = re.compile("|".join([*own, r"/roo[t]/", r"py[p]i\.org", r"python[h]osted", r"index[-]url"]))
    found = []
    for path in tracked():
        text = path.read_bytes().decode("utf-8", "replace")
        found += [f"{name_of(path)}: {m[0]}" for m in marks.finditer(text)]
    assert found == []


def test_locks_hold_hashes_and_no_address() -> None:
    for lock in (CLONE / "zipapp/requirements.lock", CLONE / "tests/requirements.lock"):
        text = lock.read_text()
        assert "://" not in text
        pins = re.findall(r"^[a-z0-9].*$", text, re.M)
        assert pins and all("==" in pin and pin.endswith("\\") for pin in pins)
        assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", text)) >= len(pins)


def test_lock_of_users_serves_every_python_alike() -> None:
    """`zipapp/build` reads markers once, for all Pythons: none may tell versions apart."""
    assert not re.search(r"python_(full_)?version", (CLONE / "zipapp/requirements.lock").read_text())


# --- laziness -------------------------------------------------------------------------------------


def modules_after(*args: str) -> set[str]:
    """Names of the modules that are loaded when `idao ARGS` has run."""
    code = (
        "import sys; sys.argv[0] = 'idao'\n"
        "before = set(sys.modules)\n"
        "from idao.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('loaded:', *set(sys.modules) - before)"
    )
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CLONE)
    assert "loaded:" in done.stdout, done.stderr
    return set(done.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version_imports_nothing(flag: str) -> None:
    assert modules_after(flag) <= {"idao", "idao.__main__", "__future__"}


@pytest.mark.parametrize("args", [["--help"], ["help", "exit-codes"], ["no-such-command"]], ids=" ".join)
def test_help_imports_no_command(args: list[str]) -> None:
    loaded = {name.split(".")[0] for name in modules_after(*args)}
    assert loaded & (HEAVY | {"typer", "nacl", "sqlite3", "cbor2"}) == set()


@pytest.mark.parametrize("args", [["init", "--help"], ["status", "--help"]], ids=" ".join)
def test_commands_import_nothing_heavy(args: list[str]) -> None:
    assert {name.split(".")[0] for name in modules_after(*args)} & HEAVY == set()
