"""What a person may type: how commands are declared, and two readers of that.

A command is a function whose annotations say what its words mean. `plain` reads the lines that people and
scripts mostly type; whatever it does not read, help and mistakes among them, is left to Typer, which is made
from the same annotations and then has the only word. To load Typer and build its commands is more than a
quarter of what a signing command takes.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

Function = Callable[..., None]

_BARE: dict[str, Any] = {
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "add_completion": False,
}
"""How Typer makes every family: no markup, no coloured tracebacks, nothing that installs itself."""


class Exit(Exception):
    """A command that has answered, and ends with another code than 0."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Argument(NamedTuple):
    """A word that stands by its place; `T | None` or a default: it may be left out."""

    metavar: str | None = None
    help: str = ""
    min: int | None = None
    max: int | None = None


class Option:
    """A word that stands behind its name; `bool`: the name alone. Of a list: may repeat."""

    def __init__(
        self, *names: str, help: str = "", metavar: str | None = None, min: int | None = None,
        max: int | None = None,
    ) -> None:  # fmt: skip
        """Without `names` it is called as its parameter is."""
        self.names, self.help, self.metavar, self.min, self.max = names, help, metavar, min, max


class _Command(NamedTuple):
    function: Function
    epilog: Callable[[], str] | None
    """What help ends with."""


class App:
    """A family of commands, or the one that is called as its family is."""

    def __init__(self, help: str = "") -> None:
        self.help = help
        self.commands: dict[str, _Command] = {}
        self.families: dict[str, App] = {}

    def command(
        self, name: str = "", epilog: Callable[[], str] | None = None
    ) -> Callable[[Function], Function]:
        """The function below is the command `name` of this family, or all there is of it."""

        def declare(function: Function) -> Function:
            self.commands[name] = _Command(function, epilog)
            return function

        return declare

    def add(self, name: str, family: App) -> None:
        self.families[name] = family


class _Parameter(NamedTuple):
    name: str
    type: Any
    """Of one word: str, int, bool or Path."""
    many: bool
    needed: bool
    mark: Argument | Option

    def names(self) -> tuple[str, ...]:
        """Of an option, as it is typed."""
        assert isinstance(self.mark, Option)
        return self.mark.names or ("--" + self.name.replace("_", "-"),)


@functools.cache
def _parameters(function: Any) -> list[_Parameter]:
    """What the annotations of a command say, in order."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]
    hints = get_type_hints(function, include_extras=True)
    given_up = len(names) - len(function.__defaults__ or ())
    found = []
    for place, name in enumerate(names):
        kind, mark = get_args(hints[name])
        (kind,) = [k for k in get_args(kind) if k is not type(None)] if _optional(kind) else (kind,)
        many = get_origin(kind) is list
        found.append(_Parameter(name, get_args(kind)[0] if many else kind, many, place < given_up, mark))
    return found


def _optional(kind: Any) -> bool:
    return type(None) in get_args(kind)


# --- the lines that are mostly typed ----------------------------------------------------------------------


def plain(app: App, words: list[str]) -> tuple[Function, dict[str, Any]] | None:
    """The command that `words` mean and its parameters, those that were given; None: ask Typer.

    Nothing is guessed: an option by its whole name and once (of a list: any number of times), a number in
    digits, and no more and no fewer words than there are places for.
    """
    words = list(words)
    while (family := app.families.get(words[0] if words else "")) is not None:
        app = family
        del words[0]
    command = app.commands.get("")
    if command is None and words:
        command = app.commands.get(words.pop(0))
    if command is None:
        return None
    parameters = _parameters(command.function)
    sorted_out = _options(parameters, words)
    if sorted_out is None:
        return None
    given, standing = sorted_out
    if not _arguments(parameters, standing, given):
        return None
    if any(p.needed and p.name not in given for p in parameters):
        return None
    read = {p.name: _value(p, given[p.name]) for p in parameters if p.name in given}
    return None if _UNREAD in read.values() else (command.function, read)


def _options(parameters: list[_Parameter], words: list[str]) -> tuple[dict[str, list[str]], list[str]] | None:
    """(parameter -> its words, the words that stand alone); None: not plain."""
    by_name = {n: p for p in parameters if isinstance(p.mark, Option) for n in p.names()}
    given: dict[str, list[str]] = {}
    standing = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word == "-":
            standing.append(word)
            continue
        name, equals, value = word.partition("=")
        p = by_name.get(name)
        if p is None or (equals and not name.startswith("--")) or (p.name in given and not p.many):
            return None
        if p.type is not bool and not equals:
            value = next(rest, "")
        if bool(value) == (p.type is bool):
            return None
        given.setdefault(p.name, []).append(value)
    return given, standing


def _arguments(parameters: list[_Parameter], standing: list[str], given: dict[str, list[str]]) -> bool:
    """Gives the words that stand alone to the arguments; whether there is just one way to."""
    places = [p for p in parameters if isinstance(p.mark, Argument)]
    if any(p.many for p in places[:-1]) or "" in standing:
        return False
    for p in places:
        mine, standing = (standing, []) if p.many else (standing[:1], standing[1:])
        if mine:
            given[p.name] = mine
    return not standing


_UNREAD = object()


def _value(p: _Parameter, words: list[str]) -> Any:
    """The words as the function takes them, or `_UNREAD`."""
    found = [True if p.type is bool else _one(p, word) for word in words]
    return _UNREAD if _UNREAD in found else found if p.many else found[0]


def _one(p: _Parameter, word: str) -> Any:
    if p.type is int:
        if not (word.isascii() and word.isdigit()):
            return _UNREAD
        n, least, most = int(word), p.mark.min, p.mark.max
        return n if (least is None or n >= least) and (most is None or n <= most) else _UNREAD
    if p.type is Path:
        # Typer refuses what is there and cannot be read.
        return Path(word) if os.access(word, os.R_OK) or not os.path.lexists(word) else _UNREAD
    return word if p.type is str else _UNREAD


# --- all others, and help --------------------------------------------------------------------------------


def typed(app: App) -> Any:
    """The command of Typer that means the same."""
    from typer.main import get_command

    return get_command(_typer(app))


def _typer(app: App) -> Any:
    import typer

    if "" in app.commands:
        made = typer.Typer(**_BARE)
    else:
        made = typer.Typer(**_BARE, no_args_is_help=True, help=app.help)
        made.callback()(lambda: None)  # a family also when it has one member
    for name, (function, epilog) in app.commands.items():
        made.command(name or None, epilog=epilog and epilog())(_annotated(function))
    for name, family in app.families.items():
        made.add_typer(_typer(family), name=name)
    return made


def _annotated(function: Any) -> Any:
    """The function as Typer wants it annotated. Evaluated here, once: Typer would do so four times."""
    import typer

    hints = get_type_hints(function, include_extras=True)
    same = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    same.__doc__ = function.__doc__
    for p in _parameters(function):
        m = p.mark
        more: dict[str, Any] = {"help": m.help, "metavar": m.metavar, "min": m.min, "max": m.max}
        mark = typer.Option(*m.names, **more) if isinstance(m, Option) else typer.Argument(**more)
        same.__annotations__[p.name] = Annotated[get_args(hints[p.name])[0], mark]
    return same
