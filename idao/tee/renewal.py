"""When a validator's evidence must be made anew: a rule over what is known of it, without a clock.

Evidence ends when its claims end, when the policy's age limit is reached, or when something that its
judgement rests on ends (a leaf of three hours, collateral of a month). It is renewed when two thirds of that
time have passed, so that a failed attempt can be repeated while the old evidence still counts.
"""

from __future__ import annotations

from idao.frozen import frozen

HOUR_MS = 3_600_000
LOOK_AGAIN_MS = 15 * 60_000
"""While evidence is due: a device, a ledger or a vendor that fails now may answer in a quarter of an hour."""
LOOK_MS_MAX = 6 * HOUR_MS
"""Longest time without looking: collateral, policy or key may change meanwhile."""
GAP_MS = HOUR_MS
"""Least time between two renewals of evidence that will end soon anyway, such as with old collateral: each
one is two transactions."""

WHY = {
    "unattested": "nothing is registered",
    "key": "the registered evidence backs another key",
    "ended": "its claims have ended",
    "stale": "it is older than the policy allows",
    "refused": "it does not hold up any more",
    "ending": "most of its time has passed",
}
"""Why evidence is due, in the order in which they are looked for."""


@frozen
class Held:
    """What is known of a validator's newest registered evidence."""

    beacon_ms: int
    """Time of the block that it names: when its life began."""
    not_after_ms: int
    """When its claims end."""
    holds_until_ms: int | None
    """Until when the judgement holds; None without a limit, and when it does not hold now."""
    sound: bool
    """Is it worth any level now?"""
    own_key: bool
    """Does it back the key that the validator signs with now?"""


@frozen
class Due:
    """Whether to attest now: `why` is a key of `WHY`, or empty; `next_ms` (ms UTC) is when to look again."""

    why: str
    next_ms: int

    @property
    def now(self) -> bool:
        return bool(self.why)


def due(held: Held | None, max_age_ms: int, now_ms: int) -> Due:
    """Is evidence due at `now_ms`, under a policy whose greatest age is `max_age_ms`?"""
    why = _why(held, max_age_ms, now_ms)
    if why or held is None:
        return Due(why, now_ms + LOOK_AGAIN_MS)
    return Due("", min(_from(held, max_age_ms), now_ms + LOOK_MS_MAX))


def _why(held: Held | None, max_age_ms: int, now_ms: int) -> str:
    if held is None:
        return "unattested"
    if not held.own_key:
        return "key"
    if now_ms > held.not_after_ms:
        return "ended"
    if now_ms > held.beacon_ms + max_age_ms:
        return "stale"
    if not held.sound:
        return "refused"
    return "ending" if now_ms >= _from(held, max_age_ms) else ""


def _from(held: Held, max_age_ms: int) -> int:
    """The moment from which on it is due: two thirds of its life, and not too soon after the last one."""
    end = min(held.not_after_ms, held.beacon_ms + max_age_ms)
    if held.holds_until_ms is not None:
        end = min(end, held.holds_until_ms)
    gap = min(GAP_MS, max_age_ms // 4)
    return max(held.beacon_ms + (end - held.beacon_ms) * 2 // 3, held.beacon_ms + gap)
