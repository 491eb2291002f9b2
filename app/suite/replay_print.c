/* SPDX-License-Identifier: MIT */
/*
 * The result of a replay for people, and as one JSON object on one line for machines.
 */
#include "measure.h"
#include "replay.h"
#include "text.h"

#define PICOSECONDS UINT64_C(1000000000000)

/* ticks * scale / rate / n; 0 when a part is missing. Ticks of passes are far below 2^54. */
uint64_t replay_picoseconds(const struct host *host, uint64_t ticks, uint64_t n)
{
	if (n == 0 || host->ticks_per_second == 0)
		return 0;
	/* In two steps, so that a long run does not overflow. */
	uint64_t seconds = ticks / host->ticks_per_second, rest = ticks % host->ticks_per_second;
	return (seconds * PICOSECONDS + rest * 1000000 / host->ticks_per_second * 1000000) / n;
}

static uint64_t microseconds(const struct host *host, uint64_t ticks)
{
	return ticks / host->ticks_per_second * 1000000 +
	       ticks % host->ticks_per_second * 1000000 / host->ticks_per_second;
}

static uint64_t operations_per_second(const struct host *host, const struct replay_result *result)
{
	uint64_t us = microseconds(host, result->ticks);
	return us > 0 ? result->n_operations * 1000000 / us : 0;
}

uint64_t replay_footprint_permille(const struct replay_result *result)
{
	return result->peak_rounded_bytes > 0 ? result->peak_footprint_bytes * 1000 / result->peak_rounded_bytes : 0;
}

static void print_string(struct host *host, const char *key, const char *text)
{
	text_print(host, "\"%s\": ", key);
	measure_print_string(host, text);
	host->write(host, ", ");
}

static void print_number(struct host *host, const char *key, uint64_t number)
{
	text_print(host, "\"%s\": %llu, ", key, (unsigned long long)number);
}

/* Numbers that are not known are null. */
static void print_known(struct host *host, const char *key, uint64_t number, bool is_known)
{
	if (is_known)
		print_number(host, key, number);
	else
		text_print(host, "\"%s\": null, ", key);
}

static void print_json(struct host *host, const struct suite_options *options, const struct replay_result *result)
{
	bool has_footprint = replay_footprint_permille(result) > 0, has_time = result->n_rounds > 0;

	host->write(host, "{");
	print_string(host, "trace", options->file);
	print_string(host, "program", result->program);
	print_string(host, "engine", options->engine);
	print_string(host, "build", kmalloc_build());
	print_string(host, "failure", result->failure);
	print_number(host, "events", result->counts.n_events);
	print_number(host, "operations", result->n_operations);
	print_number(host, "objects", result->counts.n_objects);
	print_number(host, "resizes", result->n_resizes);
	print_number(host, "frees", result->n_frees);
	print_number(host, "left_out", result->counts.n_left_out);
	print_number(host, "too_large", result->n_too_large);
	print_number(host, "threads", result->counts.n_threads);
	print_number(host, "peak_live_objects", result->counts.n_slots);
	print_number(host, "peak_live_bytes", result->peak_live_bytes);
	print_number(host, "peak_rounded_bytes", result->peak_rounded_bytes);
	print_known(host, "peak_footprint_bytes", result->peak_footprint_bytes, has_footprint);
	print_known(host, "footprint_permille", replay_footprint_permille(result), has_footprint);
	print_number(host, "verified_bytes", result->verified_bytes);
	print_known(host, "time_us", microseconds(host, result->ticks), has_time);
	print_known(host, "picoseconds_per_operation", replay_picoseconds(host, result->ticks, result->n_operations),
	            has_time);
	print_known(host, "reading_picoseconds_per_operation",
	            replay_picoseconds(host, result->reading_ticks, result->n_operations), has_time);
	print_number(host, "rounds", result->n_rounds);
	print_number(host, "parallel_threads", result->n_parallel);
	print_known(host, "parallel_us", microseconds(host, result->parallel_ticks), result->n_parallel > 0);
	print_known(host, "parallel_footprint_bytes", result->parallel_footprint_bytes,
	            result->parallel_footprint_bytes > 0);
	text_print(host, "\"outcome\": \"%s\"}\n", suite_verdict(result->outcome));
}

static void print_trace(struct host *host, const struct replay_result *result)
{
	const struct trace_counts *counts = &result->counts;
	char live[16], rounded[16];

	text_print(host, "Trace        %s: %'llu objects made, %'llu resized, %'llu freed; %'llu thread%s\n",
	           result->program, (unsigned long long)counts->n_objects, (unsigned long long)result->n_resizes,
	           (unsigned long long)result->n_frees, (unsigned long long)counts->n_threads,
	           counts->n_threads == 1 ? "" : "s");
	text_print(
		host, "Peak live    %s asked for, %s with each object rounded up to 16 bytes; %'llu objects at once\n",
		text_bytes(live, sizeof(live), result->peak_live_bytes),
		text_bytes(rounded, sizeof(rounded), result->peak_rounded_bytes), (unsigned long long)counts->n_slots);
}

static void print_footprint(struct host *host, const struct replay_result *result)
{
	uint64_t permille = replay_footprint_permille(result);
	char footprint[16];

	if (permille > 0)
		text_print(host, "Footprint    peak %s, %llu.%03llu times the rounded peak\n",
		           text_bytes(footprint, sizeof(footprint), result->peak_footprint_bytes),
		           (unsigned long long)(permille / 1000), (unsigned long long)(permille % 1000));
	else
		text_print(host, "Footprint    %s\n",
		           result->is_fixed_area ? "the engine holds all of its -heap from the start"
		                                 : "the engine does not tell");
}

static void print_time(struct host *host, const struct replay_result *result)
{
	uint64_t each = replay_picoseconds(host, result->ticks, result->n_operations) / 100;
	uint64_t reading = replay_picoseconds(host, result->reading_ticks, result->n_operations) / 100;

	text_print(host,
	           "Time         %'llu us, %llu.%llu ns per operation (%llu.%llu of them to read the trace), %'llu "
	           "operations "
	           "per second; the quickest of %u rounds\n",
	           (unsigned long long)microseconds(host, result->ticks), (unsigned long long)(each / 10),
	           (unsigned long long)(each % 10), (unsigned long long)(reading / 10),
	           (unsigned long long)(reading % 10), (unsigned long long)operations_per_second(host, result),
	           result->n_rounds);
}

static void print_threads(struct host *host, const struct replay_result *result)
{
	char footprint[16];

	if (result->n_parallel == 0)
		return;
	text_print(host, "Threads      %u at once, verifying: %'llu us", result->n_parallel,
	           (unsigned long long)microseconds(host, result->parallel_ticks));
	if (result->parallel_footprint_bytes > 0)
		text_print(host, ", footprint peak %s",
		           text_bytes(footprint, sizeof(footprint), result->parallel_footprint_bytes));
	text_print(host, "\n");
}

static void print_text(struct host *host, const struct suite_options *options, const struct replay_result *result)
{
	char verified[16];

	if (result->n_operations > 0)
		print_trace(host, result);
	if (result->outcome == SUITE_PASSED) {
		print_footprint(host, result);
		print_threads(host, result);
		print_time(host, result);
	}
	if (result->n_too_large > 0)
		text_print(host, "Left out     %'llu objects that are too large for this engine\n",
		           (unsigned long long)result->n_too_large);
	if (result->outcome == SUITE_PASSED)
		text_print(host, "PASS  replay: engine %s, %'llu operations, %s verified\n", options->engine,
		           (unsigned long long)result->n_operations,
		           text_bytes(verified, sizeof(verified), result->verified_bytes));
	else
		text_print(host, "%s  replay: %s\n", suite_verdict(result->outcome), result->failure);
}

void replay_print(struct host *host, const struct suite_options *options, const struct replay_result *result)
{
	if (options->format == SUITE_JSON)
		print_json(host, options, result);
	else
		print_text(host, options, result);
}
