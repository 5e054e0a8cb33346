"""The rules that a charter holds: each with its type, bounds, default and meaning, in one table.

A charter is the full map from rule to value, so its hash says everything and no default can change under
it. Shares are in basis points (bp), durations in seconds; both are integers, as all values here.
"""

from __future__ import annotations

import re
from typing import NoReturn

from idao.crypto import canonical
from idao.errors import Malformed, Refused, UsageError, VerificationFailed
from idao.frozen import frozen
from idao.model import INT_MAX
from idao.policy import ACTIONS, SWITCHES

Value = int | str
Rules = dict[str, Value]

RULES_BYTES_MAX = 16 * 1024
"""All rules of today take about 1 KiB; the record's column has this bound."""
PERIOD_MAX = 366 * 24 * 3600
"""Seconds; a vote or timelock beyond a year is a slip of the finger that nobody could undo in time."""
ROLES = ("member", "observer")
"""Roles that the charter limits. An owner may do everything: somebody can always propose and vote."""
ACTS = ("propose", "vote", "contribute", "mint", "spend")
MEMBER_ACTS = ("propose", "vote", "contribute")
"""What a member may do unless the charter says otherwise: nothing that creates claims or moves units."""


@frozen
class Rule:
    """One rule. `unit` is '' (a number or a word), 'bp' (shown as percent) or 's' (seconds)."""

    default: Value
    meaning: str
    choices: tuple[str, ...] = ()
    low: int = 0
    high: int = INT_MAX
    unit: str = ""
    later: bool = False
    """Made after charters were signed without it: those have its default, which is never written."""

    def allows(self, value: object) -> bool:
        if self.choices:
            return type(value) is str and value in self.choices
        return type(value) is int and self.low <= value <= self.high


_YES_NO = ("allow", "deny")

# A rule added here without `later` changes what a full map is: it comes with a new formats version.
RULES: dict[str, Rule] = {
    "vote.method": Rule("person", "one member one vote, or votes by weight", ("person", "weighted")),
    "vote.cap": Rule(
        10_000,
        "weighted only: the share of all weight that one member's ballot counts at most",
        low=1,
        high=10_000,
        unit="bp",
    ),
    "vote.threshold": Rule(
        5_000,
        "passes with at least this share of yes among yes and no, and more yes than no",
        low=5_000,
        high=10_000,
        unit="bp",
    ),
    "vote.turnout": Rule(
        5_000,
        "at least this share of all votes must be cast; abstain counts here only",
        high=10_000,
        unit="bp",
    ),
    "vote.period": Rule(
        604_800, "a vote is open this long at most; it closes once decided", low=1, high=PERIOD_MAX, unit="s"
    ),
    "vote.timelock": Rule(
        0, "a passed proposal waits this long before it is executed", high=PERIOD_MAX, unit="s"
    ),
    **{
        f"policy.{action}": Rule(
            "policy", f"may others {action} our assets; 'policy': as each one's terms say", SWITCHES
        )
        for action in ACTIONS
    },
    "review.independent": Rule(
        1, "in a quorum of several: good reviews by others before an asset is verified", high=64
    ),
    "review.score-min": Rule(0, "lowest headline score of a good review", high=10_000, unit="bp"),
    "review.tee": Rule(
        "none",
        "in a quorum of several: who reviews another's contents must be backed by hardware of this level",
        ("none", "tee", "tee-measured"),
        later=True,
    ),
    "economy.model": Rule(
        "fixed", "value of a DAT whose mint names none: the base, or base times score", ("fixed", "score")
    ),
    "economy.base": Rule(1_000, "units of value (quota) that economy.model starts from", low=1),
    "economy.fee": Rule(
        0, "share of settled revenue that stays with the iDAO of the class", high=10_000, unit="bp"
    ),
    **{
        f"role.{role}.{act}": Rule(
            "allow" if role == "member" and act in MEMBER_ACTS else "deny",
            f"may the role '{role}' {act}",
            _YES_NO,
        )
        for role in ROLES
        for act in ACTS
    },
}
"""Every rule, in the order of `describe`."""


def defaults() -> Rules:
    """The charter of one: a vote closes once decided, no timelock, each asset's own terms hold."""
    return {key: rule.default for key, rule in RULES.items()}


def check_rule(key: str, value: object) -> None:
    """`Refused` with `unknown-rule` or `bad-value` unless the charter may hold this."""
    rule = RULES.get(key)
    if rule is None:
        raise Refused("the charter has no such rule", code="unknown-rule")
    if not rule.allows(value):
        raise Refused(f"'{key}' takes {allowed(key)}", code="bad-value")


def _check_all(rules: Rules) -> None:
    if rules.keys() != RULES.keys():
        raise Malformed("a charter holds every rule and no other")
    for key, value in rules.items():
        if not RULES[key].allows(value):
            raise Malformed(f"'{key}' takes {allowed(key)}")


def encode(rules: Rules) -> bytes:
    """The canonical bytes of a full map. `Malformed` if a rule is missing, unknown or out of bounds."""
    _check_all(rules)
    return canonical.encode({key: value for key, value in rules.items() if not _silent(key, value)})


def _silent(key: str, value: Value) -> bool:
    """Is this said by leaving it out?"""
    return RULES[key].later and value == RULES[key].default


def parse(data: bytes) -> Rules:
    """The full map of canonical bytes. `Malformed` for anything that `encode` would not write."""
    rules = canonical.decode(data, limit=RULES_BYTES_MAX)
    if type(rules) is not dict:
        raise Malformed("a charter is a map")
    said = set(rules)
    rules = {**{key: rule.default for key, rule in RULES.items() if rule.later}, **rules}
    _check_all(rules)
    if any(_silent(key, rules[key]) for key in said):
        raise Malformed("a charter leaves out what is so without saying")
    return rules


def kept(data: bytes) -> Rules:
    """The full map that a ledger keeps. `VerificationFailed` (code `damaged`): it was sound when it went in,
    so what cannot be read now is no fault of a transaction that meets it."""
    try:
        return parse(data)
    except Malformed as e:
        raise VerificationFailed(f"a charter of the ledger is damaged: {e.message}", code="damaged") from e


def mint_value(rules: Rules, score: int) -> int:
    """The economic model: value of a DAT whose mint names none, for a headline score in basis points."""
    base = rules["economy.base"]
    assert isinstance(base, int)
    return base if rules["economy.model"] == "fixed" else base * score // 10_000


# --- as people write and read them ------------------------------------------------------------------

_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


def from_text(key: str, text: str) -> Value:
    """The value of `--set key=text`. Shares as bp or '66.66%', durations as seconds or '7d', '12h'.

    `UsageError`, with the nearest rule or the allowed values as hint.
    """
    rule = RULES.get(key)
    if rule is None:
        import difflib

        near = difflib.get_close_matches(key, RULES, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "idao propose --help lists every rule"
        raise UsageError(f"the charter has no rule '{key}'", hint=hint)
    if rule.choices:
        if text not in rule.choices:
            _bad(key, text)
        return text
    if rule.unit == "bp" and (percent := re.fullmatch(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?%", text)):
        number = int(percent[1]) * 100 + int((percent[2] or "").ljust(2, "0"))
    elif rule.unit == "s" and (span := re.fullmatch(r"([0-9]{1,18})([dhms])", text)):
        number = int(span[1]) * _SECONDS[span[2]]
    elif re.fullmatch(r"[0-9]{1,19}", text):
        number = int(text)
    else:
        _bad(key, text)
    if not rule.allows(number):
        _bad(key, text)
    return number


def _bad(key: str, text: str) -> NoReturn:
    raise UsageError(f"'{key}' cannot be '{text}'", hint=f"it takes {allowed(key)}")


def to_text(key: str, value: Value) -> str:
    """How a value is shown; `from_text` reads it back."""
    unit = RULES[key].unit
    if isinstance(value, str) or unit == "":
        return str(value)
    if unit == "bp":
        whole, rest = divmod(value, 100)
        return f"{whole}.{rest:02}%" if rest else f"{whole}%"
    letter, seconds = next((n, s) for n, s in _SECONDS.items() if value % s == 0 and (value or s == 1))
    return f"{value // seconds}{letter}"


def allowed(key: str) -> str:
    """What a rule takes, in words."""
    rule = RULES[key]
    if rule.choices:
        return " or ".join(rule.choices)
    low, high = to_text(key, rule.low), to_text(key, rule.high)
    if rule.high == INT_MAX:
        return f"{low} or more"
    return f"{low} to {high}" + (" (or basis points)" if rule.unit == "bp" else "")


def describe() -> list[tuple[str, str, str, str]]:
    """(rule, what it takes, default, meaning) of every key that `--set` takes, in the table's order."""
    return [(key, allowed(key), to_text(key, rule.default), rule.meaning) for key, rule in RULES.items()]
