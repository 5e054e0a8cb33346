"""What odd terminals, folders, names and outputs must not break: nothing here is about one command alone."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_world import must, run
from test_schemas import validator

from idao import cli, home
from idao.commands.demo import _Story
from idao.crypto.keys import Signer
from idao.dao import Dao
from idao.errors import IdaoError
from idao.hall import backup, doctor, packing
from idao.hall.contribute import Wish
from idao.home import Home
from idao.model import show_id
from idao.store import backup as files
from idao.store import documents, migrate, signatures


def typed(path: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "idao", "--home", str(path), *words],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        check=False,
    )


# --- config.toml --------------------------------------------------------------------------------------


def test_what_a_hand_wrote_outlives_a_setting(fresh: Callable[[], Dao]) -> None:
    path = fresh().home.path
    by_hand = '\n["x y"]\n"a b" = 1\n"ü" = "v"\nplain = true\n'
    with (path / "config.toml").open("a", encoding="utf-8") as f:
        f.write(by_hand)
    must("config", "set", "wait", "20", home=path)
    assert Home.open(path).config["x y"] == {"a b": 1, "ü": "v", "plain": True}
    assert Home.open(path).config["wait"] == 20


def test_an_address_of_no_text_is_refused(fresh: Callable[[], Dao]) -> None:
    path = fresh().home.path
    for host in ("fe80::1%\udcff", "fe80::1%a\nb"):
        ran = run("config", "set", "node.hosts", host, home=path)
        assert (ran.code, ran.out) == (2, "") and "IP addresses" in ran.err
    must("config", "set", "node.hosts", "::1,127.0.0.1", home=path)


def test_the_end_of_input_is_no_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*_: Any, **__: Any) -> str:
        raise EOFError

    monkeypatch.setattr(home, "ask_passphrase", end)
    ran = run("init", home=tmp_path / "home")
    assert (ran.code, ran.out) == (2, "") and "nothing was typed" in ran.err


# --- outputs ------------------------------------------------------------------------------------------


def test_a_pipe_and_a_device_stay_what_they_are(tmp_path: Path) -> None:
    """As root a file in the place of /dev/null would break the machine."""
    pipe, got = tmp_path / "pipe", bytearray()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.extend(pipe.read_bytes()), daemon=True)
    reader.start()
    home.write_file(pipe, b"through")
    reader.join(60)
    assert bytes(got) == b"through" and pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_file_is_made_under_a_name_of_any_length(tmp_path: Path) -> None:
    name = "é" * 127
    home.write_file(tmp_path / name, b"1")
    home.write_file(tmp_path / name, b"2")
    assert (tmp_path / name).read_bytes() == b"2" and len(list(tmp_path.iterdir())) == 1


def test_nothing_is_written_through_a_link_laid_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of many users somebody may know the name of the file that is written first."""
    other = tmp_path / "theirs"
    monkeypatch.setattr(home.os, "urandom", bytes)
    for aside in (f".out.{os.getpid()}", f".out.{bytes(4).hex()}"):
        (tmp_path / aside).symlink_to(other)
    with pytest.raises(FileExistsError):
        home.write_file(tmp_path / "out", b"secret")
    assert not other.exists()


def test_a_terminal_that_is_not_utf_8(fresh: Callable[[], Dao], tmp_path: Path) -> None:
    path = fresh().home.path
    (tmp_path / "f").write_text("a,b\n1,2\n")
    must("contribute", tmp_path / "f", "--name", "ünï ✓", home=path)
    done = typed(path, "asset", "list", PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 0 and b"\\xfcn\\xef \\u2713" in done.stdout, done.stderr
    assert typed(path, "help", PYTHONIOENCODING="latin-1:strict").returncode == 0


def test_ids_on_standard_input_that_are_no_text(fresh: Callable[[], Dao]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "idao", "--home", str(fresh().home.path), "asset", "show", "-"],
        capture_output=True,
        input=b"\xff\xfe\n",
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        check=False,
    )
    assert done.returncode == 4, done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_an_output_without_room() -> None:
    for words in (["--version"], ["schema"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "idao", *words], stdout=full, stderr=subprocess.PIPE, check=False
            )
        assert done.returncode == 1 and done.stderr.startswith(b"idao: error: No space left"), done.stderr


def test_a_bug_is_told_where_no_file_can_be_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nowhere(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", nowhere)
    assert cli._bug(ZeroDivisionError("here")) == 70
    said = capsys.readouterr().err
    assert "ZeroDivisionError: here" in said and "idao: error: a bug in idao" in said


def test_a_proof_that_cannot_be_read_has_no_subject(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"nothing")
    ran = run("verify", tmp_path / "p", "--json", home=tmp_path / "none")
    assert ran.code == 6 and ran.json["subject"] is None
    validator("verify").validate(ran.json)


@pytest.mark.parametrize(
    "words",
    [
        "quorum doctor",
        "migrate",
        "migrate --dry-run",
        "quorum recover",
        "log checkpoint",
        "key phrase --out x",
    ],
)
def test_damage_is_told_as_the_schema_says(lived: Any, words: str) -> None:
    (lived.path / "home.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    for ledger in (lived.path / "ledgers").glob("*.db"):
        data = bytearray(ledger.read_bytes())
        data[100:4096] = bytes(3996)
        ledger.write_bytes(data)
    (lived.path / "keys" / "phrase.key").write_bytes(b"nothing")
    ran = run(*words.split(), "--json", home=lived.path)
    assert ran.code == 6 and ran.error["message"]
    validator(words.partition(" -")[0]).validate(ran.json)


# --- Ctrl-C -------------------------------------------------------------------------------------------


def test_who_verifies_for_an_audit_leaves_an_interrupt_to_the_audit() -> None:
    """Ctrl-C reaches both processes; of two tracebacks one would be on the terminal."""
    signer, message = Signer(bytes(32)), b"idao/transaction/1\0x"
    signature = signer.sign_tx(b"x")
    taken = signatures.Signatures()
    check = taken.at(lambda: "here", "does not hold")
    for _ in range(signatures.BATCH):
        assert check(signer.public, signature, message)
    assert taken._beside is not None
    pipe, process = taken._beside
    assert pipe.poll(60), "the first batch is never answered"
    os.kill(process.pid or 0, signal.SIGINT)
    for _ in range(signatures.BATCH):
        check(signer.public, signature, message + b"!")
    assert len(taken.finish()) == signatures.BATCH


def test_a_backup_that_is_interrupted_says_no_more_than_that(
    lived: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive thrown away half made writes its last bytes, into a file that is closed by then."""
    said: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    monkeypatch.setattr(files, "BLOCK_BYTES", 1024)
    monkeypatch.setattr(packing._Packing, "_index", interrupted)
    with pytest.raises(KeyboardInterrupt):
        packing.create(lived.dao(), tmp_path / "b", with_passphrase=False)
    gc.collect()
    assert said == [] and list(tmp_path.glob("*b*")) == []


# --- locks --------------------------------------------------------------------------------------------


def test_a_file_system_without_locks_is_no_other_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="No locks"), home.file_lock(tmp_path / "lock", 60):
        pass


# --- backups ------------------------------------------------------------------------------------------


def test_a_drill_without_room_blames_no_backup(
    lived: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dao = lived.dao()
    packing.create(dao, tmp_path / "b", with_passphrase=False)

    def full(*_: Any) -> None:
        raise IdaoError("no space left", code="disk-full")

    monkeypatch.setattr(backup, "_place", full)
    with pytest.raises(IdaoError, match="no space left"):
        backup.drill(tmp_path / "b", backup.Opener(words=dao.keyring.phrase()))


def test_a_restore_cut_short_is_cleared_whatever_it_left(tmp_path: Path) -> None:
    """A backup by an older idao is migrated on its way in, which leaves copies."""
    names = ("keys", "ledgers", "packs", migrate.COPIES, backup.STAGE)
    for name in names:
        (tmp_path / name).mkdir()
    backup.require_empty(tmp_path)
    backup._clear(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damage_in_the_words_of_sqlite_is_a_failed_check(lived: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says of a damaged page can hold bytes of that page."""

    def garbled(_: Any) -> str:
        return b"row \xff is missing".decode()

    monkeypatch.setattr(doctor, "_quick_check", garbled)
    checks = {c.name: c for c in doctor.examine(lived.path)}
    assert checks["home.db"].status == checks["ledger 1"].status == doctor.FAIL
    assert checks["outbox"].status == doctor.OK


def test_damage_is_told_by_asset_and_stands_in_no_way_unsaid(lived: Any, tmp_path: Path) -> None:
    """A version's hash is a name that no command takes."""
    (tmp_path / "other").write_text("a,b\n1,2\n")
    other = lived.dao().assets.contribute([str(tmp_path / "other")], Wish(name="other"))["asset"]
    packs = set((lived.path / "packs").iterdir())
    newest = max(packs, key=lambda p: p.stat().st_mtime_ns)
    for pack in packs - {newest}:
        pack.write_bytes(b"")
    ran = run("asset", "check", "--json", home=lived.path)
    assert ran.code == 6 and f"{lived.asset}@1" in {f["where"] for f in ran.json["findings"]}
    ran = run("asset", "forget", other, "--yes", home=lived.path)
    assert ran.code == 6 and f"idao asset forget {lived.asset}" in ran.err, ran.err
    checks = {c.name: c for c in doctor.examine(lived.path)}
    assert checks["packs"].status == doctor.FAIL and newest.name not in checks["packs"].detail


def test_a_pack_whose_chunks_are_forgotten_may_be_gone(fresh: Callable[[], Dao], tmp_path: Path) -> None:
    """A crash leaves its row to the next intake."""
    dao = fresh()
    (tmp_path / "f").write_text("a,b\n1,2\n")
    dao.assets.contribute([str(tmp_path / "f")], Wish())
    (pack,) = (dao.home.path / "packs").iterdir()
    pack.unlink()
    assert {c.name: c.status for c in doctor.examine(dao.home.path)}["packs"] == doctor.FAIL
    with dao.home_db() as db:
        db.execute("delete from chunk")
    assert {c.name: c.status for c in doctor.examine(dao.home.path)}["packs"] == doctor.OK


def test_a_home_without_its_packs_is_checked(lived: Any) -> None:
    shutil.rmtree(lived.path / "packs")
    ran = run("asset", "check", "--json", home=lived.path)
    assert ran.code == 6 and any("packs/" in f["where"] for f in ran.json["findings"])


def test_what_idao_keeps_in_a_home_is_no_data(fresh: Callable[[], Dao], tmp_path: Path) -> None:
    path = fresh().home.path
    (tmp_path / "link").symlink_to(path / "keys")
    for what in (path / "keys", path / "home.db", path / "keys" / "history", tmp_path / "link"):
        ran = run("contribute", what, home=path)
        assert ran.code == 2 and "its keys are no data" in ran.err, ran
    (path / "mine").mkdir()
    (path / "mine" / "f").write_text("a,b\n1,2\n")
    must("contribute", path / "mine", home=path)


# --- copies, and homes that cannot be written -------------------------------------------------------


@pytest.mark.usefixtures("quarantine")
def test_a_contribution_to_a_copy_says_what_to_do(fresh: Callable[[], Dao], tmp_path: Path) -> None:
    shutil.copytree(fresh().home.path, tmp_path / "copy")
    (tmp_path / "f").write_text("a,b\n1,2\n")
    for more in ((), ("--dry-run",)):
        ran = run("contribute", tmp_path / "f", *more, home=tmp_path / "copy")
        assert ran.code == 5 and "idao quorum recover" in ran.err, ran.err


def test_a_dry_run_of_a_recovery_that_is_not_wanted_says_so(fresh: Callable[[], Dao]) -> None:
    ran = must("quorum", "recover", "--dry-run", home=fresh().home.path)
    assert ran.out == "no ledger here was copied or moved\n"


def test_a_dry_run_takes_no_lock(fresh: Callable[[], Dao]) -> None:
    dao = fresh()
    who = show_id("idao", dao.me)
    lock = dao.home.path / "lock"
    lock.unlink(missing_ok=True)
    must("peer", "add", who, "127.0.0.1:4747", "--dry-run", home=dao.home.path)
    assert not lock.exists()


# --- folders that hold something already -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["keys/mine.pem", "ledgers/2026.db", "keys/old/identity.key"])
def test_a_home_takes_no_folder_that_is_in_use(tmp_path: Path, name: str) -> None:
    """What an init that was cut short has left is made anew, and nothing else."""
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("precious")
    for more in ((), ("--dry-run",)):
        ran = run("init", "--no-passphrase", *more, home=tmp_path)
        assert (ran.code, ran.out) == (2, "") and "nothing was changed" in ran.err
    assert (tmp_path / name).read_text() == "precious" and not (tmp_path / "packs").exists()


def test_a_home_beside_other_files_leaves_them_to_their_readers(tmp_path: Path) -> None:
    (tmp_path / "ours").write_text("x")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "lock").write_text("of an init that was cut short")
    tmp_path.chmod(0o755)
    must("init", "--no-passphrase", home=tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_forgetting_that_was_cut_short_is_finished(lived: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the keys of the first version were gone: the second must be forgotten all the same."""
    dao = lived.dao()
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(documents.Documents, "forget", interrupted)
        dao.assets.forget(lived.asset)
    told = lived.dao().assets.forget(lived.asset)
    assert told["versions"] == 2
    with dao.assets.opened() as (contents, _):
        assert contents.versions() == []


def test_a_contribution_cut_short_before_it_signed_goes_on_as_one_asset(
    fresh: Callable[[], Dao], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each such run has noted of a version is no asset, and keeps no key when the asset is forgotten."""
    dao, file = fresh(), tmp_path / "f"
    path = dao.home.path

    def cut_short() -> None:
        with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
            m.setattr(Dao, "submit", interrupted)
            Dao.open(path).assets.contribute([str(file)], Wish())

    def again() -> dict[str, Any]:
        return Dao.open(path).assets.contribute([str(file)], Wish())

    file.write_text("a,b\n1,2\n")
    for _ in range(4):
        cut_short()
    first = again()
    for _ in range(3):
        assert again()["unchanged"]
    file.write_text("a,b\n1,2\n3,4\n")
    for _ in range(2):
        cut_short()
    second = again()
    assert (second["asset"], second["version"]) == (first["asset"], 2)
    assert again()["unchanged"] and again()["version"] == 2
    cut_short_terms = Wish(licence="MIT")
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(Dao, "submit", interrupted)
        Dao.open(path).assets.contribute([str(file)], cut_short_terms)
    assert len(Dao.open(path).assets.listing()) == 1
    assert Dao.open(path).assets.forget(first["asset"])["versions"] == 2
    with Dao.open(path).assets.opened() as (contents, _):
        assert contents.versions() == []


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


# --- demo ---------------------------------------------------------------------------------------------


def test_the_story_takes_no_orders_and_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDAO_QUORUM", "one of the user's own")
    folder = tmp_path / "a b"
    folder.mkdir()
    story = _Story(folder)
    story._make_visits(folder / "clinic")
    me = story._run("init --name clinic --no-passphrase")
    assert me.startswith("idao:")
    assert story._run("contribute", str(folder / "clinic")).startswith("asset:")
