"""Signatures of the simulator: tokens that name key and vote, or real Ed25519 in one seed of a hundred."""

from __future__ import annotations

from functools import lru_cache

from idao.crypto.keys import Signer, verify_vote
from idao.model import Validator, ValidatorSet, Vote
from idao.quorum.height import Verify


def token(key: bytes, vote: Vote) -> bytes:
    head = b"%d.%d.%d." % (vote.kind, vote.height % 2**63, vote.view % 2**63)
    return (key[:6] + vote.quorum[-2:] + head + vote.digest).ljust(64, b".")[:64]


def verify_token(key: bytes, signature: bytes, vote: Vote) -> bool:
    return signature == token(key, vote)


class Keys:
    """The keys of one run: `sign(index, vote)` and the `verify` that machines are given."""

    def __init__(self, powers: tuple[int, ...], *, real: bool) -> None:
        self.signers = [Signer(bytes([i + 1]) * 32) for i in range(len(powers))] if real else None
        keys = (
            [s.public for s in self.signers]
            if self.signers
            else [bytes([i + 1]) * 32 for i in range(len(powers))]
        )
        self.validators = ValidatorSet(
            tuple(Validator(b"%032d" % i, k, p) for i, (k, p) in enumerate(zip(keys, powers, strict=True)))
        )
        self.verify: Verify = lru_cache(maxsize=4096)(verify_vote) if real else verify_token

    def subset(self, members: tuple[int, ...]) -> ValidatorSet:
        return ValidatorSet(tuple(self.validators.validators[i] for i in sorted(members)))

    def key_at(self, index: int, height: int) -> bytes:
        return self.validators.validators[index].key

    def owner(self, key: bytes) -> int | None:
        return self.validators.index_of_key(key)

    def sign(self, index: int, vote: Vote) -> bytes:
        if self.signers:
            return self.signers[index].sign_vote(vote)
        return token(self.validators.validators[index].key, vote)
