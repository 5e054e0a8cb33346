"""Counts the votes of one height, and notices when a validator says two things (R8).

Signatures have been checked before anything gets here.
"""

from __future__ import annotations

from idao.crypto.certificates import make_certificate
from idao.crypto.faults import conflict
from idao.model import SLOT_OF, Certificate, SignedVote, ValidatorSet, Vote

Slot = tuple[int, str]
"""(view, P | N | T)."""

PER_SLOT_MAX = 2
"""Distinct votes of one signer kept per slot: two prove a fault, more prove nothing new."""


class VoteKeeper:
    """All votes of one height, by slot and by what was voted for."""

    __slots__ = ("_by_slot", "_by_vote", "_late", "_power", "_voted", "validators", "voted_power")

    def __init__(self, validators: ValidatorSet) -> None:
        self.validators = validators
        self._by_slot: dict[tuple[int, Slot], list[SignedVote]] = {}
        self._by_vote: dict[tuple[int, int, bytes], dict[int, SignedVote]] = {}
        self._late: dict[tuple[int, Slot], SignedVote] = {}
        """Votes put by, unchecked."""
        self._power: dict[tuple[int, int, bytes], int] = {}
        self._voted: set[int] = set()
        self.voted_power = 0
        """Power of those who voted anything at this height (R9)."""

    def add(self, signed: SignedVote) -> tuple[bool, SignedVote | None]:
        """(whether it is new, the vote it conflicts with). One pair of a slot is reported once."""
        vote, signer = signed.vote, signed.signer
        key = (vote.kind, vote.view, vote.digest)
        held = self._by_slot.setdefault((signer, (vote.view, SLOT_OF[vote.kind])), [])
        if signer in self._by_vote.get(key, ()) or len(held) >= PER_SLOT_MAX:
            return False, None
        held.append(signed)
        self._by_vote.setdefault(key, {})[signer] = signed
        power = self.validators.validators[signer].power
        self._power[key] = self._power.get(key, 0) + power
        if signer not in self._voted:
            self._voted.add(signer)
            self.voted_power += power
        other = held[0]
        return True, other if conflict(other, signed) else None

    def put_by(self, signed: SignedVote) -> bool:
        """Keeps a vote on what is certified already, unchecked: alone it changes nothing any more.

        False where it must be checked now: its signer has said something else there, or so it is said.
        """
        place = signed.signer, (signed.vote.view, SLOT_OF[signed.vote.kind])
        return place not in self._by_slot and self._late.setdefault(place, signed) == signed

    def take_up(self, signed: SignedVote) -> SignedVote | None:
        """The unchecked vote that a genuine one would conflict with: now it matters."""
        place = signed.signer, (signed.vote.view, SLOT_OF[signed.vote.kind])
        late = self._late.pop(place, None)
        return late if late is not None and late.vote != signed.vote else None

    def __len__(self) -> int:
        """Votes held."""
        return sum(len(v) for v in self._by_slot.values())

    def held(self, signer: int, vote: Vote) -> SignedVote | None:
        return self._by_vote.get((vote.kind, vote.view, vote.digest), {}).get(signer)

    def power(self, kind: int, view: int, digest: bytes) -> int:
        return self._power.get((kind, view, digest), 0)

    def spoken(self) -> list[tuple[int, int, int]]:
        """(signer, view, kind) of every vote held or put by, in that order: what an operator wants to see."""
        votes = [v for held in (*self._by_slot.values(), self._late.values()) for v in held]
        return sorted((v.signer, v.vote.view, v.vote.kind) for v in votes)

    def voters(self, kind: int, view: int, digest: bytes) -> list[int]:
        return sorted(self._by_vote.get((kind, view, digest), ()))

    def certificate(self, vote: Vote) -> Certificate:
        """The certificate of all votes held on `vote`; the caller has seen power ≥ quorum_size."""
        return make_certificate(
            vote, self._by_vote[vote.kind, vote.view, vote.digest].values(), self.validators
        )
