"""tabular@1: what it finds, and that nobody gains by copies, jitter, noise or a single class."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from blake3 import blake3

from idao.assess import AssessFile, Earlier, Options, Report, assess, explain, near

Row = list[str]


def file(path: str, data: bytes) -> AssessFile:
    return AssessFile(path.encode(), len(data), blake3(data).digest(), lambda at, n: data[at : at + n])


class Chance:
    """Whole numbers that are the same on every Python."""

    def __init__(self, seed: int) -> None:
        stream = blake3(seed.to_bytes(8, "big")).digest(length=4 * 200_000)
        self._words = iter([int.from_bytes(stream[i : i + 4], "big") for i in range(0, len(stream), 4)])

    def below(self, n: int) -> int:
        return next(self._words) % n

    def bell(self, spread: int) -> int:
        """About normal, sum of twelve; standard deviation `spread`."""
        return sum(self.below(2001) - 1000 for _ in range(12)) * spread // 2000

    def shuffled(self, rows: Sequence[Row]) -> list[Row]:
        return [row for _, _, row in sorted((self.below(1 << 30), i, row) for i, row in enumerate(rows))]


COLUMNS = 10
SPREAD = 1_000


def honest(n: int, seed: int) -> list[Row]:
    """Three classes, ten measures (in thousandths) that hang on six hidden ones, and a label."""
    c = Chance(seed)
    rows = []
    for _ in range(n):
        k = c.below(3)
        hidden = [c.bell(SPREAD) for _ in range(6)]
        values = [
            1_500 * ((j * 7 + k * 3) % 5 - 2)
            + sum(h * ((j * (q + 3) + q) % 7 - 3) for q, h in enumerate(hidden)) // 6
            for j in range(COLUMNS)
        ]
        rows.append([*(decimal(v + c.bell(300)) for v in values), "abc"[k]])
    return rows  # fmt: skip


def decimal(thousandths: int) -> str:
    sign = "-" if thousandths < 0 else ""
    return f"{sign}{abs(thousandths) // 1000}.{abs(thousandths) % 1000:03}"


def units(cell: str) -> int:
    return (near.number(cell) or 0) // 10**9


def jittered(rows: Sequence[Row], per_cent: int, seed: int) -> list[Row]:
    """Copies moved by `per_cent` of about each column's standard deviation."""
    c = Chance(seed)
    return [[*(decimal(units(v) + c.bell(2_500) * per_cent // 100) for v in r[:-1]), r[-1]] for r in rows]


def table(rows: Sequence[Row]) -> bytes:
    head = [*(f"f{chr(97 + j)}" for j in range(len(rows[0]) - 1)), "y"]
    return ("\n".join(",".join(r) for r in [head, *rows]) + "\n").encode()


def judge(rows: Sequence[Row], earlier: Earlier | None = None) -> Report:
    return assess([file("t.csv", table(rows))], "tabular", Options(("y",)), earlier).report


def counts_of(
    data: bytes, name: str = "t.csv", labels: tuple[str, ...] = ()
) -> tuple[dict[str, int], Report]:
    report = assess([file(name, data)], "tabular", Options(labels)).report
    return dict(report.counts), report


ROWS = honest(600, 1)
WHOLE = judge(ROWS)
HALF = judge(ROWS[:300])


def test_honest_rows_score_high_and_more_of_them_are_worth_more() -> None:
    assert WHOLE.score > 9_700 and WHOLE.passed
    for seed in range(2, 6):
        assert dict(judge(honest(600, seed)).scores)["uniqueness"] > 9_800
    assert WHOLE.merit > HALF.merit * 13 // 10
    assert judge(Chance(9).shuffled(ROWS)) == WHOLE, "the order of rows matters"


def test_copies_are_worth_nothing() -> None:
    assert judge(ROWS[:300] * 2).merit <= HALF.merit
    assert judge(ROWS[:300] * 9).merit <= HALF.merit


@pytest.mark.parametrize(("per_cent", "gain"), [(1, 0), (5, 5), (10, 20)])
def test_copies_with_jitter_are_worth_little(per_cent: int, gain: int) -> None:
    more = judge(ROWS[:300] + jittered(ROWS[:300], per_cent, 2))
    assert more.merit * 100 <= HALF.merit * (100 + gain)
    assert more.score < HALF.score - 200
    assert dict(more.scores)["uniqueness"] < 8_000


def test_groups_of_jittered_copies_are_seen() -> None:
    few = ROWS[:40]
    rows = few + [r for i in range(9) for r in jittered(few, 3, 10 + i)]
    assert dict(judge(rows).scores)["uniqueness"] < 4_000


def noise(n: int, seed: int) -> list[Row]:
    c = Chance(seed)
    return [
        [*(decimal(c.below(12_000) - 6_000) for _ in range(COLUMNS)), "abc"[c.below(3)]] for _ in range(n)
    ]


def test_noise_rows_wrong_labels_and_one_class_are_worth_less() -> None:
    assert judge(noise(600, 3)).merit == 0
    assert judge(ROWS + noise(600, 3)).merit <= WHOLE.merit
    assert judge(ROWS + noise(5_400, 3)).merit <= WHOLE.merit
    c = Chance(4)
    assert judge([[*r[:-1], "abc"[c.below(3)]] for r in ROWS]).merit == 0
    assert judge([[*r[:-1], "a"] for r in ROWS]).merit == 0
    merits = [judge(flipped(ROWS, percent, 5)[0]).merit for percent in (0, 10, 20, 40)]
    assert merits == sorted(merits, reverse=True) and merits[3] < merits[0] * 2 // 3


def test_what_an_earlier_asset_holds_is_not_new() -> None:
    known = assess([file("t.csv", table(ROWS))], "tabular", Options(("y",)))
    earlier = Earlier([known.fingerprint])
    moved = [[*r[1:-1], r[0], r[-1]] for r in ROWS]
    swapped = table(moved).replace(b"fa,fb,fc,fd,fe,ff,fg,fh,fi,fj", b"fb,fc,fd,fe,ff,fg,fh,fi,fj,fa")
    for rows in (table(ROWS[::-1]), table(ROWS[:300]), swapped):
        assert assess([file("u.csv", rows)], "tabular", Options(("y",)), earlier).report.score == 0
    assert dict(judge(jittered(ROWS, 3, 6), earlier).scores)["novelty"] < 2_000
    assert dict(judge(honest(600, 77), earlier).scores)["novelty"] > 9_500
    assert 4_000 < dict(judge(ROWS[:300] + honest(300, 78), earlier).scores)["novelty"] < 6_000


def flipped(rows: Sequence[Row], per_cent: int, seed: int) -> tuple[list[Row], set[int]]:
    c = Chance(seed)
    out, wrong = [], set()
    for i, r in enumerate(rows):
        if c.below(100) < per_cent:
            wrong.add(i)
            r = [*r[:-1], "abc"[("abc".index(r[-1]) + 1 + c.below(2)) % 3]]
        out.append(r)
    return out, wrong


def test_flipped_labels_are_found() -> None:
    """The noisy-label detection task of OpenDataVal (2023): 20 % flipped, F1 of those flagged."""
    rows, wrong = flipped(ROWS[:320], 20, 8)
    columns = list(zip(*[[near.number(v) for v in r[:-1]] for r in rows], strict=True))
    grids = [near.cuts(c, near.levels_for(COLUMNS)) for c in columns]
    levels = [
        [near.level(g, v) for g, v in zip(grids, row, strict=True)] for row in zip(*columns, strict=True)
    ]
    codes = near.codes(levels, [near.ordered(len(g)) for g in grids])
    found = set(near.compare(codes, [r[-1] for r in rows]).suspects)
    hits = len(found & wrong)
    assert 200 * hits // (len(found) + len(wrong)) >= 85
    counted = dict(judge(rows).counts)["suspected_label_errors"]
    assert abs(counted - len(found)) <= 3


def test_distances_count_levels() -> None:
    grids = [near.cuts(list(range(100)), 50), near.cuts([5] * 100, 50)]
    assert len(grids[0]) == 49 and grids[1] == ()
    codes = near.codes([[3, 0], [45, 0]], [near.ordered(len(g)) for g in grids])
    assert near.distances(codes[0], codes) == [0, 42]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 10**12), ("-1.5", -15 * 10**11), (".5", 5 * 10**11), ("1e3", 10**15), ("1E-12", 1),
        ("1e-30", 0),
        ("+2.", 2 * 10**12), ("0.0000000000001", 0), ("9" * 24, (10**24 - 1) * 10**12), ("1e99", None),
        ("", None), (".", None), ("-", None), ("1,5", None), ("nan", None), ("inf", None), ("٣", None),
        ("1_0", None), ("0x1", None), ("9" * 25, None),
    ],
)  # fmt: skip
def test_numbers_are_whole(text: str, value: int | None) -> None:
    assert near.number(text) == value


def test_missing_mixed_constant_and_repeated_cells() -> None:
    rows = [
        f"{i},{i * 7 % 100},x,{i * 7 % 100},{'' if i % 4 else i},{'oops' if i == 5 else i}"
        for i in range(100)
    ]
    found, report = counts_of(("id,a,b,c,d,e\n" + "\n".join(rows)).encode())
    assert (found["rows"], found["cells"], found["columns"]) == (100, 600, 6)
    assert found["missing_cells"] == 75 and found["inconsistent_cells"] == 1
    assert found["constant_columns"] == 1 and found["repeated_columns"] == 1
    text = "\n".join(explain(report))
    assert "constant: column 3 'b'" in text and "column 5 'd'" in text and "column 6 'e'" in text
    assert "oops" not in text


def test_columns_that_give_the_label_away() -> None:
    rows = ROWS[:200]
    code = {"a": "10", "b": "20", "c": "30"}
    leaky = [[code[r[-1]], decimal(10_000 * int(code[r[-1]]) + i), *r] for i, r in enumerate(rows)]
    head = "code,score," + ",".join(f"f{chr(97 + j)}" for j in range(COLUMNS)) + ",y\n"
    data = (head + "\n".join(",".join(r) for r in leaky)).encode()
    found, report = counts_of(data, labels=("y",))
    assert found["leaking_columns"] == 2
    assert any(
        "alone determine the label: column 1 'code', column 2 'score'" in r.text for r in report.reasons
    )
    assert counts_of(table(rows), labels=("y",))[0]["leaking_columns"] == 0


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("ragged.csv", b"a,b\n1,2\n1\n1,2,3\n4,5\n", {"rows": 2, "bad_rows": 2}),
        ("quoted.csv", b'a,b\n"1,5","x\ny"\n2,"say ""hi"""\n', {"rows": 2, "bad_rows": 0}),
        ("open.csv", b'a,b\n1,"never closed\n2,3\n', {"rows": 1}),
        ("crlf.tsv", b"a\tb\r\n1\t2\r\n", {"rows": 1}),
        ("latin.csv", b"name,b\nJos\xe9,2\n", {"rows": 1, "odd_encodings": 1}),
        ("bom.csv", b"\xef\xbb\xbfa,b\n1,2\n", {"rows": 1, "odd_encodings": 0}),
        ("wide.csv", "a,b\n1,2\n".encode("utf-16"), {"rows": 1, "odd_encodings": 1}),
        ("nul.csv", b"a,b\n1\0,2\n", {"rows": 1, "nul_files": 1}),
        ("huge.csv", b"a,b\n" + b"9" * 300_000 + b",2\n", {"rows": 1}),
        (
            "many.csv",
            b",".join(b"c%d" % i for i in range(2_000)) + b"\n" + b"1," * 1_999 + b"1\n",
            {"columns": 512},
        ),
        ("bare.csv", b"1,2\n3,4\n", {"rows": 2}),
        ("empty.csv", b"", {"rows": 0, "files": 1}),
        ("t.jsonl", b'{"a":1}\nnot json\n[1]\n{"a":1e999}\n{"a":NaN}\n', {"rows": 3, "bad_rows": 2}),
        ("deep.jsonl", b'{"a":' + b"[" * 100_000 + b"\n", {"rows": 0, "bad_rows": 1}),
        ("digits.jsonl", b'{"a":' + b"9" * 10_000 + b"}\n", {"rows": 1}),
        ("t.parquet", b"PAR1" + bytes(50) + b"PAR1", {"tables": 0, "not_tables": 1}),
    ],
)
def test_odd_tables_are_told_not_raised(name: str, data: bytes, expected: dict[str, int]) -> None:
    found, report = counts_of(data, name)
    assert {k: found[k] for k in expected} == expected
    for key in ("odd_encodings", "nul_files", "not_tables"):
        if found[key]:
            assert any(r.subject == "readable" for r in report.reasons)


def test_a_table_larger_than_the_budget_is_thinned_by_content() -> None:
    c = Chance(11)
    rows = [f"{i},{c.below(1000)},{c.below(1000)}" for i in range(60_000)]
    data = ("id,a,b\n" + "\n".join(rows) + "\n").encode()
    found, report = counts_of(data)
    assert 1_000 < found["rows"] < 20_000 and found["bad_rows"] == 0 and found["duplicate_rows"] == 0
    assert 55_000 < found["useful_units"] * 2 < 140_000 and any(r.subject == "sample" for r in report.reasons)
    doubled, _ = counts_of(("id,a,b\n" + "\n".join(rows[:20_000] * 2) + "\n").encode())
    assert doubled["duplicate_rows"] * 2 == doubled["rows"]
    again = assess([file("t.csv", data)], "tabular", Options(), Earlier()).report
    assert again == report


def test_files_of_one_shape_are_one_table() -> None:
    parts = [file(f"{i}.csv", table(ROWS[i * 100 : i * 100 + 100])) for i in range(6)]
    report = assess(parts, "tabular", Options(("y",))).report
    assert dict(report.counts)["tables"] == 1 and dict(report.counts)["rows"] == 600
    assert report.scores == WHOLE.scores
