/* SPDX-License-Identifier: MIT */
/*
 * The section table: from an address to its region, without touching the address. A hash table that grows, and is rebuilt when too much
 * of it was deleted. Readers without the lock (fast.h) see its sequence number change and look again.
 */
#include "small.h"
#include "internal.h"

static bool is_large(const struct region *region)
{
	return region->capacity >= LARGE_REGION_PAGES;
}

static unsigned shift_of(const struct region *region)
{
	return is_large(region) ? LARGE_SECTION_SHIFT : SECTION_SHIFT;
}

/* Sections that it has a part of, or may come to have. */
static size_t n_sections_of(const struct region *region)
{
	unsigned shift = shift_of(region) - PAGE_SHIFT;

	return ((region->first_page + region->capacity - 1) >> shift) - (region->first_page >> shift) + 1;
}

/* Where the entries of its n-th section are looked for. */
static size_t place_in_table(const struct region *region, size_t n)
{
	unsigned shift = shift_of(region);

	return section_place((region->first_page << PAGE_SHIFT) + (n << shift), shift);
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

static void sections_insert(struct kheap *heap, struct region *region)
{
	for (size_t n = n_sections_of(region); n--;) {
		size_t i = place_in_table(region, n) & heap->section_mask;

		while (heap->sections[i].region && heap->sections[i].n_granules)
			i = (i + 1) & heap->section_mask;
		if (!heap->sections[i].region)
			heap->n_sections_used++;
		section_set(&heap->sections[i], region_section(region));
		heap->n_sections++;
	}
}

void sections_remove(struct kheap *heap, const struct region *region)
{
	sections_begin(heap);
	for (size_t n = n_sections_of(region); n--;) {
		size_t i = place_in_table(region, n) & heap->section_mask;

		while (heap->sections[i].region != region || !heap->sections[i].n_granules)
			i = (i + 1) & heap->section_mask;
		STORE(heap->sections[i].n_granules, 0);
		heap->n_sections--;
	}
	note_large(heap, region, 0 - region->n_pages);
	sections_end(heap);
}

void sections_resize(struct kheap *heap, const struct region *region, size_t more)
{
	sections_begin(heap);
	for (size_t n = n_sections_of(region); n--;) {
		for (size_t i = place_in_table(region, n); heap->sections[i & heap->section_mask].region; i++) {
			struct section *section = &heap->sections[i & heap->section_mask];

			if (section->region == region && section->n_granules)
				STORE(section->n_granules, region->n_pages * PAGE_GRANULES);
		}
	}
	note_large(heap, region, more);
	sections_end(heap);
}

/* Enter every region anew into `table`, which has mask + 1 entries. */
static void sections_rebuild(struct kheap *heap, struct section *table, size_t mask)
{
	sections_begin(heap);
	for (size_t i = 0; i <= mask; i++)
		section_set(&table[i], (struct section){ 0 });
	STORE(heap->sections, table);
	__atomic_store_n(&heap->section_mask, mask, __ATOMIC_RELEASE);
	heap->n_sections = 0;
	heap->n_sections_used = 0;
	for (struct region *region = heap->regions; region; region = region->next)
		sections_insert(heap, region);
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
	sections_rebuild(heap, (struct section *)desc_address(desc), n_entries - 1);
	heap->sections_run = desc;
	heap->counters.overhead_pages += n_pages;
	if (old && HAS_READERS) {
		old->next = heap->old_sections;
		heap->old_sections = old;
	} else if (old) {
		table_free(heap, old);
	}
	return true;
}

/* How many entries the table holds before it grows. The small one that every heap has may be fuller. */
static size_t table_room(const struct kheap *heap)
{
	size_t room = (heap->section_mask + 1) / 2;

	return heap->sections == heap->inline_sections ? room + room / 2 : room;
}

size_t sections_growth(const struct kheap *heap, size_t n_pages)
{
	/* With its descriptors, which are less than a 32nd, and wherever it begins. */
	const struct region region = { .capacity = n_pages + n_pages / 32 + 2 };
	size_t n = heap->n_sections + n_sections_of(&region) + 1;

	return n <= table_room(heap) ? 0 : table_pages(n);
}

static bool add(struct kheap *heap, struct region *region)
{
	size_t more = n_sections_of(region);
	size_t room = table_room(heap);

	if (heap->n_sections_used + more <= room) {
		sections_begin(heap);
		sections_insert(heap, region);
		sections_end(heap);
		return true;
	}
	if (heap->n_sections + more <= room) {
		sections_rebuild(heap, heap->sections, heap->section_mask);
		return true;
	}
	return sections_move(heap, region, heap->n_sections + more);
}

bool sections_add(struct kheap *heap, struct region *region)
{
	if (!add(heap, region))
		return false;
	note_large(heap, region, region->n_pages);
	return true;
}
