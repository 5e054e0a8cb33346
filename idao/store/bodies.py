"""Finding transactions: in the bodies of blocks, or alone where those were pruned."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from idao.crypto import canonical
from idao.errors import VerificationFailed
from idao.ledger.tx import Receipt
from idao.model import show_id
from idao.store.layout import PART, PART_LEAVES, PREFIX

if TYPE_CHECKING:
    from idao.store.ledger import LedgerStore


def applied(store: LedgerStore, *kinds: str, upto: int | None = None) -> Iterator[tuple[Receipt, bytes]]:
    """(receipt, signed transaction) of what was applied of some kinds, in order.

    `upto`: of the blocks after those that were pruned, up to this one.
    """
    first, last = (0, store.height) if upto is None else (store.pruned + 1, upto)
    rows = store.db.execute(
        "select leaf from receipt where position between ? and ? and ok = 1"
        f" and kind in ({', '.join('?' * len(kinds))}) order by position",
        (*store.positions(first, last), *kinds),
    )
    return with_txs(store, (canonical.unpack(Receipt, leaf) for (leaf,) in rows))


def with_txs(store: LedgerStore, receipts: Iterable[Receipt]) -> Iterator[tuple[Receipt, bytes]]:
    """Receipts of transactions, in order of the log, each with its signed transaction.

    `VerificationFailed` (`damaged`) where one that must be there is not.
    """
    pruned, height, first = store.pruned, 0, 0
    txs: tuple[bytes, ...] = ()
    for receipt in receipts:
        if receipt.height <= pruned:
            row = store.db.execute("select raw from tx where id = ?", (receipt.tx,)).fetchone()
            raw = row and row[0]
        else:
            if receipt.height != height:
                height, txs = receipt.height, store.block(receipt.height)[0].txs
                first = store.receipt_count(height) - len(txs)  # due actions come before
            place = receipt.index - first
            raw = txs[place] if 0 <= place < len(txs) else None
        if raw is None:
            raise VerificationFailed(f"{show_id('tx', receipt.tx)} is missing", code="damaged")
        yield receipt, bytes(raw)


def receipt_of(db: sqlite3.Connection, tx: bytes) -> tuple[int, Receipt] | None:
    """(log position, receipt) of a transaction, searched in one part of the log after another."""
    last = db.execute("select max(position) from receipt").fetchone()[0] or 0
    there = f"{PART} = ?1 and {PREFIX} = substr(?2, 1, 8) and tx = ?2"
    for part in range(last // PART_LEAVES, -1, -1):  # who asks mostly asks for a new one
        for position, leaf in db.execute(f"select position, leaf from receipt where {there}", (part, tx)):
            receipt = canonical.unpack(Receipt, leaf)
            if receipt.origin == "tx":
                return position, receipt
    return None
