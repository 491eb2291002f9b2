/* SPDX-License-Identifier: MIT */
/*
 * Slabs: equal small objects in a page, without headers. Which objects are free is a bitmap in the page's descriptor, so an overrun
 * of an object cannot reach it, and a new slab is ready without touching its page.
 *
 * A class earns its first slab when blocks serve as many of its objects as a slab holds: a heap of a few KiB is not spent on pages that hold
 * one object each. One empty slab a class is kept, so that a lone pair does not take and return a page each time.
 */
#include "internal.h"

#define SMALL_CLASSES 16 /* 16, 32 .. 256; then 512, 1024, 2048 */

const uint16_t kheap_object_sizes[SLAB_CLASSES] = { 16,  32,  48,  64,  80,  96,  112, 128,  144, 160,
	                                            176, 192, 208, 224, 240, 256, 512, 1024, 2048 };

/* 1 / size in units of 2^-24, rounded up: exact for every offset in a page, because 4095 * (size - 1) < 2^24. */
#define RECIPROCAL(size) (((1u << 24) + (size)-1) / (size))

static const uint32_t reciprocals[SLAB_CLASSES] = { RECIPROCAL(16),  RECIPROCAL(32),   RECIPROCAL(48),  RECIPROCAL(64),
	                                            RECIPROCAL(80),  RECIPROCAL(96),   RECIPROCAL(112), RECIPROCAL(128),
	                                            RECIPROCAL(144), RECIPROCAL(160),  RECIPROCAL(176), RECIPROCAL(192),
	                                            RECIPROCAL(208), RECIPROCAL(224),  RECIPROCAL(240), RECIPROCAL(256),
	                                            RECIPROCAL(512), RECIPROCAL(1024), RECIPROCAL(2048) };

/* That fit a page. */
static const uint16_t objects_of[SLAB_CLASSES] = { 256, 128, 85, 64, 51, 42, 36, 32, 28, 25,
	                                           23,  21,  19, 18, 17, 16, 8,  4,  2 };

unsigned slab_objects(unsigned class_index)
{
	return objects_of[class_index];
}

unsigned slab_class_of(size_t size, size_t alignment)
{
	if (alignment > GRANULE)
		size = align_up(size, alignment);
	if (size <= 256) {
		/* Rounded to the alignment, the size is a multiple of it, and so is every offset in the slab. */
		return size ? (unsigned)((size + GRANULE - 1) / GRANULE - 1) : 0;
	}
	/* Above, only powers of two are worth a slab: their natural alignment would cost a block as much again. */
	if (size > 2048 || !is_power_of_two(size))
		return SLAB_NO_CLASS;
	return SMALL_CLASSES + log2_floor(size) - 9;
}

bool slab_is_earned(const struct kheap *heap, unsigned class_index)
{
	const struct slab_class *class = &heap->slabs[class_index];

	return class->n_slabs || class->n_in_blocks >= slab_objects(class_index) || class->is_busy;
}

uint64_t slab_full_word(unsigned n_objects, unsigned word)
{
	if (n_objects >= 64 * (word + 1))
		return UINT64_MAX;
	if (n_objects <= 64 * word)
		return 0;
	return ((uint64_t)1 << (n_objects - 64 * word)) - 1;
}

static void list_push(struct slab_class *class, struct page_desc *desc)
{
	desc->prev = NULL;
	desc->next = class->partial;
	if (desc->next)
		desc->next->prev = desc;
	class->partial = desc;
}

static void list_remove(struct slab_class *class, struct page_desc *desc)
{
	if (desc->next)
		desc->next->prev = desc->prev;
	if (desc->prev)
		desc->prev->next = desc->next;
	else
		class->partial = desc->next;
}

/* All objects are free, and what is behind the last one must not pass for an object either. */
static void write_keys(const struct kheap *heap, uintptr_t base, size_t size)
{
	uint64_t key = cached_key(heap, base);
	word_alias *end = (word_alias *)(base + PAGE_SIZE);

	for (word_alias *word = key_word(base); word < end; word += size / sizeof(*word), key += size)
		*word = key;
}

static struct page_desc *slab_create(struct kheap *heap, unsigned class_index)
{
	struct page_desc *desc = run_alloc(heap, 1, 0, UINTPTR_MAX, (enum page_kind)(PAGE_SLAB + class_index));

	if (!desc)
		return NULL;
	unsigned n = slab_objects(class_index);

	guard_poison(desc_address(desc), PAGE_SIZE);
	if (!HARDENED)
		write_keys(heap, desc_address(desc), slab_object_size(class_index));
	for (unsigned i = 0; i < SLAB_WORDS; i++)
		desc->free_bits[i] = slab_full_word(n, i);
	heap->slabs[class_index].n_slabs++;
	heap->counters.free_slab_bytes += n * slab_object_size(class_index);
	return desc;
}

static void slab_destroy(struct kheap *heap, struct page_desc *desc, unsigned class_index)
{
	heap->slabs[class_index].n_slabs--;
	heap->counters.free_slab_bytes -= slab_objects(class_index) * slab_object_size(class_index);
	run_free(heap, desc->region, desc_page(desc), 1);
}

static bool is_full(const struct page_desc *desc)
{
	return (desc->free_bits[0] | desc->free_bits[1] | desc->free_bits[2] | desc->free_bits[3]) == 0;
}

/* Asked after an object of this word was freed: mostly that word says no. */
static bool is_empty(const struct page_desc *desc, unsigned class_index, size_t word)
{
	unsigned n = slab_objects(class_index);

	if (desc->free_bits[word] != slab_full_word(n, (unsigned)word))
		return false;
	for (unsigned i = 0; i < SLAB_WORDS; i++) {
		if (desc->free_bits[i] != slab_full_word(n, i))
			return false;
	}
	return true;
}

/* A slab with free objects, on the list. */
static struct page_desc *slab_with_room(struct kheap *heap, unsigned class_index)
{
	struct slab_class *class = &heap->slabs[class_index];
	struct page_desc *desc = class->partial;

	if (desc)
		return desc;
	desc = class->empty;
	if (desc)
		desc->region->n_cached--;
	else
		desc = slab_create(heap, class_index);
	class->empty = NULL;
	if (desc)
		list_push(class, desc);
	return desc;
}

unsigned slab_take(struct kheap *heap, unsigned class_index, unsigned n, void *objects[])
{
	struct page_desc *desc = slab_with_room(heap, class_index);
	void **out = objects;

	if (!desc)
		return 0;
	size_t size = slab_object_size(class_index);
	uintptr_t base = desc_address(desc);

	for (unsigned word = 0; word < SLAB_WORDS && n; base += 64 * size, word++) {
		uint64_t bits = desc->free_bits[word];

		while (bits && n) {
			/* Neighbours at once: a fresh slab is nothing else. */
			unsigned bit = lowest_bit(bits);
			uint64_t taken = ~(bits >> bit);
			unsigned run = taken ? lowest_bit(taken) : 64;
			uintptr_t object = base + bit * size;

			run = run < n ? run : n;
			n -= run;
			bits &= ~((UINT64_MAX >> (64 - run)) << bit);
			for (void **end = out + run; out < end; object += size)
				*out++ = (void *)object;
		}
		desc->free_bits[word] = bits;
	}
	if (is_full(desc))
		list_remove(&heap->slabs[class_index], desc);
	n = (unsigned)(out - objects);
	heap->counters.free_slab_bytes -= n * size;
	return n;
}

uintptr_t slab_alloc(struct kheap *heap, unsigned class_index)
{
	struct slab_class *class = &heap->slabs[class_index];
	struct page_desc *desc = slab_with_room(heap, class_index);
	unsigned word = 0;

	if (!desc)
		return 0;

	while (!desc->free_bits[word])
		word++;
	unsigned bit = lowest_bit(desc->free_bits[word]);

	desc->free_bits[word] &= desc->free_bits[word] - 1;
	if (is_full(desc))
		list_remove(class, desc);
	size_t size = slab_object_size(class_index);
	uintptr_t object = desc_address(desc) + (64 * word + bit) * size;

	guard_verify(heap, object, size);
	*key_word(object) = 0;
	heap->counters.free_slab_bytes -= size;
	return object;
}

bool slab_free(struct kheap *heap, struct region *region, size_t page, unsigned class_index, size_t index)
{
	struct slab_class *class = &heap->slabs[class_index];
	struct page_desc *desc = &region->descs[page];
	size_t size = slab_object_size(class_index);

	uintptr_t object = page_address(region, page) + index * size;
	uint64_t bit = (uint64_t)1 << index % 64;

	if (desc->free_bits[index / 64] & bit)
		return false;

	guard_poison(object, size);
	if (!HARDENED)
		*key_word(object) = cached_key(heap, object);
	if (is_full(desc))
		list_push(class, desc);
	desc->free_bits[index / 64] |= bit;
	heap->counters.free_slab_bytes += size;
	if (!is_empty(desc, class_index, index / 64))
		return true;
	list_remove(class, desc);
	if (class->empty) {
		slab_destroy(heap, desc, class_index);
		return true;
	}
	class->empty = desc;
	region->n_cached++;
	region_settle(heap, region);
	return true;
}

bool slab_index(unsigned class_index, size_t offset, size_t *index)
{
	size_t size = kheap_object_sizes[class_index];
	size_t quotient = (size_t)(((uint64_t)offset * reciprocals[class_index]) >> 24);

	*index = quotient;
	return quotient * size == offset && quotient < PAGE_SIZE / size;
}

bool slab_drain(struct kheap *heap)
{
	bool freed = false;

	for (unsigned i = 0; i < SLAB_CLASSES; i++) {
		struct page_desc *desc = heap->slabs[i].empty;

		heap->slabs[i].is_busy = false;
		if (!desc)
			continue;
		heap->slabs[i].empty = NULL;
		desc->region->n_cached--;
		slab_destroy(heap, desc, i);
		freed = true;
	}
	return freed;
}
