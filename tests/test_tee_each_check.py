"""Checks that evidence of every other test passes or fails for more than one reason: each of them alone.

Found by taking each check of the TEE room away in turn, and looking which tests notice.
"""

from __future__ import annotations

import datetime
import json
from types import SimpleNamespace
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from tee_world import binary, cases, ms
from test_tee_azure import key, quoted

from idao.errors import Malformed
from idao.tee import (
    binding,
    certs,
    cose,
    envelope,
    intel,
    nitro,
    nvidia,
    quote,
    roots,
    simulator,
    snp,
    tpm,
    verifier,
)
from idao.tee.given import Given
from idao.tee.policy import STRICT, Floor, relaxed
from idao.tee.result import Findings


def test_a_realm_token_signed_by_nobody() -> None:
    case = cases()["cca-1"]
    raw = binary(case)
    assert raw.endswith(cose.read(raw).value[44241]), "the realm's part is the last"
    assert case.judge(evidence=raw[:-1] + bytes([raw[-1] ^ 1])).reason == "signature"


def test_own_code_wants_the_report_of_the_quoting_enclave_signed() -> None:
    case = cases()["az-tdx-1"]
    policy = relaxed(STRICT, kinds=("azure-tdx",), intel_statuses=("OutOfDate",))
    value, parsed = json.loads(case.evidence), envelope.parse(case.evidence)
    assert parsed.azure is not None
    raw = parsed.azure.td_quote
    at = raw.index(quote.parse(raw).qe_signature)
    value["td_quote"] = (raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]).hex()
    assert case.judge(policy).accepted
    assert case.judge(policy, evidence=json.dumps(value).encode()).reason == "signature"


def test_evidence_without_claims_backs_no_member_of_a_quorum() -> None:
    case = cases()["tdx-1"]
    for asked in (
        binding.Expected(quorum=b"q" * 32),
        binding.Expected(idao=b"i" * 32),
        binding.Expected(beacons=((b"n" * 32, case.at),)),
    ):
        assert case.judge(bind=asked).reason == "binding"


def test_a_root_beside_the_chain_of_a_quote_is_looked_at_too() -> None:
    """The library never reads the third certificate: the second is under Intel's own root."""
    case, raw = cases()["tdx-1"], binary(cases()["tdx-1"])
    chain = quote.parse(raw).chain
    at = chain.rindex(b"-----BEGIN")
    other = simulator.pem_of(roots.certificates("simulated")[0]).encode()
    swapped = chain[:at] + other + b"\n" * (len(chain) - at - len(other))
    assert len(swapped) == len(chain)
    assert case.judge(evidence=raw.replace(chain, swapped)).reason == "root"


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity"])
def test_a_look_alike_root_behind_the_signer_of_levels(part: str) -> None:
    case = cases()["tdx-1"]
    value = json.loads(case.files[0])
    chain = value[f"{part}_issuer_chain"]
    other = simulator.pem_of(roots.certificates("simulated")[0])
    value[f"{part}_issuer_chain"] = chain[: chain.rindex("-----BEGIN")] + other
    assert case.judge(files=(json.dumps(value).encode(),)).reason == "root"


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("az-tdx-1", "2025-10-15T00:00:00Z"),  # the levels were stated four days later
        ("az-tdx-1", "2025-11-12T10:46:00Z"),  # the list of revocations has ended, all else has not
        ("sgx-2", "2025-09-14T04:50:00Z"),  # the enclave's identity alone
        ("sgx-2", "2025-09-14T05:20:00Z"),  # that and the levels
    ],
)
def test_each_statement_has_its_own_window(name: str, at: str) -> None:
    policy = relaxed(STRICT, kinds=("sgx", "azure-tdx"), intel_statuses=("OutOfDate", "SWHardeningNeeded"))
    case = cases()[name]
    assert case.judge(policy).accepted
    assert case.judge(policy, at=ms(at)).reason == "collateral-expired"


@pytest.mark.parametrize("accepted", [False, True])
def test_a_td_that_should_be_started_again(accepted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the library knows of it, from the second list of versions of newer TDs; no public quote has it."""
    said = {"tcb": {"status": "TDRelaunchAdvised", "advisory_ids": []}}
    verdict = SimpleNamespace(to_json=lambda: json.dumps(said))
    verifying = SimpleNamespace(verify_with_policy=lambda *asked: verdict)
    library = SimpleNamespace(
        PyQuoteVerifier=lambda: verifying,
        PyQuoteCollateralV3=SimpleNamespace(from_json=lambda text: None),
        PyQuotePolicy=SimpleNamespace(claims_only=lambda now: None),
    )
    monkeypatch.setattr(intel, "library", lambda: library)
    intel._theirs.cache_clear()
    statuses = ("UpToDate", "TDRelaunchAdvised") if accepted else ("UpToDate",)
    result = cases()["tdx-7"].judge(relaxed(STRICT, intel_statuses=statuses))
    intel._theirs.cache_clear()
    assert (result.accepted, result.tcb_status) == (accepted, "TDRelaunchAdvised")
    assert accepted or result.reason == "tcb-status"


# --- Nitro, by authorities of our own ------------------------------------------------------------------

NOW = 1_790_000_000_000


class Authorities:
    """Root, one between, and the certificate of an instance, on P-384 as AWS has them."""

    def __init__(self, *, signs: bool = True, issues: bool = False) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding

        self.key = ec.derive_private_key(7, ec.SECP384R1())
        keys = [ec.derive_private_key(n, ec.SECP384R1()) for n in (5, 6)] + [self.key]
        names = [
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, n)]) for n in ("root", "zone", "i-1")
        ]
        day = datetime.timedelta(days=1)
        begin = datetime.datetime.fromtimestamp(NOW / 1000, datetime.UTC) - day
        made = []
        for n in range(3):
            ca = n < 2 or issues
            b = x509.CertificateBuilder(
                names[max(0, n - 1)], names[n], keys[n].public_key(), n + 1, begin, begin + 2 * day
            )
            b = b.add_extension(x509.BasicConstraints(ca, None), critical=True)
            usage = x509.KeyUsage(n == 2 and signs, False, False, False, False, ca, False, False, False)
            b = b.add_extension(usage, critical=True)
            made.append(b.sign(keys[max(0, n - 1)], hashes.SHA384()).public_bytes(Encoding.DER))
        self.root, self.zone, self.leaf = made

    def judge(self, **changed: Any) -> list[str]:
        """Codes of the checks that fail for a document with some fields changed."""
        from idao.tee.certs import load, spki

        fields = {
            "module_id": "i-1-enc", "digest": "SHA384", "timestamp": NOW, "pcrs": {0: b"\1" * 48},
            "certificate": self.leaf, "cabundle": [self.root, self.zone], "user_data": b"x" * 64,
        }  # fmt: skip
        payload, protected = cbor2.dumps({**fields, **changed}), cbor2.dumps({1: -35})
        signed = cbor2.dumps(["Signature1", protected, b"", payload])
        raw = cbor2.dumps([protected, {}, payload, simulator._raw(self.key, signed, "sha384")])
        trust = roots.Trust(*([frozenset()] * 4), frozenset({spki(load(self.root))}), *([frozenset()] * 2))
        found = Findings("nitro")
        nitro.judge(found, raw, Given(), STRICT, NOW, trust)
        return [c.code for c in found.checks if not c.ok]


def test_a_document_by_own_authorities_is_sound() -> None:
    assert Authorities().judge() == []
    assert Authorities().judge(public_key=b"k" * 32, nonce=None) == []


@pytest.mark.parametrize("how", [{"signs": False}, {"issues": True}])
def test_a_key_that_may_not_sign_documents(how: dict[str, bool]) -> None:
    assert Authorities(**how).judge() == ["chain"]


def test_a_document_of_another_day_than_its_key() -> None:
    assert Authorities().judge(timestamp=NOW - 2 * 86_400_000) == ["cert-expired"]
    assert Authorities().judge(pcrs={0: bytes(48)}) == ["debug"]
    assert Authorities().judge(pcrs={1: b"\1" * 48}) == ["debug"]


@pytest.mark.parametrize("name", ["nitro-1", "nitro-4"])
def test_a_document_with_another_signature(name: str) -> None:
    case = cases()[name]
    raw = binary(case)
    signature = cose.sign1(cose.read(raw)).signature
    at = raw.index(signature) + 50
    assert case.judge(evidence=raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]).reason == "signature"


def test_a_clouds_key_wants_its_name_in_the_policy() -> None:
    case = cases()["snp-6"]
    floors = (Floor(0x19, 0, 15, 0, 0, 0, 0),)
    loose = relaxed(
        STRICT, amd_products=("milan",), amd_vmpls=(0, 1), amd_floors=floors, amd_alias_check=False
    )
    assert case.judge(loose).reason == "signing-key"
    assert case.judge(relaxed(loose, amd_signing_keys=("vlek",))).accepted


def test_a_certificate_of_another_tpms_key_roots_nothing() -> None:
    """Anybody may show the certificate of a key that is in some cloud's TPM."""
    own, attest = key(), quoted(b"x" * 64)
    block = own.sign(attest, padding.PKCS1v15(), hashes.SHA256())
    signature = b"\0\x14\0\x0b" + len(block).to_bytes(2, "big") + block
    theirs = envelope.parse(cases()["tpm-2"].evidence).tpm
    assert theirs is not None and theirs.certificate
    for certificate, codes in ((b"", []), (theirs.certificate, ["chain"])):
        found = Findings("tpm")
        parts = tpm.Parts(attest, signature, spki=tpm.spki_der(own.public_key()), certificate=certificate)
        tpm.judge_parts(found, parts, Given(), cases()["tpm-2"].at, roots.VENDORS)
        assert [c.code for c in found.checks if not c.ok] == codes


def test_a_quote_without_its_signature_is_nothing() -> None:
    case = cases()["tpm-3"]
    assert case.judge(files=()).reason == "collateral-missing"
    assert case.judge(files=case.files[:1]).reason == "collateral-missing"


def test_what_no_reader_foresaw_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*asked: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setitem(verifier._JUDGES, "tdx", broken)
    result = cases()["tdx-1"].judge()
    assert (result.accepted, result.level, result.reason) == (False, "none", "malformed")
    assert [c.detail for c in result.checks if c.name == "form"] == ["unexpected RuntimeError"]


@pytest.mark.parametrize(
    "changed",
    [
        {"more": 1},
        {"module_id": ""},
        {"digest": "SHA256"},
        {"timestamp": 0},
        {"timestamp": True},
        {"timestamp": 2**62},
        {"pcrs": {}},
        {"pcrs": dict.fromkeys(range(33), b"\x01" * 48)},
        {"pcrs": {32: b"\1" * 48}},
        {"pcrs": {0: b"\1" * 47}},
        {"pcrs": {0: "text"}},
        {"cabundle": []},
        {"cabundle": [b""]},
        {"certificate": bytes(1025)},
        {"user_data": bytes(513)},
        {"nonce": bytes(513)},
        {"public_key": b""},
        {"public_key": "text"},
    ],
    ids=str,
)
def test_fields_of_a_document_that_aws_does_not_write(changed: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        Authorities().judge(**changed)


# --- bytes of quotes and reports -------------------------------------------------------------------------


def changed(raw: bytes, at: int, value: bytes) -> bytes:
    return raw[:at] + value + raw[at + len(value) :]


def test_headers_of_quotes_that_intel_does_not_write() -> None:
    raw = binary(cases()["tdx-1"])
    q = quote.parse(raw)
    inside = 48 + 584 + 4 + 128  # behind signature and key: what certifies the key
    chained = raw.index(q.chain) - 6
    assert raw[inside : inside + 2] == b"\6\0" and raw[chained : chained + 2] == b"\5\0"
    for bad in (
        raw[:47],
        changed(raw, 0, b"\6\0"),
        changed(raw, 2, b"\3\0"),
        changed(raw, 4, b"\x82"),
        changed(raw, 12, bytes(16)),
        changed(raw, inside, b"\5\0"),
        changed(raw, chained, b"\1\0"),
        changed(raw, 632, b"\xff\xff\xff\x7f"),
    ):
        with pytest.raises(Malformed):
            quote.parse(bad)


def _entry(oid: bytes, value: bytes) -> bytes:
    return _sequence(bytes([6, len(quote._OID_BYTES) + len(oid)]) + quote._OID_BYTES + oid + value)


def _sequence(body: bytes) -> bytes:
    return (
        b"\x30" + (bytes([len(body)]) if len(body) < 128 else b"\x82" + len(body).to_bytes(2, "big")) + body
    )


def _extension(svns: tuple[int, ...] = (1,) * 16, cpusvn: bytes = b"\1" * 16, **parts: bytes) -> bytes:
    """What a PCK certificate says of its platform."""
    tcb = b"".join(_entry(bytes([2, n]), bytes([2, 1, s])) for n, s in enumerate(svns, 1))
    tcb += _entry(b"\2\x11", b"\2\1\5") + _entry(b"\2\x12", bytes([4, len(cpusvn)]) + cpusvn)
    held = {"ppid": bytes(16), "pceid": bytes(2), "fmspc": bytes(6), **parts}
    top = b"".join(
        _entry(oid, bytes([4, len(held[name])]) + held[name])
        for name, oid in (("ppid", b"\1"), ("pceid", b"\3"), ("fmspc", b"\4"))
        if held[name]
    )
    return _sequence(top + _entry(b"\2", _sequence(tcb)))


def test_extensions_that_intel_does_not_write() -> None:
    def read(raw: bytes | None) -> quote.Pck:
        extensions = {} if raw is None else {quote._OID_BYTES: raw}
        return quote.pck.__wrapped__(SimpleNamespace(extensions=extensions))  # type: ignore[arg-type]

    sound = _extension()
    assert read(sound).svns == (1,) * 16 and read(sound).pcesvn == 5
    for bad in (
        None,
        b"",
        sound[:-1],
        changed(sound, 1, b"\x84"),
        _extension(cpusvn=b"\2" * 16),
        _extension(svns=(1,) * 15),
        _extension(ppid=b""),
        _extension(ppid=bytes(15)),
        _extension(fmspc=bytes(5)),
        sound.replace(quote._OID_BYTES + b"\3", quote._OID_BYTES[:-1] + b"\2\3"),
        sound.replace(quote._OID_BYTES + b"\4", quote._OID_BYTES + b"\3"),
    ):
        with pytest.raises(Malformed):
            read(bad)


def test_reports_that_amd_does_not_write() -> None:
    raw = binary(cases()["snp-3"])
    assert snp.parse(raw).version == 5
    for bad in (
        raw[:-1],
        raw + b"\0",
        changed(raw, 0, b"\6"),
        changed(raw, 0x34, b"\2"),
        changed(raw, 0x330, b"\1"),
    ):
        with pytest.raises(Malformed):
            snp.parse(bad)
    assert snp._small(b"\2\1\5") == 5 and snp._small(b"\2\2\0\xff") == 255
    for der in (None, b"", b"\2\1", b"\4\1\5", b"\2\2\1\5", b"\2\3\0\0\5", b"\2\2\5"):
        with pytest.raises(Malformed):
            snp._small(der)


@pytest.mark.parametrize(
    "data",
    [
        "62c328",  # text that is not UTF-8
        "a1410100",  # a map with a key of bytes
        "a1f500",  # and one of a truth
        "990101" + "00" * 257,  # more items than any real one has
        "820001" + "00",
        "8200",
        "4301",
        "1800",
        "f93c00",
        "ff",
        "81" * 10 + "00",
    ],
)
def test_cbor_that_no_vendor_writes(data: str) -> None:
    with pytest.raises(Malformed):
        cose.read(bytes.fromhex(data))


def test_signed_documents_of_other_forms() -> None:
    for value in (
        b"",
        [b"", {}, b""],
        ["", {}, b"", b""],
        [b"", [], b"", b""],
        [b"", {}, "", b""],
        [b"", {}, b"", 1],
    ):
        with pytest.raises(Malformed):
            cose.sign1(value)
    with pytest.raises(Malformed):
        cose.sign1([b"", {4: b"key"}, b"", b""])
    assert cose.sign1([b"", {4: b"key"}, b"", b""], unprotected=True).headers == {}
    with pytest.raises(Malformed):
        cose.sign1([cbor2.dumps([1]), {}, b"", b""])


def test_measurements_of_a_gpu_fill_their_record() -> None:
    def block(index: int, value: bytes) -> bytes:
        return bytes((index, 1)) + (len(value) + 3).to_bytes(2, "little") + b"\0\0\0" + value

    good = block(1, b"ab") + block(2, b"")
    assert nvidia._blocks(good, 2) == [("block1", b"ab".hex()), ("block2", "")]
    for record, count in (
        (good[:-1], 2), (good[:3], 1), (good, 3), (good, 1), (good + b"\0", 2), (b"\1\1\2\0ab", 1)
    ):  # fmt: skip
        with pytest.raises(Malformed):
            nvidia._blocks(record, count)


def test_intels_collateral_is_one_object_of_which_no_key_stands_twice() -> None:
    text = cases()["tdx-1"].files[0].decode()
    assert intel.read_collateral(text.encode()).tcb["fmspc"]
    value = json.loads(text)
    twice = {**value, "tcb_info": value["tcb_info"].replace("{", '{"fmspc":"00",', 1)}
    for bad in (
        "[]",
        "1",
        "{",
        text.replace("{", '{"tcb_info":"",', 1),
        json.dumps(twice),
        json.dumps({**value, "qe_identity": "[]"}),
        json.dumps({k: v for k, v in value.items() if k != "root_ca_crl"}),
        json.dumps({**value, "pck_certificate_chain": 1}),
        text.replace("{", "{" + " " * intel.COLLATERAL_BYTES_MAX, 1),
    ):
        with pytest.raises(Malformed) as refused:
            intel.read_collateral(bad.encode())
        assert refused.value.code == "collateral"


def test_a_level_of_intel_has_sixteen_components() -> None:
    assert intel._svns([{"svn": i} for i in range(16)]) == list(range(16))
    for n in (15, 17):
        with pytest.raises(ValueError, match="sixteen"):
            intel._svns([{"svn": 0}] * n)


def test_each_list_and_certificate_of_intel_counts_in_its_own_time() -> None:
    """The library looks at these too, but not for what runs behind a paravisor."""
    case = cases()["tdx-1"]
    collateral = intel.read_collateral(case.files[0])
    chain = certs.load_all(certs.pem_blocks(quote.parse(binary(case)).chain, "CERTIFICATE"))

    def late(now_ms: int) -> set[str]:
        found = Findings("tdx")
        intel._windows(found, collateral, chain, now_ms)
        return {check.name for check in found.checks if not check.ok}

    windows = {
        f"{part} window": certs.crl_window(certs.load_crl(bytes.fromhex(collateral.parts[part])))
        for part in ("root_ca_crl", "pck_crl")
    }
    ends = {name: (low, high - 1) for name, (low, high) in windows.items()}
    ends |= {f"chain: validity {i}": certs.window(c) for i, c in enumerate(chain)}
    for name, (first, last) in ends.items():
        assert name not in late(first) | late(last) and name in late(first - 1) & late(last + 1), name
