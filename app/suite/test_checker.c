/* SPDX-License-Identifier: MIT */
/*
 * The checker itself: every invariant that it knows is broken on purpose, in the heap's own data, and must be
 * reported as what it is; repaired, the heap must be sound again. The one file of the suite that knows the heap's
 * inside.
 */
#include "../heap/internal.h"

#include "selftest.h"

#define ARENA ((size_t)2 << 20)
#define SAVES 4
#define SAVE_SIZE 32

/* A heap with something of everything, and what has been changed in it. */
struct wreck {
	struct kheap *heap;
	struct region *region;
	uint8_t *blocks[5]; /* 1 and 3 are free, 0, 2 and 4 live */
	uint8_t *runs[5];   /* likewise, 20 pages each */
	uint8_t *small[300];
	size_t slab; /* a page of 48-byte objects, some of them free */
	unsigned slab_class;

	unsigned n_saves;
	struct {
		uint8_t *place;
		size_t size;
		uint8_t bytes[SAVE_SIZE];
	} saves[SAVES];
};

/* Remember what is at `place`, which is about to be changed. */
static void save(struct wreck *w, void *place, size_t size)
{
	uint8_t *bytes = place;

	w->saves[w->n_saves].place = bytes;
	w->saves[w->n_saves].size = size;
	for (size_t i = 0; i < size; i++)
		w->saves[w->n_saves].bytes[i] = bytes[i];
	w->n_saves++;
}

static void repair(struct wreck *w)
{
	while (w->n_saves > 0) {
		w->n_saves--;
		for (size_t i = 0; i < w->saves[w->n_saves].size; i++)
			w->saves[w->n_saves].place[i] = w->saves[w->n_saves].bytes[i];
	}
}

static size_t page_of(const struct wreck *w, const void *address)
{
	return ((uintptr_t)address >> PAGE_SHIFT) - w->region->first_page;
}

static struct page_desc *desc_of(const struct wreck *w, const void *address)
{
	return &w->region->descs[page_of(w, address)];
}

static struct block *block_of(const uint8_t *object)
{
	return block_of_payload((uintptr_t)object);
}

static bool find_slab(struct test *t, struct wreck *w)
{
	for (w->slab = 0; w->slab < w->region->n_pages; w->slab++) {
		enum page_kind kind = page_kind_of(w->region, w->slab);

		if (kind < PAGE_SLAB || kind >= PAGE_OVERHEAD || slab_object_size((unsigned)(kind - PAGE_SLAB)) > 64)
			continue;
		w->slab_class = (unsigned)(kind - PAGE_SLAB);
		if (w->heap->cpu0.partial[w->slab_class] == &w->region->descs[w->slab])
			return true;
	}
	test_fail(t, "300 objects of 40 bytes, some of them freed, made no partly free slab");
	return false;
}

static bool build(struct test *t, struct wreck *w)
{
	w->heap = test_heap(t, ARENA);
	if (w->heap == NULL)
		return false;
	w->region = w->heap->regions;
	w->n_saves = 0;
	for (unsigned i = 0; i < 5; i++)
		w->runs[i] = kpages_alloc(w->heap, 20, PAGE_SIZE, UINTPTR_MAX, 0);
	for (unsigned i = 0; i < 5; i++) {
		w->blocks[i] = kheap_alloc(w->heap, 1000, 0);
		/* Side by side: what is left behind the region's descriptors may have room for the first. */
		if (i > 0 && w->blocks[i] != w->blocks[i - 1] + block_size(block_of(w->blocks[i - 1]))) {
			w->blocks[0] = w->blocks[i];
			i = 0;
		}
	}
	for (unsigned i = 0; i < 300; i++)
		w->small[i] = kheap_alloc(w->heap, 40, 0);
	for (unsigned i = 200; i < 300; i += 3)
		kheap_free(w->heap, w->small[i]);
	kheap_leave(w->heap);
	for (unsigned i = 1; i < 5; i += 2) {
		kheap_free(w->heap, w->blocks[i]);
		kheap_free(w->heap, w->runs[i]);
	}
	for (unsigned i = 0; i + 1 < 5; i++)
		REQUIRE(t, w->runs[i + 1] == w->runs[i] + 20 * PAGE_SIZE, "runs of 20 pages are not neighbours");
	return find_slab(t, w) && test_sound(t, w->heap, "the heap was prepared");
}

/* All steps of kheap_check_step through the heap: the class of the first fault. */
static enum kheap_fault_class check_in_steps(struct wreck *w, unsigned *n_steps)
{
	struct kheap_fault fault = { .fault_class = KHEAP_FAULT_NONE }, first = fault;
	size_t cursor = 0;

	*n_steps = 0;
	do {
		if (kheap_check_step(w->heap, &cursor, 3, &fault) != 0 && first.fault_class == KHEAP_FAULT_NONE)
			first = fault;
		(*n_steps)++;
	} while (cursor != 0 && *n_steps < 10000);
	return first.fault_class;
}

/* ------------------------------------------------------------------------------------------------------------
 * One way to break each invariant
 * --------------------------------------------------------------------------------------------------------- */

static void break_block_tag(struct wreck *w)
{
	save(w, block_of(w->blocks[2]), sizeof(uint64_t));
	block_of(w->blocks[2])->tag ^= 0x10000;
}

static void break_block_tag_by_size(struct wreck *w)
{
	save(w, block_of(w->blocks[2]), sizeof(uint64_t));
	block_of(w->blocks[2])->size_flags += GRANULE;
}

static void reseal(struct wreck *w, uint8_t *object, size_t size, uint32_t flags)
{
	struct block *block = block_of(object);

	save(w, block, sizeof(uint64_t));
	block_seal(w->heap, block, (uint32_t)size | flags, block_label(block));
}

static void break_block_size_small(struct wreck *w)
{
	reseal(w, w->blocks[2], BLOCK_MIN / 2, block_of(w->blocks[2])->size_flags & BLOCK_FLAGS);
}

static void break_block_size_large(struct wreck *w)
{
	reseal(w, w->blocks[2], (AREA_MAX_PAGES + 1) * PAGE_SIZE, block_of(w->blocks[2])->size_flags & BLOCK_FLAGS);
}

static void break_block_previous(struct wreck *w)
{
	struct block *block = block_of(w->blocks[2]);

	reseal(w, w->blocks[2], block_size(block), (block->size_flags & BLOCK_FLAGS) ^ BLOCK_PREV_FREE);
}

static void break_block_footer(struct wreck *w)
{
	save(w, block_footer(block_of(w->blocks[1])), sizeof(uint64_t));
	*block_footer(block_of(w->blocks[1])) += GRANULE;
}

static void break_block_unmerged(struct wreck *w)
{
	struct block *block = block_of(w->blocks[2]);

	reseal(w, w->blocks[2], block_size(block), BLOCK_PREV_FREE);
}

static void break_block_link(struct wreck *w)
{
	struct block *block = block_of(w->blocks[1]);

	save(w, &block->prev, sizeof(block->prev));
	block->prev = block_of(w->blocks[2]);
}

static void break_block_link_outside(struct wreck *w)
{
	struct block *block = block_of(w->blocks[1]);

	save(w, &block->next, sizeof(block->next));
	block->next = (struct block *)(uintptr_t)0x1238;
}

static void break_block_head(struct wreck *w)
{
	unsigned bin = block_bin_of(block_size(block_of(w->blocks[1])));

	save(w, &w->heap->blocks.heads[bin], sizeof(struct block *));
	w->heap->blocks.heads[bin] = NULL;
}

static void break_block_bitmap(struct wreck *w)
{
	uint64_t *word = &w->heap->blocks.bits[(BLOCK_BINS - 1) / 64];

	save(w, word, sizeof(*word));
	*word ^= (uint64_t)1 << (BLOCK_BINS - 1) % 64;
}

/* Objects of some granules do not start in the last one of a page. */
static void break_slab_start(struct wreck *w)
{
	uint32_t *word = &page_starts(w->region, w->slab)[PAGE_WORDS - 1];

	save(w, word, sizeof(*word));
	*word |= (uint32_t)1 << (WORD_GRANULES - 1);
}

static void break_slab_magazine(struct wreck *w)
{
	uint8_t *magazine = magazine_byte(w->region, page_address(w->region, w->slab) + 3 * CELL_BYTES);

	save(w, magazine, sizeof(*magazine));
	(*magazine)++;
}

static void save_start(struct wreck *w, const uint8_t *address)
{
	size_t n = granule_of(w->region, (uintptr_t)address);

	save(w, &w->region->starts[n / WORD_GRANULES], sizeof(uint32_t));
}

static void break_block_start(struct wreck *w)
{
	save_start(w, w->blocks[2]);
	start_clear(w->region, (uintptr_t)w->blocks[2]);
}

static void break_block_start_inside(struct wreck *w)
{
	save_start(w, w->blocks[2] + 512);
	start_set(w->region, (uintptr_t)w->blocks[2] + 512);
}

static void break_slab_count(struct wreck *w)
{
	struct page_desc *desc = &w->region->descs[w->slab];

	save(w, &desc->n_free, sizeof(desc->n_free));
	desc->n_free++;
}

static void break_slab_hint(struct wreck *w)
{
	struct page_desc *desc = &w->region->descs[w->slab];

	save(w, &desc->hint, sizeof(desc->hint));
	desc->hint = PAGE_WORDS;
}

/* As if none of its objects had ever come back. */
static void break_slab_fresh(struct wreck *w)
{
	struct page_desc *desc = &w->region->descs[w->slab];

	save(w, &desc->hint, sizeof(desc->hint));
	desc->hint = HINT_FRESH;
}

static void break_slab_head(struct wreck *w)
{
	save(w, &w->heap->cpu0.partial[w->slab_class], sizeof(struct page_desc *));
	w->heap->cpu0.partial[w->slab_class] = NULL;
}

static void break_slab_link(struct wreck *w)
{
	struct page_desc *desc = &w->region->descs[w->slab];

	save(w, &desc->prev, sizeof(desc->prev));
	desc->prev = desc_of(w, w->runs[0]);
}

static void break_run_bounds(struct wreck *w)
{
	save(w, &desc_of(w, w->runs[2])->n_pages, sizeof(uint32_t));
	desc_of(w, w->runs[2])->n_pages = (uint32_t)w->region->n_pages;
}

static void break_run_bounds_zero(struct wreck *w)
{
	save(w, &desc_of(w, w->runs[2])->n_pages, sizeof(uint32_t));
	desc_of(w, w->runs[2])->n_pages = 0;
}

static void break_run_tail(struct wreck *w)
{
	struct page_desc *tail = desc_of(w, w->runs[2] - PAGE_SIZE);

	save(w, &tail->n_pages, sizeof(tail->n_pages));
	tail->n_pages--;
}

static void break_kind(struct wreck *w, size_t page, enum page_kind kind)
{
	save(w, &w->region->kinds[page], 1);
	save(w, page_starts(w->region, page), sizeof(uint32_t));
	run_start_set(w->region, page, kind);
}

static void break_run_unmerged(struct wreck *w)
{
	break_kind(w, page_of(w, w->runs[2]), PAGE_FREE);
}

static void break_run_link(struct wreck *w)
{
	struct page_desc *desc = desc_of(w, w->runs[1]);

	save(w, &desc->next, sizeof(desc->next));
	desc->next = desc;
}

static void break_run_head(struct wreck *w)
{
	struct run_bins *bins = &w->heap->runs[page_zone(w->region->first_page + page_of(w, w->runs[1]))];
	unsigned bin = run_bin_of(20);

	save(w, &bins->heads[bin], sizeof(struct page_desc *));
	bins->heads[bin] = NULL;
}

static void break_run_bitmap(struct wreck *w)
{
	struct run_bins *bins = &w->heap->runs[ZONE_LOW];

	save(w, &bins->bits, sizeof(bins->bits));
	bins->bits ^= 2;
}

static void break_run_top_bitmap(struct wreck *w)
{
	struct run_bins *bins = &w->heap->runs[ZONE_HIGH];

	save(w, &bins->bits, sizeof(bins->bits));
	bins->bits ^= (uint64_t)1 << (RUN_BINS - 1);
}

static void break_page_inside_run(struct wreck *w)
{
	break_kind(w, page_of(w, w->runs[2]) + 7, PAGE_RUN);
}

static void break_page_kind(struct wreck *w)
{
	break_kind(w, page_of(w, w->runs[2]), PAGE_KIND_MASK);
}

static void break_page_body(struct wreck *w)
{
	break_kind(w, page_of(w, w->runs[2]), PAGE_BODY);
}

static struct section *section_of(struct wreck *w)
{
	size_t i = 0;

	while (w->heap->sections[i].region != w->region)
		i++;
	return &w->heap->sections[i];
}

static void break_section_gone(struct wreck *w)
{
	struct section *section = section_of(w);

	save(w, section, sizeof(*section));
	*section = (struct section){ 0 };
}

static void break_section_count(struct wreck *w)
{
	save(w, &w->heap->n_sections, sizeof(size_t));
	w->heap->n_sections++;
}

static void break_live_bytes(struct wreck *w)
{
	save(w, &w->heap->counters.live_bytes, sizeof(size_t));
	w->heap->counters.live_bytes -= 16;
}

static void break_live_objects(struct wreck *w)
{
	save(w, &w->heap->counters.live_objects, sizeof(size_t));
	w->heap->counters.live_objects++;
}

static void break_footprint(struct wreck *w)
{
	save(w, &w->heap->counters.footprint_pages, sizeof(size_t));
	w->heap->counters.footprint_pages++;
}

static void break_busy(struct wreck *w)
{
	save(w, &w->region->n_busy, sizeof(size_t));
	w->region->n_busy--;
}

static void break_canary(struct wreck *w)
{
	save(w, w->blocks[2] + 1000, 1);
	w->blocks[2][1000] ^= 0x40;
}

static void break_poison(struct wreck *w)
{
	save(w, w->blocks[1] + 500, 1);
	w->blocks[1][500] ^= 0x40;
}

static void break_run_poison(struct wreck *w)
{
	save(w, w->runs[1] + 3 * PAGE_SIZE + 5, 1);
	w->runs[1][3 * PAGE_SIZE + 5] ^= 0x40;
}

static const struct {
	enum kheap_fault_class fault_class;
	bool is_local; /* to a page, so that kheap_check_step sees it */
	void (*apply)(struct wreck *w);
	const char *what;
} breaks[] = {
	{ KHEAP_FAULT_BLOCK_TAG, true, break_block_tag, "a changed tag" },
	{ KHEAP_FAULT_BLOCK_TAG, true, break_block_tag_by_size, "a changed size" },
	{ KHEAP_FAULT_BLOCK_SIZE, true, break_block_size_small, "a sealed size below the minimum" },
	{ KHEAP_FAULT_BLOCK_SIZE, true, break_block_size_large, "a sealed size past the area" },
	{ KHEAP_FAULT_BLOCK_PREVIOUS, true, break_block_previous, "a changed flag of the block before" },
	{ KHEAP_FAULT_BLOCK_PREVIOUS, true, break_block_footer, "a changed size at a free block's end" },
	{ KHEAP_FAULT_BLOCK_UNMERGED, true, break_block_unmerged,
	  "a live block that claims to be free between free ones" },
	{ KHEAP_FAULT_BLOCK_LIST, true, break_block_link, "a link to a live block" },
	{ KHEAP_FAULT_BLOCK_LIST, true, break_block_link_outside, "a link out of the heap" },
	{ KHEAP_FAULT_BLOCK_LIST, true, break_block_head, "a list that lost its head" },
	{ KHEAP_FAULT_BLOCK_BITMAP, false, break_block_bitmap, "a bit for an empty list of blocks" },
	{ KHEAP_FAULT_STARTS, true, break_slab_start, "an object where none of its slab can be" },
	{ KHEAP_FAULT_STARTS, true, break_slab_magazine, "a slab's object for another magazine" },
	{ KHEAP_FAULT_STARTS, true, break_block_start, "a live block that starts nowhere" },
	{ KHEAP_FAULT_STARTS, true, break_block_start_inside, "an object that starts inside a block" },
	{ KHEAP_FAULT_SLAB_COUNT, true, break_slab_count, "a slab with one free object too many" },
	{ KHEAP_FAULT_SLAB_COUNT, true, break_slab_hint, "a slab with free objects in front of its first" },
	{ KHEAP_FAULT_SLAB_COUNT, true, break_slab_fresh, "a slab with free objects between live ones, called fresh" },
	{ KHEAP_FAULT_SLAB_LIST, true, break_slab_head, "a class that lost its slabs" },
	{ KHEAP_FAULT_SLAB_LIST, true, break_slab_link, "a slab with a wrong link" },
	{ KHEAP_FAULT_RUN_BOUNDS, true, break_run_bounds, "a run past its region" },
	{ KHEAP_FAULT_RUN_BOUNDS, true, break_run_bounds_zero, "a run of no pages" },
	{ KHEAP_FAULT_RUN_TAIL, true, break_run_tail, "a free run whose ends disagree" },
	{ KHEAP_FAULT_RUN_UNMERGED, true, break_run_unmerged, "two free runs side by side" },
	{ KHEAP_FAULT_RUN_LIST, true, break_run_link, "a run that is linked to itself" },
	{ KHEAP_FAULT_RUN_LIST, true, break_run_head, "a list of runs that lost its head" },
	{ KHEAP_FAULT_RUN_BITMAP, false, break_run_bitmap, "a bit for an empty list of runs" },
	{ KHEAP_FAULT_RUN_BITMAP, false, break_run_top_bitmap, "a bit for the empty list of the longest runs" },
	{ KHEAP_FAULT_PAGE_KIND, true, break_page_inside_run, "a run inside a run" },
	{ KHEAP_FAULT_PAGE_KIND, true, break_page_kind, "a kind of page that does not exist" },
	/* A step takes it for the inside of what is in front, and passes over it. */
	{ KHEAP_FAULT_PAGE_KIND, false, break_page_body, "a page that belongs to nothing" },
	{ KHEAP_FAULT_SECTION_TABLE, false, break_section_gone, "a region that is missing in the table" },
	{ KHEAP_FAULT_SECTION_TABLE, false, break_section_count, "a wrong count of the table" },
	{ KHEAP_FAULT_COUNTERS, false, break_live_bytes, "a wrong count of live bytes" },
	{ KHEAP_FAULT_COUNTERS, false, break_live_objects, "a wrong count of live objects" },
	{ KHEAP_FAULT_COUNTERS, false, break_footprint, "a wrong count of pages" },
	{ KHEAP_FAULT_COUNTERS, false, break_busy, "a wrong count of a region's busy pages" },
	{ KHEAP_FAULT_CANARY, true, break_canary, "a changed canary" },
	{ KHEAP_FAULT_POISON, true, break_poison, "a changed byte of a free block" },
	{ KHEAP_FAULT_POISON, true, break_run_poison, "a changed byte of a free run" },
};

#define N_BREAKS (sizeof(breaks) / sizeof(breaks[0]))

static bool is_for_hardened(enum kheap_fault_class fault_class)
{
	return fault_class == KHEAP_FAULT_CANARY || fault_class == KHEAP_FAULT_POISON;
}

/* ------------------------------------------------------------------------------------------------------------
 * Cases
 * --------------------------------------------------------------------------------------------------------- */

static bool is_found(struct test *t, struct wreck *w, size_t i)
{
	struct kheap_fault first = { .fault_class = KHEAP_FAULT_NONE };
	enum kheap_fault_class in_steps;
	unsigned n_steps;
	size_t n;

	breaks[i].apply(w);
	n = kheap_check(w->heap, &first);
	in_steps = check_in_steps(w, &n_steps);
	repair(w);
	/* The check build may have looked by itself meanwhile. */
	t->n_errors = 0;
	REQUIRE(t, n != 0, "kheap_check found nothing wrong with %s", breaks[i].what);
	REQUIRE(t, first.fault_class == breaks[i].fault_class, "kheap_check called %s '%s', expected '%s'",
	        breaks[i].what, kheap_fault_name(first.fault_class), kheap_fault_name(breaks[i].fault_class));
	/* A step does not know the run around a page of a wrong kind, and may see what that kind brings with it. */
	REQUIRE(t,
	        !breaks[i].is_local || in_steps == breaks[i].fault_class ||
	                (breaks[i].fault_class == KHEAP_FAULT_PAGE_KIND && in_steps != KHEAP_FAULT_NONE),
	        "kheap_check_step called %s '%s', expected '%s'", breaks[i].what, kheap_fault_name(in_steps),
	        kheap_fault_name(breaks[i].fault_class));
	return test_sound(t, w->heap, "the repair");
}

static void all_breaks_are_found(struct test *t)
{
	static struct wreck w;
	unsigned n = 0;

	TRY(build(t, &w));
	for (size_t i = 0; i < N_BREAKS; i++) {
		if (is_for_hardened(breaks[i].fault_class) && !test_is_hardened())
			continue;
		TRY(is_found(t, &w, i));
		n++;
	}
	test_note(t, "%u faults", n);
}

static void all_classes_are_broken(struct test *t)
{
	for (int fault_class = KHEAP_FAULT_NONE + 1; fault_class < KHEAP_N_FAULT_CLASSES; fault_class++) {
		size_t i = 0;

		while (i < N_BREAKS && (int)breaks[i].fault_class != fault_class)
			i++;
		CHECK(t, i < N_BREAKS, "no case breaks the invariant '%s'",
		      kheap_fault_name((enum kheap_fault_class)fault_class));
	}
}

static void addresses_are_named(struct test *t)
{
	static struct wreck w;
	struct kheap_fault first;

	TRY(build(t, &w));
	break_block_tag(&w);
	(void)kheap_check(w.heap, &first);
	repair(&w);
	CHECK(t, first.address == (uintptr_t)w.blocks[2] - BLOCK_HEADER, "a damaged block at %p was reported at 0x%zx",
	      (void *)w.blocks[2], (size_t)first.address);
	break_run_bounds(&w);
	(void)kheap_check(w.heap, &first);
	repair(&w);
	CHECK(t, first.address == (uintptr_t)w.runs[2], "a damaged run at %p was reported at 0x%zx", (void *)w.runs[2],
	      (size_t)first.address);
	CHECK(t, kheap_check(w.heap, NULL) == 0, "a repaired heap has faults");
	t->n_errors = 0;
}

static void steps_cover_the_heap(struct test *t)
{
	static struct wreck w;
	unsigned n_steps;

	TRY(build(t, &w));
	CHECK(t, check_in_steps(&w, &n_steps) == KHEAP_FAULT_NONE, "kheap_check_step found faults in a sound heap");
	/* Three pages a step, but a run or an area is never cut. */
	CHECK(t, n_steps >= 8 && n_steps <= ARENA / PAGE_SIZE, "%u steps went round %zu pages", n_steps,
	      ARENA / PAGE_SIZE);
}

/* ------------------------------------------------------------------------------------------------------------
 * The table of sections
 * --------------------------------------------------------------------------------------------------------- */

static const struct test_case cases[] = {
	{ "each broken invariant is reported as what it is, and repaired the heap is sound", all_breaks_are_found },
	{ "there is a case for every class of fault", all_classes_are_broken },
	{ "a fault is reported where it is", addresses_are_named },
	{ "steps go round the whole heap", steps_cover_the_heap },
};
TEST_GROUP(checker, cases);
