"""`idao quorum …`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from idao import home as homes
from idao import ui
from idao.commands import PLAIN, insight, joining, open_dao
from idao.commands.backup import tell_continued
from idao.commands.phrases import typed_phrase
from idao.model import show_id

quorum = typer.Typer(
    **PLAIN,
    no_args_is_help=True,
    help="Groups of validators that run one ledger.",
)


@quorum.callback()
def _group() -> None:
    pass


@quorum.command("create")
def _create(name: Annotated[str, typer.Option("--name", help="What members call it.")]) -> None:
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
        str, typer.Argument(metavar="[QUORUM]", help="Name or id; default: --quorum, or the home's own.")
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
        *(_validator_line(v) for v in data["validators"]),
        *(f"  {j['name'] or j['idao']}  {j['state']}" for j in data["joining"]),
        *(f"  alarm at {a['time']}: {a['why']}" for a in data["alarms"]),
    ]
    ui.result(data, lines, quiet=[data["quorum"]])


def _validator_line(v: dict[str, Any]) -> str:
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
    there = "online" if v["online"] else "not seen from here"
    return f"  {v['name'] or v['idao']}  power {v['power']}, {there}; {worth}"


@quorum.command("recover")
def _recover(
    phrase_file: Annotated[
        str, typer.Option("--phrase-file", help="File with the 24 words; - is stdin.")
    ] = "",
) -> None:
    """Go on as a new quorum that names the old one: in a copied or moved home, or when too many are away.

    Needs the recovery phrase (or the copy still kept here) and the key. The old ledger stays for reading;
    assets keep their ids. A group named by --quorum goes on in founder mode under a new id, and every proof
    of it says so; the others must join it. Nothing of it is ever taken for the old quorum going on.

    Example: idao quorum recover --quorum clinic-lan --phrase-file words.txt
    """
    from idao.crypto import phrase
    from idao.dao import Dao
    from idao.hall import recovery

    o = ui.options
    dao = Dao.open(homes.locate(o.home), quorum=o.quorum, wait_s=o.wait_s, passphrase_file=o.passphrase_file)
    paths = recovery.wanting(dao)
    stake = recovery.at_stake(dao)
    if stake is not None:
        ui.say(f"it would go on from height {stake.height}; {stake.behind}; {stake.lost} blocks are left")
        for idao in stake.away:
            ui.say(f"must join again: {dao.petname(idao) or show_id('idao', idao)}")
    if o.dry_run:
        ids = [f"quorum:{p.stem}" for p in paths]
        ui.result({"quorums": [], "would_end": ids, "dry_run": True}, [f"would end {i}" for i in ids])
        return
    if not paths:
        ui.say("no ledger here was copied or moved; nothing was changed")
        ui.result({"quorums": []})
        return
    if not phrase_file and dao.keyring.phrase_kept:
        words = dao.keyring.phrase()
    else:
        words = phrase.read_phrase(typed_phrase(phrase_file))
    if stake is not None:
        ui.confirm("the old quorum ends in this home, for good")
    done = recovery.recover_here(dao, words)
    for c in done:
        tell_continued(c)
    shown = [c.shown() for c in done]
    ui.result({"quorums": shown}, ids=[str(q["quorum"]) for q in shown])
