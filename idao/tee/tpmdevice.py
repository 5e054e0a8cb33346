"""A TPM 2.0 by raw commands (TPM 2.0 Library, part 3): a restricted signing key, a quote, the PCRs.

The same bytes go to `/dev/tpmrm0` and to a software TPM's socket; no library is needed.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from idao.errors import Missing
from idao.frozen import frozen
from idao.tee import tpm

Talk = Callable[[bytes], bytes]
"""Sends one command and returns the response."""

ANSWER_MAX = 4096
"""The largest response of any TPM 2.0."""
WAIT_S = 30
"""A hardware TPM may take seconds to make a key."""
NOT_STARTED = bytes.fromhex("00000100")
AGAIN = tuple(bytes.fromhex(code) for code in ("00000922", "00000908", "0000090a"))
"""RETRY, YIELDED and TESTING: the command was not run; the same one is to be sent again."""
RETRIES = 20
STARTUP = bytes.fromhex("80010000000c000001440000")
"""TPM2_Startup(clear): a software TPM may wait for it; firmware has sent it to a real one."""
NO_SESSIONS, SESSIONS = 0x8001, 0x8002
CREATE_PRIMARY, QUOTE, PCR_READ, FLUSH, NV_READ, NV_WRITE, NV_READ_PUBLIC, READ_PUBLIC = (
    *(0x131, 0x158, 0x17E, 0x165),
    *(0x14E, 0x137, 0x169, 0x173),
)
ENDORSEMENT, OWNER, NO_PASSWORD = 0x4000000B, 0x40000001, 0x40000009
EMPTY_AUTH = struct.pack(">IIHBH", 9, NO_PASSWORD, 0, 0, 0)
NULL_SCHEME = struct.pack(">H", 0x0010)
PCRS = tuple(range(16))
"""Boot and application registers; 16 to 23 may be reset by whoever runs the machine."""
NV_PIECE = 1024
"""Least buffer of one NV_Read that TPMs promise."""


@frozen
class Quoted:
    attest: bytes
    signature: bytes
    public: bytes
    pcrs: tuple[bytes, ...]


def device(place: str) -> Talk:
    """Commands to a character device, a Unix socket, or `host:port`, all speaking raw commands.

    A key lives as long as the device is open, so one descriptor serves all commands.
    """
    path = Path(place)
    try:
        if path.is_socket():
            s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            s.connect(place)
        elif not path.exists() and place.rpartition(":")[2].isdecimal():
            host, _, port = place.rpartition(":")
            s = socket.create_connection((host, int(port)), timeout=WAIT_S)
        else:
            return _file(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError as e:
        raise Missing(f"{place} may not be opened", hint="join the group tss, or run as root") from e
    except OSError as e:
        raise Missing(f"{place}: {e.strerror or e}") from e
    s.settimeout(WAIT_S)
    return _stream(s)


def _file(fd: int) -> Talk:
    file = open(fd, "r+b", buffering=0)  # noqa: SIM115 (closed with its last user)

    def talk(command: bytes) -> bytes:
        file.write(command)
        return file.read(ANSWER_MAX) or b""

    return talk


def _stream(s: socket.socket) -> Talk:
    def talk(command: bytes) -> bytes:
        s.sendall(command)
        answer = s.recv(ANSWER_MAX)
        while 10 <= len(answer) < int.from_bytes(answer[2:6], "big") <= ANSWER_MAX:
            piece = s.recv(ANSWER_MAX)
            if not piece:
                break
            answer += piece
        return answer

    return talk


def run(talk: Talk, code: int, body: bytes, *, sessions: bool) -> bytes:
    """One command; the response after its header. `Missing` with the TPM's code if it refuses."""
    command = struct.pack(">HII", SESSIONS if sessions else NO_SESSIONS, 10 + len(body), code) + body
    try:
        answer = talk(command)
        if answer[6:10] == NOT_STARTED:
            talk(STARTUP)
            answer = talk(command)
        for _ in range(RETRIES):
            if answer[6:10] not in AGAIN:
                break
            answer = talk(command)
    except OSError as e:
        raise Missing(f"the TPM does not answer: {e}") from e
    if len(answer) < 10:
        raise Missing("the TPM gave no answer")
    _, size, result = struct.unpack_from(">HII", answer)
    if result or size != len(answer):
        raise Missing(f"the TPM refused command {code:#x}: {result:#x}")
    return answer[10:]


def create_key(talk: Talk) -> tuple[int, bytes]:
    """(handle, TPMT_PUBLIC) of a restricted ECDSA P-256 key of the endorsement hierarchy.

    The template fixes the key: the same TPM gives the same one each time.
    """
    public = tpm.public_area()
    body = struct.pack(">I", ENDORSEMENT) + EMPTY_AUTH
    body += struct.pack(">HHH", 4, 0, 0)  # no password, no sealed data
    body += struct.pack(">H", len(public)) + public + struct.pack(">HI", 0, 0)
    r = tpm.Reader(run(talk, CREATE_PRIMARY, body, sessions=True))
    handle = r.number(4)
    r.number(4)
    return handle, r.sized()


def selection(numbers: tuple[int, ...]) -> bytes:
    """TPML_PCR_SELECTION of the SHA-256 bank."""
    bits = sum(1 << n for n in numbers)
    return struct.pack(">IHB", 1, 0x000B, 3) + bits.to_bytes(3, "little")


def quote_with(
    talk: Talk, handle: int, extra: bytes, numbers: tuple[int, ...], scheme: bytes = NULL_SCHEME
) -> tuple[bytes, bytes]:
    """(TPMS_ATTEST, TPMT_SIGNATURE) over `extra` and the registers; the null scheme takes the key's own."""
    body = struct.pack(">I", handle) + EMPTY_AUTH + struct.pack(">H", len(extra)) + extra
    body += scheme + selection(numbers)
    r = tpm.Reader(run(talk, QUOTE, body, sessions=True))
    inner = tpm.Reader(r.take(r.number(4)))
    attest = inner.sized()
    return attest, inner.data[inner.pos :]


def read_pcrs(talk: Talk, numbers: tuple[int, ...]) -> tuple[bytes, ...]:
    """Values of the SHA-256 bank; a TPM gives at most eight at a time."""
    out: list[bytes] = []
    left = list(numbers)
    while left:
        r = tpm.Reader(run(talk, PCR_READ, selection(tuple(left[:8])), sessions=False))
        r.take(4 + 4 + 3 + 3)
        count = r.number(4)
        if not count or count > len(left):
            raise Missing("the TPM has no SHA-256 bank")
        out += [r.sized() for _ in range(count)]
        left = left[count:]
    return tuple(out)


def quote(talk: Talk, extra: bytes) -> Quoted:
    """A quote over `extra` (at most 64 bytes) by a key that cannot leave this TPM."""
    handle, public = create_key(talk)
    try:
        attest, signature = quote_with(talk, handle, extra, PCRS)
        return Quoted(attest, signature, public, read_pcrs(talk, PCRS))
    finally:
        run(talk, FLUSH, struct.pack(">I", handle), sessions=False)


# --- Azure: the paravisor's vTPM --------------------

AZURE_REPORT, AZURE_USER_DATA, AZURE_KEY = 0x01400001, 0x01400002, 0x81000003
RSASSA_SHA256 = struct.pack(">HH", tpm.RSASSA, 0x000B)


def nv_read(talk: Talk, index: int) -> bytes:
    """A whole NV index, by the owner with an empty password."""
    r = tpm.Reader(tpm.Reader(run(talk, NV_READ_PUBLIC, struct.pack(">I", index), sessions=False)).sized())
    r.take(4 + 2 + 4)
    r.sized()
    size, out = r.number(2), b""
    while len(out) < size:
        piece = min(NV_PIECE, size - len(out))
        body = struct.pack(">II", OWNER, index) + EMPTY_AUTH + struct.pack(">HH", piece, len(out))
        answer = tpm.Reader(run(talk, NV_READ, body, sessions=True))
        answer.number(4)
        out += answer.sized()
    return out


def nv_write(talk: Talk, index: int, data: bytes) -> None:
    """Writes at the start of an NV index, by the owner with an empty password."""
    body = struct.pack(">II", OWNER, index) + EMPTY_AUTH + struct.pack(">H", len(data)) + data
    run(talk, NV_WRITE, body + struct.pack(">H", 0), sessions=True)


@frozen
class AzureQuoted:
    hcl: bytes
    attest: bytes
    signature: bytes
    """The bare RSASSA block."""
    pcrs: tuple[bytes, ...]


def azure_quote(talk: Talk, extra: bytes) -> AzureQuoted:
    """The HCL report, and a quote over `extra` by the key that it certifies."""
    hcl = nv_read(talk, AZURE_REPORT)
    end = hcl.rfind(b"}") + 1
    attest, signature = quote_with(talk, AZURE_KEY, extra, PCRS, RSASSA_SHA256)
    block = tpm.parse_signature(signature).raw
    return AzureQuoted(hcl[:end], attest, block, read_pcrs(talk, PCRS))
