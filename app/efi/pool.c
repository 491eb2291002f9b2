/* SPDX-License-Identifier: MIT */
/*
 * The engine `pool`: the firmware's own AllocatePool and FreePool, to be measured beside the heap. A small header
 * in front of each object keeps it on a list, because the firmware frees nothing by itself and offers no limit.
 * Pool memory is aligned to 8 bytes.
 */
#include "efi_host.h"

#define POOL_ALIGNMENT 8
/* EDK II's own header and trailer, its smallest block, and the size from which it takes whole pages. */
#define FIRMWARE_OVERHEAD 40
#define FIRMWARE_MIN_BLOCK 128
#define FIRMWARE_MAX_BLOCK 2688

struct pool_object {
	struct pool_object *next, *previous;
	size_t size_bytes;
	uintptr_t check; /* the header's own address, changed, while the object is live */
};

_Static_assert(sizeof(struct pool_object) % POOL_ALIGNMENT == 0, "the header keeps the pool's alignment");

#define CHECK_MASK ((uintptr_t)0x706f6f6c706f6f6cu)

static struct pool_object *live;
static size_t live_bytes, charged_bytes, budget_bytes;

/* What an object costs the firmware at most: classes of sizes are up to 5/3 apart, above them it is whole pages. */
static size_t charge(size_t size_bytes)
{
	size_t total = size_bytes + sizeof(struct pool_object) + FIRMWARE_OVERHEAD;

	if (total > FIRMWARE_MAX_BLOCK)
		return (total + EFI_PAGE_SIZE - 1) / EFI_PAGE_SIZE * EFI_PAGE_SIZE;
	return total * 5 / 3 > FIRMWARE_MIN_BLOCK ? total * 5 / 3 : FIRMWARE_MIN_BLOCK;
}

static bool is_live(const struct pool_object *object)
{
	return object->check == ((uintptr_t)object ^ CHECK_MASK);
}

static bool start(struct allocator *engine, struct host *host, size_t budget, const char **why)
{
	(void)host;
	(void)why;
	live = NULL;
	live_bytes = charged_bytes = 0;
	engine->n_errors = 0;
	budget_bytes = budget;
	engine->is_started = true;
	return true;
}

static void *allocate(struct allocator *engine, size_t size_bytes)
{
	struct pool_object *object;
	VOID *memory;

	(void)engine;
	if (size_bytes > budget_bytes || charge(size_bytes) > budget_bytes - charged_bytes ||
	    EFI_ERROR(efi_boot->AllocatePool(EfiLoaderData, size_bytes + sizeof(*object), &memory)))
		return NULL;
	object = memory;
	*object =
		(struct pool_object){ .next = live, .size_bytes = size_bytes, .check = (uintptr_t)object ^ CHECK_MASK };
	if (live)
		live->previous = object;
	live = object;
	live_bytes += size_bytes;
	charged_bytes += charge(size_bytes);
	return object + 1;
}

static void release(struct allocator *engine, void *memory)
{
	struct pool_object *object = memory;

	if (!object)
		return;
	object--;
	if (!is_live(object)) {
		engine->n_errors++;
		return;
	}
	if (object->next)
		object->next->previous = object->previous;
	if (object->previous)
		object->previous->next = object->next;
	else
		live = object->next;
	live_bytes -= object->size_bytes;
	charged_bytes -= charge(object->size_bytes);
	object->check = 0;
	if (EFI_ERROR(efi_boot->FreePool(object)))
		engine->n_errors++;
}

static void stop(struct allocator *engine)
{
	while (live && is_live(live)) {
		release(engine, live + 1);
	}
	live = NULL;
	engine->is_started = false;
}

static size_t usable_size(struct allocator *engine, void *object)
{
	(void)engine;
	return object ? ((struct pool_object *)object - 1)->size_bytes : 0;
}

static bool check(struct allocator *engine, const char **what)
{
	const struct pool_object *previous = NULL;
	size_t bytes = 0;

	(void)engine;
	for (const struct pool_object *object = live; object; object = object->next) {
		if (!is_live(object) || object->previous != previous) {
			*what = "the header of a pool object was overwritten";
			return false;
		}
		bytes += object->size_bytes;
		previous = object;
	}
	if (bytes == live_bytes)
		return true;
	*what = "the live bytes of the pool do not add up";
	return false;
}

static void stats(struct allocator *engine, struct allocator_stats *out)
{
	(void)engine;
	/* The firmware does not tell how many pages its pool holds. */
	*out = (struct allocator_stats){ .live_bytes = live_bytes };
}

static void *bare_alloc(struct allocator *engine, size_t size_bytes)
{
	VOID *memory;

	(void)engine;
	return EFI_ERROR(efi_boot->AllocatePool(EfiLoaderData, size_bytes, &memory)) ? NULL : memory;
}

static void bare_free(struct allocator *engine, void *object)
{
	(void)engine;
	efi_boot->FreePool(object);
}

static const struct allocator_bare bare = { bare_alloc, bare_free, NULL, false, false };

struct allocator efi_engine_pool = {
	.name = "pool",
	.description = "the firmware's AllocatePool and FreePool",
	.alignment = POOL_ALIGNMENT,
	.max_size = SIZE_MAX,
	.is_bounded = true,
	.start = start,
	.stop = stop,
	.alloc = allocate,
	.free = release,
	.usable_size = usable_size,
	.check = check,
	.stats = stats,
	.bare = &bare,
};
