# SPDX-License-Identifier: MIT
"""Named test cases for the test scripts: a decorator that registers them, and a main() that runs those asked for.

A case is a function that returns when all is well and raises AssertionError when not; what it returns, if anything, is a short
remark. Cases run side by side, so each uses only its own folder.
"""

import argparse
import concurrent.futures
import os
import pathlib
import subprocess
import sys
import time
import traceback

_cases = {}


class Context:
    """Where a case works."""

    def __init__(self, build, folder):
        self.build, self.folder = build, folder
        folder.mkdir(parents=True, exist_ok=True)


def case(*parameters, name=None):
    """Register a function as a case; with parameters, as one case for each, named function-parameter."""

    def register(function):
        base = name or function.__name__.replace("_", "-")
        for parameter in parameters or [None]:
            if parameter is None:
                _cases[base] = (function, ())
            else:
                values = parameter if isinstance(parameter, tuple) else (parameter,)
                _cases["-".join([base, *(str(v) for v in values)])] = (function, values)
        return function

    return register


def describe(function):
    return (function.__doc__ or "").strip().splitlines()[0]


def run_command(*command, expect=0, timeout=300, **options):
    """Run a command, check its exit status, return what it printed (both streams)."""
    command = [str(word) for word in command]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                            timeout=timeout, **options)  # fmt: skip
    text = result.stdout.decode("utf-8", "replace")
    if expect is not None and result.returncode != expect:
        last = "\n".join("    " + line for line in text.splitlines()[-15:])
        raise AssertionError(f"`{' '.join(command)}` ended with {result.returncode}, not {expect}; its last lines:\n{last}")
    return text


def attempt(name, build, folder):
    function, parameters = _cases[name]
    begin = time.monotonic()
    try:
        remark, error = function(Context(build, folder / name), *parameters), None
    except (AssertionError, subprocess.TimeoutExpired) as failure:
        remark, error = None, str(failure) or traceback.format_exc()
    except Exception:  # a fault of the test itself is a failure too
        remark, error = None, traceback.format_exc()
    return name, time.monotonic() - begin, remark, error


def report(name, seconds, remark, error):
    text = describe(_cases[name][0]) + (f" ({remark})" if remark else "")
    print(f"{'FAIL' if error else 'ok  '}  {name:<30} {seconds:6.1f} s  {text}", flush=True)
    if error:
        print("\n".join("      " + line for line in error.splitlines()), flush=True)


def main(title, folder):
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("names", nargs="*", help="cases to run; a word stands for all whose names begin with it; without any, all run")
    parser.add_argument("-l", "--list", action="store_true", help="list the cases")
    parser.add_argument("-j", "--jobs", type=int, default=min(2, os.cpu_count() or 1), help="cases at a time")
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"), help="where the products are")
    options = parser.parse_args()
    if options.list:
        for name, (function, _) in _cases.items():
            print(f"{name:<30} {describe(function)}")
        return
    chosen = []
    for wanted in options.names or _cases:
        found = [wanted] if wanted in _cases else [name for name in _cases if name.startswith(wanted + "-")]
        if not found:
            sys.exit(f"there is no case {wanted}; -l lists them")
        chosen += found

    n_failed = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(attempt, name, options.build.resolve(), options.build.resolve() / folder) for name in chosen]
        for run in concurrent.futures.as_completed(runs):
            result = run.result()
            report(*result)
            n_failed += result[3] is not None
    print(f"{len(chosen) - n_failed} passed, {n_failed} failed")
    sys.exit(1 if n_failed else 0)
