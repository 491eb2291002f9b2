/* SPDX-License-Identifier: MIT */
/*
 * CPU caches, what both halves of their slow path share: magazines, clips and the depot's lists. cpu.c asks for objects and for room,
 * depot.c has what is behind that. Nobody else includes this. All of it expects the lock to be held, unless it says otherwise.
 */
#ifndef HEAP_CPU_H
#define HEAP_CPU_H

#include "fast.h"

#pragma GCC visibility push(hidden)

#define CLIP_OBJECTS (CLIP_WORDS - 1)
#define FLUSH 2                            /* objects that go from a magazine back to their slabs in one call */
#define BLOCKS_BUSY 4000                   /* misses of blocks that tell a busy CPU */
#define IDLE_MISSES 32                     /* from one look at what is idle to the next */
#define DEPOT_SHARE 8                      /* the depot holds at most an eighth of the heap, */
#define DEPOT_MIN_BYTES ((size_t)64 << 10) /* or this, if that is more */
#define MAGAZINE_SHARE 128                 /* a magazine holds at most this share of the heap, within these limits */
#define MAGAZINE_MIN_BYTES ((size_t)2048)
#define MAGAZINE_MAX_BYTES ((size_t)8192)

#if KPORT_CPUS > 1
/* Whoever has no cache has this one: always empty, always full, and never to be entered. */
extern const struct cpu_cache kheap_no_cache;
#define NO_CACHE ((struct cpu_cache *)(uintptr_t)&kheap_no_cache)
#else
#define NO_CACHE NULL
#endif

/* ---- a cache ---------------------------------------------------------------------------------------------------- */

/* The first one for this CPU; NULL: there are no pages. */
struct cpu_cache *cpu_cache_create(struct kheap *heap);

/* This CPU's cache, to be changed with the lock held; NULL: it has none, or is changed by what we interrupted. */
static inline struct cpu_cache *own_cache(struct kheap *heap)
{
	struct cpu_cache *cache = cpu_of(heap);

	if (HARDENED)
		return NULL;
#if KPORT_CPUS > 1
	if (UNLIKELY(cache == NO_CACHE))
		return cpu_cache_create(heap);
#endif
	return INTERRUPTS && cache->inside ? NULL : cache;
}

/* Without the lock: a host may have to number this CPU first. */
INLINE void cpu_begin(void)
{
#if KPORT_CPUS > 1
	if (UNLIKELY(kport_cpu() == KPORT_CPUS))
		kport_cpu_begin();
#endif
}

static inline size_t block_class_size(unsigned block_class)
{
	return ((size_t)17 + block_class % 16) * GRANULE << block_class / 16;
}

INLINE void magazine_use(struct cpu_cache *cache, unsigned class_index, void **bottom, size_t n_objects)
{
	struct magazine magazine = magazine_at(cache, MAGAZINE_SLAB + class_index);

	bottom[0] = NULL;
	cache->states[class_index].bottom = bottom;
	*magazine.top = bottom;
	*magazine.limit = bottom + n_objects;
}

/* ---- clips and the depot ------------------------------------------------------------------------------------------ */

/* An empty clip, or NULL; and back. */
struct clip *clip_take(struct kheap *heap);
void clip_give(struct kheap *heap, struct clip *clip);

/* How many objects a class's magazine may hold: 31, 8 KiB of them, and a share of the heap. */
static inline unsigned clip_limit(const struct kheap *heap, unsigned class_index)
{
	size_t footprint = heap_scale(heap) << PAGE_SHIFT;
	size_t bytes = min_size(max_size(footprint / MAGAZINE_SHARE, MAGAZINE_MIN_BYTES), MAGAZINE_MAX_BYTES);

	return (unsigned)max_size(min_size((uint32_t)bytes / (uint32_t)slab_object_size(class_index), CLIP_OBJECTS),
	                          SMALL_WORDS - 1);
}

/* Make `clip`, with n objects in it, the class's magazine. */
INLINE void clip_load(struct kheap *heap, struct cpu_cache *cache, unsigned class_index, struct clip *clip, unsigned n)
{
	unsigned limit = clip_limit(heap, class_index);

	magazine_use(cache, class_index, clip->slots, n > limit ? n : limit);
	cache->tops[MAGAZINE_SLAB + class_index] += n;
}

static inline struct clip *loaded_clip(const struct cpu_cache *cache, unsigned class_index)
{
	return (struct clip *)cache->states[class_index].bottom;
}

/* The spare for the magazine, which is full or empty. */
INLINE void clip_swap(struct kheap *heap, struct cpu_cache *cache, unsigned class_index)
{
	struct magazine_state *state = &cache->states[class_index];
	struct clip *loaded = loaded_clip(cache, class_index);
	unsigned n = (unsigned)(cache->tops[MAGAZINE_SLAB + class_index] - state->bottom);

	clip_load(heap, cache, class_index, state->spare, state->n_spare);
	state->spare = loaded;
	state->n_spare = (uint8_t)n;
}

static inline struct clip *tagged_clip(uintptr_t tagged)
{
	return (struct clip *)align_down(tagged, CLIP_WORDS);
}

static inline void depot_push(struct kheap *heap, unsigned class_index, struct clip *clip, unsigned n)
{
	clip->slots[0] = (void *)heap->depot.full[class_index];
	heap->depot.full[class_index] = (uintptr_t)clip | n;
	heap->depot.bytes += n * slab_object_size(class_index);
}

static inline struct clip *depot_pop(struct kheap *heap, unsigned class_index, unsigned *n)
{
	uintptr_t tagged = heap->depot.full[class_index];

	if (!tagged)
		return NULL;
	struct clip *clip = tagged_clip(tagged);

	*n = tagged % CLIP_WORDS;
	heap->depot.full[class_index] = (uintptr_t)clip->slots[0];
	heap->depot.bytes -= *n * slab_object_size(class_index);
	clip->slots[0] = NULL;
	return clip;
}

static inline bool depot_has_room(const struct kheap *heap)
{
	size_t footprint = heap_scale(heap) << PAGE_SHIFT;

	return heap->depot.bytes < max_size(footprint / DEPOT_SHARE, DEPOT_MIN_BYTES);
}

/* ---- objects go back to the storeys below --------------------------------------------------------------------------- */

/* What is known to be a block. */
void give_back_block(struct kheap *heap, void *object);
/* The n topmost objects of a magazine, or all that it has. */
void magazine_flush(struct kheap *heap, struct magazine magazine, size_t n);

/* ---- page runs (run_cache.c) ----------------------------------------------------------------------------------------- */

void runs_init(struct cpu_cache *cache);
/* All runs of a cache go back; true if there were any. Then its space, too. */
bool runs_drain(struct kheap *heap, struct cpu_cache *cache);
void runs_end(struct kheap *heap, struct cpu_cache *cache);
/* Every so many misses: let the magazines have what the heap's size allows. Less often: one of each class goes. */
void runs_earn(struct kheap *heap, struct cpu_cache *cache);
void runs_idle(struct kheap *heap, struct cpu_cache *cache);
/* How many are cached; their bytes are added to *n_bytes. Of other CPUs' caches, too. */
size_t runs_count(const struct cpu_cache *cache, size_t *n_bytes);

/* ---- what is not needed is given up --------------------------------------------------------------------------------- */

/* Every so many misses of this CPU. */
void note_round(struct kheap *heap, struct cpu_cache *cache);

INLINE void note_miss(struct kheap *heap, struct cpu_cache *cache)
{
	if (UNLIKELY(++cache->n_misses % (IDLE_MISSES / 2) == 0))
		note_round(heap, cache);
}

#pragma GCC visibility pop

#endif
