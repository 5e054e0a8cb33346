"""What a transaction changed stands in its receipt in one order, whatever the order of the writes."""

from __future__ import annotations

import random

from ledger_world import World, id_of

from idao.ledger.assets import Asset
from idao.ledger.block import _changed
from idao.ledger.idao import Member


def test_changes_stand_in_order_of_table_and_key() -> None:
    orders = set()
    for seed in range(8):
        child = World("ana").state.child()
        writes = [Asset(id_of(f"a{n}"), id_of("ana"), "dataset", 1, id_of("q")) for n in range(5)]
        writes += [Member(id_of("ana"), id_of(f"m{n}"), "owner", 1, 0) for n in range(5)]
        random.Random(seed).shuffle(writes)
        for record in writes:
            child.put(record)
        changed = _changed(child)
        assert [(c.table, c.key) for c in changed] == sorted((c.table, c.key) for c in changed)
        orders.add(changed)
    assert len(orders) == 1 and len(changed) == 10
