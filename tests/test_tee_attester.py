"""Attesters against faithful stand-ins of what the kernel, the agents and a TPM offer."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from idao.crypto import canonical
from idao.errors import Missing
from idao.tee import attester, binding, simulator, snp, tpm, tpmdevice, verifier
from idao.tee.envelope import Aux, Evidence
from idao.tee.policy import STRICT, relaxed
from idao.tee.result import AttestationResult

NOW = 1_790_000_000_000
CLAIMS = binding.Claims(1, b"q" * 32, b"i" * 32, b"k" * 32, "validator", b"n" * 32, NOW + 3_600_000)
EXPECTED = binding.Expected(b"q" * 32, b"i" * 32, "validator", (b"k" * 32,), ((b"n" * 32, NOW),))
SIMULATED = relaxed(STRICT, kinds=("simulated",), least_level="simulated")


def judged(evidence: Evidence, files: tuple[bytes, ...] = ()) -> AttestationResult:
    return verifier.appraise(None, canonical.pack(evidence), files, STRICT, NOW, EXPECTED)


def binds(evidence: Evidence, files: tuple[bytes, ...] = ()) -> bool:
    checks = [c for c in judged(evidence, files).checks if c.name.startswith(("binding", "claims", "beacon"))]
    return bool(checks) and all(c.ok for c in checks)


def marked(evidence: Evidence, files: tuple[bytes, ...]) -> AttestationResult:
    """The simulator's report, judged as what it is."""
    as_simulated = Evidence(1, "simulated", simulator.mark(evidence.blob), evidence.aux, evidence.claims)
    return verifier.appraise(None, canonical.pack(as_simulated), files, SIMULATED, NOW, EXPECTED)


# --- configfs ------------------------------------------------------------------------------------------


@contextmanager
def fake_configfs(root: Path, provider: str, *, spoil: int = 0, table: bytes = b"") -> Iterator[None]:
    """Fills each new report folder as the kernel does: attributes at mkdir, a blob after the write."""
    folder = root / attester.TSM
    folder.mkdir(parents=True)
    (root / "dev").mkdir(exist_ok=True)
    (root / "dev" / provider.replace("sev_", "sev-")).touch()
    done = threading.Event()
    left = [spoil]
    seen: set[Path] = set()

    def serve() -> None:
        while not done.is_set():
            for entry in list(folder.iterdir()):
                if entry not in seen:  # as the kernel: attributes come with mkdir, and never again
                    seen.add(entry)
                    (entry / "inblob").touch()
                    (entry / "provider").write_text(provider + "\n")
                    (entry / "generation").write_text("0\n")
                elif data := (entry / "inblob").read_bytes():
                    made = (simulator.intel if provider == "tdx_guest" else simulator.amd)(NOW, data)
                    (entry / "inblob").write_bytes(b"")
                    (entry / "outblob").write_bytes(made.evidence)
                    (entry / "auxblob").write_bytes(table)
                    old = int((entry / "generation").read_text())
                    step, left[0] = (2, left[0] - 1) if left[0] > 0 else (1, 0)
                    (entry / "generation").write_text(f"{old + step}\n")
            time.sleep(0.002)

    def serve_until_done() -> None:
        while not done.is_set():
            with contextlib.suppress(FileNotFoundError):  # the report was removed meanwhile
                serve()

    thread = threading.Thread(target=serve_until_done)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize(("provider", "kind"), [("tdx_guest", "tdx"), ("sev_guest", "sev-snp")])
def test_configfs(tmp_path: Path, provider: str, kind: str) -> None:
    with fake_configfs(tmp_path, provider):
        here = attester.devices_here(tmp_path)
        assert here[0].name == "configfs" and here[0].kind == kind
        evidence = attester.attest(CLAIMS, root=tmp_path)
    assert evidence.kind == kind and binds(evidence)
    make = simulator.intel if kind == "tdx" else simulator.amd
    assert marked(evidence, make(NOW).files).accepted
    assert judged(evidence, make(NOW).files).reason == "root"
    assert list((tmp_path / attester.TSM).iterdir()) == []


def test_configfs_asks_again_when_another_writes(tmp_path: Path) -> None:
    with fake_configfs(tmp_path, "tdx_guest", spoil=2):
        assert binds(attester.attest(CLAIMS, root=tmp_path))


def certificate_table(*ders: bytes) -> bytes:
    heads, body, at = b"", b"", 24 * (len(ders) + 1)
    for i, der in enumerate(ders):
        heads += bytes([i + 1] * 16) + struct.pack("<II", at + len(body), len(der))
        body += der
    return heads + bytes(24) + body


def test_configfs_brings_the_certificates(tmp_path: Path) -> None:
    from idao.tee.certs import pem_blocks

    made = simulator.amd(NOW)
    table = certificate_table(*pem_blocks(made.files[0], "CERTIFICATE"))
    with fake_configfs(tmp_path, "sev_guest", table=table):
        evidence = attester.attest(CLAIMS, root=tmp_path)
    assert [a.name for a in evidence.aux] == ["certificate"] * 3
    assert marked(evidence, ()).accepted


# --- ioctls --------------------------------------------------------------------------------------------


def at(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)


def test_sev_guest(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/sev-guest").touch()
    made: list[simulator.Simulated] = []

    def ioctl(fd: int, request: int, address: int) -> int:
        assert os.fstat(fd) and request in (0xC0205300, 0xC0205302)
        version, asked, answer, _ = struct.unpack("<BxxxxxxxQQQ", at(address, 32))
        assert version == 1
        made.append(simulator.amd(NOW, at(asked, 64)))
        assert struct.unpack("<I", at(asked + 64, 4)) == (0,)
        out = struct.pack("<II", 0, len(made[-1].evidence)) + bytes(24) + made[-1].evidence
        ctypes.memmove(answer, out, len(out))
        return 0

    evidence = attester.attest(CLAIMS, root=tmp_path, ioctl=ioctl)
    assert evidence.kind == "sev-snp" and binds(evidence)
    assert marked(evidence, made[-1].files).accepted


def test_sev_guest_refusal_is_said(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/sev-guest").touch()

    def ioctl(fd: int, request: int, address: int) -> int:
        raise OSError(5, "Input/output error")

    with pytest.raises(Missing, match="refused"):
        attester.attest(CLAIMS, root=tmp_path, ioctl=ioctl)


def test_tdx_guest_with_the_hosts_service(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/tdx_guest").touch()

    def ioctl(fd: int, request: int, address: int) -> int:
        assert request == 0xC4405401
        ctypes.memmove(address + 64, at(address, 64).ljust(1024, b"\7"), 1024)
        return 0

    def talk(message: bytes) -> bytes:
        _, _, kind, size, _ = struct.unpack_from("<HHIII", message)
        assert (kind, size) == (0, len(message))
        quoted = simulator.intel(NOW, message[24 : 24 + 64]).evidence
        return struct.pack("<HHIIIII", 1, 0, 1, 24 + len(quoted), 0, 0, len(quoted)) + quoted

    evidence = attester.attest(CLAIMS, root=tmp_path, ioctl=ioctl, talk=talk)
    assert evidence.kind == "tdx" and binds(evidence)


def test_nsm(tmp_path: Path) -> None:
    import cbor2
    from tee_world import cases

    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nsm").touch()
    document = cases()["nitro-1"].evidence

    def ioctl(fd: int, request: int, address: int) -> int:
        assert request == 0xC0200A00
        asked, size, answer, room = struct.unpack("<QQQQ", at(address, 32))
        wanted = cbor2.loads(at(asked, size))["Attestation"]
        assert wanted["user_data"] == binding.report_data(CLAIMS) and room == 0x3000
        out = cbor2.dumps({"Attestation": {"document": document}})
        ctypes.memmove(answer, out, len(out))
        ctypes.memmove(address + 24, struct.pack("<Q", len(out)), 8)
        return 0

    evidence = attester.attest(CLAIMS, root=tmp_path, ioctl=ioctl)
    assert (evidence.kind, evidence.blob) == ("nitro", document)
    assert judged(evidence).reason != "" and not binds(evidence)


# --- agents --------------------------------------------------------------------------------------------


def test_dstack(tmp_path: Path) -> None:
    path = tmp_path / "var/run/dstack.sock"
    path.parent.mkdir(parents=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        peer, _ = server.accept()
        with peer:
            asked = b""
            while b"}" not in asked:
                asked += peer.recv(4096)
            assert asked.startswith(b"POST /GetQuote ")
            data = bytes.fromhex(json.loads(asked.partition(b"\r\n\r\n")[2])["report_data"])
            body = json.dumps({"quote": simulator.intel(NOW, data).evidence.hex(), "event_log": "[]"})
            peer.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + body.encode())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        evidence = attester.attest(CLAIMS, root=tmp_path)
    finally:
        thread.join()
        server.close()
    assert evidence.kind == "tdx" and marked(evidence, simulator.intel(NOW).files).accepted


def test_gramine(tmp_path: Path) -> None:
    folder = tmp_path / "dev/attestation"
    folder.mkdir(parents=True)
    (folder / "quote").write_bytes(b"\3\0\2\0")
    evidence = attester.attest(CLAIMS, root=tmp_path)
    assert evidence.kind == "sgx"
    assert (folder / "user_report_data").read_bytes() == binding.report_data(CLAIMS)


# --- TPM -----------------------------------------------------------------------------------------------


def listens(sock: Path) -> bool:
    """Whether who made this socket also takes calls: a moment lies between the two (SO_ACCEPTCON)."""
    rows = (row.split() for row in Path("/proc/net/unix").read_text().splitlines())
    return any(row[-1] == str(sock) and int(row[3], 16) & 0x10000 for row in rows)


@pytest.fixture
def swtpm(tmp_path: Path) -> Iterator[Path]:
    if not shutil.which("swtpm"):
        pytest.skip("swtpm is not installed")
    state, sock = tmp_path / "state", tmp_path / "dev/tpmrm0"
    state.mkdir()
    sock.parent.mkdir()
    done = subprocess.Popen(
        [
            *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}"),
            *("--server", f"type=unixio,path={sock}", "--flags", "not-need-init"),
        ],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not listens(sock):
        assert done.poll() is None, "swtpm ended"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield sock
    done.terminate()
    done.wait()


def test_a_software_tpm_quotes(swtpm: Path, tmp_path: Path) -> None:
    evidence = attester.attest(CLAIMS, root=tmp_path)
    assert evidence.kind == "tpm" and binds(evidence)
    result = judged(evidence)
    assert (result.level, result.accepted) == ("simulated", False)
    policy = relaxed(STRICT, kinds=("tpm",), least_level="simulated")
    packed = canonical.pack(evidence)
    assert verifier.appraise(None, packed, (), policy, NOW, EXPECTED).accepted
    thief = binding.Expected(keys=(b"t" * 32,))
    assert verifier.appraise(None, packed, (), policy, NOW, thief).reason == "binding"


def test_a_tpm_that_measured_something_is_unrooted(swtpm: Path) -> None:
    talk = tpmdevice.device(str(swtpm))
    # TPM2_PCR_Extend of register 0, SHA-256.
    body = struct.pack(">I", 0) + tpmdevice.EMPTY_AUTH + struct.pack(">IH", 1, 0x000B) + b"\1" * 32
    tpmdevice.run(talk, 0x182, body, sessions=True)
    first = tpmdevice.quote(talk, b"x" * 64)
    second = tpmdevice.quote(talk, b"y" * 64)
    assert first.public == second.public and any(first.pcrs[0])
    from idao.tee.envelope import Aux

    aux = (Aux("signature", first.signature), Aux("public", first.public))
    pcrs = tuple(Aux(f"pcr{n}", v) for n, v in enumerate(first.pcrs))
    evidence = canonical.pack(Evidence(1, "tpm", first.attest, aux + pcrs, b""))
    assert verifier.appraise(None, evidence, (), STRICT, NOW).level == "tpm-unrooted"
    wrong = (Aux("pcr0", bytes(32)), *pcrs[1:])
    evidence = canonical.pack(Evidence(1, "tpm", first.attest, aux + wrong, b""))
    assert verifier.appraise(None, evidence, (), STRICT, NOW).reason == "pcr-digest"


def test_storage_of_a_tpm_is_read_in_pieces(swtpm: Path) -> None:
    """Azure's paravisor leaves its report there."""
    talk, size = tpmdevice.device(str(swtpm)), 1500
    owner_may_read_and_write = 1 << 1 | 1 << 17 | 1 << 25
    public = struct.pack(">IHIHH", tpmdevice.AZURE_USER_DATA, 0x000B, owner_may_read_and_write, 0, size)
    body = struct.pack(">I", tpmdevice.OWNER) + tpmdevice.EMPTY_AUTH + struct.pack(">HH", 0, len(public))
    tpmdevice.run(talk, 0x12A, body + public, sessions=True)  # TPM2_NV_DefineSpace
    tpmdevice.nv_write(talk, tpmdevice.AZURE_USER_DATA, b"a" * 64)
    data = tpmdevice.nv_read(talk, tpmdevice.AZURE_USER_DATA)
    assert len(data) == size and data[:64] == b"a" * 64


def test_another_key_makes_other_evidence_of_the_same_quote(swtpm: Path) -> None:
    from idao.tee.envelope import Aux

    quoted = tpmdevice.quote(tpmdevice.device(str(swtpm)), b"x" * 64)
    thief = simulator._secret("thief")
    raw, point = simulator._raw(thief, quoted.attest), simulator._point(thief)
    signature = b"\0\x18\0\x0b\0\x20" + raw[:32] + b"\0\x20" + raw[32:]
    public = quoted.public[:-68] + b"\0\x20" + point[:32] + b"\0\x20" + point[32:]
    ids = []
    for s, p in ((quoted.signature, quoted.public), (signature, public)):
        aux = (Aux("signature", s), Aux("public", p))
        result = verifier.appraise(
            None, canonical.pack(Evidence(1, "tpm", quoted.attest, aux, b"")), (), STRICT, NOW
        )
        assert result.level == "simulated"
        ids.append(result.evidence_id)
    assert ids[0] != ids[1]


# --- nothing -------------------------------------------------------------------------------------------


def test_a_bare_machine_cannot_attest(tmp_path: Path) -> None:
    assert attester.devices_here(tmp_path) == []
    with pytest.raises(Missing) as e:
        attester.attest(CLAIMS, root=tmp_path)
    assert e.value.exit_code == 7


def test_no_environment_makes_a_simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDAO_TEE", "IDAO_SIMULATE", "DSTACK_SIMULATOR_ENDPOINT", "TEE_SIMULATE", "IDAO_TEE_KIND"):
        monkeypatch.setenv(name, "simulated")
    with pytest.raises(Missing):
        attester.attest(CLAIMS, root=tmp_path)


@pytest.mark.parametrize("shape", ["tdx", "sev-snp"])
def test_the_simulator_is_asked_by_name(shape: str) -> None:
    evidence = attester.simulate(CLAIMS, NOW, shape)
    packed = canonical.pack(evidence)
    assert verifier.appraise(None, packed, (), SIMULATED, NOW, EXPECTED).accepted
    assert verifier.appraise(None, packed, (), STRICT, NOW, EXPECTED).reason == "simulated"


def test_certificate_table_that_points_outside_is_refused() -> None:
    from idao.errors import Malformed

    with pytest.raises(Malformed):
        snp.certificate_table(b"\1" * 16 + struct.pack("<II", 24, 9999) + bytes(24))


# --- other keys and banks of a TPM -------------------------------------------------------------------

RSA, SHA1, SHA256, SHA384 = 0x0001, 0x0004, 0x000B, 0x000C


def rsa_key(talk: tpmdevice.Talk, scheme: int) -> tuple[int, bytes]:
    """A restricted RSA-2048 signing key of the endorsement hierarchy."""
    attributes = tpm.MUST | 1 << 6
    public = struct.pack(">HHIHHHHHIH", RSA, SHA256, attributes, 0, 0x0010, scheme, SHA256, 2048, 0, 0)
    body = struct.pack(">I", tpmdevice.ENDORSEMENT) + tpmdevice.EMPTY_AUTH + struct.pack(">HHH", 4, 0, 0)
    body += struct.pack(">H", len(public)) + public + struct.pack(">HI", 0, 0)
    r = tpm.Reader(tpmdevice.run(talk, tpmdevice.CREATE_PRIMARY, body, sessions=True))
    handle = r.number(4)
    r.number(4)
    return handle, r.sized()


def bank_quote(talk: tpmdevice.Talk, handle: int, *banks: int) -> tuple[bytes, bytes]:
    """A quote of registers 0 and 7 of some banks."""
    chosen = struct.pack(">I", len(banks)) + b"".join(struct.pack(">HB", b, 3) + b"\x81\0\0" for b in banks)
    body = struct.pack(">I", handle) + tpmdevice.EMPTY_AUTH + struct.pack(">H", 3) + b"abc"
    body += tpmdevice.NULL_SCHEME + chosen
    r = tpm.Reader(tpmdevice.run(talk, tpmdevice.QUOTE, body, sessions=True))
    inner = tpm.Reader(r.take(r.number(4)))
    attest = inner.sized()
    return attest, inner.data[inner.pos :]


def quoted_by(public: bytes, quoted: tuple[bytes, bytes], *more: Aux) -> AttestationResult:
    aux = (Aux("signature", quoted[1]), Aux("public", public), *more)
    policy = relaxed(STRICT, kinds=("tpm",), least_level="simulated")
    return verifier.appraise(None, canonical.pack(Evidence(1, "tpm", quoted[0], aux, b"")), (), policy, NOW)


@pytest.mark.parametrize("scheme", [tpm.RSASSA, tpm.RSAPSS])
def test_an_rsa_key_of_a_tpm_quotes(swtpm: Path, scheme: int) -> None:
    talk = tpmdevice.device(str(swtpm))
    handle, public = rsa_key(talk, scheme)
    quoted = tpmdevice.quote_with(talk, handle, b"x" * 64, tpmdevice.PCRS)
    pcrs = tuple(Aux(f"pcr{n}", v) for n, v in enumerate(tpmdevice.read_pcrs(talk, tpmdevice.PCRS)))
    assert quoted_by(public, quoted, *pcrs).accepted
    bent = quoted[1][:-1] + bytes([quoted[1][-1] ^ 1])
    assert quoted_by(public, (quoted[0], bent), *pcrs).reason == "signature"
    elsewhere = (Aux("pcr3", b"\1" * 32),)
    assert quoted_by(public, quoted, *pcrs[:3], *elsewhere, *pcrs[4:]).reason == "pcr-digest"


def test_banks_of_a_tpm(swtpm: Path) -> None:
    talk = tpmdevice.device(str(swtpm))
    handle, public = tpmdevice.create_key(talk)
    for banks, reason in (
        ((SHA256,), ""), ((SHA384,), ""), ((SHA256, SHA384), ""),
        ((SHA1,), "sha1"), ((SHA1, SHA256), "sha1"), ((SHA256, SHA1), "sha1"),
    ):  # fmt: skip
        try:
            quoted = bank_quote(talk, handle, *banks)
        except Missing:
            pytest.skip("this software TPM has no such bank")
        selected = {bank for bank, numbers in tpm.parse_attest(quoted[0]).selection if numbers}
        if not set(banks) <= selected:  # a bank that is switched off is left out of the quote
            continue
        result = quoted_by(public, quoted)
        assert result.reason == reason, (banks, result.checks)


def test_a_cold_software_tpm_is_named_in_the_answer(tmp_path: Path) -> None:
    with pytest.raises(Missing) as e:
        tpmdevice.quote(tpmdevice.device(str(tmp_path / "none")), b"x")
    assert e.value.exit_code == 7
