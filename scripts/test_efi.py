#!/usr/bin/python3 -B
# SPDX-License-Identifier: MIT
"""Tests of the UEFI program in QEMU, without a window.

usage: test_efi.py [-l] [-j JOBS] [--build FOLDER] [CASE ...]

Each case leaves its serial log in build/test-efi/CASE/; a failed one also the screen as text, and as a picture where there is
VGA. Ends with "N passed, N failed". On a slow machine set KMALLOC_TEST_TIME_FACTOR=5.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import time

import efi_measure  # noqa: F401 (its cases)
import efi_traces  # noqa: F401 (its cases)
import qemu
from cases import case, main, run_command
from expect import assert_tap, assert_verdict, stress_figures
from machines import (ABORTED, INVALID_PARAMETER, SUCCESS, UNSUPPORTED, booted, expect_home, expect_return, menu, quit_to_firmware,
                      run_program, screen_opens, started, stop_run)  # fmt: skip
from screen import Terminal

ROOT = pathlib.Path(__file__).resolve().parent.parent
ESC, UP, DOWN, ENTER = "\x1b", "\x1b[A", "\x1b[B", "\r"


# -- a machine that is switched on ------------------------------------------------------------------------------------


def assert_home(screen):
    for wanted in (r"kmalloc \d+\.\d+", r"EDK II", r"UEFI 2\.", r"QEMU|CPU", r"\d+(\.\d+)? MiB", r"2 +Stress", r"3 +Heap statistics",
                   r"4 +Memory map", r"5 +Settings", r"R +Restart", r"P +Power off", r"Q +Quit"):  # fmt: skip
        assert re.search(wanted, screen), f"Home lacks /{wanted}/:\n{screen}"


@case()
def boot(context):
    """the image boots as a USB stick to the menu on the serial line, and P powers off"""
    with booted(context, context.build / "kmalloc.img", "snapshot=on") as machine:
        expect_home(machine)
        assert_home(machine.screen.text())
        (context.folder / "home.txt").write_text(machine.screen.text())
        machine.send("p")
        machine.expect_screen(r"Power this machine off\?", 10)
        machine.send("y")
        machine.expect_end("guest-shutdown")


@case()
def boot_vga(context):
    """with VGA the menu is on the screen too, the PC's keyboard works, and R restarts"""
    with booted(context, context.build / "kmalloc.img", "snapshot=on", vga=True) as machine:
        expect_home(machine)
        picture = machine.screenshot("home.png")
        assert picture.stat().st_size > 3000, "the picture is all but empty"
        machine.press("down", "ret")
        machine.expect_screen(r"Stress .*seed 42", 20)
        machine.expect_screen(r"Operations", 10)
        machine.settle(0.2)
        machine.screenshot("stress.png")
        machine.press("esc")
        machine.expect_screen(r"Stop the run\?", 10)
        machine.press("y")
        machine.expect_screen(r"Enter back", 20)
        machine.screenshot("stopped.png")
        machine.press("ret")
        expect_home(machine)
        machine.press("r")
        machine.expect_screen(r"Restart this machine\?", 10)
        machine.press("y")
        machine.expect_end("guest-reset")


@case()
def boot_quit(context):
    """Q in the menu returns to the firmware, whose own menu then works"""
    with booted(context, context.build / "kmalloc.img", "snapshot=on") as machine:
        expect_home(machine)
        quit_to_firmware(machine)


@case()
def run_in_terminal(context):
    """`make run` without a display puts the menu into the terminal, says how to leave, and Ctrl-A X leaves"""
    image = context.folder / "stick.img"
    shutil.copyfile(context.build / "kmalloc.img", image)
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    with Terminal(ROOT / "scripts/run-qemu.sh", image, rows=50, environment=environment) as terminal:
        terminal.expect(r"To leave: .*Ctrl-A", 10)
        terminal.expect(r"1 +Self-test", 60)
        terminal.send("\x01x")
        assert terminal.end() == 0
    image.unlink()


# -- the Shell -------------------------------------------------------------------------------------------------------


def shell_disk(context, script, size_kib=16384, program="x86_64"):
    """A FAT volume with the program, its .man file and a startup.nsh of these lines."""
    disk = context.folder / "shell.img"
    disk.unlink(missing_ok=True)
    run_command("truncate", "-s", f"{size_kib}K", disk)
    run_command("/usr/sbin/mkfs.fat", "--invariant", "-n", "SHELL", disk)
    startup = context.folder / "startup.nsh"
    startup.write_text("\r\n".join(["@echo -off", "fs0:", *script, "echo SHELL-DONE", "reset -s", ""]))
    run_command("mcopy", "-i", disk, startup, ROOT / "esp/kmalloc.man", context.build / program / "kmalloc.efi", "::/")
    return disk


def run_shell(context, disk, *drive_options, seconds=240, **hardware):
    """Boot into the Shell, let it run the volume's startup.nsh to its end; what was printed after the first echo."""
    with booted(context, disk, *drive_options, **hardware) as machine:
        machine.expect(r"any other key to continue", 60)
        machine.send(" ")
        machine.expect(r"SHELL-DONE", seconds)
        machine.expect_end("guest-shutdown")
        return machine.text


def file_on(disk, name):
    return subprocess.run(["mtype", "-i", disk, f"::/{name}"], capture_output=True, check=True, timeout=60).stdout


def section(text, name):
    """What was printed between the script's "echo BEGIN-name" and "echo END-name"."""
    match = re.search(rf"^BEGIN-{name}$(.*?)^END-{name} ?(.*?)$", text, re.MULTILINE | re.DOTALL)
    assert match, f"{name} is not in what was printed:\n{text[-2000:]}"
    return match.group(1).strip(), match.group(2).strip()


def command(name, line):
    return [f"echo BEGIN-{name}", line, f"echo END-{name} %lasterror%"]


@case()
def shell_status(context):
    """from the Shell: arguments arrive, and %lasterror% tells how it went"""
    script = (command("info", "kmalloc.efi info") + command("selftest", "kmalloc selftest -group contract")
              + command("stress", "kmalloc.efi stress -operations 3000 -seed 5 -heap 8M")
              + command("wrong", "kmalloc.efi stress -bogus") + command("quoted", 'kmalloc.efi "stress" "-seed" "x y"'))  # fmt: skip
    text = run_shell(context, shell_disk(context, script))
    for name, verdict, status in (("info", None, "0x0"), ("selftest", "PASS", "0x0"), ("stress", "PASS", "0x0"),
                                  ("wrong", "usage", "0x2"), ("quoted", "usage", "0x2")):  # fmt: skip
        said, found = section(text, name)
        assert found == status, f"{name}: %lasterror% is {found}, not {status}; it said:\n{said}"
        if verdict:
            assert_verdict(said, verdict)
    assert "x y" in section(text, "quoted")[0], "a quoted argument with a blank did not arrive whole"
    assert "UEFI" in section(text, "info")[0]


def memory_map(text):
    """The Shell's memmap as (first table, totals by type)."""
    ranges = re.findall(r"^(\w+) +([0-9A-F]{16})-([0-9A-F]{16}) +([0-9A-F]{16})", text, re.MULTILINE)
    totals = {}
    for kind, _, _, pages in ranges:
        totals[kind] = totals.get(kind, 0) + int(pages, 16)
    return ranges, totals


@case()
def shell_memmap(context):
    """the memory map after a run equals the one before it"""
    # The first run and the first memmap let Shell and firmware take what they keep for good.
    lines = ("stress -operations 5000 -heap 128M", "selftest", "stress -bogus", "scale -seconds 2")
    script = [f"kmalloc.efi {lines[0]}", f"kmalloc.efi {lines[3]}", "memmap"]
    for i, line in enumerate(lines):
        script += [*command(f"before-{i}", "memmap"), *command(f"run-{i}", f"kmalloc.efi {line}"), *command(f"after-{i}", "memmap")]
    text = run_shell(context, shell_disk(context, script), smp=4)
    assert re.search(r"^ +4( +[\d,]{4,} +\d+\.\d\d){4}$", section(text, "run-3")[0], re.MULTILINE), section(text, "run-3")[0]
    for i in range(len(lines)):
        before, totals_before = memory_map(section(text, f"before-{i}")[0])
        after, totals_after = memory_map(section(text, f"after-{i}")[0])
        assert len(before) > 20, f"memmap gave {len(before)} ranges only"
        differ = {k: totals_after.get(k, 0) - totals_before.get(k, 0) for k in totals_before | totals_after}
        assert not any(differ.values()), f"run {i}: pages by type changed: { {k: v for k, v in differ.items() if v} }"
        assert before == after, f"run {i}: ranges changed: {set(before) ^ set(after)}"
    return f"{len(after)} ranges"


@case()
def shell_redirect(context):
    """output redirected to a file is the same plain text"""
    script = ["kmalloc.efi selftest -group contract -format tap >a tap.txt", "kmalloc.efi stress -operations 2000 -heap 8M > wide.txt"]
    disk = shell_disk(context, script)
    run_shell(context, disk)
    tap = file_on(disk, "tap.txt").decode("ascii").replace("\r", "")
    assert_tap(tap)
    wide = file_on(disk, "wide.txt").decode("utf-16").replace("\r", "")
    assert_verdict(wide)


@case()
def shell_help(context):
    """`help kmalloc` and `kmalloc -?` show the manual, and it names what the program takes"""
    script = command("help", "help kmalloc") + command("question", "kmalloc -?") + command("usage", "kmalloc.efi help")
    text = run_shell(context, shell_disk(context, script))
    usage = section(text, "usage")[0]
    words = set(re.findall(r"(?<![\w-])-?[a-z]{4,}", usage.replace("usage: kmalloc", ""))) - {"text"}
    for name in ("help", "question"):
        manual = section(text, name)[0]
        missing = [word for word in words if word not in manual]
        assert len(words) > 8 and not missing, f"{name}: the manual lacks {missing}:\n{manual}"


@case()
def shell_menu(context):
    """the menu opens from the Shell, and after Q the Shell goes on as before"""
    disk = shell_disk(context, ["echo TOP-LINE", "kmalloc.efi", "echo AFTER-MENU %lasterror%"])
    with booted(context, disk) as machine:
        machine.expect(r"any other key to continue", 60)
        machine.send(" ")
        expect_home(machine)
        machine.send("qy")
        machine.expect(r"AFTER-MENU 0x0", 20)
        machine.expect_end("guest-shutdown")


@case()
def shell_startup(context):
    """esp/startup.nsh of the real image tells what can be typed and opens the menu"""
    image = context.folder / "no-boot.img"
    shutil.copyfile(context.build / "kmalloc.img", image)
    run_command("mdel", "-i", f"{image}@@1M", "::/EFI/BOOT/BOOTX64.EFI")
    with booted(context, image) as machine:
        machine.expect(r"any other key to continue", 60)
        machine.send(" ")
        machine.expect(r"kmalloc selftest", 20)
        expect_home(machine)
        machine.send("qy")
        machine.expect(r"FS0:\\>", 20)
        machine.send("kmalloc version\r")
        machine.expect(r"^kmalloc \d+\.\d+", 20)
    image.unlink()


@case()
def shell_replay(context):
    """traces of real programs are replayed from the stick, and what cannot be read is said in one sentence"""
    disk_lines = (command("warm", "kmalloc.efi replay traces/ls.trace")
                  + command("before", "memmap")
                  + command("slash", "kmalloc.efi replay traces/cc1-small.trace")
                  + command("backslash", "kmalloc.efi replay \\traces\\ls.trace -engine classic -heap 8M")
                  + command("pool", "kmalloc.efi replay \\traces\\make.trace -engine pool")
                  + command("json", "kmalloc.efi replay traces/tar.trace -format json")
                  + command("missing", "kmalloc.efi replay traces/none.trace") + command("folder", "kmalloc.efi replay traces")
                  + command("other", "kmalloc.efi replay kmalloc.efi") + command("volume", "kmalloc.efi replay fs0:\\traces\\ls.trace")
                  + command("after", "memmap"))  # fmt: skip
    disk = shell_disk(context, disk_lines)
    run_command("mmd", "-i", disk, "::/traces")
    run_command("mcopy", "-i", disk, *sorted((ROOT / "esp/traces").glob("*.trace")), "::/traces")
    text = run_shell(context, disk)
    for name in ("warm", "slash", "backslash", "pool"):
        said, status = section(text, name)
        assert_verdict(said)
        assert status == "0x0", f"{name}: %lasterror% is {status}"
    assert json.loads(section(text, "json")[0])["outcome"] == "PASS"
    for name, words in (("missing", "is not on the volume"), ("folder", "is a folder"), ("other", "is not a trace"),
                        ("volume", "is no name of a file")):  # fmt: skip
        said, status = section(text, name)
        assert_verdict(said, "CANNOT RUN")
        assert words in said and status == "0x1", f"{name}: {status}, it said: {said}"
    differ = memory_map(section(text, "before")[0])[1].items() ^ memory_map(section(text, "after")[0])[1].items()
    assert not differ, f"pages by type changed: {differ}"
    return re.search(r"Time +(.*)", section(text, "slash")[0]).group(1)


@case()
def read_only_stick(context):
    """a write-protected stick makes no difference"""
    script = command("stress", "kmalloc.efi stress -operations 2000 -heap 8M")
    text = run_shell(context, shell_disk(context, script), "readonly=on")
    said, status = section(text, "stress")
    assert_verdict(said)
    assert status == "0x0", status


@case()
def full_stick(context):
    """a stick without a free byte makes no difference"""
    disk = shell_disk(context, command("stress", "kmalloc.efi stress -operations 2000 -heap 8M"), size_kib=4096)
    filler = context.folder / "filler"
    free = int(re.search(r"([\d ]+) bytes free", run_command("mdir", "-i", disk, "::/")).group(1).replace(" ", ""))
    filler.write_bytes(b"x" * free)
    run_command("mcopy", "-i", disk, filler, "::/")
    assert re.search(r"\b0 bytes free", run_command("mdir", "-i", disk, "::/")), "the volume is not full"
    said, status = section(run_shell(context, disk), "stress")
    assert_verdict(said)
    assert status == "0x0", status


# -- commands ----------------------------------------------------------------------------------------------------------


@case(("512M", 1, "x86_64"), ("64M", 1, "x86_64"), ("512M", 1, "x86_64-check"))
def selftest(context, memory, smp, variant):
    """the whole self-test passes on firmware pages"""
    text = run_program(context, "selftest", seconds=300, memory=memory, smp=smp, variant=variant)
    return assert_verdict(text)


@case()
def selftest_tap(context):
    """TAP 13 output is complete"""
    text = run_program(context, "selftest -format tap -group contract")
    return assert_tap(text[text.index("TAP") :])


@case(("512M", 1, "heap"), ("64M", 1, "heap"), ("5G", 1, "heap"), ("512M", 4, "heap"), ("512M", 1, "classic"), ("512M", 1, "pool"))
def stress(context, memory, smp, engine):
    """a seeded stress run passes and gives all pages back"""
    heap = "4G" if memory == "5G" else "64M"
    arguments = f"stress -operations 20000 -seconds 100 -seed 3 -heap {heap} -engine {engine}"
    return assert_verdict(run_program(context, arguments, seconds=200, memory=memory, smp=smp))


@case()
def stress_check_build(context):
    """a stress run of the check build passes"""
    return assert_verdict(run_program(context, "stress -operations 5000 -seed 3 -heap 32M", variant="x86_64-check", seconds=200))


@case()
def stress_greedy(context):
    """a heap larger than the machine is cut to what the firmware can spare"""
    return assert_verdict(run_program(context, "stress -operations 20000 -seconds 60 -heap 64G", memory="64M", seconds=200))


@case()
def stress_as_on_linux(context):
    """the same seed does the same work in the firmware and on Linux"""
    # Too few operations to fill the heap: what is refused then depends on where each host's pages lie.
    words = ["stress", "-operations", "2000", "-seed", "9", "-heap", "256M"]
    in_firmware = stress_figures(run_program(context, " ".join(words)))
    on_linux = stress_figures(run_command(context.build / "linux/kmalloc", *words))
    assert in_firmware == on_linux, f"firmware: {in_firmware}\nLinux:    {on_linux}"
    return in_firmware


@case()
def stress_seconds(context):
    """-seconds ends a stress run, and a line comes every ten seconds"""
    with started(context, "stress -seconds 12 -heap 16M") as machine:
        machine.expect(r"^ +\d+ s +[\d,]+ operations", 30)
        expect_return(machine, SUCCESS, 60)
        assert_verdict(machine.text[: machine.text.index("SNAPSHOT-ENDED")].strip())


@case()
def stress_escape(context):
    """Esc stops a stress run when it is confirmed, not before, and gives all pages back"""
    with started(context, "stress -seconds 120 -heap 32M") as machine:
        machine.expect(r"stress on UEFI", 20)
        machine.send("x")  # any other key does nothing
        machine.send(ESC)
        machine.expect(r"Esc again", 15)
        machine.send("n")
        machine.settle(1.5)
        assert "STOP" not in machine.text, "it stopped although another key was pressed"
        machine.send("\x1bOP")  # F1 of a terminal, which begins with Esc
        machine.settle(1.5)
        machine.send(ESC)
        machine.expect(r"Esc again", 15)
        machine.send(ESC)
        machine.expect(r"^STOP", 15)
        expect_return(machine, ABORTED)


@case()
def selftest_escape(context):
    """Esc, confirmed, stops the self-test and gives all pages back"""
    with started(context, "selftest", variant="x86_64-check") as machine:
        machine.expect(r"\.\.\. ok", 30)
        machine.send(ESC)
        machine.expect(r"Esc again", 60)
        machine.send("y")
        machine.expect(r"^STOP", 60)
        expect_return(machine, ABORTED)


WRONG_ARGUMENTS = {
    "command": "selftst",
    "option": "stress -bogus 1",
    "no-value": "stress -seed",
    "number": "stress -seed 12x",
    "size": "stress -heap 64Q",
    "format": "selftest -format xml",
    "many": "a " * 60,
    "long": "selftest -group " + "x" * 3000,
}


@case(*WRONG_ARGUMENTS)
def wrong_arguments(context, name):
    """wrong arguments give one line of what is wrong, one of usage, and an error"""
    text = run_program(context, WRONG_ARGUMENTS[name], status=INVALID_PARAMETER)
    lines = [line for line in text.splitlines() if line.strip() and "SNAPSHOT" not in line]
    # The usage line may be wider than the screen.
    assert len(lines) >= 2 and lines[1].startswith("usage: kmalloc"), text
    return lines[0]


@case(("stress", "engine"), ("selftest", "group"))
def unknown(context, command, option):
    """an engine or a group that does not exist is refused in one sentence"""
    text = run_program(context, f"{command} -{option} nosuch", status=UNSUPPORTED)
    assert_verdict(text, "CANNOT RUN")


@case(("512M", False, 1), ("64M", True, 4))
def info(context, memory, vga, smp):
    """info tells of firmware, processors and memory"""
    text = run_program(context, "info", memory=memory, vga=vga, smp=smp)
    for wanted in (r"EDK II", r"UEFI 2\.", rf"\b{smp} processor", r"virtual machine", r"conventional", r"pool"):
        assert re.search(wanted, text), f"/{wanted}/ is not in:\n{text}"


# -- the menu ----------------------------------------------------------------------------------------------------------


@case()
def menu_keys(context):
    """letters, digits, arrows and Enter reach every screen, and Esc comes back"""
    with menu(context) as machine:
        for keys, title in (("3", r"Heap statistics"), ("4", r"Memory map .*ranges"), ("5", r"Settings\b.*\n.*\n(.*\n)*.*Heap size")):
            screen_opens(machine, keys, title)
            machine.expect_screen(r"Esc back", 10)
            machine.send(ESC)
            expect_home(machine, 10)
        screen_opens(machine, UP, r"> *4 +Memory map")  # from Settings, which was chosen last
        screen_opens(machine, ENTER, r"Memory map .*ranges")
        machine.send(ESC)
        expect_home(machine, 10)
        screen_opens(machine, UP + UP + DOWN, r"> *3 +Heap statistics")
        machine.send("zZ!\x7f")  # keys that mean nothing
        machine.settle(0.5)
        machine.expect_screen(r"> *3 +Heap statistics", 5)


@case()
def menu_selftest(context):
    """the self-test from the menu ends in a result that stays until a key"""
    with menu(context) as machine:
        machine.send("1")
        machine.expect_screen(r"\d+ of \d+", 20)
        machine.expect_screen(r"Enter back", 240)
        machine.expect_screen(r"failed 0\b", 5)
        machine.settle(1)
        before = machine.screen.text()
        machine.settle(2)
        assert machine.screen.text() == before, "the result did not stay"
        (context.folder / "result.txt").write_text(before)
        machine.send(ENTER)


@case()
def menu_settings_stress(context):
    """settings are taken or refused with a sentence; the stress run keeps to them; pause and Esc work"""
    with menu(context) as machine:
        screen_opens(machine, "5", r"Heap size")
        screen_opens(machine, DOWN + ENTER + "99999G" + ENTER, r"The heap size must lie between")
        screen_opens(machine, ESC, r"Settings")
        if "Self-test" not in machine.screen.text():
            machine.send(ESC)
        expect_home(machine, 10)
        screen_opens(machine, "5" + DOWN + ENTER + "32M" + ENTER, r"32(\.0)? ?M")
        screen_opens(machine, DOWN + ENTER + "77" + ENTER, r"Seed +77")
        screen_opens(machine, DOWN + ENTER + "6" + ENTER, r"Seconds +6\b")
        machine.send(ESC)
        expect_home(machine, 10)
        screen_opens(machine, "2", r"Stress .*seed 77")
        machine.send(" ")
        machine.expect_screen(r"PAUSED", 10)
        machine.send(" ")
        machine.expect_screen(r"Enter back", 60)
        machine.expect_screen(r"seed 77", 5)
        (context.folder / "result.txt").write_text(machine.screen.text())
        machine.send(ENTER)


@case()
def menu_stress_stop(context):
    """in the menu Esc stops a stress run only after a yes, and the program then returns "aborted" """
    with menu(context, ABORTED) as machine:
        screen_opens(machine, "2", r"Operations")
        machine.send(ESC)
        machine.expect_screen(r"Stop the run\?", 10)
        machine.send("n")
        machine.settle(1)
        assert not re.search(r"Enter back", machine.screen.text()), "it stopped after a no"
        stop_run(machine)
        machine.expect_screen(r"Enter back", 20)
        machine.send(ENTER)


@case(("64M", 1, False), ("5G", 4, False), ("512M", 1, True))
def menu_machines(context, memory, smp, vga):
    """Home comes up on small and large machines, with and without VGA"""
    with menu(context, memory=memory, smp=smp, vga=vga) as machine:
        screen = machine.screen.text()
        assert_home(screen)
        assert re.search(rf"\b{smp} x ", screen), f"not {smp} processors:\n{screen}"
        if vga:
            machine.screenshot("home.png")


# -- the driver itself ---------------------------------------------------------------------------------------------------


def run_broken(context, code):
    """Run the program with its first instructions replaced; the error that the driver raises, which must come soon."""
    broken = context.folder / "broken.efi"
    data = bytearray((context.build / "x86_64/kmalloc.efi").read_bytes())
    entry = int.from_bytes(data[64 + 40 : 64 + 44], "little")  # in .text addresses and file offsets are equal
    data[entry : entry + len(code)] = code
    broken.write_bytes(data)
    state = qemu.snapshot(context.build / "test-efi", context.build / "test-efi/snapshot-loader.efi", memory="512M")
    begin = time.monotonic()
    with qemu.restored(context.folder, state, broken, memory="512M") as machine:
        try:
            machine.expect("never printed", 60)
        except qemu.MachineError as error:
            assert time.monotonic() - begin < 30, f"it took {time.monotonic() - begin:.0f} s"
            return str(error)
    raise AssertionError("it went unnoticed")


@case()
def driver_notices_exception(context):
    """the test driver notices a firmware exception at once"""
    error = run_broken(context, b"\x0f\x0b")  # ud2
    assert qemu.EXCEPTION in error, f"another error: {error}"


@case()
def driver_notices_reset(context):
    """the test driver notices a machine that resets itself"""
    # lidt from ten zero bytes, then int3: no handler for that, nor for the fault that follows.
    error = run_broken(context, b"\x0f\x01\x1d\x01\0\0\0" + b"\xcc" + bytes(10))
    assert "guest-reset" in error, f"another error: {error}"


if __name__ == "__main__":
    main(__doc__.splitlines()[0], "test-efi")
