"""The TLS end of a node: one self-signed Ed25519 certificate a home, known to peers by the hash of its DER.

A peer is authenticated by that hash alone, compared after the handshake with what its validator signed (its
node record). OpenSSL's own check of the chain runs before and lets in only who shows *some* trusted
certificate; it is a first sieve: a trusted certificate may have signed another one, and trust given to a
context cannot be taken back. Contexts are therefore made anew when the peers change.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from idao import noderecord
from idao.crypto import hashing
from idao.errors import Malformed
from idao.frozen import frozen
from idao.home import write_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

hashing.by_openssl()

PEERS, PAIRING = "idao/1", "idao-pair/1"
"""ALPN names: what a connection is for is settled in the handshake."""
NAME = "keys/tls/node.pem"
_ED25519_BITS = bytes.fromhex("300506032b6570 034100")
"""What stands in DER between what an Ed25519 certificate says and its signature (RFC 8410, X.690)."""
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_AGAIN = "put it back from a backup: the others know this node by its certificate"


@frozen
class TlsIdentity:
    """Certificate and key, in one file because a crash must not tear them apart."""

    path: Path
    certificate: bytes
    """DER."""

    @property
    def pin(self) -> bytes:
        return noderecord.pin(self.certificate)


def identity(home: Path) -> TlsIdentity:
    """The TLS identity of the home at `home`, made when it has none."""
    path = home / NAME
    if not path.is_file():
        return renew(home)
    try:
        text = path.read_text("ascii")
        start = text.index(_CERTIFICATE.decode())
        return TlsIdentity(path, ssl.PEM_cert_to_DER_cert(text[start:].strip()))
    except (OSError, ValueError) as e:
        raise Malformed(
            f"the TLS key of this home cannot be read: '{path}'",
            hint=_AGAIN,
        ) from e


def check(data: bytes) -> None:
    """`Malformed` unless these are, byte by byte, the key and certificate that `renew` would write."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        start = data.index(_CERTIFICATE)
        key, certificate = (
            load_pem_private_key(data[:start], None),
            x509.load_pem_x509_certificate(data[start:]),
        )
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("a key of another kind")
        key.public_key().verify(certificate.signature, certificate.tbs_certificate_bytes)
        body = certificate.tbs_certificate_bytes + _ED25519_BITS + certificate.signature
        if _pem(key, b"\x30\x82" + len(body).to_bytes(2, "big") + body) != data:
            raise ValueError("another spelling")
    except Exception as e:  # the library refuses damaged bytes in many ways, an internal error among them
        raise Malformed("the key and certificate in it are damaged", hint=_AGAIN) from e


def _pem(key: Ed25519PrivateKey, der: bytes) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + ssl.DER_cert_to_PEM_cert(der).encode()


def renew(home: Path) -> TlsIdentity:
    """A new key and certificate in place of what was there."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    der = _certificate(key)
    path = home / NAME
    write_file(path, _pem(key, der))
    return TlsIdentity(path, der)


def _certificate(key: object) -> bytes:
    """DER. Its name is a hash of its key: it tells nothing, and no two certificates share one."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    assert isinstance(key, Ed25519PrivateKey)
    public = key.public_key()
    of_key = x509.SubjectKeyIdentifier.from_public_key(public)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, of_key.digest.hex()[:16])])
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    # RFC 5280 §4.1.2.5: no expiry. A node with a wrong clock must still reach its peers, and what
    # ends a certificate here is a newer node record.
    start, end = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(of_key, critical=False)
        # Strict checking (RFC 5280) asks for both key identifiers.
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, None)
        .public_bytes(Encoding.DER)
    )


def server_context(own: TlsIdentity, trusted: Iterable[bytes], *, pairing: bool) -> ssl.SSLContext:
    """For incoming connections. `trusted` are peers' certificates (DER).

    While `pairing`, a stranger may connect without a certificate; without a pinned one it is then spoken to
    about pairing alone.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, own, trusted)
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_OPTIONAL if pairing else ssl.CERT_REQUIRED
    context.set_alpn_protocols([PEERS, PAIRING] if pairing else [PEERS])
    return context


def client_context(own: TlsIdentity, trusted: Iterable[bytes], *, sieved: bool = True) -> ssl.SSLContext:
    """For dialing peers. Without the sieve of the chain for one of whom only the pin is known.

    TLS proves in any case that the other end holds the key of the certificate it shows.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, own, trusted)
    context.verify_mode = ssl.CERT_REQUIRED if sieved else ssl.CERT_NONE
    context.set_alpn_protocols([PEERS])
    return context


def joining_context() -> ssl.SSLContext:
    """For a joiner, which shows no certificate and knows the inviter's pin alone: it compares it itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([PAIRING])
    return context


def _context(side: int, own: TlsIdentity, trusted: Iterable[bytes]) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # certificates name keys, not hosts
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(own.path)
    for der in trusted:
        try:
            context.load_verify_locations(cadata=der)
        except ssl.SSLError:
            continue  # a record whose certificate OpenSSL cannot read costs its owner alone
    return context
