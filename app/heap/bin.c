/* SPDX-License-Identifier: MIT */
/*
 * The free blocks: lists by size, and the victim, which is in none. No link is followed before the block that it leads to is known to be
 * one; a list with a broken link is let go, its blocks lost.
 */
#include "internal.h"

bool block_is_ours(const struct kheap *heap, uintptr_t address)
{
	const struct region *region = region_of(heap, address);

	return region && region_of(heap, address + GRANULE) == region;
}

bool block_is_free(const struct kheap *heap, const struct block *block)
{
	uintptr_t address = (uintptr_t)block;
	const struct region *region = region_of(heap, address);

	if (address % GRANULE != GRANULE - BLOCK_HEADER || !region)
		return false;
	enum page_kind kind = page_kind_of(region, (address >> PAGE_SHIFT) - region->first_page);

	if (!is_block_kind(kind))
		return false;
	return block_tag_holds(heap, block) && !(block->size_flags & BLOCK_USED);
}

/* A free block in some list, as far as its header tells: one that was merged, or is the victim, may still have links. */
INLINE bool is_listed(const struct kheap *heap, const struct block *block)
{
	return block != heap->victim && block_is_readable(heap, block) && block_tag_holds(heap, block) &&
	       !(block->size_flags & BLOCK_USED);
}

/* Do both neighbours in the list know this block? The victim is in no list. */
bool block_links_hold(const struct kheap *heap, const struct block *block)
{
	if (block == heap->victim)
		return true;
	if (block->next && !(is_listed(heap, block->next) && block->next->prev == block))
		return false;
	if (block->prev)
		return is_listed(heap, block->prev) && block->prev->next == block;
	return heap->blocks.heads[block_bin_of(block_size(block))] == block;
}

/* A list is broken at this block: its header was overwritten, or its links were, which only a write after free can do. */
COLD void bin_report(struct kheap *heap, struct block *block)
{
	if (!block_is_free(heap, block))
		heap_error(heap, KMALLOC_DAMAGED_TAG, (uintptr_t)block, 0);
	else if (block->next && block_is_readable(heap, block->next) && block->next->prev == block &&
	         !block_tag_holds(heap, block->next))
		heap_error(heap, KMALLOC_DAMAGED_TAG, (uintptr_t)block->next, 0);
	else if (block->next && !block_is_free(heap, block->next))
		heap_error(heap, KMALLOC_WRITE_AFTER_FREE, (uintptr_t)&block->next, block_size(block) - BLOCK_HEADER);
	else if (block->next && block->next->prev != block)
		heap_error(heap, KMALLOC_WRITE_AFTER_FREE, (uintptr_t)&block->next->prev,
		           block_size(block->next) - BLOCK_HEADER);
	else
		heap_error(heap, KMALLOC_WRITE_AFTER_FREE, (uintptr_t)&block->prev, block_size(block) - BLOCK_HEADER);
}

void bin_clear(struct block_bins *bins, unsigned bin)
{
	bins->heads[bin] = NULL;
	bins->bits[bin / 64] &= ~((uint64_t)1 << bin % 64);
}

/* Put a free block first in its list. */
INLINE void list_insert(struct kheap *heap, struct block *block)
{
	struct block_bins *bins = &heap->blocks;
	unsigned bin = block_bin_of(block_size(block));
	struct block *next = bins->heads[bin];

	block->prev = NULL;
	block->next = next;
	bins->heads[bin] = block;
	/* The address of a list's first block stands out of line, so it is what was put there. */
	if (next)
		next->prev = block;
	else
		bins->bits[bin / 64] |= (uint64_t)1 << bin % 64;
}

/* Write the footer, which only free blocks have, and put the block in its list. */
void bin_insert(struct kheap *heap, struct block *block)
{
	*block_footer(block) = block_size(block);
	heap->counters.free_block_bytes += block_size(block);
	list_insert(heap, block);
}

/* The victim is in no list: until it is no victim any more, where others have links it holds poison as everywhere. */
INLINE void victim_wake(struct kheap *heap, const struct block *victim)
{
	guard_verify(heap, block_payload(victim), LINKS_BYTES);
}

/* block_links_hold() was asked. */
void bin_remove(struct kheap *heap, struct block *block)
{
	heap->counters.free_block_bytes -= block_size(block);
	if (block == heap->victim) {
		victim_wake(heap, block);
		victim_forget(heap);
		return;
	}
	if (block->next)
		block->next->prev = block->prev;
	if (block->prev) {
		block->prev->next = block->next;
		return;
	}
	unsigned bin = block_bin_of(block_size(block));

	heap->blocks.heads[bin] = block->next;
	if (!block->next)
		bin_clear(&heap->blocks, bin);
}

void victim_retire(struct kheap *heap)
{
	struct block *victim = heap->victim;
	uint64_t header = heap->victim_header;

	victim_forget(heap);
	if (!victim)
		return;
	/* Its header may have been overrun: then nobody can tell how large it is, and it is let go. */
	if (LIKELY(block_header(victim) == header)) {
		victim_wake(heap, victim);
		list_insert(heap, victim);
	} else {
		heap_error(heap, KMALLOC_DAMAGED_TAG, (uintptr_t)victim, 0);
	}
}

/* The free block becomes the victim, and the old one goes to its list. */
void victim_set(struct kheap *heap, struct block *block)
{
	*block_footer(block) = block_size(block);
	heap->counters.free_block_bytes += block_size(block);
	victim_retire(heap);
	heap->victim = block;
	heap->victim_header = block_header(block);
	heap->victim_region = region_of(heap, (uintptr_t)block);
	guard_poison(block_payload(block), LINKS_BYTES);
}
