"""A group that lost too many, continued by what is left of it: a plan, the others' consent, a new quorum.

    draft    one of those who remain founds a new quorum on paper: the genesis, signed by its founder
    consent  each of the others reads it against a ledger of its own, and signs
    carry    the founder, with members behind it that had more than half of the power, begins

Plan and consent are files that people pass to each other; nothing in them is secret. The founder's phrase of
the old quorum does the same alone (recovery.GroupSuccession); a verifier is told how many stand behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from idao import validatorkeys
from idao.crypto import canonical
from idao.crypto.keys import Signer, verify_genesis
from idao.errors import Malformed, NotFound, Refused, UsageError, VerificationFailed
from idao.frozen import frozen
from idao.hall.recovery import Continued, GroupSuccession, next_name
from idao.home import entropy, now_ms
from idao.identity import idao_id, key_at
from idao.ledger import charter, genesis, idao, lineage, succession
from idao.ledger.genesis import Founder
from idao.ledger.succession import Ancestry, Supporter
from idao.model import Genesis, Id, Size, Validator, show_id
from idao.store.ledger import LedgerStore

if TYPE_CHECKING:
    from idao.dao import Dao

PLAN, CONSENT = b"idao recovery plan 1\n", b"idao recovery consent 1\n"
"""First lines of the two files."""
FILE_BYTES_MAX = 10 * 1024 * 1024
"""An ancestry has at most 8 MiB; a plan carries one."""

T = TypeVar("T")


@frozen
class Plan:
    genesis: Genesis
    rules: Annotated[bytes, Size(1, 16384)]
    founder: Founder
    before: Ancestry


@frozen
class Given:
    """One member's consent to the genesis with this id."""

    quorum: Id
    supporter: Supporter


# --- one who remains: draft -----------------------------------------------------------------------------


def draft(dao: Dao, *, dry: bool = False) -> tuple[bytes, dict[str, Any]]:
    """The plan of a quorum that continues the chosen one from its newest anchor, founded by this iDAO."""
    store, keys, history = dao.store, dao.keys(), dao.home.history()
    store.require_live()
    if store.bundle.genesis.kind != genesis.GROUP:
        raise Refused("a quorum of one is continued by its phrase: idao quorum recover", code="not-a-group")
    parent, before = store.ancestry()
    old, seed = store.bundle.genesis, validatorkeys.fresh()
    rules = store.state().need(idao.Charter, dao.quorum).rules
    stake = sum(units for _, units in old.stake)
    made = genesis.group_genesis(
        name=next_name(old.name),
        nonce=entropy(32),
        time_ms=max(now_ms(), store.tip().time_ms + 1),
        founders=(genesis.Seated(history.inception, history.events, Signer(seed).public, stake),),
        rules=rules,
        recovery_threshold=1,
        recovery_keys=(dao.groups.authority(),),
        parent=parent,
    )
    plan = Plan(
        made, rules, Founder(history.inception, history.events, keys.identity.sign_genesis(made)), before
    )
    told = _told(dao, plan, ())
    if not dry:
        validatorkeys.keep(dao.home, genesis.quorum_id(made), seed, keys.kek)
    return PLAN + canonical.pack(plan), told


def _told(dao: Dao, plan: Plan, supporters: Sequence[Supporter]) -> dict[str, Any]:
    """What a plan means, with those behind it so far. `VerificationFailed` when it does not hold."""
    parent = plan.genesis.parent
    assert parent is not None
    before = Ancestry(plan.before.genesis, plan.before.lineage, tuple(supporters))
    behind = succession.judge(plan.genesis, parent.quorum, before)
    with closing(_ledger(dao, parent.quorum)) as store:
        lost = max(0, store.height - parent.height)
        here = charter.kept(store.state().need(idao.Charter, parent.quorum).rules)
    needed = behind.total_power // 2 + 1
    return {
        "quorum": show_id("quorum", genesis.quorum_id(plan.genesis)),
        "name": plan.genesis.name,
        "parent": show_id("quorum", parent.quorum),
        "parent_height": parent.height,
        "blocks_lost": lost,
        "founder": show_id("idao", plan.genesis.validators.validators[0].idao),
        "stake": sum(units for _, units in plan.genesis.stake),
        "rules": _changed(here, charter.parse(plan.rules)),
        "members": [show_id("idao", v.idao) for v in _members(plan)],
        "power": behind.power,
        "needed_power": needed,
        "total_power": behind.total_power,
    }


def _changed(here: charter.Rules, planned: charter.Rules) -> list[str]:
    """Where the plan's charter departs from the one that is in force here: a consent covers it too."""
    return [
        f"{key}: {charter.to_text(key, here[key])} -> {charter.to_text(key, planned[key])}"
        for key in sorted(planned)
        if here[key] != planned[key]
    ]


def _members(plan: Plan) -> tuple[Validator, ...]:
    """Those who decided last, as the plan proves: a ledger here may not have come so far."""
    before = plan.before
    links = lineage.follow(genesis.quorum_id(before.genesis), before.genesis.validators, before.lineage)
    return links.sets[-1].validators


def _ledger(dao: Dao, quorum: bytes) -> LedgerStore:
    path = dao.home.ledgers_folder / f"{show_id('quorum', quorum).removeprefix('quorum:')}.db"
    if not path.exists():
        raise NotFound(f"this home has no ledger of {show_id('quorum', quorum)}", hint="idao quorum list")
    return LedgerStore.open(path, readonly=True)


# --- the others: consent --------------------------------------------------------------------------------


def read_plan(data: bytes) -> Plan:
    """A plan whose founder has signed it and sat in the quorum that it continues."""
    plan = _unpack(Plan, PLAN, data, "recovery plan")
    made, founder = plan.genesis, plan.founder
    now = key_at(founder.inception, founder.events)
    alone = [v.idao for v in made.validators.validators] == [now.idao]
    if made.kind != genesis.GROUP or made.parent is None or not alone:
        raise VerificationFailed("the plan is not one of a group that continues another with one founder")
    if genesis.quorum_id(plan.before.genesis) != made.parent.quorum:
        raise VerificationFailed("the plan continues another quorum than it tells of")
    if not verify_genesis(now.key, founder.signature, made) or idao.charter_hash(plan.rules) != made.charter:
        raise VerificationFailed("the founder's signature on the plan, or its charter, does not hold")
    return plan


def look(dao: Dao, plan: Plan) -> dict[str, Any]:
    """What the plan means, judged by the ledger of this home. `Refused` where that knows better."""
    told = _told(dao, plan, ())
    parent = plan.genesis.parent
    assert parent is not None
    with closing(_ledger(dao, parent.quorum)) as store:
        store.require_live()
        if parent.height <= store.height and store.header_hash(parent.height) != parent.header:
            raise Refused(
                f"block {parent.height} here is another than the plan's: the ledgers have parted",
                hint="idao quorum forensics",
                code="other-chain",
            )
        anchored = store.ancestry()[0].height
        if anchored > parent.height:
            raise Refused(
                f"the plan goes on from height {parent.height}, and height {anchored} is anchored here",
                hint="draft the plan in this home: idao quorum recover --draft FILE",
                code="behind",
            )
    if dao.me not in {v.idao for v in _members(plan)}:
        raise Refused("this iDAO did not decide in that quorum when it last anchored", code="no-seat")
    if told["founder"] == show_id("idao", dao.me):
        raise UsageError("this is your own plan: the others consent to it")
    return told


def consent(dao: Dao, plan: Plan) -> bytes:
    """This iDAO's signature on the plan's genesis, for its founder."""
    look(dao, plan)
    history = dao.home.history()
    signature = dao.keys().identity.sign_genesis(plan.genesis)
    supporter = Supporter(history.inception, history.events, signature)
    return CONSENT + canonical.pack(Given(genesis.quorum_id(plan.genesis), supporter))


# --- the founder: carry ---------------------------------------------------------------------------------


def gather(dao: Dao, plan: Plan, files: Sequence[bytes]) -> tuple[list[Supporter], dict[str, Any]]:
    """The consents in these files, and what the plan has behind it by them."""
    own = genesis.quorum_id(plan.genesis)
    found: dict[bytes, Supporter] = {}
    for data in files:
        given = _unpack(Given, CONSENT, data, "consent")
        if given.quorum != own:
            raise UsageError("a consent is to another plan than this one")
        found[idao_id(given.supporter.inception)] = given.supporter
    supporters = [found[i] for i in sorted(found)]
    return supporters, _told(dao, plan, supporters)


def carry(dao: Dao, plan: Plan, supporters: Sequence[Supporter]) -> Continued:
    """Begins the new quorum and ends the old one in this home. `Refused` with too few behind it."""
    told = _told(dao, plan, supporters)
    if told["power"] < told["needed_power"]:
        raise Refused(
            f"power {told['power']} of {told['total_power']} stands behind it; {told['needed_power']} must",
            hint="more of the members consent: idao quorum recover --consent PLAN -o FILE",
            code="too-few",
        )
    before = Ancestry(plan.before.genesis, plan.before.lineage, tuple(supporters))
    bundle = genesis.recovered(plan.genesis, plan.rules, (plan.founder,), (), before)
    return AgreedSuccession(dao, bundle).run()


class AgreedSuccession(GroupSuccession):
    """A group continued by its members' agreement: the genesis is made, and no phrase is asked."""

    def __init__(self, dao: Dao, bundle: genesis.Bundle) -> None:
        parent = bundle.genesis.parent
        assert parent is not None
        self.home, self.keys, self.wait_s = dao.home, dao.keys(), dao.wait_s
        self._old, self._me, self._made = _ledger(dao, parent.quorum), dao.me, bundle
        own = bundle.genesis.validators.validators[0]
        if own.idao != dao.me:
            raise Refused("the plan is another one's: its founder begins the quorum", code="not-founder")
        validatorkeys.of_key(dao.home, genesis.quorum_id(bundle.genesis), self.keys, own.key)

    def _bundle(self, name: str | None) -> genesis.Bundle:
        return self._made


def _unpack(kind: type[T], first: bytes, data: bytes, what: str) -> T:
    if len(data) > FILE_BYTES_MAX or not data.startswith(first):
        raise UsageError(f"not a {what}")
    try:
        return canonical.unpack(kind, data[len(first) :], limit=FILE_BYTES_MAX)
    except Malformed as e:
        raise VerificationFailed(f"the {what} is damaged: {e.message}") from e
