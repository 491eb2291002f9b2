/* SPDX-License-Identifier: MIT */
/*
 * The stress run itself: it must pass a good engine, repeat itself, and find every kind of fault in engines that
 * are broken on purpose. The engine is the ancestor in an arena of its own, with faults let in through a wrapper.
 */
#include "../classic/classic.h"

#include "selftest.h"
#include "stress.h"

#define ARENA ((size_t)2 << 20)
#define OPERATIONS 30000
#define BREAK_AT 5000

enum fault {
	NO_FAULT,
	GIVES_LIVE_MEMORY,   /* an object that overlaps another */
	FLIPS_A_BIT,         /* of a live object */
	GIVES_MISALIGNED,    /* an address that is 8 off */
	PROMISES_TOO_LITTLE, /* a usable size below the request */
	FAILS_ITS_CHECK,
	REPORTS_MISUSE,
	LOSES_MEMORY,   /* does not free */
	REFUSES_ALWAYS, /* although there is memory */
};

/* A broken engine: what it does wrong from call BREAK_AT on, and what the run did to it. */
static struct broken {
	struct classic classic;
	struct test *test;
	void *arena;
	enum fault fault;
	unsigned n_calls;
	bool is_broken; /* the fault has been let in */
	uint8_t *last;
	uint64_t digest; /* of every call: order, kind, size */
} broken;

static bool now(enum fault fault)
{
	return broken.fault == fault && broken.n_calls >= BREAK_AT;
}

static void note_call(uint64_t what)
{
	broken.n_calls++;
	broken.digest = (broken.digest ^ what) * 0x9e3779b97f4a7c15u;
}

static bool broken_start(struct allocator *engine, struct host *host, size_t budget_bytes, const char **why)
{
	(void)host;
	(void)budget_bytes;
	*why = "the arena was refused";
	engine->n_errors = 0;
	engine->is_started = classic_init(&broken.classic, broken.arena, ARENA);
	broken.classic.max_size = SIZE_MAX;
	return engine->is_started;
}

static void broken_stop(struct allocator *engine)
{
	engine->is_started = false;
}

static void *broken_alloc(struct allocator *engine, size_t size)
{
	uint8_t *object;

	(void)engine;
	note_call(size);
	if (now(REFUSES_ALWAYS))
		return NULL;
	if (now(GIVES_LIVE_MEMORY) && !broken.is_broken && broken.last != NULL && size >= 16 &&
	    classic_usable_size(&broken.classic, broken.last) >= size) {
		broken.is_broken = true;
		return broken.last;
	}
	object = classic_alloc(&broken.classic, size);
	if (now(GIVES_MISALIGNED) && object != NULL)
		object += 8;
	if (now(FLIPS_A_BIT) && !broken.is_broken && broken.last != NULL &&
	    classic_usable_size(&broken.classic, broken.last) > 0) {
		broken.last[0] ^= 0x10;
		broken.is_broken = true;
	}
	broken.last = object != NULL ? object : broken.last;
	return object;
}

static void broken_free(struct allocator *engine, void *object)
{
	note_call(0);
	engine->n_errors += now(REPORTS_MISUSE);
	if (broken.last == object)
		broken.last = NULL;
	if (now(LOSES_MEMORY))
		return;
	classic_free(&broken.classic, object);
}

static size_t broken_usable_size(struct allocator *engine, void *object)
{
	size_t usable = classic_usable_size(&broken.classic, object);

	(void)engine;
	return now(PROMISES_TOO_LITTLE) ? usable / 2 : usable;
}

static bool broken_check(struct allocator *engine, const char **what)
{
	(void)engine;
	*what = now(FAILS_ITS_CHECK) ? "broken on purpose" : classic_check(&broken.classic);
	return *what == NULL;
}

static void broken_stats(struct allocator *engine, struct allocator_stats *stats)
{
	(void)engine;
	stats->live_bytes = broken.classic.end - broken.classic.begin - broken.classic.free_bytes;
	stats->footprint_bytes = ARENA;
}

static struct allocator broken_engine = {
	.name = "broken",
	.description = "the ancestor with faults let in",
	.alignment = CLASSIC_ALIGNMENT,
	.max_size = SIZE_MAX,
	.is_bounded = true,
	.start = broken_start,
	.stop = broken_stop,
	.alloc = broken_alloc,
	.free = broken_free,
	.usable_size = broken_usable_size,
	.check = broken_check,
	.stats = broken_stats,
};

/* ------------------------------------------------------------------------------------------------------------
 * Runs
 * --------------------------------------------------------------------------------------------------------- */

static enum suite_control go_on(void *ctx, const struct stress_progress *progress)
{
	(void)ctx;
	(void)progress;
	return SUITE_GO_ON;
}

static enum suite_control stop_at_once(void *ctx, const struct stress_progress *progress)
{
	(void)ctx;
	(void)progress;
	return SUITE_STOP;
}

static bool prepare(struct test *t)
{
	broken.arena = test_arena(t, ARENA);
	return broken.arena != NULL;
}

/* One run; stops the engine that a failed one left as it was. */
static void run(struct test *t, enum fault fault, uint64_t seed, uint64_t operations, struct stress_result *result)
{
	struct suite_options options;
	struct observer observer = { .stress = go_on };
	bool keeps;

	suite_default_options(&options);
	options.seed = seed;
	options.operations = operations;
	options.seconds = 0;
	options.heap_bytes = ARENA;
	broken.fault = fault;
	broken.n_calls = 0;
	broken.is_broken = false;
	broken.last = NULL;
	broken.digest = 0;
	stress_run(t->host, &broken_engine, &options, &observer, result, &keeps);
	if (keeps != (result->outcome == SUITE_FAILED) || broken_engine.is_started != keeps)
		test_fail(t, "the engine was %s after a run that %s", broken_engine.is_started ? "kept" : "stopped",
		          result->outcome == SUITE_FAILED ? "failed" : "did not fail");
	if (keeps)
		broken_stop(&broken_engine);
}

static void good_engine_passes(struct test *t)
{
	struct stress_result result;
	char live[16];

	TRY(prepare(t));
	run(t, NO_FAULT, 42, OPERATIONS, &result);
	CHECK(t, result.outcome == SUITE_PASSED, "a good engine failed: %s", result.failure);
	CHECK(t, result.last.operations == OPERATIONS, "%llu operations were done, expected %d",
	      (unsigned long long)result.last.operations, OPERATIONS);
	CHECK(t, result.last.live_objects == 0 && result.last.live_bytes == 0, "blocks were left after the run");
	CHECK(t, result.last.refused > 0, "the run never filled the heap");
	CHECK(t, result.last.peak_bytes > ARENA / 2, "the run's peak was %s of 2 MiB",
	      text_bytes(live, sizeof(live), result.last.peak_bytes));
	CHECK(t, result.last.checks > 2, "the engine was checked %llu times only",
	      (unsigned long long)result.last.checks);
}

static void same_seed_repeats(struct test *t)
{
	struct stress_result result;
	uint64_t first;

	TRY(prepare(t));
	run(t, NO_FAULT, 42, OPERATIONS, &result);
	first = broken.digest;
	run(t, NO_FAULT, 42, OPERATIONS, &result);
	CHECK(t, broken.digest == first, "two runs with one seed made different calls");
	run(t, NO_FAULT, 43, OPERATIONS, &result);
	CHECK(t, broken.digest != first, "runs with seeds 42 and 43 made the same calls");
}

/*
 * The fault must be found, at the operation that shows it, and again at the same one when the run is repeated as it
 * says.
 */
static bool is_found(struct test *t, enum fault fault, const char *words, uint64_t *operation)
{
	struct stress_result result, again;
	const char *p;

	run(t, fault, 42, OPERATIONS, &result);
	REQUIRE(t, result.outcome == SUITE_FAILED, "fault %d was not found in %d operations", (int)fault, OPERATIONS);
	for (p = result.failure; *p != '\0'; p++) {
		size_t n = 0;

		while (words[n] != '\0' && p[n] == words[n])
			n++;
		if (words[n] == '\0')
			break;
	}
	REQUIRE(t, *p != '\0', "fault %d was reported as '%s', expected '%s' in it", (int)fault, result.failure, words);
	REQUIRE(t, result.last.failures == 1, "fault %d was counted %llu times", (int)fault,
	        (unsigned long long)result.last.failures);
	*operation = result.last.operations;
	run(t, fault, 42, *operation < OPERATIONS ? *operation : OPERATIONS, &again);
	REQUIRE(t, again.outcome == SUITE_FAILED && again.last.operations == *operation,
	        "fault %d was found at operation %llu, and when that was repeated at %llu", (int)fault,
	        (unsigned long long)*operation, (unsigned long long)again.last.operations);
	return true;
}

static void faults_show_at_once(struct test *t)
{
	uint64_t misaligned, little, misuse, refused;

	TRY(prepare(t));
	TRY(is_found(t, GIVES_MISALIGNED, "not aligned to 16", &misaligned));
	TRY(is_found(t, PROMISES_TOO_LITTLE, "has a usable size of", &little));
	TRY(is_found(t, REPORTS_MISUSE, "reported a misuse", &misuse));
	TRY(is_found(t, REFUSES_ALWAYS, "was refused while only", &refused));
	/* The engine is called at most once an operation. */
	CHECK(t, misaligned >= BREAK_AT && misuse >= BREAK_AT && refused >= BREAK_AT,
	      "a fault was reported before it was there");
	CHECK(t, misuse < BREAK_AT + BREAK_AT / 4, "a reported misuse was noticed at operation %llu only",
	      (unsigned long long)misuse);
	CHECK(t, misaligned < misuse + 100 && little < misuse + 100,
	      "a bad address or size was noticed 100 operations late");
}

static void damage_is_found_later(struct test *t)
{
	uint64_t overlap, flip;

	TRY(prepare(t));
	TRY(is_found(t, GIVES_LIVE_MEMORY, "byte ", &overlap));
	TRY(is_found(t, FLIPS_A_BIT, "byte 0 is", &flip));
	CHECK(t, overlap >= BREAK_AT && flip >= BREAK_AT, "a fault was reported before it was there");
}

static void checks_and_leaks_fail(struct test *t)
{
	struct stress_result result;

	TRY(prepare(t));
	run(t, FAILS_ITS_CHECK, 42, OPERATIONS, &result);
	CHECK(t, result.outcome == SUITE_FAILED, "an engine whose check fails passed");
	run(t, LOSES_MEMORY, 42, BREAK_AT + BREAK_AT / 10, &result);
	CHECK(t, result.outcome == SUITE_FAILED, "an engine that does not free passed");
}

static void run_can_be_stopped(struct test *t)
{
	struct suite_options options;
	struct observer observer = { .stress = stop_at_once };
	struct stress_result result;
	bool keeps;

	TRY(prepare(t));
	suite_default_options(&options);
	options.heap_bytes = ARENA;
	broken.fault = NO_FAULT;
	stress_run(t->host, &broken_engine, &options, &observer, &result, &keeps);
	CHECK(t, result.outcome == SUITE_STOPPED && !keeps && !broken_engine.is_started,
	      "a run that was told to stop ended as %d", (int)result.outcome);
	CHECK(t, result.last.live_objects == 0, "a stopped run left %llu blocks",
	      (unsigned long long)result.last.live_objects);
	options.heap_bytes = 4096;
	stress_run(t->host, &broken_engine, &options, &observer, &result, &keeps);
	CHECK(t, result.outcome == SUITE_CANNOT_RUN && result.failure[0] != '\0', "a heap of one page was accepted");
}

static const struct test_case cases[] = {
	{ "a good engine passes, filled and emptied", good_engine_passes },
	{ "the same seed makes the same calls", same_seed_repeats },
	{ "bad addresses, sizes, reports and refusals are found when they show, and again when repeated",
	  faults_show_at_once },
	{ "overlapping and changed blocks are found, and again when repeated", damage_is_found_later },
	{ "failed checks and lost memory fail the run", checks_and_leaks_fail },
	{ "a run stops when told, and refuses a heap that is too small", run_can_be_stopped },
};
TEST_GROUP(stress, cases);
