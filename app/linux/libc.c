/* SPDX-License-Identifier: MIT */
/*
 * The C library's malloc as an engine. It knows no budget and no "free everything", so a table of what is live keeps
 * both. The table is in pages of its own: it must never use the malloc that is under test.
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "linux_host.h"

/* A power of two. */
#define FIRST_SLOTS ((size_t)4096)

/* Live objects by address: open addressing, linear probing, at most half full. */
static struct {
	void **slots;
	size_t n_slots, n_used;
} table;

static size_t budget, live_bytes;

static size_t home_slot(const void *object)
{
	/* Fibonacci hashing: the high bits of the product are the well mixed ones. */
	return (size_t)((uintptr_t)object * UINT64_C(0x9E3779B97F4A7C15) >> 20) & (table.n_slots - 1);
}

static void insert(void *object)
{
	size_t i = home_slot(object);

	while (table.slots[i] != NULL)
		i = (i + 1) & (table.n_slots - 1);
	table.slots[i] = object;
	table.n_used++;
}

static size_t find(const void *object)
{
	size_t i = home_slot(object);

	while (table.slots[i] != NULL && table.slots[i] != object)
		i = (i + 1) & (table.n_slots - 1);
	return i;
}

/* Leaves no hole in a chain of probes: what follows moves up. */
static void erase(const void *object)
{
	size_t hole = find(object);

	if (table.slots[hole] == NULL)
		return;
	table.n_used--;
	for (size_t i = hole;;) {
		table.slots[hole] = NULL;
		size_t home;
		do {
			i = (i + 1) & (table.n_slots - 1);
			if (table.slots[i] == NULL)
				return;
			home = home_slot(table.slots[i]);
		} while (((i - home) & (table.n_slots - 1)) < ((i - hole) & (table.n_slots - 1)));
		table.slots[hole] = table.slots[i];
		hole = i;
	}
}

static bool resize_table(size_t n_slots)
{
	void **old = table.slots;
	size_t n_old = table.n_slots;
	void *memory = mmap(NULL, n_slots * sizeof(void *), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return false;
	table.slots = memory;
	table.n_slots = n_slots;
	table.n_used = 0;
	for (size_t i = 0; i < n_old; i++)
		if (old[i] != NULL)
			insert(old[i]);
	if (old != NULL)
		munmap(old, n_old * sizeof(void *));
	return true;
}

/* What malloc rounds a grown object up to may pass the budget by less than a page. */
static size_t spare_bytes(void)
{
	return budget > live_bytes ? budget - live_bytes : 0;
}

/* Room for one more object, in the table and in the budget. */
static bool has_room(size_t size_bytes)
{
	if (size_bytes > spare_bytes())
		return false;
	return table.n_used < table.n_slots / 2 || resize_table(table.n_slots * 2);
}

/* Count the object, or give it back when what malloc rounded it up to passes the budget. */
static void *adopt(void *object)
{
	if (object == NULL)
		return NULL;
	size_t usable = malloc_usable_size(object);
	if (usable > spare_bytes()) {
		free(object);
		return NULL;
	}
	live_bytes += usable;
	insert(object);
	return object;
}

static bool start(struct allocator *engine, struct host *host, size_t budget_bytes, const char **why)
{
	(void)host;
	budget = budget_bytes;
	live_bytes = 0;
	if (!resize_table(FIRST_SLOTS)) {
		*why = "Linux gave no pages for the table of live objects.";
		return false;
	}
	engine->is_started = true;
	return true;
}

static void stop(struct allocator *engine)
{
	for (size_t i = 0; i < table.n_slots; i++)
		free(table.slots[i]);
	munmap(table.slots, table.n_slots * sizeof(void *));
	table.slots = NULL;
	table.n_slots = table.n_used = 0;
	malloc_trim(0);
	engine->is_started = false;
}

static void *alloc(struct allocator *engine, size_t size_bytes)
{
	(void)engine;
	return has_room(size_bytes) ? adopt(malloc(size_bytes)) : NULL;
}

static void release(struct allocator *engine, void *object)
{
	(void)engine;
	if (object == NULL)
		return;
	live_bytes -= malloc_usable_size(object);
	erase(object);
	free(object);
}

static void *resize(struct allocator *engine, void *object, size_t size_bytes)
{
	size_t old = malloc_usable_size(object);
	void *moved;

	if (object == NULL)
		return alloc(engine, size_bytes);
	if (size_bytes > old && size_bytes - old > spare_bytes())
		return NULL;
	erase(object);
	/* realloc(p, 0) would free. */
	moved = realloc(object, size_bytes > 0 ? size_bytes : 1);
	if (moved == NULL) {
		insert(object);
		return NULL;
	}
	insert(moved);
	live_bytes = live_bytes - old + malloc_usable_size(moved);
	return moved;
}

static void *alloc_aligned(struct allocator *engine, size_t size_bytes, size_t alignment)
{
	void *object;

	(void)engine;
	/* posix_memalign refuses what is not a power of two, and also the small ones that are. */
	if (alignment == 1 || alignment == 2 || alignment == 4)
		alignment = sizeof(void *);
	if (!has_room(size_bytes) || posix_memalign(&object, alignment, size_bytes) != 0)
		return NULL;
	return adopt(object);
}

static size_t usable_size(struct allocator *engine, void *object)
{
	(void)engine;
	return malloc_usable_size(object);
}

static void stats(struct allocator *engine, struct allocator_stats *stats)
{
	struct mallinfo2 info = mallinfo2();

	(void)engine;
	stats->live_bytes = live_bytes;
	/* What malloc holds from the kernel; 0 where a sanitizer stands in for it. */
	stats->footprint_bytes = info.arena + info.hblkhd;
}

static void *bare_alloc(struct allocator *engine, size_t size_bytes)
{
	(void)engine;
	return malloc(size_bytes);
}

static void bare_free(struct allocator *engine, void *object)
{
	(void)engine;
	free(object);
}

static void *bare_realloc(struct allocator *engine, void *object, size_t size_bytes)
{
	(void)engine;
	return realloc(object, size_bytes);
}

static const struct allocator_bare bare = { bare_alloc, bare_free, bare_realloc, true, false };

struct allocator linux_engine_libc = {
	.name = "libc",
	.description = "malloc of the C library",
	.alignment = 16,
	.max_size = PTRDIFF_MAX,
	.is_bounded = true,
	.start = start,
	.stop = stop,
	.alloc = alloc,
	.free = release,
	.realloc = resize,
	.alloc_aligned = alloc_aligned,
	.usable_size = usable_size,
	.stats = stats,
	.bare = &bare,
};
