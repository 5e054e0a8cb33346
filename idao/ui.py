"""How idao speaks: results on stdout, everything else on stderr, one JSON object with --json.

The rest of the program never prints. Tables and progress bars (rich) are loaded only on a terminal.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from idao.errors import IdaoError, Pending, UsageError, VerificationFailed

REDRAW_S = 0.1
"""Seconds between two looks of a bar: drawing one takes longer than deriving a block."""
Progress = Callable[[int, int, int, int], None]
"""(bytes done, bytes in all, files done, files in all)."""


class Options:
    """The global options, the same for every command."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json

    home: str | None = None
    quorum: str | None = None
    quiet: bool = False
    verbose: int = 0
    yes: bool = False
    no_input: bool = False
    no_color: bool = False
    wait: float | None = None
    dry_run: bool = False
    passphrase_file: str | None = None
    compact: bool = False
    """Whether each JSON object takes one line, because several follow each other."""
    flags: frozenset[str] = frozenset()
    """Which of these came as flags, not from the environment."""

    @property
    def wait_s(self) -> float:
        return float(self._configured("wait")) if self.wait is None else self.wait

    @property
    def colored(self) -> bool:
        return not self.no_color and self._configured("color") != "never"

    def _configured(self, key: str) -> Any:
        from idao import home

        return home.configured(home.locate(self.home), key)


options = Options()
"""Of this run. Set by `cli.main`, read by commands; the hall gets what it needs as arguments."""


def result(
    data: dict[str, Any],
    lines: Iterable[str] = (),
    *,
    ids: str | Sequence[str] = (),
    quiet: Sequence[str] = (),
) -> None:
    """The answer of a command: `data` with --json, ids with -q, else `lines`, then `ids`.

    A creating command gives its id in `ids`, so plain output ends with the id alone; one that lists or
    shows gives in `quiet` what -q prints instead.
    """
    ids = [ids] if isinstance(ids, str) else list(ids)
    if options.json:
        write_text(dump(data, compact=options.compact))
    elif options.quiet:
        for one in quiet or ids:
            write(one)
    else:
        for line in lines:
            write(line)
        for one in ids:
            write(one)


def stream(data: dict[str, Any], line: str) -> None:
    """One item of a stream: a JSON line with --json, else a plain line; flushed at once."""
    write(dump(data, compact=True) if options.json else line)
    sys.stdout.flush()


def write(line: str) -> None:
    """One line on stdout. Control characters and lone surrogates of names from elsewhere are escaped."""
    safe = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)
    sys.stdout.write(safe.encode("utf-8", "backslashreplace").decode() + "\n")


def write_text(text: str) -> None:
    """Several lines of our own."""
    for line in text.split("\n"):
        write(line)


def dump(data: Any, *, compact: bool = False) -> str:
    import json

    return json.dumps(data, ensure_ascii=True, indent=None if compact else 2)


def say(message: str) -> None:
    """Talk on stderr; silent with -q."""
    if not options.quiet:
        _err(message)


def warn(message: str) -> None:
    _err(f"warning: {message}")


def hint(message: str) -> None:
    if not options.quiet and not options.json:
        _err(f"hint: {message}")


def detail(message: str) -> None:
    """Only with -v."""
    if options.verbose:
        _err(message)


def _err(message: str) -> None:
    """Talk that nobody can hear, on a full disk or a closed pipe, does not end the work it is about."""
    safe = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in message)
    with suppress(OSError):
        sys.stderr.write("idao: " + safe.encode("utf-8", "backslashreplace").decode() + "\n")


def error(e: IdaoError) -> int:
    """Prints a refusal in its one form; returns its exit code.

    Exit codes 3 and 6 are answers, so those also stand on stdout: what is pending, which check failed.
    """
    if isinstance(e, Pending) and e.answer is not None:
        result({**e.answer, "txs": list(e.txs)}, ids=e.ids)
    elif isinstance(e, Pending | VerificationFailed):
        check = {"name": e.code, "ok": False, "detail": e.message, "hint": e.hint}
        waits = {"status": e.code, "txs": list(e.txs)} if isinstance(e, Pending) else {}
        word = "WAIT" if waits else "FAIL"
        result({"ok": False, "checks": [check], **waits}, [f"{word}  {e.code}  {e.message}"])
    if options.json:
        body = {"code": e.code, "message": e.message, "hint": e.hint}
        with suppress(OSError):
            sys.stderr.write(dump({"error": body}, compact=True) + "\n")
    else:
        _err(f"error: {e.message}")
        if e.hint:
            _err(f"hint: {e.hint}")
    return e.exit_code


def interactive() -> bool:
    """Whether a question may be asked."""
    return not options.no_input and not options.json and sys.stdin.isatty() and sys.stderr.isatty()


def confirm(what: str) -> None:
    """Asks before a destructive act; refuses without a terminal unless --yes."""
    if options.yes:
        return
    if not interactive():
        raise UsageError(f"{what}: not done without your word", hint="add --yes to do it", code="confirm")
    sys.stderr.write(f"idao: {what}. Go on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("not done", code="confirm")


def color() -> bool:
    return (
        sys.stdout.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
        and options.colored
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Plain columns, never cut; two spaces between."""
    cells = [list(map(str, head)), *[list(map(str, r)) for r in rows]]
    widths = [max(len(r[i]) for r in cells) for i in range(len(head))]
    return ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in cells]


@contextmanager
def progress(what: str) -> Iterator[Progress | None]:
    """A bar with rate and time left on a terminal; None elsewhere."""
    if not _watched():
        yield None
        return
    from rich.progress import DownloadColumn, TransferSpeedColumn

    with _bar(DownloadColumn(), TransferSpeedColumn()) as bar:
        task = bar.add_task(what, total=None, more="")

        def update(done: int, total: int, files: int, all_files: int) -> None:
            more = f"{files}/{all_files} files"
            bar.update(task, completed=done, total=total or None, more=more, refresh=True)

        yield update


@contextmanager
def blocks(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """The same for what is counted in blocks of a ledger: (done, of how many)."""
    if not _watched():
        yield None
        return
    with _bar() as bar:
        task = bar.add_task(what, total=None, more="")

        drawn = 0.0

        def update(done: int, total: int) -> None:
            nonlocal drawn
            now = time.monotonic()
            if now < drawn + REDRAW_S and done < total:
                return
            drawn = now
            bar.update(task, completed=done, total=total, more=f"{done}/{total} blocks", refresh=True)

        yield update


def _watched() -> bool:
    return not options.json and not options.quiet and sys.stderr.isatty()


def _bar(*columns: Any) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("idao: {task.description}"),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        TextColumn("{task.fields[more]}"),
        console=Console(stderr=True, no_color=not color()),
        transient=True,
        auto_refresh=False,  # a thread of its own would keep the store from forking its workers
    )


def size(n: int) -> str:
    """Bytes for people."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if n >= 1 << power:
            return f"{n * 10 // (1 << power) / 10:.1f} {unit}"
    return f"{n} B"


def bp(points: int) -> str:
    """Basis points as a percentage for people."""
    return f"{points // 100}.{points % 100:02d} %"
