"""Several cosigners, backed and not: what a policy counts, whose words, and at what time."""

from __future__ import annotations

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
    SET,
    SIGNERS,
    SIMULATED,
    TX,
    Anchored,
    World,
    evidence,
)
from ledger_world import id_of

from idao import proof
from idao.crypto import canonical, note, statetree
from idao.errors import IdaoError, UsageError, VerificationFailed
from idao.hall.evidence import appraiser, read_policy
from idao.ledger import attest, backing
from idao.tee import binding, collateral, simulator
from idao.tee.policy import STRICT, TeePolicy, relaxed
from idao.tee.result import AttestationResult
from idao.tee.verifier import appraise


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
