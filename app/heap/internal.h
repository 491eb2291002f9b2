/* SPDX-License-Identifier: MIT */
/*
 * What the storeys of the heap do for each other, and who owns which part of its data. One storey a file:
 *
 *   fast.h     CPU caches, the part that every call goes through: no lock, no loop, no call
 *   cpu.c, cpu_free.c  CPU caches, what happens when one is empty or full
 *   run_cache.c, large_cache.c  the same for runs of a few pages, and for blocks above 4 KiB
 *   depot.c    behind them: clips, the depot that all CPUs share, and how all of it is given back (cpu.h: what these share)
 *   lent.c, leave.c  magazines for the blocks of small heaps; caches of CPUs that left
 *   heap.c     kheap_alloc: chooses a storey, counts, grows the heap, reports misuse
 *   free.c     from an address back to the object: its size, kheap_free
 *   resize.c   changing the sizes of objects
 *   cache.c    kcache: slabs of one user-chosen size
 *   slab.c     equal small objects in a page
 *   block.c    sizes between: boundary tags (block.h: the header; victim.h: what most blocks are cut from)
 *   bin.c      the free ones, in bins by size
 *   area.c     the whole pages that blocks live in
 *   run.c      whole pages: bins by length over the page descriptors
 *   region.c   regions of the page source and their descriptors (region.h)
 *   growth.c   growth; a heap's life
 *   section.c  the table from addresses to regions
 *
 * beside them layout.h (the structures of all storeys), bits.h, guard.c (canaries and poison of the hardened build), inspect.c, check.c
 * and default.c. Files that include small.h are compiled for size.
 *
 * Who may touch what:
 *   kheap.lock     protects everything reachable from a struct kheap but the CPU caches. It is the only lock, so there is no order of
 *                  locks. Functions whose names do not begin with kheap_, kpages_, kcache_ or kmalloc_ expect it to be held, those of
 *                  fast.h expect that it is not. heap_unlock() is the only place that calls out (error reports, chunks to be put
 *                  back), after it has let go.
 *   struct cpu_cache belongs to its CPU alone, with or without the lock, and so does the `next` of the runs in its lists; only its
 *                  slabs' lists are the lock's. Where interrupts may call the heap, it also belongs to whoever set its `inside` mark first: code that finds the mark set
 *                  leaves the cache alone.
 *   read without a lock, by fast.h: where a live object starts, and its magazine (which do not change while it lives,
 *                  but for a run's, which its CPU's cache clears and sets, also without the lock), a run's length, the window's (an
 *                  old one will do: nothing starts in pages that come or go), and the section
 *                  table, which has a sequence number that is odd while it changes; where there are several CPUs a table that was
 *                  outgrown stays readable; by resize.c, as a guess, a region's length, and the kind of the page
 *                  or the header of the block behind what grows.
 */
#ifndef HEAP_INTERNAL_H
#define HEAP_INTERNAL_H

#include "layout.h"
#include "region.h"
#include "block.h"

extern const uint16_t kheap_object_sizes[SLAB_CLASSES];

/* Nothing of this is anybody else's: no other object file, and no shared library's user, sees these names. */
#pragma GCC visibility push(hidden)

/* ---- heap.c ------------------------------------------------------------------------------------------------- */

kport_lock_state heap_lock(struct kheap *heap);
/* Lets go, then reports the pending misuse and puts detached regions back. */
void heap_unlock(struct kheap *heap, kport_lock_state state);

/* Will heap_unlock call out: is there a misuse to report, or a region to put back? */
INLINE bool calls_back(const struct kheap *heap)
{
	return heap->pending.error_class || heap->detached;
}

/* The same two in line, for what is called often. */
INLINE kport_lock_state heap_lock_inline(struct kheap *heap)
{
	return kport_lock(&heap->lock);
}

INLINE void heap_unlock_inline(struct kheap *heap, kport_lock_state state)
{
#ifdef CHECKING
	heap_unlock(heap, state);
#else
	if (UNLIKELY(calls_back(heap)))
		heap_unlock(heap, state);
	else
		kport_unlock(&heap->lock, state);
#endif
}

/* After a call with these flags: if the source is not to be called now, chunks go back to it in the next call that may. */
static inline void heap_unlock_after(struct kheap *heap, kport_lock_state state, unsigned flags)
{
	if (flags & KMALLOC_NO_GROW && heap->detached && !heap->pending.error_class)
		kport_unlock(&heap->lock, state);
	else
		heap_unlock(heap, state);
}

/* What an allocation is to be, worked out once. */
struct request {
	size_t size;  /* asked for */
	size_t gross; /* with the canary; never 0 */
	size_t alignment;
	uintptr_t max_address;
	bool is_bare;   /* whole pages without a canary */
	bool goes_on;   /* it grows by little at a time, and will go on */
	size_t *n_used; /* NULL, or gets how many of its first bytes were in use since the source gave them as zero */
};

/* Remember a misuse for heap_unlock; the first one of an operation wins. */
COLD void heap_error(struct kheap *heap, enum kmalloc_error_class error_class, uintptr_t address, size_t size);

/* Give empty slabs and areas back to the runs; true if that freed a page. O(classes). */
bool heap_drain(struct kheap *heap);

/* A request could not be met: get pages, or ask on_low_memory once; true: try again. Called without the lock. */
struct replenished {
	bool has_drained, has_asked;
};
bool heap_replenish(struct kheap *heap, struct growth growth, uintptr_t max_address, size_t size,
                    struct replenished *tried);
#define GROWTH_TRIES 5

/* A call returns NULL. Called without the lock. */
void count_failure(struct kheap *heap, unsigned flags);
INLINE void count_resize(struct kheap *heap, size_t old_usable, size_t usable)
{
	struct counters *counters = &heap->counters;

	counters->live_bytes += usable - old_usable;
	if (counters->live_bytes > counters->high_water)
		counters->high_water = counters->live_bytes;
}

/* The least that was free since the heap last grew. What the caches take for themselves may come off it afterwards. */
static inline size_t min_free_now(const struct counters *counters)
{
	size_t usable = (counters->footprint_pages - counters->overhead_pages) << PAGE_SHIFT;

	return min_size(counters->min_free_bytes, usable - min_size(counters->high_water, usable));
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

/*
 * What serves an object of a class without slabs, or without room in them: a block, or an object of the next class; counted. An alignment of
 * 0 is the natural one.
 */
void *alloc_stand_in(struct kheap *heap, size_t size, size_t alignment, unsigned class_index);
/* Are no more pages to be had? */
static inline bool cannot_grow(const struct kheap *heap)
{
	return !heap->config.source.get || heap->is_refused;
}

/* And are there none? */
static inline bool is_full_up(const struct kheap *heap)
{
	return !heap->counters.free_run_pages && cannot_grow(heap);
}

/* One attempt to meet a request with what the heap has; the object is counted. */
uintptr_t alloc_once(struct kheap *heap, const struct request *request);
/* A flag besides those of kheap_alloc(): whatever serves such an object at once was asked for one in vain. */
#define ALLOC_TRIED (1u << 31)
void *alloc_any(struct kheap *heap, size_t size, size_t alignment, unsigned flags);
/* Whole pages, for an object that goes on growing. NULL: not so; on_low_memory was not asked, and it is no failure yet. */
void *alloc_to_grow(struct kheap *heap, size_t size);

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
	size_t page; /* index in the region of the page that describes it */
	size_t slot; /* bytes it occupies, canary included */
};

/* Find the object that starts at `address` and is live, or in a CPU's cache. Reports nothing. */
bool heap_locate(struct kheap *heap, uintptr_t address, struct object *object);
/* Find the live object that starts at `address`; otherwise report why there is none and return false. */
bool heap_find(struct kheap *heap, uintptr_t address, struct object *object);
/* Give its memory back, uncounted. False: a neighbour is damaged (reported), nothing changed. */
bool object_free(struct kheap *heap, const struct object *object, uintptr_t address);
/* Does a canary stand behind it? */
bool has_canary(const struct object *object);
/* kheap_free with the lock held; and of what heap_find has found. */
void free_locked(struct kheap *heap, uintptr_t address);
void free_found(struct kheap *heap, const struct object *object, uintptr_t address);
/* Bytes that may be used; reports an overrun, and then returns SIZE_MAX. */
size_t object_usable(struct kheap *heap, const struct object *object, uintptr_t address);

/* ---- run.c -------------------------------------------------------------------------------------------------- */

/* n pages aligned to 2^align_shift pages, below max_address; the first page's descriptor, its kind set to `kind`. NULL: none. */
struct page_desc *run_alloc(struct kheap *heap, size_t n_pages, unsigned align_shift, uintptr_t max_address,
                            enum page_kind kind);
/* Pages of the free run that begins with this page and belongs to what is before it; 0: there is none. The first n of them. */
size_t run_free_at(const struct region *region, size_t page);
struct page_desc *run_alloc_at(struct kheap *heap, struct region *region, size_t page, size_t n_pages,
                               enum page_kind kind);
/* Pages [page, page + n) of a region become a free run, merged with its neighbours. */
void run_free(struct kheap *heap, struct region *region, size_t page, size_t n_pages);
/* Lengthen the live run of n pages at `page` by `more` if the pages behind it are free. */
bool run_extend(struct kheap *heap, struct region *region, size_t page, size_t n_pages, size_t more);
/* Put pages that are in no list under the bins, or take a free run out of them. */
void run_insert(struct kheap *heap, struct region *region, size_t page, size_t n_pages, size_t n_zero);
size_t run_remove(struct kheap *heap, struct page_desc *head);
INLINE unsigned run_bin_of(size_t n_pages)
{
	size_t octave = log2_floor(n_pages);

	return (unsigned)min_size(2 * octave + (2 * n_pages >> octave) - 2, RUN_BINS - 1);
}

/* Is a free run of so many pages surely to be had, below 4 GiB or above? */
INLINE bool run_is_there(const struct kheap *heap, size_t n_pages)
{
	return (heap->runs[ZONE_LOW].bits | heap->runs[ZONE_HIGH].bits) >> run_bin_of(n_pages) > 1;
}

static inline enum zone page_zone(uintptr_t page_number)
{
	return page_number < ZONE_PAGE ? ZONE_LOW : ZONE_HIGH;
}

/* May what ends before this page and what begins with it be one? */
static inline bool may_join(const struct region *region, size_t page)
{
	return region->first_page + page != ZONE_PAGE;
}

/* ---- slab.c ------------------------------------------------------------------------------------------------- */

/* The class for `size` bytes whose objects are all aligned to `alignment`; SLAB_NO_CLASS: none. */
unsigned slab_class_of(size_t size, size_t alignment);
INLINE bool class_is_busy(const struct kheap *heap, unsigned class_index)
{
	return LOAD(heap->slab_rounds[class_index]) == SLAB_BUSY;
}

INLINE size_t slab_object_size(unsigned class_index)
{
	return kheap_object_sizes[class_index];
}
unsigned slab_objects(unsigned class_index);
/* Would a slab serve an object of this class now? */
bool slab_is_earned(const struct kheap *heap, unsigned class_index);
uintptr_t slab_alloc(struct kheap *heap, unsigned class_index);
/* Free an object that starts here and is not free. */
void slab_free(struct kheap *heap, struct region *region, uintptr_t address, unsigned class_index);
/* Where objects of a class may start: a word of a page's starts. */
uint32_t slab_starts(unsigned class_index, size_t word);
bool slab_drain(struct kheap *heap);
/* How many of a class have free objects and live ones, by the CPUs' lists; something else where it is not n. */
size_t slabs_listed(struct kheap *heap, unsigned class_index, size_t n);
/* A CPU's cache goes: its slabs are the first one's now. O(slabs). */
void slabs_inherit(struct kheap *heap, struct cpu_cache *cache);
/*
 * Up to n objects of a class, from one slab, into objects[]; how many. They are not counted; and marked as cached, but not where others may wait
 * for the lock: each is a cache line that was long unused, or a page never used. There that is done without the lock.
 */
#define KEYS_LATER (KPORT_CPUS > 1)
unsigned slab_take(struct kheap *heap, unsigned class_index, unsigned n, void *objects[]);
/*
 * The CPU that takes objects from the slabs of all those above the bottom, or did so last, as far as a look at some of them tells; KPORT_CPUS:
 * there are several, or some are blocks, which stand in.
 */
unsigned slabs_owner(struct kheap *heap, void **bottom, void **top);

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

/* Whole pages, up to RUN_CACHE_PAGES, aligned to so many bytes, which are one at least. Called without the lock. */
void *cpu_alloc_run(struct kheap *heap, size_t size, size_t alignment);
/* Free what lies in a page that is the first of a live run. Called without the lock. */
void cpu_free_run(struct kheap *heap, void *object, struct region *region);

/* A block of more than 4 KiB, or a run of up to 128 KiB, from the cache if it has one for this size. NULL: there is no memory. Called without the lock. */
#define LARGE_MAX ((size_t)128 << 10)
void *cpu_alloc_large(struct kheap *heap, size_t size, size_t alignment);
/* Free what is live and has the magazine MAGAZINE_LARGE. False: the cache has no room for it, or its header is damaged; nothing was done. Without the lock. */
bool cpu_free_large(struct kheap *heap, void *object);
/*
 * Where several CPUs work, and where one alone missed them for long in a heap that can grow, blocks that are too large for magazines have one of
 * eight sizes an octave: what a CPU keeps then serves its next request of about that size, and the lock is taken less often.
 */
#define LARGE_LONG 4000
INLINE bool has_coarse_sizes(const struct kheap *heap)
{
	return LOAD(heap->n_caches) || LOAD(heap->n_large_missed) == LARGE_LONG;
}

INLINE size_t coarse_size(size_t size)
{
	if (size > BLOCK_MAX_REQUEST + 1 - BLOCK_HEADER)
		return size;
	return align_up(size + BLOCK_HEADER, (size_t)1 << (log2_floor(size) - 3)) - BLOCK_HEADER;
}

#if KPORT_CPUS > 1
/* Whoever has no cache has this one: always empty, always full, and never to be entered. */
extern const struct cpu_cache kheap_no_cache;
#define NO_CACHE ((struct cpu_cache *)(uintptr_t)&kheap_no_cache)
#define IS_NO_CACHE(cache) ((cache) == NO_CACHE)
#else
#define NO_CACHE NULL
#define IS_NO_CACHE(cache) false
#endif

/* A CPU's cache, or NULL. */
static inline struct cpu_cache *cache_of(struct kheap *heap, unsigned cpu)
{
#if KPORT_CPUS > 1
	return heap->cpus[cpu] != NO_CACHE ? heap->cpus[cpu] : NULL;
#else
	return cpu == 0 ? &heap->cpu0 : NULL;
#endif
}

void cpu_init(struct kheap *heap);
/* The heap has its first region. */
void cpu_heap_made(struct kheap *heap);
/*
 * The magazine for a size up to FAST_MAX was empty: get objects from the depot or the slabs, or a block. An alignment of 0 is the natural one.
 * NULL: there is no memory. Called without the lock.
 */
void *cpu_alloc_miss(struct kheap *heap, size_t size, size_t alignment, size_t number);
/* The same for a magazine of blocks, empty or not, and an alignment of more than a granule, up to half a page. */
void *cpu_alloc_aligned(struct kheap *heap, size_t size, size_t alignment, size_t number);
/* Free what the fast path did not. Called without the lock. */
void cpu_free_slow(struct kheap *heap, void *object);
/* Free what is live and has this magazine, which was full; 0: none has it. */
void cpu_free_full(struct kheap *heap, void *object, size_t number);
/* Free what does not lie in the window, or any if that is closed. NULL does nothing. */
void cpu_free_far(struct kheap *heap, void *object);
/* Give what this CPU's cache and the depot hold back to the slabs and blocks; true if that was anything. */
bool cpu_drain(struct kheap *heap);
/*
 * Before the heap grows: what it would be worth to give back, does; once it could not grow, also what may stay otherwise. Without the lock, and
 * no critical section is long.
 */
bool cpu_spare(struct kheap *heap, bool may_keep);
/* What this CPU keeps in a small heap, and may lie in the way of an object that grows; false: nothing. */
bool cpu_give_kept(struct kheap *heap);
/* The heap grew though CPUs gave back what they kept. Without the lock. */
void cpu_squeeze(struct kheap *heap);
/* The same for full clips, before cpu_reset has the rest: without the lock, for a request with these flags. */
void cpu_release(struct kheap *heap, unsigned flags);
/* All, and the space of the magazines too. */
bool cpu_reset(struct kheap *heap);
/* All CPUs' caches go, where nobody else is inside the heap. */
void cpu_end_all(struct kheap *heap);

/* ---- cache.c ------------------------------------------------------------------------------------------------ */

/* The object of a cache's slab that covers `address`, and the slab's first page; false: padding. */
bool cache_locate(const struct region *region, size_t page, uintptr_t address, uintptr_t *base, size_t *head);
/* An object that is not free. */
void cache_free_object(struct kheap *heap, struct page_desc *head, uintptr_t object);
bool cache_drain(struct kheap *heap);
void cache_init(struct kcache *cache, struct kheap *heap, size_t size_bytes, size_t alignment);
/* The heap's own objects: not counted, without a canary. NULL: there are no pages; the heap does not grow for this. */
void *cache_take_internal(struct kcache *cache);
void cache_free_internal(struct kcache *cache, void *object);

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
size_t check_heap(struct kheap *heap, struct kheap_fault *first);

/* In a heap of fewer pages each of them counts. */
#define SMALL_HEAP_PAGES 64

/* But a few more are well spent on the caches of one that is so busy. Without the lock, too. */
INLINE bool is_small_and_busy(const struct kheap *heap)
{
	return LOAD(heap->n_busy_rounds) >= HEAP_BUSY && LOAD(heap->counters.footprint_pages) < SMALL_HEAP_PAGES;
}

/* The pages that shares of the heap are taken of. Where pages cost nothing until they are used, those that are free, or described
 * for the time when they come, do not count. */
#define SCALE_MIN_PAGES 256
INLINE size_t heap_scale(const struct kheap *heap)
{
	const struct counters *counters = &heap->counters;
	size_t footprint = counters->footprint_pages;
	size_t busy = footprint - counters->free_run_pages - counters->overhead_pages;

	return heap->is_sparse ? min_size(footprint, max_size(busy, SCALE_MIN_PAGES)) : footprint;
}

#pragma GCC visibility pop

#endif
