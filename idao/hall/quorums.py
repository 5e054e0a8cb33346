"""The quorums of a home: who validates them, what they bear, what stands behind each validator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from idao.crypto import statetree
from idao.hall.ledgers import Ledgers
from idao.ledger import attest
from idao.model import Validator, ValidatorSet, show_id

if TYPE_CHECKING:
    from idao.dao import Dao

ALONE = "a quorum of one: final at once, by its owner alone, who may rewrite or backdate it"
FRAGILE = "all must be there and honest: it goes on without none of its validators; four bear one"


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
        """Every quorum of this home."""
        return [
            {"quorum": q["quorum"], "name": q["name"], "size": q["validators"], "height": q["height"],
             "anchored": q["anchored"]}
            for q in Ledgers(self._dao).status()["quorums"]
        ]  # fmt: skip

    def status(self) -> dict[str, Any]:
        """The chosen quorum, its validators, and their evidence of trusted hardware judged now."""
        dao, store = self._dao, self._dao.store
        epoch, validators = store.validators(store.height + 1)
        head = store.checkpoint()
        rows = [self._row(v) for v in validators.validators]
        size, bears = len(rows), tolerates(validators)
        meaning = ALONE if size == 1 else FRAGILE if not bears else f"goes on with {bears} away or lying"
        return {
            "quorum": show_id("quorum", store.chain.quorum),
            "name": str(dao.home.config.get("ledgers", {}).get(dao.ledger_path().stem, "")),
            "epoch": epoch.epoch,
            "size": size,
            "online": sum(1 for r in rows if r["online"]),
            "tolerates": bears,
            "height": store.height,
            "anchored": head[0] if head else 0,
            "state_hash": statetree.root(store.branches).hex(),
            "meaning": meaning,
            "validators": rows,
        }

    def _row(self, v: Validator) -> dict[str, Any]:
        """One validator. Without a node only this home's own is known to be there."""
        dao = self._dao
        row: dict[str, Any] = {
            "idao": show_id("idao", v.idao),
            "name": dao.petname(v.idao),
            "power": v.power,
            "online": v.idao == dao.me,
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
