"""A proof of many files is written and checked one file after the other, and means the same."""

from __future__ import annotations

import io
import os
import random
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_world import run
from conftest import Lived
from hypothesis import given
from hypothesis import strategies as st

from idao import disclosure, manifest, proof
from idao.crypto import canonical, merkle
from idao.errors import Malformed, VerificationFailed
from idao.hall.proofs import Demands, verify

NOW = 2**42


@pytest.fixture
def made(lived: Lived) -> bytes:
    return lived.dao().proofs.make(f"{lived.asset}@1")[1]


@pytest.fixture
def some(lived: Lived) -> bytes:
    return lived.dao().proofs.make(f"{lived.asset}@1", ["empty", "sub/notes.txt"])[1]


def judged(data: bytes, files: Sequence[str] = ()) -> dict[str, Any]:
    return verify(data, files, Demands(), NOW)


def outcome(data: bytes, files: Sequence[str] = ()) -> list[tuple[str, bool]]:
    return [(c["name"], c["ok"]) for c in judged(data, files)["checks"]]


@pytest.fixture
def as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every proof counts as too large to hold, and is read a few bytes at a time."""
    monkeypatch.setattr(canonical, "LARGE_BYTES", 64)
    monkeypatch.setattr(disclosure, "BLOCK_BYTES", 32)
    monkeypatch.setattr(disclosure, "INDEXED", 2)
    monkeypatch.setattr(disclosure, "KEPT", 1)


def bent(data: bytes) -> Iterator[bytes]:
    """The proof with its files, or bytes of it, changed in ways that each must be noticed."""
    parsed = proof.parse(data)
    assert parsed.files is not None
    every, part = parsed.files.all, parsed.files.some
    forms = [
        replace(parsed.files, all=every[::-1], some=part[::-1]),
        replace(parsed.files, all=every[1:], some=(*part, *part)),
        replace(parsed.files, count=parsed.files.count + 1),
        replace(parsed.files, all=every[1:], count=parsed.files.count - 1),
    ]
    for at in range(len(every)):
        for change in ({"size": 7}, {"path": b"../x"}, {"kind": manifest.FOLDER}, {"secret": bytes(32)}):
            one = replace(every[at], **change)
            forms.append(replace(parsed.files, all=(*every[:at], one, *every[at + 1 :])))
    yield from (proof.dump(replace(parsed, files=form)) for form in forms if form != parsed.files)
    chance = random.Random(3)
    for at in range(0, len(data), 23):
        yield data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
    yield from (data[:n] for n in range(0, len(data), 131))
    yield data + b"\0"


@pytest.mark.parametrize("which", ["made", "some"])
def test_what_is_read_in_pieces_is_judged_alike(
    which: str, lived: Lived, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    data: bytes = request.getfixturevalue(which)
    changed = list(bent(data))
    whole = [outcome(one) for one in changed]
    if which == "made":  # of a few files, the number of all is their maker's word
        assert all(not all(ok for _, ok in one) for one in whole)
    folder = [str(lived.data), str(lived.data / "empty"), str(lived.data / "sub")]
    files = outcome(data, folder)
    request.getfixturevalue("as_large")
    assert outcome(data, folder) == files and ("files", True) in files
    assert [outcome(one) for one in changed] == whole


def test_all_and_some_at_once(made: bytes, some: bytes, as_large: None) -> None:
    files, more = proof.parse(made).files, proof.parse(some).files
    assert files is not None and more is not None
    both = proof.dump(replace(proof.parse(made), files=replace(files, some=more.some)))
    assert [name for name, ok in outcome(both) if not ok] == ["files"]


def test_a_kind_that_is_none_is_refused(made: bytes) -> None:
    parsed = proof.parse(made)
    assert parsed.files is not None
    odd = canonical.decode(made[len(proof.MAGIC) :])
    odd["files"]["all"][0]["kind"] = 1000
    assert [name for name, ok in outcome(proof.MAGIC + canonical.encode(odd)) if not ok] == ["format"]


def test_what_is_found_later_is_what_was_checked(made: bytes, tmp_path: Path, as_large: None) -> None:
    """Another program may write to the file meanwhile."""
    path = tmp_path / "proof"
    path.write_bytes(made)
    with path.open("rb", buffering=0) as file:
        verdict = proof.judge(file)  # type: ignore[arg-type]
        assert verdict.ok and verdict.files is not None
        assert verdict.files.get(b"nothing") is None and verdict.files.get(b"") is None
        found = verdict.files.get(b"sub/notes.txt")
        assert found is not None and found.path == b"sub/notes.txt"
        path.write_bytes(made.replace(b"visits.csv", b"visitz.csv"))
        with pytest.raises(VerificationFailed, match="was changed"):
            verdict.files.get(b"visits.csv")


def listed(count: int) -> Iterator[disclosure.Listed]:
    for n in range(count):
        yield disclosure.Listed(manifest.FILE, b"%08d" % n, 9, bytes(32), os.urandom(32), (9,), ())


def test_the_bytes_are_those_of_the_value() -> None:
    for count in (0, 1, 23, 24, 300):
        files, out = tuple(listed(count)), io.BytesIO()
        disclosure.write(count, files, out.write)
        assert out.getvalue() == canonical.pack(disclosure.Disclosure(count, files, ()))


def test_memory_does_not_grow_with_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disclosure, "BLOCK_BYTES", 16 * 1024)
    out, count = io.BytesIO(), 4000
    disclosure.write(count, listed(count), out.write)
    size = out.tell()
    out.seek(0)
    list(map(disclosure.Listed.leaf, listed(100)))  # what is compiled stays
    disclosure.Streamed(io.BytesIO(out.getvalue()), disclosure.Window(io.BytesIO(out.getvalue()), 0))
    tracemalloc.start()
    try:
        read = disclosure.Streamed(out, disclosure.Window(out, 0))
        disclosure.write(count, listed(count), lambda _: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read.shown == count and peak < size / 1.5, (peak, size)


def test_a_value_without_end_is_not_read_to_its_end() -> None:
    """What is wrong in the first bytes of half a gigabyte must not bring all of it into memory."""

    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1) -> bytes:
            assert size > 0
            self.given += size
            return b"\xff" * size

    source = Endless()
    with pytest.raises(Malformed):
        disclosure.Window(source, 0).take(lambda data, at: (None, len(data) + 1))  # type: ignore[arg-type]
    assert source.given < 3 * disclosure.VALUE_BYTES_MAX


@given(st.integers(1, 70), st.data())
def test_paths_of_some_leaves(size: int, data: st.DataObject) -> None:
    leaves = [bytes([n]) * 32 for n in range(size)]
    some = data.draw(st.lists(st.integers(0, size - 1), unique=True))
    found = merkle.paths(merkle.LOG, size, some, iter(leaves))
    assert found == {i: merkle.path(merkle.LOG, leaves, i) for i in some}


def test_on_a_command_line(lived: Lived, made: bytes, tmp_path: Path, as_large: None) -> None:
    """Written at once, aside for a pipe, and read from one."""
    home, out = lived.path, tmp_path / "p"
    asset = f"{lived.asset}@1"
    plan = run("proof", asset, "-o", out, "--dry-run", "--json", home=home)
    assert plan.code == 0 and plan.json["bytes"] == len(made) and not out.exists()
    assert run("proof", asset, "-o", out, home=home).code == 0 and out.read_bytes() == made
    assert run("proof", asset, "--file", "nope", "-o", tmp_path / "q", home=home).code == 4
    assert not (tmp_path / "q").exists()
    assert run("verify", out).code == 0
