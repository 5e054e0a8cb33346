"""The node's numbers as text for Prometheus and its kin. Pure: figures in, text out."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

OF_QUORUM = {
    "height": ("gauge", "Height of the newest final block."),
    "anchored_height": ("gauge", "Height of the newest anchor."),
    "view": ("gauge", "View of the height being decided."),
    "validators": ("gauge", "Validators that decide the next height."),
    "mempool_transactions": ("gauge", "Transactions that wait for a block."),
    "signing": ("gauge", "Whether this validator signs."),
    "block_age_seconds": ("gauge", "Time since the newest block, by its own clock."),
    "blocks": ("counter", "Blocks committed by this process."),
    "receipts": ("counter", "Receipts of those blocks."),
    "faults": ("counter", "Faults seen by this process."),
}
OF_LINK = {
    "up": ("gauge", "Whether the link to the peer works."),
    "rtt_seconds": ("gauge", "Round trip to the peer."),
    "skew_seconds": ("gauge", "The peer's clock minus ours."),
    "queue_bytes": ("gauge", "Bytes that wait for the peer."),
    "received_bytes": ("counter", "Bytes received on the current link."),
    "sent_bytes": ("counter", "Bytes sent on the current link."),
}


COMMIT = "idao_commit_seconds"
BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds, seconds: from what an idle quorum on a LAN needs to what a dead leader and more cost."""
WATCHED_MAX = 10_000
"""Transactions whose time is being taken: as many as wait in a pool. The oldest make room."""


class Latency:
    """How long transactions of this home took from its node to a final block here."""

    def __init__(self) -> None:
        self._since: OrderedDict[bytes, float] = OrderedDict()
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def begin(self, tx: bytes, now_s: float) -> None:
        """It was handed to the pool; only the first time counts."""
        self._since.setdefault(tx, now_s)
        if len(self._since) > WATCHED_MAX:
            self._since.popitem(last=False)

    def end(self, tx: bytes, now_s: float) -> None:
        """It is final. One that came from elsewhere is passed over."""
        began = self._since.pop(tx, None)
        if began is not None:
            self.counts[bisect_left(BUCKETS_S, now_s - began)] += 1
            self.sum_s += now_s - began

    def lines(self, name: str, labels: str) -> list[str]:
        """The samples of a histogram."""
        upto = list(accumulate(self.counts))
        bounds = [*(f"{b:g}" for b in BUCKETS_S), "+Inf"]
        rows = [f'{name}_bucket{{{labels},le="{b}"}} {n}' for b, n in zip(bounds, upto, strict=True)]
        return [*rows, f"{name}_sum{{{labels}}} {self.sum_s}", f"{name}_count{{{labels}}} {upto[-1]}"]


def text(quorums: Sequence[Mapping[str, Any]]) -> str:
    """One family a number; labels are ids, so no name leaks into a monitoring system."""
    lines: list[str] = []
    for name, (kind, told) in OF_QUORUM.items():
        rows = [({"quorum": q["quorum"]}, q[name]) for q in quorums]
        lines += _family(f"idao_{name}", kind, told, rows)
    lines += [f"# HELP {COMMIT} Time from this node to a final block.", f"# TYPE {COMMIT} histogram"]
    for q in quorums:
        lines += q["latency"].lines(COMMIT, f'quorum="{q["quorum"]}"')
    for name, (kind, told) in OF_LINK.items():
        rows = [
            ({"quorum": q["quorum"], "peer": link["peer"]}, link[name])
            for q in quorums
            for link in q["links"]
        ]
        lines += _family(f"idao_peer_{name}", kind, told, rows)
    return "\n".join([*lines, "# EOF"]) + "\n"


def _family(name: str, kind: str, told: str, rows: Sequence[tuple[dict[str, str], Any]]) -> list[str]:
    total = "_total" if kind == "counter" else ""
    lines = [f"# HELP {name}{total} {told}", f"# TYPE {name}{total} {kind}"]
    for labels, value in rows:
        inside = ",".join(f'{k}="{v}"' for k, v in labels.items())
        lines.append(f"{name}{total}{{{inside}}} {value}")
    return lines
