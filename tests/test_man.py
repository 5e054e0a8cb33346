"""The man pages are those that the commands give, teach all of them, and render without a warning."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from shipping import CLONE, load

from idao.completion import Command, table
from idao.errors import EXIT_CODES

COMMANDS = table()


def text_of(command: Command) -> str:
    """The page that teaches a command, without roff's escapes."""
    page = CLONE / "man" / ("-".join(("idao", *command.words[:1])) + ".1")
    return page.read_text().replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\fI", "")


def test_pages_are_as_the_commands_say() -> None:
    made = load("man/make").pages()
    kept = {p.name: p.read_text() for p in (CLONE / "man").glob("*.1")}
    stale = sorted(n for n in made.keys() | kept.keys() if made.get(n) != kept.get(n))
    assert stale == [], "run man/make"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c.words) or "idao")
def test_command_is_taught(command: Command) -> None:
    assert command.summary, "one sentence of help"
    text = text_of(command)
    assert f".B {' '.join(('idao', *command.words))}" in text
    for option in command.options:
        assert option.help, f"{option.names} says nothing"
        assert all(name in text for name in option.names)
        assert not any(name.startswith("--no-no-") for name in option.names)
    for argument in command.arguments:
        assert argument.help, f"{argument.shown} says nothing"
        assert argument.shown in text


@pytest.mark.parametrize("command", COMMANDS[2:], ids=lambda c: " ".join(c.words))
def test_command_has_an_example(command: Command) -> None:
    if not command.children:
        assert re.search(rf"^\$ .*idao .*{command.words[0]}", text_of(command), re.M)


def test_exit_codes_stand_in_the_main_page() -> None:
    text = text_of(COMMANDS[0])
    for code, meaning in EXIT_CODES.items():
        assert f".TP\n{code}\n{meaning}\n" in text


@pytest.mark.parametrize("page", sorted((CLONE / "man").glob("*.1")), ids=lambda p: p.name)
def test_page_renders(page: Path) -> None:
    if shutil.which("groff"):
        command = ["groff", "-man", "-k", "-Tutf8", "-ww", str(page)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stderr == "" and done.stdout
    if shutil.which("mandoc"):
        done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", str(page)], capture_output=True, text=True)
        assert done.stdout + done.stderr == ""
