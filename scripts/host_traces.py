# SPDX-License-Identifier: MIT
"""Cases of test_host.py: traces are recorded, replayed on every engine, and refused when they are broken."""

import json
import os
import pathlib
import random
import re
import shutil

from cases import case, run_command
from expect import last_line
from screen import Terminal

ROOT = pathlib.Path(__file__).resolve().parent.parent
PASSED, CANNOT_RUN = 0, 3


def program(context, variant="release"):
    return context.build / "linux" / variant / "kmalloc"


RECORDED = """
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static void *work(void *arg)
{
	for (int i = 0; i < 1000; i++)
		free(realloc(malloc((size_t)i), (size_t)i * 2 + 1));
	return arg;
}
int main(void)
{
	pthread_t threads[4];
	void *aligned = NULL, *kept = calloc(25, 40);
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, work, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	if (fork() == 0) {
		work(NULL);
		_exit(0);
	}
	wait(NULL);
	if (posix_memalign(&aligned, 4096, 100000) != 0 || kept == NULL || realloc(kept, SIZE_MAX / 2) != NULL)
		return 1;
	kept = reallocarray(kept, 100, 100);
	free(aligned);
	free(memalign(64, 10));
	free(aligned_alloc(32, 64));
	free(valloc(1));
	free(NULL);
	_exit(kept == NULL);
}
"""


def replay(context, trace, *words, variant="release", expect=PASSED):
    return json.loads(run_command(program(context, variant), "replay", trace, *words, "-format", "json", expect=expect, timeout=600))


@case()
def record(context):
    """the recorder writes down what a program with threads and a forked child does, and every engine can do it again"""
    source, folder = context.folder / "recorded.c", context.folder / "traces"
    source.write_text(RECORDED)
    run_command("gcc", "-O0", "-fno-builtin", "-w", "-pthread", source, "-o", context.folder / "recorded")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    environment = dict(os.environ, LD_PRELOAD=str(context.build / "linux/libkmalloc-record.so"), KMALLOC_TRACE=str(folder))
    text = run_command(context.folder / "recorded", env=environment)
    assert text == "", f"it printed {text!r}"
    traces = list(folder.iterdir())
    assert len(traces) == 1, f"there are {len(traces)} traces: {traces}"
    for engine in ("heap", "classic", "libc"):
        result = replay(context, traces[0], "-engine", engine, "-heap", "64M", variant="asan")
        # The C library allocates a little for itself (threads), besides what is above.
        assert result["outcome"] == "PASS" and result["program"] == "recorded", result
        assert 4005 <= result["objects"] <= 4020 and 4001 <= result["resizes"] <= 4003, result
        assert result["threads"] == 5 and result["left_out"] == 0, result
        assert result["parallel_threads"] == (0 if engine == "classic" else 5), result
        assert 110000 <= result["peak_live_bytes"] < 116000, result
    return f"{result['operations']} operations"


@case("release", "check")
def replay_shipped(context, variant):
    """every trace that is shipped passes on every engine, with every byte verified"""
    traces = sorted((ROOT / "esp/traces").glob("*.trace"))
    assert len(traces) >= 8 and sum(t.stat().st_size for t in traces) < 2 << 20
    verified = 0
    for trace in traces:
        for engine in ("heap", "classic", "libc"):
            result = replay(context, trace, "-engine", engine, variant=variant)
            assert result["outcome"] == "PASS" and result["left_out"] == 0, result
            assert result["too_large"] == 0 or engine == "classic", result
            if engine == "heap":
                assert result["peak_footprint_bytes"] > result["peak_rounded_bytes"], result
                verified += result["verified_bytes"]
    return f"{len(traces)} traces, {verified >> 20} MiB verified on each"


def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


END, ALLOC, CALLOC, ALIGNED, REALLOC, FREE, THREAD = range(7)


def trace_bytes(*events, counts=None):
    """A trace of these events, each (kind, operand, more operands); counts: n_objects, n_slots, n_threads, peak, n_left_out."""
    body = b"".join(varint(operand << 3 | kind) + b"".join(map(varint, more)) for kind, operand, *more in events)
    return b"KMTRACE\n\x01" + varint(4) + b"test" + body + varint(len(events) << 3) + b"".join(map(varint, counts or (0, 0, 1, 0, 0)))


BROKEN_TRACES = {
    "empty": (b"", "is empty"),
    "text": (b"not a trace at all", "is not a trace"),
    "version": (b"KMTRACE\n\x02", "version 2"),
    "name": (b"KMTRACE\n\x01" + varint(200) + b"short", "header is damaged"),
    "no-end": (trace_bytes((ALLOC, 5))[:-6], "breaks off"),
    "cut-event": (trace_bytes((ALLOC, 1 << 40))[:17], "breaks off"),
    "more-behind": (trace_bytes((ALLOC, 5), counts=(1, 1, 1, 5, 0)) + b"\0", "counts do not agree"),
    "count": (trace_bytes((ALLOC, 5), counts=(2, 1, 1, 5, 0)), "counts do not agree"),
    "peak": (trace_bytes((ALLOC, 5), counts=(1, 1, 1, 6, 0)), "the peak of live bytes"),
    "kind": (trace_bytes((ALLOC, 5), (7, 0), counts=(1, 1, 1, 5, 0)), "is damaged at byte"),
    "size": (trace_bytes((ALLOC, 1 << 60), counts=(1, 1, 1, 1 << 60, 0)), "is damaged at byte"),
    "alignment": (trace_bytes((ALIGNED, 5, 64), counts=(1, 1, 1, 5, 0)), "is damaged at byte"),
    "long-varint": (trace_bytes()[:14] + b"\xff" * 11 + b"\0", "is damaged at byte"),
    "free-nothing": (trace_bytes((FREE, 0)), "is damaged at byte"),
    "free-other": (trace_bytes((ALLOC, 5), (FREE, 1), counts=(1, 1, 1, 5, 0)), "not live"),
    "free-twice": (trace_bytes((ALLOC, 5), (ALLOC, 6), (FREE, 0), (FREE, 0), counts=(2, 2, 1, 11, 0)), "not live"),
    "realloc-far": (trace_bytes((ALLOC, 5), (REALLOC, 1 << 50, 7), counts=(1, 1, 1, 7, 0)), "not live"),
    "too-large": (trace_bytes((ALLOC, 1 << 47), counts=(1, 1, 1, 1 << 47, 0)), "-heap"),
}  # fmt: skip


@case(*BROKEN_TRACES)
def broken_trace(context, name):
    """a broken trace is refused with one sentence that says what is wrong"""
    content, words = BROKEN_TRACES[name]
    file = context.folder / "broken.trace"
    file.write_bytes(content)
    text = run_command(program(context, "asan"), "replay", file, "-heap", "16M", expect=CANNOT_RUN)
    assert last_line(text).startswith("CANNOT RUN  replay: ") and words in last_line(text), f"it says: {last_line(text)}"
    assert replay(context, file, "-heap", "16M", variant="asan", expect=CANNOT_RUN)["failure"]
    return last_line(text)


@case()
def unreadable_trace(context):
    """a trace that cannot be read is refused with one sentence; a sound one made by hand passes"""
    for file, words in ((context.folder / "none.trace", "No such file"), (context.folder, "is no file"), ("/dev/zero", "is no file")):
        text = run_command(program(context), "replay", file, expect=CANNOT_RUN)
        assert words in last_line(text), f"it says: {last_line(text)}"
    file = context.folder / "sound.trace"
    events = ((ALLOC, 100), (THREAD, 1), (CALLOC, 50), (FREE, 0), (ALIGNED, 5000, 16), (REALLOC, 1, 900), (THREAD, 0), (FREE, 1))
    file.write_bytes(trace_bytes(*events, counts=(3, 2, 2, 5900, 0)))
    for engine in ("heap", "classic", "libc"):
        result = replay(context, file, "-engine", engine)
        assert (result["objects"], result["resizes"], result["frees"]) == (3, 1, 2), result
        assert (result["peak_live_bytes"], result["peak_rounded_bytes"]) == (5900, 5008 + 912), result
    assert "'nosuch'" in run_command(program(context), "replay", file, "-engine", "nosuch", expect=CANNOT_RUN)


def threaded_trace(n_threads, n_events):
    """A trace in which every thread allocates, and resizes and frees what others have allocated."""
    chance, events = random.Random(5), []
    sizes, free_slots = [], []  # by slot; 0: it is free
    live, peak, n_objects = set(), 0, 0
    while len(events) < n_events:
        events.append((THREAD, chance.randrange(n_threads)))
        for _ in range(chance.randrange(1, 8)):
            kind = chance.choice((ALLOC, CALLOC, ALIGNED, REALLOC, FREE, FREE) if len(live) > 100 else (ALLOC, ALLOC, REALLOC, FREE))
            size = 1 << chance.randrange(13)
            size += chance.randrange(size)
            if kind in (REALLOC, FREE) and live:
                slot = chance.choice(sorted(live))
                events.append((kind, slot, size) if kind == REALLOC else (kind, slot))
                sizes[slot] = size if kind == REALLOC else 0
                if kind == FREE:
                    free_slots.append(slot)
                    live.remove(slot)
            elif kind not in (REALLOC, FREE):
                slot = free_slots.pop() if free_slots else len(sizes)
                sizes[slot : slot + 1] = [size]
                live.add(slot)
                n_objects += 1
                events.append((kind, size, chance.randrange(5, 13)) if kind == ALIGNED else (kind, size))
            peak = max(peak, sum(sizes))
    return trace_bytes(*events, counts=(n_objects, len(sizes), n_threads, peak, 0))


@case("release", "check", "asan")
def replay_threads(context, variant):
    """a trace of eight threads is replayed by eight threads, and what each left in a block is what another finds there"""
    file = context.folder / "threads.trace"
    file.write_bytes(threaded_trace(8, 20000))
    for engine, n_threads in (("heap", 8), ("libc", 8), ("classic", 0)):
        result = replay(context, file, "-engine", engine, "-heap", "64M", variant=variant)
        assert (result["threads"], result["parallel_threads"]) == (8, n_threads), result
        assert (result["parallel_us"] is None) == (n_threads == 0), result
    text = run_command(program(context, variant), "replay", file, "-heap", "64M")
    assert re.search(r"^Threads +8 at once, verifying: [\d,]+ us, footprint peak [\d.]+ .iB$", text, re.MULTILINE), text


@case()
def menu_replay(context):
    """7 in the menu lists the shipped traces, and Enter replays the chosen one"""
    with Terminal(program(context)) as terminal:
        terminal.expect(r"7 +Replay")
        terminal.send("7")
        terminal.expect(r"> +bash")
        terminal.send("\x1b[B\r")
        terminal.expect(r"cc1-small.*PASS", 60)
        terminal.send("\x1b")
        terminal.expect(r"1 +Self-test")
        terminal.send("qy")
        assert terminal.end() == PASSED
