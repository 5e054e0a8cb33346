"""What a running node does about evidence of hardware: attests again in time, and judges that of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from idao.errors import IdaoError, Pending
from idao.home import now_ms
from idao.tee.renewal import LOOK_AGAIN_MS

if TYPE_CHECKING:
    from idao.dao import Dao

SOON_MS = 1_000
"""What was signed and waits is looked at again with the next block; meanwhile nothing more is signed."""
OWN_MS = 10_000
"""How often the own evidence is judged while blocks come: key or collateral may have changed. A new policy is
looked at with the block that brings it."""


class Reattest:
    """A chore of the node, for every ledger of the home. It never waits for finality.

    Only what the owner has attested before is attested again, and a simulation only where the quorum's policy
    names the simulator. The evidence of others is looked at every time: each block may bring some.
    """

    def __init__(self, dao: Dao) -> None:
        self._dao = dao
        self._next: dict[str, int] = {}
        self._resting: dict[str, int] = {}
        """Ledgers on which judging others has failed, and until when it is let be."""
        self._policies: dict[str, bytes] = {}
        """Under which policy a ledger's own evidence was looked at last."""

    def __call__(self) -> None:
        """Looks at every ledger; what is wrong with one is raised after the others had their turn."""
        trouble = None
        for path in sorted(self._dao.home.ledgers_folder.glob("*.db")):
            try:
                self._look(path.stem)
            except IdaoError as e:
                trouble = trouble or e
        if trouble is not None:
            raise trouble

    def _look(self, stem: str) -> None:
        there = self._dao.on(stem)
        there.wait_s = 0
        try:
            if there.tee.waiting():  # signed earlier, and nobody to order it: no more of the same
                raise Pending("evidence waits for the other validators")
            if now_ms() >= self._resting.get(stem, 0):
                self._resting[stem] = now_ms() + LOOK_AGAIN_MS  # should it fail
                there.tee.appraise_others()
                del self._resting[stem]
            voted = there.tee.policy()[0].digest
            if now_ms() >= self._next.get(stem, 0) or self._policies.get(stem) != voted:
                self._policies[stem] = voted
                self._next[stem] = now_ms() + LOOK_AGAIN_MS  # also after a failure, which the node notes
                self._next[stem] = min(there.tee.keep(), now_ms() + OWN_MS)
        except Pending:
            self._resting.pop(stem, None)
            self._next[stem] = min(self._next.get(stem, 0), now_ms() + SOON_MS)
        finally:
            if (store := there.__dict__.get("store")) is not None:
                store.close()
