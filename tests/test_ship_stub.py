"""The stub of the one file, on a payload of three small files: private, whole, and clear when it cannot."""

from __future__ import annotations

import ast
import importlib.util
import marshal
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from shipping import CLONE, load, run

BUILD = load("zipapp/build")
HERE = BUILD.soabi_of((sys.version_info[0], sys.version_info[1]))
UNPACKED_TIME = load("zipapp/stub.py").UNPACKED_TIME
MAIN = b"""import sys
from native import word
def main():
    print(word, *sys.argv[1:])
    return 3
leave = sys.exit
"""
TELLS = b"""import inspect, pkgutil, sys
from importlib import resources
from idao import part
from idao.tree import leaf
def main():
    print(resources.files('idao').joinpath('note.txt').read_text())
    print(pkgutil.get_data('idao.tree', 'leaf.py'))
    print(part.__file__, leaf.__file__, leaf.NAME, sep='\\n')
    print(inspect.getsource(main).splitlines()[0])
    return 0
leave = sys.exit
"""


def with_code(path: Path, pure: dict[str, bytes], native: dict[str, bytes], **more: object) -> Path:
    """A one-file build of a few modules, those of `pure` as bytecode; `more` is for `one_file`."""
    data, _, code = BUILD.bundled(pure, {}, sys.executable)
    entries = {
        "code-x": code,
        "lib.zip": BUILD.zipped(data, zipfile.ZIP_STORED),
        "any.zip": BUILD.zipped(native, zipfile.ZIP_DEFLATED),
    }
    path.write_bytes(BUILD.one_file(entries, {HERE: list(entries)}, **more))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-file build whose `idao` prints the word of a module that had to be unpacked."""
    pure = {"idao/__init__.py": b"", "idao/__main__.py": MAIN}
    native = {"native.py": b"word = 'hello'\n", "data/a.txt": b"a" * 9999}
    return with_code(tmp_path_factory.mktemp("file") / "idao.pyz", pure, native)


def cache(home: Path) -> Path:
    return home / ".cache" / "idao"


def payloads(home: Path) -> list[Path]:
    return [p for p in cache(home).iterdir() if p.is_dir()]


def check_runs(small: Path, home: Path) -> None:
    done = run(small, "a b", "c", home=home)
    assert (done.returncode, done.stdout, done.stderr) == (3, "hello a b c\n", "")


def check_refused(done: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    assert done.returncode == code
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith("idao: error: ") and words in first
    assert second.startswith("idao: hint: ")


def test_runs_and_unpacks_once(small: Path, tmp_path: Path) -> None:
    check_runs(small, tmp_path)
    (folder,) = payloads(tmp_path)
    made = os.stat(folder).st_ino
    check_runs(small, tmp_path)
    assert [os.stat(p).st_ino for p in payloads(tmp_path)] == [made]
    for path in (cache(tmp_path), folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


INPUT = b"""import os, sys
def main():
    print(os.path.sameopenfile(0, os.open(os.devnull, os.O_RDONLY)))
    return 0
leave = sys.exit
"""


def test_no_file_of_ours_is_standard_input(tmp_path: Path) -> None:
    """Where the caller closed it: `contribute -` would have taken in what is open instead."""
    pure = {"idao/__init__.py": b"", "idao/__main__.py": INPUT}
    built = with_code(tmp_path / "idao.pyz", pure, {"native.py": b""})
    for _ in range(2):
        command = ["sh", "-c", 'exec "$0" "$1" <&-', sys.executable, str(built)]
        done = subprocess.run(
            command, env={"HOME": str(tmp_path)}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version_unpacks_nothing(small: Path, tmp_path: Path, flag: str) -> None:
    done = run(small, flag, home=tmp_path)
    assert (done.returncode, done.stdout) == (
        0,
        subprocess.check_output([sys.executable, "-m", "idao", flag], cwd=CLONE, text=True),
    )
    assert list(tmp_path.iterdir()) == []


def test_many_first_runs_at_once(small: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda n: run(small, str(n), home=tmp_path), range(8)))
    assert [d.stdout for d in done] == [f"hello {n}\n" for n in range(8)]
    assert len(payloads(tmp_path)) == 1


def test_bytecode_finds_its_data_and_its_sources(tmp_path: Path) -> None:
    pure = {
        "idao/__init__.py": b"",
        "idao/__main__.py": TELLS,
        "idao/note.txt": b"kept beside",
        "idao/part.py": b"",
        "idao/tree/__init__.py": b"",
        "idao/tree/leaf.py": b"NAME = __name__\n",
    }
    done = run(with_code(tmp_path / "idao.pyz", pure, {}), home=tmp_path)
    assert done.returncode == 0, done.stderr
    note, data, part, leaf, name, source = done.stdout.splitlines()
    assert (note, name, source) == ("kept beside", "idao.tree.leaf", "def main():")
    assert data == repr(pure["idao/tree/leaf.py"])
    assert part.endswith("lib.zip/idao/part.pyc") and leaf.endswith("lib.zip/idao/tree/leaf.pyc")


LATER = b"""import os, shutil, sys
def main():
    if sys.argv[1:2] == ["replaced"]:
        shutil.copy(sys.argv[2], sys.argv[3])
    if sys.argv[1:]:
        os.chdir("/")
        try:
            import rare, native
        except OSError as e:
            print(e)
            return 1
        print(rare.word, native.word, rare.leaf.__file__)
    return 0
leave = sys.exit
"""


def with_later(path: Path, word: bytes) -> Path:
    """A build with one package of bytecode and one other module that wait until somebody asks for them."""
    data, _, code = BUILD.bundled({"idao/__init__.py": b"", "idao/__main__.py": LATER}, {}, sys.executable)
    rare = {"rare/__init__.py": b"from rare import leaf\nword = " + word, "rare/leaf.py": b""}
    more, _, late = BUILD.bundled(rare, {}, sys.executable)
    entries = {
        "code-x": code,
        "lib.zip": BUILD.zipped(data, zipfile.ZIP_STORED),
        "code-later-x": late,
        "lib-later.zip": BUILD.zipped(more, zipfile.ZIP_STORED),
        "native-later-x.zip": BUILD.zipped({"native.py": b"word = 'native'"}, zipfile.ZIP_DEFLATED),
    }
    later = [n for n in entries if "later" in n]
    needs = [n for n in entries if n not in later]
    path.write_bytes(BUILD.one_file(entries, {HERE: needs}, {HERE: later}, frozenset({"rare", "native"})))
    return path


def test_what_few_need_is_unpacked_when_asked_for(tmp_path: Path) -> None:
    file = with_later(tmp_path / "idao.pyz", b"'rare'")
    assert run(Path("idao.pyz"), home=tmp_path).returncode == 0
    assert len(payloads(tmp_path)) == 1
    for _ in range(2):
        done = run(Path("idao.pyz"), "ask", home=tmp_path)
        assert done.stdout.startswith("rare native ") and "-later/lib.zip/rare/leaf.pyc" in done.stdout, done
    first, later = sorted(payloads(tmp_path), key=lambda p: p.name)
    assert later.name == first.name + "-later" and not (first / "modules").exists()
    (later / "code").write_bytes(b"")
    assert run(file, "ask", home=tmp_path).returncode == 0, "harmed: made anew"


def test_another_version_in_its_place_is_not_mixed_in(tmp_path: Path) -> None:
    file = with_later(tmp_path / "idao.pyz", b"'old'")
    newer = with_later(tmp_path / "newer.pyz", b"'newer'")
    done = run(file, "replaced", str(newer), str(file), home=tmp_path)
    assert done.returncode == 1 and "another version took the place of" in done.stdout, done
    assert run(file, "ask", home=tmp_path).stdout.startswith("newer native ")


def test_native_module_goes_before_its_slow_twin() -> None:
    tree = {"a/__init__.py": b"", "a/fast.py": b"", "a/fast.cpython-311-x.so": b"", "a/slow.py": b""}
    pure, native, code = BUILD.bundled({}, tree, sys.executable)
    assert (list(pure), list(native)) == ([], ["a/fast.cpython-311-x.so"])
    size = int.from_bytes(code[:8], "big")
    assert sorted(marshal.loads(code[8 : 8 + size])) == ["a", "a.slow"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lose_the_end(path: Path) -> None:
    """As a power cut may: the file is short, its time is right."""
    os.truncate(path, 5)
    os.utime(path, (UNPACKED_TIME, UNPACKED_TIME))


@pytest.mark.parametrize("harm", [Path.unlink, flip, lambda p: os.truncate(p, 0), lose_the_end])
@pytest.mark.parametrize("name", ["whole", "code", "lib.zip", "modules/native.py", "modules/data/a.txt"])
def test_harmed_cache_is_made_anew(small: Path, tmp_path: Path, name: str, harm) -> None:  # type: ignore[no-untyped-def]
    check_runs(small, tmp_path)
    (folder,) = payloads(tmp_path)
    before = (folder / name).read_bytes()
    harm(folder / name)
    check_runs(small, tmp_path)
    assert (folder / name).read_bytes() == before
    assert payloads(tmp_path) == [folder]


def test_leftovers_of_a_killed_run_go(small: Path, tmp_path: Path) -> None:
    (cache(tmp_path) / "new-killed").mkdir(parents=True, mode=0o700)
    cache(tmp_path).chmod(0o700)
    check_runs(small, tmp_path)
    assert len(payloads(tmp_path)) == 1


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_cache_that_others_can_write_is_refused(small: Path, tmp_path: Path, mode: int) -> None:
    cache(tmp_path).mkdir(parents=True)
    cache(tmp_path).chmod(mode)
    check_refused(run(small, home=tmp_path), 1, str(cache(tmp_path)))


def test_payload_that_others_can_write_is_refused(small: Path, tmp_path: Path) -> None:
    check_runs(small, tmp_path)
    (folder,) = payloads(tmp_path)
    folder.chmod(0o777)
    check_refused(run(small, home=tmp_path), 1, str(folder))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_cache_of_another_user_is_refused(small: Path, tmp_path: Path) -> None:
    cache(tmp_path).mkdir(parents=True, mode=0o700)
    os.chown(cache(tmp_path), 12345, 12345)
    check_refused(run(small, home=tmp_path), 1, "not yours")


def test_cache_behind_a_link_is_refused(small: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / ".cache").mkdir()
    cache(tmp_path).symlink_to(tmp_path / "elsewhere")
    check_refused(run(small, home=tmp_path), 1, str(cache(tmp_path)))


def test_xdg_cache_home_is_used_if_absolute(small: Path, tmp_path: Path) -> None:
    assert run(small, home=tmp_path, XDG_CACHE_HOME=str(tmp_path / "other")).stdout == "hello\n"
    assert (tmp_path / "other" / "idao").is_dir()
    assert run(small, home=tmp_path, XDG_CACHE_HOME="relative").stdout == "hello\n"
    assert not (tmp_path / "relative").exists()


def test_home_that_cannot_be_written_to(small: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    nowhere = "/proc/idao-no-such-place"
    done = run(small, home=tmp_path, HOME=nowhere, TMPDIR=str(temporary))
    assert done.stdout == "hello\n", done.stderr
    (made,) = temporary.iterdir()
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_damaged_file_says_so(small: Path, tmp_path: Path) -> None:
    hurt = tmp_path / "idao.pyz"
    shutil.copy(small, hurt)
    with zipfile.ZipFile(hurt) as z:
        at = z.getinfo("any.zip").header_offset + 30 + len("any.zip") + 40
    with hurt.open("r+b") as f:
        f.seek(at)
        f.write(b"\xff" * 8)
    check_refused(run(hurt, home=tmp_path), 1, "damaged")
    assert payloads(tmp_path) == []


def test_other_platform_is_named(tmp_path: Path) -> None:
    entries = {"any.zip": BUILD.zipped({}, zipfile.ZIP_DEFLATED)}
    other = tmp_path / "other.pyz"
    other.write_bytes(BUILD.one_file(entries, {"cpython-311-riscv-plan9": ["any.zip"]}))
    check_refused(run(other, "status", home=tmp_path), 7, "this file runs on CPython 3.11 to 3.14")
    done = run(other, "status", "--json", home=tmp_path)
    assert done.returncode == 7 and '"code": "missing"' in done.stderr


def without(path: Path, name: str, new: Path) -> Path:
    """The zip without one entry."""
    with zipfile.ZipFile(path) as z, zipfile.ZipFile(new, "w") as out:
        for entry in z.namelist():
            if entry != name:
                out.writestr(entry, z.read(entry))
    return new


def test_stub_starts_from_bytecode_if_there_is_some_for_this_python(tmp_path: Path) -> None:
    pure, tag = {"idao/__init__.py": b"", "idao/__main__.py": MAIN}, str(sys.implementation.cache_tag)
    native = {"native.py": b"word = 'hello'\n"}
    path = with_code(tmp_path / "idao.pyz", pure, native, pythons={tag: sys.executable})
    check_runs(path, tmp_path)
    check_runs(without(path, "stub.py", tmp_path / "bytecode.pyz"), tmp_path)
    check_runs(without(path, f"stub-{tag}.pyc", tmp_path / "source.pyz"), tmp_path)
    data = path.read_bytes()
    code = data.index(importlib.util.MAGIC_NUMBER, data.index(f"stub-{tag}.pyc".encode()))
    other = tmp_path / "other.pyz"
    other.write_bytes(data[:code] + b"\0\0" + data[code + 2 :])
    check_runs(other, tmp_path)  # of a Python that calls itself the same and has other bytecode


def test_stub_parses_under_old_pythons(small: Path, tmp_path: Path) -> None:
    for name in ("first.py", "stub.py"):
        ast.parse((CLONE / "zipapp" / name).read_text(), feature_version=(3, 4))
    for name in ("python2.7", "python3.6", "python3.10"):
        for python in sorted(Path(sys.base_prefix).parent.glob(f"*/bin/{name}")):
            check_refused(run(small, home=tmp_path, python=str(python)), 7, "this file runs on")


def test_native_module_without_symbols_still_loads(tmp_path: Path) -> None:
    import cbor2._cbor2 as native

    whole = Path(native.__file__).read_bytes()
    part = BUILD.mapped_part(whole)
    assert len(part) < len(whole) and part[:6] == whole[:6]
    path = tmp_path / Path(native.__file__).name
    path.write_bytes(part)
    code = (
        "import cbor2, importlib.machinery as m, importlib.util as u\n"
        f"loader = m.ExtensionFileLoader('cbor2._cbor2', {str(path)!r})\n"
        "module = u.module_from_spec(u.spec_from_loader('cbor2._cbor2', loader))\n"
        "loader.exec_module(module)\n"
        "assert module.loads(b'\\x01') == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert BUILD.mapped_part(b"not elf") == b"not elf"
