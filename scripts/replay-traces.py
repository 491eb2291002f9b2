#!/usr/bin/python3 -B
# SPDX-License-Identifier: MIT
"""Replay traces of real programs and print what each costs in memory and time.

The ratio is the peak of the pages that the engine held, divided by the peak of the live bytes, each object rounded up to 16.
Its geometric means are those of the heaps above 256 KiB, and of those of 16 to 256 KiB (of live bytes, rounded).
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys

import charts

LARGE, SMALL = 256 << 10, 16 << 10
# Of footprint to rounded live bytes: the mean of the large heaps, and each of the small ones. What must be held, and the goal.
TARGET_LARGE, GOAL_LARGE = 1.15, 1.08
TARGET_SMALL, GOAL_SMALL = 1.5, 1.25


def replay(program, trace, engine, heap):
    command = [program, "replay", trace, "-engine", engine, "-format", "json", "-heap", heap]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    try:
        return json.loads(result.stdout)
    except json.JSONDecodeError:
        return {"outcome": f"ended with {result.returncode}", "failure": (result.stdout + result.stderr).strip(), "program": "?"}


def size(number):
    return f"{number / 1024:,.0f} KiB" if number < 10 << 20 else f"{number / (1 << 20):,.1f} MiB"


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else 0


def ratios_of(results):
    """Each trace's ratio, the largest first."""
    return dict(sorted(((r["name"], r["footprint_permille"] / 1000) for r in results), key=lambda pair: -pair[1]))


def large_lines(results):
    ratios = ratios_of(results)
    if not ratios:
        return ["Heaps above 256 KiB: no traces"]
    mean, worst = geometric_mean(list(ratios.values())), next(iter(ratios))
    return [f"Heaps above 256 KiB: geometric mean {mean:.3f} of {len(ratios)} traces (target {TARGET_LARGE}, goal {GOAL_LARGE}); "
            f"worst {ratios[worst]:.3f} ({worst})"]  # fmt: skip


def small_lines(results):
    ratios = ratios_of(results)
    if not ratios:
        return ["Heaps of 16 to 256 KiB: no traces"]
    above = [name for name, ratio in ratios.items() if ratio > TARGET_SMALL]
    lines = [f"Heaps of 16 to 256 KiB: geometric mean {geometric_mean(list(ratios.values())):.3f} of {len(ratios)} traces; "
             f"{len(ratios) - len(above)} of them within the target of {TARGET_SMALL} for each (goal {GOAL_SMALL})"]  # fmt: skip
    return lines + [f"  {name} {ratio:.3f}{'  above the target' if name in above else ''}" for name, ratio in ratios.items()]


def print_table(results):
    print(f"{'trace':<18} {'objects':>10} {'peak live':>10} {'rounded':>10} {'footprint':>10} {'ratio':>7} {'ns/op':>8}")
    for r in sorted(results, key=lambda r: r.get("peak_rounded_bytes", 0)):
        if r["outcome"] != "PASS":
            print(f"{r['name']:<18} {r['outcome']}: {r['failure']}")
            continue
        known = r["footprint_permille"] is not None
        print(f"{r['name']:<18} {r['objects']:>10,} {size(r['peak_live_bytes']):>10} {size(r['peak_rounded_bytes']):>10} "
              f"{size(r['peak_footprint_bytes']) if known else '-':>10} "
              f"{r['footprint_permille'] / 1000 if known else math.nan:>7.3f} {r['picoseconds_per_operation'] / 1000:>8.1f}")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", nargs="*", type=pathlib.Path, help="files or folders; without any, esp/traces and build/traces")
    parser.add_argument("--program", default="build/linux/kmalloc", help="the command to replay with (build/linux/kmalloc)")
    parser.add_argument("--engine", default="heap", help="heap, classic or libc (heap)")
    parser.add_argument("--heap", default="2G", help="the most memory that the engine may take (2G)")
    parser.add_argument("--json", type=pathlib.Path, help="write the results there, too")
    parser.add_argument("--chart", type=pathlib.Path, help="draw the ratios into this SVG file")
    options = parser.parse_args()
    places = [place for place in options.traces or [pathlib.Path("esp/traces"), pathlib.Path("build/traces")] if place.exists()]
    files = {}
    for place in places:
        for file in sorted(place.glob("*.trace")) if place.is_dir() else [place]:
            files.setdefault(file.stem, file)
    if not files:
        sys.exit("replay-traces: there are no traces; `make traces` records them")
    results = [dict(replay(options.program, file, options.engine, options.heap), name=name) for name, file in files.items()]
    print_table(results)
    known = [r for r in results if r["outcome"] == "PASS" and r["footprint_permille"] is not None]
    print()
    print("\n".join(large_lines([r for r in known if r["peak_rounded_bytes"] > LARGE])))
    print("\n".join(small_lines([r for r in known if SMALL <= r["peak_rounded_bytes"] <= LARGE])))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if options.chart and known:
        options.chart.parent.mkdir(parents=True, exist_ok=True)
        charts.footprints(options.chart, known)
        print(f"The chart is in {options.chart}.")
    failed = [r["name"] for r in results if r["outcome"] != "PASS"]
    if failed:
        sys.exit(f"replay-traces: {len(failed)} of {len(results)} traces did not pass: {', '.join(failed)}")


if __name__ == "__main__":
    main()
