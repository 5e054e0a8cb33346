"""Bad bytes: every length, and mutations of every format. No exception, and nothing wrong is accepted.

A mutation may only be accepted where a format leaves bytes unsigned; it is then the same evidence.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable

import pytest
from tee_world import Case, binary, cases

from idao.tee import simulator, verifier
from idao.tee.given import Given
from idao.tee.policy import STRICT, relaxed
from idao.tee.result import KINDS, AttestationResult

NOW = 1_790_000_000_000
WIDE = relaxed(
    STRICT,
    kinds=tuple(k for k in KINDS if k != "simulated"),
    amd_products=("milan", "genoa", "turin"),
    intel_statuses=("UpToDate", "OutOfDate", "SWHardeningNeeded"),
    least_level="simulated",
)
"""Accepts every sound case, so that a mutation has something to win."""
FORMATS = ("sgx-2", "tdx-1", "tdx-7", "snp-3", "nitro-1", "az-snp-1", "az-tdx-1", "tpm-1", "cca-2", "nv-1")
QUICK = 40
SLOW = int(os.environ.get("IDAO_FUZZ_ROUNDS", "5000"))
"""Mutations of each format; 100,000 take half an hour: `IDAO_FUZZ_ROUNDS=100000 pytest -m slow …`."""
SEED = int(os.environ.get("IDAO_FUZZ_SEED", "20261123"))


def judge(case: Case, data: bytes) -> AttestationResult:
    from idao.tee.collateral import expand

    files: Given = _FILES.setdefault(case.id, expand(case.files))
    result = verifier.appraise(None, data, files, WIDE, case.at)
    assert not any(c.detail.startswith(verifier.UNEXPECTED) for c in result.checks), data.hex()
    return result


_FILES: dict[str, Given] = {}


def mutate(data: bytes, chance: random.Random) -> bytes:
    raw = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        at = chance.randrange(len(raw))
        kind = chance.randrange(6)
        if kind <= 2:
            raw[at] ^= 1 << chance.randrange(8)
        elif kind == 3:
            raw[at] = chance.choice((0, 0xFF, 0x7F, 0x80, chance.randrange(256)))
        elif kind == 4:
            del raw[at : at + chance.choice((1, 2, 16))]
        else:
            raw[at:at] = chance.randbytes(chance.choice((1, 2, 16)))
        if not raw:
            raw = bytearray(b"\0")
    return bytes(raw)


def pounded(case: Case, data: bytes, count: int, wrap: Callable[[bytes], bytes] = lambda b: b) -> None:
    whole = judge(case, wrap(data))
    chance = random.Random(f"{SEED} {case.id}")
    for _ in range(count):
        bad = mutate(data, chance)
        result = judge(case, wrap(bad))
        if result.accepted:
            assert result.evidence_id == whole.evidence_id, bad.hex()
            assert (result.bound, result.measurements) == (whole.bound, whole.measurements)
        else:
            assert result.reason and result.level in ("none", "simulated", "tpm-unrooted")


def source(name: str) -> bytes:
    """Vendor bytes where they are one blob; the JSON text where evidence is several."""
    case = cases()[name]
    return case.evidence if name in ("az-snp-1", "az-tdx-1", "tpm-1") else binary(case)


@pytest.mark.parametrize("name", FORMATS)
def test_sound_under_the_wide_policy(name: str) -> None:
    result = judge(cases()[name], source(name))
    assert result.accepted == (name != "nv-1"), result.reason


@pytest.mark.parametrize("name", FORMATS)
def test_some_mutations(name: str) -> None:
    pounded(cases()[name], source(name), QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_many_mutations(name: str) -> None:
    pounded(cases()[name], source(name), SLOW)


def lengths(size: int, every: int) -> list[int]:
    return sorted({*range(min(size, 64)), *range(0, size, every), *range(max(0, size - 8), size)})


@pytest.mark.parametrize("name", FORMATS)
def test_cut_at_some_lengths(name: str) -> None:
    cut_everywhere(name, every=173)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_cut_at_every_length(name: str) -> None:
    cut_everywhere(name, every=1)


def cut_everywhere(name: str, every: int) -> None:
    case, data = cases()[name], source(name)
    whole = judge(case, data)
    for n in lengths(len(data), every):
        result = judge(case, data[:n])
        # Only padding behind a quote, or white space behind JSON, may be cut.
        assert not result.accepted or result.evidence_id == whole.evidence_id, n


@pytest.mark.parametrize(
    "part", ["tcb_info", "qe_identity", "pck_crl", "root_ca_crl", "tcb_info_issuer_chain"]
)
def test_mutated_collateral(part: str) -> None:
    mutated_collateral(part, 25)


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    ["tcb_info", "qe_identity", "pck_crl", "root_ca_crl", "tcb_info_issuer_chain", "tcb_info_signature"],
)
def test_much_mutated_collateral(part: str) -> None:
    mutated_collateral(part, SLOW // 10)


def mutated_collateral(part: str, count: int) -> None:
    case, chance = cases()["tdx-1"], random.Random(f"{SEED} {part}")
    value = json.loads(case.files[0])
    sound = judge(case, source("tdx-1"))
    for _ in range(count):
        bad = mutate(value[part].encode(), chance).decode("latin-1")
        file = json.dumps({**value, part: bad}).encode()
        result = verifier.appraise(None, case.evidence, (file,), WIDE, case.at)
        assert not any(c.detail.startswith(verifier.UNEXPECTED) for c in result.checks), file
        if result.accepted:  # a root repeated in a chain, or its white space
            assert (result.tcb_status, result.evidence_id) == (sound.tcb_status, sound.evidence_id)


def test_random_bytes_are_nothing() -> None:
    chance = random.Random(SEED)
    for size in (0, 1, 4, 48, 145, 1184, 5006):
        for head in (
            b"",
            b"\x04\0\x02\0\x81\0\0\0",
            b"\x84\x44\xa1\x01\x38\x22",
            b"\xffTCG\x80\x18",
            b"HCLA",
            b"\xa5\x61v",
        ):
            data = (head + chance.randbytes(size))[: max(size, len(head))]
            assert not verifier.appraise(None, data, (), WIDE, NOW).accepted


def test_mutated_certificates_of_a_chip() -> None:
    made, chance = simulator.amd(NOW), random.Random(SEED)
    policy = relaxed(STRICT, kinds=("simulated",), least_level="simulated")
    for _ in range(QUICK):
        files = (mutate(made.files[0], chance), made.files[1])
        result = verifier.appraise(None, simulator.mark(made.evidence), files, policy, NOW)
        assert result.reason or result.accepted


@pytest.mark.parametrize("at", [0, 1, 2**31 * 1000, 2**53, 2**63 - 1])
@pytest.mark.parametrize("name", FORMATS)
def test_any_time_gives_a_verdict(name: str, at: int) -> None:
    assert cases()[name].judge(at=at).kind
