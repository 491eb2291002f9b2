/* SPDX-License-Identifier: MIT */
/*
 * A log-linear histogram, as HdrHistogram made them known: each octave is cut into 32 equal parts, so a value is known
 * to 3 %, whatever its size, in constant memory.
 */
#ifndef SUITE_HISTOGRAM_H
#define SUITE_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_PART_BITS 5
#define HISTOGRAM_PARTS (1u << HISTOGRAM_PART_BITS)
/* Values from 2^40 on are counted as the largest: an hour of cycles at 300 MHz. */
#define HISTOGRAM_OCTAVES 40
#define HISTOGRAM_CELLS ((HISTOGRAM_OCTAVES - HISTOGRAM_PART_BITS + 1) * HISTOGRAM_PARTS)

struct histogram {
	uint64_t n, maximum, minimum;
	uint32_t cells[HISTOGRAM_CELLS];
};

/* All bytes zero is an empty histogram. */
static inline unsigned histogram_cell(uint64_t value)
{
	unsigned octave;

	if (value < HISTOGRAM_PARTS)
		return (unsigned)value;
	if (value >> HISTOGRAM_OCTAVES != 0)
		return HISTOGRAM_CELLS - 1;
	octave = 63 - (unsigned)__builtin_clzll(value) - HISTOGRAM_PART_BITS;
	return (octave + 1) * HISTOGRAM_PARTS + (unsigned)(value >> octave) - HISTOGRAM_PARTS;
}

static inline void histogram_add(struct histogram *histogram, uint64_t value)
{
	histogram->cells[histogram_cell(value)]++;
	if (value > histogram->maximum)
		histogram->maximum = value;
	if (histogram->n++ == 0 || value < histogram->minimum)
		histogram->minimum = value;
}

/* The largest value that falls into that cell. */
uint64_t histogram_cell_last(unsigned cell);
/* The least value that so many of each 1000 values do not pass, told as its cell's last; never above the maximum. */
uint64_t histogram_percentile(const struct histogram *histogram, unsigned permille);
/* How many values have their highest bit at `bit` (0 counts as bit 0). */
uint64_t histogram_octave(const struct histogram *histogram, unsigned bit);
void histogram_merge(struct histogram *into, const struct histogram *from);

#endif
