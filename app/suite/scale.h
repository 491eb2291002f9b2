/* SPDX-License-Identifier: MIT */
/*
 * Scaling: the same work on 1, 2, ... CPUs at once. scale.c does it and prints it, the screen shows it.
 */
#ifndef SUITE_SCALE_H
#define SUITE_SCALE_H

#include "measure.h"

#define SCALE_MAX_CPUS 64
#define SCALE_MAX_ENGINES 4

enum scale_pattern { SCALE_OWN, SCALE_OWN_LARGE, SCALE_EXCHANGED, SCALE_HANDED_OVER, SCALE_N_PATTERNS };

extern const char *const scale_patterns[SCALE_N_PATTERNS];

struct scale_row {
	const char *engine;
	unsigned n_cpus;
	/* Operations (an alloc and a free) per second of all CPUs together; 0: the engine had no memory. */
	uint64_t per_second[SCALE_N_PATTERNS];
	uint64_t permille[SCALE_N_PATTERNS]; /* of one CPU's */
};

struct scale_result {
	enum suite_outcome outcome;
	char failure[160];
	unsigned n_rows;
	struct scale_row rows[SCALE_MAX_ENGINES * SCALE_MAX_CPUS];
};

/*
 * Rows appear in `result` as they are done; the observer may look at it. Takes options->seconds in all. Engines are started and
 * stopped; engine_heap must not be in use.
 */
void suite_scale(struct host *host, const struct suite_options *options, struct measure_observer *observer,
                 struct scale_result *result);

/* A row's figure and ratio as text: "1,234,567" and "1.98", or "-". */
void scale_format(const struct scale_row *row, enum scale_pattern pattern, char *figure, size_t figure_size,
                  char *ratio, size_t ratio_size);

#endif
