"""Cases: what is told to whom, asked of whom and how often, and what arms a node or blames a leader."""

from __future__ import annotations

from typing import Any

from idao.model import FINALIZE, NOTARIZE, NULLIFY, Certificate, SignedVote
from idao.quorum import events as ev

from .bench import BODY, Bench, X, Y
from .blocks import GENESIS
from .cases import case


@case
def status_says_what_is_held(m: Any) -> None:
    b = Bench(m).start(pool=True)
    b.say(b.cert(NULLIFY, 0), b.cert(NOTARIZE, 1, X))
    s = b.machine.status()
    assert s is not None and (s.notarized, s.nullified) == (b"\2", b"\1")


@case
def held_blocks_are_given_to_who_asks(m: Any) -> None:
    b = Bench(m).start(pool=True)
    b.propose(0, X).forget_effects_keep_timers()
    b.say(ev.GetBlock(1, X))
    assert [f.block for f in b.sent(ev.Body)] == [BODY[X]]
    b.say(ev.GetBlock(1, Y))
    assert len(b.sent(ev.Body)) == 1 and not b.of(ev.Serve), "what is not here is not promised"


@case
def an_idle_height_blames_no_leader(m: Any) -> None:
    b = Bench(m).start()
    b.feed(*(ev.PeerUp(p) for p in b.peers[1:]))
    b.feed(ev.PeerDown(b.peers[1]))
    assert b.signed() == []


@case
def a_leader_that_has_proposed_may_go(m: Any) -> None:
    b = Bench(m).start(pool=True)
    b.feed(*(ev.PeerUp(p) for p in b.peers[1:]))
    b.propose(0, X)
    b.feed(ev.PeerDown(b.peers[1]))
    assert NULLIFY not in [kind for kind, _, _ in b.signed()]


@case
def a_proposal_is_a_vote_to_propose(m: Any) -> None:
    b = Bench(m).start(pool=True)
    b.say(ev.Propose(b.sv(NOTARIZE, 1, 0, X), BODY[X], ()))
    assert not b.machine.h.proposals and not b.machine.h.bodies and b.signed() == []


@case
def stored_rows_are_not_stored_again(m: Any) -> None:
    b = Bench(m)
    b.start(certificates=(b.cert(NULLIFY, 0),), pool=True)
    assert b.view == 1 and not b.of(ev.Persist)


@case
def a_decided_height_tells_its_decision(m: Any) -> None:
    b = Bench(m).start(pool=True)
    decided = b.cert(FINALIZE, 0, X)
    b.say(decided).forget_effects_keep_timers()
    b.tick()
    assert decided in b.sent(Certificate) and not b.of(ev.Commit)


@case
def the_vote_that_ended_the_view_before_is_told_too(m: Any) -> None:
    b = Bench(m).start(pool=True)
    b.propose(0, X).votes(NOTARIZE, 0, X)
    assert b.view == 1 and (FINALIZE, 0, X) in b.signed()
    b.forget_effects_keep_timers()
    b.tick()
    assert any(v.vote.kind == FINALIZE and v.vote.view == 0 for v in b.sent(SignedVote))


@case
def a_proposal_alone_arms(m: Any) -> None:
    """R9. With seven, the leader's vote and one's own are less than honest_size."""
    b = Bench(m, n=7).start()
    b.propose(0, X)
    assert {e.kind for e in b.of(ev.SetTimer)} >= {ev.VIEW, ev.STATUS}


@case
def a_new_view_repeats_itself_soon_again(m: Any) -> None:
    """R10: each repetition waits longer, until there is something new to tell."""
    b = Bench(m).start(pool=True).tick().tick().tick()
    assert b.of(ev.SetTimer)[-1].delay_ms == 4000
    b.say(b.cert(NULLIFY, 0))
    assert [e.delay_ms for e in b.of(ev.SetTimer) if e.kind == ev.STATUS][-1] == 500


@case
def a_proposal_without_its_block_waits_for_it(m: Any) -> None:
    b = Bench(m).start(pool=True)
    b.propose(0, X, body=False)
    assert not b.of(ev.Validate) and b.signed() == []
    b.say(ev.Body(1, X, BODY[X]))
    assert b.signed() == [(NOTARIZE, 0, X)]


@case
def one_voice_arms_nobody(m: Any) -> None:
    """R9: two votes of one validator are not two validators."""
    b = Bench(m).start()
    b.votes(NULLIFY, 0, by=(2,)).votes(NOTARIZE, 0, X, by=(2,)).votes(NULLIFY, 1, by=(2,))
    assert not b.machine.h.armed and not b.of(ev.SetTimer)
    b.votes(NULLIFY, 0, by=(3,))
    assert b.machine.h.armed


@case
def one_that_is_far_ahead_is_asked_once(m: Any) -> None:
    b = Bench(m).start()
    b.height = 9
    frames = [b.sv(NOTARIZE, 1, view, X) for view in range(5)]
    b.height = 1
    b.say(*frames)
    assert len(b.of(ev.CatchUp)) == 1


@case
def own_old_votes_that_come_back_in_quarantine_halt_nobody(m: Any) -> None:
    """They are what it may have forgotten: that is what the quarantine is for."""
    b = Bench(m).start(pool=True, signing=False)
    b.say(b.sv(NOTARIZE, 0, 0, Y))
    assert not b.of(ev.Halt) and b.machine.halted is None


@case
def who_asks_is_told_what_is_decided(m: Any) -> None:
    b = Bench(m).start(pool=True)
    decided = b.cert(FINALIZE, 0, X)
    b.say(decided).forget_effects()
    b.say(ev.Status(1, 0, GENESIS, b"", b"", False), peer=2)
    assert [f for f in b.sent(Certificate) if f.vote.kind == FINALIZE] == [decided]


@case
def a_verdict_is_asked_for_and_final(m: Any) -> None:
    b = Bench(m).start(pool=True)
    b.feed(ev.BlockReady(1, Y, ev.VALID))
    assert Y not in b.machine.h.verdicts
    b.propose(0, X).feed(ev.BlockReady(1, X, ev.INVALID))
    assert b.machine.h.verdicts[X] == ev.VALID and not b.of(ev.Halt)


@case
def a_block_that_did_not_come_is_asked_for_again(m: Any) -> None:
    b = Bench(m).start(pool=True)
    b.feed(*(ev.PeerUp(p) for p in b.peers[1:])).propose(0, X, body=False)
    assert len(b.sent(ev.GetBlock)) == 1
    b.tick()
    assert len(b.sent(ev.GetBlock)) == 2


@case
def a_peer_that_comes_and_goes_renews_no_patience(m: Any) -> None:
    """Only a quorum that was not there and is again starts afresh: else one peer could hold up a view."""
    b = Bench(m).start(pool=True)
    b.feed(*(ev.PeerUp(p) for p in b.peers[1:])).forget_effects()
    b.feed(ev.PeerDown(b.peers[3]), ev.PeerUp(b.peers[3]))
    assert not b.of(ev.SetTimer)
    b.feed(ev.PeerDown(b.peers[3]), ev.PeerDown(b.peers[2])).forget_effects()
    b.feed(ev.PeerUp(b.peers[3]))
    assert {e.kind for e in b.of(ev.SetTimer)} == {ev.VIEW, ev.STATUS}


@case
def being_heard_through_others_lasts_a_height(m: Any) -> None:
    b = Bench(m).start(pool=True)
    b.feed(*(ev.PeerUp(p) for p in b.peers[1:])).feed(ev.PeerDown(b.peers[2]))
    b.say(b.sv(NULLIFY, 2, 0), peer=1)
    b.forget_effects().start(height=2, pool=True)
    assert (NULLIFY, 0, b"") in b.signed(), "the leader of height 2 is down"


@case
def certificates_of_the_height_before_are_no_news(m: Any) -> None:
    b = Bench(m).start().propose(0, X).votes(NOTARIZE, 0, X).votes(FINALIZE, 0, X)
    nullified, finalized = b.cert(NULLIFY, 0, by=(0, 2, 3)), b.cert(FINALIZE, 2, X)
    b.start(height=2, tip=X).forget_effects()
    b.say(nullified, finalized)
    assert not b.sent(Certificate) and not b.of(ev.Persist) and not b.of(ev.ForkDetected) and b.view == 0


@case
def a_proposal_to_the_height_before_still_proves_a_fault(m: Any) -> None:
    b = Bench(m).start().propose(0, X).votes(NOTARIZE, 0, X).votes(FINALIZE, 0, X)
    late = b.frame(0, Y)
    b.start(height=2, tip=X).say(late)
    assert [f.fault.kind for f in b.of(ev.FaultFound)] == ["propose"]


@case
def older_blocks_are_asked_of_the_ledger(m: Any) -> None:
    b = Bench(m).start(height=3)
    b.say(ev.GetBlock(2, X), ev.GetBlock(0, X), ev.GetBlock(3, X), ev.GetBlock(4, X), peer=2)
    assert b.of(ev.Serve) == [ev.Serve(b.peers[2], 2)]


@case
def a_block_built_for_another_view_is_dropped(m: Any) -> None:
    b = Bench(m, me=1)
    b.build = False
    b.start(pool=True)
    assert [(e.height, e.view) for e in b.of(ev.Build)] == [(1, 0)]
    for height, view in ((2, 0), (1, 1)):
        b.feed(ev.Built(height, view, X, BODY[X]))
    b.say(Bench(m).cert(NULLIFY, 0, by=(0, 2, 3))).feed(ev.Built(1, 0, X, BODY[X]))
    assert b.signed() == []
    c = Bench(m, me=2)
    c.build = False
    c.start(pool=True).feed(ev.Built(1, 0, X, BODY[X]))
    assert c.signed() == [], "nobody asked for it"


@case
def those_who_claim_more_are_told_in_turn(m: Any) -> None:
    b = Bench(m).start()
    for peer in (1, 2, 3):
        b.height = 9
        b.say(b.sv(NULLIFY, peer, 0), peer=peer)
    told = []
    for height in (2, 3, 4):
        b.forget_effects().start(height=height)
        told += [e.peer for e in b.of(ev.Send) if isinstance(e.frame, ev.Status)]
    assert sorted(told) == sorted(b.peers[1:])


@case
def a_late_frame_takes_no_claim_back(m: Any) -> None:
    b = Bench(m).start()
    for height in (9, 5, 9):
        b.height = height
        b.say(b.sv(NULLIFY, 1, 0))
    assert len(b.of(ev.CatchUp)) == 1
