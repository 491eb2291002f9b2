#!/usr/bin/python3 -B
# SPDX-License-Identifier: MIT
"""Instructions per operation in the firmware: the heap, the classic engine, the firmware's pool and its pages, side by side.

usage: bench_efi.py [--build FOLDER] [--seconds N] [-o FILE.json]

QEMU counts instructions instead of time (-icount shift=7): each one is 128 ns of the guest's clock, so the time stamp counter
counts them, exactly and repeatably. What is shown is the median of many batches; the loop around the calls is in it.
"""

import argparse
import json
import pathlib
import re
import sys

import charts
import qemu

SHIFT = 7
INSTRUCTION_NS = 1 << SHIFT


def run(build, arguments, seconds):
    """What the program printed, from a machine that is switched on with it."""
    # QEMU hands the words after -append to the program.
    options = ["-icount", f"shift={SHIFT},sleep=off", "-kernel", str(build / "x86_64/kmalloc.efi"), "-append", arguments]
    with qemu.Machine(build / "bench-efi", options=options) as machine:
        machine.expect(r'"outcome": "[A-Z ]+", "why": "[^"]*"\s*\n\}', seconds)
        text = re.sub(r"\r", "", machine.text)
    return json.loads(text[text.index('{\n  "program"') : text.rindex("}") + 1])


def instructions(result, figure):
    """Counter units are guest nanoseconds when instructions are counted, whatever the program took the rate for."""
    return figure / INSTRUCTION_NS


def row_figures(result, row):
    figures = {}
    for cell in row["engines"]:
        figures[cell["engine"]] = cell.get("why_not") or instructions(result, cell["median"])
    return figures


def show(value):
    return f"{value:11,.1f}" if isinstance(value, float) else f"{value:>11}"


TITLES = {
    "workloads": "Workloads",
    "pairs": "A pair of alloc and free with nothing else live. The pool takes a page from the firmware and returns it, each time",
    "neighbours": "A pair between live neighbours. The pool's page stays, and the pair finds its block on the pool's own lists",
}


def print_tables(result):
    engines = [cell["engine"] for cell in result["rows"][0]["engines"]]
    part = None
    for row in result["rows"]:
        if row["part"] != part:
            part = row["part"]
            print(f"\n{TITLES[part]}\n{'':34}" + "".join(f"{engine:>11}" for engine in engines))
        figures = row_figures(result, row)
        print(f"{row['name']:<6} {row['what']:<27}" + "".join(show(figures[engine]) for engine in engines))


def pool_regimes(result):
    """The pool's pair of 64 B in both regimes."""
    found = {row["part"]: row_figures(result, row)["pool"] for row in result["rows"] if row["name"] == "64 B"}
    return found["neighbours"], found["pairs"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"))
    parser.add_argument("--seconds", type=int, default=120, help="of the guest's clock, in which each instruction is 128 ns")
    parser.add_argument("-o", "--output", type=pathlib.Path, help="keep the figures as JSON")
    options = parser.parse_args()
    result = run(options.build.resolve(), f"bench -format json -seconds {options.seconds}", 600)
    print(f"Instructions per operation on {result['platform']} {result['architecture']}, counted by QEMU; median of many batches")
    print_tables(result)
    stays, returns = pool_regimes(result)
    if returns < 2 * stays:
        print("\nThe pool's page stayed in both cases: what the firmware itself had free there decides.")
        stays = returns = None
    if stays is not None:
        print(f"\nThe pool's pair of 64 B costs {stays:,.0f} instructions while its page stays with the pool, and {returns:,.0f} when each\n"
              "pair takes a page from the firmware and gives it back.")  # fmt: skip
    if options.output:
        options.output.write_text(json.dumps(result, indent=1))
        chart = options.output.with_suffix(".svg")
        charts.firmware(chart, *({row["size"]: row_figures(result, row) for row in result["rows"] if row["part"] == part}
                                 for part in ("pairs", "neighbours")))  # fmt: skip
        print(f"\nThe chart is in {chart}.")
    sys.exit(0 if result["outcome"] == "PASS" else 1)


if __name__ == "__main__":
    main()
