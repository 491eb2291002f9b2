/* SPDX-License-Identifier: MIT */
/*
 * What kmalloc.h promises of resizing: bytes are kept, a refusal leaves the old object alone, and in place means in
 * place.
 */
#include "selftest.h"

static const size_t sizes[] = { 0,     1,     16,    17,    40,    100,    128,    255,   256,  300,
	                        500,   512,   1000,  1024,  2000,  2048,   4000,   4096,  6000, 8192,
	                        12000, 20000, 32768, 50000, 65536, 100000, 131072, 200000 };
#define N_SIZES (sizeof(sizes) / sizeof(sizes[0]))

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

static void bytes_are_kept(struct test *t)
{
	struct kheap *heap = test_heap(t, (size_t)4 << 20);

	TRY(heap != NULL);
	for (size_t i = 0; i < N_SIZES; i++) {
		for (size_t j = 0; j < N_SIZES; j++) {
			uint8_t *object = kheap_alloc(heap, sizes[i], 0), *resized;
			size_t natural = sizes[j] > KMALLOC_ALIGNMENT && (sizes[j] & (sizes[j] - 1)) == 0
			                         ? sizes[j]
			                         : KMALLOC_ALIGNMENT;

			CHECK(t, object != NULL, "%zu bytes were refused", sizes[i]);
			test_fill(object, sizes[i], i * N_SIZES + j);
			resized = kheap_realloc(heap, object, sizes[j]);
			CHECK(t, resized != NULL && kheap_usable_size(heap, resized) >= sizes[j],
			      "%zu bytes could not become %zu", sizes[i], sizes[j]);
			CHECK(t, is_aligned(resized, natural), "%zu bytes that became %zu are at %p", sizes[i],
			      sizes[j], (void *)resized);
			TRY(test_filled(t, resized, smaller(sizes[i], sizes[j]), i * N_SIZES + j, "a resized object"));
			test_fill(resized, kheap_usable_size(heap, resized), 0);
			kheap_free(heap, resized);
		}
	}
}

static void null_and_zero_are_defined(struct test *t)
{
	struct kheap *heap = test_heap(t, (size_t)1 << 20);
	struct kheap_stats stats;
	void *object, *shrunk;

	TRY(heap != NULL);
	object = kheap_realloc(heap, NULL, 1000);
	CHECK(t, object != NULL && kheap_usable_size(heap, object) >= 1000, "resizing NULL to 1000 bytes gave %p",
	      object);
	shrunk = kheap_realloc(heap, object, 0);
	CHECK(t, shrunk != NULL, "resizing to 0 bytes gave NULL");
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.live_objects == 1, "resizing to 0 bytes freed the object");
	kheap_free(heap, shrunk);
	object = kheap_realloc_aligned(heap, NULL, 100, 1024);
	CHECK(t, object != NULL && is_aligned(object, 1024), "resizing NULL aligned to 1024 gave %p", object);
	kheap_free(heap, object);
}

static void alignment_is_kept(struct test *t)
{
	struct kheap *heap = test_heap(t, (size_t)2 << 20);

	TRY(heap != NULL);
	for (size_t alignment = 16; alignment <= 65536; alignment *= 2) {
		for (size_t i = 0; i < N_SIZES; i++) {
			void *object = kheap_alloc_aligned(heap, 300, alignment, 0), *resized;

			CHECK(t, object != NULL, "300 bytes aligned to %zu were refused", alignment);
			test_fill(object, 300, i);
			resized = kheap_realloc_aligned(heap, object, sizes[i], alignment);
			CHECK(t, resized != NULL && is_aligned(resized, alignment),
			      "%zu bytes aligned to %zu are at %p", sizes[i], alignment, resized);
			TRY(test_filled(t, resized, smaller(300, sizes[i]), i, "a resized aligned object"));
			kheap_free(heap, resized);
		}
	}
}

static void refusal_keeps_the_object(struct test *t)
{
	struct kheap *heap = test_heap(t, (size_t)1 << 20);
	void *objects[N_SIZES];
	size_t n = 0;
	struct kheap_stats before;

	TRY(heap != NULL);
	for (; n < N_SIZES && (objects[n] = kheap_alloc(heap, sizes[n], 0)) != NULL; n++)
		test_fill(objects[n], sizes[n], n);
	kheap_get_stats(heap, &before);
	for (size_t i = 0; i < n; i++) {
		CHECK(t, kheap_realloc(heap, objects[i], (size_t)1 << 20) == NULL,
		      "1 MiB was found in a heap of 1 MiB");
		CHECK(t, kheap_realloc_aligned(heap, objects[i], (size_t)2 << 20, 64) == NULL,
		      "2 MiB were found in a heap of 1 MiB");
		CHECK(t, !kheap_try_resize(heap, objects[i], (size_t)1 << 20), "an object grew to 1 MiB in place");
		TRY(test_filled(t, objects[i], sizes[i], i, "an object whose resizing was refused"));
		CHECK(t, kheap_usable_size(heap, objects[i]) >= sizes[i],
		      "an object whose resizing was refused lost its size");
	}
	TRY(test_same(t, heap, &before, "a refused resizing"));
	for (size_t i = 0; i < n; i++)
		kheap_free(heap, objects[i]);
}

static void in_place_is_in_place(struct test *t)
{
	struct kheap *heap = test_heap(t, (size_t)4 << 20);

	TRY(heap != NULL);
	for (size_t i = 0; i < N_SIZES; i++) {
		for (size_t j = 0; j < N_SIZES; j++) {
			void *object = kheap_alloc(heap, sizes[i], 0), *behind = kheap_alloc(heap, sizes[i], 0);
			bool was_done;

			test_fill(object, sizes[i], 1);
			test_fill(behind, sizes[i], 2);
			was_done = kheap_try_resize(heap, object, sizes[j]);
			CHECK(t, was_done || sizes[j] > sizes[i], "%zu bytes could not shrink to %zu in place",
			      sizes[i], sizes[j]);
			CHECK(t, kheap_usable_size(heap, object) >= (was_done ? sizes[j] : sizes[i]),
			      "%zu bytes resized to %zu in place have %zu usable ones", sizes[i], sizes[j],
			      kheap_usable_size(heap, object));
			TRY(test_filled(t, object, was_done ? smaller(sizes[i], sizes[j]) : sizes[i], 1,
			                "an object resized in place"));
			if (was_done)
				test_fill(object, kheap_usable_size(heap, object), 3);
			TRY(test_filled(t, behind, sizes[i], 2, "the object behind one that was resized in place"));
			kheap_free(heap, object);
			kheap_free(heap, behind);
		}
	}
}

/* Of two neighbours the one behind is freed: then the other must be able to grow into it. */
static bool grows_into_neighbour(struct test *t, struct kheap *heap, size_t size)
{
	uint8_t *low = kheap_alloc(heap, size, 0), *high = kheap_alloc(heap, size, 0), *swapped;

	REQUIRE(t, low != NULL && high != NULL, "%zu bytes were refused", size);
	if (low > high) {
		swapped = low;
		low = high;
		high = swapped;
	}
	REQUIRE(t, (size_t)(high - low) < size + 4096 + 64, "two objects of %zu bytes are %zu apart", size,
	        (size_t)(high - low));
	test_fill(low, size, 1);
	kheap_free(heap, high);
	REQUIRE(t, kheap_try_resize(heap, low, size + size / 2),
	        "%zu bytes could not grow into the free memory behind them", size);
	REQUIRE(t, kheap_usable_size(heap, low) >= size + size / 2, "%zu bytes that grew by half have %zu usable ones",
	        size, kheap_usable_size(heap, low));
	if (!test_filled(t, low, size, 1, "an object that grew in place"))
		return false;
	test_fill(low, size + size / 2, 2);
	REQUIRE(t, kheap_realloc(heap, low, size) == low, "an object that could shrink in place was moved");
	kheap_free(heap, low);
	return true;
}

static void free_neighbours_are_grown_into(struct test *t)
{
	struct kheap *heap = test_heap(t, (size_t)4 << 20);

	TRY(heap != NULL);
	TRY(grows_into_neighbour(t, heap, 600));
	TRY(grows_into_neighbour(t, heap, 5000));
	TRY(grows_into_neighbour(t, heap, 30000));
	TRY(grows_into_neighbour(t, heap, 70000));
	TRY(grows_into_neighbour(t, heap, 400000));
}

/* A buffer that grows byte by byte: whatever is behind it stays whole, and it moves seldom. */
static void a_growing_buffer_keeps_its_bytes(struct test *t)
{
	enum { STEP = 48, MOST = 40000, MOST_MOVES = 200 };
	struct kheap *heap = test_heap(t, (size_t)4 << 20);
	uint8_t *buffer = NULL, *behind = NULL;
	unsigned n_moves = 0;

	TRY(heap != NULL);
	for (size_t size = STEP; size <= MOST; size += STEP) {
		uint8_t *grown = kheap_realloc(heap, buffer, size);

		CHECK(t, grown != NULL && kheap_usable_size(heap, grown) >= size, "%zu bytes were refused", size);
		if (grown != buffer) {
			n_moves++;
			kheap_free(heap, behind);
			behind = kheap_alloc(heap, size, 0);
			CHECK(t, behind != NULL, "%zu bytes were refused", size);
			test_fill(behind, size, size);
		}
		TRY(test_filled(t, grown, size - STEP, 1, "a buffer that grew"));
		test_fill(grown, size, 1);
		buffer = grown;
	}
	CHECK(t, n_moves <= MOST_MOVES, "a buffer that grew by %u bytes at a time moved %u times", (unsigned)STEP,
	      n_moves);
	TRY(test_sound(t, heap, "a buffer grew"));
	kheap_free(heap, buffer);
	kheap_free(heap, behind);
	test_note(t, "%u moves", n_moves);
}

/* Sizes that the usable size already covers are answered where the object is, powers of two only if it lies right. */
static void room_that_is_there_is_used(struct test *t)
{
	struct kheap *heap = test_heap(t, (size_t)4 << 20);

	TRY(heap != NULL);
	for (size_t i = 0; i < N_SIZES; i++) {
		void *object = kheap_alloc(heap, sizes[i], 0), *resized;
		size_t usable = kheap_usable_size(heap, object);

		CHECK(t, object != NULL, "%zu bytes were refused", sizes[i]);
		resized = kheap_realloc(heap, object, usable);
		CHECK(t, resized == object || !is_aligned(object, usable),
		      "an object of %zu usable bytes moved for as many", usable);
		CHECK(t, kheap_usable_size(heap, resized) >= usable, "an object of %zu usable bytes has %zu", usable,
		      kheap_usable_size(heap, resized));
		kheap_free(heap, resized);
	}
}

static bool is_refused(struct test *t, struct kheap *heap, uint8_t *address, enum kmalloc_error_class error_class)
{
	static const size_t wanted[] = { 0, 16, 100, 256, 2000, 4096, 8192, 70000 };

	/* Its page may be the heap's own now. */
	if (error_class == KMALLOC_DOUBLE_FREE && kheap_owner(heap, address).kind == KHEAP_OVERHEAD)
		error_class = KMALLOC_FOREIGN_POINTER;
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		REQUIRE(t, kheap_realloc(heap, address, wanted[i]) == NULL, "%p could be resized to %zu bytes",
		        (void *)address, wanted[i]);
		if (!test_expect_error(t, error_class, address))
			return false;
	}
	return true;
}

/* Slabs, blocks and runs; what is freed lies in a cache, or is the heap's again. */
static void only_live_objects_are_resized(struct test *t)
{
	enum { MANY = 300 };
	static uint8_t *objects[MANY];
	struct kheap *heap = test_heap(t, (size_t)8 << 20);
	struct kheap_stats before;

	TRY(heap != NULL);
	for (size_t i = 2; i < N_SIZES && sizes[i] <= 20000; i++) {
		for (unsigned k = 0; k < MANY; k++) {
			objects[k] = kheap_alloc(heap, sizes[i], 0);
			CHECK(t, objects[k] != NULL, "%zu bytes were refused", sizes[i]);
		}
		kheap_get_stats(heap, &before);
		TRY(is_refused(t, heap, objects[MANY - 1] + 8, KMALLOC_MISALIGNED_POINTER));
		if (sizes[i] > 32)
			TRY(is_refused(t, heap, objects[MANY - 1] + 16, KMALLOC_INTERIOR_POINTER));
		TRY(test_same(t, heap, &before, "resizing what is inside an object"));
		/* The others keep the pages of most of them the heap's. */
		for (unsigned k = 0; k < MANY; k += 3)
			kheap_free(heap, objects[k]);
		kheap_get_stats(heap, &before);
		for (unsigned k = 0; k < MANY; k += 3)
			TRY(is_refused(t, heap, objects[k], KMALLOC_DOUBLE_FREE));
		TRY(test_same(t, heap, &before, "resizing what is free"));
		for (unsigned k = 0; k < MANY; k++)
			if (k % 3 != 0)
				kheap_free(heap, objects[k]);
	}
	TRY(test_sound(t, heap, "resizing what is free"));
}

/* Small objects that come and go leave headers behind, at the ends of what were areas of a page; blocks now lie over them. */
static void pages_inside_have_no_size(struct test *t)
{
	struct kheap *heap = test_heap(t, (size_t)1 << 20);
	uint8_t *objects[200];

	TRY(heap != NULL);
	for (unsigned i = 0; i < 200; i++)
		objects[i] = kheap_alloc(heap, 1000, 0);
	for (unsigned i = 0; i < 200; i++)
		kheap_free(heap, objects[i]);
	kheap_trim(heap);
	for (unsigned i = 0; i < 30; i++) {
		uintptr_t object = (uintptr_t)kheap_alloc(heap, 20000, 0);
		uintptr_t page = (object / KMALLOC_PAGE_SIZE + 1) * KMALLOC_PAGE_SIZE;

		for (; page < object + 20000; page += KMALLOC_PAGE_SIZE) {
			size_t size = kheap_usable_size(heap, (void *)page);

			CHECK(t, size == 0, "%zu bytes may be used at a page inside an object", size);
			TRY(test_expect_error(t, KMALLOC_INTERIOR_POINTER, (void *)page));
		}
	}
}

static const struct test_case cases[] = {
	{ "a resized object keeps the bytes that both sizes have", bytes_are_kept },
	{ "resizing NULL allocates, resizing to 0 keeps an object", null_and_zero_are_defined },
	{ "a resized object keeps the alignment that was asked for", alignment_is_kept },
	{ "a refused resizing leaves the object as it was", refusal_keeps_the_object },
	{ "resizing in place moves nothing and hurts no neighbour", in_place_is_in_place },
	{ "no page inside an object has a size of its own", pages_inside_have_no_size },
	{ "an object grows into free memory behind it", free_neighbours_are_grown_into },
	{ "a buffer that grows in many steps keeps its bytes and seldom moves", a_growing_buffer_keeps_its_bytes },
	{ "room that an object has is used where it is", room_that_is_there_is_used },
	{ "what is free, or inside an object, is not resized", only_live_objects_are_resized },
};
TEST_GROUP(resize, cases);
