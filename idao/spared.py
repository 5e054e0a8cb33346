"""Typer, without what few commands use of it.

A third of typer's import, which is half of what a command takes, are modules with which it opens browsers,
asks for the shell, corrects slips or prints tracebacks. While typer is imported something stands for each of
them that loads it when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

SPARED = (
    *("difflib", "gettext", "linecache", "platform", "shellingham", "shutil", "subprocess"),
    *("tokenize", "traceback", "urllib.parse", "uuid"),
)
"""What typer, `inspect` and `pathlib` import but do not use until they are called for it."""


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            return _Named(self.__name__, name)
        return getattr(import_module(self.__name__), name)


class _Named:
    """A function, or a class to call, that was imported by name while something stood for its module."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def _itself(self) -> Any:
        _leave((self._module,))
        return getattr(import_module(self._module), self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._itself()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._itself(), name)


def _leave(names: tuple[str, ...]) -> None:
    """Nobody else finds a stand-in: who imports the module from now on gets the module."""
    for name in names:
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def import_typer() -> None:
    """Loads typer; whoever imports it later finds it loaded."""
    if "typer" in sys.modules:
        return
    for name in SPARED:
        sys.modules.setdefault(name, _StandIn(name))
    try:
        import_module("typer")
    except Exception:  # of a Python or a typer that needs one of them at once
        for name in [n for n in sys.modules if n.partition(".")[0] == "typer"]:
            del sys.modules[name]
    finally:
        _leave(SPARED)
    import_module("typer")  # with all of them, if that went wrong
