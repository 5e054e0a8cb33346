"""The contract of the command line: forms, streams, exit codes, and homes in every bad state."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_world import READS, STORY, Ran, World, make, must, run, tell
from contract_world import plain, refused, world
from test_schemas import check

from idao import cli
from idao.completion import table
from idao.errors import EXIT_CODES

__all__ = ["plain", "world"]

COMMANDS = [c for c in table() if not c.children]


FAMILIES = [c for c in table() if c.children and c.words]


ID = re.compile(
    r"(idao|quorum|asset|class|dat|tx|proposal):[a-z2-7]{52}|did:key:z6Mk[1-9A-HJ-NP-Za-km-z]{44}"
)


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
