"""Beginnings of files kept in memory while they are taken in: of those that assessors look at first.

They are the largest, whose first bytes tell what an asset is, and those with the smallest content ids, from
which samples are drawn. To read them back means to unseal and unpack a whole chunk for each. A guess for the
sake of speed: what is not here is read from its chunks.
"""

from __future__ import annotations

import heapq
from bisect import insort

HEAD_BYTES = 16 * 1024
"""Kept of a file: the window of a sample (assess.sample.WINDOW); most small files are here whole."""
SAMPLED_BYTES = 2 * 1024 * 1024
SAMPLED_FILES = 500
"""What the greatest budget of an assessor reaches to."""
SNIFFED_FILES = 32
SNIFFED_BYTES = 512
"""What the detection of categories reads."""


class Heads:
    """Offer it every file's beginning; it keeps what is worth it. At most some 2.5 MiB."""

    def __init__(self) -> None:
        self.limit = b"\xff" * 33
        """Files with a content id from here on are no longer wanted for the sample..."""
        self.least = 0
        """... and those of this size or less no longer as the largest."""
        self._sampled: dict[bytes, bytes] = {}
        self._order: list[bytes] = []
        self._bytes = 0
        self._largest: list[tuple[int, bytes, bytes]] = []

    def offer(self, content: bytes, size: int, head: bytes) -> None:
        """`content`: the file's id among assessors (`manifest.content_id`); `head`: its first HEAD_BYTES."""
        if size > self.least:
            heapq.heappush(self._largest, (size, content, head[:SNIFFED_BYTES]))
            if len(self._largest) > SNIFFED_FILES:
                heapq.heappop(self._largest)
                self.least = self._largest[0][0]
        if content >= self.limit or content in self._sampled:
            return
        insort(self._order, content)
        self._sampled[content] = head
        self._bytes += len(head)
        while len(self._order) > SAMPLED_FILES or self._bytes > SAMPLED_BYTES + HEAD_BYTES:
            self.limit = self._order.pop()
            self._bytes -= len(self._sampled.pop(self.limit))

    def all(self) -> dict[bytes, bytes]:
        """Content id -> the beginning of such a file, or all of it."""
        return {content: head for _, content, head in self._largest} | self._sampled
