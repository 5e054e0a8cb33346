"""`idao proof` and `idao verify`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from idao import home as homes
from idao import ui
from idao.commands import PLAIN, open_dao
from idao.errors import IdaoError, NotFound, UsageError, VerificationFailed
from idao.store import givenfile

proof = typer.Typer(**PLAIN)
verify = typer.Typer(**PLAIN)


@proof.command()
def _proof(
    subject: Annotated[str, typer.Argument(metavar="ASSET|DAT|TX", help="What to prove.")],
    file: Annotated[list[str] | None, typer.Option(help="Disclose only this file; may repeat.")] = None,
    no_files: Annotated[bool, typer.Option("--no-files", help="Disclose no file.")] = False,
    out: Annotated[str, typer.Option("-o", "--out", help="File to write; - is stdout.")] = "",
) -> None:
    """Make a portable proof: one file that anyone can check offline.

    It shows names and sizes of the disclosed files, and lets its holder confirm a guess at their contents.

    Example: idao proof clinic -o clinic.idao-proof
    """
    o, dao = ui.options, open_dao()
    name, data, size = dao.proofs.make(subject, file or (), no_files=no_files)
    if out == "-":
        if sys.stdout.isatty():
            raise UsageError("a proof is binary and would garble the terminal", hint="give -o FILE")
        sys.stdout.buffer.write(data)
        return
    path = Path(out or f"{name.replace(':', '-')[:20]}.idao-proof")
    body = {"path": str(path), "subject": name, "tree_size": size, "bytes": len(data)}
    if o.dry_run:
        ui.result({**body, "dry_run": True}, [f"would write {len(data)} bytes to {path}"])
        return
    try:
        homes.write_file(path, data, 0o644)
    except OSError as e:
        raise IdaoError(f"cannot write '{path}': {e.strerror}", code="not-writable") from e
    ui.say(f"proof of {name} in a log of {size} leaves, {ui.size(len(data))}")
    ui.result(body, ids=str(path))


@verify.command()
def _verify(
    proof: Annotated[Path, typer.Argument(metavar="PROOF", help="The proof file; - is stdin.")],
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE…]", help="Files or folders of it.")
    ] = None,
    trust: Annotated[
        list[str] | None, typer.Option(help="Quorum id, iDAO id, or checkpoint file you trust; may repeat.")
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            help="trusted, independent:N, reviews:N, tee:N, tee-measured:N, tee-intel:N, …; may repeat."
        ),
    ] = None,
    tee_policy: Annotated[
        str,
        typer.Option(metavar="strict|FILE", help="Which evidence of trusted hardware counts."),
    ] = "strict",
    newer: Annotated[
        list[Path] | None,
        typer.Option(
            "--with",
            metavar="FILE",
            help="Newer collateral, file or folder: shows what became known of the evidence later.",
        ),
    ] = None,
) -> None:
    """Check a proof offline, without home, key or network. Exit code 6 if any check fails.

    Example: idao verify clinic.idao-proof clinic/visits.csv --trust idao:…
    """
    from idao.hall.proofs import Demands, verify

    demands = Demands(trust or (), require or (), tee_policy, _newer(newer), homes.locate(ui.options.home))
    data = verify(_read(proof), files or (), demands, homes.now_ms())
    time_ms = data.pop("time_ms")
    data["time"] = homes.show_time(time_ms) if time_ms else None
    ui.result(data, _lines(data), quiet=[data["subject"]] if data["ok"] else [])
    if not data["ok"]:
        raise typer.Exit(VerificationFailed.exit_code)


def _newer(paths: list[Path] | None) -> list[bytes]:
    if not paths:
        return []
    from idao.hall.evidence import read_newer

    return read_newer(paths)


def _read(path: Path) -> bytes:
    from idao.proof import PROOF_BYTES_MAX

    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(PROOF_BYTES_MAX + 1)
        else:
            with givenfile.opened(path) as f:
                data = f.read(PROOF_BYTES_MAX + 1)
    except FileNotFoundError:
        raise NotFound(f"no such file: '{path}'") from None
    except OSError as e:
        raise UsageError(f"cannot read '{path}': {os.strerror(e.errno or 0)}") from e
    return data


def _lines(data: dict[str, Any]) -> list[str]:
    if not data["ok"]:
        first = "does not hold"
    elif data["trusted"]:
        first = "holds, and one you named vouches for it"
    else:
        first = "consistent, but nobody you named vouches for it"
    lines = [first]
    lines += [f"{'ok  ' if c['ok'] else 'FAIL'}  {c['name']:<12} {c['detail']}" for c in data["checks"]]
    if data["anchor"]:
        lines.append(f"subject {data['subject']} as of height {data['anchor']['height']}, {data['time']}")
    lines += [f"note: {w}" for w in data["warnings"]]
    return lines
