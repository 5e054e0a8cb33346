"""`filled` behaves as the standard dataclass with slots does."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from idao.filled import each, filled


@filled
class Ours:
    """Ours."""

    a: int
    b: str = "b"
    c: list[int] = each(factory=list)
    d: Counter[str] = each(factory=Counter)

    def twice(self) -> int:
        return self.a * 2


@dataclass(slots=True)
class Theirs:
    """Theirs."""

    a: int
    b: str = "b"
    c: list[int] = field(default_factory=list)
    d: Counter[str] = field(default_factory=Counter)

    def twice(self) -> int:
        return self.a * 2


def values(made: Any) -> list[Any]:
    return [getattr(made, name) for name in "abcd"]


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ((1,), {}),
        ((1, "x"), {}),
        ((1,), {"c": [2]}),
        ((), {"b": "y", "a": 3}),
        ((1, "x", [1], Counter("aa")), {}),
        ((), {}),
        ((), {"b": "y"}),
        ((1, "x", [1], Counter(), 5), {}),
        ((1,), {"a": 2}),
        ((1,), {"e": 2}),
    ],
)
def test_it_is_made_as_theirs(args: tuple[Any, ...], named: dict[str, Any]) -> None:
    try:
        theirs = Theirs(*args, **named)
    except TypeError:
        with pytest.raises(TypeError):
            Ours(*args, **named)
        return
    ours = Ours(*args, **named)
    assert values(ours) == values(theirs)
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert ours.twice() == theirs.twice() and ours.__doc__ == "Ours."


def test_each_has_its_own() -> None:
    one, other = Ours(1), Ours(1)
    assert one == other and one != Theirs(1) and one != 1
    one.c.append(1)
    one.d["x"] += 1
    assert (other.c, other.d) == ([], Counter()) and one != other


def test_it_can_be_changed_but_holds_only_its_fields() -> None:
    one = Ours(1)
    one.a = 5
    assert one.twice() == 10
    with pytest.raises(AttributeError):
        one.e = 1  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        hash(one)
