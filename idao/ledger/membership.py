"""Who decides in a quorum of several: seats, bonds, and the changes of the validator set.

A seat goes through these states; each arrow is a transaction, or an action of the quorum's own governance:

    quorum.join        -> asking     registered key, proof that it is held; no rights yet
    validator.admit    -> pending    the members agreed; a sponsor's stake became the bond
    quorum.activate    -> active     the validator has followed the chain; in the set two blocks later
    quorum.leave       -> left       out of the set two blocks later; the bond waits out its time
    validator.remove   -> removed    the same, decided by the others
    fault.report       -> jailed     the same, for a proven fault (faults.py)

Founder mode: below four active validators the founder alone has power, so that nobody's absence stops a
quorum that tolerates none. The block that makes four active gives all of them one vote each, and the quorum
never goes back. At most one change of the set in a block; it takes effect at h + 2 (epochs.py).
"""

from __future__ import annotations

from typing import Annotated

from idao.crypto import keys
from idao.frozen import frozen, replace
from idao.ledger import accounts, bonds, epochs
from idao.ledger.bonds import Bond
from idao.ledger.idao import Member
from idao.ledger.state import State, record
from idao.ledger.tx import Context, TxKind, refuse
from idao.model import (
    VALIDATORS_MAX,
    Hash,
    Id,
    PublicKey,
    Range,
    Signature,
    Validator,
    ValidatorSet,
    Word,
)

ASKING, PENDING, ACTIVE = "asking", "pending", "active"
LEFT, REMOVED, JAILED = "left", "removed", "jailed"

FOUR = 4
"""The smallest quorum that tolerates a fault. Below it there is founder mode, or after it equal power."""
ASKING_MAX = 64
"""Seats that ask at one time: as many as a quorum has places."""
ASKING_MS = 24 * 3600 * 1000
"""After a day a seat that asks makes room: who is still wanted asks again."""
RECENT = 50
"""Blocks back that an activation may name: one that is further behind is not ready to decide."""
ROTATE_MS = 24 * 3600 * 1000
"""A seat changes its key once a day at most: each change is an epoch, and proofs carry every epoch."""
TOLD_ELSEWHERE = bytes(32)
"""A founder's TLS certificate, which its node record names, until `quorum.rotate` tells it here."""
Power = Annotated[int, Range(1, 2**31)]


# --- records --------------------------------------------------------------------------------------


@record("quorum_group", key=("quorum",))
@frozen
class Group:
    """A quorum of several. A ledger without this record is a quorum of one, which nobody joins.

    quorum: its id
    founding: whether it is in founder mode, where the founder alone has power
    since: height of the change out of founder mode; 0 if there was none
    """

    quorum: Id
    founding: bool
    since: int


@record("seat", key=("idao",))
@frozen
class Seat:
    """An iDAO's place in the quorum.

    idao: whose place
    term: height at which it asked; with the iDAO it names the bond
    key: validator key, which signs votes and cosignatures
    tls: BLAKE3-256 of the certificate of its links, or all zero while only its node record tells
    state: asking, pending, active, left, removed or jailed
    power: votes in the set, or agreed on while pending; 0 for an observer in founder mode
    since: height of the last change of state
    since_ms: block time of that, milliseconds UTC
    rotated_ms: block time of its last change of key; 0 if there was none
    """

    idao: Id
    term: int
    key: PublicKey
    tls: Hash
    state: Word
    power: int
    since: int
    since_ms: int
    rotated_ms: int


@record("seat_key", key=("key",))
@frozen
class SeatKey:
    """A validator key, present or past. No key is ever used again.

    key: the key
    idao: who proved to hold it
    term: which bond answers for what it signs
    since: height at which it was told
    """

    key: PublicKey
    idao: Id
    term: int
    since: int


# --- what a node asks -----------------------------------------------------------------------------


def seats(state: State) -> list[Seat]:
    """Every seat, also of those that left, ordered by iDAO id."""
    return list(state.scan(Seat))


def seat_of(state: State, idao: bytes) -> Seat | None:
    return state.get(Seat, idao)


def founder_mode(state: State) -> bool:
    """Whether the founder alone has power. False for a quorum of one."""
    group = next(iter(state.scan(Group)), None)
    return group is not None and group.founding


def next_step(state: State, idao: bytes, height: int) -> str | None:
    """What this iDAO's node should send, to be in the block of `height`: 'activate', or nothing."""
    seat = state.get(Seat, idao)
    if seat is None or seat.state != PENDING:
        return None
    active = sum(1 for s in state.scan(Seat) if s.state == ACTIVE)
    changes = not founder_mode(state) or active + 1 >= FOUR
    return None if changes and epochs.is_busy(state, height) else "activate"


def found(
    state: State, quorum: bytes, validators: ValidatorSet, stake: tuple[tuple[bytes, int], ...]
) -> None:
    """Genesis: seats, keys and bonds of the founders, whose stake is in the book already."""
    units = dict(stake)
    state.put(Group(quorum, len(validators.validators) == 1, 0))
    for v in validators.validators:
        state.put(Seat(v.idao, 0, v.key, TOLD_ELSEWHERE, ACTIVE, v.power, 0, 0, 0))
        state.put(SeatKey(v.key, v.idao, 0, 0))
        bonds.found(state, quorum, v.idao, units.get(v.idao, 0))


# --- the set --------------------------------------------------------------------------------------


def balanced(validators: list[Validator]) -> bool:
    """From four on nobody holds a third of the power; below, where no fault is tolerated, all are equal."""
    total = sum(v.power for v in validators)
    if len(validators) < FOUR:
        return all(v.power == 1 for v in validators)
    return all(3 * v.power < total for v in validators)


def _members(state: State) -> list[Validator]:
    return list(epochs.set_of(epochs.newest(state)).validators)


def _write_set(ctx: Context, members: list[Validator], *, level: bool = False) -> None:
    """The set from two blocks on. With `level`, powers that no longer balance become one each."""
    if not balanced(members):
        if not level:
            refuse(
                "too-strong", "from four validators on each holds less than a third, below four all are equal"
            )
        members = [replace(v, power=1) for v in members]
    epochs.change(ctx, members)
    for v in members:
        seat = ctx.state.need(Seat, v.idao)
        if seat.power != v.power:
            ctx.state.put(replace(seat, power=v.power))


def _group(ctx: Context) -> Group:
    group = ctx.state.get(Group, ctx.quorum)
    if group is None:
        refuse("not-a-group", "this is a quorum of one: it has no seats")
    return group


def _seat(ctx: Context, idao: bytes) -> Seat:
    seat = ctx.state.get(Seat, idao)
    if seat is None:
        refuse("no-seat", "that iDAO has no seat in this quorum")
    return seat


def _now(ctx: Context, seat: Seat, state: str, power: int) -> Seat:
    return replace(seat, state=state, power=power, since=ctx.height, since_ms=ctx.time_ms)


# --- quorum.join ----------------------------------------------------------------------------------


@frozen
class Join:
    """The signer asks for a seat with a validator key that it proves to hold. Asking again replaces."""

    key: PublicKey
    possession: Signature
    """By that key, over this quorum and the signer's iDAO."""
    tls: Hash


def _take_key(ctx: Context, key: bytes, possession: bytes, term: int) -> None:
    if not keys.verify_possession(key, possession, ctx.quorum, ctx.actor):
        refuse("possession", "the validator key has not signed that it is the signer's")
    if ctx.state.get(SeatKey, key) is not None:
        refuse("known-key", "that validator key has been used here before")
    ctx.state.put(SeatKey(key, ctx.actor, term, ctx.height))


def _check_certificate(ctx: Context, tls: bytes) -> None:
    """Who named another's certificate would have that one's links taken for its own, and cut."""
    if not any(tls):
        refuse("no-certificate", "only the founder's seat may name no certificate")
    held = [s for s in ctx.state.scan(Seat) if s.tls == tls and s.idao != ctx.actor]
    if any(s.state in (ASKING, PENDING, ACTIVE) for s in held):
        refuse("known-certificate", "another seat names that certificate")


def _apply_join(ctx: Context, body: Join) -> None:
    _group(ctx)
    now = ctx.state.get(Seat, ctx.actor)
    if now is not None and now.state in (PENDING, ACTIVE):
        refuse("already-in", "the signer has a seat already")
    if now is not None and now.state == ASKING:
        ctx.state.delete(SeatKey, now.key)
    waiting = [s for s in ctx.state.scan(Seat) if s.state == ASKING and s.idao != ctx.actor]
    if len(waiting) >= ASKING_MAX:
        oldest = min(waiting, key=lambda s: (s.since_ms, s.idao))
        if ctx.time_ms < oldest.since_ms + ASKING_MS:
            refuse("too-many-asking", f"{ASKING_MAX} seats are asked for already")
        _forget(ctx, oldest)
    _check_certificate(ctx, body.tls)
    _take_key(ctx, body.key, body.possession, ctx.height)
    ctx.state.put(Seat(ctx.actor, ctx.height, body.key, body.tls, ASKING, 0, ctx.height, ctx.time_ms, 0))


def _forget(ctx: Context, seat: Seat) -> None:
    ctx.state.delete(SeatKey, seat.key)
    ctx.state.delete(Seat, seat.idao)


# --- validator.admit ------------------------------------------------------------------------------


@frozen
class Admit:
    """The members take in the iDAO that asks with this key. The proposal's maker puts up the bond."""

    idao: Id
    key: PublicKey
    power: Power
    bond: accounts.Positive


def _own_affair(ctx: Context, idao: bytes) -> Group:
    group = _group(ctx)
    if idao != ctx.quorum:
        refuse("not-the-quorum", "who validates is decided by the quorum's own members")
    return group


def _admit(ctx: Context, idao: bytes, body: Admit) -> None:
    group = _own_affair(ctx, idao)
    seat = _seat(ctx, body.idao)
    if seat.state != ASKING:
        refuse("not-asking", "that iDAO does not ask for a seat")
    if seat.key != body.key:
        refuse("key-changed", "that iDAO asks with another validator key by now")
    places = sum(1 for s in ctx.state.scan(Seat) if s.state in (PENDING, ACTIVE))
    if places >= VALIDATORS_MAX:
        refuse("full", f"a quorum has at most {VALIDATORS_MAX} validators")
    if group.founding and body.power != 1:
        refuse("too-strong", "in founder mode everyone is admitted with power 1")
    if not group.founding and not balanced(
        [*_members(ctx.state), Validator(body.idao, body.key, body.power)]
    ):
        refuse("too-strong", "from four validators on each holds less than a third, below four all are equal")
    bonds.put_up(ctx, body.idao, seat.term, body.bond)
    ctx.state.put(_now(ctx, seat, PENDING, body.power))


# --- quorum.activate ------------------------------------------------------------------------------


@frozen
class Activate:
    """The signer has followed the chain up to this recent block, and takes its place."""

    height: int
    header: Hash


def _give_say(ctx: Context, idao: bytes) -> None:
    """Who validates also governs. In founder mode the founder does both alone: one invite after the other."""
    if ctx.state.get(Member, ctx.quorum, idao) is None:
        ctx.state.put(Member(ctx.quorum, idao, "owner", 1, ctx.height))


def _apply_activate(ctx: Context, body: Activate) -> None:
    group = _group(ctx)
    seat = _seat(ctx, ctx.actor)
    if seat.state != PENDING:
        refuse("not-pending", "the signer has not been admitted, or is active already")
    if not ctx.height - RECENT <= body.height < ctx.height:
        refuse("not-recent", f"an activation names one of the last {RECENT} blocks")
    if ctx.header_at(body.height) != body.header:
        refuse("other-chain", "the block named is not the one of this ledger")
    if not group.founding:
        _give_say(ctx, ctx.actor)
        ctx.state.put(_now(ctx, seat, ACTIVE, seat.power))
        _write_set(ctx, [*_members(ctx.state), Validator(ctx.actor, seat.key, seat.power)])
        return
    ctx.state.put(_now(ctx, seat, ACTIVE, 0))
    active = [s for s in ctx.state.scan(Seat) if s.state == ACTIVE]
    if len(active) >= FOUR:
        ctx.state.put(replace(group, founding=False, since=ctx.height))
        for s in active:
            _give_say(ctx, s.idao)
        _write_set(ctx, [Validator(s.idao, s.key, 1) for s in active])


# --- leaving: by oneself, by the others' vote, for a fault ------------------------------------------


@frozen
class Leave:
    """The signer gives its seat up. Its bond waits, and answers for what it has signed."""


@frozen
class Remove:
    """The members take a seat away: of one that asks, that never came, or that is lost."""

    idao: Id


def vacate(ctx: Context, seat: Seat, why: str) -> None:
    """Takes a seat out, and out of the set if it has power. The last validator stays: `last-validator`."""
    if seat.state == ASKING:
        _forget(ctx, seat)
        return
    bond = ctx.state.need(Bond, seat.idao, seat.term)
    if seat.state == ACTIVE and seat.power:
        rest = [v for v in _members(ctx.state) if v.idao != seat.idao]
        if not rest:
            refuse("last-validator", "a quorum keeps at least one validator")
        _write_set(ctx, rest, level=True)
        bonds.unbond(ctx, bond)
    else:
        bonds.give_back(ctx, bond)  # it never had power, so it has signed nothing that could be a fault
    if ctx.state.get(Member, ctx.quorum, seat.idao) is not None:
        ctx.state.delete(Member, ctx.quorum, seat.idao)
    ctx.state.put(_now(ctx, seat, why, 0))


def _apply_leave(ctx: Context, body: Leave) -> None:
    _group(ctx)
    seat = _seat(ctx, ctx.actor)
    if seat.state not in (ASKING, PENDING, ACTIVE):
        refuse("no-seat", "the signer has left already")
    vacate(ctx, seat, LEFT)


def _remove(ctx: Context, idao: bytes, body: Remove) -> None:
    _own_affair(ctx, idao)
    seat = _seat(ctx, body.idao)
    if seat.state not in (ASKING, PENDING, ACTIVE):
        refuse("no-seat", "that iDAO has left already")
    vacate(ctx, seat, REMOVED)


# --- quorum.rotate --------------------------------------------------------------------------------


@frozen
class Rotate:
    """A new validator key for the signer's seat, from two blocks on; or, with the same key, only a new
    certificate. The bond goes on answering for the old key."""

    key: PublicKey
    possession: Signature
    tls: Hash


def _apply_rotate(ctx: Context, body: Rotate) -> None:
    _group(ctx)
    seat = _seat(ctx, ctx.actor)
    if seat.state not in (PENDING, ACTIVE):
        refuse("no-seat", "the signer has no seat; ask for one by 'quorum.join'")
    _check_certificate(ctx, body.tls)
    if body.key == seat.key:
        if not keys.verify_possession(body.key, body.possession, ctx.quorum, ctx.actor):
            refuse("possession", "the validator key has not signed that it is the signer's")
        ctx.state.put(replace(seat, tls=body.tls))
        return
    if seat.rotated_ms and ctx.time_ms < seat.rotated_ms + ROTATE_MS:
        refuse("rotated-lately", "a seat changes its key once a day")
    _take_key(ctx, body.key, body.possession, seat.term)
    ctx.state.put(replace(seat, key=body.key, tls=body.tls, rotated_ms=ctx.time_ms))
    if seat.power and seat.state == ACTIVE:
        _write_set(ctx, [replace(v, key=body.key) if v.idao == seat.idao else v for v in _members(ctx.state)])


# --- validator.power ------------------------------------------------------------------------------


@frozen
class SetPower:
    """Another power for an active validator, from two blocks on."""

    idao: Id
    power: Power


def _set_power(ctx: Context, idao: bytes, body: SetPower) -> None:
    group = _own_affair(ctx, idao)
    seat = _seat(ctx, body.idao)
    if seat.state != ACTIVE:
        refuse("not-active", "that validator is not active")
    if group.founding:
        refuse("too-strong", "in founder mode the founder alone has power")
    if seat.power == body.power:
        refuse("same-power", "it has that power already")
    after = [replace(v, power=body.power) if v.idao == seat.idao else v for v in _members(ctx.state)]
    _write_set(ctx, after)


RECORDS = (Group, Seat, SeatKey)
KINDS = (
    TxKind("quorum.join", Join, _apply_join),
    TxKind("quorum.activate", Activate, _apply_activate),
    TxKind("quorum.leave", Leave, _apply_leave),
    TxKind("quorum.rotate", Rotate, _apply_rotate),
)
ACTIONS = {
    "validator.admit": (Admit, _admit),
    "validator.remove": (Remove, _remove),
    "validator.power": (SetPower, _set_power),
}
