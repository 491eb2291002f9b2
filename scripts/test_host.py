#!/usr/bin/python3 -B
# SPDX-License-Identifier: MIT
"""Tests on Linux: the heap and the suite through the Linux command in all its variants, and the form of the products.

usage: test_host.py [-l] [-j JOBS] [--build FOLDER] [CASE ...]

Ends with "N passed, N failed".
"""

import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import host_measure  # noqa: F401 (its cases)
import host_traces  # noqa: F401 (its cases)
from cases import case, main, run_command
from expect import assert_passed, assert_tap, last_line, stress_figures
from screen import Terminal

ROOT = pathlib.Path(__file__).resolve().parent.parent
VARIANTS = ("release", "hardened", "check", "caches", "asan")
PASSED, FAILED, STOPPED, WRONG = 0, 1, 2, 3


def program(context, variant="release"):
    return context.build / "linux" / variant / "kmalloc"


def assert_plain(text):
    """Command output can be redirected: lines of printable ASCII."""
    bad = re.search(r"[^\n\t -~]", text)
    assert not bad, f"the output holds {bad.group()!r} in {text[max(0, bad.start() - 40):bad.end() + 10]!r}"
    assert text.endswith("\n"), "the last line has no end"


# -- the command --------------------------------------------------------------------------------------------------


@case(*VARIANTS)
def selftest(context, variant):
    """the self-test passes and says which build it tested"""
    text = run_command(program(context, variant), "selftest", timeout=600)
    assert_plain(text)
    build = "check" if variant == "asan" else variant
    assert f"({build})" in text.splitlines()[0], f"the first line does not name the build: {text.splitlines()[0]}"
    return assert_passed(text)


@case("tsan")
def threads(context, variant):
    """the thread sanitizer finds nothing in what the self-test and the scaling do with several threads"""
    text = run_command(program(context, variant), "selftest", timeout=600)
    run_command(program(context, variant), "scale", "-seconds", "2", timeout=600)
    return assert_passed(text)


@case(*VARIANTS)
def selftest_tap(context, variant):
    """the self-test's TAP 13 output is complete and without a failure"""
    text = run_command(program(context, variant), "selftest", "-format", "tap", timeout=600)
    assert_plain(text)
    return assert_tap(text)


@case()
def selftest_groups(context):
    """each group of the self-test runs alone; where none has the name, all names are told"""
    text = run_command(program(context), "selftest", "-group", "nosuch", expect=WRONG)
    groups = re.findall(r"(\w+)[,.]", text[text.index("There are") :])
    for group in groups:
        assert_passed(run_command(program(context), "selftest", "-group", group, timeout=600))
    return f"{len(groups)} groups"


@case()
def selftest_starved(context):
    """a self-test that gets no memory says so, and does not pass"""
    limit = 8 << 20  # of address space: less than is kept for the program itself

    def starve():
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    for words, wanted in ((["selftest"], "lacked memory; this proves nothing"),
                          (["selftest", "-group", "growth"], "None of [0-9]+ cases can run here.*no free range")):  # fmt: skip
        text = run_command(program(context), *words, expect=WRONG, preexec_fn=starve)
        assert re.search(rf"^CANNOT RUN  selftest: .*{wanted}", text, re.MULTILINE), text


@case(*[(variant, engine) for variant in VARIANTS for engine in ("heap", "classic", "libc")])
def stress(context, variant, engine):
    """a seeded stress run passes"""
    text = run_command(program(context, variant), "stress", "-engine", engine, "-operations", 30000, "-seconds", 120,
                       "-seed", 7, "-heap", "64M", timeout=300)  # fmt: skip
    assert_plain(text)
    return assert_passed(text)


@case()
def stress_repeats(context):
    """the same seed gives the same run, another seed another one"""
    def run(seed):
        # Too few operations to fill the heap: what is refused then depends on where the kernel puts the pages.
        return stress_figures(run_command(program(context), "stress", "-operations", 2000, "-seed", seed, "-heap", "256M"))

    first, second, other = run(11), run(11), run(12)
    assert first == second, f"two runs of seed 11 differ:\n{first}\n{second}"
    assert first != other, f"seeds 11 and 12 give the same run: {first}"
    return first


@case()
def stress_time_bound(context):
    """-seconds ends a stress run"""
    begin = time.monotonic()
    assert_passed(run_command(program(context), "stress", "-seconds", 2, "-heap", "16M"))
    took = time.monotonic() - begin
    assert 1.5 < took < 20, f"-seconds 2 took {took:.1f} s"
    return f"2 s took {took:.1f} s"


@case()
def stress_interrupt(context):
    """Ctrl-C ends a stress run in good order"""
    with subprocess.Popen([program(context), "stress", "-seconds", "60", "-heap", "16M"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:  # fmt: skip
        try:
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            text = process.communicate(timeout=20)[0].decode()
        finally:
            process.kill()
    assert process.returncode in (STOPPED, -signal.SIGINT), f"it ended with {process.returncode}:\n{text}"
    return f"status {process.returncode}"


@case()
def info(context):
    """info tells version, build, processor and memory"""
    text = run_command(program(context), "info")
    assert_plain(text)
    version = re.search(r'KMALLOC_VERSION "([^"]+)"', (ROOT / "include/kmalloc.h").read_text()).group(1)
    for wanted in (version, "release", "Linux", "x86_64", "MiB"):
        assert re.search(re.escape(wanted), text) or wanted == "MiB" and "GiB" in text, f"{wanted} is not in:\n{text}"


@case()
def help_and_version(context):
    """help, -h, --help, -? and version answer in a few lines"""
    for words in (["help"], ["-h"], ["-help"], ["--help"], ["-?"]):
        text = run_command(program(context), *words)
        assert "usage: kmalloc" in text, f"{words} gives:\n{text}"
    text = run_command(program(context), "version")
    assert re.match(r"kmalloc \d+\.\d+", text), f"version gives: {text}"


WRONG_ARGUMENTS = {
    "command": ["selftst"],
    "two-commands": ["selftest", "stress"],
    "option": ["stress", "-bogus", "1"],
    "no-value": ["stress", "-seed"],
    "number": ["stress", "-seed", "12x"],
    "negative": ["stress", "-seconds", "-5"],
    "overflow": ["stress", "-seed", "18446744073709551616"],
    "size": ["stress", "-heap", "64Q"],
    "size-overflow": ["stress", "-heap", "99999999999999999999G"],
    "zero-size": ["stress", "-heap", "0"],
    "format": ["selftest", "-format", "xml"],
    "engine": ["stress", "-engine", "nosuch", "-operations", "10"],
    "group": ["selftest", "-group", "nosuch"],
    "no-bound": ["stress", "-seconds", "0"],
    "replay-no-file": ["replay"],
    "replay-two-files": ["replay", "a", "b"],
    "replay-tap": ["replay", "a", "-format", "tap"],
    "empty": [""],
}


@case(*WRONG_ARGUMENTS)
def wrong_arguments(context, name):
    """wrong arguments give a line of what is wrong and fail, and nothing runs"""
    words = WRONG_ARGUMENTS[name]
    result = subprocess.run([program(context), *words], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    text = result.stdout + result.stderr
    assert result.returncode not in (PASSED, FAILED), f"{words} ended with {result.returncode}:\n{text}"
    assert result.returncode > 0, f"{words} ended with signal {-result.returncode}"
    lines = text.strip().splitlines()
    assert 1 <= len(lines) <= 3, f"{words} gives {len(lines)} lines:\n{text}"
    assert "PASS" not in text
    return lines[0]


# -- the menu ----------------------------------------------------------------------------------------------------------


@case()
def menu(context):
    """the menu works on a terminal of 80x25: a stress run is stopped, settings are kept, Q leaves in good order"""
    with Terminal(program(context)) as terminal:
        terminal.expect(r"1 +Self-test")
        for keys, title in (("3", r"Heap statistics"), ("4", r"Memory map .*ranges"), ("5", r"Heap size")):
            terminal.send(keys)
            terminal.expect(title)
            terminal.expect(r"Esc back")
            terminal.send("\x1b")
            terminal.expect(r"1 +Self-test")
        terminal.send("2")
        terminal.expect(r"Operations")
        terminal.send("\x1b")
        terminal.expect(r"Stop the run\?")
        terminal.send("y")
        terminal.expect(r"Enter back")
        terminal.send("\r")
        terminal.expect(r"1 +Self-test")
        terminal.send("q")
        terminal.expect(r"Leave kmalloc\?")
        terminal.send("y")
        status = terminal.end()
        assert status == STOPPED, f"it ended with {status}, not {STOPPED} for a stopped run"


# -- the form of the products ---------------------------------------------------------------------------------------


@case("x86_64", "x86_64-check")
def strict_pe(context, variant):
    """kmalloc.efi keeps every rule of a strict PE file"""
    return last_line(run_command(ROOT / "scripts/check-pe.py", context.build / variant / "kmalloc.efi"))


@case()
def strict_pe_self_check(context):
    """check-pe.py notices each rule being broken"""
    return last_line(run_command(ROOT / "scripts/check-pe.py", "--self-check", context.build / "x86_64/kmalloc.efi"))


def undefined_symbols(library, folder):
    whole = folder / "whole.o"
    run_command("ld", "-r", "--whole-archive", "-o", whole, library)
    # Weak ones need not be there, and the linker makes the offset table.
    return [name for name in re.findall(r" U (\S+)", run_command("nm", "-u", whole)) if name != "_GLOBAL_OFFSET_TABLE_"]


@case("release", "hardened", "check", "caches")
def library_stands_alone(context, variant):
    """libkmalloc.a needs nothing: no libc, no compiler library"""
    missing = undefined_symbols(context.build / "linux" / variant / "libkmalloc.a", context.folder)
    assert not missing, f"undefined: {missing}"


@case("release", "hardened", "check", "caches")
def library_uses_no_fpu(context, variant):
    """libkmalloc.a leaves FPU, SSE and AVX registers alone"""
    text = run_command("objdump", "-d", "--no-show-raw-insn", context.build / "linux" / variant / "libkmalloc.a")
    used = sorted(set(re.findall(r"%[xyz]?mm\d+|%st\b", text)))
    assert "<kmalloc>:" in text, "kmalloc is not in the library"
    assert not used, f"it uses {used}"


USER = """
#include <kmalloc.h>
int main(void)
{
	static char memory[1 << 16];
	struct kheap *heap = kheap_create(memory, sizeof(memory), NULL);
	void *a = kheap_alloc(heap, 100, KMALLOC_ZERO), *b;
	kheap_free(heap, a);
	if (!kmalloc_init(memory + 0, 0, NULL) && (b = kheap_alloc(heap, 4096, 0)) != NULL)
		kheap_free(heap, b);
	return a != NULL && kheap_check(heap, NULL) == 0 ? 0 : 1;
}
"""


@case(("gcc", "c", "c17"), ("clang", "c", "c17"), ("gcc", "c++", "c++17"), ("clang", "c++", "c++17"))
def users_program(context, compiler, language, standard):
    """a user's program in C and in C++ compiles strictly, links with libkmalloc.a alone and runs"""
    source = context.folder / "user.c"
    source.write_text(USER)
    base = [compiler, f"-std={standard}", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", f"-I{ROOT}/include"]
    if compiler == "gcc" and language == "c++" and subprocess.run(["gcc", "-print-prog-name=cc1plus"], capture_output=True,
                                                                  text=True, check=True).stdout.strip() == "cc1plus":  # fmt: skip
        return "not run: this gcc has no C++"
    run_command(*base, "-x", language, "-c", source, "-o", context.folder / "user.o")
    run_command(compiler, context.folder / "user.o", context.build / "linux/libkmalloc.a", "-o", context.folder / "user")
    run_command(context.folder / "user")


# What a kernel would have: pages, and an end.
KERNEL = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
_Noreturn void panic(const char *what, const void *where);
_Noreturn void panic(const char *what, const void *where) { printf("%s at %p\\n", what, where); exit(0); }
static uintptr_t my_page_alloc(size_t n) { return (uintptr_t)aligned_alloc(4096, n * 4096); }
static void my_page_free(uintptr_t base, size_t n) { (void)n; free((void *)base); }
"""
KERNEL_MAIN = """
int main(void)
{
	static char first_memory[64 * 1024];
	void *objects[1000];

	heap_begin(first_memory);
	for (size_t i = 0; i < 1000; i++)
		if ((objects[i] = kmalloc(2 * i)) == NULL)
			panic("refused", NULL);
	for (size_t i = 0; i < 1000; i++)
		kfree(objects[i]);
	kfree(objects[999]);
	panic("not noticed", objects[999]);
}
"""


@case(*[(compiler, port) for compiler in ("gcc", "clang") for port in ("default", "own")])
def readme_kernel(context, compiler, port):
    """what the README says a kernel needs compiles without a warning, with no other flags, uses no vector register, and works"""
    readme = (ROOT / "README.md").read_text()
    example, header = (part.split("```")[0] for part in readme.split("```c\n")[1:3])
    flags = re.search(r"compiled with `([^`]*)`, and\s+where the compiler is gcc `([^`]*)`", readme).groups()
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", *flags[0].split(), *(flags[1].split() if compiler == "gcc" else [])]
    # A process may not do these two things.
    for privileged, instead in (("mov %%gs:0, %0", "xor %0, %0"), ("; cli", "")):
        assert privileged in header, f"{privileged} is not in the README's port"
        header = header.replace(privileged, instead)
    (context.folder / "my_port.h").write_text(header)
    (context.folder / "kernel.c").write_text(KERNEL + example + KERNEL_MAIN)
    include = [f"-I{ROOT}/include", f"-I{context.folder}"]
    include += ["-mno-red-zone", '-DKMALLOC_PORT_HEADER="my_port.h"'] if port == "own" else []
    objects = []
    for source in sorted((ROOT / "app/heap").glob("*.c")):
        objects.append(context.folder / f"{source.stem}.o")
        run_command(compiler, *flags, *include, "-c", "-o", objects[-1], source, timeout=120)
    assert not re.search(r"%[xy]mm", run_command("objdump", "-d", *objects)), "vector registers are used"
    run_command(compiler, "-std=gnu17", "-Wall", "-Wextra", "-Werror", *include, "-o", context.folder / "kernel",
                context.folder / "kernel.c", *objects)  # fmt: skip
    text = run_command(context.folder / "kernel")
    assert re.fullmatch(r"double free at 0x[0-9a-f]+\n", text), f"it printed {text}"


@case()
def image(context):
    """the stick image holds a sound FAT32 ESP with the program and the Shell's files"""
    picture = context.build / "kmalloc.img"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    environment = dict(os.environ, PATH=path)
    text = run_command("sgdisk", "-v", "-p", picture, env=environment)
    assert "No problems found" in text and "EF00" in text, text
    partition = context.folder / "esp"
    run_command("dd", f"if={picture}", f"of={partition}", "bs=1M", "skip=1", "count=62", "conv=sparse")
    text = run_command("fsck.fat", "-n", "-v", partition, env=environment)
    assert "32 bit entries" in text and "2048 hidden sectors" in text, text
    for name in ("EFI/BOOT/BOOTX64.EFI", "kmalloc.efi"):
        copy = context.folder / name.rsplit("/", maxsplit=1)[-1]
        run_command("mcopy", "-n", "-o", "-i", f"{picture}@@1M", f"::/{name}", copy)
        assert copy.read_bytes() == (context.build / "x86_64/kmalloc.efi").read_bytes(), f"{name} is another file"
    for name in ("startup.nsh", "kmalloc.man"):
        copy = context.folder / name
        run_command("mcopy", "-n", "-o", "-i", f"{picture}@@1M", f"::/{name}", copy)
        assert copy.read_bytes() == (ROOT / "esp" / name).read_bytes(), f"{name} is another file"
    partition.unlink()


def copy_tree(folder):
    """The sources as a fresh clone has them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("Makefile", "app", "include", "esp", "scripts"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    return folder


def clean_environment():
    """Without what make hands down to a make inside it."""
    return {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "MFLAGS"}


def make(folder, *words):
    return run_command("make", "-C", folder, *words, timeout=900, env=clean_environment())


@case()
def reproducible(context):
    """program and image are the same bytes when built in another folder"""
    with tempfile.TemporaryDirectory(prefix="a-folder-with-another-and-longer-name-") as folder:
        tree = copy_tree(pathlib.Path(folder) / "kmalloc")
        build_id = (context.build / "build-id").read_text().strip()
        make(tree, "-j2", f"BUILD_ID={build_id}", "build/x86_64/kmalloc.efi", "build/kmalloc.img")
        for name in ("x86_64/kmalloc.efi", "kmalloc.img"):
            assert (tree / "build" / name).read_bytes() == (context.build / name).read_bytes(), f"{name} differs"


@case()
def incremental(context):
    """make does nothing twice, follows headers, and follows flags"""
    with tempfile.TemporaryDirectory(prefix="kmalloc-") as folder:
        tree = copy_tree(pathlib.Path(folder))
        library = "build/linux/libkmalloc.a"
        n_sources = sum(len(list((tree / folder).glob("*.c"))) for folder in ("app/heap", "app/linux/port"))

        def compiled(*words):
            return make(tree, library, *words).count("  CC ")

        assert compiled("-j2") == n_sources, "the first make did not compile each source once"
        assert compiled() == 0, "a second make compiled something"
        assert compiled("-j2", "CFLAGS=-O1") == n_sources, "changed flags did not make everything be compiled"
        assert compiled("CFLAGS=-O1") == 0, "the same flags once more compiled something"
        time.sleep(1)
        (tree / "include/kmalloc_port.h").touch()
        assert compiled("-j2", "CFLAGS=-O1") == n_sources, "a changed header did not make its users be compiled"
        next((tree / "app/heap").glob("*.c")).touch()
        assert compiled("CFLAGS=-O1") == 1, "a changed source did not make it alone be compiled"


@case()
def second_compiler(context):
    """clang compiles everything without a warning, and what it makes passes"""
    build = context.folder / "build"
    make(ROOT, "-j2", "CC=clang", f"BUILD={build}", f"{build}/x86_64/kmalloc.efi", f"{build}/x86_64-check/kmalloc.efi",
         f"{build}/linux/libkmalloc.a", *[f"{build}/linux/{v}/kmalloc" for v in ("release", "hardened", "check")])  # fmt: skip
    for variant in ("release", "hardened", "check"):
        missing = undefined_symbols(build / "linux" / variant / "libkmalloc.a", context.folder)
        assert not missing, f"{variant}: undefined: {missing}"
    run_command(ROOT / "scripts/check-pe.py", build / "x86_64/kmalloc.efi")
    return assert_passed(run_command(build / "linux/release/kmalloc", "selftest"))


if __name__ == "__main__":
    if not pathlib.Path("Makefile").exists():
        sys.exit("test_host.py is run from the top of the tree")
    main(__doc__.splitlines()[0], "test-host")
