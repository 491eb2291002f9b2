/* SPDX-License-Identifier: MIT */
/*
 * Growth, and a heap's life. Growth asks for a sixteenth of what the heap has, so that the source is asked seldom and little is held in vain,
 * but for a large object for no more than that needs: its chunk goes back with it.
 *
 * One region is open: the next chunk is asked for where that ends. Once a chunk was got there, growth goes by smaller steps, and each region that
 * becomes full is followed by an open one. If the first one cannot be lengthened, or two in a row, the source's chunks
 * lie apart, and it is not asked again, unless it said that it has what follows (n_behind).
 *
 * A large object that grows by little at a time is not to be copied each time: its own region can become twice as long.
 */
#include "small.h"
#include "internal.h"

#define FIRST_CHUNK_PAGES 7
#define GROWTH_SHARE 16   /* a chunk is a sixteenth of what the heap has; */
#define SMALL_SHARE 6     /* a sixth in small heaps, */
#define IN_PLACE_SHARE 32 /* a 32nd, where it lengthens a region, */
#define SEVERAL_SHARE 4   /* or, if unused pages cost nothing, a quarter: several CPUs would wait for each other; */
#define EACH_PAGE_FOOTPRINT 32 /* a page, while the heap has fewer than so many; */
#define OWN_CHUNK_SHARE 64     /* but what asks for as much of the heap as this gets a chunk of its own, */
#define OWN_CHUNK_PAGES 16     /* and of so many pages: smaller ones would come and go too often; */
#define OWN_IN_PLACE_PAGES 64  /* and of so many, where a region would be lengthened otherwise, */
#define PROMISED_SHARE 16      /* or, where the source promised what follows, of so much of the region */
#define GOES_ON_SHARE 2        /* of what goes on growing: half as much besides, where its region was not lengthened; */
#define RESERVE_SHARE 4        /* an open region can be lengthened by a quarter of what the heap has, */
#define FIRST_RESERVE 3        /* the first one can be so many times as long */
#define RESERVE_MAX_PAGES ((size_t)1 << 14) /* or 64 MiB */
#define MAX_CHUNK_PAGES ((size_t)1 << 18)   /* 1 GiB: some firmware fails or stalls on more */
#define WAIT_LOOKS \
	20000        /* one CPU looks so often whether another one's call of the source is over: about a millisecond, */
#define WAIT_TURNS 8 /* and that of so many */

/* The pages of a chunk in which n pages are left for use, and descriptors for `reserve` more; SIZE_MAX when that is no number. */
static size_t chunk_pages(size_t n_pages, size_t reserve)
{
	size_t each = reserve ? RESERVE_PAGE_BYTES : PAGE_OVERHEAD_BYTES, bytes;

	if (__builtin_mul_overflow(n_pages + reserve, each, &bytes) || bytes > SIZE_MAX - PAGE_SIZE)
		return SIZE_MAX;
	bytes += REGION_BYTES + 2 * GRANULE;
	/* The pages in front are described there, too. */
	return n_pages + (bytes + PAGE_SIZE - each - 1) / (PAGE_SIZE - each);
}

/* The pages of a chunk in which n bytes are left for one area of blocks: it begins where the descriptors end. */
static size_t chunk_pages_for_block(size_t n_bytes)
{
	size_t bytes = REGION_BYTES + 2 * GRANULE + TAIL_MIN_BYTES + n_bytes + GRANULE;

	return (bytes + PAGE_SIZE - PAGE_OVERHEAD_BYTES - 1) / (PAGE_SIZE - PAGE_OVERHEAD_BYTES);
}

static void count_growth(struct kheap *heap)
{
	heap->counters.n_grown++;
	heap->depot.n_missed = 0;
}

static size_t chunk_wanted(size_t footprint, size_t min_pages)
{
	size_t share = footprint < SMALL_HEAP_PAGES ? SMALL_SHARE : GROWTH_SHARE;

	if (min_pages >= max_size(footprint / OWN_CHUNK_SHARE, OWN_CHUNK_PAGES))
		return min_pages;
	return max_size(min_size(max_size(footprint / share, MIN_CHUNK_PAGES), MAX_CHUNK_PAGES), min_pages);
}

static bool chunk_get(const struct kpage_source *source, const struct kpage_request *request, struct kpage_chunk *chunk)
{
	*chunk = (struct kpage_chunk){ 0 };
	if (!source->get || !source->get(source->ctx, request, chunk))
		return false;
	uintptr_t last = chunk->base + (chunk->n_pages << PAGE_SHIFT) - 1;

	if (chunk->n_pages >= request->min_pages && chunk->base % PAGE_SIZE == 0 && last <= request->max_address)
		return true;
	source->put(source->ctx, chunk);
	return false;
}

static size_t limit_pages(const struct kheap *heap)
{
	return heap->config.limit_bytes ? heap->config.limit_bytes >> PAGE_SHIFT : SIZE_MAX;
}

/* So many pages a region must be longer for a request, with what is free at its end; at least one. */
static size_t pages_missing(const struct kheap *heap, const struct region *region, struct growth growth)
{
	const struct block *victim = heap->victim;
	size_t n_free = free_at_end(region), end = region->n_pages - n_free, n_pages = growth.n_pages;

	if (growth.block_bytes) {
		n_pages = pages_for(growth.block_bytes + GRANULE);
		/* What blocks are cut from may end where the free pages begin. */
		if (victim && heap->victim_region == region && block_header(victim) == heap->victim_header &&
		    (uintptr_t)victim + block_size(victim) + BLOCK_HEADER == page_address(region, end) &&
		    region->descs[end - 1].n_pages + n_pages <= AREA_MAX_PAGES)
			n_pages = pages_for(growth.block_bytes - min_size(block_size(victim), growth.block_bytes));
	}
	return n_pages > n_free ? n_pages - n_free : 1;
}

/* How it is noted in a byte that this CPU lengthens the region. Two may be noted alike: then one does not wait for the other. */
INLINE uint8_t own_mark(void)
{
	return (uint8_t)(1 + kport_cpu() % UINT8_MAX);
}

/* Another CPU is lengthening the region. False: it takes too long, or it is this one, which was interrupted. */
static bool growth_awaited(struct kheap *heap)
{
	for (unsigned looks = WAIT_LOOKS; looks && LOAD(heap->lengthening) != own_mark(); looks--) {
		if (!LOAD(heap->lengthening))
			return true;
		pause_briefly();
	}
	return false;
}

/* The source said that it can give what lies behind, so that it is asked again when it once could not. */
static bool is_promised(const struct region *region)
{
	return region->is_first && region->chunk.n_behind;
}

/* Large objects lengthen it, too, where the source promised what follows; not very large ones, and not more than leave others half of it. */
static bool has_place_for_large(const struct region *region, size_t n_pages)
{
	return is_promised(region) && n_pages < region->capacity / PROMISED_SHARE &&
	       region->n_pages + n_pages <= region->capacity / 2;
}

/* By so many pages it can be longer. No chunk that lengthens it crosses 4 GiB, as no free run does: it could not go back as one. */
static size_t room_behind(const struct region *region)
{
	size_t capacity = region->capacity;

	if (region->first_page + region->n_pages <= ZONE_PAGE)
		capacity = min_size(capacity, ZONE_PAGE - region->first_page);
	return capacity - region->n_pages;
}

/* The open region, if it is to become longer for this; what gets a chunk of its own is not served like this. */
static struct region *region_to_lengthen(struct kheap *heap, struct growth growth, struct kpage_request *request)
{
	struct region *region = growth.at_end ? growth.at_end : heap->open;
	size_t footprint = heap->counters.footprint_pages, limit = limit_pages(heap);

	if (!region)
		return NULL;
	size_t room = room_behind(region);
	size_t allowed = min_size(room, limit - min_size(footprint, limit));
	size_t least = footprint < EACH_PAGE_FOOTPRINT ? 1 : MIN_CHUNK_PAGES;
	size_t share = max_size(
		heap_scale(heap) / (heap->n_caches && region->chunk.is_zero ? SEVERAL_SHARE : IN_PLACE_SHARE), least);

	request->min_pages = pages_missing(heap, region, growth);
	request->min_pages += sections_growth_at(heap, region, request->min_pages);
	request->want_pages = min_size(max_size(share, request->min_pages), allowed);
	request->best_address = page_address(region, region->n_pages);
	/* What lies behind may be another region. */
	if (growth.at_end)
		return request->min_pages <= allowed && !region_of(heap, request->best_address) ? region : NULL;
	if (!growth.is_refused && request->min_pages >= max_size(footprint / OWN_CHUNK_SHARE, OWN_IN_PLACE_PAGES) &&
	    !has_place_for_large(region, request->min_pages))
		return NULL;
	/* Closed until it is cut (region.c); not while somebody waits for more of it, nor while it can be longer by much. */
	if (request->min_pages > room && (room < share || !is_promised(region)) && !heap->lengthening &&
	    !growth.is_refused)
		heap->open = NULL;
	return request->min_pages <= allowed ? region : NULL;
}

/*
 * What follows is not to be had. Of the open region, if that was never lengthened: once it may be chance, but if none was since the last such one,
 * the source's chunks lie apart.
 */
static void close_region(struct kheap *heap, struct region *region)
{
	region->is_closed = true;
	if (heap->open != region) {
		heap->is_enclosed = true;
		return;
	}
	heap->open = NULL;
	if (region->n_chunks)
		return;
	heap->is_apart = !heap->has_joined;
	heap->has_joined = false;
}

/* A chunk that begins where a region ends: the region is longer then. */
static bool grow_in_place(struct kheap *heap, struct growth growth)
{
	struct kpage_request request = { .max_address = UINTPTR_MAX };
	struct kpage_chunk chunk;
	kport_lock_state state = heap_lock(heap);
	struct region *region;

	/* One after the other, and each for its own request. */
	for (unsigned turns = WAIT_TURNS; (region = region_to_lengthen(heap, growth, &request)) && heap->lengthening;
	     turns--) {
		heap_unlock(heap, state);
		if (!turns || !growth_awaited(heap))
			return false;
		state = heap_lock(heap);
	}
	if (region)
		STORE(heap->lengthening, own_mark());
	heap_unlock(heap, state);
	if (!region)
		return false;
	bool is_got = chunk_get(&heap->config.source, &request, &chunk);

	state = heap_lock(heap);
	STORE(heap->lengthening, 0);
	/* The region may have become longer, or gone, meanwhile: then there is something to try again with. */
	bool is_ours = (growth.at_end || heap->open == region) &&
	               page_address(region, region->n_pages) == request.best_address;
	bool is_next = is_got && is_ours && chunk.base == request.best_address &&
	               chunk.is_zero == region->chunk.is_zero && chunk.n_pages <= room_behind(region) &&
	               chunk.n_pages <= limit_pages(heap) - heap->counters.footprint_pages;

	is_next = is_next && region_lengthen(heap, region, chunk.n_pages);
	if (is_next) {
		count_growth(heap);
		heap->has_joined = true;
		heap->is_enclosed &= !growth.at_end;
	} else if (is_ours && !is_promised(region) && !growth.is_refused) {
		close_region(heap, region);
	}
	heap_unlock(heap, state);
	if (is_got && !is_next)
		heap->config.source.put(heap->config.source.ctx, &chunk);
	return is_next || !is_ours;
}

bool heap_grow_at_end(struct kheap *heap, struct region *region, size_t n_pages)
{
	return heap->config.source.get && grow_in_place(heap, (struct growth){ .n_pages = n_pages, .at_end = region });
}

/* Pages that may be added to a new region: where it becomes the open one, or is for an object that goes on growing. */
static size_t reserve_pages(const struct kheap *heap, struct growth growth, bool is_own)
{
	size_t most = max_size(heap->counters.footprint_pages / RESERVE_SHARE, MIN_CHUNK_PAGES);

	if (is_own)
		most = growth.goes_on ? growth.n_pages : 0;
	else if (heap->open)
		most = 0;
	return heap->is_apart ? 0 : min_size(most, RESERVE_MAX_PAGES);
}

/* No chunk of its own for a large object: perhaps the few pages that the open region is too short. */
static bool grow_all_the_same(struct kheap *heap, struct growth growth, bool is_own, uintptr_t max_address)
{
	growth.is_refused = true;
	return is_own && max_address == UINTPTR_MAX && grow_in_place(heap, growth);
}

/* A chunk that lies anywhere becomes a region. */
static bool grow_apart(struct kheap *heap, struct growth growth, uintptr_t max_address)
{
	struct kpage_request request = { .max_address = max_address };
	struct kpage_chunk chunk;
	kport_lock_state state = heap_lock(heap);
	size_t footprint = heap->counters.footprint_pages, limit = limit_pages(heap);
	size_t n_pages = growth.n_pages + pages_for(growth.block_bytes);
	bool is_own = n_pages >= max_size(footprint / OWN_CHUNK_SHARE, OWN_CHUNK_PAGES);
	size_t reserve = max_address == UINTPTR_MAX ? reserve_pages(heap, growth, is_own) : 0;
	bool has_joined = heap->has_joined, goes_on = growth.goes_on && (heap->is_apart || heap->is_enclosed);
	size_t n_table = sections_growth(heap, n_pages + (reserve ? reserve + PAGE_SIZE / RESERVE_PAGE_BYTES : 0));

	heap_unlock(heap, state);
	if (n_pages > limit)
		return false;
	/* The section table grows on the new pages. */
	if (growth.block_bytes && !n_table && !reserve)
		request.min_pages = chunk_pages_for_block(growth.block_bytes);
	else
		request.min_pages = chunk_pages(
			growth.n_pages + (growth.block_bytes ? pages_for(growth.block_bytes + GRANULE) : 0) + n_table,
			reserve);
	if (footprint >= limit || request.min_pages > limit - footprint || request.min_pages > REGION_PAGES_MAX)
		return grow_all_the_same(heap, growth, is_own, max_address);
	if (goes_on)
		request.want_pages = request.min_pages + n_pages / GOES_ON_SHARE;
	else if (has_joined && reserve && !is_own)
		request.want_pages = max_size(request.min_pages, footprint / IN_PLACE_SHARE);
	else
		request.want_pages = chunk_wanted(footprint, request.min_pages);
	request.want_pages = min_size(request.want_pages, limit - footprint);
	if (!chunk_get(&heap->config.source, &request, &chunk))
		return grow_all_the_same(heap, growth, is_own, max_address);
	size_t n = min_size(chunk.n_pages, limit - footprint);

	state = heap_lock(heap);
	struct region *open = heap->open;
	struct region *added = region_add(heap, &chunk, chunk.base, n << PAGE_SHIFT, true,
	                                  n == chunk.n_pages && n <= MAX_CHUNK_PAGES ? reserve : 0);

	/* A large object's region is not for others to lengthen, while there is an open one. */
	if (added && is_own) {
		heap->open = open;
		added->is_own = true;
		heap->n_own_pages += (uint32_t)added->n_pages;
	}
	if (added) {
		count_growth(heap);
		window_note(heap, added);
	}
	heap_unlock(heap, state);
	if (!added)
		heap->config.source.put(heap->config.source.ctx, &chunk);
	return added != NULL;
}

bool heap_grow(struct kheap *heap, struct growth growth, uintptr_t max_address)
{
	if (!heap->config.source.get)
		return false;
	kport_lock_state state = heap_lock(heap);

	spares_trim_for_growth(heap);
	heap_unlock(heap, state);
	return (max_address == UINTPTR_MAX && !growth.is_apart && grow_in_place(heap, growth)) ||
	       grow_apart(heap, growth, max_address);
}

void kheap_after_fork(struct kheap *heap)
{
	heap->lengthening = 0;
}

/* ---- a heap's life ----------------------------------------------------------------------------------------------- */

static struct kheap *heap_layout(uintptr_t base, size_t n_pages, const struct kheap_config *config,
                                 const struct kpage_chunk *chunk)
{
	static size_t n_made;
	struct kheap *heap = (struct kheap *)base;

	if (n_pages < (KHEAP_MIN_REGION >> PAGE_SHIFT) - 1 || sizeof(*heap) > n_pages << PAGE_SHIFT)
		return NULL;
	fill_words(heap, 0, sizeof(*heap));
	kport_lock_init(&heap->lock);
	if (config)
		heap->config = *config;
	/*
	 * Each heap has its own, lest headers of one that ended be taken for those of the next in the same memory; mixed, so that nearby
	 * ones give unrelated check words (the finalizer of MurmurHash3).
	 */
	heap->secret = heap->config.secret ^ (base + __atomic_fetch_add(&n_made, 1, __ATOMIC_RELAXED));
	heap->secret = (heap->secret ^ heap->secret >> 33) * 0xff51afd7ed558ccdu;
	heap->secret ^= heap->secret >> 33;
	heap->sections = heap->inline_sections;
	heap->section_mask = SECTIONS_INLINE - SECTION_PAIR;
	heap->section_shift = SECTION_SHIFT;
	/* Room for more pages, if there is any where the arrays end anyway, or it costs nothing; what is left then serves blocks. */
	size_t overhead = sizeof(*heap) + REGION_BYTES + 3 * GRANULE + n_pages * PAGE_OVERHEAD_BYTES;
	size_t capacity = min_size(reserve_of(sizeof(*heap), n_pages), FIRST_RESERVE * n_pages);
	bool opens = chunk->n_pages == n_pages && capacity >= n_pages + MIN_CHUNK_PAGES &&
	             pages_for(sizeof(*heap) + REGION_BYTES + 3 * GRANULE + n_pages * RESERVE_PAGE_BYTES) ==
	                     pages_for(overhead);
	size_t behind = chunk->n_pages == n_pages ? capacity_behind(chunk, sizeof(*heap)) : n_pages;

	behind = min_size(behind, max_size(limit_pages(heap), n_pages));
	capacity = max_size(opens ? capacity : n_pages, behind);
	struct region *region = region_layout(base, n_pages, capacity, sizeof(*heap), chunk->is_zero);

	if (!region)
		return NULL;
	cache_init(&heap->cache_of_caches, heap, sizeof(struct kcache), GRANULE);
	heap->cache_of_caches.is_internal = true;
	cache_init(&heap->cache_of_clips, heap, sizeof(struct clip) - GUARD_BYTES, sizeof(struct clip));
	heap->cache_of_clips.is_internal = true;
	cpu_init(heap);
	region->is_first = true;
	region->from_source = chunk->n_pages != 0;
	region->chunk = *chunk;
	if (!region_enter(heap, region))
		return NULL;
	window_set(heap, region);
	cpu_heap_made(heap);
	return heap;
}

struct kheap *kheap_create(void *memory, size_t size_bytes, const struct kheap_config *config)
{
	struct kpage_chunk chunk = { 0 };
	uintptr_t start = (uintptr_t)memory;
	struct kheap *heap = NULL;
	uintptr_t base;
	size_t n_pages;

	/* Chunks that nobody takes back would be lost. */
	if (config && config->source.get && !config->source.put)
		return NULL;
	if (!memory) {
		/* A heap for very many CPUs is larger than that. */
		struct kpage_request request = { .min_pages = max_size(KHEAP_MIN_REGION >> PAGE_SHIFT,
			                                               pages_for(sizeof(struct kheap)) + 2),
			                         .max_address = UINTPTR_MAX };

		if (!config || (config->limit_bytes && config->limit_bytes < KHEAP_MIN_REGION))
			return NULL;
		request.want_pages = max_size(max_size(size_bytes >> PAGE_SHIFT, FIRST_CHUNK_PAGES), request.min_pages);
		if (config->limit_bytes)
			request.want_pages = min_size(request.want_pages, config->limit_bytes >> PAGE_SHIFT);
		if (request.want_pages < request.min_pages)
			return NULL;
		if (!chunk_get(&config->source, &request, &chunk))
			return NULL;
		start = chunk.base;
		size_bytes = chunk.n_pages << PAGE_SHIFT;
	}
	if (config && config->limit_bytes)
		size_bytes = min_size(size_bytes, config->limit_bytes);
	if (cut_to_pages(start, size_bytes, &base, &n_pages))
		heap = heap_layout(base, n_pages, config, &chunk);
	if (!heap && chunk.n_pages)
		config->source.put(config->source.ctx, &chunk);
	return heap;
}

void regions_put(const struct kpage_source *source, struct region *region)
{
	while (region) {
		struct region *next = region->next;

		region_put(source, region);
		region = next;
	}
}

void kheap_destroy(struct kheap *heap)
{
	/* The heap lies in its first region, and each region's chunk is noted in the region: read before putting back. */
	struct kpage_source source = heap->config.source;
	struct region *first = NULL, *next;

	regions_put(&source, heap->detached);
	for (struct region *region = heap->regions; region; region = next) {
		next = region->next;
		if (region->is_first)
			first = region;
		else if (region->from_source)
			region_put(&source, region);
	}
	if (first && first->from_source)
		region_put(&source, first);
}
