"""The node's own door: a Unix socket on which commands of the same user ask it for things.

One JSON object a line, one answer each. A line that is too long or no JSON, or another user, ends the
connection; so does silence. What can be asked is a table given by the runner.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from idao.errors import IdaoError, UsageError
from idao.node.calling import LINE_BYTES_MAX, peer_uid, socket_path

CONNECTIONS_MAX = 32
"""Commands at once; more wait in the listening queue."""
IDLE_S = 60.0
"""A connection on which nothing is asked for so long is closed."""

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Control:
    """Serves `handlers` (request word -> coroutine) until closed."""

    def __init__(self, home: Path, handlers: Mapping[str, Handler]) -> None:
        self.path = socket_path(home)
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Binds. The caller holds the node's lock, so a socket that lies there is a dead one's."""
        _own_folder(self.path.parent)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listening.bind(os.fspath(self.path))
        finally:
            os.umask(before)
        self._server = await asyncio.start_unix_server(self._accept, sock=listening, limit=LINE_BYTES_MAX)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        for task in list(self._open):
            task.cancel()
        if self._open:
            await asyncio.wait(self._open, timeout=1)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection: socket.socket = writer.get_extra_info("socket")
        if len(self._open) >= CONNECTIONS_MAX or peer_uid(connection) not in (None, os.getuid()):
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await asyncio.wait_for(reader.readline(), IDLE_S):
                answer = await self._answer(line)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (TimeoutError, ValueError, ConnectionError):  # ValueError: a line beyond the limit
            pass
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            handler = self._handlers.get(request["do"]) if isinstance(request, dict) else None
            if handler is None:
                raise UsageError("the node does not know what is asked", hint="is it of another version?")
            return await handler(request)
        except IdaoError as e:
            return _refusal(e)
        except (KeyError, TypeError, ValueError) as e:
            return _refusal(UsageError(f"the request is not understood: {type(e).__name__}"))
        except Exception as e:  # a full disk, a locked database: whoever asked is told, the node goes on
            return _refusal(
                IdaoError(f"the node could not do it: {type(e).__name__}: {e}", code="node-error")
            )


def _refusal(e: IdaoError) -> dict[str, Any]:
    return {"error": {"code": e.code, "message": e.message, "hint": e.hint, "exit": e.exit_code}}


def _own_folder(folder: Path) -> None:
    """Makes the folder, or sees that it is the user's alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UsageError(f"'{folder}' belongs to another user", code="foreign")
