"""`idao key …`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

from idao import home as homes
from idao import ui
from idao.commands import open_dao
from idao.commands.phrases import typed_phrase
from idao.errors import NotFound, Pending, UsageError
from idao.grammar import App, Exit, Option
from idao.store import givenfile

key = App(
    help="Show, rotate, lock and recover the identity key.",
)


@key.command("show")
def _show() -> None:
    """Show your key, its history, and where the key files are. Needs no key.

    Example: idao key show --json
    """
    data = open_dao().keyring.show()
    lines = [f"{name:<8}  {data[name]}" for name in ("idao", "key", "key_seq", "keys")]
    lines.append(f"locked    {'by a passphrase' if data['passphrase'] else 'no: there is no passphrase'}")
    lines.append(f"phrase    {'kept until written down' if data['phrase_kept'] else 'not kept here'}")
    for h in data["history"]:
        where = ", ".join(f"{k['quorum']} at height {k['height']}" for k in h["heights"])
        lines.append(f"history   {h['key_seq']} {h['how']} {h['key']}; {where or 'on no ledger here yet'}")
    ui.result(data, lines, quiet=[data["key"]])


@key.command("phrase")
def _phrase(
    out: Annotated[Path | None, Option("--out", help="Write it to this new file, mode 0600.")] = None,
    done: Annotated[bool, Option("--done", help="It is written down: destroy the copy here.")] = False,
) -> None:
    """Show the recovery phrase on a terminal, or write it to a file; then have it forgotten.

    Example: idao key phrase --done
    """
    keyring = open_dao().keyring
    if done:
        if out is not None:
            raise UsageError("--out and --done are two steps", hint="write it first, check it, then --done")
        _forget_phrase(keyring)
        return
    if out is None and not (ui.interactive() and sys.stdout.isatty()):
        raise UsageError(
            "the recovery phrase is shown on a terminal only",
            hint="run this on a terminal, or 'idao key phrase --out FILE'",
            code="terminal",
        )
    if out is None:
        words = keyring.phrase().split()
        for start in range(0, len(words), 6):
            six = enumerate(words[start : start + 6], start + 1)
            ui.write("    " + "".join(f"{i:>2}. {w:<10}" for i, w in six).rstrip())
    elif ui.options.dry_run:
        ui.result({"path": str(out), "dry_run": True}, [f"would write the recovery phrase to {out}"])
        return
    else:
        from idao.hall.keyring import write_phrase

        write_phrase(out, keyring.phrase())
        ui.result({"path": str(out)}, ids=str(out))
    ui.say("whoever has these words is you; keep them away from this machine")
    ui.say("when they are written down: idao key phrase --done")


def _forget_phrase(keyring: Any) -> None:
    kept = keyring.phrase_kept
    if kept and not ui.options.dry_run:
        ui.confirm("the copy of the recovery phrase here will be gone: only what you wrote down remains")
        keyring.drop_phrase()
    if not kept:
        ui.say("the recovery phrase is not kept here; nothing was changed")
    data = {"phrase_kept": keyring.phrase_kept}
    ui.result(data, ["would destroy the copy kept here"] if data["phrase_kept"] else ["not kept here"])


@key.command("rotate")
def _rotate() -> None:
    """Replace your key by the next one, which your key history committed to, on every ledger of this home.

    Example: idao key rotate
    """
    dao = open_dao()
    if ui.options.dry_run:
        now = dao.keyring.show()
        data = {name: now[name] for name in ("idao", "key", "key_seq")}
        ui.result({**data, "dry_run": True}, [f"would replace key {data['key_seq']}, {data['key']}"])
        return
    data = dao.keyring.rotate()
    waiting = [q for q in data["quorums"] if q["status"] == Pending.code]
    for q in data["quorums"]:
        ui.say(f"{q['status']:<9} {q['quorum']} at height {q['height']}")
    ui.say("the old key signs nothing any more; backups from before hold the old keys: make a new one")
    ui.result(data, [f"key_seq {data['key_seq']}"], ids=data["key"])
    if waiting:
        raise Exit(Pending.exit_code)


@key.command("passphrase")
def _passphrase(
    new_passphrase_file: Annotated[
        Path | None, Option("--new-passphrase-file", help="File whose first line is the new one.")
    ] = None,
    no_passphrase: Annotated[bool, Option("--no-passphrase", help="Remove it.")] = False,
) -> None:
    """Change, set or remove the passphrase of your keys. The keys themselves stay.

    Example: idao key passphrase --new-passphrase-file new.txt
    """
    if no_passphrase and new_passphrase_file is not None:
        raise UsageError("a new passphrase, or none: not both")
    if not (no_passphrase or new_passphrase_file or ui.interactive()):
        raise UsageError(
            "no new passphrase was given", hint="add --new-passphrase-file FILE, or --no-passphrase"
        )
    dao = open_dao()
    if not ui.options.dry_run:
        dao.keys()
        new = None
        if new_passphrase_file is not None:
            new = homes.read_passphrase(str(new_passphrase_file), "")
        elif not no_passphrase:
            new = homes.ask_passphrase("new passphrase for your keys: ", confirm=True)
        dao.keyring.relock(new)
        if no_passphrase:
            ui.warn("the keys are kept without a passphrase: whoever reads the home is you")
        else:
            ui.say("backups and copies from before still open with the old passphrase")
    locked = not no_passphrase
    data = {"passphrase": locked, "dry_run": ui.options.dry_run}
    ui.result(
        data, ["the keys are locked by the new passphrase" if locked else "the keys have no passphrase"]
    )


@key.command("recover")
def _recover(
    name: Annotated[str, Option(help="What you call your iDAO.")] = "",
    phrase_file: Annotated[str, Option(help="File with the 24 words; - is stdin.")] = "",
    history: Annotated[
        Path | None, Option(help="Proof, or a copy of keys/history: your newest key history.")
    ] = None,
    source: Annotated[
        Path | None, Option("--from", help="Proof or checkpoint of the quorum you had.")
    ] = None,
    no_passphrase: Annotated[
        bool, Option("--no-passphrase", help="Keep the keys without a passphrase.")
    ] = False,
) -> None:
    """Restore your iDAO on a new machine from the 24 words: same id, a fresh key, a new quorum of one.

    Needed once more after an earlier recovery: --history, so that the right recovery key is used.

    Example: idao key recover --phrase-file words.txt --from clinic.idao-proof
    """
    from idao.crypto import phrase
    from idao.hall import founding, keyring
    from idao.identity import idao_id, incept
    from idao.model import show_id

    path = homes.locate(ui.options.home)
    founding.check_free(path)
    words = phrase.read_phrase(typed_phrase(phrase_file))
    own = idao_id(incept(phrase.seed_from(words)))
    known = keyring.before(own, _file(history), _file(source))
    earlier = re.sub(r"-r\d+$", "", known.genesis.name) if known.genesis else ""
    name = founding.check_name(name or earlier or homes.user_name())
    if ui.options.dry_run:
        founding.recovered_history(words, known, (homes.entropy(32), homes.entropy(32)))
        data = {"idao": show_id("idao", own), "home": str(path), "name": name, "dry_run": True}
        ui.result(data, [f"would restore '{name}' in {path}"], ids=show_id("idao", own))
        return
    passphrase = None
    if not no_passphrase:
        passphrase = homes.read_passphrase(
            ui.options.passphrase_file, "new passphrase for your keys: ", confirm=True
        )
    founded = founding.recover(path, words=words, name=name, passphrase=passphrase, before=known)
    _tell(founded, known, no_passphrase)


def _tell(founded: Any, known: Any, no_passphrase: bool) -> None:
    from idao.model import show_id

    if no_passphrase:
        ui.warn("the keys are kept without a passphrase: whoever reads the home is you")
    if known.history is None:
        ui.warn(
            "no history was given: if this phrase was used to recover before, other ledgers refuse this key"
        )
    if known.parent is not None and known.genesis is None:
        ui.warn("a checkpoint alone cannot be checked: a proof of the old quorum can")
    ui.say("the phrase restores your identity, not your data: 'idao backup restore' does that")
    ui.say("the old keys are dead on every ledger that sees this recovery")
    parent = show_id("quorum", known.parent.quorum) if known.parent else None
    data = {
        "idao": show_id("idao", founded.idao),
        "quorum": show_id("quorum", founded.quorum),
        "key": founded.key,
        "key_seq": open_dao().keyring.show()["key_seq"],
        "home": str(founded.home),
        "name": founded.name,
        "parent": parent,
    }
    lines = [f"quorum  {data['quorum']}", f"key     {data['key']}", f"home    {data['home']}"]
    ui.result(data, lines + ([f"after   {parent}"] if parent else []), ids=str(data["idao"]))


def _file(path: Path | None) -> bytes | None:
    from idao.proof import PROOF_BYTES_MAX

    if path is None:
        return None
    try:
        with givenfile.opened(path) as f:
            return f.read(PROOF_BYTES_MAX + 1)
    except FileNotFoundError:
        raise NotFound(f"no such file: '{path}'") from None
    except OSError as e:
        raise UsageError(f"cannot read '{path}': {os.strerror(e.errno or 0)}") from e
