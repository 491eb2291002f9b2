/* SPDX-License-Identifier: MIT */
/*
 * Blocks: objects between the slabs and whole pages. The ancestor's boundary-tag scheme with its header keyed to its address, its
 * search replaced by TLSF's two-level bins (Masmano et al., ECRTS 2004), which are first looked at where the size itself falls, so that
 * a block that was just freed is found again. Free neighbours are always merged. Areas of whole pages come from the runs and go back
 * to them when they, or 16 whole pages inside a free block, are free (area.c).
 *
 * Trusted: nothing in a header until its check word holds; no link until the block it leads to does. A pointer that fails is reported
 * and the operation leaves the heap as it was; a list with a broken link is let go, its blocks lost rather than followed.
 */
#include "internal.h"

static uint32_t check_word(const struct kheap *heap, const struct block *block, uint32_t size_flags,
                           uint32_t class_plus_1)
{
	uint64_t x = (uintptr_t)block + heap->secret;

	x ^= (uint64_t)size_flags << 32 ^ (uint64_t)class_plus_1 << 24;
	/* Multiplicative hashing (Knuth, TAOCP 3, 6.4): the top bits depend on all bits below. */
	return (uint32_t)((x * 0x9e3779b97f4a7c15u) >> 40);
}

bool block_tag_holds(const struct kheap *heap, const struct block *block)
{
	return block->tag >> 8 == check_word(heap, block, block->size_flags, block->tag & 0xff);
}

void block_seal(const struct kheap *heap, struct block *block, uint32_t size_flags, unsigned class_plus_1)
{
	block->size_flags = size_flags;
	block->tag = check_word(heap, block, size_flags, class_plus_1) << 8 | class_plus_1;
}

static void block_reflag(const struct kheap *heap, struct block *block, uint32_t set, uint32_t clear)
{
	block_seal(heap, block, (block->size_flags & ~clear) | set, block->tag & 0xff);
}

void block_bin_of(size_t size, unsigned *fl, unsigned *sl)
{
	size_t units = size / GRANULE;

	if (units < BLOCK_SL) {
		*fl = 0;
		*sl = (unsigned)units;
		return;
	}
	unsigned top = log2_floor(units);

	*fl = top - BLOCK_SL_SHIFT + 1;
	*sl = (unsigned)(units >> (top - BLOCK_SL_SHIFT)) & (BLOCK_SL - 1);
}

/* ---- free lists ---------------------------------------------------------------------------------------------- */

bool block_is_free(const struct kheap *heap, const struct block *block)
{
	uintptr_t address = (uintptr_t)block;
	const struct region *region = region_of(heap, address);

	if (address % GRANULE != GRANULE - BLOCK_HEADER || !region)
		return false;
	enum page_kind kind = page_kind_of(region, (address >> PAGE_SHIFT) - region->first_page);

	if (kind != PAGE_BLOCK && kind != PAGE_BLOCK_HEAD)
		return false;
	return block_tag_holds(heap, block) && !(block->size_flags & BLOCK_USED);
}

/* Do both neighbours in the list know this block? */
static bool links_hold(const struct kheap *heap, const struct block *block)
{
	if (block->next && !(block_is_free(heap, block->next) && block->next->prev == block))
		return false;
	if (block->prev)
		return block_is_free(heap, block->prev) && block->prev->next == block;
	unsigned fl, sl;

	block_bin_of(block_size(block), &fl, &sl);
	return heap->blocks.heads[fl][sl] == block;
}

/* A list is broken at this block: its header was overwritten, or its links were, which only a write after free can do. */
static void report_list(struct kheap *heap, struct block *block)
{
	if (!block_is_free(heap, block))
		heap_error(heap, KMALLOC_DAMAGED_TAG, (uintptr_t)block, 0);
	else if (block->next && !block_is_free(heap, block->next))
		heap_error(heap, KMALLOC_WRITE_AFTER_FREE, (uintptr_t)&block->next, block_size(block) - BLOCK_HEADER);
	else if (block->next && block->next->prev != block)
		heap_error(heap, KMALLOC_WRITE_AFTER_FREE, (uintptr_t)&block->next->prev,
		           block_size(block->next) - BLOCK_HEADER);
	else
		heap_error(heap, KMALLOC_WRITE_AFTER_FREE, (uintptr_t)&block->prev, block_size(block) - BLOCK_HEADER);
}

static void bin_clear(struct block_bins *bins, unsigned fl, unsigned sl)
{
	bins->heads[fl][sl] = NULL;
	bins->sl_bits[fl] &= (uint16_t) ~(1u << sl);
	if (!bins->sl_bits[fl])
		bins->fl_bits &= ~(1u << fl);
}

/* Write the parts of a header that only free blocks have, and put it first in its list. */
static void bin_insert(struct kheap *heap, struct block *block)
{
	struct block_bins *bins = &heap->blocks;
	unsigned fl, sl;

	block_bin_of(block_size(block), &fl, &sl);
	*block_footer(block) = block_size(block);
	block->prev = NULL;
	block->next = bins->heads[fl][sl];
	/* The address of a list's first block stands out of line, so it is what was put there. */
	if (block->next)
		block->next->prev = block;
	bins->heads[fl][sl] = block;
	bins->sl_bits[fl] |= (uint16_t)(1u << sl);
	bins->fl_bits |= 1u << fl;
	heap->counters.free_block_bytes += block_size(block);
}

/* links_hold() was asked. */
static void bin_remove(struct kheap *heap, struct block *block)
{
	unsigned fl, sl;

	heap->counters.free_block_bytes -= block_size(block);
	if (block->next)
		block->next->prev = block->prev;
	if (block->prev) {
		block->prev->next = block->next;
		return;
	}
	block_bin_of(block_size(block), &fl, &sl);
	heap->blocks.heads[fl][sl] = block->next;
	if (!block->next)
		bin_clear(&heap->blocks, fl, sl);
}

/* ---- allocation ---------------------------------------------------------------------------------------------- */

/* Where an aligned payload would lie in this free block, or 0. What is in front of it must be a block of its own. */
static uintptr_t block_fit(const struct block *block, size_t need, size_t alignment)
{
	uintptr_t first = block_payload(block);
	uintptr_t payload = align_up(first, alignment);

	if (payload != first && payload - first < BLOCK_MIN)
		payload = align_up(first + BLOCK_MIN, alignment);
	if (payload - first > block_size(block) || block_size(block) - (payload - first) < need)
		return 0;
	return payload;
}

/* The smallest that fits among the first few of a list. A list with a broken link is let go. */
static struct block *bin_find(struct kheap *heap, unsigned fl, unsigned sl, size_t need, size_t alignment)
{
	struct block *block = heap->blocks.heads[fl][sl];
	struct block *best = NULL;

	for (unsigned tries = heap->is_thorough ? THOROUGH_TRIES : BLOCK_TRIES; block && tries;
	     tries--, block = block->next) {
		if (!block_is_free(heap, block) || !links_hold(heap, block)) {
			report_list(heap, block);
			bin_clear(&heap->blocks, fl, sl);
			return NULL;
		}
		if ((!best || block_size(block) < block_size(best)) && block_fit(block, need, alignment))
			best = block;
		if (best && block_size(best) == need)
			break;
	}
	return best;
}

/* Bins upwards: above the first, every block fits an ordinary request; an aligned one may look at each bin once. */
static struct block *block_find(struct kheap *heap, size_t need, size_t alignment)
{
	struct block_bins *bins = &heap->blocks;
	unsigned fl, sl;

	block_bin_of(need, &fl, &sl);
	uint32_t sl_bits = bins->sl_bits[fl] & (0xffffu << sl);

	for (;;) {
		while (sl_bits) {
			struct block *block = bin_find(heap, fl, lowest_bit(sl_bits), need, alignment);

			if (block)
				return block;
			sl_bits &= sl_bits - 1;
		}
		if (++fl >= BLOCK_FL || !(bins->fl_bits >> fl))
			return NULL;
		fl += lowest_bit(bins->fl_bits >> fl);
		sl_bits = bins->sl_bits[fl];
	}
}

/* Tell the block behind whether the one before it is free. A damaged header is reported and not blessed. */
static void tell_next(struct kheap *heap, struct block *next, bool prev_free)
{
	if (!block_tag_holds(heap, next))
		heap_error(heap, KMALLOC_DAMAGED_TAG, (uintptr_t)next, 0);
	else
		block_reflag(heap, next, prev_free ? BLOCK_PREV_FREE : 0, prev_free ? 0 : BLOCK_PREV_FREE);
}

/* A used block is `size` bytes with `flags`; what is left of `total` behind it becomes a free block if it is large enough. */
static void block_split(struct kheap *heap, struct block *block, size_t total, size_t size, uint32_t flags,
                        unsigned class_plus_1)
{
	if (total - size < BLOCK_MIN)
		size = total;
	block_seal(heap, block, (uint32_t)size | flags | BLOCK_USED, class_plus_1);
	struct block *next = block_next(block);

	if (size == total) {
		tell_next(heap, next, false);
		return;
	}
	block_seal(heap, next, (uint32_t)(total - size), 0);
	bin_insert(heap, next);
	tell_next(heap, block_next(next), true);
}

/* Poison that the caller is about to own must be whole; links and the footer were the heap's. */
static void block_wake(struct kheap *heap, struct block *block, uintptr_t payload, size_t need)
{
	if (!HARDENED)
		return;
	uintptr_t start = max_size(payload, block_payload(block) + 2 * sizeof(block->next));
	uintptr_t end = min_size(payload + need - BLOCK_HEADER, (uintptr_t)block_footer(block));

	if (start < end)
		guard_verify(heap, start, end - start);
}

uintptr_t block_alloc(struct kheap *heap, size_t size, size_t alignment, unsigned class_index)
{
	size_t need = max_size(align_up(size + BLOCK_HEADER, GRANULE), BLOCK_MIN);
	struct block *block = block_find(heap, need, alignment);

	if (!block && area_grow(heap, need, alignment))
		block = block_find(heap, need, alignment);
	if (!block)
		return 0;
	uintptr_t payload = block_fit(block, need, alignment);
	size_t total = block_size(block);
	uint32_t flags = block->size_flags & BLOCK_FIRST;

	block_wake(heap, block, payload, need);
	area_used(heap, block);
	bin_remove(heap, block);
	size_t gap = payload - block_payload(block);

	if (gap) {
		block_seal(heap, block, (uint32_t)gap | flags, 0);
		bin_insert(heap, block);
		block = block_of_payload(payload);
		total -= gap;
		flags = BLOCK_PREV_FREE;
	}
	block_split(heap, block, total, need, flags, class_index == SLAB_NO_CLASS ? 0 : class_index + 1);
	return payload;
}

/* ---- free ---------------------------------------------------------------------------------------------------- */

/* The free block in front of this one, if its header, its size and its links all hold; NULL: damaged (reported). */
static struct block *block_before(struct kheap *heap, struct block *block)
{
	uint64_t size = *(uint64_t *)((uintptr_t)block - BLOCK_FOOTER);
	struct block *before = block_at((uintptr_t)block - (size_t)size);

	if (size >= BLOCK_MIN && size <= AREA_MAX_PAGES * PAGE_SIZE && block_is_free(heap, before) &&
	    block_size(before) == size) {
		if (links_hold(heap, before))
			return before;
		report_list(heap, before);
		return NULL;
	}
	heap_error(heap, KMALLOC_DAMAGED_TAG, (uintptr_t)block - BLOCK_FOOTER, 0);
	return NULL;
}

bool block_free(struct kheap *heap, struct region *region, struct block *block)
{
	struct block *before = NULL;
	struct block *next = block_next(block);
	size_t total = block_size(block);
	uint32_t flags = block->size_flags & BLOCK_FIRST;
	bool next_is_free = !(next->size_flags & BLOCK_USED);

	if (!block_tag_holds(heap, next)) {
		heap_error(heap, KMALLOC_DAMAGED_TAG, (uintptr_t)next, 0);
		return false;
	}
	if (next_is_free && !links_hold(heap, next)) {
		report_list(heap, next);
		return false;
	}
	if (block->size_flags & BLOCK_PREV_FREE) {
		before = block_before(heap, block);
		if (!before)
			return false;
	}
	guard_poison(block_payload(block), total - BLOCK_HEADER);
	/* A header that is swallowed must not be taken for one again. */
	if (next_is_free) {
		area_used(heap, next);
		total += block_size(next);
		bin_remove(heap, next);
		next->tag = 0;
		next->size_flags = 0;
		guard_poison((uintptr_t)next, BLOCK_HEADER + 2 * sizeof(next->next));
	}
	if (before) {
		area_used(heap, before);
		bin_remove(heap, before);
		block->tag = 0;
		block->size_flags = 0;
		guard_poison((uintptr_t)block - BLOCK_FOOTER, BLOCK_FOOTER + BLOCK_HEADER);
		total += block_size(before);
		flags = before->size_flags & BLOCK_FIRST;
		block = before;
	}
	block_seal(heap, block, (uint32_t)total | flags, 0);
	if (area_trim(heap, region, block))
		return true;
	bin_insert(heap, block);
	tell_next(heap, block_next(block), true);
	region_settle(heap, region);
	return true;
}

void block_insert_free(struct kheap *heap, struct block *block, size_t size, uint32_t flags)
{
	block_seal(heap, block, (uint32_t)size | flags, 0);
	bin_insert(heap, block);
	tell_next(heap, block_next(block), true);
}

bool block_retire(struct kheap *heap, struct block *block)
{
	if (!links_hold(heap, block))
		return false;
	bin_remove(heap, block);
	return true;
}

static bool block_shrink(struct kheap *heap, struct region *region, struct block *block, size_t need)
{
	size_t total = block_size(block);
	struct block *next = block_next(block);

	if (total - need < BLOCK_MIN)
		return true;
	if (!block_tag_holds(heap, next)) {
		heap_error(heap, KMALLOC_DAMAGED_TAG, (uintptr_t)next, 0);
		return false;
	}
	if (!(next->size_flags & BLOCK_USED) && !links_hold(heap, next)) {
		report_list(heap, next);
		return false;
	}
	block_seal(heap, block, (uint32_t)need | (block->size_flags & BLOCK_FLAGS), block->tag & 0xff);
	struct block *rest = block_next(block);

	block_seal(heap, rest, (uint32_t)(total - need) | BLOCK_USED, 0);
	return block_free(heap, region, rest);
}

bool block_resize(struct kheap *heap, struct region *region, struct block *block, size_t size)
{
	size_t need = max_size(align_up(size + BLOCK_HEADER, GRANULE), BLOCK_MIN);
	struct block *next = block_next(block);
	size_t total = block_size(block);

	if (need <= total)
		return block_shrink(heap, region, block, need);
	if (!block_tag_holds(heap, next)) {
		heap_error(heap, KMALLOC_DAMAGED_TAG, (uintptr_t)next, 0);
		return false;
	}
	if ((next->size_flags & BLOCK_USED) || total + block_size(next) < need)
		return false;
	if (!links_hold(heap, next)) {
		report_list(heap, next);
		return false;
	}
	block_wake(heap, next, block_payload(next), need - total);
	total += block_size(next);
	bin_remove(heap, next);
	next->tag = 0;
	block_split(heap, block, total, need, block->size_flags & (BLOCK_FIRST | BLOCK_PREV_FREE), block->tag & 0xff);
	return true;
}
