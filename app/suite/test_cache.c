/* SPDX-License-Identifier: MIT */
/*
 * Object caches: packed, aligned, constructed once for each hand-out, with a reserve that does not fail.
 */
#include "selftest.h"

#define ARENA ((size_t)2 << 20)

static void sizes_and_alignments_hold(struct test *t)
{
	static const size_t sizes[] = {
		1, 8, 16, 17, 24, 40, 100, 200, 333, 1000, 2048, 3000, 4096, 5000, 10000, 32768
	};
	static const size_t alignments[] = { 0, 1, 8, 16, 32, 64, 256, 4096 };
	enum { N = 20 };
	struct kheap *heap = test_heap(t, ARENA);
	void *objects[N];

	TRY(heap != NULL);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		for (size_t j = 0; j < sizeof(alignments) / sizeof(alignments[0]); j++) {
			size_t alignment = alignments[j] == 0 ? 16 : alignments[j];
			struct kcache *cache = kcache_create(heap, sizes[i], alignments[j], NULL, NULL);

			CHECK(t, cache != NULL, "a cache of %zu bytes aligned to %zu was refused", sizes[i],
			      alignments[j]);
			for (unsigned k = 0; k < N; k++) {
				objects[k] = kcache_alloc(cache, 0);
				CHECK(t, objects[k] != NULL && is_aligned(objects[k], alignment),
				      "object %u of %zu bytes aligned to %zu is at %p", k, sizes[i], alignment,
				      objects[k]);
				test_fill(objects[k], sizes[i], k);
			}
			for (unsigned k = 0; k < N; k++) {
				TRY(test_filled(t, objects[k], sizes[i], k, "an object of a cache"));
				kcache_free(cache, objects[k]);
			}
			CHECK(t, kcache_destroy(cache), "a cache without live objects was not destroyed");
		}
		TRY(test_sound(t, heap, "a cache's life"));
	}
}

static void zeroed_objects_are_zero(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);

	TRY(heap != NULL);
	for (size_t size = 1; size <= 5000; size = size * 3 / 2 + 1) {
		struct kcache *cache = kcache_create(heap, size, 0, NULL, NULL);
		void *object = cache != NULL ? kcache_alloc(cache, 0) : NULL;

		CHECK(t, object != NULL, "an object of %zu bytes was refused", size);
		test_fill(object, kheap_usable_size(heap, object), 1);
		kcache_free(cache, object);
		object = kcache_alloc(cache, KMALLOC_ZERO);
		CHECK(t, object != NULL && test_is_zero(object, kheap_usable_size(heap, object)),
		      "an object of %zu bytes with KMALLOC_ZERO is not zero", size);
		kcache_free(cache, object);
		CHECK(t, kcache_destroy(cache), "a cache without live objects was not destroyed");
	}
}

static void wrong_numbers_are_refused(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	struct kheap_stats before;

	TRY(heap != NULL);
	kheap_get_stats(heap, &before);
	CHECK(t, kcache_create(heap, 0, 0, NULL, NULL) == NULL, "a cache of 0 bytes was made");
	CHECK(t, kcache_create(heap, 32769, 0, NULL, NULL) == NULL, "a cache of 32769 bytes was made");
	CHECK(t, kcache_create(heap, SIZE_MAX, 0, NULL, NULL) == NULL, "a cache of SIZE_MAX bytes was made");
	CHECK(t, kcache_create(heap, 100, 3, NULL, NULL) == NULL, "an alignment of 3 was accepted");
	CHECK(t, kcache_create(heap, 100, 8192, NULL, NULL) == NULL, "an alignment of 8192 was accepted");
	CHECK(t, kcache_create(heap, 100, SIZE_MAX / 2 + 1, NULL, NULL) == NULL, "an alignment of 2^63 was accepted");
	TRY(test_same(t, heap, &before, "a refused cache"));
}

struct constructed {
	unsigned n;
	const void *last;
};

static void construct(void *object, void *ctx)
{
	struct constructed *constructed = ctx;

	constructed->n++;
	constructed->last = object;
	*(uint64_t *)object = 0x636f6e7374727563u;
}

static void constructor_is_called(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	struct constructed constructed = { 0, NULL };
	struct kcache *cache;
	uint64_t *object;

	TRY(heap != NULL);
	cache = kcache_create(heap, 72, 0, construct, &constructed);
	CHECK(t, cache != NULL && constructed.n == 0, "the constructor was called before an object was asked for");
	for (unsigned i = 1; i <= 200; i++) {
		object = kcache_alloc(cache, 0);
		CHECK(t, object != NULL && constructed.n == i && constructed.last == object,
		      "hand-out %u called the constructor %u times, last for %p", i, constructed.n, constructed.last);
		CHECK(t, *object == 0x636f6e7374727563u, "object %u is not as the constructor left it", i);
		if (i % 2 == 0) {
			*object = 0;
			kcache_free(cache, object);
		}
	}
	CHECK(t, !kcache_destroy(cache), "a cache with 100 live objects was destroyed");
	t->n_errors = 0;
}

static void objects_are_packed(struct test *t)
{
	static const size_t sizes[] = { 24, 40, 72, 136, 200, 320, 520, 1100 };
	enum { N = 300 };
	void *arena = test_arena(t, ARENA);
	unsigned worst = 0;

	TRY(arena != NULL);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct kheap_config config = test_config(t);
		struct kheap *heap = test_heap_in(t, arena, ARENA, &config);
		struct kheap_stats before, after;
		struct kcache *cache;
		size_t used, padded = (sizes[i] + (test_is_hardened() ? 8 : 0) + 15) / 16 * 16;
		unsigned percent;

		TRY(heap != NULL);
		cache = kcache_create(heap, sizes[i], 0, NULL, NULL);
		CHECK(t, cache != NULL, "a cache of %zu bytes was refused", sizes[i]);
		kcache_free(cache, kcache_alloc(cache, 0));
		kheap_get_stats(heap, &before);
		for (unsigned k = 0; k < N; k++)
			CHECK(t, kcache_alloc(cache, 0) != NULL, "object %u of %zu bytes was refused", k, sizes[i]);
		kheap_get_stats(heap, &after);
		used = before.free_bytes - after.free_bytes;
		percent = (unsigned)(used * 100 / (N * padded));
		CHECK(t, percent <= 115, "%d objects of %zu bytes, %zu when rounded, take %zu bytes: %u %%", N,
		      sizes[i], padded, used, percent);
		worst = percent > worst ? percent : worst;
		TRY(test_end_heap(t, heap));
	}
	test_note(t, "at most %u %% of the rounded size", worst);
}

static void strangers_are_refused(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	struct kcache *one, *other;
	void *object, *plain;

	TRY(heap != NULL);
	one = kcache_create(heap, 80, 0, NULL, NULL);
	other = kcache_create(heap, 80, 0, NULL, NULL);
	CHECK(t, one != NULL && other != NULL, "two caches of 80 bytes were refused");
	object = kcache_alloc(one, 0);
	plain = kheap_alloc(heap, 80, 0);
	kcache_free(other, object);
	TRY(test_expect_error(t, KMALLOC_WRONG_CACHE, object));
	CHECK(t, !kcache_destroy(one), "a cache with a live object was destroyed");
	CHECK(t, t->n_errors == 1 && t->errors[0].error_class == KMALLOC_BUSY,
	      "destroying it was reported as %u errors, the first '%s'", t->n_errors,
	      kmalloc_error_name(t->errors[0].error_class));
	t->n_errors = 0;
	kcache_free(one, plain);
	CHECK(t, t->n_errors == 1, "an object of no cache was accepted");
	t->n_errors = 0;
	CHECK(t, kheap_owner(heap, plain).is_live, "an object that was refused by a cache was freed");
	kcache_free(one, object);
	TRY(test_expect_no_error(t));
	kcache_free(one, object);
	TRY(test_expect_error(t, KMALLOC_DOUBLE_FREE, object));
	kcache_free(one, NULL);
	kheap_free(heap, plain);
	CHECK(t, kcache_destroy(one) && kcache_destroy(other), "an empty cache was not destroyed");
	TRY(test_expect_no_error(t));
}

static void destroyed_caches_are_reported(struct test *t)
{
	struct kheap *heap = test_heap(t, (size_t)1 << 20);
	struct kcache *cache, *other;

	TRY(heap != NULL);
	cache = kcache_create(heap, 100, 0, NULL, NULL);
	other = kcache_create(heap, 100, 0, NULL, NULL);
	CHECK(t, cache != NULL && other != NULL, "caches were refused in a heap of 1 MiB");
	/* A struct kcache is no object of the user's. */
	kheap_free(heap, cache);
	TRY(test_expect_error(t, KMALLOC_FOREIGN_POINTER, cache));
	CHECK(t, kcache_destroy(cache), "an empty cache could not be destroyed");
	CHECK(t, !kcache_destroy(cache), "a destroyed cache was destroyed again");
	TRY(test_expect_error(t, KMALLOC_DOUBLE_FREE, cache));
	CHECK(t, kcache_alloc(cache, 0) == NULL, "a destroyed cache gave an object");
	TRY(test_expect_error(t, KMALLOC_DOUBLE_FREE, cache));
	CHECK(t, kcache_alloc(other, 0) != NULL, "another cache gave no object");
}

static void reserve_does_not_fail(struct test *t)
{
	enum { N = 500 };
	struct kheap *heap = test_heap(t, (size_t)512 << 10);
	struct kcache *cache;
	unsigned n = 0;

	TRY(heap != NULL);
	cache = kcache_create(heap, 200, 0, NULL, NULL);
	CHECK(t, cache != NULL, "a cache of 200 bytes was refused");
	CHECK(t, kcache_prefill(cache, N) >= N, "a reserve of %d objects of 200 bytes was refused in 512 KiB", N);
	/* Take all that is left from everyone else. */
	while (kheap_alloc(heap, 4096, 0) != NULL || kheap_alloc(heap, 200, 0) != NULL ||
	       kheap_alloc(heap, 16, 0) != NULL)
		continue;
	for (; n < N; n++)
		CHECK(t, kcache_alloc(cache, KMALLOC_NO_GROW) != NULL,
		      "object %u of a reserve of %d was refused in a full heap", n, N);
	test_note(t, "%d objects in a full heap", N);
}

static void reserve_is_what_there_is(struct test *t)
{
	struct kheap *heap = test_heap(t, (size_t)256 << 10);
	struct kcache *cache;
	size_t n;

	TRY(heap != NULL);
	cache = kcache_create(heap, 1000, 0, NULL, NULL);
	CHECK(t, cache != NULL, "a cache of 1000 bytes was refused");
	n = kcache_prefill(cache, 100000);
	CHECK(t, n > 100 && n < 262, "a reserve of 100000 objects of 1000 bytes in 256 KiB is %zu", n);
	TRY(test_sound(t, heap, "a reserve that fills the heap"));
	(void)kcache_prefill(cache, 0);
	kheap_trim(heap);
	CHECK(t, kheap_alloc(heap, 100000, 0) != NULL, "the reserve was not given back");
	CHECK(t, kcache_destroy(cache), "a cache without live objects was not destroyed");
}

static void caches_share_the_heap(struct test *t)
{
	enum { N = 200 };
	static void *objects[N];
	struct kheap *heap = test_heap(t, ARENA);
	struct kheap_stats before, after;
	struct kcache *caches[8];
	struct random random;

	TRY(heap != NULL);
	kheap_trim(heap);
	kheap_get_stats(heap, &before);
	random_seed(&random, t->options->seed);
	for (unsigned i = 0; i < 8; i++)
		CHECK(t, (caches[i] = kcache_create(heap, 30 + 50 * i, 0, NULL, NULL)) != NULL, "cache %u was refused",
		      i);
	for (unsigned i = 0; i < N; i++)
		objects[i] = NULL;
	for (unsigned step = 0; step < 5000; step++) {
		uint32_t i = random_below(&random, N);

		if (objects[i] != NULL) {
			TRY(test_filled(t, objects[i], 30 + 50 * (i % 8), i, "an object of one of eight caches"));
			kcache_free(caches[i % 8], objects[i]);
			objects[i] = NULL;
		} else {
			objects[i] = kcache_alloc(caches[i % 8], 0);
			CHECK(t, objects[i] != NULL, "an object of %u bytes was refused", 30 + 50 * (i % 8));
			test_fill(objects[i], 30 + 50 * (i % 8), i);
		}
	}
	for (unsigned i = 0; i < N; i++)
		kcache_free(caches[i % 8], objects[i]);
	for (unsigned i = 0; i < 8; i++)
		CHECK(t, kcache_destroy(caches[i]), "cache %u was not destroyed", i);
	kheap_trim(heap);
	kheap_get_stats(heap, &after);
	CHECK(t, after.free_bytes == before.free_bytes && after.live_bytes == 0,
	      "%zu bytes are free after all caches are gone, %zu were before", after.free_bytes, before.free_bytes);
}

static const struct test_case cases[] = {
	{ "objects of every size and alignment are apart and aligned", sizes_and_alignments_hold },
	{ "zeroed objects are zero to their last usable byte", zeroed_objects_are_zero },
	{ "sizes and alignments out of range are refused", wrong_numbers_are_refused },
	{ "the constructor is called once for each hand-out", constructor_is_called },
	{ "objects are packed without headers", objects_are_packed },
	{ "objects of another cache, of none, and freed ones are refused", strangers_are_refused },
	{ "a destroyed cache is reported, and its struct is no object", destroyed_caches_are_reported },
	{ "a reserve serves in a full heap", reserve_does_not_fail },
	{ "a reserve is as large as memory allows, and is given back", reserve_is_what_there_is },
	{ "eight caches share a heap and leave nothing", caches_share_the_heap },
};
TEST_GROUP(cache, cases);
