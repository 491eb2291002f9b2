/* SPDX-License-Identifier: MIT */
/*
 * Behind the magazines: the clips that they are made of, the depot of full ones that all CPUs share, the ways back: objects to their
 * slabs and blocks, clips to their pages.
 *
 * Thrifty: before the heap asks for pages, and before it fails, what is cached goes back if it is worth it (heap.c). Every IDLE_MISSES
 * misses of a CPU one class is looked at: if it had none of them it gives half of its objects back, in the end its clip too.
 */
#include "cpu.h"

#define CLIP_MIN_FOOTPRINT 16 /* pages: in smaller heaps the space of the magazines would be too much */
#define RUN_LOOKS 10   /* looks at the page runs, and by turns at what is large or lent, in a round of the idle hand */
#define EMPTY_CLIPS 32 /* kept for the next time, 8 KiB */
#define PLENTY_SHARE 16
/* In one critical section so many full clips go back, in one call as many as any heap has, with pauses in between. */
#define RELEASE_CLIPS 32
#define RELEASE_ROUNDS (1u << 24)
#define RELEASE_PAUSES 100
/* Before the heap grows, what caches hold goes back if it is more than a share of the heap; in a small one, of everything. */
#define DRAIN_SHARE 64
#define DRAIN_SMALL_SHARE 12
#define PLENTY_MIN_PAGES 512
#define SQUEEZE_MIN_FOOTPRINT 512
#define SQUEEZE_MAX 5
#define CALM_ROUNDS 4096u /* without growth, until CPUs keep more again; */
#define CALM_SHARE 8      /* those in which this share of the heap is free pages count CALM_WEIGHT times */
#define CALM_WEIGHT 32

COLD void overhead_free(struct kheap *heap, void *pages)
{
	struct region *region = region_of(heap, (uintptr_t)pages);
	size_t page = region_page(region, (uintptr_t)pages), n_pages = region->descs[page].n_pages;

	heap->counters.overhead_pages -= n_pages;
	run_free(heap, region, page, n_pages);
}

/* ---- clips ------------------------------------------------------------------------------------------------------ */

/* A heap that cannot grow has something to spare if it has so many pages, and a part of them is free. */
static bool has_spare(const struct kheap *heap, size_t min_pages)
{
	const struct counters *counters = &heap->counters;

	return counters->footprint_pages >= min_pages &&
	       counters->free_run_pages >= counters->footprint_pages / PLENTY_SHARE;
}

bool has_plenty(const struct kheap *heap, size_t min_pages)
{
	return heap_scale(heap) >= min_pages && (heap->config.source.get || has_spare(heap, PLENTY_MIN_PAGES));
}

/* Where one CPU alone gets at what lies in clips, a heap that cannot grow has them as early as others. */
static bool has_plenty_for_clips(const struct kheap *heap)
{
	return has_plenty(heap, is_small_and_busy(heap) ? 1 : CLIP_MIN_FOOTPRINT) ||
	       (KPORT_CPUS == 1 && !heap->config.source.get && has_spare(heap, CLIP_MIN_FOOTPRINT));
}

struct clip *clip_take(struct kheap *heap)
{
	struct clip *clip = empty_pop(&heap->depot.empty);

	if (clip) {
		heap->depot.n_empty--;
		return clip;
	}
	if (!has_plenty_for_clips(heap))
		return NULL;
	clip = cache_take_internal(&heap->cache_of_clips);
	if (!clip) {
		heap->depot.n_missed += heap->depot.n_missed < CLIPS_MISSED;
		return NULL;
	}
	heap->is_laden = true;
	clip_clear(clip);
	return clip;
}

void clip_give(struct kheap *heap, struct clip *clip, void **end)
{
	if (heap->depot.n_empty >= EMPTY_CLIPS) {
		cache_free_internal(&heap->cache_of_clips, clip);
		return;
	}
	empty_push(&heap->depot.empty, clip, end);
	heap->depot.n_empty++;
}

static void empty_clips_free(struct kheap *heap)
{
	struct clip *clip;

	while ((clip = empty_pop(&heap->depot.empty)) != NULL)
		cache_free_internal(&heap->cache_of_clips, clip);
	heap->depot.n_empty = 0;
}

/* ---- objects between caches and the storeys below ------------------------------------------------------------------ */

/* A block without a look at what it is; its neighbours are checked. */
static void give_back_block(struct kheap *heap, struct region *region, uintptr_t address)
{
	struct block *block = block_of_payload(address);
	unsigned class_index = label_slab_class(block_label(block));
	size_t usable = block_size(block) - BLOCK_HEADER;

	if (UNLIKELY(!block_tag_holds(heap, block))) {
		heap_error(heap, KMALLOC_DAMAGED_TAG, address, 0);
		return;
	}
	/* Counted first, because a region that goes with it takes stock. */
	count_free(heap, usable);
	if (UNLIKELY(!block_free(heap, region, block)))
		uncount_free(heap, usable);
	else if (class_index != SLAB_NO_CLASS)
		heap->slabs[class_index].n_in_blocks--;
}

void give_back(struct kheap *heap, struct region *region, uintptr_t address)
{
	unsigned class_index = (unsigned)page_kind_of(region, region_page(region, address)) - PAGE_SLAB;

	if (class_index >= SLAB_CLASSES) {
		give_back_block(heap, region, address);
		return;
	}
	count_free(heap, slab_object_size(class_index));
	slab_free(heap, region, address, class_index);
}

void magazine_flush(struct kheap *heap, struct magazine *magazine, size_t n)
{
	while (n-- && !is_empty(magazine)) {
		uintptr_t address = (uintptr_t)*magazine->top--;

		give_back(heap, region_of(heap, address), address);
	}
}

void clip_flush(struct kheap *heap, void **top)
{
	struct clip *clip = clip_of(top);
	void **end = top + 1;

	for (; top != clip->slots; top--)
		give_back(heap, region_of(heap, (uintptr_t)*top), (uintptr_t)*top);
	clip_give(heap, clip, end);
}

/* ---- draining --------------------------------------------------------------------------------------------------- */

/* *n_clips more may go; true if any did. */
static bool own_drain_some(struct kheap *heap, struct cpu_cache *cache, unsigned number, size_t *n_clips)
{
	struct magazine_state *state = state_of(cache, number);
	bool any = false;
	void **top;

	for (; *n_clips && state && (top = own_pop(cache, state)) != NULL; --*n_clips) {
		clip_flush(heap, top);
		any = true;
	}
	return any;
}

bool own_drain(struct kheap *heap, struct cpu_cache *cache, unsigned number)
{
	size_t all = SIZE_MAX;

	return own_drain_some(heap, cache, number, &all);
}

/* But for the one that is wanted next. */
static bool own_drain_but_one(struct kheap *heap, struct cpu_cache *cache, unsigned number, size_t *n_clips)
{
	struct magazine_state *state = state_of(cache, number);

	if (!state->full || !clip_of(state->full)->slots[0])
		return false;
	void **top = own_pop(cache, state);

	(void)own_drain_some(heap, cache, number, n_clips);
	own_push(cache, state, top);
	return true;
}

static bool class_drain(struct kheap *heap, struct cpu_cache *cache, unsigned number)
{
	bool any = !is_empty(&cache->magazines[number]);

	magazine_flush(heap, &cache->magazines[number], SIZE_MAX);
	any |= own_drain(heap, cache, number);
	return any;
}

/* An own empty clip goes back; false: there is none. */
static bool empty_give(struct kheap *heap, struct cpu_cache *cache)
{
	struct clip *clip = empty_pop(&cache->empty);

	if (!clip)
		return false;
	clip_give(heap, clip, &clip->slots[CLIP_WORDS - 1]);
	return true;
}

/* The class is drained: its magazine is a small one again, or has no space. */
static void class_shrink(struct kheap *heap, struct cpu_cache *cache, unsigned number)
{
	struct magazine_state *state = state_of(cache, number);

	if (!state || !state->has_clip)
		return;
	clip_give(heap, loaded_clip(state), state->end);
	*state = (struct magazine_state){ .n_stand_ins = state->n_stand_ins, .object_words = state->object_words };
	if (number < MAGAZINE_BLOCK)
		small_use(cache, number, state);
	else
		cache->magazines[number].top = cache->magazines[0].top;
}

/* All classes from this one on. */
static bool classes_drain(struct kheap *heap, struct cpu_cache *cache, unsigned number)
{
	bool any = false;

	for (; number < MAGAZINES; number++)
		any |= class_drain(heap, cache, number);
	return any;
}

void cache_shrink(struct kheap *heap, struct cpu_cache *cache)
{
	for (unsigned i = MAGAZINE_SLAB; i < MAGAZINES; i++)
		class_shrink(heap, cache, i);
	while (empty_give(heap, cache))
		;
	cache->runs.most_pages = 0;
	own_forfeit(cache, SIZE_MAX);
	large_end(heap, cache);
	if (cache->block_states)
		overhead_free(heap, cache->block_states);
	cache->block_states = NULL;
}

/* A class's clips in the depot: for blocks all, for small objects those that are for this CPU. */
static bool depot_class_drain(struct kheap *heap, struct cpu_cache *cache, unsigned number, size_t *n_clips)
{
	bool any = false;
	void **top;

	for (; *n_clips && (top = depot_pop(heap, cache, number)) != NULL; --*n_clips) {
		clip_flush(heap, top);
		any = true;
	}
	return any;
}

static bool returned_drain_some(struct kheap *heap, struct cpu_cache *cache, size_t *n_clips)
{
	bool any = false;

	for (unsigned i = MAGAZINE_SLAB; i < MAGAZINE_BLOCK && heap->depot.bytes; i++)
		any |= depot_class_drain(heap, cache, i, n_clips);
	return any;
}

bool returned_drain(struct kheap *heap, struct cpu_cache *cache)
{
	size_t all = SIZE_MAX;

	return returned_drain_some(heap, cache, &all);
}

static bool depot_drain(struct kheap *heap, size_t *n_clips)
{
	bool any = false;

	/* Mostly the CPUs with low numbers have caches. */
	for (unsigned i = 0, n = 0; i < KPORT_CPUS && n <= heap->n_caches && heap->depot.bytes && *n_clips; i++) {
		struct cpu_cache *cache = cache_of(heap, i);

		n += cache != NULL;
		any |= cache && returned_drain_some(heap, cache, n_clips);
	}
	for (unsigned i = MAGAZINE_BLOCK; i < MAGAZINES && heap->depot.bytes; i++)
		any |= depot_class_drain(heap, &heap->cpu0, i, n_clips);
	return any;
}

bool cache_drain_all(struct kheap *heap, struct cpu_cache *cache)
{
	bool any = classes_drain(heap, cache, MAGAZINE_SLAB);

	any |= runs_drain(heap, cache);
	any |= large_drain(heap, cache);
	return any;
}

/* ---- before the heap grows, or fails ---------------------------------------------------------------------------------- */

COLD bool cpu_drain(struct kheap *heap)
{
	struct cpu_cache *cache = present_cache(heap);
	size_t all = SIZE_MAX;
	bool any = !HARDENED && depot_drain(heap, &all);

	any |= parked_end(heap);

	/* Other CPUs' caches are theirs alone: they see the new number when they next come for something. */
	heap->depot.drain_epoch++;
	if (cache) {
		cache->drain_epoch = heap->depot.drain_epoch;
		any |= cache_drain_all(heap, cache);
	}
	return any;
}

/* Of this CPU's cache: page runs, and what is larger than magazines' objects. */
static size_t large_cached_bytes(const struct cpu_cache *cache)
{
	return (cache->runs.n_pages << PAGE_SHIFT) + large_bytes(cache);
}

/*
 * The depot, and of this CPU's cache all but small objects, which are few bytes; if it has many large ones, these alone. Where *n_clips are
 * too few, no more than that.
 */
static bool drain_large(struct kheap *heap, size_t *n_clips)
{
	struct cpu_cache *cache = present_cache(heap);

	if (cache && large_cached_bytes(cache) > (heap_scale(heap) << PAGE_SHIFT) / DRAIN_SHARE) {
		(void)runs_drain(heap, cache);
		(void)large_drain(heap, cache);
		return true;
	}
	bool any = !HARDENED && depot_drain(heap, n_clips);

	for (unsigned i = MAGAZINE_SLAB; cache && i < MAGAZINE_BLOCK && cache->own_bytes && *n_clips; i++)
		any |= own_drain_but_one(heap, cache, i, n_clips);
	for (unsigned i = MAGAZINE_BLOCK; cache && cache->block_states && i < MAGAZINES && *n_clips; i++)
		any |= own_drain_some(heap, cache, i, n_clips);
	if (cache && *n_clips) {
		any |= cache->block_states && classes_drain(heap, cache, MAGAZINE_BLOCK);
		any |= lent_flush(heap, cache, SIZE_MAX);
		any |= runs_drain(heap, cache);
		any |= large_drain(heap, cache);
	}
	return any;
}

/* Bytes in the depot and in this CPU's cache: of its loaded magazines only those from this one on, and of its full clips what is above a share. */
static size_t cached_bytes(struct kheap *heap, unsigned number)
{
	struct cpu_cache *cache = present_cache(heap);
	size_t n = heap->depot.bytes, own_share = (heap_scale(heap) << PAGE_SHIFT) / OWN_GROWTH_SHARE;

	if (!cache)
		return n;
	n += max_size(cache->own_bytes, own_share) - own_share;
	for (unsigned end = cache->block_states ? MAGAZINES : MAGAZINE_BLOCK; number < end; number++) {
		const struct magazine_state *state = state_of(cache, number);

		if (state && state->end)
			n += (size_t)(cache->magazines[number].top - bottom_of(state)) * magazine_object_size(number);
	}
	return n + lent_bytes(cache) + large_cached_bytes(cache);
}

/* So that those who wait for the lock get it before it is taken again. */
static void let_others_in(void)
{
	for (unsigned i = 0; i < RELEASE_PAUSES && KPORT_CPUS > 1; i++)
		pause_briefly();
}

/* Some of what it would be worth to give back. */
static bool spare_some(struct kheap *heap, bool may_keep, size_t *n_clips)
{
	struct cpu_cache *cache = present_cache(heap);
	size_t footprint = heap->counters.footprint_pages;

	if (parked_end(heap))
		return true;
	if (footprint < SMALL_HEAP_PAGES)
		/* In a small one what is lent goes in any case. */
		return (cached_bytes(heap, MAGAZINE_SLAB) > (footprint << PAGE_SHIFT) / DRAIN_SMALL_SHARE &&
		        cpu_drain(heap)) ||
		       (cache && lent_flush(heap, cache, SIZE_MAX));
	size_t scale = heap_scale(heap) << PAGE_SHIFT, cached = cached_bytes(heap, MAGAZINE_BLOCK);

	if (cached <= scale / DRAIN_SHARE)
		return false;
	/* What is very large goes all the same. */
	if (may_keep && is_churning(heap) && cached <= CHURN_MOST_BYTES && cached <= scale / CHURN_MOST_SHARE)
		return cache && large_bytes(cache) > scale / DRAIN_SHARE && large_drain(heap, cache);
	if (cache && can_churn(heap) && !is_churning(heap) && cache->runs.n_pages << PAGE_SHIFT > scale / CHURN_SHARE)
		heap->n_drained++;
	return drain_large(heap, n_clips);
}

COLD bool cpu_spare(struct kheap *heap, bool may_keep)
{
	bool any = false, is_done = false;

	for (unsigned rounds = RELEASE_ROUNDS; rounds && !is_done; rounds--) {
		size_t n_clips = RELEASE_CLIPS;
		kport_lock_state state = heap_lock(heap);

		any |= spare_some(heap, may_keep, &n_clips);
		is_done = n_clips;
		heap_unlock(heap, state);
		if (!is_done)
			let_others_in();
	}
	return any;
}

COLD void cpu_release(struct kheap *heap, unsigned flags)
{
	for (unsigned rounds = RELEASE_ROUNDS; rounds && !HARDENED; rounds--) {
		size_t n_clips = RELEASE_CLIPS;
		kport_lock_state state = heap_lock(heap);
		struct cpu_cache *cache = present_cache(heap);

		(void)depot_drain(heap, &n_clips);
		for (unsigned i = MAGAZINE_SLAB; cache && i < MAGAZINES && n_clips; i++)
			(void)own_drain_some(heap, cache, i, &n_clips);
		heap_unlock_after(heap, state, flags);
		if (n_clips)
			break;
		let_others_in();
	}
}

/*
 * What a CPU keeps lies scattered, and when it goes back before the heap grows, there is often no room for the request all the same: so the heap is
 * larger than what is live by more than what is kept. Where that happens, CPUs keep less from then on, and more again, step by step, when
 * the heap did not grow for long: sooner where it has pages to spare.
 */
COLD void cpu_squeeze(struct kheap *heap)
{
	kport_lock_state state = heap_lock(heap);

	heap->n_calm = 0;
	/* Where several CPUs work, the way to the shared storeys is dear; of a sparse heap what was never used is taken without growth. */
	if (!heap->is_sparse && !heap->n_caches && heap->counters.footprint_pages >= SQUEEZE_MIN_FOOTPRINT)
		heap->squeeze = SQUEEZE_MAX;
	heap_unlock(heap, state);
}

static void relax(struct kheap *heap)
{
	if (!heap->squeeze)
		return;
	bool has_room = heap->counters.free_run_pages >= heap->counters.footprint_pages / CALM_SHARE;

	heap->n_calm = (uint16_t)(heap->n_calm + (has_room ? CALM_WEIGHT : 1));
	if (heap->n_calm < CALM_ROUNDS)
		return;
	heap->n_calm = 0;
	heap->squeeze--;
}

COLD bool cpu_reset(struct kheap *heap)
{
	bool any = cpu_drain(heap);
	struct cpu_cache *cache = present_cache(heap);

	heap->n_drained = 0;
	if (cache) {
		any |= cache->block_states != NULL;
		cache_shrink(heap, cache);
	}
	/* Their space may be what is missing. */
	any |= heap->depot.empty != NULL || heap->depot.full_blocks != NULL;
	empty_clips_free(heap);
	if (heap->depot.full_blocks)
		overhead_free(heap, heap->depot.full_blocks);
	__atomic_store_n(&heap->depot.full_blocks, NULL, __ATOMIC_RELAXED);
	return any;
}

/* One class: if nothing was missing since the last time, half of it goes; one block goes in any case, for others lie closer to what is live. */
static void class_idle(struct kheap *heap, struct cpu_cache *cache, unsigned number)
{
	struct magazine_state *state = state_of(cache, number);
	struct magazine *magazine = &cache->magazines[number];
	bool is_idle = state && !state->was_missed;
	void **top;

	if (!state || !state->end)
		return;
	state->was_missed = false;
	/* It may hold what the heap's size allows now. */
	limit_note(heap, state, number);
	if (state->has_clip && magazine->top <= bottom_of(state) + state->limit) {
		slot_clear(state->end);
		clip_use(cache, number, state, loaded_clip(state), (size_t)(magazine->top - bottom_of(state)));
	}
	if (!is_idle) {
		magazine_flush(heap, magazine, number >= MAGAZINE_BLOCK);
		return;
	}
	/* Of the depot too, so that what nobody wants does not stay. */
	if (!state->full && state->has_clip && (top = depot_pop(heap, cache, number)) != NULL)
		own_push(cache, state, top);
	if (is_empty(magazine))
		(void)own_refill(cache, number);
	(void)empty_give(heap, cache);
	magazine_flush(
		heap, magazine,
		min_size((size_t)(magazine->top - bottom_of(state) + 1) / 2, number < MAGAZINE_BLOCK ? FLUSH : 1));
	if (is_empty(magazine) && !state->full)
		class_shrink(heap, cache, number);
}

COLD void *overhead_page(struct kheap *heap, size_t n_zeros)
{
	struct page_desc *run = run_alloc(heap, 1, 0, UINTPTR_MAX, PAGE_OVERHEAD);

	/* All that is free may be blocks. */
	if (!run && area_release(heap, 1))
		run = run_alloc(heap, 1, 0, UINTPTR_MAX, PAGE_OVERHEAD);
	if (!run)
		return NULL;
	heap->counters.overhead_pages++;
	fill_words((void *)desc_address(run), 0, n_zeros);
	return (void *)desc_address(run);
}

/* In a heap that is large enough a CPU gets magazines for blocks, and the depot lists for them. */
static void earn_blocks(struct kheap *heap, struct cpu_cache *cache)
{
	heap->is_blocks_busy = is_busy_with_blocks(heap, cache);
	if (!cache->block_states && has_plenty_for_blocks(heap, cache)) {
		/* First those that are lent end, one in a round. */
		if (lent_end(heap, cache))
			return;
		cache->block_states = overhead_page(heap, BLOCK_CLASSES * sizeof(*cache->block_states));
		for (unsigned i = 0; cache->block_states && i < BLOCK_CLASSES; i++)
			cache->block_states[i].object_words =
				(uint16_t)(magazine_object_size(MAGAZINE_BLOCK + i) / sizeof(void *));
	}
	/* One CPU alone has its own full clips. */
	if (!heap->depot.full_blocks && heap->n_caches > 0 && cache->block_states)
		__atomic_store_n(&heap->depot.full_blocks, overhead_page(heap, BLOCK_CLASSES * sizeof(void *)),
		                 __ATOMIC_RELAXED);
}

/* One class is looked at, and now and then the page runs. */
static void idle_step(struct kheap *heap, struct cpu_cache *cache)
{
	cache->hand = (uint8_t)((cache->hand + 1u) % (MAGAZINES + RUN_LOOKS));
	if (cache->hand >= MAGAZINES && cache->hand % 2) {
		runs_idle(heap, cache);
	} else if (cache->hand >= MAGAZINES) {
		if (!lent_flush(heap, cache, 1))
			large_idle(heap, cache);
	} else if (cache->hand)
		class_idle(heap, cache, cache->hand);
}

COLD void note_round(struct kheap *heap, struct cpu_cache *cache)
{
	if (cache->drain_epoch != heap->depot.drain_epoch) {
		cache->drain_epoch = heap->depot.drain_epoch;
		cache_drain_all(heap, cache);
	}
	relax(heap);
	window_return(heap);
	/*
	 * The two in turn, so that no call does both; and what is idle waits for a call that has not much to do besides: all that
	 * is cached goes before the heap grows.
	 */
	if (++cache->n_rounds % 2) {
		earn_blocks(heap, cache);
		runs_earn(heap, cache);
		large_earn(heap, cache);
	} else if (!heap->is_laden) {
		idle_step(heap, cache);
	}
}

COLD void cpu_heap_made(struct kheap *heap)
{
	struct cpu_cache *cache = own_cache(heap);

	if (cache)
		earn_blocks(heap, cache);
}
