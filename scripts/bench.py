#!/usr/bin/python3 -B
# SPDX-License-Identifier: MIT
"""The heap measured on Linux, and beside other allocators.

usage: bench.py [--build FOLDER] [--json FILE] [PART ...]

Parts (all when none is named):
  instructions  instructions inside the heap per operation, by callgrind; the worst call; fit and density
  programs      the same workloads under LD_PRELOAD in allocators of Debian's packages: time and peak resident memory
  charts        both as SVG files
--gate compares the instructions of a, A and c with scripts/bench/instructions.txt and fails when one rises by more than 3 %.
--golden writes that file.
"""

import argparse
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "scripts/bench/instructions.txt"
WORKLOADS = ("a", "A", "b", "c", "d1", "d2", "e", "f", "g")
WRAPPERS = ("call_alloc", "call_release", "call_resize")
# What copies bytes inside realloc: the program would copy them too, so they are told apart.
COPIERS = {"app/heap/bits.h": ("copy_words",)}
# The least of each column over twenty known allocators, none of which has more than a few of them.
TO_BEAT = {"a": 39, "A": 39, "b": 53, "c": 36, "d1": 37, "d2": 120, "e": 32, "f": 46, "g": 25, "worst": 107, "fit b": 1.06, "fit c": 1.17}
GATE_PERCENT = 3


def run(*command, environment=None, timeout=600):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=timeout, env=environment, check=False)
    if result.returncode != 0:
        sys.exit(f"bench: `{' '.join(map(str, command))}` ended with {result.returncode}: {result.stderr.strip()[-400:]}")
    return result.stdout


# -- instructions ----------------------------------------------------------------------------------------------------


def lines_of(path, names):
    """The lines that the named functions of a C source take."""
    lines, found = (ROOT / path).read_text().splitlines(), set()
    for number, line in enumerate(lines, 1):
        if any(re.search(rf"\b{name}\(", line) for name in names) and not line.startswith(("\t", " ")) and ";" not in line:
            end = next(i for i in range(number, len(lines)) if lines[i].startswith("}"))
            found.update(range(number, end + 2))
    return found


class Profile:
    """One callgrind dump: the total, and what it is made of."""

    def __init__(self, text, copies):
        self.total, self.wrappers, self.copied = 0, 0, 0
        self.inclusive = dict.fromkeys(WRAPPERS, 0)
        names, file, function, line, is_call = {}, "", "", 0, False

        def name(value):
            number, _, rest = value.partition(" ")
            if rest:
                names[value[0:1] + number] = rest
            return names.get(value[0:1] + number, "")

        files = {}

        def file_name(value):
            number, _, rest = value.partition(" ")
            if rest:
                files[number] = rest
            return files.get(number, "")

        for row in text.splitlines():
            kind, _, value = row.partition("=")
            if kind in ("fl", "fi", "fe"):
                file = file_name(value)
            elif kind in ("cfi", "cfl"):
                file_name(value)
            elif kind == "fn":
                function = name(value)
            elif kind == "cfn":
                name(value)
            elif kind == "calls":
                is_call = True
            elif match := re.match(r"([+*-]?)(\d*) (\d+)$", row):
                sign, digits, cost = match.groups()
                line = line if sign == "*" else line + int(digits) * (1 if sign == "+" else -1) if sign else int(digits)
                self.add(function, file, line, int(cost), is_call, copies)
                is_call = False

    def add(self, function, file, line, cost, is_call, copies):
        if is_call:
            if function in WRAPPERS:
                self.inclusive[function] += cost
            return
        self.total += cost
        if function in WRAPPERS:
            self.wrappers += cost
        elif any(file.endswith(path) and line in lines for path, lines in copies.items()):
            self.copied += cost


def count(build, workload):
    """Instructions per operation: in all, of alloc, of free and of realloc; copying apart."""
    folder = build / "bench/callgrind"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    toggles = [f"--toggle-collect={name}" for name in (*WRAPPERS, "page_get", "page_put")]
    operations = int(run("valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", "--collect-atstart=no", *toggles,
                         build / "bench/count", workload))  # fmt: skip
    copies = {path: lines_of(path, names) for path, names in COPIERS.items()}
    # The dump that was asked for; a later one holds what came after the counted steps.
    profile = Profile((folder / "out.1").read_text(), copies)
    each = {name: cost / operations for name, cost in profile.inclusive.items()}
    # Two ways to the same sum: what lies below the three calls, and all lines but their own.
    if abs(sum(profile.inclusive.values()) - (profile.total - profile.wrappers)) > profile.total / 1000:
        sys.exit(f"bench: callgrind's dump of {workload} does not add up: {profile.inclusive} and {profile.total - profile.wrappers}")
    return {"total": (profile.total - profile.wrappers - profile.copied) / operations, "copied": profile.copied / operations,
            "alloc": each["call_alloc"], "free": each["call_release"], "realloc": each["call_resize"] - profile.copied / operations}  # fmt: skip


def gate_figures(build):
    """What the gate looks at. With 10,000 objects live every pair of A takes the fast path: its two halves are that path's length."""
    figures = {name: count(build, name) for name in ("a", "A", "c")}
    return {"a": figures["a"]["total"], "A": figures["A"]["total"], "c": figures["c"]["total"],
            "A-alloc": figures["A"]["alloc"], "A-free": figures["A"]["free"]}  # fmt: skip


def write_golden(build):
    figures = gate_figures(build)
    head = ("# Instructions inside the heap per operation (gcc -O2, release build, by callgrind): the gate of `make test`.\n"
            "# A-alloc and A-free are the two halves of a pair among 10,000 live objects: the fast path's length.\n"
            "# Written by `make bench-golden`; look at the difference before you commit it.\n")  # fmt: skip
    GOLDEN.write_text(head + "".join(f"{name} {value:.1f}\n" for name, value in figures.items()))
    print(GOLDEN.read_text(), end="")


def gate(build):
    """Lines that say old and new, and whether all is well."""
    old = dict(line.split() for line in GOLDEN.read_text().splitlines() if not line.startswith("#"))
    new = gate_figures(build)
    lines, is_well = [], True
    for name, value in new.items():
        rise = (value / float(old[name]) - 1) * 100
        is_well = is_well and rise <= GATE_PERCENT
        lines.append(f"{name}: {float(old[name]):.1f} -> {value:.1f} ({rise:+.1f} %)")
    return lines, is_well


def instructions(build):
    result = {name: count(build, name) for name in WORKLOADS}
    table = {name: result[name]["total"] for name in WORKLOADS}
    print("Instructions inside the heap per operation, by callgrind: release build, gcc -O2, called directly; page source and\n"
          "copied bytes apart\n")  # fmt: skip
    print(f"{'':10}{'total':>10}{'alloc':>10}{'free':>10}{'realloc':>10}{'copying':>10}")
    for name in WORKLOADS:
        row = result[name]
        print(f"{name:<10}{row['total']:10.1f}{row['alloc']:10.1f}{row['free']:10.1f}{row['realloc']:10.1f}{row['copied']:10.1f}")
    table["worst"], worst = worst_call(build)
    for workload in ("b", "c"):
        table[f"fit {workload}"] = float(run(build / "bench/count", "fit", workload))
    print(f"\nWorst call found ({worst})")
    print("\n" + " " * 12 + "".join(f"{name:>8}" for name in TO_BEAT))
    print(f"{'to beat':<12}" + "".join(f"{value:8}" for value in TO_BEAT.values()))
    print(f"{'kmalloc':<12}" + "".join(f"{table[name]:8.2f}" if "fit" in name else f"{table[name]:8.0f}" for name in TO_BEAT))
    density = {size: float(run(build / "bench/count", "density", size)) for size in (16, 24, 64, 100, 200, 500, 1000, 4096)}
    print("\nBytes of a 1 MiB arena for each object of so many bytes: " + ", ".join(f"{s}: {d:.1f}" for s, d in density.items()))
    return {"instructions": result, "table": table, "density": density}


def worst_call(build):
    """The most instructions that one call of b or c takes, and where that was found."""
    found = {}
    for workload in ("b", "c"):
        for line in run(build / "bench/worst", workload).splitlines():
            kind, instructions_found = line.split()
            found[f"{workload} {kind}"] = int(instructions_found)
    return max(found.values()), ", ".join(f"{name} {value}" for name, value in found.items())


# -- programs --------------------------------------------------------------------------------------------------------

LIBRARIES = "/usr/lib/x86_64-linux-gnu"
ROUNDS = 9


def allocators(build):
    """Name and library of each allocator that is installed."""
    every = {
        "kmalloc": build / "linux/libkmalloc.so",
        "glibc": None,
        "jemalloc": f"{LIBRARIES}/libjemalloc.so.2",
        "mimalloc": f"{LIBRARIES}/libmimalloc.so.2",
        "tcmalloc": f"{LIBRARIES}/libtcmalloc_minimal.so.4",
        "tbbmalloc": f"{LIBRARIES}/libtbbmalloc_proxy.so.2",
    }
    there = {name: path for name, path in every.items() if path is None or pathlib.Path(path).exists()}
    for name in every.keys() - there.keys():
        print(f"bench: {name} is left out, because {every[name]} is not there (make setup installs it)")
    return there


def programs(build):
    """Best time and peak resident memory of each workload under each allocator, all of them in turn."""
    libraries = allocators(build)
    times = {name: {w: [] for w in WORKLOADS} for name in libraries}
    peaks = {name: {} for name in libraries}
    for _ in range(ROUNDS):
        for workload in WORKLOADS:
            for name, library in libraries.items():
                environment = {"PATH": "/usr/bin:/bin", **({"LD_PRELOAD": str(library)} if library else {})}
                ns, kib = run(build / "bench/time", workload, environment=environment).split()
                times[name][workload].append(float(ns))
                peaks[name][workload] = int(kib)
    best = {name: {w: min(values) for w, values in by.items()} for name, by in times.items()}
    base = "kmalloc" if "kmalloc" in best else "glibc"
    print_ratios(f"\nTime through LD_PRELOAD: best of {ROUNDS} runs in turn, ns per operation, and times that of {base}", best, base, "{:.1f}")
    print_ratios(f"\nPeak resident memory: KiB, and times that of {base}", peaks, base, "{:.0f}")
    return {"time_ns": best, "peak_kib": peaks}


def print_ratios(title, figures, base, form):
    print(f"{title}\n{'':10}" + "".join(f"{w:>15}" for w in WORKLOADS) + f"{'mean ratio':>12}")
    for name, by in figures.items():
        ratios = [by[w] / figures[base][w] for w in WORKLOADS]
        cells = "".join(f"{form.format(by[w]):>9} {ratio:5.2f}" for w, ratio in zip(WORKLOADS, ratios))
        print(f"{name:<10}{cells}{statistics.geometric_mean(ratios):12.2f}")


# -- charts ----------------------------------------------------------------------------------------------------------


def chart(path, title, label, groups, series, log=False):
    """Bars, a group for each workload and a colour for each series, drawn by gnuplot."""
    data = path.with_suffix(".dat")
    names = list(series)
    data.write_text("\n".join([" ".join(["-", *names])] + [" ".join([g, *(str(series[n][g]) for n in names)]) for g in groups]) + "\n")
    script = f"""
set terminal svg size 900,360 font "sans,12" background "white"
set output "{path}"
set title "{title}"
set ylabel "{label}"
set style data histograms
set style histogram clustered gap 1
set style fill solid 0.9 border -1
set boxwidth 0.9
set grid ytics
set key outside right
{"set logscale y" if log else "set yrange [0:*]"}
plot for [i=2:{len(names) + 1}] "{data}" using i:xtic(1) title columnheader(i)
"""
    subprocess.run(["gnuplot"], input=script, text=True, check=True, timeout=60)
    print(f"  {path}")


def charts(build, result):
    if not shutil.which("gnuplot"):
        sys.exit("bench: gnuplot is missing; make setup installs it")
    folder = build / "bench"
    print("\nCharts")
    if "table" in result:
        series = {"kmalloc": result["table"], "to-beat": TO_BEAT}
        chart(folder / "instructions.svg", "Instructions inside the heap per operation", "instructions", WORKLOADS, series, log=True)
    if "time_ns" in result:
        chart(folder / "time.svg", "Time per operation through LD_PRELOAD", "ns", WORKLOADS, result["time_ns"], log=True)
        chart(folder / "memory.svg", "Peak resident memory", "KiB", WORKLOADS, result["peak_kib"], log=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="instructions, programs, charts")
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"))
    parser.add_argument("--json", type=pathlib.Path, help="keep all figures in this file")
    parser.add_argument("--gate", action="store_true")
    parser.add_argument("--golden", action="store_true")
    options = parser.parse_args()
    build = options.build.resolve()
    if options.golden:
        write_golden(build)
        return
    if options.gate:
        lines, is_well = gate(build)
        print("\n".join(lines))
        sys.exit(0 if is_well else 1)
    parts = options.parts or ["instructions", "programs", "charts"]
    result = {}
    if "instructions" in parts:
        result |= instructions(build)
    if "programs" in parts:
        result |= programs(build)
    if "charts" in parts:
        charts(build, result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
