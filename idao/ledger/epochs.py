"""Epochs: stretches of heights with one validator set. The one source of who decides which height.

A block that changes the set at height h writes the next epoch with its start at h + 2, so the sets of h
and h + 1 are known before block h is executed, and a header can name both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated

from idao.crypto import canonical
from idao.crypto.hashing import validators_hash
from idao.errors import VerificationFailed
from idao.frozen import frozen
from idao.ledger.state import State, record
from idao.ledger.tx import Context, refuse
from idao.model import Hash, Size, Validator, ValidatorSet

DELAY = 2
"""Blocks between a change and the first block that it decides: one rule for every engine."""


@record("epoch", key=("epoch",))
@frozen
class Epoch:
    """A stretch of heights with one validator set.

    epoch: counts from 0
    start: first height it decides
    hash: hash of the set
    members: canonical bytes of the set
    """

    epoch: int
    start: int
    hash: Hash
    members: Annotated[bytes, Size(1, 16384)]


def first(state: State, validators: ValidatorSet) -> None:
    """Genesis: the set that decides from height 1."""
    state.put(Epoch(0, 1, validators_hash(validators), canonical.pack(validators)))


def newest(state: State) -> Epoch:
    """The last epoch decided on, which may begin two blocks from now."""
    return _last(state, lambda _: True)


def epoch_at(state: State, height: int) -> tuple[Epoch, ValidatorSet]:
    """The epoch that decides `height`, and its validators. Known up to the block after the next."""
    current = _last(state, lambda e: e.start <= max(1, height))
    return current, set_of(current)


def _last(state: State, fits: Callable[[Epoch], bool]) -> Epoch:
    """The last epoch that `fits`, as the first ones do: found by a few look-ups, however many there are."""
    found, step = 0, 1
    best = state.need(Epoch, 0)
    while (e := state.get(Epoch, found + step)) is not None and fits(e):
        best, found, step = e, found + step, step * 2
    while step > 1:
        step //= 2
        if (e := state.get(Epoch, found + step)) is not None and fits(e):
            best, found = e, found + step
    return best


def set_of(epoch: Epoch) -> ValidatorSet:
    return _parse_set(epoch.members)


@lru_cache(64)
def _parse_set(members: bytes) -> ValidatorSet:
    # Read at every height, changed hardly ever.
    return canonical.unpack(ValidatorSet, members)


def is_busy(state: State, height: int) -> bool:
    """Whether the block of `height` has changed the set already: it may do so once."""
    return newest(state).start >= height + DELAY


def change(ctx: Context, members: list[Validator]) -> None:
    """The set from two blocks on. Refuses with `set-busy` a second change in one block."""
    if is_busy(ctx.state, ctx.height):
        refuse("set-busy", "this block has changed the validator set already; send it again")
    if not members:
        raise VerificationFailed("a quorum without validators")  # rules above refuse it in words
    validators = ValidatorSet(tuple(sorted(members, key=lambda v: v.idao)))
    before = newest(ctx.state)
    ctx.state.put(
        Epoch(
            before.epoch + 1,
            ctx.height + DELAY,
            validators_hash(validators),
            canonical.pack(validators),
        )
    )
