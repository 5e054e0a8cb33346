"""Every public vector gets its verdict, by the strict policy and by ones that ask for something else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from tee_world import cases, read

from idao.tee import binding
from idao.tee.policy import STRICT, relaxed

KINDS = {"az-snp": "azure-snp", "az-tdx": "azure-tdx", "snp": "sev-snp", "nv": "nvidia"}


@pytest.mark.parametrize("name", list(cases()))
def test_vector(name: str) -> None:
    case = cases()[name]
    result = case.judge()
    assert (result.accepted, result.reason, result.level) == (case.accepted, case.reason, case.level)
    prefix = "az-" + name.split("-")[1] if name.startswith("az-") else name.split("-")[0]
    assert result.kind == KINDS.get(prefix, prefix)
    assert bool(result.reason) == any(not c.ok for c in result.checks)


def test_all_forty_three_are_here() -> None:
    assert len(cases()) == 43


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("sgx-1", {"intel_statuses": ("UpToDate", "ConfigurationAndSWHardeningNeeded")}),
        ("sgx-2", {"intel_statuses": ("UpToDate", "SWHardeningNeeded")}),
        ("tdx-4", {"intel_statuses": ("OutOfDate",)}),
        ("tdx-1-later", {"intel_statuses": ("OutOfDate",)}),
        ("snp-1", {"amd_products": ("milan",)}),
        ("snp-1b", {"amd_products": ("milan",)}),
        ("snp-2", {"amd_floors": ()}),
        (
            "snp-6",
            {"amd_products": ("milan",), "amd_signing_keys": ("vlek",), "amd_vmpls": (1,), "amd_floors": ()},
        ),
        (
            "snp-7",
            {"amd_products": ("milan",), "amd_versions": (2,), "amd_floors": (), "amd_alias_check": False},
        ),
        ("az-snp-1", {"amd_products": ("milan",), "kinds": ("azure-snp",)}),
        ("az-tdx-1", {"intel_statuses": ("OutOfDate",), "kinds": ("azure-tdx",)}),
        ("tpm-1", {"kinds": ("tpm",), "least_level": "tpm-unrooted"}),
        ("tpm-3", {"kinds": ("tpm",), "least_level": "simulated"}),
        ("cca-1", {"kinds": ("cca",), "least_level": "simulated"}),
    ],
)
def test_a_policy_that_names_it_accepts(name: str, changes: dict[str, object]) -> None:
    assert cases()[name].judge(relaxed(STRICT, **changes)).reason == ""


@pytest.mark.parametrize("name", ["tpm-1", "tpm-2", "tpm-3", "cca-1", "cca-2", "nv-1", "nv-2"])
def test_never_a_tee(name: str) -> None:
    policy = relaxed(STRICT, kinds=("tpm", "cca", "nvidia"))
    assert cases()[name].judge(policy).level not in ("tee", "tee-measured")


def test_gce_key_is_certified_but_says_nothing_fresh() -> None:
    result = cases()["tpm-2"].judge()
    chain = [c for c in result.checks if c.name.startswith(("chain", "key of"))]
    assert chain and all(c.ok for c in chain)


def test_reissued_certificate_is_the_same_evidence() -> None:
    a, b = cases()["snp-1"].judge(), cases()["snp-1b"].judge()
    assert a.evidence_id == b.evidence_id and len(a.evidence_id) == 32


def test_two_keys_bound_by_a_real_node() -> None:
    case = cases()["tdx-2"]
    first, second = (binding.read_key(read(f"intel-tdx/near-{n}_public_key.pub")) for n in ("p2p", "account"))
    assert case.judge(bind=binding.Expected(keys=(first, second))).accepted
    changed = bytes([first[0] ^ 1]) + first[1:]
    for keys in ((second, first), (changed, second), (first,), (first, second, second)):
        assert case.judge(bind=binding.Expected(keys=keys)).reason == "binding"


def test_tls_key_bound_by_a_real_enclave() -> None:
    case = cases()["nitro-3"]
    key = binding.read_key(read("aws-nitro/evervault-ga-certificate.der"))
    result = case.judge(bind=binding.Expected(keys=(key,)))
    assert result.reason == "debug"
    assert [c.ok for c in result.checks if c.name == "binding"] == [True]


def test_software_tpm_binds_key_and_nonce() -> None:
    facts = json.loads(read("tpm/swtpm-binding.json"))
    keys = (bytes.fromhex(facts["ed25519_public_key"]), bytes.fromhex(facts["nonce"]))
    result = cases()["tpm-3"].judge(bind=binding.Expected(keys=keys))
    assert [c.ok for c in result.checks if c.name == "binding"] == [True]


@pytest.mark.parametrize("name", ["tdx-3", "nitro-4"])
def test_zero_report_data_binds_nothing(name: str) -> None:
    case = cases()[name]
    for key in (bytes(32), hashlib.sha256(b"key").digest()):
        assert case.judge(bind=binding.Expected(keys=(key,))).reason == "binding"


def test_kind_named_must_be_the_kind() -> None:
    from idao.tee.verifier import appraise

    case = cases()["tdx-1"]
    assert appraise("tdx", case.evidence, case.files, STRICT, case.at).accepted
    result = appraise("snp", case.evidence, case.files, STRICT, case.at)
    assert (result.accepted, result.level, result.kind) == (False, "none", "sev-snp")


def test_measurement_on_the_list_raises_the_level() -> None:
    from idao.tee.policy import Measurement

    case = cases()["tdx-1"]
    mrtd = dict(case.judge().measurements)["mrtd"]
    entry = Measurement("tdx", "image 1", "mrtd", mrtd)
    assert case.judge(relaxed(STRICT, measurements=(entry,))).level == "tee-measured"
    other = replace(entry, value="00" * 48)
    assert case.judge(relaxed(STRICT, measurements=(other,))).level == "tee"
    both = relaxed(STRICT, measurements=(entry, replace(other, register="rtmr0")), least_level="tee-measured")
    assert case.judge(both).reason == "measurement"


@pytest.mark.parametrize(
    ("name", "kind", "free", "fixed"),
    [
        ("tdx-1", "tdx", ("rtmr0", "rtmr3", "mrconfigid", "mrowner"), ("mrtd",)),
        ("snp-3", "sev-snp", ("host_data", "id_key_digest", "family_id"), ("measurement",)),
        ("sgx-2", "sgx", ("isvprodid", "isvsvn"), ("mrenclave",)),
        ("nitro-1", "nitro", ("pcr4", "pcr3"), ("pcr0",)),
        # Any guest may dress as a paravisor, and quote what registers it likes under a key of its own.
        ("az-snp-1", "azure-snp", ("pcr4", "pcr7"), ("paravisor_measurement", "pcr4")),
        ("az-tdx-1", "azure-tdx", ("pcr4", "pcr7"), ("paravisor_mrtd", "pcr4")),
    ],
)
def test_registers_that_the_code_itself_fills_are_no_measurement(
    name: str, kind: str, free: tuple[str, ...], fixed: tuple[str, ...]
) -> None:
    from idao.tee.policy import Measurement

    case = cases()[name]
    statuses = ("UpToDate", "OutOfDate", "SWHardeningNeeded")
    policy = relaxed(STRICT, kinds=(kind,), amd_products=("milan", "turin"), intel_statuses=statuses)
    held = dict(case.judge(policy).measurements)

    def level(*registers: str) -> str:
        listed = tuple(Measurement(kind, "image", r, held[r]) for r in registers)
        return case.judge(replace(policy, measurements=listed)).level

    assert level(*free) == "tee"
    assert level(*free, *fixed) == "tee-measured" and level(*fixed) == "tee-measured"


def test_evidence_in_other_wrappings_is_the_same() -> None:
    import base64
    import gzip

    from tee_world import binary

    from idao.tee.verifier import appraise

    case = cases()["snp-3"]
    raw, want = binary(case), case.judge().evidence_id
    packed = base64.b64encode(gzip.compress(raw))
    wrapped = (
        raw.hex().encode(),
        base64.b64encode(raw),
        packed,
        json.dumps({"format": "snp", "body": packed.decode()}).encode(),
        json.dumps({"quote": "0x" + raw.hex()}).encode(),
        json.dumps(list(raw)).encode(),
    )
    for data in wrapped:
        result = case.judge(evidence=data)
        assert result.accepted and result.evidence_id == want
    bomb = gzip.compress(bytes(10_000_000))
    assert appraise(None, bomb, (), STRICT, case.at).reason == "too-large"


def test_report_with_the_hosts_certificates_behind_it() -> None:
    from test_tee_attester import certificate_table

    from idao.tee.certs import pem_blocks

    case = cases()["snp-3"]
    leaf = pem_blocks(case.files[0], "CERTIFICATE")[0]
    extended = case.evidence + certificate_table(leaf)
    result = case.judge(evidence=extended, files=())
    assert result.accepted and result.evidence_id == case.judge().evidence_id
    assert not case.judge(evidence=case.evidence + bytes(100), files=case.files).accepted
