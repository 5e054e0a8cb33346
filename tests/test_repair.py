"""A group's ledger with damage anywhere in its file is begun anew; nobody's only copy is."""

from __future__ import annotations

import random
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from cli_world import must, run
from conftest import Lived
from group_world import person
from test_proof_epochs import stored

from idao import noderecord
from idao.crypto.keys import Signer
from idao.model import parse_id
from idao.node import peerbook
from idao.store import genesisfile
from idao.store.ledger import LedgerStore


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger of a group of four."""
    world = stored(tmp_path_factory.mktemp("group")).grow("bob", "cyd", "dan")
    assert world.store is not None
    world.store.db.execute("pragma wal_checkpoint(truncate)")
    return world.store.path


@pytest.fixture
def ledger(lived: Lived, group: Path) -> Path:
    """In a home, as the node would leave it: with genesis and the records of the others beside it."""
    path = lived.path / "ledgers" / group.name
    shutil.copy(group, path)
    with closing(LedgerStore.open(path)) as store:
        genesisfile.keep(path, store.bundle)
    quorum = parse_id("quorum", f"quorum:{path.stem}")
    record = noderecord.make(Signer(bytes(32)), quorum, person("bob").idao, b"tls", ("10.0.0.1:4711",), 1)
    peerbook.write(path, [record])
    return path


def repaired(path: Path) -> None:
    home, quorum = path.parent.parent, f"quorum:{path.stem}"
    ran = run("quorum", "repair", "--quorum", quorum, "--yes", "--json", home=home)
    assert ran.code == 0, ran
    with closing(LedgerStore.open(path)) as store:
        assert store.height == 0 and store.get_meta("place") == b""
    if ran.json["kept"]:
        Path(ran.json["kept"]).unlink()


def test_any_damage(ledger: Path) -> None:
    chance, sound = random.Random(3), ledger.read_bytes()
    spoilt = [b"", sound[:100], b"\0" * 4096 + sound[4096:], sound[: len(sound) // 2], b"no database at all"]
    for _ in range(6):
        bad = bytearray(sound)
        for _ in range(chance.choice((1, 40, 4000))):
            bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        spoilt.append(bytes(bad))
    for data in spoilt:
        ledger.write_bytes(data)
        repaired(ledger)


def test_what_a_crash_of_it_leaves(ledger: Path) -> None:
    ledger.unlink()
    repaired(ledger)


def test_nobodys_only_copy(ledger: Path) -> None:
    """Of a ledger that cannot be read, who else has it is known from their nodes alone."""
    peerbook.path_of(ledger).unlink()
    ledger.write_bytes(b"no database at all")
    words = ("quorum", "repair", "--quorum", f"quorum:{ledger.stem}", "--yes", "--json")
    ran = run(*words, home=ledger.parent.parent)
    assert (ran.code, ran.error["code"]) == (5, "alone") and ledger.read_bytes() == b"no database at all"


def test_no_genesis_left(ledger: Path) -> None:
    genesisfile.path_of(ledger).unlink()
    ledger.write_bytes(b"no database at all")
    words = ("quorum", "repair", "--quorum", f"quorum:{ledger.stem}", "--yes", "--json")
    ran = run(*words, home=ledger.parent.parent)
    assert (ran.code, ran.error["code"]) == (5, "damaged")


def test_a_flipped_bit_in_the_genesis_beside_it(ledger: Path) -> None:
    path, chance = genesisfile.path_of(ledger), random.Random(4)
    sound = path.read_bytes()
    for _ in range(5):
        bad = bytearray(sound)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        path.write_bytes(bad)
        ran = run("asset", "check", home=ledger.parent.parent)
        assert ran.code == 6 and path.name in ran.out, ran
    path.write_bytes(sound)
    must("asset", "check", home=ledger.parent.parent)
