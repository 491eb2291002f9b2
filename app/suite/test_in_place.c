/* SPDX-License-Identifier: MIT */
/*
 * Growth in place: chunks of the source that begin where a region ends lengthen it. Objects lie across them, they go back one by one,
 * and a source whose chunks lie apart is not asked for more.
 */
#include "selftest.h"

#define PAGE KMALLOC_PAGE_SIZE
#define ARENA ((size_t)6 << 20)
#define SIZE ((size_t)3000)
#define N_OBJECTS 1024
#define LITTLE ((size_t)512 << 10)

static void *objects[N_OBJECTS];

static bool fill(struct test *t, struct kheap *heap)
{
	for (unsigned i = 0; i < N_OBJECTS; i++) {
		objects[i] = kheap_alloc(heap, SIZE, 0);
		REQUIRE(t, objects[i] != NULL, "%zu bytes were refused", SIZE);
		test_fill(objects[i], SIZE, i);
	}
	return true;
}

/* Each is as it was filled. */
static bool free_filled(struct test *t, struct kheap *heap)
{
	for (unsigned i = 0; i < N_OBJECTS; i++) {
		if (!test_filled(t, objects[i], SIZE, i, "an object"))
			return false;
		kheap_free(heap, objects[i]);
	}
	return true;
}

static bool is_across(const struct kpage_chunk *chunk, const void *object)
{
	uintptr_t end = chunk->base + chunk->n_pages * PAGE;

	return (uintptr_t)object < end && (uintptr_t)object + SIZE > end;
}

static void chunks_are_one_region(struct test *t)
{
	struct kheap *heap;
	struct kheap_stats stats;
	unsigned n_across = 0;

	TRY(test_source(t, ARENA) && test_heap_on_source(t, &heap));
	TRY(fill(t, heap));
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.n_regions * 2 < t->source.n_given, "%u chunks that lie together are %zu regions",
	      t->source.n_given, stats.n_regions);
	for (unsigned i = 0; i < N_OBJECTS; i++) {
		for (unsigned n = 0; n < t->source.n_given; n++)
			n_across += is_across(&t->source.given[n], objects[i]);
	}
	CHECK(t, n_across > 0, "no object lies across two of %u chunks", t->source.n_given);
	CHECK(t, stats.footprint_bytes < stats.live_bytes + stats.live_bytes / 8,
	      "%zu bytes are held for %zu live ones", stats.footprint_bytes, stats.live_bytes);
	test_note(t, "%u chunks in %zu regions, %u objects across two, %zu bytes for %zu", t->source.n_given,
	          stats.n_regions, n_across, stats.footprint_bytes, stats.live_bytes);
	TRY(free_filled(t, heap));
	TRY(test_end_heap(t, heap));
	CHECK(t, t->source.n_given == 0, "%u chunks were not put back", t->source.n_given);
}

/* Once the memory that the caches hold is given back, too. */
static void chunks_go_back_from_the_end(struct test *t)
{
	struct kheap *heap;
	struct kheap_stats stats;
	size_t full;

	TRY(test_source(t, ARENA) && test_heap_on_source(t, &heap));
	TRY(fill(t, heap));
	full = t->source.given_pages;
	for (unsigned i = N_OBJECTS; i-- > N_OBJECTS / 4;)
		kheap_free(heap, objects[i]);
	CHECK(t, t->source.given_pages < full * 3 / 4, "%zu of %zu pages are held for a quarter of the objects",
	      t->source.given_pages, full);
	(void)kheap_trim(heap);
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.footprint_bytes == t->source.given_pages * PAGE,
	      "the heap says it holds %zu bytes, the source gave %zu", stats.footprint_bytes,
	      t->source.given_pages * PAGE);
	CHECK(t, t->source.given_pages < full * 2 / 5,
	      "after kheap_trim %zu of %zu pages are held for a quarter of the objects", t->source.given_pages, full);
	TRY(test_sound(t, heap, "chunks went back"));
	/* And grows again where it was cut. */
	for (unsigned i = N_OBJECTS / 4; i < N_OBJECTS; i++) {
		objects[i] = kheap_alloc(heap, SIZE, 0);
		CHECK(t, objects[i] != NULL, "%zu bytes were refused", SIZE);
		test_fill(objects[i], SIZE, i);
	}
	TRY(free_filled(t, heap));
	(void)kheap_trim(heap);
	CHECK(t, t->source.given_pages < full / 8, "with nothing live %zu of %zu pages are held after kheap_trim",
	      t->source.given_pages, full);
	TRY(test_end_heap(t, heap));
	CHECK(t, t->source.n_given == 0, "%u chunks were not put back", t->source.n_given);
}

static void apart_is_noticed(struct test *t)
{
	struct kheap *heap;

	TRY(test_source(t, ARENA));
	t->source.gap_pages = 1;
	TRY(test_heap_on_source(t, &heap));
	TRY(fill(t, heap));
	CHECK(t, t->source.n_given > 8, "only %u chunks were needed", t->source.n_given);
	CHECK(t, t->source.n_best == 1, "a source whose chunks lie apart was asked for a place %u times",
	      t->source.n_best);
	TRY(test_end_heap(t, heap));
}

/* A chunk in the way: the region stays as long as it is, and the next one is lengthened. */
static void obstacles_are_passed(struct test *t)
{
	struct kheap *heap;
	struct kpage_chunk obstacle;
	unsigned n_objects = N_OBJECTS / 2, n_regions;
	struct kheap_stats stats;

	TRY(test_source(t, ARENA) && test_heap_on_source(t, &heap));
	for (unsigned i = 0; i < n_objects; i++)
		CHECK(t, kheap_alloc(heap, SIZE, 0) != NULL, "%zu bytes were refused", SIZE);
	kheap_get_stats(heap, &stats);
	n_regions = (unsigned)stats.n_regions;
	const struct kpage_request request = { .min_pages = 3, .want_pages = 3, .max_address = UINTPTR_MAX };
	struct kpage_source source = test_source_config(t).source;

	CHECK(t, source.get(source.ctx, &request, &obstacle), "the source gave no obstacle");
	for (unsigned i = 0; i < n_objects; i++)
		CHECK(t, kheap_alloc(heap, SIZE, 0) != NULL, "%zu bytes were refused", SIZE);
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.n_regions > n_regions, "no region begins behind the obstacle");
	CHECK(t, kheap_owner(heap, (void *)obstacle.base).kind == KHEAP_NOT_OURS,
	      "the obstacle was taken for the heap's");
	TRY(test_end_heap(t, heap));
	source.put(source.ctx, &obstacle);
	CHECK(t, t->source.n_given == 0, "%u chunks were not put back", t->source.n_given);
}

/* Objects to the end of a heap whose source tells what lies behind the first chunk. */
static bool fill_behind(struct test *t, bool is_zero, struct kheap **heap, struct kheap_stats *stats)
{
	struct kheap_config config;

	if (!test_source(t, ARENA))
		return false;
	t->source.gives_zeros = is_zero;
	t->source.tells_behind = true;
	config = test_source_config(t);
	*heap = test_heap_in(t, NULL, ARENA / 16, &config);
	if (*heap == NULL)
		return false;
	kheap_get_stats(*heap, stats);
	return fill(t, *heap);
}

static void promised_pages_are_one_region(struct test *t)
{
	struct kheap *heap;
	struct kheap_stats stats;
	size_t full;

	TRY(fill_behind(t, true, &heap, &stats));
	TRY(test_sound(t, heap, "growth into what was promised"));
	kheap_get_stats(heap, &stats);
	full = t->source.given_pages;
	CHECK(t, t->source.n_given > 8, "only %u chunks were needed", t->source.n_given);
	CHECK(t, stats.n_regions == 1, "a heap whose source promised all that it gave has %zu regions",
	      stats.n_regions);
	TRY(free_filled(t, heap));
	(void)kheap_trim(heap);
	CHECK(t, t->source.given_pages < full / 4, "with nothing live %zu of %zu pages are held after kheap_trim",
	      t->source.given_pages, full);
	TRY(fill(t, heap));
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.n_regions == 1, "it has %zu regions when it has grown again", stats.n_regions);
	TRY(test_end_heap(t, heap));
	CHECK(t, t->source.n_given == 0, "%u chunks were not put back", t->source.n_given);
}

/* Descriptors of what may come would be real memory. */
static void promises_cost_no_real_pages(struct test *t)
{
	struct kheap *heap;
	struct kheap_stats of_zeros, of_others;

	TRY(fill_behind(t, true, &heap, &of_zeros));
	TRY(test_end_heap(t, heap));
	TRY(fill_behind(t, false, &heap, &of_others));
	TRY(test_end_heap(t, heap));
	CHECK(t, of_zeros.overhead_bytes > ARENA / 64, "%zu bytes do not describe the pages to come",
	      of_zeros.overhead_bytes);
	CHECK(t, of_others.overhead_bytes < of_zeros.overhead_bytes / 2,
	      "%zu bytes of pages that cost something are descriptors, %zu where they cost nothing",
	      of_others.overhead_bytes, of_zeros.overhead_bytes);
}

/* It is asked each time, and then elsewhere. */
static void broken_promises_are_survived(struct test *t)
{
	struct kheap *heap;
	struct kheap_config config;
	struct kheap_stats stats;

	TRY(test_source(t, ARENA));
	t->source.gives_zeros = t->source.tells_behind = true;
	t->source.gap_pages = 1;
	config = test_source_config(t);
	heap = test_heap_in(t, NULL, ARENA / 16, &config);
	TRY(heap != NULL && fill(t, heap));
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.n_regions > 1, "the heap has one region although no two chunks lie together");
	/* What is promised of a chunk that is just large enough must not take its pages. */
	void *large = kheap_alloc(heap, ARENA / 8, 0);

	CHECK(t, large != NULL, "%zu bytes were refused", ARENA / 8);
	kheap_free(heap, large);
	TRY(test_end_heap(t, heap));
	CHECK(t, t->source.n_given == 0, "%u chunks were not put back", t->source.n_given);
}

/* A buffer becomes so large, by `step` bytes each time; of what it was it keeps all. NULL: refused, or not so. */
static char *append(struct test *t, struct kheap *heap, size_t step, size_t most, size_t *n_copied)
{
	char *buffer = NULL;

	*n_copied = 0;
	for (size_t size = step; size <= most; size += step) {
		char *grown = kheap_realloc(heap, buffer, size);

		if (grown == NULL || (size % 7 == 0 && !test_filled(t, grown, size - step, 1, "a buffer that grew")))
			return NULL;
		if (grown != buffer)
			*n_copied += size - step;
		buffer = grown;
		/* The same bytes, whatever its size. */
		test_fill(buffer, size, 1);
	}
	return buffer;
}

/* It is copied a few times only, where the source's chunks lie together and where they do not, in a heap of next to nothing and in one of more. */
static void appending_copies_little(struct test *t)
{
	for (unsigned gap = 0; gap < 2; gap++) {
		for (size_t most = 100000; most < ARENA / 8; most *= 2) {
			struct kheap *heap;
			size_t n_copied;

			TRY(test_source(t, ARENA));
			t->source.gap_pages = gap;
			TRY(test_heap_on_source(t, &heap));
			char *buffer = append(t, heap, 1000, most, &n_copied);

			CHECK(t, buffer != NULL, "%zu bytes were refused", most);
			CHECK(t, n_copied < most * 4 + LITTLE, "%zu bytes were copied until a buffer was %zu long",
			      n_copied, most);
			TRY(test_sound(t, heap, "growth of a buffer"));
			kheap_free(heap, buffer);
			TRY(test_end_heap(t, heap));
			CHECK(t, t->source.n_given == 0, "%u chunks were not put back", t->source.n_given);
		}
	}
}

/* A buffer of whole pages grows without a copy where nothing lies behind it, but no further than to what somebody else has. */
static void buffers_grow_at_the_end(struct test *t)
{
	struct kheap *heap;
	struct kheap_config config;
	size_t first = 100000, most = ARENA / 2, n_copied = 0;
	struct kheap_stats stats;

	TRY(test_source(t, ARENA));
	t->source.gives_zeros = t->source.tells_behind = true;
	config = test_source_config(t);
	heap = test_heap_in(t, NULL, ARENA / 16, &config);
	TRY(heap != NULL);
	char *buffer = append(t, heap, first, most, &n_copied);

	CHECK(t, buffer != NULL, "%zu bytes were refused", most);
	kheap_get_stats(heap, &stats);
	CHECK(t, n_copied <= 3 * first, "%zu bytes were copied", n_copied);
	CHECK(t, stats.footprint_bytes < most + most / 4, "%zu bytes are held for a buffer of %zu",
	      stats.footprint_bytes, most);
	test_note(t, "%zu bytes copied, %zu bytes for %zu", n_copied, stats.footprint_bytes, most);
	CHECK(t, kheap_try_resize(heap, buffer, most + most / 8), "it could not grow where it is");
	/* What is allocated now lies behind it, until nothing is free there. */
	CHECK(t, kheap_alloc(heap, most / 8, 0) != NULL, "%zu bytes were refused", most / 8);
	CHECK(t, !kheap_try_resize(heap, buffer, most + most / 2), "it grew over another object");
	CHECK(t, !kheap_try_resize(heap, buffer, PTRDIFF_MAX) && !kheap_try_resize(heap, buffer, SIZE_MAX),
	      "it grew without bound");
	TRY(test_sound(t, heap, "growth of a buffer"));
	TRY(test_end_heap(t, heap));
	CHECK(t, t->source.n_given == 0, "%u chunks were not put back", t->source.n_given);
}

/* Where nothing more is to be had a block that shrinks is cut, and nobody is asked for anything. */
static void shrinking_asks_for_nothing(struct test *t)
{
	enum { LARGE = 12000, LESS = 5000, SMALL = 400 };
	struct kheap *heap;
	struct kheap_stats before, after;
	unsigned n_gets;
	uint8_t *object;

	TRY(test_source(t, ARENA) && test_heap_on_source(t, &heap));
	object = kheap_alloc(heap, LARGE, 0);
	CHECK(t, object != NULL, "%d bytes were refused", LARGE);
	test_fill(object, LARGE, 7);
	t->source.refuse_all = true;
	for (size_t size = LARGE; size >= SMALL; size /= 2)
		while (kheap_alloc(heap, size, 0) != NULL)
			;
	n_gets = t->source.n_gets;
	kheap_get_stats(heap, &before);
	for (size_t size = LESS; size >= SMALL; size /= 3) {
		uint8_t *less = kheap_realloc(heap, object, size);

		CHECK(t, less != NULL && test_filled(t, less, size, 7, "a block that shrank"),
		      "a block of %d bytes did not shrink to %zu", LARGE, size);
		object = less;
	}
	kheap_get_stats(heap, &after);
	CHECK(t, t->source.n_gets == n_gets && after.n_failures == before.n_failures,
	      "the source was asked %u times, and %u calls failed, for a block that shrank", t->source.n_gets - n_gets,
	      (unsigned)(after.n_failures - before.n_failures));
	TRY(test_sound(t, heap, "a block shrank in a full heap"));
}

#define VECTORS 16
#define VECTOR_FIRST ((size_t)40000)
#define VECTOR_MOST ((size_t)300000)

/* They lie at the heap's end in turn: each grows past what the others left there, if nothing stops it. */
static void vectors_use_what_others_left(struct test *t)
{
	static void *vectors[VECTORS];
	static size_t sizes[VECTORS];
	struct kheap *heap;
	struct kheap_config config;
	struct kheap_stats stats;
	struct random random;
	size_t live = 0, most = 0;

	TRY(test_source(t, 2 * ARENA));
	t->source.gives_zeros = t->source.tells_behind = true;
	config = test_source_config(t);
	heap = test_heap_in(t, NULL, ARENA / 8, &config);
	TRY(heap != NULL);
	random_seed(&random, 5);
	for (unsigned i = 0; i < VECTORS; i++) {
		vectors[i] = NULL;
		sizes[i] = 0;
	}
	for (unsigned step = 0; step < 4000; step++) {
		unsigned i = random_below(&random, VECTORS);
		size_t size = sizes[i] + sizes[i] / 4;

		if (size == 0 || size > VECTOR_MOST) {
			kheap_free(heap, vectors[i]);
			vectors[i] = NULL;
			size = VECTOR_FIRST;
		}
		vectors[i] = kheap_realloc(heap, vectors[i], size);
		CHECK(t, vectors[i] != NULL, "%zu bytes were refused", size);
		live += size - sizes[i];
		sizes[i] = size;
		most = live > most ? live : most;
	}
	kheap_get_stats(heap, &stats);
	test_note(t, "%zu bytes for %zu", stats.peak_footprint_bytes, most);
	CHECK(t, stats.peak_footprint_bytes < 2 * most, "%zu bytes were held for %zu in %d vectors",
	      stats.peak_footprint_bytes, most, VECTORS);
	for (unsigned i = 0; i < VECTORS; i++)
		kheap_free(heap, vectors[i]);
	TRY(test_end_heap(t, heap));
}

/* What is too large for the source is no reason to begin a new region for what is small. */
static void refused_objects_close_nothing(struct test *t)
{
	struct kheap *heap;
	struct kheap_stats before, after;

	TRY(test_source(t, ARENA) && test_heap_on_source(t, &heap));
	TRY(fill(t, heap));
	kheap_get_stats(heap, &before);
	for (unsigned i = 0; i < 400; i++) {
		/* More than the region can become longer by, and less. */
		if (i % 40 == 0)
			CHECK(t, kheap_alloc(heap, i % 80 ? ARENA : ARENA / 2, 0) == NULL,
			      "the source cannot have given that");
		CHECK(t, kheap_alloc(heap, SIZE, 0) != NULL, "%zu bytes were refused", SIZE);
	}
	kheap_get_stats(heap, &after);
	CHECK(t, after.n_regions <= before.n_regions + 1, "%zu regions became %zu", before.n_regions, after.n_regions);
	TRY(test_end_heap(t, heap));
}

/* What is behind its end was overwritten: reported once, and the heap asks for nothing. */
static void overrun_objects_grow_nowhere(struct test *t)
{
	struct kheap *heap;
	struct kheap_stats before, after;
	size_t size = 100000;

	if (!test_is_hardened()) {
		test_skip(t, "needs canaries: KMALLOC_HARDENED=1");
		return;
	}
	TRY(test_source(t, ARENA) && test_heap_on_source(t, &heap));
	uint8_t *buffer = kheap_alloc(heap, size, 0);

	CHECK(t, buffer != NULL, "%zu bytes were refused", size);
	buffer[size] ^= 1;
	kheap_get_stats(heap, &before);
	CHECK(t, !kheap_try_resize(heap, buffer, 2 * size), "an object grew that was overrun");
	TRY(test_expect_error(t, KMALLOC_OVERRUN, buffer + size));
	kheap_get_stats(heap, &after);
	CHECK(t, after.footprint_bytes == before.footprint_bytes, "the heap grew from %zu to %zu bytes for it",
	      before.footprint_bytes, after.footprint_bytes);
	buffer[size] ^= 1;
	kheap_free(heap, buffer);
	TRY(test_end_heap(t, heap));
}

/* A source inside whose first call for a place the heap is asked for an object that it has to grow for, too. */
static struct {
	struct kheap *heap; /* NULL: that call is over, or not to be told from others */
	bool is_forked;
	void *object;
	unsigned n_best; /* calls for a place in the course of it */
} inner;

static bool get_with_inner(void *ctx, const struct kpage_request *request, struct kpage_chunk *chunk)
{
	struct test *t = ctx;
	struct kpage_source source = test_source_config(t).source;
	struct kheap *heap = inner.heap;

	if (heap != NULL && request->best_address != 0) {
		unsigned n_best = t->source.n_best;

		inner.heap = NULL;
		if (inner.is_forked)
			kheap_after_fork(heap);
		inner.object = kheap_alloc(heap, SIZE, 0);
		inner.n_best = t->source.n_best - n_best;
	}
	return source.get(source.ctx, request, chunk);
}

static void put_with_inner(void *ctx, const struct kpage_chunk *chunk)
{
	struct kpage_source source = test_source_config(ctx).source;

	source.put(source.ctx, chunk);
}

static bool grow_within_growth(struct test *t, bool is_forked)
{
	struct kheap_config config;
	struct kheap *heap;
	unsigned n = 0;

	if (!test_source(t, ARENA))
		return false;
	config = test_source_config(t);
	config.source = (struct kpage_source){ get_with_inner, put_with_inner, t };
	heap = test_heap_in(t, NULL, 0, &config);
	if (heap == NULL)
		return false;
	inner.heap = heap;
	inner.is_forked = is_forked;
	while (inner.heap != NULL && n < N_OBJECTS && (objects[n] = kheap_alloc(heap, SIZE, 0)) != NULL)
		n++;
	REQUIRE(t, inner.heap == NULL && inner.object != NULL, "inside the source's call an object is %p, after %u",
	        inner.object, n);
	kheap_free(heap, inner.object);
	while (n-- > 0)
		kheap_free(heap, objects[n]);
	return test_end_heap(t, heap);
}

static void calls_end_with_a_fork(struct test *t)
{
	TRY(grow_within_growth(t, false));
	CHECK(t, inner.n_best == 0, "a place was asked for %u times while one was being given", inner.n_best);
	TRY(grow_within_growth(t, true));
	CHECK(t, inner.n_best > 0, "no place was asked for although nobody waits for one any more");
}

static const struct test_case cases[] = {
	{ "chunks that lie together are one region, and objects lie across them", chunks_are_one_region },
	{ "such chunks go back one by one, from the end", chunks_go_back_from_the_end },
	{ "a source whose chunks lie apart is asked for a place once", apart_is_noticed },
	{ "what lies behind a region and is somebody else's is passed", obstacles_are_passed },
	{ "a source that promises the pages behind its first chunk makes a heap of one region",
	  promised_pages_are_one_region },
	{ "descriptors of promised pages are made where they cost nothing", promises_cost_no_real_pages },
	{ "a source that does not keep its promise is asked elsewhere", broken_promises_are_survived },
	{ "a buffer that grows by little at a time is copied a few times only", appending_copies_little },
	{ "a large object at the heap's end grows there", buffers_grow_at_the_end },
	{ "a block shrinks in a full heap without asking for memory", shrinking_asks_for_nothing },
	{ "vectors that grow in turn use the pages that others left", vectors_use_what_others_left },
	{ "a large object that the source refuses leaves the small ones their region", refused_objects_close_nothing },
	{ "in a copy of the process nobody waits for those who were growing the heap", calls_end_with_a_fork },
	{ "an overrun object is reported once, and grows nowhere", overrun_objects_grow_nowhere },
};
TEST_GROUP(in_place, cases);
