"""`idao node …`: the process that takes part in the quorums of a home."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from idao import ui
from idao.commands import open_dao
from idao.errors import UsageError
from idao.grammar import App, Option

node = App(help="The process that takes part in quorums of many.")
service = App(help="The node as a service of this user.")
node.add("service", service)

LEVELS = "debug|info|warning|error"


@node.command("run")
def _run(
    log: Annotated[Path | None, Option("--log", metavar="FILE", help="Write the log there.")] = None,
    level: Annotated[str, Option("--log-level", metavar=LEVELS, help="What is worth a line.")] = "info",
) -> None:
    """Take part in the quorums of this home until told to stop.

    One process for all of them. The log goes to standard error: JSON lines, or plain lines on a terminal.
    SIGTERM and Ctrl-C stop it in order, SIGHUP reads the settings again.

    Example: idao node run
    """
    if level not in LEVELS.split("|"):
        raise UsageError(f"no log level '{level}'", hint=f"one of: {LEVELS.replace('|', ', ')}")
    nodes = open_dao().nodes
    if ui.options.dry_run:
        running = nodes.status()["running"]
        ui.result({"stopped": "", "uptime_s": 0, "dry_run": True}, [_would_run(running)])
        return
    plain = sys.stderr.isatty() and not ui.options.json
    data = nodes.run(log=log, level=level, plain=plain)
    ui.result(data, [f"stopped ({data['stopped']}) after {data['uptime_s']} s"])


def _would_run(running: bool) -> str:
    return "a node of this home runs already" if running else "would run the node of this home"


@node.command("status")
def _status() -> None:
    """Show whether the node runs, and where each of its quorums stands.

    Example: idao node status --json
    """
    data = open_dao().nodes.status()
    if not data["running"]:
        ui.result(data, ["no node of this home runs; start it with 'idao node run'"])
        return
    lines = [f"runs since {data['started']}, pid {data['pid']}, idao {data['version']}"]
    lines += [_quorum_line(q) for q in data["quorums"]]
    lines += [f"  {r['quorum']}  not driven: {r['why']}" for r in data["refused"]]
    ui.result(data, lines, quiet=[str(data["pid"])])


def _quorum_line(q: dict[str, Any]) -> str:
    return (
        f"  {q['quorum']}  height {q['height']}, anchored {q['anchored']}, "
        f"{q['online']} of {q['size']} online, {q['waiting']} waiting"
    )


@node.command("stop")
def _stop() -> None:
    """Stop the running node in order, and wait until it has ended.

    Example: idao node stop
    """
    nodes = open_dao().nodes
    if ui.options.dry_run:
        running = nodes.status()["running"]
        ui.result(
            {"stopped": False, "pid": None, "dry_run": True},
            [f"would stop it: it {'runs' if running else 'does not run'}"],
        )
        return
    data = nodes.stop()
    ui.result(data, [f"stopped; it was pid {data['pid']}"], quiet=[str(data["pid"])])


@node.command("reload")
def _reload() -> None:
    """Have the running node read settings, peers and new ledgers; it goes on undisturbed.

    Example: idao node reload
    """
    nodes = open_dao().nodes
    if ui.options.dry_run:
        ui.result({"reloaded": False, "quorums": 0, "dry_run": True}, ["would reload the node"])
        return
    data = nodes.reload()
    ui.result(data, [f"reloaded; it drives {data['quorums']} quorums"])


@node.command("metrics")
def _metrics() -> None:
    """Print the running node's numbers in the OpenMetrics format, for Prometheus and its kin.

    Example: idao node metrics > /var/lib/node_exporter/idao.prom
    """
    text = open_dao().nodes.metrics()
    if ui.options.json:
        ui.result({"metrics": text})
    else:
        sys.stdout.write(text)


# --- service ----------------------------------------------------------------------------------------

PRINT = Annotated[bool, Option("--print", help="Only print the file; install nothing.")]
MANAGER = Annotated[str, Option("--manager", metavar="systemd|launchd", help="Instead of this system's own.")]


@service.command("install")
def _install(only_print: PRINT = False, manager: MANAGER = "") -> None:
    """Install the node as a service of this user and start it: a systemd user unit, or a launchd agent.

    Example: idao node service install --print
    """
    from idao.hall import service as services

    made = services.unit(open_dao().home, ui.options.passphrase_file, manager)
    if only_print or ui.options.dry_run:
        data = {**services.shown(made), "text": made.text, "dry_run": True}
        ui.result(data, made.text.rstrip("\n").split("\n"), quiet=[str(made.path)])
        return
    data = {**services.install(made), "text": made.text}
    if made.kind == services.SYSTEMD:
        ui.hint("so that it also runs while you are logged out: loginctl enable-linger")
    ui.result(data, ids=data["path"])


@service.command("uninstall")
def _uninstall(manager: MANAGER = "") -> None:
    """Stop the service and remove it. The home stays as it is.

    Example: idao node service uninstall
    """
    from idao.hall import service as services

    made = services.unit(open_dao().home, ui.options.passphrase_file or "-", manager)
    if ui.options.dry_run:
        ui.result({**services.shown(made), "dry_run": True}, [f"would remove {made.path}"])
        return
    ui.result(services.uninstall(made), ids=str(made.path))


@service.command("status")
def _service_status(manager: MANAGER = "") -> None:
    """Show whether the service is installed, and where.

    Example: idao node service status
    """
    from idao.hall import service as services

    data = services.shown(services.unit(open_dao().home, ui.options.passphrase_file or "-", manager))
    state = "installed" if data["installed"] else "not installed"
    ui.result(data, [f"{data['name']} ({data['kind']}): {state}", data["path"]], quiet=[data["path"]])
