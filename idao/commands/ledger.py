"""`idao audit`, `idao log …`, `idao events`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

from idao import ui
from idao.commands import open_dao
from idao.errors import VerificationFailed
from idao.grammar import App, Argument, Exit, Option

audit = App()
events = App()
log = App(
    help="The transparency log: blocks, receipts, checkpoints.",
)


@audit.command()
def _audit() -> None:
    """Derive the whole ledger again from genesis and compare every row. Exit code 6 if anything differs.

    Example: idao audit
    """
    with ui.blocks("audit") as progress:
        reports = open_dao().ledgers.audit(progress)
    findings = [
        {"quorum": quorum, "where": where, "what": what}
        for quorum, report in reports.items()
        for where, what in report.findings
    ]
    pruned: list[dict[str, Any]] = [
        {"quorum": quorum, "height": r.pruned} for quorum, r in reports.items() if r.pruned
    ]
    data = {
        "ok": not findings,
        "blocks": sum(r.blocks for r in reports.values()),
        "receipts": sum(r.receipts for r in reports.values()),
        "findings": findings,
        "pruned": pruned,
    }
    lines = [f"{f['where']}: {f['what']}" for f in findings]
    verdict = "everything follows from genesis" if not findings else f"{len(findings)} findings"
    if pruned and not findings:
        verdict = "everything is what was certified"
    lines += [f"{p['quorum']}: whole from height {p['height'] + 1}; earlier bodies pruned" for p in pruned]
    lines.append(f"{data['blocks']} blocks, {data['receipts']} receipts: {verdict}")
    ui.result(data, lines)
    if findings:
        raise Exit(VerificationFailed.exit_code)


@events.command()
def _events(
    follow: Annotated[bool, Option("--follow", help="Go on as blocks are decided.")] = False,
    since: Annotated[int, Option(min=1, help="First height to show.")] = 1,
) -> None:
    """Show what happened on the ledger, one line a transaction; JSON Lines with --json.

    Example: idao events --follow --json
    """
    for event in open_dao().ledgers.events(first=since, follow=follow):
        verdict = "ok" if event["ok"] else f"refused ({event['code']}: {event['reason']})"
        if ui.options.quiet and not ui.options.json:
            ui.stream(event, event["tx"])
        else:
            ui.stream(event, f"{event['height']:>6}  {event['kind']:<18} {event['tx']}  {verdict}")


@log.command("list")
def _list(last: Annotated[int, Option(min=1, help="How many blocks.")] = 20) -> None:
    """List the newest blocks.

    Example: idao log list --last 5
    """
    blocks = open_dao().ledgers.blocks(last=last)
    rows = [(str(b["height"]), b["time"], str(b["receipts"]), str(b["tree_size"])) for b in blocks]
    ui.result({"blocks": blocks}, ui.table(("height", "time", "receipts", "tree size"), rows))


@log.command("show")
def _show(tx: Annotated[str, Argument(help="Full transaction id.")]) -> None:
    """Show the receipt of a transaction.

    Example: idao log show tx:…
    """
    event = open_dao().ledgers.receipt(tx)
    lines = [
        f"{name:<9} {event[name]}" for name in ("height", "position", "kind", "idao", "ok", "code", "reason")
    ]
    lines += [f"changed   {c['table']} {'/'.join(map(str, c['key']))}" for c in event["changed"]]
    ui.result(event, lines, quiet=[event["tx"]])


@log.command("tail")
def _tail(last: Annotated[int, Option(min=1, help="How many blocks back.")] = 10) -> None:
    """Show the transactions of the newest blocks.

    Example: idao log tail
    """
    dao = open_dao()
    first = max(1, dao.store.height - last + 1)
    found = list(dao.ledgers.events(first=first))
    rows = [(str(e["height"]), e["kind"], e["tx"], "ok" if e["ok"] else e["code"]) for e in found]
    lines = ui.table(("height", "kind", "tx", "outcome"), rows)
    ui.result({"events": found}, lines, quiet=[e["tx"] for e in found])


@log.command("checkpoint")
def _checkpoint(
    height: Annotated[int, Option(help="Of this height instead of the newest.")] = 0,
    vkeys: Annotated[bool, Option("--vkeys", help="Print the verifier keys instead.")] = False,
) -> None:
    """Print the signed head of the log as a C2SP checkpoint, or the keys to verify it with other tools.

    Example: idao log checkpoint > head.note
    """
    ledgers = open_dao().ledgers
    if vkeys:
        keys = ledgers.vkeys()
        ui.result(keys, [*keys["log"], *keys["cosigners"]])
        return
    data = ledgers.checkpoint(height or None)
    if ui.options.json:
        ui.result(data)
    else:
        sys.stdout.write(data["note"])


@log.command("proof")
def _proof(tx: Annotated[str, Argument(help="Full transaction id.")]) -> None:
    """Print the C2SP tlog-proof of a transaction's receipt, for other tools.

    Example: idao log proof tx:… > receipt.tlog-proof
    """
    text = open_dao().ledgers.tlog_proof(tx)
    if ui.options.json:
        ui.result({"proof": text})
    else:
        sys.stdout.write(text)


@log.command("leaf")
def _leaf(position: Annotated[int, Argument(min=0, help="Position in the log.")]) -> None:
    """Print the bytes of a log leaf in hexadecimal: a receipt, or a block's header hash.

    Example: idao log leaf 0
    """
    data = open_dao().ledgers.leaf(position).hex()
    ui.result({"position": position, "leaf": data}, [data])


@log.command("prune")
def _prune(
    keep: Annotated[int, Option(min=0, metavar="BLOCKS", help="Newest blocks that stay whole.")] = 20_000,
    force: Annotated[
        bool, Option("--force", help="Even if no other member of the group is known to keep them.")
    ] = False,
) -> None:
    """Take the bodies of old transactions out of the ledger. Everything that proofs rest on stays.

    Headers, decisions, checkpoints, records and what made assets and DATs stay: old proofs hold, new ones can
    be made. A new member cannot catch up from this home through those heights, so in a group somebody keeps
    everything: it is refused where no other member is known to. An audit then compares with what was
    certified, where it derived before.

    Example: idao log prune --keep 100000
    """
    dry = ui.options.dry_run
    if not dry:
        ui.confirm("the bodies of old transactions will be gone from this home")
    data = open_dao().ledgers.prune(keep, force=force, dry=dry)
    what = f"{data['transactions']} transactions and {data['receipts']} receipts, {ui.size(data['bytes'])}"
    line = f"{'would take' if dry else 'took'} {what}, up to height {data['pruned']}"
    ui.result({**data, "dry_run": True} if dry else data, [line])


@log.command("table")
def _table(
    name: Annotated[str, Argument(help="Table; without one, all are listed.")] = "",
    csv: Annotated[bool, Option("--csv", help="Rows as CSV instead of JSON Lines.")] = False,
) -> None:
    """Export a table of the ledger as JSON Lines or CSV, or list the tables and what their columns mean.

    The file itself is plain SQLite, for any tool that reads it.

    Example: idao log table asset_version --csv
    """
    ledgers = open_dao().ledgers
    if not name:
        found = ledgers.tables()
        lines = [line for t in found for line in (t["schema"] + ";").split("\n")]
        ui.result({"tables": found}, lines, quiet=[t["table"] for t in found])
        return
    writer: Any = None
    for row in ledgers.rows(name):
        if not csv:
            ui.stream(row, ui.dump(row, compact=True))
            continue
        if writer is None:
            from csv import DictWriter

            writer = DictWriter(sys.stdout, list(row))
            writer.writeheader()
        writer.writerow(row)
