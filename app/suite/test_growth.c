/* SPDX-License-Identifier: MIT */
/*
 * Growth: the page source refuses, gives less, gives the wrong places, calls back into the heap. The heap must do
 * what it can, refuse the rest, and give everything back.
 */
#include <kmalloc_port.h>

#include "selftest.h"

#define PAGE KMALLOC_PAGE_SIZE
#define ARENA ((size_t)4 << 20)
#define WORK_SLOTS 96
#define WORK_STEPS 400
#define WORK_BYTES_MAX 40000

/* Everything back, and sound at the end. */
static bool end_heap(struct test *t, struct kheap *heap)
{
	if (!test_end_heap(t, heap))
		return false;
	REQUIRE(t, t->source.n_given == 0 && t->source.n_wrong_puts == 0,
	        "after kheap_destroy %u chunks were not put back and %u wrong ones were", t->source.n_given,
	        t->source.n_wrong_puts);
	return true;
}

/* ------------------------------------------------------------------------------------------------------------
 * Refusal at every call
 * --------------------------------------------------------------------------------------------------------- */

/*
 * Random work with every byte verified; allocations may fail, nothing else may. Returns false when the case has
 * failed.
 */
static bool work(struct test *t, struct kheap *heap, unsigned *n_failed)
{
	static void *slots[WORK_SLOTS];
	static size_t lengths[WORK_SLOTS];
	struct random random;
	bool is_well = true;

	for (unsigned i = 0; i < WORK_SLOTS; i++)
		slots[i] = NULL;
	random_seed(&random, 11);
	for (unsigned step = 0; step < WORK_STEPS && is_well; step++) {
		uint32_t i = random_below(&random, WORK_SLOTS);
		size_t size = random_size(&random, 1, WORK_BYTES_MAX);
		void *object;

		if (slots[i] != NULL)
			is_well = test_filled(t, slots[i], lengths[i], i, "an object while the source refuses");
		if (slots[i] != NULL && random_below(&random, 2) == 0) {
			kheap_free(heap, slots[i]);
			slots[i] = NULL;
		}
		object = kheap_realloc(heap, slots[i], size);
		if (object == NULL) {
			(*n_failed)++;
			continue;
		}
		test_fill(object, size, i);
		slots[i] = object;
		lengths[i] = size;
	}
	for (unsigned i = 0; i < WORK_SLOTS; i++) {
		if (is_well && slots[i] != NULL)
			is_well = test_filled(t, slots[i], lengths[i], i, "an object after the source refused");
		kheap_free(heap, slots[i]);
	}
	return is_well;
}

/* The whole workload with get() number n refused, once or from then on. *was_refused: it got that far. */
static bool work_with_refusal(struct test *t, unsigned n, bool for_ever, bool *was_refused)
{
	struct kheap_config config = test_source_config(t);
	struct kheap_stats stats;
	unsigned n_failed = 0;
	struct kheap *heap;

	t->source.n_gets = t->source.n_puts = t->source.n_refused = 0;
	t->source.refuse_at = n;
	t->source.refuse_after = for_ever;
	heap = kheap_create(NULL, 0, &config);
	if (heap != NULL) {
		if (!work(t, heap, &n_failed) || !test_sound(t, heap, "a refusal of the source"))
			return false;
		kheap_get_stats(heap, &stats);
		REQUIRE(t, stats.live_objects == 0 && stats.live_bytes == 0, "%zu objects are live at the end",
		        stats.live_objects);
		kheap_destroy(heap);
	}
	*was_refused = t->source.n_refused > 0;
	REQUIRE(t, heap != NULL || n == 1, "no heap was made although only call %u of the source was refused", n);
	REQUIRE(t, heap == NULL || n > 1, "a heap was made although its first chunk was refused");
	REQUIRE(t, *was_refused || n_failed == 0, "%u allocations failed although the source refused nothing",
	        n_failed);
	REQUIRE(t, t->source.n_given == 0, "%u chunks were not put back after call %u was refused", t->source.n_given,
	        n);
	return true;
}

static bool survives_refusals(struct test *t, bool for_ever)
{
	bool was_refused = true;
	unsigned n = 1;

	if (!test_source(t, ARENA))
		return false;
	/* Chunks just large enough, so that there are many calls. */
	t->source.give_minimum = true;
	for (; was_refused && n < 1000; n++) {
		if (!work_with_refusal(t, n, for_ever, &was_refused))
			return false;
		t->host->alive(t->host, false);
	}
	REQUIRE(t, !was_refused, "the workload still met a refusal at call 1000");
	REQUIRE(t, n > 10, "the workload asked the source %u times only", n);
	test_note(t, "%u calls", n - 2);
	return true;
}

static void one_refusal_is_survived(struct test *t)
{
	(void)survives_refusals(t, false);
}

static void lasting_refusal_is_survived(struct test *t)
{
	(void)survives_refusals(t, true);
}

/* ------------------------------------------------------------------------------------------------------------
 * Strange chunks
 * --------------------------------------------------------------------------------------------------------- */

static void too_little_is_put_back(struct test *t)
{
	struct kheap *heap;
	struct kheap_stats before;
	unsigned n_puts;

	TRY(test_source(t, ARENA) && test_heap_on_source(t, &heap));
	kheap_get_stats(heap, &before);
	n_puts = t->source.n_puts;
	t->source.give_less = true;
	CHECK(t, kheap_alloc(heap, (size_t)1 << 20, 0) == NULL, "1 MiB was found although the source gives too little");
	CHECK(t, t->source.n_puts > n_puts && t->source.n_given == 1,
	      "a chunk that is too small was not put straight back");
	TRY(test_same(t, heap, &before, "a chunk that is too small"));
	t->source.give_less = false;
	kheap_free(heap, kheap_alloc(heap, (size_t)1 << 20, 0));
	CHECK(t, t->source.n_gets >= 3, "the source was not asked again");
	TRY(end_heap(t, heap));
}

static bool works_with_source(struct test *t, const char *what)
{
	struct kheap *heap;
	unsigned n_failed = 0;

	if (!test_heap_on_source(t, &heap) || !work(t, heap, &n_failed))
		return false;
	REQUIRE(t, n_failed == 0, "%u allocations failed with a source that gives %s", n_failed, what);
	return end_heap(t, heap);
}

static void any_place_serves(struct test *t)
{
	TRY(test_source(t, ARENA));
	TRY(works_with_source(t, "the lowest pages"));
	t->source.from_top = true;
	TRY(works_with_source(t, "the highest pages first"));
	t->source.give_minimum = true;
	TRY(works_with_source(t, "the highest pages, and only what is needed"));
	t->source.gap_pages = 3;
	TRY(works_with_source(t, "small chunks with gaps between them"));
	t->source.from_top = false;
	t->source.alignment = (size_t)32 << 10;
	t->source.gap_pages = 0;
	TRY(works_with_source(t, "chunks one page past a boundary of 32 KiB"));
}

/* Aligned objects from a source whose chunks never begin at a boundary. */
/* Chunks come and go several times, so that zeros are given where something else was; the heap believes them and writes none again. */
static void zero_chunks_serve(struct test *t)
{
	TRY(test_source(t, ARENA));
	t->source.gives_zeros = true;
	TRY(works_with_source(t, "zeros"));
	t->source.give_minimum = true;
	t->source.from_top = true;
	TRY(works_with_source(t, "small chunks of zeros"));
}

static void misaligned_chunks_serve(struct test *t, size_t arena, size_t boundary)
{
	TRY(test_source(t, arena));
	t->source.alignment = boundary;
	t->source.give_minimum = true;
	for (size_t alignment = PAGE; alignment <= boundary; alignment *= 4) {
		struct kheap *heap;
		void *natural, *asked;

		TRY(test_heap_on_source(t, &heap));
		natural = kheap_alloc(heap, alignment, 0);
		asked = kheap_alloc_aligned(heap, 100, alignment, 0);
		CHECK(t, natural != NULL && is_aligned(natural, alignment),
		      "%zu bytes from chunks that begin one page past %zu are %p", alignment, boundary, natural);
		CHECK(t, asked != NULL && is_aligned(asked, alignment),
		      "100 bytes aligned to %zu from such chunks are %p", alignment, asked);
		kheap_free(heap, natural);
		kheap_free(heap, asked);
		TRY(end_heap(t, heap));
	}
}

static void chunks_past_256_kib_serve(struct test *t)
{
	misaligned_chunks_serve(t, ARENA, (size_t)256 << 10);
}

static void chunks_past_1_mib_serve(struct test *t)
{
	misaligned_chunks_serve(t, (size_t)8 << 20, (size_t)1 << 20);
}

static void low_pages_are_asked_for(struct test *t)
{
	struct kheap *heap;
	void *object;
	bool is_low;

	TRY(test_source(t, ARENA) && test_heap_on_source(t, &heap));
	is_low = t->source.end - 1 <= UINT32_MAX;
	object = kheap_alloc(heap, (size_t)1 << 20, KMALLOC_BELOW_4G);
	CHECK(t, t->source.last.max_address <= UINT32_MAX || object != NULL,
	      "a request below 4 GiB was handed on to the source with the limit 0x%zx",
	      (size_t)t->source.last.max_address);
	CHECK(t, (object != NULL) == is_low, "1 MiB below 4 GiB was %s, the arena being %s it",
	      object != NULL ? "given" : "refused", is_low ? "below" : "above");
	CHECK(t, object == NULL || (uintptr_t)object + ((size_t)1 << 20) - 1 <= UINT32_MAX,
	      "1 MiB below 4 GiB is at %p", object);
	kheap_free(heap, object);
	/* A small one, where blocks lie higher, takes a page of its own besides the descriptors'. */
	kheap_free(heap, kheap_alloc(heap, 100, KMALLOC_BELOW_4G));
	CHECK(t, is_low || t->source.last.min_pages == 2, "for 100 bytes below 4 GiB %zu pages were asked for",
	      t->source.last.min_pages);
	object = kheap_alloc(heap, (size_t)1 << 20, 0);
	CHECK(t, object != NULL && t->source.last.max_address == UINTPTR_MAX,
	      "an ordinary request has a limit of 0x%zx", (size_t)t->source.last.max_address);
	kheap_free(heap, object);
	TRY(end_heap(t, heap));
}

static void source_may_enter_the_heap(struct test *t)
{
	struct kheap *heap;
	unsigned n_failed = 0;

	TRY(test_source(t, ARENA) && test_heap_on_source(t, &heap));
	t->source.give_minimum = true;
	t->source.enter = heap;
	TRY(work(t, heap, &n_failed));
	CHECK(t, t->source.n_entered > 10, "the source entered the heap %u times only", t->source.n_entered);
	CHECK(t, n_failed == 0, "%u allocations failed because the source entered the heap", n_failed);
	kheap_trim(heap);
	t->source.enter = NULL;
	TRY(end_heap(t, heap));
}

/* ------------------------------------------------------------------------------------------------------------
 * When to grow, and when to shrink
 * --------------------------------------------------------------------------------------------------------- */

static void no_grow_does_not_ask(struct test *t)
{
	struct kheap *heap;
	struct kheap_stats before, after;
	unsigned n_gets;

	TRY(test_source(t, ARENA) && test_heap_on_source(t, &heap));
	kheap_get_stats(heap, &before);
	n_gets = t->source.n_gets;
	CHECK(t, kheap_alloc(heap, (size_t)1 << 20, KMALLOC_NO_GROW) == NULL, "1 MiB was found without growing");
	CHECK(t, kpages_alloc(heap, 256, PAGE, UINTPTR_MAX, KMALLOC_NO_GROW) == NULL,
	      "256 pages were found without growing");
	CHECK(t, t->source.n_gets == n_gets, "the source was asked although the request forbids it");
	TRY(test_same(t, heap, &before, "a request that may not grow the heap"));
	kheap_get_stats(heap, &after);
	CHECK(t, after.n_failures == before.n_failures + 2, "two refusals were counted as %llu",
	      (unsigned long long)(after.n_failures - before.n_failures));
	TRY(end_heap(t, heap));
}

static void empty_chunks_go_back(struct test *t)
{
	enum { N = 24 };
	struct kheap *heap;
	void *objects[N];
	struct kheap_stats before, stats;
	size_t given_back;

	TRY(test_source(t, ARENA) && test_heap_on_source(t, &heap));
	kheap_get_stats(heap, &before);
	for (unsigned i = 0; i < N; i++) {
		objects[i] = kheap_alloc(heap, 100000, 0);
		CHECK(t, objects[i] != NULL, "100000 bytes were refused");
	}
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.n_grown >= 1 && stats.footprint_bytes >= N * 100000, "the heap did not grow");
	for (unsigned i = 0; i < N; i++)
		kheap_free(heap, objects[i]);
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.footprint_bytes < ARENA / 2, "%zu bytes are held with nothing live, and not given back",
	      stats.footprint_bytes);
	CHECK(t, stats.footprint_bytes == t->source.given_pages * PAGE,
	      "the heap says it holds %zu bytes, the source gave %zu", stats.footprint_bytes,
	      t->source.given_pages * PAGE);
	given_back = kheap_trim(heap);
	CHECK(t, given_back == stats.footprint_bytes - t->source.given_pages * PAGE,
	      "kheap_trim says %zu bytes, the source got %zu", given_back,
	      stats.footprint_bytes - t->source.given_pages * PAGE);
	/* Where there are several CPUs, the one that holds the table of regions stays. */
	CHECK(t, t->source.n_given <= (KPORT_CPUS > 1 ? 2 : 1), "%u chunks are held after kheap_trim",
	      t->source.n_given);
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.footprint_bytes == t->source.given_pages * PAGE && stats.n_regions == t->source.n_given,
	      "the footprint is %zu bytes in %zu regions, the source gave %zu in %u", stats.footprint_bytes,
	      stats.n_regions, t->source.given_pages * PAGE, t->source.n_given);
	CHECK(t, stats.n_grown - stats.n_shrunk == before.n_grown - before.n_shrunk + t->source.n_given - 1,
	      "chunks got and put back are counted wrongly");
	TRY(end_heap(t, heap));
}

static void edge_does_not_thrash(struct test *t)
{
	struct kheap *heap;
	void *objects[64];
	unsigned calls, worst = 0;

	TRY(test_source(t, ARENA) && test_heap_on_source(t, &heap));
	/* At every fill level one of these is the object that needs a new chunk. */
	for (unsigned i = 0; i < 64; i++) {
		objects[i] = kheap_alloc(heap, 20000, 0);
		CHECK(t, objects[i] != NULL, "20000 bytes were refused");
		calls = t->source.n_gets + t->source.n_puts;
		for (unsigned j = 0; j < 50; j++)
			kheap_free(heap, kheap_alloc(heap, 20000, 0));
		calls = t->source.n_gets + t->source.n_puts - calls;
		worst = calls > worst ? calls : worst;
	}
	CHECK(t, worst <= 4, "50 pairs at the edge of a chunk called the source %u times", worst);
	for (unsigned i = 0; i < 64; i++)
		kheap_free(heap, objects[i]);
	test_note(t, "at most %u calls of the source in 50 pairs", worst);
	TRY(end_heap(t, heap));
}

/* A chunk that was the spare and came into use again by its cached pages is none: the next empty one is kept. */
static void used_spare_is_none(struct test *t)
{
	struct kheap *heap;
	struct kheap_stats before, after;
	void *object;

	TRY(test_source(t, ARENA) && test_heap_on_source(t, &heap));
	while (kheap_alloc(heap, 3000, KMALLOC_NO_GROW) != NULL)
		;
	kheap_free(heap, kheap_alloc(heap, 3000, 0));
	object = kheap_alloc(heap, 3000, 0);
	CHECK(t, object != NULL && kheap_alloc(heap, 4 * PAGE, 0) != NULL, "a chunk of the source cannot be used");
	kheap_get_stats(heap, &before);
	for (unsigned i = 0; i < 100; i++)
		kheap_free(heap, kheap_alloc(heap, 50 * PAGE, 0));
	kheap_get_stats(heap, &after);
	CHECK(t, after.n_grown - before.n_grown <= 2, "100 lone pairs got %zu chunks",
	      (size_t)(after.n_grown - before.n_grown));
	TRY(test_end_heap(t, heap));
}

static void limit_is_kept(struct test *t)
{
	struct kheap_config config;
	struct kheap *heap;
	struct kheap_stats stats;
	unsigned n = 0;

	TRY(test_source(t, ARENA));
	config = test_source_config(t);
	config.limit_bytes = (size_t)1 << 20;
	heap = test_heap_in(t, NULL, 0, &config);
	TRY(heap != NULL);
	while (kheap_alloc(heap, 3000, 0) != NULL)
		n++;
	kheap_get_stats(heap, &stats);
	CHECK(t,
	      t->source.peak_given_pages * PAGE <= config.limit_bytes &&
	              stats.peak_footprint_bytes <= config.limit_bytes,
	      "the footprint was %zu bytes with a limit of 1 MiB", t->source.peak_given_pages * PAGE);
	CHECK(t, n >= 300, "only %u objects of 3000 bytes fit a limit of 1 MiB", n);
	CHECK(t, kheap_alloc(heap, (size_t)2 << 20, 0) == NULL, "2 MiB were given with a limit of 1 MiB");
}

/* A callback that frees one object each time it is asked. */
struct cushion {
	struct kheap *heap;
	void *object;
	unsigned n_asked;
	size_t size_bytes;
};

static struct cushion cushion;

static bool free_cushion(void *ctx, size_t size_bytes)
{
	void *object = cushion.object;

	(void)ctx;
	cushion.n_asked++;
	cushion.size_bytes = size_bytes;
	cushion.object = NULL;
	kheap_free(cushion.heap, object);
	return object != NULL;
}

/* A heap of 512 KiB that asks for the cushion. */
static bool make_cushioned_heap(struct test *t)
{
	struct kheap_config config = test_config(t);
	void *arena = test_arena(t, (size_t)512 << 10);

	config.on_low_memory = free_cushion;
	cushion = (struct cushion){ 0 };
	if (arena != NULL)
		cushion.heap = test_heap_in(t, arena, (size_t)512 << 10, &config);
	return cushion.heap != NULL;
}

static bool fill_cushion(struct test *t)
{
	cushion.object = kheap_alloc(cushion.heap, 300000, 0);
	REQUIRE(t, cushion.object != NULL && cushion.n_asked == 0, "300000 bytes were refused in a heap of 512 KiB");
	return true;
}

static void low_memory_is_asked(struct test *t)
{
	void *object;

	TRY(make_cushioned_heap(t) && fill_cushion(t));
	CHECK(t, kheap_alloc(cushion.heap, 250000, KMALLOC_NO_GROW) == NULL && cushion.n_asked == 0,
	      "on_low_memory was asked although the request forbids it");
	object = kheap_alloc(cushion.heap, 250000, 0);
	CHECK(t, object != NULL, "250000 bytes were refused although on_low_memory freed 300000");
	CHECK(t, cushion.n_asked == 1 && cushion.size_bytes == 250000,
	      "on_low_memory was asked %u times, for %zu bytes", cushion.n_asked, cushion.size_bytes);
	CHECK(t, kheap_alloc(cushion.heap, 300000, 0) == NULL, "300000 bytes more were given");
	CHECK(t, cushion.n_asked == 2, "on_low_memory was asked %u times for one request", cushion.n_asked - 1);
	kheap_free(cushion.heap, object);
}

static void low_memory_is_asked_for_a_cache(struct test *t)
{
	struct kcache *cache;
	void *object;

	TRY(make_cushioned_heap(t));
	cache = kcache_create(cushion.heap, 30000, 0, NULL, NULL);
	CHECK(t, cache != NULL, "a cache was refused in a heap of 512 KiB");
	TRY(fill_cushion(t));
	while (kheap_alloc(cushion.heap, 4096, KMALLOC_NO_GROW) != NULL)
		;
	CHECK(t, kcache_alloc(cache, KMALLOC_NO_GROW) == NULL && cushion.n_asked == 0,
	      "on_low_memory was asked although the request forbids it");
	object = kcache_alloc(cache, 0);
	CHECK(t, object != NULL && cushion.n_asked == 1, "a cache asked on_low_memory %u times and got %p",
	      cushion.n_asked, object);
}

/* A source that does not heed max_address: what it gives has to go back, and the asking has to end. */
static void put_to_source(void *ctx, const struct kpage_chunk *chunk)
{
	struct kpage_source source = test_source_config(ctx).source;

	source.put(source.ctx, chunk);
}

static bool get_too_high(void *ctx, const struct kpage_request *request, struct kpage_chunk *chunk)
{
	struct kpage_source source = test_source_config(ctx).source;
	struct kpage_request any = *request;

	any.max_address = UINTPTR_MAX;
	return source.get(source.ctx, &any, chunk);
}

static void chunks_above_the_limit_go_back(struct test *t)
{
	struct kheap_config config;
	struct kheap *heap;
	unsigned gets;

	TRY(test_source(t, ARENA));
	config = test_source_config(t);
	config.source.get = get_too_high;
	config.source.put = put_to_source;
	config.source.ctx = t;
	heap = test_heap_in(t, NULL, 0, &config);
	TRY(heap != NULL);
	gets = t->source.n_gets;
	CHECK(t, kpages_alloc(heap, 4, PAGE, t->source.base - 1, 0) == NULL, "pages below all memory were given");
	CHECK(t, t->source.n_gets - gets <= 8, "one request asked the source %u times", t->source.n_gets - gets);
	CHECK(t, t->source.n_given == 1, "%u chunks are held, expected the first alone", t->source.n_given);
	TRY(test_end_heap(t, heap));
}

#define TAKEN_PAGES 300
#define N_SMALL 16000

/* A chunk in which nothing is live, but objects are cached: when these go back the heap gives the chunk back by itself. */
static void chunk_with_cached_objects_is_taken_back(struct test *t)
{
	static uint8_t *small[N_SMALL];
	struct kheap *heap;
	uint8_t *chunk;
	bool is_there;

	TRY(test_source(t, ARENA) && test_heap_on_source(t, &heap));
	chunk = kpages_alloc(heap, TAKEN_PAGES, PAGE, UINTPTR_MAX, 0);
	CHECK(t, chunk != NULL && kheap_try_resize(heap, chunk, PAGE), "no chunk of %d pages", TAKEN_PAGES);
	for (unsigned i = 0; i < N_SMALL; i++) {
		small[i] = kheap_alloc(heap, 64, 0);
		CHECK(t, small[i] != NULL, "64 bytes were refused");
	}
	/* Those in the chunk last, so that they are what is cached. */
	for (unsigned turn = 0; turn < 2; turn++) {
		for (unsigned i = 0; i < N_SMALL; i++) {
			bool is_inside = small[i] >= chunk && small[i] < chunk + TAKEN_PAGES * PAGE;

			if (is_inside == (turn == 1))
				kheap_free(heap, small[i]);
		}
	}
	kheap_free(heap, chunk);
	is_there = kheap_owner(heap, chunk).kind != KHEAP_NOT_OURS;
	CHECK(t, kheap_remove_region(heap, chunk) == is_there, "a chunk without live objects was not taken back");
	CHECK(t, kheap_owner(heap, chunk).kind == KHEAP_NOT_OURS, "a chunk that was taken back is the heap's still");
	TRY(test_sound(t, heap, "a chunk was taken back"));
	TRY(end_heap(t, heap));
}

/* What such a source gives would be lost. */
static void a_source_takes_back(struct test *t)
{
	struct kheap_config config;

	TRY(test_source(t, (size_t)1 << 20));
	config = test_source_config(t);
	config.source.put = NULL;
	CHECK(t, kheap_create(NULL, 0, &config) == NULL, "a heap was made on a source that takes nothing back");
}

static const struct test_case cases[] = {
	{ "a source that takes nothing back is refused", a_source_takes_back },
	{ "work survives the source's refusal at each call, once", one_refusal_is_survived },
	{ "work survives the source's refusal at each call and ever after", lasting_refusal_is_survived },
	{ "a chunk that is too small is put straight back", too_little_is_put_back },
	{ "chunks may lie anywhere: low, high, with gaps, off boundaries", any_place_serves },
	{ "chunks that are said to be zero serve", zero_chunks_serve },
	{ "alignments to 256 KiB are met by chunks one page past them", chunks_past_256_kib_serve },
	{ "alignments to 1 MiB are met by chunks one page past them", chunks_past_1_mib_serve },
	{ "a request below 4 GiB is handed on to the source", low_pages_are_asked_for },
	{ "the source may enter the heap from get and put", source_may_enter_the_heap },
	{ "a request that may not grow the heap does not ask the source", no_grow_does_not_ask },
	{ "empty chunks go back to the source", empty_chunks_go_back },
	{ "pairs at the edge of a chunk do not call the source each time", edge_does_not_thrash },
	{ "a spare chunk that is used again is no spare", used_spare_is_none },
	{ "the footprint never passes the limit", limit_is_kept },
	{ "on_low_memory is asked once, and what it frees is used", low_memory_is_asked },
	{ "on_low_memory is asked for a cache, too", low_memory_is_asked_for_a_cache },
	{ "a chunk above the limit that was asked for goes back, and the asking ends", chunks_above_the_limit_go_back },
	{ "a chunk that goes when its cached objects go is taken back once", chunk_with_cached_objects_is_taken_back },
};
TEST_GROUP(growth, cases);
