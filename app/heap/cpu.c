/* SPDX-License-Identifier: MIT */
/*
 * CPU caches, the slow half: what happens when a magazine is empty, and what makes room in a full one.
 *
 * A magazine starts with room for two objects inside the struct cpu_cache. A class that misses often earns a clip, with room for up to
 * 30 objects of at most 8 KiB together, then more of them, which go to and fro without the lock. When a CPU has its share of full clips,
 * others go to the depot, blocks for whoever misses them, small objects for the CPU whose slabs they are from; empty magazines take
 * them from there, so objects that one CPU frees and another allocates travel in batches, one lock each. Where that has no room, or a clip's
 * objects are from several CPUs' slabs, they go back to their slabs. Blocks of 272 bytes and more have nothing of this before the heap has
 * some size, but a few small magazines that are lent (lent.c).
 *
 * Bounded: no call moves more than two magazines' objects, except where the heap is about to grow or to fail, or was told to drain.
 */
#include "cpu.h"
#include "victim.h"

#define MISSES_FOR_CLIP 8
#define CUT_MORE 3     /* blocks besides the one that was missed, where others wait for the lock; */
#define FLUSH_BLOCKS 4 /* and so many go back at once */
/*
 * Sizes up to 256 bytes have the slab class of their granules, and so do powers of two above; the others that of the smallest block class
 * with room for them and a header. The first size of an octave is a power of two.
 */
#define SLAB_SIZES(class) [2 * (class) - 1 ... 2 * (class)] = MAGAZINE_SLAB - 1 + (class)
#define BLOCK_SIZES(octave, n)                                                             \
	[((2 << (octave)) * (16 + (n))) + ((n) == 0)...(2 << (octave)) * (17 + (n)) - 1] = \
		MAGAZINE_BLOCK + 16 * (octave) + (n)
#define SIXTEEN(each)                                                                                                 \
	each(0), each(1), each(2), each(3), each(4), each(5), each(6), each(7), each(8), each(9), each(10), each(11), \
		each(12), each(13), each(14), each(15)
#define SLAB_NTH(n) SLAB_SIZES((n) + 1)
#define OCTAVE_0(n) BLOCK_SIZES(0, n)
#define OCTAVE_1(n) BLOCK_SIZES(1, n)
#define OCTAVE_2(n) BLOCK_SIZES(2, n)
#define OCTAVE_3(n) BLOCK_SIZES(3, n)
const uint8_t kheap_size_magazines[FAST_MAX / 8 + 1] = {
	[0] = MAGAZINE_SLAB, SIXTEEN(SLAB_NTH),
	SIXTEEN(OCTAVE_0),   [512 / 8] = MAGAZINE_SLAB + 16,
	SIXTEEN(OCTAVE_1),   [1024 / 8] = MAGAZINE_SLAB + 17,
	SIXTEEN(OCTAVE_2),   [2048 / 8] = MAGAZINE_SLAB + 18,
	SIXTEEN(OCTAVE_3),
};

/* Sixteen an octave, as the bins are. */
#define BLOCK_0(n) (17 + (n)) * GRANULE
#define BLOCK_1(n) (17 + (n)) * GRANULE << 1
#define BLOCK_2(n) (17 + (n)) * GRANULE << 2
#define BLOCK_3(n) (17 + (n)) * GRANULE << 3
const uint16_t kheap_block_sizes[BLOCK_CLASSES] = { SIXTEEN(BLOCK_0), SIXTEEN(BLOCK_1), SIXTEEN(BLOCK_2),
	                                            SIXTEEN(BLOCK_3) };

/* A magazine that is always empty and always full. */
static void *const no_object[2];
#define NO_SLOT ((void **)(uintptr_t)no_object)
#if KPORT_CPUS > 1
const struct cpu_cache kheap_no_cache = {
	.magazines = { [0 ... MAGAZINES] = { NO_SLOT } },
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
	for (unsigned i = 0; i <= MAGAZINES; i++)
		cache->magazines[i].top = NO_SLOT;
	for (unsigned i = 0; i < SLAB_CLASSES; i++) {
		cache->states[i].object_words = (uint16_t)(slab_object_size(i) / sizeof(void *));
		small_use(cache, MAGAZINE_SLAB + i, &cache->states[i]);
		for (unsigned n = 1; n <= SMALL_OBJECTS; n++)
			slot_clear(cache->magazines[MAGAZINE_SLAB + i].top + n);
	}
	lent_init(cache);
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
	struct cpu_cache *cache = cache_unpark(heap);

	if (!cache) {
		run = run_alloc(heap, pages_for(sizeof(struct cpu_cache)), 0, UINTPTR_MAX, PAGE_OVERHEAD);
		if (!run)
			return NULL;
		heap->counters.overhead_pages += run->n_pages;
		cache = (struct cpu_cache *)desc_address(run);
		cache_init_small(cache);
	}
	heap->cpus[cpu] = cache;
	STORE(heap->n_caches, heap->n_caches + 1);
	heap->squeeze = 0;
	return cache;
}
#endif

/* ---- misses ----------------------------------------------------------------------------------------------------- */

void earn_clip(struct kheap *heap, struct cpu_cache *cache, unsigned number)
{
	struct magazine_state *state = state_of(cache, number);

	if (LIKELY(state->has_clip) || (number < MAGAZINE_BLOCK && ++state->n_misses < MISSES_FOR_CLIP))
		return;
	struct clip *clip = clip_take(heap);
	size_t n = 0;

	state->n_misses = 0;
	if (!clip)
		return;
	if (state->end) {
		n = (size_t)(cache->magazines[number].top - bottom_of(state));
		for (size_t i = 1; i <= n; i++)
			clip->slots[i] = bottom_of(state)[i];
	}
	limit_note(heap, state, number);
	clip_use(cache, number, state, clip, n);
	state->has_clip = true;
}

/* A full clip from the depot for an empty magazine. */
static bool refill_from_depot(struct kheap *heap, struct cpu_cache *cache, unsigned number)
{
	struct magazine_state *state = state_of(cache, number);
	void **top = state->has_clip ? depot_pop(heap, cache, number) : NULL;

	if (!top)
		return false;
	limit_note(heap, state, number);
	clip_give(heap, loaded_clip(state), state->end);
	clip_use_full(cache, number, state, top);
	own_earn(cache, clip_bytes(state, top));
	return true;
}

/* The n topmost objects of a magazine came from a slab, unless they went back since: they get their keys, without the lock. */
INLINE void keys_write(const struct kheap *heap, void **top, unsigned n)
{
	uint64_t key = cached_key(heap, 0);

	for (; n && *top; n--, top--)
		*key_word((uintptr_t)*top) = key + (uintptr_t)*top;
}

/* Objects of a slab for an empty magazine; how many. */
static unsigned refill_from_slab(struct kheap *heap, struct cpu_cache *cache, unsigned class_index)
{
	struct magazine *magazine = &cache->magazines[MAGAZINE_SLAB + class_index];
	unsigned n = (unsigned)(cache->states[class_index].end - magazine->top - 1);

	if (!slab_is_earned(heap, class_index))
		return 0;
	n = slab_take(heap, class_index, n, magazine->top + 1);
	magazine->top += n;
	count_alloc(heap, n, n * slab_object_size(class_index));
	own_earn(cache, n * slab_object_size(class_index));
	return n;
}

/*
 * Whom the depot has a full clip for. Blocks are for all. Small objects are for the CPU whose slabs they are from: if they went from CPU to
 * CPU, these would soon share all their cache lines. Its own, and those of several, are for this one if it earned that; else NULL: from their
 * slabs others can have them.
 */
static struct cpu_cache *depot_taker(struct kheap *heap, struct cpu_cache *cache, unsigned number, void **top)
{
	struct cpu_cache *taker = cache;

	if (number < MAGAZINE_BLOCK && n_others(heap)) {
		taker = cache_of(heap, slabs_owner(heap, clip_of(top)->slots, top));
		if (!taker || taker == cache)
			taker = own_earned(cache) ? cache : NULL;
	}
	return taker && depot_has_room(heap, taker, number) ? taker : NULL;
}

/* One of a class's own full clips goes where others can have its objects. */
static void clip_leave(struct kheap *heap, struct cpu_cache *cache, unsigned number)
{
	struct magazine_state *state = state_of(cache, number);
	void **top = own_pop(cache, state);
	struct cpu_cache *taker = depot_taker(heap, cache, number, top);

	own_forfeit(cache, clip_bytes(state, top));
	if (taker)
		depot_push(heap, taker, number, top);
	else
		clip_flush(heap, top);
}

void make_room(struct kheap *heap, struct cpu_cache *cache, unsigned number)
{
	struct magazine_state *state = state_of(cache, number);
	struct clip *clip = NULL;

	own_note_most(heap, cache);
	if (state->full && cache->own_bytes > 2 * cache->own_most)
		clip_leave(heap, cache, number);
	if (own_make_room(cache, number))
		return;
	void **top = cache->magazines[number].top;
	bool keeps = own_has_room(cache, state, number);
	struct cpu_cache *taker = state->has_clip && !keeps ? depot_taker(heap, cache, number, top) : NULL;

	if (state->has_clip && (keeps || taker))
		clip = clip_take(heap);
	if (!clip) {
		/* Blocks merge, which takes long. Of small objects of several CPUs none stays, or what comes next would lie on those of others for ever. */
		size_t n = number >= MAGAZINE_BLOCK ? heap->n_caches ? FLUSH_BLOCKS : 1
		           : n_others(heap)         ? CLIP_OBJECTS
		                                    : FLUSH;

		n = state->has_clip ? n : 1;
		magazine_flush(heap, &cache->magazines[number], n);
		if (!keeps)
			own_forfeit(cache, n * magazine_object_size(number));
		return;
	}
	if (keeps) {
		own_push(cache, state, top);
	} else {
		own_forfeit(cache, clip_bytes(state, top));
		depot_push(heap, taker, number, top);
	}
	limit_note(heap, state, number);
	clip_use(cache, number, state, clip, 0);
}

/* ---- allocation --------------------------------------------------------------------------------------------------- */

/* An object that the magazine has after all, because of an interruption, or that an own full clip has. */
INLINE void *pop_own(struct cpu_cache *cache, size_t number)
{
	void *object = NULL;

	if (!cpu_enter(cache))
		return NULL;
	if ((INTERRUPTS && !is_empty(&cache->magazines[number])) || own_refill(cache, number))
		object = magazine_take(&cache->magazines[number]);
	cpu_leave(cache);
	return object;
}

/* A block of the next larger classes: what a CPU frees and allocates at random it has nearly always, but seldom of one class. */
INLINE void *pop_near(struct cpu_cache *cache, size_t number)
{
	size_t end = min_size(number + 1 + NEAR_CLASSES, MAGAZINES);
	void *object = NULL;

	if (!cpu_enter(cache))
		return NULL;
	if (cache->block_states) {
		cache->block_states[number - MAGAZINE_BLOCK].was_missed = true;
		while (!object && ++number < end)
			object = magazine_pop(&cache->magazines[number]);
	}
	cpu_leave(cache);
	return object;
}

/* With the lock: an object for the magazine from the depot or a slab. There are *n_new from a slab, this one too. */
INLINE void *take_miss(struct kheap *heap, struct cpu_cache *cache, unsigned number, unsigned *n_new)
{
	struct magazine_state *state = state_of(cache, number);
	struct magazine *magazine = &cache->magazines[number];

	if (!state)
		return NULL;
	state->was_missed = true;
	earn_clip(heap, cache, number);
	if (is_empty(magazine) && !refill_from_depot(heap, cache, number) && number < MAGAZINE_BLOCK)
		*n_new = refill_from_slab(heap, cache, number - MAGAZINE_SLAB);
	return KEYS_LATER ? magazine_remove(magazine) : magazine_pop(magazine);
}

INLINE void note_block_miss(struct cpu_cache *cache, unsigned block_class)
{
	cache->n_block_misses++;
	own_earn(cache, block_class_size(block_class));
	if (cache->block_states)
		cache->block_states[block_class].was_missed = true;
}

/* A block of a class; is_tried: the victim does not serve it. */
static void *find_block(struct kheap *heap, unsigned block_class, size_t alignment, bool is_tried)
{
	size_t need = block_class_size(block_class);
	uintptr_t object = is_tried ? block_search(heap, need, alignment, LABEL_SIZED + block_class)
	                            : block_cut(heap, need, LABEL_SIZED + block_class);

	if (LIKELY(object != 0))
		count_alloc(heap, 1, block_size(block_of_payload(object)) - BLOCK_HEADER);
	return (void *)object;
}

/* Magazines were short of space for long, in a heap that grows by little: then it does, if it can. Without the lock. */
COLD static void grow_for_clips(struct kheap *heap)
{
	kport_lock_state state = heap_lock(heap);
	bool may_grow = can_grow(heap) && heap->counters.footprint_pages < SMALL_HEAP_PAGES;

	/* A source that refuses is not asked for this again until the heap has grown. */
	heap->depot.n_missed = may_grow ? CLIPS_MISSED + 1 : 0;
	heap_unlock(heap, state);
	if (may_grow)
		(void)heap_grow(heap, (struct growth){ .n_pages = 1 }, UINTPTR_MAX);
}

/* With the lock, which it lets go. */
static __attribute__((noinline)) void *alloc_shared(struct kheap *heap, size_t size, size_t alignment, unsigned number,
                                                    kport_lock_state state)
{
	struct cpu_cache *cache = own_cache(heap);
	void *object = NULL;
	unsigned n_new = 0;

	/* The victim, by alloc_missed. */
	bool is_tried = number >= MAGAZINE_BLOCK && !depot_has_block(heap, number);

	if (LIKELY(cache != NULL) && !is_tried)
		object = take_miss(heap, cache, number, &n_new);
	if (!object)
		object = number < MAGAZINE_BLOCK ? alloc_stand_in(heap, size, alignment, number - MAGAZINE_SLAB)
		                                 : find_block(heap, number - MAGAZINE_BLOCK, GRANULE, is_tried);
	if (LIKELY(cache != NULL)) {
		if (number >= MAGAZINE_BLOCK)
			note_block_miss(cache, number - MAGAZINE_BLOCK);
		note_miss(heap, cache);
	}
	bool lacks_clips = heap->depot.n_missed == CLIPS_MISSED;

	/* Whoever is called back now may fill the cache. */
	if (KEYS_LATER && n_new && UNLIKELY(calls_back(heap))) {
		keys_write(heap, cache->magazines[number].top, n_new - 1);
		n_new = 0;
	}
	if (KEYS_LATER && n_new)
		cpu_enter_locked(cache);
	heap_unlock_inline(heap, state);
	if (UNLIKELY(!object))
		return alloc_any(heap, size, alignment ? alignment : natural_alignment(size),
		                 cache && size <= PAGE_SIZE / 2 ? ALLOC_TRIED : 0);
	if (KEYS_LATER)
		*key_word((uintptr_t)object) = 0;
	if (KEYS_LATER && n_new) {
		keys_write(heap, cache->magazines[number].top, n_new - 1);
		cpu_leave(cache);
	}
	if (UNLIKELY(lacks_clips))
		grow_for_clips(heap);
	return object;
}

/* A few more of the class for the magazine. */
static __attribute__((noinline)) void cut_more(struct kheap *heap, struct cpu_cache *cache, unsigned block_class)
{
	unsigned number = MAGAZINE_BLOCK + block_class;
	struct magazine_state *state = state_of(cache, number);
	struct magazine *magazine = &cache->magazines[number];

	if (!state)
		return;
	earn_clip(heap, cache, number);
	for (unsigned n = CUT_MORE; n && !is_full(magazine); n--) {
		uintptr_t object = victim_cut(heap, block_class_size(block_class), block_class_bin(block_class),
		                              LABEL_SIZED + block_class, number);

		if (!object)
			return;
		count_alloc(heap, 1, block_class_size(block_class) - BLOCK_HEADER);
		own_earn(cache, block_class_size(block_class));
		magazine_put(heap, magazine, (void *)object);
	}
}

/* With the lock: a block of a class that the depot has none of, if the victim serves it; or NULL. */
INLINE void *alloc_block(struct kheap *heap, unsigned block_class)
{
	struct cpu_cache *cache = own_cache(heap);
	uintptr_t object = victim_cut(heap, block_class_size(block_class), block_class_bin(block_class),
	                              LABEL_SIZED + block_class, MAGAZINE_BLOCK + block_class);

	if (UNLIKELY(!object))
		return NULL;
	count_alloc(heap, 1, block_class_size(block_class) - BLOCK_HEADER);
	if (LIKELY(cache != NULL)) {
		/* Others wait for the lock. */
		if (heap->n_caches && can_grow(heap))
			cut_more(heap, cache, block_class);
		note_block_miss(cache, block_class);
		note_miss(heap, cache);
	}
	return (void *)object;
}

/* Neither the magazine nor a clip of this CPU's own has one. */
static __attribute__((noinline)) void *alloc_missed(struct kheap *heap, size_t size, size_t alignment, size_t number)
{
	void *object = number >= MAGAZINE_BLOCK ? pop_near(cpu_of(heap), number) : NULL;

	if (object)
		return object;
	cpu_begin();
	kport_lock_state state = heap_lock_inline(heap);

	if (number >= MAGAZINE_BLOCK && !depot_has_block(heap, (unsigned)number) &&
	    LIKELY((object = alloc_block(heap, (unsigned)number - MAGAZINE_BLOCK)) != NULL)) {
		heap_unlock_inline(heap, state);
		return object;
	}
	return alloc_shared(heap, size, alignment, (unsigned)number, state);
}

__attribute__((noinline)) void *cpu_alloc_miss(struct kheap *heap, size_t size, size_t alignment, size_t number)
{
	void *object = pop_own(cpu_of(heap), number);

	return LIKELY(object != NULL) ? object : alloc_missed(heap, size, alignment, number);
}

/* The topmost object, if it lies right: of a class that is asked for like this it does, once some were freed. */
INLINE void *pop_aligned(struct cpu_cache *cache, size_t number, size_t alignment)
{
	struct magazine *magazine = &cache->magazines[number];
	void *object = NULL;

	if (!cpu_enter(cache))
		return NULL;
	if (is_empty(magazine))
		(void)own_refill(cache, number);
	if (((uintptr_t)*magazine->top & (alignment - 1)) == 0)
		object = magazine_pop(magazine);
	cpu_leave(cache);
	return object;
}

__attribute__((noinline)) void *cpu_alloc_aligned(struct kheap *heap, size_t size, size_t alignment, size_t number)
{
	void *object = pop_aligned(cpu_of(heap), number, alignment);

	if (object)
		return object;
	cpu_begin();
	kport_lock_state state = heap_lock_inline(heap);
	struct cpu_cache *cache = own_cache(heap);

	object = find_block(heap, (unsigned)number - MAGAZINE_BLOCK, alignment, true);
	if (LIKELY(cache != NULL)) {
		note_block_miss(cache, (unsigned)number - MAGAZINE_BLOCK);
		note_miss(heap, cache);
	}
	heap_unlock_inline(heap, state);
	return LIKELY(object != NULL) ? object : alloc_any(heap, size, alignment, 0);
}
