"""Terms of use: a strict subset of ODRL 2.2, and the one function that judges a request by them.

A policy file is read whole or refused with its line; of all it may hold only its `uid` says nothing
(docs/policy.md). What is
kept is its canonical form, `Policy`: two files that mean the same have the same hash.

How a request is judged, first match wins:

1. The owner may do anything.
2. The charter's switch `policy.ACTION` says deny.
3. A prohibition covers the request. A fact that the request leaves open counts against it.
4. The charter's switch says allow.
5. A permission covers the request, with every constraint fulfilled.
6. Otherwise: no.

A rule or switch for an action covers the actions below it in `ACTIONS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from idao.crypto import canonical
from idao.crypto.hashing import Kind, hash_of
from idao.errors import Malformed, UsageError
from idao.frozen import frozen
from idao.model import INT_MAX, Id, Range, Size, Word, parse_id, show_id

if TYPE_CHECKING:
    from idao import jsonfile  # loaded where a file is read: every command needs the rules, few a file

ACTIONS: dict[str, str | None] = {
    "use": None,
    "read": "use",
    "execute": "use",
    "aggregate": "use",
    "distribute": "use",
    "commercialize": "use",
    "derive": "use",
    "train": "derive",
}
"""Action -> the wider action that includes it. `train` is idao's own, all others are ODRL's."""
DUTIES = ("attribute", "inform", "shareAlike", "delete")
SWITCHES = ("allow", "deny", "policy")
"""Values of the charter's `policy.ACTION`; `policy`, the default, leaves it to each asset's policy."""

FILE_BYTES_MAX = 64 * 1024
RULES_MAX = 64
"""Permissions, and as many prohibitions: what a person can still read."""
ASSIGNEES_MAX = 64
"""Named parties of one rule; larger circles are served by grants."""
CONSTRAINTS_MAX = 8
PURPOSES_MAX = 16

CONTEXT = "http://www.w3.org/ns/odrl.jsonld"
PROFILE = {"cc": "http://creativecommons.org/ns#", "idao": "urn:idao:policy:1:"}
_SPELLED = {"commercialize": "cc:CommercialUse", "train": "idao:train", "shareAlike": "cc:ShareAlike"}
"""Terms that ODRL's own namespace lacks (2.2 replaced `commercialize` by Creative Commons' term)."""
_READ_AS = {spelled: word for word, spelled in _SPELLED.items()}
_PURPOSE = re.compile(r"[a-z][a-z0-9-]{0,63}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?(Z|[+-]\d\d:\d\d)")
TIME_MAX = 253_402_300_799_999
"""Milliseconds: the last of year 9999, beyond which RFC 3339 has no dates."""


@frozen
class Constraint:
    """One condition, in the five forms that all others are brought to.

    `count lteq n`: at most n uses. `dateTime gteq|lt t`: milliseconds UTC. `purpose isAnyOf|isNoneOf words`.
    """

    operand: Word
    operator: Word
    number: Annotated[int, Range(0, INT_MAX)]
    words: Annotated[tuple[Word, ...], Size(0, PURPOSES_MAX)]

    def __post_init__(self) -> None:
        form = (self.operand, self.operator)
        purpose = form in (("purpose", "isAnyOf"), ("purpose", "isNoneOf"))
        numeric = form in (("count", "lteq"), ("dateTime", "gteq"), ("dateTime", "lt"))
        if not (purpose and self.words and not self.number) and not (numeric and not self.words):
            raise Malformed("not a constraint of the policy subset")
        if self.operand == "dateTime" and self.number > TIME_MAX:
            raise Malformed("a time beyond year 9999")
        if list(self.words) != sorted(set(self.words)):
            raise Malformed("purposes of a constraint are listed once each, in order")


@frozen
class Rule:
    """Something permitted or prohibited. No assignees: to everyone. All constraints must be fulfilled."""

    action: Word
    assignees: Annotated[tuple[Id, ...], Size(0, ASSIGNEES_MAX)]
    constraints: Annotated[tuple[Constraint, ...], Size(0, CONSTRAINTS_MAX)]
    duties: Annotated[tuple[Word, ...], Size(0, len(DUTIES))]

    def __post_init__(self) -> None:
        if self.action not in ACTIONS or any(d not in DUTIES for d in self.duties):
            raise Malformed("not an action or duty of the policy subset")
        if (list(self.assignees), list(self.duties)) != (
            sorted(set(self.assignees)),
            sorted(set(self.duties)),
        ):
            raise Malformed("assignees and duties of a rule are listed once each, in order")
        _ordered(self.constraints, "constraints of a rule")


@frozen
class Policy:
    """Terms of use in canonical form: what is hashed, stored and judged by."""

    v: Annotated[int, Range(1, 1)]
    permissions: Annotated[tuple[Rule, ...], Size(0, RULES_MAX)]
    prohibitions: Annotated[tuple[Rule, ...], Size(0, RULES_MAX)]

    def __post_init__(self) -> None:
        _ordered(self.permissions, "permissions")
        _ordered(self.prohibitions, "prohibitions")
        if any(r.duties or any(c.operand == "count" for c in r.constraints) for r in self.prohibitions):
            raise Malformed("a prohibition has neither duties nor a count")


def _ordered(items: tuple[Constraint | Rule, ...], what: str) -> None:
    packed = [canonical.pack(item) for item in items]
    if packed != sorted(set(packed)):
        raise Malformed(f"{what} are listed once each, in order of their bytes")


OWNER_ONLY = Policy(1, (), ())
"""The default: nobody but the owner."""


@frozen
class Request:
    """What somebody asks to do with an asset, with the facts that constraints look at."""

    party: bytes
    owner: bytes
    action: str
    purpose: str | None = None
    time_ms: int | None = None
    used: int | None = None
    """Uses already made under the permission; the one asked for comes on top."""


@frozen
class Decision:
    """`rule` decided: `owner`, `charter policy.ACTION`, `prohibition N`, `permission N` or `default`."""

    allow: bool
    reason: str
    rule: str
    duties: tuple[str, ...] = ()


def policy_hash(policy: Policy) -> bytes:
    """The 32 bytes of `policy:…` that records name."""
    return hash_of(Kind.POLICY, policy)


# --- judging --------------------------------------------------------------------------------------


def decide(policy: Policy, request: Request, switches: Mapping[str, Any] | None = None) -> Decision:
    """Whether `request` is allowed, by which rule, and with which duties.

    `switches` is the owner's charter, or its keys `policy.ACTION` alone. `UsageError` for an action that
    is not in `ACTIONS`, `Malformed` for a switch that is not in `SWITCHES`.
    """
    wider = _wider(request.action)
    if request.party == request.owner:
        return Decision(True, "the owner may do anything", "owner")
    set_to = {f"policy.{a}": _switch(switches or {}, a) for a in wider}
    for key, value in set_to.items():
        if value == "deny":
            return Decision(False, f"the owner's charter says {key}=deny", f"charter {key}")
    for i, rule in enumerate(policy.prohibitions, 1):
        held = _holds_all(rule, request)
        if _covers(rule, request, wider) and False not in held:
            open_fact = "" if None not in held else f" (the request leaves {_left_open(rule, held)} open)"
            return Decision(False, f"prohibited: {_words(rule)}{open_fact}", f"prohibition {i}")
    for key, value in set_to.items():
        if value == "allow":
            return Decision(True, f"the owner's charter says {key}=allow", f"charter {key}")
    unmet = ""
    for i, rule in enumerate(policy.permissions, 1):
        if not _covers(rule, request, wider):
            continue
        held = _holds_all(rule, request)
        if all(held):
            return Decision(True, f"permitted: {_words(rule)}", f"permission {i}", rule.duties)
        unmet = unmet or f"not fulfilled: {_words(rule)}"
    return Decision(False, unmet or f"no permission to {request.action} covers this iDAO", "default")


def _wider(action: str) -> list[str]:
    """The action and all that include it, narrowest first."""
    if action not in ACTIONS:
        raise UsageError(f"'{action}' is not an action of policies", hint=f"one of: {', '.join(ACTIONS)}")
    found = [action]
    while (above := ACTIONS[found[-1]]) is not None:
        found.append(above)
    return found


def _switch(switches: Mapping[str, Any], action: str) -> str:
    value = switches.get(f"policy.{action}", "policy")
    if value not in SWITCHES:
        raise Malformed(f"policy.{action} is one of {', '.join(SWITCHES)}, not '{value}'")
    return str(value)


def _covers(rule: Rule, request: Request, wider: list[str]) -> bool:
    return rule.action in wider and (not rule.assignees or request.party in rule.assignees)


def _holds_all(rule: Rule, request: Request) -> list[bool | None]:
    return [_holds(c, request) for c in rule.constraints]


def _left_open(rule: Rule, held: list[bool | None]) -> str:
    return " and ".join(c.operand for c, h in zip(rule.constraints, held, strict=True) if h is None)


def _holds(constraint: Constraint, request: Request) -> bool | None:
    """None when the request does not tell."""
    n = constraint.number
    if constraint.operand == "purpose":
        if request.purpose is None:
            return None
        return (request.purpose in constraint.words) == (constraint.operator == "isAnyOf")
    if constraint.operand == "count":
        return None if request.used is None else request.used < n
    if request.time_ms is None:
        return None
    return request.time_ms < n if constraint.operator == "lt" else request.time_ms >= n


# --- in plain words -------------------------------------------------------------------------------


def describe(policy: Policy, switches: Mapping[str, Any] | None = None) -> list[str]:
    """The terms in plain words, a line each, in the numbering of `Decision.rule`."""
    lines = []
    for action in ACTIONS:
        value = _switch(switches or {}, action)
        if value != "policy":
            verb = "may" if value == "allow" else "may not"
            lines.append(f"charter: everyone {verb} {action} (policy.{action}={value})")
    lines += [f"prohibition {i}: {_words(r)}" for i, r in enumerate(policy.prohibitions, 1)]
    lines += [f"permission {i}: {_words(r)}" for i, r in enumerate(policy.permissions, 1)]
    return [*lines, "nothing else is allowed to anybody but the owner"]


def _words(rule: Rule) -> str:
    who = " or ".join(show_id("idao", a) for a in rule.assignees) or "everyone"
    parts = [f"{rule.action}, for {who}", *(_condition(c) for c in rule.constraints)]
    if rule.duties:
        parts.append(f"with the duty to {' and '.join(rule.duties)}")
    return ", ".join(parts)


def _condition(c: Constraint) -> str:
    if c.operand == "purpose":
        return f"{'' if c.operator == 'isAnyOf' else 'not '}for the purpose {' or '.join(c.words)}"
    if c.operand == "count":
        return f"at most {c.number} times"
    return f"{'before' if c.operator == 'lt' else 'from'} {_show_time(c.number)}"


def _show_time(ms: int) -> str:
    from datetime import UTC, datetime, timedelta

    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    return moment.isoformat(timespec="milliseconds" if ms % 1000 else "seconds").replace("+00:00", "Z")


def to_odrl(policy: Policy) -> dict[str, Any]:
    """The policy as ODRL JSON-LD that `parse` reads back to the same policy (`OWNER_ONLY` has no rules)."""
    return {
        "@context": [CONTEXT, PROFILE],
        "@type": "Set",
        "uid": show_id("policy", policy_hash(policy)),
        **{
            name: [_rule_to_odrl(rule) for rule in rules]
            for name, rules in (("permission", policy.permissions), ("prohibition", policy.prohibitions))
            if rules
        },
    }


def _rule_to_odrl(rule: Rule) -> dict[str, Any]:
    out: dict[str, Any] = {"action": _SPELLED.get(rule.action, rule.action)}
    if rule.assignees:
        out["assignee"] = [show_id("idao", a) for a in rule.assignees]
    if rule.constraints:
        out["constraint"] = [
            {"leftOperand": c.operand, "operator": c.operator, "rightOperand": _right_operand(c)}
            for c in rule.constraints
        ]
    if rule.duties:
        out["duty"] = [{"action": _SPELLED.get(d, d)} for d in rule.duties]
    return out


def _right_operand(c: Constraint) -> Any:
    if c.operand == "dateTime":
        return {"@value": _show_time(c.number), "@type": "xsd:dateTime"}
    return list(c.words) or c.number


# --- reading a file -------------------------------------------------------------------------------


def parse(raw: bytes) -> Policy:
    """The policy of a JSON file. `UsageError` names the line and what is wrong there."""
    from idao import jsonfile

    top = jsonfile.read(raw, "policy", FILE_BYTES_MAX)
    if not isinstance(top, jsonfile.Object):
        raise UsageError("policy, line 1: a policy is a JSON object")
    if "obligation" in top:
        _refuse(top, "obligation", "obligations are not supported", "put duties under a permission")
    _only(top, "a policy", ("@context", "@type", "type", "@id", "uid", "permission", "prohibition"))
    contexts = _list(top.get("@context"))
    if CONTEXT not in contexts or any(c not in (CONTEXT, PROFILE) for c in contexts):
        _refuse(top, "@context", f"'@context' must be \"{CONTEXT}\"", "see docs/policy.md for an example")
    kind = "type" if "type" in top else "@type"
    if top.get(kind) not in ("Set", "Offer"):
        _refuse(top, kind, '\'@type\' must be "Set" or "Offer"', "agreements are made by `idao grant`")
    permissions = [r for item in _objects(top, "permission") for r in _rules(item, permits=True)]
    prohibitions = [r for item in _objects(top, "prohibition") for r in _rules(item, permits=False)]
    if not permissions and not prohibitions:
        raise UsageError(
            "policy: it has no rule", hint="without --policy nobody but the owner may use the asset"
        )
    for name, rules in (("permission", permissions), ("prohibition", prohibitions)):
        if len(rules) > RULES_MAX:
            _refuse(top, name, f"{len(rules)} rules; at most {RULES_MAX} are read")
    return Policy(1, _sorted(permissions), _sorted(prohibitions))


def _sorted(items: list[Any]) -> tuple[Any, ...]:
    """By packed bytes, each once."""
    return tuple(item for _, item in sorted({canonical.pack(item): item for item in items}.items()))


def _rules(item: jsonfile.Object, *, permits: bool) -> list[Rule]:
    """One rule an action that the JSON rule names."""
    for key in ("target", "assigner"):
        if key in item:
            _refuse(item, key, f"'{key}' has no place here", "the policy binds the asset it is given with")
    allowed = ("action", "assignee", "constraint", *(("duty",) if permits else ()))
    _only(item, "a permission" if permits else "a prohibition", allowed)
    actions = [_term(item, "action", a, tuple(ACTIONS)) for a in _list(item.get("action"))]
    if not actions:
        _refuse(item, "action", "a rule needs an 'action'", f"one of: {', '.join(ACTIONS)}")
    assignees = sorted({_party(item, a) for a in _list(item.get("assignee"))})
    if "assignee" in item and not 1 <= len(assignees) <= ASSIGNEES_MAX:
        _refuse(item, "assignee", f"1 to {ASSIGNEES_MAX} iDAO ids, or no 'assignee' for everyone")
    found = [_constraint(c) for c in _objects(item, "constraint")]
    if len(found) > CONSTRAINTS_MAX:
        _refuse(item, "constraint", f"{len(found)} constraints; at most {CONSTRAINTS_MAX} are read")
    if not permits and any(c.operand == "count" for c in found):
        _refuse(item, "constraint", "a prohibition cannot count", "permit a number of uses instead")
    duties = []
    for duty in _objects(item, "duty"):
        _only(duty, "a duty", ("action",))
        duties += [_term(duty, "action", d, DUTIES) for d in _list(duty.get("action"))]
    constraints = _sorted(found)
    return [Rule(a, tuple(assignees), constraints, tuple(sorted(set(duties)))) for a in actions]


def _term(item: jsonfile.Object, key: str, value: Any, known: tuple[str, ...]) -> str:
    word = _READ_AS.get(value, value) if isinstance(value, str) else None
    if word not in known:
        shown = f"'{value[:40]}'" if isinstance(value, str) else "this"
        _refuse(item, key, f"{shown} is not an {key} of the subset", f"one of: {', '.join(known)}")
    return word


def _party(item: jsonfile.Object, value: Any) -> bytes:
    try:
        return parse_id("idao", value if isinstance(value, str) else "")
    except UsageError:
        _refuse(item, "assignee", "an assignee is a full iDAO id, 'idao:' and 52 characters")


def _constraint(item: jsonfile.Object) -> Constraint:
    from idao.jsonfile import INTEGER_MAX

    _only(item, "a constraint", ("leftOperand", "operator", "rightOperand"))
    operand, operator, right = (item.get(k) for k in ("leftOperand", "operator", "rightOperand"))
    if operand == "purpose":
        words = _purposes(item, right)
        forms = {"eq": "isAnyOf", "isAnyOf": "isAnyOf", "neq": "isNoneOf", "isNoneOf": "isNoneOf"}
        return Constraint("purpose", _term_of(item, operator, forms), 0, words)
    if operand == "count":
        form = _term_of(item, operator, {"lteq": "lteq", "lt": "lt"})
        if type(right) is not int or not 0 <= right - (form == "lt") <= INTEGER_MAX:
            _refuse(item, "rightOperand", "a count is a whole number, not negative")
        return Constraint("count", "lteq", right - (form == "lt"), ())
    if operand == "dateTime":
        # Whole milliseconds: 'not later than t' is 'before t + 1', 'later than t' is 'from t + 1'.
        form = _term_of(item, operator, {"lt": "lt", "lteq": "lt+1", "gteq": "gteq", "gt": "gteq+1"})
        plain, _, more = form.partition("+")
        return Constraint("dateTime", plain, min(_time(item, right) + bool(more), TIME_MAX), ())
    _refuse(item, "leftOperand", "the 'leftOperand' must be purpose, count or dateTime")


def _term_of(item: jsonfile.Object, operator: Any, forms: dict[str, str]) -> str:
    if not isinstance(operator, str) or operator not in forms:
        _refuse(item, "operator", f"the 'operator' must be {', '.join(forms)}")
    return forms[operator]


def _purposes(item: jsonfile.Object, right: Any) -> tuple[str, ...]:
    words = sorted({w if isinstance(w, str) else "" for w in _list(right)})
    if not 1 <= len(words) <= PURPOSES_MAX or not all(_PURPOSE.fullmatch(w) for w in words):
        _refuse(
            item,
            "rightOperand",
            f"a purpose is 1 to {PURPOSES_MAX} lower-case words",
            "for example research, education, health, internal, commercial",
        )
    return tuple(words)


def _time(item: jsonfile.Object, right: Any) -> int:
    from datetime import UTC, datetime, timedelta  # few policies end

    if isinstance(right, dict) and right.keys() == {"@value", "@type"} and right["@type"] == "xsd:dateTime":
        right = right["@value"]
    try:
        if not isinstance(right, str) or not _TIME.fullmatch(right):
            raise ValueError
        ms = (datetime.fromisoformat(right) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
        if not 0 <= ms <= TIME_MAX:
            raise ValueError
    except (ValueError, OverflowError):
        _refuse(item, "rightOperand", "a dateTime has a zone", "for example 2027-01-01T00:00:00Z")
    return ms


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _objects(item: jsonfile.Object, key: str) -> list[jsonfile.Object]:
    values = _list(item.get(key))
    if key in item and (not values or not all(isinstance(v, dict) for v in values)):
        _refuse(item, key, f"'{key}' is an object or a list of objects")
    return values


def _only(item: jsonfile.Object, what: str, known: tuple[str, ...]) -> None:
    for key in item:
        if key not in known:
            _refuse(item, key, f"'{key[:40]}' has no place in {what}", f"it may have: {', '.join(known)}")


def _refuse(item: jsonfile.Object, key: str, why: str, hint: str | None = None) -> NoReturn:
    raise UsageError(f"policy, line {item.lines.get(key, item.line)}: {why}", hint=hint)
