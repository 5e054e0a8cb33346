"""Whatever peers send, in whatever order, the machine neither breaks nor says two things in one slot."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from sim.bench import BODY, Bench, X, Y

from idao.model import FINALIZE, NOTARIZE, NULLIFY, PROPOSE, SLOT_OF
from idao.quorum import events as ev
from idao.quorum.machine import Machine

MAKE = Bench(Machine)
VIEWS = st.sampled_from([0, 0, 1, 1, 2, 3, 4, 2**62])
DIGESTS = st.sampled_from([X, Y])
KINDS = st.sampled_from([NOTARIZE, FINALIZE, NULLIFY])
PEERS = st.sampled_from([1, 2, 3])
FEW = st.sampled_from([(1, 2, 3), (1, 2, 3), (1, 2), (2, 3), (3,)])
BITS = st.binary(max_size=4)

votes = st.builds(MAKE.sv, st.sampled_from([PROPOSE, NOTARIZE, FINALIZE, NULLIFY]), PEERS, VIEWS, DIGESTS)
certificates = st.builds(MAKE.cert, KINDS, VIEWS, DIGESTS, FEW)
odd_certificates = st.builds(
    lambda c, bits: replace(c, bitmap=bits), certificates, st.binary(min_size=1, max_size=3)
)
proposals = st.builds(
    lambda view, digest, justify, body: MAKE.frame(view, digest, tuple(justify), body=body),
    st.sampled_from([0, 1, 2, 4, 5, 2**62]),
    DIGESTS,
    st.lists(certificates, max_size=3),
    st.booleans(),
)
frames = st.one_of(
    votes,
    votes,
    certificates,
    odd_certificates,
    proposals,
    proposals,
    st.builds(ev.Status, st.sampled_from([0, 1, 1, 1, 2, 2**62]), VIEWS, DIGESTS, BITS, BITS, st.booleans()),
    st.builds(ev.GetBlock, st.sampled_from([0, 1, 2]), DIGESTS),
    st.builds(
        lambda h, d, good: ev.Body(h, d, BODY[d] if good else b"?"), st.just(1), DIGESTS, st.booleans()
    ),
)
events = st.one_of(
    st.builds(lambda p, f: ev.Msg(MAKE.peers[p], f), PEERS, frames),
    st.builds(lambda p, f: ev.Msg(MAKE.peers[p], f), PEERS, frames),
    st.builds(lambda p: ev.PeerUp(MAKE.peers[p]), PEERS),
    st.builds(lambda p: ev.PeerDown(MAKE.peers[p]), PEERS),
    st.sampled_from(["timeout", "status"]),
    st.just(ev.PoolNonEmpty(1)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(events, max_size=60), st.sampled_from([0, 1, 2]))
def test_any_frames_in_any_order(script: list[ev.Event | str], me: int) -> None:
    bench = Bench(Machine, me=me).start()
    for event in script:
        if isinstance(event, str):
            kind = ev.VIEW if event == "timeout" else ev.STATUS
            if any(isinstance(e, ev.SetTimer) and e.kind == kind for e in bench.effects):
                bench.tick(kind)
        else:
            bench.feed(event)
    slots = [(view, SLOT_OF[kind]) for kind, view, _ in bench.signed()]
    assert len(slots) == len(set(slots))
    assert len(bench.of(ev.Commit)) <= 1
    keys = {f.fault.key for f in bench.of(ev.FaultFound)}
    if not bench.of(ev.Halt):
        assert bench.validators.validators[me].key not in keys
