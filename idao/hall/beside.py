"""A calculation in a process of its own, beside what this one goes on with.

It may read memory only: no database, which must not be carried over a fork. What else it wants to know it
asks for, and waits until its result is wanted. Whatever goes wrong there, the caller calculates for himself.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

from idao.store import forks
from idao.store.forks import Socket, die_with, receive, send, socketpair

Ask = Callable[[Any], Any]
"""A question of plain values to the process that made this one, and its answer."""


class Beside:
    """Forked when made, if that can be done here. To be asked for its result once, and stopped."""

    def __init__(self, calculate: Callable[[Ask], Any]) -> None:
        self._pid = 0
        if not forks.may_fork():
            return
        parent = os.getpid()
        self._socket, child = socketpair()
        with closing(child):
            try:
                self._pid = os.fork()
            except OSError:  # the system will not have more processes
                self._socket.close()
                return
            if self._pid == 0:
                self._socket.close()
                _child(calculate, child, parent)

    def result(self, answer: Ask) -> Any:
        """Waits for it and answers its questions. None when there is none. Raises what `answer` raises.

        It goes on ending by itself, which takes milliseconds; `stop` waits for that.
        """
        while self._pid and (message := receive(self._socket)):
            if message[0] == "done":
                return message[1]
            with suppress(BrokenPipeError):
                send(self._socket, ("answer", answer(message[1])))
        return None

    def stop(self) -> None:
        """Ends it, whatever it does; always to be called."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
            self._socket.close()


def _child(calculate: Callable[[Ask], Any], sock: Socket, parent: int) -> None:
    """Never returns."""

    def ask(question: Any) -> Any:
        send(sock, ("ask", question))
        if (answer := receive(sock)) is None:
            raise EOFError
        return answer[1]

    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with(parent)
        _leave_locks(sock.fileno())
        gc.disable()  # it lives for this alone
        send(sock, ("done", calculate(ask)))
    finally:
        os._exit(0)


def _leave_locks(kept: int) -> None:
    """Closes all files but the standard ones: a lock on one would be held for as long as this goes on."""
    with suppress(OSError):
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2 and fd != kept:
                with suppress(OSError):  # the listing's own
                    os.close(fd)
