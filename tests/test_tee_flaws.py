"""Each flaw that the simulator makes, and what a library or a file does besides, is found by name."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tee_world import DAY, EXPECTED, NOW, amd, binary, cases, claims, intel, own

from idao.errors import Malformed
from idao.tee import certs, quote, roots, simulator
from idao.tee.policy import STRICT, relaxed


@pytest.mark.parametrize("flaw", simulator.INTEL_FLAWS)
def test_every_flaw_of_an_intel_chain_is_found(flaw: str) -> None:
    assert not intel(flaw).accepted


@pytest.mark.parametrize("flaw", [f for f in simulator.AMD_FLAWS if f != "masked-chip"])
def test_every_flaw_of_an_amd_chain_is_found(flaw: str) -> None:
    assert not amd(flaw).accepted


def test_without_the_library_intel_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "dcap_qvl", None)
    monkeypatch.delitem(sys.modules, "dcap_qvl._dcap_qvl", raising=False)
    result = cases()["tdx-1"].judge()
    assert (result.accepted, result.level, result.reason) == (False, "none", "verifier-missing")


def test_padding_is_cut_and_anything_else_refused() -> None:
    case = cases()["tdx-1"]
    raw = quote.parse(binary(case)).raw
    assert case.judge(evidence=raw).accepted
    assert case.judge(evidence=raw + bytes(300)).accepted
    assert case.judge(evidence=raw + b"x").reason == "trailing"


def test_runtime_data_are_those_of_the_report() -> None:
    import base64

    case = cases()["az-snp-1"]
    policy = relaxed(STRICT, kinds=("azure-snp",), amd_products=("milan",))
    assert case.judge(policy).accepted
    value = json.loads(case.evidence)
    hcl = base64.urlsafe_b64decode(value["hcl_report"] + "==")
    changed = hcl.replace(b'"secure-boot":true', b'"secure-boot":null')
    assert changed != hcl and len(changed) == len(hcl)
    value["hcl_report"] = base64.urlsafe_b64encode(changed).decode()
    assert case.judge(policy, evidence=json.dumps(value).encode()).reason == "binding"


def test_a_beacon_from_the_future_or_the_past_is_stale() -> None:
    for at in (NOW + DAY, NOW - DAY - 1):
        expected = replace(EXPECTED, beacons=((b"n" * 32, at),))
        assert own(claims(not_after_ms=NOW + 1), expected).reason == "stale"


def test_a_kind_that_the_policy_does_not_name_is_refused() -> None:
    result = cases()["tdx-1"].judge(relaxed(STRICT, kinds=("sev-snp",)))
    assert (result.accepted, result.reason, result.level) == (False, "kind", "none")


def test_two_verifiers_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    from idao.tee import intel as room

    class Claims:
        def to_json(self) -> str:
            return json.dumps({"tcb": {"status": "SWHardeningNeeded", "advisory_ids": []}})

    class Verifier:
        def verify_with_policy(self, *_: object) -> Claims:
            return Claims()

    monkeypatch.setattr(room.library(), "PyQuoteVerifier", Verifier)
    assert cases()["tdx-1"].judge().reason == "verifiers-disagree"


def test_a_panic_of_the_library_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    from idao.tee import intel as room

    class Panic(BaseException):
        pass

    class Verifier:
        def verify_with_policy(self, *_: object) -> None:
            raise Panic("index out of bounds")

    monkeypatch.setattr(room.library(), "PyQuoteVerifier", Verifier)
    assert cases()["tdx-1"].judge().reason == "verifiers-disagree"


SIGNED_FLAWS = (
    *("revoked-pck", "revoked-ca", "revoked-signer", "foreign-root", "crl-foreign", "tcb-reformatted"),
    *("qe-tampered", "key-unbound", "quote-unsigned"),
)


@pytest.mark.parametrize("flaw", ["", *SIGNED_FLAWS])
def test_own_checks_of_signatures_stand_alone(flaw: str) -> None:
    """They are the only ones for Azure's TDX."""
    from idao.tee import dcap
    from idao.tee.intel import read_collateral
    from idao.tee.result import Findings

    e, found = simulator.intel(NOW, bytes(64), [flaw] if flaw else []), Findings("tdx")
    dcap.check_signatures(
        found, quote.parse(e.evidence), read_collateral(e.files[0]).parts, NOW, roots.SIMULATED
    )
    assert found.ok == (not flaw)


@pytest.mark.parametrize("name", [n for n in cases() if n.startswith(("sgx", "tdx"))])
def test_own_checks_agree_on_real_quotes(name: str) -> None:
    from idao.tee import dcap
    from idao.tee.intel import read_collateral
    from idao.tee.result import Findings

    case, found = cases()[name], Findings("tdx")
    q = quote.parse(binary(case))
    dcap.check_signatures(found, q, read_collateral(case.files[0]).parts, case.at, roots.VENDORS)
    assert found.ok == (name != "tdx-1-expired")


def test_a_certificate_with_a_negative_serial_number_is_none() -> None:
    der = roots.certificates("intel")[0]
    at = der.index(b"\xa0\x03\x02\x01\x02\x02") + 7
    with pytest.raises(Malformed):
        certs.load(der[:at] + bytes([der[at] | 0x80]) + der[at + 1 :])


def test_broken_collateral_is_called_that() -> None:
    case = cases()["tdx-1"]
    text = json.loads(case.files[0])
    for part, bad in (
        ("tcb_info", "{"),
        ("tcb_info", '{"id":"TDX","id":"TDX"}'),
        ("tcb_info", text["tcb_info"].replace('"tcbLevels"', '"tcbLevelz"')),
        ("qe_identity", text["qe_identity"].replace("2025-06-19T", "2025-66-19T")),
        ("pck_crl", "3000"),
    ):
        files = (json.dumps({**text, part: bad}).encode(),)
        assert case.judge(files=files).reason == "collateral", (part, bad[:20])
    assert case.judge(files=(b'{"tcb_info":1,"qe_identity":2}',)).reason == "collateral"
    snp = cases()["snp-3"]
    broken = snp.files[0].replace(b"MII", b"MIA", 1)
    assert snp.judge(files=(broken, *snp.files[1:])).reason == "chain"


def test_look_alike_roots_of_nitro_and_nvidia_fail_at_the_root() -> None:
    stranger = simulator.intel_root()
    pem = simulator.pem(stranger).encode()
    assert cases()["nitro-1"].judge(files=(pem,)).reason == "root"
    gpu = cases()["nv-1"]
    chain = gpu.files[0].rpartition(b"-----BEGIN")[0]
    result = gpu.judge(files=(chain + pem,))
    assert result.reason == "root" and result.level == "none"
