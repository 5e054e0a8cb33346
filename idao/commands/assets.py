"""`idao contribute` and `idao asset …`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from idao import home as homes
from idao import ui
from idao.commands import open_dao
from idao.errors import Pending, UsageError, VerificationFailed
from idao.grammar import App, Argument, Exit, Option

if TYPE_CHECKING:
    from idao.dao import Dao

contribute = App()
asset = App(help="Read, restore, verify and delete assets.")
_Asset = Annotated[str, Argument(metavar="ASSET", help="Id, prefix or name; ASSET@2 names a version.")]


@contribute.command()
def _contribute(
    paths: Annotated[list[str], Argument(metavar="PATH…", help="Files or folders; - is stdin.")],
    kind: Annotated[str, Option(help="dataset, model, agent, flow, pov or result.")] = "dataset",
    category: Annotated[str, Option(help="What data it is (tabular, text, …); else detected.")] = "",
    name: Annotated[str, Option(help="What you call it; the same name, or path, means a new version.")] = "",
    license: Annotated[str, Option(help="SPDX licence expression.")] = "",
    policy: Annotated[Path | None, Option(help="Terms of use (ODRL); default: nobody but you.")] = None,
    parent: Annotated[list[str] | None, Option(help="Asset it was made from; may repeat.")] = None,
    card: Annotated[Path | None, Option(help="Your own card (Croissant JSON-LD).")] = None,
    label: Annotated[list[str] | None, Option(help="Column that holds a label; may repeat.")] = None,
    skip_unreadable: Annotated[
        bool, Option("--skip-unreadable", help="Leave out what cannot be read, and say so.")
    ] = False,
    why: Annotated[bool, Option("--why", help="Say why this quorum, and who is to review it.")] = False,
) -> None:
    """Take in files or folders: stored encrypted, registered on a quorum you trust, reviewed.

    The quorum is chosen by your trust links, unless --quorum names it; a new version stays with its asset.

    Example: idao contribute clinic/ --category tabular --license CC-BY-4.0 --name "clinic 2026"
    """
    from idao.hall.contribute import Wish

    wish = Wish(
        kind, category, name, license, policy, card, tuple(parent or ()), tuple(label or ()), skip_unreadable
    )
    dao = open_dao()
    if ui.options.dry_run:
        plan = dao.assets.plan(paths, wish)
        follows = (
            f"version {plan['version']} of {plan['asset']}, if it has changed"
            if "asset" in plan
            else "a new asset"
        )
        lines = [f"would make {follows}"]
        lines += [f"public  {key}: {value}" for key, value in plan["public"].items()]
        lines += [f"hidden  {what}" for what in plan["hidden"]]
        lines += routed(plan) if why else [f"quorum  {plan['quorum']}"]
        ui.result({**plan, "dry_run": True}, lines)
        _tell_name(plan, plan["public"]["name"])
        return
    dao.keys()  # asks for the passphrase before a bar is drawn
    with ui.progress("contribute") as bar:
        try:
            data = dao.assets.contribute(paths, wish, bar)
        except Pending as e:
            answer: dict[str, Any] = dict(e.answer or {})
            if why and "coordinator" in answer:
                for line in routed(answer):
                    ui.say(line)
            _tell_name(answer, name)
            raise
    if why and not data["unchanged"]:
        for line in routed(data):
            ui.say(line)
    _tell(data)
    _tell_name(data, name)
    ui.result(data, ids=data["asset"])


def routed(data: dict[str, Any]) -> list[str]:
    """Why a contribution goes where it goes: the chosen quorum first."""
    from idao.quorum.coordinator import CONFLICTS, OUT, WHY

    lines = []
    for v in data["coordinator"]["candidates"]:
        name = f"{v['name'] or 'unnamed'} {v['quorum']}"
        if v["out"]:
            lines.append(f"passed over  {name}: {OUT[v['out']]}")
            continue
        if v["quorum"] == data["quorum"]:
            lines.append(f"chosen       {name}: {WHY[data['coordinator']['why']]}")
        else:
            lines.append(f"possible     {name}{': it stands still' if v['stalled'] else ''}")
        for number, asked in enumerate(v["rounds"], 1):
            lines.append(f"  reviewers, round {number}: {', '.join(asked)}")
        if not v["rounds"]:
            lines.append("  reviewers: nobody but its owner")
        lines += [f"  not {c['idao']}: {CONFLICTS[c['why']]}" for c in v["conflicts"]]
    return lines


def _tell(data: dict[str, Any]) -> None:
    for skipped in data["skipped"]:
        ui.warn(f"left out {skipped['path']}: {skipped['why']}")
    if data["unchanged"]:
        ui.say(f"unchanged since version {data['version']}; nothing was registered")
        return
    ui.say(f"read      {data['files']} files, {ui.size(data['bytes'])}, {ui.size(data['new_bytes'])} new")
    ui.say(f"{data['status']:<9} version {data['version']} at height {data['height']}")
    by = "its owner alone" if not data["independent_reviews"] else f"{data['independent_reviews']} others"
    verdict = "verified" if data["verified"] else "not verified"
    ui.say(f"reviewed  {ui.bp(data['score'])}, {verdict}, by {by}")
    ui.hint(f"see why: idao asset show {data['asset']} --why{_elsewhere(data['quorum'])}")


def _tell_name(data: dict[str, Any], name: str) -> None:
    """A new name for an asset that is known by its path: a second asset may have been meant."""
    if "renamed_from" in data:
        ui.warn(
            f"this path is the asset '{data['renamed_from']}' already: "
            f"version {data['version']} of it is called '{name}'"
        )


def _elsewhere(quorum: str) -> str:
    """The option that a command needs to look at `quorum`, if it is not the home's default."""
    default = str(homes.Home.open(homes.locate(ui.options.home)).get("quorum", "default", ""))
    return "" if quorum == default else f" --quorum {quorum}"


@asset.command("list")
def _list(all: Annotated[bool, Option("--all", help="Also assets of others.")] = False) -> None:
    """List your assets.

    Example: idao asset list --json
    """
    found = open_dao().assets.listing(everyone=all)
    rows = [
        (
            a["asset"],
            a["name"],
            a["kind"],
            str(a["version"]),
            ui.bp(a["score"]),
            "yes" if a["verified"] else "no",
        )
        for a in found
    ]
    head = ("asset", "name", "kind", "version", "score", "verified")
    ui.result({"assets": found}, ui.table(head, rows), quiet=[a["asset"] for a in found])


@asset.command("show")
def _show(
    asset: _Asset, why: Annotated[bool, Option("--why", help="The score card in words.")] = False
) -> None:
    """Show what the ledger says of an asset; with --why its score card and how to improve it.

    Example: idao asset show clinic --why
    """
    dao = open_dao()
    if why:
        lines = dao.assets.why(asset)
        ui.result({**dao.assets.show(asset), "why": lines}, lines)
        return
    data = dao.assets.show(asset)
    shown = (
        "asset",
        "name",
        "version",
        "owner",
        "kind",
        "category",
        "license",
        "verified",
        "score",
        "policy",
    )
    plain = {**data, "verified": "yes" if data["verified"] else "no", "score": ui.bp(data["score"])}
    lines = [f"{key:<9} {plain[key]}" for key in shown]
    lines += [f"parent    {p['asset']}@{p['version']}" for p in data["lineage"]]
    for r in data["reviews"]:
        by = r["reviewer"] if r["independent"] else "its owner alone"
        backed = "" if r["level"] == "none" else f", backed by hardware ({r['level']})"
        lines.append(f"review    {ui.bp(r['score'])} by {by}, {r['assessor']}{backed}")
    lines += [f"score     {name}: {ui.bp(points)}" for name, points in data["scores"].items()]
    ui.result(data, lines, quiet=[data["asset"]])


@asset.command("get")
def _get(
    asset: _Asset,
    out: Annotated[Path, Option("-o", "--out", help="Folder to write into.")] = Path("."),
    file: Annotated[list[str] | None, Option(help="Only this file of it; may repeat.")] = None,
) -> None:
    """Restore an asset's files, every byte verified. Nothing that exists is overwritten.

    Example: idao asset get clinic -o restored
    """
    dao = open_dao()
    if ui.options.dry_run:
        found, version = dao.assets.find(asset)
        from idao.model import show_id

        plan = {"asset": show_id("asset", found), "version": version, "path": str(out), "dry_run": True}
        ui.result(plan, [f"would restore {plan['asset']}@{version} into {out}"])
        return
    dao.keys()
    with ui.progress("restore") as bar:
        data = dao.assets.get(asset, out, file or (), bar)
    ui.say(f"restored {data['files']} files into {data['path']}")
    ui.result(data, ids=str(data["path"]))


@asset.command("check")
def _check(
    asset: Annotated[
        str, Argument(metavar="[ASSET]", help="Only this asset; without one, everything stored.")
    ] = "",
) -> None:
    """Read what is stored again and verify every byte. Exit code 6 if anything is damaged.

    Without an asset: contents, home.db, keys and settings. Ledgers are what 'idao audit' checks.

    Example: idao asset check
    """
    dao = open_dao()
    dao.keys()
    with ui.progress("check") as bar:
        findings = dao.assets.check(asset, bar)
    data = {"ok": not findings, "findings": [{"where": where, "what": what} for where, what in findings]}
    sound = "all contents verify" + ("" if asset else ", and so do keys and settings")
    lines = [f"{where}: {what}" for where, what in findings] or [sound]
    ui.result(data, lines)
    if findings:
        raise Exit(VerificationFailed.exit_code)


@asset.command("forget")
def _forget(
    asset: Annotated[str, Argument(metavar="[ASSET]", help="Id, prefix or name.")] = "",
    unregistered: Annotated[
        bool,
        Option("--unregistered", help="What was taken in and is on no ledger: left by runs cut short."),
    ] = False,
) -> None:
    """Destroy the keys of an asset's contents and free their space. Its record stays on the ledger.

    Example: idao asset forget clinic --yes
    """
    if unregistered == bool(asset):
        raise UsageError("an asset, or --unregistered: one of the two", hint="idao asset list")
    dao = open_dao()
    if unregistered:
        _forget_unregistered(dao)
        return
    found, _ = dao.assets.find(asset)
    from idao.model import show_id

    name = show_id("asset", found)
    if ui.options.dry_run:
        plan = {"asset": name, "forgotten": False, "dry_run": True}
        ui.result(plan, [f"would destroy the contents of {name}"])
        return
    ui.confirm(f"the contents of {name} will be gone for ever")
    data = dao.assets.forget(asset)
    ui.say(f"forgot {data['versions']} versions, {ui.size(data['freed_bytes'])} freed")
    ui.result({**data, "forgotten": True}, ids=name)


def _forget_unregistered(dao: Dao) -> None:
    from idao.hall import leftovers

    plan = leftovers.free(dao, dry=True)
    lines = [
        f"{one['manifest'][:12]}  taken {one['taken']}"
        + ("" if one["files"] is None else f"  {one['files']} files, {ui.size(one['bytes'])}")
        for one in plan["unregistered"]
    ]
    freed = ui.size(plan["freed_bytes"])
    if ui.options.dry_run:
        more = [f"would free {freed}"] if plan["freed_bytes"] else []
        found = [one["manifest"] for one in plan["unregistered"]]
        said = lines + more or ["nothing was left over"]
        ui.result({**plan, "forgotten": False, "dry_run": True}, said, quiet=found)
        return
    if lines or plan["freed_bytes"]:
        ui.confirm(f"{len(lines)} versions on no ledger will be gone for ever, {freed} freed")
    data = leftovers.free(dao)
    ui.say(f"forgot {data['versions']} versions, {ui.size(data['freed_bytes'])} freed")
    ui.result({**data, "forgotten": bool(data["versions"] or data["freed_bytes"])})


@asset.command("history")
def _history(asset: _Asset) -> None:
    """List the versions of an asset, newest first, with what each was made from.

    Example: idao asset history clinic
    """
    rows = open_dao().assets.history(asset)
    table = [
        (str(r["version"]), str(r["height"]), ui.size(r["size"]), ui.bp(r["score"]), r["root"][:16])
        for r in rows
    ]
    ui.result({"versions": rows}, ui.table(("version", "height", "size", "score", "root"), table))
