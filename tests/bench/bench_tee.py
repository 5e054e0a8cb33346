"""What judging evidence costs, as ratios in one run.

    python tests/bench/bench_tee.py [--rounds 30] [--cold 7] [--tpm-peer PATH]

Each kind of evidence beside the fastest verifier at hand: `dcap-qvl` alone for Intel; for the others a bare
check of the same chain and signature with `cryptography`, below which no verifier can go; for a TPM also
go-attestation, if PATH is `tpm_peer.go` built. Certificates are parsed anew each time on both sides. Then a
proof with twenty attested cosigners in a new process, beside the same proof without evidence and a bare
interpreter.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import _lru_cache_wrapper, cache
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tee_proof import SIMULATED, many
from tee_world import Case, binary, cases

from idao.tee import certs, cose, quote, roots, snp, tpm
from idao.tee.collateral import expand
from idao.tee.envelope import parse
from idao.tee.policy import dump

SHA256 = 0x000B
"""TPM_ALG_SHA256."""


@cache
def memories() -> list[Any]:
    """What remembers certificates and collateral in the TEE room, not policies. Found once, after a first
    judgement has loaded all modules: a walk over all objects would leave the processor's caches cold."""
    return [
        one
        for one in gc.get_objects()
        if isinstance(one, _lru_cache_wrapper)
        and str(one.__module__).startswith("idao.tee")
        and one.__module__ != "idao.tee.policy"
    ]


def forget() -> None:
    for one in memories():
        one.cache_clear()


def intel_alone(case: Case) -> Callable[[], Any]:
    import dcap_qvl

    raw, text = quote.parse(binary(case)).raw, case.files[0].decode()
    now, judge = case.at // 1000, dcap_qvl.QuoteVerifier()

    def run() -> Any:
        collateral = dcap_qvl.QuoteCollateralV3.from_json(text)
        neutral = dcap_qvl.QuotePolicy.claims_only(now)
        return json.loads(judge.verify_with_policy(raw, collateral, now, neutral).to_json())

    return run


def bare(chain: list[bytes], sign: Callable[[Any], bool]) -> Callable[[], Any]:
    """Each certificate read and verified by the next, and the signature by the first."""
    import warnings

    from cryptography import x509

    warnings.filterwarnings("ignore", message=".*serial number.*")

    def run() -> None:
        loaded = [x509.load_der_x509_certificate(d) for d in chain]
        for one, issuer in zip(loaded, [*loaded[1:], loaded[-1]], strict=True):
            one.verify_directly_issued_by(issuer)
        assert sign(loaded[0])

    return run


def floor_of(case: Case) -> Callable[[], Any]:
    data = binary(case)
    given = expand(case.files).joined(parse(case.evidence).given)
    if case.id.startswith("snp"):
        signature = snp.parse(data).signature
        leaf, rest = given.certificates[0], given.certificates[1:]
        first = (
            [rest[0], rest[1]] if certs.load(rest[0]).issuer != certs.load(rest[0]).subject else rest[::-1]
        )
        return bare(
            [leaf, *first], lambda c: certs.ecdsa_raw(c.public_key(), signature, data[: snp.SIGNED], "sha384")
        )
    if case.id.startswith("nitro"):
        doc = cose.sign1(cose.read(data))
        fields = cose.read(doc.payload, open_ended=True)
        return bare(
            [fields["certificate"], *fields["cabundle"][::-1]],
            lambda c: doc.verifies(c.public_key(), "sha384"),
        )
    if case.id.startswith("nv"):
        return bare(
            list(given.certificates[:5]),
            lambda c: certs.ecdsa_raw(c.public_key(), data[-96:], data[:-96], "sha384"),
        )
    parts = parse(case.evidence).tpm
    assert parts is not None
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    def run() -> None:
        assert parts is not None
        key = load_der_public_key(parts.spki)
        assert tpm.verifies(key, tpm.parse_signature(parts.signature), parts.attest)

    return run


def tpm_peer(binary: str, case: Case) -> float:
    """Seconds that `tpm_peer.go` takes for the quote, and for the chain of its key where there is one."""
    found, given = parse(case.evidence), expand(case.files)
    parts = found.tpm
    assert parts is not None
    key = parts.spki or tpm.spki_der(tpm.parse_public(parts.public)[0])
    files = {
        "quote": parts.attest,
        "signature": parts.signature,
        "key": key,
        "nonce": tpm.parse_attest(parts.attest).extra,
        "pcrs": "".join(f"{n} {value.hex()}\n" for bank, n, value in parts.pcrs if bank == SHA256).encode(),
    }
    chain = [parts.certificate, *given.certificates] if parts.certificate else []
    files |= {f"cert{i}": c for i, c in enumerate(chain)}
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            Path(folder, name).write_bytes(data)
        ran = subprocess.run([binary, folder], check=True, capture_output=True, text=True)
    return float(ran.stdout) / 1e6


def measured(run: Callable[[], Any], rounds: int, clear: bool) -> float:
    times = []
    for _ in range(rounds):
        if clear:
            forget()
        begun = time.process_time()
        run()
        times.append(time.process_time() - begun)
    return statistics.median(times)


def cold(command: list[str], rounds: int) -> float:
    """Median CPU seconds (user and system) of a new process."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    times, before = [], getrusage(RUSAGE_CHILDREN)
    for turn in range(rounds + 1):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)
        after = getrusage(RUSAGE_CHILDREN)
        if turn:  # the first writes bytecode
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        before = after
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--cold", type=int, default=7)
    parser.add_argument("--tpm-peer", default="")
    asked = parser.parse_args()
    assert roots.certificates("amd")
    for name in ("tdx-1", "tdx-7", "sgx-2", "snp-3", "snp-1", "nitro-1", "tpm-1", "nv-1"):
        case = cases()[name]
        beside = intel_alone(case) if name.startswith(("tdx", "sgx")) else floor_of(case)
        what = "dcap-qvl alone" if name.startswith(("tdx", "sgx")) else "bare chain and signature"
        floor = measured(beside, asked.rounds, clear=False)
        fresh = measured(case.judge, asked.rounds, clear=True)
        again = measured(case.judge, asked.rounds, clear=False)
        print(f"{name:<8} {fresh / floor:5.2f} x {what}; {again / floor:5.2f} x when authorities are known")
    for name in ("tpm-1", "tpm-2") if asked.tpm_peer else ():
        judge, floor = cases()[name].judge, tpm_peer(asked.tpm_peer, cases()[name])
        fresh, again = (measured(judge, asked.rounds, clear) for clear in (True, False))
        print(f"{name:<8} {fresh / floor:5.2f} x go-attestation; {again / floor:5.2f} x when they are known")
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder, "policy.json")
        policy.write_text(dump(SIMULATED))
        words = [sys.executable, "-m", "idao", "--home", f"{folder}/none", "verify"]
        for backed in (0, 20):
            Path(folder, str(backed)).mkdir()
            Path(folder, f"{backed}.proof").write_bytes(many(Path(folder, str(backed)), 20, backed))
        start = cold([sys.executable, "-c", "pass"], asked.cold)
        unbacked = cold([*words, f"{folder}/0.proof"], asked.cold)
        demand = ["--tee-policy", str(policy), "--require", "simulated:20"]
        attested = cold([*words, f"{folder}/20.proof", *demand], asked.cold)
    print(f"proof of 20 attested: {attested / unbacked:.2f} x the same without evidence")
    print(
        f"beyond a bare interpreter: {1000 * (attested - start):.0f} ms; {1000 * (unbacked - start):.0f} ms"
    )


if __name__ == "__main__":
    main()
