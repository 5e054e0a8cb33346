"""Making a home: a new iDAO from fresh entropy, or the same iDAO again from its recovery phrase."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from idao import identity
from idao.crypto import canonical, keys, phrase, seal
from idao.errors import UsageError
from idao.frozen import frozen
from idao.home import History, Home, entropy, now_ms, write_file
from idao.ledger import charter, genesis
from idao.model import Genesis, Parent, SignedKeyEvent, show_id
from idao.store.backup import make_key
from idao.store.home_db import open_home_db
from idao.store.ledger import LedgerStore

if TYPE_CHECKING:
    from idao.dao import Dao

FIRST_STAKE = 1_000_000
"""Units of stake a quorum of one begins with: local credit, not money."""
NAME_MAX = 100
CLEARED = ("keys", "ledgers")
"""Folders that are made anew where an init was cut short: nobody was told of what is in them."""
_OURS = re.compile(
    r"keys/(lock|history|backup\.pub|(identity|next|validator|data|phrase)\.key|\..+)"
    r"|ledgers/[a-z2-7]{52}\.(db|new)(-wal|-shm|-journal)?"
)
"""What such an init can have left in them."""


@frozen
class Founded:
    """What `create` made, or found."""

    home: Path
    idao: bytes
    quorum: bytes
    key: str
    name: str
    created: bool
    words: str | None
    """The recovery phrase; only when it was just made."""


def describe(dao: Dao) -> Founded:
    """The iDAO of an existing home."""
    home = dao.home
    now = identity.key_at(home.history().inception, home.history().events)
    name = str(home.get("idao", "name", ""))
    return Founded(home.path, dao.me, dao.quorum, keys.did_key(now.key), name, False, None)


def create(path: Path, *, name: str, domain: str | None, passphrase: str | None) -> Founded:
    """A new home. Its configuration is written last: until then it does not exist."""
    words = phrase.phrase_from(entropy(32))
    seed = phrase.seed_from(words)
    history = History(identity.incept(seed), ())
    kek = _new_keys(path, passphrase, seed, (phrase.first_key(seed), phrase.next_key(seed)), history)
    # Kept sealed until its owner has written it down, so that a run without a terminal loses nothing.
    _write_sealed(path, "phrase", words.encode(), kek)
    return _found_quorum(path, name, domain, seed, history, kek, words=words)


@frozen
class Before:
    """What is known of the time before a recovery, from a proof, a checkpoint or a copy of the history."""

    history: History | None = None
    parent: Parent | None = None
    """The quorum to continue in name; its chain never is (FORMATS: recovery)."""
    genesis: Genesis | None = None
    """Of that quorum."""


def recovered_history(words: str, before: Before, seeds: tuple[bytes, bytes]) -> History:
    """The key history that ends with a recovery by the phrase to the keys of `seeds` (current, next).

    Rotations are left out: a recovery follows the inception, so they need not be carried on.
    """
    seed = phrase.seed_from(words)
    inception = identity.incept(seed)
    earlier: tuple[SignedKeyEvent, ...] = ()
    if before.history is not None:
        if before.history.inception != inception:
            raise UsageError(
                f"this is not the phrase of {show_id('idao', identity.idao_id(before.history.inception))}"
            )
        identity.key_at(inception, before.history.events)
        earlier = tuple(e for e in before.history.events if e.event.recovery_key is not None)
    number = identity.recovery_number(seed, identity.key_at(inception, earlier).recovery)
    if number is None:
        raise UsageError("the history given was recovered with another phrase")
    current, following = (keys.Signer(s).public for s in seeds)
    history = History(inception, (*earlier, identity.recover(inception, seed, number, current, following)))
    identity.key_at(inception, history.events)
    return history


def recover(path: Path, *, words: str, name: str, passphrase: str | None, before: Before) -> Founded:
    """The same iDAO from its phrase, under a fresh key, with a new quorum of one: `<name>-r1`, then -r2."""
    seeds = entropy(32), entropy(32)
    history = recovered_history(words, before, seeds)
    seed = phrase.seed_from(words)
    authority = keys.Signer(phrase.authority_key(seed)).public
    if before.genesis is not None and authority not in before.genesis.recovery_keys:
        raise UsageError(
            f"this phrase may not continue {show_id('quorum', genesis.quorum_id(before.genesis))}",
            hint="give '--from' a proof or checkpoint of your own quorum, or leave it out",
        )
    kek = _new_keys(path, passphrase, seed, seeds, history)
    quorum_name = f"{name}-r{len(history.events)}"
    return _found_quorum(path, name, None, seed, history, kek, quorum_name=quorum_name, before=before)


def check_free(path: Path) -> None:
    """Refuses a folder that holds a home, or what is left of one that was used."""
    if (path / "config.toml").exists():
        raise UsageError(f"there is an iDAO here already: '{path}'", hint="see 'idao status'")
    if (path / "home.db").exists():
        raise UsageError(
            f"'{path}' is a home that has lost its config.toml; nothing was changed",
            hint="put the file back from a backup, or choose another folder with '--home DIR'",
        )
    inside = (p for name in CLEARED for p in (path / name).glob("*"))
    if strange := next((p for p in inside if not _OURS.fullmatch(str(p.relative_to(path)))), None):
        raise UsageError(
            f"'{strange}' is not of idao, which needs '{strange.parent}' for itself; nothing was changed",
            hint="choose another folder with '--home DIR'",
        )


def _new_keys(
    path: Path, passphrase: str | None, seed: bytes, identity_seeds: tuple[bytes, bytes], history: History
) -> bytes:
    check_free(path)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not any(path.iterdir()):  # who else reads a folder with other files in it is not ours to say
        path.chmod(0o700)
    for leftover in CLEARED:
        shutil.rmtree(path / leftover, ignore_errors=True)
    for folder in ("keys", "ledgers", "packs"):
        (path / folder).mkdir(mode=0o700, exist_ok=True)
    kek = entropy(seal.KEK_BYTES)
    write_file(path / "keys" / "lock", seal.make_lock(kek, passphrase, entropy(seal.LOCK_RANDOM_BYTES)))
    for purpose, secret in (
        ("identity", identity_seeds[0]),
        ("next", identity_seeds[1]),
        ("validator", entropy(32)),
        ("data", entropy(32)),
    ):
        _write_sealed(path, purpose, secret, kek)
    write_file(path / "keys" / "history", canonical.pack(history))
    write_file(path / "keys" / "backup.pub", make_key(phrase.backup_key(seed), kek))
    return kek


def _write_sealed(path: Path, purpose: str, secret: bytes, kek: bytes) -> None:
    sealed = seal.seal(kek, purpose, secret, entropy(seal.NONCE_BYTES))
    write_file(path / "keys" / f"{purpose}.key", sealed)


def _found_quorum(
    path: Path,
    name: str,
    domain: str | None,
    seed: bytes,
    history: History,
    kek: bytes,
    *,
    words: str | None = None,
    quorum_name: str | None = None,
    before: Before | None = None,
) -> Founded:
    home = Home(path)
    secrets = [
        seal.unseal(kek, p, (path / "keys" / f"{p}.key").read_bytes()) for p in ("identity", "validator")
    ]
    signer = keys.Signer(secrets[0])
    authority = keys.Signer(phrase.authority_key(seed))
    parent = before.parent if before else None
    quorum_name = quorum_name or name
    bundle = genesis.personal(
        name=quorum_name,
        nonce=entropy(32),
        time_ms=now_ms(),
        validator_key=keys.Signer(secrets[1]).public,
        stake=FIRST_STAKE,
        rules=charter.encode(charter.defaults()),
        recovery_key=authority.public,
        owner=(history.inception, history.events),
        signer=signer,
        parent=parent,
        recovery=authority if parent else None,
    )
    genesis.check_bundle(bundle, before.genesis if before else None)
    quorum = genesis.quorum_id(bundle.genesis)
    stem = show_id("quorum", quorum).removeprefix("quorum:")
    LedgerStore.create(path / "ledgers" / f"{stem}.db", bundle).close()
    home.config = {
        "idao": {"name": name, **({"domain": domain} if domain else {})},
        "quorum": {"default": show_id("quorum", quorum)},
        "ledgers": {stem: quorum_name},
    }
    home.save_config()
    # After the configuration: a home.db without one is a home that lost it, not one never finished.
    open_home_db(path / "home.db").close()
    own = identity.idao_id(history.inception)
    return Founded(path, own, quorum, keys.did_key(signer.public), name, True, words)


def check_name(name: str) -> str:
    """A name for people: one line, not empty, not too long."""
    if not name or len(name) > NAME_MAX or not name.isprintable():
        raise UsageError(f"a name is 1 to {NAME_MAX} printable characters: '{name[:40]}'")
    return name
