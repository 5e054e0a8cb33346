"""Routing: what the coordinator must know of each quorum, gathered from this home's ledgers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from idao.crypto import canonical
from idao.crypto.hashing import Kind, hash_of
from idao.errors import IdaoError, NotFound, Refused
from idao.frozen import frozen
from idao.home import now_ms
from idao.ledger import assets as asset_rules
from idao.ledger import idao as people_rules
from idao.ledger.idao import Identity, TrustLink
from idao.ledger.state import State
from idao.ledger.tx import Tx
from idao.model import ValidatorSet, parse_id, show_id
from idao.quorum import coordinator
from idao.quorum.coordinator import Candidate, Choice, Interests, Link, Request
from idao.store.ledger import ENDED, LIVE, QUARANTINED, LedgerStore
from idao.store.outbox import Outbox

if TYPE_CHECKING:
    from idao.dao import Dao

QUARANTINE = "quarantine"
"""The coordinator's word, which is the ledger's too when it refuses; `QUARANTINED` is a standing."""
LOAD_WINDOW = 256
"""Newest leaves of a log in which unreviewed versions and reviews are counted: some milliseconds to read,
and more than a quorum of thirty leaves undone on a good day."""


@frozen
class Subject:
    """What is being routed. `home`: (quorum, asset) of the asset it is a new version of."""

    kind: str
    category: str
    parents: tuple[str, ...] = ()
    home: tuple[bytes, bytes] | None = None


class Routing:
    """The quorums of one home, as the coordinator sees them."""

    def __init__(self, dao: Dao) -> None:
        self._dao = dao
        self.named = parse_id("quorum", f"quorum:{dao.ledger_path().stem}") if dao.named_quorum else b""

    def choose(self, subject: Subject) -> Choice:
        """The choice, also when nothing can be chosen; `require` refuses then."""
        request = Request(
            subject.kind, subject.category, subject.home[0] if subject.home else b"", self.named
        )
        return coordinator.choose(request, self._candidates(subject))

    def require(self, subject: Subject) -> Choice:
        """The choice; `Refused` with the reason and the way out when no quorum may be chosen."""
        choice = self.choose(subject)
        if choice.chosen is None:
            self._refuse(choice, subject)
        return choice

    def _refuse(self, choice: Choice, subject: Subject) -> NoReturn:
        """In the words of the quorum that came furthest."""
        if not choice.verdicts:
            raise NotFound("this home has no ledger", hint="restore a backup")
        first = choice.verdicts[0]
        name = show_id("quorum", first.quorum)
        there = self._dao.on(name)
        if first.out in (ENDED, QUARANTINE):
            there.store.require_live()
        if first.out == "parent-elsewhere":
            for parent in subject.parents:
                there.assets.find(parent)
        again = {"kind": f" --kind {subject.kind}", "category": f" --category {subject.category}"}
        hint = f"idao trust add {name}{again.get(first.out, '')}"
        if first.out in ("not-here", "not-registered"):
            hint = f"join {name} with an invite: idao quorum join"
        elif first.out in again:
            hint += " (a scope given again replaces the one there is)"
        code = "not-trusted" if first.out in again else first.out
        raise Refused(f"no quorum takes this in: {coordinator.OUT[first.out]}", hint=hint, code=code)

    def show(self, choice: Choice) -> dict[str, Any]:
        """The choice as JSON: the quorum, why, and the verdict on each quorum that was looked at."""
        names = self._dao.home.config.get("ledgers", {})
        found = [_verdict(v) for v in choice.verdicts]
        for shown in found:
            shown["name"] = str(names.get(shown["quorum"].partition(":")[2], ""))
        chosen = show_id("quorum", choice.chosen) if choice.chosen else None
        return {"quorum": chosen, "coordinator": {"why": choice.why, "candidates": found}}

    # --- facts

    def earlier(self, kind: str, asset: bytes | None, name: str) -> tuple[bytes, bytes] | None:
        """(quorum, asset) of what a new version would follow: `asset`, else the one of ours called `name`."""
        found = []
        for quorum, store in self._ledgers():
            if store.continued_by is not None:
                continue
            state = store.state()
            for a in (
                state.scan(asset_rules.Asset) if asset is None else [state.get(asset_rules.Asset, asset)]
            ):
                if a is None or (a.owner, a.kind, a.home) != (self._dao.me, kind, quorum):
                    continue
                if asset or state.need(asset_rules.AssetVersion, a.asset, a.latest).name == name:
                    found.append((quorum, a.asset))
        return found[0] if len(found) == 1 else None

    def holder(self, asset: bytes) -> str:
        """The full id of a quorum of this home on whose ledger an asset is, or nothing."""
        return self._first(lambda state: state.get(asset_rules.Asset, asset) is not None)

    def holder_of(self, name: str) -> str:
        """The same for an asset of ours by its name."""

        def is_so_called(state: State) -> bool:
            own = (a for a in state.scan(asset_rules.Asset) if a.owner == self._dao.me)
            return any(state.need(asset_rules.AssetVersion, a.asset, a.latest).name == name for a in own)

        return self._first(is_so_called)

    def _first(self, knows: Callable[[State], bool]) -> str:
        found = (quorum for quorum, store in self._ledgers() if knows(store.state()))
        return next((show_id("quorum", quorum) for quorum in found), "")

    def unspoken(self, versions: Sequence[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
        """Those (asset, version) that no ledger has and no transaction that waits brings."""
        # What waits comes first: what is ordered meanwhile is on a ledger by the time that is looked at.
        waits = {contributed(tx) for _, txs in self.queued() for tx in txs}
        left = [v for v in versions if v not in waits]
        for _, store in self._ledgers():
            state = store.state()
            left = [v for v in left if state.get(asset_rules.AssetVersion, *v) is None]
        return left

    def queued(self) -> Iterator[tuple[bytes, list[Tx]]]:
        """(quorum, our transactions that wait for a block of it)."""
        with self._dao.home_db(readonly=True) as db:
            for quorum, _ in self._ledgers():
                yield quorum, Outbox(db, quorum).waiting()

    def _ledgers(self) -> Iterator[tuple[bytes, LedgerStore]]:
        """(quorum, ledger) of this home, or the named one alone."""
        for path in sorted(self._dao.home.ledgers_folder.glob("*.db")):
            quorum = parse_id("quorum", f"quorum:{path.stem}")
            if self.named in (b"", quorum):
                with _reading(self._dao, path) as store:
                    yield quorum, store

    def _candidates(self, subject: Subject) -> list[Candidate]:
        links = trust_links(self._dao)
        found = [self._candidate(q, store, links.get(q), subject) for q, store in self._ledgers()]
        here = {c.quorum for c in found}
        for quorum in sorted({*links, *([self.named] if self.named else [])} - here):
            link = _scope(links.get(quorum))
            found.append(Candidate(quorum, link, Interests(self._dao.me), standing="not-here"))
        return found

    def _candidate(
        self, quorum: bytes, store: LedgerStore, link: TrustLink | None, subject: Subject
    ) -> Candidate:
        dao, state = self._dao, store.state()
        _, validators = store.validators(store.height + 1)
        parents = [self._parent(quorum, p) for p in subject.parents]
        asset = subject.home[1] if subject.home and subject.home[0] == quorum else b""
        related = {asset, *(p for p in parents if p)} - {b""}
        with dao.home_db(readonly=True) as db:
            outbox = Outbox(db, quorum)
            waiting, oldest = outbox.count(), outbox.oldest_ms()
        standing = {LIVE: "", QUARANTINED: QUARANTINE}.get(store.standing, store.standing)
        if not standing and state.get(Identity, dao.me) is None:
            standing = "not-registered"
        if not standing and None in parents:
            standing = "parent-elsewhere"
        return Candidate(
            quorum=quorum,
            link=_scope(link),
            interests=_interests(state, dao.me, validators, related),
            standing=standing,
            validators=_reviewers(store, validators),
            needed=people_rules.rules_of(state, store.chain.governor)["review.independent"],
            backlog=_backlog(store, state),
            waiting=waiting,
            waited_ms=0 if oldest is None else max(0, now_ms() - oldest),
            preferred=show_id("quorum", quorum) == dao.home.get("quorum", "default"),
            beacon=hash_of(Kind.HEADER, store.header(store.height)) if store.height else b"",
        )

    def _parent(self, quorum: bytes, text: str) -> bytes | None:
        try:
            return self._dao.on(show_id("quorum", quorum)).assets.find(text)[0]
        except IdaoError:
            return None


def contributed(tx: Tx) -> tuple[bytes, int] | None:
    """(asset, version) that a transaction brings."""
    if tx.envelope.kind != "asset.contribute":
        return None
    body = canonical.unpack(asset_rules.Contribute, tx.envelope.body)
    return asset_rules.asset_id(body.owner, body.nonce), body.version


@contextmanager
def _reading(dao: Dao, path: Path) -> Iterator[LedgerStore]:
    """A ledger of the home: the one that is open already, or another for as long as it is looked at."""
    if path == dao.ledger_path():
        yield dao.store
        return
    store = LedgerStore.open(path, readonly=True)
    try:
        yield store
    finally:
        store.close()


def _scope(link: TrustLink | None) -> Link | None:
    return None if link is None else Link(link.kinds, link.categories, link.weight)


def trust_links(dao: Dao) -> dict[bytes, TrustLink]:
    """The trust links in force, by quorum: what this iDAO's own ledger says, else the quorum's own.

    With --quorum, what that ledger says counts for the quorum itself if the iDAO's own says nothing.
    """
    own: dict[bytes, TrustLink] = {}
    elsewhere: dict[bytes, TrustLink] = {}
    for path in sorted(dao.home.ledgers_folder.glob("*.db")):
        with _reading(dao, path) as store:
            quorum = store.chain.quorum
            personal = store.chain.governor == dao.me
            if personal and store.standing == ENDED:
                continue
            for link in store.state().scan(TrustLink, dao.me):
                if personal:
                    own[link.quorum] = link
                elif link.quorum == quorum:
                    elsewhere[quorum] = link
    return {**elsewhere, **own}


def _interests(state: State, me: bytes, validators: ValidatorSet, related: set[bytes]) -> Interests:
    """Who gains: people around the contributor, owners of `related` assets' parents and classes."""
    members = tuple(m.member for m in state.scan(people_rules.Member, me) if m.member != me)
    employers = tuple(
        v.idao for v in validators.validators
        if v.idao != me and people_rules.role_of(state, v.idao, me) is not None
    )  # fmt: skip
    if not related:
        return Interests(me, members, employers)
    from idao.ledger import dats  # most contributions are routed without

    owners = sorted({a.owner for a in (state.get(asset_rules.Asset, r) for r in sorted(related)) if a})
    classes = {c.id: c.owner for c in state.scan(dats.Class) if c.asset in related}
    holders = {d.owner for d in state.scan(dats.Dat) if d.class_id in classes} if classes else set()
    return Interests(
        me,
        members,
        employers,
        tuple(o for o in owners if o != me),
        tuple(sorted({*classes.values(), *holders})),
    )


def _reviewers(store: LedgerStore, validators: ValidatorSet) -> tuple[coordinator.Validator, ...]:
    given: dict[bytes, int] = {}
    for receipt in store.newest("review.open", LOAD_WINDOW):
        given[receipt.idao] = given.get(receipt.idao, 0) + 1
    return tuple(coordinator.Validator(v.idao, given.get(v.idao, 0)) for v in validators.validators)


def _backlog(store: LedgerStore, state: State) -> int:
    """Newest versions that no review has verified, and that nobody else has reviewed."""
    keys = [
        c.key
        for receipt in store.newest("asset.contribute", LOAD_WINDOW)
        for c in receipt.changed
        if c.table == "asset_version"
    ]
    versions = (state.get(asset_rules.AssetVersion, *canonical.decode(key)) for key in keys)
    return sum(1 for v in versions if v is not None and not v.verified and not v.independent)


def _verdict(v: coordinator.Verdict) -> dict[str, Any]:
    common = math.gcd(v.load, v.weight)
    return {
        "quorum": show_id("quorum", v.quorum),
        "out": v.out or None,
        "stalled": v.stalled,
        "independent": v.independent,
        "needed": v.needed,
        "scope": v.scope,
        "load": f"{v.load // common}/{v.weight // common}",
        "rounds": [[show_id("idao", r) for r in part] for part in coordinator.rounds(v)],
        "conflicts": [{"idao": show_id("idao", who), "why": code} for who, code in v.conflicts],
    }
