"""Completion in bash, zsh and fish: right words, and no Python behind a press of Tab."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from idao.completion import SHELLS, script, table
from idao.errors import UsageError

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_idao
printf '%s\\n' "${COMPREPLY[@]}"
"""
TAB_S = 0.2
"""A person sees nothing between the key and the words."""


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "idao.bash"
    path.write_text(script("bash"))
    return path


def complete(bash: Path, *words: str) -> list[str]:
    command = [shutil.which("bash") or "bash", "--norc", "-c", COMPLETE, "bash", str(bash), *words]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/nonexistent"}, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    "words,wanted",
    [
        (["idao", "contr"], ["contribute"]),
        (["idao", "asset", "fo"], ["forget"]),
        (["idao", "--home", "asset", "asset", "fo"], ["forget"]),
        (["idao", "--json", "asset", "fo"], ["forget"]),
        (["idao", "contribute", "--lic"], ["--license"]),
        (["idao", "contribute", "--pass"], ["--passphrase-file"]),
        (["idao", "contribute", "--name", ""], []),
        (["idao", "help", "exit"], ["exit-codes"]),
        (["idao", "completion", ""], ["bash", "zsh", "fish"]),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else x,
)
def test_bash_completes(bash: Path, words: list[str], wanted: list[str]) -> None:
    assert complete(bash, *words) == wanted


def test_bash_offers_every_command(bash: Path) -> None:
    for command in table():
        if command.children:
            assert complete(bash, "idao", *command.words, "") == list(command.children)


def test_bash_answers_at_once(bash: Path) -> None:
    start = time.perf_counter()
    complete(bash, "idao", "asset", "")
    assert time.perf_counter() - start < TAB_S


@pytest.mark.parametrize("shell", SHELLS)
def test_script_parses(shell: str, tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text(script(shell))
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n", str(path)], check=True)


def test_fish_completes(tmp_path: Path) -> None:
    if not shutil.which("fish"):
        pytest.skip("no fish here")
    path = tmp_path / "idao.fish"
    path.write_text(script("fish"))
    command = ["fish", "--no-config", "-c", f"source {path}; complete -C 'idao asset fo'"]
    assert subprocess.check_output(command, text=True).split("\t")[0] == "forget"


def test_other_shells_are_refused() -> None:
    with pytest.raises(UsageError):
        script("csh")
