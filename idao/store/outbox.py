"""The outbox: signed transactions on their way into a ledger. What is in it survives a crash."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from idao.crypto import canonical
from idao.ledger.tx import SignedTx, Tx, parse_tx
from idao.store import moments
from idao.store.home_db import resum, summed
from idao.store.opening import atomic


class Outbox:
    """The waiting transactions of one ledger. The caller owns the connection to home.db."""

    def __init__(self, db: sqlite3.Connection, quorum: bytes) -> None:
        self._db, self._quorum = db, quorum

    def put(self, raws: Sequence[bytes], now_ms: int) -> None:
        """All of them, durably, or none."""
        with atomic(self._db):
            for raw in raws:
                tx = parse_tx(raw)
                signatures = canonical.encode([list(s) for s in tx.signed.signatures])
                until = tx.envelope.valid_until
                row = (tx.id, self._quorum, tx.signed.envelope, signatures, until, "queued", now_ms)
                self._db.execute(summed("outbox", "insert or ignore"), row)

    def waiting(self) -> list[Tx]:
        """Oldest first; those that were put in together in no order."""
        rows = self._db.execute(
            "select envelope, signatures from outbox where quorum = ? and state = 'queued' order by added_ms",
            (self._quorum,),
        ).fetchall()
        out = []
        for envelope, signatures in rows:
            pairs = tuple((k, s) for k, s in canonical.decode(signatures))
            out.append(parse_tx(canonical.pack(SignedTx(envelope, pairs))))
        return out

    def settle(self, final: Sequence[bytes], refused: Mapping[bytes, str], newest_ms: int) -> None:
        """Takes out what is in the ledger, whose newest block is of `newest_ms`; marks what can never be."""
        with atomic(self._db):
            moments.remember(self._db, moments.newest_block(self._quorum), newest_ms)
            self._db.executemany("delete from outbox where tx_id = ?", [(tx,) for tx in final])
            for change in ("update outbox set state = 'expired'", resum("outbox")):
                self._db.executemany(f"{change} where tx_id = ?", [(tx,) for tx in refused])

    def oldest_ms(self) -> int | None:
        """When the oldest waiting transaction was put here, in ms UTC; None when nothing waits."""
        row = self._db.execute(
            "select min(added_ms) from outbox where quorum = ? and state in ('queued', 'sent')",
            (self._quorum,),
        ).fetchone()
        return None if row[0] is None else int(row[0])

    def count(self) -> int:
        row = self._db.execute(
            "select count(*) from outbox where quorum = ? and state in ('queued', 'sent')", (self._quorum,)
        ).fetchone()
        return int(row[0])
