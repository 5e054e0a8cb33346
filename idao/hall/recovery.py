"""Going on after a restore, a copy or a move: a quorum of one never continues its old chain.

It starts `<name>-r1` by a recovery genesis that the phrase signs, naming the old quorum and its last
checkpoint. Ids of assets stay: they come from owner and nonce, so all versions are registered again, in their
old order, with the same roots and commitments, and proofs work again. The id of a DAT names its quorum: DATs,
classes, balances, members and proposals stay behind in the old ledger, which is kept for reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any

from idao import validatorkeys
from idao.crypto import canonical, note, phrase
from idao.crypto.keys import Signer
from idao.dao import Dao
from idao.errors import Busy, Refused, UsageError
from idao.frozen import frozen, replace
from idao.hall.founding import FIRST_STAKE, NAME_MAX
from idao.home import Home, Keys, entropy, now_ms
from idao.ledger import assets, dats, genesis, idao, reviews
from idao.ledger.succession import Consent
from idao.ledger.tx import parse_tx
from idao.model import Parent, show_id
from idao.store.backup import expire_outbox
from idao.store.bodies import applied
from idao.store.ledger import LedgerStore

BATCH = 500
"""Transactions signed and driven together: memory stays small, and each block is full."""


@frozen
class Continued:
    """A quorum that ended, and the one that continues it."""

    quorum: bytes
    name: str
    parent: bytes
    parent_height: int
    height: int
    versions: int
    """Asset versions registered again."""
    lineage_lost: int
    """Versions some of whose parents are not ours: those links stay behind."""
    classes: int
    tokens: int
    members: int
    expired: int
    """Transactions that waited for the old quorum."""

    def shown(self) -> dict[str, Any]:
        return {
            "quorum": show_id("quorum", self.quorum),
            "name": self.name,
            "parent": show_id("quorum", self.parent),
            "parent_height": self.parent_height,
            "height": self.height,
            "versions": self.versions,
            "lineage_lost": self.lineage_lost,
            "left_behind": {"classes": self.classes, "dats": self.tokens, "members": self.members},
            "expired": self.expired,
        }


def next_name(name: str) -> str:
    """clinic, clinic-r1, clinic-r2 …"""
    found = re.fullmatch(r"(.+)-r(\d{1,6})", name)
    base, number = (found[1], int(found[2])) if found else (name, 0)
    return f"{base[: NAME_MAX - 8]}-r{number + 1}"


def stem_of(quorum: bytes) -> str:
    return show_id("quorum", quorum).removeprefix("quorum:")


def alone(store: LedgerStore, me: bytes) -> bool:
    """Whether this iDAO is the ledger's only validator."""
    _, validators = store.validators(store.height + 1)
    return [v.idao for v in validators.validators] == [me]


def going_on(home: Home, me: bytes) -> list[Path]:
    """Ledgers of quorums of one that have not ended."""
    found = []
    for path in sorted(home.ledgers_folder.glob("*.db")):
        with closing(LedgerStore.open(path, readonly=True)) as store:
            if store.continued_by is None and alone(store, me):
                found.append(path)
    return found


def stranded(home: Home, me: bytes) -> list[Path]:
    """Those of them that can go on only under a new name."""
    found = []
    for path in going_on(home, me):
        with closing(LedgerStore.open(path, readonly=True)) as store:
            if store.quarantined:
                found.append(path)
    return found


class Succession:
    """One ledger and its successor. What a crash interrupts is taken up again by the next run."""

    def __init__(self, home: Home, keys: Keys, seed: bytes, old: Path, wait_s: float) -> None:
        self.home, self.keys, self.wait_s = home, keys, wait_s
        self._authority = Signer(phrase.authority_key(seed))
        self._old = LedgerStore.open(old, readonly=True)
        self._me = Dao(home).me
        self._check()

    def _check(self) -> None:
        parent = self._old.bundle.genesis
        if not alone(self._old, self._me):
            raise Refused(
                "this quorum has other validators: they go on, and yours joins them again",
                hint="idao quorum status",
                code="not-alone",
            )
        if parent.recovery_threshold != 1 or self._authority.public not in parent.recovery_keys:
            raise UsageError(f"this phrase may not continue {show_id('quorum', self._old.chain.quorum)}")

    def run(self, name: str | None = None) -> Continued:
        """Makes or finds the successor, registers what it lacks, and ends the old ledger."""
        try:
            with self.home.exclusive(self.wait_s):
                quorum, quorum_name = self._successor(name)
            dao = Dao(self.home, quorum=show_id("quorum", quorum), wait_s=self.wait_s, keys=self.keys)
            versions, lost = self._register(dao)
            with self.home.exclusive(self.wait_s):
                self._point_at(quorum, quorum_name)  # first: while the old one has not ended, this is redone
                expired = self._end(quorum)
            return self._told(dao, quorum, quorum_name, versions, lost, expired)
        finally:
            self._old.close()

    def _successor(self, name: str | None) -> tuple[bytes, str]:
        """(id, name). One begun here earlier is taken up again."""
        for path in sorted(self.home.ledgers_folder.glob("*.db")):
            store = LedgerStore.open(path, readonly=True)
            begun, parent = store.bundle.genesis, store.bundle.genesis.parent
            mine = parent is not None and parent.quorum == self._old.chain.quorum
            live = mine and store.continued_by is None and not store.quarantined
            store.close()
            if live:
                return genesis.quorum_id(begun), begun.name
        bundle = self._bundle(name)
        quorum = genesis.quorum_id(bundle.genesis)
        LedgerStore.create(self.home.ledgers_folder / f"{stem_of(quorum)}.db", bundle).close()
        return quorum, bundle.genesis.name

    def _bundle(self, name: str | None) -> genesis.Bundle:
        """The signed genesis of the successor."""
        before = self._old.bundle.genesis
        history = self.home.history()
        rules = self._old.state().need(idao.Charter, self._me).rules
        bundle = genesis.personal(
            name=next_name(name or before.name),
            nonce=entropy(32),
            time_ms=max(now_ms(), self._old.tip().time_ms + 1),
            validator_key=self.keys.validator.public,
            stake=FIRST_STAKE,
            rules=rules,
            recovery_key=self._authority.public,
            owner=(history.inception, history.events),
            signer=self.keys.identity,
            parent=self._parent(),
            recovery=self._authority,
        )
        genesis.check_bundle(bundle, before)
        return bundle

    def _parent(self) -> Parent:
        quorum, found = self._old.chain.quorum, self._old.checkpoint()
        if found is None:  # nothing had happened yet: its genesis is all there is
            return Parent(quorum, 0, quorum, b"")
        head = note.parse_checkpoint(note.parse_note(found[1]).text)
        return Parent(quorum, head.height, head.header, found[1].encode())

    # --- registering again

    def _register(self, dao: Dao) -> tuple[int, int]:
        """(versions, versions that lost parents)."""
        dao.settle()  # what a run that was cut short had signed already
        state = dao.state()
        there = {(v.asset, v.version) for v in state.scan(assets.AssetVersion)}
        judged = {(r.asset, r.version) for r in state.scan(reviews.ReviewRecord) if r.reviewer == self._me}
        versions, lost = len(there), 0
        known: set[tuple[bytes, int]] = set()
        bodies: list[tuple[str, Any]] = []
        for body in self._statements():
            if isinstance(body, assets.Contribute):
                key = (assets.asset_id(body.owner, body.nonce), body.version)
                parents = tuple(p for p in body.parents if p in known)
                known.add(key)
                lost += parents != body.parents
                if key not in there:
                    versions += 1
                    bodies.append(("asset.contribute", replace(body, parents=parents)))
            elif (body.review.asset, body.review.version) not in judged:
                bodies.append(("review.open", body))
        rows = iter(bodies)
        while batch := list(islice(rows, BATCH)):
            dao.submit(batch)
        return versions, lost

    def _statements(self) -> Iterator[assets.Contribute | reviews.Open]:
        """What this iDAO said of its own assets, in order, as it is said at the start of a ledger."""
        state = self._old.state()
        own: set[bytes] = set()
        for _, raw in applied(self._old, "asset.contribute", "review.open"):
            envelope = parse_tx(raw).envelope
            if envelope.kind == "asset.contribute":
                body = canonical.unpack(assets.Contribute, envelope.body)
                if body.owner == self._me:
                    asset = assets.asset_id(body.owner, body.nonce)
                    own.add(asset)
                    terms = state.need(assets.AssetVersion, asset, body.version).policy
                    yield replace(body, policy=terms)
            else:
                opened = canonical.unpack(reviews.Open, envelope.body)
                if opened.review.reviewer == self._me and opened.review.asset in own:
                    # Heights and epochs were those of the old ledger; here it is all from the beginning.
                    yield replace(opened, review=replace(opened.review, as_of=0, epoch=0))

    # --- the old ledger

    def _end(self, quorum: bytes) -> int:
        store = LedgerStore.open(self._old.path)
        try:
            if store.continued_by is None:
                store.end(quorum)
        finally:
            store.close()
        with Dao(self.home).home_db() as db:
            return expire_outbox(db, self._old.chain.quorum)

    def _point_at(self, quorum: bytes, name: str) -> None:
        config = Home(self.home.path).config
        config.setdefault("ledgers", {})[stem_of(quorum)] = name
        chosen = config.setdefault("quorum", {})
        old = self._old.chain.quorum
        names = (show_id("quorum", old), stem_of(old), config["ledgers"].get(stem_of(old)))
        if chosen.get("default") in (None, *names):
            chosen["default"] = show_id("quorum", quorum)
        self.home.config = config
        self.home.save_config()

    def _told(self, dao: Dao, quorum: bytes, name: str, versions: int, lost: int, expired: int) -> Continued:
        state = self._old.state()
        return Continued(
            quorum=quorum,
            name=name,
            parent=self._old.chain.quorum,
            parent_height=self._old.height,
            height=dao.store.height,
            versions=versions,
            lineage_lost=lost,
            classes=sum(1 for _ in state.scan(dats.Class)),
            tokens=sum(1 for _ in state.scan(dats.Dat)),
            members=sum(1 for _ in state.scan(idao.Member, self._me)) - 1,
            expired=expired,
        )


class GroupSuccession(Succession):
    """A group of which too many are away for good, continued by one of its validators in founder mode.

    The others join the new quorum as newcomers; what they said in the old one stays there for reading.
    """

    def _check(self) -> None:
        parent, before = self._old.ancestry()
        old = self._old.bundle.genesis
        if old.recovery_threshold != 1 or self._authority.public not in old.recovery_keys:
            raise UsageError(
                f"this phrase may not continue {show_id('quorum', self._old.chain.quorum)}",
                hint="its genesis names who may: the founder's phrase",
            )
        seats = self._old.validators(max(1, parent.height))[1].validators
        if self._me not in {v.idao for v in seats}:
            raise Refused("this iDAO did not decide in that quorum when it last anchored", code="no-seat")
        self._before = parent, before

    def _bundle(self, name: str | None) -> genesis.Bundle:
        parent, before = self._before
        old, history = self._old.bundle.genesis, self.home.history()
        rules = self._old.state().need(idao.Charter, self._old.chain.quorum).rules
        stake = sum(units for _, units in old.stake)
        seed = validatorkeys.fresh()
        founder = genesis.Seated(history.inception, history.events, Signer(seed).public, stake)
        made = genesis.group_genesis(
            name=next_name(name or old.name),
            nonce=entropy(32),
            time_ms=max(now_ms(), self._old.tip().time_ms + 1),
            founders=(founder,),
            rules=rules,
            recovery_threshold=old.recovery_threshold,
            recovery_keys=old.recovery_keys,
            parent=parent,
        )
        signed = genesis.Founder(history.inception, history.events, self.keys.identity.sign_genesis(made))
        consent = Consent(self._authority.public, self._authority.sign_genesis(made))
        validatorkeys.keep(self.home, genesis.quorum_id(made), seed, self.keys.kek)
        return genesis.recovered(made, rules, (signed,), (consent,), before)

    def run(self, name: str | None = None) -> Continued:
        """As of a quorum of one. `Busy`, and nothing is begun, while the node drives the old ledger."""
        with ExitStack() as held:
            try:
                held.enter_context(self.home.driving(self._old.path, 0))
            except Busy as e:
                self._old.close()
                raise Busy(f"the old quorum cannot end: {e.message}", hint="idao node stop") from e
            return super().run(name)


def _succession(dao: Dao, seed: bytes, path: Path) -> Succession:
    with closing(LedgerStore.open(path, readonly=True)) as store:
        group = store.bundle.genesis.kind == genesis.GROUP
    return (GroupSuccession if group else Succession)(dao.home, dao.keys(), seed, path, dao.wait_s)


@frozen
class Stake:
    """What recovering a group means, before it is done."""

    quorum: bytes
    height: int
    behind: str
    away: tuple[bytes, ...]
    """Validators that must join the new quorum."""
    lost: int
    """Final blocks above the last anchor: they are not continued."""


def at_stake(dao: Dao) -> Stake | None:
    """For a group that `--quorum` names; None for any other ledger."""
    store = dao.store
    if not dao.named_quorum or store.bundle.genesis.kind != genesis.GROUP:
        return None
    if store.continued_by is not None:
        store.require_live()
    parent, _ = store.ancestry()
    seats = store.validators(max(1, parent.height))[1].validators
    away = tuple(v.idao for v in seats if v.idao != dao.me)
    behind = f"1 of its {len(seats)} last validators stands behind it"
    return Stake(store.chain.quorum, parent.height, behind, away, store.height - parent.height)


def wanting(dao: Dao) -> list[Path]:
    """Own ledgers that were copied or moved here; only the one of --quorum if that was given."""
    if at_stake(dao) is not None:
        return [dao.ledger_path()]
    paths = stranded(dao.home, dao.me)
    return [p for p in paths if p == dao.ledger_path()] if dao.named_quorum else paths


def recover_here(dao: Dao, words: str) -> list[Continued]:
    """`idao quorum recover`: those ledgers end, and go on under new names."""
    seed = phrase.seed_from(words)
    return [_succession(dao, seed, path).run() for path in wanting(dao)]
