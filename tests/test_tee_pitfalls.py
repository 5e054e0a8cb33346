"""Flaws that other verifiers had in the wild: each a test that this one has not."""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tee_world import (
    DAY,
    EXPECTED,
    NOW,
    TRY,
    Case,
    amd,
    cases,
    claims,
    intel,
    own,
    own_evidence,
    read,
)

import idao.tee
from idao.crypto import canonical
from idao.errors import Malformed
from idao.tee import binding, certs, cose, eventlog, roots, simulator, tpm, verifier
from idao.tee.envelope import Aux, Evidence
from idao.tee.policy import STRICT, Floor, Measurement, relaxed


def changed_collateral(case: Case, change: Any) -> tuple[bytes, ...]:
    value = json.loads(case.files[0])
    change(value)
    return (json.dumps(value).encode(), *case.files[1:])


def test_the_simulator_is_sound_without_flaws() -> None:
    assert intel().accepted and amd().accepted


def test_01_qe_identity_is_verified() -> None:
    assert intel("qe-tampered").reason == "collateral"
    assert intel("qe-foreign").reason == "qe-identity"
    case, other = cases()["tdx-1"], json.loads(cases()["tdx-7"].files[0])
    swapped = changed_collateral(case, lambda v: v.update(qe_identity=other["qe_identity"]))
    assert not case.judge(files=swapped).accepted
    import dcap_qvl

    major, minor = dcap_qvl.__version__.split(".")[:2]
    assert (int(major), int(minor)) >= (0, 7)


@pytest.mark.parametrize("name", ["tdx-4", "tdx-1-later", "sgx-1", "sgx-2"])
def test_02_tcb_status_counts(name: str) -> None:
    result = cases()[name].judge()
    assert (result.accepted, result.reason) == (False, "tcb-status") and result.advisories


def test_03_tdx_module_and_vendor_of_the_enclave_count() -> None:
    assert intel("module-out-of-date").tcb_status == "OutOfDate"
    assert intel("module-unknown").reason == "tcb-not-supported"
    assert intel("qe-out-of-date").tcb_status == "OutOfDate"
    assert not intel("vendor").accepted


def test_04_only_the_signer_of_levels_speaks_of_levels() -> None:
    assert intel("leaf-signed-tcb").reason == "collateral"
    assert intel("leaf-signed-qe").reason == "collateral"


@pytest.mark.parametrize(
    "flaw", ["pceid", "tcb-type", "tcb-version", "pck-name", "pck-by-root", "evaluations-apart"]
)
def test_05_what_the_library_leaves_open_is_closed(flaw: str) -> None:
    result = intel(flaw)
    assert not result.accepted and result.level == "none"


def test_05b_least_evaluation_number() -> None:
    policy = relaxed(STRICT, intel_least_evaluation=18)
    assert cases()["tdx-1"].judge(policy).reason == "tcb-status"
    assert cases()["tdx-2"].judge(policy).accepted


@pytest.mark.parametrize("name", ["sgx-3", "tdx-5", "snp-4", "nitro-2", "nitro-3"])
def test_06_debug_is_refused(name: str) -> None:
    assert cases()[name].judge().reason == "debug"


def test_06b_no_policy_can_allow_debug() -> None:
    assert intel("debug").reason == amd("debug").reason == "debug"
    assert not [name for name in STRICT.__slots__ if "debug" in name]


def test_07_service_td_and_migration_agent_are_refused() -> None:
    assert intel("service-td").reason == "service-td"
    assert amd("migratable").reason == "service-td"


def test_08_all_64_bytes_are_bound() -> None:
    key = bytes(range(32))
    want = hashlib.sha512(key).digest()
    bind = binding.Expected(keys=(key,))
    for data, ok in (
        (want, True),
        (want[:63] + b"\0", False),
        (bytes(64), False),
        (want[:32] + bytes(32), False),
    ):
        e = simulator.intel(NOW, data)
        result = verifier.appraise(None, simulator.mark(e.evidence), e.files, TRY, NOW, bind)
        assert (result.accepted, result.reason) == (ok, "" if ok else "binding")


def test_08b_claims_bind_quorum_identity_key_and_role() -> None:
    assert own(claims()).accepted
    for name in ("quorum", "idao", "key"):
        assert own(claims(**{name: b"x" * 32})).reason == "binding"
    assert own(claims(role="worker")).reason == "binding"
    assert own(claims(), bound=claims(key=b"x" * 32)).reason == "binding"


def test_09_old_evidence_is_stale() -> None:
    assert own(claims(nonce=b"o" * 32)).reason == "nonce"
    late = replace(EXPECTED, beacons=((b"n" * 32, NOW - 2 * DAY),))
    assert own(claims(), late).reason == "stale"
    assert own(claims(not_after_ms=NOW + 3 * DAY)).reason == "stale"
    assert own(claims(), at=NOW + DAY + 1).reason == "claims-expired"
    case = cases()["nitro-1"]
    hour = relaxed(STRICT, max_age_ms=3_600_000)
    assert case.judge(at=case.at + 3_600_000).accepted
    assert case.judge(hour, at=case.at + 3_600_000).reason == "stale"


def test_10_roots_are_pinned_by_key() -> None:
    e, f = (
        simulator.intel(NOW, bytes(64), ("foreign-root",)),
        simulator.amd(NOW, bytes(64), ("foreign-root",)),
    )
    for made in (e, f):
        result = verifier.appraise(None, simulator.mark(made.evidence), made.files, TRY, NOW)
        assert result.reason == "root"
        assert verifier.appraise(None, made.evidence, made.files, STRICT, NOW).reason == "root"
    assert cases()["snp-3-wrongroot"].judge().reason == "chain"
    for der in roots.certificates("nitro"):
        assert certs.spki(certs.load(der)) in roots.VENDORS.nitro
    shipped = {
        certs.spki(certs.load(d)) for v in ("amd", "google", "intel", "nvidia") for d in roots.certificates(v)
    }
    for pins in (roots.VENDORS.amd, roots.VENDORS.tpm, roots.VENDORS.intel, roots.VENDORS.nvidia):
        assert pins <= shipped


def test_10c_a_pin_is_the_hash_of_the_key_as_the_library_writes_it() -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    for vendor in ("amd", "google", "intel", "nitro", "nvidia", "simulated"):
        for der in roots.certificates(vendor):
            cert = certs.load(der)
            key = certs.public_key(cert.spki).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            assert certs.spki(cert) == hashlib.sha256(key).hexdigest()


def test_10b_bundle_of_nitro_in_another_order_is_no_chain() -> None:
    case = cases()["nitro-1"]
    doc = cose.read(case.evidence)
    fields = cose.read(doc[2])
    first, rest = fields["cabundle"][0], fields["cabundle"][1:]
    flipped = case.evidence.replace(
        b"".join(cose.head(2, len(c)) + c for c in (first, *rest)),
        b"".join(cose.head(2, len(c)) + c for c in (*rest[::-1], first)),
    )
    assert flipped != case.evidence
    assert case.judge(evidence=flipped).reason in ("root", "chain")


def test_11_revocation_lists_are_required_and_checked() -> None:
    for flaw in ("revoked-pck", "revoked-ca", "revoked-signer"):
        assert intel(flaw).reason == "revoked"
    assert intel("crl-foreign").reason == amd("crl-foreign").reason == "collateral"
    assert amd("revoked-ask").reason == "revoked"
    e = simulator.amd(NOW)
    stale = verifier.appraise(None, simulator.mark(e.evidence), e.files, TRY, NOW + 31 * DAY)
    assert stale.reason == "collateral-expired"
    case = cases()["tdx-1"]
    for part in ("pck_crl", "root_ca_crl"):
        assert not case.judge(files=changed_collateral(case, lambda v, p=part: v.pop(p))).accepted
    foreign = json.loads(cases()["sgx-1"].files[0])["pck_crl"]
    assert not case.judge(files=changed_collateral(case, lambda v: v.update(pck_crl=foreign))).accepted
    assert case.judge(files=()).reason == "collateral-missing"


def test_11b_a_missing_amd_list_is_said_and_can_be_refused() -> None:
    case = cases()["snp-3"]
    assert any(w.startswith("crl-missing") for w in case.judge().warnings)
    assert case.judge(relaxed(STRICT, amd_crl_required=True)).reason == "collateral-missing"


def test_12_another_machines_chain_in_the_collateral_is_refused() -> None:
    assert cases()["tdx-1-mixed"].judge().reason == "chain"


def test_13_the_certificate_follows_reported_tcb() -> None:
    result = cases()["snp-7"].judge()
    assert [c.ok for c in result.checks if c.name == "tcb of certificate"] == [True]
    assert amd("wrong-tcb").reason == "tcb-mismatch"


def test_14_the_chip_is_compared() -> None:
    assert cases()["snp-7-othervcek"].judge().reason == "signature"
    assert amd("wrong-hw-id").reason == "hw-id"
    case = cases()["snp-3"]
    as_intermediate = case.judge(files=(read("amd-roots/ask_ark_turin_vcek.pem"),))
    assert as_intermediate.reason == "collateral-missing"


@pytest.mark.parametrize("name", ["snp-3", "snp-8"])
def test_15_turin_and_zen_4c_have_their_own_layout(name: str) -> None:
    assert cases()[name].judge().accepted


def test_16_there_is_a_least_firmware() -> None:
    floor = Floor(0x19, 0x10, 0x1F, 0, 0, 27, 0)
    assert cases()["snp-2"].judge(relaxed(STRICT, amd_floors=(floor,))).reason == "tcb-floor"
    milan = relaxed(STRICT, amd_products=("milan",), amd_versions=(2,), amd_alias_check=False)
    assert cases()["snp-5"].judge(milan).reason == "tcb-floor"


def test_17_privilege_level_counts() -> None:
    policy = relaxed(STRICT, amd_products=("milan",), amd_signing_keys=("vlek",), amd_floors=())
    assert cases()["snp-6"].judge(policy).reason == "vmpl"
    assert amd("host-vmpl").reason == "vmpl"


def test_18_a_masked_chip_is_nobody() -> None:
    result = cases()["snp-6"].judge()
    assert result.platform == "" and any("masked" in w for w in result.warnings)
    known = replace(TRY, platforms=("00" * 64,))
    assert amd("masked-chip", policy=known).reason == "platform"


def test_19_one_document_says_one_thing() -> None:
    doc = cases()["nitro-1"].evidence
    for data, why in (
        (doc + b"\0", "after the end"),
        (b"\xa2\x61a\x01\x61a\x02", "twice"),
        (b"\x9f\x01\xff", "indefinite"),
        (b"\x18\x01", "longer than needed"),
        (b"\xf9\x00\x00", "float"),
        (b"\x81" * 20 + b"\0", "too deep"),
    ):
        with pytest.raises(Malformed, match=why):
            cose.read(data)
    assert cases()["nitro-1"].judge(evidence=doc + b"\0").reason == "malformed"


def test_20_bytes_after_a_certificate_are_refused() -> None:
    der = roots.certificates("nitro")[0]
    assert certs.load(der)
    with pytest.raises(Malformed):
        certs.load(der + b"\0")


def test_21_the_other_signature_is_the_same_evidence() -> None:
    order = int(
        "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
    )
    case = cases()["snp-3"]
    raw = bytearray(case.evidence)
    s = int.from_bytes(raw[0x2E8:0x318], "little")
    raw[0x2E8:0x318] = (order - s).to_bytes(48, "little")
    other = case.judge(evidence=bytes(raw))
    assert other.accepted and other.evidence_id == case.judge().evidence_id
    nitro = cases()["nitro-1"]
    tagged = nitro.judge(evidence=b"\xd2" + nitro.evidence)
    assert tagged.accepted and tagged.evidence_id == nitro.judge().evidence_id


def test_22_only_events_with_checked_payloads_are_shown() -> None:
    value = json.loads(read("intel-tdx/near-tcb_info_eventlog.json"))
    measured = dict(cases()["tdx-2"].judge().measurements)
    events = eventlog.parse(json.dumps(value["event_log"]).encode())
    assert eventlog.replay(events)[3] == measured["rtmr3"]
    shown = eventlog.checked(events, measured)
    assert shown and all(e.register == 3 for e in shown)
    free = next(i for i, e in enumerate(value["event_log"]) if e["imr"] == 0)
    value["event_log"][free]["event"] = "secure boot is on"
    again = eventlog.checked(eventlog.parse(json.dumps(value["event_log"]).encode()), measured)
    assert again == shown
    bad = next(i for i, e in enumerate(value["event_log"]) if e["imr"] == 3)
    value["event_log"][bad]["event_payload"] = "00"
    with pytest.raises(Malformed):
        eventlog.checked(eventlog.parse(json.dumps(value["event_log"]).encode()), measured)
    case = cases()["tdx-2"]
    log = case.files[-1]
    assert b"event_log" in log and case.judge().accepted
    assert [c.ok for c in case.judge().checks if c.name == "event log"] == [True]
    for change, reason in ((("imr", 0, "event", "x"), ""), (("imr", 3, "event_payload", "00"), "event-log")):
        value = json.loads(log)
        entry = next(e for e in value["event_log"] if e["imr"] == change[1])
        entry[change[2]] = change[3]
        files = (*case.files[:-1], json.dumps(value).encode())
        assert case.judge(files=files).reason == reason


def test_23_reading_a_gpu_report_proves_nothing() -> None:
    assert cases()["nv-2"].judge().reason == "signature"
    bare = cases()["nv-1"].judge(files=())
    assert (bare.level, bare.reason) == ("none", "collateral-missing")
    assert cases()["nv-1"].judge(relaxed(STRICT, kinds=("nvidia",))).level == "none"


def test_24_judging_knows_no_network() -> None:
    folder = Path(idao.tee.__file__).parent
    hands = {"attester.py", "devices.py", "fetch.py", "tpmdevice.py"}
    for path in folder.glob("*.py"):
        if path.name in hands:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            tops = {n.split(".")[0] for n in names}
            assert not tops & {"socket", "http", "urllib", "ssl", "requests", "os", "time"}, path.name
            assert not hands & {f"{n.rpartition('.')[2]}.py" for n in names}, path.name
        assert "get_collateral" not in path.read_text()


def test_24b_every_rule_module_stands_on_the_still_floor() -> None:
    import tomllib

    folder = Path(idao.tee.__file__).parent
    lint = tomllib.loads((folder.parent.parent / "pyproject.toml").read_text())["tool"]["importlinter"]
    still = next(c for c in lint["contracts"] if c["name"].startswith("still floors"))["source_modules"]
    hands = {"attester", "devices", "tpmdevice", "fetch", "__init__"}
    rules = {p.stem for p in folder.glob("*.py")} - hands
    assert rules == {m.removeprefix("idao.tee.") for m in still if m.startswith("idao.tee.")}


def test_25_the_paravisor_is_not_the_guest() -> None:
    case = cases()["az-tdx-1"]
    policy = relaxed(STRICT, kinds=("azure-tdx",), intel_statuses=("OutOfDate",))
    result = case.judge(policy)
    measured = dict(result.measurements)
    assert result.level == "tee" and "mrtd" not in measured and "paravisor_mrtd" in measured
    mrtd = Measurement("azure-tdx", "a", "paravisor_mrtd", measured["paravisor_mrtd"])
    assert case.judge(replace(policy, measurements=(mrtd,))).level == "tee"
    pcr = Measurement("azure-tdx", "a", "pcr4", measured["pcr4"])
    assert case.judge(replace(policy, measurements=(mrtd, pcr))).level == "tee-measured"
    value = json.loads(case.evidence)
    other = json.loads(cases()["az-snp-1"].evidence)
    value["tpm_quote"] = other["tpm_quote"]
    assert case.judge(policy, evidence=json.dumps(value).encode()).reason == "signature"


def tpm_evidence(attributes: int) -> bytes:
    """A quote whose key has the given attributes, signed by a key of our own."""
    key = simulator._secret("test tpm")
    extra = hashlib.sha512(b"binding").digest()
    digest = hashlib.sha256(b"\1" * 32).digest()
    attest = tpm.MAGIC + tpm.QUOTE + b"\0\0" + len(extra).to_bytes(2, "big") + extra + bytes(17) + bytes(8)
    attest += b"\0\0\0\1\0\x0b\3\1\0\0" + b"\0\x20" + digest
    raw = simulator._raw(key, attest)
    signature = b"\0\x18\0\x0b\0\x20" + raw[:32] + b"\0\x20" + raw[32:]
    point = simulator._point(key)
    public = b"\0\x23\0\x0b" + attributes.to_bytes(4, "big") + b"\0\0\0\x10\0\x18\0\x0b\0\3\0\x10"
    public += b"\0\x20" + point[:32] + b"\0\x20" + point[32:]
    aux = (Aux("public", public), Aux("signature", signature), Aux("pcr0", b"\1" * 32))
    return canonical.pack(Evidence(1, "tpm", attest, aux, b""))


def test_26_the_attestation_key_is_restricted() -> None:
    policy = relaxed(STRICT, kinds=("tpm",), least_level="tpm-unrooted")
    good = tpm.MUST | 1 << 6
    assert verifier.appraise(None, tpm_evidence(good), (), policy, NOW).accepted
    for bit in (tpm.RESTRICTED, tpm.SIGN, tpm.FIXED_TPM, tpm.FIXED_PARENT, tpm.ORIGIN):
        assert verifier.appraise(None, tpm_evidence(good & ~bit), (), policy, NOW).reason == "attributes"
    assert verifier.appraise(None, tpm_evidence(good | tpm.DECRYPT), (), policy, NOW).reason == "attributes"


def test_27_sha1_banks_are_refused() -> None:
    raw = cases()["tpm-2"].evidence
    top = tpm._fields(raw)
    first = next(v for n, v in top if n == 2)
    assert isinstance(first, bytes)
    alone = b""
    for n, v in [(1, tpm._one(top, 1)), (2, first), (6, tpm._one(top, 6))]:
        size = len(v)
        alone += bytes([n << 3 | 2, 0x80 | size & 0x7F, size >> 7]) + v
    result = verifier.appraise(None, alone, (), STRICT, cases()["tpm-2"].at)
    assert "sha1" in [c.code for c in result.checks if not c.ok] and result.level == "none"


def test_28_the_realm_key_is_the_platforms() -> None:
    case = cases()["cca-1"]
    raw, realm = bytearray(case.evidence), cose.read(case.evidence).value[44241]
    key = cose.read(cose.sign1(cose.read(realm)).payload)[44237]
    at = bytes(raw).index(key)
    raw[at : at + 97] = b"\4" + simulator._point(simulator._secret("amd realm"))
    result = case.judge(evidence=bytes(raw))
    assert result.reason in ("rak-binding", "signature")
    assert "rak-binding" in [c.code for c in result.checks if not c.ok]


def test_29_evidence_of_another_node_is_no_ones_else() -> None:
    data, files = own_evidence(claims())
    thief = replace(EXPECTED, idao=b"t" * 32, keys=(b"t" * 32,))
    assert verifier.appraise(None, data, files, TRY, NOW, thief).reason == "binding"


def test_30_too_large_is_refused_unread() -> None:
    for data in (b"\x03\0" + bytes(70_000), b"{" * 70_000, b"0" * 70_000):
        assert verifier.appraise(None, data, (), STRICT, NOW).reason == "too-large"


def test_31_the_simulator_never_passes_for_hardware() -> None:
    for made in (simulator.intel(NOW), simulator.amd(NOW)):
        marked = verifier.appraise(None, simulator.mark(made.evidence), made.files, STRICT, NOW)
        assert (marked.accepted, marked.kind, marked.level) == (False, "simulated", "simulated")
        assert any("SIMULATED" in w for w in marked.warnings)
        bare = verifier.appraise(None, made.evidence, made.files, STRICT, NOW)
        assert (bare.accepted, bare.level) == (False, "none")
        everything = replace(STRICT, kinds=tuple(k for k in verifier.KINDS if k != "simulated"))
        assert not verifier.appraise(
            None, simulator.mark(made.evidence), made.files, everything, NOW
        ).accepted
        twice = simulator.mark(simulator.mark(made.evidence))
        assert not verifier.appraise(None, twice, made.files, TRY, NOW).accepted
    with pytest.raises(Malformed):
        replace(STRICT, kinds=("tdx", "simulated"))
    fields = [f for f in roots.Trust.__slots__ if f != "own_root"]
    assert not [f for f in fields if getattr(roots.VENDORS, f) & getattr(roots.SIMULATED, f)]


def test_31b_real_evidence_is_not_judged_by_the_simulators_roots() -> None:
    case = cases()["tdx-1"]
    assert case.judge(TRY, evidence=simulator.mark(case.evidence)).reason == "root"


def test_32_time_is_given_not_read() -> None:
    case = cases()["nitro-1"]
    assert case.judge().accepted
    for days in (-30, 30, 1000):
        assert case.judge(at=case.at + days * DAY).reason == "cert-expired"
    assert not cases()["tdx-1"].judge(at=0).accepted


@pytest.mark.parametrize("name", ["snp-6-expired", "tdx-1-expired", "nitro-1-expired"])
def test_33_expired_is_refused(name: str) -> None:
    assert cases()[name].judge().reason in ("cert-expired", "collateral-expired")


def test_34_reformatted_collateral_is_not_what_was_signed() -> None:
    assert intel("tcb-reformatted").reason == "collateral"
    case = cases()["tdx-1"]

    def pretty(v: dict[str, Any]) -> None:
        v["tcb_info"] = json.dumps(json.loads(v["tcb_info"]), indent=2)

    assert case.judge(files=changed_collateral(case, pretty)).reason == "collateral"
