"""Ed25519 signing and checking: one method for each thing that may be signed, and no `sign(bytes)`.

A signature covers `domain tag || 0x00 || canonical bytes`. The verifier is libsodium's alone: it refuses
non-canonical and small-order points (OpenSSL accepts 73 of 576 vectors that libsodium refuses).
C2SP notes are the one exception to the domain rule: their text is the domain (see `crypto.note`).
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from idao.crypto import canonical, sodium
from idao.model import Genesis, KeyEvent, Vote

TAG_TX = b"idao/transaction/1"
TAG_GENESIS = b"idao/genesis/1"
TAG_KEY_EVENT = b"idao/key-event/1"
TAG_CONSENSUS = b"idao/consensus/1"
TAG_NODE_RECORD = b"idao/node-record/1"
TAG_USAGE = b"idao/usage/1"
TAG_POSSESSION = b"idao/possession/1"
_TX, _CONSENSUS = TAG_TX + b"\0", TAG_CONSENSUS + b"\0"


class Signer:
    """Holds one Ed25519 secret. Every method names what it signs; none takes raw bytes."""

    __slots__ = ("_secret", "public")

    def __init__(self, seed: bytes) -> None:
        """`seed` has 32 bytes."""
        self.public, self._secret = sodium.keypair(seed)

    def __repr__(self) -> str:
        return f"Signer({did_key(self.public)})"

    def _sign(self, message: bytes) -> bytes:
        return sodium.sign(message, self._secret)

    def sign_tx(self, envelope: bytes) -> bytes:
        """A transaction, given the canonical bytes of its envelope."""
        return self._sign(TAG_TX + b"\0" + envelope)

    def sign_genesis(self, genesis: Genesis) -> bytes:
        return self._sign(TAG_GENESIS + b"\0" + canonical.pack(genesis))

    def sign_key_event(self, event: KeyEvent) -> bytes:
        return self._sign(TAG_KEY_EVENT + b"\0" + canonical.pack(event))

    def sign_vote(self, vote: Vote) -> bytes:
        """A consensus message. Only after its slot has been decided (the order law)."""
        return self._sign(TAG_CONSENSUS + b"\0" + canonical.pack(vote))

    def sign_node_record(self, record: Any) -> bytes:
        return self._sign(TAG_NODE_RECORD + b"\0" + canonical.pack(record))

    def sign_possession(self, quorum: bytes, idao: bytes) -> bytes:
        """That this validator key is held by `idao`, for a seat in `quorum`: nobody can claim another's."""
        return self._sign(TAG_POSSESSION + b"\0" + canonical.encode([quorum, idao]))

    def sign_checkpoint(self, text: bytes) -> bytes:
        """As a log: the C2SP note signature (type 0x01) over a checkpoint's text."""
        _require_checkpoint(text)
        return self._sign(text)

    def cosign_checkpoint(self, text: bytes, time_s: int) -> bytes:
        """As a witness: the C2SP cosignature/v1 (type 0x04); POSIX seconds."""
        _require_checkpoint(text)
        return self._sign(cosigned_message(text, time_s))


def _require_checkpoint(text: bytes) -> None:
    # The only raw text a key signs must look like a checkpoint of ours, never like a tagged message.
    if not text.startswith(b"idao/quorum:") or not text.endswith(b"\n"):
        raise ValueError("not a checkpoint of idao")


def cosigned_message(text: bytes, time_s: int) -> bytes:
    """C2SP tlog-cosignature, 'Ed25519 signed message'."""
    return b"cosignature/v1\ntime %d\n%s" % (time_s, text)


verify = sodium.verify
"""(key, signature, message): whether libsodium accepts. `message` is complete, tag included."""

Verify = Callable[[bytes, bytes, bytes], bool]
"""(key, signature, message) -> whether it holds. `verify` is the one; an audit passes one that collects."""


def verify_tx(key: bytes, signature: bytes, envelope: bytes, check: Verify = verify) -> bool:
    return check(key, signature, _TX + envelope)


def verify_genesis(key: bytes, signature: bytes, genesis: Genesis) -> bool:
    return verify(key, signature, TAG_GENESIS + b"\0" + canonical.pack(genesis))


def verify_key_event(key: bytes, signature: bytes, event: KeyEvent) -> bool:
    return verify(key, signature, TAG_KEY_EVENT + b"\0" + canonical.pack(event))


def verify_vote(key: bytes, signature: bytes, vote: Vote, check: Verify = verify) -> bool:
    return check(key, signature, _CONSENSUS + canonical.pack(vote))


def verify_possession(key: bytes, signature: bytes, quorum: bytes, idao: bytes) -> bool:
    return verify(key, signature, TAG_POSSESSION + b"\0" + canonical.encode([quorum, idao]))


def verify_node_record(key: bytes, signature: bytes, record: Any) -> bool:
    return verify(key, signature, TAG_NODE_RECORD + b"\0" + canonical.pack(record))


_B58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_MULTICODEC_ED25519 = b"\xed\x01"


def did_key(public: bytes) -> str:
    """did:key of an Ed25519 public key: multibase base58btc of the multicodec and the key (z6Mk…)."""
    n = int.from_bytes(_MULTICODEC_ED25519 + public, "big")
    out = ""
    while n:
        n, r = divmod(n, 58)
        out = _B58[r] + out
    return "did:key:z" + out


def parse_did_key(text: str) -> bytes:
    """The 32 bytes of a did:key. `Malformed` otherwise."""
    from idao.errors import Malformed

    head, body = text[:9], text[9:]
    if head != "did:key:z" or not body or len(body) > 64 or any(c not in _B58 for c in body):
        raise Malformed(f"not an Ed25519 did:key: '{text}'")
    n = 0
    for c in body:
        n = n * 58 + _B58.index(c)
    raw = n.to_bytes((n.bit_length() + 7) // 8, "big")
    if len(raw) != 34 or raw[:2] != _MULTICODEC_ED25519 or did_key(raw[2:]) != text:
        raise Malformed(f"not an Ed25519 did:key: '{text}'")
    return raw[2:]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
