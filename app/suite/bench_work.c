/* SPDX-License-Identifier: MIT */
/*
 * What the bench times: the published workloads a, A, b, c (16 B to 4095 B, or to 255 B), d1, d2 (growing), e (first
 * in, first out), f and g (filling), and pairs of alloc and free of one size, alone and between neighbours. Must print
 * nothing and look at no clock: all of it may be inside timed code.
 */
#include "bench.h"

#define SEED_CHURN 88172645463325252u
#define SEED_FILL 0x9e3779b97f4a7c15u
#define LEAST_SIZE 16
#define A_CHURN 20000
/* Steps of one sample: they differ much, and a sample is a mean of them. */
#define CHURN_STEPS 200

#define APPEND_STEP 64
#define APPEND_STEPS 1024 /* to 64 KiB */
#define VECTORS 64
#define VECTOR_STEPS 11 /* 16 B to 16 KiB */
#define QUEUE 1000
#define QUEUE_SIZE 64

/* A program writes to what it gets. */
static inline bool touch(struct lane *lane, void *object)
{
	if (__builtin_expect(object == NULL, 0)) {
		lane->is_refused = true;
		return false;
	}
	*(volatile char *)object = 1;
	return true;
}

static inline void *take(struct lane *lane, size_t size_bytes)
{
	void *object = lane->calls.alloc(lane->calls.engine, size_bytes);

	touch(lane, object);
	return object;
}

static inline void give(struct lane *lane, void *object)
{
	lane->calls.free(lane->calls.engine, object);
}

void bench_clear(struct lane *lane)
{
	for (unsigned i = 0; i < BENCH_SLOTS; i++) {
		if (lane->slots[i] != NULL)
			give(lane, lane->slots[i]);
		lane->slots[i] = NULL;
	}
	lane->position = 0;
}

/* ------------------------------------------------------------------------------------------------------------
 * Pairs, churn
 * --------------------------------------------------------------------------------------------------------- */

static void run_pairs(struct lane *lane, uint32_t n_steps)
{
	for (uint32_t i = 0; i < n_steps; i++) {
		void *object = lane->calls.alloc(lane->calls.engine, lane->size_bytes);

		if (!touch(lane, object))
			return;
		give(lane, object);
	}
}

static void run_churn(struct lane *lane, uint32_t n_steps)
{
	for (uint32_t i = 0; i < n_steps; i++) {
		uint32_t slot = (uint32_t)(measure_random(&lane->random) % BENCH_SLOTS);

		give(lane, lane->slots[slot]);
		lane->slots[slot] = take(lane, measure_size(&lane->random, lane->octaves, LEAST_SIZE));
		if (lane->is_refused)
			return;
	}
}

static void fill(struct lane *lane)
{
	for (unsigned i = 0; i < BENCH_SLOTS && !lane->is_refused; i++)
		lane->slots[i] = take(lane, measure_size(&lane->random, lane->octaves, LEAST_SIZE));
}

static void prepare_nothing(struct lane *lane)
{
	(void)lane;
}

static void prepare_churn(struct lane *lane)
{
	lane->random = SEED_CHURN;
	fill(lane);
}

static void prepare_populated(struct lane *lane)
{
	prepare_churn(lane);
	if (!lane->is_refused)
		run_churn(lane, A_CHURN);
}

/* Three objects, the middle one free again: whatever page it lies in stays in use. */
static void prepare_neighbours(struct lane *lane)
{
	for (unsigned i = 0; i < 3 && !lane->is_refused; i++)
		lane->slots[i] = take(lane, lane->size_bytes);
	if (!lane->is_refused)
		give(lane, lane->slots[1]);
	lane->slots[1] = NULL;
}

/* ------------------------------------------------------------------------------------------------------------
 * Growing
 * --------------------------------------------------------------------------------------------------------- */

static inline bool grow(struct lane *lane, unsigned slot, size_t size_bytes)
{
	void *object = lane->calls.realloc(lane->calls.engine, lane->slots[slot], size_bytes);

	if (!touch(lane, object))
		return false;
	lane->slots[slot] = object;
	return true;
}

/* One buffer: 64, 128, ... 65536 bytes, then free. */
static void run_append(struct lane *lane, uint32_t n_steps)
{
	for (uint32_t i = 0; i < n_steps; i++) {
		if (!grow(lane, 0, (size_t)(lane->position + 1) * APPEND_STEP))
			return;
		if (++lane->position == APPEND_STEPS) {
			give(lane, lane->slots[0]);
			lane->slots[0] = NULL;
			lane->position = 0;
		}
	}
}

/* 64 vectors in turn: 16, 32, ... 16384 bytes, then all are freed. */
static void run_double(struct lane *lane, uint32_t n_steps)
{
	for (uint32_t i = 0; i < n_steps; i++) {
		if (!grow(lane, lane->position % VECTORS, (size_t)16 << lane->position / VECTORS))
			return;
		if (++lane->position < VECTORS * VECTOR_STEPS)
			continue;
		for (unsigned slot = 0; slot < VECTORS; slot++) {
			give(lane, lane->slots[slot]);
			lane->slots[slot] = NULL;
		}
		lane->position = 0;
	}
}

/* ------------------------------------------------------------------------------------------------------------
 * Queue, fill
 * --------------------------------------------------------------------------------------------------------- */

/* A step is an alloc or a free. */
static void run_queue(struct lane *lane, uint32_t n_steps)
{
	for (uint32_t i = 0; i < n_steps && !lane->is_refused; i++) {
		uint32_t slot = lane->position % QUEUE;

		if (lane->position < QUEUE) {
			lane->slots[slot] = take(lane, QUEUE_SIZE);
		} else {
			give(lane, lane->slots[slot]);
			lane->slots[slot] = NULL;
		}
		lane->position = (lane->position + 1) % (2 * QUEUE);
	}
}

static void run_fill(struct lane *lane, uint32_t n_steps)
{
	for (uint32_t i = 0; i < n_steps && lane->position < BENCH_SLOTS && !lane->is_refused; i++)
		lane->slots[lane->position++] = take(lane, measure_size(&lane->random, lane->octaves, LEAST_SIZE));
}

static void prepare_fill(struct lane *lane)
{
	lane->random = SEED_FILL;
}

/* ------------------------------------------------------------------------------------------------------------
 * The list
 * --------------------------------------------------------------------------------------------------------- */

#define PAIR(text, size)                                                                           \
	{                                                                                          \
		.section = "pairs", .name = text, .what = "alone on the heap", .size_bytes = size, \
		.prepare = prepare_nothing, .run = run_pairs                                       \
	}
#define NEIGHBOURS(text, size)                                                                                \
	{                                                                                                     \
		.section = "neighbours", .name = text, .what = "between live neighbours", .size_bytes = size, \
		.prepare = prepare_neighbours, .run = run_pairs                                               \
	}
/* clang-format off */
#define ALL_SIZES(F) \
	F("16 B", 16), F("32 B", 32), F("64 B", 64), F("128 B", 128), F("256 B", 256), F("512 B", 512), F("1 KiB", 1024), \
	F("2 KiB", 2048), F("4 KiB", 4096), F("8 KiB", 8192), F("16 KiB", 16384), F("32 KiB", 32768), F("64 KiB", 65536)

const struct workload bench_workloads[] = {
	{ "workloads", "a", "64 B pair, nothing else", 0, 64, 0, 0, false, false, prepare_nothing, run_pairs, NULL },
	{ "workloads", "A", "64 B pair, 10000 live", 8, 64, 0, 0, false, true, prepare_populated, run_pairs, NULL },
	{ "workloads", "b", "replace, 16 to 4095 B", 8, 0, CHURN_STEPS, 0, false, true, prepare_churn, run_churn, NULL },
	{ "workloads", "c", "replace, 16 to 255 B", 4, 0, CHURN_STEPS, 0, false, true, prepare_churn, run_churn, NULL },
	{ "workloads", "d1", "grow by 64 B to 64 KiB", 0, 0, APPEND_STEPS, 0, true, true, prepare_nothing, run_append, NULL },
	{ "workloads", "d2", "double to 16 KiB", 0, 0, VECTORS * VECTOR_STEPS, 0, true, true, prepare_nothing, run_double, NULL },
	{ "workloads", "e", "64 B, first in first out", 0, 64, 2 * QUEUE, QUEUE, false, false, prepare_nothing, run_queue, NULL },
	{ "workloads", "f", "fill, 16 to 4095 B", 8, 0, BENCH_SLOTS, 0, false, true, prepare_fill, run_fill, bench_clear },
	{ "workloads", "g", "fill, 16 to 255 B", 4, 0, BENCH_SLOTS, 0, false, true, prepare_fill, run_fill, bench_clear },
	ALL_SIZES(PAIR),
	ALL_SIZES(NEIGHBOURS),
};
/* clang-format on */

const unsigned bench_n_workloads = sizeof(bench_workloads) / sizeof(bench_workloads[0]);

_Static_assert(sizeof(bench_workloads) / sizeof(bench_workloads[0]) <= BENCH_MAX_ROWS, "every row has a place");
