"""The contract of the command line: forms, streams, exit codes, and homes in every bad state."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import READS, STORY, Ran, World, last, make, must, run, settled, tell
from conftest import at_home
from test_schemas import check, validator

from idao import cli
from idao.completion import table
from idao.errors import EXIT_CODES

COMMANDS = [c for c in table() if not c.children]
FAMILIES = [c for c in table() if c.children and c.words]
ID = re.compile(
    r"(idao|quorum|asset|class|dat|tx|proposal):[a-z2-7]{52}|did:key:z6Mk[1-9A-HJ-NP-Za-km-z]{44}"
)
ANSWERS = (0, 3, 6)
"""Exit codes whose result stands on stdout."""
NOT_IDS = {
    "asset get",
    "proof",
    "key phrase",
    "config show",
    "config set",
    "config path",
    "node status",
    "node run",
    "node stop",
    "node reload",
    "node service install",
    "node service uninstall",
    "node service status",
    "doctor",
    "schema",
    "backup create",
    "backup verify",
    "tee attest",
    "tee collateral export",
    "tee collateral import",
    "tee collateral show",
    "tee policy diff",
    "tee policy show",
    "tee policy test",
    "tee status",
    "tee verify",
}
"""What these name is a file, a setting, a check, a hash: -q prints those."""
AS_THEY_ARE = {"completion", "help", "log checkpoint", "log proof", "log leaf", "log table"}
"""Commands whose answer is one text for another program: -q has nothing to take away."""


def refused(ran: Ran, code: int, word: str = "") -> None:
    """One clear line, its exit code, and nothing on stdout but an answer."""
    lines = ran.err.splitlines()
    assert ran.code == code, ran
    assert "Traceback" not in ran.err
    if lines and lines[-1].startswith("{"):
        validator("error").validate(json.loads(lines[-1]))
    else:
        errors = [line for line in lines if line.startswith("idao: error: ")]
        assert len(errors) == 1 and lines.index(errors[0]) >= len(lines) - 2, ran.err
        assert all(line.startswith("idao: ") for line in lines)
    assert word in ran.err, ran.err
    assert code in ANSWERS or ran.out == ""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A home in which everything has happened up to the settings of the keys."""
    world = make(tmp_path_factory.mktemp("plain"))
    for command, _, _ in tell(world):
        if command == "key show":
            break
    return world


def copy(world: World, folder: Path) -> World:
    """A copy whose ledger takes itself for the one that was made there: others sign nothing."""
    shutil.copytree(world.folder, folder)
    at_home(folder / "home")
    return World(folder, dict(world.ids))


@pytest.fixture
def world(plain: World, tmp_path: Path) -> World:
    """A copy of it, to be spoilt."""
    return copy(plain, tmp_path / "copy")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, list[str], Ran]]:
    return list(tell(make(tmp_path_factory.mktemp("quiet")), "-q"))


# --- form -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS[1:], ids=lambda c: " ".join(c.words))
def test_help_of_a_command(command: object) -> None:
    ran = run(*command.words, "--help")  # type: ignore[attr-defined]
    assert ran.code == 0 and ran.err == ""
    assert "Usage: idao " in ran.out and "Example: idao " in ran.out and "\x1b" not in ran.out


@pytest.mark.parametrize("command", FAMILIES, ids=lambda c: " ".join(c.words))
def test_help_of_a_family(command: object) -> None:
    ran = run(*command.words, "--help")  # type: ignore[attr-defined]
    assert ran.code == 0
    assert all(name in ran.out for name in command.children)  # type: ignore[attr-defined]
    assert run("help", *command.words).out == ran.out  # type: ignore[attr-defined]
    refused(run(*command.words), 2, "one of: ")  # type: ignore[attr-defined]


def test_help_lists_every_command_and_exit_code() -> None:
    assert all(f"  {word} " in run("help").out for word in cli.FAMILIES)
    assert run().out == run("--help").out == run("help").out
    codes = run("help", "exit-codes").out
    assert all(f"{code:>4}  {meaning}" in codes for code, meaning in EXIT_CODES.items())


def test_global_options_before_and_after(plain: World) -> None:
    home = str(plain.home)
    forms = [
        ("--home", home, "--json", "status"),
        ("status", "--json", "--home", home),
        ("--json", "status", f"--home={home}"),
        ("--json", "status", "--home", home, "-v", "--wait", "0", "--no-color", "--no-input", "--yes"),
    ]
    assert len({run(*form).out for form in forms}) == 1
    asset = ("show", plain.ids["asset"])
    assert (
        run("asset", "--json", *asset, home=plain.home).out
        == run("asset", *asset, "--json", home=plain.home).out
    )


def test_flag_wins_over_environment_over_config_over_default(world: World) -> None:
    def shown(*flags: str, **environment: str) -> tuple[object, str]:
        rows = must("config", "show", "--json", *flags, home=world.home, **environment).json["settings"]
        row = next(r for r in rows if r["key"] == "wait")
        return row["value"], row["origin"]

    assert shown() == (30, "default")
    must("config", "set", "wait", "20", home=world.home)
    assert shown() == (20, "config")
    assert shown(IDAO_WAIT="10") == (10, "environment")
    assert shown("--wait", "5", IDAO_WAIT="10") == (5, "flag")


def test_quorum_by_flag_and_environment(plain: World) -> None:
    by_name = run("log", "list", home=plain.home, IDAO_QUORUM="ana")
    assert by_name.code == 0 and by_name.out == run("log", "list", home=plain.home).out
    refused(run("log", "list", home=plain.home, IDAO_QUORUM="other"), 4, "other")
    assert run("log", "list", "--quorum", "ana", home=plain.home, IDAO_QUORUM="other").code == 0


def test_ids_come_from_standard_input(plain: World) -> None:
    ran = run("proposal", "show", "-", "-q", home=plain.home, stdin=plain.ids["proposal"] + "\n")
    assert ran.out.strip() == plain.ids["proposal"]


# --- output -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(len(STORY)), ids=lambda i: f"{i}-{STORY[i][0]}")
def test_quiet_prints_ids_only(quiet: list[tuple[str, list[str], Ran]], at: int) -> None:
    command, _, ran = quiet[at]
    if command not in AS_THEY_ARE | NOT_IDS:
        assert [line for line in ran.out.splitlines() if not ID.fullmatch(line)] == []
    assert not re.search("^idao: (?!warning: )", ran.err, re.M), ran.err


def test_ids_make_a_pipeline(quiet: list[tuple[str, list[str], Ran]]) -> None:
    made = {command: ran.out for command, _, ran in reversed(quiet)}
    for command in ("init", "contribute", "mint", "class create", "propose", "member add"):
        assert ID.fullmatch(made[command].strip())


def test_plain_output_of_a_creating_command_ends_with_its_id(world: World) -> None:
    for words in (["mint", "visits"], ["propose", "again"], ["account", "issue", "1"], ["init"]):
        assert ID.fullmatch(must(*words, home=world.home).out.splitlines()[-1])


@pytest.mark.parametrize("command", sorted(READS - {"completion", "help", "schema"}))
def test_no_colour_no_bar_no_cut_without_a_terminal(plain: World, command: str) -> None:
    rest = next(rest for name, rest, _ in STORY if name == command)
    ran = must(*command.split(), *plain.fill(rest), home=plain.home)
    assert "\x1b" not in ran.out + ran.err and "…" not in ran.out


def test_no_color_on_a_terminal(plain: World) -> None:
    import pty

    master, slave = pty.openpty()
    environment = {**os.environ, "IDAO_HOME": str(plain.home), "NO_COLOR": "1", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "idao", "audit"]
    done = subprocess.run(command, stdin=slave, stdout=slave, stderr=slave, env=environment, timeout=60)
    os.close(slave)
    told = b""
    with contextlib.suppress(OSError):  # a terminal without a program behind it ends so
        while more := os.read(master, 65536):
            told += more
    os.close(master)
    assert done.returncode == 0 and b"everything follows from genesis" in told
    assert not re.search(b"\x1b\\[[0-9;]*[1-9][0-9;]*m", told)


def test_names_from_elsewhere_cannot_drive_the_terminal(world: World) -> None:
    ran = run("asset", "show", "a\x1b[31mred\nidao: error: forged", home=world.home)
    refused(ran, 4, "\\x1b[31mred\\x0aidao")


def test_several_ids_give_json_lines(plain: World) -> None:
    several = "\n".join([plain.ids["dat"], plain.ids["dat2"]])
    ran = run("dat", "show", "-", "--json", home=plain.home, stdin=several)
    assert [json.loads(line)["dat"] for line in ran.out.splitlines()] == several.split()


def test_nothing_found_is_said_in_json_too(tmp_path: Path) -> None:
    must("init", "--no-passphrase", "--name", "new", home=tmp_path)
    for command in ("asset", "class", "dat", "proposal", "name", "log"):
        ran = must(command, "list", "--json", home=tmp_path)
        check(f"{command} list", ran)
        assert list(ran.json.values()) == [[]]
    assert must("events", "--json", home=tmp_path).out == ""
    refused(run("log", "checkpoint", home=tmp_path), 4, "nothing is anchored yet")


@pytest.mark.slow
def test_the_demo_tells_its_story(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "idao", "demo", "--json"]
    environment = {**os.environ, "IDAO_HOME": str(tmp_path / "none")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    ran = Ran(done.returncode, done.stdout, done.stderr)
    assert ran.code == 0 and ran.json["ok"]
    check("demo", ran)
    assert not (tmp_path / "none").exists()


# --- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words,code,word",
    [
        ("nonsense", 2, "no command 'nonsense'"),
        ("contribte x", 2, "did you mean 'contribute'?"),
        ("asset shwo x", 2, "did you mean 'show'?"),
        ("help nonsense", 2, "no command"),
        ("status --jsno", 2, "did you mean '--json'?"),
        ("asset list --nonsense", 2, "no such option: --nonsense"),
        ("asset show", 2, "missing argument"),
        ("asset show a b", 2, "unexpected extra argument"),
        ("status --wait soon", 2, "--wait takes a number of seconds"),
        ("status --wait -1", 2, "--wait takes a number of seconds"),
        ("status --home", 2, "--home needs a value"),
        ("log list --last 0", 2, "--last"),
        ("log list --last many", 2, "--last"),
        ("asset show asset:abc", 2, "a prefix needs 6 characters"),
        ("asset show asset:zzzzzz", 4, "no asset"),
        ("asset show nothing-of-that-name", 4, "no asset"),
        ("asset show {asset}@99", 4, "has no version 99"),
        ("asset show dat:{asset}", 4, "no asset"),
        ("asset get {asset} --file nothing -o {in}/out", 4, "no such file"),
        ("dat show dat:zzzzzzz", 4, "no dat"),
        ("class show nothing", 4, "no class"),
        ("proposal show proposal:zzzzzzz", 4, "no proposal"),
        ("proposal list --state won", 2, "one of: "),
        ("log show tx:zzzzzz", 2, "not a full tx id"),
        ("log show tx:" + "a" * 52, 4, "no transaction"),
        ("log checkpoint --height 9999", 4, ""),
        ("log leaf 999999", 4, "no leaf"),
        (f"log leaf {10**23}", 4, "no leaf"),
        (f"log checkpoint --height {10**23}", 4, "no checkpoint"),
        ("proof {asset} -o .", 1, "a directory"),
        ("doctor --bundle .", 1, "a directory"),
        ("member remove \udcff --yes", 4, "no petname"),
        ("dat transfer {dat} nobody", 4, "no petname"),
        ("dat transfer {dat} idao:abcdef", 2, "not a full idao id"),
        ("mint {asset} --value 0", 2, "whole number"),
        ("mint {asset} --value 1.5", 2, "whole number"),
        ("mint {asset} --expires yesterday", 2, "not a time"),
        ("vote {proposal} maybe", 2, "idao vote"),
        ("vote {proposal} yes", 5, "nothing was changed"),
        ("account issue -- -5", 2, "whole number"),
        ("account transfer {cleo} 999999999 --unit stake", 5, ""),
        ("contribute {in}/nothing", 4, "nothing"),
        ("contribute {in}/visits --kind poem", 2, "not a kind"),
        ("contribute {in}/visits --license Nonsense-1.0", 2, ""),
        ("contribute {in}/visits --policy {in}/nothing", 2, "nothing"),
        ("asset forget visits", 2, "--yes"),
        ("trust remove {quorum}", 4, "no trust link"),
        ("verify {in}/nothing", 4, "no such file"),
        ("verify {in}/visits.idao-proof --require everything", 2, "cannot require"),
        ("verify {in}/visits.idao-proof --trust ana", 2, "give the full id"),
        ("config set wiat 3", 2, "did you mean 'wait'?"),
        ("config set wait soon", 2, "number of seconds"),
        ("config set color pink", 2, "one of"),
        ("config set quorum.default nothing", 4, "no ledger"),
        ("config set home /tmp", 2, "IDAO_HOME"),
        ("completion csh", 2, "one of: bash, zsh, fish"),
        ("schema nothing", 4, "see 'idao schema'"),
        ("doctor --bundle {in}/new/file", 1, "cannot write"),
        ("status --quorum", 2, "--quorum needs a value"),
        ("log list --quorum nothing", 4, "no ledger"),
    ],
    ids=lambda x: str(x)[:50].replace("\0", "0") if isinstance(x, str) else None,
)
def test_bad_input_gets_one_line(plain: World, words: str, code: int, word: str) -> None:
    filled = plain.fill(words)
    refused(run(*filled, home=plain.home), code, word)
    told = run("--json", *filled, home=plain.home)
    refused(told, code)
    assert told.error["message"] and told.error["code"]


def test_an_ambiguous_prefix_is_told(world: World) -> None:
    heads: list[str] = []
    while len(set(heads)) == len(heads):  # two of 33 begin alike
        dat = must("mint", "visits", "--value", "1", "-q", home=world.home).out
        heads.append(dat.partition(":")[2][:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("idao.dao.PREFIX_MIN", 1)
        refused(run("dat", "show", f"dat:{heads[-1]}", home=world.home), 4, "more than one")


HOMELESS = {
    *("init", "verify", "key recover", "config path", "schema", "completion", "help"),
    *("backup verify", "backup restore", "tee status", "tee verify", "tee policy show", "tee policy diff"),
}
"""Commands that work where there is no home."""
NEED_A_HOME = [s for s in STORY if s[0] not in HOMELESS and "policy test" not in s[0]]


@pytest.mark.parametrize("command,rest,_", NEED_A_HOME, ids=lambda x: str(x)[:40])
def test_no_home_is_exit_code_10(plain: World, tmp_path: Path, command: str, rest: str, _: str) -> None:
    refused(run(*command.split(), *plain.fill(rest), home=tmp_path / "none"), 10, "idao init")
    assert not (tmp_path / "none").exists()


def test_what_needs_no_home(plain: World, tmp_path: Path) -> None:
    proof = plain.folder / "visits.idao-proof"
    for words in (["verify", proof], ["schema"], ["completion", "zsh"], ["config", "path"], ["help"]):
        must(*words, home=tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_failed_verification_is_an_answer(world: World) -> None:
    proof = world.folder / "visits.idao-proof"
    (world.folder / "visits" / "visits.csv").write_text("forged\n")
    ran = run("verify", proof, world.folder / "visits", "--json", home=world.home)
    assert ran.code == 6 and ran.json["ok"] is False
    check("verify", ran)
    assert [c for c in ran.json["checks"] if not c["ok"] and "visits.csv" in c["name"]]


def test_a_bug_leaves_its_traceback_in_a_file(plain: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idao.hall.ledgers.Ledgers.status", lambda self: 1 // 0)
    ran = run("status", home=plain.home)
    refused(ran, 70, "ZeroDivisionError")
    file = Path(ran.err.split("details in ")[1].strip())
    assert "ZeroDivisionError" in file.read_text()
    file.unlink()


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["plain", "json"])
def test_interrupted(plain: World, monkeypatch: pytest.MonkeyPatch, flags: list[str]) -> None:
    def stop(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("idao.hall.ledgers.Ledgers.status", stop)
    refused(run("status", *flags, home=plain.home), 130, "interrupted")


def test_a_full_disk_behind_stdout(plain: World) -> None:
    environment = {**os.environ, "IDAO_HOME": str(plain.home)}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "idao", "asset", "list"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith("idao: error: ") and "Traceback" not in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_talk_that_cannot_be_written_ends_nothing(plain: World, unbuffered: str) -> None:
    environment = {**os.environ, "IDAO_HOME": str(plain.home), "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "idao", "status"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True, env=environment)
    assert done.returncode == 0 and "quorum:" in done.stdout


@pytest.mark.parametrize("words", ["help quorum status", "quorum status --help", "help"])
def test_help_as_json(words: str) -> None:
    text = json.loads(run(*words.split(), "--json").out)["help"]
    assert text == run(*words.split()).out.rstrip("\n")


def test_a_reader_that_has_enough(plain: World) -> None:
    environment = {**os.environ, "IDAO_HOME": str(plain.home)}
    command = f"{sys.executable} -m idao events --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


# --- keys, locks, terminals ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked(plain: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = copy(plain, tmp_path_factory.mktemp("locked") / "copy")
    must("key", "passphrase", "--new-passphrase-file", world.folder / "new", home=world.home)
    return world


OPENS = {"asset check"}
"""Commands of READS that open data, and so need the key."""


@pytest.mark.parametrize("command", sorted(READS - OPENS))
def test_reading_needs_no_key(locked: World, command: str) -> None:
    rest = next(rest for name, rest, _ in STORY if name == command)
    must(*command.split(), *locked.fill(rest), home=locked.home)


@pytest.mark.parametrize(
    "words",
    ["contribute {in}/visits", "mint visits", "vote {proposal} yes", "propose again", "asset check",
     "asset get visits -o {in}/out", "proof visits -o {in}/p", "asset forget visits --yes", "key rotate",
     "account issue 5", "trust add {quorum}", "asset show visits --why"],
)  # fmt: skip
def test_a_locked_home_is_exit_code_9(locked: World, words: str) -> None:
    refused(run(*locked.fill(words), home=locked.home), 9, "IDAO_PASSPHRASE_FILE")
    wrong = locked.folder / "wrong"
    wrong.write_text("wrong\n")


def test_passphrases_come_by_file_variable_or_command_and_never_leak(locked: World) -> None:
    good, wrong = locked.folder / "new", locked.folder / "visits/README.txt"
    words = ["asset", "check", "--json"]
    for ran in (
        run(*words, "--passphrase-file", good, home=locked.home),
        run(*words, home=locked.home, IDAO_PASSPHRASE_FILE=str(good)),
        run(*words, home=locked.home, IDAO_PASSPHRASE_COMMAND=f"cat '{good}'"),
    ):
        assert ran.code == 0, ran
        assert "battery" not in ran.out + ran.err
    refused(run(*words, "--passphrase-file", wrong, home=locked.home), 9, "wrong passphrase")
    refused(run(*words, home=locked.home, IDAO_PASSPHRASE_COMMAND="exit 3"), 9, "ended with 3")
    bundle = locked.folder / "bundle"
    must("doctor", "--bundle", bundle, "--passphrase-file", good, home=locked.home)
    assert "battery" not in bundle.read_text()


@pytest.fixture
def held(world: World) -> Iterator[World]:
    """A home that another process drives."""
    fd = os.open(world.home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    os.truncate(fd, 0)
    os.write(fd, b"4711\n")
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield world
    os.close(fd)


@pytest.mark.parametrize("words", ["mint visits", "propose again", "config set wait 5", "key rotate"])
def test_a_held_lock_is_exit_code_8(held: World, words: str) -> None:
    refused(run(*held.fill(words), "--wait", "0", home=held.home), 8, "pid 4711")


def test_wait_waits(held: World) -> None:
    import time

    start = time.monotonic()
    refused(run("propose", "again", home=held.home, IDAO_WAIT="0.3"), 8)
    assert 0.3 <= time.monotonic() - start < 10


@pytest.mark.parametrize("command", sorted(READS))
def test_reading_works_while_the_lock_is_held(held: World, command: str) -> None:
    rest = next(rest for name, rest, _ in STORY if name == command)
    must(*command.split(), *held.fill(rest), home=held.home)


def test_nothing_asks_without_a_terminal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getpass", lambda *a, **k: pytest.fail("asked"))
    for words in (
        "asset forget visits",
        "member remove cleo",
        "name remove bob",
        "key phrase",
        "key recover",
    ):
        assert run(*words.split(), home=world.home, stdin="y\n").code in (2, 4)
    refused(run("init", home=world.folder / "other"), 9, "IDAO_PASSPHRASE_FILE")
    assert not (world.folder / "other" / "config.toml").exists()


# --- dry runs -----------------------------------------------------------------------------------------

WRITES = {"init", "contribute", "mint", "propose", "vote", "proof"} | {
    s[0] for s in STORY if s[0] not in READS and s[0] != "doctor"
}


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file but what SQLite keeps beside a database to coordinate its readers."""
    settled()  # closes what the commands before left to the end of their process
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.endswith("-shm"))
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in files if p.stat().st_size or p.suffix != ".db-wal"
    }


@pytest.fixture(scope="module")
def ready(plain: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A home in which every command could do its work once more."""
    world = copy(plain, tmp_path_factory.mktemp("ready") / "copy")
    must("trust", "add", world.ids["quorum"], home=world.home)
    must("peer", "add", world.ids["bob"], "192.168.1.20:24326", home=world.home)
    must("key", "phrase", "--out", world.folder / "words", home=world.home)
    must("backup", "create", "-o", world.folder / "b.idao-backup", home=world.home)
    world.ids["proposal"] = last("propose", "fresh", home=world.home)
    return world


@pytest.mark.parametrize("command", sorted(WRITES))
def test_dry_run_changes_nothing(ready: World, tmp_path: Path, command: str) -> None:
    world = copy(ready, tmp_path / "copy")
    for rest in {s[1] for s in STORY if s[0] == command}:
        fresh = {
            "key phrase": ("{in}/words", "{in}/other"),
            "member add": ("cleo", "dora"),
            "backup create": ("{in}/b.", "{in}/c."),
        }
        filled = world.fill(rest.replace(*fresh.get(command, ("", ""))))
        words = [*command.split(), *(w for w in filled if w != "--yes")]
        if command == "init":
            words += ["--home", str(world.folder / "fresh")]
        before = bytes_of(world.folder)
        ran = must(*words, "--dry-run", "--json", home=world.home)
        check(command, ran)
        assert ran.json.get("dry_run") is True or command in {"key phrase", "backup verify"}
        must(*words, "--dry-run", home=world.home)
        after = bytes_of(world.folder)
        assert [n for n in before.keys() | after.keys() if before.get(n) != after.get(n)] == []


@pytest.mark.parametrize("command", sorted(READS))
def test_reading_changes_nothing(world: World, command: str) -> None:
    rest = next(rest for name, rest, _ in STORY if name == command)
    before = bytes_of(world.folder)
    must(*command.split(), *world.fill(rest), home=world.home)
    assert bytes_of(world.folder) == before


# --- homes in every bad state ---------------------------------------------------------------------------


def noise(path: Path) -> None:
    path.write_bytes(bytes((i * 131 + 7) % 256 for i in range(5000)))


def cut(path: Path) -> None:
    data = path.read_bytes()
    for beside in path.parent.glob(path.name + "-*"):
        beside.unlink()
    path.write_bytes(data[: len(data) // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    path.unlink()
    for beside in path.parent.glob(path.name + "-*"):
        beside.unlink()
    db = sqlite3.connect(path)
    db.execute("create table notes(text)")
    db.commit()
    db.close()


def newer(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("pragma user_version = 99")
    db.commit()
    db.close()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


FILES = ("home.db", "ledgers/*.db", "config.toml", "keys/lock", "keys/identity.key", "keys/history")
SPOILT = [
    (file, damage)
    for file in FILES
    for damage in (noise, cut, emptied, a_folder, *((foreign, newer) if file.endswith(".db") else ()))
]
TRIED = (
    "status",
    "asset list",
    "audit",
    "mint visits",
    "doctor",
    "contribute {in}/visits --name more",
    "key show",
)


@pytest.mark.parametrize("file,damage", SPOILT, ids=lambda x: getattr(x, "__name__", x))
def test_spoilt_files_are_named_not_traced(world: World, file: str, damage: object) -> None:
    path = next(world.home.glob(file))
    damage(path)  # type: ignore[operator]
    some = False
    for words in TRIED:
        ran = run(*world.fill(words), *(["--json"] if "list" not in words else []), home=world.home)
        assert ran.code in (0, 1, 2, 4, 6, 9, 10), (words, ran)
        if ran.code not in ANSWERS:
            refused(ran, ran.code)
        elif "list" not in words:
            check(words.split(" {")[0].removesuffix(" visits"), ran)
        some = some or ran.code != 0
    assert some, "nobody noticed"
    if damage is newer:
        assert (
            "newer idao"
            in run("audit" if "ledgers" in file else "status", home=world.home).err
            + run("audit", home=world.home).out
        )


def test_the_doctor_sees_damage_and_says_what_to_do(world: World) -> None:
    cut(next((world.home / "ledgers").glob("*.db")))
    ran = run("doctor", "--json", home=world.home)
    check("doctor", ran)
    bad = [c for c in ran.json["checks"] if c["status"] == "fail"]
    assert ran.code == 6 and [c["name"] for c in bad] == ["ledger 1"] and bad[0]["hint"]


def test_the_bundle_holds_no_name_path_or_id(world: World) -> None:
    bundle = world.folder / "bundle.json"
    must("doctor", "--bundle", bundle, home=world.home)
    text = bundle.read_text()
    for secret in (
        "ana",
        "visits",
        "cleo",
        str(world.home),
        "quorum:",
        "idao:",
        "did:key",
        os.uname().nodename,
    ):
        assert secret not in text
    assert {c["name"] for c in json.loads(text)["checks"]} >= {"disk", "clock", "keys", "ledger 1", "outbox"}


# --- where nothing can be written -----------------------------------------------------------------------

SEALED_OFF = """
mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 99
shift
exec "$@"
"""


def in_a_sealed_home(home: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Runs Python where the home is on a read-only mount: a mode would not stop the superuser."""
    command = ["unshare", "-rm", "sh", "-c", SEALED_OFF, "sh", str(home), sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONPATH": "tests"}, check=False,
    )  # fmt: skip
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("no mounts of one's own here")
    return done


@pytest.mark.parametrize("beside", [True, False], ids=["with-wal", "alone"])
def test_a_home_on_a_read_only_mount_can_be_read(world: World, beside: bool) -> None:
    if not shutil.which("unshare"):
        pytest.skip("no unshare here")
    if not beside:
        for file in (world.home / "home.db", *(world.home / "ledgers").glob("*.db")):
            with sqlite3.connect(file) as db:
                db.execute("pragma wal_checkpoint(truncate)")
            db.close()
            for rest in ("-wal", "-shm"):
                file.with_name(file.name + rest).unlink(missing_ok=True)
    reads = [[*c.split(), *world.fill(r)] for c, r, _ in STORY if c in READS] + [
        ["proof", "visits", "-o", str(world.folder / "p")]
    ]
    code = (
        "from cli_world import run\nfrom pathlib import Path\n"
        f"home = Path({str(world.home)!r})\n"
        f"for words in {reads!r}:\n"
        "    ran = run(*words, home=home)\n"
        "    assert ran.code == 0, (words, ran)\n"
        "ran = run('mint', 'visits', home=home)\n"
        "assert ran.code == 1 and 'Read-only' in ran.err, ran\n"
        "print('read it all')\n"
    )
    done = in_a_sealed_home(world.home, code)
    assert done.stdout == "read it all\n", done.stderr


def test_a_path_that_means_something_to_sqlite(tmp_path: Path) -> None:
    home = tmp_path / "a?mode=memory&b#c%41 ä"
    must("init", "--no-passphrase", "--name", "odd", home=home)
    must("account", "issue", "5", home=home)
    assert must("status", "--json", home=home).json["quorums"][0]["height"] == 1
