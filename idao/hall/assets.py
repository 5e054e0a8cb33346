"""Assets: contributing, listing, showing, restoring, checking, forgetting."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idao.crypto import canonical, merkle
from idao.errors import IdaoError, NotFound, UsageError
from idao.ledger import assets as rules
from idao.model import show_id
from idao.store import documents

if TYPE_CHECKING:
    from idao.dao import Dao, Done
    from idao.hall.contribute import Wish
    from idao.ledger import reviews
    from idao.store.contents import Contents, Intake, Progress
    from idao.store.documents import Documents

# The contents of a home, proofs and routing are imported where they are used: other commands only look an
# asset up (`find`), and these are as much code as all the rest.


class Assets:
    def __init__(self, dao: Dao) -> None:
        self.dao = dao

    @contextmanager
    def opened(self, *, write: bool = False) -> Iterator[tuple[Contents, Documents]]:
        """Contents and documents; needs the key."""
        from idao.store.contents import Contents
        from idao.store.documents import Documents

        keys = self.dao.keys()
        home, wait_s = self.dao.home.path, self.dao.wait_s
        with Contents(home, keys.data, wait_s=wait_s, readonly=not write) as contents:
            yield contents, Documents(contents.db, keys.data)

    # --- which asset

    def own(self) -> list[tuple[bytes, str]]:
        """(id, name) of this iDAO's assets, by their newest version."""
        state = self.dao.state()
        return [
            (a.asset, state.need(rules.AssetVersion, a.asset, a.latest).name)
            for a in state.scan(rules.Asset)
            if a.owner == self.dao.me
        ]

    def find(self, text: str) -> tuple[bytes, int]:
        """(asset, version) of an id, prefix or name; `ID@2` names a version, else the newest."""
        head, at, number = text.rpartition("@")
        version = 0
        if at and number.isdigit() and len(number) < 10:
            text, version = head, int(number)
        try:
            asset = self.dao.resolve("asset", text, self.own)
        except NotFound as e:
            from idao.hall.routing import Routing

            if there := Routing(self.dao.on("")).holder_of(text):
                e.hint = f"it is on another of your ledgers: --quorum {there}"
            raise
        found = self.dao.state().get(rules.Asset, asset)
        if found is None:
            from idao.hall.routing import Routing

            there = Routing(self.dao.on("")).holder(asset)
            hint = f"it is on another of your ledgers: --quorum {there}" if there else "see 'idao asset list'"
            raise NotFound(f"no asset '{text}' on this ledger", hint=hint)
        if version > found.latest:
            raise NotFound(f"'{text}' has no version {version}", hint=f"the newest is {found.latest}")
        return asset, version or found.latest

    # --- contribute

    def plan(self, paths: Sequence[str], wish: Wish) -> dict[str, Any]:
        """What would become public, and what stays hidden; stores nothing."""
        from idao.hall.contribute import checked, follows, name_of
        from idao.hall.routing import Routing, Subject

        wish = checked(wish)
        files = size = 0
        routing, known = Routing(self.dao), None
        if "-" not in paths:
            raw = [os.fsencode(p) for p in paths]
            with self.opened() as (contents, docs):
                files, size, _walk = contents.measure(raw)
                previous = contents.last_from(raw)
                known = next(iter(self.taken_as(docs, previous)), None) if previous else None
        home = follows(routing, wish, known)
        before = self._newest(*home) if home else None
        was = before.name if before else ""
        category = wish.category or str(self.dao.home.get("idao", "domain", ""))
        choice = routing.require(Subject(wish.kind, category, wish.parents, home))
        return {
            **routing.show(choice),
            **({"asset": show_id("asset", before.asset), "version": before.version + 1} if before else {}),
            **({"renamed_from": was} if was and wish.name and was != wish.name else {}),
            "public": {
                "kind": wish.kind,
                "name": wish.name or was or name_of(paths),
                "category": wish.category or (before.category if before else "as detected"),
                "license": wish.licence or (before.licence if before else ""),
                "size": rules.round_size(size),
                "parents": list(wish.parents),
                "score": "rounded to whole per cents",
            },
            "hidden": ["contents", "file names", "exact size", "card", "score card"],
            "files": files,
            "bytes": size,
        }

    def _newest(self, quorum: bytes, asset: bytes) -> rules.AssetVersion:
        state = self.dao.on(show_id("quorum", quorum)).state()
        return state.need(rules.AssetVersion, asset, state.need(rules.Asset, asset).latest)

    def contribute(
        self, paths: Sequence[str], wish: Wish, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Takes in, registers and (alone) reviews. Unchanged contents register nothing new."""
        from idao.hall.contribute import Contribution, checked
        from idao.hall.routing import Routing, Subject

        wish = checked(wish)
        Routing(self.dao).require(Subject(wish.kind, wish.category, wish.parents))  # before hours of work
        with self.opened(write=True) as (contents, docs), contents.registering():
            return Contribution(self, contents, docs, wish).run(paths, progress)

    def outcome(self, asset: bytes, version: int, intake: Intake, done: Done | None) -> dict[str, Any]:
        """The answer of `contribute`; `done` is None when nothing had changed."""
        found = self.dao.state().need(rules.AssetVersion, asset, version)
        return {
            "asset": show_id("asset", asset),
            "quorum": show_id("quorum", self.dao.quorum),
            "version": version,
            "tx": show_id("tx", done.tx if done else self._tx_of(found)),
            "files": intake.files,
            "bytes": intake.size,
            "new_bytes": intake.new_bytes if done else 0,
            "unchanged": done is None,
            "status": self.dao.stage(found.height),
            "height": found.height,
            "verified": found.verified,
            "independent_reviews": found.independent,
            "score": found.score,
            "skipped": _skipped(intake),
        }

    def waiting(self, asset: bytes, version: int, intake: Intake, tx: str) -> dict[str, Any]:
        """The answer of `contribute` while others have not ordered it: kept here, on no ledger yet."""
        return {
            "asset": show_id("asset", asset),
            "version": version,
            "tx": tx,
            "files": intake.files,
            "bytes": intake.size,
            "new_bytes": intake.new_bytes,
            "unchanged": False,
            "status": "pending",
            "quorum": show_id("quorum", self.dao.quorum),
            "height": 0,
            "verified": False,
            "independent_reviews": 0,
            "score": 0,
            "skipped": _skipped(intake),
        }

    def _tx_of(self, version: rules.AssetVersion) -> bytes:
        key = canonical.encode([version.asset, version.version])
        for _, receipt in self.dao.store.receipts(version.height, version.height):
            if any((c.table, c.key) == ("asset_version", key) for c in receipt.changed):
                return receipt.tx
        raise NotFound("the receipt of this version is not on the ledger")

    # --- reading the ledger

    def listing(self, *, everyone: bool = False) -> list[dict[str, Any]]:
        state = self.dao.state()
        everyone = everyone or self.dao.quorum == self.dao.store.chain.governor  # a group has one list
        out = []
        for asset in state.scan(rules.Asset):
            if not everyone and asset.owner != self.dao.me:
                continue
            newest = state.need(rules.AssetVersion, asset.asset, asset.latest)
            out.append(
                {
                    "asset": show_id("asset", asset.asset),
                    "name": newest.name,
                    "kind": asset.kind,
                    "category": newest.category,
                    "version": asset.latest,
                    "size": newest.size,
                    "verified": newest.verified,
                    "score": newest.score,
                    "owner": show_id("idao", asset.owner),
                }
            )
        return out

    def show(self, text: str) -> dict[str, Any]:
        """All that the ledger says of an asset, and the sub-scores if this home knows them unlocked."""
        from idao.ledger import reviews

        asset, number = self.find(text)
        state = self.dao.state()
        found, version = state.need(rules.Asset, asset), state.need(rules.AssetVersion, asset, number)
        given = list(state.scan(reviews.ReviewRecord, asset, number))
        return {
            "asset": show_id("asset", asset),
            "name": version.name,
            "version": number,
            "versions": [self._version(v) for v in state.scan(rules.AssetVersion, asset)],
            "owner": show_id("idao", found.owner),
            "kind": found.kind,
            "category": version.category,
            "license": version.licence,
            "parents": [show_id("asset", p) for p, _ in version.parents],
            "lineage": [{"asset": show_id("asset", p), "version": v} for p, v in version.parents],
            "verified": version.verified,
            "reviews": [
                self._review(r, state.get(reviews.ReviewBacking, asset, number, r.reviewer)) for r in given
            ],
            "independent_reviews": version.independent,
            "score": version.score,
            "scores": self._scores(asset, number),
            "policy": show_id("policy", version.policy),
            "root": version.root.hex(),
            "home_quorum": show_id("quorum", found.home),
        }

    @staticmethod
    def _version(v: rules.AssetVersion) -> dict[str, Any]:
        return {
            "version": v.version,
            "name": v.name,
            "height": v.height,
            "size": v.size,
            "root": v.root.hex(),
            "verified": v.verified,
            "score": v.score,
        }

    @staticmethod
    def _review(r: reviews.ReviewRecord, backed: reviews.ReviewBacking | None) -> dict[str, Any]:
        return {
            "reviewer": show_id("idao", r.reviewer),
            "independent": r.independent,
            "level": backed.level if backed else "none",
            "assessor": r.assessor,
            "code": r.code.hex(),
            "score": r.score,
            "passed": r.passed,
            "height": r.height,
        }

    def _scores(self, asset: bytes, version: int) -> dict[str, int]:
        """Sub-scores are private: shown where the keys open without asking."""
        if self.dao.home.needs_passphrase() and not self.dao.unlocked:
            return {}
        report = self.report(asset, version)
        return dict(report.scores) if report else {}

    def report(self, asset: bytes, version: int) -> Any:
        """The full score card kept at home, or None; needs the key."""
        from idao.assess import Report

        with self.opened() as (_, docs):
            kept = docs.get(asset, version, documents.REPORT)
        return None if kept is None else canonical.unpack(Report, kept[1])

    def why(self, text: str) -> list[str]:
        """The score card in words: sub-scores, reasons, what would improve them."""
        from idao.assess import explain

        asset, version = self.find(text)
        report = self.report(asset, version)
        if report is None:
            raise NotFound("this home has no score card of that asset")
        found = self.dao.state().need(rules.AssetVersion, asset, version)
        by = (
            f"{found.independent} independent review(s)"
            if found.independent
            else "reviewed by its owner alone"
        )
        return [by, *explain(report)]

    # --- contents

    def _ref(self, docs: Documents, asset: bytes, version: int) -> bytes:
        kept = docs.get(asset, version, documents.MANIFEST)
        if kept is None:
            raise NotFound("this home does not hold the contents of that version")
        return kept[0]

    def get(
        self, text: str, target: Path, files: Sequence[str] = (), progress: Progress | None = None
    ) -> dict[str, Any]:
        """Restores a version, or some of its files, below `target`. Every byte is verified."""
        asset, version = self.find(text)
        if target.exists() and not target.is_dir():
            raise UsageError(f"'{target}' is not a folder")
        with self.opened() as (contents, docs):
            ref = self._ref(docs, asset, version)
            chosen = [os.fsencode(f) for f in files] or None
            count = contents.restore(ref, target, chosen, progress)
        return {"asset": show_id("asset", asset), "version": version, "files": count, "path": str(target)}

    def check(self, text: str = "", progress: Progress | None = None) -> list[tuple[str, str]]:
        """(where, what) of everything wrong in one asset version, or in all of this home but its ledgers."""
        with self.opened() as (contents, docs):
            if not text:
                from idao.hall import soundness

                found = contents.check(progress)  # first: it bears any damage, what follows does not
                names = self._names(contents, docs) if any(_is_version(f.where) for f in found) else {}
                told = [(_naming(f.where, names), str(f.what)) for f in found]
                return [*soundness.files(self.dao), *told]
            record = self.dao.state().need(rules.AssetVersion, *self.find(text))
            ref = self._ref(docs, record.asset, record.version)
            return list(_damage(contents, ref, record))

    def _names(self, contents: Contents, docs: Documents) -> dict[str, str]:
        """What people call each version, by the beginning of its hash; nothing where that cannot be read."""
        try:
            return {v.hex()[:12]: self._called(docs, v) for v in contents.versions()}
        except (IdaoError, sqlite3.Error, UnicodeDecodeError):
            return {}

    def taken_as(self, docs: Documents, ref: bytes, *, drop: bool = False) -> list[tuple[bytes, int]]:
        """(asset, version) of each that has this manifest, newest first.

        Of several, those on no ledger and on no way to one are left out: runs that were cut short before
        they signed left them, and they would be taken for an asset, or keep its keys for ever. `drop` also
        removes them: not while one that is about to sign may be among them, unless all of it is to go.
        """
        from idao.hall.routing import Routing

        found, everywhere = docs.of_manifest(ref), Routing(self.dao.on(""))
        left = [] if len(found) < 2 else everywhere.unspoken(found)
        for version in left if drop else ():
            docs.forget(*version)
        return [v for v in found if v not in left]

    def forget(self, text: str) -> dict[str, Any]:
        """Destroys the keys of all versions of an asset and frees what no other uses."""
        asset, _ = self.find(text)
        freed = versions = 0
        with self.opened(write=True) as (contents, docs):
            for version in range(1, self.dao.state().need(rules.Asset, asset).latest + 1):
                kept = docs.get(asset, version, documents.MANIFEST)
                if kept is None:
                    continue
                if self.taken_as(docs, kept[0], drop=True) == [(asset, version)]:
                    freed += self._destroy(contents, docs, kept[0])
                docs.forget(asset, version)
                versions += 1
        if not versions:
            raise NotFound("this home does not hold the contents of that asset")
        return {"asset": show_id("asset", asset), "versions": versions, "freed_bytes": freed}

    def _destroy(self, contents: Contents, docs: Documents, ref: bytes) -> int:
        """Bytes freed. Where a run that was killed had destroyed it already, that run's work is finished."""
        from idao.store.forget import Needed

        try:
            return contents.forget(*(r for r in contents.versions() if r == ref))
        except Needed as e:
            other = self._called(docs, e.ref).partition("@")[0]
            e.hint = f"restore a backup, or forget that one first: idao asset forget {other}"
            raise

    @staticmethod
    def _called(docs: Documents, ref: bytes) -> str:
        """The asset and number of a version that this home holds, as commands take them."""
        known = next(iter(docs.of_manifest(ref)), None)
        return f"{show_id('asset', known[0])}@{known[1]}" if known else f"version {ref.hex()[:12]}"

    def history(self, text: str) -> list[dict[str, Any]]:
        """Versions of an asset, newest first, each with what it came from."""
        asset, _ = self.find(text)
        rows = []
        for v in self.dao.state().scan(rules.AssetVersion, asset):
            row = self._version(v)
            row["parents"] = [{"asset": show_id("asset", p), "version": n} for p, n in v.parents]
            rows.append(row)
        return rows[::-1]


def _is_version(where: str) -> bool:
    return where.startswith("version ")


def _naming(where: str, names: dict[str, str]) -> str:
    """A place that the store has found damaged, with the asset in place of a version's hash."""
    short, space, more = where.partition(" ")[2].partition(" ")
    return f"{names[short]}{space}{more}" if _is_version(where) and short in names else where


def _skipped(intake: Intake) -> list[dict[str, str]]:
    from idao.manifest import show_path

    return [{"path": show_path(p), "why": why} for p, why in intake.skipped]


def _damage(contents: Contents, ref: bytes, found: rules.AssetVersion) -> Iterator[tuple[str, str]]:
    """Reads one version as a whole: each file against its chunks, all of them against the ledger's root."""
    from idao import manifest, proof
    from idao.hall.proofs import listed

    leaves = merkle.Leaves(manifest.FILES)
    try:
        version = contents.open_manifest(ref)
        for file in version.all():
            leaves.extend([file.entry.leaf_of(file.parts)])
            try:
                blocks = [file.entry.target] if file.entry.kind == manifest.LINK else file.blocks()
                proof.check_file(listed(file.entry, file.parts), blocks)
            except IdaoError as e:
                yield manifest.show_path(file.entry.path), e.message
    except IdaoError as e:
        yield "manifest", e.message
        return
    if leaves.root() != found.root or ref != found.manifest:
        yield "manifest", "is not the one that the ledger names"
