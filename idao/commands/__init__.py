"""What a person types: parse, one call on `Dao`, print. One module a family; `cli.FAMILIES` lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from idao import home as homes
from idao import ui

if TYPE_CHECKING:
    from idao.dao import Dao


def open_dao(quorum: str | None = None) -> Dao:
    """The home and ledger that the global options name; imported late, for commands that need none."""
    from idao.dao import Dao

    o = ui.options
    return Dao.open(
        homes.locate(o.home), quorum=quorum or o.quorum, wait_s=o.wait_s, passphrase_file=o.passphrase_file
    )
