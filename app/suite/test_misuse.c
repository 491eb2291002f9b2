/* SPDX-License-Identifier: MIT */
/*
 * Misuse: every detection fires, with the right class and address, at the point that is documented, and changes
 * nothing. What only the hardened builds detect is skipped in the release build.
 */
#include "selftest.h"

#define ARENA ((size_t)2 << 20)

/* One size for each way in which the heap keeps objects: few small ones, many small ones, blocks, page runs. */
static const size_t sizes[] = { 1, 48, 200, 1000, 1024, 5000, 20000, 100000, 300000 };
#define N_SIZES (sizeof(sizes) / sizeof(sizes[0]))

/* Five neighbours of one size; in the second round after so many others that small ones come from slabs. */
struct neighbours {
	struct kheap *heap;
	uint8_t *objects[5];
	size_t size;
};

static bool get_neighbours(struct test *t, struct kheap *heap, size_t size, bool many, struct neighbours *n)
{
	*n = (struct neighbours){ .heap = heap, .size = size };
	for (unsigned i = 0; many && i < 300 && size <= 256; i++)
		(void)kheap_alloc(heap, size, 0);
	for (unsigned i = 0; i < 5; i++) {
		n->objects[i] = kheap_alloc(heap, size, 0);
		REQUIRE(t, n->objects[i] != NULL, "%zu bytes were refused", size);
		test_fill(n->objects[i], size, i);
	}
	return true;
}

/* The misuse was reported so, and changed nothing. */
static bool is_reported(struct test *t, struct kheap *heap, const struct kheap_stats *before,
                        enum kmalloc_error_class error_class, const void *address)
{
	return test_expect_error(t, error_class, address) &&
	       test_same(t, heap, before, kmalloc_error_name(error_class));
}

/* Run `probe` on neighbours of every size, from blocks and from slabs, in a heap of its own each. */
static void for_every_kind(struct test *t, bool (*probe)(struct test *t, struct neighbours *n))
{
	void *arena = test_arena(t, ARENA);

	TRY(arena != NULL);
	for (unsigned i = 0; i < 2 * N_SIZES; i++) {
		struct kheap_config config = test_config(t);
		struct kheap *heap = test_heap_in(t, arena, ARENA, &config);
		struct neighbours n;

		TRY(heap != NULL && get_neighbours(t, heap, sizes[i / 2], i % 2 != 0, &n) && probe(t, &n));
		TRY(t->is_damaged || test_sound(t, heap, "a misuse"));
		/* The arena is the next one's. */
		t->n_heaps = 0;
	}
}

/* ------------------------------------------------------------------------------------------------------------
 * Freeing twice
 * --------------------------------------------------------------------------------------------------------- */

static bool free_again(struct test *t, struct neighbours *n, unsigned i)
{
	struct kheap_stats before;

	kheap_get_stats(n->heap, &before);
	kheap_free(n->heap, n->objects[i]);
	return is_reported(t, n->heap, &before, KMALLOC_DOUBLE_FREE, n->objects[i]);
}

static bool probe_double_free(struct test *t, struct neighbours *n)
{
	kheap_free(n->heap, n->objects[2]);
	if (!free_again(t, n, 2)) /* at once */
		return false;
	kheap_free(n->heap, n->objects[4]);
	if (!free_again(t, n, 2) || !free_again(t, n, 4)) /* after another */
		return false;
	kheap_free(n->heap, n->objects[1]);
	kheap_free(n->heap, n->objects[3]);
	/* All four are one range now, where that can be. */
	for (unsigned i = 1; i < 5; i++)
		if (!free_again(t, n, i))
			return false;
	if (!test_filled(t, n->objects[0], n->size, 0, "an object beside ones that were freed twice"))
		return false;
	kheap_free(n->heap, n->objects[0]);
	return free_again(t, n, 0);
}

static void double_frees_are_reported(struct test *t)
{
	for_every_kind(t, probe_double_free);
}

static bool probe_other_calls(struct test *t, struct neighbours *n)
{
	struct kheap_stats before;
	void *freed = n->objects[2];

	kheap_free(n->heap, freed);
	kheap_get_stats(n->heap, &before);
	REQUIRE(t, kheap_realloc(n->heap, freed, 100) == NULL, "a freed object was resized");
	if (!is_reported(t, n->heap, &before, KMALLOC_DOUBLE_FREE, freed))
		return false;
	REQUIRE(t, !kheap_try_resize(n->heap, freed, 100), "a freed object was resized in place");
	if (!is_reported(t, n->heap, &before, KMALLOC_DOUBLE_FREE, freed))
		return false;
	REQUIRE(t, kheap_usable_size(n->heap, freed) == 0, "a freed object has a usable size");
	if (!is_reported(t, n->heap, &before, KMALLOC_DOUBLE_FREE, freed))
		return false;
	kheap_free_sized(n->heap, freed, n->size);
	if (!is_reported(t, n->heap, &before, KMALLOC_DOUBLE_FREE, freed))
		return false;
	kpages_free(n->heap, freed);
	return is_reported(t, n->heap, &before, KMALLOC_DOUBLE_FREE, freed);
}

static void other_calls_report_too(struct test *t)
{
	for_every_kind(t, probe_other_calls);
}

/* ------------------------------------------------------------------------------------------------------------
 * Pointers that are none
 * --------------------------------------------------------------------------------------------------------- */

static bool refuses(struct test *t, struct kheap *heap, void *pointer, enum kmalloc_error_class error_class)
{
	struct kheap_stats before;

	kheap_get_stats(heap, &before);
	kheap_free(heap, pointer);
	if (!is_reported(t, heap, &before, error_class, pointer))
		return false;
	REQUIRE(t, kheap_realloc(heap, pointer, 10) == NULL, "%p was resized", pointer);
	return is_reported(t, heap, &before, error_class, pointer);
}

static void strangers_are_reported(struct test *t)
{
	static _Alignas(16) uint8_t outside[64];
	_Alignas(16) uint8_t on_stack[64];
	struct kheap *heap = test_heap(t, ARENA), *other = test_heap(t, ARENA);
	uint8_t *theirs;

	TRY(heap != NULL && other != NULL);
	theirs = kheap_alloc(other, 100, 0);
	test_fill(outside, sizeof(outside), 1);
	TRY(refuses(t, heap, outside + 16, KMALLOC_FOREIGN_POINTER));
	TRY(refuses(t, heap, on_stack + 16, KMALLOC_FOREIGN_POINTER));
	TRY(refuses(t, heap, theirs, KMALLOC_FOREIGN_POINTER));
	TRY(refuses(t, heap, (void *)16, KMALLOC_FOREIGN_POINTER));
	TRY(refuses(t, heap, (void *)(UINTPTR_MAX & ~(uintptr_t)15), KMALLOC_FOREIGN_POINTER));
	TRY(refuses(t, heap, (void *)(UINTPTR_MAX / 2 + 1), KMALLOC_FOREIGN_POINTER));
	/* The heap's own data are no object. */
	TRY(refuses(t, heap, heap, KMALLOC_FOREIGN_POINTER));
	TRY(refuses(t, heap, (uint8_t *)heap + 4096, KMALLOC_FOREIGN_POINTER));
	TRY(test_filled(t, outside, sizeof(outside), 1, "memory that is not the heap's"));
	kheap_free(other, theirs);
}

static bool probe_interior(struct test *t, struct neighbours *n)
{
	size_t usable = kheap_usable_size(n->heap, n->objects[2]);
	struct kheap_stats before;

	for (size_t offset = 16; offset < usable; offset += offset < 80 ? 16 : usable / 48 * 16 + 16) {
		kheap_get_stats(n->heap, &before);
		kheap_free(n->heap, n->objects[2] + offset);
		REQUIRE(t, t->n_errors == 0 || t->errors[0].nearest == n->objects[2],
		        "the object nearest to byte %zu of %zu at %p was reported as %p", offset, usable,
		        (void *)n->objects[2], t->errors[0].nearest);
		REQUIRE(t,
		        t->n_errors == 0 || (t->errors[0].nearest_is_live && t->errors[0].nearest_size_bytes == usable),
		        "the nearest object of %zu bytes was reported with %zu", usable,
		        t->errors[0].nearest_size_bytes);
		if (!is_reported(t, n->heap, &before, KMALLOC_INTERIOR_POINTER, n->objects[2] + offset))
			return false;
	}
	return test_filled(t, n->objects[2], n->size, 2, "an object whose inside was freed");
}

static void interior_pointers_are_reported(struct test *t)
{
	for_every_kind(t, probe_interior);
}

static bool probe_misaligned(struct test *t, struct neighbours *n)
{
	static const size_t offsets[] = { 1, 2, 4, 7, 8, 15, 17, 4097 };

	for (unsigned i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++)
		if (offsets[i] < n->size &&
		    !refuses(t, n->heap, n->objects[2] + offsets[i], KMALLOC_MISALIGNED_POINTER))
			return false;
	kheap_free(n->heap, n->objects[2]);
	return n->size == 1 || refuses(t, n->heap, n->objects[2] + 1, KMALLOC_MISALIGNED_POINTER);
}

static void misaligned_pointers_are_reported(struct test *t)
{
	for_every_kind(t, probe_misaligned);
}

static bool probe_wrong_size(struct test *t, struct neighbours *n)
{
	size_t wrong[] = { n->size * 3 + 100, n->size / 4, SIZE_MAX, PTRDIFF_MAX, 0 };
	struct kheap_stats before;

	kheap_get_stats(n->heap, &before);
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		/* Below a quarter only where no slab can have served it: an object of a slab may have shrunk where it is. */
		if (wrong[i] < n->size && (n->size < 500 || (n->size <= 2048 && (n->size & (n->size - 1)) == 0)))
			continue;
		kheap_free_sized(n->heap, n->objects[2], wrong[i]);
		if (!is_reported(t, n->heap, &before, KMALLOC_SIZE_MISMATCH, n->objects[2]))
			return false;
		kheap_free_aligned_sized(n->heap, n->objects[2], 16, wrong[i]);
		if (!is_reported(t, n->heap, &before, KMALLOC_SIZE_MISMATCH, n->objects[2]))
			return false;
	}
	if (test_is_hardened() && n->size > 1) {
		/* The canary knows the size to the byte. */
		kheap_free_sized(n->heap, n->objects[2], n->size - 1);
		if (!is_reported(t, n->heap, &before, KMALLOC_SIZE_MISMATCH, n->objects[2]))
			return false;
	}
	kheap_free_sized(n->heap, n->objects[2], n->size);
	return test_expect_no_error(t);
}

static void wrong_sizes_are_reported(struct test *t)
{
	for_every_kind(t, probe_wrong_size);
}

static void bulk_frees_report_each(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	uint64_t on_stack[4] = { 0 };
	struct kheap_stats stats;
	void *objects[6];

	TRY(heap != NULL);
	CHECK(t, kheap_alloc_bulk(heap, 100, 0, 6, objects) == 6, "6 objects of 100 bytes were refused");
	objects[1] = on_stack + 2;
	objects[4] = objects[3];
	kheap_free_bulk(heap, 6, objects);
	CHECK(t, t->n_errors == 2, "two misuses in a bulk were reported as %u", t->n_errors);
	CHECK(t, t->errors[0].error_class == KMALLOC_FOREIGN_POINTER && t->errors[1].error_class == KMALLOC_DOUBLE_FREE,
	      "they were reported as '%s' and '%s'", kmalloc_error_name(t->errors[0].error_class),
	      kmalloc_error_name(t->errors[1].error_class));
	t->n_errors = 0;
	kheap_get_stats(heap, &stats);
	CHECK(t, stats.live_objects == 2 && stats.n_errors == 2, "%zu objects are live after a bulk that freed 4 of 6",
	      stats.live_objects);
}

/* ------------------------------------------------------------------------------------------------------------
 * The callback
 * --------------------------------------------------------------------------------------------------------- */

static unsigned n_callbacks;

static void allocate_in_callback(void *ctx, const struct kmalloc_error *error)
{
	void *object = kheap_alloc(error->heap, 100, 0);

	(void)ctx;
	n_callbacks += object != NULL;
	kheap_free(error->heap, object);
}

static void callback_may_call_the_heap(struct test *t)
{
	struct kheap_config config = test_config(t);
	void *arena = test_arena(t, ARENA), *object;
	struct kheap *heap;

	TRY(arena != NULL);
	config.on_error = allocate_in_callback;
	n_callbacks = 0;
	heap = test_heap_in(t, arena, ARENA, &config);
	TRY(heap != NULL);
	object = kheap_alloc(heap, 1000, 0);
	kheap_free(heap, object);
	kheap_free(heap, object);
	CHECK(t, n_callbacks == 1, "the callback could not allocate");
}

/* ------------------------------------------------------------------------------------------------------------
 * Damaged headers
 * --------------------------------------------------------------------------------------------------------- */

/* One of the errors reported has this class and an address within [from, to). Forgets them. */
static bool expect_damage(struct test *t, enum kmalloc_error_class one, enum kmalloc_error_class other,
                          const uint8_t *from, const uint8_t *to, const char *what)
{
	unsigned n = t->n_errors < TEST_MAX_ERRORS ? t->n_errors : TEST_MAX_ERRORS;

	t->n_errors = 0;
	REQUIRE(t, n != 0, "%s was not reported", what);
	for (unsigned i = 0; i < n; i++) {
		const struct kmalloc_error *error = &t->errors[i];

		if ((error->error_class == one || error->error_class == other) &&
		    (const uint8_t *)error->address >= from && (const uint8_t *)error->address < to)
			return true;
	}
	test_fail(t, "%s at %p was reported as '%s' at %p", what, (const void *)from,
	          kmalloc_error_name(t->errors[0].error_class), t->errors[0].address);
	return false;
}

/* The word in front of an object that has a header is the heap's. */
static void damaged_headers_are_reported(struct test *t)
{
	static const uint64_t masks[] = { 1, 2, 0x10, 0x100, 0x100000000u, 0x8000000000000000u, UINT64_MAX };
	struct kheap *heap = test_heap(t, ARENA);
	struct kheap_stats before;
	struct neighbours n;
	uint64_t *header;

	TRY(heap != NULL && get_neighbours(t, heap, 1000, false, &n));
	CHECK(t, kheap_owner(heap, n.objects[2]).kind == KHEAP_BLOCK, "an object of 1000 bytes has no header");
	header = (uint64_t *)n.objects[2] - 1;
	kheap_get_stats(heap, &before);
	for (unsigned i = 0; i < sizeof(masks) / sizeof(masks[0]); i++) {
		*header ^= masks[i];
		kheap_free(heap, n.objects[2]);
		TRY(expect_damage(t, KMALLOC_DAMAGED_TAG, KMALLOC_DAMAGED_TAG, n.objects[2] - 8, n.objects[2] + 1,
		                  "a damaged header"));
		CHECK(t, kheap_check(heap, NULL) != 0, "kheap_check found nothing wrong with a damaged header");
		*header ^= masks[i];
		TRY(test_same(t, heap, &before, "freeing an object with a damaged header"));
		TRY(test_sound(t, heap, "the header was repaired"));
	}
	/* The one in front cannot be merged with what is behind, so it is not freed either. */
	if (!test_is_hardened()) {
		*header ^= UINT64_MAX;
		kheap_free(heap, n.objects[1]);
		kheap_leave(heap);
		TRY(expect_damage(t, KMALLOC_DAMAGED_TAG, KMALLOC_DAMAGED_TAG, n.objects[2] - 8, n.objects[2] + 1,
		                  "a header overwritten from in front"));
		TRY(test_same(t, heap, &before, "freeing an object in front of a damaged header"));
		*header ^= UINT64_MAX;
	}
	/* That one stays where it is, but it was freed. */
	for (unsigned i = 0; i < 5; i++) {
		if (i != 1 || test_is_hardened())
			kheap_free(heap, n.objects[i]);
	}
}

/* ------------------------------------------------------------------------------------------------------------
 * Overruns, hardened
 * --------------------------------------------------------------------------------------------------------- */

static bool needs_hardened(struct test *t)
{
	if (!test_is_hardened())
		test_skip(t, "needs canaries and poison: KMALLOC_HARDENED=1");
	return test_is_hardened();
}

/*
 * Change n bytes behind an object; the free must see it, leave the object alone, and take it when the bytes are
 * repaired.
 */
static bool overrun_is_seen(struct test *t, struct neighbours *n, size_t n_bytes, bool as_string_end)
{
	uint8_t *end = n->objects[2] + n->size, saved[8];
	struct kheap_fault fault = { .fault_class = KHEAP_FAULT_NONE };
	struct kheap_stats before;

	for (size_t i = 0; i < n_bytes; i++) {
		saved[i] = end[i];
		end[i] = as_string_end ? 0 : (uint8_t)~saved[i];
	}
	kheap_get_stats(n->heap, &before);
	kheap_free(n->heap, n->objects[2]);
	/*
	 * One byte is named; a longer overrun may reach the word that says where the object ends, and is then named
	 * by it.
	 */
	REQUIRE(t, n_bytes == 1 || t->n_errors == 0 || (const uint8_t *)t->errors[0].address - end < (ptrdiff_t)n_bytes,
	        "an overrun at %p was reported at %p", (void *)end, t->errors[0].address);
	if (!is_reported(t, n->heap, &before, KMALLOC_OVERRUN, n_bytes == 1 ? end : t->errors[0].address))
		return false;
	REQUIRE(t, kheap_check(n->heap, &fault) != 0 && fault.fault_class == KHEAP_FAULT_CANARY,
	        "kheap_check says '%s' of an overrun by %zu bytes", kheap_fault_name(fault.fault_class), n_bytes);
	for (size_t i = 0; i < n_bytes; i++)
		end[i] = saved[i];
	return test_sound(t, n->heap, "an overrun was repaired");
}

static bool probe_overrun(struct test *t, struct neighbours *n)
{
	if (!overrun_is_seen(t, n, 1, false) || !overrun_is_seen(t, n, 1, true) || !overrun_is_seen(t, n, 8, false))
		return false;
	kheap_free(n->heap, n->objects[2]);
	return test_expect_no_error(t);
}

static void overruns_are_reported(struct test *t)
{
	TRY(needs_hardened(t));
	for_every_kind(t, probe_overrun);
}

static void overruns_of_every_size_are_reported(struct test *t)
{
	struct kheap *heap;

	TRY(needs_hardened(t));
	heap = test_heap(t, ARENA);
	TRY(heap != NULL);
	for (size_t size = 0; size < 600; size++) {
		struct neighbours n;

		TRY(get_neighbours(t, heap, size, false, &n) && overrun_is_seen(t, &n, 1, false));
		for (unsigned i = 0; i < 5; i++)
			kheap_free(heap, n.objects[i]);
	}
}

static void cache_overruns_are_reported(struct test *t)
{
	struct kheap *heap;
	struct kcache *cache;
	uint8_t *object, saved;

	TRY(needs_hardened(t));
	heap = test_heap(t, ARENA);
	cache = heap != NULL ? kcache_create(heap, 100, 0, NULL, NULL) : NULL;
	TRY(cache != NULL);
	object = kcache_alloc(cache, 0);
	saved = object[100];
	object[100] = (uint8_t)~saved;
	kcache_free(cache, object);
	TRY(test_expect_error(t, KMALLOC_OVERRUN, object + 100));
	object[100] = saved;
	kcache_free(cache, object);
	CHECK(t, kcache_destroy(cache), "the cache was not destroyed");
}

/* ------------------------------------------------------------------------------------------------------------
 * Writes after free, hardened
 * --------------------------------------------------------------------------------------------------------- */

/* Word `which` of a freed object is overwritten: the check sees it, and so does whoever gets the memory next. */
static bool late_write_is_seen(struct test *t, struct neighbours *n, size_t offset)
{
	uint8_t *word = n->objects[2] + offset;

	kheap_free(n->heap, n->objects[2]);
	word[0] ^= 0xff;
	REQUIRE(t, kheap_check(n->heap, NULL) != 0,
	        "kheap_check found nothing of a write to byte %zu of %zu after free", offset, n->size);
	for (unsigned i = 0; i < 400 && t->n_errors == 0; i++)
		if (kheap_alloc(n->heap, n->size, 0) == NULL)
			break;
	return expect_damage(t, KMALLOC_WRITE_AFTER_FREE, KMALLOC_DAMAGED_TAG, word - 24, word + 8,
	                     "a write after free");
}

static bool probe_first_word(struct test *t, struct neighbours *n)
{
	return late_write_is_seen(t, n, 0);
}

static bool probe_second_word(struct test *t, struct neighbours *n)
{
	return n->size < 16 || late_write_is_seen(t, n, 8);
}

static bool probe_last_word(struct test *t, struct neighbours *n)
{
	return n->size < 24 || late_write_is_seen(t, n, (n->size - 8) / 8 * 8);
}

static bool probe_middle_word(struct test *t, struct neighbours *n)
{
	return n->size < 48 || late_write_is_seen(t, n, n->size / 16 * 8);
}

static void late_writes_are_reported(struct test *t, bool (*probe)(struct test *t, struct neighbours *n))
{
	TRY(needs_hardened(t));
	t->is_damaged = true;
	for_every_kind(t, probe);
}

static void late_first_words(struct test *t)
{
	late_writes_are_reported(t, probe_first_word);
}

static void late_second_words(struct test *t)
{
	late_writes_are_reported(t, probe_second_word);
}

static void late_middle_words(struct test *t)
{
	late_writes_are_reported(t, probe_middle_word);
}

static void late_last_words(struct test *t)
{
	late_writes_are_reported(t, probe_last_word);
}

/* In the release build the links that stand in free blocks are checked before they are followed. */
static void broken_links_are_not_followed(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	struct kheap_stats stats;
	struct neighbours n;
	uint64_t *links;

	TRY(heap != NULL && get_neighbours(t, heap, 1000, false, &n));
	t->is_damaged = true;
	kheap_free(heap, n.objects[1]);
	kheap_free(heap, n.objects[3]);
	kheap_leave(heap);
	links = (uint64_t *)n.objects[3];
	links[0] = (uintptr_t)&n;
	links[1] = (uintptr_t)&n;
	CHECK(t, kheap_check(heap, NULL) != 0, "kheap_check found nothing wrong with a broken link");
	/* Neither of these may follow it, or go round for ever. */
	kheap_get_stats(heap, &stats);
	links[0] = (uintptr_t)links - 8;
	kheap_get_stats(heap, &stats);
	links[0] = (uintptr_t)&n;
	for (unsigned i = 0; i < 400 && t->n_errors == 0; i++) {
		uint8_t *object = kheap_alloc(heap, 1000, 0);

		CHECK(t, object == NULL || object < (uint8_t *)&n || object >= (uint8_t *)(&n + 1),
		      "the stack was handed out as an object");
	}
	TRY(expect_damage(t, KMALLOC_DAMAGED_TAG, KMALLOC_WRITE_AFTER_FREE, n.objects[1] - 8, n.objects[3] + 16,
	                  "a broken link"));
}

/* What a refused call may not change: shrinking would have to join the rest with free memory whose links are broken. */
static void refused_shrinking_changes_nothing(struct test *t)
{
	struct kheap *heap = test_heap(t, ARENA);
	struct neighbours n;
	size_t usable;

	TRY(heap != NULL && get_neighbours(t, heap, 3000, false, &n));
	t->is_damaged = true;
	test_fill(n.objects[1], 3000, 1);
	usable = kheap_usable_size(heap, n.objects[1]);
	kheap_free(heap, n.objects[2]);
	*(uint64_t *)n.objects[2] = (uintptr_t)&n;
	CHECK(t, !kheap_try_resize(heap, n.objects[1], 100), "an object shrank into free memory with a broken link");
	CHECK(t, t->n_errors == 1, "%u misuses were reported, expected the broken link", t->n_errors);
	t->n_errors = 0;
	CHECK(t, kheap_usable_size(heap, n.objects[1]) == usable, "a refused resizing changed the usable size");
	TRY(test_filled(t, n.objects[1], 3000, 1, "an object that was not resized"));
}

static const struct test_case cases[] = {
	{ "freeing twice is reported: at once, after other frees, after a merge", double_frees_are_reported },
	{ "resizing or asking the size of a freed object is reported", other_calls_report_too },
	{ "strangers are reported: static, on the stack, of another heap, the heap itself", strangers_are_reported },
	{ "pointers into an object are reported, with the object", interior_pointers_are_reported },
	{ "misaligned pointers are reported", misaligned_pointers_are_reported },
	{ "a free with a wrong size is reported", wrong_sizes_are_reported },
	{ "shrinking into damaged free memory is refused and changes nothing", refused_shrinking_changes_nothing },
	{ "each misuse in a bulk is reported, the rest is freed", bulk_frees_report_each },
	{ "the error callback may call the heap", callback_may_call_the_heap },
	{ "overwritten headers are reported and not believed", damaged_headers_are_reported },
	{ "broken links of free memory are reported and not followed", broken_links_are_not_followed },
	{ "overruns by a byte, a string's end and a word are reported at free", overruns_are_reported },
	{ "an overrun by one byte is reported for every size to 600", overruns_of_every_size_are_reported },
	{ "overruns of cache objects are reported", cache_overruns_are_reported },
	{ "a write to the first word after free is reported before reuse", late_first_words },
	{ "a write to the second word after free is reported before reuse", late_second_words },
	{ "a write to a middle word after free is reported before reuse", late_middle_words },
	{ "a write to the last word after free is reported before reuse", late_last_words },
};
TEST_GROUP(misuse, cases);
