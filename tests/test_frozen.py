"""`frozen` behaves as the standard frozen dataclass does."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import dataclass
from typing import Any

import pytest

from idao.frozen import HOT, copier, frozen, maker, replace


@frozen
class Ours:
    a: int
    b: bytes
    c: str = "c"

    def __post_init__(self) -> None:
        if self.a < 0:
            raise ValueError(self.a)

    @property
    def twice(self) -> int:
        return self.a * 2


@frozen
class One:
    only: tuple[int, ...]


@frozen
class Nothing:
    pass


@dataclass(frozen=True, slots=True)
class Theirs:
    a: int
    b: bytes
    c: str = "c"


def test_values() -> None:
    ours, theirs = Ours(1, b"x"), Theirs(1, b"x")
    assert (ours.a, ours.b, ours.c, ours.twice) == (1, b"x", "c", 2)
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert ours == Ours(1, b"x", "c") and ours != Ours(2, b"x") and ours != theirs
    assert hash(ours) == hash(Ours(1, b"x")) and len({ours, Ours(1, b"x"), Ours(2, b"x")}) == 2
    assert One((1,)) == One((1,)) != One((2,)) and Nothing() == Nothing()
    assert dataclasses.replace(ours, b=b"y") == Ours(1, b"y")
    assert [f.name for f in dataclasses.fields(Ours)] == ["a", "b", "c"] == list(Ours.__slots__)
    assert dataclasses.is_dataclass(Ours) and dataclasses.asdict(ours) == dataclasses.asdict(theirs)
    assert pickle.loads(pickle.dumps(ours)) == ours == copy.deepcopy(ours)
    assert pickle.loads(pickle.dumps(One((3,)))) == One((3,))
    assert ours.__doc__ is None or "Ours" in ours.__doc__


def test_refusals() -> None:
    ours: Any = Ours(1, b"x")
    for act in (lambda: setattr(ours, "a", 2), lambda: setattr(ours, "z", 2), lambda: delattr(ours, "a")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            act()
    for args, named in (((), {}), ((1,), {}), ((1, b"", "", 4), {}), ((1, b""), {"z": 1})):
        with pytest.raises(TypeError):
            Ours(*args, **named)
    with pytest.raises(ValueError):
        Ours(-1, b"")


def test_patterns() -> None:
    match Ours(1, b"x"):
        case Ours(a, b, c="c"):
            assert (a, b) == (1, b"x")
        case _:
            raise AssertionError


@frozen
class Many:
    a: int
    b: int
    c: int
    d: int
    e: int
    f: int = 6


def test_a_value_of_many_fields_is_closed_too() -> None:
    made = [Many(n, 2, 3, 4, e=5) for n in range(40)]  # the later ones by the compiled `__init__`
    assert made[0] == Many(0, 2, 3, 4, 5, 6) and hash(made[39]) == hash(Many(39, 2, 3, 4, 5))
    for value in (made[0], made[39]):
        assert type(value) is Many and value.f == 6
        with pytest.raises(dataclasses.FrozenInstanceError):
            value.a = 9  # type: ignore[misc]
    with pytest.raises(TypeError):
        Many(1, 2)  # type: ignore[call-arg]
    assert pickle.loads(pickle.dumps(made[39])) == made[39]


def test_a_copy_with_other_fields() -> None:
    for n in range(2 * HOT):  # the later ones by a compiled function
        assert replace(Ours(n, b"x", "d"), b=b"y") == Ours(n, b"y", "d")
        assert replace(Many(1, 2, 3, 4, 5), f=n, a=n) == Many(n, 2, 3, 4, 5, n)
        assert replace(Ours(n, b"x")) == Ours(n, b"x")
        with pytest.raises(TypeError):
            replace(Ours(n, b"x"), z=1)
        with pytest.raises(ValueError):
            replace(Ours(n, b"x"), a=-1)


def test_values_made_by_the_thousand() -> None:
    assert maker(Many, HOT - 1) is Many and maker(Ours) is Ours, "few, or with a check of its own"
    made = maker(Many)(1, 2, 3, 4, 5, 6)
    assert type(made) is Many and made == Many(1, 2, 3, 4, 5) and maker(Many) is maker(Many)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.a = 9  # type: ignore[misc]
    assert copier(Many, "b", "f")(made, 7, 8) == Many(1, 7, 3, 4, 5, 8)
    with pytest.raises(TypeError):
        maker(Many)(1)
    with pytest.raises(ValueError):
        copier(Ours, "a")(Ours(1, b""), -1)
