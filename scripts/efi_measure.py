# SPDX-License-Identifier: MIT
"""Cases of scripts/test_efi.py: the measuring commands in the firmware. What they measure under emulation means nothing."""

import re

import measure
from cases import case
from machines import ABORTED, UNSUPPORTED, expect_return, menu, run_program, started, stop_run

ENGINES = ("heap", "classic", "pool", "pages")
PATTERNS = ("own objects", "own, to 64 KiB", "exchanged", "handed over")
ESC = "\x1b"


@case()
def bench(context):
    """bench measures the heap beside the firmware's pool and pages"""
    text = run_program(context, "bench -seconds 3 -format json", seconds=300)
    measure.check_bench(text.replace("\r", ""), ENGINES)


@case()
def bench_text(context):
    """bench says how the clock was calibrated, and that this is a virtual machine"""
    text = run_program(context, "bench -seconds 1 -group neighbours", memory="64M", seconds=300)
    for wanted in (r"^Clock .*measured against the ACPI timer", r"^Timer ", r"not comparable", r"^64 KiB .*\s+loop", r"^PASS  bench"):
        assert re.search(wanted, text, re.MULTILINE), f"/{wanted}/ is not in:\n{text}"


@case("heap", "pool")
def latency(context, engine):
    """latency times every call in the firmware"""
    text = run_program(context, f"latency -seconds 1 -engine {engine} -format json", seconds=200)
    measure.check_latency(text.replace("\r", ""), engine == "heap")


@case()
def frag(context):
    """frag plots on firmware pages, and gives all of them back"""
    text = run_program(context, "frag", seconds=200)
    assert re.search(r"\|.*\*", text) and re.search(r"^PASS  frag", text, re.MULTILINE), text
    assert re.search(r"256 pages +4\.501 +4\.\d+ +5\.000", text), f"the adversary's result is missing:\n{text}"


@case()
def frag_pool(context):
    """frag plots what the firmware's pool holds, by the memory that is missing"""
    return measure.check_frag(run_program(context, "frag -engine pool -format json -heap 16M", seconds=200).replace("\r", ""))


def check_scale(lines, n_cpus):
    assert [(line["engine"], line["cpus"]) for line in lines] == [("heap", n) for n in range(1, n_cpus + 1)], f"{lines}"
    for line in lines:
        assert all(line[pattern] > 0 for pattern in PATTERNS), f"nothing was done: {line}"


@case()
def scale(context):
    """scale works on 1 to 4 processors of the firmware, and all of them are its own again"""
    text = run_program(context, "scale -seconds 4 -format json", smp=4, seconds=200)
    check_scale(measure.parse(text.replace("\r", ""), "scale")["figures"], 4)


@case()
def scale_one(context):
    """scale says that it needs more than one processor where there is one"""
    text = run_program(context, "scale", status=UNSUPPORTED)
    assert re.search(r"^CANNOT RUN +scale: It needs more than one processor, and the firmware has enabled", text, re.MULTILINE), text


@case((4, "x86_64"), (4, "x86_64-check"), (1, "x86_64"))
def interrupts(context, smp, variant):
    """notification functions and other processors enter the heap in the middle of its work"""
    text = run_program(context, "selftest -group interrupts", smp=smp, variant=variant, seconds=120)
    found = [int(n) for n in re.findall(r"(\d+) interruptions\)", text)]
    assert len(found) == (3 if smp > 1 else 2) and all(found), f"nothing was interrupted:\n{text}"
    assert re.search(rf"^PASS  selftest: {len(found)} passed, 0 failed, {3 - len(found)} skipped", text, re.MULTILINE), text
    return f"{sum(found)} interruptions"


@case()
def bench_escape(context):
    """Esc, confirmed, stops the bench and gives all pages back"""
    with started(context, "bench -seconds 100") as machine:
        machine.expect(r"^Clock ", 60)
        machine.send(ESC)
        machine.expect(r"Esc again", 60)
        machine.send("y")
        machine.expect(r"^STOP  bench", 60)
        expect_return(machine, ABORTED)


@case()
def menu_bench(context):
    """the menu's benchmark shows its table"""
    with menu(context) as machine:
        machine.send("6")
        machine.expect_screen(r"a +64 B pair, nothing else( +[\d.,k]+){5}", 60)
        machine.expect_screen(r"DONE", 200)
        (context.folder / "bench.txt").write_text(machine.screen.text())
        machine.send("\r")


@case()
def menu_scale(context):
    """S in the menu's benchmark leads to the processors, and back"""
    with menu(context, ABORTED, smp=2) as machine:
        machine.send("6")
        machine.expect_screen(r"\ba +64 B pair", 60)
        stop_run(machine)
        machine.expect_screen(r"S processors", 20)
        machine.send("s")
        machine.expect_screen(r"DONE", 60)
        machine.expect_screen(r"heap +2( +[\d,]{4,} +\d+\.\d\d){3}", 5)
        (context.folder / "scale.txt").write_text(machine.screen.text())
        machine.send("\r")
        machine.expect_screen(r"STOPPED", 10)
        machine.send("\r")
