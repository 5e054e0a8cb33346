"""libsodium called directly says what PyNaCl's own functions say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings
from nacl.exceptions import CryptoError

from idao.crypto import sodium

SEED, OTHER = bytes(range(32)), bytes(range(1, 33))
NONCE = bytes(24)


@given(st.binary(max_size=300), st.binary(min_size=32, max_size=32))
def test_signing_is_pynacls(message: bytes, seed: bytes) -> None:
    public, secret = sodium.keypair(seed)
    assert (public, secret) == bindings.crypto_sign_seed_keypair(seed)
    signature = sodium.sign(message, secret)
    assert signature + message == bindings.crypto_sign(message, secret)
    assert sodium.verify(public, signature, message)
    assert not sodium.verify(public, signature, message + b"x")
    assert not sodium.verify(sodium.keypair(OTHER)[0], signature, message) or seed == OTHER


def test_what_has_another_size_is_no_signature() -> None:
    public, secret = sodium.keypair(SEED)
    signature = sodium.sign(b"", secret)
    assert sodium.verify(public, signature, b"")
    for key, given_ in ((public[:31], signature), (public + b"x", signature), (public, signature[:63])):
        assert not sodium.verify(key, given_, b"")
    assert not sodium.verify(public, signature + b"x", b"")


@given(st.binary(max_size=300), st.binary(max_size=40), st.binary(min_size=24, max_size=24))
def test_sealing_is_pynacls(data: bytes, purpose: bytes, nonce: bytes) -> None:
    sealed = sodium.seal(data, purpose, nonce, SEED)
    assert sealed == bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(data, purpose, nonce, SEED)
    assert sodium.unseal(sealed, purpose, nonce, SEED) == data
    assert sodium.unseal(sealed, purpose + b"x", nonce, SEED) is None
    assert sodium.unseal(sealed, purpose, nonce, OTHER) is None


def test_what_was_changed_or_cut_does_not_open() -> None:
    sealed = sodium.seal(b"secret", b"purpose", NONCE, SEED)
    for n in range(len(sealed)):
        assert sodium.unseal(sealed[:n], b"purpose", NONCE, SEED) is None
        changed = sealed[:n] + bytes([sealed[n] ^ 1]) + sealed[n + 1 :]
        assert sodium.unseal(changed, b"purpose", NONCE, SEED) is None
        with pytest.raises(CryptoError):
            bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(changed, b"purpose", NONCE, SEED)


def test_keys_of_another_size_never_reach_libsodium() -> None:
    secret = sodium.keypair(SEED)[1]
    for wrong in (b"", SEED[:31], SEED + b"x"):
        with pytest.raises(ValueError, match="32 bytes"):
            sodium.keypair(wrong)
        with pytest.raises(ValueError, match="a key 32"):
            sodium.seal(b"", b"", NONCE, wrong)
        with pytest.raises(ValueError, match="a key 32"):
            sodium.unseal(bytes(16), b"", NONCE, wrong)
    for nonce in (NONCE[:23], NONCE + b"x"):
        with pytest.raises(ValueError, match="a nonce has 24"):
            sodium.seal(b"", b"", nonce, SEED)
    with pytest.raises(ValueError, match="64 bytes"):
        sodium.sign(b"", secret[:63])
