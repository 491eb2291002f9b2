/* SPDX-License-Identifier: MIT */
/*
 * Whole pages: contiguous, aligned, below a limit, and free()d like any object.
 */
#include "selftest.h"

#define PAGE KMALLOC_PAGE_SIZE
#define ARENA ((size_t)4 << 20)

static void pages_are_whole_and_aligned(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);

	TRY(heap != NULL);
	for (size_t n_pages = 1; n_pages <= 200; n_pages += n_pages < 20 ? 1 : 37) {
		for (size_t alignment = PAGE; alignment <= (size_t)1 << 20; alignment *= 2) {
			void *pages = kpages_alloc(heap, n_pages, alignment, UINTPTR_MAX, 0);

			CHECK(t, pages != NULL && is_aligned(pages, alignment), "%zu pages aligned to %zu are at %p",
			      n_pages, alignment, pages);
			CHECK(t, kheap_usable_size(heap, pages) >= n_pages * PAGE, "%zu pages have %zu usable bytes",
			      n_pages, kheap_usable_size(heap, pages));
			test_fill(pages, n_pages * PAGE, n_pages);
			TRY(test_filled(t, pages, n_pages * PAGE, n_pages, "a page run"));
			kpages_free(heap, pages);
		}
	}
}

static void runs_do_not_overlap(struct test *t)
{
	enum { N = 120 };
	struct kheap *heap = test_heap(t, ARENA);
	void *runs[N];

	TRY(heap != NULL);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < N; i++) {
			runs[i] = kpages_alloc(heap, 1 + i % 9, PAGE, UINTPTR_MAX, 0);
			CHECK(t, runs[i] != NULL, "run %u of %u pages was refused", i, 1 + i % 9);
			test_fill(runs[i], (1 + i % 9) * PAGE, i);
		}
		for (unsigned i = 0; i < N; i++) {
			/* Every second one first, so that runs are merged and split. */
			unsigned j = i < N / 2 ? 2 * i : 2 * (i - N / 2) + 1;

			TRY(test_filled(t, runs[j], (1 + j % 9) * PAGE, j, "a page run"));
			if (j % 3 == 0)
				kheap_free(heap, runs[j]);
			else
				kpages_free(heap, runs[j]);
		}
	}
}

static void zero_and_huge_are_defined(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	struct kheap_stats before;
	void *run;

	TRY(heap != NULL);
	run = kpages_alloc(heap, 1, PAGE, UINTPTR_MAX, 0);
	kheap_get_stats(heap, &before);
	CHECK(t, kpages_alloc(heap, 0, 0, UINTPTR_MAX, 0) == NULL, "an alignment of 0 was accepted");
	CHECK(t, kpages_alloc(heap, SIZE_MAX, PAGE, UINTPTR_MAX, 0) == NULL, "SIZE_MAX pages were given");
	CHECK(t, kpages_alloc(heap, SIZE_MAX / PAGE + 2, PAGE, UINTPTR_MAX, 0) == NULL,
	      "pages that wrap to one were given");
	CHECK(t, kpages_alloc(heap, (size_t)PTRDIFF_MAX / PAGE + 1, PAGE, UINTPTR_MAX, 0) == NULL,
	      "PTRDIFF_MAX in pages was given");
	CHECK(t, kpages_alloc(heap, ARENA / PAGE, PAGE, UINTPTR_MAX, 0) == NULL,
	      "as many pages as the whole heap has were given");
	CHECK(t, kpages_alloc(heap, 1, SIZE_MAX / 2 + 1, UINTPTR_MAX, 0) == NULL, "a page aligned to 2^63 was given");
	TRY(test_same(t, heap, &before, "refused pages"));
	kpages_free(heap, NULL);
	kpages_free(heap, run);
}

static void zeroed_pages_are_zero(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	void *run;

	TRY(heap != NULL);
	run = kpages_alloc(heap, 50, PAGE, UINTPTR_MAX, 0);
	CHECK(t, run != NULL, "50 pages were refused");
	test_fill(run, 50 * PAGE, 1);
	kpages_free(heap, run);
	run = kpages_alloc(heap, 50, PAGE, UINTPTR_MAX, KMALLOC_ZERO);
	CHECK(t, run != NULL && test_is_zero(run, 50 * PAGE), "50 pages with KMALLOC_ZERO are not zero");
	kpages_free(heap, run);
}

static void address_limit_is_kept(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	struct kpage_chunk region = { 0 };
	uintptr_t middle;
	unsigned below = 0;
	void *run;

	TRY(heap != NULL);
	CHECK(t, kheap_region(heap, 0, &region), "the heap has no region");
	middle = region.base + region.n_pages / 2 * PAGE;
	CHECK(t, kpages_alloc(heap, 1, PAGE, region.base + PAGE - 2, 0) == NULL,
	      "a page below the heap's first was given");
	while ((run = kpages_alloc(heap, 3, PAGE, middle - 1, KMALLOC_NO_GROW)) != NULL) {
		CHECK(t, (uintptr_t)run + 3 * PAGE <= middle, "3 pages at %p reach past the limit 0x%zx", run,
		      (size_t)middle);
		below++;
	}
	CHECK(t, below >= region.n_pages / 2 / 3 - 8, "only %u runs of 3 pages were found in %zu pages below the limit",
	      below, region.n_pages / 2);
	run = kpages_alloc(heap, 3, PAGE, UINTPTR_MAX, 0);
	CHECK(t, run != NULL && (uintptr_t)run + 3 * PAGE > middle,
	      "3 pages anywhere are %p with all below 0x%zx in use", run, (size_t)middle);
	test_note(t, "%u runs of 3 pages in the lower half", below);
}

/* One region below 4 GiB and, where the machine has it, one above. */
static void below_4g_is_below(struct test *t)
{
	struct kheap_config config = test_config(t);
	uint8_t *high = test_arena(t, ARENA / 4), *low = test_arena_below(t, ARENA / 4, UINT32_MAX);
	struct kheap *heap;
	void *object;

	TRY(high != NULL && low != NULL);
	heap = test_heap_in(t, high, ARENA / 4, &config);
	TRY(heap != NULL);
	if ((uintptr_t)high > UINT32_MAX)
		CHECK(t,
		      kheap_alloc(heap, 100, KMALLOC_BELOW_4G) == NULL &&
		              kpages_alloc(heap, 1, PAGE, UINT32_MAX, 0) == NULL,
		      "memory below 4 GiB was given by a heap that has none");
	CHECK(t, kheap_add_region(heap, low, ARENA / 4), "a region below 4 GiB was refused");
	for (size_t size = 1; size < 200000; size = size * 2 + 1) {
		object = kheap_alloc(heap, size, KMALLOC_BELOW_4G | KMALLOC_ZERO);
		CHECK(t, object != NULL && (uintptr_t)object + size - 1 <= UINT32_MAX && test_is_zero(object, size),
		      "%zu bytes below 4 GiB are at %p", size, object);
		kheap_free(heap, object);
	}
	object = kpages_alloc(heap, 10, 8 * PAGE, UINT32_MAX, 0);
	CHECK(t, object != NULL && (uintptr_t)object + 10 * PAGE - 1 <= UINT32_MAX && is_aligned(object, 8 * PAGE),
	      "10 pages below 4 GiB are at %p", object);
	kpages_free(heap, object);
	if ((uintptr_t)high <= UINT32_MAX)
		test_note(t, "all memory of this machine is below 4 GiB");
}

/* Pages that were never in use are not made zero where the source said that they are, and all others are. */
static void fresh_pages_are_told(struct test *t)
{
	enum { SIZE = 200000, SMALL = 3000, N = 400 };
	static void *small[N];
	struct kheap *heap;
	size_t n_used = SIZE_MAX;
	uint8_t *object;

	TRY(test_source(t, ARENA));
	t->source.gives_zeros = true;
	TRY(test_heap_on_source(t, &heap));
	object = kheap_alloc_told(heap, SIZE, KMALLOC_ALIGNMENT, &n_used);
	CHECK(t, object != NULL && n_used == 0 && test_is_zero(object, SIZE),
	      "of fresh pages, %p, %zu bytes are not known to be zero", (void *)object, n_used);
	for (unsigned round = 0; round < 20; round++) {
		/* Now from its end, now not, so that chunks go back and come again. */
		test_fill(object, SIZE, round);
		kheap_free(heap, object);
		for (unsigned i = 0; i < round * 20; i++) {
			small[i] = kheap_alloc(heap, SMALL, 0);
			CHECK(t, small[i] != NULL, "%d bytes were refused", SMALL);
			test_fill(small[i], SMALL, i);
		}
		for (unsigned i = 0; i < round * 20; i++)
			kheap_free(heap, small[i]);
		if (round % 4 == 3)
			kheap_trim(heap);
		object = kheap_alloc(heap, SIZE, KMALLOC_ZERO);
		CHECK(t, object != NULL && test_is_zero(object, SIZE), "what is to be zero is not, or %p",
		      (void *)object);
		test_fill(object, SIZE, round);
		kheap_free(heap, object);
		object = kheap_alloc_told(heap, SIZE, KMALLOC_ALIGNMENT, &n_used);
		CHECK(t, object != NULL && (n_used >= SIZE || test_is_zero(object + n_used, SIZE - n_used)),
		      "what is said to be zero is not");
	}
	kheap_free(heap, object);
	TRY(test_end_heap(t, heap));
}

#define N_TOLD 24

static enum kheap_giving make_zero(void *ctx, const struct kheap_range *range)
{
	/* Some stay as they are, and in the hardened builds all hold poison. */
	if (range->base / PAGE % 4 == 0)
		return KHEAP_STAYS;
	*(size_t *)ctx += range->size_bytes;
	if (!test_is_hardened())
		__builtin_memset((void *)range->base, 0, range->size_bytes);
	return KHEAP_GIVEN_UP;
}

/* One object more, of which all that is told to be zero is. */
static bool take_told(struct test *t, struct kheap *heap, uint8_t **object, size_t size, size_t *n_told)
{
	size_t n_used, usable;

	*object = kheap_alloc_told(heap, size, KMALLOC_ALIGNMENT, &n_used);
	if (*object == NULL)
		return true;
	usable = kheap_usable_size(heap, *object);
	if (n_used < usable) {
		REQUIRE(t, test_is_zero(*object + n_used, usable - n_used),
		        "of %zu bytes at %p not all behind %zu are zero", size, (void *)*object, n_used);
		*n_told += usable - n_used;
	}
	test_fill(*object, usable, 1);
	return true;
}

static void release_told(struct kheap *heap, uint8_t **object, bool is_given_up)
{
	/* Of a block it is to do nothing. */
	if (*object != NULL && is_given_up) {
		__builtin_memset(*object, 0, kheap_usable_size(heap, *object));
		kheap_note_given_up(heap, *object);
	}
	kheap_free(heap, *object);
	*object = NULL;
}

/* Whatever comes and goes, and is given up meanwhile. */
static void what_is_told_is_zero(struct test *t)
{
	enum { STEPS = 4000, MOST = 400000 };
	static uint8_t *objects[N_TOLD];
	size_t n_told = 0, n_given_up = 0;
	struct random random;
	struct kheap *heap;

	TRY(test_source(t, ARENA));
	t->source.gives_zeros = true;
	TRY(test_heap_on_source(t, &heap));
	random_seed(&random, t->options->seed);
	for (unsigned i = 0; i < STEPS; i++) {
		unsigned k = random_below(&random, N_TOLD), what = random_below(&random, 16);

		release_told(heap, &objects[k], what % 2 == 0);
		TRY(take_told(t, heap, &objects[k], random_size(&random, 1000, MOST), &n_told));
		if (what == 1)
			(void)kheap_give_up_pages(heap, PAGE, 4, make_zero, &n_given_up);
		else if (what == 2)
			(void)kheap_trim(heap);
	}
	for (unsigned k = 0; k < N_TOLD; k++)
		release_told(heap, &objects[k], false);
	CHECK(t, n_told > 0, "nothing was told to be zero");
	CHECK(t, test_is_hardened() || (n_given_up > 0 && n_told > n_given_up / 4),
	      "%zu bytes were given up, but %zu told to be zero", n_given_up, n_told);
	test_note(t, "%zu MiB told, %zu MiB given up", n_told >> 20, n_given_up >> 20);
	TRY(test_end_heap(t, heap));
}

/* A buffer that was given up comes back as zeros, though what lies in front of it was used. */
static void what_was_given_up_is_told(struct test *t)
{
	enum { SIZE = 300000, N = 4 };
	uint8_t *objects[N], *front;
	size_t n_used = SIZE_MAX;
	struct kheap *heap;

	if (test_is_hardened()) {
		test_skip(t, "in the hardened builds free pages hold poison");
		return;
	}
	TRY(test_source(t, ARENA));
	t->source.gives_zeros = true;
	TRY(test_heap_on_source(t, &heap));
	front = kpages_alloc(heap, 4, PAGE, UINTPTR_MAX, 0);
	CHECK(t, front != NULL, "4 pages were refused");
	for (unsigned i = 0; i < N; i++)
		CHECK(t, (objects[i] = kheap_alloc(heap, SIZE, 0)) != NULL, "%d bytes were refused", SIZE);
	test_fill(front, 4 * PAGE, 1);
	kpages_free(heap, front);
	for (unsigned i = 0; i < N; i++) {
		test_fill(objects[i], SIZE, i);
		release_told(heap, &objects[i], true);
	}
	objects[0] = kheap_alloc_told(heap, SIZE, KMALLOC_ALIGNMENT, &n_used);
	CHECK(t, objects[0] != NULL && n_used <= 4 * PAGE && test_is_zero(objects[0] + n_used, SIZE - n_used),
	      "of %d bytes that were given up %zu are not known to be zero", SIZE, n_used);
	kheap_free(heap, objects[0]);
	TRY(test_end_heap(t, heap));
}

static void used_pages_are_not_told(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	size_t n_used = 0;
	void *pages;

	TRY(heap != NULL);
	CHECK(t, kheap_alloc_told(heap, 300000, KMALLOC_ALIGNMENT, &n_used) != NULL && n_used >= 300000,
	      "pages that nobody said anything about are said to be zero");
	pages = kpages_alloc(heap, 50, PAGE, UINTPTR_MAX, KMALLOC_ZERO);
	CHECK(t, pages != NULL && test_is_zero(pages, 50 * PAGE), "pages that are to be zero are not");
	CHECK(t, kheap_alloc_told(heap, SIZE_MAX, KMALLOC_ALIGNMENT, &n_used) == NULL && n_used == SIZE_MAX,
	      "all memory there can be is zero");
}

static const struct test_case cases[] = {
	{ "page runs are whole, contiguous and aligned", pages_are_whole_and_aligned },
	{ "page runs do not overlap, merge and are found again", runs_do_not_overlap },
	{ "page counts and alignments that cannot be give NULL and change nothing", zero_and_huge_are_defined },
	{ "zeroed pages are zero", zeroed_pages_are_zero },
	{ "no page lies above the limit that was asked for", address_limit_is_kept },
	{ "memory below 4 GiB is below 4 GiB", below_4g_is_below },
	{ "fresh pages are zero where the source says so, and used ones are made zero", fresh_pages_are_told },
	{ "what is told to be zero is", what_is_told_is_zero },
	{ "what was given up is told to be zero", what_was_given_up_is_told },
	{ "pages of which nothing is known are not said to be zero", used_pages_are_not_told },
};
TEST_GROUP(pages, cases);
