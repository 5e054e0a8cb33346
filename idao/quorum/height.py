"""What the machine knows about one height, and the questions its rules ask of it.

Dropped whole when the height changes: stale per-height flags have halted and corrupted other engines
(a class of bugs that many have had).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from idao.crypto.certificates import votes_in, well_formed
from idao.model import FINALIZE, NOTARIZE, NULLIFY, Certificate, SignedVote, ValidatorSet, Vote
from idao.quorum.events import JUSTIFY_MAX, VIEWS_MAX, Propose, Start, Status
from idao.quorum.votes import Slot, VoteKeeper

Verify = Callable[[bytes, bytes, Vote], bool]
"""(key, signature, vote) -> whether it holds. Pure: `keys.verify_vote`."""


class Height:
    """The state of one height. Only `Machine` changes it."""

    def __init__(self, number: int, validators: ValidatorSet, me: int | None) -> None:
        self.number = number
        self.validators = validators
        self.quorum_size = validators.quorum_size
        self.honest_size = validators.honest_size
        self.me = me
        self.view = 0
        self.armed = False
        self.decided: Certificate | None = None
        """A finalization, the block of which may still be missing."""
        self.committed = False
        self.votes = VoteKeeper(validators)
        self.certificates: dict[tuple[int, int], dict[bytes, Certificate]] = {}
        """(kind, view) -> digest -> certificate. Keyed by digest: a second one is kept (R8)."""
        self.slots: dict[Slot, SignedVote | Vote] = {}
        """Own slots: decided (a `Vote`, until the shell has signed it) or signed. Never changed."""
        self.proposals: dict[int, SignedVote] = {}
        """View -> the first block hash its leader signed."""
        self.bodies: dict[bytes, bytes] = {}
        self.verdicts: dict[bytes, str | None] = {}
        """Hash -> verdict; None while the shell judges."""
        self.stored: set[bytes] = set()
        self.building: int | None = None
        """View for which a block was ordered."""
        self.grace: int | None = None
        """View that its leader, this validator, delays a little for a late finalization."""
        self.asked: dict[bytes, int] = {}
        """How often each block was asked for since the last retransmission."""

    @classmethod
    def before(cls, start: Start) -> Height | None:
        """The height before, as far as a restart knows it: its set and its finalization."""
        c = start.parent
        if c is None or start.parent_validators is None:
            return None
        past = cls(start.height - 1, start.parent_validators, None)
        past.decided = c
        past.certificates[FINALIZE, c.vote.view] = {c.vote.digest: c}
        return past

    def genuine(self, signed: SignedVote, verify: Verify) -> bool:
        """Whether a vote is signed by the key at its index."""
        validators = self.validators.validators
        if signed.signer >= len(validators):
            return False
        return verify(validators[signed.signer].key, signed.signature, signed.vote)

    def holds(self, c: Certificate, verify: Verify) -> bool:
        """Shape, power and every signature of a certificate; votes already held need no second look."""
        if not well_formed(c, self.validators):
            return False
        for signed in votes_in(c):
            if self.votes.held(signed.signer, signed.vote) != signed and not self.genuine(signed, verify):
                return False
        return True

    def leader(self, view: int) -> int:
        return self.validators.leader(self.number, view)

    def one(self, kind: int, view: int) -> Certificate | None:
        """A certificate of `kind` at `view`: the first that was held."""
        return next(iter(self.certificates.get((kind, view), {}).values()), None)

    def all_certificates(self) -> Iterable[Certificate]:
        for held in self.certificates.values():
            yield from held.values()

    def notarized_views(self, digest: bytes) -> list[int]:
        """Views at which a notarization of `digest` is held, ascending."""
        return sorted(
            v for (kind, v), held in self.certificates.items() if kind == NOTARIZE and digest in held
        )

    def certified(self, digest: bytes) -> bool:
        """Whether a notarization or finalization of `digest` is held."""
        return any(digest in held for held in self.certificates.values())

    def parent(self, view: int) -> tuple[int, bytes] | None:
        """R2: what a leader of `view` must propose on: (u, digest) of the latest notarization below it.

        (-1, empty) when all views before are nullified: a new block. None when a view has no certificate.
        """
        for u in range(view - 1, -1, -1):
            notarization = self.one(NOTARIZE, u)
            if notarization is not None:
                return u, notarization.vote.digest
            if self.one(NULLIFY, u) is None:
                return None
        return -1, b""

    def justification(self, view: int, digest: bytes) -> tuple[Certificate, ...] | None:
        """R2, R3: certificates that allow `digest` in `view`, or None.

        A notarization of this very block at some view, and nullifications of every view between; or
        nullifications of every view before. Nothing else: there is no local lock.
        """
        chain: list[Certificate] = []
        for u in range(view - 1, -1, -1):
            notarization = self.certificates.get((NOTARIZE, u), {}).get(digest)
            if notarization is not None:
                chain.append(notarization)
                break
            nullification = self.one(NULLIFY, u)
            if nullification is None:
                return None
            chain.append(nullification)
        return tuple(chain)

    def wanted(self) -> list[bytes]:
        """Hashes of the blocks that progress may wait for, the most needed first."""
        hashes: list[bytes] = []
        if self.decided is not None:
            hashes.append(self.decided.vote.digest)
        else:
            notarized = [
                (v, d) for (kind, v), held in self.certificates.items() if kind == NOTARIZE for d in held
            ]
            hashes += [d for _, d in sorted(notarized, reverse=True)]
            if self.view in self.proposals:
                hashes.append(self.proposals[self.view].vote.digest)
        return [h for h in dict.fromkeys(hashes) if h not in self.bodies]

    def bits(self, kind: int) -> bytes:
        """The views at which a certificate of `kind` is held, as `Status` writes them."""
        views = [v for (k, v) in self.certificates if k == kind and v < VIEWS_MAX]
        return sum(1 << v for v in views).to_bytes(max(views, default=-1) // 8 + 1, "little")

    def proposal_frame(self, view: int, *, body: bool) -> Propose | None:
        """The proposal of `view` as it is sent, with the newest of its justification that fits a frame."""
        signed = self.proposals.get(view)
        if signed is None:
            return None
        digest = signed.vote.digest
        justify = self.justification(view, digest) or ()
        return Propose(signed, self.bodies.get(digest) if body else None, justify[:JUSTIFY_MAX])

    def newest(self) -> Certificate | None:
        """The certificate that moves a peer furthest: the finalization, else that of the latest view."""
        if self.decided is not None:
            return self.decided
        return max(self.all_certificates(), key=lambda c: (c.vote.view, -c.vote.kind), default=None)

    def lacking(self, notarized: bytes, nullified: bytes, limit: int) -> list[Certificate]:
        """What a peer with these bits (`Status`) lacks, latest view first."""
        have = {NOTARIZE: int.from_bytes(notarized, "little"), NULLIFY: int.from_bytes(nullified, "little")}
        missing = [
            c
            for (kind, view), held in self.certificates.items()
            if kind in have and not have[kind] >> view & 1
            for c in held.values()
        ]
        missing.sort(key=lambda c: (-c.vote.view, c.vote.kind, c.vote.digest))
        return missing[:limit]

    def status(self, tip: bytes) -> Status:
        signed = self.proposals.get(self.view)
        held = signed is not None and signed.vote.digest in self.bodies
        return Status(self.number, self.view, tip, self.bits(NOTARIZE), self.bits(NULLIFY), held)

    def own_votes(self, view: int) -> list[SignedVote]:
        """Own votes at `view`, and how the view before it ended (its finalization may lack ours)."""
        slots = (view, "N"), (view, "T"), (view - 1, "T")
        return [s for slot in slots if isinstance(s := self.slots.get(slot), SignedVote)]
