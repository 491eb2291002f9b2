/* SPDX-License-Identifier: MIT */
/*
 * Robson's adversary. Only plays against the functions that it is given; what a unit is, is theirs.
 */
#include "robson.h"

#define WARM_UP 256

size_t robson_least(size_t max_live, unsigned n_doublings)
{
	return robson_most(max_live, n_doublings) - ((size_t)1 << n_doublings) + 1;
}

size_t robson_most(size_t max_live, unsigned n_doublings)
{
	return max_live + max_live * n_doublings / 2;
}

static bool take(struct robson *robson, size_t size)
{
	struct robson_block *block = &robson->blocks[robson->n_blocks];

	if (!robson->alloc(robson->ctx, size, &block->place))
		return false;
	block->size = size;
	robson->n_blocks++;
	robson->live += size;
	if (block->place < robson->lowest)
		robson->lowest = block->place;
	if (block->place + size > robson->highest)
		robson->highest = block->place + size;
	return true;
}

/* Does the block cover an address that is `offset` modulo `step`? */
static bool covers(const struct robson_block *block, uintptr_t offset, size_t step)
{
	uintptr_t first = block->place + ((offset - block->place) & (step - 1));

	return first < block->place + block->size;
}

/* What keeping the blocks at this offset denies the allocator: the rest of each window of `step` units. */
static size_t denied(const struct robson *robson, uintptr_t offset, size_t step)
{
	size_t sum = 0;

	for (size_t i = 0; i < robson->n_blocks; i++)
		if (covers(&robson->blocks[i], offset, step))
			sum += step - robson->blocks[i].size;
	return sum;
}

static void keep_only(struct robson *robson, uintptr_t offset, size_t step)
{
	size_t n_kept = 0;

	for (size_t i = 0; i < robson->n_blocks; i++) {
		struct robson_block block = robson->blocks[i];

		if (covers(&block, offset, step)) {
			robson->blocks[n_kept++] = block;
			continue;
		}
		robson->free(robson->ctx, block.place);
		robson->live -= block.size;
	}
	robson->n_blocks = n_kept;
}

bool robson_settle(struct robson *robson)
{
	robson->n_blocks = robson->live = 0;
	for (unsigned i = 0; i < WARM_UP; i++) {
		if (!take(robson, 1))
			return false;
		robson_clear(robson);
	}
	return true;
}

bool robson_run(struct robson *robson)
{
	uintptr_t offset = 0;

	robson->n_blocks = robson->live = 0;
	robson->lowest = UINTPTR_MAX;
	robson->highest = 0;
	while (robson->live < robson->max_live)
		if (!take(robson, 1))
			return false;
	for (unsigned k = 1; k <= robson->n_doublings; k++) {
		size_t step = (size_t)1 << k;

		if (denied(robson, offset + step / 2, step) > denied(robson, offset, step))
			offset += step / 2;
		keep_only(robson, offset, step);
		while (robson->live + step <= robson->max_live)
			if (!take(robson, step))
				return false;
	}
	return true;
}

void robson_clear(struct robson *robson)
{
	while (robson->n_blocks > 0)
		robson->free(robson->ctx, robson->blocks[--robson->n_blocks].place);
	robson->live = 0;
}
