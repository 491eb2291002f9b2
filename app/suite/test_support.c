/* SPDX-License-Identifier: MIT */
/*
 * What the cases stand on: verdicts, memory, heaps, patterns, and a page source that can be told to misbehave.
 * Tests nothing itself.
 */
#include "pattern.h"
#include "selftest.h"

static void set_detail(struct test *t, const char *format, va_list args)
{
	(void)text_vformat(t->detail, sizeof(t->detail), format, args);
}

void test_fail(struct test *t, const char *format, ...)
{
	va_list args;

	if (t->state == CASE_FAILED)
		return;
	t->state = CASE_FAILED;
	va_start(args, format);
	set_detail(t, format, args);
	va_end(args);
}

void test_skip(struct test *t, const char *format, ...)
{
	va_list args;

	if (t->state == CASE_FAILED)
		return;
	t->state = CASE_SKIPPED;
	va_start(args, format);
	set_detail(t, format, args);
	va_end(args);
}

void test_note(struct test *t, const char *format, ...)
{
	va_list args;

	if (t->state != CASE_PASSED)
		return;
	va_start(args, format);
	set_detail(t, format, args);
	va_end(args);
}

/* ------------------------------------------------------------------------------------------------------------
 * Memory and heaps
 * --------------------------------------------------------------------------------------------------------- */

void *test_arena_below(struct test *t, size_t size_bytes, uintptr_t max_address)
{
	size_t n_pages = (size_bytes + KMALLOC_PAGE_SIZE - 1) / KMALLOC_PAGE_SIZE;
	struct kpage_request request = { .min_pages = n_pages, .want_pages = n_pages, .max_address = max_address };
	struct kpage_chunk *chunk = &t->chunks[t->n_chunks];
	char size[16];

	if (t->n_chunks == TEST_MAX_CHUNKS) {
		test_fail(t, "the case asks for more than %d arenas", TEST_MAX_CHUNKS);
		return NULL;
	}
	if (!t->host->pages.get(t->host->pages.ctx, &request, chunk)) {
		test_skip(t, "the host has no free range of %s%s", text_bytes(size, sizeof(size), size_bytes),
		          max_address != UINTPTR_MAX ? " that low" : "");
		t->is_starved = true;
		return NULL;
	}
	t->n_chunks++;
	if (chunk->n_pages < n_pages || chunk->base == 0) {
		test_fail(t, "the host gave %zu pages at 0x%zx for %zu", chunk->n_pages, (size_t)chunk->base, n_pages);
		return NULL;
	}
	return (void *)chunk->base;
}

void *test_arena(struct test *t, size_t size_bytes)
{
	return test_arena_below(t, size_bytes, UINTPTR_MAX);
}

static void record_error(void *ctx, const struct kmalloc_error *error)
{
	struct test *t = ctx;

	if (t->n_errors < TEST_MAX_ERRORS)
		t->errors[t->n_errors] = *error;
	t->n_errors++;
}

struct kheap_config test_config(struct test *t)
{
	return (struct kheap_config){ .on_error = record_error, .ctx = t, .secret = t->host->entropy(t->host) };
}

struct kheap *test_heap_in(struct test *t, void *memory, size_t size_bytes, const struct kheap_config *config)
{
	struct kheap *heap;

	if (t->n_heaps == TEST_MAX_HEAPS) {
		test_fail(t, "the case asks for more than %d heaps", TEST_MAX_HEAPS);
		return NULL;
	}
	heap = kheap_create(memory, size_bytes, config);
	if (heap == NULL) {
		test_fail(t, "kheap_create gave NULL for %zu bytes at %p", size_bytes, memory);
		return NULL;
	}
	t->heaps[t->n_heaps++] = heap;
	return heap;
}

struct kheap *test_heap(struct test *t, size_t size_bytes)
{
	struct kheap_config config = test_config(t);
	void *arena = test_arena(t, size_bytes);

	return arena != NULL ? test_heap_in(t, arena, size_bytes, &config) : NULL;
}

struct kheap *test_heap_on_host_pages(struct test *t, size_t limit_bytes)
{
	struct kheap_config config = test_config(t);

	config.source = t->host->pages;
	config.limit_bytes = limit_bytes;
	/* That the host has no pages is not the heap's fault. */
	if (test_arena(t, limit_bytes / 2) == NULL)
		return NULL;
	t->host->pages.put(t->host->pages.ctx, &t->chunks[--t->n_chunks]);
	return test_heap_in(t, NULL, 0, &config);
}

bool test_end_heap(struct test *t, struct kheap *heap)
{
	bool sound = test_sound(t, heap, "the work");

	for (unsigned i = 0; i < t->n_heaps; i++) {
		if (t->heaps[i] == heap) {
			t->heaps[i] = t->heaps[--t->n_heaps];
			break;
		}
	}
	kheap_destroy(heap);
	return sound;
}

/* ------------------------------------------------------------------------------------------------------------
 * Verdicts
 * --------------------------------------------------------------------------------------------------------- */

bool test_sound(struct test *t, struct kheap *heap, const char *when)
{
	struct kheap_fault first = { .fault_class = KHEAP_FAULT_NONE };
	size_t n = kheap_check(heap, &first);

	REQUIRE(t, n == 0, "kheap_check found %zu faults after %s, the first at 0x%zx: %s", n, when,
	        (size_t)first.address, kheap_fault_name(first.fault_class));
	return true;
}

bool test_expect_no_error(struct test *t)
{
	REQUIRE(t, t->n_errors == 0, "the heap reported %u misuses that did not happen, the first: %s at %p",
	        t->n_errors, kmalloc_error_name(t->errors[0].error_class), t->errors[0].address);
	return true;
}

bool test_expect_error(struct test *t, enum kmalloc_error_class error_class, const void *address)
{
	unsigned n = t->n_errors;
	struct kmalloc_error seen = t->errors[0];

	t->n_errors = 0;
	REQUIRE(t, n != 0, "expected a report of '%s' at %p, but nothing was reported", kmalloc_error_name(error_class),
	        address);
	REQUIRE(t, n == 1, "expected one report of '%s', got %u", kmalloc_error_name(error_class), n);
	REQUIRE(t, seen.error_class == error_class && seen.address == address,
	        "expected '%s' at %p, the heap reported '%s' at %p", kmalloc_error_name(error_class), address,
	        kmalloc_error_name(seen.error_class), seen.address);
	return true;
}

bool test_same(struct test *t, struct kheap *heap, const struct kheap_stats *before, const char *what)
{
	struct kheap_stats now;

	kheap_get_stats(heap, &now);
	REQUIRE(t, now.live_bytes == before->live_bytes && now.live_objects == before->live_objects,
	        "%s changed what is live: %zu bytes in %zu objects before, %zu in %zu after", what, before->live_bytes,
	        before->live_objects, now.live_bytes, now.live_objects);
	REQUIRE(t, now.footprint_bytes == before->footprint_bytes && now.n_regions == before->n_regions,
	        "%s changed the footprint: %zu bytes before, %zu after", what, before->footprint_bytes,
	        now.footprint_bytes);
	REQUIRE(t, now.free_bytes == before->free_bytes && now.n_free_ranges == before->n_free_ranges,
	        "%s changed what is free: %zu bytes in %zu ranges before, %zu in %zu after", what, before->free_bytes,
	        before->n_free_ranges, now.free_bytes, now.n_free_ranges);
	REQUIRE(t, now.n_allocs - now.n_frees == before->n_allocs - before->n_frees, "%s changed the counts of calls",
	        what);
	return true;
}

void test_fill(void *object, size_t n, uint64_t key)
{
	pattern_fill(object, key, 0, n);
}

bool test_filled(struct test *t, const void *object, size_t n, uint64_t key, const char *what)
{
	size_t wrong = pattern_verify(object, key, n);

	REQUIRE(t, wrong == PATTERN_INTACT, "%s: byte %zu of %zu at %p is 0x%02x, expected 0x%02x", what, wrong, n,
	        object, ((const uint8_t *)object)[wrong], pattern_byte(key, wrong));
	return true;
}

static void test_zero(void *object, size_t n)
{
	uint8_t *byte = object;

	for (size_t i = 0; i < n; i++)
		byte[i] = 0;
}

bool test_is_zero(const void *object, size_t n)
{
	const uint8_t *bytes = object;

	while (n > 0 && bytes[n - 1] == 0)
		n--;
	return n == 0;
}

bool test_next_order(uint8_t order[], unsigned n)
{
	unsigned i = n - 1, j = n - 1;
	uint8_t swapped;

	while (i > 0 && order[i - 1] >= order[i])
		i--;
	if (i == 0)
		return false;
	while (order[j] <= order[i - 1])
		j--;
	swapped = order[i - 1];
	order[i - 1] = order[j];
	order[j] = swapped;
	for (j = n - 1; i < j; i++, j--) {
		swapped = order[i];
		order[i] = order[j];
		order[j] = swapped;
	}
	return true;
}

bool test_is_hardened(void)
{
	return text_compare(kmalloc_build(), "release") != 0 && text_compare(kmalloc_build(), "caches") != 0;
}

/* ------------------------------------------------------------------------------------------------------------
 * The page source
 * --------------------------------------------------------------------------------------------------------- */

/* Does [base, base + size) touch a chunk that is given, its gap counted? Returns that chunk. */
static const struct kpage_chunk *overlapped(const struct test_source *source, uintptr_t base, size_t size)
{
	size_t gap = source->gap_pages * KMALLOC_PAGE_SIZE;

	for (unsigned i = 0; i < source->n_given; i++) {
		const struct kpage_chunk *chunk = &source->given[i];

		if (base < chunk->base + chunk->n_pages * KMALLOC_PAGE_SIZE + gap && chunk->base < base + size + gap)
			return chunk;
	}
	return NULL;
}

/* The first address from `base` on (upwards or downwards) that the source's alignment allows. */
static uintptr_t place(const struct test_source *source, uintptr_t base)
{
	uintptr_t aligned;

	if (source->alignment == 0)
		return base;
	aligned = (base & ~(uintptr_t)(source->alignment - 1)) + KMALLOC_PAGE_SIZE;
	if (source->from_top)
		return aligned <= base ? aligned : aligned - source->alignment;
	return aligned >= base ? aligned : aligned + source->alignment;
}

static bool find_pages(const struct test_source *source, size_t n_pages, uintptr_t max_address,
                       struct kpage_chunk *chunk)
{
	size_t size = n_pages * KMALLOC_PAGE_SIZE, gap = source->gap_pages * KMALLOC_PAGE_SIZE;
	uintptr_t base;
	const struct kpage_chunk *obstacle;

	if (n_pages == 0 || n_pages > (source->end - source->base) / KMALLOC_PAGE_SIZE)
		return false;
	base = place(source, source->from_top ? source->end - size : source->base);
	while (base >= source->base && base <= source->end - size) {
		obstacle = overlapped(source, base, size);
		if (obstacle == NULL) {
			*chunk = (struct kpage_chunk){ .base = base, .n_pages = n_pages };
			return base + (size - 1) <= max_address;
		}
		if (source->from_top && obstacle->base < source->base + size + gap)
			return false;
		base = place(source, source->from_top ? obstacle->base - size - gap
		                                      : obstacle->base + obstacle->n_pages * KMALLOC_PAGE_SIZE + gap);
	}
	return false;
}

static void enter_heap(struct test_source *source)
{
	void *object;

	if (source->enter == NULL || source->is_inside)
		return;
	source->is_inside = true;
	object = kheap_alloc(source->enter, 48, 0);
	kheap_free(source->enter, object);
	source->n_entered++;
	source->is_inside = false;
}

static bool source_get(void *ctx, const struct kpage_request *request, struct kpage_chunk *chunk)
{
	struct test_source *source = ctx;
	size_t n_pages = source->give_minimum ? request->min_pages : request->want_pages;

	source->n_gets++;
	source->last = *request;
	source->n_best += request->best_address != 0;
	enter_heap(source);
	if (source->refuse_all || source->n_gets == source->refuse_at ||
	    (source->refuse_after && source->refuse_at != 0 && source->n_gets > source->refuse_at) ||
	    source->n_given == TEST_MAX_GIVEN) {
		source->n_refused++;
		return false;
	}
	if (source->give_less)
		n_pages = request->min_pages - 1;
	while (!find_pages(source, n_pages, request->max_address, chunk)) {
		if (n_pages <= request->min_pages)
			return false;
		n_pages = n_pages / 2 > request->min_pages ? n_pages / 2 : request->min_pages;
	}
	chunk->is_zero = source->gives_zeros;
	if (chunk->is_zero)
		test_zero((void *)chunk->base, chunk->n_pages * KMALLOC_PAGE_SIZE);
	if (source->tells_behind)
		chunk->n_behind = (uint32_t)((source->end - chunk->base) / KMALLOC_PAGE_SIZE - chunk->n_pages);
	source->given[source->n_given++] = *chunk;
	source->given_pages += chunk->n_pages;
	if (source->given_pages > source->peak_given_pages)
		source->peak_given_pages = source->given_pages;
	return true;
}

static void source_put(void *ctx, const struct kpage_chunk *chunk)
{
	struct test_source *source = ctx;

	source->n_puts++;
	enter_heap(source);
	for (unsigned i = 0; i < source->n_given; i++) {
		if (source->given[i].base == chunk->base && source->given[i].n_pages == chunk->n_pages) {
			source->given_pages -= chunk->n_pages;
			source->given[i] = source->given[--source->n_given];
			return;
		}
	}
	source->n_wrong_puts++;
}

bool test_source(struct test *t, size_t size_bytes)
{
	void *arena = test_arena(t, size_bytes);

	if (arena == NULL)
		return false;
	t->source = (struct test_source){ .base = (uintptr_t)arena, .end = (uintptr_t)arena + size_bytes };
	return true;
}

struct kheap_config test_source_config(struct test *t)
{
	struct kheap_config config = test_config(t);

	config.source = (struct kpage_source){ .get = source_get, .put = source_put, .ctx = &t->source };
	return config;
}

bool test_heap_on_source(struct test *t, struct kheap **heap)
{
	struct kheap_config config = test_source_config(t);

	*heap = test_heap_in(t, NULL, 0, &config);
	return *heap != NULL;
}
