"""Making a home: a new iDAO from fresh entropy, or the same iDAO again from its recovery phrase."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from idao import identity
from idao.crypto import canonical, keys, phrase, seal
from idao.errors import UsageError
from idao.home import History, Home, entropy, now_ms, write_file
from idao.ledger import charter, genesis
from idao.model import Parent, SignedKeyEvent, show_id
from idao.store.ledger import LedgerStore

FIRST_STAKE = 1_000_000
"""Units of stake a quorum of one begins with: local credit, not money."""
NAME_MAX = 100


@dataclass(frozen=True, slots=True)
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


def describe(path: Path) -> Founded:
    """The iDAO of an existing home."""
    home = Home.open(path)
    from idao.dao import Dao

    dao = Dao(home)
    now = identity.key_at(home.history().inception, home.history().events)
    name = str(home.get("idao", "name", ""))
    return Founded(path, dao.me, dao.quorum, keys.did_key(now.key), name, False, None)


def create(path: Path, *, name: str, domain: str | None, passphrase: str | None) -> Founded:
    """A new home. Its configuration is written last: until then it does not exist."""
    words = phrase.phrase_from(entropy(32))
    seed = phrase.seed_from(words)
    history = History(identity.incept(seed), ())
    kek = _new_keys(path, passphrase, (phrase.first_key(seed), phrase.next_key(seed)), history)
    # Kept sealed until its owner has written it down, so that a run without a terminal loses nothing.
    _write_sealed(path, "phrase", words.encode(), kek)
    return _found_quorum(path, name, domain, seed, history, kek, words=words)


def recover(
    path: Path, *, words: str, name: str, passphrase: str | None, known: History | None, parent: Parent | None
) -> Founded:
    """The same iDAO from its phrase, under a fresh key, with a new quorum of one.

    `known` is the newest key history at hand (from a proof, say); `parent` the quorum it had, if known.
    The old chain is never continued (FORMATS: recovery).
    """
    seed = phrase.seed_from(words)
    inception = identity.incept(seed)
    events: tuple[SignedKeyEvent, ...] = ()
    if known is not None:
        if known.inception != inception:
            raise UsageError("the history given is of another iDAO than the phrase")
        events = known.events
    now = identity.key_at(inception, events)
    number = identity.recovery_number(seed, now.recovery)
    if number is None:
        raise UsageError("the history given was recovered with another phrase")
    fresh, after = entropy(32), entropy(32)
    event = identity.recover(inception, seed, number, keys.Signer(fresh).public, keys.Signer(after).public)
    history = History(inception, (*events, event))
    identity.key_at(history.inception, history.events)
    kek = _new_keys(path, passphrase, (fresh, after), history)
    return _found_quorum(path, f"{name}-r1", None, seed, history, kek, parent=parent)


def _new_keys(
    path: Path, passphrase: str | None, identity_seeds: tuple[bytes, bytes], history: History
) -> bytes:
    if (path / "config.toml").exists():
        raise UsageError(f"there is an iDAO here already: '{path}'", hint="see 'idao status'")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    for leftover in ("keys", "ledgers"):  # of an init that was cut short: nobody was told of it
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
    parent: Parent | None = None,
) -> Founded:
    home = Home(path)
    secrets = [
        seal.unseal(kek, p, (path / "keys" / f"{p}.key").read_bytes()) for p in ("identity", "validator")
    ]
    signer = keys.Signer(secrets[0])
    authority = keys.Signer(phrase.authority_key(seed))
    bundle = genesis.personal(
        name=name,
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
    quorum = genesis.quorum_id(bundle.genesis)
    stem = show_id("quorum", quorum).removeprefix("quorum:")
    LedgerStore.create(path / "ledgers" / f"{stem}.db", bundle).close()
    home.config = {
        "idao": {"name": name, **({"domain": domain} if domain else {})},
        "quorum": {"default": show_id("quorum", quorum)},
        "ledgers": {stem: name},
    }
    home.save_config()
    own = identity.idao_id(history.inception)
    return Founded(path, own, quorum, keys.did_key(signer.public), name, True, words)


def check_name(name: str) -> str:
    """A name for people: one line, not empty, not too long."""
    if not name or len(name) > NAME_MAX or not name.isprintable():
        raise UsageError(f"a name is 1 to {NAME_MAX} printable characters: '{name[:40]}'")
    return name
