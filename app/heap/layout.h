/* SPDX-License-Identifier: MIT */
/*
 * What stands in memory: the structures of every storey, and what the build is. No functions.
 */
#ifndef HEAP_LAYOUT_H
#define HEAP_LAYOUT_H

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

/* Can the section table change while somebody looks at it without the lock? */
#define HAS_READERS (KPORT_CPUS > 1 || INTERRUPTS)

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
#define SMALL_CLASSES 16 /* of them: 16, 32 .. 256 bytes; then 512, 1024, 2048 */
#define SLAB_NO_CLASS 255

/* What a page is. */
enum page_kind {
	PAGE_BODY,                                /* not the first page of its run (or the inside of a free run) */
	PAGE_SLAB,                                /* a slab of class kind - PAGE_SLAB */
	PAGE_OVERHEAD = PAGE_SLAB + SLAB_CLASSES, /* region descriptors, a section table or a CPU cache */
	PAGE_FREE,                                /* first page of a free run; its descriptor holds the length */
	PAGE_FREE_TAIL,                           /* last page of a free run of two or more; likewise */
	PAGE_RUN,                                 /* first page of a live run */
	PAGE_RUN_CACHED,                          /* first page of a run in a CPU's cache */
	PAGE_BLOCK_HEAD, /* first page of a block area; its descriptor holds the area's length */
	PAGE_BLOCK,      /* every other page of a block area; the last one's descriptor holds the length too */
	PAGE_CACHE,      /* first page of a kcache's slab */
	PAGE_CACHE_BODY, /* the others; the descriptor says how far it is from the first */
	PAGE_KINDS,
	PAGE_KIND_MASK = 0x1f,
	PAGE_ZERO = 0x20, /* flag of a free run of one page: it is zero; of a live run: it will be when it is freed */
	PAGE_GIVEN_UP =
		0x40, /* flag of the first page of a free run: the host was asked to take away what is behind it */
	PAGE_POISONED = 0x80, /* flag: this free page holds poison (hardened) */
};
_Static_assert(PAGE_KINDS <= PAGE_KIND_MASK + 1, "a page's kind and flags share a byte");

/*
 * Three arrays of each region say what is where, out of line, so that no overrun of an object reaches them:
 *
 *   kinds      a byte for each page: enum page_kind
 *   starts     a bit for each granule of 16 bytes: an object starts here that is not free in its storey: it is live, or in a CPU's cache
 *   magazines  a byte for each cell of 256 bytes: the magazine that takes every object that starts there; 0: none does, or not for all
 *
 * The last two tell alike for every storey, whether an address is an object's, and where it goes when it is freed.
 */
#define GRANULE_SHIFT 4
#define WORD_GRANULES 32 /* in a word of starts */
#define CELL_SHIFT 8
#define CELL_BYTES ((size_t)1 << CELL_SHIFT)
#define CELL_GRANULES (CELL_BYTES / GRANULE)
#define PAGE_GRANULES (PAGE_SIZE / GRANULE)
#define PAGE_WORDS (PAGE_GRANULES / WORD_GRANULES)
#define PAGE_CELLS (PAGE_SIZE / CELL_BYTES)
_Static_assert(GRANULE == 1 << GRANULE_SHIFT, "the contract's alignment is a granule");

/* Of a slab none of whose objects ever came back: its free ones are the last. */
#define HINT_FRESH UINT16_MAX

/* Out of line, too. Which part is in use follows from the page's kind. */
struct page_desc {
	/* Lists of free runs, of slabs with free objects; by next alone of the runs in a CPU's cache, whose it is meanwhile. */
	struct page_desc *next, *prev;
	uint32_t page; /* its own index in the region, whose descriptors begin behind the struct region */
	union {
		uint32_t n_pages;        /* free run, live run, block area: head and tail */
		struct {                 /* slab: */
			uint16_t n_free; /* free objects, */
			uint16_t
				hint; /* none of them before this word of starts (of a kcache's: object); or HINT_FRESH */
		};
	};
	union {
		uintptr_t number;     /* free run: of its first page */
		size_t n_zero;        /* last page of a free run of two or more: so many pages up to it are zero */
		bool is_bare;         /* PAGE_RUN: from kpages_alloc, so without a canary */
		struct kcache *cache; /* PAGE_CACHE */
		size_t n_back;        /* PAGE_CACHE_BODY: pages back to the first */
		unsigned owner;       /* slab: on the list of which CPU it is, or was last */
	};
};

/* ---- regions and the section table --------------------------------------------------------------------------- */

struct region {
	uintptr_t first_page; /* number of the first page */
	size_t n_pages;
	uint32_t *starts;
	uint8_t *magazines;
	uint8_t *kinds;
	struct page_desc *descs;
	struct region *next, *prev;
	struct kpage_chunk chunk; /* what goes back to the source, */
	uint32_t *chunks;         /* and behind it, by their pages, the chunks that lengthened the region */
	uint32_t n_chunks;
	uint32_t n_described; /* the most pages it ever had: what describes later ones is still zero */
	size_t capacity;      /* pages that its arrays have room for */
	uint32_t n_overhead;  /* pages of descriptors at the front */
	size_t n_busy;        /* pages that are neither free nor overhead; the tail area's page is not counted */
	size_t n_cached;      /* of these, pages of empty slabs and of the empty area that are kept for the next time */
	uint16_t tail_offset; /* the rest of the last overhead page serves blocks from here on; 0: it does not */
	bool from_source;
	bool is_first;  /* holds the struct kheap */
	bool is_spare;  /* empty, and kept */
	bool is_closed; /* what follows was not to be had */
	bool is_own;    /* made for one large object */
};

/*
 * The section table is a hash table from sections to regions, with linear probing. A region is entered under each section that it has a
 * part of: of 64 KiB, or of 2 MiB if it is so large that there would be too many. Whoever looks an address up tries both, first what most of the
 * heap is. An entry repeats what tells whether an address is the region's, so that nothing that may be gone is touched to find out.
 */
#define SECTION_SHIFT 16
#define LARGE_SECTION_SHIFT 21
#define LARGE_REGION_PAGES 512
#define LARGE_FIRST_PAGES 256
#define SECTIONS_INLINE 16
#define SECTIONS_AHEAD 512

struct section {
	uintptr_t first_granule; /* its address in granules */
	size_t n_granules;       /* 0: there was a region once */
	const uint32_t *starts;
	struct region *region; /* NULL: there never was one */
};

/* A region that is looked at before the table is; for what is freed without the lock only while it is open: while most of the heap is there. */
struct window {
	uintptr_t first_granule;
	size_t n_open; /* its granules, or 0: it is closed */
	const uint32_t *starts;
	const uint8_t *magazines;
	struct region *region;
	size_t n_granules;
};

/* ---- page runs -------------------------------------------------------------------------------------------- */

/* Free runs below and above 4 GiB are kept apart; no run and no block area crosses that line. */
enum zone { ZONE_LOW, ZONE_HIGH, N_ZONES };
#define ZONE_PAGE ((uintptr_t)1 << (32 - PAGE_SHIFT))

/* Two bins for each octave of lengths; below RUN_EXACT, all runs of a bin are equally long. */
#define RUN_EXACT ((size_t)4)
#define RUN_BINS 30 /* the last one has all from 3 * 2^13 pages (96 MiB) on: there are few of them */

struct run_bins {
	uint64_t bits; /* of the bins that are not empty */
	struct page_desc *heads[RUN_BINS];
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
	LABEL_SLAB = 1,   /* + slab class: stands in for an object of a class without a slab */
	LABEL_SIZED = 32, /* + block class: as large as that class, so a CPU cache may keep it */
	LABEL_SLAB_SIZED =
		160 /* + slab class: stands in, and is as large and as well aligned as an object of that class */
};

#define BLOCK_HEADER ((size_t)8)
#define BLOCK_FOOTER ((size_t)8)
#define LINKS_BYTES (2 * sizeof(struct block *)) /* at the beginning of a free block that is in a list */
#define BLOCK_MIN ((size_t)32)
/* A block that grows by less than this part of itself gets as much more; one that shrinks by less stays as it is. */
#define RESIZE_SHARE 8
#define MOVE_FREE_PAGES 16 /* with so many free pages a block that shrinks much moves: another one needs no more */
/* Larger objects are page runs; buffers of 64 KiB, which are common, take 16 pages then, as blocks they would begin a 17th. */
#define BLOCK_MAX_REQUEST ((size_t)65535)

/*
 * Bins for free blocks, and a bitmap of those that are not empty: 16 for each octave of sizes up to 4 KiB, 8 above, where few blocks are and
 * every heap, small ones too, pays for the bins.
 */
#define BIN_SHIFT 4
#define BIN_FINE_OCTAVES 4
#define BIN_COARSE ((BIN_FINE_OCTAVES + 1) << BIN_SHIFT)
#define BIN_COARSE_SHIFT 3
#define BLOCK_BINS 128 /* for a free block that is the largest area */

#define AREA_MAX_PAGES 64 /* so that one step of kheap_check_step is bounded */
#define AREA_GROW_MAX 16
#define RELEASE_PAGES 16 /* a free block that spans so many whole pages gives them back */

#define BIN_WORDS ((BLOCK_BINS + 63) / 64)
struct block_bins {
	uint64_t bits[BIN_WORDS + BIN_WORDS -
	              1]; /* the last ones are 0, so that who looks at all from a word on need not count */
	struct block *heads[BLOCK_BINS];
};

/* ---- slabs -------------------------------------------------------------------------------------------------- */

struct slab_class {
	struct page_desc *empty; /* at most one slab without live objects */
	uint32_t n_in_blocks;    /* live objects of this class that blocks serve */
	uint32_t n_slabs;
};

/* A class whose few objects come and go so often that it gets a slab all the same; less: so many rounds of that it has behind it. */
#define SLAB_BUSY UINT8_MAX
/* So many rounds of all classes: a heap that is small, but so busy that some pages more are well spent on its caches. */
#define HEAP_BUSY 150
/* So many times in turn one of its objects that blocks serve was freed and one allocated: it is one that comes and goes. Odd: freed last. */
#define SLAB_LONE 128

/* ---- CPU caches -------------------------------------------------------------------------------------------- */

/*
 * A magazine: a stack of objects of one size class that are free for their CPU and live for the heap. top points at the object that is
 * handed out next. Below the lowest slot is a NULL, and above the highest one, and no slot between holds one, whether it is in use or not: so one
 * test of what lies at the top tells that there is no object, and one of what lies above it that there is no room. The second word of an object in
 * a magazine holds a key, which nothing live holds: that is how a double free shows.
 */
struct magazine {
	void **top;
};

/*
 * The space of a magazine that its class has earned, aligned to its size. A full one waits on a list, which has the addresses of the topmost
 * objects' slots: the first one, and in each clip's first slot the next. An empty one waits on a list, too; its second slot has the address
 * of the one slot behind the first that may hold a NULL.
 */
#define CLIP_WORDS 32
struct clip {
	void *slots[CLIP_WORDS]; /* the first is the NULL below the lowest object */
};

/* The space of a magazine until then: the NULL above is that below the next one. */
#define SMALL_OBJECTS 2
#define SMALL_WORDS (SMALL_OBJECTS + 1)

/* Spaces for one object are lent to classes of blocks in small heaps. */
#define LENT 4
#define LENT_WORDS 2

/* What only the slow path needs of a magazine. Its CPU's own clips besides the loaded ones go to and fro without the lock. */
struct magazine_state {
	void **end;  /* the NULL above its slots; NULL: it has none */
	void **full; /* own full clips */
	bool has_clip;
	uint8_t limit;         /* objects that a clip of it may hold */
	bool was_missed;       /* since the idle hand passed */
	uint8_t n_misses;      /* until it earns a clip */
	uint8_t n_stand_ins;   /* frees of blocks that stand in: until the class earns a slab by being busy */
	uint16_t object_words; /* size in pointers */
};

/*
 * Magazines by number: 0 is that of nobody, always empty and always full; the slab classes' follow; then those of blocks of 272 to 4096
 * bytes, sixteen classes an octave. Blocks above that have a number, too, whose magazine is like that of nobody.
 */
#define BLOCK_CLASSES 64
#define BLOCK_CLASS_MAX ((size_t)4096)
#define MAGAZINE_SLAB 1u
#define MAGAZINE_BLOCK (MAGAZINE_SLAB + SLAB_CLASSES)
#define MAGAZINES (MAGAZINE_BLOCK + BLOCK_CLASSES)
#define MAGAZINE_LARGE MAGAZINES
_Static_assert((int)MAGAZINE_SLAB == (int)PAGE_SLAB, "a slab's magazine has the number of its page's kind");

/*
 * Runs of 1 to 8 pages, listed by length through their descriptors, so that nothing is written into free pages; the kind of the first page says
 * that a run is in a cache. Of 2, 4 and 8 pages only those that are aligned to their length.
 */
#define RUN_CACHE_PAGES 8
struct run_cache {
	struct page_desc *runs[RUN_CACHE_PAGES];
	size_t n_runs, n_pages; /* in all lists */
	size_t most_pages;
};

struct cpu_cache {
	struct magazine magazines[MAGAZINES + 1];
	struct magazine_state
		*block_states; /* of the blocks' magazines; NULL: not earned yet, and all of them empty and full */
	struct run_cache runs;
	struct clip *empty;                   /* own clips without objects */
	size_t own_bytes;                     /* of the objects in its own full clips, */
	size_t own_most;                      /* and how many they may be */
	uint8_t inside;                       /* somebody is changing this cache */
	uint8_t hand;                         /* the class whose idleness is looked at next */
	uint8_t n_rounds;                     /* looks at what is earned or idle, */
	uint8_t n_left;                       /* misses until the next one */
	uint8_t n_run_misses, n_large_misses; /* frees since the last look at what is earned */
	uint8_t lone_class, lone_pages;       /* what was freed last: the second time in turn it is kept */
	uint32_t n_block_misses;
	uint32_t drain_epoch;
	struct large_cache *large; /* NULL: not earned yet; then one block and one run at most: */
	void *lone;
	struct page_desc *lone_run;
	size_t lone_bytes; /* of both */
	struct magazine_state states[SLAB_CLASSES];
	void *small[SLAB_CLASSES * SMALL_WORDS + 1];
	void *lent_slots[LENT * LENT_WORDS + 1]; /* see lent.c */
	struct lent {
		uint8_t number; /* the magazine that has it; 0: none */
		uint8_t next;   /* the one that was full last, and would have had it */
	} lent[LENT];
	struct page_desc
		*partial[SLAB_CLASSES]; /* slabs with free objects and live ones, for this CPU; with the lock */
	/* Full clips of objects from this CPU's slabs that others freed, or that are too many; with the lock. */
	void **returned[SLAB_CLASSES];
#if KPORT_CPUS > 1
	struct cpu_cache *next_parked;
	size_t returned_bytes;
	size_t own_earned; /* bytes that may be in own full clips besides, where there are other CPUs; see own_note_most */
#endif
};

/* What all CPUs share: full clips of blocks that no CPU has. */
struct depot {
	void ***full_blocks; /* by class; NULL: not earned yet */
	size_t bytes;        /* of the objects in them, and in those that were returned; */
#if KPORT_CPUS > 1
	size_t returned_bytes; /* of the latter */
#endif
	struct clip *empty; /* clips without objects */
	unsigned n_empty;
	unsigned n_missed; /* clips that there was no page for, since the heap last grew for them */
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
	struct window
		window; /* where there are readers on the first region for ever, else on a large one, or where what grows is */
	struct section *sections;
	size_t section_mask;        /* the entry that the last pair of them begins with */
	uint32_t sections_sequence; /* odd: the table is being changed */
	uint32_t section_shift;     /* of the sections that are tried first */
#if KPORT_CPUS > 1
	struct cpu_cache *cpus[KPORT_CPUS + 1]; /* the last is for those that have none */
#endif
	struct cpu_cache cpu0;

	unsigned n_caches; /* besides cpu0 */
#if KPORT_CPUS > 1
	unsigned n_parked;
	struct cpu_cache *parked; /* caches of CPUs that left, for those that come */
#endif
	struct kport_lock lock;
	struct kheap_config config;

	struct region *regions, *last_region;
	struct region *near; /* the one that was looked up last with the lock held, or, without readers, resized */
	struct region *open; /* the one that the next chunk may lengthen; NULL: none */
	/* The first one that is empty and kept; they end the list, the one used last behind the others. */
	struct region *spares;
	size_t n_spare_pages;    /* of all of these */
	struct region *detached; /* regions that heap_unlock puts back */
	size_t n_regions;

	struct page_desc *sections_run; /* the page run that holds the table; NULL: it is inline_sections */
	struct page_desc *old_sections; /* tables that were outgrown, which others may still be reading */
	size_t n_large_pages;           /* of large regions */
	size_t n_sections;              /* entries that are regions, */
	size_t n_sections_used;         /* and those that were */

	struct block *victim;   /* a free block in no list, from which the next ones are cut; NULL: none */
	uint64_t victim_header; /* what its header was sealed as; 0: there is none */
	struct region *victim_region;
	struct block *empty_area; /* the free block that is all of the one empty area that is kept */
	bool is_sparse;           /* the source gave pages that were never used */
	bool has_joined;          /* a chunk of the source has lengthened a region; */
	bool is_apart;            /* or none did, and none is asked to */
	bool is_enclosed;         /* the region of a large object that grows could not be lengthened the last time */
	bool is_blocks_busy; /* some CPU missed blocks often: the others, and those that come, need not show it again */
	bool is_draining;
	bool is_laden;   /* this call has done much already */
	bool is_refused; /* there were no pages when they were last wanted */
	/* How much less CPUs keep than they might, as a shift: the heap grew though what they kept was given back. See squeeze in depot.c. */
	uint8_t squeeze;
	uint8_t n_drained;       /* times that many page runs were drained before the heap grew, see is_churning */
	uint16_t n_calm;         /* rounds since the squeeze, or since they were last let keep more */
	uint8_t n_busy_rounds;   /* see HEAP_BUSY */
	uint8_t n_near;          /* objects resized in turn in one region, which is not the window's */
	bool is_thorough;        /* the heap is about to fail or to grow: look at more of each list */
	uint32_t n_own_pages;    /* of regions for one large object each */
	uint32_t n_large_missed; /* blocks above 4 KiB that a CPU's cache did not have, up to LARGE_LONG */

	struct depot depot;
	struct run_bins runs[N_ZONES];
	struct block_bins blocks;
	struct slab_class slabs[SLAB_CLASSES];
	uint8_t slab_rounds[SLAB_CLASSES]; /* see SLAB_BUSY */
	uint8_t slab_turns[SLAB_CLASSES];  /* see SLAB_LONE */
	uint8_t lengthening; /* the CPU that is asking for a chunk to lengthen the open region, see growth.c; 0: none is */
	uint32_t empty_slabs;          /* the classes that have one without live objects */
	uint32_t n_taken_zero;         /* of the pages that were taken last so many, the last ones, are zero */
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

#endif
