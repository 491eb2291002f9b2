/* SPDX-License-Identifier: MIT */
/*
 * The replay of a trace. The trace may be hostile: its form is checked by trace_open(), which slots are live is checked here
 * in a pass of its own, before an engine is touched.
 */
#include "replay.h"

#include "measure.h"
#include "pattern.h"
#include "text.h"

/* Events between two looks at the clock. */
#define EVENTS_PER_LOOK 0x2000u
#define LOOKS_PER_SECOND 10
/* Passes for the time: until this long or this many, the quickest counts. */
#define ROUNDS_MAX 25
#define ROUNDS_PER_SECOND 3
/* Engines that cannot tell their peak are asked each time that the live bytes have grown by 1/64. */
#define PEAK_STEP_SHIFT 6

#define IS_FREE UINT64_MAX

struct slot {
	void *object;    /* NULL: the engine never makes such a large one */
	uint64_t size;   /* as asked for; IS_FREE */
	uint64_t number; /* of the object, for its pattern; of a free slot: the slot below it on the stack */
};

enum pass { PASS_CHECK, PASS_VERIFY, PASS_TIME };

struct replay {
	struct host *host;
	struct allocator *engine;
	struct replay_result *result;
	struct trace trace;
	enum pass pass;

	struct kpage_chunk table;
	struct slot *slots;
	uint64_t n_slots;   /* in the table */
	uint64_t n_used;    /* that have been taken once */
	uint64_t top;       /* of the stack of free slots, + 1; 0: none is free */
	uint64_t n_objects; /* so far: the next object's number */
	uint64_t n_events;  /* so far */
	uint64_t live_bytes, rounded_bytes;
	uint64_t asked_at_bytes; /* live bytes at which the engine is asked for its footprint next */

	enum suite_control (*poll)(void *ctx);
	void *ctx;
	uint64_t next_look; /* in ticks */
};

static uint64_t round_up_16(uint64_t size)
{
	return size == 0 ? 16 : (size + 15) & ~(uint64_t)15;
}

static bool fail(struct replay *replay, enum suite_outcome outcome, const char *what, uint64_t number)
{
	char *failure = replay->result->failure;

	replay->result->outcome = outcome;
	if (replay->pass == PASS_CHECK)
		text_format(failure, sizeof(replay->result->failure), "Event %llu of the trace: %s",
		            (unsigned long long)replay->n_events, what);
	else
		text_format(failure, sizeof(replay->result->failure), "Event %llu of the trace (object %llu): %s",
		            (unsigned long long)replay->n_events, (unsigned long long)number, what);
	return false;
}

/* ------------------------------------------------------------------------------------------------------------
 * Slots
 * --------------------------------------------------------------------------------------------------------- */

static void reset_slots(struct replay *replay)
{
	replay->n_used = replay->top = replay->n_objects = replay->n_events = 0;
	replay->live_bytes = replay->rounded_bytes = replay->asked_at_bytes = 0;
}

/* The slot of the next new object. NULL: the trace has more than it said. */
static struct slot *take_slot(struct replay *replay)
{
	struct slot *slot;

	if (replay->top > 0) {
		slot = &replay->slots[replay->top - 1];
		replay->top = slot->number;
	} else if (replay->n_used < replay->n_slots) {
		slot = &replay->slots[replay->n_used++];
	} else {
		return NULL;
	}
	slot->number = replay->n_objects++;
	return slot;
}

static void give_slot(struct replay *replay, struct slot *slot)
{
	slot->size = IS_FREE;
	slot->number = replay->top;
	replay->top = (uint64_t)(slot - replay->slots) + 1;
}

static struct slot *live_slot(struct replay *replay, uint64_t index)
{
	return index < replay->n_used && replay->slots[index].size != IS_FREE ? &replay->slots[index] : NULL;
}

/* ------------------------------------------------------------------------------------------------------------
 * One event on the engine. In PASS_CHECK there is no engine and nothing is done.
 * --------------------------------------------------------------------------------------------------------- */

static void ask_footprint(struct replay *replay)
{
	struct allocator_stats stats = { 0, 0 };

	if (replay->pass != PASS_VERIFY || replay->engine->peak_footprint != NULL || replay->engine->stats == NULL ||
	    replay->live_bytes < replay->asked_at_bytes)
		return;
	replay->asked_at_bytes = replay->live_bytes + (replay->live_bytes >> PEAK_STEP_SHIFT);
	replay->engine->stats(replay->engine, &stats);
	if (stats.footprint_bytes > replay->result->peak_footprint_bytes)
		replay->result->peak_footprint_bytes = stats.footprint_bytes;
}

static void count_live(struct replay *replay, uint64_t size, uint64_t old_size)
{
	replay->live_bytes += size - old_size;
	if (replay->rounded_bytes > replay->result->peak_rounded_bytes)
		replay->result->peak_rounded_bytes = replay->rounded_bytes;
	if (replay->live_bytes > replay->result->peak_live_bytes)
		replay->result->peak_live_bytes = replay->live_bytes;
	ask_footprint(replay);
}

static bool is_intact(struct replay *replay, const struct slot *slot, uint64_t size)
{
	char what[120];
	size_t at;

	if (replay->pass != PASS_VERIFY)
		return true;
	at = pattern_verify(slot->object, slot->number, (size_t)size);
	replay->result->verified_bytes += size;
	if (at == PATTERN_INTACT)
		return true;
	text_format(what, sizeof(what), "byte %zu of %llu at %p is 0x%02x, but 0x%02x was written there.", at,
	            (unsigned long long)size, slot->object, ((const uint8_t *)slot->object)[at],
	            pattern_byte(slot->number, at));
	return fail(replay, SUITE_FAILED, what, slot->number);
}

/* The engine gave nothing for this size. True: it never does for such a size, and the object is left out. */
static bool may_lack(struct replay *replay, const struct slot *slot, uint64_t size)
{
	struct allocator *engine = replay->engine;
	char what[120], live[16];

	if (size > engine->max_size) {
		replay->result->n_too_large += replay->pass == PASS_VERIFY;
		return true;
	}
	text_format(what, sizeof(what), "%s refused %llu bytes while %s were live; give it a larger -heap.",
	            engine->name, (unsigned long long)size, text_bytes(live, sizeof(live), replay->live_bytes));
	engine->is_starved = false;
	return fail(replay, SUITE_CANNOT_RUN, what, slot->number);
}

static bool is_aligned(struct replay *replay, const struct slot *slot, size_t alignment)
{
	char what[100];

	if (((uintptr_t)slot->object & (alignment - 1)) == 0)
		return true;
	text_format(what, sizeof(what), "%s gave %p, which is not aligned to %zu.", replay->engine->name, slot->object,
	            alignment);
	return fail(replay, SUITE_FAILED, what, slot->number);
}

/* What was recorded is malloc and realloc, and their callers expect no more alignment than those promise. */
static void *alloc_plain(struct allocator *engine, size_t size)
{
	return engine->alloc_plain != NULL ? engine->alloc_plain(engine, size) : engine->alloc(engine, size);
}

static bool make_object(struct replay *replay, struct slot *slot, const struct trace_event *event)
{
	struct allocator *engine = replay->engine;
	size_t size = (size_t)event->size, alignment = engine->alignment;

	if (event->kind == TRACE_ALIGNED && engine->alloc_aligned != NULL) {
		alignment = (size_t)1 << event->log2_alignment;
		slot->object = engine->alloc_aligned(engine, size, alignment);
	} else {
		slot->object = alloc_plain(engine, size);
	}
	if (slot->object == NULL)
		return may_lack(replay, slot, event->size);
	if (!is_aligned(replay, slot, alignment))
		return false;
	if (replay->pass == PASS_VERIFY)
		pattern_fill(slot->object, slot->number, 0, size);
	return true;
}

/* Where there is no realloc, as its users would do it. */
static void *resize_plain(struct allocator *engine, void *object, size_t old_size, size_t size)
{
	void *moved;

	if (engine->realloc_plain != NULL)
		return engine->realloc_plain(engine, object, size);
	if (engine->realloc != NULL)
		return engine->realloc(engine, object, size);
	moved = alloc_plain(engine, size);
	if (moved != NULL) {
		__builtin_memcpy(moved, object, old_size < size ? old_size : size);
		engine->free(engine, object);
	}
	return moved;
}

static bool resize_object(struct replay *replay, struct slot *slot, uint64_t size)
{
	struct allocator *engine = replay->engine;
	uint64_t kept = size < slot->size ? size : slot->size;
	struct trace_event fresh = { .kind = TRACE_ALLOC, .size = size };
	void *moved;

	if (slot->object == NULL)
		return make_object(replay, slot, &fresh);
	moved = resize_plain(engine, slot->object, (size_t)slot->size, (size_t)size);
	if (moved == NULL) {
		if (!may_lack(replay, slot, size))
			return false;
		engine->free(engine, slot->object);
		slot->object = NULL;
		return true;
	}
	slot->object = moved;
	if (!is_aligned(replay, slot, engine->alignment) || !is_intact(replay, slot, kept))
		return false;
	if (replay->pass == PASS_VERIFY)
		pattern_fill(moved, slot->number, (size_t)kept, (size_t)size);
	return true;
}

static bool free_object(struct replay *replay, struct slot *slot)
{
	if (slot->object == NULL)
		return true;
	if (!is_intact(replay, slot, slot->size))
		return false;
	replay->engine->free(replay->engine, slot->object);
	return true;
}

/* ------------------------------------------------------------------------------------------------------------
 * A pass
 * --------------------------------------------------------------------------------------------------------- */

static bool on_new(struct replay *replay, const struct trace_event *event)
{
	struct slot *slot = take_slot(replay);

	if (slot == NULL)
		return fail(replay, SUITE_CANNOT_RUN, "it uses more slots than the trace says; record it again.",
		            replay->n_objects);
	slot->size = event->size;
	slot->object = NULL;
	if (replay->pass != PASS_CHECK && !make_object(replay, slot, event))
		return false;
	replay->rounded_bytes += round_up_16(event->size);
	count_live(replay, event->size, 0);
	return true;
}

static bool on_known(struct replay *replay, const struct trace_event *event)
{
	struct slot *slot = live_slot(replay, event->slot);

	if (slot == NULL)
		return fail(replay, SUITE_CANNOT_RUN, "it uses an object that is not live; record it again.",
		            replay->n_objects);
	replay->rounded_bytes -= round_up_16(slot->size);
	if (event->kind == TRACE_REALLOC) {
		if (replay->pass != PASS_CHECK && !resize_object(replay, slot, event->size))
			return false;
		replay->rounded_bytes += round_up_16(event->size);
		count_live(replay, event->size, slot->size);
		slot->size = event->size;
		return true;
	}
	if (replay->pass != PASS_CHECK && !free_object(replay, slot))
		return false;
	count_live(replay, 0, slot->size);
	give_slot(replay, slot);
	return true;
}

/* Tell the watchdog, ask the user. False: stop. */
static bool look(struct replay *replay)
{
	struct host *host = replay->host;
	uint64_t now = host->ticks(host);

	if (now < replay->next_look)
		return true;
	replay->next_look = now + host->ticks_per_second / LOOKS_PER_SECOND;
	host->alive(host, false);
	if (replay->poll == NULL || replay->poll(replay->ctx) != SUITE_STOP)
		return true;
	replay->result->outcome = SUITE_STOPPED;
	text_format(replay->result->failure, sizeof(replay->result->failure), "Stopped by the user at event %llu.",
	            (unsigned long long)replay->n_events);
	return false;
}

static bool run_events(struct replay *replay)
{
	struct trace_reader reader;
	struct trace_event event;

	trace_begin(&reader, &replay->trace);
	while (trace_next(&reader, &event)) {
		bool is_done = true;

		if (event.kind == TRACE_REALLOC || event.kind == TRACE_FREE)
			is_done = on_known(replay, &event);
		else if (event.kind != TRACE_THREAD)
			is_done = on_new(replay, &event);
		if (!is_done)
			return false;
		if (++replay->n_events % EVENTS_PER_LOOK == 0 && replay->pass != PASS_TIME && !look(replay))
			return false;
	}
	return true;
}

/* ------------------------------------------------------------------------------------------------------------
 * The passes
 * --------------------------------------------------------------------------------------------------------- */

static bool start_engine(struct replay *replay, uint64_t heap_bytes)
{
	struct allocator_stats stats = { 0, 0 };
	struct allocator *engine = replay->engine;
	const char *why = "It does not say why.";
	uint64_t limit = replay->host->heap_limit(replay->host);
	size_t budget = (size_t)(heap_bytes < limit ? heap_bytes : limit);

	reset_slots(replay);
	engine->is_starved = false;
	if (!engine->start(engine, replay->host, budget, &why)) {
		replay->result->outcome = SUITE_CANNOT_RUN;
		text_format(replay->result->failure, sizeof(replay->result->failure), "%s cannot start: %s",
		            engine->name, why);
		return false;
	}
	if (engine->stats != NULL)
		engine->stats(engine, &stats);
	replay->result->is_fixed_area =
		stats.footprint_bytes > 0 && stats.footprint_bytes >= budget - budget % KMALLOC_PAGE_SIZE;
	return true;
}

/* What the engine itself has to say. */
static bool is_sound(struct replay *replay)
{
	struct allocator *engine = replay->engine;
	const char *what = "its invariants do not hold.";

	if (engine->check != NULL && !engine->check(engine, &what))
		return fail(replay, SUITE_FAILED, what, replay->n_objects);
	if (engine->n_errors == 0)
		return true;
	return fail(replay, SUITE_FAILED,
	            engine->last_error[0] != '\0' ? engine->last_error : "the engine reported a misuse.",
	            replay->n_objects);
}

/* What the program never freed is verified too. */
static bool free_rest(struct replay *replay)
{
	for (uint64_t i = 0; i < replay->n_used; i++) {
		struct slot *slot = live_slot(replay, i);
		if (slot != NULL && !free_object(replay, slot))
			return false;
	}
	return true;
}

static void verify_pass(struct replay *replay, uint64_t heap_bytes)
{
	struct replay_result *result = replay->result;
	struct allocator *engine = replay->engine;

	replay->pass = PASS_VERIFY;
	if (!start_engine(replay, heap_bytes))
		return;
	if (run_events(replay) && is_sound(replay)) {
		if (engine->peak_footprint != NULL)
			result->peak_footprint_bytes = engine->peak_footprint(engine);
		if (result->is_fixed_area)
			result->peak_footprint_bytes = 0;
		if (free_rest(replay))
			is_sound(replay);
	}
	engine->stop(engine);
}

/* The threads at once, where there are several and the host can. */
static void threads_pass(struct replay *replay, uint64_t heap_bytes)
{
	if (!replay_can_thread(replay->host, replay->engine, &replay->trace) || !start_engine(replay, heap_bytes))
		return;
	replay_threads(replay->host, replay->engine, &replay->trace, replay->result);
	if (replay->result->outcome == SUITE_PASSED)
		is_sound(replay);
	replay->engine->stop(replay->engine);
}

static void time_passes(struct replay *replay, uint64_t heap_bytes)
{
	struct replay_result *result = replay->result;
	struct host *host = replay->host;
	uint64_t end = host->ticks(host) + host->ticks_per_second / ROUNDS_PER_SECOND;

	replay->pass = PASS_TIME;
	result->ticks = UINT64_MAX;
	do {
		uint64_t begin, took;
		bool is_done;

		if (!look(replay) || !start_engine(replay, heap_bytes))
			return;
		begin = host->ticks(host);
		is_done = run_events(replay);
		took = host->ticks(host) - begin;
		if (is_done)
			free_rest(replay);
		replay->engine->stop(replay->engine);
		if (!is_done)
			return;
		result->n_rounds++;
		if (took < result->ticks)
			result->ticks = took;
	} while (result->n_rounds < ROUNDS_MAX && host->ticks(host) < end);
}

static bool get_table(struct replay *replay)
{
	struct host *host = replay->host;
	/* An event was counted for each by trace_open, so there are no more of them than bytes in the file. */
	uint64_t n_slots = replay->trace.counts.n_slots > 0 ? replay->trace.counts.n_slots : 1;

	replay->slots = measure_get_pages(host, (size_t)n_slots * sizeof(struct slot), &replay->table);
	if (replay->slots == NULL) {
		replay->result->outcome = SUITE_CANNOT_RUN;
		text_format(replay->result->failure, sizeof(replay->result->failure),
		            "There is no memory for a table of the trace's %llu objects; choose a smaller trace.",
		            (unsigned long long)n_slots);
		return false;
	}
	replay->n_slots = n_slots;
	return true;
}

/* The pass without an engine: which objects are live is checked, the peaks are counted. */
static bool check_pass(struct replay *replay)
{
	struct replay_result *result = replay->result;
	struct host *host = replay->host;
	uint64_t begin = host->ticks(host);

	replay->pass = PASS_CHECK;
	reset_slots(replay);
	if (!run_events(replay))
		return false;
	result->reading_ticks = host->ticks(host) - begin;
	if (result->peak_live_bytes == result->counts.peak_live_bytes)
		return true;
	return fail(replay, SUITE_CANNOT_RUN, "the peak of live bytes is another than the trace says; record it again.",
	            0);
}

void suite_replay(struct host *host, const struct suite_options *options, const void *bytes, size_t size,
                  enum suite_control (*poll)(void *ctx), void *ctx, struct replay_result *result)
{
	struct replay replay = { .host = host, .result = result, .poll = poll, .ctx = ctx };

	*result = (struct replay_result){ .outcome = SUITE_CANNOT_RUN };
	replay.engine = suite_engine(host, options->engine);
	if (replay.engine == NULL) {
		text_format(result->failure, sizeof(result->failure), "There is no engine '%.40s' on this host.",
		            options->engine);
		return;
	}
	if (replay.engine->is_started) {
		text_format(result->failure, sizeof(result->failure), "The engine %s is in use.", replay.engine->name);
		return;
	}
	if (!trace_open(&replay.trace, bytes, size, result->failure, sizeof(result->failure)))
		return;
	text_copy(result->program, sizeof(result->program), replay.trace.program);
	result->counts = replay.trace.counts;
	result->n_resizes = replay.trace.n_resizes;
	result->n_frees = replay.trace.n_frees;
	result->n_operations = result->counts.n_objects + result->n_resizes + result->n_frees;
	if (!get_table(&replay))
		return;
	result->outcome = SUITE_PASSED;
	if (check_pass(&replay))
		verify_pass(&replay, options->heap_bytes);
	if (result->outcome == SUITE_PASSED)
		threads_pass(&replay, options->heap_bytes);
	if (result->outcome == SUITE_PASSED)
		time_passes(&replay, options->heap_bytes);
	host->pages.put(host->pages.ctx, &replay.table);
}

void suite_replay_file(struct host *host, const struct suite_options *options, enum suite_control (*poll)(void *ctx),
                       void *ctx, struct replay_result *result)
{
	const char *why = "This host has no files.";
	struct kpage_chunk pages;
	size_t size;

	*result = (struct replay_result){ .outcome = SUITE_CANNOT_RUN };
	if (host->read_file == NULL || !host->read_file(host, options->file, &pages, &size, &why)) {
		text_format(result->failure, sizeof(result->failure), "%s", why);
		return;
	}
	suite_replay(host, options, (const void *)pages.base, size, poll, ctx, result);
	host->pages.put(host->pages.ctx, &pages);
}
