"""`text@1`: documents. Copies and near copies, repeated lines, form, vocabulary.

A document's sketch is the 32 smallest hashes of its 4-word runs (bottom-k MinHash): the share of equal hashes
among the smallest of two documents together estimates how much they have in common.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from zlib import crc32

from idao.assess import files
from idao.assess.earlier import Earlier
from idao.assess.report import SKETCH_BYTES, SKETCHES_MAX, WHOLE, AssessFile, Card, Options, share
from idao.assess.sample import Part
from idao.assess.table import decode

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


@dataclass(slots=True)
class Corpus:
    """Totals over documents."""

    documents: int = 0
    near: int = 0
    seen: int = 0
    useful: int = 0
    """Distinct word runs of documents that are no copies."""
    badly_formed: int = 0
    line_bytes: int = 0
    repeated_bytes: int = 0
    words: Counter[bytes] = field(default_factory=Counter)
    sketches: list[bytes] = field(default_factory=list)


def shingles(data: bytes) -> tuple[set[int], list[bytes]]:
    """The hashes of all runs of four words (of four characters in a text without spaces), and the words."""
    words = data.lower().split()
    if words and len(data) > LONG_WORD * len(words):
        hashes = list(map(ord, data.decode("utf-8", "replace")))
    else:
        hashes = list(map(crc32, words))
    p, q, r, s = _MULTIPLIERS
    runs = zip(
        hashes, islice(hashes, 1, None), islice(hashes, 2, None), islice(hashes, 3, None), strict=False
    )
    found = {(a * p + b * q + c * r + d * s) & _MASK for a, b, c, d in runs}
    return found, words


def sketch(hashes: set[int]) -> bytes:
    """The smallest after a mix, since sums of products are not spread evenly for single characters."""
    mixed = sorted({(h ^ h >> 15) * 0x2C1B3C6D & _MASK for h in hashes})[: SKETCH_BYTES // 4]
    return b"".join(h.to_bytes(4, "big") for h in mixed)


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


def read_corpus(documents: Sequence[bytes], earlier: Earlier) -> Corpus:
    """Looks at `documents` in the order given, which must not depend on names or on the order of files."""
    corpus = Corpus()
    own, before = Sketches(), Sketches(earlier.sketches())
    lines: Counter[bytes] = Counter()
    for data in documents[:DOCUMENTS_MAX]:
        corpus.documents += 1
        hashes, words = shingles(data)
        corpus.words.update(words)
        long_lines = [ln for ln in data.split(b"\n") if len(ln) >= LINE_MIN]
        lines.update(long_lines)
        corpus.badly_formed += not _well_formed(data, len(words))
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
    corpus.line_bytes = sum(len(ln) * n for ln, n in lines.items())
    corpus.repeated_bytes = sum(len(ln) * (n - 1) for ln, n in lines.items())
    return corpus


def _well_formed(data: bytes, words: int) -> bool:
    """Whole sentences rather than lists, menus or fragments; judged from five lines on.

    The bounds are those by which FineWeb (2024) keeps a page: of the lines at least 12 % end in
    punctuation and at most 67 % are short, and there are at most 0.3 line ends a word.
    """
    lines = [ln.rstrip() for ln in data.split(b"\n") if ln.strip()]
    if len(lines) < 5:
        return True
    ended = sum(ln.endswith(_STOPS) for ln in lines)
    short = sum(len(ln) <= 30 for ln in lines)
    return ended * 100 >= 12 * len(lines) and short * 100 <= 67 * len(lines) and len(lines) * 10 <= 3 * words


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
    corpus = read_corpus(documents, earlier)
    card.counts.update(
        documents=corpus.documents, near_duplicates=corpus.near, odd_encodings=odd,
        not_text=len(parts) - len(texts), words=corpus.words.total(), badly_formed=corpus.badly_formed,
    )  # fmt: skip
    card.score(
        "readable", share(len(texts) - odd, len(parts)),
        f"{len(parts) - len(texts)} of {len(parts)} files looked at are not text and {odd} are not UTF-8",
        "convert the texts to UTF-8 and take other files out",
    )  # fmt: skip
    repeated = share(corpus.repeated_bytes, corpus.line_bytes) if corpus.line_bytes else 0
    copies = share(corpus.near, corpus.documents) if corpus.documents else 0
    unique = card.scores["uniqueness"] * (WHOLE - copies) // WHOLE * (WHOLE - repeated) // WHOLE
    card.score(
        "uniqueness", unique,
        f"{corpus.near} of {corpus.documents} documents are near copies of others; {repeated // 100} % of "
        "the text stands in repeated lines",
        "keep one of each document and drop what repeats on every page",
    )  # fmt: skip
    _score_words(card, corpus)
    seen = share(corpus.seen, corpus.documents) if corpus.documents else 0
    files.score_novelty(card, seen, "documents")
    read = sum(part.length for part in parts)
    card.useful = corpus.useful * card.counts["distinct_bytes"] // read if read else 0
    card.useful = (
        card.useful * card.scores.get("vocabulary", WHOLE) // WHOLE * card.scores["novelty"] // WHOLE
    )
    card.sketches = tuple(sorted(set(corpus.sketches)))
    return parts


def _score_words(card: Card, corpus: Corpus) -> None:
    card.score(
        "form", share(corpus.documents - corpus.badly_formed, corpus.documents),
        f"{corpus.badly_formed} of {corpus.documents} documents are lists or fragments rather than sentences",
        "take out menus, tables and page furniture",
    )  # fmt: skip
    total = corpus.words.total()
    if total >= VOCABULARY_WORDS_MIN:
        again = sum(n for n in corpus.words.values() if n > 1)
        card.score(
            "vocabulary", share(again, total) * WHOLE // VOCABULARY_FULL,
            "most words occur only once, as in random or encoded data",
            "take out encoded or generated parts",
        )  # fmt: skip
