/* SPDX-License-Identifier: MIT */
/*
 * What the groups of the self-test share: the shape of a case, how it fails, and where it gets memory, heaps and
 * page sources. All that a case takes is given back after it, also when it fails. Only test_*.c and selftest.c
 * include this.
 */
#ifndef SUITE_SELFTEST_H
#define SUITE_SELFTEST_H

#include <kmalloc.h>

#include "random.h"
#include "suite.h"
#include "text.h"

#define TEST_MAX_CHUNKS 8
#define TEST_MAX_HEAPS 4
#define TEST_MAX_GIVEN 512
#define TEST_MAX_ERRORS 8

/*
 * A page source over an arena, that can be told to misbehave. Cut in its own way it gives the lowest free pages
 * first, what is wanted or half of it down to what is needed.
 */
struct test_source {
	uintptr_t base, end;
	unsigned n_given;
	struct kpage_chunk given[TEST_MAX_GIVEN];
	size_t given_pages, peak_given_pages;

	unsigned n_gets, n_puts; /* calls */
	unsigned n_refused;
	unsigned n_best;       /* calls of get() that asked for a place */
	unsigned n_wrong_puts; /* of what was not given: always a failure */
	struct kpage_request last;

	unsigned refuse_at; /* this call of get() is refused, 0: none */
	bool refuse_after;  /* and all after it */
	bool refuse_all;
	bool give_minimum;   /* min_pages, not want_pages */
	bool give_less;      /* min_pages - 1 */
	bool from_top;       /* the highest free pages first */
	bool gives_zeros;    /* and says so */
	bool tells_behind;   /* that all behind a chunk can be had; of others than the first that is of no use */
	size_t gap_pages;    /* left free between chunks, so that no two are adjacent */
	size_t alignment;    /* chunks begin one page past a multiple of this; 0: anywhere */
	struct kheap *enter; /* get() and put() allocate from this heap and free again */
	bool is_inside;
	unsigned n_entered;
};

struct test {
	struct host *host;
	const struct suite_options *options;
	enum case_state state;
	char detail[240];
	bool is_damaged; /* the heaps were broken on purpose: they are not checked and not destroyed at the end */
	bool is_starved; /* it was refused an arena */

	unsigned n_chunks;
	struct kpage_chunk chunks[TEST_MAX_CHUNKS];
	unsigned n_heaps;
	struct kheap *heaps[TEST_MAX_HEAPS];
	unsigned n_errors; /* misuses reported and not yet expected */
	struct kmalloc_error errors[TEST_MAX_ERRORS];
	struct test_source source;
};

struct test_case {
	const char *name; /* what it proves, as a statement */
	void (*run)(struct test *t);
};

struct test_group {
	const char *name;
	const struct test_case *cases;
	unsigned n_cases;
};

#define TEST_GROUP(group, cases) \
	const struct test_group group_##group = { #group, cases, sizeof(cases) / sizeof(cases[0]) }

/* The first failure of a case counts; later ones are its consequences. */
void test_fail(struct test *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Not possible here; says why. A case that has failed stays failed. */
void test_skip(struct test *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A figure worth showing beside "ok". */
void test_note(struct test *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* End the case (a function that returns nothing) when the condition does not hold. */
#define CHECK(t, condition, ...)                   \
	do {                                       \
		if (!(condition)) {                \
			test_fail(t, __VA_ARGS__); \
			return;                    \
		}                                  \
	} while (0)
/* The same in a helper that returns whether all is well. */
#define REQUIRE(t, condition, ...)                 \
	do {                                       \
		if (!(condition)) {                \
			test_fail(t, __VA_ARGS__); \
			return false;              \
		}                                  \
	} while (0)
/* End the case when a helper has failed or skipped it. */
#define TRY(call)               \
	do {                    \
		if (!(call))    \
			return; \
	} while (0)

/* Pages of the host, aligned to a page, contents undefined. NULL: the case is skipped, for want of memory. */
void *test_arena(struct test *t, size_t size_bytes);
void *test_arena_below(struct test *t, size_t size_bytes, uintptr_t max_address);

/* What every heap of a test is made with: errors are recorded, no source. */
struct kheap_config test_config(struct test *t);
/* A heap in memory; NULL: the case has failed. It is checked and destroyed after the case. */
struct kheap *test_heap_in(struct test *t, void *memory, size_t size_bytes, const struct kheap_config *config);
/* The same in an arena of its own, or (SIZE 0) from the config's source. */
struct kheap *test_heap(struct test *t, size_t size_bytes);
/* The same on pages of the host, also for several processors at once; NULL: the case has failed or is skipped. */
struct kheap *test_heap_on_host_pages(struct test *t, size_t limit_bytes);
/* Check and destroy a heap before the case's end. */
bool test_end_heap(struct test *t, struct kheap *heap);
/* t->source over an arena of its own. */
bool test_source(struct test *t, size_t size_bytes);
struct kheap_config test_source_config(struct test *t);
/* A heap that has all its memory from t->source. */
bool test_heap_on_source(struct test *t, struct kheap **heap);

/* kheap_check finds nothing; `when` completes "... after". */
bool test_sound(struct test *t, struct kheap *heap, const char *when);
/* Exactly one misuse was reported since the last call, of this class and at this address; forget it. */
bool test_expect_error(struct test *t, enum kmalloc_error_class error_class, const void *address);
bool test_expect_no_error(struct test *t);
/* Nothing that a failed call may not change has changed. */
bool test_same(struct test *t, struct kheap *heap, const struct kheap_stats *before, const char *what);

/* n bytes that depend on `key`; test_filled: are they still there? Says where not. */
void test_fill(void *object, size_t n, uint64_t key);
bool test_filled(struct test *t, const void *object, size_t n, uint64_t key, const char *what);
bool test_is_zero(const void *object, size_t n);
/* The next permutation in lexical order; false: that was the last. Begin with 0, 1, 2 ... */
bool test_next_order(uint8_t order[], unsigned n);
bool test_is_hardened(void);

static inline bool is_aligned(const void *object, size_t alignment)
{
	return ((uintptr_t)object & (alignment - 1)) == 0;
}

extern const struct test_group group_text, group_contract, group_resize, group_reuse, group_regions, group_growth,
	group_accounting, group_waste, group_misuse, group_checker, group_pages, group_cache, group_classic,
	group_stress, group_placement, group_interrupts, group_pairs, group_caches, group_caches_shared,
	group_caches_travel, group_runs, group_large, group_damage, group_in_place;

#endif
