"""Contents that were taken in and are on no ledger: named, freed on request, and nothing else is."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_world import must, run
from test_schemas import validator

from idao.dao import Dao
from idao.errors import Busy, VerificationFailed
from idao.hall import leftovers
from idao.hall.contribute import Contribution, Wish
from idao.store import documents
from idao.store.contents import Contents

SIZE = 300_000


class Killed(BaseException):
    """The end of a process: nothing may clean up after it."""


def data(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    (folder / name / "file").write_bytes(os.urandom(SIZE))
    return folder / name


def killed(
    at: Any, name: str, monkeypatch: pytest.MonkeyPatch, dao: Dao, path: Path, wish: Wish | None = None
) -> None:
    """A contribution that ends where `at.name` is called."""

    def end(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(at, name, end)
        with pytest.raises(Killed):
            dao.assets.contribute([str(path)], wish or Wish())


@pytest.mark.parametrize(
    ("at", "name", "versions"),
    [(Dao, "submit", 1), (Contribution, "_register", 1), (Contents, "add_version", 0)],
    ids=["not-signed", "not-noted", "not-taken-in"],
)
def test_what_a_killed_contribution_left_is_freed(
    fresh: Callable[[], Dao],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: Any,
    name: str,
    versions: int,
) -> None:
    dao = fresh()
    kept = dao.assets.contribute([str(data(tmp_path, "kept"))], Wish())["asset"]
    killed(at, name, monkeypatch, dao, data(tmp_path, "lost"))
    home = dao.home.path
    told = run("doctor", "--json", home=home).json["checks"]
    assert [c["status"] for c in told if c["name"] == "contents"] == ["warn" if versions else "ok"]
    before = sorted(p.name for p in home.rglob("*"))
    plan = must("asset", "forget", "--unregistered", "--dry-run", "--json", home=home).json
    validator("asset-forget").validate(plan)
    assert (plan["versions"], plan["forgotten"]) == (versions, False) and plan["freed_bytes"] > SIZE
    assert [one["files"] for one in plan["unregistered"]] == [1] * versions
    assert sorted(p.name for p in home.rglob("*")) == before
    refused = run("asset", "forget", "--unregistered", home=home)
    assert refused.code == 2 and "--yes" in refused.err
    done = must("asset", "forget", "--unregistered", "--yes", "--json", home=home).json
    validator("asset-forget").validate(done)
    assert (done["versions"], done["freed_bytes"]) == (versions, plan["freed_bytes"]) and done["forgotten"]
    assert dao.assets.check() == [] and dao.assets.check(kept) == []
    with dao.assets.opened() as (contents, docs):
        assert len(contents.versions()) == len(docs.manifests()) == 1
        assert [asset for asset, _ in docs.versions_with(documents.NONCE)] == [docs.manifests()[0][0]]
    again = must("asset", "forget", "--unregistered", "--json", home=home).json
    assert (again["versions"], again["freed_bytes"], again["forgotten"]) == (0, 0, False)


def test_what_waits_or_shares_its_contents_stays(
    fresh: Callable[[], Dao], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that is signed and waits is not left over; nor is one of which only new terms were lost."""
    dao, waits, shared = fresh(), data(tmp_path, "waits"), data(tmp_path, "shared")
    asset = dao.assets.contribute([str(shared)], Wish())["asset"]
    killed(Dao, "submit", monkeypatch, dao, shared, Wish(licence="CC0-1.0"))
    killed(Dao, "_drive", monkeypatch, dao, waits)
    done = leftovers.free(dao)
    assert (done["versions"], done["freed_bytes"]) == (0, 0)
    with dao.assets.opened() as (_, docs):
        assert [version for _, version, _ in docs.manifests()] == [1, 1], "of the new terms nothing is left"
    dao.settle()
    for one in (asset, "waits"):
        assert dao.assets.check(one) == []


def test_never_while_a_contribution_runs(
    fresh: Callable[[], Dao], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between storing and signing what is about to be an asset looks like a leftover."""
    dao = fresh()
    other = Dao.open(dao.home.path, wait_s=0)
    seen: list[str] = []
    real = Contribution._register

    def slow(self: Contribution, *given: Any) -> Any:
        for dry in (True, False):
            with pytest.raises(Busy, match="another process"):
                leftovers.free(other, dry=dry)
            seen.append("busy")
        return real(self, *given)

    monkeypatch.setattr(Contribution, "_register", slow)
    asset = dao.assets.contribute([str(data(tmp_path, "now"))], Wish())["asset"]
    assert seen == ["busy", "busy"] and leftovers.free(other)["versions"] == 0
    assert dao.assets.check(asset) == []


def test_two_contributions_may_register_at_once(fresh: Callable[[], Dao]) -> None:
    dao, inside = fresh(), threading.Event()
    with dao.assets.opened(write=True) as (contents, _), contents.registering():

        def second() -> None:
            with dao.assets.opened(write=True) as (more, _), more.registering():
                inside.set()

        thread = threading.Thread(target=second)
        thread.start()
        thread.join(60)
    assert inside.is_set()


def test_a_ledger_that_is_not_here_may_know_of_it(fresh: Callable[[], Dao], tmp_path: Path) -> None:
    dao = fresh()
    asset = dao.assets.contribute([str(data(tmp_path, "kept"))], Wish())["asset"]
    path = dao.ledger_path()
    aside = path.rename(tmp_path / path.name)
    with pytest.raises(VerificationFailed) as refusal:
        leftovers.free(Dao.open(dao.home.path))
    assert refusal.value.code == "ledger-missing"
    aside.rename(path)
    with dao.home_db() as db:
        db.execute("update moment set at_ms = at_ms + 1 where what like 'block %'")
    with pytest.raises(VerificationFailed) as refusal:
        leftovers.free(Dao.open(dao.home.path), dry=True)
    assert refusal.value.code == "rolled-back"
    assert Dao.open(dao.home.path).assets.check(asset) == []


def test_one_of_the_two_is_named(fresh: Callable[[], Dao]) -> None:
    home = fresh().home.path
    for words in ((), ("x", "--unregistered")):
        ran = run("asset", "forget", *words, home=home)
        assert (ran.code, ran.out) == (2, "") and "--unregistered" in ran.err
