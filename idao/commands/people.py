"""`idao member …`, `idao trust …`, `idao name …`."""

from __future__ import annotations

from typing import Annotated, Any

from idao import ui
from idao.commands import open_dao
from idao.grammar import App, Argument, Option

member = App(help="People of an iDAO.")
trust = App(help="Which quorums this iDAO trusts, and for what.")
name = App(help="Local petnames for ids: nobody else sees them.")

_Quorum = Annotated[
    str, Argument(metavar="QUORUM", help="Full id, petname, or the name of a ledger of this home.")
]


# --- member -----------------------------------------------------------------------------------------


@member.command("add")
def _add(
    name: Annotated[str, Argument(metavar="NAME", help="What you call this person, here.")],
    idao: Annotated[
        str, Option("--id", metavar="IDAO", help="Their iDAO; without it a new one is made here.")
    ] = "",
    role: Annotated[str, Option(help="owner, member or observer.")] = "member",
    weight: Annotated[int, Option(min=0, help="Votes in the weighted method.")] = 1,
) -> None:
    """Add a member: proposes it and votes yes, which is all it takes where you decide alone.

    Without --id a new identity is made for them and its key is kept in this home: for testing and small
    teams, because whoever can open this home can sign for them.

    Example: idao member add ana --role member
    """
    data = open_dao().people.add_member(name, idao=idao, role=role, weight=weight, dry=ui.options.dry_run)
    if ui.options.dry_run:
        who = data["member"] or "a new identity, its key kept in this home"
        ui.result(data, [f"would add {name} as {role}: {who}"])
        return
    if data["key_here"]:
        ui.say(f"the key of '{name}' is in this home: idao vote PROPOSAL yes --as {name}")
    ui.result(data, _decided(data), ids=data["member"])


@member.command("remove")
def _remove(
    name: Annotated[str, Argument(metavar="NAME|ID", help="Petname or full iDAO id.")],
) -> None:
    """Remove a member: proposes it and votes yes. A key kept in this home stays.

    Example: idao member remove ana --yes
    """
    dao = open_dao()
    if ui.options.dry_run:
        data = dao.people.remove_member(name, dry=True)
        ui.result(data, [f"would remove {data['member']}"])
        return
    dao.people.find_member(name)
    ui.confirm(f"'{name}' will lose every right in this iDAO, votes that are open included")
    data = dao.people.remove_member(name)
    ui.result(data, _decided(data), ids=data["member"])


def _decided(data: dict[str, Any]) -> list[str]:
    """What came of the proposal behind it."""
    if data["state"] == "open":
        ui.hint(f"others must vote too: idao vote {data['proposal']} yes --as MEMBER")
    state = f"{data['state']} ({data['code']})" if data["code"] else data["state"]
    return [f"proposal  {data['proposal']}", f"state     {state}"]


@member.command("list")
def _members(
    idao: Annotated[str, Option("--for", metavar="IDAO", help="Of another iDAO on the ledger.")] = "",
) -> None:
    """List the members, with roles and weights.

    Example: idao member list --json
    """
    found = open_dao().people.members(idao)
    rows = [
        (
            m["member"],
            m["name"],
            m["role"],
            str(m["weight"]),
            str(m["since"]),
            "here" if m["key_here"] else "elsewhere",
        )
        for m in found
    ]
    lines = ui.table(("member", "name", "role", "weight", "since", "key"), rows)
    ui.result({"members": found}, lines, quiet=[m["member"] for m in found])


# --- trust ------------------------------------------------------------------------------------------


@trust.command("add")
def _trust(
    quorum: _Quorum,
    kind: Annotated[list[str] | None, Option(help="Only for this kind of asset; may repeat.")] = None,
    category: Annotated[list[str] | None, Option(help="Only for this category of data; may repeat.")] = None,
    weight: Annotated[int, Option(help="Against other trusted quorums, from 1 to 10000.")] = 1,
) -> None:
    """Trust a quorum, or change the scope of the trust there is. A record on the ledger.

    Example: idao trust add quorum:… --kind dataset --category medical --weight 10
    """
    dry = ui.options.dry_run
    data = open_dao().people.trust(
        quorum, kinds=kind or (), categories=category or (), weight=weight, dry=dry
    )
    if dry:
        ui.result(data, [f"would trust {data['quorum']} for {_scope(data)}"])
        return
    ui.say(f"trusted for {_scope(data)}")
    ui.result(data, ids=data["quorum"])


def _scope(data: dict[str, Any]) -> str:
    kinds = ", ".join(data["kinds"]) or "every kind"
    return f"{kinds}; {', '.join(data['categories']) or 'every category'}; weight {data['weight']}"


@trust.command("list")
def _links() -> None:
    """List the quorums that this iDAO trusts, and for what.

    Example: idao trust list
    """
    found = open_dao().people.trusted()
    rows = [
        (
            t["quorum"],
            t["name"],
            " ".join(t["kinds"]) or "all",
            " ".join(t["categories"]) or "all",
            str(t["weight"]),
        )
        for t in found
    ]
    lines = ui.table(("quorum", "name", "kinds", "categories", "weight"), rows)
    ui.result({"trust": found}, lines, quiet=[t["quorum"] for t in found])


@trust.command("remove")
def _distrust(quorum: _Quorum) -> None:
    """Take trust in a quorum back.

    Example: idao trust remove quorum:… --yes
    """
    people = open_dao().people
    data = people.distrust(quorum, dry=True)
    if ui.options.dry_run:
        ui.result({**data, "dry_run": True}, [f"would no longer trust {data['quorum']}"])
        return
    ui.confirm(f"{data['quorum']} will no longer be trusted")
    data = people.distrust(quorum)
    ui.result(data, ids=data["quorum"])


# --- name -------------------------------------------------------------------------------------------


@name.command("add")
def _name(
    name: Annotated[str, Argument(metavar="NAME", help="Letters, digits, - and _.")],
    id_: Annotated[str, Argument(metavar="ID", help="Full id of any kind.")],
) -> None:
    """Give an id a local name.

    Example: idao name add ana idao:…
    """
    data = open_dao().people.add_name(name, id_, dry=ui.options.dry_run)
    if ui.options.dry_run:
        ui.result({**data, "dry_run": True}, [f"would call {data['id']} {name}"])
        return
    ui.result(data, ids=data["id"])


@name.command("list")
def _names() -> None:
    """List the petnames of this home.

    Example: idao name list
    """
    found = open_dao().people.names()
    lines = ui.table(("name", "kind", "id"), [(n["name"], n["kind"], n["id"]) for n in found])
    ui.result({"names": found}, lines, quiet=[n["id"] for n in found])


@name.command("remove")
def _unname(name: Annotated[str, Argument(metavar="NAME", help="The petname.")]) -> None:
    """Remove a petname; what it named stays.

    Example: idao name remove ana --yes
    """
    people = open_dao().people
    data = people.remove_name(name, dry=True)
    if ui.options.dry_run:
        ui.result({**data, "dry_run": True}, [f"would forget the name of {data['id']}"])
        return
    ui.confirm(f"'{name}' will no longer stand for {data['id']}")
    data = people.remove_name(name)
    ui.result(data, ids=data["id"])
