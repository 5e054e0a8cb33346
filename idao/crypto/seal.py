"""Key files: secrets sealed by one key of the home (the KEK), which a lock file holds (ADR 0013).

    passphrase --Argon2id--> wrapping key --XChaCha20-Poly1305--> KEK --XChaCha20-Poly1305--> secrets

One Argon2id therefore opens every key file of a home, and a new passphrase rewrites the lock alone. The
lock of kind `no-passphrase` wraps the KEK under a key that anybody who has the file can derive: that
keeps one format and finds damage, it protects nothing, and its kind says so.

Nothing here reads entropy: callers pass random bytes.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from idao.crypto import canonical, sodium
from idao.crypto.hashing import derive_secret
from idao.errors import Locked, Malformed, UsageError
from idao.frozen import frozen
from idao.model import Range, Size, Word

T = TypeVar("T")

VERSION = 1
KEK_BYTES = 32
SALT_BYTES = 16
NONCE_BYTES = 24
TAG_BYTES = 16
LOCK_RANDOM_BYTES = SALT_BYTES + NONCE_BYTES

MEMORY_KIB_MIN, MEMORY_KIB_MAX = 8, 512 * 1024
"""Argon2id memory. The least is libsodium's; the most is what a laptop can spare, so that a hostile lock
cannot ask for a TiB."""
PASSES_MAX = 10
"""With the most memory about five seconds: slow, never a hang."""
PASSPHRASE_BYTES_MAX = 1024
SECRET_BYTES_MAX = 64 * 1024
"""A key file holds keys, not data."""
FILE_BYTES_MAX = SECRET_BYTES_MAX + 1024

PASSPHRASE, NO_PASSPHRASE = "passphrase", "no-passphrase"
_OPEN_CONTEXT = "idao 1 lock without passphrase"
_LOCK_TAG = b"idao/lock/1"
_SEALED_TAG = b"idao/sealed/1"


@frozen
class Cost:
    """What one guess at the passphrase costs: Argon2id 1.3 with one lane."""

    memory_kib: Annotated[int, Range(MEMORY_KIB_MIN, MEMORY_KIB_MAX)]
    passes: Annotated[int, Range(1, PASSES_MAX)]


DEFAULT_COST = Cost(memory_kib=64 * 1024, passes=3)
"""RFC 9106's second recommended choice (64 MiB, 3 passes) with libsodium's one lane: more than libsodium's
INTERACTIVE (2 passes), and half of what idao allows itself in memory."""


@frozen
class Lock:
    """The lock file. Without a passphrase `cost` is None."""

    v: Annotated[int, Range(VERSION, VERSION)]
    kind: Word
    cost: Cost | None
    salt: Annotated[bytes, Size(SALT_BYTES)]
    nonce: Annotated[bytes, Size(NONCE_BYTES)]
    box: Annotated[bytes, Size(KEK_BYTES + TAG_BYTES)]

    def __post_init__(self) -> None:
        if self.kind not in (PASSPHRASE, NO_PASSPHRASE) or (self.cost is None) != (
            self.kind == NO_PASSPHRASE
        ):
            raise Malformed("lock of an unknown kind")


@frozen
class Sealed:
    """A key file: one secret, bound to its purpose."""

    v: Annotated[int, Range(VERSION, VERSION)]
    purpose: Word
    nonce: Annotated[bytes, Size(NONCE_BYTES)]
    box: Annotated[bytes, Size(TAG_BYTES, SECRET_BYTES_MAX + TAG_BYTES)]


def make_lock(kek: bytes, passphrase: str | None, random: bytes, cost: Cost = DEFAULT_COST) -> bytes:
    """The lock file that yields `kek` (32 random bytes) to whoever knows `passphrase`, or to all if None.

    `random` is 40 fresh bytes. For a new home and for a changed passphrase alike: the key files stay.
    """
    if len(kek) != KEK_BYTES or len(random) != LOCK_RANDOM_BYTES:
        raise ValueError(f"a lock takes {KEK_BYTES} bytes of key and {LOCK_RANDOM_BYTES} of randomness")
    salt, nonce = random[:SALT_BYTES], random[SALT_BYTES:]
    kind, kept = (NO_PASSPHRASE, None) if passphrase is None else (PASSPHRASE, cost)
    wrapping = _wrapping_key(kept, salt, passphrase)
    box = sodium.seal(kek, _LOCK_TAG, nonce, wrapping)
    return canonical.pack(Lock(1, kind, kept, salt, nonce, box))


def open_lock(data: bytes, passphrase: str | None) -> bytes:
    """The KEK. A lock without passphrase ignores the one given.

    `Locked` for a missing or wrong passphrase (damage of the box looks the same), `Malformed` for bytes
    that are no lock.
    """
    lock = _read_lock(data)
    if lock.kind == PASSPHRASE and passphrase is None:
        raise Locked(
            "the keys of this home are locked by a passphrase",
            hint="give --passphrase-file FILE, or set IDAO_PASSPHRASE_FILE or IDAO_PASSPHRASE_COMMAND",
        )
    wrapping = _wrapping_key(lock.cost, lock.salt, passphrase)
    kek = sodium.unseal(lock.box, _LOCK_TAG, lock.nonce, wrapping)
    if kek is None:
        if lock.kind == NO_PASSPHRASE:
            raise Malformed("the lock file is damaged", hint="restore it from a backup")
        raise Locked("wrong passphrase, or a damaged lock file")
    return kek


def needs_passphrase(data: bytes) -> bool:
    """Whether `open_lock` on this file needs a passphrase. `Malformed` for bytes that are no lock."""
    return _read_lock(data).kind == PASSPHRASE


def read_sealed(data: bytes, purpose: str) -> Sealed:
    """A key file, unopened."""
    return _unpack(Sealed, data, f"key file for '{purpose}'")


def _unpack(cls: type[T], data: bytes, what: str) -> T:
    try:
        return canonical.unpack(cls, data, limit=FILE_BYTES_MAX)
    except Malformed as e:
        if (found := canonical.version_of(data, limit=FILE_BYTES_MAX)) > VERSION:
            raise Malformed(
                f"the {what} was written by a newer idao (format {found}, this one reads {VERSION})",
                hint="update idao",
                code="newer",
            ) from e
        raise Malformed(f"the {what} is damaged: {e.message}", hint="restore it from a backup") from e


def _read_lock(data: bytes) -> Lock:
    return _unpack(Lock, data, "lock file")


def _wrapping_key(cost: Cost | None, salt: bytes, passphrase: str | None) -> bytes:
    # Cost, salt and kind all enter the key, so a lock cannot be relabelled to make a program skip the prompt.
    if cost is None or passphrase is None:
        return derive_secret(_OPEN_CONTEXT, salt)
    from nacl.bindings import crypto_pwhash_alg, crypto_pwhash_ALG_ARGON2ID13
    from nacl.exceptions import CryptoError

    try:
        return bytes(
            crypto_pwhash_alg(
                KEK_BYTES,
                _passphrase_bytes(passphrase),
                salt,
                cost.passes,
                cost.memory_kib * 1024,
                crypto_pwhash_ALG_ARGON2ID13,
            )
        )
    except (CryptoError, MemoryError) as e:
        raise Locked(
            f"this machine cannot give the {cost.memory_kib // 1024} MiB that the lock asks for",
            hint="close other programs and try again",
        ) from e


def _passphrase_bytes(passphrase: str) -> bytes:
    """UTF-8 of NFC (RFC 8265 §4.2), so that the same keys typed on two systems are the same passphrase."""
    try:
        import unicodedata

        raw = unicodedata.normalize("NFC", passphrase).encode()
    except UnicodeEncodeError as e:
        raise UsageError("the passphrase is not valid text") from e
    if not raw:
        raise UsageError("the passphrase is empty", hint="--no-passphrase says that none is wanted")
    if len(raw) > PASSPHRASE_BYTES_MAX:
        raise UsageError(f"the passphrase is longer than {PASSPHRASE_BYTES_MAX} bytes")
    return raw


def seal(kek: bytes, purpose: str, secret: bytes, nonce: bytes) -> bytes:
    """A key file for `secret` (at most 64 KiB); `purpose` is a word (`identity`), `nonce` 24 random bytes."""
    if len(kek) != KEK_BYTES or len(nonce) != NONCE_BYTES or len(secret) > SECRET_BYTES_MAX:
        raise ValueError("wrong size of key, nonce or secret")
    box = sodium.seal(secret, _sealed_context(purpose), nonce, kek)
    return canonical.pack(Sealed(1, purpose, nonce, box))


def unseal(kek: bytes, purpose: str, data: bytes) -> bytes:
    """The secret of a key file. `Malformed` when it is damaged, of another home, or for another purpose."""
    sealed = read_sealed(data, purpose)
    if sealed.purpose != purpose:
        raise Malformed(f"a key file for '{sealed.purpose}' where one for '{purpose}' belongs")
    secret = sodium.unseal(sealed.box, _sealed_context(purpose), sealed.nonce, kek)
    if secret is None:
        raise Malformed(
            f"the key file for '{purpose}' is damaged or of another home", hint="restore it from a backup"
        )
    return secret


def _sealed_context(purpose: str) -> bytes:
    return _SEALED_TAG + b"\0" + purpose.encode()
