"""The life of a proposal: who votes, what binds, the clock, and all-or-nothing execution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from governance_world import FOUR, IDAO, OTHER, PERIOD, SECOND, THREE, World, refused, set_rule, who

from idao.crypto import canonical, merkle
from idao.crypto.keys import Signer
from idao.errors import Malformed
from idao.ledger import block, governance
from idao.ledger import idao as people
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
    CastBallot,
    Proposal,
    Propose,
    Tally,
)
from idao.ledger.idao import AddMember, Charter, Identity, Member, RemoveMember, role_of, rules_of
from idao.ledger.registry import FAMILIES
from idao.ledger.state import State
from idao.ledger.tx import Envelope, Receipt, parse_tx, sign_tx
from idao.model import Validator, ValidatorSet

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


def test_members_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.identify(2)
    world.identify(3)
    monkeypatch.setattr(people, "MEMBERS_MAX", 2)
    two, three = (("member.add", AddMember(who(n), "member", 1)) for n in (2, 3))
    world.propose(two)
    refused("too-many-members", lambda: world.propose(two, three))


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


def test_what_a_family_lets_proposals_do_they_can_do() -> None:
    """A family's ACTIONS are of use only where governance names the family."""
    offered = {name: one for family in FAMILIES for name, one in getattr(family, "ACTIONS", {}).items()}
    assert offered == governance.ACTIONS
