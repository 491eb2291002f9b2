/* SPDX-License-Identifier: MIT */
/*
 * Fragmentation, made visible: a heap is filled, churned, made to change its sizes twice, and drained, and at each
 * moment what it holds is set beside what is live. Then Robson's adversary plays against the heap's page runs; its
 * result is known before the run, so it tests placement and accounting.
 */
#include "measure.h"
#include "robson.h"
#include "text.h"

#define MAX_SLOTS 65536
#define MAX_LIVE ((size_t)16 << 20)
#define MIN_LIVE ((size_t)1 << 20)
/* What an engine may hold: room for it to fragment. */
#define BUDGET_FACTOR 3
#define COLUMNS_PER_PHASE 13
#define N_COLUMNS (N_PHASES * COLUMNS_PER_PHASE)
#define PLOT_ROWS 15
#define LEAST_SMALL 16
#define OCTAVES_SMALL 8 /* to 4095 B */
#define LEAST_LARGE 4096
#define OCTAVES_LARGE 4 /* to 64 KiB */

enum phase { FILL, CHURN, ENLARGE, SHRINK, DRAIN, N_PHASES };

static const char *const phases[N_PHASES] = { "fill with 16 B to 4 KiB", "replace at random",
	                                      "change to 4 KiB to 64 KiB", "change back", "free at random" };

struct slot {
	void *object;
	size_t size_bytes;
};

struct sample {
	size_t live_bytes, footprint_bytes;
};

#define MAX_DOUBLINGS 8
#define ROBSON_PAGES ((size_t)512)

struct robson_score {
	unsigned n_doublings;
	size_t used, least, most; /* pages */
	bool has_room;
};

struct frag {
	struct host *host;
	struct allocator *engine;
	struct pacer pacer;
	uint64_t random;
	size_t live_bytes, target_bytes;
	size_t turned_over; /* bytes allocated in this phase */
	unsigned n_slots, n_columns;
	uint64_t free_before; /* of the machine, where the engine cannot say what it holds */
	bool is_refused;
	struct sample samples[N_COLUMNS];
	size_t peak_live, peak_footprint;
	struct robson_score scores[MAX_DOUBLINGS / 2];
	unsigned n_scores;
	struct robson_block blocks[ROBSON_PAGES];
	struct slot slots[MAX_SLOTS];
};

/* ------------------------------------------------------------------------------------------------------------
 * The work
 * --------------------------------------------------------------------------------------------------------- */

static void add(struct frag *frag, unsigned octaves, size_t least)
{
	size_t size_bytes = measure_size(&frag->random, octaves, least);
	void *object = frag->n_slots < MAX_SLOTS ? frag->engine->alloc(frag->engine, size_bytes) : NULL;

	if (object == NULL) {
		frag->is_refused = true;
		return;
	}
	*(volatile char *)object = 1;
	frag->slots[frag->n_slots++] = (struct slot){ object, size_bytes };
	frag->live_bytes += size_bytes;
	frag->turned_over += size_bytes;
	if (frag->live_bytes > frag->peak_live)
		frag->peak_live = frag->live_bytes;
}

static void drop(struct frag *frag, unsigned i)
{
	frag->engine->free(frag->engine, frag->slots[i].object);
	frag->live_bytes -= frag->slots[i].size_bytes;
	frag->slots[i] = frag->slots[--frag->n_slots];
}

/* Free at random down to so many bytes; in the middle of a change those of the size that goes away. */
static void make_room(struct frag *frag, size_t down_to, bool only_small, bool only_large)
{
	while (frag->live_bytes > down_to && frag->n_slots > 0) {
		unsigned i = (unsigned)(measure_random(&frag->random) % frag->n_slots), tries = 0;

		for (; tries < 64 && ((only_small && frag->slots[i].size_bytes >= LEAST_LARGE) ||
		                      (only_large && frag->slots[i].size_bytes < LEAST_LARGE));
		     tries++)
			i = (unsigned)(measure_random(&frag->random) % frag->n_slots);
		drop(frag, i);
	}
}

static size_t footprint(struct frag *frag)
{
	struct allocator_stats stats = { 0, 0 };
	struct host_memory memory = { 0, 0, 0 };

	frag->engine->stats(frag->engine, &stats);
	if (stats.footprint_bytes != 0 || frag->free_before == 0)
		return stats.footprint_bytes;
	frag->host->memory(frag->host, &memory);
	return frag->free_before > memory.free_bytes ? (size_t)(frag->free_before - memory.free_bytes) : 0;
}

static void take_sample(struct frag *frag)
{
	struct sample *sample = &frag->samples[frag->n_columns++];

	*sample = (struct sample){ frag->live_bytes, footprint(frag) };
	if (sample->footprint_bytes > frag->peak_footprint)
		frag->peak_footprint = sample->footprint_bytes;
}

/* Up to part / COLUMNS_PER_PHASE of a phase. */
static void work(struct frag *frag, enum phase phase, unsigned part)
{
	size_t share = frag->target_bytes / COLUMNS_PER_PHASE * part;

	if (phase == DRAIN) {
		make_room(frag, part < COLUMNS_PER_PHASE ? frag->target_bytes - share : 0, false, false);
		return;
	}
	while (frag->turned_over < share && !frag->is_refused) {
		if (phase != FILL)
			make_room(frag,
			          frag->target_bytes - (phase == ENLARGE ? LEAST_LARGE << OCTAVES_LARGE : LEAST_LARGE),
			          phase == ENLARGE, phase == SHRINK);
		if (phase == ENLARGE)
			add(frag, OCTAVES_LARGE, LEAST_LARGE);
		else
			add(frag, OCTAVES_SMALL, LEAST_SMALL);
	}
}

static bool run_phases(struct frag *frag)
{
	for (unsigned phase = 0; phase < N_PHASES; phase++) {
		frag->turned_over = 0;
		for (unsigned part = 1; part <= COLUMNS_PER_PHASE && !frag->is_refused; part++) {
			work(frag, (enum phase)phase, part);
			take_sample(frag);
			if (pacer_stop(&frag->pacer, frag->n_columns * 1000 / N_COLUMNS, phases[phase]))
				return false;
		}
	}
	return true;
}

/* ------------------------------------------------------------------------------------------------------------
 * The adversary, against page runs
 * --------------------------------------------------------------------------------------------------------- */

static bool alloc_pages(void *ctx, size_t n_units, uintptr_t *place)
{
	void *pages = kpages_alloc(ctx, n_units, KMALLOC_PAGE_SIZE, UINTPTR_MAX, 0);

	*place = (uintptr_t)pages / KMALLOC_PAGE_SIZE;
	return pages != NULL;
}

static void free_pages(void *ctx, uintptr_t place)
{
	kpages_free(ctx, (void *)(place * KMALLOC_PAGE_SIZE));
}

static bool play(struct frag *frag, void *arena, size_t arena_bytes, unsigned n_doublings)
{
	struct robson robson = { .alloc = alloc_pages,
		                 .free = free_pages,
		                 .max_live = ROBSON_PAGES,
		                 .n_doublings = n_doublings,
		                 .blocks = frag->blocks };
	struct robson_score *score = &frag->scores[frag->n_scores++];

	robson.ctx = kheap_create(arena, arena_bytes, NULL);
	*score = (struct robson_score){ .n_doublings = n_doublings,
		                        .least = robson_least(ROBSON_PAGES, n_doublings),
		                        .most = robson_most(ROBSON_PAGES, n_doublings) };
	if (robson.ctx == NULL)
		return false;
	score->has_room = robson_settle(&robson) && robson_run(&robson);
	score->used = robson.highest - robson.lowest;
	robson_clear(&robson);
	kheap_destroy(robson.ctx);
	return score->has_room && score->used >= score->least && score->used <= score->most;
}

/* False: a result is not what it must be. Without memory for it there is no result. */
static bool run_robson(struct frag *frag)
{
	/* As much as a perfect allocator needs, the heap's own descriptors, and some more. */
	size_t arena_bytes = (robson_most(ROBSON_PAGES, MAX_DOUBLINGS) + ROBSON_PAGES / 2) * KMALLOC_PAGE_SIZE;
	struct kpage_chunk chunk;
	void *arena = measure_get_pages(frag->host, arena_bytes, &chunk);
	bool is_right = true;

	if (arena == NULL)
		return true;
	for (unsigned n_doublings = 2; n_doublings <= MAX_DOUBLINGS; n_doublings += 2)
		is_right = play(frag, arena, arena_bytes, n_doublings) && is_right;
	frag->host->pages.put(frag->host->pages.ctx, &chunk);
	return is_right;
}

/* ------------------------------------------------------------------------------------------------------------
 * Text
 * --------------------------------------------------------------------------------------------------------- */

static void plot(const struct frag *frag)
{
	struct host *host = frag->host;
	size_t top = frag->peak_footprint > frag->peak_live ? frag->peak_footprint : frag->peak_live;
	char line[N_COLUMNS + 1], label[16];

	for (unsigned row = PLOT_ROWS; row-- > 0;) {
		unsigned length = 0;

		for (unsigned i = 0; i < N_COLUMNS; i++) {
			const struct sample *sample = &frag->samples[i];
			unsigned held = (unsigned)(measure_permille(sample->footprint_bytes, top) * PLOT_ROWS / 1001);
			unsigned live = (unsigned)(measure_permille(sample->live_bytes, top) * PLOT_ROWS / 1001);

			line[i] = sample->footprint_bytes > 0 && held == row ? '*'
			          : sample->live_bytes > 0 && live >= row    ? '#'
			          : held > row                               ? '.'
			                                                     : ' ';
			length = line[i] != ' ' ? i + 1 : length;
		}
		line[length] = '\0';
		text_print(host, "%9s |%s\n",
		           row + 1 == PLOT_ROWS ? text_bytes(label, sizeof(label), top)
		           : row == 0           ? "0 B"
		                                : "",
		           line);
	}
	text_print(host, "%9s  ", "");
	for (unsigned phase = 0; phase < N_PHASES; phase++)
		text_print(host, "%-*u", phase + 1 < N_PHASES ? COLUMNS_PER_PHASE : 0, phase + 1);
	text_print(host, "\n%11s* held by the engine   # live   . held and not live\n\n", "");
}

static void print_text(const struct frag *frag)
{
	struct host *host = frag->host;
	char held[16], live[16], ratio[16];

	plot(frag);
	text_print(host, "At the end of each part:\n");
	for (unsigned phase = 0; phase < N_PHASES; phase++) {
		const struct sample *sample = &frag->samples[(phase + 1) * COLUMNS_PER_PHASE - 1];

		measure_decimal(ratio, sizeof(ratio), measure_permille(sample->footprint_bytes, sample->live_bytes), 3);
		text_print(host, "%u  %-26s held %10s, live %10s, ratio %s\n", phase + 1, phases[phase],
		           text_bytes(held, sizeof(held), sample->footprint_bytes),
		           text_bytes(live, sizeof(live), sample->live_bytes), sample->live_bytes > 0 ? ratio : "-");
	}
	measure_decimal(ratio, sizeof(ratio), measure_permille(frag->peak_footprint, frag->peak_live), 3);
	text_print(host, "Peaks: held %s, live %s, ratio %s\n", text_bytes(held, sizeof(held), frag->peak_footprint),
	           text_bytes(live, sizeof(live), frag->peak_live), ratio);
}

static void print_scores(const struct frag *frag)
{
	char found[16], least[16], most[16];

	text_print(frag->host,
	           "\nRobson's adversary against page runs: pages used for each of %zu pages live\n"
	           "largest block   least possible   found   perfect\n",
	           ROBSON_PAGES);
	for (unsigned i = 0; i < frag->n_scores; i++) {
		const struct robson_score *score = &frag->scores[i];

		text_print(frag->host, "%7u pages %16s %7s %9s\n", 1u << score->n_doublings,
		           measure_decimal(least, sizeof(least), measure_permille(score->least, ROBSON_PAGES), 3),
		           score->has_room ? measure_decimal(found, sizeof(found),
		                                             measure_permille(score->used, ROBSON_PAGES), 3)
		                           : "no room",
		           measure_decimal(most, sizeof(most), measure_permille(score->most, ROBSON_PAGES), 3));
	}
	if (frag->n_scores == 0)
		text_print(frag->host, "not run: the host has no pages for it\n");
}

static void print_json(const struct frag *frag)
{
	struct host *host = frag->host;

	text_print(host, "  \"engine\": \"%s\", \"peak_live\": %zu, \"peak_footprint\": %zu,\n  \"samples\": [",
	           frag->engine->name, frag->peak_live, frag->peak_footprint);
	for (unsigned i = 0; i < frag->n_columns; i++)
		text_print(host, "%s\n    {\"phase\": \"%s\", \"live\": %zu, \"footprint\": %zu}", i > 0 ? "," : "",
		           phases[i / COLUMNS_PER_PHASE], frag->samples[i].live_bytes,
		           frag->samples[i].footprint_bytes);
	host->write(host, "\n  ],\n  \"robson\": [");
	for (unsigned i = 0; i < frag->n_scores; i++)
		text_print(host,
		           "%s\n    {\"live\": %zu, \"largest\": %u, \"least\": %zu, \"found\": %zu, \"perfect\": %zu}",
		           i > 0 ? "," : "", ROBSON_PAGES, 1u << frag->scores[i].n_doublings, frag->scores[i].least,
		           frag->scores[i].used, frag->scores[i].most);
	host->write(host, "\n  ],\n");
}

/* ------------------------------------------------------------------------------------------------------------
 * The command
 * --------------------------------------------------------------------------------------------------------- */

static enum suite_outcome run(struct frag *frag, const struct suite_options *options, const char **why)
{
	uint64_t limit = frag->host->heap_limit(frag->host) / 4;
	struct host_memory memory = { 0, 0, 0 };
	bool goes_on;

	frag->target_bytes = limit / BUDGET_FACTOR < MAX_LIVE ? (size_t)(limit / BUDGET_FACTOR) : MAX_LIVE;
	if (frag->target_bytes > options->heap_bytes / BUDGET_FACTOR)
		frag->target_bytes = (size_t)(options->heap_bytes / BUDGET_FACTOR);
	*why = "The machine or -heap has too little memory: 3 MiB are needed.";
	if (frag->target_bytes < MIN_LIVE)
		return SUITE_CANNOT_RUN;
	frag->host->memory(frag->host, &memory);
	if (!measure_start(frag->host, frag->engine, frag->target_bytes * BUDGET_FACTOR, why))
		return SUITE_CANNOT_RUN;
	if (frag->host->quiet_begin != NULL)
		frag->free_before = memory.free_bytes;
	goes_on = run_phases(frag);
	frag->engine->stop(frag->engine);
	*why = "The engine refused memory although a third of its budget was live.";
	if (frag->is_refused)
		return SUITE_FAILED;
	*why = "";
	if (!goes_on)
		return SUITE_STOPPED;
	*why = "The adversary's result is not the one that must come out.";
	if (!run_robson(frag))
		return SUITE_FAILED;
	*why = "";
	return SUITE_PASSED;
}

static enum suite_outcome measure(struct host *host, const struct suite_options *options, struct allocator *engine,
                                  void *table, const char **why)
{
	enum suite_outcome outcome;
	struct frag *frag = table;

	frag->host = host;
	frag->engine = engine;
	frag->random = options->seed != 0 ? options->seed : 1;
	pacer_begin(&frag->pacer, host, measure_print_observer(host, options, NULL, NULL));
	outcome = run(frag, options, why);
	if (options->format == SUITE_JSON) {
		print_json(frag);
	} else if (frag->n_columns == N_COLUMNS) {
		print_text(frag);
		print_scores(frag);
	}
	return outcome;
}

enum suite_outcome frag_command(struct host *host, const struct suite_options *options)
{
	return measure_command(host, options, "frag", sizeof(struct frag), measure);
}
