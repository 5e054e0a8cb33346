"""After a divergence: which transaction, and which record of it, is not here as it was certified.

All peers are asked at once for their receipts of the block. They may not have it yet, or be cut off before
they answer: as long as nothing explains the difference, one after another is asked again.
"""

from __future__ import annotations

from idao.node import messages as msg
from idao.node.parts import Whole

PATIENCE_TICKS = 5
"""Seconds that one has to answer: receipts of a block are some hundred kilobytes on a slow line."""


class Explaining:
    """Asks once the engine has halted so; `tick` comes every second."""

    def __init__(self, member: Whole) -> None:
        self._member = member
        self._asking = False
        self._ticks = 0
        self._tried: set[bytes] = set()

    def begin(self) -> None:
        self._asking = True
        self._member.broadcast(self._question())

    def tick(self) -> None:
        if not self._asking:
            return
        self._ticks += 1
        if self._ticks < PATIENCE_TICKS:
            return
        if not self._member.up - self._tried:
            self._tried.clear()
        for peer in sorted(self._member.up - self._tried):
            self._tried.add(peer)
            if self._member.tell(peer, self._question()):
                self._ticks = 0
                return

    def on_receipts(self, theirs: msg.Receipts) -> None:
        """Only receipts that lead to what was certified are believed (`engine.difference`)."""
        engine = self._member.engine
        if not self._asking or theirs.height != engine.tip.height + 1 or not theirs.leaves:
            return
        if found := engine.difference(theirs.leaves):
            self._asking = False
            engine.explain_halt(found)
            self._member.on_trouble("halted", found)

    def _question(self) -> msg.GetReceipts:
        return msg.GetReceipts(self._member.engine.tip.height + 1)
