/* SPDX-License-Identifier: MIT */
/*
 * Blocks and long page runs in CPU caches, those above 4 KiB where there are several processors: they serve what is a little smaller,
 * misuse shows, and all of it is given back. This file knows the heap's inside, to see what is cached.
 */
#include "inside.h"
#include "selftest.h"

#define BALLAST ((size_t)8 << 20)
#define LIMIT ((size_t)64 << 20)
#define LEAST ((size_t)4100)
#define MOST ((size_t)128 << 10)
#define WARM_PAIRS 500
#define PAIRS 10000
#define PAIRS_DOWN 100
#define N_SLOTS 32
#define N_STEPS 20000
#define NEAR_BELOW 2 /* classes below its own that a block serves */
#define N_CACHED 8   /* at least, of what is freed at once */

static const size_t sizes[] = { LEAST, 5000, 9000, 30000, 65000, 65536, 100000, MOST };
#define N_SIZES (sizeof(sizes) / sizeof(sizes[0]))

static uint8_t *objects[N_SLOTS];
static size_t lengths[N_SLOTS];

/* A heap with CPU caches; NULL: skipped, or failed. */
static struct kheap *heap_with_caches(struct test *t)
{
	if (HARDENED) {
		test_skip(t, "the hardened builds have no CPU caches");
		return NULL;
	}
	return test_heap_on_host_pages(t, LIMIT);
}

/* One of some size that knows of two processors; NULL: skipped, or failed. */
static struct kheap *heap_of_two(struct test *t)
{
	struct kheap *heap;

	if (!HARDENED && KPORT_CPUS == 1) {
		test_skip(t, "this build is for one processor");
		return NULL;
	}
	heap = heap_with_caches(t);
	if (heap == NULL)
		return NULL;
	/* As if another one had a cache. */
	heap->n_caches++;
	for (size_t n = 0; n < BALLAST; n += MOST)
		if (kheap_alloc(heap, MOST, 0) == NULL)
			test_fail(t, "%zu bytes were refused", MOST);
	/* Who frees large objects often earns the space for them. */
	for (unsigned i = 0; i < WARM_PAIRS; i++)
		kheap_free(heap, kheap_alloc(heap, 5000, 0));
	return heap;
}

/* Blocks of 272 B to 4 KiB. Whoever frees one of them may say the size that it asked for. */
static void a_block_serves_the_classes_below(struct test *t)
{
	struct kheap *heap = heap_with_caches(t);

	for (size_t n = 0; heap != NULL && n < BALLAST; n += MOST)
		CHECK(t, kheap_alloc(heap, MOST, 0) != NULL, "%zu bytes were refused", MOST);
	for (unsigned above = BLOCK_CLASSES - 1; heap != NULL && above > NEAR_BELOW + 1; above--) {
		size_t size = block_class_size(above) - BLOCK_HEADER;
		void *object, *other;

		for (unsigned i = 0; i < WARM_PAIRS; i++)
			kheap_free(heap, kheap_alloc_aligned(heap, size, GRANULE, 0));
		object = kheap_alloc_aligned(heap, size, GRANULE, 0);
		for (unsigned below = above; below-- > above - NEAR_BELOW - 1;) {
			/* The least that is of no smaller class, and no power of two. */
			size_t least = block_class_size(below - 1) - BLOCK_HEADER + GRANULE / 2 + 1;

			kheap_free(heap, object);
			other = kheap_alloc_aligned(heap, least, GRANULE, 0);
			CHECK(t, (other == object) == (below >= above - NEAR_BELOW),
			      "%zu bytes are at %p, where %zu were at %p", least, other, size, object);
			kheap_free_sized(heap, other, least);
			object = kheap_alloc_aligned(heap, size, GRANULE, 0);
		}
		kheap_free(heap, object);
		(void)kheap_trim(heap);
	}
	if (heap != NULL)
		TRY(test_sound(t, heap, "blocks served the classes below"));
}

static void a_lone_pair_stays_in_the_cache(struct test *t)
{
	struct kheap *heap = heap_of_two(t);

	for (unsigned k = 0; heap != NULL && k < N_SIZES; k++) {
		uint64_t n = pairs_from_below(heap, sizes[k], WARM_PAIRS, PAIRS);

		CHECK(t, n < PAIRS_DOWN, "%u pairs of %zu bytes took %zu from below", PAIRS, sizes[k], (size_t)n);
	}
}

/* A block that shrinks is not cut, which takes the lock, if a smaller one is cached. */
static void shrink_into_cache(struct test *t, struct kheap *heap)
{
	enum { SIZE = 3000, LESS = 400 };
	uint8_t *object, *less;

	for (unsigned i = 0; i < WARM_PAIRS; i++)
		kheap_free(heap, kheap_alloc(heap, LESS, 0));
	object = kheap_alloc(heap, SIZE, 0);
	less = kheap_alloc(heap, LESS, 0);
	CHECK(t, object != NULL && less != NULL, "%d and %d bytes were refused", SIZE, LESS);
	test_fill(object, SIZE, 1);
	kheap_free(heap, less);
	CHECK(t, kheap_realloc(heap, object, LESS) == less, "it is not where the cache had room");
	TRY(test_filled(t, less, LESS, 1, "a block that shrank"));
	kheap_free(heap, object);
	TRY(test_expect_error(t, KMALLOC_DOUBLE_FREE, object));
	kheap_free(heap, less);
}

static void a_block_shrinks_into_the_cache(struct test *t)
{
	struct kheap *heap = heap_with_caches(t);

	if (heap != NULL)
		shrink_into_cache(t, heap);
	heap = KPORT_CPUS > 1 && heap != NULL ? heap_of_two(t) : NULL;
	if (heap != NULL)
		shrink_into_cache(t, heap);
}

static bool replace(struct test *t, struct kheap *heap, unsigned slot, size_t size, size_t alignment)
{
	size_t usable;

	if (objects[slot] != NULL && !test_filled(t, objects[slot], lengths[slot], slot, "a large object"))
		return false;
	/* Each may have been asked for with its size, whatever it was before. */
	kheap_free_aligned_sized(heap, objects[slot], 1, lengths[slot]);
	objects[slot] = kheap_alloc_aligned(heap, size, alignment, 0);
	lengths[slot] = size;
	REQUIRE(t, objects[slot] != NULL, "%zu bytes were refused", size);
	REQUIRE(t, is_aligned(objects[slot], alignment), "%zu bytes are at %p, not aligned to %zu", size,
	        (void *)objects[slot], alignment);
	usable = kheap_usable_size(heap, objects[slot]);
	/* One that was cached is up to an eighth larger than a new one. */
	REQUIRE(t,
	        usable >= size &&
	                usable - size <= max_size(coarse_size(size) - size + usable / RESIZE_SHARE, PAGE_SIZE - 1),
	        "of %zu bytes %zu can be used", size, usable);
	test_fill(objects[slot], size, slot);
	return true;
}

static void any_size_is_served(struct test *t)
{
	struct kheap *heap = heap_of_two(t);
	struct kheap_stats stats;
	struct random random;
	size_t n_live;

	if (heap == NULL)
		return;
	kheap_get_stats(heap, &stats);
	n_live = stats.live_objects;
	random_seed(&random, t->options->seed);
	for (unsigned i = 0; i < N_STEPS; i++) {
		size_t size = random_size(&random, LEAST, MOST);
		size_t alignment =
			random_below(&random, 8) == 0 ? natural_alignment((size_t)1 << log2_floor(size)) : GRANULE;

		TRY(replace(t, heap, random_below(&random, N_SLOTS), size, alignment));
	}
	for (unsigned i = 0; i < N_SLOTS; i++) {
		kheap_free(heap, objects[i]);
		objects[i] = NULL;
	}
	TRY(test_sound(t, heap, "large objects came and went"));
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.live_objects == n_live, "%zu objects are live, %zu should be", stats.live_objects, n_live);
	CHECK(t, n_cached(heap) >= N_CACHED, "%zu objects are cached when all are free", n_cached(heap));
	test_note(t, "%zu objects were cached", n_cached(heap));
	(void)kheap_trim(heap);
	CHECK(t, n_cached(heap) == 0, "%zu objects are cached after kheap_trim", n_cached(heap));
}

/* Blocks have coarse sizes where there are several processors; who frees one may say its size also when the others have left. */
static void a_coarse_block_is_freed_with_its_size(struct test *t)
{
	struct kheap *heap = heap_of_two(t);
	struct random random;

	if (heap == NULL)
		return;
	random_seed(&random, t->options->seed);
	for (unsigned i = 0; i < N_STEPS; i++)
		TRY(replace(t, heap, random_below(&random, N_SLOTS), random_size(&random, LEAST, MOST), GRANULE));
	heap->n_caches--;
	for (unsigned i = 0; i < N_SLOTS; i++) {
		kheap_free_sized(heap, objects[i], lengths[i]);
		objects[i] = NULL;
	}
	TRY(test_sound(t, heap, "coarse blocks were freed by one processor"));
	CHECK(t, t->n_errors == 0, "%u frees of large blocks with their size were reported", t->n_errors);
}

/* One processor alone that replaces large objects for long has coarse ones, too, and keeps what it needs, though the heap grew in spite of it. */
static void what_is_replaced_for_long_stays_in_the_cache(struct test *t)
{
	enum { N = 200, LONG = 100000, LAST = 10000, FROM_BELOW = 5000 };
	static void *many[N];
	static size_t sizes_of_many[N];
	struct kheap *heap = heap_with_caches(t);
	struct kheap_stats before, after;
	struct random random;

	if (heap == NULL)
		return;
	random_seed(&random, t->options->seed);
	for (unsigned i = 0; i < LONG; i++) {
		unsigned k = random_below(&random, N);

		if (i == LONG - LAST)
			kheap_get_stats(heap, &before);
		kheap_free_sized(heap, many[k], sizes_of_many[k]);
		sizes_of_many[k] = random_size(&random, LEAST, MOST / 2);
		many[k] = kheap_alloc(heap, sizes_of_many[k], 0);
		CHECK(t, many[k] != NULL, "%zu bytes were refused", sizes_of_many[k]);
	}
	kheap_get_stats(heap, &after);
	CHECK(t, after.n_allocs - before.n_allocs <= FROM_BELOW, "%u of the last %d objects came from below",
	      (unsigned)(after.n_allocs - before.n_allocs), LAST);
	test_note(t, "%u of %d from below", (unsigned)(after.n_allocs - before.n_allocs), LAST);
	for (unsigned i = 0; i < N; i++) {
		kheap_free_sized(heap, many[i], sizes_of_many[i]);
		many[i] = NULL;
	}
	CHECK(t, t->n_errors == 0, "%u frees of large blocks with their size were reported", t->n_errors);
	TRY(test_sound(t, heap, "large objects were replaced for long"));
}

/* From and to so many bytes: they are served, and can be freed with their sizes. */
static void serve_all(struct test *t, struct kheap *heap, size_t from, size_t to)
{
	for (size_t size = from; size <= to; size++) {
		void *object = kheap_alloc_aligned(heap, size, GRANULE, 0);

		CHECK(t, object != NULL, "%zu bytes were refused where they have room", size);
		kheap_free_sized(heap, object, size);
	}
}

/* Where only so many pages are left that a coarse block does not fit, what was asked for is served. */
static void what_just_fits_is_served(struct test *t)
{
	enum { MOST_PAGES = 16, HEAP = 4 << 20 };
	void *runs[MOST_PAGES + 1];
	struct kheap *heap;

	if (HARDENED || KPORT_CPUS == 1) {
		test_skip(t, HARDENED ? "the hardened builds have no CPU caches" : "this build is for one processor");
		return;
	}
	heap = test_heap(t, HEAP);
	if (heap == NULL)
		return;
	heap->n_caches++;
	for (size_t n = 2; n <= MOST_PAGES; n++)
		CHECK(t, (runs[n] = kpages_alloc(heap, n, 1, UINTPTR_MAX, 0)) != NULL, "%zu pages were refused", n);
	for (size_t n = PAGE_SIZE; n > 0; n /= 2) {
		while (kheap_alloc(heap, n, 0) != NULL)
			;
	}
	for (size_t n = 2; n <= MOST_PAGES; n++) {
		kpages_free(heap, runs[n]);
		/* A coarse one of a page fewer would take all of it as whole pages. */
		serve_all(t, heap, (n - 1) * PAGE_SIZE - GRANULE / 2 + 1, (n - 1) * PAGE_SIZE);
		serve_all(t, heap, n * PAGE_SIZE - 2 * GRANULE, n * PAGE_SIZE);
		runs[n] = kpages_alloc(heap, n, 1, UINTPTR_MAX, 0);
		CHECK(t, runs[n] != NULL, "%zu pages were refused after they were blocks", n);
	}
	CHECK(t, t->n_errors == 0, "%u frees of large blocks with their size were reported", t->n_errors);
	heap->n_caches--;
}

static void misuse_shows(struct test *t)
{
	struct kheap *heap = heap_of_two(t);

	for (unsigned k = 0; heap != NULL && k < N_SIZES; k++) {
		uint8_t *object = kheap_alloc(heap, sizes[k], 0);

		CHECK(t, object != NULL, "%zu bytes were refused", sizes[k]);
		kheap_free(heap, object);
		CHECK(t, n_cached(heap) > 0, "nothing is cached");
		CHECK(t, !kheap_owner(heap, object).is_live, "what is cached is called live");
		kheap_free(heap, object);
		TRY(test_expect_error(t, KMALLOC_DOUBLE_FREE, object));
		CHECK(t, kheap_realloc(heap, object, sizes[k] + 100) == NULL, "what is free could be resized");
		TRY(test_expect_error(t, KMALLOC_DOUBLE_FREE, object));
		CHECK(t, kheap_alloc(heap, sizes[k], 0) == object, "the cache gave something else");
		kheap_free(heap, object + 16);
		TRY(test_expect_error(t, KMALLOC_INTERIOR_POINTER, object + 16));
		kheap_free(heap, object);
		TRY(test_sound(t, heap, "misuse of large objects"));
	}
}

/* A header that was overrun while its block was cached: the block is not handed out. */
static void a_damaged_block_is_not_handed_out(struct test *t)
{
	struct kheap *heap = heap_of_two(t);
	struct block *block;
	uint8_t *object, *other;
	uint64_t header;

	if (heap == NULL)
		return;
	object = kheap_alloc(heap, 9000, 0);
	CHECK(t, object != NULL, "9000 bytes were refused");
	kheap_free(heap, object);
	block = block_of_payload((uintptr_t)object);
	header = block_header(block);
	block_set_header(block, header ^ 0x100);
	other = kheap_alloc(heap, 9000, 0);
	CHECK(t, other != NULL && other != object, "9000 bytes are at %p, whose header is damaged", (void *)other);
	(void)kheap_trim(heap);
	TRY(test_expect_error(t, KMALLOC_DAMAGED_TAG, block));
	/* It stayed live. */
	block_set_header(block, header);
	*key_word((uintptr_t)object) = 0;
	kheap_free(heap, object);
	kheap_free(heap, other);
}

/* What this processor frees, and never asks for, the others are to have. */
static void what_nobody_asks_for_is_not_kept(struct test *t)
{
	enum { N = 300, LEAST_SIZE = 5000, STEP = 100, MOST_KEPT = 80 };
	static void *many[N];
	struct kheap *heap = heap_of_two(t);

	if (heap == NULL)
		return;
	(void)kheap_trim(heap);
	for (unsigned i = 0; i < N; i++)
		CHECK(t, (many[i] = kheap_alloc(heap, LEAST_SIZE + i * STEP, 0)) != NULL, "block %u was refused", i);
	for (unsigned i = 0; i < N; i++)
		kheap_free(heap, many[i]);
	CHECK(t, n_cached(heap) <= MOST_KEPT, "%zu of %u blocks are kept", n_cached(heap), N);
	test_note(t, "%zu of %u", n_cached(heap), N);
	TRY(test_sound(t, heap, "blocks that nobody asks for"));
}

static const struct test_case cases[] = {
	{ "a cached block serves its own class and the two below, no other", a_block_serves_the_classes_below },
	{ "a lone pair of 4 to 128 KiB stays in the cache where there are several processors",
	  a_lone_pair_stays_in_the_cache },
	{ "a block shrinks into the cache", a_block_shrinks_into_the_cache },
	{ "what is cached serves any size that is a little smaller, and is given back", any_size_is_served },
	{ "a large block is freed with its size when other processors have left",
	  a_coarse_block_is_freed_with_its_size },
	{ "what one processor replaces for long stays in its cache", what_is_replaced_for_long_stays_in_the_cache },
	{ "a processor that only frees keeps few where there are several", what_nobody_asks_for_is_not_kept },
	{ "what just fits is served where there are several processors", what_just_fits_is_served },
	{ "a double free, or a pointer into it, of what is cached is reported", misuse_shows },
	{ "a block whose header was overrun in the cache is not handed out", a_damaged_block_is_not_handed_out },
};

TEST_GROUP(large, cases);
