"""`idao quorum why / doctor / forensics` and `idao peer …`: what goes on between the nodes."""

from __future__ import annotations

from typing import Annotated, Any

from idao import ui
from idao.commands import open_dao
from idao.errors import VerificationFailed
from idao.grammar import App, Argument, Exit

peer = App(help="The nodes of the other members, and where they are.")
WHO = Annotated[str, Argument(metavar="ID", help="Full iDAO id or petname.")]


def register(app: App) -> None:
    """The commands of this file that belong to `quorum`."""
    app.command("why")(_why)
    app.command("doctor")(_doctor)
    app.command("forensics")(_forensics)
    app.command("accuse")(_accuse)
    app.command("repair")(_repair)


def _why() -> None:
    """Tell on one screen what the quorum is doing or waiting for, who is missing, and what would help.

    Example: idao quorum why
    """
    data = open_dao().insight.why()
    lines = [data["meaning"], f"height {data['height']}, view {data['view']}, {len(data['waiting'])} waiting"]
    quiet = not any(v["said"] for v in data["validators"])  # then nothing is asked of anybody
    for v in data["validators"]:
        mark = "leads" if v["idao"] == data["leader"] else ""
        said = ", ".join(v["said"]) or ("quiet" if quiet else "silent in this view")
        lines.append(f"  {v['name'] or v['idao']}  {said}  {v['missing'] or mark}".rstrip())
    lines += [f"to go on: {h}" for h in data["help"]]
    ui.result(data, lines, quiet=data["waiting"])


def _doctor() -> None:
    """Check what a quorum needs of this machine and its network. Exit code 6 if something is wrong.

    Example: idao quorum doctor
    """
    data = open_dao().insight.doctor()
    lines = []
    for c in data["checks"]:
        lines.append(f"{'ok  ' if c['ok'] else 'FAIL'}  {c['name']}  {c['detail']}")
        lines += [f"      → {c['hint']}"] if c["hint"] else []
    ui.result(data, lines, quiet=[c["name"] for c in data["checks"] if not c["ok"]])
    if not data["ok"]:
        raise Exit(VerificationFailed.exit_code)


def _forensics() -> None:
    """Name who signed two conflicting messages: on the ledger's record, or shown by certificates kept here.

    Example: idao quorum forensics
    """
    data = open_dao().insight.forensics()
    lines = [
        f"{f['name'] or f['idao']}  {f['kind']} at height {f['height']}, view {f['view']}; "
        f"lost {f['slashed']} stake"
        for f in data["faults"]
    ]
    ui.result(data, lines or ["nobody is known to have signed two things"], quiet=data["guilty"])


def _accuse(
    files: Annotated[list[str], Argument(metavar="FILE…", help="The two messages; - is stdin.")],
) -> None:
    """Report two conflicting messages that one validator signed; its bond answers for it.

    In one file or two: cosigned checkpoints as C2SP notes, or votes as JSON objects with kind (propose,
    notarize, finalize, nullify), height, view, digest (hex; empty for nullify), key (did:key) and signature
    (hex). With --dry-run they are only judged.

    Example: idao quorum accuse votes.json
    """
    from idao.hall.accusing import accuse, read_messages

    data = accuse(open_dao(), [read_messages(f) for f in files], dry=ui.options.dry_run)
    who = data["name"] or data["idao"] or data["key"]
    if ui.options.dry_run:
        ui.result(data, [f"they prove that {who} signed two things ({data['kind']})"], quiet=[data["key"]])
        return
    ui.say(f"recorded: {who} signed two things at height {data['height']}; it lost {data['slashed']} stake")
    ui.result(data, ids=data["tx"])


def _repair() -> None:
    """Set a group's damaged ledger aside and fetch it again from the others. The node must be stopped.

    It signs nothing until they have proven where they stand. The old file is kept.

    Example: idao quorum repair --quorum clinic-lan --yes
    """
    from idao.hall.repair import repair

    dao = open_dao()
    if ui.options.dry_run:
        data = repair(dao, dry=True)
        ui.result(data, [f"would set aside a ledger of {data['height']} blocks"], quiet=[data["quorum"]])
        return
    ui.confirm("the ledger here is set aside and fetched again")
    data = repair(dao)
    ui.hint("the node fetches it: idao node run")
    ui.result(
        data, [f"set aside as {data['kept']}" if data["kept"] else "begun anew"], quiet=[data["quorum"]]
    )


@peer.command("list")
def _list() -> None:
    """List the members of your quorums: whether their nodes are linked, and where they are.

    Example: idao peer list
    """
    rows = open_dao().insight.peers()
    cells = [_cells(p) for p in rows]
    lines = ui.table(("member", "linked", "address", "rtt", "why not"), cells) if rows else ["nobody yet"]
    ui.result({"peers": rows}, lines, quiet=[p["idao"] for p in rows])


def _cells(p: dict[str, Any]) -> tuple[str, ...]:
    where = p["address"] or ", ".join([*p["given"], *p["known"]]) or "not known"
    rtt = f"{p['rtt_us'] / 1000:.1f} ms" if p["rtt_us"] else ""
    return (
        p["name"] or p["idao"],
        "yes" if p["up"] else "no",
        where,
        rtt,
        "" if p["up"] else p["reason"] or "",
    )


@peer.command("add")
def _add(
    who: WHO, address: Annotated[str, Argument(metavar="HOST:PORT", help="Where its node listens.")]
) -> None:
    """Say where a member's node is, for networks that carry no multicast. It is tried first.

    Example: idao peer add bob 192.168.1.20:24326
    """
    from idao.hall.insight import check_address

    data = open_dao().insight.add_peer(who, check_address(address), dry=ui.options.dry_run)
    ui.result(data, [f"known at {', '.join(data['addresses'])}"], ids=data["idao"])


@peer.command("remove")
def _remove(who: WHO) -> None:
    """Forget the addresses that were given for a member. Those that its node tells stay.

    Example: idao peer remove bob
    """
    data = open_dao().insight.remove_peer(who, dry=ui.options.dry_run)
    ui.result(data, ids=data["idao"])
