/* SPDX-License-Identifier: MIT */
/*
 * Pages ahead of use. The first touch of each page costs a fault, which takes several times as long as what the kernel does for the page. So
 * where a chunk's pages come into use for the first time, from its front to its end, a few more than the fresh object needs are asked
 * for at once: a share of those that came before, so that no more than this share is resident in vain.
 *
 * Objects of two pages and more are left alone: a program may never touch all of one. Nor do pages come ahead of what follows one, since it may be
 * another: of objects of all sizes to 64 KiB, of which only the first word was written, as much was resident in vain as in use.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>

#include <kmalloc_port.h>

#include "preload.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define AHEAD_SHARE 32
#define AHEAD_MIN ((uintptr_t)16 << 10)
#define AHEAD_MAX ((uintptr_t)64 << 10)
#define LARGE_BYTES ((size_t)8 << 10)

/* A chunk, and where in it pages were not in use yet; begin is where the first object lay since the last large one, 0: none did. */
struct fresh {
	uintptr_t base, begin, from, end;
};

/* The first chunk with what lengthened it, and the last one elsewhere. */
static struct fresh fresh[2];
static struct kport_lock lock;
static bool is_unknown; /* the kernel is older than this (Linux 5.14) */

void preload_ahead_begin(void)
{
	kport_lock_init(&lock);
}

/* Others may be looking. */
static void fresh_set(struct fresh *chunk, uintptr_t base, size_t size_bytes)
{
	chunk->begin = 0;
	__atomic_store_n(&chunk->from, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&chunk->base, base, __ATOMIC_RELAXED);
	__atomic_store_n(&chunk->end, base + size_bytes, __ATOMIC_RELAXED);
}

void preload_ahead_chunk(uintptr_t base, size_t size_bytes)
{
	kport_lock_state state = kport_lock(&lock);

	if (fresh[0].base && fresh[0].end == base)
		__atomic_store_n(&fresh[0].end, base + size_bytes, __ATOMIC_RELAXED);
	else
		fresh_set(&fresh[fresh[0].base != 0], base, size_bytes);
	kport_unlock(&lock, state);
}

void preload_ahead_forget(uintptr_t base)
{
	kport_lock_state state = kport_lock(&lock);

	for (unsigned i = 0; i < 2; i++) {
		if (fresh[i].base == base)
			fresh_set(&fresh[i], base, 0);
	}
	/* Off the end of the first one. */
	if (base > fresh[0].base && base < fresh[0].end) {
		__atomic_store_n(&fresh[0].end, base, __ATOMIC_RELAXED);
		if (fresh[0].from > base)
			__atomic_store_n(&fresh[0].from, base, __ATOMIC_RELAXED);
	}
	kport_unlock(&lock, state);
}

static uintptr_t page_down(uintptr_t address)
{
	return address & ~(uintptr_t)(KMALLOC_PAGE_SIZE - 1);
}

/* Also without the lock: then it may be wrong. */
static inline bool is_fresh(const struct fresh *chunk, uintptr_t address, size_t size_bytes)
{
	return address - __atomic_load_n(&chunk->base, __ATOMIC_RELAXED) <
	               __atomic_load_n(&chunk->end, __ATOMIC_RELAXED) -
	                       __atomic_load_n(&chunk->base, __ATOMIC_RELAXED) &&
	       address + size_bytes > __atomic_load_n(&chunk->from, __ATOMIC_RELAXED);
}

/* The pages from the first that was not in use to the object's last, and more. */
static void touch(struct fresh *chunk, uintptr_t address, size_t size_bytes)
{
	uintptr_t from = page_down(address), end = page_down(address + size_bytes - 1) + KMALLOC_PAGE_SIZE, more;

	if (size_bytes >= LARGE_BYTES || chunk->begin == 0) {
		chunk->begin = size_bytes >= LARGE_BYTES ? 0 : from;
		__atomic_store_n(&chunk->from, end, __ATOMIC_RELAXED);
		return;
	}
	if (from < chunk->from)
		from = chunk->from;
	more = page_down((from - chunk->begin) / AHEAD_SHARE);
	more = more < AHEAD_MIN ? AHEAD_MIN : more > AHEAD_MAX ? AHEAD_MAX : more;
	end = end < chunk->end - more ? end + more : chunk->end;
	if (madvise((void *)from, end - from, MADV_POPULATE_WRITE) != 0 && errno == EINVAL)
		__atomic_store_n(&is_unknown, true, __ATOMIC_RELAXED);
	__atomic_store_n(&chunk->from, end, __ATOMIC_RELAXED);
}

void preload_ahead(const void *object, size_t size_bytes)
{
	uintptr_t address = (uintptr_t)object;
	unsigned i = 0;

	if (!is_fresh(&fresh[0], address, size_bytes) && !is_fresh(&fresh[i = 1], address, size_bytes))
		return;
	if (__atomic_load_n(&is_unknown, __ATOMIC_RELAXED))
		return;
	if (!kport_lock_try(&lock))
		return;
	int saved = errno;

	if (is_fresh(&fresh[i], address, size_bytes))
		touch(&fresh[i], address, size_bytes);
	kport_unlock(&lock, 0);
	errno = saved;
}
