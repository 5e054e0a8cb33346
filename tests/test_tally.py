"""Counting and closing of votes, against brute force over all completions and a model in fractions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

import pytest
from governance_world import IDAO, PERIOD, World, who
from hypothesis import given, settings
from hypothesis import strategies as st

from idao.crypto import canonical
from idao.errors import Refused
from idao.ledger import governance
from idao.ledger.governance import (
    ABSTAIN,
    EXPIRED,
    NO,
    OPEN,
    PASSED,
    REJECTED,
    YES,
    Ballot,
    Proposal,
    Tally,
)
from idao.ledger.idao import Member
from idao.model import INT_MAX


def _proposal(threshold: int, turnout: int) -> Proposal:
    world = World(vote_threshold=threshold, vote_turnout=turnout)
    return world.get(world.propose())


def _fair(p: Proposal, t: Tally) -> bool:
    """The rule as docs/governance.md says it, in fractions."""
    cast = t.yes + t.no + t.abstain
    if cast == 0 or Fraction(cast, t.votes) < Fraction(p.turnout, 10_000):
        return False
    if t.yes <= t.no:
        return False
    return Fraction(t.yes, t.yes + t.no) >= Fraction(p.threshold, 10_000)


def _count(weights: list[int], choices: tuple[str, ...]) -> Tally:
    sums = {c: sum(w for w, x in zip(weights, choices, strict=True) if x == c) for c in (YES, NO, ABSTAIN)}
    return Tally(sums[YES], sums[NO], sums[ABSTAIN], sum(weights))


def _completions(choices: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    return itertools.product(*[(c,) if c else (YES, NO, ABSTAIN, "") for c in choices])


def _check_early_close(p: Proposal, weights: list[int]) -> None:
    for choices in itertools.product((YES, NO, ABSTAIN, ""), repeat=len(weights)):
        now = _count(weights, choices)
        assert governance.passes(p, now) == _fair(p, now)
        ends = {_fair(p, _count(weights, c)) for c in _completions(choices)}
        assert governance.decided(p, now) == (ends.pop() if len(ends) == 1 else None), choices


@pytest.mark.parametrize("threshold", [5_000, 6_666, 6_667, 7_500, 10_000])
@pytest.mark.parametrize("turnout", [0, 3_334, 5_000, 10_000])
def test_a_vote_closes_early_exactly_when_no_completion_differs(threshold: int, turnout: int) -> None:
    p = _proposal(threshold, turnout)
    for n in (1, 2, 3, 4):
        _check_early_close(p, [1] * n)


@settings(max_examples=12)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(5_000, 10_000), st.integers(0, 10_000)
)
def test_early_close_with_weights(weights: list[int], threshold: int, turnout: int) -> None:
    _check_early_close(replace(_proposal(5_000, 0), threshold=threshold, turnout=turnout), weights)


@given(
    st.lists(st.tuples(st.integers(0, INT_MAX), st.sampled_from([YES, NO, ABSTAIN, ""])), max_size=12),
    st.integers(1, 10_000),
    st.sampled_from(["person", "weighted"]),
)
def test_weights_and_cap(ballots: list[tuple[int, str]], cap: int, method: str) -> None:
    people = [(n + 2, "member", w) for n, (w, _) in enumerate(ballots)]
    world = World([(1, "owner", 0), *people], vote_method=method, vote_cap=cap)
    p = world.get(world.propose())
    for n, (_, choice) in enumerate(ballots):
        if choice:
            world.state.put(Ballot(p.proposal, who(n + 2), choice, 11))
    held = [min(w, governance.VOTES_MAX) for w, _ in ballots]
    most = max(1, int(Fraction(sum(held) * cap, 10_000)))
    votes = [1 if method == "person" else min(w, most) for w in held]
    t = governance.tally(world.state, p)
    assert t == replace(_count(votes, tuple(c for _, c in ballots)), votes=t.votes)
    assert t.votes == sum(votes) + (method == "person")
    canonical.pack(replace(p, yes=t.yes, no=t.no, abstain=t.abstain, votes=t.votes))


# --- histories against a model --------------------------------------------------------------------


class Model:
    """The same rules told another way: brute force over all completions, fractions, no index."""

    def __init__(self, world: World, p: Proposal) -> None:
        self.p, self.opened = p, p.height
        self.people = {m.member: m for m in world.state.scan(Member, IDAO)}
        self.ballots: dict[bytes, str] = {}
        self.state = OPEN

    def votes(self) -> dict[bytes, int]:
        able = {k: m for k, m in self.people.items() if m.since <= self.opened and m.role != "observer"}
        if self.p.method == "person":
            return dict.fromkeys(able, 1)
        most = max(1, sum(m.weight for m in able.values()) * self.p.cap // 10_000)
        return {k: min(m.weight, most) for k, m in able.items()}

    def _now(self) -> tuple[list[int], tuple[str, ...]]:
        votes = self.votes()
        return list(votes.values()), tuple(self.ballots.get(k, "") for k in votes)

    def settle(self) -> None:
        weights, choices = self._now()
        ends = {_fair(self.p, _count(weights, c)) for c in _completions(choices)}
        if len(ends) == 1:
            self.state = PASSED if ends.pop() else REJECTED

    def vote(self, member: bytes, choice: str, time_ms: int) -> bool:
        late = self.state != OPEN or time_ms >= self.p.ends_ms
        if late or member not in self.votes() or self.ballots.get(member) == choice:
            return False
        self.ballots[member] = choice
        self.settle()
        return True

    def end(self) -> None:
        weights, choices = self._now()
        t = _count(weights, choices)
        cast = t.yes + t.no + t.abstain
        enough = cast > 0 and Fraction(cast, t.votes) >= Fraction(self.p.turnout, 10_000)
        self.state = PASSED if _fair(self.p, t) else REJECTED if enough else EXPIRED


steps = st.one_of(
    st.tuples(st.just("vote"), st.integers(1, 6), st.sampled_from([YES, NO, ABSTAIN])),
    st.tuples(st.just("vote"), st.integers(1, 6), st.sampled_from([YES, NO, ABSTAIN])),
    st.tuples(st.just("leave"), st.integers(2, 5), st.just("")),
    st.tuples(st.just("join"), st.integers(2, 6), st.just("")),
    st.tuples(st.just("wait"), st.sampled_from([1, 30_000]), st.just("")),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["member", "observer"]), st.integers(0, 5)), max_size=3),
    st.sampled_from([5_000, 6_666, 10_000]),
    st.sampled_from([0, 5_000, 10_000]),
    st.sampled_from(["person", "weighted"]),
    st.sampled_from([2_500, 10_000]),
    st.lists(steps, max_size=12),
)
def test_histories_agree_with_the_model(
    people: list[tuple[str, int]],
    threshold: int,
    turnout: int,
    method: str,
    cap: int,
    history: list[tuple[str, int, str]],
) -> None:
    members = [(1, "owner", 2), *((n + 2, role, w) for n, (role, w) in enumerate(people))]
    world = World(
        members, vote_threshold=threshold, vote_turnout=turnout, vote_method=method, vote_cap=cap,
        vote_timelock=3600,
    )  # fmt: skip
    proposal = world.propose()
    model = Model(world, world.get(proposal))
    for act, n, choice in [*history, ("wait", PERIOD, "")]:
        before = {cls: dict(rows) for cls, rows in world.state.changes.items()}
        if act == "vote":
            accepted = model.vote(who(n), choice, world.time_ms)
            try:
                world.vote(proposal, n, choice)
                assert accepted
            except Refused:
                assert not accepted and world.state.changes == before
        elif act == "wait":
            world.next_block(n)
            if model.state == OPEN and world.time_ms >= model.p.ends_ms:
                model.end()
        else:
            world.next_block()
            if act == "leave":
                world.state.delete(Member, IDAO, who(n))
                model.people.pop(who(n), None)
            elif who(n) not in model.people:
                world.join(n)
                model.people[who(n)] = world.state.need(Member, IDAO, who(n))
            governance._recount(world.context(who(0), who(0)), IDAO)
            if model.state == OPEN:
                model.settle()
        assert world.get(proposal).state == model.state
        assert world.is_tidy()
    assert world.get(proposal).state in (PASSED, REJECTED, EXPIRED)
