# SPDX-License-Identifier: MIT
"""What the program's text output promises, on every host."""

import re


def last_line(text):
    return text.rstrip("\n").rsplit("\n", 1)[-1]


def assert_verdict(text, verdict="PASS"):
    """The last line, which must begin with this word."""
    assert last_line(text).startswith(verdict), f"the last line is not {verdict}...: {last_line(text)}"
    return last_line(text)


def assert_passed(text):
    assert not re.search(r"\bFAIL", text), "a FAIL is in the output:\n" + "\n".join(re.findall(r".*\bFAIL.*", text))
    return assert_verdict(text)


def stress_figures(text):
    """What a stress run did, without what depends on the machine (times, footprint)."""
    assert_passed(text)
    line = re.search(r"^ +\d+ s +([\d,]+ operations).*(fill level \d+ %); (verified [^;]+); (refused [\d,]+);", text, re.MULTILINE)
    assert line, f"no line of figures in:\n{text}"
    return ", ".join(line.groups())


def assert_tap(text):
    """A complete TAP 13 report without a failure; how many tests it tells of."""
    lines = text.splitlines()
    assert lines[0] == "TAP version 13", f"the first line is {lines[0]!r}"
    assert not re.search(r"^not ok", text, re.MULTILINE), "a test is not ok:\n" + "\n".join(re.findall(r"not ok.*", text))
    plans = re.findall(r"^1\.\.(\d+)$", text, re.MULTILINE)
    numbers = [int(n) for n in re.findall(r"^ok (\d+)\b", text, re.MULTILINE)]
    assert len(plans) == 1 and numbers == list(range(1, int(plans[0]) + 1)), f"the plans are {plans}, the numbers {numbers}"
    return f"{len(numbers)} tests"
