"""Fetches collateral from the vendors: the only part of the TEE room that uses the network, when asked.

Addresses are constants: none is ever taken from evidence, a peer or a setting of one. What comes back is
judged like any other collateral, so a false server can only withhold.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable

from idao.errors import Malformed, Unreachable
from idao.frozen import frozen
from idao.tee import certs, collateral, envelope, quote, snp
from idao.tee.given import FILE_BYTES_MAX

INTEL = "https://api.trustedservices.intel.com"
INTEL_ROOT_CRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
AMD = "https://kdsintf.amd.com"
TIMEOUT_S = 30
KINDS = ("sgx", "tdx", "azure-tdx", "sev-snp")
"""Whose vendors state something about them from time to time."""


@frozen
class Answer:
    body: bytes
    headers: dict[str, str]
    """Names in lower case."""


Get = Callable[[str], Answer]


def get(url: str) -> Answer:
    """One HTTPS request. `Unreachable` (exit code 11) says what to do when the vendor throttles."""
    if not url.startswith("https://"):
        raise Unreachable("only https is asked")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as r:
            body = r.read(FILE_BYTES_MAX + 1)
            headers = {k.lower(): v for k, v in r.headers.items()}
    except urllib.error.HTTPError as e:
        hint = "the vendor throttles: wait a minute and ask again" if e.code == 429 else None
        raise Unreachable(f"{urllib.parse.urlsplit(url).hostname} answered {e.code}", hint=hint) from e
    except (urllib.error.URLError, OSError, ValueError) as e:
        raise Unreachable(f"{urllib.parse.urlsplit(url).hostname} is not reachable: {e}") from e
    if len(body) > FILE_BYTES_MAX:
        raise Malformed("the vendor's answer is too large")
    return Answer(body, headers)


def update(evidence: bytes, now_ms: int, ask: Get = get) -> collateral.Bundle:
    """The collateral of the day for one piece of evidence, as a bundle."""
    parsed = envelope.parse(evidence)
    if parsed.kind in ("sgx", "tdx"):
        return _intel(parsed.blob, parsed.kind, now_ms, ask)
    if parsed.azure is not None and parsed.kind == "azure-tdx":
        return _intel(parsed.azure.td_quote, "tdx", now_ms, ask)
    if parsed.kind == "sev-snp":
        return _amd(parsed.blob, now_ms, ask)
    raise Malformed(f"evidence of kind {parsed.kind} needs no collateral from a vendor")


def _chain(answer: Answer, name: str) -> str:
    """An issuer chain comes URL-encoded in a header."""
    text = next((v for k, v in answer.headers.items() if k == name), "")
    if not text:
        raise Malformed(f"Intel's answer lacks the header {name}")
    return urllib.parse.unquote(text)


def _signed(answer: Answer, member: str) -> tuple[str, str]:
    """(the signed object exactly as sent, its signature): cut out by its braces, never written again."""
    text = answer.body.decode()
    try:
        signature = json.loads(text)["signature"]
    except (ValueError, KeyError, TypeError) as e:
        raise Malformed("Intel's answer is not JSON") from e
    start = re.search(rf'"{member}"\s*:\s*', text)
    if start is None:
        raise Malformed(f"Intel's answer lacks {member}")
    _, end = json.JSONDecoder().raw_decode(text, start.end())
    return text[start.end() : end], str(signature)


def _intel(raw: bytes, kind: str, now_ms: int, ask: Get) -> collateral.Bundle:
    q = quote.parse(raw)
    leaf, authority, *_ = certs.load_all(certs.pem_blocks(q.chain, "CERTIFICATE"))
    fmspc = quote.pck(leaf).fmspc.hex()
    ca = "platform" if "Platform" in certs.name_of(authority) else "processor"
    # The default 'standard' lags a year behind and hides newer advisories.
    tcb = ask(f"{INTEL}/{kind}/certification/v4/tcb?fmspc={fmspc}&update=early")
    qe = ask(f"{INTEL}/{kind}/certification/v4/qe/identity?update=early")
    crl = ask(f"{INTEL}/sgx/certification/v4/pckcrl?ca={ca}&encoding=der")
    root_crl = ask(INTEL_ROOT_CRL)
    parts = {
        "pck_crl_issuer_chain": _chain(crl, "sgx-pck-crl-issuer-chain"),
        "root_ca_crl": root_crl.body.hex(),
        "pck_crl": crl.body.hex(),
        "tcb_info_issuer_chain": _chain(tcb, "tcb-info-issuer-chain"),
        "qe_identity_issuer_chain": _chain(qe, "sgx-enclave-identity-issuer-chain"),
    }
    parts["tcb_info"], parts["tcb_info_signature"] = _signed(tcb, "tcbInfo")
    parts["qe_identity"], parts["qe_identity_signature"] = _signed(qe, "enclaveIdentity")
    file = json.dumps(parts).encode()
    return collateral.make(kind, [("intel", file)], fetched_ms=now_ms, source="Intel PCS")


def _amd(raw: bytes, now_ms: int, ask: Get) -> collateral.Bundle:
    report = snp.parse(raw)
    product = report.product
    if not product:
        raise Malformed("the report does not say which product it is of")
    line = product.capitalize()
    parts = snp.tcb(raw[0x180:0x188], product)
    chip = report.chip_id[:8] if product == "turin" else report.chip_id
    query = f"blSPL={parts.bootloader}&teeSPL={parts.tee}&snpSPL={parts.snp}&ucodeSPL={parts.microcode}"
    if product == "turin":
        query = f"fmcSPL={parts.fmc}&{query}"
    leaf = ask(f"{AMD}/vcek/v1/{line}/{chip.hex()}?{query}").body
    chain = ask(f"{AMD}/vcek/v1/{line}/cert_chain").body
    crl = ask(f"{AMD}/vcek/v1/{line}/crl").body
    files = [("vcek", leaf), ("chain", chain), ("crl", crl)]
    return collateral.make("sev-snp", files, fetched_ms=now_ms, source="AMD KDS")
