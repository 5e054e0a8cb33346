"""X.509 as the vendors of TEEs use it: strict DER, pinned roots, chains by name and signature, CRLs.

No RFC 5280 path builder fits: AMD's leaves have serial number 0 and no key identifiers, Nitro's bundle
starts at the root. Chains are short and their order is given, so each link is checked as it stands.
"""

from __future__ import annotations

import calendar
import hashlib
import re
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from idao.errors import Malformed
from idao.tee.result import Findings

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, CertificateRevocationList

CERT_BYTES_MAX = 8192
"""The largest real certificate seen has 1.7 kB."""
CHAIN_MAX = 8
"""The longest real chain has five certificates."""
CACHED = 512
"""Parsed certificates kept: authorities recur in every piece of evidence of one vendor."""
CACHED_PEM_BYTES = 16 * 1024
"""A chain has 2 to 6 kB; larger texts are read again each time, so that the cache stays small."""
_TIME = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})Z")
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----([^-]*)-----END \1-----")


def at_ms(moment: Any) -> int:
    """Milliseconds UTC of an aware datetime."""
    return calendar.timegm(moment.utctimetuple()) * 1000


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
    from cryptography import x509

    if len(der) > CERT_BYTES_MAX:
        raise Malformed("certificate too large", code="chain")
    try:
        with warnings.catch_warnings():
            # AMD gives every VCEK and VLEK the serial number 0, about which `cryptography` complains.
            warnings.filterwarnings("ignore", message=".*serial number.*")
            # Google's TPM authorities have names longer than X.520 allows.
            warnings.filterwarnings("ignore", message="Attribute's length")
            cert = x509.load_der_x509_certificate(der)
            cert.public_key()
            _ = cert.extensions, cert.issuer, cert.subject
            if cert.serial_number < 0:  # revocation lists cannot be asked for it
                raise ValueError("negative serial number")
            return cert
    except Exception as e:  # hostile DER makes the parser raise many kinds
        raise Malformed(f"not a certificate: {type(e).__name__}", code="chain") from e


def load_all(ders: Sequence[bytes]) -> list[Certificate]:
    if len(ders) > CHAIN_MAX:
        raise Malformed("certificate chain too long", code="chain")
    return [load(d) for d in ders]


@lru_cache(maxsize=CACHED)
def spki(cert: Certificate) -> str:
    """SHA-256 of the subject public key info, in hex: how roots are pinned.

    Cut out as it stands: the library's way of writing a key again takes as long as verifying a signature.
    """
    tbs = cert.tbs_certificate_bytes
    pos = element(tbs, 0)[0]
    if tbs[pos] == 0xA0:  # the version, which the first kind of certificate does not state
        pos = element(tbs, pos)[1]
    for _ in ("serial number", "algorithm", "issuer", "validity", "subject"):
        pos = element(tbs, pos)[1]
    return hashlib.sha256(tbs[pos : element(tbs, pos)[1]]).hexdigest()


def element(data: bytes, at: int) -> tuple[int, int]:
    """(begin of the contents, end) of the DER element at `at`; `Malformed` if it does not fit."""
    if at + 2 > len(data):
        raise Malformed("DER ends early", code="chain")
    size, begin = data[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7F
        if not 1 <= count <= 3:
            raise Malformed("DER with a strange length", code="chain")
        size, begin = int.from_bytes(data[begin : begin + count], "big"), begin + count
    if begin + size > len(data):
        raise Malformed("DER ends early", code="chain")
    return begin, begin + size


@lru_cache(maxsize=CACHED)
def serial(cert: Certificate) -> int:
    """The serial number; AMD's zero without complaint."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*serial number.*")
        return cert.serial_number


def common_name(name: Any) -> str:
    from cryptography.x509.oid import NameOID

    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


@lru_cache(maxsize=CACHED)
def issued_by(cert: Certificate, issuer: Certificate) -> bool:
    """Does the issuer's name stand in the certificate and its key verify it?"""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        cert.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def is_ca(cert: Certificate, below: int) -> bool:
    """May this certificate issue, with `below` certificates of authorities between it and the leaf?"""
    from cryptography import x509

    try:
        basic = cert.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not basic.ca or (basic.path_length is not None and basic.path_length < below):
            return False
    except x509.ExtensionNotFound:
        return False
    try:
        return cert.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True


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
        subject = common_name(cert.subject)
        link = issued_by(cert, issuer) and (i == 0 or is_ca(cert, i - 1))
        ok &= found.check(f"{name}: link {i}", link, subject, "chain")
        low, high = window(cert)
        found.window(low, high)
        ok &= found.check(f"{name}: validity {i}", low <= now_ms <= high, subject, expired)
    return ok


def window(cert: Certificate) -> tuple[int, int]:
    """Validity in ms UTC, both ends included."""
    return at_ms(cert.not_valid_before_utc), at_ms(cert.not_valid_after_utc)


def crl_window(crl: CertificateRevocationList) -> tuple[int, int]:
    """Validity in ms UTC; a list without next update is good at its own moment only."""
    low = at_ms(crl.last_update_utc)
    return low, at_ms(crl.next_update_utc) if crl.next_update_utc else low


def rfc3339_ms(text: str) -> int:
    """`2025-06-19T10:16:03Z` in ms UTC; `Malformed` for any other form."""
    import datetime

    found = _TIME.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise Malformed("not a time of the collateral", code="collateral")
    try:
        moment = datetime.datetime(*(int(part) for part in found.groups()))  # type: ignore[arg-type]
    except ValueError as e:
        raise Malformed("not a time of the collateral", code="collateral") from e
    return calendar.timegm(moment.timetuple()) * 1000


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

    key = cert_or_key.public_key() if hasattr(cert_or_key, "public_key") else cert_or_key
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
def load_crl(der: bytes) -> CertificateRevocationList:
    """A revocation list; `Malformed` for anything but exactly one."""
    from cryptography import x509

    try:
        crl = x509.load_der_x509_crl(der)
        # These parse on demand, and then raise many kinds on hostile bytes.
        _ = crl.issuer, crl.last_update_utc, crl.next_update_utc, crl.extensions, len(crl)
        crl.get_revoked_certificate_by_serial_number(0)
        return crl
    except Exception as e:
        raise Malformed(f"not a revocation list: {type(e).__name__}", code="collateral") from e


def crl_signed_by(crl: CertificateRevocationList, issuer: Certificate) -> bool:
    """ECDSA, or RSASSA-PSS with SHA-384 as AMD's key roots sign."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    key = issuer.public_key()
    if crl.issuer != issuer.subject:
        return False
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            return crl.is_signature_valid(key)
        if isinstance(key, rsa.RSAPublicKey):
            pss = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
            key.verify(crl.signature, crl.tbs_certlist_bytes, pss, hashes.SHA384())
            return True
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return False


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


def check_revoked(
    found: Findings, crl: CertificateRevocationList, judged: Sequence[Certificate], name: str
) -> None:
    """None of `judged` stands on the list; if one does, since when."""
    for cert in judged:
        hit = crl.get_revoked_certificate_by_serial_number(serial(cert))
        who, since = common_name(cert.subject), None if hit is None else hit.revocation_date_utc
        if since is not None:
            moment = at_ms(since)
            found.revoked_ms = moment if found.revoked_ms is None else min(found.revoked_ms, moment)
        when = "" if since is None else f", since {since:%Y-%m-%dT%H:%M:%SZ}"
        found.check(f"{name}: not revoked", hit is None, who + when, "revoked")
