"""Assessing beside the end of an intake gives what assessing after it gives, whatever becomes of it."""

from __future__ import annotations

import os
import signal
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from idao import assess
from idao.hall import assessing, unread
from idao.hall.assessing import Assessing
from idao.hall.unread import listing_of
from idao.store import chunks
from idao.store.contents import Contents, Intake
from idao.store.documents import Documents
from idao.store.heads import HEAD_BYTES, SAMPLED_BYTES, SAMPLED_FILES, SNIFFED_BYTES, Heads

KEY = bytes(range(32))
CSV = b"name,value\n" + b"".join(b"row %d,%d\n" % (i, i * i) for i in range(40))


@pytest.fixture
def contents(tmp_path: Path) -> Iterator[Contents]:
    with Contents(tmp_path / "home", KEY) as opened:
        yield opened


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "RACY_NS", 0)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """Files of every kind: many small ones, large ones, one with a hole, links, equal ones, empty ones."""
    folder = tmp_path / "src"
    (folder / "sub").mkdir(parents=True)
    (folder / "none").mkdir()
    for i in range(420):
        (folder / "sub" / f"f{i}.csv").write_bytes(CSV + b"end,%d\n" % (i % 400))
    (folder / "large").write_bytes(os.urandom(700_000))
    (folder / "middle").write_bytes(os.urandom(HEAD_BYTES + 1))
    (folder / "empty").write_bytes(b"")
    (folder / "link").symlink_to("large")
    with (folder / "hole").open("wb") as f:
        f.truncate(1_000_000)
        f.seek(600_000)
        f.write(b"after the hole")
    return folder


def take(contents: Contents, src: Path, listener: Assessing) -> Intake:
    raw = [os.fsencode(src)]
    return contents.take_in(raw, contents.last_from(raw), listener=listener)


_made: list[Assessing] = []


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    while _made:
        _made.pop().stop()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def judge(contents: Contents) -> Assessing:
    """One that begins as soon as it may."""
    docs = Documents(contents.db, KEY)
    made = Assessing(docs, ("value",), lambda: made.begin("", ()))
    _made.append(made)
    return made


def told(files: unread.Few | unread.Many) -> list[tuple[object, ...]]:
    return [(f.path, f.size, f.content, *files.place(f.number)) for f in files]


def columns(files: unread.Few | unread.Many) -> list[tuple[bytes, int, bytes]]:
    return [file for lot in files.lots() for file in zip(*lot, strict=True)]


@pytest.mark.parametrize("forked", [True, False])
def test_what_was_heard_is_what_is_stored(
    contents: Contents, src: Path, forked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not forked:
        monkeypatch.setattr("idao.store.forks.may_fork", lambda: False)
    assessor = Assessing(Documents(contents.db, KEY), (), lambda: None)
    intake = take(contents, src, assessor)
    heard, stored = assessor._listing, listing_of(contents.open_manifest(intake.ref))
    assert len(heard.files) == 424 and heard.heads
    assert told(heard.files) == told(stored.files)
    version = heard.version = contents.open_manifest(intake.ref)
    early = 0
    for file in heard.files:
        whole = version.open(file.path).read()
        early += file.content in heard.heads
        for offset, length in ((0, 10), (5, SNIFFED_BYTES), (0, file.size), (file.size - 3, 9)):
            assert file.read(max(0, offset), length) == whole[max(0, offset) :][:length], file.path
    assert early > 400


@pytest.mark.parametrize("beside", [True, False])
def test_many_files_are_kept_in_one_piece_and_mean_the_same(
    contents: Contents, src: Path, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = judge(contents)
    few = take(contents, src, plain)
    plain.stored(contents, few.ref)
    expected = plain.result(plain.category(), ())
    kept = plain._listing.files
    monkeypatch.setattr(unread, "MANY", 100)
    monkeypatch.setattr(unread, "LOT", 150)
    (src / "sub" / "f7.csv").touch()  # all of it is heard again, most of it not read
    assessor = judge(contents) if beside else Assessing(Documents(contents.db, KEY), ("value",), lambda: None)
    intake = take(contents, src, assessor)
    assessor.stored(contents, intake.ref)
    for files in (assessor._listing.files, listing_of(contents.open_manifest(intake.ref)).files):
        assert isinstance(files, unread.Many) and isinstance(kept, unread.Few)
        assert len(files) == len(kept) == 424
        assert told(files) == told(kept)
        backwards = [(files[i].path, files.place(i)) for i in reversed(range(424))]
        assert backwards[::-1] == [(f.path, kept.place(f.number)) for f in kept]
        assert columns(files) == columns(kept)
    assert assessor.result(assessor.category(), ()) == expected


def test_what_is_kept_of_a_file_among_many_is_little() -> None:
    count = 4 * unread.LOT + 100
    tracemalloc.start()
    try:
        many = unread.Many(unread.Listing())
        for i in range(count):
            many.heard([b"folder/file-%06d" % i], [(1, i, 1)], [os.urandom(32)])
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(many) == count and held < count * 60, held


def after(contents: Contents, intake: Intake, category: str) -> assess.Assessment:
    files = listing_of(contents.open_manifest(intake.ref)).assessed()
    return assess.assess(files, category, assess.Options(labels=("value",)), assess.Earlier())


@pytest.mark.parametrize("plain", [True, False])
def test_assessed_beside_or_after(contents: Contents, src: Path, plain: bool) -> None:
    looks = "tabular" if plain else "generic"
    for name in ("hole", "large", "middle") if plain else ():  # of which more is read than is kept
        (src / name).unlink()
    assessor = judge(contents)
    intake = take(contents, src, assessor)
    assert assessor._beside is not None and assessor._beside._pid > 0, "it is being assessed"
    assessor.stored(contents, intake.ref)
    assert assessor.category() == looks == assessor._done[0], "and told what it looks like"
    expected = after(contents, intake, looks)
    assert assessor.result(looks, ()) == expected
    assert assessor.result("text", ()) == after(contents, intake, "text"), "another category: anew"
    assessor._done = (looks, b"not", b"read")
    assert assessor.result(looks, [(bytes(32), 1)]) == expected, "compared with others: anew"


@pytest.mark.parametrize("fate", ["killed", "raising", "unforkable"])
def test_a_process_that_fails_changes_nothing(
    contents: Contents, src: Path, fate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assessor = judge(contents)
    with monkeypatch.context() as patched:
        if fate == "unforkable":
            patched.setattr(os, "fork", lambda: os.close(-1))  # any OSError
        if fate == "raising":
            patched.setattr(assess, "detect_category", lambda _: 1 // 0)
        intake = take(contents, src, assessor)
    assert assessor._beside is not None and (assessor._beside._pid > 0) == (fate != "unforkable")
    if fate == "killed":
        os.kill(assessor._beside._pid, signal.SIGKILL)
    assessor.stored(contents, intake.ref)
    category = assessor.category()
    assert assessor._done == assessing.NOTHING
    assert assessor.result(category, ()) == after(contents, intake, category)


def test_one_that_is_not_asked_for_is_ended(contents: Contents, src: Path) -> None:
    assessor = judge(contents)
    take(contents, src, assessor)
    assert assessor._beside is not None and assessor._beside._pid > 0
    pid = assessor._beside._pid
    assessor.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_while_it_goes_on_others_may_write(
    contents: Contents, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assessor = judge(contents)
    with monkeypatch.context() as patched:
        patched.setattr(assess, "detect_category", lambda _: signal.pause())
        take(contents, src, assessor)
    assert assessor._beside is not None and assessor._beside._pid > 0
    try:
        with Contents(contents.home, KEY, wait_s=20) as other:
            other.take_in([os.fsencode(src / "large")])
    finally:
        assessor.stop()


def test_heads_are_bounded_and_the_right_ones() -> None:
    heads = Heads()
    files = [(os.urandom(32), 1 + i % 5000, os.urandom(min(1 + i % 5000, HEAD_BYTES))) for i in range(6000)]
    for file in files:
        heads.offer(*file)
    kept = heads.all()
    first = sorted(files)[: SAMPLED_FILES - 1]
    total = 0
    for content, _, head in first:
        total += len(head)
        if total <= SAMPLED_BYTES:
            assert kept[content] == head
    for content, size, head in sorted(files, key=lambda f: -f[1])[:30]:
        assert head.startswith(kept[content]) and len(kept[content]) >= min(size, SNIFFED_BYTES)
    assert len(kept) <= SAMPLED_FILES + 32 and sum(map(len, kept.values())) <= SAMPLED_BYTES + 3 * HEAD_BYTES
