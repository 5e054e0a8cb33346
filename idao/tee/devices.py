"""Character devices that make evidence by ioctl: `/dev/sev-guest`, `/dev/tdx_guest`, `/dev/nsm`.

Used where configfs-tsm is missing. `ioctl` is a parameter, so that a stand-in for the kernel can be tried:
it is called as `ioctl(fd, request, address of the argument)`.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

from idao.crypto import canonical
from idao.errors import Malformed, Missing
from idao.tee import cose

Ioctl = Callable[[int, int, int], int]

SNP_GET_REPORT, SNP_GET_EXT_REPORT = 0, 2
SNP_RESPONSE = 4000
"""Size of the kernel's response buffer (linux/sev-guest.h)."""
SNP_CERTS = 0x8000
"""The certificate table has at most 32 kB here; EIO with a larger wish is answered by no certificates."""
TD_REPORT = 1024
NSM_REQUEST, NSM_RESPONSE = 0x1000, 0x3000
QGS_PORT, QGS_MAX = 4050, 64 * 1024
"""Port of the host's quote generation service (vsock)."""


def request_number(kind: str | int, number: int, size: int) -> int:
    """_IOWR(kind, number, size) of the kernel."""
    letter = ord(kind) if isinstance(kind, str) else kind
    return 3 << 30 | size << 16 | letter << 8 | number


def kernel_ioctl(fd: int, request: int, address: int) -> int:
    """The ioctl of the C library. `OSError` with its errno on failure."""
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.ioctl(ctypes.c_int(fd), ctypes.c_ulong(request), ctypes.c_void_p(address))
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(done)


def _call(path: Path, request: int, argument: ctypes.Array[ctypes.c_char], ioctl: Ioctl) -> None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError as e:
        raise Missing(f"{path} may not be opened", hint="run as root, or join the group of the device") from e
    try:
        ioctl(fd, request, ctypes.addressof(argument))
    except OSError as e:
        raise Missing(f"{path} refused: {e.strerror}") from e
    finally:
        os.close(fd)


# --- AMD SEV-SNP (linux/sev-guest.h) --------------------


def snp_report(path: Path, report_data: bytes, ioctl: Ioctl = kernel_ioctl) -> tuple[bytes, bytes]:
    """(report, certificate table or empty) for 64 bytes, at privilege level 0."""
    certificates = ctypes.create_string_buffer(SNP_CERTS)
    wanted = report_data + struct.pack("<I", 0) + bytes(28)
    request = ctypes.create_string_buffer(
        wanted + struct.pack("<QI", ctypes.addressof(certificates), SNP_CERTS) + bytes(4), 112
    )
    response = ctypes.create_string_buffer(SNP_RESPONSE)
    argument = ctypes.create_string_buffer(
        struct.pack("<BxxxxxxxQQQ", 1, ctypes.addressof(request), ctypes.addressof(response), 0), 32
    )
    table = certificates
    try:
        _call(path, request_number("S", SNP_GET_EXT_REPORT, 32), argument, ioctl)
    except Missing:
        table = ctypes.create_string_buffer(1)
        _call(path, request_number("S", SNP_GET_REPORT, 32), argument, ioctl)
    status, size = struct.unpack_from("<II", response.raw)
    if status or size > SNP_RESPONSE - 32:
        raise Missing(f"{path}: firmware status {status:#x}")
    return response.raw[32 : 32 + size], table.raw


# --- Intel TDX (linux/tdx-guest.h) --------------------


def td_report(path: Path, report_data: bytes, ioctl: Ioctl = kernel_ioctl) -> bytes:
    """The TDREPORT (1024 bytes), which only this machine can check: a quote needs `td_quote`."""
    argument = ctypes.create_string_buffer(report_data, 64 + TD_REPORT)
    _call(path, request_number("T", 1, 64 + TD_REPORT), argument, ioctl)
    return argument.raw[64:]


def td_quote(report: bytes, talk: Callable[[bytes], bytes]) -> bytes:
    """The quote for a TDREPORT, from the host's service. `talk` sends one message and returns the answer."""
    body = struct.pack("<II", len(report), 0) + report
    answer = talk(struct.pack("<HHIII", 1, 0, 0, 16 + len(body), 0) + body)
    if len(answer) < 24:
        raise Missing("the quote generation service gave no quote")
    _, _, kind, size, error = struct.unpack_from("<HHIII", answer)
    chosen, quoted = struct.unpack_from("<II", answer, 16)
    if error or kind != 1 or size != len(answer) or 24 + chosen + quoted != size:
        raise Missing(f"the quote generation service refused: {error:#x}")
    return answer[24 + chosen :]


def talk_vsock(message: bytes) -> bytes:
    """One exchange with the host's quote generation service: each message after its 4-byte length."""
    import socket

    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as s:
        s.settimeout(30)
        s.connect((socket.VMADDR_CID_HOST, QGS_PORT))
        s.sendall(len(message).to_bytes(4, "big") + message)
        size = int.from_bytes(_exactly(s.recv, 4), "big")
        if size > QGS_MAX:
            raise Missing("the quote generation service sent too much")
        return _exactly(s.recv, size)


def _exactly(receive: Callable[[int], bytes], size: int) -> bytes:
    out = b""
    while len(out) < size:
        piece = receive(size - len(out))
        if not piece:
            raise Missing("the other side closed the connection")
        out += piece
    return out


# --- AWS Nitro (linux/nsm.h) --------------------


def nsm_document(path: Path, user_data: bytes, ioctl: Ioctl = kernel_ioctl) -> bytes:
    """The attestation document that binds `user_data`."""
    asked = canonical.encode({"Attestation": {"user_data": user_data, "nonce": None, "public_key": None}})
    request = ctypes.create_string_buffer(asked, NSM_REQUEST)
    response = ctypes.create_string_buffer(NSM_RESPONSE)
    vectors = struct.pack(
        "<QQQQ", ctypes.addressof(request), len(asked), ctypes.addressof(response), NSM_RESPONSE
    )
    argument = ctypes.create_string_buffer(vectors, 32)
    _call(path, request_number(0x0A, 0, 32), argument, ioctl)
    size = struct.unpack_from("<Q", argument.raw, 24)[0]
    if size > NSM_RESPONSE:
        raise Malformed("the security module sent too much")
    answer = cose.read(response.raw[:size])
    try:
        document = answer["Attestation"]["document"]
    except (KeyError, TypeError) as e:
        raise Missing(f"the security module refused: {answer}") from e
    if not isinstance(document, bytes):
        raise Malformed("the security module sent no document")
    return document
