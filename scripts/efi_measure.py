# SPDX-License-Identifier: MIT
"""Cases of scripts/test_efi.py: the measuring commands in the firmware. What they measure under emulation means nothing."""

import re

import measure
from cases import case
from machines import SUCCESS, ABORTED, UNSUPPORTED, expect_home, expect_return, run_program, started

ENGINES = ("heap", "classic", "pool", "pages")
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


@case()
def scale(context):
    """scale says that it needs more than one CPU"""
    text = run_program(context, "scale", status=UNSUPPORTED, smp=4)
    assert re.search(r"^CANNOT RUN +scale: It needs more than one CPU", text, re.MULTILINE), text


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
    with started(context) as machine:
        expect_home(machine)
        machine.send("6")
        machine.expect_screen(r"a +64 B pair, nothing else( +[\d.]+){5}", 60)
        machine.expect_screen(r"DONE", 200)
        (context.folder / "bench.txt").write_text(machine.screen.text())
        machine.send("\r")
        expect_home(machine)
        machine.send("qy")
        expect_return(machine, SUCCESS)
