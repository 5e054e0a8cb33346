"""The proof file: shows a stranger that a record is in an anchored log, offline, with all that it takes.

One canonical CBOR value behind a magic line. It holds the signed genesis, the links to the validator set
of its epoch (each change as the set before decided it), a C2SP tlog-proof (checkpoint, cosignatures,
inclusion path), the block header, the signed transaction with its receipt, the records as of that height
with their paths in the state tree, and the disclosed files with their salts. Whoever holds it can confirm a
guess at a disclosed file's contents: disclose what may be known. `judge` needs nothing else: no home, no
network, no key, no clock.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Annotated, Any, BinaryIO, TypeVar

from idao import anchor, disclosure
from idao.crypto import canonical, merkle, note, statetree
from idao.crypto.hashing import Kind, hash_of
from idao.crypto.shapes import BYTES, TEXT, UNSIGNED
from idao.disclosure import Disclosure as Disclosure
from idao.disclosure import Listed as Listed
from idao.disclosure import check_file as check_file
from idao.errors import IdaoError, Malformed, VerificationFailed
from idao.filled import each, filled
from idao.frozen import frozen, replace
from idao.ledger import backing, lineage, succession
from idao.ledger import genesis as genesis_rules
from idao.ledger.assets import Asset, AssetVersion
from idao.ledger.dats import Class, Dat
from idao.ledger.genesis import Bundle
from idao.ledger.lineage import LINKS_MAX
from idao.ledger.lineage import Link as Link
from idao.ledger.reviews import ReviewRecord
from idao.ledger.state import key_of, table_of
from idao.ledger.tx import Receipt, Tx, parse_tx
from idao.model import Header, Id, Parent, Size, ValidatorSet, Word, show_id

MAGIC = b"idao-proof/1\n"
PROOF_BYTES_MAX = 512 * 1024 * 1024
"""Some four million disclosed files."""
FILES_FEW = 10_000
"""Up to here the bytes of a proof are made by way of plain values."""
RECORDS_MAX = 64
OUTSIDE_MAX = 64
"""Witness cosignatures and timestamps from outside that one proof may carry."""
SUBJECTS = ("tx", "asset", "dat")
RECORD_CLASSES = {table_of(cls).name: cls for cls in (Asset, AssetVersion, ReviewRecord, Class, Dat)}
"""What a proof can show."""
R = TypeVar("R")
NULL = canonical.encode(None)


@frozen
class Shown:
    """One record as of the checkpoint's height, or its absence (no `record`)."""

    table: Word
    key: Annotated[bytes, Size(1, 512)]
    record: Annotated[bytes, Size(1, 65536)] | None
    path: statetree.StateProof


@frozen
class Proof:
    v: int
    bundle: Bundle
    lineage: Annotated[tuple[Link, ...], Size(0, LINKS_MAX)]
    tlog: Annotated[str, Size(1, 131072)]
    header: Header
    leaf: Annotated[bytes, Size(1, 1_048_576)]
    tx: Annotated[bytes, Size(1, 131072)]
    subject_kind: Word
    subject: Id
    records: Annotated[tuple[Shown, ...], Size(0, RECORDS_MAX)]
    files: Disclosure | None
    attestations: Annotated[tuple[bytes, ...], Size(0, OUTSIDE_MAX)]
    """Evidence of trusted hardware for cosigners: packed `backing.Backing`s in the order of the set."""
    witnesses: Annotated[tuple[bytes, ...], Size(0, OUTSIDE_MAX)]
    """Cosignatures of others than the validators; counted apart."""
    timestamps: Annotated[tuple[bytes, ...], Size(0, OUTSIDE_MAX)]


def dump(proof: Proof) -> bytes:
    if proof.files and len(proof.files.all) > FILES_FEW:
        canonical.write_out(Proof)
    return MAGIC + canonical.pack(proof)


def write(proof: Proof, count: int, files: Iterable[Listed], put: Callable[[bytes], object]) -> None:
    """What `dump` gives of a proof with all `count` files of its asset version, which come one by one."""
    packed = canonical.pack(replace(proof, files=None))
    at = _to_files(packed, 0)[1]
    put(MAGIC + packed[:at])
    disclosure.write(count, files, put)
    put(packed[at + len(NULL) :])


def _to_files(data: bytes, at: int) -> tuple[None, int]:
    """Where the value of `files` begins in the bytes of a proof, as a `disclosure.Read`."""
    from idao.crypto.compiled import read_head

    start = at + 1
    for name, major in _BEFORE_FILES:
        start += len(name)
        n, start = read_head(data, start, major)
        start += 0 if major == UNSIGNED else n
    return None, start + len(_FILES)


_BEFORE_FILES = tuple(
    (canonical.encode(name), major)
    for name, major in (("v", UNSIGNED), ("tx", BYTES), ("leaf", BYTES), ("tlog", TEXT))
)
"""Short names come first (`crypto.canonical`), and these are the shorter ones."""
_FILES = canonical.encode("files")


def read(source: bytes | BinaryIO) -> tuple[Proof, disclosure.Files | None]:
    """A proof with its files, which are not in it if they are many. `Malformed` as `parse`.

    A `source` that is no bytes must be seekable and stay open while files are asked for.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    start = file.read(canonical.LARGE_BYTES)
    if len(start) < canonical.LARGE_BYTES or not start.startswith(MAGIC):
        proof = parse(start)
        return proof, disclosure.Held(proof.files) if proof.files else None
    if (size := file.seek(0, io.SEEK_END)) > PROOF_BYTES_MAX:
        raise Malformed(f"{size} bytes where at most {PROOF_BYTES_MAX} are allowed")
    file.seek(len(MAGIC))
    window = disclosure.Window(file, len(MAGIC))
    window.take(_to_files)
    begin, files = window.raw, None
    if not window.starts_with(NULL):
        files = disclosure.Streamed(file, window)
    rest = window.rest() if files is None else NULL + window.rest()
    return _unpack(begin + rest), files


def parse(data: bytes) -> Proof:
    """`Malformed` unless these are the one spelling of a proof."""
    if not data.startswith(MAGIC):
        raise Malformed("not an idao proof", hint="proofs are made by 'idao proof'")
    return _unpack(data[len(MAGIC) :])


def _unpack(data: bytes) -> Proof:
    proof = canonical.unpack(Proof, data, limit=PROOF_BYTES_MAX)
    if proof.v != 1:
        raise Malformed(f"a proof of version {proof.v}; this idao reads 1")
    return proof


# --- judging ----------------------------------------------------------------------------------------


@frozen
class Check:
    name: str
    ok: bool
    detail: str


@filled
class Verdict:
    """Every check, and what the proof says if they hold."""

    checks: list[Check] = each(factory=list)
    subject: str = ""
    anchor: anchor.Anchor | None = None
    quorum: bytes = b""
    kind: str = ""
    sets: tuple[ValidatorSet, ...] = ()
    """The set of each epoch from genesis to that of the anchor: each one's word for the next was checked."""
    independent: int = 0
    """Validators other than the owner of what is proven."""
    reviews: int = 0
    """Independent reviews of the asset version."""
    founders: tuple[bytes, ...] = ()
    parent: Parent | None = None
    """What the quorum says it continues, after a recovery."""
    behind: succession.Behind | None = None
    """Who of a group's old set stands behind its recovery."""
    time_ms: int = 0
    genesis_ms: int = 0
    files: disclosure.Files | None = None
    backings: tuple[bytes, ...] = ()
    """Evidence as the proof holds it."""
    attested: list[backing.Attested] = each(factory=list)
    """Cosigners with evidence, whether or not it is accepted."""

    @property
    def ok(self) -> bool:
        return all(c.ok for c in self.checks)

    def check(self, name: str, rule: Callable[[], str]) -> None:
        """Runs one rule: its detail, or the reason why it fails. Later checks run all the same."""
        try:
            self.checks.append(Check(name, True, rule()))
        except IdaoError as e:
            self.checks.append(Check(name, False, e.message))
        except _Unknown as e:
            self.checks.append(Check(name, False, f"cannot be checked: {e}"))


class _Unknown(Exception):
    """A check rests on one that failed."""


def judge(source: bytes | BinaryIO, appraise: backing.Appraiser | None = None) -> Verdict:
    """Judges a proof file alone (`read` says of which kind). Never raises for its contents.

    `appraise` judges evidence of trusted hardware; a proof that carries some fails without it.
    """
    verdict = Verdict()
    try:
        proof, files = read(source)
    except IdaoError as e:
        verdict.checks.append(Check("format", False, e.message))
        return verdict
    verdict.checks.append(Check("format", True, "one canonical value"))
    verdict.backings = proof.attestations
    _Judge(proof, files, verdict, appraise).run()
    return verdict


def _fail(why: str) -> Any:
    raise VerificationFailed(why)


class _Judge:
    def __init__(
        self,
        proof: Proof,
        files: disclosure.Files | None,
        verdict: Verdict,
        appraise: backing.Appraiser | None,
    ) -> None:
        self.proof, self.files, self.verdict, self.appraise = proof, files, verdict, appraise
        self.validators: ValidatorSet | None = None
        self.since = 0
        """Last height that an earlier set decided."""
        self.tlog: note.TlogProof | None = None
        self.checkpoint: note.Checkpoint | None = None
        self.receipt: Receipt | None = None
        self.tx: Tx | None = None
        self.records: list[Any] = []

    def run(self) -> None:
        check = self.verdict.check
        check("genesis", self._genesis)
        check("lineage", self._lineage)
        check("anchor", self._anchor)
        check("header", self._header)
        check("inclusion", self._inclusion)
        check("receipt", self._receipt)
        check("transaction", self._transaction)
        check("records", self._records)
        check("subject", self._subject)
        check("files", self._files)
        check("extras", self._extras)

    def _genesis(self) -> str:
        bundle = self.proof.bundle
        genesis_rules.check_bundle(bundle)
        self.verdict.quorum = genesis_rules.quorum_id(bundle.genesis)
        self.verdict.kind = bundle.genesis.kind
        self.verdict.genesis_ms = bundle.genesis.time_ms
        self.verdict.founders = tuple(v.idao for v in bundle.genesis.validators.validators)
        self.verdict.parent, self.verdict.behind = bundle.genesis.parent, genesis_rules.behind(bundle)
        return f"signed by its {len(self.verdict.founders)} founder(s){self._break()}"

    def _break(self) -> str:
        """How a recovery is told: proven for a group, which carries its ancestry; else by its own word."""
        parent, behind = self.verdict.parent, self.verdict.behind
        if parent is None:
            return ""
        old = show_id("quorum", parent.quorum)
        if behind is None:
            return f"; says it continues {old} after a recovery"
        return f"; continues {old} after a recovery at height {behind.height}: {behind}"

    def _lineage(self) -> str:
        if not self.verdict.quorum:
            raise _Unknown("genesis")
        first = self.proof.bundle.genesis.validators
        followed = lineage.follow(self.verdict.quorum, first, self.proof.lineage)
        self.validators, self.since = followed.sets[-1], followed.since
        self.verdict.sets = followed.sets
        changes = len(followed.sets) - 1
        if not changes:
            return "the validator set is that of the genesis"
        return f"{changes} change(s) of the validator set, each decided by the one before"

    def _anchor(self) -> str:
        if self.validators is None:
            raise _Unknown("lineage")
        tlog = note.parse_tlog_proof(self.proof.tlog)
        judged = anchor.check_anchor(tlog.note, self.validators)
        if judged.checkpoint.quorum != self.verdict.quorum:
            _fail("the checkpoint is of another quorum")
        if judged.checkpoint.epoch != len(self.proof.lineage) or judged.checkpoint.height <= self.since:
            _fail("the checkpoint is of another epoch")
        self.tlog, self.checkpoint = tlog, judged.checkpoint
        self.verdict.anchor = judged
        return (
            f"height {judged.checkpoint.height}: cosigned by power {judged.power} "
            f"of {self.validators.total_power}, {judged.required_power} needed"
        )

    def _header(self) -> str:
        c, h = self._need(self.checkpoint, "anchor"), self.proof.header
        told = (hash_of(Kind.HEADER, h), h.quorum, h.height, h.state_root, h.log_size + 1, h.validators)
        if told != (c.header, c.quorum, c.height, c.state_root, c.size, c.validators):
            _fail("the block header is not the one the checkpoint names")
        self.verdict.time_ms = h.time_ms
        return f"as of height {h.height}"

    def _inclusion(self) -> str:
        tlog, c = self._need(self.tlog, "anchor"), self._need(self.checkpoint, "anchor")
        leaf = merkle.LOG.leaf(self.proof.leaf)
        if merkle.root_from_path(merkle.LOG, leaf, tlog.index, c.size, tlog.path) != c.root:
            _fail("the receipt is not in the log of the checkpoint")
        return f"leaf {tlog.index} of {c.size}"

    def _receipt(self) -> str:
        receipt = canonical.unpack(Receipt, self.proof.leaf)
        if not receipt.ok:
            _fail(f"the transaction was refused: {receipt.code}")
        if receipt.origin != "tx":
            _fail("the receipt is of no transaction")
        c = self._need(self.checkpoint, "anchor")
        if receipt.height > c.height:
            _fail("the receipt is later than the checkpoint")
        self.receipt = receipt
        return f"{receipt.kind} applied at height {receipt.height}"

    def _transaction(self) -> str:
        receipt = self._need(self.receipt, "receipt")
        tx = parse_tx(self.proof.tx)
        if tx.id != receipt.tx:
            _fail("the transaction is not the one of the receipt")
        if tx.envelope.quorum != self.verdict.quorum:
            _fail("the transaction is for another quorum")
        if not tx.authentic():
            _fail("the transaction's signature does not hold")
        self.tx = tx
        return f"signed by {show_id('idao', tx.envelope.idao)}"

    def _records(self) -> str:
        root = self._need(self.checkpoint, "anchor").state_root
        seen = set()
        for shown in self.proof.records:
            cls = RECORD_CLASSES.get(shown.table) or _fail(f"a record of unknown kind '{shown.table}'")
            key = tuple(canonical.decode(shown.key))
            if (shown.table, shown.key) in seen:
                _fail("a record is shown twice")
            seen.add((shown.table, shown.key))
            value = None
            if shown.record is not None:
                rec: Any = canonical.unpack(cls, shown.record)
                if key_of(rec) != key:
                    _fail(f"a {shown.table} stands under another key")
                value = statetree.value_hash(shown.record)
                self.records.append(rec)
            if not statetree.check(root, statetree.record_path(shown.table, shown.key), value, shown.path):
                _fail(f"a {shown.table} is not what the state root commits to")
        return f"{len(self.proof.records)} as of height {self.proof.header.height}"

    def _one(self, cls: type[R]) -> R:
        found = [r for r in self.records if type(r) is cls]
        if len(found) != 1:
            _fail(f"the proof shows {len(found)} records of kind {table_of(cls).name}, one is needed")
        return found[0]

    def _subject(self) -> str:
        kind, subject = self.proof.subject_kind, self.proof.subject
        receipt = self._need(self.receipt, "receipt")
        self.verdict.subject = show_id(kind, subject) if kind in SUBJECTS else ""
        if kind == "tx":
            if subject != receipt.tx:
                _fail("the subject is another transaction")
            self._count(receipt.idao)
            return "the transaction"
        if kind not in SUBJECTS:
            _fail(f"unknown subject '{kind}'")
        version = self._one(AssetVersion)
        made: Any = version
        if kind == "dat":
            dat, cls = self._one(Dat), self._one(Class)
            if (dat.id, dat.class_id) != (subject, cls.id):
                _fail("the DAT shown is another")
            tied = (version.asset, version.version, version.root)
            if tied != (dat.asset, dat.version, dat.root) or tied != (cls.asset, cls.version, cls.root):
                _fail("DAT, class and asset version do not belong together")
            made = dat
        elif version.asset != subject:
            _fail("the asset shown is another")
        wanted = (table_of(type(made)).name, canonical.encode(list(key_of(made))))
        if not any((c.table, c.key) == wanted for c in receipt.changed):
            _fail("the receipt is not of what made the subject")
        self._count(version.owner)
        self.verdict.reviews = version.independent
        how = f"{version.independent} independent review(s)" if version.independent else "its owner alone"
        return f"version {version.version}, {'verified' if version.verified else 'not verified'} by {how}"

    def _count(self, owner: bytes) -> None:
        validators = self._need(self.validators, "lineage")
        cosigners = self.verdict.anchor.cosigners if self.verdict.anchor else ()
        self.verdict.independent = sum(1 for i in cosigners if validators.validators[i].idao != owner)

    def _files(self) -> str:
        files = self.files
        if files is None:
            return "none disclosed"
        files.check(self._one(AssetVersion).root)
        self.verdict.files = files
        return f"{files.shown} of {files.count} disclosed"

    def _extras(self) -> str:
        """What this version cannot judge may not pass for judged."""
        if self.proof.witnesses or self.proof.timestamps:
            _fail("it carries outside evidence that this version does not know")
        if not self.proof.attestations:
            return "no outside evidence"
        appraise = self.appraise or _fail("there is nothing to judge its evidence of trusted hardware with")
        validators = self._need(self.validators, "lineage")
        tlog = self._need(self.tlog, "anchor")
        if not self.verdict.time_ms:
            raise _Unknown("'header' failed")
        times = backing.times_of(tlog.note, self.verdict.quorum, validators)
        judged = backing.judge(self.proof.attestations, self.proof.header, validators, times, appraise)
        self.verdict.attested = judged
        good = sum(1 for a in judged if a.accepted)
        return f"{len(judged)} of {len(times)} cosigners show evidence of trusted hardware, {good} accepted"

    @staticmethod
    def _need(value: R | None, check: str) -> R:
        if value is None:
            raise _Unknown(f"'{check}' failed")
        return value
