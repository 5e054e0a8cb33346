"""The nouns that every room shares: ids, numbers, names, and the values that validators sign.

All are frozen dataclasses: their fields are the wire format (`crypto.canonical.pack`).
Units: times are milliseconds UTC, amounts are whole units, ratios are basis points (bp) unless named.
"""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache
from typing import Annotated

from idao.errors import Malformed, UsageError
from idao.frozen import frozen

INT_MAX = 2**63 - 1
"""Integers fit a signed 64-bit column of SQLite."""


class Size:
    """Annotation: length of a byte or text string (UTF-8 bytes), or number of items, from `low` to `high`."""

    __slots__ = ("high", "low")

    def __init__(self, low: int, high: int | None = None) -> None:
        self.low, self.high = low, low if high is None else high


class Range:
    """Annotation: bounds of an integer, both included."""

    __slots__ = ("high", "low")

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high


Id = Annotated[bytes, Size(32)]
"""32 bytes: a BLAKE3-256 hash under the context of its kind."""
Hash = Annotated[bytes, Size(32)]
PublicKey = Annotated[bytes, Size(32)]
Signature = Annotated[bytes, Size(64)]
Salt = Annotated[bytes, Size(32)]
Amount = Annotated[int, Range(0, INT_MAX)]
Name = Annotated[str, Size(0, 200)]
"""What a person calls a thing; shown, never resolved (FORMATS.md, names on a ledger)."""
Word = Annotated[str, Size(1, 64)]
"""A short machine word: a kind, a code, a key of the charter."""
BasisPoints = Annotated[int, Range(0, 10_000)]

ID_KINDS = ("idao", "quorum", "asset", "class", "dat", "tx", "proposal", "review", "block", "policy", "grant")
PREFIX_MIN = 6
"""Characters of base32 after the colon that may stand for an id: 30 bits, enough among one's own things."""


def show_id(kind: str, value: bytes) -> str:
    """`kind:` and 52 characters of lower-case base32 without padding (RFC 4648 §6)."""
    return f"{kind}:{base64.b32encode(value).decode().lower().rstrip('=')}"


@lru_cache(256)
def parse_id(kind: str, text: str) -> bytes:
    """The 32 bytes of a full id. `UsageError` when it is not one of this kind in its one spelling."""
    head, colon, tail = text.partition(":")
    try:
        value = base64.b32decode(tail.upper() + "====")
    except (binascii.Error, ValueError) as e:
        raise UsageError(f"not a full {kind} id: '{text}'") from e
    if head != kind or not colon or len(value) != 32 or show_id(kind, value) != text:
        raise UsageError(f"not a full {kind} id: '{text}'")
    return value


# --- genesis and validators -----------------------------------------------------------------------


@frozen
class Validator:
    """One member of a validator set. `key` signs consensus messages and cosignatures."""

    idao: Id
    key: PublicKey
    power: Annotated[int, Range(1, 2**31)]


VALIDATORS_MAX = 64
"""Hard cap of a set (ADR 0031); 30 is what idao supports on a LAN."""


@frozen
class ValidatorSet:
    """The validators of one epoch, ordered by iDAO id. Leaders and bitmaps go by this order."""

    validators: Annotated[tuple[Validator, ...], Size(1, VALIDATORS_MAX)]

    def __post_init__(self) -> None:
        ids = [v.idao for v in self.validators]
        if ids != sorted(set(ids)) or len({v.key for v in self.validators}) != len(ids):
            raise Malformed("validator set is not ordered by id with distinct keys")

    @property
    def total_power(self) -> int:
        return sum(v.power for v in self.validators)

    @property
    def quorum_size(self) -> int:
        """Q = ⌊2W/3⌋ + 1: power that a certificate or an anchor needs (ADR 0031)."""
        return (2 * self.total_power) // 3 + 1

    @property
    def honest_size(self) -> int:
        """B = W − Q + 1: smallest power that must hold a correct validator (ADR 0031)."""
        return self.total_power - self.quorum_size + 1

    def index_of_key(self, key: bytes) -> int | None:
        return next((i for i, v in enumerate(self.validators) if v.key == key), None)

    def leader(self, height: int, view: int) -> int:
        """Index of the leader, stateless on purpose (ADR 0031)."""
        return (height + view) % len(self.validators)


@frozen
class Parent:
    """What a recovery genesis continues: the old quorum and the last checkpoint known of it."""

    quorum: Id
    height: int
    header: Hash
    note: Annotated[bytes, Size(0, 65536)]


@frozen
class Genesis:
    """The beginning of a ledger. Its hash is the quorum id and the chain id in every signed message."""

    v: int
    kind: Word
    """'person' for a quorum of one; 'quorum' for a group governed as an iDAO of that kind."""
    nonce: Salt
    formats: int
    time_ms: int
    name: Name
    validators: ValidatorSet
    stake: Annotated[tuple[tuple[Id, Amount], ...], Size(0, VALIDATORS_MAX)]
    """(iDAO, units) each; ordered by id. Stake comes from here and from sponsors at joining alone."""
    charter: Hash
    recovery_threshold: Annotated[int, Range(1, VALIDATORS_MAX)]
    recovery_keys: Annotated[tuple[PublicKey, ...], Size(1, VALIDATORS_MAX)]
    parent: Parent | None


# --- consensus messages (ADR 0031) ---------------------------------------------------------

PROPOSE, NOTARIZE, FINALIZE, NULLIFY = 1, 2, 3, 4
VOTE_NAMES = {PROPOSE: "propose", NOTARIZE: "notarize", FINALIZE: "finalize", NULLIFY: "nullify"}
SLOT_OF = {PROPOSE: "P", NOTARIZE: "N", FINALIZE: "T", NULLIFY: "T"}
"""A correct validator fills each slot (height, view, P|N|T) once, for ever. T: finalize or nullify."""


@frozen
class Vote:
    """What a consensus signature covers: no timestamp, nothing of the signer, so votes aggregate.

    `digest` is a block hash, or empty for nullify.
    """

    kind: Annotated[int, Range(PROPOSE, NULLIFY)]
    quorum: Id
    height: int
    view: int
    digest: Annotated[bytes, Size(0, 32)]

    def __post_init__(self) -> None:
        if len(self.digest) != (0 if self.kind == NULLIFY else 32):
            raise Malformed("digest does not fit the kind of vote")

    @property
    def slot(self) -> tuple[int, int, str]:
        return self.height, self.view, SLOT_OF[self.kind]


@frozen
class SignedVote:
    """A vote by the validator at `signer` in the set of its height."""

    vote: Vote
    signer: Annotated[int, Range(0, VALIDATORS_MAX - 1)]
    signature: Signature


@frozen
class Certificate:
    """Votes of power ≥ quorum_size on one payload: notarization, finalization or nullification.

    Bit i of `bitmap` (least significant first) is validator i; `signatures` follow in that order.
    """

    vote: Vote
    bitmap: Annotated[bytes, Size(1, 8)]
    signatures: Annotated[tuple[Signature, ...], Size(1, VALIDATORS_MAX)]

    def signers(self) -> list[int]:
        return [i for i in range(len(self.bitmap) * 8) if self.bitmap[i // 8] >> (i % 8) & 1]


@frozen
class Fault:
    """Two conflicting signed messages of one validator in one slot, or two cosignatures (ADR 0031).

    For votes `a` and `b` are packed `SignedVote`s; for kind 'cosign' they are checkpoint notes.
    """

    kind: Word
    key: PublicKey
    a: Annotated[bytes, Size(1, 65536)]
    b: Annotated[bytes, Size(1, 65536)]


# --- blocks ---------------------------------------------------------------------------------------

TX_BYTES_MAX = 64 * 1024
"""A tx holds hashes of files, not files (ADR 0031)."""
BLOCK_TX_MAX = 2000
BLOCK_BYTES_MAX = 1024 * 1024
ITEMS_MAX = 16_384
"""Of a block, or a message: a block has 2,000 transactions, 64 certificates by 30 have some 3,000 items."""


@frozen
class Header:
    """A block's header. `state_root`, `log_size` and `log_root` hold *after* the block's receipts.

    The block's own leaf (the header hash) is appended to the log next, so the checkpoint that a header
    implies has `log_size + 1` leaves.
    """

    v: int
    quorum: Id
    height: int
    view: int
    proposer: Id
    parent: Hash
    parent_certificate: Hash
    time_ms: int
    tx_root: Hash
    state_root: Hash
    log_size: int
    log_root: Hash
    validators: Hash
    next_validators: Hash
    charter: Hash
    """Hash of the rules that govern the quorum, in force after this block."""


@frozen
class Block:
    """A header, the finalization of its parent (none at height 1), and the signed txs in order."""

    header: Header
    parent_certificate: Certificate | None
    txs: Annotated[tuple[Annotated[bytes, Size(1, TX_BYTES_MAX + 4096)], ...], Size(0, BLOCK_TX_MAX)]


# --- identity -------------------------------------------------------------------------------------


@frozen
class Inception:
    """The first record of an identity; its hash is the iDAO id.

    `nonce`, the first key, the next key and the recovery key are all derived from the recovery phrase, so
    the phrase alone restores the same id on a new machine.
    """

    v: int
    nonce: Salt
    key: PublicKey
    next: Hash
    """Hash of the public key that the first rotation brings in."""
    recovery: Hash
    """Hash of the recovery public key, which stays unseen until it is used."""


@frozen
class KeyEvent:
    """One change of key in the hash chain of an identity's keys.

    A rotation brings in the `key` that the event before committed to as `next`, and is signed by it. A
    recovery gives `recovery_key` (it must hash to the current commitment and is spent by this) and is
    signed by that. `next_recovery` commits to the recovery key after it.
    """

    v: int
    idao: Id
    key_seq: int
    """Number of the new key: the inception's is 0. A recovery may skip numbers it cannot know."""
    previous: Hash
    """Hash of the event before (of the inception record for the first)."""
    key: PublicKey
    next: Hash
    """Hash of the public key that the rotation after this one brings in."""
    recovery_key: PublicKey | None
    next_recovery: Hash


@frozen
class SignedKeyEvent:
    event: KeyEvent
    signature: Signature
