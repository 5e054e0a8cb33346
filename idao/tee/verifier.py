"""The one door to judging TEE evidence: evidence, collateral, policy and time in, a verdict out.

Pure: no clock, no network, no disk beyond the package's own roots. Every refusal is a failed check with a
reason code, never an exception; what could not be checked has failed.
"""

from __future__ import annotations

from collections.abc import Iterable

from idao.errors import IdaoError, Malformed
from idao.tee import azure, binding, cca, envelope, eventlog, intel, nitro, nvidia, roots, snp, tpm
from idao.tee.collateral import expand
from idao.tee.given import Given
from idao.tee.policy import STRICT, TeePolicy
from idao.tee.result import (
    ALIASES,
    KINDS,
    LEVELS,
    REASONS,
    AttestationResult,
    Check,
    Findings,
    evidence_id,
    first_reason,
)

__all__ = ["KINDS", "LEVELS", "REASONS", "AttestationResult", "Check", "appraise", "detect"]

_JUDGES = {
    "sgx": intel.judge,
    "tdx": intel.judge,
    "sev-snp": snp.judge,
    "nitro": nitro.judge,
    "tpm": tpm.judge,
    "cca": cca.judge,
    "nvidia": nvidia.judge,
}
UNEXPECTED = "unexpected"
"""Begins the detail of a refusal that no reader foresaw."""
_BY_LEVEL = ("level", "simulated", "kind")
"""Checks that say only that the policy wants another level: evidence may still be worth what it is."""


def detect(evidence: bytes) -> str:
    """The kind that the bytes are; empty if none."""
    try:
        return envelope.parse(evidence).kind
    except IdaoError:
        return ""


def appraise(
    kind: str | None,
    evidence: bytes,
    collateral: Given | Iterable[bytes],
    policy: TeePolicy = STRICT,
    now_ms: int = 0,
    bind: binding.Expected | None = None,
) -> AttestationResult:
    """Judges `evidence` at `now_ms` (ms UTC) under `policy`.

    `kind` None takes the kind that the bytes are; any other must be it. `collateral` are files (certificates,
    CRLs, Intel's JSON, bundles, keys) or what `collateral.expand` made of them; what the evidence
    itself carries is added. `bind` names what the evidence must back. Never raises for bad input.
    """
    found = Findings(ALIASES.get(kind or "", kind or ""))
    try:
        files = collateral if isinstance(collateral, Given) else expand(collateral)
        parsed = envelope.parse(evidence)
        if kind is not None and parsed.kind != found.kind:
            raise Malformed(f"this is evidence of kind {parsed.kind}")
        found.kind = parsed.kind
        _judge(found, parsed, files.joined(parsed.given), policy, now_ms)
        binding.check(found, parsed.claims, bind, policy, now_ms)
        if bind is None and not parsed.claims:
            found.warnings.append("no key was named that the evidence should back")
    except IdaoError as e:
        found.check("form", False, e.message, e.code if e.code in REASONS else "malformed")
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as e:  # the last net below libraries that read hostile bytes; tests see it as a bug
        found.check("form", False, f"{UNEXPECTED} {type(e).__name__}", "malformed")
    _apply_policy(found, policy, now_ms)
    return _result(found, policy)


def _judge(found: Findings, parsed: envelope.Parsed, files: Given, policy: TeePolicy, now_ms: int) -> None:
    """Runs the judge of the kind; what it saw before giving up stays in `found`."""
    trust, inner = roots.VENDORS, parsed
    if parsed.kind == "simulated":
        if parsed.inner is None or parsed.inner.kind == "simulated":
            raise Malformed("simulated evidence of nothing")
        trust, inner = roots.SIMULATED, parsed.inner
    if inner.azure is not None:
        azure.judge(found, inner.azure, files, policy, now_ms, trust)
    elif inner.tpm is not None:
        tpm.judge_parts(found, inner.tpm, files, now_ms, trust)
    else:
        _JUDGES[inner.kind](found, inner.blob, files, policy, now_ms, trust)
    if parsed.kind == "simulated":
        found.warnings.append(f"SIMULATED {inner.kind}: no hardware stands behind this")
        found.kind, found.level, found.platform = "simulated", "simulated", ""
    for data in files.files if inner.kind == "tdx" else ():
        log = eventlog.of_file(data)
        if log is not None:
            count = len(eventlog.checked(log, found.measurements))
            found.check("event log", True, f"{count} entries proven", "event-log")


def _apply_policy(found: Findings, policy: TeePolicy, now_ms: int) -> None:
    """What the policy says of kind, level, machine and age."""
    if found.issued_ms is not None:
        age = now_ms - found.issued_ms
        found.window(found.issued_ms - policy.clock_skew_ms, found.issued_ms + policy.max_age_ms)
        found.check("age", -policy.clock_skew_ms <= age <= policy.max_age_ms, f"{age} ms", "stale")
    if policy.platforms:
        found.check("known machine", found.platform in policy.platforms, found.platform, "platform")
    if found.level == "tee":
        image = measured(found, policy)
        wanted = policy.least_level == "tee-measured"
        found.check("measurement", bool(image) or not wanted, image or "on no list")
        if image:
            found.level = "tee-measured"
    found.check("kind", found.kind in policy.kinds, found.kind or "unknown")
    if found.level == "simulated":
        found.check("simulated", policy.least_level == "simulated", "", "simulated")
    least = LEVELS.index(policy.least_level)
    found.check("level", LEVELS.index(found.level) >= least, f"{found.level}, least {policy.least_level}")


def measured(found: Findings, policy: TeePolicy) -> str:
    """The name of the first set of the policy whose every register holds its value; empty if none.

    A set must name one register of each group in `_MEASURES` for the kind: the others hold whatever the code
    that runs, or its host, puts there.
    """
    sets: dict[str, list[tuple[str, str]]] = {}
    for m in policy.measurements:
        if m.kind == found.kind:
            sets.setdefault(m.set, []).append((m.register, m.value.lower()))
    for name, entries in sets.items():
        named = {register for register, _ in entries}
        groups = _MEASURES.get(found.kind, ())
        whole = bool(groups) and all(named & group for group in groups)
        if whole and all(found.measurements.get(r) == v for r, v in entries):
            return name
    return ""


_PCRS = frozenset(f"pcr{n}" for n in range(tpm.PCRS))
_MEASURES: dict[str, tuple[frozenset[str], ...]] = {
    "sgx": (frozenset({"mrenclave", "mrsigner"}),),
    "tdx": (frozenset({"mrtd"}),),
    "sev-snp": (frozenset({"measurement"}),),
    "nitro": (frozenset({"pcr0", "pcr8"}),),
    # Any guest can dress as a paravisor and quote what registers it likes under a key of its own: its own
    # measurement must be known, and the PCRs measure the guest behind it.
    "azure-snp": (frozenset({"paravisor_measurement"}), _PCRS),
    "azure-tdx": (frozenset({"paravisor_mrtd"}), _PCRS),
}
"""What the maker of the hardware measures of the code before it runs, by kind."""


def _result(found: Findings, policy: TeePolicy) -> AttestationResult:
    sound = all(c.ok for c in found.checks if c.name not in _BY_LEVEL)
    if found.level in ("tee", "tee-measured"):
        sound = found.ok
    return AttestationResult(
        kind=found.kind,
        accepted=found.ok,
        level=found.level if sound else "none",
        reason=first_reason(found.checks),
        tcb_status=found.tcb_status,
        advisories=found.advisories,
        checks=tuple(found.checks),
        measurements=tuple(sorted(found.measurements.items())),
        bound=found.bound,
        evidence_id=evidence_id(found.kind, found.region),
        platform=found.platform,
        policy=policy.digest,
        issued_ms=found.issued_ms,
        not_before_ms=found.not_before_ms,
        not_after_ms=found.not_after_ms,
        warnings=tuple(found.warnings),
        collateral_ms=found.collateral_ms,
        revoked_ms=found.revoked_ms,
    )
