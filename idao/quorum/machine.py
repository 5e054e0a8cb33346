"""SimplexH as a machine: events in, effects out (`events.py` has the contract with the shell).

Each rule R0 to R12 of ADR 0031 is one method, here or in `rules.py`, or says where it lives:

    R0 `_on_start`    R4 `_on_notarization`   R8  `_hear`, `_on_certificate`
    R1 `_enter_view`  R5 `_on_certificate`    R9  `_arm`
    R2 `_propose`     R6 `_give_up`           R10 `_retransmit`, `_on_status`
    R3 `_consider`    R7 `_on_finalization`   R11 `Ahead`, `VIEWS_AHEAD`

R12 (a quorum of one) is no rule of its own: the same rules end a height in one turn.
"""

from __future__ import annotations

from idao.crypto.certificates import votes_in
from idao.crypto.faults import make_fault
from idao.model import FINALIZE, NOTARIZE, NULLIFY, PROPOSE, SLOT_OF, Certificate, SignedVote
from idao.quorum import events as ev
from idao.quorum.ahead import Ahead
from idao.quorum.height import Height, Verify
from idao.quorum.rules import STATUS_MS, VIEW_MS, Rules

STATUS_MS_CAP = 5000
"""Retransmission doubles its pause up to this: the bound on what a stalled quorum sends."""
VIEWS_AHEAD = 2
"""Votes for later views are kept this far (R11); certificates for any view."""
STATUS_CERTIFICATES = 16
"""Certificates sent in answer to one status: enough for any usual lag, few enough for a slow link."""


class Machine(Rules):
    """One validator's (or observer's) part in one quorum."""

    def __init__(self, quorum: bytes, key: bytes, verify: Verify) -> None:
        """`quorum`: 32-byte id. `key`: own validator key; any key that is no member's for an observer."""
        super().__init__(quorum, key, verify)
        self._ahead = Ahead()

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

    def holds(self, c: Certificate) -> bool:
        """Whether a certificate of this decision is held, so that another one of it changes nothing."""
        of = None if self.h is None else self._of(self.h, c.vote.height)
        held = of is not None and of.certificates.get((c.vote.kind, c.vote.view), {}).get(c.vote.digest)
        return bool(held) and c.vote.quorum == self.quorum

    def status(self) -> ev.Status | None:
        """What to tell peers in hello and keep-alive frames; None before the first `Start`."""
        return None if self.h is None else self.h.status(self._tip)

    # --- R0: enter a height --------------------------------------------------------------------------

    def _on_start(self, e: ev.Start) -> None:
        """R0, and recovery: stored rows go through the same handlers as messages."""
        if self.h is not None and self.h.number == e.height - 1 and self.h.decided is not None:
            self.past = self.h
        else:
            self.past = Height.before(e)
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
        if h.armed:
            self._start_view(h)
            self._set_timer(h, ev.STATUS, self._status_ms)
        if restored:
            self._retransmit(h)
            if (h.view, "P") in h.slots:
                self._broadcast_proposal(h, h.view)
        self._catch_up(h)

    def _catch_up(self, h: Height) -> None:
        """Takes in what waited for this height (R11); tells one peer that claims more where we stand."""
        for peer, frame in self._ahead.enter(h.number):
            self._on_message(h, peer, frame)
        claimants = self._ahead.claimants(h.number)
        if claimants:
            self._turn_of_peer += 1
            peer = claimants[self._turn_of_peer % len(claimants)]
            self._out.append(ev.Send(peer, h.status(self._tip)))

    # --- messages ------------------------------------------------------------------------------------

    def _on_message(self, h: Height, peer: ev.Peer, frame: ev.Frame) -> None:
        quorum, number = _address(frame)
        if quorum is not None and quorum != self.quorum:
            return
        if number > h.number and not isinstance(frame, ev.Status | ev.GetBlock):
            if self._ahead.keep(h.number, peer, number, frame):
                self._out.append(ev.CatchUp(peer, number))
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
                if number == h.number and digest in h.stored:
                    self._out.append(ev.Send(peer, ev.Body(number, digest, h.bodies[digest])))
                elif 0 < number < h.number:
                    self._out.append(ev.Serve(peer, number))
            case ev.Status():
                self._on_status(h, peer, frame)

    def _of(self, h: Height, number: int) -> Height | None:
        """The height that a message belongs to: the current one or the one before."""
        if number == h.number:
            return h
        return self.past if self.past is not None and self.past.number == number else None

    # --- votes, certificates, proposals --------------------------------------------------------------

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
        if self._put_by(of, signed):
            return
        if of.genuine(signed, self.verify):
            self._count(of, signed)
        else:
            self._out.append(ev.Blame(peer, "a vote whose signature does not hold"))

    @staticmethod
    def _put_by(of: Height, signed: SignedVote) -> bool:
        """R8: what is certified needs no more votes. One is checked if its signer says something else too."""
        vote, signer = signed.vote, signed.signer
        another = signer != of.me and signer < len(of.validators.validators)
        certified = vote.digest in of.certificates.get((vote.kind, vote.view), {})
        return another and certified and of.votes.put_by(signed)

    def _hear(self, of: Height, signed: SignedVote) -> bool:
        """R8: compares a genuine vote with what is held, whatever it came in; R9. Returns if it is news."""
        late = of.votes.take_up(signed)
        if late is not None and of.genuine(late, self.verify):
            self._hear(of, late)
        new, other = of.votes.add(signed)
        if not new:
            return False
        vote, validator = signed.vote, of.validators.validators[signed.signer]
        if other is not None:
            self._out.append(ev.FaultFound(make_fault(other, signed, validator.key)))
        if of is not self.h:
            return False
        self.liveness.heard(validator.idao)
        mine = of.slots.get((vote.view, SLOT_OF[vote.kind]))
        if signed.signer == of.me and mine != signed and self.signing:
            self._halt(f"our key signed a vote at height {vote.height} elsewhere: a copied or restored home")
        if of.votes.voted_power >= of.honest_size:
            self._arm(of)
        return True

    def _count(self, of: Height, signed: SignedVote) -> None:
        """A single genuine vote: it may complete a certificate, or give its view up (R6)."""
        vote = signed.vote
        if not self._hear(of, signed) or vote.kind == PROPOSE:
            return
        if of.votes.power(vote.kind, vote.view, vote.digest) >= of.quorum_size:
            if vote.digest not in of.certificates.get((vote.kind, vote.view), {}):
                self._on_certificate(of, ev.OWN, of.votes.certificate(vote))
        elif vote.kind == NULLIFY:
            self._check_nullified(of)

    def _on_certificate(self, h: Height, peer: ev.Peer, c: Certificate, *, stored: bool = False) -> None:
        """R4, R5, R7, R8: check every signature, store by digest, forward once, mine for faults, act."""
        of = self._of(h, c.vote.height)
        if of is None or c.vote.digest in of.certificates.get((c.vote.kind, c.vote.view), {}):
            return
        if peer != ev.OWN and not of.holds(c, self.verify):
            self._out.append(ev.Blame(peer, "a certificate that does not hold"))
            return
        of.certificates.setdefault((c.vote.kind, c.vote.view), {})[c.vote.digest] = c
        fork = c.vote.kind == FINALIZE and of.decided is not None and of.decided.vote.digest != c.vote.digest
        if (of is self.h and not stored) or fork:  # Of the height before, only a fork is news to others.
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

    def _on_propose(self, h: Height, peer: ev.Peer, frame: ev.Propose) -> None:
        """Takes a proposal in: its certificates count whatever its view, its vote as any other (R8)."""
        signed = frame.vote
        vote = signed.vote
        if vote.kind != PROPOSE or vote.height != h.number or signed.signer != h.leader(vote.view):
            self._on_vote(h, peer, signed)
            return
        if not h.votes.held(signed.signer, vote) and not h.genuine(signed, self.verify):
            self._out.append(ev.Blame(peer, "a proposal whose signature does not hold"))
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

    # --- time and links ------------------------------------------------------------------------------

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
        self._out.append(ev.Send(peer, h.status(self._tip)))
        if was_stalled and h.armed and self.liveness.live_power(h.validators, h.me) >= h.quorum_size:
            # A quorum answers again: start afresh, do not sit out patience grown while it could not.
            self._status_ms = STATUS_MS
            self._set_timer(h, ev.STATUS, STATUS_MS)
            self._set_timer(h, ev.VIEW, VIEW_MS)

    # --- R10: retransmission -------------------------------------------------------------------------

    def _retransmit(self, h: Height) -> None:
        """R10: eventual delivery comes from this, not from luck."""
        self._out.append(ev.Broadcast(h.status(self._tip)))
        self._out += [ev.Broadcast(signed) for signed in h.own_votes(h.view)]
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
            self._ahead.claim(peer, s.height)
            self._out += [ev.CatchUp(peer, s.height), ev.Send(peer, h.status(self._tip))]
            return
        if s.tip != self._tip:
            # Another block before this height: both sides must see both finalizations (R7).
            if self.past is not None and self.past.decided is not None:
                self._out.append(ev.Send(peer, self.past.decided))
            return
        frames: list[ev.Frame] = list(h.lacking(s.notarized, s.nullified, STATUS_CERTIFICATES))
        if h.decided is not None:
            frames = [h.decided]
        frames += h.own_votes(s.view)
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
