"""The short reader of a configuration: what it reads, `tomllib` reads the same."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idao import plaintoml

WRITTEN = """# idao configuration; see 'idao config show --origin'
format = 1

wait = 30
color = "never"

[idao]
name = "Ada, née Byron"

[quorum]
default = "quorum:abc"
open = true

[ledgers]
lxj4 = "a # b"
"""
pieces = st.lists(
    st.sampled_from(
        [
            *"=\"'#[]\\\n .-_0159aéx\t\r\x7f\x85\u2028,{}",
            " = ",
            "\n[a]\n",
            "\nb = ",
            '"c"',
            "true",
            "0x1",
            "1_0",
        ]
    ),
    max_size=25,
).map("".join)


def test_what_idao_writes_is_read() -> None:
    assert plaintoml.read(WRITTEN) == tomllib.loads(WRITTEN)


@given(pieces)
def test_nothing_is_read_differently(text: str) -> None:
    found = plaintoml.read(text)
    assert found is None or found == tomllib.loads(text)


@given(pieces, st.integers(0, len(WRITTEN)))
def test_nothing_is_read_differently_in_what_idao_writes(text: str, at: int) -> None:
    whole = WRITTEN[:at] + text + WRITTEN[at:]
    found = plaintoml.read(whole)
    assert found is None or found == tomllib.loads(whole)


@pytest.mark.parametrize(
    "text",
    [
        'a = "x" # said',
        "a.b = 1",
        "a = 01",
        'a = "\\u0041"',
        "a=1",
        "[a.b]",
        "a = 1\na = 2",
        "[a]\n[a]",
        "\x00",
    ],
)
def test_the_rest_is_left_to_tomllib(text: str) -> None:
    assert plaintoml.read(text) is None
