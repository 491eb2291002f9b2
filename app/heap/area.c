/* SPDX-License-Identifier: MIT */
/*
 * Block areas: the whole pages that blocks live in. An area begins with a block marked BLOCK_FIRST and ends with a header of size 0; areas
 * that touch are joined, up to AREA_MAX_PAGES, so that small heaps do not fall into islands. An area gives pages back when all of it is
 * free (one empty area is kept, so that a lone pair does not take and return pages), or when a free block spans
 * RELEASE_PAGES whole pages; fewer, when the heap has no others and cannot grow.
 *
 * The last page of a region's descriptors is rarely full: what is left of it is a small area too (the tail area), never given back.
 */
#include "small.h"
#include "internal.h"

/* Not in line: every use would be fifty bytes. */
static __attribute__((noinline)) bool tag_holds(const struct kheap *heap, const struct block *block)
{
	return block_tag_holds(heap, block);
}

static __attribute__((noinline)) void seal(const struct kheap *heap, struct block *block, uint32_t size_flags,
                                           unsigned label)
{
	block_seal(heap, block, size_flags, label);
}

static bool is_block_page(const struct region *region, size_t page)
{
	return is_block_kind(page_kind_of(region, page));
}

static bool is_tail_area(const struct region *region, size_t head)
{
	return region->tail_offset && head + 1 == region->n_overhead;
}

static void area_set_length(struct region *region, size_t head, size_t n_pages)
{
	page_kind_set(region, head, PAGE_BLOCK_HEAD);
	region_desc(region, head)->n_pages = (uint32_t)n_pages;
	region->descs[head + n_pages - 1].n_pages = (uint32_t)n_pages;
}

struct block *area_first(const struct region *region, size_t page)
{
	return block_at(page_address(region, page) + (is_tail_area(region, page) ? region->tail_offset : 0) + GRANULE -
	                BLOCK_HEADER);
}

size_t area_head(const struct region *region, size_t page)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && !defined(__SANITIZE_THREAD__)
	/* Eight at a time: bytes that are zero have their top bit set in the end (Warren, "Hacker's Delight", 6-1). */
	const uint64_t low = 0x7f7f7f7f7f7f7f7f;

	for (; page >= 7; page -= 8) {
		uint64_t kinds =
			*(const unaligned_word *)&region->kinds[page - 7] ^ PAGE_BLOCK_HEAD * 0x0101010101010101u;
		uint64_t heads = ~(((kinds & low) + low) | kinds | low);

		if (heads)
			return page - (size_t)__builtin_clzll(heads) / 8;
	}
#endif
	while (page_kind_of(region, page) != PAGE_BLOCK_HEAD)
		page--;
	return page;
}

static struct block *area_sentinel(const struct region *region, size_t end_page)
{
	return block_at(page_address(region, end_page) - BLOCK_HEADER);
}

/* Is this free block all there is in its area? */
static bool is_whole_area(const struct kheap *heap, struct block *block)
{
	if (!(block->size_flags & BLOCK_FIRST))
		return false;
	struct block *next = block_next(block);

	return tag_holds(heap, next) && block_size(next) == 0;
}

static struct region *region_of_block(const struct kheap *heap, const struct block *block, size_t *page)
{
	struct region *region = region_of(heap, (uintptr_t)block);

	*page = ((uintptr_t)block >> PAGE_SHIFT) - region->first_page;
	return region;
}

void area_used_up(struct kheap *heap, struct block *block)
{
	size_t head;

	struct region *region = region_of_block(heap, block, &head);

	region->n_cached -= region->descs[head].n_pages;
	heap->empty_area = NULL;
}

/* Take a free block that is about to grow at its end, or to be given up, out of the bins. */
static bool free_block_retire(struct kheap *heap, struct block *block)
{
	area_used(heap, block);
	if (block_retire(heap, block))
		return true;
	heap_error(heap, KMALLOC_DAMAGED_TAG, (uintptr_t)block, 0);
	return false;
}

/* The header at which a new area's free block starts when the area before it can be joined; NULL: it cannot. */
static struct block *join_before(struct kheap *heap, struct region *region, size_t page, size_t n_pages, size_t *head,
                                 uint32_t *flags)
{
	if (page == 0 || !may_join(region, page) || !is_block_page(region, page - 1))
		return NULL;
	size_t before_pages = region->descs[page - 1].n_pages;
	struct block *sentinel = area_sentinel(region, page);

	if (before_pages + n_pages > AREA_MAX_PAGES || !tag_holds(heap, sentinel))
		return NULL;
	struct block *start = sentinel;
	uint32_t start_flags = 0;

	if (sentinel->size_flags & BLOCK_PREV_FREE) {
		start = block_at((uintptr_t)sentinel - (size_t) * (uint64_t *)((uintptr_t)sentinel - BLOCK_FOOTER));
		/* The word in front may have been overwritten, so that it leads to some other block. */
		if (!block_is_readable(heap, start) || !tag_holds(heap, start) || block_next(start) != sentinel ||
		    !free_block_retire(heap, start))
			return NULL;
		start_flags = start->size_flags & BLOCK_FIRST;
		guard_poison((uintptr_t)sentinel - BLOCK_FOOTER, BLOCK_FOOTER + BLOCK_HEADER);
	}
	*flags = start_flags;
	*head = page - before_pages;
	return start;
}

/* The header at which it ends when the area behind it can be joined; NULL: it cannot. */
static struct block *join_after(struct kheap *heap, struct region *region, size_t end, size_t n_pages, size_t *more)
{
	if (end >= region->n_pages || !may_join(region, end) || page_kind_of(region, end) != PAGE_BLOCK_HEAD)
		return NULL;
	struct block *first = area_first(region, end);

	*more = region->descs[end].n_pages;
	if (*more + n_pages > AREA_MAX_PAGES || !tag_holds(heap, first))
		return NULL;
	if (first->size_flags & BLOCK_USED) {
		seal(heap, first, first->size_flags & ~(uint32_t)BLOCK_FIRST, block_label(first));
		return first;
	}
	if (!free_block_retire(heap, first))
		return NULL;
	struct block *next = block_next(first);

	/* The word in front of it may be a footer from when the pages before were of this area. */
	guard_poison((uintptr_t)first - BLOCK_FOOTER, BLOCK_FOOTER + BLOCK_HEADER + LINKS_BYTES);
	return next;
}

struct block *area_create(struct kheap *heap, struct region *region, size_t page, size_t n_pages, size_t offset)
{
	size_t head = page;
	size_t end = page + n_pages;
	size_t more = 0;
	uint32_t flags = BLOCK_FIRST;
	struct block *start, *stop;

	heap->is_laden = true;
	guard_poison(page_address(region, page) + offset, (n_pages << PAGE_SHIFT) - offset);
	page_kinds_set(region, page, n_pages, PAGE_BLOCK);
	start = offset ? NULL : join_before(heap, region, page, n_pages, &head, &flags);
	if (!start)
		start = block_at(page_address(region, page) + offset + GRANULE - BLOCK_HEADER);
	stop = join_after(heap, region, end, end - head, &more);
	if (stop) {
		page_kind_set(region, end, PAGE_BLOCK);
		end += more;
		block_make_free(heap, start, (uintptr_t)stop - (uintptr_t)start, flags);
	} else {
		stop = area_sentinel(region, end);
		seal(heap, stop, BLOCK_USED | BLOCK_PREV_FREE, 0);
		seal(heap, start, (uint32_t)((uintptr_t)stop - (uintptr_t)start) | flags, 0);
	}
	area_set_length(region, head, end - head);
	heap->counters.block_pages += n_pages;
	return start;
}

/* The victim's area grows, if the pages behind it are free, by as many as make the victim large enough, or up to n. NULL: not so. */
static struct block *victim_extend(struct kheap *heap, size_t need, size_t n_pages)
{
	struct block *victim = heap->victim;

	if (!victim || block_header(victim) != heap->victim_header)
		return NULL;
	struct region *region = heap->victim_region;
	struct block *next = block_next(victim);
	size_t end = ((uintptr_t)next + BLOCK_HEADER - page_address(region, 0)) >> PAGE_SHIFT;

	if (!tag_holds(heap, next) || block_size(next) != 0)
		return NULL;
	size_t least = align_up(need - block_size(victim), PAGE_SIZE) >> PAGE_SHIFT;
	size_t most = min_size(run_free_at(region, end), AREA_MAX_PAGES - region->descs[end - 1].n_pages);

	if (least > most)
		return NULL;
	n_pages = min_size(max_size(least, n_pages), most);
	run_alloc_at(heap, region, end, n_pages, PAGE_BLOCK_HEAD);
	struct block *block = area_create(heap, region, end, n_pages, 0);

	if (LIKELY(block_size(block) >= need))
		return block;
	/* What was there was damaged. */
	bin_insert(heap, block);
	return NULL;
}

struct block *area_grow(struct kheap *heap, size_t need, size_t alignment)
{
	if (!heap->counters.free_run_pages)
		return NULL;
	/* An eighth of what blocks hold now, so that a small heap grows by single pages. */
	size_t slack = alignment > GRANULE ? alignment + BLOCK_MIN : 0;
	size_t least = align_up(need + slack + GRANULE, PAGE_SIZE) >> PAGE_SHIFT;
	size_t share = min_size(heap->counters.block_pages / 8, AREA_GROW_MAX), n_pages = max_size(least, share);
	struct block *block = victim_extend(heap, need + slack, share);

	if (block)
		return block;
	struct page_desc *desc = run_alloc(heap, n_pages, 0, UINTPTR_MAX, PAGE_BLOCK_HEAD);

	while (!desc && n_pages > least) {
		n_pages = max_size(n_pages / 2, least);
		desc = run_alloc(heap, n_pages, 0, UINTPTR_MAX, PAGE_BLOCK_HEAD);
	}
	return desc ? area_create(heap, desc_region(desc), desc_page(desc), n_pages, 0) : NULL;
}

/* ---- giving pages back ---------------------------------------------------------------------------------------- */

/* Part of a free block's area that can go: whole pages [from, to), none of them needed by what stays on either side. */
struct span {
	size_t head, end; /* the area */
	size_t from, to;  /* the pages that can go */
	bool left, right; /* something of the area stays on that side */
};

/* A free block cannot be 16 bytes: then one page more stays. */
static struct span span_of(const struct region *region, struct block *block)
{
	struct span span;
	uintptr_t start = (uintptr_t)block;
	uintptr_t stop = (uintptr_t)block_next(block);
	uintptr_t base = page_address(region, 0);

	span.head = area_head(region, (start - base) >> PAGE_SHIFT);
	span.end = span.head + region->descs[span.head].n_pages;
	span.left = !(block->size_flags & BLOCK_FIRST) || is_tail_area(region, span.head);
	span.right = stop != (uintptr_t)area_sentinel(region, span.end);
	if (span.left) {
		uintptr_t from = align_up(start + BLOCK_HEADER, PAGE_SIZE);

		if (from - BLOCK_HEADER - start == GRANULE)
			from += PAGE_SIZE;
		span.from = (from - base) >> PAGE_SHIFT;
	} else {
		span.from = span.head;
	}
	if (span.right) {
		uintptr_t to = align_down(stop - BLOCK_HEADER, PAGE_SIZE);

		if (stop - BLOCK_HEADER - to == GRANULE)
			to -= PAGE_SIZE;
		span.to = (to - base) >> PAGE_SHIFT;
	} else {
		span.to = span.end;
	}
	return span;
}

/* `block` is free and in no bin. What stays left and right of the span becomes areas of their own. */
static void area_cut(struct kheap *heap, struct region *region, struct block *block, const struct span *span)
{
	uint32_t flags = block->size_flags & BLOCK_FIRST;
	struct block *next = block_next(block);

	if (span->left) {
		struct block *sentinel = area_sentinel(region, span->from);
		size_t rest = (uintptr_t)sentinel - (uintptr_t)block;

		seal(heap, sentinel, BLOCK_USED, 0);
		if (rest)
			block_insert_free(heap, block, rest, flags);
		area_set_length(region, span->head, span->from - span->head);
	}
	if (span->right) {
		struct block *first = block_at(page_address(region, span->to) + GRANULE - BLOCK_HEADER);
		size_t rest = (uintptr_t)next - (uintptr_t)first;

		if (rest)
			block_insert_free(heap, first, rest, BLOCK_FIRST);
		else
			seal(heap, first, (first->size_flags & ~(uint32_t)BLOCK_PREV_FREE) | BLOCK_FIRST,
			     block_label(first));
		area_set_length(region, span->to, span->end - span->to);
	}
	page_kinds_set(region, span->from, span->to - span->from, PAGE_BODY);
	heap->counters.block_pages -= span->to - span->from;
	run_free(heap, region, span->from, span->to - span->from);
}

bool area_trim(struct kheap *heap, struct region *region, struct block *block)
{
	bool whole = is_whole_area(heap, block);

	/* A damaged header behind it must not be sealed anew by the cut: the caller finds and reports it. */
	if ((!whole && block_size(block) < RELEASE_PAGES * PAGE_SIZE) || !tag_holds(heap, block_next(block)))
		return false;
	struct span span = span_of(region, block);
	size_t n_pages = span.to > span.from ? span.to - span.from : 0;

	if (whole && !span.left && !heap->empty_area && n_pages < RELEASE_PAGES) {
		heap->empty_area = block;
		region->n_cached += n_pages;
		return false;
	}
	if (n_pages == 0 || (!whole && n_pages < RELEASE_PAGES))
		return false;
	area_cut(heap, region, block, &span);
	return true;
}

/* The same of one whose pages go: whoever gets them must find the poison whole. */
static bool free_block_leave(struct kheap *heap, struct block *block)
{
	uintptr_t start = block_payload(block) + LINKS_BYTES;

	if (!free_block_retire(heap, block))
		return false;
	if (HARDENED && start < (uintptr_t)block_footer(block))
		guard_verify(heap, start, (uintptr_t)block_footer(block) - start);
	return true;
}

/* If it spans so many whole pages, they go. */
static bool block_yields(struct kheap *heap, struct block *block, size_t n_pages)
{
	size_t page;
	struct region *region = region_of_block(heap, block, &page);

	if (!block_tag_holds(heap, block) || !tag_holds(heap, block_next(block)))
		return false;
	struct span span = span_of(region, block);

	if (span.to < span.from + n_pages || !free_block_leave(heap, block))
		return false;
	area_cut(heap, region, block, &span);
	return true;
}

bool area_release(struct kheap *heap, size_t n_pages)
{
	unsigned least = block_bin_of(n_pages * PAGE_SIZE), sure = block_bin_of((n_pages + 2) * PAGE_SIZE) + 1;
	unsigned bin = bin_next(&heap->blocks, sure);

	if (heap->counters.free_block_bytes < n_pages * PAGE_SIZE)
		return false;
	if (bin < BLOCK_BINS && block_yields(heap, heap->blocks.heads[bin], n_pages))
		return true;
	/* Of those that are shorter only some have as many whole pages. */
	for (bin = bin_next(&heap->blocks, least); bin < sure; bin = bin_next(&heap->blocks, bin + 1)) {
		if (block_yields(heap, heap->blocks.heads[bin], n_pages))
			return true;
	}
	return heap->victim && block_yields(heap, heap->victim, n_pages);
}

bool area_drain(struct kheap *heap)
{
	struct block *block = heap->empty_area;
	size_t head;

	if (!block)
		return false;
	struct region *region = region_of_block(heap, block, &head);

	if (!free_block_leave(heap, block))
		return false;
	struct span span = span_of(region, block);

	area_cut(heap, region, block, &span);
	return true;
}

bool area_tail_is_free(const struct kheap *heap, const struct region *region)
{
	if (!region->tail_offset)
		return true;
	struct block *first = area_first(region, region->n_overhead - 1);

	return tag_holds(heap, first) && !(first->size_flags & BLOCK_USED) && is_whole_area(heap, first);
}

bool area_tail_retire(struct kheap *heap, struct region *region)
{
	if (!region->tail_offset)
		return true;
	if (!block_retire(heap, area_first(region, region->n_overhead - 1)))
		return false;
	heap->counters.block_pages--;
	return true;
}
