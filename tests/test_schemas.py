"""What each command prints with --json is one object, as its published schema says."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cli_world import ELSEWHERE, READS, STORY, Ran, make, run, tell
from jsonschema import Draft202012Validator, ValidationError

from idao.completion import table
from idao.hall import keeping

COMMANDS = [" ".join(c.words) for c in table() if not c.children]
STREAMS = {"events", "log table"}
CONTRACT: dict[str, str] = {
    "init": "idao quorum key home",
    "status": "idao quorums balances",
    "contribute": "asset version tx files bytes new_bytes status height verified score",
    "asset show": "asset versions owner kind category license parents verified reviews score scores",
    "mint": "dat class asset value share_ratio status",
    "propose": "proposal state tally choice",
    "vote": "proposal state tally choice",
    "proposal show": "proposal state tally choice",
    "proof": "path subject tree_size",
    "verify": "ok checks subject anchor trusted",
    "audit": "ok blocks receipts findings",
    "quorum status": "quorum name epoch size online tolerates height anchored state_hash validators",
    "tee verify": "accepted level kind tcb_status advisories reason checks",
    "events": "height tx kind idao ok code changed",
}
"""Keys that programs from outside read; more may stand beside them."""


@cache
def validator(command: str) -> Draft202012Validator:
    return Draft202012Validator(
        keeping.schema(command.split()), format_checker=Draft202012Validator.FORMAT_CHECKER
    )


def check(command: str, ran: Ran) -> list[Any]:
    """The objects on stdout, each valid; exactly one unless the command streams."""
    lines = command in STREAMS and not ran.out.startswith("{\n")
    texts = ran.out.splitlines() if lines else [ran.out]
    found = [json.loads(text) for text in texts]
    for one in found:
        assert isinstance(one, dict)
        validator(command).validate(one)
    return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, list[str], Ran]]:
    return list(tell(make(tmp_path_factory.mktemp("story")), "--json"))


@pytest.mark.parametrize("at", range(len(STORY)), ids=lambda i: f"{i}-{STORY[i][0]}")
def test_output_is_as_published(told: list[tuple[str, list[str], Ran]], at: int) -> None:
    command, _, ran = told[at]
    found = check(command, ran)
    assert found
    for one in found:
        required(command, one)


def required(command: str, one: dict[str, Any]) -> None:
    """Nothing but the outcome of the condition lets a key be absent; here all of them are there."""
    if one.get("dry_run"):
        return
    schema = keeping.schema(command.split())
    wanted = schema.get("required") or schema.get("else", {}).get("required", [])
    assert set(wanted) <= one.keys()


def test_the_story_knows_every_command() -> None:
    assert {s[0] for s in STORY} | ELSEWHERE == set(COMMANDS)
    assert set(COMMANDS) >= READS


def test_every_command_has_a_schema_and_no_schema_lacks_a_command() -> None:
    assert {c.replace(" ", "-") for c in COMMANDS} | {"error"} == set(keeping.schema_names())


@pytest.mark.parametrize("name", keeping.schema_names())
def test_schemas_are_schemas(name: str) -> None:
    schema = keeping.schema([name])
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:idao:schema:{name}"
    assert schema["type"] == "object" and schema["additionalProperties"] is True and schema["description"]
    used = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema)))
    assert used == schema.get("$defs", {}).keys()
    assert all(re.fullmatch(r"\$?[a-z][a-z0-9_]*", key) for key in schema["properties"])


@pytest.mark.parametrize("command", CONTRACT)
def test_the_contract_is_required(command: str) -> None:
    schema = keeping.schema(command.split())
    branch = schema.get("else") or schema.get("then") or {}  # of several pieces of evidence none is first
    wanted = {*schema.get("required", ()), *branch.get("required", ())}
    assert set(CONTRACT[command].split()) <= wanted


@pytest.mark.parametrize(
    "command,key,value",
    [
        ("mint", "value", 1000),
        ("mint", "value", "01"),
        ("mint", "share_ratio", "10000"),
        ("mint", "dat", "dat:abc"),
        ("mint", "dat", "asset:" + "a" * 52),
        ("mint", "expires", "2027-01-31"),
        ("contribute", "version", 0),
        ("contribute", "status", "done"),
        ("contribute", "score", 10001),
        ("init", "key", "z6Mk"),
        ("vote", "state", "won"),
        ("status", "quorums", {}),
    ],
)
def test_a_wrong_type_is_found(
    told: list[tuple[str, list[str], Ran]], command: str, key: str, value: object
) -> None:
    good = next(ran.json for c, _, ran in told if c == command)
    with pytest.raises(ValidationError):
        validator(command).validate({**good, key: value})
    del good[key]
    with pytest.raises(ValidationError):
        validator(command).validate(good)


# --- the commands that show them ----------------------------------------------------------------------


def test_schema_is_printed_as_it_is_kept(tmp_path: Path) -> None:
    ran = run("schema", "asset", "show", home=tmp_path)
    assert ran.code == 0 and ran.json == keeping.schema(["asset-show"])
    assert run("schema", "asset-show", "--json").out == ran.out


def test_schema_without_a_command_lists_them() -> None:
    assert run("schema").out.split() == keeping.schema_names()
    assert run("schema", "-q").out.split() == keeping.schema_names()


@pytest.mark.parametrize(
    "words,hint",
    [
        ("contirbute", "did you mean 'contribute'?"),
        ("asset shwo", "did you mean 'asset-show'?"),
        ("proposal", "one of: proposal list, proposal settle, proposal show"),
        ("zzz", "see 'idao schema'"),
        ("../../etc/passwd", "see 'idao schema'"),
    ],
)
def test_unknown_schema(words: str, hint: str) -> None:
    ran = run("schema", *words.split())
    assert (ran.code, ran.out) == (4, "")
    assert f"hint: {hint}" in ran.err
