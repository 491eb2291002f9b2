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
#include "victim.h"

#define ALIGNED_TRIES 2 /* bins that an aligned request looks through */

/* ---- starts --------------------------------------------------------------------------------------------------- */

/* The magazine that takes a block with this label and size without a look at it, or 0. */
INLINE unsigned magazine_of_label(const struct kheap *heap, unsigned label, size_t size)
{
	if (LIKELY(label - LABEL_SIZED < BLOCK_CLASSES))
		return MAGAZINE_BLOCK + label - LABEL_SIZED;
	if (size > BLOCK_CLASS_MAX)
		return MAGAZINE_LARGE;
	/* What stands in goes, once there are slabs; what stands in for want of pages is as good as an object of them. */
	if (label >= LABEL_SLAB_SIZED &&
	    (heap->slabs[label - LABEL_SLAB_SIZED].n_slabs ? heap->config.source.get != 0 : !heap->n_caches))
		return MAGAZINE_SLAB + label - LABEL_SLAB_SIZED;
	return 0;
}

/* It changes its size, so it is of no class any more. */
INLINE void block_loses_class(const struct kheap *heap, uintptr_t payload)
{
	magazine_set(magazine_byte(region_of(heap, payload), payload), 0);
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

/* The smallest that fits among the first few of a list, or NULL. What it is has still to be looked at; all before it are sound. */
static struct block *list_find(struct kheap *heap, unsigned bin, size_t need, size_t alignment)
{
	struct block *block = heap->blocks.heads[bin];
	struct block *best = NULL;

	/* Of aligned ones fewer fit, and each is more work. */
	unsigned tries = alignment == GRANULE ? BLOCK_TRIES : BLOCK_TRIES / 2;

	for (tries = heap->is_thorough ? THOROUGH_TRIES : tries; block; tries--) {
		size_t size = block_size(block);

		if ((!best || size < block_size(best)) &&
		    (alignment == GRANULE ? size >= need : block_fit(block, need, alignment) != 0))
			best = block;
		if ((best && size == need) || tries == 1 || !block->next)
			break;
		/* The way on is looked at before it is gone; who takes `block` finds out what is wrong. */
		if (!block_is_readable(heap, block->next) || block->next->prev != block)
			return block;
		block = block->next;
	}
	return best;
}

/* It leaves its list; false: it, or its list, is damaged (reported), and the list is let go. */
static bool list_take(struct kheap *heap, unsigned bin, struct block *block)
{
	if (UNLIKELY(!block_tag_holds(heap, block) || block->size_flags & BLOCK_USED ||
	             block_bin_of(block_size(block)) != bin || !block_links_hold(heap, block))) {
		bin_report(heap, block);
		bin_clear(&heap->blocks, bin);
		return false;
	}
	area_used(heap, block);
	bin_remove(heap, block);
	return true;
}

/* Bins upwards: above the first, every block fits an ordinary request; an aligned one may look at each bin once. */
static struct block *block_find(struct kheap *heap, size_t need, size_t alignment)
{
	struct block *victim = alignment == GRANULE ? heap->victim : NULL;
	unsigned own = block_bin_of(need);
	unsigned victim_bin = BLOCK_BINS;
	unsigned aligned_tries = ALIGNED_TRIES;

	if (victim && block_size(victim) >= need)
		victim_bin = block_bin_of(block_size(victim));
	/* From this bin on every block fits, whatever its address. */
	unsigned sure = alignment == GRANULE ? own + 1 : block_bin_of(need + alignment + BLOCK_MIN) + 1;

	for (unsigned bin = bin_next(&heap->blocks, own); bin < BLOCK_BINS; bin = bin_next(&heap->blocks, bin + 1)) {
		struct block *block;

		if (bin >= victim_bin && bin != own)
			break;
		/* Of those in between an aligned request looks at a few, or, in the end, at all. */
		if (bin > own && bin < sure && !heap->is_thorough && aligned_tries-- == 0)
			bin = bin_next(&heap->blocks, sure);
		if (bin == BLOCK_BINS)
			break;
		block = bin < sure ? list_find(heap, bin, need, alignment) : heap->blocks.heads[bin];
		if (block && list_take(heap, bin, block))
			return block;
	}
	if (victim_bin == BLOCK_BINS)
		return NULL;
	if (UNLIKELY(!block_tag_holds(heap, victim) || victim->size_flags & BLOCK_USED)) {
		bin_report(heap, victim);
		victim_forget(heap);
		return NULL;
	}
	area_used(heap, victim);
	bin_remove(heap, victim);
	return victim;
}

/* Tell the block behind whether the one before it is free; its check word does not depend on that. */
static void tell_next(struct kheap *heap, struct block *next, bool prev_free)
{
	if (UNLIKELY(!block_tag_holds(heap, next)))
		heap_error(heap, KMALLOC_DAMAGED_TAG, (uintptr_t)next, 0);
	else if (prev_free)
		block_set_header(next, block_header(next) | BLOCK_PREV_FREE);
	else
		block_set_header(next, block_header(next) & ~(uint64_t)BLOCK_PREV_FREE);
}

/*
 * A used block is `size` bytes with `flags`; what is left of `total` behind it becomes a free block if it is large enough, and the
 * next victim: small requests are cut from one block after the other, so that what is allocated together lies together
 * (the "designated victim" of Doug Lea's malloc). The header behind it knows already that a free block lies before it.
 */
static void block_split(struct kheap *heap, struct block *block, size_t total, size_t size, uint32_t flags,
                        unsigned label)
{
	if (total - size < BLOCK_MIN)
		size = total;
	block_seal(heap, block, (uint32_t)size | flags | BLOCK_USED, label);
	struct block *next = block_next(block);

	if (size == total) {
		tell_next(heap, next, false);
		return;
	}
	block_seal(heap, next, (uint32_t)(total - size), 0);
	if (total - size >= VICTIM_MIN)
		victim_set(heap, next);
	else
		bin_insert(heap, next);
}

/* Poison that the caller is about to own, or headers and links to overwrite, must be whole; links and the footer were the heap's. */
static void block_wake(struct kheap *heap, struct block *block, uintptr_t payload, size_t need)
{
	if (!HARDENED)
		return;
	uintptr_t first = block_payload(block) + (block == heap->victim ? 0 : LINKS_BYTES);
	uintptr_t start = max_size(payload - BLOCK_HEADER - BLOCK_FOOTER, first);
	uintptr_t end = min_size(payload + need + LINKS_BYTES, (uintptr_t)block_footer(block));

	if (start < end)
		guard_verify(heap, start, end - start);
}

uintptr_t block_search(struct kheap *heap, size_t need, size_t alignment, unsigned label)
{
	struct block *block;

	heap->is_laden = true;
	if (alignment != GRANULE)
		victim_retire(heap);
	block = block_find(heap, need, alignment);
	if (!block) {
		block = area_grow(heap, need, alignment);
		if (!block)
			return 0;
		if (!HARDENED && alignment == GRANULE && block_size(block) >= need + VICTIM_MIN) {
			victim_set(heap, block);
			/* Of what the bins have nothing fits. */
			return victim_cut(heap, need, BLOCK_BINS - 1, label, magazine_of_label(heap, label, need));
		}
	}
	uintptr_t payload = alignment == GRANULE ? block_payload(block) : block_fit(block, need, alignment);
	size_t total = block_size(block);
	uint32_t flags = block->size_flags & BLOCK_FIRST;

	block_wake(heap, block, payload, need);
	size_t gap = payload - block_payload(block);

	if (gap) {
		block_seal(heap, block, (uint32_t)gap | flags, 0);
		bin_insert(heap, block);
		block = block_of_payload(payload);
		total -= gap;
		flags = BLOCK_PREV_FREE;
	}
	block_split(heap, block, total, need, flags, label);
	block_starts(region_of(heap, payload), payload, magazine_of_label(heap, label, need));
	*key_word(payload) = 0;
	return payload;
}

uintptr_t block_cut(struct kheap *heap, size_t need, unsigned label)
{
	uintptr_t payload = victim_cut(heap, need, block_bin_of(need), label, magazine_of_label(heap, label, need));

	return LIKELY(payload != 0) ? payload : block_search(heap, need, GRANULE, label);
}

/* A block for a payload of so many bytes. */
static size_t block_need(size_t size)
{
	return max_size(align_up(size + BLOCK_HEADER, GRANULE), BLOCK_MIN);
}

uintptr_t block_alloc(struct kheap *heap, size_t size, size_t alignment, unsigned label)
{
	size_t need = block_need(size);

	return LIKELY(alignment == GRANULE) ? block_cut(heap, need, label) : block_search(heap, need, alignment, label);
}

/* ---- free ---------------------------------------------------------------------------------------------------- */

/* The free block in front of this one, if its header, its size and its links all hold; NULL: damaged (reported). */
static struct block *block_before(struct kheap *heap, struct block *block)
{
	uint64_t size = *(uint64_t *)((uintptr_t)block - BLOCK_FOOTER);
	struct block *before = block_at((uintptr_t)block - (size_t)size);

	if (size >= BLOCK_MIN && size <= AREA_MAX_PAGES * PAGE_SIZE && block_is_readable(heap, before) &&
	    block_tag_holds(heap, before) && !(before->size_flags & BLOCK_USED) && block_size(before) == size) {
		if (block_links_hold(heap, before))
			return before;
		bin_report(heap, before);
		return NULL;
	}
	heap_error(heap, KMALLOC_DAMAGED_TAG, (uintptr_t)block, 0);
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
	if (next_is_free && !block_links_hold(heap, next)) {
		bin_report(heap, next);
		return false;
	}
	if (block->size_flags & BLOCK_PREV_FREE) {
		before = block_before(heap, block);
		if (!before)
			return false;
	}
	heap->is_laden = true;
	start_clear(region, block_payload(block));
	if (!cell_has_starts(region, block_payload(block)))
		magazine_set(magazine_byte(region, block_payload(block)), 0);
	guard_poison(block_payload(block), total - BLOCK_HEADER);
	bool was_victim = heap->victim && ((next_is_free && next == heap->victim) || before == heap->victim);

	/* A header that is swallowed must not be taken for one again. */
	if (next_is_free) {
		area_used(heap, next);
		total += block_size(next);
		bin_remove(heap, next);
		next->tag = 0;
		next->size_flags = 0;
		guard_poison((uintptr_t)next, BLOCK_HEADER + LINKS_BYTES);
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
	/* Otherwise it is no whole area, nor spans enough pages. */
	if ((flags || total >= RELEASE_PAGES * PAGE_SIZE) && area_trim(heap, region, block))
		return true;
	if (was_victim)
		victim_set(heap, block);
	else
		bin_insert(heap, block);
	if (!next_is_free)
		block_set_header(next, block_header(next) | BLOCK_PREV_FREE);
	region_settle(heap, region);
	return true;
}

void block_make_free(struct kheap *heap, struct block *block, size_t size, uint32_t flags)
{
	block_seal(heap, block, (uint32_t)size | flags, 0);
	tell_next(heap, block_next(block), true);
}

void block_insert_free(struct kheap *heap, struct block *block, size_t size, uint32_t flags)
{
	block_make_free(heap, block, size, flags);
	bin_insert(heap, block);
}

bool block_retire(struct kheap *heap, struct block *block)
{
	if (!block_tag_holds(heap, block) || block->size_flags & BLOCK_USED || !block_links_hold(heap, block))
		return false;
	bin_remove(heap, block);
	return true;
}

/* Of another size, it is none of its class any more. */
static unsigned label_resized(const struct block *block)
{
	unsigned label = block_label(block);

	if (label >= LABEL_SLAB_SIZED)
		return label - LABEL_SLAB_SIZED + LABEL_SLAB;
	return label >= LABEL_SIZED ? LABEL_PLAIN : label;
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
	if (!(next->size_flags & BLOCK_USED) && !block_links_hold(heap, next)) {
		bin_report(heap, next);
		return false;
	}
	block_seal(heap, block, (uint32_t)need | (block->size_flags & BLOCK_FLAGS), label_resized(block));
	block_loses_class(heap, block_payload(block));
	struct block *rest = block_next(block);

	block_seal(heap, rest, (uint32_t)(total - need) | BLOCK_USED, 0);
	return block_free(heap, region, rest);
}

/* The next block is the victim, and has enough: it starts later. */
static bool victim_yield(struct kheap *heap, struct block *block, struct block *victim, size_t total, size_t need)
{
	size_t left = total + block_size(victim) - need;
	struct block *rest = block_at((uintptr_t)block + need);

	if (total + block_size(victim) < need + VICTIM_MIN || block_header(victim) != heap->victim_header)
		return false;
	area_used(heap, victim);
	block_wake(heap, victim, block_payload(victim), need - total);
	block_set_header(victim, 0);
	block_seal(heap, block, (uint32_t)need | (block->size_flags & BLOCK_FLAGS), label_resized(block));
	block_loses_class(heap, block_payload(block));
	block_seal(heap, rest, (uint32_t)left, LABEL_PLAIN);
	*block_footer(rest) = left;
	heap->victim = rest;
	heap->victim_header = block_header(rest);
	heap->counters.free_block_bytes -= need - total;
	return true;
}

bool block_resize(struct kheap *heap, struct region *region, struct block *block, size_t size, size_t most)
{
	size_t need = block_need(size), wanted = block_need(most);
	struct block *next = block_next(block);
	size_t total = block_size(block);

	if (need <= total)
		return block_shrink(heap, region, block, need);
	if (next == heap->victim && victim_yield(heap, block, next, total, wanted))
		return true;
	if (!block_tag_holds(heap, next)) {
		heap_error(heap, KMALLOC_DAMAGED_TAG, (uintptr_t)next, 0);
		return false;
	}
	if ((next->size_flags & BLOCK_USED) || total + block_size(next) < need)
		return false;
	if (!block_links_hold(heap, next)) {
		bin_report(heap, next);
		return false;
	}
	need = min_size(wanted, total + block_size(next));
	block_wake(heap, next, block_payload(next), need - total);
	total += block_size(next);
	bin_remove(heap, next);
	next->tag = 0;
	block_split(heap, block, total, need, block->size_flags & (BLOCK_FIRST | BLOCK_PREV_FREE),
	            label_resized(block));
	block_loses_class(heap, block_payload(block));
	return true;
}
