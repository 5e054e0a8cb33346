"""The control socket of a node, and its log."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from idao.errors import IdaoError, NotFound, Unreachable
from idao.node import calling
from idao.node.control import Control, Handler
from idao.node.logbook import Logbook

# --- the control socket ---------------------------------------------------------------------------------


@contextmanager
def served(home: Path, **handlers: Handler) -> Iterator[Control]:
    loop = asyncio.new_event_loop()
    control = Control(home, handlers)
    loop.run_until_complete(control.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield control
    finally:
        asyncio.run_coroutine_threadsafe(control.close(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


async def _echo(request: dict[str, Any]) -> dict[str, Any]:
    return {"heard": request}


async def _refuse(request: dict[str, Any]) -> dict[str, Any]:
    raise NotFound("nothing of that name", hint="look elsewhere", code="gone")


def test_one_question_one_answer(tmp_path: Path) -> None:
    with served(tmp_path, echo=_echo, refuse=_refuse) as control:
        assert stat.S_IMODE(control.path.stat().st_mode) == 0o600
        assert calling.ask(tmp_path, "echo", n=1) == {"heard": {"do": "echo", "n": 1}}
        with pytest.raises(IdaoError) as refusal:
            calling.ask(tmp_path, "refuse")
        seen = refusal.value
        assert (seen.exit_code, seen.code, seen.message, seen.hint) == (
            4,
            "gone",
            "nothing of that name",
            "look elsewhere",
        )
        with pytest.raises(IdaoError, match="does not know"):
            calling.ask(tmp_path, "dance")
    assert not control.path.exists() and calling.ask(tmp_path, "echo") is None
    with pytest.raises(Unreachable, match="no node"):
        calling.need(tmp_path, "echo")


@pytest.mark.parametrize(
    "line", [b"[]\n", b"{}\n", b'{"do": 1}\n', b"\xff\n", b"null\n", b'{"do": ["echo"]}\n']
)
def test_what_is_no_request_is_refused(tmp_path: Path, line: bytes) -> None:
    with served(tmp_path, echo=_echo) as control, socket.socket(socket.AF_UNIX) as s:
        s.settimeout(5)
        s.connect(str(control.path))
        s.sendall(line + b"\n")
        assert "error" in json.loads(s.makefile().readline())
        assert calling.ask(tmp_path, "echo") is not None


def test_what_fails_at_the_node_is_told_to_who_asked(tmp_path: Path) -> None:
    async def full(request: dict[str, Any]) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    with served(tmp_path, write=full), pytest.raises(IdaoError, match="No space left") as told:
        calling.need(tmp_path, "write")
    assert told.value.code == "node-error"


def test_a_line_without_end_closes_the_connection(tmp_path: Path) -> None:
    with served(tmp_path, echo=_echo) as control, socket.socket(socket.AF_UNIX) as s:
        s.settimeout(5)
        s.connect(str(control.path))
        try:
            for _ in range(200):
                s.sendall(b"x" * 65536)
        except OSError:
            pass
        else:
            assert s.recv(1) == b""
        assert calling.ask(tmp_path, "echo") is not None


def test_another_user_is_not_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from idao.node import control as module

    with served(tmp_path, echo=_echo):
        monkeypatch.setattr(module, "peer_uid", lambda s: os.getuid() + 1)
        with pytest.raises(Unreachable):
            calling.ask(tmp_path, "echo")


def test_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    with served(deep, echo=_echo) as control:
        assert control.path.parent != deep and len(os.fsencode(control.path)) <= calling.SOCKET_PATH_MAX
        assert stat.S_IMODE(control.path.parent.stat().st_mode) == 0o700
        assert calling.ask(deep, "echo") is not None


def test_a_silent_node_is_told_from_none(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(calling.socket_path(tmp_path)))
        s.listen()
        with pytest.raises(Unreachable, match="does not answer"):
            calling.ask(tmp_path, "echo", timeout_s=0.1)


# --- log ------------------------------------------------------------------------------------------------


def test_a_log_line_is_one_json_object(tmp_path: Path) -> None:
    book = Logbook(tmp_path / "log")
    book.note("peer.up", peer=b"\1" * 32, quorum=b"\2" * 32, why="a\nb", n=3, nothing=None)
    book.note("x", "debug")
    line = json.loads((tmp_path / "log").read_text())
    assert (
        line["event"] == "peer.up"
        and line["peer"].startswith("idao:")
        and line["quorum"].startswith("quorum:")
    )
    assert line["why"] == "a?b" and line["n"] == 3 and "nothing" not in line
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600
    (tmp_path / "log").rename(tmp_path / "old")
    book.reopen()
    book.note("y")
    assert "y" in (tmp_path / "log").read_text()
