/* SPDX-License-Identifier: MIT */
/*
 * Looking at a heap: statistics, the owner of an address, a walk over everything. Reads only, and believes no length that leads out of its area.
 * And what its build and its errors are called.
 */
#include "small.h"
#include "cpu.h"

/* ---- names ---------------------------------------------------------------------------------------------------------- */

static const char *const error_names[KMALLOC_N_ERROR_CLASSES] = {
	[0] = "no error",
	[KMALLOC_DOUBLE_FREE] = "double free",
	[KMALLOC_FOREIGN_POINTER] = "pointer from elsewhere",
	[KMALLOC_INTERIOR_POINTER] = "pointer into an object",
	[KMALLOC_MISALIGNED_POINTER] = "misaligned pointer",
	[KMALLOC_OVERRUN] = "overrun of an object",
	[KMALLOC_WRITE_AFTER_FREE] = "write after free",
	[KMALLOC_DAMAGED_TAG] = "damaged tag",
	[KMALLOC_SIZE_MISMATCH] = "free with a wrong size",
	[KMALLOC_WRONG_CACHE] = "object of another cache",
	[KMALLOC_BUSY] = "cache destroyed with live objects",
};

const char *kmalloc_error_name(enum kmalloc_error_class error_class)
{
	return error_class < KMALLOC_N_ERROR_CLASSES ? error_names[error_class] : "unknown error";
}

const char *kmalloc_build(void)
{
#if defined(CHECKING) && !HARDENED
	return "caches";
#elif defined(CHECKING)
	return "check";
#elif HARDENED
	return "hardened";
#else
	return "release";
#endif
}

/* ---- one range ------------------------------------------------------------------------------------------------------ */

struct found {
	enum kheap_kind kind;
	bool is_live, has_canary;
	uintptr_t base, end;
	uintptr_t next; /* where the range behind it begins */
};

static void found_set(struct found *found, enum kheap_kind kind, bool is_live, uintptr_t base, uintptr_t end)
{
	*found = (struct found){ .kind = kind, .is_live = is_live, .base = base, .end = end, .next = end };
}

/* What a live object's user may use ends before its canary. */
static struct kheap_range tell(const struct kheap *heap, const struct found *found)
{
	struct kheap_range range = { found->kind, found->is_live, found->base, found->end - found->base };
	uintptr_t damage;

	if (HARDENED && found->is_live && found->has_canary)
		range.size_bytes = guard_read(heap, range.base, range.size_bytes, &damage);
	return range;
}

/* One of n objects of a slab of whole pages [start, end), or the padding behind the last one. */
static void find_in_slab(struct found *found, const struct region *region, uintptr_t start, uintptr_t end, size_t size,
                         size_t n_objects, uintptr_t address)
{
	size_t index = (address - start) / size;

	if (index >= n_objects) {
		found_set(found, KHEAP_OVERHEAD, false, start + n_objects * size, end);
		return;
	}
	start += index * size;
	found_set(found, KHEAP_SLAB_OBJECT, is_start(region, start), start, start + size);
	found->has_canary = true;
}

static void find_in_cache(const struct kheap *heap, const struct region *region, size_t page, uintptr_t address,
                          struct found *found)
{
	if (page_kind_of(region, page) == PAGE_CACHE_BODY)
		page -= region->descs[page].n_back;
	const struct kcache *cache = region->descs[page].cache;

	find_in_slab(found, region, page_address(region, page), page_address(region, page + cache->pages_per_slab),
	             cache->object_size, cache->objects_per_slab, address);
	if (found->kind == KHEAP_SLAB_OBJECT)
		found->kind = KHEAP_CACHE_OBJECT;
	if (cache == &heap->cache_of_clips)
		found_set(found, KHEAP_OVERHEAD, false, found->base, found->end);
}

/*
 * From block to block, from the first of the area on, or from the one whose payload begins at `address` if the caller knows that. One
 * that cannot be believed reaches to the end, live.
 */
static void find_block(const struct kheap *heap, const struct region *region, size_t page, uintptr_t address,
                       bool is_payload, struct found *found)
{
	size_t head = area_head(region, page);
	uintptr_t start = page_address(region, head);
	uintptr_t end = page_address(region, head + region->descs[head].n_pages);
	struct block *block = area_first(region, head);
	struct block *sentinel = block_at(end - BLOCK_HEADER);

	if (address < block_payload(block)) {
		found_set(found, KHEAP_OVERHEAD, false, start, block_payload(block));
		return;
	}
	if (address >= (uintptr_t)sentinel) {
		found_set(found, KHEAP_OVERHEAD, false, (uintptr_t)sentinel, end);
		return;
	}
	if (is_payload)
		block = block_of_payload(address);
	while (block_tag_holds(heap, block) && block_size(block) >= BLOCK_MIN && block_next(block) <= sentinel) {
		struct block *next = block_next(block);
		uintptr_t payload = block_payload(block);

		if (next == sentinel || address < block_payload(next)) {
			found_set(found, KHEAP_BLOCK, block->size_flags & BLOCK_USED && !is_cached(heap, payload),
			          payload, (uintptr_t)next);
			found->has_canary = true;
			found->next = block_payload(next);
			return;
		}
		block = next;
	}
	found_set(found, KHEAP_BLOCK, true, block_payload(block), end);
}

static void find_run(const struct region *region, size_t page, struct found *found)
{
	/* Every page of a run but its first and last says nothing: look back. */
	while (page_kind_of(region, page) == PAGE_BODY || page_kind_of(region, page) == PAGE_FREE_TAIL)
		page--;
	enum page_kind kind = page_kind_of(region, page);
	const struct page_desc *desc = &region->descs[page];
	size_t n_pages = desc->n_pages;

	if (kind == PAGE_OVERHEAD && page < region->n_overhead) {
		/* A region's descriptors; in the last of their pages may be the tail area. */
		page = 0;
		n_pages = region->n_overhead - (region->tail_offset ? 1 : 0);
	}
	found_set(found, kind == PAGE_OVERHEAD ? KHEAP_OVERHEAD : KHEAP_PAGE_RUN, kind == PAGE_RUN,
	          page_address(region, page), page_address(region, page + n_pages));
	found->has_canary = HARDENED && kind == PAGE_RUN && !desc->is_bare;
}

/* What holds this address of the region. A walk comes from the range before: what it meets in an area is the payload of a block. */
static void find_range(const struct kheap *heap, const struct region *region, uintptr_t address, bool is_walk,
                       struct found *found)
{
	size_t page = (address >> PAGE_SHIFT) - region->first_page;
	enum page_kind kind = page_kind_of(region, page);
	uintptr_t start = page_address(region, page);

	if (!is_kind(kind)) {
		found_set(found, KHEAP_OVERHEAD, false, start, start + PAGE_SIZE);
	} else if (is_slab(kind)) {
		unsigned class_index = (unsigned)(kind - PAGE_SLAB);

		find_in_slab(found, region, start, start + PAGE_SIZE, slab_object_size(class_index),
		             slab_objects(class_index), address);
		found->is_live = found->is_live && !is_cached(heap, found->base);
	} else if (kind == PAGE_BLOCK_HEAD || kind == PAGE_BLOCK) {
		find_block(heap, region, page, address, is_walk, found);
	} else if (kind == PAGE_CACHE || kind == PAGE_CACHE_BODY) {
		find_in_cache(heap, region, page, address, found);
	} else {
		find_run(region, page, found);
	}
}

struct kheap_range range_of(const struct kheap *heap, uintptr_t address)
{
	const struct region *region = region_of(heap, address);
	struct found found = { .kind = KHEAP_NOT_OURS };

	if (region)
		find_range(heap, region, address, false, &found);
	return tell(heap, &found);
}

struct kheap_range kheap_owner(struct kheap *heap, const void *address)
{
	kport_lock_state state = heap_lock(heap);
	struct kheap_range range = range_of(heap, (uintptr_t)address);

	heap_unlock(heap, state);
	return range;
}

void kheap_walk(struct kheap *heap, bool (*visit)(void *ctx, const struct kheap_range *range), void *ctx)
{
	kport_lock_state state = heap_lock(heap);
	bool go_on = true;

	for (struct region *region = heap->regions; region && go_on; region = region->next) {
		uintptr_t address = page_address(region, 0);

		while (go_on && address < page_address(region, region->n_pages)) {
			struct found found;

			find_range(heap, region, address, true, &found);
			struct kheap_range range = tell(heap, &found);

			/* A length that was overwritten must not lead back. */
			go_on = visit(ctx, &range) && found.next > address;
			address = found.next;
		}
	}
	heap_unlock(heap, state);
}

static size_t pages_at_least(size_t min_bytes)
{
	return max_size(min_bytes / PAGE_SIZE + (min_bytes % PAGE_SIZE != 0), 1);
}

struct giving {
	size_t min_pages, n_left;
	enum kheap_giving (*give_up)(void *ctx, const struct kheap_range *range);
	void *ctx;
};

/* Of a free run that begins here; false: it was refused. */
static bool give_up_run(struct giving *giving, struct region *region, size_t page)
{
	struct page_desc *desc = &region->descs[page];
	const struct kheap_range range = { KHEAP_PAGE_RUN, false, page_address(region, page),
		                           (size_t)desc->n_pages << PAGE_SHIFT };

	if (desc->n_pages < giving->min_pages || page_kind_byte(region, page) & PAGE_GIVEN_UP)
		return true;
	enum kheap_giving answer = giving->give_up(giving->ctx, &range);

	if (answer == KHEAP_STOP)
		return false;
	bool is_zero = !HARDENED && answer == KHEAP_GIVEN_UP && region->chunk.is_zero;

	if (is_zero && desc->n_pages > 1)
		desc[desc->n_pages - 1].n_zero = desc->n_pages;
	/* Until the run is another one. */
	page_kind_set(region, page,
	              page_kind_byte(region, page) | PAGE_GIVEN_UP | (is_zero && desc->n_pages == 1 ? PAGE_ZERO : 0));
	giving->n_left--;
	return true;
}

/* In order of addresses, because the kinds of pages lie side by side: in the lists those that went would be passed by one by one. */
static bool give_up_runs(struct giving *giving, struct region *region)
{
	for (size_t page = 0; page < region->n_pages; page++) {
		if (page_kind_of(region, page) != PAGE_FREE)
			continue;
		if (!giving->n_left || !give_up_run(giving, region, page))
			return false;
		page += region->descs[page].n_pages - 1;
	}
	return true;
}

size_t kheap_reclaim_pages(struct kheap *heap, size_t min_bytes, size_t n_most)
{
	size_t min_pages = pages_at_least(min_bytes), n = 0;
	kport_lock_state state = heap_lock(heap);

	while (n < n_most && area_release(heap, min_pages))
		n++;
	heap_unlock(heap, state);
	return n;
}

size_t kheap_give_up_pages(struct kheap *heap, size_t min_bytes, size_t n_most,
                           enum kheap_giving (*give_up)(void *ctx, const struct kheap_range *range), void *ctx)
{
	struct giving giving = { pages_at_least(min_bytes), n_most, give_up, ctx };
	kport_lock_state state = heap_lock(heap);

	for (struct region *region = heap->regions; region && give_up_runs(&giving, region); region = region->next)
		;
	heap_unlock(heap, state);
	return n_most - giving.n_left;
}

void kheap_note_given_up(struct kheap *heap, const void *object)
{
	kport_lock_state state = heap_lock(heap);
	struct region *region = region_of(heap, (uintptr_t)object);
	size_t page = region ? region_page(region, (uintptr_t)object) : 0;

	if (!HARDENED && region && region->chunk.is_zero && page_address(region, page) == (uintptr_t)object &&
	    page_kind_of(region, page) == PAGE_RUN)
		page_kind_set(region, page, PAGE_RUN | PAGE_ZERO);
	heap_unlock(heap, state);
}

/* ---- what caches hold ----------------------------------------------------------------------------------------------- */

#define CLIPS_MOST (1u << 20) /* in a list; more is a circle */

struct sum {
	size_t n_objects, n_bytes;
};

/* n slots down from this one, or to the NULL at the bottom. */
static void slots_count(struct kheap *heap, void **top, size_t n, struct sum *sum)
{
	void *pointer;
	struct object object;

	/* Of another CPU's magazine this is what can be seen: an object that is just leaving it is live either way. */
	for (; n-- && (pointer = __atomic_load_n(top, __ATOMIC_RELAXED)) != NULL; top--) {
		if (!heap_locate(heap, (uintptr_t)pointer, &object))
			continue;
		sum->n_objects++;
		sum->n_bytes += object.slot;
	}
}

/* Of another CPU's magazine the NULL at the bottom may be a link meanwhile. */
static void top_count(struct kheap *heap, void **const *top, struct sum *sum)
{
	slots_count(heap, __atomic_load_n(top, __ATOMIC_RELAXED), CLIP_OBJECTS, sum);
}

/* All clips of a list. Another CPU's may change meanwhile: what it leads to is a clip in any case, for none is given up without the lock. */
static void clips_count(struct kheap *heap, void **top, struct sum *sum)
{
	for (unsigned i = 0; top && i < CLIPS_MOST; i++) {
		struct clip *clip = clip_of(top);

		slots_count(heap, top, (size_t)(top - clip->slots), sum);
		top = __atomic_load_n(&clip->slots[0], __ATOMIC_RELAXED);
	}
}

static void cache_count(struct kheap *heap, struct cpu_cache *cache, struct sum *sum)
{
	for (unsigned i = MAGAZINE_SLAB; i < MAGAZINES; i++) {
		const struct magazine_state *state = state_of(cache, i);

		top_count(heap, &cache->magazines[i].top, sum);
		if (state)
			clips_count(heap, __atomic_load_n(&state->full, __ATOMIC_RELAXED), sum);
		if (i < MAGAZINE_BLOCK)
			clips_count(heap, LOAD(cache->returned[i - MAGAZINE_SLAB]), sum);
	}
	sum->n_objects += LOAD(cache->runs.n_runs);
	sum->n_bytes += LOAD(cache->runs.n_pages) << PAGE_SHIFT;
	sum->n_objects += large_runs(cache, &sum->n_bytes);
	for (unsigned i = 0; i < LARGE_PLACES; i++) {
		void *object = large_nth(cache, i);

		slots_count(heap, &object, object != NULL, sum);
	}
}

/* Bytes and objects in all caches; of other CPUs' caches as far as can be seen from here. */
static void cpu_count(struct kheap *heap, size_t *n_objects, size_t *n_bytes)
{
	struct sum sum = { 0, 0 };

	for (unsigned i = MAGAZINE_BLOCK; i < MAGAZINES && heap->depot.full_blocks; i++)
		clips_count(heap, heap->depot.full_blocks[i - MAGAZINE_BLOCK], &sum);
	for (unsigned i = 0; i < KPORT_CPUS; i++) {
		if (cache_of(heap, i))
			cache_count(heap, cache_of(heap, i), &sum);
	}
#if KPORT_CPUS > 1
	for (struct cpu_cache *cache = heap->parked; cache; cache = cache->next_parked)
		cache_count(heap, cache, &sum);
#endif
	*n_objects = sum.n_objects;
	*n_bytes = sum.n_bytes;
}

/* ---- statistics -------------------------------------------------------------------------------------------------------- */

struct free_sum {
	size_t n, largest, total;
	/* Of squares, in units of 2^-shift bytes squared so that nothing overflows. */
	uint64_t squares;
	unsigned shift;
};

static void add_range(struct free_sum *sum, size_t size)
{
	uint64_t scaled = size >> sum->shift;

	sum->n++;
	sum->total += size;
	sum->largest = max_size(sum->largest, size);
	sum->squares += scaled * scaled;
}

/* Newton's method from above. */
static uint64_t square_root(uint64_t n)
{
	if (n < 2)
		return n;
	uint64_t x = (uint64_t)1 << (log2_floor((size_t)n) / 2 + 1);

	for (;;) {
		uint64_t y = (x + n / x) / 2;

		if (y >= x)
			return x;
		x = y;
	}
}

static void add_free_ranges(const struct kheap *heap, struct free_sum *sum)
{
	for (unsigned zone = 0; zone < N_ZONES; zone++) {
		for (unsigned bin = 0; bin < RUN_BINS; bin++) {
			const struct page_desc *desc = heap->runs[zone].heads[bin];

			for (; desc; desc = desc->next)
				add_range(sum, (size_t)desc->n_pages << PAGE_SHIFT);
		}
	}
	if (heap->victim && block_is_free(heap, heap->victim))
		add_range(sum, block_size(heap->victim) - BLOCK_HEADER);
	for (unsigned bin = 0; bin < BLOCK_BINS; bin++) {
		const struct block *block = heap->blocks.heads[bin];

		/* A link that was overwritten leads nowhere; one that leads back does not have this block before it. */
		for (const struct block *prev = NULL; block && block_is_free(heap, block) && block->prev == prev;
		     prev = block, block = block->next)
			add_range(sum, block_size(block) - BLOCK_HEADER);
	}
}

void kheap_get_stats(struct kheap *heap, struct kheap_stats *stats)
{
	kport_lock_state state = heap_lock(heap);
	const struct counters *counters = &heap->counters;
	size_t capacity = counters->footprint_pages << PAGE_SHIFT;
	struct free_sum sum = { 0 };
	size_t n_cached = 0, cached_bytes = 0;

	while (capacity >> sum.shift > UINT32_MAX)
		sum.shift++;
	add_free_ranges(heap, &sum);
	cpu_count(heap, &n_cached, &cached_bytes);
	/* Field by field: a compiler makes a copy of a whole struct first. */
	/* Of other CPUs' caches this is a guess. */
	n_cached = min_size(n_cached, counters->live_objects);
	cached_bytes = min_size(cached_bytes, counters->live_bytes);
	stats->live_bytes = counters->live_bytes - cached_bytes;
	stats->live_objects = counters->live_objects - n_cached;
	stats->peak_live_bytes = max_size(counters->peak_live_bytes, counters->high_water);
	stats->footprint_bytes = capacity;
	stats->peak_footprint_bytes = counters->peak_footprint_pages << PAGE_SHIFT;
	stats->overhead_bytes = counters->overhead_pages << PAGE_SHIFT;
	stats->free_bytes = (counters->free_run_pages << PAGE_SHIFT) + counters->free_block_bytes +
	                    counters->free_slab_bytes + cached_bytes;
	stats->largest_free_bytes = sum.largest;
	stats->min_free_bytes = min_free_now(counters);
	stats->n_regions = heap->n_regions;
	stats->n_free_ranges = sum.n;
	stats->n_allocs = counters->n_allocs;
	stats->n_frees = counters->n_frees + n_cached;
	stats->n_failures = counters->n_failures;
	stats->n_errors = counters->n_errors;
	stats->n_grown = counters->n_grown;
	stats->n_shrunk = counters->n_shrunk;
	stats->fragmentation_permille = 0;
	uint64_t total = sum.total >> sum.shift;

	if (total)
		stats->fragmentation_permille =
			(unsigned)(1000 - min_size((size_t)(1000 * square_root(sum.squares) / total), 1000));
	heap_unlock(heap, state);
}

struct kheap_glance kheap_get_glance(const struct kheap *heap)
{
	const struct counters *counters = &heap->counters;

	return (struct kheap_glance){
		.footprint_bytes = __atomic_load_n(&counters->footprint_pages, __ATOMIC_RELAXED) << PAGE_SHIFT,
		.live_bytes = __atomic_load_n(&heap->counters.live_bytes, __ATOMIC_RELAXED),
		.overhead_bytes = __atomic_load_n(&counters->overhead_pages, __ATOMIC_RELAXED) << PAGE_SHIFT,
		.free_page_bytes = __atomic_load_n(&counters->free_run_pages, __ATOMIC_RELAXED) << PAGE_SHIFT,
		.n_operations = __atomic_load_n(&counters->n_allocs, __ATOMIC_RELAXED) +
		                __atomic_load_n(&counters->n_frees, __ATOMIC_RELAXED),
	};
}
