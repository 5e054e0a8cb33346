"""A configuration as idao writes it, read without `tomllib`, which costs a command a tenth of its start.

It has comments, `[section]`s, and `key = value` with a bare key and a plain text, a whole number, true or
false. What it reads, `tomllib` reads the same. What a hand wrote otherwise is kept when it is written again.
"""

from __future__ import annotations

from typing import Any

from idao.errors import UsageError


def read(text: str) -> dict[str, Any] | None:
    """The values of such a file; None for any other, which is for `tomllib`."""
    out: dict[str, Any] = {}
    section = out
    for line in text.split("\n"):
        key, equals, value = line.partition(" = ")
        name = key if equals else line[1:-1]
        if not line or (line[0] == "#" and line.isprintable()):
            continue
        if not name or not name.isascii() or not name.replace("-", "_").replace("_", "0").isalnum():
            return None
        if not equals:
            if line != f"[{name}]" or name in out:
                return None
            section = out[name] = {}
        elif name in section:
            return None
        elif len(value) > 1 and value[0] == value[-1] == '"' and value.isprintable():
            if '"' in value[1:-1] or "\\" in value:
                return None
            section[name] = value[1:-1]
        elif value in ("true", "false"):
            section[name] = value == "true"
        elif value.isascii() and value.isdigit() and len(value) < 10 and (value[0] != "0" or value == "0"):
            section[name] = int(value)
        else:
            return None
    return out


def key_text(name: str) -> str:
    """Bare where TOML allows that; a hand may have written others."""
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if bare else value_text(name)


def value_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str):
        raise UsageError(
            f"config.toml holds a value that only a hand can keep: {value!r}",
            hint="change it by hand",
            code="config",
        )
    escaped = "".join(c if c not in '"\\' and c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in value)
    return f'"{escaped}"'
