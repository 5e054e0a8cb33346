"""A quorum of one: each height in one database transaction, and nothing signed twice after a crash."""

from __future__ import annotations

import sqlite3
from collections import deque

import pytest

from idao.crypto import canonical
from idao.crypto.certificates import verify_certificate
from idao.crypto.hashing import Kind, digest
from idao.crypto.keys import Signer, verify_vote
from idao.model import FINALIZE, SLOT_OF, Certificate, SignedVote, Validator, ValidatorSet, Vote
from idao.quorum import events as ev
from idao.quorum.machine import Machine

QUORUM = bytes(31) + b"q"
SIGNER = Signer(bytes(32))
SET = ValidatorSet((Validator(bytes(32), SIGNER.public, 1),))


SCHEMA = """
create table if not exists sign(height, view, slot, kind, digest, signature, signer,
    primary key(height, view, slot));
create table if not exists cert(height, kind, view, digest, bytes, primary key(height, kind, view, digest));
create table if not exists block(height, hash, bytes, primary key(height, hash));
create table if not exists chain(height primary key, hash, cert);
"""


class Crash(Exception):
    pass


class Shell:
    """The shell of `events.py`, with SQLite under it."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db, self.machine = db, Machine(QUORUM, SIGNER.public, verify_vote)
        self.inbox: deque[ev.Event] = deque()
        self.sent: list[ev.Effect] = []
        self.turns = 0
        self.crash_at: type | None = None
        db.executescript(SCHEMA)

    def start(self, pool: bool) -> ev.Start:
        tip = self.db.execute("select height, hash, cert from chain order by height desc").fetchone()
        height = tip[0] + 1 if tip else 1
        signs = tuple(
            SignedVote(Vote(kind, QUORUM, height, view, dig), signer, sig)
            for view, kind, dig, sig, signer in self.db.execute(
                "select view, kind, digest, signature, signer from sign where height = ?", [height]
            )
        )
        certs = tuple(
            canonical.unpack(Certificate, row[0])
            for row in self.db.execute("select bytes from cert where height = ?", [height])
        )
        blocks = tuple(
            ev.StoredBlock(height, *row)
            for row in self.db.execute("select hash, bytes from block where height = ?", [height])
        )
        parent = canonical.unpack(Certificate, tip[2]) if tip else None
        return ev.Start(height, SET, tip[1] if tip else QUORUM, parent, SET, pool, True, signs, certs, blocks)

    def turn(self, event: ev.Event) -> None:
        queue, outward = deque([event]), []
        self.turns += 1
        with self.db:
            self.db.execute("begin immediate")
            while queue:
                for effect in self.machine.step(queue.popleft()):
                    if self.crash_at is type(effect):
                        raise Crash
                    match effect:
                        case ev.Sign(v):
                            signature = SIGNER.sign_vote(v)
                            self.db.execute(
                                "insert into sign values (?,?,?,?,?,?,?)",
                                [v.height, v.view, SLOT_OF[v.kind], v.kind, v.digest, signature, 0],
                            )
                            queue.append(ev.Msg(ev.OWN, SignedVote(v, 0, signature)))
                        case ev.Persist(Certificate(vote) as c):
                            self.db.execute(
                                "insert into cert values (?,?,?,?,?)",
                                [vote.height, vote.kind, vote.view, vote.digest, canonical.pack(c)],
                            )
                        case ev.Persist(ev.StoredBlock(height, h, block)):
                            self.db.execute("insert into block values (?,?,?)", [height, h, block])
                        case ev.Build(height, view):
                            block = b"block %d" % height
                            queue.append(ev.Built(height, view, digest(Kind.HEADER, block), block))
                        case ev.Validate(height, _, h):
                            queue.append(ev.BlockReady(height, h, ev.VALID))
                        case ev.Commit(height, h, _, c):
                            self.db.execute(
                                "insert into chain values (?,?,?)", [height, h, canonical.pack(c)]
                            )
                            self.inbox.append(self.start(pool=True))
                        case _:
                            outward.append(effect)
        self.sent += outward


def open_db(path: str = ":memory:") -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def test_a_height_is_one_turn() -> None:
    shell = Shell(open_db())
    shell.turn(shell.start(pool=True))
    for _ in range(9):
        shell.turn(shell.inbox.popleft())
    rows = shell.db.execute("select height, hash, cert from chain order by height").fetchall()
    assert [r[0] for r in rows] == list(range(1, 11))
    assert shell.turns == 10
    for _, _, cert in rows:
        certificate = canonical.unpack(Certificate, cert)
        assert certificate.vote.kind == FINALIZE and verify_certificate(certificate, SET)


def test_idle_says_nothing() -> None:
    shell = Shell(open_db())
    shell.turn(shell.start(pool=False))
    assert shell.sent == [] and shell.inbox == deque()
    shell.turn(ev.PoolNonEmpty(1))
    assert len(shell.inbox) == 1, "a block was committed"


@pytest.mark.parametrize("at", [ev.Build, ev.Sign, ev.Persist, ev.Commit])
def test_crash_inside_a_turn_leaves_nothing_half_done(at: type) -> None:
    db = open_db()
    shell = Shell(db)
    shell.turn(shell.start(pool=True))
    shell.crash_at = at
    with pytest.raises(Crash):
        shell.turn(shell.inbox.popleft())
    again = Shell(db)
    again.turn(again.start(pool=True))
    assert db.execute("select max(height) from chain").fetchone() == (2,)
    assert db.execute("select count(*) from sign where height = 2").fetchone() == (3,)
