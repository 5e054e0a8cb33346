"""Evidence among four real nodes: registered, judged by the others, fetched, run out, made again, proven.

The hardware is the simulator under a policy that names it, voted by the quorum.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from node_world import PATIENCE_S, Box, quorum, until

from idao.crypto import canonical
from idao.dao import Dao
from idao.hall import bundles
from idao.home import Home, now_ms
from idao.ledger import attest
from idao.tee import binding, collateral, simulator, verifier
from idao.tee.envelope import Evidence
from idao.tee.policy import STRICT, dump, relaxed

pytestmark = pytest.mark.slow
LASTING = relaxed(STRICT, name="rehearsal", kinds=("simulated",), least_level="simulated")
SHORT_MS = 30_000
"""Age after which evidence counts no more in the last act: long beside what renewing it takes."""
WAIT = ("--wait", "60")


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Box]]:
    boxes: list[Box] = []
    folder = tmp_path_factory.mktemp("hardware")

    def make(name: str) -> Box:
        boxes.append(Box(folder, name))
        return boxes[-1]

    try:
        made = quorum(folder, ("ana", "bob", "cleo", "dora"), make)
        for box in made:
            box.must("config", "set", "quorum.default", "clinic-lan")
        vote(made, LASTING)
        yield made
    finally:
        for box in boxes:
            box.kill()


def vote(four: list[Box], policy: Any, by: Sequence[Box] = ()) -> None:
    path = four[0].home.parent / "policy.json"
    path.write_text(dump(policy))
    made = four[0].must("propose", policy.name, "--tee-policy", path, "-q", *WAIT)
    for box in by or four[:3]:
        until(lambda box=box: box.run("proposal", "show", made).returncode == 0)  # type: ignore[misc]
        box.run("vote", made, "yes", *WAIT)  # the last finds it passed
    until(lambda: agreed(four[3]) == policy.digest.hex())


@cache
def me(box: Box) -> str:
    return str(box.json("status")["idao"])


def agreed(box: Box) -> str:
    return str(box.json("tee", "status")["policy"]["hash"])


def seen(by: Box, of: Box) -> dict[str, Any]:
    """A validator as another's status shows it."""
    rows: list[dict[str, Any]] = by.status()["validators"]
    return next(v for v in rows if v["idao"] == me(of))


def all_of(by: Box, count: int) -> dict[str, Any]:
    """The validators by id as `by` shows them, once so many are worth the level of a simulation."""
    rows = {v["idao"]: v for v in by.status()["validators"]}
    return rows if sum(1 for v in rows.values() if v["level"] == "simulated") >= count else {}


def evidence_of(by: Box, of: Box) -> str | None:
    row = seen(by, of)["attestation"]
    return row["evidence"] if row and row["accepted"] else None


def judged_by(by: Box, of: Box) -> set[str]:
    """Who has signed that the newest evidence of a validator is accepted."""
    row = seen(by, of)
    found = row["attestation"]
    return {a["appraiser"] for a in row["appraisals"] if a["accepted"] and found}


def test_each_attests_and_the_others_judge(four: list[Box]) -> None:
    for box in four[:3]:
        box.must("tee", "attest", "--simulated", *WAIT)
    for by in four:
        rows = until(lambda by=by: all_of(by, 3))  # type: ignore[misc]
        for shown in (rows[me(of)]["attestation"] for of in four[:3]):
            assert (shown["kind"], shown["vendor"], shown["tcb_status"]) == ("simulated", None, "UpToDate")
            assert 0 <= shown["age_ms"] < PATIENCE_S * 10_000 and shown["collateral_age_ms"] >= 0
        assert (rows[me(four[3])]["level"], rows[me(four[3])]["attestation"]) == ("none", None)
    until(lambda: all(len(judged_by(four[3], of)) >= 3 for of in four[:3]))


def test_a_proof_of_backed_and_unbacked_cosigners_under_three_policies(
    four: list[Box], tmp_path: Path
) -> None:
    (tmp_path / "rides.csv").write_text("a,b\n1,2\n")
    asset = four[1].must("contribute", tmp_path / "rides.csv", "-q", *WAIT)
    proof = tmp_path / "rides.idao-proof"
    until(lambda: four[1].status()["online"] == 4)
    four[1].must("proof", asset, "-o", proof, *WAIT)
    stranger = Box(tmp_path, "stranger", host="")

    def judged(policy: Any, *more: str) -> tuple[int, dict[str, Any]]:
        path = tmp_path / "policy.json"
        path.write_text(dump(policy))
        ran = stranger.run("verify", proof, "--tee-policy", path, "--json", *more)
        return ran.returncode, json.loads(ran.stdout)

    code, found = judged(LASTING)
    backed = found["anchor"]["attested"]
    assert code == 0 and found["anchor"]["cosigners"] >= 3
    assert backed >= 2 and backed == len(found["attestations"]), "dora has shown none"
    assert judged(LASTING, "--require", f"simulated:{backed}")[0] == 0
    assert judged(LASTING, "--require", "simulated:4")[0] == 6
    assert judged(LASTING, "--require", "tee:1")[0] == 6
    code, found = judged(STRICT)
    assert (code, found["anchor"]["attested"]) == (0, 0)
    assert {a["reason"] for a in found["attestations"]} == {"simulated"}
    code, found = judged(relaxed(LASTING, min_backed=4))
    assert code == 6 and [c["name"] for c in found["checks"] if not c["ok"]] == ["tee policy"]


def test_collateral_too_large_for_the_ledger_is_fetched(four: list[Box]) -> None:
    dora = four[3]
    there = Dao(Home.open(dora.home), quorum="clinic-lan", wait_s=60)
    assert there.state().get(attest.Attestation, there.me) is None
    seen_block = there.tee._beacon()
    mine = there.tee._my_seat()
    claims = binding.Claims(
        1, there.quorum, there.me, mine.key, attest.ROLE, binding.beacon(there.quorum, seen_block.header),
        seen_block.time_ms + 3_600_000,
    )  # fmt: skip
    made = simulator.intel(now_ms(), binding.report_data(claims), machine=7)
    raw = canonical.pack(Evidence(1, "simulated", simulator.mark(made.evidence), (), canonical.pack(claims)))
    parts = [("states", made.files[0]), ("more", bytes(range(256)) * 1000)]
    large = collateral.make("tdx", parts, fetched_ms=now_ms(), source="simulator")
    bundles.keep(dora.home, large)
    found = verifier.appraise(None, raw, [collateral.dump(large)], LASTING, now_ms())
    assert found.accepted, found.reason
    there.submit([("tee.attest", attest.Attest(found.evidence_id, raw, large.digest, seen_block.height))])
    for by in four[:3]:
        until(lambda by=by: evidence_of(by, dora) == found.evidence_id.hex())  # type: ignore[misc]
    until(lambda: len(judged_by(four[0], dora)) >= 3)
    assert me(dora) not in judged_by(four[0], dora), "it has not judged itself"


def test_what_runs_out_is_made_again_by_its_own_node(four: list[Box]) -> None:
    """Nobody types a command for it: a node that was away comes back, sees what it holds, and attests."""
    cleo = four[2]
    before = {box: evidence_of(four[0], box) for box in four}
    assert before[cleo]
    cleo.kill()
    vote(four, relaxed(LASTING, name="short", max_age_ms=SHORT_MS), (four[0], four[1], four[3]))
    for of in (four[0], four[1]):
        until(lambda of=of: evidence_of(four[3], of) not in (None, before[of]))  # type: ignore[misc]
    until(lambda: seen(four[0], cleo)["level"] == "none")
    assert seen(four[0], cleo)["attestation"]["reason"] == "stale"
    cleo.up()
    until(lambda: evidence_of(four[0], cleo) not in (None, before[cleo]))
