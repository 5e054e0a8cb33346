"""The bytes of Intel SGX and TDX quotes, versions 3, 4 and 5 (DCAP library references, appendix A).

Everything is little endian. What stands behind the certification data is not part of the quote: zeros are
cut, anything else is refused, because nobody signs it.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from idao.errors import Malformed
from idao.frozen import frozen
from idao.tee.given import Given
from idao.tee.result import Findings
from idao.tee.x509 import Certificate

SGX, TDX = 0, 0x81
HEADER = 48
BODY_SGX, BODY_TD10, BODY_TD15 = 384, 584, 648
INTEL_QE = bytes.fromhex("939A7233F79C4CA9940A0DB3957F0607")
PEM_CHAIN = 5
BODIES_V5 = {1: (SGX, BODY_SGX), 2: (TDX, BODY_TD10), 3: (TDX, BODY_TD15)}

# TDATTRIBUTES
TD_DEBUG, TD_SEPT_VE_DISABLE = 1, 1 << 28
TD_KNOWN = TD_DEBUG | TD_SEPT_VE_DISABLE | 1 << 30 | 1 << 31 | 1 << 63
# Attributes of an SGX enclave
SGX_INIT, SGX_DEBUG = 1, 2


@frozen
class Quote:
    """The parts of a quote. `raw` ends where the quote ends."""

    raw: bytes
    tee: int
    signed: bytes
    body: bytes
    signature: bytes
    key: bytes
    qe_report: bytes
    qe_signature: bytes
    qe_auth: bytes
    chain: bytes
    """PEM, the PCK certificate first."""
    trailing: bool
    """Do other bytes than zeros stand behind the quote?"""

    @property
    def report_data(self) -> bytes:
        return self.body[320:384] if self.tee == SGX else self.body[520:584]

    @property
    def tee_tcb_svn(self) -> bytes:
        return self.body[:16]


class _Cut:
    def __init__(self, raw: bytes, pos: int) -> None:
        self.raw, self.pos = raw, pos

    def take(self, n: int) -> bytes:
        if n > len(self.raw) - self.pos:
            raise Malformed("the quote ends early")
        self.pos += n
        return self.raw[self.pos - n : self.pos]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")


def looks_like(raw: bytes) -> str:
    """'sgx' or 'tdx' if the header is one of a quote; empty otherwise."""
    if len(raw) < HEADER or raw[1] or raw[0] not in (3, 4, 5):
        return ""
    return {SGX: "sgx", TDX: "tdx"}.get(int.from_bytes(raw[4:8], "little"), "")


def parse(raw: bytes) -> Quote:
    """The parts of a quote whose lengths all agree; `Malformed` otherwise."""
    if len(raw) < HEADER:
        raise Malformed("the quote ends early")
    version, key_type, tee = struct.unpack_from("<HHI", raw)
    if version not in (3, 4, 5) or key_type != 2 or tee not in (SGX, TDX) or (version == 3 and tee):
        raise Malformed(f"quote of unknown version {version}, key type {key_type} or TEE {tee:#x}")
    if raw[12:28] != INTEL_QE:
        raise Malformed("the quote is not by Intel's quoting enclave")
    cut = _Cut(raw, HEADER)
    size = BODY_SGX if tee == SGX else BODY_TD10
    if version == 5:
        body_type, size = cut.u16(), cut.u32()
        if BODIES_V5.get(body_type) != (tee, size):
            raise Malformed(f"quote with unknown body type {body_type} of {size} bytes")
    body = cut.take(size)
    signed = raw[: cut.pos]
    rest = _Cut(cut.take(cut.u32()), 0)
    end = cut.pos
    signature, key = rest.take(64), rest.take(64)
    if version >= 4:
        if rest.u16() != 6:
            raise Malformed("certification data of unknown type")
        rest = _Cut(_all(rest, rest.u32()), 0)
    qe_report, qe_signature = rest.take(384), rest.take(64)
    qe_auth = rest.take(rest.u16())
    if rest.u16() != PEM_CHAIN:
        raise Malformed("the quote carries no certificate chain")
    chain = _all(rest, rest.u32())
    trailing = any(raw[end:])
    return Quote(
        raw[:end], tee, signed, body, signature, key, qe_report, qe_signature, qe_auth, chain, trailing
    )


def _all(cut: _Cut, size: int) -> bytes:
    data = cut.take(size)
    # Some quoting enclaves pad inside the signature data; only zeros may stand there.
    if any(cut.raw[cut.pos :]):
        raise Malformed("bytes after the certification data")
    return data


# --- what the quote says of itself --------------------


_TD_REGISTERS = (
    ("mrseam", 16, 48),
    ("mrsignerseam", 64, 48),
    ("mrtd", 136, 48),
    ("mrconfigid", 184, 48),
    ("mrowner", 232, 48),
    ("mrownerconfig", 280, 48),
    ("rtmr0", 328, 48),
    ("rtmr1", 376, 48),
    ("rtmr2", 424, 48),
    ("rtmr3", 472, 48),
)


def describe(found: Findings, quote: Quote, *, paravisor: bool = False) -> None:
    """Region, bound field, registers and the checks of attributes.

    With a paravisor (Azure) SEPT_VE_DISABLE is the paravisor's business: its handler is measured.
    """
    found.region, found.bound = quote.signed, (quote.report_data,)
    found.check("end", not quote.trailing, "", "trailing")
    body = quote.body
    if quote.tee == SGX:
        for name, at, size in (("mrenclave", 64, 32), ("mrsigner", 128, 32)):
            found.measurements[name] = body[at : at + size].hex()
        found.measurements["isvprodid"] = str(int.from_bytes(body[256:258], "little"))
        found.measurements["isvsvn"] = str(int.from_bytes(body[258:260], "little"))
        found.check("debug", not body[48] & SGX_DEBUG)
        found.check("attributes", bool(body[48] & SGX_INIT), "INIT is not set" * (not body[48] & SGX_INIT))
        return
    for name, at, size in _TD_REGISTERS:
        found.measurements[name] = body[at : at + size].hex()
    attributes = int.from_bytes(body[120:128], "little")
    found.check("debug", not attributes & TD_DEBUG)
    known = not attributes & ~TD_KNOWN and (paravisor or bool(attributes & TD_SEPT_VE_DISABLE))
    found.check("attributes", known, f"TDATTRIBUTES {attributes:#x}")
    if len(body) == BODY_TD15:
        found.measurements["mrservicetd"] = body[600:648].hex()
        found.check("service-td", not any(body[600:648]))


# --- the PCK certificate's extension (PCK Certificate and CRL Profile, 1.3.5) --------------------


@frozen
class Pck:
    """What Intel says of the platform."""

    ppid: bytes
    svns: tuple[int, ...]
    """Sixteen component SVNs."""
    pcesvn: int
    pceid: bytes
    fmspc: bytes


_OID_BYTES = bytes.fromhex("2a864886f84d010d01")
"""1.2.840.113741.1.13.1"""


def _der(data: bytes, pos: int) -> tuple[int, bytes, int]:
    """(tag, value, end) of one DER element with a length below 64 KiB."""
    if pos + 2 > len(data):
        raise Malformed("the PCK extension ends early")
    tag, size, start = data[pos], data[pos + 1], pos + 2
    if size & 0x80:
        count = size & 0x7F
        if not 1 <= count <= 2:
            raise Malformed("the PCK extension has a strange length")
        size, start = int.from_bytes(data[start : start + count], "big"), start + count
    if start + size > len(data):
        raise Malformed("the PCK extension ends early")
    return tag, data[start : start + size], start + size


def _pairs(sequence: bytes) -> dict[bytes, tuple[int, bytes]]:
    """OID suffix -> (tag, value) of a SEQUENCE OF SEQUENCE {OID, value}; an OID may stand once."""
    out: dict[bytes, tuple[int, bytes]] = {}
    pos = 0
    while pos < len(sequence):
        tag, entry, pos = _der(sequence, pos)
        oid_tag, oid, end = _der(entry, 0)
        value_tag, value, _ = _der(entry, end)
        if tag != 0x30 or oid_tag != 6 or not oid.startswith(_OID_BYTES) or oid in out:
            raise Malformed("the PCK extension is not Intel's")
        out[oid[len(_OID_BYTES) :]] = (value_tag, value)
    return out


@lru_cache(maxsize=64)
def pck(cert: Certificate) -> Pck:
    """The extension of a PCK certificate; `Malformed` if it has none or a strange one."""
    raw = cert.extensions.get(_OID_BYTES)
    if raw is None:
        raise Malformed("the certificate has no PCK extension")
    top = _pairs(_der(raw, 0)[1])
    try:
        tcb = _pairs(top[b"\2"][1])
        svns = tuple(int.from_bytes(tcb[bytes([2, i])][1], "big") for i in range(1, 17))
        out = Pck(
            ppid=top[b"\1"][1],
            svns=svns,
            pcesvn=int.from_bytes(tcb[bytes([2, 17])][1], "big"),
            pceid=top[b"\3"][1],
            fmspc=top[b"\4"][1],
        )
        if bytes(svns) != tcb[bytes([2, 18])][1]:
            raise Malformed("CPUSVN and its components differ")
    except (KeyError, ValueError) as e:
        raise Malformed("the PCK extension lacks a part") from e
    if (len(out.ppid), len(out.pceid), len(out.fmspc)) != (16, 2, 6):
        raise Malformed("the PCK extension has a part of a strange size")
    return out


def chain_of(quote: Quote) -> Given:
    """The certificates inside a quote."""
    from idao.tee.given import sort_files

    return sort_files([quote.chain])
