"""Proposals and ballots: what members do with them, and how they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idao import policy
from idao.crypto import canonical
from idao.crypto.hashing import Kind, digest
from idao.errors import NotFound, Refused, UsageError
from idao.frozen import frozen, replace
from idao.home import now_ms, show_time
from idao.ledger import assets, attest, charter, dats, governance
from idao.ledger import idao as people
from idao.ledger.governance import CHOICES, OPEN, PASSED, Ballot, CastBallot, Proposal, Propose
from idao.ledger.registry import KINDS
from idao.ledger.state import State
from idao.ledger.tx import Context
from idao.model import show_id
from idao.store import documents

if TYPE_CHECKING:
    from idao.dao import Dao
    from idao.hall.signing import Actor

TITLE_BYTES_MAX = 200
"""As the ledger's names."""
QUORUM = "quorum"
"""Stands for the iDAO that governs the quorum."""
ID_LENGTH = 57
"""Characters of a full iDAO id."""
WAYS_OUT = {
    "late": "see the outcome: idao proposal show {0}",
    "already-voted": "nothing was changed; another choice changes your ballot",
    "not-a-member": "who belongs to it: idao member list",
    "joined-later": "members vote on what is proposed after they joined",
    "unknown-idao": "a new member's iDAO must be registered on this ledger first",
    "too-many-open": "vote on what is open first: idao proposal list --state open",
}
_ID_KINDS = {"member": "idao", "asset": "asset", "class_id": "class", "policy": "policy"}

ActionList = list[tuple[str, Any]]


@frozen
class Wish:
    """What a proposal should do, as typed; the order is that of the fields."""

    rules: Sequence[str] = ()
    """RULE=VALUE each."""
    add: Sequence[str] = ()
    """ID|PETNAME[:ROLE[:WEIGHT]] each."""
    remove: Sequence[str] = ()
    policies: Sequence[str] = ()
    """ASSET=FILE each."""
    class_policies: Sequence[str] = ()
    """CLASS=FILE each."""
    text: Path | None = None
    tee_policy: str = ""
    """Name or file of what evidence of trusted hardware counts in the quorum."""


class Governance:
    def __init__(self, dao: Dao) -> None:
        self._dao = dao

    # --- proposing

    def propose(
        self, title: str, wish: Wish, *, idao: str = "", by: str = "", dry: bool = False
    ) -> dict[str, Any]:
        """Opens a vote on everything that `wish` says, all or nothing. With `dry` it is only tried.

        `Refused` with the ledger's code for what it would not take, or could not carry out.
        """
        if not title or not title.isprintable() or len(title.encode()) > TITLE_BYTES_MAX:
            raise UsageError(f"a title is one line of 1 to {TITLE_BYTES_MAX} bytes")
        whose = self._whose(idao, wish)
        terms: list[policy.Policy] = []
        actions = self._actions(wish, terms)
        text = digest(Kind.PROPOSAL_TEXT, _read(wish.text, "text")) if wish.text else None
        if dry:
            return self._tried(whose, title, actions, text, by)
        self._keep(terms)  # first: the ledger has their hash alone, and may have it when a crash comes
        return self.open(whose, title, actions, text=text, by=by)

    def _whose(self, idao: str, wish: Wish) -> bytes:
        """Whose proposal it is: named, or the quorum's for its TEE policy, or the owner's."""
        if idao == QUORUM or (wish.tee_policy and not idao):
            return self._dao.store.chain.governor
        return self._dao.resolve_person(idao) if idao else self._dao.me

    def open(
        self, idao: bytes, title: str, actions: ActionList, *, text: bytes | None = None, by: str = ""
    ) -> dict[str, Any]:
        """Opens a vote on `actions`, (name, body) each."""
        self._settle()  # a due change of the charter would make this proposal one under old rules
        body = self._draft(self._dao.state(), idao, title, actions, text)
        done = self._submit("gov.propose", body, self.actor(by))
        made = governance.proposal_id(done, governance.content_hash(body))
        return self._shown(made, None)

    def carry(self, idao: bytes, title: str, actions: ActionList) -> dict[str, Any]:
        """Votes yes on the owner's own open proposal of just this, or opens one first."""
        self._settle()
        state = self._dao.state()
        content = governance.content_hash(self._draft(state, idao, title, actions, None))
        for waiting in state.scan(governance.OpenVote, idao):
            proposal = state.need(Proposal, waiting.proposal)
            if (waiting.proposer, proposal.content) == (self._dao.me, content):
                shown = self._show(state, proposal)
                break
        else:
            shown = self.open(idao, title, actions)
        return (
            shown if shown["choice"] == governance.YES else self.vote(str(shown["proposal"]), governance.YES)
        )

    @staticmethod
    def _draft(state: State, idao: bytes, title: str, actions: ActionList, text: bytes | None) -> Propose:
        if state.get(people.Charter, idao) is None:
            raise NotFound(f"no iDAO '{show_id('idao', idao)}' on this ledger")
        if len(actions) > governance.ACTIONS_MAX:
            raise UsageError(f"a proposal does at most {governance.ACTIONS_MAX} things, not {len(actions)}")
        return governance.draft(state, idao, title, actions, text)

    def _submit(self, kind: str, body: Any, actor: Actor) -> bytes:
        try:
            return self._dao.submit([(kind, body)], actor)[0].tx
        except Refused as e:
            if e.hint is None and e.code in WAYS_OUT:
                subject = show_id("proposal", body.proposal) if isinstance(body, CastBallot) else ""
                e.hint = WAYS_OUT[e.code].format(subject)
            raise

    def _keep(self, terms: Sequence[policy.Policy]) -> None:
        """Terms of use stay at home, found by their hash; the ledger has the hash alone."""
        if not terms:
            return
        with self._dao.home_db() as db:
            docs = documents.Documents(db, self._dao.keys().data)
            for one in terms:
                docs.put(policy.policy_hash(one), 0, documents.POLICY, bytes(32), canonical.pack(one))

    # --- what a proposal does

    def _actions(self, wish: Wish, terms: list[policy.Policy]) -> ActionList:
        out: ActionList = [("charter.set", one) for one in _set_rules(wish.rules)]
        out += [("member.add", self._new_member(text)) for text in wish.add]
        out += [("member.remove", people.RemoveMember(self._dao.resolve_person(t))) for t in wish.remove]
        for what, file in map(_assignment, wish.policies):
            asset, version = self._dao.assets.find(what)
            terms.append(policy.parse(_read(file, "policy")))
            out.append(("asset.policy", assets.SetPolicy(asset, version, policy.policy_hash(terms[-1]))))
        for what, file in map(_assignment, wish.class_policies):
            found = self._dao.tokens.find_class(what)
            terms.append(policy.parse(_read(file, "policy")))
            out.append(("class.policy", dats.SetPolicy(found, policy.policy_hash(terms[-1]))))
        if wish.tee_policy:
            out.append(("tee.policy", _tee_policy(wish.tee_policy)))
        return out

    def _new_member(self, text: str) -> people.AddMember:
        cut = ID_LENGTH if text.startswith("idao:") else text.find(":") % (len(text) + 1)
        role, _, weight = text[cut:].removeprefix(":").partition(":")
        if text[cut:] and not text[cut:].startswith(":"):
            raise UsageError(f"a new member is ID[:ROLE[:WEIGHT]], not '{text}'")
        if weight and not (weight.isascii() and weight.isdigit() and len(weight) < 19):
            raise UsageError(f"a weight is a whole number, not '{weight}'")
        who = self._dao.resolve_person(text[:cut])
        return people.AddMember(who, check_role(role or "member"), check_weight(int(weight or 1)))

    # --- voting

    def vote(self, text: str, choice: str, *, by: str = "", dry: bool = False) -> dict[str, Any]:
        """Casts or changes a ballot, and returns the proposal as the ledger then has it."""
        if choice not in CHOICES:
            raise UsageError(
                f"a ballot says yes, no or abstain, not '{choice}'", hint=f"idao vote {text} yes"
            )
        found = self.find(text)
        body = CastBallot(found, self._dao.state().need(Proposal, found).content, choice)
        if dry:
            voter = self.signer(by)[1]
            state = self._rehearse("gov.vote", body, voter)
            return self._show(state, state.need(Proposal, found), choice)
        self._submit("gov.vote", body, self.actor(by))
        return self._shown(found, choice)

    def settle(self) -> list[dict[str, Any]]:
        """Takes every step whose time has come; returns the proposals that this changed."""
        waiting = list(self._dao.state().scan(governance.Due))
        self._settle()
        state = self._dao.state()
        before = {w.proposal: w.at_ms for w in waiting}
        found = [state.need(Proposal, p) for p in before]
        return [self._show(state, p) for p in found if p.due_ms != before[p.proposal]]

    def _settle(self) -> None:
        first = governance.next_due(self._dao.state())
        if first is not None and first <= now_ms():
            self._dao.settle()

    # --- who signs

    def signer(self, by: str) -> tuple[str | None, bytes]:
        """(name of the key in this home, or None for the owner's; iDAO). Needs no key.

        `by` is the name of a member kept here, a petname, or an id.
        """
        from idao.identity import idao_id

        home = self._dao.home
        own = {name: idao_id(home.history(name).inception) for name in home.members()}
        if by in own:
            return by, own[by]
        who = self._dao.resolve_person(by) if by else self._dao.me
        if who == self._dao.me:
            return None, who
        for name, idao in own.items():
            if idao == who:
                return name, who
        raise NotFound(f"no key of '{by}' in this home", hint="a member votes where the key is")

    def actor(self, by: str) -> Actor:
        return self._dao.actor(self.signer(by)[0])

    # --- trying without signing

    def _tried(
        self, idao: bytes, title: str, actions: ActionList, text: bytes | None, by: str
    ) -> dict[str, Any]:
        body = self._draft(self._rehearsal().state, idao, title, actions, text)
        content = governance.content_hash(body)
        state = self._rehearse("gov.propose", body, self.signer(by)[1])
        return self._show(state, state.need(Proposal, governance.proposal_id(bytes(32), content)))

    def _rehearsal(self) -> Context:
        """Where the next block would begin: an overlay of the state in which due steps have been taken."""
        store = self._dao.store
        tip = store.tip()
        _, validators = store.validators(tip.height + 1)
        ids = tuple(v.idao for v in validators.validators)
        time_ms = max(now_ms(), tip.time_ms + 1)
        ctx = Context(
            State(tip.base), store.chain.quorum, tip.height + 1, time_ms, governance.NO_ACTOR, bytes(32),
            len(ids), ids, store.chain.governor,
        )  # fmt: skip
        for proposal in governance.due(ctx.state, time_ms):
            governance.run_due(replace(ctx, tx=proposal), proposal)
        return ctx

    def _rehearse(self, kind: str, body: Any, actor: bytes) -> State:
        """The state after this transaction; raises what the ledger would. Nothing is kept."""
        ctx = replace(self._rehearsal(), actor=actor)
        KINDS[kind].apply(ctx, body)
        return ctx.state

    # --- showing

    def _known(self) -> list[tuple[bytes, str]]:
        return [(p.proposal, p.title) for p in self._dao.state().scan(Proposal)]

    def find(self, text: str) -> bytes:
        """A proposal by id, prefix, or unique title."""
        try:
            found = self._dao.resolve("proposal", text, self._known)
            if self._dao.state().get(Proposal, found) is not None:
                return found
            raise NotFound(f"no proposal '{text}' on this ledger")
        except NotFound as e:
            e.hint = e.hint or "see 'idao proposal list'"
            raise

    def listing(self, state: str = "") -> list[dict[str, Any]]:
        """All proposals, or those in one state, oldest first."""
        ledger = self._dao.state()
        found = [p for p in ledger.scan(Proposal) if not state or p.state == state]
        return [self._show(ledger, p) for p in sorted(found, key=lambda p: (p.height, p.proposal))]

    def show(self, text: str, *, document: Path | None = None) -> dict[str, Any]:
        """One proposal; with `document`, whether that is the text it names."""
        shown = self._shown(self.find(text), None)
        if document is not None:
            shown["text_matches"] = shown["text"] == digest(Kind.PROPOSAL_TEXT, _read(document, "text")).hex()
        return shown

    def _shown(self, proposal: bytes, choice: str | None) -> dict[str, Any]:
        state = self._dao.state()
        return self._show(state, state.need(Proposal, proposal), choice)

    def _show(self, state: State, p: Proposal, choice: str | None = None) -> dict[str, Any]:
        """As JSON. `choice` is the ballot of this home's owner unless the caller knows whose is meant."""
        shown = governance.show(state, p)
        own = state.get(Ballot, p.proposal, self._dao.me)
        for key in ("ends", "closed", "due"):
            ms = shown.pop(f"{key}_ms")
            shown[key] = show_time(ms) if ms else None
        shown["actions"] = [_with_ids(action) for action in shown["actions"]]
        shown["choice"] = choice or (own.choice if own else None)
        shown["overdue"] = p.state in (OPEN, PASSED) and 0 < p.due_ms <= now_ms()
        return shown


def _read(path: Path, what: str) -> bytes:
    from idao.hall.contribute import read_small  # with all that contributing needs: only where it is used

    return read_small(path, what)


def check_role(role: str) -> str:
    if role not in people.ROLES:
        raise UsageError(f"'{role}' is not a role", hint=f"one of: {', '.join(people.ROLES)}")
    return role


def check_weight(weight: int) -> int:
    if not 0 <= weight <= people.WEIGHT_MAX:
        raise UsageError(f"a weight is a whole number from 0 to {people.WEIGHT_MAX}")
    return weight


def _set_rules(texts: Sequence[str]) -> list[people.SetRule]:
    out: dict[str, people.SetRule] = {}
    for text in texts:
        rule, equals, value = text.partition("=")
        if not equals:
            raise UsageError(
                f"--set takes RULE=VALUE, not '{text}'", hint="idao propose --help lists the rules"
            )
        if rule in out:
            raise UsageError(f"'{rule}' is set twice in one proposal")
        out[rule] = people.SetRule(rule, canonical.encode(charter.from_text(rule, value)))
    return list(out.values())


def _tee_policy(named: str) -> attest.SetTeePolicy:
    from idao.hall.evidence import read_policy

    packed = canonical.pack(read_policy(named))
    if len(packed) > attest.POLICY_BYTES_MAX:
        raise UsageError(f"a TEE policy for a vote has at most {attest.POLICY_BYTES_MAX} bytes when packed")
    return attest.SetTeePolicy(packed)


def _assignment(text: str) -> tuple[str, Path]:
    what, equals, file = text.partition("=")
    if not equals or not what or not file:
        raise UsageError(f"new terms are given as WHAT=FILE, not '{text}'")
    return what, Path(file)


def _with_ids(action: dict[str, Any]) -> dict[str, Any]:
    """An action with its ids in full text, and a TEE policy as its file."""
    if "tee_policy" in action:
        from idao.tee.policy import TeePolicy, to_json

        found = canonical.unpack(TeePolicy, bytes.fromhex(action["tee_policy"]))
        return {"action": action["action"], "hash": found.digest.hex(), "tee_policy": to_json(found)}
    return {
        key.removesuffix("_id"): show_id(_ID_KINDS[key], bytes.fromhex(value)) if key in _ID_KINDS else value
        for key, value in action.items()
    }
