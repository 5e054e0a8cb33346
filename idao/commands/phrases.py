"""How a recovery phrase is given to a command: a file, standard input, or typed on a terminal."""

from __future__ import annotations

import sys

from idao import ui
from idao.errors import NotFound, UsageError
from idao.store import givenfile

WORDS = 24


def typed_phrase(phrase_file: str) -> str:
    """The words as given, unread; `-` is standard input."""
    from idao.crypto.phrase import TYPED_MAX

    if phrase_file == "-":
        return sys.stdin.read(TYPED_MAX + 1)
    if phrase_file:
        try:
            with givenfile.opened(phrase_file) as f:
                return f.read(TYPED_MAX + 1).decode("utf-8", "replace")
        except FileNotFoundError:
            raise NotFound(f"no such file: '{phrase_file}'") from None
        except OSError as e:
            raise UsageError(f"cannot read '{phrase_file}': {e.strerror}") from e
    if not ui.interactive():
        raise UsageError(
            "the 24 words of the recovery phrase are needed", hint="add --phrase-file FILE, or - for stdin"
        )
    ui.say("type the 24 words, in order, then an empty line:")
    typed: list[str] = []
    while line := sys.stdin.readline(TYPED_MAX).strip():
        typed.append(line)
        if sum(len(part.split()) for part in typed) >= WORDS:
            break
    return " ".join(typed)
