"""Where a block that a quorum has certified does something else here than elsewhere, in words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from idao.crypto import canonical
from idao.errors import Malformed
from idao.ledger import block as rules
from idao.ledger.execution import Chain, Tip
from idao.ledger.tx import Receipt, parse_tx
from idao.model import Block, ValidatorSet, show_id


def difference(
    tip: Tip, chain: Chain, validators: ValidatorSet, built: Block, why: str, theirs: Sequence[bytes]
) -> str | None:
    """The first of a peer's receipts that differs from what the block does on `tip`; `why` it was refused.

    None where a quorum has certified other receipts: who sends these is wrong, or lies.
    """
    if rules.log_root(tip, theirs) != built.header.log_root:
        return None
    height, txs = built.header.height, [parse_tx(raw) for raw in built.txs]
    try:
        done = rules.execute(tip, chain, validators, built.header.time_ms, txs)
    except Malformed as e:
        return f"block {height}: {e.message}"
    for mine, leaf in zip_longest(done.receipts, theirs):
        other = canonical.unpack(Receipt, leaf) if leaf is not None else None
        if mine != other:
            return _differs(height, mine, other)
    return f"block {height}: {why}, though every receipt is the same"


def _differs(height: int, mine: Receipt | None, other: Receipt | None) -> str:
    """Where two receipts of one place part."""
    if mine is None or other is None or (mine.tx, mine.kind) != (other.tx, other.kind):
        some = mine or other
        return f"block {height} differs at {show_id('tx', some.tx) if some else 'its end'}"
    tx = show_id("tx", mine.tx)
    if (mine.ok, mine.code) != (other.ok, other.code):
        return f"block {height}, {tx}: '{mine.code or 'ok'}' here, '{other.code or 'ok'}' there"
    ours, yours = ({(c.table, c.key): c.value for c in r.changed} for r in (mine, other))
    for table, key in sorted(ours.keys() | yours.keys()):
        if ours.get((table, key), b"") != yours.get((table, key), b""):
            return f"block {height}, {tx}: record {canonical.decode(key)} of table '{table}'"
    return f"block {height}, {tx}: the receipts differ"
