"""What judged evidence means for others: an appraisal to sign, a requirement of a proof, JSON to show.

Readers judge again from the evidence; an appraisal only says what its signer saw.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from idao.crypto import canonical
from idao.crypto.keys import did_key
from idao.errors import IdaoError, Malformed, UsageError
from idao.frozen import frozen
from idao.model import Hash, Range, Size, Word
from idao.tee import binding, envelope
from idao.tee.result import ALIASES, KINDS, LEVELS, AttestationResult

VERSION = 1
"""Raised whenever the same inputs may get another verdict, so that appraisals can be told apart."""
COUNT_MAX = 64


@frozen
class Appraisal:
    """One validator's judgement as it goes into a transaction. The ledger stores it and never repeats it."""

    v: Annotated[int, Range(1, 1)]
    evidence: Hash
    policy: Hash
    verifier: Word
    kind: Word
    level: Word
    reason: Annotated[str, Size(0, 64)]
    judged_ms: int


def appraisal(result: AttestationResult, now_ms: int) -> Appraisal:
    """What to sign. `Malformed` if the evidence was too broken to have an identity."""
    if not result.evidence_id:
        raise Malformed("evidence without a signed region cannot be appraised")
    return Appraisal(
        v=1,
        evidence=result.evidence_id,
        policy=result.policy,
        verifier=f"idao-tee-{VERSION}",
        kind=result.kind,
        level=result.level,
        reason=result.reason,
        judged_ms=now_ms,
    )


def check_form(packed: bytes) -> tuple[str, binding.Claims]:
    """(kind, claims) of evidence in idao's envelope, by size and form alone: what a ledger may check.

    The answer depends on no verifier, library or clock. `Malformed` otherwise.
    """
    if len(packed) > envelope.EVIDENCE_BYTES_MAX:
        raise Malformed("the evidence is too large")
    evidence = canonical.unpack(envelope.Evidence, packed)
    if evidence.kind not in KINDS or evidence.kind == "nvidia":
        raise Malformed(f"evidence of kind '{evidence.kind}' backs no key")
    return evidence.kind, canonical.unpack(binding.Claims, evidence.claims)


@frozen
class Requirement:
    """`tee:2`, `tee-measured:1`, or of one vendor's kind: `tdx:1`."""

    word: str
    count: int

    def holds(self, results: Iterable[AttestationResult]) -> bool:
        """Do at least `count` accepted results reach it? Pass one result for each cosigner."""
        return sum(self.counts(r) for r in results) >= self.count

    def counts(self, result: AttestationResult) -> bool:
        """Does this one? Simulated evidence counts for nothing but a requirement of that name."""
        if not result.accepted:
            return False
        if self.word == "simulated":
            return result.level == "simulated"
        if self.word in LEVELS:
            return LEVELS.index(result.level) >= LEVELS.index(self.word)
        return result.kind == self.word and result.level in ("tee", "tee-measured")


def requirement(text: str) -> Requirement:
    """The requirement of `--require`. `UsageError` for any other text."""
    word, colon, number = text.partition(":")
    word = ALIASES.get(word, word)
    known = word in LEVELS[1:] or word in ("sgx", "tdx", "sev-snp", "nitro", "azure-snp", "azure-tdx")
    if not known or not colon or not number.isascii() or not number.isdecimal() or len(number) > 2:
        raise UsageError(f"not a requirement: '{text}'", hint="for example tee:2, tee-measured:1 or tdx:1")
    if not 1 <= int(number) <= COUNT_MAX:
        raise UsageError(f"a requirement counts from 1 to {COUNT_MAX}")
    return Requirement(word, int(number))


def to_json(result: AttestationResult) -> dict[str, Any]:
    """The result with the keys of `idao tee verify --json`; times in ms UTC for the caller to format."""
    return {
        "accepted": result.accepted,
        "level": result.level,
        "kind": result.kind,
        "tcb_status": result.tcb_status,
        "advisories": list(result.advisories),
        "reason": result.reason,
        "checks": [{"name": c.name, "ok": c.ok, "detail": c.detail, "code": c.code} for c in result.checks],
        "measurements": dict(result.measurements),
        "bound": [b.hex() for b in result.bound],
        "evidence": result.evidence_id.hex(),
        "platform": result.platform,
        "policy": result.policy.hex(),
        "issued_ms": result.issued_ms,
        "not_before_ms": result.not_before_ms,
        "not_after_ms": result.not_after_ms,
        "warnings": list(result.warnings),
    }


def speaker(evidence: bytes) -> dict[str, str]:
    """Whom the evidence in idao's envelope says it backs, unjudged; empty for foreign evidence."""
    try:
        _, claims = check_form(evidence)
    except IdaoError:
        return {}
    return {
        "quorum": claims.quorum.hex(),
        "idao": claims.idao.hex(),
        "key": did_key(claims.key),
        "role": claims.role,
        "nonce": claims.nonce.hex(),
    }


class Memory:
    """Verdicts already reached, for a process that judges the same evidence again and again.

    Keyed by everything that a verdict depends on but the time; a verdict is reused within the same day and
    its own window only. The bytes themselves are in the key, not the identity of the evidence: other bytes
    with the same signed region may carry a broken signature.
    """

    DAY_MS = 24 * 3_600_000
    ENTRIES = 1024

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, ...], AttestationResult] = {}

    def get(self, key: tuple[bytes, ...], now_ms: int) -> AttestationResult | None:
        """The verdict for `key` (hashes of evidence, policy, collateral, binding) at this time, if known."""
        result = self._known.get((*key, str(now_ms // self.DAY_MS).encode()))
        if result is None or now_ms < result.not_before_ms:
            return None
        return result if result.not_after_ms is None or now_ms <= result.not_after_ms else None

    def put(self, key: tuple[bytes, ...], now_ms: int, result: AttestationResult) -> None:
        """Keeps an accepted verdict; a refusal may be cured by time and is judged anew."""
        if result.accepted:
            while len(self._known) >= self.ENTRIES:
                self._known.pop(next(iter(self._known)), None)
            self._known[(*key, str(now_ms // self.DAY_MS).encode())] = result
