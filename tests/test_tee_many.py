"""A proof of several cosigners, some backed and some not, judged offline under three policies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from group_world import BORN
from tee_proof import SIMULATED, many

from idao import proof
from idao.crypto import canonical
from idao.frozen import replace
from idao.hall.proofs import Demands, verify
from idao.ledger import backing
from idao.tee.policy import STRICT, TeePolicy, dump, relaxed

NOW = BORN + 3_600_000


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Five cosigners, the first three with evidence: two carry collateral, one has a bundle beside it."""
    return many(tmp_path_factory.mktemp("many"), 5, 3)


def judged(data: bytes, folder: Path, policy: TeePolicy, *require: str) -> dict[str, Any]:
    path = folder / "policy.json"
    path.write_text(dump(policy))
    return verify(data, [], Demands(require=require, tee_policy=str(path)), NOW)


def failed(result: dict[str, Any]) -> list[str]:
    return [c["name"] for c in result["checks"] if not c["ok"]]


def test_under_three_policies(five: bytes, tmp_path: Path) -> None:
    loose = judged(five, tmp_path, SIMULATED, "simulated:3")
    assert loose["ok"] and loose["anchor"]["attested"] == 3 and loose["anchor"]["cosigners"] == 5
    assert {a["level"] for a in loose["attestations"]} == {"simulated"}
    strict = judged(five, tmp_path, STRICT)
    assert strict["ok"] and strict["anchor"]["attested"] == 0
    assert {a["reason"] for a in strict["attestations"]} == {"simulated"}
    wanting = judged(five, tmp_path, relaxed(SIMULATED, min_backed=4))
    assert failed(wanting) == ["tee policy"]
    # Simulated machines have no stable name, so a list of known machines lets none of them in.
    known = judged(five, tmp_path, relaxed(SIMULATED, platforms=("00" * 16,)))
    assert known["anchor"]["attested"] == 0 and {a["reason"] for a in known["attestations"]} == {"platform"}


def test_needs_no_general_reader_of_certificates(five: bytes, tmp_path: Path) -> None:
    """It takes as long to load as twenty cosigners to judge (ADR 0049)."""
    (tmp_path / "policy.json").write_text(dump(SIMULATED))
    (tmp_path / "proof").write_bytes(five)
    words = [
        "verify",
        f"{tmp_path}/proof",
        "--tee-policy",
        f"{tmp_path}/policy.json",
        "--require",
        "simulated:3",
    ]
    code = (
        f"import sys; sys.argv = ['idao', *{words!r}]\n"
        "from idao.__main__ import main\n"
        "try: main()\n"
        "finally: print(sorted(m for m in sys.modules if 'x509' in m or m == 'importlib.resources'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "['idao.tee.x509']", done.stderr


@pytest.mark.parametrize("demand", ["simulated:4", "tee:1", "tee-amd:1", "tee-tdx:1", "tpm-rooted:1"])
def test_what_is_not_there_is_not_counted(five: bytes, tmp_path: Path, demand: str) -> None:
    assert failed(judged(five, tmp_path, SIMULATED, demand)) == [f"require {demand}"]


def test_evidence_cannot_be_moved_doubled_or_given_to_another(five: bytes, tmp_path: Path) -> None:
    made = proof.parse(five)
    held = [canonical.unpack(backing.Backing, b) for b in made.attestations]
    assert len(held) == 3
    swaps: list[tuple[bytes, ...]] = [
        tuple(reversed(made.attestations)),
        (*made.attestations, made.attestations[-1]),
        (canonical.pack(replace(held[0], evidence=held[1].evidence)), *made.attestations[1:]),
        (canonical.pack(replace(held[0], record=held[1].record)), *made.attestations[1:]),
        (canonical.pack(replace(held[0], path=held[1].path)), *made.attestations[1:]),
    ]
    for swapped in swaps:
        bad = proof.dump(replace(made, attestations=swapped))
        assert failed(judged(bad, tmp_path, SIMULATED))[:1] == ["extras"]
    fewer = proof.dump(replace(made, attestations=made.attestations[1:]))
    assert judged(fewer, tmp_path, SIMULATED)["anchor"]["attested"] == 2
