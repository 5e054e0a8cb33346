"""Who is to blame for a fork: read from certificates alone (the theorem of ADR 0031)."""

from __future__ import annotations

from collections.abc import Iterable

from idao.crypto.certificates import votes_in
from idao.crypto.faults import conflict
from idao.model import SLOT_OF, Certificate, SignedVote


def conflicts(certificates: Iterable[Certificate]) -> list[tuple[SignedVote, SignedVote]]:
    """One pair of conflicting votes per (signer, slot), ordered by slot and signer.

    The certificates must have been verified, and be of heights that had one validator set each.
    """
    first: dict[tuple[int, int, str, int], SignedVote] = {}
    pairs: dict[tuple[int, int, str, int], tuple[SignedVote, SignedVote]] = {}
    for certificate in certificates:
        vote = certificate.vote
        for signed in votes_in(certificate):
            key = vote.height, vote.view, SLOT_OF[vote.kind], signed.signer
            other = first.setdefault(key, signed)
            if key not in pairs and conflict(other, signed):
                pairs[key] = other, signed
    return [pairs[key] for key in sorted(pairs)]


def guilty(certificates: Iterable[Certificate]) -> set[int]:
    """Indices of the validators that signed both sides of a conflict.

    Two finalizations of one height, with the certificates that the finalizers held, name validators of power
    ≥ 2·quorum_size − W, more than a third, as long as the faulty power is below quorum_size.
    """
    return {a.signer for a, _ in conflicts(certificates)}
