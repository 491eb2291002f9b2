/* SPDX-License-Identifier: MIT */
/*
 * CPU caches, page runs: lists of runs of 1 to 8 pages, and the way to the runs and back for what they do not answer.
 *
 * A run in a cache is live for the heap, and its kind says that it is free for its CPU, so that a double free, or a pointer into
 * it, shows without a look at its pages. All together have a bound (burst_bytes).
 */
#include "cpu.h"

#define RUNS_IDLE 4 /* that go in one look */
#define RUNS_BUSY 8 /* frees among IDLE_MISSES misses that earn a CPU its part of the heap */

/* ---- the lists ------------------------------------------------------------------------------------------------------ */

/* The first one of a length, if it is aligned to so many bytes. */
INLINE struct page_desc *run_pop(struct run_cache *cache, size_t n_pages, size_t alignment)
{
	struct page_desc *desc = run_list_pop(&cache->runs[n_pages - 1], alignment);

	if (LIKELY(desc != NULL)) {
		STORE(cache->n_runs, cache->n_runs - 1);
		STORE(cache->n_pages, cache->n_pages - n_pages);
	}
	return desc;
}

/* False: there is no room. */
INLINE bool run_push(struct run_cache *cache, struct region *region, struct page_desc *desc)
{
	size_t n_pages = cache->n_pages + desc->n_pages;

	if (UNLIKELY(n_pages > cache->most_pages))
		return false;
	run_list_push(&cache->runs[desc->n_pages - 1], region, desc);
	STORE(cache->n_runs, cache->n_runs + 1);
	STORE(cache->n_pages, n_pages);
	return true;
}

/* Does this live run belong into a list? A power of two has to be aligned to its length, here in pages. */
INLINE bool is_cacheable(const struct page_desc *desc, uintptr_t address)
{
	static const uint8_t alignments[] = { 1, 1, 2, 1, 4, 1, 1, 1, 8 };

	_Static_assert(sizeof(alignments) == RUN_CACHE_PAGES + 1, "one for each length");
	size_t n_pages = desc->n_pages;

	return n_pages <= RUN_CACHE_PAGES && !desc->is_bare && !(address & (alignments[n_pages] * PAGE_SIZE - 1));
}

void give_back_run(struct kheap *heap, struct page_desc *desc)
{
	count_free(heap, (size_t)desc->n_pages << PAGE_SHIFT);
	run_free(heap, desc_region(desc), desc_page(desc), desc->n_pages);
}

/* ---- allocation and freeing ---------------------------------------------------------------------------------------- */

static __attribute__((noinline)) void *alloc_run_shared(struct kheap *heap, size_t size, size_t alignment)
{
	size_t n_pages = pages_for(size);

	cpu_begin();
	kport_lock_state state = heap_lock_inline(heap);
	struct page_desc *desc = run_alloc(heap, n_pages, log2_floor(alignment) - PAGE_SHIFT, UINTPTR_MAX, PAGE_RUN);
	struct cpu_cache *cache = own_cache(heap);

	if (desc) {
		desc->is_bare = false;
		count_alloc(heap, 1, n_pages << PAGE_SHIFT);
	}
	if (cache)
		note_miss(heap, cache);
	heap_unlock_inline(heap, state);
	return desc ? (void *)desc_address(desc) : alloc_any(heap, size, alignment, ALLOC_TRIED);
}

void *cpu_alloc_run(struct kheap *heap, size_t size, size_t alignment)
{
	struct cpu_cache *cache = cpu_of(heap);

	if (cpu_enter(cache)) {
		struct page_desc *desc = run_pop(&cache->runs, pages_for(size), alignment);

		cpu_leave(cache);
		if (LIKELY(desc != NULL))
			return (void *)desc_address(desc);
	}
	return alloc_run_shared(heap, size, alignment);
}

/* Some run of another length, so that those that nobody wants now do not keep out what is wanted. False: there is none. */
static bool give_back_other(struct kheap *heap, struct run_cache *cache, const struct page_desc *desc)
{
	struct page_desc *other = NULL;

	for (size_t n_pages = RUN_CACHE_PAGES; n_pages && !other; n_pages--) {
		if (n_pages != desc->n_pages)
			other = run_pop(cache, n_pages, 1);
	}
	if (other)
		give_back_run(heap, other);
	return other != NULL;
}

/* No list has room for it, or none takes it. */
static __attribute__((noinline)) void free_run_shared(struct kheap *heap, uintptr_t address, struct page_desc *desc,
                                                      bool is_small)
{
	struct cpu_cache *cache;

	cpu_begin();
	kport_lock_state state = heap_lock_inline(heap);

	bool is_large = is_large_run(desc);

	cache = own_cache(heap);
	if (UNLIKELY(address % PAGE_SIZE || page_kind_of(desc_region(desc), desc_page(desc)) != PAGE_RUN))
		free_locked(heap, address);
	else if (is_large && cache)
		large_free_run(heap, cache, desc);
	else if (!(is_small && cache && give_back_other(heap, &cache->runs, desc) &&
	           run_push(&cache->runs, desc_region(desc), desc)))
		give_back_run(heap, desc);
	if (cache) {
		if (is_small)
			cache->n_run_misses++;
		else if (is_large)
			cache->n_large_misses++;
		note_miss(heap, cache);
	}
	heap_unlock_inline(heap, state);
}

void cpu_free_run(struct kheap *heap, void *object, struct region *region)
{
	uintptr_t address = (uintptr_t)object;
	struct page_desc *desc = &region->descs[region_page(region, address)];
	struct cpu_cache *cache = cpu_of(heap);
	bool is_small = is_cacheable(desc, address);

	if (cpu_enter(cache)) {
		bool is_done = is_small ? run_push(&cache->runs, region, desc) : large_push_run(cache, desc);

		cpu_leave(cache);
		if (LIKELY(is_done))
			return;
	}
	free_run_shared(heap, address, desc, is_small);
}

/* ---- what is not needed is given up --------------------------------------------------------------------------------- */

/* n of them, the longest first; false: there are none. */
COLD static bool give_some_back(struct kheap *heap, struct run_cache *cache, size_t n)
{
	struct page_desc *desc;
	size_t left = n;

	for (size_t n_pages = RUN_CACHE_PAGES; n_pages; n_pages--) {
		for (; left && (desc = run_pop(cache, n_pages, 1)) != NULL; left--)
			give_back_run(heap, desc);
	}
	return left != n;
}

COLD bool runs_drain(struct kheap *heap, struct cpu_cache *cache)
{
	return give_some_back(heap, &cache->runs, SIZE_MAX);
}

COLD void runs_earn(struct kheap *heap, struct cpu_cache *cache)
{
	struct run_cache *runs = &cache->runs;
	bool is_busy = cache->n_run_misses >= RUNS_BUSY;

	cache->n_run_misses = 0;
	if (!runs->most_pages && !is_busy)
		return;
	runs->most_pages = burst_bytes(heap) >> PAGE_SHIFT;
	/* One of any length has room, where nobody misses it. */
	if (may_keep(heap, RUN_CACHE_PAGES * PAGE_SIZE))
		runs->most_pages = max_size(runs->most_pages, RUN_CACHE_PAGES);
}

COLD void runs_idle(struct kheap *heap, struct cpu_cache *cache)
{
	(void)give_some_back(heap, &cache->runs, RUNS_IDLE);
}
