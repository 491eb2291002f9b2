/* SPDX-License-Identifier: MIT */
/*
 * kmalloc: a heap for kernels, boot loaders and UEFI programs. Pages in, kmalloc/kfree out.
 *
 * This is the whole contract: all that a user may call, and nothing else. What a host may supply at
 * compile time (lock, trap) is in kmalloc_port.h.
 *
 * Rules that hold for every function here
 *  - Sizes are in bytes, pages are KMALLOC_PAGE_SIZE bytes. Failure is NULL or false and changes nothing.
 *  - Cost is O(1) unless the function says otherwise; O(pages) means pages asked for, zeroed or copied.
 *  - From: any context that the port allows (kmalloc_port.h). The default port: one CPU where it is compiled
 *    -ffreestanding, any thread where it is not, and no handler that may have interrupted the heap on its own
 *    CPU; a port of your own makes it any CPU and any handler. No function needs an operating system, firmware or another heap, so all of them work
 *    before other CPUs are started and after ExitBootServices (unless the page source you gave does not).
 *  - Callbacks (page source, error, low memory) are called with no lock held and may call the heap. The page source, and who is asked when
 *    memory is low, must allocate with KMALLOC_NO_GROW there, or they are called again from within, without end. Any other call may give
 *    chunks back, frees too.
 *  - Misuse (freeing twice, a stranger's pointer...) never changes the heap: it is reported to on_error and
 *    the call does nothing and returns NULL, false or 0; what was to be freed stays allocated. Without on_error the port's trap stops the
 *    program at the misuse. One thing is not caught: a pointer that is not live is looked at without the lock, so if another CPU gives its
 *    chunk back to the source at that moment, what is read is no longer the heap's: it may fault, or pass for an object.
 *  - A heap or a cache is never NULL, an object may be. Flags that are none are ignored.
 */
#ifndef KMALLOC_H
#define KMALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KMALLOC_VERSION "0.1.0"
#define KMALLOC_PAGE_SIZE ((size_t)4096)
/*
 * Every object is aligned to this at least; one whose size is a power of two up to 2 MiB is aligned to its size, unless the call names an
 * alignment: then to that.
 */
#define KMALLOC_ALIGNMENT ((size_t)16)
/* The smallest first region that a heap can be made in. */
#define KHEAP_MIN_REGION ((size_t)16384)

/*
 * How this heap was compiled: "release", "hardened" (KMALLOC_HARDENED), "check" (KMALLOC_CHECK), or "caches": checked, but with CPU caches
 * instead of canaries (KMALLOC_CHECK, and KMALLOC_HARDENED=0).
 */
const char *kmalloc_build(void);

/* One heap. It lives inside its own first region; several may exist at once and share nothing. */
struct kheap;

/* ------------------------------------------------------------------------------------------------------------
 * Pages: where a heap gets them
 * --------------------------------------------------------------------------------------------------------- */

/* A run of whole pages. The address is a number because page 0 may be a legal page. */
struct kpage_chunk {
	uintptr_t base; /* multiple of KMALLOC_PAGE_SIZE */
	size_t n_pages;
	bool is_zero; /* the source knows that all bytes are zero; such pages are taken to cost nothing until they are used */
	/*
	 * Of a heap's first chunk: so many pages right behind it the source will give when best_address asks for them. The heap may then be one
	 * region, in which kfree finds what it looks for at once. Only where is_zero holds: a 48th of them is taken from this chunk to
	 * describe them, nearly all of it if need be.
	 */
	uint32_t n_behind;
};

struct kpage_request {
	size_t min_pages; /* fewer than this are of no use to the heap */
	size_t want_pages; /* >= min_pages, so that the source is asked seldom. It is not asked again for less: give what there is */
	/* The chunk's last byte may not lie above this, which is less than UINTPTR_MAX for KMALLOC_BELOW_4G and kpages_alloc only. */
	uintptr_t max_address;
	uintptr_t best_address; /* where the chunk would best begin: it then lengthens what the heap has; 0: anywhere */
};

/*
 * The host's pages. get() fills in `chunk`, which it finds zeroed, and returns true, or returns false. A chunk of fewer than min_pages, at
 * no page address, or above max_address is handed straight back through put(), and the request has failed. Contents do not matter.
 * put() gets exactly the chunks that get() gave, each once; where there is a get() there must be a put(). Both are called with no lock
 * held and may themselves use the heap.
 *
 * A source may ignore best_address. One that can follow it, as a range of virtual memory that is mapped from one end can, makes
 * the heap thriftier, most of all a small one: chunks that lie together are one, with nothing between that objects cannot cross.
 */
struct kpage_source {
	bool (*get)(void *ctx, const struct kpage_request *request, struct kpage_chunk *chunk);
	void (*put)(void *ctx, const struct kpage_chunk *chunk);
	void *ctx;
};

/* ------------------------------------------------------------------------------------------------------------
 * Misuse
 * --------------------------------------------------------------------------------------------------------- */

enum kmalloc_error_class {
	KMALLOC_DOUBLE_FREE = 1, /* the memory is free already; also if it was to be resized, or asked for its size */
	KMALLOC_FOREIGN_POINTER, /* the address is in no region of this heap, or in what it keeps there of its own, caches too */
	KMALLOC_INTERIOR_POINTER,   /* inside a live object, but not where it starts */
	KMALLOC_MISALIGNED_POINTER, /* no object can start at this address, be it in an object or in no region */
	KMALLOC_OVERRUN,            /* bytes behind the object's end were changed (hardened builds) */
	KMALLOC_WRITE_AFTER_FREE, /* bytes of free memory were changed (all of them in hardened builds, links in release) */
	KMALLOC_DAMAGED_TAG, /* a header of the heap was overwritten: mostly by an overrun of the object before it */
	KMALLOC_SIZE_MISMATCH, /* a sized free named another size than was allocated, or an alignment that the object does not have */
	KMALLOC_WRONG_CACHE, /* kcache_free of an object that another cache owns */
	KMALLOC_BUSY,        /* a cache was destroyed with live objects */
	KMALLOC_N_ERROR_CLASSES
};

struct kmalloc_error {
	enum kmalloc_error_class error_class;
	struct kheap *heap;
	const void *address; /* the pointer that was passed, or the first damaged byte */
	size_t size_bytes; /* that matter to the class: of the object whose size or cache is another, of the damaged range; or 0 */
	/* The object at or below the address, or the free range that it lies in, which may be much more than one object; NULL: none. */
	const void *nearest;
	size_t nearest_size_bytes; /* that may be used; 0 where a header is damaged */
	bool nearest_is_live;
};

/* A short name for people: "double free". Never NULL. */
const char *kmalloc_error_name(enum kmalloc_error_class error_class);

/* ------------------------------------------------------------------------------------------------------------
 * Heaps and their regions
 * --------------------------------------------------------------------------------------------------------- */

struct kheap_config {
	struct kpage_source source; /* get == NULL: the heap never grows by itself */
	size_t limit_bytes; /* the footprint never passes this, and more memory than that is left alone; 0: no limit */
	/* Told of each misuse. May call the heap. NULL: the port's trap. */
	void (*on_error)(void *ctx, const struct kmalloc_error *error);
	/* Asked when `size_bytes` could not be had: free something, return true, and the heap tries once more. */
	bool (*on_low_memory)(void *ctx, size_t size_bytes);
	void *ctx;       /* for on_error and on_low_memory */
	uint64_t secret; /* keys the heap's check words; any random number, 0 is allowed */
};

/*
 * Make a heap. `memory` (any alignment, contents do not matter) becomes its first region; with memory == NULL the
 * first region comes from config->source. config may be NULL: no source, no limit, trap on misuse.
 * NULL when fewer than three whole pages lie in it (KHEAP_MIN_REGION bytes at any address are enough for up to 512 CPUs; 8 more for each
 * CPU above that), the source refuses, or has no put().
 * O(pages of the region): six words for each are cleared.
 */
struct kheap *kheap_create(void *memory, size_t size_bytes, const struct kheap_config *config);

/*
 * End a heap: all its objects and caches are gone, and every chunk of the page source is put back. Regions that were
 * given by address are simply no longer used. Nobody else may be inside the heap. O(regions).
 */
void kheap_destroy(struct kheap *heap);

/*
 * Give the heap more memory, at any address and of any size; the region is cut to whole pages, and a page at address 0 is
 * left out, because no object may be NULL. Regions may be adjacent. A region may lie across 4 GiB, but no object does: free pages below and
 * above are kept apart. False when no whole page is left after that,
 * when it overlaps a region of this heap, would pass the limit, or is one too many for the table of them and there are no pages for
 * a larger one. O(pages), as kheap_create.
 */
bool kheap_add_region(struct kheap *heap, void *memory, size_t size_bytes);

/*
 * Take the region that holds `memory`, or the first whole page from there on, back. False, and nothing changed, when it holds a live
 * object or the heap itself (the first region), or the table of regions and there are no pages elsewhere for that, or no region is there.
 * A region that came from the page source is put back to it. No other CPU may be inside the heap meanwhile, nor may an interrupt handler
 * call this. All CPUs' caches go with it. O(regions + cached objects).
 */
bool kheap_remove_region(struct kheap *heap, void *memory);

/*
 * Give every empty chunk back to the page source, and every cached page back to the heap, with what this CPU's cache and the depot
 * hold; other CPUs' caches give theirs when they next need the shared storeys. Where there are several CPUs or interrupt handlers, chunks
 * with the table from addresses to regions in them, or with one that it outgrew, stay. Bytes given back. O(regions + cached objects); the
 * lock is held for some hundred objects at a time, and at the end once for what is left in this CPU's cache, the caches of CPUs that
 * left, and all regions.
 */
size_t kheap_trim(struct kheap *heap);

/*
 * This CPU, or thread, ends or will not use the heap for long: its cache waits for the next CPU that needs one, or what it holds goes back, and
 * the cache with it: at the latest before the heap grows for want of room, or fails, or when it is trimmed. It may use the heap again. O(objects in its
 * cache + slabs of its own with room), all of it under the lock. Not from an interrupt handler.
 */
void kheap_leave(struct kheap *heap);

/*
 * In a copy of the process in which the calling thread alone goes on (fork), before it uses the heap: others will not come back from the
 * page source, so nobody is to wait for them. What they were getting from it, or putting back, is in no region of the copy. While the process
 * is copied the heap's lock must be held. O(1).
 */
void kheap_after_fork(struct kheap *heap);

/* ------------------------------------------------------------------------------------------------------------
 * Objects
 * --------------------------------------------------------------------------------------------------------- */

enum kmalloc_flags {
	KMALLOC_ZERO = 1 << 0,       /* all usable bytes are zero. O(size) */
	KMALLOC_NO_GROW = 1 << 1,    /* do not call the page source or on_low_memory */
	KMALLOC_BELOW_4G = 1 << 2,   /* the whole object lies below address 2^32 */
	KMALLOC_CACHE_LINE = 1 << 3, /* what was asked for begins a 64-byte line, and has its lines for itself */
};

/*
 * `size_bytes` bytes, aligned to 16, or to the size when that is a power of two up to 2 MiB. A size of 0 gives a pointer that no other
 * live object has, and perhaps bytes to use (kheap_usable_size). NULL when there is no memory, or size_bytes > PTRDIFF_MAX. Contents are
 * undefined unless KMALLOC_ZERO.
 */
void *kheap_alloc(struct kheap *heap, size_t size_bytes, unsigned flags);

/* The same, aligned to `alignment` (a power of two; anything else gives NULL). 2^63 is legal, and out of memory. */
void *kheap_alloc_aligned(struct kheap *heap, size_t size_bytes, size_t alignment, unsigned flags);

/*
 * kheap_alloc and kheap_free as far as this CPU's cache does it alone, in some twenty instructions, without a lock: for a host that does
 * something of its own when there is more to do. NULL, or false: nothing was done; call the others. Hardened builds have no caches.
 */
void *kheap_alloc_cached(struct kheap *heap, size_t size_bytes);
bool kheap_free_cached(struct kheap *heap, void *object);

/*
 * kheap_alloc_aligned for a host that clears memory itself: all that may be used of the object is zero already but for its first *n_used_bytes,
 * since pages are zero that were not in use since the source said so of their chunk (struct kpage_chunk), or the host gave them up. Of 128 KiB and
 * less nothing is known: SIZE_MAX, as if there is no memory.
 */
void *kheap_alloc_told(struct kheap *heap, size_t size_bytes, size_t alignment, size_t *n_used_bytes);

/* n objects of size_bytes, zeroed, in one block. NULL when n * size_bytes overflows. */
void *kheap_calloc(struct kheap *heap, size_t n, size_t size_bytes);

/*
 * Make the object at `object` size_bytes long, in place or elsewhere, keeping the bytes that both have. object == NULL
 * allocates. size_bytes == 0 gives an object of the smallest size and never frees. On NULL the old object is as it was. The
 * result has kheap_alloc's alignment for its new size; kheap_realloc_aligned keeps a stricter one. O(size) when it moves.
 */
void *kheap_realloc(struct kheap *heap, void *object, size_t size_bytes);
void *kheap_realloc_aligned(struct kheap *heap, void *object, size_t size_bytes, size_t alignment);

/*
 * Make the object size_bytes long where it stands; false when it would have to move. Its alignment does not change. A large object at the
 * end of its region may make the heap ask its page source for what follows, where no free pages elsewhere have room for it.
 */
bool kheap_try_resize(struct kheap *heap, void *object, size_t size_bytes);

/*
 * Free an object, a kcache's and pages, too. NULL does nothing. Whatever the heap did not hand out is reported and left alone. O(1)
 * (hardened: O(size)).
 */
void kheap_free(struct kheap *heap, void *object);

/* Free with the size (and alignment) that was asked for; a size that cannot be right is reported and nothing is freed. */
void kheap_free_sized(struct kheap *heap, void *object, size_t size_bytes);
void kheap_free_aligned_sized(struct kheap *heap, void *object, size_t alignment, size_t size_bytes);

/*
 * Bytes that may be used at `object`: at least what was asked for (hardened: just that). 0 for NULL and, after reporting it, for a
 * stranger.
 */
size_t kheap_usable_size(struct kheap *heap, const void *object);

/* An object and how many bytes of it may be used. */
struct kmalloc_result {
	void *object;
	size_t size_bytes;
};

/* At least size_bytes, and all that the heap would have wasted otherwise. {NULL, 0} when there is no memory. */
struct kmalloc_result kheap_alloc_at_least(struct kheap *heap, size_t size_bytes, unsigned flags);

/*
 * n objects of one size into objects[]; returns how many there are, which is less than n only for want of memory. What the CPU's
 * cache has costs no lock. O(n).
 */
size_t kheap_alloc_bulk(struct kheap *heap, size_t size_bytes, unsigned flags, size_t n, void *objects[]);
void kheap_free_bulk(struct kheap *heap, size_t n, void *const objects[]);

/*
 * Whole pages: n_pages contiguous ones (0 counts as 1), aligned to `alignment` (a power of two, or NULL is returned; less than a page counts
 * as a page), the last byte not above max_address (UINTPTR_MAX: anywhere). O(1) for UINTPTR_MAX and for 2^32 - 1; otherwise O(free
 * runs). kpages_free is kheap_free under another name: each frees what the other's partner gave.
 */
void *kpages_alloc(struct kheap *heap, size_t n_pages, size_t alignment, uintptr_t max_address, unsigned flags);
void kpages_free(struct kheap *heap, void *pages);

/* ------------------------------------------------------------------------------------------------------------
 * Object caches: one size, packed without headers, with an optional constructor and a reserve
 * --------------------------------------------------------------------------------------------------------- */

struct kcache;

/*
 * A cache of objects of size_bytes (1..32768), aligned to `alignment` (a power of two up to a page; 0: 16). `constructor`, if
 * any, is called once for each object that is handed out, after it was zeroed if it was to be, with no lock held. NULL when there is no
 * memory or a number is not
 * legal. The design is Bonwick's slab allocator (USENIX Summer 1994), its state kept outside the objects.
 */
struct kcache *kcache_create(struct kheap *heap, size_t size_bytes, size_t alignment,
                             void (*constructor)(void *object, void *ctx), void *ctx);

/*
 * False, reported as KMALLOC_BUSY and nothing changed, while any object of it is live. O(pages it holds in reserve), under the lock. To use it
 * afterwards is reported as long as other caches' structures keep its page in use; later it is as any use of freed memory.
 */
bool kcache_destroy(struct kcache *cache);

/* flags: KMALLOC_ZERO and KMALLOC_NO_GROW; the others are the cache's own affair and are ignored. */
void *kcache_alloc(struct kcache *cache, unsigned flags);
/* The object must be of this cache. kheap_free takes it without that look; kheap_realloc makes an ordinary object of it if it moves. */
void kcache_free(struct kcache *cache, void *object);

/*
 * Set memory aside so that the next n kcache_alloc calls cannot fail, in code that must not. Returns how many are set aside now.
 * The reserve is kept until the cache is destroyed or prefilled with less. O(n + what it had set aside), under the lock.
 */
size_t kcache_prefill(struct kcache *cache, size_t n);

/* ------------------------------------------------------------------------------------------------------------
 * Inspection
 * --------------------------------------------------------------------------------------------------------- */

struct kheap_stats {
	size_t live_bytes; /* usable bytes of all live objects */
	size_t live_objects;
	size_t peak_live_bytes; /* the most that live_bytes ever was, with what lay in CPU caches, which may be much of the heap */
	size_t footprint_bytes; /* all pages of all regions, the heap's own included */
	size_t peak_footprint_bytes;
	size_t overhead_bytes;     /* pages that hold the heap's own descriptors */
	size_t free_bytes;         /* in free page runs, free blocks and free slab objects */
	size_t largest_free_bytes; /* the largest free page run or block */
	size_t min_free_bytes;     /* the least that (footprint - overhead - live) ever was since the last growth */
	size_t n_regions;
	size_t n_free_ranges; /* free page runs and free blocks */
	/* 1000 * (1 - sqrt(sum f^2) / sum f) over the free ranges f: 0 when all is in one. */
	unsigned fragmentation_permille;
	uint64_t n_allocs;   /* objects that left the shared storeys: a CPU cache hands one out again uncounted */
	uint64_t n_frees;    /* and that went back, or lie in caches; */
	uint64_t n_failures; /* calls that returned NULL for want of memory, */
	uint64_t n_errors;   /* and misuses reported */
	uint64_t n_grown;    /* chunks got from the page source, */
	uint64_t n_shrunk;   /* and put back */
};

/* O(free ranges + cached objects), with the heap's lock held. */
void kheap_get_stats(struct kheap *heap, struct kheap_stats *stats);

/* What tells a host whether the heap has pages to spare. */
struct kheap_glance {
	size_t footprint_bytes;
	size_t free_page_bytes; /* in free page runs */
	size_t live_bytes;      /* of all live objects, and of what lies in CPU caches */
	size_t overhead_bytes; /* of footprint_bytes, descriptors and tables; of what is_zero only little of it was ever used */
	uint64_t n_operations; /* n_allocs + n_frees of struct kheap_stats, but for what lies in caches */
};

/* O(1), and takes no lock: where other CPUs are at work, the numbers may be of different moments. */
struct kheap_glance kheap_get_glance(const struct kheap *heap);

enum kheap_kind {
	KHEAP_NOT_OURS,    /* no region of this heap */
	KHEAP_OVERHEAD,    /* the heap's own descriptors, or padding that nothing can use */
	KHEAP_SLAB_OBJECT, /* one of many equal objects in a page */
	KHEAP_BLOCK,       /* an object with a header */
	KHEAP_PAGE_RUN,    /* whole pages */
	KHEAP_CACHE_OBJECT /* an object of a kcache */
};

/* An object, or a free range, of the heap. */
struct kheap_range {
	enum kheap_kind kind;
	bool is_live;
	uintptr_t base;
	size_t size_bytes; /* usable when live, reusable when free */
};

/* Which range holds `address`? KHEAP_NOT_OURS when none. Never touches the address itself. O(pages of that run). */
struct kheap_range kheap_owner(struct kheap *heap, const void *address);

/*
 * Call visit() for every range of every region in address order within a region, until it returns false. The lock is held:
 * visit() must not call the heap. O(heap).
 */
void kheap_walk(struct kheap *heap, bool (*visit)(void *ctx, const struct kheap_range *range), void *ctx);

/*
 * Whole pages inside a free block are the block's until there are 16 of them, or the heap is full. Those of up to n_most free blocks that have
 * min_bytes of them become free pages, for whatever is next. Returns of how many; fewer than n_most: it found no other, though some that are
 * hardly larger may be left. O(n_most), all of it under the lock.
 */
size_t kheap_reclaim_pages(struct kheap *heap, size_t min_bytes, size_t n_most);

/* What became of a free page run. */
enum kheap_giving {
	KHEAP_STOP,     /* it was not taken, and no more are wanted */
	KHEAP_GIVEN_UP, /* nothing is behind it until it is used again, and zeros then if the source gave zeros */
	KHEAP_STAYS,    /* it stays as it is, and need not be asked about again */
};

/*
 * For a host that can take away what is behind free pages until they are used again. Calls give_up() for up to n_most free page runs of at
 * least min_bytes that it was not called for as they are, until it answers KHEAP_STOP. Returns for how many it was called, but for that one;
 * fewer than n_most: there are no more, or it answered so. The lock is held: give_up() must not call the heap. O(pages of the heap).
 * In hardened builds free pages hold poison, which must stay.
 */
size_t kheap_give_up_pages(struct kheap *heap, size_t min_bytes, size_t n_most,
                           enum kheap_giving (*give_up)(void *ctx, const struct kheap_range *range), void *ctx);

/*
 * The same of a live object of whole pages that is about to be freed: they are given up already, and nobody writes there until it is. Of any
 * other address it does nothing.
 */
void kheap_note_given_up(struct kheap *heap, const void *object);

/* What the heap is divided into; one region after another, for index = 0.. while true is returned. O(regions). */
bool kheap_region(struct kheap *heap, size_t index, struct kpage_chunk *region);

/* Every invariant that kheap_check knows. */
enum kheap_fault_class {
	KHEAP_FAULT_NONE,
	KHEAP_FAULT_BLOCK_TAG,      /* a block's header fails its check word */
	KHEAP_FAULT_BLOCK_SIZE,     /* a block's size runs past its area, or is below the minimum */
	KHEAP_FAULT_BLOCK_PREVIOUS, /* "the block before me is free" and that block disagree */
	KHEAP_FAULT_BLOCK_UNMERGED, /* two free blocks side by side */
	KHEAP_FAULT_BLOCK_LIST,     /* a free block is not on the list of its size, or a link is broken */
	KHEAP_FAULT_BLOCK_BITMAP,   /* the bitmap of block lists disagrees with the lists */
	KHEAP_FAULT_STARTS,         /* what is known of where objects start disagrees with what is there */
	KHEAP_FAULT_SLAB_COUNT,     /* a slab has another number of free objects than it says */
	KHEAP_FAULT_SLAB_LIST,      /* a slab with free objects is not on its class's list, or a full one is */
	KHEAP_FAULT_RUN_BOUNDS,     /* a page run's length runs past its region */
	KHEAP_FAULT_RUN_TAIL,       /* the two ends of a free run disagree */
	KHEAP_FAULT_RUN_UNMERGED,   /* two free runs side by side */
	KHEAP_FAULT_RUN_LIST,       /* a free run is not on the list of its length, or a link is broken */
	KHEAP_FAULT_RUN_BITMAP,     /* the bitmap of run lists disagrees with the lists */
	KHEAP_FAULT_PAGE_KIND,      /* a page's kind is none that may stand there */
	KHEAP_FAULT_SECTION_TABLE,  /* the table from addresses to regions misses one, or holds a wrong one */
	KHEAP_FAULT_COUNTERS,       /* live bytes, live objects or footprint do not add up */
	KHEAP_FAULT_CANARY,         /* an object's canary is damaged (hardened builds) */
	KHEAP_FAULT_POISON,         /* free memory was written to (hardened builds) */
	KHEAP_N_FAULT_CLASSES
};

struct kheap_fault {
	enum kheap_fault_class fault_class;
	uintptr_t address; /* where it shows: a block, a page, a table entry */
};

const char *kheap_fault_name(enum kheap_fault_class fault_class);

/* Check everything. Returns how many faults were found, the first in *first (may be NULL). Lock held. O(heap). */
size_t kheap_check(struct kheap *heap, struct kheap_fault *first);

/*
 * The same in bounded steps, for a heap that may not stop: looks at n_pages pages on from *cursor (start with 0), moves the cursor
 * and wraps it to 0 after the last page. What holds for the whole heap only (counters, bitmaps) is checked by kheap_check alone.
 * O(n_pages).
 */
size_t kheap_check_step(struct kheap *heap, size_t *cursor, size_t n_pages, struct kheap_fault *first);

/* ------------------------------------------------------------------------------------------------------------
 * The default heap: the same functions for a program that has one
 * --------------------------------------------------------------------------------------------------------- */

/* kheap_create, remembered as the default heap. False when there is one already, or for the reasons of kheap_create. */
bool kmalloc_init(void *memory, size_t size_bytes, const struct kheap_config *config);
/* kheap_destroy of the default heap. */
void kmalloc_exit(void);
/* The default heap, for every kheap_ function, none of which takes NULL. NULL before kmalloc_init and after kmalloc_exit: then what
 * allocates returns NULL, and the other functions below do nothing and report nothing. */
struct kheap *kmalloc_heap(void);

void *kmalloc(size_t size_bytes);
void *kzalloc(size_t size_bytes);
void *kcalloc(size_t n, size_t size_bytes);
void *kmalloc_flags(size_t size_bytes, unsigned flags);
void *kmalloc_aligned(size_t size_bytes, size_t alignment);
void *krealloc(void *object, size_t size_bytes);
void kfree(void *object);
void kfree_sized(void *object, size_t size_bytes);
void kfree_aligned_sized(void *object, size_t alignment, size_t size_bytes);
size_t kusable_size(const void *object);
/* What kusable_size would say of a fresh object of this size when its class has a slab: what to round a size up to (some objects
 * have more: KMALLOC_ALIGNMENT bytes that would be too few for another one, or what was cached and was large enough). Never less than
 * size_bytes unless that is above PTRDIFF_MAX: then 0. */
size_t kgood_size(size_t size_bytes);
struct kmalloc_result kmalloc_at_least(size_t size_bytes);
bool ktry_resize(void *object, size_t size_bytes);
size_t kmalloc_bulk(size_t size_bytes, size_t n, void *objects[]);
void kfree_bulk(size_t n, void *const objects[]);

#ifdef __cplusplus
}
#endif

#endif
