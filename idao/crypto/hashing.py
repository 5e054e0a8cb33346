"""BLAKE3-256 of contents and ids, each kind under its own `derive_key` context (BLAKE3 paper §2.3).

Two kinds can therefore never share a hash, whatever their bytes. SHA-256 appears only in the RFC 6962 log.
"""

from __future__ import annotations

import enum
import importlib
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

from blake3 import blake3

from idao.crypto import canonical
from idao.model import Header, ValidatorSet


def _own_sha256() -> Callable[[bytes], Any]:
    """Python's own where it has one: `hashlib` loads all of OpenSSL, which costs a command's start more than
    the few hundred bytes that a log hashes at a time could win back."""
    for module in ("_sha2", "_sha256"):  # Python 3.12 and later; 3.11
        with suppress(ImportError):
            return importlib.import_module(module).sha256  # type: ignore[no-any-return]
    return importlib.import_module("hashlib").sha256  # type: ignore[no-any-return]


sha256 = _own_sha256()
"""A hash object as `hashlib`'s. For the log alone; asked for by its module, since `by_openssl` changes it."""


def by_openssl() -> None:
    """For a process that has loaded OpenSSL anyway: it hashes a receipt in a third of the time."""
    global sha256
    sha256 = importlib.import_module("hashlib").sha256


class Kind(enum.Enum):
    """What is hashed. The value is the BLAKE3 context; a change of meaning takes a new version number."""

    INCEPTION = "idao 1 inception"
    KEY_EVENT = "idao 1 key event"
    RECOVERY_KEY = "idao 1 recovery key"
    NEXT_KEY = "idao 1 next key"
    GENESIS = "idao 1 genesis"
    CHARTER = "idao 1 charter"
    VALIDATORS = "idao 1 validator set"
    TX = "idao 1 transaction"
    TX_LEAF = "idao 1 transaction leaf"
    TX_BRANCH = "idao 1 transaction branch"
    HEADER = "idao 1 block header"
    CERTIFICATE = "idao 1 certificate"
    STATE_PATH = "idao 1 state path"
    STATE_VALUE = "idao 1 state value"
    STATE_LEAF = "idao 1 state leaf"
    STATE_BRANCH = "idao 1 state branch"
    ASSET = "idao 1 asset"
    CLASS = "idao 1 dat class"
    DAT = "idao 1 dat"
    PROPOSAL = "idao 1 proposal"
    PROPOSAL_CONTENT = "idao 1 proposal content"
    PROPOSAL_TEXT = "idao 1 proposal text"
    POLICY = "idao 1 policy"
    REVIEW = "idao 1 review"
    REVIEW_COMMITMENT = "idao 1 review commitment"
    REVIEWER_LOT = "idao 1 reviewer lot"
    COMMITMENT = "idao 1 salted commitment"
    PART_CONTENT = "idao 1 part content"
    HOLE = "idao 1 hole"
    LINK = "idao 1 link target"
    FOLDER = "idao 1 empty folder"
    MANIFEST = "idao 1 manifest"
    PART_LEAF = "idao 1 content part"
    PART_BRANCH = "idao 1 content branch"
    LAYOUT = "idao 1 file layout"
    FILE_LEAF = "idao 1 file leaf"
    FILE_BRANCH = "idao 1 file branch"
    CHUNK_LEAF = "idao 1 sealed chunk leaf"
    CHUNK_BRANCH = "idao 1 sealed chunk branch"
    ASSESSOR = "idao 1 assessor code"
    ASSESSOR_SAMPLE = "idao 1 assessor sample"
    ASSESSOR_UNIT = "idao 1 assessor unit"
    REPORT = "idao 1 assessor report"
    ATTESTATION = "idao 1 attestation"
    EVIDENCE = "idao 1 evidence bytes"
    TEE_POLICY = "idao 1 tee policy"
    TEE_BUNDLE = "idao 1 tee collateral"
    BEACON = "idao 1 beacon"
    NODE_RECORD = "idao 1 node record"
    TLS_CERTIFICATE = "idao 1 tls certificate"
    INVITE = "idao 1 invite check"
    PAIRING = "idao 1 pairing commitment"
    PAIRING_WORDS = "idao 1 pairing words"
    DISCOVERY = "idao 1 discovery tag"
    FAULT = "idao 1 fault"
    META = "idao 1 fact of a ledger file"
    MACHINE = "idao 1 machine"
    BACKUP = "idao 1 backup file"
    HOME_ROW = "idao 1 row of a home"
    HOME_FILE = "idao 1 file of a home"


_hashed: dict[str, Callable[[Data], bytes]] = {}


def digest(kind: Kind, data: bytes) -> bytes:
    """32 bytes."""
    hashed = _hashed.get(kind._value_)
    if hashed is None:
        hashed = _hashed[kind._value_] = hasher(kind)
    return hashed(data)


Data = bytes | bytearray | memoryview


def hasher(kind: Kind) -> Callable[[Data], bytes]:
    """`digest` of one kind: for what is hashed several times a transaction."""
    context = kind.value
    idle: list[blake3] = []
    """Hashers that have derived their key and wait for data: as many as threads hash at once."""

    def hashed(data: Data) -> bytes:
        # One hasher again and again: deriving its key, or copying it, costs as much as hashing.
        try:
            made = idle.pop()
        except IndexError:
            made = blake3(derive_key_context=context)
        hash_ = made.update(data).digest()
        made.reset()
        idle.append(made)
        return hash_

    return hashed


def hash_of(kind: Kind, obj: object) -> bytes:
    """The hash of a dataclass's canonical bytes."""
    return digest(kind, canonical.pack(obj))


@lru_cache(16)
def header_hash(header: Header) -> bytes:
    """The hash of a block's header: what votes, its checkpoint, its leaf and its row name."""
    return hash_of(Kind.HEADER, header)


@lru_cache(64)
def validators_hash(validators: ValidatorSet) -> bytes:
    """The hash of a validator set, which every header and checkpoint names."""
    return hash_of(Kind.VALIDATORS, validators)


def derive_secret(context: str, material: bytes) -> bytes:
    """A 32-byte secret from key material, for one purpose named by `context`."""
    return blake3(material, derive_key_context=context).digest()


def keyed(key: bytes, data: bytes) -> bytes:
    """BLAKE3's message code of `data` under a 32-byte key that serves this purpose alone: 32 bytes."""
    return blake3(data, key=key).digest()


def commitment(salt: bytes, value: bytes) -> bytes:
    """A hiding commitment to 32 bytes or any value: H(salt ‖ value) with a random 32-byte salt."""
    if len(salt) != 32:
        raise ValueError("a salt has 32 bytes")
    return digest(Kind.COMMITMENT, salt + value)
