"""The node record: what a validator says of its node, signed by its validator key.

It ties three things together: who (iDAO and validator key), how to know its TLS end (the hash of the one
certificate that counts), and where to try (addresses: hints, since TLS decides who answers). Of two records
of one validator the one with the greater `seq` counts.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated

from idao.crypto.hashing import Kind, digest
from idao.crypto.keys import Signer, verify_node_record
from idao.errors import Malformed
from idao.frozen import frozen
from idao.model import Hash, Id, PublicKey, Signature, Size

VERSION = 1
ADDRESSES_MAX = 8
"""Addresses of one node: IPv4 and two of IPv6 on two interfaces, with room."""
ADDRESS_BYTES_MAX = 64
"""The longest IPv6 literal has 39 characters; brackets, port and room."""
CERTIFICATE_BYTES_MAX = 1024
"""A self-signed Ed25519 certificate has some 350 bytes."""


@frozen
class NodeRecord:
    """Of one node in one quorum."""

    v: int
    quorum: Id
    idao: Id
    key: PublicKey
    """The validator key, which signs this record."""
    tls: Hash
    """`pin` of the certificate that the node shows."""
    addresses: Annotated[tuple[Annotated[str, Size(3, ADDRESS_BYTES_MAX)], ...], Size(0, ADDRESSES_MAX)]
    """`host:port` or `[v6]:port`, best first. Literals only: a peer's word makes nobody ask a name server."""
    seq: int
    """Grows with each record of this node; milliseconds of its making serve well."""


@frozen
class SignedNodeRecord:
    record: NodeRecord
    certificate: Annotated[bytes, Size(1, CERTIFICATE_BYTES_MAX)]
    """DER whose pin is `record.tls`: TLS libraries trust certificates, not their hashes."""
    signature: Signature


def pin(certificate: bytes) -> bytes:
    """What stands for a TLS certificate (DER), in ledgers and records."""
    return digest(Kind.TLS_CERTIFICATE, certificate)


def make(
    signer: Signer, quorum: bytes, idao: bytes, certificate: bytes, addresses: tuple[str, ...], seq: int
) -> SignedNodeRecord:
    """A record of one's own."""
    for address in addresses:
        split_literal(address)
    record = NodeRecord(VERSION, quorum, idao, signer.public, pin(certificate), addresses, seq)
    return SignedNodeRecord(record, certificate, signer.sign_node_record(record))


def check(signed: SignedNodeRecord) -> None:
    """`Malformed` unless it holds together: version, addresses, certificate, signature.

    Whether its key is a validator's is for the caller to know.
    """
    record = signed.record
    if record.v != VERSION:
        raise Malformed(f"node record of version {record.v}")
    if pin(signed.certificate) != record.tls:
        raise Malformed("node record: the certificate is not the one it names")
    for address in record.addresses:
        split_literal(address)
    if not verify_node_record(record.key, signed.signature, record):
        raise Malformed("node record: the signature does not hold")


_ADDRESS = re.compile(r"(?:\[([^\[\]\s]+)\]|([^\[\]\s:]+)):([0-9]{1,5})")


def split_address(text: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`; the host may be a name or carry a scope (%eth0)."""
    found = _ADDRESS.fullmatch(text)
    if found is None or len(text) > 300 or not 0 < int(found[3]) < 65536:
        raise Malformed(f"not an address: '{text[:80]}'", hint="such as 192.168.1.20:4747 or [fd00::20]:4747")
    return found[1] or found[2], int(found[3])


def split_literal(text: str) -> tuple[str, int]:
    """The same where the host must be an IP address that means the same on every machine."""
    host, port = split_address(text)
    try:
        address = ip_address(host)
    except ValueError:
        raise Malformed(f"not an IP address: '{text}'") from None
    if "%" in host or address.is_multicast or address.is_unspecified or text != join_address(host, port):
        raise Malformed(f"not an address of a node: '{text}'")
    return host, port


def join_address(host: str, port: int) -> str:
    """The one spelling of an address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
