"""Backups: what goes in comes out, nothing else opens them, damage is found, no chain forks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from idao.dao import Dao
from idao.errors import IdaoError, Locked, NotFound, Refused, UsageError, VerificationFailed
from idao.hall import backup, founding, packing, recovery
from idao.hall.backup import Opener
from idao.hall.contribute import Wish
from idao.model import show_id
from idao.node import tls
from idao.store import backup as files
from idao.store.ledger import LedgerStore

pytestmark = pytest.mark.usefixtures("quarantine")
PASSPHRASE = "correct horse battery staple"


def words_of(dao: Dao) -> str:
    return dao.keyring.phrase()


def make(dao: Dao, out: Path, **more: Any) -> packing.Made:
    return packing.create(dao, out, **{"with_passphrase": False, **more})


@pytest.fixture
def made(lived: Any, tmp_path: Path) -> tuple[Dao, Path, str]:
    dao = lived.dao()
    out = tmp_path / "b.idao-backup"
    make(dao, out)
    return dao, out, words_of(dao)


def test_a_restored_home_has_everything(made: Any, lived: Any, tmp_path: Path) -> None:
    dao, out, words = made
    done = backup.restore(out, tmp_path / "new", backup.Opener(words))
    assert done.idao == dao.me and not done.findings and not done.waiting
    new = Dao.open(tmp_path / "new")
    (one,) = done.quorums
    assert one.name == "clinic-r1" and one.parent == dao.quorum and one.parent_height == dao.store.height
    assert new.quorum == one.quorum != dao.quorum
    asked = dao.assets.show(lived.asset)
    shown = new.assets.show(lived.asset)
    for same in ("asset", "name", "version", "owner", "kind", "category", "license", "verified", "score",
                 "scores", "policy", "root"):  # fmt: skip
        assert shown[same] == asked[same], same
    assert [v["root"] for v in shown["versions"]] == [v["root"] for v in asked["versions"]]
    assert new.assets.check() == [] and all(r.ok for r in new.ledgers.audit().values())
    new.assets.get(lived.asset, tmp_path / "out")
    for path in lived.data.rglob("*"):
        if path.is_file():
            assert (tmp_path / "out" / path.relative_to(lived.data)).read_bytes() == path.read_bytes()


def test_the_restored_home_works(made: Any, lived: Any, tmp_path: Path) -> None:
    dao, out, words = made
    backup.restore(out, tmp_path / "new", backup.Opener(words))
    new = Dao.open(tmp_path / "new")
    assert new.tokens.mint(lived.asset, value=5)["dat"] != lived.dat
    (lived.data / "more.txt").write_text("more\n")
    again = new.assets.contribute([str(lived.data)], Wish(name="clinic 2026"))
    assert (again["asset"], again["version"], again["verified"]) == (lived.asset, 3, True)
    old = Dao.open(tmp_path / "new", quorum=show_id("quorum", dao.quorum))
    assert lived.dat in {t["dat"] for t in old.tokens.list_dats()}, "the old ledger stays readable"
    with pytest.raises(Refused) as refused:
        old.tokens.issue(1)
    assert refused.value.code == "ended"
    rows = {q["name"]: q for q in new.ledgers.status()["quorums"]}
    assert rows["clinic"]["standing"] == "ended" and rows["clinic-r1"]["standing"] == "live"
    assert rows["clinic"]["continued_by"] == rows["clinic-r1"]["quorum"]


def test_the_restored_node_is_known_by_its_certificate(lived: Any, tmp_path: Path) -> None:
    """The members of its quorums let no other in."""
    dao, out = lived.dao(), tmp_path / "b.idao-backup"
    before = tls.identity(dao.home.path)
    make(dao, out)
    backup.restore(out, tmp_path / "new", backup.Opener(words_of(dao)))
    after = tls.identity(tmp_path / "new")
    assert after.pin == before.pin and after.path.read_bytes() == before.path.read_bytes()
    assert after.path.stat().st_mode & 0o777 == 0o600


def test_a_proof_of_the_restored_home_shows_the_break(made: Any, lived: Any, tmp_path: Path) -> None:
    from idao import proof

    dao, out, words = made
    backup.restore(out, tmp_path / "new", backup.Opener(words))
    new = Dao.open(tmp_path / "new")
    _, data, _ = new.proofs.make(lived.asset)
    assert proof.judge(data).ok
    parent = proof.parse(data).bundle.genesis.parent
    assert parent is not None and parent.quorum == dao.quorum and parent.height == dao.store.height


# --- who may open it ----------------------------------------------------------------------------------


def test_the_key_for_backups_is_pinned() -> None:
    from idao.crypto import phrase

    seed = phrase.seed_from(phrase.phrase_from(bytes(32)))
    assert phrase.backup_key(seed).hex() == "37db21be970cf92db46bf14c34212c6a624171e761220aa9390a32c3e61a8552"


def test_nothing_outside_tells_whose_it_is(made: Any) -> None:
    dao, out, words = made
    data = out.read_bytes()
    header = backup.inspect(out)
    assert not header.lock and not header.wrapped, "a lock without passphrase would open it to everybody"
    for secret in (dao.me, dao.quorum, b"clinic", b"SQLite", words.split()[0].encode()):
        assert secret not in data
    assert out.stat().st_mode & 0o077 == 0


def test_another_phrase_does_not_open_it(made: Any, fresh: Any, tmp_path: Path) -> None:
    _, out, _ = made
    other = words_of(fresh())
    with pytest.raises(Locked, match="not the recovery phrase"):
        backup.restore(out, tmp_path / "new", backup.Opener(other))
    assert not (tmp_path / "new").exists()
    with pytest.raises(Locked):
        backup.drill(out, Opener(passphrase=PASSPHRASE))


@pytest.fixture
def locked(tmp_path: Path) -> tuple[Dao, str]:
    (tmp_path / "pass").write_text(PASSPHRASE)
    made = founding.create(tmp_path / "locked", name="bea", domain=None, passphrase=PASSPHRASE)
    assert made.words
    return Dao.open(tmp_path / "locked", passphrase_file=str(tmp_path / "pass")), made.words


def test_cron_needs_no_secret_and_the_phrase_no_passphrase(locked: Any, tmp_path: Path) -> None:
    dao, words = locked
    out = tmp_path / "b"
    make(Dao.open(dao.home.path), out)
    own, checks = backup.drill(out, Opener(words))
    assert own == dao.me and all(c.ok for c in checks)
    backup.restore(out, tmp_path / "same", backup.Opener(words))
    backup.restore(out, tmp_path / "changed", backup.Opener(words), relock=True, passphrase="another one")
    (tmp_path / "new-pass").write_text("another one")
    for home, opens, fails in (("same", "pass", "new-pass"), ("changed", "new-pass", "pass")):
        Dao.open(tmp_path / home, passphrase_file=str(tmp_path / opens)).tokens.issue(1)
        with pytest.raises(Locked):
            Dao.open(tmp_path / home, passphrase_file=str(tmp_path / fails)).keys()
    assert not list((tmp_path / "same").rglob("phrase.key"))


def test_the_passphrase_may_open_it_too(locked: Any, tmp_path: Path) -> None:
    dao, words = locked
    out = tmp_path / "b"
    make(dao, out, with_passphrase=True)
    for opener in (Opener(words), Opener(passphrase=PASSPHRASE)):
        own, checks = backup.drill(out, opener)
        assert own == dao.me and all(c.ok for c in checks), checks
    with pytest.raises(Locked):
        backup.drill(out, Opener(passphrase="wrong"))


def test_a_rotated_home_is_restored_with_its_newest_key(lived: Any, tmp_path: Path) -> None:
    dao = lived.dao()
    words = words_of(dao)
    dao.keyring.rotate()
    make(dao, tmp_path / "b")
    backup.restore(tmp_path / "b", tmp_path / "new", backup.Opener(words))
    new = Dao.open(tmp_path / "new")
    assert new.keyring.show()["key_seq"] == 1
    new.keyring.rotate()
    new.tokens.issue(1)


# --- damage -------------------------------------------------------------------------------------------


def flip(path: Path, at: int, to: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << (at % 8)
    to.write_bytes(data)
    return to


def test_a_flip_anywhere_is_found_without_a_secret(made: Any, tmp_path: Path) -> None:
    _, out, words = made
    size = out.stat().st_size
    at = {*range(400), *range(400, size, size // 150), *range(size - 60, size)}
    for place in sorted(at):
        with pytest.raises(VerificationFailed):
            backup.inspect(flip(out, place, tmp_path / "bad"))
    assert backup.inspect(out)
    assert backup.drill(out, Opener(words))[0]


def test_a_cut_anywhere_is_found_and_said(made: Any, tmp_path: Path) -> None:
    _, out, _ = made
    data = out.read_bytes()
    for size in (*range(300), *range(300, len(data), len(data) // 60), len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:size])
        with pytest.raises(VerificationFailed):
            backup.inspect(tmp_path / "cut")
    (tmp_path / "cut").write_bytes(data[:-40])
    with pytest.raises(VerificationFailed, match="ends early"):
        backup.inspect(tmp_path / "cut")
    (tmp_path / "long").write_bytes(data + b"x")
    with pytest.raises(VerificationFailed):
        backup.inspect(tmp_path / "long")


def test_blocks_cannot_be_changed_by_who_mends_the_hash(made: Any, tmp_path: Path) -> None:
    """The hash takes no key: only the stream's own tags stop an attacker."""
    from blake3 import blake3

    from idao.crypto.hashing import Kind

    _, out, words = made
    data = bytearray(out.read_bytes()[:-32])
    data[len(data) // 2] ^= 1
    bad = tmp_path / "bad"
    bad.write_bytes(bytes(data) + blake3(bytes(data), derive_key_context=Kind.BACKUP.value).digest())
    backup.inspect(bad)
    own, checks = backup.drill(bad, Opener(words))
    assert own is None and not checks[-1].ok and "does not open" in checks[-1].detail
    with pytest.raises(VerificationFailed):
        backup.restore(bad, tmp_path / "new", backup.Opener(words))
    assert not (tmp_path / "new" / "config.toml").exists()


def damage(path: Path, at: int) -> None:
    with path.open("r+b") as f:
        f.seek(at)
        byte = f.read(1)
        f.seek(at)
        f.write(bytes([byte[0] ^ 0x10]))


def test_the_drill_names_what_was_wrong_with_the_home(lived: Any, tmp_path: Path) -> None:
    dao = lived.dao()
    words = words_of(dao)
    (pack, *_) = sorted((lived.path / "packs").glob("*.pack"))
    damage(pack, 100)
    make(dao, tmp_path / "b")
    _, checks = backup.drill(tmp_path / "b", Opener(words))
    (bad,) = [c for c in checks if not c.ok]
    assert bad.name == "contents" and pack.name in bad.detail
    done = backup.restore(tmp_path / "b", tmp_path / "new", backup.Opener(words))
    assert [f.name for f in done.findings] == ["contents"], "restored all the same, and said"


def test_a_damaged_ledger_is_named_and_not_gone_on_with(lived: Any, tmp_path: Path) -> None:
    import sqlite3

    dao = lived.dao()
    words = words_of(dao)
    with sqlite3.connect(dao.ledger_path()) as db:
        db.execute("update asset_version set score = 9900 where version = 1")
    make(dao, tmp_path / "b")
    _, checks = backup.drill(tmp_path / "b", Opener(words))
    (bad,) = [c for c in checks if not c.ok]
    assert bad.name.startswith("ledger ") and "asset_version" in bad.detail
    with pytest.raises(VerificationFailed, match="asset_version"):
        backup.restore(tmp_path / "b", tmp_path / "new", backup.Opener(words))
    make(lived_again := Dao.open(lived.path), tmp_path / "b2")
    assert lived_again.me == dao.me


def test_a_missing_pack_is_said_at_once(lived: Any, tmp_path: Path) -> None:
    dao = lived.dao()
    (pack, *_) = sorted((lived.path / "packs").glob("*.pack"))
    pack.unlink()
    assert make(dao, tmp_path / "b").missing == (f"packs/{pack.name}",)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "keys/../../evil", "lock", "packs/x/y.pack"])
def test_an_archive_by_a_stranger_writes_nothing_elsewhere(made: Any, tmp_path: Path, name: str) -> None:
    """Anybody who has the public half can make a file that this phrase opens."""
    import io
    import tarfile

    dao, _, words = made
    key = files.read_key((dao.home.keys_folder / packing.PUBLIC).read_bytes())
    header = files.make_header(key, bytes(32), 0)
    with (tmp_path / "evil").open("wb") as f:
        writer = files.Writer(f, header, bytes(32))
        with tarfile.open(fileobj=writer, mode="w|") as tar:
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"evil"))
        writer.finish()
    with pytest.raises(VerificationFailed, match="no home has"):
        backup.restore(tmp_path / "evil", tmp_path / "in" / "new", backup.Opener(words))
    assert not list(tmp_path.rglob("evil/*")) and not (tmp_path / "in" / "evil").exists()


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "fifo"])
def test_an_archive_of_links_is_refused(made: Any, tmp_path: Path, kind: str) -> None:
    import tarfile

    dao, _, words = made
    key = files.read_key((dao.home.keys_folder / packing.PUBLIC).read_bytes())
    with (tmp_path / "evil").open("wb") as f:
        writer = files.Writer(f, files.make_header(key, bytes(32), 0), bytes(32))
        with tarfile.open(fileobj=writer, mode="w|") as tar:
            info = tarfile.TarInfo("config.toml")
            info.type = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE}[
                kind
            ]
            info.linkname = "/etc/passwd"
            tar.addfile(info)
        writer.finish()
    with pytest.raises(VerificationFailed):
        backup.restore(tmp_path / "evil", tmp_path / "new", backup.Opener(words))


# --- no fork ------------------------------------------------------------------------------------------


def test_two_restored_copies_are_two_quorums(made: Any, tmp_path: Path) -> None:
    dao, out, words = made
    ids = set()
    for name in ("one", "two"):
        backup.restore(out, tmp_path / name, backup.Opener(words))
        new = Dao.open(tmp_path / name)
        new.tokens.issue(1)
        genesis = new.store.bundle.genesis
        assert genesis.parent is not None and genesis.parent.quorum == dao.quorum
        ids.add(new.quorum)
        for path in new.home.ledgers_folder.glob("*.db"):
            store = LedgerStore.open(path)
            assert (store.chain.quorum == new.quorum) == (store.standing == "live")
            if store.chain.quorum == dao.quorum:
                assert store.height == dao.store.height, "nothing was added to the old chain"
            store.close()
    assert len(ids) == 2 and dao.quorum not in ids


def test_nothing_is_signed_while_a_ledger_has_two_names(lived: Any, tmp_path: Path) -> None:
    """After `cp -al` each home has a log of pages of its own, and knows nothing of the other's."""
    (ledger,) = (lived.path / "ledgers").glob("*.db")
    os.link(ledger, tmp_path / "second")
    with pytest.raises(Refused) as refused:
        lived.dao().tokens.issue(1)
    assert refused.value.code == "quarantine"
    (tmp_path / "second").unlink()
    lived.dao().tokens.issue(1)


def test_a_copy_refuses_and_then_goes_on_under_a_new_name(lived: Any, tmp_path: Path) -> None:
    dao = lived.dao()
    shutil.copytree(lived.path, tmp_path / "copy")
    copy = Dao.open(tmp_path / "copy")
    before = copy.store.height
    with pytest.raises(Refused) as refused:
        copy.tokens.issue(1)
    assert refused.value.code == "quarantine" and "quorum recover" in (refused.value.hint or "")
    with pytest.raises(Refused):
        copy.assets.contribute([str(lived.data)], Wish())
    assert copy.assets.show(lived.asset)["asset"] == lived.asset
    assert any("copied or moved" in n for n in copy.ledgers.status()["needs"])
    (done,) = recovery.recover_here(copy, words_of(copy))
    assert done.parent == dao.quorum and done.versions == 2 and done.tokens == 1
    copy = Dao.open(tmp_path / "copy")
    assert copy.quorum == done.quorum and copy.tokens.issue(1)
    assert Dao.open(tmp_path / "copy", quorum="clinic").store.height == before
    assert recovery.recover_here(copy, words_of(copy)) == []
    dao.tokens.issue(1)  # the original goes on as if nothing had been


def test_a_renamed_home_goes_on(lived: Any, tmp_path: Path) -> None:
    lived.path.rename(tmp_path / "elsewhere")
    Dao.open(tmp_path / "elsewhere").tokens.issue(1)


def test_a_copy_put_back_in_its_old_place_is_seen(lived: Any, tmp_path: Path) -> None:
    shutil.copytree(lived.path, tmp_path / "kept")
    lived.dao().tokens.issue(1)
    shutil.rmtree(lived.path)
    shutil.copytree(tmp_path / "kept", lived.path)
    with pytest.raises(Refused, match="copied or moved"):
        lived.dao().tokens.issue(1)


def test_names_go_on_counting(made: Any, tmp_path: Path) -> None:
    _, out, words = made
    assert [recovery.next_name(n) for n in ("a", "a-r1", "a-r9", "x-ray")] == [
        "a-r1",
        "a-r2",
        "a-r10",
        "x-ray-r1",
    ]
    backup.restore(out, tmp_path / "one", backup.Opener(words))
    make(Dao.open(tmp_path / "one"), tmp_path / "b1")
    done = backup.restore(tmp_path / "b1", tmp_path / "two", backup.Opener(words), name="lab")
    assert [q.name for q in done.quorums] == ["lab-r1"] and done.name == "lab"
    again = Dao.open(tmp_path / "two")
    assert len(again.ledgers.status()["quorums"]) == 3
    assert again.assets.check() == [] and all(r.ok for r in again.ledgers.audit().values())


def test_a_recovery_cut_short_is_taken_up_again(lived: Any, tmp_path: Path) -> None:
    from idao.node.engine import Engine

    words = words_of(lived.dao())
    for step in range(4):
        home = tmp_path / f"copy{step}"
        shutil.copytree(lived.path, home)
        if (pid := os.fork()) == 0:
            die = [LedgerStore, Engine, recovery.Succession, LedgerStore][step]
            name = ["create", "_commit", "_point_at", "end"][step]
            setattr(die, name, lambda *_, **__: os.kill(os.getpid(), 9))
            recovery.recover_here(Dao.open(home), words)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
        recovery.recover_here(Dao.open(home), words)
        dao = Dao.open(home)
        assert len(list((home / "ledgers").glob("*.db"))) == 2, "no second successor"
        assert [v["version"] for v in dao.assets.show(lived.asset)["versions"]] == [1, 2]
        dao.tokens.issue(1)
        assert all(r.ok for r in dao.ledgers.audit().values())


# --- where it is made ---------------------------------------------------------------------------------


def test_a_home_that_cannot_be_written_can_be_backed_up(
    lived: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dao = lived.dao()
    monkeypatch.setattr(os, "access", lambda *_: False)
    made = make(dao, tmp_path / "b")
    assert not made.noted and backup.inspect(tmp_path / "b")


def test_a_home_in_use_can_be_backed_up(lived: Any, tmp_path: Path) -> None:
    dao = lived.dao()
    with dao.home.exclusive(0):
        make(dao, tmp_path / "b")
    assert all(c.ok for c in backup.drill(tmp_path / "b", Opener(words_of(dao)))[1])


def test_restoring_needs_an_empty_folder(made: Any, lived: Any, tmp_path: Path) -> None:
    _, out, words = made
    with pytest.raises(UsageError, match="an iDAO here already"):
        backup.restore(out, lived.path, backup.Opener(words))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        backup.restore(out, tmp_path / "full", backup.Opener(words))
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"
    with pytest.raises(NotFound):
        backup.restore(tmp_path / "none", tmp_path / "new", backup.Opener(words))


def test_not_a_backup(tmp_path: Path) -> None:
    for data in (b"", b"x", b"idao-backup 2\n" + bytes(100), bytes(1000), b"idao-backup 1\n\xff\xff\xff\xff"):
        (tmp_path / "f").write_bytes(data)
        with pytest.raises(IdaoError) as e:
            backup.inspect(tmp_path / "f")
        assert e.value.exit_code == 6


@pytest.mark.parametrize("which", ["home.db", "ledger"])
def test_a_second_opening_keeps_the_locks_of_the_first(lived: Any, which: str) -> None:
    """Closing any handle of a file drops this process's POSIX locks on it: then another process, when it
    closes, takes itself for the last and deletes the log of pages that this one still writes to."""
    import subprocess
    import sys

    from idao.store import place
    from idao.store.home_db import open_home_db

    path = lived.path / "home.db" if which == "home.db" else lived.dao().ledger_path()
    opened = open_home_db(path) if which == "home.db" else LedgerStore.open(path).db
    opened.execute("begin immediate")
    opened.execute("commit")
    if which == "home.db":
        open_home_db(path).close()
    else:
        place.place_of(path)
        LedgerStore.open(path).require_live()
    other = f"import sqlite3; d = sqlite3.connect({str(path)!r}); d.execute('pragma user_version'); d.close()"
    subprocess.run([sys.executable, "-c", other], check=True)
    opened.execute("begin immediate")
    opened.execute("create table proof_of_life(x)")
    opened.execute("commit")
    look = other.replace("d.close()", "print(d.execute('select count(*) from proof_of_life').fetchone()[0])")
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, check=True).stdout == b"0\n"
