/* SPDX-License-Identifier: MIT */
/*
 * CPU caches: what is freed twice or was never handed out is refused wherever it lies, what is cached goes back when it is wanted, and a cache spares
 * calls the way down. This file knows the heap's inside, to see that objects lie where a case says. Hardened builds have none: the contract alone is tested.
 */
#include "inside.h"
#include "selftest.h"

#define ARENA ((size_t)8 << 20)
#define N_OBJECTS 400 /* the first 256 of the smallest are blocks */
#define N_MORE 600

/* Slab classes and blocks; a heap of several MiB caches both. */
static const size_t sizes[] = { 1, 16, 32, 48, 64, 112, 200, 256, 272, 1000, 1024, 2000, 4000 };
#define N_SIZES (sizeof(sizes) / sizeof(sizes[0]))

/* Objects of one size, each with a pattern of its own. */
struct herd {
	struct kheap *heap;
	size_t size;
	unsigned n;
	uint8_t *objects[N_OBJECTS + N_MORE];
};

static bool herd_grow(struct test *t, struct herd *herd, unsigned n)
{
	for (; n > 0; n--, herd->n++) {
		herd->objects[herd->n] = kheap_alloc(herd->heap, herd->size, 0);
		REQUIRE(t, herd->objects[herd->n] != NULL, "object %u of %zu bytes was refused", herd->n, herd->size);
		test_fill(herd->objects[herd->n], herd->size, herd->n);
	}
	return true;
}

/* Each is as it was filled, so no object lies on another one. One byte cannot tell that, so addresses are compared too. */
static bool herd_is_intact(struct test *t, const struct herd *herd)
{
	for (unsigned i = 0; i < herd->n; i++) {
		for (unsigned k = 0; k < i; k++)
			REQUIRE(t, herd->objects[i] != herd->objects[k], "%p was handed out twice",
			        (void *)herd->objects[i]);
		if (!test_filled(t, herd->objects[i], herd->size, i, "one of many objects"))
			return false;
	}
	return true;
}

static void herd_free(struct herd *herd)
{
	for (unsigned i = 0; i < herd->n; i++)
		kheap_free(herd->heap, herd->objects[i]);
	herd->n = 0;
}

/* A heap that has memory to spare for caches, and may grow. */
static struct kheap *rich_heap(struct test *t)
{
	struct kheap_config config;
	void *arena;

	if (!test_source(t, ARENA))
		return NULL;
	config = test_source_config(t);
	arena = test_arena(t, ARENA);
	return arena != NULL ? test_heap_in(t, arena, ARENA, &config) : NULL;
}

/* ------------------------------------------------------------------------------------------------------------
 * Freeing twice, and what was never handed out
 * --------------------------------------------------------------------------------------------------------- */

static bool all_are_free(struct test *t, struct herd *herd, unsigned n, const char *when)
{
	struct kheap_stats before;

	kheap_get_stats(herd->heap, &before);
	for (unsigned i = 0; i < n; i++) {
		enum kheap_kind kind = kheap_owner(herd->heap, herd->objects[i]).kind;
		bool is_memory = kind != KHEAP_NOT_OURS && kind != KHEAP_OVERHEAD;

		kheap_free(herd->heap, herd->objects[i]);
		/* Its chunk may have gone back to the source, or its page be the heap's own now. */
		if (!test_expect_error(t, is_memory ? KMALLOC_DOUBLE_FREE : KMALLOC_FOREIGN_POINTER, herd->objects[i]))
			return false;
	}
	return test_same(t, herd->heap, &before, when);
}

/* Does a CPU have objects of this class in its magazine and in full clips? */
static bool is_in_both(const struct cpu_cache *cache, unsigned class_index)
{
	return *cache->magazines[MAGAZINE_SLAB + class_index].top != NULL && cache->states[class_index].full != 0;
}

/* Do the objects lie in a magazine and in full clips? */
static bool is_spread(struct test *t, struct kheap *heap, size_t size)
{
	unsigned class_index = (unsigned)((size + KMALLOC_ALIGNMENT - 1) / KMALLOC_ALIGNMENT - 1);
	bool is_found;

	if (HARDENED)
		return true;
	REQUIRE(t, n_cached(heap) > 0, "nothing is cached of %u freed objects of %zu bytes", N_OBJECTS, size);
	if (size > 256)
		return true;
	is_found = is_in_both(&heap->cpu0, class_index);
#if KPORT_CPUS > 1
	for (unsigned i = 0; i < KPORT_CPUS; i++)
		is_found = is_found || is_in_both(heap->cpus[i], class_index);
#endif
	REQUIRE(t, is_found, "no CPU has objects of %zu bytes in its magazine and in full clips", size);
	return true;
}

static void double_frees_are_seen_everywhere(struct test *t)
{
	static struct herd herd;
	struct kheap *heap = rich_heap(t);

	TRY(heap != NULL);
	for (unsigned i = 0; i < N_SIZES; i++) {
		herd = (struct herd){ .heap = heap, .size = sizes[i] };
		TRY(herd_grow(t, &herd, N_OBJECTS));
		kheap_free(heap, herd.objects[0]);
		TRY(all_are_free(t, &herd, 1, "freeing twice at once"));
		for (unsigned k = 1; k < N_OBJECTS; k++)
			kheap_free(heap, herd.objects[k]);
		TRY(is_spread(t, heap, sizes[i]));
		TRY(all_are_free(t, &herd, N_OBJECTS, "freeing twice"));
		herd.n = 0;
		TRY(herd_grow(t, &herd, N_OBJECTS) && herd_is_intact(t, &herd));
		herd_free(&herd);
		kheap_leave(heap);
		TRY(all_are_free(t, &herd, N_OBJECTS, "freeing twice after kheap_leave"));
		(void)kheap_trim(heap);
		CHECK(t, n_cached(heap) == 0, "%zu objects are cached after kheap_trim", n_cached(heap));
		TRY(all_are_free(t, &herd, N_OBJECTS, "freeing twice after kheap_trim"));
		TRY(test_sound(t, heap, "freeing twice"));
	}
}

/* What is not live is resized and freed: each is reported once. A live object at this address is left alone. */
static bool refuses_dead(struct test *t, struct kheap *heap, void *address)
{
	struct kheap_range range = kheap_owner(heap, address);
	unsigned n;

	if (range.is_live && range.base == (uintptr_t)address)
		return true;
	for (size_t size = 1; size <= 4096; size *= 8) {
		REQUIRE(t, kheap_realloc(heap, address, size) == NULL,
		        "%p, where no live object starts, was resized to %zu bytes", address, size);
		n = t->n_errors;
		t->n_errors = 0;
		REQUIRE(t, n == 1, "resizing %p, where no live object starts, was reported %u times", address, n);
	}
	kheap_free(heap, address);
	n = t->n_errors;
	t->n_errors = 0;
	REQUIRE(t, n == 1, "freeing %p, where no live object starts, was reported %u times", address, n);
	return true;
}

/* A slab's page that holds one of the objects, the newest; NULL: none does. */
static uint8_t *slab_of(const struct herd *herd)
{
	for (unsigned i = herd->n; i-- > 0;)
		if (kheap_owner(herd->heap, herd->objects[i]).kind == KHEAP_SLAB_OBJECT)
			return herd->objects[i] - (uintptr_t)herd->objects[i] % KMALLOC_PAGE_SIZE;
	return NULL;
}

static void objects_that_never_were_are_refused(struct test *t)
{
	static struct herd herd;
	struct kheap *heap = rich_heap(t);
	struct kheap_stats before;
	uint8_t *slab;

	TRY(heap != NULL);
	for (unsigned i = 0; i < N_SIZES && sizes[i] < 256; i++) {
		herd = (struct herd){ .heap = heap, .size = sizes[i] };
		TRY(herd_grow(t, &herd, N_OBJECTS));
		slab = slab_of(&herd);
		CHECK(t, slab != NULL, "none of %u objects of %zu bytes is in a slab", N_OBJECTS, sizes[i]);
		kheap_get_stats(heap, &before);
		for (size_t offset = 0; offset < KMALLOC_PAGE_SIZE; offset += KMALLOC_ALIGNMENT)
			TRY(refuses_dead(t, heap, slab + offset));
		TRY(test_same(t, heap, &before, "freeing what was never handed out"));
		TRY(herd_grow(t, &herd, N_MORE) && herd_is_intact(t, &herd));
		TRY(test_sound(t, heap, "freeing what was never handed out"));
		herd_free(&herd);
	}
}

/* Users write into every page that is free. */
static void use_free_pages(struct kheap *heap)
{
	void *first = NULL, **pages;

	while ((pages = kpages_alloc(heap, 1, KMALLOC_PAGE_SIZE, UINTPTR_MAX, KMALLOC_NO_GROW)) != NULL) {
		test_fill(pages, KMALLOC_PAGE_SIZE, (uintptr_t)pages);
		*pages = first;
		first = pages;
	}
	while ((pages = first) != NULL) {
		first = *pages;
		kpages_free(heap, pages);
	}
	(void)kheap_trim(heap);
}

/* Pointers that are kept too long: their page has become a slab of another size. */
static void stale_pointers_are_refused(struct test *t)
{
	static const size_t pairs[][2] = { { 64, 32 }, { 48, 16 }, { 256, 128 }, { 128, 240 }, { 32, 64 }, { 96, 48 } };
	static struct herd old, new;
	struct kheap *heap = rich_heap(t);
	unsigned n_stale = 0;

	TRY(heap != NULL);
	for (unsigned i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		old = (struct herd){ .heap = heap, .size = pairs[i][0] };
		new = (struct herd){ .heap = heap, .size = pairs[i][1] };
		TRY(herd_grow(t, &old, N_OBJECTS));
		herd_free(&old);
		kheap_leave(heap);
		(void)kheap_trim(heap);
		use_free_pages(heap);
		TRY(herd_grow(t, &new, N_OBJECTS));
		for (unsigned k = 0; k < N_OBJECTS; k++) {
			n_stale += kheap_owner(heap, old.objects[k]).kind == KHEAP_SLAB_OBJECT;
			TRY(refuses_dead(t, heap, old.objects[k]));
		}
		TRY(herd_grow(t, &new, N_MORE) && herd_is_intact(t, &new));
		TRY(test_sound(t, heap, "stale pointers"));
		herd_free(&new);
	}
	CHECK(t, n_stale > 0, "no page of a slab became one of another size");
	test_note(t, "%u pointers into reused slabs", n_stale);
}

static void no_offset_is_taken_for_an_object(struct test *t)
{
	static struct herd herd;
	struct kheap *heap = rich_heap(t);
	struct kheap_stats before;

	TRY(heap != NULL);
	for (unsigned i = 0; i < N_SIZES; i++) {
		herd = (struct herd){ .heap = heap, .size = sizes[i] };
		TRY(herd_grow(t, &herd, N_OBJECTS));
		kheap_get_stats(heap, &before);
		/* A block among the first, and the last, which is in a slab if its class has any. */
		for (unsigned k = 1; k < N_OBJECTS; k += N_OBJECTS - 2) {
			for (size_t offset = 1; offset < sizes[i]; offset++) {
				uint8_t *inside = herd.objects[k] + offset;

				kheap_free(heap, inside);
				TRY(test_expect_error(t,
				                      is_aligned(inside, KMALLOC_ALIGNMENT)
				                              ? KMALLOC_INTERIOR_POINTER
				                              : KMALLOC_MISALIGNED_POINTER,
				                      inside));
			}
		}
		TRY(test_same(t, heap, &before, "freeing what is inside an object"));
		TRY(herd_is_intact(t, &herd));
		herd_free(&herd);
	}
}

/* ------------------------------------------------------------------------------------------------------------
 * What is cached goes back
 * --------------------------------------------------------------------------------------------------------- */

#define N_MIXED 4000

/* Objects of all sizes that are cached, all live at once, then freed in another order. */
static bool fill_caches(struct test *t, struct kheap *heap)
{
	static void *objects[N_MIXED];
	struct random random;

	random_seed(&random, t->options->seed);
	for (unsigned i = 0; i < N_MIXED; i++) {
		size_t size = random_size(&random, 1, i % 8 != 0 ? 256 : 4096);

		objects[i] = kheap_alloc(heap, size, 0);
		REQUIRE(t, objects[i] != NULL, "object %u of %u, %zu bytes, was refused", i, N_MIXED, size);
		test_fill(objects[i], size, i);
	}
	for (unsigned i = 0; i < N_MIXED; i++)
		kheap_free(heap, objects[(i * 1009) % N_MIXED]);
	return true;
}

static void leave_and_trim_give_all_back(struct test *t)
{
	struct kheap_config config;
	struct kheap_stats stats;
	struct kheap *heap;
	size_t n;

	TRY(test_source(t, ARENA));
	config = test_source_config(t);
	heap = test_heap_in(t, NULL, 0, &config);
	TRY(heap != NULL);
	TRY(fill_caches(t, heap));
	n = n_cached(heap);
	CHECK(t, n > 0 || HARDENED, "nothing is cached when %u objects have been freed", N_MIXED);
	kheap_leave(heap);
	TRY(test_sound(t, heap, "kheap_leave"));
	(void)kheap_trim(heap);
	CHECK(t, n_cached(heap) == 0, "%zu objects are cached after kheap_leave and kheap_trim", n_cached(heap));
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.live_objects == 0 && stats.live_bytes == 0,
	      "%zu objects of %zu bytes are live when all are freed", stats.live_objects, stats.live_bytes);
	CHECK(t, stats.n_allocs == stats.n_frees, "%zu objects were handed out, %zu came back", (size_t)stats.n_allocs,
	      (size_t)stats.n_frees);
	CHECK(t, stats.n_regions <= 2 && t->source.n_given == stats.n_regions,
	      "%zu regions of %zu bytes are left of an empty heap", stats.n_regions, stats.footprint_bytes);
	/* It may come again. */
	TRY(fill_caches(t, heap));
	test_note(t, "%zu objects were cached, %zu bytes are left", n, stats.footprint_bytes);
}

static void caches_are_drained_before_the_heap_fails(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	struct kheap_stats trimmed, cached;
	void *pages;

	TRY(heap != NULL);
	kheap_free(heap, kheap_alloc(heap, 1, 0));
	(void)kheap_trim(heap);
	kheap_get_stats(heap, &trimmed);
	TRY(fill_caches(t, heap));
	kheap_get_stats(heap, &cached);
	CHECK(t, cached.largest_free_bytes < trimmed.largest_free_bytes,
	      "the caches hold no page that is missing in the largest free range of %zu bytes",
	      cached.largest_free_bytes);
	pages = kpages_alloc(heap, trimmed.largest_free_bytes / KMALLOC_PAGE_SIZE, KMALLOC_PAGE_SIZE, UINTPTR_MAX, 0);
	CHECK(t, pages != NULL, "%zu bytes were refused, though all but caches is free", trimmed.largest_free_bytes);
	CHECK(t, n_cached(heap) == 0, "%zu objects are cached in a heap that had to drain", n_cached(heap));
	test_fill(pages, trimmed.largest_free_bytes, 1);
	TRY(test_sound(t, heap, "the caches were drained"));
	kpages_free(heap, pages);
}

/* ------------------------------------------------------------------------------------------------------------
 * The cache alone
 * --------------------------------------------------------------------------------------------------------- */

static bool cache_refuses(struct test *t, struct kheap *heap, void *address, const char *what)
{
	struct kheap_stats before;

	kheap_get_stats(heap, &before);
	REQUIRE(t, !kheap_free_cached(heap, address), "%s, %p, was taken by the cache", what, address);
	REQUIRE(t, t->n_errors == 0, "%s was reported, though nothing was to be done", what);
	return test_same(t, heap, &before, what);
}

static void cache_alone_does_all_or_nothing(struct test *t)
{
	static int elsewhere[8];
	struct kheap *heap = rich_heap(t);
	uint8_t *object, *again;

	TRY(heap != NULL);
	CHECK(t, kheap_alloc_cached(heap, FAST_MAX + 1) == NULL && kheap_alloc_cached(heap, SIZE_MAX) == NULL,
	      "sizes that no cache has were found in one");
	for (unsigned i = 0; i < N_SIZES; i++)
		CHECK(t, kheap_alloc_cached(heap, sizes[i]) == NULL, "a new heap has %zu bytes in its cache", sizes[i]);
	for (unsigned i = 0; i < N_SIZES; i++) {
		/* Twice, because at first blocks may stand in. */
		for (unsigned k = 0; k < 2; k++) {
			static struct herd herd;

			herd = (struct herd){ .heap = heap, .size = sizes[i] };
			TRY(herd_grow(t, &herd, N_OBJECTS));
			herd_free(&herd);
		}
		object = kheap_alloc(heap, sizes[i], 0);
		CHECK(t, object != NULL, "%zu bytes were refused", sizes[i]);
		for (size_t offset = 1; offset < sizes[i]; offset++)
			TRY(cache_refuses(t, heap, object + offset, "a pointer into an object"));
		if (HARDENED)
			continue;
		CHECK(t, kheap_free_cached(heap, object), "%zu bytes are not taken by the cache that they are from",
		      sizes[i]);
		TRY(cache_refuses(t, heap, object, "what is free"));
		again = kheap_alloc_cached(heap, sizes[i]);
		CHECK(t, again == object, "%zu bytes at %p went into the cache and came out at %p", sizes[i],
		      (void *)object, (void *)again);
		test_fill(again, kheap_usable_size(heap, again), i);
		kheap_free(heap, again);
	}
	TRY(cache_refuses(t, heap, NULL, "NULL"));
	TRY(cache_refuses(t, heap, elsewhere, "a pointer from elsewhere"));
	TRY(cache_refuses(t, heap, heap, "the heap's own"));
	object = kheap_alloc(heap, 100000, 0);
	TRY(cache_refuses(t, heap, object, "a page run"));
	kheap_free(heap, object);
	TRY(test_sound(t, heap, "the cache alone"));
}

/* Too few for a slab by what they take as blocks; but there they come and go the long way. */
static void few_busy_objects_get_a_slab(struct test *t)
{
	/* A block of this size is smaller than an object of its class, so no magazine can keep it. */
	enum { N_FEW = 20, N_TURNS = 40000, SIZE = 136, N_PAGES = 128, REST = 100000 };
	void *objects[N_FEW] = { NULL }, *pages[N_PAGES];
	struct kheap *heap;
	unsigned n_in_slabs = 0, n_pages = 0;

	TRY(test_source(t, ARENA) && test_heap_on_source(t, &heap));
	/* In a heap of a few pages each one counts. */
	void *rest = kheap_alloc(heap, REST, 0);

	CHECK(t, rest != NULL, "%d bytes were refused", REST);
	for (unsigned i = 0; i < N_TURNS; i++) {
		/* All go before the first one comes again: a few that take turns would stay in the cache as they are. */
		for (unsigned n = 0; i % N_FEW == 0 && n < N_FEW; n++)
			kheap_free(heap, objects[n]);
		objects[i % N_FEW] = kheap_alloc(heap, SIZE, 0);
		CHECK(t, objects[i % N_FEW] != NULL, "%d bytes were refused", SIZE);
		/* No page is left: the slab's is one that the source gives. */
		while (i == N_FEW && n_pages < N_PAGES &&
		       (pages[n_pages] = kpages_alloc(heap, 1, KMALLOC_PAGE_SIZE, UINTPTR_MAX, KMALLOC_NO_GROW)) !=
		               NULL)
			n_pages++;
	}
	CHECK(t, n_pages < N_PAGES, "a new heap has %u free pages or more", n_pages);
	for (unsigned i = 0; i < N_FEW; i++) {
		n_in_slabs += kheap_owner(heap, objects[i]).kind == KHEAP_SLAB_OBJECT;
		kheap_free(heap, objects[i]);
	}
	test_note(t, "%u pages taken, %u objects in slabs", n_pages, n_in_slabs);
	CHECK(t, HARDENED || n_in_slabs > N_FEW * 3 / 4, "%u of %d objects are in slabs after %d came and went",
	      n_in_slabs, N_FEW, N_TURNS);
	for (unsigned i = 0; i < n_pages; i++)
		kheap_free(heap, pages[i]);
	kheap_free(heap, rest);
	TRY(test_end_heap(t, heap));
}

/* What a CPU keeps nobody else can have, so in a large heap it is little, however much that CPU frees. */
static void a_cpu_keeps_little_of_a_large_heap(struct test *t)
{
	enum { SIZE = 256, N_BYTES = 24 << 20, LIMIT = 64 << 20, MOST = 4 << 20 };
	struct kheap *heap = HARDENED ? NULL : test_heap_on_host_pages(t, LIMIT);
	void **list = NULL, **next;
	size_t most = 0;

	if (heap == NULL) {
		if (HARDENED)
			test_skip(t, "the hardened builds have no CPU caches");
		return;
	}
	for (size_t n = 0; n < N_BYTES; n += SIZE) {
		void **object = kheap_alloc(heap, SIZE, 0);

		CHECK(t, object != NULL, "%d bytes were refused after %zu", SIZE, n);
		*object = list;
		list = object;
	}
	for (; list != NULL; list = next) {
		next = *list;
		kheap_free(heap, list);
		most = max_size(most, heap->cpu0.own_bytes);
	}
	test_note(t, "at most %zu KiB", most >> 10);
	CHECK(t, most > MOST / 2 && most <= MOST + CLIP_WORDS * SIZE, "%zu bytes were kept in full magazines", most);
	TRY(test_sound(t, heap, "all objects were freed"));
}

/* How many objects left the shared storeys while a herd was freed, n_rounds times, and allocated again. */
static bool herd_turns(struct test *t, struct herd *herd, size_t alignment, unsigned n_rounds, uint64_t *n_shared)
{
	struct kheap_stats before, after;
	unsigned n = herd->n;

	kheap_get_stats(herd->heap, &before);
	for (unsigned round = 0; round < n_rounds; round++) {
		herd_free(herd);
		for (; herd->n < n; herd->n++) {
			uint8_t *object = kheap_alloc_aligned(herd->heap, herd->size, alignment, 0);

			herd->objects[herd->n] = object;
			REQUIRE(t, object != NULL && (uintptr_t)object % alignment == 0,
			        "%zu bytes aligned to %zu are at %p", herd->size, alignment, (void *)object);
		}
	}
	kheap_get_stats(herd->heap, &after);
	*n_shared = after.n_allocs - before.n_allocs;
	return true;
}

/* One CPU takes many and frees all of them, again and again. */
static void bursts_stay_in_the_cache(struct test *t)
{
	static const size_t bursts[][3] = { { 1000, KMALLOC_ALIGNMENT, N_OBJECTS }, { PAGE_SIZE, PAGE_SIZE, 100 },
		                            { 3 * PAGE_SIZE - 100, PAGE_SIZE, 40 }, { 32768, 32768, 16 },
		                            { 12000, KMALLOC_ALIGNMENT, 60 },       { 100000, KMALLOC_ALIGNMENT, 8 } };
	enum { ROUNDS = 16 };
	static struct herd herd;
	uint64_t n_shared;

	herd = (struct herd){ .heap = rich_heap(t) };
	TRY(herd.heap != NULL);
	/* Several CPUs keep few of the last two. */
	for (unsigned i = 0; i < (herd.heap->n_caches ? 4 : sizeof(bursts) / sizeof(bursts[0])); i++) {
		herd.size = bursts[i][0];
		if (i >= 4)
			(void)kheap_trim(herd.heap);
		TRY(herd_grow(t, &herd, (unsigned)bursts[i][2]));
		TRY(herd_turns(t, &herd, bursts[i][1], ROUNDS, &n_shared) &&
		    herd_turns(t, &herd, bursts[i][1], ROUNDS, &n_shared));
		CHECK(t, HARDENED || n_shared < ROUNDS * herd.n / 16, "%zu of %u objects of %zu bytes were not cached",
		      (size_t)n_shared, ROUNDS * herd.n, herd.size);
		herd_free(&herd);
	}
	TRY(test_end_heap(t, herd.heap));
}

/* What was asked for with an alignment serves the next one that is. */
static void aligned_objects_come_from_the_cache(struct test *t)
{
	static const size_t shapes[][2] = { { 24, 32 },   { 100, 64 },  { 320, 64 },   { 512, 64 },
		                            { 700, 128 }, { 1000, 32 }, { 2048, 256 }, { 3000, 1024 } };
	enum { N_ALIGNED = 12, ROUNDS = 200 };
	static struct herd herd;
	uint64_t n_shared;

	herd = (struct herd){ .heap = rich_heap(t) };
	TRY(herd.heap != NULL);
	for (unsigned i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		herd.size = shapes[i][0];
		TRY(herd_grow(t, &herd, N_ALIGNED) && herd_turns(t, &herd, shapes[i][1], ROUNDS, &n_shared) &&
		    herd_turns(t, &herd, shapes[i][1], ROUNDS, &n_shared));
		CHECK(t, HARDENED || n_shared < ROUNDS * N_ALIGNED / 16,
		      "%llu of %d objects of %zu bytes, aligned to %zu, came from the shared storeys",
		      (unsigned long long)n_shared, ROUNDS * N_ALIGNED, shapes[i][0], shapes[i][1]);
		herd_free(&herd);
		TRY(test_sound(t, herd.heap, "aligned objects were cached"));
	}
	TRY(test_end_heap(t, herd.heap));
}

static const struct test_case cases[] = {
	{ "a double free is reported from a magazine, from full clips, and after a flush",
	  double_frees_are_seen_everywhere },
	{ "objects of a slab that were never handed out are refused", objects_that_never_were_are_refused },
	{ "stale pointers into a page that was reused are refused", stale_pointers_are_refused },
	{ "no offset inside an object is taken for an object", no_offset_is_taken_for_an_object },
	{ "kheap_leave and kheap_trim give everything back", leave_and_trim_give_all_back },
	{ "caches are drained before the heap fails", caches_are_drained_before_the_heap_fails },
	{ "few objects that come and go often get a slab", few_busy_objects_get_a_slab },
	{ "bursts of blocks and runs stay in the cache", bursts_stay_in_the_cache },
	{ "aligned objects come from the cache, too", aligned_objects_come_from_the_cache },
	{ "a CPU keeps little of a large heap", a_cpu_keeps_little_of_a_large_heap },
	{ "kheap_alloc_cached and kheap_free_cached do all, or nothing", cache_alone_does_all_or_nothing },
};

TEST_GROUP(caches, cases);
