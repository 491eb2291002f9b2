/* SPDX-License-Identifier: MIT */
/*
 * Regions of every size and at every address: made, added, refused, taken back. Nothing outside them may be touched.
 */
#include "../heap/internal.h"

#include "pattern.h"
#include "selftest.h"

#define PAGE KMALLOC_PAGE_SIZE
#define MANY 300

/*
 * Fill the heap with objects of one size, all of which must lie in [base, end) of one of its regions. Frees them.
 * Returns how many.
 */
static size_t fill_and_free(struct test *t, struct kheap *heap, size_t size)
{
	void **last = NULL, **object;
	size_t n = 0;

	while ((object = kheap_alloc(heap, size, 0)) != NULL) {
		struct kheap_range range = kheap_owner(heap, object);

		if (!range.is_live || range.base != (uintptr_t)object)
			test_fail(t, "the heap does not know its object at %p", (void *)object);
		test_fill(object, size, 1);
		*object = last;
		last = object;
		n++;
	}
	while (last != NULL) {
		object = *last;
		kheap_free(heap, last);
		last = object;
	}
	return n;
}

static size_t count_regions(struct kheap *heap)
{
	struct kpage_chunk region;
	size_t n = 0;

	while (kheap_region(heap, n, &region))
		n++;
	return n;
}

static void heap_fits_16_kib(struct test *t)
{
	struct kheap_config config = test_config(t);
	void *arena = test_arena(t, 16 * PAGE);
	struct kheap *heap;
	size_t n;

	TRY(arena != NULL);
	CHECK(t, kheap_create(arena, 0, &config) == NULL, "a heap was made in 0 bytes");
	CHECK(t, kheap_create(arena, 1, &config) == NULL, "a heap was made in 1 byte");
	CHECK(t, kheap_create(arena, KHEAP_MIN_REGION - PAGE - 1, &config) == NULL, "a heap was made in two pages");
	CHECK(t, kheap_create(NULL, 0, &config) == NULL, "a heap was made of nothing");
	CHECK(t, kheap_create(NULL, 0, NULL) == NULL, "a heap was made of nothing, without a config");
	heap = test_heap_in(t, arena, KHEAP_MIN_REGION, &config);
	TRY(heap != NULL);
	n = fill_and_free(t, heap, 64);
	CHECK(t, n >= 64, "only %zu objects of 64 bytes fit a heap of 16 KiB", n);
	CHECK(t, fill_and_free(t, heap, 2000) >= 2, "two objects of 2000 bytes do not fit a heap of 16 KiB");
	CHECK(t, fill_and_free(t, heap, 64) == n, "the heap of 16 KiB holds fewer objects than before");
	test_note(t, "%zu objects of 64 bytes", n);
}

static void region_is_not_left(struct test *t)
{
	static const size_t offsets[] = { 0, 1, 8, 17, 100, 4095 };
	const size_t size = 24 * PAGE;
	struct kheap_config config = test_config(t);
	uint8_t *arena = test_arena(t, 32 * PAGE);

	TRY(arena != NULL);
	for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
		uint8_t *start = arena + 2 * PAGE + offsets[i];
		struct kheap *heap;

		test_fill(arena, 32 * PAGE, 7);
		heap = test_heap_in(t, start, size, &config);
		TRY(heap != NULL);
		CHECK(t, fill_and_free(t, heap, 100) > 0 && fill_and_free(t, heap, 6000) > 0,
		      "nothing fits a heap of 96 KiB");
		TRY(test_end_heap(t, heap));
		TRY(test_filled(t, arena, (size_t)(start - arena), 7, "memory in front of a region"));
		/* The region itself may have changed; what is behind it may not. */
		pattern_fill(arena, 7, (size_t)(start - arena), (size_t)(start - arena) + size);
		TRY(test_filled(t, arena, 32 * PAGE, 7, "memory behind a region"));
	}
}

static void added_address_takes_it_back(struct test *t)
{
	struct kheap *heap = test_heap(t, 16 * PAGE);
	uint8_t *arena = test_arena(t, 16 * PAGE);

	TRY(heap != NULL && arena != NULL);
	for (size_t offset = 0; offset < PAGE; offset += 24) {
		CHECK(t, kheap_add_region(heap, arena + offset, 8 * PAGE), "a region at offset %zu was refused",
		      offset);
		CHECK(t, kheap_remove_region(heap, arena + offset),
		      "a region at offset %zu of a page is not known by the address it was added with", offset);
	}
}

static void tiny_regions_are_refused(struct test *t)
{
	static const size_t sizes[] = { 0, 1, 100, PAGE - 1, PAGE, PAGE + 1 };
	struct kheap *heap = test_heap(t, 16 * PAGE);
	uint8_t *arena = test_arena(t, 8 * PAGE);
	struct kheap_stats before;

	TRY(heap != NULL && arena != NULL);
	kheap_get_stats(heap, &before);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		/* One byte past a page's begin, so that a page's worth holds no whole page. */
		CHECK(t, !kheap_add_region(heap, arena + 1, sizes[i]), "a region of %zu bytes was accepted", sizes[i]);
		TRY(test_same(t, heap, &before, "a refused region"));
	}
	CHECK(t, !kheap_add_region(heap, (void *)(UINTPTR_MAX - PAGE + 2), PAGE),
	      "a region at the last address was accepted");
	CHECK(t, !kheap_add_region(heap, (void *)UINTPTR_MAX, 1), "a region at the last address was accepted");
	TRY(test_same(t, heap, &before, "a refused region"));
	CHECK(t, kheap_add_region(heap, arena, 3 * PAGE), "a region of three pages was refused");
	CHECK(t, count_regions(heap) == 2, "the heap has %zu regions, expected 2", count_regions(heap));
}

static void page_zero_is_left_out(struct test *t)
{
	struct kheap *heap = test_heap(t, 16 * PAGE);
	struct kheap_stats before;

	TRY(heap != NULL);
	kheap_get_stats(heap, &before);
	/* Nothing but page 0: there is nothing to use, and nothing may be touched. */
	CHECK(t, !kheap_add_region(heap, (void *)0, PAGE), "a region that is page 0 alone was accepted");
	CHECK(t, !kheap_add_region(heap, (void *)0, 2 * PAGE - 1), "a region that is page 0 and a part was accepted");
	CHECK(t, !kheap_add_region(heap, (void *)1, PAGE), "a region inside page 0 was accepted");
	TRY(test_same(t, heap, &before, "a region at page 0"));
	CHECK(t, !kheap_remove_region(heap, NULL), "a region at page 0 was taken back");
	CHECK(t, kheap_owner(heap, NULL).kind == KHEAP_NOT_OURS, "page 0 belongs to the heap");
}

static void neighbours_are_regions(struct test *t)
{
	struct kheap_config config = test_config(t);
	uint8_t *arena = test_arena(t, 64 * PAGE);
	struct kheap *heap;
	struct kheap_stats one, stats;

	TRY(arena != NULL);
	heap = test_heap_in(t, arena + 16 * PAGE, 16 * PAGE, &config);
	TRY(heap != NULL);
	kheap_get_stats(heap, &one);
	CHECK(t, kheap_add_region(heap, arena + 32 * PAGE, 16 * PAGE), "the region just behind was refused");
	CHECK(t, kheap_add_region(heap, arena, 16 * PAGE), "the region just in front was refused");
	CHECK(t, kheap_add_region(heap, arena + 48 * PAGE, 16 * PAGE), "the region just behind was refused");
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.footprint_bytes == 64 * PAGE && stats.n_regions == 4,
	      "four regions of 16 pages are %zu bytes in %zu regions", stats.footprint_bytes, stats.n_regions);
	CHECK(t, fill_and_free(t, heap, 100) > 1500, "fewer than 1500 objects of 100 bytes fit 256 KiB");
	CHECK(t, fill_and_free(t, heap, 3000) > 50, "fewer than 50 objects of 3000 bytes fit 256 KiB");
	TRY(test_sound(t, heap, "filling adjacent regions"));
	CHECK(t, kheap_remove_region(heap, arena + 40 * PAGE), "an empty region between two others was not given back");
	CHECK(t, kheap_remove_region(heap, arena), "an empty region was not given back");
	CHECK(t, kheap_remove_region(heap, arena + 64 * PAGE - 1),
	      "an empty region was not given back by its last byte");
	CHECK(t, !kheap_remove_region(heap, arena + 16 * PAGE), "the heap's own region was given back");
	TRY(test_same(t, heap, &one, "adding and taking back three regions"));
}

static void far_regions_serve(struct test *t)
{
	struct kheap_config config = test_config(t);
	uint8_t *low = test_arena_below(t, 32 * PAGE, UINT32_MAX), *high = test_arena(t, 32 * PAGE);
	uintptr_t distance;
	struct kheap *heap;
	char text[16];

	TRY(low != NULL && high != NULL);
	distance = high > low ? (uintptr_t)high - (uintptr_t)low : (uintptr_t)low - (uintptr_t)high;
	heap = test_heap_in(t, high, 32 * PAGE, &config);
	TRY(heap != NULL);
	CHECK(t, kheap_add_region(heap, low, 32 * PAGE), "a region %zu bytes away was refused", (size_t)distance);
	CHECK(t, kheap_owner(heap, low + 16 * PAGE).kind != KHEAP_NOT_OURS, "the heap does not know its region");
	CHECK(t, kheap_owner(heap, low + distance / 2).kind == KHEAP_NOT_OURS || distance < 128 * PAGE,
	      "what lies between two regions belongs to the heap");
	CHECK(t, fill_and_free(t, heap, 1000) > 200, "fewer than 200 objects of 1000 bytes fit 256 KiB");
	TRY(test_sound(t, heap, "filling regions that are far apart"));
	CHECK(t, kheap_remove_region(heap, low), "the far region was not given back");
	test_note(t, "%s apart", text_bytes(text, sizeof(text), distance));
}

static void overlaps_are_refused(struct test *t)
{
	struct kheap_config config = test_config(t);
	uint8_t *arena = test_arena(t, 64 * PAGE);
	struct kheap *heap;
	struct kheap_stats before;

	TRY(arena != NULL);
	heap = test_heap_in(t, arena + 8 * PAGE, 16 * PAGE, &config);
	TRY(heap != NULL);
	CHECK(t, kheap_add_region(heap, arena + 40 * PAGE, 16 * PAGE), "a region of 16 pages was refused");
	kheap_get_stats(heap, &before);
	for (size_t first = 0; first < 64; first++) {
		for (size_t n = 3; first + n <= 64; n += 5) {
			bool overlaps = (first < 24 && first + n > 8) || (first < 56 && first + n > 40);

			if (!overlaps)
				continue;
			CHECK(t, !kheap_add_region(heap, arena + first * PAGE, n * PAGE),
			      "pages %zu..%zu were accepted beside 8..23 and 40..55", first, first + n - 1);
		}
	}
	TRY(test_same(t, heap, &before, "a refused region"));
}

static void busy_regions_stay(struct test *t)
{
	struct kheap *heap = test_heap(t, 16 * PAGE);
	uint8_t *arena = test_arena(t, 32 * PAGE);
	struct kheap_stats before, with;
	void *objects[64];
	unsigned n = 0, inside = 0;

	TRY(heap != NULL && arena != NULL);
	kheap_get_stats(heap, &before);
	CHECK(t, kheap_add_region(heap, arena, 32 * PAGE), "a region of 32 pages was refused");
	while (n < 64 && (objects[n] = kheap_alloc(heap, 5000, 0)) != NULL) {
		test_fill(objects[n], 5000, n);
		inside += (uintptr_t)objects[n] - (uintptr_t)arena < 32 * PAGE;
		n++;
	}
	CHECK(t, inside > 0, "no object of 5000 bytes was put in the new region although the heap is full");
	kheap_get_stats(heap, &with);
	CHECK(t, !kheap_remove_region(heap, arena + PAGE), "a region with %u live objects was given back", inside);
	TRY(test_same(t, heap, &with, "the refused taking back"));
	for (unsigned i = 0; i < n; i++) {
		TRY(test_filled(t, objects[i], 5000, i, "an object in a region that was to be taken back"));
		kheap_free(heap, objects[i]);
	}
	CHECK(t, kheap_remove_region(heap, arena + PAGE), "an empty region was not given back");
	CHECK(t, !kheap_remove_region(heap, arena), "a region was given back twice");
	CHECK(t, kheap_owner(heap, arena).kind == KHEAP_NOT_OURS,
	      "a region that was given back still belongs to the heap");
	kheap_trim(heap);
	TRY(test_same(t, heap, &before, "adding, filling and taking back a region"));
	test_fill(arena, 32 * PAGE, 1);
	CHECK(t, fill_and_free(t, heap, 1000) > 0, "the heap does not work after a region was taken back");
	TRY(test_filled(t, arena, 32 * PAGE, 1, "a region that was given back"));
}

static void hundreds_of_regions(struct test *t)
{
	struct kheap *heap = test_heap(t, 64 * PAGE);
	uint8_t *arena = test_arena(t, (size_t)MANY * 5 * PAGE);
	struct kheap_stats before, stats;
	size_t n;

	TRY(heap != NULL && arena != NULL);
	kheap_get_stats(heap, &before);
	/* In an order that is neither up nor down. */
	for (size_t i = 0; i < MANY; i++)
		CHECK(t, kheap_add_region(heap, arena + i * 7 % MANY * 5 * PAGE, 4 * PAGE),
		      "region %zu of 4 pages was refused", i);
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.n_regions == MANY + 1 && count_regions(heap) == MANY + 1,
	      "the heap has %zu regions, expected %d", stats.n_regions, MANY + 1);
	CHECK(t, stats.footprint_bytes == before.footprint_bytes + (size_t)MANY * 4 * PAGE,
	      "the footprint is %zu bytes", stats.footprint_bytes);
	n = fill_and_free(t, heap, 500);
	CHECK(t, n >= (size_t)MANY * 3 * 8, "only %zu objects of 500 bytes fit 300 regions of 4 pages", n);
	TRY(test_sound(t, heap, "filling hundreds of regions"));
	for (size_t i = 0; i < MANY; i++)
		CHECK(t, kheap_remove_region(heap, arena + i * 11 % MANY * 5 * PAGE), "region %zu was not given back",
		      i);
	kheap_trim(heap);
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.n_regions == 1 && stats.footprint_bytes == before.footprint_bytes, "%zu regions are left",
	      stats.n_regions);
	test_note(t, "%zu objects of 500 bytes in %d regions of 16 KiB", n, MANY);
}

static void pointers_die_with_their_heap(struct test *t)
{
	struct kheap_config config = test_config(t);
	void *arena = test_arena(t, 64 * PAGE), *old[16], *whole;
	struct kheap *heap;

	TRY(arena != NULL);
	heap = kheap_create(arena, 64 * PAGE, &config);
	CHECK(t, heap != NULL, "a heap of 64 pages was refused");
	for (size_t i = 0; i < 16; i++)
		old[i] = kheap_alloc(heap, 300, 0);
	kheap_destroy(heap);
	heap = test_heap_in(t, arena, 64 * PAGE, &config);
	TRY(heap != NULL);
	/* Over all of them, so that each lies inside a live object. */
	whole = kheap_alloc(heap, 20000, 0);
	CHECK(t, whole < old[1] && (uint8_t *)whole + 20000 > (uint8_t *)old[15], "the new object lies elsewhere");
	for (size_t i = 1; i < 16; i++) {
		kheap_free(heap, old[i]);
		TRY(test_expect_error(t, KMALLOC_INTERIOR_POINTER, old[i]));
	}
	kheap_free(heap, whole);
	TRY(test_expect_no_error(t));
	TRY(test_sound(t, heap, "frees of what an earlier heap gave"));
}

/* The table from addresses to regions grows on the pages of the region for which it must grow, if no other has any. */
static void section_table_moves_out(struct test *t)
{
	struct kheap *heap = test_heap(t, 16 * PAGE);
	uint8_t *arena = test_arena(t, 2048 * PAGE), *other = test_arena(t, 64 * PAGE);
	struct kheap_stats before, stats;

	TRY(heap != NULL && arena != NULL && other != NULL);
	while (kpages_alloc(heap, 1, PAGE, UINTPTR_MAX, 0) != NULL)
		;
	CHECK(t, kheap_add_region(heap, arena, 2048 * PAGE), "a region of 8 MiB was refused");
	CHECK(t, kheap_add_region(heap, other, 64 * PAGE), "a region of 256 KiB was refused");
	kheap_get_stats(heap, &before);
	CHECK(t, kheap_remove_region(heap, arena), "a region with nothing but the section table was not given back");
	TRY(test_sound(t, heap, "the section table moved out of a region"));
	CHECK(t, kheap_add_region(heap, arena, 2048 * PAGE), "the region was refused when it came back");
	TRY(test_sound(t, heap, "the region came back"));
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.footprint_bytes == before.footprint_bytes && stats.n_regions == before.n_regions,
	      "%zu regions of %zu bytes are left of %zu of %zu", stats.n_regions, stats.footprint_bytes,
	      before.n_regions, before.footprint_bytes);
}

/* Where another region has a page for it, it grows there: then the region that was added can go, however full the others are. */
static void section_table_stays_out(struct test *t)
{
	enum { REGIONS = 40, APART = 32, PAGES = 16 };
	struct kheap *heap = test_heap(t, 16 * PAGE);
	uint8_t *arena = test_arena(t, REGIONS * APART * PAGE), *added = arena;
	struct kheap_stats before, stats;
	void **page, **last = NULL, **inside = NULL;

	TRY(heap != NULL && arena != NULL);
	while ((page = kpages_alloc(heap, 1, PAGE, UINTPTR_MAX, 0)) != NULL)
		last = page;
	kpages_free(heap, last);
	/* Until the table is larger. What describes such a region is less than a page. */
	for (;; added += APART * PAGE) {
		CHECK(t, added < arena + REGIONS * APART * PAGE, "%d regions did not make the table larger", REGIONS);
		kheap_get_stats(heap, &before);
		CHECK(t, kheap_add_region(heap, added, PAGES * PAGE), "a region of 64 KiB was refused");
		kheap_get_stats(heap, &stats);
		if (stats.overhead_bytes > before.overhead_bytes)
			break;
	}
	while ((page = kpages_alloc(heap, 1, PAGE, UINTPTR_MAX, 0)) != NULL) {
		if ((uintptr_t)page - (uintptr_t)added >= PAGES * PAGE)
			continue;
		*page = inside;
		inside = page;
	}
	CHECK(t, inside != NULL, "no page of the last region was handed out");
	while ((page = inside) != NULL) {
		inside = *page;
		kpages_free(heap, page);
	}
	CHECK(t, kheap_remove_region(heap, added),
	      "a region that is empty was not given back while the others are full");
	TRY(test_sound(t, heap, "the region went"));
}

static void limit_holds_for_regions(struct test *t)
{
	struct kheap_config config = test_config(t);
	uint8_t *arena = test_arena(t, 64 * PAGE);
	struct kheap_stats before;
	struct kheap *heap;

	TRY(arena != NULL);
	config.limit_bytes = 40 * PAGE;
	heap = test_heap_in(t, arena, 16 * PAGE, &config);
	TRY(heap != NULL);
	kheap_get_stats(heap, &before);
	CHECK(t, !kheap_add_region(heap, arena + 20 * PAGE, 25 * PAGE), "41 pages were accepted with a limit of 40");
	TRY(test_same(t, heap, &before, "a region beyond the limit"));
	CHECK(t, kheap_add_region(heap, arena + 20 * PAGE, 24 * PAGE), "40 pages were refused with a limit of 40");
	config.limit_bytes = 15 * PAGE;
	heap = test_heap_in(t, arena + 44 * PAGE, 16 * PAGE, &config);
	TRY(heap != NULL);
	kheap_get_stats(heap, &before);
	CHECK(t, before.footprint_bytes <= config.limit_bytes,
	      "a heap made of 16 pages with a limit of 15 has %zu bytes", before.footprint_bytes);
}

#define MANY_CHUNKS_ARENA ((size_t)16 << 20)
#define PROBES_MEAN_MOST 4

/* How many entries are looked at until the one of this address. */
static size_t count_probes(const struct kheap *heap, uintptr_t address)
{
	size_t n = 0;
	unsigned shift = heap->section_shift;

	for (unsigned sizes = 0; sizes < 2; sizes++, shift = other_shift(shift)) {
		const struct section *section;

		for (size_t i = section_place(address, shift, heap->section_mask);;
		     i = section_next(i, heap->section_mask)) {
			section = &heap->sections[i];
			n++;
			if ((address >> GRANULE_SHIFT) - section->first_granule < section->n_granules)
				return n;
			if (section->region == NULL)
				break;
		}
	}
	return SIZE_MAX;
}

/* Chunks of a like size at like distances, as an operating system gives them. */
static void regions_are_found_soon(struct test *t)
{
	struct kheap *heap;
	size_t n_probes = 0, n_pages = 0;

	TRY(test_source(t, MANY_CHUNKS_ARENA));
	t->source.give_minimum = true;
	t->source.gap_pages = 1;
	TRY(test_heap_on_source(t, &heap));
	while (kheap_alloc(heap, (size_t)100 << 10, 0) != NULL)
		;
	for (const struct region *region = heap->regions; region != NULL; region = region->next)
		for (size_t page = 0; page < region->n_pages; page++, n_pages++)
			n_probes += count_probes(heap, (region->first_page + page) << PAGE_SHIFT);
	CHECK(t, n_pages > MANY_CHUNKS_ARENA / PAGE_SIZE / 2, "the heap has only %zu pages", n_pages);
	CHECK(t, n_probes <= n_pages * PROBES_MEAN_MOST, "it takes %zu looks to find the regions of %zu pages",
	      n_probes, n_pages);
	test_note(t, "%zu looks for %zu pages", n_probes, n_pages);
}

/* A request that may not grow the heap gives no chunks back, however much becomes free on the way: whoever holds a lock of its own calls it. */
static void no_growth_gives_nothing_back(struct test *t)
{
	enum { N_SIZES = 400, N = 8000, N_LARGE = 12, LARGE = 150000 };
	static void *objects[N], *large[N_LARGE];
	struct kheap *heap;
	unsigned n_puts;
	size_t size;

	TRY(test_source(t, (size_t)16 << 20));
	TRY(test_heap_on_source(t, &heap));
	/* Very many of one size, and some of others. */
	for (unsigned i = 0; i < N; i++) {
		objects[i] = kheap_alloc(heap, i >= N - N_SIZES ? 600 + i % N_SIZES * 7 : 900, 0);
		CHECK(t, objects[i] != NULL, "object %u was refused", i);
	}
	for (unsigned i = 0; i < N_LARGE; i++)
		CHECK(t, (large[i] = kheap_alloc(heap, LARGE, 0)) != NULL, "large object %u was refused", i);
	for (unsigned i = 0; i < N; i++)
		kheap_free(heap, objects[i]);
	for (unsigned i = 1; i < N_LARGE; i += 2)
		kheap_free(heap, large[i]);
	n_puts = t->source.n_puts;
	size = kheap_get_glance(heap).footprint_bytes - 2 * PAGE;
	CHECK(t, kheap_alloc(heap, size, KMALLOC_NO_GROW) == NULL, "%zu bytes were found", size);
	CHECK(t, t->source.n_puts == n_puts, "%u chunks were put back", t->source.n_puts - n_puts);
	for (unsigned i = 0; i < N_LARGE; i += 2)
		kheap_free(heap, large[i]);
	CHECK(t, t->source.n_puts > n_puts, "no chunk was put back later");
	/* Nor are those lost that are left when the heap ends. */
	CHECK(t, kheap_alloc(heap, size, KMALLOC_NO_GROW) == NULL, "%zu bytes were found", size);
	TRY(test_end_heap(t, heap));
}

/* The first chunks are small, and the last ones large: of those that are kept many small ones are little. */
static void emptied_heap_goes_back(struct test *t)
{
	enum { N = 400, SIZE = 20000 };
	struct kheap *heap;
	struct kheap_stats full, emptied;
	void *objects[N];

	TRY(test_source(t, (size_t)12 << 20) && test_heap_on_source(t, &heap));
	t->source.gap_pages = 1;
	for (unsigned i = 0; i < N; i++) {
		objects[i] = kheap_alloc(heap, SIZE, 0);
		TRY(objects[i] != NULL);
	}
	kheap_get_stats(heap, &full);
	for (unsigned i = 0; i < N; i++)
		kheap_free(heap, objects[i]);
	kheap_get_stats(heap, &emptied);
	CHECK(t, emptied.footprint_bytes <= full.footprint_bytes / 2,
	      "%zu bytes of %zu are held with nothing live, and not given back", emptied.footprint_bytes,
	      full.footprint_bytes);
	test_note(t, "%zu of %zu KiB stay", emptied.footprint_bytes >> 10, full.footprint_bytes >> 10);
	TRY(test_end_heap(t, heap));
}

static const struct test_case cases[] = {
	{ "a heap is made and works in 16 KiB, and not in less", heap_fits_16_kib },
	{ "a region may begin at any address, and nothing outside it is written", region_is_not_left },
	{ "a region is taken back by the address it was added with", added_address_takes_it_back },
	{ "regions without a whole page are refused", tiny_regions_are_refused },
	{ "page 0 is left out and not touched", page_zero_is_left_out },
	{ "adjacent regions stay regions of their own", neighbours_are_regions },
	{ "regions far apart serve one heap", far_regions_serve },
	{ "a region that overlaps another is refused", overlaps_are_refused },
	{ "a region is given back when it is empty, and not before", busy_regions_stay },
	{ "hundreds of small regions are added, filled and taken back", hundreds_of_regions },
	{ "an object of a heap that ended is none of the next one in its memory", pointers_die_with_their_heap },
	{ "a region goes although the heap keeps its section table there", section_table_moves_out },
	{ "a region goes although all others are full", section_table_stays_out },
	{ "a heap's limit holds for regions that are added", limit_holds_for_regions },
	{ "the region of an address is found within a few looks, however many there are", regions_are_found_soon },
	{ "a request that may not grow the heap gives nothing back to the source", no_growth_gives_nothing_back },
	{ "most of a heap that is emptied, the first objects first, goes back by itself", emptied_heap_goes_back },
};
TEST_GROUP(regions, cases);
