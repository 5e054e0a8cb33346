"""Whether the files of a home are as they were written: settings, keys, key histories, collateral.

Contents and home.db are `store.check`'s, ledgers the audit's. Together they cover every file of a home: a
flipped bit in any of them is found, and named by file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from idao import identity
from idao.crypto import seal
from idao.errors import IdaoError, VerificationFailed
from idao.home import config_as_written
from idao.ledger.idao import Identity
from idao.node import peerbook, tls
from idao.store import backup, bundles, genesisfile, migrate
from idao.store.ledger import LedgerStore

if TYPE_CHECKING:
    from idao.dao import Dao

CHANGED_CONFIG = "is not as idao wrote it: edited by hand, or damaged"
CHANGED_CONFIG_HINT = "if you edited it, remove its last line, '# sum …'"


def files(dao: Dao) -> Iterator[tuple[str, str]]:
    """(file, what is wrong with it). Needs the keys."""
    home = dao.home.path
    if not config_as_written(home):
        yield "config.toml", f"{CHANGED_CONFIG}; {CHANGED_CONFIG_HINT}"
    for path in sorted(p for p in dao.home.keys_folder.rglob("*") if p.is_file()):
        look = _look(dao, path)
        if look is not None and (what := _wrong(look)):
            yield str(path.relative_to(home)), what
    for pattern, check in _BY_NAME.items():
        for path in sorted(home.glob(pattern)):
            if what := _wrong(partial(check, path)):
                yield str(path.relative_to(home)), what


def _wrong(look: Callable[[], None]) -> str:
    try:
        look()
    except IdaoError as e:
        return e.message
    except OSError as e:
        return f"cannot be read: {e.strerror}"
    return ""


def _look(dao: Dao, path: Path) -> Callable[[], None] | None:
    """What shows whether a file of `keys/` is sound; None for what is no file of ours."""
    kek = dao.keys().kek
    member = path.parent != dao.home.keys_folder
    if path.suffix == ".history" or path.name == "history":
        return lambda: _history(dao, path.stem if member else None)
    if path.suffix == ".key":
        purpose = f"member {path.stem}" if member else path.stem
        return lambda: _unused(seal.unseal(kek, purpose, path.read_bytes()))
    if path.suffix == ".pem":
        return lambda: tls.check(path.read_bytes())
    if path.name == "backup.pub":
        return lambda: _unused(backup.read_key(path.read_bytes()))
    if path.name == "lock":
        return lambda: _unused(seal.needs_passphrase(path.read_bytes()))  # it opened, or we were not here
    return None


def _unused(_: object) -> None:
    """A value that was asked for to see whether it can be had."""


def _history(dao: Dao, member: str | None) -> None:
    """Its events verify, lead to the key that is here, and its beginning is what a ledger knows."""
    history = dao.home.history(member)
    now = identity.key_at(history.inception, history.events)
    if member is None:
        here = dao.home.open_keys(dao.keys().kek).identity
    elif dao.home.has_member_key(member):
        here = dao.home.member_signer(member, dao.keys().kek)
    else:
        return  # an addition that was cut short, and is taken up by the next
    if here.public != now.key:
        raise VerificationFailed("does not lead to the key that is here")
    keys = set()
    for path in sorted(dao.home.ledgers_folder.glob("*.db")):
        with closing(LedgerStore.open(path, readonly=True)) as store:
            if store.state().get(Identity, now.idao) is not None:
                return
            keys |= {known.key for known in store.state().scan(Identity)}
    if member is None or now.key in keys:  # else an addition that was cut short before a ledger knew of it
        raise VerificationFailed("begins with an iDAO that no ledger of this home knows")


def _collateral(path: Path) -> None:
    from idao.tee import collateral

    if collateral.load(path.read_bytes()).digest.hex() != path.stem:
        raise VerificationFailed("is not what its name says")


def _evidence(path: Path) -> None:
    bundles.read_evidence(path)


def _genesis(path: Path) -> None:
    genesisfile.read(path)


def _peers(path: Path) -> None:
    if not peerbook.is_sound(path.read_bytes()):
        raise VerificationFailed("is damaged: remove it, and the node finds the others again")


_BY_NAME: dict[str, Callable[[Path], None]] = {
    "tee/**/*.bundle": _collateral,
    f"tee/*{bundles.EVIDENCE}": _evidence,
    "ledgers/*.peers": _peers,
    f"ledgers/*{genesisfile.SUFFIX}": _genesis,
    f"{migrate.COPIES}/*{migrate.SUM}": migrate.check_copy,
}
"""Files besides keys that show damage by themselves, by where they are."""
