/* SPDX-License-Identifier: MIT */
/*
 * The commonest thing that a program does: one object comes and goes. It is to cost the same in every heap, so it must not leave the CPU's
 * cache, whatever the object's size, and however small or full the heap is.
 */
#include "selftest.h"

#include "inside.h"

#define SOURCE_BYTES ((size_t)12 << 20)
#define SMALL_ARENA ((size_t)64 << 10)
#define WARM_PAIRS 1000
#define PAIRS 10000
#define PAIRS_DOWN 100

/* Calls that the cache answers are not counted, so the count tells how often one went further. */
static void a_lone_pair_stays_in_the_cache(struct test *t)
{
	void *arena = test_arena(t, SMALL_ARENA);
	uint64_t most = 0;

	TRY(arena != NULL);
	if (HARDENED) {
		test_skip(t, "the hardened builds have no CPU caches");
		return;
	}
	for (size_t size = 1; size <= 256; size++) {
		struct kheap_config config = test_config(t);
		struct kheap *heap = test_heap_in(t, arena, SMALL_ARENA, &config);
		uint64_t n;

		TRY(heap != NULL);
		n = pairs_from_below(heap, size, WARM_PAIRS, PAIRS);
		CHECK(t, n < PAIRS_DOWN, "%u pairs of %zu bytes took %zu objects from below the cache", PAIRS, size,
		      (size_t)n);
		most = n > most ? n : most;
		TRY(test_end_heap(t, heap));
	}
	test_note(t, "%zu of %u at most were no pair of the cache", (size_t)most, PAIRS);
}

/* Objects of the same size on both sides of a hole. */
static bool neighbours(struct kheap *heap, size_t size)
{
	void *one = kheap_alloc(heap, size, 0), *hole = kheap_alloc(heap, size, 0), *other = kheap_alloc(heap, size, 0);

	kheap_free(heap, hole);
	return one && hole && other;
}

/* Small ones of all sizes, so that what stands in for slabs is spread over the heap. */
static bool crowd(struct kheap *heap, size_t size)
{
	enum { N = 300 };

	(void)size;
	for (size_t i = 0; i < N; i++) {
		if (!kheap_alloc(heap, 1 + i * 97 % 256, 0))
			return false;
	}
	return true;
}

/* Several times as many as a small heap holds, with holes. */
static bool population(struct kheap *heap, size_t size)
{
	enum { N = 3000, HOLES = 3 };
	void *objects[HOLES];

	(void)size;
	for (size_t i = 0; i < N; i++) {
		objects[i % HOLES] = kheap_alloc(heap, 1 + i * 613 % 4000, 0);
		if (!objects[i % HOLES])
			return false;
		if (i % HOLES == HOLES - 1)
			kheap_free(heap, objects[0]);
	}
	return true;
}

static bool nothing(struct kheap *heap, size_t size)
{
	(void)heap;
	(void)size;
	return true;
}

static void a_pair_of_any_size_in_any_heap(struct test *t)
{
	static const size_t sizes[] = { 16,   24,    40,    64,    100,   136,   200,   256,    272,   300,  400,
		                        512,  700,   1000,  1024,  1500,  2000,  2048,  3000,   4000,  4096, 5000,
		                        8192, 12000, 16384, 20000, 32768, 50000, 65536, 100000, 131072 };
	static const struct {
		const char *name;
		bool (*fill)(struct kheap *heap, size_t size);
	} states[] = { { "an empty heap", nothing },
		       { "a heap with neighbours", neighbours },
		       { "a heap of small objects", crowd },
		       { "a heap of all sizes", population } };

	if (HARDENED) {
		test_skip(t, "the hardened builds have no CPU caches");
		return;
	}
	TRY(test_source(t, SOURCE_BYTES));
	for (unsigned i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
		for (unsigned k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
			struct kheap *heap = NULL;
			uint64_t n;

			TRY(test_heap_on_source(t, &heap));
			CHECK(t, states[i].fill(heap, sizes[k]), "%s was refused memory", states[i].name);
			n = pairs_from_below(heap, sizes[k], WARM_PAIRS, PAIRS);
			CHECK(t, n < PAIRS_DOWN, "%u pairs of %zu bytes took %zu objects from below the cache of %s",
			      PAIRS, sizes[k], (size_t)n, states[i].name);
			TRY(test_sound(t, heap, states[i].name));
			kheap_destroy(heap);
			t->n_heaps = 0;
		}
	}
}

static void pairs(struct kheap *heap, size_t size, unsigned n)
{
	while (n--)
		kheap_free(heap, kheap_alloc(heap, size, 0));
}

/* What a CPU keeps nobody else can have: in a heap that cannot grow it is little, however its objects came and went. */
static void little_is_kept_where_others_miss_it(struct test *t)
{
	enum { ARENA = 256 << 10, ROUNDS = 20 };
	static const size_t sizes[] = { 131072, 60000, 32768, 4000, 3800, 3500, 3400, 3000 };
	struct kheap *heap = test_heap(t, ARENA);

	TRY(heap != NULL);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		pairs(heap, sizes[i], ROUNDS);
	/* What lies in caches counts as live here. */
	CHECK(t, KPORT_CPUS == 1 || heap->counters.live_bytes <= ARENA / 4,
	      "%zu bytes of a heap of %d are kept by one processor", heap->counters.live_bytes, ARENA);
	test_note(t, "%zu bytes of %d", heap->counters.live_bytes, ARENA);
	TRY(test_end_heap(t, heap));
}

/* Only who asks knows: so much is kept as in a heap that can grow. */
static bool refuse(void *ctx, const struct kpage_request *request, struct kpage_chunk *chunk)
{
	(void)ctx;
	(void)request;
	(void)chunk;
	return false;
}

static void keep(void *ctx, const struct kpage_chunk *chunk)
{
	(void)ctx;
	(void)chunk;
}

/* What is kept, and lies behind an object, is in nobody's way. */
static void an_object_grows_over_what_is_kept(struct test *t)
{
	static const struct {
		size_t size, behind, larger;
	} shapes[] = { { 100000, 80000, 150000 }, { 20000, 15000, 30000 }, { 3000, 3500, 5500 } };
	enum { ARENA = 256 << 10 };
	struct kheap_config config = test_config(t);
	void *arena = test_arena(t, ARENA);

	TRY(arena != NULL);
	config.source = (struct kpage_source){ .get = refuse, .put = keep };
	for (unsigned i = 0; i < 2 * sizeof(shapes) / sizeof(shapes[0]); i++) {
		size_t size = shapes[i / 2].size, larger = shapes[i / 2].larger;
		struct kheap *heap = test_heap_in(t, arena, ARENA, &config);
		uint8_t *object;
		void *behind;

		TRY(heap != NULL);
		object = kheap_alloc(heap, size, 0);
		behind = kheap_alloc(heap, shapes[i / 2].behind, 0);
		CHECK(t, object != NULL && behind != NULL, "%zu bytes were refused", size);
		test_fill(object, size, i);
		kheap_free(heap, behind);
		pairs(heap, shapes[i / 2].behind, 3);
		if (i % 2) {
			object = kheap_realloc(heap, object, larger);
			CHECK(t, object != NULL, "%zu bytes could not become %zu", size, larger);
		} else {
			CHECK(t, kheap_try_resize(heap, object, larger), "%zu bytes could not become %zu in place",
			      size, larger);
		}
		TRY(test_filled(t, object, size, i, "an object that grew"));
		TRY(test_sound(t, heap, "an object grew"));
		/* The arena is the next one's. */
		t->n_heaps = 0;
	}
}

/* Where all that is free lies between blocks there is a page for the cache of large ones, too: however many blocks there are. */
static void a_large_pair_among_blocks_stays_in_the_cache(struct test *t)
{
	enum { MOST = 100, STEP = 5, NEIGHBOUR = 20000 };
	static const size_t sizes[] = { 5000, 8000, 16000, 30000 };

	if (HARDENED) {
		test_skip(t, "the hardened builds have no CPU caches");
		return;
	}
	TRY(test_source(t, SOURCE_BYTES));
	for (unsigned k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
		unsigned n_slow = 0;

		for (unsigned n = 0; n <= MOST; n += STEP) {
			struct kheap *heap = NULL;

			TRY(test_heap_on_source(t, &heap));
			for (unsigned i = 0; i < n; i++)
				CHECK(t, kheap_alloc(heap, NEIGHBOUR, 0) != NULL, "neighbour %u was refused", i);
			n_slow += pairs_from_below(heap, sizes[k], WARM_PAIRS, PAIRS / 10) >= PAIRS_DOWN;
			TRY(test_sound(t, heap, "pairs among blocks"));
			kheap_destroy(heap);
			t->n_heaps = 0;
		}
		CHECK(t, n_slow == 0, "pairs of %zu bytes were not cached in %u of %u heaps", sizes[k], n_slow,
		      1 + MOST / STEP);
	}
}

/* Replaces so many objects at random; how many of the last ones came from below the cache. False: the heap refused one. */
static bool replace_at_random(struct kheap *heap, unsigned n_objects, size_t most_size, unsigned n_steps,
                              unsigned n_last, uint64_t *n_below)
{
	enum { MOST = 300, LEAST_SIZE = 16 };
	static void *objects[MOST];
	struct random random;

	random_seed(&random, n_objects);
	__builtin_memset(objects, 0, sizeof(objects));
	for (unsigned i = 0; i < n_steps; i++) {
		void **object = &objects[random_below(&random, n_objects)];

		if (i == n_steps - n_last)
			*n_below = heap->counters.n_allocs;
		kheap_free(heap, *object);
		*object = kheap_alloc(heap, random_size(&random, LEAST_SIZE, most_size), 0);
		if (*object == NULL)
			return false;
	}
	*n_below = heap->counters.n_allocs - *n_below;
	return true;
}

/* So few that they have no slabs: in time a heap of some pages spends a few more on them, if it can grow. */
static void a_small_heap_that_is_busy_becomes_quick(struct test *t)
{
	enum { STEPS = 150000, LAST = 10000, MOST_BYTES = 640 << 10 };
	static const struct {
		unsigned n_objects;
		size_t most_size;
	} shapes[] = { { 50, 240 }, { 100, 240 }, { 200, 240 }, { 100, 4000 }, { 200, 4000 } };
	uint64_t most = 0, n = 0;

	if (HARDENED) {
		test_skip(t, "the hardened builds have no CPU caches");
		return;
	}
	TRY(test_source(t, SOURCE_BYTES));
	for (unsigned k = 0; k < sizeof(shapes) / sizeof(shapes[0]); k++) {
		struct kheap *heap = NULL;

		TRY(test_heap_on_source(t, &heap));
		CHECK(t, replace_at_random(heap, shapes[k].n_objects, shapes[k].most_size, STEPS, LAST, &n),
		      "one of %u objects was refused", shapes[k].n_objects);
		CHECK(t, n < LAST / 4,
		      "%u of %u objects came from below the cache where %u of up to %zu bytes are live", (unsigned)n,
		      LAST, shapes[k].n_objects, shapes[k].most_size);
		CHECK(t, heap->counters.footprint_pages << PAGE_SHIFT <= MOST_BYTES, "%u objects took %zu pages",
		      shapes[k].n_objects, heap->counters.footprint_pages);
		most = n > most ? n : most;
		TRY(test_sound(t, heap, "a busy small heap"));
		kheap_destroy(heap);
		t->n_heaps = 0;
	}
	test_note(t, "%u of %u at most were not in the cache", (unsigned)most, LAST);
}

static const struct test_case cases[] = {
	{ "one of any size up to 256 stays in the cache", a_lone_pair_stays_in_the_cache },
	{ "one of any size stays there, in heaps that are empty, small or full", a_pair_of_any_size_in_any_heap },
	{ "a large one among blocks stays there", a_large_pair_among_blocks_stays_in_the_cache },
	{ "small ones at random stay there, in time", a_small_heap_that_is_busy_becomes_quick },
	{ "little is kept where others may miss it", little_is_kept_where_others_miss_it },
	{ "an object grows over what is kept behind it", an_object_grows_over_what_is_kept },
};

TEST_GROUP(pairs, cases);
