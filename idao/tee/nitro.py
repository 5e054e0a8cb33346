"""AWS Nitro Enclaves attestation documents: COSE_Sign1 over a CBOR map (AWS, 'Attestation process').

The signing certificate lives three hours, so a document is judged at the time of what it backs.
"""

from __future__ import annotations

from typing import Any

from idao.errors import Malformed
from idao.tee import certs, cose, roots
from idao.tee.given import Given
from idao.tee.policy import TeePolicy
from idao.tee.result import Findings
from idao.tee.x509 import Certificate, constraints

ES384 = -35
_OPTIONAL = (("public_key", 1, 1024), ("user_data", 0, 512), ("nonce", 0, 512))


def unwrap(raw: bytes) -> bytes:
    """The document in the wrapping of dstack: version, kind, SCALE compact length, document, other fields."""
    if raw[:1] == b"\0" and len(raw) > 4 and raw[2] & 3 == 1:
        size = int.from_bytes(raw[2:4], "little") >> 2
        if len(raw) >= 4 + size:
            return raw[4 : 4 + size]
    return raw


def judge(
    found: Findings, raw: bytes, given: Given, policy: TeePolicy, now_ms: int, trust: roots.Trust
) -> None:
    """Judges a document at `now_ms`; everything that it needs is inside."""
    doc = cose.sign1(cose.read(raw))
    if doc.headers != {1: ES384}:
        raise Malformed("protected headers are not exactly ES384")
    fields = _fields(doc.payload)
    found.region = doc.payload
    found.bound = tuple(fields[n] for n, _, _ in _OPTIONAL if fields.get(n))
    found.issued_ms = fields["timestamp"]
    for index, value in sorted(fields["pcrs"].items()):
        found.measurements[f"pcr{index}"] = value.hex()
    # The bundle runs from the root down; the document's own certificate is the leaf.
    chain = [certs.load(fields["certificate"]), *reversed(certs.load_all(fields["cabundle"]))]
    certs.check_chain(found, chain, trust.nitro, now_ms)
    found.check("leaf", _signs(chain[0]), "", "chain")
    found.check("signature", doc.verifies(chain[0], "sha384"))
    low, high = certs.window(chain[0])
    found.check("time of document", low <= fields["timestamp"] <= high, "", "cert-expired")
    pcr0 = fields["pcrs"].get(0)
    found.check("debug", pcr0 is not None and any(pcr0), "PCR0 is zero" if pcr0 and not any(pcr0) else "")
    given_roots = [c for c in certs.load_all(given.certificates) if c.issuer == c.subject]
    for root in given_roots:
        found.check("root given", certs.spki(root) in trust.nitro, certs.name_of(root), "root")
    found.level = "tee"


def _signs(leaf: Certificate) -> bool:
    said = constraints(leaf)
    return said.signs and not said.issues


def _fields(payload: bytes) -> dict[str, Any]:
    """The payload's map, each field of the type and size that AWS states; `Malformed` otherwise."""
    doc = cose.read(payload, open_ended=True)
    known = {"module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"} | {
        n for n, _, _ in _OPTIONAL
    }
    if not isinstance(doc, dict) or not set(doc) <= known:
        raise Malformed("not a Nitro document")
    if not (isinstance(doc.get("module_id"), str) and doc["module_id"] and doc.get("digest") == "SHA384"):
        raise Malformed("Nitro document without module or digest")
    if type(doc.get("timestamp")) is not int or not 0 < doc["timestamp"] < 2**62:
        raise Malformed("Nitro document without time")
    pcrs = doc.get("pcrs")
    if not isinstance(pcrs, dict) or not 1 <= len(pcrs) <= 32:
        raise Malformed("Nitro document without PCRs")
    for index, value in pcrs.items():
        if type(index) is not int or not 0 <= index < 32 or not isinstance(value, bytes):
            raise Malformed("Nitro document with a strange PCR")
        if len(value) not in (32, 48, 64):
            raise Malformed("Nitro document with a strange PCR")
    bundle = doc.get("cabundle")
    ders = [doc.get("certificate"), *(bundle if isinstance(bundle, list) else [None])]
    if len(ders) < 2 or not all(isinstance(d, bytes) and 1 <= len(d) <= 1024 for d in ders):
        raise Malformed("Nitro document without certificates")
    for name, low, high in _OPTIONAL:
        value = doc.get(name)
        if value is not None and not (isinstance(value, bytes) and low <= len(value) <= high):
            raise Malformed(f"Nitro document with a strange {name}")
    return {str(k): v for k, v in doc.items()}
