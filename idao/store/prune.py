"""Pruning: old transactions and receipts go, everything that proofs rest on stays.

Kept for ever: headers, finalizations, checkpoints, the hash of every leaf of the log, the records and their
tree; and of transactions with their receipts those that made what is proven, assets and DATs. So proofs made
earlier hold, new ones of any asset or DAT can be made, and every link from genesis is there. What goes: the
bodies of all else, up to a height. A peer cannot catch up from such a ledger through those heights, and an
audit compares with the certified roots instead of deriving what led to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from idao.crypto import merkle
from idao.frozen import frozen
from idao.store import bodies

if TYPE_CHECKING:
    from idao.store.ledger import LedgerStore

KEPT_KINDS = ("asset.contribute", "dat.mint", "review.open")
"""Made what proofs show, or (reviews) are said again when a quorum is recovered."""
KEEP_BLOCKS = 20_000
"""Newest blocks that stay whole: as far back as faults are judged, and more than any peer was away."""


@frozen
class Pruned:
    """What a pruning takes, or took."""

    height: int
    """Bodies up to here are gone."""
    transactions: int
    receipts: int
    bytes: int


def plan(store: LedgerStore, keep: int = KEEP_BLOCKS) -> Pruned:
    """What `prune` would take if the newest `keep` blocks stay whole."""
    upto = max(store.pruned, store.height - keep)
    first, last = _span(store, upto)
    receipts, size, txs = store.db.execute(
        f"select count(*), coalesce(sum(length(leaf)), 0), count(*) filter (where kind <> 'gov.due')"
        f" from receipt where {_GONE}",
        (first, last, *KEPT_KINDS),
    ).fetchone()
    (whole,) = store.db.execute(
        "select coalesce(sum(length(txs)), 0) from body where height <= ?", (upto,)
    ).fetchone()
    kept = sum(len(raw) for _, raw in bodies.applied(store, *KEPT_KINDS, upto=upto))
    return Pruned(upto, txs, receipts, size + whole - kept)


_GONE = f"position between ? and ? and not (ok = 1 and kind in ({', '.join('?' * len(KEPT_KINDS))}))"


def prune(store: LedgerStore, keep: int = KEEP_BLOCKS) -> Pruned:
    """Takes it, in one transaction, and gives the space back. The caller holds the ledger's lock."""
    gone = plan(store, keep)
    if gone.height == store.pruned:
        return gone
    first, last = _span(store, gone.height)
    with store.transaction():
        store.db.executemany("insert or ignore into log_node values (0, ?, ?)", _hashes(store, first, last))
        kept = [
            (r.height, r.index, r.tx, raw) for r, raw in bodies.applied(store, *KEPT_KINDS, upto=gone.height)
        ]
        store.db.executemany("insert into tx values (?, ?, ?, ?)", kept)
        store.db.execute("delete from body where height <= ?", (gone.height,))
        store.db.execute(f"delete from receipt where {_GONE}", (first, last, *KEPT_KINDS))
        store.set_meta("pruned", str(gone.height).encode())
    store.db.execute("vacuum")
    store.db.execute("pragma wal_checkpoint(truncate)")
    return gone


def _span(store: LedgerStore, upto: int) -> tuple[int, int]:
    """Log positions of what blocks after the last pruning wrote, up to `upto`."""
    before = store.db.execute("select leaf from block where height = ?", (store.pruned,)).fetchone()
    found = store.db.execute("select leaf from block where height = ?", (upto,)).fetchone()
    return (before[0] + 1 if before else 0), (found[0] if found else -1)


def _hashes(store: LedgerStore, first: int, last: int) -> Iterator[tuple[int, bytes]]:
    rows = store.db.execute(f"select position, leaf from receipt where {_GONE}", (first, last, *KEPT_KINDS))
    for position, leaf in rows:
        yield position, merkle.LOG.leaf(leaf)
