"""`idao quorum …`."""

from __future__ import annotations

from typing import Annotated

import typer

from idao import home as homes
from idao import ui
from idao.commands.backup import tell_continued
from idao.commands.phrases import typed_phrase

quorum = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    help="Groups of validators that run one ledger.",
)


@quorum.callback()
def _group() -> None:
    pass


@quorum.command("recover")
def _recover(
    phrase_file: Annotated[
        str, typer.Option("--phrase-file", help="File with the 24 words; - is stdin.")
    ] = "",
) -> None:
    """Go on in a home that was copied or moved, as a new quorum of one that names the old one.

    Needs the recovery phrase (or the copy still kept here) and the key. The old ledger stays for reading;
    assets keep their ids.

    Example: idao quorum recover --phrase-file words.txt
    """
    from idao.crypto import phrase
    from idao.dao import Dao
    from idao.hall import recovery

    o = ui.options
    dao = Dao.open(homes.locate(o.home), quorum=o.quorum, wait_s=o.wait_s, passphrase_file=o.passphrase_file)
    paths = recovery.wanting(dao)
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
    done = recovery.recover_here(dao, words)
    for c in done:
        tell_continued(c)
    shown = [c.shown() for c in done]
    ui.result({"quorums": shown}, ids=[str(q["quorum"]) for q in shown])
