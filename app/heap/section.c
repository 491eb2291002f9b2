/* SPDX-License-Identifier: MIT */
/*
 * The section table: from an address to its region, without touching the address. A hash table that grows, and is rebuilt when too much
 * of it was deleted. Readers without the lock (fast.h) see its sequence number change and look again.
 */
#include "small.h"
#include "internal.h"

static size_t first_section(const struct region *region)
{
	return region->first_page >> (SECTION_SHIFT - PAGE_SHIFT);
}

static size_t last_section(const struct region *region)
{
	return (region->first_page + region->n_pages - 1) >> (SECTION_SHIFT - PAGE_SHIFT);
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

static void sections_insert(struct kheap *heap, struct region *region)
{
	for (size_t section = first_section(region); section <= last_section(region); section++) {
		size_t i = section_place(section) & heap->section_mask;

		while (heap->sections[i].region && heap->sections[i].n_pages)
			i = (i + 1) & heap->section_mask;
		if (!heap->sections[i].region)
			heap->n_sections_used++;
		heap->sections[i] = (struct section){ region->first_page, region->n_pages, region->kinds, region };
		heap->n_sections++;
	}
}

void sections_remove(struct kheap *heap, const struct region *region)
{
	sections_begin(heap);
	for (size_t section = first_section(region); section <= last_section(region); section++) {
		size_t i = section_place(section) & heap->section_mask;

		while (heap->sections[i].region != region || !heap->sections[i].n_pages)
			i = (i + 1) & heap->section_mask;
		heap->sections[i].n_pages = 0;
		heap->n_sections--;
	}
	sections_end(heap);
}

/* Enter every region anew into `table`, which has mask + 1 entries. */
static void sections_rebuild(struct kheap *heap, struct section *table, size_t mask)
{
	sections_begin(heap);
	fill_words(table, 0, (mask + 1) * sizeof(*table));
	heap->sections = table;
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
	run_free(heap, table->region, desc_page(table), table->n_pages);
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

bool sections_move(struct kheap *heap, size_t n)
{
	size_t n_pages = table_pages(n);
	size_t n_entries = (n_pages << PAGE_SHIFT) / sizeof(struct section);
	struct page_desc *desc = run_alloc(heap, n_pages, 0, UINTPTR_MAX, PAGE_OVERHEAD);
	struct page_desc *old = heap->sections_run;

	if (!desc)
		return false;
	sections_rebuild(heap, (struct section *)desc_address(desc), n_entries - 1);
	heap->sections_run = desc;
	heap->counters.overhead_pages += n_pages;
	if (old && KPORT_CPUS > 1) {
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
	size_t n = heap->n_sections + ((n_pages + n_pages / 32) >> (SECTION_SHIFT - PAGE_SHIFT)) + 3;

	return n <= table_room(heap) ? 0 : table_pages(n);
}

bool sections_add(struct kheap *heap, struct region *region)
{
	size_t more = last_section(region) - first_section(region) + 1;
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
	return sections_move(heap, heap->n_sections + more);
}
