"""The beginning of a ledger: the signed genesis, the state it gives, and the epochs that follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from idao import identity
from idao.crypto import canonical, keys, merkle, statetree
from idao.crypto.hashing import Kind, hash_of
from idao.errors import VerificationFailed
from idao.frozen import frozen
from idao.ledger import accounts, charter, epochs, idao, membership, succession
from idao.ledger.epochs import Epoch as Epoch
from idao.ledger.epochs import epoch_at as epoch_at
from idao.ledger.execution import Chain, Executed, Layer, tree_changes
from idao.ledger.state import DictBase, State
from idao.ledger.succession import Consent
from idao.model import (
    VALIDATORS_MAX,
    Genesis,
    Inception,
    Parent,
    Signature,
    SignedKeyEvent,
    Size,
    Validator,
    ValidatorSet,
)

FORMATS = 1
"""Version of all formats of a ledger; a later one comes with a rule at which height it begins."""
PERSON, GROUP = "person", "quorum"
ANCESTRY_MAX = 8 * 1024 * 1024
"""Packed ancestry: as many links as there may be, with the sets of a large quorum, take about half."""


@frozen
class Founder:
    """One iDAO that stands behind a genesis: its key history and its signature on the genesis."""

    inception: Inception
    events: Annotated[tuple[SignedKeyEvent, ...], Size(0, idao.KEY_EVENTS_MAX)]
    signature: Signature


@frozen
class Bundle:
    """The genesis with all that a stranger needs to check it. It is stored, and travels in every proof."""

    genesis: Genesis
    charter: Annotated[bytes, Size(1, 16384)]
    founders: Annotated[tuple[Founder, ...], Size(1, VALIDATORS_MAX)]
    recovery: Annotated[tuple[Consent, ...], Size(0, VALIDATORS_MAX)] = ()
    """When this continues another quorum: by recovery keys, each named by this genesis and by the old one,
    in order of the keys, at least as many as the old one asks for; or none, by a majority of its members."""
    before: Annotated[bytes, Size(0, ANCESTRY_MAX)] = b""
    """A group that continues another carries its `succession.Ancestry`, packed; others carry nothing."""


RECORDS = (Epoch,)
KINDS = ()


def quorum_id(genesis: Genesis) -> bytes:
    """The hash of the genesis: quorum id and chain id in one."""
    return hash_of(Kind.GENESIS, genesis)


def chain_of(genesis: Genesis) -> Chain:
    quorum = quorum_id(genesis)
    return Chain(quorum, genesis.validators.validators[0].idao if genesis.kind == PERSON else quorum)


def personal(
    *,
    name: str,
    nonce: bytes,
    time_ms: int,
    validator_key: bytes,
    stake: int,
    rules: bytes,
    recovery_key: bytes,
    owner: tuple[Inception, tuple[SignedKeyEvent, ...]],
    signer: keys.Signer,
    parent: Parent | None = None,
    recovery: keys.Signer | None = None,
) -> Bundle:
    """The genesis of a quorum of one, signed by its owner (and by the recovery key if it has a parent)."""
    owner_id = identity.idao_id(owner[0])
    genesis = Genesis(
        v=1,
        kind=PERSON,
        nonce=nonce,
        formats=FORMATS,
        time_ms=time_ms,
        name=name,
        validators=ValidatorSet((Validator(owner_id, validator_key, 1),)),
        stake=((owner_id, stake),),
        charter=idao.charter_hash(rules),
        recovery_threshold=1,
        recovery_keys=(recovery_key,),
        parent=parent,
    )
    return Bundle(
        genesis,
        rules,
        (Founder(*owner, signer.sign_genesis(genesis)),),
        (Consent(recovery.public, recovery.sign_genesis(genesis)),) if recovery else (),
    )


@frozen
class Seated:
    """A founder of a group: its key history, the key that will sign blocks for it, and its first stake."""

    inception: Inception
    events: tuple[SignedKeyEvent, ...]
    validator_key: bytes
    stake: int

    @property
    def idao(self) -> bytes:
        return identity.idao_id(self.inception)


def group_genesis(
    *,
    name: str,
    nonce: bytes,
    time_ms: int,
    founders: Sequence[Seated],
    rules: bytes,
    recovery_threshold: int,
    recovery_keys: Sequence[bytes],
    parent: Parent | None = None,
) -> Genesis:
    """The genesis of a group, which every founder then signs. One founder begins in founder mode."""
    ordered = sorted(founders, key=lambda f: f.idao)
    return Genesis(
        v=1,
        kind=GROUP,
        nonce=nonce,
        formats=FORMATS,
        time_ms=time_ms,
        name=name,
        validators=ValidatorSet(tuple(Validator(f.idao, f.validator_key, 1) for f in ordered)),
        stake=tuple((f.idao, f.stake) for f in ordered),
        charter=idao.charter_hash(rules),
        recovery_threshold=recovery_threshold,
        recovery_keys=tuple(sorted(recovery_keys)),
        parent=parent,
    )


def group(
    *,
    name: str,
    nonce: bytes,
    time_ms: int,
    founder: Seated,
    signer: keys.Signer,
    rules: bytes,
    recovery_threshold: int,
    recovery_keys: Sequence[bytes],
) -> Bundle:
    """A group that one iDAO begins. `signer` holds the founder's identity key; `rules` govern the group."""
    genesis = group_genesis(
        name=name,
        nonce=nonce,
        time_ms=time_ms,
        founders=(founder,),
        rules=rules,
        recovery_threshold=recovery_threshold,
        recovery_keys=recovery_keys,
    )
    signed = Founder(founder.inception, founder.events, signer.sign_genesis(genesis))
    return Bundle(genesis, rules, (signed,))


def check_bundle(bundle: Bundle, parent: Genesis | None = None) -> None:
    """`VerificationFailed` unless every founder signed this genesis and its charter and members agree.

    A genesis that continues another must be signed by a recovery key: its own, and one that `parent`, the
    genesis continued, names too if it is at hand. For a group, more than half of its members' power will do.
    """
    genesis = bundle.genesis
    if genesis.formats != FORMATS:
        raise VerificationFailed(f"a ledger of format {genesis.formats}; this program knows {FORMATS}")
    if idao.charter_hash(bundle.charter) != genesis.charter:
        raise VerificationFailed("the charter is not the one the genesis names")
    charter.parse(bundle.charter)
    founders = []
    for founder in bundle.founders:
        now = identity.key_at(founder.inception, founder.events)
        if not keys.verify_genesis(now.key, founder.signature, genesis):
            raise VerificationFailed("a founder's signature on the genesis does not hold")
        founders.append(now.idao)
    if founders != [v.idao for v in genesis.validators.validators]:
        raise VerificationFailed("the founders are not the first validators")
    if genesis.kind not in (PERSON, GROUP) or (genesis.kind == PERSON and len(founders) != 1):
        raise VerificationFailed("a quorum of one has one founder")
    if not membership.balanced(list(genesis.validators.validators)):
        raise VerificationFailed("the powers of the first validators do not balance")
    if [holder for holder, _ in genesis.stake] != sorted({holder for holder, _ in genesis.stake}):
        raise VerificationFailed("the first stake is not listed once for each, in order")
    if len(set(genesis.recovery_keys)) < max(len(genesis.recovery_keys), genesis.recovery_threshold):
        raise VerificationFailed("the recovery keys are not distinct, or fewer than are needed")
    _check_recovery(bundle, parent)


def _check_recovery(bundle: Bundle, parent: Genesis | None) -> None:
    genesis, consents = bundle.genesis, bundle.recovery
    if consents if genesis.parent is None else not consents and genesis.kind == PERSON:
        raise VerificationFailed(
            "recovery signatures belong to a genesis that continues another, and only there"
        )
    told = ancestry_of(bundle)
    if genesis.parent is None:
        return
    allowed, needed = set(genesis.recovery_keys), 1
    for old in (parent, told.genesis if told else None):
        if old is not None:
            if quorum_id(old) != genesis.parent.quorum:
                raise VerificationFailed("the genesis continues another quorum than the one given")
            allowed &= set(old.recovery_keys)
            needed = old.recovery_threshold
    signers = [c.key for c in consents]
    if signers != sorted(set(signers)):
        raise VerificationFailed("recovery signatures are not listed once each, in order of their keys")
    if not all(c.key in allowed and keys.verify_genesis(c.key, c.signature, genesis) for c in consents):
        raise VerificationFailed("not every recovery key that signed may continue the old quorum")
    stands = behind(bundle)
    if len(signers) < needed and not (stands and stands.is_majority):
        raise VerificationFailed(
            f"{needed} recovery keys must sign to continue the old quorum"
            f"{', or more than half of its last validators' if stands else ''}"
        )


def ancestry_of(bundle: Bundle) -> succession.Ancestry | None:
    """What a recovered group tells of the quorum it continues. `VerificationFailed` where it is missing."""
    wanted = bundle.genesis.kind == GROUP and bundle.genesis.parent is not None
    if wanted != bool(bundle.before):
        raise VerificationFailed("a group that continues another tells how that one came to its last set")
    if not bundle.before:
        return None
    return canonical.unpack(succession.Ancestry, bundle.before)


def behind(bundle: Bundle) -> succession.Behind | None:
    """Who of the old quorum's last set stands behind a recovered group; None for any other genesis."""
    told = ancestry_of(bundle)
    return succession.judge(bundle.genesis, quorum_id(told.genesis), told) if told else None


def recovered(
    genesis: Genesis,
    rules: bytes,
    founders: Sequence[Founder],
    consents: Sequence[succession.Consent],
    before: succession.Ancestry,
) -> Bundle:
    """A recovered group, put together of what its founders and recovery keys signed. Checked whole."""
    bundle = Bundle(
        genesis,
        rules,
        tuple(sorted(founders, key=lambda f: identity.idao_id(f.inception))),
        tuple(sorted(consents, key=lambda c: c.key)),
        canonical.pack(before),
    )
    check_bundle(bundle, before.genesis)
    return bundle


def first_state(bundle: Bundle) -> State:
    """The records at height 0, over an empty base."""
    genesis = bundle.genesis
    state = State(DictBase())
    for founder in bundle.founders:
        rules = bundle.charter if genesis.kind == PERSON else charter.encode(charter.defaults())
        founder_id = idao.found(state, founder.inception, founder.events, rules)
        idao.trust_own(state, founder_id, quorum_id(genesis))
    if genesis.kind == GROUP:
        own = quorum_id(genesis)
        state.put(idao.Charter(own, 1, genesis.charter, bundle.charter))
        for v in genesis.validators.validators:
            state.put(idao.Member(own, v.idao, "owner", 1, 0))
    accounts.endow(state, quorum_id(genesis), genesis.stake)
    if genesis.kind == GROUP:
        membership.found(state, quorum_id(genesis), genesis.validators, genesis.stake)
    epochs.first(state, genesis.validators)
    return state


def height_zero(state: State) -> Executed:
    """Genesis as an execution without receipts: what the store keeps at height 0."""
    branches = Layer({})
    root = statetree.update(branches, tree_changes(state))
    return Executed(state, branches, root, merkle.Frontier(merkle.LOG))
