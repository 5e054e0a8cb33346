"""Bugs that peers had in sync, mempool, node and disk, replayed: numbered as in test_peer_bugs."""

from __future__ import annotations

import asyncio
import random
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from group_world import GroupWorld, group_of
from member_world import Net, busy, crowd, play, told, trust
from sim.bench import Bench, X, Y

from idao.crypto import canonical
from idao.crypto.certificates import make_certificate
from idao.errors import IdaoError, Malformed
from idao.ledger import genesis
from idao.ledger.tx import parse_tx
from idao.model import (
    BLOCK_BYTES_MAX,
    FINALIZE,
    NOTARIZE,
    NULLIFY,
    VALIDATORS_MAX,
    Block,
    SignedVote,
    Vote,
    show_id,
)
from idao.node import link
from idao.node import messages as msg
from idao.node.pool import ACTOR_MAX, POOL_MAX, Pool
from idao.quorum import events as ev
from idao.quorum import rules as quorum_rules
from idao.quorum.machine import Machine
from idao.store.audit import audit
from idao.store.ledger import LedgerStore

# --- sync and transfer ------------------------------------------------------------------------------


def test_peer_25_33_34_50_answers_out_of_order(tmp_path: Path) -> None:
    """Sync: a block at another place than its height, old answers after new ones, heights nobody has."""

    async def story() -> None:
        net = Net(tmp_path, people := crowd())
        for p in people[:3]:
            net.boot(p)
        await busy(net, people, 6)
        good = net.member(people[0]).engine.decided(1, 6, 2**20)
        late = net.boot(people[3])
        net.cut |= {(people[3].idao, p.idao) for p in people}
        liar, friend = people[1].idao, people[2].idao
        late.sync.hint(liar, 2**62)
        with pytest.raises(Malformed):
            late.on_frame(liar, *told(1, [good[1], good[0]]))
        assert late.engine.tip.height == 0
        late.on_frame(friend, *told(3, good[2:]))
        assert late.engine.tip.height == 0, "a gap is no progress"
        late.on_frame(friend, *told(1, good[:4]))
        heights = []
        rng = random.Random(5)
        for _ in range(40):
            start = rng.randrange(5)
            late.on_frame(friend, *told(start + 1, good[start : rng.randint(start, 6)]))
            heights.append(late.engine.tip.height)
        assert heights == sorted(heights) and heights[-1] == 6, "it never goes back"
        claims = dict(late.sync._claims)
        late.sync.hint(friend, 3)
        assert late.sync._claims.get(friend, 0) >= claims.get(friend, 0)
        net.cut.clear()
        await net.agreed(net.member(people[0]).submit(people[0].tx(net.quorum, trust(99))).id)
        net.stop()
        assert not audit(net.path(people[3])).findings

    play(story)


def test_peer_51_frames_replayed_on_a_new_session(tmp_path: Path) -> None:
    """All that a node ever heard, again, after its restart: nothing is signed twice, nobody is accused."""

    async def story() -> None:
        net = Net(tmp_path, people := crowd())
        for p in people:
            net.boot(p)
        heard: list[tuple[bytes, int, bytes]] = []
        plain = net.deliver

        def deliver(source: bytes, target: bytes, kind: int, payload: bytes) -> None:
            if target == people[3].idao:
                heard.append((source, kind, payload))
            plain(source, target, kind, payload)

        net.deliver = deliver  # type: ignore[method-assign]
        await busy(net, people, 4)
        net.deliver = plain  # type: ignore[method-assign]
        net.kill(people[3])
        again = net.boot(people[3])
        height = again.engine.tip.height
        assert len(heard) > 20
        for source, kind, payload in heard:
            again.on_frame(source, kind, payload)
        assert again.engine.tip.height >= height and not again.engine.halted
        await busy(net, people, 2)
        net.stop()
        assert not net.faults and not net.bad and not net.troubles

    play(story)


def test_peer_41_the_largest_proposal_fits_a_frame() -> None:
    """Of 64 validators, with every certificate it may carry: what is valid can be sent and read."""
    members = Bench(Machine, n=VALIDATORS_MAX)
    views = ev.JUSTIFY_MAX
    justify = []
    for view in range(views):
        vote = Vote(NULLIFY, bytes(32), 2**62, view, b"")
        signed = [SignedVote(vote, i, bytes(64)) for i in range(VALIDATORS_MAX)]
        justify.append(make_certificate(vote, signed, members.validators))
    proposal = ev.Propose(members.sv(NOTARIZE, 1, views, X), bytes(ev.BODY_MAX), tuple(justify))
    kind, payload = msg.encode(proposal)
    assert len(link.frame(kind, payload)) <= link.FRAME_MAX + 4
    assert msg.decode(kind, payload) == proposal
    assert ev.BODY_MAX >= BLOCK_BYTES_MAX


# --- mempool ----------------------------------------------------------------------------------------


def test_peer_39_a_tx_that_comes_again_after_its_block(tmp_path: Path) -> None:
    """Committed while peers still pass it on: it is neither kept nor ordered again."""

    async def story() -> None:
        net = Net(tmp_path, people := crowd())
        for p in people:
            net.boot(p)
        raws = [people[0].tx(net.quorum, trust(i)) for i in range(30)]
        for i, raw in enumerate(raws):
            net.member(people[0]).submit(raw)
            for m in net.members.values():
                m.on_frame(people[1].idao, *msg.encode(msg.Txs(tuple(raws[: i + 1]))))
            if i % 5 == 0:
                await asyncio.sleep(0.01)
        await net.agreed(parse_tx(raws[-1]).id)
        for m in net.members.values():
            m.on_frame(people[2].idao, *msg.encode(msg.Txs(tuple(raws))))
            assert len(m.engine.pool) == 0
            receipts = [r.tx for _, r in m.engine.store.receipts()]
            assert sorted(receipts) == sorted(parse_tx(r).id for r in raws)
        net.stop()
        assert not net.bad and not net.troubles

    play(story)


def test_peer_53_ten_thousand_that_stand_on_each_other() -> None:
    """Dropping the first of a long row must not recurse through the rest."""
    people = crowd(POOL_MAX // ACTOR_MAX)
    pool = Pool()
    for p in people:
        for tx in [parse_tx(p.tx(bytes(32), trust(0))) for _ in range(ACTOR_MAX)][::-1]:
            assert pool.add(tx)
    assert len(pool) == POOL_MAX
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(200)
        seqs = [tx.envelope.seq for tx in pool.in_order() if tx.envelope.idao == people[0].idao]
        for p in people:
            pool.drop_used(p.idao, ACTOR_MAX)
    finally:
        sys.setrecursionlimit(limit)
    assert seqs == sorted(seqs) and len(pool) == 0


# --- the node ---------------------------------------------------------------------------------------


def test_peer_38_status_at_any_moment(tmp_path: Path) -> None:
    """Asked between any two steps of a busy node, it answers, and the work goes on."""

    async def story() -> None:
        net = Net(tmp_path, people := crowd())
        for p in people:
            net.boot(p)
        raws = [people[0].tx(net.quorum, trust(i)) for i in range(10)]
        answers = 0
        for raw in raws:
            tx = net.member(people[0]).submit(raw)
            for _ in range(5):
                await asyncio.sleep(0)
                for m in net.members.values():
                    assert m.why() and m.status() is not None
                    answers += 1
        await net.agreed(tx.id)
        assert answers == 10 * 5 * 4
        net.stop()

    play(story)


def test_peer_48_nothing_is_unpacked_that_a_peer_packed() -> None:
    """Links compress nothing, so no frame can be larger inside than outside."""
    rooms = [*Path(link.__file__).parent.glob("*.py"), *Path(quorum_rules.__file__).parent.glob("*.py")]
    assert len(rooms) > 15
    for path in rooms:
        assert not re.search(r"\b(zlib|gzip|bz2|lzma|zstandard|zstd|brotli|snappy)\b", path.read_text()), path


def test_peer_56_nested_without_end() -> None:
    for cls in [*msg.KINDS.values(), Block]:
        for opener in (b"\x81", b"\xa1\x61a", b"\xc6", b"\x9f", b"\xd8\x64"):
            with pytest.raises(Malformed):
                canonical.unpack(cls, opener * 100_000 + b"\x01", limit=msg.PAYLOAD_MAX)


# --- the disk ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """A ledger with its write-ahead log as a power cut leaves them."""

    name: str
    database: bytes
    log: bytes
    height: int

    def copied(self, folder: Path, log: bytes) -> Path:
        path = folder / self.name
        path.write_bytes(self.database)
        path.with_name(self.name + "-wal").write_bytes(log)
        return path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    bundle = group_of()
    name = show_id("quorum", genesis.quorum_id(bundle.genesis)).removeprefix("quorum:")
    path = tmp_path_factory.mktemp("wal") / f"{name}.db"
    LedgerStore.create(path, bundle).close()
    store = LedgerStore.open(path)
    store.db.execute("pragma wal_autocheckpoint = 0")
    world = GroupWorld(store=store)
    for _ in range(6):
        world.step()
    log = path.with_name(path.name + "-wal").read_bytes()
    found = Written(path.name, path.read_bytes(), log, world.tip.height)
    store.close()
    return found


@pytest.mark.parametrize("seed", range(40))
def test_peer_49_a_torn_or_damaged_log(written: Written, tmp_path: Path, seed: int) -> None:
    """A prefix of what was written, whole blocks alone; or a refusal. Never a block that was not."""
    rng = random.Random(seed)
    log = bytearray(written.log)
    if seed % 2:
        log[rng.randrange(len(log))] ^= 1 << rng.randrange(8)
    else:
        del log[rng.randrange(len(log)) :]
    path = written.copied(tmp_path, bytes(log))
    try:
        store = LedgerStore.open(path)
        assert 0 <= store.height <= written.height
        store.close()
        assert not audit(path).findings
    except IdaoError as e:
        assert e.message


def test_peer_49_nothing_acknowledged_is_lost(written: Written, tmp_path: Path) -> None:
    """With its whole log the ledger has every block, whatever the database file had of it."""
    assert LedgerStore.open(written.copied(tmp_path, written.log)).height == written.height
    (bare := tmp_path / "bare").mkdir()
    assert LedgerStore.open(written.copied(bare, b"")).height < written.height, "else nothing was tested"


def test_peer_50_own_tip_never_goes_back() -> None:
    """Decided blocks that arrive again, late or twice: the machine's height only grows."""
    bench = Bench(Machine).start()
    bench.propose(0, X).votes(NOTARIZE, 0, X).votes(FINALIZE, 0, X)
    assert len(bench.of(ev.Commit)) == 1
    bench.say(bench.cert(FINALIZE, 0, X), bench.cert(NOTARIZE, 0, X), bench.cert(NULLIFY, 1))
    bench.say(bench.frame(1, Y, (bench.cert(NULLIFY, 0),)))
    assert len(bench.of(ev.Commit)) == 1
