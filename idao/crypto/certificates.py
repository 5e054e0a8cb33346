"""Certificates: one payload, a bitmap, and the signatures of validators of power ≥ quorum_size.

Rules of ADR 0031: every signature must verify under the key *at its index* (one bad signature
refuses the whole: a padded certificate would let a relay make two spellings of one decision), the bitmap
has exactly ⌈n/8⌉ bytes with unused bits zero, and there are as many signatures as bits.
"""

from __future__ import annotations

from collections.abc import Iterable

from idao.crypto.hashing import Kind, hash_of
from idao.crypto.keys import Verify, verify, verify_vote
from idao.model import PROPOSE, Certificate, SignedVote, ValidatorSet, Vote


def well_formed(certificate: Certificate, validators: ValidatorSet) -> bool:
    """Everything but the signatures: shape of the bitmap, number of signatures, power ≥ quorum_size."""
    n = len(validators.validators)
    bits = int.from_bytes(certificate.bitmap, "little")
    if certificate.vote.kind == PROPOSE or len(certificate.bitmap) != (n + 7) // 8 or bits >> n:
        return False
    if bits.bit_count() != len(certificate.signatures):
        return False
    power = sum(v.power for i, v in enumerate(validators.validators) if bits >> i & 1)
    return power >= validators.quorum_size


def verify_certificate(certificate: Certificate, validators: ValidatorSet, check: Verify = verify) -> bool:
    """Whether `certificate` is valid for the set of its height. The caller checks quorum id and height."""
    return well_formed(certificate, validators) and all(
        verify_vote(validators.validators[v.signer].key, v.signature, v.vote, check)
        for v in votes_in(certificate)
    )


def make_certificate(vote: Vote, votes: Iterable[SignedVote], validators: ValidatorSet) -> Certificate:
    """The certificate of `votes`, all on `vote` and of distinct signers. Power is not checked here."""
    ordered = sorted(votes, key=lambda v: v.signer)
    bits = sum(1 << v.signer for v in ordered)
    bitmap = bits.to_bytes((len(validators.validators) + 7) // 8, "little")
    return Certificate(vote, bitmap, tuple(v.signature for v in ordered))


def votes_in(certificate: Certificate) -> list[SignedVote]:
    """The signed votes a certificate is made of; their signers are indices, so nothing else names them."""
    return [
        SignedVote(certificate.vote, i, s)
        for i, s in zip(certificate.signers(), certificate.signatures, strict=True)
    ]


def certificate_hash(certificate: Certificate) -> bytes:
    """What a child's header names as `parent_certificate`: pins who signed, not only what."""
    return hash_of(Kind.CERTIFICATE, certificate)
