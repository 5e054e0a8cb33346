"""`tabular@1`: rows and columns. Copies of rows, also with jitter, missing cells, types, constant and leaking
columns, and the noise of named labels."""

from __future__ import annotations

from collections.abc import Sequence

from idao.assess import columns, files, near
from idao.assess.columns import Column, Findings
from idao.assess.earlier import Earlier
from idao.assess.near import Neighbours
from idao.assess.report import (
    ROW_BYTES,
    ROWS_KEPT_MAX,
    WHOLE,
    AssessFile,
    Card,
    Grid,
    Options,
    Slice,
    share,
    smallest,
)
from idao.assess.sample import Part
from idao.assess.table import Reading, Table, read_tables
from idao.crypto.hashing import Kind, digest
from idao.filled import filled

BUDGET = 1024 * 1024
"""Bytes read: some 15,000 rows, of which `table.py` keeps what 80 ms allow."""
TABLES_MAX = 16
"""Tables of different shape looked at, those with most rows first."""
CLASSES_MAX = 64
"""Distinct labels above which a label is a quantity and not a class."""
EARLIER_SLICES_MAX = 2
"""Earlier tables compared row by row, 15 ms each: those with most columns of the same name."""
EARLIER_ROWS_MAX = 192
"""Own rows compared with each."""
SLICE_ROWS_MIN = 32
"""Rows needed on both sides to tell near copies from chance."""
SLICE_CHANCE = 1_000
"""bp of honest rows nearer than chance to one of an earlier table from the same source."""
GRIDS_MIN = 2
"""Numeric columns needed to compare rows."""
NUMERIC = 9_000
"""bp of numbers in a column that is compared as numbers."""
NAMED_IN_REASON = 4
"""Columns that one reason names."""


@filled
class Rows:
    """The distinct rows of one table, by their hashes."""

    table: Table
    columns: list[Column]
    hashes: list[bytes]
    order: list[int]
    """Row numbers, one of each hash, ascending by hash."""


def assess(inputs: Sequence[AssessFile], options: Options, earlier: Earlier, card: Card) -> list[Part]:
    """Fills `card`; returns what was read."""
    parts = files.assess_files(inputs, earlier, card, BUDGET)
    reading = read_tables(parts)
    ranked = sorted((t for t in reading.tables.values() if t.rows), key=lambda t: (-len(t.rows), t.header))
    findings = Findings()
    tables = [_rows(t, options.labels, findings) for t in ranked[:TABLES_MAX]]
    _score_reading(card, reading, len(ranked))
    _score_columns(card, findings)
    hashes = [h for t in tables for h in t.hashes]
    kept = list(dict.fromkeys(hashes))
    card.rows, card.rows_total = smallest(kept, ROWS_KEPT_MAX), len(kept) * reading.thinned
    card.counts.update(rows=len(hashes), duplicate_rows=len(hashes) - len(kept))
    useful, seen = _score_rows(card, tables, options, earlier, share(len(kept), len(hashes)))
    files.score_novelty(card, max(seen, earlier.rows_seen(kept)), "rows")
    read = sum(part.length for part in parts)
    if read:
        # From the rows looked at to all: by thinning, and by bytes.
        useful = useful * reading.thinned * card.counts["distinct_bytes"] // read
    card.useful = useful * card.scores["novelty"] // WHOLE
    return parts


def _rows(table: Table, labels: Sequence[str], findings: Findings) -> Rows:
    """Hashes over the cells in the order of column names, so that moved columns change nothing."""
    cells = list(zip(*table.rows, strict=True))
    by_name = sorted(range(len(cells)), key=lambda i: table.header[i]) if table.named else range(len(cells))
    rows = zip(*[cells[i] for i in by_name], strict=True)
    unit = Kind.ASSESSOR_UNIT
    hashes = [digest(unit, "\x1f".join(r).encode("utf-8", "surrogatepass"))[:ROW_BYTES] for r in rows]
    first: dict[bytes, int] = {}
    for i, h in enumerate(hashes):
        first.setdefault(h, i)
    order = [first[h] for h in sorted(first)]
    return Rows(table, columns.check(table, order, labels, findings), hashes, order)


# --- reading and columns ---------------------------------------------------------------------------------


def _score_reading(card: Card, reading: Reading, tables: int) -> None:
    card.counts.update(
        tables=tables, bad_rows=reading.bad_rows, odd_encodings=reading.odd_encodings,
        nul_files=reading.nul_files, not_tables=reading.not_tables,
    )  # fmt: skip
    if reading.not_tables:
        card.say(
            "readable", f"{reading.not_tables} files were not read as tables",
            "CSV, TSV and JSON Lines are read; Parquet, spreadsheets and others are not",
        )  # fmt: skip
    for count, what, improve in (
        (reading.odd_encodings, "are not UTF-8", "convert them to UTF-8"),
        (reading.nul_files, "hold NUL bytes, which were left out", "write them anew without NUL bytes"),
        (reading.wide_files, "have more columns than are looked at", ""),
        (reading.begun_only, "have cells over several lines and were read from the beginning only", ""),
    ):
        if count:
            card.say("readable", f"{count} tables {what}", improve)
    if reading.thinned > 1:
        card.say("sample", f"one row in {reading.thinned} was looked at, chosen by its contents")
    good = share(reading.rows - reading.bad_rows, reading.rows) if reading.files else 0
    penalty = share(reading.odd_encodings + reading.nul_files, reading.files) // 4 if reading.files else 0
    text = (
        f"{reading.bad_rows} of {reading.rows} rows have another number of cells than their table, or no form"
    )
    card.score("readable", good - penalty, text, "give each row as many cells as its header has names")


def _score_columns(card: Card, f: Findings) -> None:
    card.counts.update(
        columns=f.columns, cells=f.cells, missing_cells=f.missing, inconsistent_cells=f.odd,
        constant_columns=len(f.constant), repeated_columns=len(f.repeated), leaking_columns=len(f.leaking),
    )  # fmt: skip
    sparse = f", mostly in {_list(f.sparse)}" if f.sparse else ""
    card.score(
        "completeness", share(f.cells - f.missing, f.cells),
        f"{f.missing} of {f.cells} cells are missing{sparse}",
        "fill the cells in, or drop columns that are mostly empty",
    )  # fmt: skip
    # A few wrong cells in a column spoil its use, so they weigh by the column as well.
    typed = share(f.cells - f.odd, f.cells) - share(len(f.mixed), f.columns) // 10 if f.cells else WHOLE
    card.score(
        "consistency", typed,
        f"{f.odd} cells are of another type than the rest of their column: {_list(f.mixed)}",
        "write each column in one type and one format",
    )  # fmt: skip
    idle = len(f.constant) + len(f.repeated)
    card.score(
        "columns", share(f.columns - idle, f.columns) - (2_500 if f.leaking else 0),
        "; ".join(
            f"{what}: {_list(names)}"
            for what, names in (
                ("constant", f.constant),
                ("repeat another column", f.repeated),
                ("alone determine the label", f.leaking),
            )
            if names
        ),
        "drop constant and repeated columns, and those that are known only once the label is",
    )  # fmt: skip


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_IN_REASON} more" if len(names) > NAMED_IN_REASON else ""
    return ", ".join(names[:NAMED_IN_REASON]) + more


# --- rows --------------------------------------------------------------------------------------------------


def _score_rows(
    card: Card, tables: Sequence[Rows], options: Options, earlier: Earlier, distinct: int
) -> tuple[int, int]:
    """Scores uniqueness and labels. Returns the useful rows among those looked at, and bp seen in earlier
    assets, exactly or nearly."""
    labelled = [t for t in tables if any(c.name in options.labels for c in t.columns)]
    main = next(iter(labelled or tables), None)
    leaders, kappa, seen = WHOLE, WHOLE, 0
    if main is not None:
        cols = _features(main.columns, options.labels)
        label = _label(card, main, cols, options)
        leaders, seen, found = _near(card, main, cols, label, earlier)
        kappa = _score_labels(card, main, cols, label, found)
    unique = card.scores["uniqueness"] * distinct // WHOLE * leaders // WHOLE
    card.score(
        "uniqueness", unique,
        f"{card.counts['duplicate_files']} files and {card.counts['duplicate_rows']} rows are copies, and "
        f"of the rest {(WHOLE - leaders) // 100} % of rows nearly so",
        "keep one of each; copies with small changes count as copies",
    )  # fmt: skip
    rows = sum(len(t.order) for t in tables)
    return rows * leaders // WHOLE * kappa // WHOLE, seen


def _features(cols: Sequence[Column], labels: Sequence[str]) -> list[Column]:
    """The columns by which rows are compared, by name so that their order does not matter."""
    found = [
        c for c in cols
        if c.name not in labels and not c.is_id and not c.constant
        and (_numeric(c) or len(c.values) <= near.CATEGORIES_MAX)
    ]  # fmt: skip
    return sorted(found, key=lambda c: c.name)[: near.COLUMNS_MAX]


def _numeric(c: Column) -> bool:
    filled = len(c.cells) - c.missing
    return c.kind == "number" and filled > 0 and share(filled - c.odd, filled) >= NUMERIC


def _encode(cols: Sequence[Column], chosen: Sequence[int]) -> tuple[list[int], list[Grid], list[list[int]]]:
    """(codes, grids of the numeric columns, their levels row by row) of the chosen rows."""
    levels = near.levels_for(len(cols))
    bits: list[near.Bits] = []
    coded: list[list[int]] = []
    grids: list[Grid] = []
    numeric: list[list[int]] = []
    for c in cols:
        if _numeric(c):
            values = [near.number(c.cells[i]) for i in chosen]
            grid = near.cuts([v for v in values if v is not None], levels)
            bits.append(near.ordered(len(grid)))
            coded.append([near.level(grid, v) for v in values])
            grids.append(Grid(_name_hash(c.name), b"".join(_pack(v) for v in grid)))
            numeric.append(coded[-1])
        else:
            number = {value: n for n, value in enumerate(sorted(c.values))}
            bits.append(near.unordered(len(number), levels))
            coded.append([number[c.cells[i]] for i in chosen])
    rows = list(zip(*coded, strict=True)) if coded else [() for _ in chosen]
    return near.codes(rows, bits), grids, [list(r) for r in zip(*numeric, strict=True)]


def _name_hash(name: str) -> bytes:
    return digest(Kind.ASSESSOR_UNIT, name.encode("utf-8", "surrogatepass"))[:ROW_BYTES]


def _pack(value: int) -> bytes:
    return value.to_bytes(16, "big", signed=True)


def _unpack(data: bytes) -> list[int]:
    return [int.from_bytes(data[i : i + 16], "big", signed=True) for i in range(0, len(data), 16)]


def _near(
    card: Card, rows: Rows, cols: Sequence[Column], label: Column | None, earlier: Earlier
) -> tuple[int, int, Neighbours | None]:
    """(bp of rows that are no near copies of others, bp seen nearly in earlier assets, the comparison if it
    was of all rows); keeps the slice.

    All rows are compared if there are few, else those between two values of one column: where a row is, its
    copies with jitter are too.
    """
    numeric = [c for c in cols if _numeric(c)]
    if len(numeric) < GRIDS_MIN:
        return WHOLE, 0, None
    # Of the columns with most values the one first by name.
    main = max(numeric, key=lambda c: len(c.values))
    values = {i: near.number(main.cells[i]) or 0 for i in rows.order}
    ranked = sorted(values.values())
    middle = max(0, (len(ranked) - near.ROWS_MAX) // 2)
    low, high = ranked[middle], ranked[min(len(ranked), middle + near.ROWS_MAX) - 1]
    chosen = [i for i in rows.order if low <= values[i] <= high][: near.ROWS_MAX]
    codes, grids, levels = _encode(cols, chosen)
    every = len(chosen) == len(rows.order)
    found = near.compare(codes, [label.cells[i] for i in chosen] if every and label else None)
    card.counts.update(near_duplicate_rows=len(chosen) - len(found.leaders), rows_compared=len(chosen))
    reach = found.reach
    if len(cols) > len(numeric):
        # Earlier tables are compared by numbers alone: their cuts do not depend on which categories occur.
        plain, grids, levels = _encode(numeric, chosen)
        reach = near.compare(plain, None).reach
    card.slice = Slice(
        _name_hash(main.name), _pack(low), _pack(high), tuple(grids),
        b"".join(bytes(r) for r in levels), b"".join(t.to_bytes(2, "big") for t in reach),
    )  # fmt: skip
    return WHOLE - found.copies, _seen_nearly(rows, numeric, earlier), found if every else None


def _seen_nearly(rows: Rows, numeric: Sequence[Column], earlier: Earlier) -> int:
    named = {_name_hash(c.name): c for c in numeric}
    fitting = []
    for item in earlier.slices():
        shared = sum(g.column in named for g in item.grids)
        if item.column in named and shared >= GRIDS_MIN and shared == len(item.grids):
            fitting.append((-shared, item.levels, item))
    fitting.sort(key=lambda entry: entry[:2])
    best = 0
    for _, _, item in fitting[:EARLIER_SLICES_MAX]:
        best = max(best, _seen_in(rows, named, item))
    return best


def _seen_in(rows: Rows, named: dict[bytes, Column], item: Slice) -> int:
    """bp of our rows within the slice that are near to a row of it."""
    (low,), (high,) = _unpack(item.low), _unpack(item.high)
    by = named[item.column].cells
    inside = [i for i in rows.order if (v := near.number(by[i])) is not None and low <= v <= high]
    inside = inside[:EARLIER_ROWS_MAX]
    width = len(item.grids)
    theirs = [item.levels[i : i + width] for i in range(0, len(item.levels), width)]
    if min(len(inside), len(theirs)) < SLICE_ROWS_MIN:
        return 0
    grids = [_unpack(g.cuts) for g in item.grids]
    bits = [near.ordered(len(g)) for g in grids]
    cells = [named[g.column].cells for g in item.grids]
    ours = [[near.level(g, near.number(c[i])) for g, c in zip(grids, cells, strict=True)] for i in inside]
    known = near.codes(theirs, bits)
    limits = [int.from_bytes(item.reach[i : i + 2], "big") for i in range(0, len(item.reach), 2)]
    count = 0
    for code in near.codes(ours, bits):
        count += any(d <= t for d, t in zip(near.distances(code, known), limits, strict=True) if t)
    return near.beyond_chance(count, len(inside), SLICE_CHANCE)


def _label(card: Card, rows: Rows, cols: Sequence[Column], options: Options) -> Column | None:
    """The label column if it can be judged; else says why not."""
    label = next((c for c in rows.columns if c.name in options.labels), None)
    if label is None:
        if options.labels:
            card.say("labels", "no table has a column of the label's name", "name it as the header does")
    elif len(label.values) > CLASSES_MAX:
        card.say("labels", "the label is a quantity or a text, not a class: its noise was not judged")
    elif not cols and not label.constant:
        card.say("labels", "no other column tells rows apart: the noise of labels was not judged")
    else:
        return label
    return None


def _score_labels(
    card: Card, rows: Rows, cols: Sequence[Column], label: Column | None, found: Neighbours | None
) -> int:
    """Scores the labels; returns their agreement beyond chance, bp: all of it where none can be judged."""
    if label is None:
        return WHOLE
    if label.constant:
        card.score("labels", 0, "all rows have the same label", "add rows of other classes")
        return 0
    if found is None:
        chosen = rows.order[: near.ROWS_MAX]
        codes, _, _ = _encode(cols, chosen)
        found = near.compare(codes, [label.cells[i] for i in chosen])
    if not found.judged:
        card.say("labels", "too few rows that differ to judge the labels")
        return WHOLE
    card.counts.update(labels_judged=found.judged, suspected_label_errors=len(found.suspects))
    card.score(
        "labels", found.kappa,
        f"{len(found.suspects)} of {found.judged} labels contradict most rows like them; "
        f"{found.judged - found.agreeing} are not what their neighbours let expect",
        "check the labels, or add columns that tell the classes apart",
    )  # fmt: skip
    return found.kappa
