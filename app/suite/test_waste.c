/* SPDX-License-Identifier: MIT */
/*
 * Waste, which no consistency check can see: bytes of memory for each object, and the smallest arena in which
 * random work fits. Every figure has a bound. Bounds are for the release build; the hardened builds add a canary to
 * each object and have bounds of their own.
 */
#include "selftest.h"

#define DENSITY_ARENA ((size_t)1 << 20)
/* So large that the arena's own alignment does not count. */
#define POWERS_ARENA ((size_t)4 << 20)

/* ------------------------------------------------------------------------------------------------------------
 * Density
 * --------------------------------------------------------------------------------------------------------- */

/* How many equal objects fill an arena: bytes of it for each. */
static size_t bytes_per_object(struct test *t, void *arena, size_t arena_bytes, size_t size)
{
	struct kheap_config config = test_config(t);
	struct kheap *heap = kheap_create(arena, arena_bytes, &config);
	size_t n = 0;

	while (heap != NULL && kheap_alloc(heap, size, 0) != NULL)
		n++;
	return n != 0 ? arena_bytes / n : SIZE_MAX;
}

/* The bound: rounding to 16, a header of 8 above the slabs' sizes, and 7 % for page ends and the heap's own. */
static size_t density_bound(size_t size)
{
	size_t gross = size + (test_is_hardened() ? 8 : 0);
	bool is_natural = size > 16 && (size & (size - 1)) == 0;
	bool is_slab = gross <= 256 || (gross <= 2048 && (gross & (gross - 1)) == 0);
	size_t rounded = is_slab ? (gross + 15) / 16 * 16 : (gross + 8 + 15) / 16 * 16;

	/* With a canary a power of two takes its alignment twice. */
	if (test_is_hardened() && is_natural)
		rounded = 2 * size;
	return rounded + rounded * 7 / 100;
}

static bool is_dense(struct test *t, void *arena, size_t size, unsigned *worst)
{
	size_t seen = bytes_per_object(t, arena, DENSITY_ARENA, size), bound = density_bound(size);
	unsigned percent = (unsigned)(seen * 100 / size);

	REQUIRE(t, seen <= bound, "objects of %zu bytes take %zu bytes each of 1 MiB, the bound is %zu", size, seen,
	        bound);
	if (percent > *worst)
		*worst = percent;
	return true;
}

static void small_objects_are_dense(struct test *t)
{
	void *arena = test_arena(t, DENSITY_ARENA);
	unsigned worst = 0;

	TRY(arena != NULL);
	for (size_t size = 16; size <= 256; size += 8)
		TRY(is_dense(t, arena, size, &worst));
	test_note(t, "16: %zu, 24: %zu, 64: %zu, 200: %zu, 256: %zu bytes",
	          bytes_per_object(t, arena, DENSITY_ARENA, 16), bytes_per_object(t, arena, DENSITY_ARENA, 24),
	          bytes_per_object(t, arena, DENSITY_ARENA, 64), bytes_per_object(t, arena, DENSITY_ARENA, 200),
	          bytes_per_object(t, arena, DENSITY_ARENA, 256));
}

static void larger_objects_are_dense(struct test *t)
{
	static const size_t sizes[] = { 300, 400, 500, 600, 777, 1000, 1200, 1500, 2000, 3000, 5000, 6000, 10000 };
	void *arena = test_arena(t, DENSITY_ARENA);
	unsigned worst = 0;

	TRY(arena != NULL);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		TRY(is_dense(t, arena, sizes[i], &worst));
	test_note(t, "500: %zu, 1000: %zu, 1500: %zu, 3000: %zu, 5000: %zu bytes",
	          bytes_per_object(t, arena, DENSITY_ARENA, 500), bytes_per_object(t, arena, DENSITY_ARENA, 1000),
	          bytes_per_object(t, arena, DENSITY_ARENA, 1500), bytes_per_object(t, arena, DENSITY_ARENA, 3000),
	          bytes_per_object(t, arena, DENSITY_ARENA, 5000));
}

static void powers_of_two_are_dense(struct test *t)
{
	/* Naturally aligned, so nothing may be put in front of them. */
	static const size_t sizes[] = { 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536 };
	void *arena = test_arena(t, POWERS_ARENA);
	size_t seen[8];

	TRY(arena != NULL);
	for (size_t i = 0; i < 8; i++) {
		/* A canary makes it a size of its own, and alignment then costs up to as much again. */
		size_t bound = test_is_hardened() ? 2 * sizes[i] + sizes[i] / 4 : sizes[i] + sizes[i] / 8;

		seen[i] = bytes_per_object(t, arena, POWERS_ARENA, sizes[i]);
		CHECK(t, seen[i] <= bound, "objects of %zu bytes take %zu bytes each of 4 MiB, the bound is %zu",
		      sizes[i], seen[i], bound);
	}
	test_note(t, "512: %zu, 1024: %zu, 2048: %zu, 4096: %zu, 16384: %zu bytes", seen[0], seen[1], seen[2], seen[3],
	          seen[5]);
}

/* ------------------------------------------------------------------------------------------------------------
 * Arena fit
 * --------------------------------------------------------------------------------------------------------- */

#define FIT_SLOTS 10000
#define FIT_STEPS 200000
#define FIT_SEED 88172645463325252u

struct fit_slot {
	void *object;
	size_t size;
};

struct fit {
	struct test *test;
	struct fit_slot *slots;
	void *arena;
	unsigned octaves; /* sizes 16 << 0 .. 16 << octaves */
	uint64_t state;
	size_t live, peak; /* bytes asked for */
};

/* xorshift64, as the workload was defined for other allocators too. */
static uint64_t fit_next(struct fit *fit)
{
	fit->state ^= fit->state << 13;
	fit->state ^= fit->state >> 7;
	fit->state ^= fit->state << 17;
	return fit->state;
}

static size_t fit_size(struct fit *fit)
{
	uint64_t r = fit_next(fit);
	size_t base = (size_t)16 << (r % fit->octaves);

	return base + (size_t)((r >> 32) % base);
}

/* The first and the last 8 bytes of each object say whose they are. */
static void stamp(struct fit_slot *slot)
{
	uintptr_t whose = (uintptr_t)slot;

	__builtin_memcpy(slot->object, &whose, sizeof(whose));
	__builtin_memcpy((uint8_t *)slot->object + slot->size - sizeof(whose), &whose, sizeof(whose));
}

static bool is_stamped(const struct fit_slot *slot)
{
	uintptr_t first, last;

	__builtin_memcpy(&first, slot->object, sizeof(first));
	__builtin_memcpy(&last, (const uint8_t *)slot->object + slot->size - sizeof(last), sizeof(last));
	return first == (uintptr_t)slot && last == (uintptr_t)slot;
}

static bool fit_alloc(struct fit *fit, struct kheap *heap, struct fit_slot *slot)
{
	slot->size = fit_size(fit);
	slot->object = kheap_alloc(heap, slot->size, 0);
	if (slot->object == NULL)
		return false;
	stamp(slot);
	fit->live += slot->size;
	if (fit->live > fit->peak)
		fit->peak = fit->live;
	return true;
}

static bool fit_free(struct fit *fit, struct kheap *heap, struct fit_slot *slot)
{
	REQUIRE(fit->test, is_stamped(slot), "an object of %zu bytes at %p lost its stamp", slot->size, slot->object);
	kheap_free(heap, slot->object);
	fit->live -= slot->size;
	return true;
}

/* Do all steps succeed in an arena of this size? */
static bool fits(struct fit *fit, size_t arena_bytes)
{
	struct kheap_config config = test_config(fit->test);
	struct kheap *heap = kheap_create(fit->arena, arena_bytes, &config);

	fit->state = FIT_SEED;
	fit->live = fit->peak = 0;
	fit->test->host->alive(fit->test->host, false);
	if (heap == NULL)
		return false;
	for (size_t i = 0; i < FIT_SLOTS; i++)
		if (!fit_alloc(fit, heap, &fit->slots[i]))
			return false;
	for (size_t i = 0; i < FIT_STEPS; i++) {
		struct fit_slot *slot = &fit->slots[fit_next(fit) % FIT_SLOTS];

		if (!fit_free(fit, heap, slot) || !fit_alloc(fit, heap, slot))
			return false;
	}
	return true;
}

/* The smallest arena that fits, to 4 KiB, between one that does not and one that does. */
static size_t smallest_arena(struct fit *fit, size_t low, size_t high)
{
	while (high - low > KMALLOC_PAGE_SIZE && fit->test->state != CASE_FAILED) {
		size_t middle = (low + (high - low) / 2) & ~(KMALLOC_PAGE_SIZE - 1);

		if (fits(fit, middle))
			high = middle;
		else
			low = middle;
	}
	return high;
}

/*
 * The verdict is one run in an arena of the bound. The figure takes ten more, so a slow machine only gets the
 * verdict.
 */
static void fit_is_bounded(struct test *t, unsigned octaves, size_t arena_bytes, unsigned bound)
{
	struct fit fit = { .test = t, .octaves = octaves };
	size_t limit, smallest, peak;
	uint64_t begin;

	fit.slots = test_arena(t, FIT_SLOTS * sizeof(struct fit_slot));
	fit.arena = test_arena(t, arena_bytes);
	TRY(fit.slots != NULL && fit.arena != NULL);
	begin = t->host->ticks(t->host);
	CHECK(t, fits(&fit, arena_bytes), "the work does not fit an arena of %zu bytes, the peak being %zu",
	      arena_bytes, fit.peak);
	peak = fit.peak;
	limit = (size_t)((uint64_t)peak * bound / 1000) & ~(KMALLOC_PAGE_SIZE - 1);
	CHECK(t, fits(&fit, limit), "the work does not fit an arena of %u.%03u times its peak of %zu live bytes",
	      bound / 1000, bound % 1000, peak);
	if (t->host->ticks(t->host) - begin > t->host->ticks_per_second) {
		test_note(t, "within %u.%03u of a peak of %zu bytes", bound / 1000, bound % 1000, peak);
		return;
	}
	smallest = smallest_arena(&fit, peak & ~(KMALLOC_PAGE_SIZE - 1), limit);
	test_note(t, "%u.%03u of a peak of %zu bytes, bound %u.%03u", (unsigned)(smallest / (peak / 1000)) / 1000,
	          (unsigned)(smallest / (peak / 1000)) % 1000, peak, bound / 1000, bound % 1000);
}

static void mixed_work_fits(struct test *t)
{
	fit_is_bounded(t, 8, (size_t)11 << 20, test_is_hardened() ? 1200 : 1100);
}

static void small_work_fits(struct test *t)
{
	fit_is_bounded(t, 4, (size_t)1600 << 10, test_is_hardened() ? 1350 : 1170);
}

/* ------------------------------------------------------------------------------------------------------------
 * Long use
 * --------------------------------------------------------------------------------------------------------- */

/*
 * The same work for a long time: the heap must not creep. Means, because the most that a random walk ever needed grows for ever, with the
 * logarithm of its steps.
 */
static void footprint_does_not_creep(struct test *t)
{
	enum { SLOTS = 500, STEPS = 160000, QUARTERS = 4 };
	uint64_t sums[QUARTERS] = { 0 }, lives[QUARTERS] = { 0 };
	struct fit_slot *slots;
	struct random random;
	struct kheap *heap;
	size_t live = 0, early, late, most;

	TRY(test_source(t, (size_t)6 << 20));
	slots = test_arena(t, SLOTS * sizeof(struct fit_slot));
	TRY(slots != NULL && test_heap_on_source(t, &heap));
	for (unsigned i = 0; i < SLOTS; i++)
		slots[i].object = NULL;
	random_seed(&random, t->options->seed);
	for (unsigned i = 0; i < STEPS; i++) {
		struct fit_slot *slot = &slots[random_below(&random, SLOTS)];

		if (slot->object != NULL)
			live -= slot->size;
		kheap_free(heap, slot->object);
		slot->size = random_size(&random, 16, 16000);
		slot->object = kheap_alloc(heap, slot->size, 0);
		CHECK(t, slot->object != NULL, "%zu bytes were refused with %zu live in 6 MiB", slot->size, live);
		live += slot->size;
		sums[i / (STEPS / QUARTERS)] += kheap_get_glance(heap).footprint_bytes / KMALLOC_PAGE_SIZE;
		lives[i / (STEPS / QUARTERS)] += live / KMALLOC_PAGE_SIZE;
	}
	/* The second quarter beside the last, as if as much had been live. */
	early = (size_t)(sums[1] / (STEPS / QUARTERS) * lives[QUARTERS - 1] / lives[1]);
	late = (size_t)(sums[QUARTERS - 1] / (STEPS / QUARTERS));
	most = early + early / 8;
	CHECK(t, late <= most, "the mean footprint grew from %zu to %zu pages with the same work", early, late);
	test_note(t, "%zu pages in the second quarter, %zu in the last, of at most %zu", early, late, most);
	for (unsigned i = 0; i < SLOTS; i++)
		kheap_free(heap, slots[i].object);
}

static const struct test_case cases[] = {
	{ "objects of 16 to 256 bytes take their rounded size and 7 %", small_objects_are_dense },
	{ "larger objects take their rounded size, 8 bytes and 7 %", larger_objects_are_dense },
	{ "naturally aligned powers of two take their size and an eighth", powers_of_two_are_dense },
	{ "10,000 objects of 16 to 4095 bytes, 200,000 steps: the smallest arena", mixed_work_fits },
	{ "10,000 objects of 16 to 255 bytes, 200,000 steps: the smallest arena", small_work_fits },
	{ "the footprint does not creep in long use", footprint_does_not_creep },
};
TEST_GROUP(waste, cases);
