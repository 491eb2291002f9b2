/* SPDX-License-Identifier: MIT */
/*
 * The victim: the free block from which the next ones are cut, one after the other, so that what is allocated together lies together (the
 * "designated victim" of Doug Lea's malloc). It is in no list.
 */
#ifndef HEAP_VICTIM_H
#define HEAP_VICTIM_H

#include "internal.h"

/* A block is handed out. All that start in its cell share a magazine, or have none. */
INLINE void block_starts(const struct region *region, uintptr_t payload, unsigned magazine)
{
	size_t n = granule_of(region, payload);
	uint32_t *word = &region->starts[n / WORD_GRANULES];
	uint8_t *byte = &region->magazines[n / CELL_GRANULES];

	if (UNLIKELY(cell_bits(*word, n)) && *byte != magazine)
		magazine = 0;
	magazine_set(byte, magazine);
	put_bits(word, *word | (uint32_t)1 << n % WORD_GRANULES);
}

/*
 * Cut from the front of the victim, if it is large enough to stay one and no bin, from that of `need` on, has a block that fits better; else
 * 0. This is how nearly all new blocks come about, so it moves the victim instead of taking it out and putting the rest back.
 */
INLINE uintptr_t victim_cut(struct kheap *heap, size_t need, unsigned bin, unsigned label, unsigned magazine)
{
	struct block *block = heap->victim;
	uint64_t header = heap->victim_header;
	size_t size = header & UINT32_MAX & ~(uint64_t)BLOCK_FLAGS;
	uintptr_t payload = block_payload(block);

	if (HARDENED || UNLIKELY(size < need + VICTIM_MIN))
		return 0;
	if (UNLIKELY(bins_have(&heap->blocks, bin)) && bin_next(&heap->blocks, bin) < block_bin_of(size))
		return 0;
	/* As it was sealed: no need to work the check out again. */
	if (UNLIKELY(block_header(block) != header) || UNLIKELY(block == heap->empty_area))
		return 0;
	struct block *rest = block_at((uintptr_t)block + need);

	block_seal_first(heap, block, need | (header & BLOCK_FIRST) | BLOCK_USED, label);
	heap->victim_header = block_seal_first(heap, rest, size - need, LABEL_PLAIN);
	heap->victim = rest;
	*(uint64_t *)((uintptr_t)rest + size - need - BLOCK_FOOTER) = size - need;
	heap->counters.free_block_bytes -= need;
	block_starts(heap->victim_region, payload, magazine);
	*key_word(payload) = 0;
	return payload;
}

#endif
