/* SPDX-License-Identifier: MIT */
/*
 * The section table: from an address to its region, without touching the address. A hash table that grows, and is rebuilt when too much
 * of it was deleted. Readers without the lock (fast.h) see its sequence number change and look again. And the window: a region that is looked at
 * before the table.
 */
#include "small.h"
#include "internal.h"

/* Sections that its first n pages have a part of. */
static size_t sections_of_pages(const struct region *region, size_t n_pages)
{
	unsigned shift = sections_shift(region) - PAGE_SHIFT;

	return ((region->first_page + n_pages - 1) >> shift) - (region->first_page >> shift) + 1;
}

static size_t n_sections_of(const struct region *region)
{
	return sections_of_pages(region, region->n_pages);
}

/* The entry of its n-th section: all of the region up to that section's end, so that a region that changes its length changes few entries. */
static struct section section_of(struct region *region, size_t n)
{
	unsigned shift = sections_shift(region) - PAGE_SHIFT;
	uintptr_t end = ((region->first_page >> shift) + n + 1) << shift;

	return (struct section){ region->first_page * PAGE_GRANULES,
		                 min_size(region->n_pages, end - region->first_page) * PAGE_GRANULES, region->starts,
		                 region };
}

/* Where the entries of its n-th section are looked for. */
static size_t place_in_table(const struct kheap *heap, const struct region *region, size_t n)
{
	unsigned shift = sections_shift(region);

	return section_place((region->first_page << PAGE_SHIFT) + (n << shift), shift, heap->section_mask);
}

/* A large region came or goes, or a part of it. */
static void note_large(struct kheap *heap, const struct region *region, size_t n_pages)
{
	if (is_large(region))
		heap->n_large_pages += n_pages;
	STORE(heap->section_shift, heap->n_large_pages > (heap->counters.footprint_pages + n_pages) / 2
	                                   ? LARGE_SECTION_SHIFT
	                                   : SECTION_SHIFT);
}

/* Between these two, readers without the lock look again. */
static void sections_begin(struct kheap *heap)
{
	__atomic_store_n(&heap->sections_sequence, heap->sections_sequence + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
}

static void sections_end(struct kheap *heap)
{
	__atomic_store_n(&heap->sections_sequence, heap->sections_sequence + 1, __ATOMIC_RELEASE);
}

static void section_set(struct section *section, struct section value)
{
	STORE(section->first_granule, value.first_granule);
	STORE(section->n_granules, value.n_granules);
	STORE(section->starts, value.starts);
	STORE(section->region, value.region);
}

/* The region's sections from this one on, up to the one before `end`. */
static void insert(struct kheap *heap, struct region *region, size_t n, size_t end)
{
	for (; n < end; n++) {
		size_t i = place_in_table(heap, region, n);

		while (heap->sections[i].region && heap->sections[i].n_granules)
			i = section_next(i, heap->section_mask);
		if (!heap->sections[i].region)
			heap->n_sections_used++;
		section_set(&heap->sections[i], section_of(region, n));
		heap->n_sections++;
	}
}

/* Is this the entry of the region's section with this number? The last granule that it has tells. */
static bool is_entry_of(const struct section *section, const struct region *region, uintptr_t number)
{
	return section->region == region && section->n_granules &&
	       (section->first_granule + section->n_granules - 1) >> (sections_shift(region) - GRANULE_SHIFT) == number;
}

static struct section *entry_of(struct kheap *heap, const struct region *region, size_t n)
{
	uintptr_t number = (region->first_page >> (sections_shift(region) - PAGE_SHIFT)) + n;
	size_t i = place_in_table(heap, region, n);

	while (!is_entry_of(&heap->sections[i], region, number))
		i = section_next(i, heap->section_mask);
	return &heap->sections[i];
}

static void erase(struct kheap *heap, const struct region *region, size_t n, size_t end)
{
	for (; n < end; n++) {
		STORE(entry_of(heap, region, n)->n_granules, 0);
		heap->n_sections--;
	}
}

void sections_remove(struct kheap *heap, const struct region *region)
{
	sections_begin(heap);
	erase(heap, region, 0, n_sections_of(region));
	note_large(heap, region, 0 - region->n_pages);
	sections_end(heap);
}

static size_t table_entries(const struct kheap *heap)
{
	return heap->section_mask + SECTION_PAIR;
}

/* Enter every region anew into `table`, which has so many entries. */
static void sections_rebuild(struct kheap *heap, struct section *table, size_t n_entries)
{
	sections_begin(heap);
	for (size_t i = 0; i < n_entries; i++)
		section_set(&table[i], (struct section){ 0 });
	STORE(heap->sections, table);
	__atomic_store_n(&heap->section_mask, n_entries - SECTION_PAIR, __ATOMIC_RELEASE);
	heap->n_sections = 0;
	heap->n_sections_used = 0;
	for (struct region *region = heap->regions; region; region = region->next)
		insert(heap, region, 0, n_sections_of(region));
	sections_end(heap);
}

static void table_free(struct kheap *heap, struct page_desc *table)
{
	heap->counters.overhead_pages -= table->n_pages;
	run_free(heap, desc_region(table), desc_page(table), table->n_pages);
}

void old_sections_free(struct kheap *heap)
{
	struct page_desc *next;

	for (struct page_desc *table = heap->old_sections; table; table = next) {
		next = table->next;
		table_free(heap, table);
	}
	heap->old_sections = NULL;
}

/* Of a table for n regions' sections, at least a page. */
static size_t table_pages(size_t n)
{
	return max_size((sizeof(struct section) << log2_floor(4 * n - 1)) >> PAGE_SHIFT, 1);
}

/* At the front of a new region that can be lengthened, so that it keeps neither this nor another one from becoming shorter again; or anywhere. */
static struct page_desc *table_alloc(struct kheap *heap, struct region *region, size_t n_pages)
{
	if (region && region->capacity > region->n_pages && run_free_at(region, region->n_overhead) >= n_pages)
		return run_alloc_at(heap, region, region->n_overhead, n_pages, PAGE_OVERHEAD);
	return run_alloc(heap, n_pages, 0, UINTPTR_MAX, PAGE_OVERHEAD);
}

bool sections_move(struct kheap *heap, struct region *region, size_t n)
{
	size_t n_pages = table_pages(n);
	size_t n_entries = (n_pages << PAGE_SHIFT) / sizeof(struct section);
	struct page_desc *desc = table_alloc(heap, region, n_pages);
	struct page_desc *old = heap->sections_run;

	if (!desc)
		return false;
	sections_rebuild(heap, (struct section *)desc_address(desc), n_entries);
	heap->sections_run = desc;
	heap->counters.overhead_pages += n_pages;
	if (old && HAS_READERS) {
		old->next = heap->old_sections;
		heap->old_sections = old;
	} else if (old) {
		/* A region may be about to change its length for this: none settles now. */
		bool was_draining = heap->is_draining;

		heap->is_draining = true;
		table_free(heap, old);
		heap->is_draining = was_draining;
	}
	return true;
}

/* How many entries the table holds before it grows. The small one that every heap has may be fuller. */
static size_t table_room(const struct kheap *heap)
{
	size_t room = table_entries(heap) / 2;

	return heap->sections == heap->inline_sections ? room + room / 2 : room;
}

/* The entries of a region that the table has room for from the first on, lest it move, to where it is in the way, when the region becomes longer. */
static size_t sections_ahead(const struct region *region)
{
	return max_size(min_size(sections_of_pages(region, region->capacity), SECTIONS_AHEAD), n_sections_of(region));
}

/* Of all regions that are entered, and n more entries. */
static size_t sections_wanted(const struct kheap *heap, size_t n)
{
	for (const struct region *region = heap->regions; region; region = region->next)
		n += sections_ahead(region);
	return n;
}

static size_t growth_by(const struct kheap *heap, size_t n)
{
	return n <= table_room(heap) ? 0 : table_pages(n);
}

size_t sections_growth(const struct kheap *heap, size_t n_pages)
{
	/* With its descriptors, which are less than a 32nd, and wherever it begins. */
	const struct region region = { .capacity = n_pages + n_pages / 32 + 2 };

	return growth_by(heap, sections_wanted(heap, sections_of_pages(&region, region.capacity) + 1));
}

size_t sections_growth_at(const struct kheap *heap, const struct region *region, size_t more)
{
	return growth_by(heap,
	                 heap->n_sections + sections_of_pages(region, region->n_pages + more) - n_sections_of(region));
}

/* The region's sections from this one on. It is in the list. */
static bool add(struct kheap *heap, struct region *region, size_t from)
{
	size_t end = n_sections_of(region), more = end - from;
	size_t room = table_room(heap);

	/* With room for what is to come; if there are no pages for that, for what is there. */
	if (!from && sections_wanted(heap, 0) > room && sections_move(heap, region, sections_wanted(heap, 0)))
		return true;
	if (heap->n_sections_used + more <= room) {
		sections_begin(heap);
		insert(heap, region, from, end);
		sections_end(heap);
		return true;
	}
	if (heap->n_sections + more <= room) {
		sections_rebuild(heap, heap->sections, table_entries(heap));
		return true;
	}
	return sections_move(heap, region, heap->n_sections + more);
}

bool sections_add(struct kheap *heap, struct region *region)
{
	if (!add(heap, region, 0))
		return false;
	note_large(heap, region, region->n_pages);
	return true;
}

bool sections_resize(struct kheap *heap, struct region *region, size_t n_pages)
{
	size_t before = sections_of_pages(region, n_pages), after = n_sections_of(region);
	size_t last = min_size(before, after) - 1;

	if (after > before && !add(heap, region, before))
		return false;
	sections_begin(heap);
	STORE(entry_of(heap, region, last)->n_granules, section_of(region, last).n_granules);
	erase(heap, region, after, before);
	note_large(heap, region, region->n_pages - n_pages);
	sections_end(heap);
	return true;
}

/* ---- the window ------------------------------------------------------------------------------------------------------ */

/* Are three quarters of the heap in this region? */
static bool is_home(const struct kheap *heap, const struct region *region)
{
	size_t shared = heap->counters.footprint_pages - heap->n_own_pages;

	return !region->is_own && region->n_pages >= shared - shared / 4;
}

/*
 * Where objects lie in several regions at random, a look at one of them first is wrong too often: a processor loses more by a wrong guess
 * than the look saves. So for what is freed the window is open only while three quarters of the heap are in it, but for large objects with
 * regions of their own.
 */
static void window_settle(struct kheap *heap)
{
	const struct region *region = heap->window.region;
	size_t n_granules = region->n_pages * PAGE_GRANULES;

	STORE(heap->window.n_granules, n_granules);
	STORE(heap->window.n_open, is_home(heap, region) ? n_granules : 0);
}

COLD void window_set(struct kheap *heap, struct region *region)
{
	heap->window = (struct window){ .first_granule = region->first_page * PAGE_GRANULES,
		                        .starts = region->starts,
		                        .magazines = region->magazines,
		                        .region = region };
	window_settle(heap);
}

void window_note(struct kheap *heap, struct region *region)
{
	if (!HAS_READERS && !region->is_own && region->n_pages > heap->window.region->n_pages)
		window_set(heap, region);
	else
		window_settle(heap);
}

void window_return(struct kheap *heap)
{
	struct region *first = heap->regions, *open = heap->open;

	if (HAS_READERS || heap->window.n_open)
		return;
	if (is_home(heap, first))
		window_set(heap, first);
	else if (open && is_home(heap, open))
		window_set(heap, open);
}
