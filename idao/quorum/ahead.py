"""Frames that came before their height (R11), and what peers claim to have reached."""

from __future__ import annotations

from idao.quorum.events import Frame, Peer

HEIGHTS_AHEAD = 2
"""Frames for later heights are kept this far: peers are at most so far ahead without a catch-up."""
AHEAD_PER_PEER = 8
"""Frames kept per peer and later height: a proposal, two votes, three certificates, and room for a view."""


class Ahead:
    """Kept unchecked, because the validator set of a later height is not known yet."""

    __slots__ = ("_claims", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[int, dict[Peer, list[Frame]]] = {}
        self._claims: dict[Peer, int] = {}

    def __len__(self) -> int:
        """Frames waiting."""
        return sum(len(frames) for peers in self._waiting.values() for frames in peers.values())

    def keep(self, current: int, peer: Peer, number: int, frame: Frame) -> bool:
        """Keeps a frame of `number` while at `current`; whether `peer` was not known to be that far."""
        if number <= current + HEIGHTS_AHEAD:
            frames = self._waiting.setdefault(number, {}).setdefault(peer, [])
            if len(frames) < AHEAD_PER_PEER and frame not in frames:
                frames.append(frame)
        news = self._claims.get(peer, 0) < number
        if news:
            self.claim(peer, number)
        return news

    def claim(self, peer: Peer, number: int) -> None:
        self._claims[peer] = number

    def enter(self, number: int) -> list[tuple[Peer, Frame]]:
        """What waited for this height, peer by peer in the order it came."""
        for earlier in [n for n in self._waiting if n < number]:
            del self._waiting[earlier]
        return [(p, f) for p, frames in self._waiting.pop(number, {}).items() for f in frames]

    def claimants(self, current: int) -> list[Peer]:
        """Peers that claim more than `current`: hints, tested by asking."""
        self._claims = {p: n for p, n in self._claims.items() if n > current}
        return sorted(self._claims)
