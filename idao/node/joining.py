"""The joiner's side of pairing (`node.pairing`): from a pasted invite to the records of all members."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence

from idao import invite, noderecord
from idao.crypto import canonical
from idao.errors import IdaoError, Malformed, Refused, Unreachable, VerificationFailed
from idao.frozen import frozen
from idao.home import entropy, now_ms
from idao.invite import Invite
from idao.ledger.genesis import GROUP, Bundle, check_bundle, quorum_id
from idao.node import pairing, tls
from idao.node.dial import STAGGER_S, words_of
from idao.node.link import FRAME_MAX, HANDSHAKE_S, SHUTDOWN_S, Link
from idao.node.pairing import Hail, Offer, Refusal, Reply, Sealed, Verdict
from idao.node.wire import PAIR, printable
from idao.noderecord import SignedNodeRecord

SILENCE_S = 4 * pairing.WAIT_S
"""The inviter's node speaks every `WAIT_S`: so much silence and it has gone."""


@frozen
class Who:
    """The joiner, as it will be known: fixed before the inviter says anything."""

    idao: bytes
    key: bytes
    """Validator key."""
    tls: bytes
    """Hash of its certificate."""


@frozen
class Welcome:
    quorum: bytes
    bundle: Bundle
    """The genesis, checked."""
    records: tuple[SignedNodeRecord, ...]
    """Of the members; each one's signature holds."""
    inviter: bytes | None
    """Its iDAO, as the record of the certificate that answered names it."""
    name: str
    """What the inviter calls itself."""


MakeOffer = Callable[[bytes, Bundle, bytes], Offer]
"""(quorum id, genesis, nonce to put in) -> the offer: made when the quorum is known, as it signs for it."""


async def join(
    taken: Invite,
    who: Who,
    make_offer: MakeOffer,
    *,
    addresses: Sequence[str] = (),
    on_words: Callable[[str], None],
) -> Welcome:
    """Pairs with the inviter. `on_words` gets the six words to show; then the inviter's person decides.

    `addresses` are tried beside those of the invite. `Unreachable`: nobody there who made this invite.
    `Refused`: it said no, and why. `VerificationFailed`: what it sent does not hold.
    """
    line = _Line()
    try:
        link = await _reach(taken, [*addresses, *taken.addresses], line)
        try:
            return await _talk(taken, who, make_offer, link, line, on_words)
        finally:
            link.close("done")
    except Malformed as e:
        raise VerificationFailed(f"the inviter's node sent something that does not hold: {e.message}") from e


async def _talk(
    taken: Invite, who: Who, make_offer: MakeOffer, link: Link, line: _Line, on_words: Callable[[str], None]
) -> Welcome:
    nonce = entropy(32)
    transcript = [link.pin, invite.commitment(nonce, who.idao, who.key, who.tls)]
    hail = Hail(1, transcript[1], invite.proof(taken.secret, 1, transcript))
    link.send(PAIR, canonical.pack(hail))

    answer = await line.next(pairing.STEP_S)
    reply = _reply(answer)
    transcript += [reply.nonce, reply.bundle]
    if not invite.proven(taken.secret, 2, transcript, reply.proof):
        raise Malformed("its proof of the invite's secret is wrong")
    bundle = canonical.unpack(Bundle, reply.bundle)
    quorum = quorum_id(bundle.genesis)
    if quorum[: invite.QUORUM_BYTES] != taken.quorum:
        raise Malformed("the genesis is of another quorum than the invite")
    if bundle.genesis.kind != GROUP:
        raise Malformed("a quorum of one takes nobody in")
    check_bundle(bundle)

    offer = make_offer(quorum, bundle, nonce)
    if (offer.nonce, offer.idao, offer.key, offer.record.record.tls) != (nonce, who.idao, who.key, who.tls):
        raise ValueError("the offer is not by who was announced")
    message = canonical.pack(offer)
    transcript.append(message)
    link.send(PAIR, canonical.pack(Sealed(message, invite.proof(taken.secret, 3, transcript))))
    on_words(invite.words(quorum, link.pin, (nonce, reply.nonce), (who.idao, who.key, who.tls)))

    while not (answer := await line.next(SILENCE_S)):
        pass
    sealed = canonical.unpack(Sealed, answer)
    transcript.append(sealed.message)
    if not invite.proven(taken.secret, 4, transcript, sealed.proof):
        raise Malformed("the proof of its verdict is wrong")
    verdict = canonical.unpack(Verdict, sealed.message)
    if not verdict.accepted:
        why = printable(verdict.reason)
        raise Refused(f"the inviter said no{': ' + why if why else ''}", code="invite-refused")
    for signed in verdict.records:
        noderecord.check(signed)
        if signed.record.quorum != quorum:
            raise Malformed("a node record of another quorum")
    inviter = next((r.record.idao for r in verdict.records if r.record.tls == link.pin), None)
    return Welcome(quorum, bundle, verdict.records, inviter, printable(verdict.name))


def _reply(answer: bytes) -> Reply:
    try:
        refusal = canonical.unpack(Refusal, answer)
    except Malformed:
        return canonical.unpack(Reply, answer)
    raise Refused(
        printable(refusal.reason),
        code="invite-not-taken",
        hint="ask the inviter for a new invite: 'idao quorum invite'",
    )


# --- the connection ------------------------------------------------------------------------------------


class _Line:
    """Frames of the inviter, in order, for a coroutine to wait on."""

    def __init__(self) -> None:
        self._frames: asyncio.Queue[bytes | IdaoError] = asyncio.Queue()

    def receive(self, link: Link, kind: int, payload: bytes) -> None:
        if kind != PAIR:
            raise Malformed(f"a frame of kind {kind} in a pairing")
        self._frames.put_nowait(payload)

    def lost(self, link: Link, reason: str, blame: bool) -> None:
        self._frames.put_nowait(
            Unreachable(
                f"the inviter's node has gone: {reason}", hint="the invite may still hold: run the same again"
            )
        )

    async def next(self, seconds: float) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                got = await self._frames.get()
        except TimeoutError:
            raise Unreachable(
                "the inviter's node has stopped answering", hint="run the same command again"
            ) from None
        if isinstance(got, IdaoError):
            raise got
        return got


async def _reach(taken: Invite, addresses: list[str], line: _Line) -> Link:
    """A link to the node whose certificate the invite names; every address is tried, the next one soon."""
    context = tls.joining_context()
    queue = list(dict.fromkeys(addresses))
    waiting: set[asyncio.Task[Link]] = set()
    reasons: list[str] = []
    try:
        while queue or waiting:
            if queue:
                waiting.add(asyncio.create_task(_dial(queue.pop(0), context, taken, line)))
            done, waiting = await asyncio.wait(
                waiting, timeout=STAGGER_S if queue else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                if task.exception() is None:
                    return task.result()
                reasons.append(str(task.exception()))
    finally:
        for task in waiting:
            task.cancel()
    late = ": by the clock here it has expired" if invite.expired(taken, now_ms()) else ""
    raise Unreachable(
        f"nobody who made this invite can be reached{late}" + "".join(f"; {why}" for why in reasons),
        hint="is 'idao node run' on at the inviter's? else ask for a new invite, or give '--peer HOST:PORT'",
    )


async def _dial(address: str, context: ssl.SSLContext, taken: Invite, line: _Line) -> Link:
    """`Unreachable` with the address and the reason."""
    loop = asyncio.get_running_loop()
    link: Link | None = None
    fresh = _Opening()
    try:
        host, port = noderecord.split_address(address)
        async with asyncio.timeout(HANDSHAKE_S):
            _, link = await loop.create_connection(
                lambda: Link(fresh.receive, fresh.lost, dialed=True),
                host,
                port,
                ssl=context,
                server_hostname="",
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=SHUTDOWN_S,
            )
    except ssl.SSLError as e:
        raise Unreachable(f"{address}: it takes no joiner now ({e.reason})") from e
    except TimeoutError:
        raise Unreachable(f"{address}: no answer") from None
    except (OSError, UnicodeError, Malformed) as e:
        raise Unreachable(f"{address}: {words_of(e)}") from e
    if link.pin[: invite.PIN_BYTES] != taken.pin:
        link.cut("another node than the inviter's")
        raise Unreachable(f"{address}: another node than the inviter's")
    if link.alpn != tls.PAIRING:
        link.cut("not pairing")
        raise Unreachable(f"{address}: no invite of this node is open: it expired or was used")
    link.frame_max = FRAME_MAX
    link.receive, link.lost = line.receive, line.lost
    if fresh.gone:
        raise Unreachable(f"{address}: {fresh.gone}")
    return link


class _Opening:
    """Between handshake and pin check nothing is expected."""

    gone = ""

    def receive(self, link: Link, kind: int, payload: bytes) -> None:
        raise Malformed("it spoke first")

    def lost(self, link: Link, reason: str, blame: bool) -> None:
        self.gone = reason
