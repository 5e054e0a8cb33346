"""The audit beside a bare loop of `crypto_sign_open` over as many signatures: ratios in one run, not seconds.

    python tests/bench/bench_audit.py [--txs 3000] [--rounds 3]

One ledger of one-transaction blocks, one of blocks of a hundred. Also prints how long a transaction takes
from the pool to its durable block.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair

from idao.crypto import canonical
from idao.dao import Dao
from idao.hall import founding
from idao.home import now_ms
from idao.ledger import accounts
from idao.ledger.tx import Envelope, sign_tx
from idao.node.engine import Engine
from idao.store.audit import audit
from idao.store.ledger import LedgerStore

BLOCK_SIGNATURES = 3
"""Finalization, log signature and cosignature of every block."""


def fill(home: Path, txs: int, per_block: int) -> tuple[Path, float]:
    """A ledger of `txs` transactions; (its file, seconds a transaction)."""
    founding.create(home, name="bench", domain=None, passphrase=None)
    dao = Dao.open(home)
    keys, me = dao.keys(), dao.me
    store = LedgerStore.open(dao.ledger_path())
    engine, quorum = Engine(store, keys.validator, now_ms), store.chain.quorum
    body = canonical.pack(accounts.Issue(me, me, 1, "bench"))
    begun = time.perf_counter()
    for seq in range(1, txs + 1):
        until = now_ms() + 10**9
        envelope = Envelope(1, quorum, me, keys.identity.public, 0, seq, until, "account.issue", 1, body)
        engine.submit(sign_tx(keys.identity, envelope))
        if seq % per_block == 0:
            engine.run()
    taken = time.perf_counter() - begun
    store.close()
    return dao.ledger_path(), taken / txs


def bare(signatures: int) -> float:
    public, secret = crypto_sign_seed_keypair(bytes(32))
    message = crypto_sign(bytes(300), secret)
    begun = time.process_time()  # of a loop alone the same as its time, and steadier on a busy machine
    for _ in range(signatures):
        crypto_sign_open(message, public)
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--txs", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for per_block in (1, 100):
            path, each = fill(Path(folder, str(per_block)), options.txs, per_block)
            signatures = options.txs + BLOCK_SIGNATURES * (options.txs // per_block)
            walls, derived = [], []
            for _ in range(options.rounds):
                floor = bare(signatures)
                begun, used = time.perf_counter(), time.process_time()
                assert audit(path).ok
                walls.append((time.perf_counter() - begun) / floor)
                derived.append((time.process_time() - used) / floor)
            print(
                f"{per_block:>4} a block: audit {statistics.median(walls):.2f} x bare signatures "
                f"({statistics.median(derived):.2f} x of processor time beside the process that verifies); "
                f"{each * 1e6:.0f} us a transaction to its block"
            )


if __name__ == "__main__":
    main()
