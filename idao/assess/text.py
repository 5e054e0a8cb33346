"""`text@1`: documents. Copies and near copies, repeated lines, form, vocabulary.

A document's sketch is the 32 smallest hashes of its 4-word runs (bottom-k MinHash): the share of equal hashes
among the smallest of two documents together estimates how much they have in common.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Sequence
from sys import byteorder
from zlib import crc32

from idao.assess import files
from idao.assess.earlier import Earlier
from idao.assess.report import SKETCH_BYTES, SKETCHES_MAX, WHOLE, AssessFile, Card, Options, share
from idao.assess.sample import Part
from idao.assess.table import decode
from idao.filled import each, filled

BUDGET = 768 * 1024
"""Bytes read: some 120,000 words, 120 ms."""
DOCUMENTS_MAX = 4_000
"""Documents looked at."""
NEAR = 5_000
"""bp in common from which a document is a near copy: 5 in 100 words replaced leave about 7,000."""
SHINGLES_MIN = 8
"""Below, a document is too short for a near copy; exact copies are found all the same."""
BANDS = 8
"""Smallest hashes by which near copies are looked up: two that have half in common share one of these with
a chance of 99.6 %."""
CANDIDATES_MAX = 4
"""Documents compared with per hash."""
LONG_WORD = 40
"""Mean bytes of a 'word' from which a text has no spaces (Chinese, Japanese, Thai): characters count then."""
VOCABULARY_WORDS_MIN = 500
"""Words needed to judge the vocabulary."""
VOCABULARY_FULL = 5_000
"""bp of the words that occur more than once in human text of some length; of random tokens hardly any do."""
LINE_MIN = 20
"""Bytes of a line whose repetition counts: shorter ones repeat in honest text."""
_MULTIPLIERS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F)
_MASK = 0xFFFFFFFF
_LANE = 96
_STOPS = (
    b".",
    b"!",
    b"?",
    b'"',
    b"'",
    b":",
    b";",
    b")",
    "。".encode(),
    "！".encode(),
    "？".encode(),
    "…".encode(),
)


@filled
class Corpus:
    """What documents have in common, with each other and with earlier ones."""

    documents: int = 0
    near: int = 0
    seen: int = 0
    useful: int = 0
    """Distinct word runs of documents that are no copies."""
    sketches: list[bytes] = each(factory=list)


@filled
class Style:
    """How documents are written: totals over all."""

    badly_formed: int = 0
    words: Counter[bytes] = each(factory=Counter)
    lines: Counter[bytes] = each(factory=Counter)

    def add(self, data: bytes, words: Sequence[bytes]) -> None:
        self.words.update(words)
        self.lines.update([ln for ln in data.split(b"\n") if len(ln) >= LINE_MIN])
        self.badly_formed += not _well_formed(data, len(words))

    def repeated(self) -> int:
        """bp of the text that stands in repeated lines."""
        once = sum(len(ln) for ln in self.lines)
        total = sum(len(ln) * n for ln, n in self.lines.items())
        return share(total - once, total) if total else 0


def shingles(data: bytes) -> tuple[set[int], list[bytes]]:
    """The hashes of all runs of four words (of four characters in a text without spaces), and the words."""
    words = data.lower().split()
    if words and len(data) > LONG_WORD * len(words):
        hashes = list(map(ord, data.decode("utf-8", "replace")))
    else:
        hashes = list(map(crc32, words))
    lanes = _lanes(hashes)
    p, q, r, s = _MULTIPLIERS
    runs = lanes * p + (lanes >> _LANE) * q + (lanes >> 2 * _LANE) * r + (lanes >> 3 * _LANE) * s
    return set(_low(runs, len(hashes))[: max(0, len(hashes) - 3)]), words


def sketch(hashes: set[int]) -> bytes:
    """The smallest after a mix, since sums of products are not spread evenly for single characters."""
    lanes = _lanes(hashes)
    shifted = lanes >> 15 & _lanes([_MASK >> 15] * len(hashes))
    mixed = set(_low((lanes ^ shifted) * 0x2C1B3C6D, len(hashes)))
    return b"".join(h.to_bytes(4, "big") for h in sorted(mixed)[: SKETCH_BYTES // 4])


def _lanes(numbers: Collection[int]) -> int:
    """Numbers of 32 bits as one, each in a lane of 96: to multiply all at once takes a fifth of the time.

    A sum of four products of 32 bits does not leave its lane.
    """
    words = array("I", bytes(len(numbers) * _LANE // 8))
    words[::3] = array("I", numbers)
    if byteorder == "big":
        words.byteswap()
    return int.from_bytes(words, "little")


def _low(lanes: int, count: int) -> array[int]:
    """The low 32 bits of each of `count` lanes."""
    words = array("I", lanes.to_bytes(count * _LANE // 8, "little"))
    if byteorder == "big":
        words.byteswap()
    return words[::3]


def in_common(a: bytes, b: bytes) -> int:
    """bp of the word runs of two documents that both have, by their sketches."""
    left = {a[i : i + 4] for i in range(0, len(a), 4)}
    right = {b[i : i + 4] for i in range(0, len(b), 4)}
    union = sorted(left | right)[: SKETCH_BYTES // 4]
    return share(sum(h in left and h in right for h in union), len(union)) if union else 0


class Sketches:
    """Sketches to look near copies up in."""

    def __init__(self, known: Sequence[bytes] = ()) -> None:
        self._index: dict[bytes, list[bytes]] = {}
        for item in known:
            self.add(item)

    def add(self, item: bytes) -> None:
        for i in range(0, min(len(item), 4 * BANDS), 4):
            bucket = self._index.setdefault(item[i : i + 4], [])
            if len(bucket) < CANDIDATES_MAX:
                bucket.append(item)

    def holds(self, item: bytes) -> bool:
        """Whether a near copy is known."""
        tried: list[bytes] = []
        for i in range(0, min(len(item), 4 * BANDS), 4):
            for other in self._index.get(item[i : i + 4], ()):
                if other not in tried:
                    tried.append(other)
                    if in_common(item, other) >= NEAR:
                        return True
        return False


def read_corpus(documents: Sequence[bytes], earlier: Earlier, style: Style | None = None) -> Corpus:
    """Looks at `documents` in the order given, which must not depend on names or on the order of files."""
    corpus = Corpus()
    own, before = Sketches(), Sketches(earlier.sketches())
    for data in documents[:DOCUMENTS_MAX]:
        corpus.documents += 1
        hashes, words = shingles(data)
        if style is not None:
            style.add(data, words)
        if len(hashes) < SHINGLES_MIN:
            corpus.useful += len(hashes)
            continue
        item = sketch(hashes)
        copy = own.holds(item)
        corpus.near += copy
        corpus.seen += before.holds(item)
        if not copy:
            own.add(item)
            corpus.useful += len(hashes)
            if len(corpus.sketches) < SKETCHES_MAX:
                corpus.sketches.append(item)
    return corpus


def _well_formed(data: bytes, words: int) -> bool:
    """Whole sentences rather than lists, menus or fragments; judged from five lines on.

    The bounds are those by which FineWeb (2024) keeps a page: of the lines at least 12 % end in
    punctuation and at most 67 % are short, and there are at most 0.3 line ends a word.
    """
    lines = [text for ln in data.split(b"\n") if (text := ln.rstrip())]
    if len(lines) < 5:
        return True
    if len(lines) * 10 > 3 * words:
        return False
    ended = sum(ln.endswith(_STOPS) for ln in lines)
    short = sum(len(ln) <= 30 for ln in lines)
    return ended * 100 >= 12 * len(lines) and short * 100 <= 67 * len(lines)


def is_text(part: Part) -> bool:
    head = part.pieces[0][:4096] if part.pieces else b""
    return bool(head.strip()) and (b"\0" not in head or head[:2] in (b"\xff\xfe", b"\xfe\xff"))


def documents_of(parts: Sequence[Part]) -> tuple[list[bytes], int]:
    """The text of each file, as UTF-8, and how many were not UTF-8. JSON Lines: each line is a document."""
    documents, odd = [], 0
    for part in parts:
        texts, other = decode(part.pieces)
        odd += other
        if part.file.path.lower().endswith((b".jsonl", b".ndjson")):
            found = [ln.encode("utf-8", "replace") for text in texts for ln in text.split("\n") if ln]
            # Equal lines in another order are the same documents.
            documents += sorted(found)
        else:
            documents.append("\n".join(texts).replace("\r\n", "\n").encode("utf-8", "replace"))
    return documents, odd


def assess(inputs: Sequence[AssessFile], options: Options, earlier: Earlier, card: Card) -> list[Part]:
    """Fills `card`; returns what was read."""
    parts = files.assess_files(inputs, earlier, card, BUDGET)
    texts = [part for part in parts if is_text(part)]
    documents, odd = documents_of(texts)
    style = Style()
    corpus = read_corpus(documents, earlier, style)
    card.counts.update(
        documents=corpus.documents, near_duplicates=corpus.near, odd_encodings=odd,
        not_text=len(parts) - len(texts), words=style.words.total(), badly_formed=style.badly_formed,
    )  # fmt: skip
    card.score(
        "readable", share(len(texts) - odd, len(parts)),
        f"{len(parts) - len(texts)} of {len(parts)} files looked at are not text and {odd} are not UTF-8",
        "convert the texts to UTF-8 and take other files out",
    )  # fmt: skip
    repeated = style.repeated()
    copies = share(corpus.near, corpus.documents) if corpus.documents else 0
    unique = card.scores["uniqueness"] * (WHOLE - copies) // WHOLE * (WHOLE - repeated) // WHOLE
    card.score(
        "uniqueness", unique,
        f"{corpus.near} of {corpus.documents} documents are near copies of others; {repeated // 100} % of "
        "the text stands in repeated lines",
        "keep one of each document and drop what repeats on every page",
    )  # fmt: skip
    _score_words(card, style, corpus.documents)
    seen = share(corpus.seen, corpus.documents) if corpus.documents else 0
    files.score_novelty(card, seen, "documents")
    read = sum(part.length for part in parts)
    card.useful = corpus.useful * card.counts["distinct_bytes"] // read if read else 0
    card.useful = (
        card.useful * card.scores.get("vocabulary", WHOLE) // WHOLE * card.scores["novelty"] // WHOLE
    )
    card.sketches = tuple(sorted(set(corpus.sketches)))
    return parts


def _score_words(card: Card, style: Style, documents: int) -> None:
    card.score(
        "form", share(documents - style.badly_formed, documents),
        f"{style.badly_formed} of {documents} documents are lists or fragments rather than sentences",
        "take out menus, tables and page furniture",
    )  # fmt: skip
    total = style.words.total()
    if total >= VOCABULARY_WORDS_MIN:
        again = sum(n for n in style.words.values() if n > 1)
        card.score(
            "vocabulary", share(again, total) * WHOLE // VOCABULARY_FULL,
            "most words occur only once, as in random or encoded data",
            "take out encoded or generated parts",
        )  # fmt: skip
