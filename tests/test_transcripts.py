"""What README, docs and man pages show is run as shown.

In a fenced block whose language is `console`, a line `$ command` runs and the lines below it are what it
must print: its results, or its talk (standard error) and then its results; `…` stands for anything. The
commands must succeed, unless the fence says `fail` or an exit code: ```` ```console exit=5 ````. `> `
continues a command. One file is one person with an empty home and folder: variables and files stay from
block to block. A comment `<!-- console` holds commands that prepare, and are not shown.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from shipping import CLONE

PATIENCE_S = 300

FILES = [
    CLONE / "README.md",
    *sorted((CLONE / "docs").glob("*.md")),
    *sorted((CLONE / "man/text").glob("*.md")),
]
BLOCK = re.compile(r"^(?:```|<!-- )console *(fail|exit=\d+)?\n(.*?)^(?:```|-->)$", re.M | re.S)


class Step(NamedTuple):
    line: int
    command: str
    wanted: str | None
    """None: whatever it prints."""
    code: str
    """`fail`, or an exit code."""


def steps(text: str) -> list[Step]:
    found = []
    for block in BLOCK.finditer(text):
        at = text.count("\n", 0, block.start(2)) + 1
        for part in re.finditer(r"^\$ (.*\n(?:> .*\n)*)((?:(?!\$ ).*\n)*)", block[2], re.M):
            command = re.sub(r"^> ", "", part[1], flags=re.M).rstrip("\n")
            wanted = part[2] if block[0].startswith("`") else None
            line = at + block[2].count("\n", 0, part.start())
            found.append(Step(line, command, wanted, (block[1] or "0").removeprefix("exit=")))
    return found


def is_as_shown(wanted: str, printed: str) -> bool:
    """A line that is only `…` stands for any number of lines."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "…" else ".*".join(map(re.escape, line.split("…"))) + r" *\n"
        for line in wanted.rstrip("\n").split("\n")
    )
    return (
        re.fullmatch(
            pattern if wanted.strip() else r"\n*", printed if printed.endswith("\n") else printed + "\n"
        )
        is not None
    )


def play(shown: list[Step], folder: Path) -> list[tuple[str, str, str]]:
    """(exit code, results, talk) of each step, all in one shell that starts in `folder`."""
    programs, home, notes = folder / "bin", folder / "home", folder / "notes"
    for made in (programs, home, notes):
        made.mkdir()
    (programs / "idao").write_text(f'#!/bin/sh\nPYTHONPATH="{CLONE}" exec "{sys.executable}" -m idao "$@"\n')
    (programs / "idao").chmod(0o755)
    script = f"notes='{notes}'\n"
    for n, step in enumerate(shown):
        script += f'{{\n{step.command}\n}} > "$notes/{n}.out" 2> "$notes/{n}.err" < /dev/null\n'
        script += f'echo $? > "$notes/{n}.code"\n'
    environ = {"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}", "LANG": "C.UTF-8"}
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=home,
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,  # a step that waits for what does not come would wait for ever
    )
    assert done.stderr == ""
    kept = ("code", "out", "err")
    code, out, err = ([(notes / f"{n}.{what}").read_text() for n in range(len(shown))] for what in kept)
    return list(zip(map(str.strip, code), out, err, strict=True))


def complaints(file: str, shown: list[Step], folder: Path) -> list[str]:
    out = []
    for step, (code, results, talk) in zip(shown, play(shown, folder), strict=True):
        printed = talk + results
        where = f"{file}:{step.line}: $ {step.command}\n"
        if (code == "0") if step.code == "fail" else code != step.code:
            out.append(f"{where}exit code {code}, wanted {step.code}; it printed:\n{printed}")
        elif step.wanted is not None and not any(
            is_as_shown(step.wanted, seen) for seen in (results, printed)
        ):
            out.append(f"{where}wanted:\n{step.wanted}printed:\n{printed}")
    return out


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CLONE)))
def test_shown_is_what_happens(path: Path, tmp_path: Path) -> None:
    shown = steps(path.read_text())
    if not shown:
        pytest.skip("shows no console")
    assert "\n".join(complaints(path.name, shown, tmp_path)) == ""


# --- the runner itself ----------------------------------------------------------------------------

SAMPLE = """
<!-- console
$ word=hello
-->
```console
$ echo "$word" there
hello …
$ printf 'a\\nb\\nc\\n'
a
…
$ echo one \\
> two
one two
```
```console fail
$ false
```
```console exit=3
$ (exit 3)
```
"""


def test_runner_plays_all(tmp_path: Path) -> None:
    assert complaints("sample", steps(SAMPLE), tmp_path) == []
    assert [s.line for s in steps(SAMPLE)] == [3, 6, 8, 11, 16, 19]


@pytest.mark.parametrize(
    "block",
    ["```console\n$ echo a\nb\n```\n", "```console\n$ false\n```\n", "```console exit=2\n$ (exit 3)\n```\n",
     "```console fail\n$ true\n```\n", "```console\n$ echo a\n```\n", "```console\n$ true\na\n```\n"],
)  # fmt: skip
def test_runner_complains(block: str, tmp_path: Path) -> None:
    assert len(complaints("sample", steps(block), tmp_path)) == 1
