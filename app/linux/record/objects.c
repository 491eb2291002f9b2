/* SPDX-License-Identifier: MIT */
/*
 * The live objects by address: open addressing with linear probing, at most half full, in pages from mmap. Slots that are
 * free are a stack, as the format wants it. The caller holds the recorder's lock.
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>

#include "record.h"

/* Powers of two. */
#define FIRST_ENTRIES ((size_t)1 << 14)
#define FIRST_FREE_SLOTS ((size_t)1 << 13)

static struct {
	struct object *entries;
	size_t n_entries, n_used;
	uint32_t *free_slots;
	size_t n_free_slots, max_free_slots;
	uint32_t n_slots;
} table;

static void *map(size_t size_bytes)
{
	void *memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return memory == MAP_FAILED ? NULL : memory;
}

static size_t home(uintptr_t address)
{
	/* Fibonacci hashing: the high bits of the product are the well mixed ones. */
	return (size_t)((address >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> 24) & (table.n_entries - 1);
}

/* The entry of that address, or the empty one where it belongs. */
static struct object *probe(uintptr_t address)
{
	size_t i = home(address);

	while (table.entries[i].address != 0 && table.entries[i].address != address)
		i = (i + 1) & (table.n_entries - 1);
	return &table.entries[i];
}

static bool grow(void)
{
	struct object *old = table.entries;
	size_t n_old = table.n_entries, n_new = n_old > 0 ? n_old * 2 : FIRST_ENTRIES;
	struct object *entries = map(n_new * sizeof(*entries));

	if (entries == NULL)
		return false;
	table.entries = entries;
	table.n_entries = n_new;
	for (size_t i = 0; i < n_old; i++)
		if (old[i].address != 0)
			*probe(old[i].address) = old[i];
	if (old != NULL)
		munmap(old, n_old * sizeof(*old));
	return true;
}

/* Room on the stack for every slot that there is, so that freeing never needs memory. */
static bool reserve_slot(void)
{
	size_t n_new = table.max_free_slots > 0 ? table.max_free_slots * 2 : FIRST_FREE_SLOTS;
	uint32_t *stack;

	if (table.n_slots < table.max_free_slots)
		return true;
	if (table.n_slots == UINT32_MAX || (stack = map(n_new * sizeof(*stack))) == NULL)
		return false;
	if (table.free_slots != NULL) {
		memcpy(stack, table.free_slots, table.n_free_slots * sizeof(*stack));
		munmap(table.free_slots, table.max_free_slots * sizeof(*stack));
	}
	table.free_slots = stack;
	table.max_free_slots = n_new;
	return true;
}

struct object *objects_find(const void *address)
{
	if (table.n_entries == 0)
		return NULL;
	struct object *object = probe((uintptr_t)address);
	return object->address != 0 ? object : NULL;
}

static struct object *insert(const struct object *object)
{
	if (table.n_used >= table.n_entries / 2 && !grow())
		return NULL;
	struct object *entry = probe(object->address);
	*entry = *object;
	table.n_used++;
	return entry;
}

struct object *objects_insert(const void *address, uint64_t size)
{
	struct object object = { .address = (uintptr_t)address, .size = size };

	if (table.n_free_slots > 0)
		object.slot = table.free_slots[--table.n_free_slots];
	else if (reserve_slot())
		object.slot = table.n_slots++;
	else
		return NULL;
	return insert(&object);
}

/* Leaves no hole in a chain of probes: what follows moves up. */
static void remove_entry(struct object *object)
{
	size_t mask = table.n_entries - 1, hole = (size_t)(object - table.entries);

	table.n_used--;
	for (size_t i = hole;;) {
		size_t wanted;

		table.entries[hole].address = 0;
		do {
			i = (i + 1) & mask;
			if (table.entries[i].address == 0)
				return;
			wanted = home(table.entries[i].address);
		} while (((i - wanted) & mask) < ((i - hole) & mask));
		table.entries[hole] = table.entries[i];
		hole = i;
	}
}

bool objects_move(struct object *object, const void *address, uint64_t size)
{
	struct object moved = { .address = (uintptr_t)address, .size = size, .slot = object->slot };

	remove_entry(object);
	return insert(&moved) != NULL;
}

void objects_erase(struct object *object)
{
	table.free_slots[table.n_free_slots++] = object->slot;
	remove_entry(object);
}

uint64_t objects_n_slots(void)
{
	return table.n_slots;
}
