/* SPDX-License-Identifier: MIT */
/*
 * Memory that was freed can be had again, and neighbours become one: nothing is lost by use.
 */
#include "selftest.h"

#define ARENA ((size_t)1 << 20)
#define NEIGHBOURS 7
#define CHURN_SLOTS 256

/* What a heap looks like when nothing is live and nothing is kept aside. */
static void rest_stats(struct kheap *heap, struct kheap_stats *stats)
{
	kheap_trim(heap);
	kheap_get_stats(heap, stats);
}

static bool is_as_before(struct test *t, struct kheap *heap, const struct kheap_stats *before, const char *what)
{
	struct kheap_stats now;

	rest_stats(heap, &now);
	REQUIRE(t, now.live_objects == 0 && now.live_bytes == 0, "%zu objects are live after %s", now.live_objects,
	        what);
	REQUIRE(t, now.n_free_ranges == before->n_free_ranges && now.largest_free_bytes == before->largest_free_bytes,
	        "after %s the heap is %zu free ranges, the largest %zu bytes; before it was %zu and %zu", what,
	        now.n_free_ranges, now.largest_free_bytes, before->n_free_ranges, before->largest_free_bytes);
	REQUIRE(t, now.free_bytes == before->free_bytes, "after %s %zu bytes are free, before it were %zu", what,
	        now.free_bytes, before->free_bytes);
	return true;
}

/* ------------------------------------------------------------------------------------------------------------
 * A full heap
 * --------------------------------------------------------------------------------------------------------- */

/* Fill the heap with objects of one size; each holds the address of the one before. */
static void **fill_up(struct kheap *heap, size_t size, size_t *n)
{
	void **last = NULL, **object;

	*n = 0;
	while ((object = kheap_alloc(heap, size, 0)) != NULL) {
		*object = last;
		last = object;
		(*n)++;
	}
	return last;
}

static void full_heap_reuses_one(struct test *t)
{
	static const size_t sizes[] = { 16,   24,   48,   100,  200,  256,   500,   512,   1000,  1024,
		                        2000, 2048, 4000, 4096, 5000, 10000, 16384, 40000, 65536, 100000 };
	struct kheap *heap = test_heap(t, ARENA);
	struct kheap_stats before;

	TRY(heap != NULL);
	rest_stats(heap, &before);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		size_t n, again = 0;
		void **last = fill_up(heap, sizes[i], &n), **object;

		CHECK(t, n > 0, "no object of %zu bytes fits a heap of 1 MiB", sizes[i]);
		/* The one in the middle: nothing can merge with it. */
		object = last;
		for (size_t j = 0; j < n / 2; j++)
			object = *object;
		if (*object != NULL) {
			void **hole = *object;

			*object = *hole;
			kheap_free(heap, hole);
			hole = kheap_alloc(heap, sizes[i], 0);
			CHECK(t, hole != NULL,
			      "an object of %zu bytes that was just freed cannot be had again in a full heap",
			      sizes[i]);
			*hole = *object;
			*object = hole;
		}
		for (object = last; object != NULL; again++) {
			void **next = *object;

			kheap_free(heap, object);
			object = next;
		}
		CHECK(t, again == n, "of %zu objects of %zu bytes %zu were freed", n, sizes[i], again);
		TRY(is_as_before(t, heap, &before, "filling it with one size and freeing all"));
	}
}

/* Every fourth object of a full heap goes: no page is free then, and few blocks. A class that is a granule smaller lives on what they leave. */
static void next_class_serves_a_full_heap(struct test *t)
{
	enum { SIZE = 184, SMALLER = 168 };
	struct kheap *heap = test_heap(t, ARENA);
	struct kheap_stats before;
	size_t n, n_smaller, n_freed = 0, i = 0;

	TRY(heap != NULL);
	rest_stats(heap, &before);
	void **kept = NULL, **object = fill_up(heap, SIZE, &n), **smaller;

	while (object != NULL) {
		void **next = *object;

		if (i++ % 4 == 0) {
			kheap_free(heap, object);
			n_freed++;
		} else {
			*object = kept;
			kept = object;
		}
		object = next;
	}
	smaller = fill_up(heap, SMALLER, &n_smaller);
	CHECK(t, n_smaller >= n_freed - n_freed / 20, "where %zu objects of %d bytes were freed, %zu of %d are had",
	      n_freed, SIZE, n_smaller, SMALLER);
	test_note(t, "%zu of %d bytes in the place of %zu", n_smaller, SMALLER, n_freed);
	for (unsigned list = 0; list < 2; list++) {
		for (object = list ? kept : smaller; object != NULL;) {
			void **next = *object;

			kheap_free(heap, object);
			object = next;
		}
	}
	TRY(is_as_before(t, heap, &before, "filling it with two sizes and freeing all"));
}

/* Bytes freed as one size serve another. */
static void memory_moves_between_sizes(struct test *t)
{
	static const size_t sizes[] = { 32, 1000, 16, 65536, 100, 4096, 200, 20000, 48, 2048 };
	struct kheap *heap = test_heap(t, ARENA);

	TRY(heap != NULL);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		size_t n;
		void **object = fill_up(heap, sizes[i], &n);

		/* Canaries and natural alignment double some sizes. */
		CHECK(t, n * sizes[i] >= (test_is_hardened() ? ARENA * 2 / 5 : ARENA * 4 / 5),
		      "only %zu objects of %zu bytes fit 1 MiB after it was full of others", n, sizes[i]);
		while (object != NULL) {
			void **next = *object;

			kheap_free(heap, object);
			object = next;
		}
	}
}

/* ------------------------------------------------------------------------------------------------------------
 * Seven neighbours
 * --------------------------------------------------------------------------------------------------------- */

/* Blocks by size, page runs by their pages. */
static void *get(struct kheap *heap, size_t size)
{
	if (size < KMALLOC_PAGE_SIZE)
		return kheap_alloc(heap, size, 0);
	return kpages_alloc(heap, size / KMALLOC_PAGE_SIZE, KMALLOC_PAGE_SIZE, UINTPTR_MAX, 0);
}

static bool frees_in_order(struct test *t, struct kheap *heap, size_t size, const uint8_t order[NEIGHBOURS],
                           const struct kheap_stats *before)
{
	void *objects[NEIGHBOURS];
	struct kheap_stats now;

	for (unsigned i = 0; i < NEIGHBOURS; i++)
		REQUIRE(t, (objects[i] = get(heap, size)) != NULL, "%zu bytes were refused", size);
	for (unsigned i = 0; i < NEIGHBOURS; i++)
		kheap_free(heap, objects[order[i]]);
	/* What a CPU cache keeps is not merged. */
	kheap_leave(heap);
	kheap_get_stats(heap, &now);
	REQUIRE(t, now.n_free_ranges == before->n_free_ranges && now.largest_free_bytes == before->largest_free_bytes,
	        "freeing 7 neighbours of %zu bytes in the order %u%u%u%u%u%u%u left %zu free ranges, the largest %zu "
	        "bytes; %zu and %zu "
	        "were there before",
	        size, order[0], order[1], order[2], order[3], order[4], order[5], order[6], now.n_free_ranges,
	        now.largest_free_bytes, before->n_free_ranges, before->largest_free_bytes);
	return true;
}

/* What is free between two live neighbours must be one range, whatever the order of frees that made it. */
static bool merges_between_guards(struct test *t, struct kheap *heap, size_t size, const uint8_t order[NEIGHBOURS])
{
	void *objects[NEIGHBOURS + 2];
	struct kheap_stats full, now;

	for (unsigned i = 0; i < NEIGHBOURS + 2; i++)
		REQUIRE(t, (objects[i] = get(heap, size)) != NULL, "%zu bytes were refused", size);
	kheap_leave(heap);
	kheap_get_stats(heap, &full);
	for (unsigned i = 0; i < NEIGHBOURS; i++)
		kheap_free(heap, objects[1 + order[i]]);
	kheap_leave(heap);
	kheap_get_stats(heap, &now);
	REQUIRE(t, now.n_free_ranges == full.n_free_ranges + 1,
	        "7 neighbours of %zu bytes freed between two live ones in the order %u%u%u%u%u%u%u are %zd free "
	        "ranges, expected 1",
	        size, order[0], order[1], order[2], order[3], order[4], order[5], order[6],
	        (ptrdiff_t)(now.n_free_ranges - full.n_free_ranges));
	kheap_free(heap, objects[0]);
	kheap_free(heap, objects[NEIGHBOURS + 1]);
	return true;
}

static bool all_orders_merge(struct test *t, size_t size)
{
	struct kheap *heap = test_heap(t, ARENA);
	uint8_t order[NEIGHBOURS];
	struct kheap_stats before;
	unsigned n = 0;

	if (heap == NULL)
		return false;
	for (unsigned i = 0; i < NEIGHBOURS; i++)
		order[i] = (uint8_t)i;
	/* Once to have in place what the heap keeps for the next time. */
	kheap_free(heap, get(heap, size));
	kheap_leave(heap);
	kheap_get_stats(heap, &before);
	do {
		if (!frees_in_order(t, heap, size, order, &before) || !merges_between_guards(t, heap, size, order))
			return false;
		if (n++ % 500 == 0 && !test_sound(t, heap, "freeing neighbours"))
			return false;
	} while (test_next_order(order, NEIGHBOURS));
	REQUIRE(t, n == 5040, "%u orders were tried, expected 5040", n);
	return true;
}

static void blocks_merge_in_any_order(struct test *t)
{
	(void)all_orders_merge(t, 1000);
}

static void runs_merge_in_any_order(struct test *t)
{
	(void)all_orders_merge(t, (size_t)2 * KMALLOC_PAGE_SIZE);
}

/* ------------------------------------------------------------------------------------------------------------
 * Long use
 * --------------------------------------------------------------------------------------------------------- */

static bool churn(struct test *t, struct kheap *heap, struct random *random, void *slots[CHURN_SLOTS],
                  size_t lengths[CHURN_SLOTS])
{
	uint32_t i = random_below(random, CHURN_SLOTS);

	if (slots[i] != NULL) {
		if (!test_filled(t, slots[i], lengths[i], i, "a churned object"))
			return false;
		kheap_free(heap, slots[i]);
	}
	lengths[i] = random_size(random, 1, 6000);
	slots[i] = kheap_alloc(heap, lengths[i], 0);
	REQUIRE(t, slots[i] != NULL, "%zu bytes were refused although less than half of the heap is live", lengths[i]);
	test_fill(slots[i], lengths[i], i);
	return true;
}

static void use_leaves_nothing(struct test *t)
{
	static void *slots[CHURN_SLOTS];
	static size_t lengths[CHURN_SLOTS];
	struct kheap *heap = test_heap(t, ARENA);
	struct random random;
	struct kheap_stats before;

	TRY(heap != NULL);
	for (unsigned i = 0; i < CHURN_SLOTS; i++)
		slots[i] = NULL;
	random_seed(&random, t->options->seed);
	rest_stats(heap, &before);
	for (unsigned round = 0; round < 4; round++) {
		for (unsigned i = 0; i < 5000; i++)
			TRY(churn(t, heap, &random, slots, lengths));
		for (unsigned i = CHURN_SLOTS; i > 0; i--) {
			uint32_t other = random_below(&random, i);
			void *object = slots[other];

			slots[other] = slots[i - 1];
			slots[i - 1] = NULL;
			kheap_free(heap, object);
		}
		TRY(is_as_before(t, heap, &before, "5000 random steps and freeing all in random order"));
	}
}

static void lone_pairs_keep_the_footprint(struct test *t)
{
	struct kheap *heap;
	unsigned n_gets;

	TRY(test_source(t, ARENA) && test_heap_on_source(t, &heap));
	kheap_free(heap, kheap_alloc(heap, 3000, 0));
	kheap_free(heap, kheap_alloc(heap, 64, 0));
	n_gets = t->source.n_gets;
	for (unsigned i = 0; i < 10000; i++) {
		kheap_free(heap, kheap_alloc(heap, 64, 0));
		kheap_free(heap, kheap_alloc(heap, 3000, 0));
	}
	CHECK(t, t->source.n_gets == n_gets, "10000 pairs of one object asked the page source %u times",
	      t->source.n_gets - n_gets);
}

/* A block that is whole pages with its header and canary: what is behind it begins where a page does. */
static void *alloc_whole_pages(struct kheap *heap, size_t n_pages)
{
	return kheap_alloc(heap, n_pages * KMALLOC_PAGE_SIZE - 16, 0);
}

/*
 * Pages are given back from in front of a block, got again and joined with it when it is free: the word in front of it
 * was a free block's once and is inside one again.
 */
static void pages_come_back_in_front(struct test *t)
{
	struct kheap *heap = test_heap(t, (size_t)2 << 20);
	void *front[2], *middle, *behind;

	TRY(heap != NULL);
	front[0] = alloc_whole_pages(heap, 15);
	front[1] = alloc_whole_pages(heap, 15);
	middle = alloc_whole_pages(heap, 2);
	behind = alloc_whole_pages(heap, 1);
	CHECK(t, behind != NULL, "33 pages were refused in 2 MiB");
	kheap_free(heap, front[1]);
	kheap_free(heap, front[0]);
	kheap_free(heap, middle);
	front[0] = alloc_whole_pages(heap, 15);
	front[1] = alloc_whole_pages(heap, 13);
	TRY(test_sound(t, heap, "pages in front of a free block were got again"));
	middle = alloc_whole_pages(heap, 2);
	CHECK(t, front[0] != NULL && front[1] != NULL && middle != NULL, "what was freed cannot be had again");
	kheap_free(heap, behind);
	kheap_free(heap, front[1]);
	kheap_free(heap, middle);
	kheap_free(heap, front[0]);
}

/* Blocks of many pages, so that areas are made, joined, cut and given back all the time. */
static void areas_stay_whole(struct test *t)
{
	enum { SLOTS = 40, STEPS = 6000 };
	struct kheap *heap = test_heap(t, (size_t)2 << 20);
	void *slots[SLOTS] = { NULL };
	struct random random;

	TRY(heap != NULL);
	random_seed(&random, t->options->seed);
	for (unsigned i = 0; i < STEPS; i++) {
		uint32_t slot = random_below(&random, SLOTS);
		size_t n_pages = 1 + random_below(&random, 15), size = random_size(&random, 16, 65000);

		kheap_free(heap, slots[slot]);
		slots[slot] = i % 4 == 0 ? kheap_alloc(heap, size, 0) : alloc_whole_pages(heap, n_pages);
		TRY(i % 32 != 0 || test_sound(t, heap, "blocks of many pages were made and freed"));
		TRY(test_expect_no_error(t));
	}
	for (unsigned i = 0; i < SLOTS; i++)
		kheap_free(heap, slots[i]);
}

/* Most objects of a full heap are freed at random; what stays, a list, lies between. */
static void **make_holes(struct test *t, struct kheap *heap)
{
	enum { FREED_OF_TEN = 9 };
	void **kept = NULL, **gone = NULL, **object;
	struct random random;

	random_seed(&random, t->options->seed);
	while ((object = kheap_alloc(heap, random_size(&random, 16, 4095), 0)) != NULL) {
		void ***list = random_below(&random, 10) < FREED_OF_TEN ? &gone : &kept;

		*object = *list;
		*list = object;
	}
	while ((object = gone) != NULL) {
		gone = *object;
		kheap_free(heap, object);
	}
	return kept;
}

/* Whole pages that the holes of a full heap span serve as pages, and as slabs. */
static void holes_serve_as_pages(struct test *t)
{
	enum { SMALL = 200 };
	struct kheap_stats stats;
	size_t n_pages = 0, n_small = 0;

	for (int serves_slabs = 0; serves_slabs < 2; serves_slabs++) {
		struct kheap *heap = test_heap(t, ARENA);
		size_t n;

		TRY(heap != NULL);
		(void)make_holes(t, heap);
		kheap_get_stats(heap, &stats);
		while (!serves_slabs && kpages_alloc(heap, 1, 1, UINTPTR_MAX, 0) != NULL)
			n_pages++;
		if (serves_slabs)
			(void)fill_up(heap, SMALL, &n_small);
		n = serves_slabs ? n_small * SMALL : n_pages * KMALLOC_PAGE_SIZE;
		CHECK(t, n >= stats.free_bytes / 2, "of %zu free bytes %zu serve as %s", stats.free_bytes, n,
		      serves_slabs ? "small objects" : "pages");
		TRY(test_sound(t, heap, "holes between blocks were used"));
	}
	test_note(t, "of %zu KiB that were free, %zu pages or %zu objects of %d bytes", stats.free_bytes >> 10, n_pages,
	          n_small, SMALL);
}

/* The same pages become free ones when they are asked for, those of one hole or of all, and what lies between stays whole. */
static void holes_are_reclaimed(struct test *t)
{
	enum { LEAST = 2 * KMALLOC_PAGE_SIZE };
	struct kheap *heap = test_heap(t, ARENA);
	struct kheap_stats whole, stats;
	void **kept, **object;

	TRY(heap != NULL);
	rest_stats(heap, &whole);
	kept = make_holes(t, heap);
	kheap_get_stats(heap, &stats);
	size_t before = kheap_get_glance(heap).free_page_bytes, one, all, n = kheap_reclaim_pages(heap, LEAST, 1);

	one = kheap_get_glance(heap).free_page_bytes - before;
	CHECK(t, n == 1 && one >= LEAST, "%zu holes gave %zu bytes, and one was to give %d or more", n, one, LEAST);
	n += kheap_reclaim_pages(heap, LEAST, SIZE_MAX);
	all = kheap_get_glance(heap).free_page_bytes - before;
	CHECK(t, all >= n * LEAST && all >= stats.free_bytes / 5, "%zu holes gave %zu bytes of %zu that were free", n,
	      all, stats.free_bytes);
	n = kheap_reclaim_pages(heap, LEAST, SIZE_MAX);
	CHECK(t, n == 0, "%zu holes gave pages when all had done so", n);
	TRY(test_sound(t, heap, "holes between blocks were reclaimed"));
	for (n = 0; (object = kept) != NULL; n++) {
		kept = *object;
		kheap_free(heap, object);
	}
	CHECK(t, n == stats.live_objects, "of %zu objects between the holes %zu were left", stats.live_objects, n);
	TRY(is_as_before(t, heap, &whole, "holes were reclaimed"));
	test_note(t, "%zu KiB of %zu", all >> 10, stats.free_bytes >> 10);
}

/* The heap is full but for one hole between two blocks, which a block of nearly all of it fits. */
static bool make_hole(struct test *t, struct kheap *heap, size_t size)
{
	void *before = kheap_alloc(heap, 700, 0), *hole = kheap_alloc(heap, size, 0);

	REQUIRE(t, before != NULL && hole != NULL && kheap_alloc(heap, 700, 0) != NULL,
	        "a hole of %zu bytes has no room", size);
	while (kpages_alloc(heap, 1, 1, UINTPTR_MAX, 0) != NULL)
		;
	/* What serves blocks, from large to small; powers of two might take a slab. */
	for (size_t n = 4000; n >= 272; n -= 16) {
		while ((n & (n - 1)) != 0 && kheap_alloc(heap, n, 0) != NULL)
			;
	}
	kheap_free(heap, hole);
	return true;
}

/* Holes are not cut up in vain: for pages that do not fit all the same, or for a slab of a class that has no use for one. */
static void holes_stay_whole(struct test *t)
{
	static const size_t sizes[] = { 7900, 15000, 39000 };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct kheap *heap = test_heap(t, (size_t)256 << 10);
		void *object;

		TRY(heap != NULL);
		TRY(make_hole(t, heap, sizes[i]));
		CHECK(t, kpages_alloc(heap, 1, (size_t)64 << 20, UINTPTR_MAX, 0) == NULL,
		      "a page aligned to 64 MiB was had");
		CHECK(t, kpages_alloc(heap, 1, 1, KMALLOC_PAGE_SIZE, 0) == NULL, "a page below any was had");
		CHECK(t, kheap_alloc(heap, 40, 0) != NULL, "40 bytes were refused");
		object = kheap_alloc(heap, sizes[i] - 200, 0);
		CHECK(t, object != NULL, "%zu bytes were refused after the hole was cut in vain", sizes[i] - 200);
	}
}

/* ------------------------------------------------------------------------------------------------------------
 * Processors that come and go
 * --------------------------------------------------------------------------------------------------------- */

/* The second of two comes, works, and leaves. */
static void visit(void *ctx, unsigned index)
{
	enum { N = 300 };
	static void *objects[N];
	struct kheap *heap = ctx;

	for (unsigned i = 0; index == 1 && i < N; i++)
		objects[i] = kheap_alloc(heap, 16 + i * 16 % 112, 0);
	for (unsigned i = 0; index == 1 && i < N; i++)
		kheap_free(heap, objects[i]);
	if (index == 1)
		kheap_leave(heap);
}

static void caches_wait_for_the_next(struct test *t)
{
	enum { VISITS = 8 };
	struct host *host = t->host;
	struct kheap_stats stats;
	uint64_t before = 0, first = 0;
	struct kheap *heap;
	void *ballast;

	if (test_is_hardened() || host->run_parallel == NULL || host->n_cpus < 2) {
		test_skip(t, test_is_hardened() ? "the hardened builds have no CPU caches"
		                                : "there is only one processor");
		return;
	}
	heap = test_heap_on_host_pages(t, 8 * ARENA);
	TRY(heap != NULL);
	/* In a small heap caches have little. */
	ballast = kheap_alloc(heap, ARENA, 0);
	CHECK(t, ballast != NULL, "%zu bytes were refused", ARENA);
	for (unsigned i = 0; i < VISITS; i++) {
		bool is_run = host->run_parallel(host, 2, visit, heap);

		if (host->is_processor_lost)
			t->is_damaged = true;
		CHECK(t, is_run, "the host could not run two processors at once");
		kheap_get_stats(heap, &stats);
		first = i == 0 ? stats.n_allocs : first;
		/* It takes some to earn the room. */
		CHECK(t, i < VISITS - 1 || stats.n_allocs - before < first / 4,
		      "%zu objects came from below a cache that was left, %zu where there was none",
		      (size_t)(stats.n_allocs - before), (size_t)first);
		before = stats.n_allocs;
	}
	TRY(test_sound(t, heap, "processors came and went"));
	kheap_free(heap, ballast);
	(void)kheap_trim(heap);
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.live_objects == 0 && stats.n_frees == stats.n_allocs,
	      "of %zu objects %zu came back when nobody is there", (size_t)stats.n_allocs, (size_t)stats.n_frees);
	test_note(t, "%zu objects from below, then nearly none", (size_t)first);
}

static const struct test_case cases[] = {
	{ "in a full heap a freed object can be had again, and all can be freed", full_heap_reuses_one },
	{ "in a full heap an object serves the class below its own", next_class_serves_a_full_heap },
	{ "whole pages between the objects of a full heap serve as pages and as slabs", holes_serve_as_pages },
	{ "whole pages inside free blocks become free pages when asked for", holes_are_reclaimed },
	{ "holes are not cut up for what does not fit all the same", holes_stay_whole },
	{ "memory of one size serves every other after it was freed", memory_moves_between_sizes },
	{ "freeing 7 neighbouring blocks in any of 5040 orders leaves one free block", blocks_merge_in_any_order },
	{ "freeing 7 neighbouring page runs in any of 5040 orders leaves one free run", runs_merge_in_any_order },
	{ "random use leaves the heap as it was", use_leaves_nothing },
	{ "pages given back from in front of a block come back to it", pages_come_back_in_front },
	{ "blocks of many pages are made and freed, and all that is free stays sound", areas_stay_whole },
	{ "lone pairs do not grow the heap", lone_pairs_keep_the_footprint },
	{ "a cache that a processor leaves serves the next one", caches_wait_for_the_next },
};
TEST_GROUP(reuse, cases);
