/* SPDX-License-Identifier: MIT */
/*
 * An engine: something with alloc and free that the suite can test, stress and measure. `heap` and `classic` exist
 * on every host; the host adds its own (`pool` in the firmware, `libc` on Linux).
 */
#ifndef SUITE_ALLOCATOR_H
#define SUITE_ALLOCATOR_H

#include <stdbool.h>
#include <stddef.h>

#include "host.h"

struct allocator_stats {
	size_t live_bytes;      /* 0 when the engine cannot say */
	size_t footprint_bytes; /* pages it holds */
};

struct allocator;

/*
 * An engine without the accounting that budgets and stop() need: as a program calls it, and as it is measured. Whoever
 * uses it frees everything that it gave.
 */
struct allocator_bare {
	void *(*alloc)(struct allocator *engine, size_t size_bytes);
	void (*free)(struct allocator *engine, void *object);
	void *(*realloc)(struct allocator *engine, void *object, size_t size_bytes); /* NULL: it cannot */
	bool is_parallel; /* several CPUs may be inside at once */
	bool is_uniform;  /* all that is live has one size */
};

struct allocator {
	const char *name;        /* "heap", "classic", "libc", "pool" */
	const char *description; /* one line for people */
	void *ctx;

	size_t alignment; /* every object is aligned to this */
	size_t max_size;  /* larger requests always give NULL; SIZE_MAX: none */
	/* alloc fails when `budget` is used up; false: it takes the machine's memory, so the caller must stop */
	bool is_bounded;

	/* These three are kept by the engine, from start() on. */
	bool is_started;
	size_t n_errors;      /* misuses that it has reported */
	char last_error[120]; /* the last of them in words, or "" */
	/* Set by the engine when the host refused it pages: what it refuses then is not its fault. The caller clears it. */
	bool is_starved;

	/*
	 * Begin with nothing live and at most `budget_bytes` of the host's pages, 0: no limit; false: not possible
	 * (one line in *why).
	 */
	bool (*start)(struct allocator *engine, struct host *host, size_t budget_bytes, const char **why);
	/* Everything given back, live or not. */
	void (*stop)(struct allocator *engine);

	void *(*alloc)(struct allocator *engine, size_t size_bytes);
	void (*free)(struct allocator *engine, void *object);
	/* The rest may be NULL: the engine cannot. */
	void *(*realloc)(struct allocator *engine, void *object, size_t size_bytes);
	void *(*alloc_aligned)(struct allocator *engine, size_t size_bytes, size_t alignment);
	/* As C's malloc and realloc promise it: aligned to `alignment` and no more, whatever the size. NULL: alloc and realloc are so. */
	void *(*alloc_plain)(struct allocator *engine, size_t size_bytes);
	void *(*realloc_plain)(struct allocator *engine, void *object, size_t size_bytes);
	size_t (*usable_size)(struct allocator *engine, void *object);
	/* Look at every invariant; true when all hold, else one line in *what. */
	bool (*check)(struct allocator *engine, const char **what);
	void (*stats)(struct allocator *engine, struct allocator_stats *stats);
	/* The most bytes of pages it held at once since start. */
	size_t (*peak_footprint)(struct allocator *engine);
	/* NULL: alloc, free and realloc are that already, on one CPU. */
	const struct allocator_bare *bare;
};

/* The engines of this host, NULL-terminated: heap, classic, then the host's own. */
struct allocator *const *suite_engines(struct host *host);
/* The engine of that name, or NULL. */
struct allocator *suite_engine(struct host *host, const char *name);

extern struct allocator engine_heap;
extern struct allocator engine_classic;

#endif
