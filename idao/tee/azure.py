"""Azure confidential VMs: the hardware report speaks of the paravisor, the vTPM inside it of the guest.

HCL report = 32-byte header "HCLA", the hardware report (1184 bytes), a 20-byte header and JSON. The
report's data begin with the SHA-256 of that JSON, which holds the vTPM's key; the vTPM quotes the guest's
PCRs. So MRTD, RTMR and MEASUREMENT measure the paravisor: only PCRs count as the guest's.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

from idao.errors import Malformed
from idao.frozen import frozen
from idao.tee import certs, dcap, intel, quote, roots, snp, tpm
from idao.tee.given import Given
from idao.tee.policy import TeePolicy
from idao.tee.result import Findings

HARDWARE = 32
RUNTIME = HARDWARE + snp.SIZE
RUNTIME_HEADER = 20
SHA256 = 1
SNP_REPORT, TDX_REPORT = 2, 4


@frozen
class Parts:
    """The three documents, and what the SNP report needs beside it."""

    hcl: bytes
    attest: bytes
    signature: bytes
    """RSASSA with SHA-256, as the bare block."""
    pcrs: tuple[bytes, ...]
    """The SHA-256 bank, PCR 0 first."""
    td_quote: bytes
    certificates: tuple[bytes, ...]


@frozen
class Hcl:
    kind: int
    report: bytes
    runtime: bytes
    """The JSON, exactly as hashed."""
    claims: dict[str, Any]


def parse_hcl(raw: bytes) -> Hcl:
    """`Malformed` unless header, report and runtime data fit."""
    if len(raw) < RUNTIME + RUNTIME_HEADER or raw[:4] != b"HCLA":
        raise Malformed("not an HCL report")
    _, _, kind, hash_kind, size = struct.unpack_from("<5I", raw, RUNTIME)
    start = RUNTIME + RUNTIME_HEADER
    runtime = raw[start : start + size]
    if len(runtime) != size or hash_kind != SHA256 or kind not in (SNP_REPORT, TDX_REPORT):
        raise Malformed("HCL report with strange runtime data")
    if any(raw[start + size :]):
        raise Malformed("bytes after the runtime data")
    try:
        claims = json.loads(runtime)
    except (ValueError, RecursionError) as e:
        raise Malformed("runtime data are not JSON") from e
    if not isinstance(claims, dict):
        raise Malformed("runtime data are not JSON")
    return Hcl(kind, raw[HARDWARE:RUNTIME], runtime, claims)


def _key(claims: dict[str, Any]) -> Any:
    """The vTPM's RSA attestation key (JWK `HCLAkPub`)."""
    keys = claims.get("keys")
    found = (
        [k for k in keys if isinstance(k, dict) and k.get("kid") == "HCLAkPub"]
        if isinstance(keys, list)
        else []
    )
    if len(found) != 1:
        raise Malformed("runtime data without one attestation key")
    try:
        n, e = (int.from_bytes(base64.urlsafe_b64decode(found[0][x] + "=="), "big") for x in ("n", "e"))
        return certs.rsa_key(n, e)
    except (KeyError, TypeError, ValueError) as e:
        raise Malformed("the attestation key is no RSA key") from e


def _user_data(claims: dict[str, Any]) -> bytes:
    """What the guest wrote into the vTPM for the next report; empty if nothing."""
    try:
        return bytes.fromhex(claims.get("user-data", ""))
    except (ValueError, TypeError):
        return b""


def judge(
    found: Findings, parts: Parts, given: Given, policy: TeePolicy, now_ms: int, trust: roots.Trust
) -> None:
    """Judges the hardware evidence, the vTPM's quote and the links between them."""
    hcl = parse_hcl(parts.hcl)
    if found.kind not in ("azure-snp" if hcl.kind == SNP_REPORT else "azure-tdx", "simulated"):
        raise Malformed("the HCL report is of the other hardware")
    hardware = Findings(found.kind)
    if hcl.kind == SNP_REPORT:
        given = Given(certificates=parts.certificates).joined(given)
        snp.judge(hardware, hcl.report, given, policy, now_ms, trust)
        report_data = hcl.report[0x50:0x90]
    else:
        report_data = _tdx(hardware, parts.td_quote, given, policy, now_ms, trust)
    found.checks += hardware.checks
    found.warnings += hardware.warnings
    found.tcb_status, found.advisories = hardware.tcb_status, hardware.advisories
    found.platform = hardware.platform
    found.collateral_ms, found.revoked_ms = hardware.collateral_ms, hardware.revoked_ms
    found.not_before_ms, found.not_after_ms = hardware.not_before_ms, hardware.not_after_ms
    found.measurements.update({f"paravisor_{k}": v for k, v in hardware.measurements.items()})
    linked = report_data == hashlib.sha256(hcl.runtime).digest() + bytes(32)
    found.check("runtime data", linked, "", "binding")
    attest = tpm.parse_attest(parts.attest)
    signature = tpm.Signature(tpm.RSASSA, 0x000B, parts.signature)
    found.check("vtpm quote", tpm.verifies(_key(hcl.claims), signature, parts.attest), "", "signature")
    found.check("nonce", bool(attest.extra))
    tpm.check_digest(found, attest, tuple((0x000B, i, v) for i, v in enumerate(parts.pcrs)))
    found.bound = tuple(b for b in (attest.extra, _user_data(hcl.claims)) if any(b))
    found.region = hardware.region + parts.attest
    found.level = "tee"


def _tdx(
    found: Findings, raw: bytes, given: Given, policy: TeePolicy, now_ms: int, trust: roots.Trust
) -> bytes:
    """The report data, judged by own code alone: the library refuses every paravisor for running without
    SEPT_VE_DISABLE."""
    q = quote.parse(raw)
    quote.describe(found, q, paravisor=True)
    collateral = intel.check_statements(found, q, given, policy, now_ms, trust)
    if collateral is not None:
        dcap.check_signatures(found, q, collateral.parts, now_ms, trust)
    return q.report_data
