"""The form of a transaction: what bytes are one at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from group_world import GroupWorld, person

from idao.crypto import canonical
from idao.errors import Malformed
from idao.ledger.membership import Leave
from idao.ledger.tx import TX_BYTES_MAX, TX_VERSION, SignedTx, Tx, parse_tx, sign_tx


def leave() -> Tx:
    return GroupWorld().sign("ann", "quorum.leave", Leave())


def test_it_has_one_signature_by_the_key_it_names() -> None:
    tx, other = leave(), person("bob").signer
    (own,) = tx.signed.signatures
    foreign = (other.public, other.sign_tx(tx.signed.envelope))
    assert parse_tx(canonical.pack(tx.signed)).authentic()
    for signatures in ((own, own), (own, foreign), (foreign,), (foreign, own)):
        with pytest.raises(Malformed, match="exactly one signature"):
            parse_tx(canonical.pack(SignedTx(tx.signed.envelope, signatures)))


def test_it_is_of_a_known_version_and_of_a_bounded_size() -> None:
    envelope, signer = leave().envelope, person("ann").signer
    with pytest.raises(Malformed, match="version 2 is not known"):
        parse_tx(sign_tx(signer, replace(envelope, v=TX_VERSION + 1)))
    room = TX_BYTES_MAX - len(canonical.pack(envelope)) - 2  # the head of a longer string
    assert parse_tx(sign_tx(signer, replace(envelope, body=bytes(room))))
    with pytest.raises(Malformed, match="at most"):
        sign_tx(signer, replace(envelope, body=bytes(room + 9)))
