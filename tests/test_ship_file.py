"""The one file and the wheel as users get them. Slow: both are built, and run under each Python at hand."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from shipping import CLONE, load, run

pytestmark = pytest.mark.slow

BUILD = load("zipapp/build")
PYTHONS = sorted(BUILD.pythons([]).items())


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dist") / "idao.pyz"
    subprocess.run([sys.executable, str(CLONE / "zipapp/build"), "-o", str(path)], check=True, cwd="/")
    return path


def test_two_builds_are_the_same_bytes(file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.pyz"
    subprocess.run([sys.executable, str(CLONE / "zipapp/build"), "-o", str(again)], check=True)
    first, second = (hashlib.sha256(p.read_bytes()).hexdigest() for p in (file, again))
    assert first == second


def test_serves_each_python(file: Path) -> None:
    assert len(PYTHONS) >= 1
    with zipfile.ZipFile(file) as z:
        names = set(z.namelist())
    for version in BUILD.VERSIONS:
        assert {f"native-{BUILD.tag_of(version)}.zip", f"native-later-{BUILD.tag_of(version)}.zip"} <= names
    for version, _ in PYTHONS:
        assert f"code-{BUILD.tag_of(version)}" in names


@pytest.mark.parametrize("version,python", PYTHONS, ids=str)
def test_runs_under_each_python(file: Path, tmp_path: Path, version: tuple[int, int], python: str) -> None:
    done = run(file, "help", "exit-codes", home=tmp_path, python=python)
    assert done.returncode == 0 and "130" in done.stdout, done.stderr
    import_all(file, tmp_path, python)
    told = run(file, "demo", home=tmp_path, python=python)
    assert told.returncode == 0 and "the whole story held" in told.stdout, told.stderr


def import_all(file: Path, home: Path, python: str) -> None:
    """Every module of idao and each library loads from the file; its data can be read."""
    code = (
        "import sys, pkgutil, zipfile, importlib, importlib.resources as r\n"
        f"stub = {{'__name__': 'stub'}}\nexec(zipfile.ZipFile({str(file)!r}).read('stub.py'), stub)\n"
        f"sys.path.insert(0, {str(file)!r})\nstub['ready']({str(file)!r})\n"
        "import mnemonic, sqlite_utils, rich.console, rich.progress, rich.table, cryptography.x509\n"
        "import idao, zeroconf, zstandard, pyfastcdc, blake3, cbor2, nacl.bindings, typer, platformdirs\n"
        "assert all('.cache' in m.__file__ for m in (idao, cbor2, rich, zeroconf, cryptography))\n"
        "assert rich.console.Console and zeroconf._dns.__file__.endswith('.so')\n"
        "for m in pkgutil.walk_packages(idao.__path__, 'idao.'):\n"
        "    m.name.endswith('__main__') or importlib.import_module(m.name)\n"
        "assert len(mnemonic.Mnemonic('english').wordlist) == 2048\n"
        "assert '\"\"\"' in (r.files('idao') / 'errors.py').read_text(encoding='utf-8')\n"
        "assert '\"\"\"' in (r.files('idao.assess') / '__init__.py').read_text(encoding='utf-8')\n"
    )
    bare = {"HOME": str(home), "PATH": os.defpath, "LANG": "C.UTF-8"}
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, cwd=home, env=bare)
    assert done.returncode == 0, done.stderr


def test_python_that_was_not_at_hand_compiles_for_itself(tmp_path: Path) -> None:
    """As for a version whose interpreter the builder did not have: from `src.zip`."""
    pip_python = BUILD.python_with_pip()
    version = (sys.version_info[0], sys.version_info[1])
    pure, native = BUILD.split(BUILD.fetch(pip_python, version))
    entries = {
        "src.zip": BUILD.zipped(pure, zipfile.ZIP_DEFLATED),
        "any.zip": BUILD.zipped(native, zipfile.ZIP_DEFLATED),
    }
    path = tmp_path / "idao.pyz"
    path.write_bytes(BUILD.one_file(entries, {BUILD.soabi_of(version): ["src.zip", "any.zip"]}))
    for _ in range(2):  # the second run finds bytecode beside the sources, and the cache still whole
        assert run(path, "help", "exit-codes", home=tmp_path).returncode == 0
    assert len(list((tmp_path / ".cache/idao").glob("*/modules/idao/__pycache__/cli.*.pyc"))) == 1


def test_missing_wheel_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"cbor2==0.0.0 --hash=sha256:{'0' * 64}\n")
    monkeypatch.setattr(BUILD, "LOCK", lock)
    monkeypatch.setattr(BUILD, "WORK", tmp_path)
    with pytest.raises(SystemExit, match=r"no wheel for cpython-314: .*cbor2==0\.0\.0"):
        BUILD.fetch(sys.executable, (3, 14))


# --- wheel ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves `build/` and `idao.egg-info/` beside its sources."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CLONE / name, copy)
    for name in ("idao", "man"):
        shutil.copytree(CLONE / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "-w", str(out), str(copy)], check=True)
    (path,) = out.glob("*.whl")
    return path


def test_wheel_holds_what_the_sources_hold(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as z:
        packed = {n for n in z.namelist() if n.startswith("idao/")}
        (entry,) = (n for n in z.namelist() if n.endswith("entry_points.txt"))
        assert "idao = idao.__main__:main" in z.read(entry).decode()
        pages = {n.rpartition("/")[2] for n in z.namelist() if "/share/man/man1/" in n}
    assert packed == set(BUILD.own_files())
    assert pages == {p.name for p in (CLONE / "man").glob("*.1")}


def test_wheel_runs_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
    ]
    subprocess.run([*pip, str(wheel)], check=True)
    environ = {**os.environ, "PYTHONPATH": str(target)}
    command = [sys.executable, str(target / "bin" / "idao"), "help", "exit-codes"]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "130" in done.stdout, done.stderr


# --- the command of the README --------------------------------------------------------------------


def test_try_runs_the_main_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the making of `.venv`, on a folder of this clone."""
    monkeypatch.syspath_prepend(str(CLONE / "zipapp"))
    told = load("zipapp/try")
    program = tmp_path / "idao"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{CLONE}" exec "{sys.executable}" -m idao "$@"\n')
    program.chmod(0o755)
    folder = CLONE / "docs"
    told.Story(program, tmp_path).tell(folder, told.first_file(folder))


def test_try_stops_where_the_story_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CLONE / "zipapp"))
    told = load("zipapp/try")
    program = tmp_path / "idao"
    program.write_text("#!/bin/sh\nexit 5\n")
    program.chmod(0o755)
    with pytest.raises(SystemExit, match="exit code 5"):
        told.Story(program, tmp_path).tell(CLONE / "docs", CLONE / "README.md")
