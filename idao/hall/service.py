"""The node as a service of the user: a systemd user unit, or a launchd agent. Text, and where it goes."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from idao.errors import IdaoError, Missing, NotFound, UsageError
from idao.frozen import frozen
from idao.home import Home, locate, write_file

SYSTEMD, LAUNCHD = "systemd", "launchd"
LABEL = "idao-node"
RUN_S = 30
"""A service manager answers at once or hangs."""


def own_command() -> list[str]:
    """How to run this very idao again: from a folder, a wheel, or the one file."""
    main = sys.argv[0]
    if main.endswith(".pyz") or (Path(main).is_file() and not main.endswith("__main__.py")):
        return [sys.executable, os.path.abspath(main)]
    return [sys.executable, "-m", "idao"]


@frozen
class Unit:
    """A service definition, not yet installed."""

    kind: str
    name: str
    path: Path
    text: str
    start: tuple[tuple[str, ...], ...]
    """Commands that make the manager take it in and start it."""
    stop: tuple[tuple[str, ...], ...]


def unit(home: Home, passphrase_file: str | None, kind: str = "") -> Unit:
    """The unit for this home. `UsageError` when its keys need a passphrase and no file is named."""
    kind = kind or (LAUNCHD if sys.platform == "darwin" else SYSTEMD)
    if kind not in (SYSTEMD, LAUNCHD):
        raise UsageError(f"no service manager '{kind}'", hint=f"one of: {SYSTEMD}, {LAUNCHD}")
    file = passphrase_file or os.environ.get("IDAO_PASSPHRASE_FILE")
    if home.needs_passphrase() and not file:
        raise UsageError(
            "a service cannot be asked for the passphrase of this home",
            hint="name a file of mode 0600: --passphrase-file FILE (or leave it out: 'idao key passphrase')",
            code="passphrase",
        )
    environment = {"IDAO_HOME": str(home.path.resolve()), "IDAO_NO_INPUT": "1"}
    if file:
        environment["IDAO_PASSPHRASE_FILE"] = os.path.abspath(file)
    if "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    name = _name(home)
    return _systemd(name, environment) if kind == SYSTEMD else _launchd(name, environment)


def _name(home: Home) -> str:
    """One home of a user is plain; each other has a mark of its path."""
    if home.path.resolve() == locate_default():
        return LABEL
    return f"{LABEL}-{hashlib.blake2s(os.fsencode(home.path.resolve()), digest_size=4).hexdigest()}"


def locate_default() -> Path:
    kept = os.environ.pop("IDAO_HOME", None)
    try:
        return locate().resolve()
    finally:
        if kept is not None:
            os.environ["IDAO_HOME"] = kept


def _systemd(name: str, environment: dict[str, str]) -> Unit:
    lines = [
        "[Unit]",
        "Description=idao node",
        "After=network-online.target",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=notify",
        f"ExecStart={' '.join(_systemd_word(w) for w in [*own_command(), 'node', 'run'])}",
        *(f"Environment={_systemd_word(f'{k}={v}', '$')}" for k, v in environment.items()),
        "ExecReload=/bin/kill -HUP $MAINPID",
        "Restart=on-failure",
        "RestartSec=2",
        "# 8: another node of this home runs; 9: the passphrase is wrong. Trying again would not help.",
        "RestartPreventExitStatus=2 8 9 10",
        "NoNewPrivileges=yes",
        "UMask=0077",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"
    control = ("systemctl", "--user")
    return Unit(
        SYSTEMD,
        f"{name}.service",
        folder / f"{name}.service",
        "\n".join(lines) + "\n",
        ((*control, "daemon-reload"), (*control, "enable", "--now", f"{name}.service")),
        ((*control, "disable", "--now", f"{name}.service"),),
    )


def _systemd_word(text: str, dollar: str = "$$") -> str:
    """One argument of a unit file: quoted, with % and $ taken literally. `dollar` is how $ is written there:
    twice in a command, once in an environment (systemd.service(5), systemd.exec(5))."""
    safe = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", dollar)
    return f'"{safe}"' if safe != text or not text.replace("/", "").replace("-", "").isalnum() else text


def _launchd(name: str, environment: dict[str, str]) -> Unit:
    import plistlib

    label = f"org.{name.replace('-', '.', 1)}"
    data = {
        "Label": label,
        "ProgramArguments": [*own_command(), "node", "run"],
        "EnvironmentVariables": environment,
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 5,
        "ProcessType": "Background",
        "Umask": 0o077,
    }
    path = Path.home() / "Library" / "LaunchAgents" / f"{label}.plist"
    domain = f"gui/{os.getuid()}"
    return Unit(
        LAUNCHD,
        label,
        path,
        plistlib.dumps(data).decode(),
        (("launchctl", "bootstrap", domain, str(path)),),
        (("launchctl", "bootout", f"{domain}/{label}"),),
    )


def install(made: Unit) -> dict[str, Any]:
    """Writes the unit and has the manager start it. `Missing` (exit code 7) names what the user must do."""
    write_file(made.path, made.text.encode(), 0o644)
    _carry_out(made, made.start, "written")
    return shown(made, True)


def uninstall(made: Unit) -> dict[str, Any]:
    if not made.path.exists():
        raise NotFound(f"no service '{made.name}' is installed", hint="idao node service install")
    try:
        _carry_out(made, made.stop, "removed")
    finally:
        made.path.unlink(missing_ok=True)
    return shown(made, False)


def shown(made: Unit, installed: bool | None = None) -> dict[str, Any]:
    there = made.path.exists() if installed is None else installed
    return {"kind": made.kind, "name": made.name, "path": str(made.path), "installed": there}


def _carry_out(made: Unit, commands: tuple[tuple[str, ...], ...], what: str) -> None:
    todo = " && ".join(shlex.join(c) for c in commands)
    if shutil.which(commands[0][0]) is None:
        raise Missing(
            f"'{made.path}' is {what}, but this machine has no {commands[0][0]}", hint=f"run: {todo}"
        )
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=RUN_S)
            said = done.stderr.strip().splitlines() if done.returncode else None
        except subprocess.TimeoutExpired:
            said = [f"no answer within {RUN_S} s"]
        except OSError as e:
            said = [e.strerror or "it cannot be run"]
        if said is not None:
            why = (said or ["no reason given"])[0]
            raise IdaoError(f"{made.kind} refused: {why}", hint=f"run: {todo}", code="service")
