"""Classes whose values are filled as one goes: what `dataclasses.dataclass(slots=True)` makes, for less.

`dataclasses` loads `inspect` and compiles some six functions a class, which takes a command ten milliseconds.
Supported is what idao uses: fields with or without defaults, new lists and the like for each value, equality,
repr. Of values that never change `idao.frozen` makes classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast, dataclass_transform

T = TypeVar("T")


class _Each(NamedTuple):
    factory: Callable[[], Any]


def each(*, factory: Callable[[], T]) -> T:
    """The default of a field that every value has its own of."""
    return cast(T, _Each(factory))


@dataclass_transform(field_specifiers=(each,))
def filled(cls: type[T]) -> type[T]:
    """Class decorator: the annotated names are the fields, in order."""
    names = tuple(cls.__annotations__)
    defaults = {name: cls.__dict__[name] for name in names if name in cls.__dict__}

    def init(self: Any, *args: Any, **named: Any) -> None:
        given = dict(zip(names, args, strict=False))
        if len(args) > len(names) or given.keys() & named.keys() or not named.keys() <= set(names):
            raise TypeError(f"{cls.__name__} takes {', '.join(names)}, each once")
        given.update(named)
        for name in names:
            if name in given:
                value = given[name]
            elif name in defaults:
                value = defaults[name]
                value = value.factory() if type(value) is _Each else value
            else:
                raise TypeError(f"{cls.__name__} lacks '{name}'")
            setattr(self, name, value)

    def equal(self: Any, other: object) -> bool:
        return type(other) is made and all(getattr(self, n) == getattr(other, n) for n in names)

    def show(self: Any) -> str:
        return f"{made.__qualname__}({', '.join(f'{n}={getattr(self, n)!r}' for n in names)})"

    body = {k: v for k, v in cls.__dict__.items() if k not in (*names, "__dict__", "__weakref__")}
    body.update(__slots__=names, __init__=init, __eq__=equal, __hash__=None, __repr__=show)
    made: Any = type(cls.__name__, (), body)
    return made  # type: ignore[no-any-return]
