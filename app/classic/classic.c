/* SPDX-License-Identifier: MIT */
/*
 * The ancestor in one file: blocks side by side in one area, each behind its header, a search that goes on where
 * the last one ended, and a merge with both neighbours on free. Touches only the area it was given; includes
 * nothing but its own header.
 *
 * Trusted: headers that their neighbours confirm. A header is believed only when the block before it ends at it and
 * the block behind it points back, so stray pointers and overwritten headers are found without a search.
 */
#include "classic.h"

#define CLASSIC_USED ((uintptr_t)1)
/* Rounded, so that an object behind a header is aligned when the header is. */
#define HEADER_SIZE ((sizeof(struct classic_header) + CLASSIC_ALIGNMENT - 1) & ~(CLASSIC_ALIGNMENT - 1))
/* A smaller rest would not hold a header and an object, so it stays with the block that is split. */
#define MIN_BLOCK (HEADER_SIZE + CLASSIC_ALIGNMENT)

typedef struct classic_header header;

static bool is_used(const header *block)
{
	return (block->prev & CLASSIC_USED) != 0;
}

/* The block before, NULL for the first. */
static header *previous(const header *block)
{
	return (header *)(block->prev & ~CLASSIC_USED);
}

static uintptr_t end_of(const header *block)
{
	return (uintptr_t)block + block->size;
}

/* The block behind, NULL for the last. */
static header *next(const struct classic *classic, const header *block)
{
	return end_of(block) < classic->end ? (header *)end_of(block) : NULL;
}

static void set_previous(header *block, const header *prev)
{
	block->prev = (uintptr_t)prev | (block->prev & CLASSIC_USED);
}

static void *object_of(const header *block)
{
	return (void *)((uintptr_t)block + HEADER_SIZE);
}

static void trace(const struct classic *classic, enum classic_event event, const void *address, size_t size_bytes)
{
	if (classic->trace != NULL)
		classic->trace(classic->trace_ctx, event, address, size_bytes, classic->free_bytes);
}

bool classic_init(struct classic *classic, void *area, size_t size_bytes)
{
	uintptr_t begin = (uintptr_t)area, end = (uintptr_t)area + size_bytes;

	/* Address 0 means "no block" in prev, so an area that begins there gives up its first unit. */
	if (begin == 0)
		begin = 1;
	if (end < (uintptr_t)area || begin > UINTPTR_MAX - (CLASSIC_ALIGNMENT - 1))
		return false;
	begin = (begin + CLASSIC_ALIGNMENT - 1) & ~(CLASSIC_ALIGNMENT - 1);
	end &= ~(CLASSIC_ALIGNMENT - 1);
	if (end < begin || end - begin < MIN_BLOCK)
		return false;
	*classic =
		(struct classic){ .begin = begin, .end = end, .free_bytes = end - begin, .max_size = KMALLOC_MAX_SIZE };
	classic->rover = (header *)begin;
	classic->rover->prev = 0;
	classic->rover->size = end - begin;
	return true;
}

static bool has_legal_size(const struct classic *classic, const header *block)
{
	return block->size % CLASSIC_ALIGNMENT == 0 && block->size >= MIN_BLOCK &&
	       block->size <= classic->end - (uintptr_t)block;
}

static bool is_block_address(const struct classic *classic, uintptr_t address)
{
	return address >= classic->begin && address < classic->end && classic->end - address >= MIN_BLOCK &&
	       address % CLASSIC_ALIGNMENT == 0;
}

/* Does the header at this address say something that its neighbours confirm? */
static bool is_confirmed(const struct classic *classic, const header *block)
{
	const header *before = previous(block), *behind;

	if (!has_legal_size(classic, block))
		return false;
	if ((uintptr_t)block == classic->begin ? before != NULL : !is_block_address(classic, (uintptr_t)before))
		return false;
	if (before != NULL && (before >= block || end_of(before) != (uintptr_t)block))
		return false;
	behind = next(classic, block);
	return behind == NULL || (is_block_address(classic, (uintptr_t)behind) && previous(behind) == block);
}

/* Count and tell a misuse; returns NULL. */
static void *report(struct classic *classic, enum classic_event event, const void *address)
{
	classic->n_errors++;
	trace(classic, event, address, 0);
	return NULL;
}

/* Hand out the front of a free block and make the rest, if it is worth a header, a free block of its own. */
static void *take(struct classic *classic, header *block, size_t needed)
{
	header *behind = next(classic, block);

	if (block->size - needed >= MIN_BLOCK) {
		header *rest = (header *)((uintptr_t)block + needed);

		rest->prev = (uintptr_t)block;
		rest->size = block->size - needed;
		block->size = needed;
		if (behind != NULL)
			set_previous(behind, rest);
		behind = rest;
	}
	block->prev |= CLASSIC_USED;
	classic->free_bytes -= block->size;
	classic->rover = behind != NULL ? behind : (header *)classic->begin;
	trace(classic, CLASSIC_ALLOCATED, object_of(block), block->size - HEADER_SIZE);
	return object_of(block);
}

void *classic_alloc(struct classic *classic, size_t size_bytes)
{
	header *block = classic->rover;
	size_t needed;

	/* Compared before anything is added, so that sizes near SIZE_MAX cannot wrap. */
	if (size_bytes > classic->max_size || size_bytes > classic->end - classic->begin) {
		trace(classic, CLASSIC_REFUSED, NULL, size_bytes);
		return NULL;
	}
	needed = (HEADER_SIZE + size_bytes + CLASSIC_ALIGNMENT - 1) & ~(CLASSIC_ALIGNMENT - 1);
	if (needed < MIN_BLOCK)
		needed = MIN_BLOCK;
	/* Once round the area, from the rover to the rover. */
	do {
		if (!is_confirmed(classic, block))
			return report(classic, CLASSIC_DAMAGED, object_of(block));
		if (!is_used(block) && block->size >= needed)
			return take(classic, block, needed);
		if (!is_used(block))
			trace(classic, CLASSIC_SKIPPED, object_of(block), block->size - HEADER_SIZE);
		block = next(classic, block);
		if (block == NULL)
			block = (header *)classic->begin;
	} while (block != classic->rover);
	trace(classic, CLASSIC_REFUSED, NULL, size_bytes);
	return NULL;
}

/* What is wrong with a pointer whose header nobody confirms: look for the block that it lies in. O(blocks). */
static enum classic_event explain(const struct classic *classic, const header *pointed)
{
	const header *block = (header *)classic->begin;

	while (has_legal_size(classic, block) && end_of(block) <= (uintptr_t)pointed)
		block = (header *)end_of(block);
	/* Inside free memory: its block was merged into another since it was freed. */
	if (has_legal_size(classic, block) && !is_used(block))
		return CLASSIC_DOUBLE_FREE;
	return block == pointed ? CLASSIC_DAMAGED : CLASSIC_FOREIGN;
}

/* The block of a live object, or NULL and in *event what is wrong with the pointer. */
static header *find(const struct classic *classic, const void *object, enum classic_event *event)
{
	header *block = (header *)((uintptr_t)object - HEADER_SIZE);

	*event = CLASSIC_FOREIGN;
	if (!is_block_address(classic, (uintptr_t)block))
		return NULL;
	if (is_confirmed(classic, block) && is_used(block))
		return block;
	*event = explain(classic, block);
	return NULL;
}

/* Make `block` and the block behind it one. */
static void absorb(struct classic *classic, header *block, header *behind)
{
	header *after = next(classic, behind);

	block->size += behind->size;
	if (after != NULL)
		set_previous(after, block);
	/* The rover must not stay inside a merged block: a header there is only bytes of an object soon. */
	if (classic->rover == behind)
		classic->rover = block;
	/* The header that is gone must not be taken for a block when its object is freed once more. */
	behind->size = 0;
}

void classic_free(struct classic *classic, void *object)
{
	enum classic_event event;
	header *block, *neighbour;

	if (object == NULL)
		return;
	block = find(classic, object, &event);
	if (block == NULL) {
		report(classic, event, object);
		return;
	}
	trace(classic, CLASSIC_FREED, object, block->size - HEADER_SIZE);
	block->prev &= ~CLASSIC_USED;
	classic->free_bytes += block->size;
	neighbour = next(classic, block);
	if (neighbour != NULL && !is_used(neighbour) && is_confirmed(classic, neighbour))
		absorb(classic, block, neighbour);
	neighbour = previous(block);
	if (neighbour != NULL && !is_used(neighbour) && is_confirmed(classic, neighbour))
		absorb(classic, neighbour, block);
}

size_t classic_usable_size(const struct classic *classic, const void *object)
{
	enum classic_event event;
	const header *block = find(classic, object, &event);

	return block != NULL ? block->size - HEADER_SIZE : 0;
}

const char *classic_check(const struct classic *classic)
{
	const header *before = NULL, *block = (header *)classic->begin;
	bool rover_found = false;
	size_t free_bytes = 0;

	for (; block != NULL; before = block, block = next(classic, block)) {
		if (!has_legal_size(classic, block))
			return "a block's size runs past the area, or is below the minimum";
		if (previous(block) != before)
			return "a block does not point back to the block before it";
		if (before != NULL && !is_used(before) && !is_used(block))
			return "two free blocks are side by side";
		if (!is_used(block))
			free_bytes += block->size;
		if (block == classic->rover)
			rover_found = true;
	}
	if (!rover_found)
		return "the rover does not stand on a block";
	return free_bytes == classic->free_bytes ? NULL : "the count of free bytes is wrong";
}

size_t classic_free_blocks(const struct classic *classic)
{
	size_t n = 0;

	for (const header *block = (header *)classic->begin; block != NULL; block = next(classic, block))
		n += !is_used(block);
	return n;
}
