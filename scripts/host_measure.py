# SPDX-License-Identifier: MIT
"""Cases of scripts/test_host.py: the measuring commands on Linux, and the gate on instruction counts."""

import json
import pathlib
import re
import subprocess
import xml.etree.ElementTree

import bench
import charts
import measure
from cases import case, run_command
from screen import Terminal

ENGINES = ("heap", "classic", "libc")


def program(context, variant="release"):
    return context.build / "linux" / variant / "kmalloc"


def assert_narrow(text):
    """A firmware's console has 80 columns. The first line, which names the processor, may be longer."""
    wide = [line for line in text.splitlines()[1:] if len(line) > 79]
    assert not wide, f"wider than 79 columns: {wide[0]}"
    assert not re.search(r" $", text, re.MULTILINE), f"blanks at the end of a line:\n{text}"


@case("release", "check")
def bench_command(context, variant):
    """bench measures every workload on every engine, or says why not"""
    text = run_command(program(context, variant), "bench", "-seconds", 2, "-format", "json", timeout=300)
    result = measure.check_bench(text, ENGINES)
    growing = [cell for row in result["rows"] if row["name"] in ("d1", "d2") for cell in row["engines"] if "why_not" in cell]
    assert [cell["engine"] for cell in growing] == ["classic", "classic"] and growing[0]["why_not"] == "no realloc", f"{growing}"


@case()
def bench_text(context):
    """bench tells people of clock, timer, virtual machine and ratio, in plain lines of 80 columns"""
    text = run_command(program(context), "bench", "-seconds", 1, "-group", "workloads")
    for wanted in (r"^Clock +TSC [\d.]+ MHz, measured against", r"^Timer +an empty reading takes \d+ cycles", r"ratio$",
                   r"^d1 .*loop", r" classic +no realloc$", r" heap( +[\d.]+){4} +1\.00$", r"^PASS  bench$"):  # fmt: skip
        assert re.search(wanted, text, re.MULTILINE), f"/{wanted}/ is not in:\n{text}"
    assert_narrow(text)
    if "hypervisor" in pathlib.Path("/proc/cpuinfo").read_text():
        assert "not comparable" in text, f"nothing is said of the virtual machine:\n{text}"


@case("heap", "classic", "libc")
def latency(context, engine):
    """latency times every call, beside the empty timer"""
    words = ["latency", "-seconds", 1, "-engine", engine]
    measure.check_latency(run_command(program(context), *words, "-format", "json"), engine != "classic")
    text = run_command(program(context), *words)
    assert re.search(r"^alloc +16 B to 255 B +[\d,]+( +[\d,]+){5}$", text, re.MULTILINE), text
    assert re.search(r"\|#+", text) and re.search(r"^timer ", text, re.MULTILINE), f"no bars in:\n{text}"
    assert_narrow(re.sub(r"(?m)^\w+ +\d.*$", "", text))  # a disturbed call may need more digits


@case(("release", "heap"), ("check", "heap"), ("release", "classic"), ("release", "libc"))
def frag(context, variant, engine):
    """frag plots what is held beside what is live, and Robson's adversary gets what theory says"""
    remark = measure.check_frag(run_command(program(context, variant), "frag", "-engine", engine, "-format", "json", timeout=300))
    text = run_command(program(context, variant), "frag", "-engine", engine, timeout=300)
    assert re.search(r"\|.*\*", text) and "#####" in text and "Robson" in text, f"no plot in:\n{text}"
    assert_narrow(text)
    return remark


@case()
def scale(context):
    """scale counts operations on 1 to N CPUs, of every engine that they may share"""
    text = run_command(program(context), "scale", "-seconds", 2, "-format", "json")
    figures = measure.parse(text, "scale")["figures"]
    assert {line["engine"] for line in figures} == {"heap", "libc"}, f"{figures}"
    for line in figures:
        assert all(line[name] > 0 for name in ("own objects", "own, to 64 KiB", "exchanged", "handed over")), f"{line}"
    text = run_command(program(context), "scale", "-seconds", 1)
    assert re.search(r"^ +1( +[\d,]+ +1\.00){4}$", text, re.MULTILINE), text
    assert_narrow(text)
    best = {engine: max(line["own objects"] for line in figures if line["engine"] == engine) for engine in ("heap", "libc")}
    return f"own objects, at best: {best['heap']:,} per second"


@case("bench", "latency", "frag", "scale")
def wrong_measure(context, command):
    """a measurement refuses what it cannot take, in one line"""
    for words in (["-format", "tap"], ["-seconds", "0"]):
        result = subprocess.run([program(context), command, *words], capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 64 and "usage" in result.stderr and not result.stdout, f"{words}: {result}"


@case()
def wrong_parts(context):
    """a part of the bench or an engine that is not there is refused in one line"""
    text = run_command(program(context), "bench", "-group", "nosuch", expect=3)
    assert re.search(r"^CANNOT RUN +bench: There is no part 'nosuch'", text, re.MULTILINE), text
    for command in ("latency", "frag"):
        text = run_command(program(context), command, "-engine", "nosuch", expect=3)
        assert re.search(rf"^CANNOT RUN +{command}: There is no such engine", text, re.MULTILINE), text


@case()
def menu_bench(context):
    """the menu's benchmark fills its table and can be stopped"""
    with Terminal(program(context)) as terminal:
        terminal.expect(r"6 +Benchmark")
        terminal.send("6")
        terminal.expect(r"Benchmark")
        terminal.expect(r"a +64 B pair, nothing else( +[\d.,k]+){4}")
        terminal.send("\x1b")
        terminal.expect(r"Stop the run\?")
        terminal.send("y")
        terminal.expect(r"STOPPED")
        terminal.expect(r"Enter back")
        terminal.send("\r")
        terminal.expect(r"1 +Self-test")
        terminal.send("qy")
        assert terminal.end() == 2, "a stopped run is not told by the exit status"


# -- make bench ------------------------------------------------------------------------------------------------------


def drawn_bars(path):
    """How many bars each series of a chart has."""
    svg = "{http://www.w3.org/2000/svg}"
    drawing = xml.etree.ElementTree.parse(path)
    plots = [g for g in drawing.iter(f"{svg}g") if g.get("id", "").startswith("gnuplot_plot_")]
    # The text and one more bar are those of the key.
    return {"".join(next(g.iter(f"{svg}text")).itertext()).strip(): len(list(g.iter(f"{svg}polygon"))) - 1 for g in plots}


@case()
def bench_programs(context):
    """make bench's table has a figure of every workload under every allocator, and its charts a bar for each of them"""
    folder = context.folder / "bench"
    text = run_command("/usr/bin/python3", "-B", "scripts/bench.py", "--build", context.build, "--output", folder, "--rounds", 1,
                       "programs", "charts", timeout=200)  # fmt: skip
    figures = json.loads((folder / "linux.json").read_text())
    for key, chart in (("time_ns", "time.svg"), ("peak_kib", "memory.svg")):
        by = figures[key]
        assert {"kmalloc", "glibc", *bench.RIVALS} <= set(by), f"these allocators were measured: {list(by)}"
        for name, row in by.items():
            assert set(row) == set(bench.WORKLOADS) and all(figure > 0 for figure in row.values()), f"{key} of {name}: {row}"
            cells = re.search(rf"^{name}((?: +[\d.]+ +[\d.]+){{{len(row)}}}) +[\d.]+$", text, re.MULTILINE)
            assert cells, f"{name} is not in:\n{text}"
        bars = drawn_bars(folder / chart)
        assert bars == {name: len(bench.WORKLOADS) for name in by if name != "kmalloc"}, f"{chart} has the bars {bars}"
    for key, chart in (("real_time_ms", "real-time.svg"), ("real_peak_kib", "real-memory.svg")):
        by = figures[key]
        assert all(set(row) == set(bench.REAL_PROGRAMS) and all(figure > 0 for figure in row.values()) for row in by.values()), f"{by}"
        assert drawn_bars(folder / chart) == {name: len(bench.REAL_PROGRAMS) for name in by if name != "kmalloc"}
    for workload in bench.COMPARED:
        line = re.search(rf"^{workload} +kmalloc +([\d.]+) ns, (\w+) +([\d.]+) ns, ratio ([\d.]+)$", text, re.MULTILINE)
        assert line, f"{workload} is not compared in:\n{text}"
        rivals = {name: figures["time_ns"][name][workload] for name in bench.RIVALS}
        assert line.group(2) == min(rivals, key=rivals.get), f"{rivals}, but: {line.group()}"
        ratio = figures["time_ns"]["kmalloc"][workload] / min(rivals.values())
        assert abs(float(line.group(4)) - ratio) < 0.01, f"{ratio:.3f} is the ratio, but: {line.group()}"
    for name in ("frag", "latency", "scale"):
        assert xml.etree.ElementTree.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")
    assert len(set(drawn_bars(folder / "scale.svg").values())) == 1


@case()
def bench_chart_cut(context):
    """a bar that is cut says its figure, and each figure has a bar"""
    path = context.folder / "cut.svg"
    charts.bars(path, "title_1", "label", ["a", "b"], {"glibc": {"a": 3, "b": 17.4}, "jemalloc": {"a": 1, "b": 2}}, 1, charts.CLIP)
    assert drawn_bars(path) == {"glibc": 2, "jemalloc": 2}
    texts = ["".join(e.itertext()).strip() for e in xml.etree.ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]
    assert "17" in texts and "title_1" in texts, f"{texts}"


# -- the gate ----------------------------------------------------------------------------------------------------------


@case()
def instruction_gate(context):
    """a, A, c and the fast path take no more than 3 % above the instructions of scripts/bench/instructions.txt"""
    lines, is_well = bench.gate(context.build)
    text = "; ".join(lines)
    assert is_well, f"more instructions than before: {text}. If that is meant to be, `make bench-golden` takes them over"
    return text


@case()
def instruction_gate_closes(context):
    """the gate says old and new, and fails, when a count has risen by more than 3 %"""
    golden, bench.GOLDEN = bench.GOLDEN, context.folder / "instructions.txt"
    figures, bench.gate_figures = bench.gate_figures, lambda _: {"a": 103.1, "A": 102.9}
    try:
        bench.GOLDEN.write_text("# head\na 100.0\nA 100.0\n")
        lines, is_well = bench.gate(context.build)
    finally:
        bench.GOLDEN, bench.gate_figures = golden, figures
    assert not is_well and lines == ["a: 100.0 -> 103.1 (+3.1 %)", "A: 100.0 -> 102.9 (+2.9 %)"], lines
