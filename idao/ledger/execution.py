"""What a block is executed on, and what comes of it: values shared by genesis, blocks and the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping

from idao.crypto import canonical, merkle, statetree
from idao.frozen import frozen
from idao.ledger.state import Base, State, encode_key, table_of
from idao.ledger.tx import Receipt, unknown_header
from idao.model import Certificate

NO_HASH = bytes(32)
LOG_LEVEL = 3
"""Lowest subtrees of the log that are kept; those below are hashed again from at most four leaves."""


class Layer(MutableMapping[str, bytes]):
    """Branches of the state tree written over others, so that an execution can be dropped."""

    __slots__ = ("_below", "writes")

    def __init__(self, below: Mapping[str, bytes]) -> None:
        self._below = below
        self.writes: dict[str, bytes | None] = {}

    def __getitem__(self, prefix: str) -> bytes:
        if prefix in self.writes:
            found = self.writes[prefix]
            if found is None:
                raise KeyError(prefix)
            return found
        return self._below[prefix]

    def __setitem__(self, prefix: str, row: bytes) -> None:
        self.writes[prefix] = row

    def __delitem__(self, prefix: str) -> None:
        self.writes[prefix] = None

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError("branches are looked up, never listed")

    def __len__(self) -> int:
        raise NotImplementedError("branches are looked up, never counted")


@frozen
class Chain:
    """What stays the same from block to block of one ledger."""

    quorum: bytes
    governor: bytes


@frozen
class Tip:
    """Where the ledger stands: what the next block builds on. Height 0 is genesis."""

    height: int
    header: bytes
    time_ms: int
    frontier: merkle.Frontier
    """The log including the block leaf of this height."""
    base: Base
    branches: Mapping[str, bytes]
    certificate: Certificate | None
    """The finalization of this height; none at genesis."""
    header_at: Callable[[int], bytes | None] = unknown_header
    """Header hash of any block up to this one."""


class Executed:
    """What a block did, not yet kept."""

    __slots__ = ("branches", "charter", "frontier", "leaves", "nodes", "receipts", "state", "state_root")

    def __init__(self, state: State, branches: Layer, state_root: bytes, frontier: merkle.Frontier) -> None:
        self.receipts: list[Receipt] = []
        self.leaves: list[bytes] = []
        self.state, self.branches, self.state_root = state, branches, state_root
        self.frontier = frontier
        """The log after the receipts, before the block leaf."""
        self.nodes: list[tuple[int, int, bytes]] = []
        """Subtrees of the log that the receipts completed: (height from `LOG_LEVEL` up, index, hash)."""
        self.charter: bytes = NO_HASH


def tree_changes(state: State) -> dict[bytes, bytes | None]:
    """Path -> value hash, or None, of every record an overlay wrote."""
    out = {}
    for cls, rows in state.changes.items():
        name = table_of(cls).name
        for key, rec in rows.items():
            value = None if rec is None else statetree.value_hash(canonical.pack(rec))
            out[statetree.record_path(name, encode_key(key))] = value
    return out
