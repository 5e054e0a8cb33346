"""Collateral as it was handed over: files sorted by what they hold, whatever they are called.

`Given` is untrusted. Nothing in it is fetched, and no address in it is followed.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable

from idao.errors import Malformed
from idao.frozen import frozen

FILE_BYTES_MAX = 4 * 1024 * 1024
"""The largest collateral seen is a root CRL set of some tens of kB; Intel's processor CRL has 200 kB."""
FILES_MAX = 64
TEXT_BYTES_MAX = 512
"""A key on one line; more is no key."""


@frozen
class Given:
    """DER certificates and lists, Intel collateral (JSON text), public keys (DER SPKI), and the rest."""

    certificates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    intel: tuple[bytes, ...] = ()
    keys: tuple[bytes, ...] = ()
    files: tuple[bytes, ...] = ()

    def joined(self, other: Given) -> Given:
        """Both together; this one's come first and its Intel collateral wins."""
        return Given(
            self.certificates + other.certificates,
            self.crls + other.crls,
            self.intel or other.intel,
            self.keys + other.keys,
            self.files + other.files,
        )


def sort_files(files: Iterable[bytes]) -> Given:
    """Sorts files (PEM or DER certificates and CRLs, public keys, JSON, raw bytes) by their content."""
    from idao.tee.certs import pem_blocks

    certificates: list[bytes] = []
    crls: list[bytes] = []
    keys: list[bytes] = []
    rest: list[bytes] = []
    intel: list[bytes] = []
    for i, data in enumerate(files):
        if len(data) > FILE_BYTES_MAX or i >= FILES_MAX:
            raise Malformed("too much collateral")
        if data.lstrip()[:1] == b"{":
            if b'"tcb_info"' in data and b'"qe_identity"' in data:
                intel.append(data)
            else:
                rest.append(data)
        elif b"-----BEGIN " in data:
            certificates += pem_blocks(data, "CERTIFICATE")
            crls += pem_blocks(data, "X509 CRL")
            keys += pem_blocks(data, "PUBLIC KEY")
        elif data[:1] == b"\x30" and (kind := _der_kind(data)):
            {"certificate": certificates, "crl": crls, "key": keys}[kind].append(data)
        else:
            rest.append(data)
    return Given(tuple(certificates), tuple(crls), tuple(intel), tuple(keys), tuple(rest))


def _der_kind(data: bytes) -> str:
    """'certificate', 'crl' or 'key' of a DER structure; empty if it is none of them."""
    from idao.tee import certs
    from idao.tee.x509 import key_bits

    for kind, read in (("certificate", certs.load), ("crl", certs.load_crl), ("key", key_bits)):
        try:
            read(data)
            return kind
        except Malformed:
            continue
    # Looks like a certificate that does not parse: kept, so that its chain fails for what it is.
    return "certificate" if data[4:6] == b"\x30\x82" else ""


def unhex(text: str, what: str) -> bytes:
    """The bytes of hex digits; `Malformed` names `what` otherwise."""
    try:
        return binascii.unhexlify(text)
    except (binascii.Error, ValueError) as e:
        raise Malformed(f"{what} is not hex") from e
