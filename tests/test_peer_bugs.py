"""The known bugs of other engines, by their numbers: each must have a test that would have caught it here.

Numbers are those of the table in ADR 0032. Bugs of the machine alone are cases on the bench
(`tests/sim/cases.py`); `ELSEWHERE` says where the others are tested that do not stand in this file.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import test_peer_bugs_nodes as nodes
from group_world import BOND, GroupWorld, four, group_of
from member_world import Net, busy, crowd, play
from sim.bench import Bench, X
from sim.cases import CASES
from sim.network import Weather
from sim.scenario import KINDS
from sim.world import Plan, World
from test_faults import vote_fault
from test_membership_changes import bond_of

from idao import anchor
from idao.crypto import canonical, note
from idao.crypto.certificates import verify_certificate
from idao.crypto.hashing import validators_hash
from idao.errors import IdaoError, VerificationFailed
from idao.frozen import replace
from idao.ledger import block, charter, epochs, faults
from idao.ledger.faults import Report
from idao.ledger.idao import SetRule
from idao.model import (
    FINALIZE,
    NOTARIZE,
    NULLIFY,
)
from idao.quorum.machine import Machine

ELSEWHERE: dict[int, tuple[str, ...]] = {
    1: ("test_quorum_sim.test_peer_01_and_02_halves_with_different_certificates",),
    2: ("test_quorum_sim.test_peer_01_and_02_halves_with_different_certificates",),
    8: ("sim.cases_of_messages.peer_07_forged_certificates",),
    23: ("sim.cases_of_messages.peer_07_forged_certificates",),
    31: ("sim.cases_of_messages.peer_07_forged_certificates",),
    32: ("sim.cases_of_messages.peer_07_forged_certificates",),
    29: ("test_quorum_sim.test_peer_29_rolled_back_home_stays_silent_long_enough",),
    30: ("test_quorum_sim.test_peer_30_resumes_after_hours_without_a_quorum",),
    36: ("test_frame_fuzz.test_every_cut_and_every_flip", "test_quorum_fuzz.test_any_frames_in_any_order"),
    40: ("test_faults.test_votes_are_judged_within_the_window", "test_faults.test_leaving_does_not_escape"),
    43: (
        "test_quorum_sim.test_peer_43_a_copied_home_stops_itself",
        "test_mesh_sessions.test_a_copied_home_is_refused_and_told",
    ),
    45: ("test_member.test_a_node_whose_execution_differs_stops_and_says_where",),
}  # fmt: skip


def test_each_of_the_56_is_tested() -> None:
    here = " ".join([*(n for n in {**globals(), **vars(nodes)} if n.startswith("test_peer_")), *CASES])
    numbers = {int(n) for n in re.findall(r"(?<=_)\d\d(?=_)", here)} | set(ELSEWHERE)
    assert set(range(1, 57)) - numbers == set()
    for places in ELSEWHERE.values():
        for place in places:
            module, _, name = place.rpartition(".")
            assert hasattr(importlib.import_module(module), name), place


# --- agreement: whole quorums --------------------------------------------------------------------


@pytest.mark.parametrize("sin", ["Twin", "Schemer", "Unheard"])
def test_peer_03_and_04_schedules_of_the_twins_papers(sin: str) -> None:
    """Zyzzyva, FaB, Fast-HotStuff: four replicas, one with two faces, one or two view changes."""
    for seed in range(12):
        plan = Plan(seed, liars={(seed + 1) % 4: sin}, txs=2, gst_ms=5000)
        plan.storm = Weather((1, 30), slow=0.2, slow_ms=1500)
        plan.held = ((seed * 3, seed % 4),)
        World(plan).run()


def test_peer_06_nobody_correct_is_framed_for_amnesia() -> None:
    """Twice as many liars as are tolerated: forks happen, and each convicts liars alone."""
    forks = 0
    for seed in range(20, 32):
        world = World(KINDS["fork"](seed))
        forks += (report := world.run()).forks
        assert report.guilty | report.accused <= set(world.plan.liars)
    assert forks


def test_peer_28_two_events_in_one_tick() -> None:
    """A time-out and the certificate it races with, in both orders: one vote in the slot."""
    for first in (True, False):
        bench = Bench(Machine).start(pool=True)
        bench.propose(0, X)
        certificate = bench.cert(NOTARIZE, 0, X)
        if first:
            bench.timeout().say(certificate)
        else:
            bench.say(certificate).timeout()
        slot = [kind for kind, view, _ in bench.signed() if view == 0 and kind in (FINALIZE, NULLIFY)]
        assert slot == [NULLIFY if first else FINALIZE]


@pytest.mark.parametrize("sin", ["StatusLiar", "ClockLiar", "Replayer"])
def test_peer_34_and_46_liars_about_heights_and_clocks(sin: str) -> None:
    for seed in range(10):
        plan = Plan(seed, liars={seed % 4: sin}, txs=3, gst_ms=2000)
        plan.skews_ms = (3_600_000 * (seed % 3 - 1), 0, 4000, -4000) if sin != "ClockLiar" else ()
        if seed % 3 != 1 and sin != "ClockLiar":
            plan.skews_ms = (0, 4000, -4000)
        World(plan).run()


# --- reads ------------------------------------------------------------------------------------------


def test_peer_05_one_answer_that_proves_itself_is_enough() -> None:
    """PBFT counted equal answers of reads. Here one node's answer carries power of the quorum, or is none."""
    world = four()
    world.step()
    height = world.tip.height
    head, validators = world.notes[height], world.validators(height)
    assert anchor.check_anchor(head, validators).power >= validators.quorum_size
    few = note.Note(head.text, head.signatures[: validators.quorum_size - 1])
    with pytest.raises(VerificationFailed):
        anchor.check_anchor(few, validators)
    stale = world.notes[height - 1]
    assert note.parse_checkpoint(stale.text).height == height - 1, "an old answer says how old it is"


def test_peer_55_a_set_that_changed_by_more_than_a_third() -> None:
    """From one validator to four: each anchor holds under the set of its height, and under no other."""
    world = four()
    world.step()
    flip = next(h for h in world.notes if len(world.validators(h).validators) == 4)
    before, after = world.validators(flip - 1), world.validators(flip)
    assert len(before.validators) == 1
    assert anchor.check_anchor(world.notes[flip - 1], before).power == 1
    for signed, wrong in ((world.notes[flip], before), (world.notes[flip - 1], after)):
        with pytest.raises(VerificationFailed):
            anchor.check_anchor(signed, wrong)
    assert world.blocks[flip - 2][0].header.next_validators == validators_hash(after), "the old set names it"


# --- the ledger -------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["validators", "next_validators"])
def test_peer_35_a_block_cannot_bring_its_own_validators(field: str) -> None:
    world = four()
    validators = world.validators()
    leader = validators.validators[validators.leader(world.tip.height + 1, 0)]
    built, _ = block.build(
        world.tip, world.chain, validators, proposer=leader.idao, view=0, time_ms=world.time_ms + 1000, txs=[]
    )
    block.check(world.tip, world.chain, validators, built)
    forged = replace(built, header=replace(built.header, **{field: bytes(32)}))
    with pytest.raises(block.InvalidBlock):
        block.check(world.tip, world.chain, validators, forged)


RULES = [key for key, rule in charter.RULES.items() if not rule.choices]


@pytest.mark.parametrize("rule", RULES)
def test_peer_37_each_parameter_at_its_ends(rule: str) -> None:
    """No value that the charter allows stops the ledger; beyond the ends it is refused."""
    for value in (charter.RULES[rule].low, charter.RULES[rule].high):
        world = GroupWorld(group_of())
        code = world.decide("ann", ("charter.set", SetRule(rule, canonical.encode(value))))
        assert code == ""
        height = world.tip.height
        world.step()
        world.register("bob")
        assert world.tip.height == height + 2
    for value in (charter.RULES[rule].low - 1, charter.RULES[rule].high + 1):
        with pytest.raises(IdaoError):
            charter.check_rule(rule, value)


def test_peer_44_ledger_and_engine_have_one_set(tmp_path: Path) -> None:
    """Two copies of the set that drift apart have halted others: here the headers of all heights agree."""
    world = four()
    world.step()
    for built, certificate, _ in world.blocks:
        header = built.header
        assert header.validators == validators_hash(world.validators(header.height))
        assert header.next_validators == validators_hash(world.validators(header.height + 1))
        assert verify_certificate(certificate, epochs.epoch_at(world.state, header.height)[1])

    async def story() -> None:
        net = Net(tmp_path, people := crowd())
        for p in people:
            net.boot(p)
        await busy(net, people, 2)
        for m in net.members.values():
            epoch = epochs.epoch_at(m.engine.store.state(), m.engine.tip.height + 1)[1]
            assert m.engine.validators == epoch
            assert m.engine.store.header(m.engine.tip.height).next_validators == validators_hash(epoch)
        net.stop()

    play(story)


def test_peer_47_a_hundred_faults_in_one_block() -> None:
    """Of one liar: all are recorded or refused, each by the rules, and a height costs once."""
    world = four()
    height = world.tip.height
    lies = [vote_fault(world, "dan", height, view=v) for v in range(99)]
    told = [world.send("bob", "fault.report", Report(lie)) for lie in lies]
    told.append(world.send("cyd", "fault.report", Report(vote_fault(world, "dan", height, view=5))))
    codes = {r.tx: r.code for r in world.step()}
    assert [codes[tx.id] for tx in told] == [""] * 99 + ["already-recorded"]
    assert len(faults.recorded(world.state)) == 99
    assert bond_of(world, "dan").slashed == BOND // 10
    world.step()


def seven() -> GroupWorld:
    world = four()
    for name in ("eve", "fay", "gus"):
        world.admit(name, yes=("bob", "cyd", "dan"))
        world.activate(name)
        world.step()
        world.step()
    assert len(world.powers()) == 7
    return world


def test_peer_54_no_jail_takes_more_than_the_quorum_can_spare() -> None:
    """All but two are reported: those who stay can still decide, and four are left."""
    world = seven()
    for name in ("gus", "fay", "eve", "dan", "cyd"):
        fault = vote_fault(world, name, world.tip.height)
        assert world.do("bob", "fault.report", Report(fault)) == ""
        world.step()
        world.step()
        left = world.validators()
        assert len(left.validators) >= 4 and left.quorum_size <= left.total_power
    assert set(world.powers()) == {"ann", "bob", "cyd", "dan"}, "the last liars stay until they are replaced"
