"""The state transition: a block's transactions applied to a state, and the header that commits to it.

Everything here is a function of its arguments. Any engine that orders blocks can drive it: a quorum of
one, the embedded agreement, or another engine beside the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import starmap
from typing import Any

from idao.crypto import canonical, merkle, statetree
from idao.crypto.canonical import pack
from idao.crypto.certificates import verify_certificate
from idao.crypto.hashing import Kind, hash_of, validators_hash
from idao.crypto.hashing import header_hash as header_hash
from idao.crypto.statetree import record_path, value_hash
from idao.errors import Malformed, Refused
from idao.frozen import copier, maker, replace
from idao.ledger import governance
from idao.ledger.epochs import epoch_at
from idao.ledger.execution import LOG_LEVEL, NO_HASH, Chain, Executed, Layer, Tip
from idao.ledger.idao import Charter, Identity
from idao.ledger.registry import KINDS
from idao.ledger.state import State, encode_key, key_encoder, table_of
from idao.ledger.tx import Changed, Context, Receipt, Tx, TxKind, parse_tx
from idao.model import (
    BLOCK_BYTES_MAX,
    BLOCK_TX_MAX,
    FINALIZE,
    Block,
    Certificate,
    Header,
    ValidatorSet,
)

TX_TREE = merkle.tree(Kind.TX_LEAF, Kind.TX_BRANCH)
HEADER_VERSION = 1
DUE_MAX = 100
"""Due actions a block runs; the rest wait for the next, so that a block's work is bounded."""


class InvalidBlock(Malformed):
    """A block that no correct validator would propose, with the rule it breaks."""

    code = "invalid-block"


def admissible(state: State, chain: Chain, tx: Tx, time_ms: int) -> str | None:
    """Why a tx may not be in a block at all, or None. Its signature is checked elsewhere.

    Such a tx leaves no receipt: wrong quorum, used sequence number, expired, or not by the actor's key.
    """
    e = tx.envelope
    if e.quorum != chain.quorum:
        return "it is for another quorum"
    if time_ms > e.valid_until:
        return "it has expired"
    kind = KINDS.get(e.kind)
    if kind is not None and kind.authority is not None:
        try:
            body: Any = canonical.unpack(kind.body, e.body)
        except Malformed as error:
            return error.message
        if not kind.authority(state, e, body):
            return "its own proof of authority does not hold"
        actor = state.get(Identity, e.idao)
    else:
        actor = state.get(Identity, e.idao)
        if actor is None:
            return "its iDAO is not registered on this ledger"
        if actor.key != e.key or actor.key_seq != e.key_seq:
            return "it is not signed by the current key of its iDAO"
    if actor is not None and e.seq <= actor.seq:
        return f"sequence number {e.seq} is used"
    return None


def _apply_tx(state: State, ctx: Context, tx: Tx) -> tuple[State, str, str]:
    """The overlay of the tx's effects, which is the context's, and (code, reason) when it was refused."""
    kind: TxKind | None = KINDS.get(tx.envelope.kind)
    try:
        if kind is None or kind.version != tx.envelope.kind_version:
            raise Refused(f"kind '{tx.envelope.kind}' is not known here", code="unknown-kind")
        kind.apply(ctx, canonical.unpack(kind.body, tx.envelope.body))
    except Malformed as e:
        return state.child(), "malformed", e.message
    except Refused as e:
        return state.child(), e.code, e.message
    return ctx.state, "", ""


def _use_seq(state: State, tx: Tx) -> None:
    actor = state.get(Identity, tx.envelope.idao)
    if actor is not None:
        state.put(_with_seq()(actor, tx.envelope.seq))


@cache
def _with_seq() -> Callable[[Identity, int], Identity]:
    return copier(Identity, "seq")


_Written = tuple[str, Callable[[Any], bytes], dict[bytes, bytes | None]]
"""Of a class of records: its table, how keys are encoded, key -> value hash, or None where one is deleted."""


class _Last(dict[type, _Written]):
    """What a block wrote last to each record."""

    def __missing__(self, cls: type) -> _Written:
        made: _Written = (table_of(cls).name, key_encoder(cls), {})
        self[cls] = made
        return made

    def tree_changes(self) -> dict[bytes, bytes | None]:
        """What goes into the state tree."""
        return {
            record_path(table, place): value
            for table, _, values in self.values()
            for place, value in values.items()
        }


def _changed(child: State, last: _Last, make: Callable[..., Changed] = Changed) -> tuple[Changed, ...]:
    """Every record an overlay wrote, in order of table name and key. `last` takes in what they are now."""
    out: list[tuple[str, bytes, bytes | None]] = []
    for cls, rows in child.changes.items():
        name, encode, values = last[cls]
        for key, rec in rows.items():
            if rec is None:
                place, value = encode_key(key), None
            else:
                value = value_hash(pack(rec))
                place = encode(key)
            values[place] = value
            out.append((name, place, value))
    out.sort()
    return tuple(starmap(make, out))


def execute(
    tip: Tip,
    chain: Chain,
    validators: ValidatorSet,
    time_ms: int,
    txs: Sequence[Tx],
    skipped: set[bytes] | None = None,
) -> Executed:
    """Runs the due actions, then the txs in order. `InvalidBlock` if one may not be in a block.

    Signatures are the caller's business: it has checked them, once. A proposer gives `skipped`: a tx that may
    not be in this block is passed over, and its id put there.
    """
    height = tip.height + 1
    block_state = State(tip.base)
    frontier = tip.frontier.copy()
    executed = Executed(block_state, Layer(tip.branches), NO_HASH, frontier)
    ids = tuple(v.idao for v in validators.validators)
    last = _Last()
    make_context, make_receipt = maker(Context, len(txs)), maker(Receipt, len(txs))
    make_changed = maker(Changed, len(txs))

    def context(actor: bytes, tx: bytes) -> Context:
        return make_context(
            block_state.child(), chain.quorum, height, time_ms, actor, tx, len(ids), ids, chain.governor,
            tip.header, tip.time_ms, NO_HASH, tip.header_at,
        )  # fmt: skip

    def conclude(child: State, tx: bytes, origin: str, kind: str, actor: bytes, code: str, why: str) -> None:
        receipt = make_receipt(
            1, height, len(executed.receipts), tx, origin, kind, actor, not code, code, why[:500],
            _changed(child, last, make_changed),
        )  # fmt: skip
        block_state.merge(child)
        executed.receipts.append(receipt)
        executed.leaves.append(pack(receipt))

    for proposal in governance.due(block_state, time_ms)[:DUE_MAX]:
        ctx = context(NO_HASH, proposal)
        idao, code, why = governance.run_due(ctx, proposal)
        conclude(ctx.state, proposal, "due", "gov.due", idao, code, why)
    for tx in txs:
        if reason := admissible(block_state, chain, tx, time_ms):
            if skipped is not None:
                skipped.add(tx.id)
                continue
            raise InvalidBlock(f"transaction {tx.id.hex()[:16]} may not be in this block: {reason}")
        child, code, why = _apply_tx(block_state, context(tx.envelope.idao, tx.id), tx)
        _use_seq(child, tx)
        conclude(child, tx.id, "tx", tx.envelope.kind, tx.envelope.idao, code, why)

    executed.nodes = frontier.extend(merkle.log_leaves(executed.leaves), LOG_LEVEL)
    executed.state_root = statetree.update(executed.branches, last.tree_changes())
    governing = block_state.get(Charter, chain.governor)
    executed.charter = governing.hash if governing else NO_HASH
    return executed


def tx_root(raws: Iterable[bytes]) -> bytes:
    """Root over the signed txs of a block, in order."""
    return merkle.root(TX_TREE, [TX_TREE.leaf(raw) for raw in raws])


def block_leaf(header: Header) -> bytes:
    """The log's leaf of the block itself, which follows its receipts."""
    return merkle.LOG.leaf(header_hash(header))


def log_root(tip: Tip, leaves: Iterable[bytes]) -> bytes:
    """Root of the log once the receipts of the next block stand in it, as its header names it."""
    frontier = tip.frontier.copy()
    for leaf in leaves:
        frontier.append(merkle.LOG.leaf(leaf))
    return frontier.root()


def build(
    tip: Tip,
    chain: Chain,
    validators: ValidatorSet,
    *,
    proposer: bytes,
    view: int,
    time_ms: int,
    txs: Sequence[Tx],
    skipped: set[bytes] | None = None,
    root: bytes | None = None,
) -> tuple[Block, Executed]:
    """The next block over `txs`: each is authentic, and admissible unless `skipped` is given.

    `root`: that of `txs`, where the caller has it. `validators` is the set of its height. The set of the
    height after it is known too: what this block changes takes effect one block later.
    """
    executed = execute(tip, chain, validators, time_ms, txs, skipped)
    if skipped:
        txs = [tx for tx in txs if tx.id not in skipped]
    certificate = hash_of(Kind.CERTIFICATE, tip.certificate) if tip.certificate else NO_HASH
    _, following = epoch_at(State(tip.base), tip.height + 2)
    header = Header(
        v=HEADER_VERSION,
        quorum=chain.quorum,
        height=tip.height + 1,
        view=view,
        proposer=proposer,
        parent=tip.header,
        parent_certificate=certificate,
        time_ms=time_ms,
        tx_root=root or tx_root(tx.raw for tx in txs),
        state_root=executed.state_root,
        log_size=executed.frontier.size,
        log_root=executed.frontier.root(),
        validators=validators_hash(validators),
        next_validators=validators_hash(following),
        charter=executed.charter,
    )
    return Block(header, tip.certificate, tuple(tx.raw for tx in txs)), executed


Finalizes = Callable[[Certificate, ValidatorSet], bool]
"""Whether a certificate holds: `verify_certificate`, or that of a caller who has seen its votes before."""


def _check_parent(tip: Tip, chain: Chain, certificate: Certificate | None, holds: Finalizes) -> None:
    """Another finalization of the same parent than ours, by other signers, is as good as ours."""
    if certificate is not None and tip.height > 0:
        vote = certificate.vote
        named = (vote.kind, vote.quorum, vote.height, vote.digest)
        _, validators = epoch_at(State(tip.base), tip.height)
        if named == (FINALIZE, chain.quorum, tip.height, tip.header) and holds(certificate, validators):
            return
    raise InvalidBlock("the block carries no finalization of its parent")


def check(
    tip: Tip,
    chain: Chain,
    validators: ValidatorSet,
    block: Block,
    authentic: Callable[[Tx], bool] = Tx.authentic,
    txs: Sequence[Tx] | None = None,
    unproven: Sequence[Tx] | None = None,
    root: bytes | None = None,
    finalizes: Finalizes = verify_certificate,
) -> Executed:
    """Executes a proposed block and compares every root. `InvalidBlock` names the first difference.

    `validators` is the set of its height. What the caller knows it gives: `txs` are those of the block,
    `root` is theirs, `unproven` are those whose signatures `authentic` has to verify.
    """
    if len(block.txs) > BLOCK_TX_MAX or sum(map(len, block.txs)) > BLOCK_BYTES_MAX:
        raise InvalidBlock("the block is too large")
    if block.header.time_ms <= tip.time_ms:
        raise InvalidBlock("the block's time is not later than its parent's")
    if txs is None:
        txs = [parse_tx(raw) for raw in block.txs]
    for tx in txs if unproven is None else unproven:
        if not authentic(tx):
            raise InvalidBlock(f"transaction {tx.id.hex()[:16]} has a bad signature")
    leader = validators.validators[validators.leader(tip.height + 1, block.header.view)]
    if block.header.proposer != leader.idao:
        raise InvalidBlock("the block is by another than the leader of its view")
    if block.parent_certificate != tip.certificate:
        _check_parent(tip, chain, block.parent_certificate, finalizes)
        tip = replace(tip, certificate=block.parent_certificate)
    expected, executed = build(
        tip, chain, validators,
        proposer=block.header.proposer, view=block.header.view, time_ms=block.header.time_ms, txs=txs,
        root=root,
    )  # fmt: skip
    if expected.header != block.header:
        mine, theirs = canonical.to_plain(expected.header), canonical.to_plain(block.header)
        different = next(name for name in mine if mine[name] != theirs[name])
        raise InvalidBlock(f"the header's {different} is not what the block leads to")
    return executed
