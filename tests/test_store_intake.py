"""Taking in: every odd file has a stated behaviour (docs/contents.md), and each is shown here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from contents_world import KEY, contents, listed, settled, src, take

from idao.errors import Busy, NotFound, UsageError, VerificationFailed
from idao.manifest import check_disclosure, pages
from idao.store import chunks, forks, packs, walk, workers
from idao.store.contents import Contents

__all__ = ["contents", "settled", "src"]

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
