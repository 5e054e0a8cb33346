"""The power goes at any call of a command: the home opens, follows from genesis, and nothing said is lost.

What the simulated disk keeps and what it forgets stands in `powerloss`.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_world import run
from conftest import Lived
from powerloss import Call, Disk, record

from idao.dao import Dao
from idao.hall.contribute import Wish
from idao.ledger import accounts
from idao.store.audit import audit

Judge = Callable[[Path, bool], None]
"""(home as it was found, whether the command had said that it was done)."""


def _can_trace() -> bool:
    probe = ["strace", "-o", "/dev/null", "true"]
    return shutil.which("strace") is not None and subprocess.run(probe, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _can_trace(), reason="needs strace, and leave to trace")


def losses(home: Path, words: list[str], states: int, seed: int) -> Iterator[tuple[Path, bool, str]]:
    """(home after the power went, whether the command had answered, which loss), many times."""
    disk = Disk(home)
    calls: list[Call] = record(["--home", str(home), *words], home, home.with_name("trace"))
    chance = random.Random(seed)
    changing = [i for i, c in enumerate(calls) if c.name != "opened"]
    ways = [(i, way) for i in changing for way in ("lost", "kept", "some")]
    chosen = set(ways if states >= len(ways) else chance.sample(ways, states))
    said, count = False, 0
    for i, call in enumerate(calls):
        disk.do(call) if not call.said else None
        said = said or call.said
        for way in ("lost", "kept", "some"):
            if (i, way) in chosen:
                target = home.with_name("after")
                shutil.rmtree(target, ignore_errors=True)
                disk.lose_power(target, chance if way == "some" else None, keep=way == "kept")
                count += 1
                yield (
                    target,
                    said,
                    f"call {i} of {len(calls)} ({call.name} {call.path[-40:]}), unflushed {way}",
                )
    assert said and count >= min(states, len(ways))


def sound(home: Path) -> Dao:
    for path in (home / "ledgers").glob("*.db"):
        report = audit(path)
        assert report.ok, report.findings
    return Dao.open(home)


def balance(dao: Dao) -> int:
    return accounts.balance(dao.state(), (accounts.IDAO, dao.me), dao.me)


def issued(lived: Lived, states: int) -> None:
    held = balance(lived.dao())
    for home, said, where in losses(lived.path, ["account", "issue", "7"], states, 1):
        dao = sound(home)
        now = balance(dao)
        assert now in (held, held + 7) and (now == held + 7 or not said), where
        waited = dao.pending()
        dao.tokens.issue(1000)
        after = balance(Dao.open(home))
        assert after == held + 1000 + (7 if waited or now != held else 0), where
        assert sound(home).assets.check() == [], where


def contributed(lived: Lived, states: int) -> None:
    (lived.data / "more.csv").write_text("a,b\n" + "1,2\n" * 500)
    (lived.data / "big").write_bytes(random.Random(1).randbytes(700_000))
    words = ["contribute", str(lived.data), "--name", "clinic 2026"]
    for home, said, where in losses(lived.path, words, states, 2):
        dao = sound(home)
        if said:
            assert dao.assets.show(lived.asset)["version"] == 3, where
            assert dao.assets.check() == [], where
        answer = dao.assets.contribute([str(lived.data)], Wish(name="clinic 2026"))
        assert (answer["asset"], answer["version"]) == (lived.asset, 3), where
        assert sound(home).assets.check() == [], where


def turned(lived: Lived, states: int) -> None:
    before = lived.dao().keyring.show()["key_seq"]
    for home, said, where in losses(lived.path, ["key", "rotate"], states, 3):
        dao = sound(home)
        dao.tokens.issue(1)  # with whichever key is the one now
        now = dao.keyring.show()["key_seq"]
        assert now == before + 1 or (now == before and not said), where
        assert sound(home).assets.check() == [], where


def set_up(lived: Lived, states: int) -> None:
    home = lived.path.with_name("fresh")
    for after, said, where in losses(home, ["init", "--name", "ana", "--no-passphrase"], states, 4):
        if said:
            assert sound(after).store.height == 0, where
        again = run("init", "--name", "ana", "--no-passphrase", "-q", home=after)
        assert again.code == 0, (where, again)
        sound(after).tokens.issue(1)


def settings(lived: Lived, states: int) -> None:
    for home, said, where in losses(lived.path, ["config", "set", "wait", "77"], states, 5):
        wait = sound(home).home.config.get("wait")
        assert wait == 77 or (wait is None and not said), where
        assert sound(home).assets.check() == [], where


def forgotten(lived: Lived, states: int) -> None:
    for home, said, where in losses(lived.path, ["asset", "forget", lived.asset, "--yes"], states, 6):
        dao = sound(home)
        assert [f for f in dao.assets.check() if "is not in the index" not in f[1]] == [], where
        gone = run("asset", "get", lived.asset, "-o", home.with_name("out"), home=home).code == 4
        shutil.rmtree(home.with_name("out"), ignore_errors=True)
        assert gone or not said, where


STORIES = {f.__name__: f for f in (issued, contributed, turned, set_up, settings, forgotten)}


@pytest.mark.parametrize("story", ["issued", "settings"])
def test_some_losses(lived: Lived, story: str) -> None:
    STORIES[story](lived, 15)


def test_a_disk_that_never_flushes_is_noticed(lived: Lived) -> None:
    """The simulation has teeth: where flushes do nothing, what was said is gone."""
    home, held = lived.path, balance(lived.dao())
    disk = Disk(home)
    calls = record(["--home", str(home), "account", "issue", "7"], home, home.with_name("trace"))
    assert any(c.said for c in calls) and sum(c.name == "flush" for c in calls) > 4
    for call in calls:
        if not call.said and call.name != "flush":
            disk.do(call)
    disk.lose_power(home.with_name("after"), None)
    assert balance(Dao.open(home.with_name("after"))) == held


@pytest.mark.slow
@pytest.mark.parametrize("story", STORIES)
def test_many_losses(lived: Lived, story: str) -> None:
    STORIES[story](lived, 60)
