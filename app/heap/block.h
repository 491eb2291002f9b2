/* SPDX-License-Identifier: MIT */
/*
 * Blocks and their areas: the header in front of every block, and what bin.c, block.c and area.c do for the other storeys.
 */
#ifndef HEAP_BLOCK_H
#define HEAP_BLOCK_H

#include "layout.h"

#pragma GCC visibility push(hidden)

static inline size_t block_size(const struct block *block)
{
	return block->size_flags & ~(uint32_t)BLOCK_FLAGS;
}

static inline struct block *block_at(uintptr_t address)
{
	return (struct block *)address;
}

static inline struct block *block_next(struct block *block)
{
	return block_at((uintptr_t)block + block_size(block));
}

static inline struct block *block_of_payload(uintptr_t payload)
{
	return block_at(payload - BLOCK_HEADER);
}

static inline uintptr_t block_payload(const struct block *block)
{
	return (uintptr_t)block + BLOCK_HEADER;
}

/* The size that a free block repeats in its last word. */
static inline uint64_t *block_footer(struct block *block)
{
	return (uint64_t *)((uintptr_t)block + block_size(block) - BLOCK_FOOTER);
}

/*
 * The check bits of a header make a hash of all of it zero: multiplicative hashing (Knuth, TAOCP 3, 6.4), whose top bits depend on
 * all bits below. The multiplier ends with 1 in as many bits as the check has, so what is missing to zero is the check. It does not
 * cover BLOCK_PREV_FREE, which changes with the neighbour; that one is believed only if the block before confirms it.
 */
#define HEADER_LABEL_SHIFT 32
#define HEADER_CHECK_SHIFT 40
#define HEADER_MULTIPLIER 0x9e3779b97f000001u

/*
 * The header in one piece: whoever owns a block reads it without the lock, to free it, while its neighbour may be changing
 * BLOCK_PREV_FREE or BLOCK_FIRST in it. Either value will do.
 */
INLINE uint64_t block_header(const struct block *block)
{
	return __atomic_load_n((const word_alias *)(uintptr_t)block, __ATOMIC_RELAXED);
}

INLINE void block_set_header(struct block *block, uint64_t header)
{
	__atomic_store_n((word_alias *)(uintptr_t)block, header, __ATOMIC_RELAXED);
}

/* 0: its check bits hold. */
INLINE uint64_t header_hash(const struct kheap *heap, const struct block *block, uint64_t header)
{
	uint64_t key = heap->secret + block_payload(block);

	return ((header & ~(uint64_t)BLOCK_PREV_FREE) + key) * HEADER_MULTIPLIER >> HEADER_CHECK_SHIFT;
}

/* Does the check word of this header hold? Touches the header only. */
INLINE bool block_tag_holds(const struct kheap *heap, const struct block *block)
{
	return header_hash(heap, block, block_header(block)) == 0;
}

/* Usable bytes of the live block that starts here; 0: its header is damaged. */
INLINE size_t usable_of_block(const struct kheap *heap, uintptr_t address)
{
	uint64_t header = block_header(block_of_payload(address));

	if (UNLIKELY(header_hash(heap, block_of_payload(address), header)))
		return 0;
	return (size_t)(header & UINT32_MAX & ~(uint64_t)BLOCK_FLAGS) - BLOCK_HEADER;
}

INLINE unsigned block_label(const struct block *block)
{
	return block_header(block) >> HEADER_LABEL_SHIFT & 0xff;
}

INLINE uint64_t block_seal(const struct kheap *heap, struct block *block, uint64_t size_flags, unsigned label)
{
	uint64_t header = size_flags | (uint64_t)label << HEADER_LABEL_SHIFT;

	header -= header_hash(heap, block, header) << HEADER_CHECK_SHIFT;
	block_set_header(block, header);
	return header;
}

/* The same for one that follows a block that is not free. */
INLINE uint64_t block_seal_first(const struct kheap *heap, struct block *block, uint64_t size_flags, unsigned label)
{
	uint64_t header = size_flags | (uint64_t)label << HEADER_LABEL_SHIFT;

	header -= (header + heap->secret + block_payload(block)) * HEADER_MULTIPLIER >> HEADER_CHECK_SHIFT
	                                                                                        << HEADER_CHECK_SHIFT;
	block_set_header(block, header);
	return header;
}

INLINE unsigned block_bin_of(size_t size)
{
	size_t units = size / GRANULE;
	unsigned shift;

	if (units < 1 << BIN_SHIFT)
		return (unsigned)units;
	shift = log2_floor(units) - BIN_SHIFT;
	if (shift < BIN_FINE_OCTAVES)
		return (shift << BIN_SHIFT) + (unsigned)(units >> shift);
	return BIN_COARSE + ((shift - BIN_FINE_OCTAVES) << BIN_COARSE_SHIFT) +
	       (unsigned)(units >> (shift + BIN_SHIFT - BIN_COARSE_SHIFT)) - (1u << BIN_COARSE_SHIFT);
}

/* ---- bin.c -------------------------------------------------------------------------------------------------- */

/* The first bin from `bin` on that is not empty; BLOCK_BINS: none. */
INLINE unsigned bin_next(const struct block_bins *bins, unsigned bin)
{
	unsigned word = bin / 64;
	uint64_t bits = bin < BLOCK_BINS ? bins->bits[word] & UINT64_MAX << bin % 64 : 0;

	while (!bits) {
		if (++word >= BIN_WORDS)
			return BLOCK_BINS;
		bits = bins->bits[word];
	}
	return 64 * word + lowest_bit(bits);
}

/* Is there anything in the bins from `bin` on? */
INLINE bool bins_have(const struct block_bins *bins, unsigned bin)
{
	const uint64_t *word = &bins->bits[bin / 64];

	_Static_assert(BIN_WORDS == 2, "all words are looked at");
	return ((word[0] & UINT64_MAX << bin % 64) | word[1]) != 0;
}

/* Nothing is in this list any more. */
void bin_clear(struct block_bins *bins, unsigned bin);
/* A free block gets its footer, which only free blocks have, and goes into its list; or out of it, after block_links_hold(). */
void bin_insert(struct kheap *heap, struct block *block);
void bin_remove(struct kheap *heap, struct block *block);
/* A free block, not a small one, becomes the victim, and the old one goes to its list; or there is none any more. */
#define VICTIM_MIN ((size_t)512)
void victim_set(struct kheap *heap, struct block *block);
void victim_retire(struct kheap *heap);
static inline void victim_forget(struct kheap *heap)
{
	heap->victim = NULL;
	heap->victim_header = 0;
}
/* Are this address and the next granule in a region? Not in line: few blocks lie outside the window. */
bool block_is_ours(const struct kheap *heap, uintptr_t address);
/* May this be read as a block, with its links? It is where one could be, in memory of the heap; behind a region's last header is nothing. */
INLINE bool block_is_readable(const struct kheap *heap, const struct block *block)
{
	uintptr_t address = (uintptr_t)block;

	return address % GRANULE == GRANULE - BLOCK_HEADER &&
	       (LIKELY((address >> GRANULE_SHIFT) - heap->window.first_granule < heap->window.n_granules - 1) ||
	        block_is_ours(heap, address));
}

/* Do both neighbours in the list know this block? The victim is in no list. */
bool block_links_hold(const struct kheap *heap, const struct block *block);
/* A list is broken at this block: tell how. */
void bin_report(struct kheap *heap, struct block *block);

/* ---- block.c ------------------------------------------------------------------------------------------------ */

/* Payload of a block of `need` bytes, header included, or more; 0: no pages. */
uintptr_t block_cut(struct kheap *heap, size_t need, unsigned label);
/* The same, when the victim does not serve it, and with any alignment. */
uintptr_t block_search(struct kheap *heap, size_t need, size_t alignment, unsigned label);
/* Payload of at least `size` bytes aligned to `alignment`, or 0. */
uintptr_t block_alloc(struct kheap *heap, size_t size, size_t alignment, unsigned label);
/* The slab class that a block of this label stands in for, or SLAB_NO_CLASS. */
static inline unsigned label_slab_class(unsigned label)
{
	if (label >= LABEL_SLAB_SIZED)
		return label - LABEL_SLAB_SIZED < SLAB_CLASSES ? label - LABEL_SLAB_SIZED : SLAB_NO_CLASS;
	return label - LABEL_SLAB < SLAB_CLASSES ? label - LABEL_SLAB : SLAB_NO_CLASS;
}
/* The block was checked by heap_find. False: a neighbour's tag is damaged (reported), nothing changed. */
bool block_free(struct kheap *heap, struct region *region, struct block *block);
/* Make the payload `size` bytes long where it stands, or up to `most` if it grows and they are there; region: only to shrink. */
bool block_resize(struct kheap *heap, struct region *region, struct block *block, size_t size, size_t most);
/* A free block of `size` bytes where none was: sealed, the block behind it told, but in no bin. */
void block_make_free(struct kheap *heap, struct block *block, size_t size, uint32_t flags);
/* And into its bin. */
void block_insert_free(struct kheap *heap, struct block *block, size_t size, uint32_t flags);
/* Is there a free block at this address, whatever it is? */
bool block_is_free(const struct kheap *heap, const struct block *block);
/* Take a free block out of its bin; false: its links are damaged. */
bool block_retire(struct kheap *heap, struct block *block);

/* ---- area.c ------------------------------------------------------------------------------------------------- */

/* Pages that are in no list become an area, the first page from `offset` on, or part of one; the free block that they are part of, in no bin. */
struct block *area_create(struct kheap *heap, struct region *region, size_t page, size_t n_pages, size_t offset);
/* Get pages for a block of `need` bytes with this alignment: a free block, in no bin. NULL: there are none. */
struct block *area_grow(struct kheap *heap, size_t need, size_t alignment);
/* A free block is about to be used, or to change. */
void area_used_up(struct kheap *heap, struct block *block);
INLINE void area_used(struct kheap *heap, struct block *block)
{
	if (UNLIKELY(block == heap->empty_area))
		area_used_up(heap, block);
}
/* A free block in no bin: give pages back if enough of it is whole pages; false: nothing done. */
bool area_trim(struct kheap *heap, struct region *region, struct block *block);
/* Free blocks give back whole pages, though they are few: n side by side, if there are such. */
bool area_release(struct kheap *heap, size_t n_pages);
/* Give the empty area that is kept back. */
bool area_drain(struct kheap *heap);
/* The page that begins the area of this one. */
size_t area_head(const struct region *region, size_t page);
/* The first header of the area that begins with this page. */
struct block *area_first(const struct region *region, size_t head);
/* Is the tail area of a region wholly free? True when it has none. */
bool area_tail_is_free(const struct kheap *heap, const struct region *region);
/* Take the tail area's block out of the bins, because its region goes. */
bool area_tail_retire(struct kheap *heap, struct region *region);

#pragma GCC visibility pop

#endif
