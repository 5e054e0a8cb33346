"""Pruning: the file shrinks, proofs go on, and an audit says from where it can still derive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Lived
from group_world import GroupWorld, person
from test_proof_epochs import Home, judged, stored
from test_reviews_group import contribute

from idao.dao import Dao
from idao.errors import NotFound
from idao.hall.proofs import Demands, Proofs, verify
from idao.ledger import accounts
from idao.ledger.accounts import STAKE
from idao.model import show_id
from idao.store.audit import audit
from idao.store.ledger import LedgerStore
from idao.store.prune import plan, prune


def busy(tmp_path: Path, blocks: int = 12) -> tuple[GroupWorld, list[bytes]]:
    """A group of four with an asset and many small payments: (world, txs of the payments)."""
    world = stored(tmp_path).grow("bob", "cyd", "dan")
    contribute(world, "ann")
    paid = []
    for _ in range(blocks):
        for _ in range(5):
            body = accounts.Transfer(person("ann").idao, person("bob").idao, STAKE, 1, "")
            paid.append(world.send("ann", "account.transfer", body).id)
        world.step()
    return world, paid


def findings(store: LedgerStore) -> list[str]:
    return [f"{where}: {what}" for where, what in audit(store.path).findings]


def test_bodies_go_and_the_log_stays(tmp_path: Path) -> None:
    world, paid = busy(tmp_path)
    store = world.store
    assert store is not None
    root, size = world.tip.frontier.root(), world.tip.frontier.size
    planned = plan(store, keep=3)
    assert store.pruned == 0, "a plan changes nothing"
    done = prune(store, keep=3)
    assert done == planned and done.height == store.pruned == world.tip.height - 3
    assert done.transactions > 40 and done.bytes > 20_000
    assert store.tx(paid[0]) is None and store.receipt_of(paid[0]) is None
    assert store.tx(paid[-1]) is not None
    assert store.frontier(size).root() == root
    with pytest.raises(NotFound, match="pruned"):
        store.block(store.pruned)
    assert store.block(store.pruned + 1)[0].txs
    assert prune(store, keep=3).transactions == 0, "nothing twice"
    # It goes on, and can be pruned again.
    world.tip = store.tip()
    world.register("eve")
    assert findings(store) == []
    assert prune(store, keep=0).height == world.tip.height
    world.tip = store.tip()
    world.step()
    assert findings(store) == []


def test_proofs_old_and_new_hold(tmp_path: Path) -> None:
    world, paid = busy(tmp_path)
    store = world.store
    assert store is not None
    home: Any = Home(store)
    before = Proofs(home).make(show_id("tx", paid[0]))[1]
    made = next(r for _, _, rs in world.blocks for r in rs if r.kind == "asset.contribute")
    prune(store, keep=0)
    assert judged(before)["ok"]
    assert judged(Proofs(home).make(show_id("tx", made.tx))[1])["ok"], "of what made an asset"
    with pytest.raises(NotFound):
        Proofs(home).make(show_id("tx", paid[0]))


def test_an_audit_says_from_where(tmp_path: Path) -> None:
    world, _ = busy(tmp_path)
    store = world.store
    assert store is not None
    assert audit(store.path).pruned == 0
    prune(store, keep=4)
    report = audit(store.path)
    assert report.ok and report.pruned == world.tip.height - 4
    assert report.blocks == world.tip.height


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("update log_node set hash = zeroblob(32) where level = 0 and place = 40", "log root"),
        ("delete from log_node where level = 0 and place = 40", "missing"),
        ("update log_node set hash = zeroblob(32) where level = 3 and place = 1", "log subtree"),
        ("insert into log_node values (0, 9999, zeroblob(32))", "log subtree"),
        ("update account set credit = credit + 1 where kind = 'idao'", "are not those that block"),
        ("update seat set power = 2", "are not those that block"),
        ("update state_branch set children = x'80' where prefix = ''", "state branch"),
        ("update block set certificate = (select certificate from block where height = 2) where height = 5",
         "block 5"),
        ("update block set leaf = leaf + 1000 where height = 5", "block 5"),
        ("update body set txs = (select txs from body order by height limit 1) where height > 20",
         "block 21"),
        ("delete from body where height > 20", "block 21"),
        ("update tx set id = zeroblob(32)", "stored id"),
        ("insert into body values (3, zeroblob(32), x'00')", "body at height 3"),
        ("insert into log_node values (1, 3, zeroblob(32))", "log subtree"),
        ("update receipt set ok = 0", "its row says other"),
        ("update receipt set height = 3 where kind = 'asset.contribute'", "its row says other"),
        ("delete from tx where height < 15", "its transaction is missing"),
        ("update tx set raw = cast(substr(raw, 1, length(raw) - 2) || x'0001' as blob) where height < 15",
         "its signature does not hold"),
        ("update epoch set start = start + 1 where epoch = 1", "block"),
        ("update checkpoint set note = (select note from checkpoint where height = 4) where height = 6",
         "checkpoint"),
        ("insert into receipt select 9999, height, tx, kind, ok, leaf from receipt limit 1",
         "receipt at 9999"),
    ],
)  # fmt: skip
def test_an_audit_of_what_is_left_finds(tmp_path: Path, statement: str, said: str) -> None:
    world, _ = busy(tmp_path)
    store = world.store
    assert store is not None
    prune(store, keep=4)
    assert findings(store) == []
    assert store.db.execute(statement).rowcount > 0
    assert any(said in f for f in findings(store)), findings(store)


def test_a_home_prunes(lived: Lived) -> None:
    dao = lived.dao()
    dao.ledgers.prune(keep=0)
    dao = Dao.open(lived.path)
    assert dao.store.pruned == dao.store.height
    assert all(r.ok and r.pruned for r in dao.ledgers.audit().values())
    for subject in (lived.dat, lived.asset):
        assert verify(dao.proofs.make(subject)[1], [], Demands(), 2**42)["ok"]
    dao.tokens.issue(5)
    assert all(r.ok for r in Dao.open(lived.path).ledgers.audit().values())
