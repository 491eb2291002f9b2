/* SPDX-License-Identifier: MIT */
/*
 * Free pages that stay free go back to the system, also when a few live or cached objects hold their chunks. There is no thread that
 * could do it later, so it is done inside free, now and then: when the heap's shared part was busy for a while, the heap is asked
 * how many pages are free. What was free at two such times running, and was not given back yet, is idle. So a program that frees and
 * takes the same memory again and again keeps it.
 */
#include <kmalloc_port.h>

#include "preload.h"

/* Objects that move between two looks. */
#define LOOK_OPERATIONS 4096
/* Less than this, or than this share of the heap, is not worth it. */
#define IDLE_MIN ((size_t)4 << 20)
#define IDLE_SHARE 8

/* How much the heap had done at the last look. */
static uint64_t looked_at;
/* Free bytes at the last look, and the least since pages were given back: so much is not resident. */
static size_t free_before, free_given_back;

/* The lock is held: no call of the heap here. Free pages hold nothing: what describes them lies elsewhere. */
static bool discard_free_run(void *ctx, const struct kheap_range *range)
{
	bool *any = ctx;

	if (preload_discard((void *)range->base, range->size_bytes))
		*any = true;
	return true;
}

bool preload_purge(struct kheap *heap)
{
	bool any = kheap_trim(heap) > 0;

	/* In the hardened build they hold poison. */
	if (!IS_HARDENED)
		kheap_walk_free_pages(heap, discard_free_run, &any);
	return any;
}

static size_t lesser(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Two threads might look at once; what they then make of it is a guess, as it always is. */
static void look(struct kheap *heap, const struct kheap_glance *glance)
{
	size_t n_free = glance->free_page_bytes, share = glance->footprint_bytes / IDLE_SHARE;
	size_t given_back = lesser(n_free, __atomic_load_n(&free_given_back, __ATOMIC_RELAXED));
	size_t limit = share > IDLE_MIN ? share : IDLE_MIN;

	if (lesser(n_free, __atomic_load_n(&free_before, __ATOMIC_RELAXED)) > given_back + limit) {
		preload_purge(heap);
		n_free = kheap_glance(heap).free_page_bytes;
		/* There whole chunks went, which do not count as free any more, but no single pages. */
		given_back = IS_HARDENED ? 0 : n_free;
	}
	__atomic_store_n(&free_given_back, given_back, __ATOMIC_RELAXED);
	__atomic_store_n(&free_before, n_free, __ATOMIC_RELAXED);
}

void preload_look(struct kheap *heap)
{
	struct kheap_glance glance = kheap_glance(heap);
	uint64_t last = __atomic_load_n(&looked_at, __ATOMIC_RELAXED);

	/* One thread alone looks. */
	if (glance.n_operations - last >= LOOK_OPERATIONS &&
	    __atomic_compare_exchange_n(&looked_at, &last, glance.n_operations, false, __ATOMIC_ACQ_REL,
	                                __ATOMIC_RELAXED))
		look(heap, &glance);
}
