"""Liars with a plan: those who show one victim what the rest shall not see, and twins."""

from __future__ import annotations

from typing import Any

from idao.model import FINALIZE, NOTARIZE, NULLIFY, PROPOSE, Certificate
from idao.quorum import events as ev
from idao.quorum.height import Height

from .liars import LIARS, Liar
from .node import Node
from .world import World


class Schemer(Liar):
    """Lets one victim see a block final, whose voice is held up, and as leader offers the rest another.

    It nullifies the victim's view to the others, gives its finalize to the victim alone, and in later views
    proposes a new block with whatever justification it has: none, one with a gap, or of another block.
    """

    sin = "unjustified leader"

    @property
    def victim(self) -> int:
        return self.world.plan.seed % self.world.n

    def outgoing(self, to: int, frame: ev.Frame) -> list[ev.Frame]:
        vote = self.mine(frame)
        if vote is not None and vote.kind == FINALIZE:
            return [frame] if to == self.victim else [self.signed(NULLIFY, vote.height, vote.view, b"")]
        # What the victim is to learn alone: finalizations, and the notarization from us.
        if type(frame) is Certificate and frame.vote.kind in (FINALIZE, NOTARIZE) and to != self.victim:
            return []
        return [frame]

    def turn(self, event: ev.Event) -> None:
        super().turn(event)
        self.offer()

    def offer(self) -> None:
        h: Height | None = self.machine.h if self.alive and self.machine is not None else None
        if h is None or not h.view or self.world.leader(h.number, h.view) != self.index or h.committed:
            return
        if (h.number, h.view) in self.offered:
            return
        self.offered.add((h.number, h.view))
        digest, data = self.other_block()
        certs = [c for v in range(h.view) for k in (NULLIFY, NOTARIZE) if (c := h.one(k, v))]
        newest = tuple(certs[-1:])
        for justify in (newest, (), tuple(certs)):
            frame = ev.Propose(self.signed(PROPOSE, h.number, h.view, digest), data, justify)
            for to in range(self.world.n):
                if to != self.index:
                    self.world.send(self, to, frame)
        vote = self.signed(NOTARIZE, h.number, h.view, digest)
        final = self.signed(FINALIZE, h.number, h.view, digest)
        for to in range(self.world.n):
            if to not in (self.index, self.victim):
                self.world.send(self, to, vote)
                self.world.send(self, to, final)

    def __init__(self, world: World, index: int) -> None:
        super().__init__(world, index)
        self.offered: set[tuple[int, int]] = set()


class Unheard(Schemer):
    """A schemer who only mutes: nullify to all but the victim, so that views are skipped beside a vote."""

    sin = "gap maker"

    def outgoing(self, to: int, frame: ev.Frame) -> list[ev.Frame]:
        vote = self.mine(frame)
        if vote is not None and vote.kind == NOTARIZE and to != self.victim:
            return [self.signed(NULLIFY, vote.height, vote.view, b""), frame]
        return super().outgoing(to, frame)


class Twin(Liar):
    """Two machines with one key, each talking to its own, changing side of the others."""

    sin = "twins"

    @classmethod
    def copies_of(cls, world: World, index: int) -> list[Node]:
        twins = [cls(world, index), cls(world, index)]
        twins[1].second = True
        return list(twins)

    second = False

    def hears(self, other: int) -> bool:
        """Sides change every half second, with overlap, by arithmetic on the seed alone."""
        if other in self.world.plan.liars:
            return True
        x = (other * 2654435761 + self.world.now // 500 * 40503 + self.world.plan.seed * 97) >> 4
        side = x % 5
        return side == 4 or (side % 2 == 1) == self.second

    def emit(self, to: int, frame: ev.Frame) -> None:
        if self.hears(to):
            self.world.send(self, to, frame)

    def accepts(self, sender: Node) -> bool:
        if isinstance(sender, Twin):
            return sender.second == self.second and sender.index != self.index
        return self.hears(sender.index)


class SteadyTwin(Twin):
    """Twins whose sides never change: the shape that forks a quorum when there are too many of them."""

    sin = "steady twins"

    def hears(self, other: int) -> bool:
        honest = [i for i in range(self.world.n) if i not in self.world.plan.liars]
        if other in self.world.plan.liars:
            return True
        return (honest.index(other) % 2 == 1) == self.second


class Copy(Liar):
    """A copied home: two honest processes with one key, who hear the same and must notice."""

    sin = "copied home"

    @classmethod
    def copies_of(cls, world: World, index: int) -> list[Node]:
        return [cls(world, index), cls(world, index)]

    def make_machine(self) -> Any:
        return self.world.machine_class(self.world.quorum, self.validator.key, self.world.keys.verify)


PLOTTERS = (Schemer, Unheard, Twin, SteadyTwin, Copy)
ALL_LIARS: dict[str, type[Liar]] = LIARS | {c.__name__: c for c in PLOTTERS}
