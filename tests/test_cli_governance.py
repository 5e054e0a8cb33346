"""Proposing and voting from the command line: states, tallies, refusals, and time that passes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_person import DAY, SECOND, Person, alone, founded, three, three_homed
from conftest import Lived

from idao.dao import Dao
from idao.hall import governance
from idao.ledger import assets, charter
from idao.ledger.idao import Member, rules_of
from idao.model import show_id
from idao.policy import parse, policy_hash

__all__ = ["alone", "founded", "three", "three_homed"]

POLICY = """{"@context": "http://www.w3.org/ns/odrl.jsonld", "@type": "Offer", "uid": "urn:idao:any",
"permission": [{"action": "read"}]}"""


# --- alone ----------------------------------------------------------------------------------------


def test_one_vote_decides_alone(alone: Person) -> None:
    said = alone.runs("propose", "allow derived models", "--set", "policy.derive=allow")
    assert re.fullmatch(r"proposal:[a-z2-7]{52}\n", said.out)
    assert alone.state_of(said.id) == "open"
    data = alone.reads("vote", said.id, "yes")
    assert data["proposal"] == said.id and data["choice"] == "yes" and data["state"] == "executed"
    assert data["tally"] == {"yes": 1, "no": 0, "abstain": 0}
    assert rules_of(alone.dao().state(), alone.dao().me)["policy.derive"] == "allow"
    shown = alone.reads("proposal", "show", "allow derived models")
    assert shown["choice"] == "yes" and shown["due"] is None and shown["closed"].endswith("Z")
    assert alone.reads("audit")["ok"]


def test_json_of_an_open_proposal(alone: Person) -> None:
    data = alone.reads("propose", "a title", "--set", "vote.timelock=12h", "--set", "vote.threshold=66.66%")
    assert data["state"] == "open" and data["choice"] is None
    assert data["actions"] == [
        {"action": "charter.set", "rule": "vote.timelock", "value": 43_200},
        {"action": "charter.set", "rule": "vote.threshold", "value": 6_666},
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", data["ends"])


def test_a_no_ends_it(alone: Person) -> None:
    proposal = alone.proposes("a mistake", "--set", "vote.period=1s")
    assert alone.votes(proposal, "no") == "rejected"
    assert rules_of(alone.dao().state(), alone.dao().me)["vote.period"] == 604_800


def test_help_lists_every_rule(alone: Person) -> None:
    text = alone.runs("propose", "--help").out
    for rule, takes, default, meaning in charter.describe():
        assert f"  {rule}={takes} (default: {default})\n        {meaning}\n" in text


def test_list_by_state(alone: Person) -> None:
    first, second = alone.proposes("first"), alone.proposes("second")
    alone.votes(first, "yes")
    assert alone.runs("proposal", "list", "-q").out.split() == [first, second]
    assert alone.runs("proposal", "list", "-q", "--state", "open").out.split() == [second]
    assert [p["title"] for p in alone.reads("proposal", "list", "--state", "executed")["proposals"]] == [
        "first"
    ]


def test_reading_needs_no_key_and_writes_nothing(three: Person) -> None:
    proposal = three.proposes("read me")
    for key in three.home.rglob("*.key"):
        key.unlink()
    before = three.files()
    assert "read me" in three.runs("proposal", "list").out
    assert "read me" in three.runs("proposal", "show", proposal).out
    assert "ana" in three.runs("member", "list").out
    assert three.runs("trust", "list", "-q").out
    assert three.files() == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--set", "vote.metod=person"), "did you mean 'vote.method'?"),
        (("--set", "vote.method=both"), "it takes person or weighted"),
        (("--set", "vote.method"), "idao propose --help lists the rules"),
        (("--set", "vote.period=1s", "--set", "vote.period=2s"), "set twice"),
        (("--add-member", "idao:short"), "not a full idao id"),
        (("--add-member", "me:boss"), "one of: owner, member, observer"),
        (("--add-member", "me:member:many"), "whole number"),
        (("--add-member", f"me:member:{2**31 + 1}"), "from 0 to 2147483648"),
        (("--policy", "x"), "WHAT=FILE"),
        (("--text", "absent"), "cannot be read"),
    ],
)
def test_bad_wishes(alone: Person, args: tuple[str, ...], said: str) -> None:
    before = alone.height()
    error = alone.fails(2, "usage", "propose", "a title", *args)
    assert said in f"{error['message']} {error['hint']}"
    assert alone.height() == before


def test_bad_titles_and_choices(alone: Person) -> None:
    alone.fails(2, "usage", "propose", "")
    alone.fails(2, "usage", "propose", "two\nlines")
    alone.fails(2, "usage", "propose", "x" * 201)
    proposal = alone.proposes("a title")
    error = alone.fails(2, "usage", "vote", proposal, "maybe")
    assert error["hint"] == f"idao vote {proposal} yes"
    alone.fails(4, "not-found", "vote", "proposal:" + "a" * 52, "yes")
    alone.fails(2, "usage", "vote", "proposal:abc", "yes")
    alone.fails(4, "not-found", "vote", proposal, "yes", "--as", "nobody")
    assert alone.state_of(proposal[: len("proposal:") + 6]) == "open"


def test_dry_runs_write_nothing_and_say_what_the_ledger_would(alone: Person) -> None:
    proposal = alone.proposes("a title", "--set", "policy.use=deny")
    before = alone.files()
    assert (
        "set       vote.turnout=0%" in alone.runs("propose", "x", "--set", "vote.turnout=0", "--dry-run").out
    )
    assert alone.reads("vote", proposal, "yes", "--dry-run")["state"] == "passed"
    alone.fails(5, "last-owner", "propose", "x", "--remove-member", "me", "--dry-run")
    assert alone.files() == before
    alone.fails(5, "last-owner", "propose", "x", "--remove-member", "me")


# --- several --------------------------------------------------------------------------------------


def test_a_majority_decides_early(three: Person) -> None:
    proposal = three.proposes("two of three", "--set", "policy.use=deny", "--as", "bob")
    assert three.votes(proposal, "yes", "ana") == "open"
    assert three.votes(proposal, "yes", "bob") == "executed"
    error = three.fails(5, "late", "vote", proposal, "yes")
    assert error["hint"] == f"see the outcome: idao proposal show {proposal}"
    shown = three.reads("proposal", "show", proposal)
    assert shown["choice"] is None and shown["tally"]["yes"] == 2 and shown["votes"] == 3


def test_minds_may_change_before_the_close(three: Person) -> None:
    proposal = three.proposes("a title")
    assert three.votes(proposal, "no") == "open"
    error = three.fails(5, "already-voted", "vote", proposal, "no")
    assert "nothing was changed" in error["hint"]
    assert three.votes(proposal, "yes") == "open"
    assert three.reads("proposal", "show", proposal)["tally"] == {"yes": 1, "no": 0, "abstain": 0}
    assert three.votes(proposal, "yes", "ana") == "executed"


def test_a_tie_is_rejected_and_abstain_counts_in_turnout_only(three: Person) -> None:
    tie = three.proposes("tie")
    assert [three.votes(tie, "yes"), three.votes(tie, "no", "ana"), three.votes(tie, "abstain", "bob")] == [
        "open",
        "open",
        "rejected",
    ]
    carried = three.proposes("carried")
    assert three.votes(carried, "abstain") == "open"
    assert three.votes(carried, "abstain", "ana") == "open"
    assert three.votes(carried, "yes", "bob") == "executed"


def test_weights_and_their_cap(three: Person) -> None:
    weighted = three.proposes("weights", "--set", "vote.method=weighted")
    three.votes(weighted, "yes")
    assert three.votes(weighted, "yes", "ana") == "executed"
    outvoted = three.proposes("six against four")
    data = three.reads("vote", outvoted, "no", "--as", "bob")
    assert data["state"] == "rejected" and data["tally"]["no"] == 6 and data["votes"] == 10
    capped = three.proposes("cap", "--set", "vote.cap=30%")
    assert three.votes(capped, "yes", "bob") == "executed"
    after = three.proposes("six count as three")
    data = three.reads("vote", after, "no", "--as", "bob")
    assert data["state"] == "open" and data["tally"]["no"] == 3 and data["votes"] == 7


@pytest.mark.parametrize(("command", "way_out"), [("mint", "--to "), ("class create", "members make one")])
def test_a_token_on_what_others_own(
    three: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, way_out: str
) -> None:
    """Whose asset it is, and what its members can do, where the ledger says only that the signer is none."""
    (tmp_path / "rides.csv").write_text("a,b\n1,2\n")
    asset = three.runs("contribute", str(tmp_path / "rides.csv")).id
    three.runs("member", "add", "dora", "--role", "observer")  # registered; nobody has voted for her
    dao = three.dao()
    me, dora = (show_id("idao", i) for i in (dao.me, dao.actor("dora").idao))
    monkeypatch.setattr(Dao, "actor", lambda self, member="dora", actor=Dao.actor: actor(self, member))
    told = three.fails(5, "not-a-member", *command.split(), asset)
    assert f"{asset} belongs to the iDAO {me} (" in told["message"]
    assert way_out in told["hint"] and asset in told["hint"] and dora not in told["hint"]


def test_who_may_not_vote(three: Person) -> None:
    before = three.proposes("before dora")
    added = three.runs("member", "add", "dora", "--role", "observer")
    assert "state     open" in added.out
    three.fails(5, "not-a-member", "vote", before, "yes", "--as", "dora")
    opened = three.reads("proposal", "list", "--state", "open")["proposals"][-1]["proposal"]
    assert three.votes(opened, "yes", "bob") == "executed"
    three.fails(5, "joined-later", "vote", before, "yes", "--as", "dora")
    after = three.proposes("after dora")
    three.fails(5, "role", "vote", after, "yes", "--as", "dora")
    three.fails(5, "role", "propose", "of an observer", "--as", "dora")


def test_as_takes_names_and_ids_of_keys_here(three: Person) -> None:
    ana = next(m["member"] for m in three.reads("member", "list")["members"] if m["name"] == "ana")
    proposal = three.proposes("a title", "--as", ana)
    three.runs("name", "add", "anna", ana)
    three.votes(proposal, "yes", "anna")
    ballots = three.reads("proposal", "show", proposal)["ballots"]
    assert ballots == [{"member": ana, "choice": "yes"}]
    three.runs("name", "add", "stranger", "idao:" + "a" * 52)
    error = three.fails(4, "not-found", "vote", proposal, "yes", "--as", "stranger")
    assert error["message"] == "no key of 'stranger' in this home"


# --- time -----------------------------------------------------------------------------------------


def test_a_vote_without_turnout_expires_with_the_next_block(three: Person) -> None:
    proposal = three.proposes("who cares", "--set", "policy.use=deny")
    three.votes(proposal, "yes")
    three.wait(7 * DAY + SECOND)
    before = three.files()
    said = three.runs("proposal", "show", proposal)
    assert "state     open" in said.out and "the next block closes the vote" in said.out
    assert three.reads("proposal", "show", proposal)["overdue"]
    assert three.runs("proposal", "settle", "--dry-run").out.startswith(
        f"would take the next step of {proposal}"
    )
    assert three.files() == before
    three.fails(5, "late", "vote", proposal, "yes", "--as", "ana")
    assert three.state_of(proposal) == "expired"


def test_a_timelock_is_waited_for(alone: Person) -> None:
    lock = alone.proposes("lock", "--set", "vote.timelock=3s")
    assert alone.votes(lock, "yes") == "executed"
    slow = alone.proposes("slow", "--set", "policy.use=deny")
    said = alone.runs("vote", slow, "yes")
    assert "state     passed" in said.out and "due" in said.out
    assert alone.runs("proposal", "settle").out == "nothing was due\n"
    alone.wait(3 * SECOND)
    assert "the next block carries it out" in alone.runs("proposal", "show", slow).out
    assert alone.runs("proposal", "settle", "-q").out.split() == [slow]
    assert alone.state_of(slow) == "executed"
    assert alone.reads("audit")["ok"]


def test_proposing_takes_due_steps_first(alone: Person) -> None:
    """Else the charter would change in the very block, and the proposal be one under old rules."""
    alone.votes(alone.proposes("lock", "--set", "vote.timelock=3s"), "yes")
    assert alone.votes(alone.proposes("slow", "--set", "policy.use=deny"), "yes") == "passed"
    alone.wait(3 * SECOND)
    assert alone.reads("propose", "next", "--dry-run")["title"] == "next"
    assert alone.state_of("slow") == "passed"
    alone.proposes("next")
    assert alone.state_of("slow") == "executed"


def test_what_can_not_be_carried_out_any_more_fails(three: Person) -> None:
    ana = next(m["member"] for m in three.reads("member", "list")["members"] if m["name"] == "ana")
    twice = [three.proposes(title, "--remove-member", ana) for title in ("once", "again")]
    for proposal in twice:
        three.votes(proposal, "yes")
    assert three.votes(twice[0], "yes", "bob") == "executed"
    assert three.state_of(twice[1]) == "open"
    data = three.reads("vote", twice[1], "yes", "--as", "bob")
    assert data["state"] == "failed" and data["code"] == "not-a-member"
    assert "failed (not-a-member)" in three.runs("proposal", "show", twice[1]).out


# --- files ----------------------------------------------------------------------------------------


def test_new_terms_of_an_asset(
    lived: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    person = Person(lived.path, monkeypatch, capsys)
    file = tmp_path / "terms.json"
    file.write_text(POLICY)
    wanted = policy_hash(parse(POLICY.encode()))
    cls = person.runs("class", "list", "-q").out.strip()
    proposal = person.proposes(
        "open it", "--policy", f"{lived.asset}={file}", "--class-policy", f"{cls}={file}"
    )
    actions = person.reads("proposal", "show", proposal)["actions"]
    assert [a["action"] for a in actions] == ["asset.policy", "class.policy"]
    assert actions[0]["asset"] == lived.asset and actions[1]["class"] == cls
    assert actions[0]["policy"].startswith("policy:")
    assert person.votes(proposal, "yes") == "executed"
    dao = person.dao()
    version = dao.state().need(assets.AssetVersion, *dao.assets.find(lived.asset))
    assert version.policy == wanted
    with dao.assets.opened() as (_, docs):
        kept = docs.get(wanted, 0, "policy")
    assert kept is not None
    person.fails(4, "not-found", "propose", "x", "--policy", f"nothing={file}")
    file.write_text("{")
    person.fails(2, "usage", "propose", "x", "--policy", f"{lived.asset}={file}")


def test_terms_are_kept_before_the_ledger_has_their_hash(
    lived: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    file = tmp_path / "terms.json"
    file.write_text(POLICY)
    dao = lived.dao()
    monkeypatch.setattr(governance.Governance, "open", killed)
    with pytest.raises(KeyboardInterrupt):
        dao.governance.propose("open it", governance.Wish(policies=(f"{lived.asset}={file}",)))
    with dao.assets.opened() as (_, docs):
        assert docs.get(policy_hash(parse(POLICY.encode())), 0, "policy") is not None


def test_the_text_is_bound_by_its_hash(alone: Person, tmp_path: Path) -> None:
    text = tmp_path / "text.md"
    text.write_text("Why we should.\n")
    proposal = alone.proposes("with a text", "--text", str(text))
    assert "file      is the text" in alone.runs("proposal", "show", proposal, "--text", str(text)).out
    text.write_text("Why we should not.\n")
    said = alone.types("proposal", "show", proposal, "--text", str(text))
    assert said.code == 6 and "file      is NOT the text" in said.out


def test_new_members_with_role_and_weight(alone: Person) -> None:
    ana = alone.runs("member", "add", "ana", "-q").out.strip()
    alone.votes(alone.proposes("out", "--remove-member", "ana"), "yes")
    alone.votes("out", "yes", "ana")
    assert alone.votes(alone.proposes("in", "--add-member", f"{ana}:owner:7"), "yes") == "executed"
    state, me = alone.dao().state(), alone.dao().me
    (added,) = [m for m in state.scan(Member, me) if m.member != me]
    assert (added.role, added.weight) == ("owner", 7)


# --- as typed -------------------------------------------------------------------------------------


def test_the_transcript(tmp_path: Path) -> None:
    script = f"""set -e
    idao() {{ "{sys.executable}" -m idao "$@"; }}
    idao init --name clinic --no-passphrase -q >/dev/null
    P=$(idao propose "allow derived models" --set policy.derive=allow)
    idao vote "$P" yes
    echo "$P" | idao proposal show - -q
    idao vote "$P" no || echo "exit $?"
    """
    environ = {**os.environ, "IDAO_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert re.fullmatch(
        r"state     executed\ntally     yes 1 no 0 abstain 0, of 1 votes\nproposal:[a-z2-7]{52}\nexit 5\n",
        done.stdout,
    ), done.stdout + done.stderr
    assert "idao: error: the vote is closed\n" in done.stderr
