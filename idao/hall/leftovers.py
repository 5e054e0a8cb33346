"""Contents that were taken in and are on no ledger: found, and freed.

A contribution that is killed, or refused, between storing and signing leaves them; run again, it goes on with
them. Whoever does not mean to wants their space back. Nothing counts as left over while any contribution
runs, nor where a ledger that may know of it is not here as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from idao.errors import VerificationFailed
from idao.frozen import frozen
from idao.hall.routing import Routing
from idao.home import show_time
from idao.model import show_id
from idao.store import documents, moments
from idao.store.ledger import LedgerStore

if TYPE_CHECKING:
    import sqlite3

    from idao.dao import Dao
    from idao.store.contents import Contents


@frozen
class Leftovers:
    """What is on no ledger and on no way to one."""

    refs: tuple[bytes, ...]
    """Versions of contents, oldest first."""
    notes: tuple[tuple[bytes, int], ...]
    """(asset, version) that this home has notes of: some share their contents with what is registered."""


def find(dao: Dao, db: sqlite3.Connection) -> Leftovers:
    """Needs no key. `VerificationFailed` (`ledger-missing`, `rolled-back`) where that cannot be told."""
    _require_ledgers(dao, db)
    noted = documents.manifests(db)
    notes = Routing(dao.on("")).unspoken([(asset, version) for asset, version, _ in noted])
    left = set(notes)
    kept = {ref for asset, version, ref in noted if (asset, version) not in left}
    refs = (bytes(row[0]) for row in db.execute("select ref from version order by taken_ms, ref"))
    return Leftovers(tuple(ref for ref in refs if ref not in kept), tuple(notes))


def _require_ledgers(dao: Dao, db: sqlite3.Connection) -> None:
    """Every ledger that this home had must be here, up to the newest block that it knows of."""
    newest = dict(db.execute("select what, at_ms from moment").fetchall())
    for stem, name in dao.home.config.get("ledgers", {}).items():
        path = dao.home.ledgers_folder / f"{stem}.db"
        if not path.exists():
            what = f"what is registered cannot be told: the ledger of '{name}' is not here"
            raise VerificationFailed(what, hint="restore it from a backup", code="ledger-missing")
        store = LedgerStore.open(path, readonly=True)
        try:
            known = newest.get(moments.newest_block(store.chain.quorum), 0)
            if known > (store.tip().time_ms if store.height else 0):
                what = f"what is registered cannot be told: ledger '{path.name}': {moments.LOST}"
                raise VerificationFailed(what, hint="restore it from a backup", code="rolled-back")
        finally:
            store.close()


def free(dao: Dao, *, dry: bool = False) -> dict[str, Any]:
    """Destroys their keys and frees what nobody else uses; `dry` tells what that would be.

    `Busy` while a contribution runs.
    """
    with dao.assets.opened(write=not dry) as (contents, docs), contents.nobody_registering():
        found = find(dao, contents.db)
        shown = [_shown(contents, docs, ref) for ref in found.refs]
        if dry:
            freed = contents.freed_by(*found.refs)
        else:
            freed = contents.forget(*found.refs)
            _drop_notes(dao, contents, docs, found.notes)
    return {"asset": None, "versions": len(shown), "freed_bytes": freed, "unregistered": shown}


def _shown(contents: Contents, docs: documents.Documents, ref: bytes) -> dict[str, Any]:
    """A version as JSON; its size is not known where its manifest is damaged."""
    taken = contents.db.execute("select taken_ms from version where ref = ?", (ref,)).fetchone()[0]
    assets = sorted({show_id("asset", asset) for asset, _ in docs.of_manifest(ref)})
    shown = {"manifest": ref.hex(), "taken": show_time(taken), "assets": assets}
    try:
        head = contents.open_manifest(ref).head
    except VerificationFailed:
        return {**shown, "files": None, "bytes": None}
    return {**shown, "files": head.files, "bytes": head.size}


def _drop_notes(
    dao: Dao, contents: Contents, docs: documents.Documents, notes: Sequence[tuple[bytes, int]]
) -> None:
    """Cards, score cards and salts go too; the nonce of an asset with the last of its versions."""
    everywhere = Routing(dao.on(""))
    with contents.transaction():
        for asset, version in notes:
            docs.forget(asset, version)
        kept = {asset for asset, _, _ in docs.manifests()}
        for asset in sorted({asset for asset, _ in notes} - kept):
            if not everywhere.holder(asset):
                docs.forget(asset, 0)
