"""Signing for a ledger: who signs, and a transaction as bytes."""

from __future__ import annotations

from typing import Any

from idao.crypto import canonical
from idao.crypto.keys import Signer
from idao.errors import Malformed, UsageError
from idao.frozen import frozen
from idao.home import now_ms
from idao.ledger.tx import Envelope, TxKind, sign_tx

VALID_MS = 7 * 24 * 3600 * 1000
"""How long a signed transaction may wait for a block: a week of a laptop being closed."""


@frozen
class Actor:
    """Who signs: the owner of the home, or a member whose key it keeps."""

    idao: bytes
    signer: Signer


def signed(
    who: Actor, quorum: bytes, key_seq: int, seq: int, kind: str, body: Any, valid_until: int | None = None
) -> bytes:
    """One transaction of `who`, its `seq`-th on the ledger of `quorum`."""
    return sign_tx(
        who.signer,
        Envelope(
            v=1,
            quorum=quorum,
            idao=who.idao,
            key=who.signer.public,
            key_seq=key_seq,
            seq=seq,
            valid_until=now_ms() + VALID_MS if valid_until is None else valid_until,
            kind=kind,
            kind_version=_kind_of(kind).version,
            body=_body_bytes(body),
        ),
    )


def _body_bytes(body: Any) -> bytes:
    """What a person asked for, as bytes; `UsageError` names what is out of bounds."""
    try:
        return canonical.pack(body)
    except Malformed as e:
        field = e.message.partition(".")[2] or e.message
        raise UsageError(f"out of bounds: {field.replace('_', ' ')}") from e


def _kind_of(name: str) -> TxKind:
    from idao.ledger.registry import KINDS  # every family: a reader needs none of them

    return KINDS[name]
