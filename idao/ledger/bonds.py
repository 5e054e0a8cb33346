"""Bonds: stake that answers for a validator, held for long after it has gone.

Put up by a sponsor at admission (`validator.admit`), cut by proven faults (faults.py), given back by
`quorum.withdraw`. A bond belongs to one stay in the quorum: whoever comes again, comes with another.
"""

from __future__ import annotations

from idao.frozen import frozen, replace
from idao.ledger import accounts, epochs
from idao.ledger.state import State, record
from idao.ledger.tx import Context, TxKind, refuse
from idao.model import Amount, Id

UNBONDING_BLOCKS = 20_000
"""A bond answers for faults of this many blocks (ADR 0033), so it is held for longer."""
UNBONDING_MS = 14 * 24 * 3600 * 1000
"""And for two weeks of block time: whoever was cheated by old keys needs time to come forward."""
UNBONDING_IDLE_MS = 90 * 24 * 3600 * 1000
"""A quorum that decides little need not wait for 20,000 blocks: then a quarter of a year suffices."""
FOUNDER_BOND = 10
"""A founder bonds a tenth of its stake at genesis; the rest sponsors others."""


@record("bond", key=("idao", "term"))
@frozen
class Bond:
    """Stake that answers for a validator. What it still holds is `amount - slashed`.

    idao: the validator
    term: height at which it had asked for its seat
    sponsor: who put the stake in and gets the rest of it back
    amount: units put in
    slashed: units lost for proven faults
    free: first height at which it may be withdrawn; 0 while the seat is in use
    free_ms: first block time at which it may be withdrawn, milliseconds UTC
    idle_ms: block time from which it may be withdrawn at any height
    """

    idao: Id
    term: int
    sponsor: Id
    amount: Amount
    slashed: Amount
    free: int
    free_ms: int
    idle_ms: int

    @property
    def held(self) -> int:
        return self.amount - self.slashed


def found(state: State, quorum: bytes, idao: bytes, stake: int) -> None:
    """Genesis: a part of a founder's stake becomes its bond."""
    amount = stake // FOUNDER_BOND
    state.put(Bond(idao, 0, idao, amount, 0, 0, 0, 0))
    if amount:
        accounts.bond_founder(state, quorum, idao, amount)


def put_up(ctx: Context, idao: bytes, term: int, amount: int) -> None:
    """A new bond for `idao`, out of the stake of whoever proposed its admission."""
    accounts.post(ctx, (accounts.IDAO, ctx.proposer), (accounts.BOND, idao), accounts.STAKE, amount, "bond")
    ctx.state.put(Bond(idao, term, ctx.proposer, amount, 0, 0, 0, 0))


def slash(ctx: Context, bond: Bond, amount: int) -> None:
    """Takes `amount`, which the bond holds, to where nobody can spend it."""
    place, lost = (accounts.BOND, bond.idao), (accounts.SLASHED, ctx.quorum)
    accounts.post(ctx, place, lost, accounts.STAKE, amount, "fault")
    ctx.state.put(replace(bond, slashed=bond.slashed + amount))


def unbond(ctx: Context, bond: Bond) -> None:
    """Its validator is in the set for one block more; from then on the bond waits."""
    last_signed = ctx.height + epochs.DELAY - 1
    ctx.state.put(
        replace(
            bond,
            free=last_signed + 1 + UNBONDING_BLOCKS,
            free_ms=ctx.time_ms + UNBONDING_MS,
            idle_ms=ctx.time_ms + UNBONDING_IDLE_MS,
        )
    )


def give_back(ctx: Context, bond: Bond) -> None:
    """What it holds returns to its sponsor, and the bond is gone."""
    if bond.held:
        accounts.post(
            ctx, (accounts.BOND, bond.idao), (accounts.IDAO, bond.sponsor), accounts.STAKE, bond.held, "bond"
        )
    ctx.state.delete(Bond, bond.idao, bond.term)


# --- quorum.withdraw ------------------------------------------------------------------------------


@frozen
class Withdraw:
    """Gives what is left of a bond back to its sponsor, once it has answered long enough. Anyone may ask."""

    idao: Id
    term: int


def is_free(bond: Bond, height: int, time_ms: int) -> bool:
    """Whether a bond may be withdrawn: after its blocks and its two weeks, or after a quarter of a year."""
    if not bond.free:
        return False
    return (height >= bond.free and time_ms >= bond.free_ms) or time_ms >= bond.idle_ms


def _apply_withdraw(ctx: Context, body: Withdraw) -> None:
    bond = ctx.state.get(Bond, body.idao, body.term)
    if bond is None:
        refuse("no-bond", "there is no such bond")
    if not bond.free:
        refuse("bond-in-use", "the validator still has its seat")
    if not is_free(bond, ctx.height, ctx.time_ms):
        refuse("unbonding", f"the bond answers until height {bond.free}, or until its time is over")
    give_back(ctx, bond)


RECORDS = (Bond,)
KINDS = (TxKind("quorum.withdraw", Withdraw, _apply_withdraw),)
