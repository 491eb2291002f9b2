/* SPDX-License-Identifier: MIT */
/*
 * xorshift64* and what is drawn with it. Integer arithmetic only, so that every compiler and CPU gives the same
 * numbers.
 */
#include "random.h"

void random_seed(struct random *random, uint64_t seed)
{
	/* A splitmix64 step: spreads the bits of small seeds. */
	seed += 0x9e3779b97f4a7c15u;
	seed = (seed ^ seed >> 30) * 0xbf58476d1ce4e5b9u;
	seed = (seed ^ seed >> 27) * 0x94d049bb133111ebu;
	seed ^= seed >> 31;
	random->state = seed != 0 ? seed : 1;
}

uint64_t random_next(struct random *random)
{
	uint64_t x = random->state;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	random->state = x;
	return x * 0x2545f4914f6cdd1du;
}

uint32_t random_below(struct random *random, uint32_t n)
{
	/* Multiply and shift, because the high bits are the good ones. */
	return (uint32_t)((random_next(random) >> 32) * n >> 32);
}

static unsigned octave(size_t size)
{
	unsigned n = 0;

	while (size >>= 1)
		n++;
	return n;
}

size_t random_size(struct random *random, size_t min, size_t max)
{
	unsigned first = octave(min);
	size_t low = (size_t)1 << (first + random_below(random, octave(max) - first + 1));
	size_t high = low + (low - 1);

	/* The first and the last octave may be cut. */
	if (low < min)
		low = min;
	if (high > max)
		high = max;
	return low + (size_t)(((random_next(random) >> 32) * (uint64_t)(high - low + 1)) >> 32);
}
