"""Taking in: every odd file has a stated behaviour (docs/contents.md), and each is shown here."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from idao.errors import Busy, NotFound, UsageError, VerificationFailed
from idao.manifest import FILE, FOLDER, HOLE, LINK, check_disclosure, pages
from idao.store import chunks, forks, packs, walk, workers
from idao.store import intake as taking
from idao.store.contents import Contents, Intake, Unreadable

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


# --- contents come back ------------------------------------------------------------------------------------


def test_a_folder_comes_back_byte_for_byte(contents: Contents, src: Path, tmp_path: Path) -> None:
    made = {
        "one": b"1",
        "empty": b"",
        "deep/er/file": os.urandom(300_000),
        "deep/er-x": b"sorts between",
        "big": os.urandom(3_000_000) + b"text\n" * 700_000,
    }
    for name, data in made.items():
        (src / name).parent.mkdir(parents=True, exist_ok=True)
        (src / name).write_bytes(data)
    (src / "big").chmod(0o750)
    intake = take(contents, src)
    assert listed(contents, intake) == {k.encode(): v for k, v in made.items()}
    assert list(listed(contents, intake)) == sorted(k.encode() for k in made)
    assert (intake.files, intake.size) == (5, sum(map(len, made.values())))
    contents.restore(intake.ref, tmp_path / "out")
    for name, data in made.items():
        assert (tmp_path / "out" / name).read_bytes() == data
        assert (tmp_path / "out" / name).stat().st_mode == (src / name).stat().st_mode
        assert (tmp_path / "out" / name).stat().st_mtime_ns == (src / name).stat().st_mtime_ns
    assert contents.read(intake.ref, b"big", 2_999_998, 6) == made["big"][2_999_998:3_000_004]
    assert contents.check() == []


def test_one_file_is_named_by_itself_and_several_by_their_names(contents: Contents, src: Path) -> None:
    (src / "a.csv").write_bytes(b"a")
    (src / "dir").mkdir()
    (src / "dir" / "b").write_bytes(b"b")
    assert listed(contents, take(contents, src / "a.csv")) == {b"a.csv": b"a"}
    both = take(contents, src / "dir", src / "a.csv")
    assert listed(contents, both) == {b"a.csv": b"a", b"dir/b": b"b"}
    assert listed(contents, take(contents, src / "dir")) == {b"b": b"b"}
    (src / "dir" / "a.csv").write_bytes(b"other")
    with pytest.raises(UsageError, match="same name"):
        take(contents, src / "a.csv", src / "dir" / "a.csv")
    with pytest.raises(NotFound):
        take(contents, src / "missing")
    with pytest.raises(UsageError):
        contents.take_in([])
    with pytest.raises(UsageError):
        contents.take_in([b"a\0b"])


def test_a_single_file_can_be_proven(contents: Contents, src: Path) -> None:
    for i in range(5):
        (src / f"f{i}").write_bytes(os.urandom(1_500_000 if i == 3 else 100))
    intake = take(contents, src)
    disclosure = contents.open_manifest(intake.ref).disclose(b"f3")
    with (src / "f3").open("rb") as f:
        check_disclosure(intake.root, disclosure, iter(lambda: f.read(9999), b""))


def test_standard_input_is_one_file(contents: Contents, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from idao.store.contents import Contents\n"
        f"c = Contents(Path({str(contents.home)!r}), bytes(range(32)))\n"
        "sys.stdout.write(c.take_in([b'-']).ref.hex())"
    )
    data = os.urandom(2_500_000)
    ref = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True).stdout
    assert contents.read(bytes.fromhex(ref.decode()), b"stdin") == data


# --- nothing is done twice ---------------------------------------------------------------------------------


def test_unchanged_files_are_not_opened_and_keep_their_leaves(
    contents: Contents, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(20):
        (src / f"f{i:02}").write_bytes(os.urandom(50))
    first = take(contents, src)
    opened: list[str | bytes] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *a, **more: opened.append(path) or real(path, *a, **more))
    again = take(contents, src)
    assert again.unchanged and (again.ref, again.root, again.read_files) == (first.ref, first.root, 0)
    (src / "f07").write_bytes(b"changed")
    (src / "f09").unlink()
    (src / "f05x").write_bytes(b"new")
    second = take(contents, src)
    files = {os.fsencode(src / name) for name in os.listdir(src)}
    assert sorted(p for p in opened if p in files) == [os.fsencode(src / name) for name in ("f05x", "f07")]
    assert not second.unchanged and second.files == 20
    before = {e.path: e.leaf_of(c) for e, c in contents.open_manifest(first.ref).files()}
    after = {e.path: e.leaf_of(c) for e, c in contents.open_manifest(second.ref).files()}
    assert {p for p in after if before.get(p) == after[p]} == set(before) - {b"f07", b"f09"}
    assert listed(contents, second)[b"f07"] == b"changed" and b"f09" not in after


def test_a_touched_file_makes_no_version_a_new_mode_does(contents: Contents, src: Path) -> None:
    (src / "a").write_bytes(b"content")
    (src / "a").chmod(0o644)
    first = take(contents, src)
    os.utime(src / "a", ns=(1, 1))
    again = take(contents, src)
    assert again.unchanged and again.ref == first.ref and again.read_files == 1
    assert take(contents, src).read_files == 0, "the stat cache follows"
    (src / "a").chmod(0o600)
    changed = take(contents, src)
    assert not changed.unchanged and changed.ref != first.ref and changed.root == first.root


def test_a_change_within_the_clock_tick_is_not_missed(
    contents: Contents, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same size, same times, same inode: only distrust of fresh files finds it."""
    monkeypatch.setattr(chunks, "RACY_NS", 2_000_000_000)
    (src / "a").write_bytes(b"before")
    take(contents, src)
    monkeypatch.setattr(walk, "_PRINT", _WithoutTimes())
    with (src / "a").open("r+b") as f:
        f.write(b"after!")
    assert listed(contents, take(contents, src)) == {b"a": b"after!"}


class _WithoutTimes:
    """Stands for a file system whose clock did not tick between two writes."""

    def pack(self, kind: int, mode: int, size: int, mtime: int, ctime: int, inode: int) -> bytes:
        import struct

        return struct.pack(">BHQqqQ", kind, mode, size, 7, 7, inode)


def test_duplicates_and_moved_bytes_are_stored_once(contents: Contents, src: Path) -> None:
    data = os.urandom(6_000_000)
    (src / "a").write_bytes(data)
    first = take(contents, src)
    assert first.new_bytes == len(data)
    (src / "copy").write_bytes(data)
    os.link(src / "a", src / "hard")
    assert take(contents, src).new_bytes == 0
    (src / "a").write_bytes(b"a few bytes in front" + data)
    moved = take(contents, src)
    assert moved.new_bytes < len(data) // 2, "cuts follow the content"
    assert listed(contents, moved)[b"copy"] == data
    other = contents.take_in([os.fsencode(src / "copy")])
    assert other.new_bytes == 0 and other.root not in (first.root, moved.root)


def test_a_damaged_copy_is_not_relied_upon_when_its_content_is_met_again(
    contents: Contents, src: Path
) -> None:
    (src / "b").write_bytes(b"text\n" * 1000)
    take(contents, src)
    (pack,) = contents.folder.iterdir()
    good = pack.read_bytes()
    pack.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    (src / "again").write_bytes((src / "b").read_bytes())
    with pytest.raises(VerificationFailed, match="is damaged") as refusal:
        take(contents, src / "again")
    assert refusal.value.code == "chunk-damaged" and "asset check" in refusal.value.hint
    pack.write_bytes(good)
    assert take(contents, src / "again").new_bytes == 0 and contents.check() == []


def test_secrets_of_files_are_random_and_take_little_space(contents: Contents, src: Path) -> None:
    secrets = chunks.new_secrets(2000)
    assert {len(s) for s in secrets} == {32} and len(set(secrets)) == 2000
    assert len({s[-chunks.SECRET_RANDOM :] for s in secrets}) == 2000 and chunks.SECRET_RANDOM >= 16
    assert all(len({s[i] for s in secrets}) > 200 for i in range(32 - chunks.SECRET_RANDOM, 32))
    for i in range(200):
        (src / f"f{i:03}").write_bytes(os.urandom(100))
    head = contents.open_manifest(take(contents, src).ref).head
    (page,) = (page for page, _ in pages(head.file_pages))
    assert page.stored < 200 * 66, "a root and half a secret of each, and what repeats"


def test_rows_of_copies_take_little_of_a_page(contents: Contents, src: Path) -> None:
    kinds = [os.urandom(100) for _ in range(2300)]
    for i in range(4600):
        (src / f"f{i:04}").write_bytes(kinds[i % 2300])
    head = contents.open_manifest(take(contents, src).ref).head
    (page,) = (page for page, _ in pages(head.chunk_pages))
    assert page.size == 4600 * 109 and page.stored < 2300 * 110, "with a usual table 2300 * 194"


def test_ids_and_cuts_depend_on_the_home(src: Path, tmp_path: Path) -> None:
    (src / "a").write_bytes(os.urandom(8_000_000))
    seen = []
    for key in (KEY, bytes(32)):
        with Contents(tmp_path / key.hex()[:4], key) as c:
            version = c.open_manifest(take(c, src).ref)
            seen.append(version.find(b"a")[1])
    assert {p.id for p in seen[0]}.isdisjoint({p.id for p in seen[1]})
    assert [p.size for p in seen[0]] != [p.size for p in seen[1]]


def test_compression_only_where_it_pays(contents: Contents, src: Path) -> None:
    (src / "text").write_bytes(b"a line of text\n" * 10_000)
    (src / "noise").write_bytes(os.urandom(150_000))
    version = contents.open_manifest(take(contents, src).ref)
    assert version.find(b"text")[1][0].stored < 5_000
    assert version.find(b"noise")[1][0].stored <= 150_032


# --- odd files ---------------------------------------------------------------------------------------------


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


# --- progress, locks, workers ------------------------------------------------------------------------------


def test_progress_grows_to_the_whole(contents: Contents, src: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idao.store.intake.PROGRESS_S", 0)
    for i in range(10):
        (src / str(i)).write_bytes(os.urandom(100_000))
    told: list[tuple[int, int, int, int]] = []
    take(contents, src, progress=lambda *n: told.append(n))
    assert told[-1] == (1_000_000, 1_000_000, 10, 10) and told == sorted(told) and len(told) > 5


def test_one_writer_at_a_time(contents: Contents, src: Path) -> None:
    (src / "a").write_bytes(b"a")
    with contents._writing(), Contents(contents.home, KEY) as other:
        with pytest.raises(Busy, match=str(os.getpid())):
            take(other, src)
        assert other.versions() == [], "reading goes on"
    assert take(contents, src).files == 1


@pytest.fixture
def workers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "FORK_FILES", 3)
    monkeypatch.setattr(workers, "BATCH_FILES", 2)
    monkeypatch.setattr(forks, "may_fork", lambda: True)


def test_workers_do_what_one_process_does(
    contents: Contents, src: Path, tmp_path: Path, workers_at_once: None
) -> None:
    same = os.urandom(700_000)
    for i in range(60):
        (src / f"d{i % 7}").mkdir(exist_ok=True)
        (src / f"d{i % 7}" / f"f{i:02}").write_bytes(same if i % 5 == 0 else os.urandom(5000 + i))
    (src / "empty").mkdir()
    (src / "link").symlink_to("d0")
    first = take(contents, src)
    assert listed(contents, first) == {
        **{os.fsencode(p.relative_to(src)): p.read_bytes() for p in src.rglob("f*")},
        b"empty/": b"",
        b"link": b"",
    }
    assert {p.name.split("-")[1] for p in contents.folder.iterdir()} >= {"1", "2"}, "both have worked"
    assert contents.check() == []
    stored = sum(p.stat().st_size for p in contents.folder.iterdir())
    assert stored < first.new_bytes + 2 * len(same), "what both met is stored once, or nearly so"
    assert take(contents, src).unchanged
    for p in src.rglob("f*"):
        p.write_bytes(p.read_bytes() + b"!")
    second = take(contents, src)
    assert second.read_files == 60 and contents.check() == []
    os.truncate(src / "d0/f00", 10)
    again = contents.take_in([os.fsencode(src)])
    assert again.new_bytes == 10, "workers find what the home holds"
    contents.restore(again.ref, tmp_path / "out")
    assert subprocess.run(["diff", "-r", "--no-dereference", src, tmp_path / "out"]).returncode == 0


def test_a_worker_that_fails_is_heard(
    contents: Contents, src: Path, workers_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(9):
        (src / str(i)).write_bytes(os.urandom(100))
    real, parent = os.open, os.getpid()

    def die(path: bytes | str, *args: int, **more: int) -> int:
        if path == os.fsencode(src / "5") and os.getpid() != parent:
            os._exit(9)
        return real(path, *args, **more)

    monkeypatch.setattr(os, "open", die)
    with pytest.raises(Exception, match="ended from outside"):
        take(contents, src)
    monkeypatch.setattr(os, "open", real)
    assert take(contents, src).files == 9 and contents.check() == []


def test_ctrl_c_ends_workers_and_resumes(
    contents: Contents, src: Path, workers_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(40):
        (src / f"{i:02}").write_bytes(os.urandom(10_000))
    real, calls = workers.receive, []

    def interrupted(sock: socket.socket) -> tuple[str, object] | None:
        calls.append(1)
        if len(calls) == 5:
            sock.recv(3)  # in the middle of a message
            raise KeyboardInterrupt
        return real(sock)

    parent = os.getpid()
    monkeypatch.setattr(workers, "receive", lambda s: interrupted(s) if os.getpid() == parent else real(s))
    with pytest.raises(KeyboardInterrupt):
        take(contents, src)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    monkeypatch.setattr(workers, "receive", real)
    assert contents.versions() == [] and take(contents, src).files == 40 and contents.check() == []


def test_beside_other_threads_nothing_is_forked(contents: Contents, src: Path) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert not forks.may_fork()
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("direct", [True, False])
def test_chunks_of_all_sizes_cross_buffers_and_packs(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    monkeypatch.setattr(packs, "PACK_BYTES", 5_000_000)
    for i, size in enumerate([1, 4095, 4096, 4097, 100_000, 5_000_000, 9_000_000]):
        (src / str(i)).write_bytes(os.urandom(size))
    with Contents(tmp_path / "home", KEY, direct=direct) as contents:
        intake = take(contents, src)
        assert contents.db.execute("select count(*) from pack").fetchone()[0] >= 3
        assert listed(contents, intake) == {p.name.encode(): p.read_bytes() for p in src.iterdir()}
        assert contents.check() == []


def test_the_portable_cipher(contents: Contents, src: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "forms", lambda: (3, 4))
    (src / "a").write_bytes(b"text " * 1000)
    (src / "b").write_bytes(os.urandom(1000))
    intake = take(contents, src)
    assert {r[0] for r in contents.db.execute("select form from chunk")} == {3, 4}
    assert listed(contents, intake)[b"a"] == b"text " * 1000 and contents.check() == []
