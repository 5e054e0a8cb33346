"""Evidence for the tests of the TEE room: the vectors, as the command line would hand them over."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from idao.crypto import canonical
from idao.tee import binding, simulator, verifier
from idao.tee.binding import Expected
from idao.tee.envelope import Evidence
from idao.tee.policy import STRICT, TeePolicy, relaxed
from idao.tee.result import AttestationResult
from idao.tee.verifier import appraise

VECTORS = Path(__file__).parent / "vectors" / "tee"


def ms(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp()) * 1000


@dataclass(frozen=True)
class Case:
    id: str
    evidence: bytes
    files: tuple[bytes, ...]
    at: int
    accepted: bool
    reason: str
    level: str

    def judge(
        self,
        policy: TeePolicy = STRICT,
        *,
        evidence: bytes | None = None,
        files: tuple[bytes, ...] | None = None,
        at: int | None = None,
        bind: Expected | None = None,
    ) -> AttestationResult:
        return appraise(
            None,
            self.evidence if evidence is None else evidence,
            self.files if files is None else files,
            policy,
            self.at if at is None else at,
            bind,
        )


def read(name: str) -> bytes:
    return (VECTORS / name).read_bytes()


@cache
def cases() -> dict[str, Case]:
    out = {}
    for c in json.loads(read("cases.json"))["cases"]:
        files = []
        for i, name in enumerate(c["with"]):
            data = read(name)
            if i < len(c["drop"]):
                data = json.dumps({k: v for k, v in json.loads(data).items() if k not in c["drop"]}).encode()
            files.append(data)
        out[c["id"]] = Case(
            c["id"], read(c["evidence"]), tuple(files), ms(c["at"]), c["accepted"], c["reason"], c["level"]
        )
    return out


def binary(case: Case) -> bytes:
    """The evidence as the vendor's bytes."""
    from idao.tee.envelope import parse

    return parse(case.evidence).blob


NOW = 1_790_000_000_000


TRY = relaxed(STRICT, kinds=("simulated",), least_level="simulated")


DAY = 24 * 3_600_000


def intel(*flaws: str, policy: TeePolicy = TRY) -> AttestationResult:
    e = simulator.intel(NOW, bytes(64), flaws)
    return verifier.appraise(None, simulator.mark(e.evidence), e.files, policy, NOW)


def amd(*flaws: str, policy: TeePolicy = TRY) -> AttestationResult:
    e = simulator.amd(NOW, bytes(64), flaws)
    return verifier.appraise(None, simulator.mark(e.evidence), e.files, policy, NOW)


def claims(**changes: Any) -> binding.Claims:
    base = binding.Claims(1, b"q" * 32, b"i" * 32, b"k" * 32, "validator", b"n" * 32, NOW + DAY)
    return replace(base, **changes)


def own_evidence(c: binding.Claims, bound: binding.Claims | None = None) -> tuple[bytes, tuple[bytes, ...]]:
    """Simulated evidence in idao's envelope that shows `c` and binds `bound`."""
    e = simulator.intel(NOW, binding.report_data(bound or c))
    blob = simulator.mark(e.evidence)
    return canonical.pack(Evidence(1, "simulated", blob, (), canonical.pack(c))), e.files


EXPECTED = binding.Expected(b"q" * 32, b"i" * 32, "validator", (b"k" * 32,), ((b"n" * 32, NOW),))


def own(
    c: binding.Claims,
    expected: binding.Expected = EXPECTED,
    *,
    bound: binding.Claims | None = None,
    at: int = NOW,
) -> AttestationResult:
    data, files = own_evidence(c, bound)
    return verifier.appraise(None, data, files, TRY, at, expected)
