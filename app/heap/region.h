/* SPDX-License-Identifier: MIT */
/*
 * Regions: from an address to the region, and what the region's arrays say of the address; what region.c and section.c do for the other
 * storeys.
 */
#ifndef HEAP_REGION_H
#define HEAP_REGION_H

#include "layout.h"

#define MIN_CHUNK_PAGES 2 /* that lies apart */
#define TAIL_MIN_BYTES 128
#define REGION_PAGES_MAX ((size_t)UINT32_MAX) /* descriptors count pages in 32 bits */

/* Of starts, magazines and kinds; all that a page costs; and where chunks may be added to the region. */
#define PAGE_MAP_BYTES (PAGE_WORDS * sizeof(uint32_t) + PAGE_CELLS + 1)
#define PAGE_OVERHEAD_BYTES (sizeof(struct page_desc) + PAGE_MAP_BYTES)
#define RESERVE_PAGE_BYTES (PAGE_OVERHEAD_BYTES + sizeof(uint32_t))

#pragma GCC visibility push(hidden)

/* ---- section.c ---------------------------------------------------------------------------------------------- */

/*
 * Where a section's entries are looked for first, to be cut to the table: a pair of them, because where two regions meet they share a section.
 * Multiplied by two to the word's bits over the golden ratio, so that neighbours lie far from each other, and whatever sources leave between chunks,
 * not all have the same place (Knuth, "The Art of Computer Programming" 3, 6.4).
 */
#define SECTION_PAIR 2
#define WORD_BITS (8 * sizeof(uintptr_t))
#define SECTION_SPREAD ((uintptr_t)(UINT64_C(0x9e3779b97f4a7c15) >> (64 - WORD_BITS)))
INLINE size_t section_place(uintptr_t address, unsigned shift, size_t mask)
{
	return ((address >> shift) * SECTION_SPREAD >> WORD_BITS / 2) & mask;
}

/* The entry behind this one, or the first. */
INLINE size_t section_next(size_t place, size_t mask)
{
	return (place + 1) & (mask + SECTION_PAIR - 1);
}

/* Is it entered under large sections? The first one sooner: where the window is open it is seldom looked up. */
INLINE bool is_large(const struct region *region)
{
	return region->capacity >= (region->is_first ? LARGE_FIRST_PAGES : LARGE_REGION_PAGES);
}

INLINE unsigned sections_shift(const struct region *region)
{
	return is_large(region) ? LARGE_SECTION_SHIFT : SECTION_SHIFT;
}

/* The other size of sections. */
INLINE unsigned other_shift(unsigned shift)
{
	return SECTION_SHIFT + LARGE_SECTION_SHIFT - shift;
}

/* An address in granules; one that is misaligned becomes a number far out of every region. */
INLINE uintptr_t granule_number(uintptr_t address)
{
	return address >> GRANULE_SHIFT | address << (8 * sizeof(address) - GRANULE_SHIFT);
}

INLINE bool is_in_section(const struct section *section, uintptr_t number)
{
	return number - LOAD_FAST(section->first_granule) < LOAD_FAST(section->n_granules);
}

/* The entry of the region that has this address, or NULL. */
INLINE const struct section *section_at(const struct kheap *heap, uintptr_t address)
{
	uintptr_t number = address >> GRANULE_SHIFT;
	/* The mask first: tables only grow, so it is never too large for the table. */
	size_t mask = __atomic_load_n(&heap->section_mask, __ATOMIC_ACQUIRE);
	const struct section *table = LOAD(heap->sections), *section;
	unsigned shift = LOAD(heap->section_shift);

	for (unsigned n = 0; n < 2; n++, shift = other_shift(shift)) {
		size_t i = section_place(address, shift, mask);

		/* Of a table that has just moved the mask may be the old one: then no entry may tell that it is the last. */
		for (size_t left = mask + SECTION_PAIR; left; left--, i = section_next(i, mask)) {
			section = &table[i];
			if (is_in_section(section, number))
				return section;
			if (!LOAD(section->region))
				break;
		}
	}
	return NULL;
}

/* The region that holds `address` by the section table, or NULL. */
static inline struct region *region_in_table(struct kheap *heap, uintptr_t address)
{
	const struct section *section = section_at(heap, address);

	if (!section)
		return NULL;
	heap->near = section->region;
	return section->region;
}

INLINE bool is_in_region(const struct region *region, uintptr_t address)
{
	return (address >> PAGE_SHIFT) - region->first_page < region->n_pages;
}

/* The region that holds `address`, or NULL. With the lock held. */
INLINE struct region *region_of(const struct kheap *heap, uintptr_t address)
{
	if (LIKELY((address >> GRANULE_SHIFT) - heap->window.first_granule < heap->window.n_granules))
		return heap->window.region;
	if (LIKELY(is_in_region(heap->near, address)))
		return heap->near;
	/* What it notes is nobody's business. */
	return region_in_table((struct kheap *)(uintptr_t)heap, address);
}

static inline uintptr_t page_address(const struct region *region, size_t page)
{
	return (region->first_page + page) << PAGE_SHIFT;
}

/* The page of an address that is the region's. */
static inline size_t region_page(const struct region *region, uintptr_t address)
{
	return (address >> PAGE_SHIFT) - region->first_page;
}

#define REGION_BYTES ((sizeof(struct region) + GRANULE - 1) / GRANULE * GRANULE)

static inline size_t desc_page(const struct page_desc *desc)
{
	return desc->page;
}

INLINE struct region *desc_region(const struct page_desc *desc)
{
	return (struct region *)((uintptr_t)(desc - desc->page) - REGION_BYTES);
}

INLINE struct page_desc *region_desc(const struct region *region, size_t page)
{
	struct page_desc *desc = &region->descs[page];

	desc->page = (uint32_t)page;
	return desc;
}

static inline uintptr_t desc_address(const struct page_desc *desc)
{
	return page_address(desc_region(desc), desc_page(desc));
}

/* Is this a kind at all? A damaged one must not lead to a class that is none. */
static inline bool is_kind(enum page_kind kind)
{
	return kind < PAGE_KINDS;
}

static inline bool is_block_kind(enum page_kind kind)
{
	return (unsigned)kind - PAGE_BLOCK_HEAD <= PAGE_BLOCK - PAGE_BLOCK_HEAD;
}

static inline bool is_slab(enum page_kind kind)
{
	return (unsigned)kind - PAGE_SLAB < SLAB_CLASSES;
}

/* ---- what is where ------------------------------------------------------------------------------------------- */

/* All of these may be read without the lock while others change what does not concern the reader. */

INLINE bool get_bit(const uint32_t *words, size_t n)
{
	return __atomic_load_n(&words[n / WORD_GRANULES], __ATOMIC_RELAXED) >> n % WORD_GRANULES & 1;
}

INLINE void put_bits(uint32_t *word, uint32_t bits)
{
	__atomic_store_n(word, bits, __ATOMIC_RELAXED);
}

INLINE size_t granule_of(const struct region *region, uintptr_t address)
{
	return (address - (region->first_page << PAGE_SHIFT)) >> GRANULE_SHIFT;
}

/* Does an object start here that is not free in its storey? */
INLINE bool is_start(const struct region *region, uintptr_t address)
{
	return address % GRANULE == 0 && get_bit(region->starts, granule_of(region, address));
}

INLINE void start_set(const struct region *region, uintptr_t address)
{
	size_t n = granule_of(region, address);
	uint32_t *word = &region->starts[n / WORD_GRANULES];

	put_bits(word, *word | (uint32_t)1 << n % WORD_GRANULES);
}

INLINE void start_clear(const struct region *region, uintptr_t address)
{
	size_t n = granule_of(region, address);
	uint32_t *word = &region->starts[n / WORD_GRANULES];

	put_bits(word, *word & ~((uint32_t)1 << n % WORD_GRANULES));
}

/* Of a word of starts, those of the n-th granule's cell. */
INLINE uint32_t cell_bits(uint32_t word, size_t n)
{
	return word >> (n % WORD_GRANULES & ~(CELL_GRANULES - 1)) & ((1u << CELL_GRANULES) - 1);
}

/* Does any object start in the cell of this address? */
INLINE bool cell_has_starts(const struct region *region, uintptr_t address)
{
	size_t n = granule_of(region, address);

	return cell_bits(region->starts[n / WORD_GRANULES], n) != 0;
}

INLINE uint32_t *page_starts(const struct region *region, size_t page)
{
	return &region->starts[page * PAGE_WORDS];
}

/* The byte of an address's cell. */
INLINE uint8_t *magazine_byte(const struct region *region, uintptr_t address)
{
	return &region->magazines[granule_of(region, address) / CELL_GRANULES];
}

INLINE void magazine_set(uint8_t *byte, unsigned magazine)
{
	__atomic_store_n(byte, (uint8_t)magazine, __ATOMIC_RELAXED);
}

INLINE void page_magazines_set(const struct region *region, size_t page, unsigned magazine)
{
	fill_words(&region->magazines[page * PAGE_CELLS], magazine * 0x0101010101010101u, PAGE_CELLS);
}

/* With flags. */
INLINE unsigned page_kind_byte(const struct region *region, size_t page)
{
	return __atomic_load_n(&region->kinds[page], __ATOMIC_RELAXED);
}

static inline enum page_kind page_kind_of(const struct region *region, size_t page)
{
	return (enum page_kind)(page_kind_byte(region, page) & PAGE_KIND_MASK);
}

INLINE void page_kind_set(const struct region *region, size_t page, unsigned kind_byte)
{
	__atomic_store_n(&region->kinds[page], (uint8_t)kind_byte, __ATOMIC_RELAXED);
}

/* The same for n pages. */
INLINE void page_kinds_set(const struct region *region, size_t page, size_t n, enum page_kind kind)
{
	fill_bytes(&region->kinds[page], (uint8_t)kind, n);
}

/* The first page of a run becomes live, or is so no more. */
INLINE void run_start_set(const struct region *region, size_t page, enum page_kind kind)
{
	page_kind_set(region, page, kind);
	put_bits(page_starts(region, page), kind == PAGE_RUN);
}

/*
 * How many pages the arrays of a region have room for that begins with so many bytes and may come to have n pages: as many as fit the last page
 * of the arrays.
 */
size_t reserve_of(size_t used, size_t n_pages);
/*
 * How many the first region may come to have, by what the source says of the pages behind it: more than it has only where descriptors
 * of pages to come cost nothing yet. Nearly all of the chunk may be such descriptors.
 */
size_t capacity_behind(const struct kpage_chunk *chunk, size_t used);
/*
 * Lay out [base, base + n pages), of which `used` bytes are taken already (the struct kheap in the first region). The rest of the arrays'
 * last page serves blocks. Zeros are not written again. NULL: it is too small.
 */
struct region *region_layout(uintptr_t base, size_t n_pages, size_t capacity, size_t used, bool is_zero);
/* The region is laid out; make it part of the heap. */
bool region_enter(struct kheap *heap, struct region *region);
/* Cut [start, start + size) to whole pages other than page 0, 16 TiB at most; false: nothing is left. */
bool cut_to_pages(uintptr_t start, size_t size, uintptr_t *base, size_t *n_pages);
/* `reserve`: pages that may be added to it, 0: none will. NULL: it cannot be one. */
struct region *region_add(struct kheap *heap, const struct kpage_chunk *chunk, uintptr_t start, size_t size,
                          bool from_source, size_t reserve);
/* Free pages at the end of a region. */
size_t free_at_end(const struct region *region);
/* A chunk of n pages begins where the region ends; false: there is no room in the table from addresses to regions. */
bool region_lengthen(struct kheap *heap, struct region *region, size_t n_pages);
/* Empty regions that were of no use for a request go, unless they are few pages. */
void spares_trim_for_growth(struct kheap *heap);

/* ---- growth.c ----------------------------------------------------------------------------------------------- */

/* What a chunk is to have room for: whole pages, or if block_bytes is not 0 a block of so many bytes, header included. */
struct growth {
	size_t n_pages, block_bytes;
	bool is_apart;         /* in a chunk that need not be shared with what others wait for */
	bool goes_on;          /* for an object that grows by little at a time, and will go on */
	bool is_refused;       /* it was to have a chunk of its own */
	struct region *at_end; /* NULL, or the pages are wanted where this region ends, or nowhere */
};

/* Get a chunk for a request that failed. Called without the lock. */
bool heap_grow(struct kheap *heap, struct growth growth, uintptr_t max_address);
/* Make a region longer until n pages are free at its end. Called without the lock. */
bool heap_grow_at_end(struct kheap *heap, struct region *region, size_t n_pages);

/* ---- region.c ----------------------------------------------------------------------------------------------- */

/* Something in a region became free: an empty one is kept as a spare, or detached so that heap_unlock puts it back. */
void region_settle(struct kheap *heap, struct region *region);
/* A spare came into use. */
void spare_forget(struct kheap *heap, struct region *region);
/* Pages of a region came into use, or were given back to its runs. */
INLINE void region_busy(struct kheap *heap, struct region *region, size_t n_pages)
{
	region->n_busy += n_pages;
	if (UNLIKELY(region->is_spare))
		spare_forget(heap, region);
}

INLINE void region_idle(struct kheap *heap, struct region *region, size_t n_pages)
{
	region->n_busy -= n_pages;
	if (region->n_busy == region->n_cached)
		region_settle(heap, region);
}
/* The same for all: while the heap was draining, none was settled. O(regions). */
void regions_settle(struct kheap *heap);
/* Its last pages are free: chunks that lengthened it go back, but what is worth keeping. */
void region_shorten(struct kheap *heap, struct region *region);
/* All chunks of a detached region go back. */
void region_put(const struct kpage_source *source, const struct region *region);
/* All of a list of them, that were detached. */
void regions_put(const struct kpage_source *source, struct region *region);

/* ---- section.c ---------------------------------------------------------------------------------------------- */

/* Enter a new region, which is in the list and whose pages are in the bins already: the table may have to grow on them. */
bool sections_add(struct kheap *heap, struct region *region);
void sections_remove(struct kheap *heap, const struct region *region);
/* It had n pages before, and has become longer or shorter. False: the table has no room for more, and could not grow; nothing was done. */
bool sections_resize(struct kheap *heap, struct region *region, size_t n_pages);
/* Pages that the table needs to grow for a new region that may come to have n pages, or one that becomes longer by so many; mostly 0. */
size_t sections_growth(const struct kheap *heap, size_t n_pages);
size_t sections_growth_at(const struct kheap *heap, const struct region *region, size_t more);
/* Move the table, which needs room for n entries, to pages of its own; `region`: it is new, or NULL. Every region is in the list. */
bool sections_move(struct kheap *heap, struct region *region, size_t n);
/* Free the tables that were outgrown; nobody can be reading them any more. */
void old_sections_free(struct kheap *heap);
/* The region that is looked at before the table; nobody is reading which one that is. */
void window_set(struct kheap *heap, struct region *region);
/* This region came or has another length, or another one went: the window may belong there, and is opened or closed. */
void window_note(struct kheap *heap, struct region *region);
/* It may have gone where something grew: back to where most of the heap is. */
void window_return(struct kheap *heap);

#pragma GCC visibility pop

#endif
