/* SPDX-License-Identifier: MIT */
/*
 * CPU caches, what is larger than any magazine's objects: blocks above 4 KiB, and page runs of 64 to 128 KiB. Blocks have any size, so one that is
 * cached serves whatever is a little smaller: sixteen classes an octave, of which a request looks at its own, where some are large
 * enough for it, and at the next two. Runs have a class for each length. Few such objects are live at a time and all of them are large, so there
 * are few places for each class, and a bound for the bytes of all of them together.
 *
 * A block that is cached is known by its key, like an object in a magazine, a run by its page's kind. The space is a page that a CPU earns
 * by missing it.
 */
#include "cpu.h"

#define LARGE_MIN ((size_t)4096)
#define LARGE_BLOCKS 64 /* classes of blocks, up to 64 KiB */
#define LARGE_CLASSES (LARGE_BLOCKS + LARGE_RUN_MAX - LARGE_RUN_MIN + 1)
#define LARGE_SLOTS 6
#define LARGE_NEAR (((uint64_t)2 << NEAR_CLASSES) - 1) /* a request's own class and the next ones */
#define LARGE_BUSY 8                                   /* frees among IDLE_MISSES misses that earn the page */
#define LARGE_MIN_FOOTPRINT 256                        /* pages */
#define FIXED_SHARE 8                                  /* of a CPU's part, where the heap cannot grow */
#define LARGE_MOST_BYTES ((size_t)8 << 20)

struct large_cache {
	uint64_t bits;              /* of the classes of blocks that have objects */
	size_t n_bytes, most_bytes; /* all of them together */
	unsigned hand;              /* the class that gives one back next */
	uint8_t n[LARGE_CLASSES];
	void *objects[LARGE_CLASSES][LARGE_SLOTS];
};
_Static_assert(sizeof(struct large_cache) <= PAGE_SIZE, "a CPU's large objects are listed in a page");
_Static_assert(LARGE_PLACES == LARGE_CLASSES * LARGE_SLOTS, "all places are counted");

INLINE unsigned large_class_of(size_t size)
{
	unsigned octave = log2_floor(size);

	return 16 * (octave - PAGE_SHIFT) + (unsigned)(size >> (octave - 4)) - 16;
}

INLINE unsigned run_class_of_pages(size_t n_pages)
{
	return (unsigned)(LARGE_BLOCKS + n_pages - LARGE_RUN_MIN);
}

/* The topmost of a class that has any leaves it. */
static void *take_top(struct large_cache *large, unsigned class_index)
{
	unsigned n = large->n[class_index] - 1u;

	STORE(large->n[class_index], (uint8_t)n);
	if (!n && class_index < LARGE_BLOCKS)
		large->bits &= ~((uint64_t)1 << class_index);
	return large->objects[class_index][n];
}

static void *block_pop(const struct kheap *heap, struct large_cache *large, size_t size, size_t alignment)
{
	uint64_t near = large->bits & LARGE_NEAR << large_class_of(max_size(size, LARGE_MIN));

	for (; near; near &= near - 1) {
		unsigned class_index = lowest_bit(near);
		void *object = large->objects[class_index][large->n[class_index] - 1];
		size_t usable = usable_of_block(heap, (uintptr_t)object);

		/* Also false if it is too small, or damaged: whoever gives it back tells. */
		if (usable - size > usable / RESIZE_SHARE || !usable || (uintptr_t)object & (alignment - 1))
			continue;
		*key_word((uintptr_t)object) = 0;
		large->n_bytes -= usable;
		return take_top(large, class_index);
	}
	return NULL;
}

/* A run changes between live and cached. */
static void run_mark(struct kheap *heap, void *object, enum page_kind kind)
{
	struct region *region = place_at(heap, (uintptr_t)object).region;

	run_start_set(region, region_page(region, (uintptr_t)object), kind);
}

static void *run_pop(struct kheap *heap, struct large_cache *large, size_t n_pages, size_t alignment)
{
	unsigned class_index = run_class_of_pages(n_pages), n = large->n[class_index];
	void *object;

	if (!n || (uintptr_t)large->objects[class_index][n - 1] & (alignment - 1))
		return NULL;
	large->n_bytes -= n_pages << PAGE_SHIFT;
	object = take_top(large, class_index);
	run_mark(heap, object, PAGE_RUN);
	return object;
}

static void *large_pop(struct kheap *heap, struct large_cache *large, size_t size, size_t alignment)
{
	if (size > BLOCK_MAX_REQUEST)
		return run_pop(heap, large, pages_for(size), alignment);
	return block_pop(heap, large, size, alignment);
}

void *cpu_alloc_large(struct kheap *heap, size_t size, size_t alignment)
{
	struct cpu_cache *cache = cpu_of(heap);
	void *object = NULL;

	if (!cache->large || !cpu_enter(cache))
		return NULL;
	if (cache->large)
		object = large_pop(heap, cache->large, size, alignment);
	cpu_leave(cache);
	return object;
}

static bool large_push(struct large_cache *large, unsigned class_index, void *object, size_t usable)
{
	unsigned n = large->n[class_index];

	if (n == LARGE_SLOTS || large->n_bytes + usable > large->most_bytes)
		return false;
	large->n_bytes += usable;
	STORE(large->objects[class_index][n], object);
	STORE(large->n[class_index], (uint8_t)(n + 1));
	return true;
}

bool large_push_block(struct kheap *heap, struct cpu_cache *cache, void *object)
{
	struct large_cache *large = cache->large;
	size_t usable = usable_of_block(heap, (uintptr_t)object);

	if (!large || !is_large_block(usable))
		return false;
	unsigned class_index = large_class_of(usable);

	/* Where its class is full, the one below may have a place: it is larger than it need be there. */
	if (large->n[class_index] == LARGE_SLOTS && class_index > 0)
		class_index--;
	if (!large_push(large, class_index, object, usable))
		return false;
	large->bits |= (uint64_t)1 << class_index;
	*key_word((uintptr_t)object) = cached_key(heap, (uintptr_t)object);
	return true;
}

bool large_push_run(struct kheap *heap, struct cpu_cache *cache, void *object, const struct page_desc *desc)
{
	struct large_cache *large = cache->large;
	size_t n_pages = desc->n_pages;

	if (!large || !is_large_run(desc) ||
	    !large_push(large, run_class_of_pages(n_pages), object, n_pages << PAGE_SHIFT))
		return false;
	run_mark(heap, object, PAGE_RUN_CACHED);
	return true;
}

/* ---- what is not needed is given up --------------------------------------------------------------------------------- */

COLD static void give_back_top(struct kheap *heap, struct large_cache *large, unsigned class_index)
{
	uintptr_t address = (uintptr_t)take_top(large, class_index);
	struct region *region = region_of(heap, address);

	if (class_index >= LARGE_BLOCKS) {
		struct page_desc *desc = &region->descs[region_page(region, address)];

		large->n_bytes -= (size_t)desc->n_pages << PAGE_SHIFT;
		give_back_run(heap, desc);
		return;
	}
	/* Not known of one that is damaged: then less fits from now on. */
	large->n_bytes -= usable_of_block(heap, address);
	give_back(heap, region, address);
}

/* The first class from this one on that has objects; LARGE_CLASSES: none. */
COLD static unsigned next_class(const struct large_cache *large, unsigned class_index)
{
	while (class_index < LARGE_CLASSES && !large->n[class_index])
		class_index++;
	return class_index;
}

COLD bool large_drain(struct kheap *heap, struct cpu_cache *cache)
{
	struct large_cache *large = cache->large;
	bool any = false;

	for (unsigned i = 0; large && (i = next_class(large, i)) < LARGE_CLASSES; any = true)
		give_back_top(heap, large, i);
	/* Of damaged ones it was not known. */
	if (large)
		large->n_bytes = 0;
	return any;
}

COLD void large_end(struct kheap *heap, struct cpu_cache *cache)
{
	struct large_cache *large = cache->large;

	cache->large = NULL;
	if (large)
		overhead_free(heap, large);
}

COLD void large_earn(struct kheap *heap, struct cpu_cache *cache)
{
	bool is_busy = cache->n_large_misses >= LARGE_BUSY;
	size_t scale = heap_scale(heap) << PAGE_SHIFT;

	cache->n_large_misses = 0;
	if (!cache->large && is_busy && has_plenty(heap, LARGE_MIN_FOOTPRINT))
		cache->large = overhead_page(heap, offsetof(struct large_cache, objects));
	if (!cache->large)
		return;
	size_t part = scale / (2 + heap->n_caches);

	cache->large->most_bytes = min_size(can_grow(heap) ? part : part / FIXED_SHARE, LARGE_MOST_BYTES);
}

COLD void large_idle(struct kheap *heap, struct cpu_cache *cache)
{
	struct large_cache *large = cache->large;

	if (!large)
		return;
	large->hand = next_class(large, large->hand);
	if (large->hand == LARGE_CLASSES)
		large->hand = next_class(large, 0);
	if (large->hand < LARGE_CLASSES)
		give_back_top(heap, large, large->hand++);
}

COLD size_t large_bytes(const struct cpu_cache *cache)
{
	return cache->large ? cache->large->n_bytes : 0;
}

COLD void *large_nth(const struct cpu_cache *cache, unsigned n)
{
	const struct large_cache *large = __atomic_load_n(&cache->large, __ATOMIC_RELAXED);
	unsigned class_index = n / LARGE_SLOTS, slot = n % LARGE_SLOTS;

	if (!large || slot >= __atomic_load_n(&large->n[class_index], __ATOMIC_RELAXED))
		return NULL;
	return __atomic_load_n(&large->objects[class_index][slot], __ATOMIC_RELAXED);
}
