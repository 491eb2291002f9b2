/* SPDX-License-Identifier: MIT */
/*
 * usage: probe         run every probe; the last line is "N probes passed"
 *        probe NAME    run one probe, or commit one misuse, after which it must not get to its end
 *        probe -l      list the probes, then the misuses
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probe.h"

static const char *probe_name;

void check_failed(const char *text, const char *file, int line)
{
	fprintf(stderr, "probe: %s, %s:%d: not true: %s\n", probe_name, file, line, text);
	exit(1);
}

static volatile size_t volatile_size;
static void *volatile volatile_pointer;

size_t hide_size(size_t size)
{
	volatile_size = size;
	return volatile_size;
}

void *hide(void *pointer)
{
	volatile_pointer = pointer;
	return volatile_pointer;
}

bool is_aligned(const void *object, size_t alignment)
{
	return (uintptr_t)object % alignment == 0;
}

bool is_filled(const unsigned char *byte, unsigned char value, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (byte[i] != value)
			return false;
	return true;
}

size_t resident_bytes(void)
{
	long pages = 0, resident = 0;
	FILE *file = fopen("/proc/self/statm", "r");

	CHECK(file && fscanf(file, "%ld %ld", &pages, &resident) == 2);
	fclose(file);
	return (size_t)resident * 4096;
}

size_t peak_resident_bytes(void)
{
	FILE *file = fopen("/proc/self/status", "r");
	unsigned long kib = 0;
	char line[256];

	CHECK(file);
	while (fgets(line, sizeof(line), file) && sscanf(line, "VmHWM: %lu", &kib) != 1)
		;
	fclose(file);
	CHECK(kib);
	return kib * 1024;
}

uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* ---- the list of them -------------------------------------------------------------------------------------------- */

struct probe {
	const char *name;
	void (*run)(void);
};

static const struct probe probes[] = {
	{ "loaded", probe_loaded },
	{ "malloc", probe_malloc },
	{ "too-large", probe_too_large },
	{ "alignment", probe_alignment },
	{ "wrong-alignment", probe_wrong_alignment },
	{ "errno", probe_errno },
	{ "calloc", probe_calloc },
	{ "realloc", probe_realloc },
	{ "sized", probe_sized },
	{ "moving", probe_moving },
	{ "vast", probe_vast },
	{ "aligned-reuse", probe_aligned_reuse },
	{ "trim", probe_trim },
	{ "returns", probe_returns },
	{ "returns-late", probe_returns_late },
	{ "returns-holes", probe_returns_holes },
	{ "returns-last", probe_returns_last },
	{ "refill", probe_refill },
	{ "sparse-zeros", probe_sparse_zeros },
	{ "order", probe_order },
	{ "growing", probe_growing },
	{ "short-threads", probe_short_threads },
	{ "detached-threads", probe_detached_threads },
	{ "many-threads", probe_many_threads },
	{ "late-frees", probe_late_frees },
	{ "producer-consumer", probe_producer_consumer },
	{ "crowd", probe_crowd },
	{ "spike", probe_spike },
	{ "fork-in-threads", probe_fork_in_threads },
	{ "fork-in-growth", probe_fork_in_growth },
	{ "address-limit", probe_address_limit },
	{ "sandbox", probe_sandbox },
	{ "locked", probe_locked },
	{ "ahead", probe_ahead },
	{ "start-and-end", probe_start_and_end },
};

static const struct probe misuses[] = {
	{ "double-free", misuse_double_free },
	{ "double-free-large", misuse_double_free_large },
	{ "foreign-stack", misuse_foreign_stack },
	{ "foreign-low", misuse_foreign_low },
	{ "interior", misuse_interior },
	{ "misaligned", misuse_misaligned },
	{ "realloc-freed", misuse_realloc_freed },
	{ "wrong-size", misuse_wrong_size },
	{ "overrun", misuse_overrun },
};

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static size_t run_named(const struct probe *list, size_t n, const char *name)
{
	size_t n_run = 0;

	for (size_t i = 0; i < n; i++) {
		if (name && strcmp(name, list[i].name) != 0)
			continue;
		probe_name = list[i].name;
		list[i].run();
		n_run++;
	}
	return n_run;
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;

	if (name && strcmp(name, "-l") == 0) {
		for (size_t i = 0; i < COUNT(probes); i++)
			puts(probes[i].name);
		for (size_t i = 0; i < COUNT(misuses); i++)
			puts(misuses[i].name);
		return 0;
	}
	size_t n = run_named(probes, COUNT(probes), name);

	if (n == 0)
		n = run_named(misuses, name ? COUNT(misuses) : 0, name);
	if (n == 0)
		return 2;
	printf("%zu probes passed\n", n);
	return 0;
}
