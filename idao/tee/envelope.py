"""Evidence as idao carries it, and how evidence of other origins is recognised.

`Evidence` is the one container for every kind: the vendor's bytes, what belongs to them (certificates, a TPM
key), the claims bound by them, and optionally the collateral bundle of the day. Only the vendor's signed
region identifies it. Foreign files (raw, hex, base64, JSON) are recognised by their content.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, Any

from idao.crypto import canonical
from idao.errors import Malformed
from idao.frozen import frozen
from idao.model import Range, Size, Word
from idao.tee import azure, collateral, given, nitro, quote, snp, tpm
from idao.tee.given import Given

EVIDENCE_BYTES_MAX = 64 * 1024
"""Real evidence has 1 to 30 kB; nothing larger is looked at."""
AUX_MAX = 32
GZIP = b"\x1f\x8b"
SIMULATED = b"IDAO-SIMULATED\0"
"""Stands before the bytes of simulated evidence: it is a kind of its own, not a flag."""


@frozen
class Aux:
    """Something that belongs to the evidence, by name: `certificate`, `signature`, `public`, `pcr<n>`, …"""

    name: Word
    data: Annotated[bytes, Size(0, EVIDENCE_BYTES_MAX)]


@frozen
class Evidence:
    """What an attester hands over. `claims` is the packed `binding.Claims`, or empty."""

    v: Annotated[int, Range(1, 1)]
    kind: Word
    blob: Annotated[bytes, Size(1, EVIDENCE_BYTES_MAX)]
    aux: Annotated[tuple[Aux, ...], Size(0, AUX_MAX)]
    claims: Annotated[bytes, Size(0, 1024)]

    def part(self, name: str) -> bytes:
        """The data of that name, or empty."""
        return next((a.data for a in self.aux if a.name == name), b"")


def with_bundle(evidence: Evidence, bundle: bytes) -> Evidence:
    """The evidence with a collateral bundle beside it, so that whoever gets it need not ask the vendor.

    `Malformed` if both together are larger than evidence may be; the identity does not change.
    """
    aux = (*(a for a in evidence.aux if a.name != "bundle"), Aux("bundle", bundle))
    both = Evidence(evidence.v, evidence.kind, evidence.blob, aux, evidence.claims)
    if len(canonical.pack(both)) > EVIDENCE_BYTES_MAX:
        raise Malformed("the evidence with its collateral is too large", code="too-large")
    return both


@frozen
class Parsed:
    """Evidence ready for the judge of its kind."""

    kind: str
    blob: bytes
    given: Given = Given()
    claims: bytes = b""
    tpm: tpm.Parts | None = None
    azure: azure.Parts | None = None
    inner: Parsed | None = None
    """What simulated evidence pretends to be."""


def parse(data: bytes, depth: int = 0) -> Parsed:
    """Recognises evidence. `Malformed` when it is too large or of no known kind."""
    if len(data) > EVIDENCE_BYTES_MAX:
        raise Malformed("the evidence is too large", code="too-large")
    if depth > 3:
        raise Malformed("wrapped too often", code="kind-unknown")
    if data[:3] == b"\xa5\x61v":
        return _own(canonical.unpack(Evidence, data), depth)
    if data.startswith(SIMULATED):
        inner = parse(data[len(SIMULATED) :], depth + 1)
        return Parsed("simulated", data, inner.given, inner.claims, inner=inner)
    if data[:2] == GZIP:
        return parse(_unzip(data), depth + 1)
    if (extended := _extended_report(data)) is not None:
        return extended
    kind = _binary(data)
    if kind:
        return Parsed(kind, nitro.unwrap(data) if kind == "nitro" else data)
    if data[:1] == b"\x0a" and (parts := _protobuf(data)):
        return Parsed("tpm", parts.attest, tpm=parts)
    return _text(data, depth)


def _unzip(data: bytes) -> bytes:
    """What gzip packed, up to the size that evidence may have."""
    import zlib

    try:
        reader = zlib.decompressobj(wbits=31)
        out = reader.decompress(data, EVIDENCE_BYTES_MAX)
    except zlib.error as e:
        raise Malformed("no known kind of evidence", code="kind-unknown") from e
    if not reader.eof or reader.unused_data:
        raise Malformed("the packed evidence is cut or too large", code="too-large")
    return out


def _extended_report(data: bytes) -> Parsed | None:
    """An SNP report with the host's certificate table behind it; None if that is not what it is."""
    report, table = data[: snp.SIZE], data[snp.SIZE :]
    if len(table) < 48 or report[1:4] != bytes(3) or report[0x34:0x38] != b"\1\0\0\0":
        return None
    try:
        snp.parse(report)
        certificates = tuple(snp.certificate_table(table))
    except Malformed:
        return None
    return Parsed("sev-snp", report, Given(certificates=certificates)) if certificates else None


def _binary(data: bytes) -> str:
    if kind := quote.looks_like(data):
        # An SNP report also begins with a small version, but has one size and its algorithm at 34h.
        return "sev-snp" if len(data) == snp.SIZE and data[0x34:0x38] == b"\1\0\0\0" else kind
    if len(data) == snp.SIZE and data[0] in (2, 3, 4, 5) and not any(data[1:4]):
        return "sev-snp"
    if data[:2] in (b"\xd2\x84", b"\x84\x44") or nitro.unwrap(data) != data:
        return "nitro"
    if data[:3] in (b"\xd9\x01\x8f", b"\xd9\x03\x8b"):
        return "cca"
    if data[:4] == tpm.MAGIC:
        return "tpm"
    if data[:2] == b"\x11\xe0":
        return "nvidia"
    return ""


def _protobuf(data: bytes) -> tpm.Parts | None:
    try:
        return tpm.parts_of_protobuf(data)
    except Malformed:
        return None


def _own(e: Evidence, depth: int) -> Parsed:
    if e.kind == "simulated" and not e.blob.startswith(SIMULATED):
        raise Malformed("simulated evidence without its mark")
    files = [a.data for a in e.aux if a.name in ("certificate", "crl", "collateral", "bundle")]
    beside = collateral.expand(files)
    if e.kind == "tpm":
        parts = tpm.Parts(
            e.blob, e.part("signature"), e.part("public"), b"", e.part("ak-certificate"), _pcrs(e.aux)
        )
        return Parsed("tpm", e.blob, beside, e.claims, tpm=parts)
    if e.kind in ("azure-snp", "azure-tdx"):
        pcrs = tuple(value for _, _, value in sorted(_pcrs(e.aux)))
        quoted, signature, td = e.part("attest"), e.part("signature"), e.part("td-quote")
        return Parsed(
            e.kind, e.blob, beside, e.claims, azure=azure.Parts(e.blob, quoted, signature, pcrs, td, ())
        )
    inner = parse(e.blob, depth + 1)
    if inner.kind != e.kind:
        raise Malformed(f"evidence of kind {inner.kind} in an envelope for {e.kind}")
    return Parsed(inner.kind, inner.blob, beside.joined(inner.given), e.claims, inner=inner.inner)


def _pcrs(aux: tuple[Aux, ...]) -> tuple[tuple[int, int, bytes], ...]:
    """PCRs of the SHA-256 bank."""
    out = []
    for a in aux:
        if a.name.startswith("pcr") and a.name[3:].isdecimal() and int(a.name[3:]) < tpm.PCRS:
            out.append((0x000B, int(a.name[3:]), a.data))
    return tuple(out)


# --- texts --------------------


def _text(data: bytes, depth: int) -> Parsed:
    """Hex, base64, or JSON with one of the forms seen in the field."""
    try:
        text = data.decode("ascii").strip()
    except UnicodeDecodeError as e:
        raise Malformed("no known kind of evidence", code="kind-unknown") from e
    if text[:1] in ("{", "["):
        try:
            return _json(json.loads(text), depth)
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as e:
            raise Malformed("no known kind of evidence", code="kind-unknown") from e
    if text:
        for read in (binascii.unhexlify, _unbase64):
            try:
                return parse(read("".join(text.removeprefix("0x").split())), depth + 1)
            except (binascii.Error, ValueError):
                continue
    raise Malformed("no known kind of evidence", code="kind-unknown")


def _unbase64(text: str) -> bytes:
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)


def _json(value: Any, depth: int) -> Parsed:
    if isinstance(value, list) and value and isinstance(value[0], int):
        return parse(bytes(value), depth + 1)
    if isinstance(value, list):
        if len(value) != 1:
            raise Malformed("several pieces of evidence in one file: judge each by itself")
        value = value[0]
    if "hcl_report" in value or ("report" in value and isinstance(value.get("quote"), dict)):
        return _azure_json(value)
    if "tpm_quote" in value:
        return _tpm_json(value)
    if "evidence" in value and "certificate" in value:
        inner = parse(_bytes(value["evidence"]), depth + 1)
        chain = given.sort_files([_bytes(value["certificate"])])
        return Parsed(inner.kind, inner.blob, chain.joined(inner.given))
    for name in _HOLDERS:
        if isinstance(value.get(name), str | list) and value[name]:
            return parse(_bytes(value[name]), depth + 1)
    raise KeyError("no known member")


_HOLDERS = ("quote", "report", "attestation_report", "attestation_document", "document", "evidence", "body")
"""Members under which others put the vendor's bytes."""


def _bytes(value: Any) -> bytes:
    """A list of numbers, PEM, hex or base64."""
    if isinstance(value, list):
        return bytes(value)
    if "-----BEGIN " in value:
        return bytes(value.encode())
    try:
        return binascii.unhexlify(value.removeprefix("0x"))
    except (binascii.Error, ValueError):
        return _unbase64(value)


def _azure_json(value: dict[str, Any]) -> Parsed:
    quoted = value["tpm_quote"] if "tpm_quote" in value else value["quote"]
    beside = given.sort_files([_bytes(value["vcek"])]) if "vcek" in value else Given()
    td_quote = _bytes(value["td_quote"]) if "td_quote" in value else b""
    report = value["hcl_report"] if "hcl_report" in value else value["report"]
    hcl, attest, signature = (_bytes(x) for x in (report, quoted["message"], quoted["signature"]))
    pcrs = tuple(_bytes(p) for p in quoted["pcrs"])
    parts = azure.Parts(hcl, attest, signature, pcrs, td_quote, beside.certificates)
    return Parsed("azure-tdx" if td_quote else "azure-snp", hcl, azure=parts)


def _tpm_json(value: dict[str, Any]) -> Parsed:
    quoted = value["tpm_quote"]
    pcrs = tuple((0x000B, i, _bytes(p)) for i, p in enumerate(quoted["pcrs"]))
    attest, signature = _bytes(quoted["message"]), _bytes(quoted["signature"])
    parts = tpm.Parts(attest, signature, spki=_bytes(value["ak_public"]), pcrs=pcrs)
    return Parsed("tpm", parts.attest, tpm=parts)
