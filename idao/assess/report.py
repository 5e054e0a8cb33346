"""What an assessor is given and what it hands back. Whole numbers only: shares are basis points (bp)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from math import isqrt
from typing import Annotated

from idao.filled import each, filled
from idao.frozen import frozen
from idao.model import BasisPoints, Hash, Range, Size, Word

WHOLE = 10_000
"""All of something, in basis points."""
HEADLINE_STEP = 100
"""The published score is rounded down to whole per cents, so that it tells little (FORMATS.md)."""
LOW = 9_900
"""A sub-score below this is explained."""
REASONS_MAX = 64
"""A person reads a screen or two; counts hold the rest."""
CONTENTS_MAX = 65_536
"""Content ids kept per asset: one MiB. Of more, the smallest: a fair sample since ids are hashes."""
ROWS_KEPT_MAX = 8_192
"""Row hashes kept per asset: 64 KiB; the smallest, as above."""
SKETCHES_MAX = 1_024
"""Documents whose sketch is kept: 128 KiB."""
CONTENT_BYTES, ROW_BYTES, SKETCH_BYTES = 16, 8, 128
"""Kept of each hash: enough that chance does not collide among 2^32 files and 2^20 rows; 32 values of 4."""

WEIGHTS = {"labels": 3, "uniqueness": 2, "completeness": 2, "consistency": 2}
"""Shares of the sub-scores in the mean; 1 for those not named."""
LIMITING = ("integrity", "novelty")
"""Sub-scores that multiply the mean: damaged or resubmitted data is worth nothing whatever its form."""


@frozen
class AssessFile:
    """One file of an asset. `content` depends on the file's bytes alone, so that all reviewers draw the same
    sample; `read(offset, length)` gives the plain bytes, fewer only past the end."""

    path: bytes
    size: int
    content: bytes
    read: Callable[[int, int], bytes]


LOT = 1_024
"""Files looked at together where a sequence does not say how many it likes."""


Lot = tuple[Sequence[bytes], Sequence[int], Sequence[bytes]]
"""Paths, sizes and content ids of some files: what is asked of all. To look at them so, thing by thing, takes
a third of the time."""


def lots(files: Sequence[AssessFile]) -> Iterator[Lot]:
    """All files in order, in lots that are not empty: those of a sequence that has a method `lots`, else made
    of its files."""
    own = getattr(files, "lots", None)
    if own is not None:
        yield from own()
        return
    rest = iter(files)
    while some := list(islice(rest, LOT)):
        yield [f.path for f in some], [f.size for f in some], [f.content for f in some]


@frozen
class Options:
    """`labels`: columns that hold what is to be predicted."""

    labels: tuple[str, ...] = ()


@frozen
class Reason:
    """Why a sub-score is low, or what was not done, in plain words; never anything from inside the data."""

    subject: Word
    text: Annotated[str, Size(1, 400)]
    improve: Annotated[str, Size(0, 400)]


@frozen
class Coverage:
    """What was looked at. Sizes, content ids and exact duplicate files always cover everything."""

    files: int
    files_opened: int
    bytes: int
    bytes_read: int
    bytes_searched: int
    """Searched for personal data; secrets are searched for in all bytes read."""


@frozen
class Grid:
    """The cuts of one numeric column: signed 16-byte numbers in 10^-12 units, ascending."""

    column: Annotated[bytes, Size(ROW_BYTES)]
    cuts: Annotated[bytes, Size(0, 16 * 256)]


@frozen
class Slice:
    """Rows between two values of one column, as levels on a grid: finds the same rows with jitter added."""

    column: Annotated[bytes, Size(ROW_BYTES)]
    low: Annotated[bytes, Size(16)]
    high: Annotated[bytes, Size(16)]
    grids: Annotated[tuple[Grid, ...], Size(1, 64)]
    levels: Annotated[bytes, Size(0, 64 * 512)]
    """Row by row, one byte per grid."""
    reach: Annotated[bytes, Size(0, 2 * 512)]
    """Row by row, two bytes: the distance within which another row is nearer than chance."""


@frozen
class Fingerprint:
    """What later assets are compared with. It tells about contents: it stays in the home.

    `contents` and `rows` are ascending hashes, cut to the smallest when there are more.
    """

    v: Annotated[int, Range(1, 1)]
    assessor: Word
    contents: Annotated[bytes, Size(0, CONTENT_BYTES * CONTENTS_MAX)]
    contents_total: int
    rows: Annotated[bytes, Size(0, ROW_BYTES * ROWS_KEPT_MAX)]
    rows_total: int
    sketches: Annotated[tuple[Annotated[bytes, Size(0, SKETCH_BYTES)], ...], Size(0, SKETCHES_MAX)]
    slice: Slice | None


@frozen
class Report:
    """The score card. `scores`, `gates` and `counts` are ordered by name."""

    v: Annotated[int, Range(1, 1)]
    assessor: Word
    code: Hash
    mode: Word
    category: Word
    labels: Annotated[tuple[str, ...], Size(0, 64)]
    scores: tuple[tuple[Word, BasisPoints], ...]
    score: BasisPoints
    headline: BasisPoints
    merit: int
    """isqrt(useful units) x score / 100: what an economic model may start from. Copies do not raise it."""
    gates: tuple[tuple[Word, bool], ...]
    counts: tuple[tuple[Word, int], ...]
    reasons: Annotated[tuple[Reason, ...], Size(0, REASONS_MAX)]
    coverage: Coverage

    @property
    def passed(self) -> bool:
        return all(held for _, held in self.gates)


@frozen
class Assessment:
    report: Report
    fingerprint: Fingerprint


def share(part: int, whole: int) -> int:
    """bp of `whole`; all of it when there is nothing."""
    return WHOLE * min(part, whole) // whole if whole > 0 else WHOLE


@filled
class Card:
    """A score card being filled."""

    scores: dict[str, int] = each(factory=dict)
    gates: dict[str, bool] = each(factory=dict)
    counts: dict[str, int] = each(factory=dict)
    reasons: list[Reason] = each(factory=list)
    useful: int = 0
    """Units (rows, words, files) that add something."""
    bytes_searched: int = 0
    contents: bytes = b""
    contents_total: int = 0
    rows: bytes = b""
    rows_total: int = 0
    sketches: tuple[bytes, ...] = ()
    slice: Slice | None = None

    def score(self, name: str, bp: int, text: str, improve: str) -> None:
        """Sets a sub-score and, if it is low, says why and what would raise it."""
        self.scores[name] = max(0, min(WHOLE, bp))
        if bp < LOW:
            self.say(name, text, improve)

    def say(self, subject: str, text: str, improve: str = "") -> None:
        if len(self.reasons) < REASONS_MAX:
            self.reasons.append(Reason(subject, text, improve))

    def overall(self) -> int:
        """The weighted mean of the sub-scores times each limiting one, bp."""
        plain = [(n, bp) for n, bp in sorted(self.scores.items()) if n not in LIMITING]
        weight = sum(WEIGHTS.get(n, 1) for n, _ in plain)
        mean = sum(WEIGHTS.get(n, 1) * bp for n, bp in plain) // weight if weight else WHOLE
        for name in LIMITING:
            mean = mean * self.scores.get(name, WHOLE) // WHOLE
        return mean

    def merit(self) -> int:
        return isqrt(max(0, self.useful)) * self.overall() // 100


def smallest(hashes: Sequence[bytes], count: int) -> bytes:
    """The `count` smallest distinct hashes, ascending, joined."""
    return b"".join(sorted(set(hashes))[:count])


def explain(report: Report) -> list[str]:
    """The lines of `idao asset show --why`: verdict, sub-scores with reasons and ways to improve, counts."""
    failed = [name for name, held in report.gates if not held]
    verdict = "passed" if not failed else "not passed: " + ", ".join(failed)
    lines = [f"{report.assessor}: {percent(report.score)}, {verdict} (category {report.category})"]
    said: dict[str, list[Reason]] = {}
    for reason in report.reasons:
        said.setdefault(reason.subject, []).append(reason)
    for name, bp in report.scores:
        lines.append(f"  {name:<13} {percent(bp):>8}")
        lines += _told(said.pop(name, []))
    for reasons in said.values():
        lines += _told(reasons, "  ")
    lines.append("  found: " + ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in report.counts if n))
    c = report.coverage
    lines.append(
        f"  looked at: {c.bytes_read} of {c.bytes} bytes in {c.files_opened} of {c.files} files, "
        f"for personal data at {c.bytes_searched}; sizes and exact copies in all files"
    )
    return lines


def percent(bp: int) -> str:
    """'83.41 %' for 8341 bp."""
    return f"{bp // 100}.{bp % 100:02} %"


def _told(reasons: Sequence[Reason], indent: str = "      ") -> list[str]:
    lines = []
    for reason in reasons:
        lines.append(f"{indent}{reason.text}")
        if reason.improve:
            lines.append(f"{indent}to improve: {reason.improve}")
    return lines
