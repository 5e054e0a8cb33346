"""What a machine decides: rules R1 to R7 and R9 of ADR 0031, on the state of one height.

Nothing here looks at who sent what: `machine.py` takes messages in, checks and counts them, and calls these.
"""

from __future__ import annotations

from idao.model import FINALIZE, NOTARIZE, NULLIFY, PROPOSE, SLOT_OF, VALIDATORS_MAX, Certificate, Vote
from idao.quorum import events as ev
from idao.quorum.height import Height, Verify
from idao.quorum.validators import Liveness

VIEW_MS = 1000
"""T0: patience with a leader in view 0. A LAN needs milliseconds, a loaded laptop up to a second."""
VIEW_MS_CAP = 30_000
"""Patience stops growing here, so that a healed quorum resumes within half a minute."""
GRACE_MS = 100
"""A leader waits this long for the finalization of the view before: it makes the new view needless."""
STATUS_MS = 500
"""Before the first retransmission (R10); far above any healthy view, so that none has one."""
PROMPT_VIEWS = VALIDATORS_MAX
"""Views of one height that are given up before their time for a bad proposal or a silent leader: every leader
has had its turn by then. If all blocks are invalid here the fault is not theirs, and views must not spin."""
FETCHES = 3
"""Peers asked for one block between two retransmissions: without a bound, one that answers with garbage and
is the only one to answer is asked as fast as it answers."""


def view_patience_ms(view: int) -> int:
    """min(T0 · 1.5^view, cap), in integers (R1)."""
    return VIEW_MS_CAP if view > 9 else min(VIEW_MS * 3**view // 2**view, VIEW_MS_CAP)


class Rules:
    """State across heights, and the rules. `Machine` is the whole."""

    def __init__(self, quorum: bytes, key: bytes, verify: Verify) -> None:
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
        self._generation = {ev.VIEW: 0, ev.GRACE: 0, ev.STATUS: 0}
        self._status_ms = STATUS_MS
        self._turn_of_peer = 0
        self._out: list[ev.Effect] = []

    def _vote(self, h: Height, kind: int, view: int, digest: bytes) -> None:
        """Decides an own slot, once and for ever; the shell signs and stores it before anyone hears."""
        slot = view, SLOT_OF[kind]
        if self.signing and slot not in h.slots and h.decided is None:
            vote = Vote(kind, self.quorum, h.number, view, digest)
            h.slots[slot] = vote
            self._out.append(ev.Sign(vote))

    def _halt(self, reason: str) -> None:
        if self.halted is None:
            self.halted = reason
            self.signing = False
            self._out.append(ev.Halt(reason))

    # --- R1, R9: views -------------------------------------------------------------------------------

    def _arm(self, h: Height) -> None:
        """R9: something is to be decided at this height. Until then it idles without timers."""
        if not h.armed:
            h.armed = True
            self._set_timer(h, ev.STATUS, self._status_ms)
            self._start_view(h)

    def _enter_view(self, h: Height, view: int, *, notarized: bool) -> None:
        """R1, by a certificate of the view before."""
        h.view = view
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
                self._out.append(ev.Broadcast(h.status(self._tip)))  # R2: request what is missing, and wait
            self._propose(h)
        self._check_leader(h)
        self._check_nullified(h)
        self._consider(h)

    def _set_timer(self, h: Height, kind: str, delay_ms: int) -> None:
        self._generation[kind] += 1
        self._out.append(ev.SetTimer(kind, h.number, h.view, self._generation[kind], delay_ms))

    # --- R2, R3: proposals ---------------------------------------------------------------------------

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
            if h.view < PROMPT_VIEWS:
                self._give_up(h)
        else:
            self._judge(h, digest)

    # --- blocks --------------------------------------------------------------------------------------

    def _take_body(self, h: Height, digest: bytes, block: bytes) -> None:
        """A body may come after the certificate that waits for it."""
        h.bodies[digest] = block
        if h.certified(digest):
            self._on_certified(h, digest)

    def _judge(self, h: Height, digest: bytes) -> None:
        """Orders a verdict on a block, once at a time; asks a peer for the block if it is not here."""
        if digest not in h.bodies:
            self._fetch(h, digest)
        elif h.verdicts.get(digest, ev.UNTIMELY) == ev.UNTIMELY:
            h.verdicts[digest] = None
            # Once held durably it was judged before; once certified, others judged it in time.
            fresh = digest not in h.stored and not h.certified(digest)
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

    # --- R4, R6, R7: outcomes ------------------------------------------------------------------------

    def _on_notarization(self, h: Height, c: Certificate) -> None:
        """R4. A finalize may be sent after the view was left; a nullify of it forbids that (same slot)."""
        self._on_certified(h, c.vote.digest)
        if c.vote.view >= h.view:
            self._enter_view(h, c.vote.view + 1, notarized=True)

    def _on_certified(self, h: Height, digest: bytes) -> None:
        """R4, R7: a block with a certificate: judge it, halt if we disagree, commit it, or finalize it."""
        if h.committed:
            return  # The tip has moved: another block that was notarized here would look invalid now.
        verdict = h.verdicts.get(digest)
        if verdict == ev.INVALID:
            self._halt(
                f"state divergence at height {h.number}: block {digest.hex()} is certified but invalid here"
            )
        elif verdict != ev.VALID:
            self._judge(h, digest)
        elif h.decided is not None:
            if h.decided.vote.digest == digest:
                h.committed = True
                self._out.append(ev.Commit(h.number, digest, h.bodies[digest], h.decided))
        else:
            for view in h.notarized_views(digest):
                self._vote(h, FINALIZE, view, digest)

    def _on_finalization(self, of: Height, c: Certificate) -> None:
        """R7. The first one held decides; another one is a fork, and nothing is signed any more."""
        if of.decided is None:
            of.decided = c
            if of is self.h:
                self._on_certified(of, c.vote.digest)
        elif of.decided.vote.digest != c.vote.digest:
            self._out.append(ev.ForkDetected(of.decided, c))
            self._halt(f"two blocks are final at height {of.number}")

    def _give_up(self, h: Height) -> None:
        """R6: the current view shall be skipped, unless it is notarized or we have spoken already."""
        if h.one(NOTARIZE, h.view) is None:
            self._vote(h, NULLIFY, h.view, b"")

    def _check_leader(self, h: Height) -> None:
        """R1, R6: no patience with a leader that does not answer, if it has not proposed."""
        waiting = h.armed and h.view not in h.proposals and h.view < PROMPT_VIEWS
        if waiting and self.liveness.suspect(h.validators, h.leader(h.view), h.me):
            self._give_up(h)

    def _check_nullified(self, h: Height) -> None:
        """R6: the leader itself, or power that holds a correct validator, gives this view up."""
        leader_gave_up = h.leader(h.view) in h.votes.voters(NULLIFY, h.view, b"")
        if leader_gave_up or h.votes.power(NULLIFY, h.view, b"") >= h.honest_size:
            self._give_up(h)
