"""Attestations on the ledger: evidence of trusted hardware, and what each validator thinks of it.

The ledger never judges evidence: nodes with different verifiers installed must reach the same state. It
checks form, size, who speaks, that the claims name a block of this ledger and that they end in time. What
evidence is worth is each reader's own judgement; a validator's is its signed appraisal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from idao.crypto import canonical
from idao.crypto.hashing import Kind, digest
from idao.frozen import frozen
from idao.ledger.epochs import epoch_at
from idao.ledger.state import record
from idao.ledger.tx import Context, TxKind, refuse
from idao.model import TX_BYTES_MAX, Hash, Id, Size, Word

if TYPE_CHECKING:  # the TEE room is loaded only where evidence is looked at
    from idao.tee.binding import Claims
    from idao.tee.envelope import Evidence

BEACONS = 256
"""Beacons kept; the oldest goes. One serves every validator that attests within some minutes."""
AGE_MS_MAX = 24 * 3_600_000
"""Greatest life of claims where the quorum has voted no policy: that of the strict one."""
POLICY_BYTES_MAX = 8000
"""Bytes of a policy on a ledger: what one action of a proposal can hold."""
BACKED = ("tee", "tee-measured")
"""Levels of evidence that a charter may ask for, the lower first: hardware, and hardware with known code."""
ROLE = "validator"
"""What a validator's claims say it is."""

# --- records --------------------------------------------------------------------------------------


@record("beacon", key=("height",))
@frozen
class Beacon:
    """A block whose hash evidence may name, to show that it is younger than the block.

    height: the block
    header: hash of its header
    time_ms: its time, milliseconds UTC
    """

    height: int
    header: Hash
    time_ms: int


@record("attestation", key=("validator",))
@frozen
class Attestation:
    """A validator's newest evidence, unjudged; the transaction holds its bytes.

    validator: the validator's iDAO
    evidence: id of the evidence as its sender says: hash of kind and signed region
    kind: kind of the evidence
    hash: hash of the bytes of the evidence
    collateral: name of the collateral bundle that belongs to it, or empty
    beacon: height of the block that it names
    beacon_header: hash of that block's header
    beacon_ms: time of that block, milliseconds UTC
    not_after_ms: when the claims end, milliseconds UTC
    tx: the transaction that holds the evidence
    height: when it was registered
    """

    validator: Id
    evidence: Hash
    kind: Word
    hash: Hash
    collateral: Annotated[bytes, Size(0, 32)]
    beacon: int
    beacon_header: Hash
    beacon_ms: int
    not_after_ms: int
    tx: Id
    height: int


@record("appraisal", key=("validator", "appraiser"))
@frozen
class Appraisal:
    """What one validator thinks of another's newest evidence, signed by its transaction.

    validator: whose evidence it is
    appraiser: the validator that judged
    evidence: id of the evidence
    policy: name of the TEE policy it was judged under
    verifier: name and version of the verifier
    level: what the evidence is worth
    accepted: whether the policy accepts it
    reason: why not, or empty
    not_after_ms: until when the judgement holds, milliseconds UTC
    height: when it was given
    """

    validator: Id
    appraiser: Id
    evidence: Hash
    policy: Hash
    verifier: Word
    level: Word
    accepted: bool
    reason: Annotated[str, Size(0, 64)]
    not_after_ms: int
    height: int


@record("tee_policy", key=("idao",))
@frozen
class TeePolicyRecord:
    """What evidence a quorum counts, by its vote.

    idao: the iDAO that governs the quorum
    hash: name of the policy
    body: canonical bytes of the policy
    age_ms: greatest age of evidence, milliseconds
    height: when it came into force
    """

    idao: Id
    hash: Hash
    body: Annotated[bytes, Size(1, POLICY_BYTES_MAX)]
    age_ms: int
    height: int


# --- bodies ---------------------------------------------------------------------------------------


@frozen
class KeepBeacon:
    """Asks for a challenge: the block before the one that holds this may be named by evidence."""


@frozen
class Attest:
    """Registers evidence for the signer's validator key."""

    id: Hash
    """Of the evidence, as the sender's verifier found it; readers find it again."""
    evidence: Annotated[bytes, Size(1, TX_BYTES_MAX)]
    """Canonical bytes of an `envelope.Evidence` with claims."""
    collateral: Annotated[bytes, Size(0, 32)]
    beacon: int
    """Height of the block that the claims name."""


@frozen
class Appraise:
    validator: Id
    evidence: Hash
    policy: Hash
    verifier: Word
    level: Word
    accepted: bool
    reason: Annotated[str, Size(0, 64)]
    not_after_ms: int


@frozen
class SetTeePolicy:
    """Canonical bytes of the `tee.policy.TeePolicy` that the quorum shall have."""

    tee_policy: Annotated[bytes, Size(1, POLICY_BYTES_MAX)]


# --- what evidence says of itself -----------------------------------------------------------------


def bytes_hash(evidence: bytes) -> bytes:
    """Binds every byte of evidence, also those that nobody signs: not its identity, which is its id."""
    return digest(Kind.EVIDENCE, evidence)


def read(evidence: bytes) -> tuple[Evidence, Claims]:
    """Evidence for a ledger and the claims in it; `Malformed` unless it has that form.

    The two forms, bounds included, are part of the ledger's formats: a change of them is a new version.
    """
    from idao.tee.binding import Claims
    from idao.tee.envelope import Evidence

    found = canonical.unpack(Evidence, evidence)
    return found, canonical.unpack(Claims, found.claims)


# --- what others think of it ----------------------------------------------------------------------


def backed_level(ctx: Context, validator: bytes) -> str:
    """What a validator's newest evidence is worth by the word of the others, now: '' or one of `BACKED`.

    Counted are appraisals under the policy that the quorum has voted, by so much power that one of their
    signers must be honest. The validator's own does not count. No verifier is asked: all nodes find the same.
    """
    found = ctx.state.get(Attestation, validator)
    agreed = ctx.state.get(TeePolicyRecord, ctx.governor)
    if found is None or agreed is None:
        return ""
    _, validators = epoch_at(ctx.state, ctx.height)
    power = {v.idao: v.power for v in validators.validators if v.idao != validator}
    held = [
        (BACKED.index(a.level) + 1, power[a.appraiser])
        for a in ctx.state.scan(Appraisal, validator)
        if (a.evidence, a.policy) == (found.evidence, agreed.hash)
        and a.accepted
        and a.not_after_ms >= ctx.time_ms  # which is at most the end of the claims
        and a.level in BACKED
        and a.appraiser in power
    ]
    for rank in range(len(BACKED), 0, -1):
        if sum(p for level, p in held if level >= rank) >= validators.honest_size:
            return BACKED[rank - 1]
    return ""


# --- applying -------------------------------------------------------------------------------------


def _validator_key(ctx: Context) -> bytes:
    """The signer's key in the validator set of this height."""
    _, validators = epoch_at(ctx.state, ctx.height)
    for v in validators.validators:
        if v.idao == ctx.actor:
            return v.key
    return refuse("not-a-validator", "only validators attest, each for itself")


def _apply_beacon(ctx: Context, body: KeepBeacon) -> None:
    if ctx.actor not in ctx.reviewers:
        refuse("not-a-validator", "only validators attest, each for itself")
    kept = list(ctx.state.scan(Beacon))
    for old in kept[: max(0, len(kept) - BEACONS + 1)]:
        ctx.state.delete(Beacon, old.height)
    ctx.state.put(Beacon(ctx.height - 1, ctx.parent, ctx.parent_ms))


def _apply_attest(ctx: Context, body: Attest) -> None:
    from idao.tee.binding import beacon as nonce_of

    key = _validator_key(ctx)
    evidence, claims = read(body.evidence)
    if len(body.collateral) not in (0, 32):
        refuse("collateral", "a collateral bundle is named by 32 bytes")
    if (claims.quorum, claims.idao, claims.key, claims.role) != (ctx.quorum, ctx.actor, key, ROLE):
        refuse("claims", "the claims are not those of the signer as a validator of this quorum")
    seen = ctx.state.get(Beacon, body.beacon)
    if seen is None or claims.nonce != nonce_of(ctx.quorum, seen.header):
        refuse("beacon", "the claims name no block that this ledger keeps as a beacon")
    agreed = ctx.state.get(TeePolicyRecord, ctx.governor)
    age_ms = agreed.age_ms if agreed else AGE_MS_MAX
    if claims.not_after_ms > seen.time_ms + age_ms:
        refuse("too-long", f"claims end at most {age_ms} ms after the block that they name")
    if claims.not_after_ms <= ctx.time_ms:
        refuse("claims-expired", "the claims have ended already")
    before = ctx.state.get(Attestation, ctx.actor)
    if before is not None and before.evidence == body.id:
        refuse("already-attested", "this evidence is registered already")
    for old in list(ctx.state.scan(Appraisal, ctx.actor)):
        ctx.state.delete(Appraisal, old.validator, old.appraiser)
    ctx.state.put(
        Attestation(
            ctx.actor, body.id, evidence.kind, bytes_hash(body.evidence), body.collateral,
            seen.height, seen.header, seen.time_ms, claims.not_after_ms, ctx.tx, ctx.height,
        )
    )  # fmt: skip


def _apply_appraise(ctx: Context, body: Appraise) -> None:
    if ctx.actor not in ctx.reviewers:
        refuse("not-a-validator", "only validators appraise")
    found = ctx.state.get(Attestation, body.validator)
    if found is None or found.evidence != body.evidence:
        refuse("unknown-evidence", "that validator has registered no such evidence")
    if body.accepted == bool(body.reason):
        refuse("reason", "a refusal has a reason, an acceptance none")
    if body.not_after_ms > found.not_after_ms:
        refuse("too-long", "a judgement ends with the claims at the latest")
    ctx.state.put(
        Appraisal(
            body.validator, ctx.actor, body.evidence, body.policy, body.verifier, body.level,
            body.accepted, body.reason, body.not_after_ms, ctx.height,
        )
    )  # fmt: skip


def _act_policy(ctx: Context, idao: bytes, body: SetTeePolicy) -> None:
    from idao.tee.policy import TeePolicy

    if idao != ctx.governor:
        refuse("not-governor", "the TEE policy of a quorum is set by the iDAO that governs it")
    policy = canonical.unpack(TeePolicy, body.tee_policy)
    ctx.state.put(TeePolicyRecord(idao, policy.digest, body.tee_policy, policy.max_age_ms, ctx.height))


RECORDS = (Beacon, Attestation, Appraisal, TeePolicyRecord)
KINDS = (
    TxKind("tee.beacon", KeepBeacon, _apply_beacon),
    TxKind("tee.attest", Attest, _apply_attest),
    TxKind("tee.appraise", Appraise, _apply_appraise),
)
ACTIONS = {"tee.policy": (SetTeePolicy, _act_policy)}
