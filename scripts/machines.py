# SPDX-License-Identifier: MIT
"""The machines that scripts/test_efi.py needs: switched on with a stick, or started with a program; and what it expects of all."""

import contextlib

import qemu

# EFI status codes as EFI_ERROR sets them; the Shell shows them without the top bit.
SUCCESS, ERROR = 0, 1 << 63
LOAD_ERROR, INVALID_PARAMETER, UNSUPPORTED, ABORTED = ERROR | 1, ERROR | 2, ERROR | 3, ERROR | 21


class Watched:
    """A machine whose screen is kept when the case fails."""

    def __init__(self, machine):
        self.machine = machine

    def __enter__(self):
        return self.machine.__enter__()

    def __exit__(self, kind, *rest):
        if kind:
            self.machine.save_failure()
        self.machine.__exit__(kind, *rest)


def usb_stick(image, *more):
    drive = ",".join(["if=none", "id=stick", "format=raw", f"file={image}", *more])
    return ["-device", "qemu-xhci", "-drive", drive, "-device", "usb-storage,drive=stick"]


def booted(context, image, *drive_options, **hardware):
    """A machine that is switched on with this image as its USB stick."""
    return Watched(qemu.Machine(context.folder, options=usb_stick(image, *drive_options), **hardware))


def started(context, arguments="", variant="x86_64", **hardware):
    """A machine whose firmware is up already and starts the program now."""
    hardware.setdefault("memory", "512M")
    loader = context.build / "test-efi/snapshot-loader.efi"
    state = qemu.snapshot(context.build / "test-efi", loader, **hardware)
    return Watched(qemu.restored(context.folder, state, context.build / variant / "kmalloc.efi", arguments, **hardware))


def expect_return(machine, status, seconds=60):
    """The program returns with this status, and every page is the firmware's again."""
    match = machine.expect(r"SNAPSHOT-ENDED status (0x[0-9a-f]+) pages before (0x[0-9a-f]+) after (0x[0-9a-f]+) end", seconds)
    found, before, after = (int(group, 16) for group in match.groups())
    assert found == status, f"the program returned {found:#x}, not {status:#x}; its last lines:\n{machine.last_lines()}"
    assert before == after, f"{after - before} pages were not given back"
    machine.expect_end()


def run_program(context, arguments, status=SUCCESS, seconds=120, **options):
    """Run a command to its end; what it printed."""
    with started(context, arguments, **options) as machine:
        expect_return(machine, status, seconds)
        return machine.text[: machine.text.index("SNAPSHOT-ENDED")].strip("\n")


def expect_home(machine, seconds=60):
    machine.expect_screen(r"1 +Self-test", seconds)
    machine.expect_screen(r"Q +Quit", 5)
    machine.settle(0.3)


def screen_opens(machine, keys, pattern):
    machine.send(keys)
    machine.expect_screen(pattern, 15)
    machine.settle(0.3)


def stop_run(machine):
    """Esc and yes, while something runs in the menu."""
    machine.send("\x1b")
    machine.expect_screen(r"Stop the run\?", 10)
    machine.send("y")


def quit_menu(machine):
    machine.send("q")
    machine.expect_screen(r"Leave kmalloc\?", 10)
    machine.send("y")


def quit_to_firmware(machine):
    quit_menu(machine)
    machine.expect_screen(r"Boot Manager|Device Manager", 30)


@contextlib.contextmanager
def menu(context, status=SUCCESS, **hardware):
    """The program's menu at Home, to which the case comes back in the end; then Q, and the program returns this status."""
    with started(context, **hardware) as machine:
        expect_home(machine)
        yield machine
        expect_home(machine, 10)
        quit_menu(machine)
        expect_return(machine, status)
