/* SPDX-License-Identifier: MIT */
/*
 * CPUs that leave, threads above all: their caches wait for the next one, as they are but for what is large.
 */
#include "cpu.h"

#define PARKED_MOST 4 /* caches of CPUs that left */
#define PARKED_MOST_BYTES \
	((size_t)1 << 20) /* each may keep of full clips: those of the largest classes go until it is no more */

/* All goes back that it holds, or that was returned for it; what is left is as it was made. */
static void cache_empty(struct kheap *heap, struct cpu_cache *cache)
{
	(void)returned_drain(heap, cache);
	(void)cache_drain_all(heap, cache);
	cache_shrink(heap, cache);
}

#if KPORT_CPUS > 1
/*
 * A cache that its CPU leaves waits for the next one as it is, but for what is large: threads come and go, and each would take the lock for all that
 * it needs until its magazines are full. Everybody gets at it, with the lock: it goes before the heap grows for want of room, or fails.
 */
static void cache_park(struct kheap *heap, struct cpu_cache *cache)
{
	(void)runs_drain(heap, cache);
	(void)large_drain(heap, cache);
	for (unsigned i = MAGAZINES; --i >= MAGAZINE_SLAB && cache->own_bytes > PARKED_MOST_BYTES;)
		(void)own_drain(heap, cache, i);
	cache->next_parked = heap->parked;
	heap->parked = cache;
	heap->n_parked++;
}

struct cpu_cache *cache_unpark(struct kheap *heap)
{
	struct cpu_cache *cache = heap->parked;

	if (cache) {
		heap->parked = cache->next_parked;
		heap->n_parked--;
	}
	return cache;
}

/* It is in no table and no list any more. */
static void cache_end(struct kheap *heap, struct cpu_cache *cache)
{
	cache_empty(heap, cache);
	overhead_free(heap, cache);
}

bool parked_end(struct kheap *heap)
{
	struct cpu_cache *cache;
	bool any = heap->parked != NULL;

	while ((cache = cache_unpark(heap)) != NULL)
		cache_end(heap, cache);
	return any;
}
#else
bool parked_end(struct kheap *heap)
{
	(void)heap;
	return false;
}
#endif

/* A CPU leaves its cache, if it is not half changed. The first one's stays where it is, and is drained. */
COLD static void cache_leave(struct kheap *heap, unsigned cpu)
{
	struct cpu_cache *cache = cache_of(heap, cpu);

	if (HARDENED || !cache || (INTERRUPTS && cache->inside))
		return;
#if KPORT_CPUS > 1
	if (cache != &heap->cpu0) {
		heap->cpus[cpu] = NO_CACHE;
		STORE(heap->n_caches, heap->n_caches - 1);
		slabs_inherit(heap, cache);
		if (heap->n_parked < PARKED_MOST && can_grow(heap))
			cache_park(heap, cache);
		else
			cache_end(heap, cache);
		return;
	}
#endif
	cache_empty(heap, cache);
}

COLD void cpu_end_all(struct kheap *heap)
{
	for (unsigned i = 0; i < KPORT_CPUS; i++)
		cache_leave(heap, i);
	(void)parked_end(heap);
}

COLD void kheap_leave(struct kheap *heap)
{
	kport_lock_state state = heap_lock(heap);

	cache_leave(heap, kport_cpu());
	heap_unlock(heap, state);
}
