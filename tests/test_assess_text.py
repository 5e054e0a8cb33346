"""text@1 and generic@1: copies, near copies, repeated lines, noise, earlier documents."""

from __future__ import annotations

from blake3 import blake3

from idao.assess import AssessFile, Assessment, Earlier, assess
from idao.assess.text import in_common, shingles, sketch

PROSE = """
the of and to in a is that it for was on are as with they at be this from have or by one had not but
what all were when we there can an your which their said if do will each about how up out them then
she many some so these would other into has more her two like him see time could no make than first
been its who now people my made over did down only way find use may water long little very after
words called just where most know
"""
WORDS = PROSE.split()


def file(path: str, data: bytes) -> AssessFile:
    return AssessFile(path.encode(), len(data), blake3(data).digest(), lambda at, n: data[at : at + n])


def numbers(seed: int, count: int) -> list[int]:
    stream = blake3(seed.to_bytes(8, "big")).digest(length=4 * count)
    return [int.from_bytes(stream[i : i + 4], "big") for i in range(0, len(stream), 4)]


def document(seed: int, words: int = 240) -> str:
    """Sentences of twelve words; small words are frequent, as in any language."""
    found = [WORDS[min(n % len(WORDS), n // 7 % len(WORDS))] for n in numbers(seed, words)]
    lines = [" ".join(found[i : i + 12]).capitalize() + "." for i in range(0, words, 12)]
    return "\n".join(lines) + "\n"


def replaced(text: str, per_cent: int, seed: int) -> str:
    words = text.split(" ")
    dice = numbers(seed, len(words))
    return " ".join("zzz" if d % 100 < per_cent else w for w, d in zip(words, dice, strict=True))


def judge(texts: list[str], category: str = "text", earlier: Earlier | None = None) -> Assessment:
    return assess([file(f"{i}.txt", t.encode()) for i, t in enumerate(texts)], category, None, earlier)


DOCUMENTS = [document(i) for i in range(60)]
HONEST = judge(DOCUMENTS).report


def test_honest_texts_score_high() -> None:
    assert HONEST.score > 9_500 and dict(HONEST.counts)["near_duplicates"] == 0


def test_sketches_estimate_what_is_in_common() -> None:
    a, b = DOCUMENTS[0].encode(), replaced(DOCUMENTS[0], 5, 1).encode()
    left, right = shingles(a)[0], shingles(b)[0]
    exact = 10_000 * len(left & right) // len(left | right)
    assert abs(in_common(sketch(left), sketch(right)) - exact) < 2_500
    assert in_common(sketch(left), sketch(shingles(DOCUMENTS[1].encode())[0])) < 1_000


def test_near_copies_are_found_and_worth_nothing() -> None:
    half = judge(DOCUMENTS[:30]).report
    for per_cent in (1, 2, 4):
        near = [replaced(t, per_cent, 100 + i) for i, t in enumerate(DOCUMENTS[:30])]
        report = judge(DOCUMENTS[:30] + near).report
        assert dict(report.counts)["near_duplicates"] >= 27
        assert report.merit <= half.merit and report.score < half.score
    assert judge(DOCUMENTS[:30] + [t + " " for t in DOCUMENTS[:30]]).report.merit <= half.merit


def test_texts_of_earlier_assets_are_not_new() -> None:
    earlier = Earlier([judge(DOCUMENTS).fingerprint])
    for category in ("text", "generic"):
        known = judge([replaced(t, 2, i) for i, t in enumerate(DOCUMENTS)], category, earlier).report
        assert dict(known.scores)["novelty"] < 1_000
        fresh = judge([document(1_000 + i) for i in range(20)], category, earlier).report
        assert dict(fresh.scores)["novelty"] == 10_000


def test_repeated_lines_and_random_tokens_lower_the_score() -> None:
    boilerplate = "Subscribe to our newsletter to read more of this.\n" * 10
    assert dict(judge([t + boilerplate for t in DOCUMENTS]).report.scores)["uniqueness"] < 8_000
    random = [" ".join(f"{n:x}" for n in numbers(500 + i, 200)) + "." for i in range(60)]
    noise = judge(random).report
    assert dict(noise.scores)["vocabulary"] < 500 and noise.merit < HONEST.merit // 3
    lists = ["\n".join(t.replace(".", "").split()) for t in DOCUMENTS]
    assert dict(judge(lists).report.scores)["form"] == 0


def test_texts_without_spaces_are_compared_by_characters() -> None:
    def text(seed: int) -> str:
        return "".join(chr(0x4E00 + n % 2_000) for n in numbers(seed, 600))

    first = text(1)
    report = judge([first, first[:300] + "新" + first[300:], text(2)]).report
    assert dict(report.counts)["near_duplicates"] == 1


def test_lines_of_json_are_documents_in_any_order() -> None:
    lines = ['{"text": "' + t.replace("\n", " ") + '"}' for t in DOCUMENTS]
    one = assess([file("a.jsonl", "\n".join(lines).encode())], "text").report
    two = assess([file("b.jsonl", "\n".join(lines[::-1]).encode())], "text").report
    assert dict(one.counts)["documents"] == 60 and one == two


def test_generic_counts_copies_of_files() -> None:
    one = judge(DOCUMENTS[:20], "generic").report
    two = judge(DOCUMENTS[:20] * 2, "generic").report
    assert dict(two.counts)["duplicate_files"] == 20 and dict(two.scores)["uniqueness"] == 5_000
    assert two.merit <= one.merit
