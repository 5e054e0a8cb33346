"""Whole quorums under storms and liars (`tests/sim`). A failure prints the command that replays it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sim import mutants
from sim.model import Unsafe, explore
from sim.network import Weather
from sim.plotters import ALL_LIARS
from sim.scenario import KINDS
from sim.world import Plan, Report, World

from idao.ledger import membership
from idao.ledger.epochs import newest
from idao.ledger.faults import recorded

ROOT = Path(__file__).parent.parent


def run(kind: str, seed: int) -> Report:
    return play(kind, seed)[1]


def play(kind: str, seed: int) -> tuple[World, Report]:
    try:
        world = World(KINDS[kind](seed))
        return world, world.run()
    except Exception as e:
        pytest.fail(f"{e}\nreplay: python -m tests.sim --kind {kind} --seed {seed}")


@pytest.mark.parametrize("kind, count", [("any", 100), ("scheme", 15), ("healthy", 10)])
def test_a_few_seeds(kind: str, count: int) -> None:
    for seed in range(count):
        run(kind, seed)


@pytest.mark.parametrize("sin", sorted(ALL_LIARS))
def test_each_liar_by_name(sin: str) -> None:
    """Alone among four, seven and ten, while the set changes; and where blocks are real."""
    for seed in range(4):
        for n in (4, 7, 10):
            plan = Plan(seed, (1,) * n, liars={(seed + 1) % n: sin}, txs=4, gst_ms=1500, gap_ms=50)
            plan.storm = Weather((1, 30), slow=0.1, loss=0.05, twice=0.05)
            if n > 4 and sin not in ("Copy", "Twin", "SteadyTwin"):
                everyone = tuple(range(n))
                plan.epochs = ((2, everyone[1:]), (3, everyone[: n - 1]), (4, everyone))
            World(plan).run()


def test_the_real_ledger_changes_its_set_under_fire() -> None:
    """Else the seeds of kind `ledger` would test nothing: people come, go, and pay for what they did."""
    epochs = slashed = rotated = joined = restored = 0
    for seed in range(8, 21):
        world, _ = play("ledger", seed)
        assert world.town is not None
        state = world.town.book.state
        epochs += newest(state).epoch
        slashed += len(recorded(state))
        spares = {p.spare.public for p in world.town.people}
        rotated += sum(seat.key in spares for seat in membership.seats(state))
        joined += sum(seat.term > 0 and seat.state == membership.ACTIVE for seat in membership.seats(state))
        restored += world.plan.rollback is not None
        assert {r.idao for r in recorded(state)} <= {world.peers[i] for i in world.plan.liars}
    assert min(epochs, slashed, rotated, joined) > 5 and restored


def test_forks_are_proved() -> None:
    reports = [run("fork", seed) for seed in range(16)]
    assert any(r.forks for r in reports), "else nothing was tested"


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, count", [("any", 3000), ("scheme", 300), ("fork", 200), ("healthy", 100), ("ledger", 150)]
)
def test_many_seeds(kind: str, count: int) -> None:
    for seed in range(10_000, 10_000 + count):
        run(kind, seed)


def test_same_seed_same_story() -> None:
    audits = [run("any", seed).audit for seed in (3, 3, 4)]
    assert audits[0] == audits[1] != audits[2]


def test_nothing_depends_on_hash_seeds() -> None:
    """The same audit hashes under two PYTHONHASHSEEDs, real signatures included."""
    code = (
        "from tests.sim.scenario import KINDS; from tests.sim.world import World\n"
        "print([World(KINDS[k](s)).run().audit for k in ('any', 'fork', 'ledger') for s in (1, 2, 5, 7)])"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    outs = [one.communicate()[0] for one in both]
    assert [one.returncode for one in both] == [0, 0] and outs[0] == outs[1]


# --- shapes worth a name ------------------------------------------------------------------------------


def test_idle_quorum_falls_silent() -> None:
    """Peer 12: when nothing waits, nothing is built, no timer runs, nothing but keep-alives is said."""
    world = World(Plan(1, txs=2))
    heights = world.run().heights
    while world._heap:
        world.now, _, action = __import__("heapq").heappop(world._heap)
        action()
    assert max(len(n.disk.chain) for n in world.nodes) == heights == 2
    assert world.now < world.plan.gst_ms + 151_000, "keep-alives alone were left"


def test_dead_leader_costs_little() -> None:
    """Its connection closed: each later commit within 0.3 s, its own turns included."""
    plan = Plan(5, txs=8, gap_ms=0, liars={1: "Dead"}, calm=Weather((1, 20)))
    report = World(plan).run()
    assert report.heights >= 8 and report.now_ms < 8 * 300


def test_hung_leader_costs_one_time_out() -> None:
    plan = Plan(5, txs=1, liars={1: "Silent"}, calm=Weather((1, 20)))
    assert World(plan).run().now_ms < 1500


def test_peer_30_resumes_after_hours_without_a_quorum() -> None:
    hours = 2 * 3_600_000
    plan = Plan(2, txs=3, gap_ms=0, gst_ms=hours)
    plan.crashes = ((0, 2, 0, hours), (0, 3, 0, hours))
    assert World(plan).run().now_ms < hours + 10_000


def test_peer_01_and_02_halves_with_different_certificates() -> None:
    """Each half sees another outcome of a view, then the network heals."""
    for seed in range(40):
        plan = Plan(seed, txs=2, gst_ms=6000, liars={seed % 4: "TwoVotes"})
        plan.storm = Weather((1, 20), loss=0.1, slow=0.2)
        halves = tuple((a, b) for a in range(4) for b in range(4) if a != b and (a + b + seed) % 2)
        plan.cuts = ((5, 2500, halves), (3000, 2500, tuple((b, a) for a, b in halves[::2])))
        World(plan).run()


def test_peer_29_rolled_back_home_stays_silent_long_enough() -> None:
    for seed in range(25):
        plan = Plan(seed, txs=6, gap_ms=seed * 20, rollback=(seed * 15, 300 + seed * 40, seed % 4))
        World(plan).run()


def test_peer_43_a_copied_home_stops_itself() -> None:
    """Two processes with one key: the quorum goes on, and they stop before they do much harm."""
    stopped = 0
    for seed in range(20):
        plan = Plan(seed, txs=6, gap_ms=300, spread_ms=400, liars={seed % 4: "Copy"}, calm=Weather((1, 40)))
        world = World(plan)
        world.run()
        stopped += any(n.halts for n in world.copies[seed % 4])
    assert stopped > 10, "two that always do the same at once do no harm, and notice nothing"


# --- the test of the tests ----------------------------------------------------------------------------


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda m: m.name)
def test_every_guard_is_missed(mutant: mutants.Mutant) -> None:
    assert mutants.caught_by_case(mutants.broken(mutant)), f"nothing notices when {mutant.name} is gone"


ATTACKS = {
    "slot_restored": "any",
    "slot_shared_by_finalize_and_nullify": "any",
    "quorum_minus_one": "any",
    "certificate_power": "any",
    "certificate_signatures": "any",
    "certificate_signature_count": "any",
    "vote_signature": "any",
    "signer_in_set": "any",
    "proposal_signature": "any",
    "own_quorum": "any",
    "own_quorum_in_justify": "any",
    "justification_by_parent": "any",
    "reproposal": "any",
    "valid_only": "any",
    "mismatch": "any",
    "finalize_needs_validity": "any",
    "nullified_view_is_left": "any",
    "time_out": "any",
    "body_after_certificate": "any",
    "persist_certificates": "any",
    "persist_bodies": "any",
    "replay_certificates": "any",
    "slot_unique": "scheme",
    "justification": "scheme",
    "justification_gap": "scheme",
    "justification_digest": "scheme",
    "notarized_view_is_left": "scheme",
    "divergence_halts": "fork",
    "pending_decision_stays": "fork",
    "fork_of_the_height_before": "fork",
}
"""Guards whose loss whole quorums notice by themselves, and in which kind of run."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_simulation_notices(name: str) -> None:
    machine = mutants.broken(next(m for m in mutants.MUTANTS if m.name == name))
    assert mutants.caught_by_simulation(machine, kinds=(ATTACKS[name],), seeds=400, limit_s=120)


# --- every state of one height ------------------------------------------------------------------------


def test_two_views_are_safe() -> None:
    assert explore(2) > 1000


def test_two_liars_cannot_fork_unproved() -> None:
    """Beyond what is tolerated: every fork in every order of events convicts."""
    assert explore(2, liars=2) > 1000
    with pytest.raises(Unsafe):
        explore(2, "justification", liars=2)


@pytest.mark.parametrize("broken, most", [("justification", 14), ("slot", 14)])
def test_the_model_finds_what_is_broken(broken: str, most: int) -> None:
    with pytest.raises(Unsafe) as e:
        explore(2, broken)
    assert e.value.steps <= most


@pytest.mark.slow
def test_three_views_are_safe() -> None:
    assert explore(3, liars=2) > 100_000
    assert explore(3) > 1_000_000
    with pytest.raises(Unsafe):
        explore(3, "gap")
