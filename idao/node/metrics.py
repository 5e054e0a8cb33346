"""The node's numbers as OpenMetrics text, for Prometheus and its kin. Pure: figures in, text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def text(quorums: Sequence[Mapping[str, Any]]) -> str:
    """One family a number; labels are ids, so no name leaks into a monitoring system."""
    lines: list[str] = []
    for name, (kind, told) in OF_QUORUM.items():
        rows = [({"quorum": q["quorum"]}, q[name]) for q in quorums]
        lines += _family(f"idao_{name}", kind, told, rows)
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
