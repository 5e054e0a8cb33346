"""The contract on homes that are locked, held, spoilt or sealed off, and what a dry run leaves alone."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import READS, STORY, World, last, must, run, settled
from contract_world import ANSWERS, copy, plain, refused, world
from test_schemas import check

__all__ = ["plain", "world"]

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
