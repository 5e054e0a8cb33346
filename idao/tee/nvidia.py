"""NVIDIA GPU attestation reports: an SPDM 1.1 GET_MEASUREMENTS exchange, signed by the GPU's own key.

Signature and chain only. Reference measurements and revocation by OCSP are not judged, and a GPU without a
TEE around its host backs nothing: the level stays `none`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from idao.errors import Malformed
from idao.tee import certs, roots
from idao.tee.given import Given
from idao.tee.policy import TeePolicy
from idao.tee.result import Findings

if TYPE_CHECKING:
    from idao.tee.x509 import Certificate

REQUEST = 37
SIGNATURE = 96
HEAD_REQUEST, HEAD_RESPONSE = b"\x11\xe0", b"\x11\x60"
NONCE = slice(4, 36)


def judge(
    found: Findings, raw: bytes, given: Given, policy: TeePolicy, now_ms: int, trust: roots.Trust
) -> None:
    """Judges a report (request, response, signature) with its chain, leaf first, in `given`."""
    if len(raw) < REQUEST + 8 + SIGNATURE or raw[:2] != HEAD_REQUEST:
        raise Malformed("not an SPDM measurement exchange")
    response = raw[REQUEST:]
    if response[:2] != HEAD_RESPONSE:
        raise Malformed("not an SPDM measurement exchange")
    size = int.from_bytes(response[5:8], "little")
    if 8 + size + 32 + 2 + SIGNATURE > len(response):
        raise Malformed("the GPU report ends early")
    for name, value in _blocks(response[8 : 8 + size], response[4]):
        found.measurements[name] = value
    signed, signature = raw[:-SIGNATURE], raw[-SIGNATURE:]
    found.region, found.bound = signed, (raw[NONCE],)
    chain = _chain(certs.load_all(given.certificates))
    if not found.check("chain given", bool(chain), "", "collateral-missing"):
        return
    certs.check_chain(found, chain, trust.nvidia, now_ms)
    found.check("signature", certs.ecdsa_raw(chain[0], signature, signed, "sha384"))
    found.warnings.append("reference measurements and revocation (OCSP) of the GPU are not judged")


def _chain(given: list[Certificate]) -> list[Certificate]:
    """From the certificate that issues none of the others up to the root, in whatever order they come.

    The root may be given twice, or left out: then the one shipped is taken. One that does not fit stays.
    """
    issuing = {c.issuer for c in given if c.issuer != c.subject}
    chain = [c for c in given if c.subject not in issuing and c.issuer != c.subject][:1]
    rooted = any(c.issuer == c.subject for c in given)
    above = given if rooted else [*given, *(certs.load(d) for d in roots.certificates("nvidia"))]
    while chain and chain[-1].issuer != chain[-1].subject and len(chain) < certs.CHAIN_MAX:
        issuer = next((c for c in above if c.subject == chain[-1].issuer), None)
        if issuer is None:
            break
        chain.append(issuer)
    return chain


def _blocks(record: bytes, count: int) -> list[tuple[str, str]]:
    """(name, hex) of each DMTF measurement block; the lengths must fit."""
    out = []
    pos = 0
    for _ in range(count):
        if pos + 4 > len(record):
            raise Malformed("the GPU's measurements end early")
        index, size = record[pos], int.from_bytes(record[pos + 2 : pos + 4], "little")
        value = record[pos + 4 : pos + 4 + size]
        if len(value) != size or size < 3:
            raise Malformed("the GPU's measurements end early")
        out.append((f"block{index}", value[3:].hex()))
        pos += 4 + size
    if pos != len(record):
        raise Malformed("bytes after the GPU's measurements")
    return out
