#!/usr/bin/python3 -B
# SPDX-License-Identifier: MIT
"""Tests of libkmalloc.so: what programs may expect of malloc, and real programs, whose output must be what it is without the library.

usage: test_preload.py [-l] [-j JOBS] [--build FOLDER] [CASE ...]

Ends with "N passed, N failed".
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from cases import case, main, run_command
from expect import last_line

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ROOT / "scripts/preload"
LIBRARIES = {"release": "libkmalloc.so", "hardened": "libkmalloc-hardened.so"}
PLAIN = "plain"  # without a library
PYTHON = "/usr/bin/python3"


def environment(context, variant, **more):
    """A fixed environment, so that two runs differ in the library alone."""
    result = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(context.folder), "LC_ALL": "C.UTF-8", "TZ": "UTC", **more}
    if variant != PLAIN:
        library = context.build / "linux" / LIBRARIES[variant]
        assert library.exists(), f"{library} was not built"
        result["LD_PRELOAD"] = str(library)
    return result


def run(context, variant, *command, timeout=120, expect=0, more=None, **options):
    return run_command(*command, expect=expect, timeout=timeout, env=environment(context, variant, **(more or {})), **options)


def same_output(context, variant, work):
    """work(variant, folder) returns text; with the library it must be what it is without."""
    texts = []
    for which in (PLAIN, variant):
        folder = context.folder / "work"  # the same for both: programs print paths
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        texts.append(work(which, folder))
    plain, ours = (text.splitlines() for text in texts)
    if plain != ours:
        first = next((i for i, (a, b) in enumerate(zip(plain, ours)) if a != b), min(len(plain), len(ours)))
        raise AssertionError(f"line {first + 1} of the output differs:\nwithout: {plain[first:first + 3]}\nwith:    {ours[first:first + 3]}")
    assert plain, "there was no output"
    return f"{len(plain)} equal lines"


def snapshot(context):
    """A copy of the sources, so that two runs see the same even while somebody edits."""
    copy = context.folder / "sources"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in ("app", "include", "scripts"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Makefile", copy)
    return copy


# -- what malloc promises ---------------------------------------------------------------------------------------------


def compile_probe(context):
    probe = context.folder / "probe"
    run_command("gcc", "-std=gnu17", "-O2", "-Wall", "-Wextra", "-Werror", "-fno-builtin", "-pthread", "-o", probe,
                *sorted(SOURCES.glob("*.c")))  # fmt: skip
    names = run_command(probe, "-l").split()
    assert len(names) == len(set(names)) > 20, f"the probes are {names}"
    return probe, names


MISUSES = ("double-free", "double-free-large", "foreign-stack", "foreign-low", "interior", "misaligned", "realloc-freed",
           "wrong-size", "overrun")  # fmt: skip


@case(*LIBRARIES)
def probes(context, variant):
    """every function keeps its promises: errno, alignment, sizes, threads, fork, limits, memory given back"""
    probe, names = compile_probe(context)
    more = {"PROBE_HARDENED": "1"} if variant == "hardened" else {}
    chosen = [name for name in names if name not in MISUSES]
    for name in chosen:
        text = run(context, variant, probe, name, more=more)
        assert last_line(text) == "1 probes passed", f"{name} printed {text}"
    return f"{len(chosen)} probes"


MISUSE_NAMES = {
    "double-free": "double free", "double-free-large": "double free", "foreign-stack": "pointer from elsewhere",
    "foreign-low": "pointer from elsewhere", "interior": "pointer into an object", "misaligned": "misaligned pointer",
    "realloc-freed": "double free", "wrong-size": "free with a wrong size", "overrun": "overrun of an object|damaged tag",
}  # fmt: skip


@case(*LIBRARIES)
def misuse(context, variant):
    """misuse is reported in one line with class and address, and the program is stopped"""
    probe, names = compile_probe(context)
    assert set(MISUSES) <= set(names), f"not all of {MISUSES} are in the program"
    for name in MISUSES:
        text = run(context, variant, probe, name, expect=-signal.SIGABRT)
        lines = text.splitlines()
        assert len(lines) == 1 and re.match(rf"kmalloc: ({MISUSE_NAMES[name]}) at 0x[0-9a-f]+", text), f"{name} printed {lines}"
    return f"{len(MISUSES)} kinds"


@case(*LIBRARIES)
def operators(context, variant):
    """C++'s operators in all forms, bad_alloc, new handlers, containers in threads; also where a program replaced some"""
    for name, flags in (("operators", []), ("replaced", ["-DREPLACE_OPERATORS"])):
        program = context.folder / name
        run_command("g++", "-std=c++17", "-O2", "-Wall", "-Wextra", "-pthread", *flags, "-o", program, SOURCES / "operators.cpp")
        for which in (PLAIN, variant):
            text = run(context, which, program)
            assert text == "operators passed\n", f"{name} ({which}) printed {text}"


@case(*LIBRARIES)
def deepbind(context, variant):
    """a library opened with RTLD_DEEPBIND, by a name that its opener's search path leads to, has the program's malloc"""
    (context.folder / "extensions").mkdir(exist_ok=True)
    link = ["-shared", "-fPIC", "-fno-builtin", "-fno-optimize-sibling-calls", "-O2", "-Wall", "-Wextra", "-Werror"]
    run_command("gcc", *link, "-o", context.folder / "extensions/libinner.so", SOURCES / "deepbind/inner.c")
    run_command("gcc", *link, "-Wl,-rpath,$ORIGIN/extensions,--enable-new-dtags", "-o", context.folder / "libouter.so",
                SOURCES / "deepbind/outer.c")  # fmt: skip
    run_command("gcc", "-fno-builtin", "-O2", "-Wall", "-Wextra", "-Werror", "-o", context.folder / "deepbind",
                SOURCES / "deepbind/program.c", context.folder / "libouter.so", "-Wl,-rpath,$ORIGIN")  # fmt: skip
    for which in (PLAIN, variant):
        text = run(context, which, context.folder / "deepbind")
        assert text == "deepbind passed\n", f"({which}) it printed {text}"


@case("release", "tsan")
def thread_numbers(context, variant):
    """threads have unique numbers, the lowest that are free, and give them back when they end; also under the thread sanitizer"""
    flags = ["-fsanitize=thread"] if variant == "tsan" else []
    program = context.folder / "numbers"
    run_command("gcc", "-std=gnu17", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", *flags, f"-I{ROOT}/include",
                '-DKMALLOC_PORT_HEADER="../app/linux/port/port.h"', "-o", program, SOURCES / "port/numbers.c",
                ROOT / "app/linux/port/cpu.c")  # fmt: skip
    text = run(context, PLAIN, program)
    assert text == "numbers passed\n", f"it printed {text}"


@case(*LIBRARIES)
def exports(context, variant):
    """nothing is exported but malloc's family, the operators, dlopen and setrlimit, and nothing but the C library is needed"""
    library = context.build / "linux" / LIBRARIES[variant]
    names = set(re.findall(r" [A-Z] (\S+)", run_command("nm", "-D", "--defined-only", library)))
    wanted = set("malloc calloc realloc reallocarray free free_sized free_aligned_sized posix_memalign aligned_alloc memalign "
                 "valloc pvalloc malloc_usable_size malloc_trim cfree __libc_malloc __libc_calloc __libc_realloc __libc_memalign "
                 "__libc_valloc __libc_pvalloc __libc_free dlopen setrlimit setrlimit64 prlimit prlimit64".split())  # fmt: skip
    assert {n for n in names if not n.startswith(("_Zn", "_Zd"))} == wanted, f"it exports {sorted(names)}"
    assert len(names) == len(wanted) + 20, f"it exports {sorted(names)}"
    needed = re.findall(r"NEEDED.*\[(.*)\]", run_command("readelf", "-d", library))
    assert needed == ["libc.so.6"], f"it needs {needed}"


# -- real programs ----------------------------------------------------------------------------------------------------


PYTHON_TESTS = {
    "json": ["test_json"],
    "re": ["test_re"],
    "threading": ["test_threading"],
    "multiprocessing": ["-m", "*WithProcessesTestQueue*", "-m", "*WithProcessesTestPool.test_[a-i]*", "-m", "*WithProcessesTestLock*",
                        "test_multiprocessing_fork"],
}  # fmt: skip


@case(*[(variant, name) for variant in LIBRARIES for name in PYTHON_TESTS])
def python_tests(context, variant, name):
    """python3 passes its own tests (with PYTHONMALLOC=malloc: no pool of its own in between)"""
    text = run(context, variant, PYTHON, "-B", "-m", "test", "-u", "none", *PYTHON_TESTS[name], timeout=150, cwd=context.folder,
               more={"PYTHONMALLOC": "malloc"})  # fmt: skip
    assert last_line(text) == "Tests result: SUCCESS", text[-2000:]
    assert "1 test OK." in text, text[-2000:]


PYTHON_PROGRAM = """
import collections, decimal, hashlib, json, random, re, subprocess, sys, zlib
r = random.Random(5)
words = ["".join(r.choice("abcdefgh") for _ in range(r.randint(1, 9))) for _ in range(60000)]
counts = collections.Counter(words)
print(counts.most_common(20))
tree = {w: {"n": n, "l": list(w), "f": n / 7} for w, n in counts.items()}
text = json.dumps(tree, sort_keys=True)
print(len(text), hashlib.sha256(text.encode()).hexdigest(), json.loads(text) == tree)
print(len(re.findall(r"(a+b|c)[d-f]*", text)), zlib.crc32(zlib.compress(text.encode())))
print(sum(decimal.Decimal(1) / n for n in range(1, 3000)), 7 ** 9000 % 10 ** 30)
big = bytearray()
for i in range(300):
    big += bytes([i % 256]) * 30000
print(hashlib.md5(big).hexdigest(), sys.getsizeof(big) > 0)
print(subprocess.run([sys.executable, "-c", "print(sum(range(10**6)))"], capture_output=True, text=True).stdout)
"""


@case(*LIBRARIES)
def python(context, variant):
    """a python3 program prints the same"""
    return same_output(context, variant, lambda which, folder: run(context, which, PYTHON, "-c", PYTHON_PROGRAM,
                                                                   more={"PYTHONMALLOC": "malloc"}))  # fmt: skip


SQL = """
create table t(id integer primary key, name text, value real, data blob);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 40000)
insert into t select i, 'name ' || (i * 7919 % 10007), i * 0.5, zeroblob(i % 300) from n;
create index by_name on t(name);
select count(*), sum(value), max(length(data)) from t;
select name, count(*) as c from t group by name order by c desc, name limit 20;
update t set data = zeroblob(5000) where id % 97 = 0;
delete from t where id % 3 = 0;
select a.id, b.name from t a join t b on a.name = b.name and a.id < b.id order by a.id, b.id limit 200;
select group_concat(name) from (select name from t order by name desc limit 500);
vacuum;
pragma integrity_check;
"""


@case(*LIBRARIES)
def sqlite3(context, variant):
    """sqlite3 gives the same results, in memory and in a file, and the same file"""
    def work(which, folder):
        text = run(context, which, "sqlite3", ":memory:", SQL) + run(context, which, "sqlite3", folder / "file.db", SQL)
        return text + run_command("sha256sum", folder / "file.db")

    return same_output(context, variant, work)


@case(*LIBRARIES)
def git(context, variant):
    """git commits, packs with threads, checks and shows a history to the same hashes"""
    sources = snapshot(context)

    def work(which, folder):
        more = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER")
                for what, value in (("NAME", "A U Thor"), ("EMAIL", "author@example.com"), ("DATE", "2020-02-02T02:02:02Z"))}  # fmt: skip

        def git_run(*words):
            return run(context, which, "git", "-c", "init.defaultBranch=main", "-c", "gc.auto=0", "-c", "pack.threads=2", *words,
                       cwd=folder, more=more)  # fmt: skip

        text = git_run("init", "-q", ".")
        for n, name in enumerate(("app", "include", "scripts")):
            shutil.copytree(sources / name, folder / name)
            git_run("add", "-A")
            text += git_run("commit", "-q", "-m", f"Add {name}") + git_run("tag", f"v{n}")
        git_run("mv", "app", "program")
        text += git_run("commit", "-q", "-a", "-m", "Move") + git_run("log", "--stat", "-M", "-p")
        git_run("gc", "-q", "--aggressive", "--prune=now")
        text += git_run("fsck", "--full", "--strict") + git_run("rev-parse", "HEAD") + git_run("diff", "-M", "v0", "v2", "--stat")
        git_run("clone", "-q", ".", "copy")
        return text + git_run("blame", "include/kmalloc.h") + git_run("grep", "-n", "-i", "malloc")

    return same_output(context, variant, work)


PERL_PROGRAM = r"""
use strict; use threads; use List::Util qw(sum shuffle); use Digest::SHA qw(sha256_hex);
my ($x, %count, @lines) = (42);
sub next_random { $x = ($x * 1103515245 + 12345) % 2147483648; return $x >> 8 }
for my $i (1 .. 60000) { my $w = join "", map { chr(97 + next_random() % 6) } 1 .. 1 + next_random() % 8; $count{$w}++; push @lines, "$i:$w" }
my @top = (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 30];
print "$_ $count{$_}\n" for @top;
my $text = join "\n", sort @lines;
(my $changed = $text) =~ s/([a-c]+)(\d*)/<$1|$2>/g;
print sha256_hex($changed), " ", length $changed, " ", scalar(() = $changed =~ /<a+\|/g), "\n";
my $deep = []; $deep = [$deep, { n => $_ }] for 1 .. 20000; my $n = 0; while (@$deep) { $n += $deep->[1]{n}; $deep = $deep->[0] } print "$n\n";
print join(",", map { $_->join } map { my $k = $_; threads->create(sub { my %h = map { $_ => "x" x ($_ % 50) } 1 .. 3000; return $k . length join "", values %h }) } 1 .. 6), "\n";
print length(`perl -e 'print "z" x 100000'`), "\n";
"""


@case(*LIBRARIES)
def perl(context, variant):
    """a perl program with hashes, regular expressions and threads prints the same"""
    return same_output(context, variant, lambda which, folder: run(context, which, "perl", "-e", PERL_PROGRAM,
                                                                   more={"PERL_HASH_SEED": "0"}))  # fmt: skip


def compile_all(context, which, folder, compiler, sources, *flags):
    for source in sources:
        run(context, which, compiler, *flags, f"-I{ROOT}/include", "-c", source, "-o", folder / (source.stem + ".o"), cwd=folder)
    return run_command("sha256sum", *[folder / (source.stem + ".o") for source in sources])


@case(("release", "kmalloc"), ("hardened", "libkmalloc.a"))
def gcc(context, variant, product):
    """make and gcc build our own tree to the same bytes"""
    sources = snapshot(context)

    def work(which, folder):
        shutil.copytree(sources, folder, dirs_exist_ok=True)
        # Built with the defaults, not with what a make around this test hands down.
        run(context, which, "make", "-j2", "-C", folder, "BUILD_ID=test", f"build/linux/{product}", timeout=300)
        return run_command("sha256sum", folder / "build/linux" / product)

    return same_output(context, variant, work)


@case(*[(variant, compiler) for variant in LIBRARIES for compiler in ("g++", "clang++")])
def compile_cxx(context, variant, compiler):
    """large C++ programs: clang and g++'s compiler proper make the same object of a C++ source"""
    sources = [SOURCES / "operators.cpp"]
    return same_output(context, variant, lambda which, folder: compile_all(context, which, folder, compiler, sources, "-std=c++17",
                                                                           "-fsized-deallocation", "-O2", "-g"))  # fmt: skip


CMAKE = """
cmake_minimum_required(VERSION 3.20)
project(probe C)
find_package(Threads REQUIRED)
include(CheckSymbolExists)
check_symbol_exists(malloc stdlib.h HAS_MALLOC)
set(list "")
foreach(i RANGE 1 3000)
  string(SHA256 hash "${i}")
  list(APPEND list "${hash}")
endforeach()
list(SORT list)
list(GET list 0 first)
message(STATUS "first ${first} ${HAS_MALLOC}")
file(GLOB sources ${SOURCES}/*.c)
add_executable(probe ${sources})
target_link_libraries(probe Threads::Threads)
"""


@case(*LIBRARIES)
def cmake(context, variant):
    """cmake, a large C++ program, configures and builds a project"""
    def work(which, folder):
        (folder / "CMakeLists.txt").write_text(CMAKE)
        text = run(context, which, "cmake", f"-DSOURCES={SOURCES}", "-S", folder, "-B", folder / "build")
        run(context, which, "cmake", "--build", folder / "build")
        # How long it took is said in the text.
        return re.sub(r"\(\d+\.\d+s\)", "", text) + run(context, which, "cmake", "--help-full")

    return same_output(context, variant, work)


def redis_session(context, which, folder):
    """A server under load, its data checked, saved by a forked child and loaded again."""
    # The package of the server would start one on the user's machine; the program itself is in the tools' package.
    socket = folder / "s"
    server = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder, "--enable-debug-command", "yes"],
        executable="/usr/bin/redis-check-rdb", env=environment(context, which), cwd=folder, stdin=subprocess.DEVNULL,
        stdout=(folder / "log").open("w"), stderr=subprocess.STDOUT)  # fmt: skip

    def client(*words):
        return run_command("redis-cli", "-s", socket, *words, timeout=60)

    try:
        for _ in range(100):
            if socket.exists():
                break
            time.sleep(0.05)
        if which != PLAIN:
            assert LIBRARIES[which] in pathlib.Path(f"/proc/{server.pid}/maps").read_text(), "the server runs without the library"
        text = run_command("redis-benchmark", "-s", socket, "-q", "-n", 20000, "-c", 20, "-P", 8, "-d", 100, "-r", 5000, "-t",
                           "set,get,incr,lpush,rpush,lpop,sadd,hset,spop,zadd,lrange_100,mset", timeout=100)  # fmt: skip
        assert text.count("requests per second") >= 12, text
        client("FLUSHALL")
        script = ("for i = 1, 30000 do redis.call('set', 'k' .. i, string.rep('v', i % 400)); redis.call('hset', 'h' .. i % 500, i, i * 3);"
                  " redis.call('rpush', 'l' .. i % 100, 'item ' .. i); redis.call('zadd', 'z', i % 977, 'm' .. i) end"
                  " for i = 1, 30000, 3 do redis.call('del', 'k' .. i) end return redis.call('dbsize')")  # fmt: skip
        result = client("EVAL", script, "0") + client("DEBUG", "DIGEST")
        client("BGSAVE")
        for _ in range(100):
            if "rdb_bgsave_in_progress:0" in client("INFO", "persistence"):
                break
            time.sleep(0.05)
        result += "".join(re.findall(r"rdb_last_bgsave_status:\w+", client("INFO", "persistence")))
        client("DEBUG", "RELOAD")
        result += "\n" + client("DEBUG", "DIGEST") + client("LRANGE", "l7", "0", "20") + client("ZRANGE", "z", "0", "50", "WITHSCORES")
        run_command("redis-cli", "-s", socket, "SHUTDOWN", "NOSAVE", expect=None)
        status = server.wait(timeout=20)
        assert status == 0, f"the server ended with {status}:\n" + (folder / "log").read_text()[-2000:]
        return result
    finally:
        server.kill()
        server.wait()


@case(*LIBRARIES)
def redis(context, variant):
    """redis serves a bounded load, saves from a forked child, and holds the same data"""
    return same_output(context, variant, lambda which, folder: redis_session(context, which, folder))


if __name__ == "__main__":
    if not pathlib.Path("Makefile").exists():
        sys.exit("test_preload.py is run from the top of the tree")
    os.umask(0o022)
    # In the background of a shell Ctrl-C is ignored, and programs inherit that; python3's tests send it to themselves.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(__doc__.splitlines()[0], "test-preload")
