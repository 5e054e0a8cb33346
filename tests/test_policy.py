"""Terms of use: documented examples hold, prohibitions win, silence is no, bad files are refused by line."""

import contextlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idao import jsonfile, policy
from idao.crypto import canonical
from idao.errors import IdaoError, Malformed, UsageError
from idao.model import show_id
from idao.policy import ACTIONS, OWNER_ONLY, Policy, Request, decide, parse

ME, YOU, PARTNER = bytes([1]) * 32, bytes([2]) * 32, bytes(32)
EXAMPLES = re.findall(
    r"```json\n(.*?)```", (Path(__file__).parents[1] / "docs/policy.md").read_text(), flags=re.DOTALL
)
RESEARCH, MODEL, PRIVATE = (parse(e.encode()) for e in EXAMPLES)
END_2027 = 1_830_297_600_000  # 2028-01-01T00:00:00Z


def odrl(**keys):
    return {"@context": policy.CONTEXT, "@type": "Set", **keys}


def read(**keys):
    return parse(json.dumps(odrl(**keys)).encode())


def ask(terms, action, switches=None, *, party=YOU, **facts):
    return decide(terms, Request(party, ME, action, **facts), switches)


# --- judging ----------------------------------------------------------------------------------------


def test_by_default_nobody_but_the_owner():
    for action in ACTIONS:
        assert not ask(OWNER_ONLY, action).allow
        assert ask(OWNER_ONLY, action, {"policy.use": "deny"}, party=ME).allow
    assert policy.policy_hash(OWNER_ONLY).hex() == (
        "881ef3653c624ba1fc4f88eff0541d18ee7f1e7251864d815ec19200bd110271"
    )


def test_the_research_example():
    now = END_2027 - 1
    yes = ask(RESEARCH, "train", purpose="research", time_ms=now)
    assert yes.allow and yes.duties == ("attribute",)
    assert ask(RESEARCH, "read", purpose="education", time_ms=now).allow
    for action, purpose, time_ms in (
        ("train", "research", END_2027),
        ("train", "advertising", now),
        ("train", None, now),
        ("train", "research", None),
        ("derive", "research", now),
        ("distribute", "research", now),
    ):
        assert not ask(RESEARCH, action, purpose=purpose, time_ms=time_ms).allow
    assert ask(RESEARCH, "train", purpose="art", time_ms=now).reason.startswith("not fulfilled: train")


def test_the_model_example():
    assert ask(MODEL, "execute", purpose="art", used=99).allow
    assert not ask(MODEL, "execute", purpose="art", used=100).allow
    assert not ask(MODEL, "execute", purpose="art").allow
    assert not ask(MODEL, "execute", purpose="advertising", used=0).allow
    assert ask(MODEL, "execute", used=0).reason.endswith("(the request leaves purpose open)")
    assert ask(MODEL, "train", purpose="art").rule.startswith("prohibition")


def test_the_partner_example():
    assert all(ask(PRIVATE, a, party=PARTNER).duties == ("delete",) for a in ACTIONS)
    assert not any(ask(PRIVATE, a).allow for a in ACTIONS)


def test_the_charter_opens_and_closes():
    assert ask(OWNER_ONLY, "train", {"policy.derive": "allow", "vote.turnout": 3}).allow
    assert not ask(OWNER_ONLY, "derive", {"policy.train": "allow"}).allow
    no = ask(PRIVATE, "train", {"policy.derive": "deny"}, party=PARTNER)
    assert (no.allow, no.rule) == (False, "charter policy.derive")
    assert not ask(MODEL, "derive", {"policy.derive": "allow"}).allow  # the asset's prohibition stands
    assert not ask(OWNER_ONLY, "read", {"policy.read": "allow", "policy.use": "deny"}).allow
    assert not ask(OWNER_ONLY, "read", {"policy.read": "policy"}).allow
    with pytest.raises(Malformed):
        ask(OWNER_ONLY, "read", {"policy.read": "maybe"})
    with pytest.raises(UsageError):
        ask(OWNER_ONLY, "raed")


@pytest.mark.parametrize(
    ("operator", "holds"), [("lt", (1, 0, 0)), ("lteq", (1, 1, 0)), ("gteq", (0, 1, 1)), ("gt", (0, 0, 1))]
)
def test_times_are_compared_to_the_millisecond(operator, holds):
    constraint = {
        "leftOperand": "dateTime",
        "operator": operator,
        "rightOperand": "2028-01-01T01:00:00.000+01:00",
    }
    terms = read(permission={"action": "read", "constraint": constraint})
    assert tuple(ask(terms, "read", time_ms=END_2027 + d).allow for d in (-1, 0, 1)) == tuple(
        map(bool, holds)
    )


@pytest.mark.parametrize(("operator", "holds"), [("lt", (1, 0, 0)), ("lteq", (1, 1, 0))])
def test_counts(operator, holds):
    terms = read(
        permission={
            "action": "read",
            "constraint": {"leftOperand": "count", "operator": operator, "rightOperand": 2},
        }
    )
    assert tuple(ask(terms, "read", used=u).allow for u in (0, 1, 2)) == tuple(map(bool, holds))


# --- canonical form ---------------------------------------------------------------------------------


def test_files_that_mean_the_same_have_one_hash():
    a = read(permission={"action": ["read", "train"]}, uid="x")
    b = read(permission=[{"action": ["idao:train"]}, {"action": "read"}, {"action": "read"}])
    assert a == b and policy.policy_hash(a) == policy.policy_hash(b)
    assert policy.policy_hash(a) != policy.policy_hash(read(prohibition={"action": ["read", "train"]}))
    eq = {"leftOperand": "purpose", "operator": "eq", "rightOperand": "research"}
    one = {"leftOperand": "purpose", "operator": "isAnyOf", "rightOperand": ["research", "research"]}
    assert read(permission={"action": "read", "constraint": eq}) == read(
        permission={"action": "read", "constraint": [one, eq]}
    )


def test_only_the_canonical_form_can_be_unpacked():
    for terms in (OWNER_ONLY, RESEARCH, MODEL, PRIVATE):
        assert canonical.unpack(Policy, canonical.pack(terms)) == terms
    rules = MODEL.prohibitions
    for bad in (
        lambda: Policy(1, rules[::-1], ()),
        lambda: Policy(1, (rules[0], rules[0]), ()),
        lambda: Policy(1, (), RESEARCH.permissions),
        lambda: replace(rules[0], action="fly"),
        lambda: replace(rules[0], duties=("inform", "attribute")),
        lambda: replace(rules[0], assignees=(YOU, ME)),
        lambda: policy.Constraint("count", "gteq", 1, ()),
        lambda: policy.Constraint("purpose", "isAnyOf", 0, ()),
        lambda: policy.Constraint("purpose", "isAnyOf", 0, ("b", "a")),
        lambda: policy.Constraint("dateTime", "lt", policy.TIME_MAX + 1, ()),
    ):
        with pytest.raises(Malformed):
            bad()


def test_it_is_told_in_plain_words():
    told = "\n".join(policy.describe(MODEL, {"policy.distribute": "allow"}))
    for words in (
        "charter: everyone may distribute",
        "derive, for everyone",
        "use, for everyone, for the purpose advertising",
        "execute, for everyone, at most 100 times",
        "nothing else is allowed to anybody but the owner",
    ):
        assert words in told
    assert "before 2028-01-01T00:00:00Z" in "\n".join(policy.describe(RESEARCH))


# --- reading ----------------------------------------------------------------------------------------


LEFT = '"action": "read",\n"constraint": {"leftOperand":'


def _file(rule):
    return f'{{\n"@context": "{policy.CONTEXT}",\n"@type": "Set",\n"permission": [\n{{{rule}}}\n]}}'


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("{\n", 2, "not JSON"),
        ("[]", 1, "JSON object"),
        ('{"@context": "x",\n"@type": "Set"}', 1, "'@context'"),
        ('{"@context": "http://www.w3.org/ns/odrl.jsonld",\n\n"@type": "Agreement"}', 3, "Set"),
        ('{"@context": "http://www.w3.org/ns/odrl.jsonld",\n"obligation": []}', 2, "obligations"),
        (_file('"action": "read",\n"target": "x"'), 6, "'target' has no place"),
        (_file('"action": "read",\n"color": "x"'), 6, "'color' has no place"),
        (_file('"action": "read",\n"action": "use"'), 6, "twice"),
        (_file('\n"action": "raed"'), 6, "'raed' is not an action"),
        (_file('\n"assignee": "bob"'), 5, "needs an 'action'"),
        (_file('"action": "read",\n"assignee": "bob"'), 6, "full iDAO id"),
        (_file('"action": "read",\n"assignee": []'), 6, "1 to 64"),
        (_file('"action": "read",\n"duty": [{\n"action": "sing"}]'), 7, "'sing' is not an action"),
        (_file('"action": "read",\n"duty": {"action": "inform",\n"by": "mail"}'), 7, "'by' has no place"),
        (_file('"action": "read",\n"constraint": "x"'), 6, "an object or a list"),
        (
            _file('"action": "read",\n"constraint": {\n"leftOperand": "spatial"}'),
            7,
            "purpose, count or dateTime",
        ),
        (
            _file(LEFT + '"count",\n"operator": "gt"}'),
            7,
            "lteq, lt",
        ),
        (
            _file(LEFT + '"count", "operator": "lt",\n"rightOperand": 0}'),
            7,
            "whole number",
        ),
        (
            _file(LEFT + '"dateTime", "operator": "lt",\n"rightOperand": "2027-01-01"}'),
            7,
            "zone",
        ),
        (
            _file(LEFT + '"purpose", "operator": "eq",\n"rightOperand": "Two Words"}'),
            7,
            "lower-case",
        ),
    ],
)
def test_refusals_name_the_line(text, line, why):
    with pytest.raises(UsageError, match=rf"line {line}: .*{why}"):
        parse(text.encode())


def test_limits_and_empty_files():
    with pytest.raises(UsageError, match="no rule"):
        read()
    with pytest.raises(UsageError, match="at most 64 "):
        read(permission=[{"action": "read", "assignee": show_id("idao", bytes([i]) * 32)} for i in range(65)])
    until = [
        {"leftOperand": "dateTime", "operator": "lt", "rightOperand": f"20{n}-01-01T00:00:00Z"}
        for n in range(30, 39)
    ]
    assert len(read(permission={"action": "read", "constraint": until[:8]}).permissions[0].constraints) == 8
    with pytest.raises(UsageError, match="9 constraints; at most 8 "):
        read(permission={"action": "read", "constraint": until})
    with pytest.raises(UsageError, match="cannot count"):
        read(
            prohibition={
                "action": "read",
                "constraint": {"leftOperand": "count", "operator": "lt", "rightOperand": 3},
            }
        )
    with pytest.raises(UsageError, match="has no place in a prohibition"):
        read(prohibition={"action": "read", "duty": {"action": "inform"}})
    with pytest.raises(UsageError, match="bytes where at most"):
        parse(b" " * (policy.FILE_BYTES_MAX + 1))


# --- properties -------------------------------------------------------------------------------------

_ids = st.sampled_from([ME, YOU, PARTNER])
_times = st.sampled_from([0, END_2027, policy.TIME_MAX]) | st.integers(0, policy.TIME_MAX)
_purposes = st.lists(st.sampled_from(["research", "health", "art"]), min_size=1).map(
    lambda w: tuple(sorted(set(w)))
)
_dated = st.builds(
    policy.Constraint, st.just("dateTime"), st.sampled_from(["lt", "gteq"]), _times, st.just(())
)
_meant = st.builds(
    policy.Constraint, st.just("purpose"), st.sampled_from(["isAnyOf", "isNoneOf"]), st.just(0), _purposes
)
_counted = st.builds(policy.Constraint, st.just("count"), st.just("lteq"), st.integers(0, 5), st.just(()))


def _rules(constraint, duties):
    return st.lists(
        st.builds(
            policy.Rule,
            st.sampled_from(list(ACTIONS)),
            st.lists(_ids, max_size=2).map(lambda x: tuple(sorted(set(x)))),
            st.lists(constraint, max_size=2).map(policy._sorted),
            st.lists(st.sampled_from(duties), max_size=2).map(lambda d: tuple(sorted(set(d))))
            if duties
            else st.just(()),
        ),
        max_size=4,
    ).map(policy._sorted)


_policies = st.builds(
    Policy, st.just(1), _rules(_dated | _meant | _counted, policy.DUTIES), _rules(_dated | _meant, ())
)
_requests = st.builds(
    Request,
    _ids,
    st.just(ME),
    st.sampled_from(list(ACTIONS)),
    st.none() | st.sampled_from(["research", "art"]),
    st.none() | _times,
    st.none() | st.integers(0, 6),
)
_switches = st.dictionaries(
    st.sampled_from([f"policy.{a}" for a in ACTIONS]), st.sampled_from(policy.SWITCHES)
)


@given(_policies, _requests, _switches)
@settings(max_examples=150, deadline=None)
def test_adding_prohibitions_never_allows_and_silence_never_helps(terms, request, switches):
    now = decide(terms, request, switches)
    if request.party != ME:
        assert not decide(replace(terms, permissions=()), request).allow
        if decide(replace(terms, prohibitions=()), request, switches).allow < now.allow:
            raise AssertionError("a prohibition allowed something")
        for fact in ("purpose", "time_ms", "used"):
            assert decide(terms, replace(request, **{fact: None}), switches).allow <= now.allow
    assert bool(now.duties) <= now.allow
    assert policy.describe(terms, switches)


@given(_policies)
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read_back(terms):
    if terms != OWNER_ONLY:
        assert parse(jsonfile.write(policy.to_odrl(terms))) == terms
    assert canonical.unpack(Policy, canonical.pack(terms)) == terms


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["read", "count"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "action",
                    "assignee",
                    "constraint",
                    "duty",
                    "leftOperand",
                    "operator",
                    "rightOperand",
                    "@value",
                    "x",
                ]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@given(_json, st.sampled_from(["permission", "prohibition", "@type", "uid", "@context", "obligation"]))
@settings(max_examples=300, deadline=None)
def test_any_json_is_a_policy_or_our_refusal(value, key):
    with contextlib.suppress(UsageError):
        parse(json.dumps({**odrl(permission={"action": "read"}), key: value}).encode())


@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda t: t.encode("utf-8", "surrogatepass")))
@settings(max_examples=200)
def test_any_bytes_are_a_policy_or_our_refusal(raw):
    with pytest.raises(IdaoError):
        parse(raw)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_changed_example_is_a_policy_or_our_refusal(data):
    raw = bytearray(data.draw(st.sampled_from(EXAMPLES)).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.sampled_from(b'{}[]",:0a\\n'))
    try:
        parse(bytes(raw))
    except UsageError as e:
        assert e.message.startswith("policy")
