"""SimplexH as a machine: events in, effects out (`events.py` has the contract with the shell).

Each rule R0 to R12 of consensus.md §2.5 is one method here, or says where it lives:

    R0 `_on_start`               R5 `_on_certificate`    R10 `_retransmit`, `_on_status`
    R1 `_enter_view`             R6 `_give_up`           R11 `_buffer`
    R2 `_propose`                R7 `_on_finalization`
    R3 `_consider`               R8 `_count`, `_on_certificate`
    R4 `_on_notarization`        R9 `_arm`

R12 (a quorum of one) is no rule of its own: the same rules end a height in one turn.
"""

from __future__ import annotations

from collections.abc import Callable

from idao.crypto.certificates import votes_in, well_formed
from idao.crypto.faults import make_fault
from idao.model import FINALIZE, NOTARIZE, NULLIFY, PROPOSE, SLOT_OF, Certificate, SignedVote, Vote
from idao.quorum import events as ev
from idao.quorum.height import Height
from idao.quorum.liveness import Liveness

VIEW_MS = 1000
"""T0: patience with a leader in view 0. A LAN needs milliseconds, a loaded laptop up to a second."""
VIEW_MS_CAP = 30_000
"""Patience stops growing here, so that a healed quorum resumes within half a minute."""
GRACE_MS = 100
"""A leader waits this long for the finalization of the view before: it makes the new view needless."""
STATUS_MS = 500
STATUS_MS_CAP = 5000
"""Retransmission starts and ends at these; the cap bounds what a stalled quorum sends."""
VIEWS_AHEAD = 2
"""Votes for later views are kept this far (R11); certificates for any view."""
HEIGHTS_AHEAD = 2
"""Frames for later heights are kept this far (R11): peers are at most so far ahead without a catch-up."""
AHEAD_PER_PEER = 8
"""Frames kept per peer and later height: a proposal, two votes, three certificates, and room for a view."""
STATUS_CERTIFICATES = 16
"""Certificates sent in answer to one status: enough for any usual lag, few enough for a slow link."""
FETCHES = 3
"""Peers asked for one block between two retransmissions: without a bound, one that answers with garbage and
is the only one to answer is asked as fast as it answers."""

Verify = Callable[[bytes, bytes, Vote], bool]
"""(key, signature, vote) -> whether it holds. Pure: `keys.verify_vote`."""


def view_patience_ms(view: int) -> int:
    """min(T0 · 1.5^view, cap), in integers (R1)."""
    return VIEW_MS_CAP if view > 9 else min(VIEW_MS * 3**view // 2**view, VIEW_MS_CAP)


class Machine:
    """One validator's (or observer's) part in one quorum."""

    def __init__(self, quorum: bytes, key: bytes, verify: Verify) -> None:
        """`quorum`: 32-byte id. `key`: own validator key; any key that is no member's for an observer."""
        self.quorum = quorum
        self.key = key
        self.verify = verify
        self.signing = False
        self.halted: str | None = None
        self.liveness = Liveness()
        self.h: Height | None = None
        self.past: Height | None = None
        """The height before: late messages of it still prove faults and forks, and change nothing else."""
        self._tip = b""
        self._ahead: dict[int, dict[ev.Peer, list[ev.Frame]]] = {}
        self._claims: dict[ev.Peer, int] = {}
        self._generation = {ev.VIEW: 0, ev.GRACE: 0, ev.STATUS: 0}
        self._status_ms = STATUS_MS
        self._turn_of_peer = 0
        self._out: list[ev.Effect] = []

    def step(self, event: ev.Event) -> tuple[ev.Effect, ...]:
        """The effects of one event, in the order in which the shell must take them up."""
        self._out = []
        if isinstance(event, ev.Start):
            self._on_start(event)
        elif self.h is not None:
            self._on_event(self.h, event)
        return tuple(self._out)

    def _on_event(self, h: Height, event: ev.Event) -> None:
        match event:
            case ev.Msg(peer, frame):
                self._on_message(h, peer, frame)
            case ev.Timer():
                self._on_timer(h, event)
            case ev.BlockReady():
                self._on_block_ready(h, event)
            case ev.Built():
                self._on_built(h, event)
            case ev.PoolNonEmpty(height):
                if h.number == height:
                    self._arm(h)
            case ev.PeerUp(peer):
                self._on_peer_up(h, peer)
            case ev.PeerDown(peer):
                self.liveness.down(peer)
                self._check_leader(h)

    def status(self) -> ev.Status | None:
        """What to tell peers in hello and keep-alive frames; None before the first `Start`."""
        return None if self.h is None else self._status(self.h)

    # --- R0: enter a height -------------------------------------------------------------------------

    def _on_start(self, e: ev.Start) -> None:
        """R0, and recovery (consensus.md §2.7): stored rows go through the same handlers as messages."""
        if self.h is not None and self.h.number == e.height - 1 and self.h.decided is not None:
            self.past = self.h
        else:
            self.past = _past(e)
        h = self.h = Height(e.height, e.validators, e.validators.index_of_key(self.key))
        self._tip = e.tip
        self._status_ms = STATUS_MS
        self.signing = e.signing and h.me is not None and self.halted is None
        self.liveness.start_height()
        restored = bool(e.signs or e.certificates)
        h.armed = restored or e.pool
        for row in e.blocks:
            h.bodies[row.hash] = row.block
            h.stored.add(row.hash)
        for signed in e.signs:
            # First all slots, so that no handler below can fill one again.
            h.slots[signed.vote.view, SLOT_OF[signed.vote.kind]] = signed
            h.view = max(h.view, signed.vote.view)
            h.votes.add(signed)
            if signed.vote.kind == PROPOSE:
                h.proposals[signed.vote.view] = signed
        for certificate in sorted(e.certificates, key=lambda c: (c.vote.view, c.vote.kind, c.vote.digest)):
            self._on_certificate(h, ev.OWN, certificate, stored=True)
        for row in e.blocks:
            self._judge(h, row.hash, fresh=False)
        if h.armed:
            self._start_view(h)
            self._set_timer(h, ev.STATUS, self._status_ms)
        if restored:
            self._retransmit(h)
            if (h.view, "P") in h.slots:
                self._broadcast_proposal(h, h.view)
        self._catch_up(h)

    def _catch_up(self, h: Height) -> None:
        """Replays what waited for this height (R11); tells one peer that claims more where we stand."""
        for number in [n for n in self._ahead if n < h.number]:
            del self._ahead[number]
        for peer, frames in self._ahead.pop(h.number, {}).items():
            for frame in frames:
                self._on_message(h, peer, frame)
        self._claims = {p: n for p, n in self._claims.items() if n > h.number}
        if self._claims:
            peers = sorted(self._claims)
            self._turn_of_peer += 1
            self._out.append(ev.Send(peers[self._turn_of_peer % len(peers)], self._status(h)))

    # --- messages -----------------------------------------------------------------------------------

    def _on_message(self, h: Height, peer: ev.Peer, frame: ev.Frame) -> None:
        quorum, number = _address(frame)
        if quorum is not None and quorum != self.quorum:
            return
        if number > h.number and not isinstance(frame, ev.Status | ev.GetBlock):
            self._buffer(h, peer, number, frame)
            return
        match frame:
            case SignedVote():
                self._on_vote(h, peer, frame)
            case Certificate():
                self._on_certificate(h, peer, frame)
            case ev.Propose():
                self._on_propose(h, peer, frame)
            case ev.Body(number, digest, block):
                # Only what progress waits for: nobody can fill our memory with bodies.
                if number == h.number and digest in h.wanted():
                    self._take_body(h, digest, block)
                    self._consider(h)
            case ev.GetBlock(number, digest):
                if number == h.number and h.verdicts.get(digest) is not None and digest in h.bodies:
                    self._out.append(ev.Send(peer, ev.Body(number, digest, h.bodies[digest])))
                elif 0 < number < h.number:
                    self._out.append(ev.Serve(peer, number))
            case ev.Status():
                self._on_status(h, peer, frame)

    def _buffer(self, h: Height, peer: ev.Peer, number: int, frame: ev.Frame) -> None:
        """R11: frames of the next heights wait, unchecked (their validator set is not known), few each."""
        if number <= h.number + HEIGHTS_AHEAD:
            frames = self._ahead.setdefault(number, {}).setdefault(peer, [])
            if len(frames) < AHEAD_PER_PEER and frame not in frames:
                frames.append(frame)
        if self._claims.get(peer, 0) < number:
            self._claims[peer] = number
            self._out.append(ev.CatchUp(peer, number))

    def _of(self, h: Height, number: int) -> Height | None:
        """The height that a message belongs to: the current one or the one before."""
        if number == h.number:
            return h
        return self.past if self.past is not None and self.past.number == number else None

    def _genuine(self, of: Height, signed: SignedVote) -> bool:
        validators = of.validators.validators
        if signed.signer >= len(validators):
            return False
        return self.verify(validators[signed.signer].key, signed.signature, signed.vote)

    # --- votes and certificates ---------------------------------------------------------------------

    def _vote(self, h: Height, kind: int, view: int, digest: bytes) -> None:
        """Decides an own slot, once and for ever; the shell signs and stores it before anyone hears."""
        slot = view, SLOT_OF[kind]
        if self.signing and slot not in h.slots and h.decided is None:
            vote = Vote(kind, self.quorum, h.number, view, digest)
            h.slots[slot] = vote
            self._out.append(ev.Sign(vote))

    def _on_own(self, h: Height, signed: SignedVote) -> None:
        """The shell has signed a slot and written its row: now it counts, and may be sent."""
        vote = signed.vote
        slot = vote.view, SLOT_OF[vote.kind]
        if vote.height != h.number or h.slots.get(slot) != vote:
            return
        h.slots[slot] = signed
        if vote.kind == PROPOSE:
            h.proposals[vote.view] = signed
            self._broadcast_proposal(h, vote.view)
            self._count(h, signed)
            self._consider(h)
        else:
            self._out.append(ev.Broadcast(signed))
            self._count(h, signed)

    def _on_vote(self, h: Height, peer: ev.Peer, signed: SignedVote) -> None:
        vote = signed.vote
        if peer == ev.OWN:
            self._on_own(h, signed)
            return
        of = self._of(h, vote.height)
        if of is None or vote.view > of.view + VIEWS_AHEAD or of.votes.held(signed.signer, vote):
            return
        if vote.kind == PROPOSE and signed.signer != of.leader(vote.view):
            return
        if self._genuine(of, signed):
            self._count(of, signed)

    def _hear(self, of: Height, signed: SignedVote) -> bool:
        """R8: compares a genuine vote with what is held, whatever it came in; R9. Returns if it is news."""
        new, other = of.votes.add(signed)
        if not new:
            return False
        vote, validator = signed.vote, of.validators.validators[signed.signer]
        if other is not None:
            self._out.append(ev.FaultFound(make_fault(other, signed, validator.key)))
        if of is not self.h:
            return False
        self.liveness.heard(validator.idao)
        if (
            signed.signer == of.me
            and self.signing
            and of.slots.get((vote.view, SLOT_OF[vote.kind])) != signed
        ):
            self._halt(
                f"a vote at height {vote.height} bears our key but is not ours: a copied or restored home"
            )
        if of.votes.voted_power >= of.honest_size:
            self._arm(of)
        return True

    def _count(self, of: Height, signed: SignedVote) -> None:
        """A single genuine vote: it may complete a certificate, or give its view up (R6)."""
        vote = signed.vote
        if not self._hear(of, signed) or vote.kind == PROPOSE:
            return
        if of.votes.power(vote.kind, vote.view, vote.digest) >= of.quorum_size:
            self._on_certificate(of, ev.OWN, of.votes.certificate(vote))
        elif vote.kind == NULLIFY:
            self._check_nullified(of)

    def _on_certificate(self, h: Height, peer: ev.Peer, c: Certificate, *, stored: bool = False) -> None:
        """R4, R5, R7, R8: check every signature, store by digest, forward once, mine for faults, act."""
        of = self._of(h, c.vote.height)
        if of is None or c.vote.digest in of.certificates.get((c.vote.kind, c.vote.view), {}):
            return
        if peer != ev.OWN and not self._holds(of, c):
            return
        of.certificates.setdefault((c.vote.kind, c.vote.view), {})[c.vote.digest] = c
        if not stored:
            self._out += [ev.Persist(c), ev.Broadcast(c)]
        for signed in votes_in(c):
            self._hear(of, signed)
        if c.vote.kind == FINALIZE:
            self._on_finalization(of, c)
        if of is not self.h:
            return
        self._arm(of)
        if c.vote.kind == NOTARIZE:
            self._on_notarization(of, c)
        elif c.vote.kind == NULLIFY and c.vote.view >= of.view:  # R5
            self._enter_view(of, c.vote.view + 1, notarized=False)
        self._consider(of)
        self._propose(of)

    def _holds(self, of: Height, c: Certificate) -> bool:
        """Shape, power and every signature; votes already held need no second look."""
        if not well_formed(c, of.validators):
            return False
        for signed in votes_in(c):
            held = of.votes.held(signed.signer, signed.vote)
            if held != signed and not self._genuine(of, signed):
                return False
        return True

    # --- R1: views ----------------------------------------------------------------------------------

    def _enter_view(self, h: Height, view: int, *, notarized: bool) -> None:
        """R1, by a certificate of the view before."""
        h.view = view
        h.armed = True
        self._status_ms = STATUS_MS
        self._set_timer(h, ev.STATUS, self._status_ms)
        self._start_view(h, grace=notarized)

    def _start_view(self, h: Height, *, grace: bool = False) -> None:
        """R1: patience with the leader, none with a suspect one; a leader proposes, maybe after grace."""
        if h.decided is not None:
            return
        self._set_timer(h, ev.VIEW, view_patience_ms(h.view))
        if h.leader(h.view) == h.me:
            if grace:
                h.grace = h.view
                self._set_timer(h, ev.GRACE, GRACE_MS)
            elif h.parent(h.view) is None:
                self._out.append(ev.Broadcast(self._status(h)))  # R2: request what is missing, and wait
            self._propose(h)
        self._check_leader(h)
        self._check_nullified(h)
        self._consider(h)

    def _arm(self, h: Height) -> None:
        """R9: something is to be decided at this height. Until then it idles without timers."""
        if not h.armed:
            h.armed = True
            self._set_timer(h, ev.STATUS, self._status_ms)
            self._start_view(h)

    def _set_timer(self, h: Height, kind: str, delay_ms: int) -> None:
        self._generation[kind] += 1
        self._out.append(ev.SetTimer(kind, h.number, h.view, self._generation[kind], delay_ms))

    def _on_timer(self, h: Height, e: ev.Timer) -> None:
        if e.height != h.number or e.generation != self._generation[e.kind] or h.committed:
            return
        if e.kind == ev.VIEW:
            self._give_up(h)
        elif e.kind == ev.GRACE:
            h.grace = None
            self._propose(h)
        else:
            self._retransmit(h)
            self._status_ms = min(self._status_ms * 2, STATUS_MS_CAP)
            self._set_timer(h, ev.STATUS, self._status_ms)

    def _on_peer_up(self, h: Height, peer: ev.Peer) -> None:
        was_stalled = self.liveness.live_power(h.validators, h.me) < h.quorum_size
        self.liveness.up(peer)
        self._out.append(ev.Send(peer, self._status(h)))
        if was_stalled and h.armed and self.liveness.live_power(h.validators, h.me) >= h.quorum_size:
            # A quorum answers again: start afresh, do not sit out patience grown while it could not.
            self._status_ms = STATUS_MS
            self._set_timer(h, ev.STATUS, STATUS_MS)
            self._set_timer(h, ev.VIEW, VIEW_MS)

    # --- R2, R3: proposals --------------------------------------------------------------------------

    def _propose(self, h: Height) -> None:
        """R2: re-propose the latest notarized block, or build one when every view before is nullified."""
        waiting = not h.armed or h.decided is not None or h.grace == h.view or (h.view, "P") in h.slots
        if h.leader(h.view) != h.me or waiting or not self.signing:
            return
        parent = h.parent(h.view)
        if parent is None:
            return
        view, digest = parent
        if view >= 0:
            if h.verdicts.get(digest) == ev.VALID:
                self._vote(h, PROPOSE, h.view, digest)
        elif h.building != h.view:
            h.building = h.view
            self._out.append(ev.Build(h.number, h.view))

    def _on_built(self, h: Height, e: ev.Built) -> None:
        if e.height != h.number or e.view != h.view or h.building != e.view or h.parent(e.view) != (-1, b""):
            return
        h.bodies[e.hash] = e.block
        h.verdicts[e.hash] = ev.VALID
        self._store(h, e.hash)
        self._vote(h, PROPOSE, e.view, e.hash)

    def _broadcast_proposal(self, h: Height, view: int) -> None:
        frame = h.proposal_frame(view, body=True)
        if frame is not None:
            self._out.append(ev.Broadcast(frame))

    def _on_propose(self, h: Height, peer: ev.Peer, frame: ev.Propose) -> None:
        """Takes a proposal in: its certificates count whatever its view, its vote as any other (R8)."""
        signed = frame.vote
        vote = signed.vote
        if vote.kind != PROPOSE or vote.height != h.number or signed.signer != h.leader(vote.view):
            self._on_vote(h, peer, signed)
            return
        if not h.votes.held(signed.signer, vote) and not self._genuine(h, signed):
            return
        for certificate in frame.justify[: ev.JUSTIFY_MAX]:
            if certificate.vote.quorum == self.quorum:
                self._on_certificate(h, peer, certificate)
        if vote.view > h.view + VIEWS_AHEAD:
            return
        self._count(h, signed)
        first = h.proposals.setdefault(vote.view, signed).vote.digest
        useful = (first == vote.digest and vote.view >= h.view) or vote.digest in h.wanted()
        if frame.block is not None and vote.digest not in h.bodies and useful:
            self._take_body(h, vote.digest, frame.block)
        self._arm(h)
        self._consider(h)

    def _consider(self, h: Height) -> None:
        """R3: notarize the current view's proposal if it is justified and valid; also after a nullify."""
        signed = h.proposals.get(h.view)
        if signed is None or (h.view, "N") in h.slots or h.decided is not None:
            return
        digest = signed.vote.digest
        if h.justification(h.view, digest) is None:
            return  # The timer runs on: a relay may have stripped what justifies it.
        verdict = h.verdicts.get(digest)
        if verdict == ev.VALID:
            self._vote(h, NOTARIZE, h.view, digest)
        elif verdict == ev.INVALID or (verdict == ev.UNTIMELY and not h.certified(digest)):
            self._give_up(h)
        else:
            self._judge(h, digest)

    def _take_body(self, h: Height, digest: bytes, block: bytes) -> None:
        """A body may come after the certificate that waits for it."""
        h.bodies[digest] = block
        if h.certified(digest):
            self._on_certified(h, digest)

    def _judge(self, h: Height, digest: bytes, *, fresh: bool = True) -> None:
        """Orders a verdict on a block, once at a time; asks a peer for the block if it is not here."""
        if digest not in h.bodies:
            self._fetch(h, digest)
        elif h.verdicts.get(digest, ev.UNTIMELY) == ev.UNTIMELY:
            h.verdicts[digest] = None
            fresh = fresh and not h.certified(digest)
            self._out.append(ev.Validate(h.number, h.view, digest, h.bodies[digest], fresh))

    def _on_block_ready(self, h: Height, e: ev.BlockReady) -> None:
        if e.height != h.number or h.verdicts.get(e.hash, e.verdict) is not None:
            return
        if e.verdict == ev.MISMATCH:
            del h.verdicts[e.hash], h.bodies[e.hash]
            if e.hash in h.wanted():
                self._fetch(h, e.hash, again=True)
            return
        h.verdicts[e.hash] = e.verdict
        if e.verdict == ev.VALID:
            self._store(h, e.hash)
        if h.certified(e.hash):
            self._on_certified(h, e.hash)
        self._consider(h)
        self._propose(h)

    def _store(self, h: Height, digest: bytes) -> None:
        if digest not in h.stored:
            h.stored.add(digest)
            self._out.append(ev.Persist(ev.StoredBlock(h.number, digest, h.bodies[digest])))

    def _fetch(self, h: Height, digest: bytes, *, again: bool = False) -> None:
        """Asks one peer for a block; another one each time, a few times between two retransmissions."""
        peers = [v.idao for i, v in enumerate(h.validators.validators) if i != h.me]
        peers = [p for p in peers if self.liveness.answers(p)] or peers
        asked = h.asked.get(digest, 0)
        if peers and (not asked or (again and asked < FETCHES)):
            h.asked[digest] = asked + 1
            self._turn_of_peer += 1
            self._out.append(ev.Send(peers[self._turn_of_peer % len(peers)], ev.GetBlock(h.number, digest)))

    # --- R4, R6, R7: outcomes -----------------------------------------------------------------------

    def _on_notarization(self, h: Height, c: Certificate) -> None:
        """R4. A finalize may be sent after the view was left; a nullify of it forbids that (same slot)."""
        self._on_certified(h, c.vote.digest)
        if c.vote.view >= h.view:
            self._enter_view(h, c.vote.view + 1, notarized=True)

    def _on_certified(self, h: Height, digest: bytes) -> None:
        """R4, R7: a block with a certificate: judge it, halt if we disagree, commit it, or finalize it."""
        verdict = h.verdicts.get(digest)
        if verdict == ev.INVALID:
            self._halt(
                f"state divergence at height {h.number}: block {digest.hex()} is certified but invalid here"
            )
        elif verdict != ev.VALID:
            self._judge(h, digest)
        elif h.decided is not None:
            if h.decided.vote.digest == digest and not h.committed:
                h.committed = True
                self._out.append(ev.Commit(h.number, digest, h.bodies[digest], h.decided))
        else:
            for view in h.notarized_views(digest):
                self._vote(h, FINALIZE, view, digest)

    def _give_up(self, h: Height) -> None:
        """R6: the current view shall be skipped, unless it is notarized or we have spoken already."""
        if h.one(NOTARIZE, h.view) is None:
            self._vote(h, NULLIFY, h.view, b"")

    def _check_leader(self, h: Height) -> None:
        """R1, R6: no patience with a leader that does not answer, if it has not proposed."""
        waiting = h.armed and h.view not in h.proposals
        if waiting and self.liveness.suspect(h.validators, h.leader(h.view), h.me):
            self._give_up(h)

    def _check_nullified(self, h: Height) -> None:
        """R6: the leader itself, or power that holds a correct validator, gives this view up."""
        leader_gave_up = h.leader(h.view) in h.votes.voters(NULLIFY, h.view, b"")
        if leader_gave_up or h.votes.power(NULLIFY, h.view, b"") >= h.honest_size:
            self._give_up(h)

    def _on_finalization(self, of: Height, c: Certificate) -> None:
        """R7. The first one held decides; another one is a fork, and nothing is signed any more."""
        if of.decided is None:
            of.decided = c
            if of is self.h:
                self._on_certified(of, c.vote.digest)
        elif of.decided.vote.digest != c.vote.digest:
            self._out.append(ev.ForkDetected(of.decided, c))
            self._halt(f"two blocks are final at height {of.number}")

    def _halt(self, reason: str) -> None:
        if self.halted is None:
            self.halted = reason
            self.signing = False
            self._out.append(ev.Halt(reason))

    # --- R10: retransmission ------------------------------------------------------------------------

    def _status(self, h: Height) -> ev.Status:
        signed = h.proposals.get(h.view)
        held = signed is not None and signed.vote.digest in h.bodies
        return ev.Status(h.number, h.view, self._tip, h.bits(NOTARIZE), h.bits(NULLIFY), held)

    def _own_votes(self, h: Height, view: int) -> list[SignedVote]:
        """Own votes at `view`, and how the view before it ended (its finalization may lack ours)."""
        slots = (view, "N"), (view, "T"), (view - 1, "T")
        return [s for slot in slots if isinstance(s := h.slots.get(slot), SignedVote)]

    def _retransmit(self, h: Height) -> None:
        """R10: eventual delivery comes from this, not from luck."""
        self._out.append(ev.Broadcast(self._status(h)))
        self._out += [ev.Broadcast(signed) for signed in self._own_votes(h, h.view)]
        newest = h.newest()
        if newest is not None:
            self._out.append(ev.Broadcast(newest))
        h.asked.clear()
        for digest in h.wanted():
            self._fetch(h, digest)

    def _on_status(self, h: Height, peer: ev.Peer, s: ev.Status) -> None:
        """R10: gives a peer what it lacks; asks one that is ahead."""
        if s.height < h.number:
            if s.height > 0:
                self._out.append(ev.Serve(peer, s.height))
            return
        if s.height > h.number:
            self._claims[peer] = s.height
            self._out += [ev.CatchUp(peer, s.height), ev.Send(peer, self._status(h))]
            return
        if s.tip != self._tip:
            # Another block before this height: both sides must see both finalizations (R7).
            if self.past is not None and self.past.decided is not None:
                self._out.append(ev.Send(peer, self.past.decided))
            return
        frames: list[ev.Frame] = list(h.lacking(s.notarized, s.nullified, STATUS_CERTIFICATES))
        if h.decided is not None:
            frames = [h.decided]
        frames += self._own_votes(h, s.view)
        # The leader gives the body; others only relay its signature, the body is then asked of one.
        proposal = h.proposal_frame(s.view, body=h.leader(s.view) == h.me)
        if not s.proposal and proposal is not None:
            frames.append(proposal)
        self._out += [ev.Send(peer, frame) for frame in frames]


def _address(frame: ev.Frame) -> tuple[bytes | None, int]:
    """(quorum id if the frame is signed for one, height)."""
    match frame:
        case SignedVote(vote) | Certificate(vote) | ev.Propose(SignedVote(vote)):
            return vote.quorum, vote.height
        case _:
            return None, frame.height


def _past(e: ev.Start) -> Height | None:
    """The height before, as far as a restart knows it: its set and its finalization."""
    if e.parent is None or e.parent_validators is None:
        return None
    past = Height(e.height - 1, e.parent_validators, None)
    past.decided = e.parent
    past.certificates[FINALIZE, e.parent.vote.view] = {e.parent.vote.digest: e.parent}
    return past
