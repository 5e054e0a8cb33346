"""What goes into the quorum machine and what comes out: the contract between it and its shell.

The machine (`machine.Machine`) is a value that changes by `step(event) -> effects` alone. It has no clock,
disk, socket, key or chance inside; the *shell* (the node, or the simulator) has all of them. Blocks are
opaque here: a hash and bytes.

**A turn.** The shell takes one event, steps, and works through the effects in order. Some effects are
answered by an event at once (below); such answers go into the turn's own queue, never by a nested call.
The turn ends when its queue is empty. All `Sign`, `Persist` and `Commit` effects of a turn are written in
one database transaction. **The order law:** the transaction is durable before any other effect of the
turn (`Broadcast`, `Send`, `Serve`, ...) is performed. If it fails, nothing of the turn may be performed and
the process must end: the machine in memory is ahead of the disk. The same holds if `step` raises.

    def turn(event):
        queue, outward = deque([event]), []
        with store.transaction():                                    # durable at exit
            while queue:
                for effect in machine.step(queue.popleft()):
                    match effect:
                        case Sign(vote):
                            queue.append(Msg(OWN, store.sign_slot(vote, signer)))
                        case Persist(row): store.keep(row)
                        case Build(height, view): queue.append(Built(height, view, *build_block()))
                        case Validate(): queue.append(BlockReady(height, effect.hash, judge(effect)))
                        case Commit(): store.commit(effect); inbox.put(start_of(effect.height + 1))
                        case _: outward.append(effect)
        for effect in outward: perform(effect)                       # only now may anyone hear of it

With one validator a whole height {propose, notarize, finalize, commit} is one turn (R12). With more, a
turn holds at most the messages that one event causes. `Build` and `Validate` may also be answered later
(from a thread), by an event of a later turn.

**Rows.** The machine is restored from these alone, handed back in `Start`:

- `sign(height, view, slot) -> kind, digest, signature`, primary key (height, view, slot), insert only.
  One row per `Sign`: `slot` is `model.SLOT_OF[kind]`. A second row for a filled slot must be refused by the
  database (a plain INSERT): it is the last line of defence. Rows older than tip − 1 may be pruned.
- `cert(height, kind, view, digest) -> certificate`, one row per `Persist(Certificate)`; *keyed by digest
  too*, because two certificates of one view are the proof of a fork. Those of a height that used a view
  above 0, and of a fork, are kept as long as bonds can be slashed.
- `block(height, hash) -> bytes`, one row per `Persist(StoredBlock)`. Bodies never committed may be deleted
  once their height is committed.
- `Commit`: the block, its finalization and the state after it, whatever the ledger makes of them.
- `Halt` and `ForkDetected` leave a durable mark; from then on every `Start` says `signing=False`.

**Signatures.** The machine checks them itself, by the pure function it is given (`keys.verify_vote`);
the shell checks only that a frame decodes and that its peer is authenticated, and may verify ahead of time
in threads to warm that function's cache. Own signatures come back from `Sign` as `Msg(OWN, signed vote)`.

**Time.** `SetTimer` is answered by `Timer` with the same fields after `delay_ms`. The machine ignores
timers that no longer matter, so the shell need not cancel; it keeps at most one per kind and adds ±20 %
at random to those of kind STATUS. Hello and keep-alive frames (about one a second per peer, more rarely
to an idle one) carry `machine.status()`: an idle machine itself sends nothing.
"""

from __future__ import annotations

from typing import Annotated

from idao.frozen import frozen
from idao.model import Certificate, Fault, Hash, SignedVote, Size, ValidatorSet, Vote

Peer = bytes
"""The iDAO id of an authenticated peer."""
OWN: Peer = b""
"""The peer of the machine's own messages."""

# --- frames: what validators send each other ----------------------------------------------------------

JUSTIFY_MAX = 64
"""Certificates inside one proposal, so that it fits a frame; receivers hold or ask for the rest."""
BODY_MAX = 2 * 1024 * 1024
"""A block's bytes: 1 MiB of txs, their framing, and the parent's certificate; half of the largest frame."""
VIEWS_MAX = 1024
"""Views of one height that a status can describe: 8 hours of time-outs at the cap of 30 s."""


@frozen
class Propose:
    """A leader's signed block hash, the block itself when it is sent along, and what justifies it (R2).

    `justify` holds a notarization of the block at some view and nullifications of every view since; for a
    new block, nullifications of every view before.
    """

    vote: SignedVote
    block: Annotated[bytes, Size(0, BODY_MAX)] | None
    justify: Annotated[tuple[Certificate, ...], Size(0, JUSTIFY_MAX)]


@frozen
class Status:
    """Where a machine stands: height being decided, view, hash of the block before it, and what it holds.

    Bit v (least significant first) of `notarized` and `nullified`: a certificate of view v is held.
    `proposal`: the body and signature of its current view's proposal are held.
    """

    height: int
    view: int
    tip: Hash
    notarized: Annotated[bytes, Size(0, VIEWS_MAX // 8)]
    nullified: Annotated[bytes, Size(0, VIEWS_MAX // 8)]
    proposal: bool


@frozen
class GetBlock:
    height: int
    hash: Hash


@frozen
class Body:
    """A block's bytes. Nothing vouches for them but their hash, which the receiver's shell checks."""

    height: int
    hash: Hash
    block: Annotated[bytes, Size(1, BODY_MAX)]


Frame = Propose | SignedVote | Certificate | Status | GetBlock | Body

# --- events ---------------------------------------------------------------------------------------


@frozen
class StoredBlock:
    """A row of `block`."""

    height: int
    hash: bytes
    block: bytes


@frozen
class Start:
    """Enter `height` (R0): after opening the store, after each `Commit`, and after catching up.

    Everything the machine held for another height is dropped, so while the shell applies blocks that it
    fetched in bulk it just stops stepping (nothing can be signed) and then starts the next height.
    """

    height: int
    validators: ValidatorSet
    tip: bytes
    """Hash of the block at `height` − 1; of genesis at height 1."""
    parent: Certificate | None
    """Finalization of the tip; None at height 1."""
    parent_validators: ValidatorSet | None
    pool: bool
    """Something valid under the tip's state waits for a block: a tx, a fault, a due action (R9)."""
    signing: bool = True
    """False for an observer, in quarantine (`recovery.quarantine_until`), and after a halt."""
    signs: tuple[SignedVote, ...] = ()
    """The own rows of this height, as stored."""
    certificates: tuple[Certificate, ...] = ()
    blocks: tuple[StoredBlock, ...] = ()


@frozen
class Msg:
    peer: Peer
    frame: Frame


VIEW, GRACE, STATUS = "view", "grace", "status"
"""Kinds of timer: patience with a leader; wait for a late finalization; tell peers where we stand."""


@frozen
class Timer:
    kind: str
    height: int
    view: int
    generation: int


VALID, INVALID, UNTIMELY, MISMATCH = "valid", "invalid", "untimely", "mismatch"
"""Verdicts on a block.

INVALID must be a function of the block and the state before it: all correct nodes agree on it.
UNTIMELY, not now: its header names another view than the one it is first proposed in, or its time is ahead of
our clock by more than is allowed *and* later than its parent's by more than a millisecond (else one fast
clock, once accepted, would make every honest block after it too early).
MISMATCH: these bytes are not the block of that hash, and others may be: they do not decode, their header has
another hash, or the txs or the parent's certificate are not those the header names. Only the hash is signed,
so a relay can change the rest: calling that INVALID would let it halt us.
"""


@frozen
class BlockReady:
    """Answer to `Validate`."""

    height: int
    hash: bytes
    verdict: str


@frozen
class Built:
    """Answer to `Build`. The block is valid by construction."""

    height: int
    view: int
    hash: bytes
    block: bytes


@frozen
class PoolNonEmpty:
    """Something now waits for a block at `height` (see `Start.pool`).

    One validator that alone knows of it wakes nobody (R9 needs power that holds a correct one), so the shell
    tells its peers of what waits, again and again until it is final.
    """

    height: int


@frozen
class PeerUp:
    """An authenticated link to `peer` works again."""

    peer: Peer


@frozen
class PeerDown:
    """The link to `peer` closed, or it was silent for 3 s."""

    peer: Peer


Event = Start | Msg | Timer | BlockReady | Built | PoolNonEmpty | PeerUp | PeerDown

# --- effects --------------------------------------------------------------------------------------


@frozen
class Sign:
    """Sign `vote` with the validator key, insert its `sign` row, answer `Msg(OWN, signed vote)`."""

    vote: Vote


@frozen
class Persist:
    row: Certificate | StoredBlock


@frozen
class Commit:
    """The block of `height` is final. Apply it and store it with its certificate; then `Start` the next."""

    height: int
    hash: bytes
    block: bytes
    certificate: Certificate


@frozen
class Broadcast:
    """To every connected peer."""

    frame: Frame


@frozen
class Send:
    peer: Peer
    frame: Frame


@frozen
class Serve:
    """Send `peer` the finalization and the `Body` of `height` (and some after it), from the store.

    One at a time per peer: a peer that asks faster than it takes in costs only itself.
    """

    peer: Peer
    height: int


@frozen
class CatchUp:
    """`peer` says it is deciding `height`, above ours. A hint: what it then serves is checked."""

    peer: Peer
    height: int


@frozen
class SetTimer:
    kind: str
    height: int
    view: int
    generation: int
    delay_ms: int


@frozen
class Build:
    """Make a block on the tip, proposed in `view`: of what waits in the pool, empty if nothing does."""

    height: int
    view: int


@frozen
class Validate:
    """Check hash and body, execute on the tip, compare roots.

    `fresh`: the clock and view rules hold too. When not fresh, the answer is never UNTIMELY.
    """

    height: int
    view: int
    hash: bytes
    block: bytes
    fresh: bool


@frozen
class FaultFound:
    """Goes into the pool as a tx, once."""

    fault: Fault


@frozen
class Blame:
    """`peer` sent what no honest node sends on, since each checks it first. Cut its link for a while."""

    peer: Peer
    reason: str


@frozen
class ForkDetected:
    """Two finalizations of one height: more than f validators are faulty. Nothing is signed any more."""

    a: Certificate
    b: Certificate


@frozen
class Halt:
    """Stop signing for good, tell the operator why, go on serving reads."""

    reason: str


Effect = (
    Sign
    | Persist
    | Commit
    | Broadcast
    | Send
    | Serve
    | CatchUp
    | SetTimer
    | Build
    | Validate
    | FaultFound
    | Blame
    | ForkDetected
    | Halt
)
