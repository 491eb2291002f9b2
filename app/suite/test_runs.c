/* SPDX-License-Identifier: MIT */
/*
 * Page runs in CPU caches: what is freed there is free for everybody who asks, and comes back aligned; misuse of it shows. This file knows
 * the heap's inside, to see that a run lies in a cache when a case says so. Hardened builds have no caches; there the
 * contract alone is tested.
 */
#include "inside.h"
#include "selftest.h"

#define ARENA ((size_t)8 << 20)
#define N_RUNS 100
#define WARM_PAIRS 100
#define PAIRS 10000
#define PAIRS_DOWN 100

static const size_t sizes[] = { PAGE_SIZE, 2 * PAGE_SIZE, 4 * PAGE_SIZE, 8 * PAGE_SIZE };
#define N_SIZES (sizeof(sizes) / sizeof(sizes[0]))

static uint8_t *runs[N_RUNS];

static bool is_run_cached(const struct kheap *heap, const void *pointer)
{
	const struct region *region = region_of(heap, (uintptr_t)pointer);

	return region != NULL &&
	       page_kind_of(region, ((uintptr_t)pointer >> PAGE_SHIFT) - region->first_page) == PAGE_RUN_CACHED;
}

/* N_RUNS of a size, all live at once, then all free: as many as may be are cached. */
static bool fill_and_free(struct test *t, struct kheap *heap, size_t size)
{
	for (unsigned i = 0; i < N_RUNS; i++) {
		runs[i] = kheap_alloc(heap, size, 0);
		REQUIRE(t, runs[i] != NULL, "run %u of %zu bytes was refused", i, size);
		REQUIRE(t, is_aligned(runs[i], size), "%zu bytes are at %p", size, (void *)runs[i]);
		test_fill(runs[i], size, i);
	}
	for (unsigned i = 0; i < N_RUNS; i++) {
		if (!test_filled(t, runs[i], size, i, "one of many runs"))
			return false;
		kheap_free(heap, runs[i]);
	}
	return true;
}

/* The misuse of an address where nothing live is; freeing, resizing and asking for the size must all show it. */
static bool all_refuse(struct test *t, struct kheap *heap, uint8_t *address, enum kmalloc_error_class error_class)
{
	/* Its page may be the heap's own now. */
	if (error_class == KMALLOC_DOUBLE_FREE && kheap_owner(heap, address).kind == KHEAP_OVERHEAD)
		error_class = KMALLOC_FOREIGN_POINTER;
	kheap_free(heap, address);
	if (!test_expect_error(t, error_class, address))
		return false;
	REQUIRE(t, kheap_realloc(heap, address, 100) == NULL, "what is free could be resized to 100 bytes");
	if (!test_expect_error(t, error_class, address))
		return false;
	REQUIRE(t, kheap_realloc(heap, address, PAGE_SIZE) == NULL, "what is free could be resized to a page");
	if (!test_expect_error(t, error_class, address))
		return false;
	REQUIRE(t, !kheap_try_resize(heap, address, PAGE_SIZE), "what is free could be resized in place");
	if (!test_expect_error(t, error_class, address))
		return false;
	REQUIRE(t, kheap_usable_size(heap, address) == 0, "what is free has a size");
	return test_expect_error(t, error_class, address);
}

static void misuse_of_cached_runs_shows(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	struct kheap_stats before;
	unsigned n = 0;

	TRY(heap != NULL);
	for (unsigned k = 0; k < N_SIZES; k++) {
		TRY(fill_and_free(t, heap, sizes[k]));
		kheap_get_stats(heap, &before);
		for (unsigned i = 0; i < N_RUNS; i++) {
			n += is_run_cached(heap, runs[i]);
			if (is_run_cached(heap, runs[i]))
				CHECK(t, !kheap_owner(heap, runs[i]).is_live, "a cached run is called live");
			TRY(all_refuse(t, heap, runs[i], KMALLOC_DOUBLE_FREE));
			TRY(all_refuse(t, heap, runs[i] + 64, KMALLOC_DOUBLE_FREE));
			TRY(all_refuse(t, heap, runs[i] + 8, KMALLOC_MISALIGNED_POINTER));
			TRY(all_refuse(t, heap, runs[i] + sizes[k] - PAGE_SIZE / 2, KMALLOC_DOUBLE_FREE));
		}
		TRY(test_same(t, heap, &before, "misuse of runs that are free"));
		TRY(test_sound(t, heap, "misuse of runs that are free"));
		/* Each is handed out once. */
		TRY(fill_and_free(t, heap, sizes[k]));
	}
	CHECK(t, HARDENED || n > N_SIZES, "%u of %u freed runs are cached", n, N_RUNS);
	test_note(t, "%u runs were cached", n);
}

static void misuse_of_live_runs_shows(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	struct kheap_stats before;

	TRY(heap != NULL);
	for (unsigned k = 0; k < N_SIZES; k++) {
		uint8_t *run;

		TRY(fill_and_free(t, heap, sizes[k]));
		run = kheap_alloc(heap, sizes[k], 0);
		test_fill(run, sizes[k], k);
		kheap_get_stats(heap, &before);
		TRY(all_refuse(t, heap, run + 16, KMALLOC_INTERIOR_POINTER));
		TRY(all_refuse(t, heap, run + 1, KMALLOC_MISALIGNED_POINTER));
		if (sizes[k] > PAGE_SIZE)
			TRY(all_refuse(t, heap, run + PAGE_SIZE, KMALLOC_INTERIOR_POINTER));
		TRY(test_same(t, heap, &before, "misuse of a live run"));
		TRY(test_filled(t, run, sizes[k], k, "a run that was misused"));
		kheap_free(heap, run);
	}
}

struct sum {
	size_t live_bytes, n_live;
};

static bool add_live(void *ctx, const struct kheap_range *range)
{
	struct sum *sum = ctx;

	if (range->is_live && range->kind != KHEAP_OVERHEAD) {
		sum->live_bytes += range->size_bytes;
		sum->n_live++;
	}
	return true;
}

static void cached_runs_are_free_for_those_who_look(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	struct sum sum = { 0, 0 };
	struct kheap_stats stats;

	TRY(heap != NULL);
	for (unsigned k = 0; k < N_SIZES; k++)
		TRY(fill_and_free(t, heap, sizes[k]));
	CHECK(t, HARDENED || n_cached(heap) > 0, "nothing is cached when %u runs have been freed", N_RUNS);
	kheap_get_stats(heap, &stats);
	kheap_walk(heap, add_live, &sum);
	CHECK(t, stats.live_objects == 0 && stats.live_bytes == 0,
	      "%zu objects of %zu bytes are live when all are freed", stats.live_objects, stats.live_bytes);
	CHECK(t, sum.n_live == 0 && sum.live_bytes == 0, "kheap_walk saw %zu live objects of %zu bytes", sum.n_live,
	      sum.live_bytes);
	CHECK(t, stats.n_allocs == stats.n_frees, "%zu runs were handed out, %zu came back", (size_t)stats.n_allocs,
	      (size_t)stats.n_frees);
	TRY(test_sound(t, heap, "runs were freed"));
}

static void cached_runs_are_there_when_they_are_needed(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	struct kheap_stats trimmed;
	size_t n;
	void *pages;

	TRY(heap != NULL);
	/* A CPU's cache, once it is made, takes a page. */
	kheap_free(heap, kheap_alloc(heap, 1, 0));
	(void)kheap_trim(heap);
	kheap_get_stats(heap, &trimmed);
	for (unsigned k = 0; k < N_SIZES; k++)
		TRY(fill_and_free(t, heap, sizes[k]));
	n = n_cached(heap);
	pages = kpages_alloc(heap, trimmed.largest_free_bytes / PAGE_SIZE, PAGE_SIZE, UINTPTR_MAX, 0);
	CHECK(t, pages != NULL, "%zu bytes were refused, though all but caches is free", trimmed.largest_free_bytes);
	kpages_free(heap, pages);
	for (unsigned k = 0; k < N_SIZES; k++)
		TRY(fill_and_free(t, heap, sizes[k]));
	kheap_leave(heap);
	CHECK(t, n_cached(heap) == 0, "%zu runs are cached after kheap_leave", n_cached(heap));
	for (unsigned k = 0; k < N_SIZES; k++)
		TRY(fill_and_free(t, heap, sizes[k]));
	(void)kheap_trim(heap);
	CHECK(t, n_cached(heap) == 0, "%zu runs are cached after kheap_trim", n_cached(heap));
	test_note(t, "%zu runs were cached", n);
}

/* A kcache that may not grow has what is cached, too. */
static void a_kcache_gets_cached_runs(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	struct kcache *cache;
	size_t n;

	TRY(heap != NULL);
	cache = kcache_create(heap, 1000, 0, NULL, NULL);
	TRY(cache != NULL && fill_and_free(t, heap, sizes[0]));
	while (heap->counters.free_run_pages > 0)
		TRY(kpages_alloc(heap, 1, PAGE_SIZE, UINTPTR_MAX, KMALLOC_NO_GROW) != NULL);
	n = n_cached(heap);
	CHECK(t, HARDENED || n > 0, "nothing is cached of %u runs that were freed", N_RUNS);
	CHECK(t, HARDENED || kcache_alloc(cache, KMALLOC_NO_GROW) != NULL,
	      "a kcache was refused an object while %zu runs were cached", n);
}

static void a_lone_pair_stays_in_the_cache(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);

	TRY(heap != NULL);
	if (HARDENED) {
		test_skip(t, "the hardened builds have no CPU caches");
		return;
	}
	for (unsigned k = 0; k < N_SIZES; k++) {
		uint64_t n = pairs_from_below(heap, sizes[k], WARM_PAIRS, PAIRS);

		CHECK(t, n < PAIRS_DOWN, "%u pairs of %zu bytes took %zu runs from below", PAIRS, sizes[k], (size_t)n);
	}
}

/* In its pages may be anything: also what would tell an object of a slab that it is free for its CPU. */
static void an_old_key_is_no_matter(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);

	TRY(heap != NULL);
	for (unsigned k = 0; k < N_SIZES; k++) {
		uint8_t *run;

		TRY(fill_and_free(t, heap, sizes[k]));
		run = kheap_alloc(heap, sizes[k], 0);
		CHECK(t, run != NULL, "%zu bytes were refused", sizes[k]);
		*key_word((uintptr_t)run) = cached_key(heap, (uintptr_t)run);
		CHECK(t, kheap_usable_size(heap, run) >= sizes[k], "%zu bytes can be used of %zu",
		      kheap_usable_size(heap, run), sizes[k]);
		kheap_free(heap, run);
		CHECK(t, HARDENED || is_run_cached(heap, run), "a run of %zu bytes with an old key was not cached",
		      sizes[k]);
	}
}

/* Runs of 2, 4 and 8 pages that begin anywhere, made by cutting longer ones, are not what a power of two asks for. */
static void only_aligned_runs_are_cached(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	unsigned n_odd = 0;

	TRY(heap != NULL);
	for (unsigned k = 1; k < N_SIZES; k++) {
		for (unsigned i = 0; i < N_RUNS; i++) {
			runs[i] = kheap_alloc_aligned(heap, sizes[k] + PAGE_SIZE, PAGE_SIZE, 0);
			CHECK(t, runs[i] != NULL, "%zu bytes were refused", sizes[k] + PAGE_SIZE);
		}
		for (unsigned i = 0; i < N_RUNS; i++) {
			CHECK(t, kheap_try_resize(heap, runs[i], sizes[k]), "a run could not be cut in place");
			n_odd += !is_aligned(runs[i], sizes[k]);
		}
		for (unsigned i = 0; i < N_RUNS; i++)
			kheap_free(heap, runs[i]);
		TRY(fill_and_free(t, heap, sizes[k]));
	}
	CHECK(t, n_odd > 0, "all runs that were cut happen to be aligned");
	TRY(test_sound(t, heap, "runs were cut"));
}

#define DOUBLING 64
#define DOUBLING_MOST ((size_t)16384)

/* All are doubled before one is doubled again, then freed. False: one was refused. */
static bool double_vectors(struct kheap *heap, unsigned n)
{
	static void *vectors[DOUBLING];

	for (size_t size = 16; size <= DOUBLING_MOST; size *= 2) {
		for (unsigned i = 0; i < n; i++) {
			vectors[i] = kheap_realloc(heap, size == 16 ? NULL : vectors[i], size);
			if (vectors[i] == NULL)
				return false;
		}
	}
	for (unsigned i = 0; i < n; i++)
		kheap_free(heap, vectors[i]);
	return true;
}

/* Each round needs the pages of the round before, in other lengths: what goes back, before the heap grows or as too much, is missed next. */
static bool doubling_settles(struct test *t, struct kheap *heap, const char *which)
{
	enum { ROUNDS = 16 };
	uint64_t n_shared = 0;

	for (unsigned round = 0; round < 2 * ROUNDS; round++) {
		if (round == ROUNDS)
			n_shared = kheap_get_glance(heap).n_operations;
		REQUIRE(t, double_vectors(heap, DOUBLING), "a vector did not become longer");
	}
	n_shared = kheap_get_glance(heap).n_operations - n_shared;
	test_note(t, "%u of %u operations took the lock in a heap that %s", (unsigned)n_shared,
	          2 * ROUNDS * DOUBLING * 11, which);
	REQUIRE(t, n_shared * 20 < 2 * ROUNDS * DOUBLING * 11, "%u of %u operations took the lock in a heap that %s",
	        (unsigned)n_shared, 2 * ROUNDS * DOUBLING * 11, which);
	return true;
}

static void vectors_stay_in_caches(struct test *t)
{
	struct kheap *heap;
	struct kheap_stats stats;

	if (test_is_hardened()) {
		test_skip(t, "the hardened builds have no CPU caches");
		return;
	}
	TRY(test_source(t, 3 * ARENA) && test_heap_on_source(t, &heap));
	TRY(doubling_settles(t, heap, "grows"));
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.peak_footprint_bytes < DOUBLING * DOUBLING_MOST * 5 / 2, "%zu bytes were held for %zu",
	      stats.peak_footprint_bytes, DOUBLING * DOUBLING_MOST);
	TRY(test_end_heap(t, heap));
	heap = test_heap(t, 4 * ARENA);
	TRY(heap != NULL);
	TRY(doubling_settles(t, heap, "cannot grow"));
}

static bool was_asked;

static bool note_asked(void *ctx, size_t size_bytes)
{
	was_asked = ctx || size_bytes;
	return false;
}

/* What is kept for the next round goes before anybody is told that memory is low. */
static void kept_runs_go_first(struct test *t)
{
	enum { KEPT_OBJECTS = 512, KEPT_SIZE = 3000 };
	struct kheap_config config;
	struct kheap *heap;
	unsigned n_before = 0, n_after = 0;

	TRY(test_source(t, 3 * ARENA));
	config = test_source_config(t);
	config.on_low_memory = note_asked;
	heap = test_heap_in(t, NULL, 0, &config);
	TRY(heap != NULL);
	for (unsigned i = 0; i < KEPT_OBJECTS; i++)
		CHECK(t, kheap_alloc(heap, KEPT_SIZE, 0) != NULL, "%d bytes were refused", KEPT_SIZE);
	for (unsigned round = 0; round < 16; round++)
		CHECK(t, double_vectors(heap, DOUBLING / 2), "a vector did not become longer");
	t->source.refuse_all = true;
	for (was_asked = false; kheap_alloc(heap, 700, 0) != NULL; n_after += was_asked)
		n_before += !was_asked;
	CHECK(t, n_before > n_after, "on_low_memory was asked after %u objects, and there was room for %u more",
	      n_before, n_after);
}

static const struct test_case cases[] = {
	{ "a double free, and any other misuse, of a run that is free for its CPU is reported",
	  misuse_of_cached_runs_shows },
	{ "pointers into a live run are refused", misuse_of_live_runs_shows },
	{ "statistics and the walk take cached runs for free", cached_runs_are_free_for_those_who_look },
	{ "cached runs are given back when the heap needs them, is left or trimmed",
	  cached_runs_are_there_when_they_are_needed },
	{ "a lone pair of 1, 2, 4 or 8 pages stays in the cache", a_lone_pair_stays_in_the_cache },
	{ "a kcache that may not grow is given cached runs", a_kcache_gets_cached_runs },
	{ "what is written in a run does not keep it from its cache", an_old_key_is_no_matter },
	{ "vectors that double in turn soon stay in the caches", vectors_stay_in_caches },
	{ "what is kept for such vectors goes before memory is low", kept_runs_go_first },
	{ "a power of two is never laid into a run that is not aligned to it", only_aligned_runs_are_cached },
};

TEST_GROUP(runs, cases);
