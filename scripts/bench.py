#!/usr/bin/python3 -B
# SPDX-License-Identifier: MIT
"""The heap measured on Linux, and beside other allocators.

usage: bench.py [--build FOLDER] [--output FOLDER] [--rounds N] [PART ...]

Parts (all when none is named):
  instructions  instructions inside the heap per operation, by callgrind; the worst call; fit and density
  programs      the same workloads under LD_PRELOAD in allocators of Debian's packages: time and peak resident memory;
                then real programs, likewise
  charts        both as SVG files, and what `kmalloc frag`, `latency` and `scale` measure
All figures are kept in OUTPUT/linux.json, the charts beside it.
--gate compares the instructions of a, A and c with scripts/bench/instructions.txt and fails when one rises by more than 3 %.
--golden writes that file.
"""

import argparse
import json
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys

import charts

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "scripts/bench/instructions.txt"
# What these take hangs on the page that the heap begins with.
PLACED, PLACES = ("d1", "d2"), 8
WORKLOADS = ("a", "A", "b", "c", "d1", "d2", "e", "f", "g")
WRAPPERS = ("call_alloc", "call_release", "call_resize")
# What copies bytes inside realloc: the program would copy them too, so they are told apart.
COPIERS = {"app/heap/bits.h": ("copy_words",), "app/heap/resize.c": ("heap_copy",)}
COLUMNS = (*WORKLOADS, "worst", "fit b", "fit c")
# The least of each column over twenty known allocators, none of which has more than a few of them.
KNOWN = dict(zip(COLUMNS, (39, 39, 53, 36, 37, 120, 32, 46, 25, 107, 1.06, 1.17)))
TARGET = dict(zip(COLUMNS, (36, 36, 75, 42, 60, 160, 38, 60, 34, 400, 1.10, 1.17)))
GOAL = dict(zip(COLUMNS, (28, 28, 50, 32, 36, 110, 28, 45, 25, 200, 1.05, 1.12)))
# The worst call is looked for in smaller and larger heaps, too: objects and MiB.
OTHER_HEAPS = ((500, 1), (100000, 256))
# Pairs of alloc and free with nothing else live, of these sizes.
PAIR_SIZES = (16, 64, 300, 1000, 4096, 12000, 32768, 65536)
GATE_PERCENT = 3
CHART_SECONDS = 5


def run(*command, environment=None, folder=None, timeout=600):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=timeout, env=environment, cwd=folder,
                            check=False)  # fmt: skip
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


def count(build, workload, place=0):
    """Instructions per operation: in all, of alloc, of free and of realloc; copying apart. The heap begins `place` pages behind 2 MiB."""
    folder = build / "bench/callgrind"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    toggles = [f"--toggle-collect={name}" for name in (*WRAPPERS, "page_get", "page_put")]
    operations = int(run("valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", "--collect-atstart=no", *toggles,
                         build / "bench/count", workload, place))  # fmt: skip
    copies = {path: lines_of(path, names) for path, names in COPIERS.items()}
    # The dump that was asked for; a later one holds what came after the counted steps.
    profile = Profile((folder / "out.1").read_text(), copies)
    each = {name: cost / operations for name, cost in profile.inclusive.items()}
    # Two ways to the same sum: what lies below the three calls, and all lines but their own.
    if abs(sum(profile.inclusive.values()) - (profile.total - profile.wrappers)) > profile.total / 1000:
        sys.exit(f"bench: callgrind's dump of {workload} does not add up: {profile.inclusive} and {profile.total - profile.wrappers}")
    return {"total": (profile.total - profile.wrappers - profile.copied) / operations, "copied": profile.copied / operations,
            "alloc": each["call_alloc"], "free": each["call_release"], "realloc": each["call_resize"] - profile.copied / operations}  # fmt: skip


def count_anywhere(build, workload):
    """The mean of several places, where runs of pages that are aligned to their size lie otherwise; and least and most of the totals."""
    rows = [count(build, workload, place) for place in range(PLACES)]
    totals = [row["total"] for row in rows]
    return {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}, min(totals), max(totals)


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
    result = {name: count(build, name) for name in WORKLOADS if name not in PLACED}
    spread = {}
    for name in PLACED:
        result[name], *spread[name] = count_anywhere(build, name)
    table = {name: result[name]["total"] for name in WORKLOADS}
    print("Instructions inside the heap per operation, by callgrind: release build, gcc -O2, called directly; page source and\n"
          "copied bytes apart\n")  # fmt: skip
    print(f"{'':10}{'total':>10}{'alloc':>10}{'free':>10}{'realloc':>10}{'copying':>10}")
    for name in WORKLOADS:
        row = result[name]
        print(f"{name:<10}{row['total']:10.1f}{row['alloc']:10.1f}{row['free']:10.1f}{row['realloc']:10.1f}{row['copied']:10.1f}")
    print(f"\nMeans of {PLACES} places of the heap: " + ", ".join(f"{name} {low:.0f} to {high:.0f}" for name, (low, high) in spread.items()))
    table["worst"], worst = worst_call(build)
    others = {f"{objects:,} objects in {mib:,} MiB": worst_call(build, objects, mib) for objects, mib in OTHER_HEAPS}
    for workload in ("b", "c"):
        table[f"fit {workload}"] = float(run(build / "bench/count", "fit", workload))
    print(f"\nWorst call found, 10,000 objects in 64 MiB: {worst}", *(f"{heap}: {found}" for heap, (_, found) in others.items()), sep="\n")
    print("\n" + " " * 14 + "".join(f"{name:>8}" for name in COLUMNS))
    for title, row in (("fastest known", KNOWN), ("target", TARGET), ("goal", GOAL), ("kmalloc", table)):
        print(f"{title:<14}" + "".join(f"{row[name]:8.2f}" if "fit" in name else f"{row[name]:8.0f}" for name in COLUMNS))
    above = [name for name in COLUMNS if table[name] > TARGET[name]]
    print(f"Above the target: {', '.join(above)}" if above else "All columns are within the target.")
    density = {size: float(run(build / "bench/count", "density", size)) for size in (16, 24, 64, 100, 200, 500, 1000, 4096)}
    pairs = {size: count(build, f"pair{size}")["total"] for size in PAIR_SIZES}
    print("\nA pair of so many bytes with nothing else live: " + ", ".join(f"{size}: {total:.0f}" for size, total in pairs.items()))
    print("\nBytes of a 1 MiB arena for each object of so many bytes: " + ", ".join(f"{s}: {d:.1f}" for s, d in density.items()))
    return {"instructions": result, "table": table, "worst": {heap: most for heap, (most, _) in others.items()}, "pairs": pairs,
            "density": density}  # fmt: skip


def worst_call(build, *heap):
    """The most instructions that one call of b or c takes, and where that was found; of a heap with so many objects, so large."""
    found = {}
    for workload in ("b", "c"):
        for line in run(build / "bench/worst", workload, *heap).splitlines():
            kind, instructions_found = line.split()
            found[f"{workload} {kind}"] = int(instructions_found)
    return max(found.values()), ", ".join(f"{name} {value}" for name, value in found.items())


# -- programs --------------------------------------------------------------------------------------------------------

LIBRARIES = "/usr/lib/x86_64-linux-gnu"
ROUNDS = 15
# The comparison of time is of these workloads with the fastest of these allocators: how many times its time is the target, and the goal.
COMPARED, RIVALS, TARGET_RATIO, GOAL_RATIO = ("a", "b", "c"), ("mimalloc", "tcmalloc", "jemalloc"), 1.0, 0.85


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


def copy_libraries(libraries, folder):
    """Fresh copies, so that no library has the luck, or not, of where in memory the pages of its file are: c took 1.7 times as long then."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return {name: library and shutil.copy(library, folder / f"{name}.so") for name, library in libraries.items()}


def programs(build, n_rounds):
    """Best time and peak resident memory of each workload under each allocator, all of them in turn."""
    libraries = allocators(build)
    times = {name: {w: [] for w in WORKLOADS} for name in libraries}
    peaks = {name: {} for name in libraries}
    # What is compared most closely is run most often.
    for workloads in n_rounds * [WORKLOADS] + n_rounds * [COMPARED]:
        copies = copy_libraries(libraries, build / "bench/libraries")
        for workload in workloads:
            for name, library in copies.items():
                environment = {"PATH": "/usr/bin:/bin", **({"LD_PRELOAD": str(library)} if library else {})}
                ns, kib = run(build / "bench/time", workload, environment=environment).split()
                times[name][workload].append(float(ns))
                peaks[name][workload] = int(kib)
    best = {name: {w: min(values) for w, values in by.items()} for name, by in times.items()}
    print_ratios(f"\nTime through LD_PRELOAD: best of {n_rounds} runs in turn, ns per operation, and times that of kmalloc", best, "{:.1f}")
    print_ratios("\nPeak resident memory: KiB, and times that of kmalloc", peaks, "{:.0f}")
    print_rivals(best, [name for name in RIVALS if name in best])
    return {"time_ns": best, "peak_kib": peaks}


def print_rivals(best, rivals):
    if not rivals:
        return
    print(f"\nTime beside the fastest of {', '.join(rivals)} (at most {TARGET_RATIO:.2f} times it is the target, {GOAL_RATIO} the goal)")
    for workload in COMPARED:
        rival = min(rivals, key=lambda name: best[name][workload])
        ours, theirs = best["kmalloc"][workload], best[rival][workload]
        print(f"{workload:<10}kmalloc {ours:6.1f} ns, {rival} {theirs:6.1f} ns, ratio {ours / theirs:.2f}")


def print_ratios(title, figures, form, columns=WORKLOADS, base="kmalloc"):
    print(f"{title}\n{'':10}" + "".join(f"{c:>15}" for c in columns) + f"{'mean ratio':>12}")
    for name, by in figures.items():
        ratios = [by[c] / figures[base][c] for c in columns]
        cells = "".join(f"{form.format(by[c]):>9} {ratio:5.2f}" for c, ratio in zip(columns, ratios))
        print(f"{name:<10}{cells}{statistics.geometric_mean(ratios):12.2f}")


# Runs of each real program under each allocator, when ROUNDS are wished for: they take longer than the loops.
REAL_ROUNDS = 5
REAL_PROGRAMS = {
    "python3": ["/usr/bin/python3", "-B", "words.py"],
    "perl": ["perl", "words.pl"],
    "sqlite3": ["sqlite3", ":memory:", ".read table.sql"],
    "gcc": ["gcc", "-O1", "-S", f"-I{ROOT}/include", ROOT / "scripts/bench/work.c", "-o", "/dev/null"],
    "git": ["git", "--no-pager", "diff", "--no-index", "--stat", ROOT / "app/suite", ROOT / "app/ui"],
}
INPUTS = {
    "words.py": """import collections, json
words, lines = collections.Counter(), {}
for number, line in enumerate(open("words.txt")):
    for word in line.split():
        words[word] += 1
        lines.setdefault(word, []).append(str(number))
print(len(json.dumps({"words": words, "lines": lines}, sort_keys=True)))
""",
    "words.pl": """my (%count, %lines); open my $file, '<', 'words.txt' or die;
while (<$file>) { for my $word (split) { $count{$word}++; push @{$lines{$word}}, "$." } }
print length(join ',', map { "$_=" . join(':', @{$lines{$_}}) } sort keys %count), "\\n";
""",
    "table.sql": """create table t (id integer primary key, name text, size integer);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 30000)
insert into t select i, 'name ' || (i * 7919 % 20011), i * i % 997 from n;
create index by_name on t (name);
select size, group_concat(name, ',') from t group by size order by 1 limit 50;
""",
}


def write_inputs(folder):
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(7)
    lines = (" ".join(f"w{int(chance.random() * chance.random() * 5000)}" for _ in range(8)) for _ in range(20000))
    for name, text in {**INPUTS, "words.txt": "\n".join(lines) + "\n"}.items():
        (folder / name).write_text(text)


def real_programs(build, folder, n_rounds):
    """Best processor time and peak resident memory of real programs under each allocator, all of them in turn."""
    libraries = allocators(build)
    write_inputs(folder)
    there = {name: words for name, words in REAL_PROGRAMS.items() if shutil.which(words[0])}
    times, peaks = ({name: {} for name in libraries} for _ in range(2))
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONMALLOC": "malloc", "HOME": str(folder)}
    for _ in range(min(n_rounds, REAL_ROUNDS)):
        for program, words in there.items():
            for name, library in libraries.items():
                # git's exit status says that there are differences.
                command = ["sh", "-c", '"$@" || [ $? -eq 1 ]', "sh", *words] if program == "git" else words
                ms, kib = run(build / "bench/run", library or "-", *command, environment=environment, folder=folder).split()
                times[name][program] = min(float(ms), times[name].get(program, float(ms)))
                peaks[name][program] = min(int(kib), peaks[name].get(program, int(kib)))
    print_ratios("\nReal programs through LD_PRELOAD: processor time, ms, and times that of kmalloc", times, "{:.0f}", there)
    print_ratios("\nReal programs: peak resident memory, KiB, and times that of kmalloc", peaks, "{:.0f}", there)
    return {"real_time_ms": times, "real_peak_kib": peaks}


# -- charts ----------------------------------------------------------------------------------------------------------


def measure(build, *words):
    return json.loads(run(build / "linux/kmalloc", *words, "-format", "json"))


def ratios_to(figures, base):
    """The others' figures as times those of base."""
    return {name: {w: by[w] / figures[base][w] for w in by} for name, by in figures.items() if name != base}


def draw(build, result, folder, seconds):
    print("\nCharts")
    if "table" in result:
        series = {"kmalloc": result["table"], "target": TARGET, "fastest known": KNOWN}
        charts.bars(folder / "instructions.svg", "Instructions inside the heap per operation", "instructions", WORKLOADS, series)
    if "time_ns" in result:
        for name, key, title in (("time", "time_ns", "Time per operation through LD_PRELOAD, as times that of kmalloc"),
                                 ("memory", "peak_kib", "Peak resident memory, as times that of kmalloc")):  # fmt: skip
            charts.bars(folder / f"{name}.svg", title, "kmalloc = 1", WORKLOADS, ratios_to(result[key], "kmalloc"), 1, charts.CLIP)
    if "real_time_ms" in result:
        for name, key, title in (("real-time", "real_time_ms", "Processor time of real programs, as times that with kmalloc"),
                                 ("real-memory", "real_peak_kib", "Peak resident memory of real programs, as times that with kmalloc")):  # fmt: skip
            ratios = ratios_to(result[key], "kmalloc")
            charts.bars(folder / f"{name}.svg", title, "kmalloc = 1", list(result[key]["kmalloc"]), ratios, 1, charts.CLIP)
    charts.fragmentation(folder / "frag.svg", measure(build, "frag"))
    charts.latencies(folder / "latency.svg", measure(build, "latency", "-seconds", seconds))
    charts.scaling(folder / "scale.svg", measure(build, "scale", "-seconds", seconds))
    print("".join(f"  {path}\n" for path in sorted(folder.glob("*.svg"))), end="")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="instructions, programs, charts")
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"))
    parser.add_argument("--output", type=pathlib.Path, help="where figures and charts are put (BUILD/bench)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"runs of each workload under each allocator ({ROUNDS})")
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
    output = options.output or build / "bench"
    output.mkdir(parents=True, exist_ok=True)
    result = {}
    if "instructions" in parts:
        result |= instructions(build)
    if "programs" in parts:
        result |= programs(build, options.rounds)
        result |= real_programs(build, output / "work", options.rounds)
    (output / "linux.json").write_text(json.dumps(result, indent=1))
    if "charts" in parts:
        draw(build, result, output, min(options.rounds, CHART_SECONDS))


if __name__ == "__main__":
    main()
