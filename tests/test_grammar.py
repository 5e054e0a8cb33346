"""Two readers of one declaration: what `plain` reads, Typer reads just so; what people type is plain."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer._click.exceptions import ClickException

from idao import cli, grammar
from idao.grammar import App, Argument, Option


def _odd_family() -> App:
    """What no command of ours has, and a parser could get wrong."""
    app, inner = App("odd"), App("inner")

    def mixed(
        first: Annotated[str, Argument()],
        second: Annotated[int, Argument(min=2, max=8)] = 3,
        rest: Annotated[list[Path] | None, Argument()] = None,
        both: Annotated[bool, Option()] = True,
        on: Annotated[bool, Option("--on", "-n")] = False,
        number_: Annotated[int | None, Option(min=1)] = None,
        file: Annotated[Path | None, Option("-f", "--file")] = None,
        many: Annotated[list[int] | None, Option("--many", max=7)] = None,
    ) -> None: ...

    def early(several: Annotated[list[str], Argument()], last: Annotated[str, Argument()]) -> None: ...

    inner.command("mixed")(mixed)
    app.command("early")(early)
    app.add("inner", inner)
    return app


def leaves(words: tuple[str, ...], app: App) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(words of a command, its function) of all below."""
    for name, command in app.commands.items():
        yield (*words, name) if name else words, command.function
    for name, family in app.families.items():
        yield from leaves((*words, name), family)


APPS = {**{word: cli._app(word) for word in cli.FAMILIES}, "odd": _odd_family()}
COMMANDS = {words: function for word, app in APPS.items() for words, function in leaves((word,), app)}
ODD = (
    "",
    "-",
    "--",
    "-x",
    "--help",
    "-h",
    "a",
    "b c",
    "5",
    "-5",
    "+5",
    "1_0",
    " 7",
    "٣",
    "99999999999999",
    "=",
    "--=a",
)


Read = Callable[[str, list[str]], tuple[Any, dict[str, Any]] | None]


@pytest.fixture(scope="module")
def by_typer() -> Read:
    """The function that Typer calls for words, and with what; None where it refuses or only helps."""
    called: list[tuple[Any, dict[str, Any]]] = []
    annotated = grammar._annotated

    def recording(function: Any) -> Any:
        def call(**given: Any) -> None:
            called.append((function, given))

        same = annotated(function)
        call.__annotations__ = same.__annotations__
        call.__signature__ = inspect.signature(same)  # type: ignore[attr-defined]
        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grammar, "_annotated", recording)
        made = {word: grammar.typed(app) for word, app in APPS.items()}

    def read(word: str, words: list[str]) -> tuple[Any, dict[str, Any]] | None:
        called.clear()
        try:
            with made[word].make_context(word, list(words), terminal_width=80) as context:
                made[word].invoke(context)
        except (ClickException, typer.Exit):
            return None
        (one,) = called
        return one

    return read


def whole(found: tuple[Any, dict[str, Any]] | None) -> Any:
    """With the defaults of what was not given."""
    if found is None:
        return None
    function, given = found
    bound = inspect.signature(function).bind(**given)
    bound.apply_defaults()
    return function, bound.arguments


def lines_of(function: Any) -> st.SearchStrategy[list[str]]:
    """What might be typed for a command: often a good line, and often something odd in it."""
    parameters = grammar._parameters(function)
    options = [p for p in parameters if isinstance(p.mark, Option)]
    names = [n for p in options for n in p.names()]
    shapes = [*names, *(f"{n}=v" for n in names), *(f"{n}=3" for n in names), *(n[:-1] for n in names)]
    value = st.sampled_from(("v", "7", __file__, "no/such"))
    odd = st.lists(st.sampled_from([*shapes, *ODD]) | value, max_size=2)
    groups = [
        st.just([n]) if p.type is bool else st.tuples(st.just(n), value).map(list)
        for p in options for n in p.names()
    ]  # fmt: skip
    places = st.lists(value, max_size=sum(isinstance(p.mark, Argument) for p in parameters))
    some = st.lists(st.one_of(groups), max_size=3) if groups else st.just([])
    return st.tuples(places, some, odd).map(lambda t: [*t[0], *(w for g in t[1] for w in g), *t[2]])


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@settings(max_examples=20)  # of each of a hundred commands
@given(data=st.data())
def test_what_is_read_without_typer_means_what_it_means_with_it(
    by_typer: Read, words: tuple[str, ...], data: Any
) -> None:
    typed = [*words[1:], *data.draw(lines_of(COMMANDS[words]))]
    plainly = grammar.plain(APPS[words[0]], typed)
    if plainly is not None:
        assert whole(plainly) == whole(by_typer(words[0], typed))


def examples() -> Iterator[list[str]]:
    for function in COMMANDS.values():
        for line in (function.__doc__ or "").splitlines():
            if line.strip().startswith("Example: idao "):
                yield shlex.split(line.split("idao ", 1)[1], comments=True)


@pytest.mark.parametrize("words", list(examples()), ids=" ".join)
def test_examples_need_no_typer(by_typer: Read, words: list[str]) -> None:
    _, (word, *rest) = cli.read_globals(words)
    rest = rest[: next((i for i, w in enumerate(rest) if w in ("|", ">", "<", "&&")), None)]
    assert grammar.plain(APPS[word], rest) is not None
    assert whole(grammar.plain(APPS[word], rest)) == whole(by_typer(word, rest))
