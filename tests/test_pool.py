"""The pool against a plain list of what it should hold, and what a peer's transactions come to in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from member_world import Person, bundle_of, trust

from idao.crypto import canonical
from idao.errors import Malformed, Refused
from idao.frozen import replace
from idao.home import now_ms
from idao.ledger.genesis import Bundle
from idao.ledger.tx import Envelope, SignedTx, Tx, parse_tx
from idao.model import FINALIZE, Block, Certificate, Vote
from idao.node import pool as rules
from idao.node.engine import Engine
from idao.node.pool import Pool
from idao.quorum import events as ev
from idao.store.ledger import LedgerStore

ACTORS = [bytes([i]) * 32 for i in range(3)]


def made(actor: int, seq: int, until: int) -> Tx:
    """One that nobody signed: the pool does not look."""
    name = bytes([actor, seq, until])
    envelope = Envelope(1, bytes(32), ACTORS[actor], bytes(32), 0, seq, until, "trust.add", 1, name)
    raw = b"raw of " + name * (1 + seq)
    return Tx(name.ljust(32, b"\0"), envelope, SignedTx(b"", ()), raw)


txs = st.builds(made, st.integers(0, 2), st.integers(1, 6), st.integers(1, 6))
steps = st.one_of(
    st.tuples(st.just("add"), txs),
    st.tuples(st.just("drop"), st.lists(txs, max_size=3)),
    st.tuples(st.just("used"), st.tuples(st.integers(0, 2), st.integers(0, 6))),
    st.tuples(st.just("expired"), st.integers(0, 7)),
)


def follow(pool: Pool, held: list[Tx], step: tuple[str, object]) -> None:
    """One step of the pool, and of the list that says what it should hold."""
    match step:
        case ("add", Tx() as tx):
            new = tx not in held
            room = len(held) < 8 and sum(t.envelope.idao == tx.envelope.idao for t in held) < 4
            if new and not room:
                with pytest.raises(Refused):
                    pool.add(tx)
            else:
                assert pool.add(tx) == new
                held += [tx] if new else []
        case ("drop", list() as gone):
            pool.drop([tx.id for tx in gone])
            held[:] = [t for t in held if t not in gone]
        case ("used", (int() as actor, int() as seq)):
            pool.drop_used(ACTORS[actor], seq)
            held[:] = [t for t in held if t.envelope.idao != ACTORS[actor] or t.envelope.seq > seq]
        case ("expired", int() as now):
            pool.drop_expired(now)
            held[:] = [t for t in held if t.envelope.valid_until >= now]


@given(st.lists(steps, max_size=40))
def test_it_holds_what_it_should(sequence: list[tuple[str, object]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "POOL_MAX", 8)
        patch.setattr(rules, "ACTOR_MAX", 4)
        pool, held = Pool(), list[Tx]()
        for step in sequence:
            follow(pool, held, step)
            assert list(pool) == held
            assert [pool.by_raw(t.raw) for t in held] == held == [pool.get(t.id) for t in held]
            assert pool._bytes == sum(len(t.raw) for t in held)
            for idao in ACTORS:
                mine = [t for t in held if t.envelope.idao == idao]
                assert pool.count(idao) == len(mine) and pool.of(idao) == mine
                assert [t for t in pool.in_order() if t.envelope.idao == idao] == sorted(
                    mine, key=lambda t: (t.envelope.seq, t.id)
                )
        for idao in ACTORS:
            pool.drop_used(idao, 6)
        assert not pool._by_raw and not pool._of, "nothing is kept of what went"


# --- what a peer passes on


def engine(path: Path, people: list[Person], bundle: Bundle) -> Engine:
    return Engine(LedgerStore.create(path, bundle), people[0].validator, now_ms)


def one_by_one(engine: Engine, raws: list[bytes]) -> None:
    for raw in raws:
        try:
            engine.submit(raw)
        except Refused as e:
            if e.code == "bad-signature":
                raise Malformed(e.message) from e


def held(engine: Engine) -> list[bytes]:
    return [tx.raw for tx in engine.pool]


def forged(raw: bytes) -> bytes:
    signed = parse_tx(raw).signed
    return canonical.pack(replace(signed, signatures=((signed.signatures[0][0], bytes(64)),)))


def test_many_at_once_are_judged_as_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the same, too many of one, for another quorum, expired, by a stranger."""
    monkeypatch.setattr(rules, "ACTOR_MAX", 4)
    bundle = bundle_of(people := [Person(f"person {i}") for i in range(4)])
    all_at_once, each = engine(tmp_path / "a.db", people, bundle), engine(tmp_path / "b.db", people, bundle)
    quorum = each.store.chain.quorum
    good = [people[i % 2].tx(quorum, trust(i)) for i in range(12)]
    bad = [
        people[2].tx(bytes(32), trust(1)),
        people[2].tx(quorum, trust(1), valid_ms=-1),
        Person("stranger").tx(quorum, trust(1)),
    ]
    raws = [good[2], good[0], *bad, good[0], *good, people[3].tx(quorum, trust(9)), *bad]
    one_by_one(each, raws)
    all_at_once.take_in(raws)
    assert held(all_at_once) == held(each) and len(each.pool) == 9
    all_at_once.take_in(raws[::-1])
    assert held(all_at_once) == held(each)


def test_a_forged_one_spoils_itself_and_what_follows(tmp_path: Path) -> None:
    people = [Person(f"person {i}") for i in range(4)]
    mine = engine(tmp_path / "a.db", people, bundle_of(people))
    first, second, third = (people[1].tx(mine.store.chain.quorum, trust(i)) for i in range(3))
    with pytest.raises(Malformed, match="signature does not hold"):
        mine.take_in([first, forged(second), third])
    assert held(mine) == [first]
    with pytest.raises(Malformed):
        mine.take_in([second, b"no transaction"])
    assert held(mine) == [first], "bytes that are no transaction spoil all"
    mine.take_in([first, second, third])
    assert held(mine) == [first, second, third]


def test_what_a_block_brought_is_not_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not passed it on yet will, soon. Of a block that is not valid nothing is kept."""
    people = sorted((Person(f"person {i}") for i in range(4)), key=lambda p: p.idao)
    bundle = bundle_of(people)
    engines = [engine(tmp_path / p.idao.hex(), [p, *people], bundle) for p in people]
    leader, other, mine = engines[1], engines[2], engines[3]
    raws = [people[0].tx(mine.store.chain.quorum, trust(i)) for i in range(3)]
    for maker in (leader, other):
        maker.take_in(raws)
    checked: list[bytes] = []
    authentic = Tx.authentic
    monkeypatch.setattr(Tx, "authentic", lambda tx: checked.append(tx.raw) or authentic(tx))

    usurped, proposed = other._build(1, 0), leader._build(1, 0)
    assert mine._judge(ev.Validate(1, 0, usurped.hash, usurped.block, True)) == ev.INVALID
    assert not held(mine) and not checked
    assert mine._judge(ev.Validate(1, 0, proposed.hash, proposed.block, True)) == ev.VALID
    assert held(mine) == raws == checked
    mine.take_in(raws)
    assert held(mine) == raws == checked


def test_what_a_block_used_up_goes_from_the_pool(tmp_path: Path) -> None:
    """Also of an iDAO whose transaction in the block was not known here."""
    people = sorted((Person(f"person {i}") for i in range(4)), key=lambda p: p.idao)
    bundle = bundle_of(people)
    leader, mine = (engine(tmp_path / p.idao.hex(), [p, *people], bundle) for p in (people[1], people[3]))
    raws = [people[i % 2].tx(mine.store.chain.quorum, trust(i)) for i in range(8)]
    leader.take_in(raws[2:6])  # of each person the second and the third
    mine.take_in([raws[0], raws[1], *raws[6:]])
    proposed = leader._build(1, 0)
    built = canonical.unpack(Block, proposed.block)
    vote = Vote(FINALIZE, mine.store.chain.quorum, 1, 0, proposed.hash)
    with mine.store.transaction():
        mine._append(built, mine._check(built)[0], Certificate(vote, b"\7", (bytes(64),) * 3), sign=False)
    assert held(mine) == raws[6:]
