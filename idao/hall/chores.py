"""What a running node does for its owner without being asked, because only the owner's key can sign it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idao.dao import Dao


def chores(dao: Dao) -> Sequence[Callable[[], None]]:
    """Each is called now and again, in a thread; what one finds to do, it signs and does not wait for."""
    from idao.hall.reattest import Reattest

    return (Reattest(dao),)
