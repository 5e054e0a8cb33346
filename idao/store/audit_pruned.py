"""The audit of a ledger whose old bodies are gone: compared with what was certified, not derived.

Every header follows from the one before, was decided by the set of its height, and names a log root that the
leaves lead to, kept or hashed. The records of today have the state root of the newest header. What led from
one to the next can be derived no more; whoever keeps all bodies can still do that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from idao.crypto import canonical, merkle, statetree
from idao.crypto.certificates import certificate_hash
from idao.crypto.hashing import validators_hash
from idao.errors import IdaoError, Malformed
from idao.ledger import block as rules
from idao.ledger import genesis as genesis_rules
from idao.ledger.execution import NO_HASH, Tip
from idao.ledger.registry import RECORDS
from idao.ledger.state import State, encode_key, key_of, table_of
from idao.ledger.tx import Receipt
from idao.model import Certificate, Header, ValidatorSet, show_id
from idao.store.tables import from_row, sql_of

if TYPE_CHECKING:
    from idao.store.audit import Audit


def run(audit: Audit, tip: Tip, last: int) -> bool:
    """Checks every block in turn, then the records against the last. False where that cannot be done."""
    root = _load_records(audit)
    before: Header | None = None
    frontier = tip.frontier
    certificate: Certificate | None = None
    for height in range(1, last + 1):
        try:
            before, certificate = _block(audit, height, before, certificate, frontier)
        except IdaoError as e:
            audit.report.note(f"block {height}", e.message)
            return False
        audit.report.blocks = height
        if audit.progress:
            audit.progress(height, last)
    if before is not None and root != before.state_root:
        audit.report.note("records", f"are not those that block {last} was certified with")
    return True


def _load_records(audit: Audit) -> bytes:
    """The records as stored, into the audit's base and tree. Their state root."""
    paths = []
    for cls in (*RECORDS, *genesis_rules.RECORDS):
        rows: dict[Any, Any] = {}
        name = table_of(cls).name
        for row in audit.db.execute(sql_of(cls).select):
            try:
                rec: Any = from_row(cls, row)
            except IdaoError as e:
                audit.report.note(name, e.message)
                continue
            key = key_of(rec)
            rows[key] = rec
            value = statetree.value_hash(canonical.pack(rec))
            paths.append((statetree.record_path(name, encode_key(key)), value))
        audit.base.write({cls: rows})
    audit.branches = statetree.build(paths)
    first = genesis_rules.epoch_at(State(audit.base), 1)[1]
    if first != audit.store.bundle.genesis.validators:
        raise Malformed("the first validators are not those of genesis")
    return statetree.root(audit.branches)


def _block(
    audit: Audit, height: int, before: Header | None, parent: Certificate | None, frontier: merkle.Frontier
) -> tuple[Header, Certificate]:
    header, certificate = audit.stored_block(height)
    epoch, validators = genesis_rules.epoch_at(State(audit.base), height)
    block_hash = rules.header_hash(header)
    _check_header(audit, header, before, parent, validators)
    audit.check_certificate(height, certificate, block_hash, validators)
    _leaves(audit, header, frontier, _transactions(audit, header, parent))
    audit.keep_nodes(frontier.append(merkle.LOG.leaf(block_hash)))
    audit.headers[height] = block_hash
    audit.check_checkpoint(header, frontier, epoch.epoch, validators)
    return header, certificate


def _check_header(
    audit: Audit, header: Header, before: Header | None, parent: Certificate | None, validators: ValidatorSet
) -> None:
    """What a header says by itself: its place in the chain, its set and the next, its proposer."""
    quorum = audit.store.chain.quorum
    height = before.height + 1 if before else 1
    leader = validators.validators[validators.leader(height, header.view)].idao
    _, following = genesis_rules.epoch_at(State(audit.base), height + 1)
    expected = (
        quorum,
        height,
        rules.header_hash(before) if before else quorum,
        certificate_hash(parent) if parent else NO_HASH,
        validators_hash(validators),
        validators_hash(following),
        leader,
    )
    found = (
        header.quorum,
        header.height,
        header.parent,
        header.parent_certificate,
        header.validators,
        header.next_validators,
        header.proposer,
    )
    later = header.time_ms > (before.time_ms if before else audit.store.bundle.genesis.time_ms)
    if found != expected or not later:
        raise Malformed("its header does not follow from the one before")


def _transactions(audit: Audit, header: Header, parent: Certificate | None) -> set[bytes]:
    """Ids of the transactions of a block, or of those of them that are kept; their signatures are checked."""
    height = header.height
    if height > audit.report.pruned:
        raws = audit.body(header, parent).txs
        if rules.tx_root(raws) != header.tx_root:
            raise Malformed("its transactions are not those that its header names")
        stored = None
    else:
        rows = audit.db.execute(
            "select id, raw from tx where height = ? order by place", (height,)
        ).fetchall()
        stored, raws = [row[0] for row in rows], tuple(row[1] for row in rows)
    txs = audit.parsed(raws)
    for tx in txs:
        if not audit.authentic(height)(tx):
            raise Malformed(f"transaction {show_id('tx', tx.id)} has a bad signature")
    ids = [tx.id for tx in txs]
    if stored is not None and stored != ids:
        audit.report.note(f"block {height}", "the stored id of a transaction is not that of its envelope")
    return set(ids)


def _leaves(audit: Audit, header: Header, frontier: merkle.Frontier, txs: set[bytes]) -> None:
    """The receipts of a block, or their hashes, lead to its log root; `txs` has all that they are of."""
    start, end = frontier.size, header.log_size
    rows = audit.db.execute(
        "select position, height, tx, kind, ok, leaf from receipt where position >= ? and position < ?",
        (start, end),
    )
    kept = {position: rest for position, *rest in rows}
    hashes = dict(
        audit.db.execute(
            "select place, hash from log_node where level = 0 and place >= ? and place < ?", (start, end)
        )
    )
    for position in range(start, end):
        leaf = hashes.get(position)
        if (row := kept.get(position)) is not None:
            leaf = merkle.LOG.leaf(row[-1])
            _check_receipt(audit, header.height, position, row, txs)
        if leaf is None:
            raise Malformed(f"leaf {position} of the log is missing")
        audit.keep_nodes(frontier.append(leaf))
    audit.nodes.update({(0, position): h for position, h in hashes.items()})
    if frontier.root() != header.log_root:
        raise Malformed("its receipts do not lead to its log root")
    audit.positions += [start, end]
    audit.report.receipts += len(kept)


def _check_receipt(audit: Audit, height: int, position: int, row: list[Any], txs: set[bytes]) -> None:
    receipt = canonical.unpack(Receipt, row[-1])
    if (
        tuple(row[:-1]) != (receipt.height, receipt.tx, receipt.kind, int(receipt.ok))
        or receipt.height != height
    ):
        audit.report.note(f"receipt at {position}", "its row says other than its leaf")
    if receipt.origin == "tx" and receipt.tx not in txs:
        audit.report.note(f"receipt at {position}", "its transaction is missing")
