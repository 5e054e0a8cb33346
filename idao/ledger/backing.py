"""What stands behind a cosigner in a proof: evidence, the collateral of its day, its record on the ledger.

The record lies under the state root that the cosigners signed; it names the hash of the evidence and the
name of the collateral, so no byte of either can change. What the evidence is worth is found by a verifier
that the caller hands in, at the later of cosignature and block time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

from idao.crypto import canonical, note, statetree
from idao.errors import VerificationFailed
from idao.frozen import frozen
from idao.ledger.attest import ROLE, Attestation, bytes_hash
from idao.ledger.state import encode_key, key_of, table_of
from idao.model import TX_BYTES_MAX, Header, Size, Validator, ValidatorSet

if TYPE_CHECKING:  # loaded only where evidence is looked at
    from idao.tee.binding import Expected
    from idao.tee.result import AttestationResult

COLLATERAL_BYTES_MAX = 8 * 1024 * 1024
"""As a bundle's."""

OWN_REASONS = ("evidence", "expired")
"""Beside the verifier's: the record names other evidence; the claims on the ledger have ended."""

Appraiser = Callable[[bytes, Sequence[bytes], "Expected", int], "AttestationResult"]
"""(evidence, collateral files, what it must back, time in ms UTC) -> judgement; never raises."""


@frozen
class Backing:
    """Travels in a proof, packed."""

    record: Annotated[bytes, Size(1, 65536)]
    """Canonical `Attestation`."""
    path: statetree.StateProof
    evidence: Annotated[bytes, Size(1, TX_BYTES_MAX)]
    collateral: Annotated[bytes, Size(0, COLLATERAL_BYTES_MAX)]
    """The bundle that the record names; empty if it names none."""


@frozen
class Attested:
    """A cosigner with evidence, judged."""

    validator: bytes
    record: Attestation
    judged_ms: int
    accepted: bool
    reason: str
    """A code of the verifier or of `OWN_REASONS`; empty when accepted."""
    result: AttestationResult

    @property
    def level(self) -> str:
        """What the evidence is worth, whether or not the policy accepts that."""
        return "none" if self.reason in OWN_REASONS else self.result.level


def times_of(signed: note.Note, quorum: bytes, validators: ValidatorSet) -> dict[int, int]:
    """Validator index -> the time in its cosignature, ms UTC."""
    names = {note.cosigner_name(quorum, v.key): i for i, v in enumerate(validators.validators)}
    return {names[s.name]: s.time_s * 1000 for s in signed.signatures if s.name in names}


def judge(
    packed: Sequence[bytes],
    header: Header,
    validators: ValidatorSet,
    times: dict[int, int],
    appraise: Appraiser,
) -> list[Attested]:
    """Every backing of a proof, in the order of the validator set.

    `VerificationFailed` if one is not what the ledger has, belongs to nobody who cosigned, or could not be
    judged because a part of the verifier is missing. Evidence that is merely refused does not count.
    """
    ids = {v.idao: i for i, v in enumerate(validators.validators)}
    out: list[Attested] = []
    seen: list[int] = []
    for data in packed:
        backing = canonical.unpack(Backing, data)
        record = _check_record(backing, header)
        index = ids.get(record.validator, -1)
        if index not in times:
            raise VerificationFailed("evidence of one who did not cosign")
        seen.append(index)
        at = max(times[index], header.time_ms)
        out.append(judge_one(backing, record, header.quorum, validators.validators[index], at, appraise))
    if seen != sorted(set(seen)):
        raise VerificationFailed("evidence of cosigners is out of order")
    for one in out:
        if one.reason == "verifier-missing":
            raise VerificationFailed(
                f"evidence of kind {one.record.kind} cannot be judged: its verifier is not installed"
            )
    return out


def _check_record(backing: Backing, header: Header) -> Attestation:
    record = canonical.unpack(Attestation, backing.record)
    path = statetree.record_path(table_of(Attestation).name, encode_key(key_of(record)))
    if not statetree.check(header.state_root, path, statetree.value_hash(backing.record), backing.path):
        raise VerificationFailed("an attestation is not what the state root commits to")
    if bytes_hash(backing.evidence) != record.hash:
        raise VerificationFailed("evidence is not the one on the ledger")
    if bool(backing.collateral) != bool(record.collateral):
        raise VerificationFailed("the collateral of evidence is missing, or not named on the ledger")
    if backing.collateral and bundle_name(backing.collateral) != record.collateral:
        raise VerificationFailed("the collateral of evidence is not the one named on the ledger")
    return record


def bundle_name(bundle: bytes) -> bytes:
    """The digest by which a ledger names a bundle; `Malformed` if these bytes are none."""
    from idao.tee import collateral

    return canonical.unpack(collateral.Bundle, bundle, limit=COLLATERAL_BYTES_MAX).digest


def judge_one(
    backing: Backing,
    record: Attestation,
    quorum: bytes,
    validator: Validator,
    at_ms: int,
    appraise: Appraiser,
) -> Attested:
    """One piece of evidence against the validator's key in the set, at `at_ms` (ms UTC)."""
    from idao.tee.binding import Expected, beacon

    beacons = ((beacon(quorum, record.beacon_header), record.beacon_ms),)
    expected = Expected(quorum, validator.idao, ROLE, (validator.key,), beacons)
    files = (backing.collateral,) if backing.collateral else ()
    result = appraise(backing.evidence, files, expected, at_ms)
    reason = result.reason
    if not reason and result.evidence_id != record.evidence:
        reason = "evidence"
    if not reason and at_ms > record.not_after_ms:
        reason = "expired"
    accepted = result.accepted and not reason
    return Attested(validator.idao, record, at_ms, accepted, reason, result)
