/* SPDX-License-Identifier: MIT */
/*
 * Slabs: equal small objects in a page, without headers. Which objects are free is a bitmap in the page's descriptor, so an overrun
 * of an object cannot reach it, and a new slab is ready without touching its page.
 *
 * A class earns its first slab when blocks serve as many of its objects as a slab holds: a heap of a few KiB is not spent on pages that hold
 * one object each. One empty slab a class is kept, so that a lone pair does not take and return a page each time.
 */
#include "internal.h"

#define TAKE_FIRST 4
#define SURE_FOOTPRINT 256 /* pages: in larger heaps powers of two above 256 bytes get a slab at once */
#define SMALL_CLASSES 16   /* 16, 32 .. 256; then 512, 1024, 2048 */

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

	if (class_index >= SMALL_CLASSES && heap->counters.footprint_pages >= SURE_FOOTPRINT)
		return true;
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

/*
 * The next n objects of a fresh slab, or those that are left: they get their keys now, a few at a time, so that no call writes them all;
 * until then frees in it take the lock. With the last object what is behind it gets a key too, lest it pass for one.
 */
static unsigned fresh_go_on(const struct kheap *heap, struct slab_class *class, struct page_desc *desc,
                            unsigned class_index, unsigned n, void *objects[])
{
	size_t size = slab_object_size(class_index);
	unsigned n_objects = slab_objects(class_index);
	uintptr_t base = desc_address(desc);
	uintptr_t object = base + class->n_keyed * size;
	uint64_t key = cached_key(heap, object);

	n = n < n_objects - class->n_keyed ? n : n_objects - class->n_keyed;
	/* The lowest comes last, so that it is handed out first: what is allocated in turn goes upwards, as programs read it. */
	for (void **out = objects + n; out > objects; object += size, key += size) {
		*--out = (void *)object;
		*key_word(object) = key;
	}
	class->n_keyed = (uint16_t)(class->n_keyed + n);
	if (class->n_keyed == n_objects) {
		uint8_t *kind = &desc->region->kinds[desc_page(desc)];

		if (object + 2 * sizeof(key) <= base + PAGE_SIZE)
			*key_word(object) = key;
		__atomic_store_n(kind, *kind & (uint8_t)~PAGE_FRESH, __ATOMIC_RELEASE);
	}
	return n;
}

INLINE bool is_fresh(const struct page_desc *desc)
{
	return !HARDENED && desc->region->kinds[desc_page(desc)] & PAGE_FRESH;
}

size_t slab_settle_fresh(struct kheap *heap, uintptr_t address)
{
	struct region *region = region_of(heap, address);
	size_t index;

	if (!region)
		return PAGE_BODY;
	size_t page = (address >> PAGE_SHIFT) - region->first_page;
	enum page_kind kind = page_kind_of(region, page);

	if (!is_slab(kind))
		return PAGE_BODY;
	unsigned class_index = (unsigned)kind - PAGE_SLAB;
	struct slab_class *class = &heap->slabs[class_index];

	if (!is_fresh(&region->descs[page]))
		return kind;
	bool was_out = slab_index(class_index, address % PAGE_SIZE, &index) && index < class->n_keyed;
	void *objects[SLAB_TAKE_MAX];

	fresh_go_on(heap, class, &region->descs[page], class_index, SLAB_TAKE_MAX, objects);
	return was_out ? (size_t)kind : PAGE_BODY;
}

static struct page_desc *slab_create(struct kheap *heap, unsigned class_index)
{
	struct page_desc *desc = run_alloc(heap, 1, 0, UINTPTR_MAX, (enum page_kind)(PAGE_SLAB + class_index));

	if (!desc)
		return NULL;
	unsigned n = slab_objects(class_index);

	guard_poison(desc_address(desc), PAGE_SIZE);
	if (!HARDENED) {
		heap->slabs[class_index].n_keyed = 0;
		desc->region->kinds[desc_page(desc)] |= PAGE_FRESH;
	}
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

static unsigned take_fresh(struct kheap *heap, struct slab_class *class, struct page_desc *desc, unsigned class_index,
                           unsigned n, void *objects[])
{
	unsigned from = class->n_keyed;

	/* The call that made it has done enough. */
	n = fresh_go_on(heap, class, desc, class_index, from || n < TAKE_FIRST ? n : TAKE_FIRST, objects);
	uint64_t taken = ((uint64_t)1 << n) - 1;

	desc->free_bits[from / 64] &= ~(taken << from % 64);
	if (from % 64 + n > 64)
		desc->free_bits[from / 64 + 1] &= ~(taken >> (64 - from % 64));
	return n;
}

static unsigned take_free(struct page_desc *desc, unsigned class_index, unsigned n, void *objects[])
{
	size_t size = slab_object_size(class_index);
	uintptr_t base = desc_address(desc);
	unsigned left = n;

	for (unsigned word = 0; word < SLAB_WORDS && left; base += 64 * size, word++) {
		uint64_t bits = desc->free_bits[word];

		/* The lowest comes last here, too. */
		for (; bits && left; bits &= bits - 1)
			objects[--left] = (void *)(base + lowest_bit(bits) * size);
		desc->free_bits[word] = bits;
	}
	n -= left;
	for (unsigned i = 0; UNLIKELY(left) && i < n; i++)
		objects[i] = objects[left + i];
	return n;
}

unsigned slab_take(struct kheap *heap, unsigned class_index, unsigned n, void *objects[])
{
	struct slab_class *class = &heap->slabs[class_index];
	struct page_desc *desc = slab_with_room(heap, class_index);

	if (!desc)
		return 0;
	if (is_fresh(desc))
		n = take_fresh(heap, class, desc, class_index, n, objects);
	else
		n = take_free(desc, class_index, n, objects);
	if (is_full(desc))
		list_remove(class, desc);
	heap->counters.free_slab_bytes -= n * slab_object_size(class_index);
	return n;
}

uintptr_t slab_alloc(struct kheap *heap, unsigned class_index)
{
	struct slab_class *class = &heap->slabs[class_index];
	struct page_desc *desc = slab_with_room(heap, class_index);
	void *next[1];
	unsigned word = 0;

	if (!desc)
		return 0;
	if (is_fresh(desc))
		fresh_go_on(heap, class, desc, class_index, 1, next);
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
