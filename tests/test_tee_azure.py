"""A paravisor of our own making: the simulated chip vouches for runtime data, an RSA key quotes registers."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from idao.errors import Malformed
from idao.tee import azure, roots, simulator, snp
from idao.tee.given import sort_files
from idao.tee.policy import STRICT, relaxed
from idao.tee.result import Findings

NOW = 1_790_000_000_000
PCRS = tuple(bytes([n]) * 32 for n in range(24))
POLICY = relaxed(STRICT, kinds=("azure-snp",))


@cache
def key(name: str = "vtpm") -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def _number(value: int) -> str:
    raw = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def runtime(signer: str = "vtpm", **more: Any) -> bytes:
    numbers = key(signer).public_key().public_numbers()
    jwk = {"kid": "HCLAkPub", "kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
    return json.dumps({"keys": [jwk], **more}).encode()


def quoted(extra: bytes, selected: int = 0xFFFFFF, bank: int = 0x000B) -> bytes:
    """TPMS_ATTEST of a quote."""
    digest = hashlib.sha256(b"".join(PCRS[n] for n in range(24) if selected >> n & 1)).digest()
    attest = b"\xffTCG\x80\x18" + struct.pack(">H", 2) + b"ak" + struct.pack(">H", len(extra)) + extra
    attest += struct.pack(">QIIBQ", 1, 2, 3, 1, 4) + struct.pack(">IHB", 1, bank, 3)
    return attest + selected.to_bytes(3, "little") + struct.pack(">H", 32) + digest


def judged(
    *,
    extra: bytes = b"x" * 64,
    data: bytes = b"",
    bound: bytes | None = None,
    signer: str = "vtpm",
    pcrs: tuple[bytes, ...] = PCRS,
    attest: bytes = b"",
    kind: str = "azure-snp",
) -> Findings:
    data = data or runtime()
    report_data = hashlib.sha256(data).digest() + bytes(32) if bound is None else bound
    chip = simulator.amd(NOW, report_data)
    head = b"HCLA" + bytes(28)
    hcl = (
        head
        + chip.evidence
        + struct.pack("<5I", 20 + len(data), 1, azure.SNP_REPORT, azure.SHA256, len(data))
    )
    attest = attest or quoted(extra)
    signature = key(signer).sign(attest, padding.PKCS1v15(), hashes.SHA256())
    parts = azure.Parts(hcl + data, attest, signature, pcrs, b"", ())
    found = Findings(kind)
    azure.judge(found, parts, sort_files(chip.files), POLICY, NOW, roots.SIMULATED)
    return found


def failed(found: Findings) -> list[str]:
    return [c.code for c in found.checks if not c.ok]


def test_a_sound_one() -> None:
    found = judged(data=runtime(**{"user-data": "ab" * 64}))
    assert failed(found) == [] and found.level == "tee"
    assert found.bound == (b"x" * 64, b"\xab" * 64)
    assert found.measurements["pcr4"] == PCRS[4].hex() and "paravisor_measurement" in found.measurements
    assert len(found.region) == snp.SIGNED + len(quoted(b"x" * 64))


@pytest.mark.parametrize(
    ("how", "codes"),
    [
        (lambda: {"extra": b""}, ["nonce"]),
        (lambda: {"signer": "stranger"}, ["signature"]),
        (lambda: {"bound": bytes(64)}, ["binding"]),
        (lambda: {"bound": hashlib.sha256(runtime()).digest() + b"\1" * 32}, ["binding"]),
        (lambda: {"data": runtime("stranger")}, ["signature"]),
        (lambda: {"pcrs": (b"\7" * 32, *PCRS[1:])}, ["pcr-digest"]),
        (lambda: {"pcrs": PCRS[:8]}, ["pcr-digest"]),
        (lambda: {"attest": quoted(b"x", bank=0x0004)}, ["sha1", "pcr-digest"]),
    ],
)
def test_a_link_that_does_not_hold(how: Callable[[], dict[str, Any]], codes: list[str]) -> None:
    assert failed(judged(**how())) == codes


def test_registers_that_were_not_quoted_are_not_shown() -> None:
    found = judged(attest=quoted(b"x", selected=0b10000))
    assert failed(found) == [] and "pcr4" in found.measurements and "pcr5" not in found.measurements


@pytest.mark.parametrize(
    "data", [b"[]", b"not json", b"{}", b'{"keys": []}', b'{"keys": 1}', b'{"keys": [{"kid": "HCLAkPub"}]}']
)
def test_runtime_data_of_another_form(data: bytes) -> None:
    with pytest.raises(Malformed):
        judged(data=data)


def hcl(
    data: bytes, *, magic: bytes = b"HCLA", size: int | None = None, kind: int = 0, algorithm: int = 0
) -> bytes:
    size = len(data) if size is None else size
    fields = (20 + size, 1, kind or azure.SNP_REPORT, algorithm or azure.SHA256, size)
    return (
        magic.ljust(azure.HARDWARE, b"\0")
        + bytes(azure.RUNTIME - azure.HARDWARE)
        + struct.pack("<5I", *fields)
        + data
    )


def test_an_hcl_report_of_another_shape() -> None:
    data = runtime()
    assert azure.parse_hcl(hcl(data) + bytes(9)).runtime == data
    for raw in (
        hcl(data, magic=b"HCLB"),
        hcl(b"")[: azure.RUNTIME + 19],
        hcl(data, size=len(data) + 1),
        hcl(data, kind=3),
        hcl(data, algorithm=2),
        hcl(data) + bytes(9) + b"\1",
    ):
        with pytest.raises(Malformed):
            azure.parse_hcl(raw)


def test_evidence_of_the_other_hardware_than_its_name() -> None:
    with pytest.raises(Malformed, match="other hardware"):
        judged(kind="azure-tdx")
