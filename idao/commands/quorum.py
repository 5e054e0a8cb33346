"""`idao quorum …`."""

from __future__ import annotations

from typing import Annotated, Any

from idao import ui
from idao.commands import insight, joining, open_dao, recovering
from idao.grammar import App, Argument, Option

quorum = App(
    help="Groups of validators that run one ledger.",
)


@quorum.command("create")
def _create(name: Annotated[str, Option("--name", help="What members call it.")]) -> None:
    """Begin a quorum of several, with you as its founder. It becomes the default of this home.

    Until four are active only the founder signs. Invite the others: idao quorum invite

    Example: idao quorum create --name clinic-lan
    """
    data = open_dao().groups.create(name, dry=ui.options.dry_run)
    if ui.options.dry_run:
        ui.result(data, [f"would begin the quorum '{name}'"])
        return
    ui.say(f"'{name}' is now what commands mean; --quorum NAME names another ledger of this home")
    ui.hint("run it, and invite others: idao node run, then idao quorum invite")
    ui.result(data, ids=data["quorum"])


joining.register(quorum)
insight.register(quorum)
recovering.register(quorum)


@quorum.command("list")
def _list() -> None:
    """List the quorums of this home.

    Example: idao quorum list
    """
    rows = open_dao().quorums.listing()
    head = ("", "name", "kind", "size", "height", "anchored", "pending", "quorum")
    cells = [("*" if r["default"] else "", *(str(r[key]) for key in head[1:])) for r in rows]
    ui.result({"quorums": rows}, ui.table(head, cells), quiet=[r["quorum"] for r in rows])


@quorum.command("status")
def _status(
    name: Annotated[
        str, Argument(metavar="[QUORUM]", help="Name or id; default: --quorum, or the home's own.")
    ] = "",
) -> None:
    """Show a quorum: who validates it, how many may be away, and what stands behind each validator.

    Example: idao quorum status
    """
    data = open_dao(name).quorums.status()
    lines = [
        f"{data['name'] or 'unnamed'}  {data['quorum']}",
        f"{data['meaning']}, height {data['height']}, anchored {data['anchored']}",
        f"epoch {data['epoch']} from height {data['since']}, state {data['state_hash'][:16]}",
        *([data["margin"]] if data["margin"] else []),
        *(_validator_line(v, node=data["node"]) for v in data["validators"]),
        *(f"  {j['name'] or j['idao']}  {j['state']}" for j in data["joining"]),
        *(f"  alarm at {a['time']}: {a['why']}" for a in data["alarms"]),
    ]
    ui.result(data, lines, quiet=[data["quorum"]])


def _validator_line(v: dict[str, Any], *, node: bool) -> str:
    shown = v["attestation"]
    worth = "no evidence of trusted hardware"
    if shown:
        mark = "SIMULATED, " if v["level"] == "simulated" else ""
        verdict = "counts" if shown["accepted"] else f"does not count ({shown['reason']})"
        status = f", {shown['tcb_status']}" if shown["tcb_status"] else ""
        old = f"{shown['age_ms'] // 60_000} min old"
        if (collateral := shown["collateral_age_ms"]) is not None:
            old += f", collateral {collateral // 86_400_000} d old"
        worth = f"{mark}{shown['kind']} at level {v['level']}{status}, {old}: {verdict}"
    there = ("online" if node else "this home, without a node") if v["online"] else "not seen from here"
    there += f" since {v['absent_since']}" if v["absent_since"] else ""
    there += f", last signed height {v['last_signed']}" if v["last_signed"] else ""
    return f"  {v['name'] or v['idao']}  power {v['power']}, {there}; {worth}"
