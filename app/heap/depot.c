/* SPDX-License-Identifier: MIT */
/*
 * Behind the magazines: the clips that they are made of, the depot of full ones that all CPUs share, and the ways back: objects to their
 * slabs and blocks, clips to their pages.
 *
 * Thrifty: before the heap asks for pages, and before it fails, what is cached goes back if it is worth it (heap.c). Every IDLE_MISSES
 * misses of a CPU one class is looked at: if it had none of them it gives half of its objects back, in the end its clip too.
 */
#include "cpu.h"

#define CLIP_MIN_FOOTPRINT 16     /* pages: in smaller heaps the space of the magazines would be too much */
#define BLOCKS_MIN_FOOTPRINT 1280 /* pages; for a CPU that misses blocks often, an eighth of it */
#define BLOCK_CLASSES_BYTES ((size_t)92 << 10) /* one block of each class */
#define RUN_LOOKS 5                            /* looks at the page runs in a round of the idle hand */
#define EMPTY_CLIPS 32                         /* kept for the next time, 8 KiB */
#define PLENTY_SHARE 16
#define PLENTY_MIN_PAGES 512

static void overhead_free(struct kheap *heap, struct page_desc *run)
{
	heap->counters.overhead_pages -= run->n_pages;
	run_free(heap, desc_region(run), desc_page(run), run->n_pages);
}

/* ---- clips ------------------------------------------------------------------------------------------------------ */

/* Is there memory to be had for speed? Not in a small heap, nor in one that cannot grow and is nearly full. */
static bool has_plenty(const struct kheap *heap, size_t min_pages)
{
	const struct counters *counters = &heap->counters;

	if (heap_scale(heap) < min_pages)
		return false;
	return heap->config.source.get || (counters->footprint_pages >= PLENTY_MIN_PAGES &&
	                                   counters->free_run_pages >= counters->footprint_pages / PLENTY_SHARE);
}

struct clip *clip_take(struct kheap *heap)
{
	struct clip *clip = heap->depot.empty;

	if (clip) {
		heap->depot.empty = clip->slots[0];
		heap->depot.n_empty--;
		return clip;
	}
	return has_plenty(heap, CLIP_MIN_FOOTPRINT) ? cache_take_internal(&heap->cache_of_clips) : NULL;
}

void clip_give(struct kheap *heap, struct clip *clip)
{
	if (heap->depot.n_empty >= EMPTY_CLIPS) {
		cache_free_internal(&heap->cache_of_clips, clip);
		return;
	}
	clip->slots[0] = heap->depot.empty;
	heap->depot.empty = clip;
	heap->depot.n_empty++;
}

static void empty_clips_free(struct kheap *heap)
{
	struct clip *clip;

	while ((clip = heap->depot.empty) != NULL) {
		heap->depot.empty = clip->slots[0];
		cache_free_internal(&heap->cache_of_clips, clip);
	}
	heap->depot.n_empty = 0;
}

/* ---- objects between caches and the storeys below ------------------------------------------------------------------ */

void give_back_block(struct kheap *heap, void *object)
{
	struct block *block = block_of_payload((uintptr_t)object);
	struct region *region = region_of(heap, (uintptr_t)object);

	size_t usable = block_size(block) - BLOCK_HEADER;

	if (UNLIKELY(!block_tag_holds(heap, block))) {
		heap_error(heap, KMALLOC_DAMAGED_TAG, (uintptr_t)block, 0);
		return;
	}
	unsigned class_index = label_slab_class(block_label(block));

	count_free(heap, usable);
	if (UNLIKELY(!block_free(heap, region, block)))
		uncount_free(heap, usable);
	else if (class_index != SLAB_NO_CLASS)
		heap->slabs[class_index].n_in_blocks--;
}

/* An object leaves the caches: it is nobody's now. If its surroundings are damaged, that is reported, and it stays live. */
static void give_back(struct kheap *heap, void *pointer)
{
	uintptr_t address = (uintptr_t)pointer;
	struct region *region = region_of(heap, address);
	enum page_kind kind = page_kind_of(region, region_page(region, address));

	if (!is_slab(kind)) {
		give_back_block(heap, pointer);
		return;
	}
	count_free(heap, slab_object_size((unsigned)kind - PAGE_SLAB));
	slab_free(heap, region, address, (unsigned)kind - PAGE_SLAB);
}

void magazine_flush(struct kheap *heap, struct magazine magazine, size_t n)
{
	while (n-- && **magazine.top)
		give_back(heap, *(*magazine.top)--);
}

/* All n objects of a clip that is in no magazine. */
static void clip_flush(struct kheap *heap, struct clip *clip, unsigned n)
{
	for (; n; n--)
		give_back(heap, clip->slots[n]);
}

/* ---- draining --------------------------------------------------------------------------------------------------- */

static bool class_drain(struct kheap *heap, struct cpu_cache *cache, unsigned class_index)
{
	struct magazine_state *state = &cache->states[class_index];
	struct magazine magazine = magazine_at(cache, MAGAZINE_SLAB + class_index);
	bool any = **magazine.top != NULL;

	magazine_flush(heap, magazine, SIZE_MAX);
	if (state->n_spare) {
		clip_flush(heap, state->spare, state->n_spare);
		state->n_spare = 0;
		any = true;
	}
	return any;
}

/* The class is drained: its magazine is a small one again. */
static void class_shrink(struct kheap *heap, struct cpu_cache *cache, unsigned class_index)
{
	struct magazine_state *state = &cache->states[class_index];

	if (state->spare)
		clip_give(heap, state->spare);
	state->spare = NULL;
	if (state->has_clip)
		clip_give(heap, loaded_clip(cache, class_index));
	else
		return;
	state->has_clip = false;
	state->n_misses = 0;
	magazine_use(cache, class_index, cache->small[class_index], SMALL_WORDS - 1);
}

static bool blocks_drain(struct kheap *heap, struct cpu_cache *cache)
{
	bool any = false;

	for (unsigned i = MAGAZINE_BLOCK; i < MAGAZINES; i++) {
		any = any || *cache->tops[i];
		magazine_flush(heap, magazine_at(cache, i), SIZE_MAX);
	}
	return any;
}

/* The blocks' magazines lose their space. */
static void blocks_end(struct kheap *heap, struct cpu_cache *cache)
{
	if (cache->blocks)
		overhead_free(heap, cache->blocks_run);
	cache->blocks = NULL;
	for (unsigned i = MAGAZINE_BLOCK; i < MAGAZINES; i++)
		cache->tops[i] = cache->limits[i] = cache->tops[0];
}

static bool depot_drain(struct kheap *heap)
{
	bool any = false;
	struct clip *clip;
	unsigned n;

	for (unsigned i = 0; i < SLAB_CLASSES; i++) {
		while ((clip = depot_pop(heap, i, &n)) != NULL) {
			clip_flush(heap, clip, n);
			clip_give(heap, clip);
			any = true;
		}
	}
	return any;
}

static bool cache_drain_all(struct kheap *heap, struct cpu_cache *cache)
{
	bool any = blocks_drain(heap, cache);

	any |= runs_drain(heap, cache);
	for (unsigned i = 0; i < SLAB_CLASSES; i++)
		any |= class_drain(heap, cache, i);
	return any;
}

COLD bool cpu_drain(struct kheap *heap)
{
	struct cpu_cache *cache = own_cache(heap);
	bool any = !HARDENED && depot_drain(heap);

	/* Other CPUs' caches are theirs alone: they see the new number when they next come for something. */
	heap->depot.drain_epoch++;
	if (cache) {
		cache->drain_epoch = heap->depot.drain_epoch;
		any |= cache_drain_all(heap, cache);
	}
	return any;
}

COLD bool cpu_drain_large(struct kheap *heap)
{
	struct cpu_cache *cache = own_cache(heap);
	bool any = !HARDENED && depot_drain(heap);

	if (cache) {
		any |= blocks_drain(heap, cache);
		any |= runs_drain(heap, cache);
	}
	return any;
}

COLD size_t cpu_cached_bytes(struct kheap *heap)
{
	struct cpu_cache *cache = own_cache(heap);
	size_t n = heap->depot.bytes;

	for (unsigned i = 0; cache && cache->blocks && i < BLOCK_CLASSES; i++)
		n += (size_t)(cache->tops[MAGAZINE_BLOCK + i] - cache->blocks->slots[i]) * block_class_size(i);
	if (cache)
		(void)runs_count(cache, &n);
	return n;
}

COLD bool cpu_reset(struct kheap *heap)
{
	bool any = cpu_drain(heap);
	struct cpu_cache *cache = own_cache(heap);

	for (unsigned i = 0; cache && i < SLAB_CLASSES; i++)
		class_shrink(heap, cache, i);
	if (cache) {
		any |= cache->blocks != NULL;
		runs_end(heap, cache);
		blocks_end(heap, cache);
	}
	/* Their space may be what is missing. */
	any |= heap->depot.empty != NULL;
	empty_clips_free(heap);
	return any;
}

COLD void kheap_leave(struct kheap *heap)
{
	kport_lock_state state = heap_lock(heap);
	struct cpu_cache *cache = HARDENED ? NULL : cpu_of(heap);

	if (cache && cache != NO_CACHE && !(INTERRUPTS && cache->inside)) {
		cache_drain_all(heap, cache);
		for (unsigned i = 0; i < SLAB_CLASSES; i++)
			class_shrink(heap, cache, i);
		runs_end(heap, cache);
		blocks_end(heap, cache);
#if KPORT_CPUS > 1
		if (cache->run) {
			heap->cpus[kport_cpu()] = NO_CACHE;
			overhead_free(heap, cache->run);
		}
#endif
	}
	heap_unlock(heap, state);
}

/* One class, if nothing was missing since the last time: half of it goes. */
static void class_idle(struct kheap *heap, struct cpu_cache *cache, unsigned class_index)
{
	struct magazine_state *state = &cache->states[class_index];
	struct magazine magazine = magazine_at(cache, MAGAZINE_SLAB + class_index);
	struct clip *clip;
	unsigned n;

	if (state->was_missed) {
		state->was_missed = false;
		return;
	}
	/* Of the depot too, so that what nobody wants does not stay: through the spare. */
	if (!state->n_spare && state->has_clip && (clip = depot_pop(heap, class_index, &n)) != NULL) {
		if (state->spare)
			clip_give(heap, state->spare);
		state->spare = clip;
		state->n_spare = (uint8_t)n;
	}
	if (!**magazine.top && state->n_spare)
		clip_swap(heap, cache, class_index);
	magazine_flush(heap, magazine, min_size((size_t)(*magazine.top - state->bottom + 1) / 2, FLUSH));
	if (!**magazine.top && !state->n_spare)
		class_shrink(heap, cache, class_index);
}

/* How many blocks of a class a cache holds: all classes together at most a quarter of the heap, if all were full. */
static size_t block_slots(const struct kheap *heap)
{
	size_t n = (heap_scale(heap) << PAGE_SHIFT) / 4 / BLOCK_CLASSES_BYTES;

	return max_size(2, min_size(n, BLOCK_SLOTS - 1));
}

/* In a heap that is large enough a CPU gets magazines for blocks. */
static void earn_blocks(struct kheap *heap, struct cpu_cache *cache)
{
	bool is_busy = cache->n_block_misses >= BLOCKS_BUSY || heap->depot.is_blocks_busy;

	heap->depot.is_blocks_busy = is_busy;
	if (cache->blocks || !has_plenty(heap, is_busy ? BLOCKS_MIN_FOOTPRINT / 8 : BLOCKS_MIN_FOOTPRINT))
		return;
	struct page_desc *run = run_alloc(heap, pages_for(sizeof(struct block_cache)), 0, UINTPTR_MAX, PAGE_OVERHEAD);

	if (!run)
		return;
	struct block_cache *blocks = (struct block_cache *)desc_address(run);

	heap->counters.overhead_pages += run->n_pages;
	size_t n = block_slots(heap);

	for (unsigned i = 0; i < BLOCK_CLASSES; i++) {
		blocks->slots[i][0] = NULL;
		cache->tops[MAGAZINE_BLOCK + i] = blocks->slots[i];
		cache->limits[MAGAZINE_BLOCK + i] = blocks->slots[i] + n;
	}
	cache->blocks_run = run;
	cache->blocks = blocks;
}

/* What nobody takes goes, one at a time. */
static void blocks_idle(struct kheap *heap, struct cpu_cache *cache, unsigned block_class)
{
	struct magazine magazine = magazine_at(cache, MAGAZINE_BLOCK + block_class);
	void **limit = cache->blocks->slots[block_class] + block_slots(heap);

	if (**magazine.top)
		give_back_block(heap, *(*magazine.top)--);
	if (*magazine.top <= limit)
		*magazine.limit = limit;
}

/* One class is looked at, and now and then the page runs. */
static void idle_step(struct kheap *heap, struct cpu_cache *cache)
{
	cache->hand = (uint8_t)((cache->hand + 1u) % (SLAB_CLASSES + BLOCK_CLASSES + RUN_LOOKS));
	if (cache->hand < SLAB_CLASSES)
		class_idle(heap, cache, cache->hand);
	else if (cache->hand >= SLAB_CLASSES + BLOCK_CLASSES)
		runs_idle(heap, cache);
	else if (cache->blocks)
		blocks_idle(heap, cache, cache->hand - SLAB_CLASSES);
}

COLD void note_round(struct kheap *heap, struct cpu_cache *cache)
{
	if (cache->drain_epoch != heap->depot.drain_epoch) {
		cache->drain_epoch = heap->depot.drain_epoch;
		cache_drain_all(heap, cache);
	}
	/* The two halves in turn, so that no call does both. */
	if (cache->n_misses % IDLE_MISSES) {
		earn_blocks(heap, cache);
		runs_earn(heap, cache);
	} else {
		idle_step(heap, cache);
	}
}

COLD void cpu_heap_made(struct kheap *heap)
{
	struct cpu_cache *cache = own_cache(heap);

	if (cache)
		earn_blocks(heap, cache);
}
