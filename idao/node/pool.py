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

    def wants(self, tx: Tx) -> bool:
        """Whether it is new and has room: asked before a signature is checked."""
        return tx.id not in self._txs and self._has_room(len(tx.raw), tx.envelope.idao)

    def _has_room(self, size: int, idao: bytes) -> bool:
        full = len(self._txs) >= POOL_MAX or self._bytes + size > POOL_BYTES_MAX
        return not full and len(self._of.get(idao, ())) < ACTOR_MAX

    def need_room(self, tx: Tx) -> None:
        """`Refused` (`pool-full`) where there is none."""
        if not self._has_room(len(tx.raw), tx.envelope.idao):
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
            tx = self._txs.get(tx_id)
            if tx is not None:
                self._drop(tx.envelope.idao, [tx_id])

    def drop_used(self, idao: bytes, seq: int) -> None:
        """What an iDAO can use no more: sequence numbers up to `seq`."""
        self._drop(idao, [i for i, s in self._of.get(idao, {}).items() if s <= seq])

    def _drop(self, idao: bytes, ids: list[bytes]) -> None:
        """Some of one iDAO's that are here."""
        if not ids:
            return
        txs, by_raw, mine, size = self._txs, self._by_raw, self._of[idao], 0
        for tx_id in ids:
            raw = txs.pop(tx_id).raw
            del by_raw[raw], mine[tx_id]
            size += len(raw)
        self._bytes -= size
        if not mine:
            del self._of[idao]

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
