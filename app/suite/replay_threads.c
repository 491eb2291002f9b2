/* SPDX-License-Identifier: MIT */
/*
 * The replay with every recorded thread's calls on a thread of its own, each thread in its recorded order. An object's calls keep
 * their order also when they are of several threads, and no thread runs far ahead of the others, so that what is live stays near
 * to what it was. The trace has been checked before; nothing here but the engine may fail.
 */
#include "measure.h"
#include "pattern.h"
#include "replay.h"
#include "text.h"

#define MAX_LANES 16
/* How many events a thread may be ahead of the slowest. */
#define WINDOW 256
/* Looks at what is waited for before the CPU is given to others. */
#define LOOKS_BEFORE_YIELD 64
#define IS_DONE UINT64_MAX

/* A call, in recorded order. */
struct call {
	uint64_t object;
	uint64_t size;
	uint32_t step; /* calls on this object before it */
	uint16_t lane;
	uint8_t kind; /* enum trace_kind */
	uint8_t log2_alignment;
};

/* Belongs to the thread whose call on it is the next. */
struct object {
	void *memory;
	uint64_t size;
	uint32_t n_steps; /* calls that have been done */
};

/* A cache line each. */
struct position {
	uint64_t next_call __attribute__((aligned(64)));
};

struct threads {
	struct host *host;
	struct allocator *engine;
	struct replay_result *result;
	unsigned n_lanes;
	uint64_t n_calls;
	struct call *calls;
	struct object *objects;
	uint32_t has_failed;
	struct position positions[MAX_LANES];
	uint64_t verified_bytes[MAX_LANES];
	struct kpage_chunk calls_chunk, objects_chunk;
};

/* ------------------------------------------------------------------------------------------------------------
 * The plan
 * --------------------------------------------------------------------------------------------------------- */

static void add_call(struct threads *threads, const struct trace_event *event, uint64_t object, uint64_t thread)
{
	threads->calls[threads->n_calls++] = (struct call){
		.object = object,
		.size = event->size,
		.step = threads->objects[object].n_steps++,
		.lane = (uint16_t)(thread % threads->n_lanes),
		.kind = (uint8_t)event->kind,
		.log2_alignment = (uint8_t)event->log2_alignment,
	};
}

/* Slots become objects. `slots` holds the object of each live slot, and from free_slots on the stack of free ones. */
static void plan(struct threads *threads, const struct trace *trace, uint64_t *slots)
{
	uint64_t *free_slots = slots + trace->counts.n_slots, n_free = 0, n_used = 0, n_objects = 0, thread = 0;
	struct trace_reader reader;
	struct trace_event event;

	trace_begin(&reader, trace);
	while (trace_next(&reader, &event)) {
		if (event.kind == TRACE_THREAD) {
			thread = event.slot;
		} else if (event.kind == TRACE_REALLOC || event.kind == TRACE_FREE) {
			add_call(threads, &event, slots[event.slot], thread);
			if (event.kind == TRACE_FREE)
				free_slots[n_free++] = event.slot;
		} else {
			uint64_t slot = n_free > 0 ? free_slots[--n_free] : n_used++;
			slots[slot] = n_objects;
			add_call(threads, &event, n_objects++, thread);
		}
	}
	for (uint64_t i = 0; i < n_objects; i++)
		threads->objects[i].n_steps = 0;
}

/* ------------------------------------------------------------------------------------------------------------
 * A thread
 * --------------------------------------------------------------------------------------------------------- */

static bool has_failed(struct threads *threads)
{
	return __atomic_load_n(&threads->has_failed, __ATOMIC_RELAXED) != 0;
}

/* The first thread that fails says why. */
static bool fail(struct threads *threads, enum suite_outcome outcome, const struct call *call, const char *what)
{
	if (__atomic_exchange_n(&threads->has_failed, 1, __ATOMIC_ACQ_REL) != 0)
		return false;
	threads->result->outcome = outcome;
	text_format(threads->result->failure, sizeof(threads->result->failure),
	            "Object %llu, with all threads at once: %s %s", (unsigned long long)call->object,
	            threads->engine->name, what);
	return false;
}

static void wait(struct threads *threads, unsigned *n_looks)
{
	if (++*n_looks % LOOKS_BEFORE_YIELD == 0)
		threads->host->yield(threads->host);
}

/* Until no thread is more than WINDOW calls behind `at`. Returns where the slowest is. */
static uint64_t wait_for_others(struct threads *threads, uint64_t at)
{
	unsigned n_looks = 0;

	for (;;) {
		uint64_t slowest = at;

		for (unsigned i = 0; i < threads->n_lanes; i++) {
			uint64_t next = __atomic_load_n(&threads->positions[i].next_call, __ATOMIC_RELAXED);
			slowest = next < slowest ? next : slowest;
		}
		if (at - slowest <= WINDOW || has_failed(threads))
			return slowest;
		wait(threads, &n_looks);
	}
}

static bool is_intact(struct threads *threads, const struct call *call, const struct object *object, uint64_t size)
{
	threads->verified_bytes[call->lane] += size;
	if (pattern_verify(object->memory, call->object, (size_t)size) == PATTERN_INTACT)
		return true;
	return fail(threads, SUITE_FAILED, call, "did not keep what was written there.");
}

/* Engines without a plain form offer threads only their bare functions. */
static void *alloc(struct allocator *engine, const struct call *call)
{
	if (engine->alloc_plain == NULL)
		return engine->bare->alloc(engine, (size_t)call->size);
	if (call->kind == TRACE_ALIGNED)
		return engine->alloc_aligned(engine, (size_t)call->size, (size_t)1 << call->log2_alignment);
	return engine->alloc_plain(engine, (size_t)call->size);
}

static bool resize(struct threads *threads, const struct call *call, struct object *object)
{
	struct allocator *engine = threads->engine;
	/* realloc(p, 0) of the C library would free. */
	size_t size = call->size > 0 ? (size_t)call->size : 1;
	uint64_t kept = object->size < call->size ? object->size : call->size;
	void *moved = engine->realloc_plain != NULL ? engine->realloc_plain(engine, object->memory, size)
	                                            : engine->bare->realloc(engine, object->memory, size);

	if (moved == NULL)
		return fail(threads, SUITE_CANNOT_RUN, call, "refused to resize it; give it a larger -heap.");
	object->memory = moved;
	if (!is_intact(threads, call, object, kept))
		return false;
	pattern_fill(moved, call->object, (size_t)kept, (size_t)call->size);
	object->size = call->size;
	return true;
}

static bool make(struct threads *threads, const struct call *call, struct object *object)
{
	object->memory = alloc(threads->engine, call);
	object->size = call->size;
	if (object->memory == NULL)
		return fail(threads, SUITE_CANNOT_RUN, call, "refused to make it; give it a larger -heap.");
	if (((uintptr_t)object->memory & (threads->engine->alignment - 1)) != 0)
		return fail(threads, SUITE_FAILED, call, "gave an address that is not aligned.");
	pattern_fill(object->memory, call->object, 0, (size_t)call->size);
	return true;
}

static bool drop(struct threads *threads, const struct call *call, struct object *object)
{
	if (!is_intact(threads, call, object, object->size))
		return false;
	threads->engine->bare->free(threads->engine, object->memory);
	object->memory = NULL;
	return true;
}

static bool do_call(struct threads *threads, const struct call *call)
{
	struct object *object = &threads->objects[call->object];
	unsigned n_looks = 0;
	bool is_done;

	while (__atomic_load_n(&object->n_steps, __ATOMIC_ACQUIRE) != call->step) {
		if (has_failed(threads))
			return false;
		wait(threads, &n_looks);
	}
	if (call->kind == TRACE_FREE)
		is_done = drop(threads, call, object);
	else if (call->kind == TRACE_REALLOC)
		is_done = resize(threads, call, object);
	else
		is_done = make(threads, call, object);
	__atomic_store_n(&object->n_steps, call->step + 1, __ATOMIC_RELEASE);
	return is_done;
}

static void work(void *ctx, unsigned index)
{
	struct threads *threads = ctx;
	uint64_t slowest = 0;

	for (uint64_t i = 0; i < threads->n_calls; i++) {
		if (threads->calls[i].lane != index)
			continue;
		__atomic_store_n(&threads->positions[index].next_call, i, __ATOMIC_RELAXED);
		if (i - slowest > WINDOW)
			slowest = wait_for_others(threads, i);
		if (has_failed(threads) || !do_call(threads, &threads->calls[i]))
			break;
	}
	__atomic_store_n(&threads->positions[index].next_call, IS_DONE, __ATOMIC_RELAXED);
}

/* ------------------------------------------------------------------------------------------------------------
 * Around it
 * --------------------------------------------------------------------------------------------------------- */

static void free_rest(struct threads *threads, uint64_t n_objects)
{
	for (uint64_t i = 0; i < n_objects; i++) {
		struct call call = { .object = i };

		if (threads->objects[i].memory != NULL && !has_failed(threads))
			(void)drop(threads, &call, &threads->objects[i]);
	}
}

static void run(struct threads *threads, const struct trace *trace)
{
	struct replay_result *result = threads->result;
	struct host *host = threads->host;
	uint64_t begin = host->ticks(host);

	if (!host->run_parallel(host, threads->n_lanes, work, threads))
		return;
	result->parallel_ticks = host->ticks(host) - begin;
	result->n_parallel = threads->n_lanes;
	if (threads->engine->peak_footprint != NULL)
		result->parallel_footprint_bytes = threads->engine->peak_footprint(threads->engine);
	free_rest(threads, trace->counts.n_objects);
	for (unsigned i = 0; i < threads->n_lanes; i++)
		result->verified_bytes += threads->verified_bytes[i];
}

/* The tables; `slots` is needed for the plan only. False: there is no memory for them, so the threads are left out. */
static bool prepare(struct threads *threads, const struct trace *trace)
{
	const struct trace_counts *counts = &trace->counts;
	struct kpage_chunk slots;
	uint64_t *slot_table;

	threads->calls =
		measure_get_pages(threads->host, (size_t)counts->n_events * sizeof(struct call), &threads->calls_chunk);
	if (threads->calls == NULL)
		return false;
	threads->objects = measure_get_pages(threads->host, (size_t)counts->n_objects * sizeof(struct object),
	                                     &threads->objects_chunk);
	slot_table =
		threads->objects == NULL
			? NULL
			: measure_get_pages(threads->host, (size_t)counts->n_slots * 2 * sizeof(*slot_table), &slots);
	if (slot_table == NULL)
		return false;
	plan(threads, trace, slot_table);
	threads->host->pages.put(threads->host->pages.ctx, &slots);
	return true;
}

bool replay_can_thread(const struct host *host, const struct allocator *engine, const struct trace *trace)
{
	return trace->counts.n_threads > 1 && trace->counts.n_objects > 0 && host->run_parallel != NULL &&
	       host->yield != NULL && engine->bare != NULL && engine->bare->is_parallel;
}

void replay_threads(struct host *host, struct allocator *engine, const struct trace *trace,
                    struct replay_result *result)
{
	uint64_t n = trace->counts.n_threads;
	struct threads threads = {
		.host = host, .engine = engine, .result = result, .n_lanes = n < MAX_LANES ? (unsigned)n : MAX_LANES
	};

	if (prepare(&threads, trace))
		run(&threads, trace);
	if (threads.objects != NULL)
		host->pages.put(host->pages.ctx, &threads.objects_chunk);
	if (threads.calls != NULL)
		host->pages.put(host->pages.ctx, &threads.calls_chunk);
}
