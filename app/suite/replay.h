/* SPDX-License-Identifier: MIT */
/*
 * Replay: what a recorded program did with its heap, done again on an engine. First with every block filled and verified, in
 * one thread and then in as many as the program had; then without, for the time.
 */
#ifndef SUITE_REPLAY_H
#define SUITE_REPLAY_H

#include "suite.h"
#include "trace.h"

struct replay_result {
	enum suite_outcome outcome;
	char program[40]; /* of the trace */
	struct trace_counts counts;
	uint64_t n_operations; /* allocations, resizes and frees */
	uint64_t n_resizes, n_frees;
	uint64_t peak_live_bytes;    /* as asked for */
	uint64_t peak_rounded_bytes; /* each object rounded up to 16 bytes */
	/* Pages held at the most; 0: the engine cannot say, or holds all of its budget from the start. */
	uint64_t peak_footprint_bytes;
	bool is_fixed_area;      /* it holds all of its budget from the start */
	uint64_t verified_bytes; /* read back and found as written */
	uint64_t n_too_large;    /* objects left out, because the engine never makes such large ones */
	uint64_t ticks;          /* of the quickest pass without filling */
	uint64_t reading_ticks;  /* of a pass that reads the trace and does nothing */
	unsigned n_rounds;       /* passes without filling */
	/* With the threads at once: how many; 0: the trace has only one, or the host or the engine cannot. */
	unsigned n_parallel;
	uint64_t parallel_ticks; /* filling and verifying included */
	uint64_t parallel_footprint_bytes;
	char failure[200]; /* one sentence */
};

/*
 * Replay a trace that is in memory. poll() is called now and then outside timed passes and may stop the run; NULL: nobody asks.
 * All that was taken of the host is given back.
 */
void suite_replay(struct host *host, const struct suite_options *options, const void *bytes, size_t size,
                  enum suite_control (*poll)(void *ctx), void *ctx, struct replay_result *result);

/* The same for options->file, read through the host. */
void suite_replay_file(struct host *host, const struct suite_options *options, enum suite_control (*poll)(void *ctx),
                       void *ctx, struct replay_result *result);

/*
 * Replay a trace that was checked, on a started engine, each of its threads on a thread of its own; every block is filled and
 * verified (replay_threads.c). Only where replay_can_thread(); only a failure changes result->outcome.
 */
bool replay_can_thread(const struct host *host, const struct allocator *engine, const struct trace *trace);
void replay_threads(struct host *host, struct allocator *engine, const struct trace *trace,
                    struct replay_result *result);

/* `replay` as sequential text or JSON (replay_print.c). */
void replay_print(struct host *host, const struct suite_options *options, const struct replay_result *result);

/* ticks / n in picoseconds; 0 when there are none. */
uint64_t replay_picoseconds(const struct host *host, uint64_t ticks, uint64_t n);
/* 1000 * peak footprint / rounded peak of live bytes; 0: not known. */
uint64_t replay_footprint_permille(const struct replay_result *result);

#endif
