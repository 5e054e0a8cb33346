"""What files are, by their names and first bytes: the category of an asset, and files that are cut short."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from heapq import nlargest, nsmallest

from idao.assess.report import AssessFile, lots
from idao.assess.sample import Part

SNIFFED_MAX = 32
"""Files whose first bytes are read when their names tell nothing, or more than one thing."""
SNIFF = 512
"""Bytes read of each: magic numbers and the first lines."""
ENDS_MAX = 1_024
"""Endings of names that are kept in mind while a category is detected."""
MOST = 5_000
"""bp of the bytes that one category must exceed; else 'generic'."""

_ENDINGS = {
    "tabular": "csv tsv tab psv parquet arrow feather orc xlsx xls ods sqlite db avro",
    "text": "txt md rst html htm xml tex epub pdf doc docx odt srt log",
    "code": "py js ts tsx jsx c h cc cpp hpp rs go java kt rb php sh swift scala r jl lua cs sql css ipynb",
    "image": "png jpg jpeg gif bmp tif tiff webp heic avif ppm pgm svg",
    "audio": "wav mp3 flac ogg opus m4a aac aiff",
    "video": "mp4 mkv mov avi webm mpg mpeg",
    "medical": "dcm nii mha mhd nrrd edf hl7",
    "driving": "bag mcap pcd las laz",
    "model": "onnx gguf safetensors pt pth h5 tflite pkl joblib",
}
_CATEGORY_OF = {ending.encode(): name for name, words in _ENDINGS.items() for ending in words.split()}
_UNSURE = (b"jsonl", b"ndjson")
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image"), (b"\xff\xd8\xff", "image"), (b"GIF8", "image"), (b"BM", "image"),
    (b"PAR1", "tabular"), (b"ARROW1", "tabular"), (b"SQLite format 3\0", "tabular"), (b"%PDF-", "text"),
    (b"GGUF", "model"), (b"fLaC", "audio"), (b"OggS", "audio"), (b"ID3", "audio"),
    (b"\x1aE\xdf\xa3", "video"),
)  # fmt: skip
_LONG_TEXT = 80
"""Mean bytes of a value of JSON Lines from which they are texts rather than rows."""
_WHOLE = {
    b"png": ((b"\x89PNG\r\n\x1a\n",), b"IEND"),
    b"jpg": ((b"\xff\xd8\xff",), b"\xff\xd9"),
    b"jpeg": ((b"\xff\xd8\xff",), b"\xff\xd9"),
    b"gif": ((b"GIF87a", b"GIF89a"), b";"),
    b"pdf": ((b"%PDF-",), b"%%EOF"),
    b"parquet": ((b"PAR1",), b"PAR1"),
    b"gz": ((b"\x1f\x8b",), b""),
    b"zip": ((b"PK\x03\x04", b"PK\x05\x06"), b""),
    b"xlsx": ((b"PK\x03\x04",), b""),
    b"docx": ((b"PK\x03\x04",), b""),
    b"gguf": ((b"GGUF",), b""),
    b"wav": ((b"RIFF", b"RF64"), b""),
    b"flac": ((b"fLaC",), b""),
}
"""Ending -> (beginnings, what stands near the end)."""
TAIL = 64
"""Bytes at the end in which a format's end mark stands."""


def ending(path: bytes) -> bytes:
    """'csv' of 'a/b.CSV'; empty without a dot. '.nii.gz' counts as 'nii'."""
    name = path.rpartition(b"/")[2].lower()
    if name.endswith(b".gz"):
        name = name[:-3] if b"." in name[:-3] else name
    return name.rpartition(b".")[2] if b"." in name else b""


class _ByEnd(dict[bytes, str]):
    """The last dot of a path and what follows -> category; of no path with a dot in its name if there is no
    dot. Empty: only the whole path tells. It learns how names are spelt."""

    def __missing__(self, end: bytes) -> str:
        dotted = end[:1] == b"."
        category = _CATEGORY_OF.get(end[1:].lower(), "generic") if dotted else "generic"
        if end.lower() == b".gz":
            category = ""
        if len(self) < ENDS_MAX:
            self[end] = category
        return category


def _categories(paths: Sequence[bytes], by_end: _ByEnd) -> list[str]:
    """What names tell: a category, or 'generic'."""
    found = [by_end[path[path.rfind(b".") :]] for path in paths]
    if "" in found:
        whole = zip(paths, found, strict=True)
        return [category or _CATEGORY_OF.get(ending(path), "generic") for path, category in whole]
    return found


def detect_category(files: Sequence[AssessFile]) -> str:
    """The category of most bytes: 'tabular', 'text', 'image', 'code', …, or 'generic' when none has most."""
    weights = defaultdict(int, generic=0)
    by_end = _ByEnd()
    largest: list[tuple[int, bytes, int]] = []
    count = 0
    for paths, sizes, _ in lots(files):
        named = _categories(paths, by_end)
        for category, size in zip(named, sizes, strict=True):
            if size:
                weights[category] += size
        unknown = [i for i, category in enumerate(named) if category == "generic" and sizes[i]]
        least = min(nlargest(SNIFFED_MAX, [sizes[i] for i in unknown]), default=0)
        largest += [(-sizes[i], paths[i], count + i) for i in unknown if sizes[i] >= least]
        largest = nsmallest(SNIFFED_MAX, largest)
        count += len(sizes)
    for _, path, i in largest:
        file = files[i]
        category = _by_bytes(file.read(0, min(SNIFF, file.size)), ending(path))
        weights["generic"] -= file.size
        weights[category] += file.size
    total = sum(weights.values())
    best = max(sorted(weights), key=lambda name: weights[name], default="generic")
    return best if total and weights[best] * 10_000 > total * MOST else "generic"


def _by_bytes(head: bytes, end: bytes) -> str:
    for magic, category in _MAGIC:
        if head.startswith(magic):
            return category
    if head[128:132] == b"DICM":
        return "medical"
    if head[:4] == b"RIFF":
        return {b"WAVE": "audio", b"WEBP": "image", b"AVI ": "video"}.get(head[8:12], "generic")
    if b"\0" in head or not head.strip():
        return "generic"
    lines = head.split(b"\n")
    if end in _UNSURE or lines[0].startswith(b'{"'):
        values = max(1, lines[0].count(b'":'))
        return "text" if len(lines[0]) // values > _LONG_TEXT else "tabular"
    if len(lines) > 2 and any(
        lines[0].count(d) and lines[0].count(d) == lines[1].count(d) for d in (b",", b"\t", b";", b"|")
    ):
        return "tabular"
    if not end:
        printable = sum(c >= 32 or c in (9, 10, 13) for c in head)
        return "text" if printable == len(head) else "generic"
    return "generic"


def damaged(part: Part) -> bool:
    """Whether a file is not what its name says, or lacks its end."""
    known = _WHOLE.get(ending(part.file.path))
    if known is None or not part.pieces:
        return False
    beginnings, end = known
    if part.file.path.lower().endswith(b".gz"):
        beginnings, end = _WHOLE[b"gz"]
    if not part.pieces[0].startswith(beginnings):
        return True
    if not end:
        return False
    at = max(0, part.file.size - TAIL)
    tail = part.pieces[0][-TAIL:] if part.whole else part.file.read(at, part.file.size - at)
    # A PDF or JPEG may carry some bytes after its end mark.
    return end not in tail
