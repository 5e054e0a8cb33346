"""`idao backup …`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

from idao import home as homes
from idao import ui
from idao.commands.phrases import typed_phrase
from idao.errors import UsageError, VerificationFailed
from idao.grammar import App, Argument, Exit, Option

backup = App(
    help="Make, verify and restore backups: one encrypted file each.",
)
_PHRASE_FILE = "File with the 24 words; - is stdin."


@backup.command("create")
def _create(
    out: Annotated[
        Path | None, Option("-o", "--out", metavar="FILE|DIR", help="Where to write it; default: here.")
    ] = None,
) -> None:
    """Write the whole home into one encrypted file. Needs no secret, and works while a node runs.

    The recovery phrase opens it; with --passphrase-file the passphrase does so too. Exit code 6 if the home
    lacks something that should be in it.

    Example: idao backup create -o clinic.idao-backup
    """
    from idao.dao import Dao
    from idao.hall import packing

    o = ui.options
    dao = Dao.open(homes.locate(o.home), wait_s=o.wait_s, passphrase_file=o.passphrase_file)
    path = _target(dao.home, out)
    if o.dry_run:
        ui.result({"path": str(path), "dry_run": True}, [f"would write {path}"])
        return
    if path.exists():
        ui.confirm(f"'{path}' exists and will be replaced")
    with ui.progress("backup") as bar:
        made = packing.create(dao, path, with_passphrase=_passphrase_given(), progress=bar)
    if not made.noted:
        ui.warn("the home cannot be written: it will not remember this backup")
    for name in made.missing:
        ui.warn(f"{name} is missing: what was in it is not in the backup either")
    opens = ["phrase", "passphrase"] if made.passphrase else ["phrase"]
    data = {
        "path": str(made.path),
        "bytes": made.size,
        "made": homes.show_time(made.made_ms),
        "ledgers": made.ledgers,
        "packs": made.packs,
        "opens_with": opens,
        "missing": list(made.missing),
    }
    ui.say(f"{ui.size(made.size)}; opens with the {' or the '.join(opens)}")
    ui.say(
        f"see that it can be restored: idao backup verify {shlex.quote(str(made.path))} --phrase-file FILE"
    )
    ui.result(data, ids=str(made.path))
    if made.missing:
        raise Exit(VerificationFailed.exit_code)


def _target(home: homes.Home, out: Path | None) -> Path:
    from idao.hall import packing

    path = out or Path()
    if path.is_dir():
        path = packing.new_file(home, path, homes.now_ms())
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder '{path.parent}'")
    if path.exists() and not path.is_file():
        raise UsageError(f"'{path}' is not a file")
    return path


def _passphrase_given() -> bool:
    """Whether the keys open without asking: nothing of a backup may wait for somebody at a terminal."""
    given = ui.options.passphrase_file
    return bool(given or os.environ.get("IDAO_PASSPHRASE_FILE") or os.environ.get("IDAO_PASSPHRASE_COMMAND"))


@backup.command("verify")
def _verify(
    file: Annotated[Path, Argument(metavar="FILE", help="The backup.")],
    phrase_file: Annotated[str, Option("--phrase-file", help=_PHRASE_FILE)] = "",
) -> None:
    """Check a backup. Exit code 6 if anything is wrong with it.

    Without a secret: every byte. With the phrase, or the passphrase if it opens this backup: a whole restore
    in a temporary folder (TMPDIR), where each ledger is audited and each chunk opened.

    Example: idao backup verify clinic.idao-backup --phrase-file words.txt
    """
    from idao.crypto import phrase
    from idao.hall import backup as backups
    from idao.model import show_id

    opener = None
    if phrase_file:
        opener = backups.Opener(words=phrase.read_phrase(typed_phrase(phrase_file)))
    with ui.progress("verify") as bar:
        header = backups.inspect(file, None if opener else bar)
        if opener is None and header.lock and _passphrase_given():
            opener = backups.Opener(passphrase=homes.read_passphrase(ui.options.passphrase_file, ""))
        own, checks = None, [backups.Check("bytes", True, "every byte is as it was written")]
        if opener is not None:
            own, found = backups.drill(file, opener, bar)
            checks += found
    ok = all(c.ok for c in checks)
    if own is not None and ok and not ui.options.dry_run:
        backups.note_verified(homes.locate(ui.options.home), own)
    data: dict[str, Any] = {
        "ok": ok,
        "path": str(file),
        "made": homes.show_time(header.made_ms),
        "idao": show_id("idao", own) if own else None,
        "drill": opener is not None,
        "checks": [c.shown() for c in checks],
    }
    lines = [f"{'ok  ' if c.ok else 'FAIL'}  {c.name}  {c.detail}" for c in checks]
    if opener is None:
        ui.hint("this shows that the file is whole; that it can be restored: add --phrase-file FILE")
    ui.result(data, lines, quiet=[c.name for c in checks if not c.ok])
    if not ok:
        raise Exit(VerificationFailed.exit_code)


@backup.command("restore")
def _restore(
    file: Annotated[Path, Argument(metavar="FILE", help="The backup.")],
    phrase_file: Annotated[str, Option("--phrase-file", help=_PHRASE_FILE)] = "",
    name: Annotated[str, Option(help="Another name for the restored iDAO.")] = "",
    new_passphrase_file: Annotated[
        Path | None,
        Option("--new-passphrase-file", help="File whose first line is to lock the keys from now on."),
    ] = None,
    no_passphrase: Annotated[
        bool, Option("--no-passphrase", help="Keep the keys without a passphrase from now on.")
    ] = False,
) -> None:
    """Restore a backup into an empty home (--home DIR). Needs the recovery phrase, or the passphrase.

    Your ledgers end where the backup left them and go on as NAME-r1, whose genesis names the old one: so two
    restored copies never sign two histories of one chain. Assets keep their ids; tokens, balances and members
    stay behind in the old ledger, which is kept for reading. The passphrase stays unless you give a new one.

    With the passphrase alone, if it opens this backup: all can be read, nothing signed until you have run
    'idao quorum recover' with the phrase.

    Example: idao backup restore clinic.idao-backup --home /srv/clinic --phrase-file words.txt
    """
    from idao.crypto import phrase
    from idao.hall import backup as backups
    from idao.hall import founding

    if no_passphrase and new_passphrase_file is not None:
        raise UsageError("a new passphrase, or none: not both")
    path = homes.locate(ui.options.home)
    if name:
        founding.check_name(name)
    backups.require_empty(path)
    header = backups.inspect(file)
    if not phrase_file and header.lock and _passphrase_given():
        opener = backups.Opener(passphrase=homes.read_passphrase(ui.options.passphrase_file, ""))
    else:
        opener = backups.Opener(words=phrase.read_phrase(typed_phrase(phrase_file)))
    new = homes.read_passphrase(str(new_passphrase_file), "") if new_passphrase_file else None
    if ui.options.dry_run:
        backups.check_opener(header, opener)
        data = {"home": str(path), "made": homes.show_time(header.made_ms), "dry_run": True}
        ui.result(data, [f"would restore the backup of {data['made']} to {path}"], ids=str(path))
        return
    with ui.progress("restore") as bar:
        restored = backups.restore(
            file,
            path,
            opener,
            name=name or None,
            relock=no_passphrase or new is not None,
            passphrase=new,
            wait_s=ui.options.wait_s,
            progress=bar,
        )
    if opener.words is None:
        ui.say("the ledgers can be read; to go on, with the phrase: idao quorum recover --phrase-file FILE")
    _tell(restored)


def _tell(restored: Any) -> None:
    from idao.model import show_id

    for c in restored.quorums:
        tell_continued(c)
    for quorum in restored.waiting:
        ui.warn(
            f"{show_id('quorum', quorum)} has other validators: from this copy nothing is signed there until"
            " they have told where they stand; its node asks them: idao node run"
        )
    for finding in restored.findings:
        ui.warn(f"restored, but damaged: {finding.detail}")
    ui.say("if the old home may be in other hands: idao key rotate")
    data = {
        "ok": not restored.findings,
        "idao": show_id("idao", restored.idao),
        "name": restored.name,
        "home": str(restored.home),
        "made": homes.show_time(restored.made_ms),
        "quorums": [c.shown() for c in restored.quorums],
        "waiting": [show_id("quorum", q) for q in restored.waiting],
        "checks": [c.shown() for c in restored.findings],
    }
    lines = [f"quorum  {q['quorum']}  {q['name']}" for q in data["quorums"]]
    ui.result(data, [*lines, f"home    {data['home']}"], ids=str(data["idao"]))
    if restored.findings:
        raise Exit(VerificationFailed.exit_code)


def tell_continued(c: Any) -> None:
    """What stays and what does not, aloud."""
    from idao.model import show_id

    ui.say(f"{show_id('quorum', c.parent)} ended at height {c.parent_height}; '{c.name}' continues it")
    ui.say(f"{c.versions} asset versions are registered again, under their old ids")
    if c.classes or c.tokens or c.members:
        ui.warn(
            f"left behind in the old ledger: {c.classes} classes, {c.tokens} DATs, {c.members} members, all"
            " balances and proposals: the id of a DAT names its quorum"
        )
    if c.lineage_lost:
        ui.warn(f"{c.lineage_lost} versions no longer name parents that are not yours")
    if c.expired:
        ui.warn(f"{c.expired} transactions still waited for the old ledger and are void: do them again")
