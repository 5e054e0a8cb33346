"""The own reader of certificates and revocation lists, held against a general library."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator

import pytest
from tee_world import cases
from test_tee_fuzz import SEED, SLOW, mutate

from idao.errors import Malformed
from idao.tee import certs, cose, envelope, nitro, quote, roots, x509
from idao.tee.collateral import expand
from idao.tee.given import Given

QUICK = 4


def _carried(parsed: envelope.Parsed) -> Iterator[bytes]:
    """Certificates inside evidence."""
    if parsed.kind in ("sgx", "tdx"):
        yield from quote.chain_of(quote.parse(parsed.blob)).certificates
    if parsed.kind == "nitro":
        fields = nitro._fields(cose.sign1(cose.read(parsed.blob)).payload)
        yield from (fields["certificate"], *fields["cabundle"])
    if parsed.tpm is not None and parsed.tpm.certificate:
        yield parsed.tpm.certificate
    if parsed.azure is not None:
        yield from parsed.azure.certificates
        if parsed.azure.td_quote:
            yield from quote.chain_of(quote.parse(parsed.azure.td_quote)).certificates


def everything() -> tuple[list[bytes], list[bytes]]:
    """(certificates, revocation lists) of vendors' roots, evidence and collateral at hand."""
    certificates = {d for v in ("amd", "google", "nitro", "nvidia", "intel") for d in roots.certificates(v)}
    lists: set[bytes] = set()
    for case in cases().values():
        given: Given = expand(case.files)
        for text in given.intel:
            value = json.loads(text)
            for name in value:
                if name.endswith("_chain") and value[name]:
                    certificates.update(certs.pem_blocks(value[name].encode(), "CERTIFICATE"))
            lists.update(bytes.fromhex(value[n]) for n in ("pck_crl", "root_ca_crl") if n in value)
        try:
            parsed = envelope.parse(case.evidence)
            certificates.update(_carried(parsed), parsed.given.certificates)
        except Malformed:
            pass
        certificates.update(given.certificates)
        lists.update(given.crls)
    return sorted(certificates), sorted(lists)


CERTIFICATES, LISTS = everything()


def _theirs(der: bytes) -> dict[str, object] | None:
    from cryptography import x509 as general
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cert = general.load_der_x509_certificate(der)
            key = cert.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            names = [
                n.get_attributes_for_oid(general.NameOID.COMMON_NAME) for n in (cert.issuer, cert.subject)
            ]
            try:
                basic = cert.extensions.get_extension_for_class(general.BasicConstraints).value
                ca = (basic.ca, basic.path_length)
            except general.ExtensionNotFound:
                ca = (False, None)
            return {
                "serial": cert.serial_number,
                "tbs": cert.tbs_certificate_bytes,
                "signature": cert.signature,
                "spki": key,
                "issuer": names[0][0].value if names[0] else "",
                "subject": names[1][0].value if names[1] else "",
                "window": tuple(
                    int(t.timestamp()) * 1000 for t in (cert.not_valid_before_utc, cert.not_valid_after_utc)
                ),
                "ca": ca,
                "extensions": [e.oid.dotted_string for e in cert.extensions],
            }
    except Exception:
        return None


def _dotted(oid: bytes) -> str:
    numbers, value = [], 0
    for byte in oid:
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            numbers.append(value)
            value = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))


def _ours(der: bytes) -> dict[str, object] | None:
    try:
        cert = certs.load.__wrapped__(der)
        said = x509.constraints(cert)
    except Malformed:
        return None
    return {
        "serial": cert.serial,
        "tbs": cert.tbs,
        "signature": cert.signature,
        "spki": cert.spki,
        "issuer": x509.common_name(cert.issuer),
        "subject": x509.common_name(cert.subject),
        "window": certs.window(cert),
        "ca": (said.ca, said.path_length),
        "extensions": [_dotted(oid) for oid in cert.extensions],
    }


def test_there_is_much_to_compare() -> None:
    assert len(CERTIFICATES) > 50 and len(LISTS) > 5


@pytest.mark.parametrize("der", CERTIFICATES, ids=range(len(CERTIFICATES)))
def test_reads_every_certificate_as_the_general_library(der: bytes) -> None:
    theirs, ours = _theirs(der), _ours(der)
    assert ours is not None and ours == theirs


def compared(count: int) -> None:
    """What both read they read alike; what only this one takes differs in what nobody asks for."""
    chance = random.Random(f"{SEED} x509")
    for der in CERTIFICATES:
        for _ in range(count):
            bad = mutate(der, chance)
            ours = _ours(bad)
            theirs = _theirs(bad) if ours is not None else None
            if ours is None or theirs is None:
                continue
            if certs.key_of(certs.load.__wrapped__(bad)) is None:  # a key that is refused when it is used
                theirs["spki"] = ours["spki"]
            assert ours == theirs, bad.hex()


def test_reads_mutations_alike() -> None:
    compared(QUICK)


@pytest.mark.slow
def test_reads_many_mutations_alike() -> None:
    compared(SLOW // 50)


def test_links_as_the_general_library() -> None:
    from cryptography import x509 as general

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        general_ones = [general.load_der_x509_certificate(d) for d in CERTIFICATES]
    ours = [certs.load(d) for d in CERTIFICATES]
    linked = 0
    for i, a in enumerate(ours):
        for j, b in enumerate(ours):
            if a.issuer != b.subject:
                continue
            try:
                general_ones[i].verify_directly_issued_by(general_ones[j])
                theirs = True
            except Exception:
                theirs = False
            assert certs.issued_by(a, b) is theirs
            linked += theirs
    assert linked > 40


@pytest.mark.parametrize("der", LISTS, ids=range(len(LISTS)))
def test_reads_every_revocation_list_as_the_general_library(der: bytes) -> None:
    from cryptography import x509 as general

    theirs, ours = general.load_der_x509_crl(der), certs.load_crl(der)
    assert (ours.tbs, ours.signature) == (theirs.tbs_certlist_bytes, theirs.signature)
    ends = theirs.next_update_utc
    assert certs.crl_window(ours) == tuple(
        int(t.timestamp()) * 1000 for t in (theirs.last_update_utc, ends or theirs.last_update_utc)
    )
    assert ours.revoked == {r.serial_number: int(r.revocation_date_utc.timestamp()) * 1000 for r in theirs}


@pytest.mark.parametrize("der", [CERTIFICATES[0], LISTS[0]], ids=["certificate", "list"])
def test_cut_or_longer_is_nothing(der: bytes) -> None:
    read = x509.Certificate if der is CERTIFICATES[0] else x509.RevocationList
    read(der)
    for bad in (*(der[:n] for n in range(len(der))), der + b"\0", der + der):
        with pytest.raises(Malformed):
            read(bad)


SEQ = x509.SEQUENCE


@pytest.mark.parametrize(
    ("der", "read"),
    [
        ("308100", lambda d: d.span(SEQ)),  # a length longer than needed
        ("30820001ff", lambda d: d.span(SEQ)),
        ("3080", lambda d: d.span(SEQ)),  # one that does not say where it ends
        ("30847fffffff", lambda d: d.span(SEQ)),
        ("3005", lambda d: d.span(SEQ)),
        ("0200", lambda d: d.integer()),
        ("02020001", lambda d: d.integer()),
        ("0202ff80", lambda d: d.integer()),
        ("030101", lambda d: d.bits()),
        ("0300", lambda d: d.bits()),
        ("170d3235303133323030303030305a", lambda d: d.moment()),  # the 32nd of January
        ("170b323530313031303030305a", lambda d: d.moment()),  # without seconds
        ("170d323530313031303030303030 31".replace(" ", ""), lambda d: d.moment()),
        ("170d32350a3130313030303030305a", lambda d: d.moment()),
    ],
)
def test_der_in_another_form_than_the_shortest(der: str, read: object) -> None:
    with pytest.raises(Malformed):
        read(x509.Der(bytes.fromhex(der)))  # type: ignore[operator]


def test_times_of_both_centuries() -> None:
    for text, year in ((b"500101000000Z", 1950), (b"491231235959Z", 2049)):
        assert str(year) in x509.show_utc(x509.Der(b"\x17\x0d" + text).moment())


def _spki(modulus: int, exponent: int) -> bytes:
    def number(value: int) -> bytes:
        raw = value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)
        return b"\2\x82" + len(raw).to_bytes(2, "big") + raw if len(raw) > 127 else bytes([2, len(raw)]) + raw

    def long(tag: int, body: bytes) -> bytes:
        return bytes([tag, 0x82]) + len(body).to_bytes(2, "big") + body

    key = long(0x30, number(modulus) + number(exponent))
    return long(0x30, certs.RSA_KEY + long(3, b"\0" + key))


@pytest.mark.parametrize(
    ("modulus", "exponent"),
    [
        (-(1 << 2047) - 1, 65537),  # its first bit set: a negative number
        ((1 << 2047) + 1, -3),
        ((1 << 2047) + 1, 0),
        ((1 << 2047) + 1, 1),
        ((1 << 2047) + 1, 4),
        ((1 << 2047) + 1, (1 << 32) + 1),
        ((1 << 1535) + 1, 65537),
        ((1 << 8192) + 1, 65537),
    ],
)
def test_numbers_that_make_no_key(modulus: int, exponent: int) -> None:
    assert certs.public_key(_spki((1 << 2047) + 1, 65537)).key_size == 2048
    with pytest.raises(Malformed):
        certs.public_key(_spki(modulus, exponent))


def test_a_chain_longer_than_any_real_one() -> None:
    assert len(certs.load_all(CERTIFICATES[: certs.CHAIN_MAX])) == certs.CHAIN_MAX
    with pytest.raises(Malformed):
        certs.load_all(CERTIFICATES[: certs.CHAIN_MAX + 1])


def test_keys_in_other_forms_are_no_keys() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    whole = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert certs.public_key(whole) == key
    small = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    hybrid = bytes([6 | point[-1] & 1]) + point[1:]
    for bits in (small, hybrid, point[:-1] + bytes([point[-1] ^ 1]), b"\4", b""):
        algorithm = whole[2:23]
        body = algorithm + bytes([3, len(bits) + 1, 0]) + bits
        with pytest.raises(Malformed):
            certs.public_key(bytes([0x30, len(body)]) + body)
    edwards = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    for other in (
        edwards.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        _spki((1 << 2047) + 1, 65537).replace(bytes.fromhex("f70d010101"), bytes.fromhex("f70d01010a")),
    ):
        with pytest.raises(Malformed):
            certs.public_key(other)


@pytest.mark.parametrize(
    "text", ["", "2025-06-19", "2025-13-01T00:00:00Z", "2025-06-19T10:16:03+00:00", 5, None]
)
def test_times_of_collateral_have_one_form(text: object) -> None:
    assert certs.rfc3339_ms("1970-01-01T00:00:01Z") == 1000
    with pytest.raises(Malformed) as e:
        certs.rfc3339_ms(text)  # type: ignore[arg-type]
    assert e.value.code == "collateral"


def test_other_bytes_are_called_what_they_should_have_been() -> None:
    for read, code in ((certs.load, "chain"), (certs.load_crl, "collateral")):
        with pytest.raises(Malformed) as e:
            read(b"0\3\2\1\0")  # type: ignore[operator]
        assert e.value.code == code
    with pytest.raises(Malformed):
        certs.pem_blocks(b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n", "CERTIFICATE")
    with pytest.raises(Malformed):
        x509._extensions(x509.Der(b"0\0"))


def test_forms_of_amds_signature_algorithm() -> None:
    """As certificates have it, and as other tools write the same thing."""
    pss = [a for a, (scheme, _) in certs.SIGNATURES.items() if scheme == "pss"]
    assert len(pss) == len(set(pss)) == 8
    seen = {certs.load(d).algorithm for d in CERTIFICATES} - set(certs.SIGNATURES)
    assert not seen, "every certificate at hand is signed in a form that is known"
    assert {a for d in CERTIFICATES if (a := certs.load(d).algorithm) in pss} == {pss[0], pss[1]}


def test_parts_that_contradict_each_other() -> None:
    der = roots.certificates("intel")[0]
    algorithm = certs.load(der).algorithm
    other = algorithm[:-1] + bytes([algorithm[-1] + 1])
    for bad in (
        der.replace(x509.VERSION_3, bytes.fromhex("a003020101"), 1),
        der.replace(algorithm, other, 1),
        der[::-1].replace(algorithm[::-1], other[::-1], 1)[::-1],
    ):
        assert bad != der
        with pytest.raises(Malformed):
            x509.Certificate(bad)
    with pytest.raises(Malformed, match="too large"):
        x509.Certificate(bytes(x509.CERT_BYTES_MAX + 1))
    crl, listed = LISTS[0], certs.load_crl(LISTS[0]).algorithm
    with pytest.raises(Malformed):
        x509.RevocationList(crl.replace(listed, listed[:-1] + bytes([listed[-1] + 1]), 1))
    with pytest.raises(Malformed):
        x509.RevocationList(crl.replace(b"\2\1\1" + listed, b"\2\1\2" + listed, 1))


def test_extensions_in_other_forms() -> None:
    one = bytes.fromhex("3009 0603551d13 0402 3000".replace(" ", ""))
    assert list(x509._extensions(x509.Der(b"0" + bytes([len(one)]) + one))) == [x509.BASIC_CONSTRAINTS]
    said = bytes.fromhex("300c 0603551d13 010100 0402 3000".replace(" ", ""))  # not critical, and says so
    for body in (one + one, said, one[:-1]):
        with pytest.raises(Malformed):
            x509._extensions(x509.Der(b"0" + bytes([len(body)]) + body))
    cert = certs.load(CERTIFICATES[0])
    for usage in (b"\3\0", b"\3\1\1", b"\3\2\x08\x80"):
        other = object.__new__(x509.Certificate)
        other.extensions = {**cert.extensions, x509.KEY_USAGE: usage}
        with pytest.raises(Malformed):
            x509.constraints(other)
    other.extensions = {x509.KEY_USAGE: b"\3\1\0"}
    assert x509.constraints(other).usage == 0 and not x509.constraints(other).signs
