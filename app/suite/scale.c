/* SPDX-License-Identifier: MIT */
/*
 * Scaling: the same work on 1, 2, ... CPUs at once, each engine that several CPUs may enter: objects that stay with their CPU, small ones
 * and ones of all sizes, objects that are exchanged at random, and objects that one CPU allocates and another frees. The workers touch only their own
 * memory and what they exchange, and call nothing but the engine and the clock: in the firmware they may not.
 */
#include "scale.h"

#include "text.h"

#define MAX_CPUS SCALE_MAX_CPUS
#define N_OWN 512
#define N_OWN_LARGE 128
#define N_SHARED 1024
#define N_RING 1024 /* a power of two */
#define BATCH 64
#define LEAST_SIZE 16
#define N_OCTAVES 4        /* to 255 B */
#define N_OCTAVES_LARGE 12 /* to 64 KiB */
#define LOOK_EACH 256
/* Where there is much memory the heap has no limit, as most have none: one that has keeps less in each CPU's cache. */
#define BUDGET ((size_t)64 << 20)
#define MUCH ((uint64_t)1 << 30)
#define MIN_RUN_MS 20
/* Within what a host waits for its CPUs, with room for slow ones. */
#define MAX_RUN_S (HOST_PARALLEL_SECONDS / 4)

const char *const scale_patterns[SCALE_N_PATTERNS] = { "own objects", "own, to 64 KiB", "exchanged", "handed over" };

/* Two cache lines each, because a processor may fetch them in pairs. */
struct worker {
	uint64_t random, n_operations;
	bool is_refused;
	void *own[N_OWN];
} __attribute__((aligned(128)));

/* An end of a ring, in cache lines of its own: how far it is, how far it says it is, and how far the other end was when last seen. */
struct ring_end {
	uint32_t at __attribute__((aligned(128)));
	uint32_t seen;
	uint32_t said __attribute__((aligned(128)));
};

/*
 * One CPU puts in, another takes out. They tell each other in batches: else each object would move two cache lines between them, and
 * that, not the engine, would be measured.
 */
struct ring {
	struct ring_end in, out;
	void *objects[N_RING] __attribute__((aligned(128)));
};

struct scale {
	struct host *host;
	struct calls calls;
	enum scale_pattern pattern;
	unsigned n_cpus;
	unsigned n_done, n_wanted; /* runs */
	uint64_t run_ticks;
	uint64_t elapsed[MAX_CPUS]; /* ticks that each worker took */
	struct worker workers[MAX_CPUS];
	struct ring rings[MAX_CPUS];
	void *shared[N_SHARED];
};

/* ------------------------------------------------------------------------------------------------------------
 * What a CPU does
 * --------------------------------------------------------------------------------------------------------- */

static void *take(struct scale *scale, struct worker *worker)
{
	unsigned n_octaves = scale->pattern == SCALE_OWN_LARGE ? N_OCTAVES_LARGE : N_OCTAVES;
	void *object = scale->calls.alloc(scale->calls.engine, measure_size(&worker->random, n_octaves, LEAST_SIZE));

	if (object == NULL)
		worker->is_refused = true;
	else
		*(volatile char *)object = 1;
	return object;
}

static void give(struct scale *scale, void *object)
{
	if (object != NULL)
		scale->calls.free(scale->calls.engine, object);
}

static void replace_own(struct scale *scale, struct worker *worker)
{
	unsigned n_own = scale->pattern == SCALE_OWN_LARGE ? N_OWN_LARGE : N_OWN;
	void **slot = &worker->own[measure_random(&worker->random) % n_own];

	give(scale, *slot);
	*slot = take(scale, worker);
	worker->n_operations++;
}

static void exchange(struct scale *scale, struct worker *worker)
{
	void **slot = &scale->shared[measure_random(&worker->random) % N_SHARED], *object = take(scale, worker);

	give(scale, __atomic_exchange_n(slot, object, __ATOMIC_ACQ_REL));
	worker->n_operations++;
}

static void go_on(struct ring_end *end)
{
	if (++end->at % BATCH == 0)
		__atomic_store_n(&end->said, end->at, __ATOMIC_RELEASE);
}

/* False: full. */
static bool put_in(struct scale *scale, struct ring *ring, struct worker *worker)
{
	struct ring_end *in = &ring->in;

	if (in->at - in->seen == N_RING)
		in->seen = __atomic_load_n(&ring->out.said, __ATOMIC_ACQUIRE);
	if (in->at - in->seen == N_RING)
		return false;
	ring->objects[in->at % N_RING] = take(scale, worker);
	go_on(in);
	return true;
}

/* False: empty. */
static bool take_out(struct scale *scale, struct ring *ring, struct worker *worker)
{
	struct ring_end *out = &ring->out;

	if (out->at == out->seen)
		out->seen = __atomic_load_n(&ring->in.said, __ATOMIC_ACQUIRE);
	if (out->at == out->seen)
		return false;
	give(scale, ring->objects[out->at % N_RING]);
	go_on(out);
	/* The two of them do as much as one CPU that does both. */
	worker->n_operations++;
	return true;
}

/* CPUs work in pairs; one that is left over does both. */
static void hand_over(struct scale *scale, struct worker *worker, unsigned index)
{
	struct ring *ring = &scale->rings[index / 2];
	bool is_alone = index + 1 == scale->n_cpus && index % 2 == 0;

	if (is_alone) {
		(void)put_in(scale, ring, worker);
		(void)take_out(scale, ring, worker);
	} else if (!(index % 2 == 0 ? put_in : take_out)(scale, ring, worker)) {
#if defined(__x86_64__) || defined(__i386__)
		__builtin_ia32_pause();
#endif
	}
}

static void work(void *ctx, unsigned index)
{
	struct scale *scale = ctx;
	struct worker *worker = &scale->workers[index];
	uint64_t begin = scale->host->ticks(scale->host), now;

	do {
		for (unsigned i = 0; i < LOOK_EACH; i++) {
			if (scale->pattern == SCALE_OWN || scale->pattern == SCALE_OWN_LARGE)
				replace_own(scale, worker);
			else if (scale->pattern == SCALE_EXCHANGED)
				exchange(scale, worker);
			else
				hand_over(scale, worker, index);
		}
		now = scale->host->ticks(scale->host);
	} while (now - begin < scale->run_ticks && !worker->is_refused);
	scale->elapsed[index] = now - begin;
}

/* ------------------------------------------------------------------------------------------------------------
 * Runs
 * --------------------------------------------------------------------------------------------------------- */

static void clear(struct scale *scale)
{
	for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++) {
		struct ring *ring = &scale->rings[cpu];

		for (unsigned i = 0; i < N_OWN; i++)
			give(scale, scale->workers[cpu].own[i]);
		for (; ring->out.at != ring->in.at; ring->out.at++)
			give(scale, ring->objects[ring->out.at % N_RING]);
	}
	for (unsigned i = 0; i < N_SHARED; i++)
		give(scale, scale->shared[i]);
	__builtin_memset(scale->workers, 0, sizeof(scale->workers));
	__builtin_memset(scale->rings, 0, sizeof(scale->rings));
	__builtin_memset(scale->shared, 0, sizeof(scale->shared));
}

/* Operations per second of all CPUs together; 0: the engine refused memory. False: the host did not run it. */
static bool run_one(struct scale *scale, enum scale_pattern pattern, unsigned n_cpus, uint64_t *per_second)
{
	bool is_refused = false;

	*per_second = 0;
	scale->pattern = pattern;
	scale->n_cpus = n_cpus;
	for (unsigned i = 0; i < n_cpus; i++)
		scale->workers[i].random = 0x9e3779b97f4a7c15u * (i + 1);
	if (!scale->host->run_parallel(scale->host, n_cpus, work, scale))
		return false;
	for (unsigned i = 0; i < n_cpus; i++) {
		uint64_t ticks = scale->elapsed[i] > 0 ? scale->elapsed[i] : 1;

		*per_second +=
			scale->workers[i].n_operations * 1000 / (ticks * 1000 / scale->host->ticks_per_second + 1);
		is_refused = is_refused || scale->workers[i].is_refused;
	}
	clear(scale);
	if (is_refused)
		*per_second = 0;
	return true;
}

static void not_run(struct scale *scale, struct scale_result *result, unsigned n_cpus)
{
	result->outcome = SUITE_CANNOT_RUN;
	if (scale->host->is_processor_lost)
		text_format(result->failure, sizeof(result->failure),
		            "One of %u processors did not come back and was stopped. Restart this machine before "
		            "anything else.",
		            n_cpus);
	else
		text_format(result->failure, sizeof(result->failure),
		            "The host could not start %u processors at the same time.", n_cpus);
}

/* All numbers of CPUs on one engine. False: result->outcome says why it ended. */
static bool run_engine(struct scale *scale, struct pacer *pacer, unsigned n_most, struct scale_result *result)
{
	const char *name = scale->calls.engine->name;
	const struct scale_row *first = &result->rows[result->n_rows];

	for (unsigned n_cpus = 1; n_cpus <= n_most; n_cpus++) {
		struct scale_row *row = &result->rows[result->n_rows];

		*row = (struct scale_row){ .engine = name, .n_cpus = n_cpus };
		for (unsigned pattern = 0; pattern < SCALE_N_PATTERNS; pattern++) {
			if (!run_one(scale, (enum scale_pattern)pattern, n_cpus, &row->per_second[pattern])) {
				not_run(scale, result, n_cpus);
				return false;
			}
			row->permille[pattern] = measure_permille(row->per_second[pattern], first->per_second[pattern]);
			scale->n_done++;
			if (pacer_stop(pacer, scale->n_done * 1000 / scale->n_wanted, name)) {
				result->outcome = SUITE_STOPPED;
				return false;
			}
		}
		result->n_rows++;
	}
	return true;
}

static bool is_parallel(const struct allocator *engine)
{
	return engine->bare != NULL && engine->bare->is_parallel;
}

static void run(struct scale *scale, const struct suite_options *options, struct measure_observer *observer,
                struct scale_result *result)
{
	struct host *host = scale->host;
	struct allocator *const *engines = suite_engines(host);
	unsigned n_most = host->n_cpus < MAX_CPUS ? host->n_cpus : MAX_CPUS, n_engines = 0;
	struct pacer pacer;
	const char *why = "No engine of this host may be entered by several processors.";
	size_t budget = host->heap_limit(host) >= MUCH ? 0 : BUDGET;
	bool goes_on = true;

	for (size_t i = 0; engines[i] != NULL; i++)
		n_engines += is_parallel(engines[i]) && n_engines < SCALE_MAX_ENGINES;
	scale->n_wanted = n_engines * n_most * SCALE_N_PATTERNS;
	scale->run_ticks = host->ticks_per_second * options->seconds / (scale->n_wanted > 0 ? scale->n_wanted : 1);
	if (scale->run_ticks < host->ticks_per_second * MIN_RUN_MS / 1000)
		scale->run_ticks = host->ticks_per_second * MIN_RUN_MS / 1000;
	if (scale->run_ticks > host->ticks_per_second * MAX_RUN_S)
		scale->run_ticks = host->ticks_per_second * MAX_RUN_S;
	pacer_begin(&pacer, host, observer);
	for (size_t i = 0; engines[i] != NULL && goes_on && n_engines > 0; i++) {
		if (!is_parallel(engines[i]) || !measure_start(host, engines[i], budget, &why))
			continue;
		n_engines--;
		scale->calls = calls_of(engines[i]);
		result->outcome = SUITE_PASSED;
		goes_on = run_engine(scale, &pacer, n_most, result);
		/* What a lost processor worked on may be locked for ever. */
		if (!host->is_processor_lost)
			engines[i]->stop(engines[i]);
	}
	if (result->outcome == SUITE_CANNOT_RUN && result->failure[0] == '\0')
		text_copy(result->failure, sizeof(result->failure), why);
}

void suite_scale(struct host *host, const struct suite_options *options, struct measure_observer *observer,
                 struct scale_result *result)
{
	struct kpage_chunk chunk;
	struct scale *scale;

	result->outcome = SUITE_CANNOT_RUN;
	result->failure[0] = '\0';
	result->n_rows = 0;
	if (host->run_parallel == NULL) {
		text_copy(result->failure, sizeof(result->failure),
		          host->why_one_cpu != NULL
		                  ? host->why_one_cpu
		                  : "It needs more than one processor, and this host cannot start the others.");
		return;
	}
	scale = measure_get_pages(host, sizeof(*scale), &chunk);
	if (scale == NULL) {
		text_copy(result->failure, sizeof(result->failure), "The host has no pages for the tables of objects.");
		return;
	}
	scale->host = host;
	run(scale, options, observer, result);
	host->pages.put(host->pages.ctx, &chunk);
}

/* ------------------------------------------------------------------------------------------------------------
 * As sequential text
 * --------------------------------------------------------------------------------------------------------- */

struct printer {
	struct host *host;
	const struct scale_result *result;
	unsigned n_printed;
};

void scale_format(const struct scale_row *row, enum scale_pattern pattern, char *figure, size_t figure_size,
                  char *ratio, size_t ratio_size)
{
	text_copy(figure, figure_size, "-");
	text_copy(ratio, ratio_size, "-");
	if (row->per_second[pattern] == 0)
		return;
	text_format(figure, figure_size, "%'llu", (unsigned long long)row->per_second[pattern]);
	if (row->permille[pattern] > 0)
		measure_decimal(ratio, ratio_size, row->permille[pattern], 2);
}

static void print_columns(struct host *host, const char *engine)
{
	text_print(host, "\nengine %s: operations (an alloc and a free) per second, and ratio to one CPU\nCPUs",
	           engine);
	for (unsigned pattern = 0; pattern < SCALE_N_PATTERNS; pattern++)
		text_print(host, " %17s", scale_patterns[pattern]);
	text_print(host, "\n");
}

static void print_new_rows(void *ctx)
{
	struct printer *printer = ctx;
	const struct scale_result *result = printer->result;

	for (; printer->n_printed < result->n_rows; printer->n_printed++) {
		const struct scale_row *row = &result->rows[printer->n_printed];

		if (row->n_cpus == 1)
			print_columns(printer->host, row->engine);
		text_print(printer->host, "%4u", row->n_cpus);
		for (unsigned pattern = 0; pattern < SCALE_N_PATTERNS; pattern++) {
			char figure[24], ratio[16];

			scale_format(row, (enum scale_pattern)pattern, figure, sizeof(figure), ratio, sizeof(ratio));
			text_print(printer->host, " %11s %5s", figure, ratio);
		}
		text_print(printer->host, "\n");
	}
}

static void print_json(struct host *host, const struct scale_result *result)
{
	host->write(host, "  \"figures\": [");
	for (unsigned i = 0; i < result->n_rows; i++) {
		const struct scale_row *row = &result->rows[i];

		text_print(host, "%s\n    {\"engine\": \"%s\", \"cpus\": %u", i > 0 ? "," : "", row->engine,
		           row->n_cpus);
		for (unsigned pattern = 0; pattern < SCALE_N_PATTERNS; pattern++)
			text_print(host, ", \"%s\": %llu", scale_patterns[pattern],
			           (unsigned long long)row->per_second[pattern]);
		host->write(host, "}");
	}
	host->write(host, "\n  ],\n");
}

enum suite_outcome scale_command(struct host *host, const struct suite_options *options)
{
	/* Too large for a firmware's stack frame. */
	static struct scale_result result;
	struct printer printer = { host, &result, 0 };

	measure_print_header(host, options, "scale");
	suite_scale(host, options, measure_print_observer(host, options, print_new_rows, &printer), &result);
	if (options->format == SUITE_JSON) {
		print_json(host, &result);
	} else {
		print_new_rows(&printer);
		if (result.n_rows > 0 && host->is_virtual_machine)
			text_print(host, "\nThis is a virtual machine, whose CPUs may share real ones with others.\n");
	}
	return measure_print_end(host, options, "scale", result.outcome, result.failure);
}
