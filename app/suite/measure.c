/* SPDX-License-Identifier: MIT */
/*
 * What the measuring commands share. Must never print between meter_quiet_begin() and meter_quiet_end(): on firmware
 * that would be timed, and console output there is not allowed at that level.
 */
#include "measure.h"

#include "text.h"

#define EMPTY_READINGS 255
#define TELLS_PER_SECOND 10

/* ------------------------------------------------------------------------------------------------------------
 * The clock
 * --------------------------------------------------------------------------------------------------------- */

static void measure_empty(struct meter *meter)
{
	static uint64_t readings[EMPTY_READINGS];

	meter_quiet_begin(meter);
	for (unsigned i = 0; i < EMPTY_READINGS; i++) {
		uint64_t begin = meter->now(meter->host);

		readings[i] = meter->now(meter->host) - begin;
	}
	meter_quiet_end(meter);
	measure_sort(readings, EMPTY_READINGS);
	meter->empty_median = readings[EMPTY_READINGS / 2];
	meter->empty_minimum = readings[0];
}

void meter_begin(struct meter *meter, struct host *host)
{
	*meter = (struct meter){ .host = host, .now = host->ticks, .rate = host->ticks_per_second, .has_time = true };
	if (host->cycles != NULL && host->cycles_per_second > 0) {
		meter->now = host->cycles;
		meter->rate = host->cycles_per_second;
		meter->has_cycles = true;
		meter->has_time = host->is_rate_steady;
	}
	measure_empty(meter);
}

uint64_t meter_milli_ns(const struct meter *meter, uint64_t milli_units)
{
	const uint64_t ns = 1000000000;

	/* Anything longer than a day of units would overflow; the rate is below 2^34. */
	return milli_units / meter->rate * ns + milli_units % meter->rate * ns / meter->rate;
}

void meter_quiet_begin(const struct meter *meter)
{
	if (meter->host->quiet_begin != NULL)
		meter->host->quiet_begin(meter->host);
}

void meter_quiet_end(const struct meter *meter)
{
	if (meter->host->quiet_end != NULL)
		meter->host->quiet_end(meter->host);
}

static void print_clock_json(const struct meter *meter)
{
	struct host *host = meter->host;

	text_print(host, "  \"clock\": {\"unit\": \"%s\", \"per_second\": %llu, \"is_steady\": %s, \"calibration\": ",
	           meter->has_cycles ? "cycle" : "tick", (unsigned long long)meter->rate,
	           meter->has_time ? "true" : "false");
	measure_print_string(host, host->calibration);
	text_print(host, ", \"empty_median\": %llu, \"empty_minimum\": %llu},\n  \"is_virtual_machine\": %s,\n",
	           (unsigned long long)meter->empty_median, (unsigned long long)meter->empty_minimum,
	           host->is_virtual_machine ? "true" : "false");
}

void meter_print(const struct meter *meter, enum suite_format format)
{
	struct host *host = meter->host;
	unsigned long khz = (unsigned long)(meter->rate / 1000);
	char ns[24];

	if (format == SUITE_JSON) {
		print_clock_json(meter);
		return;
	}
	if (meter->has_cycles)
		text_print(host, "Clock    TSC %lu.%03lu MHz, %s\n", khz / 1000, khz % 1000, host->calibration);
	else
		text_print(host, "Clock    %s; the processor has no counter for programs\n", host->clock);
	measure_decimal(ns, sizeof(ns), meter_milli_ns(meter, meter->empty_median * 1000), 1);
	text_print(host, "Timer    an empty reading takes %llu %s%s%s%s (median), at least %llu\n",
	           (unsigned long long)meter->empty_median, meter->has_cycles ? "cycles" : "ticks",
	           meter->has_time ? ", " : "", meter->has_time ? ns : "", meter->has_time ? " ns" : "",
	           (unsigned long long)meter->empty_minimum);
	if (!meter->has_time)
		text_print(host, "         The counter's rate is not constant: cycles are given, and no times.\n");
	if (host->is_virtual_machine)
		text_print(host, "         This is a virtual machine: its times are not comparable with those of\n"
		                 "         a PC, nor of another run.\n");
}

/* ------------------------------------------------------------------------------------------------------------
 * Engines
 * --------------------------------------------------------------------------------------------------------- */

struct calls calls_of(struct allocator *engine)
{
	const struct allocator_bare *bare = engine->bare;

	if (bare != NULL)
		return (struct calls){ engine, bare->alloc, bare->free, bare->realloc };
	return (struct calls){ engine, engine->alloc, engine->free, engine->realloc };
}

void *measure_get_pages(struct host *host, size_t size_bytes, struct kpage_chunk *chunk)
{
	size_t n_pages = (size_bytes + KMALLOC_PAGE_SIZE - 1) / KMALLOC_PAGE_SIZE;
	struct kpage_request request = { .min_pages = n_pages, .want_pages = n_pages, .max_address = UINTPTR_MAX };

	if (!host->pages.get(host->pages.ctx, &request, chunk))
		return NULL;
	__builtin_memset((void *)chunk->base, 0, size_bytes);
	return (void *)chunk->base;
}

bool measure_start(struct host *host, struct allocator *engine, size_t wish_bytes, const char **why)
{
	uint64_t limit = host->heap_limit(host) / 3;

	*why = "";
	if (engine->start == NULL) {
		engine->is_started = true;
		return true;
	}
	if (wish_bytes > limit)
		wish_bytes = (size_t)limit;
	wish_bytes &= ~(KMALLOC_PAGE_SIZE - 1);
	return engine->start(engine, host, wish_bytes, why);
}

/* ------------------------------------------------------------------------------------------------------------
 * Progress
 * --------------------------------------------------------------------------------------------------------- */

void pacer_begin(struct pacer *pacer, struct host *host, struct measure_observer *observer)
{
	*pacer = (struct pacer){ .host = host, .observer = observer };
	pacer->began = pacer->last = host->ticks(host);
	host->alive(host, false);
}

bool pacer_stop(struct pacer *pacer, unsigned permille, const char *what)
{
	struct host *host = pacer->host;
	uint64_t now = host->ticks(host);

	host->alive(host, false);
	if (now - pacer->last < host->ticks_per_second / TELLS_PER_SECOND)
		return pacer->is_stopped;
	if (pacer->observer->progress(pacer->observer->ctx, permille, what) == SUITE_STOP)
		pacer->is_stopped = true;
	pacer->last = host->ticks(host);
	/* What a question took is not the run's. */
	pacer->began += pacer->last - now;
	return pacer->is_stopped;
}

uint64_t pacer_milliseconds(const struct pacer *pacer)
{
	uint64_t ticks = pacer->host->ticks(pacer->host) - pacer->began, rate = pacer->host->ticks_per_second;

	return ticks / rate * 1000 + ticks % rate * 1000 / rate;
}

struct print_context {
	struct host *host;
	enum suite_format format;
	void (*print_new)(void *ctx);
	void *ctx;
};

static enum suite_control print_progress(void *ctx, unsigned permille, const char *what)
{
	struct print_context *context = ctx;

	(void)permille;
	(void)what;
	if (context->print_new != NULL && context->format != SUITE_JSON)
		context->print_new(context->ctx);
	return suite_poll_stop(context->host, context->format);
}

struct measure_observer *measure_print_observer(struct host *host, const struct suite_options *options,
                                                void (*print_new)(void *ctx), void *ctx)
{
	static struct print_context context;
	static struct measure_observer observer;

	context = (struct print_context){ host, options->format, print_new, ctx };
	observer = (struct measure_observer){ &context, print_progress };
	return &observer;
}

/* ------------------------------------------------------------------------------------------------------------
 * Figures and text
 * --------------------------------------------------------------------------------------------------------- */

/* Shell sort: few values, no recursion. */
void measure_sort(uint64_t *values, size_t n)
{
	size_t gap = 1;

	while (gap < n / 3)
		gap = gap * 3 + 1;
	for (; gap > 0; gap /= 3) {
		for (size_t i = gap; i < n; i++) {
			uint64_t value = values[i];
			size_t j = i;

			for (; j >= gap && values[j - gap] > value; j -= gap)
				values[j] = values[j - gap];
			values[j] = value;
		}
	}
}

char *measure_decimal(char *out, size_t size, uint64_t milli, unsigned decimals)
{
	static const uint64_t units[] = { 1000, 100, 10, 1 };
	uint64_t unit = units[decimals], rounded = (milli + unit / 2) / unit, scale = 1000 / unit;

	if (decimals == 0)
		text_format(out, size, "%llu", (unsigned long long)rounded);
	else
		text_format(out, size, "%llu.%0*llu", (unsigned long long)(rounded / scale), (int)decimals,
		            (unsigned long long)(rounded % scale));
	return out;
}

uint64_t measure_permille(uint64_t part, uint64_t whole)
{
	if (whole == 0)
		return 0;
	return part / whole * 1000 + part % whole * 1000 / whole;
}

/* What needs it is escaped. */
void measure_print_string(struct host *host, const char *text)
{
	host->write(host, "\"");
	for (; *text != '\0'; text++) {
		unsigned char c = (unsigned char)*text;

		if (c < ' ' || c > '~')
			text_print(host, "\\u%04x", c);
		else
			text_print(host, c == '"' || c == '\\' ? "\\%c" : "%c", c);
	}
	host->write(host, "\"");
}

void measure_print_header(struct host *host, const struct suite_options *options, const char *command)
{
	if (options->format != SUITE_JSON) {
		text_print(host, "kmalloc %s (%s) %s on %s %s, %s\n", KMALLOC_VERSION, kmalloc_build(), command,
		           host->platform, host->architecture, host->cpu);
		return;
	}
	text_print(host,
	           "{\n  \"program\": \"kmalloc\", \"version\": \"%s\", \"build\": \"%s\", \"command\": \"%s\",\n",
	           KMALLOC_VERSION, kmalloc_build(), command);
	text_print(host, "  \"platform\": \"%s\", \"architecture\": \"%s\", \"cpu\": ", host->platform,
	           host->architecture);
	measure_print_string(host, host->cpu);
	host->write(host, ",\n");
}

enum suite_outcome measure_print_end(struct host *host, const struct suite_options *options, const char *command,
                                     enum suite_outcome outcome, const char *why)
{
	if (options->format == SUITE_JSON) {
		text_print(host, "  \"outcome\": \"%s\", \"why\": ", suite_verdict(outcome));
		measure_print_string(host, why);
		host->write(host, "\n}\n");
	} else {
		text_print(host, "%s  %s%s%s\n", suite_verdict(outcome), command, why[0] != '\0' ? ": " : "", why);
	}
	return outcome;
}

enum suite_outcome measure_command(struct host *host, const struct suite_options *options, const char *command,
                                   size_t table_bytes, measure_engine *measure)
{
	struct allocator *engine = suite_engine(host, options->engine);
	enum suite_outcome outcome = SUITE_CANNOT_RUN;
	struct kpage_chunk chunk;
	const char *why = "";
	void *table;

	measure_print_header(host, options, command);
	if (engine == NULL) {
		why = "There is no such engine; `kmalloc info` lists them.";
	} else if ((table = measure_get_pages(host, table_bytes, &chunk)) == NULL) {
		why = "The host has no pages for the tables of this measurement.";
	} else {
		outcome = measure(host, options, engine, table, &why);
		host->pages.put(host->pages.ctx, &chunk);
	}
	return measure_print_end(host, options, command, outcome, why);
}
