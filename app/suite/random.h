/* SPDX-License-Identifier: MIT */
/*
 * Random numbers that are the same for the same seed on every host, for ever: what makes a failure repeatable.
 * Never seeded from a clock or an address.
 */
#ifndef SUITE_RANDOM_H
#define SUITE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* xorshift64* (Vigna): one word of state, never 0. */
struct random {
	uint64_t state;
};

/* Any seed, 0 too. Seeds that differ in one bit give unrelated sequences. */
void random_seed(struct random *random, uint64_t seed);
uint64_t random_next(struct random *random);
/* 0..n - 1, n from 1 on. */
uint32_t random_below(struct random *random, uint32_t n);
/* min..max (1 <= min <= max), every octave as likely as any other, and every size within an octave. */
size_t random_size(struct random *random, size_t min, size_t max);

#endif
