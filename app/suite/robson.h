/* SPDX-License-Identifier: MIT */
/*
 * Robson's adversary (Journal of the ACM 21(3), 1974): for M units live at most and blocks of 1, 2, 4 ... 2^L units,
 * it makes any allocator that cannot move blocks use at least M * (1 + L / 2) - 2^L + 1 units. One that wastes nothing
 * by itself uses no more than M * (1 + L / 2), so the result is known before the run.
 */
#ifndef SUITE_ROBSON_H
#define SUITE_ROBSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct robson_block {
	uintptr_t place; /* in units */
	size_t size;
};

struct robson {
	void *ctx;
	/* A block of that many units, where; false: there is no room. */
	bool (*alloc)(void *ctx, size_t n_units, uintptr_t *place);
	void (*free)(void *ctx, uintptr_t place);

	size_t max_live;             /* M */
	unsigned n_doublings;        /* L */
	struct robson_block *blocks; /* room for max_live of them */

	/* The result. */
	size_t n_blocks, live;
	uintptr_t lowest, highest; /* of all places used, the last one excluded */
};

/* Before a run: what the allocator takes for itself when it is used much, it takes now, and not among the blocks. False: no room. */
bool robson_settle(struct robson *robson);

/* False: the allocator had no room. What is left live is in blocks. */
bool robson_run(struct robson *robson);
/* Free what is left. */
void robson_clear(struct robson *robson);
/* Any allocator needs at least this, and a perfect one at most that. */
size_t robson_least(size_t max_live, unsigned n_doublings);
size_t robson_most(size_t max_live, unsigned n_doublings);

#endif
