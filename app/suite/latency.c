/* SPDX-License-Identifier: MIT */
/*
 * Latency: random work in which every call is timed by itself. Timing costs more than a quick call takes, so the empty
 * timer's own histogram stands beside the others. Memory is constant: a histogram for each operation and band of
 * sizes.
 */
#include "histogram.h"
#include "measure.h"
#include "text.h"

#define N_SLOTS 1000
#define LEAST_SIZE 16
#define N_OCTAVES 12 /* 16 B to 64 KiB */
#define SEED_OF_NOTHING 1
/* The firmware's timer ticks every 10 ms at the least, and a window may not hide one. */
#define WINDOWS_PER_SECOND 1000
/* One step in so many resizes instead of replacing, and one times nothing. */
#define RESIZE_EACH 8
#define EMPTY_EACH 4

enum operation { ALLOC, FREE, REALLOC, EMPTY, N_OPERATIONS };
enum band { SMALL, MEDIUM, LARGE, N_BANDS };

static const char *const operations[N_OPERATIONS] = { "alloc", "free", "realloc", "timer" };
static const char *const bands[N_BANDS] = { "16 B to 255 B", "256 B to 4 KiB", "4 KiB to 64 KiB" };

struct slot {
	void *object;
	size_t size_bytes;
};

struct latency {
	struct host *host;
	struct meter meter;
	struct calls calls;
	uint64_t random;
	bool is_refused;
	struct slot slots[N_SLOTS];
	struct histogram histograms[N_OPERATIONS][N_BANDS]; /* of EMPTY only the first is used */
	struct histogram sums[N_OPERATIONS];
	bool has_smi;
	uint32_t smi_before, smi_after;
};

static enum band band_of(size_t size_bytes)
{
	return size_bytes < 256 ? SMALL : size_bytes < 4096 ? MEDIUM : LARGE;
}

/* ------------------------------------------------------------------------------------------------------------
 * The work
 * --------------------------------------------------------------------------------------------------------- */

static uint64_t read_clock(struct latency *latency)
{
	return latency->meter.now(latency->host);
}

static void note(struct latency *latency, enum operation operation, size_t size_bytes, uint64_t begin, uint64_t end)
{
	histogram_add(&latency->histograms[operation][operation == EMPTY ? 0 : band_of(size_bytes)], end - begin);
}

static void timed_alloc(struct latency *latency, struct slot *slot)
{
	size_t size_bytes = measure_size(&latency->random, N_OCTAVES, LEAST_SIZE);
	uint64_t begin = read_clock(latency);
	void *object = latency->calls.alloc(latency->calls.engine, size_bytes);
	uint64_t end = read_clock(latency);

	note(latency, ALLOC, size_bytes, begin, end);
	latency->is_refused = latency->is_refused || object == NULL;
	*slot = (struct slot){ object, size_bytes };
	if (object != NULL)
		*(volatile char *)object = 1;
}

static void timed_free(struct latency *latency, struct slot *slot)
{
	uint64_t begin = read_clock(latency), end;

	latency->calls.free(latency->calls.engine, slot->object);
	end = read_clock(latency);
	note(latency, FREE, slot->size_bytes, begin, end);
	slot->object = NULL;
}

static void timed_realloc(struct latency *latency, struct slot *slot)
{
	size_t size_bytes = measure_size(&latency->random, N_OCTAVES, LEAST_SIZE);
	uint64_t begin = read_clock(latency);
	void *object = latency->calls.realloc(latency->calls.engine, slot->object, size_bytes);
	uint64_t end = read_clock(latency);

	note(latency, REALLOC, size_bytes, begin, end);
	latency->is_refused = latency->is_refused || object == NULL;
	if (object != NULL)
		*slot = (struct slot){ object, size_bytes };
}

/* One step: an object replaced or resized. */
static void step(struct latency *latency)
{
	uint64_t number = measure_random(&latency->random), begin;
	struct slot *slot = &latency->slots[number % N_SLOTS];
	unsigned kind = (unsigned)(number >> 40);

	if (kind % EMPTY_EACH == 0) {
		begin = read_clock(latency);
		note(latency, EMPTY, 0, begin, read_clock(latency));
	}
	if (slot->object == NULL) {
		timed_alloc(latency, slot);
	} else if (latency->calls.realloc != NULL && kind / EMPTY_EACH % RESIZE_EACH == 0) {
		timed_realloc(latency, slot);
	} else {
		timed_free(latency, slot);
		timed_alloc(latency, slot);
	}
}

static void window(struct latency *latency)
{
	uint64_t length = latency->meter.rate / WINDOWS_PER_SECOND, begin;

	meter_quiet_begin(&latency->meter);
	begin = read_clock(latency);
	while (read_clock(latency) - begin < length && !latency->is_refused)
		step(latency);
	meter_quiet_end(&latency->meter);
}

/* ------------------------------------------------------------------------------------------------------------
 * The run
 * --------------------------------------------------------------------------------------------------------- */

static bool count_smi(struct latency *latency, uint32_t *count)
{
	return latency->host->smi_count != NULL && latency->host->smi_count(latency->host, count);
}

static enum suite_outcome run(struct latency *latency, const struct suite_options *options)
{
	uint64_t bound_ms = (uint64_t)options->seconds * 1000, passed;
	struct pacer pacer;
	bool is_stopped = false;

	pacer_begin(&pacer, latency->host, measure_print_observer(latency->host, options, NULL, NULL));
	latency->has_smi = count_smi(latency, &latency->smi_before);
	while (!is_stopped && !latency->is_refused && (passed = pacer_milliseconds(&pacer)) < bound_ms) {
		window(latency);
		is_stopped = pacer_stop(&pacer, (unsigned)(passed * 1000 / bound_ms), "");
	}
	latency->has_smi = latency->has_smi && count_smi(latency, &latency->smi_after);
	for (unsigned i = 0; i < N_SLOTS; i++)
		if (latency->slots[i].object != NULL)
			latency->calls.free(latency->calls.engine, latency->slots[i].object);
	for (unsigned operation = 0; operation < N_OPERATIONS; operation++)
		for (unsigned band = 0; band < N_BANDS; band++)
			histogram_merge(&latency->sums[operation], &latency->histograms[operation][band]);
	return latency->is_refused ? SUITE_FAILED : is_stopped ? SUITE_STOPPED : SUITE_PASSED;
}

/* ------------------------------------------------------------------------------------------------------------
 * Text
 * --------------------------------------------------------------------------------------------------------- */

static const unsigned percentiles[] = { 500, 900, 990, 999 };

#define N_PERCENTILES (sizeof(percentiles) / sizeof(percentiles[0]))

static void print_figure(const struct latency *latency, uint64_t units, int width)
{
	if (latency->meter.has_time)
		units = meter_milli_ns(&latency->meter, units * 1000) / 1000;
	text_print(latency->host, " %'*llu", width, (unsigned long long)units);
}

static void print_line(const struct latency *latency, const char *operation, const char *band,
                       const struct histogram *histogram)
{
	if (histogram->n == 0)
		return;
	text_print(latency->host, "%-7s %-15s %'10llu", operation, band, (unsigned long long)histogram->n);
	for (unsigned i = 0; i < N_PERCENTILES; i++)
		print_figure(latency, histogram_percentile(histogram, percentiles[i]), 7);
	print_figure(latency, histogram->maximum, 10);
	text_print(latency->host, "\n");
}

#define BAR_COLUMNS 10

static void print_bar(const struct latency *latency, enum operation operation, unsigned bit)
{
	const struct histogram *histogram = &latency->sums[operation];
	uint64_t n = histogram_octave(histogram, bit), permille = measure_permille(n, histogram->n);
	char bar[BAR_COLUMNS + 1], percent[16];
	unsigned length = (unsigned)((permille * BAR_COLUMNS + 500) / 1000);

	/* Even one call in a million is seen. */
	if (n > 0 && length == 0)
		bar[length++] = '.';
	else
		__builtin_memset(bar, '#', length);
	bar[length] = '\0';
	measure_decimal(percent, sizeof(percent), permille * 100, 1);
	if (n > 0)
		text_print(latency->host, " |%-*s%5s", BAR_COLUMNS, bar, percent);
	else
		text_print(latency->host, " |%*s", operation + 1 < N_OPERATIONS ? BAR_COLUMNS + 5 : 0, "");
}

static void print_bars(const struct latency *latency)
{
	unsigned first = 63, last = 0;

	for (unsigned operation = 0; operation < N_OPERATIONS; operation++) {
		for (unsigned bit = 0; bit < HISTOGRAM_OCTAVES; bit++) {
			if (histogram_octave(&latency->sums[operation], bit) == 0)
				continue;
			first = bit < first ? bit : first;
			last = bit > last ? bit : last;
		}
	}
	text_print(latency->host, "\nOf each 100 calls, those from so many %s on, up to twice that\n%11s",
	           latency->meter.has_cycles ? "cycles" : "ticks", "");
	for (unsigned operation = 0; operation < N_OPERATIONS; operation++)
		text_print(latency->host, "  %-*s", operation + 1 < N_OPERATIONS ? BAR_COLUMNS + 5 : 0,
		           operations[operation]);
	text_print(latency->host, "\n");
	for (unsigned bit = first; bit <= last && first < 63; bit++) {
		text_print(latency->host, "%'11llu", (unsigned long long)(bit > 0 ? (uint64_t)1 << bit : 0));
		for (unsigned operation = 0; operation < N_OPERATIONS; operation++)
			print_bar(latency, (enum operation)operation, bit);
		text_print(latency->host, "\n");
	}
}

static void print_text(const struct latency *latency)
{
	struct host *host = latency->host;

	meter_print(&latency->meter, SUITE_TEXT);
	if (host->quiet_begin != NULL)
		text_print(host, "Windows  %u ms long; in them the host's own notifications are kept away\n",
		           1000 / WINDOWS_PER_SECOND);
	if (latency->has_smi)
		text_print(host, "SMI      %u system management interrupts before the run, %u after it%s\n",
		           latency->smi_before, latency->smi_after,
		           latency->smi_after != latency->smi_before ? ";\n         the longest calls may be theirs"
		                                                     : "");
	else
		text_print(host, "SMI      not counted on this %s\n",
		           host->is_virtual_machine ? "virtual machine" : "host");
	text_print(host, "\nengine %s: %s per call, the timer's own part in each figure\n", latency->calls.engine->name,
	           latency->meter.has_time     ? "nanoseconds"
	           : latency->meter.has_cycles ? "cycles"
	                                       : "ticks");
	text_print(host, "%-7s %-15s %10s %7s %7s %7s %7s %10s\n", "", "size", "calls", "p50", "p90", "p99", "p99.9",
	           "max");
	for (unsigned operation = 0; operation < EMPTY; operation++)
		for (unsigned band = 0; band < N_BANDS; band++)
			print_line(latency, operations[operation], bands[band], &latency->histograms[operation][band]);
	if (latency->calls.realloc == NULL)
		text_print(host, "realloc this engine has none\n");
	print_line(latency, operations[EMPTY], "nothing", &latency->sums[EMPTY]);
	print_bars(latency);
}

static void print_json_line(const struct latency *latency, const char *operation, const char *band,
                            const struct histogram *histogram, bool is_last)
{
	struct host *host = latency->host;
	bool is_first = true;

	text_print(host, "    {\"operation\": \"%s\", \"size\": \"%s\", \"calls\": %llu", operation, band,
	           (unsigned long long)histogram->n);
	for (unsigned i = 0; i < N_PERCENTILES; i++)
		text_print(host, ", \"p%u%s\": %llu", percentiles[i] / 10, percentiles[i] % 10 ? ".9" : "",
		           (unsigned long long)histogram_percentile(histogram, percentiles[i]));
	text_print(host, ", \"min\": %llu, \"max\": %llu, \"counts\": [", (unsigned long long)histogram->minimum,
	           (unsigned long long)histogram->maximum);
	for (unsigned cell = 0; cell < HISTOGRAM_CELLS; cell++) {
		if (histogram->cells[cell] == 0)
			continue;
		text_print(host, "%s[%llu, %u]", is_first ? "" : ", ", (unsigned long long)histogram_cell_last(cell),
		           histogram->cells[cell]);
		is_first = false;
	}
	text_print(host, "]}%s\n", is_last ? "" : ",");
}

static void print_json(const struct latency *latency)
{
	struct host *host = latency->host;

	meter_print(&latency->meter, SUITE_JSON);
	text_print(host, "  \"engine\": \"%s\", \"window_ms\": %u, ", latency->calls.engine->name,
	           1000 / WINDOWS_PER_SECOND);
	if (latency->has_smi)
		text_print(host, "\"smi_before\": %u, \"smi_after\": %u,\n", latency->smi_before, latency->smi_after);
	else
		text_print(host, "\"smi_before\": null, \"smi_after\": null,\n");
	text_print(host, "  \"latencies\": [\n");
	for (unsigned operation = 0; operation < EMPTY; operation++)
		for (unsigned band = 0; band < N_BANDS; band++)
			if (latency->histograms[operation][band].n > 0)
				print_json_line(latency, operations[operation], bands[band],
				                &latency->histograms[operation][band], false);
	print_json_line(latency, operations[EMPTY], "", &latency->sums[EMPTY], true);
	text_print(host, "  ],\n");
}

/* ------------------------------------------------------------------------------------------------------------
 * The command
 * --------------------------------------------------------------------------------------------------------- */

static enum suite_outcome measure(struct host *host, const struct suite_options *options, struct allocator *engine,
                                  void *table, const char **why)
{
	enum suite_outcome outcome;
	struct latency *latency = table;

	latency->host = host;
	latency->calls = calls_of(engine);
	latency->random = options->seed != 0 ? options->seed : SEED_OF_NOTHING;
	meter_begin(&latency->meter, host);
	if (!measure_start(host, engine, (size_t)options->heap_bytes, why))
		return SUITE_CANNOT_RUN;
	outcome = run(latency, options);
	engine->stop(engine);
	if (outcome == SUITE_FAILED) {
		*why = "The engine refused memory although little was live; give it a larger -heap.";
		return SUITE_CANNOT_RUN;
	}
	if (options->format == SUITE_JSON)
		print_json(latency);
	else
		print_text(latency);
	return outcome;
}

enum suite_outcome latency_command(struct host *host, const struct suite_options *options)
{
	return measure_command(host, options, "latency", sizeof(struct latency), measure);
}
