"""How the cost of contribute, audit and proofs grows with size: draws docs/growth.svg.

    python tests/bench/plot_growth.py [--out docs/growth.svg] [--small]

Each point is processor time (user and system, all processes), divided by the time a bare signature check
takes in the same run, so that figures of two machines can be compared. The proofs' sizes double from mark to
mark. `--small` takes an eighth of every size.
"""

from __future__ import annotations

import argparse
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench_audit import bare, fill
from bench_contribute import STORE

from idao.store.audit import audit
from idao.store.ledger import LedgerStore

MIB = 1 << 20
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 340, 220, 58, 42, 30
Points = list[tuple[float, float]]


def spent(work: Callable[[], object]) -> float:
    """Processor seconds of this process and of those it waited for."""

    def now() -> float:
        mine, others = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return mine.ru_utime + mine.ru_stime + others.ru_utime + others.ru_stime

    begun = now()
    work()
    return now() - begun


def files(folder: Path, count: int, size: int) -> Path:
    """`count` files of about `size` bytes, half of them text; the same each time."""
    chance = random.Random(count)
    for n in range(count):
        out = folder / f"{n // 1000}" / f"{n}"
        out.parent.mkdir(parents=True, exist_ok=True)
        some = chance.randbytes(max(1, size // 64))
        out.write_bytes(chance.randbytes(size) if n % 2 else some.hex().encode() * 32)
    return folder


def contribute(folder: Path, count: int, size: int) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        data = files(Path(inner, "data"), count, size)
        return spent(
            lambda: subprocess.run([sys.executable, "-c", STORE, f"{inner}/store", str(data)], check=True)
        )


def ledgers(folder: Path, sizes: list[int]) -> tuple[Points, Points]:
    """(audit of so many receipts, one proof out of a log of so many leaves)."""
    audits, proofs = [], []
    for size in sizes:
        path, _ = fill(folder / str(size), size, 100)
        audits.append((size, spent(lambda: audit(path))))  # noqa: B023
        store = LedgerStore.open(path, readonly=True)
        leaves, chance = store.tip().frontier.size, random.Random(1)
        begun = time.process_time()
        for _ in range(200):
            store.log_path(chance.randrange(leaves), leaves)
        proofs.append((leaves, (time.process_time() - begun) / 200))
        store.close()
    return audits, proofs


def panel(index: int, title: str, unit: str, points: Points, *, doubling: bool) -> list[str]:
    x0, y0 = (index % 2) * WIDTH, (index // 2) * HEIGHT
    least = points[0][0] / 2
    right, top = max(x for x, _ in points), max(y for _, y in points) * 1.08

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = WIDTH - LEFT - 20, HEIGHT - TOP - BOTTOM
        part = math.log2(max(x, least) / least) / math.log2(right / least) if doubling else x / right
        return x0 + LEFT + part * across, y0 + HEIGHT - BOTTOM - y / top * up

    out = [f'<text x="{x0 + LEFT}" y="{y0 + 18}" font-weight="bold">{title}</text>']
    (ax, ay), (bx, by) = place(0, 0), place(right, top)
    out.append(f'<path d="M{ax:.1f} {by:.1f}V{ay:.1f}H{bx:.1f}" fill="none" stroke="#888"/>')
    spots = [place(x, y) for x, y in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    out.append(f'<polyline points="{line}" fill="none" stroke="#06c" stroke-width="1.5"/>')
    for (px, py), (x, _) in zip(spots, points, strict=True):
        out.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="#06c"/>')
        if doubling or x * 5 > right:
            out.append(f'<text x="{px:.1f}" y="{ay + 14:.1f}" text-anchor="middle">{x:,.0f}</text>')
    for part in (0.5, 1):
        _, py = place(0, top / 1.08 * part)
        shown = f"{top / 1.08 * part:,.0f}" if top > 20 else f"{top / 1.08 * part:.1f}"
        out.append(f'<text x="{ax - 5:.1f}" y="{py + 4:.1f}" text-anchor="end">{shown}</text>')
    out.append(f'<text x="{(ax + bx) / 2:.1f}" y="{ay + 30:.1f}" text-anchor="middle">{unit}</text>')
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="docs/growth.svg")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    scale = 8 if options.small else 1
    with tempfile.TemporaryDirectory() as name:
        folder, check = Path(name), bare(4000) / 4000
        audits, proofs = ledgers(folder, [n // scale for n in (2000, 4000, 8000, 16000, 32000)])
        panels = [
            ("contribute, by bytes", "MiB in files of 1 MiB", [
                (n // scale, contribute(folder, n // scale, MIB)) for n in (64, 128, 256, 512)
            ]),
            ("contribute, by files", "files of 4 KiB", [
                (n // scale, contribute(folder, n // scale, 4096)) for n in (2500, 5000, 10000, 20000)
            ]),
            ("audit, by receipts", "receipts, 100 a block", audits),
            ("a proof out of the log", "leaves of the log", proofs),
        ]  # fmt: skip
    lines = []
    for index, (title, unit, points) in enumerate(panels):
        relative = [(x, y / check) for x, y in points]
        for x, y in relative:
            print(f"{title:<24} {x:>8,.0f} {y:>12,.1f} x a signature check")
        lines += panel(index, title, unit, relative, doubling=title.startswith("a proof"))
    size = f'width="{2 * WIDTH}" height="{2 * HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
    Path(options.out).write_text("\n".join([head, *lines, "</svg>"]) + "\n")


if __name__ == "__main__":
    main()
