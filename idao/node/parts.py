"""What the parts of a member (`sync`, `cosigning`, `bundles`, `explaining`) may ask of the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from idao.model import Certificate
from idao.node import messages as msg
from idao.node.engine import Engine


class Whole(Protocol):
    """One home's part in one quorum, as `Member` documents it."""

    engine: Engine
    up: set[bytes]
    on_anchor: Callable[[int], None]
    on_trouble: Callable[[str, str], None]

    def tell(self, peer: bytes, message: Any) -> bool: ...

    def broadcast(self, message: Any) -> None: ...

    def ask(self, peer: bytes, first: int) -> bool: ...

    def compare(self, peer: bytes, certificate: Certificate) -> None: ...

    def adopt(self, peer: bytes, commits: msg.Commits) -> None: ...

    def keep_notes(self) -> None: ...

    def blame(self, peer: bytes, reason: str) -> None: ...
