/* SPDX-License-Identifier: MIT */
/*
 * Damage to what the heap keeps beside objects: headers and last words of blocks that are overrun, or written to after they were freed. What
 * is behind must be reported before it is believed, and no live object may be handed out again.
 */
#include "selftest.h"

#define ARENA ((size_t)1 << 20)
#define N_LIVE 20
#define N_MORE 200
#define SMALL 300
#define LARGE 5000
#define LARGER 32000
#define WIDE 9000 /* two large ones that were merged */
#define OVERRUN 16

struct live {
	uint8_t *object;
	size_t size;
};

/* n objects of one size, filled. */
static bool get_live(struct test *t, struct kheap *heap, struct live *live, unsigned n, size_t size)
{
	for (unsigned i = 0; i < n; i++) {
		live[i] = (struct live){ kheap_alloc(heap, size, 0), size };
		REQUIRE(t, live[i].object != NULL, "object %u of %zu bytes was refused", i, size);
		test_fill(live[i].object, size, i);
	}
	return true;
}

/* Allocate as much of all sizes as there is, write to all of it: nothing of it may be what is live. */
static bool live_ones_stay(struct test *t, struct kheap *heap, const struct live *live, unsigned n, size_t size)
{
	for (unsigned i = 0; i < N_MORE; i++) {
		size_t more = size + i % 8 * 100;
		void *object = i % 16 == 0 ? kheap_alloc_aligned(heap, more, 64, 0) : kheap_alloc(heap, more, 0);

		if (object != NULL)
			test_fill(object, more, 1000 + i);
	}
	for (unsigned i = 0; i < n; i++)
		if (live[i].object != NULL &&
		    !test_filled(t, live[i].object, live[i].size, i, "a live object beside damage"))
			return false;
	return true;
}

static bool is_told(struct test *t, const uint8_t *from, const uint8_t *to)
{
	unsigned n = t->n_errors < TEST_MAX_ERRORS ? t->n_errors : TEST_MAX_ERRORS;
	bool is_found = false;

	t->n_errors = 0;
	for (unsigned i = 0; i < n; i++)
		is_found |= (const uint8_t *)t->errors[i].address >= from && (const uint8_t *)t->errors[i].address < to;
	REQUIRE(t, is_found, "damage at %p was not reported (%u others were)", (const void *)from, n);
	return true;
}

/* The end of the last object, and the beginning of a free block: another object takes its place until there is one. */
static uint8_t *end_before_free(struct test *t, struct kheap *heap, struct live *last)
{
	for (unsigned tries = 0; last->object != NULL && tries < N_LIVE; tries++) {
		uint8_t *end = last->object + kheap_owner(heap, last->object).size_bytes;
		struct kheap_range behind = kheap_owner(heap, end + 8);

		if (behind.kind == KHEAP_BLOCK && !behind.is_live)
			return end;
		last->object = kheap_alloc(heap, last->size, 0);
		if (last->object != NULL)
			test_fill(last->object, last->size, N_LIVE - 1);
	}
	test_fail(t, "behind none of the objects that were cut last was a free block");
	return NULL;
}

/* Behind the object that was cut last is the free block that the next ones are cut from. */
static void overrun_of_the_last_object(struct test *t)
{
	if (test_is_hardened()) {
		test_skip(t, "a canary tells of the overrun when the object is freed");
		return;
	}
	for (unsigned is_aligned_first = 0; is_aligned_first < 2; is_aligned_first++) {
		struct kheap *heap = test_heap(t, ARENA);
		struct live live[N_LIVE];
		uint8_t *end;

		TRY(heap != NULL && get_live(t, heap, live, N_LIVE, SMALL) &&
		    (end = end_before_free(t, heap, &live[N_LIVE - 1])) != NULL);
		t->is_damaged = true;
		for (unsigned i = 0; i < 8; i++)
			end[i] = 'A';
		if (is_aligned_first)
			(void)kheap_alloc_aligned(heap, SMALL, 64, 0);
		TRY(live_ones_stay(t, heap, live, N_LIVE, SMALL));
		TRY(is_told(t, end - 8, end + 16));
	}
}

/* A run's overrun reaches the first header of the area behind it, all of which is free. */
static void overrun_into_an_empty_area(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	struct live live[1], blocks[3];
	uint8_t *behind;

	if (test_is_hardened()) {
		test_skip(t, "a run's canary makes it two pages here, of which none is behind it");
		return;
	}
	TRY(heap != NULL && get_live(t, heap, live, 1, 4096) && get_live(t, heap, blocks, 3, LARGE));
	for (unsigned i = 0; i < 3; i++)
		kheap_free(heap, blocks[i].object);
	behind = live[0].object + kheap_owner(heap, live[0].object).size_bytes;
	CHECK(t, kheap_owner(heap, behind + 64).kind == KHEAP_BLOCK, "no empty area lies behind a run of a page");
	t->is_damaged = true;
	for (unsigned i = 0; i < OVERRUN; i++)
		behind[i] = 'A';
	(void)kheap_trim(heap);
	TRY(live_ones_stay(t, heap, live, 1, LARGE));
	TRY(is_told(t, behind - 8, behind + OVERRUN));
}

struct last_free {
	uint8_t *above; /* it lies above this */
	struct kheap_range range;
};

static bool note_last_free(void *ctx, const struct kheap_range *range)
{
	struct last_free *last = ctx;

	if (range->kind == KHEAP_BLOCK && !range->is_live && range->base > (uintptr_t)last->above)
		last->range = *range;
	return true;
}

/*
 * The last word of a free block tells whoever follows how long it is. One that leads to another free block, with live ones between, must not
 * make one of them all.
 */
static void last_word_that_lies(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	struct live live[N_LIVE];
	struct last_free last = { 0 };
	uint8_t *end;

	TRY(heap != NULL && get_live(t, heap, live, N_LIVE, LARGE));
	last.above = live[N_LIVE - 1].object;
	kheap_walk(heap, note_last_free, &last);
	CHECK(t, last.range.base != 0, "no free block lies behind the last object");
	end = (uint8_t *)last.range.base + last.range.size_bytes;
	kheap_free(heap, live[N_LIVE - 3].object);
	t->is_damaged = true;
	((uint64_t *)(uintptr_t)end)[-1] = (uintptr_t)end - ((uintptr_t)live[N_LIVE - 3].object - 8);
	live[N_LIVE - 3].object = NULL;
	TRY(live_ones_stay(t, heap, live, N_LIVE, LARGER));
	t->n_errors = 0;
}

/*
 * Whoever read a freed block's links and writes them back later makes it lead to what was its neighbour in the list, and is part of a live object
 * by now.
 */
static void old_links_written_back(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	struct live live[N_LIVE];
	uint64_t *links, old[2];
	uint8_t *wide;

	TRY(heap != NULL && get_live(t, heap, live, N_LIVE, LARGE));
	links = (uint64_t *)(uintptr_t)live[3].object;
	kheap_free(heap, live[8].object);
	kheap_free(heap, live[3].object);
	old[0] = links[0];
	old[1] = links[1];
	/* Now the other one is merged with its neighbour, and both are an object, which its owner has not written to yet. */
	kheap_free(heap, live[7].object);
	wide = kheap_alloc(heap, WIDE, 0);
	CHECK(t, wide != NULL, "%u bytes were refused", WIDE);
	t->is_damaged = true;
	links[0] = old[0];
	links[1] = old[1];
	live[3].object = live[7].object = live[8].object = NULL;
	(void)kheap_alloc(heap, LARGE, 0);
	test_fill(wide, WIDE, 0);
	kheap_free(heap, live[12].object);
	live[12].object = NULL;
	TRY(test_filled(t, wide, WIDE, 0, "a live object that old links lead into"));
	TRY(live_ones_stay(t, heap, live, N_LIVE, LARGE));
	t->n_errors = 0;
}

/* A header that was overrun while its block was in a cache: who asks for zeros gets them. */
static void zeros_behind_an_overrun_header(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	unsigned n_same = 0;

	TRY(heap != NULL);
	for (size_t size = 16; size <= SMALL; size += 16) {
		uint8_t *object = kheap_alloc(heap, size, 0), *again;

		CHECK(t, object != NULL, "%zu bytes were refused", size);
		__builtin_memset(object, 0xff, size);
		kheap_free(heap, object);
		t->is_damaged = true;
		__builtin_memset(object - 8, 0xff, 4);
		again = kheap_alloc(heap, size, KMALLOC_ZERO);
		n_same += again == object;
		for (size_t i = 0; again != NULL && i < size; i++)
			CHECK(t, again[i] == 0, "byte %zu of %zu is not zero", i, size);
	}
	CHECK(t, n_same > 0, "none of them was handed out again, so nothing was tried");
	test_note(t, "%u of them were handed out again", n_same);
	t->n_errors = 0;
}

/*
 * A word of what was just freed is written to, the first one most often: it is told by the check, and by who gets that memory. It may lie in the free
 * block that the next objects are cut from, which is in no list.
 */
static void write_after_free(struct test *t)
{
	enum { N = 60, WORDS = 4 };
	void *objects[N];
	struct random random;

	if (!test_is_hardened()) {
		test_skip(t, "only the hardened builds see it");
		return;
	}
	random_seed(&random, t->options->seed);
	for (unsigned round = 0; round < WORDS; round++) {
		struct kheap *heap = test_heap(t, ARENA);
		/* Of a heap with one object, then with many. */
		unsigned n = round < WORDS / 2 ? 1 : 1 + random_below(&random, N), k = random_below(&random, n);
		size_t offset = round * sizeof(uint64_t);
		uint64_t *word;

		TRY(heap != NULL);
		for (unsigned i = 0; i < n; i++) {
			objects[i] = kheap_alloc(heap, random_size(&random, 64, 300), 0);
			CHECK(t, objects[i] != NULL, "an object was refused");
		}
		for (unsigned i = 0; i < n; i++) {
			if (i != k && random_below(&random, 4) == 0)
				kheap_free(heap, objects[i]);
		}
		kheap_free(heap, objects[k]);
		word = (uint64_t *)((uintptr_t)objects[k] + offset);
		t->is_damaged = true;
		*word ^= 0x100;
		CHECK(t, kheap_check(heap, NULL) > 0, "object %u of %u: the check does not see it at offset %zu", k, n,
		      offset);
		/* All that there is, to the last hole. */
		for (size_t size = ARENA; size > 0; size -= 1 + size / 64) {
			while (t->n_errors == 0 && kheap_alloc(heap, size, 0) != NULL)
				;
		}
		CHECK(t, t->n_errors > 0, "object %u of %u: nobody was told of it at offset %zu", k, n, offset);
		t->n_errors = 0;
	}
}

static const struct test_case cases[] = {
	{ "an overrun of the object that was cut last is reported, whatever comes next", overrun_of_the_last_object },
	{ "an overrun into an empty area is reported before its pages are given back", overrun_into_an_empty_area },
	{ "links of a freed block that are written back late are not followed into a live object",
	  old_links_written_back },
	{ "a free block's last word that leads elsewhere does not make live objects free", last_word_that_lies },
	{ "a write after free is told, wherever it was freed to", write_after_free },
	{ "a zeroed object is zero also if its header was overrun", zeros_behind_an_overrun_header },
};
TEST_GROUP(damage, cases);
