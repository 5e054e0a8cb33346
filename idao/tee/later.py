"""What became known of evidence after it was judged: newer collateral tells it, and changes no old verdict.

A proof is judged at its own time with the collateral that travels with it. A part that is revoked later, or
whose firmware falls behind later, was in order then: both facts are shown, each with its date.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from idao.crypto import canonical
from idao.errors import IdaoError
from idao.frozen import frozen
from idao.tee import certs, collateral, envelope, quote, verifier
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
    return any(map(_window, _groups(tuple(files))))


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
    about = _about(evidence)
    groups = (g for g in _groups(tuple(files)) if about is not None and _may_concern(about, g))
    for given, low, high in filter(None, map(_window, groups)):
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


def _about(evidence: bytes) -> bytes | None:
    """Whose statements can speak of evidence: an Intel platform (FMSPC), AMD (empty), or nobody's (None)."""
    try:
        parsed = envelope.parse(evidence)
        parsed = parsed.inner or parsed
        raw = parsed.azure.td_quote if parsed.azure is not None else parsed.blob
        if parsed.kind in ("sgx", "tdx", "azure-tdx"):
            chain = certs.pem_blocks(quote.parse(raw).chain, "CERTIFICATE")
            return quote.pck(certs.load(chain[0])).fmspc
        return b"" if parsed.kind in ("sev-snp", "azure-snp") else None
    except (IdaoError, IndexError):
        return None


@lru_cache(maxsize=4)  # the same files for every cosigner of a proof
def _groups(files: tuple[bytes, ...]) -> tuple[tuple[bytes, ...], ...]:
    """The files as they are judged: bundles and Intel's JSON stand alone, all others together."""
    alone: list[bytes] = []
    rest: list[bytes] = []
    for data in files:
        own = collateral.looks_like(data) or data.lstrip()[:1] == b"{"
        (alone if own else rest).append(data)
    return (*((a,) for a in alone), tuple(rest))


@lru_cache(maxsize=256)
def _may_concern(about: bytes, group: tuple[bytes, ...]) -> bool:
    """Reading collateral takes longer than judging a cosigner: what names other platforms is left aside."""
    files = [part for data in group for part in _parts(data)]
    intel = [data for data in files if b"tcb_info" in data]
    if not about:
        return len(intel) < len(files)
    return any(about.hex().upper().encode() in data.upper() for data in intel)


def _parts(data: bytes) -> list[bytes]:
    """The files of a bundle, or the one that this is."""
    try:
        return [p.data for p in canonical.unpack(collateral.Bundle, data, limit=len(data)).parts]
    except IdaoError:
        return [data]


@lru_cache(maxsize=64)
def _window(group: tuple[bytes, ...]) -> tuple[Given, int, int] | None:
    """(files, first, last moment) of one set of statements; None for what has no window."""
    try:
        given = collateral.expand(group)
        spans = collateral.statements(given)
    except IdaoError:
        return None
    if not spans:
        return None
    return given, max(low for _, low, _ in spans), min(high for _, _, high in spans) - 1
