/* SPDX-License-Identifier: MIT */
/*
 * The bench as sequential text: a line for each engine and workload as soon as it is measured, or one JSON object.
 */
#include "bench.h"
#include "text.h"

struct printer {
	struct host *host;
	struct bench_result *result;
	unsigned n_printed;
	const char *section;
	bool has_clock; /* printed */
};

static uint64_t ratio(const struct bench_row *row, unsigned lane)
{
	const struct bench_cell *heap = &row->cells[BENCH_LANE_HEAP], *cell = &row->cells[lane];

	return heap->why_not == NULL ? measure_permille(cell->median, heap->median) : 0;
}

/* ------------------------------------------------------------------------------------------------------------
 * Text
 * --------------------------------------------------------------------------------------------------------- */

static void print_columns(struct host *host, const struct meter *meter)
{
	text_print(host, "%39s%16s%17s  ratio\n", "", meter->has_time ? "ns/op" : "",
	           meter->has_cycles ? "cycles/op" : "");
	text_print(host, "%39s  median minimum   median minimum   heap\n", "");
}

/* One decimal, as long as there is room for it. */
static void format_figure(char *out, size_t size, uint64_t milli)
{
	measure_decimal(out, size, milli, milli < 100000000 ? 1 : 0);
}

static void print_line(struct printer *printer, const struct bench_row *row, unsigned lane, bool is_first)
{
	const struct meter *meter = &printer->result->meter;
	const struct bench_cell *cell = &row->cells[lane];
	char ns[24] = "-", ns_minimum[24] = "-", cycles[24] = "-", cycles_minimum[24] = "-", to_heap[24] = "-";

	text_print(printer->host, "%-6s %-24s %-7s", is_first ? row->workload->name : "",
	           is_first ? row->workload->what : "", printer->result->lanes[lane]);
	if (cell->why_not != NULL) {
		text_print(printer->host, " %s\n", cell->why_not);
		return;
	}
	if (meter->has_time) {
		format_figure(ns, sizeof(ns), meter_milli_ns(meter, cell->median));
		format_figure(ns_minimum, sizeof(ns_minimum), meter_milli_ns(meter, cell->minimum));
	}
	if (meter->has_cycles) {
		format_figure(cycles, sizeof(cycles), cell->median);
		format_figure(cycles_minimum, sizeof(cycles_minimum), cell->minimum);
	}
	if (lane != BENCH_LANE_LOOP && ratio(row, lane) > 0)
		measure_decimal(to_heap, sizeof(to_heap), ratio(row, lane), 2);
	text_print(printer->host, "%8s%8s%9s%8s%7s\n", ns, ns_minimum, cycles, cycles_minimum, to_heap);
}

static void print_new_rows(void *ctx)
{
	struct printer *printer = ctx;
	const struct bench_result *result = printer->result;

	if (!printer->has_clock)
		meter_print(&result->meter, SUITE_TEXT);
	printer->has_clock = true;
	for (; printer->n_printed < result->n_rows; printer->n_printed++) {
		const struct bench_row *row = &result->rows[printer->n_printed];

		if (printer->section != row->workload->section) {
			printer->section = row->workload->section;
			text_print(printer->host, "\n%s\n", printer->section);
			print_columns(printer->host, &result->meter);
		}
		for (unsigned lane = 0; lane < result->n_lanes; lane++)
			print_line(printer, row, lane, lane == 0);
	}
}

/* ------------------------------------------------------------------------------------------------------------
 * JSON
 * --------------------------------------------------------------------------------------------------------- */

static void print_json_cell(struct host *host, const struct meter *meter, const char *engine,
                            const struct bench_cell *cell)
{
	char median[24], minimum[24];

	text_print(host, "{\"engine\": \"%s\", ", engine);
	if (cell->why_not != NULL) {
		text_print(host, "\"why_not\": \"%s\"}", cell->why_not);
		return;
	}
	measure_decimal(median, sizeof(median), cell->median, 3);
	measure_decimal(minimum, sizeof(minimum), cell->minimum, 3);
	text_print(host, "\"samples\": %u, \"median\": %s, \"minimum\": %s", cell->n_samples, median, minimum);
	if (meter->has_time) {
		measure_decimal(median, sizeof(median), meter_milli_ns(meter, cell->median), 3);
		measure_decimal(minimum, sizeof(minimum), meter_milli_ns(meter, cell->minimum), 3);
		text_print(host, ", \"median_ns\": %s, \"minimum_ns\": %s", median, minimum);
	}
	host->write(host, "}");
}

static void print_json(struct host *host, const struct bench_result *result)
{
	meter_print(&result->meter, SUITE_JSON);
	host->write(host, "  \"rows\": [");
	for (unsigned i = 0; i < result->n_rows; i++) {
		const struct workload *workload = result->rows[i].workload;

		text_print(
			host,
			"%s\n    {\"part\": \"%s\", \"name\": \"%s\", \"what\": \"%s\", \"size\": %zu, \"engines\": [",
			i > 0 ? "," : "", workload->section, workload->name, workload->what, workload->size_bytes);
		for (unsigned lane = 0; lane < result->n_lanes; lane++) {
			host->write(host, lane > 0 ? ",\n      " : "\n      ");
			print_json_cell(host, &result->meter, result->lanes[lane], &result->rows[i].cells[lane]);
		}
		host->write(host, "]}");
	}
	host->write(host, "\n  ],\n");
}

enum suite_outcome bench_command(struct host *host, const struct suite_options *options)
{
	static struct bench_result result;
	static struct printer printer;

	printer = (struct printer){ .host = host, .result = &result };
	measure_print_header(host, options, "bench");
	suite_bench(host, options, measure_print_observer(host, options, print_new_rows, &printer), &result);
	if (options->format == SUITE_JSON) {
		print_json(host, &result);
	} else if (result.outcome != SUITE_CANNOT_RUN) {
		print_new_rows(&printer);
		text_print(host, "\nMedian and minimum of many short batches, all engines in turn, without the\n"
		                 "timer's own part. `loop` is the loop around the calls, and is in each figure.\n");
	}
	return measure_print_end(host, options, "bench", result.outcome, result.failure);
}
