"""When a validator that may have forgotten what it signed may sign again (ADR 0031, recovery)."""

from __future__ import annotations

from collections.abc import Mapping

from idao.model import ValidatorSet
from idao.quorum.events import Peer

MARGIN = 2
"""Heights above the answers' highest tip that stay unsigned."""
SIZE_MIN = 4
"""Below four validators no set of others is large enough: the operator types the height."""


def quarantine_until(
    tips: Mapping[Peer, int], validators: ValidatorSet, key: bytes, *, set_changes: int = 0
) -> int | None:
    """The height up to which the validator of `key` signs nothing, or None while too few have answered.

    `tips`: the height of the last committed block of each peer that answered, shown by its finalization: a
    mere claim could silence us for ever. Answers must come from power ≥ quorum_size without our own. Then,
    with G the highest height ever final here: own signatures are at heights ≤ G + 1; the finalizers of G hold
    a tip ≥ G − 1; any such answers include a correct one of them; so max(tips) ≥ G − 1, and nothing we may
    have signed lies above max(tips) + 2. `set_changes`: how often the set may have changed since the backup.
    """
    if len(validators.validators) < SIZE_MIN:
        return None
    answering = [v for v in validators.validators if v.key != key and v.idao in tips]
    if sum(v.power for v in answering) < validators.quorum_size:
        return None
    return max(tips[v.idao] for v in answering) + MARGIN + set_changes
