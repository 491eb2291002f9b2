/* SPDX-License-Identifier: MIT */
/*
 * Slabs: equal small objects in a page, without headers. Which are free is told by the region's starts, out of line, so that an overrun of an
 * object cannot reach it, and a new slab is ready without touching its page.
 *
 * A class earns its first slab when its objects take as much memory as blocks as a slab is: a heap of a few KiB is not spent on pages that hold
 * one object each. One empty slab a class is kept, so that a lone pair does not take and return a page each time.
 */
#include "internal.h"

#define OWNER_STEP 6       /* one in so many objects is asked for its owner */
#define SURE_FOOTPRINT 257 /* pages in use: in such heaps powers of two above 256 bytes get a slab at once */
/* Where free objects of slabs are more than this share of the heap, and than this, a CPU takes another one's slab rather than a new one. */
#define IDLE_SHARE 32
#define IDLE_MIN_BYTES ((size_t)64 << 10)

const uint16_t kheap_object_sizes[SLAB_CLASSES] = { 16,  32,  48,  64,  80,  96,  112, 128,  144, 160,
	                                            176, 192, 208, 224, 240, 256, 512, 1024, 2048 };

/* That fit a page. */
static const uint16_t objects_of[SLAB_CLASSES] = { 256, 128, 85, 64, 51, 42, 36, 32, 28, 25,
	                                           23,  21,  19, 18, 17, 16, 8,  4,  2 };

/* By class: where objects start in a page. Behind the last one that fits none does. */
static const uint32_t starts[SLAB_CLASSES][PAGE_WORDS] = {
	{ 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff },
	{ 0x55555555, 0x55555555, 0x55555555, 0x55555555, 0x55555555, 0x55555555, 0x55555555, 0x55555555 },
	{ 0x49249249, 0x92492492, 0x24924924, 0x49249249, 0x92492492, 0x24924924, 0x49249249, 0x12492492 },
	{ 0x11111111, 0x11111111, 0x11111111, 0x11111111, 0x11111111, 0x11111111, 0x11111111, 0x11111111 },
	{ 0x42108421, 0x10842108, 0x84210842, 0x21084210, 0x08421084, 0x42108421, 0x10842108, 0x04210842 },
	{ 0x41041041, 0x10410410, 0x04104104, 0x41041041, 0x10410410, 0x04104104, 0x41041041, 0x00410410 },
	{ 0x10204081, 0x81020408, 0x08102040, 0x40810204, 0x04081020, 0x20408102, 0x02040810, 0x00204081 },
	{ 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101 },
	{ 0x08040201, 0x80402010, 0x04020100, 0x40201008, 0x02010080, 0x20100804, 0x01008040, 0x00080402 },
	{ 0x40100401, 0x10040100, 0x04010040, 0x01004010, 0x00401004, 0x40100401, 0x10040100, 0x00010040 },
	{ 0x00400801, 0x00801002, 0x01002004, 0x02004008, 0x04008010, 0x08010020, 0x10020040, 0x00040080 },
	{ 0x01001001, 0x10010010, 0x00100100, 0x01001001, 0x10010010, 0x00100100, 0x01001001, 0x00010010 },
	{ 0x04002001, 0x00100080, 0x08004002, 0x00200100, 0x10008004, 0x00400200, 0x20010008, 0x00000400 },
	{ 0x10004001, 0x01000400, 0x00100040, 0x40010004, 0x04001000, 0x00400100, 0x00040010, 0x00004001 },
	{ 0x40008001, 0x10002000, 0x04000800, 0x01000200, 0x00400080, 0x00100020, 0x00040008, 0x00010002 },
	{ 0x00010001, 0x00010001, 0x00010001, 0x00010001, 0x00010001, 0x00010001, 0x00010001, 0x00010001 },
	{ 0x00000001, 0x00000001, 0x00000001, 0x00000001, 0x00000001, 0x00000001, 0x00000001, 0x00000001 },
	{ 0x00000001, 0x00000000, 0x00000001, 0x00000000, 0x00000001, 0x00000000, 0x00000001, 0x00000000 },
	{ 0x00000001, 0x00000000, 0x00000000, 0x00000000, 0x00000001, 0x00000000, 0x00000000, 0x00000000 },
};

uint32_t slab_starts(unsigned class_index, size_t word)
{
	return starts[class_index][word];
}

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

	if (class_index >= SMALL_CLASSES && heap_scale(heap) >= SURE_FOOTPRINT)
		return true;
	return class->n_slabs || class_is_busy(heap, class_index) ||
	       class->n_in_blocks * (slab_object_size(class_index) + BLOCK_HEADER + GRANULE / 2) >= PAGE_SIZE;
}

/*
 * Slabs with free objects and live ones are listed by the CPU that takes objects from them, so that objects of different CPUs seldom share a
 * cache line. Those of a CPU without a cache are the first one's. A slab that is listed is listed where its owner says.
 */
static struct page_desc **list_of(struct kheap *heap, const struct page_desc *desc, unsigned class_index)
{
	return &cache_of(heap, desc->owner)->partial[class_index];
}

static void list_push(struct kheap *heap, struct page_desc *desc, unsigned class_index, unsigned owner)
{
	desc->owner = cache_of(heap, owner) ? owner : 0;
	struct page_desc **list = list_of(heap, desc, class_index);

	desc->prev = NULL;
	desc->next = *list;
	if (desc->next)
		desc->next->prev = desc;
	*list = desc;
}

static void list_remove(struct kheap *heap, struct page_desc *desc, unsigned class_index)
{
	if (desc->next)
		desc->next->prev = desc->prev;
	if (desc->prev)
		desc->prev->next = desc->next;
	else
		*list_of(heap, desc, class_index) = desc->next;
}

static struct page_desc *slab_create(struct kheap *heap, unsigned class_index)
{
	struct slab_class *class = &heap->slabs[class_index];
	enum page_kind kind = (enum page_kind)(PAGE_SLAB + class_index);
	struct page_desc *desc = run_alloc(heap, 1, 0, UINTPTR_MAX, kind);

	/* Between blocks, where else more would stand in than there are in slabs: they take more room. */
	if (!desc && slab_is_earned(heap, class_index) && is_full_up(heap) &&
	    class->n_in_blocks >= class->n_slabs * slab_objects(class_index) && area_release(heap, 1))
		desc = run_alloc(heap, 1, 0, UINTPTR_MAX, kind);
	if (!desc)
		return NULL;
	heap->is_laden = true;
	guard_poison(desc_address(desc), PAGE_SIZE);
	page_magazines_set(desc_region(desc), desc_page(desc), MAGAZINE_SLAB + class_index);
	desc->n_free = (uint16_t)slab_objects(class_index);
	desc->hint = HINT_FRESH;
	STORE(class->n_slabs, class->n_slabs + 1);
	heap->counters.free_slab_bytes += desc->n_free * slab_object_size(class_index);
	return desc;
}

static void slab_destroy(struct kheap *heap, struct page_desc *desc, unsigned class_index)
{
	struct region *region = desc_region(desc);

	STORE(heap->slabs[class_index].n_slabs, heap->slabs[class_index].n_slabs - 1);
	heap->counters.free_slab_bytes -= slab_objects(class_index) * slab_object_size(class_index);
	page_magazines_set(region, desc_page(desc), 0);
	heap->is_laden = true;
	run_free(heap, region, desc_page(desc), 1);
}

/* This CPU's first slab with room; NULL: it has none. */
INLINE struct page_desc *own_slab(struct kheap *heap, unsigned class_index)
{
	const struct cpu_cache *cache = cache_of(heap, kport_cpu());

	return (cache ? cache : &heap->cpu0)->partial[class_index];
}

/* Another CPU's slab with room; NULL: there is none. */
static struct page_desc *others_slab(struct kheap *heap, unsigned class_index)
{
	/* Mostly the CPUs with low numbers have caches. */
	for (unsigned i = 0, n = 0; i < KPORT_CPUS && n <= heap->n_caches; i++) {
		struct cpu_cache *cache = cache_of(heap, i);
		struct page_desc *desc = cache ? cache->partial[class_index] : NULL;

		n += cache != NULL;
		if (!desc)
			continue;
		list_remove(heap, desc, class_index);
		return desc;
	}
	return NULL;
}

/* A slab that is no CPU's: the empty one, or a new one, unless the slabs have more free objects already than is good for the heap. */
static struct page_desc *fresh_slab(struct kheap *heap, unsigned class_index)
{
	struct slab_class *class = &heap->slabs[class_index];
	struct page_desc *desc = class->empty;

	if (desc) {
		desc_region(desc)->n_cached--;
		class->empty = NULL;
		heap->empty_slabs &= ~(1u << class_index);
		return desc;
	}
	if (heap->counters.free_slab_bytes > max_size((heap_scale(heap) << PAGE_SHIFT) / IDLE_SHARE, IDLE_MIN_BYTES))
		desc = others_slab(heap, class_index);
	return desc ? desc : slab_create(heap, class_index);
}

/* A slab with free objects, on this CPU's list. */
static struct page_desc *slab_with_room(struct kheap *heap, unsigned class_index)
{
	struct page_desc *desc = fresh_slab(heap, class_index);

	if (!desc)
		desc = others_slab(heap, class_index);
	if (desc)
		list_push(heap, desc, class_index, kport_cpu());
	return desc;
}

/* The first of n objects that leave a slab none of whose was ever given back: they lie side by side, behind those that left before. */
static uintptr_t fresh_take(struct page_desc *desc, unsigned class_index, unsigned n)
{
	const struct region *region = desc_region(desc);
	size_t size = slab_object_size(class_index), first = (slab_objects(class_index) - desc->n_free) * size;
	size_t word = first / (WORD_GRANULES * GRANULE), end = (first + n * size) / GRANULE;
	uint32_t *words = page_starts(region, desc_page(desc));

	for (; word < end / WORD_GRANULES; word++)
		put_bits(&words[word], words[word] | starts[class_index][word]);
	if (end % WORD_GRANULES)
		put_bits(&words[word],
		         words[word] | (starts[class_index][word] & (((uint32_t)1 << end % WORD_GRANULES) - 1)));
	return page_address(region, desc_page(desc)) + first;
}

/* n objects of a slab, the lowest last, each marked as cached, unless that is done later. */
static void take_used(const struct kheap *heap, struct page_desc *desc, unsigned class_index, unsigned n,
                      void *objects[])
{
	const struct region *region = desc_region(desc);
	uint32_t *words = page_starts(region, desc_page(desc)), *word = words + desc->hint;
	const uint32_t *slot_starts = starts[class_index] + desc->hint;
	uintptr_t base = page_address(region, desc_page(desc)) + desc->hint * WORD_GRANULES * GRANULE;
	uint64_t key = cached_key(heap, 0);
	void **out = objects + n;

	do {
		uint32_t used = *word;
		uint64_t free = *slot_starts++ & ~used, left = free;

		while (left && out != objects) {
			uintptr_t object = base + (uintptr_t)lowest_bit(left) * GRANULE;

			left &= left - 1;
			if (!KEYS_LATER)
				*key_word(object) = key + object;
			*--out = (void *)object;
		}
		put_bits(word++, used | (uint32_t)(free ^ left));
		base += WORD_GRANULES * GRANULE;
	} while (out != objects);
	/* The last word may have some left. */
	desc->hint = (uint16_t)(word - words - 1);
}

/* The same of one none of whose was ever given back. */
static void take_fresh(const struct kheap *heap, struct page_desc *desc, unsigned class_index, unsigned n,
                       void *objects[])
{
	uintptr_t object = fresh_take(desc, class_index, n);
	uint64_t key = cached_key(heap, 0);

	for (void **out = objects + n; out != objects; object += slab_object_size(class_index)) {
		if (!KEYS_LATER)
			*key_word(object) = key + object;
		*--out = (void *)object;
	}
}

unsigned slab_take(struct kheap *heap, unsigned class_index, unsigned n, void *objects[])
{
	struct page_desc *desc = own_slab(heap, class_index);

	if (!desc && (desc = slab_with_room(heap, class_index)) == NULL)
		return 0;
	n = n < desc->n_free ? n : desc->n_free;
	size_t size = slab_object_size(class_index);

	/* The lowest comes last, so that it is handed out first: what is allocated in turn goes upwards, as programs read it. */
	if (desc->hint == HINT_FRESH)
		take_fresh(heap, desc, class_index, n, objects);
	else
		take_used(heap, desc, class_index, n, objects);
	desc->n_free = (uint16_t)(desc->n_free - n);
	heap->counters.free_slab_bytes -= n * size;
	if (!desc->n_free)
		list_remove(heap, desc, class_index);
	return n;
}

/* The lowest free object of a slab. */
static uintptr_t used_take(struct page_desc *desc, unsigned class_index)
{
	const struct region *region = desc_region(desc);
	uint32_t *words = page_starts(region, desc_page(desc)), free;
	unsigned i = desc->hint;

	while (!(free = starts[class_index][i] & ~words[i]))
		i++;
	put_bits(&words[i], words[i] | (free & (0 - free)));
	desc->hint = (uint16_t)i;
	return page_address(region, desc_page(desc)) + (i * WORD_GRANULES + lowest_bit(free)) * GRANULE;
}

uintptr_t slab_alloc(struct kheap *heap, unsigned class_index)
{
	struct page_desc *desc = own_slab(heap, class_index);
	uintptr_t object;

	if (!desc && (desc = slab_with_room(heap, class_index)) == NULL)
		return 0;
	if (desc->hint == HINT_FRESH)
		object = fresh_take(desc, class_index, 1);
	else
		object = used_take(desc, class_index);
	if (!--desc->n_free)
		list_remove(heap, desc, class_index);
	guard_verify(heap, object, slab_object_size(class_index));
	*key_word(object) = 0;
	heap->counters.free_slab_bytes -= slab_object_size(class_index);
	return object;
}

void slab_free(struct kheap *heap, struct region *region, uintptr_t address, unsigned class_index)
{
	struct slab_class *class = &heap->slabs[class_index];
	struct page_desc *desc = &region->descs[region_page(region, address)];
	unsigned word = (unsigned)(address % PAGE_SIZE / (WORD_GRANULES * GRANULE));

	guard_poison(address, slab_object_size(class_index));
	start_clear(region, address);
	/* In a fresh one what lies in front is not free. */
	if (word < desc->hint || !desc->n_free)
		desc->hint = (uint16_t)word;
	if (!desc->n_free++)
		list_push(heap, desc, class_index, desc->owner);
	heap->counters.free_slab_bytes += slab_object_size(class_index);
	if (LIKELY(desc->n_free != slab_objects(class_index)))
		return;
	desc->hint = HINT_FRESH;
	list_remove(heap, desc, class_index);
	if (class->empty) {
		slab_destroy(heap, desc, class_index);
		return;
	}
	class->empty = desc;
	heap->empty_slabs |= 1u << class_index;
	region->n_cached++;
	region_settle(heap, region);
}

unsigned slabs_owner(struct kheap *heap, void **bottom, void **top)
{
	unsigned owner = KPORT_CPUS;

	for (void **slot = top; slot > bottom; slot -= OWNER_STEP) {
		struct region *region = region_of(heap, (uintptr_t)*slot);
		size_t page = region_page(region, (uintptr_t)*slot);
		unsigned last = owner;

		owner = is_slab(page_kind_of(region, page)) ? region->descs[page].owner : KPORT_CPUS;
		if (owner == KPORT_CPUS || (owner != last && slot != top))
			return KPORT_CPUS;
	}
	return owner;
}

bool slab_drain(struct kheap *heap)
{
	uint32_t classes = heap->empty_slabs;

	heap->empty_slabs = 0;
	for (uint32_t left = classes; left; left &= left - 1) {
		unsigned i = lowest_bit(left);
		struct page_desc *desc = heap->slabs[i].empty;

		heap->slabs[i].empty = NULL;
		desc_region(desc)->n_cached--;
		slab_destroy(heap, desc, i);
	}
	/* What is missing is not spent on classes that would be quicker with it. */
	for (unsigned i = 0; i < SLAB_CLASSES && heap->is_refused; i++)
		STORE(heap->slab_rounds[i], 0);
	if (heap->is_refused)
		STORE(heap->n_busy_rounds, 0);
	return classes != 0;
}

size_t slabs_listed(struct kheap *heap, unsigned class_index, size_t n)
{
	size_t listed = 0;

	for (unsigned i = 0; i < KPORT_CPUS; i++) {
		const struct cpu_cache *cache = cache_of(heap, i);
		const struct page_desc *desc = cache ? cache->partial[class_index] : NULL;

		/* A list that is damaged may be a circle. */
		for (; desc && listed <= n; desc = desc->next)
			listed++;
	}
	return listed;
}

/* The cache has left the table of CPUs. */
void slabs_inherit(struct kheap *heap, struct cpu_cache *cache)
{
	for (unsigned i = 0; i < SLAB_CLASSES; i++) {
		struct page_desc *next;

		for (struct page_desc *desc = cache->partial[i]; desc; desc = next) {
			next = desc->next;
			list_push(heap, desc, i, 0);
		}
		cache->partial[i] = NULL;
	}
}
