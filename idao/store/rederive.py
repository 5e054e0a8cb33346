"""A ledger of format 1 or 2, derived again: what was agreed on and signed is kept, all else is made anew.

Kept, byte by byte: genesis, headers, transactions, finalizations, checkpoints, cosignatures, the journal of
what this validator has signed, and what the file says of itself. Receipts, log, records and state tree follow
from those under the rules of today, which must lead to every root that was certified. Then it is audited.

Where bodies were pruned nothing can follow from them: the records are taken over, and the audit compares them
with the root that was certified.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from idao.crypto import canonical, keys
from idao.errors import IdaoError, Malformed, VerificationFailed
from idao.ledger import block as rules
from idao.ledger import genesis as genesis_rules
from idao.ledger.execution import LOG_LEVEL
from idao.ledger.succession import Consent
from idao.ledger.tx import parse_tx
from idao.model import Block, Certificate, Genesis, Header
from idao.store import bodies, place
from idao.store.audit import Progress, audit
from idao.store.ledger import META_KEYS, LedgerStore, meta_sum
from idao.store.opening import connect_reading, fold_log

BATCH = 256
"""Blocks a transaction: some MB of pages."""
BUSY_S = 5
KEPT = ("checkpoint", "sign", "cert", "cosign")
"""Tables whose rows are taken over as they are: signatures, which nothing can make again."""


def again(old: Path, new: Path, was: Path, progress: Progress | None = None) -> None:
    """Makes `new` of the ledger in `old`, flushed to its last page.

    `was`: where the old file stood; the new one may sign where that one might. `progress` counts each block
    twice: derived, and audited.
    `VerificationFailed` where the old file does not hold what it must.
    """
    with closing(connect_reading(old, BUSY_S)) as source:
        bundle = bundle_of(source, was)
        with closing(LedgerStore.create(new, bundle)) as store:
            store.db.execute("pragma synchronous = off")  # nobody knows of it yet; flushed as a whole
            _facts(source, store, was)
            if store.pruned:
                _take_over(source, store)
            else:
                _derive(source, store, progress)
                with store.transaction():
                    for table in KEPT:
                        _copy(source, store, table)
            with store.transaction():
                for row in source.execute("select height, hash, block from proposed"):
                    store.put_proposed(*row)
            fold_log(store.db)
    report = audit(new, progress and (lambda done, last: progress(last + done, 2 * last)))
    if report.findings:
        where, what = report.findings[0]
        raise damaged(was, f"{where}: {what}")


def damaged(path: Path, what: str) -> VerificationFailed:
    return VerificationFailed(
        f"ledger '{path.name}' cannot be brought up to date: {what}",
        hint="restore it from a backup; a group's can be fetched again from the others: idao quorum repair",
        code="damaged",
    )


def bundle_of(db: sqlite3.Connection, path: Path) -> genesis_rules.Bundle:
    """The signed genesis of a ledger file of any format. `VerificationFailed` where it is damaged."""
    row = db.execute("select value, sum from meta where key = 'bundle'").fetchone()
    if row is None or type(row[0]) is not bytes or row[1] != meta_sum("bundle", row[0]):
        raise damaged(path, "its genesis is not as it was written")
    try:
        plain = canonical.decode(row[0])
        if isinstance(plain, dict) and "before" not in plain:
            plain = {**plain, "recovery": _consents(plain), "before": b""}
        return canonical.from_plain(genesis_rules.Bundle, plain)
    except (Malformed, TypeError) as e:
        raise damaged(path, f"its genesis cannot be read ({e})") from e


def _consents(plain: dict[str, Any]) -> list[Any]:
    """Format 1 had one recovery signature, and left it to the reader to find whose."""
    signature = plain.get("recovery")
    if signature is None:
        return []
    genesis = canonical.from_plain(Genesis, plain.get("genesis"))
    signers = [key for key in genesis.recovery_keys if keys.verify_genesis(key, signature, genesis)]
    return [canonical.to_plain(Consent(key, signature)) for key in signers[:1]]


def _facts(source: sqlite3.Connection, store: LedgerStore, was: Path) -> None:
    """What the file says of itself. It stays quarantined if it was, and is at home where it was."""
    with store.transaction():
        for key, value, check in source.execute("select key, value, sum from meta").fetchall():
            if key not in META_KEYS or type(value) is not bytes or check != meta_sum(key, value):
                raise damaged(was, f"its {key} is not as it was written")
            if key not in ("bundle", "place"):
                store.set_meta(key, value)
            elif key == "place" and value != place.place_of(was):
                store.set_meta("place", value)


def _derive(source: sqlite3.Connection, store: LedgerStore, progress: Progress | None) -> None:
    rows = source.execute("select height, header, certificate from block order by height").fetchall()
    for start in range(0, len(rows), BATCH):
        with store.transaction():
            for height, header, certificate in rows[start : start + BATCH]:
                try:
                    _block(source, store, height, header, certificate)
                except IdaoError as e:
                    raise damaged(store.path, f"block {height}: {e.message}") from e
        if progress:
            progress(min(start + BATCH, len(rows)), 2 * len(rows))


def _block(source: sqlite3.Connection, store: LedgerStore, height: int, header: bytes, agreed: bytes) -> None:
    tip = store.tip()
    if height != tip.height + 1:
        raise Malformed(f"block {tip.height + 1} is missing")
    _, validators = store.validators(height)
    block = Block(canonical.unpack(Header, header), tip.certificate, _raws(source, height))
    txs = [parse_tx(raw) for raw in block.txs]
    # Signatures are the audit's, which comes last: it verifies them beside this process.
    executed = rules.check(tip, store.chain, validators, block, lambda _: True, txs)
    store.append(block, canonical.unpack(Certificate, agreed), executed)


def _raws(source: sqlite3.Connection, height: int) -> tuple[bytes, ...]:
    rows = source.execute("select raw from tx where height = ? order by place", (height,))
    return tuple(raw for (raw,) in rows)


def _take_over(source: sqlite3.Connection, store: LedgerStore) -> None:
    names = [name for (name,) in source.execute("select name from sqlite_master where type = 'table'")]
    with store.transaction():
        for table in names:
            if table != "meta":
                _copy(source, store, table)
        store.db.execute("delete from log_node where level > 0 and level < ?", (LOG_LEVEL,))
        store.db.execute("delete from tx where height > ?", (store.pruned,))
        for height in range(store.pruned + 1, store.height + 1):
            header = store.header(height)
            parent = store.decided(height - 1)[1]
            block = Block(header, parent, _raws(source, height))
            bodies.put(store.db, height, rules.header_hash(header), canonical.pack(block))


def _copy(source: sqlite3.Connection, store: LedgerStore, table: str) -> None:
    """All rows of a table, which has the same columns in both. One that only one of them has is left out."""
    found, wanted = (_columns(db, table) for db in (source, store.db))
    if not found or not wanted:
        return
    if found != wanted:
        raise damaged(store.path, f"table {table} had other columns then, and its rows were pruned")
    store.db.execute(f'delete from "{table}"')
    rows = source.execute(f'select * from "{table}"')
    store.db.executemany(f'insert into "{table}" values ({", ".join("?" * len(wanted))})', rows)


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f'pragma table_info("{table}")')]
