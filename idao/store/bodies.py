"""Bodies of blocks, and finding transactions: in them, or alone where they were pruned.

The transactions of a block are by far the most of it. They are written once, when the block is proposed, and
stay if it is decided. What follows them in its canonical bytes stands in the row of the decided block.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from idao.crypto import canonical
from idao.errors import Malformed, VerificationFailed
from idao.frozen import frozen
from idao.ledger.tx import Receipt
from idao.model import Certificate, Header, show_id
from idao.store.layout import PART, PART_LEAVES, PREFIX

if TYPE_CHECKING:
    from idao.store.ledger import LedgerStore


_HEADER, _PARENT, _NONE = b"\x66header", b"\x72parent_certificate", b"\xf6"
"""How `Block` is written: its transactions first, then these names with their values."""


@frozen
class _Rest:
    header: Header
    parent_certificate: Certificate | None


def split(block: bytes) -> tuple[bytes, bytes]:
    """A block's bytes up to its header, and from there on. What is no block is all before."""
    at = block.rfind(_HEADER)
    while at >= 0:
        try:
            canonical.unpack(_Rest, b"\xa2" + block[at:])
        except Malformed:
            at = block.rfind(_HEADER, 0, at)  # it was within a value
        else:
            return block[:at], block[at:]
    return block, b""


def rest_of(header: bytes, parent: bytes | None) -> bytes:
    """What follows the transactions: from the canonical header and finalization of the parent."""
    return _HEADER + header + _PARENT + (parent or _NONE)


def has(db: sqlite3.Connection, height: int, block_hash: bytes) -> bool:
    found = db.execute("select 1 from body where height = ? and hash = ?", (height, block_hash)).fetchone()
    return found is not None


def put(db: sqlite3.Connection, height: int, block_hash: bytes, block: bytes) -> None:
    """The body of a decided block."""
    db.execute("insert into body values (?, ?, ?)", (height, block_hash, split(block)[0]))


def hold(db: sqlite3.Connection, height: int, block_hash: bytes, block: bytes) -> None:
    """A block that is proposed, unless it is here."""
    if not has(db, height, block_hash):
        txs, rest = split(block)
        db.execute("insert into body values (?, ?, ?)", (height, block_hash, txs))
        db.execute("insert into held values (?, ?, ?)", (height, block_hash, rest))


def held(db: sqlite3.Connection, height: int) -> Iterator[tuple[bytes, bytes]]:
    """(hash, block) of what is held for a height."""
    rows = db.execute(
        "select hash, txs, rest from held join body using (height, hash) where height = ?", (height,)
    )
    for block_hash, txs, rest in rows:
        yield block_hash, txs + rest


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
