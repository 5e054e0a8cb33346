"""What a first hour of use found: odd folders, closed outputs, empty values, values out of bounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Lived


def idao(lived: Lived, *words: str, **how: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "idao", "--home", str(lived.path), *words],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **how,  # type: ignore[call-overload]
    )  # fmt: skip


def test_a_folder_with_an_empty_folder_and_a_pipe_is_proven(lived: Lived, tmp_path: Path) -> None:
    assert (lived.data / "sub" / "nothing").is_dir()
    os.mkfifo(lived.data / "pipe")
    proof = tmp_path / "p"
    lived.dao()
    assert idao(lived, "proof", f"{lived.asset}@2", "-o", str(proof)).returncode == 0
    done = idao(lived, "--json", "verify", str(proof), str(lived.data))
    answer = json.loads(done.stdout)
    assert done.returncode == 0 and answer["ok"], answer["checks"]
    assert idao(lived, "verify", str(proof), str(tmp_path / "no such file")).returncode == 4


@pytest.mark.parametrize("words", [("status",), ("asset", "list"), ("mint", "nope")])
def test_a_closed_output_is_no_bug(lived: Lived, words: tuple[str, ...]) -> None:
    line = f'exec "$0" -m idao --home "{lived.path}" {" ".join(words)} >&-'
    done = subprocess.run(["sh", "-c", line, sys.executable], capture_output=True, text=True, check=False)
    assert done.returncode == (4 if "nope" in words else 0)
    assert "Traceback" not in done.stderr and "bug" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mint", "ASSET", "--to", ""), "--to is given without a value"),
        (("mint", "ASSET", "--value="), "--value is given without a value"),
        (("contribute", ".", "--name", ""), "--name is given without a value"),
        (("mint", "ASSET", "--share-ratio", "4294967296"), "not in the range"),
        (("account", "transfer", "me", "1", "--memo", "x" * 3000), "out of bounds: memo"),
        (("init", "--no-passphrase", "--passphrase-file", "x"), "contradict each other"),
    ],
)
def test_usage(lived: Lived, words: tuple[str, ...], said: str) -> None:
    done = idao(lived, *(lived.asset if w == "ASSET" else w for w in words))
    assert (done.returncode, done.stdout) == (2, "") and said in done.stderr, done.stderr


def test_a_quorum_that_is_not_here(lived: Lived) -> None:
    assert idao(lived, "--quorum", "nope", "status").returncode == 4


def test_a_place_that_cannot_be_written(lived: Lived) -> None:
    for words in (("proof", lived.asset, "-o", "/proc/nowhere/p"), ("doctor", "--bundle", "/proc/nowhere/b")):
        done = idao(lived, *words)
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
