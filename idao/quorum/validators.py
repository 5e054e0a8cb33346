"""Which validators answer."""

from __future__ import annotations

from idao.model import ValidatorSet
from idao.quorum.events import Peer


class Liveness:
    """Who answers: the one thing that lets a machine give up on a leader before its time is up (R1, R6).

    Links as the shell reports them, and who was heard through others at this height."""

    __slots__ = ("_relayed", "_up")

    def __init__(self) -> None:
        self._up: dict[Peer, bool] = {}
        self._relayed: set[Peer] = set()

    def start_height(self) -> None:
        """Being heard through others counts for one height: a late relay must not revive the dead."""
        self._relayed.clear()

    def up(self, peer: Peer) -> None:
        self._up[peer] = True

    def down(self, peer: Peer) -> None:
        self._up[peer] = False
        self._relayed.discard(peer)

    def heard(self, peer: Peer) -> None:
        """A vote of `peer` came in, by whatever way."""
        self._relayed.add(peer)

    def answers(self, peer: Peer) -> bool:
        return peer in self._relayed or self._up.get(peer, False)

    def live_power(self, validators: ValidatorSet, me: int | None) -> int:
        """Power of the validators that answer, ourselves included."""
        return sum(v.power for i, v in enumerate(validators.validators) if i == me or self.answers(v.idao))

    def suspect(self, validators: ValidatorSet, index: int, me: int | None) -> bool:
        """Whether waiting for `index` is vain while the others can go on without it.

        Only a link that *went* down counts, so nobody is suspect while links are first being made.
        """
        peer = validators.validators[index].idao
        return (
            index != me
            and self._up.get(peer) is False
            and peer not in self._relayed
            and self.live_power(validators, me) >= validators.quorum_size
        )
