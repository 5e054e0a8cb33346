"""What a quote of a TPM may not look like: each refusal of the readers and of the signature check alone."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from tee_world import cases
from test_tee_azure import quoted

from idao.errors import Malformed
from idao.tee import envelope, tpm

DATA = b"what a TPM signed"
SHA1, SHA256, SHA384 = 0x0004, 0x000B, 0x000C
RSA_TYPE, ECC_TYPE, NULL, P256 = 0x0001, 0x0023, 0x0010, 3


def sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def signature(scheme: int, hash_id: int, *values: bytes) -> bytes:
    return struct.pack(">HH", scheme, hash_id) + b"".join(sized(v) for v in values)


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def verifies(key: Any, raw: bytes) -> bool:
    return tpm.verifies(key.public_key(), tpm.parse_signature(raw), DATA)


def by_rsa(key: rsa.RSAPrivateKey, hash_id: int = SHA256, algorithm: Any = None) -> bytes:
    return signature(tpm.RSASSA, hash_id, key.sign(DATA, padding.PKCS1v15(), algorithm or hashes.SHA256()))


def by_ec(before: bytes = b"") -> bytes:
    r, s = decode_dss_signature(ec_key().sign(DATA, ec.ECDSA(hashes.SHA256())))
    return signature(tpm.ECDSA, SHA256, before + r.to_bytes(32, "big"), s.to_bytes(32, "big"))


def test_signatures() -> None:
    assert verifies(rsa_key(), by_rsa(rsa_key())) and verifies(ec_key(), by_ec())
    pss = rsa_key().sign(DATA, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    assert verifies(rsa_key(), signature(tpm.RSAPSS, SHA256, pss))
    assert verifies(rsa_key(), by_rsa(rsa_key(), SHA384, hashes.SHA384()))
    assert not verifies(rsa_key(), by_rsa(rsa_key())[:-1] + b"\0")
    assert not verifies(rsa_key(), signature(tpm.RSASSA, SHA256, pss)), "the scheme it names counts"


def test_a_signature_over_sha1_counts_for_nothing() -> None:
    assert not verifies(rsa_key(), by_rsa(rsa_key(), SHA1, hashes.SHA1()))


def test_a_short_key_counts_for_nothing() -> None:
    assert not verifies(rsa_key(1024), by_rsa(rsa_key(1024)))


def test_a_signature_of_the_other_kind_than_the_key() -> None:
    assert not verifies(rsa_key(), by_ec()) and not verifies(ec_key(), by_rsa(rsa_key()))


def test_numbers_of_an_ecdsa_signature_may_be_padded_but_not_larger() -> None:
    assert verifies(ec_key(), by_ec(bytes(34)))
    assert not verifies(ec_key(), by_ec(b"\1")), "the byte above the curve's size is not dropped"
    with pytest.raises(Malformed, match="too long"):
        tpm.parse_signature(by_ec(bytes(35)))


@pytest.mark.parametrize("parse, raw", [
    (tpm.parse_attest, quoted(b"nonce")),
    (tpm.parse_signature, signature(tpm.RSASSA, SHA256, bytes(256))),
    (tpm.parse_signature, signature(tpm.ECDSA, SHA256, bytes(32), bytes(32))),
    (lambda raw: tpm.parse_public(raw), lambda: public_rsa()),
    (lambda raw: tpm.parse_public(raw), lambda: public_ec()),
])  # fmt: skip
def test_nothing_may_miss_or_follow(parse: Any, raw: Any) -> None:
    raw = raw() if callable(raw) else raw
    parse(raw)
    with pytest.raises(Malformed, match="after the end"):
        parse(raw + b"\0")
    for end in range(len(raw)):
        with pytest.raises(Malformed, match=r"ends early|not a TPM quote"):
            parse(raw[:end])


def head(kind: int) -> bytes:
    return struct.pack(">HHIHHHH", kind, SHA256, tpm.MUST, 0, NULL, tpm.RSASSA, SHA256)


def public_rsa(bits: int = 2048) -> bytes:
    modulus = rsa_key().public_key().public_numbers().n.to_bytes(256, "big")
    return head(RSA_TYPE) + struct.pack(">HI", bits, 0) + sized(modulus)


def public_ec(kind: int = ECC_TYPE, curve: int = P256, kdf: int = NULL) -> bytes:
    at = ec_key().public_key().public_numbers()
    xy = sized(at.x.to_bytes(32, "big")) + sized(at.y.to_bytes(32, "big"))
    return head(kind) + struct.pack(">HH", curve, kdf) + xy


def test_a_key_is_what_it_says() -> None:
    assert tpm.parse_public(public_rsa())[0].public_numbers() == rsa_key().public_key().public_numbers()
    assert tpm.parse_public(public_ec())[0].public_numbers() == ec_key().public_key().public_numbers()
    with pytest.raises(Malformed, match="no RSA key"):
        tpm.parse_public(public_rsa(3072))
    with pytest.raises(Malformed, match="unknown type"):
        tpm.parse_public(public_ec(kind=0x0025))
    for strange in (public_ec(curve=5), public_ec(kdf=0x0020)):
        with pytest.raises(Malformed, match="unknown curve"):
            tpm.parse_public(strange)


def test_a_quote_names_at_most_sixteen_banks_of_24_registers() -> None:
    raw = quoted(b"nonce")
    at = len(raw) - 34 - 6 - 4
    count, bank, digest = raw[at : at + 4], raw[at + 4 : at + 10], raw[at + 10 :]
    assert count == b"\0\0\0\1" and tpm.parse_attest(raw[:at] + struct.pack(">I", 16) + bank * 16 + digest)
    with pytest.raises(Malformed, match="too many banks"):
        tpm.parse_attest(raw[:at] + struct.pack(">I", 17) + bank * 17 + digest)
    with pytest.raises(Malformed, match="unknown PCR"):
        tpm.parse_attest(raw[:at] + count + struct.pack(">HB", SHA256, 4) + b"\0\0\0\1" + digest)


def test_a_cut_message_and_one_without_a_quote() -> None:
    raw = cases()["tpm-2"].evidence
    with pytest.raises(Malformed, match="broken protobuf"):
        tpm.parts_of_protobuf(raw[:-1])
    with pytest.raises(Malformed, match="no TPM quote"):
        tpm.parts_of_protobuf(b"\x0a\x00")
    parts = envelope.parse(raw).tpm
    assert parts is not None and {bank for bank, _, _ in parts.pcrs} == {SHA256}, "not the one over SHA-1"
