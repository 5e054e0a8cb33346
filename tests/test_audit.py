"""The audit finds whatever changes a row, an index or the schema of a ledger file."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest
from conftest import Lived

from idao.crypto import canonical
from idao.frozen import replace
from idao.ledger.tx import SignedTx, tx_id
from idao.model import Block, show_id
from idao.store import bodies, signatures
from idao.store.audit import audit


def ledger(lived: Lived) -> Path:
    """The ledger as one plain file, its write-ahead log folded in."""
    path = next((lived.path / "ledgers").glob("*.db"))
    db = sqlite3.connect(path)
    db.execute("pragma wal_checkpoint(truncate)")
    db.execute("pragma journal_mode = delete")
    db.close()
    return path


def dump(path: Path) -> list[object] | None:
    """Everything that a row, an index or the schema says; None when SQLite itself objects."""
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        out: list[object] = db.execute("pragma integrity_check").fetchall()
        out += db.execute("select type, name, tbl_name, sql from sqlite_master order by name").fetchall()
        out += db.execute("pragma application_id").fetchall() + db.execute("pragma user_version").fetchall()
        for (name,) in db.execute(
            "select name from sqlite_master where type = 'table' order by name"
        ).fetchall():
            out += [name, *db.execute(f'select * from "{name}"').fetchall()]
        db.close()
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return None
    return out


def test_a_sound_ledger(lived: Lived) -> None:
    report = audit(ledger(lived))
    assert report.findings == []
    assert report.blocks == lived.dao().store.height
    assert report.receipts == sum(1 for _ in lived.dao().store.receipts())


@pytest.mark.parametrize("batch", [1, 2, 512])
def test_bad_signatures_are_named_in_whatever_process_they_are_verified(
    lived: Lived, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(signatures, "BATCH", batch)
    path = ledger(lived)
    assert audit(path).ok
    db = sqlite3.connect(path)
    height, txs = db.execute("select height, txs from body order by height desc limit 1").fetchone()
    header = db.execute("select header from block where height = ?", (height,)).fetchone()[0]
    block = canonical.unpack(Block, txs + bodies.rest_of(header, None))
    signed = canonical.unpack(SignedTx, block.txs[0])
    bad = replace(signed, signatures=((signed.signatures[0][0], bytes(64)),))
    block = replace(block, txs=(canonical.pack(bad), *block.txs[1:]))
    txs, _ = bodies.split(canonical.pack(block))
    db.execute("update body set txs = ? where height = ?", (txs, height))
    db.commit()
    db.close()
    found = audit(path).findings
    named = [where for where, what in found if what == "its signature does not hold"]
    assert named == [f"block {height}, transaction {show_id('tx', tx_id(signed.envelope))}"]
    assert (f"block {height}", "the header's tx_root is not what the block leads to") in found


def flips(lived: Lived, seed: int, count: int) -> tuple[int, int]:
    path = ledger(lived)
    sound = dump(path)
    raw = path.read_bytes()
    rng = random.Random(seed)
    changed = 0
    for _ in range(count):
        at, bit = rng.randrange(len(raw)), rng.randrange(8)
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :])
        differs = dump(path) != sound
        changed += differs
        assert not differs or not audit(path).ok, f"flip of bit {bit} at {at} was not found"
        for extra in ("-wal", "-shm", "-journal"):
            Path(f"{path}{extra}").unlink(missing_ok=True)
    path.write_bytes(raw)
    assert audit(path).ok
    return changed, count


def test_flipped_bits(lived: Lived) -> None:
    changed, _ = flips(lived, 1, 60)
    assert changed >= 5


def test_a_flipped_name_is_damage(lived: Lived) -> None:
    """Of a column that opening reads: SQLite finds no fault with the file."""
    path = ledger(lived)
    raw, name = path.read_bytes(), b'"value" blob not null, -- its bytes'
    assert name in raw
    path.write_bytes(raw.replace(name, name.replace(b"value", b"valuf")))
    assert any("damaged" in what for _, what in audit(path).findings)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_many_flipped_bits(lived: Lived, seed: int) -> None:
    flips(lived, 100 + seed, 500)


def cases() -> list[tuple[str, str]]:
    """(statement, words that a finding must hold)."""
    return [
        ("update asset_version set score = score + 1", "asset_version"),
        ("update dat set value = value - 1", "dat"),
        ("delete from account where kind = 'dust' or kind = 'revenue'", "account"),
        ("insert into member values (zeroblob(32), zeroblob(32), 'owner', 1, 0)", "member"),
        ("update receipt set ok = 0 where position = 0", "block 1, receipt 0"),
        ("update receipt set leaf = x'00' where position = 1", "block 1, receipt 1"),
        ("update body set hash = zeroblob(32) where height = 2", "block 2"),
        ("update body set txs = x'00' where height = 2", "block 2"),
        ("update body set txs = (select txs from body where height = 1) where height = 2", "block 2"),
        ("insert into held values (2, zeroblob(32), x'00')", "held at height 2: belongs to no block"),
        ("delete from body where height = 3", "block 3: its body is missing"),
        ("insert into body select height, zeroblob(32), txs from body where height = 2",
         "block 2: has another"),
        ("insert into body values (9999, zeroblob(32), x'00')", "body at height 9999: belongs to no block"),
        ("insert into tx values (1, 0, zeroblob(32), x'00')", "tx at height 1: belongs to no block"),
        ("update block set hash = zeroblob(32) where height = 1", "block 1"),
        ("update block set certificate = (select certificate from block where height = 1)", "block 2"),
        ("delete from block where height = 2", "block 2"),
        ("update checkpoint set note = replace(note, 'height 2', 'height 3')", "block 2, checkpoint"),
        ("delete from checkpoint where height = 1", "block 1, checkpoint"),
        ("update checkpoint set size = 1 where height = 1", "block 1, checkpoint"),
        ("update log_node set hash = zeroblob(32)", "log subtree"),
        ("update state_branch set children = x'80' where prefix = ''", "state branch"),
        ("update sign set signature = zeroblob(64)", "journal"),
        ("insert into cert values (1, 2, 0, zeroblob(32), x'00')", "certificate 1/0"),
        ("insert into meta values ('more', x'00', x'00')", "meta more"),
        ("update meta set value = x'00' where key = 'bundle'", "file"),
        ("update meta set value = zeroblob(32) where key = 'place'", "meta place"),
        ("create table more (a)", "schema more"),
        ("drop index tx_id", "schema tx_id"),
        ("drop index receipt_tx", "schema receipt_tx"),
        ("create trigger t after insert on tx begin select 1; end", "schema t"),
        ("insert into receipt values (9999, 1, zeroblob(32), 'x', 1, x'00')", "belongs to no"),
        ("insert into checkpoint values (9999, 1, 'x')", "belongs to no block"),
        ("update epoch set start = 2", "epoch"),
    ]  # fmt: skip


@pytest.mark.parametrize(("statement", "where"), cases(), ids=[c[0][:40] for c in cases()])
def test_a_changed_row_is_named(lived: Lived, statement: str, where: str) -> None:
    path = ledger(lived)
    db = sqlite3.connect(path)
    changed = db.execute(statement).rowcount
    db.commit()
    db.close()
    assert changed != 0, "this ledger has no such row"
    found = [f"{w}: {what}" for w, what in audit(path).findings]
    assert any(where in f for f in found), found
