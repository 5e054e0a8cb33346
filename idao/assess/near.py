"""Distances between rows in whole numbers: near duplicates and label agreement.

A number becomes its level on a grid of the column's own quantiles, a level becomes that many set bits, and
the rows' bits are joined. So the bits in which two rows differ count their L1 distance in quantiles, exactly
and fast, whatever the columns' units.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from math import isqrt

from idao.assess.report import WHOLE, share
from idao.frozen import frozen

ROWS_MAX = 320
"""Rows compared pair by pair: some 30 ms."""
BITS = 1_024
"""Bits of one row: distances of 128 bytes cost little more than of one."""
LEVELS_MAX, LEVELS_MIN = 256, 8
COLUMNS_MAX = 64
"""Columns compared; with `LEVELS_MIN` and more levels each they fit `BITS` about."""
CATEGORIES_MAX = 16
"""Values of a text column that is compared: each takes its own bits."""
NEIGHBOURS = 10
"""K of the label check: the usual choice; more blurs small classes."""
SCALES = ((4, 1), (16, 2))
"""(k, log4 k): the neighbours from whose distances the density is told, see `_radii`. A larger k would take
small classes for groups of copies."""
CROWDS = ((1, 3), (0, 6))
"""(e, m): m rows where 1/4^e is expected, which is so by chance (Poisson) for 0.2 and 0.06 % of rows."""
CHANCE, WIDE_CHANCE = 600, 1_500
"""bp of honest rows taken for near copies within the `near` and the `wide` radius: 0 to 5 and 2 to 15 in 100
in data of 2 to 30 columns."""
_ROW_BITS = 16
_TENS: tuple[int, ...] = tuple(10**i for i in range(13))
_DECIMAL = re.compile(r"([+-]?)(\d{1,24})?(?:\.(\d{0,40}))?(?:[eE]([+-]?\d{1,2}))?", re.ASCII)

Number = int
"""A value in units of 10^-12, below 2^127 in size."""


def number(text: str) -> Number | None:
    """The decimal number in `text`, or None if it is none or too large to compare."""
    whole, _, part = text.partition(".")
    digits = whole + part
    if digits.isdigit() and digits.isascii() and len(digits) < 25 and len(part) <= 12:
        # Most cells; the rest of the function gives the same.
        return int(digits) * _TENS[12 - len(part)]
    m = _DECIMAL.fullmatch(text)
    if m is None or (m[2] is None and not m[3]):
        return None
    whole, part, exponent = m[2] or "", m[3] or "", int(m[4] or 0)
    shift = 12 + exponent - len(part)
    units = int(whole + part or "0")
    value: int = units * 10**shift if shift >= 0 else units // 10**-shift
    if value >= 1 << 126:
        return None
    return -value if m[1] == "-" else value


def cuts(values: Sequence[Number], levels: int) -> tuple[Number, ...]:
    """At most `levels - 1` ascending cuts at even quantiles; none for a constant column."""
    ranked = sorted(values)
    n = len(ranked)
    if not n:
        return ()
    found = [ranked[i * n // levels] for i in range(1, levels)]
    return tuple(c for i, c in enumerate(found) if c > ranked[0] and (i == 0 or c != found[i - 1]))


def levels_for(columns: int) -> int:
    return max(LEVELS_MIN, min(LEVELS_MAX, BITS // max(1, columns)))


def level(grid: Sequence[Number], value: Number | None) -> int:
    """0 … len(grid); the middle for a missing value."""
    return len(grid) // 2 if value is None else bisect_right(grid, value)


Bits = tuple[Sequence[int], int]
"""The bits of each value of one column, and how many bits the column takes."""


def ordered(cuts_count: int) -> Bits:
    """Level n is n set bits, so that two levels differ in as many bits as there are cuts between them."""
    return [(1 << lv) - 1 for lv in range(cuts_count + 1)], cuts_count


def unordered(values: int, levels: int) -> Bits:
    """Any two of `values` categories differ by half of a numeric column of `levels`."""
    width = max(1, levels // 4)
    return [((1 << width) - 1) << i * width for i in range(values)], width * values


def codes(rows: Sequence[Sequence[int]], columns: Sequence[Bits]) -> list[int]:
    """The bits of each row, given as levels or category numbers."""
    masks = []
    shift = 0
    for bits, width in columns:
        masks.append([b << shift for b in bits])
        shift += width
    return [sum(mask[lv] for mask, lv in zip(masks, row, strict=True)) for row in rows]


def distances(code: int, others: Sequence[int]) -> list[int]:
    return [(code ^ other).bit_count() for other in others]


def _radii(ranked: Sequence[int]) -> tuple[int, int, int]:
    """(reach, near, wide) of a row: distances within which other rows are too near; 0 if none is.

    `ranked` ascending, the row's own 0 first. Where d(k) is the distance to the k-th neighbour, the number of
    neighbours within r grows like r^D, so (d(k)/d(4k))^D = 1/4 whatever the dimension D. So one expects
    1/4^e neighbours at d(k)·(d(k)/d(4k))^(log4 k + e). Copies with jitter are more, in groups of up to k.
    """
    reach, near, wide = 0, 0, 0
    for k, log in SCALES:
        # Less than a fifth beyond 4k is the rim of the sample, not its density.
        if 5 * k > len(ranked):
            break
        inner, outer = ranked[k], ranked[4 * k]
        if not outer:
            continue
        empty, rare, usual = (inner ** (log + e + 1) // outer ** (log + e) for e in (2, 1, 0))
        reach, wide = max(reach, empty), max(wide, rare)
        if k > CROWDS[0][1] and ranked[CROWDS[0][1]] <= rare:
            near = max(near, rare)
        if k > CROWDS[1][1] and ranked[CROWDS[1][1]] <= usual:
            near = max(near, usual)
    return reach, max(near, reach), max(near, wide)


@frozen
class Neighbours:
    """`copies`: bp of rows that are near copies of others. `leaders`: rows that are not. `reach`: of every
    row, the distance within which another is nearer than chance. `suspects`: rows whose neighbours mostly
    have another label; `agreeing`: rows with their neighbours' label; `kappa`: that beyond chance, bp."""

    copies: int
    leaders: tuple[int, ...]
    reach: tuple[int, ...]
    judged: int
    agreeing: int
    suspects: tuple[int, ...]
    kappa: int


def compare(rows: Sequence[int], labels: Sequence[str] | None) -> Neighbours:
    """Near duplicates among the codes `rows`, and if there are `labels` their leave-one-out agreement."""
    leaders: list[int] = []
    wider: list[int] = []
    reaches: list[int] = []
    table: list[list[int]] = []
    for i, code in enumerate(rows):
        ds = distances(code, rows)
        reach, near, wide = _radii(sorted(ds))
        reaches.append(reach)
        if not (wide and any(ds[j] <= wide for j in wider)):
            wider.append(i)
        if not (near and any(ds[j] <= near for j in leaders)):
            leaders.append(i)
            table.append(ds)
    n = len(rows)
    copies = max(beyond_chance(n - len(leaders), n, CHANCE), beyond_chance(n - len(wider), n, WIDE_CHANCE))
    if labels is None or len(leaders) <= 2 * NEIGHBOURS:
        return Neighbours(copies, tuple(leaders), tuple(reaches), 0, 0, (), 0)
    suspects = []
    pairs: dict[tuple[str, str], int] = {}
    for i, ds in zip(leaders, table, strict=True):
        guess, own, most = _vote(i, ds, leaders, labels)
        key = (labels[i], guess)
        pairs[key] = pairs.get(key, 0) + 1
        if own * 2 < most:
            suspects.append(i)
    agreeing = sum(n for (a, b), n in pairs.items() if a == b)
    kappa = _kappa(pairs, len(leaders))
    return Neighbours(copies, tuple(leaders), tuple(reaches), len(leaders), agreeing, tuple(suspects), kappa)


def _vote(i: int, ds: Sequence[int], leaders: Sequence[int], labels: Sequence[str]) -> tuple[str, int, int]:
    """(the neighbours' label, votes for the row's own, votes for the most frequent)."""
    # Distance and row in one number: ties go to the smaller row, and whole numbers sort fast.
    near = sorted([ds[j] << _ROW_BITS | j for j in leaders])[: NEIGHBOURS + 1]
    votes: dict[str, int] = {}
    for j in [n & (1 << _ROW_BITS) - 1 for n in near]:
        if j != i:
            votes[labels[j]] = votes.get(labels[j], 0) + 1
    # Ties go to the label met first, which is the nearest.
    guess = max(votes, key=lambda name: votes[name])
    return guess, votes.get(labels[i], 0), votes[guess]


def beyond_chance(count: int, rows: int, chance: int) -> int:
    """bp of `rows` beyond the `chance` (bp) share that honest rows have too."""
    return max(0, (share(count, rows) - chance) * WHOLE // (WHOLE - chance)) if rows else 0


def _kappa(pairs: dict[tuple[str, str], int], n: int) -> int:
    """Cohen's kappa in bp, 0 when not surely above chance: noise and a single class get nothing."""
    real: dict[str, int] = {}
    guessed: dict[str, int] = {}
    for (a, b), count in pairs.items():
        real[a] = real.get(a, 0) + count
        guessed[b] = guessed.get(b, 0) + count
    agree = sum(count for (a, b), count in pairs.items() if a == b) * n
    chance = sum(count * guessed.get(name, 0) for name, count in real.items())
    kappa = WHOLE * (agree - chance) // (n * n - chance) if n * n > chance else 0
    # Three standard errors of pure chance: what lies within tells nothing.
    return kappa if kappa * isqrt(n) > 3 * WHOLE else 0
