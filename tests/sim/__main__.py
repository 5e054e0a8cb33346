"""Runs seeds, or replays one with its story."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from .scenario import KINDS
from .world import World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay one seed and tell its story")
    parser.add_argument("--seeds", default="0:1000", help="from:to")
    parser.add_argument("--kind", default="any", choices=sorted(KINDS))
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    plan_of = KINDS[args.kind]
    if args.seed is not None:
        plan = plan_of(args.seed)
        print(plan)
        report = World(plan, trace=None if args.quiet else print).run()
        print(f"audit {report.audit} heights {report.heights} events {report.events} ms {report.now_ms}")
        print(f"views {report.views} accused {sorted(report.accused)} forks {report.forks}")
        return 0
    first, last = map(int, args.seeds.split(":"))
    started, heights, events, forks, accused, views = time.monotonic(), 0, 0, 0, 0, 0
    for seed in range(first, last):
        try:
            report = World(plan_of(seed)).run()
        except Exception:
            traceback.print_exc()
            print(f"replay: python -m tests.sim --kind {args.kind} --seed {seed}", file=sys.stderr)
            return 1
        heights, events, forks = heights + report.heights, events + report.events, forks + report.forks
        accused, views = accused + len(report.accused), max(views, report.views)
    took = time.monotonic() - started
    print(
        f"{last - first} seeds, {heights} heights, {events} events, {forks} forks, {accused} liars named, "
        f"highest view {views}, {took:.1f} s, {(last - first) / took:.0f} seeds/s: no violation"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
