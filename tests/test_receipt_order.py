"""What a transaction changed stands in its receipt in one order, whatever the order of the writes.

Of several writes to one record, a block puts the last into the state tree."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from ledger_world import World, id_of
from member_world import Person, bundle_of, trust

from idao.crypto import canonical, statetree
from idao.crypto.compiled import bounds
from idao.ledger import block as rules
from idao.ledger.assets import Asset
from idao.ledger.block import _changed, _Last
from idao.ledger.execution import tree_changes
from idao.ledger.idao import Member, RemoveTrust
from idao.ledger.registry import RECORDS
from idao.ledger.state import State, column_types, encode_key, key_encoder, table_of
from idao.ledger.tx import parse_tx
from idao.store.ledger import LedgerStore


def test_changes_stand_in_order_of_table_and_key() -> None:
    orders = set()
    for seed in range(8):
        child = World("ana").state.child()
        writes = [Asset(id_of(f"a{n}"), id_of("ana"), "dataset", 1, id_of("q")) for n in range(5)]
        writes += [Member(id_of("ana"), id_of(f"m{n}"), "owner", 1, 0) for n in range(5)]
        random.Random(seed).shuffle(writes)
        for record in writes:
            child.put(record)
        changed = _changed(child, _Last())
        assert [(c.table, c.key) for c in changed] == sorted((c.table, c.key) for c in changed)
        orders.add(changed)
    assert len(orders) == 1 and len(changed) == 10


def test_of_several_writes_to_a_record_the_last_stands_in_the_tree(tmp_path: Path) -> None:
    people = [Person("ana"), Person("ben")]
    with_store = LedgerStore.create(tmp_path / "ledger.db", bundle_of(people))
    tip, chain = with_store.tip(), with_store.chain
    _, validators = with_store.validators(1)
    raws = [p.tx(chain.quorum, trust(n % 2)) for n in range(6) for p in people]
    gone = RemoveTrust((1).to_bytes(32, "big"))
    raws += [p.tx(chain.quorum, gone, "trust.remove") for p in people]
    raws.append(people[0].tx(chain.quorum, trust(1)))
    done = rules.execute(tip, chain, validators, tip.time_ms + 1, [parse_tx(raw) for raw in raws])
    assert all(receipt.ok for receipt in done.receipts)
    everything = State(tip.base)
    for cls, rows in done.state.changes.items():
        for key, record in rows.items():
            everything.put(record) if record is not None else everything.delete(cls, *key)
    again = dict(tip.branches)
    assert (
        done.state_root == statetree.update(again, tree_changes(everything)) != statetree.root(tip.branches)
    )
    with_store.close()


def test_keys_are_encoded_as_canonical_lists() -> None:
    some: dict[Any, Any] = {int: 7, str: "word", bytes: id_of("x")}
    for cls in RECORDS:
        hints = column_types(cls)
        key = tuple(some[bounds(hints[column])[0]] for column in table_of(cls).key)
        assert key_encoder(cls)(key) == canonical.encode(list(key)), cls
    assert key_encoder(Member) is not encode_key, "by one format"
