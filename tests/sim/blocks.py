"""Blocks of the simulator: enough of a ledger to tell valid from invalid."""

from __future__ import annotations

from dataclasses import dataclass

from blake3 import blake3

GENESIS = b"genesis".ljust(32, b".")
MAX_LEAD_MS = 10_000
"""How far a block's clock may run ahead of a validator's when it is first proposed."""


@dataclass(frozen=True, slots=True)
class SimBlock:
    height: int
    view: int
    proposer: int
    parent: bytes
    time_ms: int
    txs: tuple[int, ...]
    note: str = ""
    """'bad' for a block that no correct node executes to the same state root."""

    def pack(self) -> bytes:
        txs = ",".join(map(str, self.txs))
        return b"%d|%d|%d|%s|%d|%s|%s" % (
            self.height,
            self.view,
            self.proposer,
            self.parent.hex().encode(),
            self.time_ms,
            txs.encode(),
            self.note.encode(),
        )


def block_hash(block: bytes) -> bytes:
    return blake3(block).digest()


def parse(block: bytes) -> SimBlock:
    """What the simulator must know of a block, its own or a real one (`book.py`)."""
    if block[:1] == b"\xa3":  # a canonical map of three fields; its own begin with a digit
        return _real(block)
    height, view, proposer, parent, time_ms, txs, note = block.split(b"|")
    return SimBlock(
        int(height),
        int(view),
        int(proposer),
        bytes.fromhex(parent.decode()),
        int(time_ms),
        tuple(int(t) for t in txs.split(b",") if t),
        note.decode(),
    )


def _real(block: bytes) -> SimBlock:
    from .book import number_of, read

    built = read(block)
    if built is None:
        raise ValueError("not a block")
    h = built.header
    txs = tuple(number_of(raw) for raw in built.txs)
    return SimBlock(h.height, h.view, -1, h.parent, h.time_ms, txs)
