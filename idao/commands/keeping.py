"""`idao config …`, `idao doctor`, `idao migrate`, `idao schema`, `idao completion`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from idao import home as homes
from idao import ui
from idao.errors import IdaoError, VerificationFailed
from idao.grammar import App, Argument, Exit, Option

config = App(help="Settings, and where each comes from.")
doctor = App()
migrate = App()
schema = App()
completion = App()


# --- config -----------------------------------------------------------------------------------------


@config.command("show")
def _show(
    origin: Annotated[bool, Option("--origin", help="Also say where each comes from.")] = False,
) -> None:
    """Show every setting. Flags win over the environment, that over config.toml, that over defaults.

    Example: idao config show --origin
    """
    from idao.hall import keeping

    path = homes.locate(ui.options.home)
    flags = {name: getattr(ui.options, name) for name in ui.options.flags}
    rows = keeping.settings(homes.Home.open(path), flags)
    head = ("setting", "value", "origin", "source") if origin else ("setting", "value")
    cells = [
        (r["key"], "none" if r["value"] is None else str(r["value"]), r["origin"], r["source"])[: len(head)]
        for r in rows
    ]
    data = {"path": str(path / "config.toml"), "settings": rows}
    ui.result(data, ui.table(head, cells), quiet=[r["key"] for r in rows])


@config.command("set")
def _set(
    key: Annotated[str, Argument(metavar="KEY", help="As 'idao config show' names it.")],
    value: Annotated[str, Argument(metavar="VALUE", help="The new value.")],
) -> None:
    """Change a setting of this home.

    Example: idao config set wait 60
    """
    from idao.hall import keeping

    path = homes.locate(ui.options.home)
    home = homes.Home.open(path)
    if ui.options.dry_run:
        data = keeping.change(home, key, value)
        ui.result({**data, "dry_run": True}, [f"would set {data['key']} to {data['value']}"])
        return
    with home.exclusive(ui.options.wait_s):
        home = homes.Home.open(path)
        data = keeping.change(home, key, value)
        home.save_config()
    ui.result(data, ids=data["key"])


@config.command("path")
def _path() -> None:
    """Print where the settings of this home are kept.

    Example: idao config path
    """
    path = homes.locate(ui.options.home) / "config.toml"
    ui.result({"path": str(path), "exists": path.is_file()}, ids=str(path))


# --- doctor -----------------------------------------------------------------------------------------


@doctor.command()
def _doctor(
    bundle: Annotated[
        Path | None,
        Option(metavar="FILE", help="Also write what helpers need, without names or paths."),
    ] = None,
) -> None:
    """Check the home and this machine; says what to do about what it finds. Exit code 6 if a check fails.

    Example: idao doctor --bundle idao-doctor.json
    """
    from idao.hall import doctor as examiner

    checks = examiner.examine(homes.locate(ui.options.home))
    failed = [c.name for c in checks if c.status == examiner.FAIL]
    made = bundle is not None and not ui.options.dry_run
    if bundle is not None and made:
        try:
            homes.write_file(bundle, (ui.dump(examiner.bundle(checks)) + "\n").encode(), 0o644)
        except OSError as e:
            raise IdaoError(f"cannot write '{bundle}': {e.strerror}", code="not-writable") from e
    data: dict[str, Any] = {
        "ok": not failed,
        "checks": [c.shown() for c in checks],
        "bundle": str(bundle) if made else None,
    }
    lines = []
    for c in checks:
        lines.append(f"{c.status.ljust(4)}  {c.name.ljust(15)}  {c.detail}")
        lines += [f"      {'':15}  → {c.hint}"] if c.hint else []
    ui.result(data, lines, quiet=failed)
    if failed:
        raise Exit(VerificationFailed.exit_code)


# --- migrate ----------------------------------------------------------------------------------------


@migrate.command()
def _migrate() -> None:
    """Bring files that an older idao wrote up to date. Each is copied first, into before-migration/.

    With --dry-run: says what would change, and writes nothing. No key is needed. A home that a newer idao
    wrote is refused.

    Example: idao migrate --dry-run
    """
    from idao.hall import migration

    path = homes.locate(ui.options.home)
    if ui.options.dry_run:
        steps = migration.plan(path)
        data: dict[str, Any] = {"steps": steps, "dry_run": True}
        lines = [f"would change {s['file']} from format {s['from']} to {s['to']}: {s['what']}" for s in steps]
    else:
        with ui.blocks("migrate") as progress:
            steps = migration.run(path, ui.options.wait_s, progress)
        data = {"steps": steps}
        lines = [f"{s['file']}  format {s['from']} to {s['to']}; the old file: {s['copy']}" for s in steps]
    ui.result(data, lines or ["every file has the newest format"], quiet=[s["file"] for s in steps])


# --- schema, completion -----------------------------------------------------------------------------


@schema.command()
def _schema(
    command: Annotated[
        list[str] | None, Argument(metavar="[COMMAND…]", help="As typed; else a list.")
    ] = None,
) -> None:
    """Print the JSON Schema of what a command prints with --json; without a command, list them.

    Example: idao schema asset show
    """
    from idao.hall import keeping

    if command:
        data = keeping.schema(command)
        ui.result(data, ui.dump(data).split("\n"))
        return
    names = keeping.schema_names()
    ui.result({"schemas": names}, names, quiet=names)


@completion.command()
def _completion(shell: Annotated[str, Argument(metavar="bash|zsh|fish", help="The shell.")]) -> None:
    """Print the completion script of a shell, for its start file.

    Example: idao completion bash > ~/.local/share/bash-completion/completions/idao
    """
    from idao.completion import script

    text = script(shell)
    if ui.options.json:
        ui.result({"shell": shell, "script": text})
    else:
        sys.stdout.write(text)
