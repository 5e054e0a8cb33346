"""The coordinator (VSC): which quorum takes a contribution in, who is to review it, and why (ADR 0039).

Values in, values out: the same facts give the same choice, reasons included. What counts is trust (an
explicit link whose scope covers kind and category), then whether people without a conflict of interest can
review, then how closely the link's scope fits, then load by weight.
"""

from __future__ import annotations

from collections.abc import Sequence

from idao.crypto.hashing import Kind, digest
from idao.frozen import frozen

STALLED_MS = 120_000
"""A quorum where a transaction of ours waits this long stands still: four views at their cap of 30 s (R1).
It is passed over while another one will do, since a contribution signed for one is never sent to a second."""
REVIEW_WAIT_MS = 600_000
"""What a reviewer has to answer before the next ones are asked as well: assessing 10 GB at the 30 MB/s of a
slow disk takes six minutes."""
REVIEW_ROUNDS_MAX = 4
"""Rounds of asking; after the last, 40 minutes, whoever is able to answer has been asked long enough and
the version stays unreviewed until it is contributed or asked for again."""
PARTS = 2**64
"""In which load by weight is compared. Two that differ at all differ by more than one part: by a part of the
weights' product, and a weight has four digits. `fractions` would load `decimal` before anything is read."""
UNKNOWN = ""
"""The category while nobody has read the contents: every scope may still cover it."""

OUT = {
    "not-named": "another quorum was named",
    "other-home": "the asset is at home in another quorum",
    "not-trusted": "no trust link to it",
    "kind": "the trust link does not cover this kind of asset",
    "category": "the trust link does not cover this category of data",
    "not-here": "this home holds no ledger of it",
    "ended": "its ledger has ended; another continues it",
    "quarantine": "its ledger was copied or moved here",
    "not-registered": "this iDAO is not registered on its ledger",
    "parent-elsewhere": "a parent is not on its ledger",
}
"""Why a quorum cannot be chosen: code and words, in the order in which they are looked for."""
CONFLICTS = {
    "contributor": "is the contributor",
    "member": "is a member of the contributor's iDAO",
    "employer": "has the contributor as a member",
    "parent-owner": "owns a parent of the asset",
    "holder": "owns a class of the asset or of a parent, or holds a DAT in one",
}
"""Why a validator must not review: code and words, in the order in which they are looked for."""


@frozen
class Request:
    """What is to be taken in. Empty: `category` not known yet, `home` a new asset, `named` no --quorum."""

    kind: str
    category: str
    home: bytes = b""
    named: bytes = b""


@frozen
class Link:
    """The scope of a trust link; an empty tuple means all."""

    kinds: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    weight: int = 1


@frozen
class Interests:
    """iDAOs that gain or lose by a review's outcome."""

    contributor: bytes
    members: tuple[bytes, ...] = ()
    employers: tuple[bytes, ...] = ()
    parent_owners: tuple[bytes, ...] = ()
    holders: tuple[bytes, ...] = ()


@frozen
class Validator:
    """One that could review, and how many of the newest reviews are its own."""

    idao: bytes
    load: int = 0


@frozen
class Candidate:
    """What this home knows of one quorum.

    link: the trust in it, if any
    standing: '' if it can be used, else a code of `OUT`
    validators: of its next block
    needed: independent reviews that its charter asks for
    backlog: newest versions on its ledger that nobody has reviewed
    waiting, waited_ms: our transactions that it has not taken, and the age of the oldest
    preferred: whether it is this home's default
    beacon: hash of its last block, from which the order of reviewers is drawn
    """

    quorum: bytes
    link: Link | None
    interests: Interests
    standing: str = ""
    validators: tuple[Validator, ...] = ()
    needed: int = 1
    backlog: int = 0
    waiting: int = 0
    waited_ms: int = 0
    preferred: bool = False
    beacon: bytes = b""


@frozen
class Verdict:
    """What the rules say of one quorum. `out` is empty when it may be chosen."""

    quorum: bytes
    out: str
    stalled: bool
    reviewers: tuple[bytes, ...]
    """Without a conflict, in the order in which they are asked."""
    conflicts: tuple[tuple[bytes, str], ...]
    needed: int
    scope: int
    """How many of kind and category the link names rather than leaves open."""
    load: int
    """What waits for its people, and this."""
    weight: int
    """By which its load is divided."""
    preferred: bool

    @property
    def independent(self) -> bool:
        """Whether enough validators without a conflict are there to verify the asset."""
        return len(self.reviewers) >= max(1, self.needed)


@frozen
class Choice:
    """The verdict on every quorum looked at, the chosen one first, and why it was chosen."""

    chosen: bytes | None
    why: str
    verdicts: tuple[Verdict, ...]


WHY = {
    "named": "it was named",
    "home": "the asset is at home there",
    "only": "no other quorum may be chosen",
    "moving": "the others stand still",
    "independent": "validators without a conflict of interest can review there",
    "scope": "its trust link names this kind or category",
    "load": "it has the least load by weight",
    "default": "it is this home's default",
    "id": "nothing else tells them apart, and its id comes first",
}
"""Why the first of several was chosen: the first of the keys below in which the second is worse."""


def conflict(validator: bytes, interests: Interests) -> str | None:
    """The code of `CONFLICTS` that keeps a validator from reviewing, or None."""
    for code, who in (
        ("contributor", (interests.contributor,)),
        ("member", interests.members),
        ("employer", interests.employers),
        ("parent-owner", interests.parent_owners),
        ("holder", interests.holders),
    ):
        if validator in who:
            return code
    return None


def covers(link: Link, kind: str, category: str) -> str:
    """'' when the scope covers kind and category, else 'kind' or 'category'."""
    if link.kinds and kind not in link.kinds:
        return "kind"
    if link.categories and category not in (UNKNOWN, *link.categories):
        return "category"
    return ""


def judge(request: Request, candidate: Candidate) -> Verdict:
    """The rules on one quorum."""
    conflicts = [(v, conflict(v.idao, candidate.interests)) for v in candidate.validators]
    free = [v for v, code in conflicts if code is None]
    link = candidate.link
    return Verdict(
        quorum=candidate.quorum,
        out=_out(request, candidate),
        stalled=candidate.waiting > 0 and candidate.waited_ms >= STALLED_MS,
        reviewers=tuple(v.idao for v in sorted(free, key=lambda v: (v.load, _lot(candidate, v.idao)))),
        conflicts=tuple((v.idao, code) for v, code in conflicts if code is not None),
        needed=candidate.needed,
        scope=0 if link is None else _named(link, request),
        load=candidate.backlog + candidate.waiting + 1,
        weight=link.weight if link else 1,
        preferred=candidate.preferred,
    )


def _out(request: Request, candidate: Candidate) -> str:
    if request.named and candidate.quorum != request.named:
        return "not-named"
    if request.home and candidate.quorum != request.home:
        return "other-home"
    if candidate.link is None:
        return "not-trusted"
    return covers(candidate.link, request.kind, request.category) or candidate.standing


def _named(link: Link, request: Request) -> int:
    return bool(link.kinds) + bool(link.categories and request.category in link.categories)


def _lot(candidate: Candidate, reviewer: bytes) -> bytes:
    """Its place among equals, drawn anew with every block: nobody can be sure of a friend."""
    parts = candidate.quorum + candidate.beacon + candidate.interests.contributor + reviewer
    return digest(Kind.REVIEWER_LOT, parts)


def choose(request: Request, candidates: Sequence[Candidate]) -> Choice:
    """The best quorum that may be chosen, and what was found of each. No two candidates are one quorum."""
    verdicts = sorted((judge(request, c) for c in candidates), key=_rank)
    able = [v for v in verdicts if not v.out]
    if not able:
        return Choice(None, "", tuple(verdicts))
    if request.named or request.home:
        why = "named" if request.named else "home"
    else:
        why = "only" if len(able) == 1 else _difference(able[0], able[1])
    return Choice(able[0].quorum, why, tuple(verdicts))


def _keys(verdict: Verdict) -> dict[str, int | bytes]:
    """What is compared, in order; less is better."""
    return {
        "moving": int(verdict.stalled),
        "independent": int(not verdict.independent),
        "scope": -verdict.scope,
        "load": verdict.load * PARTS // verdict.weight,
        "default": int(not verdict.preferred),
        "id": verdict.quorum,
    }


_STEPS = tuple(OUT)


def _rank(verdict: Verdict) -> tuple[object, ...]:
    """Those that may be chosen first; of the others, those that came furthest."""
    out = -_STEPS.index(verdict.out) if verdict.out else -len(_STEPS)
    return (out, *_keys(verdict).values())


def _difference(first: Verdict, second: Verdict) -> str:
    mine, other = _keys(first), _keys(second)
    return next(key for key in mine if mine[key] != other[key])


def rounds(verdict: Verdict) -> list[tuple[bytes, ...]]:
    """Who is asked to review, round by round: as many as are needed, then as many more each time."""
    size = max(1, verdict.needed)
    order = verdict.reviewers
    return [order[i : i + size] for i in range(0, len(order), size)][:REVIEW_ROUNDS_MAX]


def asked(verdict: Verdict, waited_ms: int, answered: Sequence[bytes]) -> tuple[bytes, ...] | None:
    """Who has been asked `waited_ms` after the contribution; None once it is reviewed or given up."""
    if sum(r in verdict.reviewers for r in answered) >= max(1, verdict.needed):
        return None
    passed = waited_ms // REVIEW_WAIT_MS
    if passed >= REVIEW_ROUNDS_MAX:
        return None
    return tuple(r for part in rounds(verdict)[: passed + 1] for r in part)
