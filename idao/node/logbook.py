"""What the node says of itself: one line an event, as JSON or for people. Never a secret, a key or contents.

`note` takes numbers, words and ids. Events are words of our own (`docs/quorum.md` lists them).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TextIO

from idao.home import now_ms, show_time
from idao.model import show_id

LEVELS = ("debug", "info", "warning", "error")
VALUE_CHARS_MAX = 1000
"""A longer value is cut: one event is one line that a person can read."""


class Logbook:
    """Writes to `file` (JSON lines) or, without one, to standard error: JSON lines unless `plain`."""

    def __init__(self, file: Path | None = None, *, plain: bool = False, level: str = "info") -> None:
        self._file, self._plain = file, plain and file is None
        self._least = LEVELS.index(level)
        self._stream: TextIO = self._opened()

    def _opened(self) -> TextIO:
        if self._file is None:
            return sys.stderr
        return open(self._file, "a", encoding="utf-8", opener=_private)

    def reopen(self) -> None:
        """After the file was moved aside (logrotate)."""
        if self._file is not None:
            self._stream.close()
            self._stream = self._opened()

    def note(self, event: str, level: str = "info", **facts: Any) -> None:
        if LEVELS.index(level) < self._least:
            return
        shown = {name: _shown(name, value) for name, value in facts.items() if value is not None}
        if self._plain:
            rest = "  ".join(f"{k}={v}" for k, v in shown.items())
            line = f"idao: {show_time(now_ms())[11:19]} {event}  {rest}".rstrip()
        else:
            line = json.dumps({"time": show_time(now_ms()), "level": level, "event": event, **shown})
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass  # A full disk or a closed terminal must not stop a validator.


def _private(path: str, flags: int) -> int:
    import os

    return os.open(path, flags, 0o600)


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        if len(value) != 32:
            return value.hex()[:VALUE_CHARS_MAX]
        return show_id({"quorum": "quorum", "tx": "tx"}.get(name, "idao"), value)
    if isinstance(value, str):
        return "".join(c if c.isprintable() else "?" for c in value)[:VALUE_CHARS_MAX]
    return value
