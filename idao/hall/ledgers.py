"""Reading the ledgers of a home: status, log, checkpoints, events, audit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idao import anchor
from idao.crypto import canonical, note
from idao.errors import IdaoError, NotFound, Refused
from idao.home import show_time
from idao.ledger import accounts, genesis, membership
from idao.ledger.tx import Receipt
from idao.model import parse_id, show_id
from idao.store import moments
from idao.store.ledger import QUARANTINED, LedgerStore
from idao.store.outbox import Outbox

if TYPE_CHECKING:
    from idao.dao import Dao
    from idao.store.audit import Progress, Report

EVENTS_POLL_S = 0.2
"""How often `events --follow` looks for new blocks: well below what a person notices."""


class Ledgers:
    def __init__(self, dao: Dao) -> None:
        self._dao = dao

    def status(self) -> dict[str, Any]:
        """Who, which ledgers, balances, and what needs the user. Needs no key and writes nothing."""
        dao = self._dao
        names = dao.home.config.get("ledgers", {})
        quorums, balances = [], []
        chosen = [dao.ledger_path()] if dao.named_quorum else sorted(dao.home.ledgers_folder.glob("*.db"))
        for path in chosen:
            store = LedgerStore.open(path, readonly=True)
            quorums.append(self._quorum_row(store, str(names.get(path.stem, ""))))
            if store.continued_by is None:  # what an ended ledger says of balances is history
                balances += self._balances(store)
            store.close()
        return {
            "idao": show_id("idao", dao.me),
            "name": str(dao.home.get("idao", "name", "")),
            "home": str(dao.home.path),
            "quorums": quorums,
            "balances": balances,
            "needs": self._needs(quorums),
        }

    def _quorum_row(self, store: LedgerStore, name: str) -> dict[str, Any]:
        anchored = store.checkpoint()
        with self._dao.home_db(readonly=True) as db:
            pending = Outbox(db, store.chain.quorum).count()
        _, validators = store.validators(store.height + 1)
        return {
            "quorum": show_id("quorum", store.chain.quorum),
            "name": name,
            "height": store.height,
            "anchored": anchored[0] if anchored else 0,
            "pending": pending,
            "validators": len(validators.validators),
            "standing": store.standing,
            "continued_by": show_id("quorum", store.continued_by) if store.continued_by else None,
        }

    def _balances(self, store: LedgerStore) -> list[dict[str, str]]:
        out = []
        for account in store.state().scan(accounts.Account, accounts.IDAO, self._dao.me):
            stake = account.unit == accounts.STAKE
            out.append(
                {
                    "quorum": show_id("quorum", store.chain.quorum),
                    "unit": "stake" if stake else show_id("idao", account.unit),
                    "unit_name": "stake" if stake else f"credit of {show_id('idao', account.unit)}",
                    "value": str(account.balance),
                }
            )
        return out

    def _needs(self, quorums: list[dict[str, Any]]) -> list[str]:
        needs = []
        if (self._dao.home.keys_folder / "phrase.key").exists():
            needs.append("write down the recovery phrase: idao key phrase")
        needs += [f"{q['pending']} transactions wait in {q['name']}" for q in quorums if q["pending"]]
        if any(q["standing"] == QUARANTINED for q in quorums):
            needs.append("this home was copied or moved here: to go on, idao quorum recover")
        known = moments.remembered(self._dao.home.database)
        if moments.BACKUP_MADE not in known:
            needs.append("make a backup: idao backup create -o FILE")
        elif moments.BACKUP_VERIFIED not in known:
            needs.append("see that your backup can be restored: idao backup verify FILE --phrase-file FILE")
        return needs

    # --- log

    def blocks(self, *, last: int) -> list[dict[str, Any]]:
        """The newest `last` blocks, oldest first."""
        store = self._dao.store
        top = store.height
        out = []
        for height in range(max(1, top - last + 1), top + 1):
            header = store.header(height)
            out.append(
                {
                    "height": height,
                    "time": show_time(header.time_ms),
                    "receipts": store.receipt_count(height),
                    "tree_size": header.log_size + 1,
                    "state_root": header.state_root.hex(),
                }
            )
        return out

    def checkpoint(self, height: int | None = None) -> dict[str, Any]:
        """A signed head of the log as its C2SP note."""
        found = self._dao.store.checkpoint(height)
        if found is None and height is not None:
            raise NotFound(f"no checkpoint at height {height}", hint="see 'idao log list'")
        if found is None:
            raise NotFound("nothing is anchored yet", hint="the first contribution makes the first block")
        parsed = note.parse_checkpoint(note.parse_note(found[1]).text)
        return {
            "quorum": show_id("quorum", parsed.quorum),
            "height": parsed.height,
            "tree_size": parsed.size,
            "root": parsed.root.hex(),
            "state_root": parsed.state_root.hex(),
            "note": found[1],
        }

    def vkeys(self) -> dict[str, Any]:
        """Verifier keys for tools of other makers."""
        store = self._dao.store
        _, validators = store.validators(store.height + 1)
        pairs = anchor.vkeys(store.chain.quorum, validators)
        return {"log": [p[0] for p in pairs], "cosigners": [p[1] for p in pairs]}

    def tlog_proof(self, tx: str) -> str:
        """The C2SP tlog-proof of a transaction's receipt against the newest checkpoint."""
        store = self._dao.store
        found = store.receipt_of(parse_id("tx", tx))
        head = store.checkpoint()
        if found is None or head is None:
            raise NotFound(f"no receipt of '{tx}' here")
        signed = note.parse_note(head[1])
        size = note.parse_checkpoint(signed.text).size
        return str(note.TlogProof(found[0], tuple(store.log_path(found[0], size)), signed))

    def leaf(self, position: int) -> bytes:
        return self._dao.store.leaf(position)

    # --- tables: what any SQL tool would see

    def tables(self) -> list[dict[str, Any]]:
        """Every table of the ledger file with its number of rows and its schema, comments included."""
        from sqlite_utils import Database

        db = Database(self._dao.store.db)
        return [{"table": t.name, "rows": t.count, "schema": t.schema} for t in db.tables]

    def rows(self, table: str) -> Iterator[dict[str, Any]]:
        """The rows of one table; bytes as hexadecimal."""
        from sqlite_utils import Database

        db = Database(self._dao.store.db)
        if table not in db.table_names():
            import difflib  # only after a slip of the finger

            near = difflib.get_close_matches(table, db.table_names(), n=1)
            hint = f"did you mean '{near[0]}'?" if near else "see 'idao log table'"
            raise NotFound(f"no table '{table}' in the ledger", hint=hint)
        for row in db.table(table).rows:
            yield {name: _show(value) for name, value in row.items()}

    # --- events

    def events(self, *, first: int = 1, follow: bool = False) -> Iterator[dict[str, Any]]:
        """What happened, one item a receipt; with `follow` it never ends."""
        height = first - 1
        while True:
            store = LedgerStore.open(self._dao.ledger_path(), readonly=True)
            try:
                top = store.height
                for position, receipt in store.receipts(height + 1, top):
                    yield show_receipt(position, receipt)
                height = max(height, top)
            finally:
                store.close()
            if not follow:
                return
            time.sleep(EVENTS_POLL_S)

    def receipt(self, tx: str) -> dict[str, Any]:
        found = self._dao.store.receipt_of(parse_id("tx", tx))
        if found is None:
            raise NotFound(f"no transaction '{tx}' on this ledger")
        return show_receipt(*found)

    # --- audit

    def audit(self, progress: Progress | None = None) -> dict[str, Report]:
        """Audits the chosen ledger, or all of this home's. Quorum id -> report."""
        from idao.store.audit import audit

        dao = self._dao
        paths: list[Path] = sorted(dao.home.ledgers_folder.glob("*.db"))
        if dao.named_quorum:
            paths = [dao.ledger_path()]
        found = {f"quorum:{path.stem}": audit(path, progress) for path in paths}
        for path in paths:
            with suppress(IdaoError), closing(LedgerStore.open(path, readonly=True)) as store:
                if moments.rolled_back(dao.home.database, store):
                    found[f"quorum:{path.stem}"].note("end", moments.LOST)
        return found

    # --- pruning

    def prune(self, keep: int, *, force: bool = False, dry: bool = False) -> dict[str, Any]:
        """Takes the bodies of old transactions out of the chosen ledger, or tells what that would take.

        `Busy` while a node drives it. Unless `force`, `Refused` where no other member of a group is known to
        keep every block: nobody could join any more.
        """
        from idao.store import prune

        dao = self._dao
        if not force and dao.store.height - keep > dao.store.pruned:
            self._check_others_keep()
        if dry:
            gone = prune.plan(dao.store, keep)
        else:
            path = dao.ledger_path()
            with dao.home.exclusive(dao.wait_s), dao.home.driving(path, dao.wait_s):
                store = LedgerStore.open(path)
                try:
                    gone = prune.prune(store, keep)
                finally:
                    store.close()
            dao.__dict__.pop("store", None)
        return {
            "quorum": show_id("quorum", dao.quorum),
            "pruned": gone.height,
            "transactions": gone.transactions,
            "receipts": gone.receipts,
            "bytes": gone.bytes,
        }

    def _check_others_keep(self) -> None:
        from idao.node import peerbook

        dao = self._dao
        if dao.store.bundle.genesis.kind != genesis.GROUP:
            return
        seats = {s.idao for s in membership.seats(dao.state()) if s.state == membership.ACTIVE}
        if not (peerbook.whole(dao.ledger_path()) & seats) - {dao.me}:
            raise Refused(
                "no other member is known to keep every block: a newcomer could not catch up",
                hint="nodes tell each other what they keep; a whole backup does too: then add --force",
                code="last-whole",
            )


def show_receipt(position: int, receipt: Receipt) -> dict[str, Any]:
    """A receipt as JSON."""
    return {
        "height": receipt.height,
        "position": position,
        "tx": show_id("tx" if receipt.origin == "tx" else "proposal", receipt.tx),
        "kind": receipt.kind,
        "idao": show_id("idao", receipt.idao),
        "ok": receipt.ok,
        "code": receipt.code,
        "reason": receipt.reason,
        "changed": [
            {"table": c.table, "key": [_show(k) for k in canonical.decode(c.key)], "deleted": c.value is None}
            for c in receipt.changed
        ],
    }


def _show(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value
