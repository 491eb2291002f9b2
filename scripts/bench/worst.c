/* SPDX-License-Identifier: MIT */
/*
 * The worst call of a workload: each call of b or c is timed in several runs and its least time kept; the slowest of them, and
 * some spread evenly, are then counted exactly, by single steps in one more run. What is found is a lower bound of the true
 * worst case. Prints "alloc N" and "free N", in instructions, without those of the call itself.
 *
 * usage: worst b|c [OBJECTS MIB]    so many live objects in a heap of so many MiB; 10,000 in 64 MiB
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

#include <kmalloc.h>

#include "work.h"

#define MAX_CALLS (2 * WORK_STEPS + 16)
#define TIMED_RUNS 15
#define SLOWEST 300
#define SPREAD 50

enum mode { TIME, STEP };

static struct kheap *heap;
static char *arena;
static size_t arena_bytes = (size_t)64 << 20;
static enum mode mode;
static bool counts;
static unsigned n_calls;
static uint32_t least[MAX_CALLS];
static uint8_t is_free[MAX_CALLS], is_chosen[MAX_CALLS];

/* The traced child stops here before and after a chosen call. */
static void mark(void)
{
	__asm__ volatile("int3" : : : "memory");
}

__attribute__((noinline, noclone)) static void *do_nothing(void)
{
	__asm__ volatile("" : : : "memory");
	return NULL;
}

static void note(unsigned call, uint64_t ticks, bool frees)
{
	uint32_t now = ticks < UINT32_MAX ? (uint32_t)ticks : UINT32_MAX;

	is_free[call] = frees;
	if (least[call] == 0 || now < least[call])
		least[call] = now != 0 ? now : 1;
}

static void *one_call(bool frees, void *object, size_t n)
{
	unsigned call = counts ? n_calls++ : MAX_CALLS - 1, ignored;
	bool stops = mode == STEP && counts && is_chosen[call];
	uint64_t begin;

	if (stops)
		mark();
	begin = __rdtscp(&ignored);
	if (frees)
		kheap_free(heap, object);
	else
		object = kheap_alloc(heap, n, 0);
	if (stops)
		mark();
	else if (mode == TIME && counts)
		note(call, __rdtscp(&ignored) - begin, frees);
	return object;
}

void *work_alloc(size_t n)
{
	return one_call(false, NULL, n);
}

void work_free(void *object)
{
	(void)one_call(true, object, 0);
}

void *work_resize(void *object, size_t n)
{
	return kheap_realloc(heap, object, n);
}

void work_begin(void)
{
	counts = true;
}

void work_end(void)
{
	counts = false;
}

static void run(unsigned octaves)
{
	heap = kheap_create(arena, arena_bytes, NULL);
	n_calls = 0;
	counts = false;
	if (heap == NULL || !work_churn(octaves, WORK_STEPS)) {
		fprintf(stderr, "worst: the workload ran out of memory\n");
		exit(1);
	}
}

static int by_time(const void *a, const void *b)
{
	uint32_t x = least[*(const unsigned *)a], y = least[*(const unsigned *)b];

	return x < y ? 1 : x > y ? -1 : 0;
}

static void choose(bool frees)
{
	static unsigned order[MAX_CALLS];
	unsigned n = 0;

	for (unsigned i = 0; i < n_calls; i++)
		if (is_free[i] == frees)
			order[n++] = i;
	qsort(order, n, sizeof(order[0]), by_time);
	for (unsigned i = 0; i < SLOWEST && i < n; i++)
		is_chosen[order[i]] = 1;
	for (unsigned i = 0; i < SPREAD; i++)
		is_chosen[order[i * (n / SPREAD)]] = 1;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

/* Until the child stops at a mark; false: it has ended. */
static bool next_mark(pid_t child)
{
	int status;

	if (ptrace(PTRACE_CONT, child, NULL, NULL) != 0 || waitpid(child, &status, 0) < 0)
		fail("worst: ptrace");
	if (WIFEXITED(status))
		return false;
	if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP) {
		fprintf(stderr, "worst: the traced run ended with status %#x\n", status);
		exit(1);
	}
	return true;
}

/* Single steps up to the next mark. */
static unsigned steps(pid_t child)
{
	unsigned n = 0;
	siginfo_t info;
	int status;

	for (;;) {
		if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) != 0 || waitpid(child, &status, 0) < 0 ||
		    !WIFSTOPPED(status) || ptrace(PTRACE_GETSIGINFO, child, NULL, &info) != 0)
			fail("worst: ptrace");
		/* An int3 reports itself as a breakpoint or, by the kernel's word, as sent by the kernel. */
		if (info.si_code == TRAP_BRKPT || info.si_code == SI_KERNEL)
			return n;
		n++;
	}
}

static void trace_child(unsigned octaves)
{
	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
		fail("worst: ptrace");
	raise(SIGTRAP);
	mode = STEP;
	/* Two calls of nothing first: what a call itself costs. */
	mark();
	do_nothing();
	mark();
	run(octaves);
	_exit(0);
}

int main(int argc, char **argv)
{
	unsigned octaves, most[2] = { 0, 0 }, empty, call = 0;
	pid_t child;
	int status;

	if ((argc != 2 && argc != 4) || (strcmp(argv[1], "b") != 0 && strcmp(argv[1], "c") != 0)) {
		fprintf(stderr, "usage: worst b|c [OBJECTS MIB]\n");
		return 1;
	}
	if (argc == 4) {
		work_slots = strtoul(argv[2], NULL, 10);
		arena_bytes = strtoul(argv[3], NULL, 10) << 20;
	}
	if (work_slots == 0 || work_slots > WORK_SLOTS_MAX || arena_bytes == 0) {
		fprintf(stderr, "worst: 1 to %d objects in 1 MiB or more\n", WORK_SLOTS_MAX);
		return 1;
	}
	octaves = argv[1][0] == 'b' ? 8 : 4;
	arena = mmap(NULL, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (arena == MAP_FAILED)
		fail("worst: mmap");
	for (unsigned i = 0; i < TIMED_RUNS; i++)
		run(octaves);
	choose(false);
	choose(true);
	child = fork();
	if (child == 0)
		trace_child(octaves);
	if (child < 0 || waitpid(child, &status, 0) < 0 || !next_mark(child))
		fail("worst: fork");
	empty = steps(child);
	while (next_mark(child)) {
		unsigned n = steps(child);

		while (!is_chosen[call])
			call++;
		n = n > empty ? n - empty : 0;
		if (n > most[is_free[call]])
			most[is_free[call]] = n;
		call++;
	}
	printf("alloc %u\nfree %u\n", most[0], most[1]);
	return 0;
}
