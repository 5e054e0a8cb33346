"""Manifests: rows, commitments that hide, and the disclosure of one file without the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idao import manifest as m
from idao.crypto import canonical, merkle
from idao.errors import Malformed, NotFound, VerificationFailed

CUT = 7
"""Bytes of a part in these tests."""


def entry(
    path: bytes, content: bytes, holes: frozenset[int] = frozenset()
) -> tuple[m.FileEntry, list[m.ChunkRef]]:
    cuts = [content[i : i + CUT] for i in range(0, len(content), CUT)]
    secret = os.urandom(32)
    hashes = [m.hole_hash(len(c)) if i in holes else m.part_hash(c) for i, c in enumerate(cuts)]
    zero = bytes(32)
    refs = [
        m.ChunkRef(zero, zero, zero, len(c), len(c), m.HOLE if i in holes else m.AEGIS)
        for i, c in enumerate(cuts)
    ]
    root = m.content_root(secret, hashes)
    return m.FileEntry(path, m.FILE, 0o644, len(content), 5, secret, root, len(refs), b""), refs


Pair = tuple[m.FileEntry, list[m.ChunkRef]]


def root_of(entries: list[Pair]) -> bytes:
    return merkle.root(m.FILES, [e.leaf_of(refs) for e, refs in entries])


paths = st.lists(
    st.binary(min_size=1, max_size=30).filter(
        lambda p: not {b"", b".", b".."} & set(p.split(b"/")) and b"\0" not in p
    ),
    min_size=1,
    max_size=9,
    unique=True,
)


@given(paths, st.data())
def test_any_one_file_can_be_shown_and_no_other_content_passes(
    names: list[bytes], data: st.DataObject
) -> None:
    made = {p: (c := data.draw(st.binary(max_size=40)), *entry(p, c)) for p in sorted(names)}
    entries = [(e, refs) for _, e, refs in made.values()]
    root = root_of(entries)
    for path, (content, _, _refs) in made.items():
        d = canonical.unpack(m.FileDisclosure, canonical.pack(m.disclose(entries, path)))
        step = data.draw(st.integers(1, 50))
        m.check_disclosure(root, d, (content[i : i + step] for i in range(0, len(content), step)))
        for bad in (
            content + b"x",
            content[:-1] + bytes([content[-1] ^ 1]) if content else b"y",
            content[1:] + b"zz",
        ):
            with pytest.raises(VerificationFailed):
                m.check_disclosure(root, d, [bad])


def test_a_disclosure_cannot_be_bent() -> None:
    both = [entry(b"a", b"hello, parts of a file"), entry(b"b", b"other")]
    root, d = root_of(both), m.disclose(both, b"a")
    content = [b"hello, parts of a file"]
    m.check_disclosure(root, d, content)
    for bent in (
        replace(d, path=b"b"),
        replace(d, secret=bytes(32)),
        replace(d, index=1),
        replace(d, proof=()),
        replace(d, files=3),
        replace(d, kind=m.LINK),
        replace(d, sizes=(len(content[0]),)),
        replace(d, holes=(0,)),
        replace(d, sizes=(*d.sizes, 0)),
    ):
        with pytest.raises(VerificationFailed):
            m.check_disclosure(root, bent, content)
    with pytest.raises(NotFound):
        m.disclose(both, b"c")


def test_a_hole_is_zeros_and_is_not_hashed_as_such() -> None:
    content = b"1234567" + bytes(CUT) + b"tail"
    e, refs = entry(b"s", content, frozenset({1}))
    d, root = m.disclose([(e, refs)], b"s"), root_of([(e, refs)])
    m.check_disclosure(root, d, [content])
    with pytest.raises(VerificationFailed, match="hole"):
        m.check_disclosure(root, d, [b"1234567" + b"\0\0\0x\0\0\0" + b"tail"])
    assert m.hole_hash(CUT) != m.part_hash(bytes(CUT))


def test_links_folders_and_files_never_share_a_leaf() -> None:
    secret, target = os.urandom(32), b"/etc/passwd"
    file_root = m.content_root(secret, [m.part_hash(target)])
    assert len({file_root, m.link_root(secret, target), m.FOLDER_ROOT, m.content_root(secret, [])}) == 4
    link = m.FileEntry(b"l", m.LINK, 0o777, len(target), 0, secret, m.link_root(secret, target), 0, target)
    d = m.disclose([(link, [])], b"l")
    m.check_disclosure(root_of([(link, [])]), d, [target])
    with pytest.raises(VerificationFailed):
        m.check_disclosure(root_of([(link, [])]), d, [b"/etc/shadow"])


def test_equal_contents_have_unlike_leaves() -> None:
    """A guess at a content cannot be tried against what a ledger shows."""
    (a, r), (b, r2) = entry(b"same", b"content"), entry(b"same", b"content")
    assert a.leaf_of(r) != b.leaf_of(r2) and a.content_root != b.content_root


def test_the_salt_of_one_part_tells_nothing_of_another() -> None:
    secret = os.urandom(32)
    salts = {m.leaf_salt(secret), *(m.part_salt(secret, i) for i in range(100))}
    assert len(salts) == 101 and secret not in salts


def test_rows_survive_the_page() -> None:
    e, refs = entry(b"caf\xe9/\xff\n", b"0123456789")
    link = replace(e, path=b"z", kind=m.LINK, target=b"caf\xe9", parts=0)
    assert list(m.file_rows(m.pack_file(e) + m.pack_file(link))) == [e, link]
    assert m.chunk_rows(b"".join(m.pack_chunk(*r) for r in refs) + m.hole_row(9))[-1].form == m.HOLE


def broken_pages() -> Iterator[bytes]:
    good = m.pack_file(entry(b"a", b"")[0])
    yield from (good[:n] for n in range(1, len(good)))
    yield b"\x09" + good[1:]
    for path in (b"/abs", b"..", b"a/../b", b"a//b", b"", b"./a", b"a\0b", b"a/"):
        yield m.pack_file(replace(entry(b"a", b"")[0], path=path))


@pytest.mark.parametrize("page", list(broken_pages()))
def test_hostile_pages_are_refused(page: bytes) -> None:
    with pytest.raises(Malformed):
        list(m.file_rows(page))
    with pytest.raises(Malformed):
        m.chunk_rows(page[: m.CHUNK_ROW - 1] or b"x")


def test_names_are_shown_so_that_they_cannot_fake_a_line() -> None:
    assert m.show_path("straße.csv".encode()) == "straße.csv"
    assert "\n" not in m.show_path(b"a\nok: verified") and "\x1b" not in m.show_path(b"\x1b[2J")


def test_the_short_way_to_a_leaf_is_the_long_one() -> None:
    for content in (b"", b"abc", b"0123456789"):
        for holes in (frozenset[int](), frozenset({0})):
            e, refs = entry(b"p", content, holes)
            assert e.leaf(b"".join(m.pack_chunk(*r) for r in refs)) == e.leaf_of(refs)


def test_a_whole_file_is_packed_as_any_other() -> None:
    """The short way that most files go gives what the long one gives."""
    for path, content in ((b"a", b"x"), (b"caf\xe9/\xff\n", b"y" * CUT)):
        e, refs = entry(path, content)
        row, leaf = m.pack_whole(path, e.mode, e.size, e.mtime_ns, e.secret, m.part_hash(content))
        assert (row, leaf) == (m.pack_file(e), e.leaf_of(refs)) and m.row_mode(row) == e.mode
