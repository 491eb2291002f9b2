/* SPDX-License-Identifier: MIT */
/*
 * Free pages that stay free go back to the system, also when a few live or cached objects hold their chunks. There is no thread that
 * could do it later, so it is done inside free, now and then: when the heap's shared part was busy for a while, the heap is asked
 * how much is free. What was free at two such times running, and was not given back yet, is idle. So a program that frees and takes
 * the same memory again and again keeps it.
 */
#include <kmalloc_port.h>

#include "preload.h"

/* Pages in the heap for each tick between two looks, at which it must walk through what is free. */
#define TICK_PAGES ((size_t)16384)
/* Less than this, or than this share of the heap, is not worth it. */
#define IDLE_MIN ((size_t)4 << 20)
#define IDLE_SHARE 8

static size_t n_ticks;
/* Free bytes at the last look, and the least since pages were given back: so much is not resident. */
static size_t free_before, free_given_back;

void preload_tick(void)
{
	__atomic_fetch_add(&n_ticks, 1, __ATOMIC_RELAXED);
}

/* The lock is held: no call of the heap here. Free pages hold nothing: what describes them lies elsewhere. */
static bool discard_free_run(void *ctx, const struct kheap_range *range)
{
	bool *any = ctx;

	if (range->kind == KHEAP_PAGE_RUN && !range->is_live && preload_discard((void *)range->base, range->size_bytes))
		*any = true;
	return true;
}

bool preload_purge(struct kheap *heap)
{
	bool any = kheap_trim(heap) > 0;

	/* In the hardened build they hold poison. */
	if (!IS_HARDENED)
		kheap_walk(heap, discard_free_run, &any);
	return any;
}

static size_t lesser(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Two threads might look at once; what they then make of it is a guess, as it always is. */
static void look(struct kheap *heap)
{
	struct kheap_stats stats;
	size_t given_back, limit;

	kheap_get_stats(heap, &stats);
	given_back = lesser(stats.free_bytes, __atomic_load_n(&free_given_back, __ATOMIC_RELAXED));
	limit = stats.footprint_bytes / IDLE_SHARE > IDLE_MIN ? stats.footprint_bytes / IDLE_SHARE : IDLE_MIN;
	if (lesser(stats.free_bytes, __atomic_load_n(&free_before, __ATOMIC_RELAXED)) > given_back + limit) {
		preload_purge(heap);
		kheap_get_stats(heap, &stats);
		/* There whole chunks went, which do not count as free any more, but no single pages. */
		given_back = IS_HARDENED ? 0 : stats.free_bytes;
	}
	__atomic_store_n(&free_given_back, given_back, __ATOMIC_RELAXED);
	__atomic_store_n(&free_before, stats.free_bytes, __ATOMIC_RELAXED);
}

void preload_look(struct kheap *heap)
{
	size_t due = 1 + preload_mapped_bytes() / KMALLOC_PAGE_SIZE / TICK_PAGES, ticks;

	ticks = __atomic_load_n(&n_ticks, __ATOMIC_RELAXED);
	/* One thread alone looks. */
	if (ticks >= due && __atomic_compare_exchange_n(&n_ticks, &ticks, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		look(heap);
}
