/* SPDX-License-Identifier: MIT */
/*
 * CPU caches, page runs: magazines for 1, 2, 4 and 8 pages aligned to their length, as a power of two is allocated, and the way to the runs
 * and back for what they do not answer.
 *
 * A run in a magazine is live for the heap, and its cell says that it is free for its CPU, so that a double free, or a pointer into
 * it, shows without a look at its pages. Each class holds at most a share of the heap, so small heaps have nothing of this.
 */
#include "cpu.h"

#define RUN_SHARE 64 /* a magazine holds at most this share of the heap */
#define RUNS_BUSY 8  /* frees among IDLE_MISSES misses that earn the magazines their space */

/* ---- magazines ---------------------------------------------------------------------------------------------------- */

INLINE struct page_desc *run_pop(struct run_cache *runs, unsigned run_class)
{
	struct magazine *magazine = &runs->magazines[run_class];
	struct page_desc *desc = *magazine->top;

	if (LIKELY(desc != NULL)) {
		STORE(magazine->top, magazine->top - 1);
		run_start_set(desc_region(desc), desc_page(desc), PAGE_RUN);
	}
	return desc;
}

/* False: it is full. */
INLINE bool run_push(struct run_cache *runs, unsigned run_class, struct page_desc *desc)
{
	struct magazine *magazine = &runs->magazines[run_class];

	if (UNLIKELY(is_full(magazine)))
		return false;
	run_start_set(desc_region(desc), desc_page(desc), PAGE_RUN_CACHED);
	STORE(magazine->top[1], desc);
	STORE(magazine->top, magazine->top + 1);
	return true;
}

/* The magazine that a live run belongs into; RUN_CLASSES: none. */
INLINE unsigned run_class_of(const struct page_desc *desc, uintptr_t address)
{
	size_t n_pages = desc->n_pages;

	if (n_pages > 1u << (RUN_CLASSES - 1) || !is_power_of_two(n_pages) || desc->is_bare ||
	    address & ((n_pages << PAGE_SHIFT) - 1))
		return RUN_CLASSES;
	return lowest_bit(n_pages);
}

static void **run_bottom(const struct run_cache *runs, unsigned run_class)
{
	return &runs->clip->slots[run_class * RUN_SLOTS];
}

static size_t run_limit(const struct kheap *heap, unsigned run_class)
{
	return min_size(heap_scale(heap) / RUN_SHARE >> run_class, RUN_SLOTS - 2);
}

void give_back_run(struct kheap *heap, struct page_desc *desc)
{
	count_free(heap, (size_t)desc->n_pages << PAGE_SHIFT);
	run_free(heap, desc_region(desc), desc_page(desc), desc->n_pages);
}

/* ---- allocation and freeing ---------------------------------------------------------------------------------------- */

void *cpu_alloc_run(struct kheap *heap, unsigned run_class)
{
	struct cpu_cache *cache = cpu_of(heap);
	struct page_desc *desc;

	if (cpu_enter(cache)) {
		desc = run_pop(&cache->runs, run_class);
		cpu_leave(cache);
		if (LIKELY(desc != NULL))
			return (void *)desc_address(desc);
	}
	cpu_begin();
	kport_lock_state state = heap_lock_inline(heap);

	desc = run_alloc(heap, (size_t)1 << run_class, run_class, UINTPTR_MAX, PAGE_RUN);
	if (desc) {
		desc->is_bare = false;
		count_alloc(heap, 1, PAGE_SIZE << run_class);
	}
	cache = own_cache(heap);
	if (cache)
		note_miss(heap, cache);
	heap_unlock_inline(heap, state);
	return desc ? (void *)desc_address(desc) : NULL;
}

/* No magazine has room for it, or none takes it. */
static __attribute__((noinline)) void free_run_shared(struct kheap *heap, uintptr_t address, struct page_desc *desc,
                                                      unsigned run_class)
{
	struct cpu_cache *cache;

	cpu_begin();
	kport_lock_state state = heap_lock_inline(heap);

	bool is_large = is_large_run(desc);

	cache = own_cache(heap);
	if (UNLIKELY(address % PAGE_SIZE || page_kind_of(desc_region(desc), desc_page(desc)) != PAGE_RUN)) {
		free_locked(heap, address);
	} else {
		give_back_run(heap, desc);
	}
	if (cache) {
		if (run_class < RUN_CLASSES)
			cache->n_run_misses++;
		else if (is_large)
			cache->n_large_misses++;
		note_miss(heap, cache);
	}
	heap_unlock_inline(heap, state);
}

void cpu_free_run(struct kheap *heap, void *object)
{
	uintptr_t address = (uintptr_t)object;
	struct region *region = place_at(heap, address).region;
	struct page_desc *desc = &region->descs[region_page(region, address)];
	unsigned run_class = run_class_of(desc, address);
	struct cpu_cache *cache = cpu_of(heap);

	if (cpu_enter(cache)) {
		bool is_done = run_class < RUN_CLASSES ? run_push(&cache->runs, run_class, desc)
		                                       : large_push_run(heap, cache, object, desc);

		cpu_leave(cache);
		if (LIKELY(is_done))
			return;
	}
	free_run_shared(heap, address, desc, run_class);
}

/* ---- what is not needed is given up --------------------------------------------------------------------------------- */

COLD bool runs_drain(struct kheap *heap, struct cpu_cache *cache)
{
	bool any = false;
	struct page_desc *desc;

	for (unsigned i = 0; i < RUN_CLASSES; i++) {
		while ((desc = run_pop(&cache->runs, i)) != NULL) {
			give_back_run(heap, desc);
			any = true;
		}
	}
	return any;
}

COLD void runs_end(struct kheap *heap, struct cpu_cache *cache)
{
	struct clip *clip = cache->runs.clip;

	if (clip) {
		/* There are several NULLs in it. */
		clip_clear(clip);
		clip_give(heap, clip, &clip->slots[CLIP_WORDS - 1]);
	}
	runs_init(cache);
}

COLD void runs_earn(struct kheap *heap, struct cpu_cache *cache)
{
	struct run_cache *runs = &cache->runs;
	bool is_busy = cache->n_run_misses >= RUNS_BUSY;

	cache->n_run_misses = 0;
	if (!runs->clip) {
		if (!is_busy || !run_limit(heap, 0) || (runs->clip = clip_take(heap)) == NULL)
			return;
		for (unsigned i = 0; i < RUN_CLASSES; i++) {
			*run_bottom(runs, i) = NULL;
			runs->magazines[i].top = run_bottom(runs, i);
		}
	}
	for (unsigned i = 0; i < RUN_CLASSES; i++) {
		void **slot = runs->magazines[i].top + 1, **limit = run_bottom(runs, i) + run_limit(heap, i);

		/* It may hold more already than the heap's size allows now. */
		for (; slot <= limit; slot++)
			slot_clear(slot);
		*slot = NULL;
	}
}

COLD void runs_idle(struct kheap *heap, struct cpu_cache *cache)
{
	struct page_desc *desc;

	for (unsigned i = 0; i < RUN_CLASSES; i++) {
		if ((desc = run_pop(&cache->runs, i)) != NULL)
			give_back_run(heap, desc);
	}
}

COLD void runs_init(struct cpu_cache *cache)
{
	cache->runs.clip = NULL;
	/* The magazine of no class is always empty and full. */
	for (unsigned i = 0; i < RUN_CLASSES; i++)
		cache->runs.magazines[i].top = cache->magazines[0].top;
}

COLD size_t runs_count(const struct cpu_cache *cache, size_t *n_bytes)
{
	size_t n = 0;

	/* Of another CPU's magazine this is what can be seen; its runs may be anybody's by now, so they are not looked at. */
	for (unsigned i = 0; i < RUN_CLASSES; i++) {
		void **top = __atomic_load_n(&cache->runs.magazines[i].top, __ATOMIC_RELAXED);

		for (; __atomic_load_n(top, __ATOMIC_RELAXED); top--, n++)
			*n_bytes += PAGE_SIZE << i;
	}
	return n;
}
