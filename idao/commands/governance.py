"""`idao propose`, `idao vote`, `idao proposal …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from idao import ui
from idao.commands import open_dao
from idao.errors import UsageError, VerificationFailed
from idao.grammar import App, Argument, Exit, Option
from idao.ledger import charter

STATES = ("open", "passed", "executed", "failed", "rejected", "expired")


def _rules() -> str:
    """Every key of --set, laid out for help: \\b keeps the lines as they are."""
    parts = ["\b\nRULE=VALUE of --set. Shares: 66.66% or basis points. Durations: 7d, 12h, 30m or seconds."]
    for rule, takes, default, meaning in charter.describe():
        parts.append(f"\b\n  {rule}={takes} (default: {default})\n      {meaning}")
    return "\n\n".join(parts)


propose = App()
vote = App()
proposal = App(help="Proposals and their tallies.")

_Proposal = Annotated[str, Argument(metavar="PROPOSAL", help="Id, prefix or unique title.")]
_By = Annotated[str, Option("--as", metavar="MEMBER", help="Sign as a member whose key is here.")]


@propose.command(epilog=_rules)
def _propose(
    title: Annotated[str, Argument(metavar="TITLE", help="What is proposed, in one line.")],
    set_: Annotated[
        list[str] | None,
        Option("--set", metavar="RULE=VALUE", help="Change a rule of the charter; listed below."),
    ] = None,
    add_member: Annotated[
        list[str] | None,
        Option(metavar="WHO[:ROLE[:WEIGHT]]", help="Add a member: full id or petname."),
    ] = None,
    remove_member: Annotated[
        list[str] | None, Option(metavar="WHO", help="Remove a member: full id or petname.")
    ] = None,
    policy: Annotated[
        list[str] | None, Option(metavar="ASSET=FILE", help="New terms of use of an asset.")
    ] = None,
    class_policy: Annotated[
        list[str] | None, Option(metavar="CLASS=FILE", help="New terms of use of a DAT class.")
    ] = None,
    tee_policy: Annotated[
        str, Option(metavar="strict|FILE", help="What evidence of trusted hardware the quorum counts.")
    ] = "",
    text: Annotated[
        Path | None, Option(help="A longer text; the proposal names its hash, the file stays here.")
    ] = None,
    by: _By = "",
    idao: Annotated[
        str,
        Option(
            "--for",
            metavar="IDAO|quorum",
            help="Whose proposal: full id, petname or 'quorum'; default: yours, for a TEE policy quorum.",
        ),
    ] = "",
) -> None:
    """Propose a change of charter, members, policy or class; all of it happens, or nothing.

    The options for changes may repeat. Without any, the vote only records what the members think. What
    could not be carried out now is refused now.

    Example: idao propose "allow derived models" --set policy.derive=allow
    """
    from idao.hall.governance import Wish

    wish = Wish(
        set_ or (), add_member or (), remove_member or (), policy or (), class_policy or (), text, tee_policy
    )
    data = open_dao().governance.propose(title, wish, idao=idao, by=by, dry=ui.options.dry_run)
    if ui.options.dry_run:
        data = {**data, "proposal": None, "dry_run": True}
        ui.result(data, ["would open a vote on:", *_changes(data)])
        return
    ui.say(f"the vote is open until {data['ends']} at the latest")
    ui.hint(f"vote: idao vote {data['proposal']} yes")
    ui.result(data, ids=data["proposal"])


@vote.command()
def _vote(
    proposal: _Proposal,
    choice: Annotated[str, Argument(metavar="CHOICE", help="yes, no or abstain.")],
    by: _By = "",
) -> None:
    """Cast your ballot, or change it while the vote is open.

    A vote closes once its result cannot change. Prints the state that this leads to, and the tally.

    Example: idao vote proposal:… yes
    """
    data = open_dao().governance.vote(proposal, choice, by=by, dry=ui.options.dry_run)
    if ui.options.dry_run:
        lines = [
            f"would vote {choice} on {data['title']}",
            f"the vote would be {_state(data)}, {_tally(data)}",
        ]
        ui.result({**data, "dry_run": True}, lines)
        return
    ui.say(f"voted {choice} on '{data['title']}'")
    ui.result(data, _outcome(data), quiet=[data["proposal"]])


@proposal.command("list")
def _list(
    state: Annotated[str, Option(help="Only those that are " + ", ".join(STATES) + ".")] = "",
) -> None:
    """List the proposals on the ledger, oldest first.

    Example: idao proposal list --state open
    """
    if state and state not in STATES:
        raise UsageError(f"no proposal is ever '{state}'", hint=f"one of: {', '.join(STATES)}")
    found = open_dao().governance.listing(state)
    rows = [(p["proposal"], p["state"], _tally(p), p["ends"], p["title"]) for p in found]
    lines = ui.table(("proposal", "state", "tally", "ends", "title"), rows)
    ui.result({"proposals": found}, lines, quiet=[p["proposal"] for p in found])


@proposal.command("show")
def _show(
    proposal: _Proposal,
    text: Annotated[Path | None, Option(help="Check that this file is the text voted on.")] = None,
) -> None:
    """Show a proposal: what it would do, by which rules it is decided, who has voted what.

    With --text, exit code 6 if the file is not the text it names.

    Example: idao proposal show proposal:…
    """
    data = open_dao().governance.show(proposal, document=text)
    lines = [f"{key:<9} {data[key]}" for key in ("proposal", "title", "idao", "proposer")]
    if data["text"]:
        lines.append(f"text      {data['text']}")
    if text is not None:
        lines.append(f"file      {'is' if data['text_matches'] else 'is NOT'} the text that is voted on")
    lines += [*_changes(data), *_outcome(data)]
    lines += [f"ballot    {b['member']}  {b['choice']}" for b in data["ballots"]]
    lines.append(f"rules     {_rules_held(data['rules'])}")
    ui.result(data, lines, quiet=[data["proposal"]])
    if not data.get("text_matches", True):
        raise Exit(VerificationFailed.exit_code)


@proposal.command("settle")
def _settle() -> None:
    """Take the steps whose time has come: close votes that are over, carry out what has waited.

    Every proposal and ballot does the same first; this is for when there is nothing else to do.

    Example: idao proposal settle
    """
    dao = open_dao()
    if ui.options.dry_run:
        waiting = [p for p in dao.governance.listing() if p["overdue"]]
        lines = [f"would take the next step of {p['proposal']}  {p['title']}" for p in waiting]
        ui.result({"proposals": waiting, "dry_run": True}, lines)
        return
    found = dao.governance.settle()
    lines = [f"{p['proposal']}  {_state(p)}  {p['title']}" for p in found] or ["nothing was due"]
    ui.result({"proposals": found}, lines, quiet=[p["proposal"] for p in found])


# --- as lines ---------------------------------------------------------------------------------------


def _tally(data: dict[str, Any]) -> str:
    return " ".join(f"{choice} {count}" for choice, count in data["tally"].items())


def _state(data: dict[str, Any]) -> str:
    return f"{data['state']} ({data['code']})" if data["code"] else str(data["state"])


def _outcome(data: dict[str, Any]) -> list[str]:
    lines = [f"state     {_state(data)}", f"tally     {_tally(data)}, of {data['votes']} votes"]
    if data["overdue"]:
        what = "closes the vote" if data["state"] == "open" else "carries it out"
        lines.append(f"due       since {data['due']}: the next block {what}, or 'idao proposal settle'")
    elif data["state"] == "open":
        lines.append(f"ends      {data['ends']}")
    elif data["state"] == "passed":
        lines.append(f"due       {data['due']}")
    return lines


def _rules_held(rules: dict[str, Any]) -> str:
    """The voting rules that hold for one proposal."""
    parts = [str(rules["method"])]
    if rules["method"] == "weighted":
        parts.append(f"cap {ui.bp(rules['cap'])}")
    parts += [f"threshold {ui.bp(rules['threshold'])}", f"turnout {ui.bp(rules['turnout'])}"]
    return ", ".join([*parts, f"timelock {charter.to_text('vote.timelock', rules['timelock_ms'] // 1000)}"])


def _changes(data: dict[str, Any]) -> list[str]:
    """What it would do, one line an action."""
    out = []
    for action in data["actions"]:
        rest = {k: v for k, v in action.items() if k != "action"}
        if action["action"] == "charter.set":
            shown = charter.to_text(rest["rule"], rest["value"])
            out.append(f"set       {rest['rule']}={shown}")
        else:
            out.append(f"do        {action['action']} " + " ".join(f"{k}={v}" for k, v in rest.items()))
    return out or ["asks      what the members think; it changes nothing"]
