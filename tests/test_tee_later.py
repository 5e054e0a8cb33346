"""What becomes known after a judgement is shown as a later fact, and changes no verdict at its time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from backed_world import BORN, SIMULATED, Anchored
from cli_world import must, run
from tee_world import VECTORS, cases, ms, read

from idao.dao import Dao
from idao.hall import bundles
from idao.hall.evidence import newer, say_fact, show_attested
from idao.ledger import backing
from idao.tee import collateral, later, simulator, verifier
from idao.tee.policy import STRICT, dump, relaxed
from idao.tee.result import AttestationResult

DAY = 24 * 3_600_000
TRY = relaxed(STRICT, kinds=("simulated",), least_level="simulated")


def bundle(*files: bytes, source: str = "test", kind: str = "tdx") -> bytes:
    named = [(f"f{i}", f) for i, f in enumerate(files)]
    return collateral.dump(collateral.make(kind, named, fetched_ms=BORN, source=source))


def looked(
    name: str, newer_file: str, at: str, *, cut: bool = False
) -> tuple[AttestationResult, later.Later]:
    case = cases()[name]
    data = read(f"intel-collateral/{newer_file}.json")
    if cut:  # the chain of another machine
        data = json.dumps(
            {k: v for k, v in json.loads(data).items() if k != "pck_certificate_chain"}
        ).encode()
    then = case.judge()
    return then, later.look(case.evidence, then, [bundle(data)], STRICT, ms(at))


def test_a_platform_that_fell_behind_was_in_order_then() -> None:
    then, known = looked("tdx-1", "tdx-B0C06F000000-2026-08", "2026-09-01T00:00:00Z", cut=True)
    assert then.accepted
    (fact,) = known.facts
    assert (fact.reason, fact.tcb_status) == ("tcb-status", "OutOfDate") and fact.advisories
    assert fact.stated_ms == fact.since_ms == known.as_of_ms
    assert "OutOfDate" in say_fact(fact)


def test_nothing_is_known_before_it_was_stated() -> None:
    _, known = looked("tdx-1", "tdx-B0C06F000000-2026-08", "2025-09-01T00:00:00Z", cut=True)
    assert known == later.Later()


@pytest.mark.parametrize(
    "file", ["tdx-B0C06F000000-2026-08", "tdx-00806F050000-2025-10", "sgx-00A067110000-2025-06"]
)
def test_collateral_of_other_machines_says_nothing(file: str) -> None:
    """The first carries the chain of another machine of the same kind, the others are of other kinds."""
    _, known = looked("tdx-1", file, "2026-09-01T00:00:00Z")
    assert known == later.Later()


def test_its_own_collateral_says_nothing_new() -> None:
    then, known = looked("tdx-1", "tdx-B0C06F000000-2025-06", "2026-09-01T00:00:00Z")
    assert known.facts == () and known.as_of_ms == then.collateral_ms
    then, known = looked("tdx-4", "tdx-00806F050000-2025-10", "2026-09-01T00:00:00Z")
    assert then.reason == "tcb-status" and known.facts == ()


def simulated(shape: str, *flaws: str, days: int = 10) -> tuple[AttestationResult, later.Later]:
    """Sound evidence, and collateral made some days later that says something else."""
    from idao.tee.verifier import appraise

    make = simulator.intel if shape == "tdx" else simulator.amd
    sound = make(BORN)
    then = appraise(None, simulator.mark(sound.evidence), sound.files, TRY, BORN)
    files = make(BORN + days * DAY, flaws=flaws).files
    return then, later.look(simulator.mark(sound.evidence), then, files, TRY, BORN + 12 * DAY)


@pytest.mark.parametrize("flaw", ["revoked-pck", "revoked-ca", "revoked-signer"])
def test_a_part_revoked_later_was_good_then(flaw: str) -> None:
    then, known = simulated("tdx", flaw)
    assert then.accepted and [f.reason for f in known.facts] == ["revoked"]
    assert known.facts[0].since_ms == BORN + 10 * DAY
    assert say_fact(known.facts[0]).startswith("revoked later, on 2026-")


def test_an_amd_authority_revoked_later() -> None:
    then, known = simulated("sev-snp", "revoked-ask")
    assert then.accepted and [f.reason for f in known.facts] == ["revoked"]
    assert known.facts[0].since_ms == BORN + 10 * DAY


@pytest.mark.parametrize(
    "flaw", ["crl-foreign", "leaf-signed-tcb", "tcb-reformatted", "foreign-root", "qe-foreign", "pceid"]
)
def test_what_nobody_signed_revokes_nothing(flaw: str) -> None:
    _, known = simulated("tdx", flaw)
    assert known == later.Later()


def test_good_news_has_a_date_too() -> None:
    _, known = simulated("tdx")
    assert known == later.Later((), BORN + 10 * DAY)
    _, known = simulated("tdx", "revoked-pck", days=-10)  # older than what was judged
    assert known == later.Later()


def test_an_older_list_beside_the_current_one_still_revokes() -> None:
    from idao.tee.verifier import appraise

    sound, revoked = simulator.amd(BORN), simulator.amd(BORN - 40 * DAY, flaws=["revoked-ask"]).files[1]
    unborn = simulator.amd(BORN + 10 * DAY, flaws=["revoked-ask"]).files[1]
    marked = simulator.mark(sound.evidence)
    assert appraise(None, marked, (*sound.files, revoked), TRY, BORN).reason == "revoked"
    assert appraise(None, marked, (*sound.files, unborn), TRY, BORN).accepted


# --- in proofs and homes --------------------------------------------------------------------------------


def test_a_proof_is_judged_at_its_time_with_its_own_collateral() -> None:
    own = bundle(simulator.intel(BORN).files[0])
    world = Anchored(0, bundles={0: own})
    (one,) = world.judge(world.backing(0))
    held = backing.Backing(
        b"r", backing.canonical.unpack(backing.Backing, world.backing(0)).path, world.raws[0], own
    )
    revoked = bundle(simulator.intel(BORN + 10 * DAY, flaws=["revoked-pck"]).files[0])
    known = newer(one, held, [own, revoked], SIMULATED, BORN + 12 * DAY)
    shown = show_attested(one, known)
    assert shown["accepted"] and shown["level"] == "simulated"
    assert [f["reason"] for f in shown["later"]] == ["revoked"]
    assert shown["collateral_age_ms"] == one.judged_ms - BORN
    assert newer(one, held, [own], SIMULATED, BORN + 12 * DAY) == later.Later()


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with simulated evidence, a proof, a policy that names the simulator, collateral of tomorrow."""
    folder = tmp_path_factory.mktemp("later")
    home = folder / "home"
    must("init", "--name", "ana", "--no-passphrase", home=home)
    must("tee", "attest", "--simulated", home=home)
    tx = must("log", "tail", "-q", home=home).out.split()[-1]
    must("proof", tx, "-o", folder / "x.idao-proof", home=home)
    (folder / "policy.json").write_text(dump(SIMULATED))
    now = Dao.open(home).store.header(2).time_ms
    for name, flaws in (("revoked", ["revoked-pck"]), ("fine", [])):
        (folder / name).write_bytes(simulator.intel(now // 1000 * 1000, flaws=flaws).files[0])
    return folder


def test_verify_shows_later_facts_without_changing_the_verdict(proven: Path, tmp_path: Path) -> None:
    words = (
        "verify",
        proven / "x.idao-proof",
        "--tee-policy",
        proven / "policy.json",
        "--require",
        "simulated:1",
    )
    plain = run(*words, "--json", home=tmp_path)
    assert plain.code == 0 and plain.json["attestations"][0]["later"] == []
    assert plain.json["attestations"][0]["later_as_of"] is None
    said = run(*words, "--with", proven / "revoked", "--json", home=tmp_path)
    assert said.code == 0 and said.json["ok"] and said.json["anchor"]["attested"] == 1
    assert [f["reason"] for f in said.json["attestations"][0]["later"]] == ["revoked"]
    assert any("revoked later, on 20" in w for w in said.json["warnings"])
    assert "revoked later, on 20" in run(*words, "--with", proven / "revoked", home=tmp_path).out
    fine = run(*words, "--with", proven / "fine", "--json", home=tmp_path).json["attestations"][0]
    assert fine["later"] == [] and fine["later_as_of"]


def test_collateral_kept_in_a_home_tells_it_unasked(proven: Path, tmp_path: Path) -> None:
    must("init", "--name", "bo", "--no-passphrase", home=tmp_path / "h")
    must("tee", "collateral", "import", proven / "revoked", home=tmp_path / "h")
    (bundles.folder(tmp_path / "h") / f"{'0' * 64}{bundles.SUFFIX}").write_bytes(b"damaged")
    words = ("verify", proven / "x.idao-proof", "--tee-policy", proven / "policy.json")
    said = run(*words, "--json", home=tmp_path / "h")
    assert said.code == 0 and [f["reason"] for f in said.json["attestations"][0]["later"]] == ["revoked"]


def test_with_wants_a_vendors_statement(proven: Path, tmp_path: Path) -> None:
    proof = proven / "x.idao-proof"
    assert run("verify", proof, "--with", tmp_path / "none").code == 4
    (tmp_path / "noise").write_bytes(b"\0" * 100)
    for what in (tmp_path / "noise", VECTORS / "amd-roots" / "ask_ark_genoa.pem"):
        ran = run("verify", proof, "--with", what)
        assert ran.code == 2 and "--with" in ran.err


def test_what_is_revoked_counts_no_more_today(proven: Path, tmp_path: Path) -> None:
    import shutil

    home = tmp_path / "home"
    shutil.copytree(proven / "home", home)
    proposal = must("propose", "s", "--tee-policy", proven / "policy.json", home=home).out.split()[-1]
    must("vote", proposal, "yes", home=home)
    assert must("quorum", "status", "--json", home=home).json["validators"][0]["level"] == "simulated"
    must("tee", "collateral", "import", proven / "revoked", home=home)
    row = must("quorum", "status", "--json", home=home).json["validators"][0]
    assert (row["level"], row["attestation"]["reason"]) == ("none", "revoked")
    assert row["attestation"]["later"][0]["since"]


def test_collateral_that_names_other_platforms_is_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read_ones: list[int] = []
    expand = collateral.expand
    monkeypatch.setattr(later.collateral, "expand", lambda g: read_ones.append(1) or expand(g))
    files = [
        bundle(read(f"intel-collateral/{n}.json"), source="unread")
        for n in ("tdx-00806F050000-2025-10", "sgx-00A067110000-2025-06", "tdx-90C06F000000-2026-02")
    ]
    for name in ("tdx-1", "snp-3", "nitro-1"):
        case = cases()[name]
        then = case.judge()
        read_ones.clear()
        assert later.look(case.evidence, then, files, STRICT, ms("2026-09-01T00:00:00Z")) == later.Later()
        assert read_ones == []


def test_a_bundle_of_two_vendors_speaks_of_both() -> None:
    make = simulator.amd(BORN)
    then = verifier.appraise(None, simulator.mark(make.evidence), make.files, TRY, BORN)
    revoked = simulator.amd(BORN + 10 * DAY, flaws=("revoked-ask",)).files
    both = bundle(simulator.intel(BORN + 10 * DAY).files[0], *revoked)
    known = later.look(simulator.mark(make.evidence), then, [both], TRY, BORN + 12 * DAY)
    assert [f.reason for f in known.facts] == ["revoked"]
