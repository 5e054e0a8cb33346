"""Where the transactions of a block stand, and how one is found."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idao.crypto import canonical
from idao.ledger.tx import Receipt
from idao.model import FINALIZE, Block, Certificate, Header, Vote
from idao.store import bodies
from idao.store.layout import PART_LEAVES, schema

NAMES = b"\x66header", b"\x72parent_certificate", b"\xf6", b"\xa3\x63txs"
tricky = st.lists(st.sampled_from([*NAMES, b"", b"x"]), max_size=9).map(b"".join)


def header(height: int) -> Header:
    ids = [bytes([n]) * 32 for n in range(10)]
    return Header(
        1, ids[0], height, 0, ids[1], ids[2], ids[3], 5, ids[4], ids[5], 9, ids[6], ids[7], ids[8], ids[9]
    )


@given(st.lists(tricky.filter(bool), max_size=4), st.none() | tricky)
def test_a_block_in_two_parts(txs: list[bytes], signature: bytes | None) -> None:
    """Whatever stands in it, as in bytes that others choose."""
    parent = None
    if signature is not None:
        vote = Vote(FINALIZE, bytes(32), 1, 0, signature[:32].ljust(32, b"f"))
        parent = Certificate(vote, b"\1", (signature[:64].rjust(64, b"f"),))
    block = Block(header(2), parent, tuple(txs))
    packed = canonical.pack(block)
    before, after = bodies.split(packed)
    assert before + after == packed
    assert after == bodies.rest_of(canonical.pack(block.header), parent and canonical.pack(parent))
    assert canonical.unpack(Block, before + after).txs == block.txs


@given(st.binary(max_size=60) | tricky)
def test_what_is_no_block_is_kept_as_it_is(data: bytes) -> None:
    assert bodies.split(data) == (data, b"")


@pytest.fixture
def db() -> sqlite3.Connection:
    made = sqlite3.connect(":memory:", isolation_level=None)
    for statement in schema():
        made.execute(statement)
    return made


def test_a_block_is_held_once(db: sqlite3.Connection) -> None:
    with closing(db):
        blocks = {bytes([n]) * 32: canonical.pack(Block(header(7), None, (b"x" * n,))) for n in (1, 2)}
        for block_hash, block in (*blocks.items(), *blocks.items()):
            bodies.hold(db, 7, block_hash, block)
        assert dict(bodies.held(db, 7)) == blocks and not list(bodies.held(db, 8))
        assert db.execute("select count(*) from body").fetchone() == (2,)


def test_receipts_are_found_in_every_part(db: sqlite3.Connection) -> None:
    def receipt(tx: bytes, origin: str, height: int) -> bytes:
        return canonical.pack(Receipt(1, height, 0, tx, origin, "x", bytes(32), True, "", "", ()))

    one, other, due = b"a" * 32, b"a" * 31 + b"b", b"d" * 32
    places = {
        0: (one, "tx"),
        PART_LEAVES - 1: (other, "tx"),
        3 * PART_LEAVES: (due, "due"),
        5 * PART_LEAVES: (due, "tx"),
    }
    with closing(db):
        for height, (position, (tx, origin)) in enumerate(places.items()):
            row = (position, height, tx, "x", 1, receipt(tx, origin, height))
            db.execute("insert into receipt values (?, ?, ?, ?, ?, ?)", row)
        found = [bodies.receipt_of(db, tx) for tx in (one, other, due, b"n" * 32)]
        assert [f and f[0] for f in found] == [0, PART_LEAVES - 1, 5 * PART_LEAVES, None]
        assert [f and f[1].tx for f in found] == [one, other, due, None]
