/* SPDX-License-Identifier: MIT */
/*
 * Runs as sequential text: lines for people, or TAP 13 for machines. Writes through the host only, never moves a
 * cursor, so that a redirected file or a serial log reads well.
 */
#include "measure.h"
#include "replay.h"
#include "suite.h"
#include "text.h"

#define PROGRESS_LINE_MS 10000
/* Nobody there to answer: noise on a serial line must not stop a run, nor hold it up for long. */
#define ANSWER_MS 15000

#ifndef KMALLOC_BUILD_ID
#define KMALLOC_BUILD_ID ""
#endif

struct printer {
	struct host *host;
	enum suite_format format;
	const char *group; /* whose heading was printed */
	bool has_plan;
	uint64_t next_line_ms;
};

/* ------------------------------------------------------------------------------------------------------------
 * The observer
 * --------------------------------------------------------------------------------------------------------- */

/* Esc, and Esc or y again. On a serial line function keys begin with Esc, so one alone may be an accident. */
enum suite_control suite_poll_stop(struct host *host, enum suite_format format)
{
	int key = host->read_key(host, 0);
	uint32_t waited = 0;

	if (key != HOST_KEY_ESC)
		return SUITE_GO_ON;
	if (format == SUITE_JSON)
		return SUITE_STOP;
	text_print(host, "%sEsc again (or y) stops, any other key goes on.\n", format == SUITE_TAP ? "# " : "");
	/* In steps, because the watchdog must hear of us while we wait. */
	do {
		host->alive(host, false);
		key = host->read_key(host, 1000);
		waited += 1000;
	} while (key == HOST_KEY_NONE && waited < ANSWER_MS);
	return key == HOST_KEY_ESC || key == 'y' || key == 'Y' ? SUITE_STOP : SUITE_GO_ON;
}

static enum suite_control poll_keys(struct printer *printer)
{
	return suite_poll_stop(printer->host, printer->format);
}

static enum suite_control print_case_start(void *ctx, const struct case_report *report)
{
	struct printer *printer = ctx;

	if (poll_keys(printer) == SUITE_STOP)
		return SUITE_STOP;
	if (printer->format == SUITE_TAP) {
		if (!printer->has_plan)
			text_print(printer->host, "1..%u\n", report->n_cases);
		printer->has_plan = true;
		return SUITE_GO_ON;
	}
	if (printer->group != report->group)
		text_print(printer->host, "%s\n", report->group);
	printer->group = report->group;
	/* Without an end of line yet: what hangs can be seen. */
	text_print(printer->host, "  %s ... ", report->name);
	return SUITE_GO_ON;
}

static void print_tap(struct host *host, const struct case_report *report)
{
	bool failed = report->state == CASE_FAILED;

	text_print(host, "%s %u - %s: %s", failed ? "not ok" : "ok", report->index, report->group, report->name);
	if (report->state == CASE_SKIPPED)
		text_print(host, " # SKIP %s\n", report->detail);
	else
		text_print(host, "\n");
	if (failed)
		text_print(host, "  ---\n  message: \"%s\"\n  ...\n", report->detail);
	else if (report->state == CASE_PASSED && report->detail[0] != '\0')
		text_print(host, "# %s\n", report->detail);
}

static void print_case_end(void *ctx, const struct case_report *report)
{
	struct printer *printer = ctx;

	if (printer->format == SUITE_TAP)
		print_tap(printer->host, report);
	else if (report->state == CASE_FAILED)
		text_print(printer->host, "FAIL\n      %s\n", report->detail);
	else if (report->state == CASE_SKIPPED)
		text_print(printer->host, "skip (%s)\n", report->detail);
	else if (report->detail[0] != '\0')
		text_print(printer->host, "ok (%s)\n", report->detail);
	else
		text_print(printer->host, "ok\n");
}

static void print_progress(struct printer *printer, const struct stress_progress *p)
{
	char live[16], footprint[16], verified[16];

	text_print(printer->host,
	           "%s%4llu s  %'llu operations, %'llu per second; live %s in %'llu blocks, footprint %s, "
	           "fill level %u %%; verified %s; refused %'llu; checked %'llu times; failures %llu\n",
	           printer->format == SUITE_TAP ? "# " : "", (unsigned long long)(p->elapsed_ms / 1000),
	           (unsigned long long)p->operations, (unsigned long long)p->operations_per_second,
	           text_bytes(live, sizeof(live), p->live_bytes), (unsigned long long)p->live_objects,
	           text_bytes(footprint, sizeof(footprint), p->footprint_bytes), p->fill_percent,
	           text_bytes(verified, sizeof(verified), p->verified_bytes), (unsigned long long)p->refused,
	           (unsigned long long)p->checks, (unsigned long long)p->failures);
}

static enum suite_control print_stress(void *ctx, const struct stress_progress *progress)
{
	struct printer *printer = ctx;

	if (progress->elapsed_ms >= printer->next_line_ms) {
		print_progress(printer, progress);
		printer->next_line_ms =
			progress->elapsed_ms - progress->elapsed_ms % PROGRESS_LINE_MS + PROGRESS_LINE_MS;
	}
	return poll_keys(printer);
}

struct observer *suite_print_observer(struct host *host, const struct suite_options *options)
{
	static struct printer printer;
	static struct observer observer;

	printer = (struct printer){ .host = host, .format = options->format, .next_line_ms = PROGRESS_LINE_MS };
	observer = (struct observer){
		.ctx = &printer,
		.case_start = print_case_start,
		.case_end = print_case_end,
		.stress = print_stress,
	};
	return &observer;
}

/* ------------------------------------------------------------------------------------------------------------
 * The commands
 * --------------------------------------------------------------------------------------------------------- */

const char *suite_verdict(enum suite_outcome outcome)
{
	switch (outcome) {
	case SUITE_PASSED:
		return "PASS";
	case SUITE_FAILED:
		return "FAIL";
	case SUITE_STOPPED:
		return "STOP";
	default:
		return "CANNOT RUN";
	}
}

static void print_header(struct host *host, const struct suite_options *options, const char *what)
{
	if (options->format == SUITE_TAP)
		text_print(host, "TAP version 13\n# ");
	text_print(host, "kmalloc %s (%s) %s on %s %s\n", KMALLOC_VERSION, kmalloc_build(), what, host->platform,
	           host->architecture);
}

static enum suite_outcome run_selftest(struct host *host, const struct suite_options *options)
{
	struct selftest_result result;
	const char *comment = options->format == SUITE_TAP ? "# " : "";

	print_header(host, options, "selftest");
	suite_selftest(host, options, suite_print_observer(host, options), &result);
	if (result.outcome == SUITE_CANNOT_RUN) {
		text_print(host, options->format == SUITE_TAP ? "Bail out! %s\n" : "CANNOT RUN  selftest: %s\n",
		           result.first_failure);
		return result.outcome;
	}
	if (result.outcome == SUITE_STOPPED && options->format == SUITE_TAP)
		text_print(host, "Bail out! stopped by the user\n");
	if (result.n_failed > 0)
		text_print(host, "%sThe first failure: %s\n", comment, result.first_failure);
	text_print(host, "%s%s  selftest: %u passed, %u failed, %u skipped\n", comment, suite_verdict(result.outcome),
	           result.n_passed, result.n_failed, result.n_skipped);
	return result.outcome;
}

static void print_stress_tap(struct host *host, const struct stress_result *result)
{
	bool failed = result->outcome == SUITE_FAILED;

	if (result->outcome == SUITE_STOPPED)
		text_print(host, "Bail out! stopped by the user\n");
	if (result->outcome == SUITE_CANNOT_RUN)
		text_print(host, "Bail out! %s\n", result->failure);
	if (result->outcome == SUITE_PASSED || failed)
		text_print(host, "1..1\n%s 1 - stress: %s, seed %llu\n", failed ? "not ok" : "ok", result->last.engine,
		           (unsigned long long)result->last.seed);
	if (failed)
		text_print(host, "  ---\n  message: \"%s\"\n  repeat: \"%s\"\n  ...\n", result->failure,
		           result->repeat);
}

static enum suite_outcome run_stress(struct host *host, const struct suite_options *options)
{
	const char *comment = options->format == SUITE_TAP ? "# " : "";
	struct stress_result result;
	struct observer *observer;

	print_header(host, options, "stress");
	observer = suite_print_observer(host, options);
	suite_stress(host, options, observer, &result);
	if (result.outcome != SUITE_CANNOT_RUN)
		print_progress(observer->ctx, &result.last);
	if (options->format == SUITE_TAP)
		print_stress_tap(host, &result);
	if (result.outcome == SUITE_CANNOT_RUN) {
		text_print(host, "%sCANNOT RUN  stress: %s\n", comment, result.failure);
		return result.outcome;
	}
	if (result.outcome == SUITE_FAILED)
		text_print(host, "%s%s\n%sTo repeat it: %s\n", comment, result.failure, comment, result.repeat);
	text_print(host,
	           "%s%s  stress: engine %s, seed %llu, %'llu operations in %llu s, %'llu refused, %llu failures\n",
	           comment, suite_verdict(result.outcome), result.last.engine, (unsigned long long)result.last.seed,
	           (unsigned long long)result.last.operations, (unsigned long long)(result.last.elapsed_ms / 1000),
	           (unsigned long long)result.last.refused, (unsigned long long)result.last.failures);
	suite_stress_release();
	return result.outcome;
}

static enum suite_control poll_replay(void *ctx)
{
	return poll_keys(ctx);
}

static enum suite_outcome run_replay(struct host *host, const struct suite_options *options)
{
	struct printer printer = { .host = host, .format = options->format };
	struct replay_result result;

	if (options->format != SUITE_JSON)
		print_header(host, options, "replay");
	/* A question on the screen is no JSON, so there a run is not stopped by keys. */
	suite_replay_file(host, options, options->format != SUITE_JSON ? poll_replay : NULL, &printer, &result);
	replay_print(host, options, &result);
	return result.outcome;
}

/* ------------------------------------------------------------------------------------------------------------
 * info
 * --------------------------------------------------------------------------------------------------------- */

#define MAP_TYPES_MAX 24

/* The memory map, by type. */
struct map_summary {
	unsigned n_types;
	struct {
		const char *type;
		uint64_t bytes, largest_bytes;
		unsigned n_ranges;
	} types[MAP_TYPES_MAX];
};

static void summarize(struct map_summary *summary, const struct host_memory_range *range)
{
	unsigned i = 0;

	while (i < summary->n_types && text_compare(summary->types[i].type, range->type) != 0)
		i++;
	if (i == MAP_TYPES_MAX)
		return;
	if (i == summary->n_types) {
		summary->n_types++;
		summary->types[i].type = range->type;
		summary->types[i].bytes = summary->types[i].largest_bytes = 0;
		summary->types[i].n_ranges = 0;
	}
	summary->types[i].bytes += range->size_bytes;
	summary->types[i].n_ranges++;
	if (range->size_bytes > summary->types[i].largest_bytes)
		summary->types[i].largest_bytes = range->size_bytes;
}

static void print_map(struct host *host)
{
	/* Taking pages may split a range. */
	size_t n = host->memory_map(host, NULL, 0) + 8, seen;
	struct host_memory_range *ranges;
	struct kpage_chunk chunk;
	struct map_summary summary = { 0 };
	char size[16], largest[16];

	ranges = measure_get_pages(host, n * sizeof(*ranges), &chunk);
	if (ranges == NULL) {
		text_print(host, "Memory map     no pages to read it into\n");
		return;
	}
	seen = host->memory_map(host, ranges, n);
	for (size_t i = 0; i < seen && i < n; i++)
		summarize(&summary, &ranges[i]);
	text_print(host, "Memory map     %zu ranges\n", seen);
	for (unsigned i = 0; i < summary.n_types; i++)
		text_print(host, "  %-26s %10s in %4u ranges, largest %s\n", summary.types[i].type,
		           text_bytes(size, sizeof(size), summary.types[i].bytes), summary.types[i].n_ranges,
		           text_bytes(largest, sizeof(largest), summary.types[i].largest_bytes));
	host->pages.put(host->pages.ctx, &chunk);
}

static void print_info(struct host *host)
{
	struct allocator *const *engines = suite_engines(host);
	struct host_memory memory = { 0, 0, 0 };
	char total[16], available[16], largest[16], limit[16];

	host->memory(host, &memory);
	text_print(host, "kmalloc        %s, %s build%s%s\n", KMALLOC_VERSION, kmalloc_build(),
	           KMALLOC_BUILD_ID[0] != '\0' ? ", " : "", KMALLOC_BUILD_ID);
	text_print(host, "Platform       %s, %s\n", host->platform, host->architecture);
	text_print(host, "Firmware       %s%s%s\n", host->firmware, host->specification[0] != '\0' ? ", " : "",
	           host->specification);
	text_print(host, "CPU            %s, %u processor%s%s\n", host->cpu, host->n_cpus, host->n_cpus == 1 ? "" : "s",
	           host->is_virtual_machine ? ", virtual machine" : "");
	text_print(host, "Clock          %s\n", host->clock);
	text_print(host, "Memory         %s in all, %s free, largest free range %s\n",
	           text_bytes(total, sizeof(total), memory.total_bytes),
	           text_bytes(available, sizeof(available), memory.free_bytes),
	           text_bytes(largest, sizeof(largest), memory.largest_free_bytes));
	text_print(host, "Heap limit     %s\n", text_bytes(limit, sizeof(limit), host->heap_limit(host)));
	print_map(host);
	for (size_t i = 0; engines[i] != NULL; i++)
		text_print(host, "%-15s%-8s %s\n", i == 0 ? "Engines" : "", engines[i]->name, engines[i]->description);
}

enum suite_outcome suite_run(struct host *host, const struct suite_options *options)
{
	switch (options->command) {
	case SUITE_SELFTEST:
		return run_selftest(host, options);
	case SUITE_STRESS:
		return run_stress(host, options);
	case SUITE_REPLAY:
		return run_replay(host, options);
	case SUITE_BENCH:
		return bench_command(host, options);
	case SUITE_LATENCY:
		return latency_command(host, options);
	case SUITE_FRAG:
		return frag_command(host, options);
	case SUITE_SCALE:
		return scale_command(host, options);
	case SUITE_INFO:
		print_info(host);
		return SUITE_PASSED;
	case SUITE_VERSION:
		text_print(host, "kmalloc %s (%s)\n", KMALLOC_VERSION, kmalloc_build());
		return SUITE_PASSED;
	default:
		text_print(host, "%s\n", suite_usage);
		return SUITE_PASSED;
	}
}
