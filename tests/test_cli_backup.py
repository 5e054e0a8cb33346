"""`idao backup …` and `idao quorum recover` as typed: exit codes, full and read-only disks, kill -9."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from backup_world import _world, command_of, left, verify, world
from cli_world import World, make, must, run

from idao.crypto import phrase
from idao.dao import Dao

__all__ = ["_world", "world"]

pytestmark = pytest.mark.usefixtures("quarantine")


OTHER = phrase.phrase_from(bytes(32))


# --- create -------------------------------------------------------------------------------------------


def test_create_ends_with_the_path(world: World) -> None:
    out = world.folder / "new.idao-backup"
    ran = must("backup", "create", "-o", out, home=world.home)
    assert ran.out == f"{out}\n" and out.is_file()
    assert (
        must("backup", "create", "-o", world.folder / "x", "-q", home=world.home).out == f"{world.folder}/x\n"
    )
    assert left(world.folder, world.home) == []


def test_create_into_a_folder_names_the_file(world: World) -> None:
    folder = world.folder / "backups"
    folder.mkdir()
    ran = must("backup", "create", "-o", folder, "--json", home=world.home)
    (path,) = folder.iterdir()
    assert ran.json["path"] == str(path) and path.name.endswith("Z-ana.idao-backup")
    assert ran.json["opens_with"] == ["phrase"] and ran.json["missing"] == []


def test_create_replaces_only_with_yes(world: World) -> None:
    out = world.folder / "mine"
    out.write_text("precious")
    ran = run("backup", "create", "-o", out, home=world.home)
    assert (ran.code, ran.out) == (2, "") and "--yes" in ran.err
    assert out.read_text() == "precious"
    must("backup", "create", "-o", out, "--yes", home=world.home)
    verify(world, out)


@pytest.mark.parametrize("where", ["none/b", "b/c"])
def test_create_where_it_cannot(world: World, where: str) -> None:
    ran = run("backup", "create", "-o", world.folder / where, home=world.home)
    assert (ran.code, ran.out) == (2, "")


def test_dry_runs_change_nothing(world: World) -> None:
    ran = must("backup", "create", "-o", world.folder / "x", "--dry-run", home=world.home)
    assert not (world.folder / "x").exists() and "would write" in ran.out
    words = world.folder / "words"
    new = world.folder / "again"
    must("backup", "restore", world.folder / "b", "--phrase-file", words, "--dry-run", home=new)
    assert not new.exists()


def test_a_dry_run_of_restore_refuses_what_restore_would(world: World) -> None:
    (world.folder / "other").write_text(OTHER)
    new, words = world.folder / "again", world.folder / "words"
    restore = ("backup", "restore", world.folder / "b", "--dry-run", "--phrase-file")
    assert run(*restore, world.folder / "other", home=new).code == 9
    assert run(*restore, words, "--new-passphrase-file", world.folder / "none", home=new).code == 9
    assert not new.exists()


def test_no_home(tmp_path: Path) -> None:
    assert run("backup", "create", home=tmp_path / "none").code == 10


def test_cron_never_waits_for_a_passphrase(tmp_path: Path) -> None:
    (tmp_path / "pass").write_text("long and secret\n")
    home = tmp_path / "home"
    must("init", "--passphrase-file", tmp_path / "pass", home=home)
    assert must("backup", "create", "-o", tmp_path / "a", "--json", home=home).json["opens_with"] == [
        "phrase"
    ]
    ran = must(
        "backup", "create", "-o", tmp_path / "b", "--json", "--passphrase-file", tmp_path / "pass", home=home
    )
    assert ran.json["opens_with"] == ["phrase", "passphrase"]
    assert must("backup", "verify", tmp_path / "b", "--json", home=home).json["drill"] is False
    ran = must(
        "backup", "verify", tmp_path / "b", "--json", "--passphrase-file", tmp_path / "pass", home=home
    )
    assert ran.json["drill"] is True
    (tmp_path / "wrong").write_text("short\n")
    assert (
        run("backup", "create", "-o", tmp_path / "c", "--passphrase-file", tmp_path / "wrong", home=home).code
        == 9
    )
    ran = run("backup", "verify", tmp_path / "b", "--passphrase-file", tmp_path / "wrong", home=home)
    assert (ran.code, ran.out) == (9, "")


@pytest.mark.parametrize("name", ["home.db", "ledger", "keys/backup.pub"])
@pytest.mark.parametrize("how", ["gone", "noise"])
def test_create_of_a_broken_home_names_what_is_broken(world: World, name: str, how: str) -> None:
    path = next(world.home.glob("ledgers/*.db")) if name == "ledger" else world.home / name
    for log in path.parent.glob(path.name + "-*"):
        log.unlink()
    path.unlink() if how == "gone" else path.write_bytes(b"noise" * 1000)
    ran = run("backup", "create", "-o", world.folder / "c", home=world.home)
    assert ran.code in (1, 6) and "Traceback" not in ran.err
    assert (world.folder / "c").exists() == ((name, how) == ("ledger", "gone")), (
        "what is left is worth keeping"
    )
    assert path.name in ran.err + ran.out or name in ran.err + ran.out


# --- verify -------------------------------------------------------------------------------------------


def test_verify_says_what_it_has_shown(world: World) -> None:
    without = must("backup", "verify", world.folder / "b", "--json", home=world.home).json
    assert without["ok"] and not without["drill"] and without["idao"] is None
    drilled = verify(world, world.folder / "b")
    names = {c["name"].split()[0] for c in drilled["checks"]}
    assert drilled["drill"] and names == {"bytes", "file", "keys", "home.db", "ledger", "contents"}
    assert must("backup", "verify", world.folder / "b", home=world.folder / "no-home").code == 0


def test_verify_fails_with_6_and_names_it(world: World) -> None:
    data = bytearray((world.folder / "b").read_bytes())
    data[5000] ^= 4
    (world.folder / "bad").write_bytes(data)
    ran = run("backup", "verify", world.folder / "bad", home=world.home)
    assert ran.code == 6 and "backup-damaged" in ran.out
    ran = run("backup", "verify", world.folder / "visits" / "visits.csv", "--json", home=world.home)
    assert ran.code == 6 and ran.json["checks"][0]["name"] == "not-a-backup"
    assert run("backup", "verify", world.folder / "none", home=world.home).code == 4
    assert run("backup", "verify", world.folder, home=world.home).code == 4


def test_the_wrong_phrase_is_9(world: World) -> None:
    ran = run("backup", "verify", world.folder / "b", "--phrase-file", "-", home=world.home, stdin=OTHER)
    assert (ran.code, ran.out) == (9, "")
    ran = run(
        "backup",
        "restore",
        world.folder / "b",
        "--phrase-file",
        "-",
        home=world.folder / "again",
        stdin=OTHER,
    )
    assert (ran.code, ran.out) == (9, "") and not (world.folder / "again").exists()


# --- restore ------------------------------------------------------------------------------------------


def test_restore_says_what_stays_behind(world: World) -> None:
    must("mint", "visits", home=world.home)
    must("backup", "create", "-o", world.folder / "b2", home=world.home)
    new = world.folder / "again"
    words = world.folder / "words"
    ran = must("backup", "restore", world.folder / "b2", "--phrase-file", words, home=new)
    assert (
        "left behind in the old ledger: 1 classes, 1 DATs" in ran.err and "'ana-r1' continues it" in ran.err
    )
    assert ran.out.splitlines()[-1].startswith("idao:")
    shown = must("status", home=new)
    assert "ana ended at height" in shown.out and "continued by quorum:" in shown.out
    must("audit", home=new)
    must("asset", "get", world.ids["asset"], "-o", world.folder / "out", home=new)
    must("mint", "visits", home=new)
    must("proof", world.ids["asset"], "-o", world.folder / "p", home=new)
    assert "says it continues quorum:" in must("verify", world.folder / "p", home=new).out
    assert run("backup", "restore", world.folder / "b2", "--phrase-file", words, home=new).code == 2


def test_restore_asks_for_the_phrase(world: World) -> None:
    ran = run("backup", "restore", world.folder / "b", home=world.folder / "again")
    assert ran.code == 2 and "--phrase-file" in ran.err


def test_a_copied_home_is_told_what_to_do(world: World) -> None:
    shutil.copytree(world.home, world.folder / "copy")
    copy = world.folder / "copy"
    ran = run("account", "issue", "5", "--json", home=copy)
    assert (ran.code, ran.out) == (5, "") and ran.error["code"] == "quarantine"
    assert "idao quorum recover" in ran.error["hint"]
    must("asset", "list", home=copy)
    assert "is a copy" in must("status", home=copy).out
    assert len(must("quorum", "recover", "--dry-run", "--json", home=copy).json["would_end"]) == 1
    done = must("quorum", "recover", "--phrase-file", world.folder / "words", "--json", home=copy).json
    assert [q["name"] for q in done["quorums"]] == ["ana-r1"]
    must("account", "issue", "5", home=copy)
    assert must("quorum", "recover", "--json", home=copy).json == {"quorums": []}
    assert run("account", "issue", "5", "--quorum", "ana", home=copy).code == 5
    must("account", "issue", "5", home=world.home)


# --- reminders ----------------------------------------------------------------------------------------


def test_status_reminds_until_a_backup_was_shown_to_restore(world: World) -> None:
    home = world.folder / "fresh"
    must("init", "--no-passphrase", home=home)
    must("key", "phrase", "--out", world.folder / "fresh-words", home=home)

    def needs() -> str:
        return str(must("status", "--json", home=home).json["needs"])

    def doctor() -> str:
        ran = run("doctor", "--json", home=home)
        return str(next(c["status"] for c in ran.json["checks"] if c["name"] == "backup"))

    assert "make a backup" in needs() and doctor() == "warn"
    must("backup", "create", "-o", world.folder / "f", home=home)
    assert "can be restored" in needs() and doctor() == "warn"
    must("backup", "verify", world.folder / "f", home=home)
    assert "can be restored" in needs(), "its bytes alone show little"
    must("backup", "verify", world.folder / "b", "--phrase-file", world.folder / "words", home=home)
    assert "can be restored" in needs(), "somebody else's backup"
    must("backup", "verify", world.folder / "f", "--phrase-file", world.folder / "fresh-words", home=home)
    assert "backup" not in needs() and doctor() == "ok"


# --- disks that will not ------------------------------------------------------------------------------


def shell_in_background(script: str, world: World) -> subprocess.Popen[str]:
    return subprocess.Popen(**command_of(script, world))


# --- kill -9 ------------------------------------------------------------------------------------------


def test_backups_while_others_write(world: World) -> None:
    """Contributions, forgetting and turning the key go on while backups are made: each one restores."""
    script = """
    set -e
    for n in 1 2 3 4 5 6; do
        seq $((n * 5000)) > "$W/visits/more$n.txt"
        idao contribute "$W/visits" --name v$n -q > "$W/last"
        if [ $n = 3 ]; then idao asset forget v3 --yes; idao key rotate; fi
    done >> "$W/log" 2>&1
    """
    writer = shell_in_background(script, world)
    made = 0
    while writer.poll() is None:
        must("backup", "create", "-o", world.folder / f"live{made}", home=world.home)
        made += 1
    assert writer.returncode == 0 and made >= 4, (world.folder / "log").read_text()
    for n in range(0, made, -(-made // 6)):
        assert verify(world, world.folder / f"live{n}")["ok"]


def test_lineage_and_charter_go_on(world: World) -> None:
    from idao.ledger import assets
    from idao.ledger.idao import rules_of

    (world.folder / "clean.csv").write_text("visit,age\n1,30\n2,40\n")
    child = must(
        "contribute", world.folder / "clean.csv", "--parent", world.ids["asset"], "-q", home=world.home
    ).out.strip()
    proposal = must("propose", "derive", "--set", "policy.derive=allow", "-q", home=world.home).out.strip()
    must("vote", proposal, "yes", home=world.home)
    old = Dao.open(world.home)
    assert rules_of(old.state(), old.me)["policy.derive"] == "allow"
    must("backup", "create", "-o", world.folder / "b2", home=world.home)
    again = world.folder / "again"
    must("backup", "restore", world.folder / "b2", "--phrase-file", world.folder / "words", home=again)
    new = Dao.open(again)
    assert rules_of(new.state(), new.me) == rules_of(old.state(), old.me)
    assert new.assets.show(child)["parents"] == [world.ids["asset"]]
    for version in old.state().scan(assets.AssetVersion):
        kept = new.state().need(assets.AssetVersion, version.asset, version.version)
        for same in ("root", "manifest", "card", "policy", "parents", "score", "verified"):
            assert getattr(kept, same) == getattr(version, same), same


def test_the_passphrase_alone_restores_what_can_be_read(tmp_path: Path) -> None:
    """The paper is lost: the data come back, and no ledger goes on until the phrase turns up."""
    world = make(tmp_path)
    given = {"IDAO_PASSPHRASE_FILE": str(world.folder / "new")}
    must("init", "--name", "ana", home=world.home, **given)
    must("contribute", world.folder / "visits", "--name", "visits", home=world.home, **given)
    must("key", "phrase", "--out", world.folder / "words", home=world.home, **given)
    must("backup", "create", "-o", world.folder / "b", home=world.home, **given)
    home = world.folder / "again"
    told = must("backup", "restore", world.folder / "b", "--json", home=home, **given)
    assert told.json["ok"] and told.json["quorums"] == [] and "quorum recover" in told.err
    must("asset", "get", "visits", "-o", world.folder / "out", home=home, **given)
    assert (world.folder / "out/visits.csv").read_bytes() == (world.folder / "visits/visits.csv").read_bytes()
    refused = run("account", "issue", "1", "--json", home=home, **given)
    assert (refused.code, refused.error["code"]) == (5, "quarantine")
    must("quorum", "recover", "--phrase-file", world.folder / "words", home=home, **given)
    must("account", "issue", "1", home=home, **given)
    for wrong in ({}, {"IDAO_PASSPHRASE_FILE": str(world.folder / "visits/README.txt")}):
        ran = run("backup", "restore", world.folder / "b", home=world.folder / "none", **wrong)
        assert ran.code in (2, 9) and not (world.folder / "none" / "config.toml").exists()


def test_a_drill_that_is_ended_leaves_nothing(world: World, tmp_path: Path) -> None:
    """As by a timer's limit, or a machine that goes down: what it restores is as large as the home."""
    must("backup", "create", "-o", tmp_path / "b", home=world.home)
    (tmp_path / "tmp").mkdir()
    how = command_of('TMPDIR="$1" exec "$2" -m idao backup verify "$3" --phrase-file "$W/words"', world)
    args = [*how["args"], "sh", str(tmp_path / "tmp"), sys.executable, str(tmp_path / "b")]
    drill = subprocess.Popen(args, env=how["env"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while drill.poll() is None and not any((tmp_path / "tmp").iterdir()):
        time.sleep(0.005)
    drill.terminate()
    assert drill.wait(60) in (130, 0, -signal.SIGTERM), "it may have been done already"
    assert not any((tmp_path / "tmp").iterdir())
