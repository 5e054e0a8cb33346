"""Taking in: contents to the store, a commitment to the ledger, and the owner's review of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idao import licence, manifest, policy
from idao.crypto import canonical
from idao.crypto.hashing import Kind, commitment, digest
from idao.errors import NotFound, Pending, UsageError
from idao.frozen import frozen, replace
from idao.hall.assessing import Assessing
from idao.hall.routing import Routing, Subject, contributed
from idao.home import entropy, now_ms, show_time
from idao.ledger import assets as rules
from idao.ledger.tx import Tx
from idao.model import show_id
from idao.store import documents, givenfile
from idao.store.contents import Contents, Intake, Progress
from idao.store.documents import Documents

if TYPE_CHECKING:
    from idao import card
    from idao.assess.report import Assessment
    from idao.hall.assets import Assets
    from idao.ledger import reviews

KINDS = ("dataset", "model", "agent", "flow", "pov", "result")
"""What `contribute` takes; `compute` assets come with the compute room."""
NAME_MAX = 100
FILE_BYTES_MAX = 2 * 1024 * 1024
"""Bytes read of a card or policy file; each has a tighter bound of its own."""
CARD_FILES_MAX = 1000
"""Files that an automatic card lists; of larger folders it gives the whole only."""

AFTER_INTAKE = (
    "idao.card",
    "idao.assess.generic",
    "mimetypes",
    "idao.ledger.block",
    "idao.node.engine",
    "idao.hall.beside",
    "idao.validatorkeys",
    "encodings.utf_16_be",
)
"""Modules that a contribution needs once its contents are stored, if they differ from the last version."""


@frozen
class Wish:
    """What a contribution asks for; empty fields are detected or take their default."""

    kind: str = "dataset"
    category: str = ""
    name: str = ""
    licence: str = ""
    policy: Path | None = None
    card: Path | None = None
    parents: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    skip_unreadable: bool = False


@frozen
class _Target:
    """The version to register: of a new asset, or the next of one that is known."""

    nonce: bytes
    asset: bytes
    version: int
    kind: str
    name: str
    before: rules.AssetVersion | None


def checked(wish: Wish) -> Wish:
    """The wish with its licence in canonical spelling; `UsageError` for what cannot be meant."""
    if wish.kind not in KINDS:
        raise UsageError(f"'{wish.kind}' is not a kind of asset", hint=f"one of: {', '.join(KINDS)}")
    if len(wish.name) > NAME_MAX or (wish.name and not wish.name.isprintable()):
        raise UsageError(f"a name is 1 to {NAME_MAX} printable characters")
    if wish.category and not (wish.category.isascii() and wish.category.replace("-", "").isalnum()):
        raise UsageError(f"a category is one word: '{wish.category}'")
    return replace(wish, licence=licence.canonical(wish.licence) if wish.licence else "")


class Contribution:
    """One run of `idao contribute`."""

    def __init__(self, desk: Assets, contents: Contents, docs: Documents, wish: Wish) -> None:
        self.desk, self.dao = desk, desk.dao
        self.contents, self.docs, self.wish = contents, docs, wish
        self.terms = _read_policy(wish.policy)
        self.card = _read_card(wish.card, wish.kind)
        self.assessing = Assessing(docs, wish.labels, self._foresee)

    def run(self, paths: Sequence[str], progress: Progress | None) -> dict[str, Any]:
        try:
            return self._run(paths, progress)
        finally:
            self.assessing.stop()

    def _run(self, paths: Sequence[str], progress: Progress | None) -> dict[str, Any]:
        raw = [os.fsencode(p) for p in paths]
        previous = None if "-" in paths else self.contents.last_from(raw)
        self.fresh = previous is None
        if previous and self.wish.name:
            follows(Routing(self.dao), self.wish, self._known(previous))  # before hours of work
        intake = self.contents.take_in(
            raw,
            previous,
            progress,
            skip_unreadable=self.wish.skip_unreadable,
            meanwhile=_load_ahead(),
            listener=self.assessing,
        )
        known = self._known(previous)
        routing = Routing(self.dao)
        home = follows(routing, self.wish, known)
        if home is not None:
            self._turn_to(home[0])
        registered = known is not None and self.dao.state().get(rules.AssetVersion, *known) is not None
        if known is not None and not registered:
            known = self._cut_short(routing, known, intake)
        if intake.unchanged and registered and known and not self._wants_more(known):
            return self.desk.outcome(*known, intake, None)
        self.assessing.stored(self.contents, intake.ref)
        self.card_files = self._card_files(intake)  # while it is being assessed
        category = self._wanted_category(home) or self.assessing.category()
        choice = routing.require(Subject(self.wish.kind, category, self.wish.parents, home))
        self._turn_to(choice.chosen or self.dao.quorum)
        try:
            return {**self._register(paths, known, intake, category), **routing.show(choice)}
        except Pending as e:
            e.answer = {**(e.answer or {}), **routing.show(choice)}
            raise

    def _known(self, previous: bytes | None) -> tuple[bytes, int] | None:
        """(asset, version) that was taken in from these paths last."""
        return next(iter(self.desk.taken_as(self.docs, previous)), None) if previous else None

    def _turn_to(self, quorum: bytes) -> None:
        """Goes on on the ledger of `quorum`, after what waits for it."""
        if quorum != self.dao.quorum:
            self.dao = self.dao.on(show_id("quorum", quorum))
            self.desk = self.dao.assets
        if self.dao.pending():
            with suppress(Pending):  # others are needed: it goes on without us
                self.dao.settle()

    def _register(
        self,
        paths: Sequence[str],
        known: tuple[bytes, int] | None,
        intake: Intake,
        category: str,
    ) -> dict[str, Any]:
        target = self._target(paths, known)
        family = {target.asset, *(a for a, _ in self._parents())}
        assessed = self.assessing.result(category, self._compared(family))
        papers = self._card_bytes(target, assessed)
        salt = entropy(32)
        body = self._body(target, intake, assessed, commitment(salt, papers))
        opened = self._review(target, intake, assessed)
        with self.contents.transaction():
            self.docs.put(target.asset, 0, documents.NONCE, target.nonce, b"")
            self.docs.put(target.asset, target.version, documents.MANIFEST, intake.ref, b"")
            self.docs.put(target.asset, target.version, documents.CARD, salt, papers)
            if self.wish.policy or target.before is None:
                terms = canonical.pack(self.terms)
                self.docs.put(target.asset, target.version, documents.POLICY, bytes(32), terms)
            report = canonical.pack(assessed.report)
            self.docs.put(target.asset, target.version, documents.REPORT, opened.salt, report)
            mark = canonical.pack(assessed.fingerprint)
            self.docs.put(target.asset, target.version, documents.FINGERPRINT, bytes(32), mark)
        was = target.before.name if target.before else target.name
        renamed = {} if was == target.name else {"renamed_from": was}
        try:
            done = self.dao.submit([("asset.contribute", body), ("review.open", opened)])
        except Pending as e:
            e.answer = {**self.desk.waiting(target.asset, target.version, intake, e.txs[0]), **renamed}
            e.ids = [show_id("asset", target.asset)]
            raise
        return {**self.desk.outcome(target.asset, target.version, intake, done[0]), **renamed}

    def _cut_short(
        self, routing: Routing, known: tuple[bytes, int], intake: Intake
    ) -> tuple[bytes, int] | None:
        """What a version that was taken in, and is not on the ledger, means for this run.

        One that nobody signed goes on as what it was to be, if its asset is there, else under a new id.
        `Pending` where the very same is signed and waits for others: it is not signed twice.
        """
        queued = ((q, tx) for q, txs in routing.queued() for tx in txs)
        waits = next(((q, tx) for q, tx in queued if contributed(tx) == known), None)
        if waits is not None and intake.unchanged:
            raise self._still_waiting(known, intake, *waits)
        asset = self.dao.state().get(rules.Asset, known[0])
        if waits is not None or asset is None or asset.latest >= known[1]:
            return None
        return known

    def _still_waiting(self, known: tuple[bytes, int], intake: Intake, quorum: bytes, tx: Tx) -> Pending:
        waits = Pending("this version is signed and kept already; it waits for the others",
                        hint="see what it waits for: idao quorum why")  # fmt: skip
        waits.txs = [show_id("tx", tx.id)]
        answer = self.desk.waiting(*known, intake, waits.txs[0])
        waits.answer = {**answer, "quorum": show_id("quorum", quorum)}
        waits.ids = [show_id("asset", known[0])]
        return waits

    def _wants_more(self, known: tuple[bytes, int]) -> bool:
        """Whether the flags ask for a new version of contents that have not changed."""
        now = self.dao.state().need(rules.AssetVersion, *known)
        return bool(
            (self.wish.licence and self.wish.licence != now.licence)
            or (self.wish.category and self.wish.category != now.category)
            or (self.wish.name and self.wish.name != now.name)
            or (self.wish.policy and policy.policy_hash(self.terms) != now.policy)
            or self.wish.card
            or (self.wish.parents and self._parents() != now.parents)
        )

    def _target(self, paths: Sequence[str], known: tuple[bytes, int] | None) -> _Target:
        """The same paths, or the same --name, mean the next version of the same asset."""
        state = self.dao.state()
        asset = state.get(rules.Asset, known[0]) if known else self._by_name()
        if asset is None or asset.kind != self.wish.kind:
            nonce = entropy(32)
            name = self.wish.name or name_of(paths)
            return _Target(nonce, rules.asset_id(self.dao.me, nonce), 1, self.wish.kind, name, None)
        kept = self.docs.get(asset.asset, 0, documents.NONCE)
        if kept is None:
            raise NotFound(
                "this home does not hold the asset's nonce", hint="contribute it under another --name"
            )
        before = state.need(rules.AssetVersion, asset.asset, asset.latest)
        name = self.wish.name or before.name
        return _Target(kept[0], asset.asset, asset.latest + 1, asset.kind, name, before)

    def _by_name(self) -> rules.Asset | None:
        if not self.wish.name:
            return None
        found = [i for i, n in self.desk.own() if n == self.wish.name]
        return self.dao.state().get(rules.Asset, found[0]) if len(found) == 1 else None

    def _parents(self) -> tuple[tuple[bytes, int], ...]:
        return tuple(sorted({self.desk.find(p) for p in self.wish.parents}))

    def _body(self, target: _Target, intake: Intake, assessed: Assessment, papers: bytes) -> rules.Contribute:
        before = target.before
        keep = before is not None and self.wish.policy is None
        return rules.Contribute(
            owner=self.dao.me,
            nonce=target.nonce,
            version=target.version,
            kind=target.kind,
            name=target.name,
            category=assessed.report.category,
            licence=self.wish.licence or (before.licence if before else ""),
            size=rules.round_size(intake.size),
            root=intake.root,
            manifest=intake.ref,
            card=papers,
            policy=before.policy if before and keep else policy.policy_hash(self.terms),
            parents=self._parents(),
        )

    # --- card and review

    def _card_files(self, intake: Intake) -> tuple[card.File, ...]:
        """The files that an automatic card lists."""
        from idao import card

        if self.card is not None or intake.files > CARD_FILES_MAX:
            return ()
        entries = self.contents.open_manifest(intake.ref).entries()
        names = (os.fsdecode(e.path) for e in entries if e.kind == manifest.FILE)
        return tuple(card.File(n, _media_type(n)) for n in names)

    def _card_bytes(self, target: _Target, assessed: Assessment) -> bytes:
        if self.card is not None:
            return self.card
        from idao import card

        before = target.before
        known = card.Known(
            kind=target.kind,
            name=target.name,
            owner=self.dao.me,
            category=assessed.report.category,
            version=target.version,
            licence=self.wish.licence or (before.licence if before else ""),
            owner_name=str(self.dao.home.get("idao", "name", "")),
            asset=target.asset,
            parents=self._parents(),
            published=show_time(now_ms())[:10],
            files=self.card_files,
        )
        return card.to_bytes(card.build(known))

    def _foresee(self) -> None:
        """All files are known, their packs on the way to the disk: begins to assess what most likely is a new
        asset of this ledger."""
        if self.fresh and not self.wish.name and not self.wish.parents:
            self.assessing.begin(self._wanted_category(None), self._compared(set()))

    def _wanted_category(self, home: tuple[bytes, bytes] | None) -> str:
        """As asked for, as the version before, as the home's domain; empty: as the contents look."""
        before = ""
        if home is not None:
            state = self.dao.state()
            latest = state.need(rules.Asset, home[1]).latest
            before = state.need(rules.AssetVersion, home[1], latest).category
        return self.wish.category or before or str(self.dao.home.get("idao", "domain", ""))

    def _compared(self, without: set[bytes]) -> list[tuple[bytes, int]]:
        """(asset, version) of what this home has on the ledger and a new version may be a copy of."""
        state, known = self.dao.state(), self.docs.versions_with(documents.FINGERPRINT)
        return [v for v in known if v[0] not in without and state.get(rules.AssetVersion, *v) is not None]

    def _review(self, target: _Target, intake: Intake, assessed: Assessment) -> reviews.Open:
        """The owner's own review, given at once: no other verdict can be copied by it."""
        from idao.ledger import reviews

        store = self.dao.store
        epoch, _ = store.validators(store.height + 1)
        report, salt = assessed.report, entropy(32)
        compared = self._compared({target.asset})
        review = reviews.Review(
            asset=target.asset,
            version=target.version,
            root=intake.root,
            assessor=report.assessor,
            code=report.code,
            mode=report.mode,
            holdout=b"",
            as_of=store.height,
            compared=tuple(compared[-reviews.COMPARED_MAX :]),
            epoch=epoch.epoch,
            reviewer=self.dao.me,
            grant=b"",
            report=commitment(salt, digest(Kind.REPORT, canonical.pack(report))),
            score=report.headline,
            passed=report.passed,
        )
        return reviews.Open(review, salt)


def follows(routing: Routing, wish: Wish, known: tuple[bytes, int] | None) -> tuple[bytes, bytes] | None:
    """(quorum, asset) whose next version this is: that of the same paths, else the one of the same --name.

    `known` is what was taken in from the paths last. `UsageError` where paths and name mean two assets.
    """
    same_paths = routing.earlier(wish.kind, known[0], "") if known else None
    same_name = routing.earlier(wish.kind, None, wish.name) if wish.name else None
    if same_paths and same_name and same_paths != same_name:
        here, there = (show_id("asset", asset) for _, asset in (same_paths, same_name))
        raise UsageError(
            f"the path was taken in as {here}; '{wish.name}' is another asset, {there}",
            hint="leave --name out for its next version, or give a name that is free",
        )
    return same_paths or same_name


def _load_ahead() -> Iterator[None]:
    """Loads, piece by piece, what comes after the intake: while workers read, this process mostly waits."""
    for module in AFTER_INTAKE:
        import_module(module)
        yield
    from idao import assess

    assess.code_hash()


def name_of(paths: Sequence[str]) -> str:
    """What a contribution is called when nobody says: its first path's last name."""
    name = "stdin" if paths[0] == "-" else os.path.basename(os.path.abspath(paths[0]))
    safe = "".join(c if c.isprintable() else "?" for c in name)
    return safe.encode("utf-8", "replace").decode()[:NAME_MAX] or "root"


def _media_type(name: str) -> str:
    import mimetypes

    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def read_small(path: Path, what: str) -> bytes:
    try:
        with givenfile.opened(path) as f:
            data = f.read(FILE_BYTES_MAX + 1)
    except OSError as e:
        raise UsageError(f"the {what} '{path}' cannot be read: {e.strerror}") from e
    if len(data) > FILE_BYTES_MAX:
        raise UsageError(f"the {what} '{path}' is too large")
    return data


def _read_policy(path: Path | None) -> policy.Policy:
    return policy.OWNER_ONLY if path is None else policy.parse(read_small(path, "policy"))


def _read_card(path: Path | None, kind: str) -> bytes | None:
    if path is None:
        return None
    from idao import card

    return card.to_bytes(card.read(read_small(path, "card"), kind))
