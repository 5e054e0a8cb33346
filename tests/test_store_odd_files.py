"""Odd files taken in: links, holes, pipes, what cannot be read or changes meanwhile, names, depth, homes."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contents_world import KEY, contents, listed, settled, src, take

from idao.errors import UsageError
from idao.manifest import FILE, FOLDER, HOLE, LINK
from idao.store import chunks, walk, workers
from idao.store import intake as taking
from idao.store.contents import Contents, Unreadable

__all__ = ["contents", "settled", "src"]


def test_links_are_kept_and_never_followed(contents: Contents, src: Path, tmp_path: Path) -> None:
    secret = tmp_path / "outside"
    secret.mkdir()
    (secret / "key").write_bytes(b"secret")
    (src / "to-folder").symlink_to(secret)
    (src / "to-file").symlink_to(secret / "key")
    (src / "broken").symlink_to("nowhere")
    intake = take(contents, src)
    entries = {e.path: e for e in contents.open_manifest(intake.ref).entries()}
    assert {e.kind for e in entries.values()} == {LINK} and len(entries) == 3
    assert entries[b"broken"].target == b"nowhere" and intake.new_bytes == 0
    contents.restore(intake.ref, tmp_path / "out")
    assert os.readlink(tmp_path / "out" / "to-folder") == str(secret)
    (src / "broken").unlink()
    (src / "broken").symlink_to("elsewhere")
    assert not take(contents, src).unchanged


def test_a_link_that_was_named_is_followed(contents: Contents, src: Path, tmp_path: Path) -> None:
    (src / "a").write_bytes(b"a")
    (tmp_path / "alias").symlink_to(src)
    assert listed(contents, take(contents, tmp_path / "alias")) == {b"a": b"a"}


def test_holes_are_not_stored(contents: Contents, src: Path, tmp_path: Path) -> None:
    size = 20 * 1024**3
    with (src / "sparse").open("wb") as f:
        f.truncate(size)
        f.seek(5 * 1024**3)
        f.write(b"in the middle")
    if (src / "sparse").stat().st_blocks * 512 > 1_000_000:
        pytest.skip("this file system stores holes")
    intake = take(contents, src)
    assert intake.size == size and intake.new_bytes <= 4096 * 2
    entry, parts = contents.open_manifest(intake.ref).find(b"sparse")
    assert sum(p.form == HOLE for p in parts) == 2 and entry.size == size
    assert contents.read(intake.ref, b"sparse", 5 * 1024**3 - 2, 17) == b"\0\0in the middle\0\0"
    contents.restore(intake.ref, tmp_path / "out")
    back = (tmp_path / "out" / "sparse").stat()
    assert back.st_size == size and back.st_blocks * 512 < 1_000_000
    assert contents.check() == []


def test_small_holes_and_all_hole_files(contents: Contents, src: Path) -> None:
    with (src / "hole").open("wb") as f:
        f.truncate(1_000_000)
    with (src / "comb").open("wb") as f:
        for i in range(0, 40, 2):
            f.seek(i * 4096)
            f.write(b"x" * 4096)
    intake = take(contents, src)
    assert listed(contents, intake) == {n: (src / n.decode()).read_bytes() for n in (b"hole", b"comb")}
    assert len(contents.open_manifest(intake.ref).find(b"comb")[1]) == 1


def test_pipes_sockets_and_devices_are_left_out_by_name(contents: Contents, src: Path) -> None:
    os.mkfifo(src / "pipe")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(src / "sock"))
        (src / "file").write_bytes(b"f")
        intake = take(contents, src)
    assert dict(intake.skipped) == {b"pipe": "a pipe", b"sock": "a socket"}
    assert listed(contents, intake) == {b"file": b"f"}
    with pytest.raises(UsageError, match="a pipe"):
        take(contents, src / "pipe")
    with pytest.raises(UsageError, match="a device"):
        take(contents, Path("/dev/null"))


def test_unreadable_refuses_the_whole_unless_told(
    contents: Contents, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("good", "closed"):
        (src / name).write_bytes(name.encode())
    _deny(monkeypatch, b"closed")
    with pytest.raises(Unreadable, match=r"closed \(Permission denied\)") as refusal:
        take(contents, src)
    assert refusal.value.exit_code == 5 and refusal.value.files == [(b"closed", "Permission denied")]
    assert contents.versions() == []
    partly = take(contents, src, skip_unreadable=True)
    assert partly.skipped == ((b"closed", "Permission denied"),) and listed(contents, partly) == {
        b"good": b"good"
    }
    assert partly.new_bytes == 0, "what the refused intake had sealed was kept"


def _deny(monkeypatch: pytest.MonkeyPatch, name: bytes) -> None:
    real = os.open

    def open_(path: object, *args: object, **kw: object) -> int:
        if isinstance(path, bytes) and os.path.basename(path) == name:
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **kw)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", open_)


def test_unreadable_folder_is_named(contents: Contents, src: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (src / "closed").mkdir()
    real = os.scandir

    def scandir(path: bytes) -> object:
        if os.path.basename(path) == b"closed":
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(Unreadable, match="closed"):
        take(contents, src)
    assert take(contents, src, skip_unreadable=True).files == 0


def test_a_file_that_keeps_changing_is_named(
    contents: Contents, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (src / "log").write_bytes(b"x" * 1000)
    reads = []

    def changing(real: Callable[..., object]) -> Callable[..., object]:
        def read(*args: object) -> object:
            n = real(*args)
            reads.append(n)
            if len(reads) <= limit:
                with (src / "log").open("ab") as f:
                    f.write(b"more")
            return n

        return read

    monkeypatch.setattr(os, "read", changing(os.read))
    monkeypatch.setattr(os, "readv", changing(os.readv))
    monkeypatch.setattr(os, "preadv", changing(os.preadv))
    limit = 2
    assert listed(contents, take(contents, src)) == {b"log": b"x" * 1000 + b"more" * 2}, "read again"
    limit = 99
    reads.clear()
    (src / "log").write_bytes(b"y" * 1000)
    with pytest.raises(Unreadable, match="changes while it is read"):
        take(contents, src)
    assert len(reads) == chunks.RETRIES


def test_a_file_that_vanishes_is_left_out_and_named(
    contents: Contents, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (src / "a").write_bytes(b"a")
    (src / "gone").write_bytes(b"b")
    real = os.open

    def vanish(path: bytes | str, *args: int, **more: int) -> int:
        if path == os.fsencode(src / "gone"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return real(path, *args, **more)

    monkeypatch.setattr(os, "open", vanish)
    intake = take(contents, src)
    assert intake.skipped == ((b"gone", "vanished"),) and listed(contents, intake) == {b"a": b"a"}


def test_a_file_that_became_a_pipe_does_not_hang(contents: Contents, src: Path) -> None:
    os.mkfifo(src / "p")
    walked = walk.Found(b"p", os.fsencode(src / "p"), FILE, 0, walk.NO_PRINT)
    writer = chunks.ChunkWriter(contents.keys, contents.folder, "t", KEY, contents.chunk_row, None)
    reader = chunks.FileReader(writer, contents.keys, lambda _: None)
    for size in (0, 1, walk.UNSEEN):  # as the walk saw it
        assert reader.take_all([(*walked[:3], size, None)]).problems == {0: "is no longer a file"}


def test_files_that_are_only_named_are_the_same_ones(src: Path) -> None:
    (src / "a").mkdir()
    for name in ("a/z", "a.", "a-", "b"):
        (src / name).write_bytes(name.encode())
    (src / "hollow").mkdir()
    (src / "link").symlink_to("b")
    os.mkfifo(src / "pipe")
    seen, named = (walk.Walk([os.fsencode(src)], see=see) for see in (True, False))
    for one, other in zip(seen, named, strict=True):
        assert one[:3] == other[:3]
        assert other.size == walk.UNSEEN if one.kind == FILE else other == one
    assert seen.skipped == named.skipped == [(b"pipe", "a pipe")]


@pytest.mark.parametrize("see", [True, False])
def test_a_huge_folder_is_walked_in_little_memory(src: Path, see: bool) -> None:
    for i in range(count := 3000):
        (src / f"f{i:05}").touch()
    tracemalloc.start()
    try:
        assert sum(1 for _ in walk.Walk([os.fsencode(src)], see=see)) == count
        assert tracemalloc.get_traced_memory()[1] < 330 * count, "all that the system tells of each takes 700"
    finally:
        tracemalloc.stop()


def test_batches_of_files_that_nobody_has_seen_go_by_those_that_were_read(
    src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(src)

    def steps(count: int) -> Iterator[taking.Step]:
        for i in range(count):
            found = walk.Found(b"%d" % i, b"a", FILE, walk.UNSEEN, walk.NO_PRINT)
            yield taking.Step(found, None, b"", False)

    (src / "a").write_bytes(bytes(1 << 20))
    sizes = workers.Sizes()
    ahead, much = workers.enough(steps(100), sizes)
    assert much and len(ahead) == 1 + (workers.FORK_BYTES >> 20), "it looks at some"
    assert {len(b) for b in workers.batches(steps(20), sizes)} == {workers.BATCH_BYTES >> 20}
    sizes.add(10_000, 10_000)
    assert {len(b) for b in workers.batches(steps(640), sizes)} == {workers.BATCH_FILES}
    assert workers.enough(steps(10), workers.Sizes())[1] is False


def test_a_small_file_that_changes_while_it_is_read(
    contents: Contents, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (src / "a").write_bytes(b"before")
    os.utime(src / "a", ns=(1, 1))
    real, reads = os.read, []

    def read(fd: int, n: int) -> bytes:
        reads.append(n)
        content = real(fd, n)
        if len(reads) == 1:
            (src / "a").write_bytes(b"after!")  # as long, so only its times tell
        return content

    monkeypatch.setattr(os, "read", read)
    assert listed(contents, take(contents, src)) == {b"a": b"after!"}


def test_names_of_any_bytes(contents: Contents, src: Path, tmp_path: Path) -> None:
    names = [b"\xff\xfe", b"new\nline", b" ", b"-", b"a" * 255, b"q\"'`$(x)", "ü".encode(), b"\x01"]
    for i, name in enumerate(names):
        with open(os.path.join(os.fsencode(src), name), "wb") as f:
            f.write(b"%d" % i)
    intake = take(contents, src)
    assert listed(contents, intake) == {n: b"%d" % i for i, n in enumerate(names)}
    contents.restore(intake.ref, tmp_path / "out")
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == sorted(names)


def test_deep_folders(contents: Contents, src: Path, tmp_path: Path) -> None:
    deep = os.fsencode(src)
    for _ in range(1200):
        deep += b"/d"
        os.mkdir(deep)
    with open(deep + b"/f", "wb") as f:
        f.write(b"down here")
    intake = take(contents, src)
    (found,) = listed(contents, intake).items()
    assert found == ((deep + b"/f")[len(os.fsencode(src)) + 1 :], b"down here")
    contents.restore(intake.ref, tmp_path / "out")
    with open(os.fsencode(tmp_path) + b"/out/" + found[0], "rb") as f:
        assert f.read() == b"down here"
    for out in (src, tmp_path / "out"):
        subprocess.run(["rm", "-rf", str(out)], check=True)


def test_empty_things(contents: Contents, src: Path, tmp_path: Path) -> None:
    assert take(contents, src).files == 0
    (src / "hollow" / "inner").mkdir(parents=True)
    (src / "hollow" / "inner").chmod(0o700)
    (src / "zero").write_bytes(b"")
    intake = take(contents, src)
    kinds = {e.path: e.kind for e in contents.open_manifest(intake.ref).entries()}
    assert kinds == {b"hollow/inner/": FOLDER, b"zero": FILE}
    contents.restore(intake.ref, tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out/hollow/inner").stat().st_mode) == 0o700
    assert (tmp_path / "out/zero").read_bytes() == b""
    assert take(contents, src).unchanged
    (src / "hollow" / "inner" / "f").write_bytes(b"x")
    assert listed(contents, take(contents, src)) == {b"hollow/inner/f": b"x", b"zero": b""}


def test_the_home_is_never_taken_in(contents: Contents, tmp_path: Path) -> None:
    (tmp_path / "note").write_bytes(b"n")
    intake = take(contents, tmp_path)
    assert list(listed(contents, intake)) == [b"note"]
    assert intake.skipped == ((b"home/", "the home of idao itself"),)


def test_another_home_is_never_taken_in(contents: Contents, tmp_path: Path) -> None:
    """Its sealed keys are no data."""
    other = tmp_path / "data" / "ana"
    (other / "keys").mkdir(parents=True)
    (other / "keys" / "lock").write_bytes(b"sealed")
    (other / "config.toml").write_text("")
    (tmp_path / "data" / "note").write_bytes(b"n")
    intake = take(contents, tmp_path / "data")
    assert list(listed(contents, intake)) == [b"note"]
    assert intake.skipped == ((b"ana/", "the home of another iDAO: back it up instead"),)
    for home in (other, contents.home):
        (home / "keys").mkdir(exist_ok=True)
        (home / "keys" / "lock").write_bytes(b"sealed")
        with pytest.raises(UsageError, match="the home of an iDAO"):
            take(contents, home)


def test_a_path_beyond_the_systems_limit_is_named(contents: Contents, src: Path) -> None:
    # Made from inside, as no path reaches it from outside.
    where = os.getcwd()
    try:
        os.chdir(src)
        for _ in range(20):
            os.mkdir("x" * 250)
            os.chdir("x" * 250)
    finally:
        os.chdir(where)
    try:
        with pytest.raises(Unreadable, match="File name too long"):
            take(contents, src)
        assert take(contents, src, skip_unreadable=True).skipped[0][1] == "File name too long"
    finally:
        subprocess.run(["rm", "-rf", str(src)], check=True)
