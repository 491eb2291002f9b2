/* SPDX-License-Identifier: MIT */
/*
 * Page runs: good fit in O(1) over two-level bins, split and merge on both sides, any power-of-two alignment.
 *
 * The bins are those of TLSF (Masmano, Ripoll, Crespo, Real: "TLSF: a New Dynamic Memory Allocator for Real-Time Systems", ECRTS
 * 2004), counted in pages, with one change: the bin that a length itself falls into is looked at first, a bounded number of entries
 * deep, so that a run that was just freed is found again. Everything is kept in the page descriptors; free pages are not touched.
 */
#include "internal.h"

static struct run_bins *bins_of(struct kheap *heap, const struct region *region, size_t page)
{
	return &heap->runs[page_zone(region->first_page + page)];
}

static void set_kind(struct region *region, size_t page, enum page_kind kind)
{
	/* Whether a free page holds poison stays with the page. */
	region->kinds[page] = (uint8_t)(kind | (region->kinds[page] & PAGE_POISONED));
}

void run_insert(struct kheap *heap, struct region *region, size_t page, size_t n_pages)
{
	struct run_bins *bins = bins_of(heap, region, page);
	struct page_desc *desc = &region->descs[page];
	unsigned fl, sl;

	run_bin_of(n_pages, &fl, &sl);
	desc->region = region;
	desc->n_pages = n_pages;
	desc->prev = NULL;
	desc->next = bins->heads[fl][sl];
	if (desc->next)
		desc->next->prev = desc;
	bins->heads[fl][sl] = desc;
	bins->sl_bits[fl] |= (uint8_t)(1u << sl);
	bins->fl_bits |= 1u << fl;
	set_kind(region, page, PAGE_FREE);
	if (n_pages > 1) {
		set_kind(region, page + n_pages - 1, PAGE_FREE_TAIL);
		region->descs[page + n_pages - 1].n_pages = n_pages;
	}
	heap->counters.free_run_pages += n_pages;
}

void run_remove(struct kheap *heap, struct page_desc *desc)
{
	struct region *region = desc->region;
	size_t page = desc_page(desc);
	struct run_bins *bins = bins_of(heap, region, page);
	unsigned fl, sl;

	run_bin_of(desc->n_pages, &fl, &sl);
	if (desc->next)
		desc->next->prev = desc->prev;
	if (desc->prev) {
		desc->prev->next = desc->next;
	} else {
		bins->heads[fl][sl] = desc->next;
		if (!desc->next) {
			bins->sl_bits[fl] &= (uint8_t) ~(1u << sl);
			if (!bins->sl_bits[fl])
				bins->fl_bits &= ~(1u << fl);
		}
	}
	set_kind(region, page, PAGE_BODY);
	set_kind(region, page + desc->n_pages - 1, PAGE_BODY);
	heap->counters.free_run_pages -= desc->n_pages;
}

/* Where n aligned pages would start in this free run, as a page of its region; SIZE_MAX: they do not fit below max_address. */
static size_t run_fit(const struct page_desc *desc, size_t n_pages, unsigned align_shift, uintptr_t max_address)
{
	uintptr_t first = desc->region->first_page + desc_page(desc);
	uintptr_t start = align_up(first, (uintptr_t)1 << align_shift);

	if (start < first || start - first > desc->n_pages || desc->n_pages - (start - first) < n_pages)
		return SIZE_MAX;
	if (((start + n_pages) << PAGE_SHIFT) - 1 > max_address)
		return SIZE_MAX;
	return start - desc->region->first_page;
}

/* The shortest that fits among the first `tries` of a list. */
static struct page_desc *list_find(struct page_desc *desc, size_t n_pages, unsigned align_shift, uintptr_t max_address,
                                   size_t tries)
{
	struct page_desc *best = NULL;

	for (; desc && tries; desc = desc->next, tries--) {
		if (best && desc->n_pages >= best->n_pages)
			continue;
		if (run_fit(desc, n_pages, align_shift, max_address) != SIZE_MAX)
			best = desc;
	}
	return best;
}

/*
 * Bins upwards from the one that n_pages falls into. In all but the first few every entry fits, so this ends at the first or second bin
 * that holds anything; alignment can make it look at each bin once. With a limit on the address every entry is looked at.
 */
static struct page_desc *zone_find(struct run_bins *bins, size_t n_pages, unsigned align_shift, uintptr_t max_address,
                                   size_t tries)
{
	unsigned fl, sl;

	run_bin_of(n_pages, &fl, &sl);
	uint32_t sl_bits = bins->sl_bits[fl] & (0xffu << sl);

	for (;;) {
		while (sl_bits) {
			unsigned bin = lowest_bit(sl_bits);
			struct page_desc *desc =
				list_find(bins->heads[fl][bin], n_pages, align_shift, max_address, tries);

			if (desc)
				return desc;
			sl_bits &= sl_bits - 1;
		}
		if (++fl >= RUN_FL || !(bins->fl_bits >> fl))
			return NULL;
		fl += lowest_bit(bins->fl_bits >> fl);
		sl_bits = bins->sl_bits[fl];
	}
}

static struct page_desc *run_find(struct kheap *heap, size_t n_pages, unsigned align_shift, uintptr_t max_address)
{
	const uintptr_t top_low = (ZONE_PAGE << PAGE_SHIFT) - 1;
	size_t tries = heap->is_thorough ? THOROUGH_TRIES : RUN_TRIES;
	struct run_bins *low = &heap->runs[ZONE_LOW], *high = &heap->runs[ZONE_HIGH];
	struct page_desc *desc = NULL;

	/* Memory below 4 GiB is kept for those who need it. */
	if (max_address > top_low)
		desc = zone_find(high, n_pages, align_shift, max_address,
		                 max_address == UINTPTR_MAX ? tries : SIZE_MAX);
	if (!desc)
		desc = zone_find(low, n_pages, align_shift, max_address, max_address >= top_low ? tries : SIZE_MAX);
	return desc;
}

/* Pages leave the free state: what poison they hold must be whole. */
static void pages_wake(struct kheap *heap, struct region *region, size_t page, size_t n_pages)
{
	if (!HARDENED)
		return;
	for (size_t i = page; i < page + n_pages; i++) {
		if (region->kinds[i] & PAGE_POISONED)
			guard_verify(heap, page_address(region, i), PAGE_SIZE);
		region->kinds[i] = PAGE_BODY;
	}
}

struct page_desc *run_alloc(struct kheap *heap, size_t n_pages, unsigned align_shift, uintptr_t max_address,
                            enum page_kind kind)
{
	struct page_desc *desc = NULL;

	if (n_pages <= heap->counters.free_run_pages)
		desc = run_find(heap, n_pages, align_shift, max_address);
	if (!desc)
		return NULL;
	struct region *region = desc->region;
	size_t first = desc_page(desc);
	size_t end = first + desc->n_pages;
	size_t start = run_fit(desc, n_pages, align_shift, max_address);

	run_remove(heap, desc);
	if (start > first)
		run_insert(heap, region, first, start - first);
	if (start + n_pages < end)
		run_insert(heap, region, start + n_pages, end - start - n_pages);
	pages_wake(heap, region, start, n_pages);
	region->kinds[start] = (uint8_t)kind;
	desc = &region->descs[start];
	desc->region = region;
	desc->n_pages = n_pages;
	region_busy(heap, region, n_pages);
	return desc;
}

void run_free(struct kheap *heap, struct region *region, size_t page, size_t n_pages)
{
	size_t first = page;
	size_t end = page + n_pages;

	region->kinds[page] = PAGE_BODY;
	if (HARDENED) {
		guard_poison(page_address(region, page), n_pages << PAGE_SHIFT);
		for (size_t i = page; i < end; i++)
			region->kinds[i] = PAGE_BODY | PAGE_POISONED;
	}
	if (page > region->n_overhead && may_join(region, page)) {
		enum page_kind before = page_kind_of(region, page - 1);

		if (before == PAGE_FREE || before == PAGE_FREE_TAIL) {
			first = page - region->descs[page - 1].n_pages;
			run_remove(heap, &region->descs[first]);
		}
	}
	if (end < region->n_pages && may_join(region, end) && page_kind_of(region, end) == PAGE_FREE) {
		size_t more = region->descs[end].n_pages;

		run_remove(heap, &region->descs[end]);
		end += more;
	}
	run_insert(heap, region, first, end - first);
	region_idle(heap, region, n_pages);
}

bool run_extend(struct kheap *heap, struct region *region, size_t page, size_t n_pages, size_t more)
{
	size_t end = page + n_pages;

	if (end >= region->n_pages || !may_join(region, end) || page_kind_of(region, end) != PAGE_FREE)
		return false;
	struct page_desc *desc = &region->descs[end];
	size_t have = desc->n_pages;

	if (have < more)
		return false;
	run_remove(heap, desc);
	if (have > more)
		run_insert(heap, region, end + more, have - more);
	pages_wake(heap, region, end, more);
	region->descs[page].n_pages = n_pages + more;
	region_busy(heap, region, more);
	return true;
}
