/* SPDX-License-Identifier: MIT */
/*
 * The heap entered by what interrupts it on its own processor, and by several processors at once, with every byte
 * verified. What runs in an interruption or on another processor touches its own worker, the shared slots and the heap;
 * it calls nothing of the host, and leaves it to the case to fail.
 */
#include "pattern.h"
#include "selftest.h"

#define ARENA ((size_t)8 << 20)
#define RUN_MS 500
#define MAX_WORKERS 5 /* four processors, and what interrupts the first of them */
#define N_OWN 64
#define N_SHARED 64
#define STEPS_AN_INTERRUPTION 50
#define TRIM_EACH 512
#define STARVED_SHARE 50          /* of what another processor did: it waited all the time */
#define SMALL ((size_t)600)       /* slabs and blocks */
#define LARGE ((size_t)256 << 10) /* page runs and regions, too */

/* An object tells how it is to be found; the pattern follows. */
struct object {
	uint64_t key;
	size_t n_bytes; /* of the pattern */
};

struct worker {
	struct random random;
	struct object *own[N_OWN];
	unsigned n_operations, n_refused;
	const void *damaged; /* the first object that was not as it was left */
};

struct workshop {
	struct host *host;
	struct kheap *heap;
	size_t largest;
	uint64_t run_ticks;
	unsigned n_interruptions;
	struct object *shared[N_SHARED]; /* whoever exchanges one owns it */
	struct worker workers[MAX_WORKERS];
};

static void discard(struct workshop *shop, struct worker *worker, struct object *object)
{
	if (object == NULL)
		return;
	if (object->n_bytes > shop->largest ||
	    pattern_verify(object + 1, object->key, object->n_bytes) != PATTERN_INTACT) {
		if (worker->damaged == NULL)
			worker->damaged = object;
		return;
	}
	kheap_free(shop->heap, object);
}

static struct object *make(struct workshop *shop, struct worker *worker)
{
	size_t n_bytes = random_size(&worker->random, 1, shop->largest);
	struct object *object = kheap_alloc(shop->heap, sizeof(*object) + n_bytes, 0);

	if (object == NULL) {
		worker->n_refused++;
		return NULL;
	}
	object->key = random_next(&worker->random);
	object->n_bytes = n_bytes;
	pattern_fill(object + 1, object->key, 0, n_bytes);
	return object;
}

static void step(struct workshop *shop, struct worker *worker)
{
	uint32_t choice = random_below(&worker->random, N_OWN + N_SHARED);
	struct object *object = make(shop, worker);

	if (choice < N_OWN) {
		struct object *old = worker->own[choice];

		worker->own[choice] = object;
		object = old;
	} else {
		object = __atomic_exchange_n(&shop->shared[choice - N_OWN], object, __ATOMIC_ACQ_REL);
	}
	discard(shop, worker, object);
	worker->n_operations++;
}

static void interrupt(void *ctx)
{
	struct workshop *shop = ctx;

	for (unsigned i = 0; i < STEPS_AN_INTERRUPTION; i++)
		step(shop, &shop->workers[MAX_WORKERS - 1]);
	shop->n_interruptions++;
}

static void work(void *ctx, unsigned index)
{
	struct workshop *shop = ctx;
	struct worker *worker = &shop->workers[index];
	uint64_t begin = shop->host->ticks(shop->host);

	while (shop->host->ticks(shop->host) - begin < shop->run_ticks && worker->damaged == NULL) {
		step(shop, worker);
		if (shop->largest > SMALL && worker->n_operations % TRIM_EACH == 0)
			(void)kheap_trim(shop->heap);
	}
}

static void begin(struct test *t, struct workshop *shop, struct kheap *heap, size_t largest)
{
	*shop = (struct workshop){ .host = t->host, .heap = heap, .largest = largest };
	shop->run_ticks = t->host->ticks_per_second * RUN_MS / 1000;
	for (unsigned i = 0; i < MAX_WORKERS; i++)
		random_seed(&shop->workers[i].random, t->options->seed + i);
}

/* Free all that is left, and see whether everybody found everything as it was left. */
static bool is_well(struct test *t, struct workshop *shop)
{
	struct kheap_stats stats;

	for (unsigned i = 0; i < N_SHARED; i++)
		discard(shop, &shop->workers[0], shop->shared[i]);
	for (unsigned i = 0; i < MAX_WORKERS; i++) {
		for (unsigned k = 0; k < N_OWN; k++)
			discard(shop, &shop->workers[i], shop->workers[i].own[k]);
		REQUIRE(t, shop->workers[i].damaged == NULL, "worker %u found the object at %p changed", i,
		        shop->workers[i].damaged);
		REQUIRE(t, shop->workers[i].n_refused <= shop->workers[i].n_operations / 2,
		        "%u of %u requests of worker %u were refused", shop->workers[i].n_refused,
		        shop->workers[i].n_operations, i);
	}
	kheap_get_stats(shop->heap, &stats);
	REQUIRE(t, stats.live_objects == 0, "%zu objects are live when all have been freed", stats.live_objects);
	return true;
}

static void run_interrupted(struct test *t, struct kheap *heap, size_t largest)
{
	static struct workshop shop;
	unsigned in_interruptions;

	begin(t, &shop, heap, largest);
	CHECK(t, t->host->interrupts_begin(t->host, interrupt, &shop), "the host could not begin to interrupt");
	work(&shop, 0);
	t->host->interrupts_end(t->host);
	in_interruptions = shop.workers[MAX_WORKERS - 1].n_operations;
	TRY(is_well(t, &shop));
	CHECK(t, shop.n_interruptions > 0, "nothing interrupted the heap within %u ms", RUN_MS);
	test_note(t, "%u operations, and %u in %u interruptions", shop.workers[0].n_operations, in_interruptions,
	          shop.n_interruptions);
}

static bool is_interruptible(struct test *t)
{
	if (t->host->interrupts_begin == NULL)
		test_skip(t, "nothing interrupts the heap on this host");
	return t->host->interrupts_begin != NULL;
}

static void interruptions_may_enter(struct test *t)
{
	struct kheap *heap;

	TRY(is_interruptible(t));
	heap = test_heap(t, ARENA);
	TRY(heap != NULL);
	run_interrupted(t, heap, SMALL);
}

static void interruptions_may_grow(struct test *t)
{
	struct kheap *heap;

	TRY(is_interruptible(t));
	heap = test_heap_on_host_pages(t, 2 * ARENA);
	TRY(heap != NULL);
	run_interrupted(t, heap, LARGE);
}

static void processors_may_enter(struct test *t)
{
	static struct workshop shop;
	struct host *host = t->host;
	unsigned n = host->n_cpus < MAX_WORKERS - 1 ? host->n_cpus : MAX_WORKERS - 1;
	bool is_interrupted = false, is_run;
	struct kheap *heap;

	if (host->run_parallel == NULL || n < 2) {
		test_skip(t, "there is only one processor");
		return;
	}
	heap = test_heap_on_host_pages(t, 2 * ARENA);
	TRY(heap != NULL);
	begin(t, &shop, heap, LARGE);
	if (host->interrupts_begin != NULL)
		is_interrupted = host->interrupts_begin(host, interrupt, &shop);
	is_run = host->run_parallel(host, n, work, &shop);
	if (is_interrupted)
		host->interrupts_end(host);
	if (host->is_processor_lost)
		t->is_damaged = true;
	CHECK(t, is_run, "the host could not run %u processors at once", n);
	for (unsigned i = 0; i < n; i++)
		/* A virtual machine's processors run when its host lets them. */
		CHECK(t,
		      shop.workers[i].n_operations >
		              (host->is_virtual_machine ? 0 : shop.workers[0].n_operations / STARVED_SHARE),
		      "processor %u did %u operations, while processor 0 did %u", i, shop.workers[i].n_operations,
		      shop.workers[0].n_operations);
	TRY(is_well(t, &shop));
	CHECK(t, !is_interrupted || shop.n_interruptions > 0, "nothing interrupted the first processor");
	test_note(t, "%u processors, %u interruptions", n, shop.n_interruptions);
}

static const struct test_case cases[] = {
	{ "what interrupts the heap on its own processor may allocate and free in it", interruptions_may_enter },
	{ "the heap may grow and shrink in an interruption, and be interrupted while it does", interruptions_may_grow },
	{ "several processors may allocate, exchange and free in one heap, interrupted too", processors_may_enter },
};

TEST_GROUP(interrupts, cases);
