"""`idao tee …`: evidence of trusted hardware."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from idao import home as homes
from idao import ui
from idao.commands import open_dao
from idao.errors import NoHome, NotFound, VerificationFailed
from idao.grammar import App, Argument, Exit, Option

tee = App(help="Evidence of trusted hardware: TDX, SEV-SNP, Nitro, TPM and others.")
policy = App(help="What evidence counts.")
collateral = App(help="What vendors sign about their parts, kept for judging offline.")
tee.add("policy", policy)
tee.add("collateral", collateral)

_Evidence = Annotated[list[Path], Argument(metavar="EVIDENCE…", help="Files; - is stdin.")]
_With = Annotated[
    list[Path] | None, Option("--with", metavar="FILE", help="Collateral: file or folder; may repeat.")
]
_At = Annotated[str, Option("--at", metavar="TIME", help="Judge at this time; default: now.")]
_Kind = Annotated[str, Option("--kind", help="sgx, tdx, sev-snp, nitro, tpm, azure-snp, …")]


def _home() -> Path:
    """The folder of an existing home."""
    return homes.Home.open(homes.locate(ui.options.home)).path


def _at_ms(text: str) -> int:
    return homes.parse_time(text) if text else homes.now_ms()


def _read(paths: list[Path]) -> list[tuple[str, bytes]]:
    from idao.hall import bundles
    from idao.tee.given import FILE_BYTES_MAX

    out = []
    for path in paths:
        if str(path) == "-":
            out.append(("-", sys.stdin.buffer.read(FILE_BYTES_MAX)))
        else:
            out.append((str(path), bundles.read_file(path)))
    return out


def _with(paths: list[Path] | None) -> list[bytes]:
    from idao.hall import bundles

    return [data for _, data in bundles.read_files(paths or ())]


# --- status and attest --------------------------------------------------------------------------------


@tee.command("status")
def _status() -> None:
    """Show what this machine can attest with, and what the ledger knows of it. Works without a home, too.

    Example: idao tee status
    """
    from idao.hall import tee as room

    try:
        data = open_dao().tee.status()
    except NoHome:
        data = {**room.devices(), "validator": False, "policy": None, "registered": None}
    lines = [
        f"{'usable' if d['usable'] else 'locked'}  {d['name']:<10} {d['path']}  {d['note']}"
        for d in data["devices"]
    ]
    lines.append(data["meaning"])
    if mine := data["registered"]:
        lines.append(f"registered: {_worth(mine)}, until {mine['not_after']}")
    elif data["validator"]:
        lines.append("not attested: no evidence of this validator is on the ledger")
    lines.append(f"verifier: {data['verifier']}")
    ui.result(data, lines, quiet=[d["name"] for d in data["devices"]])


@tee.command("attest")
def _attest(
    kind: _Kind = "",
    device: Annotated[
        str, Option(metavar="NAME", help="As 'tee status' names it, or tpm: and a path or host:port.")
    ] = "",
    simulated: Annotated[
        bool,
        Option("--simulated", help="Evidence without hardware: worth nothing, and marked so everywhere."),
    ] = False,
    out: Annotated[str, Option("-o", "--out", help="Also write the evidence to this file.")] = "",
    if_due: Annotated[
        bool, Option("--if-due", help="Only if the registered evidence ends soon or does not hold up.")
    ] = False,
) -> None:
    """Have this machine's hardware vouch for the validator key, and register that on the ledger.

    The evidence names a recent block, so that everyone can judge its age. It is judged here first: what does
    not hold up is not registered. Exit code 7 without a device.

    Example: idao tee attest
    """
    from idao.hall import bundles

    dao = open_dao()
    ask = dao.tee.renew if if_due else dao.tee.attest
    data = ask(kind=kind, device=device, simulated=simulated, dry=ui.options.dry_run)
    if not data.get("renewed", True):
        ui.result(data, [f"not due before {data['next']}: {_worth(data)}"], quiet=[data["evidence"]])
        return
    if ui.options.dry_run:
        ui.result(data, [f"would ask {data['device']} and register what it says"])
        return
    if out:
        homes.write_file(Path(out), bundles.last_evidence(dao.home.path) or b"", 0o644)
    for warning in data["warnings"]:
        ui.warn(warning)
    ui.result(data, [f"{_worth(data)}, until {data['not_after']}"], ids=data["evidence"])


def _worth(shown: dict[str, Any]) -> str:
    """One piece of judged evidence in words."""
    mark = "SIMULATED " if shown["level"] == "simulated" else ""
    verdict = "accepted" if shown["accepted"] else f"does not count ({shown['reason']})"
    status = f", {shown['tcb_status']}" if shown["tcb_status"] else ""
    kind = shown["kind"] or "unknown bytes"
    return f"{mark}{kind} at level {shown['level']}{status}: {verdict}"


# --- verify -------------------------------------------------------------------------------------------


@tee.command("verify")
def _verify(
    evidence: _Evidence,
    kind: _Kind = "",
    with_: _With = None,
    at: _At = "",
    policy: Annotated[str, Option(metavar="strict|FILE", help="The policy to judge under.")] = "strict",
    bind: Annotated[
        list[str] | None,
        Option(
            metavar="KEY", help="Key that it must back: did:key, hex or file; several are bound together."
        ),
    ] = None,
) -> None:
    """Judge evidence offline, without home, key or network. Exit code 6 if any of it is not accepted.

    Example: idao tee verify quote.bin --with collateral.json --at 2026-09-01T00:00:00Z
    """
    from idao.hall import evidence as room

    asked = room.Question(kind, _with(with_), _at_ms(at), policy, bind or ())
    data = room.verify(_read(evidence), asked)
    lines = [line for r in data["results"] for line in _verdict(r)]
    ui.result(data, lines, quiet=[r["evidence"] for r in data["results"] if r["accepted"]])
    if not data["accepted"]:
        raise Exit(VerificationFailed.exit_code)


def _verdict(result: dict[str, Any]) -> list[str]:
    lines = [f"{result['name']}: {_worth(result)}"]
    lines += [
        f"{'ok  ' if c['ok'] else 'FAIL'}  {c['name']:<20} {c['detail']}".rstrip() for c in result["checks"]
    ]
    lines += [f"advisory {a}" for a in result["advisories"]]
    lines += [f"note: {w}" for w in result["warnings"]]
    return lines


# --- policy -------------------------------------------------------------------------------------------


@policy.command("show")
def _policy_show(
    policy: Annotated[str, Argument(metavar="[strict|FILE]", help="A policy; default: the quorum's.")] = "",
) -> None:
    """Show a policy as a file to edit. Without a home, or a vote of the quorum, the strict one holds.

    Example: idao tee policy show strict > policy.json
    """
    from idao.tee import policy as policies

    chosen, since = _policy(policy)
    data = {"policy": policies.to_json(chosen), "hash": chosen.digest.hex(), "since": since}
    ui.result(data, policies.dump(chosen).rstrip("\n").split("\n"), quiet=[chosen.digest.hex()])


def _policy(text: str) -> tuple[Any, int]:
    """(policy, height since which the quorum has it, or 0)."""
    from idao.hall import evidence as room

    if text:
        return room.read_policy(text), 0
    try:
        found: tuple[Any, int] = open_dao().tee.policy()
        return found
    except NoHome:
        return room.read_policy("strict"), 0


@policy.command("test")
def _policy_test(
    policy: Annotated[str, Argument(metavar="strict|FILE", help="The policy to try.")],
    evidence: Annotated[
        list[Path] | None,
        Argument(metavar="[EVIDENCE…]", help="Files; default: what the validators have registered."),
    ] = None,
    with_: _With = None,
    at: _At = "",
) -> None:
    """Show what a policy would accept, of files or of the evidence that the quorum has.

    Example: idao tee policy test policy.json
    """
    from idao.hall import evidence as room

    chosen = room.read_policy(policy)
    if evidence:
        results = room.verify(_read(evidence), room.Question("", _with(with_), _at_ms(at), policy))["results"]
    else:
        results = open_dao().tee.registered(chosen)
    backed = sum(1 for r in results if r["accepted"])
    data = {
        "policy": chosen.digest.hex(),
        "results": results,
        "accepted": backed,
        "needed": chosen.min_backed,
        "enough": backed >= chosen.min_backed,
    }
    lines = [f"{r.get('name') or r['idao']}: {_worth(r)}" for r in results]
    lines.append(f"{backed} of {len(results)} accepted; the policy needs {chosen.min_backed}")
    ui.result(data, lines, quiet=[r["evidence"] for r in results if r["accepted"]])


@policy.command("diff")
def _policy_diff(
    new: Annotated[str, Argument(metavar="strict|FILE", help="The policy to compare.")],
    old: Annotated[str, Argument(metavar="[strict|FILE]", help="With which; default: the quorum's.")] = "",
) -> None:
    """Show in what a policy differs from the one in force, and where it accepts more.

    Example: idao tee policy diff policy.json
    """
    from idao.hall import evidence as room
    from idao.tee import policy as policies

    before, after = _policy(old)[0], room.read_policy(new)
    wider = policies.loosened(before, after)
    changes = [
        {"field": name, "old": a, "new": b, "looser": name in wider}
        for name, a, b in policies.diff(before, after)
    ]
    data = {"old": before.digest.hex(), "new": after.digest.hex(), "changes": changes, "loosened": wider}
    lines = [
        f"{'looser ' if c['looser'] else ''}{c['field']}: {c['old']} -> {c['new']}" for c in changes
    ] or ["the same policy"]
    ui.result(data, lines, quiet=[str(c["field"]) for c in changes])


# --- collateral ---------------------------------------------------------------------------------------


@collateral.command("import")
def _import(
    files: Annotated[list[Path], Argument(metavar="FILE…", help="Bundles, or a vendor's files.")],
    kind: Annotated[str, Option(help="What a vendor's files are for.")] = "tdx",
) -> None:
    """Keep collateral in this home. Bundles stay as they are; other files become one bundle.

    Example: idao tee collateral import bundle.idao-collateral
    """
    from idao.hall import bundles
    from idao.hall.evidence import known_kind

    home, wanted = _home(), known_kind(kind)
    made = bundles.take_in(home, bundles.read_files(files), wanted, dry=ui.options.dry_run)
    shown = [bundles.show(b, homes.now_ms()) for b in made]
    _show_bundles({"collateral": shown, "dry_run": ui.options.dry_run}, shown)


@collateral.command("export")
def _export(
    name: Annotated[str, Argument(metavar="[NAME]", help="Beginning of its name; default: the newest.")] = "",
    out: Annotated[str, Option("-o", "--out", help="File to write.")] = "",
) -> None:
    """Write a bundle to a file, for a machine without network.

    Example: idao tee collateral export -o bundle.idao-collateral
    """
    from idao.hall import bundles

    found = bundles.named(_home(), name)
    path = Path(out or f"{found.name.hex()[:16]}.idao-collateral")
    data = {
        "path": str(path),
        "collateral": found.name.hex(),
        "bytes": len(found.data),
        "dry_run": ui.options.dry_run,
    }
    if not ui.options.dry_run:
        homes.write_file(path, found.data, 0o644)
    ui.result(data, ids=str(path))


@collateral.command("update")
def _update(
    evidence: Annotated[
        str, Argument(metavar="[EVIDENCE]", help="For which; default: the last of this machine.")
    ] = "",
) -> None:
    """Ask the vendor for today's collateral. This alone uses the network, and only when asked.

    Example: idao tee collateral update
    """
    from idao.hall import bundles

    home = _home()
    data = bundles.read_file(Path(evidence)) if evidence else bundles.last_evidence(home)
    if data is None:
        raise NotFound(
            "this machine has made no evidence yet",
            hint="name the evidence, or make it: idao tee attest",
        )
    dry = ui.options.dry_run
    kind, made = bundles.update(home, data, dry=dry)
    shown = [bundles.show(b, homes.now_ms()) for b in made]
    words = f"would ask the vendor of {kind} evidence" if dry else f"{kind} evidence needs no collateral"
    _show_bundles({"collateral": shown, "dry_run": dry}, shown, words)


@collateral.command("show")
def _show(
    files: Annotated[
        list[Path] | None, Argument(metavar="[FILE…]", help="Bundle files; default: all of this home.")
    ] = None,
    at: _At = "",
) -> None:
    """Show what collateral there is and until when each part holds.

    Example: idao tee collateral show --at 30d
    """
    from idao.hall import bundles

    found = bundles.take_in(Path(), bundles.read_files(files), "tdx", dry=True) if files else None
    kept = found if found is not None else [k.bundle for k in bundles.listed(_home())]
    shown = [bundles.show(b, _at_ms(at)) for b in kept]
    _show_bundles({"collateral": shown}, shown)


def _show_bundles(data: dict[str, Any], shown: list[dict[str, Any]], nothing: str = "no collateral") -> None:
    lines = []
    for one in shown:
        state = "valid" if one["valid"] else "not valid"
        lines.append(
            f"{one['collateral'][:16]}  {one['kind']}, {one['source']}: {state}, until {one['not_after']}"
        )
        lines += [f"  {p['name']}: {p['not_before']} to {p['not_after']}" for p in one["parts"]]
    ui.result(data, lines or [nothing], quiet=[b["collateral"] for b in shown])
