"""`idao quorum invite / join / accept / leave …`: how people come and go. Registered on `quorum`'s app."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from idao import ui
from idao.commands import open_dao
from idao.errors import UsageError
from idao.grammar import App, Argument, Option

NAME = Annotated[str, Option("--name", help="What you call it here; default: as its founder did.")]


def register(app: App) -> None:
    """The commands of this file, in the order of help."""
    app.command("invite")(_invite)
    app.command("join")(_join)
    app.command("accept")(_accept)
    app.command("leave")(_leave)
    app.command("withdraw")(_withdraw)
    app.command("remove")(_remove)
    app.command("rotate")(_rotate)


def _invite(
    minutes: Annotated[int, Option(min=1, max=1440, help="How long it holds.")] = 10,
    qr: Annotated[bool, Option("--qr", help="Also draw it as a QR code on the terminal.")] = False,
) -> None:
    """Make an invite: one line that lets one newcomer in, once. Needs the running node.

    The line is a secret until it is used: hand it over by a channel you trust. Then: idao quorum accept

    Example: idao quorum invite > invite.txt
    """
    dao = open_dao()
    if ui.options.dry_run:
        ui.result({"dry_run": True}, ["would make an invite"])
        return
    data = dao.joining.invite(minutes)
    ui.say(f"holds for {minutes} min and one newcomer, while this node runs; it is a secret until then")
    ui.hint("they run: idao quorum join; you then compare six words: idao quorum accept")
    if qr:
        _draw(data["invite"])
    ui.result(data, ids=data["invite"])


def _draw(text: str) -> None:
    try:
        import segno
    except ImportError:
        ui.warn("no QR code: the optional part is not installed; pip install 'idao[qr]'")
        return
    segno.make(text.upper(), error="l").terminal(out=sys.stderr, compact=True)


def _join(
    invite: Annotated[
        str, Argument(metavar="[FILE]", help="File with the invite; - is stdin; else you are asked.")
    ] = "",
    peer: Annotated[
        list[str] | None, Option("--peer", metavar="HOST:PORT", help="Where the inviter's node is.")
    ] = None,
    name: NAME = "",
) -> None:
    """Join a quorum by an invite. Both sides see six words; the inviter accepts when they are the same.

    Example: idao quorum join invite.txt
    """
    text = _invite_text(invite)
    if ui.options.dry_run:
        from idao.invite import decode

        taken = decode(text)
        where: dict[str, Any] = {"addresses": list(taken.addresses), "dry_run": True}
        ui.result(where, [f"would join by {', '.join(taken.addresses) or 'the LAN'}"])
        return
    dao = open_dao()
    data = dao.joining.join(text, peers=peer or (), name=name, on_words=_show_words)
    ui.say(f"'{data['name']}' is now what commands mean; your place is taken as soon as the members agree")
    if data["inviter"] and data["inviter"]["name"]:
        ui.say(f"the inviter is called '{data['inviter']['name']}' here: {data['inviter']['idao']}")
    if not data["node"]:
        ui.hint("take part: idao node run")
    ui.result(data, ids=data["quorum"])


def _show_words(words: str) -> None:
    ui.say(f"six words: {words}")
    ui.say("tell them to the inviter, who accepts if the same stand there")


def _invite_text(given: str) -> str:
    """The line, from stdin, a file or a question; as an argument too, with a warning: `ps` shows it."""
    if given == "-":
        return sys.stdin.read(4096)
    if given.lower().startswith("idao1") and not Path(given).exists():
        ui.warn("an invite on the command line can be seen by other users and stays in the shell's history")
        return given
    if given:
        from idao.hall.contribute import read_small

        return read_small(Path(given), "invite")[:4096].decode(errors="replace")
    if not ui.interactive():
        raise UsageError("no invite given", hint="idao quorum join FILE, or - for standard input")
    import getpass

    return getpass.getpass("invite: ", stream=sys.stderr)


def _accept(
    words: Annotated[str, Option("--words", help="The six words on the joiner's screen.")] = "",
    name: Annotated[str, Option("--name", help="What you call it here; default: as it calls itself.")] = "",
    refuse: Annotated[bool, Option("--refuse", help="Turn the newcomer away.")] = False,
    member: Annotated[
        str, Option("--member", metavar="ID", help="Admit one who asks on the ledger already.")
    ] = "",
) -> None:
    """Let a newcomer in whose screen shows the same six words; waits for one up to --wait seconds.

    Without --words you are asked. Alone in founder mode this decides; later it opens a vote of the members.

    Example: idao quorum accept --words 'maple orbit lunar fancy river actor'
    """
    dao = open_dao()
    if member:
        data = dao.joining.admit(dao.resolve_person(member), dry=ui.options.dry_run)
        if ui.options.dry_run:
            ui.result(data, [f"would admit {data['idao']}, or ask the members to"], quiet=[data["idao"]])
        else:
            _tell_admitted(data)
        return
    offer = dao.joining.await_offer(words)
    if ui.options.dry_run:
        told = {key: offer[key] for key in ("idao", "words")}
        ui.result({**told, "claims": offer["name"], "dry_run": True}, [offer["words"]])
        return
    if offer["contested"]:
        ui.warn("somebody else came with the same invite: it is in two hands")
    if refuse:
        done = dao.joining.refuse(offer, "refused by the inviter")
        ui.result(done, [f"turned away {done['idao']}"], quiet=[done["idao"]])
        return
    if not words:
        ui.say(f"{offer['idao']} wants to join and calls itself '{offer['name']}'; its screen must show:")
        ui.say(f"    {offer['words']}")
        if not ui.interactive() and not ui.options.yes:
            raise UsageError(
                "the words must be compared first", hint="give them as read from the joiner: --words '…'"
            )
        ui.confirm("the joiner's screen shows the same six words")
    data = dao.joining.accept(offer, name=name)
    if not name and data["name"] and data["name"] != offer["name"]:
        ui.say(
            f"it calls itself '{offer['name']}', which is taken or no petname: here it is '{data['name']}'"
        )
    _tell_admitted(data)


def _tell_admitted(data: dict[str, Any]) -> None:
    called = f" as '{data['name']}'" if data["name"] else ""
    if data["seat"] == "asking":
        ui.say(f"asked the members: idao vote {data['proposal']} yes")
    else:
        ui.say(f"admitted{called}: it takes its place once its node has caught up")
    ui.result(data, ids=data["idao"])


def _leave() -> None:
    """Give up your seat. The quorum goes on without you; your bond is free after its time.

    Example: idao quorum leave --yes
    """
    dao = open_dao()
    if ui.options.dry_run:
        ui.result({"dry_run": True}, ["would leave the quorum"])
        return
    ui.confirm("you give up your seat in this quorum")
    data = dao.joining.leave()
    when = f"from height {data['free_height']}" if data["free_height"] else "later"
    ui.result(data, [f"left; the bond of {data['bond']} stake is free {when}"], quiet=[data["quorum"]])


def _withdraw(
    member: Annotated[
        str, Argument(metavar="[ID]", help="Whose bond: full id or petname; default: your own.")
    ] = "",
) -> None:
    """Give the bond of a seat that was left back to whoever put it up, once it has answered long enough.

    Example: idao quorum withdraw
    """
    from idao.hall import seats

    data = seats.withdraw(open_dao(), member, dry=ui.options.dry_run)
    verb = "would return" if ui.options.dry_run else "returned"
    lines = [f"{verb} {r['value']} stake to {r['to']}" for r in data["returned"]]
    ui.result(data, lines, quiet=[data["idao"]])


def _remove(
    member: Annotated[str, Argument(metavar="ID", help="Full iDAO id or petname.")],
    force: Annotated[bool, Option("--force", help="Even if too few of the rest are online.")] = False,
) -> None:
    """Take a seat away from one who is lost: opens a vote of the members, with your yes.

    Example: idao quorum remove dora --yes
    """
    from idao.hall import seats

    dao = open_dao()
    data = seats.remove(dao, member, force=force, dry=True)  # refused before anybody is asked
    if ui.options.dry_run:
        ui.result(data, [f"would propose to remove {data['idao']}"], quiet=[data["idao"]])
        return
    ui.confirm(f"'{member}' is to lose its seat in this quorum")
    data = seats.remove(dao, member, force=force)
    if data["seat"] != "removed":
        ui.say(f"asked the members: idao vote {data['proposal']} yes")
    ui.result(data, ids=data["proposal"])


def _rotate() -> None:
    """Give your seat a new validator key, from two blocks on. The node goes on; the old key is destroyed.

    Once a day at most. Your own key, which signs transactions, is replaced by: idao key rotate

    Example: idao quorum rotate
    """
    from idao.hall import seats

    data = seats.rotate(open_dao(), dry=ui.options.dry_run)
    if ui.options.dry_run:
        ui.result(data, [f"would replace {data['replaces']}"])
        return
    when = f"signs from height {data['signs_from']} on" if data["signs_from"] else "signs once you have power"
    ui.say(f"the new key {when}; backups from before hold the old one: make a new backup")
    ui.result(data, ids=data["key"])
