"""What became known of evidence after it was judged: newer collateral tells it, and changes no old verdict.

A proof is judged at its own time with the collateral that travels with it. A part that is revoked later, or
whose firmware falls behind later, was in order then: both facts are shown, each with its date.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from idao.errors import IdaoError
from idao.frozen import frozen
from idao.tee import collateral, verifier
from idao.tee.given import Given
from idao.tee.policy import TeePolicy
from idao.tee.result import AttestationResult

FACTS = ("revoked", "tcb-not-supported", "tcb-status", "advisory")
"""Reasons that a vendor's later statements can give; all others concern the evidence itself or its age."""
_DOUBTED = (
    *("too-large", "malformed", "kind-unknown", "verifier-missing", "collateral-missing", "root", "chain"),
    *("collateral-expired", "fmspc-mismatch", "collateral", "signature", "qe-identity"),
)
"""Of collateral that gives one of these nothing is believed: it is broken, or of another machine."""


@frozen
class Fact:
    """One thing known later. Times in ms UTC."""

    reason: str
    """One of `FACTS`."""
    tcb_status: str
    advisories: tuple[str, ...]
    since_ms: int
    """When the vendor revoked the part; else when it stated the rest."""
    stated_ms: int
    """When the vendor signed the statement that says so."""


@frozen
class Later:
    """What newer collateral says: nothing bad, as of `as_of_ms`, unless there are facts; oldest first."""

    facts: tuple[Fact, ...] = ()
    as_of_ms: int | None = None
    """Date of the newest statements that fit the evidence; None if none did."""


def states(files: Iterable[bytes]) -> bool:
    """Is there anything in `files` that a vendor states anew from time to time?"""
    return bool(_statements(tuple(files)))


def look(
    evidence: bytes,
    then: AttestationResult,
    files: Iterable[bytes],
    policy: TeePolicy,
    now_ms: int,
) -> Later:
    """What `files` (bundles, or vendors' files) say of evidence that was judged as `then`.

    Only statements not older than those of that judgement, and made by `now_ms` (ms UTC), count.
    """
    facts: dict[tuple[str, str], Fact] = {}
    as_of: int | None = None
    for given, low, high in _statements(tuple(files)):
        if low > now_ms or (then.collateral_ms is not None and low < then.collateral_ms):
            continue
        result = verifier.appraise(None, evidence, given, policy, min(now_ms, high))
        if any(c.code in _DOUBTED for c in result.checks if not c.ok):
            continue
        stated = result.collateral_ms
        if stated is None:
            continue
        as_of = stated if as_of is None else max(as_of, stated)
        for fact in _facts(result, stated, then):
            known = facts.get((fact.reason, fact.tcb_status))
            if known is None or fact.stated_ms < known.stated_ms:
                facts[fact.reason, fact.tcb_status] = fact
    return Later(tuple(sorted(facts.values(), key=lambda f: (f.since_ms, f.reason))), as_of)


def _facts(result: AttestationResult, stated_ms: int, then: AttestationResult) -> list[Fact]:
    """What fails now and did not fail then."""
    failed, before = ({c.code for c in r.checks if not c.ok} for r in (result, then))
    out = []
    for reason in FACTS:
        if reason in failed - before:
            since = result.revoked_ms if reason == "revoked" else None
            out.append(Fact(reason, result.tcb_status, result.advisories, since or stated_ms, stated_ms))
    return out


@lru_cache(maxsize=4)  # the same files for every cosigner of a proof
def _statements(files: tuple[bytes, ...]) -> list[tuple[Given, int, int]]:
    """(files, first, last moment) of each set of statements: bundles and Intel's JSON stand alone.

    What has no window states nothing.
    """
    alone: list[bytes] = []
    rest: list[bytes] = []
    for data in files:
        own = collateral.looks_like(data) or data.lstrip()[:1] == b"{"
        (alone if own else rest).append(data)
    out = []
    for group in (*([a] for a in alone), rest):
        found = _window(group)
        if found is not None:
            out.append(found)
    return out


def _window(group: Sequence[bytes]) -> tuple[Given, int, int] | None:
    try:
        given = collateral.expand(group)
        spans = collateral.statements(given)
    except IdaoError:
        return None
    if not spans:
        return None
    return given, max(low for _, low, _ in spans), min(high for _, _, high in spans) - 1
