"""The known bugs of other engines, by their numbers: each must have a test that would have caught it here.

Numbers are those of the table in ADR 0032. Bugs of the machine alone are cases on the bench
(`tests/sim/cases.py`); `ELSEWHERE` says where the others are tested that do not stand in this file.
"""

from __future__ import annotations

import asyncio
import importlib
import random
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from group_world import BOND, GroupWorld, four, group_of
from member_world import Net, Person, trust
from sim.bench import Bench, X, Y
from sim.cases import CASES
from sim.network import Weather
from sim.scenario import KINDS
from sim.world import Plan, World
from test_faults import vote_fault
from test_membership_changes import bond_of

from idao import anchor
from idao.crypto import canonical, note
from idao.crypto.certificates import make_certificate, verify_certificate
from idao.crypto.hashing import validators_hash
from idao.errors import IdaoError, Malformed, VerificationFailed
from idao.frozen import replace
from idao.ledger import block, charter, epochs, faults, genesis
from idao.ledger.faults import Report
from idao.ledger.idao import SetRule
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

ELSEWHERE: dict[int, tuple[str, ...]] = {
    1: ("test_quorum_sim.test_peer_01_and_02_halves_with_different_certificates",),
    2: ("test_quorum_sim.test_peer_01_and_02_halves_with_different_certificates",),
    8: ("sim.cases_of_messages.peer_07_forged_certificates",),
    23: ("sim.cases_of_messages.peer_07_forged_certificates",),
    31: ("sim.cases_of_messages.peer_07_forged_certificates",),
    32: ("sim.cases_of_messages.peer_07_forged_certificates",),
    29: ("test_quorum_sim.test_peer_29_rolled_back_home_stays_silent_long_enough",),
    30: ("test_quorum_sim.test_peer_30_resumes_after_hours_without_a_quorum",),
    36: ("test_frame_fuzz.test_every_cut_and_every_flip", "test_quorum_fuzz.test_any_frames_in_any_order"),
    40: ("test_faults.test_votes_are_judged_within_the_window", "test_faults.test_leaving_does_not_escape"),
    43: (
        "test_quorum_sim.test_peer_43_a_copied_home_stops_itself",
        "test_mesh.test_a_copied_home_is_refused_and_told",
    ),
    45: ("test_member.test_a_node_whose_execution_differs_stops_and_says_where",),
}  # fmt: skip


def test_each_of_the_56_is_tested() -> None:
    here = " ".join([*(n for n in globals() if n.startswith("test_peer_")), *CASES])
    numbers = {int(n) for n in re.findall(r"(?<=_)\d\d(?=_)", here)} | set(ELSEWHERE)
    assert set(range(1, 57)) - numbers == set()
    for places in ELSEWHERE.values():
        for place in places:
            module, _, name = place.rpartition(".")
            assert hasattr(importlib.import_module(module), name), place


def play(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 60))  # type: ignore[arg-type]


def crowd(n: int = 4) -> list[Person]:
    return [Person(f"person {i}") for i in range(n)]


async def busy(net: Net, people: list[Person], count: int) -> list[bytes]:
    """`count` transactions, one after the other, final everywhere. Their raw bytes."""
    raws = []
    for i in range(count):
        raws.append(raw := people[0].tx(net.quorum, trust(i)))
        await net.agreed(net.member(people[0]).submit(raw).id)
    return raws


# --- agreement: whole quorums --------------------------------------------------------------------


@pytest.mark.parametrize("sin", ["Twin", "Schemer", "Unheard"])
def test_peer_03_and_04_schedules_of_the_twins_papers(sin: str) -> None:
    """Zyzzyva, FaB, Fast-HotStuff: four replicas, one with two faces, one or two view changes."""
    for seed in range(12):
        plan = Plan(seed, liars={(seed + 1) % 4: sin}, txs=2, gst_ms=5000)
        plan.storm = Weather((1, 30), slow=0.2, slow_ms=1500)
        plan.held = ((seed * 3, seed % 4),)
        World(plan).run()


def test_peer_06_nobody_correct_is_framed_for_amnesia() -> None:
    """Twice as many liars as are tolerated: forks happen, and each convicts liars alone."""
    forks = 0
    for seed in range(20, 32):
        world = World(KINDS["fork"](seed))
        forks += (report := world.run()).forks
        assert report.guilty | report.accused <= set(world.plan.liars)
    assert forks


def test_peer_28_two_events_in_one_tick() -> None:
    """A time-out and the certificate it races with, in both orders: one vote in the slot."""
    for first in (True, False):
        bench = Bench(Machine).start(pool=True)
        bench.propose(0, X)
        certificate = bench.cert(NOTARIZE, 0, X)
        if first:
            bench.timeout().say(certificate)
        else:
            bench.say(certificate).timeout()
        slot = [kind for kind, view, _ in bench.signed() if view == 0 and kind in (FINALIZE, NULLIFY)]
        assert slot == [NULLIFY if first else FINALIZE]


@pytest.mark.parametrize("sin", ["StatusLiar", "ClockLiar", "Replayer"])
def test_peer_34_and_46_liars_about_heights_and_clocks(sin: str) -> None:
    for seed in range(10):
        plan = Plan(seed, liars={seed % 4: sin}, txs=3, gst_ms=2000)
        plan.skews_ms = (3_600_000 * (seed % 3 - 1), 0, 4000, -4000) if sin != "ClockLiar" else ()
        if seed % 3 != 1 and sin != "ClockLiar":
            plan.skews_ms = (0, 4000, -4000)
        World(plan).run()


# --- reads ------------------------------------------------------------------------------------------


def test_peer_05_one_answer_that_proves_itself_is_enough() -> None:
    """PBFT counted equal answers of reads. Here one node's answer carries power of the quorum, or is none."""
    world = four()
    world.step()
    height = world.tip.height
    head, validators = world.notes[height], world.validators(height)
    assert anchor.check_anchor(head, validators).power >= validators.quorum_size
    few = note.Note(head.text, head.signatures[: validators.quorum_size - 1])
    with pytest.raises(VerificationFailed):
        anchor.check_anchor(few, validators)
    stale = world.notes[height - 1]
    assert note.parse_checkpoint(stale.text).height == height - 1, "an old answer says how old it is"


def test_peer_55_a_set_that_changed_by_more_than_a_third() -> None:
    """From one validator to four: each anchor holds under the set of its height, and under no other."""
    world = four()
    world.step()
    flip = next(h for h in world.notes if len(world.validators(h).validators) == 4)
    before, after = world.validators(flip - 1), world.validators(flip)
    assert len(before.validators) == 1
    assert anchor.check_anchor(world.notes[flip - 1], before).power == 1
    for signed, wrong in ((world.notes[flip], before), (world.notes[flip - 1], after)):
        with pytest.raises(VerificationFailed):
            anchor.check_anchor(signed, wrong)
    assert world.blocks[flip - 2][0].header.next_validators == validators_hash(after), "the old set names it"


# --- the ledger -------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["validators", "next_validators"])
def test_peer_35_a_block_cannot_bring_its_own_validators(field: str) -> None:
    world = four()
    validators = world.validators()
    leader = validators.validators[validators.leader(world.tip.height + 1, 0)]
    built, _ = block.build(
        world.tip, world.chain, validators, proposer=leader.idao, view=0, time_ms=world.time_ms + 1000, txs=[]
    )
    block.check(world.tip, world.chain, validators, built)
    forged = replace(built, header=replace(built.header, **{field: bytes(32)}))
    with pytest.raises(block.InvalidBlock):
        block.check(world.tip, world.chain, validators, forged)


RULES = [key for key, rule in charter.RULES.items() if not rule.choices]


@pytest.mark.parametrize("rule", RULES)
def test_peer_37_each_parameter_at_its_ends(rule: str) -> None:
    """No value that the charter allows stops the ledger; beyond the ends it is refused."""
    for value in (charter.RULES[rule].low, charter.RULES[rule].high):
        world = GroupWorld(group_of())
        code = world.decide("ann", ("charter.set", SetRule(rule, canonical.encode(value))))
        assert code == ""
        height = world.tip.height
        world.step()
        world.register("bob")
        assert world.tip.height == height + 2
    for value in (charter.RULES[rule].low - 1, charter.RULES[rule].high + 1):
        with pytest.raises(IdaoError):
            charter.check_rule(rule, value)


def test_peer_44_ledger_and_engine_have_one_set(tmp_path: Path) -> None:
    """Two copies of the set that drift apart have halted others: here the headers of all heights agree."""
    world = four()
    world.step()
    for built, certificate, _ in world.blocks:
        header = built.header
        assert header.validators == validators_hash(world.validators(header.height))
        assert header.next_validators == validators_hash(world.validators(header.height + 1))
        assert verify_certificate(certificate, epochs.epoch_at(world.state, header.height)[1])

    async def story() -> None:
        net = Net(tmp_path, people := crowd())
        for p in people:
            net.boot(p)
        await busy(net, people, 2)
        for m in net.members.values():
            epoch = epochs.epoch_at(m.engine.store.state(), m.engine.tip.height + 1)[1]
            assert m.engine.validators == epoch
            assert m.engine.store.header(m.engine.tip.height).next_validators == validators_hash(epoch)
        net.stop()

    play(story)


def test_peer_47_a_hundred_faults_in_one_block() -> None:
    """Of one liar: all are recorded or refused, each by the rules, and a height costs once."""
    world = four()
    height = world.tip.height
    lies = [vote_fault(world, "dan", height, view=v) for v in range(99)]
    told = [world.send("bob", "fault.report", Report(lie)) for lie in lies]
    told.append(world.send("cyd", "fault.report", Report(vote_fault(world, "dan", height, view=5))))
    codes = {r.tx: r.code for r in world.step()}
    assert [codes[tx.id] for tx in told] == [""] * 99 + ["already-recorded"]
    assert len(faults.recorded(world.state)) == 99
    assert bond_of(world, "dan").slashed == BOND // 10
    world.step()


def seven() -> GroupWorld:
    world = four()
    for name in ("eve", "fay", "gus"):
        world.admit(name, yes=("bob", "cyd", "dan"))
        world.activate(name)
        world.step()
        world.step()
    assert len(world.powers()) == 7
    return world


def test_peer_54_no_jail_takes_more_than_the_quorum_can_spare() -> None:
    """All but two are reported: those who stay can still decide, and four are left."""
    world = seven()
    for name in ("gus", "fay", "eve", "dan", "cyd"):
        fault = vote_fault(world, name, world.tip.height)
        assert world.do("bob", "fault.report", Report(fault)) == ""
        world.step()
        world.step()
        left = world.validators()
        assert len(left.validators) >= 4 and left.quorum_size <= left.total_power
    assert set(world.powers()) == {"ann", "bob", "cyd", "dan"}, "the last liars stay until they are replaced"


# --- sync and transfer ------------------------------------------------------------------------------


def told(first: int, blocks: list[object]) -> tuple[int, bytes]:
    return msg.encode(
        msg.Commits(first, tuple(msg.DecidedBlock(d.block, d.certificate, d.note) for d in blocks))  # type: ignore[attr-defined]
    )


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
