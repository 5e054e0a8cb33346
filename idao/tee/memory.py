"""Verdicts already reached, for a process that judges the same evidence again and again."""

from __future__ import annotations

from idao.tee.result import AttestationResult


class Memory:
    """Keyed by everything that a verdict depends on but the time; a verdict is reused within the same day and
    its own window only. The bytes themselves are in the key, not the identity of the evidence: other bytes
    with the same signed region may carry a broken signature.
    """

    DAY_MS = 24 * 3_600_000
    ENTRIES = 1024

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, ...], AttestationResult] = {}

    def get(self, key: tuple[bytes, ...], now_ms: int) -> AttestationResult | None:
        """The verdict for `key` (hashes of evidence, policy, collateral, binding) at this time, if known."""
        result = self._known.get((*key, str(now_ms // self.DAY_MS).encode()))
        if result is None or now_ms < result.not_before_ms:
            return None
        return result if result.not_after_ms is None or now_ms <= result.not_after_ms else None

    def put(self, key: tuple[bytes, ...], now_ms: int, result: AttestationResult) -> None:
        """Keeps an accepted verdict; a refusal may be cured by time and is judged anew."""
        if result.accepted:
            while len(self._known) >= self.ENTRIES:
                self._known.pop(next(iter(self._known)), None)
            self._known[(*key, str(now_ms // self.DAY_MS).encode())] = result
