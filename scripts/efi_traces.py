# SPDX-License-Identifier: MIT
"""Cases of test_efi.py: traces in the menu, and where there are none."""

import pathlib

from cases import case
from machines import LOAD_ERROR, booted, expect_home, quit_to_firmware, run_program

ROOT = pathlib.Path(__file__).resolve().parent.parent


@case()
def boot_replay(context):
    """in the menu of the stick's image, 7 lists the traces that came with it, and A replays them all"""
    with booted(context, context.build / "kmalloc.img", "snapshot=on") as machine:
        expect_home(machine)
        machine.send("7")
        machine.expect_screen(r"Replay +heap", 20)
        machine.expect_screen(r"> +bash", 10)
        machine.send("a")
        n_traces = len(list((ROOT / "esp/traces").glob("*.trace")))
        machine.expect_screen(rf"(PASS.*\s+[^P]*){{{n_traces}}}", 240)
        (context.folder / "replay.txt").write_text(machine.screen.text())
        assert "FAIL" not in machine.screen.text()
        machine.send("\x1b")
        expect_home(machine)
        quit_to_firmware(machine)


@case()
def replay_without_volume(context):
    """a program that was not loaded from a volume says that it can read no traces"""
    text = run_program(context, "replay ls.trace", LOAD_ERROR)
    assert "not loaded from a volume" in text, text
