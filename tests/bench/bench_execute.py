"""What a transaction costs a node apart from its signature, beside a bare loop of `crypto_sign_open`.

    python tests/bench/bench_execute.py [--kind transfer|trust] [--blocks 12] [--size 1000] [--people 200]

Transactions of many iDAOs are read, judged, executed into a block and appended to a ledger file with one
durable commit a block. A transfer writes four records, two of them new or nearly so; a trust link writes two
that were there. Prints the whole and its parts as ratios of
processor time to the bare loop of this run.
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import pstats
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair

from idao import identity
from idao.crypto import canonical
from idao.crypto.keys import Signer
from idao.dao import Dao
from idao.hall import founding
from idao.home import now_ms
from idao.ledger import accounts, idao
from idao.ledger import block as rules
from idao.ledger.state import State
from idao.ledger.tx import Envelope, Tx, parse_tx, sign_tx
from idao.model import FINALIZE, Certificate, Inception, Vote
from idao.store.ledger import LedgerStore

PARTS = ("read", "judge", "execute", "append")


class Person:
    """An iDAO that signs; `seq` counts its transactions."""

    def __init__(self, name: str) -> None:
        seed = hashlib.sha256(name.encode()).digest()
        self.signer, self.seq = Signer(seed), 0
        other = identity.next_commitment(hashlib.sha256(seed).digest())
        self.inception = Inception(1, seed, self.signer.public, other, other)
        self.idao = identity.idao_id(self.inception)

    def sign(self, quorum: bytes, kind: str, body: object) -> bytes:
        self.seq += 1
        until, key = now_ms() + 10**9, self.signer.public
        data = canonical.pack(body)
        envelope = Envelope(1, quorum, self.idao, key, 0, self.seq, until, kind, 1, data)
        return sign_tx(self.signer, envelope)


class Ledger:
    """A ledger of one validator, driven without the quorum machine so that only its own work is timed."""

    def __init__(self, folder: str) -> None:
        home = Path(folder, "home")
        founding.create(home, name="bench", domain=None, passphrase=None)
        dao = Dao.open(home)
        self.signer = dao.keys().validator
        self.store = LedgerStore.open(dao.ledger_path())
        self.tip, self.time_ms = self.store.tip(), now_ms()
        _, self.validators = self.store.validators(1)
        self.spent = dict.fromkeys(PARTS, 0.0)

    def part(self, name: str, work: Callable[[], object]) -> object:
        begun = time.process_time()
        done = work()
        self.spent[name] += time.process_time() - begun
        return done

    def block(self, raws: list[bytes]) -> None:
        chain, self.time_ms = self.store.chain, self.time_ms + 1000
        txs: list[Tx] = self.part("read", lambda: [parse_tx(raw) for raw in raws])  # type: ignore[assignment]
        state = State(self.tip.base)
        self.part("judge", lambda: [rules.admissible(state, chain, tx, self.time_ms) for tx in txs])
        built, executed = self.part(  # type: ignore[misc]
            "execute",
            lambda: rules.build(
                self.tip, chain, self.validators, proposer=bytes(32), view=0, time_ms=self.time_ms, txs=txs
            ),
        )
        assert all(r.ok for r in executed.receipts)
        vote = Vote(FINALIZE, chain.quorum, built.header.height, 0, rules.header_hash(built.header))
        certificate = Certificate(vote, b"\1", (self.signer.sign_vote(vote),))
        self.part("append", lambda: self._append(built, certificate, executed))
        self.tip = self.store.tip()

    def _append(self, built, certificate, executed) -> None:  # type: ignore[no-untyped-def]
        with self.store.transaction():
            self.store.append(built, certificate, executed)


def bare(count: int) -> float:
    """Seconds a signature of a 300-byte message takes to verify."""
    public, secret = crypto_sign_seed_keypair(bytes(32))
    message = crypto_sign(bytes(300), secret)
    begun = time.process_time()
    for _ in range(count):
        crypto_sign_open(message, public)
    return (time.process_time() - begun) / count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--kind", choices=("transfer", "trust"), default="transfer")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(folder)
        quorum = ledger.store.chain.quorum
        people = [Person(f"person {n}") for n in range(options.people)]
        ledger.block([p.sign(quorum, "idao.register", idao.Register(p.inception, ())) for p in people])
        ledger.block(
            [p.sign(quorum, "account.issue", accounts.Issue(p.idao, p.idao, 10**12, "")) for p in people]
        )
        blocks = []
        for _ in range(options.blocks):
            block = []
            for n in range(options.size):
                one, other = people[n % len(people)], chance.choice(people)
                while one is other:
                    other = chance.choice(people)
                if options.kind == "transfer":
                    body = accounts.Transfer(one.idao, other.idao, one.idao, 1 + n, "")
                    block.append(one.sign(quorum, "account.transfer", body))
                else:
                    block.append(one.sign(quorum, "trust.add", idao.AddTrust(quorum, (), (), 1 + n)))
            blocks.append(block)
        ledger.block(blocks.pop(0))  # a warm-up: first uses compile codecs and statements
        ledger.spent = dict.fromkeys(PARTS, 0.0)
        floor = bare(4000)
        profile = cProfile.Profile() if options.profile else None
        if profile:
            profile.enable()
        for block in blocks:
            ledger.block(block)
        if profile:
            profile.disable()
            pstats.Stats(profile).sort_stats("tottime").print_stats(45)
        floor = (floor + bare(4000)) / 2
        count = len(blocks) * options.size
        ledger.store.close()
    print(
        f"{len(blocks[0][0])} bytes a transaction, blocks of {options.size}, bare verify {floor * 1e6:.0f} us"
    )
    for name, seconds in (*ledger.spent.items(), ("all", sum(ledger.spent.values()))):
        print(f"{name:<10} {seconds / count / floor:5.2f} x bare verify  ({seconds / count * 1e6:.0f} us)")


if __name__ == "__main__":
    main()
