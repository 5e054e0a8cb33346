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
from ledger_world import id_of

from idao import proof
from idao.crypto import canonical, note, statetree
from idao.crypto.hashing import Kind, hash_of
from idao.crypto.keys import Signer
from idao.dao import Dao
from idao.errors import IdaoError, Refused, UsageError, VerificationFailed
from idao.hall.evidence import appraiser, read_policy
from idao.hall.proofs import Demands, verify
from idao.ledger import attest, backing
from idao.ledger.execution import Layer, tree_changes
from idao.ledger.genesis import Epoch
from idao.ledger.state import DictBase, State, encode_key, key_of
from idao.ledger.tx import Context
from idao.model import Header, Validator, ValidatorSet, show_id
from idao.store.audit import audit
from idao.tee import attester, binding, collateral, simulator
from idao.tee.policy import STRICT, TeePolicy, dump, relaxed
from idao.tee.result import AttestationResult
from idao.tee.verifier import appraise

QUORUM, HEADER, TX = id_of("quorum"), id_of("header"), id_of("tx")
DAY = 24 * 3_600_000
BORN = 1_790_000_000_000
NOW = 2**42
SIMULATED = relaxed(STRICT, kinds=("simulated",), least_level="simulated")
SIGNERS = sorted((Signer(id_of(f"key {n}")) for n in range(4)), key=lambda s: id_of(s.public.hex()))
PEOPLE = [id_of(s.public.hex()) for s in SIGNERS]
SET = ValidatorSet(tuple(Validator(i, s.public, 1) for i, s in zip(PEOPLE, SIGNERS, strict=True)))


def claims(n: int = 0, **changed: Any) -> binding.Claims:
    nonce = binding.beacon(QUORUM, HEADER)
    made = binding.Claims(1, QUORUM, PEOPLE[n], SIGNERS[n].public, attest.ROLE, nonce, BORN + DAY)
    return replace(made, **changed)


def evidence(n: int = 0, shape: str = "tdx", **changed: Any) -> bytes:
    return canonical.pack(attester.simulate(claims(n, **changed), BORN, shape))


class World:
    """The ledger of a quorum of four at height 8, whose block 7 is kept as a beacon."""

    def __init__(self) -> None:
        self.state = State(DictBase())
        self.state.put(Epoch(0, 1, hash_of(Kind.VALIDATORS, SET), canonical.pack(SET)))
        self.time_ms = BORN + 60_000
        self.height = 8
        self.do(PEOPLE[3], attest.KeepBeacon())

    def do(self, who: bytes, body: Any) -> None:
        """As a block does it: by way of bytes."""
        apply = next(kind.apply for kind in attest.KINDS if kind.body is type(body))
        child = self.state.child()
        apply(self.context(child, who), canonical.unpack(type(body), canonical.pack(body)))
        self.state.merge(child)

    def context(self, state: State, who: bytes) -> Context:
        ids = tuple(PEOPLE)
        return Context(
            state, QUORUM, self.height, self.time_ms, who, TX, 4, ids, QUORUM, parent=HEADER, parent_ms=BORN
        )

    def register(self, n: int = 0, raw: bytes | None = None, **changed: Any) -> bytes:
        made = raw or evidence(n)
        body = attest.Attest(appraise(None, made, (), SIMULATED, BORN).evidence_id, made, b"", 7)
        self.do(PEOPLE[n], replace(body, **changed))
        return made

    def agree(self, policy: TeePolicy) -> None:
        body = attest.SetTeePolicy(canonical.pack(policy))
        attest.ACTIONS["tee.policy"][1](self.context(self.state, bytes(32)), QUORUM, body)


def refused(world: World, who: bytes, body: Any) -> str:
    before = {cls: dict(rows) for cls, rows in world.state.changes.items()}
    with pytest.raises(IdaoError) as caught:
        world.do(who, body)
    assert world.state.changes == before
    return caught.value.code


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


# --- several cosigners --------------------------------------------------------------------------------


class Anchored:
    """A checkpoint of the quorum of four over a state in which some have attested."""

    def __init__(self, *who: int, bundles: dict[int, bytes] | None = None) -> None:
        world = World()
        self.raws = {n: evidence(n, "sev-snp" if n % 2 else "tdx") for n in who}
        self.bundles = bundles or {}
        for n in who:
            bundle = self.bundles.get(n, b"")
            world.register(n, self.raws[n], collateral=backing.bundle_name(bundle) if bundle else b"")
        self.state = world.state
        self.branches = Layer({})
        root = statetree.update(self.branches, tree_changes(self.state))
        none = bytes(32)
        self.header = Header(
            1, QUORUM, 9, 0, PEOPLE[0], HEADER, none, BORN + 120_000, none, root, 1, none,
            hash_of(Kind.VALIDATORS, SET), hash_of(Kind.VALIDATORS, SET), none,
        )  # fmt: skip

    def backing(self, n: int, **changed: Any) -> bytes:
        record = self.state.need(attest.Attestation, PEOPLE[n])
        place = statetree.record_path("attestation", encode_key(key_of(record)))
        path = statetree.prove(self.branches, place)
        made = backing.Backing(canonical.pack(record), path, self.raws[n], self.bundles.get(n, b""))
        return canonical.pack(replace(made, **changed))

    def judge(
        self, *packed: bytes, times: dict[int, int] | None = None, policy: TeePolicy = SIMULATED
    ) -> list[backing.Attested]:
        at = dict.fromkeys(range(4), BORN + 130_000) if times is None else times
        return backing.judge(packed, self.header, SET, at, appraiser(policy))


def test_backed_and_unbacked_cosigners_under_three_policies() -> None:
    world = Anchored(0, 1, 3)
    packed = [world.backing(n) for n in (0, 1, 3)]
    assert [a.accepted for a in world.judge(*packed)] == [True] * 3
    assert [a.accepted for a in world.judge(*packed, policy=STRICT)] == [False] * 3
    short = relaxed(SIMULATED, max_age_ms=60_000, clock_skew_ms=0)
    assert {a.reason for a in world.judge(*packed, policy=short)} == {"stale"}
    assert {a.level for a in world.judge(*packed)} == {"simulated"}


@pytest.mark.parametrize(
    "policy",
    [
        STRICT,
        relaxed(STRICT, least_level="simulated"),
        relaxed(STRICT, kinds=("tdx",)),
        relaxed(STRICT, kinds=("tpm",), least_level="tpm-unrooted"),
    ],
)
def test_the_simulator_is_refused_where_it_is_not_named(
    policy: TeePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IDAO_SIMULATED", "IDAO_TEE_SIMULATED", "SGX_MODE", "IDAO_TEE_POLICY"):
        monkeypatch.setenv(name, "1")
    world = Anchored(0, 1)
    assert not any(a.accepted for a in world.judge(world.backing(0), world.backing(1), policy=policy))
    with pytest.raises(IdaoError):
        relaxed(STRICT, kinds=("simulated",))


def test_what_may_not_stand_in_a_proof() -> None:
    world = Anchored(0, 1)
    first, second = world.backing(0), world.backing(1)
    with pytest.raises(VerificationFailed, match="order"):
        world.judge(first, first)
    with pytest.raises(VerificationFailed, match="order"):
        world.judge(second, first)
    with pytest.raises(VerificationFailed, match="did not cosign"):
        world.judge(first, times={1: BORN})
    with pytest.raises(VerificationFailed, match="not the one on the ledger"):
        world.judge(world.backing(0, evidence=world.raws[1]))
    with pytest.raises(VerificationFailed, match="collateral"):
        world.judge(world.backing(0, collateral=b"x"))
    elsewhere = Anchored(0)
    with pytest.raises(VerificationFailed, match="state root"):
        elsewhere.judge(first)


def test_collateral_of_the_day_travels_along() -> None:
    made = simulator.intel(BORN, bytes(64))
    bundle = collateral.make("tdx", [("intel", made.files[0])], fetched_ms=BORN, source="test")
    world = Anchored(0, bundles={0: collateral.dump(bundle)})
    assert world.judge(world.backing(0))[0].accepted
    other = collateral.dump(replace(bundle, source="another"))
    for lied in (b"", other):
        with pytest.raises(VerificationFailed, match="collateral"):
            world.judge(world.backing(0, collateral=lied))


def test_evidence_of_another_key_or_id_does_not_count() -> None:
    world = World()
    world.register(0, id=id_of("claimed"))
    record = world.state.need(attest.Attestation, PEOPLE[0])
    held = backing.Backing(canonical.pack(record), statetree.prove({}, bytes(32)), evidence(0), b"")
    judge = appraiser(SIMULATED)
    one = backing.judge_one(held, record, QUORUM, SET.validators[0], BORN + 60_000, judge)
    assert (one.accepted, one.reason, one.level) == (False, "evidence", "none")
    one = backing.judge_one(held, record, QUORUM, SET.validators[1], BORN + 60_000, judge)
    assert (one.accepted, one.reason) == (False, "binding")
    one = backing.judge_one(held, record, id_of("q"), SET.validators[0], BORN + 60_000, judge)
    assert not one.accepted


@pytest.mark.parametrize("cosigned", [BORN, BORN + 110_000, BORN + 500_000, BORN + 2 * DAY])
def test_judged_at_the_later_of_cosignature_and_block(cosigned: int) -> None:
    world = Anchored(0)
    one = world.judge(world.backing(0), times={0: cosigned})[0]
    assert one.judged_ms == max(cosigned, world.header.time_ms)
    assert one.accepted == (one.judged_ms <= BORN + DAY)


@pytest.mark.parametrize("policy", [SIMULATED, STRICT])
def test_what_one_validator_thinks_of_another_is_taken_by_the_ledger(policy: TeePolicy) -> None:
    from idao.hall.tee import Tee

    seen = Anchored(0)
    (one,) = seen.judge(seen.backing(0), policy=policy)
    world = World()
    world.register(0, seen.raws[0])
    world.do(PEOPLE[1], Tee._appraisal_of(one, policy))
    (kept,) = world.state.scan(attest.Appraisal, PEOPLE[0])
    assert (kept.appraiser, kept.accepted, kept.level) == (PEOPLE[1], policy is SIMULATED, "simulated")
    assert (kept.policy, bool(kept.reason)) == (policy.digest, policy is STRICT)


def test_times_are_each_cosigners_own() -> None:
    text = note.Checkpoint(QUORUM, 5, HEADER, 9, HEADER, HEADER, 0, HEADER).text()
    lines = [note.cosignature(SIGNERS[n], QUORUM, text, BORN // 1000 + n) for n in (2, 0)]
    lines.append(note.log_signature(SIGNERS[1], QUORUM, text))
    found = backing.times_of(note.Note(text, tuple(lines)), QUORUM, SET)
    assert found == {0: BORN, 2: BORN + 2000}


def result(kind: str, level: str) -> AttestationResult:
    bare = appraise(None, b"", (), STRICT, 0)
    return replace(bare, kind=kind, level=level, accepted=True, reason="", checks=())


def test_requirements_count_levels_and_vendors() -> None:
    from idao.hall.proofs import _backed

    record = attest.Attestation(
        PEOPLE[0], id_of("e"), "tdx", id_of("h"), b"", 7, HEADER, BORN, BORN + DAY, TX, 8
    )
    seen = [
        ("tdx", "tee-measured"), ("sgx", "tee"), ("sev-snp", "tee"), ("nitro", "tee"), ("tpm", "tpm-rooted"),
        ("simulated", "simulated"),
    ]  # fmt: skip
    verdict = proof.Verdict()
    for kind, level in seen:
        verdict.attested.append(backing.Attested(PEOPLE[0], record, 0, True, "", result(kind, level)))
    refused = replace(result("tdx", "tee"), accepted=False, reason="stale")
    verdict.attested.append(backing.Attested(PEOPLE[0], record, 0, False, "stale", refused))
    wanted = {
        "tee": 4, "tee-measured": 1, "tee-intel": 2, "tee-amd": 1, "tee-aws": 1, "tee-arm": 0, "tee-tdx": 1,
        "tpm-rooted": 5, "simulated": 6,
    }  # fmt: skip
    assert {name: _backed(verdict, name) for name in wanted} == wanted


def test_a_verdict_is_reached_once_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    from idao.tee import verifier

    calls: list[int] = []
    real = verifier.appraise

    def counted(*asked: Any) -> AttestationResult:
        calls.append(1)
        return real(*asked)

    monkeypatch.setattr(verifier, "appraise", counted)
    world, other = Anchored(0), relaxed(SIMULATED, max_age_ms=DAY + 1)
    packed = world.backing(0)
    first = world.judge(packed)[0].result
    assert len(calls) <= 1
    calls.clear()
    assert world.judge(packed)[0].result == first and not calls
    assert world.judge(packed, policy=other)[0].accepted and len(calls) == 1
    # Neither other bytes of the same evidence, another key, nor a time past its end meet an old verdict.
    raw = world.raws[0]
    judge = appraiser(SIMULATED)
    expected = binding.Expected(keys=(SIGNERS[1].public,))
    assert judge(raw, (), expected, BORN + 130_000).reason == "binding"
    at = raw.index(simulator.SIMULATED) + 900  # in the signature, which the identity does not cover
    bent = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
    assert not judge(bent, (), binding.Expected(), BORN + 130_000).accepted
    assert not world.judge(packed, times={0: BORN + DAY + 1})[0].accepted


def test_policies_are_read_by_name_or_file(tmp_path: Path) -> None:
    assert read_policy("strict") == STRICT
    for name, text in {"none": None, "bad": "{}", "list": "[]"}.items():
        path = tmp_path / name
        if text:
            path.write_text(text)
        with pytest.raises(UsageError):
            read_policy(str(path))
