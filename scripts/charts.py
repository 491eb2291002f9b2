# SPDX-License-Identifier: MIT
"""Charts as SVG files, drawn by gnuplot. Data go in with the script, so that a chart is one file."""

import shutil
import subprocess
import sys

# What is ours stands out, and each rival keeps its colour from chart to chart.
OURS, OTHER, PALE = "#b3261e", "#4b5a68", "#9aa5b1"
COLOURS = {"kmalloc": OURS, "heap": OURS, "held": OURS, "footprint": OURS, "alloc": OURS, "target": PALE, "timer": PALE,
           "fastest known": OTHER, "glibc": OTHER, "libc": OTHER, "live": OTHER, "jemalloc": "#e0a030", "realloc": "#e0a030",
           "mimalloc": "#3d7ea6", "free": "#3d7ea6", "tcmalloc": "#5aa469", "tbbmalloc": "#9b72aa", "classic": OTHER, "pages": "#9b72aa",
           "pool, its page returned": "#3d7ea6", "pool, its page kept": "#e0a030"}  # fmt: skip
HEAD = """
set terminal svg size 900,380 noenhanced font "sans,13" background "#ffffff"
set output "{path}"
set title "{title}"
set ylabel "{label}"
set border 3
set tics nomirror out
set grid ytics linecolor "#dddddd" linetype 1
set key outside right top reverse Left samplen 1.5
"""
# How much higher than this a bar may be before it is cut, and its figure written above it.
CLIP = 5


def gnuplot(path, title, label, script):
    if not shutil.which("gnuplot"):
        sys.exit("charts: gnuplot is missing; make setup installs it")
    head = HEAD.format(path=path, title=title, label=label)
    result = subprocess.run(["gnuplot"], input=head + script, capture_output=True, text=True, timeout=60, check=False)
    if result.returncode != 0 or result.stderr:
        sys.exit(f"charts: gnuplot did not draw {path}: {result.stderr.strip()}")


def block(name, rows):
    """A table of gnuplot; words are quoted."""
    text = "\n".join(" ".join(f'"{cell}"' if isinstance(cell, str) else f"{cell:g}" for cell in row) for row in rows)
    return f"${name} << EOD\n{text}\nEOD\n"


def bars(path, title, label, groups, series, reference=None, clip=None, is_slanted=False):
    """A group of bars for each of `groups`, and in it a colour for each of `series` ({name: {group: figure}})."""
    top = max(by[group] for by in series.values() for group in groups)
    is_cut = clip is not None and top > clip
    script = block("bars", [[group, *(min(by[group], clip) if clip else by[group] for by in series.values())] for group in groups])
    script += ("set style data histograms\nset style histogram clustered gap 1\nset style fill solid 1 noborder\nset boxwidth 0.88\n"
               f"set yrange [0:{clip * 1.12 if is_cut else top * 1.08:g}]\n")  # fmt: skip
    if any("\\n" in group for group in groups):
        script += "set bmargin 4\n"
    if len(series) == 1:
        script += "unset key\n"
    if is_slanted:
        script += 'set xtics rotate by 60 right font "sans,11"\n'
    if reference is not None:
        script += f'set arrow from graph 0, first {reference} to graph 1, first {reference} nohead dashtype 2 linecolor "#444444"\n'
    if is_cut:
        # Bars of a group lie 1 / (number of series + 1) apart, around the group's number.
        for x, group in enumerate(groups):
            for i, by in enumerate(series.values()):
                if by[group] > clip:
                    place = x + (i - (len(series) - 1) / 2) / (len(series) + 1)
                    script += f'set label "{by[group]:.0f}" at first {place:g}, first {clip} center offset 0, 0.6 font "sans,10"\n'
    plots = [f'$bars using {i + 2}:xtic(1) title "{name}" linecolor "{COLOURS[name]}"' for i, name in enumerate(series)]
    gnuplot(path, title, label, script + "plot " + ", ".join(plots) + "\n")


def lines(path, title, label, series, x_label, setup="", style="lines linewidth 2"):
    """A line for each of `series` ({name: [(x, y), ...]})."""
    script = f'set xlabel "{x_label}"\n{setup}\n' + "".join(block(f"line{i}", points) for i, points in enumerate(series.values()))
    plots = [f'$line{i} using 1:2 title "{name}" with {style} linecolor "{COLOURS[name]}"' for i, name in enumerate(series)]
    gnuplot(path, title, label, script + "plot " + ", ".join(plots) + "\n")


# -- of the commands' JSON ------------------------------------------------------------------------------------------


def fragmentation(path, result):
    """What `kmalloc frag` sampled: held and live over the run's phases."""
    samples = result["samples"]
    phases = [(i, s["phase"]) for i, s in enumerate(samples) if i == 0 or samples[i - 1]["phase"] != s["phase"]]
    setup = f"set yrange [0:*]\nset xrange [1:{len(samples)}]\nunset xtics\nset key inside left top\n"
    for number, (i, phase) in enumerate(phases):
        end = phases[number + 1][0] if number + 1 < len(phases) else len(samples)
        if i > 0:
            setup += f'set arrow from first {i + 0.5}, graph 0 to first {i + 0.5}, graph 1 nohead dashtype 3 linecolor "#999999"\n'
        setup += f'set label "{phase}" at first {(i + end + 1) / 2}, graph -0.05 center font "sans,11"\n'
    series = {name: [(i + 1, s[key] / 2**20) for i, s in enumerate(samples)] for name, key in (("held", "footprint"), ("live", "live"))}
    lines(path, f"Memory held and live, engine {result['engine']}", "MiB", series, " ", setup)


def latencies(path, result):
    """What `kmalloc latency` counted: which time so many calls do not pass, for each operation."""
    clock = result["clock"]
    scale = 1 / clock["per_second"] if clock["is_steady"] else 1
    series = {}
    for operation in ("alloc", "free", "realloc", "timer"):
        counts = {}
        for line in result["latencies"]:
            if line["operation"] == operation:
                for last, n in line["counts"]:
                    counts[last] = counts.get(last, 0) + n
        total, seen, points = sum(counts.values()), 0, []
        for last in sorted(counts):
            # Of so many calls one takes at least this long.
            points.append((total / (total - seen), last * scale))
            seen += counts[last]
        if points:
            series[operation] = points
    setup = f'set logscale xy\nset format y "%.0s %c{"s" * clock["is_steady"]}"\nset format x "%.0s%c"\nset key inside left top\n'
    lines(path, f"The slowest of so many calls, engine {result['engine']}", "" if clock["is_steady"] else clock["unit"] + "s", series,
          "calls", setup, "steps linewidth 2")  # fmt: skip


def firmware(path, pairs, neighbours):
    """Instructions of a pair by size, {size: {engine: instructions}}: alone on the heap, and between live neighbours."""
    kinds = (("heap", "heap", neighbours), ("classic", "classic", neighbours), ("pool, its page kept", "pool", neighbours),
             ("pool, its page returned", "pool", pairs), ("pages", "pages", pairs))  # fmt: skip
    series = {name: [(size, by[engine]) for size, by in table.items()] for name, engine, table in kinds}
    sizes = ", ".join(f'"{n if n < 1024 else n // 1024}{" KiB" if n >= 1024 else " B"}" {n}' for n in list(pairs)[::2])
    setup = (f"set logscale x 2\nset xrange [{min(pairs) * 0.9}:{max(pairs) * 1.1}]\nset xtics ({sizes})\n"
             'set logscale y\nset format y "%.0f"\n')  # fmt: skip
    lines(path, "A pair of alloc and free in the firmware", "instructions", series, "size", setup,
          "linespoints linewidth 2 pointtype 7 pointsize 0.5")  # fmt: skip


def scaling(path, result):
    """What `kmalloc scale` counted: operations per second by CPUs."""
    figures = result["figures"]
    kinds = [name for name in figures[0] if name not in ("engine", "cpus")]
    engines = list(dict.fromkeys(line["engine"] for line in figures))
    # 1, 2, 4 ... CPUs and the most: more groups than that cannot be read.
    most = max(line["cpus"] for line in figures)
    chosen = [line for line in figures if line["cpus"] & (line["cpus"] - 1) == 0 or line["cpus"] == most]
    series = {engine: {f"{kind}\\n{line['cpus']} CPU{'s' * (line['cpus'] > 1)}": line[kind] / 1e6
                       for kind in kinds for line in chosen if line["engine"] == engine} for engine in engines}  # fmt: skip
    bars(path, "Operations per second", "millions", list(series[engines[0]]), series)


def footprints(path, results):
    """What replayed traces (replay-traces.py) held at the most, as times what was live, the smallest program first."""
    results = sorted(results, key=lambda r: r["peak_rounded_bytes"])
    series = {"footprint": {r["name"]: r["footprint_permille"] / 1000 for r in results}}
    bars(path, f"Peak footprint of recorded programs, from {results[0]['peak_rounded_bytes'] >> 10} KiB to "
         f"{results[-1]['peak_rounded_bytes'] >> 20} MiB of live memory", "footprint / live", [r["name"] for r in results], series, 1,
         is_slanted=True)  # fmt: skip
