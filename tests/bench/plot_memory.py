"""The memory of each node of a quorum over many transactions: draws docs/memory.svg.

    python tests/bench/plot_memory.py [--txs 1000000] [--nodes 4] [--out docs/memory.svg]

The nodes of `bench_quorum.py` decide `--txs` transactions in rounds; after each the driver reads what every
process holds (resident set). Beside it the rate of each round and the bytes on disk, which do grow.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from bench_quorum import Quorum

ROUND = 20_000
"""Transactions between two samples: each node signs its part of them before the round, and holds them."""
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 260, 50, 42, 30
COLOURS = ("#06c", "#c60", "#093", "#909", "#066", "#960", "#333")

Sample = tuple[int, list[float]]
"""Transactions so far, MiB of each node."""


def measure(n: int, txs: int) -> list[Sample]:
    samples = []
    with tempfile.TemporaryDirectory(prefix="idao-memory-") as place:
        quorum = Quorum(Path(place), n)
        try:
            while min(quorum.all("linked")) < n - 1:
                time.sleep(0.1)
            done = 0
            while done < txs:
                quorum.all("sign", count=ROUND // n)
                begun = time.perf_counter()
                quorum.all("load")
                took = time.perf_counter() - begun
                states = quorum.all("state")
                done = states[0]["committed"]
                samples.append((done, [s["rss_mib"] for s in states]))
                print(
                    f"{done:>9,} txs, {states[0]['height']} blocks: "
                    f"{' '.join(f'{s:.0f}' for s in samples[-1][1])} MiB; "
                    f"{ROUND / took:.0f} a second; {states[0]['disk'] / done:.0f} bytes a tx on disk",
                    flush=True,
                )
        finally:
            quorum.end()
    return samples


def draw(samples: list[Sample]) -> str:
    right, top = samples[-1][0], max(max(mib) for _, mib in samples) * 1.15

    def place(txs: float, mib: float) -> str:
        x = LEFT + txs / right * (WIDTH - LEFT - 20)
        return f"{x:.1f},{HEIGHT - BOTTOM - mib / top * (HEIGHT - TOP - BOTTOM):.1f}"

    floor, edge = HEIGHT - BOTTOM, WIDTH - 20
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif"'
        ' font-size="11">',
        f'<text x="{LEFT}" y="18" font-weight="bold">resident memory of each node, MiB</text>',
        f'<path d="M{LEFT} {TOP}V{floor}H{edge}" fill="none" stroke="#888"/>',
    ]
    for node in range(len(samples[0][1])):
        line = " ".join(place(txs, mib[node]) for txs, mib in samples)
        colour = COLOURS[node % len(COLOURS)]
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.2"/>')
    for part in (0.25, 0.5, 0.75, 1):
        x, y = place(right * part, 0).split(",")
        out.append(f'<text x="{x}" y="{float(y) + 14:.1f}" text-anchor="middle">{right * part:,.0f}</text>')
    for mib in range(50, int(top), 50):
        x, y = place(0, mib).split(",")
        out.append(f'<text x="{float(x) - 5:.1f}" y="{float(y) + 4:.1f}" text-anchor="end">{mib}</text>')
    middle = (LEFT + edge) / 2
    out.append(f'<text x="{middle:.0f}" y="{HEIGHT - 10}" text-anchor="middle">transactions</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--txs", type=int, default=1_000_000)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--out", default="docs/memory.svg")
    given = parser.parse_args()
    Path(given.out).write_text(draw(measure(given.nodes, given.txs)))


if __name__ == "__main__":
    main()
