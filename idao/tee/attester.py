"""Asks this machine for evidence: which devices there are, and what they sign.

Every path lies under `root`, so that a stand-in of the kernel's interface can be tried. Nothing is ever
simulated here unless the caller names the simulator: no environment variable does.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from idao.crypto import canonical
from idao.errors import Busy, Malformed, Missing, UsageError
from idao.frozen import frozen
from idao.tee import devices, snp, tpmdevice
from idao.tee.binding import Claims, report_data
from idao.tee.envelope import EVIDENCE_BYTES_MAX, Aux, Evidence

TSM = "sys/kernel/config/tsm/report"
TSM_TRIES, TSM_WAITS, TSM_WAIT_S = 5, 100, 0.01
"""A report can be spoilt by another writer: asked for again; a second in all for a slow provider."""
PROVIDERS = {"tdx_guest": "tdx", "sev_guest": "sev-snp", "arm_cca_guest": "cca"}
DSTACK = ("var/run/dstack.sock", "run/dstack.sock", "var/run/dstack/dstack.sock")
GRAMINE = "dev/attestation"
ANSWER_MAX = 1024 * 1024
"""dstack's answer holds the quote and an event log of some 100 kB."""
NEVER = ("none", "nothing on this machine can attest")


@frozen
class Device:
    """A way to get evidence here. `usable` is whether this process may; `note` says what it means."""

    name: str
    kind: str
    path: str
    usable: bool
    note: str


_NOTES = {
    "dstack": "a TDX guest of dstack: the agent quotes for this container",
    "configfs": "a confidential guest: the kernel quotes for root",
    "sev-guest": "an AMD SEV-SNP guest: reports by ioctl",
    "tdx-guest": "an Intel TDX guest: needs the host's quote service",
    "nsm": "an AWS Nitro enclave: documents that live three hours",
    "gramine": "an SGX enclave of Gramine",
    "azure": "an Azure confidential VM: the paravisor attests, the vTPM quotes the guest",
    "tpm": "a TPM: shows a key that cannot be copied, never counts as a TEE",
}
ORDER = tuple(_NOTES)
"""From the best evidence to the least."""


def devices_here(root: Path = Path("/")) -> list[Device]:
    """What this machine has, best first. Empty: it cannot attest."""
    out = []
    for name, path, kind in _candidates(root):
        usable = os.access(path, os.R_OK | os.W_OK)
        out.append(Device(name, kind, f"/{path.relative_to(root)}", usable, _NOTES[name]))
    return out


def _candidates(root: Path) -> list[tuple[str, Path, str]]:
    out = [("dstack", root / p, "tdx") for p in DSTACK if (root / p).is_socket()][:1]
    if (root / TSM).is_dir():
        kind = "tdx" if (root / "dev/tdx_guest").exists() else "sev-snp"
        if (root / "dev/tdx_guest").exists() or (root / "dev/sev-guest").exists():
            out.append(("configfs", root / TSM, kind))
    for name, place, kind in (
        ("sev-guest", "dev/sev-guest", "sev-snp"),
        ("tdx-guest", "dev/tdx_guest", "tdx"),
        ("nsm", "dev/nsm", "nitro"),
        ("gramine", f"{GRAMINE}/quote", "sgx"),
    ):
        if (root / place).exists():
            out.append((name, root / place, kind))
    vtpm = next((root / p for p in ("dev/tpmrm0", "dev/tpm0") if (root / p).exists()), None)
    if vtpm is not None:
        if _is_azure(root):
            out.append(("azure", vtpm, "azure-snp"))
        out.append(("tpm", vtpm, "tpm"))
    return out


def _is_azure(root: Path) -> bool:
    """Azure puts its tag into the DMI tables of every VM."""
    try:
        return (root / "sys/class/dmi/id/chassis_asset_tag").read_text().strip() == (
            "7783-7084-3265-9085-8269-3286-77"
        )
    except OSError:
        return False


def attest(
    claims: Claims,
    *,
    device: str | None = None,
    root: Path = Path("/"),
    ioctl: devices.Ioctl = devices.kernel_ioctl,
    talk: Callable[[bytes], bytes] = devices.talk_vsock,
) -> Evidence:
    """Evidence that binds `claims`, from the named device or the best one here.

    `device` is a name of `ORDER`, or `tpm:` and a path, a socket or host:port of a TPM. `Missing` (exit
    code 7) if there is none. The caller judges it before using it: a device is untrusted here too.
    """
    if device == "tpm:":
        raise UsageError("'tpm:' wants a place", hint="such as tpm:/dev/tpmrm0 or tpm:localhost:2321")
    if device is not None and device.startswith("tpm:"):
        blob, aux = from_tpm(device.removeprefix("tpm:"), report_data(claims))
        return Evidence(1, "tpm", blob, tuple(aux), canonical.pack(claims))
    here = {d.name: d for d in devices_here(root)}
    if device is not None and device not in ORDER:
        raise UsageError(f"no such device: {device}", hint=f"one of {', '.join(ORDER)}")
    chosen = here.get(device) if device else next((d for d in here.values() if d.usable), None)
    if chosen is None:
        least = next(iter(here.values()), None)
        hint = f"{least.path} is there: run as root" if least else "see 'idao tee status'"
        raise Missing(NEVER[1] if not device else f"this machine has no {device}", hint=hint)
    path = root / chosen.path.lstrip("/")
    blob, aux, kind = _ask(chosen, path, report_data(claims), ioctl, talk)
    return Evidence(1, kind, blob, tuple(aux), canonical.pack(claims))


def _ask(
    chosen: Device,
    path: Path,
    data: bytes,
    ioctl: devices.Ioctl,
    talk: Callable[[bytes], bytes],
) -> tuple[bytes, list[Aux], str]:
    """(vendor bytes, what belongs to them, kind)."""
    name = chosen.name
    if name == "configfs":
        return from_configfs(path, data)
    if name == "dstack":
        return from_dstack(path, data), [], "tdx"
    if name == "sev-guest":
        report, table = devices.snp_report(path, data, ioctl)
        return report, _certificates(table), "sev-snp"
    if name == "tdx-guest":
        return devices.td_quote(devices.td_report(path, data, ioctl), talk), [], "tdx"
    if name == "nsm":
        return devices.nsm_document(path, data, ioctl), [], "nitro"
    if name == "gramine":
        (path.parent / "user_report_data").write_bytes(data)
        return path.read_bytes(), [], "sgx"
    if name == "azure":
        azure = tpmdevice.azure_quote(tpmdevice.device(str(path)), data)
        aux = [Aux("attest", azure.attest), Aux("signature", azure.signature), *_pcr_parts(azure.pcrs)]
        return azure.hcl, aux, "azure-snp"
    return *from_tpm(str(path), data), "tpm"


def from_tpm(place: str, data: bytes) -> tuple[bytes, list[Aux]]:
    """A quote over 64 bytes by a TPM, and its signature, key and registers."""
    quoted = tpmdevice.quote(tpmdevice.device(place), data)
    aux = [Aux("signature", quoted.signature), Aux("public", quoted.public), *_pcr_parts(quoted.pcrs)]
    return quoted.attest, aux


def _pcr_parts(pcrs: tuple[bytes, ...]) -> list[Aux]:
    return [Aux(f"pcr{n}", value) for n, value in zip(tpmdevice.PCRS, pcrs, strict=True)]


def _certificates(table: bytes) -> list[Aux]:
    return [Aux("certificate", der) for der in snp.certificate_table(table)] if table else []


# --- configfs-tsm (kernel ABI text configfs-tsm-report) --------------------


def from_configfs(folder: Path, data: bytes) -> tuple[bytes, list[Aux], str]:
    """(report or quote, certificates, kind) for 64 bytes."""
    entry = folder / f"idao-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        entry.mkdir()
    except PermissionError as e:
        raise Missing(f"{folder} may not be written", hint="run as root") from e
    except OSError as e:
        raise Missing(f"{folder}: {e.strerror}", hint="load the module tdx-guest or sev-guest") from e
    try:
        for _ in range(TSM_TRIES):
            blob = _one_report(entry, data)
            if blob:
                provider = (entry / "provider").read_text().strip()
                kind = PROVIDERS.get(provider)
                if kind is None:
                    raise Malformed(f"the kernel has an unknown provider: {provider}")
                return blob, _certificates(_optional(entry / "auxblob")), kind
        raise Busy("another process keeps asking for reports", hint="try again")
    except OSError as e:
        raise Missing(f"{entry}: {e.strerror}") from e
    finally:
        entry.rmdir() if not any(entry.iterdir()) else _remove(entry)


def _remove(entry: Path) -> None:
    """configfs removes a report with its attributes; a plain folder (a stand-in) needs them gone first."""
    try:
        entry.rmdir()
    except OSError:
        import shutil

        shutil.rmtree(entry, ignore_errors=True)


def _one_report(entry: Path, data: bytes) -> bytes:
    """The blob if nobody else wrote meanwhile; empty to try again."""
    start = _generation(entry)
    _write_once(entry / "inblob", data)
    for _ in range(TSM_WAITS):
        blob = _optional(entry / "outblob")
        now = _generation(entry)
        if now == start + 1 and blob:
            if len(blob) > EVIDENCE_BYTES_MAX:
                raise Malformed("the kernel's report is too large")
            return blob
        if now > start + 1:
            return b""
        time.sleep(TSM_WAIT_S)
    return b""


def _generation(entry: Path) -> int:
    for _ in range(TSM_WAITS):
        try:
            return int((entry / "generation").read_text().strip())
        except (FileNotFoundError, ValueError):
            time.sleep(TSM_WAIT_S)
    raise Missing(f"{entry} has no generation: not configfs-tsm")


def _write_once(path: Path, data: bytes) -> None:
    # The kernel takes the blob in one write only.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if os.write(fd, data) != len(data):
            raise Missing(f"{path} took only a part")
    finally:
        os.close(fd)


def _optional(path: Path) -> bytes:
    """The file's bytes; empty while there are none (EBUSY: being made)."""
    try:
        return path.read_bytes()
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.EBUSY, errno.EAGAIN, errno.EINTR):
            return b""
        raise


# --- dstack --------------------


def from_dstack(path: Path, data: bytes) -> bytes:
    """The quote that dstack's guest agent makes for 64 bytes (POST /GetQuote over a Unix socket)."""
    body = json.dumps({"report_data": data.hex()}).encode()
    head = b"POST /GetQuote HTTP/1.0\r\nHost: dstack\r\nContent-Type: application/json\r\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(30)
        try:
            s.connect(str(path))
            s.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            answer = b""
            while piece := s.recv(65536):
                answer += piece
                if len(answer) > ANSWER_MAX:
                    raise Malformed("dstack's agent sent too much")
        except OSError as e:
            raise Missing(f"{path}: {e.strerror or e}") from e
    status, _, rest = answer.partition(b"\r\n")
    if b" 200 " not in status + b" ":
        raise Missing(f"dstack's agent refused: {status.decode('ascii', 'replace')[:100]}")
    try:
        return bytes.fromhex(json.loads(rest.partition(b"\r\n\r\n")[2])["quote"].removeprefix("0x"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise Malformed("dstack's agent sent no quote") from e


# --- simulator --------------------


def simulate(claims: Claims, now_ms: int, shape: str = "tdx") -> Evidence:
    """Evidence of the kind `simulated` with its collateral; worth nothing, and marked so everywhere."""
    from idao.tee import simulator

    makers = {"tdx": simulator.intel, "sev-snp": simulator.amd}
    if shape not in makers:
        raise UsageError(f"no simulated {shape}", hint="tdx or sev-snp")
    made = makers[shape](now_ms, report_data(claims))
    aux = tuple(Aux("collateral", f) for f in made.files)
    return Evidence(1, "simulated", simulator.mark(made.evidence), aux, canonical.pack(claims))
