"""Liars have names and one sin each. Beside its sin a liar runs the honest machine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from idao.crypto.certificates import make_certificate
from idao.model import FINALIZE, NOTARIZE, NULLIFY, PROPOSE, Certificate, SignedVote, Vote
from idao.quorum import events as ev
from idao.quorum.machine import Machine

from .blocks import SimBlock, block_hash, parse
from .node import Disk, Node

if TYPE_CHECKING:
    from .world import World

OTHER_QUORUM = b"another quorum".ljust(32, b".")


class Shameless(Machine):
    """Does not mind meeting its own key elsewhere, and never halts."""

    def _halt(self, reason: str) -> None:
        return


class Liar(Node):
    """Base: signs whatever it likes, tells each peer what it likes."""

    sin = "none"

    @classmethod
    def copies_of(cls, world: World, index: int) -> list[Node]:
        return [cls(world, index)]

    def make_machine(self) -> Any:
        return Shameless(self.world.quorum, self.validator.key, self.world.keys.verify)

    def fail(self, what: str) -> None:
        return

    def check_speech(self, frame: ev.Frame) -> None:
        return

    def signed(
        self, kind: int, height: int, view: int, digest: bytes, quorum: bytes | None = None
    ) -> SignedVote:
        vote = Vote(kind, quorum or self.world.quorum, height, view, digest)
        return SignedVote(vote, max(self.seat(height), 0), self.world.keys.sign(self.index, vote))

    def other_block(self, like: bytes | None = None, *, view: int | None = None) -> tuple[bytes, bytes]:
        """Another valid block on our tip: (hash, bytes)."""
        view = self.machine.h.view if view is None else view
        if self.desk is not None:
            return self.desk.other(view)
        tip, parent_time = self.tip()
        height = len(self.disk.chain) + 1
        proposer = self.world.leader(height, view)
        block = SimBlock(height, view, proposer, tip, max(self.clock, parent_time + 1) + 1, ())
        data = (replace(parse(like), time_ms=parse(like).time_ms + 1, txs=()) if like else block).pack()
        return block_hash(data), data

    def emit(self, to: int, frame: ev.Frame) -> None:
        for said in self.outgoing(to, frame):
            self.world.send(self, to, said)

    def outgoing(self, to: int, frame: ev.Frame) -> list[ev.Frame]:
        return [frame]

    def mine(self, frame: ev.Frame) -> Vote | None:
        signed = frame.vote if type(frame) is ev.Propose else frame
        return (
            signed.vote
            if type(signed) is SignedVote and signed.signer == self.seat(signed.vote.height)
            else None
        )

    def half(self, to: int) -> bool:
        return (to + self.world.plan.seed) % 2 == 0


class TwoBlocks(Liar):
    """As leader proposes one block to half of its peers and another to the rest, and votes for both."""

    sin = "equivocating leader"

    def outgoing(self, to: int, frame: ev.Frame) -> list[ev.Frame]:
        if type(frame) is ev.Propose and self.mine(frame) and frame.block and self.half(to):
            vote = frame.vote.vote
            digest, data = self.other_block(frame.block)
            other = replace(frame, vote=self.signed(PROPOSE, vote.height, vote.view, digest), block=data)
            return [other, self.signed(NOTARIZE, vote.height, vote.view, digest)]
        return [frame]


class TwoVotes(Liar):
    """Votes one thing to some and its opposite to others: another block, or nullify for finalize."""

    sin = "equivocating voter"

    def outgoing(self, to: int, frame: ev.Frame) -> list[ev.Frame]:
        vote = self.mine(frame)
        if vote is None or type(frame) is not SignedVote or not self.half(to):
            return [frame]
        h = self.machine.h
        others = [s.vote.digest for s in h.proposals.values() if s.vote.digest != vote.digest]
        digest = others[-1] if others else bytes(31) + b"?"
        opposite = {
            NOTARIZE: (NOTARIZE, digest),
            FINALIZE: (NULLIFY, b""),
            NULLIFY: (FINALIZE, digest),
        }[vote.kind]
        lie = self.signed(opposite[0], vote.height, vote.view, opposite[1])
        return [lie, frame] if self.world.rng.random() < 0.5 else [lie]


class Nuller(Liar):
    """Finalizes a view and nullifies it too, to everybody; half its peers hear the nullify first."""

    sin = "nullifies what it finalizes"

    def outgoing(self, to: int, frame: ev.Frame) -> list[ev.Frame]:
        vote = self.mine(frame)
        if vote is not None and vote.kind in (NOTARIZE, FINALIZE):
            null = self.signed(NULLIFY, vote.height, vote.view, b"")
            return [null, frame] if self.half(to) else [frame, null]
        return [frame]


class Silent(Liar):
    """Says nothing at all."""

    sin = "silent"

    def outgoing(self, to: int, frame: ev.Frame) -> list[ev.Frame]:
        return []


class Dead(Liar):
    """Its process died: its connections close."""

    sin = "dead"

    def boot(self) -> None:
        for other in self.world.nodes:
            self.world.after(60, lambda o=other: o.turn(ev.PeerDown(self.peer)))


class Withholder(Liar):
    """Proposes blocks and never shows them; shows everything else."""

    sin = "withholds bodies"

    def outgoing(self, to: int, frame: ev.Frame) -> list[ev.Frame]:
        if type(frame) is ev.Body:
            return []
        # One victim at a time gets the body, so that a notarization is just possible.
        if type(frame) is ev.Propose and to % 3:
            return [replace(frame, block=None)]
        return [frame]


class Laggard(Liar):
    """Does everything right, just under the time-out."""

    sin = "lagging"

    def emit(self, to: int, frame: ev.Frame) -> None:
        life = self.life
        self.world.after(
            700 + self.world.rng.randint(0, 290),
            lambda: self.world.send(self, to, frame) if life == self.life else None,
        )


class Amnesiac(Liar):
    """Restarts without its rows every now and then and signs again."""

    sin = "amnesiac"

    def boot(self) -> None:
        super().boot()
        life = self.life
        self.world.after(self.world.rng.randint(20, 2500), lambda: life == self.life and self.forget())

    def forget(self) -> None:
        chain = self.disk.chain
        self.die()
        self.disk = Disk()
        self.disk.chain = chain
        self.boot()


class BadBlocks(Liar):
    """Proposes blocks that nobody can execute to its state root, and votes for them."""

    sin = "invalid blocks"

    def tamper(self, block: SimBlock) -> SimBlock:
        return replace(block, note="bad")

    def judge(self, e: ev.Validate) -> str:
        verdict = super().judge(e)
        return ev.VALID if verdict == ev.INVALID else verdict


class ClockLiar(Liar):
    """Proposes blocks from an hour ahead, or just too far for some."""

    sin = "clock liar"

    def tamper(self, block: SimBlock) -> SimBlock:
        lead = self.world.rng.choice((3_600_000, 10_000, 11_000))  # the latter are early to some only
        return replace(block, time_ms=block.time_ms + lead)


class Flooder(Liar):
    """Adds to each frame votes for views and heights far ahead, bodies nobody asked for, huge numbers."""

    sin = "flooder"

    def outgoing(self, to: int, frame: ev.Frame) -> list[ev.Frame]:
        rng, number = self.world.rng, len(self.disk.chain) + 1
        if rng.random() > 0.3:
            return [frame]
        junk: list[ev.Frame] = [frame]
        for _ in range(6):
            digest, data = rng.randbytes(32), rng.randbytes(64)
            far = rng.choice([1, 2, 3, 100, 2**62])
            junk += [
                self.signed(rng.choice([NOTARIZE, FINALIZE]), number, far, digest),
                self.signed(NULLIFY, number + far, far, b""),
                ev.Body(number, digest, data),
                ev.Body(number + rng.choice([0, 1, 2]), digest, data),
                ev.GetBlock(number, digest),
            ]
        return junk


class Replayer(Liar):
    """Replays frames of earlier heights, and speaks as it would in another quorum."""

    sin = "replayer"

    def __init__(self, world: World, index: int) -> None:
        super().__init__(world, index)
        self.heard: list[ev.Frame] = []

    def hear(self, sender: int, frame: ev.Frame) -> None:
        if len(self.heard) < 200:
            self.heard.append(frame)
        super().hear(sender, frame)

    def outgoing(self, to: int, frame: ev.Frame) -> list[ev.Frame]:
        vote = self.mine(frame)
        said = [frame]
        if self.heard and self.world.rng.random() < 0.3:
            said.append(self.world.rng.choice(self.heard))
        if vote is not None and type(frame) is SignedVote:
            # Valid signatures, of a chain with the same heights and members but another id.
            said.append(self.signed(vote.kind, vote.height, vote.view, vote.digest, OTHER_QUORUM))
            digest = b"" if vote.kind == FINALIZE else bytes(32)
            kind = NULLIFY if vote.kind == FINALIZE else NOTARIZE
            said.append(self.signed(kind, vote.height, vote.view, digest, OTHER_QUORUM))
            said.append(self.decided_elsewhere(vote.height, vote.view))
        if type(frame) is ev.Propose and vote is not None:
            elsewhere = self.decided_elsewhere(vote.height, vote.view)
            said.append(replace(frame, justify=(elsewhere, *frame.justify[:60])))
        return said

    def decided_elsewhere(self, height: int, view: int) -> Certificate:
        """What the same people with the same keys really finalized in another quorum."""
        vote = Vote(FINALIZE, OTHER_QUORUM, height, view, bytes(32))
        members = self.world.set_at(height)
        signers = [self.world.index_of[v.idao] for v in members.validators]
        votes = [SignedVote(vote, i, self.world.keys.sign(s, vote)) for i, s in enumerate(signers)]
        return make_certificate(vote, votes, members)


class Leftover(Liar):
    """Votes as if the set of an earlier epoch still decided: under the number it had there."""

    sin = "replayer across epochs"

    def outgoing(self, to: int, frame: ev.Frame) -> list[ev.Frame]:
        vote = frame.vote.vote if type(frame) is ev.Propose else getattr(frame, "vote", None)
        if type(vote) is SignedVote:
            vote = vote.vote
        if type(vote) is not Vote:
            return [frame]
        now, said = self.seat(vote.height), [frame]
        for height in range(max(1, vote.height - 6), vote.height):
            seat = self.seat(height)
            if seat not in (now, -1):
                for kind in (NOTARIZE, FINALIZE, NULLIFY):
                    lie = self.signed(kind, vote.height, vote.view, b"" if kind == NULLIFY else bytes(32))
                    said.append(replace(lie, signer=seat))
        return said


class Forger(Liar):
    """Sends certificates that do not hold, in every way one can fail to."""

    sin = "forger"

    def outgoing(self, to: int, frame: ev.Frame) -> list[ev.Frame]:
        rng = self.world.rng
        if rng.random() > 0.4 or self.machine is None:
            return [frame]
        h, n = self.machine.h, len(self.machine.h.validators.validators)
        digest, data = self.other_block()
        kind = rng.choice([NOTARIZE, FINALIZE, NULLIFY])
        view = rng.choice([h.view, h.view, h.view + 1])
        vote = Vote(kind, self.world.quorum, h.number, view, b"" if kind == NULLIFY else digest)
        real = self.world.keys.sign(self.index, vote)
        width = (n + 7) // 8
        everyone = ((1 << n) - 1).to_bytes(width, "little")
        forged: list[ev.Frame] = [
            Certificate(vote, everyone, (real,) * n),  # others' names, own signature
            Certificate(
                vote, (1 << max(self.seat(h.number), 0)).to_bytes(width, "little"), (real,)
            ),  # too little power
            Certificate(vote, (2 ** (8 * width) - 1).to_bytes(width, "little"), (real,) * (8 * width)),
            Certificate(vote, bytes(width), ()),
            Certificate(vote, everyone + b"\0", (real,) * n),
            Certificate(vote, everyone, (real,) * (n - 1)),
            self.in_the_leaders_name(h.number, h.view, digest, data),
            SignedVote(vote, n, real),
            SignedVote(vote, (self.index + 1) % n, real),
        ]
        held = list(h.all_certificates())
        if held:
            c = rng.choice(held)
            garbage = bytes(64)
            forged.append(replace(c, signatures=(*c.signatures[:-1], garbage)))
            forged.append(Certificate(vote, c.bitmap, c.signatures))  # good signatures of something else
        lies = rng.sample(forged, 3)
        return [ev.Body(h.number, digest, data), *lies, frame]

    def in_the_leaders_name(self, height: int, view: int, digest: bytes, data: bytes) -> ev.Propose:
        vote = Vote(PROPOSE, self.world.quorum, height, view, digest)
        leader = self.world.set_at(height).leader(height, view)
        return ev.Propose(SignedVote(vote, leader, self.world.keys.sign(self.index, vote)), data, ())


class Tamperer(Liar):
    """As relay: strips what justifies a proposal, swaps bodies for garbage."""

    sin = "tampering relay"

    def __init__(self, world: World, index: int) -> None:
        super().__init__(world, index)
        self.tampered: set[SignedVote] = set()

    def outgoing(self, to: int, frame: ev.Frame) -> list[ev.Frame]:
        if type(frame) is ev.Body:
            return [replace(frame, block=frame.block + b"!")]
        if type(frame) is ev.Propose:
            return [replace(frame, justify=(), block=b"9|" + (frame.block or b""))]
        return [frame]

    def hear(self, sender: int, frame: ev.Frame) -> None:
        super().hear(sender, frame)
        # Once each: two tamperers would else tamper with each other's for ever.
        if type(frame) is ev.Propose and frame.block is not None and frame.vote not in self.tampered:
            self.tampered.add(frame.vote)
            broken = replace(frame, justify=(), block=frame.block + b"!")
            for to in range(self.world.n):
                if to != self.index:
                    self.world.send(self, to, broken)


class StatusLiar(Liar):
    """Claims heights nobody reached, holds nothing, asks for everything."""

    sin = "status liar"

    def outgoing(self, to: int, frame: ev.Frame) -> list[ev.Frame]:
        if type(frame) is ev.Status:
            lies = (
                replace(frame, height=2**62),
                replace(frame, height=0, tip=bytes(32)),
                replace(frame, tip=bytes(32)),
                replace(frame, view=2**62, notarized=b"\xff" * 128, nullified=b"\xff" * 128),
                replace(frame, view=0, notarized=b"", nullified=b"", proposal=False),
            )
            return [self.world.rng.choice(lies)]
        return [frame]


class Usurper(Liar):
    """Proposes although it is not the leader."""

    sin = "usurper"

    def outgoing(self, to: int, frame: ev.Frame) -> list[ev.Frame]:
        vote = self.mine(frame)
        if vote is None or vote.kind == PROPOSE or self.machine.h.number != vote.height:
            return [frame]
        tip, parent_time = self.tip()
        view = self.machine.h.view
        data = SimBlock(
            vote.height, view, self.index, tip, max(self.clock, parent_time + 1), (), "bad"
        ).pack()
        digest = block_hash(data)
        return [ev.Propose(self.signed(PROPOSE, vote.height, view, digest), data, ()), frame]


LIARS: dict[str, type[Liar]] = {
    c.__name__: c
    for c in (
        TwoBlocks,
        TwoVotes,
        Nuller,
        Silent,
        Dead,
        Withholder,
        Laggard,
        Amnesiac,
        BadBlocks,
        ClockLiar,
        Flooder,
        Replayer,
        Leftover,
        Forger,
        Tamperer,
        StatusLiar,
        Usurper,
    )
}
