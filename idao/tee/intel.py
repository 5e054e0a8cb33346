"""Judging Intel SGX and TDX quotes: `dcap-qvl` for the cryptography, and around it what it leaves open.

The library alone is no decision: it returns normally for platforms out of date, takes TCB info or QE
identity signed by any leaf under Intel's root, compares neither PCEID nor evaluation numbers and takes
trailing bytes (ADR 0021). Here the collateral is read strictly, its signer pinned by key, the TCB level
computed a second time, and both must agree. Names of Intel's steps: 4.1.2.4.x of its QVL.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from idao.errors import Malformed
from idao.frozen import frozen
from idao.tee import certs, dcap, quote, roots
from idao.tee.given import Given, unhex
from idao.tee.policy import TeePolicy
from idao.tee.result import Findings

if TYPE_CHECKING:
    from idao.tee.x509 import Certificate

PARTS = (
    "pck_crl_issuer_chain",
    "root_ca_crl",
    "pck_crl",
    "tcb_info_issuer_chain",
    "tcb_info",
    "tcb_info_signature",
    "qe_identity_issuer_chain",
    "qe_identity",
    "qe_identity_signature",
)


COLLATERAL_BYTES_MAX = 1024 * 1024
"""Real collateral has 14 to 25 kB; the processor authority's revocation list may add 400 kB of hex."""
EVALUATIONS_APART = 1
"""Intel publishes TCB info and QE identity one after the other: a real pair has the numbers 20 and 19."""


@frozen
class Collateral:
    """The nine parts as text, and the two signed objects parsed."""

    parts: dict[str, str]
    own_chain: str
    """A PCK chain that came with the collateral; it may only repeat the quote's."""
    tcb: dict[str, Any]
    qe: dict[str, Any]

    text: str
    """The nine parts again, for the library."""


def _object(text: str | bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            raise Malformed("a key of the collateral stands twice", code="collateral")
        return out

    try:
        value = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as e:
        raise Malformed("the collateral is not JSON", code="collateral") from e
    if not isinstance(value, dict):
        raise Malformed("the collateral is not a JSON object", code="collateral")
    return value


@lru_cache(maxsize=16)  # a platform's collateral is that of all its cosigners; nobody writes into it
def read_collateral(data: bytes) -> Collateral:
    """Collateral in the common JSON form (Intel's PCS answers); `Malformed` otherwise."""
    if len(data) > COLLATERAL_BYTES_MAX:
        raise Malformed("the collateral is too large", code="collateral")
    top = _object(data)
    own = top.get("pck_certificate_chain") or ""
    if not all(isinstance(top.get(p), str) for p in PARTS) or not isinstance(own, str):
        raise Malformed("the collateral lacks a part", code="collateral")
    parts = {p: top[p] for p in PARTS}
    return Collateral(
        parts, own, _object(parts["tcb_info"]), _object(parts["qe_identity"]), json.dumps(parts)
    )


# --- levels (PCS API v4, TCB info and identity algorithms) --------------------


_WORSE = ("UpToDate", "SWHardeningNeeded", "TDRelaunchAdvised", "OutOfDate")


def _status(level: Any) -> tuple[str, tuple[str, ...]]:
    advisories = level.get("advisoryIDs") or []
    return str(level["tcbStatus"]), tuple(str(a) for a in advisories)


def _svns(entries: Any) -> list[int]:
    out = [int(e["svn"]) for e in entries]
    if len(out) != 16:
        raise ValueError("not sixteen components")
    return out


def platform_level(tcb: dict[str, Any], pck: quote.Pck, svn: bytes | None) -> dict[str, Any] | None:
    """The first level that the platform reaches (4.1.2.4.17); `svn` is TEE_TCB_SVN, None for SGX."""
    for level in tcb["tcbLevels"]:
        want = level["tcb"]
        if any(a > b for a, b in zip(_svns(want["sgxtcbcomponents"]), pck.svns, strict=True)):
            continue
        if int(want["pcesvn"]) > pck.pcesvn:
            continue
        if svn is not None:
            # With a module that has its own identity the first two numbers are judged there.
            first = 2 if svn[1] else 0
            pairs = list(zip(_svns(want["tdxtcbcomponents"]), svn, strict=True))[first:]
            if any(a > b for a, b in pairs):
                continue
        return dict(level)
    return None


def module_level(tcb: dict[str, Any], q: quote.Quote) -> tuple[bool, dict[str, Any] | None]:
    """(identity fits, its level) of the TDX module (4.1.2.4.11)."""
    version, svn = q.tee_tcb_svn[1], q.tee_tcb_svn[0]
    identity, level = tcb["tdxModule"], None
    if version:
        named = [m for m in tcb.get("tdxModuleIdentities") or [] if m["id"] == f"TDX_{version:02X}"]
        if not named:
            return False, None
        identity = named[0]
        level = next((lv for lv in identity["tcbLevels"] if int(lv["tcb"]["isvsvn"]) <= svn), None)
        if level is None:
            return False, None
    mask, want = (unhex(identity[k], k) for k in ("attributesMask", "attributes"))
    same = bytes(a & m for a, m in zip(q.body[112:120], mask, strict=True)) == want
    return same and q.body[64:112] == unhex(identity["mrsigner"], "mrsigner"), level


def qe_level(qe: dict[str, Any], report: bytes) -> tuple[bool, dict[str, Any] | None]:
    """(identity fits, its level) of the quoting enclave (4.1.2.4.14 and 15)."""

    def masked(at: int, size: int, name: str) -> bool:
        mask, want = unhex(qe[name + "Mask"], name), unhex(qe[name], name)
        if len(mask) != size or len(want) != size:
            return False
        return all(a & m == w & m for a, m, w in zip(report[at : at + size], mask, want, strict=True))

    fits = report[128:160] == unhex(qe["mrsigner"], "mrsigner")
    fits &= int.from_bytes(report[256:258], "little") == qe["isvprodid"]
    # MISCSELECT is written as a number: most significant byte first.
    select = int.from_bytes(report[16:20], "little")
    mask, want = int(qe["miscselectMask"], 16), int(qe["miscselect"], 16)
    fits &= masked(48, 16, "attributes") and select & mask == want & mask
    svn = int.from_bytes(report[258:260], "little")
    return fits, next((lv for lv in qe["tcbLevels"] if int(lv["tcb"]["isvsvn"]) <= svn), None)


def merge(platform: str, *others: str) -> str:
    """The platform's status after those of module and QE: out of date anywhere is out of date."""
    if "Revoked" in (platform, *others):
        return "Revoked"
    if not any(o.startswith("OutOfDate") for o in others):
        return platform
    if platform in _WORSE:
        return "OutOfDate"
    return "OutOfDateConfigurationNeeded"


# --- judging --------------------


def judge(
    found: Findings, raw: bytes, given: Given, policy: TeePolicy, now_ms: int, trust: roots.Trust
) -> None:
    """Judges a quote with Intel's collateral in `given`."""
    q = quote.parse(raw)
    quote.describe(found, q)
    collateral = check_statements(found, q, given, policy, now_ms, trust)
    if collateral is not None:
        _ask_library(found, q, collateral, policy, now_ms, trust)
    found.level = "tee"


def check_statements(
    found: Findings, q: quote.Quote, given: Given, policy: TeePolicy, now_ms: int, trust: roots.Trust
) -> Collateral | None:
    """All that needs no signature check: who signed, for whom, which level. None without collateral."""
    if not found.check("collateral given", bool(given.intel), "", "collateral-missing"):
        return None
    chain = certs.load_all(certs.pem_blocks(q.chain, "CERTIFICATE"))
    if len(chain) != 3:
        raise Malformed("the chain of the quote has not three certificates", code="chain")
    pck = quote.pck(chain[0])
    collateral = _fitting(given.intel, q, pck, now_ms)
    found.platform = pck.ppid.hex()
    try:
        _identity(found, q, collateral, chain, pck, trust)
        _level(found, q, collateral, pck, policy)
        _windows(found, collateral, chain, now_ms)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
        why = f"the collateral has a part of a strange form: {type(e).__name__}"
        raise Malformed(why, code="collateral") from e
    return collateral


def _fitting(files: tuple[bytes, ...], q: quote.Quote, pck: quote.Pck, now_ms: int) -> Collateral:
    """Of several pieces of collateral the first that is of this platform and of this time, or the first."""
    if len(files) == 1:
        return read_collateral(files[0])

    def rank(data: bytes) -> int:
        try:
            tcb = read_collateral(data).tcb
            mine = tcb["id"] == ("TDX" if q.tee == quote.TDX else "SGX")
            mine = mine and unhex(tcb["fmspc"], "fmspc") == pck.fmspc
            low, high = (certs.rfc3339_ms(tcb[k]) for k in ("issueDate", "nextUpdate"))
        except (Malformed, KeyError, TypeError):
            return 0
        return 1 + mine + (mine and low <= now_ms < high)

    return read_collateral(max(files, key=rank))


def _identity(
    found: Findings,
    q: quote.Quote,
    collateral: Collateral,
    chain: list[Certificate],
    pck: quote.Pck,
    trust: roots.Trust,
) -> None:
    """Whose statements these are, and of whom they speak."""
    found.check("root", certs.spki(chain[-1]) in trust.intel)
    by = certs.spki(chain[1]) in trust.intel_authorities
    named = "SGX PCK Certificate" in certs.name_of(chain[0])
    found.check("pck chain", by and named and chain[0].issuer == chain[1].subject, "", "chain")
    for part in ("tcb_info", "qe_identity"):
        issuers = certs.load_all(
            certs.pem_blocks(collateral.parts[f"{part}_issuer_chain"].encode(), "CERTIFICATE")
        )
        ok = bool(issuers) and certs.spki(issuers[0]) in trust.intel_signers
        found.check(f"{part} signer", ok, "", "collateral")
        pinned = bool(issuers) and certs.spki(issuers[-1]) in trust.intel
        found.check(f"{part} root", pinned, "", "root")
    own = certs.pem_blocks(collateral.own_chain.encode(), "CERTIFICATE")
    same = not own or own == certs.pem_blocks(q.chain, "CERTIFICATE")
    found.check("one pck chain", same, "" if same else "the collateral carries another machine's", "chain")
    tcb, qe = collateral.tcb, collateral.qe
    tdx = q.tee == quote.TDX
    ids = (tcb["id"], tcb["version"], qe["id"], qe["version"]) == (
        ("TDX", 3, "TD_QE", 2) if tdx else ("SGX", 3, "QE", 2)
    )
    found.check("collateral kind", ids and tcb["tcbType"] == 0, f"{tcb['id']} {qe['id']}", "collateral")
    fmspc = unhex(tcb["fmspc"], "fmspc")
    found.check("fmspc", fmspc == pck.fmspc, f"{fmspc.hex()}; {pck.fmspc.hex()}", "fmspc-mismatch")
    found.check("pceid", unhex(tcb["pceId"], "pceId") == pck.pceid, "", "fmspc-mismatch")


def _level(
    found: Findings, q: quote.Quote, collateral: Collateral, pck: quote.Pck, policy: TeePolicy
) -> None:
    """TCB status, advisories and evaluation numbers."""
    tcb, qe = collateral.tcb, collateral.qe
    numbers = [int(x["tcbEvaluationDataNumber"]) for x in (tcb, qe)]
    together = abs(numbers[0] - numbers[1]) <= EVALUATIONS_APART
    found.check("evaluation numbers", together, f"{numbers[0]}, {numbers[1]}", "collateral")
    least = policy.intel_least_evaluation
    found.check("evaluation", min(numbers) >= least, f"{min(numbers)}, least {least}", "tcb-status")
    tdx = q.tee == quote.TDX
    level = platform_level(tcb, pck, q.tee_tcb_svn if tdx else None)
    fits, enclave = qe_level(qe, q.qe_report)
    found.check("qe identity", fits and enclave is not None, "", "qe-identity")
    module_fits, module = module_level(tcb, q) if tdx else (True, None)
    found.check("module identity", module_fits, "", "tcb-not-supported")
    if not found.check("tcb level", level is not None, "", "tcb-not-supported"):
        return
    parts = [_status(x) for x in (level, module, enclave) if x is not None]
    found.tcb_status = merge(*(status for status, _ in parts))
    found.advisories = tuple(sorted({a for _, advisories in parts for a in advisories}))
    found.check("tcb status", found.tcb_status in policy.intel_statuses, found.tcb_status, "tcb-status")
    refused = sorted(set(found.advisories) & set(policy.intel_refused_advisories))
    found.check("advisories", not refused, ", ".join(refused), "advisory")


def _windows(found: Findings, collateral: Collateral, chain: list[Certificate], now_ms: int) -> None:
    """Times of everything that has one; at the moment of the next update the library counts it as over."""
    for part, value in (("tcb_info", collateral.tcb), ("qe_identity", collateral.qe)):
        low, high = (certs.rfc3339_ms(value[k]) for k in ("issueDate", "nextUpdate"))
        found.window(low, high - 1)
        found.stated(low)
        found.check(f"{part} window", low <= now_ms < high, value["nextUpdate"], "collateral-expired")
    for part in ("root_ca_crl", "pck_crl"):
        crl = certs.load_crl(unhex(collateral.parts[part], part))
        low, high = certs.crl_window(crl)
        found.window(low, high - 1)
        found.check(f"{part} window", low <= now_ms < high, "", "collateral-expired")
    for i, cert in enumerate(chain):
        low, high = certs.window(cert)
        found.window(low, high)
        found.check(f"chain: validity {i}", low <= now_ms <= high, certs.name_of(cert), "cert-expired")


# --- the library --------------------


def library() -> Any:
    """The compiled part of `dcap-qvl`, which holds all that is asked of it. `ImportError` if it is not there.

    Its Python part does nothing but look up its own version and offer to fetch collateral; that costs as much
    as judging a dozen quotes, so it is left aside.
    """
    import sys
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    name = "dcap_qvl._dcap_qvl"
    if (known := sys.modules.get(name)) is not None:
        return known
    package = None if "dcap_qvl" in sys.modules else PathFinder.find_spec("dcap_qvl")
    found = package and PathFinder.find_spec(name, package.submodule_search_locations)
    if not found or found.loader is None:
        from dcap_qvl import _dcap_qvl

        return _dcap_qvl
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return sys.modules.setdefault(name, module)  # known when it is ready, for whoever asks in another thread


def _ask_library(
    found: Findings,
    q: quote.Quote,
    collateral: Collateral,
    policy: TeePolicy,
    now_ms: int,
    trust: roots.Trust,
) -> None:
    """The library must verify every signature and come to the same level."""
    try:
        qvl = library()
    except ImportError:
        found.check("dcap-qvl", False, "install idao[tee]", "verifier-missing")
        return
    try:
        root = roots.certificates("simulated")[0] if trust.own_root else None
        judge = qvl.PyQuoteVerifier(root) if root else qvl.PyQuoteVerifier()
        theirs = _theirs(collateral.text)
        now_s = now_ms // 1000
        neutral = qvl.PyQuotePolicy.claims_only(now_s)
        claims = json.loads(judge.verify_with_policy(q.raw, theirs, now_s, neutral).to_json())
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as e:  # a panic of the library is no Exception, and a refusal all the same
        _explain(found, q, collateral, now_ms, trust, str(e))
        return
    tcb = claims["tcb"]
    if tcb["status"].startswith("TDRelaunchAdvised"):
        # Known only from TEE_TCB_SVN_2 of newer TDs, which the library judges.
        found.tcb_status = tcb["status"]
        found.check("td relaunch", tcb["status"] in policy.intel_statuses, tcb["status"], "tcb-status")
    agreed = tcb["status"] == found.tcb_status and tuple(sorted(tcb["advisory_ids"])) == found.advisories
    found.check("signatures", True, "", "signature")
    found.check("both verifiers agree", agreed, tcb["status"], "verifiers-disagree")


@lru_cache(maxsize=16)  # as many as are read
def _theirs(text: str) -> Any:
    """Collateral as the library wants it."""
    return library().PyQuoteCollateralV3.from_json(text)


def _explain(
    found: Findings, q: quote.Quote, collateral: Collateral, now_ms: int, trust: roots.Trust, words: str
) -> None:
    """Why the library refused: its words, and the own checks of signatures to name the reason."""
    dcap.check_signatures(found, q, collateral.parts, now_ms, trust)
    # If nothing else has failed, the refusal stands by itself.
    found.check("dcap-qvl", False, words[:200], "verifiers-disagree")
