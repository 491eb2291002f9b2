/* SPDX-License-Identifier: MIT */
/*
 * The stress run: starts the engine, drives stress_work.c within the bounds, checks the engine, tells the observer,
 * and gives the verdict. Times decide only when to look, never what is done.
 */
#include "measure.h"
#include "stress.h"
#include "text.h"

#define MIN_CAPACITY ((size_t)256 << 10)
#define MAX_BLOCK ((size_t)1 << 20)
#define MAX_BLOCKS_SHARE 16
#define BYTES_PER_SLOT ((size_t)16 << 10)
#define MIN_SLOTS 1024
#define MAX_SLOTS ((size_t)1 << 20)
/* The clock is read after so many operations, or so many bytes: reading it may be slow. */
#define OPERATIONS_PER_LOOK 32
#define BYTES_PER_LOOK ((uint64_t)8 << 20)
#define PROGRESS_MS 100
#define FIRST_CHECK_INTERVAL 1000
#define MIN_CHECK_INTERVAL 64
#define MAX_CHECK_INTERVAL ((uint64_t)1 << 24)
/* Checks shall take less than a fifth of the time, and may take more than a sixtieth. */
#define CHECK_SHARE_MAX 5
#define CHECK_SHARE_MIN 60

/* Time as the run counts it: without what the observer spent. */
struct pace {
	uint64_t begin, paused;
	uint64_t now; /* ticks since the begin, as of the last look */
	uint64_t last_told, last_told_operations;
	uint64_t next_look, look_bytes; /* operations, verified bytes */
	uint64_t next_check, check_interval, last_check_end;
};

bool stress_fail(struct stress *s, const char *format, ...)
{
	char what[140];
	va_list args;

	if (s->progress.failures++ != 0)
		return false;
	va_start(args, format);
	(void)text_vformat(what, sizeof(what), format, args);
	va_end(args);
	s->result->outcome = SUITE_FAILED;
	text_format(s->result->failure, sizeof(s->result->failure), "operation %llu%s: %s",
	            (unsigned long long)s->progress.operations, s->is_draining ? " (freeing all)" : "", what);
	text_format(s->result->repeat, sizeof(s->result->repeat),
	            "kmalloc stress -seed %llu -operations %llu -heap %zu -engine %s",
	            (unsigned long long)s->progress.seed,
	            (unsigned long long)(s->is_draining ? s->drain_began_at : s->progress.operations),
	            s->capacity_bytes, s->engine->name);
	return false;
}

static uint64_t to_ms(const struct stress *s, uint64_t ticks)
{
	return ticks / (s->host->ticks_per_second / 1000 + (s->host->ticks_per_second < 1000));
}

static void look_at_clock(struct stress *s, struct pace *pace)
{
	pace->now = s->host->ticks(s->host) - pace->begin - pace->paused;
	pace->next_look = s->progress.operations + OPERATIONS_PER_LOOK;
	pace->look_bytes = s->progress.verified_bytes + BYTES_PER_LOOK;
}

/* All the engine's invariants. The interval to the next check follows from what this one cost. */
static bool check(struct stress *s, struct pace *pace)
{
	uint64_t begin = s->host->ticks(s->host), cost, since;
	const char *what = "";
	bool is_sound = s->engine->check == NULL || s->engine->check(s->engine, &what);

	if (!is_sound)
		return stress_fail(s, "the engine's check failed: %s", what);
	s->progress.checks += s->engine->check != NULL;
	look_at_clock(s, pace);
	cost = pace->now - (begin - pace->begin - pace->paused);
	since = pace->now - pace->last_check_end;
	pace->last_check_end = pace->now;
	if (cost * CHECK_SHARE_MAX > since && pace->check_interval < MAX_CHECK_INTERVAL)
		pace->check_interval *= 2;
	else if (cost * CHECK_SHARE_MIN < since && pace->check_interval > MIN_CHECK_INTERVAL)
		pace->check_interval /= 2;
	pace->next_check = s->progress.operations + pace->check_interval;
	return true;
}

static void measure(struct stress *s, struct pace *pace)
{
	struct allocator_stats stats = { 0, 0 };
	uint64_t ticks = pace->now - pace->last_told;
	uint64_t operations = s->progress.operations - pace->last_told_operations;

	if (s->engine->stats != NULL)
		s->engine->stats(s->engine, &stats);
	s->progress.footprint_bytes = stats.footprint_bytes;
	s->progress.elapsed_ms = to_ms(s, pace->now);
	s->progress.checked_ms_ago = to_ms(s, pace->now - pace->last_check_end);
	s->progress.fill_percent = s->level < STRESS_FULL_LEVEL ? s->level * 100 / STRESS_FULL_LEVEL : 100;
	if (to_ms(s, ticks) > 0)
		s->progress.operations_per_second = operations * 1000 / to_ms(s, ticks);
	pace->last_told = pace->now;
	pace->last_told_operations = s->progress.operations;
}

/* Tell the observer; what it takes does not count. False: it wants the run to end. */
static bool tell(struct stress *s, struct pace *pace)
{
	enum suite_control control;
	uint64_t begin;

	measure(s, pace);
	s->host->alive(s->host, false);
	begin = s->host->ticks(s->host);
	control = s->observer->stress(s->observer->ctx, &s->progress);
	pace->paused += s->host->ticks(s->host) - begin;
	return control != SUITE_STOP;
}

static bool is_over(const struct stress *s)
{
	return (s->progress.bound_operations != 0 && s->progress.operations >= s->progress.bound_operations) ||
	       (s->progress.bound_ms != 0 && s->progress.elapsed_ms >= s->progress.bound_ms);
}

/* Look at the clock now and then; check and tell when it is time. False: the run ends here. */
static bool look(struct stress *s, struct pace *pace)
{
	if (s->progress.operations >= pace->next_check && !check(s, pace))
		return false;
	if (s->progress.operations < pace->next_look && s->progress.verified_bytes < pace->look_bytes)
		return true;
	look_at_clock(s, pace);
	s->progress.elapsed_ms = to_ms(s, pace->now);
	if (to_ms(s, pace->now - pace->last_told) < PROGRESS_MS)
		return true;
	if (tell(s, pace))
		return true;
	s->result->outcome = SUITE_STOPPED;
	return false;
}

/* Every block verified and freed, and nothing may be left. */
static bool drain(struct stress *s, struct pace *pace)
{
	struct allocator_stats stats = { 0, 0 };

	s->is_draining = true;
	s->drain_began_at = s->progress.operations;
	while (s->n_slots > 0)
		if (!stress_drain_step(s))
			return false;
	if (!check(s, pace))
		return false;
	if (s->engine->stats != NULL)
		s->engine->stats(s->engine, &stats);
	if (stats.live_bytes != s->live_bytes_before)
		return stress_fail(s, "%zu bytes are live after every block was freed, %zu were before the run",
		                   stats.live_bytes, s->live_bytes_before);
	return true;
}

static void drive(struct stress *s)
{
	struct pace pace = { .begin = s->host->ticks(s->host), .check_interval = FIRST_CHECK_INTERVAL };
	uint64_t operations;

	pace.next_check = FIRST_CHECK_INTERVAL;
	if (!check(s, &pace))
		return;
	while (!is_over(s) && stress_step(s) && look(s, &pace))
		continue;
	operations = s->progress.operations;
	if (s->result->outcome != SUITE_FAILED && drain(s, &pace))
		s->progress.operations = operations;
	look_at_clock(s, &pace);
	measure(s, &pace);
	/* The rate of the whole run, for the end. */
	if (s->progress.elapsed_ms > 0)
		s->progress.operations_per_second = s->progress.operations * 1000 / s->progress.elapsed_ms;
}

/* ------------------------------------------------------------------------------------------------------------
 * Around the run
 * --------------------------------------------------------------------------------------------------------- */

static bool cannot_run(struct stress_result *result, const char *why)
{
	result->outcome = SUITE_CANNOT_RUN;
	text_copy(result->failure, sizeof(result->failure), why);
	return false;
}

/* The table of blocks, from the host: the engine must not hold what it is tested with. */
static bool get_slots(struct stress *s, size_t capacity, struct kpage_chunk *table)
{
	size_t n_slots = capacity / BYTES_PER_SLOT;

	n_slots = n_slots < MIN_SLOTS ? MIN_SLOTS : n_slots > MAX_SLOTS ? MAX_SLOTS : n_slots;
	s->slots = measure_get_pages(s->host, n_slots * sizeof(struct slot), table);
	if (s->slots == NULL)
		return cannot_run(s->result, "The host has no pages for the table of blocks.");
	s->max_slots = (uint32_t)n_slots;
	return true;
}

/* How much the engine may hold: the user's wish, within what the machine can spare. */
static size_t capacity_of(struct host *host, const struct allocator *engine, uint64_t wish)
{
	uint64_t limit = host->heap_limit(host);
	struct allocator_stats stats = { 0, 0 };

	if (engine->is_started && engine->stats != NULL) {
		engine->stats((struct allocator *)(uintptr_t)engine, &stats);
		limit += stats.footprint_bytes;
	}
	if (wish > limit)
		wish = limit;
	if (wish > PTRDIFF_MAX)
		wish = PTRDIFF_MAX;
	return (size_t)wish & ~(KMALLOC_PAGE_SIZE - 1);
}

static void prepare(struct stress *s, const struct suite_options *options)
{
	struct allocator_stats stats = { 0, 0 };

	s->max_block_bytes = s->capacity_bytes / MAX_BLOCKS_SHARE;
	if (s->max_block_bytes > MAX_BLOCK)
		s->max_block_bytes = MAX_BLOCK;
	if (s->max_block_bytes > s->engine->max_size)
		s->max_block_bytes = s->engine->max_size;
	if (s->engine->stats != NULL)
		s->engine->stats(s->engine, &stats);
	s->live_bytes_before = stats.live_bytes;
	s->errors_before = s->engine->n_errors;
	s->progress.engine = s->engine->name;
	s->progress.seed = options->seed;
	s->progress.bound_ms = (uint64_t)options->seconds * 1000;
	s->progress.bound_operations = options->operations;
	s->progress.capacity_bytes = s->capacity_bytes;
	random_seed(&s->random, options->seed);
}

static bool begin(struct stress *s, const struct suite_options *options, struct kpage_chunk *table)
{
	size_t wish = capacity_of(s->host, s->engine, options->heap_bytes);
	const char *why = "";

	if (!get_slots(s, wish, table))
		return false;
	/* The table counts against the machine's limit too. */
	s->capacity_bytes = capacity_of(s->host, s->engine, options->heap_bytes);
	if (s->capacity_bytes < MIN_CAPACITY) {
		s->host->pages.put(s->host->pages.ctx, table);
		return cannot_run(s->result, "A stress run needs a heap of at least 256 KiB.");
	}
	if (!s->engine->is_started && !s->engine->start(s->engine, s->host, s->capacity_bytes, &why)) {
		s->host->pages.put(s->host->pages.ctx, table);
		return cannot_run(s->result, why);
	}
	prepare(s, options);
	return true;
}

void stress_run(struct host *host, struct allocator *engine, const struct suite_options *options,
                struct observer *observer, struct stress_result *result, bool *keeps)
{
	struct stress s = { .host = host, .engine = engine, .observer = observer, .result = result };
	bool was_started = engine->is_started;
	struct kpage_chunk table;

	*result = (struct stress_result){ .outcome = SUITE_PASSED };
	*keeps = false;
	if (!begin(&s, options, &table))
		return;
	drive(&s);
	result->last = s.progress;
	host->pages.put(host->pages.ctx, &table);
	if (result->outcome == SUITE_FAILED)
		*keeps = true;
	else if (!was_started)
		engine->stop(engine);
}

static struct allocator *kept;
static bool kept_was_started;

void suite_stress(struct host *host, const struct suite_options *options, struct observer *observer,
                  struct stress_result *result)
{
	struct allocator *engine = suite_engine(host, options->engine);
	bool keeps, was_started;

	suite_stress_release();
	if (engine == NULL) {
		*result = (struct stress_result){ .outcome = SUITE_CANNOT_RUN };
		text_format(result->failure, sizeof(result->failure),
		            "There is no engine '%.40s'; `kmalloc info` lists them.", options->engine);
		return;
	}
	was_started = engine->is_started;
	stress_run(host, engine, options, observer, result, &keeps);
	if (keeps) {
		kept = engine;
		kept_was_started = was_started;
	}
}

struct allocator *suite_stress_kept(void)
{
	return kept;
}

void suite_stress_release(void)
{
	if (kept != NULL && !kept_was_started)
		kept->stop(kept);
	kept = NULL;
}
