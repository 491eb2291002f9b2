/* SPDX-License-Identifier: MIT */
/*
 * The ancestor: its demo with the addresses asserted, and one case for each fault that its model had.
 */
#include "../classic/classic.h"

#include "selftest.h"

#define TRACE_MAX 16
#define HEADER ((size_t)16)
#define NEIGHBOURS 7

/* What an area told, in order. */
struct traced {
	unsigned n;
	struct {
		enum classic_event event;
		const void *address;
		size_t size_bytes, free_bytes;
	} events[TRACE_MAX];
};

static void record(void *ctx, enum classic_event event, const void *address, size_t size_bytes, size_t free_bytes)
{
	struct traced *traced = ctx;

	if (traced->n < TRACE_MAX) {
		traced->events[traced->n].event = event;
		traced->events[traced->n].address = address;
		traced->events[traced->n].size_bytes = size_bytes;
		traced->events[traced->n].free_bytes = free_bytes;
	}
	traced->n++;
}

static bool is_sound(struct test *t, const struct classic *classic)
{
	const char *what = classic_check(classic);

	REQUIRE(t, what == NULL, "classic_check: %s", what);
	return true;
}

static bool is_whole(struct test *t, const struct classic *classic)
{
	REQUIRE(t, classic_free_blocks(classic) == 1 && classic->free_bytes == classic->end - classic->begin,
	        "the area is not one free block again: %zu blocks, %zu of %zu bytes", classic_free_blocks(classic),
	        classic->free_bytes, (size_t)(classic->end - classic->begin));
	return is_sound(t, classic);
}

/* A misuse must be reported once, and change nothing. */
static bool is_refused(struct test *t, struct classic *classic, void *object, enum classic_event event)
{
	struct traced traced = { 0 };
	size_t free_bytes = classic->free_bytes, n_errors = classic->n_errors;

	classic->trace = record;
	classic->trace_ctx = &traced;
	classic_free(classic, object);
	classic->trace = NULL;
	REQUIRE(t, traced.n == 1 && traced.events[0].event == event && traced.events[0].address == object,
	        "freeing %p was reported as event %d, expected %d", object,
	        traced.n != 0 ? (int)traced.events[0].event : -1, (int)event);
	REQUIRE(t, classic->n_errors == n_errors + 1, "the misuse was not counted");
	REQUIRE(t, classic->free_bytes == free_bytes, "the refused call changed the free bytes");
	return true;
}

static void demo_runs(struct test *t)
{
	static _Alignas(16) uint8_t area[1024];
	struct classic classic;
	uint8_t *p, *again, *pp;

	CHECK(t, classic_init(&classic, area, sizeof(area)), "an area of 1024 bytes was refused");
	p = classic_alloc(&classic, 400);
	CHECK(t, p == area + HEADER, "the first 400 are at %p, expected %p", (void *)p, (void *)(area + HEADER));
	classic_free(&classic, p);
	again = classic_alloc(&classic, 400);
	CHECK(t, again == p, "400 after a free are at %p, expected the same %p", (void *)again, (void *)p);
	pp = classic_alloc(&classic, 400);
	CHECK(t, pp == p + 400 + HEADER, "the second 400 are at %p, expected %p", (void *)pp,
	      (void *)(p + 400 + HEADER));
	classic_free(&classic, p);
	CHECK(t, classic_alloc(&classic, 500) == NULL, "500 bytes were found between holes of 400 and 176");
	classic_free(&classic, pp);
	p = classic_alloc(&classic, 500);
	CHECK(t, p == area + HEADER, "500 in a whole area are at %p, expected %p", (void *)p, (void *)(area + HEADER));
	classic_free(&classic, p);
	TRY(is_whole(t, &classic));
}

static void demo_is_traced(struct test *t)
{
	static _Alignas(16) uint8_t area[1024];
	const struct {
		enum classic_event event;
		size_t offset, size_bytes, free_bytes;
	} expected[] = {
		{ CLASSIC_ALLOCATED, 16, 400, 608 }, { CLASSIC_ALLOCATED, 432, 400, 192 },
		{ CLASSIC_FREED, 16, 400, 192 },     { CLASSIC_SKIPPED, 848, 176, 608 },
		{ CLASSIC_SKIPPED, 16, 400, 608 },   { CLASSIC_REFUSED, 0, 500, 608 },
		{ CLASSIC_FREED, 432, 400, 608 },    { CLASSIC_ALLOCATED, 16, 500, 496 },
	};
	struct traced traced = { 0 };
	struct classic classic;
	void *p, *pp;

	CHECK(t, classic_init(&classic, area, sizeof(area)), "an area of 1024 bytes was refused");
	classic.trace = record;
	classic.trace_ctx = &traced;
	p = classic_alloc(&classic, 400);
	pp = classic_alloc(&classic, 400);
	classic_free(&classic, p);
	CHECK(t, classic_alloc(&classic, 500) == NULL, "500 bytes were found where there are none");
	classic_free(&classic, pp);
	(void)classic_alloc(&classic, 500);
	CHECK(t, traced.n == sizeof(expected) / sizeof(expected[0]), "%u events were traced, expected 8", traced.n);
	for (unsigned i = 0; i < traced.n; i++) {
		const void *address = expected[i].offset != 0 ? area + expected[i].offset : NULL;

		CHECK(t,
		      traced.events[i].event == expected[i].event && traced.events[i].address == address &&
		              traced.events[i].free_bytes == expected[i].free_bytes,
		      "event %u is %d at %p with %zu bytes free, expected %d at %p with %zu", i + 1,
		      (int)traced.events[i].event, traced.events[i].address, traced.events[i].free_bytes,
		      (int)expected[i].event, address, expected[i].free_bytes);
		CHECK(t, traced.events[i].size_bytes == expected[i].size_bytes || expected[i].size_bytes == 500,
		      "event %u has size %zu, expected %zu", i + 1, traced.events[i].size_bytes,
		      expected[i].size_bytes);
	}
}

static void any_area_serves(struct test *t)
{
	static _Alignas(16) uint8_t area[512];
	struct classic classic;

	for (size_t offset = 0; offset < 32; offset++) {
		for (size_t size = 0; size + offset <= 256; size += 7) {
			bool is_made;
			void *p;

			for (size_t i = 0; i < sizeof(area); i++)
				area[i] = 0xa5;
			is_made = classic_init(&classic, area + offset, size);
			/* 32 bytes after alignment are the least: up to 15 are lost at either end. */
			CHECK(t, is_made ? size >= 32 : size < 32 + 30, "an area of %zu bytes at offset %zu was %s",
			      size, offset, is_made ? "accepted" : "refused");
			if (!is_made)
				continue;
			p = classic_alloc(&classic, 1);
			CHECK(t, p != NULL && is_aligned(p, 16), "the object at %p is not aligned to 16", p);
			classic_free(&classic, p);
			TRY(is_whole(t, &classic));
			for (size_t i = 0; i < sizeof(area); i++)
				CHECK(t, (i >= offset && i < offset + size) || area[i] == 0xa5,
				      "byte %zu was written, outside %zu bytes at %zu", i, size, offset);
		}
	}
	CHECK(t, !classic_init(&classic, (void *)(UINTPTR_MAX - 100), 4096),
	      "an area that runs over the last address was accepted");
}

static void sizes_do_not_wrap(struct test *t)
{
	static const size_t sizes[] = {
		513,           4096,    (size_t)((uint64_t)1 << 32) - 16, PTRDIFF_MAX, SIZE_MAX - 4095, SIZE_MAX - 31,
		SIZE_MAX - 16, SIZE_MAX
	};
	static _Alignas(16) uint8_t area[1024];
	struct classic classic;

	CHECK(t, classic_init(&classic, area, sizeof(area)), "an area of 1024 bytes was refused");
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		CHECK(t, classic_alloc(&classic, sizes[i]) == NULL, "%zu bytes were given", sizes[i]);
	classic.max_size = SIZE_MAX;
	for (size_t i = 1; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		CHECK(t, classic_alloc(&classic, sizes[i]) == NULL, "%zu bytes were given with the limit raised",
		      sizes[i]);
	CHECK(t, classic_alloc(&classic, 1024 - HEADER) != NULL, "all of the area was refused with the limit raised");
}

static void sizes_are_not_cut(struct test *t)
{
	static _Alignas(16) uint8_t front[64];
	const size_t size = (size_t)(((uint64_t)1 << 32) + 4096);
	struct classic classic;
	void *p;

	if (sizeof(size_t) < 8) {
		test_skip(t, "no area is larger than 4 GiB on this machine");
		return;
	}
	/* One object that is all of the area: its header is all that is touched, so the rest need not exist. */
	CHECK(t, classic_init(&classic, front, size + HEADER), "an area of more than 4 GiB was refused");
	classic.max_size = SIZE_MAX;
	p = classic_alloc(&classic, size);
	CHECK(t, p == front + HEADER && classic_usable_size(&classic, p) == size,
	      "a block of %zu bytes has %zu usable ones", size, classic_usable_size(&classic, p));
	CHECK(t, classic_alloc(&classic, 1) == NULL, "an area that one object fills gave another");
	classic_free(&classic, p);
	TRY(is_whole(t, &classic));
}

static void full_area_ends_searches(struct test *t)
{
	static _Alignas(16) uint8_t area[1024];
	struct classic classic;
	void *p[40];
	unsigned n = 0;

	CHECK(t, classic_init(&classic, area, sizeof(area)), "an area of 1024 bytes was refused");
	while (n < 40 && (p[n] = classic_alloc(&classic, 24)) != NULL)
		n++;
	/* 48 bytes each: 21 of them, and a rest of 16 that is too small for a header stays with the last. */
	CHECK(t, n == 21, "%u objects of 24 bytes fit 1024 bytes, expected 21", n);
	CHECK(t, classic.free_bytes == 0 && classic_free_blocks(&classic) == 0, "a full area has %zu bytes free",
	      classic.free_bytes);
	CHECK(t, classic_usable_size(&classic, p[20]) == 48, "the last object has %zu usable bytes, expected 48",
	      classic_usable_size(&classic, p[20]));
	CHECK(t, classic_alloc(&classic, 0) == NULL, "a full area gave an object");
	TRY(is_sound(t, &classic));
	/* A hole in the middle, both neighbours in use, must be found again from wherever the rover is. */
	for (unsigned i = 0; i < n; i++) {
		classic_free(&classic, p[i]);
		CHECK(t, classic_alloc(&classic, 24) == p[i], "hole %u was not found again", i);
		TRY(is_sound(t, &classic));
	}
}

static void rover_leaves_merged_blocks(struct test *t)
{
	static _Alignas(16) uint8_t area[1024];
	struct classic classic;
	struct random random;
	void *p[8] = { NULL };

	CHECK(t, classic_init(&classic, area, sizeof(area)), "an area of 1024 bytes was refused");
	random_seed(&random, 7);
	for (unsigned i = 0; i < 20000; i++) {
		unsigned slot = random_below(&random, 8);
		size_t size = random_size(&random, 1, 500);

		if (p[slot] != NULL)
			classic_free(&classic, p[slot]);
		p[slot] = classic_alloc(&classic, size);
		/* Whatever the objects hold must not be taken for a header. */
		if (p[slot] != NULL)
			test_fill(p[slot], size, i);
		TRY(is_sound(t, &classic));
	}
	for (unsigned slot = 0; slot < 8; slot++)
		classic_free(&classic, p[slot]);
	TRY(is_whole(t, &classic));
	CHECK(t, classic.n_errors == 0, "%zu misuses were reported that did not happen", classic.n_errors);
}

static void double_frees_are_refused(struct test *t)
{
	static _Alignas(16) uint8_t area[1024];
	struct classic classic;
	void *a, *b, *c;

	CHECK(t, classic_init(&classic, area, sizeof(area)), "an area of 1024 bytes was refused");
	a = classic_alloc(&classic, 100);
	b = classic_alloc(&classic, 100);
	c = classic_alloc(&classic, 100);
	classic_free(&classic, b);
	TRY(is_refused(t, &classic, b, CLASSIC_DOUBLE_FREE)); /* at once; XOR would have set the bit again */
	classic_free(&classic, a);
	TRY(is_refused(t, &classic, b, CLASSIC_DOUBLE_FREE)); /* merged into the block before it */
	TRY(is_refused(t, &classic, a, CLASSIC_DOUBLE_FREE));
	classic_free(&classic, c);
	TRY(is_refused(t, &classic, c, CLASSIC_DOUBLE_FREE)); /* after everything was merged */
	TRY(is_whole(t, &classic));
	CHECK(t, classic_usable_size(&classic, a) == 0, "a freed object has a usable size");
}

static void strangers_are_refused(struct test *t)
{
	static _Alignas(16) uint8_t area[1024];
	_Alignas(16) uint64_t on_stack[8] = { 0 };
	struct classic classic;
	uint8_t *a, *b;

	CHECK(t, classic_init(&classic, area, sizeof(area)), "an area of 1024 bytes was refused");
	a = classic_alloc(&classic, 100);
	b = classic_alloc(&classic, 100);
	test_fill(a, 100, 1);
	TRY(is_refused(t, &classic, on_stack + 4, CLASSIC_FOREIGN));
	TRY(is_refused(t, &classic, (void *)16, CLASSIC_FOREIGN));
	TRY(is_refused(t, &classic, area, CLASSIC_FOREIGN));
	TRY(is_refused(t, &classic, area + 1024, CLASSIC_FOREIGN));
	TRY(is_refused(t, &classic, (void *)UINTPTR_MAX, CLASSIC_FOREIGN));
	TRY(is_refused(t, &classic, a + 1, CLASSIC_FOREIGN));
	TRY(is_refused(t, &classic, a + 8, CLASSIC_FOREIGN));
	TRY(is_refused(t, &classic, a + 32, CLASSIC_FOREIGN));
	TRY(test_filled(t, a, 100, 1, "the object behind which strangers were freed"));
	classic_free(&classic, a);
	classic_free(&classic, b);
	classic_free(&classic, NULL);
	TRY(is_whole(t, &classic));
}

static void damaged_headers_are_refused(struct test *t)
{
	static _Alignas(16) uint8_t area[1024];
	struct classic classic;
	struct classic_header *header;
	void *a, *b;
	size_t size;

	CHECK(t, classic_init(&classic, area, sizeof(area)), "an area of 1024 bytes was refused");
	a = classic_alloc(&classic, 96);
	b = classic_alloc(&classic, 96);
	header = (struct classic_header *)b - 1;
	size = header->size;
	for (unsigned i = 0; i < 3; i++) {
		header->size = i == 0 ? 0 : i == 1 ? size + 16 : SIZE_MAX - 15;
		CHECK(t, classic_check(&classic) != NULL, "a header with size %zu passed the check", header->size);
		TRY(is_refused(t, &classic, b, CLASSIC_DAMAGED));
	}
	header->size = size;
	header->prev ^= 64;
	CHECK(t, classic_check(&classic) != NULL, "a header that points elsewhere passed the check");
	TRY(is_refused(t, &classic, b, CLASSIC_DAMAGED));
	/* A search that meets it must end, not follow it. */
	CHECK(t, classic_alloc(&classic, 512) != NULL || classic.n_errors > 0,
	      "a search went on past a damaged header");
	header->prev ^= 64;
	classic_free(&classic, a);
	TRY(is_sound(t, &classic));
}

/* ------------------------------------------------------------------------------------------------------------
 * All orders of freeing neighbours
 * --------------------------------------------------------------------------------------------------------- */

static bool free_in_order(struct test *t, struct classic *classic, const uint8_t order[NEIGHBOURS])
{
	void *objects[NEIGHBOURS];

	for (unsigned i = 0; i < NEIGHBOURS; i++)
		REQUIRE(t, (objects[i] = classic_alloc(classic, 100)) != NULL,
		        "100 bytes were refused in an area of 1024");
	for (unsigned i = 0; i < NEIGHBOURS; i++)
		classic_free(classic, objects[order[i]]);
	return is_whole(t, classic);
}

static void all_orders_merge(struct test *t)
{
	static _Alignas(16) uint8_t area[1024];
	uint8_t order[NEIGHBOURS];
	struct classic classic;
	unsigned n = 0;

	CHECK(t, classic_init(&classic, area, sizeof(area)), "an area of 1024 bytes was refused");
	for (unsigned i = 0; i < NEIGHBOURS; i++)
		order[i] = (uint8_t)i;
	do {
		TRY(free_in_order(t, &classic, order));
		n++;
	} while (test_next_order(order, NEIGHBOURS));
	CHECK(t, n == 5040, "%u orders were tried, expected 5040", n);
}

static const struct test_case cases[] = {
	{ "its demo runs: 400, free, 400 there again, 400, free, no 500, free, 500", demo_runs },
	{ "each step of the demo is traced", demo_is_traced },
	{ "an area may have any address and size, and nothing outside it is touched", any_area_serves },
	{ "sizes near SIZE_MAX give NULL", sizes_do_not_wrap },
	{ "sizes are not cut to 32 bits", sizes_are_not_cut },
	{ "a search in a full area ends, and finds a hole between live objects", full_area_ends_searches },
	{ "the rover never stays inside a merged block", rover_leaves_merged_blocks },
	{ "freeing twice is refused, at once and after a merge", double_frees_are_refused },
	{ "strangers, interior and misaligned pointers are refused", strangers_are_refused },
	{ "overwritten headers are refused and never followed", damaged_headers_are_refused },
	{ "freeing 7 neighbours in any of 5040 orders leaves one free block", all_orders_merge },
};
TEST_GROUP(classic, cases);
