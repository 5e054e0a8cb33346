"""The assessors' frame: frozen report bytes, purity, any order, any bytes, the code hash, the category."""

from __future__ import annotations

import json
import tracemalloc
import zipfile
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from subprocess import run
from sys import executable
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import idao.assess
from idao.assess import (
    AssessFile,
    Earlier,
    Options,
    assess,
    assessor_for,
    code_hash,
    detect_category,
    explain,
)
from idao.assess.registry import ASSESSORS, CATEGORIES, SOURCES
from idao.assess.report import CONTENT_BYTES, Fingerprint, Report
from idao.crypto import canonical
from idao.errors import UsageError

VECTORS = Path(__file__).parent / "vectors" / "assess.json"
PACKAGE = Path(idao.assess.__file__).parent


def file(path: str, data: bytes) -> AssessFile:
    return AssessFile(path.encode(), len(data), blake3(data).digest(), lambda at, n: data[at : at + n])


def chance(seed: int, count: int) -> list[int]:
    """Numbers below 2^32, the same on every Python."""
    words = blake3(seed.to_bytes(8, "big")).digest(length=4 * count)
    return [int.from_bytes(words[i : i + 4], "big") for i in range(0, len(words), 4)]


def vector_cases() -> dict[str, tuple[list[AssessFile], str, Options]]:
    numbers = chance(1, 900)
    rows = [f"{n % 977}.{m % 10},{m % 131},{'ab'[n % 977 > 480]}" for n, m in pairwise(numbers)]
    table = "size,age,label\n" + "\n".join([*rows[:300], *rows[:30], "1,,a", "x,3,b"]) + "\n"
    words = ["data", "is", "kept", "by", "those", "who", "made", "it", "and", "shared", "when", "asked", "."]
    text = " ".join(words[n % 13] for n in numbers)
    return {
        "empty": ([], "generic", Options()),
        "files": ([file("a", b"1" * 50), file("b", b"1" * 50), file("c.png", b"no")], "other", Options()),
        "table": ([file("t.csv", table.encode())], "tabular", Options(("label",))),
        "lines": ([file("t.jsonl", b'{"a": 1.5, "b": null}\n{"a": 2}\n[]\n')], "tabular", Options()),
        "texts": ([file("a.txt", text.encode()), file("b.txt", (text + " end").encode())], "text", Options()),
    }  # fmt: skip


def frozen(report: Report) -> str:
    """All of a report but the code hash, which changes with every edit."""
    return canonical.pack(replace(report, code=bytes(32))).hex()


def test_reports_are_frozen() -> None:
    expected = json.loads(VECTORS.read_text())
    for name, (files, category, options) in vector_cases().items():
        made = assess(files, category, options)
        assert frozen(made.report) == expected[name]["report"], name
        assert canonical.pack(made.fingerprint).hex() == expected[name]["fingerprint"], name


def walk(value: object) -> list[type]:
    if is_dataclass(value):
        return [t for f in fields(value) for t in walk(getattr(value, f.name))]
    if isinstance(value, tuple):
        return [t for item in value for t in walk(item)]
    return [type(value)]


some_files = st.lists(
    st.tuples(
        st.sampled_from(["a.csv", "b.tsv", "c.jsonl", "d.txt", "e", "f.png", "g.pdf", ".env", "h.csv"]),
        st.one_of(
            st.binary(max_size=300),
            st.text(alphabet='ab1,2.\n"\t;|é☃\0\ud800{}[]:-@+eE', max_size=200).map(
                lambda t: t.encode("utf-8", "surrogatepass")
            ),
            st.text(alphabet="1a,\n", max_size=200).map(lambda t: t.encode("utf-16")),
        ),
    ),
    max_size=5,
)  # fmt: skip


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(some_files, st.sampled_from(["tabular", "text", "generic"]), st.randoms(use_true_random=False))
def test_any_bytes_give_whole_numbers_in_any_order(found, category, random) -> None:
    files = [file(f"{i}/{name}", data) for i, (name, data) in enumerate(found)]
    made = assess(files, category, Options(("a", "1")))
    kinds = walk(made.report) + walk(made.fingerprint)
    assert all(k in (int, bool, str, bytes, type(None)) for k in kinds)
    assert canonical.unpack(Report, canonical.pack(made.report)) == made.report
    assert canonical.unpack(Fingerprint, canonical.pack(made.fingerprint)) == made.fingerprint
    assert made.report.headline % 100 == 0 and 0 <= made.report.headline <= made.report.score <= 10_000
    assert all(0 <= bp <= 10_000 for _, bp in made.report.scores)
    assert all(isinstance(line, str) for line in explain(made.report))
    shuffled = list(files)
    random.shuffle(shuffled)
    assert assess(shuffled, category, Options(("a", "1"))) == made
    detect_category(files)
    again = assess(files, category, Options(("a", "1")), Earlier([made.fingerprint]))
    if any(data for _, data in found):
        assert dict(again.report.scores)["novelty"] == 0 and again.report.score == 0


def test_the_same_under_every_hash_seed() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_assess_report as t;"
        "print([t.frozen(t.assess(*c).report) for c in t.vector_cases().values()])"
    )
    out = {
        run(
            [executable, "-c", code, str(Path(__file__).parent)],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(PACKAGE.parent.parent)},
            capture_output=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(out) == 1


def test_large_assets_are_sampled_by_content_within_the_budget() -> None:
    read: list[int] = []

    def big(i: int) -> AssessFile:
        def get(at: int, n: int) -> bytes:
            read.append(n)
            return bytes(n)

        return AssessFile(f"{i}.bin".encode(), 1 << 30, blake3(i.to_bytes(4, "big")).digest(), get)

    files = [big(i) for i in range(300)]
    first = assess(files, "generic")
    assert sum(read) == first.report.coverage.bytes_read <= 2 * 1024 * 1024
    assert first.report.coverage.bytes == 300 << 30
    assert any(r.subject == "sample" for r in first.report.reasons)
    copies = [replace(f, path=b"copy" + f.path) for f in files]
    both = dict(assess(files + copies, "generic").report.counts)
    assert both["duplicate_files"] == 300


def seen_in(known: Fingerprint, files: list[AssessFile]) -> int:
    """bp of their contents that are in an earlier asset; told some at a time."""
    tally = Earlier([known]).contents()
    for at in range(0, len(files), 150):
        tally.add([f.content[:CONTENT_BYTES] for f in files[at : at + 150]])
    return tally.seen()


def test_memory_does_not_grow_with_files_that_are_made_when_looked_at() -> None:
    """Of a million files an object each is more than all else that is known of them."""

    class Made(Sequence[AssessFile]):
        def __len__(self) -> int:
            return 20_000

        def __getitem__(self, i: Any) -> Any:
            if not 0 <= i < len(self):
                raise IndexError(i)
            return AssessFile(b"%d.txt" % i, 9, blake3(i.to_bytes(4, "big")).digest(), lambda at, n: b"x" * n)

    made = Made()
    assess([made[0]], detect_category([made[0]]))  # what is loaded stays
    tracemalloc.start()
    try:
        category = detect_category(made)
        done = assess(made, category)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert dict(done.report.counts)["files"] == done.fingerprint.contents_total == 20_000
    assert peak < 20_000 * 150, peak


def test_files_in_lots_and_in_any_order_are_the_same_asset() -> None:
    """Equal contents, some of another size, empty files, key files: what is told by all files together."""

    class Lots(list[AssessFile]):
        size = 0

        def lots(self) -> Any:
            for at in range(0, len(self), self.size):
                some = self[at : at + self.size]
                yield [f.path for f in some], [f.size for f in some], [f.content for f in some]

    names = ("{}.csv", "b/{}.CSV", "{}", "k{}/id_rsa", "{}.KEY", "{}.tar.gz", "x.y/{}")
    files = [file(names[i % 7].format(i), b"%d" % (i % 500) * (i % 5)) for i in range(1500)]
    files[7] = replace(files[7], size=9)
    alike = [bytes(31) + b"%c" % i for i in range(3)]
    files += [replace(file(f"z{i}", b"z"), content=content) for i, content in enumerate(alike)]
    expected, category = assess(files, "generic"), detect_category(files)
    counts = dict(expected.report.counts)
    assert counts["files"] == 1503 and counts["empty_files"] == 300 and counts["suspicious_names"] == 64
    assert counts["duplicate_files"] == 1200 - 400 and expected.fingerprint.contents_total == 401
    for order in (files, files[::-1], sorted(files, key=lambda f: f.path)):
        assert assess(order, "generic") == expected and detect_category(order) == category
        in_lots = Lots(order)
        for in_lots.size in (100, 1502, 1503, 5000):
            assert assess(in_lots, "generic") == expected and detect_category(in_lots) == category


def test_a_cut_list_of_earlier_hashes_tells_of_the_whole() -> None:
    files = [file(str(i), b"%d" % i) for i in range(400)]
    known = assess(files, "generic").fingerprint
    cut = replace(known, contents=known.contents[: 16 * 100])
    for part, seen in ((files, 10_000), (files[:200], 10_000), ([], 0)):
        assert seen_in(cut, part) == seen
    mixed = files + [file("", b"new %d" % i) for i in range(400)]
    assert 4_000 < seen_in(cut, mixed) < 6_000
    assert seen_in(known, mixed) == 5_000


def test_missing_bytes_fail_the_gate() -> None:
    cut = replace(file("a.txt", b"x" * 100), read=lambda at, n: b"x" * min(n, 10))
    report = assess([cut], "text").report
    assert not report.passed and dict(report.gates)["intact"] is False and report.score == 0
    wrong = replace(file("b", b"x" * 100), size=99)
    assert not assess([file("a", b"x" * 100), wrong], "generic").report.passed


def test_every_module_is_in_the_code_hash_also_from_a_zip(tmp_path: Path) -> None:
    assert sorted(SOURCES) == sorted(p.stem for p in PACKAGE.glob("*.py"))
    assert set(CATEGORIES.values()) <= set(ASSESSORS)
    archive = tmp_path / "lib.zip"
    with zipfile.ZipFile(archive, "w") as z:
        for path in sorted((PACKAGE.parent).glob("*.py")) + sorted(PACKAGE.parent.glob("*/*.py")):
            # Other line ends, as a checkout may have them, are the same code.
            z.writestr(
                str(path.relative_to(PACKAGE.parent.parent)), path.read_bytes().replace(b"\n", b"\r\n")
            )
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "import idao.assess as a; print(a.__file__, a.code_hash().hex())"
    )
    out = run(
        [executable, "-c", code, str(archive)], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.split()  # fmt: skip
    assert "lib.zip" in out[0] and out[1] == code_hash().hex()


def test_sources_hold_no_float_clock_or_chance() -> None:
    for path in PACKAGE.glob("*.py"):
        source = path.read_text()
        for word in (
            "import random",
            "import time",
            "import os",
            "import secrets",
            "float(",
            "numpy",
            "open(",
        ):
            assert word not in source.replace("startswith(", ""), (path.name, word)


def test_unknown_categories_are_judged_as_files() -> None:
    assert assessor_for("seismic") == "generic@1"
    assert assess([file("a", b"x")], "seismic").report.category == "seismic"
    with pytest.raises(UsageError):
        assess([replace(file("a", b"x"), content=b"short")], "generic")


@pytest.mark.parametrize(
    ("files", "category"),
    [
        ([], "generic"),
        ([("a.csv", b"a,b\n1,2\n" * 50), ("README.md", b"hello")], "tabular"),
        ([("a.md", b"hello " * 50), ("b.csv", b"a,b")], "text"),
        ([("x", b"\x89PNG\r\n\x1a\n" + bytes(99))], "image"),
        ([("scan.bin", bytes(128) + b"DICM" + bytes(99))], "medical"),
        ([("rows", b"a;b;c\n1;2;3\n4;5;6\n")], "tabular"),
        ([("chat.jsonl", b'{"text": "' + b"long words " * 60 + b'"}\n')], "text"),
        ([("rows.jsonl", b'{"a": 1, "b": 2}\n')], "tabular"),
        ([("a.py", b"x = 1\n")], "code"),
        ([("noise", bytes(range(256)))], "generic"),
        ([("a.csv", b"1" * 50), ("b.png", b"2" * 50)], "generic"),
    ],
)
def test_detect_category(files: list[tuple[str, bytes]], category: str) -> None:
    assert detect_category([file(n, d) for n, d in files]) == category


def test_files_that_are_not_what_they_say_are_counted() -> None:
    png = b"\x89PNG\r\n\x1a\n" + bytes(200) + b"IEND\xaeB`\x82"
    good = dict(assess([file("a.png", png)], "image").report.counts)
    bad = assess([file("a.png", png[:-20]), file("b.jpg", b"text")], "image").report
    assert good["damaged_files"] == 0 and dict(bad.counts)["damaged_files"] == 2
    assert dict(bad.scores)["integrity"] == 0 and bad.passed


if __name__ == "__main__":
    found = {}
    for name, case in vector_cases().items():
        made = assess(*case)
        found[name] = {
            "report": frozen(made.report),
            "fingerprint": canonical.pack(made.fingerprint).hex(),
        }
    VECTORS.write_text(json.dumps(found, indent=1) + "\n")
