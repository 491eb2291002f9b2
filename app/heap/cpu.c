/* SPDX-License-Identifier: MIT */
/*
 * CPU caches, the slow half: what happens when a magazine is empty or full.
 *
 * A magazine starts with room for two objects inside the struct cpu_cache. A class that misses often earns a clip, with room for up to
 * 31 objects of at most 8 KiB together, then a spare one. Full clips go to the heap's depot and empty magazines take them from there,
 * so objects that one CPU frees and another allocates travel in batches, one lock each. Only when the depot holds its share of
 * the heap do objects go back to their slabs, a few at a time. Blocks of 272 bytes and more have magazines of their own, without a depot.
 *
 * Bounded: no call moves more than a few objects, except where the heap is about to grow or to fail, or was told to drain.
 */
#include "cpu.h"

#define MISSES_FOR_CLIP 8
#define BUSY_STAND_INS 200    /* so often a class's blocks are freed until it gets a slab all the same, */
#define BUSY_MIN_FREE_PAGES 4 /* if there are so many pages to spare */

#define TWICE(n) n, n
#define FOUR(n) TWICE(n), TWICE(n)
#define EIGHT(n) FOUR(n), FOUR(n)
#define SIXTEEN(each, n)                                                                                     \
	each((n)), each((n) + 1), each((n) + 2), each((n) + 3), each((n) + 4), each((n) + 5), each((n) + 6), \
		each((n) + 7), each((n) + 8), each((n) + 9), each((n) + 10), each((n) + 11), each((n) + 12), \
		each((n) + 13), each((n) + 14), each((n) + 15)
#define ONCE(n) n
/* Rounded up, because it is asked for the block that is needed. The first 17 are not used. */
const uint8_t kheap_block_classes[BLOCK_CLASS_MAX / GRANULE + 1] = { SIXTEEN(ONCE, 0),  0,
	                                                             SIXTEEN(ONCE, 0),  SIXTEEN(TWICE, 16),
	                                                             SIXTEEN(FOUR, 32), SIXTEEN(EIGHT, 48) };

/* A magazine that is always empty and always full. */
static void *const no_object;
#define NO_SLOT ((void **)(uintptr_t)&no_object)
#define NONE NO_SLOT, NO_SLOT, NO_SLOT, NO_SLOT, NO_SLOT, NO_SLOT, NO_SLOT, NO_SLOT, NO_SLOT, NO_SLOT
_Static_assert(PAGE_SLAB + SLAB_CLASSES == 20, "twice NONE");
#if KPORT_CPUS > 1
const struct cpu_cache kheap_no_cache = {
	.tops = { NONE, NONE },
	.limits = { NONE, NONE },
	.runs = { .tops = { NO_SLOT, NO_SLOT, NO_SLOT }, .limits = { NO_SLOT, NO_SLOT, NO_SLOT } },
	.inside = 1,
};
#endif

#ifdef CHECKING
void (*kheap_interrupt_hook)(void);
#endif

#if KPORT_CPUS > 1 && defined(KPORT_THREADS)
_Thread_local unsigned kport_thread = KPORT_CPUS;

unsigned kport_thread_begin(void)
{
	static unsigned n_threads;

	/* The number after the last means none. */
	if (kport_thread == KPORT_CPUS && __atomic_load_n(&n_threads, __ATOMIC_RELAXED) < KPORT_CPUS) {
		unsigned thread = __atomic_fetch_add(&n_threads, 1, __ATOMIC_RELAXED);

		kport_thread = thread < KPORT_CPUS ? thread : KPORT_CPUS;
	}
	return kport_thread;
}
#endif

/* ---- a cache's life --------------------------------------------------------------------------------------------- */

static void cache_init_small(struct cpu_cache *cache)
{
	fill_words(cache, 0, sizeof(*cache));
	cache->tops[0] = cache->limits[0] = NO_SLOT;
	runs_init(cache);
	for (unsigned i = 0; i < SLAB_CLASSES; i++) {
		uint64_t size = slab_object_size(i);

		cache->reciprocals[PAGE_SLAB + i] = (uint32_t)((((uint64_t)1 << 32) + size - 1) / size);
		magazine_use(cache, i, cache->small[i], SMALL_WORDS - 1);
	}
}

void cpu_init(struct kheap *heap)
{
	cache_init_small(&heap->cpu0);
#if KPORT_CPUS > 1
	heap->cpus[0] = &heap->cpu0;
	for (unsigned i = 1; i <= KPORT_CPUS; i++)
		heap->cpus[i] = NO_CACHE;
#endif
}

#if KPORT_CPUS > 1
COLD struct cpu_cache *cpu_cache_create(struct kheap *heap)
{
	unsigned cpu = kport_cpu();
	struct page_desc *run;

	if (cpu >= KPORT_CPUS)
		return NULL;
	run = run_alloc(heap, pages_for(sizeof(struct cpu_cache)), 0, UINTPTR_MAX, PAGE_OVERHEAD);
	if (!run)
		return NULL;
	heap->counters.overhead_pages += run->n_pages;
	struct cpu_cache *cache = (struct cpu_cache *)desc_address(run);

	cache_init_small(cache);
	cache->run = run;
	heap->cpus[cpu] = cache;
	return cache;
}
#endif

/* ---- misses of slab classes ----------------------------------------------------------------------------------------- */

/* A class that misses often earns a clip. */
static void earn_clip(struct kheap *heap, struct cpu_cache *cache, unsigned class_index)
{
	struct magazine_state *state = &cache->states[class_index];
	struct magazine magazine = slab_magazine(cache, PAGE_SLAB + class_index);

	if (LIKELY(state->has_clip) || ++state->n_misses < MISSES_FOR_CLIP)
		return;
	struct clip *clip = clip_take(heap);
	size_t n = (size_t)(*magazine.top - state->bottom);

	state->n_misses = 0;
	if (!clip)
		return;
	for (size_t i = 1; i <= n; i++)
		clip->slots[i] = state->bottom[i];
	clip_load(heap, cache, class_index, clip, (unsigned)n);
	state->has_clip = true;
}

/* Objects for an empty magazine. */
static void refill(struct kheap *heap, struct cpu_cache *cache, unsigned class_index)
{
	struct magazine_state *state = &cache->states[class_index];
	struct magazine magazine = slab_magazine(cache, PAGE_SLAB + class_index);

	unsigned n = 0;
	struct clip *clip = state->has_clip ? depot_pop(heap, class_index, &n) : NULL;

	if (clip) {
		if (state->spare)
			clip_give(heap, state->spare);
		state->spare = loaded_clip(cache, class_index);
		state->n_spare = 0;
		clip_load(heap, cache, class_index, clip, n);
		return;
	}
	if (!slab_is_earned(heap, class_index))
		return;
	n = (unsigned)min_size(SLAB_TAKE_MAX, (size_t)(*magazine.limit - *magazine.top));
	n = slab_take(heap, class_index, n, *magazine.top + 1);

	*magazine.top += n;
	count_alloc(heap, n, n * slab_object_size(class_index));
}

/* The spare in place of a magazine that is empty, or full. Needs no lock. */
INLINE bool swap_spare(struct kheap *heap, struct cpu_cache *cache, unsigned class_index, bool wants_full)
{
	struct magazine_state *state = &cache->states[class_index];

	if (!state->spare || (state->n_spare != 0) != wants_full)
		return false;
	clip_swap(heap, cache, class_index);
	return true;
}

void *cpu_alloc_miss(struct kheap *heap, unsigned class_index, size_t size, size_t alignment)
{
	struct cpu_cache *own = cpu_of(heap);

	if (cpu_enter(own)) {
		void *object = NULL;

		/* Interrupted since the miss, the magazine may have objects again. */
		if (*own->tops[PAGE_SLAB + class_index] || swap_spare(heap, own, class_index, true))
			object = magazine_pop(slab_magazine(own, PAGE_SLAB + class_index));
		cpu_leave(own);
		if (object)
			return object;
	}
	cpu_begin();
	kport_lock_state state = heap_lock_inline(heap);
	struct cpu_cache *cache = own_cache(heap);
	void *object = NULL;

	if (cache) {
		struct magazine magazine = slab_magazine(cache, PAGE_SLAB + class_index);

		cache->states[class_index].was_missed = true;
		earn_clip(heap, cache, class_index);
		if (!**magazine.top)
			refill(heap, cache, class_index);
		object = magazine_pop(magazine);
		note_miss(heap, cache);
	}
	if (!object) {
		object = (void *)alloc_stand_in(heap, max_size(size, 1), max_size(alignment, GRANULE), class_index);
		if (object)
			count_alloc(heap, 1, block_size(block_of_payload((uintptr_t)object)) - BLOCK_HEADER);
	}
	heap_unlock_inline(heap, state);
	return object;
}

/* Room in a full magazine. */
static void make_room(struct kheap *heap, struct cpu_cache *cache, unsigned class_index)
{
	struct magazine_state *state = &cache->states[class_index];
	struct magazine magazine = slab_magazine(cache, PAGE_SLAB + class_index);
	struct clip *clip = NULL;

	if (state->spare && !state->n_spare) {
		clip_swap(heap, cache, class_index);
		return;
	}
	if (state->has_clip && depot_has_room(heap))
		clip = clip_take(heap);
	if (!clip) {
		magazine_flush(heap, magazine, state->has_clip ? FLUSH : 1);
		return;
	}
	if (state->spare)
		depot_push(heap, class_index, state->spare, state->n_spare);
	state->spare = loaded_clip(cache, class_index);
	state->n_spare = (uint8_t)(*magazine.top - state->bottom);
	clip_load(heap, cache, class_index, clip, 0);
}

/* ---- blocks ------------------------------------------------------------------------------------------------------- */

INLINE void note_block_miss(struct kheap *heap, struct cpu_cache *cache)
{
	if (cache->n_block_misses < BLOCKS_BUSY)
		cache->n_block_misses++;
	note_miss(heap, cache);
}

void *cpu_block_miss(struct kheap *heap, unsigned block_class)
{
	cpu_begin();
	kport_lock_state state = heap_lock_inline(heap);
	struct cpu_cache *cache = own_cache(heap);
	uintptr_t object = block_cut(heap, block_class_size(block_class), LABEL_SIZED + block_class);

	if (LIKELY(object != 0))
		count_alloc(heap, 1, block_size(block_of_payload(object)) - BLOCK_HEADER);
	if (cache)
		note_block_miss(heap, cache);
	heap_unlock_inline(heap, state);
	return (void *)object;
}

/* ---- free --------------------------------------------------------------------------------------------------------- */

/*
 * The magazine for a live block that starts here, or NO_MAGAZINE. Nothing is believed before the block's check word holds.
 */
INLINE struct magazine magazine_of_block(struct kheap *heap, struct cpu_cache *cache, uintptr_t address, size_t kind)
{
	const struct block *block = block_of_payload(address);

	if (!may_be_payload(address, kind) || !block_tag_holds(heap, block) || is_cached(heap, address))
		return NO_MAGAZINE;
	/* One that is free has the plain label. */
	unsigned label = block_label(block);

	if (label - LABEL_SIZED < BLOCK_CLASSES)
		return cache->blocks ? block_magazine(cache->blocks, label - LABEL_SIZED) : NO_MAGAZINE;
	if (label - LABEL_SLAB_SIZED >= SLAB_CLASSES)
		return NO_MAGAZINE;
	unsigned class_index = label - LABEL_SLAB_SIZED;

	if (KPORT_CPUS > 1 && cache == NO_CACHE)
		return NO_MAGAZINE;
	/* Where there will be no more pages, slabs are better company: blocks merge. */
	if (heap->slabs[class_index].n_slabs && !heap->config.source.get)
		return NO_MAGAZINE;
	/* The class is busy enough for a slab: the blocks go, and the next miss takes from there. */
	if (heap->slabs[class_index].is_busy || cache->states[class_index].n_stand_ins == BUSY_STAND_INS)
		return NO_MAGAZINE;
	cache->states[class_index].n_stand_ins++;
	return slab_magazine(cache, PAGE_SLAB + class_index);
}

/* The magazine is full: make room, or let its class have what it has earned. */
static void magazine_full(struct kheap *heap, struct cpu_cache *cache, struct magazine magazine)
{
	/* Not cut to 32 bits: a block's magazine may lie 32 GiB away. */
	size_t index = (size_t)(magazine.top - cache->tops) - PAGE_SLAB;

	if (index < SLAB_CLASSES) {
		unsigned class_index = (unsigned)index;

		cache->states[class_index].was_missed = true;
		earn_clip(heap, cache, class_index);
		if (*magazine.top == *magazine.limit)
			make_room(heap, cache, class_index);
	} else {
		give_back_block(heap, *(*magazine.top)--);
	}
	note_miss(heap, cache);
}

/* A block that stands in is freed, often enough that its class gets a slab if there are pages to spare. */
static void earn_slab(struct kheap *heap, struct cpu_cache *cache, uintptr_t address)
{
	struct object object;

	if (!heap_locate(heap, address, &object))
		return;
	unsigned class_index = label_slab_class(block_label(block_of_payload(address)));

	if (class_index == SLAB_NO_CLASS || cache->states[class_index].n_stand_ins < BUSY_STAND_INS)
		return;
	cache->states[class_index].n_stand_ins = 0;
	heap->slabs[class_index].is_busy = heap->counters.free_run_pages >= BUSY_MIN_FREE_PAGES;
}

/* With the lock: a magazine that is full, and whatever no magazine takes. */
static __attribute__((noinline)) void free_shared(struct kheap *heap, void *object, size_t kind)
{
	uintptr_t address = (uintptr_t)object;

	cpu_begin();
	kport_lock_state state = heap_lock_inline(heap);
	struct cpu_cache *cache = own_cache(heap);
	struct magazine magazine = NO_MAGAZINE;

	if (kind & PAGE_FRESH)
		kind = slab_settle_fresh(heap, address);
	if (!cache)
		;
	else if (kind == PAGE_BLOCK || kind == PAGE_BLOCK_HEAD)
		magazine = magazine_of_block(heap, cache, address, kind);
	else if (starts_object(cache, address, kind) && !is_cached(heap, address))
		magazine = slab_magazine(cache, kind);
	if (magazine.top && *magazine.top == *magazine.limit)
		magazine_full(heap, cache, magazine);
	if (!magazine.top || !magazine_push(heap, magazine, object)) {
		if (cache && (kind == PAGE_BLOCK || kind == PAGE_BLOCK_HEAD))
			earn_slab(heap, cache, address);
		free_locked(heap, address);
	}
	heap_unlock_inline(heap, state);
}

void cpu_free_small(struct kheap *heap, void *object, size_t kind)
{
	struct cpu_cache *cache = cpu_of(heap);
	bool is_done = false;

	/* A spare takes what the magazine has no room for. */
	if (!HARDENED && starts_object(cache, (uintptr_t)object, kind) && !is_cached(heap, (uintptr_t)object) &&
	    cpu_enter(cache)) {
		if (swap_spare(heap, cache, (unsigned)kind - PAGE_SLAB, false))
			is_done = magazine_push(heap, slab_magazine(cache, kind), object);
		cpu_leave(cache);
	}
	if (!is_done)
		free_shared(heap, object, kind);
}

/*
 * The block class of a live block that starts here; BLOCK_CLASSES or more: none, or not to be seen without the lock. What lies in the
 * first granule of a page has its header in another page, which need not be the heap's. A pointer that is misaligned has no header.
 */
INLINE size_t block_class_of(const struct kheap *heap, uintptr_t address)
{
	if (UNLIKELY(!(address % PAGE_SIZE / GRANULE)))
		return BLOCK_CLASSES;
	const struct block *block = block_of_payload(address);
	uint64_t header = block_header(block);

	if (UNLIKELY(header_hash(heap, block, header)) || UNLIKELY(is_cached(heap, address)))
		return BLOCK_CLASSES;
	/* One that is free has the plain label. */
	return (size_t)(header >> HEADER_LABEL_SHIFT & 0xff) - LABEL_SIZED;
}

void cpu_free_other(struct kheap *heap, void *object, size_t kind)
{
	struct cpu_cache *cache = cpu_of(heap);

	if (HARDENED || UNLIKELY(kind - PAGE_BLOCK_HEAD > PAGE_BLOCK - PAGE_BLOCK_HEAD)) {
		if (!HARDENED && kind == PAGE_RUN)
			cpu_free_run(heap, object);
		else
			free_shared(heap, object, kind);
		return;
	}
	if (cpu_enter(cache)) {
		size_t block_class = block_class_of(heap, (uintptr_t)object);
		struct block_cache *blocks = cache->blocks;
		bool is_done = LIKELY(block_class < BLOCK_CLASSES) && LIKELY(blocks != NULL) &&
		               magazine_push(heap, block_magazine(blocks, block_class), object);

		/* One that stands in for an object of a slab. */
		if (!is_done && block_class - (LABEL_SLAB_SIZED - LABEL_SIZED) < SLAB_CLASSES) {
			struct magazine magazine = magazine_of_block(heap, cache, (uintptr_t)object, kind);

			is_done = magazine.top && magazine_push(heap, magazine, object);
		}
		cpu_leave(cache);
		if (LIKELY(is_done))
			return;
	}
	free_shared(heap, object, kind);
}

__attribute__((noinline)) void cpu_free_miss(struct kheap *heap, void *object)
{
	if (!object)
		return;
	size_t kind = kind_of(heap, (uintptr_t)object);

	fast_free_kind(heap, object, kind);
}

/* ---- sums --------------------------------------------------------------------------------------------------------- */

struct sum {
	size_t n_objects, n_bytes;
};

/* n slots down from this one, or to the NULL at the bottom. */
static void slots_count(struct kheap *heap, void **top, size_t n, struct sum *sum)
{
	void *pointer;
	struct object object;

	/* Of another CPU's magazine this is what can be seen: an object that is just leaving it is live either way. */
	for (; n-- && (pointer = __atomic_load_n(top, __ATOMIC_RELAXED)) != NULL; top--) {
		if (!heap_locate(heap, (uintptr_t)pointer, &object))
			continue;
		sum->n_objects++;
		sum->n_bytes += object.slot;
	}
}

static void top_count(struct kheap *heap, void **const *top, struct sum *sum)
{
	slots_count(heap, __atomic_load_n(top, __ATOMIC_RELAXED), SIZE_MAX, sum);
}

COLD static void cache_count(struct kheap *heap, const struct cpu_cache *cache, struct sum *sum)
{
	for (unsigned i = 0; i < SLAB_CLASSES; i++) {
		const struct magazine_state *state = &cache->states[i];

		top_count(heap, &cache->tops[PAGE_SLAB + i], sum);
		if (state->n_spare)
			slots_count(heap, state->spare->slots + state->n_spare, state->n_spare, sum);
	}
	for (unsigned i = 0; cache->blocks && i < BLOCK_CLASSES; i++)
		top_count(heap, &cache->blocks->tops[i], sum);
	sum->n_objects += runs_count(cache, &sum->n_bytes);
}

COLD void cpu_count(struct kheap *heap, size_t *n_objects, size_t *n_bytes)
{
	struct sum sum = { 0, 0 };

	for (unsigned i = 0; i < SLAB_CLASSES; i++) {
		for (uintptr_t tagged = heap->depot.full[i]; tagged; tagged = (uintptr_t)tagged_clip(tagged)->slots[0])
			slots_count(heap, tagged_clip(tagged)->slots + tagged % CLIP_WORDS, tagged % CLIP_WORDS, &sum);
	}
#if KPORT_CPUS > 1
	for (unsigned i = 0; i < KPORT_CPUS; i++) {
		if (heap->cpus[i] != NO_CACHE)
			cache_count(heap, heap->cpus[i], &sum);
	}
#else
	cache_count(heap, &heap->cpu0, &sum);
#endif
	*n_objects = sum.n_objects;
	*n_bytes = sum.n_bytes;
}
