"""Waiting for what others order: the node is woken, the ledger is read until the receipts are there.

Holds no lock. What was signed is in the outbox whatever happens here, so stopping to wait loses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from idao.errors import IdaoError, Pending, Refused
from idao.home import now_ms
from idao.ledger.tx import Receipt, Tx, parse_tx
from idao.model import show_id
from idao.node import calling
from idao.node.dispatch import hopeless, obstacle
from idao.store.ledger import LedgerStore
from idao.store.outbox import Outbox

if TYPE_CHECKING:
    from idao.dao import Dao

FIRST_POLL_S, LAST_POLL_S, POLL_GROWTH = 0.001, 0.05, 1.2
"""A quorum on a LAN answers in milliseconds; who waits longer is asked less often."""
WAKE_AGAIN_S = 1.0
"""The node may have been restarted while we wait."""


def await_receipts(dao: Dao, raws: Sequence[bytes]) -> list[tuple[Tx, int, Receipt]]:
    """(tx, log position, receipt) of each, whatever the receipt says. `Pending` after `dao.wait_s`.

    `Refused` (`inadmissible`) for one that can be in no block any more.
    """
    txs = [parse_tx(raw) for raw in raws]
    if not wake(dao)[0]:
        raise pending(dao, txs, node=False)
    with closing(LedgerStore.open(dao.ledger_path(), readonly=True)) as store:
        found = _look(dao, store, txs)
    _settle(dao, [tx.id for tx, _, _ in found])
    return found


def wake(dao: Dao) -> tuple[bool, str | None]:
    """Tells the node that something waits: whether one runs, and why it does not drive this ledger now.

    One that dies while it is asked may be back soon: what waits is kept, and it is asked again.
    """
    try:
        return calling.ask(dao.home.path, "wake", quorum=show_id("quorum", dao.quorum)) is not None, None
    except IdaoError as e:
        if e.code not in ("not-driven", "node"):
            raise
        return True, e.message


def pending(dao: Dao, txs: Sequence[Tx], *, node: bool, why: str | None = None) -> Pending:
    """What stays to be done by others, in words."""
    if not node:
        message, hint = "signed and kept; it is sent when the node runs", "idao node run"
    else:
        message = f"signed and kept; not final after {dao.wait_s:g} s"
        message += f": {why}" if why else ""
        hint = "see what it waits for: idao quorum why"
    waits = Pending(message, hint=hint)
    waits.txs = [show_id("tx", tx.id) for tx in txs]
    return waits


def _look(dao: Dao, store: LedgerStore, txs: Sequence[Tx]) -> list[tuple[Tx, int, Receipt]]:
    deadline = time.monotonic() + dao.wait_s
    wake_at = time.monotonic() + WAKE_AGAIN_S
    pause = FIRST_POLL_S
    while True:
        found = [(tx, *receipt) for tx in txs if (receipt := store.receipt_of(tx.id))]
        if len(found) == len(txs):
            return found
        there = {tx.id for tx, _, _ in found}  # more may have come since
        lacking = next(tx for tx in txs if tx.id not in there)
        if (why := hopeless(store.state(), lacking, store.tip().time_ms)) and not store.receipt_of(
            lacking.id
        ):
            _settle(dao, [], {lacking.id: why})
            raise Refused(f"the transaction was not taken: {why}", code="inadmissible")
        now = time.monotonic()
        if now >= deadline:
            _, undriven = wake(dao)
            raise pending(dao, txs, node=True, why=undriven or obstacle(store, lacking, now_ms()))
        if now >= wake_at:
            wake(dao)
            wake_at = now + WAKE_AGAIN_S
        time.sleep(min(pause, max(0.0, deadline - now)))
        pause = min(pause * POLL_GROWTH, LAST_POLL_S)


def _settle(dao: Dao, final: Sequence[bytes], refused: dict[bytes, str] | None = None) -> None:
    with dao.home_db() as db:
        Outbox(db, dao.quorum).settle(final, refused or {}, dao.store.tip().time_ms)
