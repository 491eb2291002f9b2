/* SPDX-License-Identifier: MIT */
/*
 * The heap as an engine: a fresh kheap on the host's pages, within the budget. Knows the heap by <kmalloc.h> alone.
 */
#include <kmalloc.h>

#include "allocator.h"
#include "text.h"

/* A heap without a limit begins with so much, as one that several CPUs share would. */
#define UNLIMITED_FIRST ((size_t)4 << 20)

static void on_error(void *ctx, const struct kmalloc_error *error)
{
	(void)ctx;
	engine_heap.n_errors++;
	text_format(engine_heap.last_error, sizeof(engine_heap.last_error), "%s at %p",
	            kmalloc_error_name(error->error_class), error->address);
}

static struct kpage_source host_pages;

static bool get_pages(void *ctx, const struct kpage_request *request, struct kpage_chunk *chunk)
{
	if (host_pages.get(ctx, request, chunk))
		return true;
	engine_heap.is_starved = true;
	return false;
}

static bool start(struct allocator *engine, struct host *host, size_t budget_bytes, const char **why)
{
	struct kheap_config config = {
		.source = { get_pages, host->pages.put, host->pages.ctx },
		.limit_bytes = budget_bytes,
		.on_error = on_error,
		.secret = host->entropy(host),
	};

	host_pages = host->pages;
	engine->is_starved = false;
	engine->n_errors = 0;
	engine->last_error[0] = '\0';
	engine->ctx = kheap_create(NULL, budget_bytes == 0 ? UNLIMITED_FIRST : 0, &config);
	if (engine->ctx == NULL) {
		*why = "The host gave no pages for the heap's first region.";
		return false;
	}
	engine->is_started = true;
	return true;
}

static void stop(struct allocator *engine)
{
	if (engine->ctx != NULL)
		kheap_destroy(engine->ctx);
	engine->ctx = NULL;
	engine->is_started = false;
}

static void *alloc(struct allocator *engine, size_t size_bytes)
{
	return kheap_alloc(engine->ctx, size_bytes, 0);
}

static void release(struct allocator *engine, void *object)
{
	kheap_free(engine->ctx, object);
}

static void *resize(struct allocator *engine, void *object, size_t size_bytes)
{
	return kheap_realloc(engine->ctx, object, size_bytes);
}

static void *alloc_aligned(struct allocator *engine, size_t size_bytes, size_t alignment)
{
	return kheap_alloc_aligned(engine->ctx, size_bytes, alignment, 0);
}

static void *alloc_plain(struct allocator *engine, size_t size_bytes)
{
	return kheap_alloc_aligned(engine->ctx, size_bytes, KMALLOC_ALIGNMENT, 0);
}

static void *resize_plain(struct allocator *engine, void *object, size_t size_bytes)
{
	return kheap_realloc_aligned(engine->ctx, object, size_bytes, KMALLOC_ALIGNMENT);
}

static size_t usable_size(struct allocator *engine, void *object)
{
	return kheap_usable_size(engine->ctx, object);
}

static bool check(struct allocator *engine, const char **what)
{
	static char text[200];
	struct kheap_fault first;
	size_t n = kheap_check(engine->ctx, &first);

	if (n == 0)
		return true;
	text_format(text, sizeof(text), "kheap_check found %zu faults, the first at 0x%zx: %s", n,
	            (size_t)first.address, kheap_fault_name(first.fault_class));
	*what = text;
	return false;
}

static void stats(struct allocator *engine, struct allocator_stats *stats)
{
	struct kheap_stats heap;

	kheap_get_stats(engine->ctx, &heap);
	stats->live_bytes = heap.live_bytes;
	stats->footprint_bytes = heap.footprint_bytes;
}

static size_t peak_footprint(struct allocator *engine)
{
	struct kheap_stats heap;

	kheap_get_stats(engine->ctx, &heap);
	return heap.peak_footprint_bytes;
}

static const struct allocator_bare bare = { alloc, release, resize, true, false };

struct allocator engine_heap = {
	.name = "heap",
	.description = "this heap: slabs, blocks and page runs",
	.alignment = KMALLOC_ALIGNMENT,
	.max_size = PTRDIFF_MAX,
	.is_bounded = true,
	.start = start,
	.stop = stop,
	.alloc = alloc,
	.free = release,
	.realloc = resize,
	.alloc_aligned = alloc_aligned,
	.alloc_plain = alloc_plain,
	.realloc_plain = resize_plain,
	.usable_size = usable_size,
	.check = check,
	.stats = stats,
	.peak_footprint = peak_footprint,
	.bare = &bare,
};
