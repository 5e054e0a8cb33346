"""From the outbox into a ledger: what this home has signed, offered again and again until it is final."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from idao.errors import Malformed, Refused
from idao.ledger import block as rules
from idao.ledger.idao import Identity
from idao.ledger.state import State
from idao.ledger.tx import Tx
from idao.store.home_db import open_home_db
from idao.store.ledger import LedgerStore
from idao.store.outbox import Outbox


def hopeless(state: State, tx: Tx, time_ms: int) -> str | None:
    """Why a tx can be in no block any more, whatever still comes; None while it may.

    Stricter than `rules.admissible`: a ledger that is behind must not give up what a later block allows.
    """
    actor = state.get(Identity, tx.envelope.idao)
    if time_ms > tx.envelope.valid_until:
        return "it has expired"
    if actor is not None and tx.envelope.seq <= actor.seq:
        return f"sequence number {tx.envelope.seq} is used"
    return None


def obstacle(store: LedgerStore, tx: Tx, time_ms: int) -> str | None:
    """Why a tx is in no block yet, as far as the ledger tells."""
    return rules.admissible(store.state(), store.chain, tx, time_ms)


class Dispatch:
    """Carries the outbox of one ledger to whoever orders its blocks."""

    def __init__(self, home_db: Path, ledger: Path, submit: Callable[[bytes], object]) -> None:
        self._database, self._submit = home_db, submit
        self._store = LedgerStore.open(ledger, readonly=True)
        self._offered: set[bytes] = set()

    def close(self) -> None:
        self._store.close()

    def carry(self, *, again: bool = False) -> int:
        """Offers what waits (with `again` also what was offered before); settles what is done with.

        Returns how many still wait. A row leaves only when its receipt is durable here.
        """
        db = open_home_db(self._database)
        try:
            outbox = Outbox(db, self._store.chain.quorum)
            waiting = outbox.waiting()
            final = [tx.id for tx in waiting if self._store.receipt_of(tx.id)]
            state, now = self._store.state(), self._store.tip().time_ms
            gone = set(final)
            dead = {tx.id: why for tx in waiting if tx.id not in gone and (why := hopeless(state, tx, now))}
            live = [tx for tx in waiting if tx.id not in gone and tx.id not in dead]
            if final or dead:
                outbox.settle(final, dead, now)
        finally:
            db.close()
        self._offered &= {tx.id for tx in live}
        for tx in live:
            if again or tx.id not in self._offered:
                self._offer(tx)
        return len(live)

    def _offer(self, tx: Tx) -> None:
        try:
            self._submit(tx.raw)
            self._offered.add(tx.id)
        except (Refused, Malformed):
            pass  # Not now: the ledger may be behind. Offered again at the next turn.
