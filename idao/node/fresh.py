"""A connection from the end of its handshake to a valid hello: nobody yet.

It may send one small frame within `HELLO_S`: a hello, or the other end's goodbye. Everything else ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from idao.crypto import canonical
from idao.errors import Malformed
from idao.node import wire
from idao.node.link import HELLO_S, Link

Welcome = Callable[[Link, wire.Hello], bool]
"""Makes the link a peer's; False when it was refused with a word. `Malformed`: it was cut."""


class Fresh:
    """Waits for the hello of one new link. `done` gets why it did not become a peer's, or an empty text."""

    def __init__(self, welcome: Welcome, done: Callable[[str], None]) -> None:
        self.welcome, self.done = welcome, done
        self.timer: asyncio.TimerHandle | None = None
        self.over = False

    def link(self, *, dialed: bool, opened: Callable[[Link], None] | None = None) -> Link:
        def opening(link: Link) -> None:
            self.timer = link.loop.call_later(HELLO_S, link.cut, f"no hello within {HELLO_S:.0f} s")
            if opened is not None:
                opened(link)

        return Link(self.receive, self.lost, dialed=dialed, opened=opening)

    def receive(self, link: Link, kind: int, payload: bytes) -> None:
        if self.over:
            return
        if kind == wire.BYE:
            reason = canonical.unpack(wire.Bye, payload).reason
            link.close("it said: " + wire.printable(reason))
        elif kind == wire.HELLO:
            try:
                welcome = self.welcome(link, canonical.unpack(wire.Hello, payload))
            except Exception as e:
                self.finish(str(e))  # by now the mesh may answer for its end, and nobody would say so here
                raise
            self.finish("" if welcome else "refused here")
        else:
            raise Malformed(f"a frame of kind {kind} instead of a hello")

    def lost(self, link: Link, reason: str, blame: bool) -> None:
        self.finish(reason)

    def finish(self, reason: str) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if not self.over:
            self.over = True
            self.done(reason)
