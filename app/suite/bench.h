/* SPDX-License-Identifier: MIT */
/*
 * The bench: every engine side by side in one run. bench_work.c has what is timed, bench.c times it, bench_print.c and
 * the screen show it.
 */
#ifndef SUITE_BENCH_H
#define SUITE_BENCH_H

#include "measure.h"

#define BENCH_MAX_LANES 8
#define BENCH_MAX_ROWS 40
#define BENCH_SLOTS 10000

/* ------------------------------------------------------------------------------------------------------------
 * What is timed
 * --------------------------------------------------------------------------------------------------------- */

/* An engine at work on one workload. */
struct lane {
	struct calls calls;
	void **slots; /* BENCH_SLOTS of them, all NULL between workloads */
	uint64_t random;
	unsigned octaves;
	size_t size_bytes;
	uint32_t position; /* steps done of the cycle */
	bool is_refused;   /* the engine had no memory: its figure is worth nothing */

	/* The driver's. */
	const char *why_not; /* this engine cannot do this workload; NULL: it can */
	uint32_t window;     /* steps that are timed at once */
	uint32_t n_samples;
	uint64_t *samples; /* thousandths of a unit per operation */
};

struct workload {
	const char *section; /* "workloads", "pairs", "neighbours" */
	const char *name;    /* "a", "64 KiB" */
	const char *what;
	unsigned octaves;
	size_t size_bytes;
	uint32_t cycle_steps;  /* a sample is a whole cycle of steps; 0: any number of them */
	uint32_t n_operations; /* in a cycle; 0: as many as steps */
	bool needs_realloc;
	bool needs_sizes; /* objects of several sizes live at once */
	void (*prepare)(struct lane *lane);
	void (*run)(struct lane *lane, uint32_t n_steps);
	void (*settle)(struct lane *lane); /* between cycles, not timed; may be NULL */
};

extern const struct workload bench_workloads[];
extern const unsigned bench_n_workloads;
/* Free whatever is live. */
void bench_clear(struct lane *lane);

/* ------------------------------------------------------------------------------------------------------------
 * What comes out
 * --------------------------------------------------------------------------------------------------------- */

struct bench_cell {
	const char *why_not; /* no figures, and why; NULL: they are there */
	uint32_t n_samples;
	uint64_t median, minimum; /* thousandths of a unit of the meter per operation */
};

struct bench_row {
	const struct workload *workload;
	struct bench_cell cells[BENCH_MAX_LANES];
};

struct bench_result {
	enum suite_outcome outcome;
	char failure[160];
	struct meter meter;
	/* Lane 0 is the empty loop, lane 1 the heap. */
	unsigned n_lanes;
	const char *lanes[BENCH_MAX_LANES];
	unsigned n_rows, n_rows_wanted;
	struct bench_row rows[BENCH_MAX_ROWS];
};

#define BENCH_LANE_LOOP 0
#define BENCH_LANE_HEAP 1

/*
 * Rows appear in `result` as they are done; the observer may look at it. options->seconds bounds the run,
 * options->group chooses the sections whose names begin so. Engines are started and stopped; engine_heap must not be
 * in use.
 */
void suite_bench(struct host *host, const struct suite_options *options, struct measure_observer *observer,
                 struct bench_result *result);

#endif
