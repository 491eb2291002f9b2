/* SPDX-License-Identifier: MIT */
/*
 * The stress run's work: which operation comes next, and doing it to the engine with every byte verified. Reads no
 * clock and no address when it decides, so the same seed gives the same sequence on every host.
 */
#include "pattern.h"
#include "stress.h"
#include "text.h"

/* Of 100 operations: resizes, and allocations when steering up or down; the rest frees. */
#define RESIZE_PERCENT 10
#define ALLOC_PERCENT_RISING 75
#define ALLOC_PERCENT_FALLING 35
/* Of 64 allocations: bursts of equal small blocks, aligned ones, blocks that live for one operation, and for ever. */
#define KIND_BURST 1
#define KIND_ALIGNED 4
#define KIND_IMMEDIATE 10
#define KIND_FOREVER 11
#define KINDS 64
#define FOREVER_SHARE 16
#define BURST_MAX 64
#define BURST_BLOCK_MAX 4096
#define CHURN_MIN 200
#define CHURN_MAX 2000
/* An aligned block may waste this many times its size, so that alignment alone cannot fill the heap. */
#define ALIGNMENT_PER_SIZE 16
#define ALIGNMENT_MAX_SHIFT 12
/* Of this many blocks one carries its pattern up to its usable size. */
#define FILL_USABLE_EVERY 8
/*
 * Beside the holes between live blocks: those that an engine may have between its own regions, and what it may add
 * to a block.
 */
#define FAIR_HOLES 16
#define FAIR_OVERHEAD 8192

/* ------------------------------------------------------------------------------------------------------------
 * One block
 * --------------------------------------------------------------------------------------------------------- */

static bool verify(struct stress *s, const struct slot *slot, size_t size, const char *when)
{
	size_t wrong = pattern_verify(slot->object, slot->number, size);

	s->progress.verified_bytes += size;
	if (wrong == PATTERN_INTACT)
		return true;
	return stress_fail(s, "block %llu (%zu bytes at %p) %s: byte %zu is 0x%02x, expected 0x%02x",
	                   (unsigned long long)slot->number, slot->size_bytes, slot->object, when, wrong,
	                   ((const uint8_t *)slot->object)[wrong], pattern_byte(slot->number, wrong));
}

/* A block that the engine just gave or resized: where and how large it is. */
static bool accept(struct stress *s, const struct slot *slot, const void *object, size_t size, size_t alignment)
{
	size_t usable;

	if (((uintptr_t)object & (alignment - 1)) != 0)
		return stress_fail(s, "block %llu (%zu bytes) is at %p, which is not aligned to %zu",
		                   (unsigned long long)slot->number, size, object, alignment);
	if (s->engine->usable_size == NULL)
		return true;
	usable = s->engine->usable_size(s->engine, (void *)(uintptr_t)object);
	if (usable < size)
		return stress_fail(s, "block %llu (%zu bytes at %p) has a usable size of %zu",
		                   (unsigned long long)slot->number, size, object, usable);
	return true;
}

static void mark_live(struct stress *s, struct slot *slot, void *object, size_t size)
{
	slot->object = object;
	slot->size_bytes = size;
	slot->filled_bytes = size;
	if (slot->number % FILL_USABLE_EVERY == 0 && s->engine->usable_size != NULL)
		slot->filled_bytes = s->engine->usable_size(s->engine, object);
	s->progress.live_bytes += size;
	s->progress.live_objects++;
	if (s->progress.live_bytes > s->progress.peak_bytes)
		s->progress.peak_bytes = s->progress.live_bytes;
}

static void mark_dead(struct stress *s, struct slot *slot)
{
	s->progress.live_bytes -= slot->size_bytes;
	s->progress.live_objects--;
	slot->object = NULL;
}

/*
 * The engine said no: is that fair? n blocks leave at most n + 1 holes, so when all that is free is more than so
 * many times the request, one of them must have been large enough, wherever the blocks lie; unless it was the
 * machine that had no more pages.
 */
static bool refuse(struct stress *s, const struct slot *slot, size_t size)
{
	uint64_t holes = s->progress.live_objects + FAIR_HOLES;
	uint64_t free_bytes =
		s->capacity_bytes > s->progress.live_bytes ? s->capacity_bytes - s->progress.live_bytes : 0;

	s->progress.refused++;
	if (!s->engine->is_bounded || s->engine->is_starved || holes * (size + FAIR_OVERHEAD) > free_bytes)
		return true;
	return stress_fail(s,
	                   "block %llu (%zu bytes) was refused while only %llu of %zu bytes were live, in %llu blocks",
	                   (unsigned long long)slot->number, size, (unsigned long long)s->progress.live_bytes,
	                   s->capacity_bytes, (unsigned long long)s->progress.live_objects);
}

/* An engine without a bound of its own is not asked for more than the heap's size. */
static bool may_ask(const struct stress *s, size_t more)
{
	return s->engine->is_bounded || s->progress.live_bytes + more <= s->capacity_bytes;
}

static bool make_block(struct stress *s, struct slot *slot, size_t size, size_t alignment)
{
	void *object = NULL;

	s->engine->is_starved = false;
	if (may_ask(s, size))
		object = alignment > s->engine->alignment ? s->engine->alloc_aligned(s->engine, size, alignment)
		                                          : s->engine->alloc(s->engine, size);
	if (object == NULL)
		return refuse(s, slot, size);
	if (!accept(s, slot, object, size, alignment))
		return false;
	mark_live(s, slot, object, size);
	pattern_fill(object, slot->number, 0, slot->filled_bytes);
	return true;
}

static bool free_block(struct stress *s, struct slot *slot)
{
	void *object = slot->object;

	if (object == NULL)
		return true;
	if (!verify(s, slot, slot->filled_bytes, "before it was freed"))
		return false;
	mark_dead(s, slot);
	s->engine->free(s->engine, object);
	return true;
}

static bool resize_block(struct stress *s, struct slot *slot, size_t size)
{
	size_t kept = size < slot->size_bytes ? size : slot->size_bytes;
	void *object = NULL;

	if (slot->object == NULL)
		return make_block(s, slot, size, s->engine->alignment);
	if (!verify(s, slot, slot->filled_bytes, "before it was resized"))
		return false;
	if (size <= slot->size_bytes || may_ask(s, size - slot->size_bytes))
		object = s->engine->realloc(s->engine, slot->object, size);
	if (object == NULL) {
		s->progress.refused++;
		return verify(s, slot, slot->filled_bytes, "after a resize that was refused");
	}
	mark_dead(s, slot);
	slot->object = object;
	slot->size_bytes = size;
	if (!accept(s, slot, object, size, s->engine->alignment) || !verify(s, slot, kept, "after it was resized"))
		return false;
	mark_live(s, slot, object, size);
	pattern_fill(object, slot->number, kept, slot->filled_bytes);
	return true;
}

/* ------------------------------------------------------------------------------------------------------------
 * The table
 * --------------------------------------------------------------------------------------------------------- */

static struct slot *add_slot(struct stress *s, size_t size, bool forever)
{
	struct slot *slot = &s->slots[s->n_slots++];

	if (forever) {
		struct slot *first = &s->slots[s->n_forever++];

		*slot = *first;
		slot = first;
	}
	*slot = (struct slot){ .number = ++s->n_blocks, .model_bytes = size };
	s->model_bytes += size;
	return slot;
}

static bool remove_slot(struct stress *s, uint32_t position)
{
	struct slot *slot = &s->slots[position];

	if (!free_block(s, slot))
		return false;
	s->model_bytes -= slot->model_bytes;
	if (position < s->n_forever) {
		*slot = s->slots[--s->n_forever];
		slot = &s->slots[s->n_forever];
	}
	*slot = s->slots[--s->n_slots];
	return true;
}

/* ------------------------------------------------------------------------------------------------------------
 * What comes next
 * --------------------------------------------------------------------------------------------------------- */

static size_t level_bytes(const struct stress *s)
{
	return s->capacity_bytes / STRESS_FULL_LEVEL * s->level;
}

/*
 * Up level by level to more than full, down again to empty, at each level some operations that neither fill nor
 * empty.
 */
static void steer(struct stress *s)
{
	bool is_there = s->is_falling ? s->model_bytes <= level_bytes(s) : s->model_bytes >= level_bytes(s);

	if (!is_there)
		return;
	if (s->churn_left > 0) {
		s->churn_left--;
		return;
	}
	if (s->level == 0)
		s->is_falling = false;
	if (s->level == STRESS_TOP_LEVEL)
		s->is_falling = true;
	s->level = s->is_falling ? s->level - 1 : s->level + 1;
	s->churn_left = CHURN_MIN + random_below(&s->random, CHURN_MAX - CHURN_MIN);
}

static bool next_alloc(struct stress *s)
{
	uint32_t kind = random_below(&s->random, KINDS);
	size_t size = random_size(&s->random, 1, s->max_block_bytes);
	size_t alignment = (size_t)1 << random_below(&s->random, ALIGNMENT_MAX_SHIFT + 1);
	struct slot *slot;

	if (kind < KIND_BURST) {
		s->burst_left = random_below(&s->random, BURST_MAX);
		s->burst_frees = false;
		s->burst_bytes = random_size(
			&s->random, 1, BURST_BLOCK_MAX < s->max_block_bytes ? BURST_BLOCK_MAX : s->max_block_bytes);
		size = s->burst_bytes;
	}
	if (kind < KIND_BURST || kind >= KIND_ALIGNED || s->engine->alloc_aligned == NULL ||
	    alignment > size * ALIGNMENT_PER_SIZE || alignment < s->engine->alignment)
		alignment = s->engine->alignment;
	s->free_newest = kind >= KIND_ALIGNED && kind < KIND_IMMEDIATE;
	/* Few bytes may live for ever, or the run could not go back to empty. */
	slot = add_slot(s, size,
	                kind >= KIND_IMMEDIATE && kind < KIND_FOREVER && !s->is_falling &&
	                        s->n_forever < s->max_slots / 4 && size <= s->max_block_bytes / FOREVER_SHARE);
	return make_block(s, slot, size, alignment);
}

static bool next_free(struct stress *s)
{
	uint32_t position = s->n_forever + random_below(&s->random, s->n_slots - s->n_forever);

	if (random_below(&s->random, KINDS) < KIND_BURST) {
		s->burst_left = random_below(&s->random, BURST_MAX);
		s->burst_frees = true;
		s->burst_position = position;
	}
	return remove_slot(s, position);
}

static bool next_resize(struct stress *s)
{
	uint32_t position = s->n_forever + random_below(&s->random, s->n_slots - s->n_forever);
	struct slot *slot = &s->slots[position];
	size_t near = slot->model_bytes / 2 + 1 + random_below(&s->random, (uint32_t)slot->model_bytes);
	size_t far = random_size(&s->random, 1, s->max_block_bytes);
	size_t size = random_below(&s->random, 2) != 0 && near <= s->max_block_bytes ? near : far;

	if (s->engine->realloc == NULL)
		return remove_slot(s, position);
	s->model_bytes += size - slot->model_bytes;
	slot->model_bytes = size;
	return resize_block(s, slot, size);
}

/* The next operation of a burst. */
static bool next_of_burst(struct stress *s)
{
	s->burst_left--;
	if (!s->burst_frees)
		return make_block(s, add_slot(s, s->burst_bytes, false), s->burst_bytes, s->engine->alignment);
	if (s->burst_position >= s->n_slots)
		s->burst_position = s->n_forever;
	return remove_slot(s, s->burst_position);
}

static bool choose(struct stress *s)
{
	uint32_t percent;

	if (s->free_newest) {
		s->free_newest = false;
		return remove_slot(s, s->n_slots - 1);
	}
	if (s->burst_left > 0 && (s->burst_frees ? s->n_slots > s->n_forever : s->n_slots < s->max_slots))
		return next_of_burst(s);
	s->burst_left = 0;
	steer(s);
	percent = random_below(&s->random, 100);
	if (s->n_slots == 0)
		return next_alloc(s);
	/* Going back to empty, what lives for ever ends too. */
	if (s->level == 0 && s->is_falling)
		return remove_slot(s, random_below(&s->random, s->n_slots));
	if (percent < RESIZE_PERCENT && s->n_slots > s->n_forever)
		return next_resize(s);
	if (s->n_slots < s->max_slots &&
	    (s->n_slots == s->n_forever ||
	     percent <
	             RESIZE_PERCENT + (s->model_bytes < level_bytes(s) ? ALLOC_PERCENT_RISING : ALLOC_PERCENT_FALLING)))
		return next_alloc(s);
	return s->n_slots > s->n_forever ? next_free(s) : remove_slot(s, random_below(&s->random, s->n_slots));
}

static bool no_new_errors(struct stress *s)
{
	if (s->engine->n_errors == s->errors_before)
		return true;
	return stress_fail(s, "the engine reported a misuse that did not happen: %s", s->engine->last_error);
}

bool stress_step(struct stress *s)
{
	s->progress.operations++;
	return choose(s) && no_new_errors(s);
}

bool stress_drain_step(struct stress *s)
{
	s->progress.operations++;
	return remove_slot(s, s->n_slots - 1) && no_new_errors(s);
}
