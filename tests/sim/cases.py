"""Each rule and each bug of a peer that concerns the machine, as a case on the bench.

A case takes the machine class, so that the mutation check can hand in a broken one. Numbers in names
(`peer_09_...`) are those of the table in ADR 0032.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

CASES: dict[str, Callable[[Any], None]] = {}


def case(fn: Callable[[Any], None]) -> Callable[[Any], None]:
    CASES[fn.__name__] = fn
    return fn


from . import cases_of_messages, cases_of_rules, cases_of_telling  # noqa: E402, F401  (they fill the table)
