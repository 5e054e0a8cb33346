"""The families of transactions, one line each. A new kind is written in its own file and named here."""

from __future__ import annotations

from types import ModuleType

from idao.ledger import (
    accounts,
    assets,
    attest,
    bonds,
    dats,
    faults,
    governance,
    idao,
    membership,
    reviews,
    usage,
)
from idao.ledger.tx import TxKind

FAMILIES: tuple[ModuleType, ...] = (
    idao,
    assets,
    reviews,
    accounts,
    dats,
    usage,
    governance,
    attest,
    membership,
    bonds,
    faults,
)

KINDS: dict[str, TxKind] = {kind.name: kind for family in FAMILIES for kind in family.KINDS}
RECORDS: tuple[type, ...] = tuple(rec for family in FAMILIES for rec in family.RECORDS)
