"""Comparison with earlier assets by their fingerprints."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from idao.assess.report import CONTENT_BYTES, ROW_BYTES, Fingerprint, Slice, share

SKETCHES_MAX = 16_384
"""Earlier documents compared with, the smallest sketches first: some 100 ms to look up."""


class Earlier:
    """The fingerprints of the assets to compare with, in any order.

    Leave out the asset's own earlier versions and its declared parents: to grow from them is no fault.
    """

    def __init__(self, fingerprints: Iterable[Fingerprint] = ()) -> None:
        self._all: Sequence[Fingerprint] = tuple(fingerprints)
        self._contents = _Known(CONTENT_BYTES, [(f.contents, f.contents_total) for f in self._all])
        self._rows = _Known(ROW_BYTES, [(f.rows, f.rows_total) for f in self._all])

    def contents(self) -> Tally:
        """To count content ids in that earlier assets hold."""
        return Tally(self._contents)

    def rows_seen(self, rows: Sequence[bytes]) -> int:
        """bp of these row hashes that earlier assets hold."""
        tally = Tally(self._rows)
        tally.add(rows)
        return tally.seen()

    def sketches(self) -> list[bytes]:
        """The sketches of earlier documents, ascending."""
        return sorted({s for f in self._all for s in f.sketches})[:SKETCHES_MAX]

    def slices(self) -> list[Slice]:
        return [f.slice for f in self._all if f.slice is not None]


class _Known:
    """The hashes of all earlier assets together, and apart those lists that were cut to the smallest."""

    def __init__(self, width: int, lists: Sequence[tuple[bytes, int]]) -> None:
        split = [[joined[i : i + width] for i in range(0, len(joined), width)] for joined, _ in lists]
        self.together = frozenset(h for hashes in split for h in hashes)
        self.cut = [
            (frozenset(hashes), hashes[-1])
            for hashes, (_, total) in zip(split, lists, strict=True)
            if hashes and total > len(hashes)
        ]


class Tally:
    """How many of an asset's hashes earlier assets hold; they come some at a time."""

    def __init__(self, known: _Known) -> None:
        self._known = known
        self._count = self._seen = 0
        self._cut = [(0, 0)] * len(known.cut)
        """Of each list that was cut: how many it holds, of how many that it would."""

    def add(self, hashes: Collection[bytes]) -> None:
        self._count += len(hashes)
        if self._known.together:
            self._seen += sum(h in self._known.together for h in hashes)
        for i, (known, limit) in enumerate(self._known.cut):
            comparable = [h for h in hashes if h <= limit]
            held, of = self._cut[i]
            self._cut[i] = held + sum(h in known for h in comparable), of + len(comparable)

    def seen(self) -> int:
        """bp of all: what all lists hold together or, if more, what a cut list lets expect."""
        if not self._count:
            return 0
        best = share(self._seen, self._count) if self._known.together else 0
        return max([best, *(share(held, of) for held, of in self._cut if of)])
