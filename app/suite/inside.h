/* SPDX-License-Identifier: MIT */
/* What the tests of CPU caches share that know the heap's inside. */
#ifndef SUITE_INSIDE_H
#define SUITE_INSIDE_H

#include "../heap/fast.h"
#include "../heap/internal.h"

/* The heap's own counters take what is cached for live. */
static inline size_t n_cached(struct kheap *heap)
{
	struct kheap_stats stats;

	kheap_get_stats(heap, &stats);
	return heap->counters.live_objects - stats.live_objects;
}

/* How many of n pairs, after n_warm to warm up, went further than the cache, whose answers are not counted; and n more for each refusal. */
static inline uint64_t pairs_from_below(struct kheap *heap, size_t size, unsigned n_warm, unsigned n)
{
	struct kheap_stats first, before, after;

	kheap_get_stats(heap, &first);
	for (unsigned i = 0; i < n_warm; i++)
		kheap_free(heap, kheap_alloc(heap, size, 0));
	kheap_get_stats(heap, &before);
	for (unsigned i = 0; i < n; i++)
		kheap_free(heap, kheap_alloc(heap, size, 0));
	kheap_get_stats(heap, &after);
	return after.n_allocs - before.n_allocs + (after.n_failures - first.n_failures) * n;
}

#endif
