"""Groups: quorums of several. Beginning one here; later joining, admitting, leaving."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from idao import validatorkeys
from idao.crypto.keys import Signer
from idao.errors import NotFound, UsageError
from idao.hall.founding import check_name
from idao.home import entropy, now_ms
from idao.ledger import charter, genesis
from idao.ledger.genesis import Bundle
from idao.model import show_id
from idao.store import genesisfile
from idao.store.ledger import LedgerStore

if TYPE_CHECKING:
    from idao.dao import Dao

FOUNDER_STAKE = 1_000_000_000
"""Units of stake a group begins with, all the founder's: it sponsors the bonds of those who join."""


class Groups:
    def __init__(self, dao: Dao) -> None:
        self._dao = dao

    # --- beginning

    def create(self, name: str, *, dry: bool = False) -> dict[str, Any]:
        """A new group with this iDAO as its founder; it becomes the default ledger of the home."""
        dao = self._dao
        self._check_new_name(name)
        if dry:
            return {"name": name, "founder": show_id("idao", dao.me), "dry_run": True}
        keys, history = dao.keys(), dao.home.history()
        seed = validatorkeys.fresh()
        founder = genesis.Seated(history.inception, history.events, Signer(seed).public, FOUNDER_STAKE)
        bundle = genesis.group(
            name=name,
            nonce=entropy(32),
            time_ms=now_ms(),
            founder=founder,
            signer=keys.identity,
            rules=charter.encode(charter.defaults()),
            recovery_threshold=1,
            recovery_keys=(self.authority(),),
        )
        validatorkeys.keep(dao.home, genesis.quorum_id(bundle.genesis), seed, keys.kek)
        quorum = self.take_in(bundle, name)
        return {"quorum": show_id("quorum", quorum), "name": name, "founder": show_id("idao", dao.me)}

    def take_in(self, bundle: Bundle, name: str) -> bytes:
        """A ledger of that genesis in this home, under that name, as its default. Its id."""
        home = self._dao.home
        quorum = genesis.quorum_id(bundle.genesis)
        stem = show_id("quorum", quorum).removeprefix("quorum:")
        with home.exclusive(self._dao.wait_s):
            path = home.ledgers_folder / f"{stem}.db"
            genesisfile.keep(path, bundle)
            if not path.exists():
                LedgerStore.create(path, bundle).close()
            home.config = type(home).open(home.path).config
            home.config.setdefault("ledgers", {})[stem] = name
            home.config.setdefault("quorum", {})["default"] = show_id("quorum", quorum)
            home.save_config()
        return quorum

    # --- names

    def _check_new_name(self, name: str) -> None:
        check_name(name)
        if name in self._dao.home.config.get("ledgers", {}).values():
            raise UsageError(f"a ledger here is called '{name}' already", hint="choose another name")

    def name_for(self, bundle: Bundle, wanted: str = "") -> str:
        """What to call a group here: as `wanted`, or as before, if it was here before, or as it calls itself;
        with a number where another ledger has that name."""
        names: dict[str, str] = dict(self._dao.home.config.get("ledgers", {}))
        before = names.pop(show_id("quorum", genesis.quorum_id(bundle.genesis)).removeprefix("quorum:"), "")
        wanted = wanted or before or bundle.genesis.name
        taken = set(names.values())
        free = [wanted, *(f"{wanted[:90]}-{n}" for n in range(2, len(taken) + 3))]
        return next(n for n in free if n not in taken)

    def own_ledger(self) -> str:
        """The quorum of one that is this iDAO's own and goes on; a full id."""
        dao = self._dao
        for path in sorted(dao.home.ledgers_folder.glob("*.db")):
            with closing(LedgerStore.open(path, readonly=True)) as store:
                if store.chain.governor == dao.me and store.continued_by is None:
                    return f"quorum:{path.stem}"
        raise NotFound("this home has no ledger of its own", hint="restore a backup")

    def authority(self) -> bytes:
        """The key of the recovery phrase that may continue a quorum: the personal ledger names it."""
        return self._dao.on(self.own_ledger()).store.bundle.genesis.recovery_keys[0]
