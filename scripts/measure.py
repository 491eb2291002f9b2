# SPDX-License-Identifier: MIT
"""What must hold of the measuring commands' JSON, on every host."""

import json

PARTS = {"workloads": 9, "pairs": 13, "neighbours": 13}
PERCENTILES = ("p50", "p90", "p99", "p99.9", "max")


def parse(text, command):
    """The one JSON object that was printed."""
    result = json.loads(text[text.index('{\n  "program"') :])
    assert result["program"] == "kmalloc" and result["command"] == command, f"this is no {command}: {text[:200]}"
    assert result["outcome"] == "PASS", f"{command} ended with {result['outcome']}: {result['why']}"
    assert result["why"] == "", f"{command} passed, and complains: {result['why']}"
    return result


def check_clock(result):
    clock = result["clock"]
    assert clock["per_second"] > 1e6 and 0 < clock["empty_minimum"] <= clock["empty_median"], f"this is no clock: {clock}"
    assert "measured against" in clock["calibration"], f"the clock's calibration is not told: {clock}"
    assert isinstance(result["is_virtual_machine"], bool)


def check_bench(text, engines, part=None):
    """Every row has a figure of every engine, or a reason why not; returns {row: {engine: median}} of the last part."""
    result = parse(text, "bench")
    check_clock(result)
    rows = result["rows"]
    wanted = {part: PARTS[part]} if part else PARTS
    for name, n in wanted.items():
        found = [row["name"] for row in rows if row["part"] == name]
        assert len(found) == n == len(set(found)), f"{name} has the rows {found}"
    assert len(rows) == sum(wanted.values())
    for row in rows:
        assert [cell["engine"] for cell in row["engines"]] == ["loop", *engines], f"{row['name']}: {row['engines']}"
        for cell in row["engines"]:
            if "why_not" in cell:
                assert cell["engine"] not in ("loop", "heap"), f"{row['name']}: {cell}"
                continue
            # At least three samples; the last one may have been disturbed, so nothing is asked of a maximum.
            assert cell["samples"] >= 3 and 0 <= cell["minimum"] <= cell["median"], f"{row['name']}: {cell}"
            assert cell["engine"] == "loop" or cell["median"] > 0, f"{row['name']}: {cell}"
            assert ("median_ns" in cell) == result["clock"]["is_steady"], f"{row['name']}: {cell}"
    return result


def check_latency(text, has_realloc):
    """Percentiles rise, every call is in a histogram, and the empty timer stands beside them."""
    result = parse(text, "latency")
    check_clock(result)
    lines = result["latencies"]
    kinds = {line["operation"] for line in lines}
    assert kinds == {"alloc", "free", "timer"} | ({"realloc"} if has_realloc else set()), f"these were timed: {kinds}"
    for line in lines:
        figures = [line["min"], *(line[name] for name in PERCENTILES)]
        assert figures == sorted(figures), f"percentiles do not rise: {line['operation']} {line['size']} {figures}"
        assert sum(n for _, n in line["counts"]) == line["calls"] > 0, f"calls are missing: {line['operation']} {line['size']}"
        assert line["counts"][-1][0] >= line["max"], f"the largest is above its cell: {line['operation']} {line['size']}"
    assert lines[-1]["operation"] == "timer"
    assert 0 < result["window_ms"] <= 2, f"a window this long hides a tick: {result['window_ms']} ms"
    before, after = result["smi_before"], result["smi_after"]
    assert before is after is None or before <= after, f"SMIs: {before} before and {after} after"
    return result


def check_frag(text):
    """The phases are there, nothing is live at the end, and the adversary got what theory says."""
    result = parse(text, "frag")
    samples = result["samples"]
    assert len(samples) == 65 and samples[-1]["live"] == 0, f"{len(samples)} samples, the last one {samples[-1:]}"
    assert max(s["live"] for s in samples) <= result["peak_live"]
    assert all(s["footprint"] >= s["live"] for s in samples), "less was held than was live"
    assert [score["largest"] for score in result["robson"]] == [4, 16, 64, 256], f"{result['robson']}"
    for score in result["robson"]:
        assert score["least"] <= score["found"] <= score["perfect"], f"{score}"
    return f"peak held / peak live {result['peak_footprint'] / result['peak_live']:.3f}"
