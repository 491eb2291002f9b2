/* SPDX-License-Identifier: MIT */
/*
 * The published workloads. Only counts and calls; what an alloc is, is the program's that this is linked with.
 */
#include "work.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SEED_CHURN 88172645463325252u
#define SEED_FILL 0x9e3779b97f4a7c15u
#define WARM_PAIRS 1000

size_t work_operations, work_peak, work_slots = 10000;

static void *slots[WORK_SLOTS_MAX];
static uint32_t sizes[WORK_SLOTS_MAX];
static uint64_t state;

static uint64_t next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/* Log-uniform by octave, from 16 on. */
static size_t draw(unsigned octaves)
{
	uint64_t r = next();
	size_t base = (size_t)16 << (r % octaves);

	return base + (size_t)((r >> 32) & (base - 1));
}

static bool put(unsigned slot, size_t size, size_t *live)
{
	slots[slot] = work_alloc(size);
	sizes[slot] = (uint32_t)size;
	*live += size;
	if (*live > work_peak)
		work_peak = *live;
	if (slots[slot] != NULL)
		*(volatile char *)slots[slot] = 1;
	return slots[slot] != NULL;
}

static bool fill(unsigned octaves, size_t *live)
{
	for (unsigned i = 0; i < work_slots; i++)
		if (!put(i, draw(octaves), live))
			return false;
	return true;
}

static bool replace(unsigned octaves, size_t n_steps, size_t *live)
{
	for (size_t i = 0; i < n_steps; i++) {
		unsigned slot = (unsigned)(next() % work_slots);

		work_free(slots[slot]);
		*live -= sizes[slot];
		if (!put(slot, draw(octaves), live))
			return false;
	}
	return true;
}

static bool churn(unsigned octaves, size_t n_uncounted, size_t n_steps)
{
	size_t live = 0;
	bool is_done;

	state = SEED_CHURN;
	work_peak = 0;
	is_done = fill(octaves, &live) && replace(octaves, n_uncounted, &live);
	work_begin();
	is_done = is_done && replace(octaves, n_steps, &live);
	work_end();
	work_operations = n_steps;
	return is_done;
}

bool work_churn(unsigned octaves, size_t n_steps)
{
	return churn(octaves, 0, n_steps);
}

static bool pairs(size_t size, size_t n_warm, size_t n)
{
	for (size_t i = 0; i < n_warm + n; i++) {
		if (i == n_warm)
			work_begin();
		void *object = work_alloc(size);
		if (object == NULL)
			return false;
		*(volatile char *)object = 1;
		work_free(object);
	}
	work_end();
	work_operations = n;
	return true;
}

static bool work_A(void)
{
	size_t live = 0;

	state = SEED_CHURN;
	return fill(8, &live) && replace(8, 20000, &live) && pairs(64, 1, WORK_STEPS);
}

static bool work_fill(unsigned octaves)
{
	size_t live = 0;
	bool is_done;

	state = SEED_FILL;
	work_begin();
	is_done = fill(octaves, &live);
	work_end();
	work_operations = work_slots;
	return is_done;
}

/* ------------------------------------------------------------------------------------------------------------
 * Rounds: some are warm-up
 * --------------------------------------------------------------------------------------------------------- */

static bool grow(unsigned slot, size_t size)
{
	slots[slot] = work_resize(slots[slot], size);
	if (slots[slot] != NULL)
		*(volatile char *)slots[slot] = 1;
	return slots[slot] != NULL;
}

static void drop(unsigned slot)
{
	work_free(slots[slot]);
	slots[slot] = NULL;
}

static size_t append(void)
{
	for (size_t size = 64; size <= 65536; size += 64)
		if (!grow(0, size))
			return 0;
	drop(0);
	return 1024;
}

static size_t doubling(void)
{
	for (size_t size = 16; size <= 16384; size *= 2)
		for (unsigned slot = 0; slot < 64; slot++)
			if (!grow(slot, size))
				return 0;
	for (unsigned slot = 0; slot < 64; slot++)
		drop(slot);
	return (size_t)64 * 11;
}

static size_t queue(void)
{
	size_t live = 0;

	for (unsigned slot = 0; slot < 1000; slot++)
		if (!put(slot, 64, &live))
			return 0;
	for (unsigned slot = 0; slot < 1000; slot++)
		drop(slot);
	return 1000;
}

static bool rounds(size_t (*round)(void), unsigned n)
{
	memset(slots, 0, work_slots * sizeof(slots[0]));
	work_operations = 0;
	for (unsigned i = 0; i < n + 2; i++) {
		if (i == 2)
			work_begin();
		size_t operations = round();
		if (operations == 0)
			return false;
		work_operations += i >= 2 ? operations : 0;
	}
	work_end();
	return true;
}

bool work_named(const char *name)
{
	memset(slots, 0, work_slots * sizeof(slots[0]));
	if (strcmp(name, "a") == 0)
		return pairs(64, 1, WORK_STEPS);
	if (strncmp(name, "pair", 4) == 0)
		return pairs(strtoul(name + 4, NULL, 10), WARM_PAIRS, WORK_STEPS);
	if (strcmp(name, "A") == 0)
		return work_A();
	if (strcmp(name, "b") == 0)
		return churn(8, 0, WORK_STEPS);
	if (strcmp(name, "c") == 0)
		return churn(4, 0, WORK_STEPS);
	if (strcmp(name, "d1") == 0)
		return rounds(append, 50);
	if (strcmp(name, "d2") == 0)
		return rounds(doubling, 50);
	if (strcmp(name, "e") == 0)
		return rounds(queue, 100);
	if (strcmp(name, "f") == 0)
		return work_fill(8);
	if (strcmp(name, "g") == 0)
		return work_fill(4);
	return false;
}
