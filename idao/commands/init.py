"""`idao init` and `idao status`."""

from __future__ import annotations

from typing import Annotated, Any

from idao import home as homes
from idao import ui
from idao.commands import open_dao
from idao.errors import UsageError
from idao.grammar import App, Option

init = App()
status = App()


@init.command()
def _init(
    name: Annotated[str, Option(help="What you call your iDAO.")] = "",
    domain: Annotated[str, Option(help="Its field, as a default category: medical, text, …")] = "",
    no_passphrase: Annotated[
        bool, Option("--no-passphrase", help="Keep the keys without a passphrase.")
    ] = False,
) -> None:
    """Create your iDAO: a key, a charter, and a quorum of one. Offline. Safe to run twice.

    Example: idao init --name clinic
    """
    from idao.hall import founding
    from idao.model import show_id

    path = homes.locate(ui.options.home)
    if no_passphrase and ui.options.passphrase_file:
        raise UsageError("--no-passphrase and --passphrase-file contradict each other")
    if (path / "config.toml").exists():
        ui.say("there is an iDAO here already; nothing was changed")
        from idao.dao import Dao

        founded = founding.describe(Dao.open(path))
    else:
        name = founding.check_name(name or homes.user_name())
        founding.check_free(path)
        if ui.options.dry_run:
            plan = {"home": str(path), "name": name, "created": False, "dry_run": True}
            ui.result(plan, [f"would create '{name}' in {path}"])
            return
        passphrase = None
        if not no_passphrase:
            passphrase = homes.read_passphrase(
                ui.options.passphrase_file, "new passphrase for your keys: ", confirm=True
            )
        if path.is_dir() and any(path.iterdir()):
            ui.warn(f"'{path}' holds other files already; the home is made beside them")
        founded = founding.create(path, name=name, domain=domain or None, passphrase=passphrase)
        _tell(founded, no_passphrase)
    data = {
        "idao": show_id("idao", founded.idao),
        "quorum": show_id("quorum", founded.quorum),
        "key": founded.key,
        "home": str(founded.home),
        "name": founded.name,
        "created": founded.created,
    }
    lines = [f"quorum  {data['quorum']}", f"key     {data['key']}", f"home    {data['home']}"]
    ui.result(data, lines, ids=str(data["idao"]))


def _tell(founded: Any, no_passphrase: bool) -> None:
    if no_passphrase:
        ui.warn("the keys are kept without a passphrase: whoever reads the home is you")
    ui.say("the recovery phrase restores your identity on a new machine, not your data: back that up too")
    if ui.interactive():
        ui.say("write these 24 words on paper, in this order:")
        words = founded.words.split()
        for start in range(0, 24, 6):
            ui.say("    " + " ".join(f"{i + 1}.{w}" for i, w in enumerate(words[start : start + 6], start)))
        ui.say("when they are written down: idao key phrase --done")
    else:
        ui.say("see it on a terminal and write it down: idao key phrase")
    ui.say("next: idao contribute FOLDER; idao mint ASSET; idao status")


@status.command()
def _status() -> None:
    """Show who you are, which ledgers you have, their heights, what is pending, and what needs you.

    Example: idao status --json
    """
    data = open_dao().ledgers.status()
    lines = [f"{data['name']}  {data['idao']}"]
    lines += ui.table(
        ("quorum", "name", "height", "anchored", "pending"),
        [
            (q["quorum"], q["name"], str(q["height"]), str(q["anchored"]), str(q["pending"]))
            for q in data["quorums"]
        ],
    )
    for q in data["quorums"]:
        if q["standing"] == "ended":
            lines.append(
                f"{q['name'] or q['quorum']} ended at height {q['height']}, continued by {q['continued_by']}"
            )
        elif q["standing"] == "quarantined":
            lines.append(f"{q['name'] or q['quorum']} is a copy: nothing is signed in it")
    names = {q["quorum"]: q["name"] or q["quorum"] for q in data["quorums"]}
    several = len({b["quorum"] for b in data["balances"]}) > 1
    for b in data["balances"]:
        where = f" in {names[b['quorum']]}" if several else ""
        lines.append(f"balance  {b['value']} {b['unit_name']}{where}")
    for need in data["needs"]:
        ui.hint(need)
    ui.result(data, lines, quiet=[q["quorum"] for q in data["quorums"]])
