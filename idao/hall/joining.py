"""How a person comes into a group, and how the group takes the person in; leaving again."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from idao import validatorkeys
from idao.crypto.keys import Signer
from idao.errors import IdaoError, NotFound, Pending, Refused, Unreachable, UsageError
from idao.hall.signing import Actor, signed
from idao.home import now_ms, show_time
from idao.ledger import bonds, epochs, governance, membership
from idao.ledger.idao import AddTrust, Identity, Register
from idao.ledger.membership import Join, Seat
from idao.model import ValidatorSet, parse_id, show_id
from idao.node import calling
from idao.store.ledger import LedgerStore

if TYPE_CHECKING:
    from idao.dao import Dao
    from idao.ledger.genesis import Bundle
    from idao.node.joining import Welcome
    from idao.node.pairing import Offer

BOND = 1_000_000
"""Units of stake behind a newcomer: a thousandth of what a group begins with."""
LOOK_S = 0.2
"""How often a command looks for a newcomer."""
DUE_S = 5.0
"""What is decided is carried out by the next block, which a node makes at once."""
DISCOVER_S = 2.0
"""A LAN answers a multicast question within a second."""


class Joining:
    def __init__(self, dao: Dao) -> None:
        self._dao = dao

    # --- the inviter

    def invite(self, minutes: int) -> dict[str, Any]:
        """One line that lets one newcomer in once. Needs the node: it keeps the door."""
        self._group()
        quorum = show_id("quorum", self._dao.quorum)
        found = calling.need(self._dao.home.path, "invite", quorum=quorum, minutes=minutes)
        return {"quorum": quorum, **found}

    def offers(self) -> list[dict[str, Any]]:
        """Who waits to be let in, each with six words."""
        quorum = show_id("quorum", self._dao.quorum)
        found = calling.need(self._dao.home.path, "offers", quorum=quorum)
        return list(found["offers"])

    def await_offer(self, words: str = "") -> dict[str, Any]:
        """The offer with these words, or the only one, once it is there; waits `wait_s` for it."""
        from idao.invite import same_words

        deadline = time.monotonic() + self._dao.wait_s
        while True:
            offers = self.offers()
            fitting = [o for o in offers if not words or same_words(words, o["words"])]
            if len(fitting) == 1:
                return fitting[0]
            if len(fitting) > 1:
                raise UsageError("several wait to join", hint="name one: idao quorum accept --words '…'")
            if time.monotonic() >= deadline:
                break
            time.sleep(LOOK_S)
        if offers:
            raise NotFound(
                "nobody who waits to join shows these words",
                hint="if the joiner's screen shows them all the same, somebody is in between: refuse",
                code="other-words",
            )
        raise NotFound("nobody waits to join", hint="make an invite: idao quorum invite", code="nobody")

    def accept(self, offer: dict[str, Any], *, name: str = "", bond: int = BOND) -> dict[str, Any]:
        """Lets the newcomer in: its request onto the ledger, its node to the others', a vote to admit it.

        It is called `name` here from now on; without one, what it calls itself, if that can be a petname.
        """
        dao = self._dao
        idao, key = parse_id("idao", offer["idao"]), bytes.fromhex(offer["key"])
        called = dao.people.name_for(idao, name, offer["name"])
        dao.keys()  # asks for the passphrase before the newcomer is told anything
        seat = membership.seat_of(dao.state(), idao)
        again = seat is not None and _unheard(seat)  # with the key of then, which the newcomer has, too
        if not again:
            self._already_seated(idao)
            dao.pass_on([base64.b64decode(raw) for raw in offer["txs"]])
        calling.need(dao.home.path, "decide", words=offer["words"], accept=True)
        if called is not None and dao.petname(idao) != called:
            dao.people.add_name(called, offer["idao"])
        seat = membership.seat_of(dao.state(), idao)
        if seat is None or (seat.key != key and not again):
            raise Refused("the newcomer's request was not taken by the ledger", code="not-asking")
        if seat.state != membership.ASKING:
            told = {"idao": offer["idao"], "name": dao.petname(idao), "quorum": show_id("quorum", dao.quorum)}
            return {**told, "seat": seat.state}
        return self.admit(idao, bond=bond)

    def _already_seated(self, idao: bytes) -> None:
        seat = membership.seat_of(self._dao.state(), idao)
        if seat is not None and seat.state in (membership.PENDING, membership.ACTIVE):
            raise Refused("that iDAO has a seat here already", code="already-in")

    def admit(self, idao: bytes, *, bond: int = BOND, dry: bool = False) -> dict[str, Any]:
        """Proposes to admit an iDAO that asks for a seat, and votes yes; alone that decides it."""
        dao = self._dao
        seat = membership.seat_of(dao.state(), idao)
        if seat is None or seat.state != membership.ASKING:
            raise NotFound(f"{show_id('idao', idao)} does not ask for a seat", code="not-asking")
        if dry:
            return {"idao": show_id("idao", idao), "bond": str(bond), "unit": "stake", "dry_run": True}
        power = 1
        body = membership.Admit(idao, seat.key, power, bond)
        shown = dao.governance.carry(dao.quorum, "admit a validator", [("validator.admit", body)])
        now = await_seat(dao, idao, shown["state"], lambda s: s is not None and s.state != membership.ASKING)
        return {
            "idao": show_id("idao", idao),
            "name": dao.petname(idao),
            "quorum": show_id("quorum", dao.quorum),
            "proposal": shown["proposal"],
            "state": shown["state"],
            "seat": now.state if now else membership.ASKING,
            "bond": str(bond),
            "unit": "stake",
        }

    def refuse(self, offer: dict[str, Any], reason: str) -> dict[str, Any]:
        found = calling.need(self._dao.home.path, "decide", words=offer["words"], accept=False, reason=reason)
        return {"idao": found["idao"], "accepted": False}

    # --- the joiner

    def join(
        self, text: str, *, peers: Sequence[str] = (), name: str = "", on_words: Callable[[str], None]
    ) -> dict[str, Any]:
        """Pairs with the inviter's node, takes the quorum's genesis in, and asks for a seat."""
        import asyncio

        from idao import invite
        from idao.node import addresses, joining, peerbook, tls

        dao = self._dao
        taken = invite.decode(text)
        keys = dao.keys()
        tls_identity = tls.identity(dao.home.path)
        seed = validatorkeys.fresh()  # quorums do not share a key, and one that was left takes none twice
        who = joining.Who(dao.me, Signer(seed).public, tls_identity.pin)
        shown: list[str] = []

        def tell(words: str) -> None:
            shown.append(words)
            on_words(words)

        def offer(quorum: bytes, bundle: Bundle, nonce: bytes) -> Offer:
            signer = validatorkeys.keep(dao.home, quorum, seed, keys.kek)
            return self._offer(quorum, nonce, tls_identity.certificate, signer)

        async def pair() -> joining.Welcome:
            try:
                return await joining.join(taken, who, offer, addresses=peers, on_words=tell)
            except Unreachable:
                found = await _inviters() if addresses.discovers(dao.home) and not shown else ()
                if not found:
                    raise
                return await joining.join(taken, who, offer, addresses=found, on_words=tell)

        welcome = asyncio.run(pair())
        groups = dao.groups
        quorum = groups.take_in(welcome.bundle, groups.name_for(welcome.bundle, name))
        there = dao.on(show_id("quorum", quorum))
        known = {**peerbook.read(there.ledger_path()), **{r.record.idao: r for r in welcome.records}}
        peerbook.write(there.ledger_path(), known.values(), peerbook.whole(there.ledger_path()))
        dao.on(groups.own_ledger()).people.trust_joined(quorum)
        return {
            "quorum": show_id("quorum", quorum),
            "name": str(dao.home.config["ledgers"][there.ledger_path().stem]),
            "idao": show_id("idao", dao.me),
            "words": shown[-1],
            "members": len(welcome.records),
            "inviter": self._call_inviter(welcome),
            "node": self._tell_node(),
        }

    def _call_inviter(self, welcome: Welcome) -> dict[str, Any] | None:
        """Who let us in, under the petname that it has here from now on."""
        if welcome.inviter is None:
            return None
        people, shown = self._dao.people, show_id("idao", welcome.inviter)
        called = people.name_for(welcome.inviter, "", welcome.name)
        if called is not None and self._dao.petname(welcome.inviter) != called:
            people.add_name(called, shown)
        return {"idao": shown, "name": called}

    def _tell_node(self) -> bool:
        """Whether a running node has taken the new ledger up."""
        try:
            return calling.ask(self._dao.home.path, "reload") is not None
        except IdaoError:
            return False

    def _offer(self, quorum: bytes, nonce: bytes, certificate: bytes, signer: Signer) -> Offer:
        from idao import noderecord
        from idao.node import addresses
        from idao.node.pairing import Offer

        dao = self._dao
        keys, history = dao.keys(), dao.home.history()
        own = addresses.own(dao.home, addresses.port_of(dao.home))
        record = noderecord.make(signer, quorum, dao.me, certificate, own, now_ms())
        possession = signer.sign_possession(quorum, dao.me)
        body = Join(signer.public, possession, record.record.tls)
        who, key_seq = Actor(dao.me, keys.identity), len(history.events)
        known = self._known(quorum)
        steps: list[tuple[str, Any]] = [("quorum.join", body)]
        if known is None:
            steps.insert(0, ("idao.register", Register(history.inception, history.events)))
        seq = known.seq if known else 0
        txs = tuple(signed(who, quorum, key_seq, seq + n, kind, b) for n, (kind, b) in enumerate(steps, 1))
        name = str(dao.home.get("idao", "name", ""))
        return Offer(nonce, dao.me, signer.public, record, history.inception, history.events, txs, name)

    def _known(self, quorum: bytes) -> Identity | None:
        """This iDAO as a ledger that is here already knows it: it was a member before."""
        path = self._dao.home.ledgers_folder / f"{show_id('quorum', quorum).removeprefix('quorum:')}.db"
        if not path.exists():
            return None
        with closing(LedgerStore.open(path, readonly=True)) as store:
            return store.state().get(Identity, self._dao.me)

    # --- a member

    def leave(self) -> dict[str, Any]:
        """Gives the seat up: out of the set two blocks later; the bond stays until its time is over."""
        dao = self._dao
        self._group()
        seat = membership.seat_of(dao.state(), dao.me)
        if seat is None or seat.state not in (membership.PENDING, membership.ACTIVE):
            raise NotFound("this iDAO has no seat in this quorum", code="no-seat")
        dao.submit([("quorum.leave", membership.Leave())])
        bond = dao.state().get(bonds.Bond, dao.me, seat.term)  # of this stay: an earlier one may wait still
        return {
            "quorum": show_id("quorum", dao.quorum),
            "state": membership.LEFT,
            "bond": str(bond.held if bond else 0),
            "unit": "stake",
            "free_height": bond.free if bond else 0,
            "free_time": show_time(bond.free_ms) if bond else None,
        }

    def activate(self) -> bool:
        """If this iDAO is admitted and its ledger has come far enough, signs that it takes its place."""
        dao = self._dao
        store = dao.store
        if membership.next_step(store.state(), dao.me, store.height + 1) != "activate":
            return False
        if any(tx.envelope.kind == "quorum.activate" for tx in dao.queued()):
            return False
        with contextlib.suppress(Pending):  # it is in the outbox
            dao.submit([("quorum.activate", membership.Activate(store.height, store.tip().header))])
        return True

    def carry_through(self) -> bool:
        """If something waits for blocks that nobody has reason to make, gives it one.

        A change of the set decides two blocks later: one of those who decide until then makes them.
        A validator that may have forgotten what it signed is silent for two blocks, and makes them itself:
        else a second one that comes back so finds a quorum in which too few may sign, for ever. It says
        again that it trusts this quorum: true, harmless, and a transaction.
        """
        dao = self._dao
        store = dao.store
        _, now = store.validators(store.height + 1)
        silent = store.unsigned_until > store.height and any(v.idao == dao.me for v in now.validators)
        newest = epochs.newest(store.state())
        changing = newest.start > store.height + 1
        if changing and not silent:
            live = dao.nodes.quorum(show_id("quorum", dao.quorum)) or {}
            up = {parse_id("idao", p["idao"]) for p in live.get("peers", []) if p["up"]}
            changing = carrier(now, epochs.set_of(newest), up | {dao.me}) == dao.me
        if dao.queued() or not (silent or changing):
            return False
        with contextlib.suppress(Pending):
            dao.submit([("trust.add", AddTrust(dao.quorum, (), (), 1))])
        return True

    def _group(self) -> None:
        from idao.ledger import genesis

        if self._dao.store.bundle.genesis.kind != genesis.GROUP:
            raise Refused(
                "a quorum of one has no seats", hint="begin a group: idao quorum create --name NAME",
                code="not-a-group",
            )  # fmt: skip


def carrier(now: ValidatorSet, following: ValidatorSet, there: set[bytes]) -> bytes | None:
    """Who gives a change of the set its blocks: the first that is there and does not leave by it.

    Whoever leaves has mostly stopped its node, and whoever is away makes none.
    """
    stays = {v.idao for v in following.validators}
    fit = [v.idao for v in now.validators if v.idao in there]
    return next((i for i in fit if i in stays), fit[0] if fit else None)


def _unheard(seat: Seat) -> bool:
    """Whether its newcomer may have died before it heard that it was let in: nobody has counted on it yet.

    One that has voted must not begin with an empty ledger: it could vote again (`idao.hall.repair`).
    """
    return seat.state in (membership.ASKING, membership.PENDING) or (
        seat.state == membership.ACTIVE and seat.power == 0
    )


def await_seat(dao: Dao, idao: bytes, state: str, done: Callable[[Seat | None], bool]) -> Seat | None:
    """The seat, once what a decided proposal does to it is done: that is due in the next block."""
    deadline = time.monotonic() + min(dao.wait_s, DUE_S)
    while True:
        dao.__dict__.pop("store", None)
        seat = membership.seat_of(dao.state(), idao)
        decided = state != governance.OPEN or membership.founder_mode(dao.state())
        if done(seat) or not decided or time.monotonic() >= deadline:
            return seat
        time.sleep(LOOK_S / 4)


async def _inviters() -> tuple[str, ...]:
    """Where on this LAN an invite is open, by mDNS: for an invite whose addresses lead nowhere."""
    import asyncio

    from idao.node.discovery import Discovery

    discovery = Discovery(1, on_found=lambda found: None)  # announces nothing, so the port is never told
    await discovery.start()
    try:
        for _ in range(int(DISCOVER_S / LOOK_S)):
            await asyncio.sleep(LOOK_S)
            if found := discovery.inviters():
                return found
        return ()
    finally:
        await discovery.stop()
