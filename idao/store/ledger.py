"""One ledger in one SQLite file: blocks, receipts, the log, the state tree, records, the sign journal.

WAL with synchronous FULL: a transaction that has committed survives power loss. All writes of one
protocol step happen in one transaction, so a step is there whole or not at all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from idao.crypto import canonical, merkle
from idao.crypto.hashing import Kind, digest, header_hash
from idao.errors import NotFound, Refused, VerificationFailed
from idao.ledger import genesis as genesis_rules
from idao.ledger import succession
from idao.ledger.execution import LOG_LEVEL, Chain, Executed, Tip
from idao.ledger.lineage import Link
from idao.ledger.state import State
from idao.ledger.succession import Ancestry
from idao.ledger.tx import Receipt
from idao.model import Block, Certificate, Header, Parent, SignedVote, ValidatorSet, Vote, show_id
from idao.store import bodies, opening, place
from idao.store.layout import schema as schema
from idao.store.opening import APPLICATION_ID, check_owner, connect, connect_reading, empty_log, refusal
from idao.store.tables import BRANCHES_KEPT, RECORDS_KEPT, SqlBase, SqlBranches

VERSION = 3
"""1 had no cosignatures, seats, bonds; 1 and 2 had a row for each transaction. `store.migrate` leads here."""
BUSY_MS = 5000
"""How long a reader waits for a writer's commit; commits take milliseconds."""

CACHE_KIB = 32 * 1024
"""Pages that SQLite keeps of a ledger that is driven: the upper pages of all its tables."""

HEIGHT_MAX = 2**63 - 1
"""SQLite counts no further; no ledger comes near."""
META_KEYS = ("bundle", "place", "ended", "halted", "unsigned-until", "pruned")
"""The signed genesis; where the file stood when it was made, hashed (`store.place`); the quorum that
continues this one, in a file that is only read any more; why the validator here signs nothing any more; the
height up to which it signs nothing, because it may have forgotten what it signed; the height up to which
bodies were pruned."""

LIVE, ENDED, QUARANTINED = "live", "ended", "quarantined"


def meta_sum(key: str, value: bytes) -> bytes:
    return digest(Kind.META, canonical.encode(key) + value)


class LedgerStore:
    """A ledger file. Reading never writes; writing happens inside `transaction`."""

    def __init__(self, path: Path, db: sqlite3.Connection, *, readonly: bool = False) -> None:
        self.path, self.db, self._readonly = path, db, readonly
        self.base = SqlBase(db, 0 if readonly else RECORDS_KEPT)
        self.branches = SqlBranches(db, 0 if readonly else BRANCHES_KEPT)
        self._seen = 0
        self._place: bytes | None = None
        bundle = self._meta("bundle")
        self.bundle = canonical.unpack(genesis_rules.Bundle, bundle)
        self.chain: Chain = genesis_rules.chain_of(self.bundle.genesis)

    # --- opening

    @classmethod
    def create(cls, path: Path, bundle: genesis_rules.Bundle) -> LedgerStore:
        """A new file at height 0. The file appears whole: it is made aside and renamed."""
        genesis_rules.check_bundle(bundle)
        aside = path.with_suffix(".new")
        for stale in aside.parent.glob(aside.name + "*"):
            stale.unlink()
        db = _connect(aside, "rwc")
        db.execute(f"pragma application_id = {APPLICATION_ID}")
        db.execute(f"pragma user_version = {VERSION}")
        with _atomic(db, aside):
            for statement in schema():
                db.execute(statement)
            for key, value in (("bundle", canonical.pack(bundle)), ("place", place.place_of(aside))):
                db.execute("insert into meta values (?, ?, ?)", (key, value, meta_sum(key, value)))
            store = cls(path, db)
            state = genesis_rules.first_state(bundle)
            executed = genesis_rules.height_zero(state)
            store.base.write(state.changes)
            store.branches.write(executed.branches.writes)
        opening.fold_log(db)
        db.close()
        from idao.store.packs import sync_folder  # nobody who only reads needs it

        aside.rename(path)
        sync_folder(path.parent)  # whoever names this ledger from now on must find it
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, *, readonly: bool = False) -> LedgerStore:
        if not path.exists():
            raise NotFound(f"no ledger file '{path.name}'")
        called, db = f"ledger '{path.name}'", None
        try:
            db = connect_reading(path, BUSY_MS / 1000) if readonly else _connect(path, "rw")
            check_owner(db, path, VERSION, called=called)
            return cls(path, db, readonly=readonly)
        except BaseException as e:
            if db is not None:
                db.close()
            if isinstance(e, sqlite3.Error | UnicodeDecodeError):  # the latter: damage in SQLite's own words
                raise refusal(e, path, called) from e
            raise

    def close(self) -> None:
        if not self._readonly:
            empty_log(self.db)
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One atomic, durable step."""
        try:
            with _atomic(self.db, self.path):
                yield
        except BaseException:
            self._forget()  # what it wrote is in the memory too
            raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside is of one moment, although a node may be writing."""
        self.db.execute("begin")
        try:
            yield
        finally:
            if self.db.in_transaction:  # an error may have ended it
                self.db.execute("rollback")

    # --- where it may go on

    @property
    def continued_by(self) -> bytes | None:
        """The quorum that continues this one, which ended here (FORMATS: recovery)."""
        return self.get_meta("ended")

    @property
    def quarantined(self) -> bool:
        """Whether the file was copied, restored or moved to here: what it came from may go on."""
        if self._place is None:
            self._place = place.place_of(self.path)
        return self.get_meta("place") != self._place

    @property
    def unsigned_until(self) -> int:
        """The height up to which the validator here signs nothing: it may have forgotten what it signed."""
        return int(self.get_meta("unsigned-until") or 0)

    @property
    def standing(self) -> str:
        """Whether this home may sign here."""
        return ENDED if self.continued_by else QUARANTINED if self.quarantined else LIVE

    def require_live(self) -> None:
        """`Refused` (`ended`, `quarantine`) where nothing may be signed in this ledger."""
        if (after := self.continued_by) is not None:
            raise Refused(
                f"this ledger ended at height {self.height}; {show_id('quorum', after)} continues it",
                hint=f"--quorum {show_id('quorum', after)}",
                code="ended",
            )
        if self.quarantined:
            raise Refused(
                "this ledger was copied or moved to here: it may have gone on elsewhere, and must not fork",
                hint="to go on here as a new quorum that names the old one: idao quorum recover",
                code="quarantine",
            )

    def quarantine(self) -> None:
        """For a file that comes out of a backup: it is nowhere at home."""
        with self.transaction():
            self.set_meta("place", b"")

    def settle_here(self) -> None:
        """Inside a transaction: from now on this is the place of the file."""
        self.set_meta("place", place.place_of(self.path))

    def end(self, continued_by: bytes) -> None:
        """Nothing is ever signed in this file again."""
        with self.transaction():
            self.set_meta("ended", continued_by)

    # --- reading

    def _meta(self, key: str) -> bytes:
        found = self.get_meta(key)
        if found is None:
            raise VerificationFailed(f"ledger '{self.path.name}' has no {key}", code="damaged")
        return found

    def get_meta(self, key: str) -> bytes | None:
        """A fact of this file, or None. `VerificationFailed` when it is not as it was written."""
        row = self.db.execute("select value, sum from meta where key = ?", (key,)).fetchone()
        if row is None:
            return None
        if type(row[0]) is not bytes or row[1] != meta_sum(key, row[0]):
            raise VerificationFailed(f"ledger '{self.path.name}': its {key} is damaged", code="damaged")
        return bytes(row[0])

    def set_meta(self, key: str, value: bytes) -> None:
        self.db.execute("insert or replace into meta values (?, ?, ?)", (key, value, meta_sum(key, value)))

    @property
    def pruned(self) -> int:
        """Height up to which bodies of transactions are gone; 0 where all are here."""
        return int(self.get_meta("pruned") or b"0")

    @property
    def height(self) -> int:
        return int(self.db.execute("select coalesce(max(height), 0) from block").fetchone()[0])

    def state(self) -> State:
        return State(self.base)

    def validators(self, height: int) -> tuple[genesis_rules.Epoch, ValidatorSet]:
        return genesis_rules.epoch_at(self.state(), height)

    def _forget(self) -> None:
        self.base.recent.clear()
        self.branches.recent.clear()

    def tip(self, log: merkle.Frontier | None = None) -> Tip:
        """Where the ledger stands. `log`: its frontier, if whoever wrote the newest block still has it."""
        seen = self.db.execute("pragma data_version").fetchone()[0]
        if seen != self._seen:  # another connection has written
            self._seen = seen
            self._forget()
        row = self.db.execute(
            "select height, hash, header, certificate, leaf from block order by height desc limit 1"
        ).fetchone()
        if row is None:
            return Tip(
                0, self.chain.quorum, self.bundle.genesis.time_ms, merkle.Frontier(merkle.LOG), self.base,
                self.branches, None, self.header_hash,
            )  # fmt: skip
        header = canonical.unpack(Header, row[2])
        certificate = canonical.unpack(Certificate, row[3])
        return Tip(
            row[0], row[1], header.time_ms, log or self.frontier(row[4] + 1), self.base, self.branches,
            certificate, self.header_hash,
        )  # fmt: skip

    def header_hash(self, height: int) -> bytes | None:
        """Hash of the header at `height`; the quorum id at 0."""
        if height == 0:
            return self.chain.quorum
        row = self.db.execute("select hash from block where height = ?", (height,)).fetchone()
        return None if row is None else bytes(row[0])

    def frontier(self, size: int) -> merkle.Frontier:
        stack = [(h, self.subtree(h, i)) for h, i in merkle.perfect_subtrees(0, size)]
        return merkle.Frontier(merkle.LOG, size, stack)

    def subtree(self, level: int, place: int) -> bytes:
        """Hash of a perfect subtree of the log."""
        if level == 0 and (leaf := self._leaf(place)) is not None:
            return merkle.LOG.leaf(leaf)
        if 0 < level < LOG_LEVEL:
            left, right = (self.subtree(level - 1, 2 * place + side) for side in (0, 1))
            return merkle.LOG.branch(left, right)
        row = self.db.execute("select hash from log_node where level = ? and place = ?", (level, place))
        found = row.fetchone()
        if found is None:
            raise VerificationFailed(f"the log lacks subtree {level}/{place}", code="damaged")
        return bytes(found[0])

    def leaf(self, position: int) -> bytes:
        """The bytes of a log leaf: a receipt, or a block's header hash."""
        found = self._leaf(position)
        if found is None:
            raise NotFound(f"the log has no leaf {position}" + (", or it was pruned" if self.pruned else ""))
        return found

    def _leaf(self, position: int) -> bytes | None:
        position = min(position, HEIGHT_MAX)
        row = self.db.execute("select leaf from receipt where position = ?", (position,)).fetchone()
        if row is None:
            row = self.db.execute("select hash from block where leaf = ?", (position,)).fetchone()
        return None if row is None else bytes(row[0])

    def header(self, height: int) -> Header:
        row = self.db.execute("select header from block where height = ?", (height,)).fetchone()
        if row is None:
            raise NotFound(f"no block at height {height}")
        return canonical.unpack(Header, row[0])

    def decided(self, height: int) -> tuple[Header, Certificate]:
        """The header of a block, and its finalization."""
        row = self.db.execute("select header, certificate from block where height = ?", (height,)).fetchone()
        if row is None:
            raise NotFound(f"no block at height {height}")
        return canonical.unpack(Header, row[0]), canonical.unpack(Certificate, row[1])

    def links(self, epoch: int) -> tuple[Link, ...]:
        """How each validator set up to that of `epoch` was decided on by the one before."""
        out = []
        for number in range(1, epoch + 1):
            new = self.state().need(genesis_rules.Epoch, number)
            header, certificate = self.decided(new.start - 1)
            out.append(Link(header, certificate, new.members))
        return tuple(out)

    def ancestry(self) -> tuple[Parent, Ancestry]:
        """What a recovery genesis would continue: the newest anchor, and the way to the set that made it."""
        found = self.checkpoint()
        parent = succession.parent_of(self.chain.quorum, found[1] if found else None)
        epoch = genesis_rules.epoch_at(self.state(), parent.height)[0].epoch if found else 0
        return parent, Ancestry(self.bundle.genesis, self.links(epoch))

    def body(self, height: int) -> bytes:
        """The canonical bytes of the block as it was agreed on. `NotFound` where they were pruned."""
        if height <= self.pruned:
            raise NotFound(f"the body of block {height} was pruned here")
        row = self.db.execute(
            "select txs, d.header, p.certificate from block d join body using (height, hash)"
            " left join block p on p.height = d.height - 1 where d.height = ?",
            (min(height, HEIGHT_MAX),),
        ).fetchone()
        if row is None:
            raise NotFound(f"no block at height {height}")
        return bytes(row[0]) + bodies.rest_of(row[1], row[2])

    def block(self, height: int) -> tuple[Block, Certificate]:
        """The block as it was agreed on, and its finalization. `NotFound` where its body was pruned."""
        return canonical.unpack(Block, self.body(height)), self.decided(height)[1]

    def tx(self, tx: bytes) -> bytes | None:
        """The signed transaction of an id. None where there is none, or its body was pruned."""
        found = self.receipt_of(tx)
        return None if found is None else next(raw for _, raw in bodies.with_txs(self, [found[1]]))

    def receipt_of(self, tx: bytes) -> tuple[int, Receipt] | None:
        """(log position, receipt) of a transaction."""
        return bodies.receipt_of(self.db, tx)

    def positions(self, first: int, last: int) -> tuple[int, int]:
        """Log positions from the first receipt of block `first` to the leaf of block `last`."""
        at = "select leaf from block where height {} ? order by height desc limit 1"
        before = self.db.execute(at.format("<"), (min(first, HEIGHT_MAX),)).fetchone()
        found = self.db.execute(at.format("<="), (min(last, HEIGHT_MAX),)).fetchone()
        return (before[0] + 1 if before else 0), (found[0] if found else -1)

    def receipts(self, first: int = 0, last: int = 2**62) -> Iterator[tuple[int, Receipt]]:
        """(position, receipt) of blocks first..last."""
        rows = self.db.execute(
            "select position, leaf from receipt where position between ? and ? order by position",
            self.positions(first, last),
        )
        for position, leaf in rows:
            yield position, canonical.unpack(Receipt, leaf)

    def leaves_of(self, height: int) -> list[bytes]:
        """The receipts of one block, as leaves of the log."""
        rows = self.db.execute(
            "select leaf from receipt where position between ? and ? order by position",
            self.positions(height, height),
        )
        return [bytes(row[0]) for row in rows]

    def newest(self, kind: str, within: int) -> list[Receipt]:
        """Receipts of one kind that were applied, among the last `within` leaves of the log; newest first."""
        rows = self.db.execute(
            "select leaf from receipt where position > (select max(position) from receipt) - ?"
            " and kind = ? and ok = 1 order by position desc",
            (within, kind),
        )
        return [canonical.unpack(Receipt, leaf) for (leaf,) in rows]

    def receipt_count(self, height: int) -> int:
        row = self.db.execute(
            "select count(*) from receipt where position between ? and ?", self.positions(height, height)
        ).fetchone()
        return int(row[0])

    def checkpoint(self, height: int | None = None) -> tuple[int, str] | None:
        """(height, note) of the newest checkpoint, or of the one at `height`."""
        row = self.db.execute(
            "select height, note from checkpoint"
            " where ?1 is null or height = ?1 order by height desc limit 1",
            (height and min(height, HEIGHT_MAX),),
        ).fetchone()
        return None if row is None else (row[0], row[1])

    # --- writing, inside a transaction

    def append(self, block: Block, certificate: Certificate, executed: Executed) -> None:
        """A decided block with everything it leads to, except its checkpoint."""
        header = block.header
        block_hash = header_hash(header)
        frontier = executed.frontier.copy()
        nodes = executed.nodes + frontier.append(merkle.LOG.leaf(block_hash))
        positions = range(header.log_size - len(executed.leaves), header.log_size)
        self.db.execute(
            "insert into block values (?, ?, ?, ?, ?)",
            (header.height, block_hash, canonical.pack(header), canonical.pack(certificate), header.log_size),
        )
        if block.parent_certificate is not None:  # the one of several that the header names
            self.db.execute(
                "update block set certificate = ?1 where height = ?2 and certificate <> ?1",
                (canonical.pack(block.parent_certificate), header.height - 1),
            )
        if not bodies.has(self.db, header.height, block_hash):
            bodies.put(self.db, header.height, block_hash, canonical.pack(block))
        self.db.executemany(  # a bytearray is bound as it is; bytes are asked how they want to be adapted
            "insert into receipt values (?, ?, ?, ?, ?, ?)",
            [
                (position, header.height, bytearray(r.tx), r.kind, 1 if r.ok else 0, bytearray(leaf))
                for position, r, leaf in zip(positions, executed.receipts, executed.leaves, strict=True)
            ],
        )
        # In order of the key, so that SQLite fills one page after another.
        self.db.executemany(
            "insert into log_node values (?, ?, ?)",
            sorted([(level, place, bytearray(h)) for level, place, h in nodes if level >= LOG_LEVEL]),
        )
        self.base.write(executed.state.changes)
        self.branches.write(executed.branches.writes)

    def put_checkpoint(self, height: int, size: int, note: str) -> None:
        self.db.execute("insert or replace into checkpoint values (?, ?, ?)", (height, size, note))

    # --- the journal: contract in quorum/events.py

    def signs(self, height: int, signer: int) -> Iterator[SignedVote]:
        rows = self.db.execute(
            "select kind, view, digest, signature from sign where height = ? order by view, slot", (height,)
        )
        for kind, view, voted, signature in rows:
            yield SignedVote(Vote(kind, self.chain.quorum, height, view, voted), signer, signature)

    def put_sign(self, vote: Vote, slot: str, signature: bytes) -> None:
        """Insert only: a filled slot makes SQLite refuse, which is the last line of defence."""
        self.db.execute(
            "insert into sign values (?, ?, ?, ?, ?, ?)",
            (vote.height, vote.view, slot, vote.kind, vote.digest, signature),
        )

    def certificates(self, height: int) -> Iterator[Certificate]:
        for (data,) in self.db.execute("select certificate from cert where height = ?", (height,)):
            yield canonical.unpack(Certificate, data)

    def all_certificates(self) -> Iterator[Certificate]:
        """Of every height, as far as they are kept: what a fork is proven from."""
        for (data,) in self.db.execute("select certificate from cert order by height, kind, view, digest"):
            yield canonical.unpack(Certificate, data)

    def put_certificate(self, certificate: Certificate) -> None:
        vote = certificate.vote
        self.db.execute(
            "insert or ignore into cert values (?, ?, ?, ?, ?)",
            (vote.height, vote.kind, vote.view, vote.digest, canonical.pack(certificate)),
        )

    def proposed(self, height: int) -> Iterator[tuple[bytes, bytes]]:
        return bodies.held(self.db, height)

    def put_proposed(self, height: int, block_hash: bytes, block: bytes) -> None:
        bodies.hold(self.db, height, block_hash, block)

    def prune_journal(self, height: int) -> None:
        """After `height` is decided. Certificates of heights with views above 0 stay: they are proof."""
        self.db.execute("delete from sign where height < ?", (height - 1,))
        self.db.execute("delete from held where height <= ?", (height,))
        self.db.execute(
            "delete from body where height = ?1 and hash <> (select hash from block where height = ?1)",
            (height,),
        )
        self.db.execute(
            "delete from cert where height <= ? and height not in (select height from cert where view > 0)",
            (height,),
        )

    def log_path(self, position: int, size: int) -> list[bytes]:
        return merkle.stored_path(merkle.LOG, self.subtree, position, size)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    db = connect(path, mode, BUSY_MS / 1000)
    # Some SQLite overwrites what is deleted: each block's body would be written twice, and none is secret.
    for setting in ("journal_mode = wal", "synchronous = full", "secure_delete = off"):
        db.execute(f"pragma {setting}")
    db.execute(f"pragma cache_size = -{CACHE_KIB}")
    opening.hold_room(path)
    return db


@contextmanager
def _atomic(db: sqlite3.Connection, path: Path) -> Iterator[None]:
    try:
        with opening.atomic(db):
            yield
    except sqlite3.OperationalError as e:
        raise refusal(e, path, f"ledger '{path.name}'") from e
