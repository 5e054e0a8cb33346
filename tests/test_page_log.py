"""SQLite's log of pages beside a ledger: no command may find there what all commands before it left."""

from __future__ import annotations

from pathlib import Path

from idao.dao import Dao
from idao.hall import founding
from idao.ledger import accounts
from idao.store.contents import Contents
from idao.store.ledger import LedgerStore
from idao.store.opening import connect_reading


def issue(dao: Dao) -> None:
    dao.submit([("account.issue", accounts.Issue(dao.me, dao.me, 1, "one"))])


def test_it_is_empty_after_a_command(tmp_path: Path) -> None:
    home = tmp_path / "home"
    founding.create(home, name="ann", domain=None, passphrase=None)
    dao = Dao.open(home)
    log = Path(f"{dao.ledger_path()}-wal")
    assert dao.store.height == 0  # a reader that stays open, as in most commands
    for _ in range(2):
        issue(dao)
        assert not log.exists() or log.stat().st_size == 0
    assert dao.store.height == 2


def test_contents_leave_none_of_their_own(tmp_path: Path) -> None:
    Contents(tmp_path, bytes(32)).close()
    reader = connect_reading(tmp_path / "home.db", 0)
    (tmp_path / "file").write_bytes(b"content")
    with Contents(tmp_path, bytes(32)) as contents:
        contents.take_in([str(tmp_path / "file").encode()])
    log = tmp_path / "home.db-wal"
    assert not log.exists() or log.stat().st_size == 0
    reader.close()


def test_a_reader_in_its_moment_keeps_it_until_the_next_writer(tmp_path: Path) -> None:
    home = tmp_path / "home"
    founding.create(home, name="ann", domain=None, passphrase=None)
    dao = Dao.open(home)
    log = Path(f"{dao.ledger_path()}-wal")
    reader = LedgerStore.open(dao.ledger_path(), readonly=True)
    with reader.snapshot():
        assert reader.height == 0
        issue(dao)
        assert log.stat().st_size > 0 and reader.height == 0
    reader.close()
    issue(dao)
    assert not log.exists() or log.stat().st_size == 0
    assert LedgerStore.open(dao.ledger_path(), readonly=True).height == 2
