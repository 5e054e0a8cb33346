"""How soon four fresh nodes see each other by mDNS: four namespaces on one bridge, all started at once.

    python tests/bench/bench_discovery.py [--rounds 9] [--nodes 4]

Needs root. The time of a round is the slowest node's, from its start to having seen all others. A bare
zeroconf browser and announcement with probing, as its defaults are, takes more than 1 s by its own waits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import lan_world


def tell(child: subprocess.Popen[str], line: str) -> None:
    print(line, file=child.stdin, flush=True)


def hear(child: subprocess.Popen[str]) -> dict[str, float]:
    return dict(json.loads(child.stdout.readline()))  # type: ignore[union-attr]


def one_round(nodes: int) -> list[float]:
    with lan_world.lan(nodes) as lan:
        code = "import asyncio, discovery_child; asyncio.run(discovery_child.Child().run())"
        children = [lan.python(i, code) for i in range(nodes)]
        try:
            for child in children:
                hear(child)
            for child in children:
                tell(child, "go clinic")
                tell(child, f"wait {nodes - 1} 20")
            seconds = []
            for child in children:
                hear(child)
                seconds.append(hear(child)["seconds"])
            return seconds
        finally:
            for child in children:
                child.kill()
                child.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--nodes", type=int, default=4)
    options = parser.parse_args()
    if why := lan_world.available():
        sys.exit(f"no network namespaces: {why}")
    rounds = [one_round(options.nodes) for _ in range(options.rounds)]
    every = [s for one in rounds for s in one]
    slowest = [max(one) for one in rounds]
    print(f"a node sees the other {options.nodes - 1}: median {statistics.median(every):.2f} s")
    print(f"all see all:              median {statistics.median(slowest):.2f} s, worst {max(slowest):.2f} s")


if __name__ == "__main__":
    main()
