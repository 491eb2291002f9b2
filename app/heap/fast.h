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

#define FAST_MAX ((size_t)256) /* up to here a size's class is the size in granules */

/* By a block's size in granules: its class, for 17 to 256. */
extern const uint8_t kheap_block_classes[BLOCK_CLASS_MAX / GRANULE + 1];

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

INLINE struct magazine slab_magazine(struct cpu_cache *cache, size_t kind)
{
	return (struct magazine){ &cache->tops[kind], &cache->limits[kind] };
}

INLINE struct magazine block_magazine(struct block_cache *blocks, size_t block_class)
{
	return (struct magazine){ &blocks->tops[block_class], &blocks->limits[block_class] };
}

#define NO_MAGAZINE ((struct magazine){ NULL, NULL })

/* The object on top, or NULL. */
INLINE void *magazine_pop(struct magazine magazine)
{
	void **top = *magazine.top;
	void *object = *top;

	if (LIKELY(object != NULL)) {
		*magazine.top = top - 1;
		*key_word((uintptr_t)object) = 0;
	}
	return object;
}

/* False: it is full. */
INLINE bool magazine_push(const struct kheap *heap, struct magazine magazine, void *object)
{
	void **top = *magazine.top;

	if (UNLIKELY(top == *magazine.limit))
		return false;
	*key_word((uintptr_t)object) = cached_key(heap, (uintptr_t)object);
	top[1] = object;
	*magazine.top = top + 1;
	return true;
}

/* NULL: not for a size like this, or not without the shared storeys. */
INLINE void *fast_alloc(struct kheap *heap, size_t size)
{
	struct cpu_cache *cache = cpu_of(heap);
	void *object;

	if (HARDENED || UNLIKELY(size > FAST_MAX) || !cpu_enter(cache))
		return NULL;
	_Static_assert(PAGE_SLAB == 1, "the number of a magazine is the size in granules");
	object = magazine_pop(slab_magazine(cache, (unsigned)((size + GRANULE - 1) / GRANULE)));
	cpu_leave(cache);
	return object;
}

/* Does an object of a slab of this kind start here? Exact for every offset in a page; what is behind the last object holds a key. */
INLINE bool starts_object(const struct cpu_cache *cache, uintptr_t address, size_t kind)
{
	uint32_t reciprocal = cache->reciprocals[kind];

	return (uint32_t)(address % PAGE_SIZE) * reciprocal < reciprocal;
}

/* In front of an area's first page is another one, which need not be the heap's: no header is looked for there. */
INLINE bool may_be_payload(uintptr_t address, size_t kind)
{
	return address % GRANULE == 0 && (kind != PAGE_BLOCK_HEAD || address % PAGE_SIZE);
}

INLINE void fast_free_kind(struct kheap *heap, void *object, size_t kind)
{
	struct cpu_cache *cache = cpu_of(heap);
	bool is_done;

	if (HARDENED || UNLIKELY(!starts_object(cache, (uintptr_t)object, kind))) {
		cpu_free_other(heap, object, kind);
		return;
	}
	if (UNLIKELY(is_cached(heap, (uintptr_t)object)) || !cpu_enter(cache)) {
		cpu_free_small(heap, object, kind);
		return;
	}
	is_done = magazine_push(heap, slab_magazine(cache, kind), object);
	cpu_leave(cache);
	if (UNLIKELY(!is_done))
		cpu_free_small(heap, object, kind);
}

/*
 * The kinds of the region that the first entry of the table is for, if that has this page (its number is in *page, then its index); else
 * NULL. Where the window follows what is freed it is not worth a look.
 */
INLINE const uint8_t *first_kinds(const struct kheap *heap, uintptr_t address, size_t *page)
{
	uint32_t sequence = __atomic_load_n(&heap->sections_sequence, __ATOMIC_ACQUIRE);
	size_t mask = __atomic_load_n(&heap->section_mask, __ATOMIC_ACQUIRE);
	const struct section *section = &heap->sections[section_place(address, heap->section_shift) & mask];
	const uint8_t *kinds;

	if (HARDENED || !HAS_READERS || UNLIKELY(*page - section->first_page >= section->n_pages))
		return NULL;
	*page -= section->first_page;
	kinds = section->kinds;
	load_fence();
	return LIKELY((sequence & ~1u) == __atomic_load_n(&heap->sections_sequence, __ATOMIC_ACQUIRE)) ? kinds : NULL;
}

INLINE void fast_free(struct kheap *heap, void *object)
{
	uintptr_t number = (uintptr_t)object >> PAGE_SHIFT;
	size_t page = number - heap->window.first_page;
	const uint8_t *kinds = heap->window.kinds;

	if (UNLIKELY(page >= heap->window.n_pages)) {
		page = number;
		kinds = first_kinds(heap, (uintptr_t)object, &page);
		if (kinds == NULL) {
			cpu_free_miss(heap, object);
			return;
		}
	}
	fast_free_kind(heap, object, kinds[page]);
}

/* A page's kind, and where that of its region's first page stands; kinds NULL: the address is not the heap's. */
struct page_place {
	const uint8_t *kinds;
	size_t page; /* in its region */
	struct region *region;
};

INLINE struct page_place place_of(struct kheap *heap, uintptr_t address)
{
	const struct section *section;
	struct page_place place;
	uint32_t sequence;

	do {
		sequence = __atomic_load_n(&heap->sections_sequence, __ATOMIC_ACQUIRE);
		section = section_at(heap, address);
		place = (struct page_place){ NULL, 0, NULL };
		if (LIKELY(section != NULL))
			place = (struct page_place){ section->kinds, (address >> PAGE_SHIFT) - section->first_page,
				                     section->region };
		load_fence();
	} while (HAS_READERS &&
	         UNLIKELY(sequence & 1 || sequence != __atomic_load_n(&heap->sections_sequence, __ATOMIC_ACQUIRE)));
	if (!HAS_READERS && place.kinds)
		heap->window = *section;
	return place;
}

/* The same, where the window may have the answer. */
INLINE struct page_place place_at(struct kheap *heap, uintptr_t address)
{
	size_t page = (address >> PAGE_SHIFT) - heap->window.first_page;

	if (LIKELY(page < heap->window.n_pages))
		return (struct page_place){ heap->window.kinds, page, heap->window.region };
	return place_of(heap, address);
}

/* What the page of this address is, by the section table; PAGE_BODY when it is not the heap's. */
INLINE size_t kind_of(struct kheap *heap, uintptr_t address)
{
	struct page_place place = place_of(heap, address);

	return place.kinds ? place.kinds[place.page] & (HARDENED ? PAGE_KIND_MASK : 0xff) : PAGE_BODY;
}

#endif
