"""A person at a terminal, in this process: types a command, reads what it prints, lets time pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cli_world import settled

from idao import cli, home, ui
from idao.dao import Dao
from idao.hall import founding

SECOND = 1000
DAY = 24 * 3600 * SECOND


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def id(self) -> str:
        """The last line: the id alone."""
        return self.out.split("\n")[-2]

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Person:
    """Commands in one home, under a clock that the test moves."""

    def __init__(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.home, self._patch, self._capsys = path, monkeypatch, capsys
        self._late_ms = 0
        for where in ("idao.dao.now_ms", "idao.hall.signing.now_ms", "idao.hall.governance.now_ms"):
            monkeypatch.setattr(where, lambda: home.now_ms() + self._late_ms)

    def wait(self, ms: int) -> None:
        self._late_ms += ms

    def types(self, *args: str) -> Said:
        """Any outcome."""
        self._patch.setattr(ui, "options", ui.Options())
        self._capsys.readouterr()
        code = cli.main(["--home", str(self.home), *args])
        out, err = self._capsys.readouterr()
        assert code in (0, 3, 6) or out == ""
        return Said(code, out, err)

    def runs(self, *args: str) -> Said:
        """What succeeds."""
        said = self.types(*args)
        assert said.code == 0, said.err
        return said

    def fails(self, exit_code: int, code: str, *args: str) -> dict[str, str]:
        """What is refused, with this exit code and this word."""
        said = self.types("--json", *args)
        assert (said.code, said.out) == (exit_code, "")
        error: dict[str, str] = json.loads(said.err)["error"]
        assert error["code"] == code, error
        return error

    def reads(self, *args: str) -> Any:
        return self.runs("--json", *args).json

    def proposes(self, title: str, *args: str) -> str:
        return self.runs("propose", title, *args, "-q").out.strip()

    def votes(self, proposal: str, choice: str, by: str = "") -> str:
        """The state that the ballot leads to."""
        return str(self.reads("vote", proposal, choice, *(("--as", by) if by else ()))["state"])

    def state_of(self, proposal: str) -> str:
        return str(self.reads("proposal", "show", proposal)["state"])

    def dao(self) -> Dao:
        return Dao.open(self.home)

    def height(self) -> int:
        return self.dao().store.height

    def files(self) -> dict[str, bytes]:
        """Ledgers, configuration and keys, to see that nothing was written."""
        settled()  # a forgotten connection that is closed in between would move its log into the file
        found = [p for p in sorted(self.home.rglob("*")) if p.is_file()]
        return {str(p): p.read_bytes() for p in found if p.suffix in (".db", ".toml", ".key", ".history")}


@pytest.fixture(scope="session")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("founded") / "home"
    founding.create(path, name="clinic", domain=None, passphrase=None)
    return path


@pytest.fixture(scope="session")
def three_homed(founded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("three") / "home"
    shutil.copytree(founded, path)
    people = Dao.open(path).people
    people.add_member("ana", weight=3)
    opened = people.add_member("bob", weight=6)
    Dao.open(path).governance.vote(opened["proposal"], "yes", by="ana")
    return path


@pytest.fixture
def alone(
    founded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Person]:
    """An iDAO of one."""
    shutil.copytree(founded, tmp_path / "home")
    yield Person(tmp_path / "home", monkeypatch, capsys)


@pytest.fixture
def three(
    three_homed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Person]:
    """The owner (weight 1), ana (3) and bob (6), all with their keys in one home."""
    shutil.copytree(three_homed, tmp_path / "home")
    yield Person(tmp_path / "home", monkeypatch, capsys)
