/* SPDX-License-Identifier: MIT */
/*
 * From an address back to the object: free, sizes, resizing. The address may be anything; it is looked up in the section table and in the
 * descriptors before the memory behind it is touched.
 */
#include "internal.h"

/* ---- finding ------------------------------------------------------------------------------------------------------ */

static bool is_cache_struct(const struct kheap *heap, uintptr_t address)
{
	const struct region *region = region_of(heap, address);
	size_t page = (address >> PAGE_SHIFT) - region->first_page;

	return page_kind_of(region, page) == PAGE_CACHE && region->descs[page].cache == &heap->cache_of_caches;
}

/* No live object starts at this address of ours: freed already, or never handed out. */
static bool refuse(struct kheap *heap, uintptr_t address)
{
	struct kheap_range range = range_of(heap, address);
	enum kmalloc_error_class error_class = KMALLOC_INTERIOR_POINTER;

	if (address % GRANULE)
		error_class = KMALLOC_MISALIGNED_POINTER;
	else if (range.kind == KHEAP_OVERHEAD || range.kind == KHEAP_NOT_OURS || is_cache_struct(heap, address))
		error_class = KMALLOC_FOREIGN_POINTER;
	else if (!range.is_live)
		error_class = KMALLOC_DOUBLE_FREE;
	else if (range.kind == KHEAP_BLOCK && !block_tag_holds(heap, block_of_payload(range.base)))
		error_class = KMALLOC_DAMAGED_TAG;
	heap_error(heap, error_class, address, range.kind == KHEAP_NOT_OURS ? 0 : range.size_bytes);
	return false;
}

static bool find_in_slab(struct kheap *heap, uintptr_t address, struct object *object)
{
	unsigned class_index = (unsigned)(object->kind - PAGE_SLAB);
	const struct page_desc *desc = &object->region->descs[object->page];

	object->slot = slab_object_size(class_index);
	if (!slab_index(class_index, address % PAGE_SIZE, &object->index) ||
	    (desc->free_bits[object->index / 64] >> (object->index % 64) & 1))
		return refuse(heap, address);
	return true;
}

static bool find_block(struct kheap *heap, uintptr_t address, struct object *object)
{
	const struct block *block = block_of_payload(address);

	/* In front of the first block of an area is something that was never a header. */
	if (object->kind == PAGE_BLOCK_HEAD && block < area_first(object->region, object->page))
		return refuse(heap, address);
	if (address % GRANULE || !block_tag_holds(heap, block) || !(block->size_flags & BLOCK_USED) ||
	    block_size(block) == 0)
		return refuse(heap, address);
	object->slot = block_size(block) - BLOCK_HEADER;
	return true;
}

static bool find_in_cache(struct kheap *heap, uintptr_t address, struct object *object)
{
	uintptr_t base;
	size_t head;

	if (!cache_locate(object->region, object->page, address, &base, &object->index, &head) ||
	    object->region->descs[head].cache == &heap->cache_of_caches || base != address ||
	    cache_object_is_free(&object->region->descs[head], object->index))
		return refuse(heap, address);
	object->kind = PAGE_CACHE;
	object->page = head;
	object->slot = object->region->descs[head].cache->object_size;
	return true;
}

bool heap_find(struct kheap *heap, uintptr_t address, struct object *object)
{
	struct region *region = region_of(heap, address);

	if (!region) {
		heap_error(heap, KMALLOC_FOREIGN_POINTER, address, 0);
		return false;
	}
	object->region = region;
	object->page = (address >> PAGE_SHIFT) - region->first_page;
	object->kind = page_kind_of(region, object->page);
	if (!is_kind(object->kind))
		return refuse(heap, address);
	if (object->kind >= PAGE_SLAB)
		return find_in_slab(heap, address, object);
	switch (object->kind) {
	case PAGE_BLOCK_HEAD:
	case PAGE_BLOCK:
		return find_block(heap, address, object);
	case PAGE_RUN:
		object->slot = region->descs[object->page].n_pages << PAGE_SHIFT;
		return address % PAGE_SIZE ? refuse(heap, address) : true;
	case PAGE_CACHE:
	case PAGE_CACHE_BODY:
		return find_in_cache(heap, address, object);
	default:
		return refuse(heap, address);
	}
}

static bool has_canary(const struct object *object)
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
	unsigned class_plus_1;

	if (object->kind >= PAGE_SLAB) {
		slab_free(heap, object->region, object->page, (unsigned)(object->kind - PAGE_SLAB), object->index);
		return true;
	}
	switch (object->kind) {
	case PAGE_RUN:
		run_free(heap, object->region, object->page, object->slot >> PAGE_SHIFT);
		return true;
	case PAGE_CACHE:
		cache_free_object(heap, &object->region->descs[object->page], object->index);
		return true;
	default:
		block = block_of_payload(address);
		class_plus_1 = block->tag & 0xff;
		if (!block_free(heap, object->region, block))
			return false;
		if (class_plus_1)
			heap->slabs[class_plus_1 - 1].n_in_blocks--;
		return true;
	}
}

static void free_locked(struct kheap *heap, uintptr_t address)
{
	struct object object;

	if (!heap_find(heap, address, &object))
		return;
	size_t usable = object_usable(heap, &object, address);

	/* What lies behind an overrun object is damaged: it stays as it is, for whoever looks. */
	if (usable == SIZE_MAX)
		return;
	/* Counted first, because a region that goes with it takes stock. */
	count_free(heap, usable);
	if (!object_free(heap, &object, address))
		uncount_free(heap, usable);
}

void kheap_free(struct kheap *heap, void *object)
{
	if (!object)
		return;
	kport_lock_state state = heap_lock(heap);

	free_locked(heap, (uintptr_t)object);
	heap_unlock(heap, state);
}

void kheap_free_bulk(struct kheap *heap, size_t n, void *const objects[])
{
	kport_lock_state state = heap_lock(heap);

	for (size_t i = 0; i < n; i++) {
		if (objects[i])
			free_locked(heap, (uintptr_t)objects[i]);
		if (heap->pending.error_class) {
			/* Each misuse is reported, so the lock is let go for this one. */
			heap_unlock(heap, state);
			state = heap_lock(heap);
		}
	}
	heap_unlock(heap, state);
}

void kpages_free(struct kheap *heap, void *pages)
{
	kheap_free(heap, pages);
}

/*
 * Could an object with so many usable bytes have been asked for with this size? A slab's object may have shrunk where it is, so that only a
 * size that is too large is surely wrong; blocks and runs are cut when they shrink.
 */
static bool size_is_plausible(const struct object *object, size_t usable, size_t size)
{
	if (size > usable)
		return false;
	if (has_canary(object))
		return size == usable;
	if (object->kind == PAGE_RUN)
		return pages_for(max_size(size, 1)) == usable >> PAGE_SHIFT;
	return (object->kind != PAGE_BLOCK && object->kind != PAGE_BLOCK_HEAD) ||
	       usable - size < CACHE_LINE + BLOCK_MIN;
}

void kheap_free_aligned_sized(struct kheap *heap, void *pointer, size_t alignment, size_t size_bytes)
{
	uintptr_t address = (uintptr_t)pointer;
	struct object object;

	if (!pointer)
		return;
	kport_lock_state state = heap_lock(heap);

	if (heap_find(heap, address, &object)) {
		size_t usable = object_usable(heap, &object, address);

		if (usable == SIZE_MAX)
			;
		else if (!is_power_of_two(alignment) || address % alignment ||
		         !size_is_plausible(&object, usable, size_bytes))
			heap_error(heap, KMALLOC_SIZE_MISMATCH, address, usable);
		else
			free_locked(heap, address);
	}
	heap_unlock(heap, state);
}

void kheap_free_sized(struct kheap *heap, void *object, size_t size_bytes)
{
	kheap_free_aligned_sized(heap, object, 1, size_bytes);
}

size_t kheap_usable_size(struct kheap *heap, const void *pointer)
{
	struct object object;
	size_t usable = 0;

	if (!pointer)
		return 0;
	kport_lock_state state = heap_lock(heap);

	if (heap_find(heap, (uintptr_t)pointer, &object)) {
		usable = object_usable(heap, &object, (uintptr_t)pointer);
		if (usable == SIZE_MAX)
			usable = 0;
	}
	heap_unlock(heap, state);
	return usable;
}

/* ---- resizing ------------------------------------------------------------------------------------------------------ */

static bool run_resize(struct kheap *heap, struct object *object, size_t gross)
{
	struct page_desc *desc = &object->region->descs[object->page];
	size_t have = desc->n_pages;
	size_t n_pages = pages_for(gross);

	object->slot = n_pages << PAGE_SHIFT;
	if (n_pages > have)
		return run_extend(heap, object->region, object->page, have, n_pages - have);
	desc->n_pages = n_pages;
	if (n_pages < have)
		run_free(heap, object->region, object->page + n_pages, have - n_pages);
	return true;
}

/* Change the space that an object has; object->slot is what it got. */
static bool object_resize(struct kheap *heap, struct object *object, uintptr_t address, size_t gross)
{
	struct block *block;

	if (object->kind >= PAGE_SLAB || object->kind == PAGE_CACHE)
		return gross <= object->slot;
	if (object->kind == PAGE_RUN)
		return run_resize(heap, object, gross);
	if (gross > BLOCK_MAX_REQUEST)
		return false;
	block = block_of_payload(address);
	if (!block_resize(heap, object->region, block, gross))
		return false;
	object->slot = block_size(block) - BLOCK_HEADER;
	return true;
}

static bool resize_locked(struct kheap *heap, uintptr_t address, size_t size)
{
	struct object object;

	if (size > PTRDIFF_MAX || !heap_find(heap, address, &object))
		return false;
	size_t usable = object_usable(heap, &object, address);
	bool canary = has_canary(&object);

	if (usable == SIZE_MAX ||
	    !object_resize(heap, &object, address, max_size(size + (canary ? GUARD_BYTES : 0), 1)))
		return false;
	if (canary) {
		guard_arm(heap, address, size, object.slot);
		object.slot = size;
	}
	count_resize(heap, usable, object.slot);
	return true;
}

bool kheap_try_resize(struct kheap *heap, void *object, size_t size_bytes)
{
	if (!object)
		return false;
	kport_lock_state state = heap_lock(heap);
	bool resized = resize_locked(heap, (uintptr_t)object, size_bytes);

	heap_unlock(heap, state);
	return resized;
}

/* What the object has now; false: it is none, which is reported. */
static bool look_at(struct kheap *heap, uintptr_t address, struct object *object, size_t *usable)
{
	kport_lock_state state = heap_lock(heap);
	bool found = heap_find(heap, address, object);

	if (found)
		*usable = object_usable(heap, object, address);
	heap_unlock(heap, state);
	return found && *usable != SIZE_MAX;
}

/* Would much of the memory stay unused if the object shrank where it is? Runs and blocks are cut, slab objects cannot be. */
static bool is_wasteful(const struct object *object, size_t size, size_t alignment)
{
	if (object->kind == PAGE_RUN)
		return size <= PAGE_SIZE / 2 && alignment < PAGE_SIZE;
	return (object->kind >= PAGE_SLAB || object->kind == PAGE_CACHE) && size + GUARD_BYTES <= object->slot / 2 &&
	       object->slot > 2 * GRANULE;
}

static void *realloc_any(struct kheap *heap, void *pointer, size_t size, size_t alignment)
{
	uintptr_t address = (uintptr_t)pointer;
	struct object object;
	size_t usable;

	if (!pointer)
		return kheap_alloc_aligned(heap, size, alignment, 0);
	if (!is_power_of_two(alignment) || size > PTRDIFF_MAX || !look_at(heap, address, &object, &usable))
		return NULL;
	bool stays = address % alignment == 0;

	if (stays && !is_wasteful(&object, size, alignment) && kheap_try_resize(heap, pointer, size))
		return pointer;
	void *moved = kheap_alloc_aligned(heap, size, alignment, 0);

	if (!moved) {
		/* Wasteful is better than not at all. */
		return stays && size <= usable && kheap_try_resize(heap, pointer, size) ? pointer : NULL;
	}
	size_t n = min_size(size, usable);
	unsigned char *to = moved;
	const unsigned char *from = pointer;

	copy_words(to, from, n / 8 * 8);
	for (size_t i = n / 8 * 8; i < n; i++)
		to[i] = from[i];
	kheap_free(heap, pointer);
	return moved;
}

void *kheap_realloc(struct kheap *heap, void *object, size_t size_bytes)
{
	return realloc_any(heap, object, size_bytes, natural_alignment(size_bytes));
}

void *kheap_realloc_aligned(struct kheap *heap, void *object, size_t size_bytes, size_t alignment)
{
	return realloc_any(heap, object, size_bytes, alignment);
}
