"""Frozen dataclasses whose making costs a tenth.

`dataclasses.dataclass(frozen=True, slots=True)` compiles some eight functions for every class when a module
is imported; idao has more than a hundred such classes, and a command should start in tens of milliseconds.
`frozen` gives the same thing (fields, slots, equality, hash, repr, pattern matching, `replace`),
compiles one function a class, and that when many values are made. Not supported, because unused:
inheritance, `field()`, ordering, keyword-only fields.
"""

from __future__ import annotations

from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, cast, dataclass_transform

if TYPE_CHECKING:
    import dataclasses  # loaded where somebody asks for fields or tries to change one
    from collections.abc import Callable

T = TypeVar("T")


HOT = 16
"""Values of a class after which its `__init__` is compiled: that takes as long as making fifty."""


@dataclass_transform(frozen_default=True)
def frozen(cls: type[T]) -> type[T]:
    """Class decorator: the annotated names are the fields, in order."""
    names = tuple(getattr(cls, "__annotations__", {}))
    body = {k: v for k, v in cls.__dict__.items() if k not in (*names, "__dict__", "__weakref__")}
    defaults = {name: cls.__dict__[name] for name in names if name in cls.__dict__}
    values = attrgetter(*names) if len(names) > 1 else _few(names)

    made_so_far = 0

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal made_so_far
        made_so_far += 1
        given = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
        twice = any(n in kwargs for n in names[: len(args)])
        wrong = twice or len(args) > len(names) or given.keys() != set(names)
        if wrong or made_so_far >= HOT:  # the compiled one also refuses in the words of Python
            made.__init__ = _compile(made, names, defaults)
            made.__init__(self, *args, **kwargs)
            return
        for name, put in setters:
            put(self, given[name])
        if after is not None:
            after(self)

    def equal(self: Any, other: object) -> bool:
        return type(other) is made and bool(values(self) == values(other))

    def show(self: Any) -> str:
        return f"{made.__qualname__}({', '.join(f'{n}={getattr(self, n)!r}' for n in names)})"

    body.update(
        __slots__=names,
        __match_args__=names,
        __init__=init,
        __eq__=equal,
        __hash__=lambda self: hash(values(self)),
        __repr__=show,
        __setattr__=_refuse,
        __delattr__=_refuse,
        __reduce__=lambda self: (made, values(self)),
        __dataclass_fields__=_Fields(cls, names, defaults),
        __dataclass_params__=None,
        _values=staticmethod(values),
    )
    made: Any = type(cls.__name__, (), body)
    setters = [(name, made.__dict__[name].__set__) for name in names]
    after = getattr(made, "__post_init__", None)
    return made  # type: ignore[no-any-return]


_copies: dict[tuple[Any, ...], Any] = {}
"""(class, names of the fields that change) -> the function that makes the copy, or how often one was made."""


def replace(value: T, /, **changes: Any) -> T:
    """A copy with some fields changed: what `dataclasses.replace` does, in a tenth of the time."""
    shape = (type(value), *changes)
    copy = _copies.get(shape, 0)
    if type(copy) is int:
        plainly = _copied(value, changes)
        _copies[shape] = copy + 1 if copy < HOT else _compile_copy(type(value), tuple(changes))
        return plainly
    made: T = copy(value, **changes)
    return made


def _copied(value: T, changes: dict[str, Any]) -> T:
    cls: Any = type(value)
    fields, values = cls.__slots__, list(cls._values(value))
    for name, new in changes.items():
        if name not in fields:
            raise TypeError(f"{cls.__name__} has no field {name}")
        values[fields.index(name)] = new
    return cast(T, cls(*values))


def _compile_copy(cls: Any, changed: tuple[str, ...]) -> Any:
    """For a class that `_copied` has copied with these changes: its names are fields."""
    fields = ", ".join(name if name in changed else f"_value.{name}" for name in cls.__slots__)
    return eval(f"lambda _value, {', '.join(changed)}: _make({fields})", {"_make": maker(cls)})


def copier(cls: type[T], *changed: str) -> Callable[..., T]:
    """`replace` for one class and the same fields each time, whose new values follow the value in order."""
    copy: Callable[..., T] = _compile_copy(cls, changed)
    return copy


def _few(names: tuple[str, ...]) -> Any:
    # attrgetter takes no empty list, and of one name it gives the bare value instead of a tuple.
    return lambda self: tuple(getattr(self, name) for name in names)


def _refuse(self: Any, name: str, *value: Any) -> None:
    import dataclasses

    raise dataclasses.FrozenInstanceError(f"cannot change field '{name}'")


class _Fields:
    """What `dataclasses.fields` reads, made when it first asks: most commands never do."""

    def __init__(self, cls: type, names: tuple[str, ...], defaults: dict[str, Any]) -> None:
        self._given = cls, names, defaults

    def __get__(self, value: object, owner: Any) -> dict[str, dataclasses.Field[Any]]:
        cls, names, defaults = self._given
        owner.__dataclass_fields__ = made = {n: _field(cls, n, defaults) for n in names}
        return made


def _field(cls: type, name: str, defaults: dict[str, Any]) -> dataclasses.Field[Any]:
    import dataclasses

    made: Any = dataclasses.field(default=defaults.get(name, dataclasses.MISSING))
    made.name, made.type = name, cls.__annotations__[name]
    made._field_type = dataclasses._FIELD  # type: ignore[attr-defined]
    return made  # type: ignore[no-any-return]


_makers: dict[Any, Any] = {}


def maker(cls: type[T], times: int = HOT) -> Callable[..., T]:
    """The function that makes a value of all its fields in order, in two thirds of the time of the class.

    `times`: how many are to be made, if it may be few: then it is the class itself.
    """
    made: Any = cls
    if times >= HOT and hasattr(cls, "_values") and not hasattr(cls, "__post_init__"):
        made = _makers.get(cls) or _compile_maker(cls)
    make: Callable[..., T] = made
    return make


def _compile_maker(cls: Any) -> Any:
    lines = [f"def make({', '.join(cls.__slots__)}):", "    made = open()"]
    lines += [f"    made.{name} = {name}" for name in cls.__slots__]
    lines += ["    made.__class__ = cls", "    return made"]
    space = {"open": _open(cls), "cls": cls}
    exec("\n".join(lines), space)
    _makers[cls] = space["make"]
    return space["make"]


@cache
def _open(cls: Any) -> Any:
    """A class of the same slots that does not refuse to be changed."""
    return type(cls.__name__, (), {"__slots__": cls.__slots__})


OPEN = 6
"""Fields from which on a value is made under another class: leaving and entering a class costs as much."""

_CLASS: Any = vars(object)["__class__"]


def _compile(made: Any, names: tuple[str, ...], defaults: dict[str, Any]) -> Any:
    """`__init__` that sets each slot and then calls `__post_init__`, if there is one.

    Of many fields, each is set by plain assignment, which Python does ten times as fast as by a slot's
    `__set__`: the value is of a class of the same slots that does not refuse it, until it is whole.
    """
    signature = ", ".join(f"{n}=_default_{n}" if n in defaults else n for n in names)
    if len(names) < OPEN:
        lines = [f"    _set_{n}(self, {n})" for n in names]
    else:
        put = [f"    self.{n} = {n}" for n in names]
        lines = ["    _become(self, _open)", *put, "    self.__class__ = _made"]
    if hasattr(made, "__post_init__"):
        lines.append("    self.__post_init__()")
    text = f"def __init__(self, {signature}):\n" + ("\n".join(lines) or "    pass")
    space: dict[str, Any] = {f"_set_{n}": made.__dict__[n].__set__ for n in names}
    space.update({"_become": _CLASS.__set__, "_open": _open(made), "_made": made})
    space.update({f"_default_{n}": value for n, value in defaults.items()})
    exec(text, space)
    return space["__init__"]
