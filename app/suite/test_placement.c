/* SPDX-License-Identifier: MIT */
/*
 * Placement and accounting of page runs, by a known answer: what Robson's
 * adversary makes any allocator use is known exactly (robson.h). More than that
 * is bad placement or missing merges; less is bad accounting, or a bad
 * adversary.
 */
#include "robson.h"
#include "selftest.h"

#define MAX_LIVE 256
#define ARENA_PAGES ((size_t)1400)

static struct robson_block blocks[MAX_LIVE];

static bool alloc_pages(void *ctx, size_t n_units, uintptr_t *place)
{
	void *pages = kpages_alloc(ctx, n_units, KMALLOC_PAGE_SIZE, UINTPTR_MAX, 0);

	*place = (uintptr_t)pages / KMALLOC_PAGE_SIZE;
	return pages != NULL;
}

static void free_pages(void *ctx, uintptr_t place)
{
	kpages_free(ctx, (void *)(place * KMALLOC_PAGE_SIZE));
}

static bool adversary_meets(struct test *t, unsigned n_doublings)
{
	struct kheap *heap = test_heap(t, ARENA_PAGES * KMALLOC_PAGE_SIZE);
	struct robson robson = { .ctx = heap,
		                 .alloc = alloc_pages,
		                 .free = free_pages,
		                 .max_live = MAX_LIVE,
		                 .n_doublings = n_doublings,
		                 .blocks = blocks };
	size_t least = robson_least(MAX_LIVE, n_doublings), most = robson_most(MAX_LIVE, n_doublings), used;
	struct kheap_stats before, during, after;

	if (heap == NULL)
		return false;
	REQUIRE(t, robson_settle(&robson), "an empty heap has no room for a page");
	kheap_get_stats(heap, &before);
	REQUIRE(t, robson_run(&robson), "%zu pages had no room for the adversary, which needs %zu", ARENA_PAGES, most);
	used = robson.highest - robson.lowest;
	kheap_get_stats(heap, &during);
	REQUIRE(t, used <= most,
	        "blocks up to %u pages made the heap use %zu pages, a perfect one "
	        "%zu at most",
	        1u << n_doublings, used, most);
	REQUIRE(t, used >= least,
	        "blocks up to %u pages: %zu pages were used, fewer than the %zu that "
	        "are possible",
	        1u << n_doublings, used, least);
	REQUIRE(t, during.live_bytes - before.live_bytes == robson.live * KMALLOC_PAGE_SIZE,
	        "%zu pages are live, and the heap counts %zu bytes", robson.live,
	        during.live_bytes - before.live_bytes);
	test_note(t, "%zu pages used for %u live, %zu at least and %zu at most", used, MAX_LIVE, least, most);
	robson_clear(&robson);
	kheap_get_stats(heap, &after);
	REQUIRE(t,
	        after.live_bytes == before.live_bytes && after.n_free_ranges == before.n_free_ranges &&
	                after.largest_free_bytes == before.largest_free_bytes,
	        "after all was freed the heap is not as it was: %zu free ranges, "
	        "largest %zu bytes; before %zu and %zu",
	        after.n_free_ranges, after.largest_free_bytes, before.n_free_ranges, before.largest_free_bytes);
	return test_end_heap(t, heap);
}

static void small_runs_meet(struct test *t)
{
	TRY(adversary_meets(t, 2));
}

static void medium_runs_meet(struct test *t)
{
	TRY(adversary_meets(t, 4));
}

static void large_runs_meet(struct test *t)
{
	TRY(adversary_meets(t, 6));
}

static const struct test_case cases[] = {
	{ "Robson's adversary with runs of 1 to 4 pages gets what theory says", small_runs_meet },
	{ "Robson's adversary with runs of 1 to 16 pages gets what theory says", medium_runs_meet },
	{ "Robson's adversary with runs of 1 to 64 pages gets what theory says", large_runs_meet },
};

TEST_GROUP(placement, cases);
