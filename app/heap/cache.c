/* SPDX-License-Identifier: MIT */
/*
 * Object caches: slabs of one size that the user chose, in as many pages as waste at most an eighth. Which objects are free is told by
 * the region's starts.
 */
#include "small.h"
#include "internal.h"

#define CACHE_MAX_SIZE ((size_t)32768)
#define CACHE_MAX_OBJECTS 256 /* so many may be looked at for a free one */
#define CACHE_MAX_PAGES 16

/* ---- slabs of a cache ---------------------------------------------------------------------------------------------- */

static void list_push(struct kcache *cache, struct page_desc *desc)
{
	desc->prev = NULL;
	desc->next = cache->partial;
	if (desc->next)
		desc->next->prev = desc;
	cache->partial = desc;
}

static void list_remove(struct kcache *cache, struct page_desc *desc)
{
	if (desc->next)
		desc->next->prev = desc->prev;
	if (desc->prev)
		desc->prev->next = desc->next;
	else
		cache->partial = desc->next;
}

static bool slab_add(struct kcache *cache)
{
	struct kheap *heap = cache->heap;
	struct page_desc *desc = run_alloc(heap, cache->pages_per_slab, 0, UINTPTR_MAX, PAGE_CACHE);

	if (!desc)
		return false;
	for (size_t i = 1; i < cache->pages_per_slab; i++) {
		page_kind_set(desc_region(desc), desc_page(desc) + i, PAGE_CACHE_BODY);
		desc[i].n_back = i;
	}
	guard_poison(desc_address(desc), (size_t)cache->pages_per_slab << PAGE_SHIFT);
	desc->n_free = cache->objects_per_slab;
	desc->hint = 0;
	desc->cache = cache;
	list_push(cache, desc);
	cache->n_free += cache->objects_per_slab;
	heap->counters.free_slab_bytes += cache->objects_per_slab * cache->object_size;
	return true;
}

/* An unused slab that is on the list goes back to the runs. */
static void slab_give_back(struct kcache *cache, struct page_desc *desc)
{
	struct kheap *heap = cache->heap;
	struct region *region = desc_region(desc);
	size_t page = desc_page(desc);

	list_remove(cache, desc);
	if (cache->spare == desc) {
		cache->spare = NULL;
		region->n_cached -= cache->pages_per_slab;
	}
	cache->n_free -= cache->objects_per_slab;
	heap->counters.free_slab_bytes -= cache->objects_per_slab * cache->object_size;
	for (size_t i = 0; i < cache->pages_per_slab; i++)
		page_kind_set(region, page + i, PAGE_BODY);
	run_free(heap, region, page, cache->pages_per_slab);
}

static bool is_needed(const struct kcache *cache)
{
	return cache->n_free < cache->n_reserved + cache->objects_per_slab;
}

bool cache_drain(struct kheap *heap)
{
	bool freed = false;

	for (struct kcache *cache = heap->caches; cache; cache = cache->next) {
		if (cache->spare && !is_needed(cache)) {
			slab_give_back(cache, cache->spare);
			freed = true;
		}
	}
	return freed;
}

bool cache_locate(const struct region *region, size_t page, uintptr_t address, uintptr_t *base, size_t *head)
{
	*head = page;
	if (page_kind_of(region, page) == PAGE_CACHE_BODY)
		*head -= region->descs[page].n_back;
	const struct kcache *cache = region->descs[*head].cache;
	uintptr_t start = page_address(region, *head);
	size_t index = (address - start) / cache->object_size;

	*base = start + index * cache->object_size;
	return index < cache->objects_per_slab;
}

void cache_free_object(struct kheap *heap, struct page_desc *desc, uintptr_t object)
{
	struct kcache *cache = desc->cache;
	struct region *region = desc_region(desc);
	size_t index = (object - desc_address(desc)) / cache->object_size;

	/* A struct kcache that was freed still tells whose it was, for those who use it after that. */
	if (!cache->is_internal)
		guard_poison(object, cache->object_size);
	start_clear(region, object);
	if (index < desc->hint)
		desc->hint = (uint16_t)index;
	if (!desc->n_free++)
		list_push(cache, desc);
	cache->n_live--;
	cache->n_free++;
	heap->counters.free_slab_bytes += cache->object_size;
	if (desc->n_free != cache->objects_per_slab || is_needed(cache))
		return;
	if (cache->spare) {
		slab_give_back(cache, desc);
		return;
	}
	cache->spare = desc;
	region->n_cached += cache->pages_per_slab;
	region_settle(heap, region);
}

/* An object of the slabs, marked as live. */
static uintptr_t take_any(struct kcache *cache)
{
	struct kheap *heap = cache->heap;
	struct page_desc *desc = cache->partial;

	if (!desc)
		return 0;
	struct region *region = desc_region(desc);
	uintptr_t object = desc_address(desc) + desc->hint * cache->object_size;

	if (desc == cache->spare) {
		cache->spare = NULL;
		region->n_cached -= cache->pages_per_slab;
	}
	for (; is_start(region, object); object += cache->object_size)
		desc->hint++;
	start_set(region, object);
	desc->hint++;
	if (!--desc->n_free)
		list_remove(cache, desc);
	if (!cache->is_internal)
		guard_verify(heap, object, cache->object_size);
	cache->n_live++;
	cache->n_free--;
	heap->counters.free_slab_bytes -= cache->object_size;
	return object;
}

static uintptr_t take(struct kcache *cache)
{
	uintptr_t object = take_any(cache);

	if (object) {
		guard_arm(cache->heap, object, cache->user_size, cache->object_size);
		count_alloc(cache->heap, 1, HARDENED ? cache->user_size : cache->object_size);
	}
	return object;
}

void *cache_take_internal(struct kcache *cache)
{
	uintptr_t object = take_any(cache);

	if (!object && slab_add(cache))
		object = take_any(cache);
	return (void *)object;
}

void cache_free_internal(struct kcache *cache, void *object)
{
	uintptr_t address = (uintptr_t)object, base;
	struct region *region = region_of(cache->heap, address);
	size_t head;

	cache_locate(region, region_page(region, address), address, &base, &head);
	cache_free_object(cache->heap, &region->descs[head], address);
}

/* ---- the interface ------------------------------------------------------------------------------------------------- */

/* The fewest pages that waste at most an eighth, or else those that waste the smallest part. */
static void choose_pages(struct kcache *cache)
{
	size_t best_waste = SIZE_MAX;

	for (size_t n = 1; n <= CACHE_MAX_PAGES; n++) {
		size_t bytes = n << PAGE_SHIFT;
		size_t objects = min_size(bytes / cache->object_size, CACHE_MAX_OBJECTS);
		size_t waste = (bytes - objects * cache->object_size) * CACHE_MAX_PAGES / n;

		if (objects == 0 || waste >= best_waste)
			continue;
		best_waste = waste;
		cache->pages_per_slab = (uint8_t)n;
		cache->objects_per_slab = (uint16_t)objects;
		if (8 * waste <= CACHE_MAX_PAGES * PAGE_SIZE)
			break;
	}
}

/* Is it a cache still? A destroyed one is reported. Its struct stays readable as long as its page holds structs. */
static bool is_open(struct kcache *cache)
{
	if (cache->magic == KCACHE_OPEN)
		return true;
	kport_lock_state state = heap_lock(cache->heap);

	heap_error(cache->heap, KMALLOC_DOUBLE_FREE, (uintptr_t)cache, sizeof(*cache));
	heap_unlock(cache->heap, state);
	return false;
}

void cache_init(struct kcache *cache, struct kheap *heap, size_t size_bytes, size_t alignment)
{
	cache->heap = heap;
	cache->magic = KCACHE_OPEN;
	cache->user_size = size_bytes;
	cache->object_size = align_up(size_bytes + GUARD_BYTES, max_size(alignment, GRANULE));
	choose_pages(cache);
	cache->prev = NULL;
	cache->next = heap->caches;
	if (cache->next)
		cache->next->prev = cache;
	heap->caches = cache;
}

struct kcache *kcache_create(struct kheap *heap, size_t size_bytes, size_t alignment,
                             void (*constructor)(void *object, void *ctx), void *ctx)
{
	if (alignment == 0)
		alignment = GRANULE;
	if (size_bytes == 0 || size_bytes > CACHE_MAX_SIZE || !is_power_of_two(alignment) || alignment > PAGE_SIZE)
		return NULL;
	struct kcache *cache = kcache_alloc(&heap->cache_of_caches, KMALLOC_ZERO);

	if (!cache)
		return NULL;
	cache->constructor = constructor;
	cache->ctx = ctx;
	kport_lock_state state = heap_lock(heap);

	cache_init(cache, heap, size_bytes, alignment);
	heap_unlock(heap, state);
	return cache;
}

bool kcache_destroy(struct kcache *cache)
{
	struct kheap *heap = cache->heap;

	if (!is_open(cache))
		return false;
	kport_lock_state state = heap_lock(heap);

	if (cache->n_live) {
		heap_error(heap, KMALLOC_BUSY, (uintptr_t)cache, sizeof(*cache));
		heap_unlock(heap, state);
		return false;
	}
	while (cache->partial)
		slab_give_back(cache, cache->partial);
	if (cache->next)
		cache->next->prev = cache->prev;
	if (cache->prev)
		cache->prev->next = cache->next;
	else
		heap->caches = cache->next;
	cache->magic = 0;
	count_free(heap, HARDENED ? heap->cache_of_caches.user_size : heap->cache_of_caches.object_size);
	cache_free_internal(&heap->cache_of_caches, cache);
	heap_unlock(heap, state);
	return true;
}

/* Add slabs until at least n objects are free; how many are. */
static size_t ensure_free(struct kcache *cache, size_t n, bool may_grow)
{
	struct kheap *heap = cache->heap;
	struct replenished tried = { false, false };

	for (;;) {
		kport_lock_state state = heap_lock(heap);

		/* Where the heap cannot grow, what this CPU's caches hold goes, too. */
		while (cache->n_free < n) {
			if (!slab_add(cache) && !(heap_drain(heap) && slab_add(cache)) &&
			    !(!may_grow && cpu_reset(heap) && slab_add(cache)))
				break;
		}
		size_t n_free = cache->n_free;

		heap_unlock_after(heap, state, may_grow ? 0 : KMALLOC_NO_GROW);
		if (n_free >= n || !may_grow)
			return n_free;
		may_grow = heap_replenish(heap, (struct growth){ .n_pages = cache->pages_per_slab }, UINTPTR_MAX,
		                          cache->object_size, &tried);
	}
}

void *kcache_alloc(struct kcache *cache, unsigned flags)
{
	struct kheap *heap = cache->heap;
	uintptr_t object = 0;

	if (!is_open(cache))
		return NULL;
	for (unsigned tries = GROWTH_TRIES; tries && !object; tries--) {
		kport_lock_state state = heap_lock(heap);

		object = take(cache);
		if (!object && slab_add(cache))
			object = take(cache);
		heap_unlock_after(heap, state, flags);
		if (!object && !ensure_free(cache, 1, !(flags & KMALLOC_NO_GROW)))
			break;
	}
	if (!object) {
		count_failure(heap, flags);
		return NULL;
	}
	if (flags & KMALLOC_ZERO) {
		unsigned char *byte = (unsigned char *)object;

		for (size_t i = 0; i < (HARDENED ? cache->user_size : cache->object_size); i++)
			byte[i] = 0;
	}
	if (cache->constructor)
		cache->constructor((void *)object, cache->ctx);
	return (void *)object;
}

void kcache_free(struct kcache *cache, void *pointer)
{
	struct kheap *heap = cache->heap;
	struct object object;

	if (!pointer || !is_open(cache))
		return;
	kport_lock_state state = heap_lock(heap);
	bool is_own = heap_find(heap, (uintptr_t)pointer, &object) && object.kind == PAGE_CACHE &&
	              object.region->descs[object.page].cache == cache;

	if (is_own)
		free_found(heap, &object, (uintptr_t)pointer);
	else if (!heap->pending.error_class)
		heap_error(heap, KMALLOC_WRONG_CACHE, (uintptr_t)pointer, object.slot);
	heap_unlock(heap, state);
}

size_t kcache_prefill(struct kcache *cache, size_t n)
{
	if (!is_open(cache))
		return 0;
	kport_lock_state state = heap_lock(cache->heap);
	struct page_desc *next;

	/* No more than any memory holds, so that sums of it do not overflow. */
	cache->n_reserved = min_size(n, PTRDIFF_MAX);
	/* What an earlier, larger reserve held goes back; nothing else may take slabs off the list meanwhile. */
	cache->heap->is_draining = true;
	for (struct page_desc *desc = cache->partial; desc && !is_needed(cache); desc = next) {
		next = desc->next;
		if (desc->n_free == cache->objects_per_slab)
			slab_give_back(cache, desc);
	}
	cache->heap->is_draining = false;
	regions_settle(cache->heap);
	heap_unlock(cache->heap, state);
	size_t n_free = ensure_free(cache, n, true);

	return min_size(n_free, n);
}
