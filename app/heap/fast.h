/* SPDX-License-Identifier: MIT */
/*
 * The fast path: what a CPU cache can answer, without a lock, a loop or a call. Magazines are those of Bonwick and Adams, "Magazines and
 * Vmem" (USENIX 2001), kept as stacks of pointers, so that nothing is written into a free object but one key.
 *
 * Every function here may be interrupted at any point by code that calls the heap, if INTERRUPTS says so: the cache is entered first.
 * Hardened builds have none of this, because their checks cost many times what it saves.
 */
#ifndef HEAP_FAST_H
#define HEAP_FAST_H

#include "internal.h"

#define FAST_MAX (BLOCK_CLASS_MAX - BLOCK_HEADER)

/* The magazine for a size, which is given in units of 8 bytes, rounded up. */
extern const uint8_t kheap_size_magazines[FAST_MAX / 8 + 1];

INLINE size_t magazine_of_size(size_t size)
{
	return kheap_size_magazines[(size + 7) / 8];
}

extern const uint16_t kheap_block_sizes[BLOCK_CLASSES];

INLINE size_t block_class_size(unsigned block_class)
{
	return kheap_block_sizes[block_class];
}

/* Classes and bins are both sixteen an octave. */
static inline unsigned block_class_bin(unsigned block_class)
{
	return 17 + block_class;
}
_Static_assert(BIN_SHIFT == 4, "a class has a bin of its own");

/* At least so many bytes has each object of a magazine. */
INLINE size_t magazine_object_size(unsigned number)
{
	return number < MAGAZINE_BLOCK ? slab_object_size(number - MAGAZINE_SLAB)
	                               : block_class_size(number - MAGAZINE_BLOCK) - BLOCK_HEADER;
}

#ifdef CHECKING
/* Called wherever an interrupt could come while a cache is half changed, so that a test can be that interrupt. */
extern void (*kheap_interrupt_hook)(void);
#define INTERRUPT_POINT() (kheap_interrupt_hook ? kheap_interrupt_hook() : (void)0)
#else
#define INTERRUPT_POINT() ((void)0)
#endif

INLINE struct cpu_cache *cpu_of(struct kheap *heap)
{
#if KPORT_CPUS > 1
	return heap->cpus[kport_cpu()];
#else
	return &heap->cpu0;
#endif
}

/* False: it is half changed, or there is none. */
INLINE bool cpu_enter(struct cpu_cache *cache)
{
#if INTERRUPTS
	INTERRUPT_POINT();
	if (UNLIKELY(__atomic_load_n(&cache->inside, __ATOMIC_RELAXED)))
		return false;
	__atomic_store_n(&cache->inside, 1, __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	INTERRUPT_POINT();
#else
	(void)cache;
#endif
	return true;
}

/* With the lock, which no interruption can have: the same without a look. */
INLINE void cpu_enter_locked(struct cpu_cache *cache)
{
	if (INTERRUPTS)
		__atomic_store_n(&cache->inside, 1, __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

INLINE void cpu_leave(struct cpu_cache *cache)
{
#if INTERRUPTS
	INTERRUPT_POINT();
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	__atomic_store_n(&cache->inside, 0, __ATOMIC_RELAXED);
#else
	(void)cache;
#endif
}

INLINE bool is_empty(const struct magazine *magazine)
{
	return *magazine->top == NULL;
}

INLINE bool is_full(const struct magazine *magazine)
{
	return magazine->top[1] == NULL;
}

/* The object on top, or NULL. */
INLINE void *magazine_pop(struct magazine *magazine)
{
	void **top = magazine->top;
	void *object = *top--;

	if (LIKELY(object != NULL)) {
		STORE_FAST(magazine->top, top);
		*key_word((uintptr_t)object) = 0;
	}
	return object;
}

/* The same, whose key stays. */
INLINE void *magazine_remove(struct magazine *magazine)
{
	void *object = *magazine->top;

	if (LIKELY(object != NULL))
		STORE_FAST(magazine->top, magazine->top - 1);
	return object;
}

/* There is one. */
INLINE void *magazine_take(struct magazine *magazine)
{
	void **top = magazine->top;
	void *object = *top;

	STORE_FAST(magazine->top, top - 1);
	*key_word((uintptr_t)object) = 0;
	return object;
}

/* There is room. */
INLINE void magazine_put(const struct kheap *heap, struct magazine *magazine, void *object)
{
	void **top = magazine->top;

	*key_word((uintptr_t)object) = cached_key(heap, (uintptr_t)object);
	STORE_FAST(top[1], object);
	STORE_FAST(magazine->top, top + 1);
}

/* False: it is full. */
INLINE bool magazine_push(const struct kheap *heap, struct magazine *magazine, void *object)
{
	if (UNLIKELY(is_full(magazine)))
		return false;
	magazine_put(heap, magazine, object);
	return true;
}

/* NULL: the magazine has none, or the cache is half changed. */
INLINE void *cache_pop(struct kheap *heap, size_t number)
{
	struct cpu_cache *cache = cpu_of(heap);
	void *object = NULL;

	if (cpu_enter(cache)) {
		object = magazine_pop(&cache->magazines[number]);
		cpu_leave(cache);
	}
	return object;
}

/* At most FAST_MAX bytes, by all means. An alignment of 0 is the natural one. */
INLINE void *fast_alloc(struct kheap *heap, size_t size, size_t alignment)
{
	size_t number = magazine_of_size(size);
	void *object = cache_pop(heap, number);

	return LIKELY(object != NULL) ? object : cpu_alloc_miss(heap, size, alignment, number);
}

/* Where an address is: its granule in the region; region NULL: it is not the heap's, or misaligned. */
struct place {
	const uint32_t *starts;
	const uint8_t *magazines;
	size_t granule;
	struct region *region;
};

/* The magazine for what starts at a granule. Another object of the cell may come or go meanwhile: then it is right, or 0. */
INLINE unsigned magazine_of(const uint8_t *magazines, size_t granule)
{
	return __atomic_load_n(&magazines[granule / CELL_GRANULES], __ATOMIC_RELAXED);
}

enum pushed { PUSHED, NOT_PUSHED, NO_ROOM };

/* NO_ROOM: the magazine is full, or that of nobody. NOT_PUSHED: what starts there may not be live, or the cache is half changed. */
INLINE enum pushed cache_push(struct kheap *heap, struct cpu_cache *cache, void *object, const uint32_t *starts,
                              const uint8_t *magazines, size_t granule, size_t *number)
{
	bool is_done;

	if (HARDENED || UNLIKELY(!get_bit(starts, granule)) || UNLIKELY(is_cached(heap, (uintptr_t)object)) ||
	    !cpu_enter(cache))
		return NOT_PUSHED;
	*number = magazine_of(magazines, granule);
	is_done = magazine_push(heap, &cache->magazines[*number], object);
	cpu_leave(cache);
	return is_done ? PUSHED : NO_ROOM;
}

INLINE void fast_free_at(struct kheap *heap, struct cpu_cache *cache, void *object, const uint32_t *starts,
                         const uint8_t *magazines, size_t granule)
{
	size_t number = 0;
	enum pushed pushed = cache_push(heap, cache, object, starts, magazines, granule, &number);

	if (UNLIKELY(pushed == NO_ROOM))
		cpu_free_full(heap, object, number);
	else if (UNLIKELY(pushed == NOT_PUSHED))
		cpu_free_slow(heap, object);
}

INLINE uint32_t sequence_now(const struct kheap *heap)
{
	return __atomic_load_n(&heap->sections_sequence, __ATOMIC_ACQUIRE);
}

/*
 * Of the n-th pair of entries that is looked at for an address, the one that has it, or its first. Where regions meet, which one it is follows no
 * pattern: so there is no branch on it.
 */
INLINE const struct section *section_in_pair(const struct kheap *heap, uintptr_t address, unsigned shift, size_t n)
{
	/* The mask first: tables only grow, so it is never too large for the table. */
	size_t mask = __atomic_load_n(&heap->section_mask, __ATOMIC_ACQUIRE);
	size_t place = (section_place(address, shift, mask) + n * SECTION_PAIR) & mask;
	const struct section *pair = &LOAD(heap->sections)[place];

	return pair + is_in_section(pair + 1, granule_number(address));
}

/* Where an address is, if that can be told at once. */
INLINE bool look_once(const struct kheap *heap, uintptr_t address, struct place *place)
{
	uint32_t sequence = HAS_READERS ? sequence_now(heap) : 0;
	const struct section *section = section_in_pair(heap, address, LOAD(heap->section_shift), 0);

	if (UNLIKELY(!is_in_section(section, granule_number(address))))
		return false;
	*place = (struct place){ LOAD_FAST(section->starts), NULL,
		                 granule_number(address) - LOAD_FAST(section->first_granule),
		                 LOAD_FAST(section->region) };
	load_fence();
	if (HAS_READERS && UNLIKELY((sequence & ~1u) != sequence_now(heap)))
		return false;
	place->magazines = place->region->magazines;
	return true;
}

/* Is the address in the window? Then its granule is set. */
INLINE bool is_in_window(const struct kheap *heap, uintptr_t address, size_t *granule)
{
	*granule = granule_number(address) - heap->window.first_granule;
	return LIKELY(*granule < LOAD_FAST(heap->window.n_granules));
}

/* And is that open? */
INLINE bool is_in_open_window(const struct kheap *heap, uintptr_t address, size_t *granule)
{
	*granule = granule_number(address) - heap->window.first_granule;
	return LIKELY(*granule < LOAD_FAST(heap->window.n_open));
}

INLINE void fast_free(struct kheap *heap, void *object)
{
	size_t granule;

	if (is_in_open_window(heap, (uintptr_t)object, &granule))
		fast_free_at(heap, cpu_of(heap), object, heap->window.starts, heap->window.magazines, granule);
	else
		cpu_free_far(heap, object);
}

/* Where it is that does not lie in the window. */
struct place place_of(const struct kheap *heap, uintptr_t address);

INLINE struct place place_at(struct kheap *heap, uintptr_t address)
{
	size_t granule;

	if (is_in_window(heap, address, &granule))
		return (struct place){ heap->window.starts, heap->window.magazines, granule, heap->window.region };
	return place_of(heap, address);
}

INLINE enum page_kind place_kind(struct place place)
{
	return page_kind_of(place.region, place.granule / PAGE_GRANULES);
}

/* Does an object start here, in a region, that its owner has not freed? In the pages of a run may be anything, even an old key. */
INLINE bool place_is_live(const struct kheap *heap, struct place place, uintptr_t address)
{
	return LIKELY(get_bit(place.starts, place.granule)) &&
	       (LIKELY(!is_cached(heap, address)) || place_kind(place) == PAGE_RUN);
}

INLINE unsigned place_magazine(struct place place)
{
	return magazine_of(place.magazines, place.granule);
}

/* Where an object is from, as far as can be told at once. */
enum storey { STOREY_SLAB, STOREY_BLOCK, STOREY_RUN, STOREY_OTHER };

INLINE size_t usable_of_run(const struct region *region, size_t granule)
{
	return (size_t)region->descs[granule / PAGE_GRANULES].n_pages << PAGE_SHIFT;
}

/* The storey of the live object that starts here and its usable bytes; STOREY_OTHER: look closer, or there is none. */
INLINE enum storey storey_at_once(const struct kheap *heap, uintptr_t address, struct place place, size_t *usable)
{
	unsigned kind = page_kind_byte(place.region, place.granule / PAGE_GRANULES);

	if (UNLIKELY(!place_is_live(heap, place, address)))
		return STOREY_OTHER;
	if (is_block_kind((enum page_kind)kind)) {
		*usable = usable_of_block(heap, address);
		return LIKELY(*usable) ? STOREY_BLOCK : STOREY_OTHER;
	}
	if (is_slab((enum page_kind)kind)) {
		*usable = slab_object_size(kind - PAGE_SLAB);
		return STOREY_SLAB;
	}
	if (kind != PAGE_RUN)
		return STOREY_OTHER;
	*usable = usable_of_run(place.region, place.granule);
	return STOREY_RUN;
}

#endif
