"""Who is dialed, when and where: the outgoing half of a mesh.

Addresses of one peer are tried best first, the next one started when the last has not answered within
`STAGGER_S` (RFC 8305). Between rounds a peer rests, longer each time. Hints from discovery belong to nobody
in particular; each is tried with the same patience until every peer is linked. Only addresses that the
operator gave may be names; all others are literals, so a peer's word leads to no name server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import ssl
from collections.abc import Sequence
from time import monotonic
from typing import Protocol

from idao import noderecord
from idao.errors import Malformed
from idao.node import tls, wire
from idao.node.fresh import Fresh
from idao.node.link import HANDSHAKE_S, HELLO_S, LOST, SHUTDOWN_S, Link
from idao.node.peer import Peer
from idao.node.tls import TlsIdentity
from idao.noderecord import SignedNodeRecord

REST_S, REST_MAX_S = 0.2, 10.0
"""Between rounds of dialing one peer: doubling, within ±50 % at random so that nodes do not march in step."""
STAGGER_S = 0.25
"""RFC 8305's connection attempt delay."""
PATIENCE_S = 1.5
"""The higher id dials after that long without a link."""
LASTED_S = 5.0
"""A link that lasted so long was a good one: the next is tried without rest."""
CANDIDATES_MAX = 16
"""Addresses tried in one round."""
HINTS_MAX = 64
"""Hints kept: a flood of false announcements must not make this node dial the whole LAN."""
HINT_TRIES = 8
"""A hint that led nowhere so often (40 s) is dropped until it is heard again."""


class Round:
    """When to dial next: of a peer, or of a hint."""

    __slots__ = ("due", "failures", "task")

    def __init__(self, due: float) -> None:
        self.due, self.failures = due, 0
        self.task: asyncio.Task[str] | None = None

    def failed(self, now: float) -> None:
        rest = min(REST_MAX_S, REST_S * 2.0**self.failures)
        self.failures = min(self.failures + 1, 10)
        self.due = now + rest * random.uniform(0.5, 1.5)


class Who(Protocol):
    """What a dialer asks of its mesh: who is who, and what to do with a link that stands."""

    idao: bytes
    own: SignedNodeRecord
    identity: TlsIdentity
    peers: dict[bytes, Peer]
    by_pin: dict[bytes, tuple[bytes, ...]]

    def certificates(self) -> list[bytes]: ...

    def strangers(self) -> bool: ...

    def greet(self, link: Link) -> None: ...

    def welcome(self, link: Link, hello: wire.Hello) -> bool: ...


class Dialer:
    def __init__(self, mesh: Who) -> None:
        self.mesh = mesh
        self.rounds: dict[bytes, Round] = {}
        self.hints: dict[str, Round] = {}
        self.good: dict[bytes, str] = {}
        """Where a peer last answered."""
        self._greeted: set[bytes] = set()
        """Who has been sent a hello and not answered yet."""
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._context: tuple[list[bytes], bool, ssl.SSLContext] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        tasks = [r.task for r in (*self.rounds.values(), *self.hints.values()) if r.task is not None]
        if self._task is not None:
            tasks.append(self._task)  # type: ignore[arg-type]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self) -> None:
        """Something changed: look again who is due."""
        self._wake.set()

    def lost(self, peer: Peer, lasted: float) -> None:
        """The link to `peer` ended after `lasted` seconds."""
        now = monotonic()
        turn = self.rounds.setdefault(peer.allowed.idao, Round(now))
        if lasted > LASTED_S:
            turn.failures, turn.due = 0, now
        else:
            turn.failed(now)
        if peer.allowed.idao < self.mesh.idao:
            turn.due = max(turn.due, now + PATIENCE_S)
        self.wake()

    def hint(self, addresses: Sequence[str]) -> None:
        now = monotonic()
        for address in addresses:
            try:
                noderecord.split_address(address)
            except Malformed:
                continue
            if address in self.hints:
                self.hints[address].failures = 0
            elif len(self.hints) < HINTS_MAX:
                self.hints[address] = Round(now)
        self.wake()

    # --- the loop

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            now = monotonic()
            try:
                due = min(self._peers(now), self._hinted(now))
            except Exception as e:  # a bug here must not end all dialing without a word
                told = {"message": "dialing met a bug", "exception": e}
                asyncio.get_running_loop().call_exception_handler(told)
                due = now + REST_MAX_S
            with contextlib.suppress(TimeoutError):
                # Not `wait_for`: in Python 3.11 it swallows a cancellation that meets the event.
                async with asyncio.timeout(max(0.0, due - now)):
                    await self._wake.wait()

    def _peers(self, now: float) -> float:
        """Starts the rounds that are due; the time of the next one."""
        mesh, following = self.mesh, now + REST_MAX_S
        for idao in [i for i in self.rounds if i not in mesh.peers]:
            del self.rounds[idao]
        for idao, peer in mesh.peers.items():
            turn = self.rounds.get(idao)
            if turn is None:
                turn = self.rounds[idao] = Round(now if mesh.idao < idao else now + PATIENCE_S)
            if peer.link is not None or turn.task is not None:
                continue
            if peer.record is None and not self._candidates(peer):
                continue
            due = max(turn.due, peer.kept_out_until)
            if due <= now:
                turn.task = asyncio.create_task(self._round(self._candidates(peer), idao))
                turn.task.add_done_callback(lambda task, t=turn, p=peer: self._over(task, t, p))  # type: ignore[misc]
            else:
                following = min(following, due)
        return following

    def _hinted(self, now: float) -> float:
        """The same for hints, as long as somebody is missing."""
        mesh, following = self.mesh, now + REST_MAX_S
        if not any(peer.link is None for peer in mesh.peers.values()):
            return following
        linked = {peer.link.address for peer in mesh.peers.values() if peer.link is not None}
        for address in [a for a, turn in self.hints.items() if turn.failures >= HINT_TRIES and not turn.task]:
            del self.hints[address]
        for address, turn in self.hints.items():
            if turn.task is not None or address in linked:
                continue
            if turn.due <= now:
                turn.task = asyncio.create_task(self._round([address], b""))
                turn.task.add_done_callback(lambda task, t=turn: self._over(task, t, None))  # type: ignore[misc]
            else:
                following = min(following, turn.due)
        return following

    def _over(self, task: asyncio.Task[str], turn: Round, peer: Peer | None) -> None:
        turn.task = None
        if task.cancelled():
            return
        now = monotonic()
        turn.failed(now)
        if peer is not None and peer.link is None and (why := task.result()) and now > peer.kept_out_until:
            peer.reason = why
        self.wake()

    def _candidates(self, peer: Peer) -> list[str]:
        idao = peer.allowed.idao
        known = list(peer.allowed.addresses)
        if idao in self.good:
            known.append(self.good[idao])
        if peer.record is not None:
            known += peer.record.record.addresses
        own = set(self.mesh.own.record.addresses)
        return [a for a in dict.fromkeys(known) if a not in own][:CANDIDATES_MAX]

    async def _round(self, addresses: list[str], idao: bytes) -> str:
        """Dials until one answers as a peer; without `idao`, whichever it is. Why none did, or nothing."""
        why = "no address known"
        waiting: set[asyncio.Task[str]] = set()
        queue = list(addresses)
        try:
            while queue or waiting:
                if queue:
                    waiting.add(asyncio.create_task(self._dial(queue.pop(0), idao)))
                patience = STAGGER_S if queue else None
                done, waiting = await asyncio.wait(
                    waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    why = task.result()
                    if not why or (idao and self.mesh.peers[idao].link is not None):
                        return ""
        except KeyError:
            return "no longer a member"
        finally:
            for task in waiting:
                task.cancel()
        return why

    async def _dial(self, address: str, wanted: bytes) -> str:
        """One attempt: empty when it became a peer's link, else why it did not. A hint names nobody."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
        fresh = Fresh(self.mesh.welcome, lambda why: None if answer.done() else answer.set_result(why))
        link: Link | None = None
        try:
            host, port = noderecord.split_address(address)
            async with asyncio.timeout(HANDSHAKE_S + HELLO_S):
                _, link = await loop.create_connection(
                    lambda: fresh.link(dialed=True),
                    host,
                    port,
                    ssl=self._tls(),
                    server_hostname="",
                    ssl_handshake_timeout=HANDSHAKE_S,
                    ssl_shutdown_timeout=SHUTDOWN_S,
                )
                those = self.mesh.by_pin.get(link.pin, ())
                if not those or link.alpn != tls.PEERS:
                    link.cut("the certificate there is no member's")
                    return f"{address}: the certificate there is no member's"
                idao = wanted if wanted in those else those[0]
                if not wanted and self._leave_it(idao, address):
                    return ""
                why = await self._introduce(link, idao, answer)
                if why == LOST:
                    why = "it hung up on our name: it may not take this node for a member"
        except TimeoutError:
            return f"{address}: no answer"
        except (OSError, ssl.SSLError, UnicodeError, Malformed) as e:  # UnicodeError: a name that is none
            return f"{address}: {words_of(e)}"
        finally:
            if not answer.done() and link is not None:
                link.cut("given up")
        if not why:
            self.good[idao] = address
        return why and f"{address}: {why}"

    def _leave_it(self, idao: bytes, address: str) -> bool:
        """A hint led to a peer whose turn to dial it is: now its address is known, should it not come."""
        turn = self.rounds.get(idao)
        if turn is None or idao >= self.mesh.idao or monotonic() >= turn.due:
            return False
        self.good[idao] = address
        self.hints.pop(address, None)
        return True

    async def _introduce(self, link: Link, idao: bytes, answer: asyncio.Future[str]) -> str:
        """Hello and its answer; nothing is said when another address of that peer has been quicker."""
        peer = self.mesh.peers.get(idao)
        if idao in self._greeted or (peer is not None and peer.link is not None):
            return ""
        self._greeted.add(idao)
        try:
            self.mesh.greet(link)
            return await answer
        finally:
            self._greeted.discard(idao)

    def _tls(self) -> ssl.SSLContext:
        trusted, sieved = self.mesh.certificates(), not self.mesh.strangers()
        if self._context is None or self._context[:2] != (trusted, sieved):
            context = tls.client_context(self.mesh.identity, trusted, sieved=sieved)
            self._context = trusted, sieved, context
        return self._context[2]


def words_of(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "the certificate there is no member's"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason}"
    if isinstance(error, UnicodeError):
        return "no such name"
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno).lower()  # asyncio's own words repeat the address
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error)
