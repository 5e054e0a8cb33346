"""Homes for tests: made once a session with every kind of record, copied for each test that changes one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings

from idao.dao import Dao
from idao.hall import founding
from idao.hall.contribute import Wish
from idao.store import place
from idao.store.ledger import LedgerStore

settings.register_profile("idao", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("idao")  # a machine that stalls for a second has found no bug

QUARANTINED = LedgerStore.quarantined


@pytest.fixture(scope="session", autouse=True)
def _copies_are_homes() -> Iterator[None]:
    """Homes that take long to make are copied, and each copy goes on: what `idao` itself refuses."""
    with mock.patch.object(LedgerStore, "quarantined", False):
        yield


def at_home(path: Path) -> Path:
    """Makes a copied home one that could have been made there."""
    for file in (path / "ledgers").glob("*.db"):
        store = LedgerStore.open(file)
        with store.transaction():
            store.set_meta("place", place.place_of(file))
        store.close()
    return path


@pytest.fixture
def quarantine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As idao is: a copy does not go on."""
    monkeypatch.setattr(LedgerStore, "quarantined", QUARANTINED)


@dataclass(frozen=True)
class Lived:
    """A home in which things have happened."""

    path: Path
    data: Path
    asset: str
    dat: str

    def dao(self) -> Dao:
        return Dao.open(self.path)


def make_data(folder: Path) -> Path:
    (folder / "sub" / "nothing").mkdir(parents=True)
    rows = "".join(f"{n},{20 + n * 7 % 70},{n * 13 % 90 + 90}\n" for n in range(60))
    (folder / "visits.csv").write_text("id,age,pressure\n" + rows)
    (folder / "sub" / "notes.txt").write_text("Seen and noted.\n" * 30)
    (folder / "empty").write_bytes(b"")
    return folder


@pytest.fixture(scope="session")
def _lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    base = tmp_path_factory.mktemp("lived")
    data = make_data(base / "clinic")
    home = base / "home"
    founding.create(home, name="clinic", domain=None, passphrase=None)
    dao = Dao.open(home)
    asset = dao.assets.contribute([str(data)], Wish(name="clinic 2026", licence="CC-BY-4.0"))["asset"]
    dat = dao.tokens.mint(asset, value=1000)["dat"]
    dao.tokens.issue(500)
    dao.tokens.settle(dao.tokens.classes()[0]["class"], 100, "me")
    dao.tokens.claim(dat, "me")
    (data / "visits.csv").open("a").write("60,33,120\n")
    dao.assets.contribute([str(data)], Wish())
    return Lived(home, data, asset, dat)


@pytest.fixture
def lived(_lived: Lived, tmp_path: Path) -> Lived:
    """A copy of its own."""
    shutil.copytree(_lived.path, tmp_path / "home")
    at_home(tmp_path / "home")
    shutil.copytree(_lived.data, tmp_path / "clinic")
    return Lived(at_home(tmp_path / "home"), tmp_path / "clinic", _lived.asset, _lived.dat)


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Dao]:
    """Makes a new home without a passphrase."""

    def make() -> Dao:
        founding.create(tmp_path / "fresh", name="ana", domain=None, passphrase=None)
        return Dao.open(tmp_path / "fresh")

    return make
