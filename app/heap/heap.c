/* SPDX-License-Identifier: MIT */
/*
 * The front: kheap_alloc. Chooses the storey for a size, counts, grows the heap when it is full, and reports misuse. Sizes and alignments
 * may be hostile.
 */
#include "fast.h"

#define BELOW_4G ((uintptr_t)UINT32_MAX)
#define SLAB_ALIGNED_MAX \
	((size_t)256) /* up to here a slab's objects are as well aligned as any power of two that divides their size */
/* From so many pages on a class with slabs has at most this share of its objects in blocks. */
#define ENOUGH_FOOTPRINT 16
#define ENOUGH_SHARE 32

/* ---- reports and counts ---------------------------------------------------------------------------------------- */

void heap_error(struct kheap *heap, enum kmalloc_error_class error_class, uintptr_t address, size_t size)
{
	struct kheap_range range = range_of(heap, address);

	if (heap->pending.error_class)
		return;
	heap->pending = (struct kmalloc_error){
		.error_class = error_class, .heap = heap, .address = (const void *)address, .size_bytes = size
	};
	if (range.kind == KHEAP_NOT_OURS || range.kind == KHEAP_OVERHEAD)
		return;
	heap->pending.nearest = (const void *)range.base;
	/* A damaged header does not tell. */
	heap->pending.nearest_size_bytes = error_class == KMALLOC_DAMAGED_TAG ? 0 : range.size_bytes;
	heap->pending.nearest_is_live = range.is_live;
}

#ifdef CHECKING
/* A full check costs about as much as it looks at: made so seldom that it stays a small multiple of the work between. */
static void check_sometimes(struct kheap *heap)
{
	struct kheap_fault fault;

	if (heap->until_check-- || heap->in_check)
		return;
	heap->until_check =
		CHECK_INTERVAL + (uint32_t)(heap->counters.live_objects + (heap->counters.footprint_pages << 6)) / 8;
	heap->in_check = true;
	if (check_heap(heap, &fault)) {
		enum kmalloc_error_class error_class = KMALLOC_DAMAGED_TAG;

		if (fault.fault_class == KHEAP_FAULT_CANARY)
			error_class = KMALLOC_OVERRUN;
		if (fault.fault_class == KHEAP_FAULT_POISON)
			error_class = KMALLOC_WRITE_AFTER_FREE;
		heap_error(heap, error_class, fault.address, 0);
	}
	heap->in_check = false;
}
#endif

/* Call out: there is a misuse to report, or a region to put back. */
COLD static void unlock_and_tell(struct kheap *heap, kport_lock_state state)
{
	struct kmalloc_error error = heap->pending;
	struct region *region = heap->detached;
	struct kpage_source source = heap->config.source;

	heap->counters.n_errors += error.error_class != 0;
	heap->pending.error_class = (enum kmalloc_error_class)0;
	heap->detached = NULL;
	kport_unlock(&heap->lock, state);
	regions_put(&source, region);
	if (!error.error_class)
		return;
	if (!heap->config.on_error)
		kport_trap();
	heap->config.on_error(heap->config.ctx, &error);
}

kport_lock_state heap_lock(struct kheap *heap)
{
	return kport_lock(&heap->lock);
}

void heap_unlock(struct kheap *heap, kport_lock_state state)
{
#ifdef CHECKING
	check_sometimes(heap);
#endif
	if (calls_back(heap))
		unlock_and_tell(heap, state);
	else
		kport_unlock(&heap->lock, state);
}

bool heap_drain(struct kheap *heap)
{
	if (heap->is_draining)
		return false;
	heap->is_draining = true;
	bool freed = slab_drain(heap);

	freed |= area_drain(heap);
	freed |= cache_drain(heap);
	heap->is_draining = false;
	return freed;
}

/* ---- allocation -------------------------------------------------------------------------------------------------- */

bool request_make(struct request *request, size_t size, size_t alignment, unsigned flags)
{
	if (size > PTRDIFF_MAX || !is_power_of_two(alignment))
		return false;
	request->size = size;
	if (flags & KMALLOC_CACHE_LINE) {
		/* To the end of its last line nobody else may have a byte. */
		alignment = max_size(alignment, CACHE_LINE);
		size = align_up(max_size(size, 1), CACHE_LINE);
	}
	request->gross = max_size(size + GUARD_BYTES, 1);
	request->alignment = max_size(alignment, GRANULE);
	request->max_address = flags & KMALLOC_BELOW_4G ? BELOW_4G : UINTPTR_MAX;
	request->is_bare = request->goes_on = false;
	request->n_used = NULL;
	return true;
}

bool heap_replenish(struct kheap *heap, struct growth growth, uintptr_t max_address, size_t size,
                    struct replenished *tried)
{
	if (cpu_spare(heap, true)) {
		tried->has_drained = true;
		return true;
	}
	if (heap_grow(heap, growth, max_address)) {
		if (tried->has_drained)
			cpu_squeeze(heap);
		return true;
	}
	if (cpu_spare(heap, false))
		return true;
	if (tried->has_asked || !heap->config.on_low_memory)
		return false;
	tried->has_asked = true;
	return heap->config.on_low_memory(heap->config.ctx, size);
}

/*
 * A class that is at home in slabs keeps few of its objects in blocks, where they would come and go all the time: the heap rather grows,
 * if it can, and is not so small that every page counts.
 */
static bool has_enough_blocks(const struct kheap *heap, unsigned class_index)
{
	const struct slab_class *class = &heap->slabs[class_index];
	/* What stands in is cached in one that is small and busy. */
	bool counts_pages = (heap->counters.footprint_pages < ENOUGH_FOOTPRINT || is_small_and_busy(heap)) &&
	                    !(class_is_busy(heap, class_index) && heap->n_caches);

	return !counts_pages && heap->config.source.get && !heap->is_refused &&
	       class->n_in_blocks * ENOUGH_SHARE >= class->n_slabs * slab_objects(class_index) &&
	       (class->n_slabs || class_is_busy(heap, class_index));
}

/* A block stands in for the class: is it the same object that comes and goes, once more? */
static bool takes_turns(struct kheap *heap, unsigned class_index)
{
	uint8_t *turns = &heap->slab_turns[class_index];
	bool is_next = *turns % 2;

	*turns = is_next ? (uint8_t)min_size(*turns + 1u, SLAB_LONE) : 0;
	return *turns == SLAB_LONE;
}

/* What serves an object of a class whose slabs do not; *slot: how large it is. */
static uintptr_t stand_in(struct kheap *heap, size_t size, size_t alignment, unsigned class_index, size_t *slot)
{
	size_t object_size = slab_object_size(class_index);
	size_t object_alignment = object_size & (0 - object_size);
	uintptr_t object = 0;

	if (has_enough_blocks(heap, class_index))
		return 0;
	/* What the next class has to spare first: blocks serve all sizes, and are cut ever smaller. */
	if (is_full_up(heap) && class_index + 1 < SMALL_CLASSES && alignment == GRANULE) {
		*slot = slab_object_size(class_index + 1);
		object = slab_alloc(heap, class_index + 1);
		if (object)
			return object;
	}
	bool is_kept = takes_turns(heap, class_index) || is_small_and_busy(heap) ||
	               (heap->slabs[class_index].n_in_blocks < 2 && !heap->slabs[class_index].n_slabs);

	/* The first few, one that comes and goes, and those of a small heap that is busy are as large and as well aligned as the class asks, if there is room, so that a CPU cache can keep them. */
	if (!HARDENED && is_kept)
		object = block_alloc(heap, object_size, max_size(alignment, object_alignment),
		                     LABEL_SLAB_SIZED + class_index);
	if (!object) {
		bool is_sized = align_up(size + BLOCK_HEADER, GRANULE) - BLOCK_HEADER >= object_size &&
		                alignment >= object_alignment;

		object = block_alloc(heap, size, alignment, (is_sized ? LABEL_SLAB_SIZED : LABEL_SLAB) + class_index);
	}
	if (object) {
		heap->slabs[class_index].n_in_blocks++;
		*slot = block_size(block_of_payload(object)) - BLOCK_HEADER;
	}
	return object;
}

void *alloc_stand_in(struct kheap *heap, size_t size, size_t alignment, unsigned class_index)
{
	size_t slot;

	size = max_size(size, 1);
	uintptr_t object = stand_in(heap, size, alignment ? max_size(alignment, GRANULE) : natural_alignment(size),
	                            class_index, &slot);

	if (object)
		count_alloc(heap, 1, slot);
	return (void *)object;
}

static uintptr_t alloc_small(struct kheap *heap, const struct request *request, unsigned class_index, size_t *slot)
{
	uintptr_t object = 0;

	if (slab_is_earned(heap, class_index)) {
		object = slab_alloc(heap, class_index);
		*slot = slab_object_size(class_index);
	}
	return object ? object : stand_in(heap, request->gross, request->alignment, class_index, slot);
}

static uintptr_t alloc_run(struct kheap *heap, const struct request *request, size_t *slot)
{
	size_t n_pages = pages_for(request->gross);
	unsigned shift = request->alignment > PAGE_SIZE ? log2_floor(request->alignment) - PAGE_SHIFT : 0;
	struct page_desc *desc = run_alloc(heap, n_pages, shift, request->max_address, PAGE_RUN);

	if (!desc)
		return 0;
	desc->is_bare = request->is_bare;
	if (request->n_used)
		*request->n_used = (n_pages - heap->n_taken_zero) << PAGE_SHIFT;
	*slot = n_pages << PAGE_SHIFT;
	return desc_address(desc);
}

/* A block as large as others of about that size, where sizes are coarse; if there is none, as large as was asked for, before the heap grows. */
static uintptr_t alloc_block(struct kheap *heap, const struct request *request, size_t *slot)
{
	size_t size = request->gross;
	uintptr_t object;

	if (!HARDENED && has_coarse_sizes(heap) && request->alignment == GRANULE && size > FAST_MAX)
		size = coarse_size(size);
	object = block_alloc(heap, size, request->alignment, LABEL_PLAIN);
	if (!object && heap->is_thorough && size != request->gross)
		object = block_alloc(heap, request->gross, request->alignment, LABEL_PLAIN);
	if (object)
		*slot = block_size(block_of_payload(object)) - BLOCK_HEADER;
	return object;
}

static uintptr_t alloc_storey(struct kheap *heap, const struct request *request, size_t *slot)
{
	uintptr_t object = 0;

	if (request->is_bare)
		return alloc_run(heap, request, slot);
	if (request->gross <= BLOCK_MAX_REQUEST && request->alignment < PAGE_SIZE) {
		unsigned class_index = slab_class_of(request->gross, request->alignment);

		object = class_index != SLAB_NO_CLASS ? alloc_small(heap, request, class_index, slot)
		                                      : alloc_block(heap, request, slot);
	}
	if (!object && (request->gross > PAGE_SIZE / 2 || request->alignment >= PAGE_SIZE))
		object = alloc_run(heap, request, slot);
	return object;
}

/* One attempt, with what the heap has. */
uintptr_t alloc_once(struct kheap *heap, const struct request *request)
{
	size_t slot = 0;
	uintptr_t object = alloc_storey(heap, request, &slot);

	if (object && object + slot - 1 > request->max_address) {
		/* Ordinary memory happens to lie too high: whole pages can be chosen by address. */
		struct object found;

		if (heap_find(heap, object, &found))
			object_free(heap, &found, object);
		object = alloc_run(heap, request, &slot);
	}
	if (!object)
		return 0;
	if (HARDENED && !request->is_bare) {
		guard_arm(heap, object, request->size, slot);
		slot = request->size;
	}
	count_alloc(heap, 1, slot);
	return object;
}

/* is_tried: what can be had at once was looked for in vain just now. */
static uintptr_t alloc_locked(struct kheap *heap, const struct request *request, bool is_tried)
{
	uintptr_t object = is_tried ? 0 : alloc_once(heap, request);

	if (!object) {
		heap_drain(heap);
		heap->is_thorough = true;
		object = alloc_once(heap, request);
		heap->is_thorough = false;
	}
	return object;
}

/* What to get so that the request will be met, wherever it comes to lie; `is_last`: even if 4 GiB divide what is got. */
static struct growth growth_for(const struct request *request, bool is_last)
{
	size_t slack = request->alignment > GRANULE ? request->alignment : 0;
	/* One or two whole pages serve where a block, with its header, would begin another; and below an address pages do (alloc_once). */
	bool is_run = request->gross > BLOCK_MAX_REQUEST || request->alignment >= PAGE_SIZE ||
	              (request->gross > PAGE_SIZE / 2 && request->gross <= 2 * PAGE_SIZE) ||
	              request->max_address != UINTPTR_MAX;

	if (!is_run && !slack && !is_last)
		return (struct growth){ .block_bytes =
			                        max_size(align_up(request->gross + BLOCK_HEADER, GRANULE), BLOCK_MIN) };
	if (slack >= PAGE_SIZE)
		slack -= PAGE_SIZE;
	return (struct growth){ .n_pages = pages_for(request->gross + (is_run ? 0 : BLOCK_MIN)) + pages_for(slack),
		                .is_apart = is_last,
		                .goes_on = request->goes_on };
}

/* As in a heap that cannot grow, or with all that this CPU can reach. */
static uintptr_t alloc_refused(struct kheap *heap, const struct request *request, unsigned flags, bool resets)
{
	kport_lock_state state = heap_lock(heap);
	bool was_refused = heap->is_refused;

	heap->is_refused = true;
	if (resets)
		cpu_reset(heap);
	uintptr_t object = alloc_locked(heap, request, false);

	heap->is_refused = !(flags & KMALLOC_NO_GROW) || was_refused;
	heap_unlock_after(heap, state, flags);
	return object;
}

/* The heap cannot grow, or may not for this one: what other storeys have to spare, in the end what caches have. */
COLD static void *alloc_last_resort(struct kheap *heap, const struct request *request, unsigned flags)
{
	size_t footprint = LOAD(heap->counters.footprint_pages) << PAGE_SHIFT;
	uintptr_t object = alloc_refused(heap, request, flags, false);

	/* Not for what the heap could never hold. */
	if (!object && request->gross < footprint && request->alignment < footprint) {
		cpu_release(heap, flags);
		object = alloc_refused(heap, request, flags, true);
	}
	return (void *)object;
}

static void *alloc_growing(struct kheap *heap, const struct request *request, unsigned flags)
{
	struct replenished tried = { false, false };
	bool is_tried = flags & ALLOC_TRIED;

	/* Bounded, because what was got may be unfit for this request, or gone to another CPU. */
	for (unsigned tries = GROWTH_TRIES; tries; tries--) {
		kport_lock_state state = heap_lock_inline(heap);
		uintptr_t object = alloc_locked(heap, request, is_tried);

		heap_unlock_after(heap, state, flags);
		if (object)
			return (void *)object;
		if (flags & KMALLOC_NO_GROW ||
		    !heap_replenish(heap, growth_for(request, tries == 1), request->max_address, request->size, &tried))
			break;
		is_tried = false;
	}
	return alloc_last_resort(heap, request, flags);
}

/* Every usable byte, but not the canary behind the last one, and none behind the first n_used. */
static void zero(struct kheap *heap, void *object, size_t size, size_t n_used)
{
	/* Of a block whose header was overrun while it was cached nobody can tell how large it is. */
	size_t n = min_size(HARDENED ? size : max_size(kheap_usable_size(heap, object), size), n_used);
	unsigned char *byte = (unsigned char *)object + n / 8 * 8;

	fill_words(object, 0, n / 8 * 8);
	for (size_t i = 0; i < n % 8; i++)
		byte[i] = 0;
}

void count_failure(struct kheap *heap, unsigned flags)
{
	kport_lock_state state = heap_lock(heap);

	heap->counters.n_failures++;
	if (!(flags & KMALLOC_NO_GROW))
		regions_settle(heap);
	heap_unlock_after(heap, state, flags);
}

static void *alloc_told(struct kheap *heap, size_t size, size_t alignment, unsigned flags, size_t *n_used)
{
	struct request request;
	void *object = NULL;

	if (request_make(&request, size, alignment, flags)) {
		request.n_used = n_used;
		object = alloc_growing(heap, &request, flags);
	}
	if (!object)
		count_failure(heap, flags);
	return object;
}

void *alloc_any(struct kheap *heap, size_t size, size_t alignment, unsigned flags)
{
	size_t n_used = SIZE_MAX;
	void *object = alloc_told(heap, size, alignment, flags, &n_used);

	if (object && flags & KMALLOC_ZERO)
		zero(heap, object, size, n_used);
	return object;
}

void *kheap_alloc_told(struct kheap *heap, size_t size_bytes, size_t alignment, size_t *n_used_bytes)
{
	*n_used_bytes = SIZE_MAX;
	if (size_bytes <= LARGE_MAX)
		return kheap_alloc_aligned(heap, size_bytes, alignment, 0);
	return alloc_told(heap, size_bytes, alignment, 0, n_used_bytes);
}

void *alloc_to_grow(struct kheap *heap, size_t size)
{
	struct replenished tried = { .has_asked = true };
	struct request request;

	if (!request_make(&request, size, PAGE_SIZE, 0))
		return NULL;
	request.goes_on = true;
	for (unsigned tries = GROWTH_TRIES; tries; tries--) {
		kport_lock_state state = heap_lock(heap);
		uintptr_t object = alloc_locked(heap, &request, false);

		heap_unlock(heap, state);
		if (object)
			return (void *)object;
		if (!heap_replenish(heap, growth_for(&request, false), UINTPTR_MAX, size, &tried))
			break;
	}
	return NULL;
}

/* ---- the caches, and what they do not answer ------------------------------------------------------------------------- */

/* From the caches, too. An alignment of 0 is the natural one. */
static void *alloc_zeroed(struct kheap *heap, size_t size, size_t alignment)
{
	void *object = alignment ? kheap_alloc_aligned(heap, size, alignment, 0) : kheap_alloc(heap, size, 0);

	if (object)
		zero(heap, object, size, SIZE_MAX);
	return object;
}

/* What no magazine is for. An alignment of 0 is the natural one. */
static __attribute__((noinline)) void *alloc_slow(struct kheap *heap, size_t size, size_t alignment, unsigned flags)
{
	if (!HARDENED && flags == KMALLOC_ZERO && size <= LARGE_MAX)
		return alloc_zeroed(heap, size, alignment);
	if (!HARDENED && flags == KMALLOC_NO_GROW && size <= FAST_MAX && alignment <= GRANULE) {
		void *object = cache_pop(heap, magazine_of_size(size));

		if (object)
			return object;
	}
	if (!alignment)
		alignment = natural_alignment(size);
	if (!HARDENED && !flags && alignment >= PAGE_SIZE && size - 1 < RUN_CACHE_PAGES * PAGE_SIZE)
		return cpu_alloc_run(heap, size, alignment);
	if (!HARDENED && !flags && size - FAST_MAX <= LARGE_MAX - FAST_MAX)
		return cpu_alloc_large(heap, size, alignment);
	return alloc_any(heap, size, alignment, flags);
}

void *kheap_alloc(struct kheap *heap, size_t size_bytes, unsigned flags)
{
	if (!HARDENED && LIKELY(flags == 0)) {
		if (LIKELY(size_bytes <= FAST_MAX))
			return fast_alloc(heap, size_bytes, 0);
		if (is_power_of_two(size_bytes) && size_bytes <= RUN_CACHE_PAGES * PAGE_SIZE)
			return cpu_alloc_run(heap, size_bytes, size_bytes);
		if (size_bytes <= LARGE_MAX)
			return cpu_alloc_large(heap, size_bytes, natural_alignment(size_bytes));
	}
	return alloc_slow(heap, size_bytes, 0, flags);
}

void *kheap_alloc_cached(struct kheap *heap, size_t size_bytes)
{
	return !HARDENED && LIKELY(size_bytes <= FAST_MAX) ? cache_pop(heap, magazine_of_size(size_bytes)) : NULL;
}

void *kheap_alloc_aligned(struct kheap *heap, size_t size_bytes, size_t alignment, unsigned flags)
{
	if (!HARDENED && LIKELY(alignment == GRANULE && flags == 0)) {
		if (LIKELY(size_bytes <= FAST_MAX))
			return fast_alloc(heap, size_bytes, GRANULE);
		if (size_bytes > PAGE_SIZE && size_bytes <= LARGE_MAX)
			return cpu_alloc_large(heap, size_bytes, GRANULE);
	}
	if (!is_power_of_two(alignment))
		return alloc_any(heap, size_bytes, alignment, flags);
	/* Slabs' objects lie as their size says. */
	if (!HARDENED && flags == 0 && alignment - 1 < SLAB_ALIGNED_MAX && size_bytes - 1 < SLAB_ALIGNED_MAX) {
		size_t size = align_up(size_bytes, alignment);

		if (size <= SLAB_ALIGNED_MAX)
			return fast_alloc(heap, size, max_size(alignment, GRANULE));
	}
	/* As it lies anyway. */
	if ((alignment < GRANULE && size_bytes <= FAST_MAX) || (alignment == size_bytes && size_bytes <= NATURAL_MAX) ||
	    (alignment < size_bytes && size_bytes <= PAGE_SIZE && is_power_of_two(size_bytes)))
		return kheap_alloc(heap, size_bytes, flags);
	if (!HARDENED && flags == 0 && size_bytes <= FAST_MAX && alignment < PAGE_SIZE &&
	    magazine_of_size(size_bytes) >= MAGAZINE_BLOCK)
		return cpu_alloc_aligned(heap, size_bytes, alignment, magazine_of_size(size_bytes));
	return alloc_slow(heap, size_bytes, alignment, flags);
}

/* ---- from here on for size ---------------------------------------------------------------------------------------- */
#include "small.h"

void *kheap_calloc(struct kheap *heap, size_t n, size_t size_bytes)
{
	size_t total;

	if (__builtin_mul_overflow(n, size_bytes, &total))
		total = SIZE_MAX;
	return kheap_alloc(heap, total, KMALLOC_ZERO);
}

struct kmalloc_result kheap_alloc_at_least(struct kheap *heap, size_t size_bytes, unsigned flags)
{
	struct kmalloc_result result = { kheap_alloc(heap, size_bytes, flags), 0 };

	if (result.object)
		result.size_bytes = kheap_usable_size(heap, result.object);
	return result;
}

size_t kheap_alloc_bulk(struct kheap *heap, size_t size_bytes, unsigned flags, size_t n, void *objects[])
{
	size_t done = 0;

	while (done < n && (objects[done] = kheap_alloc(heap, size_bytes, flags)) != NULL)
		done++;
	return done;
}

void *kpages_alloc(struct kheap *heap, size_t n_pages, size_t alignment, uintptr_t max_address, unsigned flags)
{
	size_t n_used = 0;
	struct request request = { .alignment = max_size(alignment, PAGE_SIZE),
		                   .max_address = max_address,
		                   .is_bare = true,
		                   .n_used = &n_used };
	void *pages = NULL;

	n_pages = max_size(n_pages, 1);
	if (is_power_of_two(alignment) && n_pages <= (size_t)PTRDIFF_MAX >> PAGE_SHIFT) {
		request.size = n_pages << PAGE_SHIFT;
		request.gross = request.size;
		if (flags & KMALLOC_BELOW_4G)
			request.max_address = min_size(max_address, BELOW_4G);
		pages = alloc_growing(heap, &request, flags);
	}
	if (!pages)
		count_failure(heap, flags);
	else if (flags & KMALLOC_ZERO)
		fill_words(pages, 0, n_used);
	return pages;
}
