"""The validator keys of a home: one of its own, and for each quorum of several a key that no other knows.

    keys/validator.key       quorums of one, and groups from before homes kept a key for each
    keys/seat-QUORUM-N.key   the N-th key of this home's seat in that quorum; the newest counts

Which of them signs at a height is told by the validator set of that height, never by a file's name. A key is
on disk before anybody is told of it, and goes once its epoch is over: what is gone signs no other history.
"""

from __future__ import annotations

import re

from idao.crypto.keys import Signer
from idao.errors import NotFound
from idao.home import Home, Keys, entropy
from idao.model import show_id


def held(home: Home, quorum: bytes, keys: Keys) -> tuple[Signer, ...]:
    """Every key that may be this home's in `quorum`, newest first; last the home's own."""
    numbered = reversed(_numbers(home, quorum))
    return (*(_read(home, quorum, n, keys.kek) for n in numbered), keys.validator)


def of_key(home: Home, quorum: bytes, keys: Keys, public: bytes) -> Signer:
    """The one that the ledger names. `NotFound` where it is not in this home (any more)."""
    for signer in held(home, quorum, keys):
        if signer.public == public:
            return signer
    raise NotFound(
        "the validator key that this quorum knows is not in this home",
        hint="give the quorum a new one: idao quorum rotate",
        code="no-validator-key",
    )


def fresh() -> bytes:
    """The seed of a new key, not kept yet."""
    return entropy(32)


def keep(home: Home, quorum: bytes, seed: bytes, kek: bytes) -> Signer:
    """Keeps a new key for the seat in `quorum`; durable before it returns. It never takes another's place."""
    while True:
        number = max(_numbers(home, quorum), default=0) + 1
        try:
            home.write_key(_name(quorum, number), seed, kek, new=True)
        except FileExistsError:  # another process took that number
            continue
        return Signer(seed)


def any_replaced(home: Home) -> bool:
    """Whether there is a quorum for which more than one key is kept. Looks at names alone."""
    found = re.compile(r"seat-([a-z2-7]{52})-[1-9][0-9]{0,5}\.key")
    seats = [m[1] for p in home.keys_folder.iterdir() if (m := found.fullmatch(p.name))]
    return len(seats) > len(set(seats))


def drop(home: Home, quorum: bytes, kek: bytes, public: bytes) -> None:
    """Destroys one that nobody was told of."""
    for n in _numbers(home, quorum):
        if _read(home, quorum, n, kek).public == public:
            home.remove_key(_name(quorum, n))


def drop_before(home: Home, quorum: bytes, kek: bytes, public: bytes) -> int:
    """Destroys those that the key `public` has replaced; how many. The home's own key stays."""
    numbers = _numbers(home, quorum)
    now = next((n for n in numbers if _read(home, quorum, n, kek).public == public), 0)
    gone = [n for n in numbers if n < now]
    for n in gone:
        home.remove_key(_name(quorum, n))
    return len(gone)


def _read(home: Home, quorum: bytes, number: int, kek: bytes) -> Signer:
    return Signer(home.read_key(_name(quorum, number), kek))


def _stem(quorum: bytes) -> str:
    return show_id("quorum", quorum).removeprefix("quorum:")


def _name(quorum: bytes, number: int) -> str:
    return f"seat-{_stem(quorum)}-{number}"


def _numbers(home: Home, quorum: bytes) -> list[int]:
    found = re.compile(rf"seat-{_stem(quorum)}-([1-9][0-9]{{0,5}})\.key")
    return sorted(int(m[1]) for p in home.keys_folder.iterdir() if (m := found.fullmatch(p.name)))
