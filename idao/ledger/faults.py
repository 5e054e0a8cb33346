"""What a proven lie in agreement costs: `fault.report`, slashing and jail.

Whoever holds two conflicting messages of one validator reports them; everybody checks them alone. Each
height with a fault (each tree size, for cosignatures) costs a tenth of the bond that was put in, and the seat
if at least four others remain: a quorum of four that lost one would stop at the next absence, so there the
seat is marked, and the members replace it. What a bond loses goes where nobody can spend it, so that nobody
gains by a fault.
"""

from __future__ import annotations

from idao.crypto.faults import COSIGN, check_fault, cosigned_size, fault_slot
from idao.crypto.hashing import Kind, hash_of
from idao.errors import Malformed
from idao.frozen import frozen
from idao.ledger import bonds, epochs, membership
from idao.ledger.bonds import Bond
from idao.ledger.membership import Group, Seat, SeatKey
from idao.ledger.state import State, record
from idao.ledger.tx import Context, TxKind, refuse
from idao.model import Amount, Fault, Hash, Id, PublicKey, Validator, ValidatorSet, Word

WINDOW = bonds.UNBONDING_BLOCKS
"""Blocks for which votes can be reported (ADR 0033): bonds are held for longer than that."""
SHARE = 10
"""A height with a fault costs a tenth of the bond: a copied home is mostly a mistake, ten heights are not."""


@record("fault", key=("idao", "height", "view", "kind"))
@frozen
class Recorded:
    """A proven fault.

    idao: the validator
    height: height of the two votes, or tree size of the two cosigned checkpoints
    view: view of the two votes; 0 for cosignatures
    kind: propose, notarize, finalize, finalize-nullify or cosign
    key: validator key that signed both messages
    hash: hash of the fault as it was reported
    reporter: who reported it
    at: height at which it was recorded
    slashed: units that the bond lost for it; 0 for a further fault of one height
    """

    idao: Id
    height: int
    view: int
    kind: Word
    key: PublicKey
    hash: Hash
    reporter: Id
    at: int
    slashed: Amount


@frozen
class Report:
    """Two conflicting signed messages of one validator."""

    fault: Fault


def recorded(state: State, idao: bytes | None = None) -> list[Recorded]:
    """The proven faults of one validator, or of all."""
    return list(state.scan(Recorded) if idao is None else state.scan(Recorded, idao))


def is_recorded(state: State, fault: Fault) -> bool:
    """Whether this misdeed is on the ledger already, so that nobody need report it."""
    owner = state.get(SeatKey, fault.key)
    return owner is not None and state.get(Recorded, owner.idao, *_place(fault), fault.kind) is not None


def _place(fault: Fault) -> tuple[int, int]:
    """(height or tree size, view)."""
    return (cosigned_size(fault), 0) if fault.kind == COSIGN else fault_slot(fault)


def _judge(ctx: Context, fault: Fault, owner: SeatKey) -> tuple[int, int]:
    """The place of a fault that holds. Votes are judged by the set of their height, which gives their signer
    a number; a cosignature names its key, so any key that was ever told here answers for it."""
    height, view = _place(fault)
    if fault.kind == COSIGN:
        validators = ValidatorSet((Validator(owner.idao, fault.key, 1),))
    else:
        if height > ctx.height:
            refuse("later", "the votes are of a height that is not there yet")
        if height < ctx.height - WINDOW:
            refuse("too-old", f"votes are judged for {WINDOW} blocks")
        _, validators = epochs.epoch_at(ctx.state, height)
    check_fault(fault, validators, ctx.quorum)
    return height, view


def _apply_report(ctx: Context, body: Report) -> None:
    if ctx.state.get(Group, ctx.quorum) is None:
        refuse("not-a-group", "in a quorum of one nobody else can be deceived by its own ledger")
    fault = body.fault
    owner = ctx.state.get(SeatKey, fault.key)
    if owner is None:
        refuse("unknown-key", "no validator of this quorum has or had that key")
    try:
        height, view = _judge(ctx, fault, owner)
    except Malformed as e:
        refuse("not-a-fault", e.message)
    if ctx.state.get(Recorded, owner.idao, height, view, fault.kind) is not None:
        refuse("already-recorded", "this fault is on the ledger already")
    bond = ctx.state.get(Bond, owner.idao, owner.term)
    if bond is None:
        refuse("bond-free", "the bond that answered for that key has been given back")
    before = [
        f
        for f in ctx.state.scan(Recorded, owner.idao, height)
        if (f.kind == COSIGN) == (fault.kind == COSIGN)
    ]
    cost = 0 if before else min(bond.held, max(1, bond.amount // SHARE))
    if cost:
        bonds.slash(ctx, bond, cost)
    ctx.state.put(
        Recorded(
            owner.idao, height, view, fault.kind, fault.key, hash_of(Kind.FAULT, fault), ctx.actor,
            ctx.height, cost,
        )
    )  # fmt: skip
    _jail(ctx, owner)


def _jail(ctx: Context, owner: SeatKey) -> None:
    seat = ctx.state.get(Seat, owner.idao)
    if seat is None or seat.term != owner.term or seat.state != membership.ACTIVE or not seat.power:
        return
    _, validators = epochs.epoch_at(ctx.state, ctx.height + epochs.DELAY)
    if len(validators.validators) > membership.FOUR:
        membership.vacate(ctx, seat, membership.JAILED)


RECORDS = (Recorded,)
KINDS = (TxKind("fault.report", Report, _apply_report),)
