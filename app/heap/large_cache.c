/* SPDX-License-Identifier: MIT */
/*
 * CPU caches, what is larger than any magazine's objects: blocks above 4 KiB, and page runs of 64 to 128 KiB. Blocks have any size, so one that is
 * cached serves whatever is a little smaller: sixteen classes an octave, of which a request looks at its own, where some are large
 * enough for it, and at the next two. Runs have a list for each length. There is a bound for the bytes of all of them together.
 *
 * A block that is cached is known by its key, like an object in a magazine, a run by its page's kind. The space is a page that a CPU earns
 * by missing it: entries for blocks, of which a class with many leaves a quarter to the others. Runs are listed through their descriptors. In a heap that
 * is too small for the page a CPU that works alone keeps one block and one run, if such were freed twice in turn.
 */
#include "cpu.h"

#define LARGE_MIN ((size_t)4096)
#define LARGE_FEW 6       /* so many of a class, or length, have the first right to the space; */
#define LARGE_FEW_CPUS 12 /* where several CPUs work: there blocks have half as many sizes */
#define LARGE_CLASSES 64  /* of blocks, up to 64 KiB */
#define LARGE_RUNS (LARGE_RUN_MAX - LARGE_RUN_MIN + 1)
#define LARGE_NEAR (((uint64_t)2 << NEAR_CLASSES) - 1) /* a request's own class and the next ones */
#define LARGE_KEPT 64                                  /* blocks of a CPU that wants none, where others may */
#define LARGE_BUSY 8                                   /* frees among IDLE_MISSES misses that earn the page */
#define LARGE_MIN_FOOTPRINT 256                        /* pages */
#define LARGE_MOST_BYTES ((size_t)8 << 20)

struct large_cache {
	uint64_t bits;              /* of the classes of blocks that have objects */
	size_t n_bytes, most_bytes; /* all of them together */
	size_t many_bytes;          /* beyond this a class that has some already gets no more */
	size_t n_runs, run_bytes;   /* of these, runs */
	struct page_desc *runs[LARGE_RUNS];
	uint16_t n_of_runs[LARGE_RUNS];
	unsigned hand; /* the class that gives one back next */
	uint16_t n[LARGE_CLASSES];
	uint16_t first[LARGE_CLASSES]; /* the entry of the topmost; 0: there is none */
	uint16_t n_blocks, few;
	uint16_t unused;    /* the first entry of those that were used once */
	uint16_t n_entries; /* that were */
	uint16_t n_kept;    /* blocks that came since one was wanted */
	uint16_t next[LARGE_PLACES];
	uint16_t granules[LARGE_PLACES]; /* of the whole block: to look at its header would be a cache miss */
	void *objects[LARGE_PLACES];     /* the first is not used */
};
_Static_assert(sizeof(struct large_cache) <= PAGE_SIZE, "a CPU's large objects are listed in a page");

INLINE unsigned large_class_of(size_t size)
{
	unsigned octave = log2_floor(size);

	return 16 * (octave - PAGE_SHIFT) + (unsigned)(size >> (octave - 4)) - 16;
}

/* An entry for a block; 0: there is none left. */
static unsigned entry_take(struct large_cache *large)
{
	unsigned entry = large->unused;

	if (entry)
		large->unused = large->next[entry];
	else if (large->n_entries < LARGE_PLACES - 1)
		STORE(large->n_entries, (uint16_t)(entry = large->n_entries + 1u));
	return entry;
}

INLINE size_t usable_of_entry(const struct large_cache *large, unsigned entry)
{
	return (size_t)large->granules[entry] * GRANULE - BLOCK_HEADER;
}

/* The topmost of a class that has any leaves it. */
INLINE void *take_top(struct large_cache *large, unsigned class_index)
{
	unsigned entry = large->first[class_index];
	void *object = large->objects[entry];

	large->n_bytes -= usable_of_entry(large, entry);
	STORE(large->objects[entry], NULL);
	large->first[class_index] = large->next[entry];
	large->n[class_index]--;
	large->n_blocks--;
	if (!large->first[class_index])
		large->bits &= ~((uint64_t)1 << class_index);
	large->next[entry] = large->unused;
	large->unused = (uint16_t)entry;
	return object;
}

/* Does a cached block of so many bytes serve the request? 0: there is none, or its header is damaged. */
INLINE bool serves(const void *object, size_t usable, size_t size, size_t alignment)
{
	return usable && usable - size <= usable / RESIZE_SHARE && !((uintptr_t)object & (alignment - 1));
}

static void *block_pop(const struct kheap *heap, struct large_cache *large, size_t size, size_t alignment)
{
	uint64_t near = large->bits & LARGE_NEAR << large_class_of(max_size(size, LARGE_MIN));

	for (; near; near &= near - 1) {
		unsigned class_index = lowest_bit(near), entry = large->first[class_index];
		void *object = large->objects[entry];
		size_t usable = usable_of_entry(large, entry);

		if (!serves(object, usable, size, alignment))
			continue;
		/* Damaged: whoever gives it back tells. */
		if (UNLIKELY(usable_of_block(heap, (uintptr_t)object) != usable))
			continue;
		*key_word((uintptr_t)object) = 0;
		return take_top(large, class_index);
	}
	return NULL;
}

static struct page_desc *run_pop(struct large_cache *large, size_t n_pages, size_t alignment)
{
	struct page_desc *desc = run_list_pop(&large->runs[n_pages - LARGE_RUN_MIN], alignment);

	if (desc) {
		large->n_bytes -= n_pages << PAGE_SHIFT;
		STORE(large->run_bytes, large->run_bytes - (n_pages << PAGE_SHIFT));
		STORE(large->n_runs, large->n_runs - 1);
		large->n_of_runs[n_pages - LARGE_RUN_MIN]--;
	}
	return desc;
}

static void *large_pop(struct kheap *heap, struct large_cache *large, size_t size, size_t alignment)
{
	large->n_kept = 0;
	if (size <= BLOCK_MAX_REQUEST)
		return block_pop(heap, large, size, alignment);
	struct page_desc *desc = run_pop(large, pages_for(size), alignment);

	return desc ? (void *)desc_address(desc) : NULL;
}

INLINE size_t run_bytes(const struct page_desc *desc)
{
	return desc ? (size_t)desc->n_pages << PAGE_SHIFT : 0;
}

static void *lone_pop(struct kheap *heap, struct cpu_cache *cache, size_t size, size_t alignment)
{
	void *object = cache->lone;

	if (size > BLOCK_MAX_REQUEST) {
		struct page_desc *desc = cache->lone_run;

		if (!desc || desc->n_pages != pages_for(size))
			return NULL;
		desc = run_list_pop(&cache->lone_run, alignment);
		if (!desc)
			return NULL;
		cache->lone_bytes -= run_bytes(desc);
		return (void *)desc_address(desc);
	}
	size_t usable = object ? usable_of_block(heap, (uintptr_t)object) : 0;

	if (!serves(object, usable, size, alignment))
		return NULL;
	*key_word((uintptr_t)object) = 0;
	STORE(cache->lone, NULL);
	cache->lone_bytes -= usable;
	return object;
}

__attribute__((noinline)) void *cpu_alloc_large(struct kheap *heap, size_t size, size_t alignment)
{
	struct cpu_cache *cache = cpu_of(heap);
	size_t wanted = has_coarse_sizes(heap) && alignment <= GRANULE ? coarse_size(size) : size;
	void *object = NULL;

	if (cpu_enter(cache)) {
		object = LIKELY(cache->large != NULL) ? large_pop(heap, cache->large, wanted, alignment)
		                                      : lone_pop(heap, cache, wanted, alignment);
		cpu_leave(cache);
	}
	if (LIKELY(object != NULL))
		return object;
	if (size > BLOCK_MAX_REQUEST || alignment >= PAGE_SIZE)
		return alloc_any(heap, size, alignment, 0);
	kport_lock_state state = heap_lock_inline(heap);
	uintptr_t block = block_alloc(heap, wanted, alignment, LABEL_PLAIN);

	if (heap->n_large_missed < LARGE_LONG && can_grow(heap))
		STORE(heap->n_large_missed, heap->n_large_missed + 1);
	if (LIKELY(block != 0))
		count_alloc(heap, 1, block_size(block_of_payload(block)) - BLOCK_HEADER);
	heap_unlock_inline(heap, state);
	return LIKELY(block != 0) ? (void *)block : alloc_any(heap, size, alignment, 0);
}

/* In a heap without space for more a CPU that works alone keeps one: what it keeps nobody else misses. */
INLINE bool may_keep_one(const struct kheap *heap, const struct cpu_cache *cache, size_t n_bytes)
{
	return !cache->large && !heap->n_caches && heap->counters.footprint_pages < LARGE_MIN_FOOTPRINT &&
	       may_keep(heap, n_bytes);
}

/* The second one like this in turn: one that comes and goes. */
INLINE bool is_lone(uint8_t *last, size_t kind)
{
	bool is_next = *last == kind;

	*last = (uint8_t)kind;
	return is_next;
}

void large_free_block(struct kheap *heap, struct cpu_cache *cache, struct region *region, uintptr_t address)
{
	size_t usable = usable_of_block(heap, address);

	if (may_keep_one(heap, cache, usable) && is_lone(&cache->lone_class, large_class_of(usable))) {
		uintptr_t old = (uintptr_t)cache->lone;

		*key_word(address) = cached_key(heap, address);
		STORE(cache->lone, (void *)address);
		cache->lone_bytes = usable + run_bytes(cache->lone_run);
		if (!old)
			return;
		address = old;
		region = region_of(heap, address);
	}
	give_back(heap, region, address);
}

void large_free_run(struct kheap *heap, struct cpu_cache *cache, struct page_desc *desc)
{
	if (may_keep_one(heap, cache, run_bytes(desc)) && is_lone(&cache->lone_pages, desc->n_pages)) {
		struct page_desc *old = run_list_pop(&cache->lone_run, 1);

		run_list_push(&cache->lone_run, desc_region(desc), desc);
		cache->lone_bytes += run_bytes(desc) - run_bytes(old);
		if (!old)
			return;
		desc = old;
	}
	give_back_run(heap, desc);
}

/* For one more of so many that are alike. */
INLINE bool has_room(const struct large_cache *large, size_t n, size_t n_bytes)
{
	return large->n_bytes + n_bytes <= (n < large->few ? large->most_bytes : large->many_bytes);
}

bool large_push_block(struct kheap *heap, struct cpu_cache *cache, void *object)
{
	struct large_cache *large = cache->large;
	size_t usable = usable_of_block(heap, (uintptr_t)object);
	unsigned class_index, entry;

	if (!large || !is_large_block(usable))
		return false;
	class_index = large_class_of(usable);
	/* A class that has some already leaves entries to others, and a CPU that only frees leaves blocks to others. */
	if ((large->n[class_index] >= large->few && large->n_blocks >= LARGE_PLACES / 4 * 3) ||
	    (large->n_kept >= LARGE_KEPT && LOAD(heap->n_caches)))
		return false;
	if (!has_room(large, large->n[class_index], usable) || (entry = entry_take(large)) == 0)
		return false;
	large->n[class_index]++;
	large->n_blocks++;
	large->n_kept++;
	large->n_bytes += usable;
	large->next[entry] = large->first[class_index];
	large->first[class_index] = (uint16_t)entry;
	large->granules[entry] = (uint16_t)((usable + BLOCK_HEADER) / GRANULE);
	large->bits |= (uint64_t)1 << class_index;
	STORE(large->objects[entry], object);
	*key_word((uintptr_t)object) = cached_key(heap, (uintptr_t)object);
	return true;
}

__attribute__((noinline)) bool cpu_free_large(struct kheap *heap, void *object)
{
	struct cpu_cache *cache = cpu_of(heap);
	bool is_done = false;

	if (cpu_enter(cache)) {
		is_done = large_push_block(heap, cache, object);
		cpu_leave(cache);
	}
	return is_done;
}

bool large_push_run(struct cpu_cache *cache, struct page_desc *desc)
{
	struct large_cache *large = cache->large;
	size_t n_bytes = (size_t)desc->n_pages << PAGE_SHIFT;

	if (!large || !is_large_run(desc) || !has_room(large, large->n_of_runs[desc->n_pages - LARGE_RUN_MIN], n_bytes))
		return false;
	large->n_of_runs[desc->n_pages - LARGE_RUN_MIN]++;
	run_list_push(&large->runs[desc->n_pages - LARGE_RUN_MIN], desc_region(desc), desc);
	large->n_bytes += n_bytes;
	STORE(large->run_bytes, large->run_bytes + n_bytes);
	STORE(large->n_runs, large->n_runs + 1);
	return true;
}

/* ---- what is not needed is given up --------------------------------------------------------------------------------- */

/* One of a class of blocks, or of a length of runs, which are numbered behind them; false: it has none. */
COLD static bool give_back_top(struct kheap *heap, struct large_cache *large, unsigned number)
{
	if (number >= LARGE_CLASSES) {
		struct page_desc *desc = run_pop(large, number - LARGE_CLASSES + LARGE_RUN_MIN, 1);

		if (desc)
			give_back_run(heap, desc);
		return desc != NULL;
	}
	if (!large->first[number])
		return false;
	uintptr_t address = (uintptr_t)take_top(large, number);

	give_back(heap, region_of(heap, address), address);
	return true;
}

bool lone_drain(struct kheap *heap, struct cpu_cache *cache)
{
	struct page_desc *desc = run_list_pop(&cache->lone_run, 1);
	uintptr_t address = (uintptr_t)cache->lone;

	STORE(cache->lone, NULL);
	cache->lone_bytes = 0;
	if (desc)
		give_back_run(heap, desc);
	if (address)
		give_back(heap, region_of(heap, address), address);
	return desc || address;
}

COLD bool large_drain(struct kheap *heap, struct cpu_cache *cache)
{
	struct large_cache *large = cache->large;
	bool any = lone_drain(heap, cache);

	for (unsigned i = 0; large && i < LARGE_CLASSES + LARGE_RUNS; i++) {
		while (give_back_top(heap, large, i))
			any = true;
	}
	return any;
}

COLD void large_end(struct kheap *heap, struct cpu_cache *cache)
{
	struct large_cache *large = cache->large;

	cache->large = NULL;
	if (large)
		overhead_free(heap, large);
}

/* What was kept before there was space for more. */
static void lone_join(struct kheap *heap, struct cpu_cache *cache)
{
	struct page_desc *desc = run_list_pop(&cache->lone_run, 1);
	void *object = cache->lone;

	STORE(cache->lone, NULL);
	cache->lone_bytes = 0;
	if (desc && !large_push_run(cache, desc))
		give_back_run(heap, desc);
	if (object && !large_push_block(heap, cache, object))
		give_back(heap, region_of(heap, (uintptr_t)object), (uintptr_t)object);
}

COLD void large_earn(struct kheap *heap, struct cpu_cache *cache)
{
	bool is_busy = cache->n_large_misses >= LARGE_BUSY;
	size_t scale = heap_scale(heap) << PAGE_SHIFT;

	cache->n_large_misses = 0;
	if (!cache->large && is_busy && has_plenty(heap, LARGE_MIN_FOOTPRINT))
		cache->large = overhead_page(heap, offsetof(struct large_cache, next));
	if (!cache->large)
		return;
	struct large_cache *large = cache->large;
	size_t part =
		(scale / (heap->n_caches ? 2 + heap->n_caches : 4) / scarcity(heap) / crowd(heap)) >> heap->squeeze;

	large->few = heap->n_caches ? LARGE_FEW_CPUS : LARGE_FEW;
	large->many_bytes = heap->n_caches ? 0 : burst_bytes(heap);
	large->most_bytes = max_size(min_size(part, LARGE_MOST_BYTES), large->many_bytes);
	/* One of any length has room, where nobody misses it. */
	if (may_keep(heap, LARGE_RUN_MAX * PAGE_SIZE))
		large->most_bytes = max_size(large->most_bytes, LARGE_RUN_MAX * PAGE_SIZE);
	lone_join(heap, cache);
}

COLD void large_idle(struct kheap *heap, struct cpu_cache *cache)
{
	struct large_cache *large = cache->large;

	if (!large) {
		(void)lone_drain(heap, cache);
		return;
	}
	/* Class after class, then a run. */
	uint64_t later = large->hand < LARGE_CLASSES ? large->bits >> large->hand : 0;

	if (later) {
		large->hand += lowest_bit(later);
		(void)give_back_top(heap, large, large->hand++);
		return;
	}
	large->hand = 0;
	for (unsigned i = LARGE_RUNS; large->n_runs && i--;) {
		if (give_back_top(heap, large, LARGE_CLASSES + i))
			return;
	}
}

COLD size_t large_bytes(const struct cpu_cache *cache)
{
	return cache->large ? cache->large->n_bytes : cache->lone_bytes;
}

COLD void *large_nth(const struct cpu_cache *cache, unsigned n)
{
	const struct large_cache *large = __atomic_load_n(&cache->large, __ATOMIC_RELAXED);

	if (!n)
		return LOAD(cache->lone);
	return large && n <= LOAD(large->n_entries) ? LOAD(large->objects[n]) : NULL;
}

COLD size_t large_runs(const struct cpu_cache *cache, size_t *n_bytes)
{
	const struct large_cache *large = __atomic_load_n(&cache->large, __ATOMIC_RELAXED);
	const struct page_desc *lone = LOAD(cache->lone_run);

	*n_bytes += (large ? LOAD(large->run_bytes) : 0) + (lone ? (size_t)lone->n_pages << PAGE_SHIFT : 0);
	return (large ? LOAD(large->n_runs) : 0) + (lone != NULL);
}
