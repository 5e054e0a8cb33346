"""Signatures of an audit, verified in a process beside the one that derives the blocks."""

from __future__ import annotations

import contextlib
import signal
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from idao.crypto import keys
from idao.errors import IdaoError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

Where = tuple[Callable[[], str], str]
"""(where, what is wrong if it does not hold); a place is put in words only when it is shown."""
BATCH = 512
"""Signatures sent to the other process at once; a ledger with fewer is done without one."""
BATCHES_MAX = 8
"""Batches under way: some 2 MB, however long the ledger."""


class Signatures:
    """Takes signatures and answers for them later.

    Each is taken for good at first (`at(where)` gives the function to check with) and named in the report
    at the end if it is not. Batches go over a pipe as plain bytes: packing objects would cost this process as
    much as a signature costs the other one.
    """

    def __init__(self) -> None:
        self._names: list[Where] = []
        self._parts: list[bytes] = []
        self._sent: deque[list[Where]] = deque()
        self._beside: tuple[Connection, BaseProcess] | None = None
        self.bad: list[tuple[str, str]] = []

    def at(self, where: Callable[[], str], what: str) -> keys.Verify:
        def later(key: bytes, signature: bytes, message: bytes) -> bool:
            if len(key) != 32 or len(signature) != 64:
                return False
            self._names.append((where, what))
            self._parts += key, signature, len(message).to_bytes(4, "big"), message
            if len(self._names) >= BATCH:
                self._send()
            return True

        return later

    def _send(self) -> None:
        if self._beside is None:
            from multiprocessing import get_context

            context = get_context("fork")
            mine, other = context.Pipe()
            process = context.Process(target=_verify_batches, args=(mine, other), daemon=True)
            process.start()
            other.close()
            self._beside = mine, process
        pipe, _ = self._beside
        with _together():
            pipe.send_bytes(b"".join(self._parts))
        self._sent.append(self._names)
        self._names, self._parts = [], []
        while len(self._sent) > BATCHES_MAX:
            self._note(self._sent.popleft(), _answer(pipe))

    def _note(self, names: list[Where], wrong: bytes) -> None:
        self.bad += [(where(), what) for (where, what), one in zip(names, wrong, strict=True) if one]

    def finish(self) -> list[tuple[str, str]]:
        """(where, what) of every signature that does not hold."""
        rest = self._names, _wrong_in(b"".join(self._parts))
        if self._beside is not None:
            pipe, process = self._beside
            for names in self._sent:
                self._note(names, _answer(pipe))
            pipe.close()
            process.join()
        self._note(*rest)
        return self.bad


def _answer(pipe: Connection) -> bytes:
    with _together():
        return pipe.recv_bytes()


@contextlib.contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as e:
        raise IdaoError("the process that verifies signatures has ended", hint="audit again") from e


def _verify_batches(unused: Connection, pipe: Connection) -> None:
    """The other process: answers each batch until the pipe ends."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the pipe ends when the other does
    unused.close()  # else this process itself would keep it open
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            pipe.send_bytes(_wrong_in(pipe.recv_bytes()))


def _wrong_in(batch: bytes) -> bytes:
    """A byte for each (key, signature, length of the message, message): 1 if the signature does not hold."""
    out, at = bytearray(), 0
    while at < len(batch):
        end = at + 100 + int.from_bytes(batch[at + 96 : at + 100], "big")
        held = keys.verify(batch[at : at + 32], batch[at + 32 : at + 96], batch[at + 100 : end])
        out.append(not held)
        at = end
    return bytes(out)
