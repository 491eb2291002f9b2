/* SPDX-License-Identifier: MIT */
/*
 * CPU caches, magazines of blocks in small heaps. Space for the magazines of all classes would be too much there, so a few of one object each are lent: to a
 * class whose blocks come and go one after the other, until another one that would have the same space wants it.
 */
#include "small.h"
#include "cpu.h"

INLINE struct lent *lent_of(struct cpu_cache *cache, unsigned number)
{
	return &cache->lent[number % LENT];
}

INLINE void **bottom_of_lent(const struct cpu_cache *cache, unsigned number)
{
	return (void **)&cache->lent_slots[number % LENT * LENT_WORDS];
}

void lent_init(struct cpu_cache *cache)
{
	for (unsigned i = 0; i < LENT * LENT_WORDS; i++) {
		if (i % LENT_WORDS)
			slot_clear(&cache->lent_slots[i]);
	}
}

static bool end(struct kheap *heap, struct cpu_cache *cache, struct lent *lent)
{
	struct magazine *magazine = &cache->magazines[lent->number];

	if (!lent->number)
		return false;
	magazine_flush(heap, magazine, SIZE_MAX);
	STORE(magazine->top, cache->magazines[0].top);
	lent->number = 0;
	return true;
}

void lend(struct kheap *heap, struct cpu_cache *cache, unsigned number)
{
	struct lent *lent = lent_of(cache, number);
	bool is_next = lent->next == number;

	lent->next = (uint8_t)number;
	if (!is_next || lent->number == number || has_plenty_for_blocks(heap, cache) ||
	    !may_keep(heap, magazine_object_size(number)))
		return;
	(void)end(heap, cache, lent);
	lent->number = (uint8_t)number;
	STORE(cache->magazines[number].top, bottom_of_lent(cache, number));
}

bool lent_end(struct kheap *heap, struct cpu_cache *cache)
{
	bool any = false;

	for (unsigned i = 0; i < LENT && !any; i++)
		any = end(heap, cache, &cache->lent[i]);
	return any;
}

bool lent_flush(struct kheap *heap, struct cpu_cache *cache, size_t n)
{
	size_t left = n;

	for (unsigned i = 0; i < LENT; i++) {
		struct magazine *magazine = &cache->magazines[cache->lent[i].number];

		for (; left && !is_empty(magazine); left--)
			magazine_flush(heap, magazine, 1);
	}
	return left != n;
}

size_t lent_bytes(const struct cpu_cache *cache)
{
	size_t n = 0;

	for (unsigned i = 0; i < LENT; i++) {
		unsigned number = cache->lent[i].number;

		if (number)
			n += (size_t)(cache->magazines[number].top - bottom_of_lent(cache, number)) *
			     magazine_object_size(number);
	}
	return n;
}

bool cpu_give_kept(struct kheap *heap)
{
	struct cpu_cache *cache = present_cache(heap);
	bool any = cache && lent_flush(heap, cache, SIZE_MAX);

	return (cache && lone_drain(heap, cache)) || any;
}
