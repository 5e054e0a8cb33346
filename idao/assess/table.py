"""Files as tables: CSV, TSV and JSON Lines, in any encoding, ragged or damaged. Never raises on contents."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from zlib import crc32

from idao.assess.sample import Part
from idao.filled import each, filled

CELLS_MAX = 100_000
"""Cells looked at: some 80 ms for all column checks together."""
ROWS_MAX = 12_000
COLUMNS_MAX = 512
"""Columns looked at; wider tables are cut, and the report says so."""
CELL_BYTES_MAX = 4 * 1024 * 1024
"""Above what one review reads, so that the parser never refuses a field."""
NESTING_MAX = 100
"""Brackets in one JSON line: far below where the parser's recursion ends."""
DELIMITERS = ",\t;|"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_ .()%/#-]{0,39}", re.ASCII)

Row = tuple[str, ...]


@filled
class Table:
    """Rows of one shape. `named`: the first row was a header."""

    header: tuple[str, ...]
    named: bool
    rows: list[Row] = each(factory=list)


@filled
class Reading:
    """All tables of an asset, by header, and what went wrong on the way."""

    tables: dict[tuple[str, ...], Table] = each(factory=dict)
    files: int = 0
    rows: int = 0
    bad_rows: int = 0
    odd_encodings: int = 0
    nul_files: int = 0
    not_tables: int = 0
    wide_files: int = 0
    begun_only: int = 0
    """Files of which only the beginning could be used, since their rows span lines."""
    thinned: int = 1
    """One row in so many was looked at, chosen by its bytes."""


def decode(pieces: Sequence[bytes]) -> tuple[list[str], bool]:
    """The pieces as text, and whether they were not UTF-8. Latin-1 reads anything."""
    first = pieces[0][:2] if pieces else b""
    if first in (b"\xff\xfe", b"\xfe\xff"):
        coding = "utf-16-le" if first == b"\xff\xfe" else "utf-16-be"
        texts = [p[: len(p) & ~1].decode(coding, "replace") for p in pieces]
        return [t.removeprefix("\ufeff") for t in texts], True
    try:
        return [_utf8(p, i > 0).removeprefix("\ufeff") for i, p in enumerate(pieces)], False
    except UnicodeDecodeError:
        return [p.decode("latin-1") for p in pieces], True


def _utf8(piece: bytes, inner: bool) -> str:
    """A piece may begin and end inside a character."""
    start = 0
    while inner and start < min(4, len(piece)) and piece[start] & 0xC0 == 0x80:
        start += 1
    try:
        return piece[start:].decode()
    except UnicodeDecodeError as e:
        if e.reason == "unexpected end of data" and start + e.end == len(piece):
            return piece[start : start + e.start].decode()
        raise


def read_tables(parts: Sequence[Part]) -> Reading:
    """Every part that is a table, as rows; rows are thinned by their own bytes when there are too many."""
    reading = Reading()
    readable = []
    for part in parts:
        if form(part) is None:
            reading.not_tables += 1
        else:
            readable.append(part)
    lines = sum(piece.count(b"\n") + 1 for part in readable for piece in part.pieces)
    cells = sum(piece.count(d.encode()) for p in readable for piece in p.pieces for d in _delimiter_of(p))
    while lines // reading.thinned > ROWS_MAX or (lines + cells) // reading.thinned > CELLS_MAX:
        reading.thinned *= 2
    for part in readable:
        reading.files += 1
        _read_part(part, reading)
    return reading


def form(part: Part) -> str | None:
    """'json', 'csv', or None for what is not a table that can be read here."""
    name = part.file.path.lower()
    head = part.pieces[0][:512] if part.pieces else b""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        head = head.replace(b"\0", b"")
    if name.endswith((b".jsonl", b".ndjson")):
        return "json"
    if name.endswith((b".csv", b".tsv", b".tab", b".psv")):
        return "csv"
    if b"\0" in head or not head.strip():
        return None
    line = head.split(b"\n", 1)[0]
    if line.startswith(b"{") and line.rstrip().endswith(b"}"):
        return "json"
    if name.endswith((b".txt", b".dat", b".data")) or b"." not in name.rsplit(b"/", 1)[-1]:
        second = head.split(b"\n")[1:2] or [b""]
        for d in DELIMITERS.encode():
            if line.count(d) and line.count(d) == second[0].count(d):
                return "csv"
    return None


def _delimiter_of(part: Part) -> str:
    if form(part) == "json":
        return ":"
    head = part.pieces[0][:65536].replace(b"\0", b"").split(b"\n", 1)[0]
    if part.file.path.lower().endswith((b".tsv", b".tab")):
        return "\t"
    # The first of the most frequent.
    return max(DELIMITERS, key=lambda d: head.count(d.encode()))


def _read_part(part: Part, reading: Reading) -> None:
    texts, odd = decode(part.pieces)
    reading.odd_encodings += odd
    if any("\0" in t for t in texts):
        reading.nul_files += 1
        texts = [t.replace("\0", "") for t in texts]
    texts = [t.replace("\r\n", "\n").replace("\r", "\n") for t in texts]
    if form(part) == "json":
        _read_json(_lines(texts, part.whole), reading)
        return
    delimiter = _delimiter_of(part)
    if not any('"' in t for t in texts):
        head, *lines = _lines(texts, part.whole) or [""]
        _add(reading, head.split(delimiter), [ln.split(delimiter) for ln in _thin(lines, reading.thinned)])
        return
    parsed = [_csv(texts[0], delimiter)]
    if not part.whole:
        parsed[0] = parsed[0][:-1] or parsed[0]
        if any("\n" in cell for row in parsed[0] for cell in row):
            reading.begun_only += 1
        else:
            parsed += [_csv(t.partition("\n")[2].rpartition("\n")[0], delimiter) for t in texts[1:]]
    if not parsed[0]:
        return
    rows = [row for rows in parsed for row in rows]
    if reading.thinned > 1:
        rows[1:] = [r for r in rows[1:] if not _hash("\x1f".join(r)) & (reading.thinned - 1)]
    _add(reading, rows[0], rows[1:])


def _lines(texts: Sequence[str], whole: bool) -> list[str]:
    """Complete lines: a file cut into pieces has torn ones at the cuts."""
    if whole:
        return [ln for ln in texts[0].split("\n") if ln] if texts else []
    lines = texts[0].split("\n")[: -1 if "\n" in texts[0] else None]
    for text in texts[1:]:
        lines += text.split("\n")[1:-1]
    return [ln for ln in lines if ln]


def _hash(text: str) -> int:
    return crc32(text.encode("utf-8", "surrogatepass"))


def _thin(lines: list[str], every: int) -> list[str]:
    """One line in `every`, chosen by its bytes: copies stay or go together, order does not matter."""
    return lines if every == 1 else [ln for ln in lines if not _hash(ln) & (every - 1)]


def _csv(text: str, delimiter: str) -> list[list[str]]:
    before = csv.field_size_limit(CELL_BYTES_MAX)
    try:
        return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    except csv.Error:
        # Not CSV after all: every line is a row as it stands.
        return [ln.split(delimiter) for ln in text.split("\n") if ln]
    finally:
        csv.field_size_limit(before)


def _read_json(lines: Sequence[str], reading: Reading) -> None:
    records = []
    for line in _thin(list(lines), reading.thinned):
        record = _object(line)
        if record is None:
            reading.bad_rows += 1
            reading.rows += 1
        else:
            records.append(record)
    names = sorted({name for record in records for name in record})
    if names:
        rows = [[_cell(record.get(name)) for name in names] for record in records]
        _put(reading, tuple(names), True, rows)


def _object(line: str) -> dict[str, object] | None:
    if line.count("[") + line.count("{") > NESTING_MAX:
        return None
    try:
        # Numbers stay text: floats have no place here, and huge integers no limit.
        value = json.loads(line, parse_float=str, parse_int=str, parse_constant=str)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _add(reading: Reading, head: list[str], rows: list[list[str]]) -> None:
    """A table whose first row may be a header: all cells named, none twice."""
    names = [cell.strip() for cell in head]
    named = len(set(names)) == len(names) and all(_NAME.fullmatch(n) or not n.isascii() for n in names)
    if named:
        _put(reading, tuple(names), True, rows)
    else:
        # Numbers, so that files of one shape without header fall together.
        _put(reading, tuple(str(i + 1) for i in range(len(names))), False, [head, *rows])


def _put(reading: Reading, header: tuple[str, ...], named: bool, rows: list[list[str]]) -> None:
    width = len(header)
    good = [row for row in rows if len(row) == width]
    reading.rows += len(rows)
    reading.bad_rows += len(rows) - len(good)
    kept = header[:COLUMNS_MAX]
    reading.wide_files += width > COLUMNS_MAX
    table = reading.tables.setdefault(kept, Table(kept, named))
    table.rows += [tuple([cell.strip() for cell in row[:COLUMNS_MAX]]) for row in good]
