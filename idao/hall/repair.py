"""Beginning a group's damaged ledger anew: the node fetches it from the others."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idao.errors import IdaoError, NotFound, Refused
from idao.home import now_ms
from idao.ledger import genesis
from idao.model import show_id
from idao.node import peerbook
from idao.store import genesisfile, home_db, rederive
from idao.store.ledger import LedgerStore
from idao.store.opening import connect_reading

if TYPE_CHECKING:
    from idao.dao import Dao


def repair(dao: Dao, *, dry: bool = False) -> dict[str, Any]:
    """Sets the chosen ledger aside and begins it anew, whatever is damaged in it, or where it is missing.

    It signs nothing until the others have proven where they stand: what it signed before may be forgotten.
    """
    path = _chosen(dao)
    bundle = _genesis(path)
    if bundle.genesis.kind != genesis.GROUP:
        raise Refused("nobody else has this ledger", hint="restore a backup", code="not-a-group")
    height = _require_others(dao, path)
    told = {"quorum": f"quorum:{path.stem}", "height": height, "kept": ""}
    if dry:
        return {**told, "dry_run": True}
    with dao.home.exclusive(dao.wait_s), dao.home.driving(path, dao.wait_s):
        aside = path.with_name(f"{path.stem}.damaged-{now_ms()}")
        genesisfile.keep(path, bundle)
        if path.exists():  # first, so that a crash leaves no ledger rather than one without its log
            path.rename(aside)
            told["kept"] = str(aside)
        for tail in ("-wal", "-shm"):
            log = path.with_name(path.name + tail)
            if log.exists():
                log.rename(aside.with_name(aside.name + tail))
        with closing(LedgerStore.create(path, bundle)) as fresh:
            fresh.quarantine()
    return told


def _chosen(dao: Dao) -> Path:
    """The ledger's file, also where it is gone and only its genesis is left."""
    try:
        return dao.ledger_path()
    except NotFound:
        wanted = str(dao.named_quorum or dao.home.get("quorum", "default"))
        names = dao.home.config.get("ledgers", {})
        left = dao.home.ledgers_folder.glob(f"*{genesisfile.SUFFIX}")
        fitting = [p for p in left if wanted in (f"quorum:{p.stem}", p.stem, names.get(p.stem))]
        if len(fitting) != 1:
            raise
        return fitting[0].with_suffix(".db")


def _genesis(path: Path) -> genesis.Bundle:
    """From the ledger if it can still be read, else from the file beside it."""
    try:
        if path.exists():
            with closing(connect_reading(path, home_db.BUSY_SECONDS)) as db:
                bundle = rederive.bundle_of(db, path)
                if show_id("quorum", genesis.quorum_id(bundle.genesis)) == f"quorum:{path.stem}":
                    genesis.check_bundle(bundle)
                    return bundle
    except (sqlite3.Error, UnicodeDecodeError, IdaoError):
        pass  # what this command is for
    kept = genesisfile.path_of(path)
    if not kept.exists():
        raise Refused(
            f"the genesis in '{path.name}' is damaged too, and there is no '{kept.name}' beside it",
            hint="restore a backup, or leave the quorum and join it again",
            code="damaged",
        )
    return genesisfile.read(kept)


def _require_others(dao: Dao, path: Path) -> int:
    """`Refused` (`alone`) where nobody else is known to have the ledger. Its height, 0 if that is lost."""
    try:
        with closing(LedgerStore.open(path, readonly=True)) as store:
            height = store.height
            others = any(v.idao != dao.me for v in store.validators(height + 1)[1].validators)
    except (sqlite3.Error, UnicodeDecodeError, IdaoError, LookupError, TypeError, ValueError):
        height, others = 0, any(idao != dao.me for idao in peerbook.read(path))
    if not others:
        raise Refused("nobody else decides here yet", hint="restore a backup", code="alone")
    return height
