"""Reading, restoring, checking and forgetting; and a store that somebody damaged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from contents_world import KEY, contents, some_files, take

from idao import manifest as m
from idao.crypto import canonical, sodium
from idao.errors import IdaoError, Malformed, NotFound, Refused, VerificationFailed
from idao.store import packs, seal
from idao.store.contents import Contents
from idao.store.restore import restore
from idao.store.version import StoredFile, Version

__all__ = ["contents", "some_files"]

# --- restoring ---------------------------------------------------------------------------------------------


def test_some_paths_can_be_restored_alone(contents: Contents, src: Path, tmp_path: Path) -> None:
    ref = take(contents, src).ref
    assert contents.restore(ref, tmp_path / "one", [b"sub"]) == 1
    assert (tmp_path / "one/sub/b").read_bytes() == b"text\n" * 1000 and not (tmp_path / "one/a").exists()
    with pytest.raises(NotFound, match="nothing"):
        contents.restore(ref, tmp_path / "two", [b"a", b"nothing"])


def test_nothing_is_overwritten(contents: Contents, src: Path, tmp_path: Path) -> None:
    ref, out = take(contents, src).ref, tmp_path / "out"
    out.mkdir()
    (out / "a").write_bytes(b"mine")
    with pytest.raises(Refused, match="exists already") as refusal:
        contents.restore(ref, out)
    assert refusal.value.code == "exists" and (out / "a").read_bytes() == b"mine"
    with pytest.raises(IdaoError):
        contents.restore(ref, out / "a")


def test_a_link_in_the_way_is_not_followed(contents: Contents, src: Path, tmp_path: Path) -> None:
    ref, out, outside = take(contents, src).ref, tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    (out / "sub").symlink_to(outside)
    with pytest.raises(IdaoError):
        contents.restore(ref, out)
    assert not list(outside.iterdir())


def test_a_manifest_that_links_and_then_writes_through_the_link_fails(
    contents: Contents, tmp_path: Path
) -> None:
    """What a hostile grantor would send: link `x` to a folder, then file `x/y`."""
    (tmp_path / "outside").mkdir()
    link = m.FileEntry(b"x", m.LINK, 0o777, 1, 0, KEY, KEY, 0, os.fsencode(tmp_path / "outside"))
    file = m.FileEntry(b"x/y", m.FILE, 0o644, 0, 0, KEY, KEY, 0, b"")

    class Hostile:
        def all(self) -> Iterator[StoredFile]:
            yield from (StoredFile(e, [], contents.load) for e in (link, file))

    class Silent:
        def bytes_read(self, n: int) -> None: ...
        def file(self, size: int) -> None: ...
        def end(self) -> None: ...

    with pytest.raises(IdaoError):
        restore(Hostile(), tmp_path / "out", None, Silent())  # type: ignore[arg-type]
    assert not list((tmp_path / "outside").iterdir())


# --- the seals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [m.AEGIS, m.AEGIS_ZSTD, m.XCHACHA, m.XCHACHA_ZSTD])
def test_a_chunk_opens_only_as_what_it_is(form: int) -> None:

    s, content, key, cid = seal.ChunkSealer(), b"content " * 100, os.urandom(32), os.urandom(32)
    body = zstandard.compress(content, 1) if form in m.COMPRESSED else content
    out = bytearray(len(body) + seal.TAG_MAX)
    n = s.seal(form, key, cid, s.ffi.from_buffer(body), len(body), s.ffi.from_buffer("unsigned char[]", out))
    sealed = bytes(out[:n])
    assert s.open(form, key, cid, len(content), sealed) == content
    other = {
        m.AEGIS: m.AEGIS_ZSTD,
        m.AEGIS_ZSTD: m.AEGIS,
        m.XCHACHA: m.XCHACHA_ZSTD,
        m.XCHACHA_ZSTD: m.XCHACHA,
    }
    for bad in (
        (form, bytes(32), cid, len(content), sealed),
        (form, key, bytes(32), len(content), sealed),
        (form, key, cid, len(content) + 1, sealed),
        (form, key, cid, 2**40, sealed),
        (form, key, cid, len(content), sealed[:-1]),
        (form, key, cid, len(content), b""),
        (form, key, cid, len(content), sealed[:9] + bytes([sealed[9] ^ 1]) + sealed[10:]),
        (other[form], key, cid, len(content), sealed),
        (99, key, cid, len(content), sealed),
    ):
        with pytest.raises(VerificationFailed):
            s.open(*bad)


def test_wrapped_keys() -> None:
    wrapping, cid, sealed, key = (os.urandom(32) for _ in range(4))
    of_format_2 = sodium.seal(key, cid, sealed[:24], wrapping)
    assert len(of_format_2) == seal.WRAPPED_KEY
    todays = seal.wrap(wrapping, key, seal.WRAP_KEY + cid)
    for its_hash, wrapped in ((sealed, of_format_2), (None, todays)):
        assert seal.unwrap_key(wrapping, cid, its_hash, wrapped) == key
        bad = [(KEY, cid, its_hash, wrapped), (wrapping, KEY, its_hash, wrapped)]
        bad += [(wrapping, cid, its_hash, wrapped[:-1]), (wrapping, 7, its_hash, wrapped)]  # type: ignore[list-item]
        for row in (*bad, (wrapping, cid, KEY, of_format_2), (wrapping, cid, None, of_format_2)):
            with pytest.raises(VerificationFailed):
                seal.unwrap_key(*row)
    with pytest.raises(VerificationFailed):
        seal.unwrap(KEY, b"short", b"")
    assert seal.unwrap(KEY, seal.wrap(KEY, b"secret", b"p"), b"p") == b"secret"
    with pytest.raises(VerificationFailed):
        seal.unwrap(KEY, seal.wrap(KEY, b"secret", b"p"), b"q")


def test_no_plain_bytes_lie_in_the_home(contents: Contents, src: Path) -> None:
    (src / "a-telling-name.csv").write_bytes(b"a telling line\n" * 3)
    take(contents, src)
    contents.close()
    for path in contents.home.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"telling" not in data and KEY not in data
            assert path.stat().st_mode & 0o077 == 0, f"{path.name} is open to others"


def test_another_data_key_opens_nothing(contents: Contents, src: Path) -> None:
    ref = take(contents, src).ref
    with Contents(contents.home, bytes(32)) as other:
        with pytest.raises(VerificationFailed):
            other.open_manifest(ref)
        assert other.check() != []


def test_a_grantee_reads_with_the_asset_key_alone(contents: Contents, src: Path) -> None:
    """The manifest's head, the asset key and the sealed chunks are enough; the data key is not needed."""
    intake = take(contents, src)
    packed = seal.manifest_open(contents.asset_key(intake.ref), intake.manifest)
    sealer = seal.ChunkSealer()

    def load(ref: m.ChunkRef) -> bytes:
        row = contents.db.execute(
            "select name, offset from chunk join pack on pack = pack.id where chunk.id=?", (ref.id,)
        ).fetchone()
        sealed = (contents.folder / f"{row[0]}.pack").read_bytes()[row[1] : row[1] + ref.stored]
        assert seal.sealed_hash(sealed) == ref.sealed
        return sealer.open(ref.form, ref.key, ref.id, ref.size, sealed)

    version = Version(intake.ref, packed, load)
    assert version.head.root == intake.root
    assert version.open(b"a").read() == (src / "a").read_bytes()
    with pytest.raises(Malformed):
        Version(bytes(32), packed, load)
    head = canonical.unpack(m.Manifest, packed)
    for bent in (replace(head, files=9), replace(head, chunks=0), replace(head, file_pages=b"x")):
        again = canonical.pack(bent)
        with pytest.raises(IdaoError):
            bad = Version(m.manifest_hash(again), again, load)
            list(bad.files())


# --- forgetting --------------------------------------------------------------------------------------------


def test_forgetting_frees_what_nobody_else_uses(contents: Contents, src: Path) -> None:
    (src / "own").write_bytes(os.urandom(2_000_000))
    both = take(contents, src).ref
    kept = contents.take_in([os.fsencode(src / "a")]).ref
    key = contents.db.execute("select key from asset_key where ref=?", (both,)).fetchone()[0]
    before = _disk(contents)
    assert contents.forget(both) >= 2_000_000
    with pytest.raises(NotFound):
        contents.open_manifest(both)
    with pytest.raises(NotFound):
        contents.forget(both)
    assert contents.read(kept, b"a") == (src / "a").read_bytes()
    assert contents.check() == [] and _disk(contents) < before - 1_900_000
    assert all(key not in p.read_bytes() for p in contents.home.glob("home.db*")), "the wrapped key lingers"
    contents.forget(kept)
    assert not list(contents.folder.iterdir()) and contents.check() == []
    assert take(contents, src).files == 4, "and it can be taken in again"


def test_what_shared_an_intake_with_the_forgotten_gets_keys_of_its_own(contents: Contents, src: Path) -> None:
    (src / "own").write_bytes(b"forgotten\n" * 50)
    gone = take(contents, src)
    (dead,) = contents.open_manifest(gone.ref).find(b"own")[1]
    (src / "own").unlink()
    kept = take(contents, src)
    assert kept.new_bytes == 0, "all of it was stored by the first"
    (wrapped,) = contents.db.execute("select key from secret where id = 1").fetchone()
    assert contents.key_of(dead.id, None, None, wrapped) == dead.key
    contents.forget(gone.ref)
    assert all(wrapped not in p.read_bytes() for p in contents.home.glob("home.db*"))
    assert contents.check() == [] and contents.db.execute("select id from secret").fetchall() == [(2,)]
    for _, parts in contents.open_manifest(kept.ref).files():
        for part in parts:
            row = contents.chunk_row(part.id)
            assert row is not None and m.chunk_rows(row) == [part], "met again, it is as it was"
    again = contents.take_in([os.fsencode(src / "sub")])
    contents.forget(kept.ref)
    assert contents.read(again.ref, b"b") == b"text\n" * 1000 and contents.check() == []


def test_a_secret_is_written_with_the_first_packs_that_need_it(contents: Contents, src: Path) -> None:
    take(contents, src)
    for _ in range(3):
        contents.begin_intake()  # and it was killed, or found nothing new
    secrets, packed = "select id from secret", "select distinct secret from pack where name in ('a', 'b')"
    assert contents.db.execute(secrets).fetchall() == [(1,)]
    rows = [packs.INDEX_ROW.pack(os.urandom(32), bytes(32), 0, 10, 10, 0) for _ in range(2)]
    with pytest.raises(RuntimeError):
        contents.index([packs.Pack("a", 0, rows[:1])], _no_room)
    assert contents.db.execute(secrets).fetchall() == [(1,)], "it came to nothing, with what needed it"
    contents.index([packs.Pack("a", 0, rows[:1])])
    contents.index([packs.Pack("b", 0, rows[1:])])
    assert contents.db.execute(secrets).fetchall() == [(1,), (2,)]
    assert contents.db.execute(packed).fetchall() == [(2,)]


def _no_room() -> None:
    raise RuntimeError("no room")


def _disk(contents: Contents) -> int:
    return sum(p.stat().st_blocks * 512 for p in contents.folder.iterdir())


def test_forgetting_goes_on_after_a_crash(
    contents: Contents, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from idao.store import forget as forget_module

    ref = take(contents, src).ref

    def crash(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(forget_module, "reclaim", crash)
    with pytest.raises(KeyboardInterrupt):
        contents.forget(ref)
    monkeypatch.undo()
    assert contents.versions() == [] and list(contents.folder.iterdir())
    with Contents(contents.home, KEY) as after:
        (src / "a").write_bytes(b"small")
        take(after, src)
        assert after.check() == [] and _disk(after) < 100_000
