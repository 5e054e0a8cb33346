"""Reviews: a validator's verdict on an asset version, sealed first and opened later.

An owner reviews its own at once, and the record says so: `independent` stays 0. That verifies an asset in a
quorum of one, and in a quorum of several only if its charter asks for no others (`review.independent = 0`).
There a reviewer of another's asset, who must be a validator, first submits the commitment and opens it in a
later block, so that nobody can copy a verdict: it binds quorum, asset, version, reviewer, epoch and a salt.
A charter may ask that whoever reads another's contents for a review is backed by hardware (`review.tee`).
"""

from __future__ import annotations

from typing import Annotated

from idao.crypto import canonical
from idao.crypto.hashing import Kind, digest
from idao.frozen import frozen, replace
from idao.ledger.assets import AssetVersion
from idao.ledger.attest import BACKED, Attestation, backed_level
from idao.ledger.idao import role_of, rules_of
from idao.ledger.state import record
from idao.ledger.tx import Context, TxKind, refuse
from idao.model import BasisPoints, Hash, Id, Salt, Size, Word

COMPARED_MAX = 512
"""Assets one review may name as compared with."""


@frozen
class Review:
    """What a reviewer states. `report` is the salted commitment of the full score card."""

    asset: Id
    version: int
    root: Hash
    assessor: Word
    """Name and version, e.g. 'tabular@1'."""
    code: Hash
    """Hash of the assessor's source."""
    mode: Word
    """'exact': all must find the same; 'median': private holdouts, the median counts."""
    holdout: Annotated[bytes, Size(0, 32)]
    as_of: int
    """Height whose assets were compared with."""
    compared: Annotated[tuple[tuple[Id, int], ...], Size(0, COMPARED_MAX)]
    epoch: int
    reviewer: Id
    grant: Annotated[bytes, Size(0, 32)]
    """The grant by which a reviewer who is not the owner read the contents; empty for the owner."""
    report: Hash
    score: BasisPoints
    """Headline in hundreds, so that it tells little."""
    passed: bool
    """Whether every gate of the assessor held."""


@record("review", key=("asset", "version", "reviewer"))
@frozen
class ReviewRecord:
    """An opened review.

    asset: the asset reviewed
    version: its version
    reviewer: the validator's iDAO
    height: when it was opened
    assessor: name and version of the assessor
    code: hash of the assessor's source
    mode: exact or median
    holdout: id of the private holdout, or empty
    as_of: height whose assets were compared with
    epoch: epoch of the validator set
    grant: grant by which the contents were read; empty for the owner
    report: salted commitment of the score card
    score: headline score, basis points in hundreds
    passed: whether every gate held
    independent: whether the reviewer is neither the owner nor a member of it
    """

    asset: Id
    version: int
    reviewer: Id
    height: int
    assessor: Word
    code: Hash
    mode: Word
    holdout: Annotated[bytes, Size(0, 32)]
    as_of: int
    epoch: int
    grant: Annotated[bytes, Size(0, 32)]
    report: Hash
    score: BasisPoints
    passed: bool
    independent: bool


@record("review_seal", key=("asset", "version", "reviewer"))
@frozen
class Seal:
    """A sealed review that waits to be opened.

    asset: the asset reviewed
    version: its version
    reviewer: the validator's iDAO
    height: when it was sealed
    commitment: hash that the opened review must match
    """

    asset: Id
    version: int
    reviewer: Id
    height: int
    commitment: Hash


@record("review_tee", key=("asset", "version", "reviewer"))
@frozen
class ReviewBacking:
    """What stood behind a reviewer when its review was opened, where the charter asks for hardware.

    asset: the asset reviewed
    version: its version
    reviewer: the validator's iDAO
    level: what its evidence was worth by the word of the other validators: tee or tee-measured
    evidence: id of that evidence
    """

    asset: Id
    version: int
    reviewer: Id
    level: Word
    evidence: Hash


@frozen
class Commit:
    asset: Id
    version: int
    commitment: Hash


@frozen
class Open:
    review: Review
    salt: Salt


def review_commitment(quorum: bytes, review: Review, salt: bytes) -> bytes:
    """H(quorum, asset, version, reviewer, epoch, salt, report root): nobody can submit another's."""
    parts = [quorum, review.asset, review.version, review.reviewer, review.epoch, salt, review.report]
    return digest(Kind.REVIEW_COMMITMENT, canonical.encode(parts))


def _apply_commit(ctx: Context, body: Commit) -> None:
    if ctx.actor not in ctx.reviewers:
        refuse("not-a-validator", "only validators review")
    found = ctx.state.get(AssetVersion, body.asset, body.version)
    if found is None:
        refuse("unknown-asset", "no such asset version on this ledger")
    if found.owner != ctx.actor:
        _check_hardware(ctx)
    if ctx.state.get(Seal, body.asset, body.version, ctx.actor) is not None:
        refuse("already-sealed", "this reviewer has sealed a review already")
    if ctx.state.get(ReviewRecord, body.asset, body.version, ctx.actor) is not None:
        refuse("already-reviewed", "this reviewer has reviewed it already")
    ctx.state.put(Seal(body.asset, body.version, ctx.actor, ctx.height, body.commitment))


def _apply_open(ctx: Context, body: Open) -> None:
    review = body.review
    found = ctx.state.get(AssetVersion, review.asset, review.version)
    if found is None:
        refuse("unknown-asset", "no such asset version on this ledger")
    own = found.owner == ctx.actor
    if review.reviewer != ctx.actor or not (own or ctx.actor in ctx.reviewers):
        refuse("not-a-validator", "only validators review what is another's, each for itself")
    if review.root != found.root:
        refuse("root-mismatch", "the review is of other contents")
    if review.score % 100:
        refuse("score-not-rounded", "the headline score is given in hundreds of basis points")
    if review.as_of > ctx.height:
        refuse("as-of", "the review compares with a height that is not there yet")
    if ctx.state.get(ReviewRecord, review.asset, review.version, ctx.actor) is not None:
        refuse("already-reviewed", "this reviewer has reviewed it already")
    if ctx.several and not own:
        _check_seal(ctx, body)
    if not own and (level := _check_hardware(ctx)):
        evidence = ctx.state.need(Attestation, ctx.actor).evidence
        ctx.state.put(ReviewBacking(review.asset, review.version, ctx.actor, level, evidence))
    independent = role_of(ctx.state, found.owner, ctx.actor) is None
    ctx.state.put(
        ReviewRecord(
            review.asset, review.version, ctx.actor, ctx.height, review.assessor, review.code, review.mode,
            review.holdout, review.as_of, review.epoch, review.grant, review.report, review.score,
            review.passed, independent,
        )
    )  # fmt: skip
    _conclude(ctx, found)


def _check_hardware(ctx: Context) -> str:
    """The level of the reviewer's hardware if the quorum's charter asks for one, else ''.

    Asked when a review is sealed and again when it is opened: evidence may have ended between, or the charter
    have changed. Then the seal stays, and the review is opened after the next attestation.
    """
    wanted = rules_of(ctx.state, ctx.governor)["review.tee"]
    if wanted == "none" or not ctx.several:
        return ""
    level = backed_level(ctx, ctx.actor)
    if level not in BACKED[BACKED.index(wanted) :]:
        why = f"the charter wants reviewers of another's contents backed at level {wanted}"
        refuse("tee-required", f"{why}; by the other validators' word it is {level or 'not'}")
    return level


def _check_seal(ctx: Context, body: Open) -> None:
    key = (body.review.asset, body.review.version, ctx.actor)
    seal = ctx.state.get(Seal, *key)
    if seal is None or seal.height >= ctx.height:
        refuse("not-sealed", "a review is sealed in an earlier block than it is opened in")
    if seal.commitment != review_commitment(ctx.quorum, body.review, body.salt):
        refuse("seal-mismatch", "the review is not the one that was sealed")
    ctx.state.delete(Seal, *key)


def _conclude(ctx: Context, version: AssetVersion) -> None:
    """Counts the reviews: enough good ones by others, or the owner's own in a quorum of one, verify."""
    reviews = list(ctx.state.scan(ReviewRecord, version.asset, version.version))
    others = [r for r in reviews if r.independent]
    scores = sorted(r.score for r in others or reviews)
    rules = rules_of(ctx.state, ctx.governor)
    good = [r for r in reviews if r.passed and r.score >= rules["review.score-min"]]
    independent = sum(1 for r in good if r.independent)
    needed = rules["review.independent"] if ctx.several else 0
    ctx.state.put(
        replace(
            version,
            # The lower median is an integer that a reviewer really gave; an owner's word yields to others'.
            score=scores[(len(scores) - 1) // 2],
            independent=len(others),
            verified=version.verified or (bool(good) and independent >= needed),
        )
    )


RECORDS = (ReviewRecord, Seal, ReviewBacking)
KINDS = (TxKind("review.commit", Commit, _apply_commit), TxKind("review.open", Open, _apply_open))
