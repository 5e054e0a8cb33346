"""The audit: everything a ledger file says is derived again from genesis and compared, row by row.

Nothing stored is believed except the bytes that signatures cover. A flipped bit that changes a row, an
index or the schema is found, and named by block and record where it has one.
"""

from __future__ import annotations

import gc
import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from idao import anchor
from idao.crypto import canonical, keys, merkle, note
from idao.crypto.certificates import verify_certificate
from idao.crypto.keys import verify_vote
from idao.errors import IdaoError, Malformed
from idao.filled import each, filled
from idao.ledger import block as rules
from idao.ledger import genesis as genesis_rules
from idao.ledger.execution import LOG_LEVEL, Executed, Tip
from idao.ledger.registry import RECORDS
from idao.ledger.state import DictBase, State, key_of, table_of
from idao.ledger.tx import Receipt, Tx, parse_tx
from idao.model import FINALIZE, SLOT_OF, Block, Certificate, Header, ValidatorSet, Vote, show_id
from idao.store import bodies, cosigns, wal
from idao.store import ledger as files
from idao.store.opening import APPLICATION_ID
from idao.store.signatures import Signatures
from idao.store.tables import from_row, sql_of

REFUSALS = ("not-found", "older", "newer", "foreign", "busy", "disk", "disk-full")
"""What keeps a file from being audited, with a way out of its own; all else that opening finds is damage."""
FINDINGS_MAX = 1000
"""A file with more is past naming one by one."""
Progress = Callable[[int, int], None]
"""(blocks done, blocks in all)."""
RARELY = 100_000
"""Objects between two looks for cycles: an audit makes millions and no cycle, and keeps every record."""


@filled
class Report:
    """What an audit found. `findings` are (where, what)."""

    blocks: int = 0
    receipts: int = 0
    findings: list[tuple[str, str]] = each(factory=list)
    pruned: int = 0
    """Bodies up to this height are gone: what came of them was compared with certified roots, not derived."""

    @property
    def ok(self) -> bool:
        return not self.findings

    def note(self, where: str, what: str) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append((where, what))


def audit(path: Path, progress: Progress | None = None) -> Report:
    """Audits one ledger file. Damage is a finding, never an exception; another format, or no file, is one."""
    report = Report()
    if what := wal.wrong(path):
        report.note("file", what)
    try:
        store = files.LedgerStore.open(path, readonly=True)
    except IdaoError as e:
        if e.code in REFUSALS:
            raise
        report.note("file", e.message)
        return report
    often = gc.get_threshold()
    try:
        gc.set_threshold(RARELY, *often[1:])
        store.db.execute("begin")  # one snapshot, although a node may be writing
        Audit(store, report, progress).run()
    except (sqlite3.DatabaseError, UnicodeDecodeError) as e:
        report.note("file", f"SQLite cannot read it: {e}")
    except (TypeError, ValueError, OverflowError) as e:
        # A damaged page can hold a number where the schema promises bytes.
        report.note("file", f"a row holds a value of another kind than its column: {e}")
    except IdaoError as e:
        report.note("file", e.message)
    finally:
        gc.set_threshold(*often)
        store.close()
    return report


class Audit:
    """One run over one file."""

    def __init__(self, store: files.LedgerStore, report: Report, progress: Progress | None) -> None:
        self.signatures = Signatures()
        self.positions: list[int] = []
        """First and past-the-last log position of each block's receipts, in order."""
        self.store, self.db, self.report, self.progress = store, store.db, report, progress
        self.base = DictBase()
        self.branches: dict[str, bytes] = {}
        self.nodes: dict[tuple[int, int], bytes] = {}
        self.headers: dict[int, bytes] = {}
        self.texts: dict[int, str] = {}
        """What the checkpoints of the newest heights say."""

    def run(self) -> None:
        self._check_file()
        self._check_schema()
        tip = self._genesis()
        last = self.db.execute("select max(height) from block").fetchone()[0] or 0
        self.report.pruned = self.store.pruned
        if self.report.pruned:
            from idao.store import audit_pruned

            derived = audit_pruned.run(self, tip, last)
        else:
            derived = self._blocks(tip, last)
        for where, what in self.signatures.finish():
            self.report.note(where, what)
        if derived:
            self._check_tables(last)

    def _blocks(self, tip: Tip, last: int) -> bool:
        """Derives every block; False when one of them cannot be."""
        for height in range(1, last + 1):
            try:
                tip = self._block(tip, height)
            except IdaoError as e:
                self.report.note(f"block {height}", e.message)
                self.report.note(f"block {height}", "what follows it could not be derived and compared")
                return False
            self.report.blocks = height
            if self.progress:
                self.progress(height, last)
        return True

    def _check_tables(self, last: int) -> None:
        self._check_strays(last)
        if not self.report.pruned:
            self._check_records()
        self._check_branches()
        self._check_log_nodes()
        self._check_journal(last)

    # --- the file

    def _check_file(self) -> None:
        for (line,) in self.db.execute("pragma integrity_check(100)"):
            if line != "ok":
                self.report.note("file", str(line))

    def _check_schema(self) -> None:
        fresh = sqlite3.connect(":memory:")
        for statement in files.schema():
            fresh.execute(statement)
        expected, found = _schema_of(fresh), _schema_of(self.db)
        fresh.close()
        for name in sorted(expected | found, key=str):  # damage can make a name a blob
            if expected.get(name) != found.get(name):
                what = "missing" if name not in found else "differs from what this version makes"
                self.report.note(f"schema {name}", what)
        for pragma, value in (("application_id", APPLICATION_ID), ("user_version", files.VERSION)):
            if self.db.execute(f"pragma {pragma}").fetchone()[0] != value:
                self.report.note(f"schema {pragma}", "differs from what this version makes")

    def _genesis(self) -> Tip:
        bundle = self.store.bundle
        genesis_rules.check_bundle(bundle)
        quorum = self.store.chain.quorum
        if self.store.path.stem != show_id("quorum", quorum).removeprefix("quorum:"):
            self.report.note("genesis", "the file is named after another quorum")
        for key, value, check in self.db.execute("select key, value, sum from meta").fetchall():
            if check != files.meta_sum(key, value):
                self.report.note(f"meta {key}", "is not as it was written")
            if key not in files.META_KEYS:
                self.report.note(f"meta {key}", "not of this version")
        first = genesis_rules.first_state(bundle)
        executed = genesis_rules.height_zero(first)
        self._keep(executed)
        self.headers[0] = quorum
        frontier = merkle.Frontier(merkle.LOG)
        return Tip(
            0, quorum, bundle.genesis.time_ms, frontier, self.base, self.branches, None, self.headers.get
        )

    def keep_nodes(self, nodes: Iterable[tuple[int, int, bytes]]) -> None:
        """Subtrees of the log that stand in a table of their own."""
        self.nodes.update({(level, place): h for level, place, h in nodes if level >= LOG_LEVEL})

    def _keep(self, executed: Executed) -> None:
        self.base.write(executed.state.changes)
        for prefix, row in executed.branches.writes.items():
            if row is None:
                self.branches.pop(prefix, None)
            else:
                self.branches[prefix] = row

    # --- blocks

    def stored_block(self, height: int) -> tuple[Header, Certificate]:
        """What a block's row holds. Notes it where the row itself says other than its header."""
        row = self.db.execute(
            "select hash, header, certificate, leaf from block where height = ?", (height,)
        ).fetchone()
        if row is None:
            raise Malformed("missing")
        header = canonical.unpack(Header, row[1])
        if row[0] != rules.header_hash(header):
            self.report.note(f"block {height}", "the stored hash is not that of its header")
        if row[3] != header.log_size:
            self.report.note(f"block {height}", "its leaf is recorded at another position")
        return header, canonical.unpack(Certificate, row[2])

    def _block(self, tip: Tip, height: int) -> Tip:
        header, certificate = self.stored_block(height)
        epoch, validators = genesis_rules.epoch_at(State(self.base), height)
        built = self.body(header, tip.certificate)
        txs = self.parsed(built.txs)
        executed = rules.check(tip, self.store.chain, validators, built, self.authentic(height), txs)
        block_hash = rules.header_hash(header)
        self.check_certificate(height, certificate, block_hash, validators)
        self._check_receipts(height, executed)
        self._keep(executed)
        frontier = executed.frontier
        nodes = executed.nodes + frontier.append(merkle.LOG.leaf(block_hash))
        self.keep_nodes(nodes)
        self.headers[height] = block_hash
        self.check_checkpoint(header, frontier, epoch.epoch, validators)
        return Tip(
            height,
            block_hash,
            header.time_ms,
            frontier,
            self.base,
            self.branches,
            certificate,
            self.headers.get,
        )

    def authentic(self, height: int) -> Callable[[Tx], bool]:
        """Takes signatures of a block's transactions in, to be verified beside this process."""

        def later(tx: Tx) -> bool:
            def where() -> str:
                return f"block {height}, transaction {show_id('tx', tx.id)}"

            return tx.authentic(self.signatures.at(where, "its signature does not hold"))

        return later

    def body(self, header: Header, parent: Certificate | None) -> Block:
        """The block whose header and finalization of its parent are given, with its transactions."""
        height, block_hash = header.height, rules.header_hash(header)
        rows = dict(self.db.execute("select hash, txs from body where height = ?", (height,)))
        txs = rows.pop(block_hash, None)
        for other in rows:
            self.report.note(f"block {height}", f"has another body as well, of {other.hex()[:16]}")
        if txs is None:
            raise Malformed("its body is missing")
        rest = bodies.rest_of(canonical.pack(header), canonical.pack(parent) if parent else None)
        return canonical.unpack(Block, txs + rest)

    @staticmethod
    def parsed(raws: Iterable[bytes]) -> list[Tx]:
        """The transactions of a block, in order. `Malformed` names the first that is none."""
        txs = []
        for place, raw in enumerate(raws):
            try:
                txs.append(parse_tx(raw))
            except Malformed as e:
                raise Malformed(f"transaction {place}: {e.message}") from e
        return txs

    def check_certificate(
        self, height: int, certificate: Certificate, block_hash: bytes, validators: ValidatorSet
    ) -> None:
        """Notes a finalization that is not of this block by this set."""
        vote = certificate.vote
        if (vote.kind, vote.quorum, vote.height, vote.digest) != (
            FINALIZE, self.store.chain.quorum, height, block_hash,
        ):  # fmt: skip
            self.report.note(f"block {height}", "its finalization is of another block")
            return
        check = self.signatures.at(lambda: f"block {height}", "its finalization does not verify")
        if not verify_certificate(certificate, validators, check):
            self.report.note(f"block {height}", "its finalization is not of this validator set")

    def _check_receipts(self, height: int, executed: Executed) -> None:
        end = executed.frontier.size
        start = end - len(executed.leaves)
        expected = {
            start + i: (height, r.tx, r.kind, int(r.ok), leaf)
            for i, (r, leaf) in enumerate(zip(executed.receipts, executed.leaves, strict=True))
        }
        rows = self.db.execute(
            "select position, height, tx, kind, ok, leaf from receipt where position >= ? and position < ?",
            (start, end),
        )
        found = {position: tuple(rest) for position, *rest in rows}
        for position, values in expected.items():
            if found.get(position) != values:
                name = f"block {height}, receipt {position - start} ({show_id('tx', values[1])})"
                self.report.note(name, "is not what the transaction leads to")
        self.positions += [start, end]
        self.report.receipts += len(expected)

    def check_checkpoint(
        self, header: Header, frontier: merkle.Frontier, epoch: int, validators: ValidatorSet
    ) -> None:
        """Notes a checkpoint that is not what the header implies, or not anchored by this set."""
        where = f"block {header.height}, checkpoint"
        expected = anchor.checkpoint_of(header, frontier, epoch)
        self.texts[header.height] = expected.text()
        self.texts.pop(header.height - cosigns.KEPT, None)
        row = self.db.execute(
            "select size, note from checkpoint where height = ?", (header.height,)
        ).fetchone()
        if row is None:
            # Alone, a head is signed with its block. Of many, who was away has only a later anchor over it.
            if self.store.bundle.genesis.kind == genesis_rules.PERSON:
                self.report.note(where, "missing")
            return
        try:
            signed = note.parse_note(row[1])
            if signed.text != expected.text() or row[0] != expected.size:
                self.report.note(where, "is not the one the header implies")
                expected = note.parse_checkpoint(signed.text)
            check = self.signatures.at(lambda: where, "a signature on it does not verify")
            anchor.check_anchor(signed, validators, check, expected)
        except IdaoError as e:
            self.report.note(where, e.message)

    # --- tables as a whole

    def _check_strays(self, last: int) -> None:
        """Rows that belong to no block."""
        pruned = self.report.pruned  # What stands after the last block is the journal's.
        tables = ("tx", 1, pruned), ("checkpoint", 1, last), ("body", pruned + 1, last + 1)
        for table, least, most in (*tables, ("held", last + 1, last + 1)):
            for (height,) in self.db.execute(
                f"select distinct height from {table} where height < ? or height > ?", (least, most)
            ):
                self.report.note(f"{table} at height {height}", "belongs to no block")
        for (position,) in self.db.execute("select position from receipt"):
            if bisect_right(self.positions, position) % 2 == 0:
                self.report.note(f"receipt at {position}", "belongs to no block")

    def _check_records(self) -> None:
        derived = self.base.tables()
        for cls in (*RECORDS, *genesis_rules.RECORDS):
            expected = dict(derived.get(cls, {}))
            table = table_of(cls)
            for row in self.db.execute(sql_of(cls).select):
                try:
                    rec: Any = from_row(cls, row)
                except IdaoError as e:
                    self.report.note(f"{table.name} {_show_key(row[: len(table.key)])}", e.message)
                    continue
                key = key_of(rec)
                if expected.pop(key, None) != rec:
                    self.report.note(f"{table.name} {_show_key(key)}", self._blame(table.name, key))
            for key in expected:
                self.report.note(f"{table.name} {_show_key(key)}", f"missing; {self._blame(table.name, key)}")

    def _blame(self, table: str, key: tuple[Any, ...]) -> str:
        """Which block last wrote a record: what it should say is in that block's receipt."""
        wanted = (table, canonical.encode(list(key)))
        rows = self.db.execute("select height, leaf from receipt order by position desc")
        for height, leaf in rows:
            try:
                receipt = canonical.unpack(Receipt, leaf)
            except Malformed:
                continue
            if any((c.table, c.key) == wanted for c in receipt.changed):
                return f"is not what block {height} made of it"
        return "is not what genesis made of it"

    def _check_branches(self) -> None:
        self._compare(
            "state branch", self.branches, self.db.execute("select prefix, children from state_branch")
        )

    def _check_log_nodes(self) -> None:
        rows = self.db.execute("select level, place, hash from log_node")
        self._compare("log subtree", self.nodes, (((level, place), h) for level, place, h in rows))

    def _compare(
        self, what: str, expected: Mapping[Any, bytes], rows: Iterator[Any] | sqlite3.Cursor
    ) -> None:
        left = dict(expected)
        for key, value in rows:
            if left.pop(key, None) != value:
                self.report.note(f"{what} {key}", "is not what the blocks lead to")
        for key in left:
            self.report.note(f"{what} {key}", "missing")

    def _check_journal(self, last: int) -> None:
        """Own signatures of the last heights verify, fit their slot, and agree with what was decided."""
        quorum = self.store.chain.quorum
        rows = self.db.execute("select height, view, slot, kind, digest, signature from sign")
        for height, view, slot, kind, digest, signature in rows:
            where = f"journal {height}/{view}/{slot}"
            try:
                vote = Vote(kind, quorum, height, view, digest)
                canonical.pack(vote)
            except Malformed as e:
                self.report.note(where, e.message)
                continue
            signed = any(verify_vote(v.key, signature, vote) for v in self._set_of(height).validators)
            if SLOT_OF[kind] != slot or not signed:
                self.report.note(where, "is not a vote of this validator")
        rows = self.db.execute("select height, kind, view, digest, certificate from cert")
        for height, kind, view, digest, data in rows:
            where = f"certificate {height}/{view}"
            try:
                certificate = canonical.unpack(Certificate, data)
            except Malformed as e:
                self.report.note(where, e.message)
                continue
            vote = certificate.vote
            named = (vote.quorum, vote.height, vote.kind, vote.view, vote.digest)
            agrees = named == (quorum, height, kind, view, digest)
            if not agrees or not verify_certificate(certificate, self._set_of(height)):
                self.report.note(where, "does not verify")
        for height, text in self.texts.items():
            for c in cosigns.held(self.db, height):
                if not _cosigned(quorum, self._set_of(height), c, text):
                    self.report.note(f"cosignature {height}", "is not one of this validator set")

    def _set_of(self, height: int) -> ValidatorSet:
        return genesis_rules.epoch_at(State(self.base), height)[1]


def _cosigned(quorum: bytes, validators: ValidatorSet, c: cosigns.Cosigned, text: str) -> bool:
    """Whether a kept row is a cosignature on this text by a member of the set."""
    return (
        validators.index_of_key(c.key) is not None
        and 0 <= c.time_s < 2**63
        and keys.verify(c.key, c.log, text.encode())
        and keys.verify(c.key, c.witness, keys.cosigned_message(text.encode(), c.time_s))
    )


def _schema_of(db: sqlite3.Connection) -> dict[str, tuple[str, str, str]]:
    rows = db.execute("select name, type, tbl_name, sql from sqlite_master where sql is not null")
    return {name: (kind, table, sql) for name, kind, table, sql in rows}


def _show_key(key: tuple[Any, ...]) -> str:
    return "/".join(k.hex()[:16] if isinstance(k, bytes) else str(k) for k in key)
