/* SPDX-License-Identifier: MIT */
/*
 * What the measuring commands (bench, latency, frag, scale) share: the clock and what it costs, how engines are called
 * while they are timed, how figures are printed, and how a user stops a run. Integers only: the firmware's programs
 * keep out of the FPU.
 */
#ifndef SUITE_MEASURE_H
#define SUITE_MEASURE_H

#include "suite.h"

/* ------------------------------------------------------------------------------------------------------------
 * The clock
 * --------------------------------------------------------------------------------------------------------- */

/* The processor's own counter where there is one, else the host's clock. Its unit is a cycle, or a tick. */
struct meter {
	struct host *host;
	uint64_t (*now)(struct host *host);
	uint64_t rate;         /* units per second */
	bool has_cycles;       /* units are cycles */
	bool has_time;         /* the rate is steady, so that units can be told as time */
	uint64_t empty_median; /* units between two readings with nothing in between */
	uint64_t empty_minimum;
};

void meter_begin(struct meter *meter, struct host *host);
/* Thousandths of a unit in thousandths of a nanosecond. */
uint64_t meter_milli_ns(const struct meter *meter, uint64_t milli_units);
/* Between both the host keeps its own work away, for at most 2 ms. */
void meter_quiet_begin(const struct meter *meter);
void meter_quiet_end(const struct meter *meter);
/* Lines about the clock for people, or members of a JSON object, each followed by a comma. */
void meter_print(const struct meter *meter, enum suite_format format);

/* ------------------------------------------------------------------------------------------------------------
 * Engines, called as directly as they can be
 * --------------------------------------------------------------------------------------------------------- */

/* The functions of an engine that are timed: its bare ones where it has some. */
struct calls {
	struct allocator *engine;
	void *(*alloc)(struct allocator *engine, size_t size_bytes);
	void (*free)(struct allocator *engine, void *object);
	void *(*realloc)(struct allocator *engine, void *object, size_t size_bytes); /* NULL: it cannot */
};

struct calls calls_of(struct allocator *engine);

/*
 * The random numbers of the published workloads (xorshift64), and a size drawn from `octaves` octaves from `least` on.
 */
static inline uint64_t measure_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static inline size_t measure_size(uint64_t *state, unsigned octaves, size_t least)
{
	uint64_t r = measure_random(state);
	size_t base = least << (r % octaves);

	return base + (size_t)((r >> 32) & (base - 1));
}

/* ------------------------------------------------------------------------------------------------------------
 * Progress, figures, text
 * --------------------------------------------------------------------------------------------------------- */

/* Told at most ten times a second, never inside timed code. */
struct measure_observer {
	void *ctx;
	enum suite_control (*progress)(void *ctx, unsigned permille, const char *what);
};

/* Asks the observer when it is time to; true: the run ends. Keeps the watchdog wound up. */
struct pacer {
	struct host *host;
	struct measure_observer *observer;
	uint64_t began, last; /* host ticks */
	bool is_stopped;
};

void pacer_begin(struct pacer *pacer, struct host *host, struct measure_observer *observer);
bool pacer_stop(struct pacer *pacer, unsigned permille, const char *what);
uint64_t pacer_milliseconds(const struct pacer *pacer);

/* An observer that asks at Esc, and lets print_new (NULL: nothing) print what has come since its last call, unless that is JSON. */
struct measure_observer *measure_print_observer(struct host *host, const struct suite_options *options,
                                                void (*print_new)(void *ctx), void *ctx);

/* Zeroed pages of the host for tables; NULL: it has none. */
void *measure_get_pages(struct host *host, size_t size_bytes, struct kpage_chunk *chunk);
/* Start an engine with at most wish_bytes, or an equal share of what there is; 0: no limit. False: one line in *why. */
bool measure_start(struct host *host, struct allocator *engine, size_t wish_bytes, const char **why);

void measure_sort(uint64_t *values, size_t n);
/* Thousandths as "12.3", with as many decimals (0..3), or "-" when there is no such figure. */
char *measure_decimal(char *out, size_t size, uint64_t milli, unsigned decimals);
/* part / whole in thousandths, without overflow; 0 when whole is 0. */
uint64_t measure_permille(uint64_t part, uint64_t whole);
/* The first line of a command, or the opening of its JSON object. */
void measure_print_header(struct host *host, const struct suite_options *options, const char *command);
/* Measures an engine and prints the figures; the table is zeroed. *why: of any outcome but SUITE_PASSED, a sentence or "". */
typedef enum suite_outcome measure_engine(struct host *host, const struct suite_options *options,
                                          struct allocator *engine, void *table, const char **why);
/* A command that measures options->engine, from its first line to its last. */
enum suite_outcome measure_command(struct host *host, const struct suite_options *options, const char *command,
                                   size_t table_bytes, measure_engine *measure);
/* A JSON string with its quotes. */
void measure_print_string(struct host *host, const char *text);
/* The last line of a command; for JSON the outcome and the closing brace. */
enum suite_outcome measure_print_end(struct host *host, const struct suite_options *options, const char *command,
                                     enum suite_outcome outcome, const char *why);

/* The commands, as sequential text. */
enum suite_outcome bench_command(struct host *host, const struct suite_options *options);
enum suite_outcome latency_command(struct host *host, const struct suite_options *options);
enum suite_outcome frag_command(struct host *host, const struct suite_options *options);
enum suite_outcome scale_command(struct host *host, const struct suite_options *options);

#endif
