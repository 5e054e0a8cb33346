"""`idao quorum recover`: going on where the old quorum cannot. Registered on `quorum`'s app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from idao import home as homes
from idao import ui
from idao.commands import open_dao
from idao.commands.backup import tell_continued
from idao.commands.phrases import typed_phrase
from idao.errors import UsageError
from idao.grammar import App, Option
from idao.model import show_id
from idao.store import givenfile


def register(app: App) -> None:
    app.command("recover")(_recover)


def _recover(
    phrase_file: Annotated[str, Option("--phrase-file", help="File with the 24 words; - is stdin.")] = "",
    draft: Annotated[
        Path | None,
        Option("--draft", metavar="FILE", help="Write a plan for the others to consent to."),
    ] = None,
    consent: Annotated[
        Path | None,
        Option("--consent", metavar="PLAN", help="Sign the plan of another member; with -o."),
    ] = None,
    out: Annotated[
        Path | None, Option("-o", "--out", metavar="FILE", help="Where the consent is written.")
    ] = None,
    plan: Annotated[
        Path | None, Option("--plan", metavar="PLAN", help="Begin by your own plan; with --with.")
    ] = None,
    given: Annotated[
        list[Path] | None, Option("--with", metavar="FILE", help="A consent to it; may repeat.")
    ] = None,
) -> None:
    """Go on as a new quorum that names the old one: in a copied or moved home, or when too many are away.

    Needs the recovery phrase (or the copy still kept here) and the key. The old ledger stays for reading;
    assets keep their ids. A group named by --quorum goes on in founder mode under a new id, and every proof
    of it says so; the others must join it. Nothing of it is ever taken for the old quorum going on.

    Where the founder's phrase is lost, members who had more than half of the power agree: one drafts a plan,
    the others consent to it, and it begins.

    Example: idao quorum recover --quorum clinic-lan --phrase-file words.txt
    """
    if draft or consent or plan:
        _agree(draft, consent, out, plan, given or [])
    else:
        _by_phrase(phrase_file)


def _by_phrase(phrase_file: str) -> None:
    from idao.crypto import phrase
    from idao.dao import Dao
    from idao.hall import recovery

    o = ui.options
    dao = Dao.open(homes.locate(o.home), quorum=o.quorum, wait_s=o.wait_s, passphrase_file=o.passphrase_file)
    paths = recovery.wanting(dao)
    stake = recovery.at_stake(dao)
    if stake is not None:
        ui.say(
            f"it would go on from height {stake.height}; {stake.behind}; {stake.lost} later blocks are lost"
        )
        for idao in stake.away:
            ui.say(f"must join again: {dao.petname(idao) or show_id('idao', idao)}")
    if o.dry_run:
        ids = [f"quorum:{p.stem}" for p in paths]
        lines = [f"would end {i}" for i in ids] or ["no ledger here was copied or moved"]
        ui.result({"quorums": [], "would_end": ids, "dry_run": True}, lines)
        return
    if not paths:
        ui.say("no ledger here was copied or moved; nothing was changed")
        ui.hint("a group that lost too many for good goes on only if it is named: --quorum NAME")
        ui.result({"quorums": []})
        return
    if not phrase_file and dao.keyring.phrase_kept:
        words = dao.keyring.phrase()
    else:
        words = phrase.read_phrase(typed_phrase(phrase_file))
    if stake is not None:
        ui.confirm("the old quorum ends in this home, for good")
    _tell_all(recovery.recover_here(dao, words))


def _tell_all(done: list[Any]) -> None:
    for c in done:
        tell_continued(c)
    shown = [c.shown() for c in done]
    ui.result({"quorums": shown}, ids=[str(q["quorum"]) for q in shown])


# --- by agreement of the members --------------------------------------------------------------------


def _agree(
    draft: Path | None, consent: Path | None, out: Path | None, plan: Path | None, given: list[Path]
) -> None:
    if sum(x is not None for x in (draft, consent, plan)) != 1:
        raise UsageError("--draft, --consent and --plan are three steps: one at a time")
    if (consent is None) != (out is None) or (given and plan is None):
        raise UsageError("--consent PLAN goes with -o FILE, --plan PLAN with --with FILE")
    if draft is not None:
        _draft(draft)
    elif consent is not None and out is not None:
        _consent(consent, out)
    elif plan is not None:
        _carry(plan, given)


def _draft(path: Path) -> None:
    from idao.hall import continuing

    data, told = continuing.draft(open_dao(), dry=ui.options.dry_run)
    _tell_plan(told)
    if not ui.options.dry_run:
        homes.write_file(path, data, 0o644)
        ui.hint(f"the others, each in their home: idao quorum recover --consent {path} -o FILE")
    _tell(told, path)


def _consent(path: Path, out: Path) -> None:
    from idao.hall import continuing

    dao = open_dao()
    plan = continuing.read_plan(_read(path, "plan"))
    told = continuing.look(dao, plan)
    _tell_plan(told)
    if not ui.options.dry_run:
        ui.confirm("the quorum goes on like this, founded by that member alone")
        homes.write_file(out, continuing.consent(dao, plan), 0o644)
        ui.hint("give the file back to the founder; then join the new quorum: idao quorum join")
    _tell(told, out)


def _carry(path: Path, given: list[Path]) -> None:
    from idao.hall import continuing

    dao = open_dao()
    plan = continuing.read_plan(_read(path, "plan"))
    supporters, told = continuing.gather(dao, plan, [_read(f, "consent") for f in given])
    _tell_plan(told)
    if ui.options.dry_run:
        _tell(told, path)
        return
    ui.confirm("the old quorum ends in this home, for good")
    _tell_all([continuing.carry(dao, plan, supporters)])


def _read(path: Path, what: str) -> bytes:
    from idao.hall.continuing import FILE_BYTES_MAX

    try:
        with givenfile.opened(path) as f:
            return f.read(FILE_BYTES_MAX + 1)
    except OSError as e:
        raise UsageError(f"the {what} '{path}' cannot be read: {e.strerror}") from e


def _tell_plan(told: dict[str, Any]) -> None:
    ui.say(f"'{told['name']}' would go on from height {told['parent_height']} of {told['parent']}")
    ui.say(f"founded by {told['founder']} with all {told['stake']} stake")
    ui.say(f"{told['blocks_lost']} newer blocks here are left behind")
    for change in told["rules"]:
        ui.warn(f"its charter is another than here: {change}")
    ui.say(f"power {told['power']} of {told['total_power']} stands behind it; {told['needed_power']} must")


def _tell(told: dict[str, Any], path: Path) -> None:
    """What was written, or would be, as one line and as JSON."""
    dry = {"dry_run": True} if ui.options.dry_run else {}
    ui.result({"quorums": [], "plan": told, "path": str(path), **dry}, ids=str(path))
