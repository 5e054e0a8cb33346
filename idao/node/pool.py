"""The pool: signed transactions that wait for a block, whoever sent them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from idao.errors import Refused
from idao.ledger.tx import Tx
from idao.model import INT_MAX

POOL_MAX = 10_000
"""Transactions that wait for a block (ADR 0031): two seconds of the fastest quorum."""
POOL_BYTES_MAX = 64 * 1024 * 1024
"""Their bytes: 64 full blocks."""
ACTOR_MAX = 2_500
"""Of one iDAO: a quarter of the pool, so that one busy script leaves room for everybody else."""


class Pool:
    """Authentic transactions by id. One structure: two that drifted apart have halted others."""

    def __init__(self) -> None:
        self._txs: dict[bytes, Tx] = {}
        self._by_raw: dict[bytes, Tx] = {}
        self._of: dict[bytes, dict[bytes, int]] = {}
        """iDAO -> tx id -> sequence number."""
        self._bytes = 0
        self._expires = INT_MAX
        """No tx here expires before this block time."""

    def __len__(self) -> int:
        return len(self._txs)

    def __contains__(self, tx_id: object) -> bool:
        return tx_id in self._txs

    def __iter__(self) -> Iterator[Tx]:
        return iter(self._txs.values())

    def get(self, tx_id: bytes) -> Tx | None:
        return self._txs.get(tx_id)

    def by_raw(self, raw: bytes) -> Tx | None:
        """The tx of these very bytes: known to be authentic, and read already."""
        return self._by_raw.get(raw)

    def has_room(self, tx: Tx) -> bool:
        """Asked before a signature is checked."""
        full = len(self._txs) >= POOL_MAX or self._bytes + len(tx.raw) > POOL_BYTES_MAX
        return not full and len(self._of.get(tx.envelope.idao, ())) < ACTOR_MAX

    def need_room(self, tx: Tx) -> None:
        """`Refused` (`pool-full`) where there is none."""
        if not self.has_room(tx):
            raise Refused(f"{len(self._txs)} transactions wait already", code="pool-full")

    def add(self, tx: Tx) -> bool:
        """Whether it is new. `Refused` (`pool-full`) where there is no room for it."""
        if tx.id in self._txs:
            return False
        self.need_room(tx)
        self.put(tx)
        return True

    def put(self, tx: Tx) -> None:
        """Takes in one that is new and has room."""
        envelope, raw = tx.envelope, tx.raw
        self._txs[tx.id] = self._by_raw[raw] = tx
        self._bytes += len(raw)
        mine = self._of.get(envelope.idao)
        if mine is None:
            mine = self._of[envelope.idao] = {}
        mine[tx.id] = envelope.seq
        if envelope.valid_until < self._expires:
            self._expires = envelope.valid_until

    def drop(self, ids: Iterable[bytes]) -> None:
        for tx_id in ids:
            if tx_id in self._txs:
                idao = self._forget(tx_id)
                mine = self._of[idao]
                del mine[tx_id]
                if not mine:
                    del self._of[idao]

    def drop_used(self, idao: bytes, seq: int) -> None:
        """What an iDAO can use no more: sequence numbers up to `seq`."""
        mine = self._of.get(idao, {})
        used = [i for i, s in mine.items() if s <= seq]
        for tx_id in used:
            self._forget(tx_id)
            del mine[tx_id]
        if used and not mine:
            del self._of[idao]

    def _forget(self, tx_id: bytes) -> bytes:
        """Its iDAO, which the caller strikes it from."""
        tx = self._txs.pop(tx_id)
        del self._by_raw[tx.raw]
        self._bytes -= len(tx.raw)
        return tx.envelope.idao

    def drop_expired(self, time_ms: int) -> None:
        if time_ms > self._expires:
            self.drop([i for i, tx in self._txs.items() if tx.envelope.valid_until < time_ms])
            self._expires = min((tx.envelope.valid_until for tx in self), default=INT_MAX)

    def count(self, idao: bytes) -> int:
        """How many of an iDAO wait."""
        return len(self._of.get(idao, ()))

    def of(self, idao: bytes) -> list[Tx]:
        return [self._txs[i] for i in self._of.get(idao, {})]

    def in_order(self) -> Iterator[Tx]:
        """As they came, but those of one iDAO by sequence number: a later one would use up an earlier."""
        queues = {
            idao: iter(sorted(mine, key=lambda i, m=mine: (m[i], i)))  # type: ignore[misc]
            for idao, mine in self._of.items()
        }
        for tx in self._txs.values():
            yield self._txs[next(queues[tx.envelope.idao])]
