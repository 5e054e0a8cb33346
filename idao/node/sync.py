"""Catching up: blocks that others have decided, fetched in ranges and judged one by one.

A peer's claim of a height is a hint that is tested by asking (GHSA-22qq-3xwm-r5x4 and its kin): one that did
not serve what it claimed is asked again only where nobody who has failed less often is ahead, and leaving
sync needs nobody's permission. While a range is applied nothing is signed: the machine enters the next
height afresh.
"""

from __future__ import annotations

from idao.errors import Malformed
from idao.node import messages as msg
from idao.node.parts import Whole

PATIENCE_TICKS = 5
"""Seconds for an answer: two megabytes on the slowest link worth having."""


class Sync:
    """Which peer is asked for what. At most one question is open."""

    def __init__(self, member: Whole) -> None:
        self._member = member
        self._claims: dict[bytes, int] = {}
        """Peer -> height it says it is deciding."""
        self._missed: dict[bytes, int] = {}
        """Peer -> how often it did not serve what it had claimed."""
        self._asked: bytes | None = None
        self._ticks = 0
        self._kept: dict[bytes, int] = {}
        """Peer -> first block whose body it has, as it says."""
        self._gone_ticks = 0

    @property
    def gone(self) -> int:
        """The block that is wanted, where every peer that is ahead has pruned it; else 0."""
        wanted = self._member.engine.tip.height + 1
        ahead = [p for p, h in self._claims.items() if h > wanted]
        return wanted if ahead and not any(self._has(p, wanted) for p in ahead) else 0

    def _has(self, peer: bytes, height: int) -> bool:
        return self._kept.get(peer, 1) <= height

    @property
    def active(self) -> bool:
        return self._asked is not None

    def hint(self, peer: bytes, height: int) -> None:
        """A peer says that it is deciding `height`."""
        self._claims[peer] = max(self._claims.get(peer, 0), height)
        self._next()

    def on_kept(self, peer: bytes, first: int) -> None:
        """What a peer has is said anew on each link: it may have pruned, or fetched all again."""
        self._kept[peer] = first
        if self._asked == peer and not self._has(peer, self._member.engine.tip.height + 1):
            self._asked = None
        self._next()

    def lost(self, peer: bytes) -> None:
        self._claims.pop(peer, None)
        self._kept.pop(peer, None)
        if self._asked == peer:
            self._asked = None
            self._next()

    def tick(self) -> None:
        gone = self.gone
        self._gone_ticks = self._gone_ticks + 1 if gone else 0
        if self._gone_ticks == PATIENCE_TICKS:  # by then others have had time to link
            why = f"block {gone} is needed here, and every member that is linked has pruned it"
            self._member.on_trouble("gone", why)
        if self._asked is not None:
            self._ticks += 1
            if self._ticks >= PATIENCE_TICKS:
                self._miss(self._asked)
                self.lost(self._asked)

    def _miss(self, peer: bytes) -> None:
        self._missed[peer] = self._missed.get(peer, 0) + 1

    def _next(self) -> None:
        if self._asked is not None:
            return
        wanted = self._member.engine.tip.height + 1
        self._claims = {p: h for p, h in self._claims.items() if h > wanted}
        for peer in sorted(self._claims, key=lambda p: (self._missed.get(p, 0), -self._claims[p], p)):
            if self._has(peer, wanted) and self._member.ask(peer, wanted):
                self._asked, self._ticks = peer, 0
                return

    def on_commits(self, peer: bytes, commits: msg.Commits) -> None:
        """An answer, or a block that a peer saw us lack. `Malformed` when it does not hold."""
        answered = peer == self._asked
        if answered:
            self._asked = None
        wanted = self._member.engine.tip.height + 1
        for old in commits.blocks[: max(0, wanted - commits.first)]:
            self._member.compare(peer, old.certificate)
        # What came twice, or was decided here meanwhile, is passed over: it is no offence.
        blocks = commits.blocks[wanted - commits.first :] if commits.first < wanted else commits.blocks
        if not blocks or commits.first > wanted:
            if answered:
                self._miss(peer)
                self._claims.pop(peer, None)
                self._next()
            return
        try:
            self._member.adopt(peer, msg.Commits(wanted, blocks))
        except Malformed:
            self._miss(peer)
            self._claims.pop(peer, None)
            self._next()
            raise
        self._next()
