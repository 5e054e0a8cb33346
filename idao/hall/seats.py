"""Seats in a group while they are held and after: a new validator key, a lost member's removal, bonds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from idao import validatorkeys
from idao.crypto import canonical
from idao.crypto.keys import Signer, did_key
from idao.errors import NotFound, Pending, Refused
from idao.hall.joining import await_seat
from idao.home import now_ms, show_time
from idao.ledger import bonds, epochs, genesis, membership
from idao.ledger.bonds import Bond
from idao.ledger.membership import ROTATE_MS, Remove, Rotate, Seat, SeatKey
from idao.ledger.tx import Tx
from idao.model import show_id
from idao.node import calling

if TYPE_CHECKING:
    from idao.dao import Dao

SEATED = (membership.PENDING, membership.ACTIVE)


def own_seat(dao: Dao) -> Seat:
    """This home's seat in the chosen group. `Refused` for a quorum of one, `NotFound` without a seat."""
    if dao.store.bundle.genesis.kind != genesis.GROUP:
        raise Refused(
            "a quorum of one has no seats; its validator key stays as it is",
            hint="name a group: --quorum NAME; your own key is replaced by 'idao key rotate'",
            code="not-a-group",
        )
    seat = membership.seat_of(dao.state(), dao.me)
    if seat is None or seat.state not in SEATED:
        raise NotFound("this iDAO has no seat in this quorum", code="no-seat")
    return seat


# --- a new validator key ----------------------------------------------------------------------------


def rotate(dao: Dao, *, dry: bool = False) -> dict[str, Any]:
    """Replaces the validator key of this home's seat, from two blocks on; the node need not stop.

    The new key is on disk, and in the running node, before anybody is told of it. `Pending` when others are
    needed and away: the same command then waits for the one that was signed, and signs no second.
    """
    seat = own_seat(dao)
    if dry:
        return {"quorum": show_id("quorum", dao.quorum), "replaces": did_key(seat.key), "dry_run": True}
    dao.keys()
    if (waiting := _signed_already(dao)) is not None:
        dao.pass_on([waiting.raw])
    else:
        _check_rested(seat)
        _rotate(dao, seat)
    dao.__dict__.pop("store", None)
    now = own_seat(dao)
    newest = epochs.newest(dao.state())
    return {
        "quorum": show_id("quorum", dao.quorum),
        "idao": show_id("idao", dao.me),
        "key": did_key(now.key),
        "replaces": did_key(seat.key),
        "height": dao.state().need(SeatKey, now.key).since,
        "signs_from": newest.start if any(v.key == now.key for v in epochs.set_of(newest).validators) else 0,
        "status": "final",
    }


def _signed_already(dao: Dao) -> Tx | None:
    """A rotation that waits for the others."""
    kept = {s.public for s in validatorkeys.held(dao.home, dao.quorum, dao.keys())}
    for tx in dao.queued():
        mine = tx.envelope.kind == "quorum.rotate" and tx.envelope.idao == dao.me
        if mine and canonical.unpack(Rotate, tx.envelope.body).key in kept:
            return tx
    return None


def _check_rested(seat: Seat) -> None:
    again = seat.rotated_ms + ROTATE_MS
    if seat.rotated_ms and now_ms() < again:
        raise Refused(
            f"a seat changes its key once a day: again from {show_time(again)}", code="rotated-lately"
        )


def _rotate(dao: Dao, seat: Seat) -> None:
    from idao.node import tls

    keys = dao.keys()
    with dao.home.exclusive(dao.wait_s):
        fresh = validatorkeys.keep(dao.home, dao.quorum, validatorkeys.fresh(), keys.kek)
    try:
        calling.ask(dao.home.path, "reload")  # a node that lacks the key would fall silent at the change
        possession = fresh.sign_possession(dao.quorum, dao.me)
        dao.submit([("quorum.rotate", Rotate(fresh.public, possession, tls.identity(dao.home.path).pin))])
    except Pending:
        raise
    except BaseException:
        if _signed_already(dao) is None:
            _forget(dao, fresh)
        raise


def _forget(dao: Dao, key: Signer) -> None:
    if dao.store.state().get(SeatKey, key.public) is None:
        validatorkeys.drop(dao.home, dao.quorum, dao.keys().kek, key.public)


def retire(dao: Dao) -> int:
    """Destroys the keys that this seat's present one has replaced, once no block is left for them to sign.

    So whoever comes into this home later can write no other history under them.
    """
    store = dao.store
    seat = membership.seat_of(store.state(), dao.me)
    if seat is None or epochs.newest(store.state()).start > store.height + 1:
        return 0
    if any(v.idao == dao.me and v.key != seat.key for v in store.validators(store.height + 1)[1].validators):
        return 0
    head = store.checkpoint()
    if head is None or head[0] < store.height:
        return 0  # the last head under the old key may still lack its cosignature
    return validatorkeys.drop_before(dao.home, dao.quorum, dao.keys().kek, seat.key)


# --- members who are lost ---------------------------------------------------------------------------


def remove(dao: Dao, who: str, *, force: bool = False, dry: bool = False) -> dict[str, Any]:
    """Proposes to take a seat away, and votes yes; alone that decides it. Its bond waits out its time.

    Unless `force`, refused where too few of the rest are seen by the node: the smaller set could not decide.
    """
    if dao.store.bundle.genesis.kind != genesis.GROUP:
        raise Refused("a quorum of one has no seats", code="not-a-group")
    idao = dao.resolve_person(who)
    seat = membership.seat_of(dao.state(), idao)
    if seat is None or seat.state not in (membership.ASKING, *SEATED):
        raise NotFound(f"'{who}' has no seat in this quorum", hint="idao quorum status", code="no-seat")
    told = {"quorum": show_id("quorum", dao.quorum), "idao": show_id("idao", idao)}
    if not force and seat.power:
        _check_rest_decides(dao, idao)
    if dry:
        return {**told, "dry_run": True}
    shown = dao.governance.carry(dao.quorum, "remove a validator", [("validator.remove", Remove(idao))])
    now = await_seat(dao, idao, shown["state"], lambda s: s is None or s.state == membership.REMOVED)
    return {
        **told,
        "proposal": shown["proposal"],
        "state": shown["state"],
        "seat": now.state if now else membership.REMOVED,
    }


def _check_rest_decides(dao: Dao, gone: bytes) -> None:
    rest = [v for v in epochs.set_of(epochs.newest(dao.state())).validators if v.idao != gone]
    live = dao.nodes.quorum(show_id("quorum", dao.quorum))
    if live is None or not rest:
        return  # nothing is known of who is there; the ledger itself keeps the last one
    up = {p["idao"] for p in live["peers"] if p["up"]}
    there = sum(1 for v in rest if v.idao == dao.me or show_id("idao", v.idao) in up)
    if 3 * there <= 2 * len(rest):
        raise Refused(
            f"of the {len(rest)} that would remain {there} are online: too few to decide",
            hint="bring the others back first, or add --force",
            code="would-stop",
        )


def withdraw(dao: Dao, who: str = "", *, dry: bool = False) -> dict[str, Any]:
    """Gives the bonds of a seat that was left, one's own or another's, back to those who put them up."""
    idao = dao.resolve_person(who) if who else dao.me
    free = [b for b in dao.state().scan(Bond, idao) if bonds.is_free(b, dao.store.height + 1, now_ms())]
    waiting = [b for b in dao.state().scan(Bond, idao) if b.free and b not in free]
    if not free:
        first = min(waiting, key=lambda b: b.idle_ms, default=None)
        raise NotFound(
            f"no bond is free yet: from height {first.free} and {show_time(first.free_ms)} on, or from"
            f" {show_time(first.idle_ms)}" if first else "no bond of a seat that was left waits here",
            code="no-bond",
        )  # fmt: skip
    if not dry:
        dao.submit([("quorum.withdraw", bonds.Withdraw(idao, b.term)) for b in free])
    return {
        "quorum": show_id("quorum", dao.quorum),
        "idao": show_id("idao", idao),
        "returned": [{"to": show_id("idao", b.sponsor), "value": str(b.held), "unit": "stake"} for b in free],
        **({"dry_run": True} if dry else {}),
    }
