"""Invites: the one line that lets one newcomer in once, and the six words that both sides compare (ADR 0035).

An invite is `idao1` and lower-case base32 (RFC 4648 §6, no padding) of

    version 1 | secret 16 | pin 16 | quorum 8 | expiry 4 (POSIX seconds) | addresses | check 4

where `pin` and `quorum` are the first bytes of the inviter's certificate hash and of the quorum id, an
address is `4|6`, its 4 or 16 bytes and a port of 2, and `check` is a hash of all before it: a mistyped letter
is noticed before anything is sent. The secret is random, not a password, so a message code with it as key
proves that one holds it and gives nothing to guess from.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from ipaddress import ip_address

from idao import noderecord
from idao.crypto import canonical, hashing, phrase
from idao.crypto.hashing import Kind
from idao.errors import Malformed, UsageError
from idao.frozen import frozen

PREFIX = "idao1"
SECRET_BYTES = 16
"""128 bits: nobody guesses it, on the wire or off."""
PIN_BYTES = 16
"""Of the certificate's hash: finding another certificate with the same is 2^128 work."""
QUORUM_BYTES = 8
CHECK_BYTES = 4
ADDRESSES_MAX = 3
"""Three IPv4 addresses make a line of 119 characters: one QR code, one line of a chat."""
TEXT_MAX = 400
"""Characters of a pasted invite, with room for line breaks: longer is something else."""
VALID_MS = 10 * 60 * 1000
WORDS = 6
"""66 bits. As keys and nonces are committed to, an attacker has one attempt for each attempt of a person."""
_HEAD = 1 + SECRET_BYTES + PIN_BYTES + QUORUM_BYTES + 4


class Secret(bytes):
    """Bytes that no traceback or log shows."""

    def __repr__(self) -> str:
        return "Secret(...)"


@frozen
class Invite:
    secret: Secret
    pin: bytes
    quorum: bytes
    expires_s: int
    addresses: tuple[str, ...]


def encode(invite: Invite) -> str:
    """The line to hand over. It is a secret until it is used."""
    data = b"\x01" + invite.secret + invite.pin + invite.quorum + invite.expires_s.to_bytes(4, "big")
    for address in invite.addresses[:ADDRESSES_MAX]:
        host, port = noderecord.split_literal(address)
        packed = ip_address(host).packed
        data += (b"\x04" if len(packed) == 4 else b"\x06") + packed + port.to_bytes(2, "big")
    data += _check(data)
    return PREFIX + base64.b32encode(data).decode().lower().rstrip("=")


def decode(text: str) -> Invite:
    """The invite of a pasted line; spaces, line breaks and capitals do not matter. `UsageError` otherwise.

    No message repeats what was typed: it may be nearly right, and is a secret.
    """
    plain = re.sub(r"\s+", "", text).lower() if len(text) <= TEXT_MAX else ""
    if not plain.startswith(PREFIX):
        raise UsageError(
            "not an invite: it is one line that begins with 'idao1'", hint="copy the whole line again"
        )
    body = plain.removeprefix(PREFIX).upper()
    try:
        data = base64.b32decode(body + "=" * (-len(body) % 8))
    except (binascii.Error, ValueError):
        data = b""
    if len(data) < _HEAD + CHECK_BYTES or not hmac.compare_digest(_check(data[:-4]), data[-4:]):
        raise UsageError("the invite is mistyped or cut short", hint="copy the whole line again")
    if data[0] != 1:
        raise UsageError("the invite was made by a newer idao", hint="update idao on this machine")
    secret, pin = Secret(data[1:17]), data[17:33]
    expires = int.from_bytes(data[41:45], "big")
    try:
        invite = Invite(secret, pin, data[33:41], expires, _addresses(data[_HEAD:-CHECK_BYTES]))
        if encode(invite) == PREFIX + body.lower():
            return invite
    except (Malformed, ValueError, IndexError):
        pass
    raise UsageError("the invite does not hold together", hint="ask for a new one")


def _addresses(data: bytes) -> tuple[str, ...]:
    out = []
    while data:
        size = {4: 4, 6: 16}[data[0]] if data[0] in (4, 6) else len(data)
        host = str(ip_address(data[1 : 1 + size]))
        out.append(noderecord.join_address(host, int.from_bytes(data[1 + size : 3 + size], "big")))
        data = data[3 + size :]
    if len(out) > ADDRESSES_MAX:
        raise Malformed("too many addresses")
    return tuple(out)


def _check(data: bytes) -> bytes:
    return hashing.digest(Kind.INVITE, data)[:CHECK_BYTES]


def expired(invite: Invite, now_ms: int) -> bool:
    return now_ms >= invite.expires_s * 1000


# --- proving that one holds it ------------------------------------------------------------------------


def proof(secret: bytes, step: int, transcript: Sequence[bytes]) -> bytes:
    """What shows, at `step` of the pairing, that the sender has the secret and saw all of `transcript`."""
    key = hashing.derive_secret("idao 1 pairing key", secret)
    return hashing.keyed(key, canonical.encode([step, *transcript]))


def proven(secret: bytes, step: int, transcript: Sequence[bytes], shown: bytes) -> bool:
    return hmac.compare_digest(proof(secret, step, transcript), shown)


def commitment(nonce: bytes, idao: bytes, key: bytes, tls: bytes) -> bytes:
    """What a joiner says first: it fixes who it is and its nonce, and tells neither."""
    return hashing.digest(Kind.PAIRING, canonical.encode([nonce, idao, key, tls]))


def words(
    quorum: bytes, inviter_tls: bytes, nonces: tuple[bytes, bytes], who: tuple[bytes, bytes, bytes]
) -> str:
    """Six words that are the same on two screens only if both speak of the same keys in the same pairing.

    `nonces` are the joiner's and the inviter's, `who` the joiner's iDAO, validator key and certificate hash.
    """
    data = canonical.encode([quorum, inviter_tls, *nonces, *who])
    return phrase.spoken(hashing.digest(Kind.PAIRING_WORDS, data), WORDS)


def same_words(typed: str, expected: str) -> bool:
    """Whether a person typed these words, however spaced, hyphenated or capitalised."""
    plain = " ".join(re.findall(r"[a-z]+", typed.lower()))
    return hmac.compare_digest(plain.encode(), expected.encode())
