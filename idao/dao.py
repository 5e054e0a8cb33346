"""`Dao`: all that idao can do, as a Python API. Commands call this, and nothing below it.

    dao = Dao.open(path)
    dao.assets.contribute([folder], name="clinic 2026")
    dao.tokens.mint(asset)

A `Dao` holds a home and one of its ledgers. Reading never needs a key. `submit` signs, puts the
transaction into the durable outbox, drives the ledger if this home holds all its power and no node does, else
wakes the node, and answers with the receipts once everything is on disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idao.errors import Busy, Malformed, NotFound, Refused, UsageError
from idao.frozen import frozen
from idao.hall.signing import VALID_MS, Actor, signed
from idao.home import Home, Keys, now_ms
from idao.ledger.idao import Identity, Rotate
from idao.ledger.state import State
from idao.ledger.tx import Receipt, Tx, parse_tx
from idao.model import PREFIX_MIN, parse_id, show_id
from idao.store import moments, petnames
from idao.store.ledger import LedgerStore
from idao.store.outbox import Outbox

if TYPE_CHECKING:
    from idao.hall.assets import Assets
    from idao.hall.governance import Governance
    from idao.hall.groups import Groups
    from idao.hall.insight import Insight
    from idao.hall.joining import Joining
    from idao.hall.keyring import Keyring
    from idao.hall.ledgers import Ledgers
    from idao.hall.nodes import Nodes
    from idao.hall.people import People
    from idao.hall.proofs import Proofs
    from idao.hall.quorums import Quorums
    from idao.hall.tee import Tee
    from idao.hall.tokens import Tokens


@frozen
class Done:
    """A transaction that is in a block, and kept."""

    tx: bytes
    position: int
    receipt: Receipt


class Dao:
    """One home and one of its ledgers."""

    def __init__(
        self,
        home: Home,
        *,
        quorum: str | None = None,
        wait_s: float = 30.0,
        passphrase_file: str | None = None,
        keys: Keys | None = None,
    ) -> None:
        self.home, self.wait_s, self._passphrase_file = home, wait_s, passphrase_file
        self.named_quorum, self._keys = quorum, keys

    @classmethod
    def open(cls, path: Path, **options: Any) -> Dao:
        """`NoHome` (exit code 10) when there is no home at `path`."""
        return cls(Home.open(path), **options)

    # --- areas

    @cached_property
    def assets(self) -> Assets:
        from idao.hall.assets import Assets

        return Assets(self)

    @cached_property
    def tokens(self) -> Tokens:
        from idao.hall.tokens import Tokens

        return Tokens(self)

    @cached_property
    def governance(self) -> Governance:
        from idao.hall.governance import Governance

        return Governance(self)

    @cached_property
    def people(self) -> People:
        from idao.hall.people import People

        return People(self)

    @cached_property
    def proofs(self) -> Proofs:
        from idao.hall.proofs import Proofs

        return Proofs(self)

    @cached_property
    def keyring(self) -> Keyring:
        from idao.hall.keyring import Keyring

        return Keyring(self)

    @cached_property
    def ledgers(self) -> Ledgers:
        from idao.hall.ledgers import Ledgers

        return Ledgers(self)

    @cached_property
    def tee(self) -> Tee:
        from idao.hall.tee import Tee

        return Tee(self)

    @cached_property
    def quorums(self) -> Quorums:
        from idao.hall.quorums import Quorums

        return Quorums(self)

    @cached_property
    def groups(self) -> Groups:
        from idao.hall.groups import Groups

        return Groups(self)

    @cached_property
    def insight(self) -> Insight:
        from idao.hall.insight import Insight

        return Insight(self)

    @cached_property
    def joining(self) -> Joining:
        from idao.hall.joining import Joining

        return Joining(self)

    @cached_property
    def nodes(self) -> Nodes:
        from idao.hall.nodes import Nodes

        return Nodes(self)

    # --- who and where

    @cached_property
    def me(self) -> bytes:
        """This home's iDAO id; needs no key."""
        from idao.identity import idao_id

        return idao_id(self.home.history().inception)

    def keys(self) -> Keys:
        """The opened keys; asks for the passphrase once (exit code 9 without it)."""
        if self._keys is None:
            self._keys = self.home.unlock(self._passphrase_file)
        return self._keys

    def reload_keys(self) -> None:
        """After the key files have changed."""
        if self._keys is not None:
            self._keys = self.home.open_keys(self._keys.kek)

    def on(self, quorum: str) -> Dao:
        """The same home, with its keys if they are open, on another of its ledgers."""
        return Dao(
            self.home,
            quorum=quorum,
            wait_s=self.wait_s,
            passphrase_file=self._passphrase_file,
            keys=self._keys,
        )

    @property
    def unlocked(self) -> bool:
        return self._keys is not None

    def stage(self, height: int) -> str:
        """'anchored' when a checkpoint covers `height`, else 'final'."""
        head = self.store.checkpoint()
        return "anchored" if head and head[0] >= height else "final"

    @cached_property
    def store(self) -> LedgerStore:
        """The chosen ledger, for reading."""
        return LedgerStore.open(self.ledger_path(), readonly=True)

    @property
    def quorum(self) -> bytes:
        return self.store.chain.quorum

    def state(self) -> State:
        return self.store.state()

    def ledger_path(self) -> Path:
        """The ledger of --quorum (id, prefix or name), else the home's default."""
        wanted = self.named_quorum or self.home.get("quorum", "default")
        if not wanted:
            raise NotFound("this home has no ledger", hint="create one with 'idao init'")
        files = {p.stem: p for p in sorted(self.home.ledgers_folder.glob("*.db"))}
        tail = str(wanted).removeprefix("quorum:")
        names = self.home.config.get("ledgers", {})
        matches = [
            path
            for stem, path in files.items()
            if stem == tail
            or (len(tail) >= PREFIX_MIN and stem.startswith(tail))
            or names.get(stem) == wanted
        ]
        if len(matches) != 1:
            what = "no" if not matches else "more than one"
            raise NotFound(f"{what} ledger '{wanted}' in this home", hint="see 'idao status'")
        return matches[0]

    @contextmanager
    def home_db(self, *, readonly: bool = False) -> Iterator[sqlite3.Connection]:
        """home.db, closed at the end; for reading alone it also opens where nothing can be written."""
        from idao.store.home_db import open_home_db

        with closing(open_home_db(self.home.database, readonly=readonly)) as db:
            yield db

    # --- ids

    def resolve(self, kind: str, text: str, own: Callable[[], Sequence[tuple[bytes, str]]]) -> bytes:
        """A full id, a unique prefix of one's own things, or a unique name among them.

        `own` lists (id, name). `NotFound` when nothing or more than one thing answers.
        """
        head, colon, tail = text.partition(":")
        if colon and head == kind and len(tail) == 52:
            return parse_id(kind, text)
        things = list(own())
        if colon and head in (kind, ""):
            matches = {i for i, _ in things if show_id(kind, i).startswith(f"{kind}:{tail}")}
            if len(tail) < PREFIX_MIN:
                raise UsageError(f"a prefix needs {PREFIX_MIN} characters or more: '{text}'")
        else:
            matches = {i for i, name in things if name == text}
            if not matches and len(text) >= PREFIX_MIN:
                matches = {i for i, _ in things if show_id(kind, i).startswith(f"{kind}:{text}")}
        if len(matches) > 1:
            raise NotFound(f"more than one {kind} answers to '{text}'", hint="give more of the id")
        if not matches:
            raise NotFound(f"no {kind} '{text}' here", hint=f"see 'idao {kind} list'")
        return matches.pop()

    def resolve_person(self, text: str) -> bytes:
        """A full iDAO id or a local petname: names on a ledger never resolve by themselves."""
        if text.startswith("idao:"):
            return parse_id("idao", text)
        if text in ("me", "self"):
            return self.me
        with self.home_db(readonly=True) as db:
            named = petnames.find(db, text)
        if named is None or named.kind != "idao":
            hint = "give the full id, or name it: 'idao name add NAME ID'"
            raise NotFound(f"no petname '{text}'", hint=hint)
        return named.id

    def petname(self, idao: bytes) -> str | None:
        if idao == self.me:
            return str(self.home.get("idao", "name", "")) or None
        with self.home_db(readonly=True) as db:
            names = [n.name for n in petnames.listed(db) if n.id == idao]
        return names[0] if names else None

    # --- doing

    def actor(self, member: str | None = None) -> Actor:
        """The signer: the owner, or the member `member` whose key this home keeps."""
        keys = self.keys()
        if member is None:
            return Actor(self.me, keys.identity)
        from idao.identity import idao_id

        history = self.home.history(member)
        return Actor(idao_id(history.inception), self.home.member_signer(member, keys.kek))

    def submit(self, bodies: Sequence[tuple[str, Any]], actor: Actor | None = None) -> list[Done]:
        """Signs and submits transactions that belong together; waits until they are final.

        Raises `Refused` with the ledger's code if one is refused (those before it stand), `Pending` when
        others are needed and away, `Busy` when another process drives the ledger.
        """
        who = actor or self.actor()
        with self.home.exclusive(self.wait_s), self._wheel() as alone:
            store = LedgerStore.open(self.ledger_path(), readonly=not alone)
            try:
                store.require_live()
                with self.home_db() as db:
                    outbox = Outbox(db, store.chain.quorum)
                    earlier = self._catch_up(store, outbox, who, alone)
                    raws = self._sign(store, outbox, who, bodies)
                    outbox.put(raws, now_ms())
                    if alone:
                        return self._drive(store, outbox, raws)
            finally:
                store.close()
                self.__dict__.pop("store", None)
        return self._await([*earlier, *raws])[len(earlier) :]

    @contextmanager
    def _wheel(self) -> Iterator[bool]:
        """Whether this process may order blocks of the ledger, under its lock.

        It may where this home holds all the power and no node drives the ledger already.
        """
        with ExitStack() as held:
            alone = [v.idao for v in self.store.validators(self.store.height + 1)[1].validators] == [self.me]
            if alone:
                try:
                    held.enter_context(self.home.driving(self.ledger_path(), 0))
                    moments.require_whole(self.home.database, self.store)
                except Busy:
                    alone = False
            yield alone

    def _await(self, raws: Sequence[bytes]) -> list[Done]:
        if not raws:
            return []
        from idao.hall.waiting import await_receipts

        found = await_receipts(self, raws)
        self.__dict__.pop("store", None)
        return [_done(tx.id, position, receipt) for tx, position, receipt in found]

    def pass_on(self, raws: Sequence[bytes]) -> None:
        """Puts transactions that others signed into the outbox; waits until they are final."""
        with self.home.exclusive(self.wait_s), self._wheel() as alone:
            store = LedgerStore.open(self.ledger_path(), readonly=not alone)
            try:
                with self.home_db() as db:
                    outbox = Outbox(db, store.chain.quorum)
                    outbox.put(raws, now_ms())
                    if alone:
                        self._drive(store, outbox, raws)
                        return
            finally:
                store.close()
                self.__dict__.pop("store", None)
        self._await(raws)

    def settle(self) -> list[Done]:
        """Runs what waits: queued transactions and due actions. For a crash, and for time that has passed."""
        return self.submit([])

    def _catch_up(self, store: LedgerStore, outbox: Outbox, who: Actor, alone: bool) -> list[bytes]:
        """Brings the ledger the owner's key events that it lacks, before anything the new key signs."""
        registered = store.state().get(Identity, who.idao)
        if who.idao != self.me or registered is None:
            return []
        history = self.home.history()
        if registered.key_seq > _key_seq(history):
            hint = "restore a newer backup, or start a new home by the phrase: idao key recover"
            raise Refused("the ledger knows a later key than this home", hint=hint, code="key-replaced")
        lacking = tuple(e for e in history.events if e.event.key_seq > registered.key_seq)
        if not lacking:
            return []
        self.home.settle_keys(self.keys().kek)
        queued = [tx.envelope for tx in outbox.waiting()]
        raws: list[bytes] = []
        if not any(e.kind == "idao.rotate" and e.key == who.signer.public for e in queued):
            raws = self._sign(store, outbox, who, [("idao.rotate", Rotate(lacking))])
            outbox.put(raws, now_ms())
        if alone:
            self._drive(store, outbox, raws)
        return raws

    def _sign(
        self, store: LedgerStore, outbox: Outbox, who: Actor, bodies: Sequence[tuple[str, Any]]
    ) -> list[bytes]:
        # The outbox first: a row leaves it only after its number is used in the ledger.
        queued = [tx.envelope for tx in outbox.waiting()]
        registered = store.state().get(Identity, who.idao)
        seq = max([registered.seq if registered else 0, *(e.seq for e in queued if e.idao == who.idao)])
        own = who.idao == self.me
        key_seq = _key_seq(self.home.history()) if own else registered.key_seq if registered else 0
        raws = []
        # Blocks count on from the newest one also where the clock has been set back since.
        newest = store.header(store.height).time_ms if store.height else 0
        valid_until = max(now_ms(), newest) + VALID_MS
        for kind, body in bodies:
            if kind in ("idao.register", "idao.rotate"):
                key_seq = _key_seq(body)
            seq += 1
            raws.append(signed(who, store.chain.quorum, key_seq, seq, kind, body, valid_until))
        return raws

    def _drive(self, store: LedgerStore, outbox: Outbox, raws: Sequence[bytes]) -> list[Done]:
        """Everything queued for this ledger goes through the engine, ours and what a crash left."""
        from idao.node.engine import Engine
        from idao.validatorkeys import held

        newest, *older = held(self.home, store.chain.quorum, self.keys())
        engine = Engine(store, newest, now_ms, *older)
        waiting = outbox.waiting()
        left, before = waiting, -1
        while len(left) != before:  # again: what is in a block now may have made another one admissible
            before, inadmissible = len(left), dict[bytes, str]()
            for tx in left:
                try:
                    if store.receipt_of(tx.id) is None:
                        engine.submit(tx.raw)
                except (Refused, Malformed) as e:
                    inadmissible[tx.id] = e.message
            engine.run()
            left = [tx for tx in left if tx.id in inadmissible]
        final = [tx.id for tx in waiting if store.receipt_of(tx.id)]
        outbox.settle(final, inadmissible, engine.tip.time_ms)
        done = []
        for mine in (parse_tx(raw).id for raw in raws):
            if (found := store.receipt_of(mine)) is None:
                why = inadmissible.get(mine, "it could not be ordered")
                raise Refused(f"the transaction was not taken: {why}", code="inadmissible")
            done.append(_done(mine, *found))
        return done

    def queued(self) -> list[Tx]:
        """Signed transactions of this home that wait for a block of the chosen ledger."""
        with self.home_db(readonly=True) as db:
            return Outbox(db, self.quorum).waiting()

    def pending(self) -> int:
        """Transactions of this home that wait for a block of the chosen ledger."""
        with self.home_db(readonly=True) as db:
            return Outbox(db, self.quorum).count()


def _done(tx: bytes, position: int, receipt: Receipt) -> Done:
    if not receipt.ok:
        raise Refused(receipt.reason, code=receipt.code)
    return Done(tx, position, receipt)


def _key_seq(body: Any) -> int:
    """The key number of a tx that brings its own proof of authority."""
    return body.events[-1].event.key_seq if body.events else 0
