"""NVIDIA GPU attestation reports: an SPDM 1.1 GET_MEASUREMENTS exchange, signed by the GPU's own key.

Signature and chain only. Reference measurements and revocation by OCSP are not judged, and a GPU without a
TEE around its host backs nothing: the level stays `none`.
"""

from __future__ import annotations

from idao.errors import Malformed
from idao.tee import certs, roots
from idao.tee.given import Given
from idao.tee.policy import TeePolicy
from idao.tee.result import Findings

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
    loaded = certs.load_all(given.certificates)
    # The root may be given a second time, apart from the chain.
    chain = [c for i, c in enumerate(loaded) if c not in loaded[:i]]
    if not found.check("chain given", bool(chain), "", "collateral-missing"):
        return
    certs.check_chain(found, chain, trust.nvidia, now_ms)
    found.check("signature", certs.ecdsa_raw(chain[0], signature, signed, "sha384"))
    found.warnings.append("reference measurements and revocation (OCSP) of the GPU are not judged")


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
