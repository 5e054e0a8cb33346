"""The contents of a home that is just made, and a folder to take in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from idao.store import chunks
from idao.store.contents import Contents, Intake

KEY = bytes(range(32))


@pytest.fixture
def contents(tmp_path: Path) -> Iterator[Contents]:
    with Contents(tmp_path / "home", KEY) as opened:
        yield opened


@pytest.fixture
def src(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files made a moment ago count as settled, unless a test is about just that."""
    monkeypatch.setattr(chunks, "RACY_NS", 0)


def take(contents: Contents, *paths: Path, **kw: object) -> Intake:
    raw = [os.fsencode(p) for p in paths]
    return contents.take_in(raw, contents.last_from(raw), **kw)  # type: ignore[arg-type]


def listed(contents: Contents, intake: Intake) -> dict[bytes, bytes]:
    return {f.entry.path: f.read() for f in contents.open_manifest(intake.ref).all()}


@pytest.fixture(name="src")
def some_files(tmp_path: Path) -> Path:
    """A folder that holds something: several chunks, a file below, a link."""
    src = tmp_path / "src"
    src.mkdir()
    (src / "a").write_bytes(os.urandom(3_000_000))
    (src / "sub").mkdir()
    (src / "sub" / "b").write_bytes(b"text\n" * 1000)
    (src / "link").symlink_to("a")
    return src
