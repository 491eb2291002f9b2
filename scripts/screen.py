# SPDX-License-Identifier: MIT
"""What a terminal would show: enough of VT100 for UEFI firmware's serial console and for the Linux command."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time


class Screen:
    SEQUENCE = re.compile(r"\x1b\[([0-9;=?]*)([A-Za-z])")

    def __init__(self, columns=160, rows=50):
        self.columns, self.rows = columns, rows
        self.pending = ""
        self.clear()

    def clear(self):
        self.cells = [[" "] * self.columns for _ in range(self.rows)]
        self.row = self.column = 0

    def text(self):
        return "\n".join("".join(row).rstrip() for row in self.cells).rstrip() + "\n"

    def feed(self, text):
        text, self.pending = self.pending + text, ""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                sequence = self.SEQUENCE.match(text, at)
                if sequence:
                    self.command(sequence.group(2), [int(n or 0) for n in re.findall(r"\d+", sequence.group(1))])
                    at = sequence.end()
                    continue
                if len(text) - at < 12:
                    self.pending = text[at:]
                    return
            else:
                self.put(text[at])
            at += 1

    def command(self, letter, numbers):
        n = numbers[0] if numbers else 1
        if letter == "H":
            self.row = min(max((numbers or [1])[0], 1), self.rows) - 1
            self.column = min(max((numbers + [1, 1])[1], 1), self.columns) - 1
        elif letter == "J":
            self.clear()
        elif letter == "K":
            self.cells[self.row][self.column :] = [" "] * (self.columns - self.column)
        elif letter in "AB":
            self.row = min(max(self.row + (n if letter == "B" else -n), 0), self.rows - 1)
        elif letter in "CD":
            self.column = min(max(self.column + (n if letter == "C" else -n), 0), self.columns - 1)

    def put(self, character):
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.down()
        elif character == "\b":
            self.column = max(self.column - 1, 0)
        elif character >= " ":
            if self.column == self.columns:
                self.column = 0
                self.down()
            self.cells[self.row][self.column] = character
            self.column += 1

    def down(self):
        if self.row + 1 < self.rows:
            self.row += 1
        else:
            self.cells = self.cells[1:] + [[" "] * self.columns]


class Terminal:
    """A command on a terminal of its own, and what that shows."""

    def __init__(self, *command, rows=25, environment=None):
        self.screen = Screen(80, rows)
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 80, 0, 0))
        self.modes = termios.tcgetattr(slave)
        self.slave = slave
        environment = dict(environment or os.environ, TERM="vt100")
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment,
                                        start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # what it has started, too
        except ProcessLookupError:
            pass
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def expect(self, pattern, seconds=20):
        limit = time.monotonic() + seconds
        while not re.search(pattern, self.screen.text(), re.MULTILINE):
            assert time.monotonic() < limit, f"/{pattern}/ did not come; the screen is:\n{self.screen.text()}"
            self.read(0.1)
        self.read(0.2)

    def read(self, quiet, limit=1):
        """Until nothing has come for so long, or the limit is over."""
        end = time.monotonic() + limit
        while time.monotonic() < end and select.select([self.master], [], [], quiet)[0]:
            self.screen.feed(os.read(self.master, 65536).decode("latin-1"))

    def send(self, keys):
        os.write(self.master, keys.encode())
        time.sleep(0.1)

    def end(self):
        """The exit status; what is still written is read, so that the command can end."""
        limit = time.monotonic() + 10
        while self.process.poll() is None and time.monotonic() < limit:
            self.read(0.1)
        assert self.process.poll() is not None, f"it did not end; the screen is:\n{self.screen.text()}"
        assert termios.tcgetattr(self.slave) == self.modes, "the terminal's modes were not restored"
        return self.process.returncode
