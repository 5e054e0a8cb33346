"""The judge of histories finds what is wrong with them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from histories import judge


def good() -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Two clients, each on its node: two writes and two reads each."""
    log = {
        "height": 4,
        "txs": {"a1": [1, 0, True], "b1": [2, 2, True], "a2": [3, 4, True], "b2": [4, 6, False]},
        "roots": {"1": "r1", "2": "r2", "3": "r3", "4": "r4"},
    }
    rows: dict[str, list[dict[str, Any]]] = {"a": [], "b": []}
    for began, (tx, (height, position, ok)) in enumerate(log["txs"].items()):  # type: ignore[attr-defined]
        result = "ok" if ok else "refused"
        number = int(tx[1])
        rows[tx[0]] += [
            {"do": "write", "result": result, "tx": tx, "number": number, "height": height,
             "position": position, "began": began, "ended": began + 0.5},
            {"do": "read", "result": "ok", "height": height, "root": f"r{height}",
             "number": number if ok else number - 1, "began": began + 0.6, "ended": began + 0.7},
        ]  # fmt: skip
    rows["a"].append({"do": "write", "result": "pending", "tx": "a3", "number": 3, "began": 9, "ended": 10})
    return rows, {"one": log, "two": copy.deepcopy(log)}


def test_a_good_history_passes() -> None:
    assert judge(*good()) == []


@pytest.mark.parametrize(
    "sin",
    ["lost", "moved", "forked", "refused", "reordered", "other root", "back in time", "own write unseen"],
)
def test_each_sin_is_found(sin: str) -> None:
    rows, logs = good()
    if sin == "lost":
        del logs["two"]["txs"]["a2"]
    elif sin == "moved":
        for log in logs.values():
            log["txs"]["a2"] = [3, 5, True]
    elif sin == "forked":
        logs["two"]["roots"]["2"] = "x"
    elif sin == "refused":
        rows["b"][2]["result"] = "ok"
    elif sin == "reordered":
        rows["a"][0]["ended"], rows["b"][0]["began"] = 0.5, 0.6
        for log in logs.values():
            log["txs"] |= {"a1": [2, 2, True], "b1": [1, 0, True]}
        rows["a"][0] |= {"height": 2, "position": 2}
        rows["b"][0] |= {"height": 1, "position": 0}
        rows["a"][1] |= {"height": 2, "root": "r2"}
    elif sin == "other root":
        rows["b"][1]["root"] = "r3"
    elif sin == "back in time":
        rows["b"][3] |= {"height": 2, "root": "r2"}
    elif sin == "own write unseen":
        rows["a"][3]["number"] = 1
    assert judge(rows, logs), sin


def test_writes_at_the_same_time_may_stand_in_any_order() -> None:
    rows, logs = good()
    rows["a"][0]["ended"] = 1.2  # the first is still under way when the second begins
    for log in logs.values():
        log["txs"] |= {"a1": [2, 2, True], "b1": [1, 0, True]}
    rows["a"][0] |= {"height": 2, "position": 2}
    rows["b"][0] |= {"height": 1, "position": 0}
    rows["a"][1] |= {"height": 2, "root": "r2", "began": 1.3}
    assert judge(rows, logs) == []
