"""Comparison with earlier assets by their fingerprints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from idao.assess.report import CONTENT_BYTES, ROW_BYTES, WHOLE, Fingerprint, Slice, share


class Earlier:
    """The fingerprints of the assets to compare with, in any order.

    Leave out the asset's own earlier versions and its declared parents: to grow from them is no fault.
    """

    def __init__(self, fingerprints: Iterable[Fingerprint] = ()) -> None:
        self.fingerprints: Sequence[Fingerprint] = tuple(fingerprints)
        self._contents = [
            _Known(f.contents, CONTENT_BYTES, f.contents_total) for f in self.fingerprints if f.contents
        ]
        self._rows = [_Known(f.rows, ROW_BYTES, f.rows_total) for f in self.fingerprints if f.rows]

    def contents_seen(self, contents: Sequence[bytes]) -> int:
        """bp of these content ids that earlier assets hold."""
        return _seen(self._contents, [c[:CONTENT_BYTES] for c in contents])

    def rows_seen(self, rows: Sequence[bytes]) -> int:
        """bp of these row hashes that earlier assets hold."""
        return _seen(self._rows, rows)

    def sketches(self) -> list[bytes]:
        """The sketches of all earlier documents, ascending."""
        return sorted({s for f in self.fingerprints for s in f.sketches})

    def slices(self) -> list[Slice]:
        return [f.slice for f in self.fingerprints if f.slice is not None]


class _Known:
    """A set of hashes, perhaps only the smallest of them, up to `limit`."""

    def __init__(self, joined: bytes, width: int, total: int) -> None:
        self.hashes = frozenset(joined[i : i + width] for i in range(0, len(joined), width))
        self.limit = joined[-width:] if total > len(self.hashes) else b"\xff" * (width + 1)


def _seen(known: Sequence[_Known], hashes: Sequence[bytes]) -> int:
    """The larger of: what all sets hold together, and what one cut set lets expect of the whole."""
    together = share(sum(any(h in k.hashes for k in known) for h in hashes), len(hashes)) if hashes else 0
    best = 0
    for k in known:
        comparable = [h for h in hashes if h <= k.limit]
        if comparable:
            best = max(best, share(sum(h in k.hashes for h in comparable), len(comparable)))
    return min(WHOLE, max(together, best))
