/* SPDX-License-Identifier: MIT */
/*
 * The checker: every invariant of every storey, each with a name of its own (enum kheap_fault_class). Reads only, follows no link that it
 * has not looked up first, and ends on any heap, however damaged. What can be told from one page is checked page by page, so that
 * kheap_check_step can do it in steps; what holds for the whole heap is checked by kheap_check on top.
 */
#include "small.h"
#include "internal.h"

struct check {
	struct kheap *heap;
	bool is_step; /* a bounded look: runs are looked at page by page */
	struct kheap_fault first;
	size_t n_faults;
	/* Sums over what was seen, to be compared with the heap's own. */
	size_t live_bytes, live_objects;
	size_t free_blocks, free_block_bytes, block_pages;
	size_t free_runs, free_run_pages;
	size_t free_slab_bytes, cached_pages;
	size_t busy_pages; /* of the region */
	size_t n_slabs[SLAB_CLASSES], n_listed[SLAB_CLASSES];
	size_t n_in_blocks[SLAB_CLASSES];
};

/* Not an initializer: for a struct of this size a compiler would call memset. */
static void check_begin(struct check *check, struct kheap *heap)
{
	fill_words(check, 0, sizeof(*check));
	check->heap = heap;
}

static void fault(struct check *check, enum kheap_fault_class fault_class, uintptr_t address)
{
	if (check->n_faults++ == 0)
		check->first = (struct kheap_fault){ .fault_class = fault_class, .address = address };
}

static void tally_live(struct check *check, uintptr_t object, size_t slot, bool canary)
{
	uintptr_t damage = 0;
	size_t usable = canary ? guard_read(check->heap, object, slot, &damage) : slot;

	if (damage)
		fault(check, KHEAP_FAULT_CANARY, damage);
	check->live_objects++;
	check->live_bytes += usable;
}

static void check_poison(struct check *check, uintptr_t start, size_t n_bytes)
{
#if HARDENED
	uintptr_t damage = guard_scan(start, n_bytes);

	if (damage)
		fault(check, KHEAP_FAULT_POISON, damage);
#else
	(void)check, (void)start, (void)n_bytes;
#endif
}

/* ---- starts ----------------------------------------------------------------------------------------------------------- */

/* Objects start in these pages in so many places, but for those of the first word that are masked out; where, whoever asks has looked at. */
static void check_starts_but(struct check *check, const struct region *region, size_t page, size_t n_pages,
                             size_t expected, uint32_t but)
{
	const uint32_t *words = page_starts(region, page);
	size_t n = 0;

	for (size_t i = 0; i < n_pages * PAGE_WORDS; i++, but = 0)
		for (uint32_t bits = LOAD(words[i]) & ~but; bits; bits &= bits - 1)
			n++;
	if (n != expected)
		fault(check, KHEAP_FAULT_STARTS, page_address(region, page));
}

static void check_starts(struct check *check, const struct region *region, size_t page, size_t n_pages, size_t expected)
{
	check_starts_but(check, region, page, n_pages, expected, 0);
}

/* A run's start comes and goes without the lock, after its kind, when another CPU caches it. */
static void check_run_starts(struct check *check, const struct region *region, size_t page, size_t n_pages,
                             enum page_kind kind)
{
	if (KPORT_CPUS > 1 && (kind == PAGE_RUN || kind == PAGE_RUN_CACHED))
		check_starts_but(check, region, page, n_pages, 0, 1);
	else
		check_starts(check, region, page, n_pages, kind == PAGE_RUN);
}

/* What starts in these pages is for no magazine. */
static void check_no_magazines(struct check *check, const struct region *region, size_t page, size_t n_pages)
{
	for (size_t i = page * PAGE_CELLS; i < (page + n_pages) * PAGE_CELLS; i++) {
		if (region->magazines[i])
			fault(check, KHEAP_FAULT_STARTS, page_address(region, 0) + i * CELL_BYTES);
	}
}

/* ---- slabs ------------------------------------------------------------------------------------------------------------ */

static void check_slab_list(struct check *check, const struct region *region, size_t page, unsigned class_index)
{
	const struct page_desc *desc = &region->descs[page];
	const struct cpu_cache *owner = desc->owner < KPORT_CPUS ? cache_of(check->heap, desc->owner) : NULL;

	check->n_slabs[class_index]++;
	if (check->heap->slabs[class_index].empty == desc) {
		check->cached_pages++;
		return;
	}
	if (!desc->n_free) {
		if (owner && owner->partial[class_index] == desc)
			fault(check, KHEAP_FAULT_SLAB_LIST, page_address(region, page));
		return;
	}
	check->n_listed[class_index]++;
	if (!owner || (desc->prev ? desc->prev->next : owner->partial[class_index]) != desc ||
	    (desc->next && desc->next->prev != desc))
		fault(check, KHEAP_FAULT_SLAB_LIST, page_address(region, page));
}

static void check_slab(struct check *check, const struct region *region, size_t page)
{
	unsigned class_index = (unsigned)(page_kind_of(region, page) - PAGE_SLAB);
	const struct page_desc *desc = &region->descs[page];
	uintptr_t base = page_address(region, page);

	if (class_index >= SLAB_CLASSES) {
		fault(check, KHEAP_FAULT_PAGE_KIND, base);
		return;
	}
	size_t size = slab_object_size(class_index), n_before = slab_objects(class_index) - desc->n_free;
	size_t n_free = 0;

	for (size_t i = 0; i < PAGE_WORDS; i++) {
		if (page_starts(region, page)[i] & ~slab_starts(class_index, i))
			fault(check, KHEAP_FAULT_STARTS, base);
	}
	for (uintptr_t cell = base; cell < base + PAGE_SIZE; cell += CELL_BYTES) {
		if (*magazine_byte(region, cell) != MAGAZINE_SLAB + class_index)
			fault(check, KHEAP_FAULT_STARTS, cell);
	}
	for (uintptr_t object = base; object + size <= base + PAGE_SIZE; object += size) {
		if (is_start(region, object)) {
			tally_live(check, object, size, true);
			continue;
		}
		n_free++;
		check_poison(check, object, size);
		if (desc->hint == HINT_FRESH ? object < base + n_before * size
		                             : object % PAGE_SIZE / (WORD_GRANULES * GRANULE) < desc->hint)
			fault(check, KHEAP_FAULT_SLAB_COUNT, base);
	}
	check->free_slab_bytes += n_free * size;
	if (n_free != desc->n_free)
		fault(check, KHEAP_FAULT_SLAB_COUNT, base);
	check_slab_list(check, region, page, class_index);
}

static size_t check_cache(struct check *check, const struct region *region, size_t page)
{
	const struct page_desc *desc = &region->descs[page];
	const struct kcache *cache = desc->cache;
	const struct kcache *known = check->heap->caches;
	uintptr_t base = page_address(region, page);

	while (known && known != cache)
		known = known->next;
	if (!known) {
		fault(check, KHEAP_FAULT_PAGE_KIND, base);
		return 1;
	}
	size_t n_free = 0;

	for (size_t i = 0; i < cache->objects_per_slab; i++) {
		uintptr_t object = base + i * cache->object_size;

		if (is_start(region, object)) {
			/* The heap's own clips are not counted; a struct kcache is its user's. */
			if (cache != &check->heap->cache_of_clips)
				tally_live(check, object, cache->object_size, true);
		} else {
			check->free_slab_bytes += cache->object_size;
			n_free++;
			if (i < desc->hint)
				fault(check, KHEAP_FAULT_SLAB_COUNT, base);
			if (!cache->is_internal)
				check_poison(check, object, cache->object_size);
		}
	}
	if (n_free != desc->n_free)
		fault(check, KHEAP_FAULT_SLAB_COUNT, base);
	check_starts(check, region, page, cache->pages_per_slab, cache->objects_per_slab - n_free);
	check_no_magazines(check, region, page, cache->pages_per_slab);
	if (cache->spare == desc)
		check->cached_pages += cache->pages_per_slab;
	for (size_t i = 1; i < cache->pages_per_slab; i++) {
		if (page_kind_of(region, page + i) != PAGE_CACHE_BODY || desc[i].n_back != i)
			fault(check, KHEAP_FAULT_PAGE_KIND, page_address(region, page + i));
	}
	return cache->pages_per_slab;
}

/* ---- blocks ----------------------------------------------------------------------------------------------------------- */

static void check_free_block(struct check *check, struct block *block)
{
	struct kheap *heap = check->heap;
	size_t size = block_size(block);
	check->free_blocks++;
	check->free_block_bytes += size;
	if (*block_footer(block) != size)
		fault(check, KHEAP_FAULT_BLOCK_PREVIOUS, (uintptr_t)block);
	size_t links = block == heap->victim ? 0 : LINKS_BYTES;

	check_poison(check, block_payload(block) + links, size - BLOCK_HEADER - links - BLOCK_FOOTER);
	if (block == heap->victim)
		return;
	bool next_ok = !block->next || (block_is_free(heap, block->next) && block->next->prev == block);
	bool prev_ok = block->prev ? block_is_free(heap, block->prev) && block->prev->next == block
	                           : heap->blocks.heads[block_bin_of(size)] == block || heap->victim == block;

	if (!next_ok || !prev_ok)
		fault(check, KHEAP_FAULT_BLOCK_LIST, (uintptr_t)block);
}

static void check_used_block(struct check *check, const struct region *region, struct block *block)
{
	unsigned magazine = *magazine_byte(region, block_payload(block)), label = block_label(block);
	unsigned class_index = label_slab_class(label);
	bool is_right = !magazine || magazine - MAGAZINE_BLOCK == label - LABEL_SIZED ||
	                magazine - MAGAZINE_SLAB == label - LABEL_SLAB_SIZED ||
	                (magazine == MAGAZINE_LARGE && block_size(block) > BLOCK_CLASS_MAX);

	tally_live(check, block_payload(block), block_size(block) - BLOCK_HEADER, true);
	if (class_index != SLAB_NO_CLASS)
		check->n_in_blocks[class_index]++;
	if (!is_start(region, block_payload(block)) || !is_right)
		fault(check, KHEAP_FAULT_STARTS, block_payload(block));
}

/* From header to header; the first that fails ends it, because nothing behind it can be found. */
static size_t check_area(struct check *check, const struct region *region, size_t page)
{
	struct kheap *heap = check->heap;
	size_t n_pages = region->descs[page].n_pages;

	if (n_pages == 0 || n_pages > AREA_MAX_PAGES || page + n_pages > region->n_pages ||
	    region->descs[page + n_pages - 1].n_pages != n_pages) {
		fault(check, KHEAP_FAULT_PAGE_KIND, page_address(region, page));
		return 1;
	}
	struct block *end = block_at(page_address(region, page + n_pages) - BLOCK_HEADER);
	struct block *block = area_first(region, page);
	uint32_t expected = BLOCK_FIRST;
	size_t n_used = 0;

	check->block_pages += n_pages;
	for (size_t i = 1; i < n_pages; i++) {
		if (page_kind_of(region, page + i) != PAGE_BLOCK)
			fault(check, KHEAP_FAULT_PAGE_KIND, page_address(region, page + i));
	}
	for (;; block = block_next(block)) {
		if (!block_tag_holds(heap, block)) {
			fault(check, KHEAP_FAULT_BLOCK_TAG, (uintptr_t)block);
			return n_pages;
		}
		if ((block->size_flags & BLOCK_PREV_FREE) != (expected & BLOCK_PREV_FREE))
			fault(check, KHEAP_FAULT_BLOCK_PREVIOUS, (uintptr_t)block);
		if (block == end)
			break;
		if (block_size(block) < BLOCK_MIN || block_size(block) > (uintptr_t)end - (uintptr_t)block ||
		    (block->size_flags & BLOCK_FIRST) != (expected & BLOCK_FIRST)) {
			fault(check, KHEAP_FAULT_BLOCK_SIZE, (uintptr_t)block);
			return n_pages;
		}
		if (block->size_flags & BLOCK_USED) {
			check_used_block(check, region, block);
			n_used++;
			expected = 0;
			continue;
		}
		if (expected & BLOCK_PREV_FREE)
			fault(check, KHEAP_FAULT_BLOCK_UNMERGED, (uintptr_t)block);
		check_free_block(check, block);
		if (block == heap->empty_area)
			check->cached_pages += n_pages;
		expected = BLOCK_PREV_FREE;
	}
	check_starts(check, region, page, n_pages, n_used);
	return n_pages;
}

/* Lists as the bins see them: as many blocks as were seen free, each in its own bin, and a bit for every list. */
static void check_block_bins(struct check *check)
{
	struct kheap *heap = check->heap;
	struct block_bins *bins = &heap->blocks;
	size_t listed = heap->victim != NULL;

	for (unsigned bin = 0; bin < BLOCK_BINS; bin++) {
		struct block *block = bins->heads[bin];

		if ((bins->bits[bin / 64] >> bin % 64 & 1) != (block != NULL))
			fault(check, KHEAP_FAULT_BLOCK_BITMAP, (uintptr_t)&bins->bits[bin / 64]);
		for (; block && listed <= check->free_blocks; block = block->next, listed++) {
			if (!block_is_free(heap, block)) {
				fault(check, KHEAP_FAULT_BLOCK_LIST, (uintptr_t)block);
				break;
			}
			if (block_bin_of(block_size(block)) != bin)
				fault(check, KHEAP_FAULT_BLOCK_LIST, (uintptr_t)block);
		}
	}
	if (listed != check->free_blocks)
		fault(check, KHEAP_FAULT_BLOCK_LIST, 0);
}

/* ---- runs --------------------------------------------------------------------------------------------------------------- */

static void check_free_run(struct check *check, const struct region *region, size_t page, size_t n_pages)
{
	const struct page_desc *desc = &region->descs[page];
	size_t end = page + n_pages;
	unsigned bin = run_bin_of(n_pages);

	check->free_runs++;
	check->free_run_pages += n_pages;
	if (n_pages > 1 &&
	    (page_kind_of(region, end - 1) != PAGE_FREE_TAIL || region->descs[end - 1].n_pages != n_pages))
		fault(check, KHEAP_FAULT_RUN_TAIL, page_address(region, end - 1));
	if (end < region->n_pages && page_kind_of(region, end) == PAGE_FREE && region->first_page + end != ZONE_PAGE)
		fault(check, KHEAP_FAULT_RUN_UNMERGED, page_address(region, end));
	if (region->first_page + page < ZONE_PAGE && region->first_page + end > ZONE_PAGE)
		fault(check, KHEAP_FAULT_RUN_BOUNDS, page_address(region, page));
	const struct run_bins *bins = &check->heap->runs[page_zone(region->first_page + page)];

	if ((desc->prev ? desc->prev->next : bins->heads[bin]) != desc || (desc->next && desc->next->prev != desc))
		fault(check, KHEAP_FAULT_RUN_LIST, page_address(region, page));
}

static size_t check_run(struct check *check, const struct region *region, size_t page, enum page_kind kind)
{
	size_t n_pages = region->descs[page].n_pages;

	if (n_pages == 0 || n_pages > region->n_pages - page) {
		fault(check, KHEAP_FAULT_RUN_BOUNDS, page_address(region, page));
		return 1;
	}
	for (size_t i = 1; i + (kind == PAGE_FREE) < n_pages && !check->is_step; i++) {
		if (page_kind_of(region, page + i) != PAGE_BODY)
			fault(check, KHEAP_FAULT_PAGE_KIND, page_address(region, page + i));
	}
	check_run_starts(check, region, page, check->is_step ? 1 : n_pages, kind);
	check_no_magazines(check, region, page, check->is_step ? 1 : n_pages);
	if (kind == PAGE_FREE)
		check_free_run(check, region, page, n_pages);
	if (kind == PAGE_RUN || kind == PAGE_RUN_CACHED)
		tally_live(check, page_address(region, page), n_pages << PAGE_SHIFT, !region->descs[page].is_bare);
	return n_pages;
}

static void check_run_bins(struct check *check)
{
	size_t listed = 0;

	for (unsigned zone = 0; zone < N_ZONES; zone++) {
		struct run_bins *bins = &check->heap->runs[zone];

		for (unsigned bin = 0; bin < RUN_BINS; bin++) {
			const struct page_desc *desc = bins->heads[bin];

			if ((bins->bits >> bin & 1) != (desc != NULL))
				fault(check, KHEAP_FAULT_RUN_BITMAP, (uintptr_t)&bins->bits);
			for (; desc && listed <= check->free_runs; desc = desc->next, listed++) {
				if (run_bin_of(desc->n_pages) != bin)
					fault(check, KHEAP_FAULT_RUN_LIST, desc_address(desc));
			}
		}
	}
	if (listed != check->free_runs)
		fault(check, KHEAP_FAULT_RUN_LIST, 0);
}

/* ---- regions, and all of it --------------------------------------------------------------------------------------------- */

static void check_free_page(struct check *check, const struct region *region, size_t page)
{
	if (page_kind_byte(region, page) & PAGE_POISONED)
		check_poison(check, page_address(region, page), PAGE_SIZE);
}

/* Whatever begins with this page; how many pages it has. */
static size_t check_page(struct check *check, const struct region *region, size_t page)
{
	enum page_kind kind = page_kind_of(region, page);
	size_t n_pages;

	if (page < region->n_overhead && kind == PAGE_OVERHEAD)
		return 1;
	if (is_slab(kind)) {
		check_slab(check, region, page);
		check->busy_pages++;
		return 1;
	}
	switch (kind) {
	case PAGE_BLOCK_HEAD:
		n_pages = check_area(check, region, page);
		check->busy_pages += n_pages - (page < region->n_overhead);
		return n_pages;
	case PAGE_CACHE:
		n_pages = check_cache(check, region, page);
		check->busy_pages += n_pages;
		return n_pages;
	case PAGE_FREE:
		return check_run(check, region, page, kind);
	case PAGE_RUN:
	case PAGE_RUN_CACHED:
	case PAGE_OVERHEAD:
		n_pages = check_run(check, region, page, kind);
		check->busy_pages += n_pages;
		return n_pages;
	default:
		fault(check, KHEAP_FAULT_PAGE_KIND, page_address(region, page));
		return 1;
	}
}

static void check_sections(struct check *check)
{
	const struct kheap *heap = check->heap;
	size_t expected = 0, seen = 0;

	for (const struct region *region = heap->regions; region; region = region->next) {
		uintptr_t end = region->first_page + region->n_pages;
		unsigned shift = sections_shift(region);
		uintptr_t section_pages = (uintptr_t)1 << (shift - PAGE_SHIFT);

		for (uintptr_t page = region->first_page, next; page < end; page = next) {
			next = min_size(align_down(page, section_pages) + section_pages, end);
			const struct section *first = section_at(heap, page << PAGE_SHIFT);
			const struct section *last = section_at(heap, (next << PAGE_SHIFT) - 1);

			expected++;
			if (!first || first->region != region || !last || last->region != region)
				fault(check, KHEAP_FAULT_SECTION_TABLE, page << PAGE_SHIFT);
		}
	}
	for (size_t i = 0; i < heap->section_mask + SECTION_PAIR; i++)
		seen += heap->sections[i].region != NULL;
	if (seen != heap->n_sections_used || expected != heap->n_sections || heap->n_sections > seen)
		fault(check, KHEAP_FAULT_SECTION_TABLE, (uintptr_t)heap->sections);
}

static void check_counters(struct check *check)
{
	const struct counters *counters = &check->heap->counters;
	bool ok = check->live_bytes == counters->live_bytes && check->live_objects == counters->live_objects &&
	          check->free_run_pages == counters->free_run_pages &&
	          check->free_block_bytes == counters->free_block_bytes &&
	          check->free_slab_bytes == counters->free_slab_bytes && check->block_pages == counters->block_pages;

	for (unsigned i = 0; i < SLAB_CLASSES; i++) {
		const struct slab_class *class = &check->heap->slabs[i];

		if (slabs_listed(check->heap, i, check->n_listed[i]) != check->n_listed[i])
			fault(check, KHEAP_FAULT_SLAB_LIST, 0);
		ok = ok && class->n_slabs == check->n_slabs[i] && class->n_in_blocks == check->n_in_blocks[i];
	}
	if (!ok)
		fault(check, KHEAP_FAULT_COUNTERS, 0);
}

size_t check_heap(struct kheap *heap, struct kheap_fault *first)
{
	struct check check;
	size_t footprint = 0;

	check_begin(&check, heap);
	check_sections(&check);
	for (const struct region *region = heap->regions; region; region = region->next) {
		check.busy_pages = 0;
		check.cached_pages = 0;
		footprint += region->n_pages;
		for (size_t page = 0; page < region->n_pages;)
			page += check_page(&check, region, page);
		for (size_t page = 0; page < region->n_pages && HARDENED; page++)
			check_free_page(&check, region, page);
		if (check.busy_pages != region->n_busy || check.cached_pages != region->n_cached)
			fault(&check, KHEAP_FAULT_COUNTERS, page_address(region, 0));
	}
	if (footprint != heap->counters.footprint_pages)
		fault(&check, KHEAP_FAULT_COUNTERS, 0);
	check_block_bins(&check);
	check_run_bins(&check);
	check_counters(&check);
	if (first)
		*first = check.first;
	return check.n_faults;
}

size_t kheap_check(struct kheap *heap, struct kheap_fault *first)
{
	kport_lock_state state = heap_lock(heap);
	size_t n_faults = check_heap(heap, first);

	heap_unlock(heap, state);
	return n_faults;
}

/* The region and page that are `cursor` pages on from the heap's first; false: past the last. */
static bool cursor_find(const struct kheap *heap, size_t cursor, struct region **region, size_t *page)
{
	for (*region = heap->regions; *region; *region = (*region)->next) {
		if (cursor < (*region)->n_pages) {
			*page = cursor;
			return true;
		}
		cursor -= (*region)->n_pages;
	}
	return false;
}

/* The page at the cursor, or all of the area or slab it is in; how many pages on the next one is. */
static size_t check_at(struct check *check, const struct region *region, size_t page)
{
	enum page_kind kind = page_kind_of(region, page);
	size_t start = kind == PAGE_BLOCK ? area_head(region, page) : page;
	size_t end = page + 1;

	check_free_page(check, region, page);
	/* The inside of a run says nothing; its first page was, or will be, looked at. */
	if (kind == PAGE_BODY || kind == PAGE_FREE_TAIL || kind == PAGE_CACHE_BODY)
		return 1;
	end = max_size(end, start + check_page(check, region, start));
	return kind == PAGE_FREE || kind == PAGE_RUN || kind == PAGE_RUN_CACHED || kind == PAGE_OVERHEAD ? 1
	                                                                                                 : end - page;
}

size_t kheap_check_step(struct kheap *heap, size_t *cursor, size_t n_pages, struct kheap_fault *first)
{
	struct check check;
	struct region *region;
	size_t page = 0;
	kport_lock_state state = heap_lock(heap);

	check_begin(&check, heap);
	check.is_step = true;
	if (!cursor_find(heap, *cursor, &region, &page))
		*cursor = 0;
	while (region && n_pages) {
		size_t done = min_size(check_at(&check, region, page), region->n_pages - page);

		*cursor += done;
		page += done;
		n_pages -= min_size(done, n_pages);
		if (page < region->n_pages)
			continue;
		region = region->next;
		page = 0;
		if (!region)
			*cursor = 0;
	}
	heap_unlock(heap, state);
	if (first)
		*first = check.first;
	return check.n_faults;
}

/* ---- names --------------------------------------------------------------------------------------------------------------- */

static const char *const fault_names[KHEAP_N_FAULT_CLASSES] = {
	[KHEAP_FAULT_NONE] = "no fault",
	[KHEAP_FAULT_BLOCK_TAG] = "block tag",
	[KHEAP_FAULT_BLOCK_SIZE] = "block size",
	[KHEAP_FAULT_BLOCK_PREVIOUS] = "block and the one before it disagree",
	[KHEAP_FAULT_BLOCK_UNMERGED] = "free blocks not merged",
	[KHEAP_FAULT_BLOCK_LIST] = "block list",
	[KHEAP_FAULT_BLOCK_BITMAP] = "block bitmap",
	[KHEAP_FAULT_STARTS] = "starts of objects",
	[KHEAP_FAULT_SLAB_COUNT] = "free objects of a slab",
	[KHEAP_FAULT_SLAB_LIST] = "slab list",
	[KHEAP_FAULT_RUN_BOUNDS] = "run bounds",
	[KHEAP_FAULT_RUN_TAIL] = "run tail",
	[KHEAP_FAULT_RUN_UNMERGED] = "free runs not merged",
	[KHEAP_FAULT_RUN_LIST] = "run list",
	[KHEAP_FAULT_RUN_BITMAP] = "run bitmap",
	[KHEAP_FAULT_PAGE_KIND] = "page kind",
	[KHEAP_FAULT_SECTION_TABLE] = "section table",
	[KHEAP_FAULT_COUNTERS] = "counters",
	[KHEAP_FAULT_CANARY] = "canary",
	[KHEAP_FAULT_POISON] = "poison",
};

const char *kheap_fault_name(enum kheap_fault_class fault_class)
{
	return fault_class < KHEAP_N_FAULT_CLASSES ? fault_names[fault_class] : "unknown fault";
}
