/* SPDX-License-Identifier: MIT */
/*
 * The heap's own data: what stands in memory, and who owns which part of it. One storey a file:
 *
 *   heap.c     kheap_alloc .. kheap_free: chooses a storey, counts, reports misuse
 *   cache.c    kcache: slabs of one user-chosen size
 *   slab.c     equal small objects in a page, their state (a bitmap) in the page's descriptor
 *   block.c    sizes between: boundary tags, two-level bins, in areas of whole pages
 *   run.c      whole pages: two-level bins over the page descriptors
 *   region.c   regions of the page source, their descriptors, the table from addresses to regions
 *
 * beside them guard.c (canaries and poison of the hardened build), inspect.c, check.c and default.c.
 *
 * One lock (kheap.lock) protects everything reachable from a struct kheap. Functions whose names do not begin with kheap_, kpages_,
 * kcache_ or kmalloc_ expect it to be held. heap_unlock() is the only place that calls out (error reports, chunks to be put back),
 * after it has let go.
 */
#ifndef HEAP_INTERNAL_H
#define HEAP_INTERNAL_H

#include <kmalloc.h>
#include <kmalloc_port.h>

#include "bits.h"

#if defined(KMALLOC_CHECK) && KMALLOC_CHECK
#define CHECKING 1
/* A full check every so many operations of the check build. */
#define CHECK_INTERVAL 512
#endif
#if defined(CHECKING) || (defined(KMALLOC_HARDENED) && KMALLOC_HARDENED)
#define HARDENED 1
#else
#define HARDENED 0
#endif

#define PAGE_SHIFT 12
#define PAGE_SIZE ((uintptr_t)1 << PAGE_SHIFT)
#define GRANULE KMALLOC_ALIGNMENT
#define CACHE_LINE ((size_t)64)

_Static_assert(PAGE_SIZE == KMALLOC_PAGE_SIZE, "the contract's page is the heap's page");

/* ---- pages ------------------------------------------------------------------------------------------------- */

/* What a page is. Kept in an array of bytes of its own, so that asking costs one load. */
enum page_kind {
	PAGE_BODY,       /* not the first page of its run (or the inside of a free run) */
	PAGE_OVERHEAD,   /* region descriptors, or a section table */
	PAGE_FREE,       /* first page of a free run; its descriptor holds the length */
	PAGE_FREE_TAIL,  /* last page of a free run of two or more; likewise */
	PAGE_RUN,        /* first page of a live run */
	PAGE_BLOCK_HEAD, /* first page of a block area; its descriptor holds the area's length */
	PAGE_BLOCK,      /* every other page of a block area; the last one's descriptor holds the length too */
	PAGE_CACHE,      /* first page of a kcache's slab */
	PAGE_CACHE_BODY, /* the others; the descriptor says how far it is from the first */
	PAGE_SLAB,       /* a slab of class kind - PAGE_SLAB */
	PAGE_KIND_MASK = 0x7f,
	PAGE_POISONED = 0x80, /* flag: this free page holds poison (hardened) */
};

#define SLAB_WORDS 4

struct region;

/* Out of line, so that no overrun of an object reaches it. Which part is in use follows from the page's kind. */
struct page_desc {
	struct page_desc *next, *prev; /* list of free runs, of slabs with free objects */
	struct region *region;
	union {
		uint64_t free_bits[SLAB_WORDS]; /* slab: bit set = that object is free */
		struct {
			size_t n_pages; /* free run, live run, block area: head and tail */
			size_t n_back;  /* PAGE_CACHE_BODY: pages back to the first */
			bool is_bare;   /* PAGE_RUN: from kpages_alloc, so without a canary */
		};
		struct {
			uint64_t cache_bits[SLAB_WORDS - 1];
			struct kcache *cache;
		};
	};
};

/* ---- regions and the section table --------------------------------------------------------------------------- */

struct region {
	uintptr_t first_page; /* number of the first page */
	size_t n_pages;
	uint8_t *kinds;
	struct page_desc *descs;
	struct region *next, *prev;
	struct kpage_chunk chunk; /* what goes back to the source */
	size_t n_overhead;        /* pages of descriptors at the front */
	size_t n_busy;            /* pages that are neither free nor overhead; the tail area's page is not counted */
	size_t n_cached;      /* of these, pages of empty slabs and of the empty area that are kept for the next time */
	uint16_t tail_offset; /* the rest of the last overhead page serves blocks from here on; 0: it does not */
	bool from_source;
	bool is_first; /* holds the struct kheap */
};

/* The section table is a hash table from (address >> SECTION_SHIFT) to regions, with linear probing. A section that n regions share has
 * n entries. It is at most half full, so the region is nearly always the first entry seen. */
#define SECTION_SHIFT 20
#define SECTIONS_INLINE 16

/* ---- page runs -------------------------------------------------------------------------------------------- */

/* Free runs below and above 4 GiB are kept apart; no run and no block area crosses that line. */
enum zone { ZONE_LOW, ZONE_HIGH, N_ZONES };
#define ZONE_PAGE ((uintptr_t)1 << (32 - PAGE_SHIFT))

#define RUN_SL_SHIFT 2
#define RUN_SL (1 << RUN_SL_SHIFT)
#define RUN_FL 24 /* lengths up to 2^24 pages (64 GiB) have bins of their own, longer ones share the last */

struct run_bins {
	uint32_t fl_bits;
	uint8_t sl_bits[RUN_FL];
	struct page_desc *heads[RUN_FL][RUN_SL];
};

/* ---- blocks ------------------------------------------------------------------------------------------------ */

/*
 * The header in front of every block, the ancestor's { prev | USED, size } grown up. `size` counts the header and is a multiple of
 * 16; its low bits are flags. `tag` keys it to its address: a header that was overwritten, or an address that is none, is
 * found without trusting anything in it. The payload is aligned to 16, so headers lie at 8 modulo 16.
 */
struct block {
	uint32_t size_flags;
	uint32_t tag; /* low 8 bits: slab class that would serve it, + 1; rest: check */
	/* The rest exists in free blocks only; the last 8 bytes of a free block repeat its size. */
	struct block *next, *prev;
};

enum block_flags {
	BLOCK_USED = 1,
	BLOCK_PREV_FREE = 2, /* the block before is free, and its size stands in front of this header */
	BLOCK_FIRST = 4,     /* the first of its area */
	BLOCK_FLAGS = 15
};

#define BLOCK_HEADER ((size_t)8)
#define BLOCK_FOOTER ((size_t)8)
#define BLOCK_MIN ((size_t)32)
#define BLOCK_MAX_REQUEST ((size_t)65536) /* larger objects are page runs: rounding to a page is then below 6 % */

#define BLOCK_SL_SHIFT 4
#define BLOCK_SL (1 << BLOCK_SL_SHIFT)
#define BLOCK_FL 12

#define AREA_MAX_PAGES 64 /* so that one step of kheap_check_step is bounded */
#define AREA_GROW_MAX 16
#define RELEASE_PAGES 16 /* a free block that spans so many whole pages gives them back */

struct block_bins {
	uint32_t fl_bits;
	uint16_t sl_bits[BLOCK_FL];
	struct block *heads[BLOCK_FL][BLOCK_SL];
};

/* ---- slabs -------------------------------------------------------------------------------------------------- */

#define SLAB_CLASSES 19
#define SLAB_NO_CLASS 255

struct slab_class {
	struct page_desc *partial; /* slabs with free objects and live ones */
	struct page_desc *empty;   /* at most one slab without live objects */
	uint32_t n_in_blocks;      /* live objects of this class that blocks serve */
	uint32_t n_slabs;
};

/* ---- the heap ----------------------------------------------------------------------------------------------- */

struct counters {
	size_t live_bytes, live_objects, peak_live_bytes;
	size_t footprint_pages, peak_footprint_pages;
	size_t overhead_pages;
	size_t free_run_pages, free_block_bytes, free_slab_bytes;
	size_t block_pages; /* pages of block areas */
	size_t min_free_bytes;
	uint64_t n_allocs, n_frees, n_failures, n_errors, n_grown, n_shrunk;
};

#define KCACHE_OPEN 0x6b634f50u

struct kcache {
	struct kheap *heap;
	uint32_t magic; /* KCACHE_OPEN until it is destroyed */
	struct kcache *next, *prev;
	struct page_desc *partial; /* slabs with free objects */
	struct page_desc *spare;   /* one of them without live objects, which is kept */
	size_t object_size;        /* from one object to the next */
	size_t user_size;          /* what the caller asked for */
	size_t n_live, n_free, n_reserved;
	void (*constructor)(void *object, void *ctx);
	void *ctx;
	uint16_t objects_per_slab;
	uint8_t pages_per_slab;
};

/* How many entries of a list are looked at for a fit; before the heap fails or grows, THOROUGH_TRIES. */
#define RUN_TRIES 8
#define BLOCK_TRIES 4
#define THOROUGH_TRIES 256

struct kheap {
	struct kport_lock lock;
	struct kheap_config config;
	uint64_t secret;

	struct region *regions, *last_region;
	struct region *spare;    /* the one empty region of the source that is kept */
	struct region *detached; /* regions that heap_unlock puts back */
	size_t n_regions;

	struct region **sections;
	struct page_desc *sections_run; /* the page run that holds the table; NULL: it is inline_sections */
	size_t section_mask;
	size_t n_sections;      /* entries that are regions, */
	size_t n_sections_used; /* and those that were */

	struct block *empty_area; /* the free block that is all of the one empty area that is kept */
	bool is_draining;
	bool is_thorough; /* the heap is about to fail or to grow: look at more of each list */

	struct run_bins runs[N_ZONES];
	struct block_bins blocks;
	struct slab_class slabs[SLAB_CLASSES];
	struct kcache cache_of_caches; /* struct kcache is kept apart from users' objects, and no user can free it */
	struct kcache *caches;

	struct kmalloc_error pending; /* error_class 0: none */
	struct counters counters;
#ifdef CHECKING
	uint32_t until_check;
	bool in_check;
#endif
	struct region *inline_sections[SECTIONS_INLINE];
};

/* ---- heap.c ------------------------------------------------------------------------------------------------- */

static inline kport_lock_state heap_lock(struct kheap *heap)
{
	return kport_lock(&heap->lock);
}

/* Lets go, then reports the pending misuse and puts detached regions back. */
void heap_unlock(struct kheap *heap, kport_lock_state state);

/* Remember a misuse for heap_unlock; the first one of an operation wins. */
void heap_error(struct kheap *heap, enum kmalloc_error_class error_class, uintptr_t address, size_t size);

/* Give empty slabs and areas back to the runs; true if that freed a page. O(classes). */
bool heap_drain(struct kheap *heap);

/* A request could not be met: get pages, or ask on_low_memory once; true: try again. Called without the lock. */
bool heap_replenish(struct kheap *heap, size_t n_pages, uintptr_t max_address, size_t size, bool *has_asked);
#define GROWTH_TRIES 4

/* A call returns NULL. Called without the lock. */
void count_failure(struct kheap *heap);
void count_alloc(struct kheap *heap, size_t usable);
void count_free(struct kheap *heap, size_t usable);
/* The free did not come about. */
void uncount_free(struct kheap *heap, size_t usable);
void count_resize(struct kheap *heap, size_t old_usable, size_t usable);

/* What an allocation is to be, worked out once. */
struct request {
	size_t size;  /* asked for */
	size_t gross; /* with the canary; never 0 */
	size_t alignment;
	uintptr_t max_address;
	bool is_bare; /* whole pages without a canary */
};

/* False: sizes or alignment that no memory can meet. */
bool request_make(struct request *request, size_t size, size_t alignment, unsigned flags);
size_t natural_alignment(size_t size);
static inline size_t pages_for(size_t bytes)
{
	return (bytes + PAGE_SIZE - 1) >> PAGE_SHIFT;
}

/* ---- free.c ------------------------------------------------------------------------------------------------- */

/* A live object, found from its address. */
struct object {
	enum page_kind kind;
	struct region *region;
	size_t page;  /* index in the region of the page that describes it */
	size_t index; /* in its slab */
	size_t slot;  /* bytes it occupies, canary included */
};

/* Find the live object that starts at `address`; otherwise report why there is none and return false. */
bool heap_find(struct kheap *heap, uintptr_t address, struct object *object);
/* Give its memory back, uncounted. False: a neighbour is damaged (reported), nothing changed. */
bool object_free(struct kheap *heap, const struct object *object, uintptr_t address);
/* Bytes that may be used; reports an overrun, and then returns SIZE_MAX. */
size_t object_usable(struct kheap *heap, const struct object *object, uintptr_t address);

/* ---- region.c ----------------------------------------------------------------------------------------------- */

/* The region that holds `address`, or NULL. */
static inline struct region *region_of(const struct kheap *heap, uintptr_t address)
{
	size_t i = (address >> SECTION_SHIFT) & heap->section_mask;
	struct region *region;

	while ((region = heap->sections[i]) != NULL) {
		if ((address >> PAGE_SHIFT) - region->first_page < region->n_pages)
			return region;
		i = (i + 1) & heap->section_mask;
	}
	return NULL;
}

static inline uintptr_t page_address(const struct region *region, size_t page)
{
	return (region->first_page + page) << PAGE_SHIFT;
}

static inline size_t desc_page(const struct page_desc *desc)
{
	return (size_t)(desc - desc->region->descs);
}

static inline uintptr_t desc_address(const struct page_desc *desc)
{
	return page_address(desc->region, desc_page(desc));
}

/* Is this a kind at all? A damaged one must not lead to a class that is none. */
static inline bool is_kind(enum page_kind kind)
{
	return kind < PAGE_SLAB + SLAB_CLASSES;
}

static inline enum page_kind page_kind_of(const struct region *region, size_t page)
{
	return (enum page_kind)(region->kinds[page] & PAGE_KIND_MASK);
}

/* Get a chunk for a request that failed. Called without the lock. */
bool heap_grow(struct kheap *heap, size_t n_pages, uintptr_t max_address);

/* Pages of a region came into use, or were given back to its runs. */
void region_busy(struct kheap *heap, struct region *region, size_t n_pages);
void region_idle(struct kheap *heap, struct region *region, size_t n_pages);
/* Something in a region became free: an empty one is kept as the spare, or detached so that heap_unlock puts it back. */
void region_settle(struct kheap *heap, struct region *region);
/* The same for all: while the heap was draining, none was settled. O(regions). */
void regions_settle(struct kheap *heap);

/* ---- run.c -------------------------------------------------------------------------------------------------- */

/* n pages aligned to 2^align_shift pages, below max_address; the first page's descriptor, its kind set to `kind`. NULL: none. */
struct page_desc *run_alloc(struct kheap *heap, size_t n_pages, unsigned align_shift, uintptr_t max_address,
                            enum page_kind kind);
/* Pages [page, page + n) of a region become a free run, merged with its neighbours. */
void run_free(struct kheap *heap, struct region *region, size_t page, size_t n_pages);
/* Lengthen the live run of n pages at `page` by `more` if the pages behind it are free. */
bool run_extend(struct kheap *heap, struct region *region, size_t page, size_t n_pages, size_t more);
/* Put pages that are in no list under the bins, or take a free run out of them. */
void run_insert(struct kheap *heap, struct region *region, size_t page, size_t n_pages);
void run_remove(struct kheap *heap, struct page_desc *head);
void run_bin_of(size_t n_pages, unsigned *fl, unsigned *sl);

static inline enum zone page_zone(uintptr_t page_number)
{
	return page_number < ZONE_PAGE ? ZONE_LOW : ZONE_HIGH;
}

/* May what ends before this page and what begins with it be one? */
static inline bool may_join(const struct region *region, size_t page)
{
	return region->first_page + page != ZONE_PAGE;
}

/* ---- block.c ------------------------------------------------------------------------------------------------ */

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

/* Does the check word of this header hold? Touches the header only. */
bool block_tag_holds(const struct kheap *heap, const struct block *block);
void block_seal(const struct kheap *heap, struct block *block, uint32_t size_flags, unsigned class_plus_1);
void block_bin_of(size_t size, unsigned *fl, unsigned *sl);

/* Payload of at least `size` bytes aligned to `alignment`, or 0. class_index: slab class it stands in for, or SLAB_NO_CLASS. */
uintptr_t block_alloc(struct kheap *heap, size_t size, size_t alignment, unsigned class_index);
/* The block was checked by heap_find. False: a neighbour's tag is damaged (reported), nothing changed. */
bool block_free(struct kheap *heap, struct region *region, struct block *block);
/* Make the payload `size` bytes long where it stands. */
bool block_resize(struct kheap *heap, struct region *region, struct block *block, size_t size);
/* A free block of `size` bytes where none was: sealed, in its bin, the block behind it told. */
void block_insert_free(struct kheap *heap, struct block *block, size_t size, uint32_t flags);
/* Is there a free block at this address, whatever it is? */
bool block_is_free(const struct kheap *heap, const struct block *block);
/* Take a free block out of its bin; false: its links are damaged. */
bool block_retire(struct kheap *heap, struct block *block);

/* ---- area.c ------------------------------------------------------------------------------------------------- */

/* Pages that are in no list become an area, the first page from `offset` on. */
void area_create(struct kheap *heap, struct region *region, size_t page, size_t n_pages, size_t offset);
/* Get pages for a block of `need` bytes with this alignment. */
bool area_grow(struct kheap *heap, size_t need, size_t alignment);
/* A free block is about to be used, or to change. */
void area_used(struct kheap *heap, struct block *block);
/* A free block in no bin: give pages back if enough of it is whole pages; false: nothing done. */
bool area_trim(struct kheap *heap, struct region *region, struct block *block);
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

/* ---- slab.c ------------------------------------------------------------------------------------------------- */

/* The class for `size` bytes whose objects are all aligned to `alignment`; SLAB_NO_CLASS: none. */
unsigned slab_class_of(size_t size, size_t alignment);
size_t slab_object_size(unsigned class_index);
unsigned slab_objects(unsigned class_index);
/* Would a slab serve an object of this class now? */
bool slab_is_earned(const struct kheap *heap, unsigned class_index);
uintptr_t slab_alloc(struct kheap *heap, unsigned class_index);
void slab_free(struct kheap *heap, struct region *region, size_t page, unsigned class_index, size_t index);
/* The index of the object that starts `offset` bytes into a slab; false: none starts there. */
bool slab_index(unsigned class_index, size_t offset, size_t *index);
bool slab_drain(struct kheap *heap);
/* What free_bits holds when nothing is live. */
uint64_t slab_full_word(unsigned n_objects, unsigned word);

/* ---- cache.c ------------------------------------------------------------------------------------------------ */

/* The object of a cache's slab that covers `address`; false: padding. */
bool cache_locate(const struct region *region, size_t page, uintptr_t address, uintptr_t *base, size_t *index,
                  size_t *head);
void cache_free_object(struct kheap *heap, struct page_desc *head, size_t index);
bool cache_drain(struct kheap *heap);
void cache_init(struct kcache *cache, struct kheap *heap, size_t size_bytes, size_t alignment);
static inline bool cache_object_is_free(const struct page_desc *head, size_t index)
{
	return head->cache_bits[index / 64] >> (index % 64) & 1;
}

/* ---- guard.c: canaries and poison; nothing at all in the release build ---------------------------------------- */

#define GUARD_BYTES (HARDENED ? (size_t)8 : (size_t)0)
#define POISON_WORD 0xa5a5a5a5a5a5a5a5u

#if HARDENED
/* Write the canary behind `size` bytes of an object that occupies `slot` bytes. */
void guard_arm(const struct kheap *heap, uintptr_t object, size_t size, size_t slot);
/* The size that guard_arm was told; damage: the address of the first changed byte in *damage, else 0. */
size_t guard_read(const struct kheap *heap, uintptr_t object, size_t slot, uintptr_t *damage);
void guard_poison(uintptr_t start, size_t n_bytes);
/* The first byte in [start, start + n) that is not poison, or 0. */
uintptr_t guard_scan(uintptr_t start, size_t n_bytes);
/* guard_scan, reported as KMALLOC_WRITE_AFTER_FREE. */
void guard_verify(struct kheap *heap, uintptr_t start, size_t n_bytes);
#else
static inline void guard_arm(const struct kheap *heap, uintptr_t object, size_t size, size_t slot)
{
	(void)heap, (void)object, (void)size, (void)slot;
}
static inline size_t guard_read(const struct kheap *heap, uintptr_t object, size_t slot, uintptr_t *damage)
{
	(void)heap, (void)object;
	*damage = 0;
	return slot;
}
static inline void guard_poison(uintptr_t start, size_t n_bytes)
{
	(void)start, (void)n_bytes;
}
static inline void guard_verify(struct kheap *heap, uintptr_t start, size_t n_bytes)
{
	(void)heap, (void)start, (void)n_bytes;
}
#endif

/* ---- inspect.c, check.c -------------------------------------------------------------------------------------- */

/* The range that holds `address`, with the lock held. */
struct kheap_range range_of(const struct kheap *heap, uintptr_t address);
/* Visit every range of pages [page, end) of a region; returns where it stopped (an area or run is never cut), or SIZE_MAX. */
size_t walk_pages(struct kheap *heap, struct region *region, size_t page, size_t end,
                  bool (*visit)(void *ctx, const struct kheap_range *range), void *ctx);
size_t check_heap(struct kheap *heap, struct kheap_fault *first);

#endif
