/* SPDX-License-Identifier: MIT */
/*
 * The heap's own data: what stands in memory, and who owns which part of it. One storey a file:
 *
 *   fast.h     CPU caches, the part that every call goes through: no lock, no loop, no call
 *   cpu.c      CPU caches, what happens when one is empty or full; the depot that they share
 *   heap.c     kheap_alloc: chooses a storey, counts, grows the heap, reports misuse
 *   free.c     from an address back to the object: kheap_free, sizes, resizing
 *   cache.c    kcache: slabs of one user-chosen size
 *   slab.c     equal small objects in a page, their state (a bitmap) in the page's descriptor
 *   block.c    sizes between: boundary tags, two-level bins, in areas of whole pages
 *   run.c      whole pages: two-level bins over the page descriptors
 *   region.c   regions of the page source, their descriptors, the table from addresses to regions
 *
 * beside them guard.c (canaries and poison of the hardened build), inspect.c, check.c and default.c.
 *
 * Who may touch what:
 *   kheap.lock     protects everything reachable from a struct kheap but the CPU caches. It is the only lock, so there is no order of
 *                  locks. Functions whose names do not begin with kheap_, kpages_, kcache_ or kmalloc_ expect it to be held, those of
 *                  fast.h expect that it is not. heap_unlock() is the only place that calls out (error reports, chunks to be put
 *                  back), after it has let go.
 *   struct cpu_cache belongs to its CPU alone, with or without the lock. Where interrupts may call the heap, it also belongs to whoever
 *                  set its `inside` mark first: code that finds the mark set leaves the cache alone.
 *   read without a lock, by fast.h: the page kind of an object that is live (it cannot change while it lives), and the section table,
 *                  which has a sequence number that is odd while it changes; where there are several CPUs a table that was
 *                  outgrown stays readable.
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
/* The check build is hardened too, unless it is told not to be: then it checks the CPU caches, which hardened builds do not use. */
#ifdef KMALLOC_HARDENED
#define HARDENED KMALLOC_HARDENED
#elif defined(CHECKING)
#define HARDENED 1
#else
#define HARDENED 0
#endif

/* May code that interrupted the heap on its own CPU call it? The check build's hooks do. */
#if defined(CHECKING)
#define INTERRUPTS 1
#else
#define INTERRUPTS KPORT_INTERRUPTS
#endif

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
/* Not on any fast path: compiled for size, and kept out of the way. */
#define COLD __attribute__((cold, noinline))
#define INLINE static inline __attribute__((always_inline))

#define PAGE_SHIFT 12
#define PAGE_SIZE ((uintptr_t)1 << PAGE_SHIFT)
#define GRANULE KMALLOC_ALIGNMENT
#define CACHE_LINE ((size_t)64)

_Static_assert(PAGE_SIZE == KMALLOC_PAGE_SIZE, "the contract's page is the heap's page");

/* ---- pages ------------------------------------------------------------------------------------------------- */

#define SLAB_CLASSES 19
#define SLAB_NO_CLASS 255

/* What a page is. Kept in an array of bytes of its own, so that asking costs one load. */
enum page_kind {
	PAGE_BODY,       /* not the first page of its run (or the inside of a free run) */
	PAGE_SLAB,       /* a slab of class kind - PAGE_SLAB; the magazines of a CPU cache are numbered like this too */
	PAGE_OVERHEAD = PAGE_SLAB + SLAB_CLASSES, /* region descriptors, a section table or a CPU cache */
	PAGE_FREE,       /* first page of a free run; its descriptor holds the length */
	PAGE_FREE_TAIL,  /* last page of a free run of two or more; likewise */
	PAGE_RUN,        /* first page of a live run */
	PAGE_BLOCK_HEAD, /* first page of a block area; its descriptor holds the area's length */
	PAGE_BLOCK,      /* every other page of a block area; the last one's descriptor holds the length too */
	PAGE_CACHE,      /* first page of a kcache's slab */
	PAGE_CACHE_BODY, /* the others; the descriptor says how far it is from the first */
	PAGE_KINDS,
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

/*
 * The section table is a hash table from (address >> SECTION_SHIFT) to regions, with linear probing. A section that n regions share has
 * n entries. It is at most half full, so the region is nearly always the first entry seen. An entry repeats what tells whether an
 * address is the region's, so that nothing that may be gone is touched to find out.
 */
#define SECTION_SHIFT 17
#define SECTIONS_INLINE 16

struct section {
	uintptr_t first_page;
	size_t n_pages; /* 0: there was a region once */
	const uint8_t *kinds;
	struct region *region; /* NULL: there never was one */
};

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
	uint32_t tag; /* low 8 bits: label; rest: check */
	/* The rest exists in free blocks only; the last 8 bytes of a free block repeat its size. */
	struct block *next, *prev;
};

enum block_flags {
	BLOCK_USED = 1,
	BLOCK_PREV_FREE = 2, /* the block before is free, and its size stands in front of this header */
	BLOCK_FIRST = 4,     /* the first of its area */
	BLOCK_FLAGS = 15
};

/* Whose a block is, so that kheap_free need not work it out. */
enum block_label {
	LABEL_PLAIN,
	LABEL_SLAB = 1,       /* + slab class: stands in for an object of a class without a slab */
	LABEL_SIZED = 32,     /* + block class: as large as that class, so a CPU cache may keep it */
	LABEL_SLAB_SIZED = 160 /* + slab class: stands in, and is as large and as well aligned as an object of that class */
};

#define BLOCK_HEADER ((size_t)8)
#define BLOCK_FOOTER ((size_t)8)
#define BLOCK_MIN ((size_t)32)
/* A block that grows by less than this part of itself gets as much more; one that shrinks by less stays as it is. */
#define RESIZE_SHARE 16
#define BLOCK_MAX_REQUEST ((size_t)65536) /* larger objects are page runs: rounding to a page is then below 6 % */

/* Bins for free blocks: 16 for each octave of sizes, and a bitmap of those that are not empty. */
#define BIN_SHIFT 4
#define BLOCK_BINS 192

#define AREA_MAX_PAGES 64 /* so that one step of kheap_check_step is bounded */
#define AREA_GROW_MAX 16
#define RELEASE_PAGES 16 /* a free block that spans so many whole pages gives them back */

struct block_bins {
	uint64_t bits[BLOCK_BINS / 64];
	struct block *heads[BLOCK_BINS];
};

/* ---- slabs -------------------------------------------------------------------------------------------------- */

struct slab_class {
	struct page_desc *partial; /* slabs with free objects and live ones */
	struct page_desc *empty;   /* at most one slab without live objects */
	uint32_t n_in_blocks;      /* live objects of this class that blocks serve */
	uint32_t n_slabs;
	bool is_busy; /* its few objects come and go so often that it gets a slab, if there is a page to spare */
};

/* ---- CPU caches -------------------------------------------------------------------------------------------- */

/*
 * A magazine: a stack of objects of one size class that are free for their CPU and live for the heap. top points at the object that is
 * handed out next; below the lowest one is a NULL, so one test of what was loaded tells that there is none. The second word
 * of an object in a magazine holds a key, which nothing live holds: that is how a double free shows.
 */
struct magazine {
	void **top;
	void **limit; /* top may not pass it */
};

/* The space of a magazine that its class has earned. A full one waits on the depot's list, linked by its first word. */
#define CLIP_WORDS 32
struct clip {
	void *slots[CLIP_WORDS]; /* the first is the NULL below the lowest object */
};

/* The space of a magazine until then. */
#define SMALL_WORDS 3

/* What only the slow path needs of a magazine. */
struct magazine_state {
	void **bottom;
	struct clip *spare; /* NULL: none */
	uint8_t n_spare;    /* objects in it: as many as a magazine held when it was full, or 0 */
	bool has_clip;
	bool was_missed;      /* since the idle hand passed */
	uint8_t n_misses;     /* until it earns a clip */
	uint8_t n_stand_ins;  /* frees of blocks that stand in: until the class earns a slab by being busy */
};

/* Blocks of 272 to 4096 bytes in steps of about 1/32, a magazine for each. */
#define BLOCK_CLASSES 112
#define BLOCK_CLASS_MIN ((size_t)272)
#define BLOCK_CLASS_MAX ((size_t)4096)
#define BLOCK_SLOTS 11

struct block_cache {
	struct magazine magazines[BLOCK_CLASSES];
	void *slots[BLOCK_CLASSES][BLOCK_SLOTS]; /* the first is NULL */
};

struct cpu_cache {
	struct magazine magazines[PAGE_SLAB + SLAB_CLASSES]; /* by page kind; the first is always empty */
	uint32_t reciprocals[32]; /* by page kind: 2^32 / object size, rounded up; 0 for pages that are not slabs */
	struct block_cache *blocks; /* NULL: not earned yet */
	uint8_t inside;                                      /* somebody is changing this cache */
	uint8_t hand;                                        /* the class whose idleness is looked at next */
	uint16_t n_misses, n_block_misses;
	uint32_t drain_epoch;
	struct page_desc *run; /* where it lies; NULL: in the struct kheap */
	struct page_desc *blocks_run;
	struct magazine_state states[SLAB_CLASSES];
	void *small[SLAB_CLASSES][SMALL_WORDS];
};

/* Full clips that no CPU has: the address of the first, with the number of its objects in the low bits; its first word has the next one. */
struct depot {
	uintptr_t full[SLAB_CLASSES];
	size_t bytes; /* of the objects in them */
	struct clip *empty; /* clips without objects */
	unsigned n_empty;
	uint32_t drain_epoch;
};

/* ---- the heap ----------------------------------------------------------------------------------------------- */

/* What lies in CPU caches counts as live here. */
struct counters {
	size_t live_bytes, live_objects, peak_live_bytes;
	size_t high_water; /* the most that live_bytes was since the heap's size last changed */
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
	bool is_internal; /* the heap's own: users can free nothing of it, and it is not counted */
};

/* How many entries of a list are looked at for a fit; before the heap fails or grows, THOROUGH_TRIES. */
#define RUN_TRIES 8
#define BLOCK_TRIES 4
#define THOROUGH_TRIES 256

struct kheap {
	/* Read by every call. */
	uint64_t secret;
	struct section window; /* a region that is looked at first: the one seen last, or the first one for ever */
	struct section *sections;
	size_t section_mask;
	uint32_t sections_sequence; /* odd: the table is being changed */
#if KPORT_CPUS > 1
	struct cpu_cache *cpus[KPORT_CPUS + 1]; /* the last is for those that have none */
#endif
	struct cpu_cache cpu0;

	struct kport_lock lock;
	struct kheap_config config;

	struct region *regions, *last_region;
	struct region *spare;    /* the one empty region of the source that is kept */
	struct region *detached; /* regions that heap_unlock puts back */
	size_t n_regions;

	struct page_desc *sections_run; /* the page run that holds the table; NULL: it is inline_sections */
	struct page_desc *old_sections; /* tables that were outgrown, which others may still be reading */
	size_t n_sections;      /* entries that are regions, */
	size_t n_sections_used; /* and those that were */

	uint64_t victim_header;   /* what the header of the victim was sealed as */
	struct block *victim;     /* a free block in no list, from which the next ones are cut; NULL: none */
	struct block *empty_area; /* the free block that is all of the one empty area that is kept */
	bool is_draining;
	bool is_thorough; /* the heap is about to fail or to grow: look at more of each list */

	struct depot depot;
	struct run_bins runs[N_ZONES];
	struct block_bins blocks;
	struct slab_class slabs[SLAB_CLASSES];
	struct kcache cache_of_caches; /* struct kcache is kept apart from users' objects, and no user can free it */
	struct kcache cache_of_clips;
	struct kcache *caches;

	struct kmalloc_error pending; /* error_class 0: none */
	struct counters counters;
#ifdef CHECKING
	uint32_t until_check;
	bool in_check;
#endif
	struct section inline_sections[SECTIONS_INLINE];
};

/* ---- heap.c ------------------------------------------------------------------------------------------------- */

static inline kport_lock_state heap_lock(struct kheap *heap)
{
	return kport_lock(&heap->lock);
}

/* What an allocation is to be, worked out once. */
struct request {
	size_t size;  /* asked for */
	size_t gross; /* with the canary; never 0 */
	size_t alignment;
	uintptr_t max_address;
	bool is_bare; /* whole pages without a canary */
};

/* Lets go, then reports the pending misuse and puts detached regions back. */
void heap_unlock_and_tell(struct kheap *heap, kport_lock_state state);
INLINE void heap_unlock(struct kheap *heap, kport_lock_state state)
{
#ifdef CHECKING
	heap_unlock_and_tell(heap, state);
#else
	if (UNLIKELY(heap->pending.error_class || heap->detached))
		heap_unlock_and_tell(heap, state);
	else
		kport_unlock(&heap->lock, state);
#endif
}

/* Remember a misuse for heap_unlock; the first one of an operation wins. */
void heap_error(struct kheap *heap, enum kmalloc_error_class error_class, uintptr_t address, size_t size);

/* Give empty slabs and areas back to the runs; true if that freed a page. O(classes). */
bool heap_drain(struct kheap *heap);

/* A request could not be met: get pages, or ask on_low_memory once; true: try again. Called without the lock. */
bool heap_replenish(struct kheap *heap, size_t n_pages, uintptr_t max_address, size_t size, bool *has_asked);
#define GROWTH_TRIES 4

/* A call returns NULL. Called without the lock. */
void count_failure(struct kheap *heap);
INLINE void count_resize(struct kheap *heap, size_t old_usable, size_t usable)
{
	struct counters *counters = &heap->counters;

	counters->live_bytes += usable - old_usable;
	if (counters->live_bytes > counters->high_water)
		counters->high_water = counters->live_bytes;
}

INLINE void count_alloc(struct kheap *heap, size_t n_objects, size_t usable)
{
	heap->counters.n_allocs += n_objects;
	heap->counters.live_objects += n_objects;
	count_resize(heap, 0, usable);
}

INLINE void count_free(struct kheap *heap, size_t usable)
{
	heap->counters.n_frees++;
	heap->counters.live_objects--;
	heap->counters.live_bytes -= usable;
}

/* The free did not come about. */
static inline void uncount_free(struct kheap *heap, size_t usable)
{
	heap->counters.n_frees--;
	heap->counters.live_objects++;
	heap->counters.live_bytes += usable;
}

/* A block that stands in for an object of a class without slabs, or without room in them; not counted. */
uintptr_t alloc_stand_in(struct kheap *heap, size_t gross, size_t alignment, unsigned class_index);
/* One attempt to meet a request with what the heap has; the object is counted. */
uintptr_t alloc_once(struct kheap *heap, const struct request *request);
void *alloc_any(struct kheap *heap, size_t size, size_t alignment, unsigned flags);

/* False: sizes or alignment that no memory can meet. */
bool request_make(struct request *request, size_t size, size_t alignment, unsigned flags);
#define NATURAL_MAX ((size_t)2 << 20) /* powers of two up to a large page are aligned to their size */
INLINE size_t natural_alignment(size_t size)
{
	return is_power_of_two(size) && size <= NATURAL_MAX ? max_size(size, GRANULE) : GRANULE;
}

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

/* Find the object that starts at `address` and is live, or in a CPU's cache. Reports nothing. */
bool heap_locate(struct kheap *heap, uintptr_t address, struct object *object);
/* Find the live object that starts at `address`; otherwise report why there is none and return false. */
bool heap_find(struct kheap *heap, uintptr_t address, struct object *object);
/* Give its memory back, uncounted. False: a neighbour is damaged (reported), nothing changed. */
bool object_free(struct kheap *heap, const struct object *object, uintptr_t address);
/* Does a canary stand behind it? */
bool has_canary(const struct object *object);
/* kheap_free with the lock held. */
void free_locked(struct kheap *heap, uintptr_t address);
/* Bytes that may be used; reports an overrun, and then returns SIZE_MAX. */
size_t object_usable(struct kheap *heap, const struct object *object, uintptr_t address);

/* ---- region.c ----------------------------------------------------------------------------------------------- */

/* The region that holds `address`, or NULL. */
static inline struct region *region_of(const struct kheap *heap, uintptr_t address)
{
	size_t i = (address >> SECTION_SHIFT) & heap->section_mask;
	struct region *region;

	while ((region = heap->sections[i].region) != NULL) {
		if ((address >> PAGE_SHIFT) - heap->sections[i].first_page < heap->sections[i].n_pages)
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
	return kind < PAGE_KINDS;
}

static inline bool is_slab(enum page_kind kind)
{
	return (unsigned)kind - PAGE_SLAB < SLAB_CLASSES;
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

/*
 * The check word of a header: multiplicative hashing (Knuth, TAOCP 3, 6.4), whose top bits depend on all bits below. It does not cover
 * BLOCK_PREV_FREE, which changes with the neighbour; that one is believed only if the block before confirms it.
 */
#define HEADER_LABEL_SHIFT 32
#define HEADER_CHECK_SHIFT 40

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

/* `header` may have any check word. */
INLINE uint64_t header_check(const struct kheap *heap, const struct block *block, uint64_t header)
{
	uint64_t x = (header & ~(uint64_t)BLOCK_PREV_FREE) << (64 - HEADER_CHECK_SHIFT);

	return ((x ^ ((uintptr_t)block + heap->secret)) * 0x9e3779b97f4a7c15u) >> HEADER_CHECK_SHIFT;
}

/* Does the check word of this header hold? Touches the header only. */
INLINE bool block_tag_holds(const struct kheap *heap, const struct block *block)
{
	uint64_t header = block_header(block);

	return header >> HEADER_CHECK_SHIFT == header_check(heap, block, header);
}

INLINE unsigned block_label(const struct block *block)
{
	return block_header(block) >> HEADER_LABEL_SHIFT & 0xff;
}

INLINE void block_seal(const struct kheap *heap, struct block *block, uint32_t size_flags, unsigned label)
{
	uint64_t header = size_flags | (uint64_t)label << HEADER_LABEL_SHIFT;

	block_set_header(block, header | header_check(heap, block, header) << HEADER_CHECK_SHIFT);
}

INLINE unsigned block_bin_of(size_t size)
{
	size_t units = size / GRANULE;
	unsigned shift;

	if (units < 1 << BIN_SHIFT)
		return (unsigned)units;
	shift = log2_floor(units) - BIN_SHIFT;
	return (shift << BIN_SHIFT) + (unsigned)(units >> shift);
}


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
/* Make the payload `size` bytes long where it stands. */
bool block_resize(struct kheap *heap, struct region *region, struct block *block, size_t size); /* region: only to shrink */
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
void area_used_up(struct kheap *heap, struct block *block);
INLINE void area_used(struct kheap *heap, struct block *block)
{
	if (UNLIKELY(block == heap->empty_area))
		area_used_up(heap, block);
}
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
extern const uint16_t kheap_object_sizes[SLAB_CLASSES];
INLINE size_t slab_object_size(unsigned class_index)
{
	return kheap_object_sizes[class_index];
}
unsigned slab_objects(unsigned class_index);
/* Would a slab serve an object of this class now? */
bool slab_is_earned(const struct kheap *heap, unsigned class_index);
uintptr_t slab_alloc(struct kheap *heap, unsigned class_index);
/* False: it is free already. */
bool slab_free(struct kheap *heap, struct region *region, size_t page, unsigned class_index, size_t index);
/* The index of the object that starts `offset` bytes into a slab; false: none starts there. */
bool slab_index(unsigned class_index, size_t offset, size_t *index);
bool slab_drain(struct kheap *heap);
/* What free_bits holds when nothing is live. */
uint64_t slab_full_word(unsigned n_objects, unsigned word);

/* Up to n objects of a class, from one slab, each marked as cached, into objects[]; how many. They are not counted. */
unsigned slab_take(struct kheap *heap, unsigned class_index, unsigned n, void *objects[]);

/* ---- cpu.c -------------------------------------------------------------------------------------------------- */

/* The word that tells a free object of a slab, and any object in a magazine. Whatever hands an object out clears it. */
INLINE uint64_t cached_key(const struct kheap *heap, uintptr_t object)
{
	return heap->secret + object;
}

INLINE word_alias *key_word(uintptr_t object)
{
	return (word_alias *)object + 1;
}

/* Is this object of a slab, or block, free for its CPU? */
INLINE bool is_cached(const struct kheap *heap, uintptr_t object)
{
	return !HARDENED && *key_word(object) == cached_key(heap, object);
}

void cpu_init(struct kheap *heap);
/* The heap has its first region. */
void cpu_heap_made(struct kheap *heap);
/* The magazine was empty: get objects from the depot or the slabs, or a block to stand in for one. NULL: there is no memory. Called without the lock. */
void *cpu_alloc_miss(struct kheap *heap, unsigned class_index, size_t size, size_t alignment);
/* A block for a class whose magazine was empty. NULL: no memory. Called without the lock. */
void *cpu_block_miss(struct kheap *heap, unsigned block_class);
/* Free what the fast path did not; kind: of its page, a slab or another. Called without the lock. */
void cpu_free_small(struct kheap *heap, void *object, unsigned kind);
void cpu_free_other(struct kheap *heap, void *object, unsigned kind);
/* The same for an address whose page is not known. NULL does nothing. */
void cpu_free_miss(struct kheap *heap, void *object);
/* Give what this CPU's cache and the depot hold back to the slabs and blocks; true if that was anything. */
bool cpu_drain(struct kheap *heap);
/* The same for the depot and for blocks alone, which is most of the bytes; and how many that would be. */
bool cpu_drain_large(struct kheap *heap);
size_t cpu_cached_bytes(struct kheap *heap);
/* All, and the space of the magazines too. */
bool cpu_reset(struct kheap *heap);
/* Bytes and objects in all caches; of other CPUs' caches as far as can be seen from here. */
void cpu_count(struct kheap *heap, size_t *n_objects, size_t *n_bytes);

/* ---- cache.c ------------------------------------------------------------------------------------------------ */

/* The object of a cache's slab that covers `address`; false: padding. */
bool cache_locate(const struct region *region, size_t page, uintptr_t address, uintptr_t *base, size_t *index,
                  size_t *head);
void cache_free_object(struct kheap *heap, struct page_desc *head, size_t index);
bool cache_drain(struct kheap *heap);
void cache_init(struct kcache *cache, struct kheap *heap, size_t size_bytes, size_t alignment);
/* The heap's own objects: not counted, without a canary. NULL: there are no pages; the heap does not grow for this. */
void *cache_take_internal(struct kcache *cache);
void cache_free_internal(struct kcache *cache, void *object);
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
