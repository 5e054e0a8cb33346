"""Reaching the node of a home: one request, one answer, over its Unix socket. For commands; light to import.

A line of JSON each way, bounded. The socket lies in the home (mode 0600 in a folder 0700). Where that path is
longer than a Unix socket's may be, it lies in a folder of the user's own beside other temporary files; both
ends look at who owns what they meet.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

from idao.errors import EXIT_CODES, IdaoError, Unreachable

LINE_BYTES_MAX = 1 << 20
"""One request or answer: the status of thirty validators in several quorums takes some tens of KiB."""
SOCKET_PATH_MAX = 100
"""Bytes; systems allow 104 to 108."""
CONNECT_S = 2.0
"""A node that runs accepts at once, even while it executes a full block."""
ANSWER_S = 30.0


def socket_path(home: Path) -> Path:
    """Where the node of this home listens."""
    own = home.resolve() / "node.sock"
    if len(os.fsencode(own)) <= SOCKET_PATH_MAX:
        return own
    name = hashlib.blake2s(os.fsencode(own), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"idao-{os.getuid()}" / f"{name}.sock"


def peer_uid(connection: socket.socket) -> int | None:
    """The user at the other end; None where this system cannot tell."""
    if hasattr(socket, "SO_PEERCRED"):
        size = struct.calcsize("3i")
        data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return int(struct.unpack("3i", data)[1])
    if sys.platform == "darwin":
        level, option = 0, 1  # SOL_LOCAL, LOCAL_PEERCRED: struct xucred begins with version and uid
        return int(struct.unpack_from("=Ii", connection.getsockopt(level, option, 76))[1])
    return None


def ask(home: Path, do: str, *, timeout_s: float = ANSWER_S, **fields: Any) -> dict[str, Any] | None:
    """The node's answer to `do`, or None where no node runs. A refusal is raised as the node meant it."""
    path = socket_path(home)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.settimeout(CONNECT_S)
            s.connect(os.fspath(path))
            if peer_uid(s) not in (None, os.getuid()):
                raise Unreachable("the node's socket belongs to another user", hint="see 'idao doctor'")
            s.settimeout(timeout_s)
            s.sendall(json.dumps({"do": do, **fields}).encode() + b"\n")
            line = _line(s)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except OSError as e:
        raise Unreachable("the node does not answer", hint="see 'idao node status'", code="node") from e
    return _answer(line)


def need(home: Path, do: str, *, timeout_s: float = ANSWER_S, **fields: Any) -> dict[str, Any]:
    """As `ask`; `Unreachable` (exit code 11) where no node runs."""
    found = ask(home, do, timeout_s=timeout_s, **fields)
    if found is None:
        raise Unreachable(
            "no node of this home runs", hint="start it: idao node run (or: idao node service install)",
            code="no-node",
        )  # fmt: skip
    return found


def _line(s: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        part = s.recv(65536)
        if not part or len(data) > LINE_BYTES_MAX:
            raise ConnectionError("the answer breaks off")
        data += part
    return data


def _answer(line: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(line)
        error = found.pop("error", None)
        if error is None:
            return found
        refusal = IdaoError(error["message"], hint=error["hint"], code=error["code"])
        refusal.exit_code = error["exit"] if error["exit"] in EXIT_CODES else 1
    except (ValueError, LookupError, TypeError, AttributeError) as e:
        raise Unreachable("the node's answer cannot be understood", hint="restart it", code="node") from e
    raise refusal
