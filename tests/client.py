"""A client of one home, as a script: writes and reads without end, and tells what it saw and when.

    client.py write HOME QUORUM END       until the file END is there: one JSON line an operation
    client.py log HOME QUORUM             what this home's ledger holds in the end, as one JSON object

A write sets this iDAO's own register on the ledger (the weight of its trust in nobody's quorum) to the
number of the write. Times are seconds of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from idao.crypto import statetree
from idao.dao import Dao
from idao.errors import IdaoError, Pending
from idao.ledger.idao import AddTrust, TrustLink
from idao.model import show_id
from idao.store.ledger import LedgerStore

NOBODY = b"\xee" * 32
PAUSE_S = 0.4
"""Between operations: the machine is shared with four nodes."""
WAIT_S = 5.0


def write(dao: Dao, number: int) -> dict[str, Any]:
    row: dict[str, Any] = {"do": "write", "number": number, "began": time.monotonic()}
    try:
        (done,) = dao.submit([("trust.add", AddTrust(NOBODY, (), (), number))])
        row |= {"tx": show_id("tx", done.tx), "height": done.receipt.height, "position": done.position}
        row["result"] = "ok" if done.receipt.ok else "refused"
    except Pending as e:
        row |= {"result": "pending", "tx": e.txs[-1]}
    except (IdaoError, OSError, sqlite3.Error) as e:  # what a command tells with an exit code
        row |= {"result": "error", "code": getattr(e, "code", type(e).__name__)}
    return row | {"ended": time.monotonic()}


def read(dao: Dao) -> dict[str, Any]:
    row: dict[str, Any] = {"do": "read", "began": time.monotonic()}
    try:
        with closing(LedgerStore.open(dao.ledger_path(), readonly=True)) as store, store.snapshot():
            found = store.state().get(TrustLink, dao.me, NOBODY)
            row |= {"result": "ok", "height": store.height, "root": statetree.root(store.branches).hex()}
            row["number"] = found.weight if found else 0
    except (IdaoError, OSError, sqlite3.Error) as e:
        row |= {"result": "error", "code": getattr(e, "code", type(e).__name__)}
    return row | {"ended": time.monotonic()}


def log(dao: Dao) -> dict[str, Any]:
    with closing(LedgerStore.open(dao.ledger_path(), readonly=True)) as store:
        txs = {
            show_id("tx", r.tx): [r.height, position, r.ok] for position, r in store.receipts() if any(r.tx)
        }
        roots = {h: store.header(h).state_root.hex() for h in range(1, store.height + 1)}
        return {"height": store.height, "txs": txs, "roots": roots}


def main() -> None:
    do, home, quorum = sys.argv[1:4]
    dao = Dao.open(Path(home), quorum=quorum, wait_s=WAIT_S)
    if do == "log":
        print(json.dumps(log(dao)))
        return
    keys, number = dao.keys(), 0
    while not os.path.exists(sys.argv[4]):
        number += 1
        for row in (write(dao, number), read(dao)):
            print(json.dumps(row), flush=True)
        time.sleep(PAUSE_S)
        dao = Dao.open(Path(home), quorum=quorum, wait_s=WAIT_S, keys=keys)


if __name__ == "__main__":
    main()
