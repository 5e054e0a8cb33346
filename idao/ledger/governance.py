"""Proposals and ballots: how the members of an iDAO decide, and how what they decided is carried out.

A proposal holds actions of other families (`ACTIONS`). It is bound to the charter it was made
under, and every ballot to the content it is for. While it waits it has one `Due` record, ordered by time:
the end of its vote, or of its timelock. Blocks take due steps first, in that order. The rules are
stated for people in docs/governance.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Annotated, Any

from idao.crypto import canonical
from idao.crypto.hashing import Kind, digest, hash_of
from idao.errors import Malformed, Refused
from idao.frozen import frozen, replace
from idao.ledger import assets, attest, dats, epochs, membership
from idao.ledger import idao as people
from idao.ledger.idao import MEMBERS_MAX, Charter, Member, SetRule, require, rules_of
from idao.ledger.state import State, record
from idao.ledger.tx import Context, TxKind, refuse
from idao.model import INT_MAX, BasisPoints, Hash, Id, Name, Size, Word, show_id

ACTIONS_MAX = 16
"""Actions of one proposal: what a person can read before voting, and a bound on one due step's work."""
ACTION_BYTES_MAX = 8 * 1024
"""Bytes of one action's arguments; the widest of today take under 2 KiB."""
OPEN_MAX = 64
"""Open votes of one iDAO: each change of members looks at all of them."""
OPEN_PER_MEMBER_MAX = 8
"""Open votes by one member, so that one person cannot take all the places."""
VOTES_MAX = INT_MAX // MEMBERS_MAX
"""Votes of one member, so that their sum always fits an integer of the ledger."""

YES, NO, ABSTAIN = CHOICES = ("yes", "no", "abstain")
OPEN, PASSED, EXECUTED = "open", "passed", "executed"
FAILED, REJECTED, EXPIRED = "failed", "rejected", "expired"
NO_ACTOR = bytes(32)
"""Who acts in a due step: nobody's key signs it."""

ACTIONS: dict[str, tuple[type, Any]] = {
    **people.ACTIONS,
    **assets.ACTIONS,
    **dats.ACTIONS,
    **attest.ACTIONS,
    **membership.ACTIONS,
}
"""What a passed proposal may do: name -> (body, function(context, iDAO, body))."""

# --- bodies ---------------------------------------------------------------------------------------


@frozen
class Action:
    """One thing to do if the proposal passes: a name of `ACTIONS` and its packed body."""

    name: Word
    body: Annotated[bytes, Size(1, ACTION_BYTES_MAX)]


@frozen
class Propose:
    """Opens a vote. Without actions it only records what the members think."""

    idao: Id
    title: Name
    text: Hash | None
    """Hash of a longer text that is kept elsewhere."""
    actions: Annotated[tuple[Action, ...], Size(0, ACTIONS_MAX)]
    """Carried out in this order, all or none."""
    charter: Hash
    """Of the rules in force, which the proposer has seen."""


@frozen
class CastBallot:
    proposal: Id
    content: Hash
    """Hash of the `Propose` body that the member has read."""
    choice: Word


# --- records --------------------------------------------------------------------------------------


@record("proposal", key=("proposal",))
@frozen
class Proposal:
    """A proposal, with the voting rules that hold for it to its end.

    proposal: its id, made from its content and the transaction that opened it
    idao: the iDAO that decides
    proposer: the member who made it
    title: in one line
    content: hash of the body
    body: canonical bytes of what is proposed
    height: when the vote opened; who joined later has no vote
    ends_ms: block time from which ballots are late
    method: person or weighted
    cap: basis points of all weight that one member counts at most
    threshold: basis points of yes among yes and no that it needs
    turnout: basis points of all votes that must be cast
    timelock_ms: wait between passing and execution, milliseconds
    voters: roles that vote
    state: open, passed, executed, failed, rejected or expired
    due_ms: block time of its next step; 0 when there is none
    closed_ms: block time at which the vote closed; 0 while open
    yes: votes for it when it closed
    no: votes against it when it closed
    abstain: votes cast for neither when it closed
    votes: all votes there were when it closed, cast or not
    code: why its execution failed, or empty
    """

    proposal: Id
    idao: Id
    proposer: Id
    title: Name
    content: Hash
    body: Annotated[bytes, Size(1, 65536)]
    height: int
    ends_ms: int
    method: Word
    cap: BasisPoints
    threshold: BasisPoints
    turnout: BasisPoints
    timelock_ms: int
    voters: Annotated[tuple[Word, ...], Size(1, 3)]
    state: Word
    due_ms: int
    closed_ms: int
    yes: int
    no: int
    abstain: int
    votes: int
    code: Annotated[str, Size(0, 64)]


@record("ballot", key=("proposal", "member"))
@frozen
class Ballot:
    """A member's last word on a proposal.

    proposal: what is voted on
    member: who votes
    choice: yes, no or abstain
    height: when it was cast
    """

    proposal: Id
    member: Id
    choice: Word
    height: int


@record("proposal_due", key=("at_ms", "proposal"))
@frozen
class Due:
    """The next step of a proposal, in order of time.

    at_ms: earliest block time that may take it
    proposal: the proposal that closes or is executed
    """

    at_ms: int
    proposal: Id


@record("proposal_open", key=("idao", "proposal"))
@frozen
class OpenVote:
    """An iDAO's proposals whose vote is open.

    idao: the iDAO that decides
    proposal: the proposal
    proposer: the member who made it
    """

    idao: Id
    proposal: Id
    proposer: Id


# --- counting -------------------------------------------------------------------------------------


@frozen
class Tally:
    """Votes by choice, and how many there are in all, cast or not."""

    yes: int
    no: int
    abstain: int
    votes: int

    @property
    def cast(self) -> int:
        return self.yes + self.no + self.abstain


def electorate(state: State, p: Proposal) -> dict[bytes, int]:
    """Member -> votes: who belonged to the iDAO when the vote opened, belongs to it still, and may vote."""
    members = [m for m in state.scan(Member, p.idao) if m.since <= p.height and m.role in p.voters]
    if p.method == "person":
        return {m.member: 1 for m in members}
    weights = {m.member: min(m.weight, VOTES_MAX) for m in members}
    # At least one vote, so that a low cap in a small iDAO makes members equal and not mute.
    most = max(1, sum(weights.values()) * p.cap // 10_000)
    return {member: min(weight, most) for member, weight in weights.items()}


def tally(state: State, p: Proposal) -> Tally:
    """The count as it stands, or as it stood when the vote closed."""
    if p.state != OPEN:
        return Tally(p.yes, p.no, p.abstain, p.votes)
    votes = electorate(state, p)
    counts = dict.fromkeys(CHOICES, 0)
    for ballot in state.scan(Ballot, p.proposal):
        counts[ballot.choice] += votes.get(ballot.member, 0)
    return Tally(counts[YES], counts[NO], counts[ABSTAIN], sum(votes.values()))


def _majority(p: Proposal, yes: int, no: int) -> bool:
    return yes > no and yes * 10_000 >= p.threshold * (yes + no)


def _turnout(p: Proposal, t: Tally) -> bool:
    return t.cast > 0 and t.cast * 10_000 >= p.turnout * t.votes


def passes(p: Proposal, t: Tally) -> bool:
    """Whether it passes if nobody votes any more."""
    return _turnout(p, t) and _majority(p, t.yes, t.no)


def decided(p: Proposal, t: Tally) -> bool | None:
    """True or False once it passes or fails whatever the members who have not voted do; else None."""
    left = t.votes - t.cast
    if _turnout(p, t) and _majority(p, t.yes, t.no + left):
        return True
    return None if _majority(p, t.yes + left, t.no) else False


def _close(state: State, p: Proposal, t: Tally, verdict: str, time_ms: int) -> None:
    state.delete(Due, p.due_ms, p.proposal)
    state.delete(OpenVote, p.idao, p.proposal)
    due_ms = 0
    if verdict == PASSED:
        due_ms = time_ms + p.timelock_ms
        state.put(Due(due_ms, p.proposal))
    state.put(
        replace(
            p,
            state=verdict,
            due_ms=due_ms,
            closed_ms=time_ms,
            yes=t.yes,
            no=t.no,
            abstain=t.abstain,
            votes=t.votes,
        )
    )


def _close_if_decided(state: State, p: Proposal, time_ms: int) -> None:
    t = tally(state, p)
    verdict = decided(p, t)
    if verdict is not None:
        _close(state, p, t, PASSED if verdict else REJECTED, time_ms)


# --- gov.propose ----------------------------------------------------------------------------------


def content_hash(body: Propose) -> bytes:
    """What a ballot names: equal for equal proposals."""
    return hash_of(Kind.PROPOSAL_CONTENT, body)


def proposal_id(tx: bytes, content: bytes) -> bytes:
    """Equal proposals made by different transactions have different ids."""
    return digest(Kind.PROPOSAL, canonical.encode([tx, content]))


def draft(
    state: State, idao: bytes, title: str, actions: Sequence[tuple[str, Any]], text: bytes | None = None
) -> Propose:
    """The body of a proposal under the charter in force; actions are (name, unpacked body)."""
    packed = tuple(Action(name, canonical.pack(body)) for name, body in actions)
    return Propose(idao, title, text, packed, state.need(Charter, idao).hash)


def actions_of(body: Propose) -> list[tuple[str, Any]]:
    """(name, unpacked body) each. Refuses with `unknown-action`; `Malformed` if a body is not one."""
    out: list[tuple[str, Any]] = []
    for action in body.actions:
        if action.name not in ACTIONS:
            refuse("unknown-action", f"'{action.name}' is not something a proposal can do")
        out.append((action.name, canonical.unpack(ACTIONS[action.name][0], action.body)))
    return out


def carry_out(ctx: Context, proposal: bytes, body: Propose, proposer: bytes = NO_ACTOR) -> State:
    """All actions over a new overlay of the context's state, which is left as it is.

    `proposer` sponsors what the actions give. Raises what the first failing action raises. The caller merges
    the overlay, or looks at it and drops it: that is what a proposal would change if it were executed now.
    """
    child = ctx.state.child()
    inner = replace(ctx, state=child, actor=NO_ACTOR, tx=proposal, proposer=proposer)
    for name, action in actions_of(body):
        ACTIONS[name][1](inner, body.idao, action)
    return child


def _apply_propose(ctx: Context, body: Propose) -> None:
    require(ctx, body.idao, "propose")
    if ctx.state.need(Charter, body.idao).hash != body.charter:
        refuse("charter-changed", "the charter is not the one this proposal was made under")
    waiting = list(ctx.state.scan(OpenVote, body.idao))
    if len(waiting) >= OPEN_MAX:
        refuse("too-many-open", f"an iDAO has at most {OPEN_MAX} open votes")
    if sum(1 for o in waiting if o.proposer == ctx.actor) >= OPEN_PER_MEMBER_MAX:
        refuse("too-many-open", f"a member has at most {OPEN_PER_MEMBER_MAX} open votes")
    content = content_hash(body)
    proposal = proposal_id(ctx.tx, content)
    carry_out(ctx, proposal, body, ctx.actor)  # what would fail now is refused now, not after the vote
    rules = rules_of(ctx.state, body.idao)
    ends_ms = ctx.time_ms + 1000 * rules["vote.period"]
    others = tuple(r for r in ("member", "observer") if rules[f"role.{r}.vote"] == "allow")
    ctx.state.put(
        Proposal(
            proposal=proposal,
            idao=body.idao,
            proposer=ctx.actor,
            title=body.title,
            content=content,
            body=canonical.pack(body),
            height=ctx.height,
            ends_ms=ends_ms,
            method=rules["vote.method"],
            cap=rules["vote.cap"],
            threshold=rules["vote.threshold"],
            turnout=rules["vote.turnout"],
            timelock_ms=1000 * rules["vote.timelock"],
            voters=("owner", *others),
            state=OPEN,
            due_ms=ends_ms,
            closed_ms=0,
            yes=0,
            no=0,
            abstain=0,
            votes=0,
            code="",
        )
    )
    ctx.state.put(Due(ends_ms, proposal))
    ctx.state.put(OpenVote(body.idao, proposal, ctx.actor))


# --- gov.vote -------------------------------------------------------------------------------------


def _require_voter(ctx: Context, p: Proposal) -> None:
    member = ctx.state.get(Member, p.idao, ctx.actor)
    if member is None:
        refuse("not-a-member", "the signer is not a member of the iDAO")
    if member.since > p.height:
        refuse("joined-later", "the signer joined after the vote had opened")
    if member.role not in p.voters:
        refuse("role", f"the role '{member.role}' may not vote")


def _apply_vote(ctx: Context, body: CastBallot) -> None:
    p = ctx.state.get(Proposal, body.proposal)
    if p is None:
        refuse("unknown-proposal", "no such proposal on this ledger")
    if body.content != p.content:
        refuse("content-mismatch", "the ballot is for another content than this proposal's")
    if body.choice not in CHOICES:
        refuse("unknown-choice", "a ballot says yes, no or abstain")
    _require_voter(ctx, p)
    if p.state != OPEN or ctx.time_ms >= p.ends_ms:
        refuse("late", "the vote is closed")
    before = ctx.state.get(Ballot, p.proposal, ctx.actor)
    if before is not None and before.choice == body.choice:
        refuse("already-voted", f"the signer's ballot says {body.choice} already")
    ctx.state.put(Ballot(p.proposal, ctx.actor, body.choice, ctx.height))
    _close_if_decided(ctx.state, p, ctx.time_ms)


# --- due steps ------------------------------------------------------------------------------------


def due(state: State, time_ms: int) -> list[bytes]:
    """Proposals whose next step a block of this time must take, in order."""
    return [d.proposal for d in takewhile(lambda d: d.at_ms <= time_ms, state.scan(Due))]


def next_due(state: State) -> int | None:
    """Earliest block time (ms) at which something is due; None if nothing waits."""
    first = next(iter(state.scan(Due)), None)
    return None if first is None else first.at_ms


def run_due(ctx: Context, proposal: bytes) -> tuple[bytes, str, str]:
    """Takes one due step: closes a vote whose time is over, or executes what has passed.

    Returns (iDAO, code, reason) for the receipt; code and reason are empty unless the execution failed,
    in which case nothing but the proposal's own records has changed.
    """
    p = ctx.state.need(Proposal, proposal)
    if not p.due_ms or p.due_ms > ctx.time_ms:
        return p.idao, "", ""  # an earlier step of this block has closed the vote
    if p.state == OPEN:
        t = tally(ctx.state, p)
        verdict = PASSED if passes(p, t) else REJECTED if _turnout(p, t) else EXPIRED
        _close(ctx.state, p, t, verdict, ctx.time_ms)
        return p.idao, "", ""
    code, reason = "", ""
    ctx.state.delete(Due, p.due_ms, proposal)
    try:
        done = carry_out(ctx, proposal, canonical.unpack(Propose, p.body), p.proposer)
    except (Refused, Malformed) as e:
        code, reason = e.code, e.message
        if code == "set-busy" and epochs.is_busy(ctx.state, ctx.height):
            # By an earlier step of this block, not by this proposal itself: the next block is free for it.
            later = replace(p, due_ms=ctx.time_ms + 1)
            ctx.state.put(later)
            ctx.state.put(Due(later.due_ms, proposal))
            return p.idao, code, reason
    else:
        ctx.state.merge(done)
        if Member in done.changes:
            _recount(ctx, p.idao)
    ctx.state.put(replace(p, state=FAILED if code else EXECUTED, due_ms=0, code=code))
    return p.idao, code, reason


def _recount(ctx: Context, idao: bytes) -> None:
    """Members have changed: a vote that this decides closes now, not only with the next ballot."""
    for waiting in list(ctx.state.scan(OpenVote, idao)):
        _close_if_decided(ctx.state, ctx.state.need(Proposal, waiting.proposal), ctx.time_ms)


# --- as it is shown -------------------------------------------------------------------------------


def show(state: State, p: Proposal) -> dict[str, Any]:
    """A proposal in plain values: ids in full text, times in ms UTC, shares in basis points."""
    t = tally(state, p)
    body = canonical.unpack(Propose, p.body)
    return {
        "proposal": show_id("proposal", p.proposal),
        "idao": show_id("idao", p.idao),
        "proposer": show_id("idao", p.proposer),
        "title": p.title,
        "content": p.content.hex(),
        "text": body.text.hex() if body.text else None,
        "actions": [{"action": name, **_plain(action)} for name, action in actions_of(body)],
        "state": p.state,
        "code": p.code,
        "tally": {YES: t.yes, NO: t.no, ABSTAIN: t.abstain},
        "votes": t.votes,
        "rules": {
            "method": p.method,
            "cap": p.cap,
            "threshold": p.threshold,
            "turnout": p.turnout,
            "timelock_ms": p.timelock_ms,
        },
        "height": p.height,
        "ends_ms": p.ends_ms,
        "closed_ms": p.closed_ms,
        "due_ms": p.due_ms,
        "ballots": [
            {"member": show_id("idao", b.member), "choice": b.choice} for b in state.scan(Ballot, p.proposal)
        ],
    }


def _plain(action: Any) -> dict[str, Any]:
    if isinstance(action, SetRule):
        return {"rule": action.rule, "value": canonical.decode(action.value)}
    plain = canonical.to_plain(action)
    return {k: v.hex() if isinstance(v, bytes) else v for k, v in plain.items()}


RECORDS = (Proposal, Ballot, Due, OpenVote)
KINDS = (
    TxKind("gov.propose", Propose, _apply_propose),
    TxKind("gov.vote", CastBallot, _apply_vote),
)
