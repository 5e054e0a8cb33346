"""`idao demo`: one person's story and that of four, in a temporary folder that is removed at the end."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated, Any

from idao import ui
from idao.errors import IdaoError
from idao.grammar import App, Option
from idao.hall.service import own_command

demo = App()

VISITS = 200
"""Rows of the made-up table: enough for the assessor to have something to say."""


@demo.command()
def _demo(
    alone: Annotated[bool, Option("--alone", help="Only the story of one person.")] = False,
    keep: Annotated[bool, Option("--keep", help="Keep the temporary folder and say where it is.")] = False,
) -> None:
    """Tell the whole story: one person (init, contribute, mint, vote, prove, verify, audit), then a quorum of
    four nodes, one of them killed, one lying for a while.

    Everything happens in a temporary home, with real commands, and is removed at the end.

    Example: idao demo
    """
    if ui.options.dry_run:
        ui.result({"dry_run": True}, ["would tell the story in a temporary home"])
        return
    folder = Path(tempfile.mkdtemp(prefix="idao-demo-"))
    try:
        story = _Story(folder)
        steps = story.tell()
        if not alone:
            from idao.commands.demo_quorum import Four

            Four(story).tell()
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    if keep:
        ui.say(f"kept in {folder}")
    data = {"ok": True, "steps": steps, "folder": str(folder) if keep else None}
    ui.result(data, [f"the whole story held: {len(steps)} commands"])


class _Story:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.steps: list[str] = []
        # What the user has set of quorums and passphrases is not meant for these homes.
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("IDAO_")}

    def tell(self) -> list[str]:
        data = self.folder / "clinic"
        self._make_visits(data)
        me = self._run("init --name clinic --no-passphrase")
        asset = self._run("contribute", str(data), "--license", "CC-BY-4.0", "--name", "clinic 2026")
        self._run(f"asset show {asset} --why", ids=False)
        dat = self._run(f"mint {asset} --value 1000 --share-ratio 10000")
        proposal = self._run("propose", "allow derived models", "--set", "policy.derive=allow")
        self._run(f"vote {proposal} yes")
        file = self._run(f"proof {dat} -o", str(self.folder / "clinic.idao-proof"))
        visits = str(data / "visits.csv")
        self._run("verify", file, visits, "--trust", me, "--require", "trusted", ids=False, home=False)
        self.say("a stranger checks the same proof against a file that was changed:")
        with (data / "visits.csv").open("a", encoding="utf-8") as f:
            f.write("999,1,1,forged\n")
        self._run("verify", file, visits, ids=False, home=False, code=6)
        self._run("audit", ids=False)
        return self.steps

    @staticmethod
    def _make_visits(folder: Path) -> None:
        """A table of made-up visits, the same in every run."""
        folder.mkdir(parents=True)
        rng = random.Random(1)
        rows = ["visit,age,pressure,outcome"]
        rows += [
            f"{n},{rng.randint(18, 90)},{rng.randint(90, 180)},{rng.choice(('well', 'ill'))}"
            for n in range(VISITS)
        ]
        (folder / "visits.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        (folder / "README.txt").write_text("Visits of 2026. Made up for a demonstration.\n", encoding="utf-8")

    def say(self, text: str) -> None:
        ui.say(text)

    def _run(self, line: str, *more: str, ids: bool = True, home: bool = True, code: int = 0) -> str:
        return self.run(line, *more, ids=ids, home=self.home if home else None, code=code)

    def run(self, line: str, *more: str, ids: bool = True, home: Path | None = None, code: int = 0) -> str:
        """Runs one real command in a process of its own; returns the last line of its stdout."""
        words = [*shlex.split(line), *more]
        shown = "$ idao " + shlex.join(words)
        self.steps.append(shown[2:])
        self.say(shown)
        where = ["--home", str(home)] if home else []
        done = subprocess.run(
            [*own_command(), *where, *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=self.environment,
            check=False,
        )
        for text in (done.stderr + ("" if ids else done.stdout)).splitlines():
            self.say("    " + text.removeprefix("idao: "))
        if done.returncode != code:
            said = next((t for t in done.stderr.splitlines() if "error:" in t), None)
            raise IdaoError(f"the story broke at '{shown[2:]}' (exit {done.returncode})", hint=said)
        lines: list[Any] = done.stdout.strip().splitlines()
        return str(lines[-1]) if lines else ""
