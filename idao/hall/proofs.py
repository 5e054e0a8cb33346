"""Making portable proofs from a ledger, and checking them anywhere."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, BinaryIO

from idao import disclosure, manifest, proof
from idao.crypto import canonical, merkle, note, statetree
from idao.errors import NotFound, Refused, UsageError, VerificationFailed
from idao.frozen import frozen, replace
from idao.hall import trust
from idao.ledger import assets, attest, backing, dats, genesis, reviews
from idao.ledger.state import encode_key, key_of, table_of
from idao.ledger.tx import Receipt
from idao.model import parse_id, show_id
from idao.store import documents, givenfile

if TYPE_CHECKING:
    from idao.dao import Dao
    from idao.store.version import Version
    from idao.tee import later

BLOCK = 1024 * 1024
"""Bytes read of a file at once."""
ANCHOR_POLL_S = 0.02
"""Cosignatures come within milliseconds of a block."""
REQUIREMENTS = ("trusted", "independent:N", "reviews:N", "tee:N", "tee-measured:N", "tee-VENDOR:N")
LEVELS = ("simulated", "tpm-unrooted", "tpm-rooted", "tee", "tee-measured")
"""As `tee.result.LEVELS`, which is loaded with evidence only."""


class Proofs:
    def __init__(self, dao: Dao) -> None:
        self._dao = dao

    def make(self, text: str, files: Sequence[str] = (), *, no_files: bool = False) -> tuple[str, bytes, int]:
        """(subject, proof file, tree size): what `prepare` and `write` give, in memory."""
        made, out = self.prepare(text), io.BytesIO()
        made.write(out.write, files, no_files=no_files)
        return made.subject, out.getvalue(), made.tree_size

    def prepare(self, text: str) -> Prepared:
        """A proof for an asset, a DAT or a transaction, to be written."""
        with self._anchored() as (signed, checkpoint):
            made, version = self._make(signed, checkpoint, text)
        return Prepared(self._dao, made, version, checkpoint.size)

    @contextmanager
    def _anchored(self) -> Iterator[tuple[note.Note, note.Checkpoint]]:
        """A moment at which the newest block is anchored: records are proven as they are then."""
        store, until = self._dao.store, monotonic() + self._dao.wait_s
        while True:
            with store.snapshot():
                head = store.checkpoint()
                if head is None and not store.height:
                    raise NotFound(
                        "nothing is anchored yet", hint="the first contribution makes the first block"
                    )
                if head is not None and head[0] == store.height:
                    signed = note.parse_note(head[1])
                    yield signed, note.parse_checkpoint(signed.text)
                    return
            if monotonic() >= until:
                raise Refused(
                    f"block {store.height} is decided and not anchored yet: too few cosignatures are here",
                    hint="idao quorum status",
                    code="not-anchored",
                )
            sleep(ANCHOR_POLL_S)

    def _make(
        self, signed: note.Note, checkpoint: note.Checkpoint, text: str
    ) -> tuple[proof.Proof, assets.AssetVersion | None]:
        """A proof that discloses no file, and the version whose files it could."""
        dao = self._dao
        kind, subject, version, records = self._subject(text)
        position, receipt = self._made(kind, subject, records)
        path = tuple(dao.store.log_path(position, checkpoint.size))
        raw = dao.store.tx(receipt.tx)
        if raw is None:
            raise NotFound("the transaction is not on this ledger any more")
        made = proof.Proof(
            v=1,
            bundle=dao.store.bundle,
            lineage=dao.store.links(checkpoint.epoch),
            tlog=str(note.TlogProof(position, path, signed)),
            header=dao.store.header(checkpoint.height),
            leaf=canonical.pack(receipt),
            tx=raw,
            subject_kind=kind,
            subject=subject,
            records=tuple(self._show(rec) for rec in records),
            files=None,
            attestations=self._backings(signed, checkpoint),
            witnesses=(),
            timestamps=(),
        )
        return made, version

    def _subject(self, text: str) -> tuple[str, bytes, assets.AssetVersion | None, list[Any]]:
        """(kind, id, asset version, records to show) of what is to be proven."""
        dao, state = self._dao, self._dao.state()
        if text.startswith("tx:"):
            return "tx", parse_id("tx", text), None, []
        if text.startswith("dat:"):
            dat = state.need(dats.Dat, dao.tokens.find_dat(text))
            cls = state.need(dats.Class, dat.class_id)
            version = state.need(assets.AssetVersion, dat.asset, dat.version)
            return "dat", dat.id, version, [version, cls, dat]
        asset, number = dao.assets.find(text)
        version = state.need(assets.AssetVersion, asset, number)
        found = state.need(assets.Asset, asset)
        given = list(state.scan(reviews.ReviewRecord, asset, number))
        return "asset", asset, version, [found, version, *given[: proof.RECORDS_MAX - 2]]

    def _made(self, kind: str, subject: bytes, records: Sequence[Any]) -> tuple[int, Receipt]:
        """The receipt of the transaction that made the subject."""
        if kind == "tx":
            found = self._dao.store.receipt_of(subject)
            if found is None:
                raise NotFound(f"no transaction '{show_id('tx', subject)}' on this ledger")
            if not found[1].ok:
                raise UsageError(f"that transaction was refused ({found[1].code}): there is nothing to prove")
            return found
        made = records[-1] if kind == "dat" else next(r for r in records if type(r) is assets.AssetVersion)
        wanted = (table_of(type(made)).name, encode_key(key_of(made)))
        for position, receipt in self._dao.store.receipts(made.height, made.height):
            if receipt.ok and any((c.table, c.key) == wanted for c in receipt.changed):
                return position, receipt
        raise NotFound("the receipt of what is to be proven is not on the ledger")

    def _backings(self, signed: note.Note, checkpoint: note.Checkpoint) -> tuple[bytes, ...]:
        """Evidence of the cosigners, if any has some: most ledgers have none, and load nothing for it."""
        dao = self._dao
        if next(dao.state().scan(attest.Attestation), None) is None:
            return ()
        _, validators = dao.store.validators(checkpoint.height)
        return dao.tee.backings(signed, validators, dao.store.header(checkpoint.height).time_ms)

    def _show(self, rec: Any) -> proof.Shown:
        table, key = table_of(type(rec)), key_of(rec)
        path = statetree.prove(self._dao.store.branches, statetree.record_path(table.name, encode_key(key)))
        return proof.Shown(table.name, encode_key(key), canonical.pack(rec), path)


class Prepared:
    """A proof as it is without files, and what they are taken from."""

    def __init__(
        self, dao: Dao, made: proof.Proof, version: assets.AssetVersion | None, tree_size: int
    ) -> None:
        self._dao, self._made, self._version = dao, made, version
        self.subject, self.tree_size = show_id(made.subject_kind, made.subject), tree_size

    def write(
        self, put: Callable[[bytes], object], files: Sequence[str] = (), *, no_files: bool = False
    ) -> None:
        """Its bytes go to `put`: all files of the asset disclosed by name and salt, or those of `files`
        alone, or none. Refused before the first byte, but for contents that turn out to be damaged."""
        if self._version is None or no_files:
            put(proof.dump(self._made))
            return
        with self._contents(self._version) as kept:
            if files:
                put(proof.dump(replace(self._made, files=_some(kept, files))))
            else:
                all_of_them = (listed(e, parts) for e, parts in kept.files())
                proof.write(self._made, kept.head.files, all_of_them, put)

    @contextmanager
    def _contents(self, version: assets.AssetVersion) -> Iterator[Version]:
        """What this home holds of it; needs the key."""
        with self._dao.assets.opened() as (contents, docs):
            kept = docs.get(version.asset, version.version, documents.MANIFEST)
            if kept is None:
                raise NotFound(
                    "this home does not hold the contents, so no file can be disclosed",
                    hint="add --no-files to prove the record alone",
                )
            yield contents.open_manifest(kept[0])


def _some(version: Version, names: Sequence[str]) -> disclosure.Disclosure:
    """Some files of a version with their places among all. `NotFound` names one that is not there."""
    wanted = set(map(os.fsencode, names))
    places = {fields[0]: i for i, fields in enumerate(version.fields()) if fields[0] in wanted}
    if missing := sorted(wanted - places.keys()):
        raise NotFound(f"no such file in this version: {manifest.show_path(missing[0])}")
    shown: dict[int, disclosure.Listed] = {}

    def leaves() -> Iterator[bytes]:
        for i, (entry, rows) in enumerate(version.rows()):
            if entry.path in wanted:
                shown[i] = listed(entry, manifest.chunk_rows(rows))
            yield entry.leaf(rows)

    paths = merkle.paths(manifest.FILES, version.head.files, places.values(), leaves())
    some = (disclosure.Placed(shown[i], i, tuple(paths[i])) for i in sorted(shown))
    return disclosure.Disclosure(version.head.files, (), tuple(some))


def listed(entry: manifest.FileEntry, parts: Sequence[manifest.ChunkRef]) -> disclosure.Listed:
    """A stored file as a proof discloses it."""
    return disclosure.Listed(
        kind=entry.kind,
        path=entry.path,
        size=entry.size,
        secret=entry.secret,
        content=entry.content_root,
        sizes=tuple(p.size for p in parts),
        holes=tuple(i for i, p in enumerate(parts) if p.form == manifest.HOLE),
    )


# --- checking: needs no home ------------------------------------------------------------------------


@frozen
class Demands:
    """What the user of `verify` names: whom they trust and what they require."""

    trust: Sequence[str] = ()
    require: Sequence[str] = ()
    tee_policy: str = "strict"
    """A built-in TEE policy, or a file of one: what evidence of cosigners counts."""
    newer: Sequence[bytes] = ()
    """Collateral newer than the proof's own: shows what became known later, and changes no verdict."""
    home: Path | None = None
    """A home whose bundles serve in the same way, if there is one."""


def verify(source: bytes | BinaryIO, files: Sequence[str], demands: Demands, now_ms: int) -> dict[str, Any]:
    """Judges a proof (`proof.read` says of which kind), the given files, and the demands.

    `UsageError` for a demand that cannot be read.
    """
    _check_demands(demands.require)
    named = trust.read(demands.trust)
    for given in files:
        if not os.path.lexists(given):
            raise NotFound(f"no such file: '{given}'")
        if not os.path.islink(given) and not os.path.isdir(given):
            givenfile.need_file(given)
    judge = _Evidence(demands.tee_policy)
    verdict = proof.judge(source, judge)
    judge.check_minimum(verdict)
    known = judge.look_later(verdict, demands, now_ms)
    for given in files:
        _check_given(verdict, given)
    trusted = trust.judge(verdict, named)
    oldest = trust.oldest_set(verdict, named)
    _judge_requirements(verdict, demands.require, trusted)
    judged = verdict.anchor
    anchored = None
    if judged is not None:
        c = judged.checkpoint
        anchored = {
            "quorum": show_id("quorum", c.quorum),
            "epoch": c.epoch,
            "height": c.height,
            "tree_size": c.size,
            "cosigners": len(judged.cosigners),
            "power": judged.power,
            "required_power": judged.required_power,
            "independent": verdict.independent,
            "attested": sum(1 for a in verdict.attested if a.accepted),
        }
    return {
        "ok": verdict.ok,
        "trusted": trusted and verdict.ok,
        "subject": verdict.subject or None,
        "anchor": anchored,
        "checks": [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in verdict.checks],
        "attestations": judge.shown(verdict, known),
        "recovery": trust.recovery(verdict),
        "oldest_set": trust.shown(oldest, now_ms),
        "warnings": [
            *_warnings(verdict, now_ms),
            *trust.warnings(verdict, oldest, now_ms),
            *judge.said(verdict, known),
        ],
        "independent_reviews": verdict.reviews,
        "time_ms": verdict.time_ms,
    }


def _check_demands(require: Sequence[str]) -> None:
    for demand in require:
        name, _, number = demand.partition(":")
        counted = name in ("independent", "reviews", *LEVELS) or name.startswith("tee-")
        if demand != "trusted" and not (counted and number.isascii() and number.isdigit() and _known(name)):
            raise UsageError(f"cannot require '{demand}'", hint=f"one of: {', '.join(REQUIREMENTS)}")


def _known(name: str) -> bool:
    """Whether there is such a thing to require; the vendors stand in a room that most proofs do not need."""
    if not name.startswith("tee-") or name in LEVELS:
        return True
    from idao.hall.evidence import VENDORS
    from idao.tee.result import KINDS

    return name.removeprefix("tee-") in (*VENDORS, *KINDS)


class _Evidence:
    """Judges the evidence of a proof's cosigners under the policy named, which is read at once."""

    def __init__(self, named: str) -> None:
        self._policy: Any = None
        if named != "strict":
            self._load(named)

    def _load(self, named: str = "strict") -> None:
        from idao.hall import evidence

        self._policy = evidence.read_policy(named)
        self._judge = evidence.appraiser(self._policy)

    def __call__(self, *asked: Any) -> Any:
        if self._policy is None:
            self._load()
        return self._judge(*asked)

    def check_minimum(self, verdict: proof.Verdict) -> None:
        """A policy may ask for a number of backed cosigners by itself."""
        needed = self._policy.min_backed if self._policy is not None else 0
        have = sum(1 for a in verdict.attested if a.accepted)
        if needed:
            verdict.check("tee policy", lambda: _enough("backed cosigners", have, needed))

    def look_later(self, verdict: proof.Verdict, demands: Demands, now_ms: int) -> list[later.Later]:
        """What newer collateral says of each piece of evidence in `verdict.attested`; empty without any."""
        if not verdict.attested:
            return []
        from idao.hall import bundles, evidence

        files = [*demands.newer, *(bundles.stored(demands.home) if demands.home else ())]
        held = [canonical.unpack(backing.Backing, b) for b in verdict.backings] if files else []
        return [
            evidence.newer(one, b, files, self._policy, now_ms)
            for one, b in zip(verdict.attested, held, strict=bool(files))
        ]

    @staticmethod
    def shown(verdict: proof.Verdict, known: Sequence[later.Later]) -> list[dict[str, Any]]:
        if not verdict.attested:
            return []
        from idao.hall.evidence import show_attested

        return [show_attested(a, k) for a, k in zip_longest(verdict.attested, known)]

    @staticmethod
    def said(verdict: proof.Verdict, known: Sequence[later.Later]) -> list[str]:
        """What became known later, in words."""
        if not known:
            return []
        from idao.hall.evidence import say_fact

        return [
            f"{show_id('idao', one.validator)}: its evidence was {say_fact(fact)}"
            for one, found in zip(verdict.attested, known, strict=True)
            for fact in found.facts
        ]


def _enough(what: str, have: int, needed: int) -> str:
    if have < needed:
        raise VerificationFailed(f"{what} is required; found {have}")
    return f"{have} of {needed}"


def _backed(verdict: proof.Verdict, name: str) -> int:
    """Cosigners whose accepted evidence is at least of a level, or of a vendor or kind at level tee."""
    accepted = [a for a in verdict.attested if a.accepted and a.level in LEVELS]
    if name in LEVELS:
        return sum(1 for a in accepted if LEVELS.index(a.level) >= LEVELS.index(name))
    from idao.hall.evidence import vendor_of

    wanted = name.removeprefix("tee-")
    hardware = [a for a in accepted if a.level in ("tee", "tee-measured")]
    return sum(1 for a in hardware if wanted in (a.result.kind, vendor_of(a.result.kind)))


def _judge_requirements(verdict: proof.Verdict, require: Sequence[str], trusted: bool) -> None:
    for demand in require:
        name, _, number = demand.partition(":")
        have = {"independent": verdict.independent, "reviews": verdict.reviews, "trusted": int(trusted)}
        found = have[name] if name in have else _backed(verdict, name)
        verdict.check(f"require {demand}", partial(_enough, demand, found, int(number or 1)))


def _warnings(verdict: proof.Verdict, now_ms: int) -> list[str]:
    out = []
    if verdict.kind == genesis.PERSON:
        out.append("by its owner alone: may be rewritten or backdated")
    if verdict.time_ms > now_ms:
        out.append("its block is later than this machine's clock")
    for one in verdict.attested:
        who = show_id("idao", one.validator)
        out += [f"{who}: {w}" for w in one.result.warnings]
        if not one.accepted:
            out.append(f"{who}: its evidence of trusted hardware does not count ({one.reason})")
    return out


# --- files given to verify --------------------------------------------------------------------------


def _check_given(verdict: proof.Verdict, given: str) -> None:
    """A file, or every file of a folder, against the disclosed one of the same name."""
    if not os.path.isdir(given):
        _check_one(verdict, given, given)
        return
    waiting = [given]  # `os.walk` calls itself for each folder, and has no end where a thousand are nested
    while waiting:
        folder = waiting.pop()
        try:
            names, folders = _inside(folder)
        except OSError as e:
            why = partial(_unreadable, e)
            verdict.check(f"file {manifest.show_path(os.fsencode(os.path.relpath(folder, given)))}", why)
            continue
        for name in names:
            full = os.path.join(folder, name)
            _check_one(verdict, full, os.path.relpath(full, given))
        waiting += [os.path.join(folder, name) for name in reversed(folders)]


def _inside(folder: str) -> tuple[list[str], list[str]]:
    """Names of files and links, and of folders, sorted. Not of pipes and devices, which no asset holds."""
    names, folders = [], []
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif entry.is_symlink() or entry.is_file():
                names.append(entry.name)
    return sorted(names), sorted(folders)


def _unreadable(error: OSError) -> str:
    raise VerificationFailed(f"cannot be read: {error.strerror}")


def _check_one(verdict: proof.Verdict, path: str, name: str) -> None:
    def rule() -> str:
        listed = _match(verdict, os.fsencode(name))
        proof.check_file(listed, _blocks(path, listed.kind))
        return f"is {manifest.show_path(listed.path)} of the asset"

    verdict.check(f"file {manifest.show_path(os.fsencode(name))}", rule)


def _match(verdict: proof.Verdict, name: bytes) -> disclosure.Listed:
    """The disclosed file whose path is the longest end of the given one."""
    parts = [p for p in name.split(b"/") if p not in (b"", b".")]
    for start in range(len(parts)):
        if verdict.files is not None and (found := verdict.files.get(b"/".join(parts[start:]))):
            return found
    raise VerificationFailed("no file of that name is disclosed in the proof")


def _blocks(path: str, kind: int) -> Iterator[bytes]:
    try:
        if kind == manifest.LINK:
            yield os.fsencode(os.readlink(path))
            return
        with givenfile.opened(path) as f:
            while block := f.read(BLOCK):
                yield block
    except OSError as e:
        _unreadable(e)
