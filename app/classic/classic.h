/* SPDX-License-Identifier: MIT */
/*
 * The ancestor: a next-fit allocator with boundary headers in one area, made correct. The baseline that the heap is
 * measured against, and the right choice for a heap of a few KiB. Not safe on several CPUs: its caller takes the
 * lock.
 */
#ifndef CLASSIC_H
#define CLASSIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Every object is aligned to this: what x86-64 code expects. */
#define CLASSIC_ALIGNMENT ((size_t)16)
/* Larger requests give NULL, unless max_size is raised. */
#define KMALLOC_MAX_SIZE ((size_t)512)

enum classic_event {
	CLASSIC_ALLOCATED,   /* address and size of the object; free_bytes: what is left */
	CLASSIC_SKIPPED,     /* a free block that is not large enough */
	CLASSIC_REFUSED,     /* no block is large enough; size asked for */
	CLASSIC_FREED,       /* address and size of the object */
	CLASSIC_DOUBLE_FREE, /* the object is free already; nothing was changed */
	CLASSIC_FOREIGN,     /* no object starts there (outside, misaligned or inside an object); nothing was changed */
	CLASSIC_DAMAGED,     /* the object's header and its neighbours disagree; nothing was changed */
};

/* In front of every block. */
struct classic_header {
	uintptr_t prev; /* address of the block before this one, 0: none; bit 0: CLASSIC_USED */
	size_t size;    /* of this block, the header counted; a multiple of CLASSIC_ALIGNMENT */
};

struct classic {
	uintptr_t begin, end;         /* the blocks lie in [begin, end) */
	struct classic_header *rover; /* where the next search starts: always a block */
	size_t free_bytes;            /* in free blocks, their headers counted */
	size_t max_size;              /* KMALLOC_MAX_SIZE; may be raised after classic_init */
	size_t n_errors;              /* misuses reported */
	/* Told of everything that is done; may be NULL. Must not call back into the area. */
	void (*trace)(void *ctx, enum classic_event event, const void *address, size_t size_bytes, size_t free_bytes);
	void *trace_ctx;
};

/*
 * Make one free block of the area, at any address and of any size. False: it cannot hold one object after
 * alignment. O(1).
 */
bool classic_init(struct classic *classic, void *area, size_t size_bytes);

/* NULL when size_bytes > max_size or no block is large enough. A size of 0 gives a pointer of its own. O(blocks). */
void *classic_alloc(struct classic *classic, size_t size_bytes);

/* NULL does nothing; what is not a live object is reported through trace and left alone. O(1). */
void classic_free(struct classic *classic, void *object);

/* Bytes that may be used at `object`; 0 for what is not a live object. O(1). */
size_t classic_usable_size(const struct classic *classic, const void *object);

/* Walk all blocks. NULL when every invariant holds, else one line that says which does not. O(blocks). */
const char *classic_check(const struct classic *classic);

/* How many free blocks there are. O(blocks). */
size_t classic_free_blocks(const struct classic *classic);

#endif
