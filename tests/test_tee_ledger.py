"""Evidence of trusted hardware on ledgers and in proofs: registered unjudged, judged by readers."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from backed_world import (
    BORN,
    DAY,
    HEADER,
    PEOPLE,
    QUORUM,
    SIGNERS,
    SIMULATED,
    TX,
    World,
    evidence,
    refused,
)
from ledger_world import id_of

from idao import proof
from idao.crypto import canonical
from idao.dao import Dao
from idao.errors import IdaoError, Refused, UsageError, VerificationFailed
from idao.hall.evidence import appraiser
from idao.hall.proofs import Demands, verify
from idao.ledger import attest
from idao.model import show_id
from idao.store.audit import audit
from idao.tee import attester, collateral, simulator
from idao.tee.policy import STRICT, dump, relaxed
from idao.tee.result import AttestationResult

NOW = 2**42


# --- registering --------------------------------------------------------------------------------------


def test_evidence_is_registered_unjudged() -> None:
    world = World()
    raw = world.register()
    kept = world.state.need(attest.Attestation, PEOPLE[0])
    assert (kept.kind, kept.beacon, kept.beacon_header, kept.beacon_ms) == ("simulated", 7, HEADER, BORN)
    assert (kept.hash, kept.not_after_ms, kept.tx) == (attest.bytes_hash(raw), BORN + DAY, TX)
    worthless = canonical.unpack(attester.Evidence, raw)
    nonsense = replace(worthless, kind="astrology", blob=b"stars", aux=())
    world.register(0, canonical.pack(nonsense), id=id_of("stars"))
    assert world.state.need(attest.Attestation, PEOPLE[0]).kind == "astrology"


@pytest.mark.parametrize(
    "changed,code",
    [
        ({"quorum": id_of("elsewhere")}, "claims"),
        ({"idao": PEOPLE[1]}, "claims"),
        ({"key": SIGNERS[1].public}, "claims"),
        ({"role": "worker"}, "claims"),
        ({"nonce": bytes(32)}, "beacon"),
        ({"not_after_ms": BORN + DAY + 1}, "too-long"),
        ({"not_after_ms": BORN + 60_000}, "claims-expired"),
    ],
)
def test_claims_must_be_the_signers(changed: dict[str, Any], code: str) -> None:
    body = attest.Attest(id_of("e"), evidence(0, **changed), b"", 7)
    assert refused(World(), PEOPLE[0], body) == code


def test_form_is_checked() -> None:
    world = World()
    good = attest.Attest(id_of("e"), evidence(), b"", 7)
    assert refused(world, PEOPLE[0], replace(good, evidence=good.evidence[:-1])) == "malformed"
    assert refused(world, PEOPLE[0], replace(good, evidence=good.evidence + b"\0")) == "malformed"
    assert refused(world, PEOPLE[0], replace(good, evidence=b"x" * 65537)) == "malformed"
    assert refused(world, PEOPLE[0], replace(good, collateral=b"short")) == "collateral"
    assert refused(world, PEOPLE[0], replace(good, beacon=6)) == "beacon"
    assert refused(world, PEOPLE[1], good) == "claims"
    assert refused(world, id_of("stranger"), good) == "not-a-validator"
    world.do(PEOPLE[0], good)
    assert refused(world, PEOPLE[0], good) == "already-attested"


def test_beacons_are_few_and_asked_for_by_validators() -> None:
    world = World()
    assert refused(world, id_of("stranger"), attest.KeepBeacon()) == "not-a-validator"
    for _ in range(attest.BEACONS + 5):
        world.height += 1
        world.do(PEOPLE[0], attest.KeepBeacon())
    kept = list(world.state.scan(attest.Beacon))
    assert len(kept) == attest.BEACONS and kept[-1].height == world.height - 1


def test_appraisals_are_each_validators_own() -> None:
    world = World()
    world.register()
    known = world.state.need(attest.Attestation, PEOPLE[0])
    body = attest.Appraise(
        PEOPLE[0], known.evidence, STRICT.digest, "idao-0", "none", False, "debug", BORN + DAY
    )
    world.do(PEOPLE[1], body)
    world.do(PEOPLE[2], replace(body, level="tee", accepted=True, reason=""))
    assert [a.level for a in world.state.scan(attest.Appraisal, PEOPLE[0])].count("tee") == 1
    assert refused(world, id_of("stranger"), body) == "not-a-validator"
    assert refused(world, PEOPLE[1], replace(body, evidence=id_of("other"))) == "unknown-evidence"
    assert refused(world, PEOPLE[1], replace(body, validator=PEOPLE[1])) == "unknown-evidence"
    assert refused(world, PEOPLE[1], replace(body, reason="")) == "reason"
    assert refused(world, PEOPLE[1], replace(body, not_after_ms=BORN + DAY + 1)) == "too-long"
    world.register(0, evidence(0, not_after_ms=BORN + DAY - 1), id=id_of("newer"))
    assert not list(world.state.scan(attest.Appraisal, PEOPLE[0]))


def test_the_agreed_policy_sets_the_greatest_age() -> None:
    world = World()
    world.agree(relaxed(STRICT, max_age_ms=2 * DAY))
    world.register(0, evidence(0, not_after_ms=BORN + 2 * DAY), id=id_of("long"))
    world.agree(relaxed(STRICT, max_age_ms=3_600_000))
    body = attest.Attest(id_of("e"), evidence(1), b"", 7)
    assert refused(world, PEOPLE[1], body) == "too-long"
    kept = world.state.need(attest.TeePolicyRecord, QUORUM)
    assert kept.hash == relaxed(STRICT, max_age_ms=3_600_000).digest
    act, ctx = attest.ACTIONS["tee.policy"][1], world.context(world.state, bytes(32))
    with pytest.raises(Refused, match="governs"):
        act(ctx, PEOPLE[0], attest.SetTeePolicy(canonical.pack(STRICT)))
    with pytest.raises(IdaoError):
        act(ctx, QUORUM, attest.SetTeePolicy(b"\xa0"))


def test_no_verifier_is_needed_to_follow_a_ledger(attested: Dao) -> None:
    """Two nodes with different verifiers, or none, reach one state."""
    path = str(attested.ledger_path())
    code = (
        "import sys; from pathlib import Path; from idao.store.audit import audit\n"
        "sys.modules['dcap_qvl'] = None; sys.modules['cryptography'] = None\n"
        f"report = audit(Path({path!r})); assert report.ok, report.findings\n"
        "assert 'idao.tee.verifier' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- a home -------------------------------------------------------------------------------------------


@pytest.fixture
def attested(fresh: Callable[[], Dao]) -> Dao:
    dao = fresh()
    dao.tokens.issue(5)
    dao.tee.attest(simulated=True)
    return dao


@pytest.fixture
def loose(tmp_path: Path) -> str:
    """The file of a policy that names the simulator."""
    path = tmp_path / "simulated.json"
    path.write_text(dump(SIMULATED))
    return str(path)


def make(dao: Dao) -> bytes:
    return dao.proofs.make(show_id("tx", next(dao.store.receipts())[1].tx))[1]


def judged(data: bytes, policy: str = "strict", *require: str) -> dict[str, Any]:
    return verify(data, [], Demands(require=require, tee_policy=policy), NOW)


def failed(result: dict[str, Any]) -> list[str]:
    return [c["name"] for c in result["checks"] if not c["ok"]]


def test_a_quorum_votes_its_policy(attested: Dao, loose: str) -> None:
    from idao.hall.governance import Wish

    assert attested.quorums.status()["validators"][0]["attestation"]["accepted"] is False
    opened = attested.governance.propose("try the simulator", Wish(tee_policy=loose))
    assert opened["actions"][0]["tee_policy"]["kinds"] == ["simulated"]
    attested.governance.vote(opened["proposal"], "yes")
    dao = Dao.open(attested.home.path)
    assert dao.tee.policy()[0] == SIMULATED
    row = dao.quorums.status()["validators"][0]
    assert row["attestation"]["accepted"] and row["level"] == "simulated"
    assert audit(dao.ledger_path()).ok


def test_evidence_made_again_serves_the_same_beacon(attested: Dao) -> None:
    first = attested.state().need(attest.Attestation, attested.me)
    with pytest.raises(Refused, match="already"):
        attested.tee.attest(simulated=True)
    attested.tee.attest(simulated=True, kind="sev-snp")
    again = attested.state().need(attest.Attestation, attested.me)
    assert again.beacon == first.beacon and again.evidence != first.evidence


# --- proofs -------------------------------------------------------------------------------------------


def test_a_proof_carries_it_and_strangers_judge_it(attested: Dao, loose: str) -> None:
    data = make(attested)
    strict = judged(data)
    assert strict["ok"] and strict["anchor"]["attested"] == 0
    assert strict["attestations"][0]["reason"] == "simulated"
    assert any("SIMULATED" in w for w in strict["warnings"])
    counted = judged(data, loose, "simulated:1")
    assert counted["ok"] and counted["anchor"]["attested"] == 1
    assert any("SIMULATED" in w for w in counted["warnings"])


@pytest.mark.parametrize("demand", ["tee:1", "tee-measured:1", "tee-intel:1", "tee-tdx:1", "tpm-rooted:1"])
def test_a_simulation_is_never_hardware(attested: Dao, loose: str, demand: str) -> None:
    for policy in ("strict", loose):
        assert failed(judged(make(attested), policy, demand)) == [f"require {demand}"]


@pytest.mark.parametrize("demand", ["tee", "tee:x", "tee:-1", "tee-acme:1", "tee-:1", "teapot:1", "tee:²"])
def test_demands_that_mean_nothing(attested: Dao, demand: str) -> None:
    with pytest.raises(UsageError):
        judged(make(attested), "strict", demand)


def test_a_policy_may_want_backed_cosigners(attested: Dao, tmp_path: Path) -> None:
    path = tmp_path / "two.json"
    path.write_text(dump(relaxed(SIMULATED, min_backed=2)))
    assert failed(judged(make(attested), str(path))) == ["tee policy"]
    path.write_text(dump(relaxed(SIMULATED, min_backed=1)))
    assert judged(make(attested), str(path))["ok"]


def test_every_byte_of_the_evidence_counts(attested: Dao, loose: str) -> None:
    data = make(attested)
    backed = proof.parse(data).attestations[0]
    start, rng = data.index(backed), random.Random(7)
    for at in rng.sample(range(start, start + len(backed)), 300):
        bent = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        assert not judged(bent, loose)["ok"], at
        assert not judged(bent)["ok"], at


def test_nothing_is_skipped_without_a_verifier(attested: Dao) -> None:
    verdict = proof.judge(make(attested))
    assert [c.name for c in verdict.checks if not c.ok] == ["extras"]

    def lacking(*asked: Any) -> AttestationResult:
        return replace(appraiser(SIMULATED)(*asked), accepted=False, reason="verifier-missing")

    verdict = proof.judge(make(attested), lacking)
    assert not verdict.ok and not verdict.attested
    assert "not installed" in verdict.checks[-1].detail


def test_an_expired_one_lowers_the_level(attested: Dao, monkeypatch: pytest.MonkeyPatch) -> None:
    from idao.hall import tee

    monkeypatch.setattr(tee, "now_ms", lambda: NOW)
    row = Dao.open(attested.home.path).quorums.status()["validators"][0]
    assert row["level"] == "none" and not row["attestation"]["accepted"]


@pytest.mark.parametrize("outside", [True, False])
def test_collateral_of_this_home_serves_and_travels(
    fresh: Callable[[], Dao], loose: str, monkeypatch: pytest.MonkeyPatch, outside: bool
) -> None:
    from idao.hall import bundles
    from idao.hall import tee as hall

    real = attester.simulate

    def bare(*args: Any) -> attester.Evidence:
        made = real(*args)
        files = [("intel", a.data) for a in made.aux]
        kept[:] = [collateral.make("tdx", files, fetched_ms=1, source="test")]
        return replace(made, aux=())

    kept: list[collateral.Bundle] = []
    monkeypatch.setattr(attester, "simulate", bare)
    dao = fresh()
    with pytest.raises(VerificationFailed, match="does not hold up") as caught:
        dao.tee.attest(simulated=True)
    assert caught.value.code == "collateral-missing" and "collateral update" in str(caught.value.hint)
    assert dao.state().get(attest.Attestation, dao.me) is None
    stale = collateral.make(
        "tdx", [("intel", simulator.intel(BORN // 2).files[0])], fetched_ms=2, source="old"
    )
    for bundle in (*kept, stale):
        bundles.keep(dao.home.path, bundle)
    monkeypatch.setattr(attester, "simulate", lambda *args: replace(real(*args), aux=()))
    monkeypatch.setattr(hall, "CARRIED_BYTES_MAX", 8000 if outside else 48 * 1024)
    shown = dao.tee.attest(simulated=True)["collateral"]
    if not outside:  # it travels inside the evidence, and every validator can judge it
        assert shown is None and judged(make(dao), loose, "simulated:1")["ok"]
        return
    assert shown == kept[0].digest.hex()
    data = make(dao)
    assert collateral.dump(kept[0]) in data
    assert judged(data, loose, "simulated:1")["ok"]
    (bundles.folder(dao.home.path) / f"{kept[0].digest.hex()}{bundles.SUFFIX}").unlink()
    assert not proof.parse(make(dao)).attestations
