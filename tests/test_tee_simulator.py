"""The simulator offered to those who want hardware, in every way that came to mind."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from cli_world import run
from tee_world import binary, cases

from idao.crypto import canonical
from idao.errors import IdaoError, Malformed, UsageError
from idao.tee import attester, binding, certs, envelope, policy, roots, simulator, verifier
from idao.tee.envelope import Aux, Evidence
from idao.tee.policy import STRICT, Measurement, TeePolicy, relaxed
from idao.tee.result import KINDS, LEVELS, AttestationResult

NOW = 1_790_000_000_000
HARDWARE = tuple(k for k in KINDS if k != "simulated")
PRODUCTION = (
    STRICT,
    relaxed(STRICT, kinds=HARDWARE),
    relaxed(STRICT, kinds=HARDWARE, least_level="simulated", amd_alias_check=False, amd_floors=()),
    relaxed(STRICT, kinds=HARDWARE, least_level="tpm-unrooted", min_backed=1),
    relaxed(STRICT, kinds=HARDWARE, intel_statuses=policy.INTEL_STATUSES, amd_products=policy.AMD_PRODUCTS),
)
"""Policies that do not name the simulator, the loosest ones among them."""
MAKERS = (simulator.intel, simulator.amd)


def refused(data: bytes, files: tuple[bytes, ...] = (), kind: str | None = None) -> list[AttestationResult]:
    out = []
    for one in PRODUCTION:
        result = verifier.appraise(kind, data, files, one, NOW)
        assert not result.accepted, (one.name, result)
        assert result.level in ("none", "simulated") and result.reason
        out.append(result)
    return out


@pytest.mark.parametrize("make", MAKERS)
def test_marked_unmarked_and_under_any_name(make: Any) -> None:
    made = make(NOW)
    marked = simulator.mark(made.evidence)
    for kind in (None, *KINDS):
        refused(marked, made.files, kind)
        refused(made.evidence, made.files, kind)
    assert {r.reason for r in refused(made.evidence, made.files)} == {"root"}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "wrap",
    [
        gzip.compress,
        base64.b64encode,
        lambda b: b.hex().encode(),
        lambda b: json.dumps({"quote": b.hex()}).encode(),
        lambda b: json.dumps({"report": list(b)}).encode(),
        lambda b: base64.b64encode(gzip.compress(b)),
    ],
)
def test_wrapped(make: Any, wrap: Any) -> None:
    made = make(NOW)
    for blob in (made.evidence, simulator.mark(made.evidence)):
        refused(wrap(blob), made.files)
        refused(simulator.mark(wrap(blob)), made.files)
        refused(simulator.mark(simulator.mark(wrap(blob))), made.files)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("kind", [*KINDS, "hardware"])
def test_in_an_envelope_of_any_kind(make: Any, kind: str) -> None:
    made = make(NOW)
    aux = tuple(Aux("collateral", f) for f in made.files)
    for blob in (made.evidence, simulator.mark(made.evidence), simulator.SIMULATED):
        refused(canonical.pack(Evidence(1, kind, blob, aux, b"")), made.files)
    inner = canonical.pack(Evidence(1, "simulated", simulator.mark(made.evidence), aux, b""))
    refused(canonical.pack(Evidence(1, kind, inner, (), b"")))


@pytest.mark.parametrize("make", MAKERS)
def test_with_real_collateral_and_the_simulators_roots_beside_it(make: Any) -> None:
    made = make(NOW)
    real = tuple(f for name in ("tdx-1", "tdx-7", "snp-2", "snp-3") for f in cases()[name].files)
    own = tuple(simulator.pem_of(d).encode() for d in roots.certificates("simulated"))
    for files in (real, real + made.files, made.files + real, own + made.files, own + real):
        refused(made.evidence, files)
        refused(simulator.mark(made.evidence), files)


@pytest.mark.parametrize("name", ["tdx-1", "tdx-7", "snp-3", "snp-8", "nitro-1"])
def test_real_evidence_gets_no_help_from_the_simulators_roots(name: str) -> None:
    """Statements of the simulator about a real machine: signed by nobody that counts."""
    case = cases()[name]
    made = simulator.intel(case.at) if name.startswith("tdx") else simulator.amd(case.at)
    assert name == "nitro-1" or not case.judge(files=made.files).accepted
    marked = simulator.mark(binary(case))
    trial = relaxed(STRICT, kinds=("simulated",), least_level="simulated")
    for one in (*PRODUCTION, trial):
        result = case.judge(one, evidence=marked)
        assert not result.accepted and result.level in ("none", "simulated")


def test_a_real_quote_with_levels_of_the_simulator() -> None:
    """Each part of the collateral swapped by itself, and all of them."""
    case = cases()["tdx-1"]
    value, fake = json.loads(case.files[0]), json.loads(simulator.intel(case.at).files[0])
    groups = [[k] for k in fake] + [
        ["tcb_info", "tcb_info_signature", "tcb_info_issuer_chain"],
        ["qe_identity", "qe_identity_signature", "qe_identity_issuer_chain"],
        ["root_ca_crl", "pck_crl", "pck_crl_issuer_chain"],
        list(fake),
    ]
    for group in groups:
        mixed = json.dumps({**value, **{k: fake[k] for k in group}}).encode()
        result = case.judge(files=(mixed,))
        if group == ["pck_crl_issuer_chain"]:  # read by nobody: the chain of the quote is the one that counts
            continue
        assert not result.accepted, group
    relabelled = simulator.intel(case.at, flaws=["relabelled-fmspc"]).files
    assert not case.judge(files=relabelled).accepted


@pytest.mark.parametrize("measured", ["simulated", "tdx", "sev-snp"])
def test_a_listed_measurement_makes_no_hardware_of_it(measured: str) -> None:
    made = simulator.intel(NOW)
    marked = simulator.mark(made.evidence)
    mrtd = dict(verifier.appraise(None, marked, made.files, STRICT, NOW).measurements)["mrtd"]
    listed = (Measurement(measured, "good", "mrtd", mrtd),)
    trial = relaxed(STRICT, kinds=("simulated",), least_level="simulated", measurements=listed)
    assert verifier.appraise(None, marked, made.files, trial, NOW).level == "simulated"
    refused_by = relaxed(STRICT, kinds=HARDWARE, least_level="tee-measured", measurements=listed)
    assert not verifier.appraise(None, marked, made.files, refused_by, NOW).accepted
    assert not verifier.appraise(None, made.evidence, made.files, refused_by, NOW).accepted


# --- policies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [lv for lv in LEVELS if lv != "simulated"])
@pytest.mark.parametrize("kinds", [("simulated",), ("tdx", "simulated"), ("simulated", "simulated")])
def test_no_policy_counts_both_worlds(level: str, kinds: tuple[str, ...]) -> None:
    with pytest.raises(Malformed):
        relaxed(STRICT, kinds=kinds, least_level=level)
    value = {**policy.to_json(STRICT), "kinds": list(kinds), "least_level": level}
    with pytest.raises(UsageError):
        policy.load(json.dumps(value).encode())
    sound = canonical.pack(relaxed(STRICT, kinds=("simulated",), least_level="simulated"))
    crafted = canonical.decode(sound)
    crafted["kinds"], crafted["least_level"] = list(kinds), level
    with pytest.raises(IdaoError):
        canonical.unpack(TeePolicy, canonical.encode(crafted))


@pytest.mark.parametrize(
    "kind",
    ["Simulated", "SIMULATED", "simulated ", "ѕimulated", "simulated\0", "simulat\u0065\u0301d", "*", ""],
)
def test_spellings_of_the_simulator_name_nothing(kind: str) -> None:
    value = {**policy.to_json(STRICT), "kinds": ["tdx", kind]}
    with pytest.raises(UsageError):
        policy.load(json.dumps(value).encode())


@pytest.mark.parametrize(
    "extra",
    [{"simulated": True}, {"allow_simulated": True}, {"roots": []}, {"trust": "simulated"}, {"debug": 1}],
)
def test_no_other_member_of_a_policy_file_lets_it_in(extra: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        policy.load(json.dumps({**policy.to_json(STRICT), **extra}).encode())


# --- this machine ----------------------------------------------------------------------------------------

VARIABLES = (
    *(
        "IDAO_SIMULATED",
        "IDAO_TEE",
        "IDAO_TEE_KIND",
        "IDAO_TEE_SIMULATED",
        "IDAO_TEE_POLICY",
        "IDAO_TEE_ROOTS",
    ),
    *("IDAO_TEE_ROOTS", "IDAO_POLICY", "SGX_MODE", "DSTACK_SIMULATOR_ENDPOINT", "TAPPD_SIMULATOR_ENDPOINT"),
    *("TEE_SIMULATE", "AA_SAMPLE_ATTESTER_TEST", "SSL_CERT_FILE", "IDAO_DEVICE", "DCAP_ROOT_CA", "PCCS_URL"),
)


def test_no_variable_changes_a_verdict_or_makes_evidence(tmp_path: Path) -> None:
    made = simulator.intel(NOW)
    (tmp_path / "quote").write_bytes(made.evidence)
    (tmp_path / "marked").write_bytes(simulator.mark(made.evidence))
    (tmp_path / "collateral").write_bytes(made.files[0])
    root = simulator.pem_of(*roots.certificates("simulated")).encode()
    (tmp_path / "root.pem").write_bytes(root)
    values = dict.fromkeys(VARIABLES, "simulated") | {"SSL_CERT_FILE": str(tmp_path / "root.pem")}
    at = ("--with", tmp_path / "collateral", "--with", tmp_path / "root.pem", "--at", "2026-09-21T14:13:20Z")
    for name in ("quote", "marked"):
        ran = run("tee", "verify", tmp_path / name, *at, "--json", **values)
        assert ran.code == 6 and not ran.json["accepted"] and ran.json["level"] in ("none", "simulated")


def test_a_device_is_never_the_simulator(tmp_path: Path) -> None:
    claims = binding.Claims(1, bytes(32), bytes(32), b"k" * 32, "validator", bytes(32), NOW)
    for device in ("simulated", "simulator", "", "tdx", "none"):
        with pytest.raises(IdaoError):
            attester.attest(claims, root=tmp_path, device=device)


def test_the_two_worlds_share_no_key_and_no_certificate() -> None:
    own = {certs.spki(certs.load(d)) for d in roots.certificates("simulated")}
    for vendor in ("amd", "google", "intel", "nitro", "nvidia"):
        assert not own & {certs.spki(certs.load(d)) for d in roots.certificates(vendor)}
    made = [*simulator.intel(NOW).files, *simulator.amd(NOW).files]
    pins = {p for f in roots.Trust.__slots__ if f != "own_root" for p in getattr(roots.VENDORS, f)}
    found = {
        certs.spki(certs.load(d))
        for f in made
        for d in certs.pem_blocks(f.replace(b"\\n", b"\n"), "CERTIFICATE")
    }
    assert found and not found & pins


def test_a_mark_cannot_be_taken_off_inside_the_envelope() -> None:
    """What parsing makes of simulated evidence says so, however it is wrapped."""
    made = simulator.intel(NOW)
    for data in (
        simulator.mark(made.evidence),
        gzip.compress(simulator.mark(made.evidence)),
        canonical.pack(Evidence(1, "simulated", simulator.mark(made.evidence), (), b"")),
    ):
        assert envelope.parse(data).kind == "simulated"
    with pytest.raises(Malformed):
        envelope.parse(canonical.pack(Evidence(1, "simulated", made.evidence, (), b"")))
