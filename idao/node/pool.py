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

    def need_room(self, tx: Tx) -> None:
        """`Refused` (`pool-full`) where there is none: asked before a signature is checked."""
        full = len(self._txs) >= POOL_MAX or self._bytes + len(tx.raw) > POOL_BYTES_MAX
        if full or self.count(tx.envelope.idao) >= ACTOR_MAX:
            raise Refused(f"{len(self._txs)} transactions wait already", code="pool-full")

    def add(self, tx: Tx) -> bool:
        """Whether it is new. `Refused` (`pool-full`) where there is no room for it."""
        if tx.id in self._txs:
            return False
        self.need_room(tx)
        self._txs[tx.id] = self._by_raw[tx.raw] = tx
        self._of.setdefault(tx.envelope.idao, {})[tx.id] = tx.envelope.seq
        self._bytes += len(tx.raw)
        self._expires = min(self._expires, tx.envelope.valid_until)
        return True

    def drop(self, ids: Iterable[bytes]) -> None:
        for tx_id in ids:
            tx = self._txs.pop(tx_id, None)
            if tx is not None:
                del self._by_raw[tx.raw]
                self._bytes -= len(tx.raw)
                mine = self._of[tx.envelope.idao]
                del mine[tx_id]
                if not mine:
                    del self._of[tx.envelope.idao]

    def drop_used(self, idao: bytes, seq: int) -> None:
        """What an iDAO can use no more: sequence numbers up to `seq`."""
        self.drop([i for i, s in self._of.get(idao, {}).items() if s <= seq])

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
