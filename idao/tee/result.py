"""What judging a piece of TEE evidence yields: a verdict per check, a level, and what the evidence says.

The words are those of RATS (RFC 9334). A level is a value apart from validity: it says what kind of root
stands behind evidence whose every check passed. It never rises because a check was skipped.
"""

from __future__ import annotations

from idao.crypto.hashing import Kind, digest
from idao.filled import each, filled
from idao.frozen import frozen

LEVELS = ("none", "simulated", "tpm-unrooted", "tpm-rooted", "tee", "tee-measured")
"""From worthless to most: `tee` is a vendor's root and an agreeing policy, `tee-measured` also a known
measurement. `none` is evidence that failed, or that backs nothing by itself (a GPU alone)."""

KINDS = ("sgx", "tdx", "sev-snp", "nitro", "tpm", "azure-snp", "azure-tdx", "cca", "nvidia", "simulated")
"""The formats known. `simulated` is a kind of its own with a root of its own."""

ALIASES = {"snp": "sev-snp", "az-snp": "azure-snp", "az-tdx": "azure-tdx", "nv": "nvidia", "gpu": "nvidia"}
"""Other spellings that `--kind` takes."""

REASONS: dict[str, str] = {
    "too-large": "the evidence is larger than any real one",
    "malformed": "the bytes are not evidence of this kind",
    "kind-unknown": "the bytes are no evidence of a known kind",
    "verifier-missing": "the part that judges this kind is not installed",
    "rak-binding": "the realm key is not the one in the platform token",
    "collateral-missing": "no collateral was given",
    "root": "the chain does not end at the vendor's pinned root",
    "cert-expired": "a certificate is not valid at this time",
    "collateral-expired": "the collateral is not valid at this time",
    "chain": "a certificate is not signed by its issuer, or is none of this vendor's",
    "revoked": "a certificate of the chain is revoked",
    "fmspc-mismatch": "the collateral is of another platform",
    "collateral": "the collateral is not what it claims to be",
    "signature": "a signature does not verify",
    "hw-id": "the certificate is of another chip",
    "qe-identity": "the quoting enclave is not Intel's",
    "debug": "debugging is on: whoever runs the host can read the secrets",
    "service-td": "a service TD can reach into this TD",
    "tcb-not-supported": "the platform is below every level the vendor knows",
    "product": "the policy does not accept this product",
    "attributes": "an attribute is unsafe or unknown",
    "version": "the policy does not accept this version of the report",
    "signing-key": "the policy does not accept this kind of signing key",
    "vmpl": "the report was made at another privilege level",
    "tcb-mismatch": "certificate and report speak of different firmware",
    "tcb-floor": "the firmware is older than the policy allows",
    "tcb-status": "the policy does not accept this TCB status",
    "advisory": "an advisory that the policy refuses applies",
    "pcr-digest": "the quoted PCRs are not the ones shown",
    "event-log": "the event log does not lead to the measured registers",
    "sha1": "a SHA-1 bank proves nothing",
    "nonce": "there is no fresh nonce",
    "binding": "the evidence does not bind this key",
    "claims-expired": "the claims bound by the evidence have expired",
    "stale": "the evidence is older than the policy allows",
    "measurement": "the measurement is not on the policy's list",
    "platform": "the machine is not one the policy knows",
    "trailing": "bytes that nobody signs stand behind the evidence",
    "verifiers-disagree": "two verifiers judge this evidence differently",
    "simulated": "this is a simulation, and the policy does not ask for one",
    "level": "evidence of this level does not count under this policy",
    "kind": "the policy does not name this kind of evidence",
}
"""Reason codes in order of precedence: of several failed checks the first here is the reason given."""

_RANK = {code: i for i, code in enumerate(REASONS)}


@frozen
class Check:
    """One verdict. `code` is the reason code it gives when not `ok`."""

    name: str
    ok: bool
    detail: str
    code: str


@filled
class Findings:
    """What one format's reader saw, before the policy speaks of level, age, binding and measurement."""

    kind: str
    level: str = "none"
    """What the evidence is worth if every check passes."""
    region: bytes = b""
    """The signed bytes: the identity of the evidence (other bytes are malleable)."""
    bound: tuple[bytes, ...] = ()
    """Fields that the attester may fill: report data, user data, nonce, extra data."""
    tcb_status: str = ""
    advisories: tuple[str, ...] = ()
    measurements: dict[str, str] = each(factory=dict)
    """Register name -> lower-case hex, as signed."""
    platform: str = ""
    """A stable id of the machine (PPID, CHIP_ID), or empty where there is none."""
    issued_ms: int | None = None
    """When the document says it was made, if it says so."""
    collateral_ms: int | None = None
    """When the vendor made the oldest of its statements on levels or revocation that were judged."""
    revoked_ms: int | None = None
    """When the vendor revoked a part of the chain, if it did."""
    not_before_ms: int = 0
    not_after_ms: int | None = None
    checks: list[Check] = each(factory=list)
    warnings: list[str] = each(factory=list)

    def check(self, name: str, ok: bool, detail: str = "", code: str = "") -> bool:
        """Notes a verdict; `code` defaults to the name. Returns `ok`."""
        code = code or name
        if code not in REASONS:
            raise ValueError(f"no such reason: {code}")
        self.checks.append(Check(name, ok, detail, code))
        return ok

    def stated(self, at_ms: int) -> None:
        """Notes when a statement was made."""
        self.collateral_ms = at_ms if self.collateral_ms is None else min(self.collateral_ms, at_ms)

    def window(self, low_ms: int, high_ms: int) -> None:
        """Narrows the time in which this judgement holds."""
        self.not_before_ms = max(self.not_before_ms, low_ms)
        self.not_after_ms = high_ms if self.not_after_ms is None else min(self.not_after_ms, high_ms)

    @property
    def ok(self) -> bool:
        return all(c.ok for c in self.checks)


@frozen
class AttestationResult:
    """The judgement. From `not_before_ms` to `not_after_ms` (ms UTC) the same inputs give it again."""

    kind: str
    accepted: bool
    level: str
    reason: str
    """Empty when accepted, else a key of `REASONS`."""
    tcb_status: str
    advisories: tuple[str, ...]
    checks: tuple[Check, ...]
    measurements: tuple[tuple[str, str], ...]
    bound: tuple[bytes, ...]
    evidence_id: bytes
    """32 bytes, or empty when nothing signed could be read."""
    platform: str
    policy: bytes
    issued_ms: int | None
    not_before_ms: int
    not_after_ms: int | None
    warnings: tuple[str, ...]
    collateral_ms: int | None = None
    """When the vendor made the oldest of its statements (levels, revocation) that were judged."""
    revoked_ms: int | None = None
    """When the vendor revoked a part of the chain, if it did."""


def evidence_id(kind: str, region: bytes) -> bytes:
    """The identity of evidence: hash of its kind and signed region, never of its malleable bytes."""
    return digest(Kind.ATTESTATION, kind.encode() + b"\0" + region) if region else b""


def first_reason(checks: list[Check]) -> str:
    """The code of the failed check that takes precedence; empty if none failed."""
    return min((c.code for c in checks if not c.ok), key=_RANK.__getitem__, default="")
