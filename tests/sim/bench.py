"""One machine on a bench: feed it events by hand, see what it signs and says."""

from __future__ import annotations

from collections import deque
from typing import Any

from idao.crypto.certificates import make_certificate
from idao.model import NULLIFY, PROPOSE, Certificate, SignedVote, Vote
from idao.quorum import events as ev

from .blocks import GENESIS, block_hash
from .tokens import Keys

BLOCKS = {name: name.encode() * 3 for name in "xyz"}
X, Y, Z = (block_hash(b) for b in BLOCKS.values())
BODY = {block_hash(b): b for b in BLOCKS.values()}


class Bench:
    """Validator `me` of `n`. At height 1 the leader of view v is (1 + v) mod n."""

    def __init__(self, machine_class: Any, *, n: int = 4, me: int = 0, powers: tuple[int, ...] = ()) -> None:
        self.keys = Keys(powers or (1,) * n, real=False)
        self.validators = self.keys.validators
        self.n, self.me = len(self.validators.validators), me
        self.peers = [v.idao for v in self.validators.validators]
        self.machine = machine_class(GENESIS, self.validators.validators[me].key, self.keys.verify)
        self.verdicts: dict[bytes, str] = {}
        self.effects: list[ev.Effect] = []
        self.order: list[str] = []
        self.build = True
        self.height = 1

    def start(self, **more: Any) -> Bench:
        self.height = more.pop("height", 1)
        values: dict[str, Any] = {"tip": GENESIS, "parent": None, "parent_validators": None, "pool": False}
        return self.feed(ev.Start(self.height, self.validators, **(values | more)))

    def feed(self, *events: ev.Event) -> Bench:
        for event in events:
            queue = deque([event])
            while queue:
                for effect in self.machine.step(queue.popleft()):
                    self.effects.append(effect)
                    match effect:
                        case ev.Sign(vote):
                            queue.append(ev.Msg(ev.OWN, self.sv(vote.kind, self.me, vote.view, vote.digest)))
                        case ev.Validate(height, _, digest, body, _):
                            verdict = self.verdicts.get(digest, ev.VALID)
                            if block_hash(body) != digest:
                                verdict = ev.MISMATCH
                            if verdict != "later":
                                queue.append(ev.BlockReady(height, digest, verdict))
                        case ev.Build(height, view) if self.build:
                            queue.append(ev.Built(height, view, X, BODY[X]))
        return self

    # --- making messages ----------------------------------------------------------------------------

    def sv(
        self, kind: int, signer: int, view: int, digest: bytes = b"", quorum: bytes = GENESIS
    ) -> SignedVote:
        vote = Vote(kind, quorum, self.height, view, b"" if kind == NULLIFY else digest)
        return SignedVote(vote, signer, self.keys.sign(signer % self.n, vote))

    def cert(self, kind: int, view: int, digest: bytes = b"", by: tuple[int, ...] = (1, 2, 3)) -> Certificate:
        votes = [self.sv(kind, i, view, digest) for i in by]
        return make_certificate(votes[0].vote, votes, self.validators)

    def frame(
        self, view: int, digest: bytes, justify: tuple[Certificate, ...] = (), *, body: bool = True
    ) -> ev.Propose:
        signed = self.sv(PROPOSE, self.validators.leader(self.height, view), view, digest)
        return ev.Propose(signed, BODY[digest] if body else None, justify)

    def say(self, *frames: ev.Frame, peer: int = 1) -> Bench:
        return self.feed(*(ev.Msg(self.peers[peer], f) for f in frames))

    def votes(self, kind: int, view: int, digest: bytes = b"", by: tuple[int, ...] = (1, 2, 3)) -> Bench:
        return self.say(*(self.sv(kind, i, view, digest) for i in by))

    def propose(self, view: int, digest: bytes, *justify: Certificate, body: bool = True) -> Bench:
        return self.say(self.frame(view, digest, justify, body=body))

    def timeout(self) -> Bench:
        """The patience with the current leader ends."""
        timer = [e for e in self.effects if isinstance(e, ev.SetTimer) and e.kind == ev.VIEW][-1]
        return self.feed(ev.Timer(timer.kind, timer.height, timer.view, timer.generation))

    def tick(self, kind: str = ev.STATUS) -> Bench:
        timer = [e for e in self.effects if isinstance(e, ev.SetTimer) and e.kind == kind][-1]
        return self.feed(ev.Timer(timer.kind, timer.height, timer.view, timer.generation))

    # --- what came of it ----------------------------------------------------------------------------

    def signed(self) -> list[tuple[int, int, bytes]]:
        return [(e.vote.kind, e.vote.view, e.vote.digest) for e in self.effects if isinstance(e, ev.Sign)]

    def of(self, kind: type) -> list[Any]:
        return [e for e in self.effects if isinstance(e, kind)]

    def sent(self, kind: type) -> list[Any]:
        return [
            e.frame
            for e in self.effects
            if isinstance(e, ev.Send | ev.Broadcast) and isinstance(e.frame, kind)
        ]

    @property
    def view(self) -> int:
        return int(self.machine.h.view)

    def forget_effects(self) -> Bench:
        self.effects.clear()
        return self

    def forget_effects_keep_timers(self) -> Bench:
        self.effects = [e for e in self.effects if isinstance(e, ev.SetTimer)]
        return self
