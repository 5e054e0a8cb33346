"""The recovery phrase: 24 words of BIP-39, and the secrets derived from them (ADR 0002).

The phrase restores an identity, never data: data keys are random so that they can be destroyed.
Words in refusals are those that are *not* of the list; a right word is never repeated.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from idao.crypto.hashing import derive_secret
from idao.errors import UsageError

if TYPE_CHECKING:
    from mnemonic import Mnemonic

ENTROPY_BYTES = 32
"""256 bits: 24 words, the longest phrase of BIP-39."""
WORDS = 24
TYPED_MAX = 2000
"""Characters of a typed phrase: 24 words of at most 8 letters with room for numbering and spaces."""
PREFIX_LETTERS = 4
"""The first four letters of a BIP-39 English word are unique."""
RECOVERY_MAX = 2**20
"""Recovery keys of one phrase: more than anybody spends, few enough to search."""

_NUMBERING = re.compile(r"\d{1,2}[.):]?$")


@cache
def _list() -> Mnemonic:
    from mnemonic import Mnemonic

    return Mnemonic("english")


def phrase_from(entropy: bytes) -> str:
    """The 24 words of 32 random bytes, separated by single spaces."""
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"a phrase needs {ENTROPY_BYTES} bytes of entropy")
    return str(_list().to_mnemonic(entropy))


def read_phrase(typed: str) -> str:
    """The phrase that a person typed, in its one spelling.

    Forgives case, width, spaces, line breaks, commas, numbering (`1.`), and words cut to their first four
    letters or more. `UsageError` names the first word that is not of the list, a wrong count, or a
    checksum that does not fit.
    """
    if len(typed) > TYPED_MAX:
        raise UsageError(f"a recovery phrase has {WORDS} words; this is {len(typed)} characters long")
    import unicodedata

    plain = unicodedata.normalize("NFKD", typed).lower()
    typed_words = [w for w in re.split(r"[\s,;]+", plain) if w and not _NUMBERING.match(w)]
    words = [_word(i, w) for i, w in enumerate(typed_words, 1)]
    if len(words) != WORDS:
        raise UsageError(f"a recovery phrase has {WORDS} words, not {len(words)}")
    phrase = " ".join(words)
    if not _list().check(phrase):
        raise UsageError(
            "the recovery phrase does not add up: a word is wrong or two are swapped",
            hint="compare it with the paper, word by word: all these words are in the list",
        )
    return phrase


def spoken(data: bytes, count: int) -> str:
    """`count` words of the list for the first 11 · `count` bits of `data`: to be compared by people."""
    number = int.from_bytes(data, "big") >> (8 * len(data) - 11 * count)
    words = _list().wordlist
    return " ".join(words[number >> 11 * i & 2047] for i in reversed(range(count)))


def _word(position: int, typed: str) -> str:
    words = _list().wordlist
    if typed in words:
        return typed
    if len(typed) >= PREFIX_LETTERS:
        matches = [w for w in words if w.startswith(typed)]
        if len(matches) == 1:
            return str(matches[0])
    # Neither the word nor what it may have meant: either could be read over a shoulder or in a log.
    raise UsageError(
        f"word {position} of the recovery phrase is not in the BIP-39 list",
        hint="the list is English; four letters are enough to tell its words apart",
    )


def seed_from(phrase: str, extra: str = "") -> bytes:
    """64 bytes: PBKDF2-HMAC-SHA512, 2048 rounds (BIP-39, 'From mnemonic to seed').

    `phrase` comes from `phrase_from` or `read_phrase`. `extra` is BIP-39's own passphrase; idao uses none.
    """
    return bytes(_list().to_seed(phrase, extra))


def inception_nonce(seed: bytes) -> bytes:
    """The 32-byte nonce of the inception record: as random as the phrase."""
    return derive_secret("idao 1 phrase nonce", _seed(seed))


def first_key(seed: bytes) -> bytes:
    """32-byte Ed25519 seed of the first identity key."""
    return derive_secret("idao 1 phrase identity key", _seed(seed))


def next_key(seed: bytes) -> bytes:
    """32-byte Ed25519 seed of the key that the first rotation may bring in."""
    return derive_secret("idao 1 phrase next key", _seed(seed))


def recovery_key(seed: bytes, number: int) -> bytes:
    """32-byte Ed25519 seed of recovery key `number`, counted from 0. Each is used once."""
    if not 0 <= number < RECOVERY_MAX:
        raise ValueError(f"recovery key numbers go from 0 to {RECOVERY_MAX - 1}")
    return derive_secret(f"idao 1 phrase recovery key {number}", _seed(seed))


def _seed(seed: bytes) -> bytes:
    if len(seed) != 64:
        raise ValueError("a BIP-39 seed has 64 bytes")
    return seed


def authority_key(seed: bytes) -> bytes:
    """32-byte Ed25519 seed of the key that may start a quorum's successor: named in its genesis."""
    return derive_secret("idao 1 phrase quorum recovery key", _seed(seed))


def backup_key(seed: bytes) -> bytes:
    """32-byte X25519 secret that opens backups. Homes keep its public half, so making one needs no secret."""
    return derive_secret("idao 1 phrase backup key", _seed(seed))
