/* SPDX-License-Identifier: MIT */
/*
 * The bench's driver: all engines take turns, sample by sample, so that whatever slows the machine down for a while
 * slows all of them. A sample is timed in windows shorter than a millisecond; between windows the host gets its turn.
 */
#include "bench.h"

#include "text.h"

#define MAX_SAMPLES 255
#define MIN_SAMPLES 3
/* What the windows aim at, in fractions of a second: long beside the timer, short beside the host's ticks. */
#define WINDOWS_PER_SECOND 8000
#define MAX_WINDOW 65536
#define LONG_TRIES 3 /* a window that takes too long may have met with something else */
/* Each engine's budget. The largest workload holds 8 MiB. */
#define BUDGET ((size_t)24 << 20)
/* What the machine must be able to give for that. */
#define SLOTS_BYTES (BENCH_SLOTS * sizeof(void *))

struct bench {
	struct host *host;
	struct bench_result *result;
	struct pacer pacer;
	struct lane lanes[BENCH_MAX_LANES];
	const char *not_started[BENCH_MAX_LANES]; /* why */
	uint64_t row_units;                       /* of time for a row */
	struct kpage_chunk slots;
};

/* ------------------------------------------------------------------------------------------------------------
 * The empty loop, as an engine
 * --------------------------------------------------------------------------------------------------------- */

static char nothing[64];

static void *alloc_nothing(struct allocator *engine, size_t size_bytes)
{
	(void)engine;
	__asm__ volatile("" : : "r"(size_bytes));
	return nothing;
}

static void free_nothing(struct allocator *engine, void *object)
{
	(void)engine;
	__asm__ volatile("" : : "r"(object));
}

static void *realloc_nothing(struct allocator *engine, void *object, size_t size_bytes)
{
	(void)engine;
	__asm__ volatile("" : : "r"(object), "r"(size_bytes));
	return nothing;
}

static const struct allocator_bare bare_loop = { alloc_nothing, free_nothing, realloc_nothing, true, false };
static struct allocator engine_loop = {
	.name = "loop", .description = "the empty loop", .max_size = SIZE_MAX, .bare = &bare_loop
};

/* ------------------------------------------------------------------------------------------------------------
 * Samples
 * --------------------------------------------------------------------------------------------------------- */

static uint64_t time_window(struct bench *bench, const struct workload *workload, struct lane *lane, uint32_t n_steps)
{
	const struct meter *meter = &bench->result->meter;
	uint64_t begin, end;

	bench->host->alive(bench->host, false);
	meter_quiet_begin(meter);
	begin = meter->now(bench->host);
	workload->run(lane, n_steps);
	end = meter->now(bench->host);
	meter_quiet_end(meter);
	/* The timer's own part is known, and is none of the engine's. */
	return end - begin > meter->empty_minimum ? end - begin - meter->empty_minimum : 0;
}

/* One sample; thousandths of a unit per operation. */
static uint64_t sample(struct bench *bench, const struct workload *workload, struct lane *lane)
{
	uint32_t n_steps = workload->cycle_steps != 0 ? workload->cycle_steps : lane->window;
	uint32_t n_operations = workload->n_operations != 0 ? workload->n_operations : n_steps;
	uint64_t units = 0;

	for (uint32_t done = 0; done < n_steps && !lane->is_refused;) {
		uint32_t n = n_steps - done < lane->window ? n_steps - done : lane->window;

		units += time_window(bench, workload, lane, n);
		done += n;
	}
	if (workload->settle != NULL)
		workload->settle(lane);
	return units * 1000 / n_operations;
}

/* How many steps take about as long as a window shall; warms the engine up. */
static void find_window(struct bench *bench, const struct workload *workload, struct lane *lane)
{
	uint64_t aim = bench->result->meter.rate / WINDOWS_PER_SECOND, units = 0;
	uint32_t most = workload->cycle_steps != 0 ? workload->cycle_steps : MAX_WINDOW, done = 0;

	for (lane->window = 1; !lane->is_refused; lane->window *= 2) {
		/* It is long when it is so again: the first call may be the one that gets pages. */
		for (unsigned tries = LONG_TRIES; tries; tries--) {
			units = time_window(bench, workload, lane, lane->window);
			done += lane->window;
			if (units <= aim / 2 || (workload->cycle_steps != 0 && lane->window > most - done))
				break;
		}
		if (units > aim / 2 || lane->window * 2 > most - (workload->cycle_steps != 0 ? done : 0))
			break;
	}
	/* Cycles are finished, so that all lanes begin the first sample alike. */
	while (workload->cycle_steps != 0 && done < workload->cycle_steps && !lane->is_refused) {
		uint32_t n = most - done < lane->window ? most - done : lane->window;

		(void)time_window(bench, workload, lane, n);
		done += n;
	}
	if (workload->settle != NULL)
		workload->settle(lane);
}

/* ------------------------------------------------------------------------------------------------------------
 * Rows
 * --------------------------------------------------------------------------------------------------------- */

static const char *why_not(const struct bench *bench, const struct workload *workload, unsigned i)
{
	const struct lane *lane = &bench->lanes[i];
	const struct allocator *engine = lane->calls.engine;

	if (bench->not_started[i] != NULL)
		return bench->not_started[i];
	if (workload->needs_realloc && lane->calls.realloc == NULL)
		return "no realloc";
	if (workload->size_bytes > engine->max_size)
		return "too large";
	if (workload->needs_sizes && engine->bare != NULL && engine->bare->is_uniform)
		return "one size";
	return NULL;
}

static void begin_lane(struct bench *bench, const struct workload *workload, unsigned i)
{
	struct lane *lane = &bench->lanes[i];

	lane->why_not = why_not(bench, workload, i);
	lane->octaves = workload->octaves;
	lane->size_bytes = workload->size_bytes;
	lane->position = lane->n_samples = 0;
	lane->random = 1;
	lane->is_refused = false;
	if (lane->why_not != NULL)
		return;
	workload->prepare(lane);
	find_window(bench, workload, lane);
}

static void end_lane(struct bench *bench, struct bench_cell *cell, unsigned i)
{
	struct lane *lane = &bench->lanes[i];

	*cell = (struct bench_cell){ .why_not = lane->why_not, .n_samples = lane->n_samples };
	if (lane->why_not != NULL)
		return;
	bench_clear(lane);
	if (lane->is_refused)
		cell->why_not = "no memory";
	else if (lane->n_samples == 0)
		cell->why_not = "stopped";
	if (cell->why_not != NULL)
		return;
	measure_sort(lane->samples, lane->n_samples);
	cell->median = lane->samples[lane->n_samples / 2];
	cell->minimum = lane->samples[0];
}

static bool run_row(struct bench *bench, const struct workload *workload, struct bench_row *row)
{
	struct bench_result *result = bench->result;
	const struct meter *meter = &result->meter;
	unsigned permille = result->n_rows * 1000 / result->n_rows_wanted;
	uint64_t begin = meter->now(bench->host);
	unsigned n_rounds = 0;
	bool goes_on = true;

	row->workload = workload;
	for (unsigned i = 0; i < result->n_lanes; i++)
		begin_lane(bench, workload, i);
	while (goes_on && n_rounds < MAX_SAMPLES &&
	       (n_rounds < MIN_SAMPLES || meter->now(bench->host) - begin < bench->row_units)) {
		for (unsigned k = 0; k < result->n_lanes; k++) {
			/* Each lane follows each other one. */
			struct lane *lane = &bench->lanes[(k + n_rounds) % result->n_lanes];

			if (lane->why_not == NULL && !lane->is_refused)
				lane->samples[lane->n_samples++] = sample(bench, workload, lane);
		}
		n_rounds++;
		goes_on = !pacer_stop(&bench->pacer, permille, workload->what);
	}
	for (unsigned i = 0; i < result->n_lanes; i++)
		end_lane(bench, &row->cells[i], i);
	return goes_on;
}

/* ------------------------------------------------------------------------------------------------------------
 * Around the run
 * --------------------------------------------------------------------------------------------------------- */

static bool is_chosen(const struct workload *workload, const char *prefix)
{
	for (size_t i = 0; prefix != NULL && prefix[i] != '\0'; i++)
		if (workload->section[i] != prefix[i])
			return false;
	return true;
}

static void add_lane(struct bench *bench, struct allocator *engine)
{
	static uint64_t samples[BENCH_MAX_LANES][MAX_SAMPLES];
	unsigned i = bench->result->n_lanes;

	if (i == BENCH_MAX_LANES)
		return;
	bench->lanes[i] = (struct lane){ .calls = calls_of(engine), .samples = samples[i] };
	bench->lanes[i].slots = (void **)bench->slots.base + (size_t)i * BENCH_SLOTS;
	bench->not_started[i] = NULL;
	if (!measure_start(bench->host, engine, BUDGET, &bench->not_started[i]))
		bench->not_started[i] = "not started";
	else
		bench->not_started[i] = NULL;
	bench->result->lanes[i] = engine->name;
	bench->result->n_lanes++;
}

static void add_lanes(struct bench *bench)
{
	struct allocator *const *engines = suite_engines(bench->host);

	add_lane(bench, &engine_loop);
	for (size_t i = 0; engines[i] != NULL; i++)
		add_lane(bench, engines[i]);
	engines = bench->host->bench_engines;
	for (size_t i = 0; engines != NULL && engines[i] != NULL; i++)
		add_lane(bench, engines[i]);
}

static void stop_lanes(struct bench *bench)
{
	for (unsigned i = 0; i < bench->result->n_lanes; i++) {
		struct allocator *engine = bench->lanes[i].calls.engine;

		if (engine->is_started && engine->stop != NULL)
			engine->stop(engine);
		engine->is_started = false;
	}
}

static bool begin(struct bench *bench, const struct suite_options *options)
{
	struct bench_result *result = bench->result;

	for (unsigned i = 0; i < bench_n_workloads; i++)
		result->n_rows_wanted += is_chosen(&bench_workloads[i], options->group);
	result->outcome = SUITE_CANNOT_RUN;
	if (result->n_rows_wanted == 0) {
		text_format(result->failure, sizeof(result->failure),
		            "There is no part '%.40s'; the parts are workloads, pairs and neighbours.", options->group);
		return false;
	}
	if (measure_get_pages(bench->host, BENCH_MAX_LANES * SLOTS_BYTES, &bench->slots) == NULL) {
		text_copy(result->failure, sizeof(result->failure), "The host has no pages for the tables of objects.");
		return false;
	}
	add_lanes(bench);
	if (bench->not_started[BENCH_LANE_HEAP] == NULL)
		return true;
	text_copy(result->failure, sizeof(result->failure), "The heap did not start: the host gave it no pages.");
	stop_lanes(bench);
	bench->host->pages.put(bench->host->pages.ctx, &bench->slots);
	return false;
}

void suite_bench(struct host *host, const struct suite_options *options, struct measure_observer *observer,
                 struct bench_result *result)
{
	/* Too large for a firmware's stack frame. */
	static struct bench bench;
	bool goes_on = true;

	*result = (struct bench_result){ .outcome = SUITE_CANNOT_RUN };
	bench = (struct bench){ .host = host, .result = result };
	meter_begin(&result->meter, host);
	if (!begin(&bench, options))
		return;
	bench.row_units = result->meter.rate * options->seconds / result->n_rows_wanted;
	pacer_begin(&bench.pacer, host, observer);
	for (unsigned i = 0; i < bench_n_workloads && goes_on; i++) {
		if (!is_chosen(&bench_workloads[i], options->group))
			continue;
		goes_on = run_row(&bench, &bench_workloads[i], &result->rows[result->n_rows]);
		result->n_rows += goes_on;
	}
	stop_lanes(&bench);
	host->pages.put(host->pages.ctx, &bench.slots);
	result->outcome = goes_on ? SUITE_PASSED : SUITE_STOPPED;
}
