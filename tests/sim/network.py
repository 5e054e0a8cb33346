"""The network of a run: delay, loss, duplication, reordering, one-way cuts; calm after `gst_ms`."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Weather:
    """Milliseconds and probabilities. Delays are drawn per frame, so frames overtake each other."""

    delay_ms: tuple[int, int] = (1, 8)
    slow: float = 0.0
    """Share of frames that take up to `slow_ms`."""
    slow_ms: int = 1500
    loss: float = 0.0
    twice: float = 0.0


class Network:
    def __init__(self, rng: random.Random, storm: Weather, calm: Weather, gst_ms: int) -> None:
        self.rng, self.storm, self.calm, self.gst_ms = rng, storm, calm, gst_ms
        self.cuts: set[tuple[int, int]] = set()
        """(from, to) by index: lost. One way at a time, so links may be asymmetric."""
        self.held: set[int] = set()
        """Senders whose frames wait until the storm is over: the worst a network may do."""

    def arrivals(self, now: int, a: int, b: int) -> list[int]:
        """When a frame sent now from `a` to `b` arrives; empty if never."""
        rng = self.rng
        if now >= self.gst_ms:
            weather = self.calm
        else:
            if (a, b) in self.cuts:
                return []
            if a in self.held:
                return [self.gst_ms + rng.randint(1, 40)]
            weather = self.storm
        if weather.loss and rng.random() < weather.loss:
            return []
        low, high = weather.delay_ms
        times = [now + low + int(rng.random() * (high - low))]
        if weather.slow and rng.random() < weather.slow:
            times[0] += int(rng.random() * weather.slow_ms)
        if weather.twice and rng.random() < weather.twice:
            times.append(times[0] + rng.randint(0, 200))
        return times
