"""What single columns tell: missing cells, mixed types, constants, repeats, leaks of the label."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from idao.assess import near
from idao.assess.table import Table
from idao.filled import each, filled

MISSING = frozenset(("", "na", "n/a", "#n/a", "nan", "null", "none", "-", "?", "."))
DOMINANT = 8_000
"""bp of a column's cells that one type must have for the others to count as inconsistent."""
LEAK_ROWS_MIN = 20
"""Below, any column may separate two labels by luck."""
LEAK_REPEAT = 4
"""Rows per value from which a column that determines the label does so not just by naming each row."""
LEAK_CLASS_MIN = 8
"""Rows of each label on its side of one number, for that number to be called a leak."""
LEAK_ROWS_MAX = 500
"""Rows sorted per numeric column: one ms each."""
_KIND = re.compile(
    r"(?P<number>[+-]?(?:\d{1,24}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,2})?)"
    r"|(?P<date>\d{4}-\d\d?-\d\d?(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?"
    r"|\d\d?[/.]\d\d?[/.]\d{4})"
    r"|(?P<boolean>true|false|yes|no|True|False|Yes|No|TRUE|FALSE|YES|NO)",
    re.ASCII,
)
_ID_NAMES = frozenset(("id", "index", "key", "uuid", "guid", "row", "rowid"))


def kind(cell: str) -> str:
    """'number', 'date', 'boolean', 'missing' or 'text'."""
    m = _KIND.fullmatch(cell)
    if m is not None:
        return str(m.lastgroup)
    return "missing" if len(cell) < 5 and cell.lower() in MISSING else "text"


@filled
class Column:
    """One column. `kind` is the type of most cells; `missing` and `odd` count cells of none or another."""

    name: str
    cells: tuple[str, ...]
    values: Counter[str]
    kind: str
    missing: int
    odd: int

    @property
    def constant(self) -> bool:
        """One value or none, in at least two rows."""
        return len(self.cells) > 1 and len(self.values) == 1

    @property
    def is_id(self) -> bool:
        name = self.name.lower()
        return name in _ID_NAMES or name.endswith(("_id", "uuid"))


def column(name: str, cells: tuple[str, ...]) -> Column:
    values = Counter(cells)
    kinds = dict.fromkeys(("number", "date", "boolean", "text", "missing"), 0)
    for value, count in values.items():
        kinds[kind(value)] += count
    missing = kinds.pop("missing")
    filled = len(cells) - missing
    most = max(kinds, key=lambda k: kinds[k])
    # A text column may hold anything; a typed one whose share is too small is a text column.
    odd = filled - kinds[most] if most != "text" and kinds[most] * 10_000 >= filled * DOMINANT else 0
    if most != "text" and kinds[most] * 10_000 < filled * DOMINANT:
        most = "text"
    return Column(name, cells, values, most, missing, odd)


@filled
class Findings:
    """Totals over all tables of an asset. Columns are told by number and, if that is safe, by name."""

    columns: int = 0
    cells: int = 0
    missing: int = 0
    odd: int = 0
    constant: list[str] = each(factory=list)
    repeated: list[str] = each(factory=list)
    leaking: list[str] = each(factory=list)
    sparse: list[str] = each(factory=list)
    mixed: list[str] = each(factory=list)


def check(table: Table, order: Sequence[int], labels: Sequence[str], findings: Findings) -> list[Column]:
    """Adds what the columns of `table` tell; returns them. `order`: its distinct rows, by hash."""
    cells = zip(*table.rows, strict=True)
    columns = [column(name, c) for name, c in zip(table.header, cells, strict=True)]
    told = _told(table, columns)
    label = next((c for c in columns if c.name in labels), None)
    seen: dict[tuple[int, tuple[str, ...]], list[Column]] = {}
    for c, name in zip(columns, told, strict=True):
        findings.columns += 1
        findings.cells += len(c.cells)
        findings.missing += c.missing
        findings.odd += c.odd
        if c.missing * 2 > len(c.cells):
            findings.sparse.append(name)
        if c.odd:
            findings.mixed.append(name)
        if c.constant:
            findings.constant.append(name)
            continue
        alike = seen.setdefault((len(c.values), c.cells[:8]), [])
        if c is not label and any(c.cells == other.cells for other in alike if other is not label):
            findings.repeated.append(name)
        alike.append(c)
        if label is not None and c.name not in labels and _gives_away(c, label, order):
            findings.leaking.append(name)
    return columns


def _gives_away(c: Column, label: Column, order: Sequence[int]) -> bool:
    """Whether `c` alone determines the label."""
    if len(c.cells) < LEAK_ROWS_MIN or len(label.values) < 2:
        return False
    if len(c.values) * LEAK_REPEAT <= len(c.cells):
        return len(set(zip(c.cells, label.cells, strict=True))) == len(c.values)
    if c.kind != "number" or c.odd or c.missing or min(label.values.values()) < LEAK_CLASS_MIN:
        return False
    some = order[:LEAK_ROWS_MAX]
    ranked = sorted([(near.number(c.cells[i]) or 0, label.cells[i]) for i in some])
    runs = 1 + sum(a[1] != b[1] for a, b in pairwise(ranked))
    return runs == len({name for _, name in ranked}) > 1


def _told(table: Table, columns: Sequence[Column]) -> list[str]:
    """'column 3', with its name where it surely is one: a first row of plain words above other types."""
    certain = table.named and any(c.kind != "text" for c in columns)
    plain = re.compile(r"[A-Za-z][A-Za-z_ ]{0,23}", re.ASCII)
    return [
        f"column {i} '{c.name}'" if certain and plain.fullmatch(c.name) else f"column {i}"
        for i, c in enumerate(columns, 1)
    ]
