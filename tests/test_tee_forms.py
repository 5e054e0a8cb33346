"""The same evidence in other forms seen in the field, and formats in sizes that the vectors do not show."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from typing import Any

import pytest
from tee_world import binary, cases

from idao.errors import Malformed
from idao.tee import binding, cose, roots, simulator, snp, verifier
from idao.tee import cca as module_cca
from idao.tee.given import Given
from idao.tee.policy import STRICT, Floor, relaxed
from idao.tee.result import KINDS, AttestationResult, Findings

ANY = relaxed(
    STRICT,
    kinds=tuple(k for k in KINDS if k != "simulated"),
    least_level="simulated",
    amd_products=("milan", "genoa", "turin"),
    intel_statuses=("UpToDate", "OutOfDate"),
)
NOW = 1_790_000_000_000

# --- Arm CCA: what the drafts allow --------------------------------------------------------------------


def enc(value: Any) -> bytes:
    """CBOR of ints, bytes, texts, lists, maps (in their order) and tags."""
    if isinstance(value, cose.Tag):
        return cose.head(6, value.number) + enc(value.value)
    if isinstance(value, bool) or value is None:
        return {True: b"\xf5", False: b"\xf4", None: b"\xf6"}[value]
    if isinstance(value, int):
        return cose.head(0, value) if value >= 0 else cose.head(1, -1 - value)
    if isinstance(value, bytes):
        return cose.head(2, len(value)) + value
    if isinstance(value, str):
        return cose.head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return cose.head(4, len(value)) + b"".join(map(enc, value))
    return cose.head(5, len(value)) + b"".join(enc(k) + enc(v) for k, v in value.items())


CURVES = {-7: ("P-256", 1, "SHA256"), -35: ("P-384", 2, "SHA384"), -36: ("P-521", 3, "SHA512")}


def key_of(alg: int, name: str) -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    made = {-7: ec.SECP256R1(), -35: ec.SECP384R1(), -36: ec.SECP521R1()}[alg]
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") >> 1, made)


def signed(key: Any, alg: int, claims: dict[int, Any], headers: dict[int, Any], tag: bool = True) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    protected, payload = enc({1: alg} | headers), enc(claims)
    text = enc(["Signature1", protected, b"", payload])
    algorithm = {-7: hashes.SHA256(), -35: hashes.SHA384(), -36: hashes.SHA512()}[alg]
    r, s = utils.decode_dss_signature(key.sign(text, ec.ECDSA(algorithm, deterministic_signing=True)))
    size = (key.key_size + 7) // 8
    value: Any = [protected, {}, payload, r.to_bytes(size, "big") + s.to_bytes(size, "big")]
    return enc(cose.Tag(18, value) if tag else value)


def xy(key: Any) -> tuple[bytes, bytes]:
    n, size = key.public_key().public_numbers(), (key.key_size + 7) // 8
    return n.x.to_bytes(size, "big"), n.y.to_bytes(size, "big")


def jwk(alg: int, key: Any) -> dict[str, str]:
    x, y = (base64.urlsafe_b64encode(v).rstrip(b"=").decode() for v in xy(key))
    return {"kty": "EC", "crv": CURVES[alg][0], "x": x, "y": y}


def token(
    *,
    platform: int = -35,
    realm: int = -35,
    digest: str = "sha-512",
    tag: int = 399,
    raw: bool = False,
    headers: dict[int, Any] | None = None,
    lifecycle: int = 0x3000,
    swap: bool = False,
    bare: bool = False,
    mine: dict[int, Any] | None = None,
) -> tuple[bytes, bytes]:
    """(token, JWK of its platform key)."""
    cpak, rak = key_of(platform, "cpak"), key_of(realm, "rak")
    x, y = xy(key_of(realm, "other") if swap else rak)
    key = b"\4" + x + y if raw else enc({1: 2, -1: CURVES[realm][1], -2: x, -3: y})
    bound = hashlib.new(digest.replace("-", ""), enc({1: 2}) if swap else key).digest()
    claims = {265: "tag:arm.com,2024:cca_platform#2.0.0", 10: bound, 2396: bytes(32), 256: b"\1" * 33,
              2401: b"\xcf", 2395: lifecycle, 2399: [{2: bytes(32), 5: bytes(32)}], 2402: "sha-256",
              2404: [{1: "sha-256", 4: True}]}  # fmt: skip
    mine = {10: b"c" * 64, 44235: bytes(64), 44238: b"\1" * 32, 44239: [bytes(32)] * 4, 44236: "sha-256",
            44237: key, 44240: digest} | (mine or {})  # fmt: skip
    parts = [signed(cpak, platform, claims, headers or {}, not bare), signed(rak, realm, mine, headers or {})]
    held = [[263, p] for p in parts] if tag == 907 else parts
    return enc(cose.Tag(tag, {44234: held[0], 44241: held[1]})), json.dumps(jwk(platform, cpak)).encode()


def cca(made: tuple[bytes, bytes], *files: bytes) -> AttestationResult:
    return verifier.appraise(None, made[0], files or (made[1],), ANY, NOW)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"platform": -7},
        {"platform": -36},
        {"realm": -7},
        {"realm": -36, "digest": "sha-384"},
        {"digest": "sha-256", "raw": True},
        {"tag": 907, "platform": -7, "headers": {3: 263}},
        {"headers": {16: "application/eat+cwt"}},
        {"bare": True},
    ],
)
def test_cca_tokens_of_either_draft_and_any_curve(form: dict[str, Any]) -> None:
    result = cca(token(**form))
    assert (result.kind, result.accepted, result.level) == ("cca", True, "simulated"), result.checks
    assert dict(result.measurements)["rim"] == "01" * 32 and result.bound == (b"c" * 64,)


def test_cca_trust_anchors_come_as_a_list_and_are_for_one_instance() -> None:
    made = token(platform=-7)
    anchor = {"pkey": json.loads(made[1]), "instance-id": "01" * 33}
    assert cca(made, json.dumps([anchor]).encode()).accepted
    other = json.dumps([{**anchor, "instance-id": "02" * 33}]).encode()
    assert cca(made, other).reason == "collateral-missing"
    assert cca(made, token()[1]).reason == "signature"
    for bad in (b"[]", b"[1]", b'[{"pkey":{}}]', b"{}", b'{"kty":"EC","crv":"P-256","x":1,"y":2}', b"[" * 99):
        assert cca(made, bad).reason == "collateral-missing"


def test_cca_flaws() -> None:
    assert cca(token(swap=True)).reason == "rak-binding"
    assert cca(token(lifecycle=0x4000)).reason == "debug"
    assert cca(token(headers={99: 1})).reason == "malformed"
    for odd in ([], {}, b"", "ES384", True, -38):
        assert cca(token(headers={1: odd})).reason == "malformed", odd
    assert cca(token(tag=398)).reason in ("kind-unknown", "malformed")
    made = token()
    assert cca((made[0] + b"\0", made[1])).reason == "malformed"
    # Tokens of the older collection in the newer one's place.
    assert cca((made[0].replace(b"\xd9\x01\x8f", b"\xd9\x03\x8b", 1), made[1])).reason == "malformed"
    strict = verifier.appraise(None, made[0], (made[1],), STRICT, NOW)
    assert not strict.accepted and strict.level == "simulated"


@pytest.mark.parametrize(
    ("mine", "why"),
    [
        ({10: b"c" * 63}, "without a challenge"),
        ({10: "c" * 64}, "without a challenge"),
        ({44237: "no bytes"}, "without a realm key"),
        ({44240: "sha-1"}, "without a realm key"),
    ],
)
def test_cca_claims_of_another_form(mine: dict[int, Any], why: str) -> None:
    with pytest.raises(Malformed, match=why):
        judge_cca(token(mine=mine)[0])


def judge_cca(raw: bytes) -> None:
    module_cca.judge(Findings("cca"), raw, Given(), ANY, NOW, roots.VENDORS)


def test_cca_collections_of_another_form() -> None:
    sign = signed(key_of(-35, "rak"), -35, {}, {})
    for top in (
        {44234: sign, 44241: sign},
        cose.Tag(399, [sign, sign]),
        cose.Tag(398, {44234: sign, 44241: sign}),
        cose.Tag(399, {44234: sign, 44241: sign, 1: sign}),
        cose.Tag(399, {44234: sign, 44241: 1}),
        cose.Tag(907, {44234: sign, 44241: sign}),
        cose.Tag(907, {44234: [264, sign], 44241: [264, sign]}),
        cose.Tag(907, {44234: [263, sign, 1], 44241: [263, sign]}),
    ):
        with pytest.raises(Malformed, match="CCA token"):
            judge_cca(enc(top))
    no_map = signed(key_of(-35, "rak"), -35, [1], {})  # type: ignore[arg-type]
    with pytest.raises(Malformed, match="without claims"):
        judge_cca(enc(cose.Tag(399, {44234: no_map, 44241: no_map})))


def test_cca_realm_keys_of_another_form() -> None:
    x, y = xy(key_of(-35, "rak"))
    good = {1: 2, -1: 2, -2: x, -3: y}
    assert module_cca._realm_key(enc(good)).key_size == 384
    for odd in ({1: 3}, {-1: 4}, {-1: [2]}, {-2: x[:-1]}, {-2: "x" * 48}, {-3: y + y}):
        with pytest.raises(Malformed, match="no key of a known curve"):
            module_cca._realm_key(enc(good | odd))
    with pytest.raises(Malformed, match="no key of a known curve"):
        module_cca._realm_key(enc([1, 2]))


def test_cca_platform_keys_of_another_kind_are_none() -> None:
    good = jwk(-35, key_of(-35, "cpak"))
    assert module_cca._jwk(good) is not None
    for odd in ({"kty": "OKP"}, {"crv": "secp256k1"}, {"crv": "P-256"}, {"x": "!"}, {"y": good["y"][:-4]}):
        assert module_cca._jwk(good | odd) is None, odd


def test_keys_in_base58() -> None:
    assert binding.read_key(b"ed25519:" + b"1" * 43 + b"2") == bytes(31) + b"\1"
    for odd in (b"0", b"l", b"z" * 44, b"1" * 45, "é".encode()):
        with pytest.raises(Malformed, match="not a public key"):
            binding.read_key(b"ed25519:" + odd)


# --- Azure -----------------------------------------------------------------------------------------------


def older(name: str) -> dict[str, Any]:
    """The vector in the form of older agents: numbers instead of base64, other member names."""
    value = json.loads(cases()[name].evidence)

    def numbers(text: Any) -> Any:
        if isinstance(text, list):
            return text if text and isinstance(text[0], int) else [numbers(t) for t in text]
        try:
            return list(bytes.fromhex(text))
        except ValueError:
            return list(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))

    quoted = {k: numbers(value["tpm_quote"][k]) for k in ("signature", "message", "pcrs")}
    out: dict[str, Any] = {"quote": quoted, "report": numbers(value["hcl_report"])}
    if "td_quote" in value:
        out = {"tpm_quote": quoted, "hcl_report": out["report"], "td_quote": numbers(value["td_quote"])}
    if "vcek" in value:
        out["vcek"] = value["vcek"]
    return out


@pytest.mark.parametrize("name", ["az-snp-1", "az-tdx-1"])
def test_azure_evidence_of_older_agents(name: str) -> None:
    case = cases()[name]
    again = case.judge(ANY, evidence=json.dumps(older(name), separators=(",", ":")).encode())
    assert again.accepted and again.evidence_id == case.judge(ANY).evidence_id


def test_azure_evidence_that_lacks_a_part_is_no_evidence() -> None:
    whole = older("az-snp-1")
    for part in ("quote", "report"):
        value = {k: v for k, v in whole.items() if k != part}
        assert not cases()["az-snp-1"].judge(ANY, evidence=json.dumps(value).encode()).accepted
    for bad in ({**whole, "report": whole["report"][:1500]}, {**whole, "quote": {"message": []}}):
        assert not cases()["az-snp-1"].judge(ANY, evidence=json.dumps(bad).encode()).accepted


# --- wrappings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tdx-1", "tdx-7", "sgx-2", "snp-3", "nitro-1", "nv-1", "cca-2"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda b: b.hex().encode(),
        lambda b: b"0x" + b.hex().upper().encode() + b"\n",
        base64.b64encode,
        base64.urlsafe_b64encode,
        lambda b: base64.encodebytes(b),
        lambda b: gzip.compress(b),
        lambda b: base64.b64encode(gzip.compress(b)),
        lambda b: json.dumps({"quote": b.hex()}).encode(),
        lambda b: json.dumps({"quote": base64.b64encode(b).decode(), "event_log": "[]"}).encode(),
        lambda b: json.dumps(list(b)).encode(),
    ],
)
def test_wrapped_evidence_is_the_same(name: str, wrap: Any) -> None:
    case = cases()[name]
    data = wrap(binary(case))
    if len(data) > 64 * 1024:
        pytest.skip("too large in this form")
    plain, again = case.judge(ANY), case.judge(ANY, evidence=data)
    assert (again.accepted, again.reason, again.evidence_id) == (
        plain.accepted, plain.reason, plain.evidence_id,
    )  # fmt: skip


def test_of_several_pieces_in_one_file_none_is_left_out() -> None:
    case = cases()["nv-1"]
    one = {"arch": "HOPPER", "evidence": base64.b64encode(binary(case)).decode(), "nonce": "00",
           "certificate": base64.b64encode(case.files[0]).decode()}  # fmt: skip
    single = case.judge(ANY, evidence=json.dumps([one]).encode(), files=case.files[1:])
    assert (single.kind, single.reason) == ("nvidia", "level")  # a GPU alone backs nothing
    assert case.judge(ANY, evidence=json.dumps(one).encode(), files=()).reason == "level"
    assert case.judge(ANY, files=(*case.files[1:], case.files[0])).reason == "level"
    several = case.judge(ANY, evidence=json.dumps([one, one]).encode(), files=case.files[1:])
    assert several.reason == "malformed"
    assert case.judge(ANY, evidence=b"[]").reason in ("malformed", "kind-unknown")


def test_nothing_is_unpacked_beyond_the_cap_or_too_deep() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    assert verifier.appraise(None, bomb, (), ANY, NOW).reason == "too-large"
    data = binary(cases()["nitro-1"])
    for _ in range(4):
        data = base64.b64encode(data)
    assert verifier.appraise(None, data, (), ANY, NOW).reason in ("kind-unknown", "malformed")


# --- AMD: every generation by hand -----------------------------------------------------------------------


def changed(case_name: str, at: int, data: bytes) -> AttestationResult:
    """A real report with some bytes changed: its signature breaks; the other checks speak for themselves."""
    case = cases()[case_name]
    raw = bytearray(binary(case))
    raw[at : at + len(data)] = data
    return case.judge(ANY, evidence=bytes(raw))


def failed(result: AttestationResult) -> set[str]:
    return {c.code for c in result.checks if not c.ok}


@pytest.mark.parametrize(
    "model,product",
    [
        ((0x19, 0x01), "milan"), ((0x19, 0x0F), "milan"), ((0x19, 0x10), "genoa"), ((0x19, 0x1F), "genoa"),
        ((0x19, 0xA0), "genoa"), ((0x19, 0xAF), "genoa"), ((0x1A, 0x00), "turin"), ((0x1A, 0x11), "turin"),
        ((0x19, 0x20), ""), ((0x1A, 0x12), ""), ((0x1A, 0x50), ""), ((0x17, 0x31), ""),
    ],
)  # fmt: skip
def test_products_are_told_by_cpuid(model: tuple[int, int], product: str) -> None:
    raw = bytearray(binary(cases()["snp-3"]))
    raw[0x188:0x18A] = bytes(model)
    assert snp.Report(bytes(raw)).product == product
    result = changed("snp-3", 0x188, bytes(model))
    assert ("tcb-mismatch" in failed(result)) == (product != "turin") and not result.accepted


def test_flags_of_a_report_are_each_looked_at() -> None:
    assert changed("snp-3", 0x34, b"\2").reason == "malformed"
    assert changed("snp-3", 0x00, b"\6").reason in ("malformed", "kind-unknown")
    assert "vmpl" in failed(changed("snp-3", 0x30, b"\1"))
    assert "attributes" in failed(changed("snp-3", 0x40, bytes(8)))
    assert "chain" in failed(changed("snp-3", 0x48, bytes([1 << 2])))
    assert "chain" in failed(changed("snp-3", 0x48, bytes([7 << 2])))
    assert "hw-id" in failed(changed("snp-3", 0x1A8, b"\1"))  # Turin: 8 bytes of chip id, then zeros
    assert "tcb-mismatch" in failed(changed("snp-3", 0x180, b"\xff"))
    assert "debug" in failed(changed("snp-3", 0x0A, bytes([0x0B])))
    assert changed("snp-3", 0x330, b"\1").reason == "malformed"


def test_report_versions_are_the_policys_choice() -> None:
    case = cases()["snp-1"]
    old = relaxed(ANY, amd_versions=(2,))
    assert case.judge(old).reason == "version"
    v2 = cases()["snp-7"]
    some = relaxed(ANY, amd_versions=(2,), amd_alias_check=False, amd_floors=())
    assert v2.judge(some).accepted and v2.judge(relaxed(some, amd_versions=(3, 5))).reason == "version"
    assert v2.judge(relaxed(some, amd_floors=(Floor(0x19, 0, 15, 0, 0, 99, 0),))).reason == "tcb-floor"


def _impostor(der: bytes) -> Any:
    """A root with the same names and serial number, and another key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    key, real = simulator._rsa(2), x509.load_der_x509_certificate(der)
    b = x509.CertificateBuilder(
        real.issuer, real.subject, key.public_key(), real.serial_number,
        real.not_valid_before_utc, real.not_valid_after_utc,
    )  # fmt: skip
    b = b.add_extension(x509.BasicConstraints(True, None), critical=True)
    pss = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
    return b.sign(key, hashes.SHA384(), rsa_padding=pss)


def test_the_root_may_be_left_out_but_not_replaced() -> None:
    from idao.tee import certs

    case = cases()["snp-8"]
    leaf, authorities = case.files[0], certs.pem_blocks(case.files[1], "CERTIFICATE")
    middle = next(d for d in authorities if certs.load(d).issuer != certs.load(d).subject)
    assert case.judge(ANY, files=(leaf,)).accepted
    assert case.judge(ANY, files=(leaf, middle)).accepted
    forged = _impostor(next(d for d in authorities if certs.load(d).issuer == certs.load(d).subject))
    look_alike = simulator.pem(forged).encode()
    assert case.judge(ANY, files=(leaf, middle, look_alike)).reason == "root"
    assert case.judge(ANY, files=(leaf, look_alike)).reason in ("root", "chain")
    assert case.judge(ANY, files=(leaf, look_alike, middle)).reason == "root"


# --- Intel -----------------------------------------------------------------------------------------------


def test_of_several_collaterals_the_one_that_fits_is_taken() -> None:
    case = cases()["tdx-1"]
    foreign = [cases()[n].files[0] for n in ("tdx-3", "sgx-1", "tdx-7")]
    for files in ((*foreign, case.files[0]), (case.files[0], *foreign)):
        assert case.judge(files=files).accepted
    newer = json.loads(cases()["tdx-1-later"].files[0])
    newer.pop("pck_certificate_chain", None)
    both = (json.dumps(newer).encode(), case.files[0])
    assert case.judge(files=both).accepted  # the newer one is not valid yet
    assert case.judge(files=both, at=cases()["tdx-1-later"].at).reason == "tcb-status"
    assert "fmspc-mismatch" in failed(case.judge(files=tuple(foreign)))


@pytest.mark.parametrize("bit", [1, 2, 3, 5, 7, 27, 29, 32, 62])
def test_reserved_td_attributes_are_refused(bit: int) -> None:
    case = cases()["tdx-1"]
    raw = bytearray(binary(case))
    value = int.from_bytes(raw[168:176], "little") | 1 << bit
    raw[168:176] = value.to_bytes(8, "little")
    assert "attributes" in failed(case.judge(ANY, evidence=bytes(raw)))


def test_other_quote_versions_and_bodies_are_refused() -> None:
    case = cases()["tdx-7"]
    raw = bytearray(binary(case))
    for at, value in ((0, 6), (0, 2), (2, 3), (4, 1), (48, 4), (48, 1), (50, 1)):
        bad = bytearray(raw)
        bad[at] = value
        assert case.judge(ANY, evidence=bytes(bad)).reason in ("malformed", "kind-unknown"), (at, value)


@pytest.mark.parametrize("make", [simulator.intel, simulator.amd])
def test_machines_of_the_simulator_are_told_apart(make: Any) -> None:
    trial = relaxed(STRICT, kinds=("simulated",), least_level="simulated")
    one, two = make(NOW), make(NOW, machine=1)
    for made in (one, two):
        assert verifier.appraise(None, simulator.mark(made.evidence), made.files, trial, NOW).accepted
    names = {verifier.appraise(None, m.evidence, m.files, STRICT, NOW).platform for m in (one, two)}
    assert len(names) == 2
    if make is simulator.amd:
        swapped = verifier.appraise(None, simulator.mark(one.evidence), two.files, trial, NOW)
        assert swapped.reason == "signature"
