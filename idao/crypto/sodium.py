"""What every command needs of libsodium, called as PyNaCl calls it.

`nacl.bindings` loads all families of functions, two milliseconds of a command's start, and copies what is
signed once more. Sizes are checked here: libsodium reads as many bytes as it expects.
"""

from __future__ import annotations

from nacl._sodium import ffi, lib

SEED, SECRET, SIGNATURE = 32, 64, 64
KEY, NONCE, TAG = 32, 24, 16
"""Bytes, of Ed25519 and of XChaCha20-Poly1305."""

if lib.sodium_init() < 0:  # pragma: no cover - no entropy, or a broken installation
    raise RuntimeError("libsodium cannot be used here")

_NOTHING = ffi.NULL
_open = lib.crypto_sign_open


def _require(good: bool, what: str) -> None:
    if not good:
        raise ValueError(what)


def keypair(seed: bytes) -> tuple[bytes, bytes]:
    """(public, secret) Ed25519 key of a seed."""
    _require(len(seed) == SEED, "a seed has 32 bytes")
    public, secret = ffi.new("unsigned char[]", 32), ffi.new("unsigned char[]", SECRET)
    _require(lib.crypto_sign_seed_keypair(public, secret, seed) == 0, "no key of this seed")
    return ffi.buffer(public)[:], ffi.buffer(secret)[:]


def sign(message: bytes, secret: bytes) -> bytes:
    """The Ed25519 signature alone."""
    _require(len(secret) == SECRET, "a secret key has 64 bytes")
    signed = ffi.new("unsigned char[]", SIGNATURE + len(message))
    _require(lib.crypto_sign(signed, _NOTHING, message, len(message), secret) == 0, "nothing can be signed")
    signature: bytes = ffi.buffer(signed, SIGNATURE)[:]
    return signature


def verify(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether libsodium accepts an Ed25519 signature; false, too, for a key or signature of another size."""
    if len(key) != 32 or len(signature) != SIGNATURE:
        return False
    signed = signature + message
    verdict: int = _open(_NOTHING, _NOTHING, signed, len(signed), key)
    return verdict == 0


def seal(data: bytes, purpose: bytes, nonce: bytes, key: bytes) -> bytes:
    """XChaCha20-Poly1305 (IETF) of `data`, tag at the end; `purpose` is authenticated with it."""
    _require(len(nonce) == NONCE and len(key) == KEY, "a nonce has 24 bytes, a key 32")
    out = ffi.new("unsigned char[]", len(data) + TAG)
    lib.crypto_aead_xchacha20poly1305_ietf_encrypt(
        out, _NOTHING, data, len(data), purpose, len(purpose), _NOTHING, nonce, key
    )
    sealed: bytes = ffi.buffer(out)[:]
    return sealed


def unseal(sealed: bytes, purpose: bytes, nonce: bytes, key: bytes) -> bytes | None:
    """Undoes `seal`. None where key, purpose, nonce or bytes are not those of the sealing."""
    _require(len(nonce) == NONCE and len(key) == KEY, "a nonce has 24 bytes, a key 32")
    if len(sealed) < TAG:
        return None
    out = ffi.new("unsigned char[]", len(sealed) - TAG or 1)
    refused = lib.crypto_aead_xchacha20poly1305_ietf_decrypt(
        out, _NOTHING, _NOTHING, sealed, len(sealed), purpose, len(purpose), nonce, key
    )
    return None if refused else bytes(ffi.buffer(out, len(sealed) - TAG))
