/* SPDX-License-Identifier: MIT */
/*
 * Scaling: the same work on 1, 2, ... CPUs at once, each engine that several
 * CPUs may enter: objects that stay with their CPU, objects that are exchanged
 * at random, and objects that one CPU allocates and another frees. The workers
 * touch only their own memory and what they exchange.
 */
#include "measure.h"
#include "text.h"

#define MAX_CPUS 16
#define N_OWN 512
#define N_SHARED 1024
#define N_RING 512 /* a power of two */
#define LEAST_SIZE 16
#define N_OCTAVES 4 /* to 255 B */
#define LOOK_EACH 256
#define BUDGET ((size_t)64 << 20)
#define MIN_RUN_MS 20

enum pattern { OWN, EXCHANGED, HANDED_OVER, N_PATTERNS };

static const char *const patterns[N_PATTERNS] = { "own objects", "exchanged", "handed over" };

/* Two cache lines each, because a processor may fetch them in pairs. */
struct worker {
	uint64_t random, n_operations;
	bool is_refused;
	void *own[N_OWN];
} __attribute__((aligned(128)));

/* One CPU puts in, another takes out. */
struct ring {
	uint32_t head __attribute__((aligned(128)));
	uint32_t tail __attribute__((aligned(128)));
	void *objects[N_RING] __attribute__((aligned(128)));
};

struct scale {
	struct host *host;
	struct calls calls;
	enum pattern pattern;
	unsigned n_cpus;
	uint64_t run_ticks;
	uint64_t elapsed[MAX_CPUS]; /* ticks that each worker took */
	struct worker workers[MAX_CPUS];
	struct ring rings[MAX_CPUS];
	void *shared[N_SHARED];
};

/* ------------------------------------------------------------------------------------------------------------
 * What a CPU does
 * ---------------------------------------------------------------------------------------------------------
 */

static void *take(struct scale *scale, struct worker *worker)
{
	void *object = scale->calls.alloc(scale->calls.engine, measure_size(&worker->random, N_OCTAVES, LEAST_SIZE));

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
	void **slot = &worker->own[measure_random(&worker->random) % N_OWN];

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

static bool put_in(struct scale *scale, struct ring *ring, struct worker *worker)
{
	uint32_t head = ring->head;

	if (head - __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE) == N_RING)
		return false;
	ring->objects[head % N_RING] = take(scale, worker);
	__atomic_store_n(&ring->head, head + 1, __ATOMIC_RELEASE);
	return true;
}

static bool take_out(struct scale *scale, struct ring *ring, struct worker *worker)
{
	uint32_t tail = ring->tail;

	if (__atomic_load_n(&ring->head, __ATOMIC_ACQUIRE) == tail)
		return false;
	give(scale, ring->objects[tail % N_RING]);
	__atomic_store_n(&ring->tail, tail + 1, __ATOMIC_RELEASE);
	/* Half an operation each: the two of them do as much as one CPU that does
   * both. */
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
			if (scale->pattern == OWN)
				replace_own(scale, worker);
			else if (scale->pattern == EXCHANGED)
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
 * ---------------------------------------------------------------------------------------------------------
 */

static void clear(struct scale *scale)
{
	for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++) {
		struct ring *ring = &scale->rings[cpu];

		for (unsigned i = 0; i < N_OWN; i++)
			give(scale, scale->workers[cpu].own[i]);
		for (; ring->tail != ring->head; ring->tail++)
			give(scale, ring->objects[ring->tail % N_RING]);
	}
	for (unsigned i = 0; i < N_SHARED; i++)
		give(scale, scale->shared[i]);
	__builtin_memset(scale->workers, 0, sizeof(scale->workers));
	__builtin_memset(scale->rings, 0, sizeof(scale->rings));
	__builtin_memset(scale->shared, 0, sizeof(scale->shared));
}

/* Operations per second of all CPUs together; 0: the engine refused memory, or
 * the host did not run it. */
static uint64_t run_one(struct scale *scale, enum pattern pattern, unsigned n_cpus)
{
	uint64_t sum = 0;
	bool is_refused = false;

	scale->pattern = pattern;
	scale->n_cpus = n_cpus;
	for (unsigned i = 0; i < n_cpus; i++)
		scale->workers[i].random = 0x9e3779b97f4a7c15u * (i + 1);
	if (!scale->host->run_parallel(scale->host, n_cpus, work, scale))
		return 0;
	for (unsigned i = 0; i < n_cpus; i++) {
		uint64_t ticks = scale->elapsed[i] > 0 ? scale->elapsed[i] : 1;

		sum += scale->workers[i].n_operations * 1000 / (ticks * 1000 / scale->host->ticks_per_second + 1);
		is_refused = is_refused || scale->workers[i].is_refused;
	}
	clear(scale);
	return is_refused ? 0 : sum;
}

static void print_text(struct host *host, unsigned n_cpus, const uint64_t figures[N_PATTERNS],
                       const uint64_t first[N_PATTERNS])
{
	char ratio[16];

	text_print(host, "%4u", n_cpus);
	for (unsigned pattern = 0; pattern < N_PATTERNS; pattern++) {
		measure_decimal(ratio, sizeof(ratio), measure_permille(figures[pattern], first[pattern]), 2);
		text_print(host, "  %'13llu %6s", (unsigned long long)figures[pattern], ratio);
	}
	text_print(host, "\n");
}

static void print_json(struct host *host, const char *engine, unsigned n_cpus, const uint64_t figures[N_PATTERNS],
                       bool is_first)
{
	text_print(host, "%s\n    {\"engine\": \"%s\", \"cpus\": %u", is_first ? "" : ",", engine, n_cpus);
	for (unsigned pattern = 0; pattern < N_PATTERNS; pattern++)
		text_print(host, ", \"%s\": %llu", patterns[pattern], (unsigned long long)figures[pattern]);
	host->write(host, "}");
}

static void print_columns(struct host *host, const struct allocator *engine)
{
	text_print(host, "\nengine %s: operations (an alloc and a free) per second, and ratio to one CPU\nCPUs",
	           engine->name);
	for (unsigned pattern = 0; pattern < N_PATTERNS; pattern++)
		text_print(host, "  %20s", patterns[pattern]);
	text_print(host, "\n");
}

/* False: stopped by the user, or (in *why) the engine failed. */
static bool run_engine(struct scale *scale, const struct suite_options *options, struct pacer *pacer, unsigned n_most,
                       bool is_first)
{
	const struct allocator *engine = scale->calls.engine;
	uint64_t figures[N_PATTERNS], first[N_PATTERNS] = { 0, 0, 0 };

	if (options->format != SUITE_JSON)
		print_columns(scale->host, engine);
	for (unsigned n_cpus = 1; n_cpus <= n_most; n_cpus++) {
		for (unsigned pattern = 0; pattern < N_PATTERNS; pattern++) {
			figures[pattern] = run_one(scale, (enum pattern)pattern, n_cpus);
			if (pacer_stop(pacer, n_cpus * 1000 / n_most, engine->name))
				return false;
		}
		for (unsigned pattern = 0; pattern < N_PATTERNS && n_cpus == 1; pattern++)
			first[pattern] = figures[pattern];
		if (options->format == SUITE_JSON)
			print_json(scale->host, engine->name, n_cpus, figures, is_first && n_cpus == 1);
		else
			print_text(scale->host, n_cpus, figures, first);
	}
	return true;
}

static enum suite_outcome run(struct scale *scale, const struct suite_options *options)
{
	struct allocator *const *engines = suite_engines(scale->host);
	unsigned n_most = scale->host->n_cpus < MAX_CPUS ? scale->host->n_cpus : MAX_CPUS, n_engines = 0, n_done = 0;
	struct pacer pacer;
	const char *why;
	bool goes_on = true;

	for (size_t i = 0; engines[i] != NULL; i++)
		n_engines += engines[i]->bare != NULL && engines[i]->bare->is_parallel;
	scale->run_ticks = scale->host->ticks_per_second * options->seconds / (n_engines * n_most * N_PATTERNS);
	if (scale->run_ticks < scale->host->ticks_per_second * MIN_RUN_MS / 1000)
		scale->run_ticks = scale->host->ticks_per_second * MIN_RUN_MS / 1000;
	pacer_begin(&pacer, scale->host, measure_print_observer(scale->host, options));
	for (size_t i = 0; engines[i] != NULL && goes_on; i++) {
		if (engines[i]->bare == NULL || !engines[i]->bare->is_parallel ||
		    !measure_start(scale->host, engines[i], BUDGET, &why))
			continue;
		scale->calls = calls_of(engines[i]);
		goes_on = run_engine(scale, options, &pacer, n_most, n_done++ == 0);
		engines[i]->stop(engines[i]);
	}
	return n_done == 0 ? SUITE_CANNOT_RUN : goes_on ? SUITE_PASSED : SUITE_STOPPED;
}

enum suite_outcome scale_command(struct host *host, const struct suite_options *options)
{
	enum suite_outcome outcome = SUITE_CANNOT_RUN;
	struct kpage_chunk chunk;
	struct scale *scale;

	measure_print_header(host, options, "scale");
	if (host->run_parallel == NULL)
		return measure_print_end(host, options, "scale", outcome,
		                         "It needs more than one CPU, and starting the "
		                         "others is not possible on this "
		                         "host yet.");
	scale = measure_get_pages(host, sizeof(*scale), &chunk);
	if (scale == NULL)
		return measure_print_end(host, options, "scale", outcome,
		                         "The host has no pages for the tables of objects.");
	scale->host = host;
	if (options->format == SUITE_JSON)
		host->write(host, "  \"figures\": [");
	outcome = run(scale, options);
	if (options->format == SUITE_JSON)
		host->write(host, "\n  ],\n");
	else if (host->is_virtual_machine)
		text_print(host, "\nThis is a virtual machine, whose CPUs may share real ones with others.\n");
	host->pages.put(host->pages.ctx, &chunk);
	return measure_print_end(host, options, "scale", outcome,
	                         outcome == SUITE_CANNOT_RUN ? "No engine could be started." : "");
}
