"""Homes for tests: made once a session with every kind of record, copied for each test that changes one."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from cli_world import settled
from hypothesis import HealthCheck, settings

from idao.__main__ import GARBAGE_AFTER
from idao.crypto import seal
from idao.dao import Dao
from idao.hall import founding
from idao.hall.contribute import Wish
from idao.store import place
from idao.store.ledger import LedgerStore

settings.register_profile("idao", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("idao")  # a machine that stalls for a second has found no bug

MEMORY_DISK = Path("/dev/shm")
MEMORY_DISK_FREE = 4 << 30
"""Bytes: eight times what the quick tests leave. Less is no place for them."""


def pytest_configure(config: pytest.Config) -> None:
    """Quick tests keep their files in memory where there is room: a busy disk then holds none of them up."""
    free = shutil.disk_usage(MEMORY_DISK).free if os.access(MEMORY_DISK, os.W_OK | os.X_OK) else 0
    if config.option.markexpr == "not slow" and free > MEMORY_DISK_FREE:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY_DISK))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Memory is given back unless there is something to look at."""
    kept = session.config._tmp_path_factory._basetemp  # type: ignore[attr-defined]
    if exitstatus == 0 and kept and kept.is_relative_to(MEMORY_DISK):
        shutil.rmtree(kept, ignore_errors=True)


def pytest_collection_finish() -> None:
    """Five thousand tests and all modules stay to the end: who looks for cycles need not look at them."""
    settled()
    gc.set_threshold(GARBAGE_AFTER)


@pytest.fixture(scope="module", autouse=True)
def _imported_stays() -> Iterator[None]:
    yield
    settled()


@pytest.fixture(scope="session", autouse=True)
def _passphrases_are_cheap() -> Iterator[None]:
    """What a guess costs is the matter of `test_seal` and of commands in processes of their own."""
    with mock.patch.object(seal.make_lock, "__defaults__", (seal.Cost(seal.MEMORY_KIB_MIN, 1),)):
        yield


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
