"""Forked processes: whether there can be any, how they speak with the one that made them, how they end."""

from __future__ import annotations

import contextlib
import marshal
import os
import signal
import struct
import sys
import threading
from _socket import MSG_WAITALL, socketpair
from _socket import socket as Socket
from typing import Any

from idao.store import libc

# Sockets as they are beneath module `socket`, most of whose loading is giving names to all their constants: a
# twentieth of what a contribution does before it reads.
__all__ = ["Socket", "die_with", "may_fork", "receive", "send", "socketpair"]

_LENGTH = struct.Struct(">Q")
COPIED_MAX = 64 * 1024
"""A message up to this size is copied behind its length, to be sent by one call: else that costs more."""
_PDEATHSIG = 1
"""PR_SET_PDEATHSIG (linux/prctl.h): the signal that ends a process whose parent has ended."""


def may_fork() -> bool:
    """Whether processes can be forked here: Linux, more than one core, no thread that a fork would cut."""
    return sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1 and threading.active_count() == 1


def die_with(parent: int) -> None:
    """Ends this process with its parent: a worker that outlived it would write packs that nobody knows."""
    prctl = libc.function("prctl", "int(*)(int, unsigned long)")
    if prctl is not None:
        prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def send(sock: Socket, message: tuple[str, Any]) -> None:
    """Sends one message of plain values."""
    data = marshal.dumps(message)
    head = _LENGTH.pack(len(data))
    if len(data) > COPIED_MAX:
        sock.sendall(head)
        sock.sendall(data)
    else:
        sock.sendall(head + data)


def receive(sock: Socket) -> tuple[str, Any] | None:
    """One message; None when the other side is gone."""
    with contextlib.suppress(ConnectionResetError):
        head = sock.recv(_LENGTH.size, MSG_WAITALL)
        if len(head) < _LENGTH.size:
            return None
        data = bytearray(_LENGTH.unpack(head)[0])
        view = memoryview(data)
        while view:
            n = sock.recv_into(view)
            if not n:
                return None
            view = view[n:]
        message: tuple[str, Any] = marshal.loads(data)
        return message
    return None
