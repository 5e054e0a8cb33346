"""The door: finds the command, reads the global options, turns refusals into exit codes.

A command family is one module in `commands/`; only the one that was asked for is imported, so that a
command starts in tens of milliseconds. `FAMILIES` is the list of all commands, in help order.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from idao import __version__, grammar
from idao.errors import EXIT_CODES, IdaoError, UsageError
from idao.grammar import App

if TYPE_CHECKING:
    from pathlib import Path


def _near(word: str, known: Any, n: int) -> list[str]:
    import difflib  # only after a slip of the finger

    return difflib.get_close_matches(word, known, n=n)


class Family(NamedTuple):
    module: str
    app: str
    help: str


def _family(module: str, app: str, text: str) -> Family:
    return Family(f"idao.commands.{module}", app, text)


FAMILIES: dict[str, Family] = {
    "init": _family("init", "init", "Create your iDAO: key, charter, quorum of one"),
    "status": _family("init", "status", "Who am I, which ledgers, what needs me"),
    "contribute": _family("assets", "contribute", "Take in files or folders as a signed asset"),
    "asset": _family("assets", "asset", "Read, restore, verify and delete assets"),
    "mint": _family("tokens", "mint", "Mint a Data Anchoring Token on a verified asset"),
    "class": _family("tokens", "class_app", "DAT classes: terms, shares, revenue"),
    "dat": _family("tokens", "dat", "Data Anchoring Tokens: show, transfer, use, claim"),
    "account": _family("tokens", "account", "The double-entry book: balances, credits, transfers"),
    "propose": _family("governance", "propose", "Propose a change of charter, members, policy or class"),
    "vote": _family("governance", "vote", "Cast or change your ballot"),
    "proposal": _family("governance", "proposal", "Proposals and their tallies"),
    "member": _family("people", "member", "People of an iDAO"),
    "trust": _family("people", "trust", "Which quorums this iDAO trusts, and for what"),
    "name": _family("people", "name", "Local petnames for ids"),
    "proof": _family("proofs", "proof", "Make a portable proof"),
    "verify": _family("proofs", "verify", "Check a proof, offline, without home or key"),
    "tee": _family("tee", "tee", "Evidence of trusted hardware: attest, verify, policies"),
    "audit": _family("ledger", "audit", "Re-derive the whole ledger and compare"),
    "log": _family("ledger", "log", "The transparency log and its checkpoints"),
    "events": _family("ledger", "events", "What happened, as a stream"),
    "key": _family("keys", "key", "Show, rotate and recover the identity key"),
    "backup": _family("backup", "backup", "Make, verify and restore encrypted backups"),
    "quorum": _family("quorum", "quorum", "Groups of validators; going on after a copy or a move"),
    "node": _family("node", "node", "The process that takes part in quorums of many"),
    "peer": _family("insight", "peer", "The nodes of the other members, and where they are"),
    "config": _family("keeping", "config", "Settings and where they come from"),
    "doctor": _family("keeping", "doctor", "Check disk, clock, keys, locks and versions"),
    "migrate": _family("keeping", "migrate", "Bring files that an older idao wrote up to date"),
    "schema": _family("keeping", "schema", "The JSON Schema of a command's output"),
    "completion": _family("keeping", "completion", "Shell completion for bash, zsh and fish"),
    "demo": _family("demo", "demo", "The whole story in a temporary home"),
}

HELP_WIDTH = 160
"""Columns of help without a terminal: nothing in it is cut short then."""

TAKES_IDS = ("asset", "mint", "class", "dat", "vote", "proposal", "log")
"""Families whose ids may come from standard input, one a line, where an argument is `-`."""

GLOBAL_FLAGS = {
    "--json": ("json", "one JSON object on stdout"),
    "-q": ("quiet", "ids only"),
    "--quiet": ("quiet", "ids only"),
    "-v": ("verbose", "say more on stderr"),
    "--verbose": ("verbose", "say more on stderr"),
    "--yes": ("yes", "do not ask before destructive acts"),
    "--no-input": ("no_input", "never ask anything"),
    "--no-color": ("no_color", "no colour (also NO_COLOR)"),
    "--dry-run": ("dry_run", "show what would be done; change nothing"),
}
GLOBAL_VALUES = {
    "--home": ("home", "DIR", "the home (IDAO_HOME)"),
    "--quorum": ("quorum", "NAME|ID", "the quorum meant (IDAO_QUORUM)"),
    "--wait": (
        "wait",
        "SECONDS",
        "how long to wait for finality or a lock; default 30, 0 = do not",
    ),
    "--passphrase-file": ("passphrase_file", "FILE", "file whose first line opens the keys"),
}


def read_globals(args: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Takes the global options out of `args`, wherever they stand before `--`."""
    found: dict[str, Any] = {}
    rest: list[str] = []
    items = iter(args)
    for arg in items:
        name, equals, value = arg.partition("=")
        if arg == "--":
            rest += [arg, *items]
        elif arg in GLOBAL_FLAGS:
            field = GLOBAL_FLAGS[arg][0]
            found[field] = found.get(field, 0) + 1 if field == "verbose" else True
        elif name in GLOBAL_VALUES:
            if not equals:
                value = next(items, "")
            if not value:
                raise UsageError(f"{name} needs a value", hint="see 'idao help'")
            found[GLOBAL_VALUES[name][0]] = value
        else:
            rest.append(arg)
    if "wait" in found:
        found["wait"] = _seconds("--wait", found["wait"])
    return found, rest


def _environment() -> dict[str, Any]:
    """Global options from the environment. IDAO_HOME and the passphrase are read where they are used."""
    found: dict[str, Any] = {}
    if quorum := os.environ.get("IDAO_QUORUM"):
        found["quorum"] = quorum
    if wait := os.environ.get("IDAO_WAIT"):
        found["wait"] = _seconds("IDAO_WAIT", wait)
    if os.environ.get("IDAO_NO_INPUT"):
        found["no_input"] = True
    return found


def _seconds(what: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10**9:
        raise UsageError(f"{what} takes a number of seconds, not '{text}'")
    return value


def help_text() -> str:
    width = max(map(len, FAMILIES))
    lines = [
        "Usage: idao [GLOBAL] COMMAND …",
        "",
        "Own data, models and agents as signed assets, mint Data Anchoring Tokens, govern by vote,",
        "and prove it all offline.",
        "",
        "Commands:",
        *(f"  {name.ljust(width)}  {family.help}" for name, family in FAMILIES.items()),
        "",
        "Global options (before or after the command):",
        *(f"  {flag:<24}  {text}" for flag, (_, text) in GLOBAL_FLAGS.items() if len(flag) > 2),
        *(f"  {f'{flag} {what}':<24}  {text}" for flag, (_, what, text) in GLOBAL_VALUES.items()),
        "",
        "'idao help COMMAND' tells more; 'idao help exit-codes' lists the exit codes.",
        "Start with 'idao init', or see the whole story with 'idao demo'.",
    ]
    return "\n".join(lines)


def exit_codes_text() -> str:
    return "\n".join(f"{code:>4}  {meaning}" for code, meaning in EXIT_CODES.items())


def _app(word: str) -> App:
    """What a family declares."""
    family = FAMILIES[word]
    app: App = getattr(importlib.import_module(family.module), family.app)
    return app


@functools.cache
def command_of(word: str) -> Any:
    """The command of a family as Typer builds it."""
    return grammar.typed(_app(word))


def _unknown(word: str) -> UsageError:
    near = _near(word, FAMILIES, n=3)
    hint = f"did you mean '{near[0]}'?" if near else "see 'idao help'"
    return UsageError(f"no command '{word}'", hint=hint)


def _run(words: list[str]) -> int:
    from idao import ui

    if not words or words[0] in ("--help", "-h"):
        return _tell("help", help_text())
    if words[0] == "help":
        return _help(words[1:])
    if words[0] in ("--version", "-V"):
        ui.result({"version": __version__}, [f"idao {__version__}"])
        return 0
    if words[0] not in FAMILIES:
        raise _unknown(words[0])
    for word, after in zip(words, [*words[1:], "-"], strict=True):
        if word.startswith("--") and (word.endswith("=") or not after):
            raise UsageError(f"{word.rstrip('=')} is given without a value")
    run = _each if words[0] in TAKES_IDS else _invoke
    if ui.options.json and "--help" in words:
        return _helped(run, words)
    return run(words[0], words[1:])


def _helped(run: Callable[[str, list[str]], int], words: list[str]) -> int:
    """With --json: the parser prints its help as text, unless the word is an option's value."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as shown:
        code = run(words[0], words[1:])
    text = shown.getvalue()
    if text.startswith("Usage: "):
        return _tell("help", text.rstrip("\n"))
    sys.stdout.write(text)
    return code


def _need_stdin(words: list[str]) -> None:
    """`UsageError` where `-` names standard input and the caller has closed it (`<&-`): it is not empty."""
    if getattr(sys.stdin, "name", "") != os.devnull:  # what `__main__` opens in its place
        return
    if any(w.endswith("=-") or (w == "-" and b not in ("-o", "--out")) for b, w in pairwise(["", *words])):
        raise UsageError(
            "standard input is closed", hint="name a file in place of -, or redirect one: < FILE"
        )


def _each(word: str, args: list[str]) -> int:
    """Runs the command once for each id on standard input where an argument is `-`."""
    at = next(
        (i for i, a in enumerate(args) if a == "-" and args[i - 1 : i] not in (["-o"], ["--out"])), None
    )
    if at is None:
        return _invoke(word, args)
    from idao import ui

    ids = [line.strip() for line in sys.stdin if line.strip()]
    if not ids:
        raise UsageError("no ids on standard input")
    ui.options.compact = len(ids) > 1
    codes = [_invoke(word, [*args[:at], one, *args[at + 1 :]]) for one in ids]
    return next((c for c in codes if c), 0)


def _tell(what: str, text: str) -> int:
    from idao import ui

    ui.result({what: text}, text.split("\n"))
    return 0


def _help(words: list[str]) -> int:
    if not words:
        return _tell("help", help_text())
    if words[0] == "exit-codes":
        return _tell("exit_codes", exit_codes_text())
    if words[0] not in FAMILIES:
        raise _unknown(words[0])
    return _run([*words, "--help"])


def _invoke(word: str, args: list[str]) -> int:
    try:
        if found := grammar.plain(_app(word), args):
            command, given = found
            command(**given)
            return 0
        return _by_typer(word, args)
    except grammar.Exit as e:
        return e.code
    except EOFError as e:  # Ctrl-D instead of a passphrase or an invite
        raise UsageError("nothing was typed", hint="see 'idao help' for how to give it in a file") from e


def _by_typer(word: str, args: list[str]) -> int:
    command = command_of(word)
    import typer
    from typer._click.exceptions import ClickException, NoArgsIsHelpError

    try:
        # Not its `main`: that prints and exits on its own when interrupted or when a pipe is closed.
        width = None if sys.stdout.isatty() else HELP_WIDTH
        with command.make_context(f"idao {word}", list(args), terminal_width=width) as context:
            command.invoke(context)
        return 0
    except typer.Exit as e:
        return int(e.exit_code)
    except typer.Abort as e:
        raise KeyboardInterrupt from e
    except NoArgsIsHelpError as e:
        group = e.ctx.command if e.ctx else command
        names = ", ".join(getattr(group, "commands", {}))
        path = e.ctx.command_path if e.ctx else f"idao {word}"
        raise UsageError(f"'{path}' wants one more word", hint=f"one of: {names}") from e
    except ClickException as e:
        raise _unreadable(word, e) from e


def _unreadable(word: str, e: Any) -> UsageError:
    """What the parser said, as a refusal; near misses of global options it cannot know."""
    message, _, near = e.format_message().strip().replace("\n", " ").partition(" Did you mean ")
    option = getattr(e, "option_name", None)
    if option and not near:
        known = _near(option, [*GLOBAL_FLAGS, *GLOBAL_VALUES], n=1)
        near = f"'{known[0]}'?" if known else ""
    path = e.ctx.command_path if getattr(e, "ctx", None) else f"idao {word}"
    hint = f"did you mean {near}" if near else f"see '{path} --help'"
    message = message.rstrip(".")
    return UsageError(message[:1].lower() + message[1:], hint=hint)


def main(args: list[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    from idao import ui

    raw = sys.argv[1:] if args is None else args
    ui.options = ui.Options(json="--json" in raw)  # so that a broken option is reported in the right form
    try:
        found, words = read_globals(raw)
        ui.options.flags = frozenset(found)
        for field, value in {**_environment(), **found}.items():
            setattr(ui.options, field, value)
        if ui.options.no_input:
            os.environ["IDAO_NO_INPUT"] = "1"
        _need_stdin(words)
        code = _run(words)
        sys.stdout.flush()
        return code
    except IdaoError as e:
        return ui.error(e)
    except KeyboardInterrupt:
        ui.error(IdaoError("interrupted", code="interrupted"))
        return 130
    except BrokenPipeError:
        # The reader has what it wanted ('idao log tail | head'); this is not an error.
        _close_stdout()
        return 0
    except Exception as e:
        return ui.error(known) if (known := _of_this_machine(e)) else _bug(e)


def _close_stdout() -> None:
    """So that Python does not flush into it once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_this_machine(e: Exception) -> IdaoError | None:
    """The refusal for what is wrong with disk or memory, not with idao."""
    if type(e).__module__ == "sqlite3":
        import sqlite3

        from idao.store.opening import refusal

        outside = isinstance(e, sqlite3.OperationalError) or type(e) is sqlite3.DatabaseError
        known = isinstance(e, sqlite3.Error) and outside
        return refusal(e, _home(), "a database of this home") if known else None
    if isinstance(e, UnicodeDecodeError) and _innermost(e).startswith("idao.store."):
        from idao.store.opening import refusal  # bytes of a damaged database where text should be

        return refusal(e, _home(), "a database of this home")
    if isinstance(e, OSError) and e.strerror:
        if e.filename is None:
            _close_stdout()
        from pathlib import Path

        from idao.store.opening import no_room

        where = os.fsdecode(e.filename or "")
        words = f"{where}: {e.strerror}" if where else e.strerror
        full = no_room(e, Path(where) if where else _home())
        return full or IdaoError(words, hint="see 'idao doctor'", code="disk")
    if isinstance(e, RuntimeError) and "start new thread" in str(e):
        return IdaoError(
            "this machine lets idao start no more threads", hint="see 'ulimit -a'", code="threads"
        )
    if isinstance(e, MemoryError):
        return IdaoError("this machine has not enough memory for that", code="memory")
    return None


def _home() -> Path:
    from idao import ui
    from idao.home import locate

    return locate(ui.options.home)


def _innermost(e: Exception) -> str:
    """The module in which it was raised."""
    at = e.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return str(at.tb_frame.f_globals.get("__name__", "")) if at else ""


def _bug(e: Exception) -> int:
    import tempfile
    import traceback

    from idao import ui

    details = "".join(traceback.format_exception(e))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="idao-bug-", suffix=".txt", delete=False, encoding="utf-8"
        ) as f:
            f.write(details)
        where = f"details in {f.name}"
    except OSError:  # no folder for it can be written
        sys.stderr.write(details)
        where = "details above"
    ui.error(IdaoError(f"a bug in idao: {type(e).__name__}; {where}", code="bug"))
    return 70
