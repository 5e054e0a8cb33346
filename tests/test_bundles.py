"""Collateral that evidence names and that is too large for a transaction: asked of peers by its hash."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from idao.errors import Malformed
from idao.ledger.attest import Attestation
from idao.node import messages as msg
from idao.node.bundles import AGAIN_TICKS, PATIENCE_TICKS, Bundles
from idao.store import bundles as kept
from idao.tee import collateral, simulator

ANN, BOB, CYD = (n.encode().ljust(32, b".") for n in ("ann", "bob", "cyd"))
QUORUM = bytes(31) + b"\1"
BORN = 1_790_000_000_000


def made(size: int = 0) -> bytes:
    """A bundle with `size` bytes beside what a vendor states."""
    files = [(f"f{i}", f) for i, f in enumerate(simulator.intel(BORN).files)]
    files += [("rest", bytes([1]) * size)] if size else []
    return collateral.dump(collateral.make("tdx", files, fetched_ms=BORN, source="simulator"))


DATA = made()
NAME = collateral.load(DATA).digest


class Peer:
    """One node's member as `Bundles` sees it: a ledger's attestations, and links that note what was said."""

    def __init__(self, home: Path, *named: tuple[bytes, bytes]) -> None:
        self.registered = list(named)
        state = SimpleNamespace(scan=lambda cls: self._records(cls))
        chain = SimpleNamespace(quorum=QUORUM)
        self.engine: Any = SimpleNamespace(store=SimpleNamespace(state=lambda: state, chain=chain))
        self.up = {BOB, CYD}
        self.said: list[tuple[bytes, Any]] = []
        self.troubles: list[str] = []
        self.home = home
        self.bundles = Bundles(self, home)  # type: ignore[arg-type]
        self.bundles.look()

    def _records(self, cls: type) -> list[Attestation]:
        assert cls is Attestation
        return [
            Attestation(who, bytes(32), "tdx", bytes(32), name, 1, bytes(32), BORN, BORN, bytes(32), 1)
            for who, name in self.registered
        ]

    def tell(self, peer: bytes, message: Any) -> bool:
        self.said.append((peer, message))
        return True

    def on_trouble(self, what: str, why: str) -> None:
        self.troubles.append(why)

    def ticks(self, count: int) -> list[tuple[bytes, Any]]:
        self.said = []
        for _ in range(count):
            self.bundles.tick()
        return self.said


def test_asks_the_one_that_named_it_first_then_the_others(tmp_path: Path) -> None:
    peer = Peer(tmp_path, (CYD, NAME))
    assert peer.ticks(1) == [(CYD, msg.GetBundle(NAME))]
    assert peer.ticks(PATIENCE_TICKS - 1) == []
    assert peer.ticks(1) == [(BOB, msg.GetBundle(NAME))]
    assert not peer.bundles.on_bundle(BOB, msg.Bundle(NAME, b"")), "it has none either"
    assert peer.ticks(AGAIN_TICKS - PATIENCE_TICKS - 3) == [], "nobody is left to ask"
    peer.bundles.on_up(BOB)
    assert peer.ticks(1) == [(BOB, msg.GetBundle(NAME))]
    assert peer.bundles.on_bundle(BOB, msg.Bundle(NAME, DATA))
    assert kept.find(tmp_path, NAME) == DATA
    assert peer.ticks(2 * AGAIN_TICKS) == []


def test_asks_again_after_a_while(tmp_path: Path) -> None:
    peer = Peer(tmp_path, (CYD, NAME))
    peer.up = {CYD}
    assert len(peer.ticks(AGAIN_TICKS - 1)) == 1 and len(peer.ticks(AGAIN_TICKS)) == 1


def test_what_is_here_is_not_asked_for_and_what_is_damaged_is(tmp_path: Path) -> None:
    kept.keep_of_peer(tmp_path, QUORUM, NAME, DATA)
    assert Peer(tmp_path, (CYD, NAME)).ticks(5) == []
    kept.keep_of_peer(tmp_path, QUORUM, NAME, DATA[:-1])
    assert Peer(tmp_path, (CYD, NAME)).ticks(1) == [(CYD, msg.GetBundle(NAME))]


def test_takes_only_what_it_asked_for_of_whom_it_asked(tmp_path: Path) -> None:
    peer = Peer(tmp_path, (CYD, NAME))
    assert not peer.bundles.on_bundle(CYD, msg.Bundle(NAME, DATA)), "it was not asked yet"
    peer.ticks(1)
    assert not peer.bundles.on_bundle(BOB, msg.Bundle(NAME, DATA))
    for wrong in (made(5), b"no bundle", DATA + b"\0"):
        peer = Peer(tmp_path, (CYD, NAME))
        peer.ticks(1)
        with pytest.raises(Malformed):
            peer.bundles.on_bundle(CYD, msg.Bundle(NAME, wrong))
    assert kept.find(tmp_path, NAME) is None


def test_gives_what_the_ledger_names_and_nothing_else(tmp_path: Path) -> None:
    other = made(5)
    for data in (DATA, other):
        path = kept.path_of(tmp_path, collateral.load(data).digest)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    peer = Peer(tmp_path, (ANN, NAME))
    for data, given in ((DATA, DATA), (other, b"")):
        peer.said = []
        name = collateral.load(data).digest
        peer.bundles.serve(BOB, name)
        assert peer.said == [(BOB, msg.Bundle(name, given))]


def test_one_too_large_for_a_frame_stays(tmp_path: Path) -> None:
    large = made(msg.BUNDLE_MAX)
    name = collateral.load(large).digest
    kept.keep_of_peer(tmp_path, QUORUM, name, large)
    peer = Peer(tmp_path, (ANN, name))
    peer.bundles.serve(BOB, name)
    assert peer.said == [(BOB, msg.Bundle(name, b""))]


def test_what_is_named_no_more_goes(tmp_path: Path) -> None:
    other = made(5)
    own = kept.path_of(tmp_path, NAME)
    own.parent.mkdir()
    own.write_bytes(DATA)
    kept.keep_of_peer(tmp_path, QUORUM, collateral.load(other).digest, other)
    kept.keep_of_peer(tmp_path, bytes(32), collateral.load(other).digest, other)
    Peer(tmp_path, (CYD, NAME))
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.bundle"))
    assert len(left) == 2 and not any(QUORUM.hex() in p for p in left), "another quorum's are its own"
    peer = Peer(tmp_path, (CYD, bytes(32)))
    peer.registered = []
    peer.bundles.look()
    assert peer.ticks(5) == []


def test_a_full_disk_is_no_fault_of_the_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "write_file", full)
    peer = Peer(tmp_path, (CYD, NAME))
    peer.ticks(1)
    assert not peer.bundles.on_bundle(CYD, msg.Bundle(NAME, DATA)) and len(peer.troubles) == 1
    assert peer.ticks(AGAIN_TICKS), "asked for again"
