"""What nodes of one quorum say to each other beside agreement itself, and how all of it is framed.

A frame's kind names its class; its payload is the canonical bytes of one value. Kinds below 16 belong to
the links (`node/link.py`).
"""

from __future__ import annotations

from typing import Annotated, Any

from idao.crypto import canonical
from idao.errors import Malformed
from idao.frozen import frozen
from idao.model import (
    BLOCK_BYTES_MAX,
    ITEMS_MAX,
    TX_BYTES_MAX,
    Certificate,
    Hash,
    Signature,
    SignedVote,
    Size,
)
from idao.quorum import events as ev

PAYLOAD_MAX = 4 * 1024 * 1024
"""The largest frame (ADR 0031): a full block with its justification, twice over."""
COMMITS_MAX = 64
"""Blocks in one answer: small ones come in batches, large ones by bytes."""
COMMITS_BYTES_MAX = 2 * BLOCK_BYTES_MAX
"""Bytes after which an answer takes no further block: always room for the first."""
TXS_MAX = 2000
"""Transactions in one frame: a full block of them."""
LEAVES_MAX = 2200
"""Receipts of one block: its transactions and due actions."""
NOTE_MAX = 64 * 1024
BUNDLE_MAX = 2 * 1024 * 1024
"""Bytes of a bundle of collateral: the largest real one has half a megabyte."""


@frozen
class Txs:
    """Transactions that wait for a block."""

    raws: Annotated[tuple[Annotated[bytes, Size(1, TX_BYTES_MAX + 4096)], ...], Size(1, TXS_MAX)]


@frozen
class Cosign:
    """A validator's signatures on the head of a height, as log and as witness."""

    height: int
    log: Signature
    time_s: int
    witness: Signature


@frozen
class GetCommits:
    """Asks for decided blocks from `first` on."""

    first: int
    count: int


@frozen
class DecidedBlock:
    block: Annotated[bytes, Size(1, ev.BODY_MAX)]
    certificate: Certificate
    note: Annotated[str, Size(0, NOTE_MAX)]
    """The anchor of this height, where the sender holds it."""


@frozen
class Commits:
    """Decided blocks, one after the other, each with its own finalization."""

    first: int
    blocks: Annotated[tuple[DecidedBlock, ...], Size(0, COMMITS_MAX)]


@frozen
class Kept:
    """The first and the last block whose bodies are here: said on a new link, once a minute, and where one
    was asked for that is gone."""

    first: int
    last: int


@frozen
class GetTip:
    """From a node in quarantine: what is the last that you know to be final?"""

    height: int


@frozen
class TipIs:
    """The finalization of the sender's last block; none at genesis."""

    certificate: Certificate | None


@frozen
class GetReceipts:
    """From a node that has stopped over a block: what did it do at yours?"""

    height: int


@frozen
class Receipts:
    height: int
    leaves: Annotated[tuple[Annotated[bytes, Size(1, PAYLOAD_MAX)], ...], Size(0, LEAVES_MAX)]


@frozen
class GetCosigns:
    """Asks for the receiver's cosignature of a height that is not anchored here."""

    height: int


@frozen
class GetBundle:
    """Asks for the collateral bundle that evidence on the ledger names so."""

    name: Hash


@frozen
class Bundle:
    name: Hash
    data: Annotated[bytes, Size(0, BUNDLE_MAX)]
    """Empty: it is not here."""


KINDS: dict[int, type] = {
    16: ev.Propose,
    17: SignedVote,
    18: Certificate,
    19: ev.Status,
    20: ev.GetBlock,
    21: ev.Body,
    32: Txs,
    33: Cosign,
    34: GetCosigns,
    35: GetCommits,
    36: Commits,
    37: GetTip,
    38: TipIs,
    39: GetReceipts,
    40: Receipts,
    41: GetBundle,
    42: Bundle,
    43: Kept,
}
KIND_OF = {cls: kind for kind, cls in KINDS.items()}


def encode(message: Any) -> tuple[int, bytes]:
    """(kind, payload)."""
    return KIND_OF[type(message)], canonical.pack(message)


def decode(kind: int, payload: bytes) -> Any:
    """The message of a frame. `Malformed` for a kind nobody knows or bytes that are no such message."""
    cls = KINDS.get(kind)
    if cls is None:
        raise Malformed(f"a frame of kind {kind}, which this idao does not know")
    return canonical.unpack(cls, payload, limit=PAYLOAD_MAX, items=ITEMS_MAX)
