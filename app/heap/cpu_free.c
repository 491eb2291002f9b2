/* SPDX-License-Identifier: MIT */
/*
 * CPU caches, the slow half of freeing: full magazines, objects that no magazine is for, and those outside the window.
 */
#include "cpu.h"

/*
 * So often a class's blocks are freed until it gets a slab all the same, if there are so many pages to spare; in so many rounds of that if the
 * heap has to grow for it. Where several CPUs work, blocks of theirs may share cache lines: there it takes few.
 */
#define BUSY_STAND_INS 200
#define BUSY_MIN_FREE_PAGES 4
#define BUSY_ROUNDS 40
#define BUSY_CPUS_STAND_INS 20

/* ---- outside the window -------------------------------------------------------------------------------------------- */

/* The entry that the first pair did not have, or NULL. Small regions may lie together, in one section; or it is in a section of the other size. */
INLINE const struct section *section_farther(const struct kheap *heap, uintptr_t address)
{
	unsigned shift = LOAD(heap->section_shift);
	const struct section *section = section_in_pair(heap, address, shift, 1);

	if (is_in_section(section, granule_number(address)))
		return section;
	section = section_in_pair(heap, address, other_shift(shift), 0);
	return LIKELY(is_in_section(section, granule_number(address))) ? section : section_at(heap, address);
}

static struct place place_farther(const struct kheap *heap, uintptr_t address)
{
	const struct section *section;
	struct place place;
	uint32_t sequence;

	do {
		sequence = sequence_now(heap);
		section = section_farther(heap, address);
		place = (struct place){ .region = NULL };
		if (LIKELY(section != NULL) && LIKELY(address % GRANULE == 0))
			place = (struct place){ LOAD_FAST(section->starts), NULL,
				                (address >> GRANULE_SHIFT) - LOAD_FAST(section->first_granule),
				                LOAD_FAST(section->region) };
		load_fence();
	} while (HAS_READERS && UNLIKELY(sequence & 1 || sequence != sequence_now(heap)));
	if (LIKELY(place.region != NULL))
		place.magazines = place.region->magazines;
	return place;
}

struct place place_of(const struct kheap *heap, uintptr_t address)
{
	struct place place;

	return LIKELY(look_once(heap, address, &place)) ? place : place_farther(heap, address);
}

/* ---- magazines ------------------------------------------------------------------------------------------------------ */

/* Has this CPU freed so many? */
INLINE bool is_round_done(const struct kheap *heap, const struct magazine_state *state)
{
	return state->n_stand_ins >= (LOAD(heap->n_caches) ? BUSY_CPUS_STAND_INS : BUSY_STAND_INS);
}

/* The magazine for a live block whose check word holds, in a cell that has none; or NULL. */
INLINE struct magazine *magazine_of_block(struct kheap *heap, struct cpu_cache *cache, uintptr_t address)
{
	unsigned label = block_label(block_of_payload(address));

	if (label - LABEL_SIZED < BLOCK_CLASSES)
		return &cache->magazines[MAGAZINE_BLOCK + label - LABEL_SIZED];
	unsigned class_index = label - LABEL_SLAB_SIZED;

	if (class_index >= SLAB_CLASSES || (KPORT_CPUS > 1 && cache == NO_CACHE))
		return NULL;
	/* Its class has slabs now: they are better company, and blocks merge. */
	if (LOAD(heap->slabs[class_index].n_slabs))
		return NULL;
	/* The class is busy enough for a slab: the blocks go, and the next miss takes from there, unless there is no page for it. */
	if (class_is_busy(heap, class_index) && LOAD(heap->counters.free_run_pages))
		return NULL;
	if (is_round_done(heap, &cache->states[class_index]))
		return NULL;
	cache->states[class_index].n_stand_ins++;
	return &cache->magazines[MAGAZINE_SLAB + class_index];
}

/* A magazine is full: make room, or let its class have what it has earned. */
static void magazine_full(struct kheap *heap, struct cpu_cache *cache, unsigned number)
{
	struct magazine_state *state = number ? state_of(cache, number) : NULL;

	if (state) {
		state->was_missed = true;
		earn_clip(heap, cache, number);
		if (is_full(&cache->magazines[number]) && state->end)
			make_room(heap, cache, number);
	} else if (number) {
		lend(heap, cache, number);
	}
}

/* A block that stands in is freed, often enough that its class gets a slab if there are pages to spare. */
static void earn_slab(struct kheap *heap, struct cpu_cache *cache, uintptr_t address)
{
	unsigned class_index = label_slab_class(block_label(block_of_payload(address)));

	if (class_index == SLAB_NO_CLASS)
		return;
	struct magazine_state *state = &cache->states[class_index];
	uint8_t rounds = heap->slab_rounds[class_index], *turns = &heap->slab_turns[class_index];

	*turns = *turns % 2 ? 1 : *turns + 1;
	if (!is_round_done(heap, state)) {
		state->n_stand_ins++;
		return;
	}
	state->n_stand_ins = 0;
	if (heap->n_busy_rounds < HEAP_BUSY)
		STORE(heap->n_busy_rounds, heap->n_busy_rounds + 1);
	if (rounds < BUSY_ROUNDS)
		rounds++;
	if (heap->counters.free_run_pages >= BUSY_MIN_FREE_PAGES ||
	    ((rounds >= BUSY_ROUNDS || heap->n_caches) && can_grow(heap)))
		rounds = SLAB_BUSY;
	STORE(heap->slab_rounds[class_index], rounds);
}

/* With the lock: a magazine that is full, and whatever no magazine takes. */
static __attribute__((noinline)) void free_shared(struct kheap *heap, void *object)
{
	uintptr_t address = (uintptr_t)object;
	struct magazine *magazine = NULL;
	unsigned number = 0;
	bool is_block = false;  /* whose check word holds */
	bool is_missed = false; /* its magazine had no room, or it is a large one */

	cpu_begin();
	kport_lock_state state = heap_lock_inline(heap);
	struct cpu_cache *cache = own_cache(heap);
	struct place place = place_at(heap, address);

	if (cache && place.region && place_is_live(heap, place, address)) {
		number = place_magazine(place);
		/* It has a number, but no room. */
		if (number == MAGAZINE_LARGE)
			number = 0;
		is_block =
			!number && is_block_kind(place_kind(place)) && block_tag_holds(heap, block_of_payload(address));
	}
	/* What has a header is looked at while there is time. */
	if (number && (!is_block_kind(place_kind(place)) || block_tag_holds(heap, block_of_payload(address))))
		magazine = &cache->magazines[number];
	else if (is_block)
		magazine = magazine_of_block(heap, cache, address);
	is_missed = magazine && is_full(magazine);
	if (is_missed)
		magazine_full(heap, cache, (unsigned)(magazine - cache->magazines));
	if (!magazine || !magazine_push(heap, magazine, object)) {
		bool is_large = is_block && is_large_block(block_size(block_of_payload(address)) - BLOCK_HEADER);

		if (is_block)
			earn_slab(heap, cache, address);
		if (is_large)
			large_free_block(heap, cache, place.region, address);
		else if (is_block || number)
			give_back(heap, place.region, address);
		else
			free_locked(heap, address);
		is_missed |= is_large;
		if (is_large)
			cache->n_large_misses++;
	}
	/* What is idle goes in another call, if this one was long. */
	if (is_missed)
		note_miss(heap, cache);
	heap_unlock_inline(heap, state);
}

/* A block of a cell that has no magazine. */
static bool push_block(struct kheap *heap, struct cpu_cache *cache, void *object)
{
	struct magazine *magazine = NULL;

	if (!block_tag_holds(heap, block_of_payload((uintptr_t)object)))
		return false;
	magazine = magazine_of_block(heap, cache, (uintptr_t)object);
	return magazine ? magazine_push(heap, magazine, object) : large_push_block(heap, cache, object);
}

/* Without the lock: its magazine is full, but the CPU has an empty one of its own, or after an interruption it has room. */
INLINE bool push_own(struct kheap *heap, struct cpu_cache *cache, size_t number, void *object)
{
	struct magazine *magazine = &cache->magazines[number];
	bool is_done = false;

	if (!cpu_enter(cache))
		return false;
	if ((INTERRUPTS && !is_full(magazine)) || own_make_room(cache, number)) {
		magazine_put(heap, magazine, object);
		is_done = true;
	}
	cpu_leave(cache);
	return is_done;
}

/* A live object that no magazine takes: a run, a large block, one whose cell has no magazine. */
INLINE void free_unsized(struct kheap *heap, void *object, struct place place)
{
	enum page_kind kind = place_kind(place);
	bool is_done = false;

	if (kind == PAGE_RUN) {
		cpu_free_run(heap, object, place.region);
		return;
	}
	struct cpu_cache *cache = cpu_of(heap);

	if (is_block_kind(kind) && cpu_enter(cache)) {
		is_done = push_block(heap, cache, object);
		cpu_leave(cache);
	}
	if (!is_done)
		free_shared(heap, object);
}

__attribute__((noinline)) void cpu_free_full(struct kheap *heap, void *object, size_t number)
{
	if (number == MAGAZINE_LARGE) {
		if (LIKELY(cpu_free_large(heap, object)))
			return;
	} else if (UNLIKELY(number == 0)) {
		struct place place = place_at(heap, (uintptr_t)object);

		/* It was live just now. */
		if (LIKELY(place.region != NULL)) {
			free_unsized(heap, object, place);
			return;
		}
	} else if (LIKELY(push_own(heap, cpu_of(heap), number, object))) {
		return;
	}
	free_shared(heap, object);
}

__attribute__((noinline)) void cpu_free_slow(struct kheap *heap, void *object)
{
	uintptr_t address = (uintptr_t)object;
	struct place place = place_at(heap, address);

	if (HARDENED || !place.region || !place_is_live(heap, place, address)) {
		free_shared(heap, object);
	} else {
		unsigned number = place_magazine(place);

		if (number)
			cpu_free_full(heap, object, number);
		else
			free_unsized(heap, object, place);
	}
}

/* What lies in this region was not pushed. */
static __attribute__((noinline)) void free_not_pushed(struct kheap *heap, void *object, struct region *region,
                                                      enum pushed pushed, size_t number)
{
	struct place place = { region->starts, region->magazines, granule_of(region, (uintptr_t)object), region };

	if (pushed == NOT_PUSHED)
		cpu_free_slow(heap, object);
	else if (number)
		cpu_free_full(heap, object, number);
	else
		free_unsized(heap, object, place);
}

/* Not in the window. What no magazine takes is not looked up again. */
INLINE void free_placed(struct kheap *heap, void *object, struct place place)
{
	size_t number = 0;
	enum pushed pushed =
		cache_push(heap, cpu_of(heap), object, place.starts, place.magazines, place.granule, &number);

	if (UNLIKELY(pushed != PUSHED))
		free_not_pushed(heap, object, place.region, pushed, number);
}

/* In the table not where it is looked at first. */
static __attribute__((noinline)) void free_farther(struct kheap *heap, void *object)
{
	if (!object)
		return;
	struct place place = place_farther(heap, (uintptr_t)object);

	if (UNLIKELY(!place.region))
		cpu_free_slow(heap, object);
	else
		free_placed(heap, object, place);
}

__attribute__((noinline)) void cpu_free_far(struct kheap *heap, void *object)
{
	struct place place;

	if (LIKELY(look_once(heap, (uintptr_t)object, &place)))
		free_placed(heap, object, place);
	else
		free_farther(heap, object);
}
