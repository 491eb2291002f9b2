/* SPDX-License-Identifier: MIT */
/*
 * What is read from a histogram after the timing: knows the cells, not what is in them.
 */
#include "histogram.h"

uint64_t histogram_cell_last(unsigned cell)
{
	unsigned octave = cell / HISTOGRAM_PARTS;

	if (octave == 0)
		return cell;
	return ((uint64_t)(HISTOGRAM_PARTS + cell % HISTOGRAM_PARTS + 1) << (octave - 1)) - 1;
}

uint64_t histogram_percentile(const struct histogram *histogram, unsigned permille)
{
	/* The rank, rounded up: the highest percentile is the maximum. */
	uint64_t rank = histogram->n / 1000 * permille + (histogram->n % 1000 * permille + 999) / 1000, seen = 0, last;

	for (unsigned cell = 0; cell < HISTOGRAM_CELLS; cell++) {
		seen += histogram->cells[cell];
		if (seen >= rank && seen > 0) {
			last = histogram_cell_last(cell);
			return last < histogram->maximum ? last : histogram->maximum;
		}
	}
	return histogram->maximum;
}

uint64_t histogram_octave(const struct histogram *histogram, unsigned bit)
{
	uint64_t first = bit > 0 ? (uint64_t)1 << bit : 0, last = ((uint64_t)2 << bit) - 1, n = 0;

	for (unsigned cell = histogram_cell(first); cell <= histogram_cell(last); cell++)
		n += histogram->cells[cell];
	return n;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
	if (from->n == 0)
		return;
	for (unsigned cell = 0; cell < HISTOGRAM_CELLS; cell++)
		into->cells[cell] += from->cells[cell];
	if (into->n == 0 || from->minimum < into->minimum)
		into->minimum = from->minimum;
	if (from->maximum > into->maximum)
		into->maximum = from->maximum;
	into->n += from->n;
}
