"""Cases: views, proposals and outcomes (R1 to R7), recovery, arming and retransmission (R9 to R11)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from idao.model import FINALIZE, NOTARIZE, NULLIFY, PROPOSE, Certificate, SignedVote
from idao.quorum import events as ev
from idao.quorum.rules import VIEW_MS

from .bench import BODY, Bench, X, Y
from .cases import case

# --- R1 to R7 -----------------------------------------------------------------------------------------


@case
def good_view_is_notarize_finalize_commit(m: Any) -> None:
    b = Bench(m).start().propose(0, X)
    assert b.signed() == [(NOTARIZE, 0, X)]
    b.votes(NOTARIZE, 0, X, (1, 2))
    assert b.signed() == [(NOTARIZE, 0, X), (FINALIZE, 0, X)] and b.view == 1
    b.votes(FINALIZE, 0, X, (1, 2))
    assert [(c.height, c.hash) for c in b.of(ev.Commit)] == [(1, X)]


@case
def first_proposal_of_a_view_alone_counts(m: Any) -> None:
    b = Bench(m).start().propose(0, X).propose(0, Y)
    assert b.signed() == [(NOTARIZE, 0, X)]
    assert [f.fault.kind for f in b.of(ev.FaultFound)] == ["propose"]


@case
def only_the_leader_proposes(m: Any) -> None:
    b = Bench(m).start(pool=True)
    b.say(ev.Propose(b.sv(PROPOSE, 2, 0, X), BODY[X], ()))
    assert b.signed() == []


@case
def forged_proposal_is_not_voted_for(m: Any) -> None:
    b = Bench(m).start(pool=True)
    frame = b.frame(0, X)
    b.say(replace(frame, vote=replace(frame.vote, signature=b.sv(PROPOSE, 2, 0, X).signature)))
    assert b.signed() == []


@case
def flood_of_proposals_is_bounded(m: Any) -> None:
    b = Bench(m).start(pool=True)
    for i in range(20):
        b.say(replace(b.frame(0, X), vote=b.sv(PROPOSE, 1, 0, bytes([i]) * 32)))
    assert len(b.machine.h.bodies) <= 1 and len(b.machine.h.votes) <= 3
    assert len(b.of(ev.FaultFound)) == 1


@case
def patience_grows_to_its_cap(m: Any) -> None:
    b = Bench(m).start(pool=True)
    for view in range(12):
        b.say(b.cert(NULLIFY, view))
    delays = {e.view: e.delay_ms for e in b.of(ev.SetTimer) if e.kind == ev.VIEW}
    assert [delays[v] for v in (0, 1, 2, 3, 11, 12)] == [1000, 1500, 2250, 3375, 30_000, 30_000]


@case
def pending_decision_signs_nothing_more(m: Any) -> None:
    b = Bench(m).start(pool=True).say(Bench(m).cert(FINALIZE, 0, X)).timeout().propose(0, Y)
    b.say(b.cert(NULLIFY, 0, by=(1, 2, 3)))
    b.timeout().votes(NULLIFY, 1, by=(2, 3))
    assert b.signed() == [] and not b.of(ev.Commit)


@case
def nullified_view_does_not_bar_a_notarize(m: Any) -> None:
    b = Bench(m).start(pool=True).timeout().propose(0, X)
    assert b.signed() == [(NULLIFY, 0, b""), (NOTARIZE, 0, X)]
    b.votes(NOTARIZE, 0, X, (1, 2))
    assert (FINALIZE, 0, X) not in b.signed(), "its slot T is spent"


@case
def finalized_view_is_not_nullified(m: Any) -> None:
    b = Bench(m).start(pool=True).propose(0, X).votes(NOTARIZE, 0, X)
    b.votes(NULLIFY, 0, by=(1, 2, 3)).timeout()
    assert (NULLIFY, 0, b"") not in b.signed()


@case
def notarized_view_is_not_given_up(m: Any) -> None:
    """R6: whoever holds a notarization of the view never nullifies it, body or not."""
    b = Bench(m).start(pool=True).say(b_cert := Bench(m).cert(NOTARIZE, 0, X))
    assert b.view == 1
    b.machine.h.view = 0
    b.votes(NULLIFY, 0, by=(1, 2))
    assert (NULLIFY, 0, b"") not in b.signed() and b_cert.vote.view == 0


@case
def unjustified_proposal_waits(m: Any) -> None:
    b = Bench(m).start(pool=True)
    b.say(b.cert(NOTARIZE, 0, X)).propose(1, Y, body=True)
    assert (NOTARIZE, 1, Y) not in b.signed()
    b.say(b.cert(NULLIFY, 0))
    assert (NOTARIZE, 1, Y) in b.signed(), "view 0 was skipped after all: now it may"


@case
def gap_in_a_justification_waits(m: Any) -> None:
    b = Bench(m).start(pool=True)
    b.propose(2, Y, b.cert(NULLIFY, 1))
    assert b.view == 2 and b.signed() == []
    b.say(b.cert(NULLIFY, 0))
    assert b.signed() == [(NOTARIZE, 2, Y)]


@case
def peer_10_parent_of_another_block_does_not_justify(m: Any) -> None:
    b = Bench(m).start(pool=True)
    b.propose(1, Y, b.cert(NOTARIZE, 0, X))
    assert b.view == 1 and (NOTARIZE, 1, Y) not in b.signed()


@case
def notarized_block_is_proposed_again(m: Any) -> None:
    """R2. Peer 2, hidden lock: what one node alone saw notarized binds the next leader through it."""
    b = Bench(m, me=2).start(pool=True).propose(0, X).votes(NOTARIZE, 0, X, (0, 1, 3))
    assert b.view == 1 and not b.of(ev.Build)
    b.tick(ev.GRACE)
    assert (PROPOSE, 1, X) in b.signed() and not b.of(ev.Build)
    frame = b.sent(ev.Propose)[-1]
    assert [c.vote.kind for c in frame.justify] == [NOTARIZE]


@case
def leader_waits_for_certificates_it_lacks(m: Any) -> None:
    b = Bench(m, me=3).start(pool=True).say(b_null := Bench(m).cert(NULLIFY, 1, by=(0, 1, 2)))
    assert b.view == 2 and not b.of(ev.Build) and b.sent(ev.Status) and b_null.vote.view == 1
    b.say(b.cert(NULLIFY, 0, by=(0, 1, 2)))
    assert (PROPOSE, 2, X) in b.signed()
    assert [c.vote.view for c in b.sent(ev.Propose)[-1].justify] == [1, 0]


@case
def leader_gives_a_late_finalization_its_grace(m: Any) -> None:
    b = Bench(m, me=2).start(pool=True).propose(0, X).votes(NOTARIZE, 0, X, (0, 1, 3))
    assert all(kind != PROPOSE for kind, _, _ in b.signed())
    b.votes(FINALIZE, 0, X, (0, 1, 3)).tick(ev.GRACE)
    assert all(kind != PROPOSE for kind, _, _ in b.signed()) and len(b.of(ev.Commit)) == 1


@case
def invalid_block_is_given_up_at_once(m: Any) -> None:
    """Peer 11: and without one there is still the timer."""
    b = Bench(m)
    b.verdicts[X] = ev.INVALID
    b.start().propose(0, X)
    assert b.signed() == [(NULLIFY, 0, b"")]


@case
def views_do_not_spin_when_every_block_is_bad(m: Any) -> None:
    b = Bench(m)
    b.verdicts[X] = ev.INVALID
    b.build = False
    b.start(pool=True).say(*(b.cert(NULLIFY, v) for v in range(64))).propose(64, X)
    assert b.view == 64 and b.signed() == []
    b.timeout()
    assert b.signed() == [(NULLIFY, 64, b"")]


@case
def untimely_is_not_invalid(m: Any) -> None:
    """Peer 46: a block from the future is refused now and accepted once a quorum notarized it."""
    b = Bench(m)
    b.verdicts[X] = ev.UNTIMELY
    b.start().propose(0, X)
    assert b.signed() == [(NULLIFY, 0, b"")]
    b.verdicts[X] = ev.VALID
    b.votes(NOTARIZE, 0, X)
    assert not b.of(ev.Halt) and [v.fresh for v in b.of(ev.Validate)] == [True, False]
    b.votes(FINALIZE, 0, X)
    assert len(b.of(ev.Commit)) == 1


@case
def leaders_own_nullify_ends_its_view(m: Any) -> None:
    b = Bench(m).start(pool=True).votes(NULLIFY, 0, by=(1,))
    assert b.signed() == [(NULLIFY, 0, b"")]


@case
def nullify_from_enough_power_is_joined(m: Any) -> None:
    b = Bench(m).start(pool=True).votes(NULLIFY, 0, by=(2,))
    assert b.signed() == []
    b.votes(NULLIFY, 0, by=(3,))
    assert b.signed() == [(NULLIFY, 0, b"")] and b.view == 1


@case
def nullifies_that_came_early_count_on_entering(m: Any) -> None:
    b = Bench(m).start(pool=True).votes(NULLIFY, 1, by=(1, 3))
    assert b.signed() == []
    b.say(b.cert(NULLIFY, 0))
    assert b.signed() == [(NULLIFY, 1, b"")]


@case
def suspect_leader_gets_no_patience(m: Any) -> None:
    b = Bench(m).start(pool=True).feed(*(ev.PeerUp(p) for p in Bench(m).peers[1:]))
    b.feed(ev.PeerDown(b.peers[1]))
    assert b.signed() == [(NULLIFY, 0, b"")]
    c = Bench(m).start(pool=True).feed(ev.PeerUp(b.peers[1]), ev.PeerUp(b.peers[2]), ev.PeerDown(b.peers[1]))
    assert c.signed() == [], "the others alone are no quorum: nothing is won by giving up"


@case
def leader_heard_through_others_is_not_suspect(m: Any) -> None:
    b = Bench(m).start(pool=True).feed(*(ev.PeerUp(p) for p in Bench(m).peers[1:]))
    b.say(b.cert(NULLIFY, 0)).feed(ev.PeerDown(b.peers[3]))
    b.say(b.sv(NOTARIZE, 3, 1, X), peer=1).forget_effects()
    b.say(b.cert(NULLIFY, 1))
    assert b.signed() == [], "view 2 is led by 3, whom 1 relays"


# --- recovery -----------------------------------------------------------------------------------------


@case
def peer_14_slots_survive_a_restart(m: Any) -> None:
    old = Bench(m).start().propose(0, X)
    signs = (old.sv(NOTARIZE, 0, 0, X),)
    b = Bench(m).start(signs=signs, blocks=(ev.StoredBlock(1, X, BODY[X]),)).propose(0, Y)
    assert b.signed() == [] and signs[0] in b.sent(SignedVote), "said again byte for byte"
    c = Bench(m).start(signs=(Bench(m).sv(NULLIFY, 0, 2),))
    assert c.view == 2
    c.timeout()
    assert c.signed() == []


@case
def peer_21_stored_certificates_are_replayed(m: Any) -> None:
    cert = Bench(m).cert(FINALIZE, 0, X)
    b = Bench(m).start(certificates=(cert,), blocks=(ev.StoredBlock(1, X, BODY[X]),))
    assert len(b.of(ev.Commit)) == 1
    c = Bench(m).start(certificates=(Bench(m).cert(NULLIFY, 0), Bench(m).cert(NULLIFY, 1)))
    assert c.view == 2
    d = Bench(m).start(certificates=(Bench(m).cert(NOTARIZE, 0, X),), blocks=(ev.StoredBlock(1, X, BODY[X]),))
    assert (FINALIZE, 0, X) in d.signed()


@case
def peer_27_restarted_leader_repeats_its_proposal(m: Any) -> None:
    b = Bench(m, me=1)
    b.start(signs=(b.sv(PROPOSE, 1, 0, X),), blocks=(ev.StoredBlock(1, X, BODY[X]),))
    assert b.sent(ev.Propose)[0].block == BODY[X] and not b.of(ev.Build)
    assert b.signed() == [(NOTARIZE, 0, X)], "it had not come to that"


@case
def peer_42_nothing_is_signed_when_told_not_to(m: Any) -> None:
    b = Bench(m, me=1).start(pool=True, signing=False).propose(0, X).timeout()
    assert b.signed() == [] and not b.of(ev.Build)
    b.votes(NOTARIZE, 0, X, (0, 2, 3)).votes(FINALIZE, 0, X, (0, 2, 3))
    assert len(b.of(ev.Commit)) == 1, "following needs no voice"


# --- R9 to R11 ----------------------------------------------------------------------------------------


@case
def work_for_another_height_arms_nothing(m: Any) -> None:
    b = Bench(m).start(height=2).feed(ev.PoolNonEmpty(1))
    assert b.effects == []


@case
def enough_voices_arm_an_idle_node(m: Any) -> None:
    b = Bench(m, me=1).start().votes(NULLIFY, 0, by=(2,))
    assert not b.of(ev.SetTimer)
    b.votes(NULLIFY, 0, by=(3,))
    assert b.of(ev.SetTimer)
    c = Bench(m, me=1).start().votes(NOTARIZE, 0, Y, by=(2, 3))
    assert c.of(ev.Build), "asked by power that holds a correct validator"


@case
def peer_11_timer_of_an_earlier_view(m: Any) -> None:
    b = Bench(m).start(pool=True)
    early = b.of(ev.SetTimer)
    b.say(b.cert(NULLIFY, 0))
    b.feed(*(ev.Timer(t.kind, t.height, t.view, t.generation) for t in early))
    assert b.signed() == []


@case
def peer_13_nothing_crosses_heights(m: Any) -> None:
    b = Bench(m).start(pool=True)
    b.verdicts[X] = "later"
    b.propose(0, X).start(height=2, tip=Y)
    b.feed(ev.BlockReady(1, X, ev.VALID), ev.Built(1, 0, X, BODY[X]))
    assert b.signed() == [] and b.view == 0
    assert b.machine.h.bodies == {} and not b.machine.h.certificates


@case
def frames_of_the_next_height_wait(m: Any) -> None:
    b = Bench(m).start()
    b.height = 2
    frame, votes = b.frame(0, X), [b.sv(NOTARIZE, i, 0, X) for i in (1, 2, 3)]
    b.height = 1
    b.say(frame, *votes[:1], peer=1).say(votes[1], peer=2).say(votes[2], peer=3)
    assert b.signed() == [] and b.of(ev.CatchUp)
    b.propose(0, Y).votes(NOTARIZE, 0, Y).votes(FINALIZE, 0, Y).forget_effects()
    b.start(height=2, tip=Y)
    assert (FINALIZE, 0, X) in b.signed()


@case
def peer_17_flood_of_later_heights_is_bounded(m: Any) -> None:
    b = Bench(m).start()
    for height in (2, 3, 4, 99):
        b.height = height
        b.say(*(b.sv(NULLIFY, 2, v) for v in range(50)), peer=2)
    assert len(b.machine._ahead) == 2 * 8


@case
def flood_of_later_views_is_bounded(m: Any) -> None:
    b = Bench(m).start()
    b.say(*(b.sv(NOTARIZE, 2, v, d) for v in range(100) for d in (X, Y)))
    assert len(b.machine.h.votes) <= 6
    b.say(*(ev.Body(1, bytes([i]) * 32, b"?") for i in range(50)))
    assert b.machine.h.bodies == {}


@case
def peer_19_lost_votes_are_sent_again(m: Any) -> None:
    b = Bench(m).start(pool=True).timeout().forget_effects_keep_timers()
    b.tick()
    assert b.sv(NULLIFY, 0, 0) in b.sent(SignedVote) and b.sent(ev.Status)
    first, second = [e.delay_ms for e in b.of(ev.SetTimer) if e.kind == ev.STATUS][-2:]
    assert second == 2 * first


@case
def status_from_behind_is_helped(m: Any) -> None:
    b = Bench(m).start(pool=True).propose(0, X).say(*(Bench(m).cert(NULLIFY, v) for v in (0, 1)))
    b.forget_effects()
    b.say(ev.Status(1, 0, b.machine._tip, b"\0", b"\0", False), peer=3)
    assert sorted(c.vote.view for c in b.sent(Certificate)) == [0, 1]
    assert b.sv(NOTARIZE, 0, 0, X) in b.sent(SignedVote)
    assert b.sent(ev.Propose)[0].vote.vote.digest == X
    b.forget_effects().say(ev.Status(1, 2, b.machine._tip, b"\0", b"\3", True), peer=3)
    assert not b.sent(Certificate)


@case
def lower_and_higher_heights_are_served_and_asked(m: Any) -> None:
    b = Bench(m).start(height=5).say(ev.Status(3, 0, X, b"", b"", False), ev.Status(9, 0, X, b"", b"", False))
    assert [(e.height) for e in b.of(ev.Serve)] == [3]
    assert [(e.height) for e in b.of(ev.CatchUp)] == [9]


@case
def peer_30_patience_is_reset_when_a_quorum_returns(m: Any) -> None:
    b = Bench(m).start(pool=True).feed(ev.PeerUp(Bench(m).peers[1]))
    for view in range(12):
        b.say(b.cert(NULLIFY, view))
    assert b.of(ev.SetTimer)[-1].delay_ms > 20 * VIEW_MS
    b.feed(*(ev.PeerDown(p) for p in b.peers[1:]), ev.PeerUp(b.peers[1]))
    assert b.of(ev.SetTimer)[-1].delay_ms > 20 * VIEW_MS
    b.feed(ev.PeerUp(b.peers[2]))
    assert [e.delay_ms for e in b.of(ev.SetTimer) if e.kind == ev.VIEW][-1] == VIEW_MS


@case
def certificates_are_forwarded_once(m: Any) -> None:
    b = Bench(m).start(pool=True)
    b.say(*[b.cert(NULLIFY, 0)] * 3)
    assert len(b.sent(Certificate)) == 1


@case
def storage_comes_before_speech(m: Any) -> None:
    """A block and the notarization it has are rows before the votes that stand on them."""
    b = Bench(m).start().propose(0, X).votes(NOTARIZE, 0, X)
    kinds = [
        "block" if isinstance(e, ev.Persist) and isinstance(e.row, ev.StoredBlock)
        else "cert" if isinstance(e, ev.Persist)
        else {NOTARIZE: "notarize", FINALIZE: "finalize"}[e.vote.kind]
        for e in b.effects
        if isinstance(e, ev.Persist | ev.Sign)
    ]  # fmt: skip
    assert kinds[:4] == ["block", "notarize", "cert", "finalize"]


@case
def peer_12_idle_and_busy_a_thousand_times(m: Any) -> None:
    b = Bench(m, n=1)
    b.start()
    for height in range(1, 1001):
        assert not [e for e in b.effects if not isinstance(e, ev.Commit)], "idle: nothing said, no timer"
        b.feed(ev.PoolNonEmpty(height))
        assert len(b.of(ev.Commit)) == 1 and b.of(ev.Commit)[0].height == height
        b.forget_effects().start(height=height + 1, tip=X)


@case
def stored_certificates_alone_arm_a_restarted_node(m: Any) -> None:
    b = Bench(m)
    b.start(certificates=(b.cert(NOTARIZE, 0, X),))
    assert b.machine.h.armed and b.view == 1
    assert b.sent(Certificate) and not b.of(ev.Persist), "told to others again, not stored again"


@case
def timers_of_a_committed_height_do_nothing(m: Any) -> None:
    b = Bench(m).start().propose(0, X).votes(NOTARIZE, 0, X).votes(FINALIZE, 0, X)
    assert b.of(ev.Commit)
    b.forget_effects_keep_timers().tick()
    b.timeout()
    assert b.signed() == [] and not b.of(ev.Send) and not b.of(ev.Broadcast)
