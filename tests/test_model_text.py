"""The TLA+ text of one height: says what the machine does, and its invariant is inductive."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import pytest
from sim import model
from sim.model import BITS, FX, FY, NULL, NX, NY
from sim.tla import Model

TEXT = (Path(__file__).parent.parent / "docs/models/Height.tla").read_text()
N_OF = {0: "None", NX: "x", NY: "y"}
T_OF = {0: "None", NULL: "Null", FX: "x", FY: "y"}


def height(views: int, text: str = TEXT) -> Model:
    return Model(
        text, Correct=(0, 1, 2), Liars=(3,), Views=tuple(range(views)), Values=frozenset("xy"),
        **{"None": "None", "Null": "Null"},
    )  # fmt: skip


def shown(state: model.State, views: int) -> dict[str, Any]:
    """The variables of the text for a state of `tests/sim/model.py`."""
    facts = [[node >> (BITS * v) & 31 for v in range(views)] for node in state]
    return {
        "notarized": {p: {v: N_OF[f & (NX | NY)] for v, f in enumerate(fs)} for p, fs in enumerate(facts)},
        "ended": {p: {v: T_OF[f & (NULL | FX | FY)] for v, f in enumerate(fs)} for p, fs in enumerate(facts)},
    }  # fmt: skip


def steps_of_text(m: Model, state: model.State, views: int) -> set[tuple[int, int]]:
    """(validator, fact) of each step that the text allows; each must change what its name says, alone."""
    now = shown(state, views)
    m.set(**now)
    out = set()
    for p in range(3):
        for v in range(views):
            for name, args, variable, fact in (
                ("Notarize", (p, v, "x"), "notarized", NX),
                ("Notarize", (p, v, "y"), "notarized", NY),
                ("Nullify", (p, v), "ended", NULL),
                ("Finalize", (p, v, "x"), "ended", FX),
                ("Finalize", (p, v, "y"), "ended", FY),
            ):
                changes = m.act(name, *args)
                if changes is None:
                    continue
                after = list(state)
                after[p] |= fact << (BITS * v)
                assert changes == {variable: shown(tuple(after), views)[variable]}
                out.add((p, fact << (BITS * v)))
    return out


def steps_of_code(state: model.State, views: int) -> set[tuple[int, int]]:
    certificates = model.certified(state)
    return {(p, f) for p, node in enumerate(state) for f in model.votes(node, certificates, views, "")}


def wandering(views: int, count: int, seed: int) -> Iterator[model.State]:
    """States on random ways from the start, most of them far from it."""
    rng = random.Random(seed)
    while count:
        state: model.State = (0, 0, 0)
        while after := list(model.following(state, views, "")):
            state = rng.choice(after)
            count -= 1
            yield state
            if not count:
                return


def any_node(views: int) -> Iterator[int]:
    """Every content of a validator's slots."""
    of_view = [n | t for n in N_OF for t in T_OF]
    for facts in combinations_of(of_view, views):
        yield sum(f << (BITS * v) for v, f in enumerate(facts))


def combinations_of(values: list[int], count: int) -> Iterator[tuple[int, ...]]:
    if not count:
        yield ()
        return
    for rest in combinations_of(values, count - 1):
        for value in values:
            yield (*rest, value)


@pytest.mark.parametrize("views, count", [(1, 60), (2, 300), (3, 150)])
def test_the_text_allows_what_the_code_allows(views: int, count: int) -> None:
    m = height(views)
    nodes = list(any_node(views)) if views < 3 else []
    rng = random.Random(views)
    random_states = [tuple(sorted(rng.choices(nodes, k=3))) for _ in range(count if nodes else 0)]
    for state in [(0, 0, 0), *wandering(views, count, views), *random_states]:
        assert steps_of_text(m, state, views) == steps_of_code(state, views), state
        assert m.holds("Safety") == (not model.forked(model.certified(state))), state
        assert m.holds("TypeOK")


def test_the_text_starts_where_the_code_starts() -> None:
    m = height(2)
    assert m.start() == shown((0, 0, 0), 2)
    assert m.scope["Quorum_"]() == 3


def test_what_can_be_reached_holds_the_invariant() -> None:
    for views in (2, 3):
        m = height(views)
        for state in wandering(views, 200, 9):
            m.set(**shown(state, views))
            assert m.holds("Inv") and m.holds("Safety")


BREAKS = {
    "no justification": ("  /\\ Justified(v, x)\n", ""),
    "a gap": ("\\A w \\in (u + 1)..(v - 1)", "\\A w \\in (u + 2)..(v - 1)"),
    "another value": ("/\\ Notarization(u, x)\n", "/\\ \\E z \\in Values : Notarization(u, z)\n"),
    "slot N twice": ("  /\\ notarized[p][v] = None\n", ""),
    "slot T twice": ("  /\\ ended[p][v] = None\n  /\\ Notarization", "  /\\ Notarization"),
    "finalize anything": ("  /\\ Notarization(v, x)\n", ""),
    "quorum too small": ("\\div 3 + 1", "\\div 3"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_comparison_notices(name: str) -> None:
    old, new = BREAKS[name]
    assert TEXT.count(old) == 1
    m = height(3, TEXT.replace(old, new))
    with pytest.raises((AssertionError, KeyError)):
        for state in wandering(3, 600, 3):
            assert steps_of_text(m, state, 3) == steps_of_code(state, 3)


def test_what_it_does_not_know_it_refuses() -> None:
    with pytest.raises(SyntaxError):
        height(1, TEXT.replace("Nullification(v) ==", "Nullification(v) == CHOOSE"))


def inductive(views: int, text: str = TEXT) -> int:
    """Checks every type-correct state, up to renaming of validators and values. How many hold `Inv`."""
    m, held = height(views, text), 0
    for state in combinations_with_replacement(sorted(any_node(views)), 3):
        if tuple(sorted(map(model.swapped, state))) < state:
            continue
        m.set(**shown(state, views))
        if not m.holds("Inv"):
            continue
        held += 1
        assert m.holds("Safety"), state
        for p, fact in steps_of_text(m, state, views):
            after = list(state)
            after[p] |= fact
            m.set(**shown(tuple(after), views))
            assert m.holds("Inv"), (state, after)
            m.set(**shown(state, views))
    return held


def test_the_invariant_is_inductive_in_one_view() -> None:
    assert inductive(1) > 10
    with pytest.raises(AssertionError):
        inductive(1, TEXT.replace("  /\\ Notarization(v, x)\n", ""))


@pytest.mark.slow
def test_the_invariant_is_inductive() -> None:
    """Of two views: in half a million states, not only in those that can be reached."""
    assert inductive(2) > 5_000
