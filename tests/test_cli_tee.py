"""`idao tee`, `idao quorum list|status` and `idao verify --require tee:N`, as typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_world import Ran, last, must, run
from tee_world import VECTORS, cases
from test_tee_attester import swtpm  # noqa: F401  (a fixture)

from idao.tee.policy import STRICT, dump, relaxed

GOOD = next(c for c in json.loads((VECTORS / "cases.json").read_text())["cases"] if c["accepted"])
KEYS = {"accepted", "level", "kind", "tcb_status", "advisories", "reason", "checks"}


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tee")
    must("init", "--name", "ana", "--no-passphrase", home=folder / "home")
    must("tee", "attest", "--simulated", "-o", folder / "evidence", home=folder / "home")
    simulated = relaxed(STRICT, kinds=("simulated",), least_level="simulated")
    (folder / "simulated.json").write_text(dump(simulated))
    return folder


@pytest.fixture
def here(_made: Path, tmp_path: Path) -> Path:
    """A folder with a home whose validator has simulated evidence."""
    shutil.copytree(_made, tmp_path / "w")
    return tmp_path / "w"


def names(data: dict[str, Any]) -> list[str]:
    return [c["name"] for c in data["checks"] if not c["ok"]]


# --- this machine -------------------------------------------------------------------------------------


def test_status_needs_no_home_and_no_device(tmp_path: Path) -> None:
    ran = run("tee", "status", "--json", home=tmp_path)
    assert ran.code == 0
    assert ran.json["devices"] == [] and ran.json["attests"] is False and ran.json["registered"] is None


@pytest.mark.parametrize("words", [[], ["--kind", "tdx"], ["--kind", "snp"], ["--dry-run"]])
def test_attest_without_a_device_ends_with_7(here: Path, words: list[str]) -> None:
    before = must("log", "list", "--json", home=here / "home").json
    ran = run("tee", "attest", *words, home=here / "home", IDAO_SIMULATED="1", IDAO_TEE="simulated")
    assert (ran.code, ran.out) == (7, "")
    assert must("log", "list", "--json", home=here / "home").json == before


def test_attest_of_no_kind_is_a_mistake(here: Path) -> None:
    assert run("tee", "attest", "--kind", "crystal", home=here / "home").code == 2
    assert run("tee", "attest", "--device", "crystal", home=here / "home").code == 2
    assert run("tee", "attest", "--simulated", "--kind", "nitro", home=here / "home").code == 2
    assert run("tee", "attest", "--simulated", home=here / "nowhere").code == 10


def test_a_simulation_is_marked_everywhere(here: Path) -> None:
    home = here / "home"
    said = [
        must("tee", "status", home=home),
        must("quorum", "status", home=home),
        must("tee", "policy", "test", here / "simulated.json", home=home),
        run("tee", "verify", here / "evidence"),
        must("tee", "verify", here / "evidence", "--policy", here / "simulated.json", home=home),
    ]
    assert all("SIMULATED" in ran.out for ran in said)
    ran = must("tee", "attest", "--simulated", "--kind", "sev-snp", home=home)
    assert "SIMULATED" in ran.out and "SIMULATED" in ran.err


def test_a_software_tpm_is_no_hardware_either(here: Path, swtpm: Path) -> None:  # noqa: F811
    home = here / "home"
    data = must("tee", "attest", "--device", f"tpm:{swtpm}", "--json", home=home).json
    assert (data["kind"], data["level"], data["simulated"], data["accepted"]) == (
        "tpm",
        "simulated",
        True,
        False,
    )
    assert "SIMULATED" in must("quorum", "status", home=home).out


# --- verify -------------------------------------------------------------------------------------------


def vector(case: dict[str, Any], *more: str) -> Ran:
    words = ["tee", "verify", str(VECTORS / case["evidence"]), "--at", case["at"], "--json", *more]
    for name in case["with"]:
        words += ["--with", str(VECTORS / name)]
    return run(*words)


def test_real_evidence_is_judged_without_a_home() -> None:
    ran = vector(GOOD)
    assert ran.code == 0, ran
    assert ran.json.keys() >= KEYS
    assert ran.json["accepted"] and ran.json["level"] == GOOD["level"] and ran.json["reason"] == ""
    assert ran.json["results"][0]["level"] == GOOD["level"]


@pytest.mark.parametrize("id", [c for c, case in cases().items() if not case.accepted][:6])
def test_refused_evidence_ends_with_6_and_its_reason(id: str) -> None:
    case = next(c for c in json.loads((VECTORS / "cases.json").read_text())["cases"] if c["id"] == id)
    if case["drop"]:
        pytest.skip("its collateral is cut for the test")
    ran = vector(case)
    assert (ran.code, ran.json["accepted"], ran.json["reason"]) == (6, False, case["reason"])
    assert any(not c["ok"] for c in ran.json["checks"])


def test_collateral_may_be_a_folder_and_time_counts(tmp_path: Path) -> None:
    for name in GOOD["with"]:
        shutil.copy(VECTORS / name, tmp_path)
    path = str(VECTORS / GOOD["evidence"])
    assert run("tee", "verify", path, "--with", tmp_path, "--at", GOOD["at"]).code == 0
    late = run("tee", "verify", path, "--with", tmp_path, "--at", "2099-01-01T00:00:00Z", "--json")
    assert late.code == 6 and late.json["reason"]


def test_the_kind_asked_for_must_be_it() -> None:
    assert vector(GOOD, "--kind", str(vector(GOOD).json["kind"])).code == 0
    wrong = vector(GOOD, "--kind", "nitro")
    assert wrong.code == 6 and wrong.json["reason"] == "malformed"
    assert vector(GOOD, "--kind", "crystal").code == 2


def test_keys_must_be_backed(here: Path) -> None:
    policy = ("--policy", str(here / "simulated.json"), "--json")
    ran = run("tee", "verify", here / "evidence", "--bind", "00" * 32, *policy)
    assert ran.code == 6 and ran.json["reason"] == "binding"
    assert run("tee", "verify", here / "evidence", "--bind", "not a key", *policy).code == 2


def test_several_pieces_give_several_results(here: Path) -> None:
    (here / "noise").write_bytes(b"\0" * 100)
    ran = run(
        "tee", "verify", here / "evidence", here / "noise", "--policy", here / "simulated.json", "--json"
    )
    assert ran.code == 6 and not ran.json["accepted"] and "level" not in ran.json
    assert [r["accepted"] for r in ran.json["results"]] == [True, False]


@pytest.mark.parametrize(
    "size,reason",
    [(0, "kind-unknown"), (1, "kind-unknown"), (65537, "too-large"), (5_000_000, "too-large")],
)
def test_what_is_no_evidence_is_refused(tmp_path: Path, size: int, reason: str) -> None:
    (tmp_path / "x").write_bytes(b"\xff" * size)
    ran = run("tee", "verify", tmp_path / "x", "--json")
    assert ran.code == 6
    assert reason in (ran.json.get("reason"), *names(ran.json))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert run("tee", "verify", tmp_path / "x").code == 4
    assert run("tee", "verify", VECTORS / GOOD["evidence"], "--with", tmp_path / "x").code == 4
    assert run("tee", "verify", VECTORS / GOOD["evidence"], "--policy", tmp_path / "x").code == 2
    assert run("tee", "verify", VECTORS / GOOD["evidence"], "--at", "yesterday").code == 2


# --- policies and collateral --------------------------------------------------------------------------


def test_a_policy_shown_is_a_policy_file(here: Path) -> None:
    shown = must("tee", "policy", "show", home=here / "home")
    (here / "again.json").write_text(shown.out)
    same = must("tee", "policy", "diff", here / "again.json", "--json", home=here / "home").json
    assert same["changes"] == [] and same["old"] == same["new"] == STRICT.digest.hex()
    looser = must("tee", "policy", "diff", here / "simulated.json", "strict", "--json", home=here).json
    assert looser["loosened"] == ["kinds", "least_level"]


def test_a_policy_is_tried_before_the_vote(here: Path) -> None:
    home = here / "home"
    strict = must("tee", "policy", "test", "strict", "--json", home=home).json
    tried = must("tee", "policy", "test", here / "simulated.json", "--json", home=home).json
    assert (strict["accepted"], tried["accepted"]) == (0, 1)
    given = must("tee", "policy", "test", "strict", here / "evidence", "--json", home=home).json
    assert given["results"][0]["reason"] == "simulated"


def test_a_vote_changes_what_counts(here: Path) -> None:
    home = here / "home"
    proposal = last("propose", "simulate", "--tee-policy", here / "simulated.json", home=home)
    assert "simulated" in must("proposal", "show", proposal, home=home).out
    must("vote", proposal, "yes", home=home)
    row = must("quorum", "status", "--json", home=home).json["validators"][0]
    assert row["level"] == "simulated" and row["attestation"]["accepted"]
    assert must("tee", "policy", "show", "--json", home=home).json["since"] > 0
    assert must("audit", home=home).code == 0


def test_collateral_goes_out_and_comes_back(here: Path) -> None:
    home = here / "home"
    vendor = VECTORS / "intel-collateral" / "tdx-00806F050000-2025-10.json"
    taken = must("tee", "collateral", "import", vendor, "--json", home=home).json["collateral"][0]
    must("tee", "collateral", "export", "-o", here / "bundle", home=home)
    must("init", "--name", "bo", "--no-passphrase", home=here / "other")
    again = must("tee", "collateral", "import", here / "bundle", "--json", home=here / "other").json
    assert again["collateral"][0]["collateral"] == taken["collateral"]
    assert must("tee", "collateral", "show", "-q", home=here / "other").out.strip() == taken["collateral"]
    october = must("tee", "collateral", "show", "--at", "2025-10-20", "--json", home=home).json
    assert october["collateral"][0]["valid"] and not taken["valid"]
    (here / "bundle").write_bytes((here / "bundle").read_bytes()[:-1])
    assert run("tee", "collateral", "import", here / "bundle", home=home).code == 6
    assert run("tee", "collateral", "export", "ffffff", home=home).code == 4


# --- quorums and proofs -------------------------------------------------------------------------------


def test_a_quorum_of_one_says_what_it_is(here: Path) -> None:
    ran = must("quorum", "status", home=here / "home")
    assert "quorum of one" in ran.out and "rewrite or backdate" in ran.out
    data = must("quorum", "status", "--json", home=here / "home").json
    assert (data["size"], data["online"], data["tolerates"], data["epoch"]) == (1, 1, 0, 0)
    assert data["height"] == data["anchored"] == 2
    head = must("log", "checkpoint", "--json", home=here / "home").json
    assert data["state_hash"] == head["state_root"]
    assert must("quorum", "list", "-q", home=here / "home").out.strip() == data["quorum"]
    assert run("quorum", "status", "elsewhere", home=here / "home").code == 4


def test_a_proof_says_how_many_are_backed(here: Path) -> None:
    home, path = here / "home", here / "x.idao-proof"
    tx = must("log", "tail", "-q", home=home).out.split()[-1]
    must("proof", tx, "-o", path, home=home)
    named = ("--tee-policy", str(here / "simulated.json"), "--json")
    plain = run("verify", path, "--json")
    assert plain.code == 0 and plain.json["anchor"]["attested"] == 0
    assert run("verify", path, "--require", "simulated:1", *named).json["anchor"]["attested"] == 1
    hardware = run("verify", path, "--require", "tee:1", *named)
    assert hardware.code == 6 and names(hardware.json) == ["require tee:1"]
    assert run("verify", path, "--require", "tee-acme:1").code == 2
    assert run("verify", path, "--tee-policy", here / "none").code == 2


# --- a first hour -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words,code,said",
    [
        ("tee attest --simulated --device tpm:/dev/tpm0", 2, "asks no device"),
        ("tee attest --device tpm:", 2, "tpm:/dev/tpmrm0"),
        ("tee attest --device tpm:/nowhere", 7, "/nowhere: No such file"),
        ("tee attest --device tpm:127.0.0.1:1", 7, "refused"),
        ("tee collateral", 2, "import, export, update, show"),
        ("tee policy", 2, "show, test, diff"),
        ("tee collateral import", 2, "see 'idao tee collateral import --help'"),
        ("tee collateral export", 4, "no collateral here"),
        ("tee collateral show {in}/noise", 6, "no collateral in these files"),
        ("tee collateral import {in}/noise", 6, "no collateral in these files"),
        ("tee verify {in}/noise", 6, "unknown bytes at level none: does not count (kind-unknown)"),
        ("tee verify {in}/noise --with {in}/nowhere", 4, "no such file"),
        ("tee verify {in} ", 2, "Is a directory"),
        ("tee policy show {in}", 2, "no TEE policy"),
        ("tee policy test {in}/noise", 2, "not JSON"),
        ("verify {in}/noise --with {in}/noise", 2, "no revocation list"),
        ("verify {in}/noise --require tee:2:amd", 2, "tee-VENDOR:N"),
    ],
)
def test_what_a_newcomer_types(here: Path, words: str, code: int, said: str) -> None:
    (here / "noise").write_bytes(b"\0\1\2" * 100)
    ran = run(*words.format(**{"in": here}).split(), home=here / "home")
    assert ran.code == code, ran
    assert said in ran.out + ran.err and "Traceback" not in ran.err


def test_update_asks_nobody_where_nothing_is_stated(here: Path) -> None:
    ran = must("tee", "collateral", "update", home=here / "home")
    assert "simulated evidence needs no collateral" in ran.out
    dry = must("tee", "collateral", "update", VECTORS / GOOD["evidence"], "--dry-run", home=here / "home")
    assert "would ask the vendor of" in dry.out
    must("init", "--name", "bo", "--no-passphrase", home=here / "other")
    none = run("tee", "collateral", "update", home=here / "other")
    assert none.code == 4 and "made no evidence yet" in none.err


def test_a_vendors_file_is_shown_as_it_is(here: Path) -> None:
    vendor = VECTORS / "intel-collateral" / "tdx-00806F050000-2025-10.json"
    shown = must("tee", "collateral", "show", vendor, "--at", "2025-10-20", "--json", home=here / "home").json
    assert shown["collateral"][0]["valid"] and len(shown["collateral"][0]["parts"]) == 4


def test_attest_if_due(here: Path) -> None:
    home = here / "home"
    before = must("log", "list", "--json", home=home).json
    for words in (["--if-due"], ["--if-due", "--simulated"], ["--if-due", "--dry-run"]):
        data = must("tee", "attest", *words, "--json", home=home).json
        assert (data["renewed"], data["why"]) == (False, "") and data["next"] > data["judged_at"]
    assert must("log", "list", "--json", home=home).json == before
    assert "not due before" in must("tee", "attest", "--if-due", home=home).out
    must("init", "--name", "bo", "--no-passphrase", home=here / "other")
    first = must("tee", "attest", "--if-due", "--simulated", "--json", home=here / "other").json
    assert first["renewed"] and first["why"] == ""


def test_quorum_status_says_age_of_evidence_and_collateral(here: Path) -> None:
    row = must("quorum", "status", "--json", home=here / "home").json["validators"][0]
    shown = row["attestation"]
    assert {"level", "vendor", "tcb_status", "age_ms", "collateral_age_ms", "later"} <= shown.keys()
    assert 0 <= shown["collateral_age_ms"] < 3_600_000
