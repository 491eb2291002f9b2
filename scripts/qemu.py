# SPDX-License-Identifier: MIT
"""A PC with UEFI firmware in QEMU, driven over its serial line: the machine for scripts/test_efi.py.

Every wait has a limit, a firmware exception or a reset ends the wait at once, and a machine never outlives its `with` block.
Nothing but Python's own modules is needed.
"""

import hashlib
import json
import os
import pathlib
import re
import select
import socket
import subprocess
import tempfile
import threading
import time

from screen import Screen

QEMU = "qemu-system-x86_64"
FIRMWARE = pathlib.Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
VARIABLES = pathlib.Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
EXCEPTION = "!!!! X64 Exception"

# The limits below are what a quiet machine needs with some margin; this many times that is waited.
TIME_FACTOR = float(os.environ.get("KMALLOC_TEST_TIME_FACTOR", "2"))


class MachineError(AssertionError):
    """The machine did something else than was expected of it."""


class Qmp:
    """QEMU's control line: one command at a time, events kept."""

    def __init__(self, connection):
        self.connection, self.file = connection, connection.makefile("rw")
        self.events = []
        self.read(5)
        self.command("qmp_capabilities")

    def read(self, limit):
        self.connection.settimeout(limit)
        try:
            line = self.file.readline()
        except ConnectionError:
            line = ""
        if not line:
            raise MachineError("QEMU closed its control line")
        message = json.loads(line)
        if "event" in message:
            self.events.append(message)
        return message

    def command(self, name, **arguments):
        self.file.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            message = self.read(60)
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise MachineError(f"QEMU refused {name}: {message['error']['desc']}")

    def drain(self):
        """Events up to QEMU's end."""
        try:
            while True:
                self.read(5)
        except (MachineError, OSError, ValueError):
            pass


class Machine:
    """One PC. `options` are QEMU's; the serial line goes to folder/serial.log."""

    def __init__(self, folder, memory="512M", vga=False, smp=1, options=()):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.text = ""  # the serial line with its escape sequences taken out
        self.mark = 0   # what expect() has seen already ends here
        self.tail = ""  # of what has come: an escape sequence that may not be complete
        self.screen = Screen()
        self.shutdown_reason = None
        self.process = self.qmp = self.log = None
        self.sockets = tempfile.TemporaryDirectory(prefix="kmalloc-")
        self.arguments = [
            QEMU, "-machine", "q35,accel=tcg", "-m", memory, "-smp", str(smp), "-nodefaults", "-net", "none",
            "-display", "none", "-no-reboot",
            "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE}",
            "-drive", f"if=pflash,format=raw,unit=1,snapshot=on,file={VARIABLES}",
            *(["-vga", "std"] if vga else []),
            # A pipe holds whole screens. A socket holds a few hundred single bytes, and firmware drops what is not taken in a second.
            "-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial",
            "-qmp", f"unix:{self.sockets.name}/qmp,server=on,wait=off",
            *options,
        ]  # fmt: skip

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.kill()
            self.process.wait()
        pipes = (self.process.stdin, self.process.stdout) if self.process else ()
        for thing in (*pipes, self.qmp and self.qmp.connection, self.log):
            if thing:
                thing.close()
        self.sockets.cleanup()

    def start(self):
        self.log = open(self.folder / "serial.log", "wb")
        with open(self.folder / "qemu.log", "wb") as errors:
            self.process = subprocess.Popen(self.arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0)
        self.qmp = Qmp(self.connect("qmp"))

    def connect(self, name):
        connection = socket.socket(socket.AF_UNIX)
        limit = time.monotonic() + 10 * TIME_FACTOR
        while True:
            try:
                connection.connect(f"{self.sockets.name}/{name}")
                return connection
            except OSError:
                if self.process.poll() is not None or time.monotonic() > limit:
                    connection.close()
                    raise MachineError("QEMU did not start: " + (self.folder / "qemu.log").read_text().strip()) from None
                time.sleep(0.02)

    # -- what the machine says ---------------------------------------------------------------------------------

    def read(self, seconds):
        """Take in what the serial line brings within this time; False when the machine has ended."""
        if not select.select([self.process.stdout], [], [], max(seconds, 0))[0]:
            return True
        data = os.read(self.process.stdout.fileno(), 65536)
        if not data:
            return False
        self.log.write(data)
        self.log.flush()
        text = data.decode("latin-1")
        self.screen.feed(text)
        plain = Screen.SEQUENCE.sub("", self.tail + text)
        cut = plain.rfind("\x1b")
        cut = cut if 0 <= cut and len(plain) - cut < 12 else len(plain)
        self.text += plain[:cut].replace("\r", "")
        self.tail = plain[cut:]
        if EXCEPTION in self.text[-len(text) - 100 :]:
            self.settle(0.5)
            raise MachineError("the firmware reports an exception:\n" + self.text[self.text.index(EXCEPTION) :][:2000])
        return True

    def settle(self, quiet, limit=3):
        """Read on until nothing has come for so long; a screen that never rests is left after `limit` seconds."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            before = self.log.tell()
            if not self.read_quietly(quiet) or self.log.tell() == before:
                return

    def read_quietly(self, seconds):
        try:
            return self.read(seconds)
        except MachineError:
            return True

    def wait(self, condition, what, seconds):
        """Until condition() is true; it is asked each time when something has come."""
        limit = time.monotonic() + seconds * TIME_FACTOR
        while True:
            found = condition()
            if found:
                return found
            left = limit - time.monotonic()
            if left <= 0:
                raise MachineError(f"{what} did not come within {seconds} s; the last lines were:\n{self.last_lines()}")
            if not self.read(min(left, 1)):
                found = condition()
                if found:
                    return found
                self.end_reason()
                raise MachineError(f"the machine ended ({self.shutdown_reason}) before {what} came; the last lines were:\n"
                                   f"{self.last_lines()}")

    def last_lines(self, n=12):
        return "\n".join("    " + line for line in self.text.splitlines()[-n:])

    def expect(self, pattern, seconds=30):
        """Wait until the regular expression has come after what was expected before; returns the match."""
        expression = re.compile(pattern, re.MULTILINE)
        match = self.wait(lambda: expression.search(self.text, self.mark), f"/{pattern}/", seconds)
        self.mark = match.end()
        return match

    def expect_screen(self, pattern, seconds=30):
        """Wait until the screen shows the regular expression; returns the match."""
        expression = re.compile(pattern, re.MULTILINE)
        return self.wait(lambda: expression.search(self.screen.text()), f"/{pattern}/ on the screen", seconds)

    def end_reason(self):
        if self.shutdown_reason is None:
            self.qmp.drain()
            reasons = [e["data"].get("reason") for e in self.qmp.events if e["event"] == "SHUTDOWN"]
            self.shutdown_reason = reasons[-1] if reasons else "QEMU died"
        return self.shutdown_reason

    def expect_end(self, reason="guest-shutdown", seconds=30):
        """Wait until the machine has switched itself off ("guest-shutdown") or restarted ("guest-reset")."""
        limit = time.monotonic() + seconds * TIME_FACTOR
        while self.read(0.2):
            if time.monotonic() > limit:
                raise MachineError(f"the machine still runs after {seconds} s; the last lines were:\n{self.last_lines()}")
        if self.end_reason() != reason:
            raise MachineError(f"the machine ended with {self.shutdown_reason}, not {reason}")

    # -- what is said to it --------------------------------------------------------------------------------------

    def send(self, keys):
        """Type on the serial line. One key at a time, as a person would: the firmware's input buffer is short."""
        for key in re.findall(r"\x1b\[.|.", keys, re.DOTALL):
            self.process.stdin.write(key.encode("latin-1"))
            time.sleep(0.05)

    def press(self, *keys):
        """Press keys (QEMU's names for them) on the PC's own keyboard."""
        for key in keys:
            self.qmp.command("send-key", keys=[{"type": "qcode", "data": key}])
            time.sleep(0.1)

    def screenshot(self, name="screen.png"):
        path = self.folder / name
        self.qmp.command("screendump", filename=str(path.resolve()), format="png")
        return path

    def save_failure(self):
        """What can be seen of the machine now."""
        (self.folder / "screen.txt").write_text(self.screen.text())
        try:
            self.screenshot()
        except (MachineError, OSError, ValueError):
            pass  # without VGA there is no picture; with the machine gone neither


# -- a machine whose firmware has started already ----------------------------------------------------------------

_snapshot_lock = threading.Lock()


def snapshot(folder, loader, **hardware):
    """The file with the state of such a machine; made when there is none, or when QEMU, firmware or loader are others."""
    version = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    key = hashlib.sha256(f"{version}{FIRMWARE.stat().st_mtime_ns}".encode() + loader.read_bytes()).hexdigest()
    name = "-".join(["snapshot", *(f"{part}={value}" for part, value in sorted(hardware.items()))])
    state, key_file = pathlib.Path(folder) / f"{name}.state", pathlib.Path(folder) / f"{name}.key"
    with _snapshot_lock:
        if not (state.exists() and key_file.exists() and key_file.read_text() == key):
            with Machine(pathlib.Path(folder) / name, options=["-kernel", str(loader)], **hardware) as machine:
                machine.expect("SNAPSHOT-READY", 60)
                save_state(machine, state)
            key_file.write_text(key)
    return state


def save_state(machine, state):
    new = state.with_suffix(".new")
    machine.qmp.command("migrate", uri=f"exec:cat > {new.resolve()}")
    limit = time.monotonic() + 60 * TIME_FACTOR
    while True:
        status = machine.qmp.command("query-migrate").get("status")
        if status == "completed":
            break
        if status in ("failed", "cancelled") or time.monotonic() > limit:
            raise MachineError(f"the machine's state could not be saved: {status}")
        time.sleep(0.05)
    new.rename(state)


def restored(folder, state, program, arguments="", **hardware):
    """A machine that goes on from the saved state and runs the program with these arguments."""
    options = ["-incoming", f"exec:cat {state.resolve()}", "-fw_cfg", f"name=opt/kmalloc/program,file={program}"]
    if arguments:
        options += ["-fw_cfg", "name=opt/kmalloc/arguments,string=" + arguments.replace(",", ",,")]
    return Machine(folder, options=options, **hardware)
