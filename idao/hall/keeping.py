"""Settings of a home and where each comes from; the schemas of all commands' output."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from idao import home as homes
from idao.errors import NotFound, UsageError
from idao.home import Home

CATEGORY_CHARS_MAX = 64


class Setting(NamedTuple):
    """A setting, and what stands above the home's config in precedence."""

    key: str
    field: str = ""
    """The global option's field, as `cli.GLOBAL_FLAGS` and `GLOBAL_VALUES` name it."""
    flag: str = ""
    variable: str = ""
    kept: bool = True
    """Whether config.toml may hold it."""


SETTINGS = (
    Setting("home", "home", "--home", "IDAO_HOME", kept=False),
    Setting("quorum.default", "quorum", "--quorum", "IDAO_QUORUM"),
    Setting("wait", "wait", "--wait", "IDAO_WAIT"),
    Setting("color", "no_color", "--no-color", "NO_COLOR"),
    Setting("passphrase.file", "passphrase_file", "--passphrase-file", "IDAO_PASSPHRASE_FILE", kept=False),
    Setting("idao.name"),
    Setting("node.port"),
    Setting("node.hosts"),
    Setting("node.interfaces"),
    Setting("node.discovery"),
    Setting("idao.domain"),
)
LEDGERS = "ledgers"


# --- settings ---------------------------------------------------------------------------------------


def settings(home: Home, flags: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every setting: key, value, origin (flag, environment, config, default) and source in full.

    `flags` holds the global options that were given as flags, by field.
    """
    rows = [_resolved(home, s, flags) for s in SETTINGS]
    names = home.config.get(LEDGERS, {})
    source = str(home.path / "config.toml")
    rows += [_row(f"{LEDGERS}.{stem}", str(name), "config", source) for stem, name in sorted(names.items())]
    return rows


def _row(key: str, value: Any, origin: str, source: str) -> dict[str, Any]:
    return {"key": key, "value": value, "origin": origin, "source": source}


def _resolved(home: Home, s: Setting, flags: Mapping[str, Any]) -> dict[str, Any]:
    never = s.key == "color"  # its flag and its variable say one thing only
    if s.field and s.field in flags:
        return _row(s.key, "never" if never else flags[s.field], "flag", s.flag)
    if s.variable and (given := os.environ.get(s.variable)):
        value: Any = "never" if never else float(given) if s.key == "wait" else given
        return _row(s.key, value, "environment", s.variable)
    section, _, name = s.key.rpartition(".")
    kept = home.get(section, name) if section else home.config.get(name)
    if s.kept and kept is not None:
        value = kept if isinstance(kept, int | float) else str(kept)
        return _row(s.key, value, "config", str(home.path / "config.toml"))
    default = str(home.path) if s.key == "home" else homes.DEFAULTS.get(s.key)
    return _row(s.key, default, "default", "")


def change(home: Home, key: str, text: str) -> dict[str, Any]:
    """Changes a setting in memory, as config.toml would keep it; the caller saves. Key, old and new value."""
    key, value = _checked(home, key, text)
    section, _, name = key.rpartition(".")
    where = home.config.setdefault(section, {}) if section else home.config
    old = where.get(name)
    where[name] = value
    return {"key": key, "value": value, "old": old}


def _checked(home: Home, key: str, text: str) -> tuple[str, Any]:
    if key.startswith(f"{LEDGERS}."):
        return _ledger_name(home, key, text)
    known = {s.key: s for s in SETTINGS}
    if key not in known:
        import difflib  # only after a slip of the finger

        near = difflib.get_close_matches(key, [*known, f"{LEDGERS}.ID"], n=1)
        hint = f"did you mean '{near[0]}'?" if near else "see 'idao config show'"
        raise UsageError(f"no setting '{key}'", hint=hint)
    if not known[key].kept:
        raise UsageError(
            f"'{key}' is not kept in a home",
            hint=f"give {known[key].flag} or set {known[key].variable}",
        )
    return key, _value(home, key, text)


def _value(home: Home, key: str, text: str) -> Any:
    if key == "wait":
        try:
            number: Any = float(text)
        except ValueError:
            number = text
        homes.check_setting(key, number)
        return int(number) if number == int(number) else number
    if key == "color":
        homes.check_setting(key, text)
    elif key == "quorum.default":
        from idao.dao import Dao

        return f"quorum:{Dao(home, quorum=text).ledger_path().stem}"
    elif key.startswith("node."):
        return _node_setting(key, text)
    elif key == "idao.name":
        return _name(text)
    elif key == "idao.domain" and not (
        text.isascii() and text.replace("-", "").isalnum() and len(text) <= CATEGORY_CHARS_MAX
    ):
        raise UsageError(f"a domain is a category, one word: '{text}'")
    return text


def _node_setting(key: str, text: str) -> Any:
    """Port, addresses to listen on, whether the node announces itself on the LAN."""
    if key == "node.port":
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
            raise UsageError(f"a port is a number from 1 to 65535, not '{text}'")
        return int(text)
    if key == "node.discovery":
        if text not in ("on", "off"):
            raise UsageError(f"node.discovery is on or off, not '{text}'")
        return text
    if key == "node.interfaces":
        return _name(text) if text else ""
    from ipaddress import ip_address

    for part in filter(None, map(str.strip, text.split(","))):
        try:
            ip_address(part if part.isprintable() else "")  # its scope (%eth0) may be any bytes
        except ValueError:
            raise UsageError(f"node.hosts lists IP addresses of this machine, not '{part}'") from None
    return text


def _name(text: str) -> str:
    from idao.hall.founding import check_name

    return check_name(text)


def _ledger_name(home: Home, key: str, text: str) -> tuple[str, str]:
    from idao.dao import Dao

    stem = Dao(home, quorum=key.removeprefix(f"{LEDGERS}.")).ledger_path().stem
    taken = {name: one for one, name in home.config.get(LEDGERS, {}).items()}
    if taken.get(text, stem) != stem:
        raise UsageError(f"another ledger is called '{text}'")
    return f"{LEDGERS}.{stem}", _name(text)


# --- schemas ----------------------------------------------------------------------------------------


def schema_names() -> list[str]:
    """Commands as typed, with - for the space, and `error`."""
    found = (Path(f.name) for f in resources.files("idao").joinpath("schemas").iterdir())
    return sorted(f.stem for f in found if f.suffix == ".json")


def schema(words: list[str]) -> dict[str, Any]:
    """The JSON Schema of a command's output. `NotFound` with what may have been meant."""
    name, names = "-".join(words), schema_names()
    if name not in names:
        family = [n for n in names if n.startswith(f"{name}-")]
        import difflib  # only after a slip of the finger

        near = difflib.get_close_matches(name, names, n=1)
        shown = ", ".join(n.replace("-", " ", 1) for n in family)
        hint = f"one of: {shown}" if family else f"did you mean '{near[0]}'?" if near else "see 'idao schema'"
        raise NotFound(f"no schema of '{' '.join(words)}'", hint=hint)
    found: dict[str, Any] = json.loads(
        resources.files("idao").joinpath("schemas", f"{name}.json").read_text(encoding="utf-8")
    )
    return found
