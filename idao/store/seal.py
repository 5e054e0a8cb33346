"""Sealing: chunks under keys of their own, those keys and other secrets under the home's data key.

Chunks go through libsodium's functions directly (`nacl._sodium`, what PyNaCl itself calls): from the read
buffer into the pack buffer, without a bytes object between; PyNaCl's own wrappers copy twice and cost 2.2
times the whole intake.

A chunk key seals one content once and for all, so the nonce is zero. Everything else takes a random nonce.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from blake3 import blake3

from idao.crypto import sodium
from idao.crypto.hashing import Kind, derive_secret, hasher
from idao.errors import Missing, VerificationFailed
from idao.manifest import AEGIS, AEGIS_ZSTD, COMPRESSED, PAGE_BYTES, XCHACHA, XCHACHA_ZSTD

TAG_MAX = 32
"""Bytes that sealing adds at most: 32 for AEGIS-256, 16 for XChaCha20-Poly1305."""
WRAPPED_KEY = 32 + 16
"""A chunk's wrapped key as homes of format 2 had it: sealed key, tag. The nonce is the start of the sealed
chunk's hash: another key makes another hash. Today's are as `wrap` makes them."""
SEALED_KEPT = 16 * 1024
"""Of longer sealed chunks the index keeps the hash. Shorter ones are read again when their content is met
again: that costs less than 32 bytes for each small file of a home."""
CHUNK_BYTES_MAX = 2 * 1024 * 1024
"""Largest chunk: what one sealed chunk may claim to unpack to, and a third of what memory holds at once."""
ZSTD_LEVEL = 1
"""Fast enough to hide behind the disk; stored size is that of tools which spend more."""
ZSTD_SMALL = 16 * 1024
"""Contents up to this size are looked at for matches of 6 bytes and more, as that level does with larger ones
itself: a tenth less time, and no more bytes on the mean of tables, JSON and texts."""

WRAP_KEY, WRAP_SECRET = b"chunk key", b"intake"

Cdata = Any


@functools.cache
def _sodium() -> tuple[Any, Any]:
    try:
        from nacl._sodium import ffi, lib
    except ImportError as e:  # pragma: no cover - a broken installation
        raise Missing("libsodium is missing", hint="pip install pynacl") from e
    lib.sodium_init()  # chooses the fast code of this CPU; without it AEGIS runs at a hundredth of its speed
    return ffi, lib


@functools.cache
def fast_aes() -> bool:
    """Whether this CPU has AES instructions (then AEGIS-256 is seven times as fast as XChaCha20)."""
    _, lib = _sodium()
    return bool(lib.crypto_aead_aes256gcm_is_available()) and hasattr(lib, "crypto_aead_aegis256_encrypt")


def forms() -> tuple[int, int]:
    """(plain, compressed) form for new chunks on this machine. All forms can be read everywhere."""
    return (AEGIS, AEGIS_ZSTD) if fast_aes() else (XCHACHA, XCHACHA_ZSTD)


_ZERO_NONCE = bytes(32)
_FORM_BYTE = tuple(bytes((form,)) for form in range(256))


Compress = Callable[[bytes | memoryview], bytes]


def compressors() -> tuple[Compress, Compress, Compress]:
    """zstd for chunks: of up to ZSTD_SMALL bytes, of others, and of pages of manifests, in which rows of
    copies and parts of long paths repeat from farther back. Its frames hold the size of the content. For one
    thread."""
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level
    small = parameters(ZSTD_LEVEL, source_size=ZSTD_SMALL, hash_log=13, min_match=6)
    page = parameters(ZSTD_LEVEL, source_size=PAGE_BYTES, hash_log=15, min_match=5)
    return (
        zstandard.ZstdCompressor(compression_params=small).compress,
        zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress,
        zstandard.ZstdCompressor(compression_params=page).compress,
    )


class ChunkSealer:
    """Seals and opens chunks with libsodium's C functions. One per thread."""

    __slots__ = (
        "_decompress", "_functions", "_length", "_null", "ffi"
    )  # fmt: skip

    def __init__(self) -> None:
        self.ffi, lib = _sodium()
        self._length = self.ffi.new("unsigned long long *")
        aegis = (lib.crypto_aead_aegis256_encrypt, lib.crypto_aead_aegis256_decrypt, 32)
        xchacha = (
            lib.crypto_aead_xchacha20poly1305_ietf_encrypt,
            lib.crypto_aead_xchacha20poly1305_ietf_decrypt,
            16,
        )
        self._functions = {AEGIS: aegis, AEGIS_ZSTD: aegis, XCHACHA: xchacha, XCHACHA_ZSTD: xchacha}
        self._null = self.ffi.NULL
        self._decompress: Any = None

    def seal(self, form: int, key: bytes, chunk_id: bytes, source: Cdata, size: int, out: Cdata) -> int:
        """Seals `size` bytes at `source` to `out`, which has room for TAG_MAX more. Returns bytes written."""
        encrypt, _, tag = self._functions[form]
        null = self._null
        encrypt(out, null, source, size, _FORM_BYTE[form] + chunk_id, 33, null, _ZERO_NONCE, key)
        return size + tag

    def open(self, form: int, key: bytes, chunk_id: bytes, size: int, sealed: bytes) -> bytes:
        """The content of a sealed chunk. `VerificationFailed` if key, id, form, size or a byte is wrong."""
        opened = self.unseal(form, key, chunk_id, size, sealed)
        content = self._unpack(opened, size) if form in COMPRESSED else opened
        if len(content) != size:
            raise VerificationFailed("chunk has another size than its record says", code="chunk-damaged")
        return content

    def unseal(self, form: int, key: bytes, chunk_id: bytes, size: int, sealed: bytes) -> bytes:
        """The same, not unpacked yet: that it opens shows that it is as it was sealed."""
        _, decrypt, tag = self._functions.get(form, (None, None, 0))
        if decrypt is None:
            raise VerificationFailed("chunk has an unknown form", code="chunk-damaged")
        n = len(sealed) - tag
        if n < 0 or not 0 <= size <= CHUNK_BYTES_MAX:
            raise VerificationFailed("chunk has an impossible size", code="chunk-damaged")
        out = bytearray(n)
        ad = _FORM_BYTE[form] + chunk_id
        null = self.ffi.NULL
        target = self.ffi.from_buffer("unsigned char[]", out) if n else null
        if decrypt(target, self._length, null, sealed, len(sealed), ad, 33, _ZERO_NONCE, key) != 0:
            raise VerificationFailed("chunk does not open under its key", code="chunk-damaged")
        return bytes(out)

    def _unpack(self, data: bytes, size: int) -> bytes:
        import zstandard

        try:
            # A hostile grantor could announce a frame that takes all memory: the recorded size binds.
            if zstandard.frame_content_size(data) != size:
                raise VerificationFailed("chunk has another size than its record says", code="chunk-damaged")
            if self._decompress is None:
                self._decompress = zstandard.ZstdDecompressor()
            return bytes(self._decompress.decompress(data))
        except zstandard.ZstdError as e:
            raise VerificationFailed(f"chunk does not unpack: {e}", code="chunk-damaged") from e


sealed_hash = hasher(Kind.CHUNK_LEAF)
"""Hash of sealed bytes: a leaf of the chunk root."""


def wrap(key: bytes, secret: bytes, purpose: bytes) -> bytes:
    """`secret` sealed under `key` for one purpose, with a random nonce: XChaCha20-Poly1305."""
    nonce = os.urandom(sodium.NONCE)
    return nonce + sodium.seal(secret, purpose, nonce, key)


def unwrap(key: bytes, wrapped: bytes, purpose: bytes) -> bytes:
    """Undoes `wrap`. `VerificationFailed` when key, purpose or bytes are not those of the wrapping."""
    secret = None
    if type(wrapped) is bytes and len(wrapped) > sodium.NONCE:  # a damaged row may hold anything
        secret = sodium.unseal(wrapped[sodium.NONCE :], purpose, wrapped[: sodium.NONCE], key)
    if secret is None:
        raise VerificationFailed("a wrapped key does not open", code="key-damaged")
    return secret


def chunk_key(secret: bytes, chunk_id: bytes) -> bytes:
    """The key of a chunk that the intake with this secret stores."""
    return blake3(chunk_id, key=secret).digest()


def unwrap_key(wrapping: bytes, chunk_id: bytes, sealed: bytes | None, wrapped: bytes) -> bytes:
    """A chunk's key that is wrapped in the index; `VerificationFailed`."""
    if type(chunk_id) is type(wrapped) is bytes:  # a damaged page can hold anything here
        if len(wrapped) != WRAPPED_KEY:
            return unwrap(wrapping, wrapped, WRAP_KEY + chunk_id)
        if type(sealed) is bytes and len(sealed) == 32:
            key = sodium.unseal(wrapped, chunk_id, sealed[:24], wrapping)
            if key is not None:
                return key
    raise VerificationFailed("a chunk's key does not open", code="key-damaged")


class StoreKeys:
    """The keys that one home's contents need, each derived for one purpose from the home's data key.

    Asset and chunk keys are not among them: those are random, and wrapped under `wrapping`.
    """

    __slots__ = ("chunk_id", "chunker_seed", "scan", "source", "wrapping")

    def __init__(self, data_key: bytes) -> None:
        if len(data_key) != 32:
            raise ValueError("a data key has 32 bytes")
        self.chunk_id = derive_secret("idao 1 store chunk id", data_key)
        self.wrapping = derive_secret("idao 1 store wrapping", data_key)
        self.scan = derive_secret("idao 1 store scan", data_key)
        self.source = derive_secret("idao 1 store source", data_key)
        seed = derive_secret("idao 1 store chunker", data_key)
        self.chunker_seed = int.from_bytes(seed[:8], "big") >> 1 | 1  # 63 bits; 0 would mean the public table

    def id_of(self, content_hash: bytes) -> bytes:
        """A chunk's id: keyed, so that nobody outside can tell whether a guessed content is here."""
        return blake3(content_hash, key=self.chunk_id).digest()


def manifest_seal(asset_key: bytes, packed: bytes) -> bytes:
    """The head of a manifest under its asset key, which seals nothing else."""
    return wrap(asset_key, packed, b"idao manifest 1")


def manifest_open(asset_key: bytes, sealed: bytes) -> bytes:
    return unwrap(asset_key, sealed, b"idao manifest 1")


def source_of(keys: StoreKeys, paths: list[bytes]) -> bytes:
    """A name for a set of paths on this machine that does not show them."""
    return blake3(b"\0".join(paths), key=keys.source).digest()
