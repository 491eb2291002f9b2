/* SPDX-License-Identifier: MIT */
/*
 * The published workloads on the heap, called directly, for scripts/bench.py: under callgrind, which counts the instructions of
 * call_alloc, call_release and call_resize; alone for the fit and the density; and for the worst call, which it single-steps.
 * Measures a library, and is no part of the product.
 *
 *   count WORKLOAD [N]    once; callgrind's counters are reset before and dumped after what counts; prints the operations. The heap's
 *                         memory begins N pages behind a multiple of 2 MiB: what d1 and d2 take hangs on that
 *   count fit b|c         the smallest arena that all 200,000 steps fit in, over the peak of live bytes
 *   count density SIZE    bytes of a 1 MiB arena for each object of that size
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <kmalloc.h>
#include <valgrind/callgrind.h>

#include "work.h"

static struct kheap *heap;

/* Each of these is what callgrind's collection is toggled at. The empty statement keeps the call from becoming a jump. */
#define APART __attribute__((noinline, noclone))

APART void *call_alloc(size_t n)
{
	void *object = kheap_alloc(heap, n, 0);

	__asm__ volatile("" : "+r"(object) : : "memory");
	return object;
}

APART void call_release(void *object)
{
	kheap_free(heap, object);
	__asm__ volatile("" : : : "memory");
}

APART void *call_resize(void *object, size_t n)
{
	object = kheap_realloc(heap, object, n);
	__asm__ volatile("" : "+r"(object) : : "memory");
	return object;
}

/* The page source: toggled off again, because pages are the host's work. */
#define ALL_PAGES ((size_t)256 << 20)
#define LARGE_PAGE ((size_t)2 << 20)
#define ARENA ((size_t)64 << 20)
static char memory[ALL_PAGES + 2 * LARGE_PAGE];
static char *pages;
static size_t pages_used;

APART bool page_get(void *ctx, const struct kpage_request *request, struct kpage_chunk *chunk)
{
	(void)ctx;
	chunk->base = (uintptr_t)pages + pages_used;
	chunk->n_pages = request->want_pages;
	pages_used += chunk->n_pages * KMALLOC_PAGE_SIZE;
	return pages_used <= ALL_PAGES;
}

/* Gives back only what was given last; the rest is lost, and there is enough of it. */
APART void page_put(void *ctx, const struct kpage_chunk *chunk)
{
	(void)ctx;
	if (chunk->base + chunk->n_pages * KMALLOC_PAGE_SIZE == (uintptr_t)pages + pages_used)
		pages_used = chunk->base - (uintptr_t)pages;
}

static const struct kheap_config growing = { .source = { page_get, page_put, NULL } };

void *work_alloc(size_t n)
{
	return call_alloc(n);
}

void work_free(void *object)
{
	call_release(object);
}

void *work_resize(void *object, size_t n)
{
	return call_resize(object, n);
}

void work_begin(void)
{
	CALLGRIND_ZERO_STATS;
}

void work_end(void)
{
	CALLGRIND_DUMP_STATS;
}

static bool fits(void *arena, size_t bytes, unsigned octaves)
{
	heap = kheap_create(arena, bytes, NULL);
	return heap != NULL && work_churn(octaves, WORK_STEPS);
}

static void print_fit(unsigned octaves)
{
	size_t low = 1, high = 8192; /* pages */
	char *arena = mmap(NULL, high * KMALLOC_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (fits(arena, middle * KMALLOC_PAGE_SIZE, octaves))
			high = middle;
		else
			low = middle + 1;
	}
	fits(arena, high * KMALLOC_PAGE_SIZE, octaves);
	printf("%.4f\n", (double)(high * KMALLOC_PAGE_SIZE) / (double)work_peak);
}

static void print_density(size_t size)
{
	size_t n = 0;

	heap = kheap_create(pages, 1 << 20, NULL);
	while (kheap_alloc(heap, size, 0) != NULL)
		n++;
	printf("%.1f\n", (double)(1 << 20) / (double)n);
}

int main(int argc, char **argv)
{
	pages = memory + (LARGE_PAGE - (uintptr_t)memory % LARGE_PAGE);
	if (argc == 3 && strcmp(argv[1], "fit") == 0) {
		print_fit(argv[2][0] == 'b' ? 8 : 4);
		return 0;
	}
	if (argc == 3 && strcmp(argv[1], "density") == 0) {
		print_density(strtoul(argv[2], NULL, 10));
		return 0;
	}
	if (argc == 3)
		pages += strtoul(argv[2], NULL, 10) % (LARGE_PAGE / KMALLOC_PAGE_SIZE) * KMALLOC_PAGE_SIZE;
	/* The workloads with one letter from a to c are defined for an arena, the others for a heap that grows. */
	heap = argc > 1 && strchr("aAbc", argv[1][0]) != NULL ? kheap_create(pages, ARENA, NULL)
	                                                      : kheap_create(NULL, 0, &growing);
	if (argc < 2 || heap == NULL || !work_named(argv[1])) {
		fprintf(stderr,
		        "count: a workload (a A b c d1 d2 e f g pairSIZE) [PAGES], fit b, fit c, or density SIZE\n");
		return 1;
	}
	printf("%zu\n", work_operations);
	return 0;
}
