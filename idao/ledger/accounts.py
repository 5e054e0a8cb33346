"""The book: double-entry accounts in integer units.

Each unit is somebody's promise. An iDAO's own unit carries its id: a holder of 5 has the issuer's word
for 5, and nothing else stands behind it. The unit `STAKE` comes from genesis alone.

Crediting an account gives to its holder, debiting takes. Only `post` writes to the book, both sides at
once, so debits equal credits after every transaction. No balance is ever below zero: an issuance
account counts what is outstanding (debits less credits), every other what is held (credits less debits).
"""

from __future__ import annotations

from typing import Annotated

from idao.errors import VerificationFailed
from idao.frozen import frozen, replace
from idao.ledger.idao import Identity, require
from idao.ledger.state import State, record
from idao.ledger.tx import Context, TxKind, refuse
from idao.model import INT_MAX, Amount, Id, Name, Range, Word

STAKE = bytes(32)
"""The unit of stake. No id is all zero, so no iDAO's own unit can be taken for it."""
IDAO, REVENUE, DUST, ISSUANCE = "idao", "revenue", "dust", "issuance"
BOND, SLASHED = "bond", "slashed"
"""Kinds of account: an iDAO's own; a class's revenue not yet claimed; what of it nobody can ever claim
because shares do not divide it; what an issuer has promised; a validator's bond; and what bonds have lost
for proven faults, which nobody can spend."""

Place = tuple[str, bytes]
"""An account in some unit: its kind and the id of its holder."""
Positive = Annotated[int, Range(1, INT_MAX)]


@record("account", key=("kind", "holder", "unit"))
@frozen
class Account:
    """One account in one unit.

    kind: idao, revenue, dust, issuance, bond or slashed
    holder: the iDAO; the class for revenue and dust; the quorum for issuance of stake and what was slashed
    unit: id of the iDAO whose promise is counted, or all zero for stake
    debit: sum of all amounts ever taken from it
    credit: sum of all amounts ever given to it
    """

    kind: Word
    holder: Id
    unit: Id
    debit: Amount
    credit: Amount

    @property
    def balance(self) -> int:
        """Units held; for an issuance account, units outstanding."""
        return self.debit - self.credit if self.kind == ISSUANCE else self.credit - self.debit


@record("entry", key=("height", "tx", "n"))
@frozen
class Entry:
    """One amount moved from an account to another.

    height: block that moved it; 0 is genesis
    tx: transaction that moved it; at genesis the quorum
    n: counts the entries of the transaction, from 0
    debit_kind: kind of the account it was taken from
    debit_holder: holder of that account
    credit_kind: kind of the account it was given to
    credit_holder: holder of that account
    unit: id of the iDAO whose promise is counted, or all zero for stake
    amount: how many units
    memo: what for
    """

    height: int
    tx: Id
    n: int
    debit_kind: Word
    debit_holder: Id
    credit_kind: Word
    credit_holder: Id
    unit: Id
    amount: Positive
    memo: Name


def balance(state: State, place: Place, unit: bytes) -> int:
    """Units held at `place` (outstanding, for issuance); 0 when there is no such account."""
    found = state.get(Account, *place, unit)
    return found.balance if found else 0


def post(ctx: Context, debit: Place, credit: Place, unit: bytes, amount: int, memo: str) -> None:
    """Moves `amount` (at least 1). Refuses with `insufficient`, `overflow` or `same-account`."""
    _write(ctx.state, ctx.height, ctx.tx, debit, credit, unit, amount, memo)


def _write(
    state: State, height: int, tx: bytes, debit: Place, credit: Place, unit: bytes, amount: int, memo: str
) -> None:
    if debit == credit:
        refuse("same-account", "the amount would go back to where it comes from")
    giver = state.get(Account, *debit, unit) or Account(*debit, unit, 0, 0)
    taker = state.get(Account, *credit, unit) or Account(*credit, unit, 0, 0)
    for account, owes in ((giver, giver.kind != ISSUANCE), (taker, taker.kind == ISSUANCE)):
        if owes and account.balance < amount:
            refuse("insufficient", f"{amount} are needed where {account.balance} are held")
    if max(giver.debit, taker.credit) + amount > INT_MAX:
        refuse("overflow", "an account cannot count that far")
    state.put(replace(giver, debit=giver.debit + amount))
    state.put(replace(taker, credit=taker.credit + amount))
    n = 0
    while state.wrote(Entry, height, tx, n):  # entries of this height are in no base
        n += 1
    state.put(Entry(height, tx, n, *debit, *credit, unit, amount, memo))


def endow(state: State, quorum: bytes, stake: tuple[tuple[bytes, int], ...]) -> None:
    """Genesis: gives each (iDAO, units) its stake. Nothing else ever creates stake."""
    for idao, amount in stake:
        if amount:
            _write(state, 0, quorum, (ISSUANCE, quorum), (IDAO, idao), STAKE, amount, "genesis")


def bond_founder(state: State, quorum: bytes, idao: bytes, amount: int) -> None:
    """Genesis: puts a part of a founder's stake into its bond."""
    _write(state, 0, quorum, (IDAO, idao), (BOND, idao), STAKE, amount, "bond")


def check_book(state: State) -> None:
    """`VerificationFailed` unless debits equal credits in each unit, nobody is below zero, and the
    entries add up to the accounts. Reads the whole book."""
    debits: dict[tuple[str, bytes, bytes], int] = {}
    credits: dict[tuple[str, bytes, bytes], int] = {}
    for e in state.scan(Entry):
        debit, credit = (e.debit_kind, e.debit_holder, e.unit), (e.credit_kind, e.credit_holder, e.unit)
        debits[debit] = debits.get(debit, 0) + e.amount
        credits[credit] = credits.get(credit, 0) + e.amount
    open_units: dict[bytes, int] = {}
    for a in state.scan(Account):
        key = (a.kind, a.holder, a.unit)
        where = f"account {a.kind} {a.holder.hex()[:16]} in unit {a.unit.hex()[:16]}"
        if a.balance < 0:
            raise VerificationFailed(f"{where} is below zero", code="book")
        if (a.debit, a.credit) != (debits.pop(key, 0), credits.pop(key, 0)):
            raise VerificationFailed(f"{where} is not the sum of its entries", code="book")
        open_units[a.unit] = open_units.get(a.unit, 0) + a.debit - a.credit
    if debits or credits:
        raise VerificationFailed("an entry names an account that is not there", code="book")
    if any(open_units.values()):
        raise VerificationFailed("debits do not equal credits", code="book")


def require_known(ctx: Context, idao: bytes) -> None:
    """Refuses unless the iDAO is registered: what is given to an id nobody holds is lost."""
    if ctx.state.get(Identity, idao) is None:
        refuse("unknown-idao", "the receiver is not registered on this ledger")


# --- account.issue, account.retire ----------------------------------------------------------------


@frozen
class Issue:
    """The iDAO `unit` promises `amount` of its own unit to `to`."""

    unit: Id
    to: Id
    amount: Positive
    memo: Name


def _apply_issue(ctx: Context, body: Issue) -> None:
    if body.unit == ctx.quorum:
        refuse("quorum-credit", "a quorum promises nothing; an iDAO issues credit in its own name")
    require(ctx, body.unit, "spend")
    require_known(ctx, body.to)
    post(ctx, (ISSUANCE, body.unit), (IDAO, body.to), body.unit, body.amount, body.memo)


@frozen
class Retire:
    """The iDAO `unit` takes `amount` of its own promises, which it holds, out of the world."""

    unit: Id
    amount: Positive
    memo: Name


def _apply_retire(ctx: Context, body: Retire) -> None:
    require(ctx, body.unit, "spend")
    post(ctx, (IDAO, body.unit), (ISSUANCE, body.unit), body.unit, body.amount, body.memo)


# --- account.transfer -----------------------------------------------------------------------------


@frozen
class Transfer:
    source: Id
    to: Id
    unit: Id
    amount: Positive
    memo: Name


def _apply_transfer(ctx: Context, body: Transfer) -> None:
    require(ctx, body.source, "spend")
    require_known(ctx, body.to)
    post(ctx, (IDAO, body.source), (IDAO, body.to), body.unit, body.amount, body.memo)


RECORDS = (Account, Entry)
KINDS = (
    TxKind("account.issue", Issue, _apply_issue),
    TxKind("account.retire", Retire, _apply_retire),
    TxKind("account.transfer", Transfer, _apply_transfer),
)
