/* SPDX-License-Identifier: MIT */
/*
 * CPU caches in company: interruptions that call the heap wherever a cache is half changed, and a processor that looks while another one
 * works. The first needs the check build with caches, whose hook is such an interruption; this file knows the heap's inside for
 * that, and to count what is cached.
 */
#include "inside.h"
#include "pattern.h"
#include "selftest.h"

#define ARENA ((size_t)8 << 20)
#define LARGEST 600 /* slabs and blocks */

/* ------------------------------------------------------------------------------------------------------------
 * Interruptions wherever a cache is half changed
 * --------------------------------------------------------------------------------------------------------- */

/* What is asked for: slabs and blocks, powers of two that are page runs, or blocks above 4 KiB and long runs. */
enum wish { WISH_SMALL, WISH_PAGES, WISH_LARGE };

#if defined(CHECKING) && !HARDENED

#define N_OPERATIONS 100000
#define N_INTERRUPTIONS 10000 /* at least */
#define N_SLOTS 128
#define GIVE_BACK_EACH 5000
#define TRIM_EACH 50 /* steps of an interruption; an allocation that fails gives as much back */

/* What somebody has of a heap; objects that two have show, because each fills them with its own pattern. */
struct holder {
	struct kheap *heap;
	struct random random;
	uint8_t *objects[N_SLOTS];
	size_t sizes[N_SLOTS];
	uint64_t keys[N_SLOTS];
	enum wish wish;
	unsigned n_steps, n_refused;
	const void *wrong; /* an object that was not as it was left, or that somebody had already */
};

static bool has(const struct holder *holder, const void *object)
{
	for (unsigned i = 0; i < N_SLOTS; i++)
		if (holder->objects[i] == object)
			return true;
	return false;
}

static void holder_free(struct holder *holder, unsigned i)
{
	uint8_t *object = holder->objects[i];

	if (object == NULL)
		return;
	if (pattern_verify(object, holder->keys[i], holder->sizes[i]) != PATTERN_INTACT && holder->wrong == NULL)
		holder->wrong = object;
	/* Before it is free: an interruption may get it in the middle of the call. */
	holder->objects[i] = NULL;
	kheap_free(holder->heap, object);
}

static size_t size_wished(struct holder *holder)
{
	if (holder->wish == WISH_PAGES)
		return KMALLOC_PAGE_SIZE << random_below(&holder->random, 3);
	if (holder->wish == WISH_SMALL)
		return random_size(&holder->random, 1, LARGEST);
	return random_below(&holder->random, 8) == 0 ? (size_t)64 << 10 : random_size(&holder->random, 4100, 20000);
}

/* Free an object, or allocate one where none is. */
static void holder_step(struct holder *holder, const struct holder *other)
{
	unsigned i = random_below(&holder->random, N_SLOTS);
	uint8_t *object;

	holder->n_steps++;
	if (holder->objects[i] != NULL) {
		holder_free(holder, i);
		return;
	}
	holder->sizes[i] = size_wished(holder);
	object = kheap_alloc(holder->heap, holder->sizes[i], 0);
	if (object == NULL) {
		holder->n_refused++;
		return;
	}
	if ((has(holder, object) || has(other, object)) && holder->wrong == NULL)
		holder->wrong = object;
	holder->objects[i] = object;
	holder->keys[i] = random_next(&holder->random);
	pattern_fill(object, holder->keys[i], 0, holder->sizes[i]);
}

static struct holder interrupted, interrupting;

/* An interruption is not interrupted, also when the heap would let it be. */
static void step_of_interruption(void)
{
	static bool is_inside;

	if (is_inside)
		return;
	is_inside = true;
	if (interrupting.n_steps % TRIM_EACH == 0)
		(void)kheap_trim(interrupting.heap);
	holder_step(&interrupting, &interrupted);
	is_inside = false;
}

static void holders_work(struct kheap *heap)
{
	kheap_interrupt_hook = step_of_interruption;
	while (interrupted.n_steps < N_OPERATIONS && interrupted.wrong == NULL && interrupting.wrong == NULL) {
		holder_step(&interrupted, &interrupting);
		if (interrupted.n_steps % GIVE_BACK_EACH == 0)
			(void)kheap_trim(heap);
		else if (interrupted.n_steps % GIVE_BACK_EACH == GIVE_BACK_EACH / 2)
			kheap_leave(heap);
	}
	for (unsigned i = 0; i < N_SLOTS; i++)
		holder_free(&interrupted, i);
	kheap_interrupt_hook = NULL;
	for (unsigned i = 0; i < N_SLOTS; i++)
		holder_free(&interrupting, i);
}

static bool has_large_cache(const struct kheap *heap)
{
	bool has_any = heap->cpu0.large != NULL;

	for (unsigned i = 0; i < KPORT_CPUS; i++)
		has_any |= heap->cpus[i]->large != NULL;
	return has_any;
}

static void interrupt_anywhere(struct test *t, enum wish wish)
{
	struct kheap *heap = test_heap(t, ARENA);
	struct kheap_stats stats;

	TRY(heap != NULL);
	/* Large objects are cached where there are several processors. */
	heap->n_caches += wish == WISH_LARGE;
	interrupted = (struct holder){ .heap = heap, .wish = wish };
	interrupting = (struct holder){ .heap = heap, .wish = wish };
	random_seed(&interrupted.random, t->options->seed);
	random_seed(&interrupting.random, t->options->seed + 1);
	holders_work(heap);
	CHECK(t, interrupted.wrong == NULL, "the object at %p of what was interrupted is somebody's, too",
	      interrupted.wrong);
	CHECK(t, interrupting.wrong == NULL, "the object at %p of an interruption is somebody's, too",
	      interrupting.wrong);
	CHECK(t, interrupted.n_refused + interrupting.n_refused == 0, "%u requests were refused",
	      interrupted.n_refused + interrupting.n_refused);
	CHECK(t, interrupting.n_steps > N_INTERRUPTIONS, "there were %u interruptions in %u operations",
	      interrupting.n_steps, N_OPERATIONS);
	TRY(test_sound(t, heap, "interruptions"));
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.live_objects == 0, "%zu objects are live when all have been freed", stats.live_objects);
	CHECK(t, wish != WISH_LARGE || has_large_cache(heap), "large objects were not cached");
	kheap_leave(heap);
	(void)kheap_trim(heap);
	CHECK(t, n_cached(heap) == 0, "%zu objects are cached after kheap_leave and kheap_trim", n_cached(heap));
	test_note(t, "%u interruptions in %u operations", interrupting.n_steps, interrupted.n_steps);
}

#else

static void interrupt_anywhere(struct test *t, enum wish wish)
{
	(void)wish;
	test_skip(t, "only the check build with CPU caches can be interrupted at a chosen point");
}

#endif

static void interruptions_may_come_anywhere(struct test *t)
{
	interrupt_anywhere(t, WISH_SMALL);
}

static void interruptions_may_want_pages(struct test *t)
{
	interrupt_anywhere(t, WISH_PAGES);
}

static void interruptions_may_want_large_objects(struct test *t)
{
	interrupt_anywhere(t, WISH_LARGE);
}

/* ------------------------------------------------------------------------------------------------------------
 * One processor works, another one looks
 * --------------------------------------------------------------------------------------------------------- */

#define BALLAST ((size_t)6 << 20) /* blocks are cached in such a heap */
#define N_LOOKS 1000
#define N_WORKS 20 /* rounds, at least */
#define LOOKING_SECONDS 10
#define N_HELD 256

struct look {
	struct host *host;
	struct kheap *heap;
	uint64_t end;
	bool is_over;
	unsigned n_works; /* rounds of the one who works */
	size_t n_faults;  /* that a check found */
	size_t live_most; /* objects that were told to be live */
	enum kheap_fault_class fault_class;
};

static bool is_over(const struct look *look)
{
	return __atomic_load_n(&look->is_over, __ATOMIC_RELAXED) || look->host->ticks(look->host) > look->end;
}

/* Objects come and go by the clip, pages one by one, in and out of the cache. */
static void work(struct look *look)
{
	static void *held[N_HELD];

	while (!is_over(look)) {
		for (unsigned i = 0; i < N_HELD; i++)
			held[i] = kheap_alloc(look->heap, 64, 0);
		for (unsigned i = 0; i < N_HELD; i++)
			kheap_free(look->heap, held[i]);
		for (unsigned i = 0; i < N_HELD; i++)
			kheap_free(look->heap, kheap_alloc(look->heap, KMALLOC_PAGE_SIZE << i % 2, 0));
		__atomic_fetch_add(&look->n_works, 1, __ATOMIC_RELAXED);
	}
	kheap_leave(look->heap);
}

/* The lock is not fair: whoever looks all the time would keep it. */
static void let_work(const struct look *look)
{
	uint64_t begin = look->host->ticks(look->host);

	while (look->host->ticks(look->host) - begin < look->host->ticks_per_second / 5000 && !is_over(look))
		;
}

static void look_at(void *ctx, unsigned index)
{
	struct look *look = ctx;
	struct kheap_stats stats;
	struct kheap_fault fault;

	if (index != 0) {
		work(look);
		return;
	}
	for (unsigned i = 0; !is_over(look); i++) {
		if (i >= N_LOOKS && __atomic_load_n(&look->n_works, __ATOMIC_RELAXED) >= N_WORKS)
			break;
		if (kheap_check(look->heap, &fault) != 0) {
			look->n_faults++;
			look->fault_class = fault.fault_class;
		}
		kheap_get_stats(look->heap, &stats);
		if (stats.live_objects > look->live_most)
			look->live_most = stats.live_objects;
		let_work(look);
	}
	__atomic_store_n(&look->is_over, true, __ATOMIC_RELAXED);
}

static void looking_does_not_disturb(struct test *t)
{
	static struct look look;
	struct host *host = t->host;
	struct kheap_stats before;
	bool is_run;

	if (host->run_parallel == NULL || host->n_cpus < 2) {
		test_skip(t, "there is only one processor");
		return;
	}
	look = (struct look){ .host = host, .heap = test_heap_on_host_pages(t, 2 * ARENA) };
	TRY(look.heap != NULL);
	CHECK(t, kheap_alloc(look.heap, BALLAST, 0) != NULL, "%zu bytes were refused", BALLAST);
	kheap_get_stats(look.heap, &before);
	look.end = host->ticks(host) + LOOKING_SECONDS * host->ticks_per_second;
	is_run = host->run_parallel(host, 2, look_at, &look);
	if (host->is_processor_lost)
		t->is_damaged = true;
	CHECK(t, is_run, "the host could not run two processors at once");
	CHECK(t, look.n_works >= N_WORKS, "the other processor worked %u rounds, expected %u", look.n_works, N_WORKS);
	CHECK(t, look.n_faults == 0, "%zu checks found '%s' where nothing is wrong", look.n_faults,
	      kheap_fault_name(look.fault_class));
	CHECK(t, look.live_most <= before.live_objects + 2 * N_HELD,
	      "%zu objects were told to be live, at most %zu are", look.live_most, before.live_objects + N_HELD);
}

/* A region that only a cache lies in, or what a cache holds, is empty. */
static void use_region(void *ctx, unsigned index)
{
	struct look *look = ctx;
	void *objects[N_HELD];

	for (unsigned i = 0; i < N_HELD; i++)
		objects[i] = kheap_alloc(look->heap, 64 + index, 0);
	for (unsigned i = 0; i < N_HELD; i++)
		kheap_free(look->heap, objects[i]);
}

static void caches_do_not_hold_regions(struct test *t)
{
	static struct look look;
	struct host *host = t->host;
	uint8_t *arena = test_arena(t, ARENA);

	if (host->run_parallel == NULL || host->n_cpus < 2) {
		test_skip(t, "there is only one processor");
		return;
	}
	look = (struct look){ .host = host, .heap = test_heap_on_host_pages(t, 2 * ARENA) };
	TRY(arena != NULL && look.heap != NULL);
	while (kheap_alloc(look.heap, KMALLOC_PAGE_SIZE, KMALLOC_NO_GROW) != NULL)
		;
	while (kheap_alloc(look.heap, 64, KMALLOC_NO_GROW) != NULL)
		;
	CHECK(t, kheap_add_region(look.heap, arena, ARENA), "a region was refused");
	CHECK(t, host->run_parallel(host, 2, use_region, &look), "the host could not run two processors at once");
	CHECK(t, kheap_remove_region(look.heap, arena), "caches kept a region in which nothing is live");
}

/* ------------------------------------------------------------------------------------------------------------
 * Two processors take and free objects in turn
 * --------------------------------------------------------------------------------------------------------- */

#define N_OWN 200
#define N_TURNS 1000 /* of each */
#define N_SIZES 3    /* of 16 bytes, 32, 48 */
#define LINE ((uintptr_t)64)
#define N_SPARE_PAGES 32
#define TURNS_SECONDS 15

struct turns {
	struct host *host;
	struct kheap *heap;
	uint64_t end;
	unsigned n_turns; /* of both; whose turn it is */
	void *objects[2][N_OWN];
};

static void take_turns(void *ctx, unsigned index)
{
	struct turns *turns = ctx;
	struct random random;

	random_seed(&random, index);
	/* A thread gets a cache when it has worked a little. */
	for (unsigned i = 0; i < N_OWN; i++)
		kheap_free(turns->heap, kheap_alloc(turns->heap, LARGEST, 0));
	for (unsigned i = 0; i < N_TURNS; i++) {
		void **object = &turns->objects[index][random_below(&random, N_OWN)];

		while (__atomic_load_n(&turns->n_turns, __ATOMIC_ACQUIRE) % 2 != index) {
			if (turns->host->ticks(turns->host) > turns->end)
				return;
			if (turns->host->yield != NULL)
				turns->host->yield(turns->host);
		}
		kheap_free(turns->heap, *object);
		*object = kheap_alloc(turns->heap, 16 * (1 + random_below(&random, N_SIZES)), 0);
		__atomic_fetch_add(&turns->n_turns, 1, __ATOMIC_RELEASE);
	}
	kheap_leave(turns->heap);
}

static unsigned n_shared_lines(const struct turns *turns)
{
	unsigned n = 0;

	for (unsigned i = 0; i < N_OWN; i++)
		for (unsigned k = 0; k < N_OWN && turns->objects[0][i] != NULL; k++)
			n += (uintptr_t)turns->objects[0][i] / LINE == (uintptr_t)turns->objects[1][k] / LINE;
	return n;
}

static void objects_share_no_line(struct test *t)
{
	static struct turns turns;
	struct host *host = t->host;
	void *pages[N_SPARE_PAGES];
	unsigned n_live = 0;
	bool is_run;

	if (HARDENED || host->run_parallel == NULL || host->n_cpus < 2) {
		test_skip(t, HARDENED ? "the hardened builds have no CPU caches" : "there is only one processor");
		return;
	}
	turns = (struct turns){ .host = host, .heap = test_heap_on_host_pages(t, ARENA) };
	TRY(turns.heap != NULL);
	/* The first few objects of a class are blocks, which may lie anywhere; where no page is to spare others' slabs are taken from. */
	for (unsigned i = 0; i < N_OWN * N_SIZES; i++)
		CHECK(t, kheap_alloc(turns.heap, 16 * (1 + i % N_SIZES), 0) != NULL, "an object was refused");
	for (unsigned i = 0; i < N_SPARE_PAGES; i++)
		pages[i] = kheap_alloc(turns.heap, KMALLOC_PAGE_SIZE, 0);
	for (unsigned i = 1; i < N_SPARE_PAGES; i++)
		kheap_free(turns.heap, pages[i]);
	turns.end = host->ticks(host) + TURNS_SECONDS * host->ticks_per_second;
	is_run = host->run_parallel(host, 2, take_turns, &turns);
	if (host->is_processor_lost)
		t->is_damaged = true;
	CHECK(t, is_run, "the host could not run two processors at once");
	CHECK(t, turns.n_turns == 2 * N_TURNS, "after %u of %u turns nobody came", turns.n_turns, 2 * N_TURNS);
	for (unsigned i = 0; i < 2 * N_OWN; i++)
		n_live += turns.objects[i / N_OWN][i % N_OWN] != NULL;
	CHECK(t, n_live > N_OWN, "only %u objects are live", n_live);
	CHECK(t, n_shared_lines(&turns) == 0, "%u times an object of each lies in one line of the processor's cache",
	      n_shared_lines(&turns));
	test_sound(t, turns.heap, "two processors took turns");
}

static const struct test_case cases[] = {
	{ "interruptions may come wherever a cache is half changed", interruptions_may_come_anywhere },
	{ "interruptions may allocate and free page runs wherever a cache is half changed",
	  interruptions_may_want_pages },
	{ "interruptions may allocate and free large objects wherever a cache is half changed",
	  interruptions_may_want_large_objects },
	{ "statistics and checks are right while another processor works", looking_does_not_disturb },
	{ "caches do not keep a region from being taken back", caches_do_not_hold_regions },
	{ "objects that two processors take in turn share no cache line", objects_share_no_line },
};

TEST_GROUP(caches_shared, cases);
