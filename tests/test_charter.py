"""The charter: one table of rules, one spelling of each charter, nothing unknown or missing in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idao.crypto import canonical
from idao.crypto.hashing import Kind, digest
from idao.errors import Malformed, Refused, UsageError
from idao.hall.continuing import _changed
from idao.ledger import charter
from idao.model import INT_MAX

keys = st.sampled_from(sorted(charter.RULES))


def _values(key: str) -> st.SearchStrategy[int | str]:
    rule = charter.RULES[key]
    return st.sampled_from(rule.choices) if rule.choices else st.integers(rule.low, rule.high)


@st.composite
def charters(draw: st.DrawFn) -> charter.Rules:
    return {key: draw(_values(key)) for key in charter.RULES}


@given(charters())
def test_each_charter_has_one_spelling(rules: charter.Rules) -> None:
    data = charter.encode(rules)
    assert charter.parse(data) == rules
    assert charter.encode(dict(reversed(rules.items()))) == data
    assert len(data) <= charter.RULES_BYTES_MAX


def test_the_default_charter_is_pinned() -> None:
    # Every ledger begins with it: a change of rules or defaults is a change of formats.
    data = charter.encode(charter.defaults())
    assert (
        digest(Kind.CHARTER, data).hex() == "37165c0772037d30542f1eb94dbbca614572bebe151d59846debaa115ecef808"
    )


@given(keys)
def test_unknown_and_missing_rules_are_malformed(key: str) -> None:
    rules = charter.defaults()
    value = rules.pop(key)
    later = charter.RULES[key].later  # may be left out of the bytes, and only there
    for wrong in (rules, {**rules, key + "x": value}, {**rules, key: value, "vote.luck": 1}):
        with pytest.raises(Malformed):
            charter.encode(wrong)
        if not (later and wrong is rules):
            with pytest.raises(Malformed):
                charter.parse(canonical.encode(wrong))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vote.method", "lottery"),
        ("vote.method", 1),
        ("vote.threshold", 4_999),
        ("vote.threshold", 10_001),
        ("vote.threshold", "5000"),
        ("vote.cap", 0),
        ("vote.turnout", True),
        ("vote.turnout", -1),
        ("vote.period", 0),
        ("economy.base", INT_MAX + 1),
        ("policy.read", None),
    ],
)
def test_values_out_of_bounds_are_refused(key: str, value: object) -> None:
    with pytest.raises(Refused) as e:
        charter.check_rule(key, value)
    assert e.value.code == "bad-value"
    with pytest.raises(Malformed):
        charter.encode({**charter.defaults(), key: value})  # type: ignore[dict-item]


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(Refused) as e:
        charter.check_rule("vote.luck", 1)
    assert e.value.code == "unknown-rule"


@pytest.mark.parametrize("data", [b"", b"\xa0", b"\x80", b"\xff", canonical.encode(["vote.method"])])
def test_other_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        charter.parse(data)


@given(st.data())
def test_what_is_shown_reads_back(data: st.DataObject) -> None:
    key = data.draw(keys)
    value = data.draw(_values(key))
    assert charter.from_text(key, charter.to_text(key, value)) == value
    assert charter.from_text(key, str(value)) == value


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("vote.threshold", "66.66%", 6_666),
        ("vote.threshold", "66.6%", 6_660),
        ("vote.threshold", "100%", 10_000),
        ("vote.turnout", "25", 25),
        ("vote.period", "3d", 259_200),
        ("vote.period", "90m", 5_400),
        ("vote.timelock", "0", 0),
        ("policy.derive", "allow", "allow"),
    ],
)
def test_spellings(key: str, text: str, value: int | str) -> None:
    assert charter.from_text(key, text) == value


@pytest.mark.parametrize(
    ("key", "text", "hint"),
    [
        ("vote.treshold", "60%", "did you mean 'vote.threshold'?"),
        ("qqqq", "1", "idao propose --help lists every rule"),
        ("vote.threshold", "40%", "it takes 50% to 100% (or basis points)"),
        ("vote.threshold", "66.666%", "it takes 50% to 100% (or basis points)"),
        ("vote.period", "-1", "it takes 1s to 366d"),
        ("vote.period", "1.5d", "it takes 1s to 366d"),
        ("vote.period", "٣d", "it takes 1s to 366d"),
        ("vote.period", "9" * 30, "it takes 1s to 366d"),
        ("economy.base", "0", "it takes 1 or more"),
        ("policy.derive", "yes", "it takes allow or deny or policy"),
    ],
)
def test_bad_text_says_what_is_taken(key: str, text: str, hint: str) -> None:
    with pytest.raises(UsageError) as e:
        charter.from_text(key, text)
    assert e.value.hint == hint


def test_help_lists_every_rule_with_a_default_that_it_takes() -> None:
    rows = charter.describe()
    assert [row[0] for row in rows] == list(charter.RULES)
    for key, takes, default, meaning in rows:
        assert charter.from_text(key, default) == charter.defaults()[key]
        assert takes and meaning


def test_the_economic_model_sets_the_value_of_a_mint() -> None:
    rules = {**charter.defaults(), "economy.base": 500}
    assert charter.mint_value(rules, 8_700) == 500
    assert charter.mint_value({**rules, "economy.model": "score"}, 8_700) == 435


def test_the_documented_rules_are_the_rules() -> None:
    page = (Path(__file__).parent.parent / "docs" / "governance.md").read_text()
    rows = [" | ".join((f"| `{key}`", *rest)) + " |" for key, *rest in charter.describe()]
    assert page.endswith("|---|---|---|---|\n" + "\n".join(rows) + "\n")


def test_a_plan_to_go_on_tells_where_its_charter_is_another() -> None:
    here = charter.defaults()
    assert _changed(here, dict(here)) == []
    planned = here | {
        "policy.derive": "allow" if here["policy.derive"] != "allow" else "deny",
        "economy.base": 7,
    }
    told = _changed(here, planned)
    assert [line.split(":")[0] for line in told] == ["economy.base", "policy.derive"]
    assert told[0] == f"economy.base: {here['economy.base']} -> 7"
