"""Seats, epochs and founder mode, over real blocks with real signatures."""

from __future__ import annotations

from dataclasses import replace

import pytest
from group_world import BOND, STAKE, GroupWorld, four, group_of, hashed, person, rules

from idao.crypto import canonical
from idao.crypto.hashing import validators_hash
from idao.errors import VerificationFailed
from idao.ledger import accounts, block, bonds, epochs, faults, genesis, membership
from idao.ledger.bonds import Bond
from idao.ledger.idao import AddMember, Member, RemoveMember
from idao.ledger.membership import ACTIVE, ASKING, PENDING, Join, Rotate, SeatKey
from idao.ledger.tx import parse_tx
from idao.model import Block, Fault, Validator, ValidatorSet

# --- genesis --------------------------------------------------------------------------------------


def test_a_group_begins_with_its_founder() -> None:
    world = GroupWorld()
    ann = person("ann")
    assert membership.founder_mode(world.state)
    assert world.powers() == {"ann": 1}
    assert [(s.idao, s.state, s.power) for s in membership.seats(world.state)] == [(ann.idao, ACTIVE, 1)]
    assert world.balance("bond", ann.idao) == STAKE // 10
    assert world.balance("idao", ann.idao) == STAKE - STAKE // 10
    assert world.state.need(Member, world.quorum, ann.idao).role == "owner"
    assert world.chain.governor == world.quorum
    accounts.check_book(world.state)
    world.step()
    assert world.tip.height == 1


def test_what_a_group_genesis_may_not_be() -> None:
    bundle = group_of()
    ann = person("ann")

    def signed(**changed: object) -> genesis.Bundle:
        new = replace(bundle.genesis, **changed)
        founder = replace(bundle.founders[0], signature=ann.signer.sign_genesis(new))
        return replace(bundle, genesis=new, founders=(founder,))

    genesis.check_bundle(signed(name="other"))
    key = ann.validator().public
    for changed in (
        {"validators": ValidatorSet((Validator(ann.idao, key, 2),))},
        {"stake": ((ann.idao, 1), (ann.idao, 1))},
        {"recovery_keys": (key, key)},
        {"recovery_threshold": 2},
        {"formats": genesis.FORMATS + 1},
        {"charter": hashed("another charter")},
        {"kind": "club"},
        {"validators": ValidatorSet((Validator(person("bob").idao, key, 1),))},
    ):
        with pytest.raises(VerificationFailed):
            genesis.check_bundle(signed(**changed))


# --- joining --------------------------------------------------------------------------------------


def test_founder_mode_until_four_are_active() -> None:
    world = GroupWorld()
    world.admit("bob", "cyd", "dan")
    assert {world.seat(n).state for n in ("bob", "cyd", "dan")} == {PENDING}
    for name in ("bob", "cyd"):
        assert membership.next_step(world.state, person(name).idao, world.tip.height + 1) == "activate"
        world.activate(name)
        assert (world.seat(name).state, world.seat(name).power) == (ACTIVE, 0)
        assert membership.next_step(world.state, person(name).idao, world.tip.height + 1) is None
        assert world.powers(world.tip.height + 2) == {"ann": 1}
        assert membership.founder_mode(world.state)
    world.activate("dan")
    flipped = world.tip.height
    assert not membership.founder_mode(world.state)
    assert epochs.newest(world.state).start == flipped + 2
    assert world.powers(flipped) == world.powers(flipped + 1) == {"ann": 1}
    assert world.powers(flipped + 2) == {"ann": 1, "bob": 1, "cyd": 1, "dan": 1}
    world.step()
    world.step()
    assert len(world.blocks[-1][1].signers()) == 4
    assert {m.member for m in world.state.scan(Member, world.quorum) if m.role == "owner"} == {
        person(n).idao for n in ("ann", "bob", "cyd", "dan")
    }
    assert world.balance("bond", person("bob").idao) == BOND
    accounts.check_book(world.state)


def test_what_an_admission_and_a_flip_write() -> None:
    world = GroupWorld()
    world.admit("bob", "cyd", "dan")
    bob, sponsor = person("bob").idao, person("ann").idao
    assert world.state.need(Bond, bob, world.seat("bob").term) == Bond(
        bob, world.seat("bob").term, sponsor, BOND, 0, 0, 0, 0
    )
    world.activate("bob", "cyd", "dan")
    assert world.state.need(Member, world.quorum, bob) == Member(
        world.quorum, bob, "owner", 1, world.tip.height
    )


def test_in_founder_mode_only_the_fourth_waits_for_a_set_that_has_just_changed() -> None:
    """The others change no set: nothing keeps them from the same block."""
    world = GroupWorld()
    world.admit("bob", "cyd", "dan")

    def next_steps(founders_key: int) -> list[str | None]:
        body = world.join_body("ann", founders_key)
        assert world.do("ann", "quorum.rotate", Rotate(body.key, body.possession, body.tls)) == ""
        assert epochs.is_busy(world.state, world.tip.height)
        return [membership.next_step(world.state, person(n).idao, world.tip.height) for n in ("bob", "dan")]

    world.activate("cyd")
    assert next_steps(1) == ["activate", "activate"]
    world.activate("bob")
    world.step(ms=membership.ROTATE_MS)
    assert next_steps(2) == [None, None]


def test_headers_name_the_sets_of_their_height_and_the_next() -> None:
    world = four()
    for built, _, _ in world.blocks:
        h = built.header
        assert h.validators == validators_hash(world.validators(h.height))
        assert h.next_validators == validators_hash(world.validators(h.height + 1))
    assert world.blocks[-1][0].header.validators != world.blocks[0][0].header.validators


def test_what_join_refuses() -> None:
    world = GroupWorld()
    world.register("bob", "cyd")
    good = world.join_body("bob")
    assert world.do("cyd", "quorum.join", good) == "possession"
    key = person("bob").validator()
    other_quorum = Join(key.public, key.sign_possession(hashed("x"), person("bob").idao), good.tls)
    assert world.do("bob", "quorum.join", other_quorum) == "possession"
    founders = person("ann").validator()
    stolen = Join(founders.public, founders.sign_possession(world.quorum, person("bob").idao), good.tls)
    assert world.do("bob", "quorum.join", stolen) == "known-key"
    assert world.do("bob", "quorum.join", Join(good.key, good.possession, bytes(32))) == "no-certificate"
    assert world.do("bob", "quorum.join", good) == ""
    assert world.do("ann", "quorum.join", world.join_body("ann", 1)) == "already-in"
    # Asking again replaces; the key asked with before is free again.
    assert world.do("bob", "quorum.join", world.join_body("bob", 1)) == ""
    assert world.state.get(SeatKey, good.key) is None
    assert world.seat("bob").key == person("bob").validator(1).public
    assert world.decide("ann", world.admit_body("bob", 0)) == "key-changed"
    assert world.decide("ann", world.admit_body("bob", 1)) == ""
    assert world.do("bob", "quorum.join", world.join_body("bob", 2)) == "already-in"


def test_seats_that_ask_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "ASKING_MAX", 2)
    world = GroupWorld()
    world.register("bob", "cyd", "dan")
    assert world.do("bob", "quorum.join", world.join_body("bob")) == ""
    assert world.do("cyd", "quorum.join", world.join_body("cyd")) == ""
    assert world.do("cyd", "quorum.join", world.join_body("cyd")) == ""
    assert world.do("dan", "quorum.join", world.join_body("dan")) == "too-many-asking"
    world.step(membership.ASKING_MS)
    assert world.do("dan", "quorum.join", world.join_body("dan")) == ""
    assert membership.seat_of(world.state, person("bob").idao) is None
    assert world.seat("cyd").state == ASKING


def test_admission_is_the_quorums_own_vote() -> None:
    world = GroupWorld()
    world.register("bob")
    assert world.decide("ann", world.admit_body("bob")) == "no-seat"
    assert world.do("bob", "quorum.join", world.join_body("bob")) == ""
    assert world.decide("ann", world.admit_body("bob", power=2)) == "too-strong"
    assert world.decide("ann", world.admit_body("bob", bond=STAKE)) == "insufficient"
    assert world.do("bob", "quorum.activate", world.activate_body()) == "not-pending"
    assert world.decide("ann", world.admit_body("bob", bond=7)) == ""
    assert world.decide("ann", world.admit_body("bob")) == "not-asking"
    bond = world.state.need(bonds.Bond, person("bob").idao, world.seat("bob").term)
    assert (bond.sponsor, bond.amount, bond.held) == (person("ann").idao, 7, 7)
    # Another iDAO's governance decides nothing here, nor does a hand-made owner.
    own = ("validator.admit", membership.Admit(person("bob").idao, world.seat("bob").key, 1, 1))
    body = block.governance.draft(world.state, person("bob").idao, "mine", [own])
    assert world.do("bob", "gov.propose", body) == "not-the-quorum"
    assert world.decide("ann", ("member.add", AddMember(person("bob").idao, "owner", 1))) == "validators-own"
    assert world.decide("ann", ("member.remove", RemoveMember(person("ann").idao))) == "validators-own"


def test_activation_shows_that_the_chain_was_followed() -> None:
    world = GroupWorld()
    world.admit("bob")
    tip = world.activate_body()
    assert world.do("bob", "quorum.activate", replace(tip, header=hashed("fork"))) == "other-chain"
    assert world.do("bob", "quorum.activate", replace(tip, height=world.tip.height + 1)) == "not-recent"
    for _ in range(membership.RECENT):
        world.step()
    assert world.do("bob", "quorum.activate", tip) == "not-recent"
    first = world.tip.height + 1 - membership.RECENT
    assert world.do("bob", "quorum.activate", membership.Activate(first, world.headers[first])) == ""


def test_one_change_of_the_set_in_a_block() -> None:
    world = four()
    world.admit("eve", "fay", yes=("bob", "cyd"))
    recent = world.activate_body()
    a, b = world.send("eve", "quorum.activate", recent), world.send("fay", "quorum.activate", recent)
    codes = {r.tx: r.code for r in world.step()}
    assert sorted((codes[a.id], codes[b.id])) == ["", "set-busy"]
    late = "fay" if codes[a.id] == "" else "eve"
    assert membership.next_step(world.state, person(late).idao, world.tip.height) is None
    assert membership.next_step(world.state, person(late).idao, world.tip.height + 1) == "activate"
    world.activate(late)
    assert len(world.powers(world.tip.height + 1)) == 5
    assert len(world.powers(world.tip.height + 2)) == 6


# --- blocks ---------------------------------------------------------------------------------------


def test_a_block_is_checked_under_the_set_of_its_height(monkeypatch: pytest.MonkeyPatch) -> None:
    world = four()
    validators = world.validators()
    leader = validators.validators[validators.leader(world.tip.height + 1, 0)]
    other = next(v for v in validators.validators if v != leader)

    def make(proposer: bytes, certificate: object) -> Block:
        return block.build(
            replace(world.tip, certificate=certificate),
            world.chain, validators, proposer=proposer, view=0, time_ms=world.time_ms + 5, txs=[],
        )[0]  # fmt: skip

    def verdict(one: Block, by: ValidatorSet = validators) -> str:
        try:
            block.check(world.tip, world.chain, by, canonical.unpack(Block, canonical.pack(one)))
        except block.InvalidBlock as e:
            return e.message
        return ""

    fine = world.tip.certificate
    good = make(leader.idao, fine)
    assert "time is not later" in verdict(
        replace(good, header=replace(good.header, time_ms=world.tip.time_ms))
    )
    with monkeypatch.context() as careless:
        careless.setattr(block, "admissible", lambda *_: "")
        again = block.build(
            world.tip, world.chain, validators, proposer=leader.idao, view=0, time_ms=world.time_ms + 5,
            txs=[parse_tx(world.blocks[-3][0].txs[0])],
        )[0]  # fmt: skip
    assert "may not be in this block" in verdict(again)
    skipped: set[bytes] = set()
    used = parse_tx(world.blocks[-3][0].txs[0])
    left = block.build(
        world.tip, world.chain, validators, proposer=leader.idao, view=0, time_ms=world.time_ms + 5,
        txs=[used], skipped=skipped,
    )[0]  # fmt: skip
    assert (left.txs, skipped) == ((), {used.id}) and verdict(left) == ""
    tx = world.sign("ann", "quorum.leave", membership.Leave())
    forged = replace(tx.signed, signatures=((tx.envelope.key, bytes(64)),))
    assert "bad signature" in verdict(replace(good, txs=(canonical.pack(forged),)))
    assert "state_root" in verdict(replace(good, header=replace(good.header, state_root=hashed("x"))))
    big = [canonical.pack(replace(tx.signed, envelope=bytes(60_000)))] * 20
    assert "too large" in verdict(replace(good, txs=tuple(big)))
    assert verdict(make(leader.idao, fine)) == ""
    assert "leader" in verdict(make(other.idao, fine))
    alone = ValidatorSet((leader,))
    assert "validators" in verdict(make(leader.idao, fine), alone)
    # Other votes for the parent do as well, if they are a finalization of it by its own set.
    fewer = world.certify(validators, world.tip.height, world.tip.header, ("ann", "bob", "dan"))
    assert fewer != fine
    assert verdict(make(leader.idao, fewer)) == ""
    assert "no finalization of its parent" in verdict(
        make(leader.idao, world.certify(validators, world.tip.height, world.tip.header, ("ann", "bob")))
    )
    wrong = world.certify(validators, world.tip.height, hashed("another block"))
    assert "no finalization of its parent" in verdict(make(leader.idao, wrong))
    assert "no finalization of its parent" in verdict(make(leader.idao, None))


def test_epochs_are_found_among_many() -> None:
    world = GroupWorld()
    state = world.state
    for n in range(1, 200):
        state.put(replace(state.need(epochs.Epoch, 0), epoch=n, start=3 * n))
    assert epochs.newest(state).epoch == 199
    for height in range(1, 620):
        want = max(e.epoch for e in state.scan(epochs.Epoch) if e.start <= height)
        assert epochs.epoch_at(state, height)[0].epoch == want


def test_a_quorum_of_one_has_no_seats() -> None:
    p = person("ann")
    bundle = genesis.personal(
        name="ann", nonce=hashed("n"), time_ms=1, validator_key=p.validator().public, stake=STAKE,
        rules=rules(), recovery_key=p.recovery.public, owner=(p.inception, ()), signer=p.signer,
    )  # fmt: skip
    world = GroupWorld(bundle)
    world.register("bob")
    assert world.do("bob", "quorum.join", world.join_body("bob")) == "not-a-group"
    assert membership.seats(world.state) == []
    assert not membership.founder_mode(world.state)
    lie = faults.Report(Fault("propose", p.validator().public, b"a", b"b"))
    assert world.do("bob", "fault.report", lie) == "not-a-group"
