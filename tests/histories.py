"""Judges what clients saw: nothing acknowledged lost or reordered, reads of one height alike, no time travel.

Rows are those of `client.py`, by client; logs are what each ledger holds in the end, by node. Each home has
one client, which reads the ledger of its own node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Rows = Mapping[str, Sequence[Row]]


def judge(rows: Rows, logs: Mapping[str, Row]) -> list[str]:
    """Everything that must not be, in words; empty for a good history."""
    return [
        *_forks(logs),
        *_lost(rows, logs),
        *_reordered(rows),
        *_reads(rows, logs),
        *(wrong for client, mine in rows.items() for wrong in _one_client(client, mine)),
    ]


def acknowledged(rows: Rows) -> list[Row]:
    """Writes that were told to be final, whatever their receipt said; in the order in which they began."""
    final = [r for mine in rows.values() for r in mine if r["do"] == "write" and "position" in r]
    return sorted(final, key=lambda r: float(r["began"]))


def _forks(logs: Mapping[str, Row]) -> list[str]:
    """Two ledgers that part within what both have."""
    (first, a), *others = logs.items()
    out = []
    for name, b in others:
        common = min(a["height"], b["height"])
        parts = [h for h in range(1, common + 1) if a["roots"][str(h)] != b["roots"][str(h)]]
        out += [f"{first} and {name} part at height {parts[0]}"] if parts else []
        mine, other = ({t: v for t, v in log["txs"].items() if v[0] <= common} for log in (a, b))
        out += [f"{first} and {name} hold different transactions"] if mine != other else []
    return out


def _lost(rows: Rows, logs: Mapping[str, Row]) -> list[str]:
    """Acknowledged, and not where it was said to be on every ledger. What was refused is there as refused."""
    return [
        f"{r['tx']} was final at {[r['height'], r['position']]}; on {name}: {log['txs'].get(r['tx'])}"
        for r in acknowledged(rows)
        for name, log in logs.items()
        if log["txs"].get(r["tx"]) != [r["height"], r["position"], r["result"] == "ok"]
    ]


def _reordered(rows: Rows) -> list[str]:
    """A write that began when another was final already stands behind it, whoever wrote them."""
    out = []
    writes = acknowledged(rows)
    ended = sorted(writes, key=lambda r: float(r["ended"]))
    done, last = 0, None
    for r in writes:
        while ended[done]["ended"] < r["began"]:
            if last is None or ended[done]["position"] > last["position"]:
                last = ended[done]
            done += 1
        if last is not None and r["position"] <= last["position"]:
            out.append(f"{r['tx']} began after {last['tx']} was final, and stands before it")
    return out


def _reads(rows: Rows, logs: Mapping[str, Row]) -> list[str]:
    """Reads of one height agree with each other and with what all ledgers say of that height."""
    out = []
    for client, mine in rows.items():
        for r in mine:
            if r["do"] != "read" or r["result"] != "ok" or not r["height"]:
                continue
            for name, log in logs.items():
                known = log["roots"].get(str(r["height"]))
                if known not in (None, r["root"]):
                    out.append(f"{client} read another state of height {r['height']} than {name} holds")
    return out


def _one_client(client: str, rows: Sequence[Row]) -> list[str]:
    """Its own node never goes back, and shows what was acknowledged to it."""
    out, height, number = [], 0, 0
    for r in rows:
        if r["do"] == "write" and "position" in r:
            height = max(height, r["height"])
            number = r["number"] if r["result"] == "ok" else number
        elif r["do"] == "read" and r["result"] == "ok":
            if r["height"] < height:
                out.append(f"{client} read height {r['height']} after {height}")
            if r["number"] < number:
                out.append(f"{client} read write {r['number']} after {number} was final")
            height, number = r["height"], max(number, r["number"])
    return out
