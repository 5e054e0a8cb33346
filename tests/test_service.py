"""The node as a service: what the units say, and where they go. No service manager is touched."""

from __future__ import annotations

import plistlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from idao.errors import IdaoError, Missing, NotFound, UsageError
from idao.hall import founding, service
from idao.home import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in ("IDAO_HOME", "IDAO_PASSPHRASE_FILE", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    founding.create(tmp_path / "a % b", name="ana", domain=None, passphrase=None)
    return Home.open(tmp_path / "a % b")


def managed(monkeypatch: pytest.MonkeyPatch, code: int = 0) -> list[tuple[str, ...]]:
    ran: list[tuple[str, ...]] = []

    def answer(command: tuple[str, ...], **_: Any) -> subprocess.CompletedProcess[str]:
        ran.append(tuple(command))
        return subprocess.CompletedProcess(command, code, "", "Failed to connect to bus\n")

    monkeypatch.setattr(service.subprocess, "run", answer)
    monkeypatch.setattr(service.shutil, "which", lambda name: f"/bin/{name}")
    return ran


def test_a_systemd_unit_runs_this_home(home: Home) -> None:
    unit = service.unit(home, None, service.SYSTEMD)
    assert unit.name.startswith("idao-node-") and unit.path.parent.parts[-2:] == ("systemd", "user")
    assert "Type=notify" in unit.text and "node run" in unit.text
    assert f'Environment="IDAO_HOME={home.path}"'.replace("%", "%%") in unit.text
    assert "IDAO_PASSPHRASE_FILE" not in unit.text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit(home: Home, tmp_path: Path) -> None:
    unit = service.unit(home, None, service.SYSTEMD)
    (tmp_path / unit.name).write_text(unit.text)
    command = ["systemd-analyze", "verify", "--user", str(tmp_path / unit.name)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert unit.name not in done.stderr, done.stderr


def test_a_launchd_agent_runs_this_home(home: Home) -> None:
    unit = service.unit(home, None, service.LAUNCHD)
    data = plistlib.loads(unit.text.encode())
    assert data["ProgramArguments"][-2:] == ["node", "run"] and data["Label"] == unit.name
    assert data["EnvironmentVariables"]["IDAO_HOME"] == str(home.path)


def test_the_usual_home_has_the_usual_name(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "locate", lambda: home.path)
    assert service.unit(home, None, service.SYSTEMD).name == "idao-node.service"


def test_a_locked_home_wants_a_passphrase_file(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Home, "needs_passphrase", lambda self: True)
    with pytest.raises(UsageError, match="passphrase"):
        service.unit(home, None)
    assert f"IDAO_PASSPHRASE_FILE={Path('secret').absolute()}" in service.unit(home, "secret").text


def test_install_and_uninstall(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = service.unit(home, None, service.SYSTEMD)
    with pytest.raises(NotFound):
        service.uninstall(unit)
    ran = managed(monkeypatch)
    assert service.install(unit)["installed"] and unit.path.read_text() == unit.text
    assert [c[-1] for c in ran] == ["daemon-reload", unit.name]
    assert not service.uninstall(unit)["installed"] and not unit.path.exists()
    assert ran[-1][-3:] == ("disable", "--now", unit.name)


def test_a_manager_that_refuses_names_the_command(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = service.unit(home, None, service.SYSTEMD)
    managed(monkeypatch, code=1)
    with pytest.raises(IdaoError, match="Failed to connect") as refusal:
        service.install(unit)
    assert "systemctl --user enable --now" in str(refusal.value.hint)
    monkeypatch.setattr(service.shutil, "which", lambda name: None)
    with pytest.raises(Missing) as missing:
        service.install(unit)
    assert missing.value.exit_code == 7 and unit.path.exists()


def test_a_dollar_is_written_as_each_place_wants_it(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd takes it literally in an environment, and twice for once in a command."""
    monkeypatch.setattr(service, "own_command", lambda: ["/opt/a$b/idao"])
    text = service.unit(home, "/etc/pass$word", service.SYSTEMD).text
    assert 'Environment="IDAO_PASSPHRASE_FILE=/etc/pass$word"' in text
    assert 'ExecStart="/opt/a$$b/idao" node run' in text


@pytest.mark.parametrize("error", [subprocess.TimeoutExpired("systemctl", 30), PermissionError(13, "denied")])
def test_a_manager_that_hangs_is_named(home: Home, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(service.subprocess, "run", fail)
    monkeypatch.setattr(service.shutil, "which", lambda name: f"/bin/{name}")
    with pytest.raises(IdaoError, match=r"systemd refused: (no answer|denied)") as refused:
        service.install(service.unit(home, None, service.SYSTEMD))
    assert "systemctl --user" in (refused.value.hint or "")


def test_a_service_without_a_manager_is_removed_and_says_so(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = service.unit(home, None, service.SYSTEMD)
    unit.path.parent.mkdir(parents=True)
    unit.path.write_text(unit.text)
    monkeypatch.setattr(service.shutil, "which", lambda name: None)
    with pytest.raises(Missing, match="is removed, but"):
        service.uninstall(unit)
    assert not unit.path.exists()
