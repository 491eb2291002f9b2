/* SPDX-License-Identifier: MIT */
/*
 * From an address back to the object, and freeing it. The address may be anything; it is looked up in the section table and in the
 * descriptors before the memory behind it is touched.
 */
#include "fast.h"

/* ---- finding ------------------------------------------------------------------------------------------------------ */

static bool is_internal(const struct kheap *heap, uintptr_t address)
{
	const struct region *region = region_of(heap, address);
	size_t page = (address >> PAGE_SHIFT) - region->first_page;

	return page_kind_of(region, page) == PAGE_CACHE && region->descs[page].cache->is_internal;
}

/* No live object starts at this address of ours: freed already, or never handed out. */
COLD static bool refuse(struct kheap *heap, uintptr_t address)
{
	struct kheap_range range = range_of(heap, address);
	enum kmalloc_error_class error_class = KMALLOC_INTERIOR_POINTER;

	if (address % GRANULE)
		error_class = KMALLOC_MISALIGNED_POINTER;
	else if (range.kind == KHEAP_OVERHEAD || range.kind == KHEAP_NOT_OURS || is_internal(heap, address))
		error_class = KMALLOC_FOREIGN_POINTER;
	else if (!range.is_live)
		error_class = KMALLOC_DOUBLE_FREE;
	else if (range.kind == KHEAP_BLOCK && !block_tag_holds(heap, block_of_payload(range.base)))
		error_class = KMALLOC_DAMAGED_TAG;
	heap_error(heap, error_class, address, range.kind == KHEAP_NOT_OURS ? 0 : range.size_bytes);
	return false;
}

static bool find_block(const struct kheap *heap, uintptr_t address, struct object *object)
{
	const struct block *block = block_of_payload(address);

	if (!block_tag_holds(heap, block) || !(block->size_flags & BLOCK_USED))
		return false;
	object->slot = block_size(block) - BLOCK_HEADER;
	return true;
}

static bool find_in_cache(uintptr_t address, struct object *object)
{
	uintptr_t base;
	size_t head;

	cache_locate(object->region, object->page, address, &base, &head);
	if (object->region->descs[head].cache->is_internal)
		return false;
	object->kind = PAGE_CACHE;
	object->page = head;
	object->slot = object->region->descs[head].cache->object_size;
	return true;
}

bool heap_locate(struct kheap *heap, uintptr_t address, struct object *object)
{
	struct region *region = region_of(heap, address);

	if (!region)
		return false;
	object->region = region;
	object->page = region_page(region, address);
	object->kind = page_kind_of(region, object->page);
	if (object->kind == PAGE_RUN_CACHED) {
		object->slot = (size_t)region->descs[object->page].n_pages << PAGE_SHIFT;
		return address % PAGE_SIZE == 0;
	}
	if (!is_start(region, address))
		return false;
	if (is_slab(object->kind)) {
		object->slot = slab_object_size((unsigned)object->kind - PAGE_SLAB);
		return true;
	}
	switch (object->kind) {
	case PAGE_BLOCK_HEAD:
	case PAGE_BLOCK:
		return find_block(heap, address, object);
	case PAGE_RUN:
		object->slot = (size_t)region->descs[object->page].n_pages << PAGE_SHIFT;
		return true;
	case PAGE_CACHE:
	case PAGE_CACHE_BODY:
		return find_in_cache(address, object);
	default:
		return false;
	}
}

/* In a CPU's cache? Of a run the kind tells, and objects of a kcache are in none. */
INLINE bool is_free_for_cpu(const struct kheap *heap, const struct object *object, uintptr_t address)
{
	if (object->kind == PAGE_RUN || object->kind == PAGE_CACHE)
		return false;
	return object->kind == PAGE_RUN_CACHED || is_cached(heap, address);
}

bool heap_find(struct kheap *heap, uintptr_t address, struct object *object)
{
	if (LIKELY(heap_locate(heap, address, object)) && LIKELY(!is_free_for_cpu(heap, object, address)))
		return true;
	return refuse(heap, address);
}

bool has_canary(const struct object *object)
{
	return HARDENED && !(object->kind == PAGE_RUN && object->region->descs[object->page].is_bare);
}

size_t object_usable(struct kheap *heap, const struct object *object, uintptr_t address)
{
	uintptr_t damage;

	if (!has_canary(object))
		return object->slot;
	size_t usable = guard_read(heap, address, object->slot, &damage);

	if (!damage)
		return usable;
	heap_error(heap, KMALLOC_OVERRUN, damage, object->slot - GUARD_BYTES);
	return SIZE_MAX;
}

/* ---- freeing ------------------------------------------------------------------------------------------------------ */

bool object_free(struct kheap *heap, const struct object *object, uintptr_t address)
{
	struct block *block;
	unsigned class_index;

	if (is_slab(object->kind)) {
		slab_free(heap, object->region, address, (unsigned)object->kind - PAGE_SLAB);
		return true;
	}
	switch (object->kind) {
	case PAGE_RUN:
		run_free(heap, object->region, object->page, object->slot >> PAGE_SHIFT);
		return true;
	case PAGE_CACHE:
		cache_free_object(heap, &object->region->descs[object->page], address);
		return true;
	default:
		block = block_of_payload(address);
		class_index = label_slab_class(block_label(block));
		if (!block_free(heap, object->region, block))
			return false;
		if (class_index != SLAB_NO_CLASS)
			heap->slabs[class_index].n_in_blocks--;
		return true;
	}
}

void free_locked(struct kheap *heap, uintptr_t address)
{
	struct object object = { .region = NULL };

	if (heap_find(heap, address, &object))
		free_found(heap, &object, address);
}

void free_found(struct kheap *heap, const struct object *object, uintptr_t address)
{
	size_t usable = object_usable(heap, object, address);

	/* What lies behind an overrun object is damaged: it stays as it is, for whoever looks. */
	if (usable == SIZE_MAX)
		return;
	/* Counted first, because a region that goes with it takes stock. */
	count_free(heap, usable);
	if (!object_free(heap, object, address))
		uncount_free(heap, usable);
}

void kheap_free(struct kheap *heap, void *object)
{
	fast_free(heap, object);
}

/* Not in the window, or that is closed. */
static __attribute__((noinline)) bool free_cached_far(struct kheap *heap, void *object)
{
	struct place place;
	size_t number;

	return LIKELY(look_once(heap, (uintptr_t)object, &place)) &&
	       cache_push(heap, cpu_of(heap), object, place.starts, place.magazines, place.granule, &number) == PUSHED;
}

bool kheap_free_cached(struct kheap *heap, void *object)
{
	size_t granule, number;

	if (is_in_open_window(heap, (uintptr_t)object, &granule))
		return cache_push(heap, cpu_of(heap), object, heap->window.starts, heap->window.magazines, granule,
		                  &number) == PUSHED;
	return free_cached_far(heap, object);
}

/* ---- sizes --------------------------------------------------------------------------------------------------------- */

/* Usable bytes of a live object of a slab, a block or a page run; 0: look closer. */
INLINE size_t usable_at_once(struct kheap *heap, uintptr_t address)
{
	struct place place = { .region = NULL };
	size_t usable = 0;

	if (!HARDENED && address)
		place = place_at(heap, address);
	if (place.region)
		(void)storey_at_once(heap, address, place, &usable);
	return usable;
}

size_t kheap_usable_size(struct kheap *heap, const void *pointer)
{
	struct object object;
	size_t usable = usable_at_once(heap, (uintptr_t)pointer);

	if (usable || !pointer)
		return usable;
	kport_lock_state state = heap_lock(heap);

	if (heap_find(heap, (uintptr_t)pointer, &object)) {
		usable = object_usable(heap, &object, (uintptr_t)pointer);
		if (usable == SIZE_MAX)
			usable = 0;
	}
	heap_unlock(heap, state);
	return usable;
}

/* ---- what is called seldom ---------------------------------------------------------------------------------------- */
#include "small.h"

void kheap_free_bulk(struct kheap *heap, size_t n, void *const objects[])
{
	for (size_t i = 0; i < n; i++)
		kheap_free(heap, objects[i]);
}

void kpages_free(struct kheap *heap, void *pages)
{
	kheap_free(heap, pages);
}

/*
 * Could an object with so many usable bytes have been asked for with this size? A slab's object may have shrunk where it is, so that only a
 * size that is too large is surely wrong; blocks and runs are cut when they shrink.
 */
static bool size_is_plausible(const struct object *object, uintptr_t address, size_t usable, size_t alignment,
                              size_t size)
{
	if (size > usable)
		return false;
	if (has_canary(object))
		return size == usable;
	if (object->kind == PAGE_RUN)
		return pages_for(max_size(size, 1)) == usable >> PAGE_SHIFT;
	if (object->kind != PAGE_BLOCK && object->kind != PAGE_BLOCK_HEAD)
		return true;
	/* A block that stands in for an object of a slab is as large as that. */
	if (label_slab_class(block_label(block_of_payload(address))) != SLAB_NO_CLASS)
		return true;
	/* One that grew, or was cached, may have room for more, and one that was allocated where several CPUs worked, too. */
	if (size > FAST_MAX)
		size = coarse_size(size);
	return align_up(max_size(size, 1), alignment) + usable / RESIZE_SHARE + CACHE_LINE + BLOCK_MIN > usable;
}

void kheap_free_aligned_sized(struct kheap *heap, void *pointer, size_t alignment, size_t size_bytes)
{
	uintptr_t address = (uintptr_t)pointer;
	struct object object;
	bool is_right = false;

	if (!pointer)
		return;
	if (!HARDENED) {
		struct place place = place_at(heap, address);
		/* Read once: what else lies in the cell may come or go. */
		unsigned class_index = place.region ? place_magazine(place) - MAGAZINE_SLAB : SLAB_CLASSES;

		if (class_index < SLAB_CLASSES && place_is_live(heap, place, address) &&
		    size_bytes <= slab_object_size(class_index) && is_power_of_two(alignment) &&
		    address % alignment == 0) {
			fast_free_at(heap, cpu_of(heap), pointer, place.starts, place.magazines, place.granule);
			return;
		}
	}
	kport_lock_state state = heap_lock(heap);

	if (heap_find(heap, address, &object)) {
		size_t usable = object_usable(heap, &object, address);

		is_right = usable != SIZE_MAX && is_power_of_two(alignment) && address % alignment == 0 &&
		           size_is_plausible(&object, address, usable, alignment, size_bytes);
		if (usable != SIZE_MAX && !is_right)
			heap_error(heap, KMALLOC_SIZE_MISMATCH, address, usable);
		if (is_right && HARDENED)
			free_locked(heap, address);
	}
	heap_unlock(heap, state);
	if (is_right && !HARDENED)
		kheap_free(heap, pointer);
}

void kheap_free_sized(struct kheap *heap, void *object, size_t size_bytes)
{
	kheap_free_aligned_sized(heap, object, 1, size_bytes);
}
