/* SPDX-License-Identifier: MIT */
/*
 * CPU caches, what both halves of their slow path share: magazines, clips and the depot's lists. cpu.c asks for objects and for room,
 * depot.c has what is behind that, inspect.c counts it. Nobody else includes this. All of it expects the lock to be held, unless it says otherwise.
 */
#ifndef HEAP_CPU_H
#define HEAP_CPU_H

#include "fast.h"

#pragma GCC visibility push(hidden)

#define CLIP_OBJECTS (CLIP_WORDS - 2)
#define CLIPS_MISSED 48           /* for want of a page, until the heap grows for them */
#define FLUSH 8                   /* objects that go from a magazine back to their slabs in one call */
#define BLOCKS_MIN_FOOTPRINT 1280 /* pages: there CPUs have magazines for blocks; */
#define BLOCKS_BUSY_FOOTPRINT 160 /* one that misses blocks often, and */
#define BLOCKS_LONG_FOOTPRINT 40  /* one that did for long and works alone */
#define BLOCKS_LONG 20000
#define BLOCKS_BUSY 4000     /* misses of blocks that tell a busy CPU, */
#define BLOCKS_BUSY_CPUS 250 /* and where others wait for the lock meanwhile */
#define IDLE_MISSES 32       /* from one look at what is idle to the next */
#define ROUND_MISSES \
	(IDLE_MISSES / 2) /* from one round to the next: it looks by turns at what is idle and what is earned */
#define DEPOT_SHARE 8     /* the depot holds at most an eighth of the heap, */
#define DEPOT_MIN_BYTES ((size_t)64 << 10)    /* or this, if that is more; */
#define RETURNED_MOST_BYTES ((size_t)1 << 20) /* of several CPUs' small objects up to this for each; */
#define DEPOT_BLOCKS_BYTES ((size_t)32 << 20) /* of several CPUs' blocks a half, up to this */
#define OWN_GROWTH_SHARE 32 /* of a CPU's full clips what is above a 32nd of the heap goes back before it grows */
#define FIXED_SHARE 8       /* of a CPU's part of large objects and runs, where the heap cannot grow */
#define BURST_SHARE 8       /* of a CPU's part so much in runs, and in large objects that are alike, within: */
#define BURST_LEAST_BYTES ((size_t)512 << 10)
#define BURST_MOST_BYTES ((size_t)4 << 20)
#define ALONE_SHARE 16 /* where the heap cannot grow, and no other CPU works yet, this share of it at most */
#define CHURN_DRAINS 4 /* of an eighth of the heap in runs, before growth, that tell that such drains are in vain */
#define CHURN_DRAINS_SPARSE 64
#define CHURN_SHARE 8
#define CHURN_MOST_SHARE 2 /* so much of the heap, and so many bytes, stay then */
#define CHURN_MOST_BYTES ((size_t)2 << 20)
#define KEPT_SHARE 64   /* of the heap an object may be that a CPU keeps besides, where others may miss it */
#define LIMITED_SHARE 4 /* where the heap has a limit; and all CPUs' full clips are a quarter of it then */
#define CROWD_CPUS 4    /* each so many CPUs, up to so many in all, are one more to divide by */
#define CROWD_MOST 16
#define OWN_LEAST_BYTES ((size_t)32 << 10) /* a CPU's full clips in any case, */
#define OWN_MOST_BYTES ((size_t)4 << 20)   /* and never more: nobody else can have them, however long that CPU sleeps */
#define EARNED_MOST_BYTES ((size_t)16 << 20) /* for what was missed, so that what was long ago is forgotten */
#define MAGAZINE_SHARE 128                   /* a magazine holds at most this share of the heap, within these limits */
#define MAGAZINE_MIN_BYTES ((size_t)2048)
#define MAGAZINE_MAX_BYTES ((size_t)8192)
#define BLOCKS_SHARE 2
#define BLOCKS_MAX 16  /* more take fewer instructions, and longer: they lie apart from what is live */
#define NEAR_CLASSES 2 /* so many above its own serve a request for a block, too */
#define BLOCK_CLASSES_BYTES ((size_t)92 << 10) /* one block of each class */

/* ---- a cache ---------------------------------------------------------------------------------------------------- */

/* One that a CPU left, or NULL; all of them end, true if there were any (leave.c). */
struct cpu_cache *cache_unpark(struct kheap *heap);
bool parked_end(struct kheap *heap);
/* A class's own full clips go back; what the depot has of small objects for this CPU; and all that its cache holds. True if there was something. */
bool own_drain(struct kheap *heap, struct cpu_cache *cache, unsigned number);
bool returned_drain(struct kheap *heap, struct cpu_cache *cache);
bool cache_drain_all(struct kheap *heap, struct cpu_cache *cache);
/* A drained cache keeps what it is made of, no more. */
void cache_shrink(struct kheap *heap, struct cpu_cache *cache);
/* The first one for this CPU; NULL: there are no pages. */
struct cpu_cache *cpu_cache_create(struct kheap *heap);

/* This CPU's cache, to be changed with the lock held; NULL: it has none, or is changed by what we interrupted. */
static inline struct cpu_cache *present_cache(struct kheap *heap)
{
	struct cpu_cache *cache = cpu_of(heap);

	return HARDENED || cache == NO_CACHE || (INTERRUPTS && cache->inside) ? NULL : cache;
}

/* The same, and a new one if it has none. */
static inline struct cpu_cache *own_cache(struct kheap *heap)
{
#if KPORT_CPUS > 1
	if (!HARDENED && UNLIKELY(cpu_of(heap) == NO_CACHE))
		return cpu_cache_create(heap);
#endif
	return present_cache(heap);
}

/* Without the lock: a host may have to number this CPU first. */
INLINE void cpu_begin(void)
{
#if KPORT_CPUS > 1
	if (UNLIKELY(kport_cpu() == KPORT_CPUS))
		kport_cpu_begin();
#endif
}

/* What the slow path knows of a magazine; NULL: of this one nothing yet. */
INLINE struct magazine_state *state_of(struct cpu_cache *cache, size_t number)
{
	if (number < MAGAZINE_BLOCK)
		return &cache->states[number - MAGAZINE_SLAB];
	return cache->block_states ? &cache->block_states[number - MAGAZINE_BLOCK] : NULL;
}

/* The small one of its own, which is empty, becomes the class's magazine. */
INLINE void small_use(struct cpu_cache *cache, size_t number, struct magazine_state *state)
{
	void **bottom = &cache->small[(number - MAGAZINE_SLAB) * SMALL_WORDS];

	state->end = bottom + SMALL_WORDS;
	STORE(cache->magazines[number].top, bottom);
}

/* ---- clips and the depot ------------------------------------------------------------------------------------------ */

/* An empty clip, in whose slots is no NULL but the first, or NULL; and back, when its slots end here. */
struct clip *clip_take(struct kheap *heap);
void clip_give(struct kheap *heap, struct clip *clip, void **end);

/* A full clip and its objects go back. */
void clip_flush(struct kheap *heap, void **top);

/* A class that misses often earns a clip; one of blocks at once, where the heap is large enough for any. */
void earn_clip(struct kheap *heap, struct cpu_cache *cache, unsigned number);
/* Room in a full magazine. */
void make_room(struct kheap *heap, struct cpu_cache *cache, unsigned number);

/* What lies in a slot that has no object: not a NULL. */
INLINE void slot_clear(void **slot)
{
	STORE(*slot, (void *)slot);
}

/* Nothing in its slots; the first is the NULL below them. */
static inline void clip_clear(struct clip *clip)
{
	STORE(clip->slots[0], NULL);
	for (unsigned i = 1; i < CLIP_WORDS; i++)
		slot_clear(&clip->slots[i]);
}

/* Onto a list of empty clips, and off it. */
INLINE void empty_push(struct clip **list, struct clip *clip, void **end)
{
	STORE(clip->slots[1], (void *)end);
	STORE(clip->slots[0], *list);
	*list = clip;
}

INLINE struct clip *empty_pop(struct clip **list)
{
	struct clip *clip = *list;

	if (clip) {
		*list = clip->slots[0];
		slot_clear(clip->slots[1]);
		STORE(clip->slots[0], NULL);
	}
	return clip;
}

/*
 * What a CPU keeps is part of the heap that its part is taken of. So the parts of many together are less, of 8 a half of it, of 16 and more
 * a quarter: or the heap grows until each has the most that one may have.
 */
static inline size_t crowd(const struct kheap *heap)
{
	return max_size(min_size((size_t)1 + heap->n_caches, CROWD_MOST) / CROWD_CPUS, 1);
}

/*
 * How many objects a magazine may hold: 30, and of a slab's class 8 KiB and a share of the heap; of blocks 16, and all magazines of a CPU, but
 * for two of each class, at most half of the heap, those of all CPUs about as much as the heap, or of many a quarter.
 */
static inline unsigned clip_limit(const struct kheap *heap, unsigned number)
{
	size_t scale = heap_scale(heap) << PAGE_SHIFT, n;

	if (number < MAGAZINE_BLOCK)
		n = (uint32_t)min_size(max_size(scale / MAGAZINE_SHARE, MAGAZINE_MIN_BYTES), MAGAZINE_MAX_BYTES) /
		    (uint32_t)magazine_object_size(number);
	else
		n = min_size(scale / BLOCKS_SHARE / BLOCK_CLASSES_BYTES / (1 + heap->n_caches / BLOCKS_SHARE),
		             BLOCKS_MAX);
	n = max_size(min_size(n, CLIP_OBJECTS), SMALL_OBJECTS);
	return (unsigned)(number < MAGAZINE_BLOCK ? n : max_size(n / crowd(heap), 2));
}

/* The clip that has this slot. */
INLINE struct clip *clip_of(void **slot)
{
	return (struct clip *)align_down((uintptr_t)slot, sizeof(struct clip));
}

/* An empty clip, or one with n objects that there is room for, becomes the class's magazine. */
INLINE void clip_use(struct cpu_cache *cache, size_t number, struct magazine_state *state, struct clip *clip, size_t n)
{
	state->end = &clip->slots[state->limit + 1];
	STORE(*state->end, NULL);
	STORE(cache->magazines[number].top, clip->slots + n);
}

/* A full one, whose topmost object is here. */
INLINE void clip_use_full(struct cpu_cache *cache, size_t number, struct magazine_state *state, void **top)
{
	state->end = top + 1;
	STORE(clip_of(top)->slots[0], NULL);
	STORE(cache->magazines[number].top, top);
}

/* The heap may have changed its size since the last time. */
static inline void limit_note(const struct kheap *heap, struct magazine_state *state, unsigned number)
{
	state->limit = (uint8_t)clip_limit(heap, number);
}

INLINE struct clip *loaded_clip(const struct magazine_state *state)
{
	return clip_of(state->end);
}

/* Below the slots of a magazine that has some. */
INLINE void **bottom_of(const struct magazine_state *state)
{
	return state->has_clip ? loaded_clip(state)->slots : state->end - SMALL_WORDS;
}

/* A full clip, told by its topmost object, onto a list of them, and off it; NULL: there is none. */
INLINE void clip_push(void ***list, void **top)
{
	STORE(clip_of(top)->slots[0], (void *)*list);
	STORE(*list, top);
}

INLINE void **clip_pop(void ***list)
{
	void **top = list ? *list : NULL;

	if (top)
		STORE(*list, clip_of(top)->slots[0]);
	return top;
}

/* The bytes of the objects up to this one. */
INLINE size_t clip_bytes(const struct magazine_state *state, void **top)
{
	return (uintptr_t)top % sizeof(struct clip) * state->object_words;
}

/* A full clip becomes one of the CPU's own. */
INLINE void own_push(struct cpu_cache *cache, struct magazine_state *state, void **top)
{
	clip_push(&state->full, top);
	cache->own_bytes += clip_bytes(state, top);
}

INLINE void **own_pop(struct cpu_cache *cache, struct magazine_state *state)
{
	void **top = clip_pop(&state->full);

	if (top)
		cache->own_bytes -= clip_bytes(state, top);
	return top;
}

/* May much idle in caches? Not where it is missing elsewhere: where the heap cannot grow, or not for long. */
static inline bool can_grow(const struct kheap *heap)
{
	size_t limit = heap->config.limit_bytes, footprint = heap->counters.footprint_pages << PAGE_SHIFT;

	return heap->config.source.get && !heap->is_refused && (!limit || footprint <= limit / 2);
}

/* So much less idles in a CPU's cache where it may be missing elsewhere: where the heap cannot grow, or has a limit. */
static inline size_t scarcity(const struct kheap *heap)
{
	if (!can_grow(heap))
		return FIXED_SHARE;
	return heap->config.limit_bytes ? LIMITED_SHARE : 1;
}

/* So many bytes were missed, or found no room. */
#if KPORT_CPUS > 1
INLINE void own_earn(struct cpu_cache *cache, size_t n_bytes)
{
	cache->own_earned = min_size(cache->own_earned + 2 * n_bytes, EARNED_MOST_BYTES);
}

INLINE void own_forfeit(struct cpu_cache *cache, size_t n_bytes)
{
	cache->own_earned -= min_size(cache->own_earned, n_bytes);
}

INLINE size_t own_earned(const struct cpu_cache *cache)
{
	return cache->own_earned;
}
#else
#define own_earn(cache, n_bytes) ((void)0)
#define own_forfeit(cache, n_bytes) ((void)0)
#define own_earned(cache) ((size_t)0)
#endif

/* Caches besides the first CPU's, those that wait for the next CPU too. */
static inline unsigned n_others(const struct kheap *heap)
{
#if KPORT_CPUS > 1
	return heap->n_caches + heap->n_parked;
#else
	return heap->n_caches;
#endif
}

/*
 * What this CPU may keep in full clips: its part of the heap, OWN_MOST_BYTES at most; much of it goes before the heap grows. Of a heap that
 * cannot grow, or has a limit, all together have a quarter.
 *
 * Where there are others, it has to earn what is above OWN_LEAST_BYTES: who frees what others allocate would keep all of its part for nothing,
 * while the heap grows for them. Each byte that was missed earns two, each that found no room costs one.
 */
static inline void own_note_most(const struct kheap *heap, struct cpu_cache *cache)
{
	size_t scale = heap_scale(heap) << PAGE_SHIFT, part;

	if (can_grow(heap))
		part = max_size(scale / scarcity(heap), DEPOT_MIN_BYTES) / (1 + heap->n_caches) / crowd(heap);
	else
		part = max_size(scale / DEPOT_SHARE, DEPOT_MIN_BYTES) * 2 / (2 + heap->n_caches);
	if (can_grow(heap) && n_others(heap))
		part = min_size(part, OWN_LEAST_BYTES + own_earned(cache));
	cache->own_most = min_size(part, OWN_MOST_BYTES);
}

/* May the class have one more? Of small objects one in any case, of blocks where others' are twice as much. */
INLINE bool own_has_room(const struct cpu_cache *cache, const struct magazine_state *state, size_t number)
{
	if (!state->full && number < MAGAZINE_BLOCK)
		return true;
	return cache->own_bytes < cache->own_most << !state->full;
}

/*
 * To drain caches before the heap grows saves what they hold once, and costs whoever needs it each time: page runs, which are cut up and merged, the
 * most. One CPU that worked alone, and had to give up an eighth of the heap in runs so often, keeps what it has instead, up to a half of the heap,
 * until that cannot grow. Where pages were never used, so that the first touch of each is dear, it has to be much more often.
 */
INLINE bool can_churn(const struct kheap *heap)
{
	return !heap->n_caches && can_grow(heap);
}

INLINE bool is_churning(const struct kheap *heap)
{
	return heap->n_drained >= (heap->is_sparse ? CHURN_DRAINS_SPARSE : CHURN_DRAINS) && can_churn(heap);
}

/*
 * What a CPU may keep of runs, and as much of large objects of which there are many alike: an eighth of the heap, or if it works alone so much
 * that bursts of ordinary size stay with it. It goes before the heap grows, but only for this CPU: others cannot reach it. Where it stays then, it
 * may be more.
 */
static inline size_t burst_bytes(const struct kheap *heap)
{
	size_t scale = heap_scale(heap) << PAGE_SHIFT, part = scale / BURST_SHARE;

	if (heap->n_caches)
		part /= 1 + heap->n_caches;
	else
		part = max_size(part, min_size(is_churning(heap) ? CHURN_MOST_BYTES : BURST_LEAST_BYTES, scale));
	part = min_size(part, BURST_MOST_BYTES);
	if (heap->n_caches)
		part /= scarcity(heap);
	else if (scarcity(heap) > 1)
		part = min_size(part, scale / ALONE_SHARE);
	return part >> heap->squeeze;
}

/*
 * May a CPU keep an object of so many bytes besides what it has earned? Where it may be missing elsewhere, all together are to be little of
 * the heap: nobody else can have it, however long that CPU sleeps.
 */
static inline bool may_keep(const struct kheap *heap, size_t n_bytes)
{
	/* So large it is, or can become. */
	size_t most = can_grow(heap) ? heap->config.limit_bytes : heap->counters.footprint_pages << PAGE_SHIFT;

	return KPORT_CPUS == 1 || scarcity(heap) == 1 || n_bytes * KEPT_SHARE * (1 + heap->n_caches) <= most;
}

/* Without the lock: an own full clip for a magazine that is empty, or an own empty one for a magazine that is full. */
INLINE bool own_refill(struct cpu_cache *cache, size_t number)
{
	struct magazine_state *state = state_of(cache, number);
	void **top = state ? own_pop(cache, state) : NULL;

	if (!top)
		return false;
	empty_push(&cache->empty, loaded_clip(state), state->end);
	clip_use_full(cache, number, state, top);
	return true;
}

INLINE bool own_make_room(struct cpu_cache *cache, size_t number)
{
	struct magazine_state *state = state_of(cache, number);

	if (!cache->empty || !state || !state->has_clip || !own_has_room(cache, state, number))
		return false;
	own_push(cache, state, cache->magazines[number].top);
	clip_use(cache, number, state, empty_pop(&cache->empty), 0);
	return true;
}

/* Where the depot has the full clips of a magazine, of small objects those for this CPU; NULL: nowhere. */
INLINE void ***depot_list(struct kheap *heap, struct cpu_cache *cache, unsigned number)
{
	if (number < MAGAZINE_BLOCK)
		return &cache->returned[number - MAGAZINE_SLAB];
	return heap->depot.full_blocks ? &heap->depot.full_blocks[number - MAGAZINE_BLOCK] : NULL;
}

INLINE bool depot_has_block(struct kheap *heap, unsigned number)
{
	return heap->depot.full_blocks && heap->depot.full_blocks[number - MAGAZINE_BLOCK];
}

/* So many bytes came, or went if it is a negative number. */
INLINE void depot_count(struct kheap *heap, struct cpu_cache *cache, unsigned number, size_t n_bytes)
{
	heap->depot.bytes += n_bytes;
#if KPORT_CPUS > 1
	if (number < MAGAZINE_BLOCK) {
		heap->depot.returned_bytes += n_bytes;
		cache->returned_bytes += n_bytes;
	}
#else
	(void)cache, (void)number;
#endif
}

static inline void depot_push(struct kheap *heap, struct cpu_cache *cache, unsigned number, void **top)
{
	clip_push(depot_list(heap, cache, number), top);
	depot_count(heap, cache, number, (size_t)(top - clip_of(top)->slots) * magazine_object_size(number));
}

static inline void **depot_pop(struct kheap *heap, struct cpu_cache *cache, unsigned number)
{
	void **top = clip_pop(depot_list(heap, cache, number));

	if (top)
		depot_count(heap, cache, number, -((size_t)(top - clip_of(top)->slots) * magazine_object_size(number)));
	return top;
}

/* Is there room for a full clip, which this CPU may take? */
static inline bool depot_has_room(struct kheap *heap, struct cpu_cache *taker, unsigned number)
{
	size_t scale = heap_scale(heap) << PAGE_SHIFT, most = max_size(scale / DEPOT_SHARE, DEPOT_MIN_BYTES);

	if (number >= MAGAZINE_BLOCK && !heap->depot.full_blocks)
		return false;
#if KPORT_CPUS > 1
	unsigned n = n_others(heap);

	/* Nobody else can take them, and the CPU may sleep. */
	if (n && number < MAGAZINE_BLOCK)
		return taker->returned_bytes < min_size(max_size(most / (1 + n), DEPOT_MIN_BYTES), RETURNED_MOST_BYTES);
	/* Blocks merge, which takes long. */
	if (n && scarcity(heap) == 1)
		most = max_size(most, min_size(scale / 2, DEPOT_BLOCKS_BYTES));
	if (n)
		return heap->depot.bytes - heap->depot.returned_bytes < most;
#else
	(void)taker;
#endif
	return heap->depot.bytes < most;
}

/* ---- objects go back to the storeys below --------------------------------------------------------------------------- */

/* A live object of a slab, or a block, is nobody's now. If its surroundings are damaged, that is reported, and it stays live. */
void give_back(struct kheap *heap, struct region *region, uintptr_t address);
/* The n topmost objects of a magazine, or all that it has. */
void magazine_flush(struct kheap *heap, struct magazine *magazine, size_t n);

/* A page for what the caches need of their own, its first bytes zero, and back; NULL: there is none. */
void *overhead_page(struct kheap *heap, size_t n_zeros);
void overhead_free(struct kheap *heap, void *pages);
/* Is there memory to be had for speed? Not in a small heap, nor in one that cannot grow and is nearly full. */
bool has_plenty(const struct kheap *heap, size_t min_pages);

/* Does this CPU miss blocks often? */
INLINE bool is_busy_with_blocks(const struct kheap *heap, const struct cpu_cache *cache)
{
	return cache->n_block_misses >= (heap->n_caches ? BLOCKS_BUSY_CPUS : BLOCKS_BUSY) || heap->is_blocks_busy;
}

/* Is the heap large enough for magazines for its blocks? */
INLINE bool has_plenty_for_blocks(const struct kheap *heap, const struct cpu_cache *cache)
{
	/* Others could not have what this one keeps. */
	if (cache->n_block_misses >= BLOCKS_LONG && !heap->n_caches && scarcity(heap) == 1)
		return has_plenty(heap, BLOCKS_LONG_FOOTPRINT);
	return has_plenty(heap, is_busy_with_blocks(heap, cache) ? BLOCKS_BUSY_FOOTPRINT : BLOCKS_MIN_FOOTPRINT);
}

/* ---- magazines of blocks in small heaps (lent.c) ------------------------------------------------------------------------ */

void lent_init(struct cpu_cache *cache);
/* A block of a class whose magazine has no room is freed: the second time in turn it gets some. */
void lend(struct kheap *heap, struct cpu_cache *cache, unsigned number);
/* One of them is nobody's again; false: there is none. */
bool lent_end(struct kheap *heap, struct cpu_cache *cache);
/* n blocks go back, or all that there are, true if there were any. */
bool lent_flush(struct kheap *heap, struct cpu_cache *cache, size_t n);
size_t lent_bytes(const struct cpu_cache *cache);

/* ---- blocks above 4 KiB, long runs (large_cache.c) ---------------------------------------------------------------------- */

/* Are so many usable bytes what the cache is for? */
INLINE bool is_large_block(size_t usable)
{
	return usable - BLOCK_CLASS_MAX <= BLOCK_MAX_REQUEST - BLOCK_CLASS_MAX;
}

#define LARGE_RUN_MIN 16u
#define LARGE_RUN_MAX 32u
INLINE bool is_large_run(const struct page_desc *desc)
{
	return desc->n_pages - LARGE_RUN_MIN <= LARGE_RUN_MAX - LARGE_RUN_MIN && !desc->is_bare;
}

/* A live block whose check word holds, or a live run. False: there is no room, or it is none of those. Without the lock. */
bool large_push_block(struct kheap *heap, struct cpu_cache *cache, void *object);
bool large_push_run(struct cpu_cache *cache, struct page_desc *desc);
/* What did not find room there goes back, or in a small heap, if this CPU works alone, takes the place of the one that it kept last. */
void large_free_block(struct kheap *heap, struct cpu_cache *cache, struct region *region, uintptr_t address);
void large_free_run(struct kheap *heap, struct cpu_cache *cache, struct page_desc *desc);
/* That one goes back; false: there is none. */
bool lone_drain(struct kheap *heap, struct cpu_cache *cache);
/* All go back, true if there were any; and the space, too. */
bool large_drain(struct kheap *heap, struct cpu_cache *cache);
void large_end(struct kheap *heap, struct cpu_cache *cache);
/* Every so many misses: whoever misses it often gets one. Less often: one object goes. */
void large_earn(struct kheap *heap, struct cpu_cache *cache);
void large_idle(struct kheap *heap, struct cpu_cache *cache);
size_t large_bytes(const struct cpu_cache *cache);
/* The n-th place's block, or NULL, the first is that of a lone one; how many runs there are, whose bytes are added to *n_bytes. Of other CPUs' caches, too. */
#define LARGE_PLACES 298
void *large_nth(const struct cpu_cache *cache, unsigned n);
size_t large_runs(const struct cpu_cache *cache, size_t *n_bytes);

/* ---- page runs (run_cache.c) ----------------------------------------------------------------------------------------- */

/* A live run onto a list, through its descriptor; and off it the first one, if it is aligned to so many bytes. */
INLINE void run_list_push(struct page_desc **list, struct region *region, struct page_desc *desc)
{
	run_start_set(region, desc_page(desc), PAGE_RUN_CACHED);
	desc->next = *list;
	STORE(*list, desc);
}

INLINE struct page_desc *run_list_pop(struct page_desc **list, size_t alignment)
{
	struct page_desc *desc = *list;

	if (UNLIKELY(!desc) || UNLIKELY(desc_address(desc) & (alignment - 1)))
		return NULL;
	STORE(*list, desc->next);
	run_start_set(desc_region(desc), desc_page(desc), PAGE_RUN);
	return desc;
}

/* A run that is live for the heap goes back. */
void give_back_run(struct kheap *heap, struct page_desc *desc);
/* All runs of a cache go back; true if there were any. */
bool runs_drain(struct kheap *heap, struct cpu_cache *cache);
/* Every so many misses: whoever misses them often may have what the heap's size allows. Less often: some of the longest go. */
void runs_earn(struct kheap *heap, struct cpu_cache *cache);
void runs_idle(struct kheap *heap, struct cpu_cache *cache);

/* ---- what is not needed is given up --------------------------------------------------------------------------------- */

/* Every so many misses of this CPU. */
void note_round(struct kheap *heap, struct cpu_cache *cache);

INLINE void note_miss(struct kheap *heap, struct cpu_cache *cache)
{
	if (LIKELY(cache->n_left)) {
		cache->n_left--;
	} else {
		cache->n_left = ROUND_MISSES - 1;
		note_round(heap, cache);
	}
	heap->is_laden = false;
}

#pragma GCC visibility pop

#endif
