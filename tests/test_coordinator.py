"""The coordinator: trust gates, reasons decide in order, nobody with an interest reviews."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idao.quorum import coordinator
from idao.quorum.coordinator import (
    CONFLICTS,
    OUT,
    REVIEW_ROUNDS_MAX,
    REVIEW_WAIT_MS,
    STALLED_MS,
    WHY,
    Candidate,
    Interests,
    Link,
    Request,
    Validator,
    asked,
    choose,
    conflict,
    covers,
    judge,
    rounds,
)

ME = b"\0" * 32
DATA = Request("dataset", "tabular")


def who(n: int) -> bytes:
    return bytes([n]) * 32


def quorum(n: int, others: int = 0, **facts: object) -> Candidate:
    """Quorum `n`, of me and `others`, trusted with everything."""
    validators = tuple(Validator(w) for w in (ME, *(who(100 + i) for i in range(others))))
    whole = Candidate(who(n), Link(), Interests(ME), validators=validators)
    return replace(whole, **facts)


ids = st.integers(1, 6).map(who)
words = st.sampled_from(("dataset", "model", "text", "tabular", "medical"))
scopes = st.lists(words, max_size=2, unique=True).map(tuple)
links = st.none() | st.builds(Link, scopes, scopes, st.integers(1, 10_000))
people = st.lists(ids, max_size=2, unique=True).map(tuple)
candidates = st.lists(
    st.builds(
        Candidate,
        quorum=ids,
        link=links,
        interests=st.builds(Interests, st.just(ME), people, people, people, people),
        standing=st.sampled_from(("", "", "", "ended", "quarantine", "not-registered")),
        validators=st.lists(st.builds(Validator, ids | st.just(ME), st.integers(0, 3)), max_size=6).map(
            lambda found: tuple({v.idao: v for v in found}.values())
        ),
        needed=st.integers(0, 3),
        backlog=st.integers(0, 5),
        waiting=st.integers(0, 2),
        waited_ms=st.sampled_from((0, STALLED_MS - 1, STALLED_MS)),
        preferred=st.booleans(),
        beacon=st.binary(max_size=2),
    ),
    max_size=5,
    unique_by=lambda c: c.quorum,
)
requests = st.builds(Request, words, words | st.just(""), st.just(b"") | ids, st.just(b"") | ids)


@given(requests, candidates, st.randoms())
def test_the_order_of_facts_does_not_matter(request: Request, found: list[Candidate], rng: object) -> None:
    mixed = list(found)
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    assert choose(request, found) == choose(request, mixed)


@given(requests, candidates)
def test_what_is_chosen_is_trusted_in_scope_and_usable(request: Request, found: list[Candidate]) -> None:
    choice = choose(request, found)
    able = [v for v in choice.verdicts if not v.out]
    assert len(choice.verdicts) == len(found) and all(v.out in ("", *OUT) for v in choice.verdicts)
    if choice.chosen is None:
        assert not able and choice.why == ""
        return
    picked = next(c for c in found if c.quorum == choice.chosen)
    assert picked.link is not None and not covers(picked.link, request.kind, request.category)
    assert not picked.standing
    assert not request.named or choice.chosen == request.named
    assert not request.home or choice.chosen == request.home
    assert choice.verdicts[0].quorum == choice.chosen and choice.why in WHY
    assert choice.verdicts[: len(able)] == tuple(able), "what cannot be chosen comes last"


@given(requests, candidates)
def test_what_is_passed_over_does_not_matter(request: Request, found: list[Candidate]) -> None:
    able = [c for c in found if not judge(request, c).out]
    assert choose(request, able).chosen == choose(request, found).chosen


@given(candidates, st.integers(2, 9))
def test_only_the_ratio_of_weights_matters(found: list[Candidate], factor: int) -> None:
    heavier = [
        replace(c, link=replace(c.link, weight=c.link.weight * factor)) if c.link else c for c in found
    ]
    assert choose(DATA, heavier).chosen == choose(DATA, found).chosen


@given(candidates)
def test_nobody_with_an_interest_reviews(found: list[Candidate]) -> None:
    for c in found:
        verdict = judge(DATA, c)
        refused = dict(verdict.conflicts)
        interested = {ME, *c.interests.members, *c.interests.employers}
        interested |= {*c.interests.parent_owners, *c.interests.holders}
        assert {v.idao for v in c.validators} & interested == set(refused)
        assert set(verdict.reviewers) == {v.idao for v in c.validators} - interested
        assert verdict.independent == (len(verdict.reviewers) >= max(1, c.needed))
        loads = {v.idao: v.load for v in c.validators}
        order = [loads[r] for r in verdict.reviewers]
        assert order == sorted(order), "who has reviewed least is asked first"
        assert set(refused.values()) <= set(CONFLICTS)


@given(candidates, st.integers(0, 10), people)
def test_rounds_ask_each_once(found: list[Candidate], number: int, answered: tuple[bytes, ...]) -> None:
    for c in found:
        verdict = judge(DATA, c)
        everyone = [r for part in rounds(verdict) for r in part]
        assert everyone == list(verdict.reviewers)[: len(everyone)] and len(rounds(verdict)) <= 4
        now = asked(verdict, number * REVIEW_WAIT_MS, answered)
        good = sum(r in verdict.reviewers for r in answered)
        if good >= max(1, c.needed) or number >= REVIEW_ROUNDS_MAX:
            assert now is None
        else:
            assert now is not None and now == tuple(everyone[: max(1, c.needed) * (number + 1)])


# --- each reason once -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "interests, code",
    [
        (Interests(who(9)), "contributor"),
        (Interests(ME, members=(who(9),)), "member"),
        (Interests(ME, employers=(who(9),)), "employer"),
        (Interests(ME, parent_owners=(who(9),)), "parent-owner"),
        (Interests(ME, holders=(who(9),)), "holder"),
        (Interests(ME, members=(who(8),), holders=(who(7),)), None),
    ],
)
def test_each_conflict(interests: Interests, code: str | None) -> None:
    assert conflict(who(9), interests) == code


@pytest.mark.parametrize(
    "request_, facts, code",
    [
        (DATA, {}, ""),
        (replace(DATA, named=who(2)), {}, "not-named"),
        (replace(DATA, home=who(2)), {}, "other-home"),
        (DATA, {"link": None}, "not-trusted"),
        (replace(DATA, named=who(1)), {"link": None}, "not-trusted"),
        (DATA, {"link": Link(kinds=("model",))}, "kind"),
        (DATA, {"link": Link(categories=("medical",))}, "category"),
        (replace(DATA, category=""), {"link": Link(categories=("medical",))}, ""),
        (DATA, {"link": Link(("dataset",), ("medical", "tabular"))}, ""),
        (DATA, {"standing": "quarantine"}, "quarantine"),
    ],
)
def test_each_way_out(request_: Request, facts: dict[str, object], code: str) -> None:
    assert judge(request_, quorum(1, **facts)).out == code


@pytest.mark.parametrize(
    "better, worse, why",
    [
        ({"others": 1}, {"others": 2, "waiting": 1, "waited_ms": STALLED_MS}, "moving"),
        ({"others": 1}, {"others": 0, "link": Link(weight=99)}, "independent"),
        ({"others": 3, "needed": 3}, {"others": 3, "needed": 4}, "independent"),
        ({"link": Link(categories=("tabular",))}, {"link": Link(weight=99)}, "scope"),
        ({"link": Link(("dataset",), ("tabular",))}, {"link": Link(("dataset",))}, "scope"),
        ({"backlog": 18, "link": Link(weight=10)}, {"backlog": 1}, "load"),
        ({"waiting": 0}, {"waiting": 1, "waited_ms": STALLED_MS - 1, "preferred": True}, "load"),
        ({"preferred": True}, {}, "default"),
    ],
)
def test_each_reason_decides(better: dict[str, int], worse: dict[str, int], why: str) -> None:
    first, second = quorum(9, **better), quorum(1, **worse)
    assert choose(DATA, [first, second]) == choose(DATA, [second, first])
    choice = choose(DATA, [first, second])
    assert (choice.chosen, choice.why) == (first.quorum, why)


def test_last_the_id_decides_and_one_alone_needs_no_reason() -> None:
    assert choose(DATA, [quorum(2), quorum(1)]).why == "id"
    assert choose(DATA, [quorum(2), quorum(1, link=None)]).why == "only"
    assert choose(replace(DATA, named=who(2)), [quorum(2), quorum(1)]).why == "named"
    assert choose(replace(DATA, home=who(2)), [quorum(2), quorum(1)]).why == "home"
    assert choose(DATA, []).chosen is None


def test_a_weight_of_ten_takes_ten_times_as_much() -> None:
    heavy, light = quorum(1, link=Link(weight=10)), quorum(2)
    for _ in range(22):
        chosen = choose(DATA, [heavy, light]).chosen
        if chosen == heavy.quorum:
            heavy = replace(heavy, backlog=heavy.backlog + 1)
        else:
            light = replace(light, backlog=light.backlog + 1)
    assert Fraction(heavy.backlog, light.backlog) == 10


@given(st.tuples(*(st.tuples(st.integers(1, 300), st.integers(1, 10_000)) for _ in range(2))))
def test_load_by_weight_is_compared_exactly(both: tuple[tuple[int, int], ...]) -> None:
    """By its fractions, which would be load / weight."""
    close = ((9999, 9998), (10_000, 9999))  # as near as two with such weights can be
    for shares in (both, both[::-1], close, close[::-1]):
        found = [quorum(n, backlog=a - 1, link=Link(weight=b)) for n, (a, b) in enumerate(shares, 1)]
        first, second = (Fraction(a, b) for a, b in shares)
        choice = choose(DATA, found)
        assert (choice.why, choice.chosen) == (
            ("id", who(1)) if first == second else ("load", who(1 if first < second else 2))
        )


def test_the_lot_hangs_on_the_last_block() -> None:
    orders = {judge(DATA, quorum(1, 5, beacon=bytes([b]))).reviewers for b in range(40)}
    assert len(orders) > 30 and len({order[0] for order in orders}) == 5
    assert coordinator.judge(DATA, quorum(1, 5)) == coordinator.judge(DATA, quorum(1, 5))
