"""Evidence without hardware, for tests and for trying things out: Intel-shaped and AMD-shaped.

It is a kind of its own (`simulated`), marked in its first bytes and in every output, and its roots stand
in no vendor's list: offered as a real kind it fails at the root. All its keys are public on purpose.
The flaws make what no public evidence shows: revoked parts, keys used for another purpose, and the like.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import struct
from collections.abc import Iterable
from functools import cache
from typing import Any

from idao.frozen import frozen
from idao.tee import quote, roots, snp
from idao.tee.envelope import SIMULATED

FMSPC, PCEID, PPID = bytes.fromhex("51D010000000"), b"\0\0", b"simulated ppid!!"
QE_SIGNER = hashlib.sha256(b"simulated quoting enclave").digest()
EVALUATION = 20
_BEGIN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_END = datetime.datetime(2049, 12, 31, tzinfo=datetime.UTC)
COLLATERAL_DAYS = 30

INTEL_FLAWS = (
    *("revoked-pck", "revoked-ca", "revoked-signer", "revoked-tcb", "out-of-date", "no-level"),
    *("leaf-signed-tcb", "leaf-signed-qe", "pceid", "tcb-type", "tcb-version", "pck-name", "pck-by-root"),
    *("evaluations-apart", "module-out-of-date", "module-unknown", "qe-foreign", "qe-out-of-date"),
    *("service-td", "debug", "reserved-attribute", "no-sept-ve-disable", "vendor", "foreign-root"),
    *("crl-foreign", "tcb-reformatted", "qe-tampered", "key-unbound", "quote-unsigned", "relabelled-fmspc"),
)
AMD_FLAWS = (
    *("wrong-hw-id", "wrong-tcb", "host-vmpl", "migratable", "debug", "reserved-policy", "revoked-ask"),
    *("crl-foreign", "foreign-root", "unsigned", "provisional", "masked-chip", "no-alias-check"),
    *("wrong-product", "rollback", "key-kind"),
)


FIRST_SERIAL = 1000
"""Serial numbers of further machines; the authorities have those below."""


def mark(evidence: bytes) -> bytes:
    """Evidence as the kind `simulated`."""
    return SIMULATED + evidence


def _secret(name: str) -> Any:
    """The P-256 or P-384 key of a name; `amd …` keys are P-384."""
    from cryptography.hazmat.primitives.asymmetric import ec

    scalar = int.from_bytes(hashlib.sha256(b"idao simulator: " + name.encode()).digest(), "big") >> 1
    return ec.derive_private_key(scalar, ec.SECP384R1() if name.startswith("amd") else ec.SECP256R1())


def _numbered(name: str, machine: int) -> str:
    return f"{name} {machine}" if machine else name


def _name(text: str) -> Any:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _der(tag: int, value: bytes) -> bytes:
    size = len(value)
    head = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + head + value


def _oid(text: str) -> bytes:
    from cryptography import x509

    parts = [int(p) for p in x509.ObjectIdentifier(text).dotted_string.split(".")]
    out = bytes([parts[0] * 40 + parts[1]])
    for p in parts[2:]:
        digits = [p & 0x7F]
        while p := p >> 7:
            digits.append(0x80 | p & 0x7F)
        out += bytes(reversed(digits))
    return _der(6, out)


def _certificate(
    subject: str,
    key: Any,
    issuer: str,
    issuer_key: Any,
    serial: int,
    extensions: Iterable[tuple[Any, bool]] = (),
    *,
    ca: bool = False,
) -> Any:
    """A certificate; RSA issuers sign with PSS as AMD's do."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    b = x509.CertificateBuilder(_name(issuer), _name(subject), key.public_key(), serial, _BEGIN, _END)
    b = b.add_extension(x509.BasicConstraints(ca, None), critical=True)
    usage = dict.fromkeys(_USAGES, False) | ({"key_cert_sign": True, "crl_sign": True} if ca else _SIGNS)
    b = b.add_extension(x509.KeyUsage(**usage), critical=True)
    for extension, critical in extensions:
        b = b.add_extension(extension, critical)
    if isinstance(issuer_key, rsa.RSAPrivateKey):
        pss = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
        return b.sign(issuer_key, hashes.SHA384(), rsa_padding=pss)
    return b.sign(issuer_key, hashes.SHA256(), ecdsa_deterministic=True)


_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
_SIGNS = {"digital_signature": True}


def _crl(issuer: str, key: Any, revoked: Iterable[int], now: datetime.datetime) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    b = x509.CertificateRevocationListBuilder(_name(issuer), now, now + datetime.timedelta(COLLATERAL_DAYS))
    b = b.add_extension(x509.CRLNumber(1), critical=False)
    b = b.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    for serial in revoked:
        b = b.add_revoked_certificate(x509.RevokedCertificateBuilder(serial, now).build())
    if isinstance(key, rsa.RSAPrivateKey):
        pss = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
        crl = b.sign(key, hashes.SHA384(), rsa_padding=pss)
    else:
        crl = b.sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    return crl.public_bytes(serialization.Encoding.DER)


def pem(*certificates: Any) -> str:
    """PEM of certificates in order."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return "".join(c.public_bytes(Encoding.PEM).decode() for c in certificates)


def pem_of(*ders: bytes) -> str:
    """PEM of DER certificates in order."""
    import base64

    out = []
    for der in ders:
        text = base64.b64encode(der).decode()
        lines = [text[i : i + 64] for i in range(0, len(text), 64)]
        out += ["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""]
    return "\n".join(out)


def _raw(key: Any, data: bytes, hash_name: str = "sha256") -> bytes:
    """r ‖ s over `data`."""
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    from idao.tee.certs import hash_algorithm

    der = key.sign(data, ec.ECDSA(hash_algorithm(hash_name), deterministic_signing=True))
    size = (key.key_size + 7) // 8
    return b"".join(n.to_bytes(size, "big") for n in utils.decode_dss_signature(der))


def _point(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return bytes(key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:])


# --- Intel --------------------


@frozen
class Simulated:
    """Evidence without the mark, and the collateral file that goes with it."""

    evidence: bytes
    files: tuple[bytes, ...]


ROOT, AUTHORITY = "Intel SGX Root CA", "Intel SGX PCK Platform CA"


def intel_root(world: str = "intel root") -> Any:
    """The root certificate of the simulator; another world has a look-alike with the same name."""
    key = _secret(world)
    return _certificate(ROOT, key, ROOT, key, 1, ca=True)


def _pck_extension(svns: bytes, pceid: bytes, machine: int = 0) -> Any:
    from cryptography import x509

    oid = "1.2.840.113741.1.13.1"

    def entry(suffix: str, value: bytes) -> bytes:
        return _der(0x30, _oid(f"{oid}.{suffix}") + value)

    ppid = hashlib.sha256(PPID + bytes([machine])).digest()[:16] if machine else PPID
    tcb = b"".join(entry(f"2.{i + 1}", _der(2, bytes([s]))) for i, s in enumerate(svns))
    tcb += entry("2.17", _der(2, b"\x0b")) + entry("2.18", _der(4, svns))
    body = entry("1", _der(4, ppid)) + entry("2", _der(0x30, tcb)) + entry("3", _der(4, pceid))
    body += entry("4", _der(4, FMSPC)) + entry("5", _der(0x0A, b"\1"))
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), _der(0x30, body))


_KNOWN = bytes([3, 3, 2, 2, 4, 1, 0, 5] + [0] * 8)


def _levels(flaws: frozenset[str]) -> list[dict[str, Any]]:
    status = "Revoked" if "revoked-tcb" in flaws else "OutOfDate" if "out-of-date" in flaws else "UpToDate"
    least = [9] * 16 if "no-level" in flaws else list(_KNOWN)
    level = {
        "tcb": {
            "sgxtcbcomponents": [{"svn": s} for s in least],
            "pcesvn": 11,
            "tdxtcbcomponents": [{"svn": s} for s in [5, 0, 6] + [0] * 13],
        },
        "tcbDate": "2025-03-13T00:00:00Z",
        "tcbStatus": status,
        "advisoryIDs": [] if status == "UpToDate" else ["INTEL-SA-00001"],
    }
    return [level]


def _times(now: datetime.datetime) -> dict[str, str]:
    form = "%Y-%m-%dT%H:%M:%SZ"
    return {
        "issueDate": now.strftime(form),
        "nextUpdate": (now + datetime.timedelta(COLLATERAL_DAYS)).strftime(form),
    }


def _tcb_info(flaws: frozenset[str], now: datetime.datetime) -> dict[str, Any]:
    zero = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    module = "OutOfDate" if "module-out-of-date" in flaws else "UpToDate"
    level = {"tcb": {"isvsvn": 3}, "tcbDate": "2025-03-13T00:00:00Z", "tcbStatus": module}
    name = "TDX_07" if "module-unknown" in flaws else "TDX_01"
    return {
        "id": "TDX",
        "version": 9 if "tcb-version" in flaws else 3,
        **_times(now),
        "fmspc": "A" * 12 if "relabelled-fmspc" in flaws else FMSPC.hex().upper(),
        "pceId": "0100" if "pceid" in flaws else PCEID.hex(),
        "tcbType": 1 if "tcb-type" in flaws else 0,
        "tcbEvaluationDataNumber": EVALUATION,
        "tdxModule": zero,
        "tdxModuleIdentities": [{"id": name, **zero, "tcbLevels": [level]}],
        "tcbLevels": _levels(flaws),
    }


def _qe_identity(flaws: frozenset[str], now: datetime.datetime) -> dict[str, Any]:
    status = "OutOfDate" if "qe-out-of-date" in flaws else "UpToDate"
    signer = bytes(32) if "qe-foreign" in flaws else QE_SIGNER
    return {
        "id": "TD_QE",
        "version": 2,
        **_times(now),
        "tcbEvaluationDataNumber": 3 if "evaluations-apart" in flaws else EVALUATION,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11" + "00" * 15,
        "attributesMask": "FB" + "FF" * 7 + "00" * 8,
        "mrsigner": signer.hex().upper(),
        "isvprodid": 2,
        "tcbLevels": [{"tcb": {"isvsvn": 4}, "tcbDate": "2025-03-13T00:00:00Z", "tcbStatus": status}],
    }


def intel(
    now_ms: int, report_data: bytes = bytes(64), flaws: Iterable[str] = (), machine: int = 0
) -> Simulated:
    """A TDX quote (version 4, or 5 for `service-td`) of a machine, with collateral issued at `now_ms`."""
    chosen = frozenset(flaws)
    if chosen - set(INTEL_FLAWS):
        raise ValueError(f"unknown flaws: {sorted(chosen - set(INTEL_FLAWS))}")
    now = datetime.datetime.fromtimestamp(now_ms // 1000, datetime.UTC)
    root_key = _secret("other root" if "foreign-root" in chosen else "intel root")
    root = intel_root("other root" if "foreign-root" in chosen else "intel root")
    authority_key, leaf_key, signer_key = (
        _secret(n) for n in ("intel platform", _numbered("intel pck", machine), "intel signer")
    )
    authority = _certificate(AUTHORITY, authority_key, ROOT, root_key, 2, ca=True)
    by_root = "pck-by-root" in chosen
    leaf = _certificate(
        "Anything" if "pck-name" in chosen else "Intel SGX PCK Certificate",
        leaf_key,
        ROOT if by_root else AUTHORITY,
        root_key if by_root else authority_key,
        3 if machine == 0 else FIRST_SERIAL + machine,
        [(_pck_extension(_KNOWN, PCEID, machine), False)],
    )
    signer = _certificate("Intel SGX TCB Signing", signer_key, ROOT, root_key, 4)
    chain = (leaf, root) if by_root else (leaf, authority, root)
    evidence = _quote(report_data, chosen, leaf_key, pem(*chain).encode())
    parts = {
        "pck_crl_issuer_chain": pem(authority, root),
        "root_ca_crl": _crl(
            ROOT, root_key, [2] * ("revoked-ca" in chosen) + [4] * ("revoked-signer" in chosen), now
        ).hex(),
        "pck_crl": _crl(
            AUTHORITY,
            _secret("stranger") if "crl-foreign" in chosen else authority_key,
            [3] * ("revoked-pck" in chosen),
            now,
        ).hex(),
    }
    objects = {"tcb_info": _tcb_info(chosen, now), "qe_identity": _qe_identity(chosen, now)}
    for part, value in objects.items():
        by_leaf = ("leaf-signed-tcb" if part == "tcb_info" else "leaf-signed-qe") in chosen
        text = json.dumps(value, separators=(",", ":"))
        signature = _raw(leaf_key if by_leaf else signer_key, text.encode())
        parts[f"{part}_issuer_chain"] = pem(*chain) if by_leaf else pem(signer, root)
        parts[part], parts[f"{part}_signature"] = text, signature.hex()
    if "tcb-reformatted" in chosen:
        parts["tcb_info"] = json.dumps(objects["tcb_info"], indent=1)
    if "qe-tampered" in chosen:
        parts["qe_identity"] = parts["qe_identity"].replace('"isvprodid":2', '"isvprodid":3')
    return Simulated(evidence, (json.dumps(parts).encode(),))


def _quote(report_data: bytes, flaws: frozenset[str], leaf_key: Any, chain: bytes) -> bytes:
    attributes = quote.TD_SEPT_VE_DISABLE * ("no-sept-ve-disable" not in flaws)
    attributes |= quote.TD_DEBUG * ("debug" in flaws) | 2 * ("reserved-attribute" in flaws)
    body = bytearray(quote.BODY_TD15 if "service-td" in flaws else quote.BODY_TD10)
    body[0:16] = bytes([6, 1, 6] + [0] * 13)
    body[120:128] = attributes.to_bytes(8, "little")
    body[128:136] = bytes.fromhex("e702060000000000")
    body[136:184] = hashlib.sha384(b"simulated td").digest()
    body[520:584] = report_data
    version, head = 4, b""
    if "service-td" in flaws:
        body[600:648] = hashlib.sha384(b"migration td").digest()
        body[584:600] = body[0:16]
        version, head = 5, struct.pack("<HI", 3, len(body))
    vendor = bytes(16) if "vendor" in flaws else quote.INTEL_QE
    signed = struct.pack("<HHIHH", version, 2, quote.TDX, 0, 0) + vendor + bytes(20) + head + bytes(body)
    key, auth = _secret("intel attestation"), bytes(32)
    qe = bytearray(384)
    qe[48:64] = bytes.fromhex("1500000000000000e700000000000000")
    qe[128:160] = QE_SIGNER
    qe[256:260] = struct.pack("<HH", 2, 6)
    bound = hashlib.sha256(_point(key) + auth).digest()
    qe[320:352] = bytes(32) if "key-unbound" in flaws else bound
    qe_part = bytes(qe) + _raw(leaf_key, bytes(qe)) + struct.pack("<H", len(auth)) + auth
    qe_part += struct.pack("<HI", quote.PEM_CHAIN, len(chain)) + chain
    signature = _raw(_secret("stranger") if "quote-unsigned" in flaws else key, signed)
    data = signature + _point(key) + struct.pack("<HI", 6, len(qe_part)) + qe_part
    return signed + struct.pack("<I", len(data)) + data


# --- AMD --------------------


@cache
def _rsa(index: int) -> Any:
    """The simulator's published RSA keys: root, intermediate, and another root."""
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    from idao.tee.certs import pem_blocks

    return load_der_private_key(pem_blocks(roots.shipped("simulated.pem"), "PRIVATE KEY")[index], None)


CHIP = hashlib.sha512(b"simulated chip").digest()
_TCB = bytes([10, 0, 0, 0, 0, 0, 27, 86])


def amd(
    now_ms: int, report_data: bytes = bytes(64), flaws: Iterable[str] = (), machine: int = 0
) -> Simulated:
    """A Genoa report (version 3) of one of many chips with VCEK, authorities and a CRL issued at `now_ms`."""
    chosen = frozenset(flaws)
    if chosen - set(AMD_FLAWS):
        raise ValueError(f"unknown flaws: {sorted(chosen - set(AMD_FLAWS))}")
    now = datetime.datetime.fromtimestamp(now_ms // 1000, datetime.UTC)
    foreign = 2 if "foreign-root" in chosen else 0
    root_key, leaf_key = _rsa(foreign), _secret(_numbered("amd vcek", machine))
    root, middle = _amd_authorities(foreign)
    leaf = _certificate(
        "SEV-VCEK", leaf_key, "SEV-Genoa", _rsa(1), 3, _vcek_extensions(chosen, _chip(machine))
    )
    revoked = [2] * ("revoked-ask" in chosen)
    crl = _crl("ARK-Genoa", _rsa(2) if "crl-foreign" in chosen else root_key, revoked, now)
    report = _report(report_data, chosen, _chip(machine))
    signer = _secret("amd stranger") if "unsigned" in chosen else leaf_key
    raw = _raw(signer, report, "sha384")
    tail = raw[:48][::-1] + bytes(24) + raw[48:][::-1] + bytes(24)
    evidence = (report + tail).ljust(snp.SIZE, b"\0")
    return Simulated(evidence, (pem(leaf, middle, root).encode(), crl))


@cache
def _amd_authorities(root: int) -> tuple[Any, Any]:
    key = _rsa(root)
    top = _certificate("ARK-Genoa", key, "ARK-Genoa", key, 1, ca=True)
    return top, _certificate("SEV-Genoa", _rsa(1), "ARK-Genoa", key, 2, ca=True)


def _chip(machine: int) -> bytes:
    return hashlib.sha512(_numbered("simulated chip", machine).encode()).digest()


def _vcek_extensions(flaws: frozenset[str], chip: bytes) -> list[tuple[Any, bool]]:
    from cryptography import x509

    number = 26 if "wrong-tcb" in flaws else 27
    product = b"Milan-B0" if "wrong-product" in flaws else b"Genoa"
    values = {
        "1": _der(2, b"\1"),
        "2": _der(0x16, product),
        "3.1": _der(2, b"\x0a"),
        "3.2": _der(2, b"\0"),
        "3.3": _der(2, bytes([number])),
        "3.8": _der(2, b"\x56"),
        "4": bytes(64) if "wrong-hw-id" in flaws else chip,
    }
    make = x509.UnrecognizedExtension
    return [(make(x509.ObjectIdentifier(f"1.3.6.1.4.1.3704.1.{n}"), v), False) for n, v in values.items()]


def _report(report_data: bytes, flaws: frozenset[str], chip: bytes) -> bytes:
    r = bytearray(snp.SIGNED)
    guest = 1 << 16 | 1 << 17 | snp.DEBUG * ("debug" in flaws) | snp.MIGRATE_MA * ("migratable" in flaws)
    guest |= 1 << 40 if "reserved-policy" in flaws else 0
    struct.pack_into("<IIQ", r, 0, 3, 0, guest)
    struct.pack_into("<II", r, 0x30, snp.HOST_VMPL if "host-vmpl" in flaws else 0, 1)
    r[0x38:0x40] = _TCB
    struct.pack_into("<QI", r, 0x40, 0 if "no-alias-check" in flaws else snp.ALIAS_CHECK, 0)
    r[0x48] = 1 << 2 if "key-kind" in flaws else 0
    r[0x50:0x90] = report_data
    r[0x90:0xC0] = hashlib.sha384(b"simulated guest").digest()
    r[0x180:0x188] = _TCB
    r[0x188:0x18A] = bytes([0x19, 0x11])
    r[0x1A0:0x1E0] = bytes(64) if "masked-chip" in flaws else chip
    r[0x1E0:0x1E8] = bytes([9, *_TCB[1:]]) if "rollback" in flaws else _TCB
    r[0x1E8:0x1EB] = r[0x1EC:0x1EF] = bytes([1, 55, 1])
    if "provisional" in flaws:
        r[0x1E8] = 2
    r[0x1F0:0x1F8] = _TCB
    return bytes(r)
