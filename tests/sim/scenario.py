"""Plans drawn from seeds. The same seed is the same plan, whatever was run before."""

from __future__ import annotations

import random

from .network import Weather
from .plotters import ALL_LIARS
from .world import Plan

SIZES = (1, 2, 3, 4, 4, 4, 4, 4, 4, 5, 7, 7, 10)


def plan_of(seed: int) -> Plan:
    """Any mishap within what a quorum must survive: liars below honest_size, storms, crashes, cuts."""
    rng = random.Random(f"plan {seed}")
    n = rng.choice(SIZES)
    powers = _powers(rng, n)
    plan = Plan(seed, powers, real=seed % 100 == 7, threads=rng.random() < 0.3)
    plan.txs = rng.randint(2, 5)
    if n >= 4 and rng.random() < 0.25:
        plan.epochs = tuple((h, _members(rng, n)) for h in (1, 2, 3, 4) if rng.random() < 0.7)
        plan.txs += 2
    plan.liars = _liars(rng, powers, [m for _, m in plan.epochs] or [tuple(range(n))])
    plan.gap_ms = rng.choice((0, 50, 400, 4000))
    plan.spread_ms = rng.choice((5, 50, 1500))
    plan.gst_ms = rng.choice((0, 1000, 4000, 12_000))
    plan.storm = Weather(
        (1, rng.choice((8, 60))),
        slow=rng.choice((0.0, 0.05, 0.3)),
        slow_ms=rng.choice((300, 1500, 6000)),
        loss=rng.choice((0.0, 0.02, 0.1, 0.4)),
        twice=rng.choice((0.0, 0.1)),
    )
    plan.calm = Weather((1, rng.choice((5, 20, 90))))
    plan.skews_ms = tuple(rng.randint(-4000, 4000) for _ in range(n))
    if plan.gst_ms:
        plan.crashes = tuple(
            (rng.randint(0, plan.gst_ms), rng.randrange(n), rng.randint(0, 12), rng.randint(10, 3000))
            for _ in range(rng.choice((0, 0, 1, 2, 4)))
        )
        plan.cuts = tuple(_cut(rng, n, plan.gst_ms) for _ in range(rng.choice((0, 0, 1, 3))))
        if rng.random() < 0.15:
            plan.held = ((rng.randint(0, plan.gst_ms), rng.randrange(n)),)
    elif n >= 4 and not plan.liars and not plan.epochs and rng.random() < 0.5 and len(set(powers)) == 1:
        # A rolled-back home is silent for a while: it counts as the faulty one.
        backup = rng.randint(0, 800)
        plan.rollback = backup, backup + rng.randint(1, 2000), rng.randrange(n)
        plan.txs += 3
    return plan


def _powers(rng: random.Random, n: int) -> tuple[int, ...]:
    if rng.random() < 0.75 or n < 4:
        return (1,) * n
    powers = [rng.randint(1, 9) for _ in range(n)]
    while max(powers) * 3 >= sum(powers):
        powers[powers.index(max(powers))] -= 1
    return tuple(powers)


def _members(rng: random.Random, n: int) -> tuple[int, ...]:
    """Anything from one validator to all: joins, leaves, and hand-overs to entirely other people."""
    return tuple(sorted(rng.sample(range(n), rng.choice((1, n // 2, n - 1, n - 1, n)))))


def _liars(rng: random.Random, powers: tuple[int, ...], sets: list[tuple[int, ...]]) -> dict[int, str]:
    """As many as every set tolerates."""
    liars: dict[int, str] = {}
    if rng.random() < 0.2:
        return liars
    sins = [s for s in ALL_LIARS if s not in ("SteadyTwin", "Dead")]
    for i in rng.sample(range(len(powers)), len(powers)):
        if all(
            3 * sum(powers[j] for j in s if j in liars or j == i) < sum(powers[j] for j in s)
            for s in (*sets, range(len(powers)))
        ):
            liars[i] = rng.choice(sins)
    return dict(sorted(liars.items()))


def _cut(rng: random.Random, n: int, gst_ms: int) -> tuple[int, int, tuple[tuple[int, int], ...]]:
    side = {i for i in range(n) if rng.random() < 0.5}
    links = [(a, b) for a in range(n) for b in range(n) if a != b and (a in side) != (b in side)]
    if rng.random() < 0.4:
        # One way only, or only some pairs: not a partition but a broken switch.
        links = [link for link in links if rng.random() < 0.5]
    return rng.randint(0, gst_ms), rng.randint(200, 8000), tuple(links)


def fork_plan(seed: int) -> Plan:
    """More liars than are tolerated, fewer than could frame anybody: forks happen and must be proved."""
    rng = random.Random(f"fork {seed}")
    n = rng.choice((4, 4, 5, 7))
    powers = _powers(rng, n)
    total = sum(powers)
    plan = Plan(seed, powers, txs=3, gst_ms=8000, gap_ms=200, spread_ms=50)
    for i in rng.sample(range(n), n):
        faulty = sum(powers[j] for j in plan.liars)
        if 3 * faulty >= total or 3 * (faulty + powers[i]) > 2 * total:
            continue
        plan.liars[i] = rng.choice(("SteadyTwin", "SteadyTwin", "SteadyTwin", "Twin", "TwoVotes", "Nuller"))
    plan.liars = dict(sorted(plan.liars.items()))
    honest = [i for i in range(n) if i not in plan.liars]
    links = tuple((a, b) for a in honest for b in honest if honest.index(a) % 2 != honest.index(b) % 2)
    if rng.random() < 0.8:
        plan.cuts = ((0, 8000, links),)
    plan.storm = Weather((1, 8), loss=rng.choice((0.0, 0.05)))
    return plan


def scheme_plan(seed: int) -> Plan:
    """One schemer, one victim that alone may see a block final and whose voice is held up."""
    rng = random.Random(f"scheme {seed}")
    n = rng.choice((4, 4, 4, 7))
    plan = Plan(seed, (1,) * n, txs=2, gst_ms=9000, gap_ms=0, spread_ms=5)
    liars = rng.sample([i for i in range(n) if i != seed % n], (n - 1) // 3)
    plan.liars = {i: rng.choice(("Schemer", "Unheard")) for i in sorted(liars)}
    plan.held = ((rng.choice((0, 3, 10, 20, 60)), seed % n),)
    plan.storm = Weather((1, 30), slow=rng.choice((0.0, 0.1, 0.5)), slow_ms=1500)
    return plan


def healthy_plan(seed: int) -> Plan:
    """No liars, no loss: every height within half a second, without a time-out or a retransmission."""
    rng = random.Random(f"healthy {seed}")
    n = rng.choice((1, 2, 4, 7, 10))
    plan = Plan(seed, (1,) * n, txs=6, gap_ms=0, spread_ms=30, threads=rng.random() < 0.3)
    plan.calm = Weather((1, 40))
    plan.strict_ms = 490
    return plan


SINS_OF_MEMBERS = (
    "TwoBlocks", "TwoVotes", "Nuller", "Silent", "BadBlocks", "Replayer", "Leftover", "Forger", "Flooder",
    "Amnesiac", "Twin",
)  # fmt: skip
"""Each of these can lie while it asks for a seat, while it has one and after it was jailed."""


def ledger_plan(seed: int) -> Plan:
    """The real ledger: people come, are voted in, take their seats and leave, under fire; one may lie."""
    rng = random.Random(f"ledger {seed}")
    n = rng.choice((4, 5, 6, 7, 8))
    plan = Plan(seed, (1,) * n, txs=rng.choice((12, 30, 60)), threads=rng.random() < 0.3)
    start = rng.choice((1, 4, 4, n))
    plan.founders = tuple(sorted(rng.sample(range(n), start)))
    if start >= 4 and rng.random() < 0.7:
        # Never the founder of a quorum of one: there is nobody who could tell the others.
        plan.liars = {rng.randrange(n): rng.choice(SINS_OF_MEMBERS)}
    plan.gap_ms, plan.spread_ms = rng.choice((0, 50, 300)), rng.choice((5, 50))
    plan.gst_ms = rng.choice((0, 2000, 8000))
    plan.storm = Weather(
        (1, rng.choice((8, 60))), slow=rng.choice((0.0, 0.2)), loss=rng.choice((0.0, 0.05, 0.2)), twice=0.05
    )
    plan.calm = Weather((1, rng.choice((5, 40))))
    if plan.gst_ms:
        plan.crashes = tuple(
            (rng.randint(0, plan.gst_ms), rng.randrange(n), rng.randint(0, 12), rng.randint(10, 3000))
            for _ in range(rng.choice((0, 2, 4)))
        )
        plan.cuts = tuple(_cut(rng, n, plan.gst_ms) for _ in range(rng.choice((0, 1, 3))))
    elif start >= 4 and not plan.liars:
        backup = rng.randint(0, 800)
        plan.rollback = backup, backup + rng.randint(1, 2000), rng.choice(plan.founders)
    return plan


KINDS = {
    "any": plan_of,
    "fork": fork_plan,
    "scheme": scheme_plan,
    "healthy": healthy_plan,
    "ledger": ledger_plan,
}
