"""Judging evidence of trusted hardware, and showing the judgement: needs no home."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idao import __version__
from idao.crypto import canonical
from idao.crypto.hashing import Kind, digest
from idao.errors import Malformed, UsageError
from idao.frozen import frozen
from idao.hall import bundles
from idao.hall.bundles import show_ms
from idao.ledger import backing
from idao.model import show_id
from idao.store import givenfile
from idao.tee import binding
from idao.tee import policy as policies
from idao.tee.memory import Memory
from idao.tee.result import ALIASES, KINDS, AttestationResult

if TYPE_CHECKING:
    from idao.tee import later  # rests on the verifier, which is loaded where evidence is looked at

VENDORS = {
    "intel": ("sgx", "tdx", "azure-tdx"),
    "amd": ("sev-snp", "azure-snp"),
    "aws": ("nitro",),
    "arm": ("cca",),
}
"""Whose root stands behind a kind of evidence."""


def vendor_of(kind: str) -> str:
    """The vendor whose root backs a kind; empty for none."""
    return next((v for v, kinds in VENDORS.items() if kind in kinds), "")


def known_kind(text: str) -> str:
    """A kind by name or other spelling. `UsageError` for any other word."""
    kind = ALIASES.get(text, text)
    if kind not in KINDS:
        raise UsageError(f"no kind of evidence '{text}'", hint=f"one of: {', '.join(KINDS)}")
    return kind


def read_policy(text: str) -> policies.TeePolicy:
    """A built-in policy by name, or the one of a file."""
    if text in policies.BUILT_IN:
        return policies.BUILT_IN[text]
    path = Path(text)
    try:
        with givenfile.opened(path) as f:
            data = f.read(policies.FILE_BYTES_MAX + 1)
    except OSError as e:
        hint = "'strict', or a file as 'tee policy show' prints"
        raise UsageError(f"no TEE policy '{text}': {e.strerror}", hint=hint) from e
    if len(data) > policies.FILE_BYTES_MAX:
        raise UsageError("the policy file is too large")
    return policies.load(data)


def appraiser(chosen: policies.TeePolicy) -> backing.Appraiser:
    """Judges evidence under one policy; the verifier is loaded with the first piece."""

    def appraise(
        evidence: bytes, files: Sequence[bytes], expected: binding.Expected, at_ms: int
    ) -> AttestationResult:
        from idao.tee import verifier

        key = _everything(evidence, files, chosen, expected)
        known = _MEMORY.get(key, at_ms)
        if known is None:
            known = verifier.appraise(None, evidence, files, chosen, at_ms, expected)
            _MEMORY.put(key, at_ms, known)
        return known

    return appraise


_MEMORY = Memory()
"""For a node, which judges the same evidence again with every look at its quorum."""


def _everything(
    evidence: bytes, files: Sequence[bytes], chosen: policies.TeePolicy, expected: binding.Expected
) -> tuple[bytes, ...]:
    """Hashes of all that a verdict rests on but the time."""
    bound = [
        expected.quorum,
        expected.idao,
        expected.role,
        list(expected.keys),
        list(map(list, expected.beacons)),
    ]
    parts = (evidence, canonical.encode(bound), *files)
    return (chosen.digest, *(digest(Kind.EVIDENCE, part) for part in parts))


def read_newer(paths: Sequence[Path]) -> list[bytes]:
    """Collateral files or folders. `UsageError` if nothing in them is a vendor's statement."""
    from idao.tee import later

    files = [data for _, data in bundles.read_files(paths)]
    if paths and not later.states(files):
        raise UsageError("no revocation list, levels or bundle in the files given by --with")
    return files


def newer(
    one: backing.Attested,
    held: backing.Backing,
    files: Sequence[bytes],
    chosen: policies.TeePolicy,
    at_ms: int,
) -> later.Later:
    """What collateral other than its own says of judged evidence, as known at `at_ms`."""
    from idao.tee import later

    others = [f for f in files if f != held.collateral]
    return later.look(held.evidence, one.result, others, chosen, at_ms) if others else later.Later()


def verifier_name() -> str:
    """Name and versions of what judges here."""
    from importlib import metadata

    try:
        return f"idao-{__version__} dcap-qvl-{metadata.version('dcap-qvl')}"
    except metadata.PackageNotFoundError:
        return f"idao-{__version__}"


# --- showing ----------------------------------------------------------------------------------------


def show_result(result: AttestationResult, at_ms: int) -> dict[str, Any]:
    """A judgement as JSON."""
    return {
        "accepted": result.accepted,
        "level": result.level,
        "kind": result.kind,
        "vendor": vendor_of(result.kind) or None,
        "tcb_status": result.tcb_status,
        "advisories": list(result.advisories),
        "reason": result.reason,
        "checks": [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in result.checks],
        "evidence": result.evidence_id.hex() or None,
        "platform": result.platform or None,
        "collateral_issued": show_ms(result.collateral_ms),
        "measurements": dict(result.measurements),
        "bound": [b.hex() for b in result.bound],
        "policy": result.policy.hex(),
        "at": show_ms(at_ms),
        "issued": show_ms(result.issued_ms),
        "not_before": show_ms(result.not_before_ms),
        "not_after": show_ms(result.not_after_ms),
        "warnings": list(result.warnings),
    }


def show_attested(one: backing.Attested, known: later.Later | None = None) -> dict[str, Any]:
    """A cosigner's evidence as judged, and what newer collateral says of it, as JSON."""
    result, stated = one.result, one.result.collateral_ms
    return {
        "idao": show_id("idao", one.validator),
        "accepted": one.accepted,
        "level": one.level,
        "kind": result.kind,
        "vendor": vendor_of(result.kind) or None,
        "tcb_status": result.tcb_status,
        "advisories": list(result.advisories),
        "reason": one.reason,
        "evidence": one.record.evidence.hex(),
        "beacon": one.record.beacon,
        "age_ms": max(0, one.judged_ms - one.record.beacon_ms),
        "judged_at": show_ms(one.judged_ms),
        "not_after": show_ms(one.record.not_after_ms),
        "holds_until": show_ms(result.not_after_ms),
        "collateral": one.record.collateral.hex() or None,
        "collateral_age_ms": None if stated is None else max(0, one.judged_ms - stated),
        "later": [show_fact(f) for f in known.facts] if known else [],
        "later_as_of": show_ms(known.as_of_ms) if known else None,
        "warnings": list(result.warnings),
    }


def show_fact(fact: later.Fact) -> dict[str, Any]:
    """What became known later, as JSON."""
    return {
        "reason": fact.reason,
        "tcb_status": fact.tcb_status,
        "advisories": list(fact.advisories),
        "since": show_ms(fact.since_ms),
        "stated": show_ms(fact.stated_ms),
    }


def say_fact(fact: later.Fact) -> str:
    """What became known later, in words."""
    if fact.reason == "revoked":
        return f"revoked later, on {show_ms(fact.since_ms)}"
    what = {"tcb-status": fact.tcb_status, "advisory": ", ".join(fact.advisories)}
    return f"later judged {what.get(fact.reason, fact.reason)}, by collateral of {show_ms(fact.stated_ms)}"


# --- judging files ----------------------------------------------------------------------------------


@frozen
class Question:
    """How evidence shall be judged; `keys` are public keys as typed, or files of them."""

    kind: str = ""
    files: Sequence[bytes] = ()
    at_ms: int = 0
    policy: str = "strict"
    keys: Sequence[str] = ()


def verify(evidence: Sequence[tuple[str, bytes]], asked: Question) -> dict[str, Any]:
    """Judges pieces of evidence, (name, bytes) each, without home, key or network."""
    from idao.tee import collateral, verifier

    kind = known_kind(asked.kind) if asked.kind else None
    chosen = read_policy(asked.policy)
    keys = tuple(map(_read_key, asked.keys))
    expected = binding.Expected(keys=keys) if keys else None
    results = []
    try:
        given: Any = collateral.expand(asked.files)
    except Malformed:
        given = tuple(asked.files)  # too much of it: every result says so
    for name, data in evidence:
        result = verifier.appraise(kind, data, given, chosen, asked.at_ms, expected)
        results.append({"name": name, **show_result(result, asked.at_ms)})
    first = results[0] if len(results) == 1 else {}
    return {**first, "accepted": all(r["accepted"] for r in results), "results": results}


def _read_key(text: str) -> bytes:
    path = Path(text)
    try:
        if path.exists():
            return binding.read_key(bundles.read_file(path))
        return binding.read_key(text.encode())
    except (Malformed, OSError) as e:
        raise UsageError(f"not a public key: '{text}'", hint="did:key, hex, or a file with a key") from e
