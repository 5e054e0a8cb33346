"""Any sequence of membership transactions, over real blocks: what must hold after each of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from group_world import BOND, NAMES, STAKE, GroupWorld, named, person
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_faults import cosign_fault, vote_fault
from test_membership_changes import rotate_body

from idao.ledger import accounts, bonds, epochs, faults, membership
from idao.ledger import governance as gov
from idao.ledger.idao import Member
from idao.ledger.membership import ACTIVE, PENDING, Leave, Remove, Seat, SetPower

ACTS = (
    "join", "admit", "activate", "leave", "remove", "power", "rotate", "lie", "cosign", "frame", "withdraw",
    "wait", "block", "come", "come",
)  # fmt: skip
one_step = st.tuples(st.sampled_from(ACTS), st.sampled_from(NAMES), st.integers(0, 3))
steps = st.lists(one_step, min_size=5, max_size=40)


class Any_:
    """Sends what a step says, several to a block, and keeps count of who lied."""

    def __init__(self, grown: bool) -> None:
        self.world = GroupWorld()
        self.world.register(*NAMES[1:])
        if grown:
            self.world.grow(*NAMES[1:5])
        self.liars: set[str] = set()
        self.keys = dict.fromkeys(NAMES, 0)
        self.left_founding = not membership.founder_mode(self.world.state)
        self.check()

    def take(self, act: str, name: str, n: int) -> None:
        world, idao = self.world, person(name).idao
        seat = membership.seat_of(world.state, idao)
        if act == "join":
            world.send(name, "quorum.join", world.join_body(name, self.keys[name] + n))
        elif act == "admit":
            self.decide(
                "validator.admit", membership.Admit(idao, seat.key if seat else bytes(32), 1 + n // 2, BOND)
            )
        elif act == "activate":
            world.send(name, "quorum.activate", world.activate_body())
        elif act == "leave":
            world.send(name, "quorum.leave", Leave())
        elif act == "remove":
            self.decide("validator.remove", Remove(idao))
        elif act == "power":
            self.decide("validator.power", SetPower(idao, 1 + n))
        elif act == "rotate":
            self.keys[name] += 1
            world.send(name, "quorum.rotate", rotate_body(world, name, self.keys[name]))
        elif act == "come":
            self.keys[name] += 1
            world.send(name, "quorum.join", world.join_body(name, self.keys[name]))
            self.block(1_000)
            if (asks := world.seat(name)).state == membership.ASKING:
                self.decide("validator.admit", membership.Admit(idao, asks.key, 1, BOND))
                self.block(1_000)
                world.send(name, "quorum.activate", world.activate_body())
        elif act in ("lie", "cosign") and seat is not None and world.tip.height:
            self.liars.add(name)
            index = next((i for i in range(60) if person(name).validator(i).public == seat.key), 0)
            make = vote_fault if act == "lie" else cosign_fault
            fault = make(world, name, max(1, world.tip.height - n), n=index)
            world.send("ann", "fault.report", faults.Report(fault))
        elif act == "frame" and seat is not None:
            theirs = vote_fault(world, "hal", world.tip.height)
            world.send("hal", "fault.report", faults.Report(replace(theirs, key=seat.key)))
        elif act == "withdraw":
            for bond in world.state.scan(bonds.Bond, idao):
                world.send(name, "quorum.withdraw", bonds.Withdraw(idao, bond.term))
        if act in ("block", "wait"):
            self.block(bonds.UNBONDING_IDLE_MS if act == "wait" else 1_000)

    def decide(self, action: str, body: Any) -> None:
        """By the first owner; every other owner votes for it in the blocks that follow."""
        world = self.world
        owners = [named(m.member) for m in world.state.scan(Member, world.quorum)]
        draft = gov.draft(world.state, world.quorum, "any", [(action, body)])
        tx = world.send(owners[0], "gov.propose", draft)
        self.block(1_000)
        content = gov.content_hash(draft)
        proposal = gov.proposal_id(tx.id, content)
        if world.state.get(gov.Proposal, proposal) is not None:
            for owner in owners:
                world.send(owner, "gov.vote", gov.CastBallot(proposal, content, gov.YES))
            self.block(1_000)

    def block(self, ms: int) -> None:
        before = epochs.newest(self.world.state).epoch
        self.world.step(ms)
        assert epochs.newest(self.world.state).epoch <= before + 1, "one change of the set in a block"
        self.check()

    def check(self) -> None:
        world, state = self.world, self.world.state
        accounts.check_book(state)
        stake = [a for a in state.scan(accounts.Account) if a.unit == accounts.STAKE]
        assert sum(a.balance for a in stake if a.kind != accounts.ISSUANCE) == STAKE, "stake is conserved"
        held: dict[bytes, int] = {}
        for bond in state.scan(bonds.Bond):
            assert 0 <= bond.slashed <= bond.amount
            held[bond.idao] = held.get(bond.idao, 0) + bond.held
        assert {a.holder: a.balance for a in stake if a.kind == accounts.BOND and a.balance} == {
            k: v for k, v in held.items() if v
        }
        newest = epochs.newest(state)
        assert newest.start <= world.tip.height + 2
        validators = epochs.set_of(newest).validators
        assert validators, "a quorum keeps a validator"
        total = sum(v.power for v in validators)
        equal = len({v.power for v in validators}) == 1
        assert equal or (len(validators) >= 4 and all(3 * v.power < total for v in validators))
        seats = {s.idao: s for s in state.scan(Seat)}
        founding = membership.founder_mode(state)
        assert not (self.left_founding and founding), "founder mode never comes back"
        self.left_founding = self.left_founding or not founding
        in_set = {v.idao: (v.key, v.power) for v in validators}
        with_power = {i: (s.key, s.power) for i, s in seats.items() if s.state == ACTIVE and s.power}
        assert in_set == with_power, "the set is what the seats say"
        if founding:
            assert in_set.keys() == {person("ann").idao}
            assert sum(1 for s in seats.values() if s.state == ACTIVE) < 4
        else:
            assert all(s.power for s in seats.values() if s.state == ACTIVE)
        owners = {m.member for m in state.scan(Member, world.quorum)}
        assert owners == {i for i, s in seats.items() if s.state == ACTIVE and s.power}, "who decides governs"
        for seat in seats.values():
            if seat.state in (PENDING, ACTIVE):
                bond = state.need(bonds.Bond, seat.idao, seat.term)
                assert bond.free == 0
        assert {named(f.idao) for f in faults.recorded(state)} <= self.liars, "nobody pays without proof"
        lost = sum(f.slashed for f in faults.recorded(state))
        assert accounts.balance(state, (accounts.SLASHED, world.quorum), accounts.STAKE) == lost


def _run(grown: bool, history: list[tuple[str, str, int]]) -> None:
    run = Any_(grown)
    for act, name, n in history:
        run.take(act, name, n)
    run.block(1_000)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.booleans(), steps)
def test_any_sequence(grown: bool, history: list[tuple[str, str, int]]) -> None:
    _run(grown, history)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.booleans(), st.lists(one_step, min_size=30, max_size=120))
def test_any_long_sequence(grown: bool, history: list[tuple[str, str, int]]) -> None:
    _run(grown, history)
