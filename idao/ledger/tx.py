"""Transactions and receipts: the envelope, who may sign it, what it did.

A tx family is one file in this folder: its bodies (wire format), its records (tables) and its `apply`
functions. `registry.py` lists the families; nothing else changes when a kind is added.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NoReturn

from idao.crypto import canonical, keys
from idao.crypto.hashing import Kind, hasher
from idao.errors import Malformed, Refused
from idao.frozen import frozen
from idao.ledger.state import State
from idao.model import TX_BYTES_MAX, Hash, Id, PublicKey, Signature, Size, Word

SIGNATURES_MAX = 16
"""m-of-n members and delegated keys later; one today."""
TX_VERSION = 1


@frozen
class Envelope:
    """One intent of one iDAO. The tx id is the hash of its canonical bytes, signatures apart."""

    v: int
    quorum: Id
    idao: Id
    key: PublicKey
    key_seq: int
    seq: int
    """Greater than any the actor has used; gaps are allowed, so an expired tx blocks nothing."""
    valid_until: int
    """Latest block time (ms UTC) that may hold this tx."""
    kind: Word
    kind_version: int
    body: Annotated[bytes, Size(0, TX_BYTES_MAX)]


@frozen
class SignedTx:
    """What travels and is stored: the envelope's bytes as signed, and the signatures."""

    envelope: Annotated[bytes, Size(1, TX_BYTES_MAX)]
    signatures: Annotated[tuple[tuple[PublicKey, Signature], ...], Size(1, SIGNATURES_MAX)]


@frozen
class Tx:
    """A decoded tx: form checked, signature not yet."""

    id: bytes
    envelope: Envelope
    signed: SignedTx
    raw: bytes

    def authentic(self, check: keys.Verify = keys.verify) -> bool:
        """Whether every signature is by the actor key it names (libsodium's verdict)."""
        actor, envelope = self.envelope.key, self.signed.envelope
        for key, signature in self.signed.signatures:
            if key != actor or not keys.verify_tx(key, signature, envelope, check):
                return False
        return True


tx_id = hasher(Kind.TX)
"""Of the canonical bytes of an envelope."""


def parse_tx(raw: bytes) -> Tx:
    """`Malformed` unless these are the canonical bytes of a signed tx with one signature by its key."""
    signed = canonical.unpack(SignedTx, raw, limit=TX_BYTES_MAX + 4096)
    envelope = canonical.unpack(Envelope, signed.envelope)
    if envelope.v != TX_VERSION:
        raise Malformed(f"transaction version {envelope.v} is not known")
    if len(signed.signatures) != 1 or signed.signatures[0][0] != envelope.key:
        raise Malformed("a transaction has exactly one signature, by the key it names")
    return Tx(tx_id(signed.envelope), envelope, signed, raw)


def sign_tx(signer: keys.Signer, envelope: Envelope) -> bytes:
    """The bytes to send. `Malformed` when the tx is too large."""
    body = canonical.pack(envelope)
    if len(body) > TX_BYTES_MAX:
        raise Malformed(f"a transaction has at most {TX_BYTES_MAX} bytes")
    return canonical.pack(SignedTx(body, ((signer.public, signer.sign_tx(body)),)))


# --- applying -------------------------------------------------------------------------------------


def unknown_header(height: int) -> bytes | None:
    """For states that rest on no chain of blocks."""
    return None


@frozen
class Context:
    """What an `apply` function may know: the state, the block, and who signed."""

    state: State
    quorum: bytes
    height: int
    time_ms: int
    actor: bytes
    """The iDAO whose key signed; all zero for a due action."""
    tx: bytes
    """Tx id; for a due action the proposal id."""
    validators: int
    """How many validators the set of this height has: 1 is a quorum of one."""
    reviewers: tuple[bytes, ...]
    """The validators' iDAO ids."""
    governor: bytes
    """The iDAO whose charter governs the quorum: the owner of a quorum of one, else the quorum itself."""
    parent: bytes = bytes(32)
    """Hash of the header of the block before."""
    parent_ms: int = 0
    """Its time, ms UTC."""
    proposer: bytes = bytes(32)
    """In a proposal's action: the member who made the proposal, and so sponsors what it gives."""
    header_at: Callable[[int], bytes | None] = unknown_header
    """Header hash of an earlier block, as far back as an activation may name one."""

    @property
    def several(self) -> bool:
        """Whether this is a quorum of several, also while its founder alone has power."""
        return self.governor == self.quorum or self.validators > 1


Apply = Callable[[Context, Any], None]


@frozen
class TxKind:
    """A kind of tx. `authority` replaces the check of the current key where a tx brings its own proof."""

    name: str
    body: type
    apply: Apply
    version: int = 1
    authority: Callable[[State, Envelope, Any], bool] | None = None


def refuse(code: str, reason: str) -> NoReturn:
    """Ends a tx with a refused receipt. The reason is fixed text plus ids and numbers of the ledger."""
    raise Refused(reason, code=code)


@frozen
class Changed:
    """One record that a tx put, or deleted (no value)."""

    table: Word
    key: Annotated[bytes, Size(1, 512)]
    """Canonical array of the key columns."""
    value: Hash | None


CHANGED_MAX = 4096
"""Records one receipt may name; settling among the holders of a class is lazy, so this is ample."""


@frozen
class Receipt:
    """What a tx, or a due action, did. Its canonical bytes are a leaf of the log."""

    v: int
    height: int
    index: int
    """Place in the block, from 0; due actions come first."""
    tx: Id
    origin: Word
    """'tx', or 'due' for an action that a passed proposal scheduled."""
    kind: Word
    idao: Id
    ok: bool
    code: Annotated[str, Size(0, 64)]
    reason: Annotated[str, Size(0, 512)]
    changed: Annotated[tuple[Changed, ...], Size(0, CHANGED_MAX)]
