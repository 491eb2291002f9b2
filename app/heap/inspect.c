/* SPDX-License-Identifier: MIT */
/*
 * Looking at a heap: statistics, the owner of an address, a walk over everything. Reads only, and believes no length that leads out of its area.
 */
#include "small.h"
#include "internal.h"

/* ---- one range ------------------------------------------------------------------------------------------------------ */

/* What a live object's user may use. */
static size_t usable_at(const struct kheap *heap, uintptr_t object, size_t slot)
{
	uintptr_t damage;

	return guard_read(heap, object, slot, &damage);
}

static struct kheap_range make_range(enum kheap_kind kind, bool is_live, uintptr_t base, size_t size)
{
	return (struct kheap_range){ .kind = kind, .is_live = is_live, .base = base, .size_bytes = size };
}

static struct kheap_range slab_range(const struct kheap *heap, const struct region *region, size_t page, size_t index)
{
	unsigned class_index = (unsigned)(page_kind_of(region, page) - PAGE_SLAB);
	size_t size = slab_object_size(class_index);
	uintptr_t base = page_address(region, page) + index * size;

	if (index >= slab_objects(class_index))
		return make_range(KHEAP_OVERHEAD, false, base, page_address(region, page + 1) - base);
	bool is_live = !(region->descs[page].free_bits[index / 64] >> (index % 64) & 1) && !is_cached(heap, base);

	return make_range(KHEAP_SLAB_OBJECT, is_live, base, is_live ? usable_at(heap, base, size) : size);
}

static struct kheap_range cache_range(const struct kheap *heap, const struct region *region, size_t head, size_t index)
{
	const struct page_desc *desc = &region->descs[head];
	const struct kcache *cache = desc->cache;
	uintptr_t base = page_address(region, head) + index * cache->object_size;

	if (index >= cache->objects_per_slab)
		return make_range(KHEAP_OVERHEAD, false, base,
		                  page_address(region, head + cache->pages_per_slab) - base);
	bool is_live = !cache_object_is_free(desc, index);

	if (cache == &heap->cache_of_clips)
		return make_range(KHEAP_OVERHEAD, false, base, cache->object_size);

	return make_range(KHEAP_CACHE_OBJECT, is_live, base,
	                  is_live ? usable_at(heap, base, cache->object_size) : cache->object_size);
}

/* The block behind this header, which lies in an area that ends at `end`. One that cannot be believed reaches to the end, live. */
static struct kheap_range block_range(const struct kheap *heap, const struct block *block, uintptr_t end)
{
	uintptr_t payload = block_payload(block);

	if (!block_tag_holds(heap, block) || payload + block_size(block) > end)
		return make_range(KHEAP_BLOCK, true, payload, end - payload);
	bool is_live = block->size_flags & BLOCK_USED && !is_cached(heap, payload);
	size_t slot = block_size(block) - BLOCK_HEADER;

	return make_range(KHEAP_BLOCK, is_live, payload, is_live ? usable_at(heap, payload, slot) : slot);
}

static bool is_sentinel(const struct kheap *heap, const struct block *block)
{
	return block_tag_holds(heap, block) && block_size(block) == 0;
}

/* The header after this one, or NULL at the end of the area or where it cannot be told. */
static struct block *block_after(const struct kheap *heap, struct block *block, uintptr_t end)
{
	if (!block_tag_holds(heap, block) || block_size(block) < BLOCK_MIN ||
	    (uintptr_t)block + block_size(block) + BLOCK_HEADER > end)
		return NULL;
	struct block *next = block_next(block);

	return is_sentinel(heap, next) ? NULL : next;
}

static struct kheap_range area_range(const struct kheap *heap, const struct region *region, size_t page,
                                     uintptr_t address)
{
	size_t head = area_head(region, page);
	uintptr_t end = page_address(region, head + region->descs[head].n_pages);
	struct block *block = area_first(region, head);

	if (address < block_payload(block))
		return make_range(KHEAP_OVERHEAD, false, page_address(region, head),
		                  block_payload(block) - page_address(region, head));
	if (address >= end - BLOCK_HEADER)
		return make_range(KHEAP_OVERHEAD, false, end - BLOCK_HEADER, BLOCK_HEADER);
	for (struct block *next; (next = block_after(heap, block, end)) != NULL && address >= block_payload(next);)
		block = next;
	return block_range(heap, block, end);
}

/* The whole pages of a region's descriptors; in the last one may be the tail area. */
static size_t descriptor_pages(const struct region *region)
{
	return region->n_overhead - (region->tail_offset ? 1 : 0);
}

static struct kheap_range run_range(const struct region *region, size_t page)
{
	/* Every page of a run but its first and last says nothing: look back. */
	while (page_kind_of(region, page) == PAGE_BODY || page_kind_of(region, page) == PAGE_FREE_TAIL)
		page--;
	enum page_kind kind = page_kind_of(region, page);
	uintptr_t base = page_address(region, page);
	size_t n_pages = region->descs[page].n_pages;

	if (kind == PAGE_OVERHEAD && page < region->n_overhead)
		return make_range(KHEAP_OVERHEAD, false, page_address(region, 0),
		                  descriptor_pages(region) << PAGE_SHIFT);
	if (kind == PAGE_OVERHEAD)
		return make_range(KHEAP_OVERHEAD, false, base, n_pages << PAGE_SHIFT);
	return make_range(KHEAP_PAGE_RUN, kind == PAGE_RUN, base, n_pages << PAGE_SHIFT);
}

struct kheap_range range_of(const struct kheap *heap, uintptr_t address)
{
	const struct region *region = region_of(heap, address);
	size_t page, index, head;
	uintptr_t base;

	if (!region)
		return make_range(KHEAP_NOT_OURS, false, 0, 0);
	page = (address >> PAGE_SHIFT) - region->first_page;
	enum page_kind kind = page_kind_of(region, page);

	if (!is_kind(kind))
		return make_range(KHEAP_OVERHEAD, false, page_address(region, page), PAGE_SIZE);
	if (is_slab(kind))
		return slab_range(heap, region, page,
		                  (address % PAGE_SIZE) / slab_object_size((unsigned)(kind - PAGE_SLAB)));
	switch (kind) {
	case PAGE_BLOCK_HEAD:
	case PAGE_BLOCK:
		return area_range(heap, region, page, address);
	case PAGE_CACHE:
	case PAGE_CACHE_BODY:
		cache_locate(region, page, address, &base, &index, &head);
		return cache_range(heap, region, head, min_size(index, region->descs[head].cache->objects_per_slab));
	default: {
		struct kheap_range range = run_range(region, page);

		if (HARDENED && range.kind == KHEAP_PAGE_RUN && range.is_live &&
		    !region->descs[(range.base >> PAGE_SHIFT) - region->first_page].is_bare)
			range.size_bytes = usable_at(heap, range.base, range.size_bytes);
		return range;
	}
	}
}

struct kheap_range kheap_owner(struct kheap *heap, const void *address)
{
	kport_lock_state state = heap_lock(heap);
	struct kheap_range range = range_of(heap, (uintptr_t)address);

	heap_unlock(heap, state);
	return range;
}

/* ---- the walk -------------------------------------------------------------------------------------------------------- */

typedef bool visit_fn(void *ctx, const struct kheap_range *range);

static bool walk_slab(struct kheap *heap, struct region *region, size_t page, visit_fn *visit, void *ctx)
{
	unsigned class_index = (unsigned)(page_kind_of(region, page) - PAGE_SLAB);
	bool has_padding = PAGE_SIZE % slab_object_size(class_index) != 0;

	for (size_t i = 0; i < slab_objects(class_index) + has_padding; i++) {
		struct kheap_range range = slab_range(heap, region, page, i);

		if (!visit(ctx, &range))
			return false;
	}
	return true;
}

static bool walk_cache(struct kheap *heap, struct region *region, size_t page, visit_fn *visit, void *ctx)
{
	const struct kcache *cache = region->descs[page].cache;
	bool has_padding =
		((size_t)cache->pages_per_slab << PAGE_SHIFT) != cache->objects_per_slab * cache->object_size;

	for (size_t i = 0; i < cache->objects_per_slab + (size_t)has_padding; i++) {
		struct kheap_range range = cache_range(heap, region, page, i);

		if (!visit(ctx, &range))
			return false;
	}
	return true;
}

static bool walk_area(struct kheap *heap, struct region *region, size_t page, visit_fn *visit, void *ctx)
{
	uintptr_t end = page_address(region, page + region->descs[page].n_pages);
	struct block *block = area_first(region, page);
	struct kheap_range front = area_range(heap, region, page, page_address(region, page));

	if (!visit(ctx, &front))
		return false;
	/* An area that is full to its end consists of its sentinel. */
	if (is_sentinel(heap, block))
		return true;
	do {
		struct kheap_range range = block_range(heap, block, end);

		if (!visit(ctx, &range))
			return false;
		block = block_after(heap, block, end);
	} while (block);
	return true;
}

/* One slab, area, cache slab or run; how many pages it has, 0: the visitor had enough. */
static size_t walk_one(struct kheap *heap, struct region *region, size_t page, visit_fn *visit, void *ctx)
{
	enum page_kind kind = page_kind_of(region, page);
	struct kheap_range range;

	range = range_of(heap, page_address(region, page));
	if (!is_kind(kind))
		return visit(ctx, &range) ? 1 : 0;
	if (is_slab(kind))
		return walk_slab(heap, region, page, visit, ctx) ? 1 : 0;
	if (kind == PAGE_CACHE)
		return walk_cache(heap, region, page, visit, ctx) ? region->descs[page].cache->pages_per_slab : 0;
	if (kind == PAGE_BLOCK_HEAD)
		return walk_area(heap, region, page, visit, ctx) ? region->descs[page].n_pages : 0;
	size_t n_pages = descriptor_pages(region);

	if (page >= region->n_overhead)
		n_pages = region->descs[page].n_pages;
	return visit(ctx, &range) ? n_pages : 0;
}

void kheap_walk(struct kheap *heap, bool (*visit)(void *ctx, const struct kheap_range *range), void *ctx)
{
	kport_lock_state state = heap_lock(heap);
	bool go_on = true;

	for (struct region *region = heap->regions; region && go_on; region = region->next) {
		for (size_t page = 0; page < region->n_pages && go_on;) {
			size_t n_pages = walk_one(heap, region, page, visit, ctx);

			go_on = n_pages != 0;
			page += n_pages;
		}
	}
	heap_unlock(heap, state);
}

/* False: the visitor had enough. */
static bool walk_runs(const struct run_bins *bins, visit_fn *visit, void *ctx)
{
	for (unsigned bin = 0; bin < RUN_BINS; bin++) {
		for (const struct page_desc *desc = bins->heads[bin]; desc; desc = desc->next) {
			struct kheap_range range =
				make_range(KHEAP_PAGE_RUN, false, desc_address(desc), desc->n_pages << PAGE_SHIFT);

			if (!visit(ctx, &range))
				return false;
		}
	}
	return true;
}

void kheap_walk_free_pages(struct kheap *heap, bool (*visit)(void *ctx, const struct kheap_range *range), void *ctx)
{
	kport_lock_state state = heap_lock(heap);

	for (unsigned zone = 0; zone < N_ZONES && walk_runs(&heap->runs[zone], visit, ctx); zone++)
		;
	heap_unlock(heap, state);
}

/* ---- statistics -------------------------------------------------------------------------------------------------------- */

struct free_sum {
	size_t n, largest, total;
	/* Of squares, in units of 2^-shift bytes squared so that nothing overflows. */
	uint64_t squares;
	unsigned shift;
};

static void add_range(struct free_sum *sum, size_t size)
{
	uint64_t scaled = size >> sum->shift;

	sum->n++;
	sum->total += size;
	sum->largest = max_size(sum->largest, size);
	sum->squares += scaled * scaled;
}

/* Newton's method from above. */
static uint64_t square_root(uint64_t n)
{
	if (n < 2)
		return n;
	uint64_t x = (uint64_t)1 << (log2_floor((size_t)n) / 2 + 1);

	for (;;) {
		uint64_t y = (x + n / x) / 2;

		if (y >= x)
			return x;
		x = y;
	}
}

static void add_free_ranges(const struct kheap *heap, struct free_sum *sum)
{
	for (unsigned zone = 0; zone < N_ZONES; zone++) {
		for (unsigned bin = 0; bin < RUN_BINS; bin++) {
			const struct page_desc *desc = heap->runs[zone].heads[bin];

			for (; desc; desc = desc->next)
				add_range(sum, desc->n_pages << PAGE_SHIFT);
		}
	}
	if (heap->victim && block_is_free(heap, heap->victim))
		add_range(sum, block_size(heap->victim) - BLOCK_HEADER);
	for (unsigned bin = 0; bin < BLOCK_BINS; bin++) {
		const struct block *block = heap->blocks.heads[bin];

		/* A link that was overwritten leads nowhere; one that leads back does not have this block before it. */
		for (const struct block *prev = NULL; block && block_is_free(heap, block) && block->prev == prev;
		     prev = block, block = block->next)
			add_range(sum, block_size(block) - BLOCK_HEADER);
	}
}

void kheap_get_stats(struct kheap *heap, struct kheap_stats *stats)
{
	kport_lock_state state = heap_lock(heap);
	const struct counters *counters = &heap->counters;
	size_t capacity = counters->footprint_pages << PAGE_SHIFT;
	size_t usable = (counters->footprint_pages - counters->overhead_pages) << PAGE_SHIFT;
	struct free_sum sum = { 0 };
	size_t n_cached = 0, cached_bytes = 0;

	while (capacity >> sum.shift > UINT32_MAX)
		sum.shift++;
	add_free_ranges(heap, &sum);
	cpu_count(heap, &n_cached, &cached_bytes);
	*stats = (struct kheap_stats){
		.live_bytes = counters->live_bytes - cached_bytes,
		.live_objects = counters->live_objects - n_cached,
		.peak_live_bytes = max_size(counters->peak_live_bytes, counters->high_water),
		.footprint_bytes = capacity,
		.peak_footprint_bytes = counters->peak_footprint_pages << PAGE_SHIFT,
		.overhead_bytes = counters->overhead_pages << PAGE_SHIFT,
		.free_bytes = (counters->free_run_pages << PAGE_SHIFT) + counters->free_block_bytes +
		              counters->free_slab_bytes + cached_bytes,
		.largest_free_bytes = sum.largest,
		.min_free_bytes = min_size(counters->min_free_bytes, usable - counters->high_water),
		.n_regions = heap->n_regions,
		.n_free_ranges = sum.n,
		.n_allocs = counters->n_allocs,
		.n_frees = counters->n_frees + n_cached,
		.n_failures = counters->n_failures,
		.n_errors = counters->n_errors,
		.n_grown = counters->n_grown,
		.n_shrunk = counters->n_shrunk,
	};
	uint64_t total = sum.total >> sum.shift;

	if (total)
		stats->fragmentation_permille =
			(unsigned)(1000 - min_size((size_t)(1000 * square_root(sum.squares) / total), 1000));
	heap_unlock(heap, state);
}

struct kheap_glance kheap_glance(const struct kheap *heap)
{
	const struct counters *counters = &heap->counters;

	return (struct kheap_glance){
		.footprint_bytes = __atomic_load_n(&counters->footprint_pages, __ATOMIC_RELAXED) << PAGE_SHIFT,
		.free_page_bytes = __atomic_load_n(&counters->free_run_pages, __ATOMIC_RELAXED) << PAGE_SHIFT,
		.n_operations = __atomic_load_n(&counters->n_allocs, __ATOMIC_RELAXED) +
		                __atomic_load_n(&counters->n_frees, __ATOMIC_RELAXED),
	};
}
