"""Policies, bundles, fetching: data that a quorum agrees on and data that vendors sign."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tee_world import cases, read

from idao.errors import Malformed, Unreachable, UsageError
from idao.tee import collateral, fetch, policy, verifier
from idao.tee.given import Given, sort_files
from idao.tee.policy import STRICT, Floor, Measurement, relaxed

# --- policy --------------------------------------------------------------------------------------------


def test_a_policy_is_named_by_what_it_means() -> None:
    text = policy.dump(STRICT)
    assert policy.load(text.encode()) == STRICT
    spaced = json.dumps(json.loads(text), indent=7, sort_keys=True)
    assert policy.load(spaced.encode()).digest == STRICT.digest
    assert relaxed(STRICT, intel_statuses=("OutOfDate",)).digest != STRICT.digest


def test_the_strict_default_is_strict() -> None:
    assert STRICT.intel_statuses == ("UpToDate",)
    assert STRICT.amd_products == ("genoa", "turin") and STRICT.amd_signing_keys == ("vcek",)
    assert STRICT.amd_vmpls == (0,) and 2 not in STRICT.amd_versions
    assert STRICT.least_level == "tee" and "tpm" not in STRICT.kinds and "simulated" not in STRICT.kinds


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.pop("kinds"),
        lambda v: v.update(allow_debug=True),
        lambda v: v.update(kinds=["tdx", "magic"]),
        lambda v: v.update(intel_statuses=["Revoked"]),
        lambda v: v.update(least_level="none"),
        lambda v: v.update(max_age_ms=1.5),
        lambda v: v.update(amd_vmpls=[9]),
        lambda v: v.update(kinds=["simulated"]),
        lambda v: v.update(platforms=["x" * 200]),
        lambda v: v.update(v=2),
    ],
)
def test_a_policy_file_says_no_more_and_no_less(change: object) -> None:
    value = policy.to_json(STRICT)
    change(value)  # type: ignore[operator]
    with pytest.raises(UsageError):
        policy.load(json.dumps(value).encode())


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{" * 1000, b'{"v":1,"v":1}', b"\xff", b"1" * 300_000]
)
def test_bad_policy_files(data: bytes) -> None:
    with pytest.raises(UsageError):
        policy.load(data)


def test_differences_and_what_they_open() -> None:
    new = relaxed(STRICT, intel_statuses=("UpToDate", "OutOfDate"), amd_alias_check=False, min_backed=2)
    assert [name for name, _, _ in policy.diff(STRICT, new)] == [
        *("name", "min_backed", "intel_statuses", "amd_alias_check"),
    ]
    assert policy.loosened(STRICT, new) == ["amd_alias_check", "intel_statuses"]
    assert policy.loosened(new, STRICT) == ["min_backed"]
    assert policy.loosened(STRICT, relaxed(STRICT, least_level="tpm-rooted")) == ["least_level"]
    assert policy.loosened(relaxed(STRICT, platforms=("aa",)), STRICT) == ["platforms"]
    assert policy.loosened(STRICT, relaxed(STRICT, platforms=("aa",))) == []
    assert "amd_floors" in policy.loosened(STRICT, relaxed(STRICT, amd_floors=()))
    lower = replace(STRICT.amd_floors[1], snp=1)
    assert "amd_floors" in policy.loosened(STRICT, relaxed(STRICT, amd_floors=(lower,)))


def test_trying_a_policy_on_evidence() -> None:
    case = cases()["tdx-4"]
    new = relaxed(STRICT, intel_statuses=("UpToDate", "OutOfDate"))
    before, after = policy.try_out(STRICT, new, lambda p: case.judge(p))
    assert (before.accepted, after.accepted) == (False, True)


def test_known_machines_and_advisories() -> None:
    case = cases()["tdx-1"]
    own = case.judge().platform
    assert len(own) == 32
    assert case.judge(relaxed(STRICT, platforms=(own,))).accepted
    assert case.judge(relaxed(STRICT, platforms=("00" * 16,))).reason == "platform"
    sgx = cases()["sgx-2"]
    some = relaxed(STRICT, intel_statuses=("SWHardeningNeeded",))
    assert sgx.judge(some).accepted
    assert sgx.judge(replace(some, intel_refused_advisories=("INTEL-SA-00615",))).reason == "advisory"


def test_built_in_policies_are_found_by_name() -> None:
    assert policy.named("strict") is STRICT
    with pytest.raises(UsageError):
        policy.named("lax")
    assert Measurement("tdx", "a", "mrtd", "00").value == "00" and Floor(1, 2, 3, 4, 5, 6, 7).snp == 6


# --- bundles -------------------------------------------------------------------------------------------


def bundle(name: str = "intel-collateral/tdx-B0C06F000000-2025-06.json") -> collateral.Bundle:
    return collateral.make("tdx", [("intel", read(name))], fetched_ms=1_751_000_000_000, source="test")


def test_a_bundle_comes_back_and_judges() -> None:
    made, case = bundle(), cases()["tdx-1"]
    data = collateral.dump(made)
    assert collateral.load(data) == made and len(made.digest) == 32
    assert verifier.appraise(None, case.evidence, [data], STRICT, case.at).accepted
    rows = collateral.show(made, case.at)
    assert len(rows) == 4 and all(r.valid for r in rows)
    assert made.not_after_ms == min(r.not_after_ms for r in rows)
    late = verifier.appraise(None, case.evidence, [data], STRICT, made.not_after_ms + 1000)
    assert late.reason == "collateral-expired"


def test_evidence_carries_its_bundle() -> None:
    from idao.crypto import canonical
    from idao.tee import attester, binding, envelope, simulator

    now = 1_790_000_000_000
    claims = binding.Claims(1, b"q" * 32, b"i" * 32, b"k" * 32, "validator", b"n" * 32, now + 1000)
    files = simulator.intel(now).files
    bare = replace(attester.simulate(claims, now), aux=())
    made = collateral.make("tdx", [("intel", files[0])], fetched_ms=now, source="simulator")
    both = envelope.with_bundle(bare, collateral.dump(made))
    trial = relaxed(STRICT, kinds=("simulated",), least_level="simulated")
    with_it = verifier.appraise(None, canonical.pack(both), (), trial, now)
    without = verifier.appraise(None, canonical.pack(bare), (), trial, now)
    assert with_it.accepted and without.reason == "collateral-missing"
    assert with_it.evidence_id == without.evidence_id
    with pytest.raises(Malformed):
        envelope.with_bundle(bare, bytes(65_000))


def test_a_bundle_that_lies_about_its_window_is_refused() -> None:
    made = replace(bundle(), not_after_ms=2**50)
    with pytest.raises(Malformed):
        collateral.load(collateral.dump(made))
    for data in (b"", b"\xa7\x61v\x01", collateral.dump(bundle())[:-1], collateral.dump(bundle()) + b"\0"):
        with pytest.raises(Malformed):
            collateral.load(data)
    with pytest.raises(Malformed):
        collateral.make("tdx", [("nothing", b"hello")], fetched_ms=0, source="test")


def test_old_evidence_is_judged_at_its_time_and_a_later_fact_is_a_later_fact() -> None:
    case = cases()["tdx-1"]
    then = verifier.appraise(None, case.evidence, [collateral.dump(bundle())], STRICT, case.at)
    later = cases()["tdx-1-later"].judge()
    assert then.accepted and not later.accepted
    assert then.evidence_id == later.evidence_id and later.advisories


def test_files_are_sorted_by_content() -> None:
    found = sort_files(
        [
            read("amd-roots/ask_ark_genoa.pem"),
            read("amd-sev-snp/virtee-milan_vcek.der"),
            read("tpm/swtpm-ak.pub.pem"),
            read("intel-collateral/tdx-B0C06F000000-2025-06.json"),
            read("arm-cca/cpak.json"),
            b"anything",
        ]
    )
    assert len(found.certificates) == 3 and len(found.keys) == 1 and found.intel and len(found.files) == 2
    assert Given().joined(found) == found
    with pytest.raises(Malformed):
        sort_files([b"x"] * 100)


# --- fetching ------------------------------------------------------------------------------------------


def served(answers: dict[str, fetch.Answer]) -> tuple[fetch.Get, list[str]]:
    asked: list[str] = []

    def ask(url: str) -> fetch.Answer:
        asked.append(url)
        for part, answer in answers.items():
            if part in url:
                return answer
        raise Unreachable(url)

    return ask, asked


def test_intel_collateral_is_fetched_and_judges() -> None:
    import urllib.parse

    case = cases()["tdx-1"]
    value = json.loads(case.files[0])

    def signed(member: str, part: str) -> bytes:
        return f'{{"{member}":{value[part]},"signature":"{value[part + "_signature"]}"}}'.encode()

    quoted = urllib.parse.quote
    answers = {
        "/tcb?": fetch.Answer(
            signed("tcbInfo", "tcb_info"),
            {"tcb-info-issuer-chain": quoted(value["tcb_info_issuer_chain"])},
        ),
        "/qe/identity": fetch.Answer(
            signed("enclaveIdentity", "qe_identity"),
            {"sgx-enclave-identity-issuer-chain": quoted(value["qe_identity_issuer_chain"])},
        ),
        "/pckcrl": fetch.Answer(
            bytes.fromhex(value["pck_crl"]),
            {"sgx-pck-crl-issuer-chain": quoted(value["pck_crl_issuer_chain"])},
        ),
        "IntelSGXRootCA": fetch.Answer(bytes.fromhex(value["root_ca_crl"]), {}),
    }
    ask, asked = served(answers)
    made = fetch.update(case.evidence, case.at, ask)
    assert verifier.appraise(None, case.evidence, [collateral.dump(made)], STRICT, case.at).accepted
    assert all(url.startswith((fetch.INTEL, fetch.INTEL_ROOT_CRL)) for url in asked)
    assert any("fmspc=b0c06f000000&update=early" in url for url in asked)


def test_amd_collateral_is_fetched_for_chip_and_firmware() -> None:
    from idao.tee import simulator

    made = simulator.amd(1_790_000_000_000)
    leaf, middle, root = sort_files(made.files).certificates
    answers = {
        "/cert_chain": fetch.Answer(simulator.pem_of(middle, root).encode(), {}),
        "/crl": fetch.Answer(made.files[1], {}),
        "/vcek/v1/Genoa/": fetch.Answer(leaf, {}),
    }
    ask, asked = served(answers)
    found = fetch.update(made.evidence, 1_790_000_000_000, ask)
    assert [p.name for p in found.parts] == ["chain", "crl", "vcek"]
    assert simulator.CHIP.hex() + "?blSPL=10&teeSPL=0&snpSPL=27&ucodeSPL=86" in asked[0]
    turin = cases()["snp-3"].evidence
    ask, asked = served({})
    with pytest.raises(Unreachable):
        fetch.update(turin, 0, ask)
    assert "fmcSPL=1&blSPL=1&teeSPL=1&snpSPL=4&ucodeSPL=81" in asked[0] and "/Turin/" in asked[0]


def test_only_https_is_asked() -> None:
    with pytest.raises(Unreachable):
        fetch.get("file:///etc/hostname")
    with pytest.raises(Malformed):
        fetch.update(cases()["nitro-1"].evidence, 0, served({})[0])
