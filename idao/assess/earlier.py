"""Comparison with earlier assets by their fingerprints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from idao.assess.report import CONTENT_BYTES, ROW_BYTES, Fingerprint, Hashes, Slice, share

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

    def contents_seen(self, contents: Hashes) -> int:
        """bp of these content ids that earlier assets hold."""
        return self._contents.seen(contents)

    def rows_seen(self, rows: Sequence[bytes]) -> int:
        """bp of these row hashes that earlier assets hold."""
        return self._rows.seen(rows)

    def sketches(self) -> list[bytes]:
        """The sketches of earlier documents, ascending."""
        return sorted({s for f in self._all for s in f.sketches})[:SKETCHES_MAX]

    def slices(self) -> list[Slice]:
        return [f.slice for f in self._all if f.slice is not None]


class _Known:
    """The hashes of all earlier assets together, and apart those lists that were cut to the smallest."""

    def __init__(self, width: int, lists: Sequence[tuple[bytes, int]]) -> None:
        split = [[joined[i : i + width] for i in range(0, len(joined), width)] for joined, _ in lists]
        self._together = frozenset(h for hashes in split for h in hashes)
        self._cut = [
            (frozenset(hashes), hashes[-1])
            for hashes, (_, total) in zip(split, lists, strict=True)
            if hashes and total > len(hashes)
        ]

    def seen(self, hashes: Sequence[bytes]) -> int:
        """bp of `hashes`: what all lists hold together or, if more, what a cut list lets expect."""
        if not hashes:
            return 0
        best = share(sum(h in self._together for h in hashes), len(hashes)) if self._together else 0
        for known, limit in self._cut:
            if comparable := sum(h <= limit for h in hashes):
                best = max(best, share(sum(h in known for h in hashes if h <= limit), comparable))
        return best
