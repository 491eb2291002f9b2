/* SPDX-License-Identifier: MIT */
/* What one processor allocates and another one frees, for ever. This file knows the heap's inside, to count what is cached. */
#include "inside.h"
#include "pattern.h"
#include "selftest.h"

#define ARENA ((size_t)8 << 20)
#define LARGEST 600 /* slabs and blocks */

#define N_PASSED 100000
#define N_RING 256
#define FOOTPRINT_MOST ((size_t)4 << 20)
#define SMALL_BALLAST ((size_t)1 << 20) /* magazines of slab objects have their full size in such a heap, */
#define BALLAST ((size_t)6 << 20)       /* and blocks are cached in this one */
#define LEAST_BLOCK 300
#define LARGEST_BLOCK 2000
/* Of the objects passed, those that may come from below the caches; without the depot it would be nearly all. */
#define FROM_BELOW_MOST (N_PASSED / 2)
#define PASSING_SECONDS 15

struct parcel {
	size_t size; /* of all, this too */
	uint64_t key;
};

struct belt {
	struct host *host;
	struct kheap *heap;
	size_t least, most; /* bytes */
	uint64_t end;       /* in ticks: who waits longer gives up */
	struct random random;
	struct parcel *ring[N_RING];
	unsigned n_sent, n_received;
	bool has_failed; /* somebody gave up */
	const char *why;
};

/* False: it took too long, or the other one has given up. */
static bool belt_wait(struct belt *belt)
{
	if (__atomic_load_n(&belt->has_failed, __ATOMIC_RELAXED) || belt->host->ticks(belt->host) > belt->end)
		return false;
	if (belt->host->yield != NULL)
		belt->host->yield(belt->host);
	return true;
}

static const char *send_all(struct belt *belt)
{
	for (unsigned i = 0; i < N_PASSED; i++) {
		size_t size = random_size(&belt->random, belt->least, belt->most);
		struct parcel *parcel = kheap_alloc(belt->heap, size, 0);

		if (parcel == NULL)
			return "an object was refused";
		*parcel = (struct parcel){ size, random_next(&belt->random) };
		pattern_fill(parcel + 1, parcel->key, 0, size - sizeof(*parcel));
		while (i - __atomic_load_n(&belt->n_received, __ATOMIC_ACQUIRE) == N_RING)
			if (!belt_wait(belt))
				return "nobody frees what was allocated";
		belt->ring[i % N_RING] = parcel;
		__atomic_store_n(&belt->n_sent, i + 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

static const char *receive_all(struct belt *belt)
{
	for (unsigned i = 0; i < N_PASSED; i++) {
		struct parcel *parcel;

		while (__atomic_load_n(&belt->n_sent, __ATOMIC_ACQUIRE) == i)
			if (!belt_wait(belt))
				return "nothing comes to be freed";
		parcel = belt->ring[i % N_RING];
		__atomic_store_n(&belt->n_received, i + 1, __ATOMIC_RELEASE);
		if (parcel->size > belt->most ||
		    pattern_verify(parcel + 1, parcel->key, parcel->size - sizeof(*parcel)) != PATTERN_INTACT)
			return "an object was changed on its way";
		kheap_free(belt->heap, parcel);
	}
	return NULL;
}

static void pass(void *ctx, unsigned index)
{
	struct belt *belt = ctx;
	const char *why = index == 0 ? send_all(belt) : receive_all(belt);

	if (why != NULL && !__atomic_exchange_n(&belt->has_failed, true, __ATOMIC_ACQ_REL))
		belt->why = why;
	kheap_leave(belt->heap);
}

/* At most so many objects may come from below the caches; 0: any, as in a heap of some pages, which caches little. */
static void another_processor_frees(struct test *t, size_t least, size_t most, size_t ballast, unsigned from_below)
{
	static struct belt belt;
	struct host *host = t->host;
	struct kheap_stats before, stats;
	void *weight;
	bool is_run;

	if (host->run_parallel == NULL || host->n_cpus < 2) {
		test_skip(t, "there is only one processor");
		return;
	}
	belt = (struct belt){
		.host = host, .heap = test_heap_on_host_pages(t, 2 * ARENA), .least = least, .most = most
	};
	TRY(belt.heap != NULL);
	weight = kheap_alloc(belt.heap, ballast, 0);
	CHECK(t, weight != NULL, "%zu bytes were refused", ballast);
	kheap_get_stats(belt.heap, &before);
	belt.end = host->ticks(host) + PASSING_SECONDS * host->ticks_per_second;
	random_seed(&belt.random, t->options->seed);
	is_run = host->run_parallel(host, 2, pass, &belt);
	if (host->is_processor_lost)
		t->is_damaged = true;
	CHECK(t, is_run, "the host could not run two processors at once");
	CHECK(t, !belt.has_failed, "%s, after %u of %u objects", belt.why, belt.n_received, N_PASSED);
	kheap_get_stats(belt.heap, &stats);
	CHECK(t, stats.live_objects == before.live_objects, "%zu objects are live when all have been freed but %zu",
	      stats.live_objects, before.live_objects);
	CHECK(t, stats.peak_footprint_bytes <= ballast + FOOTPRINT_MOST, "%u objects on their way took %zu bytes",
	      N_RING, stats.peak_footprint_bytes - ballast);
	if (!HARDENED && from_below != 0)
		CHECK(t, stats.n_allocs - before.n_allocs <= from_below, "%zu of %u objects came from below the caches",
		      (size_t)(stats.n_allocs - before.n_allocs), N_PASSED);
	kheap_free(belt.heap, weight);
	TRY(test_sound(t, belt.heap, "another processor freed"));
	(void)kheap_trim(belt.heap);
	CHECK(t, n_cached(belt.heap) == 0, "%zu objects are cached when both processors have left",
	      n_cached(belt.heap));
	test_note(t, "%u objects, %zu of them from below the caches, %zu bytes of pages", N_PASSED,
	          (size_t)(stats.n_allocs - before.n_allocs), stats.peak_footprint_bytes - ballast);
}

static void another_processor_may_free(struct test *t)
{
	another_processor_frees(t, sizeof(struct parcel), LARGEST, 1, 0);
}

static void another_processor_may_free_small_ones(struct test *t)
{
	another_processor_frees(t, sizeof(struct parcel), 256, SMALL_BALLAST, FROM_BELOW_MOST);
}

static void another_processor_may_free_blocks(struct test *t)
{
	another_processor_frees(t, LEAST_BLOCK, LARGEST_BLOCK, BALLAST, FROM_BELOW_MOST);
}

#define N_LENT 60000 /* objects */
#define LENT_BYTES 100
#define LENDINGS 3
#define KEPT_MOST 2000u /* in caches, when as many are live again */

struct lender {
	struct kheap *heap;
	unsigned n_got;
	void *objects[N_LENT];
};

static void get_all(void *ctx, unsigned index)
{
	struct lender *lender = ctx;

	if (index != 1)
		return;
	for (lender->n_got = 0; lender->n_got < N_LENT; lender->n_got++) {
		lender->objects[lender->n_got] = kheap_alloc(lender->heap, LENT_BYTES, 0);
		if (lender->objects[lender->n_got] == NULL)
			break;
	}
	kheap_leave(lender->heap);
}

static void freed_objects_can_be_had_elsewhere(struct test *t)
{
	static struct lender lender;
	struct host *host = t->host;
	size_t kept = 0;

	if (host->run_parallel == NULL || host->n_cpus < 2) {
		test_skip(t, "there is only one processor");
		return;
	}
	lender.heap = test_heap_on_host_pages(t, 4 * ARENA);
	TRY(lender.heap != NULL);
	/* So that this processor has its cache before another one comes. */
	get_all(&lender, 1);
	for (unsigned j = 0; j < N_LENT; j++)
		kheap_free(lender.heap, lender.objects[j]);
	for (unsigned i = 0; i < LENDINGS; i++) {
		bool is_run = host->run_parallel(host, 2, get_all, &lender);

		if (host->is_processor_lost)
			t->is_damaged = true;
		CHECK(t, is_run, "the host could not run two processors at once");
		CHECK(t, lender.n_got == N_LENT, "object %u was refused", lender.n_got);
		kept = n_cached(lender.heap);
		for (unsigned j = 0; j < N_LENT; j++)
			kheap_free(lender.heap, lender.objects[j]);
	}
	CHECK(t, kept <= KEPT_MOST, "%zu objects lie in caches when %u have been allocated again", kept, N_LENT);
	TRY(test_sound(t, lender.heap, "another processor freed all"));
	test_note(t, "%zu objects are kept", kept);
}

static const struct test_case cases[] = {
	{ "one processor may free all that another one allocates", another_processor_may_free },
	{ "small objects that another processor frees come back through the depot",
	  another_processor_may_free_small_ones },
	{ "and so do blocks", another_processor_may_free_blocks },
	{ "what one processor freed another one can have", freed_objects_can_be_had_elsewhere },
};
TEST_GROUP(caches_travel, cases);
