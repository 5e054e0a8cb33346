"""TPM 2.0 quotes (TPM 2.0 Library, part 2: TPMS_ATTEST, TPMT_SIGNATURE, TPMT_PUBLIC).

A quote shows that a key which cannot leave a TPM signed some boot registers. It never speaks of the process
that runs, and without a certificate for the key nothing says that there is a TPM at all: `tpm-unrooted`.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

from idao.errors import Malformed
from idao.frozen import frozen
from idao.tee import certs, roots
from idao.tee.given import Given
from idao.tee.policy import TeePolicy
from idao.tee.result import Findings

MAGIC, QUOTE = b"\xffTCG", b"\x80\x18"
HASHES = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
RSASSA, RSAPSS, ECDSA = 0x0014, 0x0016, 0x0018
# TPMA_OBJECT bits
FIXED_TPM, FIXED_PARENT, ORIGIN, RESTRICTED, DECRYPT, SIGN = 1 << 1, 1 << 4, 1 << 5, 1 << 16, 1 << 17, 1 << 18
MUST = FIXED_TPM | FIXED_PARENT | ORIGIN | RESTRICTED | SIGN
BANKS_MAX, PCRS = 16, 24
SWTPM_FIRMWARE = 0x2019102300163636
"""Firmware version of the software TPM library (libtpms): no hardware reports it."""


class Reader:
    """Big-endian reading; `Malformed` when the bytes run out."""

    def __init__(self, data: bytes) -> None:
        self.data, self.pos = data, 0

    def take(self, n: int) -> bytes:
        if n > len(self.data) - self.pos:
            raise Malformed("the TPM structure ends early")
        self.pos += n
        return self.data[self.pos - n : self.pos]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes:
        return self.take(self.number(2))

    def end(self) -> None:
        if self.pos != len(self.data):
            raise Malformed("bytes after the end of the TPM structure")


@frozen
class Attest:
    """TPMS_ATTEST of a quote."""

    raw: bytes
    extra: bytes
    clock_ms: int
    resets: int
    restarts: int
    firmware: int
    selection: tuple[tuple[int, tuple[int, ...]], ...]
    """(hash algorithm, PCR numbers) of each bank."""
    pcr_digest: bytes


def parse_attest(raw: bytes) -> Attest:
    r = Reader(raw)
    if r.take(4) != MAGIC or r.take(2) != QUOTE:
        raise Malformed("not a TPM quote")
    r.sized()
    extra = r.sized()
    clock, resets, restarts = r.number(8), r.number(4), r.number(4)
    if r.number(1) > 1:
        raise Malformed("TPM clock is neither safe nor unsafe")
    firmware = r.number(8)
    count = r.number(4)
    if count > BANKS_MAX:
        raise Malformed("TPM quote selects too many banks")
    selection = []
    for _ in range(count):
        bank, size = r.number(2), r.number(1)
        bits = int.from_bytes(r.take(size), "little")
        if bits >> PCRS:
            raise Malformed("TPM quote selects an unknown PCR")
        selection.append((bank, tuple(i for i in range(PCRS) if bits >> i & 1)))
    digest = r.sized()
    r.end()
    return Attest(raw, extra, clock, resets, restarts, firmware, tuple(selection), digest)


@frozen
class Signature:
    """TPMT_SIGNATURE."""

    scheme: int
    hash: int
    raw: bytes
    """r ‖ s padded to 66 bytes each, or the RSA block."""


def parse_signature(raw: bytes) -> Signature:
    r = Reader(raw)
    scheme, hash_id = r.number(2), r.number(2)
    if scheme in (RSASSA, RSAPSS):
        value = r.sized()
    elif scheme == ECDSA:
        parts = (r.sized(), r.sized())
        if any(len(p) > 66 for p in parts):
            raise Malformed("TPM signature too long")
        value = b"".join(p.rjust(66, b"\0") for p in parts)
    else:
        raise Malformed(f"TPM signature scheme {scheme:#x}")
    r.end()
    return Signature(scheme, hash_id, value)


def verifies(key: Any, signature: Signature, data: bytes) -> bool:
    """Does the key's signature cover `data`?"""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    name = HASHES.get(signature.hash, "")
    if name not in ("sha256", "sha384", "sha512"):
        return False
    if isinstance(key, ec.EllipticCurvePublicKey) and signature.scheme == ECDSA:
        size = (key.key_size + 7) // 8
        r, s = signature.raw[:66], signature.raw[66:]
        if any(r[: 66 - size]) or any(s[: 66 - size]):
            return False
        return certs.ecdsa_raw(key, r[66 - size :] + s[66 - size :], data, name)
    if not isinstance(key, rsa.RSAPublicKey) or signature.scheme == ECDSA or key.key_size < 2048:
        return False
    algorithm = certs.hash_algorithm(name)
    pad: Any = padding.PKCS1v15()
    if signature.scheme == RSAPSS:
        pad = padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO)
    try:
        key.verify(signature.raw, data, pad, algorithm)
    except (InvalidSignature, ValueError):
        return False
    return True


def parse_public(raw: bytes) -> tuple[Any, int]:
    """(key, attributes) of a TPMT_PUBLIC for an ECDSA P-256/P-384 or RSA signing key."""
    r = Reader(raw)
    kind, _, attributes = r.number(2), r.number(2), r.number(4)
    r.sized()
    if r.number(2) != 0x0010:
        raise Malformed("TPM key with a symmetric algorithm: no signing key")
    if r.number(2) != 0x0010:
        r.number(2)  # the scheme's hash
    if kind == 0x0001:
        bits, exponent = r.number(2), r.number(4)
        modulus = r.sized()
        r.end()
        key = certs.rsa_key(int.from_bytes(modulus, "big"), exponent or 65537)
        if key.key_size != bits:
            raise Malformed("TPM key is no RSA key")
        return key, attributes
    if kind != 0x0023:
        raise Malformed("TPM key of unknown type")
    curve, kdf = r.number(2), r.number(2)
    if kdf != 0x0010 or curve not in (3, 4):
        raise Malformed("TPM key on an unknown curve")
    size = 32 if curve == 3 else 48
    xy = r.sized().rjust(size, b"\0") + r.sized().rjust(size, b"\0")
    r.end()
    return (certs.p256 if curve == 3 else certs.p384)(xy), attributes


@frozen
class Parts:
    """A TPM quote and what stands beside it. `pcrs` are (bank, number, value) in any order."""

    attest: bytes
    signature: bytes
    public: bytes = b""
    """TPMT_PUBLIC of the attestation key; or empty when only `spki` is known."""
    spki: bytes = b""
    certificate: bytes = b""
    pcrs: tuple[tuple[int, int, bytes], ...] = ()


def check_digest(found: Findings, attest: Attest, pcrs: tuple[tuple[int, int, bytes], ...]) -> None:
    """The digest of the selected PCRs in order; without values it stands as an opaque measurement."""
    banks = [HASHES.get(bank, "") for bank, numbers in attest.selection if numbers]
    found.check("bank", bool(banks) and all(b not in ("", "sha1") for b in banks), ", ".join(banks), "sha1")
    found.measurements["pcr_digest"] = attest.pcr_digest.hex()
    if not pcrs:
        return
    values = {(bank, number): value for bank, number, value in pcrs}
    quoted = [(bank, n) for bank, numbers in attest.selection for n in numbers]
    held = b"".join(values.get(k, b"") for k in quoted)
    hash_of_key = {32: "sha256", 48: "sha384", 64: "sha512"}.get(len(attest.pcr_digest), "")
    same = bool(hash_of_key) and all(k in values for k in quoted)
    same = same and hashlib.new(hash_of_key, held).digest() == attest.pcr_digest
    found.check("pcrs", same, "", "pcr-digest")
    for bank, n in quoted if same else ():
        found.measurements[f"pcr{n}"] = values[bank, n].hex()


def judge_parts(found: Findings, parts: Parts, given: Given, now_ms: int, trust: roots.Trust) -> None:
    """Judges a quote, its key and, where there is one, the certificate of the key."""
    attest = parse_attest(parts.attest)
    found.bound = (attest.extra,) if attest.extra else ()
    found.check("nonce", bool(attest.extra), "" if attest.extra else "no extra data")
    key = _key(found, parts)
    # The key is part of what identifies a quote: without a root another key could sign the same bytes.
    found.region = parts.attest + spki_der(key)
    found.check("signature", verifies(key, parse_signature(parts.signature), parts.attest))
    check_digest(found, attest, parts.pcrs)
    found.level = "tpm-unrooted"
    if parts.certificate:
        leaf = certs.load(parts.certificate)
        chain = _path(leaf, [*certs.load_all(given.certificates), *_shipped(trust)])
        certs.check_chain(found, chain, trust.tpm, now_ms)
        same = leaf.spki == spki_der(key)
        found.check("key of certificate", same, "", "chain")
        found.level = "tpm-rooted"
    if attest.firmware == SWTPM_FIRMWARE:
        found.warnings.append("the firmware version is that of a software TPM")
        if _nothing_measured(attest):
            found.level = "simulated"
    found.measurements["resets"] = str(attest.resets)


def _nothing_measured(attest: Attest) -> bool:
    """Is every quoted register zero? Then no machine has booted under this TPM."""
    count = sum(len(numbers) for _, numbers in attest.selection)
    name = {32: "sha256", 48: "sha384", 64: "sha512"}.get(len(attest.pcr_digest), "")
    size = len(attest.pcr_digest) * count
    return bool(name) and hashlib.new(name, bytes(size)).digest() == attest.pcr_digest


def _key(found: Findings, parts: Parts) -> Any:
    if parts.public:
        key, attributes = parse_public(parts.public)
        ok = attributes & MUST == MUST and not attributes & DECRYPT
        found.check("key attributes", ok, f"{attributes:#x}", "attributes")
        return key
    found.warnings.append("the attributes of the attestation key are not shown")
    try:
        return certs.public_key(parts.spki)
    except Malformed as e:
        raise Malformed("no attestation key") from e


def spki_der(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _shipped(trust: roots.Trust) -> list[Any]:
    return certs.load_all(roots.certificates("google")) if trust is roots.VENDORS else []


def _path(leaf: Any, authorities: list[Any]) -> list[Any]:
    """From the leaf up by issuer names, as far as the authorities reach."""
    chain = [leaf]
    while len(chain) < certs.CHAIN_MAX and chain[-1].issuer != chain[-1].subject:
        issuer = next((c for c in authorities if c.subject == chain[-1].issuer), None)
        if issuer is None:
            break
        chain.append(issuer)
    return chain


def judge(
    found: Findings, raw: bytes, given: Given, policy: TeePolicy, now_ms: int, trust: roots.Trust
) -> None:
    """Judges a bare TPMS_ATTEST: its signature and key are in `given`."""
    signature = next((f for f in given.files if f[:2] in (b"\0\x14", b"\0\x16", b"\0\x18")), b"")
    if not found.check("signature given", bool(signature and given.keys), "", "collateral-missing"):
        found.region = parse_attest(raw).raw
        return
    judge_parts(found, Parts(raw, signature, spki=given.keys[0]), given, now_ms, trust)


# --- protobuf of go-tpm-tools --------------------


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """(field number, value) of a protobuf message: varints and length-delimited fields only."""
    out: list[tuple[int, int | bytes]] = []
    pos = 0

    def varint() -> int:
        nonlocal pos
        value = shift = 0
        while pos < len(data) and shift < 64:
            byte = data[pos]
            pos += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise Malformed("broken protobuf")

    while pos < len(data):
        tag = varint()
        if tag & 7 == 0:
            out.append((tag >> 3, varint()))
        elif tag & 7 == 2:
            size = varint()
            if size > len(data) - pos:
                raise Malformed("broken protobuf")
            out.append((tag >> 3, data[pos : pos + size]))
            pos += size
        else:
            raise Malformed("broken protobuf")
    return out


def _one(fields: list[tuple[int, int | bytes]], number: int) -> bytes:
    return next((v for n, v in fields if n == number and isinstance(v, bytes)), b"")


def _number(fields: list[tuple[int, int | bytes]], number: int) -> int:
    return next((v for n, v in fields if n == number and isinstance(v, int)), 0)


ORDER = (0x000B, 0x000C, 0x000D, 0x0004)
"""Hashes of banks, the first the best."""


def parts_of_protobuf(raw: bytes) -> Parts:
    """The strongest quote of an Attestation message (1 AK public, 2 quotes, 6 AK certificate).

    A quote over a SHA-1 bank is taken only if there is no other.
    """
    top = _fields(raw)
    quotes = [_fields(v) for n, v in top if n == 2 and isinstance(v, bytes)]
    if not quotes:
        raise Malformed("no TPM quote in this message")

    def rank(registers: list[tuple[int, int | bytes]]) -> int:
        return ORDER.index(_number(registers, 1)) if _number(registers, 1) in ORDER else len(ORDER)

    best, registers = min(((q, _fields(_one(q, 3))) for q in quotes), key=lambda pair: rank(pair[1]))
    bank, pcrs = _number(registers, 1), []
    for n, v in registers:
        if n == 2 and isinstance(v, bytes):
            entry = _fields(v)
            pcrs.append((bank, _number(entry, 1), _one(entry, 2)))
    return Parts(_one(best, 1), _one(best, 2), _one(top, 1), b"", _one(top, 6), tuple(pcrs))


def public_area() -> bytes:
    """The TPMT_PUBLIC template of a restricted signing key on P-256 with SHA-256."""
    attributes = MUST | 1 << 6  # userWithAuth
    return struct.pack(
        ">HHIHHHHHHHH", 0x0023, 0x000B, attributes, 0, 0x0010, ECDSA, 0x000B, 0x0003, 0x0010, 0, 0
    )
