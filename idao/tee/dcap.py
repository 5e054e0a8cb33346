"""The signatures and revocation lists of an Intel quote and its collateral, checked with own code.

For quotes that the library refuses for a flag (Azure's paravisor runs without SEPT_VE_DISABLE) and to name
the reason when it refuses: it has no codes. Names of Intel's steps: 4.1.2.4.x of its QVL.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from idao.tee import certs, quote, roots
from idao.tee.given import unhex
from idao.tee.result import Findings


def check_signatures(
    found: Findings, q: quote.Quote, parts: Mapping[str, str], now_ms: int, trust: roots.Trust
) -> None:
    """Every signature from the roots down to the quote. `parts`: the collateral's, as its text has them."""
    chain = certs.load_all(certs.pem_blocks(q.chain, "CERTIFICATE"))
    certs.check_chain(found, chain, trust.intel, now_ms, name="pck")
    leaf, authority, root = chain
    for part in ("tcb_info", "qe_identity"):
        pem = parts[f"{part}_issuer_chain"].encode()
        signers = certs.load_all(certs.pem_blocks(pem, "CERTIFICATE"))
        certs.check_chain(found, signers, trust.intel, now_ms, name=part, expired="collateral-expired")
        signature = unhex(parts[f"{part}_signature"], f"{part}_signature")
        data = parts[part].encode()
        signed = bool(signers) and certs.ecdsa_raw(signers[0], signature, data, "sha256")
        found.check(f"{part} signature", signed, "", "collateral")
        root_crl = unhex(parts["root_ca_crl"], "root_ca_crl")
        certs.check_crl(found, root_crl, root, [authority, *signers[:1]], now_ms, f"{part}: root crl")
    pck_crl = unhex(parts["pck_crl"], "pck_crl")
    certs.check_crl(found, pck_crl, authority, [leaf], now_ms, "pck crl")
    found.check(
        "qe report signature", certs.ecdsa_raw(leaf, q.qe_signature, q.qe_report, "sha256"), "", "signature"
    )
    bound = hashlib.sha256(q.key + q.qe_auth).digest() + bytes(32)
    found.check("attestation key", q.qe_report[320:384] == bound, "", "signature")
    signed = certs.ecdsa_raw(certs.p256(q.key), q.signature, q.signed, "sha256")
    found.check("quote signature", signed, "", "signature")
