/* SPDX-License-Identifier: MIT */
/*
 * Page runs: good fit in O(1) over bins, split and merge on both sides, any power-of-two alignment.
 *
 * The bins are those of TLSF (Masmano, Ripoll, Crespo, Real: "TLSF: a New Dynamic Memory Allocator for Real-Time Systems", ECRTS
 * 2004), counted in pages, with one change: the bin that a length itself falls into is looked at first, a bounded number of entries
 * deep, so that a run that was just freed is found again. Everything is kept in the page descriptors; free pages are not touched.
 */
#include "internal.h"

#define POISON_PAGES 256

/* No run crosses the line between the zones, so all that one call touches is in the same bins. */
INLINE struct run_bins *bins_of(struct kheap *heap, const struct region *region, size_t page)
{
	return &heap->runs[page_zone(region->first_page + page)];
}

INLINE void set_kind(struct region *region, size_t page, enum page_kind kind)
{
	/* Whether a free page holds poison stays with the page. */
	page_kind_set(region, page, kind | (HARDENED ? page_kind_byte(region, page) & PAGE_POISONED : 0));
}

/*
 * Of a free run's pages so many, the last ones, are zero as the source gave them: never in use, or given up since. Its last page's descriptor has
 * the number, a single page the flag PAGE_ZERO. Where the source said nothing none is known to be zero.
 */
INLINE size_t run_zeros(const struct region *region, const struct page_desc *desc)
{
	if (!region->chunk.is_zero)
		return 0;
	if (desc->n_pages > 1)
		return desc[desc->n_pages - 1].n_zero;
	return page_kind_byte(region, desc_page(desc)) & PAGE_ZERO ? 1 : 0;
}

static __attribute__((noinline)) void zeros_set(struct region *region, size_t page, size_t n_pages, size_t n_zero)
{
	if (n_pages > 1)
		region->descs[page + n_pages - 1].n_zero = min_size(n_zero, n_pages);
	else if (n_pages && n_zero)
		page_kind_set(region, page, page_kind_byte(region, page) | PAGE_ZERO);
}

/* Into its list; not counted. */
INLINE void run_link(struct run_bins *bins, struct region *region, size_t page, size_t n_pages)
{
	struct page_desc *desc = region_desc(region, page);
	unsigned bin = run_bin_of(n_pages);
	struct page_desc *next = bins->heads[bin];

	desc->n_pages = (uint32_t)n_pages;
	desc->number = region->first_page + page;
	desc->prev = NULL;
	desc->next = next;
	if (next)
		next->prev = desc;
	else
		bins->bits |= (uint64_t)1 << bin;
	bins->heads[bin] = desc;
	if (n_pages > 1) {
		set_kind(region, page + n_pages - 1, PAGE_FREE_TAIL);
		desc[n_pages - 1].n_pages = (uint32_t)n_pages;
	}
	set_kind(region, page, PAGE_FREE);
}

/* Out of its list; not counted, and its pages keep their kinds. */
INLINE void run_unlink(struct run_bins *bins, struct page_desc *desc)
{
	struct page_desc *next = desc->next, *prev = desc->prev;

	if (next)
		next->prev = prev;
	if (prev) {
		prev->next = next;
		return;
	}
	unsigned bin = run_bin_of(desc->n_pages);

	bins->heads[bin] = next;
	if (!next)
		bins->bits &= ~((uint64_t)1 << bin);
}

/* Its first n pages leave it; it stays in this bin, and where it is in the list. */
INLINE void run_cut(struct run_bins *bins, unsigned bin, struct region *region, struct page_desc *desc, size_t n_pages)
{
	size_t left = desc->n_pages - n_pages;
	struct page_desc *rest = region_desc(region, desc_page(desc) + n_pages);
	struct page_desc *next = desc->next, *prev = desc->prev;

	rest->n_pages = rest[left - 1].n_pages = (uint32_t)left;
	rest->number = desc->number + n_pages;
	rest->next = next;
	rest->prev = prev;
	if (next)
		next->prev = rest;
	if (prev)
		prev->next = rest;
	else
		bins->heads[bin] = rest;
	set_kind(region, desc_page(rest), PAGE_FREE);
}

void run_insert(struct kheap *heap, struct region *region, size_t page, size_t n_pages, size_t n_zero)
{
	run_link(bins_of(heap, region, page), region, page, n_pages);
	if (region->chunk.is_zero)
		zeros_set(region, page, n_pages, n_zero);
	STORE(heap->counters.free_run_pages, heap->counters.free_run_pages + n_pages);
}

size_t run_remove(struct kheap *heap, struct page_desc *desc)
{
	struct region *region = desc_region(desc);
	size_t page = desc_page(desc), n_zero = run_zeros(region, desc);

	run_unlink(bins_of(heap, region, page), desc);
	set_kind(region, page, PAGE_BODY);
	set_kind(region, page + desc->n_pages - 1, PAGE_BODY);
	STORE(heap->counters.free_run_pages, heap->counters.free_run_pages - desc->n_pages);
	return n_zero;
}

/* ---- finding ------------------------------------------------------------------------------------------------------ */

/* The number of the page where n aligned pages would start in this free run; UINTPTR_MAX: they do not fit below max_address. */
INLINE uintptr_t run_fit(const struct page_desc *desc, size_t n_pages, unsigned align_shift, uintptr_t max_address)
{
	uintptr_t start = align_up(desc->number, (uintptr_t)1 << align_shift);

	if (desc->n_pages < n_pages || start - desc->number > desc->n_pages - n_pages ||
	    ((start + n_pages) << PAGE_SHIFT) - 1 > max_address)
		return UINTPTR_MAX;
	return start;
}

/* The shortest that fits among the first `tries` of a list. */
INLINE struct page_desc *list_find(struct page_desc *desc, size_t n_pages, unsigned align_shift, uintptr_t max_address,
                                   size_t tries, uintptr_t *start)
{
	struct page_desc *best = NULL;

	for (; desc && tries; desc = desc->next, tries--) {
		if (best && desc->n_pages >= best->n_pages)
			continue;
		uintptr_t fit = run_fit(desc, n_pages, align_shift, max_address);

		if (fit == UINTPTR_MAX)
			continue;
		best = desc;
		*start = fit;
		if (best->n_pages < RUN_EXACT)
			break;
	}
	return best;
}

/*
 * Bins upwards from the one that n_pages falls into. In all but the first few every entry fits, so this ends at the first or second bin
 * that holds anything; alignment can make it look at each bin once. With a limit on the address every entry is looked at.
 */
static struct page_desc *zone_find(const struct run_bins *bins, size_t n_pages, unsigned align_shift,
                                   uintptr_t max_address, size_t tries, uintptr_t *start)
{
	uint64_t bits = bins->bits & UINT64_MAX << run_bin_of(n_pages);
	struct page_desc *desc = NULL;

	for (; bits && !desc; bits &= bits - 1)
		desc = list_find(bins->heads[lowest_bit(bits)], n_pages, align_shift, max_address, tries, start);
	return desc;
}

/* What zone_find would find, if that is a list's first run and no other of the list could be a better one. */
INLINE struct page_desc *zone_first(const struct run_bins *bins, size_t n_pages, unsigned align_shift, uintptr_t *start)
{
	uint64_t bits = bins->bits & UINT64_MAX << run_bin_of(n_pages);

	if (!bits)
		return NULL;
	unsigned bin = lowest_bit(bits);
	struct page_desc *desc = bins->heads[bin];

	if (bin >= RUN_EXACT && desc->next)
		return NULL;
	*start = run_fit(desc, n_pages, align_shift, UINTPTR_MAX);
	return *start != UINTPTR_MAX ? desc : NULL;
}

/* A free run, and the number of the page in it where n_pages will start. */
static __attribute__((noinline)) struct page_desc *run_find(struct kheap *heap, size_t n_pages, unsigned align_shift,
                                                            uintptr_t max_address, uintptr_t *start)
{
	const uintptr_t top_low = (ZONE_PAGE << PAGE_SHIFT) - 1;
	size_t tries = heap->is_thorough ? THOROUGH_TRIES : RUN_TRIES;
	const struct run_bins *low = &heap->runs[ZONE_LOW], *high = &heap->runs[ZONE_HIGH];
	struct page_desc *desc = NULL;

	/* Memory below 4 GiB is kept for those who need it. */
	if (max_address > top_low)
		desc = zone_find(high, n_pages, align_shift, max_address, max_address == UINTPTR_MAX ? tries : SIZE_MAX,
		                 start);
	if (!desc)
		desc = zone_find(low, n_pages, align_shift, max_address, max_address >= top_low ? tries : SIZE_MAX,
		                 start);
	return desc;
}

/* ---- taking and giving back ---------------------------------------------------------------------------------------- */

/* Pages leave the free state: what poison they hold must be whole. */
INLINE void pages_wake(struct kheap *heap, struct region *region, size_t page, size_t n_pages)
{
	if (!HARDENED)
		return;
	for (size_t i = page; i < page + n_pages; i++) {
		if (page_kind_byte(region, i) & PAGE_POISONED)
			guard_verify(heap, page_address(region, i), PAGE_SIZE);
		page_kind_set(region, i, PAGE_BODY);
	}
}

/* The n pages from the one with this number on leave a free run that has them. */
INLINE struct page_desc *run_take(struct kheap *heap, struct page_desc *desc, uintptr_t number, size_t n_pages,
                                  enum page_kind kind)
{
	struct region *region = desc_region(desc);
	size_t first = desc->number - region->first_page;
	size_t end = first + desc->n_pages;
	size_t start = number - region->first_page;
	struct run_bins *bins = bins_of(heap, region, first);

	size_t total = end - first, behind = end - start - n_pages, n_zero = run_zeros(region, desc);
	unsigned bin = run_bin_of(total);

	if (LIKELY(start == first && total > n_pages && run_bin_of(behind) == bin)) {
		run_cut(bins, bin, region, desc, n_pages);
	} else {
		run_unlink(bins, desc);
		if (start > first)
			run_link(bins, region, first, start - first);
		if (behind)
			run_link(bins, region, start + n_pages, behind);
	}
	heap->n_taken_zero = 0;
	if (region->chunk.is_zero) {
		heap->n_taken_zero = (uint32_t)min_size(above(n_zero, behind), n_pages);
		zeros_set(region, first, start - first, above(n_zero, end - start));
		zeros_set(region, start + n_pages, behind, n_zero);
	}
	STORE(heap->counters.free_run_pages, heap->counters.free_run_pages - n_pages);
	/* The last page may have been the free run's. */
	set_kind(region, start + n_pages - 1, PAGE_BODY);
	pages_wake(heap, region, start, n_pages);
	run_start_set(region, start, kind);
	desc = region_desc(region, start);
	desc->n_pages = (uint32_t)n_pages;
	region_busy(heap, region, n_pages);
	return desc;
}

/* For whole pages that may lie anywhere, where the heap cannot grow, free blocks give back few, too. */
INLINE bool areas_may_yield(const struct kheap *heap, size_t n_pages, unsigned align_shift, uintptr_t max_address,
                            enum page_kind kind)
{
	return UNLIKELY(heap->is_thorough) && cannot_grow(heap) && kind == PAGE_RUN && n_pages < RELEASE_PAGES &&
	       align_shift == 0 && max_address == UINTPTR_MAX;
}

struct page_desc *run_alloc(struct kheap *heap, size_t n_pages, unsigned align_shift, uintptr_t max_address,
                            enum page_kind kind)
{
	struct page_desc *desc = NULL;
	uintptr_t number;

	if (n_pages > heap->counters.free_run_pages && !areas_may_yield(heap, n_pages, align_shift, max_address, kind))
		return NULL;
	if (LIKELY(max_address == UINTPTR_MAX))
		desc = zone_first(&heap->runs[heap->runs[ZONE_HIGH].bits ? ZONE_HIGH : ZONE_LOW], n_pages, align_shift,
		                  &number);
	if (!desc)
		desc = run_find(heap, n_pages, align_shift, max_address, &number);
	if (!desc && areas_may_yield(heap, n_pages, align_shift, max_address, kind) && area_release(heap, n_pages))
		desc = run_find(heap, n_pages, align_shift, max_address, &number);
	return desc ? run_take(heap, desc, number, n_pages, kind) : NULL;
}

void run_free(struct kheap *heap, struct region *region, size_t page, size_t n_pages)
{
	struct run_bins *bins = bins_of(heap, region, page);
	size_t first = page;
	size_t end = page + n_pages;
	/* The host gave up what was behind a live run, and nobody used it since. */
	size_t n_zero = page_kind_byte(region, page) & PAGE_ZERO ? n_pages : 0;

	run_start_set(region, page, PAGE_BODY);
	if (HARDENED) {
		/* Not all of a very long one, which may never have been touched. */
		size_t n_poisoned = min_size(n_pages, POISON_PAGES);

		n_zero = 0;
		guard_poison(page_address(region, page), n_poisoned << PAGE_SHIFT);
		for (size_t i = page; i < end; i++)
			page_kind_set(region, i, i < page + n_poisoned ? PAGE_BODY | PAGE_POISONED : PAGE_BODY);
	}
	/* In front of the first page that can be free is always another one. */
	enum page_kind before = page_kind_of(region, page - 1);

	if ((before == PAGE_FREE || before == PAGE_FREE_TAIL) && may_join(region, page)) {
		first = page - region->descs[page - 1].n_pages;
		if (UNLIKELY(n_zero))
			n_zero += run_zeros(region, &region->descs[first]);
		run_unlink(bins, &region->descs[first]);
		set_kind(region, page - 1, PAGE_BODY);
	}
	if (end < region->n_pages && page_kind_of(region, end) == PAGE_FREE && may_join(region, end)) {
		size_t n_behind = region->descs[end].n_pages, zeros_behind = run_zeros(region, &region->descs[end]);

		run_unlink(bins, &region->descs[end]);
		set_kind(region, end, PAGE_BODY);
		n_zero = zeros_behind == n_behind ? n_zero + n_behind : zeros_behind;
		end += n_behind;
	}
	run_link(bins, region, first, end - first);
	if (region->chunk.is_zero)
		zeros_set(region, first, end - first, n_zero);
	STORE(heap->counters.free_run_pages, heap->counters.free_run_pages + n_pages);
	if (UNLIKELY(region->n_chunks) && end == region->n_pages)
		region_shorten(heap, region);
	region_idle(heap, region, n_pages);
}

size_t run_free_at(const struct region *region, size_t page)
{
	if (page >= region->n_pages || !may_join(region, page) || page_kind_of(region, page) != PAGE_FREE)
		return 0;
	return region->descs[page].n_pages;
}

struct page_desc *run_alloc_at(struct kheap *heap, struct region *region, size_t page, size_t n_pages,
                               enum page_kind kind)
{
	return run_take(heap, &region->descs[page], region->first_page + page, n_pages, kind);
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
	size_t n_zero = run_remove(heap, desc);

	if (have > more)
		run_insert(heap, region, end + more, have - more, n_zero);
	pages_wake(heap, region, end, more);
	region->descs[page].n_pages = (uint32_t)(n_pages + more);
	region_busy(heap, region, more);
	return true;
}
