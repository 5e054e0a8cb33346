"""Running commands in this process, and a story in which every command has something to say."""

from __future__ import annotations

import gc
import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from idao import cli
from idao.tee.policy import STRICT, dump, relaxed


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The one line of a refusal with --json."""
        return json.loads(self.err.splitlines()[-1])["error"]


def _stream(data: str = "") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data.encode()), encoding="utf-8", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


def run(*args: str | Path, home: Path | None = None, stdin: str = "", **environment: str) -> Ran:
    """One command with no terminal and none of the user's own settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("IDAO") and k != "NO_COLOR"}
    if home is not None:
        kept["IDAO_HOME"] = str(home)
    out, err = _stream(), _stream()
    streams = mock.patch.multiple(sys, stdin=_stream(stdin), stdout=out, stderr=err)
    with mock.patch.dict(os.environ, {**kept, **environment}, clear=True), streams:
        code = cli.main([str(a) for a in args])
    return Ran(code, _text(out), _text(err))


def settled() -> None:
    """Closes what commands left to the end of their process, and passes over the rest from now on."""
    gc.collect()
    gc.freeze()


def must(*args: str | Path, home: Path, **more: str) -> Ran:
    ran = run(*args, home=home, **more)
    assert ran.code == 0, (args, ran)
    return ran


def last(*args: str | Path, home: Path) -> str:
    """What a creating command ends with: its id."""
    return must(*args, home=home).out.splitlines()[-1]


@dataclass
class World:
    """A folder with a home in it, and the ids that the story has made so far."""

    folder: Path
    ids: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def fill(self, words: str) -> list[str]:
        places = {**self.ids, "in": str(self.folder)}
        return [w.format(**places) for w in words.split()]


STORY: list[tuple[str, str, str]] = [
    # (command, what follows it, name for the id that it ends with)
    ("init", "--name ana --no-passphrase", "me"),
    ("contribute", "{in}/visits --license CC-BY-4.0 --name visits", "asset"),
    ("asset list", "", ""),
    ("asset show", "{asset}", ""),
    ("asset get", "{asset} -o {in}/restored", ""),
    ("asset check", "", ""),
    ("asset history", "visits", ""),
    ("class create", "visits", "class"),
    ("class list", "", ""),
    ("class show", "{class}", ""),
    ("mint", "visits --value 1000 --share-ratio 10000", "dat"),
    ("mint", "visits --value 10 --expires 90d", "dat2"),
    ("dat list", "", ""),
    ("dat show", "{dat}", ""),
    ("dat use", "{dat} 10 --metric rows", ""),
    ("dat transfer-value", "{dat} {dat2} 100", ""),
    ("account issue", "500", "tx"),
    ("account retire", "10", ""),
    ("class settle", "{class} 100 --unit me", ""),
    ("dat claim", "{dat} --unit me", ""),
    ("account list", "", ""),
    ("name add", "bob {bob}", ""),
    ("name list", "", ""),
    ("name remove", "bob --yes", ""),
    ("name add", "bob {bob}", ""),
    ("member add", "cleo --role member", "cleo"),
    ("member list", "", ""),
    ("class approve", "{class} {cleo}", ""),
    ("account transfer", "cleo 20 --unit me", ""),
    ("dat transfer", "{dat2} {cleo}", ""),
    ("propose", "derive --set policy.derive=allow", "proposal"),
    ("vote", "{proposal} yes", ""),
    ("proposal list", "", ""),
    ("proposal show", "{proposal}", ""),
    ("proposal settle", "", ""),
    ("member remove", "cleo --yes", ""),
    ("trust add", "{quorum} --kind dataset --weight 10", ""),
    ("trust list", "", ""),
    ("trust remove", "{quorum} --yes", ""),
    ("proof", "{asset} -o {in}/visits.idao-proof", ""),
    ("verify", "{in}/visits.idao-proof {in}/visits/visits.csv --trust {me}", ""),
    ("audit", "", ""),
    ("events", "", ""),
    ("log list", "", ""),
    ("log show", "{tx}", ""),
    ("log tail", "", ""),
    ("log checkpoint", "", ""),
    ("log checkpoint", "--vkeys", ""),
    ("log proof", "{tx}", ""),
    ("log leaf", "0", ""),
    ("log table", "", ""),
    ("log table", "asset_version", ""),
    ("tee status", "", ""),
    ("tee attest", "--simulated -o {in}/evidence", ""),
    ("tee verify", "{in}/evidence --policy {in}/simulated.json", ""),
    ("tee policy show", "", ""),
    ("tee policy diff", "{in}/simulated.json", ""),
    ("tee policy test", "{in}/simulated.json", ""),
    ("tee collateral import", "{in}/collateral.json", ""),
    ("tee collateral show", "", ""),
    ("tee collateral export", "-o {in}/bundle", ""),
    ("tee collateral update", "--dry-run", ""),
    ("quorum list", "", ""),
    ("quorum status", "", ""),
    ("proof", "{asset} -o {in}/backed.idao-proof", ""),
    ("verify", "{in}/backed.idao-proof --require simulated:1 --tee-policy {in}/simulated.json", ""),
    ("status", "", ""),
    ("key show", "", ""),
    ("key phrase", "--out {in}/words", ""),
    ("key phrase", "--done --yes", ""),
    ("key rotate", "", ""),
    ("key passphrase", "--new-passphrase-file {in}/new", ""),
    ("key passphrase", "--no-passphrase --passphrase-file {in}/new", ""),
    (
        "key recover",
        "--phrase-file {in}/words --from {in}/visits.idao-proof --no-passphrase --home {in}/again",
        "",
    ),
    ("backup create", "-o {in}/b.idao-backup", ""),
    ("backup verify", "{in}/b.idao-backup --phrase-file {in}/words", ""),
    (
        "backup restore",
        "{in}/b.idao-backup --phrase-file {in}/words --home {in}/restored-home",
        "",
    ),
    ("quorum recover", "", ""),
    ("quorum create", "--name team --dry-run", ""),
    ("quorum invite", "--dry-run", ""),
    ("quorum leave", "--dry-run", ""),
    ("quorum why", "", ""),
    ("quorum forensics", "", ""),
    ("peer list", "", ""),
    ("peer add", "{bob} 192.168.1.20:24326", ""),
    ("peer remove", "{bob}", ""),
    ("node run", "--dry-run", ""),
    ("node status", "", ""),
    ("node stop", "--dry-run", ""),
    ("node reload", "--dry-run", ""),
    ("node service install", "--print", ""),
    ("node service uninstall", "--dry-run", ""),
    ("node service status", "", ""),
    ("config show", "", ""),
    ("config set", "wait 20", ""),
    ("config path", "", ""),
    ("doctor", "--bundle {in}/bundle.json", ""),
    ("migrate", "", ""),
    ("schema", "", ""),
    ("schema", "asset show", ""),
    ("completion", "bash", ""),
    ("help", "", ""),
    ("asset forget", "visits --yes", ""),
    ("log prune", "--keep 3 --yes", ""),
]
"""Every command but those `ELSEWHERE`, in an order in which each can do its work."""

ELSEWHERE = {
    *("demo", "node metrics", "quorum join", "quorum accept", "quorum doctor", "quorum repair"),
    *("quorum rotate", "quorum remove", "quorum withdraw", "quorum accuse"),
}
"""Commands that want a group, or several processes: `test_seats`, `test_node_quorum`, `test_node_seats`."""

KEYS = {"me": "idao", "dat2": "dat", "cleo": "member"}
"""Key of JSON in which an id of the story stands, where it is not the id's own name."""

READS = {
    *("asset list", "asset show", "asset check", "asset history", "class list", "class show"),
    *("dat list", "dat show", "account list", "proposal list", "proposal show", "member list"),
    *("trust list", "name list", "verify", "audit", "events", "log list", "log show", "log tail"),
    *(
        "log checkpoint",
        "log proof",
        "log leaf",
        "log table",
        "status",
        "key show",
        "config show",
        "config path",
    ),
    *("schema", "completion", "help", "tee verify", "tee policy show", "tee policy diff"),
    *("tee status", "tee policy test", "tee collateral show", "quorum list", "quorum status"),
    *("node status", "node service status", "quorum why", "quorum forensics", "peer list"),
}
"""Commands that change nothing, anywhere."""


def make(folder: Path) -> World:
    """A world in which nothing has happened yet."""
    visits = folder / "visits"
    visits.mkdir(parents=True)
    rows = [f"{n},{20 + n * 7 % 60},{90 + n * 11 % 80}" for n in range(40)]
    (visits / "visits.csv").write_text("visit,age,pressure\n" + "\n".join(rows) + "\n")
    (visits / "README.txt").write_text("Made up for tests.\n")
    (folder / "new").write_text("correct horse battery staple\n")
    simulated = relaxed(STRICT, kinds=("simulated",), least_level="simulated")
    (folder / "simulated.json").write_text(dump(simulated))
    vendor = Path(__file__).parent / "vectors" / "tee" / "intel-collateral" / "tdx-00806F050000-2025-10.json"
    (folder / "collateral.json").write_bytes(vendor.read_bytes())
    return World(folder, {"bob": "idao:" + "b" * 51 + "a", "quorum": "quorum:" + "c" * 51 + "a"})


def tell(world: World, *flags: str) -> Iterator[tuple[str, list[str], Ran]]:
    """The story, command by command: (command, all its words, what came of it). Flags go to each."""
    for command, rest, name in STORY:
        words = [*command.split(), *world.fill(rest)]
        ran = run(*words, *flags, home=world.home)
        assert ran.code == 0, (words, ran)
        if name:
            word = KEYS.get(name, name)
            world.ids[name] = ran.json[word] if "--json" in flags else ran.out.splitlines()[-1]
        yield command, words, ran
