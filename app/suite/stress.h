/* SPDX-License-Identifier: MIT */
/*
 * The stress run's inside: what stress.c (the driver: bounds, progress, verdict), stress_work.c (what is done to
 * the engine, verified) and the self-test's own broken engines share.
 */
#ifndef SUITE_STRESS_H
#define SUITE_STRESS_H

#include "random.h"
#include "suite.h"

/*
 * A block of the run. What it was meant to be (model) does not depend on whether the engine had memory for it, so
 * that the sequence of operations depends on nothing but the seed, the heap's size and the engine's limits.
 */
struct slot {
	void *object;        /* NULL: the engine refused it */
	uint64_t number;     /* of the block, from 1: which pattern it carries */
	size_t size_bytes;   /* asked for and given */
	size_t filled_bytes; /* carry the pattern: size_bytes, or all that usable_size promises */
	size_t model_bytes;  /* asked for last */
};

struct stress {
	struct host *host;
	struct allocator *engine;
	struct observer *observer;
	struct stress_result *result;
	struct stress_progress progress;

	/* The generator. */
	struct random random;
	uint64_t n_blocks; /* numbers given */
	size_t capacity_bytes, max_block_bytes;
	size_t model_bytes; /* what would be live had nothing been refused */
	unsigned level;     /* steering to level / STRESS_FULL_LEVEL of the capacity */
	bool is_falling;
	uint32_t churn_left; /* operations that stay at this level */
	uint32_t burst_left; /* operations of the same kind that follow */
	bool burst_frees;
	size_t burst_bytes;      /* size of each, */
	uint32_t burst_position; /* or where the next is freed */
	bool free_newest;        /* the block just made lives for one operation */

	/* slots[0, n_forever) live until the run goes back to empty. */
	struct slot *slots;
	uint32_t n_slots, n_forever, max_slots;

	/* The driver. */
	bool is_draining;
	uint64_t drain_began_at;  /* operations done before the end's clean-up */
	size_t live_bytes_before; /* what the engine said before the run */
	uint64_t errors_before;
};

#define STRESS_FULL_LEVEL 8
/* One above full, so that the engine really is asked for more than it has. */
#define STRESS_TOP_LEVEL 9

/* One operation of the sequence; false: it failed, and the failure is written down. */
bool stress_step(struct stress *s);
/* Verify and free one block that is left; false: it failed. */
bool stress_drain_step(struct stress *s);
/* Write down a failure, once. Returns false. */
bool stress_fail(struct stress *s, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * suite_stress for an engine that need not be in the list. *keeps: the run failed and its engine is left as it was;
 * the caller stops it.
 */
void stress_run(struct host *host, struct allocator *engine, const struct suite_options *options,
                struct observer *observer, struct stress_result *result, bool *keeps);

#endif
