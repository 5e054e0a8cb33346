"""What minting, using, dividing and ending DATs refuses, and the terms they carry."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from erc8028_model import SCALE
from hypothesis import given
from hypothesis import strategies as st
from ledger_world import FUNDS, PEOPLE, World, claim_all, id_of, settle, shop

from idao.crypto import canonical
from idao.ledger import accounts, dats, usage
from idao.ledger.dats import Approve, Class, Create, Dat, Expire, Expiry, SetMetadata, SetPolicy
from idao.ledger.usage import Claim, Settle, TransferValue, Use
from idao.model import INT_MAX

# --- refusals -------------------------------------------------------------------------------------


def test_minting_needs_a_verified_version_and_its_own_class() -> None:
    world = World(*PEOPLE)
    raw, good, other = (
        world.asset("ann", "raw", verified=False),
        world.asset("ann", "good"),
        world.asset("ann", "other"),
    )
    assert world.mint("ann", raw)[0] == "not-verified"
    assert world.mint("ann", id_of("nothing"))[0] == "unknown-asset"
    assert world.mint("bob", good)[0] == "not-a-member"
    assert world.mint("ann", good, to=id_of("nobody"))[0] == "unknown-idao"
    assert world.mint("ann", good, expire_at=999)[0] == "expired"
    assert world.mint("ann", good, class_id=id_of("no class"))[0] == "unknown-class"
    code, dat = world.mint("ann", good)
    assert code == ""
    of = world.state.need(Dat, dat).class_id
    assert world.mint("ann", good, class_id=of)[0] == ""
    assert world.mint("ann", other, class_id=of)[0] == "class-mismatch"
    assert world.do("ann", Create(good, 1, "", 0, b"", ())) == "class-exists"
    assert world.do("bob", Create(other, 1, "", 0, b"", ())) == "not-a-member"
    assert len(list(world.state.scan(Class))) == 1


@pytest.mark.parametrize(("needed", "there", "code"), [(1, 0, "not-verified"), (1, 1, ""), (0, 0, "")])
def test_a_quorum_of_several_wants_independent_reviews(needed: int, there: int, code: str) -> None:
    world = World(*PEOPLE, validators=4)
    asset = world.asset("bob", "rides", independent=there)
    world.rule("bob", review__independent=0)  # the owner's own charter does not count
    world.rule("ann", review__independent=needed)
    assert world.mint("bob", asset)[0] == code


def test_an_asset_that_moved_away_is_not_minted_here() -> None:
    world = World("ann")
    asset = world.asset("ann", "rides")
    moved = replace(world.state.need(dats.Asset, asset), home=id_of("elsewhere"))
    world.state.put(moved)
    assert world.mint("ann", asset)[0] == "moved"
    assert world.do("ann", Create(asset, 1, "", 0, b"", ())) == "moved"


def test_quota_is_hard_and_only_for_owner_and_operator() -> None:
    world, class_id, (dat, other) = shop(1, 1)
    assert world.do("bob", Use(dat, "calls", 1, bytes(32))) == "not-authorised"
    assert world.do("ann", Use(dat, "calls", 101, bytes(32))) == "quota"
    assert world.do("ann", Approve(id_of("ann"), class_id, id_of("bob"), True)) == ""
    assert world.do("bob", Use(dat, "calls", 60, id_of("receipt"))) == ""
    assert world.do("bob", TransferValue(dat, other, 40)) == ""
    assert world.do("bob", Use(dat, "calls", 0, bytes(32))) == ""
    assert world.do("bob", dats.Transfer(dat, id_of("bob"))) == "not-a-member"
    assert world.do("bob", Claim(dat, id_of("ann"), id_of("bob"))) == "not-a-member"
    assert [u.n for u in world.state.scan(usage.Usage, dat)] == [1, 2]
    assert (world.state.need(Dat, dat).value, world.state.need(Dat, other).value) == (0, 140)
    assert world.do("ann", Approve(id_of("ann"), class_id, id_of("bob"), False)) == ""
    assert world.do("bob", Use(dat, "calls", 0, bytes(32))) == "not-authorised"


def test_an_operator_stays_behind_when_the_dat_is_sold() -> None:
    world, class_id, (dat, _) = shop(1, 1)
    world.do("ann", Approve(id_of("ann"), class_id, id_of("cyd"), True))
    assert world.do("ann", dats.Transfer(dat, id_of("bob"))) == ""
    assert world.do("cyd", Use(dat, "calls", 1, bytes(32))) == "not-authorised"


def test_an_ended_dat_neither_uses_nor_moves_quota_but_can_be_handed_on() -> None:
    world, class_id, (dat, other) = shop(1, 1, expires=(2_000, 0))
    world.tick(1_001)
    assert world.do("ann", Use(dat, "calls", 1, bytes(32))) == "expired"
    assert world.do("ann", TransferValue(dat, other, 1)) == "expired"
    assert world.do("bob", TransferValue(other, dat, 1)) == "expired"
    assert world.do("ann", dats.Transfer(dat, id_of("bob"))) == ""
    assert world.do("cyd", Expire(class_id)) == ""
    assert world.do("cyd", Expire(class_id)) == "nothing-expired"


def test_dats_that_end_together_leave_together() -> None:
    world, class_id, _ = shop(1, 2, 4, expires=(2_000, 2_000, 0))
    world.tick(1_001)
    assert settle(world, class_id, 4) == ""
    assert world.state.need(Class, class_id).total_share == 4


def test_settling_refuses_a_class_without_shares_and_an_empty_purse() -> None:
    world, class_id, _ = shop(0, 5, expires=(0, 2_000))
    assert world.do("bob", Settle(class_id, id_of("bob"), id_of("ann"), 1)) == "insufficient"
    assert world.do("bob", Settle(class_id, id_of("cyd"), id_of("ann"), 1)) == "not-a-member"
    assert world.do("cyd", Settle(id_of("x"), id_of("cyd"), id_of("ann"), 1)) == "unknown-class"
    world.tick(1_001)
    assert settle(world, class_id, 1) == "no-shares"
    assert world.held("cyd", "ann") == FUNDS


def test_many_ends_at_once_are_swept_in_bounded_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dats, "SWEEP_MAX", 4)
    world, class_id, _ = shop(*[1] * 11, expires=(0, *range(2_000, 2_010)))
    world.tick(5_000)
    assert settle(world, class_id, 10) == "expiry-backlog"
    assert world.do("bob", Expire(class_id)) == ""
    assert len(list(world.state.scan(Expiry, class_id))) == 6
    assert world.do("bob", Expire(class_id)) == ""
    assert settle(world, class_id, 10) == ""
    assert world.state.need(Class, class_id).total_share == 1


# --- terms ----------------------------------------------------------------------------------------


def test_a_mint_without_receiver_is_divided_among_the_contributors() -> None:
    world = World(*PEOPLE)
    asset = world.asset("ann", "rides")
    ids = sorted(id_of(p) for p in PEOPLE)
    split = tuple(zip(ids, (3_333, 3_333, 3_334), strict=True))
    create = Create(asset, 1, "", 2, b"", split)
    assert world.do("ann", replace(create, split=split[:2])) == "split"
    assert world.do("ann", replace(create, split=tuple(reversed(split)))) == "split"
    assert world.do("ann", replace(create, royalty=b"\xa0")) == "royalty"
    assert world.do("ann", create) == ""
    assert world.mint("ann", asset, to=None, value=100, share_ratio=10_001)[0] == ""
    made = {d.owner: d for d in world.state.scan(Dat)}
    assert [made[i].value for i in ids] == [33, 33, 34]
    assert [made[i].share_ratio for i in ids] == [3_333, 3_333, 3_335]
    assert all(d.split == split and d.root == id_of("rides root 1") for d in made.values())


@given(st.integers(0, INT_MAX), st.lists(st.integers(1, 1_000), min_size=1, max_size=8))
def test_dividing_loses_nothing_and_is_fair_to_a_unit(amount: int, weights: list[int]) -> None:
    weights.append(10_000 - sum(weights))
    split = tuple((bytes([n]) * 32, bp) for n, bp in enumerate(weights))
    parts = dats.divide(amount, split)
    assert sum(parts) == amount
    assert all(abs(part * 10_000 - amount * bp) < 10_000 for part, bp in zip(parts, weights, strict=True))


def test_a_mint_that_names_no_value_takes_the_economic_model() -> None:
    world = World("ann")
    asset = world.asset("ann", "rides")
    _, dat = world.mint("ann", asset, value=None)
    assert world.state.need(Dat, dat).value == 1_000
    world.rule("ann", economy__model="score", economy__base=500)
    _, dat = world.mint("ann", asset, value=None)
    assert world.state.need(Dat, dat).value == 450


def test_votes_change_a_class_but_not_what_is_already_minted() -> None:
    world, class_id, (dat,) = shop(1)
    assert world.act("bob", SetPolicy(class_id, bytes(32))) == "not-the-owner"
    assert world.act("ann", SetPolicy(id_of("x"), bytes(32))) == "unknown-class"
    assert world.act("ann", SetPolicy(class_id, bytes(32))) == ""
    assert world.act("ann", SetMetadata(class_id, "https://example.org/rides", bytes(32))) == ""
    of = world.state.need(Class, class_id)
    assert (of.policy, of.integrity, of.root) == (bytes(32), bytes(32), id_of("rides root 1"))
    assert world.state.need(Dat, dat).policy == id_of("rides policy")


def test_a_dat_id_names_its_quorum() -> None:
    a, b = (dats.dat_id_of(id_of(q), bytes(32), bytes(32)) for q in ("one", "two"))
    assert a != b != dats.dat_id_of(id_of("two"), bytes(32), bytes(32), 1)


def test_the_mirror_of_erc8028_is_json_and_follows_its_formula() -> None:
    world, class_id, (dat, late) = shop(3, 4, expires=(0, 9_500))
    settle(world, class_id, 100)
    world.do("ann", Claim(dat, id_of("ann"), id_of("ann")))
    settle(world, class_id, 55)
    shown = json.loads(json.dumps(usage.to_erc8028(world.state, dat, world.time_ms)))
    unit = "0x" + id_of("ann").hex()
    assert (shown["valueOf"], shown["shareRatioOf"], shown["expireAtOf"]) == ("100", "3", 0)
    assert shown["getClassMeta"]["integrityHash"] == "0x" + id_of("rides root 1").hex()
    assert shown["classOf"] == "0x" + class_id.hex()
    assert shown["totalShare"] == "7"
    index, debt = int(shown["accRevenuePerShare"][unit]), int(shown["rewardDebt"][unit])
    assert int(shown["pendingRevenue"][unit]) == (3 * index - debt) // SCALE
    assert shown["pendingRevenue"][unit] == str(155 * 3 // 7 - 100 * 3 // 7)
    least = usage.to_erc8028(*(lambda w, _, made: (w.state, made[0], w.time_ms))(*shop(1)))
    assert (shown["countedInShare"], least["countedInShare"]) == (True, True)
    ended = usage.to_erc8028(world.state, late, 9_501)
    assert (ended["expireAtOf"], ended["countedInShare"], ended["totalShare"]) == (9, False, "3")


def test_records_have_tables_whose_columns_are_explained() -> None:
    import sqlite3

    from idao.store.tables import SqlBase, ddl_of

    world, class_id, made = shop(1, 1, expires=(0, 5_000))
    settle(world, class_id, 7)
    claim_all(world, made, [0])
    world.do("ann", Use(made[0], "calls", 1, bytes(32)))
    world.do("ann", Approve(id_of("ann"), class_id, id_of("bob"), True))
    db = sqlite3.connect(":memory:")
    for family in (accounts, dats, usage):
        for cls in family.RECORDS:
            db.execute(ddl_of(cls))
    base = SqlBase(db)
    ours = {c: rows for c, rows in world.state.changes.items() if c.__module__.split(".")[-1] in
            ("accounts", "dats", "usage")}  # fmt: skip
    base.write(ours)
    for cls, rows in ours.items():
        assert list(base.scan(cls, ())) == [rows[k] for k in sorted(rows) if rows[k] is not None]
        assert canonical.pack(next(iter(rows.values())))
    book = "select sum(case when kind = 'issuance' then debit - credit else 0 end) from account"
    assert db.execute(book).fetchone() == (FUNDS,)
