"""Bundles of collateral: what vendors signed about their parts, kept with its window, named by its hash.

Judging never fetches. A bundle is exported, imported, sent along with evidence and kept beside what it
backed, so that an old anchor is judged at its own time with what was known then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from idao.crypto import canonical
from idao.crypto.hashing import Kind, digest
from idao.errors import IdaoError, Malformed, Newer
from idao.frozen import frozen
from idao.model import Name, Range, Size, Word
from idao.tee.given import FILE_BYTES_MAX, Given, sort_files

PARTS_MAX = 64
FORMAT = 1
BUNDLE_BYTES_MAX = 8 * 1024 * 1024


@frozen
class Part:
    name: Word
    data: Annotated[bytes, Size(1, FILE_BYTES_MAX)]


@frozen
class Bundle:
    """Files of one vendor. The window is that in which all of them are valid; `source` is for people."""

    v: Annotated[int, Range(FORMAT, FORMAT)]
    kind: Word
    source: Name
    fetched_ms: int
    not_before_ms: int
    not_after_ms: int
    parts: Annotated[tuple[Part, ...], Size(1, PARTS_MAX)]

    @property
    def digest(self) -> bytes:
        """The bundle's name: 32 bytes."""
        return digest(Kind.TEE_BUNDLE, canonical.pack(self))


@frozen
class Row:
    """One thing in a bundle, for `show`: times in ms UTC."""

    name: str
    not_before_ms: int
    not_after_ms: int
    valid: bool


def given(bundle: Bundle) -> Given:
    """The bundle's files, sorted for the verifier."""
    return sort_files(p.data for p in bundle.parts)


def _windows(files: Given) -> list[tuple[str, int, int]]:
    """(name, from, to) of everything in `files` that has a window; roots and keys last too long to matter."""
    from idao.tee import certs

    out = []
    for der in files.certificates:
        cert = certs.load(der)
        out.append((f"certificate {certs.name_of(cert)}", *certs.window(cert)))
    return out + statements(files)


def statements(files: Given) -> list[tuple[str, int, int]]:
    """(name, from, to) of what a vendor states anew again and again: revocation lists, levels, identities."""
    from idao.tee import certs, intel
    from idao.tee.given import unhex
    from idao.tee.x509 import common_name

    out = []
    for der in files.crls:
        crl = certs.load_crl(der)
        out.append((f"crl of {common_name(crl.issuer)}", *certs.crl_window(crl)))
    for data in files.intel:
        collateral = intel.read_collateral(data)
        for name in ("root_ca_crl", "pck_crl"):
            crl = certs.load_crl(unhex(collateral.parts[name], name))
            out.append((name, *certs.crl_window(crl)))
        for name, value in (("tcb_info", collateral.tcb), ("qe_identity", collateral.qe)):
            low, high = (certs.rfc3339_ms(str(value.get(k))) for k in ("issueDate", "nextUpdate"))
            out.append((f"{name} {value.get('tcbEvaluationDataNumber')}", low, high))
    return out


def make(kind: str, files: Iterable[tuple[str, bytes]], *, fetched_ms: int, source: str) -> Bundle:
    """A bundle of named files. `Malformed` if nothing in them is collateral."""
    parts = tuple(Part(name, data) for name, data in sorted(files))
    windows = _windows(sort_files(p.data for p in parts))
    if not windows:
        raise Malformed("no collateral in these files")
    low, high = max(0, *(w[1] for w in windows)), max(0, min(w[2] for w in windows))
    return Bundle(1, kind, source, fetched_ms, low, high, parts)


def show(bundle: Bundle, now_ms: int) -> list[Row]:
    """What is inside and until when."""
    return [Row(n, low, high, low <= now_ms <= high) for n, low, high in _windows(given(bundle))]


def dump(bundle: Bundle) -> bytes:
    """The bytes of a bundle file: canonical CBOR."""
    return canonical.pack(bundle)


def load(data: bytes) -> Bundle:
    """The bundle of a file. `Malformed` unless it is one and its window is that of its parts; `Newer`."""
    try:
        bundle = canonical.unpack(Bundle, data, limit=BUNDLE_BYTES_MAX)
    except Malformed as e:
        if (found := canonical.version_of(data, limit=BUNDLE_BYTES_MAX)) > FORMAT:
            raise Newer("the bundle of collateral", found, FORMAT) from e
        raise Malformed(f"not a bundle of collateral: {e.message}") from e
    again = make(
        bundle.kind,
        ((p.name, p.data) for p in bundle.parts),
        fetched_ms=bundle.fetched_ms,
        source=bundle.source,
    )
    if again != bundle:
        raise Malformed("the bundle's window is not that of its parts")
    return bundle


def expand(files: Iterable[bytes]) -> Given:
    """Files of any sort, bundles among them, for the verifier."""
    out: list[bytes] = []
    for data in files:
        try:
            out += [p.data for p in load(data).parts] if looks_like(data) else [data]
        except IdaoError:
            out.append(data)
    return sort_files(out)


def looks_like(data: bytes) -> bool:
    """Do the bytes begin like a bundle (a map of seven, first key `v`)?"""
    return data[:3] == b"\xa7\x61v"
