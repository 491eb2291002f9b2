/* SPDX-License-Identifier: MIT */
/*
 * Changing the sizes of objects. What is told of an object of a slab, or of a block, without the lock is told from memory that is
 * the caller's while the object lives: its page's kind, its header; and whether what lies behind is used, as a guess. Everything else takes
 * the lock.
 *
 * A block that grows where it is by little at a time gets a RESIZE_SHARE more than it was asked for, so that appending does not come here
 * each time; one that shrinks by less than that keeps its size.
 */
#include "fast.h"

static bool run_resize(struct kheap *heap, struct region *region, size_t page, size_t n_pages)
{
	struct page_desc *desc = &region->descs[page];
	size_t have = desc->n_pages;

	if (n_pages > have)
		return run_extend(heap, region, page, have, n_pages - have);
	desc->n_pages = (uint32_t)n_pages;
	if (n_pages < have)
		run_free(heap, region, page + n_pages, have - n_pages);
	return true;
}

/* Change the space that an object has; object->slot is what it got. */
static bool object_resize(struct kheap *heap, struct object *object, uintptr_t address, size_t gross)
{
	struct block *block;

	if (is_slab(object->kind) || object->kind == PAGE_CACHE)
		return gross <= object->slot;
	if (object->kind == PAGE_RUN) {
		object->slot = align_up(gross, PAGE_SIZE);
		return run_resize(heap, object->region, object->page, object->slot >> PAGE_SHIFT);
	}
	if (gross > BLOCK_MAX_REQUEST)
		return false;
	block = block_of_payload(address);
	if (!block_resize(heap, object->region, block, gross, gross))
		return false;
	object->slot = block_size(block) - BLOCK_HEADER;
	return true;
}

/* What can come of it: what is no live object of ours, or was overrun, is reported. */
enum resized { RESIZED, NO_ROOM_HERE, MISUSED };

static enum resized resize_locked(struct kheap *heap, uintptr_t address, size_t size)
{
	struct object object;

	if (!heap_find(heap, address, &object))
		return MISUSED;
	size_t usable = object_usable(heap, &object, address);
	bool canary = has_canary(&object);

	if (usable == SIZE_MAX)
		return MISUSED;
	if (!object_resize(heap, &object, address, max_size(size + (canary ? GUARD_BYTES : 0), 1)))
		return NO_ROOM_HERE;
	if (canary) {
		guard_arm(heap, address, size, object.slot);
		object.slot = size;
	}
	count_resize(heap, usable, object.slot);
	return RESIZED;
}

/* For a run that is to have n pages, and may go on growing. */
INLINE size_t pages_with_room(size_t n_pages)
{
	return n_pages + n_pages / 2;
}

/*
 * A live run that ends where its region does, but for free pages, is to have so many bytes: the heap grows there, if it can. The run would
 * be copied otherwise, and both copies be there at once. A longer one does not where other free pages have room for it to go on: of several that grow
 * in turn one after the other comes to lie at the end, and the heap would become as long as all that they leave behind.
 */
static bool run_gets_room(struct kheap *heap, uintptr_t address, size_t size)
{
	kport_lock_state state = heap_lock(heap);
	struct region *region = region_of(heap, address);
	size_t more = 0;

	size_t page = region ? region_page(region, address) : 0;

	if (region && region->capacity > region->n_pages && !region->is_closed && may_join(region, region->n_pages) &&
	    address % PAGE_SIZE == 0 && is_start(region, address) && page_kind_of(region, page) == PAGE_RUN) {
		size_t end = page + region->descs[page].n_pages;
		size_t n_pages = pages_for(size + (region->descs[page].is_bare ? 0 : GUARD_BYTES));

		if (page + n_pages > end && end + run_free_at(region, end) == region->n_pages &&
		    (n_pages <= RUN_CACHE_PAGES || !run_is_there(heap, pages_with_room(n_pages))))
			more = page + n_pages - end;
	}
	heap_unlock(heap, state);
	return more && heap_grow_at_end(heap, region, more);
}

static enum resized try_once(struct kheap *heap, uintptr_t address, size_t size)
{
	kport_lock_state state = heap_lock(heap);
	enum resized resized = resize_locked(heap, address, size);

	if (resized == NO_ROOM_HERE && cpu_give_kept(heap))
		resized = resize_locked(heap, address, size);
	heap_unlock(heap, state);
	return resized;
}

bool kheap_try_resize(struct kheap *heap, void *object, size_t size_bytes)
{
	uintptr_t address = (uintptr_t)object;

	if (!object || size_bytes > PTRDIFF_MAX)
		return false;
	enum resized resized = try_once(heap, address, size_bytes);

	if (resized == NO_ROOM_HERE && run_gets_room(heap, address, size_bytes))
		resized = try_once(heap, address, size_bytes);
	return resized == RESIZED;
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

/* Does a buffer grow by little at a time? It will go on. (A difference that wraps is not little.) */
INLINE bool is_appending(size_t usable, size_t size)
{
	return size - usable < usable / RESIZE_SHARE;
}

static void *move(struct kheap *heap, void *pointer, size_t usable, const struct wish *wish)
{
	bool goes_on =
		is_appending(usable, wish->size) && wish->size > BLOCK_MAX_REQUEST && wish->alignment <= PAGE_SIZE;
	void *moved = goes_on ? alloc_to_grow(heap, wish->size) : NULL;

	if (!moved)
		moved = wish_alloc(heap, wish);
	if (moved) {
		heap_copy(moved, pointer, min_size(wish->size, usable));
		kheap_free(heap, pointer);
	}
	return moved;
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
	if (!moved && stays && kheap_try_resize(heap, pointer, wish->size))
		return pointer;
	return moved;
}

static __attribute__((noinline)) void *realloc_wish(struct kheap *heap, void *pointer, const struct wish *wish)
{
	if (!is_power_of_two(wish->alignment) || wish->size > PTRDIFF_MAX)
		return NULL;
	return pointer ? realloc_any(heap, pointer, wish) : wish_alloc(heap, wish);
}

/* As kheap_alloc would lay it, or aligned to a granule. */
static __attribute__((noinline)) void *realloc_slow(struct kheap *heap, void *object, size_t size, bool is_natural)
{
	struct wish wish = { size, is_natural ? natural_alignment(size) : GRANULE, is_natural };

	return realloc_wish(heap, object, &wish);
}

/* ---- the quick ways ----------------------------------------------------------------------------------------------- */

/* Does an object of this size, if it is a power of two, lie as kheap_alloc would lay it? Of very large ones too much is asked. */
INLINE bool lies_right(uintptr_t address, size_t size, bool is_natural)
{
	return LIKELY(size & (size - 1)) || !is_natural || !(address & (size - 1));
}

INLINE void *alloc_like(struct kheap *heap, size_t size, bool is_natural)
{
	return is_natural ? kheap_alloc(heap, size, 0) : kheap_alloc_aligned(heap, size, GRANULE, 0);
}

/* What lies in this region, and was moved. */
INLINE void free_moved(struct kheap *heap, struct region *region, void *object)
{
	fast_free_at(heap, cpu_of(heap), object, region->starts, region->magazines,
	             granule_of(region, (uintptr_t)object));
}

/* A live object of a slab, or a block, to where it has room. */
static __attribute__((noinline)) void *move_away(struct kheap *heap, struct region *region, void *object, size_t usable,
                                                 size_t size, bool is_natural)
{
	void *moved = alloc_like(heap, size, is_natural);

	if (LIKELY(moved != NULL)) {
		heap_copy(moved, object, usable);
		free_moved(heap, region, object);
	}
	return moved;
}

/* The same to where less room is lost; if there is none, it stays, if it may. */
static __attribute__((noinline)) void *move_down(struct kheap *heap, struct region *region, void *object, size_t size,
                                                 bool is_natural)
{
	void *moved = alloc_like(heap, size, is_natural);

	if (UNLIKELY(!moved))
		return lies_right((uintptr_t)object, size, is_natural) ? object : NULL;
	heap_copy(moved, object, size);
	free_moved(heap, region, object);
	return moved;
}

/*
 * A live block is too large. If not half of it is needed it moves, so that the next one of its size finds it whole, in the cache; else to one that
 * is cached, if there is any: what is cut off takes the lock, and leaves a hole. A heap that would perhaps have to grow for it cuts.
 */
static __attribute__((noinline)) void *shrink_block(struct kheap *heap, struct region *region, void *object,
                                                    size_t usable, size_t size, bool is_natural)
{
	struct block *block = block_of_payload((uintptr_t)object);
	void *moved = NULL;

	/* A new one might be as large. */
	if (has_coarse_sizes(heap) && size > FAST_MAX && usable - coarse_size(size) <= usable / RESIZE_SHARE)
		return object;
	if (size <= usable / 2 && LOAD(heap->counters.free_run_pages) >= MOVE_FREE_PAGES)
		moved = alloc_like(heap, size, is_natural);
	else if (size <= FAST_MAX)
		moved = cache_pop(heap, magazine_of_size(size));
	if (moved) {
		heap_copy(moved, object, size);
		free_moved(heap, region, object);
		return moved;
	}
	kport_lock_state state = heap_lock(heap);

	if (block_resize(heap, region, block, size, size))
		count_resize(heap, usable, block_size(block) - BLOCK_HEADER);
	heap_unlock(heap, state);
	return object;
}

/* Is there a block that is not free, and not damaged? Without the lock: if it is free a moment later, nothing is lost. */
INLINE bool is_in_use(const struct kheap *heap, uintptr_t address)
{
	uint64_t header = block_header(block_at(address));

	return header & BLOCK_USED && !header_hash(heap, block_at(address), header);
}

static bool block_grow(struct kheap *heap, uintptr_t address, size_t usable, size_t size, bool is_natural)
{
	struct block *block = block_of_payload(address);
	size_t most = size;
	bool has_grown;

	if (size > BLOCK_MAX_REQUEST || !lies_right(address, size, is_natural))
		return false;
	if (is_appending(usable, size))
		most = min_size(size + size / RESIZE_SHARE, BLOCK_MAX_REQUEST);
	kport_lock_state state = heap_lock(heap);

	has_grown = block_resize(heap, NULL, block, size, most);
	if (has_grown)
		count_resize(heap, usable, block_size(block) - BLOCK_HEADER);
	heap_unlock(heap, state);
	return has_grown;
}

/*
 * Where a buffer that grows by little at a time finds room to go on: a block half as large again, of which what is not needed now goes back, and
 * lies behind it. NULL: there is none, without growing the heap.
 */
static void *block_with_room(struct kheap *heap, size_t size)
{
	kport_lock_state state = heap_lock(heap);
	uintptr_t object = block_alloc(heap, size + size / 2, GRANULE, LABEL_PLAIN);

	if (object) {
		struct block *block = block_of_payload(object);
		size_t now = size + size / RESIZE_SHARE;

		(void)block_resize(heap, region_of(heap, object), block, now, now);
		count_alloc(heap, 1, block_size(block) - BLOCK_HEADER);
	}
	heap_unlock(heap, state);
	return (void *)object;
}

/* The same for a run; or where the heap can grow. So of a buffer that grows to n bytes few times n are copied. */
static void *run_with_room(struct kheap *heap, size_t size)
{
	size_t n_pages = pages_for(size);
	kport_lock_state state = heap_lock(heap);
	struct page_desc *desc = run_alloc(heap, pages_with_room(n_pages), 0, UINTPTR_MAX, PAGE_RUN);

	if (desc) {
		desc->is_bare = false;
		(void)run_resize(heap, desc_region(desc), desc_page(desc), n_pages);
		count_alloc(heap, 1, n_pages << PAGE_SHIFT);
	}
	heap_unlock(heap, state);
	return desc ? (void *)desc_address(desc) : alloc_to_grow(heap, size);
}

/* Shall the object, which grows, go where it can go on? Not if it grows by much at once, or would not lie right there. */
INLINE bool wants_room(size_t usable, size_t size, bool is_natural)
{
	return is_appending(usable, size) && !(is_natural && is_power_of_two(size));
}

/* NULL: there is nothing. */
static void *alloc_with_room(struct kheap *heap, size_t size)
{
	return size + size / 2 <= BLOCK_MAX_REQUEST ? block_with_room(heap, size) : run_with_room(heap, size);
}

/* A live block is too small. */
static __attribute__((noinline)) void *grow_block(struct kheap *heap, struct region *region, void *object,
                                                  size_t usable, size_t size, bool is_natural)
{
	void *moved;

	if (!is_in_use(heap, (uintptr_t)object + usable) &&
	    block_grow(heap, (uintptr_t)object, usable, size, is_natural))
		return object;
	moved = wants_room(usable, size, is_natural) ? alloc_with_room(heap, size) : NULL;
	if (!moved) {
		moved = move_away(heap, region, object, usable, size, is_natural);
		/* The caches were drained for that: what lay behind it may be free now. */
		return moved || !block_grow(heap, (uintptr_t)object, usable, size, is_natural) ? moved : object;
	}
	heap_copy(moved, object, usable);
	free_moved(heap, region, object);
	return moved;
}

/* Is what lies behind a live run used? Without the lock: if it is free a moment later, nothing is lost. */
INLINE bool is_followed(const struct region *region, size_t page)
{
	size_t end = page + region->descs[page].n_pages;

	return end < LOAD(region->n_pages) && page_kind_of(region, end) != PAGE_FREE;
}

static bool run_try(struct kheap *heap, struct region *region, size_t page, size_t size)
{
	size_t n_pages = pages_for(max_size(size, 1));
	kport_lock_state state = heap_lock(heap);
	size_t have = region->descs[page].n_pages;
	bool is_done = run_resize(heap, region, page, n_pages);

	if (is_done)
		count_resize(heap, have << PAGE_SHIFT, n_pages << PAGE_SHIFT);
	heap_unlock(heap, state);
	return is_done;
}

INLINE bool may_lie(const void *run, size_t size, bool is_natural)
{
	return !is_natural || (uintptr_t)run % natural_alignment(size) == 0;
}

/* A live run has too few pages or too many, or a power of two is not to lie here. */
static __attribute__((noinline)) void *change_run(struct kheap *heap, struct region *region, void *object,
                                                  size_t usable, size_t size, bool is_natural)
{
	size_t page = region_page(region, (uintptr_t)object);

	if (size > PTRDIFF_MAX)
		return NULL;
	/* Of a small object a page would be too much. */
	if (size > PAGE_SIZE / 2 && !(size > usable && is_followed(region, page)) &&
	    may_lie(object, size, is_natural) &&
	    (run_try(heap, region, page, size) ||
	     (run_gets_room(heap, (uintptr_t)object, size) && run_try(heap, region, page, size))))
		return object;
	void *moved = size > usable && wants_room(usable, size, is_natural) ? alloc_with_room(heap, size) : NULL;

	if (!moved)
		moved = alloc_like(heap, size, is_natural);
	if (moved) {
		heap_copy(moved, object, min_size(size, usable));
		cpu_free_run(heap, object, region);
	} else if (may_lie(object, size, is_natural) && run_try(heap, region, page, size)) {
		/* The caches were drained for that: what lay behind it may be free now. */
		moved = object;
	}
	return moved;
}

/* Has a block, or a run, the room already, and not too much of it? */
INLINE bool block_fits(uintptr_t address, size_t usable, size_t size, bool is_natural)
{
	/* A size near 2^64, from which the difference would be small again, is none of these: the least block is large enough for that. */
	_Static_assert((BLOCK_MIN - BLOCK_HEADER) / RESIZE_SHARE + GRANULE < BLOCK_MIN - BLOCK_HEADER,
	               "no difference wraps");
	return LIKELY(usable - size <= usable / RESIZE_SHARE + GRANULE && lies_right(address, size, is_natural));
}

INLINE bool run_fits(uintptr_t address, size_t usable, size_t size, bool is_natural)
{
	return LIKELY(usable - size < PAGE_SIZE && lies_right(address, size, is_natural));
}

/* Where the object is, is known. */
static __attribute__((noinline)) void *realloc_at(struct kheap *heap, void *object, size_t size, struct region *region,
                                                  bool is_natural)
{
	uintptr_t address = (uintptr_t)object;
	struct place place = { region->starts, region->magazines, granule_of(region, address), region };
	size_t usable;

	switch (storey_at_once(heap, address, place, &usable)) {
	case STOREY_RUN:
		if (run_fits(address, usable, size, is_natural))
			return object;
		return change_run(heap, region, object, usable, size, is_natural);
	case STOREY_BLOCK:
		if (block_fits(address, usable, size, is_natural))
			return object;
		if (size > usable)
			return grow_block(heap, region, object, usable, size, is_natural);
		if (lies_right(address, size, is_natural))
			return shrink_block(heap, region, object, usable, size, is_natural);
		break;
	case STOREY_SLAB:
		if (size > usable)
			return move_away(heap, region, object, usable, size, is_natural);
		/* It cannot be cut: it moves when half of it is unused. */
		if ((size > usable / 2 || usable <= 2 * GRANULE) && lies_right(address, size, is_natural))
			return object;
		return move_down(heap, region, object, size, is_natural);
	case STOREY_OTHER:
		break;
	}
	return realloc_slow(heap, object, size, is_natural);
}

/* Most buffers that grow have the room already: of blocks and runs that is told without the lock and without a call. */
INLINE void *realloc_placed(struct kheap *heap, void *object, size_t size, struct place place, bool is_natural)
{
	uintptr_t address = (uintptr_t)object;
	unsigned kind = page_kind_byte(place.region, place.granule / PAGE_GRANULES);
	size_t usable;

	if (LIKELY(get_bit(place.starts, place.granule)) && LIKELY(!is_cached(heap, address))) {
		if (is_block_kind((enum page_kind)kind)) {
			usable = usable_of_block(heap, address);
			if (LIKELY(usable) && block_fits(address, usable, size, is_natural))
				return object;
			if (LIKELY(usable) && size > usable)
				return grow_block(heap, place.region, object, usable, size, is_natural);
		} else if (kind == PAGE_RUN) {
			usable = usable_of_run(place.region, place.granule);
			if (run_fits(address, usable, size, is_natural))
				return object;
			return change_run(heap, place.region, object, usable, size, is_natural);
		} else if (is_slab((enum page_kind)kind)) {
			usable = slab_object_size(kind - PAGE_SLAB);
			if (size > usable)
				return move_away(heap, place.region, object, usable, size, is_natural);
		}
	}
	return realloc_at(heap, object, size, place.region, is_natural);
}

/* Objects resized in turn in one region, until the window leaves the one that serves what is freed. */
#define NEAR_TURNS 16

/* It has to be looked up. */
static __attribute__((noinline)) void *realloc_found(struct kheap *heap, void *object, size_t size, bool is_natural)
{
	struct place place = { .region = NULL };

	if (!HARDENED && UNLIKELY(!look_once(heap, (uintptr_t)object, &place)))
		place = place_of(heap, (uintptr_t)object);
	if (UNLIKELY(!place.region))
		return realloc_slow(heap, object, size, is_natural);
#if !HAS_READERS
	/* What grows is often where the last one was that did: the window goes there, if it serves what is freed only after some. */
	heap->n_near = place.region == heap->near ? (uint8_t)(heap->n_near + 1) : 0;
	if (heap->n_near >= (heap->window.n_open ? NEAR_TURNS : 1))
		window_set(heap, place.region);
	heap->near = place.region;
#endif
	return realloc_placed(heap, object, size, place, is_natural);
}

static __attribute__((noinline)) void *realloc_far(struct kheap *heap, void *object, size_t size, bool is_natural)
{
	return object ? realloc_found(heap, object, size, is_natural) : alloc_like(heap, size, is_natural);
}

INLINE void *realloc_near(struct kheap *heap, void *object, size_t size, bool is_natural)
{
	struct place place = { heap->window.starts, heap->window.magazines, 0, heap->window.region };

	if (HARDENED || !is_in_window(heap, (uintptr_t)object, &place.granule))
		return realloc_far(heap, object, size, is_natural);
	return realloc_placed(heap, object, size, place, is_natural);
}

void *kheap_realloc(struct kheap *heap, void *object, size_t size_bytes)
{
	return realloc_near(heap, object, size_bytes, true);
}

void *kheap_realloc_aligned(struct kheap *heap, void *object, size_t size_bytes, size_t alignment)
{
	struct wish wish = { size_bytes, alignment, false };

	if (LIKELY(alignment == GRANULE))
		return realloc_near(heap, object, size_bytes, false);
	return realloc_wish(heap, object, &wish);
}
