"""Leaving, removing, rotating, weights, replacing the lost; and any sequence of all that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from group_world import BOND, NAMES, GroupWorld, four, hashed, person

from idao.ledger import accounts, bonds, epochs, membership
from idao.ledger import governance as gov
from idao.ledger.idao import Member
from idao.ledger.membership import (
    LEFT,
    PENDING,
    REMOVED,
    Leave,
    Remove,
    Rotate,
    SetPower,
)  # fmt: skip
from idao.model import Validator

REST = ("bob", "cyd")


def five(power: int = 1) -> GroupWorld:
    world = four()
    world.admit("eve", yes=REST, power=power)
    world.activate("eve")
    world.step()
    world.step()
    return world


def bond_of(world: GroupWorld, name: str) -> bonds.Bond:
    seat = world.seat(name)
    return world.state.need(bonds.Bond, seat.idao, seat.term)


# --- leaving --------------------------------------------------------------------------------------


def test_leaving_unbonds_and_frees_the_bond_much_later() -> None:
    world = five()
    eve, ann = person("eve").idao, person("ann").idao
    before = world.balance("idao", ann)
    assert world.do("eve", "quorum.withdraw", bonds.Withdraw(eve, world.seat("eve").term)) == "bond-in-use"
    assert world.do("eve", "quorum.leave", Leave()) == ""
    left, left_ms = world.tip.height, world.time_ms
    assert world.seat("eve").state == LEFT
    assert "eve" in world.powers(left + 1) and "eve" not in world.powers(left + 2)
    assert world.state.get(Member, world.quorum, eve) is None
    assert world.do("eve", "quorum.leave", Leave()) == "no-seat"
    bond = bond_of(world, "eve")
    assert (bond.free, bond.free_ms) == (left + 2 + 20_000, left_ms + 14 * 86_400_000)
    take = bonds.Withdraw(eve, bond.term)
    world.step(bonds.UNBONDING_MS)
    assert world.do("bob", "quorum.withdraw", take) == "unbonding"
    assert bonds.is_free(bond, bond.free, bond.free_ms)
    assert not bonds.is_free(bond, bond.free - 1, bond.free_ms)
    assert not bonds.is_free(bond, bond.free, bond.free_ms - 1)
    world.time_ms = bond.idle_ms - 1_001
    assert world.do("bob", "quorum.withdraw", take) == "unbonding"
    assert world.do("bob", "quorum.withdraw", take) == ""
    assert world.balance("idao", ann) == before + BOND
    assert world.balance("bond", eve) == 0
    assert world.do("bob", "quorum.withdraw", take) == "no-bond"
    accounts.check_book(world.state)


def test_the_last_validator_stays() -> None:
    world = GroupWorld()
    assert world.do("ann", "quorum.leave", Leave()) == "last-validator"
    assert world.decide("ann", ("validator.remove", Remove(person("ann").idao))) == "last-validator"
    world.grow("bob", "cyd", "dan")
    for n, name in enumerate(("ann", "bob", "cyd")):
        assert world.do(name, "quorum.leave", Leave()) == ""
        assert len(world.powers(world.tip.height + 2)) == 3 - n
        assert not membership.founder_mode(world.state)
    assert world.do("dan", "quorum.leave", Leave()) == "last-validator"
    world.step()
    assert world.powers() == {"dan": 1}
    # One remains, and is still no founder: whoever comes has power at once.
    world.send("ann", "account.transfer", accounts.Transfer(
        person("ann").idao, person("dan").idao, accounts.STAKE, 10 * BOND, "",
    ))  # fmt: skip
    world.admit("eve", by="dan")
    world.activate("eve")
    assert world.powers(world.tip.height + 2) == {"dan": 1, "eve": 1}
    assert not membership.founder_mode(world.state)


def test_who_never_had_power_leaves_with_its_bond_given_back() -> None:
    world = GroupWorld()
    ann = person("ann").idao
    had = world.balance("idao", ann)
    world.admit("bob", "cyd")
    world.activate("bob")
    for name in ("bob", "cyd"):
        assert world.do(name, "quorum.leave", Leave()) == ""
        assert world.seat(name).state == LEFT
    assert world.balance("idao", ann) == had
    assert epochs.newest(world.state).epoch == 0
    # With a fresh key one may come again; the old key is spent.
    assert world.do("bob", "quorum.join", world.join_body("bob", 0)) == "known-key"
    world.admit("bob", n=1)
    assert world.seat("bob").state == PENDING


def test_an_asker_is_forgotten() -> None:
    world = GroupWorld()
    world.register("bob")
    for leave in (True, False):
        world.do("bob", "quorum.join", world.join_body("bob"))
        if leave:
            assert world.do("bob", "quorum.leave", Leave()) == ""
        else:
            assert world.decide("ann", ("validator.remove", Remove(person("bob").idao))) == ""
        assert membership.seat_of(world.state, person("bob").idao) is None


# --- removing, replacing ---------------------------------------------------------------------------


def test_a_lost_validator_is_replaced_by_the_three_others() -> None:
    world = four()
    alive = ("ann", "bob", "cyd")

    def step(ms: int = 1_000, signers: Sequence[str] | None = None) -> Any:
        # dan is gone: blocks of his turns are those of a later view, which the ledger does not tell apart.
        return GroupWorld.step(world, ms, signers or [n for n in world.powers() if n != "dan"])

    world.step = step  # type: ignore[method-assign]
    world.admit("eve", yes=alive[1:])
    world.activate("eve")
    assert world.decide("ann", ("validator.remove", Remove(person("dan").idao)), yes=alive[1:]) == ""
    assert world.seat("dan").state == REMOVED
    world.step()
    world.step()
    assert world.powers() == {"ann": 1, "bob": 1, "cyd": 1, "eve": 1}
    assert bond_of(world, "dan").free > 0
    assert world.state.get(Member, world.quorum, person("dan").idao) is None


def test_two_removals_by_one_block_follow_each_other() -> None:
    world = four()
    for name in ("eve", "fay"):
        world.admit(name, yes=REST)
        world.activate(name)
    world.step()
    world.step()
    drafts = []
    for name in ("eve", "fay"):
        body = draft(world, ("validator.remove", Remove(person(name).idao)))
        drafts.append((body, world.send("ann", "gov.propose", body)))
    world.step()
    ids = []
    for body, tx in drafts:
        content = gov.content_hash(body)
        ids.append(gov.proposal_id(tx.id, content))
        for voter in ("ann", "bob", "cyd", "dan"):
            world.send(voter, "gov.vote", gov.CastBallot(ids[-1], content, gov.YES))
    assert all(r.ok for r in world.step())
    first = world.step()
    assert sorted(r.code for r in first if r.origin == "due") == ["", "set-busy"]
    second = world.step()
    assert [r.code for r in second if r.origin == "due"] == [""]
    assert {world.state.need(gov.Proposal, p).state for p in ids} == {gov.EXECUTED}
    assert len(world.powers(world.tip.height + 2)) == 4
    # One proposal with both can never be carried out, and says so at once.
    both = [("validator.remove", Remove(person(n).idao)) for n in ("cyd", "dan")]
    assert world.decide("ann", *both) == "set-busy"


def draft(world: GroupWorld, *actions: tuple[str, Any]) -> Any:
    return gov.draft(world.state, world.quorum, "out", actions)


# --- rotating --------------------------------------------------------------------------------------


def rotate_body(world: GroupWorld, name: str, n: int) -> Rotate:
    join = world.join_body(name, n)
    return Rotate(join.key, join.possession, join.tls)


def test_a_key_is_replaced_at_h_plus_two() -> None:
    world = four()
    old = world.seat("bob").key
    assert world.do("cyd", "quorum.rotate", rotate_body(world, "bob", 1)) == "possession"
    assert world.do("bob", "quorum.rotate", rotate_body(world, "bob", 1)) == ""
    new, h = world.seat("bob").key, world.tip.height
    assert new == person("bob").validator(1).public != old
    assert world.validators(h + 1).index_of_key(old) is not None
    assert world.validators(h + 2).index_of_key(old) is None
    assert world.validators(h + 2).index_of_key(new) is not None
    world.step()
    world.step()
    assert world.powers() == dict.fromkeys(("ann", "bob", "cyd", "dan"), 1)
    assert world.do("bob", "quorum.rotate", rotate_body(world, "bob", 2)) == "rotated-lately"
    world.step(membership.ROTATE_MS)
    assert world.do("bob", "quorum.rotate", rotate_body(world, "bob", 0)) == "known-key"
    assert world.do("bob", "quorum.rotate", rotate_body(world, "bob", 2)) == ""
    world.register("eve")
    assert world.do("eve", "quorum.rotate", rotate_body(world, "eve", 0)) == "no-seat"


def test_a_new_certificate_is_no_new_epoch() -> None:
    world = four()
    same = rotate_body(world, "bob", 0)
    epoch = epochs.newest(world.state)
    told = Rotate(same.key, same.possession, hashed("tls anew"))
    assert world.do("bob", "quorum.rotate", told) == ""
    assert world.seat("bob").tls == hashed("tls anew")
    others = Rotate(same.key, same.possession, world.seat("cyd").tls)
    assert world.do("bob", "quorum.rotate", others) == "known-certificate"
    assert epochs.newest(world.state) == epoch
    forged = Rotate(same.key, bytes(64), hashed("tls forged"))
    assert world.do("bob", "quorum.rotate", forged) == "possession"


def test_the_founder_rotates_in_founder_mode_and_observers_too() -> None:
    world = GroupWorld()
    world.admit("bob")
    assert world.do("bob", "quorum.rotate", rotate_body(world, "bob", 1)) == ""
    world.activate("bob")
    assert epochs.newest(world.state).epoch == 0
    assert world.do("ann", "quorum.rotate", rotate_body(world, "ann", 1)) == ""
    world.step()
    world.step()
    assert membership.founder_mode(world.state)
    assert world.validators().validators[0].key == person("ann").validator(1).public


# --- weights ---------------------------------------------------------------------------------------


def test_too_strong_a_weight_is_refused_and_a_leave_levels() -> None:
    world = five()
    bodies = {n: ("validator.power", SetPower(person(n).idao, 2)) for n in NAMES[:5]}
    # Two of six votes are a third: among five nobody can be raised.
    assert world.decide("ann", bodies["bob"], yes=REST) == "too-strong"
    world.admit("fay", yes=(*REST, "dan"))
    world.activate("fay")
    assert world.decide("ann", bodies["bob"], yes=(*REST, "dan")) == ""
    world.step()
    world.step()
    assert world.powers()["bob"] == 2
    assert world.decide("ann", bodies["bob"], yes=(*REST, "dan")) == "same-power"
    # fay leaves: 2 of 6 would be a third, so all are level again.
    assert world.do("fay", "quorum.leave", Leave()) == ""
    assert set(world.powers(world.tip.height + 2).values()) == {1}
    assert world.seat("bob").power == 1


def test_no_weights_below_four_nor_in_founder_mode() -> None:
    world = GroupWorld()
    assert world.decide("ann", ("validator.power", SetPower(person("ann").idao, 2))) == "too-strong"
    world.grow("bob", "cyd", "dan")
    assert world.do("dan", "quorum.leave", Leave()) == ""
    two = ("validator.power", SetPower(person("bob").idao, 2))
    assert world.decide("ann", two, yes=REST) == "too-strong"
    gone = ("validator.power", SetPower(person("dan").idao, 2))
    assert world.decide("ann", gone, yes=REST) == "not-active"


def test_from_four_on_nobody_has_a_third() -> None:
    def balanced(*powers: int) -> bool:
        keys = (hashed(str(n)) for n in range(len(powers)))
        return membership.balanced([Validator(k, k, p) for k, p in zip(keys, powers, strict=True)])

    assert balanced(2, 2, 2, 1) and not balanced(2, 1, 1, 1) and not balanced(2, 2, 1, 1)
    assert balanced(1, 1, 1) and not balanced(2, 2, 2) and not balanced(1, 1, 2)


def ask(world: GroupWorld, name: str) -> None:
    world.register(name)
    world.send(name, "quorum.join", world.join_body(name))
    assert all(r.ok for r in world.step())


def test_nobody_is_admitted_with_too_strong_a_weight() -> None:
    world = four()
    ask(world, "eve")
    assert world.decide("ann", world.admit_body("eve", power=2), yes=REST) == "too-strong"
    assert world.decide("ann", world.admit_body("eve"), yes=REST) == ""


def test_a_full_quorum_admits_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    world = four()
    ask(world, "eve")
    monkeypatch.setattr(membership, "VALIDATORS_MAX", 4)
    assert world.decide("ann", world.admit_body("eve"), yes=REST) == "full"
    monkeypatch.setattr(membership, "VALIDATORS_MAX", 5)
    assert world.decide("ann", world.admit_body("eve"), yes=REST) == ""


def test_who_is_out_has_nothing_to_rotate_remove_or_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    world = GroupWorld()
    world.admit("bob")
    world.activate("bob")
    raised = ("validator.power", SetPower(person("bob").idao, 2))
    assert world.decide("ann", raised) == "too-strong", "an observer has no power to raise"
    assert world.do("bob", "quorum.leave", Leave()) == ""
    assert world.do("bob", "quorum.rotate", rotate_body(world, "bob", 5)) == "no-seat"
    assert world.decide("ann", ("validator.remove", Remove(person("bob").idao))) == "no-seat"
    assert epochs.newest(world.state).epoch == 0
    world.register("cyd")
    world.do("cyd", "quorum.join", world.join_body("cyd"))
    monkeypatch.setattr(membership, "VALIDATORS_MAX", 1)
    assert world.decide("ann", world.admit_body("cyd")) == "full"
    assert not bonds.is_free(world.state.need(bonds.Bond, person("ann").idao, 0), 10**9, 10**15)
