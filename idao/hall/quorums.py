"""The quorums of a home: who validates them, what they bear, what stands behind each validator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from idao.crypto import statetree
from idao.hall.ledgers import Ledgers
from idao.ledger import attest, epochs, genesis, membership
from idao.ledger.state import State
from idao.model import Validator, ValidatorSet, show_id

if TYPE_CHECKING:
    from idao.dao import Dao

ALONE = "a quorum of one: final at once, by its owner alone, who may rewrite or backdate it"


FOUR = membership.FOUR
LOOK_BACK = 500
"""Blocks in which the last signature of an absent validator is looked for: some milliseconds."""


WENT = {
    membership.LEFT: "you have left this quorum",
    membership.REMOVED: "the members have removed you from this quorum",
    membership.JAILED: "you lost your seat in this quorum for a proven fault",
}
"""What it means for this home that its seat is in such a state."""


def meaning(
    size: int, online: int, bears: int, *, founding: bool, group: bool, node: bool, refused: str | None
) -> str:
    """What a quorum of this size is worth, in plain words. `refused`: why the node here takes no part."""
    if not group:
        return ALONE
    unseen = f"this node takes no part: {refused}" if refused else "no node here to see who is online"
    seen = f"{online} online" if node else unseen
    if founding:
        members = "1 member" if size == 1 else f"{size} members"
        return f"{members}, founder mode: only the founder signs; needs {FOUR - size} more; {seen}"
    if not bears:
        who = "1 validator" if size == 1 else f"{size} validators"
        return f"{who}, {seen}, tolerates no fault; one absence stops anchoring"
    return f"{size} validators, {seen}, tolerates {bears} faulty"


def margin(validators: ValidatorSet, there: int) -> str:
    """What one more absence would do where power `there` is online; nothing while more can be spared."""
    total, needed = validators.total_power, validators.quorum_size
    if there < needed:
        return f"nothing is decided: {there} of {total} votes are online, and {needed} are needed"
    tight = there - needed < max(v.power for v in validators.validators)
    return "one more absence stops anchoring" if tight and tolerates(validators) else ""


def _places(state: State) -> list[membership.Seat]:
    return [s for s in membership.seats(state) if s.state == membership.ACTIVE]


def tolerates(validators: ValidatorSet) -> int:
    """How many validators, the heaviest first, may be away or lying before the quorum stops."""
    spare = validators.total_power - validators.quorum_size
    count = 0
    for power in sorted((v.power for v in validators.validators), reverse=True):
        if power > spare:
            break
        spare -= power
        count += 1
    return count


class Quorums:
    def __init__(self, dao: Dao) -> None:
        self._dao = dao

    def listing(self) -> list[dict[str, Any]]:
        """Every quorum of this home; which one commands mean unless told otherwise."""
        default = self._dao.on("").ledger_path().stem if self._dao.home.get("quorum", "default") else ""
        rows = []
        for q in Ledgers(self._dao).status()["quorums"]:
            dao = self._dao.on(q["quorum"])
            kind = "group" if dao.store.bundle.genesis.kind == genesis.GROUP else "own"
            size = len(_places(dao.state())) if kind == "group" else q["validators"]
            rows.append(
                {"quorum": q["quorum"], "name": q["name"], "kind": kind, "size": size, "height": q["height"],
                 "anchored": q["anchored"], "pending": q["pending"], "standing": q["standing"],
                 "default": q["quorum"] == f"quorum:{default}"}
            )  # fmt: skip
        return rows

    def status(self) -> dict[str, Any]:
        """The chosen quorum, its validators, and their evidence of trusted hardware judged now."""
        dao, store = self._dao, self._dao.store
        epoch = epochs.newest(dao.state())  # which may begin two blocks from now
        validators = epochs.set_of(epoch)
        head = store.checkpoint()
        quorum = show_id("quorum", store.chain.quorum)
        group = store.bundle.genesis.kind == genesis.GROUP
        live = dao.nodes.quorum(quorum) if group else None
        rows = [{**self._row(v, live), "state": membership.ACTIVE} for v in self._members(validators)]
        size, bears = len(rows), tolerates(validators)
        founding = membership.founder_mode(dao.state())
        online = sum(1 for r in rows if r["online"])
        refused = dao.nodes.refused(quorum) if group and live is None else None
        left = self.left(validators)
        return {
            "quorum": quorum,
            "name": str(dao.home.config.get("ledgers", {}).get(dao.ledger_path().stem, "")),
            "kind": "group" if group else "own",
            "epoch": epoch.epoch,
            "since": epoch.start,
            "size": size,
            "online": online,
            "tolerates": bears,
            "founder_mode": founding,
            "height": store.height,
            "anchored": head[0] if head else 0,
            "state_hash": statetree.root(store.branches).hex(),
            "meaning": left
            or meaning(
                size, online, bears, founding=founding, group=group, node=live is not None, refused=refused
            ),
            "margin": margin(validators, sum(r["power"] for r in rows if r["online"]))
            if live and not left
            else "",
            "node": live is not None or not group,
            "standing": store.standing,
            "validators": rows,
            "joining": self._joining(),
            "alarms": (live or {}).get("alarms", []),
        }

    def left(self, validators: ValidatorSet) -> str:
        """That this home has no seat any more, and what follows; nothing while it has one, or never had."""
        dao = self._dao
        seat = membership.seat_of(dao.state(), dao.me)
        if seat is None or seat.state not in WENT or any(v.idao == dao.me for v in validators.validators):
            return ""
        return f"{WENT[seat.state]} at height {seat.since}: the others tell this node nothing since"

    def _last_signed(self, v: Validator) -> int | None:
        """The newest block whose finalization, as it is kept here, has this validator's signature."""
        store = self._dao.store
        for height in range(store.height, max(0, store.height - LOOK_BACK), -1):
            index = store.validators(height)[1].index_of_key(v.key)
            bitmap = store.decided(height)[1].bitmap
            if index is not None and bitmap[index // 8] >> index % 8 & 1:
                return height
        return None

    def _members(self, validators: ValidatorSet) -> list[Validator]:
        """Who decides; in founder mode also those who will, with power 0 until then."""
        if not membership.founder_mode(self._dao.state()):
            return list(validators.validators)
        powers = {v.idao: v.power for v in validators.validators}
        return [Validator(s.idao, s.key, powers.get(s.idao, 0)) for s in _places(self._dao.state())]

    def _joining(self) -> list[dict[str, Any]]:
        """Seats on their way in: asking, or admitted and not active yet."""
        return [
            {"idao": show_id("idao", s.idao), "name": self._dao.petname(s.idao), "state": s.state}
            for s in membership.seats(self._dao.state())
            if s.state in (membership.ASKING, membership.PENDING)
        ]

    def _row(self, v: Validator, live: dict[str, Any] | None) -> dict[str, Any]:
        """One validator. Without a node only this home's own is known to be there."""
        dao = self._dao
        shown_id = show_id("idao", v.idao)
        link = next((p for p in (live or {}).get("peers", []) if p["idao"] == shown_id), None)
        online = v.idao == dao.me or bool(link and link["up"])
        row: dict[str, Any] = {
            "idao": shown_id,
            "name": dao.petname(v.idao),
            "power": v.power,
            "online": online,
            "absent_since": link["since"] if link and not online else None,
            "last_signed": None if online or not v.power else self._last_signed(v),
            "level": "none",
            "attestation": None,
            "appraisals": [],
        }
        if dao.state().get(attest.Attestation, v.idao) is None:
            return row
        shown = dao.tee.shown(v, dao.tee.policy()[0])
        given = [
            {"appraiser": show_id("idao", a.appraiser), "level": a.level, "accepted": a.accepted,
             "policy": a.policy.hex(), "verifier": a.verifier}
            for a in dao.state().scan(attest.Appraisal, v.idao)
        ]  # fmt: skip
        level = shown["level"] if shown else "none"
        return {**row, "level": level, "attestation": shown, "appraisals": given}
