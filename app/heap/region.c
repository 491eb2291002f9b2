/* SPDX-License-Identifier: MIT */
/*
 * Regions: where pages come from. A region brings its own descriptors at its front, so growing the heap never needs the heap, and any
 * number of regions of any size may lie anywhere. The section table leads from an address to its region without touching the address.
 *
 * Growth asks for a sixteenth of what the heap has, so that the source is asked seldom and little is held in vain, but for a large object
 * for no more than that needs: its chunk goes back with it. Some empty chunks are kept, lest they come and go, the rest go back.
 */
#include "small.h"
#include "internal.h"

#define FIRST_CHUNK_PAGES 8
#define GROWTH_SHARE 16 /* a chunk is a sixteenth of what the heap has; */
#define SMALL_SHARE 6   /* a sixth in small heaps, */
#define MIN_CHUNK_PAGES 2
#define OWN_CHUNK_SHARE 64                /* but what asks for as much of the heap as this gets a chunk of its own, */
#define OWN_CHUNK_PAGES 16                /* and of so many pages: smaller ones would come and go too often */
#define MAX_CHUNK_PAGES ((size_t)1 << 18) /* 1 GiB: some firmware fails or stalls on more */
#define SPARE_SHARE 4                     /* empty chunks are kept if all of them are at most a quarter of the heap, */
#define SPARE_MIN_PAGES 64                /* or 256 KiB */
#define SPARE_GROWTH_SHARE 64             /* and while the heap grows, if they are at most so much of it */
#define SPARES_GIVEN 2                    /* so many go back in one call */
#define REGION_PAGES_MAX ((size_t)UINT32_MAX) /* descriptors count pages in 32 bits */
#define TAIL_MIN_BYTES 128

/* Of starts, magazines and kinds. */
#define PAGE_MAP_BYTES (PAGE_WORDS * sizeof(uint32_t) + PAGE_CELLS + 1)

/* ---- a region's life -------------------------------------------------------------------------------------------- */

/* In front of the spares, which are at the end. */
static void list_add(struct kheap *heap, struct region *region)
{
	struct region *next = heap->spares;

	region->next = next;
	region->prev = next ? next->prev : heap->last_region;
	if (region->prev)
		region->prev->next = region;
	else
		heap->regions = region;
	if (next)
		next->prev = region;
	else
		heap->last_region = region;
	heap->n_regions++;
}

static void list_remove(struct kheap *heap, struct region *region)
{
	if (heap->spares == region)
		heap->spares = region->next;
	if (region->next)
		region->next->prev = region->prev;
	else
		heap->last_region = region->prev;
	if (region->prev)
		region->prev->next = region->next;
	else
		heap->regions = region->next;
	heap->n_regions--;
}

void spare_forget(struct kheap *heap, struct region *region)
{
	list_remove(heap, region);
	list_add(heap, region);
	region->is_spare = false;
	heap->n_spare_pages -= region->n_pages;
}

/* An empty region becomes the spare that was used last. */
static void spare_add(struct kheap *heap, struct region *region)
{
	struct region *spares;

	list_remove(heap, region);
	spares = heap->spares;
	heap->spares = NULL;
	list_add(heap, region);
	heap->spares = spares ? spares : region;
	region->is_spare = true;
	heap->n_spare_pages += region->n_pages;
}

/* Put pages [page, to) of a region under the bins, or take them out; no free run crosses 4 GiB. */
static void region_runs(struct kheap *heap, struct region *region, size_t page, size_t to, bool insert)
{
	while (page < to) {
		size_t end = to;

		if (region->first_page + page < ZONE_PAGE && region->first_page + end > ZONE_PAGE)
			end = ZONE_PAGE - region->first_page;
		if (insert)
			run_insert(heap, region, page, end - page);
		else
			run_remove(heap, &region->descs[page]);
		page = end;
	}
}

/* Lay out [base, base + n pages), of which `used` bytes are taken already (the struct kheap in the first region). Zeros are not written again. */
static struct region *region_layout(uintptr_t base, size_t n_pages, size_t used, bool is_zero)
{
	uintptr_t at = base + align_up(used, GRANULE);
	struct region *region = (struct region *)at;
	struct region made = { .first_page = base >> PAGE_SHIFT, .n_pages = n_pages };

	at += REGION_BYTES;
	made.descs = (struct page_desc *)at;
	at += n_pages * sizeof(struct page_desc);
	/* The three arrays of what is where lie together. */
	made.starts = (uint32_t *)at;
	made.magazines = (uint8_t *)(made.starts + n_pages * PAGE_WORDS);
	made.kinds = made.magazines + n_pages * PAGE_CELLS;
	at = align_up(at + n_pages * PAGE_MAP_BYTES, GRANULE);
	made.n_overhead = align_up(at - base, PAGE_SIZE) >> PAGE_SHIFT;
	size_t rest = base + (made.n_overhead << PAGE_SHIFT) - at;

	if (rest >= TAIL_MIN_BYTES)
		made.tail_offset = (uint16_t)(at % PAGE_SIZE);
	if (made.n_overhead > n_pages || (made.n_overhead == n_pages && !made.tail_offset))
		return NULL;
	*region = made;
	if (!is_zero)
		fill_words(region->starts, 0, n_pages * PAGE_MAP_BYTES);
	for (size_t i = 0; i < region->n_overhead; i++)
		page_kind_set(region, i, PAGE_OVERHEAD);
	return region;
}

static bool overlaps(const struct kheap *heap, uintptr_t first_page, size_t n_pages)
{
	for (const struct region *region = heap->regions; region; region = region->next) {
		if (first_page < region->first_page + region->n_pages && region->first_page < first_page + n_pages)
			return true;
	}
	return false;
}

static void count_pages(struct kheap *heap, const struct region *region, bool add)
{
	struct counters *counters = &heap->counters;
	size_t overhead = region->n_overhead - (region->tail_offset ? 1 : 0);
	size_t n = add ? region->n_pages : 0 - region->n_pages;

	counters->min_free_bytes = add ? SIZE_MAX : min_free_now(counters);
	counters->peak_live_bytes = max_size(counters->peak_live_bytes, counters->high_water);
	counters->high_water = counters->live_bytes;
	counters->footprint_pages += n;
	heap->is_refused = false;
	counters->overhead_pages += add ? overhead : 0 - overhead;
	counters->peak_footprint_pages = max_size(counters->peak_footprint_pages, counters->footprint_pages);
}

/* The region is laid out; make it part of the heap. */
static bool region_enter(struct kheap *heap, struct region *region)
{
	list_add(heap, region);
	heap->near = region;
	region_runs(heap, region, region->n_overhead, region->n_pages, true);
	if (!sections_add(heap, region)) {
		region_runs(heap, region, region->n_overhead, region->n_pages, false);
		list_remove(heap, region);
		heap->near = heap->regions;
		return false;
	}
	heap->is_sparse |= region->chunk.is_zero;
	count_pages(heap, region, true);
	if (region->tail_offset) {
		struct block *tail = area_create(heap, region, region->n_overhead - 1, 1, region->tail_offset);

		/* So that a block may begin there, and the pages behind it end it. */
		if (block_size(tail) >= VICTIM_MIN)
			victim_set(heap, tail);
		else
			bin_insert(heap, tail);
	}
	return true;
}

/* Cut [start, start + size) to whole pages other than page 0, 16 TiB at most; false: nothing is left. */
static bool cut_to_pages(uintptr_t start, size_t size, uintptr_t *base, size_t *n_pages)
{
	uintptr_t end = start + size;

	if (end < start)
		end = align_down(UINTPTR_MAX, PAGE_SIZE);
	if (start > UINTPTR_MAX - PAGE_SIZE)
		return false;
	*base = max_size(align_up(start, PAGE_SIZE), PAGE_SIZE);
	end = align_down(end, PAGE_SIZE);
	if (end <= *base)
		return false;
	*n_pages = min_size((end - *base) >> PAGE_SHIFT, REGION_PAGES_MAX);
	return true;
}

static bool region_add(struct kheap *heap, const struct kpage_chunk *chunk, uintptr_t start, size_t size,
                       bool from_source)
{
	uintptr_t base;
	size_t n_pages;

	if (!cut_to_pages(start, size, &base, &n_pages) || overlaps(heap, base >> PAGE_SHIFT, n_pages))
		return false;
	if (heap->config.limit_bytes &&
	    heap->counters.footprint_pages + n_pages > heap->config.limit_bytes >> PAGE_SHIFT)
		return false;
	struct region *region = region_layout(base, n_pages, 0, chunk->is_zero);

	if (!region)
		return false;
	region->chunk = *chunk;
	region->from_source = from_source;
	return region_enter(heap, region);
}

bool kheap_add_region(struct kheap *heap, void *memory, size_t size_bytes)
{
	const struct kpage_chunk none = { 0 };
	kport_lock_state state = heap_lock(heap);
	bool added = region_add(heap, &none, (uintptr_t)memory, size_bytes, false);

	heap_unlock(heap, state);
	return added;
}

/* The region that fast.h looks at before it searches the table: at first the one that never goes. */
static void window_reset(struct kheap *heap)
{
	const struct section section = region_section(heap->regions);

	heap->window = window_on(&section);
}

/* Take an empty region out of every list. Its section table must be elsewhere. */
static bool region_detach(struct kheap *heap, struct region *region)
{
	if (!area_tail_retire(heap, region))
		return false;
	region_runs(heap, region, region->n_overhead, region->n_pages, false);
	sections_remove(heap, region);
	if (region->is_spare)
		spare_forget(heap, region);
	list_remove(heap, region);
	count_pages(heap, region, false);
	if (heap->window.region == region)
		window_reset(heap);
	if (heap->near == region)
		heap->near = heap->regions;
	if (region->from_source) {
		region->next = heap->detached;
		heap->detached = region;
		heap->counters.n_shrunk++;
	}
	return true;
}

static bool region_is_empty(const struct kheap *heap, const struct region *region)
{
	return !region->is_first && region->n_busy == 0 && area_tail_is_free(heap, region);
}

/* Nothing in it is live: it is empty but for pages that are kept for the next time. */
static bool region_is_idle(const struct kheap *heap, const struct region *region)
{
	return region->n_busy == region->n_cached && area_tail_is_free(heap, region);
}

/* It is empty, and goes back; false: it cannot, or is in use again. */
static bool spare_give(struct kheap *heap, struct region *region)
{
	if (region_is_idle(heap, region) && region->n_cached)
		heap_drain(heap);
	return region_is_empty(heap, region) && region_detach(heap, region);
}

static size_t spares_most(const struct kheap *heap)
{
	return max_size(heap->counters.footprint_pages / SPARE_SHARE, SPARE_MIN_PAGES);
}

/* Those that were used longest ago go back, until the others have at most so many pages, or n have gone. */
static void spares_trim(struct kheap *heap, size_t n_pages, size_t n)
{
	for (; n && heap->n_spare_pages > n_pages; n--) {
		struct region *region = heap->spares;

		/* What is left of its descriptors' last page may have come into use. */
		if (!spare_give(heap, region))
			spare_forget(heap, region);
	}
}

static bool is_spare_now(const struct kheap *heap, const struct region *region)
{
	return region->from_source && !region->is_first && region_is_idle(heap, region);
}

void region_settle(struct kheap *heap, struct region *region)
{
	if (heap->is_draining || !is_spare_now(heap, region))
		return;
	if (region->n_pages > spares_most(heap)) {
		(void)spare_give(heap, region);
		return;
	}
	if (!region->is_spare)
		spare_add(heap, region);
	spares_trim(heap, spares_most(heap), SPARES_GIVEN);
}

void regions_settle(struct kheap *heap)
{
	struct region *next;

	/* What becomes a spare is moved to the end, once. */
	for (struct region *region = heap->regions; region; region = next) {
		next = region->next;
		if (!region->is_spare && is_spare_now(heap, region))
			spare_add(heap, region);
	}
	spares_trim(heap, spares_most(heap), SIZE_MAX);
}

/* If the section table is the only thing in this region, move it to pages of another one. */
static bool region_evict_table(struct kheap *heap, struct region *region)
{
	struct page_desc *table = heap->sections_run;

	if (!table || desc_region(table) != region || region->n_busy != table->n_pages)
		return false;
	size_t page = desc_page(table);
	size_t end = page + table->n_pages;

	/* Hide this region's free pages meanwhile, and keep the freed table from taking the region along. */
	heap->is_draining = true;
	region_runs(heap, region, region->n_overhead, page, false);
	region_runs(heap, region, end, region->n_pages, false);
	bool moved = sections_move(heap, heap->n_sections);

	if (moved) {
		/* If it was kept for readers: there are none where this is called. */
		old_sections_free(heap);
		run_remove(heap, &region->descs[page]);
		region_runs(heap, region, region->n_overhead, region->n_pages, true);
	} else {
		region_runs(heap, region, region->n_overhead, page, true);
		region_runs(heap, region, end, region->n_pages, true);
	}
	heap->is_draining = false;
	return moved;
}

bool kheap_remove_region(struct kheap *heap, void *memory)
{
	/* The region's first whole page: what was cut off when it was added is not known any more. */
	uintptr_t address = max_size(align_up((uintptr_t)memory, PAGE_SIZE), PAGE_SIZE);
	kport_lock_state state = heap_lock(heap);
	struct region *region = region_of(heap, (uintptr_t)memory);
	bool removed = false;

	if (!region)
		region = region_of(heap, address);

	if (region && !region->is_first) {
		address = page_address(region, 0);
		cpu_end_all(heap);
		cpu_reset(heap);
		heap_drain(heap);
		/* Nobody else is inside the heap, so nobody reads an old table. */
		old_sections_free(heap);
		/* A chunk of the source may have gone by itself when the last of what was cached went back. */
		if (region_of(heap, address) != region) {
			removed = true;
		} else {
			region_evict_table(heap, region);
			removed = region_is_empty(heap, region) && region_detach(heap, region);
		}
	}
	heap_unlock(heap, state);
	return removed;
}

/* All empty regions of the source go; true if any did. */
static bool regions_trim(struct kheap *heap)
{
	struct region *next;
	bool any = false;

	for (struct region *region = heap->regions; region; region = next) {
		next = region->next;
		if (!HAS_READERS && region->from_source && region->n_busy)
			region_evict_table(heap, region);
		if (region->from_source && region_is_empty(heap, region))
			any |= region_detach(heap, region);
	}
	return any;
}

size_t kheap_trim(struct kheap *heap)
{
	kport_lock_state state = heap_lock(heap);
	size_t before = heap->counters.footprint_pages;

	cpu_reset(heap);
	heap_drain(heap);
	/* The section table may have moved into a spare, and that in the list. */
	while (regions_trim(heap))
		;
	size_t given_back = (before - heap->counters.footprint_pages) << PAGE_SHIFT;

	heap_unlock(heap, state);
	return given_back;
}

bool kheap_region(struct kheap *heap, size_t index, struct kpage_chunk *chunk)
{
	kport_lock_state state = heap_lock(heap);
	struct region *region = heap->regions;

	while (region && index--)
		region = region->next;
	if (region) {
		chunk->base = region->first_page << PAGE_SHIFT;
		chunk->n_pages = region->n_pages;
	}
	heap_unlock(heap, state);
	return region != NULL;
}

/* ---- growth ------------------------------------------------------------------------------------------------------ */

#define PAGE_OVERHEAD_BYTES (sizeof(struct page_desc) + PAGE_MAP_BYTES)

/* The pages of a chunk in which n pages are left for use; SIZE_MAX when that is no number. */
static size_t chunk_pages(size_t n_pages)
{
	size_t bytes;

	if (__builtin_mul_overflow(n_pages, PAGE_OVERHEAD_BYTES, &bytes) || bytes > SIZE_MAX - PAGE_SIZE)
		return SIZE_MAX;
	bytes += REGION_BYTES + GRANULE;
	/* The pages in front are described there, too. */
	return n_pages + (bytes + PAGE_SIZE - PAGE_OVERHEAD_BYTES - 1) / (PAGE_SIZE - PAGE_OVERHEAD_BYTES);
}

/* The pages of a chunk in which n bytes are left for one area of blocks: it begins where the descriptors end. */
static size_t chunk_pages_for_block(size_t n_bytes)
{
	size_t bytes = REGION_BYTES + 2 * GRANULE + TAIL_MIN_BYTES + n_bytes + GRANULE;

	return (bytes + PAGE_SIZE - PAGE_OVERHEAD_BYTES - 1) / (PAGE_SIZE - PAGE_OVERHEAD_BYTES);
}

static size_t chunk_wanted(size_t footprint, size_t min_pages)
{
	size_t share = footprint < SMALL_HEAP_PAGES ? SMALL_SHARE : GROWTH_SHARE;

	if (min_pages >= max_size(footprint / OWN_CHUNK_SHARE, OWN_CHUNK_PAGES))
		return min_pages;
	return max_size(min_size(max_size(footprint / share, MIN_CHUNK_PAGES), MAX_CHUNK_PAGES), min_pages);
}

static bool chunk_get(const struct kpage_source *source, const struct kpage_request *request, struct kpage_chunk *chunk)
{
	*chunk = (struct kpage_chunk){ 0 };
	if (!source->get || !source->get(source->ctx, request, chunk))
		return false;
	uintptr_t last = chunk->base + (chunk->n_pages << PAGE_SHIFT) - 1;

	if (chunk->n_pages >= request->min_pages && chunk->base % PAGE_SIZE == 0 && last <= request->max_address)
		return true;
	source->put(source->ctx, chunk);
	return false;
}

bool heap_grow(struct kheap *heap, struct growth growth, uintptr_t max_address)
{
	size_t n_pages = growth.n_pages + pages_for(growth.block_bytes);
	struct kpage_request request = { .max_address = max_address };
	struct kpage_chunk chunk;
	kport_lock_state state = heap_lock(heap);

	/* Those that are kept were of no use for this request. */
	spares_trim(heap, heap->counters.footprint_pages / SPARE_GROWTH_SHARE, SIZE_MAX);
	size_t n_table = sections_growth(heap, n_pages);
	size_t footprint = heap->counters.footprint_pages;
	size_t limit = heap->config.limit_bytes ? heap->config.limit_bytes >> PAGE_SHIFT : SIZE_MAX;

	heap_unlock(heap, state);
	if (n_pages > limit)
		return false;
	/* The section table grows on the new pages. */
	request.min_pages = growth.block_bytes && !n_table ? chunk_pages_for_block(growth.block_bytes)
	                                                   : chunk_pages(n_pages + n_table);
	if (footprint >= limit || request.min_pages > limit - footprint || request.min_pages > REGION_PAGES_MAX)
		return false;
	request.want_pages = min_size(chunk_wanted(footprint, request.min_pages), limit - footprint);
	if (!chunk_get(&heap->config.source, &request, &chunk))
		return false;
	size_t n = min_size(chunk.n_pages, limit - footprint);

	state = heap_lock(heap);
	bool added = region_add(heap, &chunk, chunk.base, n << PAGE_SHIFT, true);

	if (added)
		heap->counters.n_grown++;
	heap_unlock(heap, state);
	if (!added)
		heap->config.source.put(heap->config.source.ctx, &chunk);
	return added;
}

/* ---- a heap's life ----------------------------------------------------------------------------------------------- */

static struct kheap *heap_layout(uintptr_t base, size_t n_pages, const struct kheap_config *config,
                                 const struct kpage_chunk *chunk)
{
	static size_t n_made;
	struct kheap *heap = (struct kheap *)base;

	if (n_pages < (KHEAP_MIN_REGION >> PAGE_SHIFT) - 1 || sizeof(*heap) > n_pages << PAGE_SHIFT)
		return NULL;
	fill_words(heap, 0, sizeof(*heap));
	kport_lock_init(&heap->lock);
	if (config)
		heap->config = *config;
	/*
	 * Each heap has its own, lest headers of one that ended be taken for those of the next in the same memory; mixed, so that nearby
	 * ones give unrelated check words (the finalizer of MurmurHash3).
	 */
	heap->secret = heap->config.secret ^ (base + __atomic_fetch_add(&n_made, 1, __ATOMIC_RELAXED));
	heap->secret = (heap->secret ^ heap->secret >> 33) * 0xff51afd7ed558ccdu;
	heap->secret ^= heap->secret >> 33;
	heap->sections = heap->inline_sections;
	heap->section_mask = SECTIONS_INLINE - 1;
	heap->section_shift = SECTION_SHIFT;
	struct region *region = region_layout(base, n_pages, sizeof(*heap), chunk->is_zero);

	if (!region)
		return NULL;
	cache_init(&heap->cache_of_caches, heap, sizeof(struct kcache), GRANULE);
	heap->cache_of_caches.is_internal = true;
	cache_init(&heap->cache_of_clips, heap, sizeof(struct clip) - GUARD_BYTES, sizeof(struct clip));
	heap->cache_of_clips.is_internal = true;
	cpu_init(heap);
	region->is_first = true;
	region->from_source = chunk->n_pages != 0;
	region->chunk = *chunk;
	if (!region_enter(heap, region))
		return NULL;
	window_reset(heap);
	cpu_heap_made(heap);
	return heap;
}

struct kheap *kheap_create(void *memory, size_t size_bytes, const struct kheap_config *config)
{
	struct kpage_chunk chunk = { 0 };
	uintptr_t start = (uintptr_t)memory;
	struct kheap *heap = NULL;
	uintptr_t base;
	size_t n_pages;

	if (!memory) {
		struct kpage_request request = { .min_pages = KHEAP_MIN_REGION >> PAGE_SHIFT,
			                         .max_address = UINTPTR_MAX };

		if (!config || (config->limit_bytes && config->limit_bytes < KHEAP_MIN_REGION))
			return NULL;
		request.want_pages = max_size(size_bytes >> PAGE_SHIFT, FIRST_CHUNK_PAGES);
		if (config->limit_bytes)
			request.want_pages = min_size(request.want_pages, config->limit_bytes >> PAGE_SHIFT);
		if (!chunk_get(&config->source, &request, &chunk))
			return NULL;
		start = chunk.base;
		size_bytes = chunk.n_pages << PAGE_SHIFT;
	}
	if (config && config->limit_bytes)
		size_bytes = min_size(size_bytes, config->limit_bytes);
	if (cut_to_pages(start, size_bytes, &base, &n_pages))
		heap = heap_layout(base, n_pages, config, &chunk);
	if (!heap && chunk.n_pages)
		config->source.put(config->source.ctx, &chunk);
	return heap;
}

void kheap_destroy(struct kheap *heap)
{
	/* The heap lies in its first region, and each region's chunk is noted in the region: read before putting back. */
	struct kpage_source source = heap->config.source;
	struct region *region = heap->regions;
	struct kpage_chunk first = { 0 };

	while (region) {
		struct region *next = region->next;
		struct kpage_chunk chunk = region->chunk;

		if (region->is_first)
			first = chunk;
		else if (region->from_source)
			source.put(source.ctx, &chunk);
		region = next;
	}
	if (first.n_pages)
		source.put(source.ctx, &first);
}
