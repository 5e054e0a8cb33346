"""How one validator set leads to the next: what a stranger follows from a genesis he trusts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from idao.crypto import canonical
from idao.crypto.certificates import verify_certificate
from idao.crypto.hashing import Kind, hash_of, validators_hash
from idao.errors import VerificationFailed
from idao.frozen import frozen
from idao.model import FINALIZE, Certificate, Header, Size, ValidatorSet

LINKS_MAX = 4096
"""Changes of the set: a seat rotates once a day at most, so thirty seats rotating monthly take ten years."""


@frozen
class Link:
    """A change of epoch: the last header that the old set decided, its finalization by that set, and the
    set that the header names for the height after it. Every node holds these for ever, anchored or not."""

    header: Header
    certificate: Certificate
    members: Annotated[bytes, Size(1, 16384)]


@frozen
class Followed:
    """Where links lead."""

    sets: tuple[ValidatorSet, ...]
    """The set of each epoch from 0: each one's word for the next was checked."""
    since: int
    """Last height that an earlier set than the last decided."""


def follow(quorum: bytes, first: ValidatorSet, links: Iterable[Link]) -> Followed:
    """From the set of genesis through every change. `VerificationFailed` at the first that does not hold."""
    now, before = first, 0
    sets = [now]
    for link in links:
        if link.header.height <= before:
            raise VerificationFailed("changes of the validator set are out of order")
        now, before = _next(quorum, link, now), link.header.height
        sets.append(now)
    return Followed(tuple(sets), before)


def _next(quorum: bytes, link: Link, now: ValidatorSet) -> ValidatorSet:
    """The set that follows `now`, by the word of `now` alone."""
    header, vote = link.header, link.certificate.vote
    decided = (FINALIZE, quorum, header.height, hash_of(Kind.HEADER, header))
    if (vote.kind, vote.quorum, vote.height, vote.digest) != decided:
        raise VerificationFailed("a change of the validator set has no finalization of its block")
    following = canonical.unpack(ValidatorSet, link.members)
    named = (validators_hash(now), validators_hash(following))
    if (header.validators, header.next_validators) != named or now == following:
        raise VerificationFailed("a change of the validator set is not the one that its block names")
    if not verify_certificate(link.certificate, now):
        raise VerificationFailed("a change of the validator set was not decided by the set before it")
    return following
