"""The recipes of docs/cron.md, each run as cron runs it: in an empty environment, by sh, unattended."""

from __future__ import annotations

import configparser
import fcntl
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli_world import make, must
from shipping import CLONE

from idao.hall import backup
from idao.store import moments

TEXT = (CLONE / "docs" / "cron.md").read_text()
RECIPES = {
    re.findall(r"^# (\S+):", text, re.M)[0]: text for text in re.findall(r"```sh\n(.*?)```", TEXT, re.S)
}
PASSPHRASE = "nobody is awake"


@dataclass(frozen=True)
class Clinic:
    """A machine on which the recipes were installed as the page says, below another root."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "srv/clinic/idao"

    @property
    def data(self) -> Path:
        return self.root / "srv/clinic/data"

    @property
    def backups(self) -> list[Path]:
        return sorted((self.root / "srv/backups").glob("*.idao-backup"))

    def runs(self, name: str, **changes: str) -> tuple[int, str]:
        """(exit code, what cron would mail)."""
        text = (
            RECIPES[name].replace("/srv/", f"{self.root}/srv/").replace("/usr/local/bin", f"{self.root}/bin")
        )
        for old, new in {"--wait 600": "--wait 0", **changes}.items():
            text = text.replace(old, new)
        script = self.root / name
        script.write_text(text)
        done = subprocess.run(
            ["env", "-i", "sh", str(script)],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    clinic = Clinic(tmp_path)
    (tmp_path / "srv/clinic").mkdir(parents=True)
    (tmp_path / "srv/backups").mkdir()
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/idao"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{CLONE}" exec "{sys.executable}" -m idao "$@"\n')
    program.chmod(0o755)
    (tmp_path / "srv/clinic/passphrase").write_text(PASSPHRASE + "\n")
    (make(tmp_path / "made").folder / "visits").rename(clinic.data)
    must("init", "--passphrase-file", tmp_path / "srv/clinic/passphrase", home=clinic.home)
    return clinic


def test_the_page_has_the_recipes() -> None:
    assert set(RECIPES) == {"contribute.sh", "audit.sh", "backup.sh"}
    assert all(text.startswith("#!/bin/sh\n") for text in RECIPES.values())


def test_three_nights(clinic: Clinic) -> None:
    for night in range(3):
        (clinic.data / f"night{night}.txt").write_text(f"visits of night {night}\n")
        for name in ("contribute.sh", "audit.sh", "backup.sh"):
            assert clinic.runs(name) == (0, ""), (name, "no mail when all is well")
    assert len(clinic.backups) == 3
    listed = must("asset", "list", "--json", home=clinic.home).json["assets"]
    assert [(a["name"], a["version"]) for a in listed] == [("clinic", 3)]
    known = moments.remembered(clinic.home / "home.db")
    assert known[moments.BACKUP_VERIFIED] >= known[moments.BACKUP_MADE], "a whole drill was done"


def test_nothing_new_is_no_new_version(clinic: Clinic) -> None:
    assert clinic.runs("contribute.sh") == clinic.runs("contribute.sh") == (0, "")
    assert must("asset", "list", "--json", home=clinic.home).json["assets"][0]["version"] == 1


def test_fourteen_are_kept(clinic: Clinic) -> None:
    folder = clinic.root / "srv/backups"
    for n in range(20):
        (folder / f"idao-20200101T0000{n:02d}Z-a.idao-backup").write_bytes(b"old")
    (folder / "mine.txt").write_text("not a backup")
    assert clinic.runs("backup.sh") == (0, "")
    assert len(clinic.backups) == 14 and (folder / "mine.txt").exists()
    assert any("-2020" not in path.name and backup.inspect(path) for path in clinic.backups)


def test_a_busy_home_is_tried_tomorrow(clinic: Clinic) -> None:
    assert clinic.runs("contribute.sh")[0] == 0
    (clinic.data / "more.txt").write_text("more\n")
    with (clinic.home / "lock").open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        code, mail = clinic.runs("contribute.sh")
    assert code == 0 and "another idao was at work" in mail
    with (clinic.home / "backup.lock").open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        code, mail = clinic.runs("backup.sh")
    assert code == 8 and "another backup was at work" in mail and clinic.backups == []
    assert clinic.runs("contribute.sh") == (0, "")


def test_trouble_is_mailed_with_its_code(clinic: Clinic) -> None:
    assert clinic.runs("contribute.sh")[0] == 0
    (clinic.root / "srv/clinic/passphrase").write_text("forgotten\n")
    for name in RECIPES:
        (clinic.data / "new.txt").write_text(name)
        code, mail = clinic.runs(name)
        assert code == 9 and mail, name
    (clinic.root / "srv/clinic/passphrase").write_text(PASSPHRASE + "\n")
    code, mail = clinic.runs("contribute.sh", **{"srv/clinic/data": "srv/clinic/nowhere"})
    assert code == 4 and "ended with 4" in mail
    code, mail = clinic.runs("backup.sh", **{"srv/clinic/idao": "srv/clinic/no-home"})
    assert code == 10 and "idao init" in mail


def test_a_disk_too_full_for_the_log_is_no_silence(clinic: Clinic) -> None:
    (clinic.root / "bin/idao").write_text("#!/bin/sh\nexit 1\n")  # what it says is lost
    assert clinic.runs("backup.sh") == (1, "backup ended with 1\n")


def test_damage_is_found_and_said(clinic: Clinic) -> None:
    assert clinic.runs("contribute.sh")[0] == 0
    (pack, *_) = (clinic.home / "packs").glob("*.pack")
    data = bytearray(pack.read_bytes())
    data[50] ^= 1
    pack.write_bytes(data)
    code, mail = clinic.runs("audit.sh")
    assert code == 6 and "asset check found damage" in mail and pack.name in mail
    code, mail = clinic.runs("backup.sh")
    assert code == 6 and "FAIL  contents" in mail and pack.name in mail
    pack.unlink()
    code, mail = clinic.runs("backup.sh")
    assert code == 6 and "is missing" in mail


def test_crontab_and_units_name_what_is_there() -> None:
    (table,) = re.findall(r"```crontab\n(.*?)```", TEXT, re.S)
    lines = [line.split() for line in table.splitlines() if "=" not in line]
    assert [Path(line[5]).name for line in lines] == list(RECIPES)
    assert all(re.fullmatch(r"\*|\d+", field) for line in lines for field in line[:5])
    service, timer = re.findall(r"```ini\n(.*?)```", TEXT, re.S)
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string(service)
    assert Path(parsed["Service"]["ExecStart"]).name in RECIPES
    parsed.read_string(timer)
    assert parsed["Install"]["WantedBy"] == "timers.target"


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_plain_shell(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(RECIPES[name])
    assert subprocess.run(["sh", "-n", str(tmp_path / name)]).returncode == 0
