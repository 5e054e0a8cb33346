"""The rules R0 to R12, and peers' bugs, one machine at a time (`sim/cases.py`)."""

from __future__ import annotations

import pytest
from sim.cases import CASES

from idao.quorum.machine import Machine


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    CASES[name](Machine)
