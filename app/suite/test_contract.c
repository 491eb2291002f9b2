/* SPDX-License-Identifier: MIT */
/*
 * What kmalloc.h promises of single calls: sizes, alignments, zeroing, resizing, and that a refused call changes
 * nothing.
 */
#include "random.h"
#include "selftest.h"

#define ARENA ((size_t)2 << 20)
/* For alignments to 2 MiB; a small machine may not have it. */
#define LARGE_ARENA ((size_t)8 << 20)

/* Sizes that no machine has. */
static const size_t huge_sizes[] = { SIZE_MAX,
	                             SIZE_MAX - 1,
	                             SIZE_MAX - 15,
	                             SIZE_MAX - 16,
	                             SIZE_MAX - 63,
	                             SIZE_MAX - 4095,
	                             SIZE_MAX - 4096,
	                             SIZE_MAX / 2 + 2,
	                             (size_t)PTRDIFF_MAX + 1,
	                             PTRDIFF_MAX,
	                             PTRDIFF_MAX - 4096,
	                             SIZE_MAX / 4,
	                             (size_t)((uint64_t)1 << 40),
	                             (size_t)((uint64_t)1 << 32),
	                             (size_t)((uint64_t)1 << 32) + 16 };
#define N_HUGE_SIZES (sizeof(huge_sizes) / sizeof(huge_sizes[0]))

/* Sizes around every limit inside the heap that may exist: granules, classes, pages, areas, runs. */
static const size_t edge_sizes[] = { 0,     1,     8,     15,     16,     17,     31,    32,    33,    63,
	                             64,    65,    100,   127,    128,    129,    240,   255,   256,   257,
	                             300,   511,   512,   513,    1000,   1024,   1025,  2000,  2047,  2048,
	                             2049,  4095,  4096,  4097,   5000,   8192,   12288, 20000, 32767, 32768,
	                             65535, 65536, 65537, 100000, 131072, 262143, 262144 };
#define N_EDGE_SIZES (sizeof(edge_sizes) / sizeof(edge_sizes[0]))

static size_t natural_alignment(size_t size)
{
	return size > KMALLOC_ALIGNMENT && (size & (size - 1)) == 0 ? size : KMALLOC_ALIGNMENT;
}

static void zero_is_an_object(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	void *objects[100];

	TRY(heap != NULL);
	for (unsigned i = 0; i < 100; i++) {
		objects[i] = kheap_alloc(heap, 0, 0);
		CHECK(t, objects[i] != NULL && is_aligned(objects[i], KMALLOC_ALIGNMENT), "object %u of 0 bytes is %p",
		      i, objects[i]);
		for (unsigned j = 0; j < i; j++)
			CHECK(t, objects[i] != objects[j], "objects %u and %u of 0 bytes are both %p", j, i,
			      objects[i]);
	}
	for (unsigned i = 0; i < 100; i++)
		kheap_free(heap, objects[i]);
	objects[0] = kheap_calloc(heap, 0, 7);
	objects[1] = kheap_calloc(heap, 7, 0);
	CHECK(t, objects[0] != NULL && objects[1] != NULL && objects[0] != objects[1],
	      "calloc of no bytes gave %p and %p", objects[0], objects[1]);
	kheap_free(heap, objects[0]);
	kheap_free(heap, objects[1]);
	kheap_free(heap, NULL);
	CHECK(t, kheap_usable_size(heap, NULL) == 0, "NULL has usable bytes");
}

static void huge_resizes_are_refused(struct test *t)
{
	static const size_t sizes[] = { 1, 20, 100, 300, 1000, 5000, 100000 };
	struct kheap *heap = test_heap(t, ARENA);

	TRY(heap != NULL);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		void *object = kheap_alloc(heap, sizes[i], 0);

		CHECK(t, object != NULL, "%zu bytes were refused", sizes[i]);
		for (size_t k = 0; k < N_HUGE_SIZES; k++) {
			CHECK(t, kheap_realloc(heap, object, huge_sizes[k]) == NULL,
			      "kheap_realloc made %zu bytes of %zu", huge_sizes[k], sizes[i]);
			CHECK(t, kheap_realloc_aligned(heap, object, huge_sizes[k], KMALLOC_ALIGNMENT) == NULL,
			      "kheap_realloc_aligned made %zu bytes of %zu", huge_sizes[k], sizes[i]);
		}
		CHECK(t, kheap_usable_size(heap, object) >= sizes[i], "the object lost its size");
	}
}

static void huge_sizes_are_refused(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	struct kheap_stats before;
	void *object;

	TRY(heap != NULL);
	object = kheap_alloc(heap, 100, 0);
	test_fill(object, 100, 1);
	kheap_get_stats(heap, &before);
	for (size_t i = 0; i < N_HUGE_SIZES; i++) {
		size_t size = huge_sizes[i];
		void *objects[2] = { NULL, NULL };

		CHECK(t, kheap_alloc(heap, size, 0) == NULL, "kheap_alloc gave an object of %zu bytes", size);
		CHECK(t, kheap_alloc(heap, size, KMALLOC_ZERO | KMALLOC_CACHE_LINE) == NULL,
		      "with flags: %zu bytes were given", size);
		CHECK(t, kheap_alloc_aligned(heap, size, 64, 0) == NULL, "kheap_alloc_aligned gave %zu bytes", size);
		CHECK(t, kheap_alloc_aligned(heap, size, 4096, 0) == NULL, "kheap_alloc_aligned gave %zu bytes", size);
		CHECK(t, kheap_realloc(heap, object, size) == NULL, "kheap_realloc gave %zu bytes", size);
		CHECK(t, kheap_realloc_aligned(heap, object, size, 64) == NULL, "kheap_realloc_aligned gave %zu bytes",
		      size);
		CHECK(t, !kheap_try_resize(heap, object, size), "kheap_try_resize made %zu bytes of 100", size);
		CHECK(t, kheap_alloc_at_least(heap, size, 0).object == NULL, "kheap_alloc_at_least gave %zu bytes",
		      size);
		CHECK(t, kheap_alloc_bulk(heap, size, 0, 2, objects) == 0, "kheap_alloc_bulk gave objects of %zu bytes",
		      size);
		CHECK(t, kpages_alloc(heap, size, KMALLOC_PAGE_SIZE, UINTPTR_MAX, 0) == NULL,
		      "kpages_alloc gave %zu pages", size);
		TRY(test_same(t, heap, &before, "a refused size"));
	}
	TRY(test_filled(t, object, 100, 1, "an object beside refused ones"));
	CHECK(t, kheap_usable_size(heap, object) >= 100, "the object lost its size");
}

static void products_do_not_wrap(struct test *t)
{
	static const size_t pairs[][2] = { { SIZE_MAX, 2 },
		                           { 2, SIZE_MAX },
		                           { SIZE_MAX / 2 + 1, 2 },
		                           { SIZE_MAX / 3 + 1, 3 },
		                           { SIZE_MAX, SIZE_MAX },
		                           { SIZE_MAX / 16 + 2, 16 },
		                           { (size_t)1 << (sizeof(size_t) * 4), (size_t)1 << (sizeof(size_t) * 4) },
		                           { SIZE_MAX / 64 + 1, 64 } };
	struct kheap *heap = test_heap(t, ARENA);
	struct kheap_stats before;
	uint8_t *object;

	TRY(heap != NULL);
	kheap_get_stats(heap, &before);
	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		CHECK(t, kheap_calloc(heap, pairs[i][0], pairs[i][1]) == NULL, "kheap_calloc(%zu, %zu) gave an object",
		      pairs[i][0], pairs[i][1]);
		TRY(test_same(t, heap, &before, "a product that overflows"));
	}
	object = kheap_calloc(heap, 1000, 1000);
	CHECK(t, object != NULL && kheap_usable_size(heap, object) >= 1000000 && test_is_zero(object, 1000000),
	      "kheap_calloc(1000, 1000) is not a million zero bytes");
	kheap_free(heap, object);
}

/* One object of this size: aligned as promised, as large as promised, and its neighbours keep their bytes. */
static bool size_holds(struct test *t, struct kheap *heap, void *window[4], size_t lengths[4], size_t size)
{
	unsigned slot = size % 4;
	size_t usable;

	if (window[slot] != NULL) {
		if (!test_filled(t, window[slot], lengths[slot], size - 4,
		                 "an object after its neighbours were written"))
			return false;
		kheap_free(heap, window[slot]);
	}
	window[slot] = kheap_alloc(heap, size, 0);
	REQUIRE(t, window[slot] != NULL, "%zu bytes were refused", size);
	REQUIRE(t, is_aligned(window[slot], natural_alignment(size)), "%zu bytes are at %p, not aligned to %zu", size,
	        window[slot], natural_alignment(size));
	usable = kheap_usable_size(heap, window[slot]);
	REQUIRE(t, usable >= size, "%zu bytes have a usable size of %zu", size, usable);
	lengths[slot] = usable;
	test_fill(window[slot], usable, size);
	return true;
}

static void every_size_is_aligned(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	void *window[4] = { NULL };
	size_t lengths[4];

	TRY(heap != NULL);
	for (size_t size = 1; size <= 4096; size++)
		TRY(size_holds(t, heap, window, lengths, size));
	for (unsigned i = 0; i < 4; i++)
		kheap_free(heap, window[i]);
}

/* Every power of two to a quarter of the arena. */
static void powers_of_two_are_natural(struct test *t, size_t arena)
{
	struct kheap *heap = test_heap(t, arena);
	void *odd;

	TRY(heap != NULL);
	/* Something odd in front, so that alignment is no accident. */
	odd = kheap_alloc(heap, 5000, 0);
	for (size_t size = 1; size <= arena / 4; size *= 2) {
		void *first = kheap_alloc(heap, size, 0);
		void *second = size <= arena / 8 ? kheap_alloc(heap, size, 0) : first;

		CHECK(t, first != NULL && second != NULL, "%zu bytes were refused in an arena of %zu", size, arena);
		CHECK(t, is_aligned(first, natural_alignment(size)) && is_aligned(second, natural_alignment(size)),
		      "%zu bytes are at %p and %p", size, first, second);
		test_fill(first, size, size);
		TRY(test_filled(t, first, size, size, "a large object"));
		kheap_free(heap, first);
		if (second != first)
			kheap_free(heap, second);
	}
	kheap_free(heap, odd);
}

static void powers_to_512_kib_are_natural(struct test *t)
{
	powers_of_two_are_natural(t, ARENA);
}

static void powers_to_2_mib_are_natural(struct test *t)
{
	powers_of_two_are_natural(t, LARGE_ARENA);
}

/* Two objects of this size and alignment; of the largest alignment an arena holds only one for certain. */
static bool alignment_is_given(struct test *t, struct kheap *heap, size_t size, size_t alignment, bool is_largest)
{
	void *first = kheap_alloc_aligned(heap, size, alignment, 0);
	void *second = kheap_alloc_aligned(heap, size, alignment, KMALLOC_ZERO);

	REQUIRE(t, first != NULL && (second != NULL || is_largest), "%zu bytes aligned to %zu were refused", size,
	        alignment);
	REQUIRE(t, is_aligned(first, alignment) && is_aligned(first, KMALLOC_ALIGNMENT),
	        "%zu bytes aligned to %zu are at %p", size, alignment, first);
	REQUIRE(t, is_aligned(second, alignment) && is_aligned(second, KMALLOC_ALIGNMENT),
	        "%zu bytes aligned to %zu are at %p", size, alignment, second);
	test_fill(first, kheap_usable_size(heap, first), 1);
	REQUIRE(t, second == NULL || test_is_zero(second, size), "%zu zeroed bytes aligned to %zu are not zero", size,
	        alignment);
	kheap_free(heap, first);
	kheap_free_aligned_sized(heap, second, alignment, size);
	REQUIRE(t, t->n_errors == 0, "freeing %zu bytes aligned to %zu with those numbers was reported: %s", size,
	        alignment, kmalloc_error_name(t->errors[0].error_class));
	return true;
}

static void alignments_are_given(struct test *t, size_t arena)
{
	static const size_t sizes[] = { 0, 1, 7, 24, 100, 1000, 4096, 5000, 100000 };
	struct kheap *heap = test_heap(t, arena);

	TRY(heap != NULL);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (size_t alignment = 1; alignment <= arena / 4; alignment *= 2)
			TRY(alignment_is_given(t, heap, sizes[i], alignment, alignment > arena / 8));
}

static void alignments_to_512_kib_are_given(struct test *t)
{
	alignments_are_given(t, ARENA);
}

static void alignments_to_2_mib_are_given(struct test *t)
{
	alignments_are_given(t, LARGE_ARENA);
}

static void wrong_alignments_are_refused(struct test *t)
{
	static const size_t wrong[] = { 0,           3,    5,     6,        24,           48,
		                        4095,        4097, 12288, SIZE_MAX, SIZE_MAX - 1, SIZE_MAX / 2 + 2,
		                        SIZE_MAX / 2 };
	const size_t top = SIZE_MAX / 2 + 1;
	struct kheap *heap = test_heap(t, ARENA);
	struct kheap_stats before;
	void *object;

	TRY(heap != NULL);
	object = kheap_alloc(heap, 100, 0);
	test_fill(object, 100, 1);
	kheap_get_stats(heap, &before);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		CHECK(t, kheap_alloc_aligned(heap, 100, wrong[i], 0) == NULL, "an alignment of %zu was accepted",
		      wrong[i]);
		CHECK(t, kheap_alloc_aligned(heap, 0, wrong[i], 0) == NULL, "an alignment of %zu was accepted",
		      wrong[i]);
		CHECK(t, kheap_realloc_aligned(heap, object, 200, wrong[i]) == NULL,
		      "realloc accepted an alignment of %zu", wrong[i]);
		CHECK(t, kpages_alloc(heap, 1, wrong[i], UINTPTR_MAX, 0) == NULL,
		      "kpages_alloc accepted an alignment of %zu", wrong[i]);
		TRY(test_same(t, heap, &before, "a wrong alignment"));
	}
	CHECK(t, kheap_alloc_aligned(heap, 16, top, 0) == NULL, "16 bytes aligned to 2^63 were given");
	CHECK(t, kheap_alloc_aligned(heap, 16, top / 2, 0) == NULL, "16 bytes aligned to 2^62 were given");
	CHECK(t, kheap_alloc_aligned(heap, PTRDIFF_MAX, top, 0) == NULL, "all memory aligned to 2^63 was given");
	CHECK(t, kheap_realloc_aligned(heap, object, 200, top) == NULL, "realloc aligned to 2^63");
	TRY(test_same(t, heap, &before, "an alignment of 2^63"));
	TRY(test_filled(t, object, 100, 1, "an object beside refused ones"));
}

static void zeroed_memory_is_zero(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);

	TRY(heap != NULL);
	for (size_t i = 0; i < N_EDGE_SIZES; i++) {
		size_t size = edge_sizes[i];
		void *objects[3];

		/* Leave dirt where the zeroed ones will come to lie. */
		for (unsigned j = 0; j < 3; j++) {
			objects[j] = kheap_alloc(heap, size, 0);
			CHECK(t, objects[j] != NULL, "%zu bytes were refused", size);
			test_fill(objects[j], kheap_usable_size(heap, objects[j]), 1 + j);
		}
		for (unsigned j = 0; j < 3; j++)
			kheap_free(heap, objects[j]);
		objects[0] = kheap_alloc(heap, size, KMALLOC_ZERO);
		objects[1] = kheap_calloc(heap, 1, size);
		CHECK(t, objects[0] != NULL && objects[1] != NULL, "%zu zeroed bytes were refused", size);
		CHECK(t, test_is_zero(objects[0], kheap_usable_size(heap, objects[0])),
		      "%zu bytes with KMALLOC_ZERO are not zero", size);
		CHECK(t, test_is_zero(objects[1], kheap_usable_size(heap, objects[1])),
		      "%zu bytes of kheap_calloc are not zero", size);
		kheap_free(heap, objects[0]);
		kheap_free(heap, objects[1]);
	}
}

static void at_least_gives_what_is_usable(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);

	TRY(heap != NULL);
	for (size_t i = 0; i < N_EDGE_SIZES; i++) {
		struct kmalloc_result result = kheap_alloc_at_least(heap, edge_sizes[i], 0);

		CHECK(t, result.object != NULL && result.size_bytes >= edge_sizes[i], "at least %zu bytes became %zu",
		      edge_sizes[i], result.size_bytes);
		CHECK(t, result.size_bytes == kheap_usable_size(heap, result.object),
		      "%zu bytes were promised, %zu are usable", result.size_bytes,
		      kheap_usable_size(heap, result.object));
		test_fill(result.object, result.size_bytes, 1);
		kheap_free(heap, result.object);
	}
}

static void good_sizes_are_stable(struct test *t)
{
	struct kheap *heap = test_heap(t, (size_t)1 << 20);

	TRY(heap != NULL);
	for (size_t size = 0; size < 70000; size += size < 4200 ? 1 : 97) {
		size_t good = kgood_size(size);

		CHECK(t, good >= size, "kgood_size(%zu) is %zu", size, good);
		CHECK(t, kgood_size(good) == good, "kgood_size(%zu) is %zu, but kgood_size of that is %zu", size, good,
		      kgood_size(good));
		CHECK(t, size == 0 || good <= size + size / 4 + 32 || good <= size + 4096, "kgood_size(%zu) is %zu",
		      size, good);
	}
	for (size_t size = 513; size < 4089; size++) {
		void *object = kheap_alloc(heap, size, 0);
		size_t usable = kheap_usable_size(heap, object);

		/* A block has what is left of a free one, if that is too little for another. Of a class with slabs, one may stand in. */
		CHECK(t,
		      usable == kgood_size(size) || usable == kgood_size(size) + KMALLOC_ALIGNMENT ||
		              (kgood_size(size) & (kgood_size(size) - 1)) == 0,
		      "%zu bytes may be used of %zu, kgood_size says %zu", usable, size, kgood_size(size));
		kheap_free(heap, object);
	}
	CHECK(t, kgood_size((size_t)PTRDIFF_MAX + 1) == 0 && kgood_size(SIZE_MAX) == 0,
	      "kgood_size of too much is not 0");
}

static void bulk_gives_many(struct test *t)
{
	struct kheap *heap = test_heap(t, (size_t)1 << 20);
	void **objects = test_arena(t, (size_t)256 << 10);
	size_t n, all = ((size_t)256 << 10) / sizeof(void *);

	TRY(heap != NULL && objects != NULL);
	n = kheap_alloc_bulk(heap, 48, KMALLOC_ZERO, 100, objects);
	CHECK(t, n == 100, "100 objects of 48 bytes: %zu were given", n);
	for (size_t i = 0; i < n; i++) {
		CHECK(t, objects[i] != NULL && is_aligned(objects[i], KMALLOC_ALIGNMENT), "object %zu is %p", i,
		      objects[i]);
		CHECK(t, test_is_zero(objects[i], 48), "object %zu is not zero, or overlaps another", i);
		test_fill(objects[i], 48, i);
	}
	for (size_t i = 0; i < n; i++)
		TRY(test_filled(t, objects[i], 48, i, "an object of a bulk"));
	objects[50] = (kheap_free(heap, objects[50]), NULL);
	kheap_free_bulk(heap, n, objects);
	/* More than there is: what was given is good, and the heap is not hurt. */
	n = kheap_alloc_bulk(heap, 100, 0, all, objects);
	CHECK(t, n > 5000 && n < all, "of %zu objects of 100 bytes %zu were given in 1 MiB", all, n);
	for (size_t i = 0; i < n; i++)
		test_fill(objects[i], 100, i);
	for (size_t i = 0; i < n; i++)
		TRY(test_filled(t, objects[i], 100, i, "an object of a bulk that filled the heap"));
	kheap_free_bulk(heap, n, objects);
	CHECK(t, kheap_alloc_bulk(heap, 16, 0, 0, objects) == 0, "a bulk of none gave some");
	kheap_free_bulk(heap, 0, objects);
}

static void cache_lines_are_not_shared(struct test *t)
{
	static const size_t sizes[] = { 0, 1, 16, 48, 63, 64, 65, 100, 200, 1000, 5000 };
	enum { N = 88 };
	struct kheap *heap = test_heap(t, ARENA);
	uintptr_t base[2 * N], end[2 * N];

	TRY(heap != NULL);
	for (unsigned i = 0; i < 2 * N; i++) {
		/* Every second object is an ordinary one, which may lie close by. */
		size_t size = sizes[i / 2 % (sizeof(sizes) / sizeof(sizes[0]))];
		void *object = kheap_alloc(heap, size, i % 2 == 0 ? KMALLOC_CACHE_LINE : 0);

		CHECK(t, object != NULL, "%zu bytes were refused", size);
		CHECK(t, i % 2 != 0 || is_aligned(object, 64), "%zu bytes with KMALLOC_CACHE_LINE are at %p", size,
		      object);
		base[i] = (uintptr_t)object;
		end[i] = base[i] + (size != 0 ? size : 1);
	}
	for (unsigned i = 0; i < 2 * N; i += 2)
		for (unsigned j = 0; j < 2 * N; j++)
			CHECK(t, i == j || end[j] - 1 < base[i] || base[j] > ((end[i] - 1) | 63),
			      "the object at 0x%zx shares a 64-byte line with the one at 0x%zx", (size_t)base[j],
			      (size_t)base[i]);
	for (unsigned i = 0; i < 2 * N; i++)
		kheap_free(heap, (void *)base[i]);
}

static void sized_frees_accept_the_size(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);

	TRY(heap != NULL);
	for (size_t i = 0; i < N_EDGE_SIZES; i++) {
		kheap_free_sized(heap, kheap_alloc(heap, edge_sizes[i], 0), edge_sizes[i]);
		kheap_free_sized(heap, kheap_realloc(heap, kheap_alloc(heap, 700, 0), edge_sizes[i]), edge_sizes[i]);
		kheap_free_aligned_sized(heap, kheap_alloc_aligned(heap, edge_sizes[i], 256, 0), 256, edge_sizes[i]);
		CHECK(t, t->n_errors == 0, "freeing %zu bytes with that size was reported: %s", edge_sizes[i],
		      kmalloc_error_name(t->errors[0].error_class));
	}
	kheap_free_sized(heap, NULL, 16);
	kheap_free_aligned_sized(heap, NULL, 64, 16);
	TRY(test_expect_no_error(t));
}

/* What is aligned to more than its size is larger than it was asked for. */
static void sized_frees_need_no_alignment(struct test *t)
{
	enum { SLOTS = 8, STEPS = 2000 };
	struct kheap *heap = test_heap(t, ARENA);
	void *objects[SLOTS] = { NULL };
	size_t sizes[SLOTS] = { 0 };
	struct random random;

	TRY(heap != NULL);
	random_seed(&random, 5);
	for (unsigned i = 0; i < STEPS; i++) {
		unsigned slot = random_below(&random, SLOTS);

		kheap_free_sized(heap, objects[slot], sizes[slot]);
		sizes[slot] = 1 + random_below(&random, 200);
		objects[slot] = kheap_alloc_aligned(heap, sizes[slot], (size_t)16 << random_below(&random, 8), 0);
	}
	TRY(test_expect_no_error(t));
}

static bool default_heap_works(struct test *t)
{
	void *objects[4], *p = kmalloc(100);

	REQUIRE(t, p != NULL && kusable_size(p) >= 100, "kmalloc(100) gave %p", p);
	p = krealloc(p, 5000);
	REQUIRE(t, p != NULL && kusable_size(p) >= 5000, "krealloc to 5000 bytes gave %p", p);
	REQUIRE(t, ktry_resize(p, 4000), "ktry_resize could not shrink 5000 bytes to 4000");
	kfree(p);
	p = kzalloc(3000);
	REQUIRE(t, p != NULL && test_is_zero(p, 3000), "kzalloc(3000) is not zero");
	kfree_sized(p, 3000);
	p = kmalloc_aligned(100, 512);
	REQUIRE(t, p != NULL && is_aligned(p, 512), "kmalloc_aligned(100, 512) gave %p", p);
	kfree_aligned_sized(p, 512, 100);
	p = kcalloc(10, 10);
	REQUIRE(t, p != NULL && test_is_zero(p, 100), "kcalloc(10, 10) is not zero");
	kfree(p);
	p = kmalloc_flags(100, KMALLOC_ZERO | KMALLOC_CACHE_LINE);
	REQUIRE(t, p != NULL && is_aligned(p, 64) && test_is_zero(p, 100),
	        "kmalloc_flags(100, ZERO | CACHE_LINE) gave %p", p);
	kfree(p);
	p = kmalloc_at_least(33).object;
	REQUIRE(t, p != NULL && kusable_size(p) >= 33, "kmalloc_at_least(33) gave %zu bytes", kusable_size(p));
	REQUIRE(t, kmalloc_bulk(40, 4, objects) == 4, "kmalloc_bulk(40, 4) gave less");
	kfree_bulk(4, objects);
	return test_sound(t, kmalloc_heap(), "the work");
}

static void default_heap_is_one(struct test *t)
{
	struct kheap_config config = test_config(t);
	void *arena = test_arena(t, (size_t)1 << 20);

	TRY(arena != NULL);
	if (kmalloc_heap() != NULL) {
		test_skip(t, "this program uses the default heap itself");
		return;
	}
	CHECK(t, kmalloc(16) == NULL && krealloc(NULL, 16) == NULL, "kmalloc worked before kmalloc_init");
	kfree(NULL);
	CHECK(t, kmalloc_init(arena, (size_t)1 << 20, &config) && kmalloc_heap() != NULL, "kmalloc_init refused 1 MiB");
	CHECK(t, !kmalloc_init(arena, (size_t)1 << 20, &config), "a second kmalloc_init was accepted");
	(void)default_heap_works(t);
	kmalloc_exit();
	CHECK(t, kmalloc_heap() == NULL && kmalloc(16) == NULL, "kmalloc worked after kmalloc_exit");
}

static void names_exist(struct test *t)
{
	for (int i = -1; i <= KMALLOC_N_ERROR_CLASSES; i++) {
		const char *name = kmalloc_error_name((enum kmalloc_error_class)i);

		CHECK(t, name != NULL && name[0] != '\0', "error class %d has no name", i);
		for (int j = 1; j < i && i < KMALLOC_N_ERROR_CLASSES; j++)
			CHECK(t, text_compare(name, kmalloc_error_name((enum kmalloc_error_class)j)) != 0,
			      "classes %d and %d are both '%s'", i, j, name);
	}
	for (int i = -1; i <= KHEAP_N_FAULT_CLASSES; i++) {
		const char *name = kheap_fault_name((enum kheap_fault_class)i);

		CHECK(t, name != NULL && name[0] != '\0', "fault class %d has no name", i);
		for (int j = 1; j < i && i < KHEAP_N_FAULT_CLASSES; j++)
			CHECK(t, text_compare(name, kheap_fault_name((enum kheap_fault_class)j)) != 0,
			      "faults %d and %d are both '%s'", i, j, name);
	}
}

/* Objects that shrank where they are, or begin a line of their own, are freed with the size they were last asked for. */
static void right_sizes_are_believed(struct test *t)
{
	static const size_t sizes[] = { 100, 1024, 3000, 100000 };
	struct kheap *heap = test_heap(t, (size_t)1 << 20);
	void *objects[64];

	TRY(heap != NULL);
	for (unsigned i = 0; i < 4; i++) {
		/* Enough of them that slabs serve the sizes that have slabs. */
		for (unsigned j = 0; j < 8; j++) {
			objects[j] = kheap_alloc(heap, sizes[i], 0);
			CHECK(t, objects[j] != NULL, "%zu bytes were refused", sizes[i]);
		}
		for (unsigned j = 0; j < 8; j++) {
			bool shrank = kheap_try_resize(heap, objects[j], 40);

			kheap_free_sized(heap, objects[j], shrank ? 40 : sizes[i]);
			TRY(test_expect_no_error(t));
		}
		objects[0] = kheap_alloc(heap, sizes[i], KMALLOC_CACHE_LINE);
		CHECK(t, objects[0] != NULL, "%zu bytes on lines of their own were refused", sizes[i]);
		kheap_free_sized(heap, objects[0], sizes[i]);
		TRY(test_expect_no_error(t));
	}
}

static const struct test_case cases[] = {
	{ "0 bytes give an object of their own, and NULL may be freed", zero_is_an_object },
	{ "sizes that no machine has give NULL and change nothing", huge_sizes_are_refused },
	{ "no object is resized to a size that no memory has", huge_resizes_are_refused },
	{ "n * size that overflows gives NULL", products_do_not_wrap },
	{ "every size from 1 to 4096 is aligned, usable, and apart from its neighbours", every_size_is_aligned },
	{ "every power of two to 512 KiB is aligned to its size", powers_to_512_kib_are_natural },
	{ "every power of two to 2 MiB is aligned to its size", powers_to_2_mib_are_natural },
	{ "every alignment to 512 KiB is given", alignments_to_512_kib_are_given },
	{ "every alignment to 2 MiB is given", alignments_to_2_mib_are_given },
	{ "alignments 0, 3 and 2^63 give NULL and change nothing", wrong_alignments_are_refused },
	{ "zeroed memory is zero to its last usable byte", zeroed_memory_is_zero },
	{ "at_least gives what usable_size says", at_least_gives_what_is_usable },
	{ "a good size is its own good size", good_sizes_are_stable },
	{ "a bulk gives many objects, or as many as there are", bulk_gives_many },
	{ "a cache-line object shares no 64-byte line", cache_lines_are_not_shared },
	{ "a free with the right size is accepted", sized_frees_accept_the_size },
	{ "a sized free needs not be told the alignment", sized_frees_need_no_alignment },
	{ "the right size is believed after shrinking in place, too", right_sizes_are_believed },
	{ "the default heap does all of it, once made", default_heap_is_one },
	{ "every class of error and fault has a name of its own", names_exist },
};
TEST_GROUP(contract, cases);
