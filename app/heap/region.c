/* SPDX-License-Identifier: MIT */
/*
 * Regions: where pages come from. A region brings its own descriptors at its front, so growing the heap never needs the heap, and any
 * number of regions of any size may lie anywhere. The section table leads from an address to its region without touching the address.
 *
 * Where the source's next chunk begins where a region ends, the region becomes longer, if its arrays have room for that: then blocks and runs
 * lie across chunks. Such chunks go back one by one, from the end. Some empty chunks are kept, lest they come and go, the rest go back.
 */
#include "small.h"
#include "internal.h"

#define SPARE_SHARE 4          /* empty chunks are kept if all of them are at most a quarter of the heap, */
#define SPARE_MIN_PAGES 64     /* or 256 KiB */
#define SPARE_GROWTH_SHARE 64  /* and while the heap grows, if they are at most so much of it */
#define PROMISED_KEPT_SHARE 64 /* or a 64th of what the source promised to give */
#define SPARES_GIVEN 2         /* so many go back in one call */
#define LEFT_PAGES 8           /* all but so many of a chunk's pages may be descriptors of pages that are to come */

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
	/* For whatever comes next. */
	if (region->is_own)
		heap->n_own_pages -= (uint32_t)region->n_pages;
	region->is_own = false;
	heap->spares = NULL;
	list_add(heap, region);
	heap->spares = spares ? spares : region;
	region->is_spare = true;
	heap->n_spare_pages += region->n_pages;
}

/* Put pages [page, to) of a region, the last n_zero of which are zero, under the bins, or take them out; no free run crosses 4 GiB. */
static void region_runs(struct kheap *heap, struct region *region, size_t page, size_t to, size_t n_zero, bool insert)
{
	while (page < to) {
		size_t end = to;

		if (region->first_page + page < ZONE_PAGE && region->first_page + end > ZONE_PAGE)
			end = ZONE_PAGE - region->first_page;
		if (insert)
			run_insert(heap, region, page, end - page, above(n_zero, to - end));
		else
			run_remove(heap, &region->descs[page]);
		page = end;
	}
}

size_t reserve_of(size_t used, size_t n_pages)
{
	size_t fixed = align_up(used, GRANULE) + REGION_BYTES + 2 * GRANULE;

	return (align_up(fixed + n_pages * RESERVE_PAGE_BYTES, PAGE_SIZE) - fixed) / RESERVE_PAGE_BYTES;
}

size_t capacity_behind(const struct kpage_chunk *chunk, size_t used)
{
	size_t bytes = (chunk->n_pages - min_size(chunk->n_pages, LEFT_PAGES)) << PAGE_SHIFT;

	if (!chunk->is_zero || bytes <= used + REGION_BYTES + PAGE_SIZE)
		return chunk->n_pages;
	bytes -= used + REGION_BYTES + PAGE_SIZE;
	size_t n_pages = min_size(chunk->n_pages + chunk->n_behind, REGION_PAGES_MAX);

	return max_size(chunk->n_pages, min_size(n_pages, bytes / RESERVE_PAGE_BYTES));
}

struct region *region_layout(uintptr_t base, size_t n_pages, size_t capacity, size_t used, bool is_zero)
{
	uintptr_t at = base + align_up(used, GRANULE);
	struct region *region = (struct region *)at;
	struct region made = { .first_page = base >> PAGE_SHIFT,
		               .n_pages = n_pages,
		               .n_described = (uint32_t)n_pages,
		               .capacity = capacity };

	at += REGION_BYTES;
	made.descs = (struct page_desc *)at;
	at += capacity * sizeof(struct page_desc);
	/* The three arrays of what is where lie together. */
	made.starts = (uint32_t *)at;
	made.magazines = (uint8_t *)(made.starts + capacity * PAGE_WORDS);
	made.kinds = made.magazines + capacity * PAGE_CELLS;
	at = align_up(at + capacity * PAGE_MAP_BYTES, GRANULE);
	if (capacity > n_pages) {
		made.chunks = (uint32_t *)at;
		at = align_up(at + capacity * sizeof(uint32_t), GRANULE);
	}
	made.n_overhead = (uint32_t)(align_up(at - base, PAGE_SIZE) >> PAGE_SHIFT);
	size_t rest = base + ((size_t)made.n_overhead << PAGE_SHIFT) - at;

	if (rest >= TAIL_MIN_BYTES)
		made.tail_offset = (uint16_t)(at % PAGE_SIZE);
	if (made.n_overhead > n_pages || (made.n_overhead == n_pages && !made.tail_offset))
		return NULL;
	*region = made;
	if (!is_zero)
		fill_words(region->starts, 0, capacity * PAGE_MAP_BYTES);
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

/* So many more pages, modulo 2 to the word's bits: fewer, too. */
static void count_pages(struct kheap *heap, size_t n_pages, size_t n_overhead)
{
	struct counters *counters = &heap->counters;

	counters->min_free_bytes = (ptrdiff_t)n_pages > 0 ? SIZE_MAX : min_free_now(counters);
	counters->peak_live_bytes = max_size(counters->peak_live_bytes, counters->high_water);
	counters->high_water = counters->live_bytes;
	STORE(counters->footprint_pages, counters->footprint_pages + n_pages);
	heap->is_refused = false;
	counters->overhead_pages += n_overhead;
	counters->peak_footprint_pages = max_size(counters->peak_footprint_pages, counters->footprint_pages);
}

static size_t pages_of_overhead(const struct region *region)
{
	return region->n_overhead - (region->tail_offset ? 1 : 0);
}

bool region_enter(struct kheap *heap, struct region *region)
{
	list_add(heap, region);
	heap->near = region;
	region_runs(heap, region, region->n_overhead, region->n_pages, region->chunk.is_zero ? region->n_pages : 0,
	            true);
	if (!sections_add(heap, region)) {
		region_runs(heap, region, region->n_overhead, region->n_pages, 0, false);
		list_remove(heap, region);
		heap->near = heap->regions;
		return false;
	}
	heap->is_sparse |= region->chunk.is_zero;
	count_pages(heap, region->n_pages, pages_of_overhead(region));
	if (region->capacity > region->n_pages)
		heap->open = region;
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

bool cut_to_pages(uintptr_t start, size_t size, uintptr_t *base, size_t *n_pages)
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

struct region *region_add(struct kheap *heap, const struct kpage_chunk *chunk, uintptr_t start, size_t size,
                          bool from_source, size_t reserve)
{
	uintptr_t base;
	size_t n_pages;

	if (!cut_to_pages(start, size, &base, &n_pages) || overlaps(heap, base >> PAGE_SHIFT, n_pages))
		return NULL;
	if (heap->config.limit_bytes &&
	    heap->counters.footprint_pages + n_pages > heap->config.limit_bytes >> PAGE_SHIFT)
		return NULL;
	size_t capacity = reserve ? reserve_of(0, n_pages + reserve) : n_pages;
	struct region *region = region_layout(base, n_pages, capacity, 0, chunk->is_zero);

	if (!region)
		return NULL;
	region->chunk = *chunk;
	region->from_source = from_source;
	return region_enter(heap, region) ? region : NULL;
}

bool kheap_add_region(struct kheap *heap, void *memory, size_t size_bytes)
{
	const struct kpage_chunk none = { 0 };
	kport_lock_state state = heap_lock(heap);
	struct region *region = region_add(heap, &none, (uintptr_t)memory, size_bytes, false, 0);

	if (region)
		window_note(heap, region);
	heap_unlock(heap, state);
	return region != NULL;
}

/* Take an empty region out of every list. Its section table must be elsewhere. */
static bool region_detach(struct kheap *heap, struct region *region)
{
	if (!area_tail_retire(heap, region))
		return false;
	region_runs(heap, region, region->n_overhead, region->n_pages, 0, false);
	sections_remove(heap, region);
	if (region->is_spare)
		spare_forget(heap, region);
	list_remove(heap, region);
	count_pages(heap, 0 - region->n_pages, 0 - pages_of_overhead(region));
	if (heap->open == region)
		heap->open = NULL;
	if (region->is_own)
		heap->n_own_pages -= (uint32_t)region->n_pages;
	if (heap->window.region == region)
		window_set(heap, heap->regions);
	else
		window_note(heap, heap->regions);
	if (heap->near == region)
		heap->near = heap->regions;
	if (region->from_source) {
		region->next = heap->detached;
		heap->detached = region;
		heap->counters.n_shrunk += 1 + region->n_chunks;
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

/* Of the one used longest ago and the last but one the larger goes back, until the others have at most so many pages, or n have gone. */
static void spares_trim(struct kheap *heap, size_t n_pages, size_t n)
{
	for (; n && heap->n_spare_pages > n_pages; n--) {
		struct region *late = heap->last_region->prev;
		struct region *region = late->is_spare && late->n_pages > heap->spares->n_pages ? late : heap->spares;

		/* What is left of its descriptors' last page may have come into use. */
		if (!spare_give(heap, region))
			spare_forget(heap, region);
	}
}

void spares_trim_for_growth(struct kheap *heap)
{
	spares_trim(heap, heap->counters.footprint_pages / SPARE_GROWTH_SHARE, SIZE_MAX);
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

static bool region_cut(struct kheap *heap, struct region *region, size_t most_free, size_t n);
static size_t kept_at_end(const struct kheap *heap, const struct region *region);

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
	for (struct region *region = heap->regions; region; region = region->next)
		(void)region_cut(heap, region, kept_at_end(heap, region), SIZE_MAX);
}

/* ---- regions that chunks are added to ------------------------------------------------------------------------------ */

size_t free_at_end(const struct region *region)
{
	enum page_kind kind = page_kind_of(region, region->n_pages - 1);

	return kind == PAGE_FREE || kind == PAGE_FREE_TAIL ? region->descs[region->n_pages - 1].n_pages : 0;
}

/*
 * What others know of its length, which was n pages, and what the heap counts. Who reads the window without the lock may see the old one: nothing
 * starts in what came or went.
 */
static bool region_resized(struct kheap *heap, struct region *region, size_t n_pages)
{
	if (!sections_resize(heap, region, n_pages))
		return false;
	count_pages(heap, region->n_pages - n_pages, 0);
	if (region->is_own)
		heap->n_own_pages += (uint32_t)(region->n_pages - n_pages);
	window_note(heap, region);
	return true;
}

bool region_lengthen(struct kheap *heap, struct region *region, size_t n_pages)
{
	size_t end = region->n_pages, first = end - free_at_end(region);
	size_t n_stale = min_size(n_pages, region->n_described - end);

	if (region->is_spare)
		spare_forget(heap, region);
	fill_words(&region->starts[end * PAGE_WORDS], 0, n_stale * PAGE_WORDS * sizeof(uint32_t));
	fill_words(&region->magazines[end * PAGE_CELLS], 0, n_stale * PAGE_CELLS);
	for (size_t i = end; i < end + n_stale; i++)
		page_kind_set(region, i, 0);
	region->n_described = (uint32_t)max_size(region->n_described, end + n_pages);
	region->chunks[region->n_chunks++] = (uint32_t)n_pages;
	STORE(region->n_pages, end + n_pages);
	size_t n_zero = 0;

	if (first < end && may_join(region, end))
		n_zero = run_remove(heap, &region->descs[first]);
	else
		first = end;
	region_runs(heap, region, first, region->n_pages, region->chunk.is_zero ? n_pages + n_zero : 0, true);
	if (!region_resized(heap, region, end)) {
		region_runs(heap, region, first, region->n_pages, 0, false);
		STORE(region->n_pages, end);
		region->n_chunks--;
		if (first < end)
			region_runs(heap, region, first, end, n_zero, true);
		return false;
	}
	return true;
}

/* The last chunk that was added is free: it goes back. */
static void region_cut_last(struct kheap *heap, struct region *region)
{
	size_t n_pages = region->chunks[--region->n_chunks];
	size_t n_free = free_at_end(region), first = region->n_pages - n_free;

	size_t n_zero = run_remove(heap, &region->descs[first]);

	if (n_free > n_pages)
		run_insert(heap, region, first, n_free - n_pages, above(n_zero, n_pages));
	STORE(region->n_pages, region->n_pages - n_pages);
	if (region->is_spare)
		heap->n_spare_pages -= n_pages;
	(void)region_resized(heap, region, region->n_pages + n_pages);
	/* Now it may become longer again. */
	region->is_closed = false;
	if (!heap->open)
		heap->open = region;
	heap->counters.n_shrunk++;
	/* Until it is put back, what is to be known of it stands in it. */
	struct region *gone = (struct region *)page_address(region, region->n_pages);

	*gone = (struct region){
		.n_pages = n_pages,
		.chunk = { .base = (uintptr_t)gone, .n_pages = n_pages, .is_zero = region->chunk.is_zero },
		.next = heap->detached,
	};
	heap->detached = gone;
}

/* The same until as many pages are left free there, or n chunks have gone; true if any did. */
static bool region_cut(struct kheap *heap, struct region *region, size_t most_free, size_t n)
{
	bool any = false;

	for (; n && region->n_chunks; n--) {
		size_t n_free = free_at_end(region);

		if (n_free < region->chunks[region->n_chunks - 1] || n_free <= most_free)
			break;
		region_cut_last(heap, region);
		any = true;
	}
	return any;
}

/* So many pages may be free at its end. Where the source promised some they cost nothing new, and whoever made it can look for those that are idle. */
static size_t kept_at_end(const struct kheap *heap, const struct region *region)
{
	return max_size(spares_most(heap), region->is_first ? region->chunk.n_behind / PROMISED_KEPT_SHARE : 0);
}

void region_shorten(struct kheap *heap, struct region *region)
{
	if (!heap->is_draining)
		(void)region_cut(heap, region, kept_at_end(heap, region), SPARES_GIVEN);
}

void region_put(const struct kpage_source *source, const struct region *region)
{
	struct kpage_chunk first = region->chunk;
	uintptr_t end = page_address(region, region->n_pages);

	/* The region lies in the first one. */
	for (uint32_t n = region->n_chunks; n--;) {
		struct kpage_chunk chunk = { .n_pages = region->chunks[n], .is_zero = first.is_zero };

		end -= chunk.n_pages << PAGE_SHIFT;
		chunk.base = end;
		source->put(source->ctx, &chunk);
	}
	source->put(source->ctx, &first);
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
	region_runs(heap, region, region->n_overhead, page, 0, false);
	region_runs(heap, region, end, region->n_pages, 0, false);
	bool moved = sections_move(heap, NULL, heap->n_sections);

	if (moved) {
		/* If it was kept for readers: there are none where this is called. */
		old_sections_free(heap);
		run_remove(heap, &region->descs[page]);
		region_runs(heap, region, region->n_overhead, region->n_pages, 0, true);
	} else {
		region_runs(heap, region, region->n_overhead, page, 0, true);
		region_runs(heap, region, end, region->n_pages, 0, true);
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
		else
			any |= region_cut(heap, region, 0, SIZE_MAX);
	}
	return any;
}

size_t kheap_trim(struct kheap *heap)
{
	size_t before = LOAD(heap->counters.footprint_pages), after;

	cpu_release(heap, 0);
	kport_lock_state state = heap_lock(heap);

	cpu_reset(heap);
	heap_drain(heap);
	while (regions_trim(heap))
		; /* The section table may have moved into a spare, and that in the list. */
	after = heap->counters.footprint_pages;
	heap_unlock(heap, state);
	/* It may have grown for others. */
	return above(before, after) << PAGE_SHIFT;
}

bool kheap_region(struct kheap *heap, size_t index, struct kpage_chunk *chunk)
{
	kport_lock_state state = heap_lock(heap);
	struct region *region = heap->regions;

	while (region && index--)
		region = region->next;
	if (region) {
		*chunk = (struct kpage_chunk){ .base = region->first_page << PAGE_SHIFT, .n_pages = region->n_pages };
	}
	heap_unlock(heap, state);
	return region != NULL;
}
