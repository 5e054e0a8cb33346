"""Every command that writes, killed at its changes of the disk: the home opens, and the command gets through.

Each scene is one command with what comes before it. It runs once whole, which counts its changes of the
disk, then it dies at some of them: `IDAO_KILL_POINTS` is how many a scene, or `all`; `IDAO_SEED` draws
others. After each death every ledger must follow from genesis, every chunk and key file verify, nothing that
was there be gone, what was said on standard output hold; and the same command, given again, must do its work.
"""

from __future__ import annotations

import os
import random
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import killed
import pytest
from cli_world import must, run
from conftest import Lived
from test_migrate_ledger import MADE

from idao.dao import Dao
from idao.ledger import accounts
from idao.ledger.assets import AssetVersion
from idao.model import parse_id
from idao.store.audit import audit

KILLS = os.environ.get("IDAO_KILL_POINTS", "8")
SEED = os.environ.get("IDAO_SEED", "")
LEAST = 200
"""Points in all that the issue of robustness asks for; the scenes have some ten times as many."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not killed.available(), reason="needs ptrace")]


@dataclass(frozen=True)
class Scene:
    """`words` is what dies. `{in}` is a folder with a home `home`, data `clinic`, words and a backup."""

    words: str
    before: tuple[str, ...] = ()
    home: str = "home"
    again: tuple[int, ...] = (0,)
    """Exit codes that it may have when it is given once more after it was done."""
    counts: Callable[[Dao, Lived], int] = lambda _dao, _lived: 0
    """A number that it raises by `step` when it is done, and not at all when it is not."""
    step: int = 0
    most: int = 10_000
    """Deaths at most, where each costs much time."""
    once: bool = False
    """Whether it raises the number no further when it is given again."""


def balance(dao: Dao, _: Lived) -> int:
    return accounts.balance(dao.state(), (accounts.IDAO, dao.me), dao.me)


def versions(dao: Dao, _: Lived) -> int:
    return sum(1 for _ in dao.state().scan(AssetVersion))


def dats(dao: Dao, _: Lived) -> int:
    return len(dao.tokens.list_dats())


SCENES = {
    "init": Scene("init --name bo --no-passphrase", home="new"),
    "contribute anew": Scene("contribute {in}/words --name words"),
    "contribute again": Scene("contribute {in}/clinic --name clinic", counts=versions, step=1, once=True),
    "mint": Scene("mint {asset} --value 7", counts=dats, step=1),
    "class create": Scene("class create {asset}", again=(5,)),
    "account issue": Scene("account issue 7", counts=balance, step=7),
    "dat use": Scene("dat use {dat} 1 --metric rows"),
    "propose": Scene("propose more --set vote.period=1d"),
    "vote": Scene("vote derive yes", ("propose derive --set policy.derive=allow",), again=(0, 5)),
    "member add": Scene("member add cleo", again=(2, 5)),
    "member remove": Scene("member remove cleo --yes", ("member add cleo",), again=(4, 5)),
    "trust add": Scene("trust add {quorum} --kind dataset --weight 10"),
    "name add": Scene("name add bob {bob}", again=(0, 2)),
    "config set": Scene("config set wait 20"),
    "key rotate": Scene("key rotate"),
    "key passphrase": Scene(
        "key passphrase --new-passphrase-file {in}/new --passphrase-file {in}/new", most=4
    ),
    "key phrase": Scene("key phrase --done --yes"),
    "key recover": Scene(
        "key recover --phrase-file {in}/words --from {in}/proof --no-passphrase", home="new", again=(2,)
    ),
    "backup create": Scene("backup create -o {in}/more.idao-backup --yes"),
    "backup verify": Scene("backup verify {in}/b.idao-backup --phrase-file {in}/words"),
    "backup restore": Scene(
        "backup restore {in}/b.idao-backup --phrase-file {in}/words", home="new", again=(2,)
    ),
    "asset forget": Scene("asset forget {asset} --yes", again=(0, 4)),
    "quorum create": Scene("quorum create --name team", again=(2,)),
    "log prune": Scene("log prune --keep 2 --yes"),
    "tee attest": Scene("tee attest --simulated", again=(5,)),
    "tee collateral import": Scene("tee collateral import {vendor}"),
    "migrate": Scene("migrate", home="home-1"),
}


@pytest.fixture(scope="module")
def stage(_lived: Lived, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all scenes begin with: the folder `{in}`."""
    folder = tmp_path_factory.mktemp("stage")
    shutil.copytree(_lived.path, folder / "home")
    shutil.copytree(_lived.data, folder / "clinic")
    (folder / "new").write_text("correct horse battery staple\n")
    (folder / "clinic" / "more.csv").write_text("a,b\n" + "1,2\n" * 400)
    home = folder / "home"
    must("key", "phrase", "--out", folder / "words", home=home)
    must("proof", _lived.asset, "-o", folder / "proof", home=home)
    must("backup", "create", "-o", folder / "b.idao-backup", home=home)
    with tarfile.open(MADE) as tar:
        tar.extractall(folder, filter="data")
    return folder


class Play:
    """One scene on its stage, put up again for each death."""

    def __init__(self, scene: Scene, stage: Path, folder: Path, lived: Lived) -> None:
        self.scene, self.folder, self.lived = scene, folder, lived
        vendor = Path(__file__).parent / "vectors/tee/intel-collateral/tdx-00806F050000-2025-10.json"
        self.places = {
            "in": str(folder), "asset": lived.asset, "dat": lived.dat, "bob": "idao:" + "b" * 51 + "a",
            "quorum": "quorum:" + "c" * 51 + "a", "vendor": str(vendor),
        }  # fmt: skip
        self.home = folder / ("fresh" if scene.home == "new" else scene.home)
        shutil.copytree(stage, folder)
        for line in scene.before:
            must(*self.fill(line), home=self.home)
        self.spare = shutil.copytree(folder, folder.with_name("spare"))

    def fill(self, line: str) -> list[str]:
        return [word.format(**self.places) for word in line.split()]

    def put_up(self) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self.spare, self.folder)

    def perform(self, kill_at: int = 0) -> killed.Ended:
        return killed.run([*self.fill(self.scene.words), "-q"], self.home, kill_at)


def heights(home: Path) -> dict[str, int]:
    return {f"quorum:{p.stem}": audited(p) for p in (home / "ledgers").glob("*.db")}


def audited(path: Path) -> int:
    report = audit(path)
    assert report.ok, report.findings
    return report.blocks


def check(play: Play, before: dict[str, int], ended: killed.Ended) -> int:
    """What holds after any death. The number that the scene counts, once all that was queued is decided."""
    home, secret = play.home, {"IDAO_PASSPHRASE_FILE": str(play.folder / "new")}
    if not (home / "config.toml").exists():
        assert play.scene.home == "new" and not ended.out
        return 0
    if play.scene.home == "home-1" and run("status", home=home).code == 1:
        return 0  # still of the old format, as it may be: `migrate` is given once more
    now = heights(home)
    assert all(now[quorum] >= height for quorum, height in before.items())
    must("asset", "check", home=home, **secret)
    dao = Dao.open(home, passphrase_file=str(play.folder / "new"))
    dao.settle()  # what was queued, as the next command that writes would send it
    assert dao.pending() == 0
    for line in ended.out.split():
        if line.startswith("tx:"):
            assert dao.store.receipt_of(parse_id("tx", line))
    return play.scene.counts(dao, play.lived)


def drawn(name: str, points: int) -> list[int]:
    count = points if KILLS == "all" else min(points, int(KILLS), SCENES[name].most)
    return sorted(random.Random(name + SEED).sample(range(1, points + 1), count))


@pytest.mark.parametrize("name", SCENES)
def test_killed(name: str, stage: Path, _lived: Lived, tmp_path: Path) -> None:
    play, step = Play(SCENES[name], stage, tmp_path / "in", _lived), SCENES[name].step
    before = heights(play.home) if play.scene.home == "home" else {}
    held = play.scene.counts(Dao.open(play.home), _lived) if step else 0
    whole = play.perform()
    assert whole.code == 0, whole
    deaths = 0
    for at in drawn(name, whole.points):
        play.put_up()
        ended = play.perform(at)
        assert ended.killed or ended.code == 0, ended
        deaths += ended.killed
        try:
            half = check(play, before, ended) - held
            again = play.perform()
            assert again.code in (0, *play.scene.again), again
            end = check(play, before, again) - held
            assert not step or (half in (0, step) and end == step + (0 if play.scene.once else half))
        except AssertionError as e:
            raise AssertionError(f"killed at change {at} of {whole.points}, in place of {ended.at}") from e
    print(f"{name}: died at {deaths} of {whole.points}")
    assert deaths > 1


def test_there_are_enough() -> None:
    assert KILLS == "all" or int(KILLS) * len(SCENES) >= LEAST
