"""Governance: counting against an independent model, binding, the clock, and all-or-nothing execution."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idao.crypto import canonical, merkle
from idao.crypto.keys import Signer
from idao.errors import Malformed, Refused
from idao.ledger import block, charter, governance
from idao.ledger.governance import (
    ABSTAIN,
    EXECUTED,
    EXPIRED,
    FAILED,
    NO,
    OPEN,
    PASSED,
    REJECTED,
    YES,
    Action,
    Ballot,
    CastBallot,
    Due,
    OpenVote,
    Proposal,
    Propose,
    Tally,
)
from idao.ledger.idao import (
    AddMember,
    Charter,
    Identity,
    Member,
    RemoveMember,
    SetRule,
    charter_hash,
    role_of,
    rules_of,
)
from idao.ledger.state import DictBase, State
from idao.ledger.tx import Context, Envelope, Receipt, parse_tx, sign_tx
from idao.model import INT_MAX, Validator, ValidatorSet

SECOND = 1000
PERIOD = 100 * SECOND


def who(n: int) -> bytes:
    return bytes([n]) * 32


IDAO = who(1)
OTHER = who(200)


class World:
    """One iDAO on a ledger of its own: blocks a second apart, a transaction or a due step at a time."""

    def __init__(self, members: Iterable[tuple[int, str, int]] = ((1, "owner", 1),), **rules: Any) -> None:
        self.base = DictBase()
        self.state = State(self.base)
        self.height, self.time_ms, self.txs = 10, 1_000_000, 0
        self.charter = {**charter.defaults(), "vote.period": PERIOD // SECOND}
        self.charter.update({key.replace("_", ".", 1).replace("_", "-"): v for key, v in rules.items()})
        data = charter.encode(self.charter)
        self.state.put(Charter(IDAO, 1, charter_hash(data), data))
        for n, role, weight in members:
            self.join(n, role, weight, since=0)

    def join(self, n: int, role: str = "member", weight: int = 1, since: int | None = None) -> None:
        self.identify(n)
        self.state.put(Member(IDAO, who(n), role, weight, self.height if since is None else since))

    def identify(self, n: int) -> None:
        self.state.put(Identity(who(n), who(n), 0, who(n), who(n), 0, 0))

    def context(self, actor: bytes, tx: bytes) -> Context:
        return Context(self.state, who(99), self.height, self.time_ms, actor, tx, 1, (IDAO,), IDAO)

    def next_block(self, wait_ms: int = SECOND) -> list[tuple[bytes, str]]:
        """Begins a block and takes its due steps: (proposal, code) each."""
        self.height += 1
        self.time_ms += wait_ms
        ran = []
        for proposal in governance.due(self.state, self.time_ms):
            child = self.state.child()
            ctx = replace(self.context(governance.NO_ACTOR, proposal), state=child)
            idao, code, _ = governance.run_due(ctx, proposal)
            assert idao == IDAO
            self.state.merge(child)
            ran.append((proposal, code))
        return ran

    def _apply(self, apply: Callable[[Context, Any], None], actor: bytes, body: Any) -> bytes:
        self.txs += 1
        tx = self.txs.to_bytes(32, "big")
        child = self.state.child()
        apply(replace(self.context(actor, tx), state=child), body)
        self.state.merge(child)
        return tx

    def propose_body(self, body: Propose, by: int = 1) -> bytes:
        tx = self._apply(governance.KINDS[0].apply, who(by), body)
        return governance.proposal_id(tx, governance.content_hash(body))

    def propose(self, *actions: tuple[str, Any], by: int = 1, title: str = "a title") -> bytes:
        return self.propose_body(governance.draft(self.state, IDAO, title, actions), by)

    def vote(self, proposal: bytes, n: int, choice: str, content: bytes | None = None) -> None:
        body = CastBallot(proposal, content or self.get(proposal).content, choice)
        self._apply(governance.KINDS[1].apply, who(n), body)

    def get(self, proposal: bytes) -> Proposal:
        return self.state.need(Proposal, proposal)

    def is_tidy(self) -> bool:
        """Due and open records stand for exactly the proposals that wait and that are open."""
        all_of = list(self.state.scan(Proposal))
        waiting = sorted((p.due_ms, p.proposal) for p in all_of if p.state in (OPEN, PASSED))
        opened = sorted(p.proposal for p in all_of if p.state == OPEN)
        return (
            waiting == [(d.at_ms, d.proposal) for d in self.state.scan(Due)]
            and opened == [o.proposal for o in self.state.scan(OpenVote)]
            and all(p.due_ms == 0 for p in all_of if p.state not in (OPEN, PASSED))
        )


def set_rule(key: str, value: int | str) -> tuple[str, SetRule]:
    return "charter.set", SetRule(key, canonical.encode(value))


def refused(code: str, act: Callable[[], object]) -> None:
    with pytest.raises(Refused) as e:
        act()
    assert e.value.code == code


THREE = ((1, "owner", 1), (2, "member", 1), (3, "member", 1))
FOUR = (*THREE, (4, "member", 1))


# --- counting -------------------------------------------------------------------------------------


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


# --- the life of a proposal -----------------------------------------------------------------------


def test_alone_one_ballot_decides_and_the_next_block_carries_out() -> None:
    world = World()
    proposal = world.propose(set_rule("policy.derive", "allow"))
    assert world.get(proposal).state == OPEN and governance.due(world.state, world.time_ms) == []
    world.vote(proposal, 1, YES)
    assert world.get(proposal).state == PASSED
    assert rules_of(world.state, IDAO)["policy.derive"] == "policy"
    assert governance.due(world.state, world.time_ms + 1) == [proposal]
    assert world.next_block() == [(proposal, "")]
    assert world.get(proposal).state == EXECUTED
    assert rules_of(world.state, IDAO)["policy.derive"] == "allow"
    assert world.state.need(Charter, IDAO).version == 2
    assert world.next_block(10 * PERIOD) == [] and governance.next_due(world.state) is None
    assert world.is_tidy()


def test_a_tie_is_rejected() -> None:
    world = World(((1, "owner", 1), (2, "member", 1)))
    proposal = world.propose()
    world.vote(proposal, 1, YES)
    assert world.get(proposal).state == OPEN
    world.vote(proposal, 2, NO)
    assert world.get(proposal).state == REJECTED


def test_abstain_counts_in_turnout_only() -> None:
    world = World(FOUR, vote_turnout=10_000)
    proposal = world.propose()
    for n in (2, 3, 4):
        world.vote(proposal, n, ABSTAIN)
    assert world.get(proposal).state == OPEN
    world.vote(proposal, 1, YES)
    p = world.get(proposal)
    assert (p.state, p.yes, p.no, p.abstain, p.votes) == (PASSED, 1, 0, 3, 4)


@pytest.mark.parametrize(
    ("turnout", "ballots", "state"),
    [
        (5_000, "", EXPIRED),
        (0, "", EXPIRED),
        (0, "y", PASSED),
        (5_000, "y", EXPIRED),
        (2_500, "y", PASSED),
        (5_000, "ya", PASSED),
        (5_000, "na", REJECTED),
        (5_000, "yn", REJECTED),
        (10_000, "yyy", EXPIRED),
    ],
)
def test_how_a_vote_ends_with_its_time(turnout: int, ballots: str, state: str) -> None:
    world = World(FOUR, vote_turnout=turnout, vote_timelock=1)
    proposal = world.propose()
    for n, letter in enumerate(ballots, 1):
        world.vote(proposal, n, {"y": YES, "n": NO, "a": ABSTAIN}[letter])
    assert world.next_block(PERIOD - 1) == []
    assert world.get(proposal).state == OPEN
    assert world.next_block(1) == [(proposal, "")]
    assert world.get(proposal).state == state
    assert world.is_tidy()


def test_a_timelock_counts_from_the_close() -> None:
    world = World(vote_timelock=60)
    proposal = world.propose(set_rule("economy.base", 7))
    world.next_block(5 * SECOND)
    world.vote(proposal, 1, YES)
    assert governance.next_due(world.state) == world.time_ms + 60 * SECOND
    assert world.next_block(60 * SECOND - 1) == []
    assert world.get(proposal).state == PASSED
    assert world.next_block(1) == [(proposal, "")]
    assert world.get(proposal).state == EXECUTED
    assert rules_of(world.state, IDAO)["economy.base"] == 7


def test_execution_is_all_or_nothing() -> None:
    world = World(vote_timelock=60)
    for n in (2, 3):
        world.identify(n)
    first = ("member.add", AddMember(who(2), "member", 1))
    both = world.propose(set_rule("economy.base", 7), ("member.add", AddMember(who(3), "member", 1)), first)
    alone = world.propose(first)
    world.vote(alone, 1, YES)
    world.next_block()
    world.vote(both, 1, YES)
    assert world.next_block(60 * SECOND) == [(alone, ""), (both, "already-member")]
    p = world.get(both)
    assert (p.state, p.code) == (FAILED, "already-member")
    assert world.get(alone).state == EXECUTED
    assert role_of(world.state, IDAO, who(3)) is None
    assert rules_of(world.state, IDAO)["economy.base"] == 1_000
    assert world.state.need(Charter, IDAO).version == 1
    assert world.is_tidy()


def test_a_proposal_without_actions_records_an_opinion() -> None:
    world = World()
    proposal = world.propose(title="we like this")
    world.vote(proposal, 1, YES)
    world.next_block()
    assert world.get(proposal).state == EXECUTED


def test_steps_are_due_in_order_of_time_for_every_idao() -> None:
    world = World(vote_timelock=60)
    late, early = world.propose(title="late"), world.propose(title="early")
    world.vote(early, 1, YES)
    world.next_block()
    world.vote(late, 1, YES)
    assert governance.due(world.state, world.time_ms + 59 * SECOND) == [early]
    assert governance.due(world.state, world.time_ms + 60 * SECOND) == [early, late]


# --- who votes ------------------------------------------------------------------------------------


def test_who_may_not_vote() -> None:
    world = World((*THREE, (5, "observer", 1)))
    world.identify(6)
    proposal = world.propose()
    world.next_block()
    world.join(4)
    refused("not-a-member", lambda: world.vote(proposal, 6, YES))
    refused("role", lambda: world.vote(proposal, 5, YES))
    refused("joined-later", lambda: world.vote(proposal, 4, YES))
    refused("unknown-proposal", lambda: world.vote(who(9), 1, YES, who(9)))
    refused("unknown-choice", lambda: world.vote(proposal, 1, "maybe"))
    assert governance.tally(world.state, world.get(proposal)) == Tally(0, 0, 0, 3)


def test_minds_change_until_the_close_and_not_after() -> None:
    world = World(THREE)
    proposal = world.propose()
    world.vote(proposal, 2, NO)
    refused("already-voted", lambda: world.vote(proposal, 2, NO))
    world.vote(proposal, 2, ABSTAIN)
    world.vote(proposal, 2, YES)
    assert governance.tally(world.state, world.get(proposal)) == Tally(1, 0, 0, 3)
    world.vote(proposal, 1, YES)
    assert world.get(proposal).state == PASSED
    refused("late", lambda: world.vote(proposal, 2, NO))
    refused("late", lambda: world.vote(proposal, 3, NO))


def test_a_ballot_after_the_period_is_late_even_before_the_vote_is_closed() -> None:
    world = World(THREE)
    proposal = world.propose()
    world.time_ms += PERIOD  # a block whose due steps left this one to the next
    assert world.get(proposal).state == OPEN
    refused("late", lambda: world.vote(proposal, 1, YES))


def test_a_member_who_leaves_takes_ballot_and_vote_along() -> None:
    world = World(FOUR)
    out = world.propose(("member.remove", RemoveMember(who(4))))
    asked = world.propose()
    world.vote(asked, 1, YES)
    world.vote(asked, 4, NO)
    world.vote(asked, 2, YES)
    assert world.get(asked).state == OPEN
    for n in (1, 2, 3):
        world.vote(out, n, YES)
    world.next_block()
    # Two of three say yes now; nobody has to vote again for the vote to close.
    p = world.get(asked)
    assert (p.state, p.yes, p.no, p.votes) == (PASSED, 2, 0, 3)
    assert world.is_tidy()
    world.state.delete(Member, IDAO, who(2))
    assert governance.tally(world.state, p) == Tally(2, 0, 0, 3)  # what counted at the close stays


def test_who_comes_back_has_joined_later() -> None:
    world = World(FOUR)
    proposal = world.propose()
    world.vote(proposal, 4, NO)
    world.next_block()
    world.state.delete(Member, IDAO, who(4))
    world.join(4)
    refused("joined-later", lambda: world.vote(proposal, 4, YES))
    assert governance.tally(world.state, world.get(proposal)) == Tally(0, 0, 0, 3)


def test_with_nobody_left_to_vote_a_vote_expires() -> None:
    world = World()
    proposal = world.propose()
    world.next_block()
    world.join(2, "owner")
    world.state.delete(Member, IDAO, who(1))
    assert governance.tally(world.state, world.get(proposal)) == Tally(0, 0, 0, 0)
    world.next_block(PERIOD)
    assert world.get(proposal).state == EXPIRED


def test_a_vote_decided_by_an_earlier_step_of_the_block_keeps_its_timelock() -> None:
    world = World(FOUR, vote_timelock=50)
    out = world.propose(("member.remove", RemoveMember(who(4))))
    world.next_block(50 * SECOND - SECOND)
    asked = world.propose(set_rule("economy.base", 7))
    for n in (1, 2):
        world.vote(asked, n, YES)
    for n in (1, 2, 3):
        world.vote(out, n, YES)
    # The removal comes first in the block in which the other vote's period ends too.
    ran = world.next_block(PERIOD)
    assert [proposal for proposal, _ in ran] == [out, asked]
    p = world.get(asked)
    assert (p.state, p.due_ms) == (PASSED, world.time_ms + 50 * SECOND)
    assert rules_of(world.state, IDAO)["economy.base"] == 1_000


# --- binding --------------------------------------------------------------------------------------


def test_a_ballot_is_for_the_content_it_names() -> None:
    world = World()
    one, other = world.propose(title="one"), world.propose(title="other")
    content = world.get(other).content
    refused("content-mismatch", lambda: world.vote(one, 1, YES, content))
    world.vote(other, 1, YES, content)


def test_equal_proposals_differ_in_id_only() -> None:
    world = World()
    one, other = world.propose(), world.propose()
    assert one != other and world.get(one).content == world.get(other).content


def test_every_field_changes_the_content() -> None:
    body = Propose(IDAO, "t", None, (Action("charter.set", b"\x01"),), who(3))
    others = [
        replace(body, idao=who(2)),
        replace(body, title="u"),
        replace(body, text=who(0)),
        replace(body, actions=()),
        replace(body, actions=(Action("member.add", b"\x01"),)),
        replace(body, actions=(Action("charter.set", b"\x02"),)),
        replace(body, charter=who(4)),
    ]
    assert len({governance.content_hash(b) for b in (body, *others)}) == 8


def test_a_proposal_is_bound_to_its_charter() -> None:
    world = World(THREE)
    stale = governance.draft(world.state, IDAO, "stale", [])
    change = world.propose(set_rule("vote.threshold", 10_000), set_rule("role.member.vote", "deny"))
    before = world.propose(title="under the old rules")
    for n in (1, 2):
        world.vote(change, n, YES)
    world.next_block()
    refused("charter-changed", lambda: world.propose_body(stale))
    world.vote(before, 2, YES)
    world.vote(before, 3, YES)
    assert world.get(before).state == PASSED
    after = world.propose(title="under the new rules")
    refused("role", lambda: world.vote(after, 2, YES))
    assert world.get(after).threshold == 10_000


# --- what may be proposed -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (set_rule("vote.luck", 1), "unknown-rule"),
        (set_rule("vote.threshold", 1), "bad-value"),
        (("member.add", AddMember(who(77), "member", 1)), "unknown-idao"),
        (("member.add", AddMember(who(2), "king", 1)), "unknown-role"),
        (("member.remove", RemoveMember(who(77))), "not-a-member"),
        (("member.remove", RemoveMember(IDAO)), "last-owner"),
        (("ledger.reset", RemoveMember(IDAO)), "unknown-action"),
    ],
)
def test_what_would_fail_now_is_refused_now(action: tuple[str, Any], code: str) -> None:
    world = World()
    world.identify(2)
    refused(code, lambda: world.propose(action))
    assert not list(world.state.scan(Proposal)) and world.is_tidy()


def test_malformed_actions_are_refused() -> None:
    world = World()
    body = governance.draft(world.state, IDAO, "t", [])
    for data in (b"\xa0", b"\xff", canonical.pack(RemoveMember(IDAO)) + b"\x00"):
        with pytest.raises(Malformed):
            world.propose_body(replace(body, actions=(Action("member.remove", data),)))


def test_who_may_propose() -> None:
    world = World((*THREE, (4, "observer", 1)))
    world.propose(by=2)
    refused("role", lambda: world.propose(by=4))
    refused("not-a-member", lambda: world.propose(by=5))
    foreign = replace(governance.draft(world.state, IDAO, "t", []), idao=OTHER)
    refused("not-a-member", lambda: world.propose_body(foreign))


def test_open_votes_are_limited_and_closing_frees_a_place() -> None:
    members = [(n, "owner", 1) for n in range(1, 10)]
    world = World(members, vote_turnout=0)
    for by in range(1, 9):
        made = [world.propose(by=by) for _ in range(governance.OPEN_PER_MEMBER_MAX)]
    refused("too-many-open", lambda: world.propose(by=9))
    for n in range(1, 6):
        world.vote(made[0], n, NO)
    assert world.get(made[0]).state == REJECTED
    refused("too-many-open", lambda: world.propose(by=2))
    world.propose(by=9)


def test_a_preview_changes_nothing() -> None:
    world = World()
    body = governance.draft(world.state, IDAO, "t", [set_rule("economy.base", 7)])
    preview = governance.carry_out(world.context(IDAO, who(0)), who(0), body)
    assert rules_of(preview, IDAO)["economy.base"] == 7
    assert rules_of(world.state, IDAO)["economy.base"] == 1_000


def test_a_proposal_is_shown_in_plain_values() -> None:
    world = World(THREE)
    proposal = world.propose(set_rule("economy.base", 7), ("member.remove", RemoveMember(who(3))))
    world.vote(proposal, 2, NO)
    shown = governance.show(world.state, world.get(proposal))
    assert shown["tally"] == {"yes": 0, "no": 1, "abstain": 0} and shown["votes"] == 3
    assert shown["actions"] == [
        {"action": "charter.set", "rule": "economy.base", "value": 7},
        {"action": "member.remove", "member": who(3).hex()},
    ]
    assert [b["choice"] for b in shown["ballots"]] == ["no"]


# --- in blocks ------------------------------------------------------------------------------------


def test_blocks_take_due_steps_first_and_leave_receipts() -> None:
    world = World()
    signer = Signer(bytes(range(32)))
    world.state.put(replace(world.state.need(Identity, IDAO), key=signer.public))
    world.base.write(world.state.changes)
    chain = block.Chain(who(99), IDAO)
    validators = ValidatorSet((Validator(IDAO, who(98), 1),))
    tip = block.Tip(0, bytes(32), 1_000, merkle.Frontier(merkle.LOG), world.base, {}, None)

    def run(*bodies: tuple[str, Any]) -> list[Receipt]:
        nonlocal tip
        time_ms, txs = tip.time_ms + SECOND, []
        for seq, (kind, body) in enumerate(bodies, 1):
            envelope = Envelope(
                1, who(99), IDAO, signer.public, 0, time_ms + seq, time_ms, kind, 1, canonical.pack(body)
            )
            txs.append(parse_tx(sign_tx(signer, envelope)))
        done = block.execute(tip, chain, validators, time_ms, txs)
        world.base.write(done.state.changes)
        tip = replace(tip, height=tip.height + 1, time_ms=time_ms, frontier=done.frontier)
        return done.receipts

    state = State(world.base)
    (made,) = run(("gov.propose", governance.draft(state, IDAO, "t", [set_rule("policy.derive", "allow")])))
    (p,) = state.scan(Proposal)
    assert made.ok and p.proposal == governance.proposal_id(made.tx, p.content)
    wrong, cast = run(
        ("gov.vote", CastBallot(p.proposal, who(0), YES)),
        ("gov.vote", CastBallot(p.proposal, p.content, YES)),
    )
    assert (wrong.code, wrong.ok, cast.ok) == ("content-mismatch", False, True)
    (done,) = run()
    assert (done.origin, done.tx, done.idao, done.ok) == ("due", p.proposal, IDAO, True)
    assert {c.table for c in done.changed} == {"charter", "proposal", "proposal_due"}
    assert rules_of(state, IDAO)["policy.derive"] == "allow"
    assert run() == []
