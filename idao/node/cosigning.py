"""Cosignatures between nodes: whose word on a committed head comes in, is asked for, and is kept.

None of it holds up a block: what a peer says is checked a little later, and a note that has grown is stored
with whatever is written next.
"""

from __future__ import annotations

import asyncio

from idao.errors import Malformed
from idao.node import messages as msg
from idao.node.parts import Whole
from idao.store.cosigns import Cosigned

CHECK_S = 0.005
"""Cosignatures are checked this much later: they must not hold up the very commit that they follow, here or
in other nodes that share the processors."""
WAITING_MAX = 4
"""Of one peer that wait so; further ones are checked at once."""
NOTES_S = 0.02
"""A grown note waits this long for a turn to store it with: one flush less per block under load."""


class Cosigning:
    """A member's part in anchoring."""

    def __init__(self, member: Whole, loop: asyncio.AbstractEventLoop) -> None:
        self._member, self._loop = member, loop
        self._waiting: list[tuple[bytes, Cosigned]] = []
        self._check: asyncio.TimerHandle | None = None
        self._notes: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        for handle in (self._check, self._notes):
            if handle is not None:
                handle.cancel()

    def tick(self) -> None:
        """Asks for what an anchor of the newest head lacks."""
        head = self._member.engine.heads.newest()
        if head is not None and not head.anchored:
            self._member.broadcast(msg.GetCosigns(head.height))

    def on_cosign(self, peer: bytes, c: msg.Cosign) -> None:
        """`Malformed` if it is checked at once and bad."""
        key = self._key_of(peer, c.height)
        if key is None:
            return
        cosigned = Cosigned(c.height, key, c.log, c.time_s, c.witness)
        if sum(other == peer for other, _ in self._waiting) >= WAITING_MAX:
            self._take(peer, cosigned)
            return
        self._waiting.append((peer, cosigned))
        if self._check is None:
            self._check = self._loop.call_later(CHECK_S, self._take_all)

    def _key_of(self, peer: bytes, height: int) -> bytes | None:
        engine = self._member.engine
        _, validators = engine.store.validators(min(height, engine.tip.height + 1))
        return next((v.key for v in validators.validators if v.idao == peer), None)

    def _take_all(self) -> None:
        self._check = None
        waiting, self._waiting = self._waiting, []
        for peer, cosigned in waiting:
            try:
                self._take(peer, cosigned)
            except Malformed as e:
                self._member.blame(peer, e.message)

    def _take(self, peer: bytes, cosigned: Cosigned) -> None:
        if self._member.engine.heads.take(peer, cosigned):
            self.anchored(cosigned.height)

    def anchored(self, height: int) -> None:
        """The note goes with the next turn that writes, or soon: nobody's safety waits for its flush."""
        if self._notes is None:
            self._notes = self._loop.call_later(NOTES_S, self._keep_notes)
        self._member.on_anchor(height)

    def _keep_notes(self) -> None:
        self._notes = None
        self._member.keep_notes()

    def answer(self, peer: bytes, height: int) -> None:
        engine = self._member.engine
        mine = next((c for c in engine.heads.held(height) if engine.is_own(c.key)), None)
        if mine is not None:
            self._member.tell(peer, msg.Cosign(height, mine.log, mine.time_s, mine.witness))
