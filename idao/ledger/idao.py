"""Identities, charters, members, trust: who an iDAO is, by which rules it lives, who belongs to it.

An iDAO is an identity with a charter. Its first member is itself, in the role `owner`. Other people join
as members with iDAOs (hence keys) of their own, registered on the ledger by `idao.register`.
"""

from __future__ import annotations

from functools import reduce
from typing import Annotated, Any

from idao import identity
from idao.crypto import canonical
from idao.crypto.hashing import Kind, digest
from idao.errors import VerificationFailed
from idao.frozen import frozen, replace
from idao.ledger import charter
from idao.ledger.state import State, record
from idao.ledger.tx import Context, Envelope, TxKind, refuse
from idao.model import Hash, Id, Inception, PublicKey, Range, SignedKeyEvent, Size, Word

KEY_EVENTS_MAX = 128
"""Key events in one tx, home or genesis: a rotation each month for ten years still fits a tx."""
ROLES = ("owner", "member", "observer")
MEMBERS_MAX = 1000
"""People of one iDAO; a tally reads them all."""
TRUST_LINKS_MAX = 256
"""Quorums one iDAO trusts; whoever picks a quorum for it reads them all."""
TRUST_SCOPE_MAX = 32
"""Kinds, or categories, that one link names: more than there are."""
TRUST_WEIGHT_MAX = 10_000
"""Only the ratio of weights matters; four digits say all that a person can mean."""
Scope = Annotated[tuple[Word, ...], Size(0, TRUST_SCOPE_MAX)]
WEIGHT_MAX = 2**31
"""Votes of one member: the sum over `MEMBERS_MAX` members stays far below 2^63."""
Weight = Annotated[int, Range(0, WEIGHT_MAX)]


@record("identity", key=("idao",))
@frozen
class Identity:
    """Who may sign for an iDAO.

    idao: the iDAO's id
    key: its current public key
    key_seq: number of that key; the inception's is 0
    next: hash of the public key that a rotation may bring in
    recovery: hash of the recovery key that may rotate it
    head: hash of the last key event, or of the inception record
    seq: highest sequence number used by its transactions
    since: height at which it was registered
    """

    idao: Id
    key: PublicKey
    key_seq: int
    next: Hash
    recovery: Hash
    head: Hash
    seq: int
    since: int


@record("charter", key=("idao",))
@frozen
class Charter:
    """The rules of an iDAO in force.

    idao: whose rules
    version: counts the changes, from 1
    hash: hash of the rules
    rules: canonical map of rule to value
    """

    idao: Id
    version: int
    hash: Hash
    rules: Annotated[bytes, Size(1, 16384)]


@record("member", key=("idao", "member"))
@frozen
class Member:
    """One person of an iDAO.

    idao: the iDAO
    member: the person's own iDAO id
    role: owner, member or observer
    weight: votes in the weighted method
    since: height of joining
    """

    idao: Id
    member: Id
    role: Word
    weight: Weight
    since: int


@record("trust_link", key=("idao", "quorum"))
@frozen
class TrustLink:
    """An iDAO's explicit, scoped trust in a quorum.

    idao: who trusts
    quorum: the trusted quorum
    kinds: kinds of asset it is trusted with, in order; none means all
    categories: categories of data it is trusted with, in order; none means all
    weight: against other trusted quorums, from 1
    since: height of the link
    """

    idao: Id
    quorum: Id
    kinds: Scope
    categories: Scope
    weight: int
    since: int


def charter_hash(rules: bytes) -> bytes:
    return digest(Kind.CHARTER, rules)


def found(state: State, inception: Inception, events: tuple[SignedKeyEvent, ...], rules: bytes) -> bytes:
    """Genesis: writes an iDAO with its charter and itself as owner. Returns its id."""
    idao = _register(state, inception, events, 0)
    parsed = charter.parse(rules)
    state.put(Charter(idao, 1, charter_hash(rules), charter.encode(parsed)))
    state.put(Member(idao, idao, "owner", 1, 0))
    return idao


def _register(state: State, inception: Inception, events: tuple[SignedKeyEvent, ...], height: int) -> bytes:
    now = identity.key_at(inception, events)
    state.put(Identity(now.idao, now.key, now.key_seq, now.next, now.recovery, now.head, 0, height))
    return now.idao


def rules_of(state: State, idao: bytes) -> dict[str, Any]:
    """The rules in force of an iDAO: every key present, defaults filled in."""
    found_charter = state.get(Charter, idao)
    rules: dict[str, Any] = charter.kept(found_charter.rules) if found_charter else charter.defaults()
    return rules


def role_of(state: State, idao: bytes, member: bytes) -> str | None:
    found_member = state.get(Member, idao, member)
    return found_member.role if found_member else None


def require(ctx: Context, idao: bytes, act: str) -> None:
    """Refuses unless the actor may do `act` (propose, vote, contribute, mint, …) for `idao`."""
    role = role_of(ctx.state, idao, ctx.actor)
    if role is None:
        refuse("not-a-member", "the signer is not a member of the iDAO")
    if role != "owner" and rules_of(ctx.state, idao).get(f"role.{role}.{act}") != "allow":
        refuse("role", f"the role '{role}' may not {act}")


# --- idao.register --------------------------------------------------------------------------------


@frozen
class Register:
    """Brings an identity onto this ledger with its key history and the default charter of one."""

    inception: Inception
    events: Annotated[tuple[SignedKeyEvent, ...], Size(0, KEY_EVENTS_MAX)]


def _register_authority(state: State, envelope: Envelope, body: Register) -> bool:
    """The key that the presented history leads to signs its own registration."""
    try:
        now = identity.key_at(body.inception, body.events)
    except VerificationFailed:
        return False
    return (envelope.idao, envelope.key, envelope.key_seq) == (now.idao, now.key, now.key_seq) and state.get(
        Identity, envelope.idao
    ) is None


def _apply_register(ctx: Context, body: Register) -> None:
    idao = _register(ctx.state, body.inception, body.events, ctx.height)
    rules = charter.encode(charter.defaults())
    ctx.state.put(Charter(idao, 1, charter_hash(rules), rules))
    ctx.state.put(Member(idao, idao, "owner", 1, ctx.height))


# --- idao.rotate ----------------------------------------------------------------------------------


@frozen
class Rotate:
    """The key events that this ledger lacks, in order. The envelope is signed by the key they lead to.

    Several, so that a ledger that was out of reach for some rotations catches up without the keys between.
    Events up to the key number known here are skipped, so two such transactions may overlap.
    """

    events: Annotated[tuple[SignedKeyEvent, ...], Size(1, KEY_EVENTS_MAX)]


def _rotate_authority(state: State, envelope: Envelope, body: Rotate) -> bool:
    now = state.get(Identity, envelope.idao)
    if now is None:
        return False
    try:
        after = _advanced(now, body)
    except VerificationFailed:
        return False
    return (envelope.key, envelope.key_seq) == (after.key, after.key_seq)


def _advanced(rec: Identity, body: Rotate) -> identity.KeyState:
    start = identity.KeyState(rec.idao, rec.key, rec.key_seq, rec.next, rec.head, rec.recovery)
    return reduce(identity.advance, (e for e in body.events if e.event.key_seq > rec.key_seq), start)


def _apply_rotate(ctx: Context, body: Rotate) -> None:
    rec = ctx.state.need(Identity, ctx.actor)
    now = _advanced(rec, body)
    ctx.state.put(
        replace(rec, key=now.key, key_seq=now.key_seq, next=now.next, recovery=now.recovery, head=now.head)
    )


# --- trust.add, trust.remove ------------------------------------------------------------------------


@frozen
class AddTrust:
    """The signer trusts a quorum, here or elsewhere. Given again, the new scope replaces the old."""

    quorum: Id
    kinds: Scope
    categories: Scope
    weight: Annotated[int, Range(1, TRUST_WEIGHT_MAX)]


@frozen
class RemoveTrust:
    quorum: Id


def trust_own(state: State, idao: bytes, quorum: bytes) -> None:
    """Genesis: a founder trusts the quorum it makes, with everything."""
    state.put(TrustLink(idao, quorum, (), (), 1, 0))


def _apply_add_trust(ctx: Context, body: AddTrust) -> None:
    for scope in (body.kinds, body.categories):
        if len(scope) > 1 and list(scope) != sorted(set(scope)):
            refuse("scope", "kinds and categories are listed once each, in order")
    now = ctx.state.get(TrustLink, ctx.actor, body.quorum)
    if now is None and sum(1 for _ in ctx.state.scan(TrustLink, ctx.actor)) >= TRUST_LINKS_MAX:
        refuse("too-many-links", f"an iDAO trusts at most {TRUST_LINKS_MAX} quorums")
    ctx.state.put(TrustLink(ctx.actor, body.quorum, body.kinds, body.categories, body.weight, ctx.height))


def _apply_remove_trust(ctx: Context, body: RemoveTrust) -> None:
    if ctx.state.get(TrustLink, ctx.actor, body.quorum) is None:
        refuse("not-trusted", "the signer has no trust link to that quorum")
    ctx.state.delete(TrustLink, ctx.actor, body.quorum)


# --- members and charter, as actions of governance --------------------------------------------------


@frozen
class AddMember:
    member: Id
    role: Word
    weight: Weight


@frozen
class RemoveMember:
    member: Id


@frozen
class SetRule:
    """One rule of the charter; `value` is canonical CBOR of an integer or a text."""

    rule: Word
    value: Annotated[bytes, Size(1, 512)]


def add_member(ctx: Context, idao: bytes, body: AddMember) -> None:
    if body.role not in ROLES:
        refuse("unknown-role", f"'{body.role}' is not a role")
    if idao == ctx.quorum and body.role == "owner":
        refuse("validators-own", "the owners of a quorum are its validators: see 'validator.admit'")
    if ctx.state.get(Identity, body.member) is None:
        refuse("unknown-idao", "the new member is not registered on this ledger")
    if ctx.state.get(Member, idao, body.member) is not None:
        refuse("already-member", "already a member")
    if sum(1 for _ in ctx.state.scan(Member, idao)) >= MEMBERS_MAX:
        refuse("too-many-members", f"an iDAO has at most {MEMBERS_MAX} members")
    ctx.state.put(Member(idao, body.member, body.role, body.weight, ctx.height))


def remove_member(ctx: Context, idao: bytes, body: RemoveMember) -> None:
    gone = ctx.state.get(Member, idao, body.member)
    if gone is None:
        refuse("not-a-member", "not a member")
    if idao == ctx.quorum and gone.role == "owner":
        refuse("validators-own", "the owners of a quorum are its validators: see 'validator.remove'")
    owners = [m for m in ctx.state.scan(Member, idao) if m.role == "owner"]
    if gone.role == "owner" and len(owners) == 1:
        refuse("last-owner", "an iDAO keeps at least one owner")
    ctx.state.delete(Member, idao, body.member)


def set_rule(ctx: Context, idao: bytes, body: SetRule) -> None:
    now = ctx.state.need(Charter, idao)
    rules = charter.kept(now.rules)
    charter.check_rule(body.rule, value := canonical.decode(body.value))
    rules[body.rule] = value
    encoded = charter.encode(rules)
    ctx.state.put(Charter(idao, now.version + 1, charter_hash(encoded), encoded))


ACTIONS = {
    "charter.set": (SetRule, set_rule),
    "member.add": (AddMember, add_member),
    "member.remove": (RemoveMember, remove_member),
}
RECORDS = (Identity, Charter, Member, TrustLink)
KINDS = (
    TxKind("idao.register", Register, _apply_register, authority=_register_authority),
    TxKind("idao.rotate", Rotate, _apply_rotate, authority=_rotate_authority),
    TxKind("trust.add", AddTrust, _apply_add_trust),
    TxKind("trust.remove", RemoveTrust, _apply_remove_trust),
)
