"""Certificates as the vendors of TEEs use them: pinned roots, chains by name and signature, revocation lists.

No RFC 5280 path builder fits: AMD's leaves have serial number 0 and no key identifiers, Nitro's bundle
starts at the root. Chains are short and their order is given, so each link is checked as it stands.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from idao.errors import Malformed
from idao.tee.result import Findings
from idao.tee.x509 import (
    SEQUENCE,
    Certificate,
    Der,
    RevocationList,
    common_name,
    constraints,
    key_bits,
    show_utc,
    utc_ms,
)

CHAIN_MAX = 8
"""The longest real chain has five certificates."""
CACHED = 512
"""Parsed certificates kept: authorities recur in every piece of evidence of one vendor."""
CACHED_PEM_BYTES = 16 * 1024
"""A chain has 2 to 6 kB; larger texts are read again each time, so that the cache stays small."""
_TIME = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})Z")
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----([^-]*)-----END \1-----")


def pem_blocks(data: bytes, label: str) -> list[bytes]:
    """The DER of each PEM block with that label, in order."""
    read = _pem_blocks if len(data) <= CACHED_PEM_BYTES else _pem_blocks.__wrapped__
    return list(read(data, label))


@lru_cache(maxsize=CACHED)
def _pem_blocks(data: bytes, label: str) -> tuple[bytes, ...]:
    import base64
    import binascii

    out = []
    for found, body in _PEM.findall(data):
        if found.decode() == label:
            try:
                out.append(base64.b64decode(b"".join(body.split()), validate=True))
            except binascii.Error as e:
                raise Malformed("broken PEM", code="chain") from e
    return tuple(out)


@lru_cache(maxsize=CACHED)
def load(der: bytes) -> Certificate:
    """A certificate; `Malformed` for anything but exactly one DER certificate."""
    return Certificate(der)


def load_all(ders: Sequence[bytes]) -> list[Certificate]:
    if len(ders) > CHAIN_MAX:
        raise Malformed("certificate chain too long", code="chain")
    return [load(d) for d in ders]


@lru_cache(maxsize=CACHED)
def spki(cert: Certificate) -> str:
    """SHA-256 of the subject public key info as it stands, in hex: how roots are pinned."""
    return hashlib.sha256(cert.spki).hexdigest()


def name_of(cert: Certificate) -> str:
    """Its subject, as people call it."""
    return common_name(cert.subject)


# --- keys and signatures --------------------

EC_KEYS = {
    bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107"): "p256",
    bytes.fromhex("301006072a8648ce3d020106052b81040022"): "p384",
    bytes.fromhex("301006072a8648ce3d020106052b81040023"): "p521",
}
RSA_KEY = bytes.fromhex("300d06092a864886f70d0101010500")
"""AlgorithmIdentifiers of the keys that vendors have; all others are no keys here."""
RSA_BITS = range(2048, 8193)
"""AMD's authorities have 4096, TPMs 2048; a larger one would only cost time."""
RSA_EXPONENT_END = 1 << 32
"""Every real exponent is 65537; verifying takes as long as its length."""


def _pss_384(null: bytes, mask_null: bytes, trailer: bytes) -> bytes:
    """RSASSA-PSS with SHA-384, MGF1 of the same, and a salt of 48 bytes, as AMD signs (RFC 4055)."""

    def wrap(tag: int, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return bytes([tag, len(body)]) + body

    sha, mgf1, pss = (
        bytes.fromhex(oid)
        for oid in ("0609608648016503040202", "06092a864886f70d010108", "06092a864886f70d01010a")
    )
    hashed, mask = wrap(0x30, sha, null), wrap(0x30, mgf1, wrap(0x30, sha, mask_null))
    salt = wrap(0xA2, b"\2\1\x30")
    return wrap(0x30, pss, wrap(0x30, wrap(0xA0, hashed), wrap(0xA1, mask), salt, trailer))


_NULLS, _TRAILERS = (b"\5\0", b""), (b"", bytes.fromhex("a303020101"))
SIGNATURES = {
    bytes.fromhex("300a06082a8648ce3d040302"): ("ecdsa", "sha256"),
    bytes.fromhex("300a06082a8648ce3d040303"): ("ecdsa", "sha384"),
    bytes.fromhex("300a06082a8648ce3d040304"): ("ecdsa", "sha512"),
    bytes.fromhex("300d06092a864886f70d01010b0500"): ("rsa", "sha256"),
    bytes.fromhex("300d06092a864886f70d01010c0500"): ("rsa", "sha384"),
    bytes.fromhex("300d06092a864886f70d01010d0500"): ("rsa", "sha512"),
    # What is default or empty may be said or left out.
    **{_pss_384(a, b, t): ("pss", "sha384") for a in _NULLS for b in _NULLS for t in _TRAILERS},
}
"""AlgorithmIdentifier of a certificate's signature -> (scheme, hash)."""


@lru_cache(maxsize=CACHED)
def public_key(spki_der: bytes) -> Any:
    """The key of a SubjectPublicKeyInfo: EC or RSA. `Malformed` for any other."""
    algorithm, bits = key_bits(spki_der)
    if (curve := EC_KEYS.get(algorithm)) is not None:
        if bits[:1] != b"\4":
            raise Malformed("a public key in a strange form", code="chain")
        return point(curve, bits[1:])
    if algorithm != RSA_KEY:
        raise Malformed("a public key of another kind than RSA, P-256, P-384 or P-521", code="chain")
    inner = Der(bits).enter(SEQUENCE)
    modulus, exponent = inner.integer(), inner.integer()
    inner.done()
    return rsa_key(modulus, exponent)


def rsa_key(modulus: int, exponent: int) -> Any:
    """The RSA key of two numbers; `Malformed` when they make none of a size that is in use."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    if modulus < 0 or modulus.bit_length() not in RSA_BITS or not 3 <= exponent < RSA_EXPONENT_END:
        raise Malformed("an RSA key of a strange size", code="chain")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError as e:
        raise Malformed("not an RSA key", code="chain") from e


def key_of(cert: Certificate) -> Any:
    """The certificate's public key; None if it is of no kind that is known here."""
    try:
        return public_key(cert.spki)
    except Malformed:
        return None


@lru_cache(maxsize=CACHED)
def _verifies(key_der: bytes, algorithm: bytes, signature: bytes, data: bytes) -> bool:
    """Does the key verify the signature of a certificate or list?"""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    scheme, hash_name = SIGNATURES.get(algorithm, ("", ""))
    try:
        key = public_key(key_der)
        if scheme == "ecdsa" and isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(hash_algorithm(hash_name)))
            return True
        if scheme in ("rsa", "pss") and isinstance(key, rsa.RSAPublicKey):
            hashed: Any = hash_algorithm(hash_name)
            pss = padding.PSS(padding.MGF1(hashed), hashed.digest_size)
            key.verify(signature, data, pss if scheme == "pss" else padding.PKCS1v15(), hashed)
            return True
    except (InvalidSignature, Malformed, ValueError):
        pass
    return False


def issued_by(cert: Certificate, issuer: Certificate) -> bool:
    """Does the issuer's name stand in the certificate and its key verify it?"""
    named = cert.issuer == issuer.subject
    return named and _verifies(issuer.spki, cert.algorithm, cert.signature, cert.tbs)


def is_ca(cert: Certificate, below: int) -> bool:
    """May this certificate issue, with `below` certificates of authorities between it and the leaf?"""
    said = constraints(cert)
    return said.issues and (said.path_length is None or said.path_length >= below)


def check_chain(
    found: Findings,
    chain: Sequence[Certificate],
    pins: frozenset[str],
    now_ms: int,
    *,
    name: str = "chain",
    expired: str = "cert-expired",
) -> bool:
    """Checks `chain`, leaf first, root last: links, authority flags, validity, and the pinned root."""
    ok = found.check(f"{name}: root", bool(chain) and spki(chain[-1]) in pins, "", "root")
    for i, cert in enumerate(chain):
        issuer = chain[min(i + 1, len(chain) - 1)]
        subject = name_of(cert)
        link = issued_by(cert, issuer) and (i == 0 or is_ca(cert, i - 1))
        ok &= found.check(f"{name}: link {i}", link, subject, "chain")
        low, high = window(cert)
        found.window(low, high)
        ok &= found.check(f"{name}: validity {i}", low <= now_ms <= high, subject, expired)
    return ok


def window(cert: Certificate) -> tuple[int, int]:
    """Validity in ms UTC, both ends included."""
    return cert.not_before_ms, cert.not_after_ms


def crl_window(crl: RevocationList) -> tuple[int, int]:
    """Validity in ms UTC; a list without next update is good at its own moment only."""
    return crl.this_ms, crl.this_ms if crl.next_ms is None else crl.next_ms


def rfc3339_ms(text: str) -> int:
    """`2025-06-19T10:16:03Z` in ms UTC; `Malformed` for any other form."""
    found = _TIME.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise Malformed("not a time of the collateral", code="collateral")
    try:
        return utc_ms(*(int(part) for part in found.groups()))
    except Malformed as e:
        raise Malformed("not a time of the collateral", code="collateral") from e


def hash_algorithm(name: str) -> Any:
    """The algorithm object of `sha256`, `sha384` or `sha512`."""
    from cryptography.hazmat.primitives import hashes

    if name == "sha256":
        return hashes.SHA256()
    return hashes.SHA384() if name == "sha384" else hashes.SHA512()


def ecdsa_raw(cert_or_key: Any, raw: bytes, data: bytes, hash_name: str) -> bool:
    """Verifies r ‖ s (big endian, equal lengths) over `data`; False for any other kind of key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    key = key_of(cert_or_key) if isinstance(cert_or_key, Certificate) else cert_or_key
    half = len(raw) // 2
    if not isinstance(key, ec.EllipticCurvePublicKey) or half != (key.key_size + 7) // 8 or len(raw) % 2:
        return False
    der = utils.encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
    algorithm = hash_algorithm(hash_name)
    try:
        key.verify(der, data, ec.ECDSA(algorithm))
    except InvalidSignature:
        return False
    return True


def p256(xy: bytes) -> Any:
    """The P-256 key of x ‖ y; `Malformed` when that is no point."""
    return point("p256", xy)


def p384(xy: bytes) -> Any:
    """The P-384 key of x ‖ y; `Malformed` when that is no point."""
    return point("p384", xy)


def point(curve: str, xy: bytes) -> Any:
    """The key of x ‖ y on `p256`, `p384` or `p521`; `Malformed` when that is no point."""
    from cryptography.hazmat.primitives.asymmetric import ec

    kinds = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(kinds[curve], b"\4" + xy)
    except ValueError as e:
        raise Malformed("not a point of the curve") from e


# --- revocation --------------------


@lru_cache(maxsize=64)
def load_crl(der: bytes) -> RevocationList:
    """A revocation list; `Malformed` for anything but exactly one."""
    try:
        return RevocationList(der)
    except Malformed as e:
        raise Malformed(f"not a revocation list: {e.message}", code="collateral") from e


def crl_signed_by(crl: RevocationList, issuer: Certificate) -> bool:
    """Does the issuer's name stand on the list and its key verify it?"""
    return crl.issuer == issuer.subject and _verifies(issuer.spki, crl.algorithm, crl.signature, crl.tbs)


def check_crl(
    found: Findings,
    der: bytes,
    issuer: Certificate,
    judged: Sequence[Certificate],
    now_ms: int,
    name: str,
) -> None:
    """Checks a list's signature and window, and that none of `judged` (all of that issuer) stands on it."""
    crl = load_crl(der)
    found.check(f"{name}: signature", crl_signed_by(crl, issuer), "", "collateral")
    low, high = crl_window(crl)
    found.window(low, high)
    found.check(f"{name}: window", low <= now_ms <= high, "", "collateral-expired")
    check_revoked(found, crl, judged, name)


def check_revoked(found: Findings, crl: RevocationList, judged: Sequence[Certificate], name: str) -> None:
    """None of `judged` stands on the list; if one does, since when."""
    for cert in judged:
        since = crl.revoked.get(cert.serial)
        if since is not None:
            found.revoked_ms = since if found.revoked_ms is None else min(found.revoked_ms, since)
        when = "" if since is None else f", since {show_utc(since)}"
        found.check(f"{name}: not revoked", since is None, name_of(cert) + when, "revoked")
