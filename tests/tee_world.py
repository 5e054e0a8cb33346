"""Evidence for the tests of the TEE room: the vectors, as the command line would hand them over."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from idao.tee.binding import Expected
from idao.tee.policy import STRICT, TeePolicy
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
