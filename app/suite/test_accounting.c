/* SPDX-License-Identifier: MIT */
/*
 * The heap's figures against a naive model that the test keeps: what is live, what was the most, how much is held,
 * where it lies.
 */
#include "selftest.h"

#define ARENA ((size_t)4 << 20)
#define SLOTS 400
#define STEPS 20000
/* A CPU that works alone may keep so much of the heap in large objects; of small ones there are few in this work. */
#define CACHED_SHARE 2

struct entry {
	void *object;
	size_t usable;
};

/* What the heap should say. */
static struct model {
	struct entry entries[SLOTS];
	size_t live_bytes, live_objects;
	size_t peak_least, peak_most; /* a resize may hold both objects for a moment */
	uint64_t n_allocs, n_frees, n_failures;
} model;

static void model_peak(size_t for_a_moment)
{
	if (model.live_bytes > model.peak_least)
		model.peak_least = model.live_bytes;
	if (model.live_bytes + for_a_moment > model.peak_most)
		model.peak_most = model.live_bytes + for_a_moment;
}

static void model_add(struct kheap *heap, struct entry *entry, void *object)
{
	if (object == NULL) {
		model.n_failures++;
		return;
	}
	entry->object = object;
	entry->usable = kheap_usable_size(heap, object);
	model.live_bytes += entry->usable;
	model.live_objects++;
	model.n_allocs++;
	model_peak(0);
}

static void model_remove(struct entry *entry)
{
	model.live_bytes -= entry->usable;
	model.live_objects--;
	model.n_frees++;
	entry->object = NULL;
}

static bool agrees(struct test *t, struct kheap *heap)
{
	struct kheap_stats stats;

	kheap_get_stats(heap, &stats);
	REQUIRE(t, stats.live_bytes == model.live_bytes && stats.live_objects == model.live_objects,
	        "the heap says %zu bytes in %zu objects are live, the model %zu in %zu", stats.live_bytes,
	        stats.live_objects, model.live_bytes, model.live_objects);
	/* What lay in CPU caches is counted in the peak. */
	size_t cached_most = test_is_hardened() ? 0 : stats.peak_footprint_bytes / CACHED_SHARE;

	REQUIRE(t, stats.peak_live_bytes >= model.peak_least && stats.peak_live_bytes <= model.peak_most + cached_most,
	        "the heap says the peak was %zu bytes, the model %zu to %zu", stats.peak_live_bytes, model.peak_least,
	        model.peak_most);
	/* Chunks that lie together may be one region. */
	REQUIRE(t,
	        stats.footprint_bytes == t->source.given_pages * KMALLOC_PAGE_SIZE &&
	                stats.n_regions <= t->source.n_given,
	        "the heap says it holds %zu bytes in %zu regions, the source gave %zu in %u", stats.footprint_bytes,
	        stats.n_regions, t->source.given_pages * KMALLOC_PAGE_SIZE, t->source.n_given);
	REQUIRE(t, stats.peak_footprint_bytes == t->source.peak_given_pages * KMALLOC_PAGE_SIZE,
	        "the heap says the most it held was %zu bytes, the source gave %zu", stats.peak_footprint_bytes,
	        t->source.peak_given_pages * KMALLOC_PAGE_SIZE);
	REQUIRE(t, stats.n_allocs - stats.n_frees == stats.live_objects,
	        "%llu allocations and %llu frees leave %zu objects", (unsigned long long)stats.n_allocs,
	        (unsigned long long)stats.n_frees, stats.live_objects);
	REQUIRE(t,
	        stats.n_grown - stats.n_shrunk + 1 == t->source.n_given ||
	                stats.n_grown - stats.n_shrunk == t->source.n_given,
	        "%llu chunks got and %llu put back are counted, %u are given", (unsigned long long)stats.n_grown,
	        (unsigned long long)stats.n_shrunk, t->source.n_given);
	REQUIRE(t, stats.live_bytes + stats.free_bytes + stats.overhead_bytes <= stats.footprint_bytes,
	        "%zu live, %zu free and %zu overhead bytes are more than the footprint of %zu", stats.live_bytes,
	        stats.free_bytes, stats.overhead_bytes, stats.footprint_bytes);
	REQUIRE(t, stats.largest_free_bytes <= stats.free_bytes && stats.fragmentation_permille <= 1000,
	        "the largest free range is %zu of %zu bytes, the fragmentation %u", stats.largest_free_bytes,
	        stats.free_bytes, stats.fragmentation_permille);
	REQUIRE(t, stats.min_free_bytes <= stats.footprint_bytes - stats.overhead_bytes - stats.live_bytes,
	        "min_free_bytes is %zu, more than is free now", stats.min_free_bytes);
	return true;
}

static void *allocate(struct kheap *heap, struct random *random)
{
	size_t size = random_size(random, 1, 20000);

	switch (random_below(random, 5)) {
	case 0:
		return kheap_calloc(heap, 1, size);
	case 1:
		return kheap_alloc_aligned(heap, size, (size_t)16 << random_below(random, 6), 0);
	case 2:
		return kheap_alloc_at_least(heap, size, 0).object;
	case 3:
		return kpages_alloc(heap, 1 + size / KMALLOC_PAGE_SIZE, KMALLOC_PAGE_SIZE, UINTPTR_MAX, 0);
	default:
		return kheap_alloc(heap, size, 0);
	}
}

static void resize(struct kheap *heap, struct random *random, struct entry *entry)
{
	size_t size = random_size(random, 1, 20000);
	void *object = kheap_realloc(heap, entry->object, size);
	size_t before = entry->usable;

	if (object == NULL) {
		model.n_failures++;
		return;
	}
	entry->object = object;
	entry->usable = kheap_usable_size(heap, object);
	model.live_bytes += entry->usable - before;
	/* Both may have been live. */
	model_peak(before);
}

static void step(struct kheap *heap, struct random *random, bool with_resize)
{
	struct entry *entry = &model.entries[random_below(random, SLOTS)];

	if (entry->object == NULL) {
		model_add(heap, entry, allocate(heap, random));
	} else if (with_resize && random_below(random, 3) == 0) {
		resize(heap, random, entry);
	} else {
		kheap_free(heap, entry->object);
		model_remove(entry);
	}
}

/* Random work in a heap that grows and shrinks; the model is asked after every few steps. Leaves the objects live. */
static struct kheap *random_work(struct test *t, bool with_resize)
{
	struct random random;
	struct kheap *heap;

	if (!test_source(t, ARENA) || !test_heap_on_source(t, &heap))
		return NULL;
	model = (struct model){ 0 };
	random_seed(&random, t->options->seed);
	for (unsigned i = 0; i < STEPS; i++) {
		step(heap, &random, with_resize);
		if (i % 16 == 0 && !agrees(t, heap))
			return NULL;
	}
	return agrees(t, heap) ? heap : NULL;
}

static void free_all(struct kheap *heap)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		if (model.entries[i].object == NULL)
			continue;
		kheap_free(heap, model.entries[i].object);
		model_remove(&model.entries[i]);
	}
}

static void figures_match_the_model(struct test *t)
{
	struct kheap *heap = random_work(t, false);
	struct kheap_stats stats;

	TRY(heap != NULL);
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.peak_live_bytes == model.peak_least || !test_is_hardened(),
	      "without resizing and caches the peak is exact: %zu bytes, the heap says %zu", model.peak_least,
	      stats.peak_live_bytes);
	CHECK(t,
	      /* CPU caches hand objects out again without counting. */
	      (!test_is_hardened() || (stats.n_allocs == model.n_allocs && stats.n_frees == model.n_frees)) &&
	              stats.n_failures == model.n_failures,
	      "%llu allocations, %llu frees and %llu failures were made; the heap says %llu, %llu and %llu",
	      (unsigned long long)model.n_allocs, (unsigned long long)model.n_frees,
	      (unsigned long long)model.n_failures, (unsigned long long)stats.n_allocs,
	      (unsigned long long)stats.n_frees, (unsigned long long)stats.n_failures);
	free_all(heap);
	TRY(agrees(t, heap));
}

static void figures_match_with_resizes(struct test *t)
{
	struct kheap *heap = random_work(t, true);

	TRY(heap != NULL);
	free_all(heap);
	TRY(agrees(t, heap));
}

/* ------------------------------------------------------------------------------------------------------------
 * Every range
 * --------------------------------------------------------------------------------------------------------- */

struct walked {
	size_t n_live, live_bytes, n_free, free_bytes, n_free_runs, free_run_bytes, n_unknown, n_overlapping;
	struct kheap_range last;
};

static bool add_range(void *ctx, const struct kheap_range *range)
{
	struct walked *walked = ctx;

	/* Within a region the ranges come in address order; the next region may lie below. */
	walked->n_overlapping +=
		range->base >= walked->last.base && range->base - walked->last.base < walked->last.size_bytes;
	walked->last = *range;
	if (range->kind == KHEAP_OVERHEAD)
		return true;
	if (range->is_live) {
		walked->n_live++;
		walked->live_bytes += range->size_bytes;
	} else {
		walked->n_free++;
		walked->free_bytes += range->size_bytes;
		walked->n_free_runs += range->kind == KHEAP_PAGE_RUN;
		walked->free_run_bytes += range->kind == KHEAP_PAGE_RUN ? range->size_bytes : 0;
	}
	walked->n_unknown += range->kind == KHEAP_NOT_OURS;
	return true;
}

static bool stop_at_third(void *ctx, const struct kheap_range *range)
{
	unsigned *n = ctx;

	(void)range;
	return ++*n < 3;
}

/* The shortest run that is free. */
static bool note_shortest(void *ctx, const struct kheap_range *range)
{
	size_t *shortest = ctx;

	if (range->kind == KHEAP_PAGE_RUN && !range->is_live && range->size_bytes < *shortest)
		*shortest = range->size_bytes;
	return true;
}

struct given_up {
	unsigned n_told, refused; /* the one with this number is refused, from 1 on; 0: none is */
	size_t n_runs, n_bytes;
};

static enum kheap_giving take_run(void *ctx, const struct kheap_range *range)
{
	struct given_up *given_up = ctx;

	if (++given_up->n_told == given_up->refused)
		return KHEAP_STOP;
	given_up->n_runs += range->kind == KHEAP_PAGE_RUN && !range->is_live;
	given_up->n_bytes += range->size_bytes;
	return KHEAP_STAYS;
}

/* Free page runs are given up once each as they are, the short ones not, and again when they are others. */
static void free_pages_are_given_up(struct test *t, struct kheap *heap, const struct walked *whole)
{
	struct given_up all = { .refused = 3 };
	size_t n_runs = whole->n_free_runs, shortest = SIZE_MAX, n, before;
	void *run;

	CHECK(t, n_runs > 0, "no pages are free");
	kheap_walk(heap, note_shortest, &shortest);
	n = kheap_give_up_pages(heap, 0, SIZE_MAX, take_run, &all);
	CHECK(t, all.n_told == (n_runs < 3 ? n_runs : 3) && n == (n_runs < 3 ? n_runs : 2),
	      "of %zu free runs %u were told of and %zu given up; the third was refused", n_runs, all.n_told, n);
	all.refused = 0;
	before = all.n_bytes;
	n = kheap_give_up_pages(heap, shortest + 1, 1, take_run, &all);
	CHECK(t, n <= 1 && (n == 0 || all.n_bytes - before > shortest),
	      "%zu runs of %zu bytes were given up, and at most one of more than %zu was to be", n,
	      all.n_bytes - before, shortest);
	(void)kheap_give_up_pages(heap, 0, SIZE_MAX, take_run, &all);
	CHECK(t, all.n_runs == n_runs && all.n_bytes == whole->free_run_bytes,
	      "kheap_walk saw %zu free page runs of %zu bytes, kheap_give_up_pages %zu of %zu", n_runs,
	      whole->free_run_bytes, all.n_runs, all.n_bytes);
	n = kheap_give_up_pages(heap, 0, SIZE_MAX, take_run, &all);
	CHECK(t, n == 0, "%zu runs were given up a second time", n);
	run = kpages_alloc(heap, 1, 1, UINTPTR_MAX, KMALLOC_NO_GROW);
	CHECK(t, run != NULL, "no page is to be had of %zu free runs", n_runs);
	kpages_free(heap, run);
	n = kheap_give_up_pages(heap, 0, SIZE_MAX, take_run, &all);
	CHECK(t, n == 1, "after a page was taken and freed, %zu runs were given up", n);
}

/* The short ways to the free pages, which a host takes that gives them back, find what the whole walk found. */
static void free_pages_agree(struct test *t, struct kheap *heap, const struct walked *whole)
{
	struct kheap_glance glance = kheap_get_glance(heap);
	struct kheap_stats stats;

	kheap_get_stats(heap, &stats);
	CHECK(t, glance.free_page_bytes == whole->free_run_bytes && glance.footprint_bytes == stats.footprint_bytes,
	      "%zu of %zu bytes are in free page runs, kheap_glance says %zu of %zu", whole->free_run_bytes,
	      stats.footprint_bytes, glance.free_page_bytes, glance.footprint_bytes);
	CHECK(t, glance.n_operations > 0 && glance.n_operations <= stats.n_allocs + stats.n_frees,
	      "kheap_glance says %llu operations, kheap_stats %llu", (unsigned long long)glance.n_operations,
	      (unsigned long long)(stats.n_allocs + stats.n_frees));
	free_pages_are_given_up(t, heap, whole);
}

static void walk_sees_everything(struct test *t)
{
	struct walked walked = { 0 };
	struct kheap *heap = random_work(t, true);
	struct kheap_stats stats;
	unsigned n = 0;

	TRY(heap != NULL);
	kheap_get_stats(heap, &stats);
	kheap_walk(heap, add_range, &walked);
	CHECK(t, walked.n_live == model.live_objects && walked.live_bytes == model.live_bytes,
	      "kheap_walk saw %zu live bytes in %zu objects, the model has %zu in %zu", walked.live_bytes,
	      walked.n_live, model.live_bytes, model.live_objects);
	/* A free range is what may be used of it: without the header that it has or will have. */
	CHECK(t, walked.free_bytes <= stats.free_bytes && walked.free_bytes + 16 * walked.n_free >= stats.free_bytes,
	      "kheap_walk saw %zu free bytes, kheap_stats says %zu", walked.free_bytes, stats.free_bytes);
	CHECK(t, walked.n_unknown == 0, "kheap_walk saw %zu ranges that are not the heap's", walked.n_unknown);
	CHECK(t, walked.n_overlapping == 0, "kheap_walk saw %zu ranges that overlap the one before",
	      walked.n_overlapping);
	kheap_walk(heap, stop_at_third, &n);
	CHECK(t, n == 3, "kheap_walk was told to stop after 3 ranges and went on to %u", n);
	free_pages_agree(t, heap, &walked);
	free_all(heap);
}

/* The same in one region that is too large for descriptors and objects to share a page. */
static void walk_sees_a_large_region(struct test *t)
{
	struct walked walked = { 0 };
	struct kheap *heap = test_heap(t, ARENA);
	struct kheap_stats stats;

	TRY(heap != NULL);
	for (unsigned i = 0; i < 200; i++)
		CHECK(t, kheap_alloc(heap, 1 + i * 97, 0) != NULL, "%u bytes were refused", 1 + i * 97);
	kheap_get_stats(heap, &stats);
	kheap_walk(heap, add_range, &walked);
	CHECK(t, walked.n_live == 200 && walked.live_bytes == stats.live_bytes,
	      "kheap_walk saw %zu bytes in %zu objects, kheap_stats says %zu in 200", walked.live_bytes, walked.n_live,
	      stats.live_bytes);
	CHECK(t, walked.free_bytes <= stats.free_bytes && walked.free_bytes + 16 * walked.n_free >= stats.free_bytes,
	      "kheap_walk saw %zu free bytes, kheap_stats says %zu", walked.free_bytes, stats.free_bytes);
}

static void owner_is_known(struct test *t)
{
	struct kheap *heap = random_work(t, true);
	uint8_t on_stack[32];
	struct kheap_range range;

	TRY(heap != NULL);
	for (unsigned i = 0; i < SLOTS; i++) {
		const struct entry *entry = &model.entries[i];
		const uint8_t *bytes = entry->object;

		if (bytes == NULL)
			continue;
		for (unsigned where = 0; where < 3; where++) {
			size_t offset = where == 0 ? 0 : where == 1 ? entry->usable / 2 : entry->usable - 1;

			range = kheap_owner(heap, bytes + offset);
			CHECK(t, range.is_live && range.base == (uintptr_t)bytes && range.size_bytes == entry->usable,
			      "byte %zu of the object of %zu bytes at %p belongs to %zu bytes at 0x%zx", offset,
			      entry->usable, (const void *)bytes, range.size_bytes, (size_t)range.base);
		}
		kheap_free(heap, entry->object);
		range = kheap_owner(heap, bytes);
		CHECK(t, !range.is_live, "an object that was freed is still live");
		model_remove(&model.entries[i]);
	}
	CHECK(t, kheap_owner(heap, on_stack).kind == KHEAP_NOT_OURS, "the stack belongs to the heap");
	CHECK(t, kheap_owner(heap, (void *)UINTPTR_MAX).kind == KHEAP_NOT_OURS, "the last address belongs to the heap");
	CHECK(t, kheap_owner(heap, heap).kind == KHEAP_OVERHEAD, "the heap's own data are not overhead");
}

/* ------------------------------------------------------------------------------------------------------------
 * Single figures
 * --------------------------------------------------------------------------------------------------------- */

static void fresh_heap_says_so(struct test *t)
{
	struct kheap *heap = test_heap(t, (size_t)1 << 20);
	struct kheap_stats stats;

	TRY(heap != NULL);
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.live_bytes == 0 && stats.live_objects == 0 && stats.peak_live_bytes == 0,
	      "something is live in a new heap");
	CHECK(t, stats.footprint_bytes == (size_t)1 << 20 && stats.n_regions == 1,
	      "1 MiB is a footprint of %zu bytes in %zu regions", stats.footprint_bytes, stats.n_regions);
	CHECK(t,
	      stats.free_bytes + stats.overhead_bytes <= stats.footprint_bytes &&
	              stats.free_bytes + stats.overhead_bytes + 2 * KMALLOC_PAGE_SIZE >= stats.footprint_bytes,
	      "of 1 MiB %zu bytes are free and %zu overhead", stats.free_bytes, stats.overhead_bytes);
	CHECK(t, stats.n_free_ranges <= 2 && stats.fragmentation_permille <= 50,
	      "a new heap is %zu ranges, fragmentation %u", stats.n_free_ranges, stats.fragmentation_permille);
	CHECK(t, stats.overhead_bytes <= stats.footprint_bytes / 40, "%zu of 1 MiB are overhead, more than 2.5 %%",
	      stats.overhead_bytes);
	CHECK(t, stats.n_allocs == 0 && stats.n_frees == 0 && stats.n_failures == 0 && stats.n_errors == 0,
	      "a new heap counts calls");
	test_note(t, "%zu bytes of 1 MiB are overhead", stats.overhead_bytes);
}

static void fragmentation_is_seen(struct test *t)
{
	enum { N = 100 };
	struct kheap *heap = test_heap(t, (size_t)1 << 20);
	struct kheap_stats whole, holes;
	void *objects[N];

	TRY(heap != NULL);
	for (unsigned i = 0; i < N; i++)
		objects[i] = kheap_alloc(heap, 9000, 0);
	kheap_get_stats(heap, &whole);
	for (unsigned i = 0; i < N; i += 2)
		kheap_free(heap, objects[i]);
	kheap_get_stats(heap, &holes);
	CHECK(t, holes.n_free_ranges >= whole.n_free_ranges + N / 2 - 2, "50 holes are %zu free ranges",
	      holes.n_free_ranges);
	CHECK(t, holes.fragmentation_permille >= 700, "50 equal holes are a fragmentation of %u permille",
	      holes.fragmentation_permille);
	for (unsigned i = 1; i < N; i += 2)
		kheap_free(heap, objects[i]);
}

static void failures_and_errors_count(struct test *t)
{
	struct kheap *heap = test_heap(t, (size_t)1 << 20);
	struct kheap_stats stats;
	uint64_t on_stack[4];
	void *object;

	TRY(heap != NULL);
	object = kheap_alloc(heap, 100, 0);
	CHECK(t, kheap_alloc(heap, (size_t)4 << 20, 0) == NULL && kheap_realloc(heap, object, (size_t)4 << 20) == NULL,
	      "4 MiB were found in 1 MiB");
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.n_failures == 2, "two failures were counted as %llu", (unsigned long long)stats.n_failures);
	kheap_free(heap, on_stack + 2);
	TRY(test_expect_error(t, KMALLOC_FOREIGN_POINTER, on_stack + 2));
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.n_errors == 1, "one misuse was counted as %llu", (unsigned long long)stats.n_errors);
	CHECK(t, stats.n_allocs == 1 && stats.n_frees == 0, "a refused free was counted");
	kheap_free(heap, object);
}

static const struct test_case cases[] = {
	{ "a new heap says that nothing is live and all is free", fresh_heap_says_so },
	{ "live bytes, objects, peaks, footprint and calls match a naive model", figures_match_the_model },
	{ "they match with resizes too", figures_match_with_resizes },
	{ "a walk sees every object and every free byte once", walk_sees_everything },
	{ "a walk sees everything in a large region", walk_sees_a_large_region },
	{ "the owner of any byte of any object is known", owner_is_known },
	{ "fragmentation is seen", fragmentation_is_seen },
	{ "failures and misuses are counted", failures_and_errors_count },
};
TEST_GROUP(accounting, cases);
