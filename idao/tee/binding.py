"""What the 64 free bytes of evidence must say, so that it backs one key and no other (research: binding).

report_data = SHA-512("idao-tee-binding-v1" ‖ 0 ‖ canonical claims). All 64 bytes count: no prefix, no zero
fill. The claims hold a beacon, the hash of a recent anchor, so that every peer can judge the same evidence
without a challenge of its own. A channel in which evidence was shown is not thereby attested: the key is.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Callable, Iterable
from typing import Annotated

from idao.crypto import canonical
from idao.crypto.hashing import Kind, digest
from idao.errors import Malformed
from idao.frozen import frozen
from idao.model import Hash, Id, PublicKey, Range, Word
from idao.tee.policy import TeePolicy
from idao.tee.result import Findings

TAG = b"idao-tee-binding-v1\0"
KEYS_MAX = 4
"""Keys that one foreign rule binds together: two in every one seen."""


@frozen
class Claims:
    """Who speaks through the evidence. `nonce` is a beacon; `not_after_ms` is at most its time plus the
    policy's greatest age."""

    v: Annotated[int, Range(1, 1)]
    quorum: Id
    idao: Id
    key: PublicKey
    role: Word
    nonce: Hash
    not_after_ms: int


def beacon(quorum: bytes, header: bytes) -> bytes:
    """The nonce that an anchored block gives: nobody knew it before."""
    return digest(Kind.BEACON, quorum + header)


def report_data(claims: Claims) -> bytes:
    """The 64 bytes to ask the device to sign."""
    return _bound(canonical.pack(claims))


def _bound(claims: bytes) -> bytes:
    return hashlib.sha512(TAG + claims).digest()


@frozen
class Expected:
    """What a verifier wants bound. Empty fields ask nothing.

    `beacons` are (nonce, block time in ms) of the anchors that the verifier knows and takes.
    """

    quorum: bytes = b""
    idao: bytes = b""
    role: str = ""
    keys: tuple[bytes, ...] = ()
    """Public keys: 32 raw bytes, or DER SPKI. Two or more: bound together, in this order."""
    beacons: tuple[tuple[bytes, int], ...] = ()


def check(found: Findings, claims: bytes, expected: Expected | None, policy: TeePolicy, now_ms: int) -> None:
    """Adds the checks of binding and freshness to `found`."""
    if claims:
        _check_claims(found, claims, expected, policy, now_ms)
    elif expected is not None and expected.keys:
        rule = foreign_rule(found.bound, expected.keys)
        found.check("binding", bool(rule), rule)
        if rule:
            found.warnings.append(f"bound by the foreign rule '{rule}', which names no quorum and no beacon")
    if not claims and expected is not None and (expected.quorum or expected.idao or expected.beacons):
        found.check("claims", False, "the evidence shows no claims of idao", "binding")


def _check_claims(
    found: Findings, packed: bytes, expected: Expected | None, policy: TeePolicy, now_ms: int
) -> None:
    claims = canonical.unpack(Claims, packed)
    want = _bound(packed)
    held = any(hmac.compare_digest(want, field) for field in found.bound)
    found.check("binding", held)
    found.window(0, claims.not_after_ms)
    found.check("claims expiry", now_ms <= claims.not_after_ms, "", "claims-expired")
    if expected is None:
        found.warnings.append("nothing was named that the evidence should back")
        return
    for name in ("quorum", "idao", "role"):
        wanted = getattr(expected, name)
        if wanted:
            found.check(f"claims: {name}", getattr(claims, name) == wanted, "", "binding")
    if expected.keys:
        found.check("claims: key", expected.keys == (claims.key,), "", "binding")
    if not expected.beacons:
        found.warnings.append("no anchors were named: the freshness of the beacon was not judged")
        return
    times = [t for nonce, t in expected.beacons if hmac.compare_digest(nonce, claims.nonce)]
    if found.check("beacon", bool(times), "", "nonce"):
        age = now_ms - times[0]
        found.check("age of beacon", -policy.clock_skew_ms <= age <= policy.max_age_ms, f"{age} ms", "stale")
        latest = times[0] + policy.max_age_ms
        found.check("claims life", claims.not_after_ms <= latest, "", "stale")
        found.window(0, latest)


# --- rules of others --------------------

_Rule = Callable[[tuple[bytes, ...]], bytes]


def _padded(name: str) -> _Rule:
    return lambda keys: hashlib.new(name, b"".join(keys)).digest().ljust(64, b"\0")


def _near(keys: tuple[bytes, ...]) -> bytes:
    return b"\0\1" + hashlib.sha3_384(b"".join(keys)).digest() + bytes(14)


def _digest_then_key(keys: tuple[bytes, ...]) -> bytes:
    return hashlib.sha256(keys[0]).digest() + b"".join(keys[1:])


def _key_and_nonce(keys: tuple[bytes, ...]) -> bytes:
    return hashlib.sha256(b"idao-key-binding-v1\0" + b"".join(keys)).digest()


FOREIGN: tuple[tuple[str, int, _Rule], ...] = (
    # (name, number of keys or 0 for any, the whole field)
    ("key itself", 0, lambda keys: b"".join(keys)),
    ("sha512", 0, lambda keys: hashlib.sha512(b"".join(keys)).digest()),
    ("sha384", 0, lambda keys: hashlib.sha384(b"".join(keys)).digest()),
    ("sha256", 0, lambda keys: hashlib.sha256(b"".join(keys)).digest()),
    ("sha256, zeros", 0, _padded("sha256")),
    ("sha384, zeros", 0, _padded("sha384")),
    ("sha512 of app-data", 0, lambda keys: hashlib.sha512(b"app-data:" + b"".join(keys)).digest()),
    ("near-mpc", 2, _near),
    ("sha256 of the first, then the second", 2, _digest_then_key),
    ("idao-key-binding-v1", 2, _key_and_nonce),
)
"""Rules met in public evidence. Each fixes the whole field; none counts for a quorum of idao."""


def foreign_rule(bound: Iterable[bytes], keys: tuple[bytes, ...]) -> str:
    """The name of the first rule by which a field binds exactly these keys in this order; else empty."""
    fields = tuple(bound)
    if not 1 <= len(keys) <= KEYS_MAX or not all(keys):
        return ""
    for chosen in itertools.product(*(_forms(k) for k in keys)):
        for name, count, rule in FOREIGN:
            want = rule(chosen) if count in (0, len(chosen)) else b""
            if want and any(hmac.compare_digest(want, field) for field in fields):
                return name
    return ""


def _forms(key: bytes) -> tuple[bytes, ...]:
    """A key as given, and a DER SPKI of Ed25519 or X25519 also as its 32 raw bytes."""
    if len(key) == 44 and key[:4] == b"\x30\x2a\x30\x05":
        return key, key[12:]
    return (key,)


_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def read_key(data: bytes) -> bytes:
    """A public key from a file or an argument: did:key, `ed25519:` and base58, hex, PEM, DER or raw bytes.

    A certificate stands for its public key. `Malformed` for anything else.
    """
    import re

    from idao.tee import given

    text = data.decode("ascii", "replace").strip()
    if text.startswith("did:key:z"):
        from idao.crypto.keys import parse_did_key

        return parse_did_key(text)
    if text.startswith("ed25519:"):
        return _unbase58(text.removeprefix("ed25519:"))
    if re.fullmatch(r"(0x)?([0-9a-fA-F]{2}){16,600}", text):
        return bytes.fromhex(text.removeprefix("0x"))
    found = given.sort_files([data])
    if found.certificates:
        from idao.tee import certs

        return certs.load(found.certificates[0]).spki
    if found.keys:
        return found.keys[0]
    if 32 <= len(data) <= given.TEXT_BYTES_MAX:
        return data
    raise Malformed("not a public key")


BASE58_CHARS_MAX = 44
"""58 ** 44 is above 2 ** 256."""


def _unbase58(text: str) -> bytes:
    if len(text) > BASE58_CHARS_MAX or set(text) - set(_BASE58):
        raise Malformed("not a public key")
    value = 0
    for c in text:
        value = value * 58 + _BASE58.index(c)
    if value >> 256:
        raise Malformed("not a public key")
    return value.to_bytes(32, "big")
