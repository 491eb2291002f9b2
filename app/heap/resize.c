/* SPDX-License-Identifier: MIT */
/*
 * Sizes of objects, and changing them. What is told of an object of a slab, or of a block, without the lock is told from memory that is
 * the caller's while the object lives: its page's kind, its header. Everything else takes the lock.
 *
 * A block that grows where it is by little at a time gets a RESIZE_SHARE more than it was asked for, so that appending does not come here
 * each time; one that shrinks by less than that keeps its size.
 */
#include "fast.h"

/* Usable bytes of a live object of a slab, a block or a page run; 0: look closer. */
INLINE size_t usable_at_once(struct kheap *heap, uintptr_t address, unsigned *kind)
{
	struct page_place place;

	if (HARDENED || !address)
		return 0;
	place = place_of(heap, address);
	if (!place.kinds)
		return 0;
	*kind = place.kinds[place.page];
	if (starts_object(cpu_of(heap), address, *kind))
		return is_cached(heap, address) ? 0 : slab_object_size(*kind - PAGE_SLAB);
	if (*kind == PAGE_RUN)
		return address % PAGE_SIZE ? 0 : place.region->descs[place.page].n_pages << PAGE_SHIFT;
	if (*kind - PAGE_BLOCK_HEAD > PAGE_BLOCK - PAGE_BLOCK_HEAD)
		return 0;
	const struct block *block = block_of_payload(address);

	if (!may_be_payload(address, *kind) || !block_tag_holds(heap, block) || !(block->size_flags & BLOCK_USED) ||
	    is_cached(heap, address))
		return 0;
	return block_size(block) - BLOCK_HEADER;
}

size_t kheap_usable_size(struct kheap *heap, const void *pointer)
{
	struct object object;
	unsigned kind;
	size_t usable = usable_at_once(heap, (uintptr_t)pointer, &kind);

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

	if (is_slab(object->kind) || object->kind == PAGE_CACHE)
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

/* Would much of the memory stay unused if the object shrank where it is? Runs and blocks are cut, slab objects cannot be. */
static bool is_wasteful(const struct object *object, size_t size, size_t alignment)
{
	if (object->kind == PAGE_RUN)
		return size <= PAGE_SIZE / 2 && alignment < PAGE_SIZE;
	return (is_slab(object->kind) || object->kind == PAGE_CACHE) && size + GUARD_BYTES <= object->slot / 2 &&
	       object->slot > 2 * GRANULE;
}

/* Not inlined, so that what copying costs can be told from what the heap costs. */
__attribute__((noinline)) static void heap_copy(void *to, const void *from, size_t n_bytes)
{
	copy_words(to, from, n_bytes / 8 * 8);
	for (size_t i = n_bytes / 8 * 8; i < n_bytes; i++)
		((unsigned char *)to)[i] = ((const unsigned char *)from)[i];
}

/* What kheap_realloc was asked for; a natural alignment is that of kheap_alloc. */
struct wish {
	size_t size, alignment;
	bool is_natural;
};

INLINE void *wish_alloc(struct kheap *heap, const struct wish *wish)
{
	return wish->is_natural ? kheap_alloc(heap, wish->size, 0)
	                        : kheap_alloc_aligned(heap, wish->size, wish->alignment, 0);
}

static void *move(struct kheap *heap, void *pointer, size_t usable, const struct wish *wish)
{
	void *moved = wish_alloc(heap, wish);

	if (moved) {
		heap_copy(moved, pointer, min_size(wish->size, usable));
		kheap_free(heap, pointer);
	}
	return moved;
}

/* A live block grows where it is. */
static bool grow_block(struct kheap *heap, uintptr_t address, size_t usable, size_t size)
{
	struct block *block = block_of_payload(address);
	bool has_grown;

	if (size > BLOCK_MAX_REQUEST)
		return false;
	kport_lock_state state = heap_lock(heap);

	has_grown = size - usable < usable / RESIZE_SHARE && size + size / RESIZE_SHARE <= BLOCK_MAX_REQUEST &&
	            block_resize(heap, NULL, block, size + size / RESIZE_SHARE);
	has_grown = has_grown || block_resize(heap, NULL, block, size);
	if (has_grown)
		count_resize(heap, usable, block_size(block) - BLOCK_HEADER);
	heap_unlock(heap, state);
	return has_grown;
}

/* The long way: any kind of object, hardened builds, misuse. */
static __attribute__((noinline)) void *realloc_any(struct kheap *heap, void *pointer, const struct wish *wish)
{
	uintptr_t address = (uintptr_t)pointer;
	struct object object;
	size_t usable = SIZE_MAX;
	kport_lock_state state = heap_lock(heap);

	if (heap_find(heap, address, &object))
		usable = object_usable(heap, &object, address);
	heap_unlock(heap, state);
	if (usable == SIZE_MAX)
		return NULL;
	bool stays = address % wish->alignment == 0;

	if (stays && !is_wasteful(&object, wish->size, wish->alignment) && kheap_try_resize(heap, pointer, wish->size))
		return pointer;
	void *moved = move(heap, pointer, usable, wish);

	/* Wasteful is better than not at all. */
	if (!moved && stays && wish->size <= usable && kheap_try_resize(heap, pointer, wish->size))
		return pointer;
	return moved;
}

/* Is it large enough, and not so large that it should be cut? */
INLINE bool fits_well(unsigned kind, size_t usable, size_t size)
{
	/* An object of a slab cannot be cut: it moves when half of it is unused. */
	if (is_slab((enum page_kind)kind))
		return size > usable / 2 || usable <= 2 * GRANULE;
	return usable - size < (kind == PAGE_RUN ? PAGE_SIZE : usable / RESIZE_SHARE + 1);
}

static void *realloc_wish(struct kheap *heap, void *pointer, const struct wish *wish)
{
	uintptr_t address = (uintptr_t)pointer;
	unsigned kind = PAGE_BODY;

	if (!is_power_of_two(wish->alignment) || wish->size > PTRDIFF_MAX)
		return NULL;
	if (!pointer)
		return wish_alloc(heap, wish);
	size_t usable = usable_at_once(heap, address, &kind);
	bool stays = address % wish->alignment == 0;

	if (!usable)
		return realloc_any(heap, pointer, wish);
	if (stays && wish->size <= usable && fits_well(kind, usable, wish->size))
		return pointer;
	if (kind == PAGE_RUN || (stays && wish->size <= usable))
		return realloc_any(heap, pointer, wish);
	if (stays && !is_slab((enum page_kind)kind) && grow_block(heap, address, usable, wish->size))
		return pointer;
	return move(heap, pointer, usable, wish);
}

void *kheap_realloc(struct kheap *heap, void *object, size_t size_bytes)
{
	struct wish wish = { size_bytes, natural_alignment(size_bytes), true };

	return realloc_wish(heap, object, &wish);
}

void *kheap_realloc_aligned(struct kheap *heap, void *object, size_t size_bytes, size_t alignment)
{
	struct wish wish = { size_bytes, alignment, false };

	return realloc_wish(heap, object, &wish);
}
